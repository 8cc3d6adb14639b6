"""Rows of the public views for lists: filtered by bound parameters, equal on both databases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Select,
    Text,
    and_,
    column,
    inspect,
    or_,
    select,
    table,
)

from anomaly_service.db import views
from anomaly_service.errors import InvalidError, NotFoundError
from pipelines.records import Json
from pipelines.times import iso

SPANS = {"start_ts": "end_ts", "scheduled_ts": "scheduled_ts", "ts": "ts", "train_stop_ts": "train_stop_ts"}
"""For views that have a time: the column ``until`` looks at, and the one ``since`` looks at."""

DOUBLES = {"scheduled_ts", "finished_ts", "peak_score"}
"""Of the columns that lists are ordered and cut by, those that are numbers and not whole."""

DOCUMENTS = {"labels", "config", "card", "outcome", "channel_shares"}
"""Columns that hold JSON, which SQLite hands out as text."""

TRUTHS = {"added", "enabled", "is_anomaly", "is_current", "live"}
"""Columns that are true or false, which SQLite hands out as numbers."""

_COLUMNS: dict[tuple[str, str], list[str]] = {}
"""By database and view; asking PostgreSQL for them takes longer than most queries."""


def rows(
    connection: Connection,
    view: str,
    where: Mapping[str, Any],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> list[Json]:
    """Return rows of a view as dictionaries, times as ISO 8601 text in UTC.

    Args:
        where: column to value, None too, or to a list of allowed values.
        since, until: rows whose span touches this half-open one.
        limit: at most so many.

    Raises:
        NotFoundError: no such view.
        InvalidError: no such column, or no time where one is asked for.
    """
    query = selected(connection, view, [where])
    start, end = span_of(view, columns(connection, view)) if since or until else ("", "")
    if since is not None:
        query = query.where(typed(end) >= bound(end, since))
    if until is not None:
        query = query.where(typed(start) < bound(start, until))
    return fetch(connection, query.limit(limit))


def selected(
    connection: Connection, view: str, where: Sequence[Mapping[str, Any]]
) -> Select[tuple[Any, ...]]:
    """Return the query for rows of a view that fit at least one of these mappings, as in ``rows``.

    Raises:
        NotFoundError: no such view.
        InvalidError: no such column.
    """
    if view not in views.names():
        raise NotFoundError(f"no view named {view!r}; there are {', '.join(views.names())}")
    names = columns(connection, view)
    fits = [and_(True, *(_matches(view, names, *item) for item in each.items())) for each in where]
    listed: list[ColumnElement[Any]] = [column(name) for name in names]
    return select(*listed).select_from(table(view)).where(or_(*fits))


def fetch(connection: Connection, query: Select[tuple[Any, ...]]) -> list[Json]:
    """Return what a query of a view finds, as plain values."""
    return [_plain(row._mapping) for row in connection.execute(query)]


def columns(connection: Connection, view: str) -> list[str]:
    """Return the names of a view's columns: those of this release, asked for once."""
    key = connection.dialect.name, view
    if key not in _COLUMNS:
        _COLUMNS[key] = [found["name"] for found in inspect(connection).get_columns(view)]
    return _COLUMNS[key]


def _matches(view: str, names: list[str], name: str, value: Any) -> ColumnElement[bool]:
    if name not in names:
        raise InvalidError(f"view {view} has no column {name!r}; it has {', '.join(names)}")
    found: ColumnElement[Any] = column(name)
    return found.in_(list(value)) if isinstance(value, list | tuple | set) else found == value


def span_of(view: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the columns of a view that say when its rows begin and end, epoch seconds.

    Raises:
        InvalidError: it has none.
    """
    start = next((name for name in SPANS if name in names), None)
    if start is None:
        raise InvalidError(f"view {view} has no time to filter by; leave out since and until")
    return start, SPANS[start]


def typed(name: str) -> ColumnElement[Any]:
    """Return a column that lists are ordered or cut by: parameters of another type may miss its index."""
    if name == "series":
        return column(name, Text())
    return column(name, Double() if name in DOUBLES else BigInteger())


def bound(name: str, at: datetime) -> float:
    """Return a moment to compare a column with by ``>=`` or ``<``, a whole number where the column is."""
    return at.timestamp() if name in DOUBLES else math.ceil(at.timestamp())


def _plain(row: Mapping[Any, Any]) -> Json:
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if name in TRUTHS and value is not None:
        return bool(value)
    if name in DOCUMENTS and isinstance(value, str):
        return json.loads(value)
    return value
