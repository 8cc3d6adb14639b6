"""Fit what is due, store the versions, and draw the line anew from what they have not seen."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.batches import batches, targets_per_group, targets_per_task
from pipelines.fit_spans import fit_window
from pipelines.jobs import lines, too_early
from pipelines.jobs.fit_times import nights
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.plan import (
    History,
    current,
    fingerprint,
    group_slots,
    histories,
    still_whole,
    wanted_slots,
)
from pipelines.monitor import MonitorSpec
from pipelines.records import Json, Origin, Points, Seconds, TargetRow, VersionRow
from pipelines.steps import bodies, masks, meaning, prepare
from pipelines.steps.recipe import Recipe
from pipelines.store import NewVersion
from pipelines.times import DAY
from pipelines.workers import members
from pipelines.workers.fit import (
    FitOutcome,
    FitTarget,
    FitTask,
    Fitted,
    NotReady,
    SharedModel,
    fit_targets,
    least_seconds,
)
from pipelines.workers.tasks import UnseenScores

TOLD = 5
"""The reasons of at most so many targets without a model are told; the rest is counted."""


@dataclass(frozen=True)
class Due:
    """One fit that is wanted and not there yet.

    Attributes:
        first: nothing is scored before: models that did not see a block score the training span too.
        anew: one is there that was made before all of its points had come.
    """

    target: TargetRow
    slot: int
    first: bool
    anew: bool = False


@dataclass(frozen=True)
class FirstScores:
    """Scores of a first version's training span, by models that did not see their block."""

    version: VersionRow
    scores: UnseenScores


@dataclass
class Refitted:
    """What a round of fits did.

    Attributes:
        versions: stored versions, by target.
        unseen: what the first version of a new target left of its training span, by target id.
        not_ready: targets without enough data for one of the fits, with the reason.
        broken: fits whose card says that they must not be used, with the reason.
        lent: stored versions with a model of the group, of targets that have none of their own.
        refused: reasons why a line could not be drawn as asked.
        anew_from: end of training of the earliest version that was made anew.
    """

    versions: list[VersionRow]
    unseen: dict[int, FirstScores]
    not_ready: list[NotReady]
    broken: list[NotReady]
    refused: list[str]
    lent: list[VersionRow] = field(default_factory=list)
    anew_from: int | None = None

    def summary(self) -> Json:
        fitted = {version.target_id for version in [*self.versions, *self.lent]}
        # Slots come in order of time: of several reasons the newest holds.
        without = {each.target_id: f"{each.key}: {each.why}" for each in self.not_ready}
        reasons = [why for target_id, why in without.items() if target_id not in fitted]
        return {
            "fitted": len(self.versions),
            "lent": len(self.lent),
            "not_ready": len(reasons),
            "not_ready_why": reasons[:TOLD],
            "broken": len(self.broken),
            "broken_why": [f"{each.key}: {each.why}" for each in self.broken[:TOLD]],
            "line_refused": self.refused,
        }


def due(job: MonitorJob, until: int, *, missing: bool = False, again_from: int | None = None) -> list[Due]:
    """Return the fits of a monitor that are wanted up to a data time, oldest first.

    Args:
        until: epoch seconds.
        missing: also those that are older than a target's newest version (backfill).
        again_from: slots from here on are wanted even where a version is there (refit).
    """
    targets = job.targets()
    known = histories(targets, job.series())
    stored = _stored(job, targets)
    have = _fitted_slots(job, stored)
    broken = _broken_slots(job, stored)
    planned = _slots(job, targets, known, until)
    early = too_early.slots(job, targets, stored, known)
    found = []
    for target in targets:
        if target.id not in known:
            continue
        done, since = have[target.id]
        slots = sorted({*planned[target.id], *_of_new_step(job, target, stored[target.id], until)})
        tried = broken[target.id]
        begun = _begun(job, stored[target.id])
        for slot in slots:
            anew = slot in early[target.id]
            wanted = anew or (slot not in done | tried and (missing or slot > since))
            if wanted or (again_from is not None and slot >= again_from):
                # The second slot counts too, for a target that had too little data on its first night;
                # one whose fit came out broken does not.
                opens = not done and slot in [each for each in slots if each not in tried][:2]
                found.append(Due(target, slot, opens or slot == begun, anew))
    return sorted(found, key=lambda each: each.slot)


def _begun(job: MonitorJob, stored: Sequence[VersionRow]) -> int | None:
    """Return the end of training of a target's earliest version, if the monitor as configured now made it."""
    earliest = min(stored, key=lambda v: (v.train_stop, v.id), default=None)
    ours = earliest is not None and earliest.origin.fingerprint == fingerprint(job.spec)
    return earliest.train_stop if earliest is not None and ours and not earliest.on_loan else None


