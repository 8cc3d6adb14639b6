"""Sources are read by runs of their own: how often, by whom, and what happens where one fails or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import anomaly
from patience import ended_threads, eventually
from sqlalchemy import text

from anomaly_service.config.load import load
from anomaly_service.daemon import loop
from anomaly_service.daemon.loop import Daemon, Settings
from anomaly_service.daemon.runner import ServiceRunner
from anomaly_service.daemon.telemetry import Telemetry
from anomaly_service.daemon.workload import workload_of
from anomaly_service.db.store import SqlStore
from anomaly_service.service import Service
from anomaly_service.sources.csv import CsvSource
from anomaly_service.sources.ingest import ingest_from
from pipelines.executor import Inline
from pipelines.names import RunKind, RunState
from pipelines.records import Claim, Json
from pipelines.store import Ingest

NOON = datetime(2024, 6, 5, 12, tzinfo=UTC)
SOURCE = "  {0}: {{kind: csv, path: {0}.csv, timestamp: ts, value: value, metric_name: {0}, step: 5min}}"
MONITOR = "  {0}: {{series: {{metric: {1}}}, detector: robust_z, infer_every: 5min}}"


@dataclass
class Place:
    """A folder with a config and a file for each source, at a time that a test sets."""

    folder: Path
    url: str
    now: datetime = NOON + timedelta(minutes=2)

    @property
    def config(self) -> Path:
        return self.folder / "anomaly.yaml"

    def declare(self, sources: tuple[str, ...], monitors: dict[str, str]) -> None:
        """Write the config: monitors by name, each with the source that it reads."""
        lines = [f"database: {self.url}", "sources:", *map(SOURCE.format, sources), "monitors:"]
        lines += [MONITOR.format(name, metric) for name, metric in monitors.items()]
        self.config.write_text("\n".join([*lines, "http: {port: 0}", "workers: 1", ""]))

    def deliver(self, source: str, *minutes: int) -> None:
        """Add points to a source's file, so many minutes after noon."""
        path = self.folder / f"{source}.csv"
        rows = [f"{NOON + timedelta(minutes=m):%Y-%m-%dT%H:%M:%SZ},{m}\n" for m in minutes]
        with path.open("a") as file:
            file.write("".join(rows) if file.tell() else "".join(["ts,value\n", *rows]))

    def daemon(self, telemetry: Telemetry | None = None) -> Daemon:
        def load_work() -> object:
            return workload_of(Service(load(self.config), executor=Inline()))

        settings = Settings(lease_seconds=60.0, poll_seconds=0.05)
        return Daemon(load_work, clock=lambda: self.now, telemetry=telemetry, settings=settings)  # type: ignore[arg-type]

    def runs(self, kind: str | None = None) -> list[tuple[str, str, str]]:
        """Return source or monitor, time of day and state of every run of a kind."""
        with SqlStore(self.url) as store:
            rows = store.rows("run_log", {"kind": kind} if kind else {})
        rows.sort(key=lambda row: (row["scheduled_for"], row["run_id"]))
        return [(row["source"] or row["monitor"], row["scheduled_for"][11:16], row["state"]) for row in rows]


@pytest.fixture
def place(tmp_path: Path, migrated_sqlite: Path) -> Place:
    database = tmp_path / "anomaly.db"
    database.write_bytes(migrated_sqlite.read_bytes())
    made = Place(tmp_path, f"sqlite:///{database}")
    made.declare(("files",), {"players": "files"})
    made.deliver("files", -5, 0)
    return made


@dataclass
class Reads:
    """Every read that a source really saw, and which sources hang until they are let go."""

    seen: list[str] = field(default_factory=list)
    hanging: dict[str, threading.Event] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def hang(self, source: str) -> threading.Event:
        return self.hanging.setdefault(source, threading.Event())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    found, real = Reads(), CsvSource.read

    def read(self: CsvSource, progress: dict[str, Json], *, now: datetime) -> Iterator[Ingest]:
        found.seen.append(self.name)
        if self.name in found.broken:
            raise ZeroDivisionError("a bug in the source")
        if self.name in found.hanging:
            found.hanging[self.name].wait(240)
        yield from real(self, progress, now=now)

    monkeypatch.setattr(CsvSource, "read", read)
    with ended_threads():
        yield found
        for event in found.hanging.values():
            event.set()


@contextmanager
def at_work(daemon: Daemon) -> Iterator[threading.Thread]:
    """Let a daemon run in a thread while the context lasts."""
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield thread
    finally:
        daemon.stop()
        thread.join(120)
    assert not thread.is_alive()


