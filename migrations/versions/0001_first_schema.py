"""The first schema: sources, series, points, monitors, versions, scores, events, reviews, runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEARCHABLE = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

APPEND_ONLY = ("review", "event_revision")
"""Tables whose rows are never changed: triggers say so to everybody, not only to our own code."""


def upgrade() -> None:
    op.create_table(
        "monitor",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config", SEARCHABLE, nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_monitor")),
        sa.UniqueConstraint("name", name=op.f("uq_monitor_name")),
    )
    op.create_table(
        "points",
        sa.Column("series_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ts", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("series_id", "ts", name=op.f("pk_points")),
        postgresql_partition_by="RANGE (ts)",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "scores",
        sa.Column("target_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("ts", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("live", sa.Double(), nullable=True),
        sa.Column("live_anomaly", sa.Double(), nullable=True),
        sa.Column("settled", sa.Double(), nullable=True),
        sa.Column("settled_anomaly", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("target_id", "ts", name=op.f("pk_scores")),
        postgresql_partition_by="RANGE (ts)",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("labels", SEARCHABLE, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("step_seconds", sa.Integer(), nullable=False),
        sa.Column("delay_seconds", sa.Integer(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("first_ts", sa.BigInteger(), nullable=True),
        sa.Column("last_ts", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint("key", name=op.f("uq_series_key")),
    )
    op.create_table(
        "source",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("points_new", sa.BigInteger(), nullable=False),
        sa.Column("points_changed", sa.BigInteger(), nullable=False),
        sa.Column("rows_rejected", sa.BigInteger(), nullable=False),
        sa.Column("last_batch_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_source")),
    )
    op.create_table(
        "source_progress",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("source", "key", name=op.f("pk_source_progress")),
    )
    op.create_table(
        "weights",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_weights")),
    )
    op.create_table(
        "line",
        sa.Column("monitor_id", sa.Integer(), nullable=False),
        sa.Column("target_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["monitor_id"], ["monitor.id"], name=op.f("fk_line_monitor_id_monitor")),
        sa.PrimaryKeyConstraint("monitor_id", "target_id", "mode", "valid_from", name=op.f("pk_line")),
    )
    op.create_table(
        "run",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("monitor_id", sa.Integer(), nullable=True),
        sa.Column("monitor_key", sa.Integer(), nullable=False),
        sa.Column("scheduled_for", sa.Double(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("outcome", SEARCHABLE, nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["monitor_id"], ["monitor.id"], name=op.f("fk_run_monitor_id_monitor")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        sa.UniqueConstraint(
            "kind", "monitor_key", "scheduled_for", name=op.f("uq_run_kind_monitor_key_scheduled_for")
        ),
    )
    op.create_index(op.f("ix_run_state_scheduled_for"), "run", ["state", "scheduled_for"], unique=False)
    op.create_table(
        "target",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("monitor_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("scored_until", sa.BigInteger(), nullable=True),
        sa.Column("settled_until", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["monitor_id"], ["monitor.id"], name=op.f("fk_target_monitor_id_monitor")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_target")),
        sa.UniqueConstraint("monitor_id", "key", name=op.f("uq_target_monitor_id_key")),
    )
    op.create_table(
        "model_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target_id", sa.Integer(), nullable=False),
        sa.Column("detector", sa.Text(), nullable=False),
        sa.Column("train_start", sa.BigInteger(), nullable=False),
        sa.Column("train_stop", sa.BigInteger(), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("config", SEARCHABLE, nullable=False),
        sa.Column("config_key", sa.Text(), nullable=False),
        sa.Column("weights_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("scored", sa.Boolean(), nullable=False),
        sa.Column("card", SEARCHABLE, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["target_id"], ["target.id"], name=op.f("fk_model_version_target_id_target")),
        sa.ForeignKeyConstraint(
            ["weights_id"], ["weights.id"], name=op.f("fk_model_version_weights_id_weights")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint(
            "target_id",
            "train_stop",
            "detector",
            "config_key",
            name=op.f("uq_model_version_target_id_train_stop_detector_config_key"),
        ),
    )
    op.create_index(op.f("ix_model_version_weights_id"), "model_version", ["weights_id"], unique=False)
    op.create_table(
        "target_series",
        sa.Column("target_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_target_series_series_id_series")),
        sa.ForeignKeyConstraint(["target_id"], ["target.id"], name=op.f("fk_target_series_target_id_target")),
        sa.PrimaryKeyConstraint("target_id", "position", name=op.f("pk_target_series")),
    )
    op.create_index(op.f("ix_target_series_series_id"), "target_series", ["series_id"], unique=False)
    op.create_table(
        "calibration",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["model_version.id"],
            name=op.f("fk_calibration_version_id_model_version"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "mode", "valid_from", name=op.f("pk_calibration")),
    )
    op.create_table(
        "event",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("target_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("start_ts", sa.BigInteger(), nullable=False),
        sa.Column("end_ts", sa.BigInteger(), nullable=False),
        sa.Column("n_points", sa.Integer(), nullable=False),
        sa.Column("peak_ts", sa.BigInteger(), nullable=False),
        sa.Column("peak_score", sa.Double(), nullable=False),
        sa.Column("mean_score", sa.Double(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("y_at_peak", sa.Double(), nullable=True),
        sa.Column("yhat_at_peak", sa.Double(), nullable=True),
        sa.Column("impact", sa.Double(), nullable=True),
        sa.Column("reaches_now", sa.Boolean(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("first_detected_at", sa.BigInteger(), nullable=False),
        sa.Column("merged_into", BIG_ID, nullable=True),
        sa.Column("added", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("review_id", sa.BigInteger(), nullable=True),
        sa.Column("review_verdict", sa.Text(), nullable=True),
        sa.Column("review_cause", sa.Text(), nullable=True),
        sa.Column("review_start", sa.BigInteger(), nullable=True),
        sa.Column("review_end", sa.BigInteger(), nullable=True),
        sa.Column("reviewed_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "status <> 'outdated' OR (review_id IS NULL AND NOT added)",
            name=op.f("ck_event_reviewed_is_never_outdated"),
        ),
        sa.CheckConstraint("end_ts >= start_ts", name=op.f("ck_event_ends_after_start")),
        sa.ForeignKeyConstraint(["merged_into"], ["event.id"], name=op.f("fk_event_merged_into_event")),
        sa.ForeignKeyConstraint(["target_id"], ["target.id"], name=op.f("fk_event_target_id_target")),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["model_version.id"],
            name=op.f("fk_event_version_id_model_version"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_target_id_start_ts"), "event", ["target_id", "start_ts"], unique=False)
    op.create_index(op.f("ix_event_version_id"), "event", ["version_id"], unique=False)
    op.create_table(
        "event_revision",
        sa.Column("event_id", BIG_ID, nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("after", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["event.id"], name=op.f("fk_event_revision_event_id_event")),
        sa.PrimaryKeyConstraint("event_id", "revision", name=op.f("pk_event_revision")),
    )
    op.create_table(
        "review",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("event_id", BIG_ID, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("start_ts", sa.BigInteger(), nullable=True),
        sa.Column("end_ts", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["event.id"], name=op.f("fk_review_event_id_event")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review")),
    )
    op.create_index(op.f("ix_review_event_id"), "review", ["event_id"], unique=False)

    _refuse_changes()
    if op.get_bind().dialect.name == "postgresql":
        # Weights are floats: trying to compress them takes longer than writing them.
        op.execute("ALTER TABLE weights ALTER COLUMN data SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_index(op.f("ix_review_event_id"), table_name="review")
    op.drop_table("review")
    op.drop_table("event_revision")
    op.drop_index(op.f("ix_event_version_id"), table_name="event")
    op.drop_index(op.f("ix_event_target_id_start_ts"), table_name="event")
    op.drop_table("event")
    op.drop_table("calibration")
    op.drop_index(op.f("ix_target_series_series_id"), table_name="target_series")
    op.drop_table("target_series")
    op.drop_index(op.f("ix_model_version_weights_id"), table_name="model_version")
    op.drop_table("model_version")
    op.drop_table("target")
    op.drop_index(op.f("ix_run_state_scheduled_for"), table_name="run")
    op.drop_table("run")
    op.drop_table("line")
    op.drop_table("weights")
    op.drop_table("source_progress")
    op.drop_table("source")
    op.drop_table("series")
    op.drop_table("scores")
    op.drop_table("points")
    op.drop_table("monitor")

    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION append_only()")


def _refuse_changes() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'table % is append-only; add a row instead', TG_TABLE_NAME; END $$"
        )
    for table in APPEND_ONLY:
        for action in ("UPDATE", "DELETE"):
            op.execute(_trigger(table, action))


def _trigger(table: str, action: str) -> str:
    head = f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table}"
    if op.get_bind().dialect.name == "postgresql":
        return f"{head} FOR EACH ROW EXECUTE FUNCTION append_only()"
    message = f"table {table} is append-only; add a row instead"
    return f"{head} BEGIN SELECT RAISE(ABORT, '{message}'); END"
