"""A target that cannot be fitted, scored or stored is left out alone, and everywhere it is said why."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Result, anomaly
from monitor_jobs import END, HOUR, Course, hours, ingest, job, monitor, waves

from anomaly_service.config.load import load
from anomaly_service.daemon.loop import Daemon
from anomaly_service.daemon.workload import Workload, workload_of
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import DatabaseUnavailableError
from anomaly_service.service import Service
from pipelines.errors import LostClaimError, StaleEventsError
from pipelines.executor import Inline
from pipelines.jobs import group_loans, passes, refit
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.names import Kind, RunKind, RunState
from pipelines.records import CalibrationRow, Points, TargetRow
from pipelines.steps.bodies import CalibrationEntry, LineEntry
from pipelines.store import Batch, NewVersion
from pipelines.times import DAY
from pipelines.workers import fit, judge, recount
from pipelines.workers.fit import FitTarget, FitTask, fit_targets

# Who is left out is decided before any database is asked; that both are told the same is shown by some.
pytestmark = pytest.mark.databases("sqlite")
both = pytest.mark.databases("sqlite", "postgresql")

BAD = "load{host=b}"
HOSTS = ("a", "b", "c", "d")
NO_JSON = r"UnstorableError: expected JSON, got a numpy\.bool\w* \(.*False.*\) at "

Patch = pytest.MonkeyPatch


def ingested(store: SqlStore, courses: dict[str, Course] | None = None, **given: Any) -> MonitorJob:
    ingest(store, "load", {host: waves(seed) for seed, host in enumerate(HOSTS)} | (courses or {}))
    return job(store, monitor("load", **given))


def again(at: MonitorJob) -> MonitorJob:
    """Return the next job of the same monitor."""
    return job(at.store, at.spec)  # type: ignore[arg-type]  # a SqlStore in these tests


def fails(patch: Patch, owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Have a function raise where what it is given is bad."""
    true = getattr(owner, name)

    def failing(*args: Any, **named: Any) -> Any:
        if when(*args):
            raise ArithmeticError("no luck")
        return true(*args, **named)

    patch.setattr(owner, name, failing)


def with_model(at: MonitorJob) -> set[str]:
    keys = {target.id: target.key for target in at.targets()}
    return {keys[i] for i, versions in at.versions(at.targets()).items() if versions}


def scored_until(at: MonitorJob) -> dict[str, int | None]:
    return {target.key: target.scored_until for target in at.targets()}


def others(at: MonitorJob) -> set[str]:
    return {target.key for target in at.targets()} - {BAD}


# -- fits -----------------------------------------------------------------------------


def asked() -> tuple[FitTarget, ...]:
    """Return the targets of a fit on ten days of hours."""
    found = []
    for number, host in enumerate(HOSTS):
        target = TargetRow(number, 1, f"load{{host={host}}}", (number,), HOUR, "UTC", 0)
        ts, value = waves(number)
        found.append(FitTarget(target, (Points(ts, value),), int(ts[0]), int(ts[0]) + 10 * DAY))
    return tuple(found)


FIT_STAGES: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "prepared": (fit._Fits, "_prepare", lambda _, own: own.target.key == BAD),
    "fitted": (fit._Fits, "_fit_bank", lambda _, ready: BAD in {own.asked.target.key for own in ready}),
    "calibrated": (fit, "_fitted", lambda _, own, *rest: own.target.key == BAD),
}


@pytest.mark.parametrize("stage", FIT_STAGES)
@pytest.mark.parametrize("scope", ["series", "group"])
def test_one_target_whose_fit_fails_costs_nobody_else_a_model(
    monkeypatch: Patch, stage: str, scope: str
) -> None:
    fails(monkeypatch, *FIT_STAGES[stage])
    outcome = fit_targets(FitTask(monitor("load", scope=scope), asked()))
    assert [each.target_id for each in outcome.fitted] == [0, 2, 3]
    assert [(each.key, each.why, each.failed) for each in outcome.not_ready] == [
        (BAD, "the fit failed: ArithmeticError: no luck", True)
    ]


