"""From scores to intervals: runs at or above the line under a policy, and the rules no density replaces.

All steps of one target lie on a regular grid; an index is a step. Runs are pairs of indices, both
inside. What happens at a step depends only on steps at most ``context_seconds(policy)`` before the
run it belongs to, so a pass over a part leaves what a pass over the whole does. Where a policy has a
cooldown and run follows run, it depends on those back to ``remembered_from``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.names import Kind
from pipelines.records import Interval, Policy, Seconds, Values

ABOVE, BELOW, BOTH = "above_expected", "below_expected", "both"

Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]

MIN_FLAT_STEPS = 8
"""Fewer equal values in a row are never a flatline, however busy the series was before."""

FLAT_MARGIN = 1.5
"""With runs of geometric length, one of 1.5 times the longest in n steps comes n^-0.5 times in the next n."""

LOUDER, LONGER = 1.5, 4
"""What is so many times as high as the last interval, or lasts so many times as long, ends a cooldown."""

STORM_COOLDOWNS = 16
"""A storm is decided on from its begin, or from so many cooldowns before at least."""

CONSTANT_SHARE = 0.25
"""A series that stood still for this share of what was learned is constant by habit, never flat by fault."""


def context_seconds(policy: Policy) -> int:
    """Return how much before a run must be known for the policy to decide on it."""
    return policy.merge_max_gap_seconds + policy.min_duration_seconds + policy.cooldown_seconds


def run_bounds(flagged: Flags) -> tuple[Indices, Indices]:
    """Return first and last index of every run of True."""
    padded = np.zeros(len(flagged) + 2, dtype=np.int8)
    padded[1:-1] = flagged
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return edges[::2], edges[1::2] - 1


def runs(flagged: Flags) -> list[tuple[int, int]]:
    """Return the runs of True as inclusive index pairs.

    >>> runs(np.array([False, True, True, False, True]))
    [(1, 2), (4, 4)]
    """
    return _pairs(*run_bounds(flagged))


def remembered_from(ts: int, policy: Policy) -> int:
    """Return the earliest time whose runs may decide on one at ``ts``, however long a storm goes on."""
    if policy.cooldown_seconds <= 0:
        return ts
    storm = STORM_COOLDOWNS * policy.cooldown_seconds
    return (ts // storm - 1) * storm


def shape_bounds(
    flagged: Flags,
    policy: Policy,
    step_seconds: int,
    own: Flags | None = None,
    *,
    height: Values | None = None,
    first_ts: int = 0,
) -> tuple[Indices, Indices]:
    """Return first and last index of every run after merging, trimming, minimum duration and cooldown.

    The score of a window speaks in every step it covers, so a run reaches a window beyond what is
    odd; with ``own`` it is trimmed to the first and last step that is odd by itself.

    A run that starts within the cooldown of the last interval makes none, unless it is much higher
    (`LOUDER`) or longer (`LONGER`) than that one. What makes no interval prolongs nothing.

    Args:
        height: how high the steps are, on a scale with a zero; no run is higher than others where None.
        first_ts: epoch seconds of step 0: what a storm remembers is a function of time.
    """
    starts, ends = _merged(*run_bounds(flagged), policy.merge_max_gap_seconds, step_seconds)
    if own is not None and len(starts):
        # In what was joined, normal steps lie between; one in twenty of those is odd by itself.
        starts, ends = _trimmed(starts, ends, own & flagged)
    if policy.min_duration_seconds > 0 and len(starts):
        long = (ends - starts + 1) * step_seconds >= policy.min_duration_seconds
        starts, ends = starts[long], ends[long]
    if policy.cooldown_seconds > 0 and len(starts):
        raised = _Storms(
            starts, ends, _heights(starts, ends, flagged, height), policy, step_seconds, first_ts
        )
        rested = raised.mask()
        starts, ends = starts[rested], ends[rested]
    return starts, ends


def _heights(starts: Indices, ends: Indices, flagged: Flags, height: Values | None) -> Values:
    """Return how high every run is."""
    if height is None:
        return np.ones(len(starts))
    edges = np.stack([starts, ends + 1], axis=1).ravel()
    padded = np.append(np.where(flagged & ~np.isnan(height), height, 0.0), 0.0)
    return np.maximum.reduceat(padded, edges)[::2]


@dataclass(frozen=True)
class _Storms:
    """Runs under a cooldown.

    What was raised decides on what follows, and so back to the begin of the storm. One that never rests would
    make every pass read all history: a run is decided on by a walk that begins a fixed stretch of time before
    its own, with the same answer as the whole where the storm is younger than that.
    """

    starts: Indices
    ends: Indices
    heights: Values
    policy: Policy
    step_seconds: int
    first_ts: int

    def mask(self) -> Flags:
        """Return which runs make an interval."""
        stretch = (self.first_ts + self.starts * self.step_seconds) // (
            STORM_COOLDOWNS * self.policy.cooldown_seconds
        )
        out = np.zeros(len(self.starts), dtype=np.bool_)
        for own in np.unique(stretch):
            begin, first, stop = np.searchsorted(stretch, (own - 1, own, own + 1))
            raised = self._raised(int(begin), int(stop))
            out[[at for at in raised if at >= first]] = True
        return out

    def _raised(self, first: int, stop: int) -> list[int]:
        """Return which of some runs make an interval, where nothing is known of what came before them."""
        found, at = [], first
        while at < stop:
            found.append(at)
            at = self._next(at, stop)
        return found

    def _next(self, last: int, stop: int) -> int:
        """Return the first run after an interval that makes one too."""
        rested = self.ends[last] + 1 + self.policy.cooldown_seconds / self.step_seconds
        calm = last + 1 + int(np.searchsorted(self.starts[last + 1 : stop], rested))
        within = slice(last + 1, calm)
        lengths = self.ends[within] - self.starts[within] + 1
        breaks = (self.heights[within] >= LOUDER * self.heights[last]) | (
            lengths >= LONGER * (self.ends[last] - self.starts[last] + 1)
        )
        return last + 1 + int(breaks.argmax()) if breaks.any() else calm


def is_gated(policy: Policy) -> bool:
    """True where the policy looks at the value expected, so that ``yhat`` is needed."""
    return (
        policy.detection_direction != BOTH
        or policy.min_dev_from_expected > 0
        or policy.min_rel_dev_from_expected > 0
    )


def allowed(y: Values, yhat: Values, policy: Policy) -> Flags:
    """Return where direction and deviation are what the policy asks for.

    Args:
        y, yhat: observed and expected in the series' unit, shape ``(n,)`` or ``(n, n_channels)``;
            of several channels one that passes is enough. NaN never passes a policy that looks.

    Returns:
        Shape ``(n,)``.
    """
    return np.asarray(_passes(y, yhat, policy).any(axis=1))


def _passes(y: Values, yhat: Values, policy: Policy) -> Flags:
    """Return where each channel deviates as the policy asks for, shape ``(n, n_channels)``."""
    if not is_gated(policy):
        return np.ones(np.shape(_columns(y)), dtype=np.bool_)
    deviation = _columns(y) - _columns(yhat)
    size = np.abs(deviation)
    passes = size >= np.maximum(
        policy.min_dev_from_expected, policy.min_rel_dev_from_expected * np.abs(_columns(yhat))
    )
    if policy.detection_direction == ABOVE:
        passes &= deviation > 0
    if policy.detection_direction == BELOW:
        passes &= deviation < 0
    return np.asarray(passes)


def gate(flagged: Flags, y: Values, yhat: Values, policy: Policy) -> Flags:
    """Return the flagged steps that pass the policy's direction and deviations, shape ``(n,)``."""
    return flagged & allowed(y, yhat, policy) if is_gated(policy) else flagged


