"""The jobs a schedule or a person starts: tick, nightly, fit, backfill, rescore.

Each raises StoppedError where it was asked to stop, LostClaimError where another holds its claim by now,
StaleEventsError where people kept judging the events that it writes, WorkerDiedError where work killed its
worker every time, and what the store raises. What it committed stands; run again, it does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.errors import StaleModelsError
from pipelines.jobs import left_targets
from pipelines.jobs.early_gaps import watch
from pipelines.jobs.fit_times import nights
from pipelines.jobs.group_loans import due_loans, lend
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.news import news_by_source
from pipelines.jobs.plan import histories
from pipelines.jobs.recalibrate import recalibrate
from pipelines.jobs.refit import Due, FirstScores, Refitted, due, refit
from pipelines.jobs.rescore import Outcome, Span, score_spans
from pipelines.jobs.suggestions_pass import advise
from pipelines.records import EventChange, Json, TargetRow, VersionRow
from pipelines.store import Batch
from pipelines.times import DAY

TICK_TIMES = 3
"""How often a tick scores anew because the models it scored by were replaced meanwhile."""

TICK_SECONDS = 7 * DAY
"""The most one live tick scores of a target, so that catching up after downtime goes in bounded bites."""


@dataclass(frozen=True)
class Reach:
    """How far a target can be scored; epoch seconds, exclusive.

    Attributes:
        points: just after its newest point that is due.
        observed: up to where a missing point is a missing point.
    """

    points: int
    observed: int


def tick(job: MonitorJob, now: int) -> Json:
    """Score what came since the last tick, at most a week of it; ``more`` says that some is left.

    Raises:
        StaleModelsError: each time that it scored, models stood anew meanwhile.
    """
    tries = TICK_TIMES
    while True:
        tries -= 1
        job = replace(job, models=job.store.models(job.monitor.id))
        try:
            done = _tick(job, now)
        except StaleModelsError:
            # A night beside it drew its lines: what is left is judged by those.
            if not tries:
                raise
        else:
            return {**done, "suggested": advise(job), **job.told_left_out()}


def _tick(job: MonitorJob, now: int) -> Json:
    reach = _reach(job, now)
    away = [*left_targets.close(job), *_watched(job, reach, whole=False)]
    spans = _new_spans(job, _lent_meanwhile(job, now), {}, now)
    behind: set[int] = set()
    for target in job.targets():
        if target.id not in reach or target.scored_until is None:
            continue
        stop = min(max(reach[target.id].points, target.scored_until), target.scored_until + TICK_SECONDS)
        behind |= {target.id} if stop < reach[target.id].points else set()
        spans.append(_live_span(target, stop, reach[target.id]))
    outcome = score_spans(job, spans, stage="score")
    outcome.note(away)
    # One that was left out stands where it stood: more of it now would be the same again.
    return {**outcome.summary(), **outcome.latest(), "more": bool(behind - outcome.failed)}


def _lent_meanwhile(job: MonitorJob, now: int) -> list[VersionRow]:
    """Lend targets that were never scored their group's model, so that they need not wait for the night.

    Only what no fit that is still due could change; one with a long history waits for the night, which
    may take longer than a tick.
    """
    fresh = [t for t in job.targets() if t.scored_until is None] if job.spec.scope == "group" else []
    known = histories(fresh, job.series())
    young = [t for t in fresh if t.id in known and known[t.id].first > now - TICK_SECONDS]
    if not young:
        return []
    until = min([now, *(each.slot - 1 for each in due(job, now))])
    return lend(job, due_loans(job, until, targets=young))


def _watched(job: MonitorJob, reach: Mapping[int, Reach], *, whole: bool) -> list[EventChange]:
    """Bring the gaps of targets without a model up to date; return what changed."""
    return watch(job, {target_id: each.observed for target_id, each in reach.items()}, whole=whole)


def _live_span(target: TargetRow, stop: int, reach: Reach) -> Span:
    assert target.scored_until is not None
    observed = reach.observed if stop >= reach.points else stop
    return Span(
        target=target,
        start=target.scored_until,
        stop=stop,
        live_from=target.scored_until,
        settled_until=target.settled_until or 0,
        observed_until=max(observed, stop),
    )


def fit(job: MonitorJob, now: int) -> Json:
    """Fit what is due, then score what that changes."""
    _watched(job, _reach(job, now), whole=True)
    done = _refitted(job, due(job, now), now)
    outcome = score_spans(job, _all_new_spans(job, done, now), stage="score")
    return {**done.summary(), **outcome.summary(), "suggested": advise(job), **job.told_left_out()}


def _refitted(
    job: MonitorJob,
    wanted: Sequence[Due],
    until: int,
    *,
    missing: bool = False,
    generation: int = 0,
    again_from: int | None = None,
) -> Refitted:
    """Fit what is wanted, lend to those who have nothing, then hold all calibrations against the scores."""
    done = refit(job, wanted, generation=generation)
    loans = due_loans(job, until, missing=missing, again_from=again_from)
    done.lent += lend(job, loans, generation=generation)
    since = [at for at in (again_from, done.anew_from) if at is not None]
    done.refused += recalibrate(job, until, again_from=min(since, default=None))
    job.store.models_stand(job.claim, job.monitor.id)
    return done


def nightly(job: MonitorJob, at: int, now: int) -> Json:
    """Bring live scores up to date, fit and calibrate what is due, rescore the late window with hindsight.

    Args:
        at: the night this run is scheduled for, epoch seconds; decides what is due.
        now: up to where points are due, epoch seconds.
    """
    # What came after the night waits for its models and lines: they are in force from then on.
    ticked = _caught_up(job, min(at, now))
    _watched(job, _reach(job, now), whole=True)
    done = _refitted(job, due(job, at), at)
    spans = _all_new_spans(job, done, now)
    fresh = score_spans(job, [*spans, *_overtaken(job, min(at, now), now, spans)], stage="score")
    since = _caught_up(job, now)
    settled = settle(job, at - job.spec.nightly.window_seconds, at, now)
    return {
        "ticked": ticked,
        **done.summary(),
        "fresh": fresh.summary(),
        "since": since,
        "settled": settled.summary(),
        "suggested": advise(job),
        **job.told_left_out(),
    }


def _overtaken(job: MonitorJob, at: int, now: int, besides: Sequence[Span]) -> list[Span]:
    """Return what ticks scored of the time after a night before its models and lines stood.

    Args:
        besides: spans that are scored anyway.
    """
    reach = _reach(job, now)
    done = {span.target.id for span in besides}
    spans = []
    for target in job.targets():
        if target.id in done or target.id not in reach or (target.scored_until or 0) <= at + 1:
            continue
        again = replace(target, scored_until=at + 1)
        spans.append(_live_span(again, target.scored_until or 0, reach[target.id]))
    return spans


def _caught_up(job: MonitorJob, now: int) -> Json:
    """Tick until nothing is left up to a time; return what the last tick did."""
    ticked = _tick(job, now)
    while ticked["more"]:
        ticked = _tick(job, now)
    return ticked


def backfill(job: MonitorJob, now: int) -> Json:
    """Step through data time as the daemon would have: every fit on its night, every score unseen."""
    away = _watched(job, _reach(job, now), whole=True)
    done = _refitted(job, due(job, now, missing=True), now, missing=True)
    outcome = score_spans(job, _all_new_spans(job, done, now), stage="score")
    outcome.note(away)
    ticked = _tick(job, now)
    return {
        **done.summary(),
        **outcome.summary(),
        "more": ticked["more"],
        "suggested": advise(job),
        **job.told_left_out(),
    }


def rescore(
    job: MonitorJob, start: int, stop: int, now: int, *, again: bool = False, dry_run: bool = False
) -> Outcome:
    """Score a span again with hindsight; with ``again`` by models that are fitted anew for it.

    The last of the new models scores on beyond the span, so with ``again`` all that follows is scored too.
    """
    if again and not dry_run:
        generation = 1 + max(
            (v.origin.generation for rows in job.versions(job.targets()).values() for v in rows),
            default=0,
        )
        wanted = [d for d in due(job, stop, again_from=start) if d.slot >= start]
        _refitted(job, wanted, max(stop, now), generation=generation, again_from=start)
        stop = max(stop, now)
    outcome = settle(job, start, stop, now, dry_run=dry_run, new_versions=again)
    if not dry_run:
        advise(job)
    return outcome


def settle(
    job: MonitorJob, start: int, stop: int, now: int, *, dry_run: bool = False, new_versions: bool = False
) -> Outcome:
    """Rescore a span: points that all covering windows lie behind get their settled score.

    Args:
        new_versions: the versions of the span were fitted for this.
    """
    reach = _reach(job, now)
    spans = [
        replace(_settled_span(job, target, reach[target.id], start, stop), new_versions=new_versions)
        for target in job.targets()
        if target.id in reach and target.scored_until is not None
    ]
    spans = [span for span in spans if span.start < span.stop]
    return score_spans(job, spans, stage="rescore", dry_run=dry_run)


def _settled_span(job: MonitorJob, target: TargetRow, reach: Reach, start: int, stop: int) -> Span:
    assert target.scored_until is not None
    stop = min(stop, target.scored_until)
    settled = max(target.settled_until or 0, _settled_until(job, target, stop))
    # What became settled since the last pass is rescored however long ago that was.
    start = min(start, target.settled_until or start)
    return Span(
        target=target,
        start=start,
        stop=stop,
        live_from=target.scored_until,
        settled_until=settled,
        observed_until=max(reach.observed, target.scored_until),
    )


def _settled_until(job: MonitorJob, target: TargetRow, stop: int) -> int:
    """Return up to where all that decides on a point's settled score lies before ``stop``."""
    return stop - job.settled_after * target.step_seconds


