"""What every store owes the jobs, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from anomaly_service.db import events
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import (
    AskedError,
    ChangedEventError,
    InvalidError,
    NothingToUndoError,
    OverlappingEventError,
    ReviewedEventError,
    UnknownEventError,
    UnstorableError,
)
from pipelines.errors import BusySourceError, LostClaimError, StaleEventsError
from pipelines.names import Kind, Mode, RunKind, RunState, Status, Verdict
from pipelines.records import (
    CalibrationRow,
    Claim,
    Event,
    EventChange,
    EventPortrait,
    Interval,
    LastRead,
    LineRow,
    PointBlock,
    PortraitState,
    ScoreBlock,
    SeriesSpec,
)
from pipelines.store import (
    Batch,
    Ingest,
    NewVersion,
    Store,
)

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
T0 = int(NOON.timestamp())
NAN = float("nan")


def spec(realm: str, **changes: Any) -> SeriesSpec:
    settings_: dict[str, Any] = {"step_seconds": 300, "delay_seconds": 60, "source": "telemetry"} | changes
    return SeriesSpec(metric="ccu", labels={"realm": realm}, **settings_)


def block(rows: Sequence[tuple[int, int, float]]) -> PointBlock:
    series, ts, value = zip(*rows, strict=True) if rows else ((), (), ())
    return PointBlock(np.array(series, dtype=int), np.array(ts, dtype=int), np.array(value, dtype=float))


def put(store: SqlStore, rows: Sequence[tuple[int, int, float]], realms: str = "ab", **more: Any) -> Any:
    return store.ingest(Ingest("telemetry", [spec(realm) for realm in realms], block(rows), **more))


def stored(store: SqlStore) -> list[tuple[int, int, float]]:
    found = store.points([row.id for row in store.series()], -(10**12), 10**12)
    return list(zip(found.series.tolist(), found.ts.tolist(), found.value.tolist(), strict=True))


def watch(store: SqlStore, realms: str = "ab") -> list[int]:
    """Return the targets of a monitor that watches these series, one each."""
    put(store, [], realms)
    monitor = store.sync_monitors({"players": {"detector": "gaussian"}})[0]
    ids = {row.spec.labels["realm"]: row.id for row in store.series()}
    targets = store.sync_targets(monitor.id, [(realm, (ids[realm],)) for realm in realms])
    return [target.id for target in targets]


def interval(start: int = T0, end: int = T0 + 600, **changes: Any) -> Interval:
    values: dict[str, Any] = {
        "kind": Kind.ANOMALY,
        "start": start,
        "end": end,
        "n_points": 3,
        "peak_at": start,
        "peak_score": 2.0,
        "mean_score": 1.5,
        "direction": "below_expected",
        "y_at_peak": 4.0,
        "yhat_at_peak": 9.0,
        "impact": -12.5,
    }
    return Interval(**{**values, **changes})


def new(target: int, found: Interval, status: Status = Status.CLOSED) -> EventChange:
    return EventChange(target, None, found, status, first_detected_at=found.end, why="new")


def change(event: Event, **changes: Any) -> EventChange:
    values: dict[str, Any] = {
        "target_id": event.target_id,
        "event_id": event.id,
        "interval": event.interval,
        "status": event.status,
        "first_detected_at": event.first_detected_at,
        "why": "rescored",
    }
    return EventChange(**{**values, **changes})


def flag(store: SqlStore, target: int, found: Interval | None = None) -> Event:
    return store.commit(None, Batch(changes=[new(target, found or interval())]))[0]


def version(target: int, train_stop: int = T0, **changes: Any) -> NewVersion:
    values: dict[str, Any] = {
        "detector": "gaussian",
        "train_start": train_stop - 86400,
        "recipe": {"step": 300},
        "config": {"window": 24, "seed": 0},
        "weights": f"weights {target} {train_stop}".encode(),
        "card": {"bytes": 10},
        "calibrations": {"live": {"theta": 0.5}, "settled": {"theta": 0.25}},
    }
    return NewVersion(target_id=target, train_stop=train_stop, **{**values, **changes})


def score_block(rows: Sequence[tuple[float, ...]]) -> ScoreBlock:
    columns = [np.array(column, dtype=float) for column in zip(*rows, strict=True)]
    target, ts, version_ = (column.astype(np.int64) for column in columns[:3])
    return ScoreBlock(target, ts, version_, *columns[3:])


def score_rows(store: SqlStore, targets: Sequence[int]) -> list[list[float]]:
    found = store.scores(targets, 0, 10**12)
    names = ("target", "ts", "version", "live", "live_anomaly", "settled", "settled_anomaly")
    return np.stack([getattr(found, name).astype(float) for name in names], axis=1).tolist()


def test_the_store_is_a_store(store: SqlStore) -> None:
    checked: Store = store
    assert checked.monitors() == []


# points


def test_points_come_back_sorted_and_typed(store: SqlStore) -> None:
    put(store, [(1, T0 + 300, 4.0), (0, T0 + 300, 2.0), (1, T0, 3.5), (0, T0, 1.0)])
    found = store.points([2, 1], T0, T0 + 301)
    assert [found.series.dtype, found.ts.dtype, found.value.dtype] == [np.int64, np.int64, np.float64]
    assert stored(store) == [(1, T0, 1.0), (1, T0 + 300, 2.0), (2, T0, 3.5), (2, T0 + 300, 4.0)]


def test_spans_are_half_open(store: SqlStore) -> None:
    put(store, [(0, T0, 1.0), (0, T0 + 300, 2.0), (0, T0 + 600, 3.0)])
    assert store.points([1], T0, T0 + 600).value.tolist() == [1.0, 2.0]


def test_no_series_and_an_empty_span_have_no_points(store: SqlStore) -> None:
    put(store, [(0, T0, 1.0)])
    assert (
        len(store.points([], 0, 10**12)) == len(store.points([1], 0, T0)) == len(store.points([9], 0, 9)) == 0
    )


def test_ingest_counts_what_is_new_changed_and_unchanged(store: SqlStore) -> None:
    first = put(store, [(0, T0, 1.0), (0, T0 + 300, 2.0), (1, T0, 3.0)], rejected=2)
    assert (first.new, first.changed, first.unchanged, first.rejected) == (3, 0, 0, 2)
    assert first.earliest == {1: T0, 2: T0}
    rows = [(0, T0, 1.0), (0, T0 + 300, 9.0), (0, T0 - 300, 5.0), (0, T0 + 600, 4.0), (1, T0, 3.0)]
    second = put(store, rows)
    assert (second.new, second.changed, second.unchanged) == (2, 1, 2)
    assert second.earliest == {1: T0 - 300}


def test_a_batch_taken_twice_changes_nothing(store: SqlStore) -> None:
    rows = [(0, T0 + 300 * k, float(k)) for k in range(50)]
    put(store, rows)
    before = stored(store)
    again = put(store, rows)
    assert (again.new, again.changed, again.unchanged, again.earliest) == (0, 0, 50, {})
    assert stored(store) == before


def test_of_duplicates_the_last_wins(store: SqlStore) -> None:
    found = put(store, [(0, T0, 1.0), (1, T0, 7.0), (0, T0, 2.0), (0, T0, 3.0)])
    assert found.new == 2
    assert stored(store) == [(1, T0, 3.0), (2, T0, 7.0)]


def test_values_that_are_not_finite_count_as_rejected(store: SqlStore) -> None:
    found = put(store, [(0, T0, NAN), (0, T0 + 300, float("inf")), (0, T0 + 600, 1.0)], rejected=1)
    assert (found.new, found.rejected) == (1, 3)


def test_series_know_their_first_and_last_time(store: SqlStore) -> None:
    put(store, [(0, T0, 1.0), (0, T0 + 900, 1.0)])
    put(store, [(0, T0 - 300, 1.0)])
    first, second = store.series("telemetry")
    assert (first.first_ts, first.last_ts) == (T0 - 300, T0 + 900)
    assert (second.first_ts, second.last_ts) == (None, None)
    assert store.series("elsewhere") == []


def test_a_series_keeps_its_id_when_its_settings_change(store: SqlStore) -> None:
    put(store, [(0, T0, 1.0)])
    store.ingest(Ingest("telemetry", [spec("a", step_seconds=60, timezone="Asia/Seoul")], block([])))
    found = {row.id: row.spec for row in store.series()}[1]
    assert (found.step_seconds, found.timezone, found.key) == (60, "Asia/Seoul", "ccu{realm=a}")


def test_progress_is_stored_with_the_points(store: SqlStore) -> None:
    put(store, [], progress={"a.csv": {"bytes": 10}, "b.csv": {"bytes": 1}})
    put(store, [], progress={"a.csv": {"bytes": 20}})
    assert store.progress("telemetry") == {"a.csv": {"bytes": 20}, "b.csv": {"bytes": 1}}
    assert store.progress("elsewhere") == {}


def test_points_span_months_years_and_time_before_1970(store: SqlStore) -> None:
    times = [-86400, 0, T0, T0 + 40 * 86400, T0 + 3000 * 86400]
    put(store, [(0, ts, float(k)) for k, ts in enumerate(times)])
    assert [row[1] for row in stored(store)] == times


def test_old_points_are_deleted_and_counted(store: SqlStore) -> None:
    days = [T0 + k * 86400 for k in range(90)]
    put(store, [(series, ts, 1.0) for ts in days for series in (0, 1)])
    assert store.delete_points_before(days[70]) == 140
    assert store.points([1], 0, 10**12).ts.tolist() == days[70:]
    assert [(row.first_ts, row.last_ts) for row in store.series()] == [(days[70], days[-1])] * 2
    late = put(store, [(0, days[3], 2.0)])
    assert (late.new, store.points([1], 0, days[4]).value.tolist()) == (1, [2.0])


def test_points_of_one_source_are_deleted_and_when_a_series_began_is_remembered(store: SqlStore) -> None:
    days = [T0 + k * 86400 for k in range(90)]
    for source in ("live", "archive"):
        specs = [SeriesSpec("ccu", {"from": source}, 86400, source=source)]
        columns = np.zeros(90, dtype=np.int64), np.array(days), np.ones(90)
        store.ingest(Ingest(source, specs, PointBlock(*columns)))
    assert store.delete_points_before(days[70], ["live"]) == 70
    live, archive = (store.series(source)[0] for source in ("live", "archive"))
    assert (live.first_ts, live.begun, live.whole_from) == (days[70], days[0], days[70])
    assert (archive.first_ts, archive.begun, archive.whole_from) == (days[0], days[0], None)
    assert store.delete_points_before(days[10]) == 10
    assert store.delete_points_before(days[89] + 1, ["live"]) == 20
    (live,) = store.series("live")
    assert (live.first_ts, live.last_ts, live.begun) == (None, days[-1], days[0])


def test_a_first_point_that_is_deleted_by_hand_is_not_when_the_series_began(store: SqlStore) -> None:
    days = [T0 + k * 86400 for k in range(20)]
    put(store, [(0, ts, 1.0) for ts in (0, *days)])
    (series,) = [row for row in store.series() if row.first_ts is not None]
    assert series.begun == 0
    store.delete_points(series.id, 0, 1000)
    store.delete_points_before(days[5])
    store.delete_points(series.id, days[5], days[6])
    (series,) = [row for row in store.series() if row.first_ts is not None]
    assert (series.first_ts, series.begun) == (days[6], days[0])


def test_scores_versions_and_lines_are_deleted_of_some_and_that_is_remembered(store: SqlStore) -> None:
    first, second = watch(store)
    store.commit(None, Batch(scores=score_block([(i, T0, 1, 1.0, 1.0, NAN, NAN) for i in (first, second)])))
    assert store.delete_scores_before(T0 + 60, [second]) == 1
    assert store.scores([first, second], 0, 10**12).target.tolist() == [first]
    monitor = store.monitors()[0].id
    pruned = {target.id: target.pruned_before for target in store.targets(monitor)}
    assert (pruned[first], pruned[second]) == (None, T0 + 60)
    store.delete_scores_before(T0)
    assert [t.pruned_before for t in store.targets(monitor) if t.id in (first, second)] == [T0, T0 + 60]
    assert store.prune_versions(0, T0, [second]) == store.prune_lines(T0, [monitor]) == 0


PIECES = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 3)), max_size=12),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=PIECES)
def test_any_split_and_order_of_upserts_leaves_the_last_value_of_every_key(
    store: SqlStore, pieces: list[list[tuple[int, int, int]]]
) -> None:
    store.delete_points_before(10**12)
    expected: dict[tuple[int, int], float] = {}
    for piece in pieces:
        rows = [(series, T0 + 10 * 86400 * k, float(value)) for series, k, value in piece]
        now = {(series, ts): value for series, ts, value in rows}
        found = put(store, rows, "abc")
        assert found.new == len(now.keys() - expected.keys())
        assert found.changed == sum(expected.get(key, value) != value for key, value in now.items())
        assert found.new + found.changed + found.unchanged == len(now)
        expected |= now
    ids = {row.spec.labels["realm"]: row.id for row in store.series()}
    wanted = {(ids["abc"[series]], ts): value for (series, ts), value in expected.items()}
    assert {(series, ts): value for series, ts, value in stored(store)} == wanted


def test_two_that_ingest_the_same_points_at_once_count_every_point_new_once(store: SqlStore) -> None:
    rows = [(series, T0 + 300 * k, float(k)) for k in range(400) for series in (0, 1)]
    put(store, [])
    found: list[Any] = []
    _together(lambda: found.append(put(store, rows)), lambda: found.append(put(store, rows[::-1])))
    assert sorted(one.new for one in found) == [0, 800]
    assert len(stored(store)) == 800


# monitors and targets


def test_monitors_follow_the_config(store: SqlStore) -> None:
    first = store.sync_monitors({"a": {"x": 1}, "b": {"x": 2}})
    second = store.sync_monitors({"b": {"x": 3}, "c": {}})
    assert [row.name for row in second] == ["b", "c"]
    assert second[0].id == first[1].id
    assert [(row.name, row.config, row.enabled) for row in store.monitors()] == [
        ("a", {"x": 1}, False),
        ("b", {"x": 3}, True),
        ("c", {}, True),
    ]


def test_a_renamed_monitor_keeps_its_row_and_targets(store: SqlStore) -> None:
    watch(store)
    old = store.monitors()[0]
    config = {"population": {"renamed_from": "players"}}
    assert [(row.id, row.name) for row in store.sync_monitors(config)] == [(old.id, "population")]
    assert len(store.targets(old.id)) == 2
    assert [row.id for row in store.sync_monitors(config)] == [old.id]  # it may stay in the config


def test_two_monitors_may_change_names_with_each_other(store: SqlStore) -> None:
    a, b = store.sync_monitors({"a": {}, "b": {}})
    found = store.sync_monitors({"a": {"renamed_from": "b"}, "b": {"renamed_from": "a"}})
    assert [row.id for row in found] == [b.id, a.id]


def test_a_target_has_the_zone_of_its_first_series_and_the_longest_step_and_delay(store: SqlStore) -> None:
    specs = [spec("a", timezone="Asia/Seoul", step_seconds=60), spec("b", delay_seconds=900)]
    store.ingest(Ingest("telemetry", specs, block([])))
    monitor = store.sync_monitors({"m": {}})[0]
    found = store.sync_targets(monitor.id, [("both", (1, 2))])[0]
    assert (found.key, found.series_ids, found.step_seconds) == ("both", (1, 2), 300)
    assert (found.timezone, found.delay_seconds, found.scored_until) == ("Asia/Seoul", 900, None)


def test_targets_are_added_once(store: SqlStore) -> None:
    watch(store, "ab")
    monitor = store.monitors()[0].id
    before = store.targets(monitor)
    after = store.sync_targets(monitor, [("b", (2,)), ("c", (1,))])
    assert [target.key for target in after] == ["a", "b", "c"]
    assert after[:2] == before


# versions, calibrations, lines


def test_versions_come_back_as_stored(store: SqlStore) -> None:
    first, second = watch(store)
    rows = store.add_versions(None, [version(second), version(first), version(first, T0 + 86400)])
    assert [row.target_id for row in rows] == [second, first, first]
    assert store.versions([first, second]) == [rows[1], rows[2], rows[0]]
    assert store.weights([rows[0].weights_id]) == {rows[0].weights_id: f"weights {second} {T0}".encode()}
    assert rows[0].config == {"window": 24, "seed": 0}
    assert rows[0].recipe == {"step": 300}


def test_a_fit_stored_twice_is_one_version(store: SqlStore) -> None:
    target = watch(store)[0]
    first = store.add_versions(None, [version(target)])
    again = store.add_versions(None, [version(target, weights=b"other", config={"seed": 0, "window": 24})])
    assert again == first
    assert len(store.weights(range(10))) == 1
    assert store.add_versions(None, [version(target, config={"window": 25})]) != first


def test_a_group_shares_one_copy_of_its_weights(store: SqlStore) -> None:
    first, second = watch(store)
    group = [version(target, weights=b"shared", shared_weights=7) for target in (first, second)]
    rows = store.add_versions(None, [*group, version(first, T0 + 1)])
    assert rows[0].weights_id == rows[1].weights_id != rows[2].weights_id
    assert len(store.weights([row.weights_id for row in rows])) == 2


def test_a_version_on_loan_stores_no_weights_of_its_own(store: SqlStore) -> None:
    first, second = watch(store)
    (lender,) = store.add_versions(None, [version(first)])
    loan = version(second, T0 + 1, weights=b"", stored_weights=lender.weights_id)
    rows = store.add_versions(None, [loan, version(second, T0 + 2)])
    assert rows[0].weights_id == lender.weights_id != rows[1].weights_id
    assert store.weights(range(100)) == {
        lender.weights_id: f"weights {first} {T0}".encode(),
        rows[1].weights_id: f"weights {second} {T0 + 2}".encode(),
    }


def test_a_version_counts_as_scored_once_a_commit_says_so(store: SqlStore) -> None:
    target = watch(store)[0]
    rows = store.add_versions(None, [version(target, T0 + k) for k in range(3)])
    assert [row.scored for row in rows] == [False] * 3
    store.commit(None, Batch(scored_from={target: T0 + 1}))
    assert [row.scored for row in store.versions([target])] == [False, True, True]


def test_candidates_and_failed_versions_score_nothing(store: SqlStore) -> None:
    target = watch(store)[0]
    store.add_versions(None, [version(target, status="candidate"), version(target, T0 + 1, status="failed")])
    assert store.versions([target]) == []
    assert [row.status for row in store.versions([target], every=True)] == ["candidate", "failed"]


def test_calibrations_are_valid_from_the_end_of_training(store: SqlStore) -> None:
    row = store.add_versions(None, [version(watch(store)[0])])[0]
    store.add_calibrations(None, [CalibrationRow(row.id, Mode.LIVE, T0 + 9, {"theta": 0.75})])
    assert store.calibrations([row.id]) == [
        CalibrationRow(row.id, Mode.LIVE, T0, {"theta": 0.5}),
        CalibrationRow(row.id, Mode.LIVE, T0 + 9, {"theta": 0.75}),
        CalibrationRow(row.id, Mode.SETTLED, T0, {"theta": 0.25}),
    ]


def test_calibrations_of_a_span_are_those_that_become_valid_in_it(store: SqlStore) -> None:
    row = store.add_versions(None, [version(watch(store)[0])])[0]
    later = [CalibrationRow(row.id, Mode.LIVE, T0 + k, {"seen": k}) for k in (1, 2, 3)]
    store.add_calibrations(None, later)
    assert store.calibrations([row.id], (T0 + 1, T0 + 3)) == later[:2]


def test_calibrations_and_lines_of_a_night_are_stored_together_or_not_at_all(store: SqlStore) -> None:
    row = store.add_versions(None, [version(watch(store)[0])])[0]
    monitor = store.monitors()[0].id
    line = LineRow(monitor, None, Mode.LIVE, T0 + 1, {"line": 3.0})
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        store.add_calibrations(
            None,
            [CalibrationRow(row.id, Mode.LIVE, T0 + 1, {})],
            [line, LineRow(999, None, Mode.LIVE, T0, {})],
        )
    assert (len(store.calibrations([row.id])), store.lines(monitor)) == (2, [])
    store.add_calibrations(None, [CalibrationRow(row.id, Mode.LIVE, T0 + 1, {})], [line])
    assert (len(store.calibrations([row.id])), store.lines(monitor)) == (3, [line])


def test_the_lines_of_a_span_are_those_in_force_in_it(store: SqlStore) -> None:
    first, second = watch(store)
    monitor = store.monitors()[0].id
    lines = {
        (owner, at): LineRow(monitor, owner, Mode.LIVE, T0 + at, {"line": at})
        for owner in (None, first, second)
        for at in (0, 10, 20)
    }
    store.add_lines(None, list(lines.values()))

    def found(span: tuple[int, int] | None, targets: Sequence[int] | None = None) -> list[tuple[Any, int]]:
        rows = store.lines(monitor, span, targets)
        assert all(row == lines[row.target_id, row.valid_from - T0] for row in rows)
        return [(row.target_id, row.valid_from - T0) for row in rows]

    assert found((T0 + 10, T0 + 20), []) == [(None, 10)]
    assert found((T0 + 9, T0 + 11), []) == [(None, 0), (None, 10)]
    assert found((T0 + 99, T0 + 100), [second]) == [(None, 20), (second, 20)]
    # Before all of them the earliest is in force.
    assert found((T0 - 9, T0 - 8), [first]) == [(None, 0), (first, 0)]
    assert found(None, []) == [(None, 0), (None, 10), (None, 20)]
    assert len(found(None)) == 9


def test_lines_no_longer_in_force_are_pruned(store: SqlStore) -> None:
    watch(store)
    monitor = store.monitors()[0].id
    lines = [LineRow(monitor, None, mode, T0 + at, {}) for mode in Mode for at in (0, 10, 20)]
    store.add_lines(None, lines)
    assert store.prune_lines(T0 + 10) == 2
    assert {row.valid_from - T0 for row in store.lines(monitor)} == {10, 20}
    assert store.prune_lines(T0 + 19) == 0


def test_a_line_of_the_same_time_is_replaced(store: SqlStore) -> None:
    target = watch(store)[0]
    monitor = store.monitors()[0].id
    whole, one = (
        LineRow(monitor, None, Mode.LIVE, T0, {"line": 3.0}),
        LineRow(monitor, target, Mode.LIVE, T0, {}),
    )
    store.add_lines(None, [one, whole])
    store.add_lines(None, [LineRow(monitor, None, Mode.LIVE, T0, {"line": 4.0})])
    assert store.lines(monitor) == [LineRow(monitor, None, Mode.LIVE, T0, {"line": 4.0}), one]


def test_versions_are_pruned_only_when_nothing_needs_them(store: SqlStore) -> None:
    first, second = watch(store)
    ends = [T0 + k * 86400 for k in range(6)]
    rows = store.add_versions(None, [version(first, end) for end in ends])
    store.commit(None, Batch(scores=score_block([(first, T0 + 5, rows[0].id, 1, 1, NAN, NAN)])))
    flag(store, first, interval(version_id=rows[1].id))
    store.add_versions(None, [version(second, T0)])
    # Of the first target 5 and 4 are newest, 3 still scores at the horizon, 1 has an event, 0 a score.
    assert store.prune_versions(2, ends[4] - 1) == 1
    kept = [row.id for row in store.versions([first, second])]
    assert kept == [rows[k].id for k in (0, 1, 3, 4, 5)] + [rows[5].id + 1]
    assert set(store.weights(range(100))) == {row.weights_id for row in store.versions([first, second])}
    assert store.calibrations([rows[2].id]) == []


# scores


def test_a_nan_pair_leaves_the_stored_pair(store: SqlStore) -> None:
    target = watch(store)[0]
    store.commit(None, Batch(scores=score_block([(target, T0, 1, 2.0, 0.5, NAN, NAN)])))
    store.commit(None, Batch(scores=score_block([(target, T0, 2, NAN, NAN, 3.0, 0.75)])))
    assert score_rows(store, [target]) == [[target, T0, 2, 2.0, 0.5, 3.0, 0.75]]
    store.commit(None, Batch(scores=score_block([(target, T0, 2, 4.0, 1.5, NAN, NAN)])))
    assert score_rows(store, [target]) == [[target, T0, 2, 4.0, 1.5, 3.0, 0.75]]


def test_scores_come_back_by_target_and_time_with_nan_for_none(store: SqlStore) -> None:
    first, second = watch(store)
    later = T0 + 40 * 86400  # another month
    rows = [
        (second, T0, 1, 1.0, NAN, NAN, NAN),
        (first, later, 1, 2.0, 1.0, 3.0, 1.0),
        (first, T0, 1, 5, 6, 7, 8),
    ]
    store.commit(None, Batch(scores=score_block(rows)))
    found = store.scores([second, first], T0, later + 1)
    assert (found.target.tolist(), found.ts.tolist()) == ([first, first, second], [T0, later, T0])
    assert np.isnan(found.settled).tolist() == [False, False, True]
    assert store.scores([first], T0, later).ts.tolist() == [T0]
    assert store.delete_scores_before(later) == 2
    assert store.scores([first, second], 0, 10**12).ts.tolist() == [later]


def test_scores_of_a_pass_that_is_repeated_are_not_written_again(store: SqlStore) -> None:
    target = watch(store)[0]
    scores = score_block([(target, T0 + 300 * k, 1, 1.0 * k, 0.5, NAN, NAN) for k in range(10)])
    assert _rows_written(store, scores) == 10
    assert _rows_written(store, scores) == 0
    assert _rows_written(store, score_block([(target, T0, 1, 9.0, 0.5, NAN, NAN)])) == 1


def _rows_written(store: SqlStore, scores: ScoreBlock) -> int:
    """Return how many rows of ``scores`` the database itself says were written."""
    if store.engine.dialect.name == "sqlite":
        with store.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            before = driver.total_changes
            store._bulk.upsert_scores(connection, scores)
            connection.commit()
            return int(driver.total_changes - before)
    store._bulk.make_room(store.engine, "scores", scores.ts)
    with store.engine.begin() as connection:
        store._bulk.upsert_scores(connection, scores)
        query = text("SELECT count(*) FROM scores WHERE xmin::text = pg_current_xact_id()::text")
        return int(connection.execute(query).scalar_one())


def test_watermarks_only_move_forward(store: SqlStore) -> None:
    first, second = watch(store)
    monitor = store.monitors()[0].id
    store.commit(None, Batch(scored_until={first: T0, second: T0 + 1}, settled_until={first: T0 - 9}))
    store.commit(None, Batch(scored_until={first: T0 - 300, second: T0 + 2}))
    found = {row.id: (row.scored_until, row.settled_until) for row in store.targets(monitor)}
    assert found == {first: (T0, T0 - 9), second: (T0 + 2, None)}


# events


def test_a_new_event_gets_an_id_and_a_first_revision(store: SqlStore) -> None:
    first, second = watch(store)
    found = store.commit(None, Batch(changes=[new(second, interval(), Status.OPEN), new(first, interval())]))
    assert [(event.target_id, event.revision, event.status) for event in found] == [
        (second, 1, Status.OPEN),
        (first, 1, Status.CLOSED),
    ]
    assert store.events([first, second], T0, T0 + 1) == [found[1], found[0]]
    assert [row["why"] for row in store.revisions(found[0].id)] == ["new"]


def test_events_that_touch_the_span_are_found(store: SqlStore) -> None:
    target = watch(store)[0]
    event = flag(store, target, interval(T0, T0 + 600))
    assert store.events([target], T0 + 600, T0 + 601) == [event]  # the end belongs to it
    assert store.events([target], T0 - 300, T0) == store.events([target], T0 + 601, T0 + 900) == []


def test_every_change_is_a_revision_with_run_and_reason(store: SqlStore) -> None:
    target = watch(store)[0]
    event = flag(store, target)
    claim = _claimed(store)
    longer = change(event, interval=interval(end=T0 + 900), why="late data")
    after = store.commit(claim, Batch(changes=[longer], expect={event.id: 1}))[0]
    assert (after.revision, after.interval.end) == (2, T0 + 900)
    last = store.revisions(event.id)[-1]
    assert (last["run_id"], last["why"]) == (claim.run_id, "late data")
    assert (last["before"]["end_ts"], last["after"]["end_ts"]) == (T0 + 600, T0 + 900)


def test_a_change_that_changes_nothing_is_no_revision(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    rounded = interval(peak_score=2.0 * (1 + 1e-7), impact=-12.5 * (1 - 1e-7))
    assert store.commit(None, Batch(changes=[change(event), change(event, interval=rounded)][:1])) == []
    assert store.commit(None, Batch(changes=[change(event, interval=rounded)])) == []
    assert len(store.revisions(event.id)) == 1
    assert len(store.commit(None, Batch(changes=[change(event, interval=interval(peak_score=2.1))]))) == 1


def test_shares_come_back_as_stored_and_their_rounding_is_no_revision(store: SqlStore) -> None:
    target = watch(store)[0]
    event = flag(store, target, interval(shares={"ccu": 0.25, "crashes": 0.75}))
    (stored,) = store.events([target], 0, 10**12)
    assert stored.interval.shares == {"ccu": 0.25, "crashes": 0.75}
    rounded = interval(shares={"ccu": 0.2500001, "crashes": 0.7499999})
    assert store.commit(None, Batch(changes=[change(event, interval=rounded)])) == []
    moved = interval(shares={"ccu": 0.5, "crashes": 0.5})
    (after,) = store.commit(None, Batch(changes=[change(event, interval=moved)]))
    assert (after.revision, after.interval.shares) == (2, {"ccu": 0.5, "crashes": 0.5})


def test_an_event_with_another_revision_is_stale_and_nothing_is_written(store: SqlStore) -> None:
    target = watch(store)[0]
    event = flag(store, target)
    store.review(event.id, Verdict.CONFIRMED)
    batch = Batch(
        scores=score_block([(target, T0, 1, 1.0, 1.0, NAN, NAN)]),
        changes=[new(target, interval(T0 + 3600, T0 + 4000)), change(event, status=Status.OUTDATED)],
        scored_until={target: T0},
        expect={event.id: event.revision},
    )
    with pytest.raises(
        StaleEventsError, match=f"event {event.id} has revision 2, .* from 1; reconcile again"
    ):
        store.commit(None, batch)
    assert score_rows(store, [target]) == []
    assert len(store.events([target], 0, 10**12)) == 1
    assert store.targets(store.monitors()[0].id)[0].scored_until is None


def test_a_new_event_over_one_that_was_not_read_is_stale(store: SqlStore) -> None:
    target = watch(store)[0]
    event = flag(store, target)
    overlapping = Batch(changes=[new(target, interval(T0 + 300, T0 + 1200))])
    with pytest.raises(StaleEventsError, match=f"lies over event {event.id}, which was not read before"):
        store.commit(None, overlapping)
    other = Batch(changes=[new(target, interval(kind=Kind.FLATLINE))])
    assert len(store.commit(None, other)) == 1


def test_of_two_passes_that_found_one_interval_the_second_is_stale(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = watch(store)[0]
    inside, outcomes = threading.Barrier(2, timeout=1), []
    apply = events.apply

    def meet(*args: Any) -> list[events.Changed]:
        # Where nothing keeps them apart, both are here at once, and neither sees what the other writes.
        with suppress(threading.BrokenBarrierError):
            inside.wait()
        return apply(*args)

    monkeypatch.setattr(events, "apply", meet)

    def commit() -> None:
        try:
            outcomes.append(len(store.commit(None, Batch(changes=[new(target, interval())]))))
        except StaleEventsError:
            outcomes.append(0)

    both = [threading.Thread(target=commit) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert sorted(outcomes) == [0, 1]
    assert len(store.events([target], 0, 10**12)) == 1


def test_merged_events_are_not_listed_and_name_the_survivor(store: SqlStore) -> None:
    target = watch(store)[0]
    first = flag(store, target, interval(T0, T0 + 300))
    second = flag(store, target, interval(T0 + 900, T0 + 1200))
    merged = change(second, status=Status.MERGED, merged_into=first.id)
    grown = change(first, interval=interval(T0, T0 + 1200))
    found = store.commit(None, Batch(changes=[merged, grown]))
    assert [(event.id, event.merged_into) for event in found] == [(second.id, first.id), (first.id, None)]
    assert [event.id for event in store.events([target], 0, 10**12)] == [first.id]
    with pytest.raises(
        UnknownEventError, match=f"was merged into event {first.id}; review {first.id} instead"
    ):
        store.review(second.id, Verdict.CONFIRMED)


def test_an_outdated_event_is_kept_and_listed(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.commit(None, Batch(changes=[change(event, status=Status.OUTDATED)]))
    assert [found.status for found in store.events([event.target_id], 0, 10**12)] == [Status.OUTDATED]


def test_a_reviewed_event_never_becomes_outdated(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.review(event.id, Verdict.FALSE_POSITIVE)
    with pytest.raises(ReviewedEventError, match=f"event {event.id} was reviewed .* mark it below_line"):
        store.commit(None, Batch(changes=[change(event, status=Status.OUTDATED)]))
    found = store.commit(None, Batch(changes=[change(event, status=Status.BELOW_LINE)]))[0]
    assert (found.status, found.reviewed, found.revision) == (Status.BELOW_LINE, True, 3)


def test_an_event_without_a_finite_score_is_refused(store: SqlStore) -> None:
    with pytest.raises(InvalidError, match="expected a finite peak_score of an event, got nan"):
        flag(store, watch(store)[0], interval(peak_score=NAN))


# reviews


def test_reviews_are_appended_and_the_last_counts(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    first = store.review(event.id, Verdict.UNSURE, comment="looks odd", by="ann")
    second = store.review(event.id, Verdict.CONFIRMED, cause="deploy", by="bob", start=T0 - 300)
    assert [row["id"] for row in store.reviews(event.id)] == [first, second]
    assert [row["verdict"] for row in store.reviews(event.id)] == ["unsure", "confirmed"]
    row = store.rows("flagged_intervals")[0]
    assert (row["review_verdict"], row["review_cause"], row["revision"]) == ("confirmed", "deploy", 3)
    assert (row["start_at"], row["end_at"]) == ("2025-03-01T11:55:00Z", "2025-03-01T12:10:00Z")


def test_a_later_review_without_borders_keeps_those_that_were_moved(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.review(event.id, Verdict.CONFIRMED, end=T0 + 1200)
    store.review(event.id, Verdict.EXPECTED)
    assert store.rows("flagged_intervals")[0]["end_at"] == "2025-03-01T12:20:00Z"


def test_borders_the_wrong_way_round_are_refused(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    with pytest.raises(InvalidError, match="ends at or after its start"):
        store.review(event.id, Verdict.CONFIRMED, start=T0 + 9000)
    assert store.reviews(event.id) == []


def test_borders_over_another_anomaly_are_refused(store: SqlStore) -> None:
    target = watch(store)[0]
    first = flag(store, target)
    second = flag(store, target, interval(start=T0 + 7200, end=T0 + 9000))
    with pytest.raises(OverlappingEventError, match=rf"event {second.id} lies there already, from "):
        store.review(first.id, Verdict.CONFIRMED, end=T0 + 7200)
    assert store.reviews(first.id) == []
    store.review(first.id, Verdict.CONFIRMED, end=T0 + 7199)


def test_half_a_character_is_refused_and_nothing_is_stored(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    with pytest.raises(UnstorableError, match=r"the database refuses a value: .* surrogates not allowed"):
        store.review(event.id, Verdict.CONFIRMED, comment="half: \ud83d")
    assert store.reviews(event.id) == []


def test_a_number_that_no_database_holds_is_refused(store: SqlStore) -> None:
    with pytest.raises(UnstorableError, match="the database refuses a value"):
        store.rows("flagged_intervals", {"event_id": 10**30})


def test_reviewing_an_outdated_event_shows_it_below_the_line(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.commit(None, Batch(changes=[change(event, status=Status.OUTDATED)]))
    store.review(event.id, Verdict.CONFIRMED)
    assert store.events([event.target_id], 0, 10**12)[0].status is Status.BELOW_LINE


def test_an_unknown_event_cannot_be_reviewed(store: SqlStore) -> None:
    with pytest.raises(UnknownEventError, match="no event has the id 7; `anomaly intervals` lists"):
        store.review(7, Verdict.CONFIRMED)


# borders, additions, and what is taken back


def row_of(store: SqlStore, event_id: int) -> dict[str, Any] | None:
    return next(iter(store.rows("flagged_intervals", {"event_id": event_id})), None)


def judged(store: SqlStore, event_id: int) -> tuple[Any, ...]:
    """Return verdict, cause and borders of an event as people see them."""
    row = row_of(store, event_id)
    assert row is not None
    return row["review_verdict"], row["review_cause"], row["start_ts"], row["end_ts"]


def test_moved_borders_alone_leave_an_event_to_be_judged_and_keep_it(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.review(event.id, None, start=T0 - 300, by="ann")
    assert judged(store, event.id) == (None, None, T0 - 300, T0 + 600)
    assert [row["event_id"] for row in store.rows("review_queue")] == [event.id]
    with pytest.raises(ReviewedEventError, match="was reviewed or added"):
        store.commit(None, Batch(changes=[change(event, status=Status.OUTDATED)]))
    with pytest.raises(AskedError, match="gives a verdict, moves a border, or does both"):
        store.review(event.id, None)


def test_every_undo_goes_one_act_back_until_none_is_left(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    first = store.review(event.id, Verdict.UNSURE, cause="deploy", by="ann")
    store.review(event.id, Verdict.CONFIRMED, start=T0 - 300, end=T0 + 900)
    store.review(event.id, None, end=T0 + 1200)
    seen = []
    for act in ("borders", "verdict", "verdict"):
        assert store.undo(event.id, by="bob", comment="slip")["act"] == act
        seen.append(judged(store, event.id))
    assert seen == [
        ("confirmed", "", T0 - 300, T0 + 900),
        ("unsure", "deploy", T0, T0 + 600),
        (None, None, T0, T0 + 600),
    ]
    with pytest.raises(NothingToUndoError, match=f"nothing is left to take back of event {event.id}"):
        store.undo(event.id)
    rows = store.reviews(event.id)
    assert [row["undone"] for row in rows] == [True] * 3 + [False] * 3
    assert (rows[5]["act"], rows[5]["undoes"], rows[5]["by"], rows[5]["comment"]) == (
        "undo",
        first,
        "bob",
        "slip",
    )
    assert [row["revision"] for row in store.revisions(event.id)] == list(range(1, 8))


def test_a_verdict_after_an_undo_can_be_taken_back_as_well(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.review(event.id, Verdict.EXPECTED)
    store.undo(event.id)
    store.review(event.id, Verdict.CONFIRMED)
    assert judged(store, event.id)[0] == "confirmed"
    store.undo(event.id)
    assert judged(store, event.id)[0] is None


def test_what_nothing_of_people_stands_of_is_as_if_nobody_had_come(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.commit(None, Batch(changes=[change(event, status=Status.OUTDATED)]))
    store.review(event.id, Verdict.CONFIRMED)
    assert row_of(store, event.id) is not None
    store.undo(event.id)
    (found,) = store.events([event.target_id], 0, 10**12)
    assert (found.status, found.reviewed, found.verdict) == (Status.OUTDATED, False, "")
    assert row_of(store, event.id) is None


def test_an_event_of_which_nothing_stands_may_become_outdated_again(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.review(event.id, Verdict.CONFIRMED)
    store.undo(event.id)
    store.commit(None, Batch(changes=[change(event, status=Status.OUTDATED)]))
    assert row_of(store, event.id) is None


def drawn(start: int = T0, end: int = T0 + 600) -> Interval:
    """Return an interval as a person draws it: nothing scored there."""
    return Interval(Kind.ANOMALY, start, end, 3, start, 0.5, 0.25)


def draw(store: SqlStore, target: int, found: Interval, **given: Any) -> tuple[int, bool]:
    values: dict[str, Any] = {"verdict": Verdict.CONFIRMED, "detected_at": T0 + 9000, "by": "ann"}
    return store.add_event(target, found, **(values | given))


def test_an_added_event_stands_with_its_verdict_below_the_line(store: SqlStore) -> None:
    target = watch(store)[0]
    event_id, is_new = draw(store, target, drawn(), cause="deploy")
    row = row_of(store, event_id)
    assert is_new
    assert row is not None
    assert (row["added"], row["status"], row["monitor_id"]) == (True, "below_line", store.monitors()[0].id)
    assert judged(store, event_id) == ("confirmed", "deploy", T0, T0 + 600)
    (found,) = store.events([target], 0, 10**12)
    assert (found.added, found.reviewed, found.verdict) == (True, True, "confirmed")
    with pytest.raises(ReviewedEventError):
        store.commit(None, Batch(changes=[change(found, status=Status.OUTDATED)]))
    assert store.rows("detector_precision") == []


def test_the_same_added_again_is_the_one_that_stands(store: SqlStore) -> None:
    target = watch(store)[0]
    event_id, _ = draw(store, target, drawn())
    assert draw(store, target, drawn(), by="bob") == (event_id, False)
    assert len(store.reviews(event_id)) == 1


@pytest.mark.parametrize("moved", [False, True])
def test_nothing_is_added_over_an_event_that_stands(store: SqlStore, moved: bool) -> None:
    target, other = watch(store)
    event = flag(store, target)
    if moved:
        store.review(event.id, None, start=T0 + 3600, end=T0 + 4200)
    for start in (T0 + 600, T0 + 3600) if moved else (T0 + 600,):
        with pytest.raises(
            OverlappingEventError, match=rf"event {event.id} lies .* `anomaly review {event.id} "
        ):
            draw(store, target, drawn(start, start + 60))
    assert draw(store, other, drawn(T0 + 600))[1]
    flag(store, other, interval(T0 + 9000, T0 + 9900, kind=Kind.DATA_MISSING))
    assert draw(store, other, drawn(T0 + 9000, T0 + 9300))[1]


def test_an_addition_that_is_taken_back_disappears_and_its_history_stays(store: SqlStore) -> None:
    target = watch(store)[0]
    event_id, _ = draw(store, target, drawn())
    store.review(event_id, Verdict.EXPECTED)
    store.undo(event_id)
    assert judged(store, event_id)[0] == "confirmed"
    store.undo(event_id)
    assert row_of(store, event_id) is None
    assert [row["act"] for row in store.reviews(event_id)] == ["add", "verdict", "undo", "undo"]
    again, is_new = draw(store, target, drawn())
    assert is_new
    assert again != event_id


def test_an_added_event_that_scores_by_now_is_one_like_others_when_it_is_taken_back(store: SqlStore) -> None:
    target = watch(store)[0]
    event_id, _ = draw(store, target, drawn(T0 + 60, T0 + 300))
    (found,) = store.events([target], 0, 10**12)
    store.commit(None, Batch(changes=[change(found, interval=interval(), status=Status.CLOSED)]))
    assert judged(store, event_id) == ("confirmed", "", T0 + 60, T0 + 300)
    store.undo(event_id)
    assert judged(store, event_id) == (None, None, T0, T0 + 600)
    (found,) = store.events([target], 0, 10**12)
    assert (found.status, found.added, found.reviewed) == (Status.CLOSED, False, False)


def test_who_saw_another_revision_is_told_so_and_nothing_is_written(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.review(event.id, Verdict.CONFIRMED, expect=event.revision)
    for late in (partial(store.review, event.id, Verdict.EXPECTED), partial(store.undo, event.id)):
        with pytest.raises(
            ChangedEventError, match=f"event {event.id} has revision 2 by now, and 1 was looked at"
        ):
            late(expect=event.revision)
    assert len(store.reviews(event.id)) == 1


def test_what_was_merged_into_another_event_cannot_be_taken_back(store: SqlStore) -> None:
    target = watch(store)[0]
    first, second = flag(store, target), flag(store, target, interval(T0 + 3600, T0 + 4200))
    merged = change(second, status=Status.MERGED, merged_into=first.id)
    store.commit(None, Batch(changes=[merged]))
    with pytest.raises(UnknownEventError, match=f"was merged into event {first.id}"):
        store.undo(second.id)
    with pytest.raises(UnknownEventError, match="no event has the id 77"):
        store.undo(77)


def at_once(*works: Any) -> list[Any]:
    """Return what works give or raise that begin together, each in a thread of its own."""
    ready, found = threading.Barrier(len(works)), [None] * len(works)

    def run(k: int) -> None:
        ready.wait()
        try:
            found[k] = works[k]()
        except Exception as error:
            found[k] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_two_that_add_the_same_at_once_add_one_event(store: SqlStore) -> None:
    target = watch(store)[0]
    found = at_once(*[partial(draw, store, target, drawn())] * 4)
    assert sorted(is_new for _, is_new in found) == [False, False, False, True]
    assert len({event_id for event_id, _ in found}) == 1


def test_of_two_that_take_back_what_both_saw_one_is_told_that_it_changed(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.review(event.id, Verdict.UNSURE)
    store.review(event.id, Verdict.CONFIRMED)
    found = at_once(*[partial(store.undo, event.id, expect=3)] * 2)
    assert sorted(type(each).__name__ for each in found) == ["ChangedEventError", "dict"]
    assert judged(store, event.id)[0] == "unsure"


def test_two_that_take_back_whatever_stands_go_two_acts_back(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.review(event.id, Verdict.UNSURE)
    store.review(event.id, Verdict.CONFIRMED)
    found = at_once(*[partial(store.undo, event.id)] * 3)
    assert sorted(type(each).__name__ for each in found) == ["NothingToUndoError", "dict", "dict"]
    undone = [row["undoes"] for row in store.reviews(event.id) if row["act"] == "undo"]
    assert len(undone) == len(set(undone)) == 2


def test_looks_come_with_their_events_those_judged_first_then_the_newest(store: SqlStore) -> None:
    target = watch(store)[0]
    events = [flag(store, target, interval(T0 + 3600 * k, T0 + 3600 * k)) for k in range(4)]
    store.review(events[1].id, Verdict.CONFIRMED, cause="deploy")
    store.review(events[2].id, Verdict.UNSURE)
    shape = {"course": [0.5, -1.0], "n_steps": 3}
    look = EventPortrait(events[3].id, 1, shape, "expected", "patch", 0.75)
    store.write_event_portraits(None, [look])
    monitor = store.monitors()[0].id
    found = store.event_portraits(monitor, 10)
    assert [event.id for event, _ in found] == [events[k].id for k in (1, 3, 2, 0)]
    assert [seen for _, seen in found] == [None, look, None, None]
    assert (found[0][0].verdict, found[0][0].cause) == ("confirmed", "deploy")
    assert [event.id for event, _ in store.event_portraits(monitor, 2)] == [events[1].id, events[3].id]
    assert store.event_portraits(monitor + 1, 10) == []


def test_looks_come_in_pages_of_those_judged_or_of_the_others(store: SqlStore) -> None:
    target = watch(store)[0]
    events = [flag(store, target, interval(T0 + 3600 * k, T0 + 3600 * k)) for k in range(5)]
    store.review(events[1].id, Verdict.CONFIRMED)
    store.review(events[2].id, Verdict.UNSURE)
    monitor = store.monitors()[0].id

    def page(judged: bool, after: Event | None = None) -> list[int]:
        place = None if after is None else (after.interval.start, after.id)
        found = store.event_portraits(monitor, 3, judged=judged, after=place)
        return [events.index(next(e for e in events if e.id == event.id)) for event, _ in found]

    assert page(judged=True) == [1]
    assert page(judged=False) == [4, 3, 2]
    assert page(judged=False, after=events[2]) == [0]


def test_looks_are_current_once_those_of_the_newest_verdicts_and_of_all_others_are(store: SqlStore) -> None:
    target = watch(store)[0]
    events = [flag(store, target, interval(T0 + 3600 * k, T0 + 3600 * k)) for k in range(4)]
    for event in events[:2]:
        store.review(event.id, Verdict.CONFIRMED)
    monitor = store.monitors()[0].id
    assert store.portrait_state(monitor, 1) == PortraitState(is_current=False, suggested=0)
    looks = [EventPortrait(events[k].id, 1 + (k == 1)) for k in (1, 2)]
    store.write_event_portraits(None, [*looks, EventPortrait(events[3].id, 1, verdict="unknown")])
    assert store.portrait_state(monitor, 1) == PortraitState(is_current=True, suggested=1)
    assert not store.portrait_state(monitor, 2).is_current
    store.undo(events[1].id)
    assert not store.portrait_state(monitor, 1).is_current


def test_events_that_do_not_stand_are_not_looked_at(store: SqlStore) -> None:
    target = watch(store)[0]
    event, other = flag(store, target), flag(store, target, interval(T0 + 3600, T0 + 3600))
    gone = [
        change(event, status=Status.OUTDATED),
        change(other, status=Status.MERGED, merged_into=event.id),
    ]
    store.commit(None, Batch(changes=gone))
    assert store.event_portraits(store.monitors()[0].id, 10) == []


def test_a_look_replaces_the_last_and_leaves_event_and_reviews_alone(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.review(event.id, Verdict.UNSURE, cause="deploy")
    before = store.events([event.target_id], 0, 2**40), store.reviews(event.id), store.revisions(event.id)
    for look in (EventPortrait(event.id, 1, {"n_steps": 2}, "unknown"), EventPortrait(event.id, 2)):
        store.write_event_portraits(None, [look])
        assert [seen for _, seen in store.event_portraits(store.monitors()[0].id, 10)] == [look]
    store.write_event_portraits(None, [])
    after = store.events([event.target_id], 0, 2**40), store.reviews(event.id), store.revisions(event.id)
    assert after == before


def test_a_lost_claim_writes_no_looks(store: SqlStore) -> None:
    event = flag(store, watch(store)[0])
    store.schedule(RunKind.TICK, None, NOON)
    claim = store.claim("a", 60)
    assert claim is not None
    store.give_back(claim)
    with pytest.raises(LostClaimError):
        store.write_event_portraits(claim, [EventPortrait(event.id, 1)])
    assert [seen for _, seen in store.event_portraits(store.monitors()[0].id, 10)] == [None]


@pytest.mark.parametrize("statement", ["UPDATE {} SET at = 0", "DELETE FROM {}"])
@pytest.mark.parametrize("table", ["review", "event_revision"])
def test_reviews_and_revisions_cannot_be_changed_by_any_client(
    store: SqlStore, table: str, statement: str
) -> None:
    store.review(flag(store, watch(store)[0]).id, Verdict.CONFIRMED)
    with pytest.raises(Exception, match=f"table {table} is append-only"), store.engine.begin() as connection:
        connection.execute(text(statement.format(table)))


# runs


def _claimed(store: SqlStore, lease: float = 60.0, at: datetime = NOON) -> Claim:
    store.schedule(RunKind.TICK, None, at)
    claim = store.claim("me", lease)
    assert claim is not None
    return claim


def _let_pass(store: SqlStore, seconds: float) -> None:
    """Bring every lease and pause nearer to its end, as the database's clock would."""
    passed = "UPDATE run SET lease_until = lease_until - :seconds, retry_at = retry_at - :seconds"
    with store.engine.begin() as connection:
        connection.execute(text(passed), {"seconds": seconds})


