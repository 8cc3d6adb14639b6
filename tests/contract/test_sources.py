"""What every installed source promises, whatever it reads from."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly_service import sources
from anomaly_service.db.store import SqlStore
from anomaly_service.sources import files
from anomaly_service.sources.base import Reading, Source
from anomaly_service.sources.ingest import ingest
from pipelines.records import Json
from pipelines.store import Ingest

NOW = datetime(2024, 6, 5, 12, tzinfo=UTC)
START = 1_717_200_000
STEP = 300
Row = tuple[object, object, str, str]
"""Time, value, metric, realm."""


class Origin(Protocol):
    """Where a source reads from, as a test fills it."""

    def add(self, rows: Sequence[Row]) -> None: ...
    def source(self) -> Source: ...


class CsvOrigin:
    """A file that grows."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "points.csv"
        self.path.write_text("ts,value,metric,realm\n")

    def add(self, rows: Sequence[Row]) -> None:
        with self.path.open("a") as file:
            file.writelines(",".join(str(cell) for cell in row) + "\n" for row in rows)

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


class Memory:
    """What a store keeps of batches."""

    def __init__(self) -> None:
        self.points: dict[tuple[str, int], float] = {}
        self.progress: dict[str, Json] = {}
        self.rejects: list[str] = []

    def store(self, batch: Ingest) -> None:
        keys = [spec.key for spec in batch.series]
        block = batch.points
        for series, ts, value in zip(block.series, block.ts, block.value, strict=True):
            self.points[keys[series], int(ts)] = float(value)
        self.progress |= batch.progress
        assert isinstance(batch, Reading)
        assert batch.rejected == len(batch.rejects)
        self.rejects += [f"{reject.reason}: {reject.raw}" for reject in batch.rejects]

    def take(self, source: Source, batches: int | None = None) -> int:
        """Store what a source yields, or only its first batches; return how many came."""
        count = 0
        for batch in source.read(self.progress, now=NOW):
            if count == batches:
                break
            self.store(batch)
            count += 1
        return count


@pytest.fixture(params=sorted(ORIGINS))
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Origin:
    made: Origin = ORIGINS[request.param](tmp_path / "origin")
    return made


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a source see its rows a few at a time, as it does with millions."""
    monkeypatch.setattr(files, "CHUNK", 80)
    monkeypatch.setattr("anomaly_service.sources.sql.FETCH_ROWS", 3)


def rows_of(n: int, first: int = 0) -> list[Row]:
    return [(START + i // 2 * STEP, float(i), "ccu", f"kr-{i % 2}") for i in range(first, first + n)]


def by_key(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    return {(f"{metric}{{realm={realm}}}", int(str(ts))): float(str(v)) for ts, v, metric, realm in rows}


def in_short_batches(source: Source) -> Source:
    source.batch_rows = 4  # type: ignore[attr-defined]  # both of ours have it
    return source


def test_every_installed_source_is_held_to_this_contract() -> None:
    assert set(sources.kinds()) == set(ORIGINS)


def test_a_source_satisfies_the_protocol_and_keeps_its_name(origin: Origin) -> None:
    source = origin.source()
    assert isinstance(source, Source)
    assert source.name == "telemetry"


def test_every_row_becomes_a_point_of_its_series(origin: Origin) -> None:
    origin.add(rows_of(20))
    memory = Memory()
    memory.take(origin.source())
    assert memory.points == by_key(rows_of(20))
    assert memory.rejects == []


def test_series_are_declared_as_the_config_says(origin: Origin) -> None:
    origin.add(rows_of(2))
    (batch,) = origin.source().read({}, now=NOW)
    spec = batch.series[0]
    assert (spec.metric, spec.step_seconds, spec.delay_seconds) == ("ccu", 300, 120)
    assert (spec.timezone, spec.source, batch.source) == ("UTC", "telemetry", "telemetry")
    assert spec.labels["realm"].startswith("kr-")


def test_reading_again_with_nothing_new_changes_nothing(origin: Origin) -> None:
    origin.add([*rows_of(9), (START, "many", "ccu", "kr-1")])
    memory = Memory()
    memory.take(origin.source())
    points, rejects = dict(memory.points), list(memory.rejects)
    memory.take(origin.source())
    assert memory.points == points
    assert memory.rejects == rejects


def test_an_empty_source_yields_no_points(origin: Origin) -> None:
    memory = Memory()
    memory.take(origin.source())
    assert memory.points == {}


def test_bad_rows_are_set_aside_with_a_reason_and_the_rest_goes_in(origin: Origin) -> None:
    bad: list[Row] = [
        (START, "many", "ccu", "kr-1"),
        (START, "inf", "ccu", "kr-1"),
        (START, "", "ccu", "kr-1"),
        (START, 5, "", "kr-1"),
    ]
    good = rows_of(6)
    origin.add([bad[0], *good[:3], *bad[1:], *good[3:]])
    memory = Memory()
    memory.take(origin.source())
    assert memory.points == by_key(good)
    reasons = sorted(text.split(": ")[0] for text in memory.rejects)
    assert reasons == ["no metric", "no value", "value is infinite", "value is not a number"]


def test_a_corrected_value_replaces_the_old_one(origin: Origin) -> None:
    origin.add(rows_of(6))
    memory = Memory()
    memory.take(origin.source())
    ts, _, metric, realm = rows_of(6)[4]
    origin.add([(ts, 99.0, metric, realm)] if isinstance(origin, CsvOrigin) else [])
    if isinstance(origin, SqlOrigin):
        with sqlite3.connect(origin.path) as connection:
            connection.execute("UPDATE point SET value = 99 WHERE ts = ? AND realm = ?", (ts, realm))
    memory.take(origin.source())
    assert memory.points == by_key(rows_of(6)) | {(f"{metric}{{realm={realm}}}", int(str(ts))): 99.0}


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
    """``lost``: in each look, the process dies after so many batches were stored."""
    origin: Origin = ORIGINS[kind](tmp_path_factory.mktemp("split"))
    memory = Memory()
    first = 0
    deaths = iter(lost)
    for n in instalments:
        origin.add(rows_of(n, first))
        first += n
        memory.take(in_short_batches(origin.source()), batches=next(deaths, None))
    memory.take(in_short_batches(origin.source()))
    assert memory.points == by_key(rows_of(first))


@pytest.mark.usefixtures("short_blocks")
def test_progress_moves_with_every_batch(origin: Origin) -> None:
    origin.add(rows_of(40))
    memory = Memory()
    source = in_short_batches(origin.source())
    assert memory.take(source, batches=3) == 3
    before = len(memory.points)
    assert 0 < before < 40
    fresh = sum(
        len(batch.points) for batch in in_short_batches(origin.source()).read(memory.progress, now=NOW)
    )
    # The rest, and of a database the overlap besides.
    assert fresh <= 40 - before + (24 if isinstance(origin, SqlOrigin) else 0)


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
