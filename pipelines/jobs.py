"""The jobs a schedule or a person starts: tick, nightly, backfill, rescore."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.advise import advise
from pipelines.channels import Wanted
from pipelines.desk import Desk
from pipelines.fit import MIN_WINDOWS, least_seconds
from pipelines.lend import due_loans, lend
from pipelines.monitor import MonitorSpec
from pipelines.plan import History, histories, ready_by
from pipelines.recalibrate import recalibrate
from pipelines.records import EventChange, Json, SeriesRow, TargetRow, VersionRow
from pipelines.refit import Due, FirstScores, Refitted, due, refit
from pipelines.rescore import Outcome, Span, score_spans
from pipelines.slots import DAY, nights
from pipelines.store import Batch
from pipelines.watch import watch

LIVE_SECONDS = DAY
"""A source whose newest point is older than this is history: time stands still at that point."""

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


def tick(desk: Desk, now: int) -> Json:
    """Score what came since the last tick, at most a week of it; ``more`` says that some is left."""
    return {**_tick(desk, now), "suggested": advise(desk), **desk.told_left_out()}


def _tick(desk: Desk, now: int) -> Json:
    reach = _reach(desk, now)
    away = _watched(desk, reach, whole=False)
    spans = _new_spans(desk, _lent_meanwhile(desk, now), {}, now)
    behind: set[int] = set()
    for target in desk.targets():
        if target.id not in reach or target.scored_until is None:
            continue
        stop = min(max(reach[target.id].points, target.scored_until), target.scored_until + TICK_SECONDS)
        behind |= {target.id} if stop < reach[target.id].points else set()
        spans.append(_live_span(target, stop, reach[target.id]))
    outcome = score_spans(desk, spans, stage="score")
    outcome.note(away)
    # One that was left out stands where it stood: more of it now would be the same again.
    return {**outcome.summary(), "more": bool(behind - outcome.failed)}


def _lent_meanwhile(desk: Desk, now: int) -> list[VersionRow]:
    """Lend targets that were never scored their group's model, so that they need not wait for the night.

    Only what no fit that is still due could change; one with a long history waits for the night, which
    may take longer than a tick.
    """
    fresh = [t for t in desk.targets() if t.scored_until is None] if desk.spec.scope == "group" else []
    known = histories(fresh, desk.series())
    young = [t for t in fresh if t.id in known and known[t.id].first > now - TICK_SECONDS]
    if not young:
        return []
    until = min([now, *(each.slot - 1 for each in due(desk, now))])
    return lend(desk, due_loans(desk, until, targets=young))


def _watched(desk: Desk, reach: Mapping[int, Reach], *, whole: bool) -> list[EventChange]:
    """Bring the gaps of targets without a model up to date; return what changed."""
    return watch(desk, {target_id: each.observed for target_id, each in reach.items()}, whole=whole)


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


def fit(desk: Desk, now: int) -> Json:
    """Fit what is due, then score what that changes."""
    _watched(desk, _reach(desk, now), whole=True)
    done = _refitted(desk, due(desk, now), now)
    outcome = score_spans(desk, _all_new_spans(desk, done, now), stage="score")
    return {**done.summary(), **outcome.summary(), "suggested": advise(desk), **desk.told_left_out()}


def _refitted(
    desk: Desk,
    wanted: Sequence[Due],
    until: int,
    *,
    missing: bool = False,
    generation: int = 0,
    again_from: int | None = None,
) -> Refitted:
    """Fit what is wanted, lend to those who have nothing, then hold all calibrations against the scores."""
    done = refit(desk, wanted, generation=generation)
    loans = due_loans(desk, until, missing=missing, again_from=again_from)
    done.lent += lend(desk, loans, generation=generation)
    done.refused += recalibrate(desk, until, again_from=again_from)
    return done


def nightly(desk: Desk, at: int, now: int) -> Json:
    """Bring live scores up to date, fit and calibrate what is due, rescore the late window with hindsight.

    Args:
        at: the night this run is scheduled for, epoch seconds; decides what is due.
        now: up to where points are due, epoch seconds.
    """
    # What came after the night waits for its models and lines: they are in force from then on.
    ticked = _caught_up(desk, min(at, now))
    _watched(desk, _reach(desk, now), whole=True)
    done = _refitted(desk, due(desk, at), at)
    fresh = score_spans(desk, _all_new_spans(desk, done, now), stage="score")
    since = _caught_up(desk, now)
    settled = settle(desk, at - desk.spec.nightly.window_seconds, at, now)
    return {
        "ticked": ticked,
        **done.summary(),
        "fresh": fresh.summary(),
        "since": since,
        "settled": settled.summary(),
        "suggested": advise(desk),
        **desk.told_left_out(),
    }


def _caught_up(desk: Desk, now: int) -> Json:
    """Tick until nothing is left up to a time; return what the last tick did."""
    ticked = _tick(desk, now)
    while ticked["more"]:
        ticked = _tick(desk, now)
    return ticked


def backfill(desk: Desk, now: int) -> Json:
    """Step through data time as the daemon would have: every fit on its night, every score unseen."""
    away = _watched(desk, _reach(desk, now), whole=True)
    done = _refitted(desk, due(desk, now, missing=True), now, missing=True)
    outcome = score_spans(desk, _all_new_spans(desk, done, now), stage="score")
    outcome.note(away)
    ticked = _tick(desk, now)
    return {
        **done.summary(),
        **outcome.summary(),
        "more": ticked["more"],
        "suggested": advise(desk),
        **desk.told_left_out(),
    }


def rescore(
    desk: Desk, start: int, stop: int, now: int, *, again: bool = False, dry_run: bool = False
) -> Outcome:
    """Score a span again with hindsight; with ``again`` by models that are fitted anew for it.

    The last of the new models scores on beyond the span, so with ``again`` all that follows is scored too.
    """
    if again and not dry_run:
        generation = 1 + max(
            (v.config.get("generation", 0) for rows in desk.versions(desk.targets()).values() for v in rows),
            default=0,
        )
        wanted = [d for d in due(desk, stop, again_from=start) if d.slot >= start]
        _refitted(desk, wanted, max(stop, now), generation=generation, again_from=start)
        stop = max(stop, now)
    outcome = settle(desk, start, stop, now, dry_run=dry_run, new_versions=again)
    if not dry_run:
        advise(desk)
    return outcome


def settle(
    desk: Desk, start: int, stop: int, now: int, *, dry_run: bool = False, new_versions: bool = False
) -> Outcome:
    """Rescore a span: points that all covering windows lie behind get their settled score.

    Args:
        new_versions: the versions of the span were fitted for this.
    """
    reach = _reach(desk, now)
    spans = [
        replace(_settled_span(desk, target, reach[target.id], start, stop), new_versions=new_versions)
        for target in desk.targets()
        if target.id in reach and target.scored_until is not None
    ]
    spans = [span for span in spans if span.start < span.stop]
    return score_spans(desk, spans, stage="rescore", dry_run=dry_run)


def _settled_span(desk: Desk, target: TargetRow, reach: Reach, start: int, stop: int) -> Span:
    assert target.scored_until is not None
    stop = min(stop, target.scored_until)
    settled = max(target.settled_until or 0, _settled_until(desk, target, stop))
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


def _settled_until(desk: Desk, target: TargetRow, stop: int) -> int:
    """Return up to where every window that covers a point ends before ``stop``."""
    return stop - (desk.window - 1) * target.step_seconds


def _all_new_spans(desk: Desk, done: Refitted, now: int) -> list[Span]:
    return _new_spans(desk, [*done.versions, *done.lent], done.unseen, now)


def _new_spans(
    desk: Desk, versions: Sequence[VersionRow], unseen: Mapping[int, FirstScores], now: int
) -> list[Span]:
    """Return what new versions score: everything from the end of the earliest one's training on."""
    reach = _reach(desk, now)
    since: dict[int, int] = {}
    for version in versions:
        since[version.target_id] = min(since.get(version.target_id, version.train_stop), version.train_stop)
    # A loan before the first fit has scored what that fit's unseen scores would.
    unseen = {i: first for i, first in unseen.items() if first.version.train_stop <= since.get(i, 0)}
    targets = {target.id: target for target in desk.targets()}
    spans = [
        _new_span(desk, targets[i], reach[i], start, unseen.get(i), now)
        for i, start in since.items()
        if i in reach
    ]
    nothing = {span.target.id: span.start for span in spans if span.start >= span.stop}
    if nothing:
        # A version of this very moment: no point is newer, so there is nothing to score (again) yet.
        desk.store.commit(desk.claim, Batch(scored_from=nothing, scored_until=nothing))
    return [span for span in spans if span.start < span.stop]


