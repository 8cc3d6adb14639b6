"""What reviews say of later events, from points to SQL and the command line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import anomaly
from monitor_jobs import DAY, END, HOUR, START, Course, events, ingest, job, monitor, waves

from anomaly_service.db.store import SqlStore
from pipelines.jobs import passes, suggestions_pass
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.names import Kind, Verdict
from pipelines.records import Event, EventPortrait

HOSTS = "abcdefghijklmnopqrstuvwx"
FIRST = 11 * 24
"""Hour of the first incident: models are there by then."""
APART = 12
"""Hours from the incident of one host to that of the next."""

SPEC = monitor("load", detector="robust_z")


def course(number: int) -> Course:
    """A daily rhythm with one incident: a short outage, or on every other host a long slow surge."""
    ts, values = waves(number)
    hour = FIRST + APART * number
    if number % 2:
        values[hour : hour + 6] += np.linspace(20, 60, 6)
    else:
        values[hour : hour + 2] -= 90
    return ts, values


def flagged(at: MonitorJob) -> list[Event]:
    """Return the anomalies, in order of time."""
    found = [event for each in events(at, Kind.ANOMALY).values() for event in each]
    return sorted(found, key=lambda event: (event.interval.start, event.id))


def judge(at: MonitorJob, some: list[Event]) -> None:
    for event in some:
        if event.interval.direction == "below_expected":
            at.store.review(event.id, Verdict.EXPECTED, cause="maintenance", by="ann")
        else:
            at.store.review(event.id, Verdict.CONFIRMED, cause="bots", by="ann")


def backfilled(store: SqlStore) -> MonitorJob:
    """Return the job of a monitor whose events are there, and all but the last eight judged."""
    ingest(store, "load", {host: course(number) for number, host in enumerate(HOSTS)})
    made = job(store, SPEC)
    passes.backfill(made, END)
    judge(made, flagged(made)[:-8])
    return made


@pytest.fixture(scope="module")
def database(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as ``backfilled`` leaves it, to copy."""
    path = tmp_path_factory.mktemp("judged") / "judged.db"
    shutil.copy(migrated_sqlite, path)
    with SqlStore(f"sqlite:///{path}") as store:
        backfilled(store)
    return path


@pytest.fixture
def at(database: Path, tmp_path: Path) -> Iterator[MonitorJob]:
    shutil.copy(database, tmp_path / "judged.db")
    with SqlStore(f"sqlite:///{tmp_path / 'judged.db'}") as store:
        yield job(store, SPEC)


def shown(store: SqlStore) -> dict[int, tuple[str | None, str | None]]:
    """Return verdict and cause that the view suggests, by event."""
    rows = store.rows("flagged_intervals", {"kind": "anomaly"})
    return {row["event_id"]: (row["suggested_verdict"], row["suggested_cause"]) for row in rows}


def looks(at: MonitorJob) -> list[EventPortrait | None]:
    return [look for _, look in at.store.event_portraits(at.monitor.id, 500)]


def test_later_events_are_suggested_what_their_like_were_judged(store: SqlStore) -> None:
    at = backfilled(store)
    found = flagged(at)
    assert set(shown(at.store).values()) == {(None, None)}
    assert passes.tick(at, END)["suggested"] == 8
    told = shown(at.store)
    for event in found[-8:]:
        like = (
            ("expected", "maintenance")
            if event.interval.direction == "below_expected"
            else ("confirmed", "bots")
        )
        assert told[event.id] == like
    assert {told[event.id] for event in found[:-8]} == {(None, None)}
    queue = at.store.rows("review_queue", {"event_id": found[-1].id})
    assert 0.8 < queue[0]["suggestion_probability"] <= 1


@pytest.mark.parametrize(("newest", "nearest"), [(16, 1), (2, 6)])
def test_however_many_verdicts_there_are_the_others_are_looked_at(
    at: MonitorJob, monkeypatch: pytest.MonkeyPatch, newest: int, nearest: int
) -> None:
    n_judged = sum(bool(event.verdict) for event in flagged(at))
    sizes = {"CONSIDERED": n_judged, "NEWEST_VERDICTS": newest, "NEAREST_VERDICTS": nearest}
    for name, size in {**sizes, "UNJUDGED": 3, "PAGE": 5}.items():
        monkeypatch.setattr(suggestions_pass, name, size)
    assert suggestions_pass.advise(at) == 8
    found, told = flagged(at), shown(at.store)
    for event in found[-8:]:
        assert told[event.id][0] == (
            "expected" if event.interval.direction == "below_expected" else "confirmed"
        )
    assert {told[event.id] for event in found[:-8]} == {(None, None)}
    with monkeypatch.context() as patch:
        patch.delattr("pipelines.insight.portraits.shapes")
        assert suggestions_pass.advise(at) == 8
    for event in found[:-8]:
        at.store.undo(event.id)
    assert suggestions_pass.advise(at) == 0
    assert set(shown(at.store).values()) == {(None, None)}


