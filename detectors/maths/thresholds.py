"""The two thresholds of TadGAN's reference: `fixed` and `dynamic`, over windows of a score.

Both depend on the stretch they are given, by their nature: give them fixed spans of settled scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Errors = NDArray[np.float64]
"""Scores of one series from 0 up, shape ``(n,)``; higher is more anomalous, NaN where there is none."""

LEAST = 1e-100
"""Below this a mean or deviation counts as 0: nothing is relative to it."""

Rule = Callable[[Errors], float]
"""From the errors of one window, all finite, to the value above which they are anomalous."""


@dataclass(frozen=True)
class Above:
    """A run of steps above the threshold of its window; both ends belong to it.

    Attributes:
        first: position of the first step, padding included.
        last: position of the last step, padding included.
        severity: height of the peak over the threshold, in units of the window's mean plus one
            standard deviation; averaged by length where runs of several windows were joined.
    """

    first: int
    last: int
    severity: float


@dataclass(frozen=True)
class Spans:
    """The windows a threshold is found in, and what becomes of the runs above it.

    Attributes:
        window: length of a window, as a share of all steps; 1 is one window.
        step: distance between the starts of windows, as a share of a window.
        prune: smallest relative drop from one peak to the next lower one; the peaks below the last
            such drop are taken for noise (Hundman 2018, section 3.3, p = .13).
        padding: steps added on both sides of a run.
    """

    window: float = 1.0
    step: float = 1.0
    prune: float = 0.1
    padding: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.window <= 1 or not 0 < self.step <= 1:
            raise ValueError(f"window and step are shares in (0, 1], got {self.window} and {self.step}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune is a share in [0, 1), got {self.prune}")
        if self.padding < 0:
            raise ValueError(f"padding must be at least 0 steps, got {self.padding}")


FIXED = Spans(window=0.33, step=0.1, prune=0.13)
"""What TadGAN's authors use with the fixed threshold (Geiger 2020, section V)."""


def fixed(errors: Errors, spans: Spans = FIXED, *, deviations: float = 4.0) -> list[Above]:
    """Return the runs above mean plus ``deviations`` standard deviations of their window.

    Geiger et al. 2020, arXiv 2009.07769, section IV.
    """
    return runs_above(errors, lambda window: float(window.mean() + deviations * window.std()), spans)


def dynamic(errors: Errors, spans: Spans | None = None, *, z_range: tuple[int, int] = (0, 12)) -> list[Above]:
    """Return the runs above the threshold whose removal calms the window most.

    Hundman et al. 2018, arXiv 1802.04431, equation 5, at whole numbers of standard deviations from
    ``z_range[0]`` to below ``z_range[1]``; of equally good ones the lowest.
    """
    if z_range[0] >= z_range[1]:
        raise ValueError(f"z_range must rise, got {z_range}")
    return runs_above(errors, lambda window: calming_threshold(window, range(*z_range)), spans or Spans())


def calming_threshold(errors: Errors, deviations: range) -> float:
    """Return the threshold with the best gain; infinite where nothing lies above any of them."""
    mean, sd = float(errors.mean()), float(errors.std())
    thresholds = [mean + z * sd for z in deviations]
    gains = [_gain(errors, threshold, mean, sd) for threshold in thresholds]
    best = int(np.argmax(gains))
    return thresholds[best] if gains[best] > -math.inf else math.inf


def _gain(errors: Errors, threshold: float, mean: float, sd: float) -> float:
    """Return the relative fall of mean and deviation without the values above, for their number."""
    above = errors > threshold
    if not above.any() or above.all():
        return -math.inf
    below = errors[~above]
    fall = (mean - below.mean()) / max(mean, LEAST) + (sd - below.std()) / max(sd, LEAST)
    return float(fall / (above.sum() + len(_runs(above)) ** 2))


def runs_above(errors: Errors, rule: Rule, spans: Spans) -> list[Above]:
    """Return the runs above each window's threshold, pruned, padded and joined, in order."""
    errors = np.asarray(errors, dtype=np.float64)
    found: list[Above] = []
    size = math.ceil(len(errors) * spans.window)
    step = math.ceil(size * spans.step)
    first = 0
    while size:
        found += _in_window(errors[first : first + size], rule, spans, first)
        if first + size >= len(errors):
            break
        first += step
    return _joined(found)


def _in_window(window: Errors, rule: Rule, spans: Spans, offset: int) -> list[Above]:
    known = window[~np.isnan(window)]
    unit = float(known.mean() + known.std()) if len(known) else 0.0
    if unit <= LEAST:
        return []
    threshold = rule(known)
    filled = np.where(np.isnan(window), -np.inf, window)
    wide = _widened(filled > threshold, spans.padding)
    runs = _runs(wide)
    peaks = np.array([filled[first : last + 1].max() for first, last in runs])
    calm = filled[~wide]
    floor = float(calm.max()) if len(calm) else 0.0
    return [
        Above(runs[at][0] + offset, runs[at][1] + offset, float((peaks[at] - threshold) / unit))
        for at in _standing_out(peaks, max(floor, 0.0), spans.prune)
    ]


def _widened(above: NDArray[np.bool_], padding: int) -> NDArray[np.bool_]:
    change = np.zeros(len(above) + 1, dtype=np.int64)
    at = np.flatnonzero(above)
    np.add.at(change, np.maximum(at - padding, 0), 1)
    np.add.at(change, np.minimum(at + padding + 1, len(above)), -1)
    return change[:-1].cumsum() > 0


def _runs(above: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.diff(np.concatenate([[0], above.astype(np.int8), [0]]))
    return list(
        zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist(), strict=True)
    )


def _standing_out(peaks: Errors, floor: float, prune: float) -> list[int]:
    """Return the peaks above the last drop of at least ``prune``, highest first."""
    order = np.argsort(-peaks, kind="stable")
    heights = np.append(peaks[order], floor)
    drops = (heights[:-1] - heights[1:]) / np.where(heights[:-1] == 0, 1.0, heights[:-1])
    large = np.flatnonzero(drops >= prune)
    return order[: large[-1] + 1].tolist() if len(large) else []


def _joined(found: list[Above]) -> list[Above]:
    """Return runs that touch or overlap as one, its severity averaged by the length of its parts."""
    groups: list[list[Above]] = []
    last = -2
    for run in sorted(found, key=lambda run: run.first):
        if run.first > last + 1:
            groups.append([])
        groups[-1].append(run)
        last = max(last, run.last)
    return [_as_one(group) for group in groups]


def _as_one(group: list[Above]) -> Above:
    lengths = np.array([run.last - run.first for run in group], dtype=np.float64)
    # A run of one step has length 0 here: the reference divides by zero when all of them have.
    weights = lengths if lengths.sum() else np.ones(len(group))
    severity = np.average([run.severity for run in group], weights=weights)
    return Above(group[0].first, max(run.last for run in group), float(severity))
