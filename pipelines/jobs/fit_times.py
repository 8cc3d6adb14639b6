"""When nights and scheduled fits fall: functions of config and data time alone.

The daemon, a backfill and a nightly pass all ask here, so a fit that was missed and is made up
later has the training span it would have had on its night.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from functools import lru_cache
from zoneinfo import ZoneInfo

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
    return _slots(plan, start, stop, every=1, phase=0)


def fit_slots(spec: MonitorSpec, key: str, start: int, stop: int) -> list[int]:
    """Return when a target's scheduled fits fall: the ends of their training spans.

    Fits happen on nights, every ``fit_every`` rounded up to whole days. Where the monitor
    staggers, the targets are spread evenly over those days by their key, so that every night
    refits about the same share of them.

    Args:
        key: the target's key.
        start, stop: half-open span, epoch seconds.

    Returns:
        Epoch seconds, ascending.
    """
    every = fit_days(spec)
    phase = zlib.crc32(key.encode()) % every if spec.stagger else 0
    return _slots(spec.nightly, start, stop, every, phase)


def fit_days(spec: MonitorSpec) -> int:
    """Return the days between two scheduled fits of a target."""
    return max(1, -(-spec.fit_every_seconds // DAY))


def _slots(plan: NightlyPlan, start: int, stop: int, every: int, phase: int) -> list[int]:
    slots = (_night(plan.at_seconds, plan.timezone, day) for day in _days(start, stop, every, phase))
    return [slot for slot in slots if start <= slot < stop]


def _days(start: int, stop: int, every: int, phase: int) -> Iterator[int]:
    """Yield the proleptic numbers of the days that may hold a slot, (day + phase) % every == 0."""
    # Local days differ from UTC days by at most one (time zones) and a skipped hour.
    first, last = _day_number(start) - 2, _day_number(stop) + 2
    return iter(range(first + (-(first + phase)) % every, last + 1, every))


def _day_number(ts: int) -> int:
    return datetime.fromtimestamp(ts, UTC).toordinal()


@lru_cache(maxsize=1 << 14)
def _night(at_seconds: int, timezone: str, day: int) -> int:
    """Return the nightly time of a local day, epoch seconds."""
    at = time(at_seconds // 3600, at_seconds // 60 % 60, at_seconds % 60)
    return int(datetime.combine(date.fromordinal(day), at, ZoneInfo(timezone)).timestamp())