def test_suggesting_leaves_events_and_reviews_as_they_are(at: MonitorJob) -> None:
    def left() -> list[Any]:
        found = flagged(at)
        return [
            found,
            [at.store.reviews(event.id) for event in found],
            [at.store.revisions(e.id) for e in found],
        ]

    before = left()
    assert suggestions_pass.advise(at) == 8
    assert left() == before


def test_a_pass_that_is_repeated_suggests_the_same_and_writes_nothing(
    at: MonitorJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes.tick(at, END)
    before = looks(at)
    written: list[list[EventPortrait]] = []
    monkeypatch.setattr(at.store, "write_event_portraits", lambda claim, rows: written.append(list(rows)))
    assert suggestions_pass.advise(at) == 8
    assert written == []
    # Looked at again, everything comes out the same.
    monkeypatch.setattr(suggestions_pass, "_is_current", lambda event, look: False)
    assert suggestions_pass.advise(at) == 8
    assert written == [[]]
    assert looks(at) == before


@pytest.mark.parametrize("kind", ["nightly", "backfill", "fit", "rescore"])
def test_every_pass_suggests_what_a_tick_does(at: MonitorJob, kind: str) -> None:
    match kind:
        case "nightly":
            passes.nightly(at, END, END)
        case "backfill":
            passes.backfill(at, END)
        case "fit":
            passes.fit(at, END)
        case "rescore":
            passes.rescore(at, END - DAY, END, END)
    assert sum(verdict is not None for verdict, _ in shown(at.store).values()) == 8


def test_a_dry_run_suggests_nothing(at: MonitorJob) -> None:
    passes.rescore(at, END - DAY, END, END, dry_run=True)
    assert set(shown(at.store).values()) == {(None, None)}


def test_another_review_changes_what_is_suggested(at: MonitorJob) -> None:
    passes.tick(at, END)
    outages = [e for e in flagged(at)[:-8] if e.interval.direction == "below_expected"]
    for event in outages:
        at.store.review(event.id, Verdict.FALSE_POSITIVE, cause="probe")
    passes.tick(at, END)
    told = shown(at.store)
    for event in flagged(at)[-8:]:
        if event.interval.direction == "below_expected":
            assert told[event.id] == ("false_positive", "probe")


def test_an_unlike_event_is_unknown(at: MonitorJob) -> None:
    hour = FIRST - 5
    ts, values = course(0)
    values[hour] += 2000
    ingest(at.store, "load", {"a": (ts, values)})
    passes.rescore(at, START, END, END)
    event = next(e for e in flagged(at) if e.interval.start <= START + hour * HOUR <= e.interval.end)
    assert shown(at.store)[event.id] == ("unknown", None)


def test_what_was_seen_outlives_the_points(at: MonitorJob) -> None:
    passes.tick(at, END)
    before = shown(at.store)
    judged = flagged(at)[0]
    at.store.delete_points_before(END)
    at.store.review(judged.id, Verdict.EXPECTED, cause="maintenance", comment="looked again")
    suggestions_pass.advise(at)
    assert shown(at.store) == before
    assert all(look is not None and look.shape is not None for look in looks(at))


def test_without_a_review_nothing_is_looked_at(at: MonitorJob, monkeypatch: pytest.MonkeyPatch) -> None:
    unjudged = [
        (replace(event, reviewed=False, verdict=""), look)
        for event, look in at.store.event_portraits(at.monitor.id, 500)
    ]
    monkeypatch.setattr(at.store, "event_portraits", lambda monitor, limit: unjudged)
    monkeypatch.delattr("pipelines.insight.portraits.shapes")
    assert suggestions_pass.advise(at) == 0


def test_suggestions_go_with_the_verdicts_that_were_taken_back(at: MonitorJob) -> None:
    assert suggestions_pass.advise(at) > 0
    for event in flagged(at):
        if event.verdict:
            at.store.undo(event.id)
    assert suggestions_pass.advise(at) == 0
    assert not any(row["suggested_verdict"] for row in at.store.rows("flagged_intervals"))


def test_the_list_of_intervals_shows_suggestions_once_there_are_some(at: MonitorJob, tmp_path: Path) -> None:
    config = tmp_path / "anomaly.yaml"
    url = at.store.engine.url.render_as_string(hide_password=False)
    config.write_text(f"database: {url}\nsources: {{}}\nmonitors: {{load: {{series: {{metric: load}}}}}}\n")
    before = anomaly("intervals", "--config", config)
    assert before.code == 0, before.err
    assert "suggestion" not in before.out
    passes.tick(at, END)
    event = flagged(at)[-1].id
    lines = anomaly("intervals", "--config", config, "-n", 500).out.splitlines()
    assert lines[0].rstrip().endswith("suggestion")
    (line,) = (line for line in lines if line.strip().startswith(f"{event} "))
    assert line.rstrip().endswith(("expected: maintenance (100 %)", "confirmed: bots (100 %)"))
    (row,) = (
        r
        for r in anomaly("intervals", "--config", config, "--json", "-n", 500).rows
        if r["event_id"] == event
    )
    assert row["suggested_verdict"] in ("expected", "confirmed")
    assert row["suggested_cause"] in ("maintenance", "bots")
    assert 0.8 < row["suggestion_probability"] <= 1
