"""The daemon: schedules due runs in the run table, claims them one by one, and does their work.

The truth is the table, so a daemon that was killed, frozen or started twice finds in it what is left to
do, and nothing else. There are three lanes, none of which waits for another: sources are read, all that
are due at once; ticks are done, one by one; and so are nights.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from anomaly_service.config.errors import ConfigError
from anomaly_service.daemon.claimed import Worker
from anomaly_service.daemon.lane import Bell, Job, Lane, Orders
from anomaly_service.daemon.patience import LONGEST_PAUSE_SECONDS, Patience
from anomaly_service.daemon.progress import Progress
from anomaly_service.daemon.schedule import Key, LastRuns, Plan, due_reads, outlook
from anomaly_service.daemon.telemetry import Telemetry, configure_logging, log_failure, serving
from anomaly_service.daemon.workload import Held, Workload, open_workload
from anomaly_service.db.lease import LEASE_SECONDS
from anomaly_service.errors import DatabaseReplacedError, LeavingError, UnavailableError, is_bug
from anomaly_service.facts import gather
from pipelines.names import RunKind
from pipelines.records import Claim, LastRead
from pipelines.store import Store

if TYPE_CHECKING:
    from anomaly_service.config.sections import Config

LEAST_WATCH_SECONDS = 1.0
"""Between two looks at how the work stands."""

READS = (RunKind.INGEST,)
TICKS = (RunKind.TICK,)
NIGHTS = tuple(kind for kind in RunKind if kind not in {*READS, *TICKS})

GRACE_SECONDS = 5.0
"""How long runs may take to give back what they were at when the daemon stops; one that hangs is left
behind, and claimed again once its lease ends."""

LAST_SECONDS = 9.0
"""When a daemon that was told to stop ends, whatever hangs: before an orchestrator's patience of ten."""

ONCE_SECONDS = 60.0
"""How long the database may be away while a daemon does what is due once."""

NOT_OPENED = -1
"""Stands among the runs that were not done for a database that could not be opened."""

AHEAD = timedelta(minutes=5)
"""How far a clock must have been ahead before that is told."""


