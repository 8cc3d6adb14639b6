"""Commands about stored points: delete those that should never have come."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.options import CONFIG, AsJson, ConfigPath, Now, app, opened, span, usage

points = typer.Typer(help="Delete points that should never have come.", no_args_is_help=True)
app.add_typer(points, name="points", rich_help_panel="At work")


@points.command("delete")
def delete(
    series: Annotated[str, typer.Option("--series", metavar="NAME", help="The series, as it is printed.")],
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="Start of the span (ISO 8601).")],
    stop: Annotated[str, typer.Option("--to", metavar="TIME", help="End of the span, not part of it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would come to.")] = False,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Delete the points of one series in a span, with the scores and intervals that follow from them."""
    from anomaly_service.points import delete

    a, b = span(start, stop, "--from", "--to")
    assert a is not None
    assert b is not None
    with usage(), opened(config, now, quiet=True) as service:
        done = delete(service.store, series, a, b, dry_run=dry_run)
    if as_json:
        tables.say(json.dumps([done], indent=1))
        return
    would = "Would delete" if dry_run else "Deleted"
    tables.say(
        f"{would} {done['points']} points of {series} and {done['held']} held back, with what follows from "
        f"them: {done['scores']} scores, {done['events']} intervals and {done['versions']} models."
    )
    newest = done["last_at"] or "there is none"
    tables.say(f"Its newest point {'would then be' if dry_run else 'now'}: {newest}.")
