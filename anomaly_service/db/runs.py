"""Runs: who works on what, decided by the database alone.

A claim is a row taken by one UPDATE with a lease on the database's clock and a fence, a number that
grows with every claim. Whoever was frozen past the lease finds another fence, or a lapsed lease, and
cannot commit. Runs of the same monitor, or of the same source, never run side by side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Exists,
    Select,
    and_,
    case,
    exists,
    false,
    func,
    null,
    or_,
    select,
    text,
    update,
)

from anomaly_service.db.engine import db_now
from anomaly_service.db.sql import add_one, upsert
from anomaly_service.db.tables import Run
from pipelines.errors import BusySourceError, LostClaimError
from pipelines.names import RunKind, RunState
from pipelines.records import Claim, Json, LastRead, Moment, PastRun
from pipelines.times import iso

# Any number: claims queue for a moment, so that two cannot take two runs of one monitor.
_CLAIM_LOCK = 7_236_002

COMMAND = "command"
"""Who owns the work of a person's command."""

WAITING, RUNNING, FAILED = RunState.WAITING.value, RunState.RUNNING.value, RunState.FAILED.value

LONGEST_LEASE_SECONDS = 7200.0
"""A lease or a pause that ends later than so long from now is none: the clock was ahead when it began."""

FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0
"""Before a night whose attempts are used up is tried again, doubling from the first to the longest."""

BESIDE = {RunKind.TICK.value: RunKind.NIGHTLY.value, RunKind.NIGHTLY.value: RunKind.TICK.value}
"""Which two kinds of one monitor may be at work at once; what keeps them apart are its models, see
``pipelines.store.Batch``."""

LOST_SECONDS = 60.0
"""A run at work that nobody took so long after its lease ended is lost: there is nobody to take it."""

KEY = ("kind", "monitor_key", "source", "scheduled_for")
"""What tells two runs apart."""
CLAIMED = (
    Run.id,
    Run.kind,
    Run.monitor_id,
    Run.source,
    Run.scheduled_for,
    Run.owner,
    Run.fence,
    Run.attempts,
)


def schedule(
    connection: Connection, kind: RunKind, monitor_id: int | None, scheduled_for: datetime, source: str
) -> bool:
    """Add a waiting run; False where it exists."""
    row = _new(connection, kind, monitor_id, source, scheduled_for)
    return add_one(connection, Run, {**row, "state": WAITING, "owner": "", "attempts": 0}, KEY)


def _new(
    connection: Connection, kind: RunKind, monitor_id: int | None, source: str, at: datetime
) -> dict[str, Any]:
    """Return what every new run begins with."""
    return {
        "kind": RunKind(kind).value,
        "monitor_id": monitor_id,
        "monitor_key": monitor_id or 0,
        "source": source,
        "scheduled_for": _seconds(at),
        "fence": 0,
        "created_at": connection.scalar(select(db_now())),
        "error": "",
    }


