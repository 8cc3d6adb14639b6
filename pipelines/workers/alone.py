"""One target from its points alone, without a store: fitted, scored, held against its line and judged.

What a backtest and a notebook share. Nothing is done here that the jobs do otherwise: a history that is
met for the first time is scored by models that did not see their block, what comes later by the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipelines.monitor import MonitorSpec
from pipelines.records import Points, Policy, Seconds, TargetRow, Values
from pipelines.steps import flag, masks, prepare
from pipelines.steps.line import draw_held
from pipelines.steps.recipe import Recipe
from pipelines.workers import bank, explained, judge, members
from pipelines.workers.fit import FitTarget, FitTask, Fitted, NotReady, fit_targets
from pipelines.workers.members import FittedMember
from pipelines.workers.score import ScoredSteps, raw_scores
from pipelines.workers.tasks import LinesAt, Piece, ScoreTarget

BAND_SCALES = 2.0
"""The band is the expected value and so many deviations: 95 of 100 values of a normal variable."""


@dataclass(frozen=True)
class History:
    """What is known of one target.

    Attributes:
        points: of every channel.
        start, stop: half-open span in which points could be, epoch seconds.
    """

    target: TargetRow
    points: tuple[Points, ...]
    start: int
    stop: int

    @classmethod
    def of(
        cls,
        name: str,
        points: Sequence[Points],
        start: int,
        stop: int,
        *,
        step_seconds: int,
        timezone: str = "UTC",
        labels: Mapping[str, str] | None = None,
    ) -> History:
        """Return the history of a target that no store knows."""
        channels = tuple(range(len(points)))
        row = TargetRow(1, 1, name, channels, step_seconds, timezone, 0, labels=dict(labels or {}))
        return cls(row, tuple(points), start, stop)

    def between(self, start: int, stop: int) -> tuple[Points, ...]:
        """Return the points of a half-open span: a fit knows nothing of those after it."""
        cut = []
        for whole in self.points:
            a, b = np.searchsorted(whole.ts, [start, stop])
            cut.append(Points(whole.ts[a:b], whole.value[a:b]))
        return tuple(cut)

    def then(self, points: Sequence[Points], stop: int) -> History:
        """Return this history with what came since, up to a moment; of equal times what came last counts."""
        joined = tuple(
            points_of(np.append(old.ts, new.ts), np.append(old.value, new.value))
            for old, new in zip(self.points, points, strict=True)
        )
        return replace(self, points=joined, stop=max(self.stop, stop))


@dataclass(frozen=True)
class Model:
    """A fitted target: what the store would hold of it.

    Attributes:
        lines: drawn from its own unseen scores, by mode.
        refused: why a budget could not be held as asked.
    """

    spec: MonitorSpec
    fitted: Fitted

    @cached_property
    def _drawn(self) -> tuple[dict[str, LinesAt], tuple[str, ...]]:
        lines, refused = {}, dict[str, None]()
        for mode, body in self.fitted.calibrations.items():
            line, why = draw_held([body], self.spec.threshold)
            lines[mode] = LinesAt(np.array([self.fitted.start]), (line,))
            refused |= dict.fromkeys(why)
        return lines, tuple(refused)

    @property
    def lines(self) -> dict[str, LinesAt]:
        return self._drawn[0]

    @property
    def refused(self) -> tuple[str, ...]:
        return self._drawn[1]

    @cached_property
    def members(self) -> tuple[FittedMember, ...]:
        """Its members; the first one leads: it expects and samples."""
        return members.stored(self.spec.detector, self.spec.params, self.fitted.recipe)

    @property
    def window(self) -> int:
        """Steps of its longest window."""
        return max(member.window for member in self.members)

    @property
    def look_back_seconds(self) -> int:
        """How far before a step there may be something that decides what becomes of it."""
        recipe = Recipe.from_json(self.fitted.recipe)
        flat = max(flag.flat_limit(channel.usual_flat) for channel in recipe.channels)
        steps = self.window + explained.reach_steps(self.window) + flat
        return flag.context_seconds(self.spec.policy) + steps * recipe.step_seconds

    def asked(
        self, history: History, start: int, stop: int, *, unseen: bool, live: bool = False
    ) -> ScoreTarget:
        """Return a half-open span of a history as a worker takes it to be scored.

        Args:
            unseen: scores of the training span are those of models that did not see their block.
            live: every step goes by its live score, as when its point had just come; else with hindsight.
        """
        return ScoreTarget(
            target=history.target,
            points=history.points,
            pieces=tuple(self._pieces(start, stop, unseen=unseen)),
            lines=self.lines,
            settled_until=start if live else stop,
            observed_until=stop,
            newest=tuple(int(each.ts[-1]) if len(each.ts) else 0 for each in history.points),
        )

    def _pieces(self, start: int, stop: int, *, unseen: bool) -> Iterator[Piece]:
        fitted = self.fitted
        whole = Piece(
            version_id=1,
            detector=self.spec.detector,
            params=self.spec.params,
            recipe=fitted.recipe,
            weights_id=1,
            bodies=fitted.calibrations,
            start=start,
            stop=stop,
            learned_steps=(fitted.stop - fitted.start) // fitted.recipe["step_seconds"],
        )
        if not unseen:
            yield whole
            return
        edges = [start, *(at for at in (fitted.start, fitted.stop) if start < at < stop), stop]
        for first, end in pairwise(edges):
            inside = fitted.start <= first and end <= fitted.stop
            yield replace(whole, start=first, stop=end, unseen=fitted.unseen if inside else None)


def fit(spec: MonitorSpec, history: History, start: int, stop: int) -> Model | NotReady:
    """Return the model of a half-open span of a history, or why there is none.

    Raises:
        UnknownDetectorError: nobody declares the detector.
        ValueError: a setting of the detector that is refused.
    """
    target = history.target
    masked = masks.of_calendar(spec.calendar_of(target.labels), target.timezone, start, stop)
    known = masks.without(history.between(start, stop), masked)
    outcome = fit_targets(FitTask(spec, (FitTarget(target, known, start, stop, keep_unseen=True),)))
    return Model(spec, outcome.fitted[0]) if outcome.fitted else outcome.not_ready[0]


def steps_of(model: Model, asked: ScoreTarget) -> list[ScoredSteps]:
    """Return the raw scores of what is asked, a list of its pieces in order of time."""
    with bank.at_work(model.spec.device):
        (steps,) = raw_scores(model.spec, [asked], {1: model.fitted.weights})
    return steps


# -- what would have been normal ----------------------------------------------------


@dataclass(frozen=True)
class Band:
    """What would have been normal, in the series' unit, each of shape ``(n, n_channels)``."""

    low: Values
    mid: Values
    high: Values


