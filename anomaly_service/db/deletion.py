"""Deletes points of one series by hand, with all that follows from them: nothing poisoned is left.

A point from a wrong time reaches far: the series' newest time, how far its targets are scored, intervals
that last until then, and models that were due on the way there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update

from anomaly_service.db import events, held, monitors, versions
from anomaly_service.db.sql import among
from anomaly_service.db.tables import EventTable, ModelVersion, Point, Score, Series, Target, TargetSeries
from pipelines.names import Status
from pipelines.records import Event, EventChange
from pipelines.store import Deleted

WHY = "its points were deleted by hand"


@dataclass(frozen=True)
class _Cut:
    """What was deleted, as one target sees it; epoch seconds.

    Attributes:
        start, stop: the half-open span.
        end: just behind the newest point that any of its series has now.
        is_shorter: the target ended later before.
    """

    target_id: int
    start: int
    stop: int
    end: int
    is_shorter: bool

    def holds(self, first: ColumnElement[int], last: ColumnElement[int]) -> ColumnElement[bool]:
        """Return what holds for a stretch that is gone as a whole."""
        within = and_(first >= self.start, last < self.stop)
        return or_(within, first >= self.end) if self.is_shorter else within


def delete_points(connection: Connection, series_id: int, start: int, stop: int) -> Deleted:
    """Delete points of a series in the half-open span, and heal what follows from them."""
    targets = list(
        connection.scalars(select(TargetSeries.target_id).where(TargetSeries.series_id == series_id))
    )
    monitors.lock(connection, targets)
    before = _ends(connection, targets)
    count, n_held, last_ts = _delete(connection, series_id, start, stop)
    after = _ends(connection, targets)
    cuts = [
        _Cut(id_, start, stop, after.get(id_, start - 1) + 1, after.get(id_, start - 1) < before.get(id_, 0))
        for id_ in targets
    ]
    if count:
        return Deleted(
            points=count,
            held=n_held,
            scores=sum(_forget_scores(connection, cut) for cut in cuts),
            events=sum(_retire_events(connection, cut) for cut in cuts),
            versions=sum(_forget_versions(connection, cut) for cut in cuts),
            last_ts=last_ts,
        )
    return Deleted(0, n_held, 0, 0, 0, last_ts)


def _ends(connection: Connection, targets: list[int]) -> dict[int, int]:
    """Return the newest time of any series of each target."""
    query = (
        select(TargetSeries.target_id, func.max(Series.last_ts))
        .join(Series, Series.id == TargetSeries.series_id)
        .where(among(connection, TargetSeries.target_id, targets), Series.last_ts.is_not(None))
        .group_by(TargetSeries.target_id)
    )
    return {row[0]: int(row[1] or 0) for row in connection.execute(query)}


def _delete(connection: Connection, series_id: int, start: int, stop: int) -> tuple[int, int, int | None]:
    """Delete the points, those held back too, and heal the series' bounds.

    Returns:
        How many were stored, how many held back, and the newest time of those that are left.
    """
    connection.execute(select(Series.id).where(Series.id == series_id).with_for_update()).all()
    span = Point.series_id == series_id, Point.ts >= start, Point.ts < stop
    count = connection.execute(delete(Point).where(*span)).rowcount
    n_held = held.drop(connection, series_id, start, stop)
    first, last = connection.execute(
        select(func.min(Point.ts), func.max(Point.ts)).where(Point.series_id == series_id)
    ).one()
    if count:
        bounds = update(Series).where(Series.id == series_id)
        connection.execute(bounds.values(first_ts=first, last_ts=last))
        # When it began was wrong too; where retention has deleted what came before, it was not.
        connection.execute(
            bounds.where(Series.begun_ts >= start, Series.begun_ts < stop).values(begun_ts=first)
        )
    return count, n_held, connection.scalar(select(Series.last_ts).where(Series.id == series_id))


def _forget_scores(connection: Connection, cut: _Cut) -> int:
    """Delete the scores of what is gone, and let what lies around it be judged again."""
    gone = cut.holds(Score.ts.expression, Score.ts.expression)
    count = connection.execute(delete(Score).where(Score.target_id == cut.target_id, gone)).rowcount
    # The next night looks at everything from there on; the next tick at what lies behind the new end.
    again = {"settled_until": cut.start} | ({"scored_until": cut.end} if cut.is_shorter else {})
    for name, ts in again.items():
        column = getattr(Target, name)
        connection.execute(update(Target).where(Target.id == cut.target_id, column > ts).values({name: ts}))
    return count


def _retire_events(connection: Connection, cut: _Cut) -> int:
    """Let intervals go whose points are gone; what people said of one keeps it, below the line.

    One that reaches beyond the new end is cut there: no pass looks so far ahead any more.
    """
    first, last = EventTable.start_ts.expression, EventTable.end_ts.expression
    gone = _standing(connection, cut, cut.holds(first, last))
    longer = _standing(connection, cut, and_(first < cut.end, last >= cut.end)) if cut.is_shorter else []
    changes = [_retired(event) for event in gone] + [_shortened(event, cut) for event in longer]
    events.apply(connection, changes, {}, None)
    return len(gone)


def _standing(connection: Connection, cut: _Cut, where: ColumnElement[bool]) -> list[Event]:
    status = EventTable.status.not_in([*events.GONE, Status.BELOW_LINE.value])
    query = select(EventTable.id).where(EventTable.target_id == cut.target_id, status, where)
    return list(events.by_id(connection, list(connection.scalars(query))).values())


def _shortened(event: Event, cut: _Cut) -> EventChange:
    end = cut.end - 1
    interval = replace(event.interval, end=end, peak_at=min(event.interval.peak_at, end))
    return EventChange(
        event.target_id, event.id, interval, event.status, event.first_detected_at, why="cut: " + WHY
    )


def _retired(event: Event) -> EventChange:
    kept = event.reviewed or event.added
    return EventChange(
        target_id=event.target_id,
        event_id=event.id,
        interval=replace(event.interval, open=False),
        status=Status.BELOW_LINE if kept else Status.OUTDATED,
        first_detected_at=event.first_detected_at,
        why=WHY,
    )


def _forget_versions(connection: Connection, cut: _Cut) -> int:
    """Delete models that were due beyond the new end: they would keep the next ones from being due."""
    if not cut.is_shorter:
        return 0
    beyond = or_(ModelVersion.train_stop > max(cut.start, cut.end), ModelVersion.train_start >= cut.end)
    query = select(ModelVersion.id).where(ModelVersion.target_id == cut.target_id, beyond)
    ids = list(connection.scalars(query))
    versions.remove(connection, ids)
    return len(ids)
