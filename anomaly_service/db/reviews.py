"""What people do to events: every act is a row, and no rescoring loses one.

What counts stands beside the event: it follows from the acts that were not taken back, and from them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, insert, or_, select, update

from anomaly_service.db import monitors
from anomaly_service.db.engine import db_now
from anomaly_service.db.events import GONE, by_id, event_of, insert_new, remember
from anomaly_service.db.tables import EventTable, Review
from anomaly_service.errors import (
    AskedError,
    ChangedEventError,
    NothingToUndoError,
    OverlappingEventError,
    UnknownEventError,
)
from pipelines.names import Act, Kind, Status, Verdict
from pipelines.records import Event, EventChange, Interval, Json
from pipelines.times import minute


@dataclass(frozen=True)
class Said:
    """What goes with an act of a person: what it was, anything else to know, and who says so."""

    cause: str = ""
    comment: str = ""
    by: str = ""


def review(
    connection: Connection,
    event_id: int,
    verdict: Verdict | None,
    said: Said,
    *,
    start: int | None,
    end: int | None,
    expect: int | None,
) -> int:
    """Append a verdict, moved borders or both, and return the id of the review.

    An event that had become outdated is shown again, as below the line.
    """
    if verdict is None and start is None and end is None:
        raise AskedError("a review gives a verdict, moves a border, or does both")
    event = _reviewable(connection, event_id, expect)
    _check_borders(connection, event, start, end)
    act = Act.BORDERS if verdict is None else Act.VERDICT
    return _append(connection, event, act, said, verdict=verdict, start=start, end=end)


def add(
    connection: Connection, target_id: int, interval: Interval, verdict: Verdict, said: Said, detected_at: int
) -> tuple[int, bool]:
    """Store an event that a person drew, with its verdict; return its id, and whether it is new.

    It is below the line until a score reaches it. The same again is the one that stands.
    """
    monitors.lock(connection, [target_id])
    near = _overlapping(connection, target_id, interval.start, interval.end)
    for event in near:
        borders = (event.review_start, event.review_end)
        drawn = event.added and borders == (interval.start, interval.end)
        if drawn and (event.verdict, event.cause) == (verdict, said.cause):
            return event.id, False
    if near:
        first, last = near[0].ends
        raise OverlappingEventError(
            f"event {near[0].id} lies there already, from {minute(first)} to {minute(last)}; judge it with "
            f"`anomaly review {near[0].id} {verdict}`, and move its borders with --from and --to"
        )
    change = EventChange(target_id, None, interval, Status.BELOW_LINE, detected_at)
    (event,) = insert_new(connection, [change], added=True)
    remember(connection, None, [(None, event, "drawn by a person")])
    _append(connection, event, Act.ADD, said, verdict=verdict, start=interval.start, end=interval.end)
    return event.id, True


def undo(connection: Connection, event_id: int, said: Said, *, expect: int | None) -> Json:
    """Take back the newest act that stands, by a new row; return the row of the act that was taken back.

    An event that nothing stands of any more and no score reaches becomes outdated, as if nobody had come.
    """
    event = _reviewable(connection, event_id, expect)
    acts = _standing(connection, event.id)
    if not acts:
        raise NothingToUndoError(
            f"nothing is left to take back of event {event_id}: no verdict, border or addition of it stands"
        )
    _append(connection, event, Act.UNDO, said, undoes=acts[-1]["id"])
    return acts[-1]


def rows(connection: Connection, event_id: int) -> list[Json]:
    """Return every act on an event, the oldest first; ``undone`` where a later one took it back."""
    query = select(Review.__table__).where(Review.event_id == event_id).order_by(Review.id)
    found = [dict(row._mapping) for row in connection.execute(query)]
    undone = {row["undoes"] for row in found}
    return [{**row, "undone": row["id"] in undone} for row in found]


def _standing(connection: Connection, event_id: int) -> list[Json]:
    """Return the acts on an event that were not taken back, the oldest first."""
    return [row for row in rows(connection, event_id) if row["act"] != Act.UNDO and not row["undone"]]


def _append(
    connection: Connection,
    event: Event,
    act: Act,
    said: Said,
    *,
    verdict: Verdict | None = None,
    start: int | None = None,
    end: int | None = None,
    undoes: int | None = None,
) -> int:
    """Append an act, put beside the event what counts by now, and return the id of the act."""
    values = {
        "event_id": event.id,
        "act": act.value,
        "undoes": undoes,
        "verdict": "" if verdict is None else Verdict(verdict).value,
        "cause": said.cause,
        "comment": said.comment,
        "by": said.by,
        "start_ts": start,
        "end_ts": end,
    }
    statement = insert(Review).values(**values, at=db_now()).returning(Review.id)
    review_id = int(connection.execute(statement).scalar_one())
    what = f"takes back review {undoes}" if undoes is not None else values["verdict"] or act.value
    _settle(connection, event, f"review {review_id}: {what}")
    return review_id


def _settle(connection: Connection, event: Event, why: str) -> None:
    """Put beside an event what follows from the acts that stand."""
    acts = _standing(connection, event.id)
    after = replace(event, status=_status(event, acts), revision=event.revision + 1)
    connection.execute(
        update(EventTable)
        .where(EventTable.id == event.id)
        .values(**_counting(acts), status=after.status.value, revision=after.revision, updated_at=db_now())
    )
    remember(connection, None, [(event, after, why)])


def _status(event: Event, acts: Sequence[Json]) -> Status:
    """Return the status of an event: what no score reaches is kept as long as something of people stands."""
    if event.status in (Status.OUTDATED, Status.BELOW_LINE):
        return Status.BELOW_LINE if acts else Status.OUTDATED
    return event.status


def _counting(acts: Sequence[Json]) -> Json:
    """Return the columns of an event that tell what people said: of each, by the newest act that has it."""
    judged = next((act for act in reversed(acts) if act["verdict"]), None)
    return {
        "review_id": acts[-1]["id"] if acts else None,
        "review_verdict": judged and judged["verdict"],
        "review_cause": judged and judged["cause"],
        "reviewed_at": judged and judged["at"],
        "review_start": _newest(acts, "start_ts"),
        "review_end": _newest(acts, "end_ts"),
        "added": any(act["act"] == Act.ADD for act in acts),
    }


def _newest(acts: Sequence[Json], name: str) -> Any:
    return next((act[name] for act in reversed(acts) if act[name] is not None), None)


def _reviewable(connection: Connection, event_id: int, expect: int | None) -> Event:
    """Return an event, locked until the transaction ends.

    Raises:
        UnknownEventError: there is none, or it was merged into another.
        ChangedEventError: its revision is not the one that is expected.
    """
    event = by_id(connection, [event_id]).get(int(event_id))
    if event is None:
        raise UnknownEventError(f"no event has the id {event_id}; `anomaly intervals` lists those there are")
    if event.status is Status.MERGED:
        raise UnknownEventError(
            f"event {event_id} was merged into event {event.merged_into}; review {event.merged_into} instead"
        )
    if expect is not None and event.revision != expect:
        raise ChangedEventError(
            f"event {event_id} has revision {event.revision} by now, and {expect} was looked at; look again"
        )
    return event


def _check_borders(connection: Connection, event: Event, start: int | None, end: int | None) -> None:
    """Refuse borders that are the wrong way round, or that move an anomaly over another one.

    Raises:
        AskedError, OverlappingEventError: as it says.
    """
    before = event.ends
    first, last = before[0] if start is None else start, before[1] if end is None else end
    if last < first:
        raise AskedError(
            f"expected an interval that ends at or after its start, got {minute(first)} to {minute(last)} "
            f"for event {event.id}; give both borders"
        )
    if (first, last) == before or event.interval.kind is not Kind.ANOMALY:
        return
    met = {each.id for each in _overlapping(connection, event.target_id, *before)}
    for other in _overlapping(connection, event.target_id, first, last):
        if other.id != event.id and other.id not in met:
            raise OverlappingEventError(
                f"event {other.id} lies there already, from {minute(other.ends[0])} to "
                f"{minute(other.ends[1])}; judge it too, or leave it out of the borders"
            )


def _overlapping(connection: Connection, target_id: int, start: int, end: int) -> list[Event]:
    """Return the anomalies of a target that stand and touch a span, by either of their borders."""
    first = func.coalesce(EventTable.review_start, EventTable.start_ts)
    last = func.coalesce(EventTable.review_end, EventTable.end_ts)
    query = (
        select(EventTable.__table__)
        .where(
            EventTable.target_id == target_id,
            EventTable.kind == Kind.ANOMALY.value,
            EventTable.status.not_in(GONE),
            or_(
                (first <= end) & (last >= start),
                (EventTable.start_ts <= end) & (EventTable.end_ts >= start),
            ),
        )
        .order_by(EventTable.start_ts, EventTable.id)
    )
    return [event_of(row) for row in connection.execute(query)]
