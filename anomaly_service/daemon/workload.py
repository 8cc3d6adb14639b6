"""What a config file comes to: a store, what happens on schedule, and who does the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from anomaly_service.daemon import schedule
from anomaly_service.daemon.telemetry import Telemetry
from pipelines.monitor import MonitorSpec
from pipelines.records import Claim, Json
from pipelines.store import Store

if TYPE_CHECKING:
    from anomaly_service.db.events import Changed
    from anomaly_service.service import Service
    from pipelines.executor import Executor


class Runner(Protocol):
    """Does the work of one claimed run."""

    def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool]) -> Json:
        """Work on the run and return what was done.

        ``more: true`` in the outcome, or in one of its parts, says that the work was bounded and
        some is left: it is called again. ``error`` says why part of it could not be done: what was
        done stands, and the run counts as failed.

        Raises:
            StoppedError: ``should_stop`` said so between two batches.
            LostClaimError: another daemon holds the run by now.
        """
        ...


@dataclass(frozen=True)
class Workload:
    """What the daemon works on.

    Attributes:
        monitors: by id.
        sources: seconds between two reads by name; None where the monitors that read it say how often.
        open_events: counts the flagged intervals that are still going on.
        newest_point: says when the newest point of a source was; None before the first.
        read_seconds, run_seconds: how long a read, and a run of a monitor, may go on without progress.
    """

    store: Store
    monitors: Mapping[int, MonitorSpec]
    runner: Runner
    sources: Mapping[str, int | None] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None
    open_events: Callable[[], int] = lambda: 0
    newest_point: Callable[[str], datetime | None] = lambda source: None
    read_seconds: float = 600.0
    run_seconds: float = 2400.0

    def plan(self) -> schedule.Plan:
        """Return the schedules as the series that there are by now make them."""
        return schedule.plan(self.monitors, self.sources, [row.spec for row in self.store.series()])

    def name(self, claim: Claim) -> str:
        """Return the name of the source or monitor that a run is of."""
        if claim.source:
            return claim.source
        known = self.monitors.get(claim.monitor_id) if claim.monitor_id is not None else None
        return "" if known is None else known.name

    def refusal(self, claim: Claim) -> str:
        """Return why a run is none of this config's; empty where it is."""
        if claim.source and claim.source not in self.sources:
            return f"source {claim.source} is not in the config any more"
        if claim.monitor_id is not None and claim.monitor_id not in self.monitors:
            return f"monitor {claim.monitor_id} is not in the config any more, or disabled"
        return ""


class Held:
    """A workload that is closed once it is of no use any more and nobody works on it."""

    def __init__(self, load: Workload) -> None:
        self.load = load
        self._users = 0
        self._is_retired = False
        self._lock = threading.Lock()

    def take(self) -> Self:
        """Keep it open until it is let go."""
        with self._lock:
            self._users += 1
        return self

    def let_go(self) -> None:
        """Be done with it."""
        with self._lock:
            self._users -= 1
            is_last = self._is_retired and not self._users
        if is_last:
            self.load.close()

    def retire(self) -> None:
        """Close it, now or with the last of those who work on it."""
        with self._lock:
            self._is_retired, is_unused = True, not self._users
        if is_unused:
            self.load.close()


def open_workload(path: Path | str, now: datetime | None, telemetry: Telemetry) -> Workload:
    """Return what the config file says now, with its monitors brought up to date in the database."""
    from anomaly_service import executors
    from anomaly_service.config.load import load
    from anomaly_service.daemon.told_events import EventLog
    from anomaly_service.service import Service

    config = load(path)

    def on_changes(claim: Claim | None, changed: Sequence[Changed]) -> None:
        told.tell(claim, changed)

    def pool(workers: int) -> Executor:
        seconds = config.deadlines.task.total_seconds()
        return executors.build(workers, on_restart=telemetry.restarted, task_seconds=seconds)

    # Ticks have workers of their own, and nights leave them a core: neither waits behind the other, and
    # what kills a worker of one is no concern of the other.
    service = Service(
        config,
        now=now,
        executor=pool(max(1, config.workers - 1)),
        live_executor=pool(config.workers),
        on_changes=on_changes,
    )
    told = EventLog(service.store)
    try:
        return workload_of(service)
    except BaseException:
        service.close()
        raise


def workload_of(service: Service) -> Workload:
    """Return what a service has to do, with its monitors brought up to date in the database."""
    from anomaly_service.daemon.runner import ServiceRunner

    store = service.store

    def newest_point(source: str) -> datetime | None:
        newest = [row["newest_at"] for row in store.rows("source_health", {"source": source})]
        return datetime.fromisoformat(newest[0]) if newest and newest[0] else None

    return Workload(
        store,
        {row.id: spec for row, spec in service.sync()},
        ServiceRunner(service),
        {name: source.every_seconds for name, source in service.config.sources.items()},
        service.close,
        lambda: len(store.rows("open_events")),
        newest_point,
        service.config.deadlines.read.total_seconds(),
        service.config.deadlines.run.total_seconds(),
    )
