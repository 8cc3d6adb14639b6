"""What of scores and gaps becomes an interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from run_pairs import shape_runs

from pipelines.names import Kind
from pipelines.records import Interval, Policy
from pipelines.steps import flag

unhurried = settings(deadline=None)
"""Other work on the machine is no failure."""

STEP = 60
NAN = float("nan")
APART = Policy(merge_max_gap_seconds=0)

flags = st.lists(st.booleans(), max_size=60).map(lambda bits: np.array(bits, dtype=bool))
policies = st.builds(
    Policy,
    min_duration_seconds=st.integers(0, 4).map(lambda n: n * STEP),
    merge_max_gap_seconds=st.integers(0, 4).map(lambda n: n * STEP),
    cooldown_seconds=st.integers(0, 6).map(lambda n: n * STEP),
)


def times(n: int) -> NDArray[np.int64]:
    return 1_000_020 + np.arange(n, dtype=np.int64) * STEP


def slow_runs(flagged: NDArray[np.bool_], policy: Policy) -> list[tuple[int, int]]:
    """The policy as one would say it, a run at a time."""
    runs: list[tuple[int, int]] = []
    for i, on in enumerate(flagged):
        if on and runs and (i - runs[-1][1] - 1) * STEP <= policy.merge_max_gap_seconds:
            runs[-1] = (runs[-1][0], i)
        elif on:
            runs.append((i, i))
    long = [r for r in runs if (r[1] - r[0] + 1) * STEP >= policy.min_duration_seconds]
    kept: list[tuple[int, int]] = []
    for a, b in long:
        rested = not kept or (a - kept[-1][1] - 1) * STEP >= policy.cooldown_seconds
        if rested or b - a + 1 >= 4 * (kept[-1][1] - kept[-1][0] + 1):
            kept.append((a, b))
    return kept


def found(score: list[float], policy: Policy | None = None, **kwargs: object) -> list[Interval]:
    """Intervals of scores whose values lie as far above what is expected."""
    scores = np.array(score)
    y = 100.0 + np.nan_to_num(scores)
    return flag.anomalies(
        scores,
        times(len(scores)),
        y,
        np.full(len(scores), 100.0),
        policy or APART,
        STEP,
        **kwargs,  # type: ignore[arg-type]  # forwarded as written by each test
    )


@unhurried
@given(flags)
def test_runs_cover_exactly_the_flagged_steps(flagged: NDArray[np.bool_]) -> None:
    covered = np.zeros_like(flagged)
    for a, b in flag.runs(flagged):
        covered[a : b + 1] = True
    np.testing.assert_array_equal(covered, flagged)


@settings(max_examples=500, deadline=None)
@given(flags, policies)
def test_shaping_does_what_the_policy_says(flagged: NDArray[np.bool_], policy: Policy) -> None:
    assert shape_runs(flagged, policy, STEP) == slow_runs(flagged, policy)


@settings(max_examples=500, deadline=None)
@given(flags, flags, policies)
def test_intervals_begin_and_end_at_steps_that_are_flagged(
    flagged: NDArray[np.bool_], odd: NDArray[np.bool_], policy: Policy
) -> None:
    own = np.resize(odd, len(flagged)) if len(odd) else np.zeros(len(flagged), dtype=bool)
    for begin, end in zip(*flag.shape_bounds(flagged, policy, STEP, own), strict=True):
        assert flagged[begin]
        assert flagged[end]


@unhurried
@given(flags, policies, st.integers(0, 60))
def test_a_slice_with_the_policys_context_decides_like_the_whole(
    flagged: NDArray[np.bool_], policy: Policy, at: int
) -> None:
    begin = max(0, at - flag.context_seconds(policy) // STEP - 1)
    # Under a cooldown a slice begins where it is quiet.
    begin = 0 if policy.cooldown_seconds and flagged[begin:at].any() else begin
    whole = [r for r in shape_runs(flagged, policy, STEP) if r[0] >= at]
    part = [(a + begin, b + begin) for a, b in shape_runs(flagged[begin:], policy, STEP)]
    assert [r for r in part if r[0] >= at and not flagged[max(at - 1, 0) : at].any()] == [
        r for r in whole if not flagged[max(at - 1, 0) : at].any()
    ]


@unhurried
@given(st.integers(0, 2**32 - 1), st.integers(0, 1500))
def test_a_storm_without_end_is_decided_on_by_what_it_remembers(seed: int, at: int) -> None:
    rng = np.random.default_rng(seed)
    policy = Policy(merge_max_gap_seconds=0, cooldown_seconds=5 * STEP)
    flagged, height = rng.random(1600) < 0.4, rng.exponential(size=1600)
    begin = max(0, flag.remembered_from(at * STEP, policy) // STEP - 1)

    def raised(first: int) -> list[tuple[int, int]]:
        bounds = flag.shape_bounds(
            flagged[first:], policy, STEP, height=height[first:], first_ts=first * STEP
        )
        return [(a + first, b + first) for a, b in zip(*bounds, strict=True) if a + first >= at]

    assert raised(begin) == raised(0)
    assert at - begin <= 2 * 16 * 5 + 1


def long_and_short(*lengths_and_gaps: int) -> NDArray[np.bool_]:
    """Return runs and the quiet between them, in steps, beginning with a run."""
    parts = [np.full(n, number % 2 == 0) for number, n in enumerate(lengths_and_gaps)]
    return np.concatenate(parts)


RESTED = Policy(merge_max_gap_seconds=0, cooldown_seconds=60 * STEP)


def test_what_was_not_raised_prolongs_no_cooldown() -> None:
    blips = long_and_short(*[1, 25] * 10)
    # The third blip after an interval begins 77 steps after its end, the second 51.
    assert [a for a, _ in shape_runs(blips, RESTED, STEP)] == [0, 78, 156, 234]


def test_an_outage_among_blips_is_raised() -> None:
    storm = long_and_short(1, 25, 1, 25, 720, 25, 1, 25, 1, 25, 1)
    assert shape_runs(storm, RESTED, STEP) == [(0, 0), (52, 771), (849, 849)]


def test_what_lasts_four_times_as_long_as_the_last_interval_breaks_through_a_cooldown() -> None:
    assert shape_runs(long_and_short(2, 5, 7, 5, 8), RESTED, STEP) == [(0, 1), (19, 26)]


def test_what_is_half_as_high_again_as_the_last_interval_breaks_through_a_cooldown() -> None:
    assert [i.peak_score for i in found([2.0, 0.0, 2.9, 0.0, 3.0, 0.0, 4.4, 0.0], RESTED)] == [2.0, 3.0]


@unhurried
@given(st.lists(st.one_of(st.just(NAN), st.floats(0, 3)), max_size=40), policies)
def test_no_interval_lies_outside_the_candidates(score: list[float], policy: Policy) -> None:
    policy = Policy(
        detection_direction="above_expected",
        min_duration_seconds=policy.min_duration_seconds,
        merge_max_gap_seconds=policy.merge_max_gap_seconds,
        cooldown_seconds=policy.cooldown_seconds,
    )
    ts = times(len(score))
    spans = [(ts[a], ts[b]) for a, b in flag.candidates(np.array(score), policy, STEP)]
    assert all(any(a <= i.start and i.end <= b for a, b in spans) for i in found(score, policy))


def test_a_score_on_the_line_is_flagged() -> None:
    (interval,) = found([0.2, 1.0, 0.999])
    assert (interval.start, interval.end) == (times(3)[1], times(3)[1])


def test_an_interval_tells_its_peak_mean_and_impact() -> None:
    (interval,) = found([0.5, 1.0, 3.0, 2.0, 0.5])
    assert interval.kind is Kind.ANOMALY
    assert interval.peak_at == times(5)[2]
    assert (interval.peak_score, interval.mean_score, interval.n_points) == (3.0, 2.0, 3)
    assert (interval.y_at_peak, interval.yhat_at_peak) == (103.0, 100.0)
    assert interval.impact == pytest.approx(6.0)
    assert interval.direction == "above_expected"
    assert not interval.open


def test_an_interval_that_reaches_the_newest_score_is_open() -> None:
    assert [i.open for i in found([2.0, 0.0, 2.0])] == [False, True]
    assert [i.open for i in found([2.0, 0.0, 2.0, NAN])] == [False, True]
    assert [i.open for i in found([2.0, 0.0, 2.0], newest=int(times(9)[8]))] == [False, False]


def test_a_gap_in_the_scores_no_longer_than_the_merge_gap_does_not_part_an_interval() -> None:
    score = [2.0, NAN, NAN, 2.0]
    assert len(found(score)) == 2
    (interval,) = found(score, Policy(merge_max_gap_seconds=2 * STEP))
    assert interval.n_points == 2


def test_alarms_within_an_hour_are_one_incident_where_nothing_else_is_said() -> None:
    assert len(found([2.0, *[0.0] * 60, 2.0], Policy())) == 1
    assert len(found([2.0, *[0.0] * 61, 2.0], Policy())) == 2


def test_only_steps_in_the_asked_direction_and_size_are_flagged() -> None:
    score, yhat = np.full(4, 2.0), np.full(4, 100.0)
    y = np.array([90.0, 99.0, 110.0, 94.0])
    policy = replace(APART, detection_direction="below_expected", min_rel_dev_from_expected=0.05)
    intervals = flag.anomalies(score, times(4), y, yhat, policy, STEP)
    assert [i.start for i in intervals] == [times(4)[0], times(4)[3]]
    assert {i.direction for i in intervals} == {"below_expected"}


def test_the_peak_is_a_step_that_passed_the_gate() -> None:
    score, y = np.array([1.5, 9.0, 2.0]), np.array([80.0, 130.0, 85.0])
    policy = Policy(detection_direction="below_expected", merge_max_gap_seconds=STEP)
    (interval,) = flag.anomalies(score, times(3), y, np.full(3, 100.0), policy, STEP)
    assert (interval.peak_at, interval.direction) == (times(3)[2], "below_expected")


def test_the_peak_is_odd_by_itself_where_any_step_is() -> None:
    score, y = np.array([2.0, 1.5, 9.0]), np.array([50.0, 60.0, 101.0])
    outage = np.array([[True], [True], [False]])
    (interval,) = flag.anomalies(score, times(3), y, np.full(3, 100.0), Policy(), STEP, own=outage)
    assert (interval.peak_at, interval.peak_score, interval.y_at_peak) == (times(3)[0], 2.0, 50.0)
    assert interval.direction == "below_expected"
    (shape,) = flag.anomalies(score, times(3), y, np.full(3, 100.0), Policy(), STEP, own=~outage & False)
    assert shape.peak_at == times(3)[2]


def test_a_normal_step_between_two_runs_is_neither_a_border_nor_a_peak() -> None:
    score = [0.2, 3.0, 3.0, 0.2, NAN, 0.2, 3.0, 3.0, 0.1]
    odd = np.array(score) != np.array(score)  # the step without a score alone
    (interval,) = found(score, Policy(), own=odd)
    assert (interval.start, interval.end) == (times(9)[1], times(9)[7])
    assert interval.peak_score == 3.0


def test_the_peak_is_odd_in_the_channel_that_speaks() -> None:
    score = np.array([3.0, 2.0])
    y, own = np.array([[0.0, 1.0], [9.0, 0.0]]), np.array([[False, True], [True, False]])
    (interval,) = flag.anomalies(
        score, times(2), y, np.zeros((2, 2)), Policy(), STEP, own=own, names=["a", "b"]
    )
    assert (interval.peak_at, interval.y_at_peak) == (times(2)[1], 9.0)


def test_a_missing_value_passes_no_gate_but_an_open_one() -> None:
    y, yhat = np.array([NAN]), np.array([1.0])
    assert flag.allowed(y, yhat, Policy()).all()
    assert not flag.allowed(y, yhat, Policy(min_dev_from_expected=0.1)).any()


def test_a_gated_policy_without_expected_values_is_refused() -> None:
    policy = Policy(detection_direction="above_expected")
    with pytest.raises(ValueError, match="needs yhat"):
        flag.anomalies(np.array([2.0]), times(1), np.array([1.0]), None, policy, STEP)


def test_of_several_channels_the_one_that_deviates_most_speaks() -> None:
    score = np.array([2.0])
    y, yhat = np.array([[1000.0, 5.0]]), np.array([[990.0, 1.0]])
    (plain,) = flag.anomalies(score, times(1), y, yhat, Policy(), STEP)
    scaled = np.array([[0.1, 4.0]])
    (told,) = flag.anomalies(score, times(1), y, yhat, Policy(), STEP, deviation=scaled, names=["a", "b"])
    assert (plain.y_at_peak, told.y_at_peak) == (1000.0, 5.0)
    assert (plain.shares, told.channel) == (None, "b")
    assert told.shares == pytest.approx({"a": 0.01 / 16.01, "b": 16 / 16.01})


def test_the_leading_channel_is_the_one_of_the_whole_interval_not_of_its_peak() -> None:
    score = np.array([2.0, 3.0, 2.0])
    y = np.array([[4.0, 0.0], [5.0, 7.0], [4.0, 0.0]])
    (told,) = flag.anomalies(score, times(3), y, np.zeros((3, 2)), Policy(), STEP, names=["a", "b"])
    assert (told.channel, told.y_at_peak, told.impact) == ("a", 5.0, 13.0)
    assert told.shares == pytest.approx({"a": 57 / 106, "b": 49 / 106})


def test_only_deviations_that_the_policy_allows_count_for_a_channel() -> None:
    score = np.array([2.0, 3.0])
    y, yhat = np.array([[9.0, 4.0], [9.0, 6.0]]), np.full((2, 2), 5.0)
    policy = Policy(detection_direction="below_expected")
    (told,) = flag.anomalies(score, times(2), y, yhat, policy, STEP, names=["a", "b"])
    assert told.shares == {"a": 0.0, "b": 1.0}
    assert (told.direction, told.y_at_peak, told.peak_at) == ("below_expected", 4.0, times(2)[0])


def test_where_nothing_is_expected_there_are_no_shares() -> None:
    (told,) = flag.anomalies(
        np.array([2.0]), times(1), np.ones((1, 2)), None, Policy(), STEP, names=["a", "b"]
    )
    assert (told.shares, told.channel, told.yhat_at_peak) == (None, None, None)


def test_a_missing_value_of_one_channel_leaves_the_others_their_shares() -> None:
    y = np.array([[np.nan, 3.0]])
    (told,) = flag.anomalies(np.array([2.0]), times(1), y, np.zeros((1, 2)), Policy(), STEP, names=["a", "b"])
    assert (told.shares, told.y_at_peak) == ({"a": 0.0, "b": 1.0}, 3.0)


def test_the_version_of_the_peak_is_the_intervals() -> None:
    assert found([1.0, 3.0], versions=np.array([7, 8]))[0].version_id == 8


# -- gaps ---------------------------------------------------------------------------


def gaps(pattern: str, **kwargs: int | None) -> list[Interval]:
    """Intervals of a pattern of points ('x') and missing steps ('.')."""
    missing = np.array([c == "." for c in pattern], dtype=bool)
    ts = times(len(pattern))
    until = kwargs.pop("observed_until", None) or int(ts[-1])
    return flag.data_missing(missing, ts, Policy(), STEP, observed_until=until, **kwargs)  # type: ignore[arg-type]  # as above


def test_a_gap_of_three_steps_is_data_missing_and_one_of_two_is_not() -> None:
    (gap,) = gaps("xx..x...x")
    assert (gap.kind, gap.start, gap.end, gap.n_points) == (Kind.DATA_MISSING, times(9)[5], times(9)[7], 3)
    assert not gap.open


def test_steps_before_the_first_point_are_no_gap() -> None:
    assert gaps("......xxx") == []


def test_a_gap_that_began_before_the_slice_is_told_from_its_begin() -> None:
    before = int(times(1)[0]) - 5 * STEP
    (gap,) = gaps("...xx", previous_ts=before)
    assert (gap.start, gap.end) == (before + STEP, times(5)[2])


def test_a_series_that_stops_is_stale_after_three_steps_and_the_delay() -> None:
    last = int(times(4)[3])
    assert gaps("xxxx", observed_until=last + 3 * STEP + 89, delay_seconds=90) == []
    (stale,) = gaps("xxxx", observed_until=last + 3 * STEP + 90, delay_seconds=90)
    assert (stale.kind, stale.start, stale.end, stale.open) == (
        Kind.STALE,
        last + STEP,
        last + 3 * STEP,
        True,
    )


def test_a_stale_series_that_came_back_is_data_missing() -> None:
    back = int(times(9)[8])
    (gap,) = gaps("xx...", next_ts=back)
    assert (gap.kind, gap.start, gap.end, gap.open) == (
        Kind.DATA_MISSING,
        times(9)[2],
        back - STEP,
        False,
    )


def test_a_dead_series_changes_its_event_ever_more_rarely() -> None:
    last = int(times(4)[3])
    ends = {gaps("xxxx", observed_until=last + n * STEP)[0].end for n in range(3, 10_000)}
    assert len(ends) < 100
    (stale,) = gaps("xxxx", observed_until=last + 10_000 * STEP)
    assert stale.end > last + 8_700 * STEP


def test_a_series_without_any_point_has_no_gap() -> None:
    assert gaps(".....") == []


# -- flatlines ----------------------------------------------------------------------


def flat(raw: list[float], longest: int = 2, **kwargs: int) -> list[Interval]:
    return flag.flatline(np.array(raw), times(len(raw)), longest, STEP, **kwargs)


def test_a_run_of_equal_values_longer_than_any_seen_is_a_flatline() -> None:
    (interval,) = flat([1.0, 2.0, *[3.0] * 8, 4.0])
    assert (interval.kind, interval.start, interval.end) == (Kind.FLATLINE, times(11)[2], times(11)[9])
    assert (interval.n_points, interval.y_at_peak, interval.open) == (8, 3.0, False)


def test_a_run_no_longer_than_usual_is_no_flatline() -> None:
    assert flat([*[3.0] * 7, 4.0]) == []
    assert flat([*[3.0] * 20, 4.0], longest=20) == []


def test_a_missing_step_neither_breaks_nor_lengthens_a_flatline() -> None:
    assert flat([*[3.0] * 4, NAN, *[3.0] * 3, 1.0]) == []
    (interval,) = flat([*[3.0] * 4, NAN, *[3.0] * 4, 1.0])
    assert interval.n_points == 8


def test_a_flatline_up_to_the_newest_point_is_open() -> None:
    assert flat([1.0, *[3.0] * 8])[0].open


def test_a_constant_series_has_no_flatlines() -> None:
    assert flat([3.0] * 500, longest=100, learned_steps=100) == []


def test_an_empty_slice_flags_nothing() -> None:
    assert found([]) == []
    assert flat([]) == []
    assert flag.candidates(np.array([]), Policy(), STEP) == []


def test_a_run_is_trimmed_to_the_steps_that_are_odd_by_themselves() -> None:
    flagged = np.zeros(20, dtype=bool)
    flagged[2:12] = flagged[15:18] = True
    own = np.zeros(20, dtype=bool)
    own[[0, 5, 8, 19]] = True
    starts, ends = flag.shape_bounds(flagged, APART, 60, own)
    # The second run has no such step and stays whole.
    assert list(zip(starts, ends, strict=True)) == [(5, 8), (15, 17)]


def test_a_spike_that_smears_over_its_window_is_as_short_as_it_was() -> None:
    flagged = np.zeros(40, dtype=bool)
    flagged[5:30] = True
    own = np.zeros(40, dtype=bool)
    own[17] = True
    assert len(flag.shape_bounds(flagged, Policy(min_duration_seconds=120), 60, own)[0]) == 0
    assert len(flag.shape_bounds(flagged, Policy(min_duration_seconds=120), 60)[0]) == 1
