"""What events look like and what is suggested of them, beside events and reviews, which it never touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, false, func, not_, or_, select

from anomaly_service.db.events import GONE, event_of
from anomaly_service.db.sql import upsert
from anomaly_service.db.tables import EventPortraitTable, EventTable
from pipelines.names import Verdict
from pipelines.records import Event, EventPortrait, PortraitState

COLUMNS = (
    EventPortraitTable.revision.label("look_revision"),
    EventPortraitTable.shape.label("look_shape"),
    EventPortraitTable.verdict.label("look_verdict"),
    EventPortraitTable.cause.label("look_cause"),
    EventPortraitTable.probability.label("look_probability"),
)
"""Under names of their own: an event has some of the same."""


IS_JUDGED = EventTable.review_verdict.is_not(None) & (EventTable.review_verdict != Verdict.UNSURE.value)
NEWEST_FIRST = (EventTable.start_ts.desc(), EventTable.id)


def newest(
    connection: Connection,
    monitor_id: int,
    limit: int,
    *,
    judged: bool | None = None,
    after: tuple[int, int] | None = None,
) -> list[tuple[Event, EventPortrait | None]]:
    """Return a monitor's events that stand with their portraits: those judged first, then the newest.

    Args:
        judged: only those that people are sure of, or only the others; both where None.
        after: start and id of an event: only those that come after it among the newest.
    """
    query = (
        select(*EventTable.__table__.columns, *COLUMNS)
        .outerjoin(EventPortraitTable, EventPortraitTable.event_id == EventTable.id)
        .where(*_standing(monitor_id, judged))
        .order_by(case((IS_JUDGED, 0), else_=1), *NEWEST_FIRST)
        .limit(limit)
    )
    if after is not None:
        start, id_ = after
        query = query.where(
            (EventTable.start_ts < start) | ((EventTable.start_ts == start) & (EventTable.id > id_))
        )
    return [(event_of(row), _look(row)) for row in connection.execute(query)]


def state(connection: Connection, monitor_id: int, verdicts: int) -> PortraitState:
    """Return whether portraits are up to date, and for how many events something is suggested.

    Args:
        verdicts: of the events that were judged only so many count, the newest.
    """
    counted = (
        select(EventTable.id).where(*_standing(monitor_id, True)).order_by(*NEWEST_FIRST).limit(verdicts)
    )
    changed = (
        select(EventTable.id)
        .outerjoin(EventPortraitTable, EventPortraitTable.event_id == EventTable.id)
        .where(
            *_standing(monitor_id, None),
            func.coalesce(EventPortraitTable.revision, -1) != EventTable.revision,
            or_(not_(func.coalesce(IS_JUDGED, false())), EventTable.id.in_(counted)),
        )
        .limit(1)
    )
    suggested = (
        select(func.count())
        .select_from(EventTable)
        .join(EventPortraitTable, EventPortraitTable.event_id == EventTable.id)
        .where(*_standing(monitor_id, None), EventPortraitTable.verdict != "")
    )
    return PortraitState(
        is_current=connection.scalar(changed) is None, suggested=connection.scalar(suggested) or 0
    )


def _standing(monitor_id: int, judged: bool | None) -> list[ColumnElement[bool]]:
    found = [EventTable.monitor_id == monitor_id, EventTable.status.not_in(GONE)]
    if judged is not None:
        found.append(IS_JUDGED if judged else not_(func.coalesce(IS_JUDGED, false())))
    return found


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
