"""The service as commands and the daemon use it: a config, its store, and the jobs at work on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self

from anomaly_service import readiness
from anomaly_service.config.sections import Config
from anomaly_service.db.events import Changed
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import DatabaseError, InvalidError, UnknownMonitorError
from anomaly_service.in_force import shown
from anomaly_service.known import check_declared
from pipelines.executor import Executor
from pipelines.jobs import channels
from pipelines.monitor import MonitorSpec
from pipelines.names import RunKind, RunState
from pipelines.records import Claim, EventChange, Json, MonitorRow
from pipelines.times import iso_seconds

BY_COMMAND = (RunKind.BACKFILL, RunKind.FIT, RunKind.SCORE, RunKind.RESCORE)

Progress = Callable[[str, float], None]
OnChanges = Callable[[Claim | None, Sequence[Changed]], None]


class Service:
    """Everything a command can ask for; use as a context manager, or close it.

    Args:
        config: the loaded config file.
        now: freezes the clock (``--now``); None follows the wall clock.
        executor: where heavy work runs; None starts a pool of ``config.workers`` when needed.
        live_executor: where ticks run, so that they wait for nothing else; None for the same.
        on_progress: called with a stage's name and the share that is done.
        on_changes: called by the store with events that changed, once that stands.
    """

    def __init__(
        self,
        config: Config,
        *,
        now: datetime | None = None,
        executor: Executor | None = None,
        live_executor: Executor | None = None,
        on_progress: Progress | None = None,
        on_changes: OnChanges = lambda claim, changed: None,
    ) -> None:
        self.config = config
        self.store = SqlStore(
            config.database, query_seconds=config.deadlines.query.total_seconds(), on_changes=on_changes
        )
        self._now = now
        self._executor = executor
        self._live_executor = live_executor
        self.on_progress = on_progress or (lambda stage, share: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers and let go of the database."""
        for executor in (self._executor, self._live_executor):
            if executor is not None:
                executor.close()
        self.store.close()

    @property
    def now(self) -> datetime:
        return self._now or datetime.now(UTC)

    @property
    def executor(self) -> Executor:
        if self._executor is None:
            from anomaly_service import executors

            seconds = self.config.deadlines.task.total_seconds()
            self._executor = executors.build(self.config.workers, task_seconds=seconds)
        return self._executor

    @property
    def live_executor(self) -> Executor:
        return self._live_executor or self.executor

    # -- commands -------------------------------------------------------------------

    def sync(self, only: int | None = None) -> list[tuple[MonitorRow, MonitorSpec]]:
        """Bring monitors and targets up to date with config and series; return the monitors in force.

        Args:
            only: id of the one monitor whose targets matter; all of them where None.
        """
        specs = self.config.monitor_specs()
        rows = self.store.sync_monitors(self.config.monitor_sections())
        if only is None:
            self.store.put_in_force(str(self.config.path), shown(self.config))
        series = self.store.series()
        found = []
        for row in rows:
            if not row.enabled or row.name not in specs or only not in (None, row.id):
                continue
            spec = specs[row.name]
            self.store.sync_targets(row.id, channels.made(channels.wanted(spec, series)))
            found.append((row, spec))
        decided = {row.id: row for row in self.store.monitors()}
        return [(decided[row.id], spec.staggered(decided[row.id].stagger)) for row, spec in found]

    def waiting(self) -> list[Json]:
        """Return the targets of several series that are asked for and not scored, each with the reason."""
        return readiness.waiting(self.store, self.config.monitor_specs())

    def backfill(self, monitors: Sequence[str] | None = None) -> Json:
        """Fit and score all history as the daemon would have; return what changed, by monitor."""
        from pipelines.jobs import passes

        return self.told(
            self._commanded(RunKind.BACKFILL, monitors, lambda job: passes.backfill(job, self._at()))
        )

    def fit(self, monitors: Sequence[str] | None = None) -> Json:
        """Fit what is due, and score what that changes."""
        from pipelines.jobs import passes

        return self.told(self._commanded(RunKind.FIT, monitors, lambda job: passes.fit(job, self._at())))

    def score(self, monitors: Sequence[str] | None = None) -> Json:
        """Run one live tick."""
        from pipelines.jobs import passes

        return self.told(self._commanded(RunKind.SCORE, monitors, lambda job: passes.tick(job, self._at())))

    def nightly(self, monitors: Sequence[str] | None = None) -> Json:
        """Run the nightly pass as of now."""
        from pipelines.jobs import passes

        at = self._at()
        return self.told({job.spec.name: passes.nightly(job, at, at) for job in self._monitor_jobs(monitors)})

    def _commanded(self, kind: RunKind, monitors: Sequence[str] | None, work: Callable[[Any], Json]) -> Json:
        """Return what a person's command did, by monitor."""
        return {job.spec.name: self._noted(kind, job, work) for job in self._monitor_jobs(monitors)}

    def _noted(self, kind: RunKind, job: Any, work: Callable[[Any], Json]) -> Json:
        """Do a command's work on a monitor; where it fails, in part too, it stands among the runs.

        From then on, those in which all goes well do too: the last word on a monitor is the newest.
        """
        from pipelines.failures import reason

        began = time.monotonic()

        def note(state: RunState, outcome: Json, error: str = "") -> None:
            seconds = time.monotonic() - began
            self.store.note_run(kind, job.monitor.id, self.now, state, outcome, error=error, seconds=seconds)

        try:
            outcome = work(job)
        except Exception as error:
            # Where it is the database that is away, there is no place to note it.
            with suppress(DatabaseError):
                note(RunState.FAILED, {}, reason(error))
            raise
        if "left_out" in outcome or any(self.store.last_run(each, job.monitor.id) for each in BY_COMMAND):
            note(RunState.DONE, {job.spec.name: outcome})
        return outcome

    def told(self, result: Json) -> Json:
        """Return what monitors did, with the targets that wait for a series."""
        for each in self.waiting():
            if each["monitor"] in result:
                told = result[each["monitor"]].setdefault("waiting", [])
                told.append(f"{each['target']}: {each['why']}")
        return result

    def rescore(
        self,
        start: datetime,
        stop: datetime,
        *,
        refit: bool = False,
        dry_run: bool = False,
        monitors: Sequence[str] | None = None,
    ) -> Json:
        """Score a span again with hindsight; a dry run only says what would appear, change and vanish."""
        from pipelines.jobs import passes

        a, b = int(start.timestamp()), int(stop.timestamp())
        if a >= b:
            raise InvalidError(f"expected a span that starts before it ends, got {start} to {stop}")

        def work(job: Any) -> Json:
            outcome = passes.rescore(job, a, b, self._at(), again=refit, dry_run=dry_run)
            series = {target.id: target.key for target in job.targets()}
            return {
                **outcome.summary(),
                "appear": [_described(c, series) for c in outcome.appeared],
                "change": [_described(c, series) for c in outcome.changed],
                "vanish": [_described(c, series) for c in outcome.vanished],
                **job.told_left_out(),
            }

        if dry_run:
            return {job.spec.name: work(job) for job in self._monitor_jobs(monitors)}
        return self._commanded(RunKind.RESCORE, monitors, work)

    # -- inside ---------------------------------------------------------------------

    def _at(self) -> int:
        return int(self.now.timestamp())

    def _monitor_jobs(self, monitors: Sequence[str] | None) -> Iterator[Any]:
        in_force = self.sync()
        check_declared(monitors or (), [spec.name for _, spec in in_force])
        for row, spec in in_force:
            if not monitors or spec.name in monitors:
                yield self.job(row, spec)

    def stored_job(self, monitor: str) -> Any:
        """Return the job of a monitor as it is stored, to read from: nothing is written.

        Raises:
            UnknownMonitorError: the config declares no such monitor, or it has not been at work yet.
        """
        specs = self.config.monitor_specs()
        check_declared([monitor], list(specs))
        for row in self.store.monitors():
            if row.name == monitor:
                return self.job(row, specs[monitor])
        raise UnknownMonitorError(f"monitor {monitor!r} has not been at work yet; run: anomaly backfill")

    def job(self, row: MonitorRow, spec: MonitorSpec) -> Any:
        """Return what a job of a monitor works at."""
        from pipelines.jobs.monitor_job import MonitorJob

        def progress(stage: str, share: float) -> None:
            self.on_progress(f"{stage} {spec.name}", share)

        return MonitorJob(self.store, self.executor, row, spec, on_progress=progress)


def _described(change: EventChange, series: Mapping[int, str]) -> Json:
    """Return an event's change for people; ``series`` names the targets."""
    interval = change.interval
    return {
        "event_id": change.event_id,
        "series": series[change.target_id],
        "kind": str(interval.kind),
        "start_at": iso_seconds(interval.start),
        "end_at": iso_seconds(interval.end),
        "peak_score": interval.peak_score,
        "status": str(change.status),
        "why": change.why,
    }
