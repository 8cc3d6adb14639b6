"""What of a score becomes an interval: scores under their line, and what reaches it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.base import Expected
from pipelines.failures import Failed, each_alone
from pipelines.monitor import MonitorSpec
from pipelines.names import Kind, Mode
from pipelines.records import Interval, Seconds, Values
from pipelines.steps import absence, blind, flag, masks, prepare, presence
from pipelines.steps.bodies import Body, Line
from pipelines.steps.evidence import Seen
from pipelines.steps.line import Calibrated
from pipelines.steps.masks import Span
from pipelines.times import WEEK
from pipelines.workers import bank
from pipelines.workers.score import MODES, ScoredSteps, masked_spans, raw_scores
from pipelines.workers.tasks import Scored, ScoreTarget, ScoreTask, SeenAt


def score_targets(task: ScoreTask) -> list[Scored | Failed]:
    """Return the scores and intervals of every target, in order."""

    def together(targets: Sequence[ScoreTarget]) -> list[Scored]:
        raw = raw_scores(task.spec, targets, task.weights)
        return [scored(task.spec, target, steps) for target, steps in zip(targets, raw, strict=True)]

    with bank.at_work(task.spec.device):
        return each_alone(together, task.targets)


def scored(spec: MonitorSpec, target: ScoreTarget, steps: Sequence[ScoredSteps]) -> Scored:
    """Return a target's scores under its lines, and what they flag."""
    columns = {
        "ts": [s.row.prepared.ts[s.inside] for s in steps],
        "version": [np.full(len(s.live), s.row.piece.version_id) for s in steps],
        "live": [s.live for s in steps],
        "settled": [s.settled for s in steps],
    }
    for mode in MODES:
        columns[f"{mode}_anomaly"] = [_anomaly_scores(target, s, mode) for s in steps]
    joined = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in columns.items()}
    found = _judged(spec, target, steps, joined) if steps else ()
    busy = _busy(spec, found, joined, _counts(target, joined), target.target.step_seconds)
    return Scored(target.target.id, found=found, busy=busy, **joined)  # type: ignore[arg-type]  # columns by name


def _counts(target: ScoreTarget, joined: dict[str, np.ndarray]) -> Values:
    """Return the anomaly scores that count: settled as far as there are any."""
    return np.where(joined["ts"] < target.settled_until, joined["settled_anomaly"], joined["live_anomaly"])


def _busy(
    spec: MonitorSpec,
    found: Sequence[Interval],
    joined: dict[str, np.ndarray],
    counts: Values,
    step_seconds: int,
) -> Span | None:
    """Return the span of the intervals; under a cooldown with the runs that made none: they may decide."""
    spans = [(each.start, each.end) for each in found]
    if spec.policy.cooldown_seconds > 0:
        ts = joined["ts"]
        spans += [(int(ts[a]), int(ts[b])) for a, b in flag.candidates(counts, spec.policy, step_seconds)]
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None


def _anomaly_scores(target: ScoreTarget, steps: ScoredSteps, mode: Mode) -> Values:
    """Return anomaly scores under what was in force at each timestamp."""
    scores = steps.own(mode)
    out = np.full(len(scores), np.nan)
    for rows, body, line, seen in in_force(target, steps, mode):
        out[rows] = Calibrated.of(body, line, seen).anomaly_score(scores[rows])
    return out


def in_force(
    target: ScoreTarget, steps: ScoredSteps, mode: Mode
) -> Iterator[tuple[NDArray[np.bool_], Body, Line, Seen]]:
    """Yield which steps go by which body, line and evidence: functions of their time alone."""
    ts = steps.row.prepared.ts[steps.inside]
    lines, piece = target.lines[str(mode)], steps.row.piece
    seen = piece.seen.get(str(mode), SeenAt())
    line_at = np.maximum(np.searchsorted(lines.valid_from, ts, side="right") - 1, 0)
    seen_at = np.searchsorted(seen.valid_from, ts, side="right") - 1
    for line, known in np.unique(np.stack([line_at, seen_at]), axis=1).T.tolist():
        evidence = seen.seen[known] if known >= 0 else Seen.none()
        yield (line_at == line) & (seen_at == known), piece.bodies[str(mode)], lines.lines[line], evidence