def _together(*works: Any) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_run_is_scheduled_once(store: SqlStore) -> None:
    monitor = store.sync_monitors({"m": {}})[0].id
    for one in (None, monitor):
        assert store.schedule(RunKind.TICK, one, NOON)
        assert not store.schedule(RunKind.TICK, one, NOON.astimezone())
    assert store.schedule(RunKind.NIGHTLY, monitor, NOON)
    assert store.schedule(RunKind.TICK, monitor, NOON + timedelta(seconds=300))
    assert store.last_run(RunKind.TICK, monitor) == NOON + timedelta(seconds=300)
    assert (store.last_run(RunKind.TICK), store.last_run(RunKind.NIGHTLY)) == (NOON, None)


def test_a_read_is_scheduled_once_for_each_source(store: SqlStore) -> None:
    for source in ("files", "warehouse"):
        assert store.schedule(RunKind.INGEST, None, NOON, source)
        assert not store.schedule(RunKind.INGEST, None, NOON.astimezone(), source)
    rows = store.rows("run_log")
    assert sorted((row["kind"], row["source"]) for row in rows) == [
        ("ingest", "files"),
        ("ingest", "warehouse"),
    ]
    store.schedule(RunKind.TICK, None, NOON)
    assert [row["source"] for row in store.rows("run_log", {"kind": "tick"})] == [None]


