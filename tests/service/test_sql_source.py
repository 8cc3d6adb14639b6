"""Points from other people's databases: a second PostgreSQL, and SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands import anomaly
from silence import proxy_to
from sqlalchemy import text

from anomaly_service.db.store import SqlStore
from anomaly_service.errors import SourceError
from anomaly_service.sources import sql
from anomaly_service.sources.again import Again
from anomaly_service.sources.base import Reading
from anomaly_service.sources.csv import CsvConfig, CsvSource
from anomaly_service.sources.ingest import SourceOutcome, ingest, read
from anomaly_service.sources.sql import SqlConfig, SqlSource
from pipelines.monitor import NightlyPlan
from pipelines.records import Json
from pipelines.times import DAY

NOW = datetime(2024, 6, 5, 12, tzinfo=UTC)
START = 1_717_200_000
_numbers = count()


@pytest.fixture
def telemetry_url(postgres_server: Any) -> Iterator[str]:
    """A PostgreSQL database that is not the service's own, with a day of two realms."""
    name = f"telemetry_{next(_numbers)}"
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = str(postgres_server.get_uri(database=name))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """
            CREATE TABLE point
            (at timestamptz, local timestamp, epoch bigint, amount numeric, name text, realm int);
            INSERT INTO point
            SELECT to_timestamp(t), to_timestamp(t) AT TIME ZONE 'Europe/Berlin', t, (t % 997) / 2.0, 'ccu', r
            FROM generate_series(1717200000, 1717200000 + 86399, 300) AS t, generate_series(1, 2) AS r
            ORDER BY random()
            """
        )
    yield url
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def source(url: str, **config: Any) -> SqlSource:
    values = {
        "kind": "sql",
        "url": url,
        "query": "SELECT * FROM point WHERE at >= :since AND at < :until",
        "timestamp": "at",
        "value": "amount",
        "metric": "name",
        "labels": ["realm"],
        "step": "5min",
    }
    return SqlSource("telemetry", SqlConfig.model_validate(values | config))


def take(reader: SqlSource, progress: dict[str, Json], now: datetime = NOW) -> dict[tuple[str, int], float]:
    """Return the points a source yields, and move the progress."""
    points: dict[tuple[str, int], float] = {}
    for batch in reader.read(progress, now=now):
        keys = [spec.key for spec in batch.series]
        rows = zip(batch.points.series, batch.points.ts, batch.points.value, strict=True)
        points |= {(keys[series], int(ts)): float(value) for series, ts, value in rows}
        progress |= batch.progress
    return points


EXPECTED = {
    (f"ccu{{realm={realm}}}", ts): ts % 997 / 2 for ts in range(START, START + 86400, 300) for realm in (1, 2)
}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {
            "timestamp": "epoch",
            "times": "epoch",
            "query": "SELECT * FROM point WHERE epoch >= :since AND epoch < :until",
        },
        {
            "timestamp": "local",
            "times": "naive",
            "timezone": "Europe/Berlin",
            "query": "SELECT * FROM point WHERE local >= :since AND local < :until;",
        },
        {
            "query": "WITH p AS (SELECT * FROM point) SELECT at, amount, name, realm FROM p "
            "WHERE at >= CAST(:since AS timestamptz) AND at < :until::timestamptz",
        },
    ],
    ids=["timestamptz", "epoch", "timestamp", "cte"],
)
def test_every_kind_of_time_column_gives_the_same_points(telemetry_url: str, config: dict[str, Any]) -> None:
    assert take(source(telemetry_url, **config), {}) == EXPECTED


def test_a_server_that_falls_silent_ends_the_read_with_a_reason(telemetry_url: str) -> None:
    with proxy_to(telemetry_url) as proxy:
        reader = source(proxy.url, timeout="1s")
        assert take(reader, {}) == EXPECTED
        proxy.is_silent.set()
        with pytest.raises(SourceError, match=r"telemetry: .*timeout expired"):
            take(reader, {})


def test_a_url_that_would_wait_for_ten_minutes_waits_for_the_deadline(telemetry_url: str) -> None:
    with proxy_to(telemetry_url) as proxy:
        proxy.is_silent.set()
        with pytest.raises(SourceError, match=r"telemetry: .*timeout expired"):
            take(source(f"{proxy.url}?connect_timeout=600", timeout="1s"), {})


def test_a_query_that_takes_too_long_is_ended_with_a_reason(telemetry_url: str) -> None:
    slow = "SELECT * FROM point WHERE at >= :since AND at < :until AND pg_sleep(3600) IS NOT NULL"
    with pytest.raises(SourceError, match=r"telemetry: .*statement timeout"):
        take(source(telemetry_url, query=slow, timeout="1s"), {})


