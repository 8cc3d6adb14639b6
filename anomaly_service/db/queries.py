"""Rows of the public views for lists: filtered by bound parameters, equal on both databases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, column, inspect, select, table

from anomaly_service.db import views
from anomaly_service.errors import InvalidError, NotFoundError
from pipelines.records import Json
from pipelines.times import iso

SPANS = {"start_at": "end_at", "scheduled_for": "scheduled_for", "at": "at", "train_stop_at": "train_stop_at"}
"""For views that have a time: the column ``until`` looks at, and the one ``since`` looks at."""

DOCUMENTS = {"labels", "config", "card", "outcome", "channel_shares"}
"""Columns that hold JSON, which SQLite hands out as text."""

TRUTHS = {"enabled", "is_anomaly", "is_current"}
"""Columns that are true or false, which SQLite hands out as numbers."""


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
        where: column to value, or to a list of allowed values.
        since, until: rows whose span touches this half-open one.
        limit: at most so many.

    Raises:
        NotFoundError: no such view.
        InvalidError: no such column, or no time where one is asked for.
    """
    if view not in views.names():
        raise NotFoundError(f"no view named {view!r}; there are {', '.join(views.names())}")
    names = [found["name"] for found in inspect(connection).get_columns(view)]
    conditions = [_matches(view, names, name, value) for name, value in where.items()]
    conditions += _within(connection, view, names, since, until)
    columns: list[ColumnElement[Any]] = [column(name) for name in names]
    query = select(*columns).select_from(table(view)).where(*conditions)
    return [_plain(row._mapping) for row in connection.execute(query.limit(limit))]


def _matches(view: str, names: list[str], name: str, value: Any) -> ColumnElement[bool]:
    if name not in names:
        raise InvalidError(f"view {view} has no column {name!r}; it has {', '.join(names)}")
    found: ColumnElement[Any] = column(name)
    return found.in_(list(value)) if isinstance(value, list | tuple | set) else found == value


def _within(
    connection: Connection, view: str, names: list[str], since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    if since is None and until is None:
        return []
    start = next((name for name in SPANS if name in names), None)
    if start is None:
        raise InvalidError(f"view {view} has no time to filter by; leave out since and until")
    conditions: list[ColumnElement[bool]] = []
    if since is not None:
        conditions.append(column(SPANS[start]) >= _moment(connection, since))
    if until is not None:
        conditions.append(column(start) < _moment(connection, until))
    return conditions


def _moment(connection: Connection, at: datetime) -> Any:
    """Return the value to compare with: views show text on SQLite, timestamps on PostgreSQL."""
    return iso(at) if connection.dialect.name == "sqlite" else at


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
