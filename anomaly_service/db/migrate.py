"""Bring a database to the schema of this release, or take it back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.schema import CreateIndex

from anomaly_service import HOME
from anomaly_service.db import views
from anomaly_service.db.engine import make_engine, shown, transaction
from anomaly_service.db.tables import HEAD
from anomaly_service.errors import SchemaError

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = HOME / "migrations"
"""Found by path: a folder of that name in the working directory must not be taken for it."""

_PARTITION = re.compile(r"(points|scores)_\d{6}")
# Any number: one migration at a time per database, also when two daemons start together.
_MIGRATION_LOCK = 7_236_001


def migrate(url: str | URL, revision: str = "head") -> str:
    """Upgrade the database to ``revision`` and return the revision it has now.

    Runs in one transaction: a migration that fails leaves the database as it was.
    """
    from alembic import command

    with _alembic(url) as (config, connection):
        command.upgrade(config, revision)
        return _finish(connection)


def downgrade(url: str | URL, revision: str = "base") -> str:
    """Take the database back to ``revision``; ``base`` leaves it without tables."""
    from alembic import command

    with _alembic(url) as (config, connection):
        command.downgrade(config, revision)
        return _finish(connection)


def differences(url: str | URL) -> list[Any]:
    """Return what alembic would change to make the database equal to the tables; empty when equal."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    from anomaly_service.db.tables import Base

    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            options = {"compare_type": True, "include_name": is_ours}
            context = MigrationContext.configure(connection, opts=options)
            with warnings.catch_warnings():
                # SQLite does not tell what an expression's index is made of: its own words are compared.
                warnings.filterwarnings("ignore", ".*expression-based index")
                found = list(compare_metadata(context, Base.metadata))
            return found + _indexes_that_differ(connection, Base.metadata)
    finally:
        engine.dispose()


def _indexes_that_differ(connection: Connection, metadata: MetaData) -> list[Any]:
    """Return the partial and expression indexes of an SQLite database that the tables do not have so."""
    if connection.dialect.name != "sqlite":
        return []
    rows = connection.execute(text("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql <> ''"))
    stored = {name: _plain_sql(sql) for name, sql in rows}
    wanted = {
        str(index.name): _plain_sql(str(CreateIndex(index).compile(dialect=connection.dialect)))
        for table in metadata.tables.values()
        for index in table.indexes
    }
    names = sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name))
    return [("index differs", name, stored.get(name), wanted.get(name)) for name in names]


def _plain_sql(statement: str) -> str:
    return " ".join(statement.split())


def current(connection: Connection) -> str:
    """Return the revision of the database, empty where it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""


def check_there(url: URL) -> None:
    """Refuse an SQLite file that is not there: opening it would make an empty one in its place.

    Raises:
        SchemaError: there is none.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        return
    path = Path(url.database)
    # Where its folder is missing too a disk may come back: that is waited for.
    if path.parent.exists() and not path.exists():
        raise SchemaError(
            f"there is no database {shown(url)}; `anomaly migrate` makes a new one. Where there was one "
            "before, put it back, or restore a backup"
        )


def check_head(connection: Connection) -> None:
    """Refuse a database of another release.

    Raises:
        SchemaError: the schema is missing, older or newer than this code.
    """
    found = current(connection)
    if found == HEAD:
        return
    place = shown(connection.engine.url)
    if not found:
        raise SchemaError(f"the database {place} has no tables yet; run `anomaly migrate`")
    if found > HEAD:
        raise SchemaError(
            f"the database {place} has schema {found}, this release knows {HEAD} at most; "
            "install the release that migrated it, or a newer one"
        )
    raise SchemaError(
        f"the database {place} has schema {found}, this release needs {HEAD}; run `anomaly migrate`"
    )


def is_ours(name: str | None, type_: str, parents: MutableMapping[Any, Any]) -> bool:
    """False for the monthly partitions, which are created on demand and belong to no migration."""
    return not (type_ == "table" and name is not None and _PARTITION.fullmatch(name))


@contextmanager
def _alembic(url: str | URL) -> Iterator[tuple[Config, Connection]]:
    engine = make_engine(url)
    try:
        with transaction(engine, write=True) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            views.drop(connection)
            yield _config(str(SCRIPTS), connection), connection
    finally:
        engine.dispose()


def _config(scripts: str, connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    # "%" starts an interpolation in the configuration format.
    config.set_main_option("script_location", scripts.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _finish(connection: Connection) -> str:
    """Put the views back: they always fit the newest schema, so older ones go without."""
    found = current(connection)
    if found == HEAD:
        views.create(connection)
    return found
