"""What people confirmed and what a calendar masks: not learned from, and only the one is still scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from monitor_jobs import DAY, END, HOUR, START, events, ingest, job, monitor, spans, waves

from anomaly_service.db.store import SqlStore
from pipelines.jobs import passes
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.monitor import Period
from pipelines.names import Kind, Verdict
from pipelines.records import Event, Interval
from pipelines.steps import masks

SPEC = monitor("load", detector="gaussian", season="none")
DOWN = (18 * 24 + 8, 18 * 24 + 20)
"""First and last hour of an outage, counted from the start."""

MASKED = Period("maintenance", spans=(("2024-10-22T08:00", "2024-10-22T21:00"),), masked=True)


def course(seed: int, *, empty: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Waves with an outage, in which points fall to 10 or do not come at all."""
    ts, value = waves(seed)
    hour = (ts - START) // HOUR
    down = (hour >= DOWN[0]) & (hour <= DOWN[1])
    value[down] = 10 + np.random.default_rng(seed).normal(0, 1, int(down.sum()))
    return (ts[~down], value[~down]) if empty else (ts, value)


@pytest.fixture
def store(migrated_sqlite: Path, tmp_path: Path) -> SqlStore:
    (tmp_path / "anomaly.db").write_bytes(migrated_sqlite.read_bytes())
    return SqlStore(f"sqlite:///{tmp_path / 'anomaly.db'}")


def outage(found: list[Event]) -> Event:
    """Return the event that holds the middle of the outage."""
    middle = START + HOUR * (sum(DOWN) // 2)
    (event,) = (e for e in found if e.interval.start <= middle <= e.interval.end)
    return event


def test_the_outage_of_the_tests_is_the_masked_time() -> None:
    ((start, stop),) = masks.of_calendar([MASKED], "UTC", START, END)
    assert ((start - START) // HOUR, (stop - START) // HOUR - 1) == DOWN


@pytest.mark.parametrize("moved", [False, True])
def test_what_was_confirmed_is_not_learned_from_and_keeps_its_event(store: SqlStore, moved: bool) -> None:
    with store:
        ingest(store, "load", {"a": course(1)})
        before = START + 20 * DAY
        at = job(store, SPEC)
        passes.backfill(at, before)
        event = outage(events(at, Kind.ANOMALY)["a"])
        borders = {"start": START + DOWN[0] * HOUR, "end": START + (DOWN[1] + 30) * HOUR} if moved else {}
        store.review(event.id, Verdict.CONFIRMED, **borders)
        passes.nightly(at, END, END)
        newest = store.versions([target.id for target in at.targets()])[-1]
        assert newest.train_stop > before
        ends = event.interval.start, event.interval.end
        first, last = (borders["start"], borders["end"]) if moved else ends
        assert newest.card["masked_steps"] == (last - first) // HOUR + 1
        passes.rescore(at, START + 15 * DAY, END, END)
        assert outage(events(at, Kind.ANOMALY)["a"]).id == event.id


def test_a_confirmed_verdict_taken_back_is_learned_from_again(new_store: Callable[[], SqlStore]) -> None:
    store = new_store()
    ingest(store, "load", {"a": course(1)})
    at = job(store, SPEC)
    passes.backfill(at, START + 20 * DAY)
    event = outage(events(at, Kind.ANOMALY)["a"])
    store.review(event.id, Verdict.UNSURE)
    store.review(event.id, Verdict.CONFIRMED)
    store.undo(event.id)
    passes.nightly(at, END, END)
    assert store.versions([target.id for target in at.targets()])[-1].card["masked_steps"] == 0
    passes.rescore(at, START + 15 * DAY, END, END, again=True)
    again = outage(events(at, Kind.ANOMALY)["a"])
    assert (again.id, again.verdict, len(store.reviews(event.id))) == (event.id, "unsure", 3)


def test_what_people_added_and_moved_outlives_every_pass(new_store: Callable[[], SqlStore]) -> None:
    store = new_store()
    ingest(store, "load", {"a": course(1)})
    at = job(store, SPEC)
    passes.backfill(at, START + 20 * DAY)
    event = outage(events(at, Kind.ANOMALY)["a"])
    store.review(event.id, None, start=event.interval.start - 2 * HOUR)
    quiet = START + 16 * DAY
    drawn = Interval(Kind.ANOMALY, quiet, quiet + 4 * HOUR, 5, quiet, 0.0, 0.0)
    (target,) = at.targets()
    added, _ = store.add_event(target.id, drawn, Verdict.CONFIRMED, detected_at=END)
    passes.nightly(at, END, END)
    assert store.versions([target.id])[-1].card["masked_steps"] == 5
    passes.rescore(at, START + 15 * DAY, END, END)
    passes.rescore(at, START + 15 * DAY, END, END, again=True)
    rows = {row["event_id"]: row for row in store.rows("flagged_intervals")}
    assert (rows[added]["start_ts"], rows[added]["end_ts"]) == (quiet, quiet + 4 * HOUR)
    assert (rows[added]["added"], rows[added]["review_verdict"]) == (True, "confirmed")
    assert rows[event.id]["start_ts"] == event.interval.start - 2 * HOUR
    store.undo(added)
    passes.rescore(at, START + 15 * DAY, END, END)
    assert added not in {row["event_id"] for row in store.rows("flagged_intervals")}


def test_what_a_reviewer_made_longer_is_found_by_its_tail(store: SqlStore) -> None:
    with store:
        ingest(store, "load", {"a": course(1)})
        at = job(store, SPEC)
        passes.backfill(at, END)
        event = outage(events(at, Kind.ANOMALY)["a"])
        end = event.interval.end + 20 * HOUR
        store.review(event.id, Verdict.CONFIRMED, end=end)
        (target,) = at.targets()
        found = at.confirmed([target.id], end - HOUR, end)
        assert found == {target.id: [(event.interval.start, end)]}
        assert at.confirmed([target.id], end + HOUR, end + DAY) == {target.id: []}


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.CONFIRMED])
def test_no_other_verdict_keeps_anything_from_being_learned(store: SqlStore, verdict: Verdict) -> None:
    with store:
        ingest(store, "load", {"a": course(1)})
        at = job(store, SPEC)
        passes.backfill(at, START + 20 * DAY)
        store.review(outage(events(at, Kind.ANOMALY)["a"]).id, verdict)
        passes.nightly(at, END, END)
        assert store.versions([target.id for target in at.targets()])[-1].card["masked_steps"] == 0


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("window", [6, 100], ids=["fitted", "learning"])
def test_in_a_masked_time_nothing_is_learned_scored_or_missed(
    store: SqlStore, window: int, empty: bool
) -> None:
    """A target that is still learning has no scores, but gaps."""
    with store:
        ingest(store, "load", {"a": course(1, empty=empty)})
        at = job(store, replace(SPEC, params={"window": window}))
        passes.backfill(at, END)
        assert bool(during(at)) == (empty or window == 6)
        masked = job(store, replace(at.spec, name="masked", calendar=(MASKED,)))
        passes.backfill(masked, END)
        assert not during(masked), spans(during(masked))
        scored = [target for target in masked.targets() if target.scored_until]
        assert len(scored) == (window == 6)
        for target in scored:
            block = store.scores([target.id], START, END)
            hour = (block.ts - START) // HOUR
            inside = (hour >= DOWN[0]) & (hour <= DOWN[1])
            assert np.isnan(block.settled[inside]).all()
            assert np.isfinite(block.settled[~inside]).sum() > 200


