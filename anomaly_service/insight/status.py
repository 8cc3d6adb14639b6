"""How the service stands: what is worth knowing of sources, monitors, series and runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from anomaly_service import readiness
from anomaly_service.db.pages import Asked
from anomaly_service.db.store import SqlStore
from anomaly_service.outcomes import left_out
from pipelines.monitor import MonitorSpec
from pipelines.records import Json
from pipelines.times import iso

WHOLE = {"nightly", "backfill"}
"""Kinds of runs that fit and score all there is: what an earlier run left out, they tried again."""

READS_LOOKED_AT = 20
"""Newest reads of a source among which is the last that ended: others wait or are at work."""

RUNS_AT_ONCE = 500
"""How many ended runs are read at a time: a day of a monitor that is scored every five minutes has 288."""


def standing(
    store: SqlStore, specs: Mapping[str, MonitorSpec], sources: Collection[str], now: datetime
) -> Json:
    """Return what ``anomaly status`` tells: rows of the health views, and the runs that matter.

    Args:
        specs: the monitors that the config declares, by name.
        sources: names of the sources that it declares.
    """
    monitors = store.rows("monitor_health", {"enabled": True})
    troubled = store.rows("run_log", {"state": ["waiting", "running", "failed"], "source": None})
    troubled.sort(key=lambda run: (run["scheduled_ts"], run["run_id"]))
    ahead = store.runs_ahead()
    return {
        "now": iso(now),
        "clock_was_ahead": None if ahead is None else iso(ahead),
        "sources": store.rows("source_health"),
        "reads": [read for source in sources if (read := _read(store, source)) is not None],
        "monitors": monitors,
        "series": [row for row in store.rows("series_health") if row["state"] != "ok"],
        "waiting": readiness.waiting(store, specs),
        "last_tick": _last(store, "tick"),
        "last_nightly": _last(store, "nightly"),
        "failed_runs": [run for run in troubled if run["state"] == "failed"],
        "retried_runs": [run for run in troubled if run["state"] != "failed" and run["error"]],
        "left_out": _left_out(store, {row["monitor"] for row in monitors}),
    }


def _read(store: SqlStore, source: str) -> Json | None:
    """Return a source's last read that ended, or failed and is tried again, and the one at work.

    None where it was never read.
    """
    runs = store.page(Asked("run_log", "newest", where=[{"source": source}], limit=READS_LOOKED_AT)).rows
    if not runs:
        return None
    ended = (run for run in runs if run["state"] in ("done", "failed") or run["error"])
    at_work = (run for run in runs if run["state"] == "running")
    return {"source": source, "last": next(ended, None), "at_work": next(at_work, None)}


def _last(store: SqlStore, kind: str) -> Json | None:
    """Return the newest run of a kind that was done."""
    done = {"kind": kind, "state": "done"}
    return next(iter(store.page(Asked("run_log", "newest", where=[done], limit=1)).rows), None)


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
