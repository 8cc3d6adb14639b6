"""Slow, obvious twins of the metrics: the definitions as loops over rows, thresholds and segments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Pairs = Sequence[tuple[int, int]]
Array = NDArray[np.float64]


def runs(labels: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last row of every run of True."""
    out: list[tuple[int, int]] = []
    for i, on in enumerate(labels):
        if on and out and out[-1][1] == i - 1:
            out[-1] = (out[-1][0], i)
        elif on:
            out.append((i, i))
    return out


# -- volume under the surface -------------------------------------------------------


def vus(labels: NDArray[np.bool_], scores: Array, buffer: int) -> tuple[float, float]:
    """VUS-PR and VUS-ROC: the mean area over buffer lengths 0 to ``buffer``."""
    areas = [areas_at(labels, scores, length) for length in range(buffer + 1)]
    return float(np.mean([ap for ap, _ in areas])), float(np.mean([auc for _, auc in areas]))


def areas_at(labels: NDArray[np.bool_], scores: Array, length: int) -> tuple[float, float]:
    """Areas under the PR and the ROC curve for one buffer length."""
    n, segments = len(labels), runs(labels)
    soft, extended = soft_labels(segments, n, length), extended_segments(segments, n, length)
    descending = sorted(scores.tolist(), reverse=True)
    ap = auc = last_tpr = last_fpr = 0.0
    for index in np.linspace(0, n - 1, 250):
        flagged = scores >= descending[int(index)]
        extension = soft[flagged & ~labels].sum()
        tp = (flagged & labels).sum() + extension
        positives = labels.sum() + extension / 2
        existence = sum(flagged[a : b + 1].any() for a, b in extended) / len(extended)
        tpr = min(tp / positives, 1.0) * existence
        fpr = (flagged.sum() - tp) / (n - positives)
        ap += (tpr - last_tpr) * tp / flagged.sum()
        auc += (fpr - last_fpr) * (tpr + last_tpr) / 2
        last_tpr, last_fpr = tpr, fpr
    return ap, auc + (1.0 - last_fpr) * (1.0 + last_tpr) / 2


def soft_labels(segments: Pairs, n: int, length: int) -> Array:
    """1 inside, and near every segment the square root of what is left of the buffer."""
    soft = np.zeros(n)
    for i in range(n):
        for a, b in segments:
            distance = max(a - i, i - b, 0)
            if distance == 0:
                soft[i] += 1.0
            elif distance <= length // 2:
                soft[i] += math.sqrt(1.0 - distance / length)
    return np.minimum(soft, 1.0)


