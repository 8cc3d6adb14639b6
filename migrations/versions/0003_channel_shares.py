"""What each series of a target of several has of an event, and the metric of the one that leads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEARCHABLE = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.add_column("event", sa.Column("channel", sa.Text(), nullable=True))
    op.add_column("event", sa.Column("channel_shares", SEARCHABLE, nullable=True))


def downgrade() -> None:
    op.drop_column("event", "channel_shares")
    op.drop_column("event", "channel")
