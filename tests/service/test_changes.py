"""Promises 5 and 8, and changes of the config: what was there stays, and what is new holds from then on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from monitor_jobs import DAYS, END, HOUR, START, Course, events, hours, ingest, job, monitor, spans, waves

from anomaly_service.cli import main
from anomaly_service.config.errors import ConfigError
from anomaly_service.config.load import load
from anomaly_service.db.store import SqlStore
from anomaly_service.service import Service
from pipelines.executor import Inline
from pipelines.jobs import passes
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import Kind, Status, Verdict
from pipelines.records import Event
from pipelines.times import DAY

# Both serve passes alike: test_passes holds them to that, and the contract of the store to what is asked.
pytestmark = pytest.mark.databases("sqlite")

NOW = datetime.fromtimestamp(END, UTC)
LOAD: dict[str, Any] = {
    "series": {"metric": "load"},
    "detector": "gaussian",
    "params": {"window": 6},
    "fit": {"every": "4d", "window": "10d", "stagger": False},
    "threshold": {"alarms_per_week": 1},
    "policy": {"merge_max_gap": "2h"},
}


def incidents(*numbers: int) -> dict[str, Course]:
    """Return waves with a drop of six hours and, weaker, a bump of one."""
    found = {}
    for number in numbers:
        ts, value = waves(number)
        value[400 + 30 * number : 406 + 30 * number] *= 0.3
        value[300 + 9 * number] += 24
        found[str(number)] = (ts, value)
    return found


@pytest.fixture
def filled(store: SqlStore) -> SqlStore:
    """A store with the points of three hosts."""
    ingest(store, "load", incidents(0, 1, 2))
    return store


class Place:
    """A folder with a config file on a database, and the service on it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.file = folder / "anomaly.yaml"
        self.url = url

    def write(self, **sections: Any) -> Path:
        sections = {"database": self.url, "workers": 1, "nightly": {"window": "2d"}} | sections
        self.file.write_text(yaml.safe_dump(sections, allow_unicode=True))
        return self.file

    def service(self, **sections: Any) -> Service:
        if sections:
            self.write(**sections)
        return Service(load(self.file), now=NOW, executor=Inline())


@pytest.fixture
def place(tmp_path: Path, database_url: str, filled: SqlStore) -> Place:
    return Place(tmp_path, database_url)


def flagged(service: Service) -> list[dict[str, Any]]:
    return service.store.rows("flagged_intervals")


