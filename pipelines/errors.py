"""What callers of jobs, workers and steps may catch; ``anomaly_service.errors`` has all errors."""

from __future__ import annotations

from detectors.errors import ConflictError, UnavailableError
from detectors.errors import InvalidError as InvalidError


class BudgetError(InvalidError):
    """The unseen data cannot hold the alarm budget: its line would lie among normal points."""


class UnstorableError(InvalidError):
    """Something of what was to be stored is nothing that a database takes; nothing was written."""


class NewerFormatError(ConflictError):
    """Stored JSON is laid out as a newer release does; nothing was read of it."""


class LostClaimError(ConflictError):
    """The lease of this run ended and another daemon may hold it; nothing was written."""


class BusySourceError(ConflictError):
    """Somebody else reads this source at the moment; nothing was begun."""


class StaleEventsError(ConflictError):
    """An event changed while its scores were computed; reconcile again from the stored events."""


class StaleModelsError(ConflictError):
    """A monitor's models stood anew while scores were computed by the old ones; score again."""


class NotExplainableError(ConflictError):
    """The score of an interval cannot be computed again; the message says why."""


class TooCommonError(ConflictError):
    """A latent in which a window is like a large share of all others says nothing about it."""


class StoppedError(UnavailableError):
    """The job was asked to stop; what it committed stands, the rest is done when it runs again."""


class WorkerDiedError(UnavailableError):
    """One item of work killed its worker as often as it may be tried."""
