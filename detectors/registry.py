"""Detectors and classifiers by name: ours, and those of any package that declares an entry point."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from detectors.base import Detector
from detectors.classifier import Classifier
from detectors.errors import InvalidError, UnknownClassifierError, UnknownDetectorError

GROUP = "anomaly_service.detectors"
CLASSIFIERS = "anomaly_service.classifiers"


def names() -> list[str]:
    """Return the names of all installed detectors, sorted; imports none of them."""
    return sorted(_entries(GROUP))


_own: dict[str, type[Detector]] = {}
"""Classes without an entry point that this process was shown, by the name ``name_of`` gave them."""


def name_of(cls: type[Detector]) -> str:
    """Return the name under which ``get`` finds a class: that of its entry point.

    A class without one, such as one that was just written in a notebook, is found under its module and name
    from now on, in this process alone; one that is written again takes its place.
    """
    for entry in _entries(GROUP).values():
        if entry.value == f"{cls.__module__}:{cls.__qualname__}" and entry.load() is cls:
            return entry.name
    name = f"{cls.__module__}.{cls.__qualname__}"
    _own[name] = cls
    return name


def told(
    detector: str | Detector | type[Detector], params: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Return name and settings of a detector, in whatever way it is told.

    >>> from detectors.gaussian import GaussianDetector
    >>> told("kde", {"window": 48}), told(GaussianDetector)
    (('kde', {'window': 48}), ('gaussian', {}))

    Raises:
        TypeError: it is none, or has settings of its own beside those given.
    """
    if isinstance(detector, str):
        return detector, dict(params or {})
    if isinstance(detector, Detector):
        if params:
            raise TypeError(f"expected params beside the name of a detector; {detector!r} has its own")
        return name_of(type(detector)), detector.settings
    if isinstance(detector, type) and issubclass(detector, Detector):
        return name_of(detector), dict(params or {})
    raise TypeError(f"expected the name of a detector, a Detector or its class, got {detector!r}")


def get(name: str) -> type[Detector]:
    """Return a detector's class.

    Raises:
        UnknownDetectorError: nobody declares that name; the message lists those who do.
        InvalidError: the entry point names something else than a detector.
    """
    return _own[name] if name in _own else _declared(name)


@cache
def _declared(name: str) -> type[Detector]:
    if name not in _entries(GROUP):
        raise UnknownDetectorError(f"no detector named {name!r}; installed: {', '.join(names())}")
    return _loaded(GROUP, name, Detector)


def classifier_names() -> list[str]:
    """Return the names of all installed classifiers, sorted; imports none of them."""
    return sorted(_entries(CLASSIFIERS))


@cache
def classifier(name: str) -> type[Classifier]:
    """Return a classifier's class.

    Raises:
        UnknownClassifierError: nobody declares that name; the message lists those who do.
        InvalidError: the entry point names something else than a classifier.
    """
    if name not in _entries(CLASSIFIERS):
        raise UnknownClassifierError(
            f"no classifier named {name!r}; installed: {', '.join(classifier_names())}"
        )
    return _loaded(CLASSIFIERS, name, Classifier)


def _loaded(group: str, name: str, base: type) -> Any:
    cls = _entries(group)[name].load()
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise InvalidError(
            f"entry point {name!r} of {group!r} is {cls!r}, expected a subclass of {base.__name__}"
        )
    return cls


def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}
