"""Hold every calibration against the scores that came since, night by night, and draw the line anew.

Each night learns from one day of scores that lies behind the late window, so that no late point changes
what it learned: for every target how often its surprises were reached, a row beside the calibration
of the version in force; for the monitor how many alarms were realised, part of its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.batches import batches, targets_per_task
from pipelines.failures import Failed
from pipelines.jobs import lines
from pipelines.jobs.assemble import Asked, after_seconds, assemble, window_seconds
from pipelines.jobs.fit_times import nights
from pipelines.jobs.lines import LineBook
from pipelines.jobs.monitor_job import OWN_FAULT, MonitorJob
from pipelines.jobs.plan import histories, newest_by, pieces
from pipelines.names import Mode
from pipelines.records import CalibrationRow, LineRow, Seconds, TargetRow, VersionRow
from pipelines.steps.bodies import CalibrationEntry
from pipelines.steps.evidence import Realised, total
from pipelines.times import DAY
from pipelines.workers.recount import Observed, ObserveTarget, ObserveTask, look_back_seconds, observe_targets
from pipelines.workers.tasks import SeenAt

NIGHTS_AT_ONCE = 28
"""Nights whose rows are committed together; their days are read and scored in one go."""


@dataclass
class _Target:
    """One target on its way through the nights.

    Attributes:
        nights: those it still has to learn from.
        seen: what it has seen so far, by mode, from as far back as corrections reach.
    """

    target: TargetRow
    versions: list[VersionRow]
    nights: list[int]
    seen: dict[str, SeenAt] = field(default_factory=dict)


def recalibrate(job: MonitorJob, until: int, *, again_from: int | None = None) -> list[str]:
    """Learn from every night up to a data time that has not been learned from; return what was refused.

    Args:
        until: epoch seconds; nights at or before it.
        again_from: learn again from nights from here on, as the models of that span are new.
    """
    versions = job.versions(job.targets())
    begun = min((rows[0].train_stop for rows in versions.values() if rows), default=until + 1)
    counted = lines.last_counted(job)
    since = begun - 1 if counted is None else counted
    since = since if again_from is None else min(since, again_from - 1)
    monitor_nights = nights(job.spec.nightly, since + 1, until + 1)
    waiting = _waiting(job, versions, since, until)
    every = sorted({*monitor_nights, *(night for each in waiting for night in each.nights)})
    refused: list[str] = []
    for done, few in enumerate(batches(every, NIGHTS_AT_ONCE), 1):
        job.check_stop()
        refused += _learn(job, waiting, few, set(monitor_nights))
        job.on_progress("calibrate", min(done * NIGHTS_AT_ONCE, len(every)) / len(every))
    return sorted(set(refused))


def _waiting(
    job: MonitorJob, versions: Mapping[int, list[VersionRow]], since: int, until: int
) -> list[_Target]:
    """Return the targets with nights to learn from; the usual one has those since the last, all at once."""
    usable = _usable(job, versions, until)
    targets = [target for target in job.targets() if usable.get(target.id)]
    timelines = _recent_timelines(job, targets, versions, since)
    # Only what is counted already: after a change of policy every night is to be counted anew.
    ended = {i: own[-1] for i, own in usable.items() if own[-1] <= since and i not in timelines}
    timelines |= _last_timelines(job, [t for t in targets if t.id in ended], versions, ended)
    out = []
    for target in targets:
        if target.id not in timelines:
            # Its versions are older than what the monitor has learned from: it makes up for all nights.
            timelines[target.id] = _whole_timeline(job, versions[target.id], since)
        timeline = timelines[target.id]
        last = max((int(s.valid_from[-1]) for s in timeline.values()), default=0)
        todo = [night for night in usable[target.id] if night > last]
        if todo:
            out.append(_Target(target, versions[target.id], todo, timeline))
    return out


def _usable(job: MonitorJob, versions: Mapping[int, list[VersionRow]], until: int) -> dict[int, list[int]]:
    """Return the nights whose day holds points and has a version to score them, by target id; none empty."""
    known = histories(job.targets(), job.series())
    begun = {t.id: versions[t.id][0].train_stop for t in job.targets() if versions[t.id] and t.id in known}
    every = nights(job.spec.nightly, min(begun.values(), default=until + 1), until + 1)
    if not every:
        return {}
    days = {lag: _days(job, every, lag) for lag in {_lag(job, t) for t in job.targets() if t.id in begun}}
    found = {}
    for target in job.targets():
        if target.id in begun:
            start, stop = days[_lag(job, target)].T
            first = int(np.searchsorted(stop, begun[target.id], side="right"))
            last = int(np.searchsorted(start, known[target.id].newest, side="right"))
            found[target.id] = every[first:last]
    return {target_id: own for target_id, own in found.items() if own}


def _days(job: MonitorJob, few: Sequence[int], lag: int) -> Seconds:
    """Return the half-open span that each of neighbouring nights learns from, shape ``(n_nights, 2)``.

    The day since the night before, seen from a lag.
    """
    before = nights(job.spec.nightly, few[0] - 3 * DAY, few[0])[-1]
    edges = np.array([before, *few], dtype=np.int64) - lag
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _recent_timelines(
    job: MonitorJob, targets: Sequence[TargetRow], versions: Mapping[int, list[VersionRow]], since: int
) -> dict[int, dict[str, SeenAt]]:
    """Return what was seen up to a night, from as far back as corrections of the next day reach."""
    lag = max((_lag(job, t) for t in targets), default=0)
    step = max((t.step_seconds for t in targets), default=0)
    low = since - lag - 3 * DAY - look_back_seconds(job.spec.policy, step)
    owner = {v.id: t.id for t in targets for v, _, _ in pieces(versions[t.id], low, since + 1)}
    return _timelines(job.store.calibrations(sorted(owner), (low, since + 1)), owner)


def _last_timelines(
    job: MonitorJob,
    targets: Sequence[TargetRow],
    versions: Mapping[int, list[VersionRow]],
    last: Mapping[int, int],
) -> dict[int, dict[str, SeenAt]]:
    """Return what was seen by the last night with anything to learn from: series that stopped long ago."""
    by_night: dict[int, dict[int, int]] = {}
    for target in targets:
        for version in newest_by({target.id: versions[target.id]}, last[target.id]):
            by_night.setdefault(last[target.id], {})[version.id] = target.id
    found: dict[int, dict[str, SeenAt]] = {}
    for night, owner in by_night.items():
        found |= _timelines(job.store.calibrations(sorted(owner), (night, night + 1)), owner)
    return found


def _whole_timeline(job: MonitorJob, versions: Sequence[VersionRow], since: int) -> dict[str, SeenAt]:
    owner = {v.id: v.target_id for v in versions}
    found = _timelines(job.store.calibrations(sorted(owner), (0, since + 1)), owner)
    return next(iter(found.values()), {})


def _timelines(rows: Sequence[CalibrationRow], owner: Mapping[int, int]) -> dict[int, dict[str, SeenAt]]:
    """Return what was seen, by target id and mode; of rows of two versions at one night the newer counts."""
    out: dict[int, dict[str, SeenAt]] = {}
    for row in sorted(rows, key=lambda row: (row.valid_from, row.version_id)):
        seen = CalibrationEntry.from_json(row.body).seen
        if seen is not None:
            own = out.setdefault(owner[row.version_id], {})
            own[str(row.mode)] = own.get(str(row.mode), SeenAt()).then(row.valid_from, seen)
    return out


def _lag(job: MonitorJob, target: TargetRow) -> int:
    """Return how far behind a night its day ends: late points are in, for every window that covers it."""
    return job.spec.nightly.window_seconds + job.settled_after * target.step_seconds


def _learn(job: MonitorJob, waiting: Sequence[_Target], few: Sequence[int], counted: set[int]) -> list[str]:
    """Learn from some nights, draw their lines, and store both in one go."""
    realised: dict[tuple[int, Mode], list[Realised]] = {
        (night, mode): [] for night in few if night in counted for mode in Mode
    }
    rows: list[CalibrationRow] = []
    by_id = {each.target.id: each for each in waiting}
    for task, found in job.executor.map(observe_targets, _tasks(job, waiting, few)):
        job.check_stop()
        for asked, observed in zip(task.targets, found, strict=True):
            if isinstance(observed, Failed):
                job.leave_out(asked.scoring.target, f"not held against its scores: {observed.why}")
                continue
            rows += _noted(by_id[observed.target_id], asked.nights.tolist(), observed, realised)
    rows = _with_bodies(job, rows, by_id)
    drawn = lines.draw(job, [n for n in few if n in counted], _faded(job, realised))
    if rows or drawn.rows:
        _store(job, waiting, rows, drawn.rows)
    return drawn.refused


def _store(
    job: MonitorJob, waiting: Sequence[_Target], rows: Sequence[CalibrationRow], drawn: Sequence[LineRow]
) -> None:
    """Store what nights learned and their lines in one go; the rows of a target that cannot be stored alone
    are left out."""
    try:
        job.store.add_calibrations(job.claim, rows, drawn)
    except OWN_FAULT:
        owner = {v.id: each.target for each in waiting for v in each.versions}

        def add(some: Sequence[CalibrationRow]) -> Sequence[None]:
            job.store.add_calibrations(job.claim, some)
            return ()

        job.each_stored(rows, lambda row: owner[row.version_id], add)
        # Last, as they say up to which night all was learned.
        job.store.add_lines(job.claim, drawn)


def _tasks(job: MonitorJob, waiting: Sequence[_Target], few: Sequence[int]) -> Iterator[ObserveTask]:
    book = LineBook(job)
    if not book.any:
        return
    own = [(each, [n for n in each.nights if few[0] <= n <= few[-1]]) for each in waiting]
    asked = [(each, those) for each, those in own if those]
    seconds = few[-1] - few[0] + DAY
    steps = max((seconds / each.target.step_seconds for each, _ in asked), default=1.0)
    # Every target brings its context along, about two days of it.
    for group in batches(asked, targets_per_task(steps + 600)):
        yield _task(job, group, book)


def _task(job: MonitorJob, group: Sequence[tuple[_Target, list[int]]], book: LineBook) -> ObserveTask:
    days = [_days(job, own, _lag(job, each.target)).tolist() for each, own in group]
    reach = look_back_seconds(job.spec.policy, max(each.target.step_seconds for each, _ in group))
    asked = [
        Asked(
            target=each.target,
            parts=tuple(pieces(each.versions, spans[0][0] - reach, spans[-1][1])),
            settled_until=spans[-1][1],
            # Windows that reach beyond the last day cover its points.
            observed_until=spans[-1][1] + max(after_seconds(v) for v in each.versions),
        )
        for (each, _), spans in zip(group, days, strict=True)
    ]
    scoring, weights = assemble(job, asked, book)
    incidents = _incidents(job, asked)
    targets = [
        ObserveTarget(
            target,
            np.array(own),
            np.array(spans),
            _reaching(each.seen, spans[0][0] - reach),
            tuple(incidents[each.target.id]),
        )
        for (each, own), spans, target in zip(group, days, scoring, strict=True)
    ]
    return ObserveTask(job.spec, tuple(targets), weights)


def _incidents(job: MonitorJob, asked: Sequence[Asked]) -> dict[int, list[tuple[int, int]]]:
    """Return what people confirmed as anomalous in the spans asked for, by target id."""
    reach = max(window_seconds(v) for each in asked for v, _, _ in each.parts)
    low = min(start for each in asked for _, start, _ in each.parts) - reach
    high = max(stop for each in asked for _, _, stop in each.parts) + reach
    return job.confirmed([each.target.id for each in asked], low, high)


def _reaching(seen: Mapping[str, SeenAt], start: int) -> dict[str, SeenAt]:
    """Return what was in force at a time, and all since."""

    def part(timeline: SeenAt) -> SeenAt:
        first = max(int(np.searchsorted(timeline.valid_from, start, side="right")) - 1, 0)
        return SeenAt(timeline.valid_from[first:], timeline.seen[first:])

    return {mode: part(timeline) for mode, timeline in seen.items()}


def _noted(
    waiting: _Target,
    own: Sequence[int],
    observed: Observed,
    realised: dict[tuple[int, Mode], list[Realised]],
) -> list[CalibrationRow]:
    """Add what a target's nights learned to what is known; return its rows."""
    rows = []
    for mode in Mode:
        timeline = waiting.seen.get(str(mode), SeenAt())
        for k, night in enumerate(own):
            seen = observed.seen[str(mode)][k]
            timeline = timeline.then(night, seen)
            (version,) = newest_by({waiting.target.id: waiting.versions}, night)
            rows.append(CalibrationRow(version.id, mode, night, CalibrationEntry(seen=seen).to_json()))
            if (night, mode) in realised:
                realised[night, mode].append(observed.realised[str(mode)][k])
        waiting.seen[str(mode)] = timeline
    return rows


