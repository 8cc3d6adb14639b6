"""The measures of intervals, against vectors by hand: steps of 300 seconds, one series unless said."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.measure import intervals
from pipelines.measure.demo_report import Flagged, Incident, IncidentOutcome, compare
from pipelines.times import HOUR

STEP = 300
PLANTED = Incident("a", "outage", 100 * STEP, 119 * STEP)
"""Twenty steps."""


def flagged(
    first: int, last: int, *, at: int | None = None, series: str = "a", kind: str = "anomaly"
) -> Flagged:
    """Return an interval of these steps, both included, first detected at a step."""
    return Flagged("m", series, kind, first * STEP, last * STEP, (first if at is None else at) * STEP)


def outcomes(*found: Flagged, planted: tuple[Incident, ...] = (PLANTED,)) -> tuple[IncidentOutcome, ...]:
    return compare(planted, found, [], {"m": 1.0}).outcomes


@pytest.mark.parametrize(
    ("found", "share"),
    [
        ([flagged(100, 119)], 1.0),
        ([flagged(100, 109)], 10 / 20),
        ([flagged(110, 129)], 10 / 30),
        ([flagged(90, 129)], 20 / 40),
        ([flagged(119, 138)], 1 / 39),
        ([flagged(100, 104), flagged(115, 119)], 10 / 20),
        ([flagged(100, 109), flagged(105, 119)], 1.0),
        ([flagged(90, 104), flagged(110, 119)], 15 / 30),
    ],
)
def test_the_overlap_is_of_steps_that_both_have_over_those_that_either_has(
    found: list[Flagged], share: float
) -> None:
    (outcome,) = outcomes(*found)
    assert intervals.intersection_over_union(outcome, STEP) == pytest.approx(share)


def test_intervals_are_counted_only_of_what_was_found() -> None:
    missed = Incident("b", "outage", 100 * STEP, 119 * STEP)
    known = outcomes(flagged(98, 102), flagged(110, 111), flagged(119, 130), planted=(PLANTED, missed))
    assert intervals.intervals_per_found(known) == 3.0
    assert intervals.intervals_per_found(outcomes()) is None


@pytest.mark.parametrize(
    ("other", "is_echo"),
    [
        (flagged(120, 121), True),
        (flagged(119 + 256, 400), True),
        (flagged(119 + 257, 400), False),
        (flagged(90 - 256, 99), True),
        (flagged(0, 100 - 257), False),
        (flagged(120, 121, series="b"), False),
        (flagged(119, 121), False),
    ],
)
def test_an_echo_is_near_what_was_found_and_overlaps_nothing(other: Flagged, is_echo: bool) -> None:
    core = flagged(100, 118)
    assert intervals.echoes(outcomes(core, other), [core, other], STEP) == ((other,) if is_echo else ())


def test_what_was_missed_has_no_echo() -> None:
    near = flagged(125, 126)
    assert intervals.echoes(outcomes(near), [near], STEP) == ()


def test_an_interval_that_overlaps_another_incident_is_no_echo() -> None:
    second = Incident("a", "outage", 130 * STEP, 135 * STEP)
    found = flagged(100, 118), flagged(131, 132)
    assert intervals.echoes(outcomes(*found, planted=(PLANTED, second)), found, STEP) == ()


@pytest.mark.parametrize(
    ("second", "share"),
    [
        (flagged(110 + 12, 130), 0.5),
        (flagged(110 + 13, 130), 0.0),
        (flagged(112, 130, series="b"), 0.0),
        (flagged(112, 130, kind="data_missing"), 0.0),
    ],
)
def test_an_interval_is_reopened_within_an_hour_of_the_last_one_of_its_series(
    second: Flagged, share: float
) -> None:
    assert intervals.reopened([second, flagged(100, 110)]) == share


def test_nothing_is_reopened_where_nothing_was_flagged() -> None:
    assert intervals.reopened([]) == 0.0


@pytest.mark.parametrize(
    ("found", "two"),
    [
        ([flagged(100, 119), flagged(180, 199)], True),
        ([flagged(100, 125), flagged(130, 132), flagged(175, 199)], True),
        ([flagged(100, 199)], False),
        ([flagged(100, 119)], False),
        ([flagged(180, 199)], False),
        ([flagged(100, 180), flagged(185, 199)], False),
        ([], False),
    ],
)
def test_two_incidents_stay_two_where_both_are_found_and_no_interval_has_both(
    found: list[Flagged], two: bool
) -> None:
    pair = PLANTED, Incident("a", "outage", 180 * STEP, 199 * STEP)
    assert intervals.stay_two(pair, found) is two


@pytest.mark.parametrize(
    ("found", "share"),
    [
        ([flagged(100, 122)], 1.0),
        ([flagged(100, 123)], 0.0),
        ([flagged(100, 101)], 1.0),
        ([flagged(100, 105), flagged(110, 130)], 0.0),
        ([], None),
    ],
)
def test_a_live_interval_closes_in_time_within_three_steps_of_the_end(
    found: list[Flagged], share: float | None
) -> None:
    assert intervals.closed_in_time(outcomes(*found)) == share


def test_an_interval_over_two_incidents_closes_with_the_later_one() -> None:
    second = Incident("a", "outage", 180 * STEP, 199 * STEP)
    known = outcomes(flagged(100, 201), planted=(PLANTED, second))
    assert intervals.closed_in_time(known) == 1.0


def test_delays_are_minutes_to_the_first_flag_by_kind() -> None:
    other = Incident("b", "drift", 100 * STEP, 200 * STEP)
    found = (
        flagged(100, 119, at=101),
        flagged(105, 107, at=105),
        flagged(90, 200, at=95, series="b"),
    )
    assert intervals.delays(outcomes(*found, planted=(PLANTED, other))) == {"outage": [5.0], "drift": [0.0]}
    assert intervals.delays(outcomes()) == {}


def test_the_worst_tenth_is_what_nine_in_ten_reach() -> None:
    assert intervals.worst_tenth([i / 10 for i in range(11)]) == pytest.approx(0.1)
    assert intervals.worst_tenth([0.7]) == 0.7
    assert intervals.worst_tenth([]) is None


Y = np.array([1.0, 2.0, 3.0, np.nan, 5.0, 6.0])
LOW, HIGH = np.full(6, 2.0), np.array([5.0, 5.0, 5.0, 5.0, 5.0, np.nan])


def test_the_edges_of_a_band_belong_to_it_and_what_is_missing_is_not_counted() -> None:
    np.testing.assert_array_equal(
        intervals.outside_band(Y, LOW, HIGH), [True, False, False, False, False, False]
    )
    assert intervals.inside_share(Y, LOW, HIGH, np.ones(6, dtype=bool)) == (3, 4)
    assert intervals.inside_share(Y, LOW, HIGH, np.arange(6) >= 1) == (3, 3)


def test_the_share_outside_is_of_an_interval_s_own_steps_with_a_value() -> None:
    ts = np.arange(6) * STEP
    spans = [(0, 0), (0, STEP), (0, 3 * STEP), (3 * STEP, 3 * STEP), (STEP, 4 * STEP)]
    assert intervals.outside_shares(spans, ts, Y, LOW, HIGH) == pytest.approx([1.0, 1 / 2, 1 / 3, 0.0])


def test_times_away_from_spans_keep_their_margin() -> None:
    ts = np.arange(6) * HOUR
    np.testing.assert_array_equal(
        intervals.away_from(ts, [(2 * HOUR, 2 * HOUR)], HOUR), [True, False, False, False, True, True]
    )
    assert intervals.away_from(ts, []).all()
