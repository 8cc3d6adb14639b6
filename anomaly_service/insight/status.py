"""How the service stands: what is worth knowing of sources, monitors, series and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from anomaly_service import readiness
from anomaly_service.db.store import SqlStore
from anomaly_service.outcomes import left_out
from pipelines.monitor import MonitorSpec
from pipelines.records import Json
from pipelines.times import iso

WHOLE = {"nightly", "backfill"}
"""Kinds of runs that fit and score all there is: what an earlier run left out, they tried again."""


def standing(store: SqlStore, specs: Mapping[str, MonitorSpec], now: datetime) -> Json:
    """Return what ``anomaly status`` tells: rows of the health views, and the runs that matter.

    Args:
        specs: the monitors that the config declares, by name.
    """
    runs = sorted(store.rows("run_log"), key=lambda run: (run["scheduled_for"], run["run_id"]))
    return {
        "now": iso(now),
        "sources": store.rows("source_health"),
        "monitors": store.rows("monitor_health", {"enabled": True}),
        "series": [row for row in store.rows("series_health") if row["state"] != "ok"],
        "waiting": readiness.waiting(store, specs),
        "last_tick": _last(runs, "tick"),
        "last_nightly": _last(runs, "nightly"),
        "failed_runs": [run for run in runs if run["state"] == "failed"],
        "retried_runs": [run for run in runs if run["state"] in ("waiting", "running") and run["error"]],
        "left_out": _left_out(runs),
    }


def _last(runs: Sequence[Json], kind: str) -> Json | None:
    """Return the newest run of a kind that was done."""
    return next((run for run in reversed(runs) if run["kind"] == kind and run["state"] == "done"), None)


def _left_out(runs: Sequence[Json]) -> list[Json]:
    """Return what the newest runs left out, each with when and in which kind of work.

    A monitor's newest run of a kind counts, unless one of those that do everything came after it; what
    several say is told once.
    """
    found: dict[tuple[str, str], Json] = {}
    seen: dict[str, set[str]] = {}
    ended = [run for run in runs if run["state"] == "done" and run["finished_at"]]
    for run in sorted(ended, key=lambda run: (run["finished_at"], run["run_id"]), reverse=True):
        later = seen.setdefault(run["monitor"], set())
        if run["kind"] not in later and not later & WHOLE:
            about = {name: run[name] for name in ("run_id", "kind", "monitor", "finished_at")}
            for why in left_out(run["outcome"] or {}):
                found.setdefault((run["monitor"], why), {**about, "why": why})
        later.add(run["kind"])
    return list(found.values())