def candidates(anomaly_score: Values, policy: Policy, step_seconds: int) -> list[tuple[int, int]]:
    """Return the runs that may become intervals, before their expected values are known.

    Merged and of minimum duration, but neither gated nor cooled down: gating only ever takes
    steps away, so no interval lies outside of these.
    """
    flagged = anomaly_score >= 1.0
    if not flagged.any():
        return []
    starts, ends = _merged(*run_bounds(flagged), policy.merge_max_gap_seconds, step_seconds)
    long = (ends - starts + 1) * step_seconds >= policy.min_duration_seconds
    return _pairs(starts[long], ends[long])


def anomalies(
    anomaly_score: Values,
    ts: Seconds,
    y: Values,
    yhat: Values | None,
    policy: Policy,
    step_seconds: int,
    *,
    newest: int | None = None,
    own: Flags | None = None,
    deviation: Values | None = None,
    names: Sequence[str] = (),
    versions: Seconds | None = None,
) -> list[Interval]:
    """Return the intervals of kind ``anomaly``, in order of time.

    Args:
        anomaly_score: shape ``(n,)``, 1 is the line, NaN where there is no score.
        ts: epoch seconds of the steps, shape ``(n,)``.
        y: observed values in the series' unit, NaN where missing, shape ``(n,)`` or ``(n, n_channels)``.
        yhat: what would have been normal, needed at the steps of ``candidates``; None where unknown.
        newest: time of the newest scored step there is; an interval that reaches it is open.
            The last step with a score where None.
        own: steps that are odd by themselves, shaped like ``y``: intervals are trimmed to them, and peak at
            one of them where there is any; none is where None.
        deviation: of y from yhat in units that all channels share, like ``y``: its squares over the
            interval, where the policy allows them, are the channels' shares. y minus yhat where None.
        names: the channels' metrics; no shares are told where there are none.
        versions: model version that scored each step.

    Raises:
        ValueError: the policy looks at the expected value and ``yhat`` is None.
    """
    flagged = anomaly_score >= 1.0
    if not flagged.any():
        return []
    if yhat is None:
        if is_gated(policy):
            raise ValueError(
                "the policy has a direction or a minimum deviation, which needs yhat; "
                "pass what detector.expect gave at the steps of candidates()"
            )
        yhat = np.full(np.shape(y), np.nan)
    flagged = gate(flagged, y, yhat, policy)
    if newest is None:
        newest = int(ts[np.flatnonzero(~np.isnan(anomaly_score))[-1]])
    y, yhat = _columns(y), _columns(yhat)
    found = _Scored(
        score=anomaly_score,
        flagged=flagged,
        ts=ts,
        y=y,
        yhat=yhat,
        passes=_passes(y, yhat, policy),
        deviation=y - yhat if deviation is None else deviation,
        names=names,
        versions=versions,
        newest=newest,
        odd=np.zeros(y.shape, dtype=np.bool_) if own is None else own.reshape(y.shape),
    )
    odd = None if own is None else np.asarray(found.odd.any(axis=1))
    bounds = shape_bounds(flagged, policy, step_seconds, odd, height=anomaly_score, first_ts=int(ts[0]))
    return [found.interval(a, b) for a, b in _pairs(*bounds)]


