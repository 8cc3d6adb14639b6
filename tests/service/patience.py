"""Waiting for what other processes and threads do: for progress, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 600.0
"""How long a test waits for one thing: it fails where nothing happens at all, not where little does."""


def looking(told: Callable[[], str], pause_seconds: float = 0.05) -> Iterator[None]:
    """Yield for every look at what is waited for; in the end fail with what is told of it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(pause_seconds)
    raise AssertionError(f"after {PATIENCE_SECONDS:.0f} s still not: {told()}")


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds."""
    for _ in looking(lambda: what):
        if condition():
            return
