"""What events look like and what is suggested of them, beside events and reviews, which it never touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, case, select

from anomaly_service.db.events import GONE, event_of
from anomaly_service.db.sql import upsert
from anomaly_service.db.tables import EventLookTable, EventTable, Target
from pipelines.records import Event, EventLook, Verdict

COLUMNS = (
    EventLookTable.revision.label("look_revision"),
    EventLookTable.shape.label("look_shape"),
    EventLookTable.verdict.label("look_verdict"),
    EventLookTable.cause.label("look_cause"),
    EventLookTable.probability.label("look_probability"),
)
"""Under names of their own: an event has some of the same."""


def newest(connection: Connection, monitor_id: int, limit: int) -> list[tuple[Event, EventLook | None]]:
    """Return a monitor's events that stand with their looks: those judged first, then the newest."""
    is_judged = EventTable.review_verdict.is_not(None) & (EventTable.review_verdict != Verdict.UNSURE.value)
    query = (
        select(*EventTable.__table__.columns, *COLUMNS)
        .join(Target, Target.id == EventTable.target_id)
        .outerjoin(EventLookTable, EventLookTable.event_id == EventTable.id)
        .where(Target.monitor_id == monitor_id, EventTable.status.not_in(GONE))
        .order_by(case((is_judged, 0), else_=1), EventTable.start_ts.desc(), EventTable.id)
        .limit(limit)
    )
    return [(event_of(row), _look(row)) for row in connection.execute(query)]


def _look(row: Any) -> EventLook | None:
    if row.look_revision is None:
        return None
    return EventLook(
        event_id=row.id,
        revision=row.look_revision,
        shape=row.look_shape,
        verdict=row.look_verdict,
        cause=row.look_cause,
        probability=row.look_probability,
    )


def write(connection: Connection, looks: Sequence[EventLook]) -> None:
    """Write looks, each in place of what stands for its event."""
    upsert(connection, EventLookTable, [asdict(look) for look in looks], ["event_id"])