def _new_span(
    desk: Desk, target: TargetRow, reach: Reach, start: int, first: FirstScores | None, now: int
) -> Span:
    if target.scored_until is None:
        start = live_from = int(first.scores.ts[0]) if first is not None else start
    else:
        # Before the new version's time live scores stay what they were when their points came.
        live_from = min(start, target.scored_until)
        first, start = None, min(live_from, target.settled_until or live_from)
    stop = max(reach.points, target.scored_until or 0)
    night = _last_night(desk, min(stop, now))
    settled = _settled_until(desk, target, min(night, stop))
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


def _last_night(desk: Desk, at: int) -> int:
    """Return the last nightly time that has passed: what lies before it is settled."""
    return nights(desk.spec.nightly, at - 3 * DAY, at + 1)[-1]


def _reach(desk: Desk, now: int) -> dict[int, Reach]:
    """Return how far each target with points can be scored.

    While a source delivers, time goes on at ``now``; history that ended stands still at its end,
    so that years-old data raise no alarm for having stopped.
    """
    targets = desk.targets()
    known = histories(targets, desk.series())
    newest = _newest_by_source(desk.series().values())
    out = {}
    for target in targets:
        if target.id in known:
            source = max(newest[desk.series()[i].spec.source] for i in target.series_ids)
            live = now - source < LIVE_SECONDS
            due_until = (now - target.delay_seconds if live else min(source, now)) + 1
            last = known[target.id].newest
            out[target.id] = Reach(min(last + 1, due_until), due_until)
    return out


