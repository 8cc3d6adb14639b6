"""The daemon: schedules due runs in the run table, claims them one by one, and does their work.

The truth is the table. APScheduler only rings the bell, so a daemon that was killed, frozen or
started twice finds in the table what is left to do, and nothing else.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import structlog

from anomaly_service.daemon.schedule import LastRuns, MonitorSchedule, due
from anomaly_service.daemon.telemetry import Telemetry, configure_logging, left_out, serving, unread
from anomaly_service.errors import DatabaseUnavailableError
from pipelines.failures import reason
from pipelines.jobs.monitor_job import StoppedError
from pipelines.names import RunKind, RunState
from pipelines.records import Claim, Json
from pipelines.store import LostClaimError, Store

P = ParamSpec("P")
T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
"""Between two tries while the database is away, doubling from the first to the longest."""


class Runner(Protocol):
    """Does the work of one claimed run."""

    def run(self, claim: Claim, now: datetime, should_stop: Callable[[], bool]) -> Json:
        """Work on the run and return what was done.

        ``more: true`` in the outcome, or in one of its parts, says that the work was bounded and
        some is left: it is called again.

        Raises:
            StoppedError: ``should_stop`` said so between two batches; the run is given back.
            LostClaimError: another daemon holds the run by now.
            StaleEventsError: people kept judging the events that it writes.
            Exception: whatever else fails the attempt, as StaleEventsError does; another may follow.
        """
        ...


@dataclass(frozen=True)
class Workload:
    """What a config file comes to: the store, the monitors' schedules, and who does the work."""

    store: Store
    monitors: tuple[MonitorSchedule, ...]
    runner: Runner
    close: Callable[[], None] = lambda: None
    open_events: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class Settings:
    """How the daemon behaves.

    Attributes:
        lease_seconds: how long a run stays claimed without a heartbeat.
        poll_seconds: between two looks at the run table.
    """

    lease_seconds: float = 60.0
    poll_seconds: float = 5.0


class _LeavingError(Exception):
    """The daemon was told to stop while it waited for the database."""


