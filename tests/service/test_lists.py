"""Lists in SQL: filtered, in a stable order, page by page, and by an index where there is very much."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import many_events
import psycopg
import pytest
from many_events import EVERY, START
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text

from anomaly_service.db.pages import Asked, Page
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import AskedError, UnknownMonitorError, UnknownSeriesError
from anomaly_service.insight import intervals, lists
from anomaly_service.insight.intervals import Filters
from pipelines.names import Kind, RunKind, RunState, Status, Verdict
from pipelines.records import EventChange, Interval, Json
from pipelines.store import Batch

MANY = 200_000
FEW = 600


def moment(ts: int) -> datetime:
    return datetime.fromtimestamp(ts, UTC)


def flag(store: SqlStore, target: int, start: int, end: int, peak: float = 2.0) -> int:
    interval = Interval(Kind.ANOMALY, start, end, 3, start, peak, 1.5)
    change = EventChange(target, None, interval, Status.CLOSED, first_detected_at=end)
    return store.commit(None, Batch(changes=[change]))[0].id


def pages(ask: Callable[[str | None], Page]) -> Iterator[Page]:
    """Yield the pages of a list, asked for one after the other."""
    page = ask(None)
    yield page
    while page.after is not None:
        page = ask(page.after)
        yield page


def listed(store: SqlStore, filters: Filters) -> list[Json]:
    """Return all rows of a list, read in pages of its limit."""
    found = pages(lambda after: intervals.page(store, replace(filters, after=after)))
    return [row for page in found for row in page.rows]


# -- what a list holds --------------------------------------------------------------


@pytest.fixture
def some(store: SqlStore) -> SqlStore:
    """A store with a few hundred events, some outdated, most judged, with borders moved and ties of peaks."""
    many_events.fill(store, FEW)
    changes = {
        "review_verdict = 'confirmed', review_id = id": "id % 3 = 0 AND status <> 'outdated'",
        "review_start = start_ts - 7000": "id % 10 = 1",
        "end_ts = start_ts + 40000, peak_score = 2": "id % 7 = 1",
    }
    with store.engine.begin() as connection:
        for change, of in changes.items():
            connection.execute(text(f"UPDATE event SET {change} WHERE {of}"))
    return store


SINCE = START + 300 * EVERY
LISTS: dict[str, tuple[Filters, Callable[[Json], bool]]] = {
    "all": (Filters(), lambda row: True),
    "monitor": (Filters(monitor="servers"), lambda row: row["monitor"] == "servers"),
    "series": (Filters(series="ccu{realm=7}"), lambda row: row["series"] == "ccu{realm=7}"),
    "both": (
        Filters(monitor="players", series="ccu{realm=8}"),
        lambda row: (row["monitor"], row["series"]) == ("players", "ccu{realm=8}"),
    ),
    "label": (Filters(labels={"realm": "9"}), lambda row: row["labels"]["realm"] == "9"),
    "kind": (Filters(kind="flatline"), lambda row: row["kind"] == "flatline"),
    "verdict": (Filters(verdict="confirmed"), lambda row: row["review_verdict"] == "confirmed"),
    "unreviewed": (Filters(unreviewed=True), lambda row: row["review_verdict"] is None),
    "height": (Filters(min_score=3.0), lambda row: row["peak_score"] >= 3.0),
    "since": (Filters(since=moment(SINCE)), lambda row: row["end_ts"] >= SINCE),
    "until": (Filters(until=moment(SINCE)), lambda row: row["start_ts"] < SINCE),
    "span": (
        Filters(since=moment(SINCE), until=moment(SINCE + 9000), monitor="players"),
        lambda row: row["end_ts"] >= SINCE and row["start_ts"] < SINCE + 9000 and row["monitor"] == "players",
    ),
}
KEYS = {"newest": ("start_ts", "event_id"), "worst": ("peak_score", "event_id")}


@pytest.mark.parametrize("order", KEYS)
def test_pages_hold_every_row_that_fits_once_and_in_order(some: SqlStore, order: str) -> None:
    everything = some.rows("flagged_intervals")
    for name, (filters, fits) in LISTS.items():
        wanted = [row for row in everything if fits(row)]
        wanted.sort(key=lambda row: [row[key] for key in KEYS[order]], reverse=True)
        assert len(wanted) > 1, name
        assert listed(some, replace(filters, order=order, limit=37)) == wanted, name


def test_many_targets_are_listed_as_few_are(some: SqlStore) -> None:
    ids = some.target_ids("players")
    assert len(ids) > 20
    asked = Asked("flagged_intervals", "newest", targets=ids)
    own = [row for row in some.rows("flagged_intervals") if row["monitor"] == "players"]
    assert some.page(asked).rows == sorted(own, key=lambda row: -row["start_ts"])


def test_what_is_flagged_while_somebody_turns_pages_moves_nothing(store: SqlStore) -> None:
    many_events.fill(store, 20)
    before = listed(store, Filters())
    first = intervals.page(store, Filters(limit=5))
    target = store.target_ids("players")[0]
    newer = flag(store, target, START + 10**6, START + 10**6 + 600)
    tie = flag(store, target, before[4]["start_ts"], before[4]["start_ts"] + 60)
    rest = pages(lambda after: intervals.page(store, Filters(limit=5, after=after or first.after)))
    found = first.rows + [row for page in rest for row in page.rows]
    # Of equal starts the newer event comes first, so that it lies before the place that was reached.
    assert found == before
    assert newer not in {row["event_id"] for row in found}
    assert {newer, tie} <= {row["event_id"] for row in listed(store, Filters())}


def test_an_event_that_began_before_a_span_and_reaches_into_it_is_listed_last(store: SqlStore) -> None:
    many_events.fill(store, 0)
    target = store.target_ids("players", "ccu{realm=1}")[0]
    long = flag(store, target, START, START + 9000)
    flag(store, store.target_ids("players", "ccu{realm=3}")[0], START + 100, START + 200)
    inside = flag(store, store.target_ids("players", "ccu{realm=2}")[0], START + 5000, START + 5060)
    rows = listed(store, Filters(since=moment(START + 4000), limit=1))
    assert [row["event_id"] for row in rows] == [inside, long]


def test_a_page_says_whether_more_follow(store: SqlStore) -> None:
    many_events.fill(store, 10)
    n = len(listed(store, Filters()))
    assert intervals.page(store, Filters(limit=n - 1)).after is not None
    assert intervals.page(store, Filters(limit=n)).after is None
    assert intervals.page(store, Filters(limit=None)).after is None


def test_a_cursor_of_another_list_or_order_is_refused(store: SqlStore) -> None:
    many_events.fill(store, 10)
    cursor = intervals.page(store, Filters(limit=1)).after
    for wrong in (Filters(order="worst", after=cursor), Filters(after="1234"), Filters(after="bm90IG91cnM")):
        with pytest.raises(AskedError, match="--after takes the cursor of a row of the same list"):
            intervals.page(store, wrong)
    with pytest.raises(AskedError, match="--after takes the cursor"):
        lists.runs(store, after=cursor)


def test_names_and_words_that_there_are_none_of_are_refused(store: SqlStore) -> None:
    many_events.fill(store, 10)
    with pytest.raises(UnknownMonitorError, match="no monitor named 'nope'"):
        intervals.page(store, Filters(monitor="nope"))
    with pytest.raises(UnknownSeriesError, match=r"the nearest is 'ccu\{realm=77\}'"):
        intervals.page(store, Filters(series="cc{realm=77}"))
    with pytest.raises(AskedError, match=r"--kind must be one of anomaly, flatline, .*, unscored; got 'x'"):
        intervals.page(store, Filters(kind="x"))
    with pytest.raises(AskedError, match="--order must be one of newest, worst"):
        intervals.page(store, Filters(order="best"))
    assert intervals.page(store, Filters(monitor="declared"), declared=["declared"]).rows == []


def test_runs_models_and_series_come_page_by_page(store: SqlStore) -> None:
    many_events.fill(store, 0)
    for hour in range(7):
        store.note_run(RunKind.FIT, 1, moment(START + 3600 * (hour % 5)), RunState.DONE, {}, seconds=hour)

    def everything(ask: Callable[[str | None], Page]) -> list[Json]:
        return [row for page in pages(ask) for row in page.rows]

    runs = everything(lambda after: lists.runs(store, limit=2, after=after))
    assert runs == sorted(store.rows("run_log"), key=lambda row: (-row["scheduled_ts"], -row["run_id"]))
    series = everything(lambda after: lists.series(store, limit=99, after=after))
    assert [row["series"] for row in series] == [row["series"] for row in lists.series(store).rows]
    assert sorted(row["series_id"] for row in series) == list(range(1, many_events.REALMS + 1))
    models = everything(lambda after: lists.models(store, monitor="rare", limit=100, after=after))
    assert len({row["model_version_id"] for row in models}) == len(models) == many_events.REALMS


# -- by which index -----------------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlStore]:
    """A store with 200,000 events, on each of the two databases."""
    if request.param == "sqlite":
        path: Path = tmp_path_factory.mktemp("full") / "anomaly.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        url = f"sqlite:///{path}"
    else:
        server = request.getfixturevalue("postgres_server")
        template = request.getfixturevalue("migrated_postgres")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE very_many TEMPLATE {template}".encode())
        url = server.get_uri(database="very_many")
    with SqlStore(url) as store:
        many_events.fill(store, MANY)
        yield store


@contextmanager
def asked_of(store: SqlStore) -> Iterator[list[tuple[str, Any]]]:
    """Note the queries of views that a store sends, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "\nFROM " in statement and statement.startswith("SELECT event_id"):
            sent.append((statement, parameters))

    sqlalchemy_event.listen(store.engine, "before_cursor_execute", note)
    yield sent
    sqlalchemy_event.remove(store.engine, "before_cursor_execute", note)


