"""Gaps of a target: those of each of its series, and one interval where they overlap.

One series of several that stops is as much an event as all of them; the others are scored on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.names import Kind
from pipelines.records import Interval, Points, Policy, Seconds
from pipelines.steps import flag, masks
from pipelines.steps.masks import Span

Owned = tuple[Interval, int]
"""A gap and the number of its channel."""


def on_grid(
    missing: flag.Flags,
    ts: Seconds,
    points: Sequence[Points],
    policy: Policy,
    step_seconds: int,
    *,
    observed_until: int,
    newest: Sequence[int],
    names: Sequence[str] = (),
    masked: Sequence[Span] = (),
    usual: Sequence[Sequence[Span]] = (),
) -> list[Interval]:
    """Return the gaps of a target's steps, in order of time.

    Args:
        missing: shape ``(n, n_channels)``, True where no point came.
        ts: epoch seconds of the steps, shape ``(n,)``, at least one.
        points: of every channel, around the steps as well.
        observed_until: up to when points could have come, exclusive.
        newest: time of every channel's newest point, which may lie beyond ``points``.
        names: the channels' metrics, for the shares.
        masked: half-open spans in which no point is missing, once the first one came.
        usual: for every channel the spans in which it usually has none; none where left out.
    """
    half = step_seconds // 2

    def gaps(channel: int) -> list[Interval]:
        spans = [*masked, *(usual[channel] if usual else ())]
        seen = _seen(points[channel].ts, spans, int(ts[0]), step_seconds, observed_until)
        before, after = seen[seen < ts[0] - half], seen[seen >= ts[-1] + half]
        own_missing, steps = missing[:, channel] & ~masks.within(ts, spans), ts
        later: int | None = int(after[0]) if len(after) else None
        if newest[channel] >= ts[-1] + half:
            # Points come later than what was read: a gap at the border is seen whole in a wider span.
            later = int(ts[-1]) + step_seconds if later is None else later
        elif (quiet := _excused_rest(after, ts, policy, step_seconds, observed_until)) is not None:
            later, steps = None, np.concatenate([ts, quiet])
            own_missing = np.concatenate([own_missing, np.zeros(len(quiet), dtype=np.bool_)])
        return flag.data_missing(
            own_missing,
            steps,
            policy,
            step_seconds,
            observed_until=observed_until - 1,
            previous_ts=int(before[-1]) if len(before) else None,
            next_ts=later,
        )

    return joined([gaps(channel) for channel in range(len(points))], policy, step_seconds, names)


def _excused_rest(
    excused: Seconds, ts: Seconds, policy: Policy, step_seconds: int, observed_until: int
) -> Seconds | None:
    """Return the steps behind the last point at which none is missing, up to where it has stopped.

    None where it has not: fewer steps are missing than count.

    Args:
        excused: times behind ``ts`` at which no point is missing, ascending.
    """
    edges = np.concatenate([ts[-1:], excused, [observed_until + step_seconds - 1]])
    n_missing = np.diff(edges) // step_seconds - 1
    stopped = np.flatnonzero(n_missing >= max(1, policy.missing_after_steps))
    return excused[: stopped[0]] if len(stopped) else None


def between_points(
    points: Sequence[Points],
    policy: Policy,
    step_seconds: int,
    *,
    start: int,
    stop: int,
    names: Sequence[str] = (),
    masked: Sequence[Span] = (),
    usual: Sequence[Sequence[Span]] = (),
) -> list[Interval]:
    """Return the gaps between the points of a half-open span, for a target that has no grid yet.

    Args:
        masked: half-open spans in which no point is missing.
        usual: for every channel the spans in which it usually has none; none where left out.
    """

    def gaps(channel: int) -> list[Interval]:
        ts = points[channel].ts
        ts = ts[(ts >= start) & (ts < stop)]
        ts = _seen(
            ts,
            [*masked, *(usual[channel] if usual else ())],
            int(ts[0]) if len(ts) else 0,
            step_seconds,
            stop,
        )
        none_missing = np.zeros(len(ts), dtype=np.bool_)
        return flag.data_missing(none_missing, ts, policy, step_seconds, observed_until=stop - 1)

    return joined([gaps(channel) for channel in range(len(points))], policy, step_seconds, names)


def _seen(ts: Seconds, masked: Sequence[Span], phase: int, step_seconds: int, stop: int) -> Seconds:
    """Return the times of points with the masked steps after the first of them, at which none is missing.

    Args:
        phase: time of any step.
    """
    if not len(ts) or not masked:
        return ts
    # Of a span, the first step in it: one that begins between two steps begins with the next.
    firsts = [(a + (phase - a) % step_seconds, min(b, stop)) for a, b in masked]
    every = np.concatenate((ts, *(np.arange(first, end, step_seconds) for first, end in firsts)))
    return np.unique(every[every >= ts[0]])


def joined(
    found: Sequence[Sequence[Interval]], policy: Policy, step_seconds: int, names: Sequence[str] = ()
) -> list[Interval]:
    """Return the gaps of all channels, those that overlap as one, with each channel's share of the steps.

    Args:
        found: the gaps of every channel.
        names: the channels' metrics; no shares where there are none.
    """
    if len(found) == 1:
        return list(found[0])
    owned = [(each, channel) for channel, gaps in enumerate(found) for each in gaps]
    return [_union(each, policy, step_seconds, names) for each in _overlapping(owned)]


def _overlapping(owned: Sequence[Owned]) -> Iterator[list[Owned]]:
    """Yield the gaps in groups that hang together, in order of time."""
    group: list[Owned] = []
    for each in sorted(owned, key=lambda one: (one[0].start, one[1])):
        if group and each[0].start > max(gap.end for gap, _ in group):
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def _union(group: Sequence[Owned], policy: Policy, step_seconds: int, names: Sequence[str]) -> Interval:
    gaps = [gap for gap, _ in group]
    kind = Kind.STALE if any(gap.kind is Kind.STALE for gap in gaps) else Kind.DATA_MISSING
    start, end = min(gap.start for gap in gaps), max(gap.end for gap in gaps)
    steps = dict.fromkeys(names, 0)
    for gap, channel in group if names else ():
        steps[names[channel]] += gap.n_points
    total = sum(steps.values())
    shares = {name: n / total for name, n in steps.items()} or None
    return flag.gap(kind, start, end, policy, step_seconds, shares=shares)
