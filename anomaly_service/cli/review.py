"""Commands about what people say of flagged intervals: review, add, undo."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.options import (
    CONFIG,
    FIRST_STEPS,
    AsJson,
    ConfigPath,
    Event,
    Now,
    app,
    moment,
    opened,
    usage,
)

if TYPE_CHECKING:
    from anomaly_service.reviews import Done

PANEL = "What people say"
VERDICTS = ("confirmed", "expected", "false_positive", "new_trend", "unsure")

Cause = Annotated[str, typer.Option("--cause", help="What it was, in a word or two.")]
Comment = Annotated[str, typer.Option("--comment", help="Anything the next reader should know.")]
By = Annotated[str, typer.Option("--by", envvar="USER", help="Who says so.")]


@app.command(rich_help_panel=FIRST_STEPS)
def review(
    event: Event,
    verdict: Annotated[str | None, typer.Argument(metavar="VERDICT", help=", ".join(VERDICTS) + ".")] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Move its first step here (ISO 8601).")
    ] = None,
    stop: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Move its last step here; it belongs to it.")
    ] = None,
    cause: Cause = "",
    comment: Comment = "",
    by: By = "",
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Judge a flagged interval or move its borders; nothing is overwritten, and no rescoring loses it."""
    from anomaly_service import reviews

    with usage(), opened(config, now, quiet=True) as service:
        done = reviews.judge(
            service.store,
            event,
            verdict,
            now=service.now,
            start=moment(start, "--from"),
            end=moment(stop, "--to"),
            cause=cause,
            comment=comment,
            by=by,
        )
    told = f"{verdict}{f' ({cause})' if cause else ''}" if verdict else "borders moved"
    _print(done, f"Event {event}: {told}{_borders(done.row) if start or stop else ''}.", as_json)


@app.command(rich_help_panel=PANEL)
def add(
    series: Annotated[str, typer.Argument(metavar="SERIES", help="The series, as it is printed.")],
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="Its first step (ISO 8601).")],
    stop: Annotated[str, typer.Option("--to", metavar="TIME", help="Its last step, which belongs to it.")],
    verdict: Annotated[str, typer.Option("--verdict", help=", ".join(VERDICTS) + ".")] = "confirmed",
    monitor: Annotated[
        str | None, typer.Option("--monitor", "-m", help="Whose it is to be; the only one that watches it.")
    ] = None,
    cause: Cause = "",
    comment: Comment = "",
    by: By = "",
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Add an interval that was missed; it is learned from as if it had been flagged."""
    from anomaly_service import reviews

    first, last = moment(start, "--from"), moment(stop, "--to")
    assert first is not None
    assert last is not None
    with usage(), opened(config, now, quiet=True) as service:
        done = reviews.add(
            service.store,
            series,
            first,
            last,
            verdict,
            now=service.now,
            monitor=monitor,
            declared=service.config.monitor_specs(),
            cause=cause,
            comment=comment,
            by=by,
        )
    verb = "added to" if done.is_new else "stands already in"
    _print(done, f"Event {done.event_id} {verb} {series}: {verdict}{_borders(done.row)}.", as_json)


@app.command(rich_help_panel=PANEL)
def undo(
    event: Event,
    comment: Comment = "",
    by: By = "",
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Take back the newest verdict, border or addition of an interval; twice takes back two."""
    from anomaly_service import reviews

    with opened(config, now, quiet=True) as service:
        done = reviews.undo(service.store, event, comment=comment, by=by)
    _print(done, f"Event {event}: took back {_act(done.undone or {})}. {_what_is_left(done.row)}", as_json)


def _print(done: Done, told: str, as_json: bool) -> None:
    """Print what was done in a sentence, or as JSON the rows of the event, one at most."""
    tables.say(json.dumps([done.row] if done.row else [], indent=1) if as_json else told)


def _borders(row: dict[str, Any] | None) -> str:
    return "" if row is None else f", from {row['start_at']} to {row['end_at']}"


def _act(row: dict[str, Any]) -> str:
    """Return an act in words.

    >>> _act({"act": "verdict", "verdict": "expected", "by": "ann", "start_ts": None, "end_ts": 60})
    'the verdict expected and the moved borders of ann'
    """
    moved = "" if row["start_ts"] is None and row["end_ts"] is None else " and the moved borders"
    what = {
        "verdict": f"the verdict {row['verdict']}{moved}",
        "borders": "the moved borders",
        "add": f"the addition ({row['verdict']})",
    }[row["act"]]
    return f"{what} of {row['by']}" if row["by"] else what


def _what_is_left(row: dict[str, Any] | None) -> str:
    if row is None:
        return "No score reaches it, so it is no longer listed; its history stays."
    judged = row["review_verdict"]
    return f"It is now {judged}{_borders(row)}." if judged else f"Nobody has judged it now{_borders(row)}."
