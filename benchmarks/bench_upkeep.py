"""What a year leaves behind: bytes of intervals, their changes and runs; and what a night pays to tidy up.

Usage: python benchmarks/bench_upkeep.py [--events 20000] [--targets 1000] [--steps 2000] [--database both]
Runs on an SQLite file and on a PostgreSQL server of its own, as pip installs it, with its default settings.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from bench_storage import START, STEP, Database, databases, specs
from measure import figure, machine, title
from sqlalchemy import text

from anomaly_service.db.store import SqlStore
from pipelines.names import Kind, RunKind, RunState, Status
from pipelines.records import Event, EventChange, Interval, PointBlock, ScoreBlock
from pipelines.store import Batch, Ingest
from pipelines.times import DAY

NONE = PointBlock(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
RUNS = 2_000
AT_ONCE = 1_000
TICK = {"load": {"targets": 100, "rows": 100, "appeared": 0, "changed": 1, "vanished": 0, "more": False}}


def watched(store: SqlStore, n: int) -> list[int]:
    """Return the targets of a monitor of n series."""
    store.ingest(Ingest("bench", specs(n), NONE))
    (monitor,) = store.sync_monitors({"load": {"detector": "gaussian"}})
    return [t.id for t in store.sync_targets(monitor.id, [(r.spec.key, (r.id,)) for r in store.series()])]


def bench_bytes(database: Database, n_events: int) -> None:
    """Bytes of an interval, of each change of it, and of a run, with their indexes."""
    url = database.fresh()
    with SqlStore(url) as store:
        targets = watched(store, 100)
        written = [
            event for first in range(0, n_events, AT_ONCE) for event in _flagged(store, targets, first)
        ]
        interval = database.size(url, "event") / n_events
        first = database.size(url, "event_revision") / n_events
        for k in range(0, n_events, AT_ONCE):
            store.commit(None, Batch(changes=[_changed(event) for event in written[k : k + AT_ONCE]]))
        further = database.size(url, "event_revision") / n_events - first
        at = datetime.fromtimestamp(START, UTC)
        for k in range(RUNS):
            store.note_run(RunKind.TICK, 1, at + k * timedelta(minutes=5), RunState.DONE, TICK)
        run = database.size(url, "run") / RUNS
    figure(f"{database.name}: an interval", f"{interval:,.0f} bytes")
    figure(f"{database.name}: its first change", f"{first:,.0f} bytes")
    figure(f"{database.name}: a further change", f"{further:,.0f} bytes")
    figure(f"{database.name}: a run", f"{run:,.0f} bytes")


def _flagged(store: SqlStore, targets: list[int], first: int) -> list[Event]:
    changes = []
    for k in range(first, first + AT_ONCE):
        start = START + k // len(targets) * 6 * STEP
        found = Interval(
            Kind.ANOMALY, start, start + 3 * STEP, 4, start + STEP, 1.0 + k % 97 / 40, 1.2, "below_expected",
            y_at_peak=812.25 + k, yhat_at_peak=1204.5 + k, impact=-1570.75 - k,
        )  # fmt: skip
        changes.append(EventChange(targets[k % len(targets)], None, found, Status.CLOSED, start, why="new"))
    return store.commit(None, Batch(changes=changes))


def _changed(event: Event) -> EventChange:
    found = replace(event.interval, peak_score=event.interval.peak_score + 0.1)
    return EventChange(
        event.target_id, event.id, found, event.status, event.first_detected_at, why="rescored"
    )


def bench_night(database: Database, n_targets: int, n_steps: int) -> None:
    """What a night deletes a second, and what counting gives."""
    clock, url = database.clock(), database.fresh()
    with SqlStore(url) as store:
        _scored(store, watched(store, n_targets), n_steps)
        latest = clock.best(lambda: store.rows("latest_scores"), 3)
        planned = clock.best(lambda: _as_asked_before(store), 1)
        with clock.timed() as counting:
            store.refresh_statistics()
        counted = clock.best(lambda: _as_asked_before(store), 3)
        with clock.timed() as weighing:
            store.storage()
        with clock.timed() as deleting:
            gone = store.delete_scores_before(START + DAY)
    rows = n_targets * n_steps
    figure(f"{database.name}: latest_scores of {n_targets:,} targets", f"{latest.wall * 1e3:.1f} ms")
    figure("", f"{planned.wall * 1e3:.1f} ms as a plain join, {counted.wall * 1e3:.1f} ms once counted")
    figure(f"{database.name}: counting {rows:,} scores (ANALYZE)", f"{counting.wall:.2f} s")
    figure(f"{database.name}: status --storage", f"{weighing.wall:.2f} s")
    figure(f"{database.name}: deleting a day of scores", f"{gone / deleting.wall:,.0f} rows/s")


def _as_asked_before(store: SqlStore) -> Any:
    """Read the newest scores by a join whose order is left to the database, as the view once did."""
    query = (
        "SELECT * FROM target JOIN monitor ON monitor.id = target.monitor_id JOIN scores ON "
        "scores.target_id = target.id AND scores.ts = "
        "(SELECT max(newest.ts) FROM scores newest WHERE newest.target_id = target.id)"
    )
    with store.engine.connect() as connection:
        return connection.execute(text(query)).all()


def _scored(store: SqlStore, targets: list[int], n_steps: int) -> None:
    ids = np.array(targets)
    for first in range(0, n_steps, 500):
        ts = START + STEP * np.arange(first, min(first + 500, n_steps))
        target, at = np.repeat(ids, len(ts)), np.tile(ts, len(ids))
        ones = np.ones(len(at))
        rows = ScoreBlock(target, at, np.ones(len(at), np.int64), ones, ones, ones, ones)
        store.commit(None, Batch(scores=rows, scored_until=dict.fromkeys(targets, int(ts[-1]) + 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--targets", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--database", choices=["both", "sqlite", "postgresql"], default="both")
    asked = parser.parse_args()
    machine()
    with databases(asked.database) as found:
        title(f"bytes of {asked.events:,} intervals, their changes, and {RUNS:,} runs")
        for database in found:
            bench_bytes(database, asked.events)
        title(f"a night's upkeep of {asked.targets:,} targets x {asked.steps:,} steps")
        for database in found:
            bench_night(database, asked.targets, asked.steps)


if __name__ == "__main__":
    main()
