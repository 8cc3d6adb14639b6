"""Commands that do work: migrate, ingest, backfill, fit, score, rescore, daemon; and status."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.options import (
    CONFIG,
    FIRST_STEPS,
    AsJson,
    ConfigPath,
    Monitors,
    Now,
    app,
    load,
    moment,
    opened,
    span,
)
from anomaly_service.cli.storage import print_storage

PANEL = "At work"
TOLD = ("monitor", "targets", "fitted", "rows", "appeared", "changed", "vanished")
"""What a job's table shows."""
TOLD_MEANS = (
    "targets: series that are watched, several together counted once. fitted: models. rows: scores written. "
    "appeared, changed, vanished: intervals; `anomaly intervals` lists those that are there now."
)
TOLD_OF_A_READ = ("source", "new", "changed", "unchanged", "rejected", "held", "rejects_file", "error")
TOLD_OF_A_CHANGE = ("series", "start_at", "end_at", "kind", "event_id", "why")


@app.command(rich_help_panel=PANEL)
def migrate(config: ConfigPath = CONFIG, now: Now = None) -> None:
    """Bring the database to the schema of this release; safe to repeat."""
    from anomaly_service.db import migrate as migrations

    loaded = load(config)
    revision = migrations.migrate(loaded.database)
    tables.say(f"{loaded.database_shown} is at schema {revision}, the one of this release.")


