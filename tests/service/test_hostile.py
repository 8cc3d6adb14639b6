"""Promise 7: hostile series have fixed answers, from raw points to events, on both databases."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from databases import Databases
from hostile_series import N, hostile
from monitor_jobs import (
    END,
    HOUR,
    START,
    Course,
    events,
    hours,
    ingest,
    job,
    monitor,
    readiness_of,
    spans,
    waves,
)

from anomaly_service.cli import main
from anomaly_service.config.load import load
from anomaly_service.db.store import SqlStore
from anomaly_service.service import Service
from anomaly_service.sources.ingest import ingest_from
from pipelines.executor import Inline
from pipelines.jobs import passes
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.monitor import Threshold
from pipelines.names import Kind, Status
from pipelines.records import Event, ScoreBlock
from pipelines.times import DAY
from pipelines.workers.explained import Sight

FACTORS = {"thousands": 1.0, "billions": 1e10, "billionths": 1e-11}
"""Values around 100 are taken to around 1e12 and 1e-9."""


def scaled() -> dict[str, Course]:
    """Return three series with incidents, one of them rounded, each in three units."""
    courses: dict[str, Course] = {}
    for number in range(3):
        ts, value = waves(10 + number)
        value[400 + 20 * number : 406 + 20 * number] *= 0.4
        value[500] += 60 + 20 * number
        value = np.round(value) if number == 2 else value
        courses |= {f"{unit}{number}": (ts, value * factor) for unit, factor in FACTORS.items()}
    return courses


@pytest.fixture(scope="module", params=Databases.kinds)
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Gives the URLs of new databases, of each kind in turn."""
    databases = Databases(request, tmp_path_factory.mktemp("hostile"))
    return lambda: databases.fresh(request.param)


@pytest.fixture(scope="module")
def store(fresh: Callable[[], str]) -> Iterator[SqlStore]:
    """One database of each kind for the whole file."""
    with SqlStore(fresh()) as opened:
        yield opened


@dataclass(frozen=True)
class Watched:
    """What a monitor left, by host."""

    at: MonitorJob
    events: dict[str, list[Event]]
    scores: dict[str, ScoreBlock]
    ready: dict[str, dict[str, object]]


def watched(at: MonitorJob, end: int = END) -> Watched:
    """Return what backfill and the night after it leave."""
    passes.backfill(at, end)
    passes.nightly(at, end, end)
    hosts = {at.series()[t.series_ids[0]].spec.labels["host"]: t for t in at.targets()}
    ready = {row["target"]: row for row in readiness_of(at)}
    return Watched(
        at,
        events(at),
        {host: at.store.scores([t.id], 0, 2**40) for host, t in hosts.items()},
        {host: ready[t.key] for host, t in hosts.items()},
    )


@pytest.fixture(scope="module")
def seen(store: SqlStore) -> Watched:
    ingest(store, "hostile", hostile())
    return watched(job(store, monitor("hostile")))


@pytest.mark.parametrize(
    ("host", "first", "last"), [("spike", 400, 400), ("hair", 400, 400), ("zero", 400, 402)]
)
def test_a_constant_series_has_any_change_flagged_once(
    seen: Watched, host: str, first: int, last: int
) -> None:
    assert spans(seen.events[host]) == [("anomaly", first, last)]


def test_a_constant_series_that_moves_to_another_level_is_flagged_once(seen: Watched) -> None:
    (found,) = spans(seen.events["shift"])
    assert found[:2] == ("anomaly", 400)
    assert found[2] < 400 + 24


def test_a_constant_series_that_stays_is_normal(seen: Watched) -> None:
    assert seen.events["constant"] == []
    assert np.isfinite(seen.scores["constant"].settled).sum() > N - 20 - Sight.of(24).after


@pytest.mark.databases("sqlite")
def test_a_constant_series_stays_normal_however_long_the_history_it_is_learned_from(store: SqlStore) -> None:
    ts = hours(START, START + 9 * 7 * DAY)
    ingest(store, "load", {"constant": (ts, np.full(len(ts), 7.0))})
    at = job(store, monitor("load", fit_window_seconds=42 * DAY, fit_every_seconds=7 * DAY))
    passes.backfill(at, int(ts[-1]) + 1)
    passes.nightly(at, int(ts[-1]) + 1, int(ts[-1]) + 1)
    assert events(at)["constant"] == []


@pytest.mark.parametrize("host", ["counts", "ties", "rare"])
def test_integers_and_ties_do_not_collapse(seen: Watched, host: str) -> None:
    scores = seen.scores[host]
    own = scores.settled[~np.isnan(scores.settled)]
    assert len(own) > N - 20 - Sight.of(24).after
    assert np.isfinite(own).all()
    assert len(np.unique(own)) > 0.9 * len(own)
    assert np.mean(scores.settled_anomaly >= 1.0) < 0.03
    assert len(seen.events[host]) <= 1


