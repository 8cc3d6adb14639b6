"""Commands that list what is stored: intervals, series, runs, monitors; and the detectors installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.options import (
    CONFIG,
    AsJson,
    ConfigPath,
    Now,
    app,
    moment,
    number,
    opened,
    usage,
    whole,
)
from pipelines.names import AUTO

PANEL = "Lists"
KINDS = ("anomaly", "flatline", "data_missing", "stale", "unscored")

ORDERS = ("newest", "worst")
SERIES_COLUMNS = (
    "series_id", "series", "metric", "labels", "source", "step_seconds", "delay_seconds", "timezone",
    "first_at", "last_at", "behind_seconds", "state", "monitors", "scored_until", "open_events",
    "habit",
)  # fmt: skip
SPARE_OF_INTERVALS = ("monitor", "kind", "status", "yhat_at_peak", "y_at_peak", "direction", "channel")
SPARE_OF_SERIES = (
    "series_id", "metric", "labels", "timezone", "delay_seconds", "step_seconds", "first_at", "monitors",
    "behind_seconds", "scored_until", "source", "habit",
)  # fmt: skip
SPARE_OF_RUNS = (
    "lease_until", "outcome", "owner", "attempts", "started_at", "scheduled_for", "error", "duration_seconds",
)  # fmt: skip
SPARE_OF_MONITORS = ("new_trend", "unsure", "expected", "reviewed", "confirmed", "false_positive")
RUN_COLUMNS = (
    "run_id", "kind", "monitor", "scheduled_for", "state", "attempts", "owner", "started_at", "finished_at",
    "duration_seconds", "lease_until", "outcome", "error",
)  # fmt: skip

CELL = 80
"""Characters of a run's outcome and error in a table."""

Limit = Annotated[int, typer.Option("--limit", "-n", parser=whole(1), help="At most so many rows.")]
After = Annotated[
    str | None, typer.Option("--after", metavar="CURSOR", help="Go on behind the row that has this cursor.")
]


@app.command(rich_help_panel=PANEL)
def intervals(
    monitor: Annotated[str | None, typer.Option("--monitor", "-m", help="Only this monitor's.")] = None,
    series: Annotated[
        str | None, typer.Option("--series", help="Only this series, as it is printed.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="Only with this label; may be repeated."),
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", help=", ".join(KINDS) + ".")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Ending at or after this.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Starting before this.")
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", parser=number, help="With a peak of at least so much; 1 is the line."),
    ] = None,
    verdict: Annotated[str | None, typer.Option("--verdict", help="Only those judged so.")] = None,
    unreviewed: Annotated[bool, typer.Option("--unreviewed", help="Only those nobody judged yet.")] = False,
    order: Annotated[str, typer.Option("--order", help=", ".join(ORDERS) + ".")] = "newest",
    limit: Limit = 50,
    after: After = None,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """List flagged intervals, the newest first."""
    from anomaly_service.insight.intervals import Filters, page

    filters = Filters(
        monitor=monitor,
        series=series,
        kind=kind,
        labels=_labels(label or ()),
        verdict=verdict,
        unreviewed=unreviewed,
        since=moment(since, "--since"),
        until=moment(until, "--until"),
        min_score=min_score,
        order=order,
        limit=limit,
        after=after,
    )
    with usage(), opened(config, now, quiet=True) as service:
        found = page(service.store, filters, service.config.monitor_specs())
    columns = [
        "event_id", "series", "monitor", "kind", "start_at", "duration", "status", "direction",
        "peak_score", "y_at_peak", "yhat_at_peak",
    ]  # fmt: skip
    if any(row["channel_shares"] for row in found.rows):
        columns.append("channel")
    columns.append("review_verdict")
    if any(row["suggested_verdict"] for row in found.rows):
        columns.append("suggestion")
    tables.page(
        found,
        columns,
        as_json=as_json,
        empty="No interval is flagged.",
        spare=SPARE_OF_INTERVALS,
        in_words=_in_words,
    )


def _labels(given: Sequence[str]) -> dict[str, str]:
    """Return the labels that options name."""
    found = dict(each.partition("=")[::2] for each in given)
    if not all(name and value for name, value in found.items()):
        raise typer.BadParameter(f"--label takes NAME=VALUE such as realm=kr-1; got {', '.join(given)}")
    return found


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
def series(
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", parser=whole(1), help="At most so many rows; all.")
    ] = None,
    after: After = None,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """List the series with their newest point and state, and when they are usually absent."""
    from anomaly_service.insight import habits, lists

    with usage(), opened(config, now, quiet=True) as service:
        found = habits.with_habits(service.store, lists.series(service.store, limit=limit, after=after))
    empty = "No series yet; run: anomaly ingest"
    tables.page(found, SERIES_COLUMNS, as_json=as_json, empty=empty, spare=SPARE_OF_SERIES)


@app.command(rich_help_panel=PANEL)
def runs(
    limit: Limit = 20,
    after: After = None,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """List what the daemon did, the newest first."""
    from anomaly_service.insight import lists

    with usage(), opened(config, now, quiet=True) as service:
        found = lists.runs(service.store, limit=limit, after=after)
    empty = "No run yet; start: anomaly daemon"
    tables.page(found, RUN_COLUMNS, as_json=as_json, empty=empty, spare=SPARE_OF_RUNS, in_words=_run_in_words)


def _run_in_words(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a table of runs says shorter than the view: JSON has the whole of it."""
    return {name: tables.cut(tables.text(row[name]), CELL) for name in ("outcome", "error")}


@app.command(rich_help_panel=PANEL)
def monitors(config: ConfigPath = CONFIG, now: Now = None, as_json: AsJson = False) -> None:
    """List the monitors with what their intervals turned out to be."""
    from anomaly_service.insight import lists

    with opened(config, now, quiet=True) as service:
        found = lists.monitors(service.store)
    tables.rows(
        found,
        list(found[0]) if found else [],
        as_json=as_json,
        empty="No monitor has flagged anything yet; `anomaly status` names them all.",
        spare=SPARE_OF_MONITORS,
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
