"""Which version scores what, and when fits fall: functions of data time alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipelines.jobs.plan import (
    History,
    current,
    fingerprint,
    group_slots,
    loan_slots,
    newest_by,
    pieces,
    ready_by,
    wanted_slots,
)
from pipelines.monitor import MonitorSpec
from pipelines.records import VersionRow
from pipelines.times import DAY, WEEK

SPEC = MonitorSpec(
    "m", {"metric": ["ccu"]}, fit_every_seconds=WEEK, fit_window_seconds=6 * WEEK, stagger=True
)


def version(train_stop: int, id: int | None = None, **changes: object) -> VersionRow:
    row = VersionRow(
        id=id or train_stop,
        target_id=1,
        detector="gaussian",
        train_start=train_stop - 100,
        train_stop=train_stop,
        recipe={},
        config={"fingerprint": fingerprint(SPEC)},
        weights_id=1,
    )
    return replace(row, **changes)  # type: ignore[arg-type]  # fields by name


def test_a_timestamp_is_scored_by_the_newest_version_whose_training_ended_by_then() -> None:
    a, b = version(100), version(200)
    assert pieces([a, b], 50, 300) == [(a, 100, 200), (b, 200, 300)]


def test_nothing_before_the_first_training_end_is_scored() -> None:
    assert pieces([version(100)], 0, 100) == []


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6, unique=True), st.integers(0, 1100))
def test_splitting_a_span_changes_no_timestamps_version(stops: list[int], cut: int) -> None:
    versions = [version(stop) for stop in sorted(stops)]

    def scored_by(parts: list[tuple[VersionRow, int, int]]) -> dict[int, int]:
        return {t: v.id for v, a, b in parts for t in range(a, b)}

    whole = scored_by(pieces(versions, 0, 1100))
    assert whole == scored_by(pieces(versions, 0, cut)) | scored_by(pieces(versions, cut, 1100))


def test_a_refitted_version_takes_the_place_of_the_one_it_repeats() -> None:
    old, new = version(100, id=1), version(100, id=2)
    assert current(SPEC, [new, old]) == [new]


def test_a_candidate_scores_nothing() -> None:
    assert current(SPEC, [version(100), version(200, status="candidate")]) == [version(100)]


def test_versions_of_an_older_configuration_serve_until_there_is_one_of_the_present() -> None:
    foreign = version(100, config={"fingerprint": "other"})
    assert current(SPEC, [foreign]) == [foreign]
    assert current(SPEC, [foreign, version(200)]) == [version(200)]


def test_the_newest_version_by_a_time_is_each_targets_own() -> None:
    rows = {1: [version(100), version(200)], 2: [version(150)], 3: []}
    assert [v.train_stop for v in newest_by(rows, 180)] == [100, 150]


def test_a_first_fit_waits_two_weeks_for_the_night_after() -> None:
    history = History(first=10 * DAY, newest=90 * DAY)
    night = ready_by(SPEC, history)
    assert 24 * DAY <= night < 25 * DAY
    assert night % DAY == SPEC.nightly.at_seconds


def test_a_short_fit_window_makes_a_first_model_sooner() -> None:
    spec = replace(SPEC, fit_window_seconds=3 * DAY)
    assert ready_by(spec, History(10 * DAY, 90 * DAY)) < 14 * DAY


def test_fits_are_a_week_apart_and_start_with_the_first_night() -> None:
    history = History(first=10 * DAY, newest=90 * DAY)
    slots = wanted_slots(SPEC, "ccu{realm=kr}", history, 80 * DAY)
    assert slots[0] == ready_by(SPEC, history)
    assert {b - a for a, b in pairwise(slots[1:])} == {WEEK}
    assert slots == sorted(set(slots))


def test_nothing_is_wanted_before_a_target_is_ready() -> None:
    assert wanted_slots(SPEC, "a", History(10 * DAY, 12 * DAY), 20 * DAY) == []


def test_the_fingerprint_changes_with_what_a_fit_depends_on_and_nothing_else() -> None:
    assert fingerprint(replace(SPEC, detector="kde")) != fingerprint(SPEC)
    assert fingerprint(replace(SPEC, params={"window": 12})) != fingerprint(SPEC)
    assert fingerprint(replace(SPEC, name="other", infer_every_seconds=60)) == fingerprint(SPEC)


def test_points_far_apart_make_a_first_fit_wait_until_there_can_be_enough() -> None:
    spec = replace(SPEC, fit_window_seconds=300 * DAY)
    assert ready_by(spec, History(0, 400 * DAY), least=192 * DAY) >= 192 * DAY
    assert ready_by(SPEC, History(0, 400 * DAY), least=192 * DAY) < 44 * DAY


def test_a_series_that_stopped_is_fitted_once_more_at_most() -> None:
    stopped = wanted_slots(SPEC, "a", History(0, 40 * DAY), 400 * DAY)
    going = wanted_slots(SPEC, "a", History(0, 400 * DAY), 400 * DAY)
    assert stopped == [slot for slot in going if slot <= 47 * DAY]
    assert sum(slot > 40 * DAY for slot in stopped) <= 1
    assert wanted_slots(SPEC, "a", History(0, 2 * DAY), 400 * DAY) == going[:1]


# -- groups -------------------------------------------------------------------------


def in_group(until: int = 80 * DAY, **histories: History) -> dict[str, list[int]]:
    """Return the fits that each target of a group takes part in, by name."""
    known = dict(enumerate(histories.values()))
    slots = group_slots(SPEC, known, dict.fromkeys(known, DAY), until)
    return {name: slots[i] for i, name in enumerate(histories)}


def test_a_target_that_joins_a_group_takes_part_in_the_fits_of_the_group_and_in_no_other() -> None:
    found = in_group(old=History(0, 90 * DAY), new=History(25 * DAY, 90 * DAY))
    assert found["old"] == wanted_slots(SPEC, SPEC.name, History(0, 90 * DAY), 80 * DAY)
    ready = ready_by(SPEC, History(25 * DAY, 90 * DAY))
    assert found["new"] == [slot for slot in found["old"] if slot >= ready - DAY]
    assert found["new"]


def test_targets_that_begin_on_one_day_learn_together_from_the_first_night() -> None:
    found = in_group(early=History(0, 90 * DAY), late=History(DAY // 2, 90 * DAY))
    assert found["early"] == found["late"] != []


def test_a_target_that_stopped_takes_part_in_no_more_fits() -> None:
    found = in_group(going=History(0, 90 * DAY), stopped=History(0, 30 * DAY))
    assert found["stopped"] == [slot for slot in found["going"] if slot <= 37 * DAY]
    assert 0 < len(found["stopped"]) < len(found["going"])


def test_a_group_has_no_fit_before_anybody_is_ready() -> None:
    assert in_group(until=10 * DAY, one=History(0, 90 * DAY)) == {"one": []}
    assert group_slots(SPEC, {}, {}, 80 * DAY) == {}


def test_a_loan_begins_with_the_first_window_and_is_made_anew_as_history_doubles() -> None:
    found = loan_slots(SPEC, History(20 * DAY, 90 * DAY), [15 * DAY], 7200, 60 * DAY)
    assert found[0] == 20 * DAY + 7200
    nights = [slot // DAY - 20 for slot in found[1:]]
    # Each night's history is twice the last one's: 3 h 15 min are not twice two hours, a day more is.
    assert nights == [1, 3, 7, 15, 31]


def test_a_loan_is_made_anew_with_every_model_of_the_group_and_none_before_the_first() -> None:
    history = History(0, 90 * DAY)
    models = [slot for slot in wanted_slots(SPEC, SPEC.name, history, 60 * DAY) if slot > 20 * DAY]
    found = loan_slots(SPEC, history, models, 7200, 60 * DAY)
    assert found[0] == models[0]
    assert set(models) <= set(found)
    assert loan_slots(SPEC, history, models, 7200, models[0] - 1) == []
