"""What is due and what scores what: functions of config, stored rows and data time, without a clock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.monitor import MonitorSpec
from pipelines.records import Json, SeriesRow, TargetRow, VersionRow
from pipelines.slots import DAY, fit_days, fit_slots, nights

FIRST_FIT_SECONDS = 14 * DAY
"""A first model waits for two weeks, so that it has seen every hour of the week twice, or for fit.window."""


@dataclass(frozen=True)
class History:
    """What is known of a target's data: times of its first and newest point, epoch seconds.

    Attributes:
        first: from here on all its series have points.
        whole: the newest point of the series that is furthest behind; None where there is but one.
    """

    first: int
    newest: int
    whole: int | None = None

    @property
    def complete(self) -> int:
        """Up to when all its series have points."""
        return self.newest if self.whole is None else self.whole


def histories(targets: Iterable[TargetRow], series: Mapping[int, SeriesRow]) -> dict[int, History]:
    """Return the history of every target whose series all have points, by target id."""
    found = {}
    for target in targets:
        rows = [series[i] for i in target.series_ids]
        firsts = [row.first_ts for row in rows if row.first_ts is not None]
        newest = [row.last_ts for row in rows if row.last_ts is not None]
        if len(firsts) == len(rows):
            found[target.id] = History(max(firsts), max(newest), min(newest))
    return found


def ready_by(spec: MonitorSpec, history: History, least: int = 0) -> int:
    """Return when a target's first model may be fitted, epoch seconds.

    Args:
        least: the shortest span a model can be learned from, seconds; longer than two weeks where
            points are far apart.
    """
    wait = min(spec.fit_window_seconds, max(FIRST_FIT_SECONDS, least))
    after = history.first + wait
    return nights(spec.nightly, after, after + 3 * DAY)[0]


def wanted_slots(spec: MonitorSpec, key: str, history: History, until: int, least: int = 0) -> list[int]:
    """Return every scheduled fit of a target up to ``until``: its first night, then the regular ones.

    None once no point came since the slot before: a series that stopped has nothing new to teach,
    and would otherwise be tried again every night, at more slots every week. One of several is enough.
    """
    first = ready_by(spec, history, least)
    if first > until:
        return []
    last = min(until, history.complete + fit_days(spec) * DAY)
    return [first, *fit_slots(spec, key, first + 1, last + 1)]


def fingerprint(spec: MonitorSpec) -> str:
    """Return what tells apart versions that the monitor, as configured now, would and would not fit."""
    parts: Json = {
        "detector": spec.detector,
        "params": spec.params,
        "scope": spec.scope,
        "season": spec.season,
        "fit_window": spec.fit_window_seconds,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def current(spec: MonitorSpec, versions: Iterable[VersionRow]) -> list[VersionRow]:
    """Return the accepted versions of the monitor as configured now, else of what it was before."""
    accepted = [v for v in versions if v.status == "accepted"]
    ours = [v for v in accepted if v.config.get("fingerprint") == fingerprint(spec)]
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
