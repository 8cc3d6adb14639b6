"""Nothing waits for ever, and nobody behind others: lanes, deadlines, clocks that jump, files that change."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import anomaly
from daemon_harness import NOW, NotedWork, process, states, workload
from patience import ended_threads, eventually
from structlog.testing import capture_logs

from anomaly_service.daemon.loop import Daemon, Settings
from anomaly_service.daemon.progress import Progress
from anomaly_service.daemon.workload import Held, Workload
from anomaly_service.db.store import SqlStore
from pipelines.names import RunKind
from pipelines.records import Claim, Json

FAST = Settings(lease_seconds=30.0, poll_seconds=0.05)


@dataclass
class Patient(NotedWork):
    """Work some of whose runs wait until they are let go, and see nothing meanwhile.

    Attributes:
        waits: kinds of runs that do.
    """

    waits: frozenset[str] = frozenset()
    let_go: threading.Event = field(default_factory=threading.Event)

    def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool]) -> Json:
        if claim.kind in self.waits:
            self._note("begun", claim)
            self.let_go.wait(240)
        return super().run(claim, now, should_stop)


@dataclass
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(autouse=True)
def nobody_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let threads that a daemon left behind end before the store is closed that they work on."""
    for name in {"store", "light"} & set(request.fixturenames):
        request.getfixturevalue(name)
    with ended_threads():
        yield


@pytest.fixture
def light(tmp_path: Path, migrated_sqlite: Path) -> Iterator[SqlStore]:
    file = tmp_path / "anomaly.db"
    shutil.copy(migrated_sqlite, file)
    with SqlStore(f"sqlite:///{file}") as opened:
        yield opened


def daemon_on(
    store: SqlStore, work: NotedWork, *names: str, clock: Callable[[], datetime] = lambda: NOW, **more: object
) -> Daemon:
    def load() -> Workload:
        made = workload(store, work, list(names or ("players",)))
        return replace(made, close=lambda: None, **more)  # type: ignore[arg-type]

    return Daemon(load, clock=clock, settings=FAST)


@contextmanager
def at_work(daemon: Daemon) -> Iterator[threading.Thread]:
    with capture_logs():
        thread = threading.Thread(target=daemon.run)
        thread.start()
        try:
            yield thread
        finally:
            daemon.stop()
            thread.join(120)
        assert not thread.is_alive()


def done(store: SqlStore, kind: str) -> int:
    return sum(state == "done" for found, state, _ in states(store) if found == kind)


# -- lanes -------------------------------------------------------------------------------


def test_ticks_of_all_monitors_go_on_while_the_night_of_one_runs(store: SqlStore, tmp_path: Path) -> None:
    work = Patient(store, tmp_path / "work", waits=frozenset({"nightly"}))
    clock = Clock()
    with at_work(daemon_on(store, work, "one", "two", "three", clock=clock)):
        for ticks in (3, 6, 9):
            eventually(lambda ticks=ticks: done(store, "tick") == ticks, "a round of ticks")  # type: ignore[misc]
            clock.now += timedelta(minutes=5)
        assert [line.split()[0] for line in work.log.read_text().splitlines()].count("begun") == 1
        assert done(store, "nightly") == 0
        work.let_go.set()
        eventually(lambda: done(store, "nightly") == 3, "the nights, one after the other")


def test_a_run_that_fails_does_not_end_the_look_for_others(light: SqlStore, tmp_path: Path) -> None:
    @dataclass
    class Broken(NotedWork):
        def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool]) -> Json:
            if claim.monitor_id == 1:
                raise ZeroDivisionError("a bug in the work of one")
            return super().run(claim, now, should_stop)

    with capture_logs():
        assert not daemon_on(light, Broken(light, tmp_path / "work"), "one", "two").drain()
    assert (done(light, "tick"), done(light, "nightly")) == (1, 1)


