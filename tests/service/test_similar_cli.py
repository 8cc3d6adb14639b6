"""`anomaly similar` as a person meets it: which events and windows are near, and what is said of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Result, anomaly
from databases import Databases
from sqlalchemy import text

from anomaly_service.db.store import SqlStore
from anomaly_service.insight import similar

START = datetime(2025, 1, 6, tzinfo=UTC)
DAYS = 63
NOW = START + timedelta(days=DAYS)
WINDOW = 6
EU, US = "logins{realm=eu-1}", "logins{realm=us-1}"

OUTAGES = {"eu-1": (400, 800, 1300), "us-1": (500, 1100)}
"""Hour of each series at which logins fall by a quarter for three hours."""
SURGES = {"eu-1": (610, 1080), "us-1": (700, 1250)}
"""Hour at which they rise by a quarter, slowly, over nine hours."""

CONFIG = """
database: {database}
sources:
  telemetry:
    {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [realm],
     step: 1h, timezone: UTC}}
monitors:
  logins-odd:
    series: {{metric: logins}}
    detector: gaussian
    params: {{window: 6}}
    season: daily
    fit: {{every: 60d, window: 14d, stagger: false}}
    threshold: {{alarms_per_week: 3}}
    policy: {{merge_max_gap: 0s}}
  latency-odd:
    series: {{metric: latency}}
    detector: robust_z
    params: {{window: 6}}
    season: none
    fit: {{every: 60d, window: 14d, stagger: false}}
http: {{port: 0}}
workers: 1
"""


@dataclass(frozen=True)
class Place:
    """A folder with a config and a database in which incidents were flagged, and some reviewed."""

    folder: Path
    database: str

    def __call__(self, *args: object) -> Result:
        return anomaly(*args, "--config", self.folder / "anomaly.yaml", "--now", NOW.isoformat())

    def similar(self, event: int, *args: object) -> Any:
        """Return what is near an event."""
        done = self("similar", event, "--json", *args)
        assert done.code == 0, done.err
        return done.rows

    def events(self, monitor: str = "logins-odd") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self("intervals", "--monitor", monitor, "--json", "-n", 500).rows
        return found

    def at(self, realm: str, hour: int) -> int:
        """Return the event of a planted incident, the highest where there are several."""
        start, stop = (f"{START + timedelta(hours=hour + off):%Y-%m-%dT%H:%M:%SZ}" for off in (0, 9))
        inside = [
            event
            for event in self.events()
            if event["series"] == f"logins{{realm={realm}}}"
            and event["start_at"] < stop
            and event["end_at"] >= start
        ]
        return int(max(inside, key=lambda event: event["peak_score"])["event_id"])

    def kind(self, event: dict[str, Any]) -> str:
        """Return what was planted where an event lies."""
        realm = event["series"].split("=")[1].rstrip("}")
        first, last = (
            (datetime.fromisoformat(event[name]) - START) / timedelta(hours=1)
            for name in ("start_at", "end_at")
        )
        for kind, planted, hours in (("outage", OUTAGES, 3), ("surge", SURGES, 9)):
            if any(first < hour + hours and last >= hour for hour in planted[realm]):
                return kind
        return "nothing"

    def copied(self, folder: Path) -> Place:
        """Return a copy to change, on SQLite."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        url = f"sqlite:///{folder / 'anomaly.db'}"
        (folder / "anomaly.yaml").write_text(CONFIG.format(database=url))
        return Place(folder, url)


def logins(seed: int, realm: str) -> np.ndarray:
    """Whole logins of hours that follow the day, with the realm's incidents."""
    hours = np.arange(DAYS * 24)
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.02, len(hours)))
    values = 1000 * seed * (1.5 + np.sin(2 * np.pi * hours / 24)) * noise
    for hour in OUTAGES[realm]:
        values[hour : hour + 3] *= 0.75
    for hour in SURGES[realm]:
        values[hour : hour + 9] *= np.linspace(1.05, 1.25, 9)
    return np.round(values)


