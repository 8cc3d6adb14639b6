"""What the tables weigh: rows, bytes, the oldest row, and how many came in the last days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import OperationalError

from anomaly_service.db.engine import db_now
from anomaly_service.db.retention import OWNERS
from anomaly_service.db.tables import Base
from pipelines.times import DAY

LOOK_BACK_DAYS = 7
"""Growth is that of the last week."""

SAMPLED = 200
"""Series (targets) that stand for all where their points (scores) are too many to be counted."""

EXACT_BYTES = 256 << 20
"""Tables of up to 256 MiB are counted; of larger ones the database's own estimate is told."""

WRITTEN = {
    "run": "finished_at",
    "event": "updated_at",
    "event_revision": "at",
    "review": "at",
    "model_version": "created_at",
    "calibration": "created_at",
    "line": "created_at",
}
"""When a row was written, by the database's clock."""

BYTES_PER_ROW = {"points": 24, "scores": 54}
"""Of SQLite, as docs/sizing.md measures them: to read every page of a large file takes minutes."""


@dataclass(frozen=True)
class TableSize:
    """What one table weighs, its indexes and partitions with it.

    Attributes:
        estimated: true where rows and bytes are what the database believes, not counted.
        oldest: epoch seconds, data time of points and scores; None where no row tells.
        rows_per_day: written in the last week; None where no row tells.
    """

    table: str
    rows: int
    bytes: int
    estimated: bool = False
    oldest: float | None = None
    rows_per_day: float | None = None

    @property
    def bytes_per_day(self) -> float | None:
        if self.rows_per_day is None:
            return None
        return self.rows_per_day * self.bytes / max(1, self.rows)


def sizes(connection: Connection) -> list[TableSize]:
    """Return what every table weighs, the largest first."""
    of = _sqlite_sizes if connection.dialect.name == "sqlite" else _postgres_sizes
    found = [_with_growth(connection, each) for each in of(connection)]
    return sorted(found, key=lambda each: (-each.bytes, each.table))


def whole(connection: Connection) -> tuple[int, int]:
    """Return the bytes of the database, and how many of them nothing stands in (None known: 0)."""
    if connection.dialect.name == "sqlite":
        page, pages, free = (
            _pragma(connection, name) for name in ("page_size", "page_count", "freelist_count")
        )
        return page * pages, page * free
    return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0), 0


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _count(connection: Connection, table: str) -> int:
    return int(connection.scalar(select(func.count()).select_from(Base.metadata.tables[table])) or 0)


# -- bytes ------------------------------------------------------------------------------


def _sqlite_sizes(connection: Connection) -> Iterator[TableSize]:
    is_small = whole(connection)[0] <= 4 * EXACT_BYTES
    for table in Base.metadata.tables:
        believed = None if is_small or table not in BYTES_PER_ROW else _sqlite_believes(connection, table)
        if believed is not None:
            yield TableSize(table, believed, believed * BYTES_PER_ROW[table], estimated=True)
        else:
            yield TableSize(table, _count(connection, table), _pages(connection, table))


def _sqlite_believes(connection: Connection, table: str) -> int | None:
    """Return the rows that SQLite counted when it was last told to; None where it never was."""
    if not connection.scalar(text("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1'")):
        return None
    stat = connection.scalar(text("SELECT stat FROM sqlite_stat1 WHERE tbl = :table"), {"table": table})
    return None if stat is None else int(str(stat).split()[0])


def _pages(connection: Connection, table: str) -> int:
    """Return the bytes of a table's pages and of its indexes'; 0 where this SQLite does not tell."""
    names = "SELECT name FROM sqlite_schema WHERE tbl_name = :table AND rootpage > 0"
    query = text("SELECT sum(pgsize) FROM dbstat WHERE name = :name AND aggregate = TRUE")
    try:
        found = [
            connection.scalar(query, {"name": name})
            for name in connection.scalars(text(names), {"table": table}).all()
        ]
    except OperationalError:  # built without its table dbstat
        return 0
    return sum(int(each or 0) for each in found)


def _postgres_sizes(connection: Connection) -> Iterator[TableSize]:
    query = text(
        "SELECT coalesce(sum(pg_total_relation_size(relid)), 0), coalesce(sum(greatest(reltuples, 0)), 0) "
        "FROM pg_partition_tree(to_regclass(:table)) JOIN pg_class ON pg_class.oid = relid WHERE isleaf"
    )
    for table in Base.metadata.tables:
        size, rows = connection.execute(query, {"table": table}).one()
        exact = size <= EXACT_BYTES
        yield TableSize(
            table, _count(connection, table) if exact else int(rows), int(size), estimated=not exact
        )


# -- growth -----------------------------------------------------------------------------


def _with_growth(connection: Connection, size: TableSize) -> TableSize:
    if size.table in OWNERS:
        return _of_owners(connection, size)
    if size.table in WRITTEN:
        return _of_written(connection, size)
    return size


def _of_written(connection: Connection, size: TableSize) -> TableSize:
    column = WRITTEN[size.table]
    now = float(connection.scalar(select(db_now())) or 0.0)
    since = now - LOOK_BACK_DAYS * DAY
    oldest = connection.scalar(text(f"SELECT min({column}) FROM {size.table}"))
    recent = connection.scalar(
        text(f"SELECT count(*) FROM {size.table} WHERE {column} > :since"), {"since": since}
    )
    return _grown(size, oldest, now, int(recent or 0))


def _of_owners(connection: Connection, size: TableSize) -> TableSize:
    """Return the size with its oldest row and growth, as some series (targets) stand for all."""
    whose, column = ("series", "last_ts") if size.table == "points" else ("target", "scored_until")
    known = connection.execute(text(f"SELECT id FROM {whose} WHERE {column} IS NOT NULL ORDER BY id"))
    ids = list(known.scalars())
    newest = connection.scalar(text(f"SELECT max({column}) FROM {whose}"))
    if not ids:
        return size
    step = -(-len(ids) // SAMPLED)
    some, owner = ids[::step], OWNERS[size.table]
    oldest = text(f"SELECT min(ts) FROM {size.table} WHERE {owner} = :id")
    recent = text(f"SELECT count(*) FROM {size.table} WHERE {owner} = :id AND ts > :since")
    firsts = [each for id_ in some if (each := connection.scalar(oldest, {"id": id_})) is not None]
    since = int(newest) - LOOK_BACK_DAYS * DAY
    n = sum(int(connection.scalar(recent, {"id": id_, "since": since}) or 0) for id_ in some)
    return _grown(size, min(firsts, default=None), float(newest), n * len(ids) / len(some))


def _grown(size: TableSize, oldest: float | None, now: float, recent: float) -> TableSize:
    if oldest is None:
        return TableSize(size.table, size.rows, size.bytes, size.estimated)
    days = min(LOOK_BACK_DAYS, max(1.0, (now - oldest) / DAY))
    return TableSize(size.table, size.rows, size.bytes, size.estimated, oldest, recent / days)
