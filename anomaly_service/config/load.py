"""From a file to a config: read, joined with the environment, and checked as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)

from anomaly_service.config.document import Document, parse_document, read_document
from anomaly_service.config.errors import ConfigError, Loc, Problem
from anomaly_service.config.messages import problem_of
from anomaly_service.config.sections import Config, RetentionSection
from anomaly_service.config.values import (
    duration_text,
    parse_duration,
)
from detectors.errors import InvalidError


def load(path: Path | str) -> Config:
    """Return the config of a file, with everything in it checked but detectors' ``params``.

    ``ANOMALY_DATABASE``, ``ANOMALY_DATABASE_FILE``, ``ANOMALY_WORKERS`` and ``ANOMALY_REJECTS``
    in the environment win over the file.

    Raises:
        ConfigError: everything that is wrong with it, at once.
    """
    document = read_document(Path(path).absolute())
    given = _from_environment()
    if {"database", "database_file"} & set(given):
        document.values = {k: v for k, v in document.values.items() if k not in {"database", "database_file"}}
    config, problems = _validate(document.values | given, document, set(given))
    if problems or config is None:
        raise ConfigError(problems)
    return config


def database_of(path: Path | str) -> str | None:
    """Return the database that a config file names, however broken the rest of it is.

    The environment wins over it, as ever; None where neither names one that can be used.
    """
    path = Path(path).absolute()
    try:
        lines = re.findall(r"^database(?:_file)?:.*$", path.read_text("utf-8-sig"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        lines = []
    given = {name: value for name, value in _from_environment().items() if name.startswith("database")}
    try:
        document = parse_document("\n".join(lines), path)
    except ConfigError:
        document = Document(str(path))
    config, _ = _validate(given or document.values, document, set(given))
    return None if config is None else config.database


def _validate(
    values: dict[str, Any], document: Document, given: set[str]
) -> tuple[Config | None, list[Problem]]:
    problems = list(document.problems)
    problems += [
        Problem(document.file, document.place(loc).line, loc, message)
        for loc, message in _disagreements(values)
    ]
    try:
        config = Config.model_validate(values, context={"folder": Path(document.file).parent})
    except ValidationError as error:
        # What follows from a key given twice or a variable that is not set is no second problem.
        known = {problem.loc for problem in document.problems}
        details = error.errors(include_url=False)
        # Nor is a key that is missing because the file that should hold it cannot be read.
        known |= {_without_file(d["loc"]) for d in details if str(d["loc"][-1]).endswith("_file")}
        problems += [
            problem_of(detail, values, document, given)
            for detail in details
            if not any(tuple(detail["loc"])[: len(loc)] == loc for loc in known)
        ]
        return None, problems
    config._document = document
    return config, problems


def _without_file(loc: Loc) -> Loc:
    """Return the path of the secret that a path ending in ``_file`` should have filled."""
    return (*loc[:-1], str(loc[-1]).removesuffix("_file"))


def _disagreements(values: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Yield what is wrong between sections; looks at the file's own values, be the rest wrong or not."""
    monitors = _mapping(values.get("monitors"))
    former = [_mapping(section).get("renamed_from") for section in monitors.values()]
    points = _duration_of(_mapping(values.get("retention")).get("points")) or RetentionSection().points
    for name, section in monitors.items():
        renamed_from = _mapping(section).get("renamed_from")
        loc = ("monitors", name, "renamed_from")
        if former.count(renamed_from) > 1 and renamed_from is not None:
            yield loc, "another monitor is renamed from the same one; keep one of them"
        # Two monitors may change names with each other.
        kept = monitors.get(renamed_from) if isinstance(renamed_from, str) else None
        if kept is not None and not _mapping(kept).get("renamed_from"):
            yield loc, f"{renamed_from!r} is still in the file; remove it there, or this key"
        window = _duration_of(_mapping(_mapping(section).get("fit")).get("window"))
        if window is not None and window > points:
            limit = f"the {duration_text(points)} of retention.points"
            message = f"expected at most {limit}, got {duration_text(window)}; lower it or keep points longer"
            yield ("monitors", name, "fit", "window"), message
        yield from _misplaced(("monitors", name), _mapping(section))


def _misplaced(loc: Loc, section: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Yield which keys of a monitor do not go with the channels it names, or needs some."""
    if section.get("channels") is not None and "metric" in _mapping(section.get("series")):
        yield (*loc, "series", "metric"), "`channels` name the metrics; remove this key, or them"
    if section.get("channels") is None and section.get("group_by"):
        message = "belongs beside `channels`, the metrics that are one target for each value of these labels"
        yield (*loc, "group_by"), message
    given = section.get("group_by")
    if isinstance(given, list) and "metric" in given:
        yield (*loc, "group_by"), "expected labels; the metrics are what `channels` name"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _duration_of(value: object) -> timedelta | None:
    """Return a duration, or None where none is given or it is wrong, which is reported elsewhere."""
    try:
        return parse_duration(value)
    except InvalidError:
        return None


def _from_environment() -> dict[str, Any]:
    """Return the keys that the environment sets."""
    # Imported here: it costs more than all the rest of the config, and --help needs none of it.
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class Environment(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="ANOMALY_", env_ignore_empty=True, extra="ignore")
        database: str | None = None
        database_file: str | None = None
        workers: str | None = None
        rejects: str | None = None

    return Environment().model_dump(exclude_none=True)
