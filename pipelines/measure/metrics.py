"""How good a detector is: scores and intervals against the labels of one series.

A label is a bool per row. Segments are stretches of rows: int64 of shape ``(k, 2)``, both ends
inside, in order, disjoint; ``truth`` are the labelled ones, ``found`` what a detector flagged.

Each metric alone can be gamed: one interval over the whole series has an overlap F1 of 1. So
several are reported, and the share of rows flagged stands beside every one that counts events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.records import Values
from pipelines.steps.flag import Flags, Indices, run_bounds

Segments = NDArray[np.int64]

BUFFER = 100
"""Buffer length of VUS, in rows."""

SHORT_SERIES, SHORT_BUFFER = 1000, 24
"""A series with fewer rows than this has a buffer of so many."""

N_THRESHOLDS = 250
"""Thresholds on every curve of VUS: those of TSB-AD, so that figures compare."""

EXISTENCE_WEIGHT = 0.2
"""What being touched at all is worth in range-based recall; the rest is for the share covered."""

PROBATION_PERCENT, MAX_PROBATION = 15, 750
"""Rows at the start that NAB leaves a detector to learn from: per hundred, and at most."""


@dataclass(frozen=True)
class Vus:
    """Volume under the surface of curves over buffer lengths, both in [0, 1], higher is better."""

    pr: float
    roc: float


@dataclass(frozen=True)
class Counts:
    """A confusion that is summed over series before anything is divided.

    Precision, recall and F1 are 0 where nothing is there to divide by.

    Attributes:
        tp, fp, fn: events for ``overlap``, rows for ``weighted_overlap``.
        tn: rows; 0 for ``overlap``, which knows no events that did not happen.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def precision(self) -> float:
        return self.tp / max(self.tp + self.fp, 1)

    @property
    def recall(self) -> float:
        return self.tp / max(self.tp + self.fn, 1)

    @property
    def f1(self) -> float:
        return _harmonic_mean(self.precision, self.recall)


