"""Absence that is a habit is no gap."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.names import Kind
from pipelines.records import Points, Policy
from pipelines.steps import absence, masks, presence
from pipelines.times import DAY, HOUR, WEEK

MONDAY = 4 * DAY + 2000 * WEEK
HALF = HOUR // 2


def shop(n_weeks: int, zone_seconds: int = 0) -> np.ndarray:
    """Return every half hour that a shop is open: Monday to Saturday from 9:00 to 15:30 of its clock."""
    at = np.arange(0, n_weeks * WEEK, HALF)
    is_open = (at % DAY >= 9 * HOUR) & (at % DAY < 16 * HOUR) & (at % WEEK // DAY < 6)
    return MONDAY + at[is_open] - zone_seconds


def gaps(ts: np.ndarray, habit: str, stop: int, timezone: str = "UTC") -> list[tuple[str, int, int]]:
    """Return kind, start and end of what is missing of the last week of points, in hours since its Monday."""
    first = stop - stop % HALF - 2 * WEEK
    grid = np.arange(first, int(ts[-1]) + 1, HALF)
    steps = np.arange(first - WEEK, stop, HALF)
    found = absence.on_grid(
        ~np.isin(grid, ts)[:, None],
        grid,
        [Points(ts, np.ones(len(ts)))],
        Policy(),
        HALF,
        observed_until=stop,
        newest=[int(ts[-1])],
        usual=[presence.excused(habit, steps, ts, timezone, HALF)],
    )
    return [(str(each.kind), (each.start - MONDAY) // HOUR, (each.end - MONDAY) // HOUR) for each in found]


@pytest.mark.parametrize("n_weeks", [2, 3, 6])
def test_nights_and_sundays_of_a_shop_are_no_gaps(n_weeks):
    ts = shop(n_weeks)
    habit = presence.learn(ts, int(ts[0]), MONDAY + n_weeks * WEEK, "UTC", HALF)
    later = shop(n_weeks + 1)
    assert gaps(later, habit, int(later[-1]) + 2 * HOUR) == []


def test_a_shop_is_known_by_its_own_clock():
    ts = shop(3, zone_seconds=9 * HOUR)
    habit = presence.learn(ts, int(ts[0]), int(ts[-1]) + DAY, "Asia/Tokyo", HALF)
    assert presence.words(habit) == "absent Mon-Sat 00:00-09:00, 16:00-24:00; Sun"


def test_a_morning_without_points_is_a_gap_of_the_opening_hours_alone():
    ts = shop(4)
    habit = presence.learn(ts, int(ts[0]), int(ts[-1]), "UTC", HALF)
    closed = MONDAY + 3 * WEEK + 9 * HOUR
    assert gaps(ts[(ts < closed) | (ts >= closed + 2 * HOUR)], habit, int(ts[-1]) + 1) == [
        (str(Kind.DATA_MISSING), 3 * 168 + 9, 3 * 168 + 10)
    ]


def test_a_shop_that_does_not_open_has_stopped_from_its_opening_hour_on():
    ts = shop(4)
    habit = presence.learn(ts, int(ts[0]), int(ts[-1]), "UTC", HALF)
    monday = MONDAY + 4 * WEEK
    assert gaps(ts, habit, monday + 9 * HOUR) == []
    ((kind, start, _),) = gaps(ts, habit, monday + 12 * HOUR)
    assert (kind, start) == (str(Kind.STALE), 4 * 168 + 9)
    ((kind, start, _),) = gaps(ts, habit, monday + 26 * HOUR)  # the next night ends nothing
    assert (kind, start) == (str(Kind.STALE), 4 * 168 + 9)


def test_a_job_that_reports_once_a_night_is_missed_when_it_does_not():
    nights = MONDAY + np.arange(28) * DAY + 3 * HOUR
    habit = presence.learn(nights, int(nights[0]), int(nights[-1]) + DAY, "UTC", 300)
    steps = np.arange(int(nights[20]) - HOUR, int(nights[22]) + HOUR, 300)
    skipped = np.delete(nights, 21)
    left = steps[~masks.within(steps, presence.excused(habit, steps, skipped, "UTC", 300))]
    assert left[~np.isin(left, nights)].min() > nights[21] - 1
    assert left.max() < nights[21] + HALF


def test_an_outage_of_days_makes_no_habit():
    at = MONDAY + np.arange(0, 3 * WEEK, HALF)
    out = (at >= MONDAY + WEEK) & (at < MONDAY + WEEK + 3 * DAY)
    assert presence.learn(at[~out], int(at[0]), int(at[-1]), "UTC", HALF) == ""


def test_two_weeks_are_the_least_that_a_habit_takes():
    ts = shop(1)
    assert presence.learn(ts, int(ts[0]), MONDAY + 10 * DAY, "UTC", HALF) == ""


def test_a_series_that_is_always_there_has_no_habit():
    at = MONDAY + np.arange(0, 3 * WEEK, 300)
    habit = presence.learn(at, int(at[0]), int(at[-1]), "UTC", 300)
    assert habit == presence.words(habit) == ""
    assert presence.excused(habit, at, at, "UTC", 300) == []


def test_a_market_has_no_points_on_weekends():
    days = MONDAY + np.array([d for d in range(56) if d % 7 < 5]) * DAY
    habit = presence.learn(days, int(days[0]), int(days[-1]), "UTC", DAY)
    assert presence.words(habit) == "absent Sat-Sun"


def test_a_series_that_came_for_a_day_and_weeks_later_again_has_no_habit() -> None:
    day = np.arange(20) * HOUR
    start, stop = MONDAY, MONDAY + 24 * DAY
    assert presence.learn(start + day, start, stop, "UTC", HOUR) == ""
    assert (
        presence.learn(np.concatenate([start + day, stop - 20 * HOUR + day]), start, stop, "UTC", HOUR) == ""
    )
