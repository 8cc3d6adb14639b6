"""What a worker needs to score targets: points, models, calibrations and lines, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.jobs.lines import LineBook
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.refit import FirstScores
from pipelines.records import CalibrationRow, TargetRow, VersionRow
from pipelines.steps.bodies import Body, CalibrationEntry
from pipelines.steps.meaning import silent_seconds
from pipelines.workers.tasks import Piece, ScoreTarget, SeenAt

Part = tuple[VersionRow, int, int]
"""A version, and the half-open span that is its to score."""


@dataclass(frozen=True)
class Asked:
    """One target to be scored.

    Attributes:
        parts: which version scores what, in order of time.
        settled_until, observed_until: as in ``ScoreTarget``.
        first: scores of the span before the first version, where they are new.
    """

    target: TargetRow
    parts: tuple[Part, ...]
    settled_until: int
    observed_until: int
    first: FirstScores | None = None


def assemble(
    job: MonitorJob, asked: Sequence[Asked], book: LineBook
) -> tuple[tuple[ScoreTarget, ...], dict[int, bytes]]:
    """Return the targets as a worker takes them, and the weights of their models by id."""
    used = {version.id: version for each in asked for version, _, _ in each.parts}
    known = _Calibrations(job.store.calibrations(sorted(used)))
    reaches = {version.id: _Reach.of(version) for version in used.values()}
    low, high = _span(asked, reaches)
    context = max((reach.context_seconds for reach in reaches.values()), default=0)
    points = job.points([each.target for each in asked], low - context, high)
    lines = book.of([each.target.id for each in asked], low, high)
    series = job.series()
    patient = job.leaving_out_zeros([each.target for each in asked])
    targets = tuple(
        ScoreTarget(
            target=each.target,
            points=points[each.target.id],
            pieces=tuple(_piece(each, part, known) for part in each.parts),
            lines=lines[each.target.id],
            settled_until=each.settled_until,
            observed_until=each.observed_until,
            newest=tuple(series[i].last_ts or 0 for i in each.target.series_ids),
            patience_seconds=silent_seconds(each.target.step_seconds) if each.target.id in patient else 0,
        )
        for each in asked
    )
    return targets, job.store.weights({version.weights_id for version in used.values()})


@dataclass(frozen=True)
class _Reach:
    """How far a version looks.

    Attributes:
        window_seconds: length of its longest window.
        context_seconds: how far back points are needed for its first scores to be exact.
        after_seconds: how far ahead they are for its last settled ones.
    """

    window_seconds: int
    context_seconds: int
    after_seconds: int

    @classmethod
    def of(cls, version: VersionRow) -> _Reach:
        from pipelines.workers import explained, members

        of = members.of_version(version)
        recipe, longest = of[0].recipe, members.longest(of)
        before, after = (
            steps * recipe.step_seconds
            for steps in (explained.reach_steps(longest), explained.settled_after(longest))
        )
        return cls(longest * recipe.step_seconds, recipe.context_seconds + before, after)


def _span(asked: Sequence[Asked], reaches: Mapping[int, _Reach]) -> tuple[int, int]:
    """Return the span of all parts, with a margin of half a step for the last point of it."""
    starts = [start for each in asked for _, start, _ in each.parts]
    stops = [stop + reaches[v.id].after_seconds for each in asked for v, _, stop in each.parts]
    return (min(starts), max(stops)) if starts else (0, 0)


def window_seconds(version: VersionRow) -> int:
    """Return the length of a version's own window: one of an older configuration may look further back."""
    return _Reach.of(version).window_seconds


def after_seconds(version: VersionRow) -> int:
    """Return how far ahead of a step a version needs points for its settled score to be exact."""
    return _Reach.of(version).after_seconds


def context_seconds(version: VersionRow) -> int:
    """Return how far back of a step a version needs points for its scores to be exact."""
    return _Reach.of(version).context_seconds


class _Calibrations:
    """The calibrations of some versions: what their fits taught, and what was seen since."""

    def __init__(self, rows: Iterable[CalibrationRow]) -> None:
        self.bodies: dict[int, dict[str, Body]] = {}
        self.seen: dict[int, dict[str, SeenAt]] = {}
        for row in sorted(rows, key=lambda row: row.valid_from):
            entry = CalibrationEntry.from_json(row.body)
            if entry.fit is not None:
                self.bodies.setdefault(row.version_id, {})[str(row.mode)] = entry.fit
            if entry.seen is not None:
                own = self.seen.setdefault(row.version_id, {})
                known = own.get(str(row.mode), SeenAt())
                own[str(row.mode)] = known.then(row.valid_from, entry.seen)


def _piece(asked: Asked, part: Part, known: _Calibrations) -> Piece:
    version, start, stop = part
    unseen = asked.first is not None and stop <= version.train_stop
    return Piece(
        version_id=version.id,
        detector=version.detector,
        params=version.origin.params,
        recipe=version.recipe,
        weights_id=version.weights_id,
        bodies=known.bodies[version.id],
        start=start,
        stop=stop,
        learned_steps=(version.train_stop - version.train_start) // asked.target.step_seconds,
        seen=known.seen.get(version.id, {}),
        unseen=asked.first.scores if asked.first is not None and unseen else None,
    )
