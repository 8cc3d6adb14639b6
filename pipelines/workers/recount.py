"""What the scores of past days say of a calibration: counted in a worker, night by night.

Runs inside a worker: plain values, arrays and bytes in and out. What a night learns depends only on
points, versions and the nights before it, so it may be computed again with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.failures import Failed, each_alone
from pipelines.monitor import MonitorSpec
from pipelines.names import Mode
from pipelines.records import Policy, Seconds, Values
from pipelines.steps import calibrate, flag, prepare
from pipelines.steps.calibrate import SurpriseScale
from pipelines.steps.evidence import GRID, Realised, Seen
from pipelines.times import DAY, WEEK
from pipelines.workers import bank, members
from pipelines.workers.judge import in_force
from pipelines.workers.score import MODES, ScoredSteps, raw_scores
from pipelines.workers.tasks import ScoreTarget, SeenAt


@dataclass(frozen=True)
class ObserveTarget:
    """One target, and the nights that are to learn from a day of its scores each.

    Attributes:
        scoring: points, pieces and lines of those days, and of what the policy looks back at before them.
        nights: when what is learned becomes valid, ascending, epoch seconds.
        days: the half-open span of timestamps that each night learns from, ascending, ``(n_nights, 2)``.
        seen: what earlier nights have seen, by mode.
        incidents: stretches that people confirmed as anomalous, both ends inside: they teach nothing.
    """

    scoring: ScoreTarget
    nights: Seconds
    days: Seconds
    seen: dict[str, SeenAt]
    incidents: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class ObserveTask:
    spec: MonitorSpec
    targets: tuple[ObserveTarget, ...]
    weights: dict[int, bytes]


@dataclass(frozen=True)
class Observed:
    """What a target's nights learned, each a sequence over them, by mode.

    Attributes:
        seen: everything seen up to each night, faded.
        realised: what the day of each night alone would have raised.
    """

    target_id: int
    seen: dict[str, tuple[Seen, ...]]
    realised: dict[str, tuple[Realised, ...]]


def look_back_seconds(policy: Policy, step_seconds: int) -> int:
    """Return how much before a day must be known to tell which runs were alarms already.

    Of a run that goes on, so much is seen that it is long enough, however sparse its steps.
    """
    return flag.context_seconds(policy) + policy.merge_max_gap_seconds + step_seconds


def observe_targets(task: ObserveTask) -> list[Observed | Failed]:
    """Return what the nights of every target learn, in order."""

    def together(targets: Sequence[ObserveTarget]) -> list[Observed]:
        raw = raw_scores(task.spec, [target.scoring for target in targets], task.weights)
        return [_observed(task.spec, target, steps) for target, steps in zip(targets, raw, strict=True)]

    with bank.at_work(task.spec.device):
        return each_alone(together, task.targets)


def _observed(spec: MonitorSpec, target: ObserveTarget, steps: Sequence[ScoredSteps]) -> Observed:
    out = Observed(target.scoring.target.id, {}, {})
    for mode in MODES:
        course = _Columns.of(spec, target.scoring, steps, mode).without(target.incidents)
        timeline = target.seen.get(str(mode), SeenAt())
        seen, realised = [], []
        for night, (start, stop) in zip(target.nights.tolist(), target.days.tolist(), strict=True):
            seen.append(_then(timeline, night, course.between(start, stop)))
            realised.append(course.realised(spec, timeline, start, stop))
            timeline = timeline.then(night, seen[-1])
        out.seen[str(mode)], out.realised[str(mode)] = tuple(seen), tuple(realised)
    return out


def _then(timeline: SeenAt, night: int, day: _Columns) -> Seen:
    """Return what is known at a night, from what was known at the last one."""
    last, at = (timeline.seen[-1], int(timeline.valid_from[-1])) if timeline.seen else (Seen.none(), night)
    return last.then(Seen.of(day.surprise, day.window), (night - at) / DAY)


@dataclass(frozen=True)
class _Columns:
    """A stretch of a target's regular steps.

    Attributes:
        surprise: under the bodies as they were fitted, NaN for none.
        allowed: where the policy's direction and deviations hold.
        odd: steps that are odd by themselves.
        window: steps that a score looks at.
    """

    ts: Seconds
    surprise: Values
    allowed: NDArray[np.bool_]
    odd: NDArray[np.bool_]
    window: int
    step_seconds: int

    @classmethod
    def of(cls, spec: MonitorSpec, target: ScoreTarget, steps: Sequence[ScoredSteps], mode: Mode) -> _Columns:
        of = [members.stored(piece.detector, piece.params, piece.recipe) for piece in target.pieces]
        window = max(map(members.longest, of), default=1)
        parts = [_columns(spec, target, each, mode) for each in steps]
        nothing = (np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, np.bool_), np.empty(0, np.bool_))
        ts, surprise, allowed, odd = (np.concatenate(column) for column in zip(nothing, *parts, strict=True))
        return cls(ts, surprise, allowed, odd, window, target.target.step_seconds)

    def without(self, incidents: Sequence[tuple[int, int]]) -> _Columns:
        """Return the course with no surprise wherever a score has seen a step of an incident."""
        surprise, reach = self.surprise.copy(), self.window * self.step_seconds
        for start, end in incidents:
            a, b = np.searchsorted(self.ts, [start - reach, end + reach])
            surprise[a:b] = np.nan
        return replace(self, surprise=surprise)

    def between(self, start: int, stop: int) -> _Columns:
        a, b = np.searchsorted(self.ts, [start, stop]).tolist()
        return replace(
            self,
            ts=self.ts[a:b],
            surprise=self.surprise[a:b],
            allowed=self.allowed[a:b],
            odd=self.odd[a:b],
        )

    def realised(self, spec: MonitorSpec, timeline: SeenAt, start: int, stop: int) -> Realised:
        """Return the alarms that a half-open span would have raised at every surprise.

        A run that goes on from before is an alarm of the span in which it became one: alarms of days add up.
        """
        reach = look_back_seconds(spec.policy, self.step_seconds)
        whole, before = (self.between(start - reach, end)._alarms(spec, timeline) for end in (stop, start))
        scored = np.count_nonzero(~np.isnan(self.between(start, stop).surprise))
        return Realised.of(float(scored * self.step_seconds / WEEK), np.maximum(whole - before, 0.0))

    def _alarms(self, spec: MonitorSpec, timeline: SeenAt) -> Values:
        """Return how many alarms these steps would have raised at every surprise, as corrected then."""
        known_at = np.searchsorted(timeline.valid_from, self.ts, side="right") - 1
        surprise = self.surprise.copy()
        for known in np.unique(known_at[known_at >= 0]).tolist():
            rows = known_at == known
            surprise[rows] = timeline.seen[known].corrected(surprise[rows])
        alarms = calibrate.alarms_at(
            surprise,
            GRID,
            spec.policy,
            self.step_seconds,
            self.allowed,
            self.odd,
            height=surprise,
            first_ts=int(self.ts[0]) if len(self.ts) else 0,
        )
        return alarms.astype(np.float64)


def _columns(
    spec: MonitorSpec, target: ScoreTarget, steps: ScoredSteps, mode: Mode
) -> tuple[Seconds, Values, NDArray[np.bool_], NDArray[np.bool_]]:
    prepared, recipe = steps.row.prepared, steps.row.recipe
    scores = steps.own(mode)
    surprise = np.full(len(scores), np.nan)
    for rows, body, line, _ in in_force(target, steps, mode):
        surprise[rows] = SurpriseScale.of(body, line.tail).surprise(scores[rows])
    inside = steps.inside
    allowed = np.ones(len(scores), dtype=np.bool_)
    if flag.is_gated(spec.policy):
        # As at the fit: with an interval and a window around it hidden, a model knows no better.
        allowed = flag.allowed(prepared.raw, prepare.usual(recipe, prepared), spec.policy)[inside]
    return prepared.ts[inside], surprise, allowed, prepare.odd_steps(prepared.values[inside])
