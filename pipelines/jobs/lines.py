"""The lines of a monitor: drawn at every night from its versions and from what they turned out to give.

A line is valid from a data time on, so what a point is held against is a function of its time. The
monitor's own row carries what was realised up to that night beside the line, also where each series has
a line of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.plan import fingerprint, newest_by
from pipelines.names import Mode
from pipelines.records import LineRow, VersionRow
from pipelines.steps.bodies import Body, CalibrationEntry, CountedAlarms, Line, LineEntry
from pipelines.steps.evidence import Realised
from pipelines.steps.line import Pool, draw_held
from pipelines.workers.tasks import LinesAt

Counted = Mapping[tuple[int, Mode], Realised]
"""What was realised up to a night, by night and mode."""


@dataclass(frozen=True)
class DrawnLines:
    """Lines to be stored, and why some could not be drawn as asked."""

    rows: list[LineRow] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def draw(job: MonitorJob, slots: Sequence[int], counted: Counted | None = None) -> DrawnLines:
    """Return the monitor's lines at each slot, from the versions and the evidence in force then.

    Args:
        counted: evidence that is new; that of other nights is read from the stored lines.
    """
    if not slots:
        return DrawnLines()
    versions = job.versions(job.targets())
    in_force = {slot: newest_by(versions, slot) for slot in slots}
    bodies = fitted_bodies(job, {v.id for found in in_force.values() for v in found})
    evidence = _Evidence.of(job, counted or {})
    refused: list[str] = []
    rows: list[LineRow] = []
    pools: dict[tuple[tuple[int, ...], Mode], Pool] = {}
    for slot, found in in_force.items():
        for mode in Mode:
            known = {v.target_id: bodies[v.id, mode] for v in found if (v.id, mode) in bodies}
            key = (tuple(v.id for v in found), mode)
            pool = pools.setdefault(key, Pool(list(known.values())))
            rows += _lines_at(job, slot, mode, known, pool, evidence, refused)
    return DrawnLines(rows, sorted(set(refused)))


def fitted_bodies(job: MonitorJob, version_ids: set[int]) -> dict[tuple[int, Mode], Body]:
    """Return what the fits of these versions taught, by version and mode."""
    rows = job.store.calibrations(sorted(version_ids))
    read = ((row, CalibrationEntry.from_json(row.body)) for row in rows)
    return {(row.version_id, row.mode): entry.fit for row, entry in read if entry.fit is not None}


def evidence_mark(job: MonitorJob) -> str:
    """Return what evidence belongs to: alarms of another model or policy say nothing about these."""
    parts = json.dumps([fingerprint(job.spec), asdict(job.spec.policy)], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def last_counted(job: MonitorJob) -> int | None:
    """Return the newest night whose alarms are counted in the monitor's evidence, epoch seconds."""
    evidence = _Evidence.of(job, {})
    nights = [times[-1] for times in (sorted(evidence.by_mode[mode]) for mode in Mode) if times]
    return min(nights) if len(nights) == len(Mode) else None


def evidence_before(job: MonitorJob, night: int, mode: Mode) -> tuple[int | None, Realised]:
    """Return the newest night before this one whose alarms are counted, and what was realised up to it."""
    known = _Evidence.of(job, {}).by_mode[mode]
    last = max((each for each in known if each < night), default=None)
    return (None, Realised.none()) if last is None else (last, known[last])


def _lines_at(
    job: MonitorJob,
    slot: int,
    mode: Mode,
    bodies: dict[int, Body],
    pool: Pool,
    evidence: _Evidence,
    refused: list[str],
) -> list[LineRow]:
    if not bodies:
        return []
    realised = evidence.in_force(slot, mode)
    per_series = job.spec.threshold.per == "series"
    whole = _drawn(job, pool.bodies, pool, realised, [] if per_series else refused)
    own = {i: _drawn(job, [body], pool, realised, refused) for i, body in bodies.items() if per_series}
    everyone = _row(job, None, mode, slot, whole, evidence.counted(slot, mode))
    return [everyone, *(_row(job, i, mode, slot, line) for i, line in own.items())]


