"""What events look like and what is suggested of them, beside events and reviews, which it never touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, case, select

from anomaly_service.db.events import GONE, event_of
from anomaly_service.db.sql import upsert
from anomaly_service.db.tables import EventPortraitTable, EventTable, Target
from pipelines.names import Verdict
from pipelines.records import Event, EventPortrait

COLUMNS = (
    EventPortraitTable.revision.label("look_revision"),
    EventPortraitTable.shape.label("look_shape"),
    EventPortraitTable.verdict.label("look_verdict"),
    EventPortraitTable.cause.label("look_cause"),
    EventPortraitTable.probability.label("look_probability"),
)
"""Under names of their own: an event has some of the same."""


def newest(connection: Connection, monitor_id: int, limit: int) -> list[tuple[Event, EventPortrait | None]]:
    """Return a monitor's events that stand with their portraits: those judged first, then the newest."""
    is_judged = EventTable.review_verdict.is_not(None) & (EventTable.review_verdict != Verdict.UNSURE.value)
    query = (
        select(*EventTable.__table__.columns, *COLUMNS)
        .join(Target, Target.id == EventTable.target_id)
        .outerjoin(EventPortraitTable, EventPortraitTable.event_id == EventTable.id)
        .where(Target.monitor_id == monitor_id, EventTable.status.not_in(GONE))
        .order_by(case((is_judged, 0), else_=1), EventTable.start_ts.desc(), EventTable.id)
        .limit(limit)
    )
    return [(event_of(row), _look(row)) for row in connection.execute(query)]


def _look(row: Any) -> EventPortrait | None:
    if row.look_revision is None:
        return None
    return EventPortrait(
        event_id=row.id,
        revision=row.look_revision,
        shape=row.look_shape,
        verdict=row.look_verdict,
        cause=row.look_cause,
        probability=row.look_probability,
    )


def write(connection: Connection, portraits: Sequence[EventPortrait]) -> None:
    """Write portraits, each in place of what stands for its event."""
    upsert(connection, EventPortraitTable, [asdict(each) for each in portraits], ["event_id"])
