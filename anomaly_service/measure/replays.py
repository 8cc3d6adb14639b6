"""What the daemon would have raised over a past span, without touching what is stored.

A replay works on a scratch database of its own: points are read from the real one, as far as they were
there at the end of the span; models, calibrations and lines that are stored for the settings are copied
over, and what is missing is fitted and drawn there. Then time goes on as for the daemon: by live ticks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from anomaly_service.measure.scratch import Scratch
from pipelines.jobs import channels
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import AUTO
from pipelines.records import Json, LineRow, MonitorRow, SeriesRow, TargetRow, VersionRow
from pipelines.store import Batch, NewVersion, PointReader, SeriesStore
from pipelines.times import iso_seconds

if TYPE_CHECKING:
    from pipelines.executor import Executor
    from pipelines.jobs.monitor_job import MonitorJob
from pipelines.times import DAY

WHY = ("not_ready_why", "broken_why", "left_out_why")
"""Where an outcome tells why a series got no model or no score."""

BEFORE = 40 * DAY
"""How far before the span stored lines and what nights have seen are taken over: they fade in a month."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Replayed:
    """What one monitor would have raised.

    Attributes:
        series: series that it watches.
        intervals: rows as of the view ``flagged_intervals``, in order of time.
        fitted: models fitted for this; the others were stored.
        notes: what the data could not hold, and series without a model.
        watched: of every series that could be judged, the part of the span in which it was: with a model,
            and before its points end.
    """

    spec: MonitorSpec
    series: int
    start: int
    stop: int
    intervals: list[Json]
    fitted: int
    notes: list[str]
    watched: list[tuple[int, int]]

    @property
    def watched_seconds(self) -> int:
        """Return how much of the span any series was watched."""
        total, until = 0, self.start
        for start, stop in sorted(self.watched):
            total += max(stop - max(start, until), 0)
            until = max(until, stop)
        return total

    @property
    def asked(self) -> float | None:
        """Return how many intervals the budget allows for in the time watched; None for other thresholds."""
        threshold = self.spec.threshold
        if threshold.method != "alarms":
            return None
        own = sum(stop - start for start, stop in self.watched)
        seconds = own if threshold.per == "series" else self.watched_seconds
        return threshold.alarms_per_week * seconds / (7 * DAY)


def tried(spec: MonitorSpec, threshold: Threshold | None, detector: str | None) -> MonitorSpec:
    """Return a monitor's settings with another threshold or detector; of ``params`` the window stays.

    ``auto`` chooses its windows itself.
    """
    if threshold is not None:
        spec = replace(spec, threshold=replace(threshold, per=spec.threshold.per))
    if detector is not None and detector != spec.detector:
        taken = () if detector == AUTO else ("window",)
        window = {name: value for name, value in spec.params.items() if name in taken}
        spec = replace(spec, detector=detector, params=window)
    return spec


def replay(
    real: SeriesStore,
    executor: Executor,
    specs: Mapping[str, MonitorSpec],
    start: int,
    stop: int,
    on_progress: Progress,
) -> list[Replayed]:
    """Return what every monitor would have raised in a half-open span, epoch seconds."""
    series = real.series()
    wanted = [row for row in series if any(_selects(spec, row) for spec in specs.values())]
    with _scratch(real, wanted, stop) as scratch:
        return [
            _replayed(_Way(real, scratch, executor, spec, start, stop, on_progress))
            for spec in specs.values()
        ]


@contextmanager
def _scratch(real: PointReader, series: Sequence[SeriesRow], stop: int) -> Iterator[Scratch]:
    from anomaly_service.db.migrate import migrate
    from anomaly_service.db.store import SqlStore

    with TemporaryDirectory(prefix="anomaly-replay-") as folder:
        url = f"sqlite:///{Path(folder) / 'replay.db'}"
        migrate(url)
        with SqlStore(url) as own:
            yield Scratch(own, real, series, stop)


def _selects(spec: MonitorSpec, row: SeriesRow) -> bool:
    return spec.selects(row.spec.metric, row.spec.labels)


@dataclass(frozen=True)
class _Way:
    """One monitor's replay."""

    real: SeriesStore
    scratch: Scratch
    executor: Executor
    spec: MonitorSpec
    start: int
    stop: int
    on_progress: Progress


