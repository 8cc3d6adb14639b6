"""Commands that list what is stored: intervals, series, runs, monitors; and the detectors installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

import typer

from anomaly_service import wording
from anomaly_service.cli import tables
from anomaly_service.cli.fitted import Column
from anomaly_service.cli.options import (
    CONFIG,
    FIRST_STEPS,
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
RUN_COLUMNS = (
    "run_id", "kind", "monitor", "scheduled_for", "state", "attempts", "owner", "started_at", "finished_at",
    "duration_seconds", "lease_until", "outcome", "error",
)  # fmt: skip

CELL = 80
"""Characters of a run's outcome and error in a table."""

SHORT_INTERVALS = (
    Column("event_id", "id", 1, right=True),
    Column("start", "start", 2),
    Column("duration", "duration", 4, right=True),
    Column("series", "series", 3, least=10, middle=True),
    Column("what", "what", 0, least=12),
    Column("score", "score", 5, right=True),
    Column("review_verdict", "verdict", 6),
)
SUGGESTED = Column("suggestion", "suggestion", 7)
MONITOR = Column("monitor", "monitor", 8, least=8, middle=True)
SHORT_SERIES = (
    Column("series", "series", 0, least=16, middle=True),
    Column("state", "state", 1),
    Column("newest", "newest", 2),
    Column("behind", "behind", 3, right=True),
    Column("step", "step", 4, right=True),
    Column("open_events", "open", 5, right=True),
    Column("source", "source", 6, least=8, middle=True),
    Column("monitors", "monitors", 7),
    Column("habit", "habit", 8),
)
SHORT_RUNS = (
    Column("run_id", "id", 1, right=True),
    Column("at", "due (UTC)", 2),
    Column("kind", "kind", 0),
    Column("whose", "of", 4, least=8, middle=True),
    Column("state", "state", 3),
    Column("took", "took", 5, right=True),
    Column("told", "outcome", 6, least=16),
)
SHORT_MONITORS = (
    Column("monitor", "monitor", 0, least=10, middle=True),
    Column("detector", "detector", 2),
    Column("flagged", "flagged", 1, right=True),
    Column("reviewed", "reviewed", 3, right=True),
    Column("confirmed", "confirmed", 4, right=True),
    Column("false_positive", "false", 5, right=True),
    Column("expected", "expected", 7, right=True),
    Column("new_trend", "new trend", 8, right=True),
    Column("unsure", "unsure", 9, right=True),
    Column("precision", "precision", 6, right=True),
)
"""What a terminal shows of each row, in one line."""

Wide = Annotated[
    bool, typer.Option("--wide", "-w", help="Every column, however narrow the terminal; so does a pipe.")
]

Limit = Annotated[int, typer.Option("--limit", "-n", parser=whole(1), help="At most so many rows.")]
After = Annotated[
    str | None, typer.Option("--after", metavar="CURSOR", help="Go on behind the row that has this cursor.")
]


@app.command(rich_help_panel=FIRST_STEPS)
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
    wide: Wide = False,
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
        "event_id", "series", "monitor", "kind", "start_at", "duration", "what", "status", "direction",
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
        in_words=in_words,
        short=short_intervals(found.rows),
        wide=wide,
    )


def short_intervals(rows: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Return what a terminal shows of intervals: suggestions and monitors where they tell rows apart."""
    head = f"start ({_clock(rows)})"
    columns = [replace(each, head=head) if each.name == "start" else each for each in SHORT_INTERVALS]
    if any(row["suggested_verdict"] for row in rows):
        columns.append(SUGGESTED)
    if len({row["monitor"] for row in rows}) > 1:
        columns.append(MONITOR)
    return tuple(columns)


def _clock(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return whose time the rows are told in, each in that of its series."""
    zones = {row["timezone"] for row in rows}
    return zones.pop().rpartition("/")[2] if len(zones) == 1 else "local"


def _labels(given: Sequence[str]) -> dict[str, str]:
    """Return the labels that options name."""
    found = dict(each.partition("=")[::2] for each in given)
    if not all(name and value for name, value in found.items()):
        raise typer.BadParameter(f"--label takes NAME=VALUE such as realm=kr-1; got {', '.join(given)}")
    return found


def in_words(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a table of intervals says of a row in other words than the view."""
    return {
        "start": f"{wording.local(row['start_ts'], row['timezone']):%Y-%m-%d %H:%M}",
        "what": wording.what(row),
        "score": f"{row['peak_score']:.1f}",
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
    wide: Wide = False,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """List the series with their newest point and state, and when they are usually absent."""
    from anomaly_service.insight import habits, lists

    with usage(), opened(config, now, quiet=True) as service:
        found = habits.with_habits(service.store, lists.series(service.store, limit=limit, after=after))
    empty = "No series yet; run: anomaly ingest"
    tables.page(
        found,
        SERIES_COLUMNS,
        as_json=as_json,
        empty=empty,
        in_words=_series_in_words,
        short=SHORT_SERIES,
        wide=wide,
    )


def _series_in_words(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a terminal says of a series in fewer characters than the view."""
    return {
        "newest": _minute(row["last_at"], row["timezone"]),
        "behind": tables.duration(row["behind_seconds"]),
        "step": tables.duration(row["step_seconds"]),
    }


def _minute(at: str | None, timezone: str | None = None) -> str:
    """Return a moment of a view as a minute of a zone.

    >>> _minute("2025-10-14T18:15:00Z", "Europe/Berlin")
    '2025-10-14 20:15'
    """
    if at is None:
        return ""
    return f"{wording.local(int(datetime.fromisoformat(at).timestamp()), timezone):%Y-%m-%d %H:%M}"


@app.command(rich_help_panel=PANEL)
def runs(
    limit: Limit = 20,
    after: After = None,
    wide: Wide = False,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """List what the daemon did, the newest first."""
    from anomaly_service.insight import lists

    with usage(), opened(config, now, quiet=True) as service:
        found = lists.runs(service.store, limit=limit, after=after)
    empty = "No run yet; start: anomaly daemon"
    tables.page(
        found,
        RUN_COLUMNS,
        as_json=as_json,
        empty=empty,
        in_words=_run_in_words,
        short=SHORT_RUNS,
        wide=wide,
    )


def _run_in_words(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a table of runs says shorter than the view: JSON has the whole of it."""
    cut = {name: tables.cut(tables.text(row[name]), CELL) for name in ("outcome", "error")}
    return {
        **cut,
        "at": _minute(row["scheduled_for"]),
        "whose": row["monitor"] or row["source"] or "",
        "took": tables.duration(row["duration_seconds"]),
        "told": cut["error"] or cut["outcome"],
    }


@app.command(rich_help_panel=PANEL)
def monitors(
    wide: Wide = False, config: ConfigPath = CONFIG, now: Now = None, as_json: AsJson = False
) -> None:
    """List the monitors with what their intervals turned out to be."""
    from anomaly_service.insight import lists

    with opened(config, now, quiet=True) as service:
        found = lists.monitors(service.store)
    tables.fitted(
        found,
        SHORT_MONITORS,
        list(found[0]) if found else [],
        as_json=as_json,
        wide=wide,
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
