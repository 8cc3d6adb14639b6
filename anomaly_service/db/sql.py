"""SQL that both databases understand, where SQLAlchemy alone does not write it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Connection, any_, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute

AnyColumn = ColumnElement[Any] | InstrumentedAttribute[Any]


def among(connection: Connection, column: AnyColumn, values: Iterable[Any]) -> ColumnElement[bool]:
    """Return ``column IN values`` with one bound parameter, however many values there are.

    SQLite takes 32,766 parameters at most and SQLAlchemy needs a millisecond for every hundred.
    """
    listed = list(values)
    if connection.dialect.name == "sqlite":
        each = func.json_each(json.dumps(listed)).table_valued("value")
        return column.in_(select(each.c.value))
    return column == any_(literal(listed, ARRAY(column.type)))


def upsert(
    connection: Connection, table: Any, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> None:
    """Insert rows; where one with equal ``keys`` stands, replace its other columns."""
    if not rows:
        return
    statement = _insert(connection, table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))


def add(connection: Connection, table: Any, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Insert the rows whose ``keys`` do not stand yet."""
    if rows:
        statement = _insert(connection, table).on_conflict_do_nothing(index_elements=keys)
        connection.execute(statement, list(rows))


def add_one(connection: Connection, table: Any, row: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Insert a row and return True, or False where its ``keys`` stand already."""
    statement = _insert(connection, table).on_conflict_do_nothing(index_elements=keys)
    return connection.execute(statement.returning(literal(1)), dict(row)).first() is not None


def _insert(connection: Connection, table: Any) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def execute_columns(
    connection: Connection, statements: Mapping[str, str], columns: Mapping[str, list[Any]]
) -> None:
    """Run a statement for rows given as columns, in the fastest way of each database.

    SQLite takes the rows one by one, which costs it nothing; PostgreSQL takes the columns as arrays
    in one statement, as every further one is a message there and back.
    """
    statement = statements[connection.dialect.name]
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(statement, dict(columns))
        return
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    connection.exec_driver_sql(statement, rows)
