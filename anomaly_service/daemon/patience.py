"""Waiting for a database that is away, without losing count of who waits or saying it twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog

from anomaly_service.daemon.telemetry import Telemetry
from anomaly_service.errors import DatabaseUnavailableError, LeavingError

P = ParamSpec("P")
T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
"""Between two tries while the database is away, doubling from the first to the longest."""

LOOK_UP_SECONDS = 0.1
"""How soon whoever pauses notices that the daemon was told to stop."""


class Patience:
    """Does something at the database as often as it takes; threads may share one.

    Args:
        is_stopping: says when to leave.

    Attributes:
        limit_seconds: for how long at most; infinite where nothing else is said.
    """

    def __init__(self, telemetry: Telemetry, is_stopping: Callable[[], bool]) -> None:
        self.limit_seconds = float("inf")
        self._telemetry = telemetry
        self._is_stopping = is_stopping
        self._log = structlog.get_logger("anomaly.daemon")
        # Threads whose last try failed: what one of them reads is no sign that another can write.
        self._waiting: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, action: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Return what ``action`` returns, trying again while the database is away.

        Raises:
            LeavingError: told to stop meanwhile.
            DatabaseUnavailableError: it was away for longer than the limit.
        """
        pause, since = FIRST_PAUSE_SECONDS, time.monotonic()
        while True:
            try:
                result = action(*args, **named)
            except DatabaseUnavailableError as error:
                self._note_away(error)
                if self._is_stopping():
                    raise LeavingError from error
                if time.monotonic() - since > self.limit_seconds:
                    raise
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except BaseException:
                self._note_back()  # it answered, if with something else
                raise
            else:
                self._note_back()
                return result

    def finds_it_away(self, action: Callable[[], object]) -> bool:
        """Ask the database once; True where it does not answer."""
        try:
            action()
        except DatabaseUnavailableError as error:
            self._note_away(error)
            return True
        return False

    def _note_away(self, error: DatabaseUnavailableError) -> None:
        self._telemetry.beat()
        self._telemetry.database(str(error))
        with self._lock:
            was_away = bool(self._waiting)
            self._waiting.add(threading.get_ident())
        if not was_away:
            self._log.error("database away, trying until it is back", reason=str(error))

    def _note_back(self) -> None:
        with self._lock:
            was_away = bool(self._waiting)
            self._waiting.discard(threading.get_ident())
            if self._waiting:
                return
        self._telemetry.database()
        if was_away:
            self._log.info("database back")

    def _rest(self, seconds: float) -> None:
        """Wait so long; a stop ends it."""
        deadline = time.monotonic() + seconds
        while not self._is_stopping() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_UP_SECONDS))
