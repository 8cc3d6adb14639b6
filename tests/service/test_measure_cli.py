"""`anomaly backtest` and `anomaly replay` as a person meets them: tables, files, messages and exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from commands import Result, anomaly

from anomaly_service.config.load import load
from anomaly_service.db.store import SqlStore
from anomaly_service.measure.reviewed import ReviewedSeries, reviewed_series
from detectors import registry
from pipelines.measure.scoreboard import summarise
from pipelines.names import Verdict
from pipelines.records import Json

START = datetime(2025, 1, 6, tzinfo=UTC)
DAYS = 24
NOW = START + timedelta(days=DAYS)
HOUR = 3600
BAD = {"kr-1": (20 * 24 + 6, 5, 0.3), "eu-1": (19 * 24 + 10, 4, 2.5), "us-1": (21 * 24, 3, 0.4)}
"""First hour, hours and factor of what is wrong with each realm."""
GAP = range(17 * 24, 17 * 24 + 5)
"""Hours that eu-1 did not deliver."""
BASELINES = {name for name in registry.names() if registry.get(name).baseline}

GAUSSIAN = ("--detector", "gaussian", "--window", 6)

CONFIG = """
database: sqlite:///anomaly.db
sources:
  telemetry:
    {kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [realm],
     step: 1h, timezone: UTC}
monitors:
  logins-drop:
    series: {metric: logins}
    detector: robust_z
    params: {window: 6}
    season: daily
    fit: {every: 7d, window: 14d, stagger: false}
    threshold: {alarms_per_week: 5}
  logins-odd:
    series: {metric: logins}
    detector: gaussian
    params: {window: 4, seed: 3}
    season: daily
    fit: {every: 7d, window: 14d, stagger: false}
    threshold: {alarms_per_week: 2}
http: {port: 0}
workers: 1
"""


def values(realm: str) -> np.ndarray:
    """Return hours of logins that follow the day, with something wrong once."""
    hours = np.arange(DAYS * 24)
    rng = np.random.default_rng(len(realm) + ord(realm[0]))
    course = 1000 * (1.5 + np.sin(2 * np.pi * hours / 24)) * np.exp(rng.normal(0, 0.02, len(hours)))
    first, n, factor = BAD[realm]
    course[first : first + n] *= factor
    return np.round(course)


@dataclass(frozen=True)
class Place:
    """A folder with a config, a database and labelled data."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "anomaly.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def __call__(self, *args: object) -> Result:
        return anomaly(*args, "--config", self.config, "--now", NOW.isoformat())

    def backtest(self, *args: object) -> Result:
        return anomaly("backtest", "--data", self.data, "--jobs", 1, *args)

    def rows(self, *args: object) -> list[Json]:
        """Return the rows that a backtest keeps."""
        out = self.folder / "rows.json"
        out.unlink(missing_ok=True)
        done = anomaly("backtest", "--jobs", 1, "--json", out, *args)
        assert done.code == 0, done.err
        return list(json.loads(out.read_text()))


def begin(realm: str) -> datetime:
    return START + timedelta(hours=BAD[realm][0])