def usual(steps: Sequence[ScoredSteps], scales: float) -> Band:
    """Return season and level of every step, and so many usual deviations around them."""
    return Band(*(np.concatenate([_usual(part, at) for part in steps]) for at in (-scales, 0.0, scales)))


def _usual(part: ScoredSteps, scales: float) -> Values:
    row = part.row
    scaled = np.full_like(row.prepared.baseline[part.inside], scales)
    return prepare.restore(row.recipe, row.prepared, scaled, part.inside)


def expected(
    model: Model, steps: Sequence[ScoredSteps], anomaly_score: Values, scales: float = BAND_SCALES
) -> Band:
    """Return what would have been normal, as ``expected_under`` the model's policy."""
    return expected_under(model.spec.policy, steps, anomaly_score, scales)


def expected_under(
    policy: Policy, steps: Sequence[ScoredSteps], anomaly_score: Values, scales: float = BAND_SCALES
) -> Band:
    """Return what would have been normal at every step, and a band of so many deviations around it.

    Near what may become an interval it is the model's word, with that and a window around it hidden; a
    model without a scale takes the usual one. Elsewhere it is season and level.

    Args:
        anomaly_score: that counts, of every step, 1 is the line.
    """
    found = usual(steps, scales)
    runs = flag.candidates(anomaly_score, policy, steps[0].row.recipe.step_seconds)
    if not runs:
        return found
    said = judge.expected(steps, runs, (-scales, 0.0, scales))
    return Band(*np.where(np.isnan(said), np.stack([found.low, found.mid, found.high]), said))


def points_of(ts: Seconds, values: Values) -> Points:
    """Return the finite values of a channel in order of time; of rows that share a second the last counts."""
    finite = np.isfinite(values)
    ts, values = ts[finite], values[finite]
    order = np.argsort(ts, kind="stable")
    ts, values = ts[order], values[order]
    last = np.append(ts[1:] != ts[:-1], True)[: len(ts)]
    return Points(ts[last], values[last])


def grid_steps(rows: Seconds, ts: Seconds, step_seconds: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the step that each row is nearest to, and which rows have one; the later one of two.

    Args:
        rows: epoch seconds, in any order.
        ts: of neighbouring steps, at least one.
    """
    at = (rows - ts[0] + step_seconds // 2) // step_seconds
    inside = (at >= 0) & (at < len(ts))
    return np.where(inside, at, 0), inside


# -- samples ------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Windows drawn from a model, beside the one that was observed at the same times.

    Attributes:
        ts: shape ``(window,)``, epoch seconds.
        values: shape ``(n, window, n_channels)``, in the series' own unit.
        observed: shape ``(window, n_channels)``, NaN where there is no point.
    """

    ts: Seconds
    values: Values
    observed: Values


def drawn_context(lead: FittedMember, stop: int) -> tuple[int, int]:
    """Return from when on points are needed to draw a window that ends before ``stop``, and its start."""
    recipe = lead.recipe
    start = stop - lead.window * recipe.step_seconds
    return start - recipe.context_seconds, start


def drawn(
    lead: FittedMember, weights: bytes, points: Sequence[Points], stop: int, n: int, *, seed: int = 0
) -> Drawn:
    """Return windows as a model would have them, with season, level and scale of the time before ``stop``.

    Args:
        lead: the member that samples.
        weights: of its version.
        points: of every channel, those that count, from ``drawn_context`` on.
    """
    cls, config = lead.config
    recipe = lead.recipe
    around = prepare.apply(recipe, points, drawn_context(lead, stop)[1], stop)
    model = bank.assembled(cls, replace(config, seed=seed), [lead.own(bank.opened(weights))])
    restored = [prepare.restore(recipe, around, window, slice(None)) for window in model.sample(n)[0].numpy()]
    return Drawn(around.ts, _rounded(np.stack(restored), recipe), around.raw)


def _rounded(values: Values, recipe: Recipe) -> Values:
    """Return values of the resolution that the series has: counts are whole, and never below zero."""
    for number, channel in enumerate(recipe.channels):
        if channel.resolution > 0:
            values[..., number] = np.round(values[..., number] / channel.resolution) * channel.resolution
        if channel.counts:
            values[..., number] = np.maximum(values[..., number], 0.0)
    return values
