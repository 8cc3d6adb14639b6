"""Keeping the right to a run while its work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from anomaly_service.errors import DatabaseError
from pipelines.errors import LostClaimError
from pipelines.records import Claim
from pipelines.store import RunStore

LEASE_SECONDS = 60.0
"""How long a run stays claimed without a heartbeat."""


class Lease:
    """Renews a claim's lease while the context lasts, from a thread of its own.

    Args:
        on_beat: called whenever the lease was renewed.
        is_stuck: says whether the work gets nowhere: then the lease is let go, so that others may take it.
    """

    def __init__(
        self,
        store: RunStore,
        claim: Claim,
        seconds: float = LEASE_SECONDS,
        on_beat: Callable[[], None] = lambda: None,
        is_stuck: Callable[[], bool] = lambda: False,
    ) -> None:
        self.is_lost = False
        self._store = store
        self._claim = claim
        self._seconds = seconds
        self._on_beat = on_beat
        self._is_stuck = is_stuck
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{claim.run_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(self._seconds / 3):
            if self._is_stuck():
                continue
            try:
                self._store.heartbeat(self._claim, self._seconds)
            except LostClaimError:
                self.is_lost = True
                return
            except DatabaseError:
                # The next beat may come in time; where none does, the fence refuses the commit.
                continue
            self._on_beat()
