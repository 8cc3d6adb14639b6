"""What a job works at: the targets its monitor selects now, whatever the database still knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anomaly_service.db.store import SqlStore
from pipelines.executor import Inline
from pipelines.jobs import passes
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.monitor import MonitorSpec
from pipelines.records import PointBlock, SeriesSpec
from pipelines.store import Ingest

SPEC = MonitorSpec("load", {"metric": ["load"]})
HOUR = 3600


def add_series(store: SqlStore, host: str) -> None:
    """Store a series with one point, and the monitor's targets for all there are."""
    spec = SeriesSpec("load", {"host": host}, HOUR, source="t")
    store.ingest(Ingest("t", [spec], PointBlock(np.zeros(1, int), np.array([HOUR]), np.ones(1))))


def sync(store: SqlStore, spec: MonitorSpec = SPEC) -> MonitorJob:
    row = store.sync_monitors({spec.name: spec.to_json()})[0]
    store.sync_targets(row.id, [(s.spec.key, (s.id,)) for s in store.series()])
    return MonitorJob(store, Inline(), row, spec)


def test_a_narrower_selector_leaves_what_it_no_longer_takes_alone(store: SqlStore) -> None:
    add_series(store, "a")
    add_series(store, "b")
    sync(store)
    narrow = sync(store, replace(SPEC, selector={"metric": ["load"], "host": ["b"]}))
    assert [target.key for target in narrow.targets()] == ["load{host=b}"]


def test_a_series_that_another_daemon_adds_meanwhile_waits_for_the_next_job(store: SqlStore) -> None:
    add_series(store, "a")
    working = sync(store)
    assert passes.tick(working, 2 * HOUR)["targets"] == 0
    add_series(store, "b")
    again = sync(store)
    assert passes.tick(working, 2 * HOUR)["targets"] == 0
    assert [target.key for target in working.targets()] == ["load{host=a}"]
    assert len(again.targets()) == 2
