"""What a worker is given to score and what it returns: plain values, arrays and bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipelines.monitor import MonitorSpec
from pipelines.records import Interval, Json, Points, Seconds, TargetRow, Values
from pipelines.steps.bodies import Body, Line
from pipelines.steps.evidence import Seen
from pipelines.steps.masks import Span


@dataclass(frozen=True)
class SeenAt:
    """What was seen of one target's scores in one mode, from each data time on, ascending."""

    valid_from: Seconds = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    seen: tuple[Seen, ...] = ()

    def then(self, at: int, seen: Seen) -> SeenAt:
        """Return this with what is known from a later time on."""
        return SeenAt(np.append(self.valid_from, at), (*self.seen, seen))


@dataclass(frozen=True)
class Piece:
    """A version, and the half-open span of timestamps that are its to score.

    Attributes:
        recipe: as its version has it, JSON of ``pipelines.workers.members``.
        bodies: what its fit taught of its scores, by mode.
        seen: what scores since have taught, by mode.
        learned_steps: steps of its training span.
        unseen: scores that are there already: of the training span, by models that did not see it.
    """

    version_id: int
    detector: str
    params: Json
    recipe: Json
    weights_id: int
    bodies: dict[str, Body]
    start: int
    stop: int
    learned_steps: int
    seen: dict[str, SeenAt] = field(default_factory=dict)
    unseen: UnseenScores | None = None


@dataclass(frozen=True)
class LinesAt:
    """The lines of one mode, each from a data time on, sorted by ``valid_from``."""

    valid_from: Seconds
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class ScoreTarget:
    """One target, the points its pieces need, and how far each kind of score goes.

    Attributes:
        settled_until: below this the settled score is what counts, from it on the live one.
        observed_until: the grid goes up to here; a trailing gap up to here is a stopped series.
        newest: time of every series' newest point, which may lie beyond the points given.
        patience_seconds: for how long after that none is missing: its source leaves zeros out.
    """

    target: TargetRow
    points: tuple[Points, ...]
    pieces: tuple[Piece, ...]
    lines: dict[str, LinesAt]
    settled_until: int
    observed_until: int
    newest: tuple[int, ...]
    patience_seconds: int = 0


@dataclass(frozen=True)
class ScoreTask:
    """Targets that share a worker call; ``weights`` by id, stored once however many share them."""

    spec: MonitorSpec
    targets: tuple[ScoreTarget, ...]
    weights: dict[int, bytes]


@dataclass(frozen=True)
class Scored:
    """The scores of a target's steps in columns of equal length, and what they flag.

    Attributes:
        busy: first and last second between which all lies that was flagged, or may have been and decides
            on what is; None where there is nothing.
    """

    target_id: int
    ts: Seconds
    version: Seconds
    live: Values
    live_anomaly: Values
    settled: Values
    settled_anomaly: Values
    found: tuple[Interval, ...]
    busy: Span | None = None


@dataclass(frozen=True)
class UnseenScores:
    """Scores of the training span by models that did not see their block, as they are and explained."""

    ts: Seconds
    live: Values
    settled: Values
    own_live: Values
    own_settled: Values
