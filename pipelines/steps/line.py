"""Where the line is: the alarm budget as a promise.

``draw`` pools what many targets taught into one tail and one line, ``Calibrated`` is a target's scores
under it. The tail is fitted to cluster maxima of normalised excesses pooled over the targets, because one
target's unseen weeks hold a handful of independent peaks.

Departures: the Pareto's shape and scale are posterior means on a grid, not the maximum
likelihood, which is unbounded for few maxima; and the largest maxima count only as "at least so
high", because unseen data may hold real incidents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from pipelines.errors import BudgetError, InvalidError
from pipelines.monitor import Threshold
from pipelines.records import Values
from pipelines.steps.bodies import Body, Line, Placed, Tail, Typical
from pipelines.steps.calibrate import MIN_LINE, SurpriseScale, normaliser, shortened
from pipelines.steps.evidence import GRID, Realised, Seen
from pipelines.times import WEEK

MIN_ALARMS = 5.0
"""Fewer alarms than this do not place a line; it is placed here and moved along the tail."""

STEEP_ALARMS = 40.0
STEEP_TRUST = 0.7
"""Over how many alarms the steepness of their number is measured, and the power to which it is believed."""

MAX_LINE_SHARE = 0.5
"""A line that half of the normal points exceed is none."""

SHAPE_PRIOR = (0.1, 0.15)
"""Mean and deviation of the tail's shape before any data: between exponential and Student t of 5."""

SCALE_PRIOR = (0.3, 0.7)
"""Mean and deviation of the log of the tail's scale: maxima of clusters exceed the mean excess."""

CENSORED_SHARE = 0.05
"""Share of the pooled maxima whose height is not used, only that they are high."""

TYPICAL_RATIO = 0.4
"""Mean excess over spread (u less the median) where nothing else is known: normal scores .18, squares .5."""

TYPICAL_VARIETY = 0.15
"""How much that ratio differs between the targets of a monitor, as a deviation of its log."""

PRIOR_TARGETS = 10.0
"""Targets whose ratios weigh as much as the two figures above."""

TAIL_DECADES = 12.0
"""How far a curve of alarms goes on beyond the last that can be counted: no budget asks for less."""
MAX_POOLED = 1000
MAX_GRID = 1500

Curve = tuple[Values, Values]
"""Surprises, ascending, and how many alarms there are from there up."""


def draw(
    bodies: Sequence[Body],
    threshold: Threshold,
    *,
    tail_from: Sequence[Body] | Pool = (),
    previous: Line | None = None,
    realised: Realised | None = None,
) -> Line:
    """Return tail and line of a monitor, or of one target with the tail of its monitor.

    Args:
        bodies: of the targets that share the line.
        threshold: the method and its value; ``alarms`` counts for all bodies together where the
            budget is per monitor and for each of them where it is per series.
        tail_from: bodies that shape the tail, if more than ``bodies``; many draws from the same
            ones share a ``Pool`` of them.
        previous: the line so far; it stands where there is no body.
        realised: what lines turned out to give since, over the targets of ``tail_from``.

    Raises:
        BudgetError: more alarms are asked for than a line above half of the points can give.
        InvalidError: an unknown method, or a share that is no line.
        ValueError: no bodies and no previous line.
    """
    if not bodies:
        if previous is None:
            raise ValueError("expected at least one calibrated target to draw a line, got none; fit first")
        return previous
    pool = tail_from if isinstance(tail_from, Pool) else Pool(tail_from or bodies)
    match threshold.method:
        case "alarms":
            return _alarm_line(bodies, threshold, pool, realised or Realised.none())
        case "quantile":
            return _quantile_line(bodies, threshold, pool.tail)
        case "sigma":
            return Line(pool.tail, "sigma", value=3.0 if threshold.value is None else threshold.value)
        case "dynamic":
            return Line(pool.tail, "dynamic")
        case other:
            raise InvalidError(f"no threshold method {other!r}; use alarms, quantile, sigma or dynamic")