@dataclass(frozen=True)
class _Scored:
    """The scored steps of one target, ready to be cut into intervals.

    Attributes:
        passes: where each channel deviates as the policy asks for, shape ``(n, n_channels)``.
        deviation: of y from yhat in units that all channels share, same shape.
        odd: where each channel is odd by itself, same shape.
    """

    score: Values
    flagged: Flags
    ts: Seconds
    y: Values
    yhat: Values
    passes: Flags
    deviation: Values
    names: Sequence[str]
    versions: Seconds | None
    newest: int
    odd: Flags

    def interval(self, first: int, last: int) -> Interval:
        """Return the interval from step ``first`` to step ``last``."""
        steps = slice(first, last + 1)
        shares = self._shares(steps)
        channel = 0 if shares is None else int(np.argmax(shares))
        peak = first + self._peak(steps, channel)
        deviation = self.y[steps, channel] - self.yhat[steps, channel]
        known = deviation[~np.isnan(deviation)]
        impact = float(known.sum()) if len(known) else None
        at_peak = float(deviation[peak - first])
        scored = self.score[steps][~np.isnan(self.score[steps])]
        return Interval(
            kind=Kind.ANOMALY,
            start=int(self.ts[first]),
            end=int(self.ts[last]),
            n_points=len(scored),
            peak_at=int(self.ts[peak]),
            peak_score=float(self.score[peak]),
            mean_score=float(scored.mean()),
            direction=_direction(at_peak if at_peak == at_peak else impact),
            y_at_peak=_known(self.y[peak, channel]),
            yhat_at_peak=_known(self.yhat[peak, channel]),
            impact=impact,
            open=bool(self.ts[last] >= self.newest),
            version_id=None if self.versions is None else int(self.versions[peak]),
            shares=None if shares is None or not self.names else _by_name(self.names, shares),
        )

    def _peak(self, steps: slice, channel: int) -> int:
        """Return the highest step of an interval, counted from its first.

        Only one at which the channel that speaks passed the gate can be it, so direction and policy agree;
        and of those one at which it is odd by itself, if there is any: windows that hold an incident score
        high at the normal steps around it too, and nobody reads an outage out of one of those.
        """
        passed = self.flagged[steps] & self.passes[steps, channel]
        odd = passed & self.odd[steps, channel]
        allowed = np.where(odd if odd.any() else passed, self.score[steps], -np.inf)
        return int(np.nanargmax(allowed if np.isfinite(allowed).any() else self.score[steps]))

    def _shares(self, steps: slice) -> Values | None:
        """Return what each channel has of all squared deviations; None where there are none."""
        squares = np.nansum(np.square(self.deviation[steps]), axis=0, where=self.passes[steps])
        total = float(squares.sum())
        return squares / total if total > 0 else None


