"""One claimed run: its lease is kept, its work done, and it is settled whatever comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog

from anomaly_service.daemon.patience import Patience
from anomaly_service.daemon.progress import Progress
from anomaly_service.daemon.telemetry import Telemetry, log_failure
from anomaly_service.daemon.workload import Workload
from anomaly_service.db.lease import Lease
from anomaly_service.errors import DatabaseReplacedError, DatabaseUnavailableError, LeavingError
from anomaly_service.outcomes import left_out
from pipelines.errors import LostClaimError, StoppedError
from pipelines.failures import reason
from pipelines.names import RunKind, RunState
from pipelines.records import Claim, Json

DONE, FAILED, GIVEN_BACK, LOST = "done", "failed", "given_back", "lost"
"""How a run may end, here."""


class Worker:
    """Works on runs that were claimed, one at a time in each thread that asks for it.

    Args:
        clock: the time, as an aware datetime.
        patiently: does something at the database, however long it is away.
        is_stopping: True once the daemon was told to stop.
        lease_seconds: how long a run stays claimed without a heartbeat.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        telemetry: Telemetry,
        patiently: Patience,
        is_stopping: Callable[[], bool],
        lease_seconds: float,
    ) -> None:
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._telemetry = telemetry
        self._patiently = patiently
        self._is_stopping = is_stopping
        self._log = structlog.get_logger("anomaly.daemon")

    def work(self, load: Workload, claim: Claim, progress: Progress) -> bool:
        """Work on a run and settle it; return False where it failed and may be tried again."""
        whose = {"source" if claim.source else "monitor": load.name(claim) or None}
        log = self._log.bind(run=claim.run_id, kind=str(claim.kind), **whose)
        lag = (self._clock() - claim.scheduled_for).total_seconds()
        self._telemetry.lag_seconds.labels(str(claim.kind)).set(lag)
        started = time.monotonic()
        log.info("run started", scheduled_for=claim.scheduled_for.isoformat(), attempt=claim.attempts)
        state = self._try(load, claim, progress, log)
        seconds = time.monotonic() - started
        self._telemetry.run_seconds.labels(str(claim.kind), state).observe(seconds)
        if claim.source:
            self._telemetry.source_reads.labels(claim.source, state).inc()
        log.info("run ended", state=state, seconds=round(seconds, 3))
        return state != FAILED

    def abandon(self, load: Workload, claim: Claim, progress: Progress) -> None:
        """Record that a run gets nowhere; its thread finds its claim gone where it ever goes on."""
        which = "deadlines.read" if claim.source else "deadlines.run"
        why = (
            f"no progress for {progress.patience_seconds:.0f} s ({which}), left behind: it is tried again "
            "once what hangs lets go"
        )
        self._telemetry.runs_abandoned.labels(str(claim.kind)).inc()
        self._log.error("run left behind", run=claim.run_id, kind=str(claim.kind), reason=why)
        try:
            self._patiently(load.store.finish, claim, RunState.WAITING, {}, why)
        except LostClaimError:
            self._telemetry.leases_lost.inc()

    def _try(self, load: Workload, claim: Claim, progress: Progress, log: Any) -> str:
        """Return how the run ended."""
        try:
            with (
                self._telemetry.vitals.leased(self.lease_seconds) as kept,
                Lease(load.store, claim, self.lease_seconds, kept, lambda: progress.is_stuck) as lease,
            ):
                return self._settled(load, claim, progress, lease, log)
        except LostClaimError:
            # Whoever holds the run now does it again; of ours, what was committed stands.
            self._telemetry.leases_lost.inc()
            log.warning("lease lost, another daemon may hold the run")
            return LOST

    def _settled(self, load: Workload, claim: Claim, progress: Progress, lease: Lease, log: Any) -> str:
        if why := load.refusal(claim):
            log.error("run refused", reason=why)
            self._patiently(load.store.finish, claim, RunState.FAILED, {}, why)
            return FAILED
        try:
            outcome = self._outcome(load, claim, progress, lease)
        except (LostClaimError, DatabaseReplacedError):
            raise
        except StoppedError:
            progress.end()
            self._patiently(load.store.give_back, claim)
            return GIVEN_BACK
        except Exception as error:
            progress.end()
            log_failure(log, "run failed", error)
            self._fail(load, claim, error)
            return FAILED
        progress.end()
        return self._recorded(load, claim, outcome, log)

    def _recorded(self, load: Workload, claim: Claim, outcome: Json, log: Any) -> str:
        """Store what a run did, and tell of it."""
        why = str(outcome.get("error", ""))
        state = RunState.WAITING if why else RunState.DONE
        try:
            self._patiently(load.store.finish, claim, state, outcome, why)
        except (LostClaimError, LeavingError, DatabaseReplacedError):
            raise
        except Exception as error:  # an outcome that cannot be stored must not end the daemon
            log_failure(log, "outcome not stored", error)
            self._fail(load, claim, error)
            return FAILED
        self._tell(load, claim, outcome, log)
        return FAILED if why else DONE

    def _tell(self, load: Workload, claim: Claim, outcome: Json, log: Any) -> None:
        """Count what a run did, and warn of what it could not do."""
        if claim.kind is RunKind.INGEST:
            self._tell_of_read(load, claim.source, outcome, log)
            return
        self._telemetry.count(outcome)
        if claim.kind is RunKind.TICK:
            self._telemetry.note_latencies(outcome, self._clock())
        for said in left_out(outcome):
            log.warning("target left out", reason=said)
        self._telemetry.events_open.set(self._patiently(load.open_events))

    def _tell_of_read(self, load: Workload, source: str, outcome: Json, log: Any) -> None:
        newest = self._patiently(load.newest_point, source)
        lag = None if newest is None else (self._clock() - newest).total_seconds()
        self._telemetry.count_read(source, outcome, lag)
        if outcome.get("error"):
            log.warning("source not read", reason=outcome["error"])
        for note in outcome.get("notes", ()):
            log.info("source read in part", reason=note)

    def _outcome(self, load: Workload, claim: Claim, progress: Progress, lease: Lease) -> Json:
        """Let the runner work until nothing is left; return what all its bites did."""

        def should_stop() -> bool:
            # Whoever asks has just done something.
            progress.note()
            return self._is_stopping() or lease.is_lost or progress.is_abandoned

        bites: list[Json] = []
        while not bites or _more(bites[-1]):
            if bites and self._is_stopping():
                raise StoppedError("stopped between two bites; the run goes on where it was")
            bites.append(load.runner.run(claim, self._clock(), should_stop))
        return bites[0] if len(bites) == 1 else {"bites": bites}

    def _fail(self, load: Workload, claim: Claim, error: Exception) -> None:
        """Record the failure and ask for another attempt; the store refuses one after the last."""
        is_databases_fault = isinstance(error, DatabaseUnavailableError)
        if is_databases_fault and self._patiently.finds_it_away(load.store.probe):
            # Not the run's fault, so it costs no attempt.
            self._patiently(load.store.give_back, claim)
            return
        self._patiently(load.store.finish, claim, RunState.WAITING, {}, reason(error))


def _more(outcome: Mapping[str, Any]) -> bool:
    parts = [outcome, *(part for part in outcome.values() if isinstance(part, Mapping))]
    return any(bool(part.get("more")) for part in parts)