def _with_bodies(
    job: MonitorJob, rows: Sequence[CalibrationRow], waiting: Mapping[int, _Target]
) -> list[CalibrationRow]:
    """Return the rows; one of the night a version begins goes into the row that its fit left."""
    begins = {v.id: v.train_stop for each in waiting.values() for v in each.versions}
    meeting = {row.version_id for row in rows if begins[row.version_id] == row.valid_from}
    bodies = lines.fitted_bodies(job, meeting)

    def whole(row: CalibrationRow) -> CalibrationRow:
        if begins[row.version_id] != row.valid_from:
            return row
        entry = replace(CalibrationEntry.from_json(row.body), fit=bodies[row.version_id, row.mode])
        return replace(row, body=entry.to_json())

    return [whole(row) for row in rows]


def _faded(
    job: MonitorJob, realised: Mapping[tuple[int, Mode], Sequence[Realised]]
) -> dict[tuple[int, Mode], Realised]:
    """Return what was realised up to each night: everything before it, faded, and its own day."""
    out: dict[tuple[int, Mode], Realised] = {}
    for mode in Mode:
        own = sorted(night for night, of in realised if of is mode)
        last, known = lines.evidence_before(job, own[0], mode) if own else (None, Realised.none())
        for night in own:
            days = 0.0 if last is None else (night - last) / DAY
            known = known.then(total(realised[night, mode]), days)
            last = night
            out[night, mode] = known
    return out
