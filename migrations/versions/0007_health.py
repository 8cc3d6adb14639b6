"""Which sources deliver, what time it is, and records of sources that stopped as a whole."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

DELIVERED = """
UPDATE source SET live_at = CAST(last_batch_at AS bigint) WHERE EXISTS (
    SELECT 1 FROM series WHERE series.source = source.name
        AND (source.last_batch_at - series.last_ts < 86400
            OR source.last_batch_at - series.last_ts < 4 * series.step_seconds + series.delay_seconds)
)
"""
"""A source whose last batch brought points of its day is no archive."""


def upgrade() -> None:
    op.add_column("source", sa.Column("live_at", sa.BigInteger(), nullable=True))
    op.execute(DELIVERED)
    op.create_table(
        "clock",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("wall", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clock")),
    )
    op.create_table(
        "source_event",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("start_ts", sa.BigInteger(), nullable=False),
        sa.Column("end_ts", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("first_detected_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source_event")),
    )
    op.create_index(op.f("ix_source_event_source_start_ts"), "source_event", ["source", "start_ts"])


def downgrade() -> None:
    op.drop_table("source_event")
    op.drop_table("clock")
    op.drop_column("source", "live_at")
