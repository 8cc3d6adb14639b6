"""A monitor as the jobs see it: which series, which detector, when, and what counts as an interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.records import Json, Policy

WEEK = 7 * 86400


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
class MonitorSpec:
    """Everything a job needs to know of a monitor; plain values, JSON round trip.

    Attributes:
        selector: ``metric`` and labels to allowed values, such as
            ``{"metric": ["ccu"], "region": ["eu", "kr"]}``.
        params: fields of the detector's Config.
        scope: ``series`` (a model each) or ``group`` (one model shared by the selected series).
        season: ``none``, ``daily``, ``weekly`` or ``auto``.
        stagger: refits are spread over the nights of ``fit_every``; False fits all on one night.
        scores: ``dense``, ``near_events`` or ``auto``.
        device: ``auto``, ``cpu`` or ``cuda``: where models are fitted and score.
        channels: metrics whose series are one target together, in this order; none for a target per series.
        group_by: with channels, the labels that tell their targets apart.
    """

    name: str
    selector: dict[str, list[str]]
    detector: str = "gaussian"
    params: Json = field(default_factory=dict)
    scope: str = "series"
    season: str = "auto"
    fit_every_seconds: int = WEEK
    fit_window_seconds: int = 6 * WEEK
    stagger: bool = True
    infer_every_seconds: int = 300
    threshold: Threshold = Threshold()
    policy: Policy = Policy()
    nightly: NightlyPlan = NightlyPlan()
    scores: str = "auto"
    device: str = "auto"
    channels: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ()

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Json) -> MonitorSpec:
        """Return the monitor that ``to_json`` wrote."""
        nested: dict[str, Any] = {
            "threshold": Threshold(**values.get("threshold", {})),
            "policy": Policy(**values.get("policy", {})),
            "nightly": NightlyPlan(**values.get("nightly", {})),
            "channels": tuple(values.get("channels", ())),
            "group_by": tuple(values.get("group_by", ())),
        }
        return cls(**{**values, **nested})

    def selects(self, metric: str, labels: dict[str, str]) -> bool:
        """True where every condition of the selector holds and, with channels, the series can be one."""
        values = {"metric": metric, **labels}
        if self.channels and not (metric in self.channels and labels.keys() >= set(self.group_by)):
            return False
        return all(values.get(name) in allowed for name, allowed in self.selector.items())