@dataclass(frozen=True)
class PrecisionRecall:
    """Both in [0, 1]. NaN where there is no truth to find; precision is 0 where nothing was found."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        return _harmonic_mean(self.precision, self.recall)


def _harmonic_mean(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one or other else 0.0


@dataclass(frozen=True)
class Profile:
    """What NAB takes a window found, a window missed and a false positive to be worth."""

    tp: float
    fn: float
    fp: float


PROFILES = {
    "standard": Profile(tp=1.0, fn=1.0, fp=0.11),
    "low-FP": Profile(tp=1.0, fn=1.0, fp=0.22),
    "low-FN": Profile(tp=1.0, fn=2.0, fp=0.11),
}


@dataclass(frozen=True)
class Nab:
    """What a detector earned of NAB's points, summed over a corpus before the score is taken.

    Attributes:
        raw: earned by the detector.
        null: earned by one that finds nothing.
        perfect: earned by one that finds every window at its first row and nothing else.
    """

    raw: float = 0.0
    null: float = 0.0
    perfect: float = 0.0

    def __add__(self, other: Nab) -> Nab:
        return Nab(self.raw + other.raw, self.null + other.null, self.perfect + other.perfect)

    @property
    def score(self) -> float:
        """100 for perfect, 0 for null, below for worse than nothing; NaN without windows to find."""
        if self.perfect == self.null:
            return float("nan")
        return 100.0 * (self.raw - self.null) / (self.perfect - self.null)


# -- scores -------------------------------------------------------------------------


def segments_of(labels: Flags) -> Segments:
    """Return the runs of True as segments.

    >>> segments_of(np.array([True, False, True, True])).tolist()
    [[0, 0], [2, 3]]
    """
    return np.stack(run_bounds(labels), axis=1).astype(np.int64)


def auc_pr(labels: Flags, scores: Values) -> float:
    """Return the average precision, in [0, 1]; NaN where labels are all alike.

    Args:
        labels: shape ``(n,)``, True is anomalous.
        scores: shape ``(n,)``, higher is more anomalous, finite.

    Raises:
        ValueError: labels are no bools, lengths differ, or a score is not finite.
    """
    from sklearn.metrics import average_precision_score

    _check_scores(labels, scores)
    return float(average_precision_score(labels, scores)) if _has_both(labels) else float("nan")


def auc_roc(labels: Flags, scores: Values) -> float:
    """Return the probability that an anomalous row outscores a normal one; as ``auc_pr`` otherwise."""
    from sklearn.metrics import roc_auc_score

    _check_scores(labels, scores)
    return float(roc_auc_score(labels, scores)) if _has_both(labels) else float("nan")


def buffer_of(n_points: int) -> int:
    """Return the buffer length of VUS for a series of so many rows.

    >>> buffer_of(999), buffer_of(1000)
    (24, 100)
    """
    return SHORT_BUFFER if n_points < SHORT_SERIES else BUFFER


def vus(labels: Flags, scores: Values, buffer: int) -> Vus:
    """Return the volumes under the PR and ROC surfaces; NaN where labels are all alike.

    Paparrizos et al. 2022 (Volume Under the Surface, VLDB 15(11)), in the optimised variant of
    TSB-AD (Liu and Paparrizos 2024, NeurIPS): segments have soft ends, so that a score near one
    is nearly right, and the soft ends count only as far as they are flagged.

    Args:
        labels: shape ``(n,)``, True is anomalous.
        scores: shape ``(n,)``, higher is more anomalous, finite.
        buffer: longest soft end, both sides together, in rows; see ``buffer_of``.

    Raises:
        ValueError: labels are no bools, lengths differ, a score is not finite, or buffer is negative.
    """
    _check_scores(labels, scores)
    if buffer < 0:
        raise ValueError(f"expected a buffer of 0 rows or more, got {buffer}; see buffer_of(n_points)")
    if not _has_both(labels):
        return Vus(float("nan"), float("nan"))
    rank = _ranks(scores)
    soft = _soft_hits(labels, rank, buffer)
    hits = _up_to(rank[labels]) + soft
    flagged = _up_to(rank)
    positives = np.count_nonzero(labels) + soft / 2
    tpr = np.minimum(hits / positives, 1.0) * _existence(labels, rank, buffer)
    fpr = (flagged - hits) / (len(labels) - positives)
    return Vus(_volume_under_pr(tpr, hits / flagged), _volume_under_roc(tpr, fpr))


def _ranks(scores: Values) -> Indices:
    """Return the index of the first threshold that flags each row; thresholds descend."""
    at = np.linspace(0, len(scores) - 1, N_THRESHOLDS).astype(np.intp)
    return np.searchsorted(np.sort(-scores)[at], -scores)


def _up_to(rank: Indices, weights: Values | None = None) -> Values:
    """Return how many rows (or how much weight) every threshold flags, shape ``(N_THRESHOLDS,)``."""
    return np.cumsum(np.bincount(rank, weights, minlength=N_THRESHOLDS), dtype=np.float64)


def _soft_hits(labels: Flags, rank: Indices, buffer: int) -> Values:
    """Return the sum of the soft labels of flagged rows outside segments.

    Returns:
        Shape ``(buffer + 1, N_THRESHOLDS)``, one row per buffer length.
    """
    outside, near, second = _distances(labels)
    order = np.argsort(near)[: np.count_nonzero(near <= buffer // 2)]
    rank, near, second = rank[outside[order]], near[order], second[order]
    hits = np.zeros((buffer + 1, N_THRESHOLDS))
    for length in range(2, buffer + 1):
        n_reached = np.searchsorted(near, length // 2, side="right")
        label = np.sqrt(1.0 - near[:n_reached] / length)
        # Every part is at least sqrt(.5), so two of them clip to 1 whatever they are.
        label[second[:n_reached] <= length // 2] = 1.0
        hits[length] = _up_to(rank[:n_reached], label)
    return hits


def _distances(labels: Flags) -> tuple[Indices, Indices, Indices]:
    """Return the rows outside segments, and how far away the nearest and second nearest segment is."""
    starts, ends = run_bounds(labels)
    outside = np.flatnonzero(~labels)
    at = np.searchsorted(starts, outside)
    far = np.iinfo(np.int64).max // 4  # two segments beyond every buffer, on either side
    starts, ends = np.append(starts, [far, far]), np.append([-far, -far], ends)
    left, right = outside - ends[at + 1], starts[at] - outside
    further = np.minimum(outside - ends[at], starts[at + 1] - outside)
    return outside, np.minimum(left, right), np.minimum(np.maximum(left, right), further)


def _existence(labels: Flags, rank: Indices, buffer: int) -> Values:
    """Return the share of segments, extended by half the buffer, that hold a flagged row.

    Extended segments that share a row are one. Side by side without a gap they stay two: the
    paper leaves that open, but only so do figures agree with TSB-AD's.

    Returns:
        Shape ``(buffer + 1, N_THRESHOLDS)``, one row per buffer length.
    """
    starts, ends = run_bounds(labels)
    # Index of the first threshold that flags a row of each segment, as far as it is extended.
    first = _least(rank[labels], np.cumsum(ends - starts + 1)[:-1])
    share = np.empty((buffer // 2 + 1, N_THRESHOLDS))
    for reach in range(len(share)):
        left, right = starts - reach, ends + reach
        first = np.minimum(first, rank[np.maximum(left, 0)])
        first = np.minimum(first, rank[np.minimum(right, len(rank) - 1)])
        merged = _least(first, np.flatnonzero(left[1:] > right[:-1]) + 1)
        share[reach] = _up_to(merged) / len(merged)
    return share[np.arange(buffer + 1) // 2]


def _least(rank: Indices, cuts: Indices) -> Indices:
    """Return the least of every part of ``rank`` between the cuts."""
    return np.minimum.reduceat(rank, np.append(0, cuts))


def _volume_under_pr(tpr: Values, precision: Values) -> float:
    return float((np.diff(tpr, axis=1, prepend=0.0) * precision).sum(axis=1).mean())


def _volume_under_roc(tpr: Values, fpr: Values) -> float:
    tpr, fpr = (np.pad(rate, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))) for rate in (tpr, fpr))
    trapezoids = np.diff(fpr, axis=1) * (tpr[:, 1:] + tpr[:, :-1]) / 2
    return float(trapezoids.sum(axis=1).mean())


# -- intervals ----------------------------------------------------------------------


def overlap(truth: Segments, found: Segments) -> Counts:
    """Return the events found, missed and invented (Hundman et al. 2018, arXiv:1802.04431).

    A true segment that shares a row with anything found is a true positive, else a false negative;
    a found one that shares none with any true segment is a false positive.

    Raises:
        ValueError: segments of another shape, backwards, or not in order and disjoint.
    """
    _check_segments(truth=truth, found=found)
    is_found = _n_touching(truth, found) > 0
    n_found = int(is_found.sum())
    n_invented = int((_n_touching(found, truth) == 0).sum())
    return Counts(tp=n_found, fp=n_invented, fn=len(truth) - n_found)


def weighted_overlap(truth: Segments, found: Segments) -> Counts:
    """Return the confusion in rows, between the first and the last row of any segment.

    Every piece between neighbouring ends weighs its length (the weighted segments of Alnegheimish
    et al. 2022, Sintel, arXiv:2204.09108), which is the same as counting rows.

    Raises:
        ValueError: as ``overlap``.
    """
    _check_segments(truth=truth, found=found)
    n_true, n_found, n_both = _n_rows(truth), _n_rows(found), int(_n_covered(truth, found).sum())
    either = np.append(truth, found)
    n_span = int(np.ptp(either)) + 1 if len(either) else 0
    return Counts(tp=n_both, fp=n_found - n_both, fn=n_true - n_both, tn=n_span - n_true - n_found + n_both)


def range_based(truth: Segments, found: Segments) -> PrecisionRecall:
    """Return precision and recall for ranges (Tatbul et al. 2018, arXiv:1803.03639).

    With flat bias and 1/x for the overlap cardinality: a segment counts by the share that is
    covered, divided by the number of segments that cover it; .2 of a true segment's recall is for
    being touched at all.

    Raises:
        ValueError: as ``overlap``.
    """
    _check_segments(truth=truth, found=found)
    if not len(truth):
        return PrecisionRecall(float("nan"), float("nan"))
    touched = _n_touching(truth, found) > 0
    recall = EXISTENCE_WEIGHT * touched + (1 - EXISTENCE_WEIGHT) * _overlap_reward(truth, found)
    precision = float(_overlap_reward(found, truth).mean()) if len(found) else 0.0
    return PrecisionRecall(precision, float(recall.mean()))


def share_flagged(found: Segments, n_points: int) -> float:
    """Return the share of a series' rows that lie in segments, in [0, 1].

    Raises:
        ValueError: as ``overlap``, or a segment outside the series.
    """
    _check_segments(n_points, found=found)
    return _n_rows(found) / n_points


def delays(truth: Segments, flagged: Flags) -> Values:
    """Return the steps from the start of every true segment to its first flag, NaN where it has none.

    Args:
        truth: shape ``(k, 2)``.
        flagged: rows that were flagged as they came, shape ``(n,)``.

    Raises:
        ValueError: as ``overlap``, or a segment outside the series.
    """
    _check_segments(len(flagged), truth=truth)
    starts, ends = truth.T
    rows = np.append(np.flatnonzero(flagged), len(flagged))
    first = rows[np.searchsorted(rows, starts)]
    return np.where(first <= ends, first - starts, np.nan)


def poisson_interval(count: int, exposure: float, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a rate from the events counted (Garwood 1936, Biometrika 28).

    For alarms: ``overlap(...).fp`` over the weeks of all series that carry no label.

    Args:
        count: events seen.
        exposure: over how much they were counted, in the unit the rate is per.
        level: probability that the interval holds the rate.

    Raises:
        ValueError: a negative count, no exposure, or a level outside of 0 to 1.
    """
    from scipy.special import gammaincinv

    if count < 0 or exposure <= 0:
        raise ValueError(
            f"expected a count of 0 or more over an exposure above 0, got {count} over {exposure:g}; "
            "a rate needs time to count in"
        )
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level:g}; 0.95 is 95 %")
    tail = (1 - level) / 2
    low = float(gammaincinv(count, tail)) if count else 0.0
    return low / exposure, float(gammaincinv(count + 1, 1 - tail)) / exposure


