"""Gaps of targets that have no model yet: the one rule that asks for none.

What a target has missed while it was learning is an event like any other; once its first version
scores, the same gaps are found on its grid and keep their events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.batches import batches
from pipelines.errors import StaleEventsError
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.plan import History, histories
from pipelines.names import Kind
from pipelines.records import Event, EventChange, Interval, Points, TargetRow
from pipelines.steps import absence, masks, presence
from pipelines.steps.masks import Span
from pipelines.steps.meaning import silent_seconds
from pipelines.steps.reconcile import reconcile
from pipelines.store import Batch
from pipelines.times import WEEK

STEPS = 2_000_000
"""How many points of history are read at once."""

HABIT_SECONDS = 6 * WEEK
"""How far back of a look habits are told from."""

ABSENCE = (Kind.DATA_MISSING, Kind.STALE)


@dataclass(frozen=True)
class _Watched:
    """A target, the half-open span its gaps are sought in, and the events they may belong to."""

    target: TargetRow
    start: int
    stop: int
    events: tuple[Event, ...]


def watch(job: MonitorJob, observed_until: Mapping[int, int], *, whole: bool) -> list[EventChange]:
    """Bring the gaps of targets that were never scored up to date; return what changed.

    Args:
        observed_until: by target id, up to where a missing point is a missing point (exclusive).
        whole: look at all their points; else, which costs next to nothing, only whether they stopped
            or came back.

    Raises:
        LostClaimError: another holds the job's claim by now.
        StaleEventsError: twice in a row somebody judged one of the events meanwhile.
    """
    learning = [t for t in job.targets() if t.scored_until is None and t.id in observed_until]
    known = histories(learning, job.series())
    steps = [(h.newest - h.first) // t.step_seconds for t in learning if (h := known.get(t.id))]
    size = max(1, min(256, STEPS // (max(steps, default=0) + 1)))
    changes: list[EventChange] = []

    def watched(group: Sequence[TargetRow]) -> list[EventChange]:
        try:
            return _watched(job, group, known, observed_until, whole=whole)
        except StaleEventsError:  # somebody judged one of the events meanwhile
            return _watched(job, group, known, observed_until, whole=whole)

    for group in batches((t for t in learning if t.id in known), size):
        changes += job.each_stored(group, lambda target: target, watched)
    return changes


def _watched(
    job: MonitorJob,
    group: Sequence[TargetRow],
    known: Mapping[int, History],
    observed_until: Mapping[int, int],
    *,
    whole: bool,
) -> list[EventChange]:
    absences: dict[int, list[Event]] = {target.id: [] for target in group}
    for event in job.store.events(list(absences), 0, max(observed_until.values()) + 1):
        if event.interval.kind in ABSENCE:
            absences[event.target_id].append(event)
    looks = []
    for target in group:
        start = _start(job, target, known[target.id], absences[target.id], observed_until[target.id])
        if whole or start is not None:
            start = known[target.id].first if whole or start is None else start
            near = tuple(e for e in absences[target.id] if e.interval.end >= start)
            looks.append(_Watched(target, start, observed_until[target.id], near))
    return _commit(job, looks) if looks else []


def _start(
    job: MonitorJob, target: TargetRow, history: History, absences: Sequence[Event], stop: int
) -> int | None:
    """Return from where on a target that stopped, or came back, must be looked at; None for any other."""
    away = [event.interval.start for event in absences if event.interval.kind is Kind.STALE]
    if away:
        return min(away) - target.step_seconds
    missing = stop - 1 - history.complete
    late = missing >= job.spec.policy.missing_after_steps * target.step_seconds
    return history.complete if late else None


def _commit(job: MonitorJob, looks: Sequence[_Watched]) -> list[EventChange]:
    targets = [look.target for look in looks]
    # Habits are told from what came before, too.
    start = min(look.start for look in looks) - HABIT_SECONDS
    points = job.points(targets, start, max(look.stop for look in looks))
    patient = job.leaving_out_zeros(targets)
    changes = [
        change
        for look in looks
        for change in _changes(job, look, points[look.target.id], is_patient=look.target.id in patient)
    ]
    if changes:
        expect = {event.id: event.revision for look in looks for event in look.events}
        job.store.commit(job.claim, Batch(changes=changes, expect=expect))
    return changes


def _usually_absent(look: _Watched, points: Points, *, is_patient: bool) -> list[Span]:
    """Return the spans in which a series usually has no point, or its source may have none."""
    if not len(points.ts):
        return []
    step, timezone = look.target.step_seconds, look.target.timezone
    first, last = int(points.ts[0]), int(points.ts[-1])
    habit = presence.learn(points.ts, first, look.stop, timezone, step)
    grid = np.arange(first, look.stop, step)
    patience = silent_seconds(step) if is_patient else 0
    return [*presence.excused(habit, grid, points.ts, timezone, step), (last + 1, last + 1 + patience)]


def _changes(
    job: MonitorJob, look: _Watched, points: Sequence[Points], *, is_patient: bool
) -> list[EventChange]:
    target = look.target
    calendar = job.spec.calendar_of(target.labels)
    found = absence.between_points(
        points,
        job.spec.policy,
        target.step_seconds,
        start=look.start,
        stop=look.stop,
        names=job.spec.channels,
        masked=masks.of_calendar(calendar, target.timezone, look.start, look.stop),
        usual=[_usually_absent(look, each, is_patient=is_patient) for each in points],
    )
    return reconcile(
        look.events,
        [_dated(job, target, interval) for interval in found],
        target_id=target.id,
        span=(look.start, look.stop),
        detected_at=look.stop,
    )


def _dated(job: MonitorJob, target: TargetRow, interval: Interval) -> Interval:
    """Return the interval with the time at which it had lasted long enough, and its points were due."""
    steps = max(1, job.spec.policy.missing_after_steps)
    return replace(interval, detected_at=interval.start + steps * target.step_seconds + target.delay_seconds)
