"""A contract as a list of checks: each is a sentence that must be true of whatever is held to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

Work = Callable[..., None]


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        work: raises AssertionError where the promise is broken; its parameters are attributes of what is
            held to the contract, but for those that are given.
        given: the case of a promise that has several, by parameter.
        case: the same in words; empty where there is one.
    """

    work: Work
    given: Mapping[str, Any] = field(default_factory=dict)
    case: str = ""

    def __str__(self) -> str:
        """Return the promise as a sentence."""
        sentence = self.work.__name__.replace("_", " ")
        return f"{sentence} [{self.case}]" if self.case else sentence

    def __call__(self, subject: Any) -> None:
        """Hold something to the promise.

        Raises:
            AssertionError: it is broken; what came stands below the sentence.
        """
        wanted = {name for name in signature(self.work).parameters if name not in self.given}
        try:
            self.work(**{name: getattr(subject, name) for name in wanted}, **self.given)
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{subject}: {self}: broken\n{said}".rstrip()) from error


@dataclass
class Contract:
    """The checks of one kind of thing, in the order in which they were written down.

    >>> numbers = Contract("number")
    >>> @numbers.promise(base={"of ten": 10, "of two": 2})
    ... def it_is_smaller_than_its_base(value, base):
    ...     assert value < base
    >>> [str(check) for check in numbers.checks]
    ['it is smaller than its base [of ten]', 'it is smaller than its base [of two]']
    """

    of: str
    checks: list[Check] = field(default_factory=list)

    def promise(self, **cases: Mapping[str, Any]) -> Callable[[Work], Work]:
        """Take a function as a check; with a parameter's cases, by name, as one check for each."""

        def add(work: Work) -> Work:
            self.checks += [
                Check(work, {parameter: value}, case)
                for parameter, values in cases.items()
                for case, value in values.items()
            ] or [Check(work)]
            return work

        return add

    def hold(self, subject: Any, on_check: Callable[[Check], None] | None = None) -> None:
        """Run every check, also those after one that failed.

        Args:
            on_check: told before each check.

        Raises:
            AssertionError: at least one promise is broken; all that are stand in the message.
        """
        broken = []
        for check in self.checks:
            if on_check is not None:
                on_check(check)
            try:
                check(subject)
            except AssertionError as error:
                broken.append(error)
        if broken:
            head = f"{subject} breaks {len(broken)} of {len(self.checks)} promises of a {self.of}:"
            raise AssertionError("\n\n".join([head, *map(str, broken)])) from broken[0]


@contextmanager
def refused(error: type[Exception], said: str) -> Iterator[None]:
    """Expect the block to raise an error whose message matches a pattern."""
    came = None
    try:
        yield
    except error as raised:
        came = str(raised)
    assert came is not None, f"expected {error.__name__} ({said}), nothing was raised"
    assert re.search(said, came), f"expected a message that says {said!r}, got {came!r}"