def _all_new_spans(job: MonitorJob, done: Refitted, now: int) -> list[Span]:
    return _new_spans(job, [*done.versions, *done.lent], done.unseen, now, done.anew_from)


def _new_spans(
    job: MonitorJob,
    versions: Sequence[VersionRow],
    unseen: Mapping[int, FirstScores],
    now: int,
    anew_from: int | None = None,
) -> list[Span]:
    """Return what new versions score: everything from the end of the earliest one's training on.

    Args:
        anew_from: from here on lines are other ones for all targets.
    """
    reach = _reach(job, now)
    since: dict[int, int] = {}
    for version in versions:
        since[version.target_id] = min(since.get(version.target_id, version.train_stop), version.train_stop)
    targets = {target.id: target for target in job.targets()}
    if anew_from is not None:
        begun = [i for i, target in targets.items() if (target.scored_until or 0) > anew_from]
        since |= {i: min(since.get(i, anew_from), anew_from) for i in begun}
    # A loan before the first fit has scored what that fit's unseen scores would.
    own = job.versions([targets[i] for i in unseen if i in targets])
    unseen = {i: first for i, first in unseen.items() if i in own and _is_earliest(first.version, own[i])}
    spans = [
        _new_span(job, targets[i], reach[i], start, unseen.get(i), now)
        for i, start in since.items()
        if i in reach
    ]
    nothing = {span.target.id: span.start for span in spans if span.start >= span.stop}
    if nothing:
        # A version of this very moment: no point is newer, so there is nothing to score (again) yet.
        job.store.commit(job.claim, Batch(scored_from=nothing, scored_until=nothing))
    return [span for span in spans if span.start < span.stop]


