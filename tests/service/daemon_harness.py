"""A daemon process that tests start, freeze, kill and look at.

Run as a program it is a real daemon on a real store, whose work is small: it notes in a file what it
did and, where asked, fails, takes its time or commits.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from nursery import NURSERY
from sqlalchemy import text

from anomaly_service.daemon.loop import Daemon, Settings, signals_to
from anomaly_service.daemon.telemetry import Telemetry, configure_logging, serving
from anomaly_service.daemon.workload import Workload
from anomaly_service.db import deadline
from anomaly_service.db.store import SqlStore
from pipelines.errors import StoppedError
from pipelines.monitor import MonitorSpec
from pipelines.names import RunKind
from pipelines.records import Claim, Json
from pipelines.store import Batch

NOW = datetime(2024, 6, 5, 12, 2, tzinfo=UTC)
POLL = 0.2
"""Seconds between two looks, here and in the daemons under test."""


@dataclass
class NotedWork:
    """A runner that appends ``start`` and ``done`` of every run to a file.

    Attributes:
        seconds: how long a run takes; it looks at ``should_stop`` all the time.
        fails: kinds of runs that raise.
        bites: how often a run says that more is left.
    """

    store: SqlStore
    log: Path
    seconds: float = 0.0
    fails: frozenset[str] = frozenset()
    bites: dict[int, int] = field(default_factory=dict)

    def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool]) -> Json:
        self._note("start", claim)
        self._take_time(should_stop)
        if claim.kind in self.fails:
            raise ValueError(f"no luck with {claim.kind}")
        self.store.commit(claim, Batch())
        self._note("done", claim)
        left = self.bites.get(claim.run_id, 0)
        self.bites[claim.run_id] = left - 1
        return {"rows": 1, "more": left > 0}

    def _take_time(self, should_stop: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            if should_stop():
                raise StoppedError("asked to stop")
            time.sleep(0.01)

    def _note(self, what: str, claim: Claim) -> None:
        with self.log.open("a") as file:
            whose = claim.source or claim.monitor_id
            file.write(f"{what} {claim.kind} {whose} {claim.scheduled_for.isoformat()}\n")


SOURCE = "source:"
"""Before the name of a source where monitors and sources are named together."""


def workload(store: SqlStore, runner: NotedWork, names: list[str]) -> Workload:
    """Return the work of these monitors, and of the sources among the names."""
    sources = {name.removeprefix(SOURCE): None for name in names if name.startswith(SOURCE)}
    specs = {name: MonitorSpec(name, selector={}) for name in names if not name.startswith(SOURCE)}
    rows = store.sync_monitors({name: spec.to_json() for name, spec in specs.items()})
    return Workload(store, {row.id: specs[row.name] for row in rows}, runner, sources, store.close)


def main() -> None:
    """Run a daemon; the file ``--monitors`` names its monitors and sources, and is read on SIGHUP."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--monitors", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--lease", type=float, default=30.0)
    parser.add_argument("--busy-seconds", type=float, default=30.0)
    args = parser.parse_args()
    configure_logging(as_json=True)
    deadline.BUSY_SECONDS = args.busy_seconds

    def load() -> Workload:
        names = args.monitors.read_text().split()
        if not names:
            raise ValueError("expected the name of a monitor, got an empty file")
        store = SqlStore(args.url)
        return workload(store, NotedWork(store, args.log, args.seconds), names)

    telemetry = Telemetry()
    settings = Settings(lease_seconds=args.lease, poll_seconds=POLL)
    daemon = Daemon(load, clock=lambda: NOW, telemetry=telemetry, settings=settings)
    with serving(telemetry, "127.0.0.1", 0) as port, signals_to(daemon):
        print(port, flush=True)
        daemon.run()


class Process:
    """A daemon under test, in a process of its own, that is gone when the context ends."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        log.touch()
        self.log = log
        self._started = NURSERY.start(command, log, env or {})

    def pid(self) -> int:
        return self._started.pid()

    def signal(self, number: signal.Signals) -> None:
        self._started.send_signal(number)

    def poll(self) -> int | None:
        return self._started.poll()

    def wait(self) -> int:
        return self._started.wait()

    def first_line(self) -> str:
        return self._started.first_line()

    def said(self, event: str) -> int:
        """Return how often a log line has this event."""
        return self.log.read_text().count(f'"event": "{event}"')

    def end(self) -> None:
        self._started.send_signal(signal.SIGKILL)
        self._started.wait()


@contextmanager
def process(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[Process]:
    started = Process(command, log, env)
    try:
        yield started
    finally:
        started.end()


def run_rows(store: SqlStore) -> list[Json]:
    """Return the run table, oldest first."""
    with store.engine.connect() as connection:
        query = text("SELECT * FROM run ORDER BY scheduled_for, id")
        return [dict(row._mapping) for row in connection.execute(query)]


def states(store: SqlStore) -> list[tuple[str, str, int]]:
    """Return kind, state and attempts of every run."""
    return [(row["kind"], row["state"], row["attempts"]) for row in run_rows(store)]


def both_done(store: SqlStore) -> bool:
    """True once the night and the tick of one monitor are done."""
    of_monitors = [row[:2] for row in states(store) if row[0] != RunKind.INGEST]
    return of_monitors == [(RunKind.NIGHTLY, "done"), (RunKind.TICK, "done")]


if __name__ == "__main__":
    main()