def test_a_naive_time_is_refused(store: SqlStore) -> None:
    with pytest.raises(ValueError, match="expected an aware datetime, got 2025-03-01T12:00:00"):
        store.schedule(RunKind.TICK, None, NOON.replace(tzinfo=None))


def test_the_oldest_run_of_the_kinds_asked_for_is_claimed(store: SqlStore) -> None:
    store.schedule(RunKind.NIGHTLY, None, NOON)
    store.schedule(RunKind.TICK, None, NOON + timedelta(seconds=600))
    store.schedule(RunKind.TICK, None, NOON + timedelta(seconds=300))
    claim = store.claim("me", 60, [RunKind.TICK, RunKind.RESCORE])
    assert claim is not None
    assert (claim.kind, claim.scheduled_for) == (RunKind.TICK, NOON + timedelta(seconds=300))
    assert (claim.owner, claim.fence, claim.attempts, claim.monitor_id) == ("me", 1, 1, None)


def test_a_second_claimer_stands_back(store: SqlStore) -> None:
    _claimed(store)
    assert store.claim("you", 60) is None


def test_of_claimers_at_once_exactly_one_wins(store: SqlStore, database_url: str) -> None:
    with SqlStore(database_url) as other:
        for minute in range(5):
            store.schedule(RunKind.TICK, None, NOON + timedelta(minutes=minute))
            found: list[Claim | None] = []
            _together(*[partial(_claim_into, found, one) for one in (store, other, store)])
            won = [claim for claim in found if claim is not None]
            assert (len(found), len(won)) == (3, 1)
            store.finish(won[0], RunState.DONE, {})


