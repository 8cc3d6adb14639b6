"""`anomaly status --storage`: what each table weighs, how it grows, what is kept, and what can be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import anomaly

from anomaly_service.db import storage
from anomaly_service.db.store import SqlStore
from anomaly_service.db.tables import Base
from pipelines.records import Json, PointBlock, ScoreBlock, SeriesSpec
from pipelines.store import Batch, Ingest
from pipelines.times import DAY

T0 = 1_767_571_200
"""2026-01-05 in epoch seconds."""

CONFIG = """
database: {url}
monitors: {{load: {{series: {{}}, fit: {{window: 5d}}}}}}
retention: {{points: 10d, scores: 20d}}
"""


def fill(store: SqlStore, n_series: int, days: int) -> None:
    """Store hourly points and scores."""
    specs = [SeriesSpec("load", {"host": str(k)}, 3600, source="files") for k in range(n_series)]
    ts = np.tile(T0 + 3600 * np.arange(24 * days), n_series)
    series, ones = np.repeat(np.arange(n_series), 24 * days), np.ones(24 * days * n_series)
    store.ingest(Ingest("files", specs, PointBlock(series, ts, ones)))
    (monitor,) = store.sync_monitors({"load": {"detector": "gaussian"}})
    targets = store.sync_targets(monitor.id, [(row.spec.key, (row.id,)) for row in store.series()])
    ids = np.array([target.id for target in targets])[series]
    until = {target.id: int(ts.max()) + 1 for target in targets}
    scores = ScoreBlock(ids, ts, np.ones(len(ts), np.int64), ones, ones, ones, ones)
    store.commit(None, Batch(scores=scores, scored_until=until))


@pytest.fixture
def asked(store: SqlStore, database_url: str, tmp_path: Path) -> Any:
    """Ask for the storage of a filled database, by table."""
    fill(store, 3, 20)
    path = tmp_path / "anomaly.yaml"
    path.write_text(CONFIG.format(url=database_url))

    def ask() -> tuple[Json, dict[str, Json]]:
        found = json.loads(anomaly("status", "--storage", "--json", "--config", path).out)
        return found, {row["table"]: row for row in found["tables"]}

    ask.path = path  # type: ignore[attr-defined]
    return ask


def test_every_table_is_told_with_rows_bytes_age_and_growth(asked: Any) -> None:
    found, tables = asked()
    assert set(tables) == set(Base.metadata.tables)
    points = tables["points"]
    assert (points["rows"], points["estimated"], points["oldest"]) == (1440, False, "2026-01-05T00:00:00Z")
    assert points["rows_per_day"] == tables["scores"]["rows_per_day"] == pytest.approx(72, rel=0.02)
    assert 10_000 < points["bytes"] < found["bytes"]
    daily = points["bytes"] / 1440 * 72
    assert points["bytes_per_day"] == pytest.approx(daily, rel=0.02)
    assert points["levels_at_bytes"] == pytest.approx(10 * daily, rel=0.02)
    assert sum(row["bytes"] for row in tables.values()) <= found["bytes"]


def test_what_retention_keeps_is_told_with_each_table(asked: Any) -> None:
    _, tables = asked()
    assert (tables["points"]["keeps"], tables["scores"]["keeps"]) == ("10d", "20d")
    assert tables["weights"]["keeps"] == "3 of each target"
    assert tables["review"]["keeps"] == "for ever"
    assert tables["run"]["keeps"] == "the newest of each kind, the others 90d"


def test_points_that_no_night_has_deleted_are_a_hint(asked: Any) -> None:
    found, _ = asked()
    (hint,) = found["hints"]
    assert hint.startswith("points are older than the 10d of retention.points: the night deletes them")
    done = anomaly("status", "--storage", "--config", asked.path)
    assert done.code == 0
    assert "Points are older than the 10d" in done.out
    assert "In all" in done.out


@pytest.mark.databases("sqlite")
def test_room_that_deleted_rows_left_behind_is_told(
    store: SqlStore, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomaly_service.insight import storage as insight

    monkeypatch.setattr(insight, "FREE_BYTES", 1)
    monkeypatch.setattr(insight, "FREE_SHARE", 0.05)
    store.delete_points_before(T0 + 40 * DAY)
    store.delete_scores_before(T0 + 40 * DAY)
    found, _ = asked()
    assert found["free_bytes"] > 0
    assert any("of the file is free" in hint for hint in found["hints"])


def test_a_large_database_is_estimated_and_says_so(
    store: SqlStore, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "EXACT_BYTES", 100)
    monkeypatch.setattr(storage, "SAMPLED", 2)
    store.refresh_statistics()
    _, tables = asked()
    assert tables["points"]["estimated"]
    assert tables["points"]["rows"] == pytest.approx(1440, rel=0.3)
    assert tables["points"]["rows_per_day"] == pytest.approx(72, rel=0.02)
