"""The kinds of values a config file holds: durations, percents, time zones, paths, secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from anomaly_service.config.errors import Loc, one_of
from anomaly_service.secrets import remember
from detectors.errors import InvalidError
from detectors.spelling import did_you_mean
from pipelines.names import AUTO

SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = r"(?:\d+(?:\.\d+)?\s*(?:sec|min|s|m|h|d|w)\s*)+"
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(sec|min|s|m|h|d|w)")
_PERCENT = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*%\s*")
LONGEST = timedelta(days=365_250)
"""A thousand years: no calendar ends within so long from now."""

LONGEST_STEP = timedelta(days=18_262)
"""Fifty years: what databases keep in 32 bits of seconds."""

MOST = 2**31 - 1
"""Whole numbers are no larger: databases keep them in 32 bits."""

EXPECTED_DURATION = "expected a duration such as 90s, 5min, 2h, 7d or 1h30min"


def parse_duration(text: object) -> timedelta:
    """Return how long ``90s``, ``5min``, ``2h``, ``7d``, ``2w`` or ``1h30min`` lasts.

    Raises:
        InvalidError: no such duration, without a unit, not whole seconds, or beyond any calendar.

    >>> parse_duration("1h30min")
    datetime.timedelta(seconds=5400)
    """
    if isinstance(text, timedelta):
        return text
    if text == 0 and not isinstance(text, bool):
        return timedelta(0)
    if not isinstance(text, str) or not re.fullmatch(_DURATION, text.strip()):
        raise InvalidError(f"{EXPECTED_DURATION}, got {text!r}")
    seconds = sum(float(number) * SECONDS[unit] for number, unit in _PART.findall(text))
    if seconds > LONGEST.total_seconds():
        raise InvalidError(f"expected a duration of at most 1,000 years, got {text!r}")
    if seconds != int(seconds):
        raise InvalidError(f"expected whole seconds, got {text!r}")
    return timedelta(seconds=seconds)


def duration_text(duration: timedelta | float) -> str:
    """Return a duration (or seconds) in the largest unit that holds it exactly.

    >>> duration_text(5400), duration_text(timedelta(days=42))
    ('90min', '42d')
    """
    seconds = round(duration.total_seconds() if isinstance(duration, timedelta) else duration)
    for unit in ("d", "h", "min"):
        if seconds and seconds % SECONDS[unit] == 0:
            return f"{seconds // SECONDS[unit]}{unit}"
    return f"{seconds}s"


def whole_seconds(duration: timedelta) -> int:
    """Return a duration in whole seconds, as the jobs count."""
    return round(duration.total_seconds())


def expected(message: str, *, shown: bool = True) -> PydanticCustomError:
    """Return an error for a value; what came is added from the file, unless not ``shown``.

    The value itself never goes into ``message``: it may have come from the environment.
    """
    # The type is read by config.messages; braces would be taken for placeholders.
    escaped = message.replace("{", "{{").replace("}", "}}")
    return PydanticCustomError("expected" if shown else "wrong", escaped)


def problem_at(loc: Loc, error: PydanticCustomError, title: str = "config") -> ValidationError:
    """Return an error for a value below the one that is being validated."""
    return ValidationError.from_exception_data(title, [InitErrorDetails(type=error, loc=loc, input=None)])


def _duration(value: object) -> timedelta:
    try:
        return parse_duration(value)
    except InvalidError as error:
        raise expected(str(error).split(", got ")[0]) from None


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise expected("expected a duration above zero")
    return value


def _span(value: object) -> timedelta | str:
    if value == AUTO:
        return AUTO
    try:
        return _positive(_duration(value))
    except PydanticCustomError as error:
        raise expected(str(error).replace("expected", "expected `auto` or", 1)) from None


def _choice(value: object) -> bool | str:
    if isinstance(value, bool) or value == AUTO:
        return value
    raise expected("expected `auto`, true or false")


def _storable(value: timedelta) -> timedelta:
    if value > LONGEST_STEP:
        raise expected("expected a duration of at most 50 years")
    return value


def _percent(value: object) -> object:
    if isinstance(value, bool):
        raise expected("expected a share such as 5% or 0.05")
    if not isinstance(value, str):
        return value
    match = _PERCENT.fullmatch(value)
    try:
        return float(match[1]) / 100 if match else float(value)
    except ValueError:
        raise expected("expected a share such as 5% or 0.05") from None


def _not_bool(value: object) -> object:
    # Without this, ``workers: yes`` would read as one worker.
    if isinstance(value, bool):
        raise expected("expected a number")
    return value


@cache
def _zones() -> frozenset[str]:
    from zoneinfo import available_timezones

    return frozenset(available_timezones())


def _zone(value: str) -> str:
    if value in _zones():
        return value
    raise expected(f"expected an IANA time zone such as UTC or Europe/Berlin{did_you_mean(value, _zones())}")


def _clock_time(value: object) -> str:
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", value) if isinstance(value, str) else None
    if match is None:
        raise expected('expected a time of day such as "03:15"')
    return f"{int(match[1]):02d}:{match[2]}"


def as_list(value: object) -> object:
    """Return a list as it is and anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def folder_of(info: ValidationInfo) -> Path:
    """Return the folder that relative paths start from: the config file's, else the current one."""
    context: dict[str, Any] = info.context or {}
    return Path(context.get("folder", Path.cwd()))