def _claim_into(found: list[Claim | None], store: SqlStore) -> None:
    found.append(store.claim(threading.current_thread().name, 60))


def test_of_one_monitor_a_tick_and_a_night_are_at_work_at_once_and_no_other_two_runs(store: SqlStore) -> None:
    a, b = (row.id for row in store.sync_monitors({"a": {}, "b": {}}))
    later = NOON + timedelta(minutes=5)
    for at, monitor, kind in (
        (NOON, a, RunKind.TICK),
        (NOON, a, RunKind.BACKFILL),
        (NOON, a, RunKind.NIGHTLY),
        (later, a, RunKind.NIGHTLY),
        (later, a, RunKind.TICK),
        (later, b, RunKind.TICK),
    ):
        store.schedule(kind, monitor, at)
    claims = [store.claim(owner, 60) for owner in "xyz"]
    assert [claim and (claim.monitor_id, claim.kind, claim.scheduled_for) for claim in claims] == [
        (a, RunKind.TICK, NOON),
        (a, RunKind.NIGHTLY, NOON),
        (b, RunKind.TICK, later),
    ]
    assert store.claim("z", 60) is None
    assert claims[0] is not None
    store.finish(claims[0], RunState.DONE, {})
    fourth = store.claim("z", 60)
    assert fourth is not None
    assert (fourth.monitor_id, fourth.kind, fourth.scheduled_for) == (a, RunKind.TICK, later)


