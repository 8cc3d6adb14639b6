"""How the times of a file can be read: every form that fits, which of them are plausible, and which is right.

Nothing is taken where two plausible readings are left: that is a question, with both and what decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from anomaly_service.errors import GuessError
from anomaly_service.sources import forms, times
from anomaly_service.sources.reasons import Reason
from pipelines.records import Seconds
from pipelines.times import DAY

FITS = 0.95
"""Share of the different texts of a column that a form must read."""

PROBE = 25
"""About so many different texts tell whether a form fits at all."""

OLDEST = 631_152_000
"""1990 in epoch seconds: nobody measures from a time before it."""

CLEARLY = 3.0
"""So many times fewer rows out of order, or holes in the history, decide between two readings."""


@dataclass(frozen=True)
class Reading:
    """One way to read a column of times.

    Attributes:
        form: for ``times.parse_texts``; None is ISO 8601 and epoch numbers.
        at: the moments, row by row, in the order of the file.
        share: of the rows that it reads.
        doubt: why nobody can have meant it; empty where it is plausible.
        descents: share of rows that lie before the row above.
        coverage: of the steps between first and last, the share that has a point: 1 where none is left out.
    """

    form: str | None
    at: times.Times
    share: float
    doubt: str
    descents: float
    coverage: float


def readings(cells: NDArray[np.object_], until: float, *, wanted: str | None = None) -> list[Reading]:
    """Return every reading that fits a column, plain ones first; a wanted form as it is.

    Args:
        until: epoch seconds of now: a history lies before it.
        wanted: a form that somebody named; only that one is tried, and taken wherever it reads most rows.
    """
    names = [wanted] if wanted is not None else [None, *(name for name in forms.FORMS if name != "epoch")]
    unique, index = np.unique(cells.astype(str), return_inverse=True)
    found = []
    for name in names:
        if wanted is None and not _may_fit(unique, name):
            continue
        read = times.parse_texts(unique.astype(object), name)
        if _share(read) < FITS and len(unique) > 1 and wanted is None:
            continue
        at = times.Times(read.seconds[index], read.naive[index], read.reason[index])
        # What somebody names is no longer in doubt where it can be read.
        found.append(_judged(name, at, np.inf if wanted is not None else until))
        # ISO 8601 leaves nothing open; a number may be a day's digits as well.
        if name is None and not found[0].doubt:
            break
    return found


def _may_fit(unique: NDArray[np.str_], name: str | None) -> bool:
    """True where a form reads most of a few texts: all others need not be tried."""
    few = unique[:: max(1, len(unique) // PROBE)].astype(object)
    return _share(times.parse_texts(few, name)) > FITS / 2


def _share(at: times.Times) -> float:
    return float((at.reason == Reason.NONE).mean()) if len(at.reason) else 0.0


def _judged(name: str | None, at: times.Times, until: float) -> Reading:
    seconds = at.seconds[at.reason == Reason.NONE]
    return Reading(name, at, _share(at), _doubt(seconds, until), *_order(seconds))


def _doubt(seconds: Seconds, until: float) -> str:
    """Return why these can be no history: most of it before 1990, or after now and a day."""
    if not len(seconds):
        return "none of them can be read"
    if until == np.inf:
        return ""
    middle = int(np.median(seconds))
    if middle < OLDEST or middle > until + DAY:
        return f"they would lie around {_day(middle)}"
    return ""


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _order(seconds: Seconds) -> tuple[float, float]:
    """Return the share of rows that go against the usual direction, and the coverage."""
    steps = np.diff(seconds)
    back, forth = int((steps < 0).sum()), int((steps > 0).sum())
    moments = np.unique(seconds)
    if len(moments) < 2:
        return 0.0, 1.0
    gaps = np.diff(moments)
    coverage = len(gaps) * float(np.median(gaps)) / float(moments[-1] - moments[0])
    return min(back, forth) / max(len(steps), 1), min(coverage, 1.0)


def decide(found: Sequence[Reading], *, where: str, column: str, cells: NDArray[np.object_]) -> Reading:
    """Return the only reading that is left, by what is plausible and what the order of the rows tells.

    Raises:
        GuessError: none is plausible, or several are and nothing in the file decides.
    """
    good = [reading for reading in found if not reading.doubt]
    if not good:
        raise GuessError(_none_left(found, where, column, cells))
    best = [each for each in good if not any(_beats(other, each) for other in good if other is not each)]
    different = [each for i, each in enumerate(best) if not any(_same(each, one) for one in best[:i])]
    # What lies ahead may be a forecast: where its rows are the ones in order, somebody has to say so.
    different += [each for each in found if each.doubt and _beats(each, different[0])]
    if len(different) > 1:
        raise GuessError(_question(different, where, column, cells))
    return different[0]


def _same(a: Reading, b: Reading) -> bool:
    return bool(np.array_equal(a.at.seconds, b.at.seconds) and np.array_equal(a.at.naive, b.at.naive))


def _beats(a: Reading, b: Reading) -> bool:
    """True where everything that differs clearly speaks for ``a``."""
    if a.share != b.share and not _same(a, b):
        return a.share > b.share
    orderly = b.descents > 0.001 and b.descents > CLEARLY * a.descents
    whole = a.coverage > CLEARLY * b.coverage
    against = a.descents > max(0.001, CLEARLY * b.descents) or b.coverage > CLEARLY * a.coverage
    return (orderly or whole) and not against


def _question(found: Sequence[Reading], where: str, column: str, cells: NDArray[np.object_]) -> str:
    lines = [f"{where}: the times of {column} can be read in {len(found)} ways, and no row decides:"]
    width = max(len(str(each.form)) for each in found)
    for each in found:
        lines.append(f"  --times {each.form or 'epoch':<{width}}  {_rows(each, cells)}")
    lines.append(
        f"name the right one, such as --times {found[0].form or 'epoch'}; in a config: timestamp_format"
    )
    return "\n".join(lines)


def _rows(reading: Reading, cells: NDArray[np.object_]) -> str:
    """Return first and last rows as a reading has them."""
    rows = sorted({0, min(1, len(cells) - 1), len(cells) - 1})
    return ", ".join(f"{cells[i]!s} is {_minute(int(reading.at.seconds[i]))}" for i in rows)


def _minute(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def require_most(reading: Reading, where: str, column: str, cells: NDArray[np.object_]) -> None:
    """Refuse a form that somebody named, and that reads less than half of the rows.

    Raises:
        GuessError: it shows a row that the form does not read.
    """
    if reading.share < FITS / 2:
        odd = cells[int(np.argmax(reading.at.reason != Reason.NONE))]
        raise GuessError(
            f"{where}: {reading.form} reads {reading.share:.0%} of the times of {column}, and not "
            f"{str(odd)!r}; name another with --times: {_forms()}"
        )


def _forms() -> str:
    return ", ".join(forms.FORMS) + ', or such as "%d.%m.%Y %I:%M %p"'


def _none_left(found: Sequence[Reading], where: str, column: str, cells: NDArray[np.object_]) -> str:
    example = f"such as {cells[0]!s}" if len(cells) else "of which there are none"
    doubts = "; ".join(f"{_says(each.form)}: {each.doubt}" for each in found)
    return (
        f"{where}: the times of {column}, {example}, are no history in any reading ({doubts}); which column "
        f"is the time? name it with --time, and its form with --times: {', '.join(forms.FORMS)}, or such as "
        '"%d.%m.%Y %I:%M %p"'
    )


def _says(form: str | None) -> str:
    if form is None:
        return "ISO 8601 or seconds since 1970"
    return forms.FORMS[form].says if form in forms.FORMS else form


def says(form: str | None) -> str:
    """Return a form in words, for what was guessed; empty where there is nothing to say."""
    return "" if form is None else f", read as {form}: {_says(form)}"


def refuse_named_zone(cells: NDArray[np.object_], where: str, column: str) -> None:
    """Refuse times that name their zone by letters: EST is five hours behind here and eleven ahead there.

    Raises:
        GuessError: it says what to write instead.
    """
    match = next((m for m in map(forms.NAMED_ZONE.fullmatch, cells[:500].astype(str)) if m), None)
    if match is None:
        return
    zone, text = match.group(1), str(match.string)
    plain = re.sub(rf"\s*\(?{re.escape(zone)}\)?$", "", text)
    raise GuessError(
        f"{where}: times of {column} such as {text!r} end in {zone}, which is no offset from UTC: more "
        f"than one place means its own by it; write the offset instead, such as {plain}-05:00, or leave "
        f"{zone} out and name the place with --timezone, such as --timezone America/New_York"
    )


CLOCK = r"(?:HE\s?|h)?\d{1,2}(?:[:.h]\d{2})?(?:[:.]\d{2}(?:[.,]\d+)?)?h?(?:\s*[AaPp]\.?[Mm]\.?)?|\d{4}"
"""A time of day by itself: 7, 07:30, 7:30 PM, HE24, 0730."""

YEARS = ("year", "yr", "yyyy", "jahr", "año", "ano", "anio", "année", "annee", "anno", "jaar")
MONTHS = ("month", "mon", "mm", "mo", "monat", "mes", "mês", "mois", "mese", "maand")
DAYS = ("day", "dd", "day_of_month", "dayofmonth", "dom", "tag", "día", "dia", "jour", "giorno", "dag")
HOURS = ("hour", "hr", "hh", "hour_of_day", "hourending", "hour_ending", "he", "stunde", "hora", "heure",
         "ora", "uur", "h")  # fmt: skip
MINUTES = ("minute", "min", "minutes", "mi", "minuto")
CLOCKS = ("time", "time_of_day", "clock", "uhrzeit", "zeit", "heure", "hora", "ora", "tijd", "timeofday",
          *HOURS)  # fmt: skip


def tokens(name: str) -> str:
    """Return a column's name as its words, for comparing: `Hour Ending` is `hour_ending`."""
    return re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")


def split_date(columns: Sequence[str]) -> list[str]:
    """Return the columns of year, month, day, hour and minute, in this order; none without year and month."""
    by_name = {tokens(name): name for name in reversed(columns)}
    parts: list[str] = []
    for names in (YEARS, MONTHS, DAYS, HOURS, MINUTES):
        found = next((by_name[name] for name in names if name in by_name), None)
        if found is None:
            break
        parts.append(found)
    return parts if len(parts) >= 2 else []
