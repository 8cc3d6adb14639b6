"""Where heavy work runs: one file per kind of executor, found by entry point and built here alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from detectors.errors import NotFoundError

if TYPE_CHECKING:
    from pipelines.executor import Executor

GROUP = "anomaly_service.executors"
LOCAL = "local"
"""Processes on this machine."""


def kinds() -> list[str]:
    """Return the kinds of all installed executors, sorted; imports none of them."""
    return sorted(_entries())


def build(
    workers: int,
    *,
    kind: str = LOCAL,
    on_restart: Callable[[], None] = lambda: None,
    task_seconds: float | None = None,
) -> Executor:
    """Return an executor; nothing is started before its first use.

    A package adds a kind by an entry point of the group ``anomaly_service.executors`` that names
    what takes ``workers``, ``on_restart`` and ``task_seconds`` and returns an ``Executor``.

    Args:
        workers: processes that work at once.
        on_restart: called when workers that died are replaced.
        task_seconds: how long one item may take before its worker is killed; None for ever.

    Raises:
        NotFoundError: nobody declares that kind; the message lists those there are.
    """
    entries = _entries()
    if kind not in entries:
        raise NotFoundError(f"no executor of kind {kind!r}; installed: {', '.join(kinds())}")
    made: Executor = entries[kind].load()(workers, on_restart=on_restart, task_seconds=task_seconds)
    return made


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
