"""Indexes by which what is old is found and deleted; the config in force.

Changes of events may go where no person had a hand.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

GONE = "status IN ('merged_into', 'outdated')"
TOUCHED = (
    "EXISTS (SELECT 1 FROM review WHERE review.event_id = OLD.event_id) "
    "OR EXISTS (SELECT 1 FROM event WHERE event.id = OLD.event_id AND event.added)"
)
"""True of the revisions of an event that people reviewed or added: they are never deleted."""

MESSAGE = "table event_revision is append-only for what people reviewed or added; add a row instead"


def upgrade() -> None:
    later = sa.text("revision > 1")
    op.create_index(
        "ix_event_revision_later", "event_revision", ["at"], sqlite_where=later, postgresql_where=later
    )
    op.create_index(
        "ix_event_gone", "event", ["updated_at"], sqlite_where=sa.text(GONE), postgresql_where=sa.text(GONE)
    )
    merged = sa.text("merged_into IS NOT NULL")
    op.create_index("ix_event_merged", "event", ["merged_into"], sqlite_where=merged, postgresql_where=merged)
    op.create_table(
        "config_in_force",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config_in_force")),
    )
    _drop_trigger()
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION keep_touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF {TOUCHED} THEN RAISE EXCEPTION '{MESSAGE}'; END IF; RETURN OLD; END $$"
        )
        op.execute(f"{_HEAD} FOR EACH ROW EXECUTE FUNCTION keep_touched()")
    else:
        op.execute(f"{_HEAD} WHEN {TOUCHED} BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END")


def downgrade() -> None:
    _drop_trigger()
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION keep_touched()")
        op.execute(f"{_HEAD} FOR EACH ROW EXECUTE FUNCTION append_only()")
    else:
        message = "table event_revision is append-only; add a row instead"
        op.execute(f"{_HEAD} BEGIN SELECT RAISE(ABORT, '{message}'); END")
    op.drop_table("config_in_force")
    op.drop_index("ix_event_merged", table_name="event")
    op.drop_index("ix_event_gone", table_name="event")
    op.drop_index("ix_event_revision_later", table_name="event_revision")


_HEAD = "CREATE TRIGGER event_revision_no_delete BEFORE DELETE ON event_revision"


def _drop_trigger() -> None:
    of = " ON event_revision" if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(f"DROP TRIGGER event_revision_no_delete{of}")
