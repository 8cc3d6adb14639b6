"""Points from the future wait in a table of their own until their time has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "held_points",
        sa.Column("series_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("ts", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("series_id", "ts", name=op.f("pk_held_points")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    # Releases before this one would have to read the points again; they know no place for them.
    op.drop_table("held_points")
