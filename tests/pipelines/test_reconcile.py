"""What a pass changes in the events that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.names import Kind, Status
from pipelines.records import Event, EventChange, Interval
from pipelines.steps.reconcile import FAMILY, reconcile

unhurried = settings(deadline=None)
"""Other work on the machine is no failure."""

SPAN = (0, 1000)
LIVE = {Status.OPEN, Status.CLOSED}

Stored = dict[int, Event]


def interval(start: int, end: int, peak: int | None = None, score: float = 2.0, **kwargs: object) -> Interval:
    values = {"kind": Kind.ANOMALY, "n_points": end - start + 1, "mean_score": score, **kwargs}
    at = start if peak is None else peak
    return Interval(start=start, end=end, peak_at=at, peak_score=score, **values)  # type: ignore[arg-type]  # forwarded


def event(id: int, start: int, end: int, **kwargs: object) -> Event:
    own = {k: kwargs.pop(k) for k in ("status", "reviewed", "added", "first_detected_at") if k in kwargs}
    what = interval(start, end, **kwargs)  # type: ignore[arg-type]  # forwarded
    values = {"status": Status.CLOSED, "first_detected_at": 100 + id, **own}
    return Event(id=id, target_id=1, interval=what, **values)  # type: ignore[arg-type]  # forwarded


def changes(
    events: Sequence[Event],
    found: Sequence[Interval],
    span: tuple[int, int] = SPAN,
    joined_within: int | None = None,
) -> list[EventChange]:
    return reconcile(events, found, target_id=1, span=span, detected_at=5000, joined_within=joined_within)


def apply(stored: Stored, made: Sequence[EventChange]) -> Stored:
    """Return the events after the changes, as a store would write them."""
    after = dict(stored)
    for change in made:
        id = change.event_id if change.event_id is not None else max(after, default=0) + 1
        old = after.get(id)
        after[id] = Event(
            id=id,
            target_id=change.target_id,
            interval=change.interval,
            status=change.status,
            first_detected_at=change.first_detected_at,
            revision=old.revision + 1 if old else 1,
            merged_into=change.merged_into,
            reviewed=old.reviewed if old else False,
            added=old.added if old else False,
        )
    return after


def run(stored: Stored, found: Sequence[Interval], span: tuple[int, int] = SPAN) -> Stored:
    """One pass: widened over events that cross a border, then reconciled and written."""
    low, high = span
    for e in stored.values():
        if e.interval.start < high and e.interval.end >= low and e.status is not Status.MERGED:
            low, high = min(low, e.interval.start), max(high, e.interval.end + 1)
    if (low, high) != span:
        return run(stored, found, (low, high))
    here = [e for e in stored.values() if e.interval.start < high and e.interval.end >= low]
    inside = [i for i in found if low <= i.start and i.end < high]
    return apply(stored, changes(here, inside, span))


def live(stored: Stored) -> set[tuple[str, int, int, str, float]]:
    return {
        (e.interval.kind, e.interval.start, e.interval.end, e.status, e.interval.peak_score)
        for e in stored.values()
        if e.status in LIVE
    }


# -- examples -----------------------------------------------------------------------


def test_an_interval_where_no_event_is_makes_one() -> None:
    (change,) = changes([], [interval(10, 20)])
    assert (change.event_id, change.status, change.first_detected_at) == (None, Status.CLOSED, 5000)


def test_an_interval_that_reaches_the_newest_point_makes_an_open_event() -> None:
    assert changes([], [interval(10, 20, open=True)])[0].status is Status.OPEN


def test_an_overlapping_interval_updates_the_event_and_keeps_its_first_detection() -> None:
    (change,) = changes([event(1, 10, 20)], [interval(15, 30)])
    assert (change.event_id, change.interval.start, change.interval.end) == (1, 15, 30)
    assert change.first_detected_at == 101


def test_the_same_interval_changes_nothing() -> None:
    assert changes([event(1, 10, 20)], [interval(10, 20)]) == []


def test_rounding_changes_nothing() -> None:
    stored = event(1, 10, 20, peak=12, score=2.0, y_at_peak=100.0, yhat_at_peak=90.0, impact=50.0)
    same = interval(10, 20, peak=12, score=2.00001, y_at_peak=100.0, yhat_at_peak=90.0005, impact=50.001)
    assert changes([stored], [same]) == []
    moved = interval(10, 20, peak=13, score=2.00001, y_at_peak=100.0, yhat_at_peak=90.0, impact=50.0)
    assert changes([stored], [moved]) == []


@pytest.mark.parametrize(
    "other",
    [
        interval(10, 20, score=2.1),
        interval(10, 20, direction="above_expected"),
        interval(10, 20, open=True),
        interval(10, 20, impact=3.0),
        interval(10, 20, version_id=4),
    ],
)
def test_a_difference_that_matters_is_a_change(other: Interval) -> None:
    assert len(changes([event(1, 10, 20)], [other])) == 1


def test_one_interval_over_two_events_keeps_the_oldest() -> None:
    stored = {1: event(1, 10, 20, first_detected_at=900), 2: event(2, 30, 40, first_detected_at=800)}
    after = apply(stored, changes(list(stored.values()), [interval(10, 40)]))
    assert after[2].status is Status.CLOSED
    assert (after[1].status, after[1].merged_into) == (Status.MERGED, 2)


def test_one_interval_over_two_events_keeps_the_reviewed() -> None:
    stored = {1: event(1, 10, 20), 2: event(2, 30, 40, reviewed=True)}
    after = apply(stored, changes(list(stored.values()), [interval(10, 40)]))
    assert (after[2].status, after[1].merged_into) == (Status.CLOSED, 2)
    assert after[2].first_detected_at == 101


def test_of_two_reviewed_events_under_one_interval_neither_is_lost() -> None:
    stored = {1: event(1, 10, 20, reviewed=True), 2: event(2, 30, 40, reviewed=True)}
    after = apply(stored, changes(list(stored.values()), [interval(10, 40)]))
    assert (after[1].status, after[2].status) == (Status.CLOSED, Status.BELOW_LINE)
    apart = apply(after, changes(list(after.values()), [interval(10, 20), interval(30, 40)]))
    assert (apart[1].interval.end, apart[2].interval.start) == (20, 30)
    assert apart[2].status is Status.CLOSED


def test_an_event_that_splits_keeps_its_identity_on_the_part_with_the_peak() -> None:
    stored = {1: event(1, 10, 40, peak=33)}
    after = apply(stored, changes(list(stored.values()), [interval(10, 20, score=9.0), interval(30, 40, 33)]))
    assert (after[1].interval.start, after[2].interval.start) == (30, 10)


def test_an_event_whose_peak_is_normal_now_goes_on_with_the_highest_part() -> None:
    (first, second) = changes([event(1, 10, 40, peak=25)], [interval(10, 20), interval(30, 40, score=9.0)])
    assert (first.event_id, first.interval.start) == (1, 30)
    assert (second.event_id, second.interval.start) == (None, 10)


def test_an_event_that_no_longer_scores_is_outdated_and_revived_when_it_does() -> None:
    gone = run({1: event(1, 10, 20)}, [])
    assert gone[1].status is Status.OUTDATED
    back = run(gone, [interval(12, 22)])
    assert (set(back), back[1].status, back[1].first_detected_at) == ({1}, Status.CLOSED, 101)


def test_an_outdated_event_does_not_compete_with_a_living_one() -> None:
    stored = {1: event(1, 10, 20, status=Status.OUTDATED), 2: event(2, 15, 30)}
    after = run(stored, [interval(10, 30)])
    assert (after[1].status, after[2].status, after[2].interval.start) == (Status.OUTDATED, Status.CLOSED, 10)


@pytest.mark.parametrize("kept", ["reviewed", "added"])
def test_what_people_judged_or_drew_is_never_outdated(kept: str) -> None:
    after = run({1: event(1, 10, 20, **{kept: True})}, [])
    assert after[1].status is Status.BELOW_LINE
    assert changes(list(after.values()), []) == []


def test_an_open_event_that_no_longer_scores_is_not_open() -> None:
    after = run({1: event(1, 10, 20, status=Status.OPEN, open=True)}, [])
    assert not after[1].interval.open


def test_a_stale_event_becomes_data_missing_when_the_series_is_back() -> None:
    stored = {1: event(1, 10, 20, kind=Kind.STALE, status=Status.OPEN, open=True)}
    after = run(stored, [interval(10, 25, kind=Kind.DATA_MISSING)])
    assert (set(after), after[1].interval.kind, after[1].status) == ({1}, Kind.DATA_MISSING, Status.CLOSED)


def test_kinds_of_different_families_do_not_meet() -> None:
    after = run({1: event(1, 10, 20)}, [interval(10, 20), interval(12, 20, kind=Kind.FLATLINE)])
    assert {e.interval.kind for e in after.values()} == {Kind.ANOMALY, Kind.FLATLINE}


def test_what_lies_partly_outside_the_span_is_neither_cut_nor_outdated() -> None:
    crossing = event(1, 10, 60, peak=20, score=5.0)
    assert changes([crossing], [], (40, 100)) == []
    assert changes([crossing], [interval(45, 60)], (40, 100)) == []
    (change,) = changes([crossing], [interval(45, 80, peak=70, score=7.0)], (40, 100))
    assert (change.interval.start, change.interval.end, change.interval.peak_at) == (10, 80, 70)
    after = apply({1: crossing}, [change])
    assert changes([after[1]], [interval(45, 80, peak=70, score=7.0)], (40, 100)) == []


def test_what_no_pass_will_see_again_stays_only_with_what_touches_it() -> None:
    crossing = event(1, 10, 60, peak=20, score=5.0)
    (parted,) = changes([crossing], [interval(45, 60, peak=50)], (40, 100), joined_within=1)
    assert (parted.interval.start, parted.interval.end, parted.interval.peak_at) == (45, 60, 50)
    assert changes([crossing], [interval(41, 60)], (40, 100), joined_within=1) == []


def test_an_open_event_closes_when_newer_steps_are_normal() -> None:
    (change,) = changes([event(1, 10, 20, status=Status.OPEN, open=True)], [], (21, 40))
    assert (change.status, change.interval.open) == (Status.CLOSED, False)


def test_a_merged_event_is_left_alone() -> None:
    merged = replace(event(1, 10, 20), status=Status.MERGED, merged_into=2)
    assert [c.event_id for c in changes([merged], [interval(10, 20)])] == [None]


# -- properties ---------------------------------------------------------------------


@st.composite
def scored(draw: st.DrawFn, kinds: Sequence[Kind] = tuple(Kind)) -> list[Interval]:
    """Intervals of one pass: within a family they never touch."""
    found = []
    for family in sorted(set(FAMILY.values())):
        own = [k for k in kinds if FAMILY[k] == family]
        edges = sorted(draw(st.sets(st.integers(0, 60), max_size=8)))
        for start, end in zip(edges[::2], edges[1::2], strict=False):
            peak = draw(st.integers(start, end - 1))
            score = draw(st.integers(1, 4))
            found.append(interval(start, end - 1, peak, float(score), kind=draw(st.sampled_from(own))))
    return found


@st.composite
def histories(draw: st.DrawFn) -> Stored:
    """Events as earlier passes and people left them, some outdated, some judged."""
    stored: Stored = {}
    for found in draw(st.lists(scored(), max_size=3)):
        stored = run(stored, found)
        for id in list(stored):
            if draw(st.integers(0, 4)) == 0:
                stored[id] = replace(stored[id], reviewed=True)
    return stored


@unhurried
@given(histories(), scored())
def test_a_pass_repeated_changes_nothing(stored: Stored, found: list[Interval]) -> None:
    after = run(stored, found)
    assert changes(list(after.values()), found) == []


@unhurried
@given(histories(), scored())
def test_every_interval_has_exactly_one_living_event(stored: Stored, found: list[Interval]) -> None:
    expected = sorted((i.kind, i.start, i.end, Status.CLOSED, i.peak_score) for i in found)
    after = run(stored, found)
    assert sorted(live(after)) == expected
    assert sum(e.status in LIVE for e in after.values()) == len(found)


@unhurried
@given(histories(), scored(), st.integers(0, 61))
def test_a_span_in_two_passes_leaves_what_one_pass_leaves(
    stored: Stored, found: list[Interval], cut: int
) -> None:
    # The scorer widens a span over intervals that cross its border, so no cut goes through one.
    while any(i.start < cut <= i.end for i in found):
        cut += 1
    together = run(stored, found)
    first = run(stored, found, (0, cut))
    assert live(run(first, found, (cut, 1000))) == live(together)
    second = run(stored, found, (cut, 1000))
    assert live(run(second, found, (0, cut))) == live(together)


@unhurried
@given(histories(), scored())
def test_no_event_disappears_and_no_review_is_lost(stored: Stored, found: list[Interval]) -> None:
    after = run(stored, found)
    assert set(stored) <= set(after)
    for id, old in stored.items():
        if old.reviewed and old.status is not Status.MERGED:
            assert after[id].status in {*LIVE, Status.BELOW_LINE}


@unhurried
@given(histories(), scored())
def test_a_merged_event_points_at_one_that_lives(stored: Stored, found: list[Interval]) -> None:
    made = changes(list(stored.values()), found)
    after = apply(stored, made)
    for change in made:
        if change.status is Status.MERGED:
            assert change.merged_into is not None
            assert after[change.merged_into].status in LIVE


@unhurried
@given(histories(), scored())
def test_first_detection_never_moves_later(stored: Stored, found: list[Interval]) -> None:
    after = run(stored, found)
    assert all(after[id].first_detected_at <= old.first_detected_at for id, old in stored.items())


def test_shares_that_differ_by_rounding_are_the_same_and_others_are_not() -> None:
    old = event(1, 10, 20, shares={"ccu": 0.25, "crashes": 0.75})
    near = interval(10, 20, shares={"ccu": 0.2505, "crashes": 0.7495})
    far = interval(10, 20, shares={"ccu": 0.26, "crashes": 0.74})
    assert changes([old], [near]) == []
    assert [change.interval for change in changes([old], [far])] == [far]
    assert len(changes([old], [interval(10, 20)])) == 1
