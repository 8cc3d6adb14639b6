"""The schema goes up, down and up again, on both databases, and equals the tables of the code."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import inspect, text

from anomaly_service import HOME
from anomaly_service.db import views
from anomaly_service.db.engine import _insist, make_engine, normalise
from anomaly_service.db.migrate import differences, downgrade, migrate
from anomaly_service.db.store import SqlStore
from anomaly_service.db.tables import HEAD
from anomaly_service.errors import DatabaseError, InvalidError, SchemaError
from pipelines.names import Kind, RunKind, Status, Verdict
from pipelines.records import EventChange, Interval, PointBlock, SeriesSpec
from pipelines.store import Batch, Ingest

NOON = datetime(2026, 2, 1, 12, tzinfo=UTC)
NO_POINTS = PointBlock(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def _objects(url: str) -> tuple[list[str], list[str]]:
    engine = make_engine(url)
    found = inspect(engine)
    names = sorted(found.get_table_names()), sorted(found.get_view_names())
    engine.dispose()
    return names


def test_the_schema_goes_up_down_and_up_again(empty_database_url: str) -> None:
    assert migrate(empty_database_url) == HEAD
    first = _objects(empty_database_url)
    assert downgrade(empty_database_url) == ""
    assert _objects(empty_database_url) == (["alembic_version"], [])
    assert migrate(empty_database_url) == HEAD
    assert _objects(empty_database_url) == first


def test_events_outlive_the_columns_of_their_shares(empty_database_url: str) -> None:
    migrate(empty_database_url)
    with SqlStore(empty_database_url) as store:
        store.ingest(Ingest("t", [SeriesSpec("ccu", {}, 60)], NO_POINTS))
        (monitor,) = store.sync_monitors({"players": {}})
        (target,) = store.sync_targets(monitor.id, [("ccu", (1,))])
        interval = Interval(Kind.ANOMALY, 0, 60, 2, 0, 2.0, 1.5, shares={"ccu": 0.25, "logins": 0.75})
        change = EventChange(target.id, None, interval, Status.CLOSED, first_detected_at=60)
        (event,) = store.commit(None, Batch(changes=[change]))
        store.review(event.id, Verdict.CONFIRMED)
    assert downgrade(empty_database_url, "0001") == "0001"
    assert migrate(empty_database_url) == HEAD
    with SqlStore(empty_database_url) as store:
        (row,) = store.rows("flagged_intervals")
    assert (row["event_id"], row["review_verdict"], row["channel"]) == (event.id, "confirmed", None)


def test_runs_outlive_the_column_of_their_source(empty_database_url: str) -> None:
    migrate(empty_database_url)
    with SqlStore(empty_database_url) as store:
        store.schedule(RunKind.TICK, None, NOON)
        for source in ("files", "warehouse"):
            store.schedule(RunKind.INGEST, None, NOON, source)
    assert downgrade(empty_database_url, "0003") == "0003"
    assert migrate(empty_database_url) == HEAD
    with SqlStore(empty_database_url) as store:
        assert [(row["kind"], row["source"]) for row in store.rows("run_log")] == [("tick", None)]
        assert not store.schedule(RunKind.TICK, None, NOON)
        assert store.schedule(RunKind.INGEST, None, NOON, "files")


def test_what_was_taken_back_stays_so_through_an_older_release(empty_database_url: str) -> None:
    migrate(empty_database_url)
    with SqlStore(empty_database_url) as store:
        store.ingest(Ingest("t", [SeriesSpec("ccu", {}, 60)], NO_POINTS))
        (monitor,) = store.sync_monitors({"players": {}})
        (target,) = store.sync_targets(monitor.id, [("ccu", (1,))])
        change = EventChange(
            target.id, None, Interval(Kind.ANOMALY, 0, 60, 2, 0, 2.0, 1.5), Status.CLOSED, 60
        )
        (event,) = store.commit(None, Batch(changes=[change]))
        store.review(event.id, Verdict.EXPECTED)
        store.undo(event.id)
    assert downgrade(empty_database_url, "0003") == "0003"
    assert migrate(empty_database_url) == HEAD
    with SqlStore(empty_database_url) as store:
        store.review(event.id, None, end=120)
        (row,) = store.rows("flagged_intervals")
        assert [row[name] for name in ("review_verdict", "end_ts", "monitor_id")] == [None, 120, monitor.id]
        assert [act["undone"] for act in store.reviews(event.id)] == [True, False, False]
    assert differences(empty_database_url) == []


def test_every_single_step_goes_down_and_up_again_and_keeps_what_is_stored(empty_database_url: str) -> None:
    migrate(empty_database_url)
    first = _objects(empty_database_url)
    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO monitor (name, config, enabled) VALUES ('m', '{}', true)"))
    numbers = sorted(path.name[:4] for path in (HOME / "migrations" / "versions").glob("0*.py"))
    assert numbers[-1] == HEAD
    for number in reversed(numbers[:-1]):
        assert downgrade(empty_database_url, number) == number
    for number in numbers[1:]:
        assert migrate(empty_database_url, number) == number
    assert _objects(empty_database_url) == first
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT name FROM monitor")) == "m"
    engine.dispose()


def test_migrating_twice_changes_nothing(empty_database_url: str) -> None:
    migrate(empty_database_url)
    first = _objects(empty_database_url)
    assert migrate(empty_database_url) == HEAD
    assert _objects(empty_database_url) == first


def test_alembic_finds_no_difference_to_the_tables(database_url: str) -> None:
    assert differences(database_url) == []


def test_alembic_finds_a_column_that_is_missing(empty_database_url: str) -> None:
    migrate(empty_database_url)
    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE review DROP COLUMN comment"))
    engine.dispose()
    assert "comment" in str(differences(empty_database_url))


def test_the_head_of_the_code_is_the_newest_migration() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_all_views_of_the_contract_exist(database_url: str) -> None:
    assert set(_objects(database_url)[1]) == set(views.names())


def test_a_store_on_an_empty_database_says_to_migrate(empty_database_url: str) -> None:
    with pytest.raises(
        SchemaError, match=r"(has no tables yet; run|there is no database .*;) `anomaly migrate`"
    ):
        SqlStore(empty_database_url)
    if empty_database_url.startswith("sqlite"):
        assert not Path(empty_database_url.removeprefix("sqlite:///")).exists()


def test_a_store_refuses_the_schema_of_a_newer_release(empty_database_url: str) -> None:
    migrate(empty_database_url)
    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(SchemaError, match="has schema 9999, this release knows"):
        SqlStore(empty_database_url)


def test_two_that_migrate_at_once_both_succeed(empty_database_url: str) -> None:
    code = "import sys; from anomaly_service.db.migrate import migrate; print(migrate(sys.argv[1]))"
    command = [sys.executable, "-c", code, empty_database_url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [one.communicate()[0].strip() for one in both] == [HEAD, HEAD]


def test_a_new_file_that_another_turns_to_wal_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    # As SQLite does here at times, answer at once that the file is locked.
    ours = sqlite3.connect(file, timeout=0)
    threading.Timer(0.2, lambda: other.execute("COMMIT")).start()
    _insist(ours, "PRAGMA journal_mode = WAL")
    assert ours.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    ours.close()
    other.close()


def test_migrations_run_from_any_folder(tmp_path: Path) -> None:
    code = f"from anomaly_service.db.migrate import migrate; print(migrate('sqlite:///{tmp_path}/a.db'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == (HEAD, 0), done.stderr


def test_the_plain_postgresql_url_gets_psycopg_3() -> None:
    assert normalise("postgresql://u:p@host/db").drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(InvalidError, match=r"expected a file, as in sqlite:///anomaly.db"):
        normalise(url)


@pytest.mark.parametrize(
    "url", ["nonsense", "postgresql://me:s3cret@host:port/db", "postgresql://me:s3cret@[::1/db"]
)
def test_what_is_no_url_is_refused_without_telling_its_password(url: str) -> None:
    with pytest.raises(InvalidError, match="does not read as one; set `database:`") as refused:
        normalise(url)
    assert "s3cret" not in str(refused.value)


def test_a_file_that_is_no_database_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("ts,value\n" * 1000)
    with pytest.raises(DatabaseError, match=r"points\.csv cannot be used: file is not a database"):
        migrate(f"sqlite:///{tmp_path / 'points.csv'}")


def test_another_database_is_refused_by_name() -> None:
    with pytest.raises(InvalidError, match="got mysql://; set `database:` in the config file"):
        normalise("mysql://host/db")
