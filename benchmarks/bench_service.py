"""A live tick and a nightly pass over thousands of series, from points in the database to events in it.

Usage: python benchmarks/bench_service.py [--series 2000] [--database URL] [--detector vae --refit-all]
Prints seconds, peak memory of all processes together, and the share of the scores that is stored.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from measure import Clock, Memory, figure, machine
from sqlalchemy import text

from anomaly_service.db.migrate import migrate
from anomaly_service.db.store import SqlStore
from anomaly_service.executors.local import LocalExecutor
from pipelines.jobs import passes
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.refit import due, refit
from pipelines.jobs.rescore import score_spans
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import AUTO
from pipelines.records import PointBlock, Policy, SeriesSpec
from pipelines.store import Ingest
from pipelines.times import DAY

STEP = 300
END = 20_056 * DAY + 4 * 3600
SPEC = MonitorSpec(
    "bench",
    {"metric": ["load"]},
    threshold=Threshold(alarms_per_week=20.0),
    policy=Policy(merge_max_gap_seconds=1800),
    scores="near_events",  # as `auto` has it above 500 series, so that fewer measure the same
)


@contextmanager
def timed(what: str, memory: Memory, asked: str = "") -> Iterator[None]:
    memory.restart()
    with Clock().timed() as took:
        yield
    figure(what, f"{took.wall:.2f} s (cpu {took.cpu:.2f})", asked, f"peak {memory.peak / 2**20:,.0f} MiB")


def telemetry(first: int, n: int, start: int, stop: int) -> PointBlock:
    """Return daily rhythm, weekend lift and noise of n series, a mean of four steps, as counts."""
    ts = np.arange(start, stop, STEP)
    rng = np.random.default_rng([first, start])
    noise = rng.normal(0, 0.03, (n, len(ts) + 4))
    noise = (noise[:, 4:] + noise[:, 3:-1] + noise[:, 2:-2] + noise[:, 1:-3]) / 2
    day = 1 + 0.4 * np.sin(2 * np.pi * ts / DAY) + 0.1 * (ts // DAY % 7 > 4)
    level = 1000.0 + 10 * (np.arange(n) + first)[:, None]
    value = np.round(level * day * (1 + noise))
    series = np.repeat(np.arange(n), len(ts))
    return PointBlock(series, np.tile(ts, n), value.ravel())


def specs(first: int, n: int) -> list[SeriesSpec]:
    return [SeriesSpec("load", {"host": f"{first + i:05d}"}, STEP, 60, source="bench") for i in range(n)]


def fill(store: SqlStore, n_series: int, start: int, stop: int) -> int:
    rows = 0
    for first in range(0, n_series, 100):
        n = min(100, n_series - first)
        block = telemetry(first, n, start, stop)
        store.ingest(Ingest("bench", specs(first, n), block))
        rows += len(block)
    return rows


def desk_of(store: SqlStore, executor: LocalExecutor, spec: MonitorSpec) -> MonitorJob:
    row = store.sync_monitors({spec.name: spec.to_json()})[0]
    series = [s for s in store.series() if spec.selects(s.spec.metric, s.spec.labels)]
    store.sync_targets(row.id, [(s.spec.key, (s.id,)) for s in series])
    return MonitorJob(store, executor, row, spec)


def first_versions(job: MonitorJob, now: int) -> None:
    """Fit every target once, on its last night but today's, and score the days since."""
    newest = {}
    for each in due(job, now - DAY, missing=True):
        newest[each.target.id] = each
    done = refit(job, list(newest.values()))
    score_spans(job, passes._all_new_spans(job, done, now), stage="score")


def slowest_tick_beside(
    store: SqlStore, live: LocalExecutor, spec: MonitorSpec, n_series: int, night: int, workers: int
) -> float:
    """Let a step of points come and be scored, again and again, while a night runs; return seconds.

    As in the daemon, the night has workers of its own, one fewer than there are.
    """
    fill(store, n_series, night - DAY, night)
    passes.tick(desk_of(store, live, spec), night + 60)
    heavy = LocalExecutor(max(1, workers - 1))
    at_night = threading.Thread(
        target=lambda: passes.nightly(desk_of(store, heavy, spec), night, night + 60), name="night"
    )
    at_night.start()
    took, until = [0.0], night
    while at_night.is_alive():
        fill(store, n_series, until, until + STEP)
        until += STEP
        began = time.monotonic()
        passes.tick(desk_of(store, live, spec), until + 60)
        took.append(time.monotonic() - began)
    print(f"   {len(took) - 1} ticks of {[round(each, 1) for each in took[1:]]} s")
    heavy.close()
    return max(took)


def stored_share(store: SqlStore, n_series: int) -> None:
    """Print how many of the scored steps have a row, the others being far from every event."""
    query = text("SELECT count(*), min(ts), max(ts) FROM scores")
    with store.engine.connect() as connection:
        rows, first, last = connection.execute(query).one()
    steps = n_series * ((last - first) // STEP + 1) if rows else 0
    figure(
        "score rows stored near events", f"{rows:,}", "", f"{rows / max(steps, 1):.2%} of the scored steps"
    )


def run(spec: MonitorSpec, n_series: int, url: str, workers: int) -> None:
    migrate(url)
    memory = Memory()
    executor = LocalExecutor(workers)
    start, before = END - 56 * DAY, END - STEP
    with SqlStore(url) as store:
        with timed(f"points of eight weeks x {n_series:,} series in", memory):
            rows = fill(store, n_series, start, before)
        print(f"  {rows:,} rows")
        with timed(f"first fit of {n_series:,} series", memory):
            first_versions(desk_of(store, executor, spec), before)
        for _ in range(2):
            fill(store, n_series, before, before + STEP)
            before += STEP
            with timed(f"live tick over {n_series:,} series", memory, "gaussian, 2,000 in <= 6 s"):
                print("  ", passes.tick(desk_of(store, executor, spec), before + 60))
        with timed(f"nightly over {n_series:,} series", memory, "gaussian, 2,000 in <= 300 s"):
            print("  ", passes.nightly(desk_of(store, executor, spec), before, before + 60))
        with timed(f"another night over {n_series:,} series, ticks beside it", memory):
            slowest = slowest_tick_beside(store, executor, spec, n_series, before + DAY, workers)
        figure("slowest of these ticks", f"{slowest:.1f} s", f"< {2 * STEP} s, two intervals")
        stored_share(store, n_series)
    executor.close()
    memory.close()
    print(f"peak of this process alone {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=2000)
    parser.add_argument("--database", default="")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--detector", default=SPEC.detector)
    parser.add_argument("--window", type=int, default=24)
    parser.add_argument("--refit-all", action="store_true", help="every series every night, not once a week")
    asked = parser.parse_args()
    params = {} if asked.detector == AUTO else {"window": asked.window}
    spec = replace(SPEC, detector=asked.detector, params=params)
    if asked.refit_all:
        spec = replace(spec, fit_every_seconds=DAY, stagger=False)
    machine()
    with tempfile.TemporaryDirectory() as folder:
        url = asked.database or f"sqlite:///{Path(folder) / 'bench.db'}"
        run(spec, asked.series, url, asked.workers)


if __name__ == "__main__":
    main()
