"""The rows that pass between sources, jobs and the store: frozen; what they tell follows from what they hold.

What versions, calibrations and lines are made of stands in their rows as JSON, so that neither rows nor store
need to know it; the dataclass that each names reads and writes it.

Times are whole epoch seconds in UTC, int64 where they are many; only the time that a run is scheduled
for is an aware datetime. Spans are half-open, ``start <= t < stop``; an Interval's and an Event's ends
both belong to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.names import Kind, Mode, RunKind, RunState, Status

Seconds = NDArray[np.int64]
Values = NDArray[np.float64]
Json = dict[str, Any]


@dataclass(frozen=True)
class SeriesSpec:
    """One named stream as a source declares it.

    Attributes:
        metric: such as ``ccu``.
        labels: such as ``{"realm": "kr-1"}``; the order does not matter.
        step_seconds: nominal distance of points.
        delay_seconds: how late points may come and still be on time.
        timezone: IANA name, for daily and weekly season.
        source: name of the source in the config.
    """

    metric: str
    labels: dict[str, str]
    step_seconds: int
    delay_seconds: int = 0
    timezone: str = "UTC"
    source: str = ""

    @property
    def key(self) -> str:
        """``metric{a=1,b=2}`` with labels sorted: the series' name everywhere."""
        return key_of([self.metric], self.labels)


def key_of(metrics: Sequence[str], labels: Mapping[str, str]) -> str:
    """Return the name of one series, or of several as one target.

    A comma, brace, equals sign or backslash inside a name or value has a backslash before it, so that
    no two share a key.

    >>> key_of(["ccu", "logins"], {"realm": "kr-1"})
    'ccu,logins{realm=kr-1}'
    """
    inner = ",".join(f"{_escaped(name)}={_escaped(labels[name])}" for name in sorted(labels))
    names = ",".join(map(_escaped, metrics))
    return f"{names}{{{inner}}}" if inner else names


_ESCAPES = str.maketrans({char: f"\\{char}" for char in "\\,={}"})


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


@dataclass(frozen=True)
class SeriesRow:
    """A stored series; times are epoch seconds.

    Attributes:
        first_ts: of the oldest point that is stored.
        last_ts: of the newest that ever was, whatever was deleted since.
        begun_ts: of the oldest that ever was.
        pruned_before: retention has deleted the points before.
        live: its source was once seen to deliver, so that time goes on for it.
    """

    id: int
    spec: SeriesSpec
    first_ts: int | None
    last_ts: int | None
    begun_ts: int | None = None
    pruned_before: int | None = None
    live: bool = False

    @property
    def begun(self) -> int | None:
        """When the series began, whatever was deleted since: when a fit falls must not move with it."""
        return self.first_ts if self.begun_ts is None else self.begun_ts

    @property
    def whole_from(self) -> int | None:
        """From when on all its points are there; None where nothing was deleted of them."""
        begun, pruned = self.begun, self.pruned_before
        return pruned if begun is not None and pruned is not None and begun < pruned else None


