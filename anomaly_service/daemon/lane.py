"""A lane: runs of some kinds, done as they come due, however the other lanes are getting on.

Every run has a thread of its own. One that gets nowhere is left behind: nothing can end a thread that
hangs, but nobody needs to wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from anomaly_service.daemon.progress import Progress
from anomaly_service.daemon.workload import Held
from anomaly_service.errors import LeavingError
from pipelines.records import Claim


class Bell:
    """Wakes the thread that waits for it."""

    def __init__(self) -> None:
        # A SimpleQueue, not an Event: a signal handler may put while the main thread waits on it.
        self._rung: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        self._rung.put(None)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it rings, or so long; whatever rang since the last time is one ring."""
        try:
            self._rung.get(timeout=seconds)
            while True:
                self._rung.get_nowait()
        except Empty:
            pass


@dataclass(eq=False)
class Job:
    """A claimed run, on which a thread works until it has ended, and the workload that it is of."""

    claim: Claim
    progress: Progress
    held: Held
    has_ended: bool = False


@dataclass(frozen=True)
class Orders:
    """What a lane asks of the daemon.

    Attributes:
        claim: puts what is due into the run table and takes a run, but none of the monitors or sources of
            some runs; None where there is none to take.
        work: works on a run, and says whether it did not fail.
        abandon: records that a run was left behind.
        on_end: called when a run ended, however.
        on_trouble: called with what must end the daemon.
        is_stopping: True once the daemon was told to stop.
    """

    claim: Callable[[set[int]], Job | None]
    work: Callable[[Job], bool]
    abandon: Callable[[Job], None]
    on_end: Callable[[], None]
    on_trouble: Callable[[BaseException], None]
    is_stopping: Callable[[], bool]


class Lane:
    """Does runs of some kinds, a number of them at once.

    Args:
        at_once: how many runs are at work at a time; None for all that are due.
        poll_seconds: how long what failed is left alone; whoever has the lane rings its bell as often.
    """

    def __init__(self, name: str, orders: Orders, *, at_once: int | None, poll_seconds: float) -> None:
        self.name = name
        self.bell = Bell()
        self.looked_at = time.monotonic()
        self._orders = orders
        self._at_once = at_once
        self._poll_seconds = poll_seconds
        self._at_work: list[Job] = []
        self._hung: list[Job] = []
        self._failed: dict[int, float] = {}
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Look and work from now on, in a thread of its own."""
        self._begin(self._run, name=self.name)

    def drain(self) -> set[int]:
        """Do all that is due once, in the calling thread; return the runs that failed or hang."""
        self._failed.clear()
        before = {job.claim.run_id for job in self._hung}
        while not self._orders.is_stopping():
            self._look(rest_seconds=float("inf"))
            if not self._at_work:
                break
            self.bell.wait(self._poll_seconds)
        return {*self._failed, *(job.claim.run_id for job in self._hung)} - before

    def join(self, until: float) -> None:
        """Wait until all has ended, but no longer than until a time of the monotonic clock."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while not self._orders.is_stopping():
            self._look(self._poll_seconds)
            self.bell.wait()

    def _look(self, rest_seconds: float) -> None:
        """Begin what is due, and leave behind what gets nowhere."""
        self._leave_behind()
        self._forget_failures(rest_seconds)
        while not self._orders.is_stopping() and self._has_room():
            # A run that failed is free for its next attempt before the thread of this one has ended.
            busy = (each.claim.run_id for each in [*self._hung, *self._at_work])
            job = self._orders.claim({*self._failed, *busy})
            if job is None:
                break
            self._at_work.append(job)
            self._begin(self._work, job, name=f"{self.name}-{job.claim.run_id}")
        self.looked_at = time.monotonic()

    def _forget_failures(self, rest_seconds: float) -> None:
        now = time.monotonic()
        with self._lock:
            self._failed = {run: at for run, at in self._failed.items() if now - at < rest_seconds}

    def _has_room(self) -> bool:
        self._at_work = [job for job in self._at_work if not job.has_ended]
        return self._at_once is None or len(self._at_work) < self._at_once

    def _leave_behind(self) -> None:
        self._hung = [job for job in self._hung if not job.has_ended]
        for job in [job for job in self._at_work if not job.has_ended and job.progress.is_stuck]:
            job.progress.is_abandoned = True
            self._at_work.remove(job)
            self._hung.append(job)
            # The database may not answer either.
            self._begin(self._orders.abandon, job, name=f"left-{job.claim.run_id}")

    def _work(self, job: Job) -> None:
        try:
            if not self._orders.work(job):
                with self._lock:
                    self._failed[job.claim.run_id] = time.monotonic()
        finally:
            job.has_ended = True
            job.held.let_go()
            self._orders.on_end()

    def _begin(self, action: Callable[..., None], *args: object, name: str) -> None:
        thread = threading.Thread(target=self._guarded, args=(action, *args), name=name, daemon=True)
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()

    def _guarded(self, action: Callable[..., None], *args: object) -> None:
        """Do something in this thread; what nobody foresaw ends the daemon, and not the thread alone."""
        try:
            action(*args)
        except LeavingError:
            pass
        except BaseException as error:
            self._orders.on_trouble(error)
