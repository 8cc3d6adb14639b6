"""Commands that list what is stored: intervals, series, runs, monitors; and the detectors installed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.options import CONFIG, AsJson, ConfigPath, Now, app, moment, opened
from pipelines.names import AUTO

PANEL = "Lists"
KINDS = ("anomaly", "flatline", "data_missing", "stale")

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many rows.")]


@app.command(rich_help_panel=PANEL)
def intervals(
    monitor: Annotated[str | None, typer.Option("--monitor", "-m", help="Only this monitor's.")] = None,
    series: Annotated[
        str | None, typer.Option("--series", help="Only this series, as it is printed.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Ending at or after this.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", help=", ".join(KINDS) + ".")] = None,
    unreviewed: Annotated[bool, typer.Option("--unreviewed", help="Only those nobody judged yet.")] = False,
    limit: Limit = 50,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """List flagged intervals, the newest first."""
    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"--kind must be one of {', '.join(KINDS)}; got {kind!r}")
    given = {"monitor": monitor, "series": series, "kind": kind}
    equal = {name: value for name, value in given.items() if value is not None}
    found = _rows(config, now, "flagged_intervals", equal, since=moment(since, "--since"))
    if unreviewed:
        found = [row for row in found if row["review_verdict"] is None]
    found.sort(key=lambda row: (row["start_at"], row["event_id"]), reverse=True)
    listed = found[:limit]
    columns = [
        "event_id", "series", "monitor", "kind", "start_at", "duration", "status", "direction",
        "peak_score", "y_at_peak", "yhat_at_peak",
    ]  # fmt: skip
    if any(row["channel_shares"] for row in listed):
        columns.append("channel")
    columns.append("review_verdict")
    if any(row["suggested_verdict"] for row in listed):
        columns.append("suggestion")
    if not as_json:
        listed = [{**row, **_in_words(row)} for row in listed]
    tables.rows(listed, columns, as_json=as_json, empty="No interval is flagged.")
    if len(found) > limit:
        tables.note(f"{len(found) - limit} more; --limit {len(found)} shows them all.")


def _in_words(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a table of intervals says of a row in other words than the view."""
    return {
        "duration": tables.duration(row["duration_seconds"]),
        "channel": tables.leading(row["channel_shares"] or {}),
        "suggestion": _suggestion(row),
    }


def _suggestion(row: Mapping[str, Any]) -> str:
    """Return what an interval would probably be judged.

    >>> row = {"suggested_verdict": "expected", "suggested_cause": "patch", "suggestion_probability": 0.871}
    >>> _suggestion(row)
    'expected: patch (87 %)'
    """
    if row["suggestion_probability"] is None:
        return row["suggested_verdict"] or ""
    cause = f": {row['suggested_cause']}" if row["suggested_cause"] else ""
    return f"{row['suggested_verdict']}{cause} ({row['suggestion_probability']:.0%})".replace("%", " %")


@app.command(rich_help_panel=PANEL)
def series(config: ConfigPath = CONFIG, now: Now = None, as_json: AsJson = False) -> None:
    """List the series with their newest point and state."""
    found = _rows(config, now, "series_health")
    tables.rows(
        found, list(found[0]) if found else [], as_json=as_json, empty="No series yet; run: anomaly ingest"
    )


@app.command(rich_help_panel=PANEL)
def runs(limit: Limit = 20, config: ConfigPath = CONFIG, now: Now = None, as_json: AsJson = False) -> None:
    """List what the daemon did, the newest first."""
    found = _rows(config, now, "run_log")
    found.sort(key=lambda row: (row["scheduled_for"], row["run_id"]), reverse=True)
    tables.rows(
        found[:limit],
        list(found[0]) if found else [],
        as_json=as_json,
        empty="No run yet; start: anomaly daemon",
    )


@app.command(rich_help_panel=PANEL)
def monitors(config: ConfigPath = CONFIG, now: Now = None, as_json: AsJson = False) -> None:
    """List the monitors with what their intervals turned out to be."""
    found = _rows(config, now, "detector_precision", {})
    tables.rows(
        found,
        list(found[0]) if found else [],
        as_json=as_json,
        empty="No monitor has flagged anything yet; `anomaly status` names them all.",
    )


@app.command(rich_help_panel=PANEL)
def detectors(config: ConfigPath = CONFIG, now: Now = None, as_json: AsJson = False) -> None:
    """List the installed detectors and what each can do; baselines show what a model adds."""
    from detectors import registry

    found = [_AUTOMATIC, *(_taxonomy(name, registry.get(name)) for name in registry.names())]
    tables.rows(found, list(found[0]), as_json=as_json, empty="")


_AUTOMATIC: dict[str, object] = {
    "detector": AUTO,
    "family": "several of these, chosen for each target (the default)",
    "density": "",
    "log_prob": None,
    "encode": None,
    "folds": None,
    "baseline": False,
    "paper": "ours",
}
"""The row of what is no detector but may be named as one."""


def _taxonomy(name: str, cls: Any) -> dict[str, object]:
    """Return a detector's row: family, density, which of the three abilities it has, what it is for."""
    from detectors.base import Encodes, HasLogProb

    return {
        "detector": name,
        "family": cls.family,
        "density": str(cls.density),
        "log_prob": issubclass(cls, HasLogProb),
        "encode": issubclass(cls, Encodes),
        "folds": cls.folds,
        "baseline": cls.baseline,
        "paper": cls.paper,
    }


def _rows(
    config: Path,
    now: str | None,
    view: str,
    where: dict[str, Any] | None = None,
    since: datetime | None = None,
) -> list[dict[str, Any]]:
    """Return rows of a view; a monitor or series that there is none of is refused."""
    from anomaly_service import known

    with opened(config, now, quiet=True) as service:
        found = service.store.rows(view, where, since=since)
        if where and not found:
            known.check(
                service.store, service.config.monitor_specs(), where.get("monitor"), where.get("series")
            )
        return found
