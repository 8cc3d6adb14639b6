"""The last good config: kept in the database without its secrets, told where the file at hand is broken."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anomaly_service.config.errors import ConfigError
from anomaly_service.config.load import database_of
from anomaly_service.config.sections import Config
from anomaly_service.config.values import Section, duration_text
from anomaly_service.db.configs import InForce
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import AnomalyServiceError
from pipelines.records import Json
from pipelines.times import iso


def shown(config: Config) -> Json:
    """Return a config as JSON, values as people write them, without secrets.

    Of what may hold a password stands the place it leads to, so that a change of that is seen.
    """
    body = _section(config)
    body["sources"] = {name: _section(source) for name, source in config.sources.items()}
    return body


def last_good(path: Path | str) -> InForce | None:
    """Return the config that was in force last in the database that a file names; the file may be broken.

    None where it names no database, or one that cannot be asked or knows of none.
    """
    url = database_of(path)
    if url is None:
        return None
    try:
        with SqlStore(url) as store:
            return store.config_in_force()
    except AnomalyServiceError:
        return None


def with_last_good(error: ConfigError, path: Path | str) -> ConfigError:
    """Return the error of a broken config, and which one was the last that could be used."""
    good = last_good(path)
    if good is None:
        return error
    monitors, sources = (", ".join(good.body[part]) or "none" for part in ("monitors", "sources"))
    return ConfigError(
        error.problems,
        f"the last good config, read from {good.file}, came into force on {iso(good.since)} with monitors "
        f"{monitors} and sources {sources}; `anomaly plan --in-force` prints it",
    )


def _section(section: Section) -> Json:
    """Return a section's values, of its secrets the place they lead to."""
    secret = section.secrets()
    values = {
        field.alias or name: _plain(getattr(section, name))
        for name, field in type(section).model_fields.items()
        if name not in secret
    }
    return values | {name: _place(getattr(section, name)) for name in secret}


def _plain(value: Any) -> Any:
    match value:
        case Section():
            return _section(value)
        case dict():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case timedelta():
            return duration_text(value)
        case Path():
            return str(value)
    return value


def _place(url: str) -> str:
    """Return where a URL leads, without anything that may be secret.

    >>> _place("postgresql://anna:s3cret@db:5432/telemetry?password=x")
    'postgresql://db:5432/telemetry'
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "***"
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else "***"