def _row(
    job: MonitorJob,
    target_id: int | None,
    mode: Mode,
    slot: int,
    line: Line,
    counted: CountedAlarms | None = None,
) -> LineRow:
    entry = LineEntry(line, job.spec.threshold, counted)
    return LineRow(job.monitor.id, target_id, mode, slot, entry.to_json())


def _drawn(job: MonitorJob, own: Sequence[Body], pool: Pool, realised: Realised, refused: list[str]) -> Line:
    """Draw a line; where the data cannot hold the budget, say so."""
    line, why = draw_held(own, job.spec.threshold, tail_from=pool, realised=realised)
    refused += why
    return line


@dataclass(frozen=True)
class _Evidence:
    """What was realised, by mode and the night up to which it is counted."""

    mark: str
    by_mode: dict[Mode, dict[int, Realised]]

    @classmethod
    def of(cls, job: MonitorJob, counted: Counted) -> _Evidence:
        mark = evidence_mark(job)
        by_mode: dict[Mode, dict[int, Realised]] = {mode: {} for mode in Mode}
        for row, entry in _read(job.store.lines(job.monitor.id, target_ids=())):
            if entry.counted is not None and entry.counted.mark == mark:
                by_mode[row.mode][row.valid_from] = entry.counted.realised
        for (night, mode), realised in counted.items():
            by_mode[mode][night] = realised
        return cls(mark, by_mode)

    def in_force(self, slot: int, mode: Mode) -> Realised:
        nights = [night for night in self.by_mode[mode] if night <= slot]
        return self.by_mode[mode][max(nights)] if nights else Realised.none()

    def counted(self, slot: int, mode: Mode) -> CountedAlarms | None:
        """Return what the monitor's row of a night carries beside the line."""
        realised = self.by_mode[mode].get(slot)
        return None if realised is None else CountedAlarms(self.mark, realised)


class LineBook:
    """The lines that scores are held against, drawn anew where the monitor's threshold has changed.

    Versions and what they teach stay; only where the line lies on them is decided again, for all of
    the past too, so that a rescore of any span follows the config as it is now.

    Args:
        dry_run: do not store what is drawn.
    """

    def __init__(self, job: MonitorJob, *, dry_run: bool = False) -> None:
        self._job = job
        self._unstored: list[LineRow] = []
        known = job.store.lines(job.monitor.id, target_ids=())
        self.any = bool(known)
        # Those that no version is left for stay behind.
        stale = sorted({row.valid_from for row, entry in _read(known) if not self._as_asked(entry)})
        rows = draw(job, [slot for slot in stale if slot >= _begun(job)]).rows if stale else []
        if dry_run:
            self._unstored = rows
        elif rows:
            job.store.add_lines(job.claim, rows)

    def _as_asked(self, entry: LineEntry) -> bool:
        return entry.threshold == self._job.spec.threshold

    def of(self, target_ids: Sequence[int], start: int, stop: int) -> dict[int, dict[str, LinesAt]]:
        """Return the lines of targets that are in force in a half-open span, by target id and mode."""
        stored = self._job.store.lines(self._job.monitor.id, (start, stop), target_ids)
        unstored = [row for row in self._unstored if row.target_id is None or row.target_id in target_ids]
        by_owner: dict[int | None, list[tuple[LineRow, Line]]] = {}
        for row, entry in _read([*stored, *unstored]):
            if self._as_asked(entry):
                by_owner.setdefault(row.target_id, []).append((row, entry.line))
        everyone = _by_mode(by_owner.get(None, []))
        return {i: _by_mode(by_owner[i]) if i in by_owner else everyone for i in target_ids}


def _read(rows: Iterable[LineRow]) -> Iterator[tuple[LineRow, LineEntry]]:
    return ((row, LineEntry.from_json(row.body)) for row in rows)


def _begun(job: MonitorJob) -> int:
    versions: list[VersionRow] = [v for rows in job.versions(job.targets()).values() for v in rows]
    return min((v.train_stop for v in versions), default=2**62)


def _by_mode(rows: Sequence[tuple[LineRow, Line]]) -> dict[str, LinesAt]:
    out = {}
    for mode in Mode:
        own = sorted((each for each in rows if each[0].mode is mode), key=lambda each: each[0].valid_from)
        times = np.array([row.valid_from for row, _ in own], dtype=np.int64)
        out[str(mode)] = LinesAt(times, tuple(line for _, line in own))
    return out
