"""What grows is deleted by an index, so many rows at a time: nobody waits for it, and no file doubles for it.

Ages of points and scores are data time; those of all else are moments of the database's clock. What people
reviewed or added goes never, nor does what it points to.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    literal,
    not_,
    select,
    text,
)
from sqlalchemy.orm import aliased

from anomaly_service.db.engine import db_now
from anomaly_service.db.sql import among
from anomaly_service.db.tables import (
    GONE,
    EventPortraitTable,
    EventRevision,
    EventTable,
    Review,
    Run,
    SourceProgress,
)
from pipelines.names import RunState

ROWS = 20_000
"""Rows of one transaction: a fraction of a second on either database."""

EVENTS = 1_000
"""Events of one transaction; what belongs to each goes with it."""

OWNERS = {"points": "series_id", "scores": "target_id"}
"""Whose rows these are: the first column of the table's key, before the time."""

ENDED = (RunState.DONE.value, RunState.FAILED.value)


def rows_before(
    connection: Connection, table: str, whose: Sequence[int], before: int, most: int = ROWS
) -> tuple[int, list[int]]:
    """Delete points of series, or scores of targets, before a data time; return how many, and who is left.

    Args:
        table: ``points`` or ``scores``.
        whose: ids of the series or targets; each is one stretch of the table's key.
        most: rows after which the rest is left for the next transaction.
    """
    deleted, left = 0, list(whose)
    while left and deleted < most:
        given = {"owner": left[0], "before": before, "most": most - deleted}
        found = connection.execute(_ROWS[table], given).rowcount
        deleted += found
        if deleted < most:
            left.pop(0)
    return deleted, left


def _rows(table: str) -> str:
    owner = OWNERS[table]
    return (
        f"DELETE FROM {table} WHERE {owner} = :owner AND ts < :before AND ts < coalesce("
        f"(SELECT ts FROM {table} WHERE {owner} = :owner AND ts < :before ORDER BY ts LIMIT 1 OFFSET :most), "
        ":before)"
    )


_ROWS = {table: text(_rows(table)) for table in OWNERS}


def runs(connection: Connection, seconds: float, most: int = ROWS) -> int:
    """Delete runs that ended so long ago; return how many.

    The newest that ended of every kind, monitor and source stays, and the newest that went well: schedules
    go on from there. One that a wrong clock scheduled for later than now makes no other one old.
    """
    later = aliased(Run)
    now = _now(connection)
    old = select(Run.id).where(
        Run.finished_at < now - seconds,
        Run.state.in_(ENDED),
        _there_is(
            later.kind == Run.kind,
            later.monitor_key == Run.monitor_key,
            later.source == Run.source,
            later.scheduled_for > Run.scheduled_for,
            later.scheduled_for <= now,
            later.state.in_((RunState.DONE.value, Run.state)),
        ),
    )
    ids = connection.scalars(old.order_by(Run.finished_at, Run.id).limit(most)).all()
    connection.execute(delete(Run).where(among(connection, Run.id, ids)))
    return len(ids)


def revisions(connection: Connection, seconds: float, most: int = ROWS) -> int:
    """Delete changes of events older than so long; return how many.

    Of every event its first and its newest stay, and of those that people touched all.
    """
    later = aliased(EventRevision)
    old = select(EventRevision.event_id.label("event"), EventRevision.revision.label("number")).where(
        EventRevision.at < _now(connection) - seconds,
        text("event_revision.revision > 1"),
        _there_is(later.event_id == EventRevision.event_id, later.revision > EventRevision.revision),
        ~_there_is(Review.event_id == EventRevision.event_id),
        ~_there_is(EventTable.id == EventRevision.event_id, EventTable.added.expression),
    )
    found = connection.execute(old.order_by(EventRevision.at).limit(most)).mappings().all()
    if found:
        one = and_(
            EventRevision.event_id == bindparam("event"), EventRevision.revision == bindparam("number")
        )
        connection.execute(delete(EventRevision).where(one), [dict(row) for row in found])
    return len(found)


def gone_events(connection: Connection, seconds: float, most: int = EVENTS) -> int:
    """Delete events that nobody sees any more since so long, with their changes; return how many.

    Those are outdated, or were merged into another. One that people reviewed, whatever they took back, or
    added stays, and so does one that another was merged into.
    """
    other = aliased(EventTable)
    old = select(EventTable.id).where(
        text(GONE),
        EventTable.updated_at < _now(connection) - seconds,
        not_(EventTable.added),
        ~_there_is(Review.event_id == EventTable.id),
        ~_there_is(other.merged_into == EventTable.id),
    )
    ordered = old.order_by(EventTable.updated_at).limit(most).with_for_update(of=EventTable)
    ids = connection.scalars(ordered).all()
    for column in (EventRevision.event_id, EventPortraitTable.event_id, EventTable.id):
        connection.execute(delete(column.class_).where(among(connection, column, ids)))
    return len(ids)


def _there_is(*where: ColumnElement[bool]) -> ColumnElement[bool]:
    """True where there is a row of which all this holds: looked for by its index, for each row that is old.

    An EXISTS would be PostgreSQL's licence to join two whole tables.
    """
    return select(literal(1)).where(*where).limit(1).scalar_subquery().is_not(None)


def _now(connection: Connection) -> float:
    """Return the database's time as a value: by an index, PostgreSQL compares with what stays the same."""
    return float(connection.scalar(select(db_now())) or 0.0)


def progress(connection: Connection, source: str, keys: Sequence[str]) -> int:
    """Delete what a source remembers under these keys; return how many there were."""
    chosen = among(connection, SourceProgress.key, keys)
    return connection.execute(delete(SourceProgress).where(SourceProgress.source == source, chosen)).rowcount


def owners(connection: Connection, table: str, before: int) -> list[int]:
    """Return the series of ``points``, or targets of ``scores``, that have rows before a data time, by id."""
    return list(connection.scalars(_OWNERS[table], {"before": before}))


def _owners(table: str) -> str:
    """Step from owner to owner through the table's key, as no index has the time alone."""
    owner = OWNERS[table]
    return (
        f"WITH RECURSIVE held (id) AS (SELECT min({owner}) FROM {table} UNION ALL "
        f"SELECT (SELECT min({owner}) FROM {table} WHERE {owner} > held.id) FROM held "
        "WHERE held.id IS NOT NULL) SELECT id FROM held WHERE id IS NOT NULL "
        f"AND EXISTS (SELECT 1 FROM {table} WHERE {owner} = held.id AND ts < :before)"
    )


_OWNERS = {table: text(_owners(table)) for table in OWNERS}


def refresh_statistics(connection: Connection, table: str) -> None:
    """Let the database count how the values of a table are spread: without, it walks whole tables.

    PostgreSQL does so by itself, but never for the tables whose rows lie in partitions.
    """
    if connection.dialect.name == "sqlite":
        # A few thousand entries of each index tell as much as all, and take no time.
        connection.exec_driver_sql("PRAGMA analysis_limit = 4000")
    else:
        connection.exec_driver_sql("SET LOCAL statement_timeout = '10min'")
    connection.exec_driver_sql(f"ANALYZE {table}")