@dataclass(frozen=True)
class PointBlock:
    """Points of many series in columns of equal length, sorted by series and time where read back."""

    series: Seconds
    """Index into the accompanying list of keys when ingested, series id when read back."""
    ts: Seconds
    value: Values

    def __len__(self) -> int:
        return len(self.ts)

    @classmethod
    def empty(cls) -> PointBlock:
        """Return a block without points."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class Points:
    """The points of one series, sorted by time, no two of the same second."""

    ts: Seconds
    value: Values


@dataclass(frozen=True)
class Policy:
    """What of a run of high scores becomes an interval.

    Attributes:
        detection_direction: ``both``, ``above_expected`` or ``below_expected``.
        min_dev_from_expected: in the series' unit.
        min_rel_dev_from_expected: share of the expected value, 0.05 for 5 %.
        min_duration_seconds: shorter intervals are dropped (an interval of n steps lasts n steps).
        merge_max_gap_seconds: intervals with at most this much normal time between become one.
        cooldown_seconds: after an interval ends, no new one starts for so long, unless it is much higher or
            longer.
        missing_after_steps: a gap of at least so many steps is an event of its own.
    """

    detection_direction: str = "both"
    min_dev_from_expected: float = 0.0
    min_rel_dev_from_expected: float = 0.0
    min_duration_seconds: int = 0
    merge_max_gap_seconds: int = 3600
    cooldown_seconds: int = 0
    missing_after_steps: int = 3


@dataclass(frozen=True)
class Interval:
    """A run of steps at or above the line, after policy; a value without identity.

    Attributes:
        start: time of the first step, epoch seconds.
        end: time of the last step, belongs to the interval.
        direction: ``above_expected`` or ``below_expected``; empty where it makes no sense.
        peak_score: anomaly_score at the peak; 1 is the line.
        y_at_peak: observed value at the peak, in the series' unit; of several channels the leading one's.
        yhat_at_peak: what would have been normal there.
        impact: sum over the steps of (y - yhat), in unit times steps.
        open: reaches the newest point there is.
        detected_at: the step at which a live score first reached the line; None where only
            hindsight did. It says when, not what: two intervals that differ in it alone are equal.
        shares: of a target of several series, metric to the share that it has in the interval; they
            sum to 1. None for a single series, and where nothing is known.
    """

    kind: Kind
    start: int
    end: int
    n_points: int
    peak_at: int
    peak_score: float
    mean_score: float
    direction: str = ""
    y_at_peak: float | None = None
    yhat_at_peak: float | None = None
    impact: float | None = None
    open: bool = False
    version_id: int | None = None
    detected_at: int | None = None
    shares: dict[str, float] | None = None

    @property
    def channel(self) -> str | None:
        """The metric of the leading channel: the one with the largest share."""
        return max(self.shares, key=self.shares.__getitem__) if self.shares else None


@dataclass(frozen=True)
class Event:
    """A stored Interval that keeps its identity over rescoring.

    ``reviewed`` is true while anything that a person did to it stands. Of what was not taken back,
    ``verdict`` and ``cause`` are the newest verdict's (empty where there is none), ``review_start`` and
    ``review_end`` the borders that a reviewer moved; ``added`` is true where a person drew it by hand.
    """

    id: int
    target_id: int
    interval: Interval
    status: Status
    first_detected_at: int
    revision: int = 1
    merged_into: int | None = None
    reviewed: bool = False
    added: bool = False
    verdict: str = ""
    cause: str = ""
    review_start: int | None = None
    review_end: int | None = None

    @property
    def ends(self) -> tuple[int, int]:
        """Its first and last second as people see them: borders that a reviewer moved win."""
        start, end = self.interval.start, self.interval.end
        return (
            start if self.review_start is None else self.review_start,
            end if self.review_end is None else self.review_end,
        )


@dataclass(frozen=True)
class EventPortrait:
    """What an event looked like when it was last looked at, and what is suggested of it.

    Attributes:
        revision: of the event at that time.
        shape: JSON that only ``pipelines.insight.similar`` reads, kept when the points are deleted; None
            where the event has no shape.
        verdict: a Verdict or ``unknown``; empty where nothing is suggested.
        cause: empty for none in particular.
        probability: of verdict and cause together; None where they are unknown or not suggested.
    """

    event_id: int
    revision: int
    shape: Json | None = None
    verdict: str = ""
    cause: str = ""
    probability: float | None = None


@dataclass(frozen=True)
class PortraitState:
    """Whether the portraits of a monitor's events are up to date; for how many something is suggested."""

    is_current: bool
    suggested: int


@dataclass(frozen=True)
class EventChange:
    """What reconciling decided about one event; ``event_id`` None makes a new one."""

    target_id: int
    event_id: int | None
    interval: Interval
    status: Status
    first_detected_at: int
    merged_into: int | None = None
    why: str = ""


@dataclass(frozen=True)
class MonitorRow:
    """A monitor as declared; ``config`` is its section of the config file, JSON.

    ``stagger`` says whether its refits are spread over nights where the config leaves that open; None until
    it has a target.
    """

    id: int
    name: str
    config: Json
    enabled: bool = True
    stagger: bool | None = None


@dataclass(frozen=True)
class TargetRow:
    """What a monitor scores: an ordered tuple of series.

    Attributes:
        step_seconds: of several series that step differently, the longest.
        timezone: of several series, the first one's.
        delay_seconds: of several series, the longest.
        scored_until: live scores exist for t below this (epoch seconds); None before the first.
        settled_until: settled scores exist for t below this.
        pruned_before: retention has deleted the scores before, and the versions that made them.
        labels: of its first series, with its ``metric``.
    """

    id: int
    monitor_id: int
    key: str
    series_ids: tuple[int, ...]
    step_seconds: int
    timezone: str
    delay_seconds: int
    scored_until: int | None = None
    settled_until: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    pruned_before: int | None = None


