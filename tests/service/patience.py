"""Waiting for what other processes and threads do: for progress, however busy the machine is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def ended_threads() -> Iterator[None]:
    """Wait in the end until every thread that began meanwhile has ended.

    On a busy machine a daemon leaves threads behind that are still at the database when its test is over:
    they would read through what the next test puts in place, and keep connections of a store that is closed.
    """
    before = set(threading.enumerate())
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - before:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive(), f"{thread.name} goes on after its test"