def test_one_target_that_auto_cannot_look_at_costs_nobody_else_a_model(monkeypatch: Patch) -> None:
    fails(monkeypatch, fit, "_habits", lambda _, own: BAD in {each.target.key for each in own})
    outcome = fit_targets(FitTask(monitor("load", detector="auto", params={}), asked()))
    assert [each.target_id for each in outcome.fitted] == [0, 2, 3]
    assert [each.failed for each in outcome.not_ready] == [True]


def test_a_group_that_fails_though_none_of_its_targets_does_alone_fails_for_all(monkeypatch: Patch) -> None:
    fails(monkeypatch, fit._Fits, "_fit_bank", lambda _, ready: len(ready) == len(HOSTS))
    outcome = fit_targets(FitTask(monitor("load", scope="group"), asked()))
    assert not outcome.fitted
    assert [each.why for each in outcome.not_ready] == ["the fit failed: ArithmeticError: no luck"] * 4


def test_a_failed_fit_is_told_and_the_others_are_stored_and_scored(
    store: SqlStore, monkeypatch: Patch
) -> None:
    at = ingested(store)
    fails(monkeypatch, *FIT_STAGES["calibrated"])
    done = passes.backfill(at, END)
    assert with_model(at) == others(at)
    assert done["left_out_why"] == [f"{BAD}: the fit failed: ArithmeticError: no luck"]
    assert (done["left_out"], done["not_ready"]) == (1, 0)


def test_a_newcomer_whose_loan_fails_is_left_out_alone(store: SqlStore, monkeypatch: Patch) -> None:
    late = {host: waves(seed, hours(END - 3 * DAY)) for seed, host in enumerate("bd")}
    at = ingested(store, late, scope="group")
    fails(
        monkeypatch, group_loans.newcomer, "learn", lambda points, *_: points[0].value[0] == late["b"][1][0]
    )
    done = passes.backfill(at, END)
    assert with_model(at) == others(at)
    assert done["left_out_why"] == [f"{BAD}: no model is lent: ArithmeticError: no luck"]


# -- storing --------------------------------------------------------------------------


def spoil(patch: Patch, name: str, spoilt: Callable[[Any], Any]) -> None:
    """Have a method of the store be given, in place of what a job gives it, what is spoilt."""
    true = getattr(SqlStore, name)

    def given(self: SqlStore, claim: Any, what: Any, *rest: Any) -> Any:
        return true(self, claim, spoilt(what), *rest)

    patch.setattr(SqlStore, name, given)


def spoilt_rows(change: Callable[[Any], Any], bad: Callable[[Any], bool]) -> Callable[[Any], Any]:
    return lambda rows: [change(row) if bad(row) else row for row in rows]


def with_numpy(version: NewVersion) -> NewVersion:
    return replace(version, card={**version.card, "counts": np.bool_(0)})


def with_endless(version: NewVersion) -> NewVersion:
    bodies = {mode: {**body, "mean": float("inf")} for mode, body in version.calibrations.items()}
    return replace(version, calibrations=bodies)


@both
@pytest.mark.parametrize(
    ("scope", "change", "why"),
    [
        ("series", with_endless, "UnstorableError: expected JSON, got inf at mean"),
        ("group", with_numpy, NO_JSON + "counts"),
    ],
)
def test_a_version_that_cannot_be_stored_is_left_out_alone(
    store: SqlStore, monkeypatch: Patch, scope: str, change: Callable[[NewVersion], NewVersion], why: str
) -> None:
    at = ingested(store, scope=scope)
    bad = target_id(at)
    spoil(monkeypatch, "add_versions", spoilt_rows(change, lambda version: version.target_id == bad))
    # In a group it would be lent the model of the others, which cannot be stored either.
    done = passes.backfill(at, END)
    assert with_model(at) == others(at)
    assert scored_until(at).keys() - {key for key, until in scored_until(at).items() if until} == {BAD}
    (told,) = done["left_out_why"]
    assert re.fullmatch(re.escape(BAD) + ": not stored: " + why, told)


