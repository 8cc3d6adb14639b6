"""A database that an earlier release left behind migrates, and the service goes on where that release was.

The dumps were made by ``tests/data/make_dumps.py``, which says what is in them.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from commands import Result, anomaly
from databases import Databases
from sqlalchemy import text

from anomaly_service.config.load import load
from anomaly_service.daemon.loop import Daemon
from anomaly_service.daemon.workload import Workload, workload_of
from anomaly_service.db.engine import make_engine
from anomaly_service.db.migrate import differences
from anomaly_service.service import Service
from pipelines.executor import Inline

DATA = Path(__file__).parents[1] / "data" / "upgrade"
LEFT = datetime(2025, 2, 3, 6, tzinfo=UTC)
"""When the earlier release looked last."""
NOW = datetime(2025, 2, 5, 6, tzinfo=UTC)
SPAN = datetime(2025, 1, 27, tzinfo=UTC), datetime(2025, 2, 2, tzinfo=UTC)
AT_WORK = ("players", "logins")
"""Monitors that go on; the others cost time and would show the same."""
OUTAGE = "2025-02-04T09:00:00Z"
"""When logins of eu fell to a third, a day after the earlier release had stopped."""

EVENTS = """
SELECT id, target_id, kind, start_ts, end_ts, status, peak_ts, first_detected_at, merged_into, added,
    version_id, review_id, review_verdict, review_cause, review_start, review_end, peak_score
FROM event ORDER BY id
"""
SCORES = "SELECT target_id, ts, settled FROM scores WHERE settled IS NOT NULL"
REVIEWS = 'SELECT id, event_id, verdict, cause, comment, "by", start_ts, end_ts, at FROM review ORDER BY id'

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Stored:
    """What is in a database.

    Attributes:
        intervals: rows of ``flagged_intervals`` by event, as the database's own view tells them.
        settled: settled scores by target and time.
    """

    intervals: dict[int, dict[str, Any]]
    events: Rows
    reviews: Rows
    settled: dict[tuple[int, int], float]


@dataclass
class Place:
    """A folder with a config and drop folder, and a database."""

    folder: Path
    url: str

    @property
    def config(self) -> Path:
        return self.folder / "anomaly.yaml"

    def __call__(self, *args: object, now: datetime = NOW) -> Result:
        done = anomaly(*args, "--config", self.config, "--now", now.isoformat())
        assert done.code == 0, done.err
        return done

    def stored(self) -> Stored:
        engine = make_engine(self.url)
        with engine.connect() as connection:
            intervals = connection.execute(text("SELECT * FROM flagged_intervals")).mappings().all()
            events, reviews, scores = (
                [tuple(row) for row in connection.execute(text(query))] for query in (EVENTS, REVIEWS, SCORES)
            )
        engine.dispose()
        by_event = {row["event_id"]: dict(row) for row in intervals}
        return Stored(by_event, events, reviews, {(target, ts): score for target, ts, score in scores})

    def rescore(self) -> Any:
        with Service(load(self.config), now=LEFT, executor=Inline()) as service:
            return service.rescore(*SPAN)

    def run_the_daemon(self) -> None:
        """Do what is due, as ``anomaly daemon --once`` does, in this process."""

        def workload() -> Workload:
            whole = workload_of(Service(load(self.config), now=NOW, executor=Inline()))
            at_work = {id_: spec for id_, spec in whole.monitors.items() if spec.name in AT_WORK}
            return replace(whole, monitors=at_work)

        Daemon(workload, clock=lambda: NOW).drain()


@dataclass(frozen=True)
class Upgrade:
    """What became of an earlier release's database, step by step.

    Attributes:
        told: what the earlier release said of some events, as ``anomaly explain --json`` printed it.
        explained: what is said of them now.
        rescored: what a rescore of old days changed, by monitor.
    """

    place: Place
    before: Stored
    told: list[dict[str, Any]]
    explained: list[dict[str, Any]]
    rescored: dict[str, dict[str, Any]]
    after_rescore: Stored
    ingested: list[dict[str, Any]]
    after: Stored


@pytest.fixture(scope="module", params=Databases.kinds)
def upgrade(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Upgrade:
    folder = tmp_path_factory.mktemp(f"upgrade-{request.param}")
    place = Place(folder, Databases(request, folder).empty(request.param))
    restore(place.url, gzip.decompress((DATA / f"{request.param}.sql.gz").read_bytes()))
    place.config.write_text((DATA / "anomaly.yaml").read_text().replace("{database}", place.url))
    told = json.loads((DATA / "explained.json").read_text())
    before = place.stored()
    place("migrate")
    explained = [place("explain", each["event_id"], "--json", now=LEFT).rows for each in told]
    rescored, after_rescore = place.rescore(), place.stored()
    shutil.copytree(DATA / "drop", folder / "drop")
    ingested = place("ingest", "--json").rows
    place.run_the_daemon()
    return Upgrade(place, before, told, explained, rescored, after_rescore, ingested, place.stored())


def restore(url: str, dump: bytes) -> None:
    """Run the SQL of a dump in an empty database."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.executescript(dump.decode())
        connection.close()
        return
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(dump)


