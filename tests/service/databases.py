"""Fresh, migrated databases of both kinds for tests that need many of them, or take the server away."""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest

from anomaly_service.db.migrate import migrate


class Databases:
    """Makes databases on the server of ``tests/conftest.py``, copies of one that was migrated once."""

    kinds = ("sqlite", "postgresql")

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._template = ""

    def fresh(self, kind: str) -> str:
        """Return the URL of a new, migrated database without rows."""
        name = f"t{uuid.uuid4().hex}"
        if kind == "sqlite":
            copy = self._folder / f"{name}.db"
            shutil.copy(self._request.getfixturevalue("migrated_sqlite"), copy)
            return f"sqlite:///{copy}"
        if not self._template:
            self._template = f"template_{name}"
            migrate(self._created(self._template))
        return self._created(name, self._template)

    def empty(self, kind: str) -> str:
        """Return the URL of a new database without tables."""
        name = f"t{uuid.uuid4().hex}"
        return f"sqlite:///{self._folder / name}.db" if kind == "sqlite" else self._created(name)

    def stop_server(self) -> None:
        """Stop PostgreSQL as an administrator would, cutting every connection."""
        self._server.stop()

    def kill_server(self) -> None:
        """Kill PostgreSQL and everything of it at once, as a machine that runs out of memory does."""
        postmaster = psutil.Process(self._server.get_pid())
        killed = [postmaster, *postmaster.children(recursive=True)]
        for process in killed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(killed)

    def start_server(self) -> None:
        """Start it again, at the same address."""
        with self._server._lock:
            self._server.ensure_postgres_running()

    @property
    def _server(self) -> Any:
        return self._request.getfixturevalue("postgres_server")

    def _created(self, name: str, template: str = "template1") -> str:
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return str(self._server.get_uri(name))
