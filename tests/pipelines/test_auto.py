"""What is learned of a series before its models are chosen: what comes again, and whether it drifts."""

import numpy as np
import pytest

from pipelines.workers import auto

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


def test_what_even_the_quieter_quarter_of_the_newest_part_exceeds_is_its_drift():
    assert auto.drift(np.array([0.0, 1.0, np.nan, 2.0, 3.0, 4.0])) == 1.0
    assert auto.drift(np.full(3, np.nan)) == auto.drift(np.empty(0)) == 0.0


def test_an_incident_in_the_newest_part_is_no_drift():
    assert auto.drift(np.append(np.zeros(40), np.full(60, 9.0))) < auto.DRIFTING


def test_the_window_that_tells_a_drift_is_the_longest_that_there_is_enough_of():
    assert [auto.drift_probe(5000, longest).params["window"] for longest in (10, 99, 100, 500)] == [
        24,
        24,
        100,
        100,
    ]