def draw_held(
    bodies: Sequence[Body],
    threshold: Threshold,
    *,
    tail_from: Sequence[Body] | Pool = (),
    realised: Realised | None = None,
) -> tuple[Line, list[str]]:
    """Return the line of ``draw``, and why it is not as asked: where a budget cannot be held, half is tried.

    Raises:
        ValueError: no bodies, or an unknown method.
    """
    refused: list[str] = []
    while True:
        try:
            return draw(bodies, threshold, tail_from=tail_from, realised=realised), refused
        except BudgetError as error:
            refused.append(str(error))
            threshold = replace(threshold, alarms_per_week=threshold.alarms_per_week / 2)


class Pool:
    """What the targets of a monitor teach together, computed once for all lines drawn from it."""

    def __init__(self, bodies: Sequence[Body]) -> None:
        self.bodies = bodies

    @cached_property
    def tail(self) -> Tail:
        """Shape and scale of the tail, and what makes a target's normaliser."""
        return _fit_tail(self.bodies)

    @cached_property
    def alarms(self) -> Curve:
        """The alarms that all targets together had, as counted."""
        return _pooled_curve(self.bodies, self.tail, _alarms)

    @cached_property
    def curve(self) -> Curve:
        """The same beyond where they can be counted."""
        return _extended(self.alarms, self.alarms)


@dataclass(frozen=True)
class Calibrated:
    """One target's scores under its line.

    >>> body = learn(np.arange(1000.0), np.arange(1000) * 60, step_seconds=60, window=1, policy=Policy())
    >>> line = draw([body], Threshold(method="quantile", value=0.1))
    >>> Calibrated.of(body, line).anomaly_score(np.array([900.0])).round(2)
    array([1.])
    """

    scale: SurpriseScale
    line: float
    """Surprise at the line."""
    seen: Seen = field(default_factory=Seen.none)
    """What scores since the fit correct."""

    @classmethod
    def of(cls, body: Body, line: Line, seen: Seen | None = None) -> Calibrated:
        """Return the calibration of one target under the line of its monitor."""
        calibrated = cls(SurpriseScale.of(body, line.tail), MIN_LINE, seen or Seen.none())
        if line.surprise is not None:
            return replace(calibrated, line=line.surprise)
        at = body.dynamic if line.value is None else body.mean + line.value * body.deviation
        return replace(calibrated, line=max(float(calibrated.surprise(np.array([at]))[0]), MIN_LINE))

    def surprise(self, scores: Values) -> Values:
        """Return ``SurpriseScale.surprise`` in the light of what was seen since the fit."""
        return self.seen.corrected(self.scale.surprise(scores))

    def anomaly_score(self, scores: Values) -> Values:
        """Return surprise over surprise at the line: 1 is the line; shape and NaN as in ``scores``."""
        return self.surprise(scores) / self.line


# -- what they teach together -------------------------------------------------------


def _fit_tail(bodies: Sequence[Body]) -> Tail:
    """Return the pooled tail: shape and scale in units of the normaliser, and what makes the normaliser."""
    typical = _typical(bodies)
    heights, weights = _pooled_maxima(bodies, typical)
    shape, scale = _pareto(heights, weights)
    return Tail(typical.ratio, typical.variety, shape, scale, maxima=round(float(weights.sum())))


def _typical(bodies: Sequence[Body]) -> Typical:
    """Return the ratio of mean excess to spread over the targets, and the variance of its log.

    The variance is what remains after the noise of each target's mean (method of moments), mixed
    with the prior's.
    """
    usable = [b for b in bodies if b.spread > 0 and b.mean_excess > 0]
    logs = np.array([np.log(b.mean_excess / b.spread) for b in usable])
    noise = np.array([b.noise for b in usable])
    weights = 1.0 / (noise + TYPICAL_VARIETY**2)
    prior = PRIOR_TARGETS / (PRIOR_TARGETS + len(usable))
    # One target with enough clusters outweighs a prior that is wide: a factor of two either way.
    centre = (np.log(TYPICAL_RATIO) / 0.5 + (weights * logs).sum()) / (1 / 0.5 + weights.sum())
    variety = TYPICAL_VARIETY**2 * prior
    if len(usable):
        variety += (1.0 - prior) * max(float(((logs - centre) ** 2 - noise).mean()), 0.0)
    return Typical(ratio=shortened(float(np.exp(centre))), variety=shortened(variety))


