"""Fits that were made before all of their points had come: of a file that was half written, or half read.

What a fit learns is what its training span holds. Points that come within their delay are in it; a series
whose points ended earlier had stopped, or they were still to come. Where they came since, the fit is made
anew, so that it is what it would have been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.fit_spans import fit_window
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.plan import History, fingerprint
from pipelines.records import TargetRow, VersionRow
from pipelines.times import HOUR


def slots(
    job: MonitorJob,
    targets: Sequence[TargetRow],
    stored: Mapping[int, Sequence[VersionRow]],
    known: Mapping[int, History],
) -> dict[int, set[int]]:
    """Return the scheduled fits that are to be made anew, by target id; of a group all of one night.

    Args:
        stored: every version of the targets, by target id.
    """
    found: dict[int, set[int]] = {target.id: set() for target in targets}
    begun: dict[int, int] = {}
    mark = fingerprint(job.spec)
    for target in (target for target in targets if target.id in known):
        ours = [v for v in stored[target.id] if v.origin.fingerprint == mark and not v.on_loan]
        if ours:
            begun[target.id] = first = min(v.train_stop for v in ours)
            scored = max((v.train_stop for v in ours if v.scored), default=0)
            found[target.id] = {
                v.train_stop
                for v in ours
                # One that was made anew, and whose process died before its scores were stored.
                if (v.status == "accepted" and not v.scored and v.train_stop < scored)
                or _has_more(job, target, v, known[target.id], is_first=v.train_stop == first)
            }
    every = set().union(*found.values())
    if job.spec.scope == "group":
        return {target.id: every for target in targets}
    if every and min(every) == min(begun.values()):
        # The first line is held against all first scores: those of the others are made with the one to come.
        found = {i: own | {begun[i]} if i in begun else own for i, own in found.items()}
    return found


def _has_more(
    job: MonitorJob, target: TargetRow, version: VersionRow, history: History, *, is_first: bool
) -> bool:
    """True where a training span has points by now, before or after those that were learned from."""
    until = version.card.get("learned_until")
    start = max(
        version.train_stop - fit_window(job.spec.fit_window_seconds, target.step_seconds), history.first
    )
    if until is None or start < history.kept_from:
        return False
    if version.train_start - start > target.step_seconds:
        return True
    late = target.step_seconds + target.delay_seconds
    # A source that always lags a little is not fitted twice every time.
    slack = late if is_first else max(late, HOUR)
    if version.train_stop - until <= slack or history.complete <= until:
        return False
    points = job.points([target], until + 1, version.train_stop)[target.id]
    return all(len(each.ts) for each in points)
