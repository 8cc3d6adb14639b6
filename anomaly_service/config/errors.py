"""What is wrong with a config file: every problem with its file, line, path and what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detectors.errors import InvalidError
from detectors.spelling import did_you_mean

Loc = tuple[str | int, ...]
"""Keys and list positions that lead to a value, such as ``("monitors", "players-drop", "policy")``."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: the config file, or the environment variable a value came from.
        line: 1-based; 0 where the value stands in no file.
        loc: where in the config.
        message: what was expected, what came, what to do; never a secret.
    """

    file: str
    line: int
    loc: Loc
    message: str

    @property
    def path(self) -> str:
        """``monitors.players-drop.policy.min_duraton``; empty for the file as a whole."""
        return dotted(self.loc)

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (where, self.path, self.message) if part)


class ConfigError(InvalidError):
    """The config cannot be used; nothing was changed. ``problems`` holds all of them, by line.

    ``note`` says what else there is to know, such as which config was good last.
    """

    def __init__(self, problems: Iterable[Problem], note: str = "") -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda p: (p.line, p.path)))
        self.note = note
        super().__init__("\n".join([*map(str, self.problems), *([note] if note else [])]))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...], str]]:
        # Its text is no argument that makes it anew where it travels from a worker.
        return ConfigError, (self.problems, self.note)


def dotted(loc: Sequence[str | int]) -> str:
    """Return a path as people write it.

    >>> dotted(("sources", "telemetry", "labels", 1))
    'sources.telemetry.labels[1]'
    """
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def one_of(allowed: Iterable[str]) -> str:
    """Return ``a, b, c``, sorted, for the end of a message."""
    return ", ".join(sorted(allowed)) or "none"


def unknown_key(key: str, allowed: Sequence[str], below: Sequence[str] = ()) -> str:
    """Return the message for a key that does not exist, with the nearest that does.

    Args:
        below: keys of the sections below, such as ``fit.window``.

    >>> unknown_key("min_duraton", ["min_duration", "cooldown"])
    "unknown key; did you mean 'min_duration'? allowed: min_duration, cooldown"
    >>> unknown_key("window", ["fit", "policy"], ["fit.every", "fit.window"])
    "unknown key; did you mean 'fit.window'? allowed: fit, policy"
    """
    inside = [path for path in below if path.rpartition(".")[2] == key]
    hint = f"; did you mean {inside[0]!r}?" if inside else did_you_mean(key, [*allowed, *below]) or ";"
    return f"unknown key{hint} allowed: {', '.join(allowed)}"
