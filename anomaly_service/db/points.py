"""Series and their points: ingest says exactly what was new, corrected or known already."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, select, update

from anomaly_service.db.bulk import Bulk
from anomaly_service.db.engine import db_now
from anomaly_service.db.held import drop_released, hold
from anomaly_service.db.sql import add, among, execute_columns, upsert
from anomaly_service.db.tables import Point, Series, Source, SourceProgress
from pipelines.records import Json, PointBlock, Seconds, SeriesRow, SeriesSpec
from pipelines.store import Ingest, Ingested

NEVER = np.iinfo(np.int64).min
"""Stands for "no point yet": every time is later."""

SETTINGS = ("step_seconds", "delay_seconds", "timezone", "source")
"""What a source may say differently of a series it named before."""


def clean(points: PointBlock) -> tuple[PointBlock, int]:
    """Return the points sorted by series and time, of duplicates the last; and how many were not finite."""
    finite = np.isfinite(points.value)
    series, ts, value = points.series[finite], points.ts[finite], points.value[finite]
    if not _is_sorted(series, ts):
        order = np.lexsort((ts, series))  # stable: equal keys keep their order
        series, ts, value = series[order], ts[order], value[order]
        last = np.ones(len(ts), dtype=bool)
        last[:-1] = (series[1:] != series[:-1]) | (ts[1:] != ts[:-1])
        series, ts, value = series[last], ts[last], value[last]
    return PointBlock(series, ts, value), int(len(finite) - np.count_nonzero(finite))


def _is_sorted(series: Seconds, ts: Seconds) -> bool:
    """True where every row lies after the one before it, which also rules out duplicates."""
    later = (series[1:] > series[:-1]) | ((series[1:] == series[:-1]) & (ts[1:] > ts[:-1]))
    return bool(later.all())


def ingest(connection: Connection, bulk: Bulk, batch: Ingest) -> Ingested:
    """Store a batch; see ``Store.ingest``. Values that are not finite count as rejected."""
    ids, last_ts = _sync_series(connection, batch.series)
    points, n_dropped = _cleaned(batch.points, ids)
    held, n_never = _cleaned(batch.held, ids)
    hold(connection, held)
    result = _written(connection, bulk, points, _lookup(points.series, ids, last_ts))
    result = replace(result, rejected=batch.rejected + n_dropped + n_never)
    _remember(connection, batch, result)
    return result


def _cleaned(points: PointBlock, ids: Seconds) -> tuple[PointBlock, int]:
    return clean(PointBlock(ids[points.series], points.ts, points.value))


def _written(
    connection: Connection, bulk: Bulk, points: PointBlock, last_ts: Seconds, *, correct: bool = True
) -> Ingested:
    """Write points that were cleaned, and say what that changed.

    Args:
        last_ts: of each point's series, the newest that is stored.
        correct: what is stored with another value gets this one.
    """
    later = points.ts > last_ts
    bulk.append_points(connection, _take(points, later))
    overlap = _take(points, ~later)
    is_new, is_changed = _compare(connection, bulk, overlap)
    is_changed &= correct
    bulk.append_points(connection, _take(overlap, is_new))
    bulk.change_points(connection, _take(overlap, is_changed))
    written = later.copy()
    written[~later] = is_new | is_changed
    _move_bounds(connection, _take(points, written))
    return Ingested(
        new=int(later.sum() + is_new.sum()),
        changed=int(is_changed.sum()),
        unchanged=int(len(points) - written.sum()),
        rejected=0,
        earliest=dict(zip(*_firsts(_take(points, written)), strict=True)),
    )


def release(connection: Connection, bulk: Bulk, source: str, points: PointBlock) -> Ingested:
    """Take in points that waited; one that was stored meanwhile is newer, and stays."""
    query = select(Series.id, Series.last_ts).where(
        among(connection, Series.id, np.unique(points.series).tolist())
    )
    rows = connection.execute(query.order_by(Series.id).with_for_update()).all()
    ids = np.array([row.id for row in rows], dtype=np.int64)
    last_ts = np.array([NEVER if row.last_ts is None else row.last_ts for row in rows], dtype=np.int64)
    result = _written(connection, bulk, points, _lookup(points.series, ids, last_ts), correct=False)
    drop_released(connection, points)
    _remember(connection, Ingest(source, (), PointBlock.empty()), result)
    return result


def rows(connection: Connection, source: str | None) -> list[SeriesRow]:
    """Return the series of one source, or all, by key."""
    live = Source.live_at.is_not(None).label("live")
    query = (
        select(Series.__table__, live).outerjoin(Source, Source.name == Series.source).order_by(Series.key)
    )
    if source is not None:
        query = query.where(Series.source == source)
    return [
        SeriesRow(
            row.id, _spec(row), row.first_ts, row.last_ts, row.begun_ts, row.pruned_before, bool(row.live)
        )
        for row in connection.execute(query)
    ]


def progress(connection: Connection, source: str) -> dict[str, Json]:
    query = select(SourceProgress.key, SourceProgress.value).where(SourceProgress.source == source)
    return {row.key: row.value for row in connection.execute(query)}


def forget_before(connection: Connection, before: int, sources: Collection[str] | None) -> list[int] | None:
    """Remember that the points before a time go, of some sources or all; return whose, None for all."""
    known = select(Series.id, Series.first_ts, Series.pruned_before)
    if sources is not None:
        known = known.where(among(connection, Series.source, sources))
    rows = list(connection.execute(known))
    later = [row.id for row in rows if row.pruned_before is None or row.pruned_before < before]
    connection.execute(update(Series).where(among(connection, Series.id, later)).values(pruned_before=before))
    if sources is None:
        return None
    return [row.id for row in rows if row.first_ts is not None and row.first_ts < before]


def move_first(connection: Connection, before: int, series_ids: Sequence[int]) -> None:
    """Correct ``first_ts`` of series after their points before a time were deleted."""
    first = select(Point.ts).where(Point.series_id == Series.id).order_by(Point.ts).limit(1)
    old = among(connection, Series.id, series_ids), Series.first_ts < before
    connection.execute(update(Series).where(*old).values(first_ts=first.scalar_subquery()))


def _spec(row: Any) -> SeriesSpec:
    return SeriesSpec(row.metric, row.labels, row.step_seconds, row.delay_seconds, row.timezone, row.source)


def _sync_series(connection: Connection, specs: Sequence[SeriesSpec]) -> tuple[Seconds, Seconds]:
    """Return id and last time of every series, adding those that are new and correcting those that changed.

    The rows stay locked until the transaction ends, so that two daemons cannot both take a point for new.
    """
    by_key = {spec.key: spec for spec in specs}
    known = _load(connection, by_key)
    missing = [spec for key, spec in by_key.items() if key not in known]
    if missing:
        add(connection, Series, [_values(spec) for spec in missing], ["key"])
        known |= _load(connection, {spec.key: spec for spec in missing})
    changed = [
        {"row_id": known[key].id, **_values(spec)}
        for key, spec in by_key.items()
        if _differs(known[key], spec)
    ]
    _correct(connection, changed)
    found = [known[spec.key] for spec in specs]
    ids = np.array([row.id for row in found], dtype=np.int64)
    return ids, np.array([NEVER if row.last_ts is None else row.last_ts for row in found], dtype=np.int64)


def _correct(connection: Connection, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    settable: dict[str, Any] = {name: bindparam(name) for name in rows[0] if name not in {"row_id", "key"}}
    statement = update(Series).where(Series.id == bindparam("row_id")).values(settable)
    connection.execute(statement, rows)


def _differs(row: Any, spec: SeriesSpec) -> bool:
    return any(getattr(row, name) != getattr(spec, name) for name in SETTINGS)


def _load(connection: Connection, keys: dict[str, SeriesSpec]) -> dict[str, Any]:
    """Return what may change of these series, by key: metric and labels never do, they are the key."""
    columns = [Series.id, Series.key, Series.last_ts, *(getattr(Series, name) for name in SETTINGS)]
    query = select(*columns).where(among(connection, Series.key, keys)).order_by(Series.id)
    return {row.key: row for row in connection.execute(query.with_for_update())}


def _values(spec: SeriesSpec) -> dict[str, Any]:
    return {
        "key": spec.key,
        "metric": spec.metric,
        "labels": spec.labels,
        "source": spec.source,
        "step_seconds": int(spec.step_seconds),
        "delay_seconds": int(spec.delay_seconds),
        "timezone": spec.timezone,
    }


def _lookup(series: Seconds, ids: Seconds, values: Seconds) -> Seconds:
    """Return for every row the value that belongs to its series."""
    order = np.argsort(ids, kind="stable")
    return values[order][np.searchsorted(ids[order], series)]


def _compare(
    connection: Connection, bulk: Bulk, points: PointBlock
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which points do not exist yet, and which exist with another value."""
    if not len(points):
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)
    ids, first = np.unique(points.series, return_index=True)
    last = np.append(first[1:], len(points)) - 1
    stored = bulk.read_ranges(connection, ids, points.ts[first], points.ts[last])
    place, found = _match(points, stored)
    changed = np.zeros(len(points), dtype=bool)
    changed[found] = stored.value[place[found]] != points.value[found]
    return ~found, changed