def test_only_rows_up_to_now_are_asked_for(telemetry_url: str) -> None:
    now = datetime.fromtimestamp(START + 3600, UTC)
    assert len(take(source(telemetry_url), {}, now)) == 2 * 12


def test_the_next_query_begins_one_overlap_before_the_newest_point(telemetry_url: str) -> None:
    progress: dict[str, Json] = {}
    reader = source(telemetry_url, overlap="30min")
    take(reader, progress, datetime.fromtimestamp(START + 7200, UTC))
    with psycopg.connect(telemetry_url, autocommit=True) as connection:
        connection.execute("UPDATE point SET amount = -1 WHERE epoch = 1717200000 + 6600")
        connection.execute("UPDATE point SET amount = -1 WHERE epoch = 1717200000 + 300")
    late = take(reader, progress, datetime.fromtimestamp(START + 7500, UTC))
    assert min(ts for _, ts in late) == START + 6900 - 1800
    assert late["ccu{realm=1}", START + 6600] == -1


def test_a_start_leaves_older_rows_alone(telemetry_url: str) -> None:
    points = take(source(telemetry_url, start="2024-06-01T12:00:00Z"), {})
    assert min(ts for _, ts in points) == START + 12 * 3600


def test_a_changed_query_begins_anew(telemetry_url: str) -> None:
    progress: dict[str, Json] = {}
    take(source(telemetry_url), progress)
    query = "SELECT * FROM point WHERE at >= :since AND at < :until AND realm = 1"
    assert len(take(source(telemetry_url, query=query), progress)) == 288


def test_batches_are_bounded_and_in_order_of_time(
    telemetry_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "FETCH_ROWS", 50)
    reader = source(telemetry_url)
    reader.batch_rows = 100
    batches = list(reader.read({}, now=NOW))
    assert [len(batch.points) for batch in batches] == [100] * 5 + [76]
    newest = [batch.progress["watermark"]["newest"] for batch in batches]
    assert newest == sorted(newest)
    assert all(batch.points.ts.max() == new for batch, new in zip(batches, newest, strict=True))


def test_a_bad_row_is_reported_once_though_the_overlap_brings_it_again(telemetry_url: str) -> None:
    with psycopg.connect(telemetry_url, autocommit=True) as connection:
        connection.execute("INSERT INTO point VALUES (to_timestamp(1717286000), NULL, 0, 'NaN', 'ccu', 1)")
    progress: dict[str, Json] = {}
    reader = source(telemetry_url)
    rejects = []
    for _ in range(3):
        for batch in reader.read(progress, now=NOW):
            assert isinstance(batch, Reading)
            rejects += batch.rejects
            progress |= batch.progress
    assert [(reject.origin, reject.reason) for reject in rejects] == [("telemetry", "no value")]
    assert '"amount": "NaN"' in rejects[0].raw


def test_a_local_time_that_comes_twice_is_set_aside(telemetry_url: str) -> None:
    with psycopg.connect(telemetry_url, autocommit=True) as connection:
        connection.execute("DELETE FROM point")
        connection.execute("INSERT INTO point VALUES (NULL, '2024-10-27 02:30', 0, 1, 'ccu', 1)")
        connection.execute("INSERT INTO point VALUES (NULL, '2024-10-27 03:30', 0, 2, 'ccu', 1)")
    query = "SELECT * FROM point WHERE local >= :since AND local < :until"
    reader = source(telemetry_url, timestamp="local", times="naive", timezone="Europe/Berlin", query=query)
    points = take(reader, {}, datetime(2024, 12, 1, tzinfo=UTC))
    assert points == {("ccu{realm=1}", int(datetime(2024, 10, 27, 2, 30, tzinfo=UTC).timestamp())): 2.0}


def test_a_table_of_another_database_goes_into_ours_once(telemetry_url: str, store: SqlStore) -> None:
    (first,) = ingest(store, [source(telemetry_url)], NOW)
    (again,) = ingest(store, [source(telemetry_url)], NOW)
    assert (first["new"], again["new"], again["changed"]) == (576, 0, 0)
    assert {row.spec.key for row in store.series()} == {"ccu{realm=1}", "ccu{realm=2}"}


def test_sqlite_compares_texts(tmp_path: Path) -> None:
    path = tmp_path / "points.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE point (at TEXT, amount REAL, name TEXT, realm TEXT)")
        at = (datetime.fromtimestamp(START, UTC) + timedelta(minutes=5 * i) for i in range(12))
        rows = [(f"{moment:%Y-%m-%d %H:%M:%S}", float(i), "ccu", "1") for i, moment in enumerate(at)]
        connection.executemany("INSERT INTO point VALUES (?, ?, ?, ?)", rows)
    progress: dict[str, Json] = {}
    reader = source(f"sqlite:///{path}", timezone="UTC")
    assert take(reader, progress) == {("ccu{realm=1}", START + 300 * i): float(i) for i in range(12)}
    assert len(take(reader, progress)) == 4