def due_between(job: MonitorJob, start: int, stop: int) -> list[Due]:
    """Return the fits that a half-open span asks for and that are not there, from the last before it on."""
    targets = job.targets()
    known = histories(targets, job.series())
    there = {i: {v.train_stop for v in rows if not v.on_loan} for i, rows in job.versions(targets).items()}
    planned = _slots(job, targets, known, stop - 1)
    if job.spec.scope == "group":
        # All of a group are fitted together, or the shared model would be another.
        lacking = {slot for i, slots in planned.items() for slot in slots if slot not in there[i]}
        there = {i: own - lacking for i, own in there.items()}
    found = []
    for target in targets:
        slots = planned.get(target.id, [])
        first = max((slot for slot in slots if slot <= start), default=start)
        found += [
            Due(target, slot, first=False) for slot in slots if slot >= first and slot not in there[target.id]
        ]
    return sorted(found, key=lambda each: each.slot)


def _slots(
    job: MonitorJob, targets: Sequence[TargetRow], known: Mapping[int, History], until: int
) -> dict[int, list[int]]:
    """Return the scheduled fits of every target with a history, by target id."""
    spec = job.spec
    least = {target.id: least_seconds(spec, target.step_seconds) for target in targets}
    if spec.scope == "group":
        found = group_slots(spec, known, least, until)
    else:
        keys = {target.id: target.key for target in targets}
        found = {i: wanted_slots(spec, keys[i], history, until, least[i]) for i, history in known.items()}
    by_id = {target.id: target for target in targets}
    return {i: still_whole(spec, by_id[i], known[i], slots) for i, slots in found.items()}


def _of_new_step(job: MonitorJob, target: TargetRow, versions: Sequence[VersionRow], until: int) -> list[int]:
    """Return the last night where the target's points come at another step than its newest model learned.

    That model finds too few of them on its grid, or takes several for one.
    """
    newest = max((v for v in versions if v.status == "accepted"), key=lambda v: v.train_stop, default=None)
    if newest is None or members.of_version(newest)[0].recipe.step_seconds == target.step_seconds:
        return []
    (night,) = nights(job.spec.nightly, until - 3 * DAY, until + 1)[-1:]
    return [night] if night > newest.train_stop else []


def _stored(job: MonitorJob, targets: Sequence[TargetRow]) -> dict[int, list[VersionRow]]:
    """Return every stored version of the targets, broken ones too, by target id."""
    found: dict[int, list[VersionRow]] = {target.id: [] for target in targets}
    for version in job.store.versions(list(found), every=True):
        found[version.target_id].append(version)
    return found


def _fitted_slots(
    job: MonitorJob, stored: Mapping[int, Sequence[VersionRow]]
) -> dict[int, tuple[set[int], int]]:
    """Return the slots that each target has a version of, and after which slot fits are due.

    Versions of another configuration do not count as fitted, but after a change of detector only
    what the newest of them left open is due: the past keeps the scores it has. Nor do those whose
    job ended before their scores were stored: their fit is repeated, which stores no second version.
    """
    mark = fingerprint(job.spec)
    out = {}
    pending: set[int] = set()
    for target_id, versions in stored.items():
        every = [v for v in current(job.spec, versions) if not v.on_loan]
        pending |= {v.train_stop for v in every if not v.scored}
        rows = [v for v in every if v.scored]
        ours = {v.train_stop for v in rows if v.origin.fingerprint == mark}
        theirs = max((v.train_stop for v in rows), default=0)
        out[target_id] = (ours, max(ours) if ours else theirs - 1)
    if job.spec.scope == "group":
        # All of a group are fitted together again, or the shared model would be another.
        together = set().union(*(ours for ours, _ in out.values())) - pending if out else set()
        return {i: (together, max(together, default=0)) for i in out}
    return out


def _broken_slots(job: MonitorJob, stored: Mapping[int, Sequence[VersionRow]]) -> dict[int, set[int]]:
    """Return the slots whose fit, as configured now, came out broken: another on the same data would too."""
    mark = fingerprint(job.spec)
    return {
        target_id: {
            v.train_stop for v in versions if v.status == "candidate" and v.origin.fingerprint == mark
        }
        for target_id, versions in stored.items()
    }