def stored(service: Service) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of the views that tell of events and monitors, without times of the wall."""
    wanted = (
        "event_id",
        "monitor",
        "series",
        "kind",
        "start_at",
        "end_at",
        "status",
        "review_verdict",
        "revision",
    )
    return {
        "events": sorted(tuple(row[name] for name in wanted) for row in flagged(service)),
        "monitors": [(row.name, row.enabled, json.dumps(row.config)) for row in service.store.monitors()],
    }  # fmt: skip


# -- the config ---------------------------------------------------------------------


def test_a_removed_monitor_is_disabled_and_keeps_its_events_and_reviews(place: Place) -> None:
    with place.service(monitors={"load": LOAD}) as service:
        service.backfill()
        event = flagged(service)[0]["event_id"]
        service.store.review(event, Verdict.CONFIRMED, by="ann")
        before = stored(service)["events"]
    with place.service(monitors={"other": LOAD | {"series": {"metric": "none"}}}) as service:
        service.backfill()
        service.nightly()
        assert stored(service)["events"] == before
        assert {row.name: row.enabled for row in service.store.monitors()} == {"load": False, "other": True}
        assert len(service.store.reviews(event)) == 1
    with place.service(monitors={"load": LOAD}) as service:
        assert service.backfill()["load"]["fitted"] == 0
        assert stored(service)["events"] == before


def test_a_renamed_monitor_keeps_targets_events_and_reviews(place: Place) -> None:
    with place.service(monitors={"load": LOAD}) as service:
        service.backfill()
        event = flagged(service)[0]["event_id"]
        service.store.review(event, Verdict.EXPECTED, by="ann")
        before = stored(service)["events"]
    with place.service(monitors={"strain": LOAD | {"renamed_from": "load"}}) as service:
        (row,) = [each for each in service.sync() if each[1].name == "strain"]
        assert MonitorSpec.from_json(row[0].config) == row[1]
        done = service.nightly()["strain"]
        assert done["fitted"] == 0
        assert {row.name for row in service.store.monitors()} == {"strain"}
        renamed = [
            (id_, str(monitor).replace("strain", "load"), *rest)
            for id_, monitor, *rest in stored(service)["events"]
        ]
        assert renamed == before
        assert [row["verdict"] for row in service.store.reviews(event)] == ["expected"]


@pytest.mark.parametrize(
    "wrong", [{"detector": "gausian"}, {"threshold": {"alarms_per_week": -1}}, {"serie": {}}]
)  # fmt: skip
def test_a_bad_config_changes_nothing(place: Place, wrong: dict[str, Any]) -> None:
    with place.service(monitors={"load": LOAD}) as service:
        service.sync()
        before = stored(service)
    place.write(monitors={"load": LOAD | wrong, "new": LOAD})
    with pytest.raises(ConfigError):
        load(place.file)
    for command in ("backfill", "rescore", "validate"):
        span = ("--from", "2024-10-01", "--to", "2024-10-10") if command == "rescore" else ()
        assert cli(command, *span, "--config", str(place.file))[0] != 0
    with place.service(monitors={"load": LOAD}) as service:
        assert stored(service) == before


def cli(*args: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it printed."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as exited:
        main(list(args))
    code = exited.value.code
    return (code if isinstance(code, int) else int(code is not None)), out.getvalue()


# -- another detector, line or policy -----------------------------------------------


def anomalies(store: SqlStore, spec: MonitorSpec) -> list[Event]:
    return [e for own in events(job(store, spec), Kind.ANOMALY).values() for e in own]


def test_another_detector_scores_from_the_next_night_on_and_keeps_events_and_reviews(
    filled: SqlStore,
) -> None:
    spec = monitor("load")
    at = job(filled, spec)
    passes.backfill(at, END - DAY)
    before = anomalies(filled, spec)
    for event in before:
        filled.review(event.id, Verdict.CONFIRMED, by="ann")
    other = replace(spec, detector="robust_z")
    done = passes.nightly(job(filled, other), END, END)
    assert done["fitted"] == 3
    newest = {t.id: filled.versions([t.id])[-1] for t in at.targets()}
    assert {v.detector for v in newest.values()} == {"robust_z"}
    kept = {e.id: e for e in anomalies(filled, other)}
    for event in before:
        assert kept[event.id].interval == event.interval
        assert len(filled.reviews(event.id)) == 1
    recent = filled.scores(list(newest), END - 6 * HOUR, END)
    assert set(recent.version) == {v.id for v in newest.values()}
    # The past keeps what it has, even rescored, until a backfill fits it with the new detector too.
    assert passes.rescore(job(filled, other), START, END, END).vanished == []
    assert passes.backfill(job(filled, other), END)["fitted"] == 9
    assert passes.backfill(job(filled, other), END)["fitted"] == 0
    kept = {e.id: e for e in filled.events(list(newest), 0, 2**40)}
    for event in before:
        assert kept[event.id].reviewed
        assert kept[event.id].status in (Status.CLOSED, Status.BELOW_LINE)


def test_another_threshold_moves_the_line_of_the_past_when_it_is_rescored(filled: SqlStore) -> None:
    spec = monitor("load", threshold=Threshold(alarms_per_week=20.0))
    at = job(filled, spec)
    passes.backfill(at, END)
    passes.nightly(at, END, END)
    before = anomalies(filled, spec)
    lines = {(row.mode, row.valid_from): row.body for row in filled.lines(at.monitor.id)}
    strict = job(filled, replace(spec, threshold=Threshold(alarms_per_week=0.2)))

    said = passes.rescore(strict, START, END, END, dry_run=True)
    assert len(said.vanished) >= 3
    assert {(row.mode, row.valid_from): row.body for row in filled.lines(at.monitor.id)} == lines
    assert anomalies(filled, strict.spec) == before

    done = passes.rescore(strict, START, END, END)
    assert {c.event_id for c in done.vanished} == {c.event_id for c in said.vanished}
    after = anomalies(filled, strict.spec)
    assert {e.id for e in before} - {c.event_id for c in done.vanished} == {e.id for e in after}
    assert {(row.mode, row.valid_from) for row in filled.lines(at.monitor.id)} == set(lines)

    back = job(filled, spec)
    assert {c.event_id for c in passes.rescore(back, START, END, END).changed} >= {
        c.event_id for c in done.vanished
    }
    assert spans(anomalies(filled, spec)) == spans(before)


def test_a_rescored_span_has_the_line_that_a_backfill_with_that_threshold_draws(
    new_store: Callable[[], SqlStore],
) -> None:
    found = []
    for first in (
        Threshold(alarms_per_week=9.0),
        Threshold(method="sigma", value=2.0, per="series"),
        Threshold(),
    ):
        store = new_store()
        ingest(store, "load", incidents(0, 1, 2))
        passes.backfill(job(store, monitor("load", threshold=first)), END)
        last = job(store, monitor("load", threshold=Threshold()))
        passes.rescore(last, START, END, END)
        passes.nightly(last, END, END)
        own = [t.id for t in last.targets()]
        # Scores before the first night are cross-fitted, and keep the line they were given.
        scores = store.scores(own, START + 11 * DAY, END)
        late = {
            host: [e for e in of if e.interval.start > START + 11 * DAY] for host, of in events(last).items()
        }
        found.append(({host: spans(of) for host, of in late.items()}, scores.settled_anomaly))
    for intervals, anomaly in found[:-1]:
        assert intervals == found[-1][0]
        np.testing.assert_allclose(anomaly, found[-1][1], rtol=1e-5)


def test_another_policy_holds_for_what_is_rescored(filled: SqlStore) -> None:
    spec = monitor("load", threshold=Threshold(alarms_per_week=9.0))
    passes.backfill(job(filled, spec), END)
    passes.nightly(job(filled, spec), END, END)
    before = anomalies(filled, spec)
    longer = replace(spec, policy=replace(spec.policy, min_duration_seconds=3 * HOUR))
    passes.rescore(job(filled, longer), START + 11 * DAY, END, END)
    after = [e for e in anomalies(filled, longer) if e.interval.start > START + 12 * DAY]
    assert after
    assert all(e.interval.end - e.interval.start >= 2 * HOUR for e in after)
    assert {e.id for e in after} < {e.id for e in before}


# -- kinds of monitors --------------------------------------------------------------


@pytest.mark.parametrize(
    "threshold",
    [
        Threshold(alarms_per_week=0.5, per="series"),
        Threshold(method="quantile", value=0.01),
        Threshold(method="sigma", value=3.0),
        Threshold(method="sigma", value=3.0, per="series"),
        Threshold(method="dynamic"),
    ],
    ids=lambda threshold: f"{threshold.method}-{threshold.per}",
)
def test_every_threshold_finds_the_incidents(filled: SqlStore, threshold: Threshold) -> None:
    at = job(filled, monitor("load", threshold=threshold))
    passes.backfill(at, END)
    passes.nightly(at, END, END)
    for host, own in events(at, Kind.ANOMALY).items():
        drop = 400 + 30 * int(host)
        assert any(a <= drop + 5 and b >= drop for _, a, b in spans(own))
        assert len(own) <= 8
    owners = {row.target_id for row in filled.lines(at.monitor.id)}
    assert owners == {None, *(t.id for t in at.targets() if threshold.per == "series")}


def test_storing_scores_near_events_only_changes_no_event(new_store: Callable[[], SqlStore]) -> None:
    found, rows, kept = [], [], []
    for scores in ("dense", "near_events"):
        store = new_store()
        ingest(store, "load", incidents(0, 1, 2))
        at = job(store, monitor("load", scores=scores))
        passes.backfill(at, END - 5 * DAY)
        for day in (4, 3, 2, 1, 0):
            passes.tick(at, END - day * DAY)
            passes.nightly(at, END - day * DAY, END - day * DAY)
        found.append({host: spans(own) for host, own in events(at).items()})
        block = store.scores([t.id for t in at.targets()], 0, 2**40)
        rows.append(len(block.ts))
        kept.append({
            (int(t), int(ts)): (score, anomaly)
            for t, ts, score, anomaly in zip(
                block.target, block.ts, block.settled, block.settled_anomaly, strict=True
            )
        })  # fmt: skip
    assert found[0] == found[1]
    assert rows[1] < 0.5 * rows[0]
    dense, near = kept
    for at_key, (score, anomaly) in near.items():
        np.testing.assert_allclose(score, dense[at_key][0], rtol=1e-5)
        assert anomaly == pytest.approx(dense[at_key][1], rel=1e-5, nan_ok=True)
    assert {key for key, (_, anomaly) in dense.items() if anomaly >= 1.0} <= set(near)


def test_a_group_shares_one_model_and_takes_in_a_series_that_joins_later(filled: SqlStore) -> None:
    spec = monitor("load", scope="group")
    passes.backfill(job(filled, spec), END - 12 * DAY)
    ts, value = waves(3, hours(END - 13 * DAY))
    value[-30:-24] *= 0.3
    ingest(filled, "load", {"3": (ts, value)})
    at = job(filled, spec)
    for day in (9, 6, 3, 1, 0):
        passes.nightly(at := job(filled, spec), END - day * DAY, END - day * DAY)
    shared: dict[int, set[int]] = {}
    for version in filled.versions([t.id for t in at.targets()]):
        shared.setdefault(version.train_stop, set()).add(version.weights_id)
    assert all(len(weights) == 1 for weights in shared.values())
    found = events(at, Kind.ANOMALY)
    for host in "012":
        drop = 400 + 30 * int(host)
        assert any(a <= drop + 5 and b >= drop for _, a, b in spans(found[host]))
    last = DAYS * 24
    assert any(a <= last - 25 and b >= last - 30 for _, a, b in spans(found["3"]))


def test_series_of_different_steps_stand_in_one_monitor(filled: SqlStore) -> None:
    ts = np.arange(START, END, 300)
    rng = np.random.default_rng(4)
    value = 100 + 20 * np.sin(2 * np.pi * ts / DAY) + rng.normal(0, 3, len(ts))
    value[12 * 420 : 12 * 424] *= 0.3
    ingest(filled, "load", {"fast": (ts, value)}, step_seconds=300)
    at = job(filled, monitor("load"))
    passes.backfill(at, END)
    passes.nightly(at, END, END)
    found = events(at, Kind.ANOMALY)
    for host in "012":
        drop = 400 + 30 * int(host)
        assert any(a <= drop + 5 and b >= drop for _, a, b in spans(found[host]))
    assert any(a <= 423 and b >= 420 for _, a, b in spans(found["fast"]))
