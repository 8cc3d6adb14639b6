"""Known regimes of time: workday and weekend by the clock of the series, and what a calendar names.

A version knows regimes by name, in an order of its own; when they are is looked up where it is applied, so
that a maintenance announced for tomorrow counts before the next fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from dateutil.rrule import rrulestr
from numpy.typing import NDArray

from pipelines.monitor import Period
from pipelines.records import Seconds
from pipelines.steps.season import phases, utc_offsets
from pipelines.times import DAY

WORKDAY, WEEKEND = "workday", "weekend"

SATURDAY = 5
"""Day of the week, from Monday at 0."""

BEGIN = datetime(1973, 1, 1)
"""Rules count from here, a Monday: midnight, Monday, the first of a month or January where they name none."""

Regimes = NDArray[np.uint8]


def names(calendar: Sequence[Period] = ()) -> tuple[str, ...]:
    """Return the regimes that a new version tells apart, in order."""
    named = {period.name for period in calendar if not period.masked} - {WORKDAY, WEEKEND}
    return WORKDAY, WEEKEND, *sorted(named)


def of_steps(ts: Seconds, timezone: str, known: Sequence[str], calendar: Sequence[Period] = ()) -> Regimes:
    """Return the regime of every moment, as its place in ``known``; all of the first where there are none.

    Args:
        ts: epoch seconds, ascending.
        timezone: IANA name of the clock that the series' days follow.
        known: the regimes that a version knows, workday and weekend first.
        calendar: when the others are; of two at a time the later period counts, unknown ones do not.
    """
    if not known or not len(ts):
        return np.zeros(len(ts), dtype=np.uint8)
    _, weekday = phases(ts, utc_offsets(timezone, ts), 7 * DAY, DAY)
    regime = (weekday >= SATURDAY).astype(np.uint8)
    for period in calendar:
        if period.name in known:
            for start, stop in spans(period, timezone, int(ts[0]), int(ts[-1])):
                inside = slice(*np.searchsorted(ts, [start, stop]))
                regime[inside] = known.index(period.name)
    return regime


def spans(period: Period, timezone: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open spans of a period that may touch the seconds from first to last."""
    zone = ZoneInfo(period.timezone or timezone)
    for first_at, end_at in period.spans:
        yield _epoch(datetime.fromisoformat(first_at), zone), _epoch(datetime.fromisoformat(end_at), zone)
    if not period.every:
        return
    # A day more on both sides: local time is at most that far from UTC.
    low = datetime.fromtimestamp(first - period.lasts_seconds - DAY, UTC).replace(tzinfo=None)
    high = datetime.fromtimestamp(last + DAY, UTC).replace(tzinfo=None)
    for year in range(low.year, high.year + 1):
        for start_at in _starts(period.every, year):
            if low <= start_at <= high:
                start = _epoch(start_at, zone)
                yield start, start + period.lasts_seconds


@lru_cache(maxsize=256)
def _starts(every: str, year: int) -> tuple[datetime, ...]:
    """Return the local times of a year at which a rule begins."""
    rule = rrulestr(every, dtstart=BEGIN)
    return tuple(rule.between(datetime(year, 1, 1), datetime(year, 12, 31, 23, 59, 59), inc=True))


def _epoch(local: datetime, zone: ZoneInfo) -> int:
    return int(local.replace(tzinfo=zone).timestamp())
