"""How good a detector is: every metric against vectors, its slow twin, and what must hold of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import naive_metrics as naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import poisson

from pipelines.measure import metrics
from pipelines.measure.metrics import Counts, Nab, Segments

Pairs = Sequence[tuple[int, int]]
Labels = NDArray[np.bool_]
Values = NDArray[np.float64]

NO_LABELS, ALL_LABELS = np.zeros(10, dtype=bool), np.ones(10, dtype=bool)


def segments(pairs: Pairs) -> Segments:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def spread(pairs: Pairs, n: int) -> Labels:
    labels = np.zeros(n, dtype=bool)
    for a, b in pairs:
        labels[a : b + 1] = True
    return labels


@st.composite
def pairs(draw: st.DrawFn, n: int, min_size: int = 0) -> list[tuple[int, int]]:
    """Segments of a series of n rows: single rows, neighbours without a gap and the ends included."""
    ends = sorted(draw(st.sets(st.integers(0, 2 * n - 1), min_size=2 * min_size, max_size=12)))
    # Even and odd numbers of a row are its begin and its end, so that a segment may be one row.
    found = [(a // 2, b // 2) for a, b in zip(ends[::2], ends[1::2], strict=False)]
    disjoint = [p for i, p in enumerate(found) if i == 0 or p[0] > found[i - 1][1]]
    assume(len(disjoint) >= min_size)
    return disjoint


@st.composite
def cases(draw: st.DrawFn, min_true: int = 0) -> tuple[int, list[tuple[int, int]], list[tuple[int, int]]]:
    """A number of rows, true and found segments."""
    n = draw(st.integers(4, 40))
    return n, draw(pairs(n, min_true)), draw(pairs(n))


@st.composite
def scored(draw: st.DrawFn) -> tuple[Labels, Values]:
    """Labels of both kinds and scores with ties."""
    n = draw(st.integers(2, 50))
    labels = spread(draw(pairs(n, 1)), n)
    assume(not labels.all())
    score = st.one_of(st.integers(0, 4).map(float), st.floats(-10, 10))
    return labels, np.array(draw(st.lists(score, min_size=n, max_size=n)))


# -- curves -------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=40).map(lambda bits: np.array(bits, dtype=bool)))
def test_segments_cover_exactly_the_labels(labels: Labels) -> None:
    found = metrics.segments_of(labels)
    assert found.tolist() == [list(run) for run in naive.runs(labels)]
    assert (found.dtype, found.shape[1]) == (np.int64, 2)


@given(scored())
def test_auc_roc_is_the_chance_that_an_anomalous_row_outscores_a_normal_one(
    case: tuple[Labels, Values],
) -> None:
    labels, scores = case
    gaps = scores[labels][:, np.newaxis] - scores[~labels]
    wanted = np.mean((gaps > 0) + 0.5 * (gaps == 0))
    assert metrics.auc_roc(labels, scores) == pytest.approx(wanted)


@given(scored())
def test_auc_pr_is_the_mean_precision_over_the_anomalous_rows(case: tuple[Labels, Values]) -> None:
    labels, scores = case
    precisions = [labels[scores >= score].mean() for score in scores[labels]]
    assert metrics.auc_pr(labels, scores) == pytest.approx(np.mean(precisions))


@pytest.mark.parametrize("labels", [NO_LABELS, ALL_LABELS])
def test_no_curve_has_an_area_where_labels_are_all_alike(labels: Labels) -> None:
    scores = np.arange(10.0)
    volume = metrics.vus(labels, scores, 4)
    areas = (metrics.auc_pr(labels, scores), metrics.auc_roc(labels, scores), volume.pr, volume.roc)
    assert np.isnan(areas).all()


# -- volume under the surface -------------------------------------------------------


@settings(max_examples=50)
@given(scored(), st.integers(0, 9))
def test_vus_is_what_its_definition_says(case: tuple[Labels, Values], buffer: int) -> None:
    labels, scores = case
    found = metrics.vus(labels, scores, buffer)
    assert (found.pr, found.roc) == pytest.approx(naive.vus(labels, scores, buffer), abs=1e-12)


@pytest.mark.parametrize(
    "truth",
    [
        [(0, 0), (400, 430), (450, 450), (452, 452), (799, 799)],
        [(100, 119), (160, 179), (240, 259)],
        [(0, 399)],
    ],
    ids=["at both ends, single rows and neighbours", "twenty, forty and sixty apart", "one long"],
)
def test_vus_of_a_series_longer_than_its_thresholds_is_what_its_definition_says(truth: Pairs) -> None:
    labels = spread(truth, 800)
    rng = np.random.default_rng(3)
    scores = np.round(rng.gamma(1.0, 1.0, 800) + labels, 1)
    found = metrics.vus(labels, scores, 60)
    assert (found.pr, found.roc) == pytest.approx(naive.vus(labels, scores, 60), abs=1e-12)


@pytest.mark.parametrize("truth", [[(0, 0)], [(3, 3), (9, 11)]])
def test_vus_of_a_buffer_longer_than_the_series_is_what_its_definition_says(truth: Pairs) -> None:
    labels = spread(truth, 15)
    scores = np.random.default_rng(4).normal(size=15)
    found = metrics.vus(labels, scores, 100)
    assert (found.pr, found.roc) == pytest.approx(naive.vus(labels, scores, 100), abs=1e-12)


@given(scored(), st.integers(0, 30))
def test_scores_that_are_the_labels_fill_the_volume(case: tuple[Labels, Values], buffer: int) -> None:
    labels, _ = case
    volume = metrics.vus(labels, labels.astype(np.float64), buffer)
    assert (volume.pr, volume.roc) == pytest.approx((1.0, 1.0))


@given(scored(), st.integers(0, 30))
def test_volumes_depend_on_the_order_of_scores_and_not_on_the_direction_of_time(
    case: tuple[Labels, Values], buffer: int
) -> None:
    labels, scores = case
    volume = metrics.vus(labels, scores, buffer)
    order = np.unique(scores, return_inverse=True)[1].astype(np.float64)
    mirrored = metrics.vus(labels[::-1], scores[::-1], buffer)
    assert metrics.vus(labels, order, buffer) == volume
    assert (mirrored.pr, mirrored.roc) == pytest.approx((volume.pr, volume.roc), abs=1e-12)


def test_a_near_miss_counts_only_with_a_buffer() -> None:
    labels, scores = spread([(50, 54)], 100), spread([(48, 49)], 100).astype(np.float64)
    assert metrics.vus(labels, scores, 24).pr > 2 * metrics.vus(labels, scores, 0).pr


def pr_at(length: int, labels: Labels, scores: Values) -> float:
    """The area under the PR curve of one buffer length, which volumes average from 0 up."""
    with_it, without = (metrics.vus(labels, scores, buffer).pr for buffer in (length, length - 1))
    return (length + 1) * with_it - length * without


def test_extended_segments_side_by_side_are_two_and_one_as_soon_as_they_share_a_row() -> None:
    labels, scores = spread([(9, 9), (16, 16)], 30), spread([(9, 9)], 30).astype(np.float64)
    # The first threshold flags row 9 alone, one segment of two; all others flag everything.
    soft = np.sqrt([5 / 6, 4 / 6, 3 / 6]).sum() * 4
    assert pr_at(6, labels, scores) == pytest.approx(0.25 + 0.75 * (2 + soft) / 30)
    soft = np.sqrt([7 / 8, 6 / 8]).sum() * 4 + np.sqrt([5 / 8, 4 / 8]).sum() * 2 + 2
    assert pr_at(8, labels, scores) == pytest.approx(0.5 + 0.5 * (2 + soft) / 30)


# -- overlap ------------------------------------------------------------------------

SIX_AND_SIX = (
    [(1, 2), (5, 6), (7, 10), (12, 13), (16, 17), (22, 23)],
    [(2, 3), (4, 5), (8, 9), (11, 14), (19, 20), (22, 23)],
)
OVERLAPS: list[tuple[Pairs, Pairs, Counts, Counts]] = [
    (*SIX_AND_SIX, Counts(fp=1, fn=1, tp=5), Counts(tn=3, fp=6, fn=6, tp=8)),
    ([(10, 20)], [(21, 30)], Counts(fp=1, fn=1, tp=0), Counts(tn=0, fp=10, fn=11, tp=0)),
    ([(10, 20)], [(20, 30)], Counts(fp=0, fn=0, tp=1), Counts(tn=0, fp=10, fn=10, tp=1)),
    ([(10, 20), (22, 25)], [(15, 23)], Counts(fp=0, fn=0, tp=2), Counts(tn=0, fp=1, fn=7, tp=8)),
    ([(10, 30)], [(12, 14), (20, 22)], Counts(fp=0, fn=0, tp=1), Counts(tn=0, fp=0, fn=15, tp=6)),
    ([(10, 20)], [], Counts(fp=0, fn=1, tp=0), Counts(tn=0, fp=0, fn=11, tp=0)),
]


@pytest.mark.parametrize(("truth", "found", "events", "rows"), OVERLAPS)
def test_events_and_rows_are_counted_as_orion_counts_them(
    truth: Pairs, found: Pairs, events: Counts, rows: Counts
) -> None:
    assert metrics.overlap(segments(truth), segments(found)) == events
    assert metrics.weighted_overlap(segments(truth), segments(found)) == rows


@given(cases())
def test_overlaps_are_what_their_definitions_say(case: tuple[int, Pairs, Pairs]) -> None:
    _, truth, found = case
    events = metrics.overlap(segments(truth), segments(found))
    rows = metrics.weighted_overlap(segments(truth), segments(found))
    assert (events.tp, events.fp, events.fn) == naive.overlap(truth, found)
    assert (rows.tn, rows.fp, rows.fn, rows.tp) == naive.weighted_overlap(truth, found)


@given(cases())
def test_what_one_side_misses_the_other_invents(case: tuple[int, Pairs, Pairs]) -> None:
    _, truth, found = (case[0], segments(case[1]), segments(case[2]))
    assert metrics.overlap(truth, found).fn == metrics.overlap(found, truth).fp
    rows, swapped = metrics.weighted_overlap(truth, found), metrics.weighted_overlap(found, truth)
    assert (rows.fn, rows.fp, rows.tp, rows.tn) == (swapped.fp, swapped.fn, swapped.tp, swapped.tn)


def test_counts_are_summed_over_series_before_they_are_divided() -> None:
    total = sum([Counts(tp=3, fp=1), Counts(tp=1, fp=3, fn=4, tn=7)], Counts())
    assert total == Counts(tp=4, fp=4, fn=4, tn=7)
    assert (total.precision, total.recall, total.f1) == (0.5, 0.5, 0.5)
    assert Counts(tp=1, fp=3, fn=0).f1 == pytest.approx(0.4)


def test_counts_of_nothing_divide_to_nought() -> None:
    nothing = metrics.overlap(segments([]), segments([]))
    assert (nothing.precision, nothing.recall, nothing.f1) == (0.0, 0.0, 0.0)
    assert metrics.weighted_overlap(segments([]), segments([])) == Counts()


# -- ranges and affiliation ---------------------------------------------------------

RANGES: list[tuple[int, Pairs, Pairs, tuple[float, float], tuple[float, float]]] = [
    (60, [(10, 19)], [(12, 14)], (1, 0.44), (1, 0.951667)),
    (60, [(10, 19)], [(30, 34)], (0, 0), (0.458333, 0.541667)),
    (100, [(20, 29), (60, 69)], [(25, 35)], (0.454545, 0.3), (0.806061, 0.472222)),
    (100, [(20, 29), (60, 69)], [(0, 99)], (0.1, 1), (0.520610, 1)),
    (100, [(20, 29), (60, 69)], [(22, 24), (80, 80)], (0.5, 0.22), (0.718182, 0.700732)),
]


@pytest.mark.parametrize(("n", "truth", "found", "ranges", "near"), RANGES)
def test_ranges_and_affiliation_are_those_of_their_authors(
    n: int, truth: Pairs, found: Pairs, ranges: tuple[float, float], near: tuple[float, float]
) -> None:
    by_range = metrics.range_based(segments(truth), segments(found))
    by_affiliation = metrics.affiliation(segments(truth), segments(found), n)
    assert (by_range.precision, by_range.recall) == pytest.approx(ranges, abs=5e-7)
    assert (by_affiliation.precision, by_affiliation.recall) == pytest.approx(near, abs=5e-7)


@given(cases(min_true=1))
def test_ranges_are_what_their_definition_says(case: tuple[int, Pairs, Pairs]) -> None:
    _, truth, found = case
    result = metrics.range_based(segments(truth), segments(found))
    assert (result.precision, result.recall) == pytest.approx(naive.range_based(truth, found))


@settings(max_examples=60)
@given(cases(min_true=1))
def test_affiliation_is_what_its_definition_says(case: tuple[int, Pairs, Pairs]) -> None:
    n, truth, found = case
    result = metrics.affiliation(segments(truth), segments(found), n)
    assert (result.precision, result.recall) == pytest.approx(naive.affiliation(truth, found, n))


@given(cases(min_true=1))
def test_finding_exactly_the_truth_is_perfect_by_every_measure(case: tuple[int, Pairs, Pairs]) -> None:
    n, truth = case[0], segments(case[1])
    for result in (
        metrics.overlap(truth, truth),
        metrics.weighted_overlap(truth, truth),
        metrics.range_based(truth, truth),
        metrics.affiliation(truth, truth, n),
    ):
        assert (result.precision, result.recall, result.f1) == pytest.approx((1.0, 1.0, 1.0))


def test_the_nearer_miss_has_the_higher_affiliation_where_overlap_sees_none() -> None:
    truth = segments([(40, 49)])
    near, far = segments([(52, 55)]), segments([(80, 83)])
    assert metrics.overlap(truth, near) == metrics.overlap(truth, far)
    assert metrics.affiliation(truth, near, 100).f1 > metrics.affiliation(truth, far, 100).f1


def test_finding_nothing_has_precision_and_recall_nought() -> None:
    truth, nothing = segments([(3, 5)]), segments([])
    for result in (metrics.range_based(truth, nothing), metrics.affiliation(truth, nothing, 10)):
        assert (result.precision, result.recall, result.f1) == (0.0, 0.0, 0.0)


def test_without_truth_there_is_no_precision_and_no_recall() -> None:
    nothing, found = segments([]), segments([(3, 5)])
    for result in (metrics.range_based(nothing, found), metrics.affiliation(nothing, found, 10)):
        assert np.isnan((result.precision, result.recall, result.f1)).all()


# -- the NAB score ------------------------------------------------------------------

PROFILES = {"standard": (1.0, 1.0, 0.11), "low-FP": (1.0, 1.0, 0.22), "low-FN": (1.0, 2.0, 0.11)}


@given(cases(), st.sampled_from(sorted(PROFILES)))
def test_intervals_of_one_row_are_scored_as_nab_scores_rows(
    case: tuple[int, Pairs, Pairs], profile: str
) -> None:
    n, truth, found = case
    rows = [(i, i) for a, b in found for i in range(a, b + 1)]
    wanted = naive.nab_rows(truth, {i for i, _ in rows}, n, *PROFILES[profile])
    assert metrics.nab(segments(truth), segments(rows), n, profile).raw == pytest.approx(wanted)


@given(cases(), st.sampled_from(sorted(PROFILES)))
def test_longer_intervals_are_judged_by_the_rows_at_which_they_speak(
    case: tuple[int, Pairs, Pairs], profile: str
) -> None:
    n, truth, found = case
    wanted = naive.nab_intervals(truth, found, n, *PROFILES[profile])
    assert metrics.nab(segments(truth), segments(found), n, profile).raw == pytest.approx(wanted)


@pytest.mark.parametrize("profile", PROFILES)
def test_finding_all_windows_at_once_scores_a_hundred_and_finding_none_nought(profile: str) -> None:
    truth = segments([(15, 24), (50, 50), (90, 99)])
    assert metrics.nab(truth, truth, 100, profile).score == pytest.approx(100.0)
    assert metrics.nab(truth, segments([]), 100, profile).score == 0.0


@given(cases(min_true=1))
def test_no_score_is_above_a_hundred(case: tuple[int, Pairs, Pairs]) -> None:
    n, truth, found = case
    result = metrics.nab(segments(truth), segments(found), n)
    assert math.isnan(result.score) or result.score <= 100.0 + 1e-9


def test_an_earlier_detection_earns_more() -> None:
    truth = segments([(50, 59)])
    scores = [metrics.nab(truth, segments([(i, i)]), 100).score for i in range(50, 60)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 10


def test_a_false_positive_costs_more_the_further_it_is_behind_a_window_up_to_three_widths() -> None:
    truth = segments([(50, 59)])
    costs = [-metrics.nab(truth, segments([(59 + d, 59 + d)]), 200).raw - 1.0 for d in (1, 5, 9, 27, 90)]
    assert costs == sorted(costs)
    assert costs[-1] == costs[-2] == pytest.approx(0.11)


def test_a_false_positive_before_any_window_or_behind_one_of_a_single_row_costs_all() -> None:
    for truth in ([(90, 99)], [(20, 20)]):
        raw = metrics.nab(segments(truth), segments([(21, 21)]), 100).raw
        assert raw == pytest.approx(-1.0 - 0.11)


def test_one_long_interval_beside_the_windows_is_one_false_positive() -> None:
    truth, far = segments([(90, 99)]), segments([(30, 60)])
    assert metrics.nab(truth, far, 100).raw == pytest.approx(-1.0 - 0.11)


def test_one_interval_detects_every_window_it_overlaps_and_is_no_false_positive() -> None:
    truth = segments([(50, 59), (70, 79)])
    assert metrics.nab(truth, segments([(40, 95)]), 100).score == pytest.approx(100.0)


def test_what_happens_in_probation_does_not_count() -> None:
    truth = segments([(2, 8), (50, 59)])
    result = metrics.nab(truth, segments([(0, 8), (50, 50)]), 100)
    assert result == Nab(raw=pytest.approx(1.0), null=-1.0, perfect=1.0)


def test_probation_is_never_longer_than_750_rows() -> None:
    truth = segments([(700, 749), (750, 760)])
    assert metrics.nab(truth, segments([(749, 749), (750, 750)]), 10_000).raw == pytest.approx(1.0)


def test_series_are_summed_before_the_score_is_taken() -> None:
    found, missed = Nab(raw=1.0, null=-1.0, perfect=1.0), Nab(raw=-3.0, null=-3.0, perfect=3.0)
    assert (found + missed) == Nab(raw=-2.0, null=-4.0, perfect=4.0)
    assert (found + missed).score == 25.0


def test_without_windows_there_is_no_score_but_false_positives_add_up() -> None:
    result = metrics.nab(segments([]), segments([(50, 51)]), 100)
    assert math.isnan(result.score)
    assert result.raw == pytest.approx(-0.11)


# -- rates and delays ---------------------------------------------------------------


@given(cases())
def test_the_share_flagged_is_that_of_the_rows(case: tuple[int, Pairs, Pairs]) -> None:
    n, _, found = case
    assert metrics.share_flagged(segments(found), n) == pytest.approx(spread(found, n).mean())


@given(cases())
def test_a_delay_runs_from_the_start_of_a_segment_to_its_first_flag(case: tuple[int, Pairs, Pairs]) -> None:
    n, truth, found = case
    flagged = spread(found, n)
    np.testing.assert_array_equal(
        metrics.delays(segments(truth), flagged), np.array(naive.delays(truth, flagged), dtype=np.float64)
    )


def test_a_segment_whose_only_flag_comes_too_late_has_no_delay() -> None:
    delays = metrics.delays(segments([(2, 4), (6, 8)]), spread([(5, 5), (7, 7)], 10))
    np.testing.assert_array_equal(delays, [np.nan, 1.0])


@given(st.integers(0, 60), st.floats(0.1, 100), st.floats(0.5, 0.99))
def test_at_the_ends_of_the_interval_so_many_or_few_events_are_just_improbable(
    count: int, exposure: float, level: float
) -> None:
    low, high = metrics.poisson_interval(count, exposure, level)
    assert low <= count / exposure <= high
    assert poisson.cdf(count, high * exposure) == pytest.approx((1 - level) / 2)
    if count:
        assert poisson.sf(count - 1, low * exposure) == pytest.approx((1 - level) / 2)


def test_a_rate_of_no_events_may_be_nought() -> None:
    low, high = metrics.poisson_interval(0, 2.0)
    assert (low, high) == pytest.approx((0.0, -math.log(0.025) / 2.0))


# -- bad input ----------------------------------------------------------------------

CURVES: list[Callable[[Labels, Values], object]] = [
    metrics.auc_pr,
    metrics.auc_roc,
    lambda labels, scores: metrics.vus(labels, scores, 4),
]
EVENTS: list[Callable[[Segments, Segments], object]] = [
    metrics.overlap,
    metrics.weighted_overlap,
    metrics.range_based,
    lambda truth, found: metrics.affiliation(truth, found, 100),
    lambda truth, found: metrics.nab(truth, found, 100),
]


@pytest.mark.parametrize("curve", CURVES)
def test_curves_refuse_what_is_no_label_and_score_per_row(curve: Callable[[Labels, Values], object]) -> None:
    labels, scores = spread([(1, 2)], 5), np.arange(5.0)
    with pytest.raises(ValueError, match=r"type bool, got int64; pass labels == 1"):
        curve(labels.astype(np.int64), scores)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(ValueError, match=r"one score per row, got shapes \(5,\) and \(4,\)"):
        curve(labels, scores[1:])
    with pytest.raises(ValueError, match=r"one score per row, got shapes \(5, 1\) and \(5, 1\)"):
        curve(labels[:, np.newaxis], scores[:, np.newaxis])
    with pytest.raises(ValueError, match=r"finite scores, got 2 of 5 .* lowest score"):
        curve(labels, np.array([0.0, np.nan, 1.0, np.inf, 2.0]))


def test_a_negative_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 rows or more, got -1; see buffer_of"):
        metrics.vus(spread([(1, 2)], 5), np.arange(5.0), -1)


@pytest.mark.parametrize("metric", EVENTS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([1, 2]), r"{} as int64 of shape \(k, 2\), got int64 of \(2,\); pass pairs"),
        (np.array([[1.0, 2.0]]), r"{} as int64 of shape \(k, 2\), got float64 of \(1, 2\); pass pairs"),
        (segments([(1, 2), (7, 5)]), r"{} to end no earlier than they start, got \[7, 5\]; both ends"),
        (segments([(5, 7), (1, 2)]), r"{} in order and disjoint, got \[5, 7\] before \[1, 2\]; sort"),
        (segments([(1, 5), (5, 7)]), r"{} in order and disjoint, got \[1, 5\] before \[5, 7\]; sort"),
    ],
)
def test_segments_that_are_none_are_refused(
    metric: Callable[[Segments, Segments], object], bad: Segments, message: str
) -> None:
    good = segments([(1, 2)])
    with pytest.raises(ValueError, match=message.format("truth")):
        metric(bad, good)
    with pytest.raises(ValueError, match=message.format("found")):
        metric(good, bad)


@pytest.mark.parametrize(("bad", "span"), [([(-1, 2)], "-1 to 2"), ([(3, 4), (9, 10)], "3 to 10")])
def test_segments_outside_their_series_are_refused(bad: Pairs, span: str) -> None:
    outside, none = segments(bad), segments([])
    with pytest.raises(ValueError, match=f"truth within rows 0 to 9, got {span}"):
        metrics.affiliation(outside, none, 10)
    with pytest.raises(ValueError, match=f"found within rows 0 to 9, got {span}"):
        metrics.nab(none, outside, 10)
    with pytest.raises(ValueError, match=f"found within rows 0 to 9, got {span}"):
        metrics.share_flagged(outside, 10)
    with pytest.raises(ValueError, match=f"truth within rows 0 to 9, got {span}"):
        metrics.delays(outside, NO_LABELS)


def test_an_empty_series_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row, got 0"):
        metrics.share_flagged(segments([]), 0)


def test_an_unknown_profile_is_refused_by_naming_those_there_are() -> None:
    with pytest.raises(ValueError, match="no NAB profile named 'lowFP'; there are: standard, low-FP, low-FN"):
        metrics.nab(segments([]), segments([]), 10, "lowFP")


def test_a_rate_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0, got -1 over 2"):
        metrics.poisson_interval(-1, 2.0)
    with pytest.raises(ValueError, match="above 0, got 3 over 0"):
        metrics.poisson_interval(3, 0.0)
    with pytest.raises(ValueError, match=r"level between 0 and 1, got 95; 0\.95"):
        metrics.poisson_interval(3, 2.0, 95)
