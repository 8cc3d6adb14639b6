"""Points and scores on PostgreSQL: binary COPY in, binary arrays out, one partition a month."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import Connection as Driver
from psycopg.adapt import Loader
from psycopg.pq import Format
from sqlalchemy import Connection, Engine, text

from anomaly_service.db.engine import transaction
from pipelines.records import PointBlock, ScoreBlock, Seconds

# Any number: one process at a time adds partitions.
_ROOM_LOCK = 7_236_003

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_ARRAY_HEADER = 20
"""Bytes before the first element: dimensions, null flag, element type, length, lower bound."""

_INT8_ARRAY, _FLOAT8_ARRAY = 1016, 1022
"""PostgreSQL's type numbers of bigint[] and double precision[]."""

_VALUES = ("live", "live_anomaly", "settled", "settled_anomaly")


class PostgresBulk:
    """See ``anomaly_service.db.bulk.Bulk``."""

    def make_room(self, engine: Engine, table: str, ts: Seconds) -> None:
        """Create the partitions of these months that are missing."""
        if not len(ts):
            return
        months = np.unique(np.asarray(ts).astype("datetime64[s]").astype("datetime64[M]"))
        with transaction(engine, write=False) as connection:
            missing = [month for month in months if not _exists(connection, table, month)]
        if missing:
            with transaction(engine, write=True) as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ROOM_LOCK})
                for month in missing:
                    _add_partition(connection, table, month)

    def append_points(self, connection: Connection, points: PointBlock) -> None:
        _copy(connection, "points", {"series_id": points.series, "ts": points.ts, "value": points.value})

    def change_points(self, connection: Connection, points: PointBlock) -> None:
        if not len(points):
            return
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE IF NOT EXISTS staged_points "
            "(series_id integer, ts bigint, value double precision) ON COMMIT DELETE ROWS"
        )
        columns = {"series_id": points.series, "ts": points.ts, "value": points.value}
        _copy(connection, "staged_points", columns)
        connection.exec_driver_sql(
            "INSERT INTO points (series_id, ts, value) SELECT series_id, ts, value FROM staged_points "
            "ON CONFLICT (series_id, ts) DO UPDATE SET value = excluded.value "
            "WHERE points.value IS DISTINCT FROM excluded.value"
        )

    def read_points(self, connection: Connection, ids: Sequence[int], start: int, stop: int) -> PointBlock:
        rows = _fetch(
            connection,
            "SELECT series_id, array_agg(ts), array_agg(value) FROM points "
            "WHERE series_id = ANY(%s) AND ts >= %s AND ts < %s GROUP BY series_id ORDER BY series_id",
            (_ints(ids), int(start), int(stop)),
        )
        return _points(rows)

    def read_ranges(self, connection: Connection, ids: Seconds, first: Seconds, last: Seconds) -> PointBlock:
        # Series by series, whatever the planner believes: it has no statistics of the newest times, takes
        # them for empty, and would compare every point with every range.
        rows = _fetch(
            connection,
            "SELECT r.id, p.ts, p.value "
            "FROM unnest(%s::integer[], %s::bigint[], %s::bigint[]) AS r (id, low, high) "
            "CROSS JOIN LATERAL (SELECT array_agg(ts) AS ts, array_agg(value) AS value FROM points "
            "WHERE series_id = r.id AND ts BETWEEN r.low AND r.high AND ts BETWEEN %s AND %s) AS p "
            "WHERE p.ts IS NOT NULL",
            (ids.tolist(), first.tolist(), last.tolist(), int(first.min()), int(last.max())),
        )
        return _points(sorted(rows, key=lambda row: row[0]))

    def upsert_scores(self, connection: Connection, scores: ScoreBlock) -> None:
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE IF NOT EXISTS staged_scores (target_id integer, version_id integer, "
            "ts bigint, live double precision, live_anomaly double precision, settled double precision, "
            "settled_anomaly double precision) ON COMMIT DELETE ROWS"
        )
        columns = {"target_id": scores.target, "version_id": scores.version, "ts": scores.ts}
        _copy(connection, "staged_scores", columns | {name: getattr(scores, name) for name in _VALUES})
        connection.exec_driver_sql(_UPSERT_SCORES)

    def read_scores(self, connection: Connection, ids: Sequence[int], start: int, stop: int) -> ScoreBlock:
        values = ", ".join(f"array_agg(coalesce({name}, 'NaN'))" for name in _VALUES)
        rows = _fetch(
            connection,
            f"SELECT target_id, array_agg(ts), array_agg(version_id::bigint), {values} FROM scores "
            "WHERE target_id = ANY(%s) AND ts >= %s AND ts < %s GROUP BY target_id ORDER BY target_id",
            (_ints(ids), int(start), int(stop)),
        )
        target, ts, version, *values_ = _columns(rows, [np.int64, np.int64] + [np.float64] * 4)
        return ScoreBlock(target, ts, version, *values_)

    def drop_before(self, connection: Connection, table: str, ts: int) -> int:
        """Drop the partitions that lie before the time as a whole."""
        deleted = 0
        for name, stop in _partitions(connection, table):
            if stop <= ts:
                deleted += int(connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one())
                connection.exec_driver_sql(f"DROP TABLE {name}")
        return deleted


