"""From scores to surprise, and alarms at the rate asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from run_pairs import shape_runs
from scipy.signal import lfilter
from scipy.stats import genpareto, poisson

from anomaly_service.errors import InvalidError
from pipelines.errors import BudgetError
from pipelines.monitor import Threshold
from pipelines.records import Policy
from pipelines.steps import calibrate
from pipelines.steps.bodies import Body
from pipelines.steps.calibrate import SurpriseScale
from pipelines.steps.evidence import GRID, SHARES, Realised, Seen
from pipelines.steps.line import Calibrated, Pool, _count_at, _pareto, draw

unhurried = settings(deadline=None)
"""Other work on the machine is no failure."""

STEP = 300
PER_WEEK = 2016
WINDOW = 24

Values = NDArray[np.float64]
Normal = Callable[[int, np.random.Generator], Values]


def score_at(scale: SurpriseScale, surprise: np.ndarray) -> np.ndarray:
    """Return the score of a surprise: undoes ``surprise`` from the lowest score seen upwards."""
    score = np.interp(surprise, scale.surprises, scale.knots)
    beyond = np.maximum(surprise - scale.surprises[-1], 0.0) * np.log(10.0)
    high = np.expm1(beyond * scale.shape) / scale.shape if scale.shape else beyond
    return np.asarray(score + scale.spread * high)


def learn(scores: Values, policy: Policy | None = None, **kwargs: NDArray[np.bool_]) -> Body:
    ts = np.arange(len(scores)) * STEP
    return calibrate.learn(scores, ts, step_seconds=STEP, window=WINDOW, policy=policy or Policy(), **kwargs)


def smooth(x: Values) -> Values:
    total = np.cumsum(np.append(0.0, x))
    return (total[WINDOW:] - total[:-WINDOW]) / WINDOW


def autocorrelated(n: int, rng: np.random.Generator) -> Values:
    return np.asarray(lfilter([np.sqrt(1 - 0.95**2)], [1, -0.95], rng.standard_normal(n + 500))[500:])


NORMAL: dict[str, Normal] = {
    "white": lambda n, rng: np.abs(rng.standard_normal(n)),
    "ar(.95)": lambda n, rng: np.abs(autocorrelated(n, rng)),
    "energy of ar(.95)": lambda n, rng: smooth(autocorrelated(n + WINDOW - 1, rng) ** 2),
    "heavy-tailed": lambda n, rng: np.abs(rng.standard_t(3, n)),
    "energy of heavy-tailed": lambda n, rng: smooth(rng.standard_t(3, n + WINDOW - 1) ** 2),
    "dithered counts": lambda n, rng: np.abs(rng.poisson(0.1, n) - 0.1 + rng.uniform(-0.5, 0.5, n)),
    "zero-inflated": lambda n, rng: smooth(
        np.where(rng.random(n + WINDOW - 1) < 0.02, rng.lognormal(0, 1, n + WINDOW - 1), 0.0)
    ),
}


def line_score(calibrated: Calibrated) -> float:
    """Return the raw score at the line."""
    return float(score_at(calibrated.scale, np.array([calibrated.line]))[0])


def realised(
    normal: Normal, budget: float, policy: Policy, *, n_series: int, weeks: int, unseen: int, seed: int
) -> tuple[int, float]:
    """Return alarms on new data of a monitor, and those asked for."""
    rng = np.random.default_rng(seed)
    scales = rng.lognormal(0, 1, n_series)
    bodies = [learn(scale * normal(unseen * PER_WEEK, rng), policy) for scale in scales]
    line = draw(bodies, Threshold(alarms_per_week=budget * n_series))
    alarms = 0
    for body, scale in zip(bodies, scales, strict=True):
        score = Calibrated.of(body, line).anomaly_score(scale * normal(weeks * PER_WEEK, rng))
        alarms += len(shape_runs(score >= 1, policy, STEP))
    return alarms, budget * n_series * weeks


# -- the promise --------------------------------------------------------------------


@pytest.mark.parametrize("normal", NORMAL)
@pytest.mark.parametrize("budget", [0.3, 1.0, 10.0])
def test_a_monitor_raises_the_alarms_asked_for(normal: str, budget: float) -> None:
    alarms, asked = realised(
        NORMAL[normal], budget, Policy(), n_series=20, weeks=20, unseen=6, seed=int(budget * 10)
    )
    low, high = poisson.ppf(0.005, 0.5 * asked), poisson.ppf(0.995, 2.0 * asked)
    assert low <= alarms <= high
    # Four hundred series-weeks narrow the interval, so the ratio itself is in the band.
    assert 0.5 <= alarms / asked <= 2.0


@pytest.mark.parametrize("normal", ["white", "energy of ar(.95)", "zero-inflated"])
def test_alarms_are_counted_after_the_policy(normal: str) -> None:
    policy = Policy(merge_max_gap_seconds=3 * STEP, min_duration_seconds=2 * STEP, cooldown_seconds=6 * STEP)
    alarms, asked = realised(NORMAL[normal], 0.5, policy, n_series=20, weeks=20, unseen=6, seed=7)
    assert 0.5 <= alarms / asked <= 2.0


@pytest.mark.parametrize("normal", NORMAL)
def test_a_rare_alarm_is_found_along_the_tail(normal: str) -> None:
    alarms, asked = realised(NORMAL[normal], 0.1, Policy(), n_series=20, weeks=40, unseen=6, seed=1)
    assert 1 / 3 <= alarms / asked <= 3.0


@pytest.mark.parametrize("normal", ["ar(.95)", "energy of ar(.95)", "zero-inflated"])
def test_one_series_with_two_weeks_gets_a_sensible_line(normal: str) -> None:
    counts = [
        realised(NORMAL[normal], 2.0, Policy(), n_series=1, weeks=20, unseen=2, seed=seed)
        for seed in range(12)
    ]
    alarms, asked = np.sum(counts, axis=0)
    assert 0.5 <= alarms / asked <= 2.0


def test_a_budget_per_series_is_each_series_own() -> None:
    rng = np.random.default_rng(3)
    restless = [learn(NORMAL["white"](4 * PER_WEEK, rng)) for _ in range(8)]
    calm = [learn(NORMAL["energy of ar(.95)"](4 * PER_WEEK, rng)) for _ in range(8)]
    threshold = Threshold(alarms_per_week=2.0, per="series")
    for kind, body in (("white", restless[0]), ("energy of ar(.95)", calm[0])):
        line = draw([body], threshold, tail_from=restless + calm)
        score = Calibrated.of(body, line).anomaly_score(NORMAL[kind](40 * PER_WEEK, rng))
        assert 0.4 <= len(shape_runs(score >= 1, Policy(), STEP)) / 80 <= 2.5


def test_a_budget_the_data_cannot_hold_is_refused_with_the_largest_possible() -> None:
    body = learn(NORMAL["energy of ar(.95)"](4 * PER_WEEK, np.random.default_rng(0)))
    with pytest.raises(BudgetError, match=r"largest possible is [\d.]+ per monitor") as refused:
        draw([body], Threshold(alarms_per_week=500.0))
    largest = float(str(refused.value).split("largest possible is ")[1].split()[0])
    line = draw([body], Threshold(alarms_per_week=largest * 0.99))
    assert line.surprise >= np.log10(2)


@unhurried
@given(st.floats(0.05, 20), st.floats(1.01, 5))
def test_a_larger_budget_never_lifts_the_line(budget: float, factor: float) -> None:
    low = draw(BODIES, Threshold(alarms_per_week=budget * factor))
    high = draw(BODIES, Threshold(alarms_per_week=budget))
    assert low.surprise <= high.surprise


def test_what_was_realised_draws_the_line_to_where_the_budget_is_kept() -> None:
    rng = np.random.default_rng(11)
    bodies = [learn(NORMAL["white"](6 * PER_WEEK, rng)) for _ in range(10)]
    threshold = Threshold(alarms_per_week=10.0)
    plain = draw(bodies, threshold)
    # The noise has grown by a tenth since: at every surprise more alarms came than were promised.
    louder = [1.1 * NORMAL["white"](4 * PER_WEEK, rng) for _ in bodies]
    scale = SurpriseScale.of(bodies[0], plain.tail)
    everywhere = np.ones(4 * PER_WEEK, dtype=np.bool_)
    counts = [calibrate.alarms_at(scale.surprise(x), GRID, Policy(), STEP, everywhere, None) for x in louder]
    realised = Realised.of(40.0, np.sum(counts, axis=0).astype(float))
    line = draw(bodies, threshold, realised=realised)
    fresh = [scale.surprise(1.1 * NORMAL["white"](4 * PER_WEEK, rng)) for _ in bodies]
    alarms = [sum(len(shape_runs(s >= at.surprise, Policy(), STEP)) for s in fresh) for at in (plain, line)]
    assert alarms[0] > 2 * 40
    assert 0.6 * 40 <= alarms[1] <= 1.5 * 40


def test_incidents_among_what_was_realised_lift_the_line_a_little_and_not_out_of_sight() -> None:
    bodies = [learn(NORMAL["energy of ar(.95)"](6 * PER_WEEK, np.random.default_rng(k))) for k in range(10)]
    threshold = Threshold(alarms_per_week=3.0)
    plain = draw(bodies, threshold).surprise
    levels, alarms = Pool(bodies).curve
    weeks = 40.0
    expected = np.exp(np.interp(GRID, levels, np.log(alarms))) * weeks / 60.0
    incidents = draw(bodies, threshold, realised=Realised.of(weeks, expected + 8.0)).surprise
    assert plain < incidents < plain + np.log10(2.5)
    as_promised = draw(bodies, threshold, realised=Realised.of(weeks, expected)).surprise
    assert as_promised == pytest.approx(plain, abs=0.05)


def test_a_series_line_moves_with_what_its_monitor_realised() -> None:
    rng = np.random.default_rng(5)
    bodies = [learn(NORMAL["white"](6 * PER_WEEK, rng)) for _ in range(6)]
    threshold = Threshold(alarms_per_week=1.0, per="series")
    pool = Pool(bodies)
    many = Realised.of(24.0, np.full(len(GRID), 200.0))
    plain, moved = (
        draw(bodies[:1], threshold, tail_from=pool, realised=known).surprise for known in (None, many)
    )
    assert moved > plain + 0.3


# -- surprise -----------------------------------------------------------------------

BODIES = [
    learn(scale * normal(3 * PER_WEEK, np.random.default_rng(9)))
    for scale in (0.1, 5.0)
    for normal in NORMAL.values()
]
LINE = draw(BODIES, Threshold(alarms_per_week=5.0))
bodies = st.sampled_from(BODIES)


@unhurried
@given(bodies, st.lists(st.floats(-1e6, 1e300), min_size=2, max_size=50))
def test_surprise_rises_with_the_score_and_stays_finite(body: Body, scores: list[float]) -> None:
    surprise = SurpriseScale.of(body, LINE.tail).surprise(np.sort(np.array(scores)))
    assert np.isfinite(surprise).all()
    assert (np.diff(surprise) >= 0).all()


@unhurried
@given(bodies, st.floats(0.01, 12))
def test_score_at_undoes_surprise(body: Body, surprise: float) -> None:
    scale = SurpriseScale.of(body, LINE.tail)
    score = score_at(scale, np.array([surprise]))
    np.testing.assert_allclose(scale.surprise(score), surprise, rtol=1e-6)


@unhurried
@given(bodies)
def test_surprise_is_continuous_where_the_tail_begins(body: Body) -> None:
    scale = SurpriseScale.of(body, LINE.tail)
    u = scale.knots[-1]
    around = scale.surprise(np.array([u - 1e-9 * abs(u), u, u + 1e-9 * abs(u)]))
    np.testing.assert_allclose(around, around[1], atol=1e-5)


@unhurried
@given(bodies)
def test_the_line_has_anomaly_score_one(body: Body) -> None:
    calibrated = Calibrated.of(body, LINE)
    np.testing.assert_allclose(calibrated.anomaly_score(np.array([line_score(calibrated)])), 1.0, rtol=1e-6)


def test_a_score_of_none_stays_none() -> None:
    assert np.isnan(Calibrated.of(BODIES[0], LINE).anomaly_score(np.array([np.nan, 1.0]))).tolist() == [
        True,
        False,
    ]


def test_surprise_is_the_logarithm_of_the_share_of_normal_points_as_high() -> None:
    rng = np.random.default_rng(5)
    scale = SurpriseScale.of(learn(rng.exponential(size=6 * PER_WEEK)), LINE.tail)
    fresh = scale.surprise(rng.exponential(size=200_000))
    for surprise in (0.3, 1.0, 1.6):
        assert np.mean(fresh >= surprise) == pytest.approx(10**-surprise, rel=0.15)


def test_ordinary_scores_have_next_to_no_surprise() -> None:
    scores = np.random.default_rng(6).standard_normal(5000) ** 2
    scale = SurpriseScale.of(learn(scores), LINE.tail)
    assert np.median(scale.surprise(scores)) == pytest.approx(np.log10(2), abs=0.02)
    assert scale.surprise(np.array([scores.min() - 1]))[0] == 0.0


def test_the_tail_is_the_generalised_pareto() -> None:
    body, tail = BODIES[0], replace(LINE.tail, shape=0.25)
    scale = SurpriseScale.of(body, tail)
    excess = np.array([0.5, 2.0, 9.0]) * scale.spread
    expected = scale.surprises[-1] - genpareto.logsf(excess, 0.25, scale=scale.spread) / np.log(10)
    np.testing.assert_allclose(scale.surprise(scale.knots[-1] + excess), expected, rtol=1e-9)


@pytest.mark.parametrize(("shape", "seen"), [(0.0, 4000), (0.3, 4000), (0.6, 4000)])
def test_many_maxima_give_the_shape_they_were_drawn_with(shape: float, seen: int) -> None:
    drawn = np.sort(genpareto.rvs(shape, scale=1.5, size=seen, random_state=np.random.default_rng(2)))
    found, scale = _pareto(drawn, np.ones(seen))
    assert found == pytest.approx(shape, abs=0.08)
    assert scale == pytest.approx(1.5, rel=0.1)


def test_a_few_maxima_leave_the_shape_near_its_prior() -> None:
    found, _ = _pareto(np.array([0.1, 0.2, 5.0]), np.ones(3))
    assert 0.0 <= found <= 0.3


def test_incidents_among_the_unseen_scores_hardly_bend_the_tail() -> None:
    maxima = np.sort(np.random.default_rng(8).exponential(size=300))
    clean, _ = _pareto(maxima, np.ones(300))
    maxima[-6:] = 1e6
    dirty, _ = _pareto(maxima, np.ones(300))
    assert dirty - clean < 0.15


# -- what is learned ----------------------------------------------------------------


def test_a_body_is_small_json() -> None:
    for body in (*BODIES, LINE):
        assert len(json.dumps(body.to_json(), allow_nan=False)) < 3072


@unhurried
@given(
    st.integers(0, 2**32 - 1),
    st.builds(
        Policy,
        min_duration_seconds=st.integers(0, 5).map(lambda n: n * STEP),
        merge_max_gap_seconds=st.integers(0, 6).map(lambda n: n * STEP),
        cooldown_seconds=st.sampled_from([0, 4 * STEP]),
    ),
)
def test_the_alarm_curve_counts_what_flag_makes_of_each_level(seed: int, policy: Policy) -> None:
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(400) < 0.05, np.nan, rng.standard_normal(400))
    allowed = rng.random(400) < 0.9
    body = learn(scores, policy, allowed=allowed)
    for level, alarms in zip(body.levels, body.alarms, strict=True):
        assert alarms == len(shape_runs((scores >= level) & allowed, policy, STEP))


def test_the_highest_alarm_stands_in_the_curve() -> None:
    scores = np.random.default_rng(4).standard_normal(3000)
    body = learn(scores)
    assert body.levels[-1] == pytest.approx(scores.max(), rel=2e-6)
    assert body.alarms[-1] == 1


def test_steps_the_policy_would_not_flag_raise_no_alarm() -> None:
    scores = np.random.default_rng(4).standard_normal(3000)
    body = learn(scores, allowed=np.zeros(3000, dtype=bool))
    assert body.alarms == ()
    assert draw([body], Threshold()).surprise > 2


def test_a_gap_in_time_parts_clusters_and_runs() -> None:
    scores = np.zeros(300)
    scores[150:152] = 5.0
    ts = np.arange(300) * STEP
    ts[151:] += 100 * STEP
    whole = calibrate.learn(scores, ts, step_seconds=STEP, window=WINDOW, policy=Policy())
    assert (whole.clusters, whole.alarms[-1]) == (2, 2)


def test_high_scores_with_less_than_a_window_between_them_are_one_cluster() -> None:
    scores = np.zeros(4000)
    runs = [100, 100 + 2 * WINDOW, 100 + 4 * WINDOW + 1, 2000, 3000]
    for first, height in zip(runs, (5.0, 9.0, 6.0, 7.0, 8.0), strict=True):
        scores[[first, first + WINDOW]] = height - 1, height
    body = learn(scores)
    assert body.clusters == 4
    u = body.knots[-1]
    assert body.maxima == pytest.approx([9 - u, 8 - u, 7 - u, 6 - u])
    assert body.maxima_counts == (1, 1, 1, 1)
    # Ten scores that came four times teach no more of the mean than four do.
    assert body.noise >= 1 / 4


def test_a_constant_score_flags_any_change() -> None:
    for constant in (0.0, 3.0, -1e12, 1e-9):
        body = learn(np.full(4000, constant))
        calibrated = Calibrated.of(body, draw([body], Threshold()))
        changed = constant + max(abs(constant), 1e-9) * 0.01
        score = calibrated.anomaly_score(np.array([constant, changed]))
        assert score[0] < 0.5
        assert score[1] > 1.0


def test_surprise_does_not_depend_on_the_unit_of_the_score() -> None:
    scores = NORMAL["energy of ar(.95)"](3 * PER_WEEK, np.random.default_rng(1))
    reference = None
    for unit in (1.0, 1e12, 1e-9):
        body = learn(scores * unit)
        line = draw([body], Threshold(alarms_per_week=2.0))
        found = Calibrated.of(body, line).anomaly_score(scores * unit)
        reference = found if reference is None else reference
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-6)


def test_no_scores_cannot_be_calibrated() -> None:
    with pytest.raises(InvalidError, match="got none"):
        learn(np.full(10, np.nan))


def test_a_single_score_can() -> None:
    body = learn(np.array([2.0]))
    line = draw([body], Threshold(alarms_per_week=0.01))
    assert np.isfinite(Calibrated.of(body, line).anomaly_score(np.array([1.0, 2.0, 3.0]))).all()


# -- lines by other methods ---------------------------------------------------------


def test_a_quantile_line_flags_that_share_of_the_points() -> None:
    rng = np.random.default_rng(0)
    own = [learn(s * rng.standard_normal(4 * PER_WEEK) ** 2) for s in (1.0, 30.0)]
    line = draw(own, Threshold(method="quantile", value=0.005))
    flagged = [
        np.mean(Calibrated.of(b, line).anomaly_score(s * rng.standard_normal(200_000) ** 2) >= 1)
        for b, s in zip(own, (1.0, 30.0), strict=True)
    ]
    assert np.mean(flagged) == pytest.approx(0.005, rel=0.25)


@pytest.mark.parametrize("share", [0.0, 0.5, -1.0])
def test_a_contamination_of_a_half_is_refused(share: float) -> None:
    with pytest.raises(InvalidError, match=r"between 0 and 0\.5"):
        draw(BODIES, Threshold(method="quantile", value=share))


def test_a_sigma_line_lies_so_many_deviations_above_the_mean() -> None:
    scores = np.random.default_rng(0).standard_normal(PER_WEEK)
    body = learn(scores)
    calibrated = Calibrated.of(body, draw([body], Threshold(method="sigma", value=3.0)))
    assert line_score(calibrated) == pytest.approx(scores.mean() + 3 * scores.std(), rel=1e-6)


def test_a_dynamic_line_lies_between_the_calm_and_the_incident() -> None:
    scores = np.abs(np.random.default_rng(0).standard_normal(PER_WEEK))
    scores[500:510] = 40.0
    body = learn(scores)
    line = line_score(Calibrated.of(body, draw([body], Threshold(method="dynamic"))))
    assert np.delete(scores, np.arange(500, 510)).max() < line < 40.0


def test_a_sigma_line_follows_what_was_seen_so_that_one_is_still_the_line() -> None:
    scores = np.random.default_rng(0).standard_normal(PER_WEEK)
    body = learn(scores)
    line = draw([body], Threshold(method="sigma", value=3.0))
    seen = Seen(500.0, tuple(500.0 * np.minimum(2 * SHARES, 1.0)))
    at = scores.mean() + 3 * scores.std()
    assert Calibrated.of(body, line, seen).anomaly_score(np.array([at]))[0] == pytest.approx(1.0, rel=1e-6)


def test_an_unknown_method_is_refused_with_the_known() -> None:
    with pytest.raises(InvalidError, match="alarms, quantile, sigma or dynamic"):
        draw(BODIES, Threshold(method="magic"))


def test_without_bodies_the_previous_line_stands() -> None:
    assert draw([], Threshold(), previous=LINE) == LINE
    with pytest.raises(ValueError, match="fit first"):
        draw([], Threshold())


# -- lines with few alarms to count -------------------------------------------------


def curve(surprises: list[float], alarms: list[int]) -> Body:
    """A body whose scores are their surprises, with so many alarms at each."""
    knots = (0.0, 1.0, 1.7)
    return replace(
        BODIES[0],
        knots=knots,
        surprises=knots,
        levels=tuple(surprises),
        alarms=tuple(alarms),
        seconds=4 * 604800,
        n=4 * PER_WEEK,
    )


def test_five_alarms_place_the_line_and_fewer_move_it_along_the_tail() -> None:
    # Ten times the alarms for a tenth of the surprise: p for p.
    body = curve([0.65, 1.65], [50, 5])
    at_five = draw([body], Threshold(alarms_per_week=5 / 4)).surprise
    at_half = draw([body], Threshold(alarms_per_week=0.5 / 4)).surprise
    assert (at_five, at_half) == (pytest.approx(1.65), pytest.approx(2.65))


def test_where_alarms_fall_faster_than_points_the_line_moves_less() -> None:
    body = curve([1.15, 1.65], [50, 5])
    line = draw([body], Threshold(alarms_per_week=0.5 / 4)).surprise
    assert 1.65 + 0.5 < line < 1.65 + 0.7


def test_a_series_goes_along_the_alarms_of_its_monitor_as_far_as_those_are_counted() -> None:
    own, other = curve([1.65], [5]), curve([1.65, 1.68], [90, 9])
    line = draw([own], Threshold(alarms_per_week=5 / 4 / 9.5, per="series"), tail_from=[own, other])
    assert line.surprise == pytest.approx(1.68, abs=0.01)


def test_a_pool_draws_what_its_bodies_do() -> None:
    threshold = Threshold(alarms_per_week=0.2, per="series")
    pool = Pool(BODIES)
    assert draw(BODIES[:1], threshold, tail_from=pool) == draw(BODIES[:1], threshold, tail_from=BODIES)


def test_between_levels_the_count_runs_from_one_to_the_next() -> None:
    grid = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
    count = _count_at(grid, np.array([1.0, 2.0, 3.0]), np.array([9.0, 2.0, 1.0]))
    np.testing.assert_allclose(count, [9, 9, 5, 2, 1, 1, 0])
