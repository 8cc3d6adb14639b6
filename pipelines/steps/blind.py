"""Steps whose points came and have no score: a target that is watched and not seen.

Behind a gap a window has too few steps with points for a while; that is told by the gap. What is told by
nothing is a grid that the points do not keep to: every second step without one, and no score at all.
"""

from __future__ import annotations

import numpy as np

from pipelines.names import Kind
from pipelines.records import Interval, Policy, Seconds
from pipelines.steps import flag

SHARE = 4
"""A fourth of a window of such points is an interval: fewer come together where single steps are missing."""


def behind_gaps(missing: flag.Flags, policy: Policy, window: int) -> flag.Flags:
    """Return which steps lie in a gap that is flagged, or less than a window behind one.

    >>> missing = np.array([True, True, True, False, False, False, True, False])
    >>> behind_gaps(missing, Policy(missing_after_steps=3), window=2).tolist()
    [True, True, True, True, True, False, False, False]
    """
    shortest = max(1, policy.missing_after_steps)
    steps = np.arange(len(missing))
    last_seen = np.maximum.accumulate(np.where(missing, -1, steps))
    in_gap = missing & (steps - last_seen >= shortest)
    end = np.maximum.accumulate(np.where(in_gap, steps, -window - 1))
    return steps - end <= window


def unscored(
    scored: flag.Flags,
    missing: flag.Flags,
    told: flag.Flags,
    ts: Seconds,
    policy: Policy,
    window: int,
) -> list[Interval]:
    """Return the stretches of points without a score that are long enough to be events.

    Args:
        scored: shape ``(n,)``, True where a step has a score.
        missing: shape ``(n,)``, True where no point came.
        told: shape ``(n,)``, steps whose missing score another interval or the calendar explains.
        ts: epoch seconds of the steps, shape ``(n,)``.
        window: steps of the longest window that scores.

    Returns:
        Intervals in order of time, from point to point; their score is their points over the fewest that
        count. One is open where no later point has a score.
    """
    blind = ~scored & ~missing & ~told
    least = max(1, policy.missing_after_steps, window // SHARE)
    # Steps without a point part no stretch; one with a score does.
    stretch = np.cumsum(scored | told)[blind]
    at = np.flatnonzero(blind)
    later_scores = np.flatnonzero(scored)
    found = []
    for run in np.split(at, np.flatnonzero(np.diff(stretch)) + 1):
        if len(run) >= least:
            is_open = not len(later_scores) or later_scores[-1] < run[-1]
            n = flag.coarse(len(run)) if is_open else len(run)
            score = n / least
            start, end = int(ts[run[0]]), int(ts[run[n - 1]])
            found.append(Interval(Kind.UNSCORED, start, end, n, start, score, score, open=is_open))
    return found