_UPSERT_SCORES = (
    "INSERT INTO scores (target_id, version_id, ts, live, live_anomaly, settled, settled_anomaly) "
    "SELECT target_id, version_id, ts, nullif(live, 'NaN'), nullif(live_anomaly, 'NaN'), "
    "nullif(settled, 'NaN'), nullif(settled_anomaly, 'NaN') FROM staged_scores "
    "ON CONFLICT (target_id, ts) DO UPDATE SET version_id = excluded.version_id, "
    + ", ".join(f"{name} = coalesce(excluded.{name}, scores.{name})" for name in _VALUES)
    + " WHERE scores.version_id <> excluded.version_id OR "
    + " OR ".join(
        f"scores.{name} IS DISTINCT FROM coalesce(excluded.{name}, scores.{name})" for name in _VALUES
    )
)


class _Raw(Loader):
    """Hands out the bytes as they came, for numpy to read."""

    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data)


def _driver(connection: Connection) -> Driver[Any]:
    """Return the driver's own connection, which stands in the same transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, Driver)
    return driver


def _copy(connection: Connection, table: str, columns: dict[str, NDArray[Any]]) -> None:
    """Write columns of equal length by binary COPY, from one buffer that numpy lays out."""
    rows = len(columns["ts"])
    if not rows:
        return
    buffer = np.empty(rows, dtype=_layout(columns))
    buffer["fields"] = len(columns)
    for name, values in columns.items():
        buffer[f"{name} length"] = buffer.dtype[name].itemsize
        buffer[name] = values
    with (
        _driver(connection).cursor() as cursor,
        cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.write(_HEADER)
        copy.write(buffer.view(np.uint8).data)
        copy.write(_TRAILER)


def _layout(columns: dict[str, NDArray[Any]]) -> np.dtype[Any]:
    """Return the big-endian layout of a row: number of fields, then length and bytes of each."""
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, values in columns.items():
        kind = ">f8" if values.dtype.kind == "f" else ">i4" if name.endswith("_id") else ">i8"
        fields += [(f"{name} length", ">i4"), (name, kind)]
    return np.dtype(fields)


def _fetch(connection: Connection, query: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return rows whose arrays are raw bytes."""
    with _driver(connection).cursor(binary=True) as cursor:
        # Compiling the query to machine code takes longer than running it.
        cursor.execute("SET LOCAL jit = off")
        for array in (_INT8_ARRAY, _FLOAT8_ARRAY):
            cursor.adapters.register_loader(array, _Raw)
        return cursor.execute(query.encode(), parameters).fetchall()


def _columns(rows: Sequence[tuple[Any, ...]], types: Sequence[Any]) -> list[NDArray[Any]]:
    """Return the key of every element, then the arrays of all rows end to end, sorted by key and time."""
    joined = [
        np.concatenate([_decode(row[1 + index], kind) for row in rows] or [np.empty(0, dtype=kind)])
        for index, kind in enumerate(types)
    ]
    sizes = [_size(row[1]) for row in rows]
    keys = np.repeat(np.array([row[0] for row in rows], dtype=np.int64), sizes)
    ts = joined[0]
    if np.any((ts[1:] <= ts[:-1]) & (keys[1:] == keys[:-1])):
        order = np.lexsort((ts, keys))
        return [column[order] for column in (keys, *joined)]
    return [keys, *joined]


def _points(rows: Sequence[tuple[Any, ...]]) -> PointBlock:
    series, ts, value = _columns(rows, [np.int64, np.float64])
    return PointBlock(series, ts, value)


def _size(array: bytes) -> int:
    return (len(array) - _ARRAY_HEADER) // 12


def _decode(array: bytes, kind: Any) -> NDArray[Any]:
    """Return the elements of a binary array of eight-byte values without NULL."""
    element = np.dtype([("length", ">i4"), ("value", np.dtype(kind).newbyteorder(">"))])
    return np.frombuffer(array, dtype=element, offset=_ARRAY_HEADER)["value"].astype(kind)


def _ints(ids: Sequence[int]) -> list[int]:
    return sorted({int(one) for one in ids})


def _name(table: str, month: np.datetime64) -> str:
    return f"{table}_{str(month).replace('-', '')}"


def _bounds(month: np.datetime64) -> tuple[int, int]:
    """Return first and one past the last second of a month."""
    first, after = (one.astype("datetime64[s]").astype(np.int64) for one in (month, month + 1))
    return int(first), int(after)


def _exists(connection: Connection, table: str, month: np.datetime64) -> bool:
    query = "SELECT relispartition FROM pg_class WHERE oid = to_regclass(%s)"
    return bool(connection.exec_driver_sql(query, (_name(table, month),)).scalar())


def _add_partition(connection: Connection, table: str, month: np.datetime64) -> None:
    """Create a month's table and attach it: unlike CREATE .. PARTITION OF, readers need not wait."""
    if _exists(connection, table, month):
        return
    name, (low, high) = _name(table, month), _bounds(month)
    connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
    connection.exec_driver_sql(
        f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({high})"
    )


def _partitions(connection: Connection, table: str) -> list[tuple[str, int]]:
    """Return name and one past the last second of every partition of a table, the oldest first."""
    query = (
        "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
        "WHERE inhparent = to_regclass(%s) ORDER BY relname"
    )
    names = connection.exec_driver_sql(query, (table,)).scalars().all()
    months = {name: re.fullmatch(rf"{table}_(\d+)(\d\d)", name) for name in names}
    return [
        (name, _bounds(np.datetime64(f"{found[1]}-{found[2]}", "M"))[1])
        for name, found in months.items()
        if found is not None
    ]
