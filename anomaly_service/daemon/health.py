"""Three questions to a daemon, answered from what it keeps, so that a database that hangs delays none.

Does its loop move? Is it in a state to work, with a database that answers and leases that hold? And does
detection happen? Bodies name no host and repeat no message of another program.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from anomaly_service import parts
from anomaly_service.facts import Facts
from anomaly_service.parts import Part, Said
from pipelines.records import Json

Answer = tuple[bool, Json]
"""Whether all is well, and what to show for it."""

RESTARTS, RESTARTS_SECONDS = 3, 900.0
"""So many pools replaced within a quarter of an hour: workers die as fast as they come."""


class Health:
    """What one daemon knows of itself; threads may share it.

    Args:
        stale_after_seconds: without a sign of life, or an answer of the database, for longer it is stuck.
        monotonic: clock in seconds.
    """

    def __init__(
        self, *, stale_after_seconds: float = 60.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.stale_after_seconds = stale_after_seconds
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.frozen = False
        self._monotonic = monotonic
        self._beaten_at = self._answered_at = monotonic()
        self._trouble = ""
        self.is_replaced = self.is_config_broken = False
        self._leases: dict[object, tuple[float, float]] = {}
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        self._facts: Facts | None = None
        self._since: datetime | None = None
        self._lock = threading.Lock()

    # -- what the daemon tells ----------------------------------------------------------

    def began(self, clock: Callable[[], datetime]) -> None:
        """Note by which clock a daemon began now."""
        self.clock, self._since = clock, clock()

    def beat(self) -> None:
        """Note a sign of life: whoever gives one has asked the database before."""
        self._beaten_at = self._answered_at = self._monotonic()

    def database(self, trouble: str = "") -> None:
        """Note that the database answered, or what it said instead."""
        self._trouble = _kind_of(trouble)
        self._answered_at = self._monotonic()

    def keep(self, facts: Facts) -> None:
        """Keep what the database told of the work; it answered."""
        self._facts, self._answered_at = facts, self._monotonic()

    def restarted(self) -> None:
        """Note that a pool of workers was replaced because one of them died."""
        self._restarts.append(self._monotonic())

    @contextmanager
    def leased(self, lease_seconds: float) -> Iterator[Callable[[], None]]:
        """Note a run at work while the context lasts; yield what to call when its lease was renewed."""
        # Not by the run: its next attempt may begin before this one has left.
        attempt = object()

        def kept() -> None:
            with self._lock:
                self._leases[attempt] = self._monotonic(), lease_seconds

        kept()
        try:
            yield kept
        finally:
            with self._lock:
                del self._leases[attempt]

    # -- what others ask ----------------------------------------------------------------

    def live(self) -> Answer:
        """Return whether the loop moves: where it does not, a restart helps."""
        idle = self._monotonic() - self._beaten_at
        body: Json = {"status": "ok", "seconds_since_last_loop": round(idle, 1)}
        if idle > self.stale_after_seconds:
            return False, {**body, "status": "failing", "reason": self._stuck(idle)}
        return True, body

    def healthy(self) -> Answer:
        """Return whether the loop moves, the database answers and the leases of runs at work hold."""
        moves, body = self.live()
        if not moves:
            return False, body
        reasons = [said.reason for said in (*self._database(), *self._lapsed())]
        if reasons:
            return False, {**body, "status": "failing", "reason": "; ".join(reasons)}
        return True, body

    def ready(self) -> Answer:
        """Return whether detection happens, and of every part whether it does its work."""
        found = self._parts()
        is_ready = all(each.ready for each in found)
        status = "ok" if is_ready else "failing"
        return is_ready, {"status": status, "parts": {each.part: _shown(each) for each in found}}

    def _parts(self) -> list[Part]:
        idle = self._monotonic() - self._beaten_at
        stuck = [Said(self._stuck(idle), parts.DAEMON)] if idle > self.stale_after_seconds else []
        own = [
            parts.of("loop", stuck),
            parts.of("config", [*self._config()]),
            parts.of("database", [*self._database()]),
        ]
        if self._facts is None:
            return [*own, parts.of("sources", [Said("the daemon has not looked yet", "wait a moment")])]
        known = parts.judged(self._facts, self.clock(), self._since, frozen=self.frozen)
        dying = [*self._dying(), *self._lapsed()]
        return [*own, *(parts.joined(each, dying) if each.part == "workers" else each for each in known)]

    def _stuck(self, idle: float) -> str:
        return f"no loop for {idle:.0f} s; expected one every {self.stale_after_seconds / 3:.0f} s"

    def _config(self) -> Iterator[Said]:
        if self.is_config_broken:
            yield Said(
                "the config file was not taken over, the one before it stays in force",
                "`anomaly validate` says what is wrong with the file; then send SIGHUP again",
                blind=False,
            )

    def _database(self) -> Iterator[Said]:
        silent = self._monotonic() - self._answered_at
        mend = "see the daemon's log for what the database says, and mend that"
        if self.is_replaced:
            yield Said("the database was replaced by one that cannot be used", mend)
        elif self._trouble:
            yield Said(f"the database {self._trouble}", mend)
        elif silent > self.stale_after_seconds:
            yield Said(f"the database has not answered for {silent:.0f} s", mend)

    def _lapsed(self) -> Iterator[Said]:
        with self._lock:
            leases = list(self._leases.values())
        lapsed = sum(self._monotonic() - at > seconds for at, seconds in leases)
        if lapsed:
            yield Said(f"{lapsed} runs at work lost their lease", parts.DAEMON)

    def _dying(self) -> Iterator[Said]:
        if len(self._restarts) == RESTARTS and self._monotonic() - self._restarts[0] < RESTARTS_SECONDS:
            yield Said(
                f"workers died {RESTARTS} times within {RESTARTS_SECONDS / 60:.0f} minutes",
                "is there enough memory? lower `workers`; the daemon's log names what they worked on",
            )


def _kind_of(trouble: str) -> str:
    """Return what ails a database, without its words: they name hosts and users."""
    said = trouble.lower().replace("-", "")
    if not said:
        return ""
    return "is read-only" if "readonly" in said else "does not answer as it should"


def _shown(part: Part) -> Json:
    return {name: value for name, value in part.to_json().items() if name != "part" and value != ""}
