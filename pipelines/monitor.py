"""A monitor as the jobs see it: which series, which detector, when, and what counts as an interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from pipelines.records import Json, Policy

AUTO_SPAN = 0
"""In place of a number of seconds: as the step and the history ask for (``pipelines.fit_spans``)."""


@dataclass(frozen=True)
class Threshold:
    """Where the line is.

    Attributes:
        method: ``alarms``, or by name ``quantile``, ``sigma``, ``dynamic``.
        alarms_per_week: flagged intervals after policy, for ``alarms``.
        per: ``monitor`` or ``series``: whose budget it is.
        value: contamination for ``quantile``, deviations for ``sigma`` and ``dynamic``.
    """

    method: str = "alarms"
    alarms_per_week: float = 1.0
    per: str = "monitor"
    value: float | None = None


@dataclass(frozen=True)
class NightlyPlan:
    """When the nightly pass runs and how far back it looks.

    Attributes:
        at_seconds: seconds after local midnight.
        timezone: IANA name.
        window_seconds: the late window: what is rescored with hindsight and late data.
    """

    at_seconds: int = 3 * 3600 + 15 * 60
    timezone: str = "UTC"
    window_seconds: int = 3 * 86400


@dataclass(frozen=True)
class Period:
    """A time that the calendar names, a regime or one to be left out: when it is, and for which series.

    Attributes:
        every: recurrence rule of its starts (RFC 5545), such as ``FREQ=WEEKLY;BYDAY=TU;BYHOUR=6``, or empty.
        lasts_seconds: how long it is from each of those.
        spans: one-off spans, half-open: local times in ISO 8601, first and end.
        timezone: IANA name of the clock of all these; empty for that of the series.
        selector: as a monitor's; empty for all series.
        masked: nothing in it is learned, scored or flagged; it is no regime then.
    """

    name: str
    every: str = ""
    lasts_seconds: int = 0
    spans: tuple[tuple[str, str], ...] = ()
    timezone: str = ""
    selector: dict[str, list[str]] = field(default_factory=dict)
    masked: bool = False

    @classmethod
    def from_json(cls, values: Json) -> Period:
        """Return the period that ``to_json`` of its monitor wrote."""
        return cls(**{**values, "spans": tuple((first, end) for first, end in values["spans"])})


@dataclass(frozen=True)
class Meaning:
    """What the points of a source stand for, where that is not each its own value.

    Attributes:
        zero: a step without a point had nothing to count; False: its point is missing.
        rates: metrics, or the columns they are named after, that are counters, watched as their rise a
            second; ``*`` for every one.
    """

    zero: bool = False
    rates: tuple[str, ...] = ()

    def is_rate(self, metric: str) -> bool:
        """Return whether a metric is a counter.

        >>> Meaning(rates=("bytes_in",)).is_rate("router.bytes_in")
        True
        """
        names = (metric, metric.rpartition(".")[2])
        return any(fnmatchcase(name, wanted) for name in names for wanted in self.rates)

    @classmethod
    def from_json(cls, values: Json) -> Meaning:
        """Return the meaning that ``to_json`` of a monitor wrote."""
        return cls(**{**values, "rates": tuple(values.get("rates", ()))})


PLAIN = Meaning()
"""Each point is its own value, and one that did not come is missing."""


@dataclass(frozen=True)
class MonitorSpec:
    """Everything a job needs to know of a monitor; plain values, JSON round trip.

    Attributes:
        selector: ``metric`` and labels to allowed values, such as
            ``{"metric": ["ccu"], "region": ["eu", "kr"]}``.
        params: fields of the detector's Config.
        scope: ``series`` (a model each) or ``group`` (one model shared by the selected series).
        season: ``none``, ``daily``, ``weekly`` or ``auto``.
        fit_every_seconds, fit_window_seconds, fit_first_seconds: between two fits, learned from, and waited
            for by a first model; ``AUTO_SPAN`` where step and history decide.
        stagger: refits are spread over the nights between two fits by the targets' keys; None, which the
            service decides once for a monitor, fits all on one night.
        scores: ``dense``, ``near_events`` or ``auto``.
        device: ``auto``, ``cpu`` or ``cuda``: where models are fitted and score.
        channels: metrics whose series are one target together, in this order; none for a target per series.
        group_by: with channels, the labels that tell their targets apart.
        calendar: regimes beside workday and weekend, of two at a time the later one counts; and masked times.
        meanings: what the points of sources stand for, by name; those that are not named mean themselves.
    """

    name: str
    selector: dict[str, list[str]]
    detector: str = "gaussian"
    params: Json = field(default_factory=dict)
    scope: str = "series"
    season: str = "auto"
    fit_every_seconds: int = AUTO_SPAN
    fit_window_seconds: int = AUTO_SPAN
    fit_first_seconds: int = AUTO_SPAN
    stagger: bool | None = None
    infer_every_seconds: int = 300
    threshold: Threshold = Threshold()
    policy: Policy = Policy()
    nightly: NightlyPlan = NightlyPlan()
    scores: str = "auto"
    device: str = "auto"
    channels: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ()
    calendar: tuple[Period, ...] = ()
    meanings: dict[str, Meaning] = field(default_factory=dict)

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Json) -> MonitorSpec:
        """Return the monitor that ``to_json`` wrote; what a config keeps beside it is left out."""
        known = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        nested: dict[str, Any] = {
            "threshold": Threshold(**values.get("threshold", {})),
            "policy": Policy(**values.get("policy", {})),
            "nightly": NightlyPlan(**values.get("nightly", {})),
            "channels": tuple(values.get("channels", ())),
            "group_by": tuple(values.get("group_by", ())),
            "calendar": tuple(Period.from_json(each) for each in values.get("calendar", ())),
            "meanings": {name: Meaning.from_json(each) for name, each in values.get("meanings", {}).items()},
        }
        return cls(**{**known, **nested})

    def staggered(self, decided: bool | None) -> MonitorSpec:
        """Return the monitor with what was decided of its refits, where its config leaves that open."""
        return self if self.stagger is not None else replace(self, stagger=bool(decided))

    def selects(self, metric: str, labels: dict[str, str]) -> bool:
        """True where every condition of the selector holds and, with channels, the series can be one."""
        if self.channels and not (metric in self.channels and labels.keys() >= set(self.group_by)):
            return False
        return _selects(self.selector, {"metric": metric, **labels})

    def meaning_of(self, source: str) -> Meaning:
        """Return what the points of a source stand for."""
        return self.meanings.get(source, PLAIN)

    def calendar_of(self, labels: dict[str, str]) -> tuple[Period, ...]:
        """Return the periods that are for a series with these labels, its ``metric`` among them."""
        return tuple(period for period in self.calendar if _selects(period.selector, labels))


def _selects(selector: dict[str, list[str]], values: dict[str, str]) -> bool:
    return all(values.get(name) in allowed for name, allowed in selector.items())