def _match(points: PointBlock, stored: PointBlock) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where each point stands in ``stored``, and whether it does; both sorted by series and time."""
    if not len(stored):
        return np.zeros(len(points), dtype=np.int64), np.zeros(len(points), dtype=bool)
    low = min(points.ts.min(), stored.ts.min())
    width = int(max(points.ts.max(), stored.ts.max()) - low) + 1
    # One number per key: ids below 2^31 and spans below 2^32 seconds (136 years) stay within 63 bits.
    wanted = points.series * width + (points.ts - low)
    there = stored.series * width + (stored.ts - low)
    place = np.minimum(np.searchsorted(there, wanted), len(there) - 1)
    return place, there[place] == wanted


def _take(points: PointBlock, keep: NDArray[np.bool_]) -> PointBlock:
    if keep.all():
        return points
    return PointBlock(points.series[keep], points.ts[keep], points.value[keep])


def _firsts(points: PointBlock) -> tuple[list[int], list[int]]:
    ids, first = np.unique(points.series, return_index=True)
    return ids.tolist(), points.ts[first].tolist()


def _move_bounds(connection: Connection, points: PointBlock) -> None:
    """Widen every series' span of points to what was written."""
    if not len(points):
        return
    ids, first = np.unique(points.series, return_index=True)
    last = np.append(first[1:], len(points)) - 1
    columns = {"id": ids.tolist(), "low": points.ts[first].tolist(), "high": points.ts[last].tolist()}
    execute_columns(connection, _MOVE_BOUNDS, columns)


