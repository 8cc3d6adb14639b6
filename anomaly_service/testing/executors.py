"""What every executor owes, as checks that run over one: ``check_executor``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from anomaly_service.testing.contract import Check, Contract, refused
from pipelines.executor import Executor

CONTRACT = Contract("executor")

AHEAD = 64
"""Items that may be read before their turn: enough to keep a cluster busy, too few to fill memory."""


def check_executor(executor: Executor, on_check: Callable[[Check], None] | None = None) -> None:
    """Hold an executor to everything that every executor owes; it stays open.

    Args:
        on_check: told before each check, such as ``print``.

    Raises:
        AssertionError: it breaks a promise; all that it breaks stand in the message.
    """
    CONTRACT.hold(Held(executor), on_check)


@dataclass(eq=False)
class Held:
    """An executor that is held to the contract."""

    executor: Executor

    def __str__(self) -> str:
        return type(self.executor).__name__


def square(x: int) -> int:
    return x * x


def refuse_three(x: int) -> int:
    if x == 3:
        raise KeyError("three")
    return x


@CONTRACT.promise()
def every_item_gets_its_result(executor: Executor) -> None:
    assert sorted(executor.map(square, range(20))) == [(x, x * x) for x in range(20)]


@CONTRACT.promise()
def no_item_gives_no_result(executor: Executor) -> None:
    assert list(executor.map(square, [])) == []


@CONTRACT.promise()
def items_are_read_only_a_little_ahead_of_the_work(executor: Executor) -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for x in range(1000):
            read.append(x)
            yield x

    results = executor.map(square, source())
    assert read == []
    next(results)
    assert len(read) <= AHEAD, f"{len(read)} items were read for the first result"
    results.close()  # type: ignore[attr-defined]  # a generator


@CONTRACT.promise()
def what_work_raises_arrives_unchanged_and_it_stays_usable(executor: Executor) -> None:
    with refused(KeyError, "three"):
        list(executor.map(refuse_three, [1, 2, 3]))
    assert sorted(executor.map(square, [4])) == [(4, 16)]
