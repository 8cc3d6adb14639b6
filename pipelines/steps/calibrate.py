"""From scores to surprise: what one target scored on data its model did not see.

``learn`` reads those scores; ``SurpriseScale`` is the map from scores to surprise. Method: empirical body
below u, the 98 % quantile; above it zeta_u times a generalised Pareto tail (Pickands 1975; Coles 2001, An
Introduction to Statistical Modeling of Extreme Values, 5.3) that ``pipelines.steps.line`` pools over the
targets of a monitor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import InvalidError
from pipelines.records import Policy, Seconds, Values
from pipelines.steps.bodies import Body, Tail, Typical
from pipelines.steps.flag import Flags, Indices, run_bounds, shape_bounds

TAIL_SHARE = 0.02
"""Share of the scored steps that lie in the tail."""

BODY_SHARES = (1.0, 0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.22, 0.16, 0.12, 0.09, 0.07, 0.05, 0.04, 0.03, 0.025)
"""Shares of steps at or above the knots of the body."""

MAX_MAXIMA = 64
EXACT_LEVELS = 32
"""Highest alarms whose levels stand in the alarm curve one by one."""

MAX_LEVELS = 64

MIN_LINE = float(np.log10(2.0))
"""The lowest line: half of the points lie above."""

LN10 = float(np.log(10.0))


def learn(
    scores: Values,
    ts: Seconds,
    *,
    step_seconds: int,
    window: int,
    policy: Policy,
    allowed: Flags | None = None,
    own: Flags | None = None,
) -> Body:
    """Return the body of a calibration: what one target scores while nothing is known to be wrong.

    Args:
        scores: raw scores of steps whose block the model did not see, NaN for none, shape ``(n,)``.
        ts: epoch seconds of the steps, ascending.
        window: steps that a score looks at: exceedances closer than this are one cluster.
        policy: what of a run of high scores is an alarm.
        allowed: True where the policy's direction and deviations hold; everywhere if None.
        own: True where a step is odd by itself, to which intervals are trimmed.

    Raises:
        InvalidError: no step has a score.
    """
    score, passes, odd = _regular(scores, ts, step_seconds, allowed, own)
    known = np.sort(score[~np.isnan(score)])
    if len(known) == 0:
        raise InvalidError("expected unseen scores to calibrate on, got none; fit on a longer span")
    knots, surprises = _body(known)
    u = knots[-1]
    clusters = _cluster_maxima(score, u, window)
    mean_excess, noise = _mean_excess(score, u, window)
    maxima, counts = _compressed(clusters - u)
    shaped = _shaped(_shown(score, passes), policy, step_seconds)
    levels = _levels(shaped, u, float(known[len(known) // 2]), window)
    points = len(known) - np.searchsorted(known, levels, side="left")
    return Body(
        knots=tuple(knots),
        surprises=tuple(surprises),
        n=len(known),
        seconds=len(known) * step_seconds,
        clusters=len(clusters),
        mean_excess=mean_excess,
        noise=noise,
        spread=shortened(max(u - float(known[len(known) // 2]), 0.0)),
        maxima=maxima,
        maxima_counts=counts,
        mean=shortened(float(known.mean())),
        deviation=shortened(float(known.std())),
        dynamic=shortened(_hundman(score)),
        levels=tuple(levels.tolist()),
        # Whatever their unit: one that is higher by half, and breaks through a cooldown, is rare.
        alarms=tuple(
            alarms_at(score, levels, policy, step_seconds, passes, odd, first_ts=int(ts[0])).tolist()
        ),
        points=tuple(points.tolist()),
    )


@dataclass(frozen=True)
class SurpriseScale:
    """The monotone map between the scores and the surprises of one target.

    Attributes:
        knots, surprises: the body, both strictly ascending; the last knot is u.
        shape: of the pooled tail, 0 (exponential) or more: a tail without end.
        spread: the tail's scale in units of the score.
    """

    knots: Values
    surprises: Values
    shape: float
    spread: float

    @classmethod
    def of(cls, body: Body, tail: Tail) -> SurpriseScale:
        """Return the map of a target's body under a pooled tail."""
        spread = tail.scale * normaliser(body, tail)
        return cls(body.knot_values, body.surprise_values, tail.shape, spread)

    def surprise(self, scores: Values) -> Values:
        """Return -log10 of the probability of a score at least this high; NaN stays NaN."""
        surprise = np.interp(scores, self.knots, self.surprises)
        high = scores > self.knots[-1]
        if high.any():
            excess = np.minimum(scores[high], 1e300) - self.knots[-1]
            surprise[high] += _tail_surprise(excess / self.spread, self.shape)
        return surprise


def _tail_surprise(z: Values, shape: float) -> Values:
    """Return -log10 of the generalised Pareto's survival, in logarithms so that it never ends."""
    return np.log1p(shape * z) / (shape * LN10) if shape else z / LN10


