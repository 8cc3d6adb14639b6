"""Every night holds the calibrations against the scores that came since, and draws the line anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
from monitor_jobs import END, HOUR, START, hours, ingest, job, monitor, waves

from anomaly_service.db.store import SqlStore
from pipelines.executor import Inline
from pipelines.jobs import passes
from pipelines.jobs.fit_times import nights
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import Mode, Verdict
from pipelines.records import CalibrationRow, LineRow, Policy
from pipelines.steps.bodies import CalibrationEntry, LineEntry
from pipelines.steps.evidence import GRID, Realised
from pipelines.steps.line import Calibrated
from pipelines.times import DAY
from pipelines.workers.explained import settled_after
from pipelines.workers.recount import ObserveTask

# Both serve passes alike: test_passes holds them to that, and the contract of the store to what is asked.
pytestmark = pytest.mark.databases("sqlite")

SPEC = monitor("load", threshold=Threshold(alarms_per_week=3.0))
T = TypeVar("T")
R = TypeVar("R")
LAG = SPEC.nightly.window_seconds + settled_after(SPEC.params["window"]) * HOUR


@pytest.fixture
def filled(store: SqlStore) -> SqlStore:
    return fill(store)


def fill(store: SqlStore, hosts: Iterable[str] = "012", **more: float) -> SqlStore:
    ingest(store, "load", {host: course(int(host), **more) for host in hosts})
    return store


def course(seed: int, louder: float = 1.0, days: float = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return a daily rhythm whose noise is louder in the last ten days."""
    ts, value = waves(seed, hours(START, START + int(days * DAY)))
    rhythm = 100 + 20 * np.sin(2 * np.pi * ts / DAY + seed)
    return ts, rhythm + (value - rhythm) * np.where(ts >= END - 10 * DAY, louder, 1.0)


def rows(at: MonitorJob) -> list[CalibrationRow]:
    """Return what nights have seen, in order of target, mode and night."""
    owner = {v.id: v.target_id for own in at.versions(at.targets()).values() for v in own}
    found = [row for row in at.store.calibrations(list(owner)) if entry(row).seen]
    return sorted(found, key=lambda row: (owner[row.version_id], row.mode, row.valid_from))


def entry(row: CalibrationRow) -> CalibrationEntry:
    return CalibrationEntry.from_json(row.body)


def counted(at: MonitorJob) -> dict[tuple[Mode, int], Realised]:
    """Return what was realised up to each night, by mode and night."""
    lines = at.store.lines(at.monitor.id, target_ids=())
    read = [(row, LineEntry.from_json(row.body).counted) for row in lines]
    return {(row.mode, row.valid_from): known.realised for row, known in read if known is not None}


def learned(at: MonitorJob) -> tuple[list[tuple[int, str, int, str]], list[LineRow]]:
    """Return everything that nights have learned, ids of versions left out."""
    begins = {v.id: (v.target_id, v.train_stop) for own in at.versions(at.targets()).values() for v in own}
    seen = [(*begins[row.version_id], row.mode, row.valid_from, str(entry(row).seen)) for row in rows(at)]
    return sorted(seen), at.store.lines(at.monitor.id)  # type: ignore[return-value]  # five columns


def test_every_night_leaves_a_calibration_of_each_series_and_a_line(filled: SqlStore) -> None:
    at = job(filled, SPEC)
    passes.backfill(at, END - 2 * DAY)
    before = {(row.version_id, row.mode, row.valid_from) for row in rows(at)}
    (night,) = nights(SPEC.nightly, END - 2 * DAY + 1, END - DAY + 1)
    passes.nightly(at, night, night)
    new = {(row.version_id, row.mode, row.valid_from) for row in rows(at)} - before
    in_force = {own[-1].id for own in at.versions(at.targets()).values()}
    assert new == {(version, mode, night) for version in in_force for mode in Mode}
    assert {mode for mode, at_night in counted(at) if at_night == night} == set(Mode)


def test_a_night_learns_from_the_day_behind_the_late_window(filled: SqlStore) -> None:
    at = job(filled, SPEC)
    passes.backfill(at, END)
    first = at.versions(at.targets())[1][0].train_stop
    known = counted(at)
    live = {night: found for (mode, night), found in known.items() if mode is Mode.LIVE}
    usual = 3 * 24 * HOUR / (7 * DAY)
    for night, found in live.items():
        days = sum(np.exp(-(night - n) / DAY / 28) for n in live if first < n - LAG and n <= night)
        # A night's first day holds only what the first version scores.
        assert found.weeks == pytest.approx(usual * days, rel=0.25, abs=usual)
    assert live[min(live)].weeks == 0.0


def test_a_night_repeated_learns_nothing_twice(filled: SqlStore) -> None:
    at = job(filled, SPEC)
    passes.backfill(at, END)
    before = learned(at)
    passes.nightly(at, END, END)
    passes.backfill(at, END)
    assert learned(at) == before