# -- how often --------------------------------------------------------------------------


def test_four_monitors_of_one_source_read_it_once_an_interval(place: Place, reads: Reads) -> None:
    place.declare(("files",), {f"m{i}": "files" for i in range(4)})
    place.daemon().drain()
    assert reads.seen == ["files"]
    place.daemon().drain()
    assert reads.seen == ["files"]
    place.now += timedelta(minutes=5)
    place.daemon().drain()
    assert reads.seen == ["files"] * 2
    assert place.runs("ingest") == [("files", "12:00", "done"), ("files", "12:05", "done")]
    assert len(place.runs("tick")) == 8
    assert {state for _, _, state in place.runs()} == {"done"}


def test_one_round_reads_all_sources_before_any_monitor_works(place: Place, reads: Reads) -> None:
    place.declare(("files", "more"), {"players": "files", "others": "more"})
    place.deliver("more", -5, 0)
    place.daemon().drain()
    with SqlStore(place.url) as store:
        began = sorted(store.rows("run_log"), key=lambda row: (row["started_at"], row["run_id"]))
        # Started in the same second, runs are told apart by their numbers: they are claimed as they are made.
        assert {row["kind"] for row in began[:2]} == {"ingest"}
        scored = store.rows("series_health")
    assert sorted(row["series"] for row in scored) == ["files", "more"]
    assert {row["monitors"] for row in scored} == {1}


def test_a_source_with_an_interval_of_its_own_keeps_to_it(place: Place, reads: Reads) -> None:
    place.config.write_text(place.config.read_text().replace("step: 5min", "step: 5min, every: 15min"))
    for _ in range(4):
        place.daemon().drain()
        place.now += timedelta(minutes=5)
    assert [at for _, at, _ in place.runs("ingest")] == ["12:00", "12:15"]
    assert [at for _, at, _ in place.runs("tick")] == ["12:00", "12:05", "12:10", "12:15"]


def test_weeks_of_downtime_cost_one_read(place: Place, reads: Reads) -> None:
    place.daemon().drain()
    place.now += timedelta(days=20)
    place.daemon().drain()
    assert reads.seen == ["files"] * 2
    assert len(place.runs("tick")) == 2


def test_what_was_read_is_told_in_metrics(place: Place, reads: Reads) -> None:
    telemetry = Telemetry()
    place.daemon(telemetry).drain()
    value = telemetry.registry.get_sample_value
    assert value("anomaly_points_ingested_total") == 2
    assert value("anomaly_source_reads_total", {"source": "files", "state": "done"}) == 1
    assert value("anomaly_source_lag_seconds", {"source": "files"}) == 120
    assert value("anomaly_run_seconds_count", {"kind": "ingest", "state": "done"}) == 1


# -- one that fails or hangs ------------------------------------------------------------


def test_a_source_that_fails_fails_its_read_and_no_tick(place: Place, reads: Reads) -> None:
    place.declare(("files", "more", "bug"), {"players": "files", "others": "more", "bugs": "bug"})
    place.deliver("more", 0)
    (place.folder / "more.csv").write_text("time,value\n2024-06-05T12:00:00Z,1\n")
    place.deliver("bug", 0)
    reads.broken.add("bug")
    telemetry = Telemetry()
    place.daemon(telemetry).drain()
    assert sorted(reads.seen) == ["bug"] * 3 + ["files"] + ["more"] * 3
    assert sorted(place.runs("ingest")) == [
        ("bug", "12:00", "failed"),
        ("files", "12:00", "done"),
        ("more", "12:00", "failed"),
    ]
    assert {(name, state) for name, _, state in place.runs("tick")} == {
        ("players", "done"),
        ("others", "done"),
        ("bugs", "done"),
    }
    with SqlStore(place.url) as store:
        errors = {row["source"]: row["error"] for row in store.rows("run_log", {"state": "failed"})}
    assert "no column ts" in errors["more"]
    assert "ZeroDivisionError: a bug in the source" in errors["bug"]
    failures = telemetry.registry.get_sample_value
    assert failures("anomaly_source_errors_total", {"source": "more"}) == 3
    assert failures("anomaly_source_reads_total", {"source": "bug", "state": "failed"}) == 3
    # The next time on the grid it is tried again, and what is mended by then goes in.
    reads.broken.clear()
    place.now += timedelta(minutes=5)
    place.daemon().drain()
    assert ("bug", "12:05", "done") in place.runs("ingest")


