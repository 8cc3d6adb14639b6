"""Somewhere to run: what a job asks for when work is heavy enough to leave the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Runs a function over items, here or elsewhere."""

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Yield (item, result) as results come, in any order.

        ``work`` is a module-level function that takes and returns picklable values. ``items`` is
        consumed lazily, a little ahead of the work, so that reading may happen while it is iterated.

        Raises:
            WorkerDiedError: an item killed its worker on every attempt.
            Exception: what ``work`` raised, unchanged.
        """
        ...

    def close(self) -> None:
        """Stop the workers; running work is abandoned."""
        ...


class Inline:
    """Runs everything in the calling process: for tests and small jobs."""

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        for item in items:
            yield item, work(item)

    def close(self) -> None:
        return None
