"""Detectors by name: ours, and those of any installed package that declares an entry point."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from detectors.base import Detector

GROUP = "anomaly_service.detectors"


class UnknownDetectorError(ValueError):
    """No installed package declares a detector of that name."""


def names() -> list[str]:
    """Return the names of all installed detectors, sorted; imports none of them."""
    return sorted(_entries())


@cache
def get(name: str) -> type[Detector]:
    """Return a detector's class.

    Raises:
        UnknownDetectorError: nobody declares that name; the message lists those who do.
    """
    entries = _entries()
    if name not in entries:
        raise UnknownDetectorError(f"no detector named {name!r}; installed: {', '.join(names())}")
    cls = entries[name].load()
    if not (isinstance(cls, type) and issubclass(cls, Detector)):
        raise TypeError(f"entry point {name!r} of {GROUP!r} is {cls!r}, expected a subclass of Detector")
    return cls


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