def _n_rows(segments: Segments) -> int:
    return int((segments[:, 1] - segments[:, 0] + 1).sum())


def _n_touching(segments: Segments, others: Segments) -> Indices:
    """Return how many of the others share a row with each segment."""
    begun = np.searchsorted(others[:, 0], segments[:, 1], side="right")
    over = np.searchsorted(others[:, 1], segments[:, 0], side="left")
    return begun - over


def _n_covered(segments: Segments, others: Segments) -> Values:
    """Return how many rows of each segment lie in any of the others."""
    if not len(others):
        return np.zeros(len(segments))
    edges = _half_open(others)
    covered_before = np.repeat(np.append(0, np.cumsum(edges[:, 1] - edges[:, 0])), 2)[1:-1]
    return np.diff(np.interp(_half_open(segments), edges.ravel(), covered_before))[:, 0]


def _overlap_reward(segments: Segments, others: Segments) -> Values:
    """Return the covered share of each segment over the number of segments that cover it."""
    length = segments[:, 1] - segments[:, 0] + 1
    return _n_covered(segments, others) / length / np.maximum(_n_touching(segments, others), 1)


def _half_open(segments: Segments) -> Values:
    """Return the segments as stretches of a continuous axis, on which row i lasts from i to i + 1."""
    return segments + np.array([0.0, 1.0])


