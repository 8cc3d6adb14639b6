"""The budget is a promise: alarms on normal series come at the rate asked for, also where they drift."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from databases import Databases
from monitor_jobs import HOUR, START, ingest, job, monitor
from scipy.signal import lfilter

from anomaly_service.db.store import SqlStore
from pipelines.jobs import passes
from pipelines.monitor import NightlyPlan, Threshold
from pipelines.names import Kind, Status
from pipelines.records import Policy
from pipelines.times import DAY

WEEK = 7 * DAY
SERIES, WEEKS = 12, 12
END = START + WEEKS * WEEK
Noise = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def autocorrelated(ts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(lfilter([1.0], [1.0, -0.9], rng.standard_normal(len(ts) + 200))[200:])


NORMAL: dict[str, Noise] = {
    "autocorrelated": lambda ts, rng: 100 + 20 * np.sin(2 * np.pi * ts / DAY) + 3 * autocorrelated(ts, rng),
    "counts": lambda ts, rng: rng.poisson(8 * (1.5 + np.sin(2 * np.pi * ts / DAY))).astype(float),
    "growing noise": lambda ts, rng: (
        100
        + 20 * np.sin(2 * np.pi * ts / DAY)
        + 3 * (1 + 0.1 * (ts - START) / WEEK) * rng.standard_normal(len(ts))
    ),
}


@pytest.mark.parametrize("kind", NORMAL)
def test_a_monitor_raises_about_as_many_alarms_as_it_may(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    ts = np.arange(START, END, HOUR)
    courses = {str(i): (ts, NORMAL[kind](ts, np.random.default_rng([i, len(kind)]))) for i in range(SERIES)}
    with SqlStore(Databases(request, tmp_path).fresh("sqlite")) as store:
        ingest(store, "load", courses)
        spec = monitor(
            "load",
            params={"window": 12},
            fit_window_seconds=6 * WEEK,
            fit_every_seconds=WEEK,
            threshold=Threshold(alarms_per_week=float(SERIES)),
            policy=Policy(),
            nightly=NightlyPlan(),
        )
        at = job(store, spec)
        passes.backfill(at, END)
        passes.nightly(at, END, END)
        # The weeks before the first fit are judged by what was learned from them, so they prove nothing.
        first = min(rows[0].train_stop for rows in at.versions(at.targets()).values())
        found = [
            event
            for event in store.events([t.id for t in at.targets()], first, END)
            if event.interval.kind is Kind.ANOMALY and event.status is not Status.OUTDATED
        ]
    asked = SERIES * (END - first) / WEEK
    assert 0.5 <= len(found) / asked <= 2.0, f"{len(found)} alarms where {asked:.0f} were asked for"
