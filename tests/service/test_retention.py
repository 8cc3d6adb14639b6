"""What grows is kept as long as the config says and goes by an index, bit by bit; people's work stays."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import many_events
import monitor_jobs
import numpy as np
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text

from anomaly_service.config.load import load
from anomaly_service.daemon.runner import ServiceRunner
from anomaly_service.db import retention
from anomaly_service.db.store import SqlStore
from anomaly_service.service import Service
from anomaly_service.sources import files
from anomaly_service.sources.csv import CsvConfig, CsvSource
from anomaly_service.sources.ingest import ingest
from anomaly_service.sources.memory import forget
from pipelines.executor import Inline
from pipelines.jobs import passes
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.names import Kind, RunKind, RunState, Status, Verdict
from pipelines.records import Event, EventChange, Interval, Json, PointBlock, ScoreBlock, SeriesSpec
from pipelines.store import Batch, Ingest
from pipelines.times import DAY

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
T0 = int(NOON.timestamp())
STEP = 300
NONE = PointBlock(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
MONTH = 30.0 * DAY
LONG_AGO = 100.0 * DAY


def watch(store: SqlStore) -> int:
    """Return the target of a monitor that watches one series."""
    store.ingest(Ingest("files", [SeriesSpec("ccu", {}, STEP, source="files")], NONE))
    (monitor,) = store.sync_monitors({"players": {"detector": "gaussian"}})
    (target,) = store.sync_targets(monitor.id, [("ccu", (1,))])
    return target.id


def interval(start: int = T0, end: int = T0 + 600, **changes: Any) -> Interval:
    return Interval(**{"kind": Kind.ANOMALY, "start": start, "end": end, "n_points": 3, "peak_at": start,
                       "peak_score": 2.0, "mean_score": 1.5, **changes})  # fmt: skip


def flag(store: SqlStore, target: int, start: int = T0, status: Status = Status.CLOSED) -> Event:
    change = EventChange(target, None, interval(start, start + 600), status, start, why="new")
    return store.commit(None, Batch(changes=[change]))[0]


def become(store: SqlStore, event: Event, status: Status, into: int | None = None, **changes: Any) -> Event:
    values = {**event.interval.__dict__, **changes}
    change = EventChange(event.target_id, event.id, Interval(**values), status, event.first_detected_at, into)
    return store.commit(None, Batch(changes=[change]))[0]


def age(store: SqlStore, table: str, column: str, seconds: float = LONG_AGO, where: str = "true") -> None:
    """Let rows have been written so much earlier; triggers that refuse it stand aside."""
    is_postgres = store.engine.dialect.name == "postgresql"
    with store.engine.begin() as connection:
        if is_postgres:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        elif table == "event_revision":
            connection.execute(text("DROP TRIGGER event_revision_no_update"))
        connection.execute(text(f"UPDATE {table} SET {column} = {column} - {seconds} WHERE {where}"))


def count(store: SqlStore, table: str) -> int:
    with store.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


# -- what is not written at all ----------------------------------------------------------


def test_an_event_that_only_goes_on_is_told_once_and_with_its_next_change(store: SqlStore) -> None:
    event = flag(store, watch(store), status=Status.OPEN)
    for k in range(1, 51):
        changes = {
            "end": T0 + 600 + STEP * k,
            "n_points": 3 + k,
            "peak_score": 2.0 + k,
            "mean_score": 2.0 + k,
        }
        event = become(store, event, Status.OPEN, **changes)
    assert event.revision == 51
    closed = become(store, event, Status.CLOSED)
    told = store.revisions(closed.id)
    assert [row["revision"] for row in told] == [1, 52]
    assert told[1]["before"]["end_ts"] == told[1]["after"]["end_ts"] == T0 + 600 + 50 * STEP
    assert (told[1]["before"]["status"], told[1]["after"]["status"]) == ("open", "closed")


def test_an_open_flatline_writes_no_history_at_every_tick(store: SqlStore) -> None:
    ts, value = monitor_jobs.waves(1)
    value[-100:] = value[-100]
    spec = monitor_jobs.monitor("load")

    def ticked(until: int) -> MonitorJob:
        came = ts <= until
        monitor_jobs.ingest(store, "load", {"a": (ts[came], value[came])})
        job = monitor_jobs.job(store, spec)
        passes.tick(job, until)
        return job

    begun = int(ts[-60])
    ticked(begun)
    passes.backfill(monitor_jobs.job(store, spec), begun)
    for until in ts[-59:-20].tolist():
        (flat,) = monitor_jobs.events(ticked(until), Kind.FLATLINE)["a"]
    assert (flat.status, flat.interval.end) == (Status.OPEN, int(ts[-21]))
    assert flat.revision > 30
    assert [row["why"] for row in store.revisions(flat.id)] == ["new"]


@pytest.mark.parametrize(
    "changes", [{"start": T0 - 600}, {"direction": "below_expected"}, {"kind": Kind.FLATLINE}]
)
def test_what_else_changes_of_an_open_event_is_told(store: SqlStore, changes: Json) -> None:
    event = flag(store, watch(store), status=Status.OPEN)
    become(store, event, Status.OPEN, end=T0 + 900, **changes)
    assert [row["revision"] for row in store.revisions(event.id)] == [1, 2]


def test_an_open_event_that_goes_on_is_still_stale_for_who_read_it_before(store: SqlStore) -> None:
    event = flag(store, watch(store), status=Status.OPEN)
    become(store, event, Status.OPEN, end=T0 + 900)
    with pytest.raises(Exception, match=f"event {event.id} has revision 2"):
        store.review(event.id, Verdict.CONFIRMED, expect=1)


# -- runs ---------------------------------------------------------------------------------


def run(store: SqlStore, at: datetime, state: RunState = RunState.DONE, kind: RunKind = RunKind.TICK) -> None:
    (monitor,) = store.monitors()
    store.note_run(kind, monitor.id, at, state, {})


def kept(store: SqlStore) -> list[tuple[str, str, str]]:
    rows = store.rows("run_log")
    return sorted((row["kind"], row["scheduled_for"][:10], row["state"]) for row in rows)


def test_old_runs_go_and_the_newest_of_each_kind_stays(store: SqlStore) -> None:
    watch(store)
    for k in range(5):
        run(store, NOON + k * timedelta(days=1))
    run(store, NOON, kind=RunKind.NIGHTLY)
    age(store, "run", "finished_at")
    run(store, NOON + timedelta(days=5))
    assert store.prune_runs(MONTH) == 5
    assert kept(store) == [("nightly", "2025-03-01", "done"), ("tick", "2025-03-06", "done")]
    assert store.prune_runs(MONTH) == 0


def test_the_newest_run_that_went_well_stays_beside_the_newest(store: SqlStore) -> None:
    watch(store)
    run(store, NOON)
    for k in range(1, 4):
        run(store, NOON + k * timedelta(days=1), RunState.FAILED)
    age(store, "run", "finished_at")
    assert store.prune_runs(MONTH) == 2
    assert kept(store) == [("tick", "2025-03-01", "done"), ("tick", "2025-03-04", "failed")]


def test_a_run_that_a_wrong_clock_scheduled_makes_no_other_one_old(store: SqlStore) -> None:
    watch(store)
    run(store, NOON)
    run(store, datetime(2090, 1, 1, tzinfo=UTC))
    age(store, "run", "finished_at")
    assert store.prune_runs(MONTH) == 0


def test_what_waits_or_is_at_work_stays_however_old(store: SqlStore) -> None:
    watch(store)
    (monitor,) = store.monitors()
    for k in range(3):
        store.schedule(RunKind.TICK, monitor.id, NOON + k * timedelta(days=1))
    age(store, "run", "created_at")
    assert store.claim("me", 60) is not None
    assert store.prune_runs(MONTH) == 0


def test_reads_of_one_source_say_nothing_of_another(store: SqlStore) -> None:
    for k in range(3):
        for source in ("files", "warehouse"):
            claim = store.begin_read(source, NOON + k * timedelta(days=1), "me", 60)
            store.finish(claim, RunState.DONE, {})
    age(store, "run", "finished_at")
    before = store.last_reads(["files", "warehouse"], NOON + timedelta(days=9))
    assert store.prune_runs(MONTH) == 4
    assert store.last_reads(["files", "warehouse"], NOON + timedelta(days=9)) == before


# -- changes of events, and events that nobody sees any more --------------------------------


def changed(store: SqlStore, target: int, times: int, start: int = T0) -> Event:
    """Return an event with so many changes after its first."""
    event = flag(store, target, start)
    for k in range(times):
        event = become(store, event, Status.CLOSED, peak_score=3.0 + k)
    return event


def test_of_old_changes_the_first_and_the_newest_stay(store: SqlStore) -> None:
    event = changed(store, watch(store), 5)
    age(store, "event_revision", "at")
    assert store.prune_revisions(MONTH) == 4
    assert [row["revision"] for row in store.revisions(event.id)] == [1, 6]
    assert store.prune_revisions(MONTH) == 0


def test_changes_of_what_people_touched_stay_also_where_they_took_it_back(store: SqlStore) -> None:
    target = watch(store)
    reviewed = changed(store, target, 3)
    undone = changed(store, target, 3, T0 + 10_000)
    for event in (reviewed, undone):
        store.review(event.id, Verdict.CONFIRMED)
    store.undo(undone.id)
    drawn, _ = store.add_event(target, interval(T0 + 20_000, T0 + 20_600), Verdict.CONFIRMED, detected_at=T0)
    before = [store.revisions(each) for each in (reviewed.id, undone.id, drawn)]
    age(store, "event_revision", "at")
    assert store.prune_revisions(MONTH) == 0
    assert [len(store.revisions(each)) for each in (reviewed.id, undone.id, drawn)] == [
        len(rows) for rows in before
    ]


def test_the_database_itself_keeps_the_changes_of_what_people_touched(store: SqlStore) -> None:
    event = changed(store, watch(store), 2)
    store.review(event.id, Verdict.CONFIRMED)
    with pytest.raises(Exception, match="event_revision is append-only"), store.engine.begin() as connection:
        connection.execute(text("DELETE FROM event_revision WHERE revision = 2"))


def test_events_that_nobody_sees_go_with_their_changes_once_they_are_old(store: SqlStore) -> None:
    target = watch(store)
    first, second, standing = (flag(store, target, T0 + k * 10_000) for k in range(3))
    become(store, first, Status.OUTDATED)
    become(store, second, Status.MERGED, standing.id)
    assert store.prune_events(MONTH) == 0
    age(store, "event", "updated_at")
    assert store.prune_events(MONTH) == 2
    assert [store.revisions(each.id) for each in (first, second)] == [[], []]
    assert [event.id for event in store.events([target], 0, 10**12)] == [standing.id]
    assert len(store.revisions(standing.id)) == 1


def test_an_event_that_people_touched_is_never_deleted(store: SqlStore) -> None:
    target = watch(store)
    undone = flag(store, target)
    store.review(undone.id, Verdict.CONFIRMED)
    store.undo(undone.id)
    (event,) = (each for each in store.events([target], 0, 10**12) if each.id == undone.id)
    become(store, event, Status.OUTDATED)
    drawn, _ = store.add_event(target, interval(T0 + 20_000, T0 + 20_600), Verdict.CONFIRMED, detected_at=T0)
    age(store, "event", "updated_at")
    assert store.prune_events(MONTH) == 0
    assert {event.id for event in store.events([target], 0, 10**12)} == {undone.id, drawn}
    assert len(store.reviews(undone.id)) == 2


def test_what_was_merged_into_an_event_goes_before_it_or_with_the_next_look(store: SqlStore) -> None:
    target = watch(store)
    winner, loser = flag(store, target), flag(store, target, T0 + 10_000)
    become(store, loser, Status.MERGED, winner.id)
    become(store, winner, Status.OUTDATED)
    age(store, "event", "updated_at")
    assert store.prune_events(MONTH) == 2
    assert count(store, "event") == count(store, "event_revision") == 0


# -- points and scores ------------------------------------------------------------------------


def put(store: SqlStore, n_series: int, n_steps: int) -> None:
    specs = [SeriesSpec("ccu", {"realm": str(k)}, STEP, source="files") for k in range(n_series)]
    ts = np.tile(T0 + STEP * np.arange(n_steps), n_series)
    series = np.repeat(np.arange(n_series), n_steps)
    store.ingest(Ingest("files", specs, PointBlock(series, ts, np.ones(len(ts)))))


def test_no_transaction_deletes_more_rows_than_it_may(store: SqlStore) -> None:
    put(store, 3, 50)
    whose, sizes = [1, 2, 3], []
    while whose:
        with store.engine.begin() as connection:
            found, whose = retention.rows_before(connection, "points", whose, T0 + 40 * STEP, most=25)
        sizes.append(found)
    assert (sum(sizes), max(sizes)) == (120, 25)
    assert store.points([1, 2, 3], 0, 10**12).ts.min() == T0 + 40 * STEP


def test_points_of_one_source_go_and_those_of_another_stay(store: SqlStore) -> None:
    put(store, 1, 10)
    ts = T0 + STEP * np.arange(10)
    other = SeriesSpec("ccu", {"realm": "x"}, STEP, source="warehouse")
    store.ingest(Ingest("warehouse", [other], PointBlock(np.zeros(10, np.int64), ts, np.ones(10))))
    assert store.delete_points_before(T0 + 4 * STEP, ["warehouse"]) == 4
    assert {row.spec.source: row.first_ts for row in store.series()} == {
        "files": T0,
        "warehouse": T0 + 4 * STEP,
    }
    assert store.delete_points_before(T0 + 5 * STEP, []) == 0


# -- by an index --------------------------------------------------------------------------------


@contextmanager
def statements(store: SqlStore) -> Iterator[list[tuple[str, Any]]]:
    """Collect what is sent to the database while the context lasts."""
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        sent.append((statement, parameters[0] if many else parameters))

    sqlalchemy_event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sqlalchemy_event.remove(store.engine, "before_cursor_execute", note)


def test_what_is_old_is_found_and_deleted_by_an_index(new_store: Any) -> None:
    store = new_store()
    many_events.fill(store, 20_000)
    put(store, 30, 1000)
    ids = np.repeat(np.arange(1, 31), 1000)
    ts = np.tile(T0 + STEP * np.arange(1000), 30)
    ones = np.ones(len(ts))
    store.commit(None, Batch(scores=ScoreBlock(ids, ts, ids, ones, ones, ones, ones)))
    with store.engine.begin() as connection:
        connection.execute(text(_RUNS))
        connection.execute(text(_REVISIONS))
    many_events.settle(store)
    with statements(store) as sent:
        deleted = {
            "runs": store.prune_runs(MONTH),
            "revisions": store.prune_revisions(MONTH),
            "events": store.prune_events(MONTH),
            "points": store.delete_points_before(T0 + 10 * STEP),
            "scores": store.delete_scores_before(T0 + 10 * STEP),
        }
    assert min(deleted.values()) > 200
    walks = [
        (statement, line)
        for statement, parameters in dict(sent).items()
        if re.match(r"\s*(SELECT|DELETE|UPDATE|WITH)", statement)
        for line in plan(store, statement, parameters)
        if re.search(WALKS, line)
    ]
    assert walks == []


GROWING = "(run|event|event_revision|points|scores)"
WALKS = rf"SCAN {GROWING}\b(?!.* USING)|Seq Scan on {GROWING}\b"
"""A line of a plan that reads a whole table, without an index."""


def plan(store: SqlStore, statement: str, parameters: Any) -> list[str]:
    prefix = "EXPLAIN QUERY PLAN" if store.engine.dialect.name == "sqlite" else "EXPLAIN"
    with store.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"{prefix} {statement}", parameters)
        return [str(row[-1]) for row in rows]


_NUMBERS = "WITH RECURSIVE counted (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM counted WHERE i < 20000)"
_RUNS = (
    "INSERT INTO run (kind, monitor_id, monitor_key, scheduled_for, state, owner, fence, attempts, "
    f"created_at, finished_at, error) {_NUMBERS} "
    "SELECT 'tick', 1, 1, 1700000000 + 300 * i, 'done', '', 0, 1, 0, "
    "CASE WHEN i < 500 THEN 1000 ELSE 9e9 END, '' FROM counted"
)
_REVISIONS = (
    "INSERT INTO event_revision (event_id, revision, at, why, after) "
    "SELECT id, number, CASE WHEN id < 1000 THEN 1000 ELSE 9e9 END, '', '{}' FROM event, "
    "(SELECT 1 AS number UNION ALL SELECT 2 UNION ALL SELECT 3) AS numbers WHERE id < 8000"
)


# -- what sources remember ---------------------------------------------------------------------


def drop(folder: Path, name: str, at: datetime, written: datetime | None = None) -> Path:
    path = folder / name
    path.write_text(f"timestamp,value\n{at.isoformat()},1\n{(at + timedelta(minutes=5)).isoformat()},2\n")
    seconds = (written or at).timestamp()
    os.utime(path, (seconds, seconds))
    return path


@pytest.fixture
def source(tmp_path: Path) -> CsvSource:
    (tmp_path / "drop").mkdir()
    pattern = str(tmp_path / "drop" / "**" / "*.csv")
    config = {"kind": "csv", "path": pattern, "metric_name": "ccu", "step": "5min"}
    return CsvSource("files", CsvConfig.model_validate(config, context={"folder": tmp_path}))


def remembered(store: SqlStore) -> set[str]:
    return {Path(key).name for key in store.progress("files")}


def test_files_that_are_gone_are_forgotten_once_their_rows_are_older_than_is_kept(
    store: SqlStore, source: CsvSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RACY_SECONDS", 0.0)
    folder = tmp_path / "drop"
    old, late = drop(folder, "old.csv", NOON), drop(folder, "late.csv", NOON, NOON + timedelta(days=9))
    new, here = drop(folder, "new.csv", NOON + timedelta(days=9)), drop(folder, "here.csv", NOON)
    ingest(store, [source], NOON + timedelta(days=10))
    for path in (old, late, new):
        path.unlink()
    before = int((NOON + timedelta(days=5)).timestamp())
    assert forget(store, source, before - 6 * DAY) == 0
    assert forget(store, source, before) == 1
    assert remembered(store) == {here.name, late.name, new.name}
    assert forget(store, source, before) == 0


def test_a_folder_that_is_away_or_empty_makes_nothing_forgotten(
    store: SqlStore, source: CsvSource, tmp_path: Path
) -> None:
    share = tmp_path / "drop" / "share"
    share.mkdir()
    drop(share, "a.csv", NOON)
    ingest(store, [source], NOON + timedelta(days=10))
    (share / "a.csv").unlink()
    share.rmdir()  # as an empty mount point is left behind
    assert forget(store, source, T0 + 50 * DAY) == 0
    assert remembered(store) == {"a.csv"}


def test_a_renamed_file_is_not_read_twice_after_its_old_name_is_forgotten(
    store: SqlStore, source: CsvSource, tmp_path: Path
) -> None:
    path = drop(tmp_path / "drop", "a.csv", NOON)
    ingest(store, [source], NOON + timedelta(days=10))
    path.rename(path.with_name("b.csv"))
    ingest(store, [source], NOON + timedelta(days=11))
    assert forget(store, source, T0 + 50 * DAY) == 1
    (outcome,) = ingest(store, [source], NOON + timedelta(days=12))
    assert (outcome["new"], outcome["changed"], outcome["unchanged"]) == (0, 0, 0)


# -- at night -------------------------------------------------------------------------------------

CONFIG = """
database: {url}
sources:
  files: {{kind: csv, path: drop/*.csv, metric_name: ccu, step: 5min}}
monitors:
  players: {{series: {{metric: ccu}}, detector: gaussian}}
retention: {{points: 60d, runs: 30d, revisions: 30d, outdated: 30d, progress: 60d}}
"""


def test_a_night_deletes_of_everything_what_its_retention_no_longer_keeps(
    store: SqlStore, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "anomaly.yaml").write_text(CONFIG.format(url=database_url))
    (tmp_path / "drop").mkdir()
    target = watch(store)
    changed(store, target, 3)
    become(store, flag(store, target, T0 + 10_000), Status.OUTDATED)
    for k in range(3):
        run(store, NOON + k * timedelta(days=1))
    for table, column in {"run": "finished_at", "event_revision": "at", "event": "updated_at"}.items():
        age(store, table, column)
    with Service(load(tmp_path / "anomaly.yaml"), now=NOON, executor=Inline()) as service:
        first, again = (night_of(service, NOON + k * timedelta(days=1)) for k in range(2))
    assert {name: first[name] for name in ("runs", "revisions", "events", "progress")} == {
        "runs": 2,
        "revisions": 2,
        "events": 1,
        "progress": 0,
    }
    assert {name: again[name] for name in ("runs", "revisions", "events")} == {
        "runs": 0,
        "revisions": 0,
        "events": 0,
    }


def night_of(service: Service, at: datetime) -> Json:
    """Return what a night of the daemon deletes."""
    ((row, _),) = service.sync()
    service.store.schedule(RunKind.NIGHTLY, row.id, at)
    claim = service.store.claim("me", 60, [RunKind.NIGHTLY])
    assert claim is not None
    runner = ServiceRunner(service)
    outcome = runner.run(claim, at)
    assert "pruned" not in runner.run(claim, at), "what one night deletes the next of that time deletes again"
    service.store.finish(claim, RunState.DONE, outcome)
    return dict(outcome["pruned"])


def test_a_night_lets_the_database_count_what_it_holds(store: SqlStore) -> None:
    put(store, 3, 200)
    store.refresh_statistics()
    with store.engine.connect() as connection:
        if store.engine.dialect.name == "sqlite":
            query = "SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'points'"
        else:
            query = "SELECT count(*) FROM pg_stats WHERE tablename = 'points'"
        assert connection.execute(text(query)).scalar_one() > 0


def test_the_latest_scores_are_found_by_the_key_whether_or_not_anything_was_counted(store: SqlStore) -> None:
    watch(store)
    lines = plan(store, "SELECT * FROM latest_scores", ())
    assert not [line for line in lines if "SCAN scores" in line]