@app.command(rich_help_panel=FIRST_STEPS)
def ingest(
    source: Annotated[
        list[str] | None,
        typer.Option("--source", "-s", metavar="NAME", help="Only this source; may be repeated."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Read what lies behind this time once more."),
    ] = None,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Take what is new from every source."""
    from anomaly_service.sources.ingest import ingest_from

    start = moment(since, "--since")
    with opened(config, now) as service:
        found = ingest_from(service.config, service.store, service.now, service.on_progress, source, start)
    tables.rows(found, TOLD_OF_A_READ, as_json=as_json, empty="The config declares no source.")
    for each in found:
        for sentence in each["notes"]:
            tables.note(f"{each['source']}: {sentence}")
    failed = [each for each in found if each["error"]]
    for each in failed:
        tables.note(f"error: {each['source']}: {each['error']}")
    if failed:
        raise typer.Exit(1)


@app.command(rich_help_panel=FIRST_STEPS)
def backfill(
    config: ConfigPath = CONFIG, now: Now = None, monitor: Monitors = None, as_json: AsJson = False
) -> None:
    """Fit and score all history as the daemon would have, so that its intervals can be reviewed."""
    with opened(config, now) as service:
        _summary(service.backfill(monitor), as_json)


@app.command(rich_help_panel=PANEL)
def fit(
    config: ConfigPath = CONFIG, now: Now = None, monitor: Monitors = None, as_json: AsJson = False
) -> None:
    """Fit every model that is due."""
    with opened(config, now) as service:
        _summary(service.fit(monitor), as_json)


@app.command(rich_help_panel=PANEL)
def score(
    config: ConfigPath = CONFIG, now: Now = None, monitor: Monitors = None, as_json: AsJson = False
) -> None:
    """Score the points that came since the last time, as one tick of the daemon does."""
    with opened(config, now) as service:
        _summary(service.score(monitor), as_json)


@app.command(rich_help_panel=PANEL)
def rescore(
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="Start of the span (ISO 8601).")],
    stop: Annotated[str, typer.Option("--to", metavar="TIME", help="End of the span.")],
    refit: Annotated[bool, typer.Option("--refit", help="Fit the models of the span anew first.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would appear, change and vanish.")
    ] = False,
    config: ConfigPath = CONFIG,
    now: Now = None,
    monitor: Monitors = None,
    as_json: AsJson = False,
) -> None:
    """Score a span of time again with hindsight; reviews stay."""
    a, b = span(start, stop, "--from", "--to")
    assert a is not None
    assert b is not None
    if refit and dry_run:
        raise typer.BadParameter(
            "--dry-run writes nothing, so it cannot fit models; leave out --refit to see what the present "
            "models would change"
        )
    with opened(config, now) as service:
        result = service.rescore(a, b, refit=refit, dry_run=dry_run, monitors=monitor)
    if as_json:
        tables.say(json.dumps(result, indent=1))
    else:
        _changes(result, dry_run)
        _clipped(result)
        _left_out(result)


@app.command(rich_help_panel=FIRST_STEPS)
def daemon(
    once: Annotated[bool, typer.Option("--once", help="Do what is due by now, then end.")] = False,
    config: ConfigPath = CONFIG,
    now: Now = None,
) -> None:
    """Ingest, score and rescore on schedule until stopped (SIGTERM); SIGHUP reloads the config."""
    from anomaly_service.daemon.loop import run

    if not run(config, now=moment(now, "--now"), once=once):
        typer.echo("error: not all that is due could be done; `anomaly status` says what and why", err=True)
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def status(
    storage: Annotated[
        bool, typer.Option("--storage", help="What the database weighs and how it grows instead.")
    ] = False,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Say how the service stands: sources, last tick, series that learn, stopped or failed.

    Exit status 1 where detection does not happen.
    """
    if storage:
        print_storage(config, now, as_json=as_json)
        return
    from anomaly_service.cli.status import status_lines
    from anomaly_service.insight.status import standing

    with opened(config, now, quiet=True) as service:
        sources = {name: source.every_seconds for name, source in service.config.sources.items()}
        specs = service.config.monitor_specs()
        found = standing(service.store, specs, sources, service.now, frozen=now is not None)
    if as_json:
        tables.say(json.dumps(found, indent=1))
    else:
        for line in status_lines(found):
            tables.say(line)
    if not found["ready"]:
        raise typer.Exit(1)


def _summary(by_monitor: dict[str, Any], as_json: bool) -> None:
    """Print what a job did, a row for each monitor."""
    if as_json:
        tables.say(json.dumps(by_monitor, indent=1))
        return
    done = [{"monitor": name, **result} for name, result in by_monitor.items()]
    columns = [name for name in TOLD if any(name in row for row in done)]
    tables.rows(done, columns, as_json=False, empty="The config declares no monitor.")
    if done:
        tables.note(TOLD_MEANS)
    _left_out(by_monitor)
    for row in done:
        for reason in row.get("waiting", ()):
            tables.note(f"{row['monitor']}: not watched, {reason}.")
        for reason in row.get("line_refused", ()):
            tables.note(f"{row['monitor']}: {reason}")
        for reason in row.get("not_ready_why", ()):
            tables.note(f"{row['monitor']}: no model for {reason}.")
        for reason in row.get("broken_why", ()):
            tables.note(f"{row['monitor']}: a new model is not used, {reason}.")
        if row.get("not_ready", 0) > len(row.get("not_ready_why", ())):
            tables.note(f"{row['monitor']}: {row['not_ready']} series have no new model in all.")


def _left_out(by_monitor: dict[str, Any]) -> None:
    """Say which series a job had to leave out, and why."""
    for name, result in by_monitor.items():
        for why in result.get("left_out_why", ()):
            tables.note(f"{name}: left out, {why}")
        if result.get("left_out", 0) > len(result.get("left_out_why", ())):
            tables.note(f"{name}: {result['left_out']} series were left out in all.")


def _clipped(by_monitor: dict[str, Any]) -> None:
    """Say of which series a part of the span is not stored any more."""
    for name, result in by_monitor.items():
        if "clipped" in result:
            tables.note(f"{name}: {result['clipped']} series in part only: {result['clipped_why']}.")


def _changes(result: dict[str, Any], dry_run: bool) -> None:
    """Print which intervals appeared, changed and vanished, or would."""
    listed = [
        (what, name, *(change[column] for column in TOLD_OF_A_CHANGE))
        for name, outcome in result.items()
        for what in ("appear", "change", "vanish")
        for change in outcome[what]
    ]
    if listed:
        tables.table(listed, ("what", "monitor", *TOLD_OF_A_CHANGE))
    counts = [sum(row[0] == what for row in listed) for what in ("appear", "change", "vanish")]
    verb = (
        "would appear, {} change, {} vanish; nothing was written"
        if dry_run
        else "appeared, {} changed, {} vanished"
    )
    tables.say(f"{counts[0]} intervals " + verb.format(*counts[1:]) + ".")
