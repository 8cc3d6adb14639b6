"""Which runs are due: a function of the monitors, of what ran last, and of the time.

Downtime is caught up once: one tick covers the whole gap, as the job scores everything up to now,
and of the nights that were missed the latest is made up, as it covers the fits of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.jobs.fit_times import nights
from pipelines.monitor import MonitorSpec, NightlyPlan
from pipelines.names import RunKind
from pipelines.times import DAY


@dataclass(frozen=True)
class MonitorSchedule:
    """When the work of one monitor is due."""

    id: int
    name: str
    infer_every_seconds: int
    nightly: NightlyPlan

    @classmethod
    def of(cls, monitor_id: int, spec: MonitorSpec) -> MonitorSchedule:
        return cls(monitor_id, spec.name, spec.infer_every_seconds, spec.nightly)


@dataclass(frozen=True, order=True)
class DueRun:
    """A run that should be in the run table by now."""

    scheduled_for: datetime
    monitor_id: int
    kind: RunKind


LastRuns = Mapping[tuple[RunKind, int], datetime | None]


def due(monitors: Sequence[MonitorSchedule], last: LastRuns, now: datetime) -> list[DueRun]:
    """Return the runs that are due and not scheduled yet, in the order they should happen.

    Args:
        last: when the latest run of a kind and monitor was scheduled for; None or absent where
            there was none.
    """
    latest = [
        DueRun(slot, monitor.id, kind)
        for monitor in monitors
        for kind, slot in ((RunKind.TICK, tick_slot(monitor, now)), (RunKind.NIGHTLY, night(monitor, now)))
    ]
    return sorted(run for run in latest if _is_new(run, last.get((run.kind, run.monitor_id))))


def tick_slot(monitor: MonitorSchedule, now: datetime) -> datetime:
    """Return the newest tick at or before ``now``, on the UTC grid of ``infer_every``."""
    seconds = int(now.timestamp())
    return _at(seconds - seconds % monitor.infer_every_seconds)


def night(monitor: MonitorSchedule, now: datetime) -> datetime:
    """Return the newest nightly time at or before ``now``."""
    seconds = int(now.timestamp())
    # Two nights may lie up to 25 hours apart, more where a country skipped a day.
    return _at(nights(monitor.nightly, seconds - 3 * DAY, seconds + 1)[-1])


def _is_new(run: DueRun, last: datetime | None) -> bool:
    return last is None or last < run.scheduled_for


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