@dataclass(frozen=True)
class Settings:
    """How the daemon behaves.

    Attributes:
        lease_seconds: how long a run stays claimed without a heartbeat.
        poll_seconds: between two looks at the run table.
    """

    lease_seconds: float = LEASE_SECONDS
    poll_seconds: float = 5.0


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
        self._held_load: Held | None = None
        self._plan = Plan(())
        self._planned_for: dict[str, datetime | None] = {}
        self._last: dict[Key, datetime | None] = {}
        self._held: dict[Key, datetime] = {}
        self._scheduling = threading.Lock()
        self._bell = Bell()
        self._lanes = [
            self._lane("reads", READS, at_once=None),
            self._lane("ticks", TICKS, at_once=1),
            self._lane("nights", NIGHTS, at_once=1),
        ]
        self._stopping = False
        self._reload_wanted = False
        self._undone: set[int] = set()
        self._reload_trouble: str | None = None
        self._trouble: BaseException | None = None

    # -- from outside -----------------------------------------------------------------

    def run(self) -> bool:
        """Work until told to stop, see :meth:`stop`; return True."""
        with (
            suppress(LeavingError),
            self._in_charge(),
            self._watching(),
            self._ticking(),
            self._ended_lanes(),
        ):
            for lane in self._lanes:
                lane.start()
            while not self._stopping:
                self._watch()
                self._bell.wait()
        self._raise_trouble()
        return True

    def drain(self) -> bool:
        """Do everything that is due by now; return whether all of it was done.

        What fails is tried as often as it may be. Sources come first, then ticks, then nights.

        Raises:
            DatabaseUnavailableError: the database was away for longer than a minute.
        """
        self._patiently.limit_seconds = ONCE_SECONDS
        with suppress(LeavingError), self._in_charge():
            self._do_what_is_due()
        self._raise_trouble()
        return not self._undone

    def _do_what_is_due(self) -> None:
        while self._round() and not self._stopping:
            pass
        self._join_lanes()

    def _round(self) -> bool:
        """Let every lane do what is due, one lane after the other; return whether something failed."""
        self._watch()
        failed = [lane.drain() for lane in self._lanes]
        return any(failed)

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
        for lane in self._lanes:
            lane.bell.ring()

    # -- the loop ---------------------------------------------------------------------

    @contextmanager
    def _in_charge(self) -> Iterator[None]:
        """Hold a workload while the context lasts.

        Raises:
            LeavingError: told to stop while the database was away.
        """
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
        except Exception as error:
            if is_bug(error):
                log_failure(self._log, "ended by a bug", error)
            raise
        finally:
            if self._held_load is not None:
                self._loaded.close()
            self._log.info("stopped", owner=self.owner)

    @contextmanager
    def _ticking(self) -> Iterator[None]:
        """Ring for a look at the run table every few seconds while the context lasts."""
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
    def _ended_lanes(self) -> Iterator[None]:
        """Stop when the context ends, and wait a little for what is at work."""
        try:
            yield
        finally:
            self.stop()
            self._join_lanes()

    def _join_lanes(self) -> None:
        until = time.monotonic() + GRACE_SECONDS
        for lane in self._lanes:
            lane.join(until)

    def _take(self, load: Workload) -> None:
        """Work on this from now on."""
        moment = self._patiently(load.store.moment)
        if moment.scheduled_until is not None and moment.scheduled_until > moment.wall + AHEAD:
            self._tell_of_jump(moment.scheduled_until)
        plan = self._patiently(load.plan)
        with self._scheduling:
            self._held_load = Held(load)
            self._plan, self._planned_for, self._last = plan, {}, {}

    def _watch(self) -> None:
        """Note a sign of life where every lane gives one, and take a new config where one is wanted."""
        if self._reload_wanted:
            self._reload()
        silent_seconds = time.monotonic() - min(lane.looked_at for lane in self._lanes)
        if silent_seconds < self.telemetry.vitals.stale_after_seconds:
            self.telemetry.beat()

    def _raise_trouble(self) -> None:
        if self._trouble is not None:
            raise self._trouble

    # -- lanes --------------------------------------------------------------------------

    def _lane(self, name: str, kinds: Collection[RunKind], at_once: int | None) -> Lane:
        orders = Orders(
            claim=lambda besides: self._begun(kinds, besides),
            work=self._work,
            abandon=self._abandon,
            on_end=self._ring,
            on_trouble=self._give_up,
            is_stopping=lambda: self._stopping,
        )
        return Lane(name, orders, at_once=at_once, poll_seconds=self.settings.poll_seconds)

    def _begun(self, kinds: Collection[RunKind], besides: Collection[int]) -> Job | None:
        """Put into the table what is due, then take the oldest run of these kinds that is free."""
        with self._scheduling:
            assert self._held_load is not None
            held = self._held_load.take()
        claim = None
        try:
            with self._scheduling:
                if kinds is READS:
                    # Also where nothing is due it shows whether the database takes anything.
                    self._patiently(held.load.store.probe)
                    self._schedule_reads()
                else:
                    self._schedule_monitors()
            claim = self._claim(held.load.store, kinds, besides)
        except DatabaseReplacedError as error:
            self._reopen(error)
        finally:
            if claim is None:
                held.let_go()
        if claim is None:
            return None
        seconds = held.load.read_seconds if claim.source else held.load.run_seconds
        return Job(claim, Progress(seconds), held)

    def _work(self, job: Job) -> bool:
        try:
            went_well = self._worker().work(job.held.load, job.claim, job.progress)
        except DatabaseReplacedError as error:
            self._reopen(error)
            went_well = False
        if went_well:
            self._undone.discard(job.claim.run_id)
        else:
            self._undone.add(job.claim.run_id)
        return went_well

    def _abandon(self, job: Job) -> None:
        self._undone.add(job.claim.run_id)
        self._worker().abandon(job.held.load, job.claim, job.progress)

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

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(GRACE_SECONDS)

    def _keep_facts(self) -> None:
        plan = self._plan
        try:
            self.telemetry.vitals.keep(gather(self._store, plan.monitors, plan.sources, self._clock()))
        except UnavailableError:
            pass  # it is told by whoever works, and shows in the age of what was kept
        except Exception as error:
            log_failure(self._log, "cannot tell how the work stands", error)

    def _give_up(self, trouble: BaseException) -> None:
        """End the daemon with what nobody foresaw: without a lane it would look well and be blind."""
        self._trouble = trouble
        self.stop()

    def _worker(self) -> Worker:
        return Worker(
            self._clock,
            self.telemetry,
            self._patiently,
            lambda: self._stopping,
            self.settings.lease_seconds,
        )

    # -- what is due ----------------------------------------------------------------------

    def _schedule_monitors(self) -> None:
        """Put due runs of monitors into the table."""
        now = self._clock()
        reads = self._last_reads(self._loaded.sources, now)
        found = outlook(self._plan_as_of(reads), self._last_runs(now), reads, now, self._held)
        for run in found.due:
            # Another daemon may have done so already.
            self._patiently(self._store.schedule, run.kind, run.monitor_id, run.scheduled_for)
            self._last[run.kind, run.monitor_id] = run.scheduled_for
        self._held = found.held

    def _schedule_reads(self) -> None:
        """Put due reads into the table."""
        now, sources = self._clock(), self._plan.sources
        reads = self._last_reads([source.name for source in sources], now)
        for read in due_reads(sources, reads, now):
            self._patiently(self._store.schedule, RunKind.INGEST, None, read.scheduled_for, read.source)

    def _claim(self, store: Store, kinds: Collection[RunKind], besides: Collection[int]) -> Claim | None:
        lease_seconds, now = self.settings.lease_seconds, self._clock()
        return self._patiently(store.claim, self.owner, lease_seconds, list(kinds), besides, until=now)

    def _last_reads(self, sources: Collection[str], now: datetime) -> dict[str, LastRead]:
        return self._patiently(self._store.last_reads, sources, now)

    def _plan_as_of(self, reads: dict[str, LastRead]) -> Plan:
        """Return the plan, made anew where a read may have brought series that tell who reads what."""
        tried = {name: read.tried_for for name, read in reads.items()}
        if tried != self._planned_for:
            self._plan, self._planned_for = self._patiently(self._loaded.plan), tried
        return self._plan

    def _last_runs(self, now: datetime) -> LastRuns:
        """Return the last runs, asked of the table only once: what comes later we schedule ourselves.

        They are asked for again where they are of a time to come: the clock was ahead.
        """
        jumped = [last for last in self._last.values() if last is not None and last > now]
        if jumped and max(jumped) > now + AHEAD:
            self._tell_of_jump(max(jumped))
        for monitor_id in self._loaded.monitors:
            for kind in (RunKind.TICK, RunKind.NIGHTLY):
                known = self._last.get((kind, monitor_id))
                if (kind, monitor_id) not in self._last or (known is not None and known > now):
                    found = self._patiently(self._store.last_run, kind, monitor_id, until=now)
                    self._last[kind, monitor_id] = found
        return self._last

    def _tell_of_jump(self, until: datetime) -> None:
        self._log.warning(
            "the clock was ahead: what was scheduled for later than now does not count",
            scheduled_for=until.isoformat(),
        )

    # -- another config, another database -------------------------------------------------

    def _reopen(self, error: DatabaseReplacedError) -> None:
        """Open the database again before the next run: another one lies in its place."""
        self.telemetry.database(str(error))
        self.telemetry.vitals.is_replaced = True
        self._undone.add(NOT_OPENED)
        self._reload_wanted = True
        self._bell.ring()

    def _reload(self) -> None:
        """Take the config as it is now; one that cannot be used leaves the old one in force."""
        self._reload_wanted = False
        try:
            fresh = self._patiently(self._load)
        except LeavingError:
            raise
        except Exception as error:
            self._tell_why_not_reloaded(error)
            return
        old = self._held_load
        self._take(fresh)
        if old is not None:
            old.retire()
        self._reload_trouble = None
        self.telemetry.vitals.is_config_broken = False
        self._undone.discard(NOT_OPENED)
        self.telemetry.database()
        self.telemetry.vitals.is_replaced = False
        self._log.info("config reloaded", monitors=len(fresh.monitors), sources=len(fresh.sources))
        self._ring()

    def _tell_why_not_reloaded(self, error: Exception) -> None:
        """Say it once, however often it is tried."""
        before, self._reload_trouble = self._reload_trouble, repr(error)
        self.telemetry.vitals.is_config_broken = NOT_OPENED not in self._undone
        if before == repr(error):
            return
        told = (
            "the database was replaced by one that cannot be used"
            if NOT_OPENED in self._undone
            else "config not reloaded, the old one stays in force"
        )
        if is_bug(error):
            log_failure(self._log, told, error)
        else:
            self._log.error(told, reason=str(error))

    @property
    def _loaded(self) -> Workload:
        assert self._held_load is not None
        return self._held_load.load

    @property
    def _store(self) -> Store:
        return self._loaded.store


