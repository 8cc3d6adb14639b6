"""Series that stop and sources that stop as a whole, against the clock, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from monitor_jobs import DAYS, END, HOUR, START, events, ingest, job, monitor, waves

from anomaly_service.db.store import SqlStore
from pipelines.jobs import passes
from pipelines.names import Kind
from pipelines.records import Json
from pipelines.times import DAY


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def looked(store: SqlStore, now: int) -> list[tuple[str, str, int, int | None]]:
    """Let somebody look at a time; return kind, status, start and end of the source's records."""
    store.note_look(at(now), ["t"])
    return [(r["kind"], r["status"], r["start_ts"], r["end_ts"]) for r in store.rows("source_events")]


def health(store: SqlStore) -> dict[str, str]:
    return {row["labels"]["host"]: row["state"] for row in store.rows("series_health")}


def source_health(store: SqlStore) -> Json:
    (row,) = store.rows("source_health")
    return row


def test_a_source_that_stops_is_one_record_and_no_event_of_its_series(store: SqlStore) -> None:
    # One of them came last an hour earlier, as happens.
    ingest(store, "m", {"a": waves(1), "b": waves(2), "c": (waves(3)[0][:-1], waves(3)[1][:-1])})
    passes.backfill(job(store, monitor("m")), END)
    assert looked(store, END) == []
    for now in range(END, END + 12 * HOUR, HOUR):
        looked(store, now)
        passes.tick(job(store, monitor("m")), now)
    assert looked(store, END + 12 * HOUR) == [("source_stale", "open", END, None)]
    assert events(job(store, monitor("m")), Kind.STALE) == {"a": [], "b": [], "c": []}
    assert health(store) == dict.fromkeys("abc", "stale")
    assert source_health(store)["state"] == "stale"
    assert source_health(store)["behind_seconds"] == 13 * HOUR
    assert {row["reason"] for row in store.rows("series_health")} == {
        "its source stopped: none of its series has points"
    }

    more = np.arange(END, END + 14 * HOUR, HOUR)
    ingest(store, "m", {"a": waves(1, more), "b": waves(2, more)})
    assert looked(store, END + 14 * HOUR) == [("source_stale", "closed", END, END + 14 * HOUR)]
    passes.tick(job(store, monitor("m")), END + 14 * HOUR)
    # The one that did not come back is its own event again.
    assert [len(found) for found in events(job(store, monitor("m")), Kind.STALE).values()] == [0, 0, 1]
    assert health(store)["c"] == "stale"


@pytest.mark.parametrize("step", [12 * HOUR, 24 * HOUR])
def test_a_series_of_long_steps_becomes_stale(store: SqlStore, step: int) -> None:
    stop = START + 60 * DAY
    ts = np.arange(START, stop, step)
    spec = monitor("slow", fit_window_seconds=40 * DAY)
    ingest(store, "slow", {"dies": waves(1, ts[:-8]), "lives": waves(2, ts)}, step_seconds=step)
    passes.backfill(job(store, spec), stop)
    looked(store, stop)
    passes.tick(job(store, spec), stop)
    assert [len(found) for found in events(job(store, spec), Kind.STALE).values()] == [1, 0]
    assert health(store)["dies"] == "stale"
    # The rest dies too, while nobody looks.
    assert looked(store, stop + 30 * DAY) == [("source_stale", "open", stop, None)]
    passes.tick(job(store, spec), stop + 30 * DAY)
    assert [len(found) for found in events(job(store, spec), Kind.STALE).values()] == [1, 0]


def test_a_source_of_one_series_that_died_while_nobody_looked_is_stale(store: SqlStore) -> None:
    ingest(store, "one", {"a": waves(1)})
    looked(store, END)
    passes.backfill(job(store, monitor("one")), END)
    looked(store, END + 9 * DAY)
    passes.tick(job(store, monitor("one")), END + 9 * DAY)
    assert len(events(job(store, monitor("one")), Kind.STALE)["a"]) == 1
    assert health(store) == {"a": "stale"}


def test_an_archive_is_never_stale(store: SqlStore) -> None:
    ingest(store, "old", {"a": waves(1), "b": waves(2)})
    assert looked(store, END + 30 * DAY) == []
    passes.backfill(job(store, monitor("old")), END + 30 * DAY)
    passes.tick(job(store, monitor("old")), END + 40 * DAY)
    assert looked(store, END + 40 * DAY) == []
    assert events(job(store, monitor("old")), Kind.STALE) == {"a": [], "b": []}
    assert set(health(store).values()) == {"ok"}
    assert source_health(store)["state"] == "archive"


def test_a_source_that_left_the_config_is_an_archive_from_then_on(store: SqlStore) -> None:
    ingest(store, "gone", {"a": waves(1), "b": waves(2)})
    looked(store, END)
    assert [row[1] for row in looked(store, END + 2 * DAY)] == ["open"]
    store.note_look(at(END + 3 * DAY), [])
    assert [row["status"] for row in store.rows("source_events")] == ["closed"]
    assert source_health(store)["state"] == "archive"


def test_health_goes_by_the_database_s_clock_where_nobody_froze_it(store: SqlStore) -> None:
    now = int(datetime.now(UTC).timestamp()) // HOUR * HOUR
    ingest(store, "now", {"a": waves(1, np.arange(now - DAYS * DAY, now - 5 * HOUR, HOUR))})
    store.note_look(datetime.now(UTC), ["t"])
    (row,) = store.rows("series_health")
    assert 6 * HOUR <= row["behind_seconds"] <= 7 * HOUR
    assert (row["state"], row["live"]) == ("stale", True)
