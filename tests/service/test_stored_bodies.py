"""Whatever a detector makes of a hostile series is JSON, and comes back from both databases as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from databases import Databases
from hostile_series import hostile, on_lattices
from monitor_jobs import END, ingest, job, monitor

from anomaly_service.db.bodies import to_text
from anomaly_service.db.store import SqlStore
from detectors import registry
from pipelines.errors import UnstorableError
from pipelines.jobs import passes
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.monitor import MonitorSpec, NightlyPlan
from pipelines.names import AUTO, RunKind, RunState, Verdict
from pipelines.records import CalibrationRow, Claim, Event, EventPortrait, Json, LineRow, VersionRow
from pipelines.steps.bodies import CalibrationEntry, Holds, LineEntry
from pipelines.store import Batch, NewVersion
from pipelines.times import DAY
from pipelines.workers import members

BANK = hostile() | on_lattices()
OTHERS = ("calm0", "gauge", "spike", "shift", "gap")
"""Hosts with a second metric."""


@dataclass(frozen=True)
class Confirmed:
    """That somebody confirmed an event, which later batches expect of it."""

    event_id: int


Written = NewVersion | CalibrationRow | LineRow | EventPortrait | Batch | Confirmed


def once(**given: Any) -> MonitorSpec:
    """Return a monitor of the bank that is fitted once."""
    return monitor("hostile", fit_every_seconds=30 * DAY, **given)


def brief(name: str) -> MonitorSpec:
    """Return a monitor with this detector; networks train three small steps, which fill as many bodies."""
    if name == AUTO:
        # Its windows of 256 hours settle late: with a late window of two days no night learns of them.
        return once(detector=AUTO, params={}, nightly=NightlyPlan(window_seconds=DAY // 2))
    known = {field.name for field in fields(registry.get(name).Config)}
    few = {key: value for key, value in {"steps": 3, "batch": 16}.items() if key in known}
    return once(detector=name, params={"window": 6, **few})


SPECS = {name: brief(name) for name in (*registry.names(), AUTO)} | {
    "group": once(scope="group"),
    "channels": replace(once(), selector={}, channels=("hostile", "other"), group_by=("host",)),
}


class Recorder(SqlStore):
    """A store that remembers what a job had it write."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.written: list[Sequence[Written]] = []

    def add_versions(self, claim: Claim | None, versions_: Sequence[NewVersion]) -> list[VersionRow]:
        self.written.append(versions_)
        return super().add_versions(claim, versions_)

    def add_calibrations(
        self, claim: Claim | None, rows: Sequence[CalibrationRow], lines: Sequence[LineRow] = ()
    ) -> None:
        self.written += [rows, lines]
        super().add_calibrations(claim, rows, lines)

    def add_lines(self, claim: Claim | None, lines: Sequence[LineRow]) -> None:
        self.written.append(lines)
        super().add_lines(claim, lines)

    def commit(self, claim: Claim | None, batch: Batch) -> list[Event]:
        # It is written again where no models stood anew.
        self.written.append([replace(batch, models=None)])
        return super().commit(claim, batch)

    def write_event_portraits(self, claim: Claim | None, rows: Sequence[EventPortrait]) -> None:
        self.written.append(rows)
        super().write_event_portraits(claim, rows)


@dataclass(frozen=True)
class Made:
    """What one backfill wrote, in order, what it told, and the events that it left."""

    spec: MonitorSpec
    written: list[Sequence[Written]]
    outcome: Json
    events: list[Event]

    def of(self, kind: type) -> list[Any]:
        return [row for rows in self.written for row in rows if isinstance(row, kind)]


def opened(store: SqlStore, spec: MonitorSpec) -> MonitorJob:
    """Return the job of a monitor on a fresh store, with the bank in it."""
    ingest(store, "hostile", BANK)
    if spec.channels:
        ingest(store, "other", {host: BANK[host] for host in OTHERS})
    return job(store, spec)


def events(at: MonitorJob) -> list[Event]:
    return at.store.events([target.id for target in at.targets()], 0, 2**40)


