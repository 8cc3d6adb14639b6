"""What a config file comes to: a store, what happens on schedule, and who does the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anomaly_service.daemon import schedule
from anomaly_service.daemon.telemetry import Telemetry
from pipelines.monitor import MonitorSpec
from pipelines.records import Claim, Json
from pipelines.store import Store

if TYPE_CHECKING:
    from anomaly_service.service import Service


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
    """

    store: Store
    monitors: Mapping[int, MonitorSpec]
    runner: Runner
    sources: Mapping[str, int | None] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None
    open_events: Callable[[], int] = lambda: 0
    newest_point: Callable[[str], datetime | None] = lambda source: None

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


def open_workload(path: Path | str, now: datetime | None, telemetry: Telemetry) -> Workload:
    """Return what the config file says now, with its monitors brought up to date in the database."""
    from anomaly_service import executors
    from anomaly_service.config.load import load
    from anomaly_service.service import Service

    config = load(path)
    pool = executors.build(config.workers, on_restart=telemetry.restarted)
    service = Service(config, now=now, executor=pool)
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
    )
