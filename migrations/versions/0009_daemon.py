"""When a night that failed is tried again, and how often a monitor's models stood anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("retry_at", sa.Double(), nullable=True))
    op.add_column("monitor", sa.Column("models", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("monitor", "models")
    op.drop_column("run", "retry_at")
