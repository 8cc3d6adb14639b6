"""A database that is away, silent, read-only, full or another one: told from what was asked wrongly."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import daemon_harness
import psycopg
import pytest
from daemon_harness import NOW, process
from patience import eventually, looking
from psycopg import errors as pg
from silence import proxy_to
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from anomaly_service.db import trouble
from anomaly_service.db.engine import make_engine, transaction
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import DatabaseError, DatabaseReplacedError, DatabaseUnavailableError
from pipelines.names import RunKind

NOON = datetime(2024, 6, 5, 12, tzinfo=UTC)


def wrapped(error: Exception) -> Exception:
    """Return an error of the driver as SQLAlchemy passes it on."""
    return DBAPIError.instance("SELECT 1", None, error, psycopg.Error)  # type: ignore[return-value]


AWAY = (
    pg.ReadOnlySqlTransaction,
    pg.CannotConnectNow,
    pg.AdminShutdown,
    pg.CrashShutdown,
    pg.IdleSessionTimeout,
    pg.TooManyConnections,
    pg.DiskFull,
    pg.OutOfMemory,
    pg.ConfigurationLimitExceeded,
    pg.IoError,
    pg.SystemError,
    pg.UndefinedFile,
    pg.ConnectionFailure,
    pg.ProtocolViolation,
    pg.QueryCanceled,
    pg.LockNotAvailable,
    pg.ObjectInUse,
    pg.DeadlockDetected,
    pg.SerializationFailure,
    pg.IdleInTransactionSessionTimeout,
    pg.InvalidPassword,
    pg.InvalidAuthorizationSpecification,
    pg.InvalidCatalogName,
    pg.DatabaseDropped,
    pg.ConfigFileError,
)
ASKED_WRONGLY = (
    pg.UniqueViolation,
    pg.NotNullViolation,
    pg.UndefinedTable,
    pg.UndefinedColumn,
    pg.SyntaxError,
    pg.InvalidTextRepresentation,
    pg.NumericValueOutOfRange,
)


@pytest.mark.parametrize("error", AWAY, ids=lambda error: error.__name__)
def test_every_error_of_the_servers_state_is_unavailable(error: type[Exception]) -> None:
    assert trouble.is_unavailable(error("x"))
    assert trouble.is_unavailable(wrapped(error("x")))


@pytest.mark.parametrize("error", ASKED_WRONGLY, ids=lambda error: error.__name__)
def test_what_was_asked_wrongly_is_not(error: type[Exception]) -> None:
    assert not trouble.is_unavailable(error("x"))
    assert not trouble.is_unavailable(wrapped(error("x")))


def test_a_damaged_index_is_told_as_one() -> None:
    assert trouble.is_no_database(pg.IndexCorrupted("x"))


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """Let every new session of a database be read-only, and cut those there are, as a failover does."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]

    def turn(to: str) -> None:
        with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as admin:
            admin.execute(f"ALTER DATABASE {name} {to} default_transaction_read_only".encode())

    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    try:
        yield
    finally:
        turn("RESET")


@pytest.mark.databases("postgresql")
def test_a_server_that_turned_read_only_is_unavailable_until_it_is_not(
    store: SqlStore, database_url: str
) -> None:
    assert store.schedule(RunKind.TICK, None, NOON)
    with read_only(database_url):
        with pytest.raises(DatabaseUnavailableError, match="read-only transaction"):
            store.claim("me", 60)
        with pytest.raises(DatabaseUnavailableError, match="read-only transaction"):
            store.probe()
        assert store.last_run(RunKind.TICK, until=NOON) == NOON
    # The session that was read from keeps what it began with, and is dropped once that shows.
    with suppress(DatabaseUnavailableError):
        store.probe()
    assert store.claim("me", 60) is not None


@pytest.mark.databases("postgresql")
def test_a_daemon_waits_for_a_server_that_turned_read_only_and_goes_on(
    store: SqlStore, database_url: str, tmp_path: Path
) -> None:
    monitors = tmp_path / "monitors"
    monitors.write_text("players")
    command = [daemon_harness.__file__, database_url, f"--log={tmp_path / 'work'}", f"--monitors={monitors}"]
    with process(command, tmp_path / "log") as daemon:
        eventually(lambda: daemon_harness.both_done(store), "all runs done")
        with read_only(database_url):
            eventually(lambda: daemon.said("database away, trying until it is back") > 0, "away")
        eventually(lambda: daemon.said("database back") > 0, "back")
        for _ in looking(lambda: "a run scheduled"):
            with suppress(DatabaseUnavailableError):  # of a session that began while it was read-only
                store.schedule(RunKind.TICK, 1, NOW)
                break
        eventually(lambda: daemon_harness.states(store)[-1] == ("tick", "done", 1), "the next run done")
        assert daemon.poll() is None


