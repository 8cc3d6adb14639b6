"""Series and jobs of the end-to-end tests: hourly telemetry into a real store, and a job's job on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anomaly_service.db.store import SqlStore
from pipelines.executor import Inline
from pipelines.jobs import channels, readiness
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.monitor import MonitorSpec, NightlyPlan, Threshold
from pipelines.names import Kind, Status
from pipelines.records import Event, PointBlock, Policy, SeriesSpec
from pipelines.store import Ingest
from pipelines.times import DAY

HOUR = 3600
START = 20_000 * DAY
DAYS = 24
END = START + DAYS * DAY
GONE = (Status.OUTDATED, Status.MERGED)

Course = tuple[np.ndarray, np.ndarray]
"""Times in epoch seconds and values of one series."""


def monitor(name: str, **given: Any) -> MonitorSpec:
    """Return a monitor of the series whose metric is its name, fitted on ten days of hours."""
    usual: dict[str, Any] = {
        "params": {"window": 6},
        "fit_every_seconds": 4 * DAY,
        "fit_window_seconds": 10 * DAY,
        "stagger": False,
        "threshold": Threshold(alarms_per_week=1.0),
        "policy": Policy(merge_max_gap_seconds=2 * HOUR),
        "nightly": NightlyPlan(window_seconds=2 * DAY),
    }
    return MonitorSpec(name, {"metric": [name]}, **(usual | given))


def hours(start: int = START, end: int = END) -> np.ndarray:
    return np.arange(start, end, HOUR)


def waves(seed: int, ts: np.ndarray | None = None) -> Course:
    """Return a daily rhythm around 100 with noise of 3."""
    ts = hours() if ts is None else ts
    noise = np.random.default_rng(seed).normal(0, 3, len(ts))
    return ts, 100 + 20 * np.sin(2 * np.pi * ts / DAY + seed) + noise


def ingest(store: SqlStore, metric: str, courses: Mapping[str, Course], **spec: Any) -> None:
    """Store series of one metric, told apart by the label ``host``."""
    usual: dict[str, Any] = {"step_seconds": HOUR, "source": "t"}
    specs = [SeriesSpec(metric, {"host": host}, **(usual | spec)) for host in courses]
    sizes = [len(ts) for ts, _ in courses.values()]
    block = PointBlock(
        np.repeat(np.arange(len(sizes)), sizes),
        np.concatenate([ts for ts, _ in courses.values()]).astype(np.int64),
        np.concatenate([value for _, value in courses.values()]).astype(np.float64),
    )
    store.ingest(Ingest("t", specs, block))


def job(store: SqlStore, spec: MonitorSpec) -> MonitorJob:
    """Return the job of a monitor after its config was read, as the service makes it."""
    rows = store.sync_monitors(
        {row.name: row.config for row in store.monitors()} | {spec.name: spec.to_json()}
    )
    row = next(row for row in rows if row.name == spec.name)
    store.sync_targets(row.id, channels.made(channels.wanted(spec, store.series())))
    return MonitorJob(store, Inline(), row, spec)


def readiness_of(at: MonitorJob) -> list[dict[str, Any]]:
    """Return what `anomaly validate` says of the job's series."""
    fitted = {t.key for t in at.targets() if at.versions([t])[t.id]}
    return readiness.readiness(at.spec, channels.wanted(at.spec, at.series().values()), fitted)


def events(at: MonitorJob, kind: Kind | None = None) -> dict[str, list[Event]]:
    """Return the events that stand, by host, in order of time; also of hosts that have none."""
    hosts = {t.id: at.series()[t.series_ids[0]].spec.labels["host"] for t in at.targets()}
    found: dict[str, list[Event]] = {host: [] for host in hosts.values()}
    for event in at.store.events(list(hosts), 0, 2**40):
        if event.status not in GONE and kind in (None, event.interval.kind):
            found[hosts[event.target_id]].append(event)
    return found


def spans(found: Sequence[Event]) -> list[tuple[str, int, int]]:
    """Return kind, first and last hour since the start, of events."""
    return [
        (str(e.interval.kind), (e.interval.start - START) // HOUR, (e.interval.end - START) // HOUR)
        for e in found
    ]