def test_nights_one_by_one_learn_what_they_learn_at_once(new_store: Callable[[], SqlStore]) -> None:
    at_once, one_by_one = (job(fill(new_store()), SPEC) for _ in range(2))
    passes.backfill(at_once, END)
    for night in nights(SPEC.nightly, START + 10 * DAY, END + 1):
        passes.nightly(one_by_one, night, night)
    seen, lines = learned(at_once)
    seen_too, lines_too = learned(one_by_one)
    assert (seen, lines) == (seen_too, lines_too)


def test_points_that_change_within_the_late_window_change_nothing_learned(
    new_store: Callable[[], SqlStore],
) -> None:
    found = []
    for corrected in (False, True):
        store = fill(new_store())
        at = job(store, SPEC)
        night = nights(SPEC.nightly, END - 6 * DAY, END)[1]
        assert night not in {v.train_stop for own in at.versions(at.targets()).values() for v in own}
        passes.backfill(at, night - 1)
        if corrected:
            ts, value = course(0)
            late = (ts > night - LAG) & (ts < night)
            ingest(store, "load", {"0": (ts[late], 3 * value[late])})
        passes.nightly(replace(at, _series={}), night, night)
        found.append(learned(at)[1][-1])
    assert found[0] == found[1]


def test_a_series_that_grew_louder_is_held_to_its_budget_again(new_store: Callable[[], SqlStore]) -> None:
    alarms = []
    for spec in (SPEC, replace(SPEC, nightly=replace(SPEC.nightly, window_seconds=30 * DAY))):
        # With a late window of a month no night has learned anything yet.
        store = fill(new_store(), [str(host) for host in range(20)], louder=1.35)
        at = job(store, replace(spec, fit_every_seconds=60 * DAY))
        passes.backfill(at, END)
        alarms.append(len(store.events([t.id for t in at.targets()], END - 5 * DAY, END)))
    assert alarms[0] < 0.7 * alarms[1]


@pytest.mark.parametrize("per", ["monitor", "series"])
def test_a_point_is_held_against_what_was_known_the_night_before_it(filled: SqlStore, per: str) -> None:
    at = job(filled, replace(SPEC, threshold=Threshold(alarms_per_week=1.0, per=per)))
    passes.backfill(at, END)
    versions = at.versions(at.targets())[1]
    block = filled.scores([1], versions[0].train_stop, END)
    owner = 1 if per == "series" else None
    lines = [row for row in filled.lines(at.monitor.id) if row.mode is Mode.LIVE and row.target_id == owner]
    kept = [row for row in filled.calibrations([v.id for v in versions]) if row.mode is Mode.LIVE]
    for ts, version, live, anomaly in zip(
        block.ts, block.version, block.live, block.live_anomaly, strict=True
    ):
        own = [entry(row) for row in kept if row.version_id == version and row.valid_from <= ts]
        body = next(each.fit for each in own if each.fit)
        seen = [each.seen for each in own if each.seen]
        row = max((row for row in lines if row.valid_from <= ts), key=lambda row: row.valid_from)
        known = Calibrated.of(body, LineEntry.from_json(row.body).line, seen[-1] if seen else None)
        assert known.anomaly_score(np.array([live]))[0] == pytest.approx(anomaly, rel=1e-6, nan_ok=True)


def test_what_people_confirmed_as_anomalous_teaches_nothing(new_store: Callable[[], SqlStore]) -> None:
    learned_of = []
    for verdict in (None, Verdict.FALSE_POSITIVE, Verdict.CONFIRMED):
        store = new_store()
        ts, value = course(0)
        value[(ts >= END - 5 * DAY) & (ts < END - 5 * DAY + 6 * HOUR)] *= 0.3
        ingest(store, "load", {"0": (ts, value)})
        at = job(store, SPEC)
        passes.backfill(at, END - 4 * DAY)
        found = [e for e in store.events([1], END - 5 * DAY, END) if e.interval.peak_score > 1.5]
        assert found
        for event in found if verdict else ():
            store.review(event.id, verdict, by="ann")
        passes.backfill(at, END)
        last = max(counted(at).items(), key=lambda item: (item[0][0] is Mode.LIVE, item[0][1]))[1]
        learned_of.append((float(last.alarm_values[GRID > 3].max()), last.weeks))
    nobody, normal, incident = learned_of
    assert nobody == normal
    assert nobody[0] > 0.5
    assert incident[0] < 0.5 * nobody[0]
    assert incident[1] < nobody[1]


def test_alarms_of_another_policy_say_nothing_about_this_one(filled: SqlStore) -> None:
    at = job(filled, SPEC)
    passes.backfill(at, END - 2 * DAY)
    assert max(found.weeks for found in counted(at).values()) > 1.0
    strict = job(filled, replace(SPEC, policy=Policy(min_duration_seconds=3 * HOUR)))
    passes.backfill(strict, END)
    # Counted anew, from the first night on: the scores are there to count them in.
    fresh = job(filled, replace(SPEC, policy=Policy(min_duration_seconds=3 * HOUR)))
    marks = {
        known.mark
        for row in filled.lines(fresh.monitor.id, target_ids=())
        if (known := LineEntry.from_json(row.body).counted)
    }
    assert len(marks) == 1


