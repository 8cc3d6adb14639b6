"""Fit a bank of targets on their training spans, and calibrate it on scores of data it has not seen.

Runs inside a worker: plain values, arrays and bytes in and out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.base import Detector
from detectors.windows import Windows
from pipelines.failures import Failed, each_alone, reason
from pipelines.monitor import MonitorSpec, Period
from pipelines.names import AUTO, Mode
from pipelines.records import Json, Points, TargetRow, Values
from pipelines.steps import calibrate, flag, masks, prepare, regimes
from pipelines.steps.bodies import Body
from pipelines.steps.masks import Span
from pipelines.steps.recipe import Recipe
from pipelines.times import WEEK
from pipelines.workers import auto, bank, card, explained, members
from pipelines.workers.auto import Member, Traits, View
from pipelines.workers.explained import Frame, Look
from pipelines.workers.members import FittedMember, MemberScale
from pipelines.workers.tasks import UnseenScores

MIN_WINDOWS = 8
"""Fewer windows than this laid end to end are too little to learn from."""

BLOCK_WINDOWS = 8
"""Length of a held-out block, in windows: long enough that its inside is independent of its neighbours."""


@dataclass(frozen=True)
class FitTarget:
    """One target and the half-open span it is to be fitted on, in epoch seconds.

    Attributes:
        masked: half-open spans that are scored but not learned from.
        grid: where in a step the target's grid stands; where its points usually do if None.
    """

    target: TargetRow
    points: tuple[Points, ...]
    start: int
    stop: int
    keep_unseen: bool = False
    masked: tuple[Span, ...] = ()
    grid: int | None = None

    @cached_property
    def learned(self) -> tuple[Points, ...]:
        """The points that are learned from."""
        return masks.without(self.points, self.masked)

    @property
    def learned_until(self) -> int:
        """Time of the newest point of the series that is furthest behind, epoch seconds."""
        return min(int(each.ts[-1]) if len(each.ts) else self.start for each in self.points)


@dataclass(frozen=True)
class SharedModel:
    """The model of a group as it was fitted on some of its targets, for the others.

    Attributes:
        whole: safetensors bytes of the model.
        blind: of those that did not see a fold each.
        block: steps of a held-out block.
        card: how good the model is.
    """

    whole: bytes
    blind: tuple[bytes, ...]
    block: int
    card: card.Card


@dataclass(frozen=True)
class FitTask:
    """Targets that are fitted in one call; with ``shared`` they take that model, and are calibrated on it."""

    spec: MonitorSpec
    targets: tuple[FitTarget, ...]
    shared: SharedModel | None = None


@dataclass(frozen=True)
class Fitted:
    """What a fit of one target produced.

    Attributes:
        recipe: JSON of ``pipelines.workers.members``.
        calibrations: what was learned of its scores, by mode.
        broken: why a model that is no more than a ``candidate`` must not be used.
        group: equal where weights are shared.
    """

    target_id: int
    start: int
    stop: int
    recipe: Json
    weights: bytes
    card: Json
    calibrations: dict[str, Body]
    status: str = "accepted"
    broken: tuple[str, ...] = ()
    group: int | None = None
    unseen: UnseenScores | None = None


@dataclass(frozen=True)
class NotReady:
    """A target that was not fitted: too few data in the span, or, with ``failed``, an exception."""

    target_id: int
    key: str
    why: str
    failed: bool = False


@dataclass(frozen=True)
class _Ready:
    """A target on its way through the fit of one member; prepared is what is learned from."""

    asked: FitTarget
    recipe: Recipe
    prepared: prepare.Prepared

    def unseen(self, fold: NDArray[np.integer]) -> prepare.Prepared:
        """Return what is learned from with every block prepared by a season and scale that did not see it."""
        learned = self.asked.learned
        return prepare.unseen(self.recipe, learned, learned, self.prepared, fold)

    def shown(self, fold: NDArray[np.integer]) -> prepare.Prepared:
        """Return the same with what is not learned from."""
        first, stop, points = int(self.prepared.ts[0]), self.asked.stop, self.asked.points
        whole = replace(prepare.apply(self.recipe, points, first, stop), regime=self.prepared.regime)
        return prepare.unseen(self.recipe, points, self.asked.learned, whole, fold)


@dataclass(frozen=True)
class _Answers:
    """What a bank's models say of targets whose blocks they did not see: a look at each.

    Attributes:
        asked: at what was learned from, every block prepared by a season and a scale that did not see it.
        shown: at the whole training span.
    """

    asked: list[Look]
    shown: list[Look]


@dataclass(frozen=True)
class _Model:
    """What the fit of one member of a target produced.

    Attributes:
        asked: how models that did not see their block look at what was learned from.
        shown: the same of the whole training span.
        figures: its part of the card.
    """

    ready: _Ready
    member: Member
    window: int
    weights: bytes
    asked: Look
    shown: Look
    figures: Json
    broken: tuple[str, ...]

    @property
    def scores(self) -> dict[Mode, Values]:
        """Of what was learned from, by models that did not see their block, by mode."""
        return self.asked.scores


@dataclass
class FitOutcome:
    """What became of the targets of a task; of a group, the model that they share."""

    fitted: list[Fitted] = field(default_factory=list)
    not_ready: list[NotReady] = field(default_factory=list)
    shared: SharedModel | None = None


def fit_targets(task: FitTask) -> FitOutcome:
    """Return a fit for every target with enough data in its span."""
    with bank.at_work(task.spec.device):
        return _fit_targets(task)


def _fit_targets(task: FitTask) -> FitOutcome:
    outcome = FitOutcome()
    traits: dict[int, Traits] = {}
    targets = []
    for target, own in zip(task.targets, _traits(task.spec, task.targets), strict=True):
        if isinstance(own, Failed):
            outcome.not_ready.append(_not_fitted(target, own))
            continue
        targets.append(target)
        if own is not None:
            traits[target.target.id] = own
    for wanted, asked in _alike(task.spec, targets, traits):
        fits = [
            _Fits(task.spec, member, leads=at == 0, shared=task.shared) for at, member in enumerate(wanted)
        ]
        parts = [each.of(asked) for each in fits]
        outcome.shared = fits[0].shared
        for target in asked:
            models = [part[target.target.id] for part in parts]
            _join(task.spec, target, models, traits.get(target.target.id), outcome)
    return outcome


def _traits(spec: MonitorSpec, targets: Sequence[FitTarget]) -> Sequence[Traits | Failed | None]:
    """Return what the models of each are chosen by; None where they are named: only ``auto`` chooses."""
    if spec.detector != AUTO:
        return [None] * len(targets)

    def together(asked: Sequence[FitTarget]) -> list[Traits]:
        # What is looked at one step after the other does not mind where the level is.
        habits, drift = _habits(spec, asked), _drift(spec, [each for each in asked if len(each.points) == 1])
        return [Traits(habits[each.target.id], drift.get(each.target.id)) for each in asked]

    return each_alone(together, targets)


def _habits(spec: MonitorSpec, targets: Iterable[FitTarget]) -> dict[int, float]:
    """Return how far each target has habits, by id."""
    found = {}
    for target, model in _probed(spec, targets, lambda own: auto.probe(len(own.points), _n_steps(own))):
        scores = model.scores[Mode.SETTLED] if isinstance(model, _Model) else np.empty(0)
        found[target.target.id] = auto.habit(scores, target.target.step_seconds)
    return found


def _drift(spec: MonitorSpec, targets: Iterable[FitTarget]) -> dict[int, float]:
    """Return how far the newest part of each target drifted from what came before it, by id."""
    whole = {each.target.id: each for each in targets}
    before = [replace(each, stop=each.stop - _newest_seconds(each)) for each in whole.values()]
    found = {}
    for target, model in _probed(spec, before, _drift_probe):
        scaled = _after(model, whole[target.target.id]) if isinstance(model, _Model) else np.empty(0)
        found[target.target.id] = auto.drift(scaled)
    return found


def _drift_probe(before: FitTarget) -> Member:
    n_steps = _n_steps(before)
    n_newest = int(auto.NEWEST_SHARE * n_steps)
    longest = min((n_steps - n_newest) // MIN_WINDOWS, n_newest // auto.NEWEST_WINDOWS)
    return auto.drift_probe(n_steps, longest)


def _newest_seconds(target: FitTarget) -> int:
    """Return how long the newest part of a target's history is."""
    begun = min((int(points.ts[0]) for points in target.learned if len(points.ts)), default=target.stop)
    return int(auto.NEWEST_SHARE * (target.stop - max(begun, target.start)))


