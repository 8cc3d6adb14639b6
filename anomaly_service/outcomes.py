"""What the outcome of a run tells of what could not be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def left_out(outcome: Mapping[str, Any]) -> list[str]:
    """Return which targets a run left out, each with the reason, as far as it tells them.

    >>> left_out({"load": {"rows": 7, "left_out": 1, "left_out_why": ["a: not scored"]}})
    ['a: not scored']
    """
    parts = [outcome, *(part for part in outcome.values() if isinstance(part, Mapping))]
    told = [why for part in parts for why in part.get("left_out_why", ())]
    told += [why for bite in outcome.get("bites", ()) for why in left_out(bite)]
    return list(dict.fromkeys(told))
