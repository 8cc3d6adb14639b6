"""Names that a config, the store and the command line share; nothing heavy is imported here."""

from __future__ import annotations

from enum import StrEnum

AUTO = "auto"
"""The automatic detector: models chosen for every target."""


class Kind(StrEnum):
    """Why an interval was flagged."""

    ANOMALY = "anomaly"
    FLATLINE = "flatline"
    DATA_MISSING = "data_missing"
    STALE = "stale"
    """Missing up to now: the series stopped. Becomes DATA_MISSING when it comes back."""
    UNSCORED = "unscored"
    """Points came and none was scored, though no gap explains it: they do not keep to the step."""


OF_VALUES = (Kind.ANOMALY, Kind.FLATLINE)
"""What values did. What is missing has no value and a score that counts steps: each ranks among its own."""

SOURCE_STALE = "source_stale"
"""The kind of record that says of a whole source what ``STALE`` says of a series; it has no target."""


class Status(StrEnum):
    """Where an Event stands."""

    OPEN = "open"
    """Reaches the newest scored point: still going on."""
    CLOSED = "closed"
    BELOW_LINE = "below_line"
    """No longer scores, but somebody reviewed or added it, so it stays."""
    OUTDATED = "outdated"
    """No longer scores; kept, never deleted."""
    MERGED = "merged_into"


class Verdict(StrEnum):
    CONFIRMED = "confirmed"
    EXPECTED = "expected"
    FALSE_POSITIVE = "false_positive"
    NEW_TREND = "new_trend"
    UNSURE = "unsure"


class Act(StrEnum):
    """What a person did to an event."""

    VERDICT = "verdict"
    """Judged it; may have moved its borders too."""
    BORDERS = "borders"
    """Moved its borders and left the verdict as it was."""
    ADD = "add"
    """Drew it where nothing was flagged, and judged it."""
    UNDO = "undo"
    """Took back the newest act that stood."""


class Mode(StrEnum):
    """Which of a point's two scores: with the data up to it, or with hindsight."""

    LIVE = "live"
    SETTLED = "settled"


class RunKind(StrEnum):
    INGEST = "ingest"
    """Take what is new from one source."""
    TICK = "tick"
    """Score what came, live."""
    NIGHTLY = "nightly"
    """Fit what is due, draw the line, rescore with hindsight, retention."""
    RESCORE = "rescore"
    BACKFILL = "backfill"
    FIT = "fit"
    """By a command, as is what follows."""
    SCORE = "score"


class RunState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
