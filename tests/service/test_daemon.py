"""The daemon: in this process where that shows it, in a process of its own where signals matter."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import daemon_harness
import pytest
import structlog
from daemon_harness import NOW, NotedWork, Process, both_done, process, states, workload
from databases import Databases
from patience import PATIENCE_SECONDS, eventually

from anomaly_service.daemon.loop import Daemon, Settings
from anomaly_service.daemon.telemetry import Telemetry, configure_logging, serving
from anomaly_service.daemon.workload import Workload
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import BudgetError, DatabaseUnavailableError
from pipelines.names import RunKind
from pipelines.records import Claim, Json

FAST = Settings(lease_seconds=30.0, poll_seconds=daemon_harness.POLL)
Start = Callable[..., AbstractContextManager[Process]]


@pytest.fixture(scope="module")
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    return Databases(request, tmp_path_factory.mktemp("databases"))


@pytest.fixture(params=Databases.kinds)
def url(request: pytest.FixtureRequest, databases: Databases) -> str:
    return databases.fresh(request.param)


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    with SqlStore(url) as opened:
        yield opened


@pytest.fixture
def light(databases: Databases) -> Iterator[SqlStore]:
    """A store for what does not depend on the database."""
    with SqlStore(databases.fresh("sqlite")) as opened:
        yield opened


@pytest.fixture
def monitors(tmp_path: Path) -> Path:
    file = tmp_path / "monitors"
    file.write_text("players")
    return file


@pytest.fixture
def start(url: str, tmp_path: Path, monitors: Path) -> Start:
    """Return what starts a daemon process on the database; it notes its work in ``work``."""

    def started(name: str = "daemon", *options: str) -> AbstractContextManager[Process]:
        command = [daemon_harness.__file__, url, f"--log={tmp_path / 'work'}", f"--monitors={monitors}"]
        return process([*command, *options], tmp_path / f"{name}.log")

    return started


@pytest.fixture(autouse=True)
def _unheard() -> Iterator[None]:
    """Keep what a daemon in this process logs: left as it is, its tracebacks take seconds to be drawn."""
    with structlog.testing.capture_logs():
        yield


def daemon_on(store: SqlStore, work: NotedWork, *names: str, telemetry: Telemetry | None = None) -> Daemon:
    def load() -> Workload:
        return replace(workload(store, work, list(names or ("players",))), close=lambda: None)

    return Daemon(load, clock=lambda: NOW, telemetry=telemetry, settings=FAST)


def noted(work: Path) -> list[str]:
    return work.read_text().splitlines() if work.exists() else []


# -- in this process ------------------------------------------------------------------


def test_the_tick_and_the_night_are_done_once_the_tick_first(store: SqlStore, tmp_path: Path) -> None:
    work = NotedWork(store, tmp_path / "work")
    daemon_on(store, work).drain()
    daemon_on(store, work).drain()
    assert both_done(store)
    assert [line.split()[:2] for line in noted(work.log)] == [
        ["start", "tick"],
        ["done", "tick"],
        ["start", "nightly"],
        ["done", "nightly"],
    ]


def test_a_run_that_raises_is_tried_three_times_and_the_others_are_done(
    light: SqlStore, tmp_path: Path
) -> None:
    work = NotedWork(light, tmp_path / "work", fails=frozenset({"nightly"}))
    daemon_on(light, work).drain()
    assert states(light) == [("nightly", "failed", 3), ("tick", "done", 1)]
    error = daemon_harness.run_rows(light)[0]["error"]
    assert "ValueError: no luck with nightly" in error


@dataclass
class Unstorable(NotedWork):
    """Work whose outcome no database takes: half of a character."""

    def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool]) -> Json:
        return {**super().run(claim, now, should_stop), "file": "caf\udce9.csv"}


def test_an_outcome_that_cannot_be_stored_fails_its_run_and_not_the_daemon(
    light: SqlStore, tmp_path: Path
) -> None:
    daemon_on(light, Unstorable(light, tmp_path / "work")).drain()
    assert {state for _, state, _ in states(light)} == {"failed"}
    assert "UnstorableError: the database refuses a value" in daemon_harness.run_rows(light)[0]["error"]


def test_a_run_goes_on_while_it_says_that_more_is_left(light: SqlStore, tmp_path: Path) -> None:
    work = NotedWork(light, tmp_path / "work", bites={1: 2})
    telemetry = Telemetry()
    daemon_on(light, work, telemetry=telemetry).drain()
    assert both_done(light)
    assert noted(work.log).count("done nightly 1 2024-06-05T03:15:00+00:00") == 3
    assert telemetry.registry.get_sample_value("anomaly_scores_written_total") == 4


def test_a_run_of_a_monitor_that_left_the_config_fails_with_that_reason(
    light: SqlStore, tmp_path: Path
) -> None:
    daemon = daemon_on(light, NotedWork(light, tmp_path / "work"), "players", "logins")
    daemon.drain()
    logins = next(row.id for row in light.monitors() if row.name == "logins")
    light.schedule(RunKind.TICK, logins, NOW - timedelta(minutes=1))
    daemon_on(light, NotedWork(light, tmp_path / "work")).drain()
    assert "not in the config any more" in " ".join(row["error"] for row in daemon_harness.run_rows(light))


@dataclass
class OutlastingWork(NotedWork):
    """Work that takes as long as the lease it was claimed with, and then commits."""

    def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool]) -> Json:
        claimed_until = self._lease_until(claim)
        eventually(lambda: self._lease_until(claim) > claimed_until + LEASE, "the lease was renewed for long")
        return super().run(claim, now, should_stop)

    def _lease_until(self, claim: Claim) -> float:
        row = next(row for row in daemon_harness.run_rows(self.store) if row["id"] == claim.run_id)
        return float(row["lease_until"])


LEASE = 2.0
"""Seconds."""


def test_a_run_longer_than_its_lease_keeps_it(store: SqlStore, tmp_path: Path) -> None:
    daemon = daemon_on(store, OutlastingWork(store, tmp_path / "work"))
    daemon.settings = replace(FAST, lease_seconds=LEASE)
    daemon.drain()
    assert states(store) == [("nightly", "done", 1), ("tick", "done", 1)]


def test_failed_runs_are_tried_again_by_the_next_look_only(light: SqlStore, tmp_path: Path) -> None:
    work = NotedWork(light, tmp_path / "work", fails=frozenset({"tick"}))
    daemon = daemon_on(light, work)
    with daemon._in_charge():
        assert daemon._round()
    assert states(light) == [("nightly", "done", 1), ("tick", "waiting", 1)]


# -- a process of its own -------------------------------------------------------------


def test_a_daemon_that_is_told_to_stop_gives_its_run_back(
    store: SqlStore, start: Start, tmp_path: Path
) -> None:
    with start("daemon", "--seconds=60") as daemon:
        eventually(lambda: noted(tmp_path / "work") != [], "a run started")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert ("nightly", "waiting", 0) in states(store)


def test_a_killed_daemons_run_is_done_by_the_next_once_the_lease_ends(
    store: SqlStore, start: Start, tmp_path: Path
) -> None:
    with start("first", "--seconds=60", "--lease=2") as first:
        begun = f"start {RunKind.NIGHTLY} "
        eventually(lambda: any(begun in line for line in noted(tmp_path / "work")), "the night began")
        first.signal(signal.SIGKILL)
        first.wait()
    assert ("nightly", "running", 1) in states(store)
    with start("second", "--lease=2"):
        eventually(lambda: both_done(store), "all runs done")
    assert states(store)[0] == ("nightly", "done", 2)


def test_two_daemons_do_every_run_once(store: SqlStore, start: Start, tmp_path: Path, monitors: Path) -> None:
    monitors.write_text(" ".join(f"m{i}" for i in range(6)) + " source:files source:warehouse")
    with start("one", "--seconds=.1"), start("two", "--seconds=.1"):
        eventually(lambda: [row[1] for row in states(store)] == ["done"] * 14, "all runs done")
    lines = [line for line in noted(tmp_path / "work") if line.startswith("done")]
    assert len(lines) == len(set(lines)) == 14
    assert sum(line.startswith("done ingest") for line in lines) == 2
    assert len({row["owner"] for row in daemon_harness.run_rows(store)}) == 2


def test_a_daemon_frozen_past_its_lease_commits_nothing(
    store: SqlStore, start: Start, tmp_path: Path
) -> None:
    with start("frozen", "--seconds=1", "--lease=1") as frozen:
        eventually(lambda: len(noted(tmp_path / "work")) == 2, "both runs started")
        frozen.signal(signal.SIGSTOP)
        with start("other", "--lease=1") as other:
            eventually(lambda: both_done(store), "the other did all runs")
            frozen.signal(signal.SIGCONT)
            eventually(lambda: frozen.said("lease lost, another daemon may hold the run") == 2, "lease lost")
            other.signal(signal.SIGTERM)
            assert other.wait() == 0
    done = [line for line in noted(tmp_path / "work") if line.startswith("done")]
    assert len(done) == len(set(done)) == 2


@contextmanager
def database_away(url: str, databases: Databases) -> Iterator[None]:
    """Stop the server, or hold the lock of the file, while the context lasts."""
    if url.startswith("postgresql"):
        databases.stop_server()
        yield
        databases.start_server()
        return
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.rollback()
    connection.close()


def health(port: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_while_the_database_is_away_the_daemon_waits_and_says_so_once(
    url: str, store: SqlStore, start: Start, databases: Databases
) -> None:
    with start("daemon", "--busy-seconds=.1") as daemon:
        port = daemon.first_line()
        eventually(lambda: both_done(store), "all runs done")
        assert health(port)[0] == 200
        store.close()
        with database_away(url, databases):
            eventually(lambda: health(port)[0] == 503, "unhealthy")
            assert "database" in health(port)[1]
            time.sleep(1.0)
        store.schedule(RunKind.TICK, 1, NOW)
        eventually(lambda: states(store)[-1] == ("tick", "done", 1), "the run that came meanwhile is done")
        eventually(lambda: health(port)[0] == 200, "healthy again")
        assert daemon.said("database away, trying until it is back") == 1
        assert daemon.said("database back") == 1
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


CONFIG = """\
database: {url}
sources:
  telemetry: {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, step: 5min}}
