"""A monitor's ``params`` held against its detector: the one check that imports detectors."""

from __future__ import annotations

from anomaly_service.config.errors import ConfigError, Loc, Problem, unknown_key
from anomaly_service.config.sections import Config, MonitorSection
from pipelines.names import AUTO


def check_params(config: Config) -> None:
    """Check every monitor's ``params`` against its detector; imports the detectors, so seconds.

    Raises:
        ConfigError: a detector takes no such setting, or not this value.
    """
    document = config._document
    problems = [
        Problem(document.file, document.place(loc).line, loc, message)
        for name, monitor in config.monitors.items()
        for loc, message in _params_problems(("monitors", name, "params"), monitor)
    ]
    if problems:
        raise ConfigError(problems)


def _auto_problems(loc: Loc, monitor: MonitorSection) -> list[tuple[Loc, str]]:
    if monitor.params:
        return [
            ((*loc, key), "auto chooses its models itself; name a detector to choose its settings")
            for key in monitor.params
        ]
    if monitor.scope == "group":
        return [
            ((*loc[:-1], "scope"), "auto fits models per series; name a detector to share one in a group")
        ]
    return []


def _params_problems(loc: Loc, monitor: MonitorSection) -> list[tuple[Loc, str]]:
    from dataclasses import fields

    from detectors import registry

    if monitor.detector == AUTO:
        return _auto_problems(loc, monitor)
    config_class = registry.get(monitor.detector).Config
    allowed = [field.name for field in fields(config_class)]
    unknown = [((*loc, key), unknown_key(key, allowed)) for key in monitor.params if key not in allowed]
    if unknown:
        return unknown
    try:
        config_class(**monitor.params)
    except (TypeError, ValueError) as error:
        return [(loc, f"refused by {monitor.detector}: {error}")]
    return []
