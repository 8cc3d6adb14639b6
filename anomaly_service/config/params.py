"""A monitor's ``params`` held against its detector: the one check that imports detectors."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from anomaly_service.config.errors import ConfigError, Loc, Problem, one_of, unknown_key
from anomaly_service.config.sections import Config, MonitorSection
from anomaly_service.config.values import MOST, duration_text, whole_seconds
from pipelines.fit_spans import fit_window
from pipelines.names import AUTO


def check_params(config: Config) -> None:
    """Check every monitor's ``params`` against its detector; imports the detectors, so seconds.

    Raises:
        ConfigError: a detector takes no such setting, or not this value.
    """
    document = config._document
    step = min((whole_seconds(source.step) for source in config.sources.values()), default=1)
    problems = [
        Problem(document.file, document.place(loc).line, loc, message)
        for name, monitor in config.monitors.items()
        for loc, message in _params_problems(("monitors", name, "params"), monitor, step)
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


def _params_problems(loc: Loc, monitor: MonitorSection, step_seconds: int) -> list[tuple[Loc, str]]:
    from dataclasses import fields

    from detectors import registry

    if monitor.detector == AUTO:
        return _auto_problems(loc, monitor)
    config_class = registry.get(monitor.detector).Config
    allowed = [field.name for field in fields(config_class)]
    unknown = [((*loc, key), unknown_key(key, allowed)) for key in monitor.params if key not in allowed]
    if unknown:
        return unknown
    wrong = list(_wrong_types(loc, config_class, monitor.params))
    if wrong:
        return wrong
    try:
        made = config_class(**monitor.params)
    except (TypeError, ValueError, OverflowError) as error:
        return [(loc, f"refused by {monitor.detector}: {error}")]
    return _window_problems(loc, monitor, made.window, step_seconds)


def _wrong_types(loc: Loc, config_class: type, params: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Yield the settings whose value is of another type than the detector declares."""
    declared = get_type_hints(config_class)
    for name, value in params.items():
        if not fits(value, declared[name]):
            yield (*loc, name), f"expected {_kind(declared[name])}, got {value!r}"


def fits(value: object, declared: Any) -> bool:
    """True where a value from a config file is of a declared type; what is not plain is left to its class.

    >>> fits(24, int), fits(24.5, int), fits(True, int), fits(24, float | None), fits("24", float)
    (True, False, False, True, False)
    """
    origin, parts = get_origin(declared), get_args(declared)
    if origin in {Union, UnionType}:
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts and type(value) in {type(part) for part in parts}
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST
    if declared in {str, bool, NoneType}:
        return isinstance(value, declared)
    return True


def _kind(declared: Any) -> str:
    """Return in a few words what a declared type holds."""
    if get_origin(declared) in {Union, UnionType}:
        return " or ".join(_kind(part) for part in get_args(declared) if part is not NoneType)
    if get_origin(declared) is Literal:
        return f"one of {one_of(map(str, get_args(declared)))}"
    words = {
        int: f"a whole number up to {MOST:,}",
        float: "a finite number",
        str: "text",
        bool: "true or false",
    }
    return words.get(declared, str(declared))


def _window_problems(
    loc: Loc, monitor: MonitorSection, window: int, step_seconds: int
) -> list[tuple[Loc, str]]:
    """Refuse a window that no fit could ever hold."""
    learned = fit_window(monitor.fit.window_seconds, step_seconds)
    most = max(1, learned // step_seconds)
    if window <= most:
        return []
    message = (
        f"expected at most {most:,} steps, as many of {duration_text(step_seconds)} as fit.window "
        f"({duration_text(learned)}) holds; got {window:,}"
    )
    return [((*loc, "window"), message)]
