"""From intervals to events: what a new pass over a span changes in what is stored. Pure.

An event is what keeps its identity while intervals come and go. Events and intervals meet where
they overlap and are of one family: a series that was ``stale`` and came back is ``data_missing``
in the same event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.names import Kind, Status
from pipelines.records import Event, EventChange, Interval

FAMILY = {
    Kind.ANOMALY: "anomaly",
    Kind.FLATLINE: "flatline",
    Kind.DATA_MISSING: "absence",
    Kind.STALE: "absence",
    Kind.UNSCORED: "blindness",
}

SAME = 1e-4
"""Relative difference of scores that is rounding: a pass repeated in another batch changes nothing."""

SAME_IMPACT = 1e-3
"""The impact is a sum of differences, so rounding of its terms weighs more."""

SAME_SHARE = 1e-3
"""A channel's share is of sums of squared differences: less is rounding too."""


def reconcile(
    events: Sequence[Event],
    intervals: Sequence[Interval],
    *,
    target_id: int,
    span: tuple[int, int],
    detected_at: int,
    joined_within: int | None = None,
) -> list[EventChange]:
    """Return what the intervals found in a span change in one target's events.

    An interval that overlaps an event updates it, and it keeps its identity and reviews. One
    interval over several events: the reviewed, else the oldest, survives, and the others become
    ``merged_into``; a reviewed one never does, it stays as ``below_line``. An event that splits
    keeps its identity on the part with its peak. One that no longer scores becomes ``outdated``,
    reviewed and person-added ones ``below_line``; either is revived when it scores again.

    Args:
        events: the target's events that overlap the span or touch it, whatever their status.
        intervals: all intervals in the span, of all kinds; of one family they never overlap.
        span: first and one past the last second that was scored, wide enough that no event or
            interval crosses its borders. What lies partly outside is extended, never cut or
            outdated.
        detected_at: epoch seconds, ``first_detected_at`` of new events whose interval names none.
        joined_within: where no pass will ever see what lies before the span, an event that reaches there
            keeps that part only if its interval starts within so many seconds; None where another pass
            sees it.

    Returns:
        Changes of existing events first, then new events; nothing for what stays the same.
    """
    changes: list[EventChange] = []
    fresh: list[EventChange] = []
    for family in dict.fromkeys(FAMILY.values()):
        here = [e for e in events if FAMILY[e.interval.kind] == family and e.status is not Status.MERGED]
        found = sorted((i for i in intervals if FAMILY[i.kind] == family), key=_order)
        held = _assign(here, found)
        changes += _changed(here, found, held, span, joined_within)
        taken = {h.index for h in held if h.holds}
        fresh += [_new(i, target_id, detected_at) for k, i in enumerate(found) if k not in taken]
    return changes + fresh


@dataclass(frozen=True)
class _Hold:
    """An event and the interval it took, or (``holds`` false) wanted and another event took."""

    event: Event
    index: int
    holds: bool


def _assign(events: Sequence[Event], intervals: Sequence[Interval]) -> list[_Hold]:
    """Let the events choose among the intervals they overlap, the reviewed first, then the oldest.

    Deterministic and stable: an event that took an interval overlaps only that one the next time.
    """
    taken: set[int] = set()
    holds = []
    for event in sorted(events, key=_claim):
        wanted = [k for k, i in enumerate(intervals) if _overlap(event.interval, i)]
        if not wanted:
            continue
        wanted.sort(key=lambda k: _likeness(event.interval, intervals[k]))
        free = [k for k in wanted if k not in taken]
        best = free[0] if free else wanted[0]
        holds.append(_Hold(event, best, bool(free)))
        taken.add(best)
    return holds


def _changed(
    events: Sequence[Event],
    intervals: Sequence[Interval],
    holds: Sequence[_Hold],
    span: tuple[int, int],
    joined_within: int | None,
) -> list[EventChange]:
    """Return the changes of the events of one family."""
    holder = {h.index: h.event for h in holds if h.holds}
    by_event = {h.event.id: h for h in holds}
    merged: dict[int, list[Event]] = {}
    for hold in holds:
        if not hold.holds and _merges(hold.event):
            merged.setdefault(holder[hold.index].id, []).append(hold.event)
    changes = []
    for event in events:
        match by_event.get(event.id):
            case None:
                change = _gone(event, span)
            case _Hold(holds=True, index=k):
                change = _updated(event, intervals[k], merged.get(event.id, ()), span, joined_within)
            case _Hold(index=k):
                change = _lost(event, holder[k])
        if change is not None:
            changes.append(change)
    return changes


def _updated(
    event: Event,
    interval: Interval,
    absorbed: Iterable[Event],
    span: tuple[int, int],
    joined_within: int | None,
) -> EventChange | None:
    """Return the event with its new interval, or None where that is the one it has."""
    interval = _extended(event, interval, span, joined_within)
    status = Status.OPEN if interval.open else Status.CLOSED
    first = min([event.first_detected_at, *(other.first_detected_at for other in absorbed)])
    if (
        event.status is status
        and first == event.first_detected_at
        and same_interval(event.interval, interval)
    ):
        return None
    revived = event.status in (Status.OUTDATED, Status.BELOW_LINE)
    return _change(event, interval, status, "scores again" if revived else "rescored", first=first)


