"""Lists page by page: a page begins behind the last row of the one before, whatever came in meanwhile."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Select, and_, column, or_

from anomaly_service.db.queries import bound, columns, fetch, selected, span_of, typed
from anomaly_service.db.sql import among
from anomaly_service.errors import AskedError
from pipelines.records import Json

Query = Select[tuple[Any, ...]]


@dataclass(frozen=True)
class Order:
    """An order of a view's rows that an index has: by a column, and where that is equal by a number."""

    key: str
    id: str
    ascending: bool = False
    nullable: bool = False


_EVENTS = {"newest": Order("start_ts", "event_id"), "worst": Order("peak_score", "event_id")}
ORDERS: Mapping[str, Mapping[str, Order]] = {
    "flagged_intervals": _EVENTS,
    "review_queue": _EVENTS,
    "run_log": {
        "newest": Order("scheduled_ts", "run_id"),
        "ended": Order("finished_ts", "run_id", nullable=True),
    },
    "model_cards": {"newest": Order("train_stop_ts", "model_version_id")},
    "series_health": {"name": Order("series", "series_id", ascending=True)},
}
"""By view and name."""

LARGEST = 2**63 - 1
"""What a database counts up to."""

FEW = 20
"""Targets whose events SQLite gathers and sorts, rather than looking for them in the order of a list."""


@dataclass(frozen=True)
class Asked:
    """What a page is to hold.

    Attributes:
        where: column to value, or to a list of allowed values; a row fits where one of the mappings fits.
        targets: ids of targets; None for all.
        at_least: column to the least number.
        since, until: rows whose span touches this half-open one.
        order: one of the view's ``ORDERS``.
        after: the cursor of the row that came last; None begins.
        limit: at most so many rows; None for all.
    """

    view: str
    order: str
    where: Sequence[Mapping[str, Any]] = ({},)
    targets: Sequence[int] | None = None
    at_least: Mapping[str, float] | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Page:
    """Rows of a list, in order.

    Attributes:
        cursors: of each row: what a page that begins behind it is asked for with.
        more: whether rows follow.
    """

    rows: list[Json]
    cursors: list[str]
    more: bool

    @property
    def after(self) -> str | None:
        """The cursor of the next page; None where this is the last."""
        return self.cursors[-1] if self.more else None


NOTHING = Page([], [], False)


def page(connection: Connection, asked: Asked) -> Page:
    """Return a page of a list.

    Raises:
        AskedError: the cursor is none of this list in this order.
        ValueError: no such view, column or order.
    """
    order = ORDERS[asked.view][asked.order]
    enough = None if asked.limit is None else asked.limit + 1
    rows: list[Json] = []
    for query in _queries(connection, asked, order):
        left = None if enough is None else enough - len(rows)
        if left != 0:
            rows += fetch(connection, query.limit(left))
    more = asked.limit is not None and len(rows) > asked.limit
    rows = rows[: asked.limit]
    return Page(rows, [_cursor(asked, order, row) for row in rows], more)


def _queries(connection: Connection, asked: Asked, order: Order) -> Iterator[Query]:
    """Yield the queries whose rows make the list, one behind the other.

    What reaches into a span by its end is of two kinds: what begins in it, and the little that began before.
    Each has an index that finds it; none has one for both.
    """
    query, key = _filtered(connection, asked, order), typed(order.key)
    if asked.since is None:
        yield _in_order(query, asked, order, key)
        return
    start, end = span_of(asked.view, columns(connection, asked.view))
    since = bound(end, asked.since)
    ends_in_it = typed(end) >= since
    if start == end or order.key != start:
        yield _in_order(query.where(ends_in_it), asked, order, key)
        return
    yield _in_order(query.where(key >= since), asked, order, key)
    # "+ 0" keeps a database from walking through all that began before, in the order of its index.
    yield _in_order(query.where(ends_in_it, key + 0 < since), asked, order, key + 0)


def _filtered(connection: Connection, asked: Asked, order: Order) -> Query:
    query = selected(connection, asked.view, asked.where)
    query = query.where(*(typed(name) >= least for name, least in (asked.at_least or {}).items()))
    if asked.targets is not None:
        query = query.where(_of_targets(connection, asked.targets))
    if order.nullable:
        query = query.where(typed(order.key).is_not(None))
    if asked.until is not None:
        start, _ = span_of(asked.view, columns(connection, asked.view))
        query = query.where(typed(start) < bound(start, asked.until))
    return query


def _in_order(query: Query, asked: Asked, order: Order, key: ColumnElement[Any]) -> Query:
    """Return the query in its order, from behind the row that came last."""
    id_ = typed(order.id)
    if asked.after is not None:
        query = query.where(_behind(order, key, id_, *_place(asked, order)))
    return query.order_by(*(part.asc() if order.ascending else part.desc() for part in (key, id_)))


def _behind(
    order: Order, key: ColumnElement[Any], id_: ColumnElement[Any], last_key: float | str, last_id: int
) -> ColumnElement[bool]:
    """Return what holds for the rows behind one; its first half alone is what an index can begin from."""
    if order.ascending:
        return and_(key >= last_key, or_(key > last_key, id_ > last_id))
    return and_(key <= last_key, or_(key < last_key, id_ < last_id))


def _of_targets(connection: Connection, ids: Sequence[int]) -> ColumnElement[bool]:
    found: ColumnElement[Any] = column("target_id", Integer())
    if len(ids) == 1:
        return found == ids[0]
    # A few are found by their index and sorted; of many, SQLite meets one soon in the order of the list.
    walked = connection.dialect.name == "sqlite" and len(ids) > FEW
    return among(connection, found + 0 if walked else found, ids)


# -- cursors ------------------------------------------------------------------------


def _cursor(asked: Asked, order: Order, row: Json) -> str:
    """Return the place of a row as text that means nothing to anybody else."""
    place = json.dumps([asked.view, asked.order, row[order.key], row[order.id]], separators=(",", ":"))
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _is_place(order: Order, key: Any, id_: Any) -> bool:
    """True for what a row can have: no number beyond those of a database, and no text that it refuses."""
    if not isinstance(id_, int) or not -LARGEST <= id_ <= LARGEST:
        return False
    if order.key == "series":
        return isinstance(key, str) and "\0" not in key and key == key.encode("utf-8", "ignore").decode()
    return isinstance(key, int | float) and -LARGEST <= key <= LARGEST


def _place(asked: Asked, order: Order) -> tuple[float | str, int]:
    """Return the key and number of the row that a page begins behind.

    Raises:
        AskedError: the cursor is none of this list in this order.
    """
    text = asked.after or ""
    with suppress(ValueError, TypeError):
        view, name, key, id_ = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if (view, name) == (asked.view, asked.order) and _is_place(order, key, id_):
            return key, id_
    raise AskedError(f"--after takes the cursor of a row of the same list in the same order, got {text!r}")