def _newest_by_source(series: Iterable[SeriesRow]) -> dict[str, int]:
    newest: dict[str, int] = {}
    for row in series:
        newest[row.spec.source] = max(newest.get(row.spec.source, 0), row.last_ts or 0)
    return newest


def readiness(
    spec: MonitorSpec,
    targets: Iterable[Wanted],
    fitted: Collection[str],
    waiting: Mapping[str, str] | None = None,
) -> list[Json]:
    """Return, for every target that a monitor asks for, its data and when its first model may be there.

    Args:
        fitted: keys of the targets that have a model.
        waiting: why a target is not scored, by key.
    """
    lends = spec.scope == "group" and bool(fitted)
    reasons = waiting or {}
    return [
        _readiness(spec, each, each.key in fitted, reasons.get(each.key, ""), lends=lends) for each in targets
    ]


def _readiness(spec: MonitorSpec, target: Wanted, fitted: bool, why: str, *, lends: bool) -> Json:
    step = max(row.spec.step_seconds for row in target.series)
    firsts = [row.first_ts for row in target.series if row.first_ts is not None]
    lasts = [row.last_ts for row in target.series if row.last_ts is not None]
    ready = None
    if len(firsts) == len(target.series) and not why:
        least = least_seconds(spec, step)
        ready = ready_by(spec, History(max(firsts), max(lasts)), least)
        if lends:
            # A group that has a model lends it to a target once its first window is there.
            ready = min(ready, max(firsts) + least // MIN_WINDOWS)
    return {
        "target": target.key,
        "channels": len(target.series),
        "step_seconds": step,
        "first_ts": max(firsts, default=None),
        "last_ts": max(lasts, default=None),
        "ready_by": ready,
        "state": "waiting" if why else "ready" if fitted else "learning",
        "why": why,
    }
