"""Detectors and classifiers by name: ours, and those of any package that declares an entry point."""

from __future__ import annotations

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


@cache
def get(name: str) -> type[Detector]:
    """Return a detector's class.

    Raises:
        UnknownDetectorError: nobody declares that name; the message lists those who do.
        InvalidError: the entry point names something else than a detector.
    """
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