def extended_segments(segments: Pairs, n: int, length: int) -> list[tuple[int, int]]:
    """Segments longer by half the buffer on both sides; those that share a row are one."""
    out: list[tuple[int, int]] = []
    for a, b in segments:
        first, last = max(a - length // 2, 0), min(b + length // 2, n - 1)
        if out and first <= out[-1][1]:
            out[-1] = (out[-1][0], last)
        else:
            out.append((first, last))
    return out


# -- intervals ----------------------------------------------------------------------


def rows(segments: Pairs) -> set[int]:
    return {i for a, b in segments for i in range(a, b + 1)}


def touch(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return bool(rows([one]) & rows([other]))


def overlap(truth: Pairs, found: Pairs) -> tuple[int, int, int]:
    """True positives, false positives, false negatives."""
    tp = sum(any(touch(t, f) for f in found) for t in truth)
    fp = sum(not any(touch(t, f) for t in truth) for f in found)
    return tp, fp, len(truth) - tp


def weighted_overlap(truth: Pairs, found: Pairs) -> tuple[int, int, int, int]:
    """True negatives, false positives, false negatives, true positives, a piece at a time."""
    cuts = sorted({edge for a, b in [*truth, *found] for edge in (a, b + 1)})
    weight = {(is_true, is_found): 0 for is_true in (False, True) for is_found in (False, True)}
    for left, right in pairwise(cuts):
        weight[left in rows(truth), left in rows(found)] += right - left
    return weight[False, False], weight[False, True], weight[True, False], weight[True, True]


def range_based(truth: Pairs, found: Pairs) -> tuple[float, float]:
    """Precision and recall of ranges."""

    def reward(one: tuple[int, int], others: Pairs) -> float:
        covering = [other for other in others if touch(one, other)]
        return len(rows([one]) & rows(others)) / len(rows([one])) / max(len(covering), 1)

    precision = sum(reward(f, truth) for f in found) / max(len(found), 1)
    recalls = [0.2 * any(touch(t, f) for f in found) + 0.8 * reward(t, found) for t in truth]
    return precision, sum(recalls) / len(truth)


def affiliation(truth: Pairs, found: Pairs, n: int) -> tuple[float, float]:
    """Precision and recall by sums over points.

    A row has 4 points to average over and 8 to draw from. Borders, and the places where a chance
    bends, are quarters of a row, between these points: so the sums are exact.
    """
    points, draws = middles(n, 4), middles(n, 8)
    events = [(a, b + 1) for a, b in truth]
    precisions, recalls = [], []
    for j, event in enumerate(events):
        low = (events[j - 1][1] + event[0]) / 2 if j else 0.0
        high = (event[1] + events[j + 1][0]) / 2 if j + 1 < len(events) else float(n)
        zone = [u for u in draws if low < u < high]
        parts = [(max(a, low), min(b + 1, high)) for a, b in found if a < high and b + 1 > low]
        if not parts:
            recalls.append(0.0)
            continue
        to_event = np.array([distance(u, [event]) for u in zone])
        hits = [x for x in points if distance(x, parts) == 0]
        precisions.append(np.mean([np.mean(to_event >= distance(x, [event])) for x in hits]))
        inside = [y for y in points if distance(y, [event]) == 0]
        recalls.append(np.mean([np.mean(np.abs(np.array(zone) - y) >= distance(y, parts)) for y in inside]))
    return float(np.mean(precisions or [0.0])), float(np.mean(recalls))


def middles(n: int, per_row: int) -> list[float]:
    return [(i + 0.5) / per_row for i in range(n * per_row)]


def distance(at: float, parts: Sequence[tuple[float, float]]) -> float:
    return min(max(a - at, at - b, 0.0) for a, b in parts)


# -- the NAB score ------------------------------------------------------------------


def nab_rows(truth: Pairs, flagged: set[int], n: int, tp: float, fn: float, fp: float) -> float:
    """NAB's raw score of flagged rows, in one walk over the rows."""
    probation = min(math.floor(0.15 * n), 750)
    earned = {(a, b): -fn for a, b in truth if b >= probation}
    lost, last = 0.0, None
    for i in range(n):
        window = next(((a, b) for a, b in truth if a <= i <= b), None)
        if window is None and i in flagged and i >= probation:
            past = 3.0
            if last is not None and last[1] > last[0]:
                past = (i - last[1]) / (last[1] - last[0])
            lost += fp * (1.0 if past >= 3.0 else 1.0 - 2.0 / (1.0 + math.exp(5.0 * past)))
        if window is not None and i in flagged and i >= probation:
            a, b = window
            position = -(b - i + 1) / (b - a + 1)
            worth = (2.0 / (1.0 + math.exp(5.0 * position)) - 1.0) / (2.0 / (1.0 + math.exp(-5.0)) - 1.0)
            earned[window] = max(earned[window], tp * worth)
        last = next(((a, b) for a, b in truth if b == i), last)
    return sum(earned.values()) - lost


def nab_intervals(truth: Pairs, found: Pairs, n: int, tp: float, fn: float, fp: float) -> float:
    """The same of intervals: each is reduced to the rows by which it is judged."""
    probation = min(math.floor(0.15 * n), 750)
    judged: set[int] = set()
    for interval in found:
        seen = [i for i in sorted(rows([interval])) if i >= probation]
        hits = [[i for i in seen if a <= i <= b] for a, b in truth]
        firsts = [inside[0] for inside in hits if inside]
        judged.update(firsts or seen[:1])
    return nab_rows(truth, judged, n, tp, fn, fp)


def delays(truth: Pairs, flagged: NDArray[np.bool_]) -> list[float]:
    """Steps to the first flag inside every segment."""
    firsts = [[i for i in range(a, b + 1) if flagged[i]] for a, b in truth]
    return [inside[0] - a if inside else math.nan for (a, _), inside in zip(truth, firsts, strict=True)]