def normaliser(body: Body, typical: Typical) -> float:
    """Return what one unit of excess is: the target's own mean excess, as far as it is known.

    A handful of clusters hardly tells: the spread of the body, times what that ratio is over the
    monitor, weighs the more, the less the targets differ and the noisier the own mean is.
    Without this, low budgets got up to 1.8 times the alarms: a target whose mean comes out low
    by chance floods the monitor.
    """
    floor = _floor(body)
    own, usual = max(body.mean_excess, floor), max(typical.ratio * body.spread, floor)
    weight = typical.variety / (typical.variety + body.noise)
    return float(own**weight * usual ** (1.0 - weight))


def _floor(body: Body) -> float:
    """Return the least that one unit of excess can be, for scores that (nearly) never change."""
    return max(1e-3 * body.spread, 1e-6 * abs(body.u), 1e-12)


# -- what one target teaches --------------------------------------------------------


def _regular(
    scores: Values, ts: Seconds, step_seconds: int, allowed: Flags | None, own: Flags | None
) -> tuple[Values, Flags, Flags | None]:
    """Return scores, gate and odd steps on every step from the first to the last: a gap parts runs."""
    if allowed is None:
        allowed = np.ones(len(scores), dtype=np.bool_)
    if len(ts) < 2 or ts[-1] - ts[0] == (len(ts) - 1) * step_seconds:
        return scores.astype(np.float64), allowed, own
    at = (ts - ts[0]) // step_seconds
    score = np.full(int(at[-1]) + 1, np.nan)
    passes, odd = (np.zeros(len(score), dtype=np.bool_) for _ in range(2))
    score[at], passes[at] = scores, allowed
    if own is None:
        return score, passes, None
    odd[at] = own
    return score, passes, odd


def _body(known: Values) -> tuple[list[float], list[float]]:
    """Return scores and surprises up to u, both strictly ascending.

    u is the smallest score that at most ``TAIL_SHARE`` of the steps reach. With ties there may be
    none; then it lies a hair above the highest, which one in n + 1 is allowed to pass.

    Args:
        known: sorted scores.
    """
    n = len(known)
    at = known[np.minimum((n * (1.0 - np.array(BODY_SHARES))).astype(np.intp), n - 1)]
    tail = np.searchsorted(known, known, side="left") >= n * (1.0 - TAIL_SHARE)
    top = known[int(np.argmax(tail))] if tail.any() else known[-1]
    knots = np.unique(np.append(at[at <= top], top))
    share = (n - np.searchsorted(known, knots, side="left")) / n
    if not tail.any():
        hair = max(1e-6 * abs(top), 1e-3 * float(top - known[0]), 1e-12)
        knots, share = np.append(knots, top + hair), np.append(share, 1.0 / (n + 1))
    # Rounded to nine digits; knots that fall together then would not be strictly ascending.
    short = np.array([shortened(k) for k in knots])
    keep = np.append(np.diff(short) > 0, True)
    return short[keep].tolist(), [shortened(abs(x)) for x in np.log10(share[keep])]


def _cluster_maxima(score: Values, level: float, window: int) -> Values:
    """Return the highest score of every cluster of exceedances, highest first.

    Exceedances with fewer than ``window`` steps between them share windows and are one cluster
    (runs declustering: Coles 2001, 5.3.2).
    """
    above, first = _clusters(score, level, window)
    return np.sort(np.maximum.reduceat(score[above], first))[::-1] if len(above) else np.empty(0)


def _clusters(score: Values, level: float, window: int) -> tuple[Indices, Indices]:
    """Return the indices of all exceedances, and where among them each cluster begins."""
    above = np.flatnonzero(score >= level)
    return above, np.append(0, np.flatnonzero(np.diff(above) > max(window, 1)) + 1)[: len(above)]


def _mean_excess(score: Values, u: float, window: int) -> tuple[float, float]:
    """Return the mean excess over u, and the variance of its log: clusters, not steps, are independent."""
    above, first = _clusters(score, u, window)
    if len(above) == 0:
        return 0.0, 1.0
    excess = score[above] - u
    mean = float(excess.mean())
    if mean == 0.0:
        return 0.0, 1.0
    # Of a ratio: the sum over clusters of excesses, by that of their lengths.
    lengths = np.diff(np.append(first, len(above)))
    residuals = np.add.reduceat(excess, first) - mean * lengths
    variance = float((residuals**2).sum()) / (mean * len(above)) ** 2
    return shortened(mean), shortened(max(variance, 1.0 / len(first)))