def _pooled_maxima(bodies: Sequence[Body], typical: Typical) -> tuple[Values, Values]:
    """Return normalised maxima, ascending, and their weights; thinned to ``MAX_POOLED`` values."""
    if not bodies:
        return np.empty(0), np.empty(0)
    heights = np.concatenate([np.array(b.maxima) / normaliser(b, typical) for b in bodies])
    weights = np.concatenate([np.array(b.maxima_counts) for b in bodies])
    order = np.argsort(heights)
    heights, weights = heights[order], weights[order]
    if len(heights) <= MAX_POOLED:
        return heights, weights
    total = np.cumsum(weights)
    middles = (np.arange(MAX_POOLED) + 0.5) / MAX_POOLED * total[-1]
    return heights[np.searchsorted(total, middles)], np.full(MAX_POOLED, total[-1] / MAX_POOLED)


def _pareto(heights: Values, weights: Values) -> tuple[float, float]:
    """Return posterior means of shape and scale of the generalised Pareto.

    On a grid, with the highest ``CENSORED_SHARE`` counted only as at least as high as the lowest
    of them. Without data these are the prior's.
    """
    shapes, logs = np.arange(0.0, 1.201, 0.03), np.arange(-2.5, 2.501, 0.05)
    fit = -0.5 * ((shapes - SHAPE_PRIOR[0]) / SHAPE_PRIOR[1])[:, None] ** 2
    fit = fit - 0.5 * ((logs - SCALE_PRIOR[0]) / SCALE_PRIOR[1])[None, :] ** 2
    if len(heights):
        total = np.cumsum(weights)
        cut = int(np.searchsorted(total, (1.0 - CENSORED_SHARE) * total[-1], side="right"))
        seen, top = slice(0, cut), slice(cut, None)
        fit = fit + _log_survival(heights[seen], weights[seen], shapes, logs, density=True)
        if cut < len(heights):
            fit = fit + _log_survival(heights[cut : cut + 1], weights[top].sum(keepdims=True), shapes, logs)
    weight = np.exp(fit - fit.max())
    weight /= weight.sum()
    shape = float((weight.sum(axis=1) * shapes).sum())
    # The scale that belongs to that shape: scale and shape trade off along a ridge.
    near = np.exp(-0.5 * ((shapes - shape) / 0.03) ** 2)[:, None] * weight
    return shape, float(np.exp((near.sum(axis=0) * logs).sum() / near.sum()))


def _log_survival(
    heights: Values, weights: Values, shapes: Values, logs: Values, *, density: bool = False
) -> Values:
    """Return the weighted sum of log-survivals, or log-densities, for every shape and scale."""
    out = np.empty((len(shapes), len(logs)))
    total = weights.sum()
    z = heights[:, None] / np.exp(logs)
    for row, shape in enumerate(shapes):
        cost = weights @ (np.log1p(shape * z) / shape if shape else z)
        out[row] = -cost * (1.0 + shape) - total * logs if density else -cost
    return out


# -- where the line is --------------------------------------------------------------


