"""Connections and transactions: one SQLAlchemy engine per database, the same on both."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Double, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, StatementError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from anomaly_service.db import deadline, replaced, trouble
from anomaly_service.db.bodies import to_text
from anomaly_service.errors import (
    DatabaseError,
    DatabaseReplacedError,
    DatabaseUnavailableError,
    InvalidError,
)
from anomaly_service.secrets import hidden, remember
from pipelines.errors import UnstorableError

SQLITE_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    # With WAL this survives a killed process; a power cut may cost the last commits, never the file.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -32768",  # 32 MiB
    "PRAGMA temp_store = MEMORY",
)

PRAGMA_SECONDS = 5.0
"""How long a pragma is tried again where SQLite answers at once that the file is locked."""


class db_now(GenericFunction[float]):  # noqa: N801
    """The database's clock as epoch seconds, so that daemons on different machines agree."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def normalise(url: str | URL) -> URL:
    """Return the URL with the driver this service uses: psycopg 3 or the standard library's sqlite3.

    Raises:
        InvalidError: no URL, another database, or an SQLite database without a file.
    """
    parsed = _parsed(url)
    backend = parsed.get_backend_name()
    if backend in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise InvalidError(
            f"expected a database URL sqlite:///file.db or postgresql://..., got {backend}://; "
            "set `database:` in the config file"
        )
    if parsed.database in {None, "", ":memory:"}:
        raise InvalidError(
            "expected a file, as in sqlite:///anomaly.db; a database in memory would be a different "
            "one for every connection"
        )
    return parsed.set(drivername="sqlite")


def _parsed(url: str | URL) -> URL:
    """Return the parts of a URL; what is wrong with it is told without it: it may hold a password."""
    remember(url if isinstance(url, str) else url.render_as_string(hide_password=False))
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # the latter where the port is no number
        raise InvalidError(
            "expected a database URL sqlite:///file.db or postgresql://user@host:5432/name, got something "
            "that does not read as one; set `database:` in the config file"
        ) from None


def make_engine(url: str | URL, query_seconds: float | None = None) -> Engine:
    """Return an engine; nothing is connected yet.

    Args:
        query_seconds: how long a statement may take, on SQLite also how long another writer may; None
            for as long as it takes.
    """
    normal = normalise(url)
    if normal.get_backend_name() != "sqlite":
        return deadline.postgres_engine(normal, query_seconds, json_serializer=to_text, pool_pre_ping=True)
    engine = create_engine(normal, json_serializer=to_text, connect_args={"timeout": deadline.BUSY_SECONDS})
    replaced.watch(engine)
    if query_seconds is not None:
        deadline.limit_sqlite(engine, query_seconds)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    """Take transactions away from the driver, whose own begin late and lock later still."""
    connection.isolation_level = None
    for pragma in SQLITE_PRAGMAS:
        _insist(connection, pragma)


def _insist(connection: sqlite3.Connection, pragma: str) -> None:
    """Run a pragma, again for a while where the file is locked.

    Of two that turn a new file to WAL at once, SQLite tells one that it is locked without waiting.
    """
    until = time.monotonic() + PRAGMA_SECONDS
    while True:
        try:
            connection.execute(pragma)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    """Writers queue at their first statement, never half way, where SQLite could only give up."""
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def transaction(engine: Engine, *, write: bool) -> Iterator[Connection]:
    """Begin, then commit, or roll back when anything is raised.

    Raises:
        DatabaseUnavailableError: the connection failed or the database gave up; try again later.
        DatabaseReplacedError: the file is another one than was opened.
        DatabaseError: the file is no database, or a damaged one.
        UnstorableError: a value that was to be stored is none that the database takes.
    """
    try:
        with engine.connect() as connection:
            connection = connection.execution_options(write=write)
            try:
                with connection.begin():
                    yield connection
            except Exception as error:
                if trouble.is_unavailable(error):
                    # It may be of a server that is none any more, or keep that it was read-only.
                    connection.invalidate(error)
                raise
    except (DatabaseUnavailableError, DatabaseReplacedError):
        raise
    except Exception as error:
        if trouble.is_unavailable(error):
            raise DatabaseUnavailableError(
                f"the database {shown(engine.url)} did not answer as it "
                f"should: {trouble.reason(error)}; nothing of this transaction was stored, it can be repeated"
            ) from error
        if trouble.is_no_database(error):
            raise DatabaseError(
                f"{shown(engine.url)} cannot be used: {trouble.reason(error)}; name "
                "another file as `database:`, or restore this one"
            ) from error
        if isinstance(error, StatementError) and isinstance(error.orig, UnstorableError):
            # SQLAlchemy puts the whole statement around what its JSON serializer raised.
            raise error.orig from error
        if trouble.is_refused(error):
            raise UnstorableError(f"the database refuses a value: {trouble.reason(error)}") from error
        raise


def is_read_only(connection: Connection) -> bool:
    """True where a PostgreSQL server takes no writes, such as a standby; SQLite raises instead."""
    if connection.dialect.name == "sqlite":
        return False
    return connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"


def shown(url: URL) -> str:
    """Return a URL without its secrets."""
    return hidden(url.render_as_string(hide_password=True))