def test_reads_of_one_source_never_run_side_by_side(store: SqlStore) -> None:
    later = NOON + timedelta(minutes=5)
    for at, source in ((NOON, "files"), (later, "files"), (later, "warehouse")):
        store.schedule(RunKind.INGEST, None, at, source)
    first, second = store.claim("x", 60), store.claim("y", 60)
    assert first is not None
    assert second is not None
    assert [(one.source, one.scheduled_for) for one in (first, second)] == [
        ("files", NOON),
        ("warehouse", later),
    ]
    assert store.claim("z", 60) is None
    with pytest.raises(BusySourceError, match="source files is being read by x since 20"):
        store.begin_read("files", NOON, "z", 60)
    store.finish(first, RunState.FAILED, {}, "disk on fire")
    third = store.claim("z", 60)
    assert third is not None
    assert (third.source, third.scheduled_for) == ("files", later)


def test_a_read_and_the_work_of_monitors_run_side_by_side(store: SqlStore) -> None:
    (monitor,) = store.sync_monitors({"m": {}})
    for source in ("", "files"):
        store.schedule(RunKind.TICK if source == "" else RunKind.INGEST, None, NOON, source)
    store.schedule(RunKind.TICK, monitor.id, NOON)
    assert all(store.claim("x", 60) is not None for _ in range(3))


