"""What the database tells of the service's work at one moment: who was read, scored and rescored when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from anomaly_service.db.store import SqlStore
from pipelines.monitor import NightlyPlan
from pipelines.names import RunKind, RunState
from pipelines.records import Json, PastRun
from pipelines.store import Store


class MonitorPlan(Protocol):
    """What is planned for a monitor."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def infer_every_seconds(self) -> int: ...
    @property
    def nightly(self) -> NightlyPlan: ...


class SourcePlan(Protocol):
    """What is planned for a source."""

    @property
    def name(self) -> str: ...
    @property
    def every_seconds(self) -> int: ...


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
    plan: MonitorPlan
    ticks: Past
    nights: Past


@dataclass(frozen=True)
class SourceFacts:
    """A source that the config declares; ``health`` is its row of the view, empty before its first point."""

    plan: SourcePlan
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


def gather(
    store: Store, monitors: Iterable[MonitorPlan], sources: Iterable[SourcePlan], now: datetime
) -> Facts:
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
            for each in monitors
        ),
        tuple(
            SourceFacts(each, past(RunKind.INGEST, None, each.name), health.get(each.name, {}))
            for each in sources
        ),
        moment.wall,
        moment.scheduled_until,
        moment.lost,
    )


def _health(store: Store) -> Mapping[str, Json]:
    rows: Sequence[Json] = store.rows("source_health") if isinstance(store, SqlStore) else ()
    return {row["source"]: row for row in rows}
