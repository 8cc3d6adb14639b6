"""Flagged intervals know the time zone of their series, by the view alone; changes are found by their run."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_event_revision_run", "event_revision", ["run_id"])


def downgrade() -> None:
    op.drop_index("ix_event_revision_run", table_name="event_revision")