def _absolute(value: Path, info: ValidationInfo) -> Path:
    return folder_of(info) / value.expanduser()


def _absolute_pattern(value: str, info: ValidationInfo) -> str:
    return os.path.join(folder_of(info), os.path.expanduser(value))


def absolute_sqlite(url: str, info: ValidationInfo) -> str:
    """Return a database URL, that of an SQLite file with its path made absolute."""
    prefix = "sqlite:///"
    if not url.startswith(prefix) or url.removeprefix(prefix) in {"", ":memory:"}:
        return url
    return f"{prefix}{folder_of(info) / os.path.expanduser(url.removeprefix(prefix))}"


def text_or_list(what: str) -> dict[str, Any]:
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "title": what}


_DURATION_SCHEMA = {
    "anyOf": [{"type": "string", "pattern": f"^{_DURATION}$"}, {"const": 0}],
    "examples": ["5min", "7d"],
}
_PERCENT_SCHEMA = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "%$"}],
    "examples": ["5%", 0.05],
}

Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]
"""Zero or longer."""
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Span = Annotated[
    timedelta | str,
    PlainValidator(_span),
    WithJsonSchema({**_DURATION_SCHEMA, "anyOf": [{"const": AUTO}, _DURATION_SCHEMA["anyOf"][0]]}),
]
"""A positive duration, or ``auto``."""
Choice = Annotated[
    bool | str, PlainValidator(_choice), WithJsonSchema({"anyOf": [{"const": AUTO}, {"type": "boolean"}]})
]
"""True, false, or ``auto``."""
Step = Annotated[PositiveDuration, AfterValidator(_storable)]
Delay = Annotated[Duration, AfterValidator(_storable)]
Share = Annotated[
    float, BeforeValidator(_percent), Field(ge=0, allow_inf_nan=False), WithJsonSchema(_PERCENT_SCHEMA)
]
"""5% reads as 0.05."""
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_not_bool), Field(le=MOST)]
Text = Annotated[str, Field(min_length=1)]
Zone = Annotated[str, AfterValidator(_zone)]
ClockTime = Annotated[
    str, BeforeValidator(_clock_time), WithJsonSchema({"type": "string", "pattern": r"^\d?\d:\d\d$"})
]
RelativePath = Annotated[Path, AfterValidator(_absolute)]
PathPattern = Annotated[str, Field(min_length=1), AfterValidator(_absolute_pattern)]
PathPatterns = Annotated[
    list[PathPattern],
    BeforeValidator(as_list),
    Field(min_length=1),
    WithJsonSchema(text_or_list("file, folder or pattern")),
]
TextOrList = Annotated[
    list[Text], BeforeValidator(as_list), Field(min_length=1), WithJsonSchema(text_or_list("one or many"))
]
TextsOrNone = Annotated[
    list[Text], BeforeValidator(as_list), WithJsonSchema(text_or_list("one, many or none"))
]


@dataclass(frozen=True)
class SecretMark:
    """Marks a field that may hold a password: never shown, and readable from ``<name>_file``."""


Secret = Annotated[str, Field(min_length=1, repr=False), SecretMark()]


class Section(BaseModel):
    """A section of the config file: frozen, and only the keys it declares.

    A field of type ``Secret`` may be given as ``<name>_file``, the path of a file that holds it;
    that key is declared beside it as ``SecretFile``, so that it is documented like any other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def secrets(cls) -> list[str]:
        """Return the names of the fields that may hold a password."""
        return [
            name
            for name, field in cls.model_fields.items()
            if any(isinstance(mark, SecretMark) for mark in field.metadata)
        ]

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, values: Any, info: ValidationInfo) -> Any:
        # Nothing is refused in here: an error at this point would hide all others of the section.
        if not isinstance(values, dict):
            return values
        # ``policy:`` with nothing after it, all of it commented out, is a policy not given.
        values = {k: v for k, v in values.items() if v is not None or k not in cls.model_fields}
        for name in cls.secrets():
            if isinstance(values.get(f"{name}_file"), str):
                values = _with_secret(values, name, folder_of(info))
            remember(values.get(name))
        return values


@dataclass(frozen=True)
class _Unreadable:
    """What stands for the path of a secret that could not be taken, until its field refuses it."""

    reason: str


def _with_secret(values: dict[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """Return the section with a secret read from its file, without the line break at its end."""
    key = f"{name}_file"
    if name in values:
        return values | {key: _Unreadable(f"both {name} and {key} are given; keep one")}
    try:
        text = (folder / os.path.expanduser(values[key])).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        return values | {key: _Unreadable(f"the file cannot be read: {reason}")}
    return values | {name: text.rstrip("\r\n")}


def _secret_file(value: object) -> object:
    if isinstance(value, _Unreadable):
        raise expected(value.reason)
    return value


SecretFile = Annotated[RelativePath, BeforeValidator(_secret_file, json_schema_input_type=str)]
"""The path of a file that holds a secret, for the key ``<name>_file`` beside it."""


def installed(what: str, names: Callable[[], list[str]]) -> AfterValidator:
    """Return a validator that takes only names that some installed package declares."""

    def check(value: str) -> str:
        if value not in names():
            raise expected(f"expected an installed {what}: {one_of(names())}{did_you_mean(value, names())}")
        return value

    return AfterValidator(check)
