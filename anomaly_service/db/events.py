"""Events: every change is a revision, and one that only goes on is told with the next change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, select, update

from anomaly_service.db.engine import db_now
from anomaly_service.db.sql import among
from anomaly_service.db.tables import EventRevision, EventTable, Target
from anomaly_service.errors import ReviewedEventError
from pipelines.errors import StaleEventsError, UnstorableError
from pipelines.names import Kind, Status
from pipelines.records import Event, EventChange, Interval, Json

ROUNDING = 1e-5
"""Relative difference of two scores of the same data in float32: less is no change of an event."""

TABLE = EventTable.__table__
GONE = (Status.MERGED.value, Status.OUTDATED.value)


@dataclass(frozen=True)
class Changed:
    """An event that was written, as it was before (None where it is new) and as it is."""

    before: Event | None
    after: Event
    why: str

    @property
    def goes_on(self) -> bool:
        """True where it is open, reaches further, and nothing else is decided about it."""
        return self.before is not None and _goes_on(self.before, self.after)


def overlapping(
    connection: Connection, target_ids: Sequence[int], start: int, stop: int, *, as_reviewed: bool = False
) -> list[Event]:
    """Return the events of these targets that touch the half-open span, the merged ones left out.

    Args:
        as_reviewed: by the borders that reviewers moved, not by those that the detector found.
    """
    first: ColumnElement[int] = EventTable.start_ts.expression
    last: ColumnElement[int] = EventTable.end_ts.expression
    if as_reviewed:
        first = func.coalesce(EventTable.review_start, first)
        last = func.coalesce(EventTable.review_end, last)
    query = (
        select(TABLE)
        .where(
            among(connection, EventTable.target_id, sorted({int(one) for one in target_ids})),
            first < int(stop),
            last >= int(start),
            EventTable.status != Status.MERGED.value,
        )
        .order_by(EventTable.target_id, EventTable.start_ts, EventTable.id)
    )
    return [event_of(row) for row in connection.execute(query)]


def by_id(connection: Connection, ids: Sequence[int]) -> dict[int, Event]:
    """Return events by id, locked until the transaction ends; unknown ids are left out."""
    query = select(TABLE).where(among(connection, EventTable.id, sorted({int(one) for one in ids})))
    return {
        row.id: event_of(row) for row in connection.execute(query.order_by(EventTable.id).with_for_update())
    }


def apply(
    connection: Connection, changes: Sequence[EventChange], expect: dict[int, int], run_id: int | None
) -> list[Changed]:
    """Write changes with their revisions; return the events that are new or differ, in their order.

    An event that only goes on has another revision too, but no row of it.

    Raises:
        StaleEventsError: an expected event has another revision, or a new one would lie over an
            event that the changes do not know of.
        ReviewedEventError: a reviewed or added event would become outdated.
    """
    named = {int(change.event_id) for change in changes if change.event_id is not None}
    before = by_id(connection, sorted(named | set(expect)))
    _check_revisions(before, expect, named)
    _check_unseen(connection, changes, named | set(expect))
    moved = [(change, before[int(change.event_id)]) for change in changes if change.event_id is not None]
    after = [_updated(event, change) for change, event in moved]
    differing = [
        Changed(event, new, change.why)
        for (change, event), new in zip(moved, after, strict=True)
        if not _same(event, new)
    ]
    _check_reviews([each.after for each in differing])
    fresh = [change for change in changes if change.event_id is None]
    added = [
        Changed(None, event, change.why)
        for event, change in zip(insert_new(connection, fresh), fresh, strict=True)
    ]
    _update(connection, [each.after for each in differing])
    told = [each for each in (*added, *differing) if not each.goes_on]
    remember(connection, run_id, [(each.before, each.after, each.why) for each in told])
    return _in_order(changes, added, {each.after.id: each for each in differing})


def close(connection: Connection, which: ColumnElement[bool], why: str) -> None:
    """Close the open events for which a condition holds, each with a revision that says why."""
    query = select(TABLE).where(EventTable.status == Status.OPEN.value, which).order_by(EventTable.id)
    before = [event_of(row) for row in connection.execute(query.with_for_update())]
    after = [
        replace(
            event,
            interval=replace(event.interval, open=False),
            status=Status.CLOSED,
            revision=event.revision + 1,
        )
        for event in before
    ]
    _update(connection, after)
    remember(connection, None, [(old, new, why) for old, new in zip(before, after, strict=True)])


def _in_order(
    changes: Sequence[EventChange], added: list[Changed], updated: dict[int, Changed]
) -> list[Changed]:
    new = iter(added)
    found = [
        next(new) if change.event_id is None else updated.get(int(change.event_id)) for change in changes
    ]
    return [each for each in found if each is not None]


def _check_revisions(stored: dict[int, Event], expect: dict[int, int], named: set[int]) -> None:
    for id_ in sorted(named | set(expect)):
        if id_ not in stored:
            raise StaleEventsError(f"event {id_} does not exist; reconcile again from the stored events")
        if id_ in expect and stored[id_].revision != expect[id_]:
            raise StaleEventsError(
                f"event {id_} has revision {stored[id_].revision}, the changes were computed from "
                f"{expect[id_]}; reconcile again from the stored events"
            )


def _check_unseen(connection: Connection, changes: Sequence[EventChange], seen: set[int]) -> None:
    """Refuse to put a new event over one that reconciling cannot have seen."""
    new = [change for change in changes if change.event_id is None and change.status.value not in GONE]
    if not new:
        return
    query = select(TABLE).where(
        among(connection, EventTable.target_id, sorted({int(change.target_id) for change in new})),
        EventTable.start_ts <= max(int(change.interval.end) for change in new),
        EventTable.end_ts >= min(int(change.interval.start) for change in new),
        EventTable.status.not_in(GONE),
    )
    unseen = [row for row in connection.execute(query) if row.id not in seen]
    for change in new:
        for row in unseen:
            if _covers(row, change):
                raise StaleEventsError(
                    f"a new {change.interval.kind} event of target {change.target_id} lies over event "
                    f"{row.id}, which was not read before; reconcile again from the stored events"
                )


def _covers(row: Any, change: EventChange) -> bool:
    return (
        row.target_id == change.target_id
        and row.kind == change.interval.kind.value
        and row.start_ts <= change.interval.end
        and row.end_ts >= change.interval.start
    )


def _check_reviews(events: Sequence[Event]) -> None:
    for event in events:
        if event.status is Status.OUTDATED and (event.reviewed or event.added):
            raise ReviewedEventError(
                f"event {event.id} was reviewed or added by a person and cannot become outdated; "
                "mark it below_line instead"
            )


def _updated(event: Event, change: EventChange) -> Event:
    return replace(
        event,
        target_id=int(change.target_id),
        interval=change.interval,
        status=change.status,
        first_detected_at=int(change.first_detected_at),
        revision=event.revision + 1,
        merged_into=None if change.merged_into is None else int(change.merged_into),
    )


def _same(event: Event, new: Event) -> bool:
    """True where both say the same, up to the rounding of scores."""
    left, right = _values(event), _values(new)
    return all(_close(left[name], right[name]) for name in left)


def _goes_on(event: Event, new: Event) -> bool:
    """True where an open event reaches further and nothing else is decided about it.

    Its end, length and height move with every tick, for days: a row of each would outgrow the points.
    """
    told = ("kind", "start_ts", "direction", "channel", "version_id", "first_detected_at", "merged_into")
    left, right = _values(event), _values(new)
    return (
        event.status is Status.OPEN
        and new.status is Status.OPEN
        and new.interval.end > event.interval.end
        and all(left[name] == right[name] for name in told)
    )


def _close(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=ROUNDING, abs_tol=1e-12)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_close(left[name], right[name]) for name in left)
    return bool(left == right)


def _values(event: Event) -> dict[str, Any]:
    """Return what is stored of an event, but its identity and review."""
    found = event.interval
    return {
        "target_id": int(event.target_id),
        "kind": found.kind.value,
        "start_ts": int(found.start),
        "end_ts": int(found.end),
        "n_points": int(found.n_points),
        "peak_ts": int(found.peak_at),
        "peak_score": _finite(found.peak_score, "peak_score"),
        "mean_score": _finite(found.mean_score, "mean_score"),
        "direction": found.direction,
        "y_at_peak": _or_none(found.y_at_peak),
        "yhat_at_peak": _or_none(found.yhat_at_peak),
        "impact": _or_none(found.impact),
        "channel": found.channel,
        "channel_shares": found.shares,
        "reaches_now": bool(found.open),
        "version_id": None if found.version_id is None else int(found.version_id),
        "status": event.status.value,
        "first_detected_at": int(event.first_detected_at),
        "merged_into": event.merged_into,
    }


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise UnstorableError(
            f"expected a finite {name} of an event, got {value}; an interval has at least one score"
        )
    return float(value)


def _or_none(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def event_of(row: Any) -> Event:
    """Return the event of a row with the columns of its table."""
    interval = Interval(
        kind=Kind(row.kind),
        start=row.start_ts,
        end=row.end_ts,
        n_points=row.n_points,
        peak_at=row.peak_ts,
        peak_score=row.peak_score,
        mean_score=row.mean_score,
        direction=row.direction,
        y_at_peak=row.y_at_peak,
        yhat_at_peak=row.yhat_at_peak,
        impact=row.impact,
        open=row.reaches_now,
        version_id=row.version_id,
        shares=row.channel_shares,
    )
    return Event(
        id=row.id,
        target_id=row.target_id,
        interval=interval,
        status=Status(row.status),
        first_detected_at=row.first_detected_at,
        revision=row.revision,
        merged_into=row.merged_into,
        reviewed=row.review_id is not None,
        added=row.added,
        verdict=row.review_verdict or "",
        cause=row.review_cause or "",
        review_start=row.review_start,
        review_end=row.review_end,
    )


def insert_new(connection: Connection, changes: Sequence[EventChange], *, added: bool = False) -> list[Event]:
    """Insert new events and return them with their ids, in the order given."""
    if not changes:
        return []
    events = [
        Event(
            id=0,
            target_id=int(change.target_id),
            interval=change.interval,
            status=change.status,
            first_detected_at=int(change.first_detected_at),
            merged_into=None if change.merged_into is None else int(change.merged_into),
            added=added,
        )
        for change in changes
    ]
    statement = (
        insert(TABLE)  # type: ignore[arg-type]  # a Table, typed as FromClause
        .values(updated_at=db_now())
        .returning(EventTable.id, sort_by_parameter_order=True)
    )
    monitor_of = _monitors(connection, {event.target_id for event in events})
    rows = [
        {**_values(event), "monitor_id": monitor_of[event.target_id], "added": added, "revision": 1}
        for event in events
    ]
    ids = connection.scalars(statement, rows).all()
    return [replace(event, id=id_) for event, id_ in zip(events, ids, strict=True)]


def _monitors(connection: Connection, target_ids: set[int]) -> dict[int, int]:
    """Return the monitors of targets, by target id."""
    query = select(Target.id, Target.monitor_id).where(among(connection, Target.id, sorted(target_ids)))
    return {row.id: row.monitor_id for row in connection.execute(query)}


def _update(connection: Connection, events: Sequence[Event]) -> None:
    if not events:
        return
    rows = [{"row_id": event.id, **_values(event), "revision": event.revision} for event in events]
    settable: dict[str, Any] = {name: bindparam(name) for name in rows[0] if name != "row_id"}
    statement = update(TABLE).where(EventTable.id == bindparam("row_id"))  # type: ignore[arg-type]
    connection.execute(statement.values(**settable, updated_at=db_now()), rows)


def remember(
    connection: Connection, run_id: int | None, changes: Sequence[tuple[Event | None, Event, str]]
) -> None:
    """Write what events were before and are after, with the reason."""
    if not changes:
        return
    rows = [
        {
            "event_id": after.id,
            "revision": after.revision,
            "run_id": run_id,
            "why": why,
            "before": None if before is None else _values(before),
            "after": _values(after),
        }
        for before, after, why in changes
    ]
    connection.execute(insert(EventRevision.__table__).values(at=db_now()), rows)  # type: ignore[arg-type]


def revisions(connection: Connection, event_id: int) -> list[Json]:
    """Return every revision of an event, the oldest first."""
    query = select(EventRevision.__table__).where(EventRevision.event_id == event_id)
    return [dict(row._mapping) for row in connection.execute(query.order_by(EventRevision.revision))]
