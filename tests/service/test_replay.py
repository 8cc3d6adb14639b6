"""A replay raises what the daemon raised, and leaves everything as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databases import Databases

from anomaly_service.config.load import load
from anomaly_service.daemon.loop import Daemon
from anomaly_service.daemon.workload import Workload, workload_of
from anomaly_service.db.store import SqlStore
from anomaly_service.measure.replays import replay, tried
from anomaly_service.service import Service
from anomaly_service.sources.ingest import ingest_from
from pipelines.executor import Inline
from pipelines.jobs.fit_times import nights
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.steps.reconcile import SAME, SAME_IMPACT
from pipelines.times import DAY

START = int(datetime(2024, 6, 3, tzinfo=UTC).timestamp())
STEP = 900
BEGIN = START + 8 * DAY + 5 * 3600
END = BEGIN + 2 * DAY
"""The days that the daemon lives through; before them lies history."""

CONFIG = """\
database: {database}
sources:
  telemetry: {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [realm],
    step: 15min, delay: 2min, timezone: UTC}}
monitors:
  players:
    series: {{metric: ccu}}
    detector: gaussian
    params: {{window: 8}}
    season: daily
    fit: {{every: 1d, window: 5d}}
    infer_every: 30min
    threshold: {{alarms_per_week: 20}}
    policy: {{min_duration: 30min, merge_max_gap: 30min}}
  each-login:
    series: {{metric: logins}}
    detector: robust_z
    params: {{window: 4}}
    season: daily
    fit: {{every: 2d, window: 5d}}
    infer_every: 1h
    threshold: {{alarms_per_week: 3, per: series}}
    policy: {{detection_direction: below_expected, min_rel_dev_from_expected: 10%}}
nightly: {{at: "03:15", timezone: UTC, window: 1d}}
workers: 1
"""
SPANS = (0.03, 0.3, 0.45, 0.6, 1.1, 1.35, 1.6)
"""When something is wrong, in days after the nights: never in the hours around one."""

TOLD = (
    "series", "monitor", "detector", "kind", "start_at", "end_at", "direction", "peak_at", "peak_score",
    "mean_score", "n_points", "y_at_peak", "yhat_at_peak", "impact", "first_detected_at",
)  # fmt: skip


def series(metric: str, realm: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ten days of one series, with something wrong a few times a day."""
    ts = np.arange(START, END + DAY, STEP)
    rng = np.random.default_rng([len(metric), realm])
    level = 1000 * (realm + 2) * (1 + 0.4 * np.sin(2 * np.pi * (ts % DAY) / DAY))
    values = level * (1 + 0.03 * rng.standard_normal(len(ts)))
    first_night = nights(_plan(), BEGIN - DAY, BEGIN)[-1]
    for number, day in enumerate((-3.4, -1.6, *SPANS)):
        begin = first_night + (day + 0.01 * realm) * DAY + 2 * 3600
        hit = (ts >= begin) & (ts < begin + 5400)
        values[hit] *= 0.4 if (number + realm) % 2 else 1.7
    keep = np.ones(len(ts), dtype=bool)
    if realm == 1:
        gap = first_night + 1.2 * DAY
        keep = (ts < gap) | (ts >= gap + 2 * 3600)
    return ts[keep], np.round(values)[keep]


def _plan() -> Any:
    from pipelines.monitor import NightlyPlan

    return NightlyPlan(at_seconds=3 * 3600 + 900, timezone="UTC", window_seconds=DAY)


