"""How recipes, cards, calibrations and the like become text: as strict JSON, or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from pipelines.errors import UnstorableError

PLAIN = (str, bool, int, float, type(None))


def to_text(body: Any) -> str:
    """Return a body as JSON text, the same for both databases.

    >>> to_text({"scale": 0.5, "channels": [{"counts": True}]})
    '{"scale":0.5,"channels":[{"counts":true}]}'

    Raises:
        UnstorableError: something in it is no JSON, such as a number of numpy, or not finite (which SQLite
            would take and PostgreSQL refuse); the message names it.
    """
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        found = next(_faults(body, ""), str(error))
        raise UnstorableError(f"expected JSON, got {found}") from error


def _faults(value: Any, path: str) -> Iterator[str]:
    """Yield what is no JSON, and where it stands."""
    if isinstance(value, dict):
        yield from (f"the key {key!r} at {path or 'the top'}" for key in value if not isinstance(key, str))
        for key, each in value.items():
            yield from _faults(each, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _faults(each, f"{path}[{number}]")
    elif not isinstance(value, PLAIN):
        kind = type(value)
        yield f"a {kind.__module__}.{kind.__qualname__} ({value!r}) at {path or 'the top'}"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{float(value)} at {path or 'the top'}"
