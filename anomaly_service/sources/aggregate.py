"""Events to series: rows at any moment, counted or summed up in buckets of equal length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from anomaly_service.config.values import Section, Step, whole_seconds
from anomaly_service.sources.base import Reading
from pipelines.records import PointBlock, SeriesSpec
from pipelines.store import Ingest

By = Literal["count", "sum", "mean", "max", "min", "p95"]


class Aggregate(Section):
    """Rows that are events, several a moment: what is made of those of a bucket."""

    every: Step = Field(description="Length of a bucket, such as `5min`; the series' step.")
    by: By = Field(
        description="What is made of the values in it: `count`, `sum`, `mean`, `max`, `min` or `p95`."
    )

    @property
    def every_seconds(self) -> int:
        return whole_seconds(self.every)


def aggregated(batches: Iterable[Ingest], how: Aggregate, until: float) -> Reading | None:
    """Return one batch of the whole buckets of all events; None where nothing was read.

    The bucket in which the first event lies is left out unless it begins with it, as what came before
    may be missing; and so are those that end after ``until``, epoch seconds.
    """
    whole = list(batches)
    if not whole:
        return None
    specs: dict[str, SeriesSpec] = {}
    for batch in whole:
        for spec in batch.series:
            specs.setdefault(spec.key, spec)
    place = {key: i for i, key in enumerate(specs)}
    numbers = [
        np.array([place[spec.key] for spec in batch.series], np.int64)[batch.points.series] for batch in whole
    ]
    points = PointBlock(
        np.concatenate(numbers),
        np.concatenate([batch.points.ts for batch in whole]),
        np.concatenate([batch.points.value for batch in whole]),
    )
    readings = [batch for batch in whole if isinstance(batch, Reading)]
    return Reading(
        source=whole[0].source,
        series=list(specs.values()),
        points=_buckets(points, how, until),
        progress={key: record for batch in whole for key, record in batch.progress.items()},
        rejected=sum(batch.rejected for batch in whole),
        rejects=[each for batch in readings for each in batch.rejects],
        notes=[each for batch in readings for each in batch.notes],
        share=1.0,
    )


def _buckets(points: PointBlock, how: Aggregate, until: float) -> PointBlock:
    """Return a point for every bucket of a series that holds an event, at its beginning."""
    if not len(points):
        return points
    every = how.every_seconds
    start = points.ts // every * every
    kept = (start >= points.ts.min()) & (start + every <= until)
    series, start, value = points.series[kept], start[kept], points.value[kept]
    # By value too, so that the same events give the same last digit in whatever pieces they came.
    order = np.lexsort((value, start, series))
    series, start, value = series[order], start[order], value[order]
    is_first = np.ones(len(start), bool)
    is_first[1:] = (np.diff(series) != 0) | (np.diff(start) != 0)
    at = np.flatnonzero(is_first)
    return replace(PointBlock(series[at], start[at], value[at]), value=_made(value, at, how.by))


def _made(value: np.ndarray, at: np.ndarray, by: By) -> np.ndarray:
    """Return what is made of values sorted within their buckets, which begin at ``at``."""
    if not len(at):
        return np.zeros(0)
    counts = np.diff(np.append(at, len(value)))
    if by == "count":
        return counts.astype(float)
    if by in ("sum", "mean"):
        sums = np.add.reduceat(value, at)
        return sums if by == "sum" else sums / counts
    if by in ("min", "max"):
        return value[at] if by == "min" else value[at + counts - 1]
    # The smallest value that 95 % do not exceed: one that was seen.
    return value[at + np.ceil(0.95 * counts).astype(np.int64) - 1]