def _judged(
    spec: MonitorSpec, target: ScoreTarget, steps: Sequence[ScoredSteps], joined: dict[str, np.ndarray]
) -> tuple[Interval, ...]:
    ts = joined["ts"].astype(np.int64)
    if not len(ts):
        return ()
    counts = _counts(target, joined)
    step_seconds = target.target.step_seconds
    raw = np.concatenate([s.row.prepared.raw[s.inside] for s in steps])
    (yhat,) = expected(steps, flag.candidates(counts, spec.policy, step_seconds))
    own = np.concatenate([prepare.odd(s.row.prepared.values[s.inside]) for s in steps])
    found = flag.anomalies(
        counts,
        ts,
        raw,
        yhat,
        spec.policy,
        step_seconds,
        own=own,
        deviation=_deviations(steps, yhat),
        names=spec.channels,
        versions=joined["version"],
    )
    found += absence.on_grid(
        np.isnan(raw),
        ts,
        target.points,
        spec.policy,
        step_seconds,
        observed_until=target.observed_until,
        newest=target.newest,
        names=spec.channels,
        masked=masked_spans(spec, target),
        usual=_usually_absent(target, steps, ts),
    )
    found += _flat(steps, ts, raw, step_seconds)
    found += _blind(
        spec, target, steps, ts, raw, np.isfinite(joined["live"]) | np.isfinite(joined["settled"])
    )
    return tuple(_dated(each, ts, joined) for each in found)


def _usually_absent(target: ScoreTarget, steps: Sequence[ScoredSteps], ts: Seconds) -> list[list[Span]]:
    """Return for every channel the spans in which it usually has no point, by the version of each time."""
    step, timezone = target.target.step_seconds, target.target.timezone
    starts = [int(s.row.prepared.ts[s.inside][0]) for s in steps if len(s.live)]
    edges = [int(ts[0]) - WEEK, *starts[1:], max(target.observed_until, int(ts[-1]) + 1)]
    phase = int(ts[0])
    found = []
    for channel, points in enumerate(target.points):
        spans: list[Span] = []
        recipes = [s.row.recipe for s in steps if len(s.live)]
        for recipe, (a, b) in zip(recipes, pairwise(edges), strict=True):
            grid = np.arange(a + (phase - a) % step, b, step)
            spans += presence.excused(recipe.channels[channel].habit, grid, points.ts, timezone, step)
        last = int(target.newest[channel])
        found.append([*spans, (last + 1, last + 1 + target.patience_seconds)])
    return found