def test_a_dump_is_at_most_200_kilobytes() -> None:
    assert all((DATA / f"{kind}.sql.gz").stat().st_size <= 200_000 for kind in Databases.kinds)


def test_the_schema_becomes_the_one_of_today(upgrade: Upgrade) -> None:
    assert differences(upgrade.place.url) == []


def test_an_old_event_is_explained_as_the_earlier_release_explained_it(upgrade: Upgrade) -> None:
    for told, now in zip(upgrade.told, upgrade.explained, strict=True):
        assert now["event"]["event_id"] == told["event_id"]
        for part in told.keys() - {"event_id"}:
            assert alike(now[part], told[part]), (part, now[part], told[part])


def alike(found: Any, wanted: Any) -> bool:
    """True where all that was there is there, numbers up to the rounding of another machine."""
    if isinstance(wanted, dict):
        return all(name in found and alike(found[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(alike, found, wanted))
    if isinstance(wanted, float):
        return bool(found == pytest.approx(wanted, rel=1e-3, abs=1e-6))
    return bool(found == wanted)


def test_a_rescore_leaves_settled_scores_and_events_as_they_were(upgrade: Upgrade) -> None:
    for monitor, outcome in upgrade.rescored.items():
        assert [outcome[what] for what in ("appear", "change", "vanish")] == [[], [], []], monitor
    before, after = upgrade.before, upgrade.after_rescore
    assert after.events == before.events
    assert {key: after.settled[key] for key in before.settled} == pytest.approx(before.settled, rel=1e-5)


def test_files_that_the_earlier_release_read_are_read_on_from_there(upgrade: Upgrade) -> None:
    (source,) = upgrade.ingested
    rows = sum(len(path.read_text().splitlines()) - 1 for path in (DATA / "drop").glob("*.csv"))
    # Four hours of one realm came twice.
    assert (source["new"], source["changed"], source["unchanged"]) == (2 * (rows - 4) - 2700, 0, 0)


def test_a_night_and_a_tick_follow(upgrade: Upgrade) -> None:
    runs = upgrade.place("runs", "--json", "--limit", 100).rows
    assert {run["state"] for run in runs} == {"done"}
    new = {(run["kind"], run["monitor"]) for run in runs if run["scheduled_for"] >= "2025-02-05"}
    nights_and_ticks = {(kind, monitor) for kind in ("nightly", "tick") for monitor in AT_WORK}
    assert new == nights_and_ticks | {("ingest", None)}


def test_models_of_both_releases_stand_side_by_side(upgrade: Upgrade) -> None:
    models = upgrade.place("models", "--monitor", "logins", "--all", "--json", "--limit", 100).rows
    trained = {row["train_stop_at"] for row in models if row["status"] == "accepted"}
    assert {"2025-02-02T03:15:00Z", "2025-02-05T03:15:00Z"} <= trained


def test_what_happens_after_the_upgrade_is_flagged(upgrade: Upgrade) -> None:
    found = upgrade.place("intervals", "--since", OUTAGE, "--json").rows
    assert "logins" in {row["monitor"] for row in found if row["start_at"] <= OUTAGE}


def test_every_review_is_still_there_and_still_counts(upgrade: Upgrade) -> None:
    assert upgrade.after.reviews == upgrade.before.reviews
    told = {id_: row for id_, row in upgrade.before.intervals.items() if row["review_verdict"]}
    columns = ("monitor", "series", "kind", "start_at", "end_at", "review_verdict", "review_cause")
    for id_, row in told.items():
        now = upgrade.after.intervals[id_]
        assert [now[name] for name in columns] == [row[name] for name in columns]


def test_moved_borders_and_added_events_are_among_what_is_kept(upgrade: Upgrade) -> None:
    moved = [row for row in upgrade.after.reviews if row[6] is not None]
    assert [upgrade.after.intervals[row[1]]["review_verdict"] for row in moved] == ["confirmed"]
    added = [row for row in upgrade.after.events if row[9]]
    assert [row[12] for row in added] == ["confirmed"]