def data_missing(
    missing: Flags,
    ts: Seconds,
    policy: Policy,
    step_seconds: int,
    *,
    observed_until: int,
    delay_seconds: int = 0,
    previous_ts: int | None = None,
    next_ts: int | None = None,
) -> list[Interval]:
    """Return the gaps that are long enough to be events: ``data_missing`` inside, ``stale`` at the end.

    Args:
        missing: shape ``(n,)``, True where no point came; for several channels, where none came.
        ts: epoch seconds of the steps, shape ``(n,)``.
        observed_until: up to when points could have come: now, or the source's newest point.
        delay_seconds: how late points may come and still be on time.
        previous_ts: time of the last point before ``ts``; None where the series begins in this
            slice, and the steps before its first point are no gap.
        next_ts: time of the first point after ``ts``; None where there is none yet, and the
            steps after the last point are stale.

    Returns:
        Intervals in order of time; their score is the gap's length over the shortest that counts.
    """
    first_seen, last_seen = _observed_ends(missing, ts, previous_ts, next_ts)
    if first_seen is None or last_seen is None:
        return []
    shortest = _shortest(policy)
    gaps = [
        gap(Kind.DATA_MISSING, a, b, policy, step_seconds)
        for a, b in _inner_gaps(missing, ts, step_seconds, previous_ts, next_ts)
        if (b - a) // step_seconds + 1 >= shortest
    ]
    if next_ts is None:
        gaps += _stale(last_seen, observed_until - delay_seconds, policy, step_seconds)
    return gaps


def gap(
    kind: Kind,
    start: int,
    end: int,
    policy: Policy,
    step_seconds: int,
    *,
    shares: dict[str, float] | None = None,
) -> Interval:
    """Return a gap from its first to its last step; its score is its length over the shortest that counts."""
    n = (end - start) // step_seconds + 1
    score = n / _shortest(policy)
    return Interval(kind, start, end, n, start, score, score, open=kind is Kind.STALE, shares=shares)


def coarse(n: int) -> int:
    """Return n rounded down to its four leading bits: at most an eighth less, eight values an octave."""
    drop = max(0, n.bit_length() - 4)
    return n >> drop << drop


def flat_limit(longest_unseen_run: int) -> int:
    """Return how many equal values in a row are a flatline.

    >>> flat_limit(2), flat_limit(100)
    (8, 152)
    """
    return max(MIN_FLAT_STEPS, int(np.ceil(FLAT_MARGIN * longest_unseen_run)) + 2)


def flat_limits(n_steps: int, longest_unseen_run: int, learned_steps: int | None = None) -> Values:
    """Return how many equal values up to each of some steps are a flatline, infinite where none are.

    Args:
        longest_unseen_run: longest run of equal values while learning, in points.
        learned_steps: points that were learned from; a series that stood still for a quarter
            of them is constant and has no flatlines.
    """
    is_constant = learned_steps is not None and longest_unseen_run >= CONSTANT_SHARE * learned_steps
    return np.full(n_steps, np.inf if is_constant else float(flat_limit(longest_unseen_run)))


def flatline(
    raw: Values,
    ts: Seconds,
    longest_unseen_run: int,
    step_seconds: int,
    *,
    learned_steps: int | None = None,
    newest: int | None = None,
) -> list[Interval]:
    """Return the runs of equal values longer than any seen before, with a margin: ``flatlines`` of one model.

    Args:
        longest_unseen_run, learned_steps: as in ``flat_limits``.
    """
    return flatlines(raw, ts, flat_limits(len(raw), longest_unseen_run, learned_steps), newest=newest)


def flatlines(raw: Values, ts: Seconds, limits: Values, *, newest: int | None = None) -> list[Interval]:
    """Return the runs of equal values that are longer than they may be, in order of time.

    A run is one from its begin to the last step at which it was too long: as models follow each other, what
    is too long for one is usual for the next, and what a step was held against does not depend on the slice.
    Missing steps neither break a run nor lengthen it. A run shows its full length only where
    the slice reaches back to its begin: pass at least as many steps as are too many before what is new.

    Args:
        raw: values of one channel in the series' unit, NaN where missing, shape ``(n,)``.
        limits: how many equal values up to each step are too many, shape ``(n,)``.
        newest: time of the newest point there is; the last observed step where None.
    """
    seen = np.flatnonzero(~np.isnan(raw))
    limits = limits[seen]
    if len(seen) < limits.min(initial=np.inf):
        return []
    if newest is None:
        newest = int(ts[seen[-1]])
    found = []
    firsts, lasts = _equal_runs(raw[seen])
    long = lasts - firsts + 1 >= MIN_FLAT_STEPS
    for first, last in _pairs(firsts[long], lasts[long]):
        lengths = np.arange(1, last - first + 2)
        too_long = np.flatnonzero(lengths >= limits[first : last + 1])
        if len(too_long):
            n = int(too_long[-1]) + 1
            end, limit = seen[first + n - 1], float(limits[first + n - 1])
            start, value = seen[first], float(raw[seen[first]])
            found.append(_flat(int(ts[start]), int(ts[end]), n, limit, value, newest))
    return found


