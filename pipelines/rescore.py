"""Score a span of targets and bring their events up to date: what every job shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines import flag
from pipelines.assemble import Asked, Part, assemble, window_seconds
from pipelines.desk import Desk, batches, targets_per_task
from pipelines.executor import Failed
from pipelines.lines import LineBook
from pipelines.plan import pieces
from pipelines.reconcile import reconcile
from pipelines.records import (
    Event,
    EventChange,
    Interval,
    Json,
    ScoreBlock,
    Status,
    TargetRow,
    VersionRow,
)
from pipelines.refit import FirstScores
from pipelines.score import Scored, ScoreTask, score_targets
from pipelines.store import Batch, StaleEventsError

NEAR = 0.5
"""Rows from this anomaly_score on are kept where only those near events are."""

DENSE_TARGETS = 500
"""``scores: auto`` keeps every row up to so many targets."""

FLAT_STEPS = 1_000
"""A flat run shows its length only where the span reaches back to its begin, but no further than this."""

COMMIT_TIMES = 3
"""How often events are reconciled anew because people judged them while their scores were computed."""

WIDEN_TIMES = 8
"""How often a span is widened after an interval that reaches its border, doubling every time."""


@dataclass(frozen=True)
class Span:
    """What is asked for one target; times are epoch seconds, spans half-open.

    Attributes:
        start, stop: the scores to compute and store.
        live_from: live scores are written from here on; before, they stay what they were.
        settled_until: settled scores are written, and count, below this.
        observed_until: the grid goes up to here; what is missing at its end has stopped.
        first: scores of the span before the first version, where they are new.
        new_versions: the span is everything that the versions trained from its start on change.
    """

    target: TargetRow
    start: int
    stop: int
    live_from: int
    settled_until: int
    observed_until: int
    first: FirstScores | None = None
    new_versions: bool = False


@dataclass
class Outcome:
    """What a pass changed; ``failed`` are the ids of targets that were left out."""

    targets: int = 0
    rows: int = 0
    appeared: list[EventChange] = field(default_factory=list)
    changed: list[EventChange] = field(default_factory=list)
    vanished: list[EventChange] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)

    def note(self, changes: Sequence[EventChange]) -> None:
        for change in changes:
            gone = change.status in (Status.OUTDATED, Status.MERGED)
            kind = self.vanished if gone else self.appeared if change.event_id is None else self.changed
            kind.append(change)

    def summary(self) -> Json:
        return {
            "targets": self.targets,
            "rows": self.rows,
            "appeared": len(self.appeared),
            "changed": len(self.changed),
            "vanished": len(self.vanished),
        }


@dataclass(frozen=True)
class _Job:
    """A span, widened so that no event and no interval crosses the border of what is flagged."""

    span: Span
    low: int
    high: int
    versions: tuple[VersionRow, ...]
    events: tuple[Event, ...]
    widened: int = 0


def score_spans(desk: Desk, spans: Sequence[Span], *, stage: str, dry_run: bool = False) -> Outcome:
    """Score, flag, reconcile and commit every span; with ``dry_run`` commit nothing."""
    outcome = Outcome(targets=len(spans))
    versions = desk.versions([span.target for span in spans])
    book = LineBook(desk, dry_run=dry_run)
    dense = _dense(desk)
    todo = [span for span in spans if versions[span.target.id] and book.any]
    finished, done = 0, set[int]()

    def commit(some: Sequence[tuple[_Job, Scored]]) -> list[int]:
        return _commit(desk, some, outcome, dense=dense, dry_run=dry_run)

    jobs = [_Job(span, span.start, span.stop, tuple(versions[span.target.id]), ()) for span in todo]
    while jobs:
        again: list[_Job] = []
        for group, scored in _scored(desk, jobs, book):
            desk.check_stop()
            ready = []
            for job, result in zip(group, scored, strict=True):
                if isinstance(result, Failed):
                    desk.leave_out(job.span.target, f"not scored: {result.why}")
                elif (wider := _wider(job, result, desk)) is not None:
                    again.append(wider)
                else:
                    ready.append((job, result))
            done.update(desk.each_stored(ready, lambda each: each[0].span.target, commit))
            finished += len(ready)
            desk.on_progress(stage, finished / max(1, len(todo)))
        jobs = again
    outcome.failed = {span.target.id for span in todo} - done
    return outcome


def _scored(
    desk: Desk, jobs: Sequence[_Job], book: LineBook
) -> Iterator[tuple[list[_Job], list[Scored | Failed]]]:
    groups: dict[int, list[_Job]] = {}

    def tasks() -> Iterator[ScoreTask]:
        for group in batches(sorted(jobs, key=_length), _batch_size(jobs)):
            placed = [_placed(desk, job, events) for job, events in _with_events(desk, group)]
            task = _task(desk, placed, book)
            groups[id(task)] = placed
            yield task

    for task, scored in desk.executor.map(score_targets, tasks()):
        yield groups.pop(id(task)), scored


def _length(job: _Job) -> int:
    return job.high - job.low


def _batch_size(jobs: Sequence[_Job]) -> int:
    steps = np.mean([_length(job) / job.span.target.step_seconds for job in jobs])
    # Every target brings its context along, about two days of it.
    return targets_per_task(float(steps) + 600)


def _with_events(desk: Desk, group: Sequence[_Job]) -> list[tuple[_Job, list[Event]]]:
    """Return the jobs with every event of their targets that may reach into what is flagged."""
    margin = 4 * max(_margin(desk, job) for job in group)
    low, high = min(job.low for job in group) - margin, max(job.high for job in group) + margin
    by_target: dict[int, list[Event]] = {job.span.target.id: [] for job in group}
    for event in desk.store.events(list(by_target), low, high):
        by_target[event.target_id].append(event)
    return [(job, by_target[job.span.target.id]) for job in group]


def _margin(desk: Desk, job: _Job) -> int:
    """Return how far apart two intervals may lie and still have to do with each other, seconds."""
    policy = desk.spec.policy
    flat = job.versions[-1].recipe["channels"][0]["usual_flat"]
    steps = 2 * max(policy.missing_after_steps, min(flag.flat_limit(flat), FLAT_STEPS))
    # A run reaches a window beyond the steps that are odd by themselves, and is trimmed to those; and what
    # is an echo depends on the scores a longest window around it.
    reach = max(window_seconds(v) for v in job.versions)
    return flag.context_seconds(policy) + steps * job.span.target.step_seconds + reach


def _placed(desk: Desk, job: _Job, events: Sequence[Event]) -> _Job:
    """Return the job widened to hold a margin, and whole every event that touches it."""
    margin = _margin(desk, job)
    low, high = job.low - margin, job.high + margin
    for event in sorted(events, key=lambda e: -e.interval.end):
        if event.interval.end >= low - margin and event.interval.start <= high:
            low = min(low, event.interval.start - margin)
    for event in sorted(events, key=lambda e: e.interval.start):
        if event.interval.start <= high + margin and event.interval.end >= low:
            high = max(high, event.interval.end + margin)
    low = max(low, _floor(job))
    high = min(high, job.span.observed_until)
    near = tuple(e for e in events if e.interval.end >= low and e.interval.start < high)
    return replace(job, low=low, high=max(high, job.high), events=near)


def _floor(job: _Job) -> int:
    """Return the earliest time that can be scored again."""
    if job.span.first is not None:
        return min(int(job.span.first.scores.ts[0]), job.span.start)
    return job.versions[0].train_stop


def _task(desk: Desk, jobs: Sequence[_Job], book: LineBook) -> ScoreTask:
    asked = [
        Asked(
            target=job.span.target,
            parts=tuple(_parts(job)),
            settled_until=job.span.settled_until,
            observed_until=job.span.observed_until,
            first=job.span.first,
        )
        for job in jobs
    ]
    targets, weights = assemble(desk, asked, book)
    return ScoreTask(desk.spec, targets, weights)


def _parts(job: _Job) -> list[Part]:
    found = pieces(job.versions, job.low, job.high)
    first = job.span.first
    if first is not None and job.low < first.version.train_stop:
        stop = min(first.version.train_stop, job.high)
        return [(first.version, job.low, stop), *found]
    return found


def _wider(job: _Job, result: Scored, desk: Desk) -> _Job | None:
    """Return the job with a wider span where an interval reaches its border, else None."""
    if job.widened >= WIDEN_TIMES:
        return None
    margin = _margin(desk, job)
    reach = margin * 2**job.widened * 4
    low, high = job.low, job.high
    starts = [found.start for found in result.found]
    ends = [found.end for found in result.found]
    if starts and min(starts) - low < margin and low > _floor(job):
        low = max(low - reach, _floor(job))
    if ends and high - max(ends) < margin and high < job.span.observed_until:
        high = min(high + reach, job.span.observed_until)
    if (low, high) == (job.low, job.high):
        return None
    return replace(job, low=low, high=high, widened=job.widened + 1)


def _commit(
    desk: Desk,
    ready: Sequence[tuple[_Job, Scored]],
    outcome: Outcome,
    *,
    dense: bool,
    dry_run: bool,
) -> list[int]:
    """Commit what was found, or with ``dry_run`` only note it; return the ids of the targets."""
    stored = {} if dense else _stored(desk, ready)
    none = np.empty(0, dtype=np.int64)
    blocks = [
        _kept(job, result, stored.get(job.span.target.id, none), dense=dense, desk=desk)
        for job, result in ready
    ]
    block = _joined(blocks)
    changes = [change for job, result in ready for change in _changes(job, result, job.events)]
    outcome.note(changes if dry_run else _commit_from_newest(desk, ready, block, changes))
    outcome.rows += len(block.ts)
    return [job.span.target.id for job, _ in ready]


def _commit_from_newest(
    desk: Desk, ready: Sequence[tuple[_Job, Scored]], block: ScoreBlock, changes: Sequence[EventChange]
) -> Sequence[EventChange]:
    """Commit; where somebody judged an event meanwhile, reconcile anew from the events as they are now."""
    for _ in range(COMMIT_TIMES):
        try:
            desk.store.commit(desk.claim, _batch(ready, block, changes))
        except StaleEventsError:
            ready = [(replace(job, events=tuple(_events_now(desk, job))), result) for job, result in ready]
            changes = [change for job, result in ready for change in _changes(job, result, job.events)]
        else:
            return changes
    desk.store.commit(desk.claim, _batch(ready, block, changes))
    return changes


def _events_now(desk: Desk, job: _Job) -> list[Event]:
    return desk.store.events([job.span.target.id], job.low, job.high)


def _batch(ready: Sequence[tuple[_Job, Scored]], block: ScoreBlock, changes: Sequence[EventChange]) -> Batch:
    return Batch(
        scores=block,
        changes=changes,
        scored_until={job.span.target.id: job.span.stop for job, _ in ready},
        settled_until={job.span.target.id: job.span.settled_until for job, _ in ready},
        scored_from={job.span.target.id: job.span.start for job, _ in ready if job.span.new_versions},
        expect={event.id: event.revision for job, _ in ready for event in job.events},
    )


def _changes(job: _Job, result: Scored, events: Sequence[Event]) -> list[EventChange]:
    target = job.span.target
    return reconcile(
        events,
        [_whole(interval, job) for interval in result.found],
        target_id=target.id,
        span=(job.low, job.high),
        detected_at=job.span.stop + target.delay_seconds,
    )


def _whole(interval: Interval, job: _Job) -> Interval:
    """Return the interval as people should see it.

    One that reaches the border of a span inside the history is not open: more is known. A live
    alarm is raised when its step is over and its points are due.
    """
    ongoing = interval.open and job.high >= job.span.observed_until
    target = job.span.target
    raised = interval.detected_at
    if raised is not None:
        raised += target.step_seconds + target.delay_seconds
    return replace(interval, open=ongoing, detected_at=raised)


def _stored(desk: Desk, ready: Sequence[tuple[_Job, Scored]]) -> dict[int, np.ndarray]:
    """Return the times of rows that an earlier pass kept, by target id.

    They are kept whatever they score now, or they would go on showing what hindsight took back.
    """
    spans = [job.span for job, _ in ready if job.span.start < (job.span.target.scored_until or 0)]
    if not spans:
        return {}
    ids = [span.target.id for span in spans]
    block = desk.store.scores(ids, min(span.start for span in spans), max(span.stop for span in spans))
    return {i: block.ts[block.target == i] for i in ids}


def _kept(job: _Job, result: Scored, stored: np.ndarray, *, dense: bool, desk: Desk) -> ScoreBlock:
    """Return the rows of the span itself that the storage mode keeps."""
    span = job.span
    ts = result.ts.astype(np.int64)
    live = ts >= span.live_from
    settled = ts < span.settled_until
    keep = (ts >= span.start) & (ts < span.stop)
    keep &= (live & np.isfinite(result.live)) | (settled & np.isfinite(result.settled))
    if not dense:
        keep &= _near(result, ts, span.target.step_seconds * desk.window) | np.isin(ts, stored)
    nan = np.full(len(ts), np.nan)
    return ScoreBlock(
        target=np.full(int(keep.sum()), span.target.id, dtype=np.int64),
        ts=ts[keep],
        version=result.version.astype(np.int64)[keep],
        live=np.where(live, result.live, nan)[keep],
        live_anomaly=np.where(live, result.live_anomaly, nan)[keep],
        settled=np.where(settled, result.settled, nan)[keep],
        settled_anomaly=np.where(settled, result.settled_anomaly, nan)[keep],
    )


def _near(result: Scored, ts: np.ndarray, reach: int) -> np.ndarray:
    near = (result.live_anomaly >= NEAR) | (result.settled_anomaly >= NEAR)
    for found in result.found:
        near |= (ts >= found.start - reach) & (ts <= found.end + reach)
    return near


def _joined(blocks: Sequence[ScoreBlock]) -> ScoreBlock:
    names = ScoreBlock.__dataclass_fields__
    return ScoreBlock(**{name: np.concatenate([getattr(b, name) for b in blocks]) for name in names})


def _dense(desk: Desk) -> bool:
    if desk.spec.scores == "auto":
        return len(desk.targets()) <= DENSE_TARGETS
    return desk.spec.scores == "dense"
