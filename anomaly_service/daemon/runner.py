"""What one claimed run does, kind by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from anomaly_service.daemon.told_events import tell_of_source
from anomaly_service.sources.again import Again
from anomaly_service.sources.ingest import read
from anomaly_service.sources.memory import forget
from pipelines.errors import StoppedError
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.names import RunKind
from pipelines.records import Claim, Json

if TYPE_CHECKING:
    from anomaly_service.db.store import SqlStore
    from anomaly_service.service import Service

K = TypeVar("K")


@dataclass(frozen=True)
class Task:
    """One claimed run, and what its work needs.

    Attributes:
        now: up to where points are due.
        should_stop: asked between two batches.
    """

    service: Service
    claim: Claim
    now: datetime
    should_stop: Callable[[], bool]

    @property
    def at(self) -> int:
        return int(self.now.timestamp())

    def look(self) -> None:
        """Note what time it is, and log which sources stopped or deliver again."""
        for turn in self.service.store.note_look(self.now, self.service.config.sources):
            tell_of_source(turn, self.claim)

    def jobs(self) -> Iterator[MonitorJob]:
        """Yield the monitor's job under the claim, or those of all monitors where it is of none."""
        for row, spec in self.service.sync(self.claim.monitor_id):
            job = self.service.job(row, spec)
            yield replace(job, claim=self.claim, should_stop=self.should_stop)


class ServiceRunner:
    """Works off claimed runs with a service; every commit checks the claim's fence."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._kept_for: datetime | None = None

    def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool] = lambda: False) -> Json:
        """Do the work of one claimed run and return what was done.

        What retention no longer keeps goes once a night, however many monitors have theirs at that time.
        """
        if claim.kind not in WORK:
            raise ValueError(f"no run of kind {claim.kind.value!r} is worked off by the daemon")
        task = Task(self._service, claim, now, should_stop)
        done = WORK[claim.kind](task)
        if claim.kind is RunKind.NIGHTLY and self._kept_for != claim.scheduled_for:
            done["pruned"] = prune(self._service, task.at) | tidy(self._service, task.at)
            self._kept_for = claim.scheduled_for
        return done


def ingest(task: Task) -> Json:
    """Take what is new from one source."""
    config = task.service.config
    source = next(each for each in config.build_sources() if each.name == task.claim.source)
    outcome = read(
        task.service.store,
        source,
        task.now,
        claim=task.claim,
        rejects=config.rejects_folder,
        again=Again(config.nightly.plan()),
        should_stop=task.should_stop,
        tolerance_seconds=config.future_tolerance.total_seconds(),
    )
    task.look()
    if task.should_stop():
        raise StoppedError("stopped while reading the source; what was stored stands")
    return asdict(outcome)


def tick(task: Task) -> Json:
    """Score what came."""
    from pipelines.jobs import passes

    # Where a source hangs, nobody else says that it stopped.
    task.look()
    live = (replace(job, executor=task.service.live_executor) for job in task.jobs())
    return task.service.told({job.spec.name: passes.tick(job, task.at) for job in live})


def nightly(task: Task) -> Json:
    """Fit what is due, then rescore with hindsight."""
    from pipelines.jobs import passes

    scheduled_for = int(task.claim.scheduled_for.timestamp())
    done = {job.spec.name: passes.nightly(job, scheduled_for, task.at) for job in task.jobs()}
    return task.service.told(done)


def backfill(task: Task) -> Json:
    """Fit and score all history as the nights would have."""
    from pipelines.jobs import passes

    return task.service.told({job.spec.name: passes.backfill(job, task.at) for job in task.jobs()})


def prune(service: Service, now: int) -> Json:
    """Delete what the retention policy no longer keeps, counted from the newest point of each source."""
    keep, store = service.config.retention, service.store
    ends = _ends(store, now)
    points_from = {source: end - int(keep.points.total_seconds()) for source, end in ends.items()}
    scores_from, lines_from = _scores_from(store, ends, int(keep.scores.total_seconds()))
    return {
        "points": sum(store.delete_points_before(ts, some) for ts, some in _stages(points_from)),
        "scores": sum(store.delete_scores_before(ts, some) for ts, some in _stages(scores_from)),
        "versions": sum(
            store.prune_versions(keep.model_versions, ts, some) for ts, some in _stages(scores_from)
        ),
        "lines": sum(store.prune_lines(ts, some) for ts, some in _stages(lines_from)),
    }


def tidy(service: Service, now: int) -> Json:
    """Delete what else grows and is too old, then let the database count what is left."""
    keep, store = service.config.retention, service.store
    ends = _ends(store, now)
    seconds = int(keep.remembered.total_seconds())
    sources = [source for source in service.config.build_sources() if source.name in ends]
    done = {
        "runs": store.prune_runs(keep.runs.total_seconds()),
        "revisions": store.prune_revisions(keep.revisions.total_seconds()),
        "events": store.prune_events(keep.outdated.total_seconds()),
        "progress": sum(forget(store, source, ends[source.name] - seconds) for source in sources),
    }
    store.refresh_statistics()
    return done


def _ends(store: SqlStore, now: int) -> dict[str, int]:
    """Return up to when each source has come, by name.

    Of history that ended long ago, everything would be too old by today's date.
    """
    found: dict[str, int] = {}
    for row in store.series():
        if row.last_ts is not None:
            found[row.spec.source] = max(found.get(row.spec.source, 0), min(row.last_ts, now))
    return found


def _scores_from(
    store: SqlStore, ends: Mapping[str, int], seconds: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Return from when on scores are kept by target id, and lines by monitor id."""
    source_of = {row.id: row.spec.source for row in store.series()}
    targets: dict[int, int] = {}
    monitors: dict[int, int] = {}
    for monitor in store.monitors():
        for target in store.targets(monitor.id):
            known = [ends[source_of[i]] for i in target.series_ids if source_of[i] in ends]
            if known:
                targets[target.id] = max(known) - seconds
                monitors[monitor.id] = min(monitors.get(monitor.id, targets[target.id]), targets[target.id])
    return targets, monitors


def _stages(times: Mapping[K, int]) -> Iterator[tuple[int, list[K] | None]]:
    """Yield times with those whose time it is: first, for all, the earliest: whole months go at once."""
    alike: dict[int, list[K]] = {}
    for key, time in sorted(times.items(), key=lambda item: item[1]):
        alike.setdefault(time, []).append(key)
    for number, (time, some) in enumerate(alike.items()):
        yield time, None if number == 0 else some


WORK: dict[RunKind, Callable[[Task], Json]] = {
    RunKind.INGEST: ingest,
    RunKind.TICK: tick,
    RunKind.NIGHTLY: nightly,
    RunKind.BACKFILL: backfill,
}
"""Runs of other kinds are commands, which nobody claims."""