def claim(
    connection: Connection,
    owner: str,
    lease_seconds: float,
    kinds: Sequence[RunKind],
    besides: Collection[int],
    max_attempts: int,
    until: datetime | None,
) -> Claim | None:
    """Take the oldest run that waits or whose lease lapsed; None where there is none to take."""
    _queue(connection)
    _give_up(connection, max_attempts)
    statement = (
        update(Run)
        .where(Run.id == _next(kinds, besides, until).with_for_update(skip_locked=True).scalar_subquery())
        .values(**_taken(owner, lease_seconds), attempts=Run.attempts + 1)
        .returning(*CLAIMED)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else _claim(row)


def is_any(
    connection: Connection, kinds: Sequence[RunKind], besides: Collection[int], until: datetime | None
) -> bool:
    """True where a claim would take a run, or find one whose every attempt lapsed."""
    lapsed = select(Run.id).where(Run.state == RUNNING, ~_holds(Run)).limit(1)
    return any(connection.scalar(query) is not None for query in (lapsed, _next(kinds, besides, until)))


def begin_read(connection: Connection, source: str, at: datetime, owner: str, lease_seconds: float) -> Claim:
    """Add a read of a source that is at work at once.

    One of the same moment, which had ended, begins again under a new fence.

    Raises:
        BusySourceError: somebody reads that source.
    """
    _queue(connection)
    of_source = (Run.kind == RunKind.INGEST.value, Run.monitor_key == 0, Run.source == source)
    at_work = select(Run.owner, Run.started_at).where(*of_source, Run.state == RUNNING)
    busy = connection.execute(at_work.where(_holds(Run))).first()
    if busy is not None:
        raise BusySourceError(
            f"source {source} is being read by {busy.owner} since {iso(_moment(busy.started_at))}; "
            "`anomaly status` says what comes of it"
        )
    schedule(connection, RunKind.INGEST, None, at, source)
    anew = {**_taken(owner, lease_seconds), "attempts": 1, "error": "", "outcome": null()}
    mine = update(Run).where(*of_source, Run.scheduled_for == _seconds(at)).values(**anew)
    return _claim(connection.execute(mine.returning(*CLAIMED)).one())


def _queue(connection: Connection) -> None:
    """Wait for whoever claims at this moment; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CLAIM_LOCK})


def _taken(owner: str, lease_seconds: float) -> dict[str, Any]:
    """Return what a run has from the moment on at which somebody takes it."""
    return {
        "state": RUNNING,
        "owner": owner,
        "fence": Run.fence + 1,
        "lease_until": db_now() + lease_seconds,
        "started_at": db_now(),
        "finished_at": None,
        "retry_at": None,
    }


def _next(kinds: Sequence[RunKind], besides: Collection[int], until: datetime | None) -> Select[Any]:
    other = Run.__table__.alias()
    busy = _of_the_same(other).where(other.c.state == RUNNING, _holds(other.c), ~_beside(other))
    lapsed = and_(Run.state == RUNNING, ~_holds(Run))
    query = select(Run.id).where(or_(Run.state == WAITING, lapsed, _to_be_retried(until)), ~busy)
    if until is not None:
        query = query.where(Run.scheduled_for <= _seconds(until))
    if besides:
        query = query.where(~_of_the_same(other).where(other.c.id.in_(sorted(besides))))
    query = query.order_by(Run.scheduled_for, Run.id).limit(1)
    if kinds:
        query = query.where(Run.kind.in_([RunKind(kind).value for kind in kinds]))
    return query


def _of_the_same(other: Any) -> Exists:
    """True of a run beside which the other table has one of the same monitor or source."""
    return exists().where(other.c.monitor_key == Run.monitor_key, other.c.source == Run.source)


def _beside(other: Any) -> ColumnElement[bool]:
    """True where a run and the other, of the same monitor, may be at work at once."""
    return or_(*(and_(Run.kind == one, other.c.kind == two) for one, two in BESIDE.items()))


def _holds(of: Any) -> ColumnElement[bool]:
    """True while a lease lasts."""
    return and_(of.lease_until > db_now(), of.lease_until <= db_now() + LONGEST_LEASE_SECONDS)


def _to_be_retried(until: datetime | None) -> ColumnElement[bool]:
    """True of what failed once its pause is over, until the next of its kind is there."""
    later = Run.__table__.alias()
    newer = exists().where(
        later.c.kind == Run.kind,
        later.c.monitor_key == Run.monitor_key,
        later.c.scheduled_for > Run.scheduled_for,
        *([] if until is None else [later.c.scheduled_for <= _seconds(until)]),
    )
    over = or_(Run.retry_at <= db_now(), Run.retry_at > db_now() + LONGEST_LEASE_SECONDS)
    return and_(Run.state == FAILED, over, ~newer)


def _give_up(connection: Connection, max_attempts: int) -> None:
    """Fail runs whose every attempt ended with a lapsed lease: they take the daemon down with them."""
    lapsed = select(Run.id, Run.kind, Run.attempts).where(
        Run.state == RUNNING, ~_holds(Run), Run.attempts >= max_attempts
    )
    for row in connection.execute(lapsed).all():
        error = f"given up after {row.attempts} attempts, each of which stopped answering before it ended"
        connection.execute(
            update(Run)
            .where(Run.id == row.id)
            .values(
                state=FAILED,
                finished_at=db_now(),
                error=_keep(error),
                lease_until=None,
                retry_at=_retry_at(RunKind(row.kind), row.attempts, max_attempts),
            )
        )


def _retry_at(kind: RunKind, attempts: int, max_attempts: int) -> ColumnElement[float] | None:
    """Return when a run whose attempts are used up is tried again: a night, as its next is a day away."""
    if kind is not RunKind.NIGHTLY:
        return None
    pause = FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - max_attempts, 10)
    return db_now() + min(pause, LONGEST_PAUSE_SECONDS)


def _keep(error: str) -> ColumnElement[str]:
    """Put the error behind what an earlier attempt left."""
    return case((Run.error == "", error), else_=Run.error + "; " + error)


def _claim(row: Any) -> Claim:
    return Claim(
        run_id=row.id,
        kind=RunKind(row.kind),
        monitor_id=row.monitor_id,
        scheduled_for=_moment(row.scheduled_for),
        owner=row.owner,
        fence=row.fence,
        attempts=row.attempts,
        source=row.source,
    )


def check(connection: Connection, claim: Claim | None) -> None:
    """Refuse to go on for a claim that was lost, and keep others from taking it until the commit.

    Raises:
        LostClaimError: the lease lapsed or the run has another fence.
    """
    if claim is None:
        return
    query = select(Run.fence, Run.state, _holds(Run).label("holds"))
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

    A night is tried again even so, after a pause. Allowed after the lease lapsed as long as nobody took the
    run: its work is committed already.
    """
    retry_at = None
    if state is RunState.WAITING and claim.attempts >= max_attempts:
        state, error = RunState.FAILED, f"given up after {claim.attempts} attempts: {error}"
        retry_at = _retry_at(claim.kind, claim.attempts, max_attempts)
    statement = update(Run).where(*_still(claim))
    values = {"state": RunState(state).value, "outcome": outcome, "error": error, "retry_at": retry_at}
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
        **_new(connection, kind, monitor_id, "", at),
        "state": RunState(state).value,
        "owner": COMMAND,
        "attempts": 1,
        "started_at": now - seconds,
        "finished_at": now,
        "outcome": outcome,
        "error": error,
    }
    upsert(connection, Run, [row], KEY)


