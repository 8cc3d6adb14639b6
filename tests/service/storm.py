"""What a storm does to daemons, their workers and their database, and the account of it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil  # type: ignore[import-untyped]
from daemon_harness import Process
from databases import Databases
from pipeline_harness import FAILPOINTS, LEASE_SECONDS

AT_A_FAILPOINT = "daemon killed in the middle of a step"
PLACES = "daemon killed at any moment"
WORKER = "worker process killed"
FROZEN = "daemon frozen past its lease, beside another"
SERVER_KILLED = "PostgreSQL killed"
SERVER_STOPPED = "PostgreSQL stopped and started"
LOCKED = "SQLite locked for longer than a lease"
RELOADED = "daemon told to read its config again"

KILLS = (AT_A_FAILPOINT, PLACES, WORKER, SERVER_KILLED)
"""Attacks by which a process ends without a chance to tidy up."""


@dataclass
class Account:
    """What was done to a database's daemons, and what was found afterwards.

    Attributes:
        times: how often, by attack.
        plays: how many whole plays were gone through and compared.
        apart: how many plays left something else than an undisturbed one, by what differed.
    """

    times: Counter[str] = field(default_factory=Counter)
    plays: int = 0
    apart: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        return sum(self.times[each] for each in KILLS)


class Storm:
    """Disturbs one play: attacks at moments drawn before it begins, one after the other.

    Args:
        moments: seconds after the start; those that are left when the last step begins come in it.
    """

    def __init__(
        self, attacks: Sequence[Attack], account: Account, rng: random.Random, moments: Sequence[float]
    ) -> None:
        self._attacks = attacks
        self._account = account
        self._rng = rng
        self._moments = sorted(moments)

    def __call__(self, daemons: list[Process], seconds: float) -> bool:
        """Attack where it is time; True once all attacks were made."""
        if self._moments and seconds >= self._moments[0]:
            self._moments.pop(0)
            attack = self._rng.choice(self._attacks)
            if attack.strike(self._rng.choice(daemons)):
                self._account.times[attack.name] += 1
        return not self._moments

    def failpoints(self) -> Iterator[str]:
        """Yield where each daemon that is started is killed: every other one by name."""
        while True:
            yield f"{self._rng.choice(FAILPOINTS)}:{self._rng.randint(1, 3)}"
            yield ""


@dataclass(frozen=True)
class Attack:
    """One thing that is done to a running daemon; ``strike`` says whether there was something to hit."""

    name: str
    strike: Callable[[Process], bool]


def attacks(kind: str, url: str, databases: Databases, *, pool: bool, daemons: int) -> list[Attack]:
    """Return what can be done to a play with these parts; what is likelier stands there more often."""
    found = [Attack(PLACES, _kill)] * 4 + [Attack(RELOADED, _reload)]
    if pool:
        found += [Attack(WORKER, _kill_worker)] * 2
    if daemons > 1:
        found.append(Attack(FROZEN, _freeze))
    if kind == "sqlite":
        found.append(Attack(LOCKED, lambda _: _lock(url)))
    else:
        found += [
            Attack(SERVER_KILLED, lambda _: _take_away(databases, databases.kill_server)),
            Attack(SERVER_STOPPED, lambda _: _take_away(databases, databases.stop_server)),
        ]
    return found


def _kill(daemon: Process) -> bool:
    was_alive = daemon.poll() is None
    daemon.signal(signal.SIGKILL)
    return was_alive


def _reload(daemon: Process) -> bool:
    daemon.signal(signal.SIGHUP)
    return True


def _kill_worker(daemon: Process) -> bool:
    """Kill one process of the pool, but not the one that forks them."""
    with suppress(psutil.NoSuchProcess):
        own = psutil.Process(daemon.pid()).children(recursive=True)
        workers = [each for each in own if not each.children() and each.ppid() != daemon.pid()]
        for worker in workers[:1]:
            worker.kill()
            return True
    return False


def _freeze(daemon: Process) -> bool:
    daemon.signal(signal.SIGSTOP)
    time.sleep(LEASE_SECONDS + 1)
    daemon.signal(signal.SIGCONT)
    return True


def _lock(url: str) -> bool:
    lock = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=60)
    lock.execute("BEGIN EXCLUSIVE")
    time.sleep(LEASE_SECONDS + 1)
    lock.rollback()
    lock.close()
    return True


def _take_away(databases: Databases, how: Callable[[], None]) -> bool:
    how()
    time.sleep(1.0)
    databases.start_server()
    return True


def wanted(name: str, usual: int) -> int:
    """Return a number that ``make soak`` was given, such as ``KILLS=1000``."""
    return int(os.environ.get(name) or usual)
