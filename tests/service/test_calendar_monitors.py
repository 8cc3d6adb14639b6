"""A monitor that knows its calendar: planned drops are normal, the same drop at another time is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from monitor_jobs import DAY, END, HOUR, START, events, hours, ingest, job, monitor

from anomaly_service.db.store import SqlStore
from pipelines.jobs import passes
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.monitor import Period
from pipelines.names import Kind
from pipelines.steps.recipe import Recipe
from pipelines.workers import bank

LASTS = 8 * HOUR
PLANNED = Period("maintenance", every="FREQ=DAILY;INTERVAL=2;BYHOUR=2", lasts_seconds=LASTS)
SURPRISE = START + 21 * DAY + 12 * HOUR
SPEC = monitor("load", detector="discriminant", season="none", calendar=(PLANNED,))


def course(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A level of 100, and of 40 every other night from two to ten; once by day as well."""
    ts = hours()
    planned = ((ts // DAY) % 2 == 0) & (ts % DAY >= 2 * HOUR) & (ts % DAY < 2 * HOUR + LASTS)
    down = planned | ((ts >= SURPRISE) & (ts < SURPRISE + 5 * HOUR))
    return ts, np.where(down, 40, 100) + np.random.default_rng(seed).normal(0, 3, len(ts))


@pytest.fixture
def store(migrated_sqlite: Path, tmp_path: Path) -> SqlStore:
    (tmp_path / "anomaly.db").write_bytes(migrated_sqlite.read_bytes())
    made = SqlStore(f"sqlite:///{tmp_path / 'anomaly.db'}")
    ingest(made, "load", {host: course(number) for number, host in enumerate("ab")})
    return made


def flagged(at: MonitorJob, host: str) -> Sequence[tuple[int, int]]:
    """Return first and last hour since the start of a host's anomalies."""
    found = events(at, Kind.ANOMALY)[host]
    return [((e.interval.start - START) // HOUR, (e.interval.end - START) // HOUR) for e in found]


def overlaps(found: Sequence[tuple[int, int]], start: int, seconds: int) -> bool:
    first, last = (start - START) // HOUR, (start - START + seconds) // HOUR - 1
    return any(a <= last and b >= first for a, b in found)


def test_the_days_of_the_test_are_those_of_the_rule() -> None:
    """The rule counts its second days from 1973; the course from the epoch."""
    from pipelines.steps.regimes import spans

    ts, values = course(0)
    for start, stop in spans(PLANNED, "UTC", START, END - 1):
        assert (values[(ts >= start) & (ts < stop)] < 70).all()


def test_a_planned_drop_is_normal_and_the_same_at_another_time_is_flagged(store: SqlStore) -> None:
    with store:
        at = job(store, SPEC)
        passes.backfill(at, END)
        for host in "ab":
            found = flagged(at, host)
            assert overlaps(found, SURPRISE, 5 * HOUR)
            assert len(found) <= 3


def test_without_the_calendar_nobody_can_tell_them_apart(store: SqlStore) -> None:
    with store:
        at = job(store, replace(SPEC, calendar=()))
        passes.backfill(at, END)
        assert not any(overlaps(flagged(at, host), SURPRISE, 5 * HOUR) for host in "ab")


def test_what_is_announced_counts_before_the_next_fit_and_for_the_series_it_names(store: SqlStore) -> None:
    local = ("2024-10-25T12:00", "2024-10-25T17:00")
    announced = Period("maintenance", spans=(local,), selector={"host": ["a"]})
    with store:
        at = job(store, SPEC)
        passes.backfill(at, END)
        again = job(store, replace(SPEC, calendar=(PLANNED, announced)))
        passes.rescore(again, SURPRISE - DAY, SURPRISE + DAY, END)
        assert not overlaps(flagged(again, "a"), SURPRISE, 5 * HOUR)
        assert overlaps(flagged(again, "b"), SURPRISE, 5 * HOUR)


def test_a_version_keeps_the_names_of_its_regimes_and_samples_them(store: SqlStore) -> None:
    with store:
        at = job(store, SPEC)
        passes.backfill(at, END)
        newest = store.versions([target.id for target in at.targets()])[-1]
        assert list(Recipe.from_json(newest.recipe).regimes) == ["workday", "weekend", "maintenance"]
        cls, config = bank.config_of(newest.detector, newest.origin.params)
        model = bank.unpack(cls, config, [store.weights([newest.weights_id])[newest.weights_id]])
        means = [float(model.sample_of(k, 100).mean()) for k in (0, 2)]  # type: ignore[attr-defined]  # by name
        assert means[0] > means[1] + 1


def test_a_newcomer_borrows_a_model_with_the_regimes_that_it_knows(store: SqlStore) -> None:
    with store:
        ts, values = course(7)
        late = ts >= END - 2 * DAY
        ingest(store, "load", {"new": (ts[late], values[late])})
        at = job(store, replace(SPEC, scope="group"))
        passes.backfill(at, END)
        loans = [v for rows in at.versions(at.targets()).values() for v in rows if v.on_loan]
        assert loans
        for loan in loans:
            assert list(Recipe.from_json(loan.recipe).regimes) == ["workday", "weekend", "maintenance"]
