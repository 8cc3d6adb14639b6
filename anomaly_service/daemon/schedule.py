"""Which runs are due: a function of sources and monitors, of what ran last, and of the time.

Every source is read on a grid of its own. Ticks and nights of a monitor follow once the sources that
it reads were tried, and do not wait for one longer than one interval of the monitor.

Downtime is caught up once: one read and one tick cover the whole gap, as either takes everything up
to now, and of the nights that were missed the latest is made up, as it covers the fits of all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipelines.jobs.fit_times import nights
from pipelines.monitor import MonitorSpec, NightlyPlan
from pipelines.names import RunKind
from pipelines.records import LastRead, SeriesSpec
from pipelines.times import DAY

UNWATCHED_SECONDS = 300
"""Between two reads of a source where there is no monitor to say how often: as often as most tick."""


@dataclass(frozen=True)
class SourceSchedule:
    """When one source is read."""

    name: str
    every_seconds: int


@dataclass(frozen=True)
class MonitorSchedule:
    """When the work of one monitor is due, and which sources it waits for."""

    id: int
    name: str
    infer_every_seconds: int
    nightly: NightlyPlan
    sources: frozenset[str] = frozenset()

    @classmethod
    def of(cls, monitor_id: int, spec: MonitorSpec, sources: Iterable[str] = ()) -> MonitorSchedule:
        return cls(monitor_id, spec.name, spec.infer_every_seconds, spec.nightly, frozenset(sources))


@dataclass(frozen=True)
class Plan:
    """Everything that happens on schedule."""

    monitors: tuple[MonitorSchedule, ...]
    sources: tuple[SourceSchedule, ...] = ()


def plan(
    monitors: Mapping[int, MonitorSpec], sources: Mapping[str, int | None], series: Iterable[SeriesSpec]
) -> Plan:
    """Return the schedules of monitors and sources that a config declares.

    Args:
        monitors: by id.
        sources: seconds between two reads by name; None where the monitors that read it say how often.
        series: every series there is: they tell who reads what.
    """
    known = list(series)
    scheduled = tuple(
        MonitorSchedule.of(id_, spec, sources_read(spec, sources, known)) for id_, spec in monitors.items()
    )
    return Plan(
        scheduled,
        tuple(SourceSchedule(name, every or _usual(name, scheduled)) for name, every in sources.items()),
    )


def sources_read(spec: MonitorSpec, sources: Collection[str], series: Iterable[SeriesSpec]) -> set[str]:
    """Return which of these sources a monitor reads: of its series, and those that have none yet."""
    delivered, own = set(), set()
    for each in series:
        delivered.add(each.source)
        if each.source not in own and spec.selects(each.metric, each.labels):
            own.add(each.source)
    return {name for name in sources if name in own or name not in delivered}


def _usual(source: str, monitors: Sequence[MonitorSchedule]) -> int:
    """Return the shortest interval of the monitors that read a source, or of all where none does."""
    readers = [monitor for monitor in monitors if source in monitor.sources] or monitors
    return min((monitor.infer_every_seconds for monitor in readers), default=UNWATCHED_SECONDS)


# -- reads ------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class DueRead:
    """A read that should be in the run table by now."""

    scheduled_for: datetime
    source: str


def due_reads(
    sources: Iterable[SourceSchedule], reads: Mapping[str, LastRead], now: datetime
) -> list[DueRead]:
    """Return the reads that are due and not scheduled yet, in order.

    While a read of a source waits, is at work or is tried again, no further one is due: a source that
    hangs for hours is read once when it answers again.
    """
    found = []
    for source in sources:
        last, slot = reads.get(source.name, LastRead()), read_slot(source, now)
        if not last.is_pending and _is_new(slot, last.scheduled_for):
            found.append(DueRead(slot, source.name))
    return sorted(found)


def read_slot(source: SourceSchedule, now: datetime) -> datetime:
    """Return the newest read at or before ``now``, on the UTC grid of the source's ``every``."""
    return _on_grid(now, source.every_seconds)


# -- runs of monitors -------------------------------------------------------------------

Key = tuple[RunKind, int]
"""Kind and monitor of a run."""

LastRuns = Mapping[Key, datetime | None]


@dataclass(frozen=True, order=True)
class DueRun:
    """A run that should be in the run table by now."""

    scheduled_for: datetime
    monitor_id: int
    kind: RunKind


@dataclass(frozen=True)
class Outlook:
    """What monitors have to do.

    Attributes:
        due: runs that are due and not scheduled yet, in the order they should happen.
        held: since when the others wait for their sources.
    """

    due: list[DueRun]
    held: dict[Key, datetime]


def outlook(
    plan: Plan,
    last: LastRuns,
    reads: Mapping[str, LastRead],
    now: datetime,
    held: Mapping[Key, datetime] | None = None,
) -> Outlook:
    """Return which runs are due, and which wait for their sources.

    Args:
        last: when the latest run of a kind and monitor was scheduled for; None or absent where
            there was none.
        reads: what became of the reads of each source.
        held: that of the outlook before.
    """
    sources = {source.name: source for source in plan.sources}
    found = Outlook([], {})
    for monitor in plan.monitors:
        waits_for = [sources[name] for name in monitor.sources]
        for kind, slot in ((RunKind.TICK, tick_slot(monitor, now)), (RunKind.NIGHTLY, night(monitor, now))):
            before = last.get((kind, monitor.id))
            if not _is_new(slot, before):
                continue
            # One that waits since a time to come waits since a clock that was ahead.
            since = min((held or {}).get((kind, monitor.id), now), now)
            if all(_was_tried(source, reads, slot, now) for source in waits_for):
                found.due.append(DueRun(slot, monitor.id, kind))
            elif now - since < _interval(monitor):
                found.held[kind, monitor.id] = since
            else:
                found.due.append(DueRun(_overdue(monitor, kind, slot, before), monitor.id, kind))
    return Outlook(sorted(found.due), found.held)


def _was_tried(source: SourceSchedule, reads: Mapping[str, LastRead], slot: datetime, now: datetime) -> bool:
    """True where a source was tried since the slot, or has no newer time on its own grid to wait for."""
    tried = reads.get(source.name, LastRead()).tried_for
    return tried is not None and tried >= min(slot, read_slot(source, now))


def _overdue(monitor: MonitorSchedule, kind: RunKind, slot: datetime, before: datetime | None) -> datetime:
    """Return the slot of a run that waited long enough.

    Of ticks the one before the newest, where it is not done: the newest still comes at once when the
    source answers.
    """
    earlier = slot - _interval(monitor)
    return earlier if kind is RunKind.TICK and before is not None and _is_new(earlier, before) else slot


def tick_slot(monitor: MonitorSchedule, now: datetime) -> datetime:
    """Return the newest tick at or before ``now``, on the UTC grid of ``infer_every``."""
    return _on_grid(now, monitor.infer_every_seconds)


def night(monitor: MonitorSchedule, now: datetime) -> datetime:
    """Return the newest nightly time at or before ``now``."""
    seconds = int(now.timestamp())
    # Two nights may lie up to 25 hours apart, more where a country skipped a day.
    return _at(nights(monitor.nightly, seconds - 3 * DAY, seconds + 1)[-1])


def _interval(monitor: MonitorSchedule) -> timedelta:
    return timedelta(seconds=monitor.infer_every_seconds)


def _is_new(slot: datetime, last: datetime | None) -> bool:
    return last is None or last < slot


def _on_grid(now: datetime, every_seconds: int) -> datetime:
    seconds = int(now.timestamp())
    return _at(seconds - seconds % every_seconds)


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