def test_a_database_that_is_away_fails_without_its_password() -> None:
    reader = source("postgresql://anna:s3cret@127.0.0.1:1/telemetry")
    with pytest.raises(SourceError, match=r"telemetry: .*connection") as caught:
        list(reader.read({}, now=NOW))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(reader)


@pytest.mark.parametrize("url", ["nosuchdb://anna:s3cret@h/x", "s3cret", "postgresql://anna:s3cret@h:port/x"])
def test_a_url_that_names_no_database_fails_without_being_shown(url: str) -> None:
    with pytest.raises(SourceError, match="the URL names no database") as caught:
        list(source(url).read({}, now=NOW))
    assert "s3cret" not in str(caught.value)


def test_a_query_the_database_refuses_is_said_in_its_words(telemetry_url: str) -> None:
    with pytest.raises(SourceError, match='relation "points" does not exist'):
        list(
            source(telemetry_url, query="SELECT * FROM points WHERE at BETWEEN :since AND :until").read(
                {}, now=NOW
            )
        )


def test_one_source_that_fails_does_not_keep_the_others_from_theirs(
    telemetry_url: str, store: SqlStore
) -> None:
    broken, sound = source("postgresql://h:1/x"), source(telemetry_url)
    first, second = ingest(store, [broken, sound], NOW)
    assert first["error"]
    assert (second["new"], second["error"]) == (576, "")


# -- what comes late ----------------------------------------------------------------------

HOUR = 3600
PLAN = NightlyPlan(window_seconds=DAY)
"""Late data count for a day; the night is at 03:15 UTC."""


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(START + seconds, UTC)


def look(reader: SqlSource, store: SqlStore, now: datetime, since: datetime | None = None) -> SourceOutcome:
    return read(store, reader, now, again=Again(PLAN, since))


def known(store: SqlStore, realm: int) -> dict[int, float]:
    """Return the points of a realm by seconds since the start."""
    ids = [row.id for row in store.series() if row.spec.labels["realm"] == str(realm)]
    block = store.points(ids, 0, START + 30 * DAY)
    return dict(zip((block.ts - START).tolist(), block.value.tolist(), strict=True))


