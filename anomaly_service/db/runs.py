"""Runs: who works on what, decided by the database alone.

A claim is a row taken by one UPDATE with a lease on the database's clock and a fence, a number that
grows with every claim. Whoever was frozen past the lease finds another fence, or a lapsed lease, and
cannot commit. Runs of the same monitor never run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, exists, func, or_, select, text, update

from anomaly_service.db.engine import db_now
from anomaly_service.db.sql import add_one, upsert
from anomaly_service.db.tables import Run
from pipelines.errors import LostClaimError
from pipelines.names import RunKind, RunState
from pipelines.records import Claim, Json

# Any number: claims queue for a moment, so that two cannot take two runs of one monitor.
_CLAIM_LOCK = 7_236_002

COMMAND = "command"
"""Who owns the work of a person's command."""

WAITING, RUNNING = RunState.WAITING.value, RunState.RUNNING.value


def schedule(connection: Connection, kind: RunKind, monitor_id: int | None, scheduled_for: datetime) -> bool:
    """Add a waiting run; False where it exists."""
    row = {
        "kind": RunKind(kind).value,
        "monitor_id": monitor_id,
        "monitor_key": monitor_id or 0,
        "scheduled_for": _seconds(scheduled_for),
        "state": WAITING,
        "owner": "",
        "fence": 0,
        "attempts": 0,
        "created_at": connection.scalar(select(db_now())),
        "error": "",
    }
    return add_one(connection, Run, row, ["kind", "monitor_key", "scheduled_for"])


def claim(
    connection: Connection, owner: str, lease_seconds: float, kinds: Sequence[RunKind], max_attempts: int
) -> Claim | None:
    """Take the oldest run that waits or whose lease lapsed; None where there is none to take."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CLAIM_LOCK})
    _give_up(connection, max_attempts)
    statement = (
        update(Run)
        .where(Run.id == _next(kinds).scalar_subquery())
        .values(
            state=RUNNING,
            owner=owner,
            fence=Run.fence + 1,
            attempts=Run.attempts + 1,
            lease_until=db_now() + lease_seconds,
            started_at=db_now(),
            finished_at=None,
        )
        .returning(Run.id, Run.kind, Run.monitor_id, Run.scheduled_for, Run.fence, Run.attempts)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else _claim(row, owner)


def _next(kinds: Sequence[RunKind]) -> Select[Any]:
    other = Run.__table__.alias()
    busy = exists().where(
        other.c.monitor_key == Run.monitor_key,
        other.c.state == RUNNING,
        other.c.lease_until > db_now(),
    )
    free = or_(Run.state == WAITING, and_(Run.state == RUNNING, Run.lease_until <= db_now()))
    query = select(Run.id).where(free, ~busy).order_by(Run.scheduled_for, Run.id).limit(1)
    if kinds:
        query = query.where(Run.kind.in_([RunKind(kind).value for kind in kinds]))
    return query.with_for_update(skip_locked=True)


def _give_up(connection: Connection, max_attempts: int) -> None:
    """Fail runs whose every attempt ended with a lapsed lease: they take the daemon down with them."""
    error = f"given up after {max_attempts} attempts, each of which stopped answering before it ended"
    connection.execute(
        update(Run)
        .where(Run.state == RUNNING, Run.lease_until <= db_now(), Run.attempts >= max_attempts)
        .values(state=RunState.FAILED.value, finished_at=db_now(), error=_keep(error), lease_until=None)
    )


def _keep(error: str) -> ColumnElement[str]:
    """Put the error behind what an earlier attempt left."""
    return case((Run.error == "", error), else_=Run.error + "; " + error)


def _claim(row: Any, owner: str) -> Claim:
    return Claim(
        run_id=row.id,
        kind=RunKind(row.kind),
        monitor_id=row.monitor_id,
        scheduled_for=_moment(row.scheduled_for),
        owner=owner,
        fence=row.fence,
        attempts=row.attempts,
    )


def check(connection: Connection, claim: Claim | None) -> None:
    """Refuse to go on for a claim that was lost, and keep others from taking it until the commit.

    Raises:
        LostClaimError: the lease lapsed or the run has another fence.
    """
    if claim is None:
        return
    query = select(Run.fence, Run.state, (Run.lease_until > db_now()).label("holds"))
    row = connection.execute(query.where(Run.id == claim.run_id).with_for_update()).one_or_none()
    if row is None or row.fence != claim.fence or row.state != RUNNING or not row.holds:
        raise _lost(claim)


def _lost(claim: Claim) -> LostClaimError:
    return LostClaimError(
        f"{claim.owner} no longer holds run {claim.run_id} ({claim.kind}): its lease ended and another may "
        "have taken it; nothing was written, drop this work and claim again"
    )


def heartbeat(connection: Connection, claim: Claim, lease_seconds: float) -> None:
    check(connection, claim)
    connection.execute(update(Run).where(Run.id == claim.run_id).values(lease_until=db_now() + lease_seconds))


def finish(
    connection: Connection, claim: Claim, state: RunState, outcome: Json, error: str, max_attempts: int
) -> None:
    """End a run; ``WAITING`` asks for another attempt, which is refused after the last one.

    Allowed after the lease lapsed as long as nobody took the run: its work is committed already.
    """
    if state is RunState.WAITING and claim.attempts >= max_attempts:
        state, error = RunState.FAILED, f"given up after {max_attempts} attempts: {error}"
    statement = update(Run).where(*_still(claim))
    values = {"state": RunState(state).value, "outcome": outcome, "error": error}
    done = connection.execute(statement.values(**values, lease_until=None, finished_at=db_now()))
    if done.rowcount != 1:
        raise _lost(claim)


def give_back(connection: Connection, claim: Claim) -> None:
    """Make the run waiting again; the attempt does not count."""
    values = {"state": WAITING, "owner": "", "lease_until": None, "attempts": Run.attempts - 1}
    if connection.execute(update(Run).where(*_still(claim)).values(**values)).rowcount != 1:
        raise _lost(claim)


def note(
    connection: Connection,
    kind: RunKind,
    monitor_id: int,
    at: datetime,
    state: RunState,
    outcome: Json,
    error: str,
    seconds: float,
) -> None:
    """Put work that nobody claimed, a person's command, among the runs as one that ended just now."""
    now = connection.scalar(select(db_now())) or 0.0
    row = {
        "kind": RunKind(kind).value,
        "monitor_id": monitor_id,
        "monitor_key": monitor_id,
        "scheduled_for": _seconds(at),
        "state": RunState(state).value,
        "owner": COMMAND,
        "fence": 0,
        "attempts": 1,
        "created_at": now,
        "started_at": now - seconds,
        "finished_at": now,
        "outcome": outcome,
        "error": error,
    }
    upsert(connection, Run, [row], ["kind", "monitor_key", "scheduled_for"])


def _still(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return Run.id == claim.run_id, Run.fence == claim.fence, Run.state == RUNNING


def last(connection: Connection, kind: RunKind, monitor_id: int | None) -> datetime | None:
    """Return the newest time for which such a run was scheduled, whatever became of it."""
    query = select(func.max(Run.scheduled_for)).where(
        Run.kind == RunKind(kind).value, Run.monitor_key == (monitor_id or 0)
    )
    found = connection.scalar(query)
    return None if found is None else _moment(found)


def _seconds(moment: datetime) -> float:
    if moment.tzinfo is None:
        raise ValueError(f"expected an aware datetime, got {moment.isoformat()}; give it a time zone")
    return moment.timestamp()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)
