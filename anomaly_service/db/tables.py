"""Every table of the database, typed.

Times are epoch seconds, UTC: whole (`BigInteger`) where they are data time, doubles where they are
wall-clock moments of the database. The views of ``views.sql`` turn them into timestamps.

``points`` and ``scores`` carry no foreign keys: checking one costs PostgreSQL more than the rest of a
bulk insert together, and their only writer creates the series and targets in the same transaction.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

HEAD = "0011"
"""The revision of ``migrations/`` that this code reads and writes; a test compares both."""

Searchable = JSON().with_variant(JSONB(), "postgresql")
"""JSON that people query (labels, cards); what only pipelines read stays text, which loads faster."""

SearchableOrNull = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

STANDING = "status NOT IN ('merged_into', 'outdated')"
"""Events that people see. A partial index serves a query that has these very words, as the views do."""

GONE = "status IN ('merged_into', 'outdated')"
"""Events that no list shows; retention deletes them in time."""

QUEUED = "status IN ('open', 'closed') AND (review_verdict IS NULL OR review_verdict = 'unsure')"
"""Events that wait for a verdict."""

COUNTED = f"{STANDING} AND NOT (added AND status = 'below_line')"
"""Events that were flagged: what people added and no score reaches says nothing of a detector's precision."""

FIRST, LAST = "coalesce(review_start, start_ts)", "coalesce(review_end, end_ts)"
"""First and last second of an event as people see it."""

