"""Trends that only go on are no anomalies; that they stop is one."""

from __future__ import annotations

import numpy as np

from pipelines.records import Points
from pipelines.steps import prepare
from pipelines.steps.recipe import Recipe

STEP = 600
N = 4_000
AT = np.arange(N) * STEP


def learned(values: np.ndarray, n: int = N // 2) -> Recipe:
    points = [Points(AT[:n], values[:n].astype(float))]
    return prepare.learn(points, step_seconds=STEP, timezone="UTC", season="none", start=0, stop=n * STEP)


def scaled(recipe: Recipe, values: np.ndarray) -> np.ndarray:
    points = [Points(AT, values.astype(float))]
    return prepare.apply(recipe, points, 0, N * STEP).values[:, 0]


def test_a_number_that_counts_up_is_expected_to_count_on():
    recipe = learned(np.arange(N))
    assert recipe.channels[0].slope * STEP == 1.0
    assert not prepare.odd_steps(scaled(recipe, np.arange(N))[:, None]).any()


def test_a_disk_that_fills_is_normal_for_weeks_after_it_was_learned():
    rng = np.random.default_rng(1)
    disk = 100 + 0.01 * np.arange(N) + rng.normal(0, 0.5, N)
    assert prepare.odd_steps(scaled(learned(disk), disk)[:, None])[N // 2 :].mean() < 0.1


def test_where_a_steady_trend_stops_values_are_odd():
    values = np.minimum(np.arange(N), N // 2 + 100)
    odd = prepare.odd_steps(scaled(learned(values), values)[:, None])
    assert not odd[: N // 2 + 100].any()
    assert odd[N // 2 + 110 : N // 2 + 150].all()


def test_what_is_expected_of_a_trend_stands_in_its_own_unit():
    recipe, points = learned(np.arange(N)), [Points(AT, np.arange(N, dtype=float))]
    prepared = prepare.apply(recipe, points, 0, N * STEP)
    np.testing.assert_allclose(prepare.usual(recipe, prepared)[:, 0], np.arange(N), atol=1.0)


def test_a_decay_a_step_and_a_level_that_wanders_are_no_steady_trends():
    rng = np.random.default_rng(2)
    for values in (
        1000 / (1 + np.arange(N) / 100),
        np.where(np.arange(N) < N // 4, 0.0, 50.0) + rng.normal(0, 1, N),
        np.cumsum(rng.normal(0, 1, N)),
        rng.normal(0, 1, N),
    ):
        assert learned(values).channels[0].slope == 0.0