def test_an_incident_among_small_counts_is_found(seen: Watched) -> None:
    assert spans(seen.events["counts"]) == [("anomaly", 400, 403)]


def test_all_points_missing_for_a_while_is_a_gap(seen: Watched) -> None:
    assert spans(seen.events["gap"]) == [("data_missing", 450, 461)]


def test_a_series_without_a_model_that_has_no_more_points_is_stale(seen: Watched) -> None:
    (event,) = seen.events["never"]
    assert event.interval.kind is Kind.STALE
    assert event.status is Status.OPEN
    assert event.interval.start == START + 30 * HOUR
    assert len(seen.scores["never"].ts) == 0


def test_a_gap_of_a_series_without_a_model_is_an_event(seen: Watched) -> None:
    assert spans(seen.events["few"]) == [("data_missing", 20, N - 21)]


@pytest.mark.parametrize("host", ["few", "never", "new"])
def test_fewer_than_eight_windows_are_learning_without_a_score(seen: Watched, host: str) -> None:
    assert seen.ready[host]["state"] == "learning"
    assert len(seen.scores[host].ts) == 0


def test_a_new_series_knows_when_its_first_model_may_be_there(seen: Watched) -> None:
    first = int(hours()[-100])
    ready_by = seen.ready["new"]["ready_by"]
    assert isinstance(ready_by, int)
    assert first + 10 * DAY <= ready_by < first + 11 * DAY
    assert (ready_by % DAY) == 3 * HOUR + 15 * 60


def test_a_series_without_points_is_learning_without_a_date(store: SqlStore) -> None:
    ingest(store, "empty", {"none": (np.empty(0), np.empty(0))})
    at = job(store, monitor("empty"))
    passes.backfill(at, END)
    assert [(row["state"], row["ready_by"]) for row in readiness_of(at)] == [("learning", None)]


def test_a_series_that_stops_is_stale_until_it_comes_back(seen: Watched) -> None:
    (event,) = seen.events["stops"]
    assert event.interval.kind is Kind.STALE
    assert event.status is Status.OPEN
    assert event.interval.start == START + 500 * HOUR


def test_values_of_any_size_give_the_intervals_of_the_scaled_series(store: SqlStore) -> None:
    ingest(store, "scaled", scaled())
    found = watched(job(store, monitor("scaled"))).events
    for number in range(3):
        one, *others = (spans(found[f"{unit}{number}"]) for unit in FACTORS)
        assert [kind for kind, _, _ in one] != []
        assert others == [one, one]


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("delay_seconds", [0, 1800])
def test_a_series_is_stale_three_steps_and_the_delay_after_its_last_point(
    store: SqlStore, delay_seconds: int
) -> None:
    name = f"late{delay_seconds}"
    stop = END - 10 * HOUR
    courses = {"on": waves(1, hours()), "off": waves(2, hours(START, stop))}
    ingest(store, name, courses, delay_seconds=delay_seconds)
    at = job(store, monitor(name))
    passes.backfill(at, stop)
    due = stop - HOUR + 3 * HOUR + delay_seconds
    passes.tick(at, due - 1)
    assert events(at, Kind.STALE)["off"] == []
    passes.tick(at, due)
    (stale,) = events(at, Kind.STALE)["off"]
    assert stale.interval.start == stop
    passes.tick(at, due + 3 * HOUR)
    (later,) = events(at, Kind.STALE)["off"]
    assert later.id == stale.id
    assert events(at, Kind.STALE)["on"] == []


@pytest.mark.databases("sqlite")
def test_a_source_that_stops_for_days_has_one_event_that_ends_when_it_comes_back(store: SqlStore) -> None:
    ingest(store, "alone", {"a": waves(2)})
    spec = monitor("alone")
    passes.backfill(job(store, spec), END)
    for hour in (3, 20, 26, 80):
        passes.tick(job(store, spec), END + hour * HOUR)
        passes.nightly(job(store, spec), END + hour * HOUR, END + hour * HOUR)
        (stale,) = events(job(store, spec), Kind.STALE)["a"]
    ingest(store, "alone", {"a": waves(2, hours(END + 80 * HOUR, END + 90 * HOUR))})
    passes.tick(job(store, spec), END + 90 * HOUR)
    (gap,) = events(job(store, spec), Kind.DATA_MISSING)["a"]
    assert (gap.id, gap.status) == (stale.id, Status.CLOSED)
    assert spans([gap]) == [("data_missing", N, N + 79)]


