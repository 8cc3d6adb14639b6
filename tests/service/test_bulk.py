"""The fast path of points and scores against slow, obvious twins."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import psutil
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from anomaly_service.db.store import SqlStore
from anomaly_service.errors import DatabaseUnavailableError, UnstorableError
from pipelines.records import PointBlock, ScoreBlock, SeriesSpec
from pipelines.store import Batch, Ingest

T0 = 1_767_225_600  # 2026-01-01
DAY = 86400
NAMES = ("live", "live_anomaly", "settled", "settled_anomaly")


def specs(n: int) -> list[SeriesSpec]:
    return [SeriesSpec("ccu", {"realm": f"r{k:03}"}, 300, 0, "UTC", "telemetry") for k in range(n)]


def load(store: SqlStore, series: np.ndarray, ts: np.ndarray, value: np.ndarray) -> None:
    store.ingest(Ingest("telemetry", specs(int(series.max()) + 1), PointBlock(series, ts, value)))


def partitions(store: SqlStore, table: str) -> list[str]:
    query = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' AND relname LIKE :name"
    with store.engine.connect() as connection:
        return sorted(connection.scalars(text(query), {"name": f"{table}%"}))


def test_reading_equals_a_plain_select(store: SqlStore) -> None:
    rng = np.random.default_rng(3)
    series = rng.integers(0, 40, 5000)
    load(store, series, T0 + rng.integers(0, 100 * DAY, 5000), rng.normal(size=5000) * 1e12)
    ids = [3, 17, 20, 999]
    found = store.points(ids, T0 + 10 * DAY, T0 + 60 * DAY)
    query = (
        "SELECT series_id, ts, value FROM points WHERE series_id IN (3, 17, 20) "
        "AND ts >= :start AND ts < :stop ORDER BY series_id, ts"
    )
    with store.engine.connect() as connection:
        rows = connection.execute(text(query), {"start": T0 + 10 * DAY, "stop": T0 + 60 * DAY}).all()
    assert [tuple(row) for row in rows] == list(
        zip(found.series.tolist(), found.ts.tolist(), found.value.tolist(), strict=True)
    )
    assert len(rows) > 100


def test_extreme_values_come_back_bit_for_bit(store: SqlStore) -> None:
    value = np.array([0.0, -0.0, 5e-324, 1.7976931348623157e308, -1e-9, 0.1 + 0.2, 2.0**53 + 2])
    load(store, np.zeros(len(value), dtype=int), T0 + np.arange(len(value)), value)
    # SQLite stores whole numbers as integers, which have one zero.
    assert np.abs(store.points([1], 0, 10**12).value).tobytes() == np.abs(value).tobytes()


ROWS = st.lists(
    st.tuples(
        st.integers(1, 2),
        st.integers(0, 3),
        st.integers(1, 2),
        *[st.sampled_from([float("nan"), 0.0, 1.5])] * 4,
    ),
    max_size=8,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(ROWS, min_size=1, max_size=4))
def test_upserts_of_scores_equal_those_of_a_dictionary(
    store: SqlStore, batches: Sequence[Sequence[tuple[float, ...]]]
) -> None:
    store.delete_scores_before(10**12)
    expected: dict[tuple[float, float], list[float]] = {}
    for rows in batches:
        store.commit(None, Batch(scores=_scores(rows)))
        for target, day, version, *values in rows:
            old = expected.get((target, day), [0.0, *[float("nan")] * 4])
            kept = [v if v == v else o for v, o in zip(values, old[1:], strict=True)]
            expected[target, day] = [version, *kept]
    found = store.scores([1, 2], 0, 10**12)
    columns = [found.version.astype(float), *(getattr(found, name) for name in NAMES)]
    assert list(zip(found.target.tolist(), found.ts.tolist(), strict=True)) == [
        (target, T0 + 20 * DAY * day) for target, day in sorted(expected)
    ]
    if expected:
        wanted = np.array([expected[key] for key in sorted(expected)])
        np.testing.assert_array_equal(np.stack(columns, axis=1), wanted)


def _scores(rows: Sequence[tuple[float, ...]]) -> ScoreBlock:
    columns = np.array(rows, dtype=float).reshape(-1, 7).T
    target, day, version = (column.astype(np.int64) for column in columns[:3])
    return ScoreBlock(target, T0 + 20 * DAY * day, version, *columns[3:])


def worked(store: SqlStore) -> float:
    """Return the processor seconds of this process, and of the one that serves it."""
    if store.engine.dialect.name == "sqlite":
        return time.process_time()
    with store.engine.connect() as connection:
        server = psutil.Process(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    return time.process_time() + sum(server.cpu_times()[:2])


def test_known_rows_are_recognised_quickly_where_statistics_are_older_than_they(store: SqlStore) -> None:
    n, steps = 300, 300
    ts, series = np.repeat(T0 + 300 * np.arange(2 * steps), n), np.tile(np.arange(n), 2 * steps)
    value = np.random.default_rng(4).normal(size=len(ts))
    half = n * steps
    load(store, series[:half], ts[:half], value[:half])
    with store.engine.begin() as connection:
        connection.execute(text("ANALYZE points"))
    seconds = []
    for _ in range(2):
        before = worked(store)
        load(store, series[half:], ts[half:], value[half:])
        seconds.append(worked(store) - before)
    # It was twenty times.
    assert seconds[1] < 4 * seconds[0]


def test_months_are_partitions_made_on_demand_and_dropped_whole(store: SqlStore) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no partitions")
    assert partitions(store, "points") == []
    ts = T0 + DAY * np.arange(0, 90)
    load(store, np.zeros(90, dtype=int), ts, np.ones(90))
    assert partitions(store, "points") == ["points_202601", "points_202602", "points_202603"]
    assert store.delete_points_before(T0 + 40 * DAY) == 40
    assert partitions(store, "points") == ["points_202602", "points_202603"]
    assert store.points([1], 0, 10**12).ts.tolist() == ts[40:].tolist()


def test_only_months_that_occur_become_partitions(store: SqlStore) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no partitions")
    load(store, np.zeros(3, dtype=int), np.array([-1, T0, 4_102_444_800]), np.ones(3))
    assert partitions(store, "points") == ["points_196912", "points_202601", "points_210001"]


def test_processes_that_need_the_same_new_month_at_once_both_get_it(
    store: SqlStore, database_url: str
) -> None:
    failed: list[BaseException] = []

    def ingest(number: int) -> None:
        try:
            with SqlStore(database_url) as own:
                ts = T0 + 30 * DAY * np.arange(12)
                spec = SeriesSpec("ccu", {"realm": str(number)}, 300, 0, "UTC", "telemetry")
                own.ingest(Ingest("telemetry", [spec], PointBlock(np.zeros(12, dtype=int), ts, np.ones(12))))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ingest, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(store.points(range(1, 40), 0, 10**12)) == 48


def test_a_batch_that_fails_leaves_nothing_behind(store: SqlStore) -> None:
    progress = {"a.csv": {"bytes": float("nan")}}  # refused on both databases, after the points went in
    points = PointBlock(np.zeros(3, dtype=int), T0 + np.arange(3), np.ones(3))
    with pytest.raises(UnstorableError, match="expected JSON, got nan at bytes"):
        store.ingest(Ingest("telemetry", specs(1), points, progress))
    assert (store.series(), store.progress("telemetry"), len(store.points([1], 0, 10**12))) == ([], {}, 0)


def test_a_reader_is_not_held_up_by_a_long_write(store: SqlStore, database_url: str) -> None:
    load(store, np.zeros(3, dtype=int), T0 + np.arange(3), np.ones(3))
    with SqlStore(database_url) as other, other._write() as connection:
        connection.execute(text("UPDATE series SET timezone = 'Asia/Seoul'"))
        assert len(store.points([1], 0, 10**12)) == 3
        assert store.series()[0].spec.timezone == "UTC"


def test_a_database_that_is_gone_says_so(store: SqlStore, tmp_path: object) -> None:
    gone = (
        "sqlite:////no/such/folder/a.db"
        if store.engine.dialect.name == "sqlite"
        else "postgresql://u@/x?host=/no"
    )
    with pytest.raises(DatabaseUnavailableError, match=r"did not answer as it should: .*it can be repeated"):
        SqlStore(gone)


def test_a_connection_that_was_cut_is_replaced(store: SqlStore, database_url: str) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no connection to cut")
    store.monitors()
    _cut(database_url)
    assert store.monitors() == []


def test_a_transaction_whose_connection_is_cut_leaves_nothing_and_says_so(
    store: SqlStore, database_url: str
) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no connection to cut")
    with pytest.raises(DatabaseUnavailableError, match="nothing of this transaction was stored"):
        _insert_and_be_cut(store, database_url)
    assert store.monitors() == []


def _insert_and_be_cut(store: SqlStore, database_url: str) -> None:
    with store._write() as connection:
        connection.execute(text("INSERT INTO monitor (name, config, enabled) VALUES ('x', '{}', true)"))
        _cut(database_url)
        connection.execute(text("SELECT 1"))


def _cut(database_url: str) -> None:
    """End every connection to the database but our own, as a restart of the server would."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
