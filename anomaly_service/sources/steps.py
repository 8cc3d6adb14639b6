"""The step of series, told from the distances of their points: with holes, too, and with jitter."""

from __future__ import annotations

import numpy as np

from pipelines.records import Seconds
from pipelines.times import DAY

ROUND_STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 14400,
               21600, 28800, 43200, DAY, 7 * DAY)  # fmt: skip

ALMOST_ALL = 0.98
"""Share of the distances that must be whole steps."""

JITTER = 0.02
"""A distance is so many whole steps where it is this share of a step from that."""

OWN_SHARE = 0.02
"""A step is itself the distance of this share of neighbours: a second holds all distances, and is none."""

UNKNOWN = 300
"""Taken of files with one point a series."""


def usual_step(series: Seconds, ts: Seconds) -> int:
    """Return the greatest distance that holds almost all distances of neighbouring points, in seconds.

    Where none does, as where points come at any time, it is the median distance, rounded where a round one
    is near.

    >>> usual_step(np.zeros(6, int), np.array([0, 900, 1200, 2100, 2700, 3600]))
    300
    """
    distance = _distances(series, ts)
    if not len(distance):
        return UNKNOWN
    median = max(1, round(float(np.median(distance))))
    found = (step for step in _candidates(distance, median) if _holds(step, distance))
    return next(found, _rounded(median))


def _distances(series: Seconds, ts: Seconds) -> Seconds:
    order = np.lexsort((ts, series))
    distance = np.diff(ts[order])[np.diff(series[order]) == 0]
    return distance[distance > 0]


def _candidates(distance: Seconds, median: int) -> list[int]:
    """Return the steps that may be, the greatest first: the median, and less that is common by itself."""
    exact, counts = np.unique(distance, return_counts=True)
    common = exact[(counts >= max(2, OWN_SHARE * len(distance))) & (exact < median)]
    return list(dict.fromkeys([_rounded(median), *common[::-1].tolist()]))


def _holds(step: int, distance: Seconds) -> bool:
    off = np.abs(distance - np.rint(distance / step) * step)
    return bool(((distance > 0.5 * step) & (off <= JITTER * step)).mean() >= ALMOST_ALL)


def _rounded(step: int) -> int:
    nearest = min(ROUND_STEPS, key=lambda one: abs(one - step))
    return nearest if abs(nearest - step) <= JITTER * step else step
