"""What the stored points of a series stand for: the values that are watched, made anew at every read.

Stored is what came. A late row, a corrected one or one that is read again changes what is made of it; an
invented zero or a rate that was stored would have to be found and mended.
"""

from __future__ import annotations

import numpy as np

from pipelines.records import Points, Seconds
from pipelines.times import DAY

RATE_STEPS = 10
"""What was counted since a reading further back is the rate of no step."""

SILENT_STEPS = 100
"""A source without a point for a day and so many steps is silent as a whole: what is absent is missing."""


def rate_context(step_seconds: int) -> int:
    """Return how far before a span the points of a counter are needed for its rates, in seconds."""
    return RATE_STEPS * step_seconds


def rates(counted: Points, step_seconds: int) -> Points:
    """Return by how much a counter rose a second up to each of its points.

    A point has no rate where it is the first, where the one before it is far, and where the counter fell:
    what was counted between its last reading and its restart nobody knows.

    >>> rates(Points(np.array([0, 60, 120, 180]), np.array([10.0, 70.0, 5.0, 65.0])), 60).value.tolist()
    [1.0, 1.0]
    """
    seconds, rise = np.diff(counted.ts), np.diff(counted.value)
    known = (rise >= 0) & (seconds <= rate_context(step_seconds))
    return Points(counted.ts[1:][known], rise[known] / seconds[known])


def silent_seconds(step_seconds: int) -> int:
    """Return for how long a source that leaves out zeros may bring nothing and still be thought at work."""
    return max(DAY, SILENT_STEPS * step_seconds)


def filled(points: Points, start: int, stop: int, *, begun: int, step_seconds: int, heard: Seconds) -> Points:
    """Return the points of a half-open span with a zero at every step of it that has none.

    Args:
        points: of the span, and up to ``silent_seconds`` before and after it.
        begun: time of the series' first point: its steps are whole steps from there.
        heard: when its source brought anything, ascending; zeros are between two of those times, if they are
            no further apart than ``silent_seconds``.

    >>> some = Points(np.array([0, 60, 240]), np.array([3.0, 1.0, 2.0]))
    >>> filled(some, 0, 600, begun=0, step_seconds=60, heard=np.array([0, 60, 240, 300])).value.tolist()
    [3.0, 1.0, 0.0, 0.0, 2.0, 0.0]
    """
    steps = _absent(points.ts, max(start, begun), stop, begun, step_seconds)
    place = np.searchsorted(heard, steps)
    inside = (place > 0) & (place < len(heard))
    steps, place = steps[inside], place[inside]
    steps = steps[heard[place] - heard[place - 1] <= silent_seconds(step_seconds)]
    own = slice(*np.searchsorted(points.ts, [start, stop]))
    ts = np.concatenate([points.ts[own], steps])
    order = np.argsort(ts, kind="stable")
    return Points(ts[order], np.concatenate([points.value[own], np.zeros(len(steps))])[order])


def _absent(ts: Seconds, start: int, stop: int, begun: int, step_seconds: int) -> Seconds:
    """Return the times of the steps of a half-open span near which no point is."""
    low, high = -((begun - start) // step_seconds), -((begun - stop) // step_seconds)
    taken = (ts - begun + step_seconds // 2) // step_seconds
    steps = np.setdiff1d(np.arange(low, max(low, high), dtype=np.int64), taken)
    found: Seconds = begun + step_seconds * steps
    return found


def sure(points: Points, stop: int, step_seconds: int) -> Points:
    """Return points up to a moment without the zeros just before it, of which it tells the next point only.

    What is learned from on a night must not depend on what came after it.
    """
    last = np.flatnonzero((points.value != 0.0) | (points.ts < stop - silent_seconds(step_seconds)))
    n = int(last[-1]) + 1 if len(last) else 0
    return Points(points.ts[:n], points.value[:n])