def _is_earliest(version: VersionRow, versions: Sequence[VersionRow]) -> bool:
    return all(version.train_stop <= each.train_stop for each in versions)


def _new_span(
    job: MonitorJob, target: TargetRow, reach: Reach, start: int, first: FirstScores | None, now: int
) -> Span:
    if first is not None:
        start = live_from = int(first.scores.ts[0])
    elif target.scored_until is None:
        live_from = start
    else:
        # Before the new version's time live scores stay what they were when their points came.
        live_from = min(start, target.scored_until)
        start = min(live_from, target.settled_until or live_from)
    stop = max(reach.points, target.scored_until or 0)
    night = _last_night(job, min(stop, now))
    settled = _settled_until(job, target, min(night, stop))
    if first is not None:
        # Cross-fitted scores have all their windows already, and are never computed again.
        settled = max(settled, first.version.train_stop)
    return Span(
        target=target,
        start=start,
        stop=stop,
        live_from=live_from,
        settled_until=max(target.settled_until or 0, settled),
        observed_until=max(reach.observed, stop),
        first=first,
        new_versions=True,
    )


def _last_night(job: MonitorJob, at: int) -> int:
    """Return the last nightly time that has passed: what lies before it is settled."""
    return nights(job.spec.nightly, at - 3 * DAY, at + 1)[-1]


def _reach(job: MonitorJob, now: int) -> dict[int, Reach]:
    """Return how far each target with points can be scored.

    For a source that delivers, or once did, time goes on at ``now``; for an archive it stands still at
    the end, so that years-old data raise no alarm for having stopped.
    """
    targets, series = job.targets(), job.series()
    known = histories(targets, series)
    news = news_by_source(series.values())
    out = {}
    for target in targets:
        if target.id in known:
            rows = [series[i] for i in target.series_ids]
            last = known[target.id].newest
            own = [news[row.spec.source] for row in rows]
            if any(each.is_live(now) for each in own):
                due_until = now - target.delay_seconds + 1
                told = max(each.told_until(row, now) for each, row in zip(own, rows, strict=True))
                points = min(last + 1, due_until)
                out[target.id] = Reach(points, max(points, told - target.delay_seconds + 1))
            else:
                due_until = min(max(each.newest for each in own), now) + 1
                out[target.id] = Reach(min(last + 1, due_until), due_until)
    return out