def test_what_another_policy_realises_is_counted_whichever_command_comes_first(filled: SqlStore) -> None:
    passes.backfill(job(filled, SPEC), END)
    strict = job(filled, replace(SPEC, policy=Policy(min_duration_seconds=3 * HOUR)))
    passes.backfill(strict, END)
    assert max(found.weeks for found in counted(strict).values()) > 1.0


def test_another_threshold_keeps_what_was_realised(filled: SqlStore) -> None:
    at = job(filled, SPEC)
    passes.backfill(at, END)
    before = counted(at)
    for threshold in (Threshold(alarms_per_week=0.5), Threshold(alarms_per_week=1.0, per="series")):
        other = job(filled, replace(SPEC, threshold=threshold))
        passes.rescore(other, START, END, END)
        assert {key: found.to_json() for key, found in counted(other).items()} == {
            key: found.to_json() for key, found in before.items()
        }


def test_a_series_that_joins_makes_up_for_its_nights_and_leaves_the_lines_of_others(
    filled: SqlStore,
) -> None:
    passes.backfill(job(filled, SPEC), END - DAY)
    before = {(row.mode, row.valid_from): row.body for row in filled.lines(1)}
    ingest(filled, "load", {"9": course(9)})
    at = job(filled, SPEC)
    passes.backfill(at, END)
    (new,) = [t.id for t in at.targets() if t.key.endswith("host=9}")]
    begins = {v.id: v.target_id for own in at.versions(at.targets()).values() for v in own}
    by_target: dict[int, set[int]] = {}
    for row in rows(at):
        by_target.setdefault(begins[row.version_id], set()).add(row.valid_from)
    assert by_target[new] == by_target[1]
    slots = {v.train_stop for v in at.versions(at.targets())[new]}
    unmoved = {key: body for key, body in before.items() if key[1] not in slots}
    after = {(row.mode, row.valid_from): row.body for row in filled.lines(1)}
    assert {key: after[key] for key in unmoved} == unmoved


def test_models_fitted_anew_are_held_against_the_scores_anew(filled: SqlStore) -> None:
    at = job(filled, SPEC)
    passes.backfill(at, END)
    replaced = {v.id for own in at.versions(at.targets()).values() for v in own}
    start = at.versions(at.targets())[1][1].train_stop
    passes.rescore(at, start, END, END, again=True)
    fresh = {v.id for own in at.versions(at.targets()).values() for v in own} - replaced
    assert fresh
    known = {row.version_id for row in rows(at)}
    assert fresh <= known


class Recording(Inline):
    """An executor that remembers of which targets nights were to learn."""

    def __init__(self) -> None:
        self.observed: list[int] = []

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        for item, result in super().map(work, items):
            if isinstance(item, ObserveTask):
                self.observed += [each.scoring.target.id for each in item.targets]
            yield item, result


def test_a_series_that_stopped_is_not_read_again_every_night(filled: SqlStore) -> None:
    ingest(filled, "load", {"8": course(8, days=12)})
    at = replace(job(filled, SPEC), executor=Recording())
    passes.backfill(at, END - DAY)
    (stopped,) = [t for t in at.targets() if t.key.endswith("host=8}")]
    last = max(row.valid_from for row in rows(at) if row.version_id in _ids(at, stopped.id))
    assert last <= START + 12 * DAY + LAG + 2 * DAY
    later = Recording()
    night = nights(SPEC.nightly, END - DAY, END)[0]
    passes.nightly(replace(at, executor=later), night, night)
    assert sorted(later.observed) == sorted(t.id for t in at.targets() if t.id != stopped.id)


def _ids(at: MonitorJob, target_id: int) -> set[int]:
    return {v.id for v in at.versions(at.targets())[target_id]}


def test_what_nights_have_seen_is_small(filled: SqlStore) -> None:
    at = job(filled, SPEC)
    passes.backfill(at, END)
    begins = {v.id: v.train_stop for own in at.versions(at.targets()).values() for v in own}
    small = [row for row in rows(at) if row.valid_from != begins[row.version_id]]
    assert small
    assert max(len(str(row.body)) for row in small) < 200


def spec_with(**changes: object) -> MonitorSpec:
    return replace(SPEC, **changes)  # type: ignore[arg-type]  # any field


@pytest.mark.parametrize("changes", [{"scope": "group"}, {"scores": "near_events"}])
def test_groups_and_sparse_scores_are_held_against_what_came_too(
    filled: SqlStore, changes: dict[str, object]
) -> None:
    at = job(filled, spec_with(**changes))
    passes.backfill(at, END)
    assert len({row.valid_from for row in rows(at)}) >= 5
