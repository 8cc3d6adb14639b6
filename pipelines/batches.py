"""Work in pieces: what one worker call takes, and points handed out by series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from pipelines.records import PointBlock, Points

T = TypeVar("T")

STEPS_PER_GROUP = 6_000_000
"""Steps that the model a group shares is fitted on at most: about a gigabyte."""

STEPS_PER_TASK = 200_000
"""Steps one worker call works on: seconds of work, tens of megabytes."""


def split(block: PointBlock, series_ids: Sequence[int]) -> dict[int, Points]:
    """Return the points of each series of a sorted block."""
    edges = np.searchsorted(block.series, series_ids, side="left")
    stops = np.searchsorted(block.series, series_ids, side="right")
    return {
        i: Points(block.ts[a:b], block.value[a:b]) for i, a, b in zip(series_ids, edges, stops, strict=True)
    }


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most ``size`` items."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def targets_per_group(steps_per_target: float) -> int:
    """Return on how many targets of that length the model of a group is fitted at most."""
    return max(1, int(STEPS_PER_GROUP // max(1.0, steps_per_target)))


def targets_per_task(steps_per_target: float) -> int:
    """Return how many targets of that length one worker call takes."""
    return max(1, min(256, int(STEPS_PER_TASK // max(1.0, steps_per_target))))