def test_a_run_that_is_left_for_later_holds_up_nobody(store: SqlStore) -> None:
    for minute in range(2):
        store.schedule(RunKind.INGEST, None, NOON + timedelta(minutes=minute), f"source {minute}")
    first = store.claim("me", 60)
    assert first is not None
    store.give_back(first)
    second = store.claim("me", 60, besides=[first.run_id])
    assert second is not None
    assert second.source == "source 1"
    assert store.claim("me", 60, besides=[first.run_id]) is None


def test_what_failed_keeps_its_place_before_the_later_work_of_its_monitor(store: SqlStore) -> None:
    a, b = (row.id for row in store.sync_monitors({"a": {}, "b": {}}))
    for kind, monitor, minute in ((RunKind.NIGHTLY, a, 0), (RunKind.TICK, a, 1), (RunKind.TICK, b, 2)):
        store.schedule(kind, monitor, NOON + timedelta(minutes=minute))
    night = store.claim("me", 60)
    assert night is not None
    store.finish(night, RunState.WAITING, {}, "no luck")
    other = store.claim("me", 60, besides=[night.run_id])
    assert other is not None
    assert other.monitor_id == b
    assert store.claim("me", 60, besides=[night.run_id]) is None


def test_a_read_that_begins_at_once_keeps_others_from_the_source(store: SqlStore) -> None:
    store.schedule(RunKind.INGEST, None, NOON - timedelta(minutes=5), "files")
    mine = store.begin_read("files", NOON, "me", 60)
    assert (mine.kind, mine.source, mine.scheduled_for, mine.owner, mine.attempts) == (
        RunKind.INGEST,
        "files",
        NOON,
        "me",
        1,
    )
    assert store.claim("you", 60) is None
    with pytest.raises(BusySourceError):
        store.begin_read("files", NOON, "you", 60)
    store.finish(mine, RunState.DONE, {"new": 3})
    waiting = store.claim("you", 60)
    assert waiting is not None
    assert waiting.scheduled_for == NOON - timedelta(minutes=5)