def _alarm_line(bodies: Sequence[Body], threshold: Threshold, pool: Pool, realised: Realised) -> Line:
    """Return the line at which the unseen scores give as many alarms as the budget asks for.

    Raises:
        BudgetError: no line below which more than half of the points lie gives so many.
    """
    weeks = _weeks(bodies)
    share = weeks / len(bodies) if threshold.per == "monitor" else weeks
    asked = threshold.alarms_per_week * share
    shared = bodies is pool.bodies or len(bodies) == len(pool.bodies)
    own = pool.alarms if shared else _pooled_curve(bodies, pool.tail, _alarms)
    if own[1].max(initial=0.0) == 0.0:
        # Nothing ever moved: any change is an alarm, so only the number of points says how rare one is.
        rarest = np.log10(max(sum(b.n for b in bodies) / asked, 10.0))
        return _line(pool.tail, rarest, threshold, asked, 0.0)
    curve = pool.curve if shared else _extended(own, pool.alarms)
    if realised.weeks:
        curve = _realised(curve, pool, realised)
    most = float(curve[1][0])
    if asked > most:
        raise BudgetError(
            f"alarms_per_week of {threshold.alarms_per_week:g} needs a line that more than half of the "
            f"normal points exceed; the largest possible is {most / share:.3g} per {threshold.per}"
        )
    placed = max(asked, min(MIN_ALARMS, most))
    return _line(pool.tail, _falling_to(curve, asked), threshold, asked, placed)


def _weeks(bodies: Sequence[Body]) -> float:
    """Return the series-weeks of unseen scores that the bodies were learned from."""
    return float(sum(b.seconds for b in bodies)) / WEEK


def _extended(own: Curve, pooled: Curve) -> Curve:
    """Return a curve of alarms beyond where a handful can be counted.

    Its own steps down to ``MIN_ALARMS``; from there as the pool's fall, as far as the pool has alarms
    to count; beyond that as the probability of the tail does.
    """
    levels, alarms = own
    last = np.append(np.diff(alarms) < 0, True) & (alarms > 0)
    few = min(MIN_ALARMS, float(alarms.max()))
    at = _solve(levels, alarms, few)
    counted = last & (alarms > few)
    x, n = np.append(levels[counted], at), np.append(alarms[counted], few)
    pool_x, pool_n = pooled
    here = float(pool_n[np.searchsorted(pool_x, at)]) if at <= pool_x[-1] else 0.0
    on = np.append(np.diff(pool_n) < 0, True) & (pool_x > at) & (pool_n >= MIN_ALARMS) & (pool_n < here)
    x, n = np.append(x, pool_x[on]), np.append(n, few * pool_n[on] / max(here, 1.0))
    if here > MIN_ALARMS:
        x, n = np.append(x, _solve(pool_x, pool_n, MIN_ALARMS)), np.append(n, few * MIN_ALARMS / here)
    fall = TAIL_DECADES * _steepness(pool_x, pool_n)
    return np.append(x, max(x[-1], at) + TAIL_DECADES), np.append(n, n[-1] * 10.0**-fall)


def _realised(curve: Curve, pool: Pool, realised: Realised) -> Curve:
    """Return a curve corrected by what lines turned out to give, falling."""
    expected = np.exp(np.interp(GRID, pool.curve[0], np.log(pool.curve[1]))) / _weeks(pool.bodies)
    ratio = np.log(realised.ratio(expected))
    low, high = np.searchsorted(GRID, [curve[0][0], curve[0][-1]])
    x = np.unique(np.append(curve[0], GRID[low:high]))
    log_n = np.interp(x, curve[0], np.log(curve[1])) + np.interp(x, GRID, ratio)
    # Where few alarms were counted the ratio may rise faster than the curve falls.
    return x, np.exp(np.maximum.accumulate(log_n[::-1])[::-1])


def _falling_to(curve: Curve, wanted: float) -> float:
    """Return the surprise at which a curve falls to a number of alarms, between steps on a log scale."""
    x, log_n = curve[0][::-1], np.log(curve[1][::-1])
    # A hair apart, so that of equal counts the highest surprise is taken.
    return float(np.interp(np.log(wanted), log_n + 1e-12 * np.arange(len(log_n)), x))


