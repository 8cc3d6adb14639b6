"""How the service stands: what is worth knowing of sources, monitors, series and runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from anomaly_service import parts, readiness
from anomaly_service.db.pages import Asked
from anomaly_service.db.store import SqlStore
from anomaly_service.facts import gather
from anomaly_service.outcomes import left_out
from anomaly_service.parts import Part, Said
from pipelines.monitor import MonitorSpec, NightlyPlan
from pipelines.records import Json
from pipelines.times import iso, stale_seconds

OVERDUE = "no point came for more than three steps and the delay"

SPACED, SPACED_STEPS = 5, 48
"""Of so many unscored series it is told how far apart their points of the last so many steps are."""

WHOLE = {"nightly", "backfill"}
"""Kinds of runs that fit and score all there is: what an earlier run left out, they tried again."""


RUNS_AT_ONCE = 500
"""How many ended runs are read at a time: a day of a monitor that is scored every five minutes has 288."""


@dataclass(frozen=True)
class _Monitor:
    id: int
    name: str
    spec: MonitorSpec

    @property
    def infer_every_seconds(self) -> int:
        return self.spec.infer_every_seconds

    @property
    def nightly(self) -> NightlyPlan:
        return self.spec.nightly


@dataclass(frozen=True)
class _Source:
    name: str
    every_seconds: int


UNWATCHED_SECONDS = 300
"""Between two reads of a source where there is no monitor to say how often."""


def standing(
    store: SqlStore,
    specs: Mapping[str, MonitorSpec],
    sources: Mapping[str, int | None],
    now: datetime,
    *,
    frozen: bool = False,
) -> Json:
    """Return what ``anomaly status`` tells: rows of the health views, and the runs that matter.

    Args:
        specs: the monitors that the config declares, by name.
        sources: seconds between two reads of those that it declares; None where monitors say how often.
        frozen: ``now`` was given, and need not be the database's.
    """
    found = _parts(store, specs, sources, now, frozen)
    monitors = store.rows("monitor_health", {"enabled": True})
    troubled = store.rows("run_log", {"state": ["waiting", "running", "failed"], "source": None})
    troubled.sort(key=lambda run: (run["scheduled_ts"], run["run_id"]))
    return {
        "now": iso(now),
        "ready": all(part.ready for part in found),
        "parts": [part.to_json() for part in found],
        "source_events": store.rows("source_events", {"status": "open"}),
        "sources": store.rows("source_health"),
        "reads": [read for source in sources if (read := _read(store, source)) is not None],
        "monitors": monitors,
        "series": _spaced(store, [row for row in _series(store, now) if row["state"] != "ok"]),
        "waiting": readiness.waiting(store, specs),
        "last_tick": _last(store, "tick"),
        "last_nightly": _last(store, "nightly"),
        "failed_runs": [run for run in troubled if run["state"] == "failed"],
        "retried_runs": [run for run in troubled if run["state"] != "failed" and run["error"]],
        "left_out": _left_out(store, {row["monitor"] for row in monitors}),
    }


def _parts(
    store: SqlStore,
    specs: Mapping[str, MonitorSpec],
    sources: Mapping[str, int | None],
    now: datetime,
    frozen: bool,
) -> list[Part]:
    """Return whether detection happens, part by part, as the daemon's ``/readyz`` tells it."""
    rows = [row for row in store.monitors() if row.enabled and row.name in specs]
    monitors = [_Monitor(row.id, row.name, specs[row.name]) for row in rows]
    # Who reads a source tells how often it is read; nobody reads it less often than the slowest of all.
    usual = max((each.infer_every_seconds for each in monitors), default=UNWATCHED_SECONDS)
    facts = gather(store, monitors, [_Source(name, every or usual) for name, every in sources.items()], now)
    trouble = store.refuses_writes()
    mend = "mend that; a daemon goes on by itself as soon as it can write again"
    said = [Said(f"the database {trouble}", mend)] if trouble else []
    return [parts.of("database", said), *parts.judged(facts, now, frozen=frozen)]


def _series(store: SqlStore, now: datetime) -> Iterator[Json]:
    """Yield the health of every series as of now, which may be later than anybody looked."""
    for row in store.rows("series_health"):
        overdue = 0
        if row["live"] and row["last_ts"] is not None:
            overdue = (
                int(now.timestamp())
                - row["last_ts"]
                - stale_seconds(row["step_seconds"], row["delay_seconds"])
            )
        yield {**row, "state": "stale", "reason": OVERDUE} if overdue > 0 and row["state"] != "stale" else row


def _spaced(store: SqlStore, rows: list[Json]) -> list[Json]:
    """Return health rows, those of a few unscored series with how far apart their last points really are."""
    unscored = [row for row in rows if row["state"] == "unscored"][:SPACED]
    for row in unscored:
        last = row["last_ts"]
        found = store.points([row["series_id"]], last - SPACED_STEPS * row["step_seconds"], last + 1)
        if len(found) > 1:
            row["seen_step_seconds"] = int(np.median(np.diff(found.ts)))
    return rows


def _read(store: SqlStore, source: str) -> Json | None:
    """Return a source's last read that ended, or failed and is tried again, and the one at work.

    None where it was never read.
    """
    last = _newest(store, "ended", {"source": source})
    at_work = _newest(store, "newest", {"source": source, "state": "running"})
    return {"source": source, "last": last, "at_work": at_work} if last or at_work else None


def _last(store: SqlStore, kind: str) -> Json | None:
    """Return the run of a kind that was done last."""
    return _newest(store, "ended", {"kind": kind, "state": "done"})


def _newest(store: SqlStore, order: str, where: Json) -> Json | None:
    # What ended last, and not what was scheduled for the latest time: a clock may have been ahead.
    return next(iter(store.page(Asked("run_log", order, where=[where], limit=1)).rows), None)


def _left_out(store: SqlStore, monitors: set[str]) -> list[Json]:
    """Return what the newest runs left out, each with when and in which kind of work.

    A monitor's newest run of a kind counts, unless one of those that do everything came after it; what
    several say is told once.
    """
    found: dict[tuple[str, str], Json] = {}
    seen: dict[str, set[str]] = {}
    for run in _ended(store):
        later = seen.setdefault(run["monitor"], set())
        if run["kind"] not in later and not later & WHOLE:
            about = {name: run[name] for name in ("run_id", "kind", "monitor", "finished_at")}
            for why in left_out(run["outcome"] or {}):
                found.setdefault((run["monitor"], why), {**about, "why": why})
        later.add(run["kind"])
        if all(seen.get(name, set()) & WHOLE for name in monitors):
            break
    return list(found.values())


def _ended(store: SqlStore) -> Iterator[Json]:
    """Yield the runs that were done, the last to end first, read as far as somebody asks for them."""
    asked = Asked("run_log", "ended", where=[{"state": "done", "source": None}], limit=RUNS_AT_ONCE)
    while True:
        page = store.page(asked)
        yield from page.rows
        if page.after is None:
            return
        asked = replace(asked, after=page.after)