def write(folder: Path) -> Place:
    """Write the same series as files to ingest and as labelled data, a config, and a file that is broken."""
    (folder / "drop").mkdir(parents=True)
    lines = ["ts,metric,realm,value"]
    labels = ["series,start,end"]
    series = folder / "data" / "telemetry" / "series"
    series.mkdir(parents=True)
    for realm, (first, n, _) in BAD.items():
        times = [START + timedelta(hours=hour) for hour in range(DAYS * 24)]
        rows = list(zip(times, values(realm), strict=True))
        lines += [
            f"{at:%Y-%m-%dT%H:%M:%SZ},logins,{realm},{value:.0f}"
            for hour, (at, value) in enumerate(rows)
            if realm != "eu-1" or hour not in GAP
        ]
        own = [f"{at:%Y-%m-%dT%H:%M:%SZ},{value:.0f}" for at, value in rows]
        (series / f"{realm}.csv").write_text("\n".join(["timestamp,value", *own]) + "\n")
        labels.append(f"{realm},{times[first].isoformat()},{times[first + n - 1].isoformat()}")
    (series.parent / "labels.csv").write_text("\n".join(labels) + "\n")
    about = {"series": {realm: {"train_until": (START + timedelta(days=14)).isoformat()} for realm in BAD}}
    (series.parent / "meta.json").write_text(json.dumps(about))
    (folder / "drop" / "logins.csv").write_text("\n".join(lines) + "\n")
    (folder / "anomaly.yaml").write_text(CONFIG)
    return Place(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Labelled data, a database that was backfilled, and reviews of some of its intervals."""
    made = write(tmp_path_factory.mktemp("place"))
    for command in ("migrate", "ingest", "backfill"):
        done = made(command)
        assert done.code == 0, done.err
    assert made("review", event(made, "kr-1"), "confirmed", "--cause", "outage").code == 0
    assert made("review", event(made, "eu-1"), "false_positive").code == 0
    return made


def event(place: Place, realm: str, monitor: str = "logins-drop") -> int:
    """Return the id of the interval of what is wrong with a realm."""
    at = f"{begin(realm) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    found = place("intervals", "--json", "--limit", 1000, "--monitor", monitor)
    (row,) = [
        row
        for row in json.loads(found.out)
        if row["series"] == f"logins{{realm={realm}}}" and row["start_at"] <= at <= row["end_at"]
    ]
    return int(row["event_id"])


# -- backtest on files --------------------------------------------------------------


def test_a_table_tells_every_detector_and_the_baselines(place: Place) -> None:
    done = place.backtest("--detector", "kde,gaussian", "--window", 6)
    assert done.code == 0, done.err
    assert [row[:3] for row in done.table[:2]] == [
        ["telemetry", "kde", "3 of 3"],
        ["telemetry", "gaussian", "3 of 3"],
    ]
    assert {row[1] for row in done.table} == {"kde", "gaussian"} | BASELINES
    assert "backtest: done in" in done.err


def test_the_table_holds_what_the_rows_come_to(place: Place) -> None:
    out = place.folder / "out.json"
    done = place.backtest(*GAUSSIAN, "--no-baselines", "--alarms-per-week", 3, "--json", out)
    rows = json.loads(out.read_text())
    (found,) = summarise(rows)
    (cells,) = done.table
    assert f"Every figure of every series: {out}" in done.err
    assert cells[1] == found["detector"] == "gaussian"
    assert cells[3] == f"{found['vus_pr']:.3f}"
    assert cells[7:9] == [f"{found['overlap_f1']:.3f}", f"{found['overlap_f1_live']:.3f}"]
    assert cells[11:15] == [
        f"{100 * found['share_flagged']:.1f} %",
        f"{found['alarms_per_week']:.2f}",
        f"{found['alarms_per_week_live']:.2f}",
        "3.00",
    ]
    assert [(row["dataset"], row["series"], row["window"], row["alarms_asked_per_week"]) for row in rows] == [
        ("telemetry", realm, 6, 3.0) for realm in sorted(BAD)
    ]
    assert all(row["overlap_recall"] == 1.0 for row in rows)
    assert all(row["vus_pr"] > 0.5 for row in rows)


def test_what_is_kept_is_not_done_again_unless_told_to(place: Place) -> None:
    out = place.folder / "kept.json"
    asked = ("--detector", "random", "--no-baselines", "--window", 6, "--json", out)
    first = place.backtest(*asked)
    kept = json.loads(out.read_text())
    again = place.backtest(*asked)
    assert json.loads(out.read_text()) == kept
    assert (again.code, again.out) == (0, first.out)
    assert "done in" not in again.err
    fresh = place.backtest(*asked, "--fresh")
    assert "done in" in fresh.err
    assert json.loads(out.read_text()) != kept  # it took other times


def test_a_report_has_a_section_for_every_series(place: Place) -> None:
    done = place.backtest(*GAUSSIAN, "--report", place.folder / "report")
    page = (place.folder / "report" / "index.html").read_text()
    assert set(re.findall(r'<section id="telemetry/([^"]+)"', page)) == set(BAD)
    assert f"Backtest of {place.data}, unsupervised" in page
    assert f"Report with a picture of every series: {place.folder / 'report' / 'index.html'}" in done.err


def test_the_training_part_is_not_judged(place: Place) -> None:
    rows = place.rows("--data", place.data, *GAUSSIAN, "--no-baselines", "--split", "train")
    assert [(row["split"], row["rows"]) for row in rows] == [("train", 10 * 24 - 1)] * 3


def test_monitors_of_a_config_are_tested_under_their_names(place: Place) -> None:
    rows = place.rows("--data", place.data, "--config", place.config)
    windows = {row["detector"]: (row["window"], row["alarms_asked_per_week"]) for row in rows}
    assert set(windows) == {"logins-drop", "logins-odd"} | BASELINES
    assert (windows["logins-drop"], windows["logins-odd"]) == ((6, 5.0), (4, 2.0))
    assert windows["random"] == (24, 1.0)
    only = place.rows("--data", place.data, "--config", place.config, "-m", "logins-odd", "--no-baselines")
    assert {row["detector"] for row in only} == {"logins-odd"}


def test_a_detector_named_twice_is_tested_once(place: Place) -> None:
    done = place.backtest("--detector", "random, random,", "--no-baselines", "--window", 6)
    assert [row[:3] for row in done.table] == [["telemetry", "random", "3 of 3"]]


def test_bad_files_are_named_and_the_others_are_tested(tmp_path: Path) -> None:
    broken = write(tmp_path)
    (broken.data / "telemetry" / "series" / "bad.csv").write_text("timestamp,value\n1,many\n2,3\n3,4\n")
    with (broken.data / "telemetry" / "labels.csv").open("a") as file:
        file.write("nobody,1,2\n")
    done = broken.backtest("--detector", "random", "--no-baselines", "--window", 6)
    assert done.code == 0
    assert done.table[0][2] == "3 of 3"
    assert "left out: " in done.err
    assert "bad.csv: expected numbers in every channel" in done.err
    assert "labels.csv: no file for the series 'nobody'" in done.err


def test_a_folder_of_which_nothing_can_be_tested_fails_and_says_why(tmp_path: Path) -> None:
    broken = write(tmp_path)
    for realm in BAD:
        (broken.data / "telemetry" / "series" / f"{realm}.csv").write_text("nothing")
    done = broken.backtest("--report", tmp_path / "report")
    assert (done.code, done.out) == (1, "")
    assert "There was nothing to test." in done.err
    assert done.err.count("left out: ") == 3
    assert "3 left out" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.parametrize("detector", ["gaussian", "robust_z"])
def test_series_without_a_model_are_named(place: Place, detector: str) -> None:
    done = place.backtest("--detector", detector, "--no-baselines", "--window", 400)
    assert done.code == 0
    assert f"no model, so counted as knowing nothing: {detector} on telemetry/eu-1: " in done.err


# -- wrong usage --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name a folder with --data DIR, or the database's own series with --reviewed"),
        (["--data", "{data}", "--reviewed"], "name a folder with --data DIR, or the database's own series"),
        (["--data", "{data}", "--split", "half"], "--split must be one of unsupervised, train; got 'half'"),
        (["--data", "{data}", "--detector", "oracle"], "no detector named 'oracle'; installed: "),
        (
            ["--data", "{data}", "--detector", "kde", "--config", "{config}"],
            "--detector and --config exclude",
        ),
        (["--data", "{data}", "--monitor", "m"], "--monitor goes with --config or --reviewed"),
        (["--data", "{data}", "--alarms-per-week", "0"], "--alarms-per-week must be above 0, got 0"),
        (["--data", "{data}", "--alarms-per-week", "inf"], "expected a finite number such as 1.5, got 'inf'"),
        (["--data", "{data}", "--json", "{data}"], "is a directory"),
        (["--data", "{data}", "--report", "{config}"], "is a file"),
        (["--reviewed", "--split", "train"], "--split train needs training rows"),
        (["--reviewed", "--dataset", "nab"], "--dataset and --window go with --data"),
        (["--reviewed", "--window", "6"], "--dataset and --window go with --data"),
    ],
)
def test_what_cannot_be_is_wrong_usage(place: Place, args: Sequence[str], message: str) -> None:
    done = anomaly("backtest", *(each.format(data=place.data, config=place.config) for each in args))
    assert done.code == 2
    assert message in done.told
    assert done.out == ""


def test_a_setting_that_a_detector_does_not_take_is_refused_with_its_monitor(tmp_path: Path) -> None:
    wrong = write(tmp_path)
    wrong.config.write_text(CONFIG.replace("seed", "seeed"))
    done = wrong.backtest("--config", wrong.config)
    assert done.code == 2
    assert "logins-odd: detector 'gaussian' has no setting 'seeed'; did you mean 'seed'?" in done.told


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "{data}/none"], "there is no folder"),
        (["--data", "{data}", "--dataset", "nab"], "has no data set 'nab'; it has: telemetry"),
        (["--data", "{data}", "--config", "{config}", "-m", "x"], "no monitor named 'x'; the config"),
        (["--data", "{data}", "--json", "{data}/telemetry/meta.json"], "holds something other than results"),
    ],
)  # fmt: skip
def test_what_is_not_there_fails_with_one_message(place: Place, args: Sequence[str], message: str) -> None:
    done = anomaly("backtest", *(each.format(data=place.data, config=place.config) for each in args))
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert message in done.err


# -- backtest on reviews ------------------------------------------------------------


def test_reviewed_series_are_tested_with_reviews_as_labels(place: Place) -> None:
    rows = place.rows("--reviewed", "--config", place.config)
    own = {row["series"]: row for row in rows if row["detector"] == "robust_z"}
    assert {row["dataset"] for row in rows} == {"logins-drop"}
    assert set(own) == {"logins{realm=eu-1}", "logins{realm=kr-1}"}
    assert {row["detector"] for row in rows} == BASELINES
    assert {(row["window"], row["alarms_asked_per_week"]) for row in rows} == {(6, 5.0)}
    outage = own["logins{realm=kr-1}"]
    assert (outage["labels"], outage["overlap_recall"]) == (1, 1.0)
    wrong = own["logins{realm=eu-1}"]
    assert (wrong["labels"], wrong["vus_pr"]) == (0, None)
    assert wrong["alarms"] >= 1


def test_other_detectors_take_over_the_window_of_the_monitor(place: Place) -> None:
    rows = place.rows("--reviewed", "--config", place.config, "--detector", "kde", "--no-baselines")
    assert {(row["detector"], row["window"]) for row in rows} == {("kde", 6)}


def test_the_config_of_the_environment_counts_for_reviews(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALY_CONFIG", str(place.config))
    done = anomaly("backtest", "--reviewed", "--no-baselines", "--jobs", 1)
    assert done.code == 0, done.err
    assert done.table[0][:3] == ["logins-drop", "robust_z", "1 of 2"]
    # Labelled files are tested with detectors, not with whatever monitors are at work here.
    assert place.backtest("--no-baselines").table[0][1] == "auto"


def test_a_monitor_of_which_nothing_was_reviewed_says_what_to_do(place: Place) -> None:
    done = anomaly("backtest", "--reviewed", "--config", place.config, "--monitor", "logins-odd")
    assert done.code == 2
    assert (
        "nobody has reviewed an interval of these monitors yet; judge some first: anomaly review" in done.told
    )


@pytest.fixture
def reviewing(place: Place, tmp_path: Path) -> SqlStore:
    """A copy of the database, to review in."""
    copy = tmp_path / "anomaly.db"
    copy.write_bytes((place.folder / "anomaly.db").read_bytes())
    return SqlStore(f"sqlite:///{copy}")


def judged(store: SqlStore, place: Place) -> dict[tuple[str, str], ReviewedSeries]:
    """Return the reviewed series by monitor and realm."""
    found = reviewed_series(store, load(place.config).monitor_specs())
    return {(name, each.series[-5:-1]): each for name, own in found.items() for each in own}


def test_verdicts_become_labels_or_stretches_without_a_say(place: Place, reviewing: SqlStore) -> None:
    with reviewing as store:
        rows = store.rows("flagged_intervals", {"monitor": "logins-drop"})
        found = judged(store, place)
    assert set(found) == {("logins-drop", "kr-1"), ("logins-drop", "eu-1")}
    for (_, realm), each in found.items():
        own = [row for row in rows if row["series"] == each.series and row["kind"] == "anomaly"]
        labelled = each.read()
        assert labelled.truth == spans(own, "confirmed")
        assert labelled.unsure == spans(own, None)
        seen = np.delete(values(realm), GAP) if realm == "eu-1" else values(realm)
        assert labelled.values[:, 0].tolist() == seen.tolist()
        assert (labelled.dataset, labelled.step_seconds, labelled.timezone) == ("logins-drop", HOUR, "UTC")
    assert any(each.read().unsure for each in found.values())
    assert "data_missing" in {row["kind"] for row in rows if row["series"] == "logins{realm=eu-1}"}


def spans(rows: Sequence[Json], verdict: str | None) -> tuple[tuple[int, int], ...]:
    """Return the intervals of one verdict in order, or those without any."""
    own = [row for row in rows if row["review_verdict"] == verdict]
    return tuple(sorted((stamp(row["start_at"]), stamp(row["end_at"])) for row in own))


def stamp(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp())


def test_moved_borders_count_and_new_trends_are_labels(place: Place, reviewing: SqlStore) -> None:
    first = int(begin("us-1").timestamp())
    with reviewing as store:
        store.review(event(place, "us-1"), Verdict.NEW_TREND, start=first - HOUR, end=first + 9 * HOUR)
        assert judged(store, place)["logins-drop", "us-1"].read().truth == ((first - HOUR, first + 9 * HOUR),)


@pytest.mark.parametrize(
    ("verdict", "labels", "unsure"),
    [(Verdict.EXPECTED, 0, False), (Verdict.FALSE_POSITIVE, 0, False), (Verdict.CONFIRMED, 1, False)],
)
def test_the_last_verdict_counts(
    place: Place, reviewing: SqlStore, verdict: Verdict, labels: int, unsure: bool
) -> None:
    at = int(begin("kr-1").timestamp()) + HOUR
    with reviewing as store:
        store.review(event(place, "kr-1"), Verdict.UNSURE)
        assert ("logins-drop", "kr-1") not in judged(store, place)
        store.review(event(place, "kr-1"), verdict)
        own = judged(store, place)["logins-drop", "kr-1"].read()
    assert len(own.truth) == labels
    assert any(a <= at <= b for a, b in own.unsure) is unsure


# -- replay -------------------------------------------------------------------------


def replay(place: Place, *args: object) -> Result:
    return place("replay", *args)


def flagged(place: Place) -> list[Json]:
    with SqlStore(load(place.config).database) as store:
        return store.rows("flagged_intervals")


def test_a_replay_tells_in_a_sentence_and_a_table_what_would_have_been_raised(place: Place) -> None:
    done = replay(place, "--last", "7d", "--monitor", "logins-drop")
    assert done.code == 0, done.err
    sentence = done.out.splitlines()[0]
    assert re.fullmatch(
        r"logins-drop \(robust_z\): one budget of 5 a week over 3 series: \d+ intervals in 7 d "
        r"\(5 allowed for\)(, \d+ of them .*)?, here they are:",
        sentence,
    )
    assert re.search(rf"logins{{realm=kr-1}} +anomaly +{begin('kr-1'):%Y-%m-%dT%H}", done.out)


def test_a_replay_counts_only_the_time_that_was_watched(place: Place) -> None:
    told = replay(place, "--last", "400d", "--monitor", "logins-drop").out.splitlines()[0]
    found = re.search(
        r"in (\d+) d(?: \d+ h)? \((\d+) allowed for\), all of 400 d that could be watched", told
    )
    assert found is not None, told
    days, allowed = map(int, found.groups())
    assert days < 40, "more is not there"
    assert allowed == pytest.approx(5 * days / 7, abs=1)


def test_a_replay_as_json_has_the_columns_of_the_view_and_writes_nothing(place: Place) -> None:
    before = flagged(place)
    done = replay(place, "--last", "7d", "--json")
    rows = json.loads(done.out)
    assert {row["monitor"] for row in rows} == {"logins-drop", "logins-odd"}
    assert all(set(row) == set(before[0]) for row in rows)
    assert all(row["start_at"] >= f"{NOW - timedelta(days=8):%Y-%m-%d}" for row in rows)
    assert flagged(place) == before


def test_a_replay_that_raises_nothing_is_an_empty_array(place: Place) -> None:
    done = replay(
        place, "--from", "2025-01-28", "--to", "2025-01-28T02:00", "--threshold", "sigma=50", "--json"
    )
    assert (done.code, json.loads(done.out)) == (0, [])
    told = replay(place, "--from", "2025-01-28", "--to", "2025-01-28T02:00", "--threshold", "sigma=50")
    assert told.out.splitlines() == [
        f"{name} ({detector}): the line of sigma 50 over 3 series: 0 intervals in 2 h."
        for name, detector in (("logins-drop", "robust_z"), ("logins-odd", "gaussian"))
    ]


def test_a_smaller_budget_and_another_detector_can_be_tried(place: Place) -> None:
    many, few = (
        len(json.loads(replay(place, "--last", "10d", "-m", "logins-drop", "--threshold", n, "--json").out))
        for n in (40, 1)
    )
    assert few < many
    told = replay(place, "--last", "10d", "-m", "logins-odd", "--detector", "robust_z").out
    assert told.startswith("logins-odd (robust_z): one budget of 2 a week over 3 series:")


def test_a_limit_says_how_many_more_there_are(place: Place) -> None:
    done = replay(place, "--last", "10d", "-m", "logins-drop", "--threshold", 40, "--limit", 2)
    assert len(done.out.splitlines()) == 4
    assert re.search(r"\d+ more; --limit \d+ shows them all\.", done.err)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name the span with --last 30d, or with --from TIME and --to TIME"),
        (["--last", "7d", "--from", "2025-01-20"], "name the span with --last 30d"),
        (["--last", "long"], "--last: expected"),
        (["--from", "yesterday"], "--from expects a time such as"),
        (["--from", "2025-02-20"], "the end of the span, got 2025-02-20 00:00 and 2025-01-29 23:00"),
        (["--from", "2025-01-20", "--to", "2025-01-10"], "--from must lie before the end of the span"),
        (["--last", "7d", "--detector", "oracle"], "no detector named 'oracle'"),
    ],
)
def test_a_replay_that_cannot_be_is_wrong_usage(place: Place, args: Sequence[str], message: str) -> None:
    done = replay(place, *args)
    assert done.code == 2
    assert message in done.told


@pytest.mark.parametrize(
    "bad", ["0", "-1", "nan", "inf", "many", "quantile=0.5", "sigma=0", "median=2", "=3", "sigma="]
)
def test_a_threshold_that_is_none_is_told_with_those_there_are(place: Place, bad: str) -> None:
    done = replay(place, "--last", "7d", "--threshold", bad)
    assert done.code == 2
    assert f"such as 5, quantile=0.001 (below 0.5), sigma=3 or dynamic; got '{bad}'" in done.told


@pytest.mark.parametrize("threshold", ["7", "alarms=7", "quantile=0.01", "sigma=4", "dynamic"])
def test_thresholds_are_told_as_they_were_asked_for(place: Place, threshold: str) -> None:
    done = replay(place, "--last", "2d", "-m", "logins-drop", "--threshold", threshold)
    method, _, value = threshold.rpartition("=")
    line = {"": f"one budget of {value} a week", "alarms": "one budget of 7 a week"}
    wanted = (
        "the line of dynamic" if value == "dynamic" else line.get(method, f"the line of {method} {value}")
    )
    assert done.out.startswith(f"logins-drop (robust_z): {wanted} over 3 series: ")


def test_a_replay_of_a_database_without_points_says_what_to_run(tmp_path: Path) -> None:
    empty = write(tmp_path)
    assert empty("migrate").code == 0
    done = replay(empty, "--last", "7d")
    assert done.code == 2
    assert "the database holds no points yet; run: anomaly ingest" in done.told


def test_an_unknown_monitor_of_a_replay_is_told_with_those_there_are(place: Place) -> None:
    done = replay(place, "--last", "7d", "--monitor", "nope")
    assert done.code == 1
    assert "no monitor named 'nope'; the config declares logins-drop, logins-odd" in done.err
