"""How well intervals are the incidents: borders, pieces, echoes, ends, and values beside their band.

Times are epoch seconds, and both ends belong to an incident and to an interval. An interval belongs to an
incident where ``demo_report`` says so: of one series, and they overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipelines.measure.demo_report import Flagged, Incident, IncidentOutcome
from pipelines.records import Seconds, Values
from pipelines.times import HOUR

ECHO_STEPS = 256
"""Steps of the longest window that ``auto`` has: so far what is odd reaches in it."""

CLOSED_SECONDS = 15 * 60
"""A live interval closed in time if it ends so long after its incident, or earlier."""

Pair = tuple[Incident, Incident]
"""Two incidents of one series, the earlier one first."""


# -- pieces and echoes --------------------------------------------------------------


def intervals_per_found(outcomes: Iterable[IncidentOutcome]) -> float | None:
    """Return how many intervals overlap an incident that was found, on average; None where none was."""
    counts = [len(outcome.flagged) for outcome in outcomes if outcome.found]
    return float(np.mean(counts)) if counts else None


def echoes(
    outcomes: Iterable[IncidentOutcome], flagged: Iterable[Flagged], step_seconds: int
) -> tuple[Flagged, ...]:
    """Return the intervals that overlap nothing planted, ``ECHO_STEPS`` or fewer from a found incident."""
    outcomes, reach = tuple(outcomes), ECHO_STEPS * step_seconds
    belonging = {each for outcome in outcomes for each in outcome.flagged}
    found = [outcome.incident for outcome in outcomes if outcome.found]
    return tuple(
        each
        for each in flagged
        if each not in belonging and any(_distance(each, incident) <= reach for incident in found)
    )


def _distance(flagged: Flagged, incident: Incident) -> float:
    """Return the seconds between two spans, infinite on different series."""
    if flagged.series != incident.series:
        return np.inf
    return max(flagged.start - incident.end, incident.start - flagged.end, 0)


def reopened(flagged: Iterable[Flagged], within_seconds: int = HOUR) -> float:
    """Return the share of intervals that begin within an hour of the end of the last one.

    Both are of one monitor, series and kind: that values are missing, and that they are odd, are two things.
    """
    rows = sorted(flagged, key=lambda each: (each.monitor, each.series, each.kind, each.start))
    again = sum(
        (one.monitor, one.series, one.kind) == (other.monitor, other.series, other.kind)
        and other.start - one.end <= within_seconds
        for one, other in pairwise(rows)
    )
    return again / len(rows) if rows else 0.0


def stay_two(pair: Pair, flagged: Iterable[Flagged]) -> bool:
    """True where both incidents of a pair were found, and no interval overlaps both."""
    touched = [(each.overlaps(pair[0]), each.overlaps(pair[1])) for each in flagged]
    return (
        any(one for one, _ in touched) and any(other for _, other in touched) and (True, True) not in touched
    )


# -- borders ------------------------------------------------------------------------


def intersection_over_union(outcome: IncidentOutcome, step_seconds: int) -> float:
    """Return the steps that an incident and its intervals share, of all steps that either has: 0 to 1."""
    spans = [(each.start, each.end) for each in outcome.flagged]
    planted = (outcome.incident.start, outcome.incident.end)
    first, last = min(a for a, _ in [planted, *spans]), max(b for _, b in [planted, *spans])
    ts = np.arange(first, last + 1, step_seconds)
    true, told = _marked(ts, [planted]), _marked(ts, spans)
    return float(np.count_nonzero(true & told) / np.count_nonzero(true | told))


def worst_tenth(shares: Sequence[float]) -> float | None:
    """Return what nine in ten reach, interpolated; None of nothing."""
    return float(np.quantile(shares, 0.1)) if shares else None


def closed_in_time(outcomes: Iterable[IncidentOutcome]) -> float | None:
    """Return the share of found incidents whose last interval ended in time; None where none was found.

    An interval that two incidents share is judged at the later one: until then it had to go on.
    """
    outcomes = tuple(outcomes)
    last_end: dict[Flagged, int] = {}
    for outcome in outcomes:
        for each in outcome.flagged:
            last_end[each] = max(last_end.get(each, outcome.incident.end), outcome.incident.end)
    kept = [
        all(each.end - last_end[each] <= CLOSED_SECONDS for each in outcome.flagged)
        for outcome in outcomes
        if outcome.found
    ]
    return float(np.mean(kept)) if kept else None


def delays(outcomes: Iterable[IncidentOutcome]) -> dict[str, list[float]]:
    """Return the minutes from the start of every found incident to its first flag, by kind."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.late_seconds is not None:
            found.setdefault(outcome.incident.kind, []).append(outcome.late_seconds / 60)
    return dict(sorted(found.items()))


# -- values beside their band -------------------------------------------------------


def outside_band(y: Values, low: Values, high: Values) -> NDArray[np.bool_]:
    """Return where values are not between the band's edges, which belong to it; False where any is missing.

    Args:
        y, low, high: of one shape, in the series' unit, NaN where missing.
    """
    return np.asarray((y < low) | (y > high))


def inside_share(y: Values, low: Values, high: Values, of: NDArray[np.bool_]) -> tuple[int, int]:
    """Return how many of the steps that are asked of lie inside the band, and how many have value and band.

    Args:
        of: the steps to count, such as those in no incident, shape ``(n,)``.
    """
    known = of & np.isfinite(y) & np.isfinite(low) & np.isfinite(high)
    return int(np.count_nonzero(known & ~outside_band(y, low, high))), int(np.count_nonzero(known))


def outside_shares(
    spans: Iterable[tuple[int, int]], ts: Seconds, y: Values, low: Values, high: Values
) -> list[float]:
    """Return of every span the share of its steps outside the band; of steps without a value, none counts.

    Args:
        spans: first and last moment, as of an interval; those without any value are left out.
        ts: ascending, shape ``(n,)`` like the others.
    """
    known, outside = np.isfinite(y) & np.isfinite(low) & np.isfinite(high), outside_band(y, low, high)
    shares = []
    for start, end in spans:
        a, b = np.searchsorted(ts, [start, end + 1])
        if known[a:b].any():
            shares.append(float(np.count_nonzero(outside[a:b]) / np.count_nonzero(known[a:b])))
    return shares


def away_from(ts: Seconds, spans: Iterable[tuple[int, int]], margin_seconds: int = 0) -> NDArray[np.bool_]:
    """Return which times lie in none of the spans, nor so close to one, shape ``(n,)``."""
    return ~_marked(ts, [(start - margin_seconds, end + margin_seconds) for start, end in spans])


def _marked(ts: Seconds, spans: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
    marked = np.zeros(len(ts), dtype=bool)
    for start, end in spans:
        marked |= (ts >= start) & (ts <= end)
    return marked