def _gone(event: Event, span: tuple[int, int]) -> EventChange | None:
    """Return what becomes of an event that no interval overlaps."""
    start, stop = span
    if event.status is Status.OPEN and event.interval.end < start and not _is_absence(event):
        closed = replace(event.interval, open=False)
        return _change(event, closed, Status.CLOSED, "normal since")
    if event.interval.start < start or event.interval.end >= stop:
        return None
    kept = event.reviewed or event.added
    status = Status.BELOW_LINE if kept else Status.OUTDATED
    if event.status is status:
        return None
    return _change(event, replace(event.interval, open=False), status, "no longer scores")


def _lost(event: Event, winner: Event) -> EventChange | None:
    """Return what becomes of an event whose interval belongs to another event now."""
    closed = replace(event.interval, open=False)
    if _merges(event):
        return _change(event, closed, Status.MERGED, "one interval with another event", into=winner.id)
    keeps = Status.BELOW_LINE if event.reviewed or event.added else Status.OUTDATED
    if event.status is keeps:
        return None
    return _change(event, closed, keeps, "its interval belongs to another reviewed event")


def _merges(event: Event) -> bool:
    """True where a loser disappears into the winner: not what people judged, nor what is outdated anyway."""
    return not (event.reviewed or event.added or event.status is Status.OUTDATED)


def _extended(event: Event, interval: Interval, span: tuple[int, int], joined_within: int | None) -> Interval:
    """Return the interval with what the event holds outside the span, which this pass did not see."""
    if event.status in (Status.OUTDATED, Status.BELOW_LINE):
        return interval
    old = event.interval
    if joined_within is not None and old.start < span[0] and interval.start - span[0] > joined_within:
        # What joined it with what lies before the span is not there any more.
        return interval
    start = old.start if old.start < span[0] else interval.start
    end = old.end if old.end >= span[1] else interval.end
    start, end = min(start, interval.start), max(end, interval.end)
    if (start, end) == (interval.start, interval.end):
        return interval
    if (start, end) == (old.start, old.end) and not _exceeds(interval, old):
        return replace(old, kind=interval.kind)
    top = interval if _exceeds(interval, old) else old
    return replace(
        top,
        kind=interval.kind,
        start=start,
        end=end,
        n_points=max(old.n_points, interval.n_points),
        open=interval.open or (old.open and end == old.end),
    )


def same_interval(a: Interval, b: Interval) -> bool:
    """True where two intervals say the same, rounding apart.

    Where the peak's height is the same but not its place, two steps are equally high, and which
    of them counts as the peak is rounding too.
    """
    exact = ("kind", "start", "end", "n_points", "direction", "open", "version_id")
    if any(getattr(a, name) != getattr(b, name) for name in exact):
        return False
    if not (_close(a.peak_score, b.peak_score) and _close(a.mean_score, b.mean_score)):
        return False
    if not _same_shares(a.shares or {}, b.shares or {}):
        return False
    scale = abs(a.y_at_peak or 0.0) * a.n_points
    if not _close(a.impact, b.impact, SAME_IMPACT, SAME * scale):
        return False
    if a.peak_at != b.peak_at:
        return True
    scale = SAME * max(abs(a.y_at_peak or 0.0), abs(a.yhat_at_peak or 0.0))
    return _close(a.y_at_peak, b.y_at_peak) and _close(a.yhat_at_peak, b.yhat_at_peak, SAME_IMPACT, scale)


def _same_shares(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return a.keys() == b.keys() and all(abs(a[name] - b[name]) <= SAME_SHARE for name in a)


def _new(interval: Interval, target_id: int, detected_at: int) -> EventChange:
    status = Status.OPEN if interval.open else Status.CLOSED
    first = detected_at if interval.detected_at is None else interval.detected_at
    return EventChange(target_id, None, interval, status, first, why="new")


def _change(
    event: Event,
    interval: Interval,
    status: Status,
    why: str,
    *,
    first: int | None = None,
    into: int | None = None,
) -> EventChange:
    first = event.first_detected_at if first is None else first
    return EventChange(event.target_id, event.id, interval, status, first, into, why)


def _claim(event: Event) -> tuple[bool, bool, int, int]:
    """Who chooses first: judged or drawn by people, then still scoring, then the oldest."""
    judged = event.reviewed or event.added
    # What losing changes (the status of the judged) must not decide who wins, or passes would take turns.
    outdated = event.status is Status.OUTDATED and not judged
    return (not judged, outdated, event.first_detected_at, event.id)


def _likeness(event: Interval, interval: Interval) -> tuple[bool, float, int]:
    """What an event prefers: the part with its own peak, else the highest, else the first."""
    holds_peak = interval.start <= event.peak_at <= interval.end
    return (not holds_peak, -interval.peak_score, interval.start)


def _overlap(a: Interval, b: Interval) -> bool:
    return a.start <= b.end and b.start <= a.end


def _order(interval: Interval) -> tuple[int, int]:
    return (interval.start, interval.end)


def _is_absence(event: Event) -> bool:
    return FAMILY[event.interval.kind] == "absence"


def _exceeds(interval: Interval, old: Interval) -> bool:
    return interval.peak_score > old.peak_score * (1 + SAME)


def _close(a: float | None, b: float | None, relative: float = SAME, absolute: float = 0.0) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= max(relative * max(abs(a), abs(b)), absolute)