def test_a_new_config_is_in_force_at_once_and_the_old_is_closed_when_its_last_run_ends(
    light: SqlStore, tmp_path: Path
) -> None:
    closed: list[str] = []
    work = Patient(light, tmp_path / "work", waits=frozenset({"nightly"}))
    loads = iter(
        replace(workload(light, work, names), close=lambda name=names[-1]: closed.append(name))  # type: ignore[misc]
        for names in (["one"], ["one", "two"])
    )
    daemon = Daemon(lambda: next(loads), clock=lambda: NOW, settings=FAST)
    with at_work(daemon):
        eventually(lambda: work.log.exists() and "begun" in work.log.read_text(), "the night")
        daemon.reload()
        eventually(lambda: done(light, "tick") == 2, "the new monitor's tick")
        assert closed == []
        work.let_go.set()
        eventually(lambda: closed == ["one"], "the old one closed")
        eventually(lambda: done(light, "nightly") == 2, "both nights")
    assert closed == ["one", "two"]


def test_a_workload_that_nobody_uses_is_closed_at_once(light: SqlStore, tmp_path: Path) -> None:
    closed: list[None] = []
    held = Held(replace(workload(light, NotedWork(light, tmp_path), []), close=lambda: closed.append(None)))
    held.take()
    held.let_go()
    assert closed == []
    held.retire()
    assert closed == [None]


# -- deadlines ---------------------------------------------------------------------------


def test_progress_is_lost_by_time_and_won_by_a_sign() -> None:
    seconds = [0.0]
    progress = Progress(10.0, lambda: seconds[0])
    seconds[0] = 11
    assert progress.is_stuck
    progress.note()
    assert not progress.is_stuck
    progress.end()
    seconds[0] = 100
    assert not progress.is_stuck


def test_a_read_that_gets_nowhere_is_left_behind_with_a_reason_and_read_again_when_it_lets_go(
    store: SqlStore, tmp_path: Path
) -> None:
    work = Patient(store, tmp_path / "work", waits=frozenset({"ingest"}))
    daemon = daemon_on(store, work, "source:files", read_seconds=0.3)
    with at_work(daemon):
        eventually(lambda: states(store) == [("ingest", "waiting", 1)], "left behind")
        time.sleep(0.5)
        assert work.log.read_text().count("begun") == 1  # nobody else hangs at it
        assert "no progress for 0 s (deadlines.read), left behind" in store.rows("run_log")[0]["error"]
        abandoned = daemon.telemetry.registry.get_sample_value
        assert abandoned("anomaly_runs_abandoned_total", {"kind": "ingest"}) == 1
        work.let_go.set()
        eventually(lambda: done(store, "ingest") == 1, "read again")


def test_a_tick_that_gets_nowhere_keeps_other_monitors_from_nothing(light: SqlStore, tmp_path: Path) -> None:
    @dataclass
    class Stuck(Patient):
        def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool]) -> Json:
            work = self if claim.monitor_id == 1 else NotedWork(self.store, self.log)
            return (
                Patient.run(self, claim, now, should_stop)
                if work is self
                else work.run(claim, now, should_stop)
            )

    work = Stuck(light, tmp_path / "work", waits=frozenset({"tick"}))
    clock = Clock()
    with at_work(daemon_on(light, work, "one", "two", clock=clock, run_seconds=0.3)):
        for ticks in (1, 2, 3):
            eventually(lambda ticks=ticks: done(light, "tick") == ticks, "the other's tick")  # type: ignore[misc]
            clock.now += timedelta(minutes=5)
        errors = [row["error"] for row in light.rows("run_log", {"monitor": "one", "kind": "tick"})]
        assert any("no progress for 0 s (deadlines.run), left behind" in error for error in errors)
        work.let_go.set()


def test_a_run_that_is_left_behind_loses_its_lease_and_can_commit_nothing(
    light: SqlStore, tmp_path: Path
) -> None:
    work = Patient(light, tmp_path / "work", waits=frozenset({"nightly"}))
    daemon = daemon_on(light, work, run_seconds=0.2)
    lost = daemon.telemetry.registry.get_sample_value
    with at_work(daemon):
        eventually(lambda: ("nightly", "waiting", 1) in states(light), "left behind")
        work.let_go.set()
        eventually(lambda: lost("anomaly_leases_lost_total") == 1, "the lease lost")
        eventually(lambda: ("nightly", "done", 2) in states(light), "done by another attempt")


