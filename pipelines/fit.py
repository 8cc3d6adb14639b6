"""Fit a bank of targets on their training spans, and calibrate it on scores of data it has not seen.

Runs inside a worker: plain values, arrays and bytes in and out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors import registry
from detectors.base import Detector, DetectorConfig, Windows
from pipelines import bank, calibrate, card, flag, prepare, regimes
from pipelines.monitor import MonitorSpec
from pipelines.records import Json, Mode, Points, Seconds, TargetRow, Values

MIN_WINDOWS = 8
"""Fewer windows than this laid end to end are too little to learn from."""

BLOCK_WINDOWS = 8
"""Length of a held-out block, in windows: long enough that its inside is independent of its neighbours."""


@dataclass(frozen=True)
class FitTarget:
    """One target and the half-open span it is to be fitted on, in epoch seconds."""

    target: TargetRow
    points: tuple[Points, ...]
    start: int
    stop: int
    keep_unseen: bool = False


@dataclass(frozen=True)
class FitTask:
    spec: MonitorSpec
    targets: tuple[FitTarget, ...]


@dataclass(frozen=True)
class UnseenScores:
    """Scores of the training span by models that did not see their block."""

    ts: Seconds
    live: Values
    settled: Values


@dataclass(frozen=True)
class Fitted:
    """What a fit of one target produced; ``group`` is equal where weights are shared.

    ``broken`` says why a model that is no more than a ``candidate`` must not be used.
    """

    target_id: int
    start: int
    stop: int
    recipe: Json
    weights: bytes
    card: Json
    calibrations: dict[str, Json]
    status: str = "accepted"
    broken: tuple[str, ...] = ()
    group: int | None = None
    unseen: UnseenScores | None = None


@dataclass(frozen=True)
class NotReady:
    """A target that has too little data in the span to be fitted."""

    target_id: int
    key: str
    why: str


@dataclass(frozen=True)
class _Member:
    """A target on its way through the fit."""

    asked: FitTarget
    recipe: prepare.Recipe
    prepared: prepare.Prepared


@dataclass
class FitOutcome:
    fitted: list[Fitted] = field(default_factory=list)
    not_ready: list[NotReady] = field(default_factory=list)


def fit_targets(task: FitTask) -> FitOutcome:
    """Return a fit for every target with enough data in its span."""
    torch.set_num_threads(1)
    spec = task.spec
    cls, config = bank.config_of(spec.detector, spec.params)
    outcome = FitOutcome()
    members = []
    for asked in task.targets:
        try:
            member = _prepare(asked, spec)
            why = _too_little(member, config.window)
        except Exception as error:  # recorded: one broken series must not end the night of all others
            why = _failure(error)
        if why:
            outcome.not_ready.append(NotReady(asked.target.id, asked.target.key, why))
        else:
            members.append(member)
    for alike in _batches(members, config.window, cls.folds, pooled=spec.scope == "group"):
        _fit_or_part(spec, cls, config, alike, outcome)
    return outcome


def _fit_or_part(
    spec: MonitorSpec,
    cls: type[Detector],
    config: DetectorConfig,
    members: Sequence[_Member],
    outcome: FitOutcome,
) -> None:
    """Fit a bank; where that fails, fit its members one by one, so that only the culprit is left out."""
    part = FitOutcome()
    try:
        _fit_bank(spec, cls, config, members, part)
    except Exception as error:  # recorded below, with the target that caused it
        if len(members) > 1 and spec.scope != "group":
            for member in members:
                _fit_or_part(spec, cls, config, [member], outcome)
            return
        part = FitOutcome(
            not_ready=[NotReady(m.asked.target.id, m.asked.target.key, _failure(error)) for m in members]
        )
    outcome.fitted += part.fitted
    outcome.not_ready += part.not_ready


def _failure(error: Exception) -> str:
    return f"the fit failed: {type(error).__name__}: {error}"


def _prepare(asked: FitTarget, spec: MonitorSpec) -> _Member:
    first = min((int(p.ts[0]) for p in asked.points if len(p.ts)), default=asked.stop)
    start = max(asked.start, first)
    calendar = spec.calendar_of(asked.target.labels)
    recipe = prepare.learn(
        asked.points,
        step_seconds=asked.target.step_seconds,
        timezone=asked.target.timezone,
        season=spec.season,
        start=start,
        stop=asked.stop,
        regimes=regimes.names(calendar) if registry.get(spec.detector).by_regime else (),
    )
    return _Member(asked, recipe, prepare.apply(recipe, asked.points, start, asked.stop, calendar))


def least_seconds(spec: MonitorSpec, step_seconds: int) -> int:
    """Return the shortest span that a model of this monitor can be learned from."""
    return MIN_WINDOWS * bank.config_of(spec.detector, spec.params)[1].window * step_seconds


def _too_little(member: _Member, window: int) -> str:
    """Return why a target cannot be fitted; empty where it can."""
    seen, need = int((~member.prepared.missing.all(axis=1)).sum()), MIN_WINDOWS * window
    if seen >= need:
        return ""
    asked = member.asked
    most = (asked.stop - asked.start) // asked.target.step_seconds
    if most < need:
        return (
            f"fit.window holds {most} points, {MIN_WINDOWS} windows of {window} need {need}; "
            "lengthen fit.window or shorten params.window"
        )
    return f"{seen} points in fit.window, {MIN_WINDOWS} windows of {window} need {need}"


def _batches(members: Iterable[_Member], window: int, folds: int, *, pooled: bool) -> list[list[_Member]]:
    """Group members whose held-out blocks are equally long; a pooled group stays whole."""
    groups: dict[int, list[_Member]] = defaultdict(list)
    for member in members:
        groups[0 if pooled else block_steps(len(member.prepared.ts), window, folds)].append(member)
    return list(groups.values())


def block_steps(n_steps: int, window: int, folds: int) -> int:
    """Return the length of a held-out block, in steps."""
    return int(max(window, min(BLOCK_WINDOWS * window, n_steps // (2 * folds))))


def _fit_bank(
    spec: MonitorSpec,
    cls: type[Detector],
    config: DetectorConfig,
    members: Sequence[_Member],
    outcome: FitOutcome,
) -> None:
    """Fit members together, and note what became of each."""
    began = time.perf_counter()
    prepared = [member.prepared for member in members]
    windows = bank.windows_of(
        prepared, config.window, [m.recipe.index(int(m.prepared.ts[0])) for m in members]
    )
    block = block_steps(min(len(p.ts) for p in prepared), config.window, cls.folds)
    fold = (torch.arange(windows.n_points) // block) % cls.folds
    pooled = spec.scope == "group"
    whole = _whole(cls, config, windows, pooled=pooled)
    fitted_at = time.perf_counter()
    blind = _blind(cls, config, windows, fold, pooled=pooled)
    unseen = _unseen(members, windows, fold)
    live, settled = bank.score_unseen(blind, unseen, fold)
    calibrated_at = time.perf_counter()
    plain = _plain(blind, windows, fold, pooled=pooled)
    judged = card.judge(card.Trial(whole, blind, plain, windows, block, shared=pooled))
    judged_at = time.perf_counter()
    seconds = {
        "fit_seconds": (fitted_at - began) / len(members),
        "calibrate_seconds": (calibrated_at - fitted_at) / len(members),
        "card_seconds": (judged_at - calibrated_at) / len(members),
    }
    for row, member in enumerate(members):
        if live[row].isfinite().any() and settled[row].isfinite().any():
            fitted = _fitted(spec, whole, unseen, row, member, live[row], settled[row], seconds, judged[row])
            outcome.fitted.append(fitted)
        else:
            target = member.asked.target
            why = (
                f"too many steps without a point in every window of {config.window}; "
                f"is the source's step of {target.step_seconds} s right?"
            )
            outcome.not_ready.append(NotReady(target.id, target.key, why))


def _unseen(members: Sequence[_Member], windows: Windows, fold: Tensor) -> Windows:
    """Return the windows with every block prepared by a season and a scale that did not see it."""
    rows = []
    for member in members:
        own = fold[: len(member.prepared.ts)].numpy()
        rows.append(prepare.unseen(member.recipe, member.asked.points, member.prepared, own))
    return bank.windows_of(rows, windows.window, windows.start.tolist())


def _whole(cls: type[Detector], config: DetectorConfig, windows: Windows, *, pooled: bool) -> Detector:
    """Return the bank fitted on everything."""
    if not pooled:
        return cls(config).fit(windows)
    return cls(config).fit(windows.pooled()).select([0] * windows.n_targets)


def _blind(
    cls: type[Detector], config: DetectorConfig, windows: Windows, fold: Tensor, *, pooled: bool
) -> list[Detector]:
    """Return one bank per fold that did not see it."""
    folds = fold.expand(windows.n_targets, -1)
    if not pooled:
        return list(cls(config).cross_fit(windows, folds))
    banks = cls(config).cross_fit(windows.pooled(), folds.reshape(1, -1))
    return [bank.select([0] * windows.n_targets) for bank in banks]


def _plain(blind: list[Detector], windows: Windows, fold: Tensor, *, pooled: bool) -> list[Detector] | None:
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
    if not pooled:
        return [cls(config).fit(windows.without(folds == k)) for k in range(len(blind))]
    together, folds = windows.pooled(), folds.reshape(1, -1)
    return [
        cls(config).fit(together.without(folds == k)).select([0] * windows.n_targets)
        for k in range(len(blind))
    ]


def _fitted(
    spec: MonitorSpec,
    whole: Detector,
    windows: Windows,
    row: int,
    member: _Member,
    live: Tensor,
    settled: Tensor,
    seconds: dict[str, float],
    judged: card.Card,
) -> Fitted:
    ts = member.prepared.ts
    scores = {Mode.LIVE: live[: len(ts)].numpy(), Mode.SETTLED: settled[: len(ts)].numpy()}
    weights = bank.pack(whole, row)
    allowed = _allowed(spec, member)
    own = prepare.odd(windows.series[row, : len(ts)].numpy())
    calibrations = {
        str(mode): calibrate.learn(
            values,
            ts,
            step_seconds=member.recipe.step_seconds,
            window=windows.window,
            policy=spec.policy,
            allowed=allowed,
            own=own,
        )
        for mode, values in scores.items()
    }
    unseen = None
    if member.asked.keep_unseen:
        unseen = UnseenScores(ts, scores[Mode.LIVE], scores[Mode.SETTLED])
    return Fitted(
        target_id=member.asked.target.id,
        start=int(ts[0]),
        stop=member.asked.stop,
        recipe=member.recipe.to_json(),
        weights=weights,
        card={
            **_card(whole, windows, row, len(ts), scores[Mode.SETTLED], weights, seconds),
            **judged.figures,
            "broken": list(judged.broken),
        },
        calibrations=calibrations,
        status="candidate" if judged.broken else "accepted",
        broken=judged.broken,
        group=0 if spec.scope == "group" else None,
        unseen=unseen,
    )


def _allowed(spec: MonitorSpec, member: _Member) -> NDArray[np.bool_] | None:
    """Return where the policy's direction and deviation gates hold; None where it has none.

    The baseline stands in for the model's expectation: with an interval and a window around it
    hidden, a model of windows knows no better.
    """
    if not flag.is_gated(spec.policy):
        return None
    return flag.allowed(member.prepared.raw, prepare.usual(member.recipe, member.prepared), spec.policy)


def _card(
    whole: Detector,
    windows: Windows,
    row: int,
    n_steps: int,
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
            "missing_share": float(windows.missing[row, :n_steps].to(torch.float32).mean()),
            "unseen_score_mean": float(np.nanmean(unseen)) if np.isfinite(unseen).any() else None,
            "bytes": len(weights),
            **({"trim": whole.config.trim} if hasattr(whole.config, "trim") else {}),
            **{name: round(value, 4) for name, value in seconds.items()},
        }
    )
