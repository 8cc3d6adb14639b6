"""Whether a run still gets anywhere: told by its last sign of progress, not by how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable


class Progress:
    """When a run last did something; threads may share one.

    Args:
        patience_seconds: without a sign of progress for longer, the run counts as stuck.
        monotonic: clock in seconds.
    """

    def __init__(self, patience_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.patience_seconds = patience_seconds
        self.is_abandoned = False
        self._monotonic = monotonic
        self._last: float | None = monotonic()

    def note(self) -> None:
        """Note a sign of progress: a batch was stored, a piece of work came back."""
        if self._last is not None:
            self._last = self._monotonic()

    def end(self) -> None:
        """Note that the work is done, and only what became of it is to be stored, however long that takes."""
        self._last = None

    @property
    def is_stuck(self) -> bool:
        return self._last is not None and self._monotonic() - self._last > self.patience_seconds
