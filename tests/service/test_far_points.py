"""Times that cannot be: what lies ahead waits, strays are rejected, and what went in can be undone."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import anomaly
from monitor_jobs import END, HOUR, hours, ingest, job, monitor, waves

from anomaly_service import points as by_hand
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import AskedError, UnknownSeriesError
from anomaly_service.sources import door
from anomaly_service.sources.csv import CsvConfig, CsvSource
from anomaly_service.sources.ingest import ingest as take
from pipelines.jobs import passes
from pipelines.names import Kind, Status, Verdict
from pipelines.records import SeriesRow
from pipelines.times import DAY, iso_seconds

NOW = datetime(2024, 6, 5, 12, tzinfo=UTC)
FAR = int(datetime(2061, 5, 5, tzinfo=UTC).timestamp())
NOON = int(NOW.timestamp())

Look = Callable[..., dict[str, Any]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ccu.csv"
    path.write_text("ts,value\n")
    return path


@pytest.fixture
def look(store: SqlStore, file: Path, tmp_path: Path) -> Look:
    """Read the file as of a time; what is rejected is listed below ``rejects``."""
    config = {"kind": "csv", "path": str(file), "timestamp": "ts", "step": "5min"}

    def read(now: datetime = NOW) -> dict[str, Any]:
        source = CsvSource("s", CsvConfig.model_validate(config))
        (outcome,) = take(store, [source], now, rejects=tmp_path / "rejects")
        return outcome

    return read


def add(file: Path, *rows: tuple[int, float]) -> None:
    with file.open("a") as opened:
        opened.writelines(f"{ts},{value}\n" for ts, value in rows)


def only(store: SqlStore) -> SeriesRow:
    (row,) = store.series()
    return row


def values(store: SqlStore) -> dict[int, float]:
    block = store.points([only(store).id], 0, 2**40)
    return dict(zip(block.ts.tolist(), block.value.tolist(), strict=True))


def rejected(file: Path) -> list[tuple[str, str]]:
    listed = file.parent / "rejects" / "s.rejects.csv"
    with listed.open(newline="", encoding="utf-8") as opened:
        return [(row["line"], row["reason"]) for row in csv.DictReader(opened)]


# -- the future -------------------------------------------------------------------------


def test_a_point_from_the_future_waits_until_its_time_comes(store: SqlStore, file: Path, look: Look) -> None:
    add(file, (NOON, 1.0), (NOON + 3 * HOUR, 2.0), (NOON + 300, 3.0))
    outcome = look()
    assert (outcome["new"], outcome["held"], outcome["rejected"]) == (2, 1, 0)
    assert outcome["notes"] == [
        "1 points lie in the future, the first at 2024-06-05 15:00 UTC; each is taken in once its time comes"
    ]
    assert only(store).last_ts == NOON + 300
    assert look(NOW + timedelta(minutes=90))["held"] == 1
    outcome = look(NOW + timedelta(hours=2))
    assert (outcome["new"], outcome["held"], outcome["notes"]) == (1, 0, [])
    assert values(store) == {NOON: 1.0, NOON + 300: 3.0, NOON + 3 * HOUR: 2.0}


def test_what_came_of_a_point_that_waits_counts_and_not_what_was_foretold(
    store: SqlStore, file: Path, look: Look
) -> None:
    add(file, (NOON, 1.0), (NOON + 3 * HOUR, 2.0))
    look()
    add(file, (NOON + 3 * HOUR, 5.0))
    look()
    add(file, (NOON + 4 * HOUR, 7.0))
    look(NOW + timedelta(hours=5))
    assert values(store) == {NOON: 1.0, NOON + 3 * HOUR: 5.0, NOON + 4 * HOUR: 7.0}


def test_only_what_the_databases_clock_calls_far_too_is_rejected(
    store: SqlStore, file: Path, look: Look
) -> None:
    # As of a clock that is years behind, all of these lie far ahead.
    today = int(store.clock())
    add(file, (NOON, 1.0), (today, 2.0), (today + 20 * DAY, 3.0), (FAR, 4.0))
    outcome = look()
    assert (outcome["new"], outcome["held"], outcome["rejected"]) == (1, 2, 1)
    assert rejected(file) == [("5", "timestamp lies far in the future, by the database's clock too")]


def test_very_many_that_wait_are_taken_in_piece_by_piece(
    store: SqlStore, file: Path, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_service.db.held.RELEASED_AT_ONCE", 4)
    add(file, (NOON, 0.0), *((NOON + 2 * HOUR + 300 * i, float(i)) for i in range(10)))
    assert look()["held"] == 10
    assert look(NOW + timedelta(hours=9))["new"] == 10
    assert len(values(store)) == 11


# -- the past ---------------------------------------------------------------------------


def test_a_stray_from_long_ago_is_rejected_with_its_line(store: SqlStore, file: Path, look: Look) -> None:
    add(
        file,
        *((NOON - 300 * i, 1.0) for i in range(150)),
        (5, 1.0),
        *((NOON - 300 * i, 1.0) for i in range(150, 200)),
    )
    outcome = look()
    assert (outcome["new"], outcome["rejected"]) == (200, 1)
    assert rejected(file) == [
        ("152", "timestamp lies far before the rest of its series: further than ten times their span")
    ]
    # Against what is stored it is one, too, though it comes alone.
    add(file, (7, 1.0))
    assert look()["rejected"] == 1
    assert only(store).first_ts == NOON - 300 * 199


def test_history_that_is_more_than_a_few_rows_is_no_stray(store: SqlStore, file: Path, look: Look) -> None:
    add(file, *((NOON - 300 * i, 1.0) for i in range(200)))
    look()
    add(file, *((NOON - 400 * DAY + 300 * i, 1.0) for i in range(5)))
    assert look()["new"] == 5


def test_a_series_that_comes_back_after_long_is_no_stray(store: SqlStore, file: Path, look: Look) -> None:
    add(file, *((NOON - 400 * DAY + 300 * i, 1.0) for i in range(200)))
    look()
    add(file, (NOON, 1.0))
    assert look()["new"] == 1


def naive_strays(ts: list[int]) -> int:
    """Return how many of the earliest times are strays, the slow, obvious way."""
    found = 0
    for count in range(1, len(ts)):
        rest = ts[count:]
        span = rest[-1] - rest[0]
        if count <= door.OUTLIER_SHARE * len(ts) and span and rest[0] - ts[count - 1] > 10 * span:
            found = count
    return found


def test_strays_are_counted_as_the_slow_twin_counts_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        n, early = int(rng.integers(90, 350)), int(rng.integers(0, 5))
        ts = np.sort(np.append(rng.integers(0, 10**6, early), 10**7 + rng.integers(0, 10**6, n)))
        assert door.stray_count(ts) == naive_strays(ts.tolist())


def test_try_takes_no_stray_for_now(file: Path) -> None:
    ts = range(NOON - 30 * DAY, NOON, 900)
    rows = [(at, 100 + 10 * np.sin(2 * np.pi * at / DAY) + at % 7) for at in ts]
    add(file, rows[0], (3, 1.0), *rows[1:], (FAR, 1.0))
    done = anomaly("try", file, "--json")
    assert done.code == 0, done.err
    assert "to 2024-06-05 11:45 UTC" in done.err
    assert "2 rows could not be read" in done.err
    assert not [row for row in done.rows if row["kind"] in ("stale", "data_missing")]


# -- by hand ----------------------------------------------------------------------------


def at(ts: int) -> datetime:
    return datetime.fromtimestamp(ts, UTC)


def poisoned(store: SqlStore) -> Any:
    """Return the job of a monitor with two series, of which one has a point of 2061 that nobody held back."""
    ingest(store, "load", {host: waves(seed) for seed, host in enumerate("ab")})
    at_work = job(store, monitor("load", policy=monitor("load").policy))
    passes.backfill(at_work, END)
    ingest(store, "load", {"a": (np.array([FAR]), np.array([5.0]))})
    return job(store, at_work.spec)


def health(store: SqlStore) -> dict[str, str]:
    return {row["series"]: row["state"] for row in store.rows("series_health")}


def test_deleting_a_point_of_2061_heals_health_and_detection_goes_on(store: SqlStore) -> None:
    at_work = poisoned(store)
    passes.tick(at_work, END + 60)
    assert health(store)["load{host=b}"] == "stale"
    before = store.rows("flagged_intervals")
    told = by_hand.delete(store, "load{host=a}", at(FAR - DAY), at(FAR + DAY), dry_run=True)
    assert (told["points"], told["last_at"]) == (1, iso_seconds(END - HOUR))
    assert health(store)["load{host=b}"] == "stale"
    done = by_hand.delete(store, "load{host=a}", at(FAR - DAY), at(FAR + DAY))
    assert done == told
    assert set(health(store).values()) == {"ok"}
    assert store.rows("flagged_intervals") == before
    # The day goes on: points come, and are scored.
    later = hours(END, END + DAY)
    ingest(store, "load", {host: waves(seed, later) for seed, host in enumerate("ab")})
    passes.tick(job(store, at_work.spec), END + DAY)
    targets = store.targets(at_work.monitor.id)
    assert {target.scored_until for target in targets} == {END + DAY - HOUR + 1}
    assert store.scores([targets[0].id], END, END + DAY).ts.max() == END + DAY - HOUR


def test_what_followed_from_a_clock_that_was_ahead_goes_with_the_points(store: SqlStore) -> None:
    ahead = END + 60 * DAY
    ingest(store, "load", {host: waves(seed) for seed, host in enumerate("ab")})
    at_work = job(store, monitor("load"))
    passes.backfill(at_work, END)
    healthy = store.rows("flagged_intervals")
    ingest(store, "load", {"a": (np.array([ahead, ahead + HOUR]), np.array([500.0, 100.0]))})
    passes.nightly(job(store, at_work.spec), ahead + 2 * HOUR, ahead + 2 * HOUR)
    kinds = {row["kind"] for row in store.rows("flagged_intervals") if row["end_ts"] > END}
    assert Kind.DATA_MISSING in kinds
    reviewed = next(
        row["event_id"]
        for row in store.rows("flagged_intervals")
        if row["end_ts"] > END and row["series"] == "load{host=a}"
    )
    store.review(reviewed, Verdict.CONFIRMED)
    done = by_hand.delete(store, "load{host=a}", at(ahead), at(ahead + DAY))
    assert done["points"] == 2
    assert done["events"]
    after = store.rows("flagged_intervals", {"series": "load{host=a}"})
    assert {row["event_id"]: row["status"] for row in after}.get(reviewed) == Status.BELOW_LINE
    standing = [row for row in after if row["status"] != "below_line"]
    assert max(row["end_ts"] for row in standing or healthy) <= END
    later = hours(END, END + DAY)
    ingest(store, "load", {host: waves(seed, later) for seed, host in enumerate("ab")})
    passes.tick(job(store, at_work.spec), END + DAY)
    passes.nightly(job(store, at_work.spec), END + DAY, END + DAY)
    (target,) = [each for each in store.targets(at_work.monitor.id) if each.key == "load{host=a}"]
    assert target.scored_until == END + DAY - HOUR + 1
    scores = store.scores([target.id], END, END + 100 * DAY)
    assert (scores.ts.min(), scores.ts.max()) == (END, END + DAY - HOUR)


def test_an_outage_deleted_by_hand_is_gone_and_a_night_later_judged_again(store: SqlStore) -> None:
    ts, course = waves(1)
    bad = (ts >= END - 4 * DAY) & (ts < END - 4 * DAY + 6 * HOUR)
    ingest(store, "load", {"a": (ts, np.where(bad, 900.0, course)), "b": waves(2)})
    at_work = job(store, monitor("load"))
    passes.backfill(at_work, END)
    inside = {"series": "load{host=a}", "kind": "anomaly"}
    assert store.rows("flagged_intervals", inside)
    by_hand.delete(store, "load{host=a}", at(END - 4 * DAY), at(END - 4 * DAY + 6 * HOUR))
    ingest(store, "load", {"a": (ts[bad], course[bad])})
    passes.nightly(job(store, at_work.spec), END, END)
    assert not [row for row in store.rows("flagged_intervals", inside) if row["start_ts"] >= END - 5 * DAY]
    (target,) = [each for each in store.targets(at_work.monitor.id) if each.key == "load{host=a}"]
    assert len(store.scores([target.id], END - 4 * DAY, END - 4 * DAY + 6 * HOUR).ts) == 6


def test_points_that_wait_are_deleted_too(store: SqlStore, file: Path, look: Look) -> None:
    add(file, (NOON, 1.0), (NOON + 3 * HOUR, 2.0))
    look()
    done = by_hand.delete(store, "ccu", at(NOON + HOUR), at(NOON + DAY))
    assert (done["points"], done["held"]) == (0, 1)
    assert look(NOW + timedelta(days=2))["held"] == 0
    assert values(store) == {NOON: 1.0}


def test_a_series_that_loses_all_its_points_begins_anew(store: SqlStore, file: Path, look: Look) -> None:
    add(file, (NOON, 1.0))
    look()
    done = by_hand.delete(store, "ccu", at(NOON), at(NOON + 1))
    assert done["last_at"] is None
    assert health(store) == {"ccu": "empty"}
    add(file, (NOON + 300, 2.0))
    look()
    assert values(store) == {NOON + 300: 2.0}


def test_what_cannot_be_deleted_is_refused(store: SqlStore, file: Path, look: Look) -> None:
    add(file, (NOON, 1.0))
    look()
    with pytest.raises(AskedError, match="--from must lie before --to, got 2024-06-05T12:00:00Z"):
        by_hand.delete(store, "ccu", at(NOON), at(NOON))
    with pytest.raises(UnknownSeriesError, match="no series 'cccu'; the nearest is 'ccu'"):
        by_hand.delete(store, "cccu", at(NOON), at(NOON + 1))
