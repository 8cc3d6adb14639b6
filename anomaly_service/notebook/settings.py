"""What the caller of ``detect`` asked for, checked as a config file is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from anomaly_service.config.errors import ConfigError, Loc, Problem
from anomaly_service.config.messages import message_of
from anomaly_service.config.sections import Config
from anomaly_service.config.starter import merge_max_gap, usual_alarms
from anomaly_service.config.values import duration_text, whole_seconds
from anomaly_service.notebook.rows import Moment, Reading
from anomaly_service.sources.base import SourceConfig
from detectors import registry
from detectors.base import Detector
from pipelines.monitor import MonitorSpec
from pipelines.names import AUTO
from pipelines.records import Json
from pipelines.workers import members

NAME = "detect"
"""What the monitor of a notebook is called, where errors name one."""


def spec_of(
    detector: str | Detector | type[Detector],
    params: Mapping[str, Any] | None,
    *,
    threshold: Mapping[str, Any],
    policy: Mapping[str, Any],
    season: str,
    calendar: Mapping[str, Any],
    device: str,
    channels: Sequence[str],
    step_seconds: int,
) -> MonitorSpec:
    """Return the settings as the jobs see them.

    Args:
        threshold, policy, calendar: as in a config file; what is None is left to its default, which
            follows the step as in the file that ``anomaly init`` writes.
        channels: names of the series of one target; none for a single one.

    Raises:
        ConfigError: a value that a config file may not hold either.
        TypeError: no detector, or settings beside one that has its own.
        ValueError: a setting that the detector refuses.
    """
    name, settings = registry.told(detector, params)
    step = duration_text(step_seconds)
    usual = {"merge_max_gap": merge_max_gap(step)}
    budget = {} if "contamination" in _given(threshold) else {"alarms_per_week": usual_alarms(step)}
    section = {
        "series": {},
        "detector": name if isinstance(detector, str) else AUTO,
        "season": season,
        "threshold": {"per": "series", **budget, **_given(threshold)},
        "policy": {**usual, **_given(policy)},
    }
    config = _checked({"monitors": {NAME: section}, "calendar": dict(calendar), "device": device})
    spec = config.monitor_specs()[NAME]
    members.asked(name, settings)
    return replace(spec, detector=name, params=settings, channels=tuple(channels))


def _given(values: Mapping[str, Any]) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _checked(values: Json) -> Config:
    """Return the config that the values are.

    Raises:
        ConfigError: everything that is wrong with them.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            Problem(NAME, 0, _shown(detail["loc"]), message_of(detail, values, repr(detail["input"])))
            for detail in error.errors(include_url=False)
        ) from None


def _shown(loc: Loc) -> Loc:
    """Return the path of a keyword: what stands in a section of its own in a file is one here."""
    if loc[:2] == ("monitors", NAME):
        return loc[3:] if loc[2:3] in (("threshold",), ("policy",)) else loc[2:]
    return loc


def reading_of(
    *,
    step: Any,
    start: Moment,
    timezone: str | None,
    timestamp: Hashable,
    value: Hashable | Sequence[Hashable],
) -> Reading:
    """Return how rows are to be read.

    Raises:
        ConfigError: a step or a time zone that a config file may not hold either.
    """
    given: Json = {"kind": NAME, "step": "1s" if step is None else step, "timezone": timezone}
    try:
        source = SourceConfig.model_validate(given)
    except ValidationError as error:
        raise ConfigError(
            Problem(NAME, 0, detail["loc"], f"{message_of(detail, given, repr(detail['input']))}")
            for detail in error.errors(include_url=False)
        ) from None
    names = () if value is None else tuple(value) if isinstance(value, list) else (value,)
    return Reading(
        step_seconds=None if step is None else whole_seconds(source.step),
        start=start,
        timezone=timezone,
        timestamp=timestamp,
        value=names,
    )
