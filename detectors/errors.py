"""What callers may catch: the root of the one tree of errors, its five kinds, and those of detectors.

Every message says what was expected, what came and what to do, so that it can be shown as it is. What a
programmer passes wrongly is a ``ValueError`` or ``TypeError`` of Python's and no part of the tree. The tree
grows in ``pipelines.errors`` and ``anomaly_service.errors``, which has all of it.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class ErrorKind(Enum):
    """What went wrong, in the terms of HTTP: the value is the status that an API answers with."""

    REFUSED = 403
    NOT_FOUND = 404
    CONFLICT = 409
    INVALID = 422
    UNAVAILABLE = 503


class AnomalyServiceError(Exception):
    """Base of everything that is raised on purpose; what is raised is of one of the five kinds below."""

    kind: ClassVar[ErrorKind]


class RefusedError(AnomalyServiceError, RuntimeError):
    """It could be done and will not be: something of people's would be lost."""

    kind = ErrorKind.REFUSED


class NotFoundError(AnomalyServiceError, LookupError):
    """There is nothing of that name or number."""

    kind = ErrorKind.NOT_FOUND


class ConflictError(AnomalyServiceError, RuntimeError):
    """What is there, or has changed meanwhile, does not allow it."""

    kind = ErrorKind.CONFLICT


class InvalidError(AnomalyServiceError, ValueError):
    """What was asked for, or is in the data, is none that can be worked with."""

    kind = ErrorKind.INVALID


class UnavailableError(AnomalyServiceError, RuntimeError):
    """Something that is needed is not there or does not answer; the same may go well later, or elsewhere."""

    kind = ErrorKind.UNAVAILABLE


class NotFittedError(ConflictError):
    """The detector holds no model yet; call fit(windows) or load(config, state) first."""


class UnknownDetectorError(NotFoundError):
    """No installed package declares a detector of that name."""


class UnknownClassifierError(NotFoundError):
    """No installed package declares a classifier of that name."""


class UnknownSettingError(InvalidError, TypeError):
    """A detector has no setting of that name; the message lists those it has."""