@dataclass
class World:
    """Files that appear as time goes by, and the real daemon at work on them."""

    folder: Path
    database: str
    now: int = 0

    def __post_init__(self) -> None:
        (self.folder / "drop").mkdir(parents=True)
        self.config.write_text(CONFIG.format(database=self.database))
        self.courses = [(m, r, *series(m, r)) for m in ("ccu", "logins") for r in range(3)]

    @property
    def config(self) -> Path:
        return self.folder / "anomaly.yaml"

    def advance(self, now: int) -> None:
        """Deliver the points that have come by now, two minutes after their time."""
        lines = [
            f"{t},{metric},r{realm},{v:.0f}\n"
            for metric, realm, ts, values in self.courses
            for t, v in zip(ts, values, strict=True)
            if self.now - 120 < t <= now - 120
        ]
        with (self.folder / "drop" / "all.csv").open("a") as file:
            file.write(("" if file.tell() else "ts,metric,realm,value\n") + "".join(lines))
        self.now = now

    def daemon(self) -> Daemon:
        def clock() -> datetime:
            return datetime.fromtimestamp(self.now, UTC)

        class Clocked(Service):
            @property
            def now(self) -> datetime:
                return clock()

        def workload() -> Workload:
            return workload_of(Clocked(load(self.config), executor=Inline()))

        return Daemon(workload, clock=clock)

    def live_through(self) -> list[dict[str, Any]]:
        """Let the daemon live through two days; return what it had raised before each night settled it."""
        raised: list[dict[str, Any]] = []
        asleep = nights(_plan(), BEGIN, END + DAY)
        since = BEGIN
        daemon = self.daemon()
        with daemon._in_charge():
            for now in range(BEGIN, END + 1, 1800):
                self.advance(now)
                daemon._do_what_is_due()
                if asleep[0] - 1800 <= now < asleep[0] or now + 1800 > END:
                    raised += self.flagged(since, now + 1)
                    since = now + 1
                if now >= asleep[0]:
                    asleep = asleep[1:]
        return sorted(raised, key=_order)

    def flagged(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return what was raised in a day; what began before it, a night has found with hindsight."""
        with SqlStore(self.database) as store:
            rows = store.rows("flagged_intervals")
        return [
            row
            for row in rows
            if iso(start) <= row["first_detected_at"] < iso(stop) and row["start_at"] >= iso(start)
        ]

    def specs(self) -> dict[str, MonitorSpec]:
        return load(self.config).monitor_specs()


def iso(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _order(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["monitor"], row["series"], row["start_at"])


def told(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in TOLD} for row in sorted(rows, key=_order)]


Lived = tuple[World, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def lived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """A world that a daemon has lived through, and what it raised live, day by day."""
    folder = tmp_path_factory.mktemp("world")
    world = World(folder / "world", Databases(request, folder).fresh("sqlite"))
    world.advance(BEGIN - 3600)
    with Service(
        load(world.config), now=datetime.fromtimestamp(world.now, UTC), executor=Inline()
    ) as service:
        ingest_from(service.config, service.store, service.now)
        service.backfill()
    return world, world.live_through()


def replayed(world: World, specs: dict[str, MonitorSpec], start: int = BEGIN) -> list[Any]:
    with SqlStore(world.database) as store:
        return replay(store, Inline(), specs, start, END + 1, lambda stage, share: None)


def test_a_replay_raises_what_the_daemon_raised_row_for_row(
    lived: Lived,
) -> None:
    world, raised = lived
    found = replayed(world, world.specs())
    rows = [row for each in found for row in each.intervals]
    assert len(raised) >= 15
    assert {row["kind"] for row in raised} >= {"anomaly", "data_missing"}
    ours, theirs = told(rows), told(raised)
    assert [_exact(row) for row in ours] == [_exact(row) for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name, value in one.items():
            if isinstance(value, float):
                # What reconciling calls the same: an event is not written again for less.
                same = SAME_IMPACT if name in ("yhat_at_peak", "impact") else SAME
                assert math.isclose(value, other[name], rel_tol=same), (name, one, other)
    assert [each.fitted for each in found] == [0, 0]


def _exact(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not isinstance(value, float)}


def test_a_replay_without_stored_models_fits_those_that_the_daemon_did(
    lived: Lived, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    world, _ = lived
    fresh = World(tmp_path / "world", Databases(request, tmp_path).fresh("sqlite"))
    fresh.advance(END)
    with Service(load(fresh.config), executor=Inline()) as service:
        ingest_from(service.config, service.store, service.now)
    specs = {"each-login": fresh.specs()["each-login"]}
    (stored,), (fitted,) = replayed(world, specs), replayed(fresh, specs)
    assert fitted.fitted > 0
    # Without what earlier nights have seen lines lie elsewhere; what is far above any is raised by both.
    high = {(row["series"], row["start_at"]) for row in stored.intervals if row["peak_score"] > 1.5}
    assert high
    assert high <= {(row["series"], row["start_at"]) for row in fitted.intervals}


def test_a_replay_touches_nothing_that_is_stored(lived: Lived) -> None:
    world, _ = lived

    def everything() -> list[Any]:
        with SqlStore(world.database) as store:
            ids = [t.id for row in store.monitors() for t in store.targets(row.id)]
            scores = store.scores(ids, 0, 2**40)
            return [
                store.rows("flagged_intervals"),
                store.rows("run_log"),
                store.rows("model_cards"),
                [store.lines(row.id) for row in store.monitors()],
                store.monitors(),
                scores.live_anomaly.tobytes(),
                scores.settled_anomaly.tobytes(),
            ]

    before = everything()
    other = {
        name: tried(spec, Threshold(alarms_per_week=40.0), "robust_z") for name, spec in world.specs().items()
    }
    assert replayed(world, other)
    assert everything() == before


def test_a_larger_budget_raises_more_and_keeps_the_models(lived: Lived) -> None:
    world, _ = lived
    few, many = (
        replayed(world, {"players": tried(world.specs()["players"], Threshold(alarms_per_week=n), None)})[0]
        for n in (2.0, 200.0)
    )
    assert (few.fitted, many.fitted) == (0, 0)
    assert len(few.intervals) < len(many.intervals)
    assert many.asked == pytest.approx(200 * 2 / 7, rel=0.01)


def test_another_detector_is_fitted_for_the_span_alone(lived: Lived) -> None:
    world, _ = lived
    spec = tried(world.specs()["players"], None, "kde")
    assert (spec.detector, spec.params) == ("kde", {"window": 8})
    (found,) = replayed(world, {"players": spec})
    # Three series: the model in force when the span begins, and those of its nights.
    assert found.fitted == 3 * (1 + len(nights(_plan(), BEGIN + 1, END)))
    assert {row["detector"] for row in found.intervals} == {"kde"}


def test_a_replay_knows_nothing_of_what_came_after_it(lived: Lived) -> None:
    world, raised = lived
    middle = nights(_plan(), BEGIN, END)[0] - 1800
    with SqlStore(world.database) as store:
        found = replay(store, Inline(), world.specs(), BEGIN, middle, lambda stage, share: None)
    rows = [row for each in found for row in each.intervals]
    early = [row for row in raised if row["first_detected_at"] < iso(middle)]
    assert [_exact(row) for row in told(rows)] == [_exact(row) for row in told(early)]


def test_the_per_series_budget_of_a_monitor_stays_one_per_series() -> None:
    spec = MonitorSpec("m", {}, threshold=Threshold(alarms_per_week=3.0, per="series"))
    assert tried(spec, Threshold(alarms_per_week=9.0), None).threshold == replace(
        spec.threshold, alarms_per_week=9.0
    )