def _merged(
    starts: Indices, ends: Indices, max_gap_seconds: int, step_seconds: int
) -> tuple[Indices, Indices]:
    if max_gap_seconds <= 0 or len(starts) < 2:
        return starts, ends
    apart = (starts[1:] - ends[:-1] - 1) * step_seconds > max_gap_seconds
    return starts[np.concatenate(([True], apart))], ends[np.concatenate((apart, [True]))]


def _trimmed(starts: Indices, ends: Indices, own: Flags) -> tuple[Indices, Indices]:
    """Shrink runs to the steps that are odd by themselves; one without any stays as it is."""
    odd = np.flatnonzero(own)
    if not len(odd):
        return starts, ends
    first = odd[np.minimum(np.searchsorted(odd, starts), len(odd) - 1)]
    last = odd[np.maximum(np.searchsorted(odd, ends, side="right") - 1, 0)]
    some = (first >= starts) & (first <= ends)
    return np.where(some, first, starts), np.where(some, last, ends)


def _pairs(starts: Indices, ends: Indices) -> list[tuple[int, int]]:
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _columns(values: Values) -> Values:
    return values[:, None] if values.ndim == 1 else values


def _by_name(names: Sequence[str], shares: Values) -> dict[str, float]:
    return dict(zip(names, shares.tolist(), strict=True))


def _direction(deviation: float | None) -> str:
    if deviation is None or deviation == 0:
        return ""
    return ABOVE if deviation > 0 else BELOW


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _observed_ends(
    missing: Flags, ts: Seconds, previous_ts: int | None, next_ts: int | None
) -> tuple[int | None, int | None]:
    """Return the first and last time at which a point is known, within the slice or beside it."""
    seen = np.flatnonzero(~missing)
    first = previous_ts if previous_ts is not None else int(ts[seen[0]]) if len(seen) else next_ts
    last = next_ts if next_ts is not None else int(ts[seen[-1]]) if len(seen) else previous_ts
    return first, last


def _inner_gaps(
    missing: Flags, ts: Seconds, step_seconds: int, previous_ts: int | None, next_ts: int | None
) -> Sequence[tuple[int, int]]:
    """Return first and last missing step between two points, as times."""
    seen = [] if previous_ts is None else [previous_ts]
    points = np.concatenate((seen, ts[~missing], [] if next_ts is None else [next_ts])).astype(np.int64)
    # Half a step of tolerance: neighbours outside the slice are points, not grid steps.
    wide = np.flatnonzero(np.diff(points) > 1.5 * step_seconds)
    return [
        (int(points[k]) + step_seconds, _last_step_before(int(points[k]), int(points[k + 1]), step_seconds))
        for k in wide
    ]


def _last_step_before(seen: int, back: int, step_seconds: int) -> int:
    """Return the last step, counted from ``seen``, that is not yet the point ``back``."""
    return seen + max(1, round((back - seen) / step_seconds) - 1) * step_seconds


def _shortest(policy: Policy) -> int:
    return max(1, policy.missing_after_steps)


def _stale(last_seen: int, due_until: int, policy: Policy, step_seconds: int) -> list[Interval]:
    n = (due_until - last_seen) // step_seconds
    if n < _shortest(policy):
        return []
    # A dead series would otherwise change its event at every tick for ever.
    n = coarse(n)
    return [gap(Kind.STALE, last_seen + step_seconds, last_seen + n * step_seconds, policy, step_seconds)]


def _equal_runs(values: Values) -> tuple[Indices, Indices]:
    """Return first and last index of every run of equal values, runs of one included."""
    change = np.flatnonzero(values[1:] != values[:-1])
    last = len(values) - 1
    return np.concatenate(([0], change + 1)).astype(np.intp), np.concatenate((change, [last])).astype(np.intp)


def _flat(start: int, end: int, n: int, limit: float, value: float, newest: int) -> Interval:
    score = n / limit
    return Interval(
        Kind.FLATLINE, start, end, n, start, score, score, y_at_peak=value, open=bool(end >= newest)
    )
