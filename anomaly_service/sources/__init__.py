"""Where points come from: one file per kind of source, found by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from anomaly_service.sources.base import Source, SourceConfig
from detectors.errors import InvalidError, NotFoundError

GROUP = "anomaly_service.sources"


def kinds() -> list[str]:
    """Return the kinds of all installed sources, sorted; imports none of them."""
    return sorted(_entries())


def get(kind: str) -> type[Source]:
    """Return a source's class.

    Raises:
        NotFoundError: nobody declares that kind; the message lists those there are.
        InvalidError: the entry point names something else than a source.
    """
    entries = _entries()
    if kind not in entries:
        raise NotFoundError(f"no source of kind {kind!r}; installed: {', '.join(kinds())}")
    cls = entries[kind].load()
    config = getattr(cls, "Config", None)
    if not (isinstance(cls, type) and isinstance(config, type) and issubclass(config, SourceConfig)):
        raise InvalidError(
            f"entry point {kind!r} of {GROUP!r} is {cls!r}, expected a class with a Config that derives "
            "from anomaly_service.sources.base.SourceConfig"
        )
    return cls


def build(configs: Mapping[str, SourceConfig]) -> list[Source]:
    """Return the sources of a config, by name; nothing is opened yet."""
    return [get(config.kind)(name, config) for name, config in configs.items()]


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
