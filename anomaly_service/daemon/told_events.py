"""What the log says of events: one plain sentence for each that appears, changes or ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import structlog

from anomaly_service import wording
from anomaly_service.db.events import Changed
from anomaly_service.db.store import SqlStore
from pipelines.failures import reason
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


class EventLog:
    """Logs what runs change, at info level; what is not in a run is a person's, who sees it anyway.

    Names are read once: a tick of very many targets commits part by part.
    """

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._targets: dict[int, TargetRow] = {}
        self._monitors: dict[int, str] = {}

    def tell(self, claim: Claim | None, changed: Sequence[Changed]) -> None:
        """Log what a commit changed. It stands already, so nothing that fails here fails its run."""
        if claim is None or claim.monitor_id is None:
            return
        log = structlog.get_logger("anomaly.daemon").bind(run=claim.run_id, kind=str(claim.kind))
        try:
            self._learn(claim.monitor_id, changed)
            for each in changed:
                if each.after.target_id in self._targets:
                    self._say(each, log.bind(monitor=self._monitors.get(claim.monitor_id)))
        except Exception as error:  # said: a log must not undo or repeat what is committed
            log.warning("Events changed that could not be told.", events=len(changed), error=reason(error))

    def _learn(self, monitor_id: int, changed: Sequence[Changed]) -> None:
        """Read the names of targets that were not met yet."""
        if not {each.after.target_id for each in changed} <= self._targets.keys():
            self._targets |= {target.id: target for target in self._store.targets(monitor_id)}
            self._monitors = {row.id: row.name for row in self._store.monitors()}

    def _say(self, each: Changed, log: structlog.typing.FilteringBoundLogger) -> None:
        target = self._targets[each.after.target_id]
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
