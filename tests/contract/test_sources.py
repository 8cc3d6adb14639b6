"""What every installed source promises, whatever it reads from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly_service import sources
from anomaly_service.db.store import SqlStore
from anomaly_service.sources import files
from anomaly_service.sources.base import Source
from anomaly_service.sources.ingest import ingest
from anomaly_service.testing.contract import Check
from anomaly_service.testing.sources import (
    CONTRACT,
    NOW,
    START,
    Held,
    Origin,
    Row,
    by_key,
    check_split,
    rows_of,
)


class CsvOrigin:
    """A file that grows."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "points.csv"
        self.path.write_text("ts,value,metric,realm\n")

    def add(self, rows: Sequence[Row]) -> None:
        with self.path.open("a") as file:
            file.writelines(",".join(str(cell) for cell in row) + "\n" for row in rows)

    def correct(self, row: Row, value: float) -> None:
        self.add([(row[0], value, *row[2:])])

    def source(self) -> Source:
        config = {
            "kind": "csv",
            "path": str(self.path.parent / "*.csv"),
            "timestamp": "ts",
            "metric": "metric",
            "labels": ["realm"],
            "step": "5min",
            "delay": "2min",
        }
        cls = sources.get("csv")
        return cls("telemetry", cls.Config.model_validate(config))


class SqlOrigin:
    """A table that rows are added to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "points.db"
        with sqlite3.connect(self.path) as connection:
            connection.execute("CREATE TABLE point (ts, value, metric TEXT, realm TEXT)")

    def add(self, rows: Sequence[Row]) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.executemany("INSERT INTO point VALUES (?, ?, ?, ?)", rows)

    def correct(self, row: Row, value: float) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute(
                "UPDATE point SET value = ? WHERE ts = ? AND realm = ?", (value, row[0], row[3])
            )

    def source(self) -> Source:
        config = {
            "kind": "sql",
            "url": f"sqlite:///{self.path}",
            "query": "SELECT * FROM point WHERE ts >= :since AND ts < :until",
            "times": "epoch",
            "metric": "metric",
            "labels": ["realm"],
            "step": "5min",
            "delay": "2min",
            "overlap": "1h",
        }
        cls = sources.get("sql")
        return cls("telemetry", cls.Config.model_validate(config))


ORIGINS = {"csv": CsvOrigin, "sql": SqlOrigin}


@pytest.fixture(params=sorted(ORIGINS))
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Origin:
    made: Origin = ORIGINS[request.param](tmp_path / "origin")
    return made


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a source see its rows a few at a time, as it does with millions."""
    monkeypatch.setattr(files, "CHUNK", 80)
    monkeypatch.setattr("anomaly_service.sources.sql.FETCH_ROWS", 3)


def test_every_installed_source_is_held_to_this_contract() -> None:
    assert set(sources.kinds()) == set(ORIGINS)


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("check", CONTRACT.checks, ids=str)
@pytest.mark.parametrize("kind", sorted(ORIGINS))
def test_a_source_keeps_its_promises(kind: str, check: Check) -> None:
    with Held(ORIGINS[kind]) as held:
        check(held)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    instalments=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    lost=st.lists(st.integers(0, 3), max_size=6),
)
@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("kind", sorted(ORIGINS))
def test_any_split_and_any_crash_between_batches_leaves_the_same(
    kind: str, instalments: list[int], lost: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_split(ORIGINS[kind](tmp_path_factory.mktemp("split")), instalments, lost)


def stored(store: SqlStore) -> Iterator[tuple[str, int, float]]:
    rows = store.series()
    keys = {row.id: row.spec.key for row in rows}
    block = store.points(list(keys), 0, 2**40)
    for series, ts, value in zip(block.series, block.ts, block.value, strict=True):
        yield keys[int(series)], int(ts), float(value)


def test_a_source_goes_into_a_real_database_once(origin: Origin, store: SqlStore, tmp_path: Path) -> None:
    origin.add([*rows_of(20), (START, "many", "ccu", "kr-1")])
    rejects = tmp_path / "rejects"
    (first,) = ingest(store, [origin.source()], NOW, rejects=rejects)
    assert (first["new"], first["rejected"], first["error"]) == (20, 1, "")
    assert Path(first["rejects_file"]).read_text().count("value is not a number") == 1
    (again,) = ingest(store, [origin.source()], NOW, rejects=rejects)
    assert (again["new"], again["changed"], again["rejected"]) == (0, 0, 0)
    origin.add(rows_of(4, 20))
    (third,) = ingest(store, [origin.source()], NOW, rejects=rejects)
    assert third["new"] == 4
    assert {(key, ts): v for key, ts, v in stored(store)} == by_key(rows_of(24))
