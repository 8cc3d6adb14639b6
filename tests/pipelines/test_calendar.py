"""When known regimes are: workdays, weekends, and what a calendar names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from pipelines.monitor import MonitorSpec, Period
from pipelines.records import Points
from pipelines.steps import prepare, regimes
from pipelines.steps.recipe import Recipe
from pipelines.steps.regimes import of_steps

HOUR = 3600
KNOWN = ("workday", "weekend", "maintenance", "patch")
TUESDAY = Period("maintenance", every="FREQ=WEEKLY;BYDAY=TU;BYHOUR=6", lasts_seconds=3 * HOUR)
PATCH = Period(
    "patch",
    spans=(("2025-03-11T07:00", "2025-03-11T08:00"), ("2025-03-13T22:00", "2025-03-14T01:00")),
)


def hours(first: str, n: int, timezone: str = "UTC") -> np.ndarray:
    start = datetime.fromisoformat(first).replace(tzinfo=ZoneInfo(timezone)).timestamp()
    return int(start) + HOUR * np.arange(n)


def told(ts: np.ndarray, timezone: str = "UTC", *calendar: Period) -> list[str]:
    return [KNOWN[at] for at in of_steps(ts, timezone, KNOWN, calendar)]


def test_saturday_and_sunday_are_the_weekend_by_the_clock_of_the_series() -> None:
    week = hours("2025-03-10T00:00", 7 * 24)
    assert told(week) == ["workday"] * 120 + ["weekend"] * 48
    seoul = hours("2025-03-14T12:00", 6)
    assert told(seoul, "Asia/Seoul") == ["workday"] * 3 + ["weekend"] * 3


def test_a_rule_is_of_the_calendar_s_clock_and_lasts_as_long_as_it_says() -> None:
    day = hours("2025-03-11T00:00", 24)
    assert told(day, "UTC", TUESDAY) == ["workday"] * 6 + ["maintenance"] * 3 + ["workday"] * 15
    in_berlin = replace(TUESDAY, timezone="Europe/Berlin")
    assert told(day, "America/New_York", in_berlin).index("maintenance") == 5


def test_without_a_clock_of_its_own_a_rule_is_of_the_series_clock_also_in_summer() -> None:
    for first in ("2025-03-25T00:00", "2025-04-01T00:00"):
        local = hours(first, 24, "Europe/Berlin")
        assert told(local, "Europe/Berlin", TUESDAY).index("maintenance") == 6


def test_spans_are_half_open_and_may_cross_midnight() -> None:
    found = told(hours("2025-03-13T20:00", 8), "UTC", PATCH)
    assert found == ["workday"] * 2 + ["patch"] * 3 + ["workday"] * 3


def test_of_two_at_a_time_the_later_one_of_the_calendar_counts() -> None:
    morning = hours("2025-03-11T06:00", 3)
    assert told(morning, "UTC", TUESDAY, PATCH) == ["maintenance", "patch", "maintenance"]
    assert told(morning, "UTC", PATCH, TUESDAY) == ["maintenance"] * 3


def test_a_regime_that_a_version_does_not_know_is_what_the_day_is() -> None:
    morning = hours("2025-03-11T06:00", 3)
    assert of_steps(morning, "UTC", KNOWN[:3], [PATCH]).tolist() == [0, 0, 0]
    assert of_steps(morning, "UTC", (), [PATCH]).tolist() == [0, 0, 0]
    assert len(of_steps(morning[:0], "UTC", KNOWN, [TUESDAY])) == 0


@pytest.mark.parametrize(
    ("rule", "begins"),
    [
        ("FREQ=DAILY;BYHOUR=4", ["2024-12-30T04:00", "2024-12-31T04:00", "2025-01-01T04:00"]),
        ("FREQ=WEEKLY", ["2024-12-30T00:00", "2025-01-06T00:00"]),
        ("FREQ=MONTHLY", ["2025-01-01T00:00"]),
        ("FREQ=MONTHLY;BYDAY=2TU;BYHOUR=18", ["2025-01-14T18:00"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=WE", ["2025-01-08T00:00"]),
    ],
)
def test_rules_begin_where_a_person_would_say(rule: str, begins: list[str]) -> None:
    ts = hours("2024-12-30T00:00", 16 * 24)
    found = told(ts, "UTC", Period("patch", every=rule, lasts_seconds=HOUR))
    at = [
        f"{datetime.fromtimestamp(t, UTC):%Y-%m-%dT%H:%M}"
        for t, name in zip(ts, found, strict=True)
        if name == "patch"
    ]
    assert at[: len(begins)] == begins


def test_a_moment_s_regime_does_not_depend_on_what_is_asked_with_it() -> None:
    ts = hours("2024-12-20T00:00", 30 * 24, "Europe/Berlin")
    long = Period("maintenance", every="FREQ=WEEKLY;BYDAY=SU;BYHOUR=20", lasts_seconds=40 * HOUR)
    whole = of_steps(ts, "Europe/Berlin", KNOWN, [long, PATCH])
    assert (whole == 2).sum() > 100
    for first in range(0, len(ts) - 5, 5):
        part = of_steps(ts[first : first + 5], "Europe/Berlin", KNOWN, [long, PATCH])
        assert part.tolist() == whole[first : first + 5].tolist()


def test_a_new_version_knows_every_name_of_the_calendar_once() -> None:
    again = Period("patch", every="FREQ=MONTHLY", lasts_seconds=HOUR)
    assert regimes.names() == ("workday", "weekend")
    assert regimes.names([PATCH, TUESDAY, again, Period("weekend")]) == KNOWN


def test_a_monitor_s_calendar_is_for_the_series_it_selects_and_survives_the_store() -> None:
    europe = replace(PATCH, selector={"region": ["eu"], "metric": ["ccu"]})
    spec = MonitorSpec("m", {}, calendar=(TUESDAY, europe))
    assert spec.calendar_of({"metric": "ccu", "region": "eu"}) == (TUESDAY, europe)
    assert spec.calendar_of({"metric": "ccu", "region": "kr"}) == (TUESDAY,)
    assert MonitorSpec.from_json(spec.to_json()) == spec


def test_prepare_brings_the_regimes_that_its_recipe_knows() -> None:
    ts = hours("2025-03-03T00:00", 14 * 24)
    points = [Points(ts, np.random.default_rng(0).normal(size=len(ts)))]
    start, stop = int(ts[0]), int(ts[-1]) + 1
    recipe = prepare.learn(points, step_seconds=HOUR, timezone="UTC", start=start, stop=stop, regimes=KNOWN)
    assert Recipe.from_json(recipe.to_json()) == recipe
    found = prepare.apply(recipe, points, start, stop, [TUESDAY])
    assert [KNOWN[at] for at in found.regime] == told(ts, "UTC", TUESDAY)
    plain = prepare.learn(points, step_seconds=HOUR, timezone="UTC", start=start, stop=stop)
    assert not prepare.apply(plain, points, start, stop, [TUESDAY]).regime.any()
