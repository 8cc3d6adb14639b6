"""What the log says of events: one plain sentence for each that appears, changes or ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum

import structlog

from anomaly_service import wording
from anomaly_service.db.events import Changed
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import UnavailableError
from pipelines.names import Status
from pipelines.records import Claim, Event, Json, TargetRow, Turn
from pipelines.times import iso_seconds

STANDING = (Status.OPEN, Status.CLOSED)


class Change(StrEnum):
    """What happened to an event that is worth a line."""

    APPEARED = "appeared"
    CHANGED = "changed"
    ENDED = "ended"
    WITHDRAWN = "withdrawn"
    """Another look found it below the line."""
    MERGED = "merged"
    """It is part of another by now."""


BEGINNINGS = {
    Change.APPEARED: "New",
    Change.CHANGED: "Changed",
    Change.ENDED: "Over",
    Change.WITHDRAWN: "Withdrawn",
    Change.MERGED: "Part of another",
}


def tell(store: SqlStore, claim: Claim | None, changed: Sequence[Changed]) -> None:
    """Log what a run changed, at info level; what is not in a run is a person's, who sees it anyway."""
    if claim is None or claim.monitor_id is None:
        return
    # What is told here stands already: a database that is away by now fails the next thing, not this one.
    with suppress(UnavailableError):
        targets = {target.id: target for target in store.targets(claim.monitor_id)}
        monitor = next((row.name for row in store.monitors() if row.id == claim.monitor_id), None)
        log = structlog.get_logger("anomaly.daemon").bind(
            run=claim.run_id, kind=str(claim.kind), monitor=monitor
        )
        for each in changed:
            target = targets[each.after.target_id]
            change = change_of(each, target)
            if change is not None:
                more = {"why": each.why} if each.why else {}
                score = round(each.after.interval.peak_score, 3)
                said = f"{BEGINNINGS[change]}: {said_of(each.after, target)}."
                log.info(said, change=str(change), event_id=each.after.id, score=score, **more)


def tell_of_source(turn: Turn, claim: Claim) -> None:
    """Log that a source stopped as a whole, which is no event of any of its series, or delivers again."""
    since = f"{wording.local(turn.since, None):%Y-%m-%d %H:%M} (UTC)"
    if turn.is_back:
        change, said = Change.ENDED, f"source {turn.source} delivers again, after no data since {since}"
    else:
        change, said = Change.APPEARED, f"source {turn.source} stopped: no data of any series since {since}"
    log = structlog.get_logger("anomaly.daemon").bind(run=claim.run_id, kind=str(claim.kind))
    log.info(f"{BEGINNINGS[change]}: {said}.", change=str(change), source=turn.source)


def change_of(changed: Changed, target: TargetRow) -> Change | None:
    """Return what happened to an event; None where nothing did that its sentence would say."""
    before, after = changed.before, changed.after
    stood = before is not None and before.status in STANDING
    if after.status not in STANDING:
        gone = Change.MERGED if after.status is Status.MERGED else Change.WITHDRAWN
        return gone if stood else None
    if before is None or not stood:
        return Change.APPEARED
    if before.status is Status.OPEN and after.status is Status.CLOSED:
        return Change.ENDED
    if changed.goes_on or said_of(before, target) == said_of(after, target):
        return None
    return Change.CHANGED


def said_of(event: Event, target: TargetRow) -> str:
    """Return what a colleague would say of an event, without a full stop."""
    return wording.sentence(_row(event, target))


def _row(event: Event, target: TargetRow) -> Json:
    """Return an event as the view ``flagged_intervals`` has it, as far as a sentence needs it."""
    found, (start, end) = event.interval, event.ends
    return {
        "kind": found.kind,
        "series": target.key,
        "y_at_peak": _known(found.y_at_peak),
        "yhat_at_peak": _known(found.yhat_at_peak),
        "direction": found.direction,
        "channel": found.channel,
        "channel_shares": found.shares,
        "start_ts": start,
        "end_ts": end,
        "duration_seconds": end - start + target.step_seconds,
        "peak_at": iso_seconds(found.peak_at),
        "status": event.status,
        "timezone": target.timezone,
    }


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