class Daemon:
    """Keeps every monitor's work done, until told to stop.

    Args:
        load: reads the config and opens the store; called at start and on SIGHUP.
        clock: the time, as an aware datetime.
        telemetry: metrics and health.
    """

    def __init__(
        self,
        load: Callable[[], Workload],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        telemetry: Telemetry | None = None,
        settings: Settings = Settings(),
    ) -> None:
        self.settings = settings
        self.telemetry = telemetry or Telemetry()
        self.owner = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._load = load
        self._clock = clock
        self._log = structlog.get_logger("anomaly.daemon")
        self._workload: Workload | None = None
        self._last: dict[tuple[RunKind, int], datetime | None] = {}
        # A SimpleQueue, not an Event: a signal handler may put while the main thread waits on it.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self._reload_wanted = False
        self._database_away = False

    # -- from outside -----------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop; see :meth:`stop`."""
        with self._in_charge(), self._ticking():
            while not self._stopping:
                self._look()
                self._rest(None)

    def drain(self) -> None:
        """Do everything that is due by now, then return; what fails is tried as often as it may be."""
        with self._in_charge():
            while self._look():
                pass

    def stop(self) -> None:
        """Finish or give back the run at work, then return from :meth:`run`; safe in a signal handler."""
        self._stopping = True
        self._bell.put(None)

    def reload(self) -> None:
        """Read the config again before the next run; safe in a signal handler."""
        self._reload_wanted = True
        self._bell.put(None)

    # -- the loop ---------------------------------------------------------------------

    @contextmanager
    def _in_charge(self) -> Iterator[None]:
        """Hold a workload while the context lasts, and leave quietly when told to."""
        try:
            self._workload = self._patiently(self._load)
            self._log.info("started", owner=self.owner, monitors=len(self._workload.monitors))
            yield
        except _LeavingError:
            pass
        finally:
            if self._workload is not None:
                self._workload.close()
            self._log.info("stopped", owner=self.owner)

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        from apscheduler.executors.pool import ThreadPoolExecutor
        from apscheduler.jobstores.memory import MemoryJobStore
        from apscheduler.schedulers.background import BackgroundScheduler

        scheduler = BackgroundScheduler(
            jobstores={"default": MemoryJobStore()},
            executors={"default": ThreadPoolExecutor(1)},
            timezone=UTC,
        )
        scheduler.add_job(
            self._bell.put,
            "interval",
            args=[None],
            seconds=self.settings.poll_seconds,
            coalesce=True,
            misfire_grace_time=None,
        )
        scheduler.start()
        try:
            yield
        finally:
            scheduler.shutdown(wait=False)

    def _look(self) -> set[int]:
        """Do all that is due, oldest first; return the runs that failed, which wait for the next look."""
        failed: set[int] = set()
        while not self._stopping:
            if self._reload_wanted:
                self._reload()
            self._schedule()
            claim = self._claim(failed)
            if claim is None:
                break
            if not self._work(claim):
                failed.add(claim.run_id)
        self.telemetry.beat()
        return failed

    def _schedule(self) -> None:
        """Put due runs into the table; another daemon may have done so already."""
        monitors = self._loaded.monitors
        for run in due(monitors, self._last_runs(), self._clock()):
            self._patiently(self._store.schedule, run.kind, run.monitor_id, run.scheduled_for)
            self._last[run.kind, run.monitor_id] = run.scheduled_for

    def _last_runs(self) -> LastRuns:
        """Return the last runs, asked of the table only once: what comes later we schedule ourselves."""
        for monitor in self._loaded.monitors:
            for kind in (RunKind.TICK, RunKind.NIGHTLY):
                if (kind, monitor.id) not in self._last:
                    self._last[kind, monitor.id] = self._patiently(self._store.last_run, kind, monitor.id)
        return self._last

    def _claim(self, failed: set[int]) -> Claim | None:
        claim = self._patiently(self._store.claim, self.owner, self.settings.lease_seconds)
        if claim is not None and claim.run_id in failed:
            # Where another daemon took it meanwhile, there is nothing to give back.
            with suppress(LostClaimError):
                self._patiently(self._store.give_back, claim)
            return None
        return claim

    def _reload(self) -> None:
        """Take the config as it is now; one that cannot be used leaves the old one in force."""
        self._reload_wanted = False
        try:
            fresh = self._patiently(self._load)
        except _LeavingError:
            raise
        except Exception as error:
            self._log.error("config not reloaded, the old one stays in force", reason=str(error))
            return
        self._loaded.close()
        self._workload = fresh
        self._last = {}
        self._log.info("config reloaded", monitors=len(fresh.monitors))

    @property
    def _loaded(self) -> Workload:
        assert self._workload is not None
        return self._workload

    @property
    def _store(self) -> Store:
        return self._loaded.store

    # -- one run ----------------------------------------------------------------------

    def _work(self, claim: Claim) -> bool:
        """Work on a claimed run and settle it; return False where it failed and may be tried again."""
        log = self._log.bind(run=claim.run_id, kind=str(claim.kind), monitor=self._name(claim))
        self._note_lag(claim)
        started = time.monotonic()
        log.info("run started", scheduled_for=claim.scheduled_for.isoformat(), attempt=claim.attempts)
        state = self._try(claim, log)
        seconds = time.monotonic() - started
        self.telemetry.run_seconds.labels(str(claim.kind), state).observe(seconds)
        log.info("run ended", state=state, seconds=round(seconds, 3))
        return state != "failed"

    def _try(self, claim: Claim, log: Any) -> str:
        """Return ``done``, ``failed``, ``given_back`` or ``lost``: how the run ended, here."""
        try:
            with _Heartbeat(self._store, claim, self.settings.lease_seconds, self.telemetry) as heart:
                return self._do(claim, heart, log)
        except LostClaimError:
            # Whoever holds the run now does it again; of ours, what was committed stands.
            self.telemetry.leases_lost.inc()
            log.warning("lease lost, another daemon may hold the run")
            return "lost"

    def _do(self, claim: Claim, heart: _Heartbeat, log: Any) -> str:
        if claim.monitor_id is not None and self._name(claim) is None:
            why = f"monitor {claim.monitor_id} is not in the config any more, or disabled"
            log.error("run refused", reason=why)
            self._patiently(self._store.finish, claim, RunState.FAILED, {}, why)
            return "failed"
        try:
            outcome = self._outcome(claim, heart)
        except LostClaimError:
            raise
        except StoppedError:
            self._patiently(self._store.give_back, claim)
            return "given_back"
        except Exception as error:
            log.exception("run failed")
            self._fail(claim, error)
            return "failed"
        try:
            self._patiently(self._store.finish, claim, RunState.DONE, outcome)
        except (LostClaimError, _LeavingError):
            raise
        except Exception as error:  # an outcome that cannot be stored must not end the daemon
            log.exception("outcome not stored")
            self._fail(claim, error)
            return "failed"
        self.telemetry.count(outcome)
        for source, why in unread(outcome).items():
            log.warning("source not read", source=source, reason=why)
        for said in left_out(outcome):
            log.warning("target left out", reason=said)
        self.telemetry.events_open.set(self._patiently(self._loaded.open_events))
        return "done"

    def _outcome(self, claim: Claim, heart: _Heartbeat) -> Json:
        """Let the runner work until nothing is left; return what all its bites did."""
        bites: list[Json] = []
        while not bites or _more(bites[-1]):
            if bites and self._stopping:
                raise StoppedError("stopped between two bites; the run goes on where it was")
            bites.append(
                self._loaded.runner.run(claim, self._clock(), lambda: self._stopping or heart.is_lost)
            )
        return bites[0] if len(bites) == 1 else {"bites": bites}

    def _fail(self, claim: Claim, error: Exception) -> None:
        """Record the failure and ask for another attempt; the store refuses one after the last."""
        if isinstance(error, DatabaseUnavailableError) and self._is_away():
            # Not the run's fault, so it costs no attempt.
            self._patiently(self._store.give_back, claim)
            return
        self._patiently(self._store.finish, claim, RunState.WAITING, {}, reason(error))

    def _name(self, claim: Claim) -> str | None:
        """Return the name of the run's monitor; None where the config has no such monitor."""
        return next((m.name for m in self._loaded.monitors if m.id == claim.monitor_id), None)

    def _note_lag(self, claim: Claim) -> None:
        lag = (self._clock() - claim.scheduled_for).total_seconds()
        self.telemetry.lag_seconds.labels(str(claim.kind)).set(lag)

    # -- patience ---------------------------------------------------------------------

    def _patiently(self, action: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Return what ``action`` returns, trying again while the database is away.

        Raises:
            _LeavingError: told to stop meanwhile.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                result = action(*args, **named)
            except DatabaseUnavailableError as error:
                self._note_away(error)
                if self._stopping:
                    raise _LeavingError from error
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._note_back()
                return result

    def _is_away(self) -> bool:
        """Ask the database anything; True where it does not answer."""
        try:
            self._loaded.store.last_run(RunKind.TICK)
        except DatabaseUnavailableError as error:
            self._note_away(error)
            return True
        return False

    def _note_away(self, error: DatabaseUnavailableError) -> None:
        self.telemetry.beat()
        self.telemetry.database(str(error))
        if not self._database_away:
            self._log.error("database away, trying until it is back", reason=str(error))
        self._database_away = True

    def _note_back(self) -> None:
        self.telemetry.database()
        if self._database_away:
            self._log.info("database back")
        self._database_away = False

    def _rest(self, seconds: float | None) -> None:
        """Wait for the bell, or, with ``seconds``, so long; a stop ends both."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._stopping:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            with suppress(Empty):
                self._bell.get(timeout=left)
            if deadline is None:
                # Whatever rang while a run was at work is answered by one look.
                while not self._bell.empty():
                    self._bell.get()
                return


class _Heartbeat:
    """Keeps the lease of a run while the context lasts, from a thread of its own."""

    def __init__(self, store: Store, claim: Claim, lease_seconds: float, telemetry: Telemetry) -> None:
        self.is_lost = False
        self._store = store
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._telemetry = telemetry
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{claim.run_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(self._lease_seconds / 3):
            try:
                self._store.heartbeat(self._claim, self._lease_seconds)
            except LostClaimError:
                self.is_lost = True
                return
            except DatabaseUnavailableError:
                # The next beat may come in time; where none does, the fence refuses the commit.
                continue
            self._telemetry.beat()


def _more(outcome: Mapping[str, Any]) -> bool:
    parts = [outcome, *(part for part in outcome.values() if isinstance(part, Mapping))]
    return any(bool(part.get("more")) for part in parts)


@contextmanager
def signals_to(daemon: Daemon) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the daemon, and SIGHUP make it read its config again."""

    def stop(_: int, __: FrameType | None) -> None:
        daemon.stop()

    def reload(_: int, __: FrameType | None) -> None:
        daemon.reload()

    wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    path: Path | str, *, now: datetime | None = None, once: bool = False, settings: Settings = Settings()
) -> None:
    """Run the daemon of a config file until it is told to stop.

    Args:
        now: freezes the clock.
        once: do what is due by now, then return.

    Raises:
        ConfigError: the file cannot be used.
        SchemaError: the database was not migrated.
        OSError: the port of ``http`` is taken.
    """
    from anomaly_service.config.load import load

    configure_logging()
    http = load(path).http
    telemetry = Telemetry(
        stale_after_seconds=3 * max(settings.poll_seconds, settings.lease_seconds / 3, LONGEST_PAUSE_SECONDS)
    )
    daemon = Daemon(
        lambda: open_workload(path, now, telemetry),
        clock=lambda: now or datetime.now(UTC),
        telemetry=telemetry,
        settings=settings,
    )
    with serving(telemetry, http.host, http.port) as port, signals_to(daemon):
        structlog.get_logger("anomaly.daemon").info(
            "serving /metrics and /healthz", host=http.host, port=port
        )
        if once:
            daemon.drain()
        else:
            daemon.run()


def open_workload(path: Path | str, now: datetime | None, telemetry: Telemetry) -> Workload:
    """Return what the config file says now, with its monitors brought up to date in the database."""
    from anomaly_service.config.load import load
    from anomaly_service.executors.local import LocalExecutor
    from anomaly_service.service import Service

    config = load(path)
    pool = LocalExecutor(config.workers, on_restart=telemetry.worker_restarts.inc)
    service = Service(config, now=now, executor=pool)
    try:
        monitors = tuple(MonitorSchedule.of(row.id, spec) for row, spec in service.sync())
    except BaseException:
        service.close()
        raise
    store = service.store
    return Workload(store, monitors, service, service.close, lambda: len(store.rows("open_events")))
