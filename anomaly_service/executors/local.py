"""A pool of processes on this machine that outlives its workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from typing import Any, Generic, TypeVar

from pipelines.errors import WorkerDiedError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Items handed to the pool beyond one per worker, so that no worker waits for the next."""


@dataclass(eq=False)
class _Ticket(Generic[T]):
    """One item on its way, how often a pool died under it, and since when a worker has it."""

    item: T
    deaths: int = 0
    since: float | None = None
    is_overdue: bool = False


class LocalExecutor:
    """Runs work in ``workers`` processes of one thread each; survives the death of any of them.

    When a worker dies, everything in flight is lost with the pool. It is run again in a new pool,
    one item at a time, so that the item that kills its worker is found and its neighbours are not
    blamed. The pool starts at the first use.

    Args:
        workers: processes; 0 runs the work in the calling process.
        attempts: how often an item may be in flight when a worker dies.
        on_restart: called when a dead pool is replaced.
        task_seconds: how long an item may take; then its worker is killed, as a death that is the item's
            alone. None for ever.
    """

    def __init__(
        self,
        workers: int,
        *,
        attempts: int = 3,
        on_restart: Callable[[], None] = lambda: None,
        task_seconds: float | None = None,
    ) -> None:
        self.workers = workers
        self.attempts = attempts
        self.on_restart = on_restart
        self.task_seconds = task_seconds
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Yield (item, result) as results come; see :class:`pipelines.executor.Executor`.

        At most ``workers + 2`` items are in flight, so a source that reads as it is iterated
        stays a little ahead of the work.
        """
        if self.workers == 0:
            return ((item, work(item)) for item in items)
        return self._map(work, items)

    def close(self) -> None:
        """Stop the workers; running work is abandoned."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        _kill(pool)
        pool.shutdown(wait=True, cancel_futures=True)

    def _map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        fresh = (_Ticket(item) for item in items)
        suspects: deque[_Ticket[T]] = deque()
        flying: dict[Future[R], _Ticket[T]] = {}
        try:
            while True:
                suspects.extend(self._launch(work, fresh, suspects, flying))
                if not flying and not suspects:
                    return
                done, _ = wait(flying, timeout=self._patience(flying), return_when=FIRST_COMPLETED)
                if not done:
                    self._kill_overdue(flying)
                for future in done:
                    ticket = flying.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool as death:
                        suspects.append(self._blame(ticket, death))
                    else:
                        yield ticket.item, result
        finally:
            for future in flying:
                future.cancel()

    def _launch(
        self,
        work: Callable[[T], R],
        fresh: Iterator[_Ticket[T]],
        suspects: deque[_Ticket[T]],
        flying: dict[Future[R], _Ticket[T]],
    ) -> list[_Ticket[T]]:
        """Hand tickets to the pool, suspects alone; return those the pool died on."""
        limit = 1 if suspects else self.workers + _AHEAD
        while len(flying) < limit:
            ticket = suspects.popleft() if suspects else next(fresh, None)
            if ticket is None:
                break
            try:
                flying[self._living().submit(_call, work, ticket.item)] = ticket
            except BrokenProcessPool as death:
                return [self._blame(ticket, death)]
        return []

    def _patience(self, flying: Mapping[Future[R], _Ticket[T]]) -> float | None:
        """Return for how many seconds the next result may be waited for; None for ever."""
        if self.task_seconds is None:
            return None
        now = time.monotonic()
        # Items are begun in the order in which they were handed over.
        begun = list(flying.values())[: self.workers]
        for ticket in begun:
            ticket.since = ticket.since or now
        return max(0.0, min(ticket.since or now for ticket in begun) + self.task_seconds - now)

    def _kill_overdue(self, flying: Mapping[Future[R], _Ticket[T]]) -> None:
        """Kill the workers where an item took too long: a death like any other."""
        assert self.task_seconds is not None
        until = time.monotonic() - self.task_seconds
        for ticket in flying.values():
            ticket.is_overdue = ticket.since is not None and ticket.since <= until
        if any(ticket.is_overdue for ticket in flying.values()):
            with self._lock:
                _kill(self._pool)

    def _blame(self, ticket: _Ticket[T], death: BrokenProcessPool) -> _Ticket[T]:
        was_overdue, ticket.is_overdue, ticket.since = ticket.is_overdue, False, None
        ticket.deaths += 1
        if ticket.deaths < self.attempts:
            return ticket
        if was_overdue:
            raise WorkerDiedError(
                f"{_name(ticket.item)} took longer than {self.task_seconds:.0f} s, in the last of "
                f"{ticket.deaths} tries; give it more time with `deadlines.task`, or fewer workers"
            ) from death
        raise WorkerDiedError(
            f"the worker died each of {ticket.deaths} times it ran {_name(ticket.item)} "
            "(killed, out of memory or crashed); see the system log, or use fewer workers"
        ) from death

    def _living(self) -> ProcessPoolExecutor:
        """Return the pool, started where there is none and replaced where its workers died."""
        with self._lock:
            if self._pool is not None and getattr(self._pool, "_broken", False):
                self.close()
                self.on_restart()
            if self._pool is None:
                self._pool = _start(self.workers)
            return self._pool


def _kill(pool: ProcessPoolExecutor | None) -> None:
    """Kill the workers: the standard pool only knows how to wait for them (until Python 3.14)."""
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.kill()


def _start(workers: int) -> ProcessPoolExecutor:
    # The fork server has one thread and has torch loaded: a worker starts in milliseconds where
    # a spawned one takes seconds, and unlike a fork of the daemon it inherits no lock held by
    # another thread.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anomaly_service.executors._preload"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_be_a_worker)


def _be_a_worker() -> None:
    """Leave stopping to the parent, and never outlive it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, name="die-with-parent", daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _call(work: Callable[[T], R], item: T) -> R:
    """Run the work in a worker; what it raises comes back as it is, or readable where it cannot."""
    try:
        return work(item)
    except Exception as error:
        if _travels(error):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _travels(error: Exception) -> bool:
    # An exception that cannot be built from its args breaks the whole pool when it arrives.
    with contextlib.suppress(Exception):
        return isinstance(pickle.loads(pickle.dumps(error)), type(error))
    return False


def _name(item: Any) -> str:
    """Return what the item is called, short enough for a message: arrays have long reprs."""
    text = str(getattr(item, "key", None) or getattr(item, "name", None) or repr(item))
    return text if len(text) <= 200 else text[:197] + "..."
