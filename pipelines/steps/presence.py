"""When in the week a series usually has points: what is absent by habit is no gap.

A shop that opens from 7 to 17, a market on workdays, a job that reports once a night. The week is cut into
bins of half an hour, or longer where steps are; each is usually there, usually absent, or sparse: a point
comes in it, and not at every step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.records import Seconds
from pipelines.steps import masks
from pipelines.steps.masks import Span
from pipelines.steps.season import utc_offsets
from pipelines.times import DAY, HOUR, WEEK

BINS = (HOUR // 2, HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 6 * HOUR, 12 * HOUR, DAY)
"""Lengths of a bin, seconds: the first that holds a step."""

HERE, SPARSE, ABSENT = "#", ".", "-"

USUAL = 0.6
"""A bin is usual that has points in this share of the weeks in which the most reliable bins have."""

FULL = 0.5
"""A bin with points at fewer of its steps is sparse."""

WEEKS = 3
"""From so many weeks on a habit has exceptions; a bin that was seen twice and both times empty has none."""

RECURS = 2 / 3
"""A habit shows in most weeks: what came for a day, and again weeks later, has a gap and no habit."""

FIRST_THURSDAY = 3 * DAY
"""The epoch began on a Thursday; weeks begin on Mondays."""


def learn(ts: Seconds, start: int, stop: int, timezone: str, step_seconds: int) -> str:
    """Return what is usual of every bin of the local week; empty where all is, or too little is known.

    Args:
        ts: times of points, ascending.
        start, stop: half-open span in which points could have come, two weeks at least.
    """
    size = next((size for size in BINS if size >= step_seconds), None)
    ts = ts[(ts >= start) & (ts < stop)]
    if size is None or stop - start < 2 * WEEK - DAY or not len(ts):
        return ""
    first, last = _bins(np.array([start, stop]), timezone, size).tolist()
    counts = np.bincount(_bins(ts, timezone, size) - first, minlength=last - first + 1)
    return _told(counts, first, size, step_seconds)


def _bins(ts: Seconds, timezone: str, size: int) -> Seconds:
    """Return the number of each moment's bin, counted from a Monday."""
    found: Seconds = (ts + utc_offsets(timezone, ts) + FIRST_THURSDAY) // size
    return found


def _told(counts: NDArray[np.int64], first: int, size: int, step_seconds: int) -> str:
    """Return the bins of the week in words of one letter, from the points in each bin of a history."""
    week, of_week = np.divmod(first + np.arange(len(counts)), WEEK // size)
    if np.mean(np.bincount(week - week[0], counts > 0) > 0) < RECURS:
        return ""
    # The first and the last bin were seen in part only.
    of_week, counts = of_week[1:-1], counts[1:-1]
    n_seen = np.bincount(of_week, minlength=WEEK // size)
    n_there = np.bincount(of_week, counts > 0, minlength=WEEK // size)
    share = n_there / np.maximum(n_seen, 1)
    always = float(np.quantile(share[n_there > 0], 0.9)) if n_there.any() else 1.0
    # What was seen once goes by the other days.
    never = np.tile(n_there.reshape(7, -1).sum(axis=0) == 0, 7)
    absent = np.where(n_seen < WEEKS, (n_there == 0) & ((n_seen > 1) | never), share < USUAL * always)
    fill = np.bincount(of_week, counts, minlength=WEEK // size) / np.maximum(n_there, 1) * step_seconds / size
    words = np.where(absent, ABSENT, np.where((fill < FULL) & (n_there > 0), SPARSE, HERE))
    return "" if (words == HERE).all() else "".join(words.tolist())


def excused(habit: str, steps: Seconds, ts: Seconds, timezone: str, step_seconds: int) -> list[Span]:
    """Return the half-open spans of steps at which a point is usually absent.

    Args:
        habit: of ``learn``; empty excuses nothing.
        steps: times of the steps that are looked at, ascending.
        ts: times of points around them.
    """
    if not habit or not len(steps):
        return []
    size = WEEK // len(habit)
    bins = _bins(steps, timezone, size)
    words = np.array(list(habit))[bins % len(habit)]
    came = np.isin(bins, _bins(ts, timezone, size))
    return runs(steps, (words == ABSENT) | ((words == SPARSE) & came), step_seconds)


def runs(steps: Seconds, marked: NDArray[np.bool_], step_seconds: int) -> list[Span]:
    """Return the half-open spans of the steps that are marked."""
    at = np.flatnonzero(marked)
    parts = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []
    return [masks.of_steps(int(steps[part[0]]), int(steps[part[-1]]), step_seconds) for part in parts]


DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def words(habit: str) -> str:
    """Return in a few words when a series is usually absent; empty where it never is.

    >>> words(("-" * 18 + "#" * 14 + "-" * 16) * 6 + "-" * 48)
    'absent Mon-Sat 00:00-09:00, 16:00-24:00; Sun'
    """
    if ABSENT not in habit:
        return ""
    size = len(habit) // 7
    days = [_absent_hours(habit[i * size : (i + 1) * size]) for i in range(7)]
    groups: list[tuple[int, int]] = []
    for i, hours in enumerate(days):
        if groups and days[groups[-1][0]] == hours:
            groups[-1] = (groups[-1][0], i)
        else:
            groups.append((i, i))
    named = [(DAYS[a] if a == b else f"{DAYS[a]}-{DAYS[b]}", days[a]) for a, b in groups]
    told = [name if hours == "all" else f"{name} {hours}" for name, hours in named if hours]
    return "absent " + "; ".join(told)


def _absent_hours(day: str) -> str:
    """Return when of a day a series is absent: ``all``, or spans of its clock."""
    if set(day) == {ABSENT}:
        return "all"
    minutes = DAY // 60 // len(day)
    edges = np.flatnonzero(np.diff(np.array([word == ABSENT for word in f"x{day}x"]).astype(int))) * minutes
    clock = [f"{at // 60:02d}:{at % 60:02d}" for at in edges.tolist()]
    return ", ".join(f"{a}-{b}" for a, b in zip(clock[::2], clock[1::2], strict=True))
