"""The simulator's ground truth: what it says it planted is what stands in the data."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_service.errors import InvalidError
from pipelines.measure.simulate import KINDS, PATCH_LIFT, Incident, Simulation, simulate, write
from pipelines.records import Points, Seconds, Values
from pipelines.steps.season import MONDAY, utc_offsets
from pipelines.times import DAY, WEEK

SIMULATION = simulate(0)


def inside(points: Points, start: int, end: int) -> NDArray[np.bool_]:
    return (points.ts >= start) & (points.ts <= end)


def ratio(simulation: Simulation, incident: Incident) -> tuple[Seconds, Values]:
    """Return the moments of an incident and how far its values stand from the undisturbed twin."""
    twin, points = simulation.undisturbed[incident.series], simulation.points[incident.series]
    both = inside(twin, incident.start, incident.end)
    np.testing.assert_array_equal(twin.ts[both], points.ts[inside(points, incident.start, incident.end)])
    return twin.ts[both], points.value[inside(points, incident.start, incident.end)] / twin.value[both]


def test_equal_seeds_give_equal_points_and_others_do_not() -> None:
    again, other = simulate(0), simulate(1)
    for mine, theirs in zip(SIMULATION.points, again.points, strict=True):
        np.testing.assert_array_equal(mine.ts, theirs.ts)
        np.testing.assert_array_equal(mine.value, theirs.value)
    assert SIMULATION.incidents == again.incidents != other.incidents
    assert not np.array_equal(SIMULATION.points[0].value, other.points[0].value)


def test_every_metric_is_there_for_several_realms_regions_and_platforms() -> None:
    metrics = {spec.metric for spec in SIMULATION.series}
    assert metrics == {
        "ccu",
        "logins",
        "login_failures",
        "matchmaking_p95",
        "purchases",
        "crash_rate",
        "currency_created",
        "currency_destroyed",
    }
    for label in ("realm", "region", "platform"):
        assert len({spec.labels[label] for spec in SIMULATION.series}) >= 3
    assert len({spec.key for spec in SIMULATION.series}) == len(SIMULATION.series)


def test_points_stand_on_five_minutes_in_order() -> None:
    for points in SIMULATION.points:
        assert (points.ts % 300 == 0).all()
        assert (np.diff(points.ts) > 0).all()


def test_counts_are_whole_and_nothing_is_negative() -> None:
    for spec, points in zip(SIMULATION.series, SIMULATION.points, strict=True):
        assert np.isfinite(points.value).all()
        assert points.value.min() >= 0
        if spec.metric not in ("matchmaking_p95", "crash_rate"):
            np.testing.assert_array_equal(points.value, np.round(points.value))


def test_noise_grows_with_the_level() -> None:
    points = SIMULATION.undisturbed[0]
    noise = np.abs(points.value[1:-1] - (points.value[:-2] + points.value[2:]) / 2)
    level = points.value[1:-1]
    low, high = level < np.quantile(level, 0.25), level > np.quantile(level, 0.75)
    assert np.median(noise[high]) / np.median(noise[low]) > 1.5


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_of_incident_happens_at_least_three_times_half_after_the_last_fit(seed: int) -> None:
    simulation = simulate(seed)
    total = Counter(incident.kind for incident in simulation.incidents)
    late = Counter(i.kind for i in simulation.incidents if i.start >= simulation.last_fit)
    assert set(total) == {kind.name for kind in KINDS} == set(late)
    assert min(total.values()) >= 3
    assert all(2 * late[kind] == total[kind] for kind in total)
    assert all(i.end < simulation.last_fit for i in simulation.incidents if i.start < simulation.last_fit)
    assert max(i.end for i in simulation.incidents) < simulation.stop - 3_600


@pytest.mark.parametrize(
    ("kind", "factor", "minutes"),
    [
        ("login_outage", 0.3, 20),
        ("payment_drop", 0.6, 60),
        ("currency_inflation", 1.25, 360),
        ("crash_spike", 3.0, 60),
        ("bot_wave", 1.15, 480),
    ],
)
def test_incidents_have_their_size(kind: str, factor: float, minutes: int) -> None:
    for incident in (i for i in SIMULATION.incidents if i.kind == kind):
        assert incident.end - incident.start == minutes * 60 - 300
        assert np.median(ratio(SIMULATION, incident)[1]) == pytest.approx(factor, rel=0.01)


def test_matchmaking_drifts_three_percent_an_hour_for_twelve_hours() -> None:
    for incident in (i for i in SIMULATION.incidents if i.kind == "matchmaking_drift"):
        ts, factor = ratio(SIMULATION, incident)
        np.testing.assert_allclose(factor, 1.03 ** ((ts - incident.start) / 3_600), rtol=2e-3)
        assert incident.end - incident.start == 12 * 3_600 - 300


def test_a_telemetry_gap_has_no_rows_and_a_flatline_one_value() -> None:
    for incident in SIMULATION.incidents:
        points = SIMULATION.points[incident.series]
        during = points.value[inside(points, incident.start, incident.end)]
        if incident.kind == "telemetry_gap":
            assert len(during) == 0
        if incident.kind == "flatline":
            assert len(during) > 20
            assert len(np.unique(during)) == 1


def test_outside_its_incidents_a_series_is_its_undisturbed_twin() -> None:
    spans = defaultdict(list)
    for incident in SIMULATION.incidents:
        spans[incident.series].append((incident.start, incident.end))
    for number, (points, twin) in enumerate(zip(SIMULATION.points, SIMULATION.undisturbed, strict=True)):
        quiet = [~np.any([inside(p, *span) for span in spans[number]], axis=0) for p in (points, twin)]
        if not spans[number]:
            quiet = [np.ones(len(p.ts), dtype=bool) for p in (points, twin)]
        np.testing.assert_array_equal(points.ts[quiet[0]], twin.ts[quiet[1]])
        np.testing.assert_array_equal(points.value[quiet[0]], twin.value[quiet[1]])


@pytest.mark.parametrize("seed", range(5))
def test_incidents_keep_clear_of_each_other_and_of_maintenance(seed: int) -> None:
    simulation = simulate(seed)
    seen: dict[int, list[Incident]] = defaultdict(list)
    for incident in simulation.incidents:
        for other in seen[incident.series]:
            assert other.end + DAY < incident.start or incident.end + DAY < other.start
        seen[incident.series].append(incident)
        for start, stop in simulation.maintenances[incident.labels["realm"]]:
            assert incident.end < start or incident.start >= stop


def test_crashes_rise_after_a_patch_and_bots_log_in_overnight() -> None:
    for incident in SIMULATION.incidents:
        zone = SIMULATION.series[incident.series].timezone
        if incident.kind == "crash_spike":
            ends = [stop for _, stop in SIMULATION.maintenances[incident.labels["realm"]]]
            assert incident.start - 1_800 in ends
        if incident.kind == "bot_wave":
            local = incident.start + int(utc_offsets(zone, np.array([incident.start]))[0])
            assert local % DAY >= 23 * 3_600 or local % DAY <= 3_600


@pytest.mark.parametrize("start", ["2025-01-06", "2025-03-03", "2025-10-06"])
def test_maintenance_recurs_at_the_same_local_time_and_is_followed_by_logins(start: str) -> None:
    simulation = simulate(0, start=datetime.fromisoformat(start).replace(tzinfo=UTC))
    for number, spec in enumerate(simulation.series):
        if spec.metric != "logins" or spec.labels["realm"] == "eu-3":
            continue
        spans = simulation.maintenances[spec.labels["realm"]]
        begins = np.array([begin for begin, _ in spans])
        assert len(begins) == 8
        assert len(np.unique((begins + utc_offsets(spec.timezone, begins) + MONDAY) % WEEK)) == 1
        twin = simulation.undisturbed[number]
        for begin, stop in spans:
            before = twin.value[inside(twin, begin - 1_800, begin - 300)].mean()
            assert twin.value[inside(twin, begin, stop - 300)].mean() < 0.1 * before
            assert twin.value[inside(twin, stop, stop + 600)].mean() > 2 * before


def test_the_rhythm_keeps_local_time_through_a_change_of_the_clock() -> None:
    simulation = simulate(0, start=datetime(2025, 3, 3, tzinfo=UTC))
    change = int(datetime(2025, 3, 30, 1, tzinfo=UTC).timestamp())
    spec, points = simulation.series[0], simulation.undisturbed[0]
    assert spec.timezone == "Europe/Berlin"

    day = np.log(points.value)
    before, after = (
        np.array([day[usable & (points.ts % DAY == second)].mean() for second in range(0, DAY, 300)])
        for usable in ((points.ts < change) & (points.ts >= change - 14 * DAY), points.ts >= change)
    )
    fits = [np.corrcoef(before, np.roll(after, shift))[0, 1] for shift in range(-36, 37)]
    assert np.argmax(fits) - 36 == pytest.approx(12, abs=2)  # an hour earlier in UTC


def test_the_patch_lifts_the_level_for_good() -> None:
    spec, twin = SIMULATION.series[0], SIMULATION.undisturbed[0]
    at = SIMULATION.patched_at[spec.labels["realm"]]
    before = twin.value[inside(twin, at - 2 * WEEK, at - 1)].mean()
    after = twin.value[inside(twin, at, at + 2 * WEEK)].mean()
    assert after / before == pytest.approx(PATCH_LIFT, abs=0.02)


def test_a_realm_opens_half_way() -> None:
    middle = SIMULATION.start + (SIMULATION.stop - SIMULATION.start) // 2
    opened = [
        p.ts[0]
        for s, p in zip(SIMULATION.series, SIMULATION.points, strict=True)
        if s.labels["realm"] == "eu-3"
    ]
    assert len(opened) == 8
    assert all(middle <= first <= middle + 1_800 for first in opened)


def test_the_files_hold_every_point_with_late_rows_and_duplicates(tmp_path: Path) -> None:
    simulation = simulate(3, weeks=3)
    files = write(simulation, tmp_path)
    assert {f.parent for f in files} == {tmp_path / "drop", tmp_path}
    held: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    n_rows = n_late = 0
    for file in sorted((tmp_path / "drop").glob("*.csv")):
        newest = ""
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                n_rows += 1
                n_late += row["ts"] < newest
                newest = max(newest, row["ts"])
                # The last row of a time wins.
                held[row["metric"], row["realm"], row["region"], row["platform"]][row["ts"]] = row["value"]
    n_points = sum(len(points.ts) for points in simulation.points)
    assert n_late > 0.001 * n_rows
    assert n_rows > 1.001 * n_points
    assert sum(map(len, held.values())) == n_points
    for spec, points in zip(simulation.series, simulation.points, strict=True):
        rows = held[spec.metric, spec.labels["realm"], spec.labels["region"], spec.labels["platform"]]
        assert [float(rows[ts]) for ts in sorted(rows)] == points.value.tolist()


def test_the_list_of_incidents_is_written_beside_the_drop_folder(tmp_path: Path) -> None:
    write(SIMULATION, tmp_path)
    with (tmp_path / "incidents.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["metric", "labels", "start", "end", "kind"]
    assert len(rows) == len(SIMULATION.incidents)
    first = SIMULATION.incidents[0]
    assert f"{rows[0]['metric']}{{{rows[0]['labels']}}}" == SIMULATION.series[first.series].key
    assert datetime.fromisoformat(rows[0]["start"]).timestamp() == first.start


def test_too_little_room_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidError, match="expected at least 3 weeks, got 2"):
        simulate(weeks=2)
    with pytest.raises(ValueError, match="start must be aware"):
        simulate(start=datetime(2025, 1, 6))
    with pytest.raises(ValueError, match="last_fit must leave two weeks before it"):
        simulate(last_fit=datetime(2025, 1, 7, tzinfo=UTC))
