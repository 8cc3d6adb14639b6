"""What the clock says of sources: which deliver, and which stopped altogether.

A source is live once a look found its newest point near the clock; one that never was is an archive, for
which time stands still at its newest point. Of a live source that stopped as a whole there is one record
here, in place of an event for each of its series.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from anomaly_service.db.engine import db_now
from anomaly_service.db.sql import add, upsert
from anomaly_service.db.tables import Clock, Series, Source, SourceEvent
from pipelines.names import SOURCE_STALE, Status
from pipelines.records import Turn
from pipelines.times import STALE_STEPS, live_seconds


@dataclass(frozen=True)
class _Delivery:
    """What a source's series come to; times are epoch seconds.

    Attributes:
        newest: of its newest point.
        step: the shortest of its series.
        live_for: how old the newest point may be in a source that delivers, seconds.
        stale_from: from then on every one of its series has stopped.
    """

    newest: int
    step: int
    live_for: int
    stale_from: int


def note(connection: Connection, at: int, sources: Collection[str]) -> list[Turn]:
    """Note what time it is, and what that says of every source; return those of which it says something new.

    Args:
        at: epoch seconds, of whoever looks.
        sources: those that the config declares; what others left behind is an archive from now on.
    """
    upsert(connection, Clock, [{"id": 1, "at": at, "wall": connection.scalar(select(db_now()))}], ["id"])
    found = {name: each for name, each in _deliveries(connection).items() if name in sources}
    none = {"points_new": 0, "points_changed": 0, "rows_rejected": 0, "last_batch_at": None, "live_at": None}
    add(connection, Source, [{"name": name, **none} for name in found], ["name"])
    # The rows stay locked until the transaction ends: two daemons open no two records.
    known = connection.execute(select(Source.name, Source.live_at).order_by(Source.name).with_for_update())
    turns: list[Turn | None] = []
    for name, live_at in known.all():
        each = found.get(name)
        if each is None:
            _forget(connection, name, at)
            continue
        is_live = at - each.newest < each.live_for
        if is_live:
            connection.execute(update(Source).where(Source.name == name).values(live_at=at))
        if is_live or live_at is not None:
            turns.append(_judge(connection, name, each, at))
    return [turn for turn in turns if turn is not None]


def _forget(connection: Connection, source: str, at: int) -> None:
    """Expect nothing more of a source that left the config."""
    connection.execute(
        update(Source).where(Source.name == source, Source.live_at.is_not(None)).values(live_at=None)
    )
    _close(connection, source, at)


def _deliveries(connection: Connection) -> dict[str, _Delivery]:
    step, delay = Series.step_seconds, Series.delay_seconds
    query = (
        select(
            Series.source,
            func.max(Series.last_ts).label("newest"),
            func.min(step).label("step"),
            func.max(step).label("longest"),
            func.max(delay).label("delay"),
            func.max(Series.last_ts + STALE_STEPS * step + delay).label("stale_from"),
        )
        .where(Series.last_ts.is_not(None))
        .group_by(Series.source)
    )
    return {
        row.source: _Delivery(row.newest, row.step, live_seconds(row.longest, row.delay), row.stale_from)
        for row in connection.execute(query)
    }


def _judge(connection: Connection, source: str, found: _Delivery, at: int) -> Turn | None:
    """Open the record of a source that stopped, close that of one which delivers again; return which."""
    began: int | None = connection.scalar(select(SourceEvent.start_ts).where(*_open(source)))
    stopped = at > found.stale_from
    if stopped and began is None:
        since = found.newest + found.step
        row = {
            "source": source,
            "kind": SOURCE_STALE,
            "start_ts": since,
            "status": Status.OPEN.value,
            "first_detected_at": at,
            "updated_at": db_now(),
        }
        connection.execute(insert(SourceEvent).values(row))
        return Turn(source, since, is_back=False)
    if began is not None and not stopped and found.newest >= began:
        _close(connection, source, max(began, at))
        return Turn(source, began, is_back=True)
    return None


def _close(connection: Connection, source: str, at: int) -> None:
    values = {"status": Status.CLOSED.value, "end_ts": at, "updated_at": db_now()}
    connection.execute(update(SourceEvent).where(*_open(source)).values(values))


def _open(source: str) -> tuple[ColumnElement[bool], ...]:
    return SourceEvent.source == source, SourceEvent.status == Status.OPEN.value
