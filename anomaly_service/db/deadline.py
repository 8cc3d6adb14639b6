"""Deadlines of one database: no connection and no statement is waited for longer than was said."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

QUERY_SECONDS = 60.0
"""How long a statement may take where nothing else is said."""

CONNECT_SECONDS = 10.0
"""How long a server may take to let us in."""

PATIENCE_SECONDS = 1.0
"""How much longer we wait than the server was told to work, so that its own words arrive first."""

INSTRUCTIONS = 200_000
"""Between two looks at the clock of SQLite's machine: some milliseconds."""

BUSY_SECONDS = 30.0
"""How long another writer of SQLite's is waited for at most."""

_SILENT = (
    "the server said nothing for {:.0f} s; is it stopped or frozen, or the network cut? "
    "`deadlines.query` says how long it may take"
)

_TIMED: type | None = None


def postgres_engine(url: URL, seconds: float | None, *, idle_too: bool = True, **options: Any) -> Engine:
    """Return an engine on PostgreSQL whose server is given up when it says nothing for so long.

    The server ends statements itself where it still can; a server, a cable or a balancer that fell silent
    is noticed on our side. What the URL says of its connections holds.

    Args:
        seconds: a statement's deadline; None for none, as where a schema is migrated.
        idle_too: whether a transaction in which nothing is asked for so long is ended as well.
    """
    engine = create_engine(url, connect_args=_connecting(url, seconds), **options)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: object, record: object, args: Any, named: Any) -> Any:
        connection = _timed().connect(*args, **named)  # type: ignore[attr-defined]  # made when needed
        connection.silent_seconds = None if seconds is None else seconds + PATIENCE_SECONDS
        return connection

    if seconds is not None:
        event.listen(engine, "connect", lambda connection, record: _tell(connection, seconds, idle_too))
    return engine


def _connecting(url: URL, seconds: float | None) -> dict[str, Any]:
    """Return what the driver is told of connections, but for what the URL says of it."""
    wanted = {
        "keepalives": 1,
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": int(1000 * (seconds or QUERY_SECONDS)),
    }
    unsaid = {name: value for name, value in wanted.items() if name not in url.query}
    return unsaid | _letting_in(url.query.get("connect_timeout", f"{CONNECT_SECONDS:.0f}"), seconds)


def _letting_in(said: object, seconds: float | None) -> dict[str, Any]:
    """Return how long a server may take to let us in: what the URL says, but no longer than the deadline.

    >>> _letting_in("120", 60.0), _letting_in("5", 60.0), _letting_in("0", 60.0), _letting_in("0", None)
    ({'connect_timeout': 60}, {'connect_timeout': 5}, {'connect_timeout': 60}, {})
    """
    if not isinstance(said, str) or not said.isdecimal():
        return {}  # the driver says what is wrong with it
    # 0 is libpq's word for no limit, and 1 is taken for 2.
    limits = [limit for limit in (int(said), seconds) if limit]
    return {"connect_timeout": max(2, int(min(limits)))} if limits else {}


def _tell(connection: Any, seconds: float, idle_too: bool) -> None:
    """Tell the server the deadline; not while connecting, which a balancer may refuse."""
    milliseconds = max(1, int(seconds * 1000))
    before, connection.autocommit = connection.autocommit, True
    connection.execute(f"SET statement_timeout = {milliseconds}")
    if idle_too:
        # One that was frozen in the middle of a transaction must not keep its locks from everybody else.
        connection.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
    connection.autocommit = before


def _timed() -> type:
    """Return a kind of connection that waits no longer than it was told to; SQLite needs no psycopg."""
    global _TIMED
    if _TIMED is None:
        import psycopg

        class Timed(psycopg.Connection[Any]):
            """Gives the server up when it says nothing for ``silent_seconds``."""

            silent_seconds: float | None = None

            def wait(self, gen: Any, *args: Any, **named: Any) -> Any:
                if self.silent_seconds is None:
                    return super().wait(gen, *args, **named)
                return super().wait(self._ended_when_silent(gen, self.silent_seconds), *args, **named)

            def _ended_when_silent(self, gen: Any, seconds: float) -> Generator[Any, Any, Any]:
                """Yield what ``gen`` does, and raise once nothing came for so long.

                Raises:
                    OperationalError: the server said nothing; the connection is closed.
                """
                try:
                    wanted = next(gen)
                    until = time.monotonic() + seconds
                    while True:
                        ready = yield wanted
                        if ready:
                            until = time.monotonic() + seconds
                        elif time.monotonic() > until:
                            self.close()
                            raise psycopg.OperationalError(_SILENT.format(seconds))
                        wanted = gen.send(ready)
                except StopIteration as done:
                    return done.value

        _TIMED = Timed
    return _TIMED


def limit_sqlite(engine: Engine, seconds: float) -> None:
    """Let statements of an SQLite engine take no longer, and wait no longer for another writer."""

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, record: Any) -> None:
        clock = record.info["until"] = [float("inf")]
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * min(seconds, BUSY_SECONDS))}")
        connection.set_progress_handler(lambda: time.monotonic() > clock[0], INSTRUCTIONS)

    @event.listens_for(engine, "before_cursor_execute")
    def begin(connection: Any, *_: object) -> None:
        connection.info["until"][0] = time.monotonic() + seconds

    @event.listens_for(engine, "checkin")
    def rest(connection: object, record: Any) -> None:
        if "until" in record.info:  # gone where the connection broke
            record.info["until"][0] = float("inf")
