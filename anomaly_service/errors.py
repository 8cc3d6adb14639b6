"""Every error that a caller may catch, wherever it is raised, and what tells a bug from them.

One tree: each class is of one of five kinds, whose value is the status of HTTP (``error.kind.value``), and
each message says what to do. What else is raised is a bug, a ``ValueError`` too. Importing this is cheap.
"""

from __future__ import annotations

from anomaly_service.config.errors import ConfigError
from detectors.errors import (
    AnomalyServiceError,
    ConflictError,
    ErrorKind,
    InvalidError,
    NotFittedError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    UnknownClassifierError,
    UnknownDetectorError,
    UnknownSettingError,
)
from pipelines.errors import (
    BudgetError,
    BusySourceError,
    LostClaimError,
    NewerFormatError,
    NotExplainableError,
    StaleEventsError,
    StaleModelsError,
    StoppedError,
    TooCommonError,
    UnstorableError,
    WorkerDiedError,
)

__all__ = [
    "AnomalyServiceError",
    "AskedError",
    "BudgetError",
    "BusySourceError",
    "ChangedEventError",
    "ConfigError",
    "ConflictError",
    "DatabaseError",
    "DatabaseReplacedError",
    "DatabaseUnavailableError",
    "ErrorKind",
    "GuessError",
    "InvalidError",
    "LabelledDataError",
    "LeavingError",
    "LostClaimError",
    "NewerFormatError",
    "NoModelError",
    "NoPlotError",
    "NotADemoError",
    "NotComparableError",
    "NotExplainableError",
    "NotFittedError",
    "NotFoundError",
    "NothingToUndoError",
    "OverlappingEventError",
    "RefusedError",
    "ReviewedEventError",
    "SchemaError",
    "SeriesError",
    "SourceError",
    "StaleEventsError",
    "StaleModelsError",
    "StoppedError",
    "TooCommonError",
    "TooShortError",
    "UnavailableError",
    "UnknownClassifierError",
    "UnknownConfigError",
    "UnknownDetectorError",
    "UnknownEventError",
    "UnknownMonitorError",
    "UnknownSeriesError",
    "UnknownSettingError",
    "UnknownSourceError",
    "UnstorableError",
    "WorkerDiedError",
    "is_bug",
    "report",
]


def is_bug(error: BaseException) -> bool:
    """True for what nobody raised on purpose: neither ours, nor the machine's trouble with a file or port."""
    if isinstance(error, OSError):
        # The system numbers its own errors and names the file; without a number somebody else raised it.
        return error.errno is None
    return not isinstance(error, AnomalyServiceError)


def report() -> str:
    """Return what to do about a bug, in one line."""
    from importlib.metadata import version

    return (
        f"This is a bug in anomaly-service {version('anomaly-service')}, not your mistake. "
        "Please report it in its issue tracker, with what you ran and the traceback."
    )


class DatabaseError(UnavailableError):
    """Something is wrong with the database rather than with the request."""


class DatabaseUnavailableError(DatabaseError):
    """The database cannot be reached, or gave up on the statement; the transaction left nothing behind."""


class DatabaseReplacedError(DatabaseError):
    """In the place of the database's file lies another one; nothing was written to either."""


class SchemaError(DatabaseError):
    """The database has no schema, or that of another release; run ``anomaly migrate``."""


class LeavingError(UnavailableError):
    """The daemon was told to stop while it waited for the database."""


class SourceError(UnavailableError):
    """Part of a source could not be read; whatever could was yielded before."""


class NoPlotError(UnavailableError):
    """Pictures need matplotlib, which is not installed."""

    def __init__(
        self, said: str = "pictures need matplotlib; run: pip install 'anomaly-service[plot]'"
    ) -> None:
        super().__init__(said)


class SeriesError(InvalidError):
    """What was passed cannot be read as time series, or nothing can be learned from it."""


class TooShortError(SeriesError):
    """A series has fewer points than a model needs; ``points`` and ``needed`` say how many."""

    def __init__(self, message: str, *, points: int = 0, needed: int = 0) -> None:
        super().__init__(message)
        self.points, self.needed = points, needed


class UnknownSourceError(NotFoundError):
    """A command names a source that the config does not declare."""


class UnknownConfigError(NotFoundError):
    """No config was in force yet in this database."""


class UnknownEventError(NotFoundError):
    """No event with this id can be reviewed."""


class UnknownSeriesError(NotFoundError):
    """No series, and no target of several, is called so."""


class UnknownMonitorError(NotFoundError):
    """Neither the config nor the database knows the monitor."""


class NoModelError(NotFoundError):
    """There is no stored model to draw from."""


class NotComparableError(ConflictError):
    """The event has no latent to compare; the message says why."""


class ReviewedEventError(RefusedError):
    """A reviewed or added event was about to become outdated; people's verdicts must stay."""


class NotADemoError(RefusedError):
    """The folder holds files that no demo wrote; name another with --config."""


class GuessError(InvalidError):
    """A file does not look like time series; the message says what is missing."""


class LabelledDataError(InvalidError):
    """A folder or file is none that series with labels can be read from; the message says why."""


class AskedError(InvalidError):
    """What a command asks for cannot be; the message says what can."""


class ChangedEventError(ConflictError):
    """An event is not what it was when somebody looked at it."""


class OverlappingEventError(ConflictError):
    """Where an event is to be added lies another."""


class NothingToUndoError(ConflictError):
    """No act of a person on the event stands any more."""
