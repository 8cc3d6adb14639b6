"""The service as commands and the daemon use it: a config, its store, and the jobs at work on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Self

from anomaly_service.config.sections import Config
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import DatabaseError
from pipelines.executor import Executor
from pipelines.jobs import channels
from pipelines.jobs.readiness import readiness
from pipelines.monitor import MonitorSpec
from pipelines.names import RunKind, RunState
from pipelines.records import Claim, EventChange, Json, MonitorRow, SeriesRow
from pipelines.times import iso_seconds

BY_COMMAND = (RunKind.BACKFILL, RunKind.FIT, RunKind.SCORE, RunKind.RESCORE)

Progress = Callable[[str, float], None]


class UnknownSeriesError(ValueError):
    """No series, and no target of several, is called so."""


class UnknownMonitorError(ValueError):
    """A command names a monitor that the config does not declare."""


class Service:
    """Everything a command can ask for; use as a context manager, or close it.

    Args:
        config: the loaded config file.
        now: freezes the clock (``--now``); None follows the wall clock.
        executor: where heavy work runs; None starts a pool of ``config.workers`` when needed.
        on_progress: called with a stage's name and the share that is done.
    """

    def __init__(
        self,
        config: Config,
        *,
        now: datetime | None = None,
        executor: Executor | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self.config = config
        self.store = SqlStore(config.database)
        self._now = now
        self._executor = executor
        self.on_progress = on_progress or (lambda stage, share: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers and let go of the database."""
        if self._executor is not None:
            self._executor.close()
        self.store.close()

    @property
    def now(self) -> datetime:
        return self._now or datetime.now(UTC)

    @property
    def executor(self) -> Executor:
        if self._executor is None:
            from anomaly_service.executors.local import LocalExecutor

            self._executor = LocalExecutor(self.config.workers)
        return self._executor

    # -- commands -------------------------------------------------------------------

    def ingest(self, should_stop: Callable[[], bool] = lambda: False) -> list[Json]:
        """Take what is new from every source; return what each delivered."""
        from anomaly_service.sources.ingest import ingest

        sources, rejects = self.config.build_sources(), self.config.rejects_folder
        return ingest(
            self.store, sources, self.now, self.on_progress, rejects=rejects, should_stop=should_stop
        )

    def sync(self, only: int | None = None) -> list[tuple[MonitorRow, MonitorSpec]]:
        """Bring monitors and targets up to date with config and series; return the monitors in force.

        Args:
            only: id of the one monitor whose targets matter; all of them where None.
        """
        specs = self.config.monitor_specs()
        rows = self.store.sync_monitors(self.config.monitor_sections())
        series = self.store.series()
        found = []
        for row in rows:
            if not row.enabled or row.name not in specs or only not in (None, row.id):
                continue
            spec = specs[row.name]
            self.store.sync_targets(row.id, channels.made(channels.wanted(spec, series)))
            found.append((row, spec))
        return found

    def waiting(self) -> list[Json]:
        """Return the targets of several series that are asked for and not scored, each with the reason.

        Only reads.
        """
        specs = {name: spec for name, spec in self.config.monitor_specs().items() if spec.channels}
        if not specs:
            return []
        series = self.store.series()
        return [
            {"monitor": name, "target": key, "why": why}
            for name, spec in specs.items()
            for key, why in self._waiting(spec, series).items()
        ]

    def _waiting(self, spec: MonitorSpec, series: Sequence[SeriesRow]) -> dict[str, str]:
        stored = next((row for row in self.store.monitors() if row.name == spec.name), None)
        targets = self.store.targets(stored.id) if stored is not None else []
        by_id = {row.id: row for row in series}
        made_of = {target.key: [by_id[i] for i in target.series_ids] for target in targets}
        return channels.waiting(spec, channels.wanted(spec, series), made_of)

    def backfill(self, monitors: Sequence[str] | None = None) -> Json:
        """Fit and score all history as the daemon would have; return what changed, by monitor."""
        from pipelines.jobs import passes

        return self._told(
            self._commanded(RunKind.BACKFILL, monitors, lambda job: passes.backfill(job, self._at()))
        )

    def fit(self, monitors: Sequence[str] | None = None) -> Json:
        """Fit what is due, and score what that changes."""
        from pipelines.jobs import passes

        return self._told(self._commanded(RunKind.FIT, monitors, lambda job: passes.fit(job, self._at())))

    def score(self, monitors: Sequence[str] | None = None) -> Json:
        """Run one live tick."""
        from pipelines.jobs import passes

        return self._told(self._commanded(RunKind.SCORE, monitors, lambda job: passes.tick(job, self._at())))

    def nightly(self, monitors: Sequence[str] | None = None) -> Json:
        """Run the nightly pass as of now."""
        from pipelines.jobs import passes

        at = self._at()
        return self._told(
            {job.spec.name: passes.nightly(job, at, at) for job in self._monitor_jobs(monitors)}
        )

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

    def _told(self, result: Json) -> Json:
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
            raise ValueError(f"expected a span that starts before it ends, got {start} to {stop}")

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

    def validate(self) -> list[Json]:
        """Return, per monitor, its targets, their step and history, and when each will be ready.

        Only reads, so a candidate config may be held against the database in use.

        Raises:
            ValueError: this machine lacks the device that the config names.
        """
        from detectors.device import resolve

        resolve(self.config.device)

        series = self.store.series()
        stored = {row.name: row for row in self.store.monitors()}
        out = []
        for name, spec in self.config.monitor_specs().items():
            targets = readiness(
                spec,
                channels.wanted(spec, series),
                self._fitted(stored.get(name)),
                self._waiting(spec, series) if spec.channels else {},
            )
            out.append(
                {
                    "monitor": name,
                    "detector": spec.detector,
                    "series": len(targets),
                    "channels": list(spec.channels),
                    "ready": sum(t["state"] == "ready" for t in targets),
                    "targets": [{**t, **_iso(t)} for t in targets],
                }
            )
        return out

    def _fitted(self, monitor: MonitorRow | None) -> set[str]:
        """Return the keys of a stored monitor's targets that have a model."""
        if monitor is None:
            return set()
        keys = {target.id: target.key for target in self.store.targets(monitor.id)}
        return {keys[version.target_id] for version in self.store.versions(list(keys))}

    # -- the daemon -----------------------------------------------------------------

    def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool] = lambda: False) -> Json:
        """Do the work of one claimed run; every commit checks the claim's fence.

        Raises:
            StoppedError: ``should_stop`` said so while sources were read, or between two batches.
            LostClaimError: another daemon holds the run by now.
            StaleEventsError: people kept judging the events that it writes.
            ValueError: a run of this kind is a command's to work off.
        """
        from pipelines.jobs import passes
        from pipelines.jobs.monitor_job import StoppedError

        ingested = self.ingest(should_stop)
        if should_stop():
            raise StoppedError("stopped while reading the sources; what was stored stands")
        at = int(now.timestamp())
        result: Json = {"ingested": ingested}
        for row, spec in self.sync(claim.monitor_id):
            job = replace(self._job(row, spec), claim=claim, should_stop=should_stop)
            if claim.kind is RunKind.TICK:
                result[spec.name] = passes.tick(job, at)
            elif claim.kind is RunKind.NIGHTLY:
                result[spec.name] = passes.nightly(job, int(claim.scheduled_for.timestamp()), at)
            elif claim.kind is RunKind.BACKFILL:
                result[spec.name] = passes.backfill(job, at)
            else:
                raise ValueError(f"no run of kind {claim.kind.value!r} is worked off by the daemon")
        if claim.kind is RunKind.NIGHTLY:
            result["pruned"] = self.prune(now)
        return self._told(result)

    def prune(self, now: datetime) -> Json:
        """Delete what the retention policy no longer keeps."""
        keep = self.config.retention
        # Of history that ended long ago, everything would be too old by today's date.
        newest = max((row.last_ts for row in self.store.series() if row.last_ts is not None), default=0)
        at = min(int(now.timestamp()), newest)
        scores_from = at - int(keep.scores.total_seconds())
        return {
            "points": self.store.delete_points_before(at - int(keep.points.total_seconds())),
            "scores": self.store.delete_scores_before(scores_from),
            "versions": self.store.prune_versions(keep.model_versions, scores_from),
            "lines": self.store.prune_lines(scores_from),
        }

    # -- inside ---------------------------------------------------------------------

    def _at(self) -> int:
        return int(self.now.timestamp())

    def _monitor_jobs(self, monitors: Sequence[str] | None) -> Iterator[Any]:
        in_force = self.sync()
        _check_known(monitors or (), [spec.name for _, spec in in_force])
        for row, spec in in_force:
            if not monitors or spec.name in monitors:
                yield self._job(row, spec)

    def check_names(self, monitor: str | None, series: str | None) -> None:
        """Refuse what nobody has heard of, so that a slip of the pen does not read as all quiet.

        Raises:
            UnknownMonitorError: neither the config nor the database knows the monitor.
            UnknownSeriesError: no target of any monitor, and no series, is called so.
        """
        stored = self.store.monitors()
        if monitor is not None:
            _check_known(
                [monitor], [*dict.fromkeys((*self.config.monitor_specs(), *(m.name for m in stored)))]
            )
        if series is None:
            return
        names = {row.spec.key for row in self.store.series()}
        names |= {target.key for row in stored for target in self.store.targets(row.id)}
        if series not in names:
            near = get_close_matches(series, names, 1, 0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise UnknownSeriesError(f"no series {series!r}{hint}; `anomaly series` lists them")

    def stored_job(self, monitor: str) -> Any:
        """Return the job of a monitor as it is stored, to read from: nothing is written.

        Raises:
            UnknownMonitorError: the config declares no such monitor, or it has not been at work yet.
        """
        specs = self.config.monitor_specs()
        _check_known([monitor], list(specs))
        for row in self.store.monitors():
            if row.name == monitor:
                return self._job(row, specs[monitor])
        raise UnknownMonitorError(f"monitor {monitor!r} has not been at work yet; run: anomaly backfill")

    def _job(self, row: MonitorRow, spec: MonitorSpec) -> Any:
        from pipelines.jobs.monitor_job import MonitorJob

        def progress(stage: str, share: float) -> None:
            self.on_progress(f"{stage} {spec.name}", share)

        return MonitorJob(self.store, self.executor, row, spec, on_progress=progress)


def _check_known(wanted: Sequence[str], declared: Sequence[str]) -> None:
    for name in wanted:
        if name not in declared:
            raise UnknownMonitorError(f"no monitor named {name!r}; the config declares {', '.join(declared)}")


def _described(change: EventChange, series: Mapping[int, str]) -> Json:
    """Return an event's change for people; ``series`` names the targets."""
    interval = change.interval
    return {
        "event_id": change.event_id,
        "series": series[change.target_id],
        "kind": str(interval.kind),
        "start_at": _time(interval.start),
        "end_at": _time(interval.end),
        "peak_score": interval.peak_score,
        "status": str(change.status),
        "why": change.why,
    }


def _time(ts: int | None) -> str | None:
    return None if ts is None else iso_seconds(ts)


def _iso(target: Json) -> Json:
    return {
        "first_at": _time(target["first_ts"]),
        "last_at": _time(target["last_ts"]),
        "ready_by": _time(target["ready_by"]),
    }
