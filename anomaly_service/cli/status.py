"""How the service stands, in words for the person on call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from anomaly_service.cli.tables import duration

Json = dict[str, Any]
NAMED = 5
"""At most so many series are named in a line; the rest is counted."""


def status_lines(found: Json) -> Iterator[str]:
    """Yield the status as sentences."""
    now = found["now"]
    yield from _part_lines(found["parts"])
    reads = {read["source"]: read for read in found["reads"]}
    yield from (_source_line(source, now, reads.pop(source["source"], None)) for source in found["sources"])
    # One that has brought no series yet is in no view.
    yield from (f"Source {name}: no series yet.{_read_words(read, now)}" for name, read in reads.items())
    if not found["sources"]:
        yield "No points yet; run: anomaly ingest"
    yield from (_monitor_line(monitor) for monitor in found["monitors"])
    yield _run_line("tick", found["last_tick"], now)
    yield _run_line("night", found["last_nightly"], now)
    yield from _series_lines(found["series"])
    yield from _waiting_lines(found["waiting"])
    yield from _left_out_lines(found["left_out"])
    yield from _retry_lines(found["retried_runs"])
    yield from _failure_lines(found["failed_runs"])
    if not (found["left_out"] or found["retried_runs"] or found["failed_runs"]):
        yield "No run failed."


def _part_lines(parts: Sequence[Json]) -> Iterator[str]:
    """Yield what is wrong with parts of the service, those first without which detection does not happen."""
    for part in sorted(parts, key=lambda each: each["ready"]):
        if part["reason"]:
            what = "Note on" if part["ready"] else "NOT READY,"
            yield f"{what} {part['part']}: {part['reason']}. What to do: {part['mend']}."


def _source_line(source: Json, now: str, read: Json | None) -> str:
    rejected = source["rows_rejected"]
    problem = f"; {rejected:,} rows could not be read, see the rejects files" if rejected else ""
    newest = source["newest_at"]
    age = f"newest point {newest}, {_ago(newest, now)}" if newest else "no points yet"
    return f"Source {source['source']}: {source['series']} series, {age}{problem}.{_read_words(read, now)}"


def _read_words(read: Json | None, now: str) -> str:
    """Return when a source was read last, and what came of it; it follows another sentence."""
    words = ""
    last, at_work = (read["last"], read["at_work"]) if read else (None, None)
    if last and last["finished_at"]:
        words += f" Last read {last['finished_at']} ({_ago(last['finished_at'], now)})."
    if at_work:
        words += f" Being read since {at_work['started_at']} by {at_work['owner']}."
    if last and last["error"] and last["state"] != "done":
        words += f" The last read failed: {last['error']}"
    notes = (last["outcome"] or {}).get("notes", []) if last else []
    if notes:
        more = (
            f" And {len(notes) - NAMED} more; `anomaly runs --json` has them." if len(notes) > NAMED else ""
        )
        words += f" Of the last read: {'; '.join(notes[:NAMED])}.{more}"
    return words


def _monitor_line(monitor: Json) -> str:
    parts = [_counted(monitor["targets"], monitor["config"].get("channels", ()))]
    if monitor["learning"]:
        parts.append(f"{monitor['learning']} still learning")
    parts.append(f"{monitor['open_events']} intervals open")
    if monitor["scored_until"]:
        parts.append(f"scored until {monitor['scored_until']}")
    return f"Monitor {monitor['monitor']} ({monitor['detector']}): {', '.join(parts)}."


def _run_line(what: str, run: Json | None, now: str) -> str:
    if run is None:
        return f"No {what} yet; the daemon runs them: anomaly daemon"
    at = run["finished_at"]
    return f"Last {what} ended {at} ({_ago(at, now)}) and took {duration(run['duration_seconds'])}."


def _series_lines(series: Sequence[Json]) -> Iterator[str]:
    told = {
        "stale": "stopped: no point for more than three steps and the delay",
        "unscored": "unscored: points come and have no score; is `step` how often they come?",
        "learning": "learning: no model yet, `anomaly validate` says when",
        "empty": "empty: known, but without a single point",
        "unmonitored": "watched by no monitor",
    }
    for state, meaning in told.items():
        names = [row["series"] for row in series if row["state"] == state]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            yield f"{len(names)} series {meaning}: {', '.join(names[:NAMED])}{more}."
    yield from (_step_line(row) for row in series if row.get("seen_step_seconds", 0) > row["step_seconds"])


def _step_line(row: Json) -> str:
    seen, step = duration(row["seen_step_seconds"]), duration(row["step_seconds"])
    return (
        f"Points of {row['series']} come every {seen}, and `step` of source {row['source']} says {step}: "
        "correct it, and models are fitted anew at the next night."
    )


def _waiting_lines(waiting: Sequence[Json]) -> Iterator[str]:
    for row in waiting[:NAMED]:
        yield f"Monitor {row['monitor']} does not watch {row['target']}: {row['why']}."
    if len(waiting) > NAMED:
        yield f"{len(waiting) - NAMED} more are not watched; `anomaly validate --json` names them all."


def _left_out_lines(left_out: Sequence[Json]) -> Iterator[str]:
    for row in left_out[:NAMED]:
        yield (
            f"Left out of the {row['kind']} of {row['monitor']} that ended {row['finished_at']}: {row['why']}"
        )
    if len(left_out) > NAMED:
        yield f"{len(left_out) - NAMED} more were left out; `anomaly status --json` names them."


def _retry_lines(runs: Sequence[Json]) -> Iterator[str]:
    for run in runs[:NAMED]:
        yield (
            f"The {run['kind']} of {run['monitor'] or 'all monitors'} scheduled for {run['scheduled_for']} "
            f"failed and is tried again (attempts so far: {run['attempts']}): {run['error']}"
        )


def _failure_lines(runs: Sequence[Json]) -> Iterator[str]:
    if runs:
        last = runs[-1]
        yield (
            f"{len(runs)} runs failed, the last one ({last['kind']} of {last['monitor'] or 'all monitors'}, "
            f"scheduled for {last['scheduled_for']}): {last['error']}"
        )


def _ago(at: str, now: str) -> str:
    seconds = (datetime.fromisoformat(now) - datetime.fromisoformat(at)).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"{duration(-seconds)} ahead of now"


def validation_lines(found: Sequence[Json]) -> Iterator[str]:
    """Yield, for every monitor, what it watches and since when it can judge."""
    for monitor in found:
        targets, channels = monitor["targets"], monitor["channels"]
        yield f"Monitor {monitor['monitor']} ({monitor['detector']}): {_matched(targets, channels)}"
        yield from (f"  {line}" for line in _history(targets))


def _matched(targets: Sequence[Json], channels: Sequence[str]) -> str:
    if not targets:
        keys = "`series`, `channels` and `group_by`" if channels else "`series`"
        return f"no series match; check {keys} against `anomaly series`."
    steps = sorted({target["step_seconds"] for target in targets})
    every = " or ".join(duration(step) for step in steps)
    return f"{_counted(len(targets), channels)}, a point every {every}."


def _counted(targets: int, channels: Sequence[str]) -> str:
    """Return how many targets there are, and of what."""
    if not channels:
        return f"{targets} series"
    return f"{targets} target{'' if targets == 1 else 's'} of {', '.join(channels)}"


def _history(targets: Sequence[Json]) -> Iterator[str]:
    waiting = [target for target in targets if target["state"] == "waiting"]
    targets = [target for target in targets if target["state"] != "waiting"]
    known = [target for target in targets if target["first_at"]]
    if known:
        first, last = min(t["first_at"] for t in known), max(t["last_at"] for t in known)
        yield f"History from {first} to {last}."
    learning = [target for target in known if target["state"] == "learning"]
    ready = len(known) - len(learning)
    if ready:
        yield f"Ready: {ready}."
    due = [target for target in learning if target["ready_by"] <= target["last_at"]]
    if due:
        yield f"Without a model yet: {len(due)}; `anomaly backfill`, or the daemon's next night, fits theirs."
    if len(due) < len(learning):
        dates = sorted(target["ready_by"] for target in learning if target not in due)
        by = dates[0] if dates[0] == dates[-1] else f"between {dates[0]} and {dates[-1]}"
        yield f"Learning: {len(dates)}; their first models can be fitted {by}."
    if len(known) < len(targets):
        yield f"Without a single point: {len(targets) - len(known)}."
    yield from (f"Not watched: {target['target']}: {target['why']}." for target in waiting)