def refit(job: MonitorJob, wanted: Sequence[Due], *, generation: int = 0) -> Refitted:
    """Fit, store and calibrate; then draw the line at every slot where a version began.

    Args:
        generation: tells the versions of an explicit refit from those they follow.
    """
    done = Refitted([], {}, [], [], [])
    done.anew_from = min((each.slot for each in wanted if each.anew), default=None)
    anew = {(each.target.id, each.slot) for each in wanted if each.anew}
    weights: dict[int, int] = {}
    times: dict[tuple[int, int], Seconds] = {}
    for task, outcome in _outcomes(job, wanted):
        job.check_stop()
        stored = _store(job, task, outcome, done, generation, anew, weights, times)
        if job.spec.scope == "group":
            weights |= {version.train_stop: version.weights_id for version in stored}
        job.on_progress("fit", len(done.versions) / max(1, len(wanted)))
    drawn = lines.draw(job, sorted({v.train_stop for v in done.versions}))
    job.store.add_lines(job.claim, drawn.rows)
    done.refused += drawn.refused
    return done


def _outcomes(job: MonitorJob, wanted: Sequence[Due]) -> Iterator[tuple[FitTask, FitOutcome]]:
    if job.spec.scope == "group" and not _fits_in_one(job, wanted):
        for slot in sorted({each.slot for each in wanted}):
            yield from _of_large_group(job, [each for each in wanted if each.slot == slot])
    else:
        yield from job.executor.map(fit_targets, _tasks(job, wanted))


def _fits_in_one(job: MonitorJob, wanted: Sequence[Due]) -> bool:
    """True where a group is small enough for one task a night, and its nights to be read at once."""
    if not wanted:
        return True
    slots, step = {each.slot for each in wanted}, min(each.target.step_seconds for each in wanted)
    seconds = max(slots) - min(slots) + _window(job, wanted)
    return len({each.target.id for each in wanted}) <= targets_per_group(seconds / step)


def _of_large_group(job: MonitorJob, wanted: Sequence[Due]) -> Iterator[tuple[FitTask, FitOutcome]]:
    """Yield the fits of one night: a model of as many targets as fit in a task, then it for the others."""
    shared, rest = None, list(wanted)
    steps = _window(job, wanted) / min(each.target.step_seconds for each in wanted)
    while rest and shared is None:
        some, rest = _sampled(rest, targets_per_group(steps))
        for task, outcome in job.executor.map(fit_targets, _tasks(job, some)):
            shared = outcome.shared
            yield task, outcome
    parts = batches(rest, targets_per_task(steps))
    yield from job.executor.map(fit_targets, (task for part in parts for task in _tasks(job, part, shared)))


def _sampled(wanted: Sequence[Due], size: int) -> tuple[list[Due], list[Due]]:
    """Return some of the targets, the same every time, and the others; both in order."""
    drawn = sorted(wanted, key=lambda each: (zlib.crc32(each.target.key.encode()), each.target.key))[:size]
    chosen = {each.target.id for each in drawn}
    return [each for each in wanted if each.target.id in chosen], [
        each for each in wanted if each.target.id not in chosen
    ]


def _tasks(job: MonitorJob, wanted: Sequence[Due], shared: SharedModel | None = None) -> Iterator[FitTask]:
    """Yield tasks, reading the points of a few targets once for all their slots."""
    by_target: dict[int, list[Due]] = {}
    for each in wanted:
        by_target.setdefault(each.target.id, []).append(each)
    for group in batches(by_target.values(), _batch_size(job, wanted)):
        asked = [each for dues in group for each in dues]
        slots = sorted({each.slot for each in asked})
        span = slots[0] - _window(job, asked), slots[-1]
        points = job.points([dues[0].target for dues in group], *span)
        incidents = job.confirmed(list(points), *span)
        grids = grids_of(job, asked, points)
        for slot in slots:
            own = [each for each in asked if each.slot == slot]
            zeros = job.leaving_out_zeros([each.target for each in own])
            fitted = tuple(fit_target(each, points, job.spec, incidents, grids, zeros) for each in own)
            yield FitTask(job.spec, fitted, shared)


def grids_of(
    job: MonitorJob, asked: Sequence[Due], points: Mapping[int, tuple[Points, ...]]
) -> dict[int, int]:
    """Return where in a step the grid of every target stands, by id: that of its versions, whichever.

    One without a version has the grid that its first fit learns.

    Args:
        points: by target id, of all the spans that the fits are learned from.
    """
    found: dict[int, int] = {}
    targets = {each.target.id: each.target for each in asked}
    for version in job.store.versions(list(targets)):
        recipe = Recipe.from_json(version.recipe)
        if recipe.step_seconds == targets[version.target_id].step_seconds:
            found[version.target_id] = recipe.offset_seconds
    for each in sorted(asked, key=lambda due: due.slot):
        step = each.target.step_seconds
        start = each.slot - fit_window(job.spec.fit_window_seconds, step)
        known = points[each.target.id]
        found.setdefault(each.target.id, prepare.grid_of(known, start, each.slot, step))
    return found