@pytest.fixture(scope="module", params=Databases.kinds)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp(f"near-{request.param}")
    url = Databases(request, folder).fresh(request.param)
    if request.param == "sqlite":
        url = f"sqlite:///{Path(url.removeprefix('sqlite:///')).rename(folder / 'anomaly.db')}"
    latency = 40 + 4 * np.random.default_rng(3).standard_normal(DAYS * 24)
    latency[500] = 90
    lines = ["ts,metric,realm,value"]
    for metric, realm, values in (
        ("logins", "eu-1", logins(1, "eu-1")),
        ("logins", "us-1", logins(7, "us-1")),
        ("latency", "eu-1", latency),
    ):
        lines += [
            f"{START + timedelta(hours=hour):%Y-%m-%dT%H:%M:%SZ},{metric},{realm},{value}"
            for hour, value in enumerate(values)
        ]
    (folder / "drop").mkdir()
    (folder / "drop" / "points.csv").write_text("\n".join(lines) + "\n")
    (folder / "anomaly.yaml").write_text(CONFIG.format(database=url))
    made = Place(folder, url)
    for command in ("ingest", "backfill"):
        done = made(command)
        assert done.code == 0, done.err
    for realm, hour in (("eu-1", 400), ("us-1", 1100)):
        made(
            "review", made.at(realm, hour), "expected", "--cause", "maintenance", "--comment", f"hour {hour}"
        )
    made("review", made.at("us-1", 700), "confirmed", "--cause", "bots")
    return made


@pytest.mark.parametrize(
    ("realm", "hour", "kind"), [("eu-1", 1300, "outage"), ("us-1", 1100, "outage"), ("eu-1", 1080, "surge")]
)
def test_the_nearest_events_are_those_of_the_same_kind(
    place: Place, realm: str, hour: int, kind: str
) -> None:
    event = place.at(realm, hour)
    found = place.similar(event)["events"]
    expected = sum(map(len, (OUTAGES if kind == "outage" else SURGES).values())) - 1
    kinds = [place.kind(row) for row in found[:expected]]
    # A dip that nobody planted may look like a small outage, but never a surge.
    assert kinds[0] == kind
    assert kinds.count(kind) >= expected - 1
    assert set(kinds) <= {kind, "nothing"}
    assert {row["series"] for row in found[:expected]} == {EU, US}
    assert event not in [row["event_id"] for row in found]
    assert [row["distance"] for row in found] == sorted(row["distance"] for row in found)


def test_reviews_stand_beside_the_events_and_the_last_line_says_what_they_come_to(place: Place) -> None:
    first, second = place.at("eu-1", 400), place.at("us-1", 1100)
    shown = next(event for event in place.events() if event["event_id"] == first)
    done = place("similar", place.at("eu-1", 1300), "--in", "features")
    assert done.code == 0
    (row,) = (line for line in done.out.splitlines() if line.strip().startswith(f"{first} "))
    told = (shown["series"], shown["start_at"], f"{shown['duration_seconds'] // 3600} h", "below_expected")
    for cell in (*told, "expected", "maintenance", "hour 400"):
        assert cell in row
    last = done.out.strip().splitlines()[-1]
    assert last.startswith("Both nearest reviewed events were expected: maintenance (events ")
    assert {str(first), str(second)} == set(last.split("(events ")[1].rstrip(").").split(", "))


def test_reviews_beyond_the_list_still_have_their_say(place: Place) -> None:
    found = place.similar(place.at("eu-1", 1300), "-n", 1)
    assert len(found["events"]) == 1
    assert found["agreement"].startswith("Both nearest reviewed events were expected")


def test_the_nearest_windows_are_those_of_the_same_incident_before(place: Place) -> None:
    found = place.similar(place.at("eu-1", 1300), "--in", "latent")
    assert found["events"] is None
    near = [(row["event_id"], row["review_verdict"], row["review_cause"]) for row in found["windows"][:2]]
    assert sorted(near, key=str) == sorted(
        [(place.at("eu-1", 400), "expected", "maintenance"), (place.at("eu-1", 800), None, None)], key=str
    )
    assert max(row["distance"] for row in found["windows"][:2]) < 0.5