def plan(store: SqlStore, statement: str, parameters: Any = ()) -> list[str]:
    """Return the lines of a database's plan for a statement."""
    prefix = "EXPLAIN QUERY PLAN" if store.engine.dialect.name == "sqlite" else "EXPLAIN"
    with store.engine.connect() as connection:
        return [row[-1] for row in connection.exec_driver_sql(f"{prefix} {statement}", parameters)]


def scans(lines: list[str]) -> list[str]:
    """Return the lines in which a plan reads the whole table of events, without an index."""
    return [line for line in lines if re.search(r"Seq Scan on event\b|SCAN event$", line)]


def indexes(lines: list[str]) -> set[str]:
    """Return the indexes by which an SQLite plan comes to events."""
    return set(re.findall(r"event USING (?:COVERING )?(INTEGER PRIMARY KEY|INDEX \w+)", "\n".join(lines)))


RECENT = moment(START + (MANY - 500) * EVERY)
MIDDLE = Filters(until=moment(START + MANY // 2 * EVERY), limit=1)
OF_TARGETS = "INDEX ix_event_of_target", "INDEX ix_event_target_id_start_ts"
BY_INDEX: dict[str, tuple[Filters, str | tuple[str, ...]]] = {
    "first page": (Filters(), "INDEX ix_event_first"),
    "series of one monitor": (Filters(monitor="players", series="ccu{realm=7}"), "INDEX ix_event_of_target"),
    "series of all monitors": (Filters(series="ccu{realm=7}"), OF_TARGETS),
    "label": (Filters(labels={"realm": "7"}), OF_TARGETS),
    "monitor": (Filters(monitor="servers"), "INDEX ix_event_of_monitor"),
    "monitor with few events": (Filters(monitor="rare"), "INDEX ix_event_of_monitor"),
    "unreviewed": (Filters(unreviewed=True), "INDEX ix_event_unjudged"),
    "unreviewed, worst": (Filters(unreviewed=True, order="worst"), "INDEX ix_event_unjudged_worst"),
    "worst": (Filters(order="worst"), "INDEX ix_event_worst"),
    "since": (Filters(since=RECENT, limit=1000), "INDEX ix_event_first"),
    "until": (Filters(until=RECENT), "INDEX ix_event_first"),
}


@pytest.mark.parametrize("name", BY_INDEX)
def test_a_page_of_very_many_events_is_found_by_an_index(full: SqlStore, name: str) -> None:
    filters, allowed = BY_INDEX[name]
    with asked_of(full) as sent:
        page = intervals.page(full, filters)
        if page.after is not None:
            assert intervals.page(full, replace(filters, after=page.after)).rows
    assert page.rows
    assert len(sent) > 1 or page.after is None
    for statement, parameters in sent:
        lines = plan(full, statement, parameters)
        assert not scans(lines), statement
        if full.engine.dialect.name == "sqlite":
            one = isinstance(allowed, str)
            assert indexes(lines) <= {*([allowed] if one else allowed), "INDEX ix_event_last"}, lines
            # The order of a list is that of its index; of several targets, and what reaches into a span by
            # its end alone, there is little to sort.
            assert not one or not any("TEMP B-TREE" in line for line in lines) or name == "since", lines


def test_a_page_from_the_middle_of_the_list_begins_there(full: SqlStore) -> None:
    cursor = intervals.page(full, MIDDLE).after
    with asked_of(full) as sent:
        page = intervals.page(full, Filters(after=cursor, limit=50))
    assert len(page.rows) == 50
    ((statement, parameters),) = sent
    lines = plan(full, statement, parameters)
    if full.engine.dialect.name == "sqlite":
        assert any("SEARCH event USING INDEX ix_event_first (<expr><?)" in line for line in lines)
        assert not any("TEMP B-TREE" in line for line in lines)
    else:
        assert any("Index Scan Backward using ix_event_first on event" in line for line in lines)
        assert not any("Sort" in line for line in lines)


VIEWS = {
    "one event": "SELECT * FROM flagged_intervals WHERE event_id = 1234",
    "since": f"SELECT * FROM flagged_intervals WHERE end_ts >= {int(RECENT.timestamp())}",
    "newest": "SELECT * FROM flagged_intervals ORDER BY start_ts DESC, event_id DESC LIMIT 50",
    "worst": "SELECT * FROM flagged_intervals ORDER BY peak_score DESC LIMIT 50",
    "queue": "SELECT * FROM review_queue LIMIT 50",
    "queue in the order of the page": "SELECT * FROM review_queue ORDER BY peak_score DESC LIMIT 50",
    "open events": "SELECT * FROM open_events",
    "newest open event": "SELECT * FROM open_events ORDER BY start_ts DESC, event_id DESC LIMIT 1",
    "open events of monitors": "SELECT * FROM monitor_health",
    "open events of series": "SELECT * FROM series_health",
}


@pytest.mark.parametrize("name", VIEWS)
def test_anybody_s_query_of_a_view_is_served_by_an_index(full: SqlStore, name: str) -> None:
    lines = plan(full, VIEWS[name])
    assert not scans(lines), lines


def test_precision_is_counted_from_an_index(full: SqlStore) -> None:
    with full.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            # Whoever counts all may read all: what matters is that the index can serve it.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            rows = connection.exec_driver_sql("EXPLAIN SELECT * FROM detector_precision")
        else:
            rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT * FROM detector_precision")
        lines = [row[-1] for row in rows]
    assert any("ix_event_counted" in line for line in lines)
    assert not scans(lines)


def test_rows_of_a_span_are_found_by_an_index(full: SqlStore) -> None:
    with asked_of(full) as sent:
        found = full.rows("flagged_intervals", since=RECENT)
    assert 400 < len(found) < 600
    ((statement, parameters),) = sent
    assert not scans(plan(full, statement, parameters))


def test_what_is_stored_says_the_same_as_the_numbers_beside_it(store: SqlStore) -> None:
    many_events.fill(store, 10)
    store.review(1, Verdict.CONFIRMED, start=START - 60, end=START + 6000)
    for row in store.rows("flagged_intervals"):
        assert row["start_at"] == f"{moment(row['start_ts']):%Y-%m-%dT%H:%M:%SZ}"
        assert row["end_at"] == f"{moment(row['end_ts']):%Y-%m-%dT%H:%M:%SZ}"
    (row,) = store.rows("flagged_intervals", {"event_id": 1})
    assert (row["start_ts"], row["end_ts"]) == (START - 60, START + 6000)
