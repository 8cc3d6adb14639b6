"""Somewhere to run: what a job asks for when work is heavy enough to leave the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LONGEST_REASON = 1_000
"""Characters: some exceptions carry their data along."""


class WorkerDiedError(RuntimeError):
    """One item of work killed its worker as often as it may be tried."""


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


@dataclass(frozen=True)
class Failed:
    """Stands in place of what work on one target would have given."""

    why: str


def each_alone(work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R | Failed]:
    """Return what work on items gives, in order.

    Where it fails they are taken one by one, so that only the culprit is left out.
    """
    try:
        return list(work(items))
    except Exception as error:  # recorded, with the item that caused it
        if len(items) == 1:
            return [Failed(reason(error))]
    return [each for item in items for each in each_alone(work, [item])]


def reason(error: BaseException) -> str:
    """Return what an exception says, as text that every database takes.

    >>> reason(ValueError("half a character: \\ud83d"))
    'ValueError: half a character: \\\\ud83d'
    """
    # What broke may be text that no database takes: half a character, or a NUL.
    said = f"{type(error).__name__}: {error}".replace("\0", "\\0")[:LONGEST_REASON]
    return said.encode("utf-8", "backslashreplace").decode()