def _flat(steps: Sequence[ScoredSteps], ts: Seconds, raw: np.ndarray, step_seconds: int) -> list[Interval]:
    """Return the runs of equal values of a single series; many channels rest together only by design."""
    if raw.shape[1] > 1:
        return []
    limits = [
        flag.flat_limits(
            len(each.live),
            each.row.recipe.channels[0].usual_flat,
            # What is usual is the longest run of a week, so a week is what it is held against.
            min(each.row.piece.learned_steps, WEEK // step_seconds),
        )
        for each in steps
    ]
    return flag.flatlines(raw[:, 0], ts, np.concatenate(limits))


def _blind(
    spec: MonitorSpec,
    target: ScoreTarget,
    steps: Sequence[ScoredSteps],
    ts: Seconds,
    raw: np.ndarray,
    scored: NDArray[np.bool_],
) -> list[Interval]:
    """Return where points came and none was scored."""
    told = [_behind_gaps(spec, s) for s in steps]
    masked = masks.within(ts, masked_spans(spec, target))
    window = max(_longest(s) for s in steps)
    return blind.unscored(scored, _missing(raw), np.concatenate(told) | masked, ts, spec.policy, window)


def _behind_gaps(spec: MonitorSpec, steps: ScoredSteps) -> NDArray[np.bool_]:
    whole, own = steps.row.whole, steps.row.prepared.ts[steps.inside]
    behind = blind.behind_gaps(_missing(whole.raw), spec.policy, _longest(steps))
    first = int(np.searchsorted(whole.ts, own[0])) if len(own) else 0
    return behind[first : first + len(own)]


def _missing(raw: np.ndarray) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.isnan(raw).all(axis=1)
    return missing


def _longest(steps: ScoredSteps) -> int:
    return max(part.windows.window for part in (steps, *steps.parts))


def _dated(interval: Interval, ts: Seconds, joined: dict[str, np.ndarray]) -> Interval:
    first, last = np.searchsorted(ts, [interval.start, interval.end + 1])
    if interval.kind is not Kind.ANOMALY:
        version = int(joined["version"][min(first, len(ts) - 1)])
        return replace(interval, version_id=version, detected_at=_rule_time(interval))
    live = np.flatnonzero(joined["live_anomaly"][first:last] >= 1.0)
    return replace(interval, detected_at=int(ts[first + live[0]]) if len(live) else None)


def _rule_time(interval: Interval) -> int:
    """Return when a rule's interval was long enough: its score is its steps over those needed."""
    shortest = interval.n_points / max(interval.peak_score, 1.0)
    step = (interval.end - interval.start) / max(interval.n_points - 1, 1)
    return interval.start + round((shortest - 1) * step)


def expected(
    steps: Sequence[ScoredSteps], candidates: Sequence[tuple[int, int]], scales: Sequence[float] = (0.0,)
) -> Values:
    """Return what would have been normal, in the series' unit: the model's word near candidates, else NaN.

    Args:
        scales: how many standard deviations above it; a detector without a scale takes the usual one.

    Returns:
        Shape ``(n_scales, n, n_channels)``.
    """
    total = sum(len(s.live) for s in steps)
    yhat = np.full((len(scales), total, steps[0].row.prepared.raw.shape[1]), np.nan)
    offset = 0
    for part in steps:
        size = len(part.live)
        near = [(max(a - offset, 0), min(b - offset, size - 1)) for a, b in candidates]
        for first, last in near:
            if first <= last and last >= 0 and first < size:
                yhat[:, offset + first : offset + last + 1] = _expected_run(part, first, last, scales)
        offset += size
    return yhat


def _expected_run(part: ScoredSteps, first: int, last: int, scales: Sequence[float]) -> Values:
    """Return so many deviations above the expectation of one run, in the series' unit."""
    found = expected_run(part, first, last)
    mean = found.mean[0].numpy()
    scale = np.ones_like(mean) if found.scale is None else found.scale[0].numpy()
    own = slice(first + part.inside.start, last + part.inside.start + 1)
    row = part.row
    return np.stack([prepare.restore(row.recipe, row.prepared, mean + at * scale, own) for at in scales])


def expected_run(part: ScoredSteps, first: int, last: int) -> Expected:
    """Return the expectation of one run with it and one window around it hidden, in scaled units.

    Args:
        first, last: the run's ends among the piece's own steps, both inside.

    Returns:
        Mean and scale of its steps, each ``(1, n, n_channels)``.
    """
    window = part.windows.window
    first, last = first + part.inside.start, last + part.inside.start
    low = max(0, first - window + 1)
    stop = min(part.windows.n_windows, last + 1)
    around = part.windows.select([part.at]).span(low, stop)
    hidden = torch.zeros(1, around.n_points, dtype=torch.bool)
    hidden[:, max(0, first - window - low) : last + window + 1 - low] = True
    found = bank.expected_steps(part.models.select([part.at]), around, hidden)
    own = slice(first - low, last + 1 - low)
    return Expected(found.mean[:, own], None if found.scale is None else found.scale[:, own])


def _deviations(steps: Sequence[ScoredSteps], yhat: Values) -> Values | None:
    """Return observed minus expected of every step and channel in scaled units, NaN where either is unknown.

    None for a single channel, which has nobody to share with.

    Args:
        steps: the pieces of one target, in order of time.
        yhat: what would have been normal, in the series' unit, shape ``(n, n_channels)`` over all pieces.
    """
    if yhat.shape[1] == 1:
        return None
    edges = np.cumsum([len(each.live) for each in steps])[:-1]
    return np.concatenate(
        [
            prepare.deviations(each.row.recipe, each.row.prepared, part, each.inside)
            for each, part in zip(steps, np.split(yhat, edges), strict=True)
        ]
    )
