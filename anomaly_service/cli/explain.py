"""The command that says why an interval was flagged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_service import wording
from anomaly_service.cli import similar, tables
from anomaly_service.cli.options import CONFIG, AsJson, ConfigPath, Event, Now, app, opened, whole

if TYPE_CHECKING:
    from anomaly_service.insight.explain import Explanation

PARTS = {"window": "its window as a whole", "level": "the level of its window", "step": "the step itself"}
"""What a Gaussian joins to its score, in words."""

ALONE = ("detector", "window", "view", "raw_score")
TOGETHER = ("detector", "finds", "window", "view", "score", "share")
"""Columns for the one model of a version, and for several whose scores are brought to one scale."""


@app.command(rich_help_panel=similar.PANEL)
def explain(
    event: Event,
    n: Annotated[
        int, typer.Option("-n", parser=whole(1), help="How many of the nearest events and windows.")
    ] = 3,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Say why an interval was flagged: which model spoke, what it expected, and what is like it."""
    from anomaly_service.insight import explain as why

    with opened(config, now) as service:
        found = why.explain(service, event, n)
    if as_json:
        tables.say(json.dumps(_plain(found), indent=1))
        return
    for line in _lines(found):
        tables.say(line)
    _tables(found)
    for note in found.notes:
        tables.note(note)
    similar.print_similar(found.similar)


def _plain(found: Explanation) -> dict[str, Any]:
    """Return the explanation as JSON holds it."""
    return {**asdict(found), "similar": similar.plain(found.similar)}


def _lines(found: Explanation) -> Iterator[str]:
    """Yield what can be said in sentences, the most important first."""
    yield f"{wording.sentence(found.event)}."
    yield similar.heading(found.event)
    if found.rule is not None:
        yield found.rule
    if found.score is not None:
        yield f"Score {found.score['anomaly_score']:.3g}, where 1 is the line. {found.score['words']}"
    if found.where is not None:
        yield _leader(found.members[0], found.where)
    if found.parts is not None:
        shares = sorted(found.parts.items(), key=lambda part: -part[1])
        yield f"Of its score, {', '.join(f'{share:.0%} is {PARTS[name]}' for name, share in shares)}."


def _leader(member: dict[str, Any], where: dict[str, Any]) -> str:
    """Return who speaks, and where most."""
    span = f"at {where['start_at']}"
    if where["steps"] > 1:
        span = f"from {where['start_at']} to {where['end_at']}, {where['steps']} steps"
    if member["score"] is None:
        return f"{member['detector']} is highest {span}."
    finds = f" ({member['finds']})" if member["finds"] else ""
    return f"{member['share']:.0%} of it comes from {member['detector']}{finds}, which is highest {span}."


def _tables(found: Explanation) -> None:
    if found.members:
        alone = found.members[0]["score"] is None
        _table(found.members, ALONE if alone else TOGETHER, "What each model said")
    if len(found.channels) > 1:
        _table(found.channels, ("series", "share"), "What each series has of it")
    if found.expected:
        columns = ("moment", "at", "series", "y", "yhat", "yhat_lower", "yhat_upper")
        _table(found.expected, columns, "Seen and expected")


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...], title: str) -> None:
    tables.say("")
    shown = [{**row, "share": f"{row['share']:.0%}"} if row.get("share") is not None else row for row in rows]
    tables.table([[row[name] for name in columns] for row in shown], columns, title=title)
