"""Timestamps of every usual kind to whole epoch seconds in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_service.sources import forms
from anomaly_service.sources.reasons import Reason
from pipelines.records import Seconds
from pipelines.times import DAY

LATEST = 9_223_372_036
"""2262-04-11, where 64 bits of nanoseconds end."""

EPOCH_UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (np.inf, 1_000_000_000))
"""Numbers below the limit count so many to a second: 1e11 s is the year 5138, 1e11 ms is 1973."""

DISORDER = 0.25
"""Share of rows that go against the direction of the others from which on they stand in no order."""

FOLD_REACH = 3 * 3600
"""Seconds: a row this soon before an hour that the clock runs through twice leads into its first pass."""

TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Ticks of a second, by Arrow's name of the unit; dates of 64 bits count milliseconds."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_ZONE = r"[Tt ]\d{2}:?\d{2}.*(?:[zZ]|[+-]\d{2}(?::?\d{2})?)"


@dataclass(frozen=True)
class Times:
    """Timestamps of rows, before local ones became UTC.

    Attributes:
        seconds: epoch seconds, of local wall-clock time where ``naive``.
        naive: True where the timestamp carried no zone.
        reason: why a row's timestamp cannot be used; ``Reason.NONE`` where it can.
    """

    seconds: Seconds
    naive: NDArray[np.bool_]
    reason: NDArray[np.uint8]


@dataclass(frozen=True)
class Located:
    """Timestamps in UTC; ``open_fold`` where the rows end inside an hour that may come twice."""

    seconds: Seconds
    reason: NDArray[np.uint8]
    open_fold: bool = False


def kind_of(text: str) -> str:
    """Return ``integer``, ``number``, ``zoned``, ``naive`` or ``unknown`` for one timestamp as text.

    >>> [kind_of(t) for t in ("1491041280", "2024-01-05", "2024-01-05T10:00:00+01:00", "x")]
    ['integer', 'naive', 'zoned', 'unknown']
    """
    import re

    text = text.strip()
    if re.fullmatch(r"[-+]?\d+", text):
        return "integer"
    if re.fullmatch(_NUMBER, text):
        return "number"
    times = parse_texts(np.array([text], dtype=object))
    if times.reason[0] != Reason.NONE:
        return "unknown"
    return "naive" if times.naive[0] else "zoned"


def parse(column: Any, form: str | None = None) -> Times:
    """Return the timestamps of an Arrow array: numbers, timestamps, dates or texts.

    Args:
        form: as in ``parse_texts``.
    """
    import pyarrow as pa

    kind = column.type
    if form in forms.FORMS and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        column, kind = column.cast(pa.string()), pa.string()
    if pa.types.is_dictionary(kind):
        return _by_dictionary(column, form)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _by_dictionary(column.dictionary_encode(), form)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _of_timestamps(column)
    if pa.types.is_string_view(kind):
        return _by_dictionary(column.cast(pa.string()).dictionary_encode(), form)
    if pa.types.is_integer(kind):
        return _of_integers(column)
    return _of_numbers(column)


def parse_texts(texts: NDArray[np.object_], form: str | None = None) -> Times:
    """Return the timestamps of texts, each by itself: what stands beside it does not matter.

    Args:
        form: name of one of ``forms.FORMS``, or a strptime format; ISO 8601 and epoch numbers where None.
    """
    import pandas as pd

    text = pd.Series(texts, dtype="str").str.strip()
    if form in forms.FORMS:
        return _of_form(text, form)
    seconds = np.zeros(len(text), dtype=np.int64)
    reason = np.full(len(text), Reason.BAD_TIME, dtype=np.uint8)
    if form is None:
        number = text.str.fullmatch(_NUMBER).to_numpy(bool)
        zoned = text.str.fullmatch(r".*" + _ZONE).to_numpy(bool) & ~number
    else:
        number, zoned = np.zeros(len(text), bool), np.full(len(text), "%z" in form)
    naive = ~number & ~zoned
    for rows, utc in ((zoned, True), (naive, False)):
        if rows.any():
            at = pd.to_datetime(pd.Index(text[rows]), format=form or "ISO8601", utc=utc, errors="coerce")
            seconds[rows], reason[rows] = _of_index(at)
    if number.any():
        seconds[number], reason[number] = _scaled(text[number].to_numpy(float))
    reason[(text == "").to_numpy(bool)] = Reason.NO_TIME
    return Times(seconds, naive, reason)


def _of_form(text: Any, form: str) -> Times:
    """Return the timestamps of texts that are written in a form of ``forms``."""
    found = forms.read(text, form)
    seconds = np.where(found.ok, found.micros // 1_000_000, 0)
    reason = np.where(found.ok, _range_reason(seconds), Reason.BAD_TIME)
    reason[(text == "").to_numpy(bool)] = Reason.NO_TIME
    return Times(seconds, found.naive & found.ok, reason.astype(np.uint8))


def _of_index(at: Any) -> tuple[Seconds, NDArray[np.uint8]]:
    """Return the seconds of a pandas DatetimeIndex, aware or not, and why some have none."""
    missing = np.asarray(at.isna())
    seconds = np.where(missing, 0, at.as_unit("us").asi8 // 1_000_000)
    reason = np.where(missing, Reason.BAD_TIME, _range_reason(seconds)).astype(np.uint8)
    return seconds, reason


def _range_reason(seconds: Seconds) -> NDArray[np.uint8]:
    outside = (seconds < 0) | (seconds >= LATEST)
    return np.where(outside, Reason.TIME_RANGE, Reason.NONE).astype(np.uint8)


def _by_dictionary(column: Any, form: str | None) -> Times:
    """Return the timestamps of texts; each different text is read once."""
    words = parse_texts(np.array(column.dictionary.to_pylist(), dtype=object), form)
    index = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    missing = index < 0
    if not len(words.seconds):
        return _none(len(index))
    return Times(
        words.seconds[index],
        words.naive[index] & ~missing,
        np.where(missing, Reason.NO_TIME, words.reason[index]).astype(np.uint8),
    )


def _none(n: int) -> Times:
    return Times(np.zeros(n, np.int64), np.zeros(n, bool), np.full(n, Reason.NO_TIME, np.uint8))


def _of_timestamps(column: Any) -> Times:
    import pyarrow as pa

    zone = getattr(column.type, "tz", None)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    # Counted in the unit it has: in another one, what lies far away would come round again.
    days = pa.types.is_date32(column.type)
    ticks = column.cast(pa.int32()).cast(pa.int64()) if days else column.cast(pa.int64())
    count = ticks.fill_null(0).to_numpy(zero_copy_only=False)
    seconds = count * DAY if days else count // TICKS[getattr(column.type, "unit", "ms")]
    reason = np.where(missing, Reason.NO_TIME, _range_reason(seconds)).astype(np.uint8)
    return Times(seconds, np.full(len(seconds), zone is None), reason)


def _of_integers(column: Any) -> Times:
    missing = column.is_null().to_numpy(zero_copy_only=False)
    numbers = column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    seconds, reason = _scaled_integers(numbers)
    return Times(
        seconds, np.zeros(len(seconds), bool), np.where(missing, Reason.NO_TIME, reason).astype(np.uint8)
    )


def _scaled_integers(numbers: Seconds) -> tuple[Seconds, NDArray[np.uint8]]:
    size = np.abs(numbers)
    if len(size) and size.max() >= EPOCH_UNITS[0][0]:
        divisors = np.array([unit for _, unit in EPOCH_UNITS])
        numbers = (
            numbers // divisors[np.searchsorted([limit for limit, _ in EPOCH_UNITS], size, side="right")]
        )
    return numbers, _range_reason(numbers)


def _of_numbers(column: Any) -> Times:
    import pyarrow as pa

    numbers = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
    seconds, reason = _scaled(numbers)
    reason[np.isnan(numbers)] = Reason.NO_TIME
    return Times(seconds, np.zeros(len(seconds), bool), reason)


def _scaled(numbers: NDArray[np.float64]) -> tuple[Seconds, NDArray[np.uint8]]:
    """Return epoch numbers in whole seconds; a fraction belongs to the second it began in."""
    usable = np.isfinite(numbers) & (np.abs(numbers) < 9e18)
    numbers = np.where(usable, numbers, 0.0)
    seconds, reason = _scaled_integers(np.floor(numbers).astype(np.int64))
    return seconds, np.where(usable, reason, Reason.BAD_TIME).astype(np.uint8)


def locate(
    times: Times,
    zone: str | None,
    series: NDArray[np.integer[Any]],
    *,
    before: int | None = None,
    in_order: bool = True,
) -> Located:
    """Return timestamps in UTC, local ones by their zone.

    A local time that the clock skips is refused. One that it runs through twice is told apart by
    the order of the series' rows: before the step back it is the first pass, after it the second;
    without a step back it is the first where the rows lead into it, and refused where nothing does.
    Rows that stand with the newest first are read from their end; where they stand in no order, every
    doubtful one is refused.

    Args:
        series: shape ``(n,)``, which series each row belongs to.
        before: UTC seconds of the row before these, for series that begin in here.
        in_order: rows of a series stand in order of time; False refuses every doubtful one.
    """
    naive = times.naive & (times.reason == Reason.NONE)
    if zone is None or not naive.any():
        reason = np.where(naive, Reason.NO_ZONE, times.reason) if zone is None else times.reason
        return Located(times.seconds, reason.astype(np.uint8))
    if zone in {"UTC", "Etc/UTC", "GMT"}:
        return Located(times.seconds, times.reason)
    # What cannot be used may lie where no calendar reaches.
    local = np.where(naive, times.seconds, 0)
    early, skipped = _in_zone(local, zone, first=True)
    late, _ = _in_zone(local, zone, first=False)
    twice = naive & ~skipped & (early != late)
    seconds = np.where(naive, early, times.seconds)
    reason = np.where(naive & skipped, Reason.SKIPPED_TIME, times.reason)
    # Within the range by the clock on the wall, and outside of it in UTC.
    reason = np.where(reason == Reason.NONE, _range_reason(seconds), reason).astype(np.uint8)
    if not twice.any():
        return Located(seconds, reason)
    back, forth = _directions(seconds, (reason == Reason.NONE) & ~twice, series)
    if not in_order or min(back, forth) > DISORDER * (back + forth):
        return Located(seconds, np.where(twice, Reason.DOUBTFUL_TIME, reason).astype(np.uint8))
    if back > forth:
        turned = _unfold(seconds[::-1], late[::-1], twice[::-1], reason[::-1], series[::-1], None)
        return Located(turned.seconds[::-1], turned.reason[::-1])
    return _unfold(seconds, late, twice, reason, series, before)


def _directions(
    seconds: Seconds, plain: NDArray[np.bool_], series: NDArray[np.integer[Any]]
) -> tuple[int, int]:
    """Return how many plain rows lie before the one above of their series, and how many after it."""
    order = np.argsort(series, kind="stable")
    order = order[plain[order]]
    steps = np.diff(seconds[order])[np.diff(series[order]) == 0]
    return int((steps < 0).sum()), int((steps > 0).sum())


def _in_zone(local: Seconds, zone: str, *, first: bool) -> tuple[Seconds, NDArray[np.bool_]]:
    """Return local wall-clock seconds in UTC, and where the clock skips them."""
    import pandas as pd

    index = pd.DatetimeIndex(local.astype("datetime64[s]"))
    at = index.tz_localize(zone, ambiguous=np.full(len(index), first), nonexistent="NaT")
    missing = np.asarray(at.isna())
    return np.where(missing, 0, at.as_unit("s").asi8), missing


def _unfold(
    early: Seconds,
    late: Seconds,
    twice: NDArray[np.bool_],
    reason: NDArray[np.uint8],
    series: NDArray[np.integer[Any]],
    before: int | None,
) -> Located:
    """Decide, run by run of doubtful rows of one series, which pass each belongs to."""
    order = np.argsort(series, kind="stable")
    order = order[reason[order] == 0]
    of, utc, doubtful = series[order], early[order], twice[order]
    first_of_series = np.append(True, of[1:] != of[:-1])
    begins = doubtful & (first_of_series | ~np.append(False, doubtful[:-1]))
    run = np.cumsum(begins)
    back = doubtful & ~begins & np.append(False, np.diff(utc) < 0)
    starts = np.flatnonzero(begins)
    # Of points an hour apart both passes have one, at the same time by the clock.
    is_pair = np.bincount(run[doubtful] - 1, minlength=len(starts)) == 2
    back |= doubtful & ~begins & np.append(False, np.diff(utc) == 0) & np.append(is_pair, False)[run - 1]
    steps_back = np.cumsum(back)
    second = doubtful & (steps_back > (steps_back[starts] - back[starts])[run - 1])
    previous = np.append(0, utc[:-1])
    previous[first_of_series] = -(10**12) if before is None else before
    lead = utc[starts] - previous[starts]
    led_into = (lead > 0) & (lead <= FOLD_REACH)
    has_step = np.zeros(len(starts), bool)
    has_step[run[second] - 1] = True
    refused = doubtful & ~(led_into | has_step)[run - 1]

    seconds, reason = early.copy(), reason.copy()
    seconds[order[second]] = late[order[second]]
    reason[order[refused]] = Reason.DOUBTFUL_TIME
    last_of_series = np.append(first_of_series[1:], True)
    return Located(seconds, reason, open_fold=bool((doubtful & last_of_series).any()))