def test_many_versions_are_stored_in_one_call_and_one_bad_one_costs_few_more(
    store: SqlStore, monkeypatch: Patch
) -> None:
    ingest(store, "load", {str(number): waves(number) for number in range(32)})
    at = job(store, monitor("load", fit_every_seconds=30 * DAY))
    calls: list[int] = []
    bad: set[int] = set()

    def spoilt(versions: Sequence[NewVersion]) -> Sequence[NewVersion]:
        calls.append(len(versions))
        return [with_numpy(each) if each.target_id in bad else each for each in versions]

    spoil(monkeypatch, "add_versions", spoilt)
    wanted = refit.due(at, END, missing=True)
    refit.refit(at, wanted)
    assert calls == [32]
    calls.clear()
    bad.add(at.targets()[7].id)
    refit.refit(again(at), wanted, generation=1)
    assert len(calls) == 1 + 2 * 5
    assert len(store.versions([target.id for target in at.targets()])) == 32 + 31


def target_id(at: MonitorJob, key: str = BAD) -> int:
    return next(target.id for target in at.targets() if target.key == key)


def odd_event(batch: Batch, bad: int) -> Batch:
    """Return a batch whose new events of one target peak at no number."""
    changes = [
        replace(each, interval=replace(each.interval, peak_score=float("nan")))
        if each.target_id == bad
        else each
        for each in batch.changes
    ]
    return replace(batch, changes=changes)


def with_incidents() -> dict[str, Course]:
    """Return series that all have the same incident in their last day."""
    courses = {host: waves(seed) for seed, host in enumerate(HOSTS)}
    for _, value in courses.values():
        value[-12:-8] += 200
    return courses


@both
def test_a_target_whose_events_cannot_be_stored_is_left_out_alone(
    store: SqlStore, monkeypatch: Patch
) -> None:
    at = ingested(store, with_incidents())
    passes.backfill(at, END - DAY)
    before = scored_until(at)
    bad = target_id(at)
    spoil(monkeypatch, "commit", lambda batch: odd_event(batch, bad))
    at = again(at)
    done = passes.tick(at, END)
    moved = {key for key, until in scored_until(at).items() if until != before[key]}
    assert moved == others(at)
    assert {event.target_id for event in store.events(list(range(1, 99)), END - DAY, END)} == {
        target_id(at, key) for key in others(at)
    }
    (told,) = done["left_out_why"]
    assert told.startswith(f"{BAD}: not stored: UnstorableError: expected a finite peak_score")
    monkeypatch.undo()
    at = again(at)
    assert "left_out" not in passes.tick(at, END)
    assert len(set(scored_until(at).values())) == 1


def test_a_target_whose_gaps_cannot_be_stored_is_left_out_alone(store: SqlStore, monkeypatch: Patch) -> None:
    ingest(
        store,
        "load",
        {host: waves(seed, hours(END - 3 * DAY, END - DAY)) for seed, host in enumerate("abcd")},
    )
    ingest(store, "load", {"e": waves(9)})
    at = job(store, monitor("load"))
    bad = target_id(at)
    spoil(monkeypatch, "commit", lambda batch: odd_event(batch, bad))
    done = passes.tick(at, END)
    assert done["left_out"] == 1
    stale = store.events([target.id for target in at.targets()], 0, 2**40)
    assert [event.interval.kind for event in stale] == [Kind.STALE] * 3
    assert bad not in {event.target_id for event in stale}


def test_a_target_that_cannot_be_scored_is_left_out_alone_and_nothing_waits_for_it(
    store: SqlStore, monkeypatch: Patch
) -> None:
    at = ingested(store)
    passes.backfill(at, END - 9 * DAY)
    before = scored_until(at)
    fails(monkeypatch, judge, "scored", lambda spec, target, steps: target.target.key == BAD)
    at = again(at)
    # More than a week behind: it would be tried for ever.
    done = passes.nightly(at, END, END)
    moved = {key for key, until in scored_until(at).items() if until != before[key]}
    assert moved == others(at)
    assert done["left_out_why"] == [f"{BAD}: not scored: ArithmeticError: no luck"]
    assert done["since"]["more"] is False