def _after(model: _Model, target: FitTarget) -> Values:
    """Return the scaled scores of what came after a model's training span, NaN for none."""
    ready, window = model.ready, model.window
    first = ready.asked.stop - window * ready.recipe.step_seconds
    prepared = prepare.apply(ready.recipe, target.learned, first, target.stop)
    windows = bank.windows_of([prepared], window, [ready.recipe.index(int(prepared.ts[0]))])
    cls, config = bank.config_of(model.member.detector, model.member.params)
    _, settled = bank.score_steps(bank.unpack(cls, config, [model.weights]), windows)
    newest = settled[0, : len(prepared.ts)].numpy()[prepared.ts >= ready.asked.stop]
    return MemberScale.of(model.scores[Mode.SETTLED]).of_scores(newest)


def _probed(
    spec: MonitorSpec, targets: Iterable[FitTarget], probe_of: Callable[[FitTarget], Member]
) -> Iterator[tuple[FitTarget, _Model | str | Failed]]:
    """Yield every target with the model that probes it, or why there is none."""
    probes: dict[str, tuple[Member, list[FitTarget]]] = {}
    for target in targets:
        probe = probe_of(target)
        probes.setdefault(str(probe), (probe, []))[1].append(target)
    for probe, asked in probes.values():
        models = _Fits(spec, probe, leads=False).of(asked)
        yield from ((target, models[target.target.id]) for target in asked)