CONFIG = """\
database: {url}
sources:
  files: {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric_name: ccu, step: 5min}}
monitors:
  players: {{series: {{metric: ccu}}, detector: robust_z, infer_every: 5min}}
http: {{port: 0}}
workers: 1
"""

HANGING = """\
import runpy, time
from anomaly_service.sources.csv import CsvSource

def read(self, progress, *, now):
    print("reading", flush=True)
    time.sleep(600)
    yield

CsvSource.read = read
runpy.run_module("anomaly_service", run_name="__main__")
"""


@pytest.fixture
def config(light: SqlStore, tmp_path: Path) -> Path:
    config = tmp_path / "anomaly.yaml"
    config.write_text(CONFIG.format(url=light.engine.url))
    (tmp_path / "drop").mkdir()
    return config


def test_whatever_hangs_a_daemon_that_is_told_to_stop_ends(config: Path, tmp_path: Path) -> None:
    program = tmp_path / "hanging.py"
    program.write_text(HANGING)
    with process([str(program), "daemon", f"--config={config}"], tmp_path / "log") as daemon:
        assert daemon.first_line() == "reading"
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        # Its patience is five seconds, and nine with force: far from the ten minutes of the read.
        assert time.monotonic() - began < 120


# -- once --------------------------------------------------------------------------------


