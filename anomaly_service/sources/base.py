"""What every source is: something that yields batches of points and remembers how far it got."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from anomaly_service.config.values import Delay, Section, Step, Text, Zone, expected, whole_seconds
from anomaly_service.errors import SourceError
from pipelines.failures import reason
from pipelines.monitor import Meaning
from pipelines.records import Json, Seconds, SeriesSpec
from pipelines.store import Ingest

BATCH_ROWS = 500_000
"""Rows of one batch: one transaction of a few seconds, some tens of megabytes."""


AS: dict[str, tuple[str, ...]] = {"value": (), "rate": ("*",), "auto": ("*_total",)}
"""Which metrics each word makes rates of; who names counters at all names them ``_total``."""


class SourceConfig(Section):
    """What every source can be told; a source's own Config adds keys to these."""

    kind: Text = Field(description="Which kind of source: `csv`, `sql`, or one that a package adds.")
    step: Step = Field(description="Nominal distance of a series' points, such as `5min`.")
    delay: Delay = Field(default=timedelta(0), description="How late points may come and still be on time.")
    timezone: Zone | None = Field(
        default=None,
        description="IANA zone of timestamps that carry none, and of the daily and weekly season "
        "(UTC where not given). Timestamps without a zone are refused where it is not given.",
    )

    every: Step | None = Field(
        default=None,
        description="Time between two reads; the shortest `infer_every` of the monitors that read it where "
        "not given.",
    )

    absent: Literal["missing", "zero"] = Field(
        default="missing",
        description="What a step without a point stands for: `missing`, or `zero` where the source leaves "
        "out what counted nothing, as a `GROUP BY` does. A whole source that is silent is never zero.",
    )
    as_: Literal["value", "rate", "auto"] | dict[Text, Literal["value", "rate"]] = Field(
        default="value",
        alias="as",
        description="How values are watched: `value` as they are, `rate` (of counters, which only rise until "
        "they start anew) as their rise a second, `auto` as a rate where the metric's name ends in `_total`; "
        "or by metric, such as `{requests_total: rate}`.",
    )

    @field_validator("as_", mode="before")
    @classmethod
    def _known_kinds(cls, value: object) -> object:
        kinds = value.values() if isinstance(value, dict) else ()
        if value in AS if isinstance(value, str) else kinds and {"value", "rate"} >= {*map(str, kinds)}:
            return value
        raise expected(
            "expected value, rate or auto, or metrics with value or rate each, such as {requests_total: rate}"
        )

    def meaning(self) -> Meaning:
        """Return what the source's points stand for."""
        if isinstance(self.as_, str):
            return Meaning(self.absent == "zero", AS[self.as_])
        rates = tuple(name for name, kind in self.as_.items() if kind == "rate")
        return Meaning(self.absent == "zero", rates)

    @property
    def every_seconds(self) -> int | None:
        """Return the seconds between two reads; None where the monitors say how often."""
        return None if self.every is None else max(1, whole_seconds(self.every))

    def spec(self, source: str, metric: str, labels: dict[str, str]) -> SeriesSpec:
        """Return one series as this source declares it."""
        return SeriesSpec(
            metric=metric,
            labels=labels,
            step_seconds=whole_seconds(self.step),
            delay_seconds=whole_seconds(self.delay),
            timezone=self.timezone or "UTC",
            source=source,
        )


@dataclass(frozen=True)
class Reject:
    """One row that could not be read.

    Attributes:
        origin: the file, or the source's name.
        line: 1-based line of the file (its header is line 1), or row of the query's result.
        raw: the row as it came.
    """

    origin: str
    line: int
    reason: str
    raw: str


@dataclass(frozen=True)
class Whence:
    """Where each point of a batch was read: an index into ``files``, and its line there."""

    files: tuple[str, ...]
    file: NDArray[np.int32]
    line: Seconds


@dataclass(frozen=True)
class Reading(Ingest):
    """One batch, with the rows set aside, which whoever ingests it writes to the rejects file.

    Attributes:
        share: how much of what there is to read is read with it, from 0 to 1.
        whence: where the points stand, for what is said of one that is turned away; may be left out.
        notes: sentences for the outcome: what was not read, and why, where that is no error of the read.
    """

    rejects: Sequence[Reject] = ()
    share: float = 0.0
    whence: Whence | None = None
    notes: Sequence[str] = ()


@runtime_checkable
class Source(Protocol):
    """Yields what is new since ``progress``.

    A package adds a source by an entry point of the group ``anomaly_service.sources`` that names
    a class like this; ``kind`` in the config is the entry point's name. The promise: reading
    again from the progress of the last batch that was stored, whichever it was, leaves the same
    points as reading once to the end.
    """

    Config: ClassVar[type[SourceConfig]]

    @property
    def name(self) -> str:
        """Return the source's name in the config."""
        ...

    def __init__(self, name: str, config: SourceConfig) -> None:
        """Keep the arguments; open nothing yet."""
        ...

    def read(self, progress: dict[str, Json], *, now: datetime) -> Iterator[Ingest]:
        """Yield batches of at most about BATCH_ROWS rows, each with the progress it brings.

        Args:
            progress: everything that batches stored before, by key.
            now: the current time, aware.

        Raises:
            SourceError: part of it could not be read; raised after everything else was yielded.
        """
        ...


@runtime_checkable
class ReadsAgain(Protocol):
    """What a source can that takes only rows near its newest point, unless it is asked.

    It is asked once a night for the late window, and by ``anomaly ingest --since``.
    """

    def read_again(self, progress: dict[str, Json], *, now: datetime, since: datetime) -> Iterator[Ingest]:
        """Yield all that lies between two times, as ``read`` does, be it known or not.

        What its batches bring as progress never takes ``read`` back, nor past anything that was not read.

        Raises:
            SourceError: part of it could not be read.
        """
        ...


def unbroken(source: str, batches: Iterator[Ingest]) -> Iterator[Ingest]:
    """Yield what a source reads; whatever breaks in it is the source's error, and nobody else's.

    Raises:
        SourceError: part of it could not be read.
    """
    try:
        yield from batches
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"{source}: cannot be read any further: {reason(error)}") from error


@runtime_checkable
class Forgets(Protocol):
    """What a source may be besides: one that can tell which of its memories nobody needs any more."""

    def outlived(self, progress: dict[str, Json], before: int) -> list[str]:
        """Return the keys of ``progress`` without which nothing newer than ``before`` is read twice."""
        ...