def test_a_target_whose_nights_teach_what_cannot_be_stored_is_left_out_alone(
    store: SqlStore, monkeypatch: Patch
) -> None:
    at = ingested(store)
    bad: set[int] = set()

    def spoilt(rows: Sequence[CalibrationRow]) -> list[CalibrationRow]:
        bad.update(version.id for version in store.versions([target_id(at)]))
        return [replace(row, body={"n": np.int64(1)}) if row.version_id in bad else row for row in rows]

    spoil(monkeypatch, "add_calibrations", spoilt)
    done = passes.backfill(at, END)
    assert [why.split(":")[0] for why in done["left_out_why"]] == ["load{host=b}"]
    rows = store.calibrations(range(1, 99))
    seen = {row.version_id for row in rows if CalibrationEntry.from_json(row.body).seen}
    assert len(seen) > 3
    assert not seen & bad
    assert any(LineEntry.from_json(line.body).counted for line in store.lines(at.monitor.id))


def test_a_target_whose_nights_cannot_be_looked_at_is_left_out_alone(
    store: SqlStore, monkeypatch: Patch
) -> None:
    at = ingested(store)
    fails(monkeypatch, recount, "_observed", lambda spec, target, steps: target.scoring.target.key == BAD)
    done = passes.backfill(at, END)
    assert done["left_out_why"] == [f"{BAD}: not held against its scores: ArithmeticError: no luck"]
    assert set(scored_until(at).values()) != {None}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("add_versions", DatabaseUnavailableError("away")),
        ("add_calibrations", LostClaimError("another daemon holds it")),
        ("commit", StaleEventsError("judged meanwhile")),
    ],
)
def test_what_is_no_fault_of_a_target_ends_the_job(
    store: SqlStore, monkeypatch: Patch, name: str, error: Exception
) -> None:
    at = ingested(store)

    def failing(*_: Any) -> None:
        raise error

    monkeypatch.setattr(SqlStore, name, failing)
    with pytest.raises(type(error)):
        passes.backfill(at, END)
    assert not at.left_out


# -- where it is said -----------------------------------------------------------------

CONFIG = """
database: {database}
workers: 1
sources:
  files: {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [host],
    step: 1h}}
monitors:
  load:
    series: {{metric: load}}
    detector: gaussian
    params: {{window: 6}}
    fit: {{every: 4d, window: 10d, stagger: false}}
"""
NOW = datetime.fromtimestamp(END, UTC)


@dataclass(frozen=True)
class Place:
    """A folder with a config and the points of four series, and a database."""

    config: Path

    def __call__(self, *args: object) -> Result:
        return anomaly(*args, "--config", self.config, "--now", NOW.isoformat())

    @property
    def runs(self) -> list[dict[str, Any]]:
        """What the run log says of all runs but the read that made the place."""
        return [run for run in self("runs", "--json").rows if run["kind"] != RunKind.INGEST]

    def daemon(self) -> None:
        """Do what is due in this process."""

        def workload() -> Workload:
            return workload_of(Service(load(self.config), now=NOW, executor=Inline()))

        Daemon(workload, clock=lambda: NOW).drain()


def write_points(folder: Path) -> None:
    for seed, host in enumerate(HOSTS):
        rows = "".join(f"{ts},load,{host},{value}\n" for ts, value in zip(*waves(seed), strict=True))
        (folder / f"{host}.csv").write_text(f"ts,metric,host,value\n{rows}")


@pytest.fixture
def inline(monkeypatch: Patch) -> None:
    """Have commands work without a pool, which takes seconds to start."""
    monkeypatch.setattr("anomaly_service.executors.local.LocalExecutor", lambda *_, **__: Inline())


@pytest.fixture
def place(tmp_path: Path, database_url: str, inline: None) -> Place:
    (tmp_path / "drop").mkdir()
    write_points(tmp_path / "drop")
    (tmp_path / "anomaly.yaml").write_text(CONFIG.format(database=database_url))
    found = Place(tmp_path / "anomaly.yaml")
    assert found("ingest").code == 0
    return found


def spoil_versions(patch: Patch) -> None:
    """Have the version of the second target be none that can be stored."""
    spoil(patch, "add_versions", spoilt_rows(with_numpy, lambda version: version.target_id == 2))


TOLD = re.escape(BAD) + ": not stored: " + NO_JSON + "counts"