@pytest.mark.databases("postgresql")
def test_a_server_that_falls_silent_is_given_up_after_the_deadline(database_url: str) -> None:
    with proxy_to(database_url) as proxy, SqlStore(proxy.url, query_seconds=0.3) as store:
        store.probe()
        proxy.is_silent.set()
        # In the middle of a statement, while asking whether it is there, and while connecting.
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError, match=r"said nothing|timeout expired"):
                store.probe()
        proxy.is_silent.clear()
        store.probe()


@pytest.mark.databases("postgresql")
def test_a_server_that_falls_silent_within_a_statement_is_given_up_too(database_url: str) -> None:
    with proxy_to(database_url) as proxy, SqlStore(proxy.url, query_seconds=0.3) as store:

        def ask() -> None:
            with transaction(store.engine, write=False) as connection:
                connection.execute(text("SELECT 1"))
                proxy.is_silent.set()
                connection.execute(text("SELECT 1"))

        with pytest.raises(DatabaseUnavailableError, match=r"said nothing for 1 s.*deadlines.query"):
            ask()


LONG = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(3600)",
}


def test_a_statement_that_takes_too_long_is_ended_by_the_database(database_url: str) -> None:
    with (
        SqlStore(database_url, query_seconds=0.2) as store,
        pytest.raises(DatabaseUnavailableError, match=r"statement timeout|interrupted"),
        transaction(store.engine, write=False) as connection,
    ):
        connection.execute(text(LONG[connection.dialect.name]))


@pytest.mark.databases("postgresql")
def test_what_a_url_says_of_its_connections_holds(database_url: str) -> None:
    separator = "&" if "?" in database_url else "?"
    engine = make_engine(f"{database_url}{separator}connect_timeout=3", 5.0)
    with closing(engine.raw_connection()) as connection:
        parameters = connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    engine.dispose()
    assert parameters["connect_timeout"] == "3"
    assert parameters["tcp_user_timeout"] == "5000"


# -- SQLite ------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, migrated_sqlite: Path) -> Path:
    copy = tmp_path / "anomaly.db"
    shutil.copy(migrated_sqlite, copy)
    return copy


def fill(store: SqlStore) -> None:
    for number in range(10_000):
        store.schedule(RunKind.INGEST, None, NOON, f"{number}" * 200)


def full(store: SqlStore) -> None:
    with store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def locked(store: SqlStore) -> None:
    other = sqlite3.connect(str(store.engine.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.__dict__["held"] = other


def frozen_file(store: SqlStore) -> None:
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = on")


@pytest.mark.parametrize("trouble_with", [full, locked, frozen_file], ids=lambda each: each.__name__)
def test_a_file_that_cannot_be_written_at_the_moment_is_unavailable(
    file: Path, trouble_with: Callable[[SqlStore], None]
) -> None:
    with SqlStore(f"sqlite:///{file}", query_seconds=0.2) as store:
        trouble_with(store)
        with pytest.raises(DatabaseUnavailableError):
            fill(store)
        if "held" in store.__dict__:
            store.__dict__["held"].close()


def test_a_file_that_is_gone_is_unavailable_and_no_new_one_is_made(file: Path) -> None:
    with SqlStore(f"sqlite:///{file}") as store:
        file.rename(file.with_suffix(".away"))
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError, match=r"anomaly.db is gone; put it back"):
                store.probe()
            store.engine.dispose()
        assert not file.exists()
        file.with_suffix(".away").rename(file)
        store.probe()


def test_a_file_that_was_replaced_is_told_and_neither_is_written(file: Path, migrated_sqlite: Path) -> None:
    with SqlStore(f"sqlite:///{file}") as store:
        store.probe()
        shutil.copy(migrated_sqlite, file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)
        with pytest.raises(DatabaseUnavailableError, match=r"Remove .*anomaly.db-wal and .*anomaly.db-shm"):
            store.schedule(RunKind.TICK, None, NOON)
        for beside in ("-wal", "-shm"):
            Path(f"{file}{beside}").unlink()
        for _ in range(2):
            with pytest.raises(DatabaseReplacedError, match="is another one than was opened"):
                store.schedule(RunKind.TICK, None, NOON)
            store.engine.dispose()
    with SqlStore(f"sqlite:///{file}") as store:
        assert store.last_run(RunKind.TICK, until=NOON) is None


def test_a_file_that_is_no_database_is_no_reason_to_wait(tmp_path: Path) -> None:
    (tmp_path / "anomaly.db").write_text("no database at all " * 100)
    with pytest.raises(DatabaseError) as told:
        SqlStore(f"sqlite:///{tmp_path / 'anomaly.db'}")
    assert not isinstance(told.value, DatabaseUnavailableError)
