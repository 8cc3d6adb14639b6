"""The daemon: schedules due runs in the run table, claims them one by one, and does their work.

The truth is the table. APScheduler only rings the bell, so a daemon that was killed, frozen or
started twice finds in the table what is left to do, and nothing else. Sources are read in a lane of
their own, beside the work of the monitors.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from anomaly_service.config.errors import ConfigError
from anomaly_service.daemon.claimed import Worker
from anomaly_service.daemon.patience import LONGEST_PAUSE_SECONDS, Patience
from anomaly_service.daemon.reading import Reads
from anomaly_service.daemon.schedule import Key, LastRuns, Plan, due_reads, outlook
from anomaly_service.daemon.telemetry import Telemetry, configure_logging, log_failure, serving
from anomaly_service.daemon.workload import Workload, open_workload
from anomaly_service.db.lease import LEASE_SECONDS
from anomaly_service.errors import LeavingError, UnavailableError, is_bug
from anomaly_service.facts import gather
from pipelines.names import RunKind
from pipelines.records import Claim, LastRead
from pipelines.store import Store

if TYPE_CHECKING:
    from anomaly_service.config.sections import Config

LEAST_WATCH_SECONDS = 1.0
"""Between two looks at how the work stands."""

READS = (RunKind.INGEST,)
OF_MONITORS = tuple(kind for kind in RunKind if kind not in READS)


@dataclass(frozen=True)
class Settings:
    """How the daemon behaves.

    Attributes:
        lease_seconds: how long a run stays claimed without a heartbeat.
        poll_seconds: between two looks at the run table.
    """

    lease_seconds: float = LEASE_SECONDS
    poll_seconds: float = 5.0


class Bell:
    """Wakes the thread that waits for it."""

    def __init__(self) -> None:
        # A SimpleQueue, not an Event: a signal handler may put while the main thread waits on it.
        self._rung: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        self._rung.put(None)

    def wait(self) -> None:
        """Wait until it rings; whatever rang since the last time is one ring."""
        self._rung.get()
        while not self._rung.empty():
            self._rung.get()


class Daemon:
    """Keeps every source read and every monitor's work done, until told to stop.

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
        self._patiently = Patience(self.telemetry, lambda: self._stopping)
        self._workload: Workload | None = None
        self._plan = Plan(())
        self._planned_for: dict[str, datetime | None] = {}
        self._last: dict[Key, datetime | None] = {}
        self._held: dict[Key, datetime] = {}
        self._bell, self._reads_bell = Bell(), Bell()
        self._stopping = False
        self._reload_wanted = False
        self._trouble: BaseException | None = None

    # -- from outside -----------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop; see :meth:`stop`."""
        with self._in_charge(), self._ticking(), self._reading(), self._watching():
            while not self._stopping:
                self._look(self._claim, self._worker())
                self._bell.wait()
        if self._trouble is not None:
            raise self._trouble

    def drain(self) -> None:
        """Do everything that is due by now, then return; what fails is tried as often as it may be.

        Sources come first, one after the other.
        """
        with self._in_charge():
            self._do_what_is_due()

    def _do_what_is_due(self) -> None:
        worker = self._worker()
        while self._look(self._claim_read, worker) | self._look(self._claim, worker):
            pass

    def stop(self) -> None:
        """Finish or give back what is at work, then return from :meth:`run`; safe in a signal handler."""
        self._stopping = True
        self._ring()

    def reload(self) -> None:
        """Read the config again before the next run; safe in a signal handler."""
        self._reload_wanted = True
        self._ring()

    def _ring(self) -> None:
        self._bell.ring()
        self._reads_bell.ring()

    # -- the loop ---------------------------------------------------------------------

    @contextmanager
    def _in_charge(self) -> Iterator[None]:
        """Hold a workload while the context lasts, and leave quietly when told to."""
        self.telemetry.vitals.began(self._clock)
        try:
            self._take(self._patiently(self._load))
            self._log.info(
                "started",
                owner=self.owner,
                monitors=len(self._loaded.monitors),
                sources=len(self._loaded.sources),
            )
            yield
        except LeavingError:
            pass
        except Exception as error:
            if is_bug(error):
                log_failure(self._log, "ended by a bug", error)
            raise
        finally:
            if self._workload is not None:
                self._workload.close()
            self._log.info("stopped", owner=self.owner)

    def _take(self, load: Workload) -> None:
        """Work on this from now on."""
        self._workload = load
        self._plan, self._planned_for = self._patiently(load.plan), {}
        self._last = {}

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
            self._ring,
            "interval",
            seconds=self.settings.poll_seconds,
            coalesce=True,
            misfire_grace_time=None,
        )
        scheduler.start()
        try:
            yield
        finally:
            scheduler.shutdown(wait=False)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Read sources as they come due while the context lasts, beside everything else."""
        reads = Reads(
            self._claim_read,
            self._work_on_read,
            self._bell.ring,
            self._give_up,
            self._reads_bell.wait,
            lambda: self._stopping,
        )
        reads.start()
        try:
            yield
        finally:
            self.stop()
            reads.join()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Keep what the database tells of the work while the context lasts, whatever the loop is at.

        A thread of its own: one that waits for a database which hangs keeps nobody, and its answers grow old.
        """
        done = threading.Event()

        def watch() -> None:
            while not self._stopping:
                self._keep_facts()
                done.wait(max(LEAST_WATCH_SECONDS, self.settings.poll_seconds))

        threading.Thread(target=watch, name="watch", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _keep_facts(self) -> None:
        plan = self._plan
        try:
            self.telemetry.vitals.keep(gather(self._store, plan.monitors, plan.sources, self._clock()))
        except UnavailableError:
            pass  # it is told by whoever works, and shows in the age of what was kept
        except Exception as error:
            log_failure(self._log, "cannot tell how the work stands", error)

    def _work_on_read(self, claim: Claim) -> bool:
        return self._worker().work(self._loaded, claim)

    def _give_up(self, trouble: BaseException) -> None:
        """End the daemon with what nobody foresaw: without reads it would look well and be blind."""
        self._trouble = trouble
        self.stop()

    def _look(self, claim: Callable[[Collection[int]], Claim | None], worker: Worker) -> set[int]:
        """Do all that is due, oldest first; return the runs that failed, which wait for the next look."""
        failed: set[int] = set()
        while not self._stopping:
            if self._reload_wanted:
                self._reload()
            claimed = claim(failed)
            if claimed is None:
                break
            if not worker.work(self._loaded, claimed):
                failed.add(claimed.run_id)
        self.telemetry.beat()
        return failed

    def _worker(self) -> Worker:
        return Worker(
            self._clock,
            self.telemetry,
            self._patiently,
            lambda: self._stopping,
            self.settings.lease_seconds,
        )

    def _claim(self, besides: Collection[int]) -> Claim | None:
        """Put due runs of monitors into the table, then take the oldest that is free."""
        now = self._clock()
        reads = self._last_reads(self._loaded.sources, now)
        found = outlook(self._plan_as_of(reads), self._last_runs(), reads, now, self._held)
        for run in found.due:
            # Another daemon may have done so already.
            self._patiently(self._store.schedule, run.kind, run.monitor_id, run.scheduled_for)
            self._last[run.kind, run.monitor_id] = run.scheduled_for
        self._held = found.held
        return self._claim_of(OF_MONITORS, besides)

    def _claim_read(self, besides: Collection[int]) -> Claim | None:
        """Put due reads into the table, then take the oldest that is free."""
        now, sources = self._clock(), self._plan.sources
        reads = self._last_reads([source.name for source in sources], now)
        for read in due_reads(sources, reads, now):
            self._patiently(self._store.schedule, RunKind.INGEST, None, read.scheduled_for, read.source)
        return self._claim_of(READS, besides)

    def _claim_of(self, kinds: Collection[RunKind], besides: Collection[int]) -> Claim | None:
        settings = self.settings
        return self._patiently(self._store.claim, self.owner, settings.lease_seconds, list(kinds), besides)

    def _last_reads(self, sources: Collection[str], now: datetime) -> dict[str, LastRead]:
        return self._patiently(self._store.last_reads, sources, now)

    def _plan_as_of(self, reads: dict[str, LastRead]) -> Plan:
        """Return the plan, made anew where a read may have brought series that tell who reads what."""
        tried = {name: read.tried_for for name, read in reads.items()}
        if tried != self._planned_for:
            self._plan, self._planned_for = self._patiently(self._loaded.plan), tried
        return self._plan

    def _last_runs(self) -> LastRuns:
        """Return the last runs, asked of the table only once: what comes later we schedule ourselves."""
        for monitor_id in self._loaded.monitors:
            for kind in (RunKind.TICK, RunKind.NIGHTLY):
                if (kind, monitor_id) not in self._last:
                    self._last[kind, monitor_id] = self._patiently(self._store.last_run, kind, monitor_id)
        return self._last

    def _reload(self) -> None:
        """Take the config as it is now; one that cannot be used leaves the old one in force."""
        self._reload_wanted = False
        try:
            fresh = self._patiently(self._load)
        except LeavingError:
            raise
        except Exception as error:
            told = "config not reloaded, the old one stays in force"
            if is_bug(error):
                log_failure(self._log, told, error)
            else:
                self._log.error(told, reason=str(error))
            return
        old = self._loaded
        self._take(fresh)
        # Reads that are still at work end under the old config: its store opens again where one asks.
        old.close()
        self._log.info("config reloaded", monitors=len(fresh.monitors), sources=len(fresh.sources))
        self._reads_bell.ring()

    @property
    def _loaded(self) -> Workload:
        assert self._workload is not None
        return self._workload

    @property
    def _store(self) -> Store:
        return self._loaded.store


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


def _loaded(path: Path | str) -> Config:
    """Return the config of a file, or say what is wrong with it and what was good last."""
    from anomaly_service.config.load import load
    from anomaly_service.in_force import with_last_good

    try:
        return load(path)
    except ConfigError as error:
        raise with_last_good(error, path) from None


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
    configure_logging()
    http = _loaded(path).http
    telemetry = Telemetry(
        stale_after_seconds=3 * max(settings.poll_seconds, settings.lease_seconds / 3, LONGEST_PAUSE_SECONDS)
    )
    telemetry.vitals.frozen = now is not None
    daemon = Daemon(
        lambda: open_workload(path, now, telemetry),
        clock=lambda: now or datetime.now(UTC),
        telemetry=telemetry,
        settings=settings,
    )
    with serving(telemetry, http.host, http.port) as port, signals_to(daemon):
        structlog.get_logger("anomaly.daemon").info(
            "serving /metrics, /livez, /healthz and /readyz", host=http.host, port=port
        )
        if once:
            daemon.drain()
        else:
            daemon.run()
