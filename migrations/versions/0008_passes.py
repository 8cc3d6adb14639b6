"""When a series began, and what retention has taken of series and targets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, column in COLUMNS:
        op.add_column(table, sa.Column(column, sa.BigInteger(), nullable=True))
    # What was deleted before nobody remembers.
    op.execute("UPDATE series SET begun_ts = first_ts")


def downgrade() -> None:
    for table, column in reversed(COLUMNS):
        op.drop_column(table, column)


COLUMNS = (("series", "begun_ts"), ("series", "pruned_before"), ("target", "pruned_before"))