def _replayed(way: _Way) -> Replayed:
    from pipelines.jobs import passes
    from pipelines.jobs.group_loans import due_loans, lend
    from pipelines.jobs.recalibrate import recalibrate
    from pipelines.jobs.refit import due_between, refit

    job, targets = _job(way)
    _take_over(way, job.monitor, targets)
    done = refit(job, due_between(job, way.start, way.stop))
    done.lent += lend(job, due_loans(job, way.stop - 1))
    refused = [*done.refused, *recalibrate(job, way.stop - 1)]
    begun = _begin(way, job)
    ticked = passes.tick(job, way.stop - 1)
    while ticked["more"]:
        ticked = passes.tick(job, way.stop - 1)
    told = {**done.summary(), **job.told_left_out()}
    rows = way.scratch.flagged_intervals(way.spec.name)
    first, last = (iso_seconds(each) for each in (way.start, way.stop))
    raised = [row for row in rows if first <= row["first_detected_at"] < last]
    raised.sort(key=lambda row: (row["start_at"], row["series"]))
    return Replayed(
        spec=way.spec,
        series=len(targets),
        start=way.start,
        stop=way.stop,
        intervals=raised,
        fitted=len(done.versions),
        notes=sorted({*refused, *(why for of in WHY for why in told.get(of, ()))}),
        watched=_watched(way, job, begun),
    )


def _job(way: _Way) -> tuple[MonitorJob, dict[str, TargetRow]]:
    """Return the scratch's job of the monitor, and its targets by key."""
    from pipelines.jobs.monitor_job import MonitorJob

    kept = {row.name: row.config for row in way.scratch.monitors()}
    rows = way.scratch.sync_monitors({**kept, way.spec.name: way.spec.to_json()})
    (row,) = [each for each in rows if each.name == way.spec.name]
    wanted = channels.wanted(way.spec, way.scratch.series())
    targets = way.scratch.sync_targets(row.id, channels.made(wanted))

    def progress(stage: str, share: float) -> None:
        way.on_progress(f"{stage} {way.spec.name}", share)

    job = MonitorJob(way.scratch, way.executor, row, way.spec, on_progress=progress)
    return job, {target.key: target for target in targets}


# -- what is stored already ---------------------------------------------------------


def _take_over(way: _Way, monitor: MonitorRow, targets: Mapping[str, TargetRow]) -> None:
    """Copy the models, calibrations and lines that are stored for these very settings."""
    found = [row for row in way.real.monitors() if row.name == way.spec.name]
    if not found:
        return
    stored = {t.id: targets[t.key].id for t in way.real.targets(found[0].id) if t.key in targets}
    versions = _usable(way, list(stored))
    if not versions:
        return
    ids = _copy_versions(way, versions, stored)
    span = (way.start - BEFORE, way.stop)
    calibrations = way.real.calibrations([v.id for v in versions])
    lines = [
        LineRow(
            monitor.id, stored[row.target_id] if row.target_id else None, row.mode, row.valid_from, row.body
        )
        for row in way.real.lines(found[0].id, span)
        if row.target_id is None or row.target_id in stored
    ]
    way.scratch.add_calibrations(
        None,
        [replace(row, version_id=ids[row.version_id]) for row in calibrations if row.valid_from < way.stop],
        lines,
    )


def _usable(way: _Way, target_ids: Sequence[int]) -> list[VersionRow]:
    """Return the versions of these settings that score something of the span or of the weeks before it."""
    from pipelines.jobs.plan import current, fingerprint, pieces

    mark = fingerprint(way.spec)
    by_target: dict[int, list[VersionRow]] = {}
    for version in way.real.versions(target_ids):
        if version.origin.fingerprint == mark and version.train_stop < way.stop:
            by_target.setdefault(version.target_id, []).append(version)
    return [
        version
        for rows in by_target.values()
        for version, _, _ in pieces(current(way.spec, rows), way.start - BEFORE, way.stop)
    ]


def _copy_versions(way: _Way, versions: Sequence[VersionRow], stored: Mapping[int, int]) -> dict[int, int]:
    """Copy versions with their weights; return their new ids by the old ones."""
    weights = way.real.weights({version.weights_id for version in versions})
    new = [
        NewVersion(
            target_id=stored[version.target_id],
            detector=version.detector,
            train_start=version.train_start,
            train_stop=version.train_stop,
            recipe=version.recipe,
            config=version.config,
            weights=weights[version.weights_id],
            card=version.card,
            status=version.status,
            shared_weights=version.weights_id,
        )
        for version in versions
    ]
    copied = way.scratch.add_versions(None, new)
    return {old.id: own.id for old, own in zip(versions, copied, strict=True)}


def _begin(way: _Way, job: MonitorJob) -> dict[int, int]:
    """Set every target that has a model to where the span, or its first model, begins; return where."""
    versions = job.versions(job.targets())
    begin = {i: max(way.start, rows[0].train_stop) for i, rows in versions.items() if rows}
    way.scratch.commit(None, Batch(scored_until=begin))
    return begin


def _watched(way: _Way, job: MonitorJob, begun: Mapping[int, int]) -> list[tuple[int, int]]:
    """Return from when until when each target was scored."""
    found = []
    for target in job.targets():
        if target.id not in begun:
            continue
        until = target.scored_until or begun[target.id]
        # The last steps are not whole yet, or their points on the way: they are watched all the same.
        is_live = until + 2 * target.step_seconds + target.delay_seconds >= way.stop
        found.append((begun[target.id], way.stop if is_live else until))
    return found