@dataclass(frozen=True)
class Origin:
    """What a version was made by; it tells apart those of one target whose training ended together.

    Its JSON bears no format number: a digest of it is part of the version's key, so it stays as it is.

    Attributes:
        params: the monitor's, fields of the detector's Config.
        fingerprint: of all of the monitor's settings that a fit depends on.
        on_loan: weights and calibration are those of the group: the target was not part of its fit.
        generation: how many explicit refits it comes after.
    """

    params: Json
    fingerprint: str = ""
    on_loan: bool = False
    generation: int = 0

    def to_json(self) -> Json:
        return {
            "params": self.params,
            "fingerprint": self.fingerprint,
            **({"on_loan": True} if self.on_loan else {}),
            **({"generation": self.generation} if self.generation else {}),
        }

    @classmethod
    def from_json(cls, values: Json) -> Origin:
        return cls(
            params=values.get("params", {}),
            fingerprint=values.get("fingerprint", ""),
            on_loan=bool(values.get("on_loan")),
            generation=values.get("generation", 0),
        )


@dataclass(frozen=True)
class VersionRow:
    """A stored model of one target: immutable.

    Attributes:
        train_start, train_stop: the training span, half-open, epoch seconds; the version scores
            timestamps from ``train_stop`` on, until a newer one's.
        recipe: what prepare learned, JSON of ``pipelines.workers.members``.
        config: JSON of its ``Origin``.
        weights_id: row of the shared weights (one bank member).
        card: the model card, JSON.
        status: ``accepted``, ``candidate`` or ``failed``.
        first: the target's earliest version, which also scores what lies before its train_stop
            with models that did not see their block.
        scored: what it changes is scored and committed; until then its fit counts as still to be done.
    """

    id: int
    target_id: int
    detector: str
    train_start: int
    train_stop: int
    recipe: Json
    config: Json
    weights_id: int
    status: str = "accepted"
    card: Json = field(default_factory=dict)
    scored: bool = True

    @cached_property
    def origin(self) -> Origin:
        return Origin.from_json(self.config)

    @property
    def on_loan(self) -> bool:
        return self.origin.on_loan


@dataclass(frozen=True)
class CalibrationRow:
    """One version's score statistics on data it did not see, for one mode; append-only.

    ``body`` is JSON of a ``pipelines.steps.bodies.CalibrationEntry``.
    """

    version_id: int
    mode: Mode
    valid_from: int
    body: Json


@dataclass(frozen=True)
class LineRow:
    """Tail and line of a monitor (or of one target, ``per: series``) from a data time on; append-only.

    ``body`` is JSON of a ``pipelines.steps.bodies.LineEntry``.
    """

    monitor_id: int
    target_id: int | None
    mode: Mode
    valid_from: int
    body: Json


@dataclass(frozen=True)
class ScoreBlock:
    """Scores of many targets in columns of equal length.

    ``live`` and ``settled`` are raw detector scores, ``*_anomaly`` the anomaly_score (1 is the
    line); NaN means none and is stored as NULL. A row replaces what stands at its key; a NaN in
    one pair leaves that pair as it is.
    """

    target: Seconds
    ts: Seconds
    version: Seconds
    live: Values
    live_anomaly: Values
    settled: Values
    settled_anomaly: Values


@dataclass(frozen=True)
class Claim:
    """The right to work on one run until the lease ends; every commit checks the fence.

    ``monitor_id`` says whose work it is, ``source`` what is read; one of them is given.
    """

    run_id: int
    kind: RunKind
    monitor_id: int | None
    scheduled_for: datetime
    owner: str
    fence: int
    attempts: int
    source: str = ""


@dataclass(frozen=True)
class PastRun:
    """What became of one run: the error is that of the last attempt, empty where there was none."""

    scheduled_for: datetime
    state: RunState
    error: str = ""


@dataclass(frozen=True)
class Moment:
    """What the database says of now, and of all runs at once.

    Attributes:
        wall: its clock.
        scheduled_until: the latest time that any run is scheduled for; None where there is no run.
        lost: runs at work whose lease ended a while ago, and that nobody took.
    """

    wall: datetime
    scheduled_until: datetime | None
    lost: int


@dataclass(frozen=True)
class Turn:
    """A source that stopped as a whole, or delivers again; ``since`` is when it stopped, epoch seconds."""

    source: str
    since: int
    is_back: bool


@dataclass(frozen=True)
class LastRead:
    """What the run table knows of the reads of one source.

    Attributes:
        scheduled_for: of the newest one, whatever became of it; None where there was none.
        tried_for: when the newest one was scheduled for that ended, well or not, or failed once and is
            tried again.
        is_pending: one waits or is at work.
    """

    scheduled_for: datetime | None = None
    tried_for: datetime | None = None
    is_pending: bool = False