# -- affiliation --------------------------------------------------------------------


def affiliation(truth: Segments, found: Segments, n_points: int) -> PrecisionRecall:
    """Return how near found and true events are to each other (Huet et al. 2022, arXiv:2206.13167).

    Each true event has a zone of the axis, up to midway to its neighbours. Precision is the mean
    over the found part of the zone of the chance that a random point is no nearer to the event,
    recall that over the event to be no nearer to what was found; both are averaged over zones,
    precision over those where something was found. Random scores reach about .5.

    Exact: between the points where they bend, both integrands are linear.

    Raises:
        ValueError: as ``overlap``, or a segment outside the series.
    """
    _check_segments(n_points, truth=truth, found=found)
    if not len(truth):
        return PrecisionRecall(float("nan"), float("nan"))
    zones = _zones(_half_open(truth), _half_open(found), n_points)
    precisions = [zone.precision() for zone in zones if len(zone.found)]
    recalls = [zone.recall() if len(zone.found) else 0.0 for zone in zones]
    return PrecisionRecall(float(np.mean(precisions or [0.0])), float(np.mean(recalls)))


@dataclass(frozen=True)
class _Zone:
    """The stretch of the axis that belongs to one true event.

    Attributes:
        start, stop: ends of the zone.
        event: its ends, shape ``(2,)``.
        found: the ends of all found parts inside, in order, shape ``(m, 2)``.
    """

    start: float
    stop: float
    event: Values
    found: Values

    def precision(self) -> float:
        """Return the mean over the found parts of the chance to be no nearer to the event."""
        shorter_side = min(self.event[0] - self.start, self.stop - self.event[1])
        bends = np.append(self.event, self.event + np.array([-shorter_side, shorter_side]))
        return _mean(self._no_nearer_to_event, self.found, bends)

    def recall(self) -> float:
        """Return the mean over the event of the chance to be no nearer than the nearest found point."""
        edges = self.found.ravel()
        between = (edges[1:] + edges[:-1]) / 2
        to_the_zones_end = (self.found + np.array([self.start, self.stop])) / 2
        bends = np.concatenate((edges, between, to_the_zones_end.ravel()))
        return _mean(self._no_nearer_than_found, self.event[np.newaxis], bends)

    def _no_nearer_to_event(self, at: Values) -> Values:
        distance = np.maximum(self.event[0] - at, at - self.event[1])
        beyond = self._share_outside(self.event[0] - distance, self.event[1] + distance)
        return np.where(distance <= 0, 1.0, beyond)

    def _no_nearer_than_found(self, at: Values) -> Values:
        edges = np.concatenate(([-np.inf], self.found.ravel(), [np.inf]))
        after = np.searchsorted(edges, at)
        is_found = after % 2 == 0
        distance = np.where(is_found, 0.0, np.minimum(at - edges[after - 1], edges[after] - at))
        return self._share_outside(at - distance, at + distance)

    def _share_outside(self, left: Values, right: Values) -> Values:
        """Return the share of the zone that lies before ``left`` or after ``right``."""
        outside = np.maximum(left - self.start, 0.0) + np.maximum(self.stop - right, 0.0)
        return outside / (self.stop - self.start)


