"""The command that asks whether a flagged interval was seen before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.options import CONFIG, AsJson, ConfigPath, Event, Now, app, opened, whole

if TYPE_CHECKING:
    from anomaly_service.insight.similar import Similar

PANEL = "Lists"
SPACES = ("features", "latent")
EVENTS = (
    "event_id", "series", "start_at", "duration", "direction", "distance", "verdict", "cause", "comment",
)  # fmt: skip
WINDOWS = ("start_at", "end_at", "distance", "event_id", "direction", "verdict", "cause", "comment")


@app.command(rich_help_panel=PANEL)
def similar(
    event: Event,
    n: Annotated[int, typer.Option("-n", parser=whole(1), help="How many of each.")] = 10,
    within: Annotated[
        str | None,
        typer.Option("--in", metavar="SPACE", help="Only events (features), or only windows (latent)."),
    ] = None,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a flagged interval was seen before: the nearest events, and past windows of its series."""
    if within is not None and within not in SPACES:
        raise typer.BadParameter(f"--in must be one of {', '.join(SPACES)}; got {within!r}")
    from anomaly_service.insight import similar as near

    with opened(config, now) as service:
        found = near.find(service, event, n, within=within)
    if as_json:
        tables.say(json.dumps({"event": found.event, **plain(found)}, indent=1))
    else:
        tables.say(f"{heading(found.event)} A distance of 1 is usual, 0 is a copy.")
        print_similar(found)


def plain(found: Similar) -> dict[str, Any]:
    """Return all that is near as JSON holds it."""
    lists = {"events": found.events, "windows": found.windows}
    return {
        **{
            name: rows and [{k: tables.plain(v) for k, v in r.items()} for r in rows]
            for name, rows in lists.items()
        },
        "agreement": found.agreement,
        "notes": found.notes,
    }


def heading(event: dict[str, Any]) -> str:
    """Return which event it is, as a sentence, from its row of ``flagged_intervals``."""
    return (
        f"Event {event['event_id']}: {event['series']}, {event['kind']} {event['start_at']}, "
        f"{tables.duration(event['duration_seconds'])}."
    )


def print_similar(found: Similar) -> None:
    """Print what is near, the events first, and in the end what their reviews come to."""
    event = found.event
    if found.events:
        _table(found.events, EVENTS, f"Nearest events of monitor {event['monitor']}")
    if found.windows:
        _table(found.windows, WINDOWS, "Nearest windows of the series before it")
    for note in found.notes:
        tables.note(note)
    if found.agreement:
        tables.say(f"\n{found.agreement}")


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], title: str) -> None:
    tables.say("")
    shown = [
        {
            **row,
            "distance": f"{row['distance']:.2f}",
            "duration": tables.duration(row.get("duration_seconds")),
            "verdict": row["review_verdict"],
            "cause": row["review_cause"],
        }
        for row in rows
    ]
    tables.table([[row.get(name) for name in columns] for row in shown], columns, title=title)
