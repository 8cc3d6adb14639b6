"""Models on loan: a target that has none of its own yet is scored with the one of its group.

A newcomer, or a target whose history is too short or too full of gaps to be part of a fit, takes the
group's weights and the calibration of its middle member; its recipe is learned from the little there
is. When that happens is a function of data time alone, and it ends with the target's own first fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.batches import batches, targets_per_task
from pipelines.failures import Failed, each_alone
from pipelines.fit_spans import fit_window
from pipelines.jobs import lines
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.plan import History, fingerprint, histories, loan_slots, still_whole
from pipelines.jobs.refit import Due, fit_target, grids_of
from pipelines.names import Mode
from pipelines.records import Json, Origin, TargetRow, VersionRow
from pipelines.steps import bodies, newcomer
from pipelines.steps.bodies import Body
from pipelines.steps.newcomer import Usual
from pipelines.steps.recipe import Recipe
from pipelines.store import NewVersion
from pipelines.times import DAY
from pipelines.workers.fit import FitTarget

Models = Mapping[int, Sequence[VersionRow]]
"""The versions of those that were part of each fit of a group, by when its training ended, ascending."""


@dataclass(frozen=True)
class LendTask:
    """Targets that take their rhythm from the same members; ``usual`` of each channel."""

    targets: tuple[FitTarget, ...]
    usual: tuple[Usual, ...]
    season: str
    model: int


def learn_recipes(task: LendTask) -> list[Recipe | Failed]:
    """Return the recipe of every target, in order. Runs inside a worker."""

    def together(targets: Sequence[FitTarget]) -> list[Recipe]:
        return [
            newcomer.learn(
                asked.learned,
                task.usual,
                step_seconds=asked.target.step_seconds,
                timezone=asked.target.timezone,
                season=task.season,
                start=asked.start,
                stop=asked.stop,
                grid=asked.grid,
            )
            for asked in targets
        ]

    return each_alone(together, task.targets)


# -- what is due --------------------------------------------------------------------


def due_loans(
    job: MonitorJob,
    until: int,
    *,
    targets: Sequence[TargetRow] | None = None,
    missing: bool = False,
    again_from: int | None = None,
) -> list[Due]:
    """Return the loans of a group that are wanted up to a data time and not there yet, oldest first.

    Args:
        until: epoch seconds.
        targets: only these; all if None.
        missing: also those that are older than what an earlier configuration left.
        again_from: loans from here on are wanted even where one is there.
    """
    if job.spec.scope != "group":
        return []
    versions = job.versions(job.targets())
    models = _models(job, versions)
    known = histories(job.targets(), job.series())
    by_step = _by_step(models)
    found = []
    for target in job.targets() if targets is None else targets:
        alike = by_step.get(target.step_seconds)
        if target.id in known and alike:
            done, since = _lent(job, versions[target.id], missing=missing)
            found += [
                Due(target, slot, first=False)
                for slot in _slots(job, target, known[target.id], alike, versions[target.id], until)
                if (slot not in done and slot > since) or (again_from is not None and slot >= again_from)
            ]
    return sorted(found, key=lambda each: each.slot)


def _models(job: MonitorJob, versions: Mapping[int, Sequence[VersionRow]]) -> Models:
    mark = fingerprint(job.spec)
    found: dict[int, list[VersionRow]] = {}
    for version in (v for rows in versions.values() for v in rows):
        if not version.on_loan and version.origin.fingerprint == mark:
            found.setdefault(version.train_stop, []).append(version)
    return dict(sorted(found.items()))


def _by_step(models: Models) -> dict[int, dict[int, list[VersionRow]]]:
    """Return the models by the steps of their members: a rhythm is that of its step."""
    found: dict[int, dict[int, list[VersionRow]]] = {}
    for stop, rows in models.items():
        for version in rows:
            step_seconds = Recipe.from_json(version.recipe).step_seconds
            found.setdefault(step_seconds, {}).setdefault(stop, []).append(version)
    return found


def _slots(
    job: MonitorJob,
    target: TargetRow,
    history: History,
    models: Models,
    versions: Sequence[VersionRow],
    until: int,
) -> list[int]:
    """Return when a target is on loan: from its first window to its own first fit, while points come."""
    mark = fingerprint(job.spec)
    ours = [v for v in versions if v.origin.fingerprint == mark]
    own = [v.train_stop for v in ours if not v.on_loan]
    last = min([until, history.newest + history.fit_days(job.spec) * DAY, *(stop - 1 for stop in own)])
    slots = loan_slots(job.spec, history, list(models), job.window * target.step_seconds, last)
    return still_whole(job.spec, target, history, slots, min(own, default=None))


def _lent(job: MonitorJob, versions: Sequence[VersionRow], *, missing: bool) -> tuple[set[int], int]:
    """Return the slots that a target has a loan of, and after which slot loans are due.

    As with fits, after a change of configuration the past keeps the scores it has, and a loan whose
    scores were not stored is made again, which stores no second version.
    """
    mark = fingerprint(job.spec)
    ours = {v.train_stop for v in versions if v.origin.fingerprint == mark and v.scored}
    theirs = [v.train_stop for v in versions if v.origin.fingerprint != mark]
    return ours, 0 if missing else max(theirs, default=0)


# -- lending ------------------------------------------------------------------------


def lend(job: MonitorJob, wanted: Sequence[Due], *, generation: int = 0) -> list[VersionRow]:
    """Lend what is wanted, and draw the lines of those nights anew; return the versions as stored.

    Args:
        generation: tells the loans of an explicit refit from those they follow.
    """
    if not wanted:
        return []
    models = _models(job, job.versions(job.targets()))
    targets = {each.target.id: each.target for each in wanted}
    lent: list[VersionRow] = []

    def add(some: Sequence[NewVersion]) -> list[VersionRow]:
        return job.store.add_versions(job.claim, some)

    for task, recipes in job.executor.map(learn_recipes, _tasks(job, wanted, models)):
        job.check_stop()
        terms = _Terms.of(job, models[task.model], generation)
        new = [terms.version(asked, recipe) for asked, recipe in _learned(job, task, recipes)]
        lent += job.each_stored(new, lambda version: targets[version.target_id], add)
        job.on_progress("lend", len(lent) / len(wanted))
    drawn = {row.valid_from for row in job.store.lines(job.monitor.id, target_ids=())}
    redrawn = lines.draw(job, sorted({version.train_stop for version in lent} & drawn))
    job.store.add_lines(job.claim, redrawn.rows)
    return lent


def _learned(
    job: MonitorJob, task: LendTask, recipes: Sequence[Recipe | Failed]
) -> list[tuple[FitTarget, Recipe]]:
    """Return the targets with their recipes; those that have none are left out."""
    found = []
    for asked, recipe in zip(task.targets, recipes, strict=True):
        if isinstance(recipe, Failed):
            job.leave_out(asked.target, f"no model is lent: {recipe.why}")
        else:
            found.append((asked, recipe))
    return found


def _tasks(job: MonitorJob, wanted: Sequence[Due], models: Models) -> Iterator[LendTask]:
    """Yield tasks of targets that borrow the same model and have the same step."""
    by_step = _by_step(models)
    alike: dict[tuple[int, int], list[Due]] = {}
    for each in wanted:
        step_seconds = each.target.step_seconds
        model = max(stop for stop in by_step[step_seconds] if stop <= each.slot)
        alike.setdefault((model, step_seconds), []).append(each)
    for (model, step_seconds), dues in alike.items():
        window = fit_window(job.spec.fit_window_seconds, step_seconds)
        usual = _usual(by_step[step_seconds][model])
        for group in batches(dues, targets_per_task(window / step_seconds)):
            low, high = min(each.slot for each in group) - window, max(each.slot for each in group)
            points = job.points([each.target for each in group], low, high)
            incidents = job.confirmed(list(points), low, high)
            grids = grids_of(job, group, points)
            zeros = job.leaving_out_zeros([each.target for each in group])
            asked = tuple(fit_target(each, points, job.spec, incidents, grids, zeros) for each in group)
            yield LendTask(asked, usual, job.spec.season, model)


def _usual(members: Sequence[VersionRow]) -> tuple[Usual, ...]:
    """Return what is usual of each channel of a model's members."""
    recipes = [Recipe.from_json(version.recipe) for version in members]
    return tuple(Usual.of(channels) for channels in zip(*(r.channels for r in recipes), strict=True))