def _zones(events: Values, found: Values, n_points: int) -> list[_Zone]:
    borders = np.concatenate(([0.0], (events[:-1, 1] + events[1:, 0]) / 2, [n_points]))
    zones = []
    for start, stop, event in zip(borders[:-1], borders[1:], events, strict=True):
        reaching = slice(np.searchsorted(found[:, 1], start, "right"), np.searchsorted(found[:, 0], stop))
        zones.append(_Zone(start, stop, event, np.clip(found[reaching], start, stop)))
    return zones


def _mean(integrand: Callable[[Values], Values], parts: Values, bends: Values) -> float:
    """Return the mean of a function over disjoint parts of the axis; it is linear between bends."""
    cuts = np.unique(np.append(parts, bends))
    middles = (cuts[1:] + cuts[:-1]) / 2
    inside = np.searchsorted(parts.ravel(), middles) % 2 == 1
    return float(np.average(integrand(middles[inside]), weights=np.diff(cuts)[inside]))


# -- the NAB score ------------------------------------------------------------------


def nab(truth: Segments, found: Segments, n_points: int, profile: str = "standard") -> Nab:
    """Return what was earned of NAB's points (Lavin and Ahmad 2015, arXiv:1510.03336).

    Early detections of a window earn more, false positives soon after one cost less. Add up the
    series of a corpus, all flagged at one threshold, before taking the score.

    Departures: NAB scores rows, we score intervals. One that overlaps windows is a detection at
    its first row in each of them and no false positive; one that overlaps none is a single false
    positive, at its first row. Intervals of one row each are NAB's rows. A false positive behind
    a window of one row costs all, where NAB divides by zero.

    Args:
        truth: NAB's windows, in rows.
        found: rows in probation (the first 15 %, at most 750) are ignored.
        profile: ``standard``, ``low-FP`` or ``low-FN``.

    Raises:
        ValueError: as ``overlap``, a segment outside the series, or an unknown profile.
    """
    _check_segments(n_points, truth=truth, found=found)
    if profile not in PROFILES:
        raise ValueError(f"no NAB profile named {profile!r}; there are: {', '.join(PROFILES)}")
    worth = PROFILES[profile]
    probation = min(n_points * PROBATION_PERCENT // 100, MAX_PROBATION)
    windows, found = _from(probation, truth), np.maximum(_from(probation, found), probation)
    rewards = _detection_rewards(windows, found)
    # A false positive is placed by the last window before it, as in NAB also by one in probation.
    false_positives = found[_n_touching(found, windows) == 0, 0]
    raw = (
        worth.tp * np.nansum(rewards)
        - worth.fn * np.isnan(rewards).sum()
        - worth.fp * _false_positive_costs(truth, false_positives).sum()
    )
    return Nab(float(raw), -worth.fn * len(windows), worth.tp * len(windows))


def _from(row: int, segments: Segments) -> Segments:
    """Return the segments that reach this row or a later one."""
    return segments[segments[:, 1] >= row]


def _detection_rewards(windows: Segments, found: Segments) -> Values:
    """Return what finding each window is worth, from 1 at its first row down; NaN where it was missed."""
    starts, ends = windows.T
    at = np.searchsorted(found[:, 1], starts)
    first = np.maximum(np.append(found[:, 0], np.iinfo(np.int64).max)[at], starts)
    position = -(ends - first + 1.0) / (ends - starts + 1)
    return np.where(first <= ends, _sigmoid(position) / _sigmoid(np.array(-1.0)), np.nan)


def _false_positive_costs(windows: Segments, rows: Indices) -> Values:
    """Return what a false positive in each row costs: 1 far behind any window, less soon after one."""
    before = np.searchsorted(windows[:, 1], rows)
    ends = np.append(-np.inf, windows[:, 1])[before]
    widths = np.append(2.0, windows[:, 1] - windows[:, 0] + 1)[before]
    past = np.full(len(rows), np.inf)
    np.divide(rows - ends, widths - 1, out=past, where=widths > 1)
    return np.where(past >= 3, 1.0, -_sigmoid(past))


def _sigmoid(position: Values) -> Values:
    """Return 2 / (1 + exp(5 position)) - 1, NAB's value of a detection relative to a window's end."""
    return np.tanh(-2.5 * position)


# -- checks -------------------------------------------------------------------------


def _has_both(labels: Flags) -> bool:
    return bool(labels.any()) and not labels.all()


def _check_scores(labels: Flags, scores: Values) -> None:
    if labels.dtype != np.bool_:
        raise ValueError(f"expected labels of type bool, got {labels.dtype}; pass labels == 1")
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(
            f"expected one label and one score per row, got shapes {labels.shape} and {scores.shape}; "
            "labels of segments need spreading over their rows"
        )
    n_bad = np.count_nonzero(~np.isfinite(scores))
    if n_bad:
        raise ValueError(
            f"expected finite scores, got {n_bad} of {len(scores)} that are not; "
            "give rows without a score the lowest score of the series"
        )


def _check_segments(n_points: int | None = None, **named: Segments) -> None:
    """Refuse what are no segments, or none of a series of so many rows."""
    for name, segments in named.items():
        if segments.dtype != np.int64 or segments.shape[1:] != (2,):
            raise ValueError(
                f"expected {name} as int64 of shape (k, 2), got {segments.dtype} of {segments.shape}; "
                "pass pairs of first and last row"
            )
        _check_order(name, segments)
        if n_points is not None:
            _check_inside(name, segments, n_points)


def _check_order(name: str, segments: Segments) -> None:
    starts, ends = segments.T
    backwards = np.flatnonzero(starts > ends)
    if len(backwards):
        raise ValueError(
            f"expected {name} to end no earlier than they start, got {segments[backwards[0]].tolist()}; "
            "both ends belong to a segment"
        )
    astray = np.flatnonzero(starts[1:] <= ends[:-1])
    if len(astray):
        first, second = segments[astray[0] : astray[0] + 2].tolist()
        raise ValueError(
            f"expected {name} in order and disjoint, got {first} before {second}; sort and merge them"
        )


def _check_inside(name: str, segments: Segments, n_points: int) -> None:
    if n_points < 1:
        raise ValueError(f"expected a series of at least one row, got {n_points}; leave empty series out")
    if len(segments) and (segments[0, 0] < 0 or segments[-1, 1] >= n_points):
        raise ValueError(
            f"expected {name} within rows 0 to {n_points - 1}, got {segments[0, 0]} to {segments[-1, 1]}; "
            "segments are rows of this series, not times"
        )