@pytest.fixture(scope="module", params=SPECS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One fit of the bank, all its scores, events and nights, and what is suggested after a review."""
    url = Databases(request, tmp_path_factory.mktemp("made")).fresh("sqlite")
    with Recorder(url) as store:
        at = opened(store, SPECS[request.param])
        outcome = passes.backfill(at, END)
        store.written.append([Confirmed(events(at)[0].id)])
        _write(store, store.written[-1])
        passes.tick(at, END)
        return Made(at.spec, store.written, outcome, events(at))


@pytest.fixture(scope="module")
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    return Databases(request, tmp_path_factory.mktemp("bodies"))


@pytest.fixture(params=Databases.kinds)
def again(request: pytest.FixtureRequest, made: Made, databases: Databases) -> Iterator[MonitorJob]:
    """The job of a fresh database of each kind that was told the same."""
    with SqlStore(databases.fresh(request.param)) as store:
        at = opened(store, made.spec)
        for rows in made.written:
            _write(store, rows)
        yield at


def _write(store: SqlStore, rows: Sequence[Written]) -> None:
    match list(rows):
        case [NewVersion(), *_]:
            store.add_versions(None, rows)
        case [CalibrationRow(), *_]:
            store.add_calibrations(None, rows)
        case [LineRow(), *_]:
            store.add_lines(None, rows)
        case [EventPortrait(), *_]:
            store.write_event_portraits(None, rows)
        case [Batch() as batch]:
            store.commit(None, batch)
        case [Confirmed(event_id)]:
            store.review(event_id, Verdict.CONFIRMED)


def as_json(body: Json | None) -> Json | None:
    """Return a body as strict JSON has it."""
    found: Json | None = json.loads(json.dumps(body, allow_nan=False))
    return found


def test_all_that_a_detector_makes_of_hostile_series_comes_back_as_it_was(
    made: Made, again: MonitorJob
) -> None:
    assert "left_out" not in made.outcome
    _check_versions(made, again)
    _check_calibrations(made, again)
    _check_lines(made, again)
    assert events(again) == made.events != []
    _check_looks(made, again)
    _check_outcome(made, again)


def _check_versions(made: Made, again: MonitorJob) -> None:
    new = {(version.target_id, version.train_stop): version for version in made.of(NewVersion)}
    stored = again.store.versions([target.id for target in again.targets()], every=True)
    assert {(row.target_id, row.train_stop) for row in stored} == new.keys() != set()
    for row in stored:
        version = new[row.target_id, row.train_stop]
        assert row.recipe == as_json(version.recipe)
        assert (row.config, row.card) == (as_json(version.config), as_json(version.card))
        told_from = members.told_from(row.recipe)
        assert members.recipe_of(members.of_version(row), told_from) == row.recipe
        assert row.origin.to_json() == row.config


def _check_calibrations(made: Made, again: MonitorJob) -> None:
    versions = again.store.versions([target.id for target in again.targets()], every=True)
    ids = {(row.target_id, row.train_stop): row.id for row in versions}
    first = {
        (ids[version.target_id, version.train_stop], mode, version.train_stop): body
        for version in made.of(NewVersion)
        for mode, body in version.calibrations.items()
    }
    later = {(row.version_id, str(row.mode), row.valid_from): row.body for row in made.of(CalibrationRow)}
    stored = {
        (row.version_id, str(row.mode), row.valid_from): row.body
        for row in again.store.calibrations(list(ids.values()))
    }
    assert stored == {key: as_json(body) for key, body in (first | later).items()} != {}
    entries = {key: CalibrationEntry.from_json(body) for key, body in stored.items()}
    assert {key: entry.to_json() for key, entry in entries.items()} == stored
    assert {entry.holds for entry in entries.values()} >= {Holds.FIT, Holds.SEEN}


def _check_lines(made: Made, again: MonitorJob) -> None:
    written = {(row.target_id, row.mode, row.valid_from): row.body for row in made.of(LineRow)}
    stored = {
        (row.target_id, row.mode, row.valid_from): row.body for row in again.store.lines(again.monitor.id)
    }
    assert stored == {key: as_json(body) for key, body in written.items()} != {}
    assert {key: LineEntry.from_json(body).to_json() for key, body in stored.items()} == stored


def _check_looks(made: Made, again: MonitorJob) -> None:
    written = {look.event_id: replace(look, shape=as_json(look.shape)) for look in made.of(EventPortrait)}
    looks = [look for _, look in again.store.event_portraits(again.monitor.id, 10_000) if look is not None]
    assert {look.event_id: look for look in looks} == written != {}


def _check_outcome(made: Made, again: MonitorJob) -> None:
    at = datetime.fromtimestamp(END, UTC)
    again.store.schedule(RunKind.BACKFILL, again.monitor.id, at)
    claim = again.store.claim("me", 60)
    assert claim is not None
    again.store.finish(claim, RunState.DONE, made.outcome)
    assert isinstance(again.store, SqlStore)
    (row,) = again.store.rows("run_log")
    assert row["outcome"] == as_json(made.outcome)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"channels": [{"counts": np.bool_(1)}]}, r"a numpy\.bool\w* \(.*True.*\) at channels\[0\]\.counts"),
        ({"n": np.int64(3)}, r"a numpy\.int64 \(.*3.*\) at n"),
        ({"knots": [0.5, np.float32(1)]}, r"a numpy\.float32 \(.*1\.0.*\) at knots\[1\]"),
        ({"mean": float("nan")}, "nan at mean"),
        ({"mean": np.float64("-inf")}, "-inf at mean"),
        ({"shares": {(1, 2): 0.5}}, r"the key \(1, 2\) at shares"),
    ],
)
def test_what_is_no_json_is_refused_by_name(body: Json, named: str) -> None:
    with pytest.raises(UnstorableError, match=f"^expected JSON, got {named}$"):
        to_text(body)
