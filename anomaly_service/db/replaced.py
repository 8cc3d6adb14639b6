"""Noticing that the file of an SQLite database is another one by now, or gone.

SQLite keeps the file that it opened: whoever restored a backup beside a daemon would see it write into
the file that was moved away, and never look at the new one.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from sqlalchemy import Engine, event

from anomaly_service.errors import DatabaseReplacedError, DatabaseUnavailableError

Identity = tuple[int, int]

WAL = "-wal"
"""Behind a database's name: its file of what is committed and not yet in the database itself."""


class _File:
    """The file that an engine opened first."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: Identity | None = None
        self._wal: Identity | None = None
        self._lock = threading.Lock()

    def note(self) -> None:
        """Remember the file of the first connection; a later one must have opened the same."""
        with self._lock:
            if self._opened is None:
                self._opened = _identity(self.path)
        self.check()

    def check(self) -> None:
        """Refuse to go on where the file is not the one that was opened.

        Raises:
            DatabaseUnavailableError: the file is gone and may come back, or what SQLite keeps beside it is
                not of the one that lies there.
            DatabaseReplacedError: another file lies in its place.
        """
        now = _identity(self.path)
        if now == self._opened:
            self._wal = _identity(self.path + WAL) or self._wal
            return
        if now is None:
            raise DatabaseUnavailableError(
                f"the database file {self.path} is gone; put it back, or restore a backup in its place"
            )
        if self._wal is not None and self._wal == _identity(self.path + WAL):
            raise DatabaseUnavailableError(
                f"the database file {self.path} was replaced, and {self.path}{WAL} beside it is still of the "
                f"old one: SQLite would mix the two. Remove {self.path}{WAL} and {self.path}-shm"
            )
        raise DatabaseReplacedError(
            f"the database file {self.path} is another one than was opened; nothing was written to either. "
            "The daemon opens the new one by itself; elsewhere, start again"
        )


def watch(engine: Engine) -> None:
    """Let every connection of an SQLite engine look whether the file is still the one that was opened."""
    path = engine.url.database
    assert path is not None
    file = _File(path)

    @event.listens_for(engine, "do_connect")
    def before(*_: object) -> None:
        # Opening makes a new file where there is none.
        if file._opened is not None:
            file.check()

    @event.listens_for(engine, "connect")
    def opened(connection: object, record: Any) -> None:
        file.note()

    @event.listens_for(engine, "begin")
    def begins(connection: object) -> None:
        file.check()


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