@dataclass(frozen=True)
class _Terms:
    """What a loan of one model is made of."""

    job: MonitorJob
    member: VersionRow
    bodies: dict[str, Body]
    origin: Origin

    @classmethod
    def of(cls, job: MonitorJob, members: Sequence[VersionRow], generation: int) -> _Terms:
        known = lines.fitted_bodies(job, {version.id for version in members})
        lent = {
            str(mode): _middle([body for (_, of), body in sorted(known.items()) if of is mode])
            for mode in Mode
        }
        origin = Origin(job.spec.params, fingerprint(job.spec), on_loan=True, generation=generation)
        # An explicit refit of some may have left two models of one night: the newer is in use.
        return cls(job, max(members, key=lambda version: version.weights_id), lent, origin)

    def version(self, asked: FitTarget, recipe: Recipe) -> NewVersion:
        # Its regimes are those that the model learned, by the same numbers.
        recipe = replace(recipe, regimes=Recipe.from_json(self.member.recipe).regimes)
        first = min((int(p.ts[0]) for p in asked.points if len(p.ts)), default=asked.start)
        return NewVersion(
            target_id=asked.target.id,
            detector=self.member.detector,
            train_start=max(asked.start, first),
            train_stop=asked.stop,
            recipe=recipe.to_json(),
            config=self.origin.to_json(),
            weights=b"",
            card=self._card(),
            stored_weights=self.member.weights_id,
            calibrations=bodies.of_fit(self.bodies),
        )

    def _card(self) -> Json:
        shared = ("family", "density", "paper", "window", "bytes")
        card = {name: self.member.card[name] for name in shared if name in self.member.card}
        return {**card, "on_loan": True, "broken": []}


def _middle(known: Sequence[Body]) -> Body:
    """Return the body of the member in whose scores the tail begins at the (upper) median."""
    return sorted(known, key=lambda body: body.u)[len(known) // 2]
