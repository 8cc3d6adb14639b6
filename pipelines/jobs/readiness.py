"""When each target that a monitor asks for has enough data for its first model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pipelines.jobs.channels import Wanted
from pipelines.jobs.plan import History, ready_by
from pipelines.monitor import MonitorSpec
from pipelines.records import Json
from pipelines.workers.fit import MIN_WINDOWS, least_seconds


def readiness(
    spec: MonitorSpec,
    targets: Iterable[Wanted],
    fitted: Collection[str],
    waiting: Mapping[str, str] | None = None,
) -> list[Json]:
    """Return, for every target that a monitor asks for, its data and when its first model may be there.

    Args:
        fitted: keys of the targets that have a model.
        waiting: why a target is not scored, by key.
    """
    lends = spec.scope == "group" and bool(fitted)
    reasons = waiting or {}
    return [
        _readiness(spec, each, each.key in fitted, reasons.get(each.key, ""), lends=lends) for each in targets
    ]


def _readiness(spec: MonitorSpec, target: Wanted, fitted: bool, why: str, *, lends: bool) -> Json:
    step = max(row.spec.step_seconds for row in target.series)
    firsts = [row.begun for row in target.series if row.begun is not None]
    lasts = [row.last_ts for row in target.series if row.last_ts is not None]
    ready = None
    if len(firsts) == len(target.series) and not why:
        least = least_seconds(spec, step)
        ready = ready_by(spec, History(max(firsts), max(lasts), step_seconds=step), least)
        if lends:
            # A group that has a model lends it to a target once its first window is there.
            ready = min(ready, max(firsts) + least // MIN_WINDOWS)
    return {
        "target": target.key,
        "channels": len(target.series),
        "step_seconds": step,
        "first_ts": max(firsts, default=None),
        "last_ts": max(lasts, default=None),
        "ready_by": ready,
        "state": "waiting" if why else "ready" if fitted else "learning",
        "why": why,
    }