def _still(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return Run.id == claim.run_id, Run.fence == claim.fence, Run.state == RUNNING


def probe(connection: Connection) -> None:
    """Write nothing, in a statement that a database refuses where it takes no writes."""
    connection.execute(update(Run).where(false()).values(error=""))


def last(
    connection: Connection, kind: RunKind, monitor_id: int | None, until: datetime | None
) -> datetime | None:
    """Return the newest time for which such a run was scheduled until then, whatever became of it."""
    query = select(func.max(Run.scheduled_for)).where(
        Run.kind == RunKind(kind).value, Run.monitor_key == (monitor_id or 0)
    )
    if until is not None:
        query = query.where(Run.scheduled_for <= _seconds(until))
    found = connection.scalar(query)
    return None if found is None else _moment(found)


def last_read(connection: Connection, source: str, until: datetime) -> LastRead:
    """Return what became of the newest reads of a source that were scheduled until then."""
    reads = (
        select(Run.scheduled_for)
        .where(
            Run.kind == RunKind.INGEST.value,
            Run.monitor_key == 0,
            Run.source == source,
            Run.scheduled_for <= _seconds(until),
        )
        .order_by(Run.scheduled_for.desc())
        .limit(1)
    )
    pending = Run.state.in_([WAITING, RUNNING])
    newest = connection.scalar(reads)
    tried = connection.scalar(reads.where(or_(~pending, Run.error != "")))
    return LastRead(
        None if newest is None else _moment(newest),
        None if tried is None else _moment(tried),
        connection.scalar(reads.where(pending)) is not None,
    )


def past(
    connection: Connection, kind: RunKind, monitor_id: int | None, source: str, until: datetime, limit: int
) -> list[PastRun]:
    """Return the newest runs of a kind, of one monitor or source, that were scheduled until then."""
    query = (
        select(Run.scheduled_for, Run.state, Run.error)
        .where(
            Run.kind == RunKind(kind).value,
            Run.monitor_key == (monitor_id or 0),
            Run.source == source,
            Run.scheduled_for <= _seconds(until),
        )
        .order_by(Run.scheduled_for.desc())
        .limit(limit)
    )
    return [
        PastRun(_moment(row.scheduled_for), RunState(row.state), row.error)
        for row in connection.execute(query)
    ]


def moment(connection: Connection) -> Moment:
    """Return the clock, the latest time that a run is scheduled for, and how many lost their lease."""
    wall = connection.scalar(select(db_now())) or 0.0
    until = connection.scalar(select(func.max(Run.scheduled_for)))
    lapsed = (Run.state == RUNNING, Run.lease_until <= wall - LOST_SECONDS)
    lost = connection.scalar(select(func.count()).where(*lapsed)) or 0
    return Moment(_moment(wall), None if until is None else _moment(until), lost)


def _seconds(moment: datetime) -> float:
    if moment.tzinfo is None:
        raise ValueError(f"expected an aware datetime, got {moment.isoformat()}; give it a time zone")
    return moment.timestamp()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)
