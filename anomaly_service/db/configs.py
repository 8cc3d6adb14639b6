"""The config that the service went by last, as a person may look at it: without secrets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, select

from anomaly_service.db.engine import db_now
from anomaly_service.db.sql import upsert
from anomaly_service.db.tables import ConfigInForceTable
from pipelines.records import Json

ONLY = 1
"""There is one row, of the newest."""


@dataclass(frozen=True)
class InForce:
    """A config that was good.

    Attributes:
        file: where it was read from.
        since: when it was put to work first, by the database's clock.
    """

    file: str
    body: Json
    since: datetime


def read(connection: Connection) -> InForce | None:
    """Return the config in force; None before the first was put to work."""
    row = connection.execute(select(ConfigInForceTable.__table__)).first()
    return None if row is None else InForce(row.file, row.body, datetime.fromtimestamp(row.since, UTC))


def write(connection: Connection, file: str, body: Json) -> None:
    """Put a config in place of the one before."""
    row = {"id": ONLY, "file": file, "body": body, "since": connection.scalar(select(db_now()))}
    upsert(connection, ConfigInForceTable, [row], ["id"])