@contextmanager
def signals_to(daemon: Daemon) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the daemon, in the end by force, and SIGHUP reload its config."""

    def stop(_: int, __: FrameType | None) -> None:
        daemon.stop()
        last = threading.Timer(LAST_SECONDS, leave)
        last.daemon = True
        last.start()

    def leave() -> None:
        structlog.get_logger("anomaly.daemon").error(
            "left by force, as something hangs", seconds_since_told_to_stop=LAST_SECONDS
        )
        os._exit(0)

    def reload(_: int, __: FrameType | None) -> None:
        daemon.reload()

    wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _beside_signals(action: Callable[[], bool]) -> bool:
    """Return what an action returns, from a thread of its own: nothing that hangs keeps signals from this."""
    done: Future[bool] = Future()

    def work() -> None:
        try:
            done.set_result(action())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, name="daemon", daemon=True).start()
    return done.result()


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
) -> bool:
    """Run the daemon of a config file until it is told to stop; return whether it did all that it had to.

    Args:
        now: freezes the clock.
        once: do what is due by now, then return.

    Raises:
        ConfigError: the file cannot be used.
        SchemaError: the database was not migrated.
        DatabaseUnavailableError: with ``once``, the database was away for longer than a minute.
        OSError: the port of ``http`` is taken.
    """
    configure_logging()
    config = _loaded(path)
    pauses = 3 * max(settings.poll_seconds, settings.lease_seconds / 3, LONGEST_PAUSE_SECONDS)
    telemetry = Telemetry(stale_after_seconds=pauses + config.deadlines.query.total_seconds())
    telemetry.vitals.frozen = now is not None
    daemon = Daemon(
        lambda: open_workload(path, now, telemetry),
        clock=lambda: now or datetime.now(UTC),
        telemetry=telemetry,
        settings=settings,
    )
    if once:
        # It is gone before anybody asks, and may come beside a daemon that has the port.
        with signals_to(daemon):
            return _beside_signals(daemon.drain)
    http = config.http
    with serving(telemetry, http.host, http.port) as port, signals_to(daemon):
        structlog.get_logger("anomaly.daemon").info(
            "serving /metrics, /livez, /healthz and /readyz", host=http.host, port=port
        )
        return _beside_signals(daemon.run)