BigId = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite numbers rows by itself only for a key declared INTEGER."""


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Source(Base):
    """Where points come from, and what became of the rows.

    ``live_at`` is when its newest point was near the clock for the last time it was looked at; NULL is an
    archive, which never was.
    """

    __tablename__ = "source"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    points_new: Mapped[int] = mapped_column(BigInteger, default=0)
    points_changed: Mapped[int] = mapped_column(BigInteger, default=0)
    rows_rejected: Mapped[int] = mapped_column(BigInteger, default=0)
    last_batch_at: Mapped[float | None] = mapped_column(Double)
    live_at: Mapped[int | None] = mapped_column(BigInteger)


class SourceEvent(Base):
    """A source that stopped as a whole, from the step after its newest point until it delivered again."""

    __tablename__ = "source_event"
    __table_args__ = (Index(None, "source", "start_ts"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    source: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    start_ts: Mapped[int] = mapped_column(BigInteger)
    end_ts: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text)
    first_detected_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[float] = mapped_column(Double)


class Clock(Base):
    """One row: what time it was for whoever looked last, and for the database at that moment.

    Where the two are far apart somebody froze the clock (``--now``), and views tell the time by him.
    """

    __tablename__ = "clock"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[int] = mapped_column(BigInteger)
    wall: Mapped[float] = mapped_column(Double)


class SourceProgress(Base):
    """The source's own memory: a file's digest and bytes consumed, a watermark."""

    __tablename__ = "source_progress"

    source: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[dict[str, Any]] = mapped_column(JSON)


class Series(Base):
    """``last_ts`` only grows, also when retention deletes points: nothing was ever stored beyond it.

    ``begun_ts`` only falls in the same way, while ``first_ts`` is that of the oldest point left. What was
    before ``pruned_before`` retention has deleted.
    """

    __tablename__ = "series"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    key: Mapped[str] = mapped_column(Text, unique=True)
    metric: Mapped[str] = mapped_column(Text)
    labels: Mapped[dict[str, str]] = mapped_column(Searchable)
    source: Mapped[str] = mapped_column(Text)
    step_seconds: Mapped[int] = mapped_column(Integer)
    delay_seconds: Mapped[int] = mapped_column(Integer)
    timezone: Mapped[str] = mapped_column(Text)
    first_ts: Mapped[int | None] = mapped_column(BigInteger)
    last_ts: Mapped[int | None] = mapped_column(BigInteger)
    begun_ts: Mapped[int | None] = mapped_column(BigInteger)
    pruned_before: Mapped[int | None] = mapped_column(BigInteger)


class Point(Base):
    __tablename__ = "points"
    __table_args__ = {"sqlite_with_rowid": False, "postgresql_partition_by": "RANGE (ts)"}  # noqa: RUF012

    series_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    ts: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[float] = mapped_column(Double)


class HeldPoint(Base):
    """Points whose time has not come: they wait here, and are part of nothing, until it has."""

    __tablename__ = "held_points"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    series_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    ts: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[float] = mapped_column(Double)


class Monitor(Base):
    """One of the config. ``models`` grows whenever its models and lines stand anew."""

    __tablename__ = "monitor"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    config: Mapped[dict[str, Any]] = mapped_column(Searchable)
    enabled: Mapped[bool]
    models: Mapped[int] = mapped_column(Integer, server_default="0")
    stagger: Mapped[bool | None]


class Target(Base):
    """What a monitor scores. A target belongs to exactly one monitor, so ``target_id`` implies it.

    Retention has deleted the scores before ``pruned_before``, and the versions that scored nothing since.
    """

    __tablename__ = "target"
    __table_args__ = (UniqueConstraint("monitor_id", "key"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    monitor_id: Mapped[int] = mapped_column(ForeignKey("monitor.id"))
    key: Mapped[str] = mapped_column(Text)
    scored_until: Mapped[int | None] = mapped_column(BigInteger)
    settled_until: Mapped[int | None] = mapped_column(BigInteger)
    pruned_before: Mapped[int | None] = mapped_column(BigInteger)


class TargetSeries(Base):
    __tablename__ = "target_series"

    target_id: Mapped[int] = mapped_column(ForeignKey("target.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)


class Weights(Base):
    """Safetensors bytes of one bank member; versions of one group share a row."""

    __tablename__ = "weights"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class ModelVersion(Base):
    """``config_key`` is a digest of ``config``: what makes a repeated fit the same version.

    ``scored`` is false until what the version changes is scored: a fit and its scores are two
    transactions, and a process may die between them.
    """

    __tablename__ = "model_version"
    __table_args__ = (
        UniqueConstraint("target_id", "train_stop", "detector", "config_key"),
        Index(None, "train_stop", "id"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    target_id: Mapped[int] = mapped_column(ForeignKey("target.id"))
    detector: Mapped[str] = mapped_column(Text)
    train_start: Mapped[int] = mapped_column(BigInteger)
    train_stop: Mapped[int] = mapped_column(BigInteger)
    recipe: Mapped[dict[str, Any]] = mapped_column(JSON)
    config: Mapped[dict[str, Any]] = mapped_column(Searchable)
    config_key: Mapped[str] = mapped_column(Text)
    weights_id: Mapped[int] = mapped_column(ForeignKey("weights.id"), index=True)
    status: Mapped[str] = mapped_column(Text)
    scored: Mapped[bool]
    card: Mapped[dict[str, Any]] = mapped_column(Searchable)
    created_at: Mapped[float] = mapped_column(Double)


class Calibration(Base):
    __tablename__ = "calibration"

    version_id: Mapped[int] = mapped_column(
        ForeignKey("model_version.id", ondelete="CASCADE"), primary_key=True
    )
    mode: Mapped[str] = mapped_column(Text, primary_key=True)
    valid_from: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[float] = mapped_column(Double)


class Line(Base):
    """``target_id`` 0 stands for the whole monitor, as a key cannot hold NULL."""

    __tablename__ = "line"

    monitor_id: Mapped[int] = mapped_column(ForeignKey("monitor.id"), primary_key=True)
    target_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    mode: Mapped[str] = mapped_column(Text, primary_key=True)
    valid_from: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[float] = mapped_column(Double)


class Score(Base):
    """Raw and anomaly score of a target's step, live and settled side by side; NULL means none.

    The columns stand in this order because PostgreSQL aligns a double to eight bytes: two four-byte
    ids together need no padding.
    """

    __tablename__ = "scores"
    __table_args__ = {"sqlite_with_rowid": False, "postgresql_partition_by": "RANGE (ts)"}  # noqa: RUF012

    target_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version_id: Mapped[int] = mapped_column(Integer)
    ts: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    live: Mapped[float | None] = mapped_column(Double)
    live_anomaly: Mapped[float | None] = mapped_column(Double)
    settled: Mapped[float | None] = mapped_column(Double)
    settled_anomaly: Mapped[float | None] = mapped_column(Double)


def _event_index(name: str, *columns: str, where: str | None = STANDING) -> Index:
    """Return an index of those events that a condition holds for, or of all, in the columns' order."""
    parts = [text(column) if "(" in column else column for column in columns]
    condition = None if where is None else text(where)
    return Index(f"ix_event_{name}", *parts, sqlite_where=condition, postgresql_where=condition)


