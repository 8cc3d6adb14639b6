"""The numbers that stored JSON carries of how it is laid out, so that what reads it need not guess."""

from __future__ import annotations

from typing import Any

from pipelines.errors import NewerFormatError


def format_of(values: dict[str, Any], newest: int, what: str) -> int:
    """Return the format number of stored JSON; 0 where it has none: it is older than those numbers.

    Args:
        newest: the highest number that can be read.
        what: what the JSON is, for the message.

    Raises:
        NewerFormatError: the number is higher.
    """
    found = int(values.get("format", 0))
    if found > newest:
        raise NewerFormatError(
            f"expected {what} in a format up to {newest}, got {found}: a newer release has written it; "
            "update this one"
        )
    return found
