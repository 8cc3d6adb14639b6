"""What stands in place of a result where work on one target fails, so that nobody else suffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

LONGEST_REASON = 1_000
"""Characters: some exceptions carry their data along."""


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