def change(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def upsert(url: str, realm: int, first: int, stop: int, amount: float = 5.0) -> None:
    """Add a row every five minutes of a span of seconds."""
    change(
        url,
        f"INSERT INTO point SELECT to_timestamp(t), NULL, t, {amount}, 'ccu', {realm} "
        f"FROM generate_series({START + first}, {START + stop - 1}, 300) AS t",
    )


def test_a_series_that_lags_by_less_than_the_delay_loses_nothing(telemetry_url: str, store: SqlStore) -> None:
    change(telemetry_url, "DELETE FROM point WHERE realm = 2")
    reader = source(telemetry_url, delay="2h")
    for seconds in range(0, 8 * HOUR, 1200):
        # What realm 2 measured comes an hour late.
        upsert(telemetry_url, 2, seconds - 2 * HOUR, seconds - 2 * HOUR + 1200)
        read(store, reader, at(seconds))
    assert len(known(store, 2)) == 96


def test_once_a_night_rows_are_found_that_came_later_still_and_those_that_were_corrected(
    telemetry_url: str, store: SqlStore
) -> None:
    reader = source(telemetry_url)
    for seconds in (0, 20 * HOUR):
        look(reader, store, at(seconds))
    upsert(telemetry_url, 3, 10 * HOUR, 12 * HOUR)
    change(telemetry_url, f"UPDATE point SET amount = -1 WHERE epoch = {START + 8 * HOUR} AND realm = 1")
    assert look(reader, store, at(22 * HOUR)).changed == 0
    assert known(store, 3) == {}
    # The night is 27:15 hours after the start, and its late data are fetched an hour before.
    upsert(telemetry_url, 1, 24 * HOUR, 27 * HOUR)
    assert look(reader, store, at(26 * HOUR)).changed == 0
    assert look(reader, store, at(26 * HOUR + 900)).changed == 1
    assert known(store, 1)[8 * HOUR] == -1
    assert len(known(store, 3)) == 24
    again = look(reader, store, at(26 * HOUR + 1800))
    assert again.unchanged <= 12  # the overlap alone


def test_a_night_is_looked_through_again_where_it_was_interrupted_or_the_clock_was_ahead(
    telemetry_url: str, store: SqlStore
) -> None:
    reader = source(telemetry_url)
    look(reader, store, at(20 * HOUR))
    change(telemetry_url, f"UPDATE point SET amount = -1 WHERE epoch = {START + 8 * HOUR}")
    read(store, reader, at(27 * HOUR), again=Again(PLAN), should_stop=lambda: True)
    assert look(reader, store, at(27 * HOUR)).changed == 2
    look(reader, store, at(400 * 24 * HOUR))
    change(telemetry_url, f"UPDATE point SET amount = -2 WHERE epoch = {START + 8 * HOUR}")
    assert look(reader, store, at(28 * HOUR)).changed == 2


def test_a_series_that_ended_holds_nobody_s_watermark_and_is_named(
    telemetry_url: str, store: SqlStore
) -> None:
    reader = source(telemetry_url)
    upsert(telemetry_url, 1, 24 * HOUR, 60 * HOUR)
    assert look(reader, store, at(24 * HOUR)).notes == []
    look(reader, store, at(60 * HOUR))
    found = look(reader, store, at(60 * HOUR))
    assert found.unchanged <= 12
    (said,) = found.notes
    assert "1 series end more than nightly.window" in said
    assert "ccu{realm=2}" in said
    assert "anomaly ingest --source telemetry --since 2024-06-01T23:55:00Z" in said


def test_a_person_has_any_span_read_again_in_pieces(
    telemetry_url: str, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    answer = sql._Query._answer

    def noted(query: sql._Query, engine: Any, since: int, until: int) -> Iterator[sql.Answer]:
        asked.append((since, until))
        return answer(query, engine, since, until)

    reader = source(telemetry_url)
    upsert(telemetry_url, 1, 24 * HOUR, 200 * HOUR)
    look(reader, store, at(200 * HOUR))
    change(telemetry_url, f"UPDATE point SET amount = -1 WHERE epoch = {START + HOUR}")
    monkeypatch.setattr(sql._Query, "_answer", noted)
    reader.batch_rows = 500
    assert look(reader, store, at(200 * HOUR), since=at(HOUR)).changed == 2
    pieces = asked[1:]  # the first asks for what is new
    assert len(pieces) > 2
    assert (pieces[0][0], pieces[-1][1]) == (START + HOUR, START + 200 * HOUR)
    assert all(a[1] == b[0] for a, b in pairwise(pieces))


def test_a_row_set_aside_is_not_reported_again_by_a_night(
    telemetry_url: str, store: SqlStore, tmp_path: Path
) -> None:
    reader = source(telemetry_url)
    change(telemetry_url, f"UPDATE point SET amount = 'NaN' WHERE epoch = {START + 300}")
    counts = [
        read(store, reader, at(seconds), again=Again(PLAN), rejects=tmp_path).rejected
        for seconds in (HOUR, 20 * HOUR, 27 * HOUR)
    ]
    assert counts == [2, 0, 0]
    assert look(reader, store, at(27 * HOUR), since=at(0)).rejected == 0


def test_any_other_source_is_read_again_from_a_time_on_as_well(store: SqlStore, tmp_path: Path) -> None:
    file = tmp_path / "points.csv"
    rows = [f"{START + 300 * i},{i},ccu,kr" for i in range(12)]
    file.write_text("\n".join(["ts,value,metric,realm", *rows, f"{START},many,ccu,kr"]) + "\n")
    config = {
        "kind": "csv",
        "path": str(file),
        "timestamp": "ts",
        "metric": "metric",
        "labels": ["realm"],
        "step": "5min",
    }
    reader = CsvSource("files", CsvConfig.model_validate(config))
    assert read(store, reader, NOW).rejected == 1
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM points"))
    assert read(store, reader, NOW, again=Again(PLAN)).new == 0
    found = read(store, reader, NOW, again=Again(PLAN, at(1800)))
    assert (found.new, found.rejected) == (6, 0)


def test_the_command_reads_again_from_a_time_on(telemetry_url: str, tmp_path: Path) -> None:
    config = tmp_path / "anomaly.yaml"
    query = "SELECT * FROM point WHERE at >= :since AND at < :until"
    config.write_text(
        f"database: sqlite:///own.db\nsources: {{orders: {{kind: sql, url: '{telemetry_url}', step: 5min, "
        f"query: '{query}', timestamp: at, value: amount, metric: name, labels: [realm]}}}}\n"
    )
    assert anomaly("migrate", "-c", config).code == 0
    assert anomaly("ingest", "-c", config).code == 0
    change(telemetry_url, f"UPDATE point SET amount = -1 WHERE epoch = {START + HOUR}")
    (plain,) = anomaly("ingest", "-c", config, "--json").rows
    (again,) = anomaly("ingest", "-c", config, "--source", "orders", "--since", "2024-06-01", "--json").rows
    assert (plain["changed"], again["changed"]) == (0, 2)
    assert anomaly("ingest", "-c", config, "--since", "soon").code == 2
