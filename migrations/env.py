"""Runs migrations on the connection that ``anomaly_service.db.migrate`` hands over."""

from __future__ import annotations

from alembic import context

from anomaly_service.db.migrate import is_ours
from anomaly_service.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    include_name=is_ours,
)
with context.begin_transaction():
    context.run_migrations()
