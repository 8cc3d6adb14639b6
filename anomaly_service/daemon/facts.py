"""What the database tells of the service's work at one moment: who was read, scored and rescored when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from anomaly_service.daemon.schedule import MonitorSchedule, Plan, SourceSchedule
from anomaly_service.db.store import SqlStore
from pipelines.names import RunKind, RunState
from pipelines.records import Json, PastRun
from pipelines.store import Store

LOOKED_AT = 10
"""Newest runs of a kind that are looked at: where none of them was done, that is told."""


@dataclass(frozen=True)
class Past:
    """The newest runs of one kind, of one monitor or source, the newest first."""

    runs: tuple[PastRun, ...] = ()

    @property
    def last_done(self) -> datetime | None:
        """When the newest of those that were done was scheduled for."""
        return next((run.scheduled_for for run in self.runs if run.state is RunState.DONE), None)

    @property
    def failing(self) -> PastRun | None:
        """The newest that failed, or failed and is tried again, where none was done since."""
        for run in self.runs:
            if run.state is RunState.DONE:
                return None
            if run.error:
                return run
        return None


@dataclass(frozen=True)
class MonitorFacts:
    schedule: MonitorSchedule
    ticks: Past
    nights: Past


@dataclass(frozen=True)
class SourceFacts:
    """A source that the config declares; ``health`` is its row of the view, empty before its first point."""

    schedule: SourceSchedule
    reads: Past
    health: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All of it.

    Attributes:
        wall: the database's clock.
        scheduled_until: what any run was scheduled for at the latest; None where there is none.
        lost: runs that are at work and have no lease any more.
    """

    monitors: tuple[MonitorFacts, ...]
    sources: tuple[SourceFacts, ...]
    wall: datetime
    scheduled_until: datetime | None = None
    lost: int = 0


def gather(store: Store, plan: Plan, now: datetime) -> Facts:
    """Return what the database tells of the work that is planned.

    Raises:
        DatabaseUnavailableError: it does not answer.
    """
    health = _health(store)

    def past(kind: RunKind, monitor_id: int | None = None, source: str = "") -> Past:
        return Past(tuple(store.past_runs(kind, monitor_id, source, now, LOOKED_AT)))

    moment = store.moment()
    return Facts(
        tuple(
            MonitorFacts(each, past(RunKind.TICK, each.id), past(RunKind.NIGHTLY, each.id))
            for each in plan.monitors
        ),
        tuple(
            SourceFacts(each, past(RunKind.INGEST, None, each.name), health.get(each.name, {}))
            for each in plan.sources
        ),
        moment.wall,
        moment.scheduled_until,
        moment.lost,
    )


def _health(store: Store) -> Mapping[str, Json]:
    rows: Sequence[Json] = store.rows("source_health") if isinstance(store, SqlStore) else ()
    return {row["source"]: row for row in rows}