def test_a_read_of_a_moment_that_had_one_begins_again_under_another_fence(store: SqlStore) -> None:
    first = store.begin_read("files", NOON, "me", 60)
    store.finish(first, RunState.FAILED, {"new": 3}, "no such file")
    again = store.begin_read("files", NOON, "me", 60)
    assert (again.run_id, again.fence, again.attempts) == (first.run_id, first.fence + 1, 1)
    (row,) = store.rows("run_log")
    assert (row["state"], row["error"], row["outcome"], row["finished_at"]) == ("running", "", None, None)


def test_of_reads_that_begin_at_once_exactly_one_does(store: SqlStore, database_url: str) -> None:
    with SqlStore(database_url) as other:
        found: list[Claim] = []

        def begin(one: SqlStore, minute: int) -> None:
            with suppress(BusySourceError):
                found.append(one.begin_read("files", NOON + timedelta(minutes=minute), str(minute), 60))

        _together(*[partial(begin, one, minute) for minute, one in enumerate((store, other, store))])
        assert len(found) == 1


def test_a_lost_read_stores_no_points_and_no_progress(store: SqlStore) -> None:
    old = store.begin_read("telemetry", NOON, "me", 0.05)
    time.sleep(0.1)
    new_claim = store.begin_read("telemetry", NOON + timedelta(minutes=5), "you", 60)
    batch = Ingest("telemetry", [spec("a")], block([(0, T0, 1.0)]), progress={"file": {"bytes": 7}})
    with pytest.raises(LostClaimError, match="nothing was written"):
        store.ingest(batch, old)
    assert (store.series(), store.progress("telemetry")) == ([], {})
    assert store.ingest(batch, new_claim).new == 1
    assert store.progress("telemetry") == {"file": {"bytes": 7}}


