"""What prepare learns of a series, and that applying it depends on nothing but the recipe and the points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.records import Points
from pipelines.steps.prepare import LIMIT, Prepared, apply, deviations, learn, restore, unseen
from pipelines.steps.recipe import Recipe

STEP = 300
DAY = 86_400
WEEK = 7 * DAY
START = 1_709_510_400  # 2024-03-04, a Monday, 00:00 UTC


def times(weeks: float = 6, start: int = START, step: int = STEP) -> NDArray[np.int64]:
    return start + np.arange(int(weeks * WEEK / step), dtype=np.int64) * step


def smooth_noise(n: int, rng: np.random.Generator, size: float) -> NDArray[np.float64]:
    shocks = rng.normal(0, size, n)
    noise = np.zeros(n)
    for i in range(1, n):
        noise[i] = 0.8 * noise[i - 1] + shocks[i]
    return noise


def players(ts: NDArray[np.int64], seed: int = 0, level: float = 10_000.0) -> Points:
    rng = np.random.default_rng(seed)
    rhythm = 1 + 0.5 * np.sin(2 * np.pi * (ts % DAY) / DAY)
    value = level * rhythm * np.exp(smooth_noise(len(ts), rng, 0.01))
    return Points(ts, np.round(value))


def learned(points: Points, **options: Any) -> Recipe:
    settings_ = {"step_seconds": STEP, "timezone": "UTC", "season": "auto"} | options
    return learn([points], start=int(points.ts[0]), stop=int(points.ts[-1]) + 1, **settings_)


def applied(recipe: Recipe, points: Points, start: int | None = None, stop: int | None = None) -> Prepared:
    start = int(points.ts[0]) if start is None else start
    return apply(recipe, [points], start, int(points.ts[-1]) + 1 if stop is None else stop)


# -- slices -------------------------------------------------------------------------

LONG = players(times())
RECIPES = {
    zone: learned(LONG, timezone=zone, season=season)
    for zone, season in (("UTC", "weekly"), ("Europe/Berlin", "daily"), ("Asia/Kolkata", "none"))
}


@settings(deadline=None, max_examples=60)
@given(
    first=st.integers(0, len(LONG.ts) - 1),
    length=st.integers(1, 900),
    shift=st.integers(-STEP, STEP),
    extra=st.integers(0, 5_000_000),
    zone=st.sampled_from(sorted(RECIPES)),
)
def test_a_prepared_step_does_not_depend_on_the_slice(
    first: int, length: int, shift: int, extra: int, zone: str
) -> None:
    recipe = RECIPES[zone]
    whole = applied(recipe, LONG)
    start = int(LONG.ts[first]) + shift
    stop = start + length * STEP
    seen = (LONG.ts >= start - recipe.context_seconds - extra) & (LONG.ts < stop + STEP)
    part = apply(recipe, [Points(LONG.ts[seen], LONG.value[seen])], start, stop)
    inside = (whole.ts >= start) & (whole.ts < stop)
    same = np.isin(part.ts, whole.ts)
    for name in ("values", "missing", "raw", "baseline", "spread"):
        np.testing.assert_array_equal(getattr(part, name)[same], getattr(whole, name)[inside], err_msg=name)


def test_a_recipe_survives_json() -> None:
    recipe = RECIPES["UTC"]
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    np.testing.assert_array_equal(applied(again, LONG).values, applied(recipe, LONG).values)


def test_learning_ignores_points_outside_its_span() -> None:
    spoiled = LONG.value.copy()
    spoiled[LONG.ts >= START + 4 * WEEK] = 7.0
    spans = {"step_seconds": STEP, "timezone": "UTC", "start": START, "stop": START + 4 * WEEK}
    assert learn([LONG], **spans) == learn([Points(LONG.ts, spoiled)], **spans)


def test_preparing_leaves_its_input_alone() -> None:
    before = LONG.value.copy()
    applied(learned(LONG), LONG)
    np.testing.assert_array_equal(LONG.value, before)


# -- the grid -----------------------------------------------------------------------


def test_a_gap_is_marked_missing_and_holds_zero() -> None:
    keep = np.ones(len(LONG.ts), dtype=bool)
    keep[5_000:5_010] = False
    prepared = applied(RECIPES["UTC"], Points(LONG.ts[keep], LONG.value[keep]))
    assert prepared.missing[5_000:5_010].all()
    assert prepared.missing.sum() == 10
    assert (prepared.values[5_000:5_010] == 0).all()
    assert np.isnan(prepared.raw[5_000:5_010]).all()


@pytest.mark.parametrize(("step", "at"), [(3600, 305), (86_400, 5 * 3600 + 7), (7 * 86_400, 4 * 86_400)])
def test_points_that_keep_to_one_moment_keep_their_times(step: int, at: int) -> None:
    # Mondays are four days into the weeks that the epoch counts, which are no round share of one.
    ts = np.arange(2_900, 3_300, dtype=np.int64) * step + at
    moved = ts.copy()
    moved[7::50] += step // 20
    points = Points(moved, np.random.default_rng(0).normal(size=len(ts)))
    span = {"start": int(ts[0]), "stop": int(ts[-1]) + 1}
    recipe = learn((points,), step_seconds=step, timezone="UTC", season="none", **span)
    prepared = apply(recipe, (points,), int(ts[0]), int(ts[-1]) + 1)
    np.testing.assert_array_equal(prepared.ts, ts)


def test_jittered_timestamps_fall_on_the_grid_of_their_usual_offset() -> None:
    jitter = np.random.default_rng(0).integers(-40, 41, len(LONG.ts))
    for offset in (0, 3, 120, 298):
        late = Points(LONG.ts + offset + jitter, LONG.value)
        recipe = learned(late)
        # Forty seconds either way leave the median of thousands within a hundredth of a step.
        assert min((recipe.offset_seconds - offset) % STEP, (offset - recipe.offset_seconds) % STEP) <= 3
        prepared = applied(recipe, late, START, START + 6 * WEEK + STEP)
        assert np.count_nonzero(~prepared.missing) == len(LONG.ts)


def test_of_two_points_in_one_step_the_last_wins() -> None:
    ts = np.array([START, START + 290, START + 310, START + 600])
    recipe = Recipe(STEP, 0, "UTC", learned(LONG).channels)
    prepared = apply(recipe, [Points(ts, np.array([1.0, 2.0, 3.0, 4.0]))], START, START + 900)
    assert prepared.raw[:, 0].tolist() == [1.0, 3.0, 4.0]


def test_steps_of_a_span_are_those_whose_time_lies_in_it() -> None:
    recipe = RECIPES["UTC"]
    assert apply(recipe, [LONG], START + 1, START + 601).ts.tolist() == [START + 300, START + 600]
    assert len(apply(recipe, [LONG], START, START)) == 0
    assert recipe.time(apply(recipe, [LONG], START, START + 300).start) == START


# -- restoring ----------------------------------------------------------------------


@pytest.mark.parametrize("level", [2.0, 300.0, 1e5, 1e12, 1e-9])
@pytest.mark.parametrize("whole", [True, False])
def test_restoring_what_was_scaled_gives_the_raw_value(level: float, whole: bool) -> None:
    ts = times(3)
    rng = np.random.default_rng(1)
    value = level * (1 + 0.5 * np.sin(2 * np.pi * ts / DAY)) * np.exp(rng.normal(0, 0.05, len(ts)))
    points = Points(ts, rng.poisson(value).astype(float) if whole and 1 < level < 1e6 else value)
    recipe = learned(points)
    prepared = applied(recipe, points)
    back = restore(recipe, prepared, prepared.values, slice(None))
    off = np.abs(back - prepared.raw)
    dither = 0.5 * recipe.channels[0].resolution
    assert off.max() <= dither + 1e-5 * np.abs(prepared.raw).max()


def test_zero_and_negative_values_have_an_image_and_come_back() -> None:
    recipe = learned(LONG)
    assert recipe.channels[0].transform == "log"
    broken = Points(LONG.ts, np.where(LONG.ts > START + 5 * WEEK, -50.0, LONG.value))
    prepared = applied(recipe, broken)
    back = restore(recipe, prepared, prepared.values[-3:], slice(-3, None))
    np.testing.assert_allclose(back, -50.0, atol=1.0)


# -- values -------------------------------------------------------------------------


def test_scaled_values_are_centred_with_spread_one() -> None:
    values = applied(learned(LONG), LONG).values[:, 0]
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    assert abs(middle) < 0.15
    assert (high - low) / 1.349 == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("factor", [1e12, 1e-9, 3.0])
def test_values_of_any_size_give_the_same_scaled_series(factor: float) -> None:
    for points in (LONG, Points(LONG.ts, np.random.default_rng(0).poisson(4.0, len(LONG.ts)).astype(float))):
        scaled = Points(points.ts, points.value * factor)
        one, other = learned(points), learned(scaled)
        assert one.channels[0].transform == other.channels[0].transform
        np.testing.assert_allclose(
            applied(one, points).values, applied(other, scaled).values, rtol=1e-3, atol=2e-3
        )


def test_a_constant_series_survives_and_any_change_is_huge() -> None:
    ts = times(2)
    for level in (0.0, 5.0, 1e12, 1e-9):
        recipe = learned(Points(ts, np.full(len(ts), level)))
        later = Points(ts + 2 * WEEK, np.full(len(ts), level))
        later.value[100] += max(abs(level), 1.0) * 1e-3
        values = applied(recipe, later).values[:, 0]
        assert np.isfinite(values).all()
        assert abs(values[100]) == LIMIT
        assert np.count_nonzero(values) == 1


def test_an_absurd_value_is_clipped_in_silence() -> None:
    ts = times(2)
    recipe = learned(Points(ts, np.zeros(len(ts))))
    values = applied(recipe, Points(ts, np.where(ts == ts[7], 1e300, 0.0))).values[:, 0]
    assert values[7] == LIMIT
    assert np.count_nonzero(values) == 1


def test_a_constant_series_that_moved_once_is_still_constant() -> None:
    ts = times(4)
    value = np.full(len(ts), 5.0)
    value[1_000:1_010] = 8.0
    recipe = learned(Points(ts, value))
    later = Points(ts + 4 * WEEK, np.full(len(ts), 5.0))
    later.value[50] = 6.0
    assert applied(recipe, later).values[50, 0] == LIMIT


def test_ties_are_dithered_and_do_not_collapse() -> None:
    ts = times(2)
    rounded = np.round(np.random.default_rng(0).normal(7, 0.3, len(ts)), 1)
    recipe = learned(Points(ts, rounded))
    assert recipe.channels[0].resolution == pytest.approx(0.1)
    assert len(np.unique(applied(recipe, Points(ts, rounded)).values)) > 0.99 * len(ts)


def test_continuous_values_have_no_resolution() -> None:
    ts = times(2)
    points = Points(ts, np.random.default_rng(0).normal(7, 0.3, len(ts)))
    assert learned(points).channels[0].resolution == 0


def test_the_lattice_is_found_where_no_two_values_are_neighbours() -> None:
    value = np.random.default_rng(0).choice([0.0, 4.0, 10.0], 2_000)
    assert learned(Points(times(2)[:2_000], value)).channels[0].resolution == pytest.approx(2)


def test_the_transform_follows_how_noise_grows_with_level() -> None:
    ts = times(4)
    rng = np.random.default_rng(0)
    rhythm = 1 + 0.7 * np.sin(2 * np.pi * ts / DAY)
    kinds = {
        "identity": 500 * rhythm + rng.normal(0, 10, len(ts)),
        "anscombe": rng.poisson(500 * rhythm).astype(float),
        "log": 500 * rhythm * np.exp(rng.normal(0, 0.05, len(ts))),
    }
    for transform, value in kinds.items():
        assert learned(Points(ts, value)).channels[0].transform == transform
    few = rng.poisson(3.0, len(ts)).astype(float)
    assert learned(Points(ts, few)).channels[0].transform == "anscombe"


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_hardly_any_points_are_handled(n: int) -> None:
    points = Points(START + STEP * np.arange(n, dtype=np.int64), np.arange(n, dtype=float))
    recipe = learn([points], step_seconds=STEP, timezone="UTC", start=START, stop=START + DAY)
    prepared = apply(recipe, [points], START, START + DAY)
    assert np.isfinite(prepared.values).all()
    assert np.count_nonzero(~prepared.missing) == n


def test_infinite_values_read_as_missing() -> None:
    ts = times(2)
    value = np.random.default_rng(0).normal(7, 0.3, len(ts))
    value[[0, 10, -1]] = [np.inf, np.nan, -np.inf]
    prepared = applied(learned(Points(ts, value)), Points(ts, value))
    assert np.flatnonzero(prepared.missing).tolist() == [0, 10, len(ts) - 1]


def test_the_longest_run_of_a_usual_week_is_learned() -> None:
    ts = times(4)
    value = np.random.default_rng(0).normal(7, 0.3, len(ts))
    value[100:124] = 7.0
    value[3_000:3_002] = 6.0
    assert learned(Points(ts, value)).channels[0].usual_flat == 1


# -- season -------------------------------------------------------------------------


def test_a_daily_rhythm_is_removed_and_noise_gets_no_season() -> None:
    assert learned(LONG).channels[0].season == "daily"
    ts = times()
    noise = Points(ts, 100 + smooth_noise(len(ts), np.random.default_rng(0), 1.0))
    assert learned(noise).channels[0].season == "none"


def test_what_happens_every_week_is_season_and_what_happened_once_is_not() -> None:
    ts = times(8)
    points = players(ts)
    dip = ((ts + 3 * DAY) % WEEK >= 2 * DAY + 5 * 3600) & ((ts + 3 * DAY) % WEEK < 2 * DAY + 5 * 3600 + 2_400)
    value = np.where(dip, 0.05 * points.value, points.value).round()
    once = (ts >= START + 7 * WEEK + 9 * DAY // 2) & (ts < START + 7 * WEEK + 9 * DAY // 2 + 1_200)
    value[once] = np.round(0.3 * value[once])
    history = Points(ts[ts < START + 6 * WEEK], value[ts < START + 6 * WEEK])
    recipe = learned(history)
    assert recipe.channels[0].season == "weekly"
    after = applied(recipe, Points(ts, value), START + 6 * WEEK, START + 8 * WEEK)
    usual = np.isin(after.ts, ts[dip])
    assert np.abs(after.values[usual, 0]).max() < 6
    assert after.values[np.isin(after.ts, ts[once]), 0].max() < -15


def test_noise_that_is_louder_every_week_at_the_same_time_is_scaled_down() -> None:
    ts = times(7)
    loud = ((ts + 3 * DAY) % WEEK >= 3 * DAY) & ((ts + 3 * DAY) % WEEK < 3 * DAY + 2_400)
    noise = np.random.default_rng(0).normal(0, 1, len(ts))
    points = Points(ts, 50 + np.where(loud, 12.0, 1.0) * noise)
    recipe = learned(Points(ts[ts < START + 6 * WEEK], points.value[ts < START + 6 * WEEK]))
    assert recipe.channels[0].season == "none"
    prepared = applied(recipe, points)
    assert np.abs(prepared.values[loud, 0]).max() < 8
    assert prepared.values[~loud, 0].std() == pytest.approx(1, abs=0.1)


def test_one_bad_week_does_not_make_its_hours_quiet() -> None:
    ts = times(6)
    value = 50 + np.random.default_rng(0).normal(0, 1, len(ts))
    value[3 * 2016 : 3 * 2016 + 12] += 30
    recipe = learned(Points(ts, value))
    later = Points(ts + 6 * WEEK, value)
    assert applied(recipe, later).values[3 * 2016 : 3 * 2016 + 12, 0].min() > 20


@pytest.mark.parametrize(("weeks", "expected"), [(0.3, "none"), (1.5, "daily"), (6, "weekly")])
def test_a_season_needs_enough_history(weeks: float, expected: str) -> None:
    assert learned(players(times(weeks)), season="weekly").channels[0].season == expected


@pytest.mark.parametrize("change", ["2024-03-31", "2024-10-27"])
@pytest.mark.parametrize("season", ["daily", "weekly"])
def test_a_change_of_the_clock_causes_nothing(change: str, season: str) -> None:
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    middle = int(datetime.fromisoformat(change).replace(tzinfo=UTC).timestamp())
    start = middle - middle % WEEK - 6 * WEEK
    ts = times(8, start)
    zone = ZoneInfo("Europe/Berlin")
    offset = np.array([datetime.fromtimestamp(t, zone).utcoffset().total_seconds() for t in ts.tolist()])  # type: ignore[union-attr]
    local = ts + offset
    rng = np.random.default_rng(0)
    value = 10_000 * (1 + 0.6 * np.sin(2 * np.pi * local / DAY)) * np.exp(rng.normal(0, 0.02, len(ts)))
    value[(local % DAY >= 18_000) & (local % DAY < 20_400)] *= 0.1
    points = Points(ts, np.round(value))
    stop = start + 5 * WEEK
    recipe = learn(
        [points], step_seconds=STEP, timezone="Europe/Berlin", season=season, start=start, stop=stop
    )
    assert recipe.channels[0].season == season
    assert np.abs(applied(recipe, points, stop).values).max() < 6.5


# -- level --------------------------------------------------------------------------


def test_a_shift_of_level_is_absorbed_after_two_days_and_an_outage_of_half_a_day_is_not() -> None:
    ts = times(8)
    value = players(ts).value
    shift, outage = START + 6 * WEEK + DAY, START + 7 * WEEK
    value[ts >= shift] *= 1.15
    in_outage = (ts >= outage) & (ts < outage + DAY // 2)
    value[in_outage] *= 0.8
    points = Points(ts, value.round())
    recipe = learned(Points(ts[ts < shift], points.value[ts < shift]))
    prepared = applied(recipe, points)
    values = prepared.values[:, 0]
    fresh = (ts >= shift) & (ts < shift + DAY // 2)
    old = (ts >= shift + 2 * DAY) & (ts < outage)
    before = (ts >= START + 5 * WEEK) & (ts < shift)
    assert np.median(values[fresh]) > 3
    assert abs(np.median(values[old])) < 0.5
    assert np.median(values[in_outage]) < -5
    expected = np.median(restore(recipe, prepared, np.zeros((len(ts), 1)), slice(None))[in_outage, 0])
    normal = np.median(value[in_outage] / 0.8)
    assert expected == pytest.approx(normal, rel=0.05)
    assert abs(np.median(values[before])) < 0.3


def test_wrong_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="season must be none, daily, weekly or auto, got 'hourly'"):
        learned(LONG, season="hourly")
    with pytest.raises(ValueError, match="no recipe named 'magic'; there are: robust"):
        learned(LONG, recipe="magic")
    with pytest.raises(ValueError, match="expected the points of 1 series, got 2"):
        apply(RECIPES["UTC"], [LONG, LONG], START, START + DAY)


def test_unseen_blocks_are_as_wide_as_the_weeks_that_come_after() -> None:
    rng = np.random.default_rng(5)
    ts = np.arange(0, 8 * 7 * 86400, 900, dtype=np.int64)
    wave = 50 * np.sin(2 * np.pi * ts / 86400) + 30 * np.sin(2 * np.pi * ts / (7 * 86400))
    noise = np.convolve(rng.normal(0, 3, len(ts) + 7), np.full(8, 1 / 8), mode="valid")
    points = [Points(ts, 500 + wave + noise)]
    stop = 6 * 7 * 86400
    recipe = learn(points, step_seconds=900, timezone="UTC", season="weekly", start=0, stop=stop)
    seen = apply(recipe, points, 0, stop)
    fold = (np.arange(len(seen.ts)) // 96) % 5
    learned = [Points(ts[ts < stop], points[0].value[ts < stop])]
    blind = unseen(recipe, learned, learned, seen, fold)
    later = apply(recipe, points, stop, int(ts[-1]) + 1)
    within, without, after = (float(np.std(part.values)) for part in (seen, blind, later))
    assert within < 0.97 * after
    assert without == pytest.approx(after, rel=0.06)


@pytest.mark.parametrize("season", ["none", "daily"])
def test_a_block_is_prepared_by_a_season_a_level_and_a_scale_that_did_not_see_it(season: str) -> None:
    # Six days: too few for a slow trend, which is taken off what is seen and hidden alike.
    calm = players(times(6 / 7))
    fold = np.arange(len(calm.ts)) // 72 % 5
    hidden = fold == 2
    wild = Points(calm.ts, np.where(hidden, 3 * calm.value[::-1] + 5_000, calm.value))
    recipe = learned(calm, season=season)
    # The same kinds for both; what is learned anew are the figures.
    prepared = applied(recipe, wild)
    blind = [unseen(recipe, [points], [points], applied(recipe, points), fold) for points in (calm, wild)]
    for name in ("baseline", "spread"):
        calmly, wildly = (getattr(each, name) for each in blind)
        np.testing.assert_array_equal(wildly[hidden], calmly[hidden])
        assert not np.array_equal(wildly[~hidden], calmly[~hidden])
    assert not np.array_equal(blind[1].values[hidden], prepared.values[hidden])


# -- deviations ---------------------------------------------------------------------


@pytest.mark.parametrize("level", [3.0, 40.0, 10_000.0])
def test_a_deviation_is_the_distance_of_scaled_values(level: float) -> None:
    points = players(times(3), level=level)
    recipe = learned(points)
    prepared = applied(recipe, points)
    rows = slice(500, 900)
    scaled = np.random.default_rng(1).normal(0, 1, (400, 1))
    expected = restore(recipe, prepared, scaled, rows)
    off = deviations(recipe, prepared, expected, rows)
    dither = recipe.channels[0].resolution / 2
    moved = deviations(recipe, prepared, prepared.raw[rows] - dither, rows)
    # What is prepared is dithered by half a step of the lattice at most, what is compared is not.
    assert (np.abs(off - (prepared.values[rows] - scaled)) <= 1.2 * np.abs(moved).max() + 1e-4).all()
    assert recipe.channels[0].transform in {"anscombe", "log", "identity"}


def test_a_deviation_is_unknown_where_either_value_is() -> None:
    points = Points(np.delete(LONG.ts, 700), np.delete(LONG.value, 700))
    recipe = learned(points)
    prepared = applied(recipe, points)
    expected = np.full((3, 1), 10_000.0)
    expected[2] = np.nan
    off = deviations(recipe, prepared, expected, slice(699, 702))
    assert np.isnan(off[:, 0]).tolist() == [False, True, True]


def test_a_huge_deviation_is_clipped_like_a_value() -> None:
    prepared = applied(learned(LONG), LONG)
    off = deviations(learned(LONG), prepared, np.full((1, 1), -1e100), slice(0, 1))
    assert off[0, 0] == LIMIT


@pytest.mark.parametrize(
    ("values", "kinds"),
    [([5.0] * 60, 1), ([0.0, 1.0, np.nan] * 20, 2), ([0.0, 1.0, 2.0] * 20, 3), (np.arange(60.0), 3)],
)
def test_how_many_different_values_a_channel_has_is_learned_up_to_three(
    values: Sequence[float], kinds: int
) -> None:
    ts = np.arange(60, dtype=np.int64) * 900
    recipe = learn([Points(ts, np.array(values))], step_seconds=900, timezone="UTC", start=0, stop=60 * 900)
    assert recipe.channels[0].kinds == kinds
    again = Recipe.from_json(recipe.to_json())
    assert again.channels[0].kinds == kinds
