"""`anomaly explain` as a person meets it: which model spoke, what it expected, and what a rule goes by."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Result, anomaly
from databases import Databases
from sqlalchemy import text

from anomaly_service.db.store import SqlStore

START = datetime(2025, 1, 6, tzinfo=UTC)
DAYS = 35
NOW = START + timedelta(days=DAYS)
HOURS = np.arange(DAYS * 24)

LEARNED, FIRST, OUTAGE, SPIKE = 300, 560, 700, 640
"""Hours at which logins fall by a third for four hours, first while the model learns, and rise for one."""
GAP, FLAT, STOPPED = 600, 700, 790
"""Hours at which latency has no point for six, has one value for twenty, and stops."""

CONFIG = """
database: {database}
sources:
  telemetry:
    {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [realm],
     step: 1h, timezone: UTC}}
monitors:
  automatic:
    series: {{metric: logins}}
    detector: auto
    season: daily
    fit: {{every: 60d, window: 21d, stagger: false}}
    threshold: {{alarms_per_week: 3}}
    policy: {{merge_max_gap: 0s}}
  named:
    series: {{metric: logins}}
    detector: gaussian
    params: {{window: 6}}
    season: daily
    fit: {{every: 60d, window: 21d, stagger: false}}
    threshold: {{alarms_per_week: 3}}
  rules:
    series: {{metric: latency}}
    detector: moving_std
    params: {{window: 6}}
    season: none
    fit: {{every: 60d, window: 14d, stagger: false}}
