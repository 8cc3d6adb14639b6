"""A run may be of a source: taking points in is a run of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OLD, NEW = ("kind", "monitor_key", "scheduled_for"), ("kind", "monitor_key", "source", "scheduled_for")


def upgrade() -> None:
    with op.batch_alter_table("run") as run:
        run.add_column(sa.Column("source", sa.Text(), nullable=False, server_default=""))
        run.drop_constraint(op.f(_name(OLD)), type_="unique")
        run.create_unique_constraint(op.f(_name(NEW)), list(NEW))


def downgrade() -> None:
    # Releases before this one know no such runs, and two sources of one moment would be the same run.
    op.execute("DELETE FROM run WHERE source <> ''")
    with op.batch_alter_table("run") as run:
        run.drop_constraint(op.f(_name(NEW)), type_="unique")
        run.create_unique_constraint(op.f(_name(OLD)), list(OLD))
        run.drop_column("source")


def _name(columns: tuple[str, ...]) -> str:
    return f"uq_run_{'_'.join(columns)}"