def test_commands_the_run_log_and_the_status_name_who_was_left_out_and_why_until_all_is_well(
    place: Place, monkeypatch: Patch
) -> None:
    assert "No run failed." in place("status").out
    with monkeypatch.context() as patch:
        spoil_versions(patch)
        done = place("backfill")
        fitted = place("fit")
    assert done.code == fitted.code == 0
    assert re.search(f"load: left out, {TOLD}$", done.err, re.MULTILINE)
    assert re.search(TOLD, fitted.err)
    runs = {run["kind"]: run for run in place.runs}
    assert {(run["kind"], run["monitor"], run["state"]) for run in runs.values()} == {
        ("backfill", "load", "done"),
        ("fit", "load", "done"),
    }
    run = runs["backfill"]
    told = run["outcome"]["load"]["left_out_why"]
    assert [bool(re.fullmatch(TOLD, why)) for why in told] == [True]
    said = place("status").out
    assert re.search(f"^Left out of the fit of load that ended .*Z: {TOLD}$", said, re.MULTILINE)
    assert "No run failed." not in said
    assert [row["why"] for row in place("status", "--json").rows["left_out"]] == told
    assert "left out" not in place("backfill").err
    said = place("status").out
    assert "Left out" not in said
    assert "No run failed." in said


@both
def test_the_daemon_leaves_one_target_out_and_says_so(place: Place, monkeypatch: Patch) -> None:
    spoil_versions(monkeypatch)
    place.daemon()
    runs = {run["kind"]: run for run in place.runs}
    assert {run["state"] for run in runs.values()} == {"done"}
    (told,) = runs["nightly"]["outcome"]["load"]["left_out_why"]
    assert re.fullmatch(TOLD, told)
    assert re.search(
        f"^Left out of the nightly of load that ended .*Z: {TOLD}$", place("status").out, re.MULTILINE
    )
    models = {row["series"] for row in place("models", "--json").rows}
    assert models == {f"load{{host={host}}}" for host in "acd"}


def test_try_says_who_was_left_out_and_shows_the_others(
    tmp_path: Path, inline: None, monkeypatch: Patch
) -> None:
    write_points(tmp_path)
    spoil_versions(monkeypatch)
    done = anomaly("try", tmp_path / "*.csv", "--detector", "gaussian")
    assert done.code == 0
    assert len(re.findall(rf"^Left out: \S+: not stored: {NO_JSON}counts$", done.err, re.MULTILINE)) == 1


def test_a_command_that_fails_stands_among_the_runs(place: Place, monkeypatch: Patch) -> None:
    fails(monkeypatch, passes, "backfill", lambda *_: True)
    assert place("backfill").code == 1
    (run,) = place.runs
    assert (run["kind"], run["state"], run["error"]) == ("backfill", "failed", "ArithmeticError: no luck")
    assert run["scheduled_for"] == NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert "1 runs failed, the last one (backfill of load" in place("status").out
    assert "ArithmeticError: no luck" in place("status").out


def test_commands_that_do_well_leave_the_run_log_to_the_daemon(place: Place) -> None:
    assert place("backfill").code == place("score").code == 0
    assert place.runs == []


def test_status_tells_of_a_run_that_failed_and_is_tried_again(place: Place) -> None:
    with SqlStore(load(place.config).database) as store:
        store.schedule(RunKind.TICK, None, NOW)
        claim = store.claim("me", 60)
        assert claim is not None
        store.finish(claim, RunState.WAITING, {}, "OSError: no space left")
    said = place("status").out
    assert "failed and is tried again (attempts so far: 1): OSError: no space left" in said
    assert "No run failed." not in said


def test_a_two_state_gauge_off_its_lattice_goes_all_the_way(tmp_path: Path, inline: None) -> None:
    ts, value = hours(), np.random.default_rng(1).choice([1.25, 3.75], len(hours()))
    rows = "".join(f"{t},{v}\n" for t, v in zip(ts, value, strict=True))
    (tmp_path / "gauge.csv").write_text(f"ts,value\n{rows}")
    done = anomaly("try", tmp_path / "gauge.csv", "--detector", "gaussian")
    assert done.code == 0
    assert "Left out" not in done.err
