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


class UnknownEventError(AnomalyServiceError, LookupError):
    """No event with this id can be reviewed."""


class ReviewedEventError(AnomalyServiceError):
    """A reviewed or added event was about to become outdated; people's verdicts must stay."""


class AskedError(AnomalyServiceError, ValueError):
    """What a command asks for cannot be; the message says what can."""


class UnknownSeriesError(AnomalyServiceError, ValueError):
    """No series, and no target of several, is called so."""


class UnknownMonitorError(AnomalyServiceError, ValueError):
    """Neither the config nor the database knows the monitor."""


class ChangedEventError(AnomalyServiceError):
    """An event is not what it was when somebody looked at it."""


class OverlappingEventError(AnomalyServiceError):
    """Where an event is to be added lies another."""


class NothingToUndoError(AnomalyServiceError):
    """No act of a person on the event stands any more."""
