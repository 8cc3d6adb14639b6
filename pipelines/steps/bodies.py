"""What the rows of calibrations and lines hold, with its way to JSON and back.

Between jobs and store a row is JSON. Whoever reads one makes an entry of it first: no other file knows the
fields. Format 0 is what was written before there was a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from pipelines.formats import format_of
from pipelines.monitor import Threshold
from pipelines.records import Json, Values
from pipelines.steps.evidence import Realised, Seen

CALIBRATION_FORMAT = 1
LINE_FORMAT = 1


@dataclass(frozen=True)
class Body:
    """What one target scores while nothing is known to be wrong, learned at a fit.

    Attributes:
        knots, surprises: scores and their surprises, both strictly ascending; the last knot is u, where the
            tail begins.
        n: steps with a score.
        seconds: how long those are.
        clusters: independent runs of scores over u.
        mean_excess: how far the scores over u exceed it.
        noise: variance of the log of that mean.
        spread: u less the median score.
        maxima: how far the highest scores of the clusters exceed u, highest first.
        maxima_counts: how many clusters each of those stands for.
        mean, deviation: of all scores.
        dynamic: the score above which the rest looks calmest.
        levels: scores, ascending.
        alarms: how many intervals a line at each level would have given.
        points: how many steps lie at or above each level.
    """

    knots: tuple[float, ...]
    surprises: tuple[float, ...]
    n: int
    seconds: int
    clusters: int
    mean_excess: float
    noise: float
    spread: float
    maxima: tuple[float, ...]
    maxima_counts: tuple[float, ...]
    mean: float
    deviation: float
    dynamic: float
    levels: tuple[float, ...]
    alarms: tuple[int, ...]
    points: tuple[int, ...]

    @property
    def u(self) -> float:
        """The score at which the tail begins."""
        return self.knots[-1]

    @cached_property
    def knot_values(self) -> Values:
        return np.array(self.knots)

    @cached_property
    def surprise_values(self) -> Values:
        return np.array(self.surprises)

    @cached_property
    def level_values(self) -> Values:
        return np.array(self.levels)

    def to_json(self) -> Json:
        return {
            "knots": list(self.knots),
            "surprises": list(self.surprises),
            "n": self.n,
            "seconds": self.seconds,
            "clusters": self.clusters,
            "mean_excess": self.mean_excess,
            "noise": self.noise,
            "spread": self.spread,
            "maxima": [list(self.maxima), list(self.maxima_counts)],
            "mean": self.mean,
            "deviation": self.deviation,
            "dynamic": self.dynamic,
            "levels": list(self.levels),
            "alarms": list(self.alarms),
            "points": list(self.points),
        }

    @classmethod
    def from_json(cls, values: Json) -> Body:
        """Return the body that ``to_json`` wrote; what stands beside it is left out."""
        maxima, counts = values["maxima"]
        return cls(
            knots=tuple(values["knots"]),
            surprises=tuple(values["surprises"]),
            n=values["n"],
            seconds=values["seconds"],
            clusters=values["clusters"],
            mean_excess=values["mean_excess"],
            noise=values["noise"],
            spread=values["spread"],
            maxima=tuple(maxima),
            maxima_counts=tuple(counts),
            mean=values["mean"],
            deviation=values["deviation"],
            dynamic=values["dynamic"],
            levels=tuple(values["levels"]),
            alarms=tuple(values["alarms"]),
            points=tuple(values["points"]),
        )


class Holds(StrEnum):
    """What a row of calibrations holds."""

    FIT = "fit"
    """What the fit of its version taught."""
    SEEN = "seen"
    """What scores since have shown, up to a night."""
    BOTH = "both"
    """Both: a night at which its version began."""


@dataclass(frozen=True)
class CalibrationEntry:
    """What a row of calibrations holds: at least one of the two."""

    fit: Body | None = None
    seen: Seen | None = None

    @property
    def holds(self) -> Holds:
        if self.fit is None:
            return Holds.SEEN
        return Holds.FIT if self.seen is None else Holds.BOTH

    def to_json(self) -> Json:
        return {
            "format": CALIBRATION_FORMAT,
            "holds": str(self.holds),
            **({} if self.fit is None else self.fit.to_json()),
            **({} if self.seen is None else {"seen": self.seen.to_json()}),
        }

    @classmethod
    def from_json(cls, values: Json) -> CalibrationEntry:
        """Return the entry that ``to_json`` wrote, or the releases before it.

        Raises:
            NewerFormatError: a newer release wrote it.
        """
        written = format_of(values, CALIBRATION_FORMAT, "a calibration")
        holds = _held(values) if written == 0 else Holds(values["holds"])
        return cls(
            fit=None if holds is Holds.SEEN else Body.from_json(values),
            seen=None if holds is Holds.FIT else Seen.from_json(values["seen"]),
        )


def of_fit(taught: Mapping[str, Body]) -> dict[str, Json]:
    """Return the first calibrations of a version, by mode, as its rows hold them."""
    return {mode: CalibrationEntry(fit=body).to_json() for mode, body in taught.items()}


def _held(values: Json) -> Holds:
    """Return what a row of format 0 holds: only its fields told."""
    if "knots" not in values:
        return Holds.SEEN
    return Holds.BOTH if "seen" in values else Holds.FIT


@dataclass(frozen=True)
class Typical:
    """What makes a target's normaliser, where little is known of itself.

    Attributes:
        ratio: mean excess over spread of the targets of a monitor.
        variety: variance of its log over them.
    """

    ratio: float
    variety: float


@dataclass(frozen=True)
class Tail(Typical):
    """The tail that the targets of a monitor share, in units of the normaliser of each.

    Attributes:
        shape: 0 (exponential) or more: a tail without end.
        maxima: how many clusters it was learned from.
    """

    shape: float
    scale: float
    maxima: int


@dataclass(frozen=True)
class Placed:
    """What a line was placed by.

    Attributes:
        asked: alarms, or points, that the unseen scores may give; as many as the threshold asks for.
        placed_at: as many as were counted where it was placed; from there it was moved along the tail.
        per: whose budget it is.
        alarms_per_week: the budget that it holds, which is less than the one asked for where the data
            could not hold that.
    """

    asked: float
    placed_at: float
    per: str
    alarms_per_week: float


@dataclass(frozen=True)
class Line:
    """A line, and the tail on which it lies.

    Attributes:
        method: how it was found, a method of ``Threshold``.
        surprise: at the line, of the methods that find one for all targets; None for the others, which
            place it among the scores of each target.
        value: deviations from the mean, of ``sigma``.
        placed: None where it was not placed among unseen scores.
    """

    tail: Tail
    method: str
    surprise: float | None = None
    value: float | None = None
    placed: Placed | None = None

    def to_json(self) -> Json:
        known = {"surprise": self.surprise, "value": self.value}
        return {
            **asdict(self.tail),
            "method": self.method,
            **{name: value for name, value in known.items() if value is not None},
            **({} if self.placed is None else {"evidence": asdict(self.placed)}),
        }

    @classmethod
    def from_json(cls, values: Json) -> Line:
        """Return the line that ``to_json`` wrote; what stands beside it is left out."""
        placed = values.get("evidence")
        return cls(
            tail=Tail(**{name: values[name] for name in Tail.__dataclass_fields__}),
            method=values["method"],
            surprise=values.get("surprise"),
            value=values.get("value"),
            placed=None if placed is None else Placed(**placed),
        )


@dataclass(frozen=True)
class CountedAlarms:
    """What lines of a monitor turned out to give up to a night.

    Attributes:
        mark: of model and policy that gave them: those of others say nothing.
    """

    mark: str
    realised: Realised

    def to_json(self) -> Json:
        return {"mark": self.mark, **self.realised.to_json()}

    @classmethod
    def from_json(cls, values: Json) -> CountedAlarms:
        return cls(values["mark"], Realised.from_json(values))


@dataclass(frozen=True)
class LineEntry:
    """What a row of lines holds.

    Attributes:
        threshold: what the line was asked to be.
        counted: up to the night of the row; only on rows of whole monitors, and None where no night was.
    """

    line: Line
    threshold: Threshold
    counted: CountedAlarms | None = None

    def to_json(self) -> Json:
        return {
            "format": LINE_FORMAT,
            **self.line.to_json(),
            "threshold": asdict(self.threshold),
            "realised": None if self.counted is None else self.counted.to_json(),
        }

    @classmethod
    def from_json(cls, values: Json) -> LineEntry:
        """Return the entry that ``to_json`` wrote, or the releases before it.

        Raises:
            NewerFormatError: a newer release wrote it.
        """
        format_of(values, LINE_FORMAT, "a line")
        counted = values.get("realised")
        return cls(
            line=Line.from_json(values),
            threshold=Threshold(**values["threshold"]),
            counted=None if counted is None else CountedAlarms.from_json(counted),
        )