def test_the_last_reads_tell_what_was_tried_and_what_is_pending(store: SqlStore) -> None:
    def told(until: datetime = NOON + timedelta(hours=1)) -> LastRead:
        return store.last_reads(["files"], until)["files"]

    assert told() == LastRead()
    store.schedule(RunKind.INGEST, None, NOON, "files")
    assert told() == LastRead(NOON, None, is_pending=True)
    claim = store.claim("me", 60)
    assert claim is not None
    assert told() == LastRead(NOON, None, is_pending=True)
    store.finish(claim, RunState.WAITING, {}, "no such file")
    assert told() == LastRead(NOON, NOON, is_pending=True)
    claim = store.claim("me", 60)
    assert claim is not None
    assert told() == LastRead(NOON, NOON, is_pending=True)
    store.finish(claim, RunState.DONE, {})
    assert told() == LastRead(NOON, NOON, is_pending=False)
    later = NOON + timedelta(minutes=5)
    store.schedule(RunKind.INGEST, None, later, "files")
    assert told() == LastRead(later, NOON, is_pending=True)
    assert told(until=NOON) == LastRead(NOON, NOON, is_pending=False)
    assert store.last_reads([], NOON) == {}
    assert store.last_reads(["warehouse"], later) == {"warehouse": LastRead()}


def test_a_lapsed_lease_is_taken_over_and_the_old_claim_commits_nothing(store: SqlStore) -> None:
    target = watch(store)[0]
    old = _claimed(store, lease=0.05)
    time.sleep(0.1)
    new_claim = store.claim("you", 60)
    assert new_claim is not None
    assert (new_claim.run_id, new_claim.fence, new_claim.attempts) == (old.run_id, old.fence + 1, 2)
    with pytest.raises(LostClaimError, match=f"me no longer holds run {old.run_id} .* nothing was written"):
        store.commit(old, Batch(changes=[new(target, interval())], scored_until={target: T0}))
    for refused in (
        lambda: store.heartbeat(old, 60),
        lambda: store.finish(old, RunState.DONE, {}),
        lambda: store.give_back(old),
        lambda: store.add_versions(old, [version(target)]),
        lambda: store.add_lines(old, []),
        lambda: store.add_calibrations(old, []),
    ):
        with pytest.raises(LostClaimError):
            refused()
    assert (store.events([target], 0, 10**12), store.versions([target])) == ([], [])
    store.commit(new_claim, Batch(changes=[new(target, interval())]))
    store.finish(new_claim, RunState.DONE, {})


def test_a_lapsed_lease_that_nobody_took_commits_nothing_either(store: SqlStore) -> None:
    claim = _claimed(store, lease=0.05)
    time.sleep(0.1)
    with pytest.raises(LostClaimError):
        store.commit(claim, Batch())
    store.finish(claim, RunState.DONE, {})  # what it committed in time is done


def test_a_heartbeat_keeps_the_lease(store: SqlStore) -> None:
    claim = _claimed(store, lease=60)
    for _ in range(3):
        _let_pass(store, seconds=40)
        store.heartbeat(claim, 60)
    assert store.claim("you", 60) is None
    store.commit(claim, Batch())


def test_a_finished_run_cannot_be_claimed_or_committed_to(store: SqlStore) -> None:
    claim = _claimed(store)
    store.finish(claim, RunState.DONE, {"points": 5})
    assert store.claim("you", 60) is None
    with pytest.raises(LostClaimError):
        store.commit(claim, Batch())
    assert store.rows("run_log")[0]["outcome"] == {"points": 5}


def test_a_run_given_back_waits_again_and_its_attempt_does_not_count(store: SqlStore) -> None:
    store.give_back(_claimed(store))
    again = store.claim("you", 60)
    assert again is not None
    assert (again.attempts, again.fence) == (1, 2)


def test_a_run_whose_owner_always_dies_fails_after_three_attempts(store: SqlStore) -> None:
    store.schedule(RunKind.TICK, None, NOON)
    for attempt in (1, 2, 3):
        claim = store.claim("me", 0.02)
        assert claim is not None
        assert claim.attempts == attempt
        time.sleep(0.05)
    assert store.claim("me", 60) is None
    row = store.rows("run_log")[0]
    assert (row["state"], row["attempts"]) == ("failed", 3)
    assert row["error"].startswith("given up after 3 attempts")


def _worn_out(store: SqlStore, kind: RunKind, monitor: int) -> None:
    """Let a run that is due at noon fail as often as it may."""
    store.schedule(kind, monitor, NOON)
    for _ in range(3):
        claim = store.claim("me", 60, [kind])
        assert claim is not None
        store.finish(claim, RunState.WAITING, {}, "no luck")


def test_a_night_that_failed_is_tried_again_after_pauses_that_double_up_to_an_hour(store: SqlStore) -> None:
    (monitor,) = (row.id for row in store.sync_monitors({"a": {}}))
    _worn_out(store, RunKind.NIGHTLY, monitor)
    for minutes in (1, 2, 4, 8, 16, 32, 60, 60):
        assert store.rows("run_log")[0]["state"] == "failed"
        _let_pass(store, seconds=60 * minutes - 20)
        assert store.claim("me", 60) is None
        _let_pass(store, seconds=30)
        again = store.claim("me", 60)
        assert again is not None
        store.finish(again, RunState.WAITING, {}, "no luck")
    assert again.attempts == 11
    assert store.rows("run_log")[0]["error"] == "given up after 11 attempts: no luck"
    _let_pass(store, seconds=4000)
    again = store.claim("me", 60)
    assert again is not None
    store.finish(again, RunState.DONE, {})
    assert [(row["state"], row["retry_at"]) for row in store.rows("run_log")] == [("done", None)]


def test_a_night_whose_owner_always_dies_is_tried_again_too(store: SqlStore) -> None:
    (monitor,) = (row.id for row in store.sync_monitors({"a": {}}))
    store.schedule(RunKind.NIGHTLY, monitor, NOON)
    for _ in range(3):
        assert store.claim("me", 60) is not None
        _let_pass(store, seconds=61)
    assert store.claim("me", 60) is None
    assert store.rows("run_log")[0]["state"] == "failed"
    _let_pass(store, seconds=61)
    assert store.claim("me", 60) is not None


def test_a_night_that_failed_is_not_tried_again_once_the_next_is_there(store: SqlStore) -> None:
    (monitor,) = (row.id for row in store.sync_monitors({"a": {}}))
    _worn_out(store, RunKind.NIGHTLY, monitor)
    _worn_out(store, RunKind.TICK, monitor)
    store.schedule(RunKind.NIGHTLY, monitor, NOON + timedelta(days=1))
    _let_pass(store, seconds=100)
    found = store.claim("me", 60)
    assert found is not None
    assert found.scheduled_for == NOON + timedelta(days=1)
    assert store.claim("me", 60) is None


def test_what_a_clock_that_was_ahead_scheduled_does_not_count(store: SqlStore) -> None:
    (monitor,) = (row.id for row in store.sync_monitors({"a": {}}))
    ahead = NOON + timedelta(days=365)
    store.schedule(RunKind.TICK, monitor, ahead)
    assert store.claim("me", 60, until=NOON) is None
    assert store.last_run(RunKind.TICK, monitor, until=NOON) is None
    store.schedule(RunKind.TICK, monitor, NOON)
    claim = store.claim("me", 60, until=NOON)
    assert claim is not None
    assert store.last_run(RunKind.TICK, monitor, until=NOON) == claim.scheduled_for == NOON
    store.finish(claim, RunState.DONE, {})
    assert store.claim("me", 60, until=NOON) is None
    assert store.claim("me", 60, until=ahead) is not None


def test_a_lease_that_a_clock_ahead_gave_holds_nothing_back(store: SqlStore) -> None:
    claim = _claimed(store)
    _let_pass(store, seconds=-365 * 86400)
    with pytest.raises(LostClaimError):
        store.heartbeat(claim, 60)
    taken = store.claim("you", 60)
    assert taken is not None
    assert taken.fence == 2


def test_a_pause_that_a_clock_ahead_began_holds_nothing_back(store: SqlStore) -> None:
    (monitor,) = (row.id for row in store.sync_monitors({"a": {}}))
    _worn_out(store, RunKind.NIGHTLY, monitor)
    _let_pass(store, seconds=-365 * 86400)
    assert store.claim("me", 60) is not None


def test_a_run_that_asks_for_another_attempt_gets_three(store: SqlStore) -> None:
    store.schedule(RunKind.TICK, None, NOON)
    for _ in range(3):
        claim = store.claim("me", 60)
        assert claim is not None
        store.finish(claim, RunState.WAITING, {}, "source unreachable")
    assert store.claim("me", 60) is None
    assert store.rows("run_log")[0]["error"] == "given up after 3 attempts: source unreachable"