def test_windows_lie_before_the_event_and_hold_no_step_of_it_or_of_each_other(place: Place) -> None:
    event = place.at("eu-1", 1300)
    found = place.similar(event, "--in", "latent", "-n", 50)
    spans = sorted((row["start_at"], row["end_at"]) for row in found["windows"])
    assert len(spans) > 1
    assert all(one[1] < other[0] for one, other in pairwise(spans))
    assert spans[-1][1] < found["event"]["start_at"]
    for start, end in spans:
        assert datetime.fromisoformat(end) - datetime.fromisoformat(start) == timedelta(hours=WINDOW - 1)


def test_an_incident_that_never_came_before_has_no_window(place: Place) -> None:
    done = place("similar", place.at("eu-1", 400))
    assert done.code == 0
    assert "Nearest events of monitor logins-odd" in done.out
    assert "No window of the series before it looks like it." in done.err


def test_a_detector_without_a_latent_space_says_so(place: Place) -> None:
    event = place.events("latency-odd")[0]["event_id"]
    done = place("similar", event)
    assert done.code == 0
    assert "No windows: detector robust_z has no latent space; see `anomaly detectors`." in done.err
    refused = place("similar", event, "--in", "latent")
    assert refused.code == 1
    assert (
        "error: detector robust_z has no latent space; see `anomaly detectors`; `--in features`"
        in refused.err
    )


def test_what_cannot_be_asked_is_told(place: Place) -> None:
    done = place("similar", 99_999)
    assert done.code == 1
    assert "no event has the id 99999; `anomaly intervals` lists those there are" in done.err
    wrong = place("similar", 1, "--in", "space")
    assert wrong.code == 2
    assert "--in must be one of features, latent; got 'space'" in wrong.told


def test_progress_is_told_of_what_takes_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 10.5, 11.5))
    monkeypatch.setattr(similar.time, "monotonic", lambda: next(clock))
    told: list[tuple[str, float]] = []
    progress = similar._after_a_second(lambda stage, share: told.append((stage, share)))
    progress("encode", 0.5)
    progress("encode", 1.0)
    assert told == [("encode", 1.0)]


# -- on copies that are changed, of one database ------------------------------------


on_a_copy = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


@pytest.fixture
def changed(place: Place, tmp_path: Path) -> Place:
    return place.copied(tmp_path)


def run(place: Place, statement: str, **values: Any) -> None:
    with SqlStore(place.database) as store, store.engine.begin() as connection:
        connection.execute(text(statement), values)


@on_a_copy
def test_looking_writes_nothing_into_the_database(changed: Place) -> None:
    event, before = changed.at("eu-1", 1300), (changed.folder / "anomaly.db").read_bytes()
    changed.similar(event)
    assert (changed.folder / "anomaly.db").read_bytes() == before


@on_a_copy
def test_an_event_whose_points_are_gone_is_compared_by_what_is_stored_of_it(changed: Place) -> None:
    event = changed.at("eu-1", 800)
    with SqlStore(changed.database) as store:
        store.delete_points_before(int((START + timedelta(hours=1000)).timestamp()))
    found = changed.similar(event)
    assert changed.kind(found["events"][0]) == "outage"
    assert found["windows"] is None
    assert found["notes"] == [
        "The points of this event are not stored any more (retention.points): events are compared by "
        "direction, duration and height alone.",
        f"No windows: the points of event {event} are not stored any more (retention.points).",
    ]


@on_a_copy
def test_an_event_whose_version_is_gone_has_no_windows(changed: Place) -> None:
    event = changed.at("eu-1", 1300)
    run(changed, "UPDATE event SET version_id = NULL WHERE id = :id", id=event)
    found = changed.similar(event)
    assert changed.kind(found["events"][0]) == "outage"
    assert found["notes"] == [
        f"No windows: event {event} names no model version: it was added by hand, or its version was pruned."
    ]


