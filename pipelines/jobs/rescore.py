"""Score a span of targets and bring their events up to date: what every job shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.batches import batches, targets_per_task
from pipelines.errors import StaleEventsError
from pipelines.failures import Failed
from pipelines.jobs.assemble import Asked, Part, assemble, context_seconds
from pipelines.jobs.lines import LineBook
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.plan import NEVER, History, histories, pieces
from pipelines.jobs.refit import FirstScores
from pipelines.names import Kind, Status
from pipelines.records import Event, EventChange, Interval, Json, Policy, ScoreBlock, TargetRow, VersionRow
from pipelines.steps import flag
from pipelines.steps.reconcile import reconcile
from pipelines.store import Batch
from pipelines.times import iso_seconds
from pipelines.workers import members
from pipelines.workers.judge import score_targets
from pipelines.workers.tasks import Scored, ScoreTask

NEAR = 0.5
"""Rows from this anomaly_score on are kept where only those near events are."""

DENSE_TARGETS = 500
"""``scores: auto`` keeps every row up to so many targets."""

FLAT_STEPS = 1_000
"""A flat run shows its length only where the span reaches back to its begin, but no further than this."""

TOLD_TIMES = 100
"""Of at most so many times, the newest, an outcome tells how many targets were scored up to them."""

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
    """What a pass changed.

    Attributes:
        failed: ids of targets that were left out.
        kept_from: for every target of whose span a part is not stored any more, from when on it was scored,
            epoch seconds.
    """

    targets: int = 0
    rows: int = 0
    appeared: list[EventChange] = field(default_factory=list)
    changed: list[EventChange] = field(default_factory=list)
    vanished: list[EventChange] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    kept_from: dict[int, int] = field(default_factory=dict)
    scored_at: Counter[int] = field(default_factory=Counter)
    """Of how many targets the newest point that got a live score lies at which time, epoch seconds."""

    def latest(self) -> Json:
        """Return what tells how old points were: times with how many targets or events, the newest."""
        flagged = Counter(c.interval.end for c in self.appeared if c.interval.kind is Kind.ANOMALY)
        told = {"scored_at": self.scored_at, "flagged_at": flagged}
        return {name: sorted(each.items())[-TOLD_TIMES:] for name, each in told.items() if each}

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
            **self._told_clipped(),
        }

    def _told_clipped(self) -> Json:
        """Return what is said of spans that retention has taken a part of: nothing where there is none."""
        if not self.kept_from:
            return {}
        latest = iso_seconds(max(self.kept_from.values()))
        return {
            "clipped": len(self.kept_from),
            "clipped_why": f"what it takes to score times before {latest} is not stored any more "
            "(retention); what lies before stays as it is",
        }


@dataclass(frozen=True)
class _Stretch:
    """A span, widened so that no event and no interval crosses the border of what is flagged.

    Attributes:
        margin: how far apart two intervals may lie and still have to do with each other, seconds.
        kept_from: what is stored is enough to score from here on.
        certain_from: from here on intervals are certain; what lies before was scored because it decides on
            them, and is decided on by what lies before it in turn.
    """

    span: Span
    low: int
    high: int
    versions: tuple[VersionRow, ...]
    margin: int
    kept_from: int
    events: tuple[Event, ...] = ()
    widened: int = 0
    certain_from: int | None = None

    @classmethod
    def of(cls, job: MonitorJob, span: Span, versions: Sequence[VersionRow], kept_from: int) -> _Stretch:
        start = max(span.start, min(kept_from, span.stop))
        span = replace(span, start=start, live_from=max(span.live_from, start))
        margin = _margin(job, span.target, versions)
        return cls(span, span.start, span.stop, tuple(versions), margin, kept_from)


def score_spans(job: MonitorJob, spans: Sequence[Span], *, stage: str, dry_run: bool = False) -> Outcome:
    """Score, flag, reconcile and commit every span; with ``dry_run`` commit nothing.

    Raises:
        StoppedError: the job was asked to stop; the batches so far are committed.
        LostClaimError: another holds the job's claim by now.
        StaleEventsError: each time that events were reconciled, somebody judged one of them meanwhile.
    """
    outcome = Outcome(targets=len(spans))
    versions = job.versions([span.target for span in spans])
    book = LineBook(job, dry_run=dry_run)
    dense = _dense(job)
    todo = [span for span in spans if versions[span.target.id] and book.any]
    finished, done = 0, set[int]()

    def commit(some: Sequence[tuple[_Stretch, Scored]]) -> list[int]:
        return _commit(job, some, outcome, dense=dense, dry_run=dry_run)

    every = _stretches(job, todo, versions, outcome)
    stretches = [each for each in every if each.kept_from < max(each.span.stop, 1)]
    gone = [each for each in every if each.kept_from >= max(each.span.stop, 1)]
    done |= {each.span.target.id for each in gone}
    if not dry_run:
        _pass_over(job, gone)
    while stretches:
        again: list[_Stretch] = []
        for group, scored in _scored(job, stretches, book):
            job.check_stop()
            ready = []
            for stretch, result in zip(group, scored, strict=True):
                if isinstance(result, Failed):
                    job.leave_out(stretch.span.target, f"not scored: {result.why}")
                elif (wider := _wider(stretch, result, job.spec.policy)) is not None:
                    again.append(wider)
                else:
                    ready.append((stretch, result))
            done.update(job.each_stored(ready, lambda each: each[0].span.target, commit))
            finished += len(ready)
            job.on_progress(stage, finished / max(1, len(todo)))
        stretches = again
    outcome.failed = {span.target.id for span in todo} - done
    return outcome


def _stretches(
    job: MonitorJob, spans: Sequence[Span], versions: Mapping[int, list[VersionRow]], outcome: Outcome
) -> list[_Stretch]:
    """Return the spans as far as what is stored is enough to score them; note which are not whole."""
    known = histories([span.target for span in spans], job.series())
    found = []
    for span in spans:
        own = versions[span.target.id]
        kept_from = NEVER if span.first is not None else _kept_from(span, known.get(span.target.id), own)
        if max(span.start, own[0].train_stop) < kept_from:
            outcome.kept_from[span.target.id] = kept_from
        found.append(_Stretch.of(job, span, own, kept_from))
    return found


def _kept_from(span: Span, history: History | None, versions: Sequence[VersionRow]) -> int:
    """Return from when on the points that windows need are stored, and the models that scored them."""
    known = [NEVER]
    if history is not None and history.kept_from > NEVER:
        known.append(history.kept_from + max(context_seconds(version) for version in versions))
    if span.target.pruned_before is not None:
        new = [v.train_stop for v in versions if span.new_versions and v.train_stop >= span.start]
        known.append(min([span.target.pruned_before, *new]))
    return max(known)


def _pass_over(job: MonitorJob, stretches: Sequence[_Stretch]) -> None:
    """Leave behind spans of which nothing is stored any more, or they would be due for ever."""
    if stretches:
        job.store.commit(job.claim, _batch(job, [(each, None) for each in stretches], None, ()))


def _scored(
    job: MonitorJob, stretches: Sequence[_Stretch], book: LineBook
) -> Iterator[tuple[list[_Stretch], list[Scored | Failed]]]:
    groups: dict[int, list[_Stretch]] = {}

    def tasks() -> Iterator[ScoreTask]:
        for group in batches(sorted(stretches, key=_length), _batch_size(stretches)):
            placed = [_placed(stretch, events) for stretch, events in _with_events(job, group)]
            task = _task(job, placed, book)
            groups[id(task)] = placed
            yield task

    for task, scored in job.executor.map(score_targets, tasks()):
        yield groups.pop(id(task)), scored


def _length(stretch: _Stretch) -> int:
    return stretch.high - stretch.low


def _batch_size(stretches: Sequence[_Stretch]) -> int:
    steps = np.mean([_length(stretch) / stretch.span.target.step_seconds for stretch in stretches])
    # Every target brings its context along, about two days of it.
    return targets_per_task(float(steps) + 600)


def _with_events(job: MonitorJob, group: Sequence[_Stretch]) -> list[tuple[_Stretch, list[Event]]]:
    """Return the stretches with every event of their targets that may reach into what is flagged."""
    margin = 4 * max(stretch.margin for stretch in group)
    low, high = (
        min(stretch.low for stretch in group) - margin,
        max(stretch.high for stretch in group) + margin,
    )
    by_target: dict[int, list[Event]] = {stretch.span.target.id: [] for stretch in group}
    for event in job.store.events(list(by_target), low, high):
        by_target[event.target_id].append(event)
    return [(stretch, by_target[stretch.span.target.id]) for stretch in group]


def _margin(job: MonitorJob, target: TargetRow, versions: Sequence[VersionRow]) -> int:
    policy = job.spec.policy
    of = [members.of_version(version) for version in versions]
    flat = max(each[0].recipe.channels[0].usual_flat for each in of)
    steps = 2 * max(policy.missing_after_steps, min(flag.flat_limit(flat), FLAT_STEPS))
    # A run reaches a window beyond the steps that are odd by themselves, and is trimmed to those.
    reach = max(members.longest_seconds(each) for each in of)
    return flag.context_seconds(policy) + steps * target.step_seconds + reach


def _placed(stretch: _Stretch, events: Sequence[Event]) -> _Stretch:
    """Return the stretch widened to hold a margin, and whole every event that touches it."""
    margin = stretch.margin
    low, high = stretch.low - margin, stretch.high + margin
    for event in sorted(events, key=lambda e: -e.interval.end):
        if event.interval.end >= low - margin and event.interval.start <= high:
            low = min(low, event.interval.start - margin)
    for event in sorted(events, key=lambda e: e.interval.start):
        if event.interval.start <= high + margin and event.interval.end >= low:
            high = max(high, event.interval.end + margin)
    low = max(low, _floor(stretch))
    high = min(high, stretch.span.observed_until)
    near = tuple(e for e in events if e.interval.end >= low and e.interval.start < high)
    return replace(stretch, low=low, high=max(high, stretch.high), events=near)


def _floor(stretch: _Stretch) -> int:
    """Return the earliest time that can be scored again."""
    if stretch.span.first is not None:
        return min(int(stretch.span.first.scores.ts[0]), stretch.span.start)
    return max(stretch.versions[0].train_stop, stretch.kept_from)


def _task(job: MonitorJob, stretches: Sequence[_Stretch], book: LineBook) -> ScoreTask:
    asked = [
        Asked(
            target=stretch.span.target,
            parts=tuple(_parts(stretch)),
            settled_until=stretch.span.settled_until,
            observed_until=stretch.span.observed_until,
            first=stretch.span.first,
        )
        for stretch in stretches
    ]
    targets, weights = assemble(job, asked, book)
    return ScoreTask(job.spec, targets, weights)


def _parts(stretch: _Stretch) -> list[Part]:
    found = pieces(stretch.versions, stretch.low, stretch.high)
    first = stretch.span.first
    if first is not None and stretch.low < first.version.train_stop:
        stop = min(first.version.train_stop, stretch.high)
        return [(first.version, stretch.low, stop), *found]
    return found


def _wider(stretch: _Stretch, result: Scored, policy: Policy) -> _Stretch | None:
    """Return the stretch with a wider span where what is busy reaches its border, else None."""
    if stretch.widened >= WIDEN_TIMES or result.busy is None:
        return None
    margin = stretch.margin
    reach = margin * 2**stretch.widened * 4
    low, high = stretch.low, stretch.high
    first, last = result.busy
    certain_from = stretch.certain_from
    if first - low < margin and low > _floor(stretch):
        if policy.cooldown_seconds > 0:
            # A storm: it is followed back no further than what it remembers.
            certain_from = low if certain_from is None else certain_from
            floor = flag.remembered_from(certain_from, policy) - margin
        else:
            floor = _floor(stretch)
        low = min(low, max(low - reach, floor, _floor(stretch)))
    if high - last < margin and high < stretch.span.observed_until:
        high = min(high + reach, stretch.span.observed_until)
    if (low, high) == (stretch.low, stretch.high):
        return None
    return replace(stretch, low=low, high=high, widened=stretch.widened + 1, certain_from=certain_from)


def _commit(
    job: MonitorJob,
    ready: Sequence[tuple[_Stretch, Scored]],
    outcome: Outcome,
    *,
    dense: bool,
    dry_run: bool,
) -> list[int]:
    """Commit what was found, or with ``dry_run`` only note it; return the ids of the targets."""
    stored = {} if dense else _stored(job, ready)
    none = np.empty(0, dtype=np.int64)
    blocks = [
        _kept(stretch, result, stored.get(stretch.span.target.id, none), dense=dense, job=job)
        for stretch, result in ready
    ]
    block = _joined(blocks)
    changes = [change for stretch, result in ready for change in _changes(stretch, result, stretch.events)]
    outcome.note(changes if dry_run else _commit_from_newest(job, ready, block, changes))
    outcome.rows += len(block.ts)
    outcome.scored_at.update(at for stretch, result in ready if (at := _newest_live(stretch, result)))
    return [stretch.span.target.id for stretch, _ in ready]


def _newest_live(stretch: _Stretch, result: Scored) -> int:
    """Return the time of the newest step of the span that got a live score; 0 where none did."""
    span = stretch.span
    live = np.isfinite(result.live) & (result.ts >= max(span.start, span.live_from)) & (result.ts < span.stop)
    return int(result.ts[live].max()) if live.any() else 0


def _commit_from_newest(
    job: MonitorJob,
    ready: Sequence[tuple[_Stretch, Scored]],
    block: ScoreBlock,
    changes: Sequence[EventChange],
) -> Sequence[EventChange]:
    """Commit; where somebody judged an event meanwhile, reconcile anew from the events as they are now."""
    for _ in range(COMMIT_TIMES):
        try:
            job.store.commit(job.claim, _batch(job, ready, block, changes))
        except StaleEventsError:
            ready = [(_as_events_are_now(job, stretch), result) for stretch, result in ready]
            changes = [
                change for stretch, result in ready for change in _changes(stretch, result, stretch.events)
            ]
        else:
            return changes
    job.store.commit(job.claim, _batch(job, ready, block, changes))
    return changes


def _as_events_are_now(job: MonitorJob, stretch: _Stretch) -> _Stretch:
    """Return the stretch with its events as they are stored now.

    Where one goes on beyond the stretch, somebody saw further meanwhile, a tick beside the night: the
    stretch ends before it, as whoever saw less has nothing to say of it.
    """
    events = job.store.events([stretch.span.target.id], stretch.low, stretch.high)
    beyond = [event.interval.start for event in events if event.interval.end >= stretch.high]
    high = min([stretch.high, *beyond])
    return replace(stretch, high=high, events=tuple(e for e in events if e.interval.end < high))


def _batch(
    job: MonitorJob,
    ready: Sequence[tuple[_Stretch, Scored | None]],
    block: ScoreBlock | None,
    changes: Sequence[EventChange],
) -> Batch:
    return Batch(
        models=None if job.models is None else (job.monitor.id, job.models),
        scores=block,
        changes=changes,
        scored_until={stretch.span.target.id: stretch.span.stop for stretch, _ in ready},
        settled_until={stretch.span.target.id: stretch.span.settled_until for stretch, _ in ready},
        scored_from={
            stretch.span.target.id: stretch.span.start for stretch, _ in ready if stretch.span.new_versions
        },
        expect={event.id: event.revision for stretch, _ in ready for event in stretch.events},
    )


def _changes(stretch: _Stretch, result: Scored, events: Sequence[Event]) -> list[EventChange]:
    target = stretch.span.target
    low = _certain_from(stretch, result)
    return reconcile(
        [event for event in events if event.interval.end >= low],
        [_whole(interval, stretch) for interval in result.found if low <= interval.end < stretch.high],
        target_id=target.id,
        span=(low, stretch.high),
        detected_at=stretch.span.stop + target.delay_seconds,
        # What a first model learned from is never scored again.
        joined_within=target.step_seconds if low <= _floor(stretch) else None,
    )


def _certain_from(stretch: _Stretch, result: Scored) -> int:
    """Return from when on the intervals are those that a pass over all history finds."""
    if stretch.certain_from is None or result.busy is None or stretch.low <= _floor(stretch):
        return stretch.low
    begun = result.busy[0] - stretch.low >= stretch.margin
    return stretch.low if begun else stretch.certain_from


def _whole(interval: Interval, stretch: _Stretch) -> Interval:
    """Return the interval as people should see it.

    One that reaches the border of a span inside the history is not open: more is known. A live
    alarm is raised when its step is over and its points are due.
    """
    ongoing = interval.open and stretch.high >= stretch.span.observed_until
    target = stretch.span.target
    raised = interval.detected_at
    if raised is not None:
        raised += target.step_seconds + target.delay_seconds
    return replace(interval, open=ongoing, detected_at=raised)


def _stored(job: MonitorJob, ready: Sequence[tuple[_Stretch, Scored]]) -> dict[int, np.ndarray]:
    """Return the times of rows that an earlier pass kept, by target id.

    They are kept whatever they score now, or they would go on showing what hindsight took back.
    """
    spans = [
        stretch.span for stretch, _ in ready if stretch.span.start < (stretch.span.target.scored_until or 0)
    ]
    if not spans:
        return {}
    ids = [span.target.id for span in spans]
    block = job.store.scores(ids, min(span.start for span in spans), max(span.stop for span in spans))
    return {i: block.ts[block.target == i] for i in ids}


def _kept(
    stretch: _Stretch, result: Scored, stored: np.ndarray, *, dense: bool, job: MonitorJob
) -> ScoreBlock:
    """Return the rows of the span itself that the storage mode keeps."""
    span = stretch.span
    ts = result.ts.astype(np.int64)
    live = ts >= span.live_from
    settled = ts < span.settled_until
    keep = (ts >= span.start) & (ts < span.stop)
    keep &= (live & np.isfinite(result.live)) | (settled & np.isfinite(result.settled))
    if not dense:
        keep &= _near(result, ts, span.target.step_seconds * job.window) | np.isin(ts, stored)
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


def _dense(job: MonitorJob) -> bool:
    if job.spec.scores == "auto":
        return len(job.targets()) <= DENSE_TARGETS
    return job.spec.scores == "dense"
