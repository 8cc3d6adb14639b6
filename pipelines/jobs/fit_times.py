"""When nights and scheduled fits fall: functions of config and data time alone.

The daemon, a backfill and a nightly pass all ask here, so a fit that was missed and is made up
later has the training span it would have had on its night.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from functools import lru_cache
from zoneinfo import ZoneInfo

from pipelines.fit_spans import fit_days
from pipelines.monitor import MonitorSpec, NightlyPlan
from pipelines.times import DAY


def nights(plan: NightlyPlan, start: int, stop: int) -> list[int]:
    """Return the nightly times of a span, one for each local day.

    A time of day that the clock skips falls as much later as the clock moved; of one that comes
    twice the first counts.

    Args:
        start, stop: half-open span, epoch seconds.

    Returns:
        Epoch seconds, ascending.
    """
    return _slots(plan, start, stop, lambda day: True)


def fit_slots(
    spec: MonitorSpec, key: str, start: int, stop: int, *, step_seconds: int = 0, begun: int = 0
) -> list[int]:
    """Return when a target's scheduled fits fall: the ends of their training spans.

    Fits happen on nights, every ``fit_every`` rounded up to whole days, or as ``fit_spans`` says for a
    history of that age. Where the monitor staggers, the targets are spread evenly over those days by
    their key, so that every night refits about the same share of them; else equal points are fitted on
    equal nights, whatever they are called.

    Args:
        key: the target's key.
        start, stop: half-open span, epoch seconds.
        step_seconds, begun: the target's step, and when its history begins, epoch seconds.

    Returns:
        Epoch seconds, ascending.
    """
    spread, born = zlib.crc32(key.encode()) if spec.stagger else 0, _day_number(begun)

    def is_fit(day: int) -> bool:
        every = fit_days(spec, step_seconds, max(0, day - born) * DAY)
        return (day + spread % every) % every == 0

    return _slots(spec.nightly, start, stop, is_fit)


def _slots(plan: NightlyPlan, start: int, stop: int, counts: Callable[[int], bool]) -> list[int]:
    slots = (_night(plan.at_seconds, plan.timezone, day) for day in _days(start, stop) if counts(day))
    return [slot for slot in slots if start <= slot < stop]


def _days(start: int, stop: int) -> Iterator[int]:
    """Yield the proleptic numbers of the days that may hold a slot."""
    # Local days differ from UTC days by at most one (time zones) and a skipped hour.
    return iter(range(_day_number(start) - 2, _day_number(stop) + 3))


def _day_number(ts: int) -> int:
    return datetime.fromtimestamp(ts, UTC).toordinal()


@lru_cache(maxsize=1 << 14)
def _night(at_seconds: int, timezone: str, day: int) -> int:
    """Return the nightly time of a local day, epoch seconds."""
    at = time(at_seconds // 3600, at_seconds // 60 % 60, at_seconds % 60)
    return int(datetime.combine(date.fromordinal(day), at, ZoneInfo(timezone)).timestamp())
