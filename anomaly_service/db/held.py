"""Points whose time has not come: they wait beside the others, which know nothing of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, delete, func, select

from anomaly_service.db.sql import among, upsert
from anomaly_service.db.tables import HeldPoint, Series
from pipelines.records import PointBlock

RELEASED_AT_ONCE = 500_000
"""Points taken in by one transaction, as many as of a batch."""


def hold(connection: Connection, points: PointBlock) -> None:
    """Put points beside the others; of one that waits already the value is replaced."""
    rows = [
        {"series_id": series, "ts": ts, "value": value}
        for series, ts, value in zip(
            points.series.tolist(), points.ts.tolist(), points.value.tolist(), strict=True
        )
    ]
    upsert(connection, HeldPoint, rows, ["series_id", "ts"])


def standing(connection: Connection, source: str) -> tuple[int, int | None]:
    """Return how many points of a source wait, and the time of the first."""
    query = select(func.count(), func.min(HeldPoint.ts)).where(HeldPoint.series_id.in_(_series(source)))
    count, first = connection.execute(query).one()
    return int(count), first


def due(connection: Connection, source: str, until: int) -> PointBlock:
    """Return the points of a source that need not wait beyond a time, the earliest of them where many."""
    of_source = HeldPoint.series_id.in_(_series(source)), HeldPoint.ts <= until
    times = select(HeldPoint.ts).where(*of_source).order_by(HeldPoint.ts)
    next_time = connection.scalar(times.offset(RELEASED_AT_ONCE).limit(1))
    query = select(HeldPoint.series_id, HeldPoint.ts, HeldPoint.value).where(*of_source)
    if next_time is not None:
        query = query.where(HeldPoint.ts <= next_time)
    rows = connection.execute(query.order_by(HeldPoint.series_id, HeldPoint.ts)).all()
    series, ts, value = zip(*rows, strict=True) if rows else ((), (), ())
    return PointBlock(np.array(series, np.int64), np.array(ts, np.int64), np.array(value, np.float64))


def drop(connection: Connection, series_id: int, start: int, stop: int) -> int:
    """Delete what waits of a series in the half-open span; return how many."""
    span = HeldPoint.series_id == series_id, HeldPoint.ts >= start, HeldPoint.ts < stop
    return connection.execute(delete(HeldPoint).where(*span)).rowcount


def drop_released(connection: Connection, points: PointBlock) -> None:
    """Delete points that were taken in."""
    if len(points):
        ids = sorted(set(points.series.tolist()))
        released = among(connection, HeldPoint.series_id, ids), HeldPoint.ts <= int(points.ts.max())
        connection.execute(delete(HeldPoint).where(*released))


def _series(source: str) -> Select[Any]:
    return select(Series.id).where(Series.source == source)