@pytest.mark.databases("sqlite")
def test_a_tick_sees_a_learning_series_stop_and_come_back(store: SqlStore) -> None:
    ingest(store, "young", {"a": waves(1, hours(START, START + 50 * HOUR))})
    passes.tick(job(store, monitor("young")), START + 51 * HOUR)
    assert events(job(store, monitor("young"))) == {"a": []}
    passes.tick(job(store, monitor("young")), START + 60 * HOUR)
    (stale,) = events(job(store, monitor("young")), Kind.STALE)["a"]
    ingest(store, "young", {"a": waves(1, hours(START + 70 * HOUR, START + 80 * HOUR))})
    passes.tick(job(store, monitor("young")), START + 80 * HOUR)
    (gap,) = events(job(store, monitor("young")))["a"]
    assert (gap.id, gap.status) == (stale.id, Status.CLOSED)
    assert spans([gap]) == [("data_missing", 50, 69)]


@pytest.mark.databases("sqlite")
def test_gaps_of_learning_series_are_the_same_in_whatever_order_they_were_seen(
    seen: Watched, fresh: Callable[[], str]
) -> None:
    hosts = ("few", "never", "new", "gap", "stops")
    spec = monitor("hostile")
    with SqlStore(fresh()) as other:
        ingest(other, "hostile", {host: course for host, course in hostile().items() if host in hosts})
        for hour in (40, 100, 300, 20, 500, 505):
            passes.tick(job(other, spec), START + hour * HOUR)
            if hour == 300:
                passes.nightly(job(other, spec), START + hour * HOUR, START + hour * HOUR)
        found = watched(job(other, spec)).events
    for host in hosts:
        absences = [e for e in found[host] if e.interval.kind in (Kind.STALE, Kind.DATA_MISSING)]
        assert spans(absences) == spans(seen.events[host])


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("first_day", [(2025, 3, 12), (2025, 10, 8)], ids=["spring", "autumn"])
def test_a_change_of_the_clock_causes_no_event(store: SqlStore, first_day: tuple[int, int, int]) -> None:
    start = int(datetime(*first_day, tzinfo=BERLIN).timestamp())
    ts = np.arange(start, start + 24 * DAY, 900)
    moments = [datetime.fromtimestamp(int(t), BERLIN) for t in ts]
    change = next(
        int(t)
        for t, a, b in zip(ts[1:], moments, moments[1:], strict=False)
        if a.utcoffset() != b.utcoffset()
    )
    local = np.array([at.hour * 3600 + at.minute * 60 for at in moments])
    courses = {}
    for number in range(3):
        noise = np.random.default_rng(number).normal(0, 20, len(ts))
        evening = 300 * (local // 3600 == 20 + number)
        courses[str(number)] = (ts, 1000 + 400 * np.sin(2 * np.pi * local / DAY + number) + evening + noise)
    metric = f"clock{first_day[1]}"
    assert start + 10 * DAY < change < start + 24 * DAY - 3 * DAY
    ingest(store, metric, courses, timezone="Europe/Berlin", step_seconds=900)
    # So few alarms that one in the week after the change is not chance.
    spec = monitor(metric, fit_every_seconds=7 * DAY, threshold=Threshold(alarms_per_week=0.1))
    found = watched(job(store, spec), start + 24 * DAY).events
    assert [e for own in found.values() for e in own if e.interval.end >= change] == []


# -- files and names ----------------------------------------------------------------

SOURCE = """
database: {url}
workers: 1
sources:
  files: {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [host, zone],
    step: 1h}}
monitors:
  {name}:
    series: {{metric: load}}
    detector: gaussian
    params: {{window: 6}}
    fit: {{every: 4d, window: 10d, stagger: false}}
    policy: {{merge_max_gap: 0s}}
"""

HOSTS = (
    "'; DROP TABLE series; --",
    '"double" ""quoted""',
    "{{ 7 * 7 }} ${HOME} {% raw %} %(ts)s %s :since {0}",
    "[bold]<script>alert(1)</script>[/]",
    "a,b=c}d{e\\f",
    "überträgt 気圧 🎮",
)
NOW = datetime.fromtimestamp(END, UTC)


@pytest.fixture
def folder(tmp_path: Path, database_url: str) -> Path:
    """A folder with an empty drop box and a config for it."""
    (tmp_path / "drop").mkdir()
    (tmp_path / "anomaly.yaml").write_text(SOURCE.format(url=database_url, name="load"))
    return tmp_path


def service(folder: Path) -> Service:
    return Service(load(folder / "anomaly.yaml"), now=NOW, executor=Inline())


def write(file: Path, rows: Iterable[tuple[object, ...]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("ts", "metric", "host", "zone", "value"), *rows])


def rows_of(host: str, course: Course, zone: str = "z") -> list[tuple[object, ...]]:
    return [(int(t), "load", host, zone, float(v)) for t, v in zip(*course, strict=True)]


def incident(seed: int) -> Course:
    ts, value = waves(seed)
    value[400:406] *= 0.3
    return ts, value


def points(store: SqlStore) -> dict[str, list[tuple[int, float]]]:
    found = {}
    for row in store.series():
        block = store.points([row.id], 0, 2**40)
        found[row.spec.labels["host"]] = list(zip(block.ts.tolist(), block.value.tolist(), strict=True))
    return found


def test_a_messy_file_leaves_what_a_tidy_one_would(folder: Path) -> None:
    tidy = rows_of("a", incident(1))
    messy = [row if i % 50 else (*row[:4], -1.0) for i, row in enumerate(tidy)]
    np.random.default_rng(0).shuffle(messy)
    corrected = [row for i, row in enumerate(tidy) if i % 50 == 0]
    bad: list[tuple[object, ...]] = [
        (int(t), "load", "a", "z", text)
        for t, text in zip(hours(), ("inf", "-Infinity", "1e999"), strict=False)
    ]
    bad += [("yesterday", "load", "a", "z", 1.0), (int(hours()[0]), "load", "a", "z", "five")]
    write(folder / "drop" / "messy.csv", [*messy, *bad, *corrected])
    with service(folder) as at:
        (done,) = ingest_from(at.config, at.store, NOW)
        assert done["rejected"] == len(bad)
        assert points(at.store) == {"a": [(row[0], row[4]) for row in tidy]}
        listed = at.config.rejects_folder / "files.rejects.csv"
        assert len(listed.read_text().splitlines()) == 1 + len(bad)
        at.backfill()
        (event,) = at.store.rows("flagged_intervals", {"kind": "anomaly"})
        # Hour 400 is four in the afternoon of the 20th of October.
        assert event["start_at"] <= "2024-10-20T16:00:00Z" <= event["end_at"]
        # The same file under another name, and the same points again, change nothing.
        before = at.store.rows("flagged_intervals")
        write(folder / "drop" / "again.csv", tidy)
        (done,) = ingest_from(at.config, at.store, NOW)
        assert (done["new"], done["changed"], done["unchanged"]) == (0, 0, len(tidy))
        at.nightly()
        assert [row["event_id"] for row in at.store.rows("flagged_intervals")] == [
            r["event_id"] for r in before
        ]


def test_names_full_of_quotes_and_templates_come_through_unharmed(folder: Path) -> None:
    rows = [row for seed, host in enumerate(HOSTS) for row in rows_of(host, incident(seed))]
    write(folder / "drop" / "names.csv", rows)
    config = ("--config", str(folder / "anomaly.yaml"), "--now", NOW.isoformat())
    for command in ("ingest", "backfill"):
        assert cli(command, *config)[0] == 0
    code, out = cli("intervals", "--json", "--kind", "anomaly", *config)
    listed = json.loads(out)
    assert code == 0
    assert {row["labels"]["host"] for row in listed} == set(HOSTS)
    assert {row["labels"]["host"] for row in json.loads(cli("series", "--json", *config)[1])} == set(HOSTS)
    for host in HOSTS:
        own = [row for row in listed if row["labels"]["host"] == host]
        wanted = ("--kind", "anomaly", "--series", own[0]["series"])
        assert json.loads(cli("intervals", "--json", *wanted, *config)[1]) == own
        event = str(own[0]["event_id"])
        assert cli("review", event, "expected", "--comment", host, *config)[0] == 0
    table = cli("intervals", *config)[1]
    assert all(host in table for host in HOSTS[:1] + HOSTS[3:4])
    with service(folder) as at:
        comments = [review["comment"] for row in listed for review in at.store.reviews(row["event_id"])]
        assert sorted(comments) == sorted(HOSTS)
        assert len(at.store.rows("series_health")) == len(HOSTS)


def test_names_that_look_alike_when_written_out_stay_two_series(folder: Path) -> None:
    one, two = waves(1), waves(2)
    write(folder / "drop" / "alike.csv", rows_of("1,zone=2", one, "3") + rows_of("1", two, "2,zone=3"))
    with service(folder) as at:
        ingest_from(at.config, at.store, NOW)
        assert {host: len(own) for host, own in points(at.store).items()} == {"1,zone=2": N, "1": N}


def test_a_monitor_with_a_hostile_name_works(folder: Path, database_url: str) -> None:
    write(folder / "drop" / "a.csv", rows_of("a", incident(1)))
    name = "it's; {{x}} \\\"%s\\\" 'or' 1=1"
    text = SOURCE.format(url=database_url, name=json.dumps(name))
    (folder / "anomaly.yaml").write_text(text)
    with service(folder) as at:
        ingest_from(at.config, at.store, NOW)
        at.backfill([name])
        assert {row["monitor"] for row in at.store.rows("flagged_intervals")} == {name}


def cli(*args: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it printed."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as exited:
        main(list(args))
    code = exited.value.code
    return (code if isinstance(code, int) else int(code is not None)), out.getvalue()
