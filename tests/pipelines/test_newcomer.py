"""What is known of a series that has hardly any history: the rhythm of its group, in its own size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.records import Points
from pipelines.steps import newcomer, prepare
from pipelines.steps.newcomer import Usual
from pipelines.steps.recipe import ChannelRecipe, Recipe
from pipelines.times import DAY

STEP = 600
START = 20_000 * DAY
GRID = {"step_seconds": STEP, "timezone": "UTC"}
NOISE = 3.0


def series(seed: int, days: float, *, size: float = 1.0, phase: float = 0.0) -> Points:
    """Return a daily rhythm around 100 with normal noise of 3, times a size."""
    ts = np.arange(START, START + int(days * DAY), STEP)
    noise = np.random.default_rng(seed).normal(0, NOISE, len(ts))
    return Points(ts, size * (100 + 40 * np.sin(2 * np.pi * ts / DAY + phase) + noise))


def learned(points: Points, days: float = 28.0) -> ChannelRecipe:
    recipe = prepare.learn([points], season="daily", start=START, stop=START + int(days * DAY), **GRID)
    return recipe.channels[0]


@pytest.fixture(scope="module")
def usual() -> Usual:
    return Usual.of([learned(series(seed, 28)) for seed in range(5)])


def lent(points: Points, usual: Usual, days: float = 28.0) -> Recipe:
    return newcomer.learn(
        [points], [usual], season="daily", start=START, stop=START + int(days * DAY), **GRID
    )


def test_what_is_usual_is_the_middle_of_the_members() -> None:
    members = [ChannelRecipe(center=float(k), scale=float(2**k), usual_flat=k) for k in range(5)]
    odd = ChannelRecipe(transform="anscombe", center=1e9, scale=1e9)
    found = Usual.of([odd, *members]).recipe
    assert (found.transform, found.center) == ("identity", 2.0)
    assert found.scale == pytest.approx(4.0)
    assert found.season == "none"


def test_members_that_differ_say_less_of_a_newcomer() -> None:
    like = Usual.of([ChannelRecipe(scale=s) for s in (1.0, 1.1, 0.9, 1.0)])
    unlike = Usual.of([ChannelRecipe(scale=s) for s in (0.1, 1.0, 10.0, 1.0)])
    one = Usual.of([ChannelRecipe()])
    assert like.doubt < unlike.doubt
    assert like.doubt < one.doubt == newcomer.GROUP_DOUBT


@pytest.mark.parametrize("size", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("days", [0.5, 2.0, 6.0])
def test_half_a_day_tells_the_size_of_a_series_that_shares_the_rhythm(
    usual: Usual, size: float, days: float
) -> None:
    points = series(9, days, size=size)
    channel = lent(points, usual).channels[0]
    assert channel.season == "daily"
    assert channel.scale == pytest.approx(size * NOISE, rel=0.35)
    assert channel.center == pytest.approx(size * 100, rel=0.1)
    rest = prepare.apply(lent(points, usual), [points], START, int(points.ts[-1]) + 1).values
    assert np.quantile(np.abs(rest), 0.99) < 8


def test_few_points_that_lie_close_together_are_not_believed_and_those_far_apart_are() -> None:
    level = Usual.of([ChannelRecipe(scale=NOISE) for _ in range(5)])
    shape = np.array([0.0, 1.1, -0.7, 0.4, -1.2, 0.6])
    scales = {
        (size, times): lent(
            Points(START + STEP * np.arange(6 * times), 100 + size * np.tile(shape, times)), level
        )
        .channels[0]
        .scale
        for size in (0.5, 1.0, 30.0)
        for times in (1, 20)
    }
    assert 1.0 < scales[0.5, 1] < scales[1.0, 1] < NOISE
    assert scales[0.5, 20] == pytest.approx(0.5, rel=0.3)
    assert scales[30.0, 1] == pytest.approx(30, rel=0.3)


def test_a_size_plainly_smaller_is_believed(usual: Usual) -> None:
    channel = lent(series(9, 3, size=1e-4), usual).channels[0]
    assert channel.scale == pytest.approx(1e-4 * NOISE, rel=0.35)


def test_a_series_that_never_moved_takes_the_spread_of_its_group(usual: Usual) -> None:
    whole = series(9, 0.5)
    channel = lent(Points(whole.ts, np.full(len(whole.ts), 100.0)), replace(usual).without_rhythm())
    assert channel.channels[0].scale == usual.without_rhythm().recipe.scale
    assert channel.channels[0].center == 100.0


def test_a_series_without_a_point_takes_everything_from_its_group(usual: Usual) -> None:
    nothing = Points(np.empty(0, dtype=np.int64), np.empty(0))
    assert lent(nothing, usual).channels == (usual.recipe,)


def test_a_series_with_another_rhythm_takes_none_and_is_as_wide_as_it_moves(usual: Usual) -> None:
    channel = lent(series(9, 1.5, phase=np.pi), usual).channels[0]
    assert channel.season == channel.spread_season == "none"
    assert channel.scale == pytest.approx(40 / np.sqrt(2), rel=0.5)


def test_from_a_week_on_a_series_is_learned_alone(usual: Usual) -> None:
    week = series(9, 7.0, phase=np.pi)
    assert lent(week, usual).channels[0] == learned(week)
    less = Points(week.ts[:-1], week.value[:-1])
    assert lent(less, usual).channels[0] != learned(less)


@pytest.mark.parametrize("transform", ["log", "anscombe"])
def test_a_newcomer_takes_the_transform_of_its_group_where_its_values_allow(transform: str) -> None:
    usual = Usual.of([ChannelRecipe(transform=transform, scale=0.1, floor=1.0, resolution=1.0)])
    ts = np.arange(START, START + DAY, STEP)
    value = np.random.default_rng(0).poisson(500, len(ts)).astype(np.float64)
    found = lent(Points(ts, value), usual).channels[0]
    assert found.transform == transform
    assert lent(Points(ts, -value - 0.123 * np.arange(len(ts))), usual).channels[0].transform == "identity"
    back = lent(Points(ts, value), usual)
    prepared = prepare.apply(back, [Points(ts, value)], START, START + DAY)
    np.testing.assert_allclose(
        prepare.restore(back, prepared, prepared.values, slice(None))[:, 0], value, atol=0.6
    )
