"""What an error says of the database that raised it: away for now, no database at all, or right to refuse."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from anomaly_service.secrets import hidden

AWAY_CLASSES = {
    "08": "the connection failed",
    "28": "it does not let this user in at the moment",
    "40": "it rolled the transaction back",
    "53": "it is out of disk, memory or connections",
    "55": "something is locked, or not in the state that it takes",
    "57": "an administrator or a deadline intervened, or it starts or stops",
    "58": "its machine failed",
    "F0": "its configuration cannot be used",
}
"""Classes of SQLSTATE that blame the server, its machine or the moment, never what was asked."""

AWAY_STATES = {
    "25006": "it is read-only, as a standby is",
    "25P03": "the transaction waited too long",
    "25P04": "the transaction took too long",
    "3D000": "the database of this name is gone for now",
    "72000": "the snapshot is too old",
}
"""SQLSTATEs that do so in classes that otherwise blame the statement."""

SQLITE_AWAY = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
"""Result codes that blame the file or the machine rather than the statement."""


def is_unavailable(error: BaseException) -> bool:
    """True for a failure of the connection, the server or its machine, not of what was asked."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    original = _original(error)
    if isinstance(original, sqlite3.Error):
        return _sqlite_code(original) in SQLITE_AWAY
    state = sqlstate(error)
    if state:
        return state in AWAY_STATES or state[:2] in AWAY_CLASSES
    # Without a state the server did not say anything: the connection could not be made, or broke.
    if isinstance(error, OperationalError | InterfaceError):
        return True
    return type(error).__module__.startswith("psycopg") and _is_a(error, "OperationalError", "InterfaceError")


def sqlstate(error: BaseException) -> str:
    """Return the five characters by which PostgreSQL names an error; empty where there are none."""
    return str(getattr(_original(error), "sqlstate", None) or "")


def is_no_database(error: BaseException) -> bool:
    """True where the file is none of a database, or a damaged one."""
    original = _original(error)
    damaged = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
    return (isinstance(original, sqlite3.Error) and _sqlite_code(original) in damaged) or sqlstate(error) in {
        "XX001",
        "XX002",
    }


def is_refused(error: BaseException) -> bool:
    """True where the database was asked to store a value that it has no place for."""
    original = _original(error)
    if isinstance(original, UnicodeEncodeError) or "to SQLite INTEGER" in str(original):
        # Half a character, or a number of more than 64 bits: the drivers refuse them in Python's words.
        return True
    return _is_a(original, "DataError")


def reason(error: BaseException) -> str:
    """Return the first line of what the driver said."""
    original = _original(error)
    said = str(original).strip()
    return hidden(said.splitlines()[0]) if said else type(original).__name__


def _original(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _sqlite_code(error: sqlite3.Error) -> int:
    """Return the primary result code: the rest says where, not what."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_a(error: BaseException, *names: str) -> bool:
    return any(base.__name__ in names for base in type(error).__mro__)
