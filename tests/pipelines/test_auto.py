"""Habits: what is odd without a season and comes again at its time of day or week."""

import numpy as np
import pytest

from pipelines import auto

HOUR = 3600
WEEKS = 6


def scores(at, height=10.0, n_weeks=WEEKS, seed=0):
    """Hourly scores of noise, high at the steps given."""
    found = np.random.default_rng(seed).random(n_weeks * 168)
    found[at] = height
    return found


def test_what_comes_every_week_is_a_habit():
    thursdays = 80 + 168 * np.arange(WEEKS)
    assert auto.habit(scores(np.concatenate([thursdays, thursdays + 1])), HOUR) > auto.RECURRING


def test_what_comes_every_day_is_a_habit():
    assert auto.habit(scores(6 + 24 * np.arange(7 * WEEKS)), HOUR) > auto.RECURRING


def test_what_happens_once_is_none():
    assert auto.habit(scores(np.arange(400, 410)), HOUR) < 0.3


def test_incidents_at_any_time_are_none():
    at = np.random.default_rng(1).choice(WEEKS * 168, 10, replace=False)
    assert auto.habit(scores(at), HOUR) < 0.5


def test_a_habit_may_come_a_little_early_or_late():
    step = 600
    week = 1008
    at = 300 + week * np.arange(WEEKS) + 5 * (np.arange(WEEKS) % 2)
    found = np.random.default_rng(0).random(WEEKS * week)
    for shift in range(10):
        found[at + shift] = 10.0
    assert auto.habit(found, step) > auto.RECURRING


@pytest.mark.parametrize("n", [0, 5, 24])
def test_a_short_history_says_nothing(n):
    assert auto.habit(np.arange(float(n)), HOUR) == 0.0


def test_no_score_says_nothing():
    assert auto.habit(np.full(500, np.nan), HOUR) == 0.0


def test_scores_that_are_missing_are_no_habit_and_hide_none():
    thursdays = 80 + 168 * np.arange(WEEKS)
    found = scores(np.concatenate([thursdays, thursdays + 1]))
    found[:50] = np.nan
    assert auto.habit(found, HOUR) > auto.RECURRING


def test_days_are_too_few_steps_for_daily_points():
    assert auto.habit(np.random.default_rng(0).random(400), 86_400) < auto.RECURRING


def test_scores_that_never_move_are_no_habit():
    assert auto.habit(np.ones(WEEKS * 168), HOUR) == 0.0
