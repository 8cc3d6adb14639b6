"""Indexes for lists in order of time and height; what people did to an event, and what they took back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STANDING = "status NOT IN ('merged_into', 'outdated')"
QUEUED = "status IN ('open', 'closed') AND (review_verdict IS NULL OR review_verdict = 'unsure')"
FIRST, LAST = "coalesce(review_start, start_ts)", "coalesce(review_end, end_ts)"
OF_EVENTS = {
    "first": (None, (FIRST, "id")),
    "last": (None, (LAST,)),
    "of_monitor": (STANDING, ("monitor_id", FIRST, "id")),
    "of_target": (STANDING, ("target_id", FIRST, "id")),
    "worst": (STANDING, ("peak_score", "id")),
    "unjudged": (f"{STANDING} AND review_verdict IS NULL", (FIRST, "id")),
    "unjudged_worst": (f"{STANDING} AND review_verdict IS NULL", ("peak_score", "id")),
    "queue": (QUEUED, ("peak_score", "id")),
    "open": ("status = 'open'", (FIRST, "id")),
    "open_of_target": ("status = 'open'", ("target_id",)),
    "counted": (
        f"{STANDING} AND NOT (added AND status = 'below_line')",
        ("monitor_id", "version_id", "review_verdict"),
    ),
}
"""Name to which it holds, all or those of a condition, and in which order."""

OTHERS = {"run": (("scheduled_for", "id"), ("finished_at", "id")), "model_version": (("train_stop", "id"),)}


def upgrade() -> None:
    op.add_column("event", sa.Column("monitor_id", sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE event SET monitor_id = (SELECT monitor_id FROM target WHERE id = event.target_id)")
    if "act" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("review")}:
        op.add_column("review", sa.Column("act", sa.Text(), server_default="verdict", nullable=False))
        op.add_column("review", sa.Column("undoes", sa.BigInteger(), nullable=True))
        op.create_index(op.f("ix_review_undoes"), "review", ["undoes"], unique=True)
    for name, (where, columns) in OF_EVENTS.items():
        parts = [sa.text(each) if "(" in each else each for each in columns]
        condition = None if where is None else sa.text(where)
        op.create_index(
            f"ix_event_{name}", "event", parts, sqlite_where=condition, postgresql_where=condition
        )
    for table, indexes in OTHERS.items():
        for columns in indexes:
            op.create_index(_name(table, columns), table, list(columns))


def downgrade() -> None:
    for table, indexes in OTHERS.items():
        for columns in indexes:
            op.drop_index(_name(table, columns), table_name=table)
    for name in OF_EVENTS:
        op.drop_index(f"ix_event_{name}", table_name="event")
    # What reviews say they are stays: an older release leaves it alone, and without it all that was taken
    # back would stand again in the next one.
    op.drop_column("event", "monitor_id")


def _name(table: str, columns: tuple[str, ...]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"
