"""What values and their absence stand for, told from a file: counts without their zeros, and counters.

Decided once, when a config is written: whoever reads it changes it there, and no later data do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.records import Points, Seconds, Values
from pipelines.times import DAY, HOUR

FEWEST = 50
"""Points of a series below which nothing is told of it."""

SCATTERED = 0.4
"""Absent steps come in at least this share of the runs that chance would make: nights come in few."""

EXPLAINED = 3.0
"""As many steps are absent as counts of that mean are zero, within this factor."""

ABSENT = 0.02
"""Share of absent steps from which on it matters what they are."""

MOST_FALLS = 0.05
"""Share of neighbours at which a counter starts anew."""

RISES = 0.1
"""Share of neighbours at which it rises, at least: a switch that went on once is none."""

FALLEN = 0.5
"""What started anew is below this share of what it was."""


@dataclass(frozen=True)
class Watched:
    """How what a source holds is to be watched.

    Attributes:
        leaves_out_zeros: a step without a point counted nothing.
        counters: metrics that only rise until they start anew.
        n_metrics: of all.
    """

    leaves_out_zeros: bool
    counters: tuple[str, ...]
    n_metrics: int

    def section(self) -> dict[str, Any]:
        """Return the keys of the source's section in the config; none for what is usual."""
        found: dict[str, Any] = {"absent": "zero"} if self.leaves_out_zeros else {}
        if self.counters:
            all_are = len(self.counters) == self.n_metrics
            found["as"] = "rate" if all_are else dict.fromkeys(self.counters, "rate")
        return found

    def comments(self) -> dict[str, str]:
        """Return why a key of the section is as it is, with what else it can be."""
        return {
            "absent": "steps at which nothing was counted are left out; else: missing",
            "as": "a counter: its rise a second is watched; as it is: value",
        }

    def words(self) -> list[str]:
        """Return what was found, a sentence each, with the key that changes it."""
        said = []
        if self.leaves_out_zeros:
            said.append(
                "absent: zero: these are counts, and steps at which nothing was counted seem to be left out; "
                "where they are missing values, say absent: missing in the config"
            )
        if self.counters:
            which = "the values are" if self.n_metrics == 1 else f"{', '.join(self.counters[:5])} are"
            said.append(
                f"as: rate: {which} a counter, which only rises until it starts anew; watched as its rise a "
                "second; as: value in the config takes it as it is"
            )
        return said


def watched(
    metrics: Sequence[str], series: Seconds, ts: Seconds, value: Values, step_seconds: int
) -> Watched:
    """Return how series are to be watched.

    Args:
        metrics: of every series.
        series, ts, value: columns of points; a series' number is its place in ``metrics``.
    """
    by_series = dict(_split(series, ts, value))
    names = dict.fromkeys(metrics[i] for i in by_series)
    own = {name: [p for i, p in by_series.items() if metrics[i] == name] for name in names}
    counters = tuple(name for name, some in own.items() if _mostly(map(is_counter, some)))
    rest = [p for name, some in own.items() if name not in counters for p in some]
    zeros = bool(rest) and _mostly(leaves_out_zeros(p, step_seconds) for p in rest)
    return Watched(zeros, counters, len(names))


def _mostly(said: Iterator[bool]) -> bool:
    found = list(said)
    return 2 * sum(found) > len(found)


def _split(series: Seconds, ts: Seconds, value: Values) -> Iterator[tuple[int, Points]]:
    order = np.lexsort((ts, series))
    numbers, firsts = np.unique(series[order], return_index=True)
    for number, rows in zip(numbers.tolist(), np.split(order, firsts[1:]), strict=True):
        last = np.diff(ts[rows], append=ts[rows[-1]] + 1) > 0
        yield number, Points(ts[rows][last], value[rows][last])


def is_counter(points: Points) -> bool:
    """Return whether values only rise until they start anew, far below.

    >>> at = np.arange(100)
    >>> is_counter(Points(at, at % 60 * 3.0)), is_counter(Points(at, np.sin(at)))
    (True, False)
    """
    value, rise = points.value, np.diff(points.value)
    if len(value) < FEWEST or value.min() < 0 or (rise > 0).mean() < RISES:
        return False
    falls = np.flatnonzero(rise < 0)
    anew = value[falls + 1] <= FALLEN * value[falls]
    return bool(len(falls) <= MOST_FALLS * len(rise) and anew.all() and not _is_even(rise[rise >= 0]))


def _is_even(rise: Values) -> bool:
    """Return whether something rises by the same every time: it numbers its rows, and counts nothing."""
    _, counts = np.unique(rise, return_counts=True)
    return bool(counts.max() > 0.99 * len(rise))


def leaves_out_zeros(points: Points, step_seconds: int) -> bool:
    """Return whether counts of zero are what explains the steps without a point.

    Values are whole and never zero, the absent steps are scattered and not whole nights, and they are about
    as many as counts with the mean of those present are zero, hour of day by hour of day.
    """
    value = points.value
    if len(value) < FEWEST or value.min() < 1 or (value != np.rint(value)).any():
        return False
    place = (points.ts - points.ts[0]) // step_seconds
    present = np.zeros(int(place[-1]) + 1, dtype=np.bool_)
    present[place] = True
    n_absent = int((~present).sum())
    if n_absent < ABSENT * len(present) or not _is_scattered(present):
        return False
    expected = _expected_zeros(points, present, step_seconds)
    return bool(n_absent / EXPLAINED <= expected <= n_absent * EXPLAINED)


def _is_scattered(present: np.ndarray[Any, Any]) -> bool:
    runs = int((present[:-1] & ~present[1:]).sum())
    share = float(present.mean())
    return runs >= SCATTERED * len(present) * share * (1 - share)


def _expected_zeros(points: Points, present: np.ndarray[Any, Any], step_seconds: int) -> float:
    """Return how many steps would have counted zero by the mean of the counts in each hour of the day."""
    at = points.ts[0] + step_seconds * np.arange(len(present))
    n_steps = np.bincount(at % DAY // HOUR, minlength=24)
    hour = points.ts % DAY // HOUR
    # One burst must not speak for its hour.
    value = np.minimum(points.value, np.quantile(points.value, 0.99))
    n_seen = np.bincount(hour, minlength=24)
    mean = np.bincount(hour, value, minlength=24) / np.maximum(n_seen, 1)
    return float((n_steps * np.where(n_seen > 0, np.exp(-_rate(mean)), 1.0)).sum())


def _rate(mean: Values) -> Values:
    """Return the mean of counts of which those above zero have this one (Poisson, zero-truncated)."""
    rate = np.maximum(mean - 1.0, 1e-3)
    for _ in range(50):
        rate = np.maximum(mean * -np.expm1(-rate), 1e-3)
    return rate
