"""Which columns of a file hold the time, and in what form it is written there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anomaly_service.errors import GuessError
from anomaly_service.sources import readings, times
from anomaly_service.sources.columns import join_times
from anomaly_service.sources.forms import FORMS, NAMED_ZONE
from anomaly_service.sources.reasons import Reason
from anomaly_service.sources.sample import SURE, Columns, shown

TIME_NAMES = (
    "_time",
    "timestamp",
    "ts",
    "time",
    "datetime",
    "date_time",
    "event_time",
    "date",
    "ds",
    "at",
    "created_at",
)
TIME_WORDS = {
    "timestamp", "datetime", "date", "day", "datum", "tag", "fecha", "data", "jour", "week", "month",
    "period", "zeitpunkt", "zeitstempel", "epoch",
}  # fmt: skip

TEXT_SCORE = 5.0
"""How much more a column looks like the time where it holds texts that are one, whatever its name."""


@dataclass(frozen=True)
class AskedTimes:
    """What somebody said of the times: their columns and their form; empty and None where nobody did."""

    columns: tuple[str, ...] = ()
    form: str | None = None

    def __post_init__(self) -> None:
        if self.form is not None and "%" not in self.form and self.form not in FORMS:
            raise GuessError(
                f"expected a form of times, one of {', '.join(FORMS)}, or a strptime format such as "
                f'"%d.%m.%Y %H:%M"; got {self.form!r}'
            )


def time_columns(time: str | None, columns: Columns) -> tuple[str, ...]:
    """Return the columns that somebody named, a comma between them unless one is called so.

    Raises:
        GuessError: the file has no such column.
    """
    if time is None:
        return ()
    names = (time,) if time in columns else tuple(name.strip() for name in time.split(","))
    missing = [name for name in names if name not in columns]
    if missing:
        raise GuessError(f"no column {', '.join(missing)} for the time; found {', '.join(columns)}")
    return names


@dataclass(frozen=True)
class FoundTimes:
    """The time of a file's rows.

    Attributes:
        columns: that hold it, from left to right.
        form: None is ISO 8601 and epoch numbers.
        at: row by row.
        because: why the keys of a config that say so are as they are.
    """

    columns: tuple[str, ...]
    form: str | None
    at: times.Times
    because: dict[str, str]


@dataclass(frozen=True)
class Finder:
    """Looks for the time of one file.

    Attributes:
        now: epoch seconds; a history lies before it. The clock of this machine where None.
    """

    file: Path
    columns: Columns
    asked: AskedTimes
    now: float | None

    def find(self) -> FoundTimes:
        """Return the time of the file's rows.

        Raises:
            GuessError: no column holds times, or they can be read in several ways and nothing decides.
        """
        names = self._time()
        cells = self._cells(names)
        joined = ", ".join(names)
        if self.asked.form is None:
            readings.refuse_named_zone(cells, str(self.file), joined)
        until = datetime.now(UTC).timestamp() if self.now is None else self.now
        found = readings.readings(cells, until, wanted=self.asked.form)
        if not found:
            raise GuessError(self._no_time())
        if self.asked.form is not None:
            readings.require_most(found[0], str(self.file), joined, cells)
        best = readings.decide(found, where=str(self.file), column=joined, cells=cells)
        return FoundTimes(names, best.form, best.at, self._because(names, best.form))

    def _cells(self, names: Sequence[str]) -> Any:
        """Return the texts of the time: of several columns joined, as the source will read them."""
        if len(names) == 1:
            return self.columns[names[0]].to_numpy(object)
        return join_times([self.columns[name] for name in names]).to_numpy(object)

    def _time(self) -> tuple[str, ...]:
        """Return the columns that hold the time, from left to right."""
        if self.asked.columns:
            return self.asked.columns
        found = [(self._time_score(name), name) for name in self.columns]
        score, name = max(found, key=lambda pair: pair[0], default=(0.0, ""))
        parts = readings.split_date(list(self.columns))
        if parts and score < TEXT_SCORE:
            return tuple(parts)
        if score <= 0:
            raise GuessError(self._no_time())
        clock = self._clock_beside(name)
        return (name,) if clock is None else (name, clock)

    def _no_time(self) -> str:
        return (
            f"{self.file}: no column looks like a time; columns: {shown(self.columns)}; expected ISO 8601 "
            "such as 2024-01-31 12:00:00, or epoch seconds. Other forms are named: --time COLUMN and --times "
            f'FORM, one of {", ".join(FORMS)}, or such as "%d.%m.%Y %I:%M %p"'
        )

    def _clock_beside(self, date: str) -> str | None:
        """Return the column that holds the time of day, where the one of the date holds none."""
        if self.columns[date].head(500).str.contains(r"\d:\d", regex=True).any():
            at_midnight = self.columns[date].head(500).str.contains(r"[T ]00:00(?::00(?:\.0+)?)?$").mean()
            if at_midnight < SURE:
                return None
        by_name = {readings.tokens(name): name for name in reversed(list(self.columns)) if name != date}
        named = [by_name[name] for name in readings.CLOCKS if name in by_name]
        return next((name for name in named if self._is_clock(name)), None)

    def _is_clock(self, name: str) -> bool:
        cells = self.columns[name].drop_duplicates().head(2000)
        return bool(cells.str.fullmatch(readings.CLOCK).mean() >= SURE)

    def _time_score(self, name: str) -> float:
        """Return how much a column looks like the time; 0 and less: not at all."""
        cells = self.columns[name].drop_duplicates().head(500)
        is_number = cells.str.fullmatch(r"[-+]?\d+(?:[.,]\d+)?").mean() > SURE
        by_name = _named_like_time(name)
        # Most columns of a wide file are no time, and every form that is tried takes its time.
        if is_number and not by_name and not cells.str.fullmatch(r"\d{6,19}(?:\.\d+)?").any():
            return 0.0
        # What lies ahead is judged later, with a message of its own.
        found = readings.readings(cells.to_numpy(object), 4_102_444_800)
        if not found and cells.map(lambda text: bool(NAMED_ZONE.fullmatch(text))).mean() < SURE:
            return 0.0
        if not is_number:
            return by_name + TEXT_SCORE
        # Numbers are a time by their name, or because they lie between 2000 and 2100 and are not few.
        recent = [each for each in found if each.form != "excel-days" and _is_recent(each.at)]
        if not by_name and not (recent and len(cells) > 2):
            return 0.0
        return by_name + 1.0

    def _because(self, time: Sequence[str], form: str | None) -> dict[str, str]:
        first = repr(str(self._cells(time)[0]))
        whose = "named by --time" if self.asked.columns else "what looks like a time"
        joined = "" if len(time) == 1 else ", joined with a space between"
        found = {"timestamp": f"{whose}{joined}, such as {first}"}
        if form is not None:
            whose = "as --times says" if self.asked.form else "fits all rows"
            found["timestamp_format"] = f"{whose}: {readings.says(form).partition(': ')[2]}"
        return found


def _is_recent(at: times.Times) -> bool:
    """True where all that can be read lies between 2000 and 2100."""
    seconds = at.seconds[at.reason == Reason.NONE]
    return bool(((seconds > 946_684_800) & (seconds < 4_102_444_800)).all())


def _named_like_time(name: str) -> float:
    """Return how much a column's name is that of a time; 0 where it is not."""
    if name.lower() in TIME_NAMES:
        return float(len(TIME_NAMES) - TIME_NAMES.index(name.lower()))
    return 0.5 if TIME_WORDS & set(readings.tokens(name).split("_")) else 0.0
