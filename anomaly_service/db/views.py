"""The public SQL contract: reads ``views.sql`` and writes it for each database."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from sqlalchemy import Connection

_VIEW = re.compile(r"CREATE VIEW (\w+)")
_TIME = re.compile(r"@time\(((?:[^()]|\([^()]*\))*)\)")
_THEN = {"postgresql": "JOIN", "sqlite": "CROSS JOIN"}
_NOW = {
    "postgresql": "CAST(extract(epoch FROM now()) AS bigint)",
    "sqlite": "CAST(strftime('%s', 'now') AS INTEGER)",
}
_TIMES = {
    "postgresql": r"to_timestamp(\1)",
    "sqlite": r"strftime('%Y-%m-%dT%H:%M:%SZ', \1, 'unixepoch')",
}


@cache
def statements() -> tuple[str, ...]:
    """Return every CREATE VIEW of ``views.sql``, in an order in which they can be created."""
    source = (Path(__file__).parent / "views.sql").read_text(encoding="utf-8")
    plain = re.sub(r"^--.*\n", "", source, flags=re.MULTILINE)
    return tuple(part.strip() for part in plain.split(";") if part.strip())


def names() -> tuple[str, ...]:
    """Return the names of the views."""
    return tuple(match[1] for statement in statements() if (match := _VIEW.match(statement)))


def create(connection: Connection) -> None:
    """Create all views."""
    database = connection.dialect.name
    for statement in statements():
        plain = statement.replace("@then", _THEN[database]).replace("@now", _NOW[database])
        connection.exec_driver_sql(_TIME.sub(_TIMES[database], plain))


def drop(connection: Connection) -> None:
    """Drop those that exist, the last first, as later views may read earlier ones."""
    for name in reversed(names()):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
