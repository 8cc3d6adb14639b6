"""What is due and what scores what: functions of config, stored rows and data time, without a clock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from pipelines.fit_spans import first_wait, fit_days, fit_window
from pipelines.jobs.fit_times import fit_slots, nights
from pipelines.monitor import MonitorSpec
from pipelines.records import Json, SeriesRow, TargetRow, VersionRow
from pipelines.times import DAY

NEVER = 0
"""Before all points: nothing was deleted."""


@dataclass(frozen=True)
class History:
    """What is known of a target's data: times of its first and newest point, epoch seconds.

    Attributes:
        first: from here on all its series have points.
        whole: the newest point of the series that is furthest behind; None where there is but one.
        kept_from: from here on all points are there that ever were; retention has deleted others.
        step_seconds: the target's.
    """

    first: int
    newest: int
    whole: int | None = None
    kept_from: int = NEVER
    step_seconds: int = 0

    def fit_days(self, spec: MonitorSpec) -> int:
        """Return the days between its newest fits."""
        return fit_days(spec, self.step_seconds, self.complete - self.first)

    @property
    def complete(self) -> int:
        """Up to when all its series have points."""
        return self.newest if self.whole is None else self.whole


def histories(targets: Iterable[TargetRow], series: Mapping[int, SeriesRow]) -> dict[int, History]:
    """Return the history of every target whose series all have points, by target id."""
    found = {}
    for target in targets:
        rows = [series[i] for i in target.series_ids]
        firsts = [row.begun for row in rows if row.begun is not None]
        newest = [row.last_ts for row in rows if row.last_ts is not None]
        kept_from = max(NEVER if row.whole_from is None else row.whole_from for row in rows)
        if len(firsts) == len(rows):
            found[target.id] = History(max(firsts), max(newest), min(newest), kept_from, target.step_seconds)
    return found


def still_whole(
    spec: MonitorSpec,
    target: TargetRow,
    history: History,
    slots: Sequence[int],
    followed_at: int | None = None,
) -> list[int]:
    """Return the scheduled fits that come out as they would have on their night.

    What retention has taken of the points can no longer be learned from, and what it has taken of the scores
    is not scored again: neither is a fit whose next one lies before.

    Args:
        slots: ascending.
        followed_at: when another model takes the newest one's place; where none does, that one is due
            whatever is left.
    """
    scores_from = NEVER if target.pruned_before is None else target.pruned_before
    window = fit_window(spec.fit_window_seconds, history.step_seconds)
    whole_from = history.kept_from + (window if history.kept_from > NEVER else 0)
    newest = [] if followed_at is not None else slots[-1:]
    ends = slots if followed_at is None else [*slots, followed_at]
    due = [slot for slot, end in pairwise(ends) if slot >= whole_from and end > scores_from]
    return [*due, *newest]


def ready_by(spec: MonitorSpec, history: History, least: int = 0) -> int:
    """Return when a target's first model may be fitted, epoch seconds.

    Args:
        least: the shortest span a model can be learned from, seconds; longer than two weeks where
            points are far apart.
    """
    after = history.first + first_wait(spec, history.step_seconds, least)
    return nights(spec.nightly, after, after + 3 * DAY)[0]


def wanted_slots(spec: MonitorSpec, key: str, history: History, until: int, least: int = 0) -> list[int]:
    """Return every scheduled fit of a target up to ``until``: its first night, then the regular ones.

    None once no point came since the slot before: a series that stopped has nothing new to teach,
    and would otherwise be tried again every night, at more slots every week. One of several is enough.
    """
    first = ready_by(spec, history, least)
    if first > until:
        return []
    last = min(until, history.complete + history.fit_days(spec) * DAY)
    return [first, *_later_slots(spec, key, history, first, last)]


def _later_slots(spec: MonitorSpec, key: str, history: History, first: int, last: int) -> list[int]:
    """Return the regular fits after the first one of a history."""
    step, begun = history.step_seconds, history.first
    return fit_slots(spec, key, first + 1, last + 1, step_seconds=step, begun=begun)


def group_slots(
    spec: MonitorSpec, known: Mapping[int, History], least: Mapping[int, int], until: int
) -> dict[int, list[int]]:
    """Return every scheduled fit of a group up to ``until`` that each of its targets takes part in.

    The group begins with the target that is ready first; from then on the nights of the group's name
    hold for all. A target takes part once it is ready itself, or will be within a day, so that series
    which begin on one day learn together from the first night on.

    Args:
        known: the targets' histories, by id.
        least: the shortest span a model of each can be learned from, seconds.
    """
    ready = {i: ready_by(spec, history, least[i]) for i, history in known.items()}
    first = min(ready.values(), default=until + 1)
    if first > until:
        return {i: [] for i in known}
    leader = min(known, key=lambda i: (ready[i], known[i].first, known[i].step_seconds))
    slots = [first, *_later_slots(spec, spec.name, known[leader], first, until)]
    last = {i: history.newest + known[leader].fit_days(spec) * DAY for i, history in known.items()}
    return {i: [slot for slot in slots if ready[i] - DAY <= slot <= max(last[i], first)] for i in known}


def loan_slots(
    spec: MonitorSpec, history: History, models: Sequence[int], window_seconds: int, until: int
) -> list[int]:
    """Return when a target without a model of its own is lent its group's, ascending.

    At the end of its first window; with every new model of the group; and on the nights at which its
    history has doubled since it was last looked at, so that its scale is learned anew.

    Args:
        models: when the training of the group's models ended, ascending, at least one.
        window_seconds: the length of a window of the target.
    """
    first = max(history.first + window_seconds, models[0])
    if first > until:
        return []
    slots = [first]
    for night in nights(spec.nightly, first + 1, until + 1):
        doubled = night - history.first >= 2 * (slots[-1] - history.first)
        if doubled or night in models:
            slots.append(night)
    return slots


def fingerprint(spec: MonitorSpec) -> str:
    """Return what tells apart versions that the monitor, as configured now, would and would not fit."""
    parts: Json = {
        "detector": spec.detector,
        "params": spec.params,
        "scope": spec.scope,
        "season": spec.season,
        "fit_window": spec.fit_window_seconds,
    }
    if spec.meanings:
        # Only where there are any: the versions of before stay those of this monitor.
        parts["meanings"] = {name: asdict(each) for name, each in spec.meanings.items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def current(spec: MonitorSpec, versions: Iterable[VersionRow]) -> list[VersionRow]:
    """Return the accepted versions of the monitor as configured now, else of what it was before."""
    accepted = [v for v in versions if v.status == "accepted"]
    mark = fingerprint(spec)
    ours = [v for v in accepted if v.origin.fingerprint == mark]
    newest: dict[int, VersionRow] = {}
    for version in sorted(ours or accepted, key=lambda v: (v.train_stop, v.id)):
        newest[version.train_stop] = version
    return list(newest.values())


def pieces(versions: Sequence[VersionRow], start: int, stop: int) -> list[tuple[VersionRow, int, int]]:
    """Return which version scores what of a span: the newest whose training ended by then.

    Args:
        versions: of one target, ascending in ``train_stop``.
        start, stop: half-open span; what lies before the first version's training end is left out.
    """
    out = []
    for version, later in zip(versions, [*versions[1:], None], strict=True):
        a = max(start, version.train_stop)
        b = stop if later is None else min(stop, later.train_stop)
        if a < b:
            out.append((version, a, b))
    return out


def newest_by(versions: Mapping[int, Sequence[VersionRow]], at: int) -> list[VersionRow]:
    """Return every target's newest version whose training ended at or before ``at``."""
    found = []
    for rows in versions.values():
        until = [v for v in rows if v.train_stop <= at]
        if until:
            found.append(until[-1])
    return found