def test_once_that_could_not_do_its_work_exits_with_one(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "drop" / "ccu.csv"
    file.write_text("time,value\n2024-06-05T12:00:00Z,1\n")
    at = f"--now={NOW.isoformat()}"
    failed = anomaly("daemon", "--once", "--config", config, at)
    assert failed.code == 1
    assert "not all that is due could be done; `anomaly status` says what and why" in failed.err
    file.write_text("ts,value\n2024-06-05T12:00:00Z,1\n")
    later = (NOW + timedelta(minutes=5)).isoformat()
    assert anomaly("daemon", "--once", "--config", config, f"--now={later}").code == 0


def test_once_comes_beside_a_daemon_that_has_the_port(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config.write_text(config.read_text().replace("port: 0", f"port: {taken.getsockname()[1]}"))
        assert anomaly("daemon", "--once", "--config", config, f"--now={NOW.isoformat()}").code in (0, 1)
    assert anomaly("runs", "--config", config, "--json").rows


def test_status_tells_what_was_last_and_not_what_was_scheduled_for_the_latest_time(
    config: Path, tmp_path: Path
) -> None:
    (tmp_path / "drop" / "ccu.csv").write_text("ts,value\n2024-06-05T12:00:00Z,1\n")
    for at in (NOW + timedelta(days=365), NOW):
        anomaly("daemon", "--once", "--config", config, f"--now={at.isoformat()}")
    said = anomaly("status", "--config", config, "--json", f"--now={NOW.isoformat()}").rows
    slots = [said["last_tick"]["scheduled_for"], said["reads"][0]["last"]["scheduled_for"]]
    assert [slot[:4] for slot in slots] == ["2024", "2024"]


def test_once_ends_with_one_where_a_source_hangs(light: SqlStore, tmp_path: Path) -> None:
    work = Patient(light, tmp_path / "work", waits=frozenset({"ingest"}))
    with capture_logs():
        daemon = daemon_on(light, work, "players", "source:files", read_seconds=0.3)
        assert not daemon.drain()
    assert ("ingest", "waiting", 1) in states(light)
    assert (done(light, "nightly"), done(light, "tick")) == (1, 1)
    work.let_go.set()


# -- a clock that was ahead ----------------------------------------------------------------


def test_one_look_a_year_ahead_stops_nothing_once_the_clock_is_right(store: SqlStore, tmp_path: Path) -> None:
    clock = Clock(NOW + timedelta(days=365))
    with capture_logs():
        daemon_on(store, NotedWork(store, tmp_path / "work"), "players", "source:files", clock=clock).drain()
        clock.now = NOW
        for minutes in (0, 5, 10):
            clock.now = NOW + timedelta(minutes=minutes)
            daemon_on(
                store, NotedWork(store, tmp_path / "work"), "players", "source:files", clock=clock
            ).drain()
    assert (done(store, "tick"), done(store, "nightly"), done(store, "ingest")) == (4, 2, 4)


def test_a_daemon_whose_clock_goes_back_goes_on_and_says_so(light: SqlStore, tmp_path: Path) -> None:
    clock = Clock(NOW + timedelta(days=365))
    daemon = daemon_on(light, NotedWork(light, tmp_path / "work"), clock=clock)
    with capture_logs() as logs, daemon._in_charge():
        daemon._do_what_is_due()
        clock.now = NOW
        daemon._do_what_is_due()
        clock.now = NOW + timedelta(minutes=5)
        daemon._do_what_is_due()
    assert (done(light, "tick"), done(light, "nightly")) == (3, 2)
    (told,) = [line for line in logs if line["event"].startswith("the clock was ahead")]
    assert told["scheduled_for"].startswith("2025-06-05")


def test_status_tells_of_a_clock_that_was_ahead(config: Path, light: SqlStore) -> None:
    assert "a clock was ahead once" not in anomaly("status", "--config", config).out
    light.schedule(RunKind.TICK, None, datetime.now(UTC) + timedelta(days=365))
    assert "a clock was ahead once" in anomaly("status", "--config", config).out


# -- SQLite's file ---------------------------------------------------------------------------


def test_a_file_that_is_replaced_under_the_daemon_is_opened_anew(
    light: SqlStore, tmp_path: Path, migrated_sqlite: Path
) -> None:
    file = Path(str(light.engine.url.database))
    url = str(light.engine.url)
    light.close()

    def load() -> Workload:
        store = SqlStore(url)
        return workload(store, NotedWork(store, tmp_path / "work"), ["players"])

    daemon = Daemon(load, clock=lambda: NOW, settings=FAST)
    with at_work(daemon):
        eventually(lambda: work_done(tmp_path) == 2, "the work on the first file")
        shutil.copy(migrated_sqlite, file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)
        for beside in ("-wal", "-shm"):
            Path(f"{file}{beside}").unlink()
        eventually(lambda: work_done(tmp_path) == 4, "the work on the second file")
        with SqlStore(url) as store:
            eventually(lambda: done(store, "nightly") == 1, "the night, in the second file")
        assert daemon.telemetry.health()[0]


def test_a_file_that_is_replaced_by_rubbish_is_told_until_a_good_one_is_back(
    light: SqlStore, tmp_path: Path, migrated_sqlite: Path
) -> None:
    file, url = Path(str(light.engine.url.database)), str(light.engine.url)
    light.close()

    def load() -> Workload:
        store = SqlStore(url)
        return workload(store, NotedWork(store, tmp_path / "work"), ["players"])

    def replace_by(content: bytes) -> None:
        file.with_suffix(".new").write_bytes(content)
        os.replace(file.with_suffix(".new"), file)
        for beside in ("-wal", "-shm"):
            Path(f"{file}{beside}").unlink(missing_ok=True)

    daemon = Daemon(load, clock=lambda: NOW, settings=FAST)
    vitals = daemon.telemetry.vitals
    with at_work(daemon):
        eventually(lambda: work_done(tmp_path) == 2, "the work on the first file")
        replace_by(b"rubbish " * 1024)
        eventually(lambda: not vitals.healthy()[0], "red")
        assert "replaced by one that cannot be used" in str(vitals.ready()[1])
        daemon.reload()  # a look at the config does not hide it
        replace_by(migrated_sqlite.read_bytes())
        eventually(lambda: work_done(tmp_path) == 4, "the work on the second file")
        eventually(lambda: vitals.healthy()[0], "green")


def work_done(folder: Path) -> int:
    log = folder / "work"
    return log.read_text().count("done") if log.exists() else 0