_MOVE_BOUNDS = {
    "sqlite": "UPDATE series SET first_ts = min(coalesce(first_ts, :low), :low), "
    "begun_ts = min(coalesce(begun_ts, :low), :low), "
    "last_ts = max(coalesce(last_ts, :high), :high) WHERE id = :id",
    "postgresql": "UPDATE series SET first_ts = least(first_ts, row.low), "
    "begun_ts = least(begun_ts, row.low), "
    "last_ts = greatest(last_ts, row.high) FROM unnest(%(id)s::integer[], %(low)s::bigint[], "
    "%(high)s::bigint[]) AS row (id, low, high) WHERE series.id = row.id",
}


def _remember(connection: Connection, batch: Ingest, result: Ingested) -> None:
    """Store the source's own memory and its counters."""
    upsert(
        connection,
        SourceProgress,
        [{"source": batch.source, "key": key, "value": value} for key, value in batch.progress.items()],
        ["source", "key"],
    )
    counts = {
        "points_new": result.new,
        "points_changed": result.changed,
        "rows_rejected": result.rejected,
    }
    row = {"name": batch.source, **dict.fromkeys(counts, 0), "last_batch_at": None}
    add(connection, Source, [row], ["name"])
    added = {name: getattr(Source, name) + count for name, count in counts.items()}
    connection.execute(
        update(Source).where(Source.name == batch.source).values(**added, last_batch_at=db_now())
    )