def _n_steps(target: FitTarget) -> int:
    return max((len(points.ts) for points in target.points), default=0)


def _alike(
    spec: MonitorSpec, targets: Iterable[FitTarget], traits: dict[int, Traits]
) -> Iterable[tuple[tuple[Member, ...], list[FitTarget]]]:
    """Return the members that are asked of targets, and those targets."""
    groups: dict[str, tuple[tuple[Member, ...], list[FitTarget]]] = {}
    for target in targets:
        wanted = members.asked(
            spec.detector,
            spec.params,
            len(target.points),
            _n_steps(target),
            traits.get(target.target.id, auto.UNKNOWN),
        )
        groups.setdefault(str(wanted), (wanted, []))[1].append(target)
    return groups.values()


def least_seconds(spec: MonitorSpec, step_seconds: int) -> int:
    """Return the shortest span that a model of this monitor can be learned from."""
    return MIN_WINDOWS * members.shortest_window(spec.detector, spec.params) * step_seconds


def block_steps(n_steps: int, window: int, folds: int, weekly_step_seconds: int = 0) -> int:
    """Return the length of a held-out block, in steps.

    A fold has several blocks, but one where a week may be learned from less than three: two of a fortnight
    would hide both of its weekends, and a weekend be judged by what saw none.

    Args:
        weekly_step_seconds: step of series whose season may be a week's; 0 where it may not.
    """
    if 2 * WEEK <= n_steps * weekly_step_seconds < 3 * WEEK:
        return int(max(window, -(-n_steps // folds)))
    return int(max(window, min(BLOCK_WINDOWS * window, n_steps // (2 * folds))))


# -- one member ---------------------------------------------------------------------


class _Fits:
    """The fit of one member for many targets: a model each, or the reason why there is none.

    Attributes:
        taken: the model of a group that was fitted on others; None where these are fitted.
        shared: the model that these share; None where each has its own.
    """

    def __init__(
        self, spec: MonitorSpec, member: Member, *, leads: bool, shared: SharedModel | None = None
    ) -> None:
        self.spec = spec
        self.member = member
        self.leads = leads
        self.cls, self.config = bank.config_of(member.detector, member.params)
        self.pooled = spec.scope == "group"
        self.shared = shared
        self.taken = shared
        self.found: dict[int, _Model | str | Failed] = {}

    def of(self, targets: Iterable[FitTarget]) -> dict[int, _Model | str | Failed]:
        """Return what became of each target, by id."""
        ready = []
        for asked in targets:
            try:
                own = self._prepare(asked)
                why = self._too_little(own)
            except Exception as error:  # recorded: one broken series must not end the night of all others
                self.found[asked.target.id] = Failed(reason(error))
                continue
            if why:
                self.found[asked.target.id] = why
            else:
                ready.append(own)
        for alike in self._batches(ready):
            self._fit_or_part(alike)
        return self.found

    def _prepare(self, asked: FitTarget) -> _Ready:
        # Of several series it learns from when all of them are there.
        start = max(asked.start, *(int(p.ts[0]) if len(p.ts) else asked.stop for p in asked.points))
        calendar = self.spec.calendar_of(asked.target.labels)
        recipe = prepare.learn(
            asked.learned,
            step_seconds=asked.target.step_seconds,
            timezone=asked.target.timezone,
            season=self.spec.season if self.member.view is View.FULL else "none",
            follow=self.member.view is View.FULL,
            start=start,
            stop=asked.stop,
            regimes=self._regimes(calendar),
            grid=asked.grid,
        )
        return _Ready(asked, recipe, prepare.apply(recipe, asked.learned, start, asked.stop, calendar))

    def _regimes(self, calendar: Sequence[Period]) -> tuple[str, ...]:
        """Return the names of the regimes that a target's model tells apart; none where it does not."""
        if not self.cls.by_regime:
            return ()
        # A model that targets share knows a regime by one number for all of them.
        return regimes.names(self.spec.calendar if self.pooled else calendar)

    def _too_little(self, ready: _Ready) -> str:
        """Return why a target cannot be fitted; empty where it can."""
        window = self.config.window
        by_channel = (~ready.prepared.missing).sum(axis=0)
        seen, need = int(by_channel.min()), MIN_WINDOWS * window
        if seen >= need:
            return ""
        of = f" of {self.spec.channels[int(by_channel.argmin())]}" if self.spec.channels else ""
        asked = ready.asked
        most = (asked.stop - asked.start) // asked.target.step_seconds
        if most < need:
            return (
                f"fit.window holds {most} points, {MIN_WINDOWS} windows of {window} need {need}; "
                "lengthen fit.window or shorten params.window"
            )
        return f"{seen} points{of} in fit.window, {MIN_WINDOWS} windows of {window} need {need}"

    def _batches(self, ready: Iterable[_Ready]) -> list[list[_Ready]]:
        """Group targets whose held-out blocks are equally long; a pooled group stays whole."""
        groups: dict[int, list[_Ready]] = defaultdict(list)
        for own in ready:
            block = self._block([own])
            groups[0 if self.pooled else block].append(own)
        return list(groups.values())

    def _fit_or_part(self, ready: Sequence[_Ready]) -> None:
        """Fit a bank; where that fails, fit it so that only the culprit is left out."""
        try:
            self._fit_bank(ready)
        except Exception as error:  # recorded, with the target that caused it
            if len(ready) == 1:
                self.found[ready[0].asked.target.id] = Failed(reason(error))
            elif self.pooled:
                self._fit_without_culprits(ready, error)
            else:
                for own in ready:
                    self._fit_or_part([own])

    def _fit_without_culprits(self, ready: Sequence[_Ready], error: Exception) -> None:
        """Fit a pool without those that fail alone too; where there is none, it fails for all."""
        culprits = self._culprits(ready)
        rest = [own for own in ready if own.asked.target.id not in culprits]
        if not culprits:
            self.found |= {own.asked.target.id: Failed(reason(error)) for own in ready}
        elif rest:
            self._fit_or_part(rest)

    def _culprits(self, ready: Sequence[_Ready]) -> set[int]:
        """Return the targets that fail alone, of a pool that failed as a whole: sought by halves."""
        half = len(ready) // 2
        found = set()
        for part in (ready[:half], ready[half:]):
            try:
                self._fit_bank(part)
            except Exception as error:  # recorded, with the target that caused it
                if len(part) == 1:
                    self.found[part[0].asked.target.id] = Failed(reason(error))
                    found.add(part[0].asked.target.id)
                else:
                    found |= self._culprits(part)
        return found

    def _fit_bank(self, ready: Sequence[_Ready]) -> None:
        """Fit targets together, and note what became of each."""
        began = time.perf_counter()
        prepared = [own.prepared for own in ready]
        starts = [own.recipe.index(int(own.prepared.ts[0])) for own in ready]
        windows = self._windows(prepared, starts)
        block = self._block(ready)
        fold = (torch.arange(windows.n_points) // block) % self.cls.folds
        whole = self._whole(windows)
        fitted_at = time.perf_counter()
        blind = self._blind(windows, fold)
        answers = self._answers(ready, blind, fold, starts)
        calibrated_at = time.perf_counter()
        judged = self._judged(whole, blind, windows, fold, block)
        if self.pooled and self.taken is None:
            packed = tuple(bank.pack(each, [0]) for each in blind)
            self.shared = SharedModel(bank.pack(whole, [0]), packed, block, judged[0])
        judged_at = time.perf_counter()
        seconds = {
            "fit_seconds": (fitted_at - began) / len(ready),
            "calibrate_seconds": (calibrated_at - fitted_at) / len(ready),
            "card_seconds": (judged_at - calibrated_at) / len(ready),
        }
        per = windows.n_targets // len(ready)
        for row, own in enumerate(ready):
            part, scores = range(row * per, (row + 1) * per), answers.asked[row].scores
            if not all(np.isfinite(each).any() for each in scores.values()):
                self.found[own.asked.target.id] = self._unscored(own)
                continue
            weights = bank.pack(whole, part)
            own_card = _card(whole, windows, part[0], own, scores[Mode.SETTLED], weights, seconds)
            self.found[own.asked.target.id] = _Model(
                ready=own,
                member=self.member,
                window=self.config.window,
                weights=weights,
                asked=answers.asked[row],
                shown=answers.shown[row],
                figures={**own_card, **judged[row].figures},
                broken=judged[row].broken,
            )

    def _block(self, ready: Sequence[_Ready]) -> int:
        if self.taken is not None:
            return self.taken.block
        n_steps = min(len(own.prepared.ts) for own in ready)
        weekly = self.spec.season in ("auto", "weekly")
        step_seconds = min(own.recipe.step_seconds for own in ready) if weekly else 0
        return block_steps(n_steps, self.config.window, self.cls.folds, step_seconds)

    def _answers(
        self, ready: Sequence[_Ready], blind: Sequence[Detector], fold: Tensor, starts: Sequence[int]
    ) -> _Answers:
        """Return what models say of the blocks that they did not see."""
        folds = [fold[: len(own.prepared.ts)].numpy() for own in ready]
        unseen = [own.unseen(of) for own, of in zip(ready, folds, strict=True)]
        asked = shown = self._looks(ready, unseen, blind, fold, starts)
        if any(own.asked.keep_unseen and own.asked.masked for own in ready):
            whole_span = [own.shown(of) for own, of in zip(ready, folds, strict=True)]
            shown = self._looks(ready, whole_span, blind, fold, starts)
        return _Answers(asked, shown)

    def _looks(
        self,
        ready: Sequence[_Ready],
        prepared: Sequence[prepare.Prepared],
        blind: Sequence[Detector],
        fold: Tensor,
        starts: Sequence[int],
    ) -> list[Look]:
        """Return how models that did not see their block look at each target."""
        windows = self._windows(prepared, starts)
        votes = np.array([bank.votes_of(own.recipe.channels) for own in ready])
        live, settled = bank.score_unseen(blind, windows, fold)
        if self.member.apart:
            live, settled = bank.together(live, votes), bank.together(settled, votes)
        per = windows.n_targets // len(ready)
        return [
            Look(
                recipe=own.recipe,
                prepared=steps,
                banks=[each.select(range(row * per, (row + 1) * per)) for each in blind],
                windows=windows.select(range(row * per, (row + 1) * per)),
                fold=fold,
                live=live[row, : len(steps)].numpy(),
                settled=settled[row, : len(steps)].numpy(),
                votes=votes[row : row + 1] if self.member.apart else None,
            )
            for row, (own, steps) in enumerate(zip(ready, prepared, strict=True))
        ]

    def _unscored(self, ready: _Ready) -> str:
        """Return why a fitted target has no score."""
        return (
            f"too many steps without a point in every window of {self.config.window}; "
            f"is the source's step of {ready.asked.target.step_seconds} s right?"
        )

    def _windows(self, prepared: Sequence[prepare.Prepared], starts: Sequence[int]) -> Windows:
        windows = bank.windows_of(prepared, self.config.window, starts)
        return bank.apart(windows) if self.member.apart else windows

    def _judged(
        self, whole: Detector, blind: list[Detector], windows: Windows, fold: Tensor, block: int
    ) -> list[card.Card]:
        """Return a card for every target; an empty one for those that do not lead: nobody asks them for more
        than a score."""
        if not self.leads:
            return [card.Card({}, ())] * windows.n_targets
        if self.taken is not None:
            return [self.taken.card] * windows.n_targets
        plain = self._plain(blind, windows, fold)
        return card.judge(card.Trial(whole, blind, plain, windows, block, shared=self.pooled))

    def _whole(self, windows: Windows) -> Detector:
        """Return the bank fitted on everything."""
        if self.taken is not None:
            return self._copied(self.taken.whole, windows)
        if not self.pooled:
            return self.cls(self.config).fit(windows)
        return self.cls(self.config).fit(windows.pooled()).select([0] * windows.n_targets)

    def _copied(self, weights: bytes, windows: Windows) -> Detector:
        """Return a model that was fitted on others, for every target."""
        return bank.unpack(self.cls, self.config, [weights]).select([0] * windows.n_targets)

    def _blind(self, windows: Windows, fold: Tensor) -> list[Detector]:
        """Return one bank per fold that did not see it."""
        if self.taken is not None:
            return [self._copied(each, windows) for each in self.taken.blind]
        folds = fold.expand(windows.n_targets, -1)
        if not self.pooled:
            return list(self.cls(self.config).cross_fit(windows, folds))
        banks = self.cls(self.config).cross_fit(windows.pooled(), folds.reshape(1, -1))
        return [bank.select([0] * windows.n_targets) for bank in banks]

    def _plain(self, blind: list[Detector], windows: Windows, fold: Tensor) -> list[Detector] | None:
        """Return Gaussians that did not see their fold, to compare with; None for a baseline.

        Those that are judged may be plain Gaussians themselves.
        """
        if blind[0].baseline:
            return None
        cls, config = bank.config_of("gaussian", {"window": windows.window})
        own = blind[0].config
        if type(blind[0]) is cls and replace(own, seed=config.seed, max_windows=config.max_windows) == config:
            return blind
        folds = fold.expand(windows.n_targets, -1)
        if not self.pooled:
            return [cls(config).fit(windows.without(folds == k)) for k in range(len(blind))]
        together, folds = windows.pooled(), folds.reshape(1, -1)
        return [
            cls(config).fit(together.without(folds == k)).select([0] * windows.n_targets)
            for k in range(len(blind))
        ]


def _not_fitted(asked: FitTarget, why: str | Failed) -> NotReady:
    """Return what is told of a target without a model."""
    if isinstance(why, Failed):
        return NotReady(asked.target.id, asked.target.key, f"the fit failed: {why.why}", failed=True)
    return NotReady(asked.target.id, asked.target.key, why)


# -- one target ---------------------------------------------------------------------


def _join(
    spec: MonitorSpec,
    asked: FitTarget,
    found: Sequence[_Model | str | Failed],
    traits: Traits | None,
    outcome: FitOutcome,
) -> None:
    """Make one version of a target's models, or note why there is none."""
    models = [each for each in found if isinstance(each, _Model)]
    if not models:
        why = next(each for each in found if not isinstance(each, _Model))
        outcome.not_ready.append(_not_fitted(asked, why))
        return
    try:
        outcome.fitted.append(_fitted(spec, asked, models, traits))
    except Exception as error:  # recorded: one that cannot be calibrated must not end the fit of all others
        outcome.not_ready.append(_not_fitted(asked, Failed(reason(error))))


def _fitted(spec: MonitorSpec, asked: FitTarget, models: Sequence[_Model], traits: Traits | None) -> Fitted:
    lead = models[0]
    joint = spec.detector == AUTO
    own = [_fitted_member(model, at if joint else None) for at, model in enumerate(models)]
    scores = members.joined(own, [model.asked.scores for model in models])
    told_from = _told_from(scores[Mode.LIVE])
    weights = members.packed(own, [model.weights for model in models])
    return Fitted(
        target_id=asked.target.id,
        start=int(lead.ready.prepared.ts[0]),
        stop=asked.stop,
        recipe=members.recipe_of(own, told_from),
        weights=weights,
        card={
            **_joint_card(models, scores[Mode.SETTLED], weights, traits),
            "learned_until": asked.learned_until,
        },
        calibrations=_calibrations(spec, models, _explained(own, [m.asked for m in models], told_from)),
        status="candidate" if lead.broken else "accepted",
        broken=lead.broken,
        group=0 if spec.scope == "group" else None,
        unseen=_unseen_scores(own, models, told_from) if asked.keep_unseen else None,
    )


def _told_from(live: Values) -> float:
    """Return the joined live score from which on an incident is explained away."""
    scale = MemberScale.of(live)
    return scale.middle + explained.TOLD * scale.spread


def _explained(own: Sequence[FittedMember], looks: Sequence[Look], told_from: float) -> dict[Mode, Values]:
    """Return the joined scores once what else was odd is explained away."""
    lead = looks[0]
    frame = Frame.of(lead.recipe, lead.prepared, slice(0, len(lead.prepared)), members.longest(own))
    found = frame.explained(looks, lambda live: members.combined(own, live, Mode.LIVE), told_from)
    return members.joined(own, [{Mode.LIVE: live, Mode.SETTLED: settled} for live, settled in found])


def _unseen_scores(own: Sequence[FittedMember], models: Sequence[_Model], told_from: float) -> UnseenScores:
    shown = [model.shown for model in models]
    scores = members.joined(own, [look.scores for look in shown])
    rest = _explained(own, shown, told_from)
    return UnseenScores(
        ts=models[0].ready.prepared.ts,
        live=scores[Mode.LIVE],
        settled=scores[Mode.SETTLED],
        own_live=rest[Mode.LIVE],
        own_settled=rest[Mode.SETTLED],
    )


def _fitted_member(model: _Model, at: int | None) -> FittedMember:
    scales = {} if at is None else {str(mode): MemberScale.of(own) for mode, own in model.scores.items()}
    return FittedMember(model.member, model.ready.recipe, scales, at)


def _calibrations(
    spec: MonitorSpec,
    models: Sequence[_Model],
    scores: dict[Mode, Values],
) -> dict[str, Body]:
    """Return what was learned of the scores of each mode."""
    lead = models[0]
    allowed = _allowed(spec, lead.ready)
    own = prepare.odd_steps(lead.asked.prepared.values)
    return {
        str(mode): calibrate.learn(
            values,
            lead.ready.prepared.ts,
            step_seconds=lead.ready.recipe.step_seconds,
            window=max(model.window for model in models),
            policy=spec.policy,
            allowed=allowed,
            own=own,
        )
        for mode, values in scores.items()
    }


def _allowed(spec: MonitorSpec, ready: _Ready) -> NDArray[np.bool_] | None:
    """Return where the policy's direction and deviation gates hold; None where it has none.

    The baseline stands in for the model's expectation: with an interval and a window around it
    hidden, a model of windows knows no better.
    """
    if not flag.is_gated(spec.policy):
        return None
    return flag.allowed(ready.prepared.raw, prepare.usual(ready.recipe, ready.prepared), spec.policy)


def _joint_card(models: Sequence[_Model], scores: Values, weights: bytes, traits: Traits | None) -> Json:
    """Return the leader's card; with what was chosen and why where there was a choice."""
    lead = models[0]
    own = {**lead.figures, "broken": list(lead.broken)}
    if traits is None and len(models) == 1:
        return own
    seconds = ("fit_seconds", "calibrate_seconds", "card_seconds")
    return {
        **own,
        **{name: round(sum(model.figures[name] for model in models), 4) for name in seconds},
        "unseen_score_mean": float(np.nanmean(scores)),
        "bytes": len(weights),
        "habits": None if traits is None else round(traits.habits, 3),
        "drift": None if traits is None or traits.drift is None else round(traits.drift, 3),
        "members": [{**model.member.to_json(), **model.figures} for model in models],
    }


def _card(
    whole: Detector,
    windows: Windows,
    row: int,
    ready: _Ready,
    unseen: Values,
    weights: bytes,
    seconds: dict[str, float],
) -> Json:
    return bank.finite(
        {
            "family": whole.family,
            "density": str(whole.density),
            "paper": whole.paper,
            "window": windows.window,
            "n_windows": int((windows.weight[row] > 0).sum()),
            "missing_share": float(ready.prepared.missing.mean()),
            "masked_steps": int(masks.within(ready.prepared.ts, ready.asked.masked).sum()),
            "unseen_score_mean": float(np.nanmean(unseen)) if np.isfinite(unseen).any() else None,
            "bytes": len(weights),
            **({"trim": whole.config.trim} if hasattr(whole.config, "trim") else {}),
            **{name: round(value, 4) for name, value in seconds.items()},
        }
    )