def _steepness(levels: Values, alarms: Values) -> float:
    """Return how many decades the alarms fall per decade of probability, at least 1.

    More where steps are nearly independent and an alarm needs several of them. Less is seen in
    the body only, where clusters still grow shorter with the level; the tail has p for p.
    """
    many, few = min(STEEP_ALARMS, alarms[0]), MIN_ALARMS
    if many < 2 * few:
        return 1.0
    width = max(_solve(levels, alarms, few) - _solve(levels, alarms, many), 0.05)
    return float(np.clip(np.log10(many / few) / width, 1.0, 2.5)) ** STEEP_TRUST


def _quantile_line(bodies: Sequence[Body], threshold: Threshold, tail: Tail) -> Line:
    """Return the line that a share of the unseen points reaches.

    Raises:
        InvalidError: the share is not between 0 and one half.
    """
    share = 0.001 if threshold.value is None else threshold.value
    if not 0.0 < share < MAX_LINE_SHARE:
        raise InvalidError(f"quantile takes a contamination between 0 and {MAX_LINE_SHARE}, got {share:g}")
    asked = share * sum(b.n for b in bodies)
    levels, points = _pooled_curve(bodies, tail, _points)
    most = float(points.max(initial=0.0))
    if most == 0.0 or asked > most:
        return _line(tail, -np.log10(share), threshold, asked, 0.0)
    placed = max(asked, min(MIN_ALARMS, most))
    surprise = _solve(levels, points, placed) + np.log10(placed / asked)
    return _line(tail, surprise, threshold, asked, placed)


def _line(tail: Tail, surprise: float, threshold: Threshold, asked: float, placed: float) -> Line:
    return Line(
        tail,
        threshold.method,
        surprise=shortened(max(float(surprise), MIN_LINE)),
        placed=Placed(shortened(asked), shortened(placed), threshold.per, threshold.alarms_per_week),
    )


def _alarms(body: Body) -> Sequence[int]:
    return body.alarms


def _points(body: Body) -> Sequence[int]:
    return body.points


def _pooled_curve(
    bodies: Sequence[Body], tail: Tail, counts: Callable[[Body], Sequence[int]]
) -> tuple[Values, Values]:
    """Return surprises, ascending, and how many alarms or points all bodies together have from there up.

    Falling with surprise; only where fewer than half of the points lie above.
    """
    curves = [
        (SurpriseScale.of(b, tail).surprise(b.level_values), np.array(counts(b), dtype=np.float64))
        for b in bodies
        if b.levels
    ]
    if not curves:
        return np.empty(0), np.empty(0)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[grid > MIN_LINE]
    if len(grid) > MAX_GRID:
        # Every level near the top, where single alarms count, and an even choice of the others.
        body = grid[np.linspace(0, len(grid) - MAX_GRID // 2, MAX_GRID // 2, endpoint=False).astype(np.intp)]
        grid = np.concatenate((body, grid[-MAX_GRID // 2 :]))
    count = np.zeros(len(grid))
    for x, n in curves:
        count += _count_at(grid, x, n)
    return grid, np.maximum.accumulate(count[::-1])[::-1]


def _count_at(grid: Values, x: Values, n: Values) -> Values:
    """Return the count at every surprise of the grid: n_k at x_k, and between as even steps.

    Between neighbouring levels that differ by one the count is that of the upper, exactly.
    """
    upper = np.searchsorted(x, grid, side="left")
    n_up = np.append(n, 0.0)
    inside = (upper > 0) & (upper < len(x))
    k = upper[inside]
    width = np.maximum(x[k] - x[k - 1], 1e-12)
    rise = n[k - 1] - n[k]
    rise = np.where(rise > 0, rise - 1.0, rise)
    count = n_up[upper]
    count[inside] += (x[k] - grid[inside]) / width * rise
    return count


def _solve(levels: Values, counts: Values, wanted: float) -> float:
    """Return the highest surprise that still gives the count wanted, between steps on a log scale."""
    last = np.append(np.diff(counts) < 0, True) & (counts > 0)
    x, n = levels[last][::-1], np.log(counts[last][::-1])
    return float(np.interp(np.log(wanted), n, x))
