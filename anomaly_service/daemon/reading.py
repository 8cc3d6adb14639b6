"""The lane in which sources are read, beside the work of the monitors.

Every read has a thread of its own, so that a source that is slow, or hangs for good, keeps neither
the other sources nor the monitors waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from anomaly_service.errors import LeavingError
from pipelines.records import Claim

GRACE_SECONDS = 5.0
"""How long reads may take to give back what they were at when the daemon stops; one that hangs is left
behind, and claimed again once its lease ends."""


class Reads:
    """Starts reads as they come due, from a thread of its own.

    Args:
        claim: puts due reads into the run table and takes one, but for some runs; None where
            there is none to take.
        work: works on one, and says whether it did not fail.
        on_end: called when one ended, however.
        on_trouble: called with what must end the daemon.
        wait: waits until it is time to look again.
        is_stopping: True once the daemon was told to stop.
    """

    def __init__(
        self,
        claim: Callable[[set[int]], Claim | None],
        work: Callable[[Claim], bool],
        on_end: Callable[[], None],
        on_trouble: Callable[[BaseException], None],
        wait: Callable[[], None],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._claim = claim
        self._work = work
        self._on_end = on_end
        self._on_trouble = on_trouble
        self._wait = wait
        self._is_stopping = is_stopping
        self._failed: set[int] = set()
        self._at_work: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._guarded, args=(self._run,), name="reads", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait until every read has ended, but no longer than the grace."""
        deadline = time.monotonic() + GRACE_SECONDS
        self._thread.join(GRACE_SECONDS)
        for thread in self._at_work:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._is_stopping():
            self._look()
            self._wait()

    def _look(self) -> None:
        """Start all that is due; what failed since the last look is tried again."""
        self._failed.clear()
        self._at_work = [thread for thread in self._at_work if thread.is_alive()]
        while not self._is_stopping() and (claim := self._claim(set(self._failed))) is not None:
            thread = threading.Thread(
                target=self._guarded, args=(self._read, claim), name=f"read-{claim.source}", daemon=True
            )
            self._at_work.append(thread)
            thread.start()

    def _read(self, claim: Claim) -> None:
        if not self._work(claim):
            self._failed.add(claim.run_id)
        self._on_end()

    def _guarded(self, action: Callable[..., None], *args: Claim) -> None:
        """Do something in this thread; what nobody foresaw ends the daemon, and not the thread alone."""
        try:
            action(*args)
        except LeavingError:
            pass
        except BaseException as error:
            self._on_trouble(error)