def _compressed(maxima: Values) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return at most ``MAX_MAXIMA`` values and how many maxima each stands for.

    The upper half stands for itself, further down the middles of equal shares do.
    """
    if len(maxima) <= MAX_MAXIMA:
        return tuple(shortened(m, 5) for m in maxima), (1,) * len(maxima)
    half = MAX_MAXIMA // 2
    rest = maxima[half:]
    middles = ((np.arange(half) + 0.5) / half * len(rest)).astype(np.intp)
    counts = (1,) * half + (shortened(len(rest) / half, 5),) * half
    return tuple(shortened(m, 5) for m in np.concatenate((maxima[:half], rest[middles]))), counts


def alarms_at(
    score: Values,
    levels: Values,
    policy: Policy,
    step_seconds: int,
    allowed: Flags,
    own: Flags | None,
    *,
    height: Values | None = None,
    first_ts: int = 0,
) -> NDArray[np.int64]:
    """Return how many intervals a line at each level gives, shape of ``levels`` (ascending).

    Args:
        score: of regular steps, NaN for none; in any unit that the levels share.
        allowed, own: as in ``learn``.
        height, first_ts: as in ``flag.shape_bounds``, for a policy with a cooldown.
    """
    shown = _shown(score, allowed)
    # Trimming changes which runs last long enough, and nothing else.
    if policy.cooldown_seconds > 0 or (own is not None and policy.min_duration_seconds > 0):
        counts = [
            len(shape_bounds(shown >= at, policy, step_seconds, own, height=height, first_ts=first_ts)[0])
            for at in levels
        ]
        return np.array(counts, dtype=np.int64)
    return _count_runs(_shaped(shown, policy, step_seconds), levels)


def _shown(score: Values, passes: Flags) -> Values:
    return np.where(passes & ~np.isnan(score), score, -np.inf)


def _shaped(shown: Values, policy: Policy, step_seconds: int) -> Values:
    """Return scores of which every run at or above any level is an interval of the policy there.

    Filling gaps of g steps and dropping runs below m steps commute with thresholding: they are a
    closing and an erosion in grey-scale morphology (Serra 1982), so one pass serves all levels.
    """
    gap = policy.merge_max_gap_seconds // step_seconds + 1
    shortest = -(-policy.min_duration_seconds // step_seconds)
    if gap <= 1 and shortest <= 1:
        return shown
    from scipy.ndimage import maximum_filter1d, minimum_filter1d  # costs half a second at start

    edge = np.full(gap + shortest, -np.inf)
    shown = np.concatenate((edge, shown, edge))
    shown = maximum_filter1d(shown, gap, origin=-((gap - 1) // 2) if gap % 2 else -(gap // 2 - 1))
    shown = minimum_filter1d(shown, gap, origin=(gap - 1) // 2 if gap % 2 else gap // 2 - 1)
    return np.asarray(minimum_filter1d(shown, shortest) if shortest > 1 else shown)


def _levels(shaped: Values, u: float, lowest: float, window: int) -> Values:
    """Return at most ``MAX_LEVELS`` levels, ascending: the highest peaks, then even ratios of ranks.

    Peaks of clusters, not of runs: a plateau's ripple is many runs in a sliver of levels.
    """
    peaks = _cluster_maxima(shaped, u, window)[:EXACT_LEVELS]
    high = np.sort(shaped[shaped >= lowest])[::-1]
    if len(high) == 0:
        return np.empty(0)
    first = int(np.count_nonzero(high >= peaks[-1])) if len(peaks) else 1
    ranks = np.geomspace(first, len(high), MAX_LEVELS - len(peaks)).astype(np.intp)
    chosen = np.unique(np.concatenate((peaks, high[ranks - 1])))
    # A hair lower, so that rounding never lifts a level above the peak it belongs to.
    return np.unique([shortened(level - 1e-6 * abs(level), 7) for level in chosen.tolist()])


def _count_runs(shaped: Values, levels: Values) -> NDArray[np.int64]:
    """Return the runs at or above every level: steps that reach it, less neighbours that both do."""
    low = levels[0] if len(levels) else np.inf
    steps = np.sort(shaped[shaped >= low])
    pairs = np.minimum(shaped[1:], shaped[:-1])
    pairs = np.sort(pairs[pairs >= low])
    n_steps = len(steps) - np.searchsorted(steps, levels)
    return np.asarray(n_steps - (len(pairs) - np.searchsorted(pairs, levels)), dtype=np.int64)


def _hundman(score: Values) -> float:
    """Return the score above which the rest looks calmest: Hundman et al. 2018 (arXiv 1802.04431), 3.2.

    Departures: chosen once on the unseen scores, not per slice, so that no slice moves the line.
    """
    known = score[~np.isnan(score)]
    mean, deviation = float(known.mean()), float(known.std())
    best, chosen = -np.inf, mean + 3.0 * deviation
    if deviation == 0:
        return chosen
    for z in np.arange(2.0, 12.5, 0.5):
        level = mean + z * deviation
        above = score > level
        n_above = int(np.count_nonzero(above))
        if n_above == 0:
            break
        calm = known[known <= level]
        gain = (mean - calm.mean()) / mean if mean else 0.0
        gain += (deviation - calm.std()) / deviation
        value = gain / (n_above + len(run_bounds(above)[0]) ** 2)
        if value > best:
            best, chosen = value, level
    return float(chosen)


def shortened(value: float, digits: int = 9) -> float:
    return float(f"{value:.{digits}g}")
