"""Whether refits are spread by the names of series is decided once, by how many a monitor began with."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_service.db import monitors
from anomaly_service.db.store import SqlStore
from pipelines.jobs.fit_times import fit_slots
from pipelines.monitor import MonitorSpec
from pipelines.records import PointBlock, SeriesSpec
from pipelines.store import Ingest
from pipelines.times import DAY

SPEC = MonitorSpec("load", {})


def with_series(store: SqlStore, n_series: int) -> bool | None:
    """Return what is decided once a monitor has so many targets."""
    specs = [SeriesSpec("load", {"host": str(k)}, 3600, source="files") for k in range(n_series)]
    at = np.arange(n_series)
    store.ingest(Ingest("files", specs, PointBlock(at, np.full(n_series, 10 * DAY), np.ones(n_series))))
    (monitor,) = store.sync_monitors({"load": SPEC.to_json()})
    store.sync_targets(monitor.id, [(row.spec.key, (row.id,)) for row in store.series()])
    return store.monitors()[0].stagger


def test_a_monitor_that_began_small_is_not_spread_when_it_has_grown(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "STAGGERED_FROM", 3)
    assert with_series(store, 3) is False
    assert with_series(store, 5) is False


def test_a_monitor_that_began_large_is_spread(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "STAGGERED_FROM", 3)
    assert with_series(store, 4) is True


def test_equal_histories_are_fitted_on_equal_nights_whatever_they_are_called() -> None:
    def slots(key: str, spec: MonitorSpec) -> list[int]:
        return fit_slots(spec, key, 100 * DAY, 160 * DAY, step_seconds=300, begun=60 * DAY)

    assert slots("players", SPEC.staggered(False)) == slots("logins", SPEC.staggered(False))
    apart = {tuple(slots(f"host{k}", SPEC.staggered(True))) for k in range(20)}
    assert len(apart) > 3


def test_what_the_config_says_of_spreading_holds() -> None:
    said = MonitorSpec("load", {}, stagger=False)
    assert said.staggered(True) == said
