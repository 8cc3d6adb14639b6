"""What a caller of the service may catch; every message says what to do."""

from __future__ import annotations


class AnomalyServiceError(Exception):
    """Base of everything the service raises on purpose."""


class DatabaseError(AnomalyServiceError):
    """Something is wrong with the database rather than with the request."""


class DatabaseUnavailableError(DatabaseError):
    """The database cannot be reached, or gave up on the statement; the transaction left nothing behind."""


class SchemaError(DatabaseError):
    """The database has no schema, or that of another release; run ``anomaly migrate``."""


class SeriesError(AnomalyServiceError, ValueError):
    """What was passed cannot be read as time series, or nothing can be learned from it."""


class TooShortError(SeriesError):
    """A series has fewer points than a model needs; ``points`` and ``needed`` say how many."""

    def __init__(self, message: str, *, points: int, needed: int) -> None:
        super().__init__(message)
        self.points, self.needed = points, needed


class UnknownEventError(AnomalyServiceError, LookupError):
    """No event with this id can be reviewed."""


class ReviewedEventError(AnomalyServiceError):
    """A reviewed or added event was about to become outdated; people's verdicts must stay."""