monitors:
  players: {{series: {{metric: ccu}}, infer_every: 5min, fit: {{every: 7d, window: 14d}}}}
http: {{port: 0}}
workers: 1
"""


def test_the_command_runs_the_service_until_it_is_told_to_stop(
    url: str, store: SqlStore, tmp_path: Path
) -> None:
    config = tmp_path / "anomaly.yaml"
    config.write_text(CONFIG.format(url=url))
    command = ["-m", "anomaly_service", "daemon", f"--config={config}", f"--now={NOW.isoformat()}"]
    with process(command, tmp_path / "log") as daemon:
        eventually(lambda: both_done(store), "all runs done")
        assert ("ingest", "done", 1) in states(store)
        port = re.search(r'"port": (\d+)', daemon.log.read_text())
        assert port is not None
        assert health(port[1])[0] == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_on_sighup_a_good_config_is_taken_and_a_bad_one_is_not(
    store: SqlStore, start: Start, monitors: Path
) -> None:
    with start() as daemon:
        eventually(lambda: both_done(store), "all runs done")
        monitors.write_text("")
        daemon.signal(signal.SIGHUP)
        eventually(
            lambda: daemon.said("config not reloaded, the old one stays in force") == 1,
            "the reason in the log",
        )
        assert "got an empty file" in daemon.log.read_text()
        monitors.write_text("players logins source:files")
        daemon.signal(signal.SIGHUP)
        eventually(
            lambda: [row[1] for row in states(store)] == ["done"] * 5,
            "the new monitor's and source's runs done",
        )


# -- telemetry and failpoints ---------------------------------------------------------


def test_a_daemon_without_a_loop_for_long_is_unhealthy() -> None:
    seconds = [0.0]
    telemetry = Telemetry(stale_after_seconds=15, monotonic=lambda: seconds[0])
    assert telemetry.health()[0]
    seconds[0] = 16
    well, body = telemetry.health()
    assert not well
    assert body["reason"] == "no loop for 16 s; expected one every 5 s"
    telemetry.beat()
    assert telemetry.health()[0]


def test_outcomes_are_added_up_wherever_they_nest() -> None:
    telemetry = Telemetry()
    telemetry.count(
        {"players": {"rows": 10, "appeared": 1, "changed": 7, "settled": {"rows": 5, "appeared": 1}}}
    )
    value = telemetry.registry.get_sample_value
    assert value("anomaly_scores_written_total") == 15
    assert value("anomaly_events_appeared_total") == 2


def test_metrics_are_served_and_other_paths_are_not() -> None:
    with serving(Telemetry(), "127.0.0.1", 0) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS) as answer:
            assert b"anomaly_run_seconds" in answer.read()
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE_SECONDS)
        assert caught.value.code == 404
        caught.value.close()
        with (
            pytest.raises(OSError, match=rf"127.0.0.1:{port}: Address already in use.*`http: {{port: ...}}`"),
            serving(Telemetry(), "127.0.0.1", port),
        ):
            pass


def test_an_address_of_elsewhere_names_its_key() -> None:
    with (
        pytest.raises(OSError, match=r"`http: {host: ...}` in the config to an address of this machine"),
        serving(Telemetry(), "203.0.113.1", 0),
    ):
        pass


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    import logging

    root = logging.getLogger()
    before, level = root.handlers, root.level
    yield io.StringIO()
    root.handlers = before
    root.setLevel(level)
    structlog.reset_defaults()


def test_no_password_of_a_url_reaches_the_log(log_lines: io.StringIO) -> None:
    import logging

    configure_logging(as_json=True, stream=log_lines)
    structlog.get_logger("a").info("trying", url="postgresql://me:s3cr@t@host/db")
    try:
        raise RuntimeError("cannot reach postgresql://me:s3cr@t@host/db")
    except RuntimeError:
        structlog.get_logger("a").exception("failed")
    logging.getLogger("library").warning("no route to %s", "postgresql://me:s3cr@t@host/db")
    lines = [json.loads(line) for line in log_lines.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["info", "error", "warning"]
    assert "s3cr" not in log_lines.getvalue()
    assert "postgresql://me:***@host/db" in lines[1]["exception"]


@dataclass
class Raising(NotedWork):
    """Work that raises what it is told to."""

    error: Exception = field(kw_only=True)

    def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool]) -> Json:
        raise self.error


def logged(lines: io.StringIO, event: str) -> list[Json]:
    return [line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == event]


def test_a_bug_in_a_run_is_logged_with_its_traceback_and_where_to_report_it(
    light: SqlStore, tmp_path: Path, log_lines: io.StringIO
) -> None:
    configure_logging(as_json=True, stream=log_lines)
    daemon_on(light, Raising(light, tmp_path / "work", error=ValueError("not 3"))).drain()
    first, *_ = logged(log_lines, "run failed")
    assert "Traceback" in first["exception"]
    assert "in run\n" in first["exception"]
    assert "report it in its issue tracker" in first["bug"]
    assert daemon_harness.run_rows(light)[0]["error"] == "given up after 3 attempts: ValueError: not 3"


def test_an_error_of_ours_in_a_run_is_no_bug(light: SqlStore, tmp_path: Path, log_lines: io.StringIO) -> None:
    configure_logging(as_json=True, stream=log_lines)
    daemon_on(light, Raising(light, tmp_path / "work", error=BudgetError("ask for less"))).drain()
    first, *_ = logged(log_lines, "run failed")
    assert "BudgetError: ask for less" in first["exception"]
    assert "bug" not in first
    assert (
        daemon_harness.run_rows(light)[0]["error"] == "given up after 3 attempts: BudgetError: ask for less"
    )


def test_a_bug_that_ends_the_daemon_is_logged_too(log_lines: io.StringIO) -> None:
    configure_logging(as_json=True, stream=log_lines)

    def load() -> Workload:
        raise KeyError("players")

    with pytest.raises(KeyError):
        Daemon(load, clock=lambda: NOW, settings=FAST).drain()
    (line,) = logged(log_lines, "ended by a bug")
    assert "KeyError: 'players'" in line["exception"]
    assert "report it" in line["bug"]


def test_a_bug_met_while_reloading_leaves_the_old_config_in_force_and_its_traceback_in_the_log(
    light: SqlStore, tmp_path: Path, log_lines: io.StringIO
) -> None:
    configure_logging(as_json=True, stream=log_lines)
    work = NotedWork(light, tmp_path / "work")
    loads = iter([replace(workload(light, work, ["players"]), close=lambda: None)])
    daemon = Daemon(lambda: next(loads), clock=lambda: NOW, settings=FAST)
    daemon.reload()
    daemon.drain()
    (line,) = logged(log_lines, "config not reloaded, the old one stays in force")
    assert "StopIteration" in line["exception"]
    assert "report it" in line["bug"]
    assert both_done(light)
    _, said = daemon.telemetry.vitals.ready()
    assert said["parts"]["config"]["ready"]
    assert "not taken over" in said["parts"]["config"]["reason"]


def test_a_failpoint_kills_at_the_pass_that_was_asked_for() -> None:
    program = (
        "from anomaly_service.failpoints import failpoint\n"
        "for i in range(9):\n"
        "    failpoint('other'); failpoint('here'); print(i, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ANOMALY_FAILPOINT": "here:3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1"]


def test_a_stop_while_the_database_was_never_there_is_quiet() -> None:
    def load_work() -> Workload:
        raise DatabaseUnavailableError("no answer")

    daemon = Daemon(load_work, settings=Settings(poll_seconds=daemon_harness.POLL))
    thread = threading.Thread(target=daemon.run)
    thread.start()
    daemon.stop()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert daemon.run()
