"""The fast path of points and scores: numpy columns in, numpy columns out, no row objects between.

Both classes do the same on their database, inside the caller's transaction. SQLite is written by
``executemany`` and read by iterating its cursor into a numpy array. PostgreSQL is written by binary
COPY from one numpy buffer, and read as two binary arrays per series.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from pipelines.records import PointBlock, ScoreBlock, Seconds

POINT = np.dtype([("series", np.int64), ("ts", np.int64), ("value", np.float64)])
VALUE = np.dtype([("ts", np.int64), ("value", np.float64)])
SCORE = np.dtype(
    [
        ("target", np.int64),
        ("ts", np.int64),
        ("version", np.int64),
        ("live", np.float64),
        ("live_anomaly", np.float64),
        ("settled", np.float64),
        ("settled_anomaly", np.float64),
    ]
)


class Bulk(Protocol):
    """What a database must do quickly."""

    def make_room(self, engine: Engine, table: str, ts: Seconds) -> None:
        """Create what must exist before rows of these times can be written, in a transaction of its own."""
        ...

    def append_points(self, connection: Connection, points: PointBlock) -> None:
        """Insert points of which none exists, sorted by series and time."""
        ...

    def change_points(self, connection: Connection, points: PointBlock) -> None:
        """Give points that exist other values; no key may occur twice."""
        ...

    def read_points(self, connection: Connection, ids: Sequence[int], start: int, stop: int) -> PointBlock:
        """Return the points of these series in the half-open span, by series and time."""
        ...

    def read_ranges(self, connection: Connection, ids: Seconds, first: Seconds, last: Seconds) -> PointBlock:
        """Return the points of every series between its own first and last time, both included."""
        ...

    def upsert_scores(self, connection: Connection, scores: ScoreBlock) -> None:
        """Insert or replace scores; a NaN leaves the stored value; equal rows are not written."""
        ...

    def read_scores(self, connection: Connection, ids: Sequence[int], start: int, stop: int) -> ScoreBlock:
        """Return the scores of these targets in the half-open span, by target and time."""
        ...

    def drop_before(self, connection: Connection, table: str, ts: int) -> int:
        """Drop what lies as a whole before this time, where that is cheap; return how many rows went."""
        ...


class SqliteBulk:
    """``executemany`` with the columns as Python lists: the driver's own loop is the fastest there is."""

    def make_room(self, engine: Engine, table: str, ts: Seconds) -> None:
        return None

    def append_points(self, connection: Connection, points: PointBlock) -> None:
        _driver(connection).executemany("INSERT INTO points VALUES (?, ?, ?)", _columns(points))

    def change_points(self, connection: Connection, points: PointBlock) -> None:
        # An eighth faster than an upsert, whose insert has to fail first.
        _driver(connection).executemany(
            "UPDATE points SET value = ?3 WHERE series_id = ?1 AND ts = ?2", _columns(points)
        )

    def read_points(self, connection: Connection, ids: Sequence[int], start: int, stop: int) -> PointBlock:
        cursor = _driver(connection).execute(
            "SELECT series_id, ts, value FROM points WHERE series_id IN (SELECT value FROM json_each(?)) "
            "AND ts >= ? AND ts < ? ORDER BY series_id, ts",
            (_json(ids), int(start), int(stop)),
        )
        return _points(np.fromiter(cursor, dtype=POINT))

    def read_ranges(self, connection: Connection, ids: Seconds, first: Seconds, last: Seconds) -> PointBlock:
        # A query per series: the id need not become an object in every row.
        query = "SELECT ts, value FROM points WHERE series_id = ? AND ts BETWEEN ? AND ?"
        driver = _driver(connection)
        ranges = zip(ids.tolist(), first.tolist(), last.tolist(), strict=True)
        found = [np.fromiter(driver.execute(query, each), dtype=VALUE) for each in ranges]
        rows = np.concatenate(found) if found else np.empty(0, dtype=VALUE)
        series = np.repeat(ids, [len(each) for each in found])
        return PointBlock(series, np.ascontiguousarray(rows["ts"]), np.ascontiguousarray(rows["value"]))

    def upsert_scores(self, connection: Connection, scores: ScoreBlock) -> None:
        _driver(connection).executemany(
            "INSERT INTO scores (target_id, version_id, ts, live, live_anomaly, settled, settled_anomaly) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (target_id, ts) DO UPDATE SET "
            "version_id = excluded.version_id, live = coalesce(excluded.live, live), "
            "live_anomaly = coalesce(excluded.live_anomaly, live_anomaly), "
            "settled = coalesce(excluded.settled, settled), "
            "settled_anomaly = coalesce(excluded.settled_anomaly, settled_anomaly) "
            "WHERE version_id <> excluded.version_id OR live IS NOT coalesce(excluded.live, live) "
            "OR live_anomaly IS NOT coalesce(excluded.live_anomaly, live_anomaly) "
            "OR settled IS NOT coalesce(excluded.settled, settled) "
            "OR settled_anomaly IS NOT coalesce(excluded.settled_anomaly, settled_anomaly)",
            _score_columns(scores),
        )

    def read_scores(self, connection: Connection, ids: Sequence[int], start: int, stop: int) -> ScoreBlock:
        # 9e999 reads as infinity, which no score is: NULL cannot enter a numpy column of doubles.
        cursor = _driver(connection).execute(
            "SELECT target_id, ts, version_id, coalesce(live, 9e999), coalesce(live_anomaly, 9e999), "
            "coalesce(settled, 9e999), coalesce(settled_anomaly, 9e999) FROM scores "
            "WHERE target_id IN (SELECT value FROM json_each(?)) AND ts >= ? AND ts < ? "
            "ORDER BY target_id, ts",
            (_json(ids), int(start), int(stop)),
        )
        rows = np.fromiter(cursor, dtype=SCORE)
        for name in ("live", "live_anomaly", "settled", "settled_anomaly"):
            rows[name][np.isposinf(rows[name])] = np.nan
        return _scores(rows)

    def drop_before(self, connection: Connection, table: str, ts: int) -> int:
        return 0


def _driver(connection: Connection) -> sqlite3.Connection:
    """Return the driver's own connection, which stands in the same transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _json(ids: Sequence[int]) -> str:
    return json.dumps(sorted({int(one) for one in ids}))


def _columns(points: PointBlock) -> Iterable[tuple[Any, ...]]:
    return zip(points.series.tolist(), points.ts.tolist(), points.value.tolist(), strict=True)


def _score_columns(scores: ScoreBlock) -> Iterable[tuple[Any, ...]]:
    """Rows in the order of the table; sqlite3 stores NaN as NULL."""
    return zip(
        scores.target.tolist(),
        scores.version.tolist(),
        scores.ts.tolist(),
        scores.live.tolist(),
        scores.live_anomaly.tolist(),
        scores.settled.tolist(),
        scores.settled_anomaly.tolist(),
        strict=True,
    )


def _points(rows: NDArray[Any]) -> PointBlock:
    return PointBlock(*(np.ascontiguousarray(rows[name]) for name in ("series", "ts", "value")))


def _scores(rows: NDArray[Any]) -> ScoreBlock:
    return ScoreBlock(*(np.ascontiguousarray(rows[name]) for name in SCORE.names or ()))
