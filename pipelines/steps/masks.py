"""Times that nothing is learned from: what people confirmed as anomalous, and periods that a calendar masks.

An incident is left out of training and calibration and scored on, or its event would vanish with the next
pass. A masked period, such as maintenance, is for a model as if no point had come, before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.monitor import Period
from pipelines.records import Points, Seconds
from pipelines.steps import regimes

Span = tuple[int, int]
"""Half-open, epoch seconds."""


def of_calendar(calendar: Iterable[Period], timezone: str, first: int, last: int) -> list[Span]:
    """Return the masked spans that may touch the seconds from first to last."""
    return [span for each in calendar if each.masked for span in regimes.spans(each, timezone, first, last)]


def of_steps(start: int, end: int, step_seconds: int) -> Span:
    """Return the span whose points belong to the steps from one time to another, both inside."""
    return start - step_seconds // 2, end - step_seconds // 2 + step_seconds


def within(ts: Seconds, spans: Iterable[Span]) -> NDArray[np.bool_]:
    """Return which of the ascending times lie in one of the spans."""
    found = np.zeros(len(ts), dtype=np.bool_)
    for start, stop in spans:
        found[slice(*np.searchsorted(ts, [start, stop]))] = True
    return found


def without(points: Sequence[Points], spans: Sequence[Span]) -> tuple[Points, ...]:
    """Return the points of every channel that lie in none of the spans."""
    if not spans:
        return tuple(points)
    kept = [(each, ~within(each.ts, spans)) for each in points]
    return tuple(Points(each.ts[keep], each.value[keep]) for each, keep in kept)