def _batch_size(job: MonitorJob, wanted: Sequence[Due]) -> int:
    if job.spec.scope == "group":
        return max(1, len(wanted))
    if not wanted:
        return 1
    step = min(each.target.step_seconds for each in wanted)
    return min(64, targets_per_task(_window(job, wanted) / step))


def _window(job: MonitorJob, wanted: Sequence[Due]) -> int:
    """Return the longest span that one of some fits, at least one, learns from; seconds."""
    return max(fit_window(job.spec.fit_window_seconds, each.target.step_seconds) for each in wanted)


def fit_target(
    each: Due,
    points: Mapping[int, tuple[Points, ...]],
    spec: MonitorSpec,
    incidents: Mapping[int, Sequence[tuple[int, int]]],
    grids: Mapping[int, int],
    zeros: Collection[int] = (),
) -> FitTarget:
    """Return a target with its points of the span that a fit is learned from.

    Args:
        points: by target id, of at least that span.
        incidents: first and last second of what is not learned from, by target id.
        grids: as of ``grids_of``.
        zeros: ids of the targets whose sources leave zeros out.
    """
    target = each.target
    start = each.slot - fit_window(spec.fit_window_seconds, target.step_seconds)
    cut = []
    for whole in points[target.id]:
        a, b = np.searchsorted(whole.ts, [start, each.slot])
        part = Points(whole.ts[a:b], whole.value[a:b])
        cut.append(meaning.sure(part, each.slot, target.step_seconds) if target.id in zeros else part)
    calendar = spec.calendar_of(target.labels)
    return FitTarget(
        target,
        masks.without(cut, masks.of_calendar(calendar, target.timezone, start, each.slot)),
        start,
        each.slot,
        keep_unseen=each.first,
        masked=tuple(masks.of_steps(a, b, target.step_seconds) for a, b in incidents[target.id]),
        grid=grids[target.id],
    )


def _store(
    job: MonitorJob,
    task: FitTask,
    outcome: FitOutcome,
    done: Refitted,
    generation: int,
    anew: Collection[tuple[int, int]],
    weights: Mapping[int, int],
    times: dict[tuple[int, int], Seconds],
) -> list[VersionRow]:
    """Store the fits of a task and note what became of them; return the versions.

    Args:
        weights: rows of the weights of a group's models that are stored, by end of training.
        times: of the first scores of other targets, added to.
    """
    targets = {asked.target.id: asked.target for asked in task.targets}
    for each in outcome.not_ready:
        if each.failed:
            job.leave_out(targets[each.target_id], each.why)
        else:
            done.not_ready.append(each)

    def add(some: Sequence[Fitted]) -> list[tuple[Fitted, VersionRow]]:
        new = [
            replace(
                _new_version(job, own, generation),
                anew=(own.target_id, own.stop) in anew,
                stored_weights=weights.get(own.stop) if task.shared is not None else None,
            )
            for own in some
        ]
        return list(zip(some, job.store.add_versions(job.claim, new), strict=True))

    stored = job.each_stored(outcome.fitted, lambda own: targets[own.target_id], add)
    for fitted, version in stored:
        if version.status != "accepted":
            why = "; ".join(version.card.get("broken", fitted.broken))
            done.broken.append(NotReady(version.target_id, targets[version.target_id].key, why))
            continue
        done.versions.append(version)
        earliest = done.unseen.get(version.target_id)
        if fitted.unseen is not None and (
            earliest is None or version.train_stop < earliest.version.train_stop
        ):
            done.unseen[version.target_id] = FirstScores(version, _light(fitted.unseen, times))
    return [version for _, version in stored]


def _light(scores: UnseenScores, times: dict[tuple[int, int], Seconds]) -> UnseenScores:
    """Return scores in a third of the memory: those of all targets wait until all are fitted.

    Args:
        times: of the steps of other targets, which many share, by first step and number; added to.
    """
    ts = times.setdefault((int(scores.ts[0]), len(scores.ts)), scores.ts)
    return replace(
        scores,
        ts=ts if np.array_equal(ts, scores.ts) else scores.ts,
        live=scores.live.astype(np.float32),
        settled=scores.settled.astype(np.float32),
        own_live=scores.own_live.astype(np.float32),
        own_settled=scores.own_settled.astype(np.float32),
    )


def _new_version(job: MonitorJob, fitted: Fitted, generation: int) -> NewVersion:
    origin = Origin(job.spec.params, fingerprint(job.spec), generation=generation)
    return NewVersion(
        target_id=fitted.target_id,
        detector=job.spec.detector,
        train_start=fitted.start,
        train_stop=fitted.stop,
        recipe=fitted.recipe,
        config=origin.to_json(),
        weights=fitted.weights,
        card=fitted.card,
        status=fitted.status,
        shared_weights=fitted.group,
        calibrations=bodies.of_fit(fitted.calibrations),
    )
