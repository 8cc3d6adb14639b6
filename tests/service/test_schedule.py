"""When nights, fits and ticks fall."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_service.daemon.schedule import DueRun, MonitorSchedule, due, night, tick_slot
from pipelines.jobs.fit_times import fit_slots, nights
from pipelines.monitor import MonitorSpec, NightlyPlan
from pipelines.names import RunKind

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86400
SPEC = MonitorSpec(name="players", selector={"metric": ["ccu"]})


def epoch(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def test_a_night_comes_once_each_local_day_through_both_clock_changes() -> None:
    plan = NightlyPlan(at_seconds=3 * 3600 + 900, timezone="Europe/Berlin")
    found = nights(plan, epoch("2024-01-01T00:00+01:00"), epoch("2025-01-01T00:00+01:00"))
    local = [datetime.fromtimestamp(ts, BERLIN) for ts in found]
    assert len({at.date() for at in local}) == len(found) == 366
    assert {(at.hour, at.minute) for at in local} == {(3, 15)}
    assert {b - a for a, b in itertools.pairwise(found)} == {23 * 3600, DAY, 25 * 3600}


def test_a_night_in_the_skipped_hour_falls_an_hour_later() -> None:
    plan = NightlyPlan(at_seconds=2 * 3600 + 1800, timezone="Europe/Berlin")
    assert nights(plan, epoch("2024-03-31T00:00Z"), epoch("2024-03-31T12:00Z")) == [
        epoch("2024-03-31T03:30+02:00")
    ]


def test_of_a_night_that_comes_twice_the_first_counts() -> None:
    plan = NightlyPlan(at_seconds=2 * 3600 + 1800, timezone="Europe/Berlin")
    assert nights(plan, epoch("2024-10-27T00:00Z"), epoch("2024-10-27T12:00Z")) == [
        epoch("2024-10-27T02:30+02:00")
    ]


times = st.integers(epoch("2020-01-01T00:00Z"), epoch("2030-01-01T00:00Z"))
zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Seoul", "America/St_Johns", "Pacific/Kiritimati"])
plans = st.builds(NightlyPlan, at_seconds=st.integers(0, DAY - 1), timezone=zones)


@given(plan=plans, start=times, days=st.integers(0, 20), cut=st.floats(0, 1), every=st.integers(1, 9 * DAY))
def test_the_slots_of_a_span_are_those_of_its_halves(
    plan: NightlyPlan, start: int, days: int, cut: float, every: int
) -> None:
    spec = MonitorSpec(name="m", selector={}, fit_every_seconds=every, nightly=plan)
    stop = start + days * DAY
    middle = start + int(cut * days * DAY)
    assert nights(plan, start, stop) == nights(plan, start, middle) + nights(plan, middle, stop)
    whole = fit_slots(spec, "ccu{a=1}", start, stop)
    assert whole == fit_slots(spec, "ccu{a=1}", start, middle) + fit_slots(spec, "ccu{a=1}", middle, stop)
    assert set(whole) <= set(nights(plan, start, stop))


def test_staggered_fits_come_weekly_and_spread_the_targets_over_the_nights() -> None:
    start = epoch("2024-06-03T00:00Z")
    first = [fit_slots(SPEC, f"ccu{{id={i}}}", start, start + 7 * DAY) for i in range(700)]
    assert all(len(slots) == 1 for slots in first)
    nightly = [
        sum(slots == [night] for slots in first) for night in nights(SPEC.nightly, start, start + 7 * DAY)
    ]
    assert sum(nightly) == 700
    assert min(nightly) > 60


def test_without_stagger_all_targets_are_fitted_on_one_night() -> None:
    spec = MonitorSpec(name="m", selector={}, stagger=False)
    start = epoch("2024-06-03T00:00Z")
    assert len({tuple(fit_slots(spec, f"k{i}", start, start + 21 * DAY)) for i in range(50)}) == 1


def test_a_fit_more_often_than_daily_happens_every_night() -> None:
    spec = MonitorSpec(name="m", selector={}, fit_every_seconds=3600)
    start = epoch("2024-06-03T00:00Z")
    assert fit_slots(spec, "k", start, start + 5 * DAY) == nights(spec.nightly, start, start + 5 * DAY)


@pytest.mark.parametrize("text", ["1969-12-01T00:00Z", "2038-02-01T00:00Z"])
def test_nights_exist_before_1970_and_after_2038(text: str) -> None:
    start = epoch(text)
    assert len(nights(NightlyPlan(), start, start + 3 * DAY)) == 3
    assert datetime.fromtimestamp(nights(NightlyPlan(), start, start + DAY)[0], UTC).hour == 3


MONITOR = MonitorSchedule.of(1, SPEC)
NOON = datetime(2024, 6, 5, 12, 2, 30, tzinfo=UTC)


def run(kind: RunKind, text: str, monitor: int = 1) -> DueRun:
    return DueRun(datetime.fromisoformat(text), monitor, kind)


def test_at_the_first_start_the_last_night_comes_before_the_tick() -> None:
    assert due([MONITOR], {}, NOON) == [
        run(RunKind.NIGHTLY, "2024-06-05T03:15Z"),
        run(RunKind.TICK, "2024-06-05T12:00Z"),
    ]


def test_what_was_scheduled_is_not_due_again_until_its_next_slot() -> None:
    last = {(each.kind, 1): each.scheduled_for for each in due([MONITOR], {}, NOON)}
    assert due([MONITOR], last, NOON.replace(minute=4)) == []
    assert due([MONITOR], last, NOON.replace(minute=5)) == [run(RunKind.TICK, "2024-06-05T12:05Z")]


def test_days_of_downtime_are_caught_up_by_one_night_and_one_tick() -> None:
    last = {(kind, 1): datetime(2024, 5, 1, tzinfo=UTC) for kind in RunKind}
    assert due([MONITOR], last, NOON) == due([MONITOR], {}, NOON)


def test_a_clock_that_goes_back_makes_nothing_due() -> None:
    last = {(each.kind, 1): each.scheduled_for for each in due([MONITOR], {}, NOON)}
    assert due([MONITOR], last, datetime(2024, 6, 1, tzinfo=UTC)) == []


def test_runs_of_many_monitors_come_in_order_of_time() -> None:
    hourly = MonitorSchedule(2, "hourly", 3600, NightlyPlan(at_seconds=23 * 3600))
    found = due([hourly, MONITOR], {}, NOON)
    assert [each.scheduled_for for each in found] == sorted(each.scheduled_for for each in found)
    assert run(RunKind.NIGHTLY, "2024-06-04T23:00Z", 2) == found[0]


@given(plan=plans, at=times, every=st.integers(1, 2 * DAY))
def test_newest_slots_are_never_in_the_future_nor_long_past(plan: NightlyPlan, at: int, every: int) -> None:
    monitor = MonitorSchedule(1, "m", every, plan)
    now = datetime.fromtimestamp(at, UTC)
    assert 0 <= at - tick_slot(monitor, now).timestamp() < every
    assert 0 <= at - night(monitor, now).timestamp() <= 49 * 3600