http: {{port: 0}}
workers: 1
"""


def hour(at: int) -> str:
    return f"{START + timedelta(hours=at):%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True)
class Place:
    """A folder with a config and a database in which incidents were flagged."""

    folder: Path

    def __call__(self, *args: object) -> Result:
        return anomaly(*args, "--config", self.folder / "anomaly.yaml", "--now", NOW.isoformat())

    def explain(self, event: int, *args: object) -> Any:
        done = self("explain", event, "--json", *args)
        assert done.code == 0, done.err
        return done.rows

    def at(self, monitor: str, start: int, kind: str = "anomaly", hours: int = 4) -> int:
        """Return the highest event of a monitor that touches some hours."""
        rows = self("intervals", "--monitor", monitor, "--kind", kind, "--json", "-n", 500).rows
        inside = [e for e in rows if e["start_at"] < hour(start + hours) and e["end_at"] >= hour(start)]
        return int(max(inside, key=lambda event: event["peak_score"])["event_id"])

    def run(self, statement: str, **values: Any) -> None:
        with SqlStore(f"sqlite:///{self.folder / 'anomaly.db'}") as store, store.engine.begin() as connection:
            connection.execute(text(statement), values)


def logins() -> np.ndarray:
    noise = np.exp(np.random.default_rng(1).normal(0, 0.02, len(HOURS)))
    values = 1000 * (1.5 + np.sin(2 * np.pi * HOURS / 24)) * noise
    for start in (LEARNED, FIRST, OUTAGE):
        values[start : start + 4] *= 0.67
    values[SPIKE] *= 1.6
    return np.round(values)


def latency() -> np.ndarray:
    values = 40 + 4 * np.random.default_rng(3).standard_normal(len(HOURS))
    values[FLAT : FLAT + 20] = 41.5
    values[GAP : GAP + 6] = values[STOPPED:] = np.nan
    return values


@pytest.fixture(scope="module", params=Databases.kinds)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp(f"why-{request.param}"))
    url = Databases(request, made.folder).fresh(request.param)
    if request.param == "sqlite":
        Path(url.removeprefix("sqlite:///")).rename(made.folder / "anomaly.db")
        url = f"sqlite:///{made.folder / 'anomaly.db'}"
    lines = ["ts,metric,realm,value"]
    for metric, values in (("logins", logins()), ("latency", latency())):
        lines += [
            f"{hour(at)},{metric},eu-1,{value}" for at, value in enumerate(values) if not np.isnan(value)
        ]
    (made.folder / "drop").mkdir()
    (made.folder / "drop" / "points.csv").write_text("\n".join(lines) + "\n")
    (made.folder / "anomaly.yaml").write_text(CONFIG.format(database=url))
    for command in ("ingest", "backfill"):
        done = made(command)
        assert done.code == 0, done.err
    made("review", made.at("named", FIRST), "expected", "--cause", "maintenance")
    return made


def test_the_models_of_the_automatic_detector_share_its_score(place: Place) -> None:
    found = place.explain(place.at("automatic", SPIKE))
    told = [(member["detector"], member["finds"]) for member in found["members"]]
    assert set(told) == {
        ("gaussian", "what season and level do not explain"),
        ("gmm", "spikes and drops"),
        ("kde", "shapes never seen before"),
    }
    shares = [member["share"] for member in found["members"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    first, second = found["members"][:2]
    assert first["share"] / second["share"] == pytest.approx((first["score"] / second["score"]) ** 2)
    assert found["where"]["start_at"] <= hour(SPIKE) <= found["where"]["end_at"]


def test_a_spike_is_told_by_its_step_where_a_gaussian_speaks(place: Place) -> None:
    other, spike = place.explain(place.at("automatic", SPIKE)), place.explain(place.at("named", SPIKE))
    assert other["members"][0]["detector"] != "gaussian"
    assert other["parts"] is None
    assert max(spike["parts"], key=spike["parts"].get) == "step"
    assert sum(spike["parts"].values()) == pytest.approx(1)


def test_a_named_detector_has_one_member_that_says_it_all(place: Place) -> None:
    found = place.explain(place.at("named", OUTAGE))
    (member,) = found["members"]
    assert (member["detector"], member["window"], member["view"]) == ("gaussian", 6, "full")
    assert (member["share"], member["score"]) == (1.0, None)
    assert member["raw_score"] > 0
    assert hour(OUTAGE) <= found["where"]["start_at"] < found["where"]["end_at"] < hour(OUTAGE + 4)


@pytest.mark.parametrize("monitor", ["automatic", "named"])
def test_what_was_expected_is_what_the_event_says_and_the_band_holds_it(place: Place, monitor: str) -> None:
    found = place.explain(place.at(monitor, OUTAGE))
    # Where the peak is the start, one moment is told.
    peak, start = found["expected"][0], found["expected"][-1]
    assert (peak["moment"], start["moment"]) == ("peak", ("peak", "start")[len(found["expected"]) - 1])
    assert (peak["at"], start["at"]) == (found["event"]["peak_at"], found["event"]["start_at"])
    assert peak["y"] == logins()[(datetime.fromisoformat(peak["at"]) - START) // timedelta(hours=1)]
    assert peak["yhat"] == pytest.approx(found["event"]["yhat_at_peak"], rel=1e-3)
    for look in (peak, start):
        assert look["y"] < look["yhat_lower"] < look["yhat"] < look["yhat_upper"]
    assert found["channels"] == [{"series": "logins{realm=eu-1}", "share": 1.0}]


def test_a_score_is_told_beside_its_line_and_how_rare_it_is(place: Place) -> None:
    found = place.explain(place.at("named", OUTAGE))
    score, line = found["score"], found["score"]["surprise_at_line"]
    assert score["anomaly_score"] == found["event"]["peak_score"]
    assert score["scored_again"] == pytest.approx(score["anomaly_score"], rel=1e-3)
    assert score["surprise"] == pytest.approx(score["anomaly_score"] * line)
    assert score["one_in"] == pytest.approx(10 ** score["surprise"], rel=0.05)
    assert score["words"] == (
        f"One normal step in {score['one_in']:,} scores so high; "
        f"the line lies at one normal step in {score['one_in_at_line']:,}."
    )
    assert found["notes"] == []


def test_the_nearest_of_the_past_stand_beside_it_with_what_people_said(place: Place) -> None:
    found = place.explain(place.at("named", OUTAGE), "-n", 1)["similar"]
    first = place.at("named", FIRST)
    assert [(row["event_id"], row["review_cause"]) for row in found["events"]] == [(first, "maintenance")]
    assert [row["event_id"] for row in found["windows"]] == [first]
    assert found["agreement"] == (
        f"The one near event that was reviewed was expected: maintenance (event {first})."
    )


def test_a_person_reads_sentences_and_tables(place: Place) -> None:
    event = place.at("automatic", SPIKE)
    done = place("explain", event)
    assert done.code == 0
    sentence, about = done.out.splitlines()[:2]
    assert sentence.startswith("logins{realm=eu-1} rose to ")
    assert about.startswith(f"Event {event}: logins{{realm=eu-1}}, anomaly {hour(SPIKE)}, ")
    assert "where 1 is the line. One normal step in " in done.out
    assert "of it comes from gmm (spikes and drops), which is highest " in done.out
    named = place("explain", place.at("named", SPIKE)).out
    assert "Of its score, " in named
    assert "is the step itself" in named
    for title in ("What each model said", "Seen and expected", "Nearest events of monitor automatic"):
        assert title in done.out
    assert "Which series deviate" not in done.out


def test_the_only_model_of_an_interval_needs_no_share(place: Place) -> None:
    shown = place("explain", place.at("named", OUTAGE)).out
    assert "\ngaussian is highest from " in shown
    assert "share" not in shown


def test_an_event_in_the_history_of_its_model_says_whose_word_it_is(place: Place) -> None:
    found = place.explain(place.at("named", LEARNED))
    assert found["score"]["anomaly_score"] == found["event"]["peak_score"] > found["score"]["scored_again"]
    (note,) = found["notes"]
    assert note.startswith("It lies in the history that its model learned from.")
    assert f"{found['score']['scored_again']:.3g} instead of {found['event']['peak_score']:.3g}" in note


@pytest.mark.parametrize(
    ("kind", "at", "rule"),
    [
        (
            "data_missing",
            GAP,
            "No point came for 6 steps; a gap of 3 or more is flagged (policy missing_after_steps).",
        ),
        (
            "flatline",
            FLAT,
            "20 points in a row have the value 41.5; 8 or more equal ones are flagged: 1.5 times the longest "
            "run its model was learned from and two more, and never fewer than 8.",
        ),
        (
            "stale",
            STOPPED,
            "The series stopped: no point for at least 48 steps up to now; 3 or more are flagged "
            "(policy missing_after_steps).",
        ),
    ],
)
def test_what_no_model_flagged_goes_by_a_rule_that_names_its_limit(
    place: Place, kind: str, at: int, rule: str
) -> None:
    event = place.at("rules", at, kind)
    found = place.explain(event)
    assert found["rule"] == rule
    assert (found["score"], found["members"], found["expected"]) == (None, [], [])
    assert (found["similar"]["windows"], found["notes"]) == (None, [])
    done = place("explain", event)
    assert done.out.splitlines()[2] == rule
    assert "No windows" not in done.err


def test_a_detector_that_joins_no_parts_is_explained_without_them(place: Place) -> None:
    found = place.explain(place.at("rules", 0, hours=GAP))
    assert [member["detector"] for member in found["members"]] == ["moving_std"]
    assert found["parts"] is None
    assert found["similar"]["windows"] is None


def test_every_key_of_the_json_is_documented(place: Place) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    (section,) = [part for part in page.split("\n### ") if part.startswith("`anomaly explain")]
    found = place.explain(place.at("automatic", SPIKE))
    parts = place.explain(place.at("named", SPIKE))["parts"]
    rows = [found["score"], found["where"], parts, *found["channels"]]
    rows += [*found["members"], *found["expected"]]
    keys = {*found, *(name for row in rows for name in row)}
    assert {name for name in keys if f"`{name}`" not in section} == set()


def test_an_event_nobody_knows_is_told(place: Place) -> None:
    done = place("explain", 99_999)
    assert done.code == 1
    assert "no event has the id 99999; `anomaly intervals` lists those there are" in done.err


# -- on copies that are changed, of one database ------------------------------------


on_a_copy = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


@pytest.fixture
def changed(place: Place, tmp_path: Path) -> Place:
    shutil.copytree(place.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "anomaly.yaml").write_text(CONFIG.format(database=f"sqlite:///{tmp_path / 'anomaly.db'}"))
    return Place(tmp_path)


@on_a_copy
def test_looking_writes_nothing_into_the_database(changed: Place) -> None:
    event, before = changed.at("automatic", OUTAGE), (changed.folder / "anomaly.db").read_bytes()
    changed.explain(event)
    assert (changed.folder / "anomaly.db").read_bytes() == before


@on_a_copy
def test_an_event_marked_by_hand_has_no_score(changed: Place) -> None:
    event = changed.at("named", OUTAGE)
    changed.run(
        "UPDATE event SET added = 1, version_id = NULL, status = 'below_line' WHERE id = :id", id=event
    )
    found = changed.explain(event)
    assert found["rule"] == "Somebody marked it by hand: no score flagged it."
    assert found["score"] is None


@on_a_copy
def test_an_event_whose_version_is_gone_shows_what_is_stored(changed: Place) -> None:
    event = changed.at("named", OUTAGE)
    changed.run("UPDATE event SET version_id = NULL WHERE id = :id", id=event)
    found = changed.explain(event)
    assert found["notes"] == [
        "What its model said cannot be computed again: "
        "the model version that scored it is not stored any more."
    ]
    (look,) = found["expected"]
    assert (look["y"], look["yhat"]) == (found["event"]["y_at_peak"], found["event"]["yhat_at_peak"])
    assert found["similar"]["events"]


@on_a_copy
def test_an_event_whose_points_are_gone_shows_what_is_stored(changed: Place) -> None:
    event = changed.at("automatic", OUTAGE)
    with SqlStore(f"sqlite:///{changed.folder / 'anomaly.db'}") as store:
        store.delete_points_before(int((START + timedelta(hours=OUTAGE + 100)).timestamp()))
    done = changed("explain", event)
    assert done.code == 0
    assert (
        "What its model said cannot be computed again: its points are not stored any more (retention.points)."
        in done.err
    )
    assert "Seen and expected" in done.out


@on_a_copy
def test_a_detector_that_is_not_installed_any_more_is_named(changed: Place) -> None:
    event = changed.at("named", OUTAGE)
    changed.run("UPDATE model_version SET detector = 'gone' WHERE detector = 'gaussian'")
    found = changed.explain(event)
    assert "a detector of its version cannot be loaded, no detector named 'gone'" in found["notes"][0]


@on_a_copy
def test_points_that_changed_since_are_told(changed: Place) -> None:
    event = changed.at("named", OUTAGE)
    changed.run(
        "UPDATE points SET value = value + 1000 WHERE ts >= :at",
        at=int(START.timestamp()) + OUTAGE * 3600,
    )
    (note,) = changed.explain(event)["notes"]
    assert note.startswith("Scored again, its peak has ")
    assert note.endswith("`anomaly rescore` brings it up to date.")


@on_a_copy
def test_an_event_below_the_line_says_so(changed: Place) -> None:
    event = changed.at("named", FIRST)
    changed.run("UPDATE event SET status = 'below_line' WHERE id = :id", id=event)
    assert changed.explain(event)["notes"] == [
        "It is below the line by now, and kept because somebody judged it."
    ]
