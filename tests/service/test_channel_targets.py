"""Targets of several series: one per realm, with ccu, logins and crashes as channels of one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from monitor_jobs import DAYS, END, HOUR, START, Course, events, hours, ingest, job, monitor, spans, waves

from anomaly_service.db.store import SqlStore
from anomaly_service.measure.reviewed import reviewed_series
from pipelines.jobs import channels, passes, readiness
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import Kind, Status, Verdict
from pipelines.records import Policy
from pipelines.times import DAY

# Both serve passes alike: test_passes holds them to that, and the contract of the store to what is asked.
pytestmark = pytest.mark.databases("sqlite")

METRICS = ("ccu", "logins", "crashes")
REALMS = ("eu-1", "kr-1", "us-1")
SPEC = replace(monitor("health"), selector={}, channels=METRICS, group_by=("host",))
HIT = 500
"""Hours after the start at which something happens, past the first fits."""
LEVELS = {"ccu": 100.0, "logins": 1.0, "crashes": 0.01}


def course(metric: str, realm: str, ts: np.ndarray | None = None) -> Course:
    """Return a channel in its own unit: what counts must not be whose numbers are the largest."""
    ts, value = waves(10 * METRICS.index(metric) + REALMS.index(realm), ts)
    return ts, value * LEVELS[metric]


def changed(given: Course, first: int, last: int, change: Callable[[np.ndarray], np.ndarray]) -> Course:
    """Return a course whose hours ``first`` to ``last`` since the start are changed."""
    ts, value = given
    inside = (ts >= START + first * HOUR) & (ts <= START + last * HOUR)
    return ts, np.where(inside, change(value), value)


def without(given: Course, first: int, last: int = DAYS * 24) -> Course:
    """Return a course without the hours ``first`` to ``last``."""
    ts, value = given
    keep = (ts < START + first * HOUR) | (ts > START + last * HOUR)
    return ts[keep], value[keep]


def fill(
    store: SqlStore, given: Mapping[tuple[str, str], Course] | None = None, realms: tuple[str, ...] = REALMS
) -> None:
    """Store all channels of some realms, some of them other than usual."""
    for metric in METRICS:
        each = {realm: (given or {}).get((metric, realm), course(metric, realm)) for realm in realms}
        ingest(store, metric, each)


def backfilled(store: SqlStore, spec: MonitorSpec = SPEC, at: int = END) -> MonitorJob:
    found = job(store, spec)
    passes.backfill(found, at)
    return found


def shown(store: SqlStore, **where: Any) -> list[dict[str, Any]]:
    return sorted(store.rows("flagged_intervals", where), key=lambda row: row["start_at"])


def hit(metric: str = "crashes", realm: str = "kr-1", factor: float = 1.8) -> dict[tuple[str, str], Course]:
    return {(metric, realm): changed(course(metric, realm), HIT, HIT + 4, lambda value: value * factor)}


def at_hour(at: MonitorJob, hour: int, realm: str = "kr-1") -> list[Any]:
    moment = START + hour * HOUR
    return [e for e in events(at)[realm] if e.interval.start <= moment <= e.interval.end]


def test_an_incident_in_one_channel_of_one_realm_is_flagged_there_and_its_share_leads(
    store: SqlStore,
) -> None:
    fill(store, hit())
    at = backfilled(store)
    assert [t.key for t in at.targets()] == [f"ccu,logins,crashes{{host={realm}}}" for realm in REALMS]
    (event,) = at_hour(at, HIT)
    assert not [e for realm in ("eu-1", "us-1") for e in at_hour(at, HIT, realm)]
    (row,) = shown(store, event_id=event.id)
    assert (row["series"], row["channel"]) == ("ccu,logins,crashes{host=kr-1}", "crashes")
    assert row["channel_shares"].keys() == set(METRICS)
    assert sum(row["channel_shares"].values()) == pytest.approx(1.0)
    assert row["channel_shares"]["crashes"] > 0.9
    assert (row["direction"], row["labels"]) == ("above_expected", {"host": "kr-1"})
    assert row["y_at_peak"] > 1.3 * row["yhat_at_peak"]
    assert row["y_at_peak"] < 3 * LEVELS["crashes"] * 100


def test_a_repeated_pass_changes_nothing_and_a_review_survives_rescoring(store: SqlStore) -> None:
    fill(store, hit())
    at = backfilled(store)
    passes.nightly(at, END, END)
    before = shown(store)
    done = passes.nightly(at, END, END)
    assert (done["settled"]["changed"], shown(store)) == (0, before)
    (event,) = at_hour(at, HIT)
    store.review(event.id, Verdict.CONFIRMED, cause="bad build", by="ann")
    strict = job(store, replace(SPEC, threshold=Threshold(alarms_per_week=0.2), detector="robust_z"))
    passes.rescore(strict, START, END, END, again=True)
    (row,) = shown(store, event_id=event.id)
    assert (row["review_verdict"], row["review_cause"]) == ("confirmed", "bad build")
    assert sum(row["channel_shares"].values()) == pytest.approx(1.0)


def test_reviewed_targets_are_labelled_with_all_their_channels(store: SqlStore) -> None:
    fill(store, hit() | {("logins", "kr-1"): without(course("logins", "kr-1"), 200, 205)})
    at = backfilled(store)
    (event,) = at_hour(at, HIT)
    store.review(event.id, Verdict.CONFIRMED)
    ((found,),) = reviewed_series(store, {SPEC.name: SPEC}).values()
    labelled = found.read()
    assert (found.series, labelled.step_seconds) == ("ccu,logins,crashes{host=kr-1}", HOUR)
    assert labelled.truth == ((event.interval.start, event.interval.end),)
    assert labelled.values.shape == (DAYS * 24, 3)
    assert np.isnan(labelled.values).sum(axis=0).tolist() == [0, 6, 0]
    np.testing.assert_array_equal(labelled.values[:, 2], hit()["crashes", "kr-1"][1])


def test_only_channels_that_deviate_as_the_policy_asks_lead(store: SqlStore) -> None:
    both = hit("ccu", factor=0.7) | hit("crashes", factor=2.5)
    fill(store, both)
    below = replace(SPEC, policy=replace(SPEC.policy, detection_direction="below_expected"))
    at = backfilled(store, below)
    (event,) = at_hour(at, HIT + 1)
    (row,) = shown(store, event_id=event.id)
    assert (row["channel"], row["direction"]) == ("ccu", "below_expected")
    assert row["channel_shares"]["crashes"] < 0.1


def test_channels_that_step_differently_go_by_the_slowest(store: SqlStore) -> None:
    half = np.arange(START, END, HOUR // 2)
    ts, value = course("ccu", "kr-1", half)
    ingest(store, "ccu", {"kr-1": (ts, value)}, step_seconds=HOUR // 2)
    ingest(store, "logins", {"kr-1": course("logins", "kr-1")})
    ingest(store, "crashes", hit_only())
    at = backfilled(store)
    (target,) = at.targets()
    assert target.step_seconds == HOUR
    scores = store.scores([target.id], 0, 2**40)
    assert set(np.diff(scores.ts)) == {HOUR}
    assert not (scores.ts % HOUR).any()
    (event,) = at_hour(at, HIT)
    (row,) = shown(store, event_id=event.id)
    assert row["channel"] == "crashes"
    assert row["duration_seconds"] == event.interval.end - event.interval.start + HOUR


def hit_only() -> dict[str, Course]:
    return {"kr-1": hit()["crashes", "kr-1"]}


def test_a_channel_that_is_missing_for_a_while_is_an_event_and_the_others_are_scored_on(
    store: SqlStore,
) -> None:
    gap = {("logins", "kr-1"): without(course("logins", "kr-1"), HIT - 20, HIT + 20)}
    fill(store, gap | hit())
    at = backfilled(store)
    (gone,) = events(at, Kind.DATA_MISSING)["kr-1"]
    assert spans([gone]) == [("data_missing", HIT - 20, HIT + 20)]
    assert gone.interval.shares == {"ccu": 0.0, "logins": 1.0, "crashes": 0.0}
    (event,) = [e for e in at_hour(at, HIT) if e.interval.kind is Kind.ANOMALY]
    assert event.interval.channel == "crashes"
    passes.nightly(at, END, END)
    assert events(at, Kind.DATA_MISSING)["kr-1"] == [gone]


def test_a_realm_that_loses_a_channel_is_scored_on_by_the_last_model_that_knew_it(store: SqlStore) -> None:
    lost = {("ccu", "kr-1"): without(course("ccu", "kr-1"), 340)}
    fill(store, lost | hit())
    # Ten days of hours are learned from: by the last fit none of them holds a point.
    at = backfilled(store)
    for day in range(15, DAYS):
        passes.nightly(at, START + day * DAY, START + day * DAY)
    (stale,) = events(at, Kind.STALE)["kr-1"]
    assert (stale.status, stale.interval.channel) == (Status.OPEN, "ccu")
    assert stale.interval.start == START + 340 * HOUR
    assert "crashes" in {e.interval.channel for e in at_hour(at, HIT) if e.interval.kind is Kind.ANOMALY}
    fitted = {v.target_id: v.train_stop for rows in at.versions(at.targets()).values() for v in rows}
    newest = {t.key: fitted[t.id] for t in at.targets()}
    assert newest[at.targets()[1].key] <= START + 340 * HOUR + 4 * DAY < newest[at.targets()[0].key]
    done = passes.backfill(at, END)
    assert not any("kr-1" in why for why in done["not_ready_why"])
    ingest(store, "ccu", {"kr-1": course("ccu", "kr-1", hours(END, END + DAY))})
    fill_others(store, "kr-1", hours(END, END + DAY))
    at = job(store, SPEC)
    passes.nightly(at, END + DAY, END + DAY)
    (back,) = [e for e in events(at)["kr-1"] if e.id == stale.id]
    assert (back.interval.kind, back.interval.end) == (Kind.DATA_MISSING, END - HOUR)


def fill_others(store: SqlStore, realm: str, ts: np.ndarray) -> None:
    for metric in METRICS[1:]:
        ingest(store, metric, {realm: course(metric, realm, ts)})


def test_a_channel_that_stops_while_its_target_learns_is_told_and_keeps_its_event(store: SqlStore) -> None:
    stopped = {("crashes", "eu-1"): without(course("crashes", "eu-1"), 100, 130)}
    fill(store, stopped)
    at = job(store, SPEC)
    passes.backfill(at, START + 6 * DAY)
    (early,) = events(at, Kind.DATA_MISSING)["eu-1"]
    passes.backfill(at, END)
    (late,) = events(at, Kind.DATA_MISSING)["eu-1"]
    assert (early.id, early.interval.shares) == (late.id, {"ccu": 0.0, "logins": 0.0, "crashes": 1.0})
    assert spans([late]) == [("data_missing", 100, 130)]


def test_a_channel_that_stops_while_its_target_learns_is_told_by_the_next_tick(store: SqlStore) -> None:
    fill(store, {("crashes", "eu-1"): without(course("crashes", "eu-1"), 100)}, realms=("eu-1",))
    at = job(store, SPEC)
    passes.tick(at, START + 5 * DAY)
    (stale,) = events(at, Kind.STALE)["eu-1"]
    assert (stale.interval.start, stale.interval.channel) == (START + 100 * HOUR, "crashes")


def test_a_source_that_ended_holds_up_no_channel_of_another(store: SqlStore) -> None:
    ended = {"kr-1": without(course("ccu", "kr-1"), HIT - 100)}
    ingest(store, "ccu", ended, source="history")
    ingest(store, "logins", {"kr-1": course("logins", "kr-1")})
    ingest(store, "crashes", hit_only())
    at = backfilled(store)
    assert [t.scored_until for t in at.targets()] == [END - HOUR + 1]
    assert "crashes" in {e.interval.channel for e in at_hour(at, HIT)}


def test_a_new_realm_learns_beside_those_that_are_scored(store: SqlStore) -> None:
    fill(store, realms=REALMS[:2])
    at = backfilled(store)
    late = hours(END - 3 * DAY, END)
    for metric in METRICS:
        ingest(store, metric, {"us-1": course(metric, "us-1", late)})
    at = job(store, SPEC)
    passes.nightly(at, END, END)
    newcomer = at.targets()[2]
    assert (newcomer.key, newcomer.scored_until) == ("ccu,logins,crashes{host=us-1}", None)
    ready = {row["target"]: row for row in readiness_of(at)}
    assert ready[newcomer.key]["state"] == "learning"
    assert ready[newcomer.key]["ready_by"] > END
    assert all(t.scored_until == END - HOUR + 1 for t in at.targets()[:2])


def readiness_of(at: MonitorJob) -> list[dict[str, Any]]:
    fitted = {t.key for t in at.targets() if at.versions([t])[t.id]}
    return readiness.readiness(at.spec, channels.wanted(at.spec, at.series().values()), fitted)


def test_a_target_that_stands_keeps_its_series_when_another_would_match_too(store: SqlStore) -> None:
    fill(store, realms=("kr-1",))
    before = job(store, SPEC).targets()
    store.ingest(second_crashes())
    after = job(store, SPEC)
    assert [t.series_ids for t in after.targets()] == [t.series_ids for t in before]
    assert passes.backfill(after, END)["fitted"] > 0


def second_crashes() -> Any:
    from pipelines.records import PointBlock, SeriesSpec
    from pipelines.store import Ingest

    ts, value = course("crashes", "kr-1")
    other = SeriesSpec("crashes", {"host": "kr-1", "platform": "pc"}, HOUR, source="t")
    return Ingest("t", [other], PointBlock(np.zeros(len(ts), dtype=np.int64), ts, value))


def test_other_channels_make_other_targets_and_the_old_ones_keep_their_events(store: SqlStore) -> None:
    fill(store, hit(), realms=("kr-1",))
    at = backfilled(store)
    kept = {row["event_id"] for row in shown(store)}
    two = job(store, replace(SPEC, channels=("logins", "crashes")))
    assert [t.key for t in two.targets()] == ["logins,crashes{host=kr-1}"]
    single = job(store, replace(SPEC, selector={"metric": ["crashes"]}, channels=(), group_by=()))
    assert [t.key for t in single.targets()] == ["crashes{host=kr-1}"]
    whole = job(store, replace(SPEC, group_by=()))
    assert [t.key for t in whole.targets()] == ["ccu,logins,crashes"]
    assert [t.key for t in job(store, SPEC).targets()] == [t.key for t in at.targets()]
    assert kept
    assert kept <= {row["event_id"] for row in shown(store)}


def test_a_group_of_realms_can_share_one_model(store: SqlStore) -> None:
    fill(store, hit())
    at = backfilled(store, replace(SPEC, scope="group"))
    versions = [rows[-1] for rows in at.versions(at.targets()).values()]
    assert len({v.weights_id for v in versions}) == 1
    (event,) = at_hour(at, HIT)
    assert event.interval.channel == "crashes"


def test_a_short_gap_of_one_channel_is_none(store: SqlStore) -> None:
    fill(store, {("logins", "kr-1"): without(course("logins", "kr-1"), HIT, HIT + 1)}, realms=("kr-1",))
    at = backfilled(store, replace(SPEC, policy=Policy(missing_after_steps=3)))
    assert events(at, Kind.DATA_MISSING)["kr-1"] == []
