"""What pydantic found wrong, in the words of a config file."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from anomaly_service import sources
from anomaly_service.config.document import Document
from anomaly_service.config.errors import Loc, Problem, one_of, unknown_key
from anomaly_service.config.sections import Config
from anomaly_service.config.values import (
    Section,
)
from anomaly_service.sources.base import SourceConfig
from detectors.spelling import did_you_mean


def problem_of(error: Mapping[str, Any], values: Any, document: Document, given: set[str]) -> Problem:
    loc: Loc = tuple(error["loc"])
    if loc and loc[0] in given:
        return Problem(
            f"environment variable ANOMALY_{str(loc[0]).upper()}", 0, loc, message_of(error, values, "")
        )
    place = document.place(loc)
    shown = place.text if loc in document.places and not _is_secret(loc, values) else ""
    return Problem(document.file, place.line, loc, message_of(error, values, shown).replace("?; ", "? "))


EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": "expected a section of keys",
    "finite_number": "expected a finite number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "list_type": "expected a list",
    "missing": "this key is missing and has no default",
    "model_type": "expected a section of keys",
    "path_type": "expected a path",
    "string_too_short": "expected some text",
    "string_type": "expected text; put it in quotes",
    "too_short": "expected at least one",
}
"""pydantic's errors in the words of a config file."""


def message_of(error: Mapping[str, Any], values: Any, shown: str) -> str:
    """Return what was expected and what came.

    Args:
        error: as pydantic tells it.
        values: what was to be a config.
        shown: the value as it was given; empty where it must not be shown.
    """
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(tuple(error["loc"]), values)
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", context["expected"])
        message = f"expected one of {one_of(choices)}{did_you_mean(str(error['input']), choices)}"
    else:
        message = EXPECTED.get(kind, error["msg"]).format(**context) if kind in EXPECTED else error["msg"]
    return message if kind in {"wrong", "missing"} or not shown else f"{message}; got {shown}"


def _unknown_key(loc: Loc, values: Any) -> str:
    section = _section_at(loc[:-1], values)
    fields = section.model_fields if section is not None else {}
    allowed = [field.alias or name for name, field in fields.items()]
    below = {name: inside(section, name) for name in allowed}
    paths = [
        f"{name}.{key}" for name, each in below.items() if _is_section(each) for key in each.model_fields
    ]
    return unknown_key(str(loc[-1]), allowed, paths)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _is_secret(loc: Loc, values: Any) -> bool:
    section = _section_at(loc[:-1], values)
    return section is not None and loc[-1] in section.secrets()


def _section_at(loc: Loc, values: Any) -> type[Section] | None:
    """Return the class that checks the section at a path of the file."""
    annotation: Any = Config
    for part in loc:
        values = values.get(part) if isinstance(values, dict) else None
        annotation = inside(annotation, part)
        if annotation is SourceConfig:
            kind = values.get("kind") if isinstance(values, dict) else None
            annotation = sources.get(kind).Config if kind in sources.kinds() else SourceConfig
    return annotation if _is_section(annotation) else None


def inside(annotation: Any, part: str | int) -> Any:
    """Return the annotation of what stands under a key, stripped of Annotated and None."""
    if _is_section(annotation):
        field = annotation.model_fields.get(str(part))
        annotation = field.annotation if field is not None else None
    elif get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    else:
        annotation = None
    while get_origin(annotation) in {Annotated, Union, types.UnionType}:
        annotation = get_args(annotation)[0]
    return annotation
