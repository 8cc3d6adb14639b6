"""The config file that ``anomaly init`` and ``anomaly try --keep`` write: short, and commented."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from pipelines.names import AUTO

if TYPE_CHECKING:
    from anomaly_service.sources.guessed import Guess

EXAMPLE_SOURCE: dict[str, Any] = {
    "kind": "csv",
    "path": "drop/*.csv",
    "timestamp": "ts",
    "value": "value",
    "metric": "metric",
    "labels": ["realm", "region", "platform"],
    "step": "5min",
    "delay": "2min",
    "timezone": "UTC",
}

TEMPLATE = """\
# Every key is described in docs/config.md; `anomaly validate` says what is wrong with this file.

# SQLite lies in one file beside this one. For a team: postgresql://user:${{DB_PASSWORD}}@host/name
database: {database}

# Where points come from. Files are known by content: none is taken twice, one that grows only adds.
# `kind: sql` asks a database instead.
sources:
  {source_name}:
{source}

# What is watched. alarms_per_week is the knob: how many false alarms a week all series of a monitor
# together may raise; the line is drawn so that it keeps to that.
monitors:
  {monitor}:
    series: {series:<32} # {{}} takes all; or such as {{metric: ccu, region: [eu, kr]}}
    detector: {detector:<30} # `anomaly detectors` lists them
    season: {season:<32} # none | daily | weekly | auto, in the source's timezone
    fit: {fit:<37} # how often, on how much history, the first on how much
    infer_every: {infer_every:<27} # with every point, between a minute and an hour
    threshold: {threshold:<29} # one, and fewer of points rarer than hourly
    policy:
      detection_direction: both              # or above_expected, below_expected
      merge_max_gap: {merge_max_gap:<23} # intervals this near to each other are one
      # min_duration: 10min                  # shorter ones are dropped
      # min_rel_dev_from_expected: 5%        # smaller deviations do not count

# Every night: fit what is due, and rescore the last days with hindsight and late data.
nightly: {{at: "03:15", timezone: {timezone}, window: 3d}}
# How long each is kept; points for as long as a file's history goes back, and 400 days at least.
retention: {{points: {retention}, scores: 90d, model_versions: 3}}
"""

BESIDE = 44
"""Characters before a space and the comment, as in the template."""

WIDEST = 110
"""A line with a longer comment has it above."""

NO_COMMENTS: Mapping[str, str] = MappingProxyType({})


def starter(
    *,
    source: Mapping[str, Any] = EXAMPLE_SOURCE,
    comments: Mapping[str, str] = NO_COMMENTS,
    remark: str = "",
    source_name: str = "telemetry",
    database: str = "sqlite:///anomaly.db",
    monitor: str = "everything",
    series: Mapping[str, Any] | None = None,
    detector: str = AUTO,
    season: str = "auto",
    fit_every: str | None = None,
    fit_window: str | None = None,
    fit_first: str | None = None,
    alarms_per_week: float | None = None,
    retention: str = "400d",
) -> str:
    """Return the text of a config file with one source and one monitor over all of its series.

    Args:
        source: the source's section, such as ``Guess.section()``.
        comments: what to say beside keys of the source.
        remark: what to say below them; nothing where empty.
        series: the monitor's selector; all series where None.
        alarms_per_week: where None, one, or fewer of points that come more rarely than every hour.
    """
    step = str(source["step"])
    alarms = usual_alarms(step) if alarms_per_week is None else alarms_per_week
    return TEMPLATE.format(
        database=_flow(database),
        source_name=_flow(source_name),
        source="\n".join(_lines(source, comments, remark)),
        monitor=_flow(monitor),
        series=_flow(dict(series or {})),
        detector=detector,
        season=season,
        fit=_flow(_fit(fit_every, fit_window, fit_first)),
        infer_every=infer_every(step),
        threshold=f"{{alarms_per_week: {alarms:g}, per: monitor}}",
        merge_max_gap=merge_max_gap(step),
        timezone=source.get("timezone") or "UTC",
        retention=retention,
    )


def starter_for(guess: Guess, *, folder: Path | None = None, **choices: Any) -> str:
    """Return the config file for what a file seems to hold.

    Args:
        folder: where the config file will lie; its paths are relative to it.
        choices: those of ``starter``; one that is None is left to what was guessed.
    """
    from anomaly_service.config.values import duration_text

    guessed = {
        "source": guess.section(folder),
        "comments": guess.comments(),
        "remark": guess.remark(),
        "fit_first": duration_text(guess.fit_first_seconds),
        "retention": duration_text(guess.retention_seconds),
    }
    return starter(**(guessed | {name: value for name, value in choices.items() if value is not None}))


def _lines(source: Mapping[str, Any], comments: Mapping[str, str], remark: str) -> list[str]:
    """Return a source's keys a line each, with why they are so beside them, or above where that is long."""
    lines = []
    for key, value in source.items():
        line = f"    {key}: {_flow(value)}"
        why = f"# {comments[key]}" if key in comments else ""
        beside = f"{line:<{BESIDE}} {why}".rstrip()
        lines += [beside] if len(beside) <= WIDEST else [f"    {why}", line]
    return [*lines, f"    # {remark}"] if remark else lines


def _fit(every: str | None, window: str | None, first: str | None) -> dict[str, str]:
    """Return the section of fits: what the history asks for where nothing is said."""
    said = {"every": every or AUTO, "window": window or AUTO}
    return said if first is None else said | {"first": first}


def infer_every(step: str) -> str:
    """Return how often to look for points of this step: with every one, between a minute and an hour."""
    from anomaly_service.config.values import duration_text, parse_duration

    return duration_text(min(max(parse_duration(step).total_seconds(), 60.0), 3600.0))


def usual_alarms(step: str) -> float:
    """Return how many false alarms a week are few for points of this step: one in a week of hours at most.

    >>> usual_alarms("5min"), usual_alarms("1d"), usual_alarms("365d")
    (1.0, 0.042, 0.00011)
    """
    from anomaly_service.config.values import parse_duration

    # Two digits, however small: a budget of none would be no config.
    return float(f"{min(1.0, timedelta(hours=1) / parse_duration(step)):.2g}")


def merge_max_gap(step: str) -> str:
    """Return within what time alarms are one incident: an hour, but no less than three steps.

    >>> merge_max_gap("5min"), merge_max_gap("1h")
    ('1h', '3h')
    """
    from anomaly_service.config.values import duration_text, parse_duration

    return duration_text(max(timedelta(hours=1), 3 * parse_duration(step)))


def _flow(value: Any) -> str:
    """Return a value as YAML on one line, quoted where that is needed.

    >>> _flow({"metric": "ccu", "region": ["eu", "no: 1"]})
    "{metric: ccu, region: [eu, 'no: 1']}"
    """
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n...\n").strip()