@on_a_copy
def test_an_event_that_was_merged_or_scores_no_more_says_what_to_ask_for(changed: Place) -> None:
    event, other = changed.at("eu-1", 1300), changed.at("eu-1", 800)
    told = (
        "INSERT INTO event_revision (event_id, revision, at, why, after) "
        "VALUES (:id, 99, 0, 'test', json_object('merged_into', :into))"
    )
    run(
        changed,
        "UPDATE event SET status = 'merged_into', merged_into = :into WHERE id = :id",
        id=event,
        into=other,
    )
    run(changed, told, id=event, into=other)
    assert (
        f"event {event} was merged into event {other}; ask for {other} instead"
        in changed("similar", event).err
    )
    run(changed, "UPDATE event SET status = 'outdated' WHERE id = :id", id=other)
    run(changed, told, id=other, into=None)
    assert f"event {other} no longer scores and no review of it stands" in changed("similar", other).err


@on_a_copy
def test_the_first_event_of_its_kind_says_so(changed: Place) -> None:
    event = changed.at("eu-1", 1300)
    run(changed, "UPDATE event SET kind = 'flatline' WHERE id = :id", id=event)
    done = changed("similar", event, "--in", "features")
    assert done.code == 0
    assert "No other event of this kind (flatline) in monitor logins-odd yet." in done.err
    assert "Nearest" not in done.out


@on_a_copy
def test_the_last_review_counts(changed: Place) -> None:
    first, second = changed.at("eu-1", 400), changed.at("us-1", 1100)
    for event in (first, second):
        changed("review", event, "confirmed", "--cause", "disk", "--comment", "looked again")
    found = changed.similar(changed.at("eu-1", 1300))
    row = next(row for row in found["events"] if row["event_id"] == first)
    assert (row["review_verdict"], row["review_cause"], row["comment"]) == (
        "confirmed",
        "disk",
        "looked again",
    )
    assert found["agreement"].startswith("Both nearest reviewed events were confirmed: disk")
    assert "looked again" in [row["comment"] for row in found["windows"]]


@on_a_copy
def test_an_event_that_scores_no_more_is_not_compared(changed: Place) -> None:
    event, gone = changed.at("eu-1", 1300), changed.at("eu-1", 800)
    assert gone in [row["event_id"] for row in changed.similar(event, "-n", 3)["events"]]
    run(changed, "UPDATE event SET status = 'outdated' WHERE id = :id", id=gone)
    found = [row["event_id"] for row in changed.similar(event, "-n", 3)["events"]]
    assert len(found) == 3
    assert gone not in found


@on_a_copy
def test_a_window_belongs_to_an_event_of_its_own_series(changed: Place) -> None:
    event, own, other = changed.at("eu-1", 1300), changed.at("eu-1", 400), changed.at("us-1", 500)
    longer = (
        "UPDATE event SET peak_score = 99, start_ts = (SELECT start_ts - 36000 FROM event WHERE id = :own), "
        "end_ts = (SELECT end_ts + 36000 FROM event WHERE id = :own) WHERE id = :other"
    )
    run(changed, longer, own=own, other=other)
    found = [row["event_id"] for row in changed.similar(event, "--in", "latent")["windows"]]
    assert own in found
    assert other not in found


@on_a_copy
def test_flatlines_are_compared_by_what_they_are_not_by_their_values(changed: Place) -> None:
    event, other = changed.at("eu-1", 1300), changed.at("us-1", 1250)
    flat = (
        "UPDATE event SET kind = 'flatline', direction = '', peak_score = 3, mean_score = 3, "
        "y_at_peak = NULL, yhat_at_peak = NULL, end_ts = start_ts + 7200 WHERE id IN (:event, :other)"
    )
    run(changed, flat, event=event, other=other)
    found = changed.similar(event, "--in", "features")
    assert [(row["event_id"], row["distance"]) for row in found["events"]] == [(other, 0.0)]
    assert found["notes"] == []


@on_a_copy
def test_of_very_many_events_the_reviewed_and_the_newest_are_compared(
    changed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_service.insight.similar.COMPARED", 4)
    found = changed.similar(changed.at("eu-1", 1300))
    every = changed.events()
    reviewed = {row["event_id"] for row in every if row["review_verdict"]}
    newest = [
        row["event_id"] for row in every if row["event_id"] not in {*reviewed, found["event"]["event_id"]}
    ]
    assert {row["event_id"] for row in found["events"]} == reviewed | {newest[0]}
    assert found["notes"][0] == f"Compared with 4 of {len(every) - 1} events, the reviewed and newest first."