def test_a_source_that_hangs_keeps_neither_others_nor_for_long_its_own_monitors(
    place: Place, reads: Reads
) -> None:
    place.declare(("files", "more"), {"players": "files", "others": "more"})
    place.deliver("more", 0)
    place.daemon().drain()
    let_go = reads.hang("more")
    place.now = NOON + timedelta(minutes=5, seconds=1)
    with at_work(place.daemon()):
        eventually(lambda: ("players", "12:05", "done") in place.runs("tick"), "the other monitor's tick")
        eventually(lambda: ("more", "12:05", "running") in place.runs("ingest"), "the read that hangs")
        assert "others" not in [name for name, at, _ in place.runs("tick") if at == "12:05"]
        said = anomaly("status", "--config", place.config).out
        assert "Source more: 1 series" in said
        assert "Being read since 20" in said
        place.now = NOON + timedelta(minutes=10, seconds=2)
        eventually(lambda: ("others", "12:05", "done") in place.runs("tick"), "a tick without the source")
        eventually(lambda: ("players", "12:10", "done") in place.runs("tick"), "the other monitor's tick")
        assert [at for name, at, _ in place.runs("ingest") if name == "more"] == ["12:00", "12:05"]
        place.deliver("more", 5, 10)
        let_go.set()
        eventually(lambda: ("others", "12:10", "done") in place.runs("tick"), "the tick that followed")
    assert [at for name, at, _ in place.runs("ingest") if name == "more"] == ["12:00", "12:05", "12:10"]
    with SqlStore(place.url) as store:
        (row,) = store.rows("series_health", {"series": "more"})
    assert row["last_at"] == "2024-06-05T12:10:00Z"


def test_a_read_that_was_frozen_past_its_lease_stores_nothing(place: Place, reads: Reads) -> None:
    let_go, telemetry = reads.hang("files"), Telemetry()
    lost = telemetry.registry.get_sample_value
    with at_work(place.daemon(telemetry)), SqlStore(place.url) as store:
        eventually(lambda: reads.seen == ["files"], "the read that freezes")
        with store.engine.begin() as connection:
            connection.execute(text("UPDATE run SET lease_until = 0"))
        other = store.begin_read("files", place.now, "other", 60)
        let_go.set()
        eventually(lambda: lost("anomaly_leases_lost_total") == 1, "the lease lost")
        assert (store.series(), store.progress("files")) == ([], {})
        store.finish(other, RunState.DONE, {})


def test_a_daemon_that_is_told_to_stop_leaves_a_source_that_hangs_behind(
    place: Place, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "GRACE_SECONDS", 0.2)
    let_go = reads.hang("files")
    with at_work(place.daemon()) as thread:
        eventually(lambda: reads.seen == ["files"], "the read that hangs")
    assert not thread.is_alive()
    assert place.runs("ingest") == [("files", "12:00", "running")]
    let_go.set()
    # Its thread gives the run back, as the next daemon finds.
    eventually(lambda: place.runs("ingest") == [("files", "12:00", "waiting")], "given back")


