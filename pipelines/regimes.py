"""Known regimes of time: workday and weekend by the clock of the series, and what a calendar names.

A version knows regimes by name, in an order of its own; when they are is looked up where it is applied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.records import Seconds
from pipelines.season import DAY, phases, utc_offsets

WORKDAY, WEEKEND = "workday", "weekend"

SATURDAY = 5
"""Day of the week, from Monday at 0."""

Regimes = NDArray[np.uint8]


def names() -> tuple[str, ...]:
    """Return the regimes that a new version tells apart, in order."""
    return WORKDAY, WEEKEND


def of_steps(ts: Seconds, timezone: str, names: Sequence[str]) -> Regimes:
    """Return the regime of every moment, as its place in ``names``; all of the first where there are none.

    Args:
        ts: epoch seconds, ascending.
        timezone: IANA name of the clock that the series' days follow.
        names: the regimes that a version knows, workday and weekend first.
    """
    if not names:
        return np.zeros(len(ts), dtype=np.uint8)
    _, weekday = phases(ts, utc_offsets(timezone, ts), 7 * DAY, DAY)
    return (weekday >= SATURDAY).astype(np.uint8)
