"""When nights, fits and ticks fall."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_service.daemon.schedule import (
    DueRead,
    DueRun,
    Key,
    LastRuns,
    MonitorSchedule,
    Plan,
    SourceSchedule,
    due_reads,
    night,
    outlook,
    plan,
    read_slot,
    sources_read,
    tick_slot,
)
from pipelines.jobs.fit_times import fit_slots, nights
from pipelines.monitor import MonitorSpec, NightlyPlan
from pipelines.names import RunKind
from pipelines.records import LastRead, SeriesSpec

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86400
SPEC = MonitorSpec("players", {"metric": ["ccu"]}, fit_every_seconds=7 * DAY, stagger=True)


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


def due(monitors: list[MonitorSchedule], last: LastRuns, now: datetime) -> list[DueRun]:
    """Return what is due of monitors that wait for no source."""
    found = outlook(Plan(tuple(monitors)), last, {}, now)
    assert not found.held
    return found.due


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
    assert 0 <= at - read_slot(SourceSchedule("files", every), now).timestamp() < every


# -- sources ----------------------------------------------------------------------------


def at(text: str) -> datetime:
    """Return a time of the day of all these tests."""
    return datetime.fromisoformat(f"2024-06-05T{text}Z")


def ended(text: str) -> LastRead:
    return LastRead(at(text), at(text))


FILES = SourceSchedule("files", 300)
READER = MonitorSchedule.of(1, SPEC, ["files"])


def ahead(
    now: str,
    reads: Mapping[str, LastRead],
    held: Mapping[Key, datetime] | None = None,
    *,
    last: str = "11:55",
    monitor: MonitorSchedule = READER,
    sources: tuple[SourceSchedule, ...] = (FILES,),
) -> tuple[list[str], dict[Key, datetime]]:
    """Return the ticks that are due by time of day, and what waits; the night was done."""
    done = {(RunKind.TICK, 1): at(last), (RunKind.NIGHTLY, 1): at("11:00")}
    found = outlook(Plan((monitor,), sources), done, reads, at(now), held)
    return [f"{each.scheduled_for:%H:%M}" for each in found.due], found.held


def test_at_the_first_start_a_source_is_read_and_the_monitors_wait_for_it() -> None:
    found = due_reads([FILES], {}, NOON)
    assert found == [DueRead(at("12:00"), "files")]
    waiting = outlook(Plan((READER,), (FILES,)), {}, {}, NOON)
    assert (waiting.due, set(waiting.held)) == ([], {(RunKind.TICK, 1), (RunKind.NIGHTLY, 1)})
    after = outlook(Plan((READER,), (FILES,)), {}, {"files": ended("12:00")}, NOON, waiting.held)
    assert [each.kind for each in after.due] == [RunKind.NIGHTLY, RunKind.TICK]
    assert after.held == {}


def test_a_tick_comes_once_its_source_was_tried_whether_well_or_not() -> None:
    assert ahead("12:00:01", {"files": ended("11:55")})[0] == []
    at_work = LastRead(at("12:00"), at("11:55"), is_pending=True)
    assert ahead("12:00:01", {"files": at_work})[0] == []
    tried_again = LastRead(at("12:00"), at("12:00"), is_pending=True)
    assert ahead("12:00:01", {"files": tried_again})[0] == ["12:00"]
    assert ahead("12:00:01", {"files": ended("12:00")})[0] == ["12:00"]


def test_a_tick_waits_for_all_of_its_sources_and_for_no_other() -> None:
    sources = (FILES, SourceSchedule("more", 300), SourceSchedule("other", 300))
    both = MonitorSchedule.of(1, SPEC, ["files", "more"])
    reads = {"files": ended("12:00"), "more": ended("11:55"), "other": ended("11:00")}
    assert ahead("12:00:01", reads, monitor=both, sources=sources)[0] == []
    reads["more"] = ended("12:00")
    assert ahead("12:00:01", reads, monitor=both, sources=sources)[0] == ["12:00"]


def test_a_source_that_hangs_holds_up_its_monitors_for_one_interval_at_a_time() -> None:
    hangs = {"files": LastRead(at("12:00"), at("11:55"), is_pending=True)}
    due_at: list[tuple[str, list[str]]] = []
    held: dict[Key, datetime] = {}
    last = "11:55"
    for now in ("12:00:02", "12:04:59", "12:05:02", "12:05:03", "12:10:03", "12:10:04", "12:15:04"):
        ticks, held = ahead(now, hangs, held, last=last)
        last = ticks[-1] if ticks else last
        due_at.append((now, ticks))
    assert [(now, ticks) for now, ticks in due_at if ticks] == [
        ("12:05:02", ["12:00"]),
        ("12:10:03", ["12:05"]),
        ("12:15:04", ["12:10"]),
    ]
    # Once it answers, what it brought is scored at once.
    assert ahead("12:17", {"files": ended("12:15")}, held, last="12:10")[0] == ["12:15"]


def test_a_night_waits_for_its_sources_too_and_for_one_interval_at_most() -> None:
    done = {(RunKind.TICK, 1): at("03:15"), (RunKind.NIGHTLY, 1): at("03:15") - timedelta(days=1)}

    def nights_due(now: str, tried: str, held: Mapping[Key, datetime]) -> list[DueRun]:
        found = outlook(Plan((READER,), (FILES,)), done, {"files": ended(tried)}, at(now), held)
        return [each for each in found.due if each.kind is RunKind.NIGHTLY]

    since = {(RunKind.NIGHTLY, 1): at("03:15:01")}
    assert nights_due("03:15:03", "03:10", since) == []
    assert nights_due("03:15:03", "03:15", since) == [run(RunKind.NIGHTLY, "2024-06-05T03:15Z")]
    assert nights_due("03:20:01", "03:10", since) == [run(RunKind.NIGHTLY, "2024-06-05T03:15Z")]


def test_ticks_do_not_wait_for_the_next_read_of_a_source_that_is_read_rarely() -> None:
    hourly = (SourceSchedule("files", 3600),)
    assert ahead("12:05:01", {"files": ended("12:00")}, last="12:00", sources=hourly)[0] == ["12:05"]
    assert ahead("13:00:01", {"files": ended("12:00")}, last="12:55", sources=hourly)[0] == []
    assert ahead("13:00:09", {"files": ended("13:00")}, last="12:55", sources=hourly)[0] == ["13:00"]


def test_ticks_do_not_starve_where_a_read_takes_longer_than_it_is_apart_from_the_next() -> None:
    often = (SourceSchedule("files", 60),)
    assert ahead("12:02:30", {"files": ended("12:01")}, sources=often)[0] == ["12:00"]


def test_a_read_by_command_counts_as_one() -> None:
    by_command = {"files": LastRead(at("12:01:40"), at("12:01:40"))}
    assert ahead("12:02", by_command)[0] == ["12:00"]
    assert due_reads([FILES], by_command, at("12:02")) == []
    assert due_reads([FILES], by_command, at("12:05")) == [DueRead(at("12:05"), "files")]


def test_a_source_that_hung_for_hours_is_read_once_when_it_answers() -> None:
    hangs = LastRead(at("09:00"), at("08:55"), is_pending=True)
    assert due_reads([FILES], {"files": hangs}, NOON) == []
    assert due_reads([FILES], {"files": ended("09:00")}, NOON) == [DueRead(at("12:00"), "files")]


def test_weeks_of_downtime_are_caught_up_by_one_read_one_night_and_one_tick() -> None:
    long_ago = datetime(2024, 5, 1, tzinfo=UTC)
    reads = {"files": LastRead(long_ago, long_ago)}
    assert due_reads([FILES], reads, NOON) == [DueRead(at("12:00"), "files")]
    last = {(kind, 1): long_ago for kind in RunKind}
    waiting = outlook(Plan((READER,), (FILES,)), last, reads, NOON)
    assert waiting.due == []
    found = outlook(Plan((READER,), (FILES,)), last, {"files": ended("12:00")}, NOON, waiting.held)
    assert found.due == due([MONITOR], {}, NOON)


def series_of(source: str, metric: str) -> SeriesSpec:
    return SeriesSpec(metric, {}, 300, source=source)


def test_a_monitor_reads_the_sources_of_its_series_and_those_that_have_none_yet() -> None:
    series = [series_of("files", "ccu"), series_of("files", "logins"), series_of("warehouse", "logins")]
    assert sources_read(SPEC, ["files", "warehouse", "new"], series) == {"files", "new"}
    assert sources_read(SPEC, ["warehouse"], series) == set()
    assert sources_read(SPEC, ["files", "new"], []) == {"files", "new"}


def test_a_source_is_read_as_often_as_the_monitor_that_needs_it_most() -> None:
    monitors = {
        1: MonitorSpec("players", {"metric": ["ccu"]}, infer_every_seconds=900),
        2: MonitorSpec("also players", {"metric": ["ccu"]}, infer_every_seconds=600),
        3: MonitorSpec("logins", {"metric": ["logins"]}, infer_every_seconds=60),
    }
    series = [series_of("files", "ccu"), series_of("warehouse", "logins"), series_of("unwatched", "crashes")]
    told = {"files": None, "warehouse": None, "unwatched": None, "rare": 3600}
    found = plan(monitors, told, [*series, series_of("rare", "ccu")])
    assert {source.name: source.every_seconds for source in found.sources} == {
        "files": 600,
        "warehouse": 60,
        "unwatched": 60,
        "rare": 3600,
    }
    assert [source.every_seconds for source in plan({}, {"files": None}, []).sources] == [300]


def test_four_monitors_of_one_source_wait_for_one_read() -> None:
    monitors = {i: MonitorSpec(f"m{i}", {"metric": ["ccu"]}) for i in range(4)}
    found = plan(monitors, {"files": None}, [series_of("files", "ccu")])
    assert len(due_reads(found.sources, {}, NOON)) == 1
    assert [each.sources for each in found.monitors] == [frozenset({"files"})] * 4