class EventTable(Base):
    """A stored interval with its identity, what people said of it beside it.

    ``channel`` is the metric with the largest of the ``channel_shares``; both are NULL for a single series.

    ``start_ts`` and ``end_ts`` are what the detector says. The rest follows from the event's reviews that
    were not taken back: ``review_id`` names the newest of them, ``review_verdict``, ``review_cause`` and
    ``reviewed_at`` are those of the newest with a verdict, ``review_start`` and ``review_end`` where a
    reviewer moved a border. ``monitor_id`` is the target's, so that a monitor's events have an index.
    """

    __tablename__ = "event"
    __table_args__ = (
        Index(None, "target_id", "start_ts"),
        # PostgreSQL counts how an expression's values are spread only where an index holds all rows.
        _event_index("first", FIRST, "id", where=None),
        _event_index("last", LAST, where=None),
        _event_index("of_monitor", "monitor_id", FIRST, "id"),
        _event_index("of_target", "target_id", FIRST, "id"),
        _event_index("worst", "peak_score", "id"),
        _event_index("unjudged", FIRST, "id", where=f"{STANDING} AND review_verdict IS NULL"),
        _event_index("unjudged_worst", "peak_score", "id", where=f"{STANDING} AND review_verdict IS NULL"),
        _event_index("queue", "peak_score", "id", where=QUEUED),
        _event_index("open", FIRST, "id", where="status = 'open'"),
        _event_index("open_of_target", "target_id", where="status = 'open'"),
        _event_index("counted", "monitor_id", "version_id", "review_verdict", where=COUNTED),
        _event_index("gone", "updated_at", where=GONE),
        # Deleting an event asks who was merged into it.
        _event_index("merged", "merged_into", where="merged_into IS NOT NULL"),
        CheckConstraint("end_ts >= start_ts", name="ends_after_start"),
        CheckConstraint(
            "status <> 'outdated' OR (review_id IS NULL AND NOT added)", name="reviewed_is_never_outdated"
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    target_id: Mapped[int] = mapped_column(ForeignKey("target.id"))
    monitor_id: Mapped[int] = mapped_column(Integer, server_default="0")
    kind: Mapped[str] = mapped_column(Text)
    start_ts: Mapped[int] = mapped_column(BigInteger)
    end_ts: Mapped[int] = mapped_column(BigInteger)
    n_points: Mapped[int] = mapped_column(Integer)
    peak_ts: Mapped[int] = mapped_column(BigInteger)
    peak_score: Mapped[float] = mapped_column(Double)
    mean_score: Mapped[float] = mapped_column(Double)
    direction: Mapped[str] = mapped_column(Text)
    y_at_peak: Mapped[float | None] = mapped_column(Double)
    yhat_at_peak: Mapped[float | None] = mapped_column(Double)
    impact: Mapped[float | None] = mapped_column(Double)
    channel: Mapped[str | None] = mapped_column(Text)
    channel_shares: Mapped[dict[str, float] | None] = mapped_column(SearchableOrNull)
    reaches_now: Mapped[bool]
    version_id: Mapped[int | None] = mapped_column(
        ForeignKey("model_version.id", ondelete="SET NULL"), index=True
    )
    status: Mapped[str] = mapped_column(Text)
    first_detected_at: Mapped[int] = mapped_column(BigInteger)
    merged_into: Mapped[int | None] = mapped_column(ForeignKey("event.id"))
    added: Mapped[bool]
    revision: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[float] = mapped_column(Double)
    review_id: Mapped[int | None] = mapped_column(BigInteger)
    review_verdict: Mapped[str | None] = mapped_column(Text)
    review_cause: Mapped[str | None] = mapped_column(Text)
    review_start: Mapped[int | None] = mapped_column(BigInteger)
    review_end: Mapped[int | None] = mapped_column(BigInteger)
    reviewed_at: Mapped[float | None] = mapped_column(Double)


class EventRevision(Base):
    """Every change of an event but that it goes on, with run and reason.

    Triggers refuse UPDATE, and DELETE of the changes of an event that people reviewed or added.
    """

    __tablename__ = "event_revision"
    __table_args__ = (
        # The first is never deleted before its event.
        Index(
            "ix_event_revision_later",
            "at",
            sqlite_where=text("revision > 1"),
            postgresql_where=text("revision > 1"),
        ),
    )

    event_id: Mapped[int] = mapped_column(ForeignKey("event.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    at: Mapped[float] = mapped_column(Double)
    why: Mapped[str] = mapped_column(Text)
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any]] = mapped_column(JSON)


class Review(Base):
    """Append-only (triggers refuse UPDATE and DELETE): one act of a person on an event.

    ``act`` says which (``pipelines.names.Act``). ``verdict`` is empty where it gives none, borders are NULL
    where it moves none, and ``undoes`` names the review that it takes back, each of them once.
    """

    __tablename__ = "review"
    __table_args__ = (Index(None, "undoes", unique=True),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("event.id"), index=True)
    act: Mapped[str] = mapped_column(Text, server_default="verdict")
    undoes: Mapped[int | None] = mapped_column(BigInteger)
    verdict: Mapped[str] = mapped_column(Text)
    cause: Mapped[str] = mapped_column(Text)
    comment: Mapped[str] = mapped_column(Text)
    by: Mapped[str] = mapped_column(Text)
    start_ts: Mapped[int | None] = mapped_column(BigInteger)
    end_ts: Mapped[int | None] = mapped_column(BigInteger)
    at: Mapped[float] = mapped_column(Double)


class EventPortraitTable(Base):
    """What an event looks like, whatever becomes of its points, and what is suggested of it.

    Written from events, reviews and points alone: a pass that is repeated writes the same.
    """

    __tablename__ = "event_look"

    event_id: Mapped[int] = mapped_column(ForeignKey("event.id"), primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(Integer)
    shape: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    verdict: Mapped[str] = mapped_column(Text)
    cause: Mapped[str] = mapped_column(Text)
    probability: Mapped[float | None] = mapped_column(Double)


class Run(Base):
    """One scheduled piece of work, of a monitor or of a source.

    ``monitor_key`` is ``monitor_id`` or 0 and ``source`` a name or empty, as NULLs are never equal.
    """

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("kind", "monitor_key", "source", "scheduled_for"),
        Index(None, "state", "scheduled_for"),
        Index(None, "scheduled_for", "id"),
        Index(None, "finished_at", "id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    monitor_id: Mapped[int | None] = mapped_column(ForeignKey("monitor.id"))
    monitor_key: Mapped[int] = mapped_column(Integer)
    source: Mapped[str] = mapped_column(Text, server_default="")
    scheduled_for: Mapped[float] = mapped_column(Double)
    state: Mapped[str] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(Text)
    fence: Mapped[int] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer)
    lease_until: Mapped[float | None] = mapped_column(Double)
    created_at: Mapped[float] = mapped_column(Double)
    started_at: Mapped[float | None] = mapped_column(Double)
    finished_at: Mapped[float | None] = mapped_column(Double)
    retry_at: Mapped[float | None] = mapped_column(Double)
    outcome: Mapped[dict[str, Any] | None] = mapped_column(Searchable)
    error: Mapped[str] = mapped_column(Text)


class ConfigInForceTable(Base):
    """The one config that the service went by last, without its secrets; its ``id`` is 1."""

    __tablename__ = "config_in_force"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    file: Mapped[str] = mapped_column(Text)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    since: Mapped[float] = mapped_column(Double)