def test_trouble_that_nobody_foresaw_in_the_lane_of_reads_ends_the_daemon(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = place.daemon()

    def broken() -> None:
        raise RuntimeError("no lane any more")

    monkeypatch.setattr(daemon, "_schedule_reads", broken)
    with pytest.raises(RuntimeError, match="no lane any more"):
        daemon.run()


def test_a_source_that_comes_with_a_new_config_is_read_and_one_that_goes_is_not(
    place: Place, reads: Reads
) -> None:
    daemon = place.daemon()
    with at_work(daemon):
        eventually(lambda: ("players", "12:00", "done") in place.runs("tick"), "the first tick")
        place.deliver("more", 0)
        place.declare(("files", "more"), {"players": "files"})
        daemon.reload()
        eventually(lambda: ("more", "12:00", "done") in place.runs("ingest"), "the new source's read")
        place.declare(("more",), {"players": "files"})
        daemon.reload()
        eventually(lambda: daemon._plan.sources[0].name == "more", "the old source gone")
        place.now += timedelta(minutes=5)
        eventually(lambda: ("more", "12:05", "done") in place.runs("ingest"), "the new source's next read")
        eventually(lambda: ("players", "12:05", "done") in place.runs("tick"), "the next tick")
    assert [at for name, at, _ in place.runs("ingest") if name == "files"] == ["12:00"]


# -- a person and a daemon --------------------------------------------------------------


def read_by_hand(place: Place, patience: float) -> list[Json]:
    """Read all sources as the command does, with some patience where somebody reads them."""
    from anomaly_service.sources.ingest import ingest

    config = load(place.config)
    with SqlStore(place.url) as store:
        return ingest(store, config.build_sources(), place.now, patience_seconds=patience)


def test_a_source_that_the_daemon_reads_is_not_read_by_a_command_and_the_others_are(
    place: Place, reads: Reads
) -> None:
    place.declare(("files", "more"), {"players": "files"})
    place.deliver("more", 0)
    with SqlStore(place.url) as store:
        store.schedule(RunKind.INGEST, None, NOON, "files")
        held = store.claim("daemon-1", 60)
        assert held is not None
        files, more = read_by_hand(place, patience=0.0)
        assert "source files is being read by daemon-1 since " in files["error"]
        assert (more["error"], more["new"]) == ("", 1)
        assert reads.seen == ["more"]
        threading.Timer(0.3, lambda: store.finish(held, RunState.DONE, {})).start()
        files, more = read_by_hand(place, patience=120.0)
        assert (files["error"], files["new"]) == ("", 2)


def test_a_source_that_a_command_reads_is_not_read_by_a_daemon(place: Place, reads: Reads) -> None:
    let_go = reads.hang("files")
    done: list[Json] = []
    person = threading.Thread(target=lambda: done.extend(read_by_hand(place, patience=0.0)))
    person.start()
    eventually(lambda: reads.seen == ["files"], "the command's read")
    place.daemon().drain()
    assert reads.seen == ["files"]
    assert [row[2] for row in place.runs("ingest")] == ["running"]
    let_go.set()
    person.join()
    assert [row["new"] for row in done] == [2]
    place.daemon().drain()
    # The command's read was of this interval: nothing is read again, and the tick has its points.
    assert reads.seen == ["files"]
    assert place.runs("tick") == [("players", "12:00", "done")]


def test_a_read_by_command_that_is_interrupted_ends_its_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[Ingest]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(CsvSource, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_by_hand(place, patience=0.0)
    assert place.runs("ingest") == [("files", "12:02", "failed")]
    monkeypatch.undo()
    assert [row["new"] for row in read_by_hand(place, patience=0.0)] == [2]
    assert place.runs("ingest") == [("files", "12:02", "done")]


def test_a_slip_of_the_clock_by_a_command_does_not_stop_the_daemons_reads(place: Place, reads: Reads) -> None:
    now, place.now = place.now, place.now + timedelta(days=365)
    read_by_hand(place, patience=0.0)
    place.now = now
    place.daemon().drain()
    assert reads.seen == ["files"] * 2
    assert ("players", "12:00", "done") in place.runs("tick")


def test_a_killed_read_loses_and_doubles_nothing(tmp_path: Path, database_url: str) -> None:
    place = Place(tmp_path, database_url)
    place.declare(("files", "more"), {"players": "files"})
    place.deliver("files", *range(-500, 5, 5))
    place.deliver("more", 0)
    command = [sys.executable, "-m", "anomaly_service", "ingest", f"--config={place.config}"]
    for failpoint in ("ingest-before-commit", "ingest-after-commit"):
        done = subprocess.run(
            [*command, f"--now={place.now.isoformat()}"],
            env={**os.environ, "ANOMALY_FAILPOINT": failpoint},
            capture_output=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        assert ("files", "12:02", "running") in place.runs("ingest")
        with SqlStore(place.url) as store, store.engine.begin() as connection:
            connection.execute(text("UPDATE run SET lease_until = 0"))  # a minute later
    place.daemon().drain()
    with SqlStore(place.url) as store:
        points = {row.spec.key: len(store.points([row.id], 0, 2**40)) for row in store.series()}
    assert points == {"files": 101, "more": 1}
    assert ("files", "12:02", "done") in place.runs("ingest")


def test_a_run_of_a_kind_that_only_commands_do_is_refused_by_its_name(place: Place) -> None:
    claim = Claim(1, RunKind.FIT, 1, NOON, "me", 1, 1)
    with Service(load(place.config)) as service, pytest.raises(ValueError, match="no run of kind 'fit'"):
        ServiceRunner(service).run(claim, NOON)


def test_only_what_the_config_declares_can_be_read(place: Place) -> None:
    from anomaly_service.errors import UnknownSourceError

    config = load(place.config)
    with SqlStore(place.url) as store, pytest.raises(UnknownSourceError, match="declares files"):
        ingest_from(config, store, NOON, only=["file"])