def during(at: MonitorJob) -> list[Event]:
    """Return the events that touch the outage."""
    first, last = (START + hour * HOUR for hour in DOWN)
    return [e for e in events(at)["a"] if e.interval.start <= last and e.interval.end >= first]


def test_what_a_series_does_in_a_masked_time_changes_no_model_of_it(store: SqlStore) -> None:
    with store:
        ts, value = course(1)
        hour = (ts - START) // HOUR
        wild = np.where((hour >= DOWN[0]) & (hour <= DOWN[1]), 1e5, value)
        ingest(store, "load", {"a": (ts, value), "b": (ts, wild)})
        at = job(store, replace(SPEC, calendar=(MASKED,)))
        passes.backfill(at, END)
        a, b = ([(v.train_stop, v.recipe) for v in at.versions([t])[t.id]] for t in at.targets())
        assert a == b
        assert a[-1][0] > START + 20 * DAY


FIRST_FIT = ("2024-10-13T22:00", "2024-10-14T12:00")
"""Around the end of what the first version learns from."""


@pytest.mark.parametrize("lacking", [0, 1, 2], ids=["points", "none", "none-but-the-first"])
@pytest.mark.parametrize(
    ("window", "at_first_fit"),
    [(6, False), (6, True), (100, False)],
    ids=["fitted", "at the first fit", "learning"],
)
def test_hour_by_hour_through_a_masked_time_leaves_what_one_pass_leaves(
    store: SqlStore, tmp_path: Path, migrated_sqlite: Path, lacking: int, window: int, at_first_fit: bool
) -> None:
    """Slices that begin, end and lie inside of it, and a first version that was trained up to there."""
    spans_ = FIRST_FIT if at_first_fit else MASKED.spans[0]
    begin, end = (int(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()) for at in spans_)
    ts, value = course(1)
    keep = (ts < begin + (lacking == 2) * HOUR) | (ts >= end) | (lacking == 0)
    ts, value = ts[keep], value[keep]
    masked = replace(MASKED, spans=(spans_,))
    spec = replace(SPEC, params={"window": window}, calendar=(masked,))
    begun, over = begin - 3 * HOUR, end + 30 * HOUR
    with store:
        early = ts < begun
        ingest(store, "load", {"a": (ts[early], value[early])})
        passes.backfill(job(store, spec), begun)
        for now in range(begun + HOUR, over + 1, HOUR):
            fresh = (ts >= now - HOUR) & (ts < now)
            if fresh.any():
                ingest(store, "load", {"a": (ts[fresh], value[fresh])})
            passes.tick(job(store, spec), now)
            if now % DAY == 4 * HOUR:
                passes.nightly(job(store, spec), now, now)
            found = events(job(store, spec))["a"]
            assert not [e for e in found if e.interval.kind is not Kind.ANOMALY], spans(found)
        stepwise = job(store, spec)
        passes.nightly(stepwise, over, over)
        (tmp_path / "whole.db").write_bytes(migrated_sqlite.read_bytes())
        with SqlStore(f"sqlite:///{tmp_path / 'whole.db'}") as other:
            seen = ts < over
            ingest(other, "load", {"a": (ts[seen], value[seen])})
            whole = job(other, spec)
            passes.backfill(whole, over)
            passes.nightly(whole, over, over)
            assert spans(events(stepwise)["a"]) == spans(events(whole)["a"])
