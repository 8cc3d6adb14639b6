"""What may go into the store: names that no database takes and times that cannot be are turned away here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from anomaly_service.sources.base import Reading, Reject
from anomaly_service.sources.reasons import Reason
from pipelines.records import PointBlock, Seconds, SeriesRow, key_of
from pipelines.store import Ingest
from pipelines.times import DAY, HOUR

FUTURE_SECONDS = HOUR
"""How far beyond now a point may lie where the config says nothing else."""

FAR_SECONDS = 31 * DAY
"""What lies this far beyond the database's clock is a mistake; anything nearer waits for its time."""

OUTLIER_SHARE = 0.01
"""Of a series' rows, at most so many may be taken for strays."""

OUTLIER_SPANS = 10
"""How many times the span of the rest a stray lies before the rest."""

LONGEST_NAME = 2_000
"""Bytes of a series' key: PostgreSQL's indexes take no more than about 2,700."""


@dataclass(frozen=True)
class Clocks:
    """Up to when points are taken; epoch seconds.

    Attributes:
        taken: by our clock, which may be behind: what is later waits.
        held: by the database's clock too: what is later still is turned away.
    """

    taken: int
    held: int

    @classmethod
    def of(cls, now: float, database: float, tolerance_seconds: float) -> Clocks:
        taken = int(now + tolerance_seconds)
        return cls(taken, max(taken, int(database + tolerance_seconds) + FAR_SECONDS))


def name_reason(metric: str, labels: Mapping[str, str]) -> Reason:
    """Return why no database takes a series of this name; ``Reason.NONE`` where all do."""
    texts = [metric, *labels, *labels.values()]
    if any("\0" in text for text in texts):
        return Reason.NUL
    try:
        size = len(key_of([metric], labels).encode())
    except UnicodeEncodeError:  # half a character
        return Reason.ENCODING
    return Reason.LONG_NAME if size > LONGEST_NAME else Reason.NONE


def admit(batch: Ingest, clocks: Clocks, known: Mapping[str, SeriesRow]) -> Ingest:
    """Return the batch with those points that can be stored.

    What lies in the future becomes ``held``; what is turned away stands among the rejects of a Reading.

    Args:
        known: series that are stored, by key.
    """
    names = np.array([name_reason(spec.metric, spec.labels) for spec in batch.series], np.uint8)
    points = batch.points
    reason = names[points.series] if len(names) else np.zeros(0, np.uint8)
    reason = np.where(reason == Reason.NONE, _time_reason(points.ts, clocks), reason)
    good = np.flatnonzero((reason == Reason.NONE) & (points.ts <= clocks.taken))
    strays = good[_strays(_taken(points, good), Stored.of(batch, known))]
    reason[strays] = Reason.FAR_PAST
    is_taken = (reason == Reason.NONE) & (points.ts <= clocks.taken)
    is_held = (reason == Reason.NONE) & ~is_taken
    if is_taken.all() and not names.any():
        return batch
    admitted = replace(
        batch, points=_taken(points, np.flatnonzero(is_taken)), held=_taken(points, np.flatnonzero(is_held))
    )
    return _rejecting(_with_good_series(admitted, names), batch, np.flatnonzero(reason), reason)


def _time_reason(ts: Seconds, clocks: Clocks) -> NDArray[np.uint8]:
    return np.select([ts < 0, ts > clocks.held], [Reason.TIME_RANGE, Reason.FAR_FUTURE], Reason.NONE)


@dataclass(frozen=True)
class Stored:
    """What is stored of a batch's series, in their order: how many points about, first and last of them."""

    count: Seconds
    first: Seconds
    last: Seconds

    @classmethod
    def of(cls, batch: Ingest, known: Mapping[str, SeriesRow]) -> Stored:
        rows = [known.get(spec.key) for spec in batch.series]
        spans = [(0, 0) if row is None else (row.first_ts or 0, row.last_ts or 0) for row in rows]
        first, last = np.array(spans, np.int64).reshape(-1, 2).T
        steps = np.array([max(1, spec.step_seconds) for spec in batch.series], np.int64)
        return cls(np.where(last > 0, (last - first) // steps + 1, 0), first, last)


def _strays(points: PointBlock, stored: Stored) -> Seconds:
    """Return which points lie far before the rest of their series, as indices."""
    early = (stored.count[points.series] == 0) | (points.ts < stored.first[points.series])
    found = [np.zeros(0, np.int64)]
    if early.any():
        order = np.lexsort((points.ts, points.series))
        of = points.series[order]
        for series in np.unique(points.series[early]):
            rows = order[np.searchsorted(of, series) : np.searchsorted(of, series, side="right")]
            span = (int(each[series]) for each in (stored.count, stored.first, stored.last))
            found.append(rows[: stray_count(points.ts[rows], *span)])
    return np.concatenate(found)


def stray_count(ts: Seconds, n_stored: int = 0, first: int = 0, last: int = 0) -> int:
    """Return how many of the earliest times lie far before all others of a series.

    Args:
        ts: sorted.
        n_stored, first, last: how many more points of it there are, and their span.

    >>> stray_count(np.array([0, *range(1_700_000_000, 1_700_060_000, 300)]))
    1
    """
    most = min(int(OUTLIER_SHARE * (len(ts) + n_stored)), len(ts) - (n_stored == 0))
    if most < 1:
        return 0
    # The rest behind so many; what is stored is part of it.
    start = np.append(ts, last)[1 : most + 1]
    stop = np.full(most, max(int(ts[-1]), last))
    if n_stored:
        start = np.minimum(start, first)
        stop[-1] = last if most == len(ts) else stop[-1]
    is_far = (stop > start) & (start - ts[:most] > OUTLIER_SPANS * (stop - start))
    return int(np.flatnonzero(is_far)[-1]) + 1 if is_far.any() else 0


def _taken(points: PointBlock, rows: Seconds) -> PointBlock:
    return PointBlock(points.series[rows], points.ts[rows], points.value[rows])


def _with_good_series(batch: Ingest, names: NDArray[np.uint8]) -> Ingest:
    """Return the batch without the series that cannot be stored, which have no points any more."""
    if not names.any():
        return batch
    number = np.cumsum(names == Reason.NONE) - 1

    def renumbered(points: PointBlock) -> PointBlock:
        return replace(points, series=number[points.series])

    return replace(
        batch,
        series=[spec for spec, reason in zip(batch.series, names, strict=True) if reason == Reason.NONE],
        points=renumbered(batch.points),
        held=renumbered(batch.held),
    )


def _rejecting(admitted: Ingest, batch: Ingest, rows: Seconds, reason: NDArray[np.uint8]) -> Ingest:
    """Return the batch with the points that were turned away among its rejects."""
    count = batch.rejected + len(rows)
    if not isinstance(admitted, Reading) or not len(rows):
        return replace(admitted, rejected=count)
    more = [_reject(batch, int(row), Reason(reason[row])) for row in rows]
    return replace(admitted, rejected=count, rejects=[*admitted.rejects, *more])


def _reject(batch: Ingest, row: int, reason: Reason) -> Reject:
    """Return what is listed of a point: its line where that is known, and what it says."""
    spec = batch.series[batch.points.series[row]]
    raw = f"{spec.key} {_time(int(batch.points.ts[row]))} {batch.points.value[row]:g}"
    if not isinstance(batch, Reading) or batch.whence is None:
        return Reject(batch.source, 0, reason.text, raw)
    whence = batch.whence
    return Reject(whence.files[whence.file[row]], int(whence.line[row]), reason.text, raw)


def _time(ts: int) -> str:
    try:
        return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(ts)
