"""The command line as a person meets it: commands, options, exit codes, messages, tables and JSON."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Result, anomaly
from daemon_harness import process

from anomaly_service.cli import app, main
from anomaly_service.cli.options import PANELS, STEPS
from anomaly_service.errors import ConflictError, InvalidError, NotFoundError, RefusedError, UnavailableError

COMMANDS = (
    "try", "init", "validate", "status", "migrate", "ingest", "backfill", "fit", "score", "rescore", "daemon",
    "intervals", "review", "add", "undo", "series", "runs", "monitors", "detectors", "simulate", "demo",
    "backtest", "replay", "models", "sample", "similar", "explain",
    "points delete", "plan",
)  # fmt: skip
START = datetime(2025, 1, 6, tzinfo=UTC)
NOW = START + timedelta(weeks=4)
OUTAGE = START + timedelta(days=23, hours=12)
STEP = timedelta(minutes=15)

CONFIG = """
database: sqlite:///anomaly.db
sources:
  telemetry:
    {kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [realm],
     step: 15min, timezone: UTC}
monitors:
  logins-drop:
    series: {metric: logins}
    detector: robust_z
    fit: {every: 7d, window: 28d, stagger: false}
    threshold: {alarms_per_week: 2}
    policy: {detection_direction: below_expected, min_rel_dev_from_expected: 10%}
http: {port: 0}
workers: 1
"""


def write_points(folder: Path) -> None:
    """Write four weeks of two daily series; logins of kr-1 fail for two hours near the end."""
    rng = np.random.default_rng(7)
    times = [START + i * STEP for i in range(int((NOW - START) / STEP))]
    lines = ["ts,metric,realm,value"]
    for realm in ("eu-1", "kr-1"):
        for at in times:
            level = 1000 * (1.5 + np.sin(2 * np.pi * at.hour / 24)) * np.exp(rng.normal(0, 0.02))
            if realm == "kr-1" and OUTAGE <= at < OUTAGE + timedelta(hours=2):
                level *= 0.3
            lines.append(f"{at:%Y-%m-%dT%H:%M:%SZ},logins,{realm},{level:.0f}")
    (folder / "drop").mkdir(parents=True)
    (folder / "drop" / "logins.csv").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Place:
    """A folder with a config, whose commands act as of the end of its data."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "anomaly.yaml"

    def __call__(self, *args: object) -> Result:
        return anomaly(*args, "--config", self.config, "--now", NOW.isoformat())


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A config and its files, and no database yet."""
    folder = tmp_path_factory.mktemp("fresh")
    write_points(folder)
    (folder / "anomaly.yaml").write_text(CONFIG)
    return Place(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The same after migrate, ingest and backfill, each by its command."""
    folder = tmp_path_factory.mktemp("place")
    write_points(folder)
    (folder / "anomaly.yaml").write_text(CONFIG)
    made = Place(folder)
    for command in ("migrate", "ingest", "backfill"):
        done = made(command)
        assert done.code == 0, done.err
    return made


# -- every command ------------------------------------------------------------------


def options(command: str) -> set[str]:
    """Return the options of a command."""
    import typer.main

    found = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]  # type: ignore[attr-defined]  # a group at runtime
    return {option for parameter in found.params for option in parameter.opts}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_config_and_now(command: str) -> None:
    assert {"--config", "--now"} <= options(command)


def test_there_is_no_command_that_is_not_listed_here() -> None:
    import typer.main

    found = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert found == {command.split()[0] for command in COMMANDS}


@pytest.mark.parametrize("command", ["intervals", "series", "runs", "monitors", "detectors", "replay"])
def test_every_list_takes_json(command: str) -> None:
    assert "--json" in options(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = anomaly(*command.split(), "--help")
    assert shown.code == 0
    assert "--now" in shown.out


def test_the_help_begins_with_the_first_steps_in_their_order() -> None:
    shown = anomaly("--help").out
    panels = [title.strip(" ─") for title in re.findall(r"╭─ (.*?) ─", shown)]
    assert panels == ["Options", *PANELS]
    first = shown.partition("First steps")[2].partition("At work")[0]
    assert tuple(re.findall(r"^│ (\w+)  ", first, re.MULTILINE)) == STEPS


def test_help_answers_in_half_a_second() -> None:
    command = [Path(sys.executable).with_name("anomaly"), "--help"]

    def seconds() -> float:
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        # Processor time, the same on an idle machine and less than the wall's on a busy one.
        return (after.children_user - before.children_user) + (after.children_system - before.children_system)

    assert any(seconds() < 0.5 for _ in range(9))


# -- what goes wrong ----------------------------------------------------------------


def test_wrong_usage_exits_with_two() -> None:
    assert anomaly("intervals", "--bogus").code == 2
    assert anomaly("rescore").code == 2
    assert anomaly("no-such-command").code == 2


def test_a_time_that_is_none_is_wrong_usage(place: Place) -> None:
    done = anomaly("status", "--config", place.config, "--now", "yesterday")
    assert done.code == 2
    assert "--now expects a time such as" in flat(done.err)


def test_a_span_that_ends_before_it_starts_is_wrong_usage(place: Place) -> None:
    done = place("rescore", "--from", "2025-02-01", "--to", "2025-01-01")
    assert done.code == 2
    assert "--from must lie before --to" in flat(done.err)


def test_a_dry_run_cannot_fit(place: Place) -> None:
    done = place("rescore", "--from", "2025-01-20", "--to", "2025-02-01", "--refit", "--dry-run")
    assert done.code == 2
    assert "--dry-run writes nothing" in done.err


def test_a_kind_that_is_none_is_wrong_usage(place: Place) -> None:
    done = place("intervals", "--kind", "outage")
    assert done.code == 2
    assert "data_missing" in done.err


def test_an_unknown_verdict_is_wrong_usage_and_names_those_there_are(place: Place) -> None:
    done = place("review", 1, "maybe")
    assert done.code == 2
    assert "confirmed, expected, false_positive, new_trend, unsure" in flat(done.err)


def flat(text: str) -> str:
    """Return text without the frame and line breaks of a usage error."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_a_missing_config_is_one_message_that_says_how_to_get_one(tmp_path: Path) -> None:
    done = anomaly("status", "--config", tmp_path / "none.yaml")
    assert done.code == 1
    assert done.out == ""
    assert "anomaly init" in done.err
    assert "Traceback" not in done.err


def test_a_bad_config_is_told_with_file_line_and_path(tmp_path: Path) -> None:
    path = tmp_path / "anomaly.yaml"
    path.write_text("monitors:\n  m:\n    series: {}\n    detecter: gaussian\n")
    done = anomaly("validate", "--config", path)
    assert done.code == 1
    assert f"{path}:4: monitors.m.detecter: unknown key" in done.err


def test_a_database_without_tables_says_what_to_run(fresh: Place) -> None:
    done = fresh("intervals")
    assert done.code == 1
    assert "anomaly migrate" in done.err


def test_an_unknown_monitor_is_told_with_those_there_are(place: Place) -> None:
    done = place("fit", "--monitor", "nope")
    assert done.code == 1
    assert "logins-drop" in done.err


@pytest.mark.parametrize("command", ["intervals", "models"])
@pytest.mark.parametrize(
    ("option", "name", "told"),
    [
        ("--monitor", "nope", "logins-drop"),
        ("--series", "logins{realm=none}", "the nearest is 'logins{realm="),
    ],
)
def test_a_list_of_what_there_is_not_says_so(
    place: Place, command: str, option: str, name: str, told: str
) -> None:
    done = place(command, option, name)
    assert (done.code, done.out) == (1, "")
    assert name in done.err
    assert told in done.err


def test_an_event_that_does_not_exist_cannot_be_reviewed(place: Place) -> None:
    done = place("review", 99_999, "confirmed")
    assert done.code == 1
    assert "99999" in done.err


def test_debug_shows_where_it_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_DEBUG", "1")
    with redirect_stderr(io.StringIO()), pytest.raises(ValueError, match="anomaly init"):
        main(["status", "--config", str(tmp_path / "none.yaml")])


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let every list fail like that."""
    from anomaly_service.db.store import SqlStore

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(SqlStore, "page", broken)


@pytest.mark.parametrize(
    "error", [KeyError("metric"), ValueError("not 3"), OSError("of a library"), RuntimeError("size 4")]
)
def test_a_bug_looks_like_one_and_says_where_to_report_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error)
    done = place("series")
    assert (done.code, done.out) == (1, "")
    said, what_to_do = done.err.splitlines()
    assert said == f"error: {type(error).__name__}: {error}"
    assert re.match(r"This is a bug in anomaly-service \d+\.\d+\S*, .* report it", what_to_do)
    assert what_to_do.endswith("ANOMALY_DEBUG=1 shows the traceback.")


@pytest.mark.parametrize("kind", [NotFoundError, ConflictError, InvalidError, UnavailableError, RefusedError])
def test_an_error_of_ours_is_one_sentence(
    place: Place, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    failing(monkeypatch, kind("it is not so; do that"))
    done = place("series")
    assert (done.code, done.out, done.err) == (1, "", "error: it is not so; do that\n")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("backfill", "--monitor", "nope"), "no monitor named 'nope'; the config declares logins-drop"),
        (("similar", "EVENT", "--in", "latent"), "detector robust_z has no latent space"),
        (("review", "EVENT", "confirmed", "--comment", "half: \ud83d"), "the database refuses a value"),
        (("init",), "anomaly.yaml is there already; --force replaces it"),
        (("try", "none.csv", "--timezone", "Nowhere/Land"), "expected an IANA time zone"),
    ],
)
def test_what_a_person_can_get_wrong_is_no_bug(place: Place, args: tuple[object, ...], told: str) -> None:
    event = outage(place)["event_id"]
    done = place(*(event if arg == "EVENT" else arg for arg in args)) if args[0] != "try" else anomaly(*args)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_a_database_that_is_not_migrated_is_no_bug(fresh: Place) -> None:
    done = fresh("series")
    assert done.code == 1
    assert "`anomaly migrate`" in done.err
    assert "bug" not in done.err
    assert not fresh.config.with_name("anomaly.db").exists()


@pytest.mark.parametrize(
    "args",
    [
        ("intervals", "--since", "0001-01-01T00:00:00+14:00"),
        ("rescore", "--from", "2026-01-01", "--to", "9999-12-31"),
        ("replay", "--last", "9999999999999d"),
        ("sample", "--monitor", "logins-drop", "--seed", 10**30),
        ("simulate", "--seed", -1),
        ("simulate", "--weeks", 10**9),
    ],
)
def test_what_cannot_be_is_wrong_usage(place: Place, args: tuple[object, ...]) -> None:
    done = place(*args)
    assert done.code == 2
    assert "Invalid value" in done.told


def cursor(*place: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("simulate", "--weeks", 2), "'--weeks': expected a whole number from 3 to 520, got '2'"),
        (("intervals", "--limit", 0), "expected a whole number from 1 to 2,147,483,647, got '0'"),
        (("runs", "--limit", 10**30), "expected a whole number from 1 to 2,147,483,647, got '1000"),
        (("series", "--limit", "many"), "expected a whole number from 1 to 2,147,483,647, got 'many'"),
        (("explain", 10**30), "expected a whole number from 1 to "),
        (("intervals", "--min-score", "nan"), "expected a finite number such as 1.5, got 'nan'"),
        (("intervals", "--min-score", "high"), "expected a finite number such as 1.5, got 'high'"),
        (("try", "none.csv", "--alarms-per-week", "inf"), "expected a finite number"),
        (
            ("intervals", "--since", "2026-01-02", "--until", "2026-01-01"),
            "--since must lie before --until, got 2026-01-02T00:00:00Z and 2026-01-01T00:00:00Z",
        ),
        (("intervals", "--after", cursor("flagged_intervals", "newest", 10**30, 1)), "takes the cursor"),
        (("intervals", "--after", cursor("flagged_intervals", "newest", 1, 10**30)), "takes the cursor"),
        (("series", "--after", cursor("series_health", "name", "a\0", 1)), "takes the cursor"),
        (("series", "--after", cursor("series_health", "name", "\ud83d", 1)), "takes the cursor"),
        (
            ("points", "delete", "--series", "x", "--from", "2026-01-02", "--to", "2026-01-01"),
            "must lie before",
        ),
    ],
    ids=lambda each: "-".join(str(arg)[:12] for arg in each) if isinstance(each, tuple) else "",
)
def test_wrong_usage_is_told_in_a_sentence_of_ours(place: Place, args: tuple[object, ...], told: str) -> None:
    done = place(*args)
    assert done.code == 2
    assert told in done.told
    assert "Input should" not in done.told
    assert "database" not in done.told


def test_a_demo_cannot_end_before_points_are_stored(tmp_path: Path) -> None:
    done = anomaly("simulate", tmp_path / "made", "--now", "1900-01-01")
    assert done.code == 2
    assert "--now must lie between 1971-02-26 and 2261 for 8 weeks that end then" in done.told


def test_runs_are_a_narrow_table_also_where_they_are_piped(tmp_path: Path) -> None:
    write_points(tmp_path)
    (tmp_path / "anomaly.yaml").write_text(CONFIG)
    place = Place(tmp_path)
    place("migrate")
    place.config.with_name("drop").joinpath("other.csv").write_text("a,b\n1,2\n")
    place("ingest")
    listed = place("runs").out.splitlines()
    assert len(listed) > 1
    assert max(map(len, listed)) < 400
    assert any("no column ts" in str(run["error"]) for run in place("runs", "--json").rows)


# -- from files to reviewed intervals -----------------------------------------------


def intervals(place: Place, *args: object) -> Any:
    return place("intervals", "--json", *args).rows


def outage(place: Place) -> Any:
    """Return the interval of the planted outage."""
    (found,) = [
        row
        for row in intervals(place, "--limit", 1000)
        if row["start_at"] <= f"{OUTAGE + timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}" <= row["end_at"]
    ]
    return found


def test_the_outage_is_flagged(place: Place) -> None:
    found = outage(place)
    assert found["series"] == "logins{realm=kr-1}"
    assert found["direction"] == "below_expected"


def test_json_rows_have_the_columns_of_the_view(place: Place) -> None:
    from anomaly_service.config.load import load
    from anomaly_service.db.store import SqlStore

    with SqlStore(load(place.config).database) as store:
        columns = {view: set(store.rows(view)[0]) for view in ("flagged_intervals", "series_health")}
    assert set(intervals(place)[0]) == columns["flagged_intervals"] | {"cursor"}
    assert set(place("series", "--json").rows[0]) == columns["series_health"] | {"cursor", "habit"}


def test_json_stays_json_when_there_is_nothing(place: Place) -> None:
    assert place("intervals", "--json", "--kind", "stale").rows == []


def test_a_list_is_a_table_for_people(place: Place) -> None:
    shown = place("intervals")
    assert "logins{realm=kr-1}" in shown.out
    assert "2 h" in shown.out


def test_lists_can_be_narrowed(place: Place) -> None:
    everything = intervals(place, "--limit", 1000)
    assert len(intervals(place, "--limit", 1)) == 1
    (one, *_) = everything
    assert {row["series"] for row in intervals(place, "--series", one["series"])} == {one["series"]}
    late = intervals(place, "--since", OUTAGE.isoformat())
    assert late == [row for row in everything if row["end_at"] >= f"{OUTAGE:%Y-%m-%dT%H:%M:%SZ}"]


def test_the_newest_interval_comes_first(place: Place) -> None:
    starts = [row["start_at"] for row in intervals(place)]
    assert starts == sorted(starts, reverse=True)


def test_a_review_is_kept_with_its_cause_and_a_rescoring_does_not_lose_it(place: Place) -> None:
    event = outage(place)["event_id"]
    said = place(
        "review", event, "confirmed", "--cause", "outage", "--comment", "login server", "--by", "anna"
    )
    assert (said.code, said.out) == (0, f"Event {event}: confirmed (outage).\n")
    done = place("rescore", "--from", "2025-01-20", "--to", "2025-02-03")
    assert done.code == 0, done.err
    found = outage(place)
    assert (found["event_id"], found["review_verdict"], found["review_cause"]) == (
        event,
        "confirmed",
        "outage",
    )
    assert event not in [row["event_id"] for row in intervals(place, "--unreviewed")]


def test_a_list_goes_on_behind_the_cursor_of_its_last_row(place: Place) -> None:
    everything = [row["event_id"] for row in intervals(place, "--limit", 1000)]
    rows = intervals(place, "--limit", 3)
    found = []
    while rows:
        found += [row["event_id"] for row in rows]
        rows = intervals(place, "--limit", 3, "--after", rows[-1]["cursor"])
    assert found == everything
    table = place("intervals", "--limit", 3)
    assert "cursor" not in table.out
    cursor = intervals(place, "--limit", 3)[-1]["cursor"]
    assert table.err.strip() == f"More follow: --after {cursor}"


def test_a_cursor_that_is_none_is_wrong_usage(place: Place) -> None:
    done = place("intervals", "--after", "yesterday")
    assert done.code == 2
    assert "--after takes the cursor of a row of the same list" in flat(done.err)


def test_a_list_can_be_ordered_and_cut_by_height_time_and_label(place: Place) -> None:
    rows = intervals(place, "--order", "worst", "--min-score", 2, "--label", "realm=kr-1")
    assert [row["peak_score"] for row in rows] == sorted((row["peak_score"] for row in rows), reverse=True)
    assert {row["series"] for row in rows} == {"logins{realm=kr-1}"}
    assert min(row["peak_score"] for row in rows) >= 2
    day = f"{OUTAGE:%Y-%m-%d}"
    (row,) = intervals(place, "--since", day, "--until", f"{day}T23:00", "--label", "realm=kr-1")
    assert row["event_id"] == outage(place)["event_id"]
    assert place("intervals", "--label", "realm").code == 2


def test_borders_move_and_every_undo_goes_one_act_back(place: Place) -> None:
    event = next(row for row in reversed(intervals(place)) if row["review_verdict"] is None)
    number, before = event["event_id"], (event["start_at"], event["end_at"])
    moved = place("review", number, "--to", before[0])
    assert moved.out == f"Event {number}: borders moved, from {before[0]} to {before[0]}.\n"
    assert place("review", number, "expected", "--cause", "patch", "--by", "ann").code == 0
    first = place("undo", number)
    assert first.out.startswith(
        f"Event {number}: took back the verdict expected of ann. Nobody has judged it now,"
    )
    (row,) = place("undo", number, "--json").rows
    assert (row["start_at"], row["end_at"], row["review_verdict"]) == (*before, None)
    last = place("undo", number)
    assert (last.code, last.out) == (1, "")
    assert f"nothing is left to take back of event {number}" in last.err


@pytest.mark.parametrize(
    "borders", [["--from", "2019-01-01"], ["--from", "2019-01-01", "--to", "2019-01-02"]], ids=str
)
def test_borders_are_not_moved_to_where_nothing_is_stored(place: Place, borders: list[str]) -> None:
    number = outage(place)["event_id"]
    refused = place("review", number, *borders)
    assert refused.code == 2
    assert "must hold points of logins{realm=kr-1}" in flat(refused.err)


def test_a_verdict_with_borders_is_taken_back_with_them(place: Place) -> None:
    row = outage(place)
    number, before = row["event_id"], (row["start_at"], row["end_at"])
    later = datetime.fromisoformat(row["start_at"]) + timedelta(minutes=5)
    assert place("review", number, "confirmed", "--by", "ann", "--from", f"{later:%Y-%m-%dT%H:%M}").code == 0
    undone = place("undo", number)
    assert "took back the verdict confirmed and the moved borders of ann" in flat(undone.out)
    assert (outage(place)["start_at"], outage(place)["end_at"]) == before


def test_a_missed_interval_is_added_and_taken_back(place: Place) -> None:
    quiet = START + timedelta(days=20, hours=3)
    span = ("--from", f"{quiet:%Y-%m-%dT%H:%M}", "--to", f"{quiet + timedelta(hours=1):%Y-%m-%dT%H:%M}")
    added = place("add", "logins{realm=eu-1}", *span, "--cause", "bots", "--by", "ann")
    number = int(added.out.split()[1])
    assert added.out.startswith(f"Event {number} added to logins{{realm=eu-1}}: confirmed, from ")
    again = place("add", "logins{realm=eu-1}", *span, "--cause", "bots", "--monitor", "logins-drop")
    assert again.out.startswith(f"Event {number} stands already in")
    assert place("rescore", "--from", "2025-01-20", "--to", "2025-02-03").code == 0
    (row,) = (row for row in intervals(place, "--limit", 1000) if row["event_id"] == number)
    assert (row["added"], row["status"], row["review_cause"]) == (True, "below_line", "bots")
    assert "Somebody marked it by hand" in place("explain", number).out
    assert "it is no longer listed; its history stays" in place("undo", number).out
    assert number not in {row["event_id"] for row in intervals(place, "--limit", 1000)}


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["logins{realm=kr-2}", "{from}", "{to}"], 1, "the nearest is 'logins{realm=kr-1}'"),
        (["logins{realm=kr-1}", "{from}", "{to}", "--monitor", "nope"], 1, "no monitor named 'nope'"),
        (["logins{realm=kr-1}", "--from=2025-01-20", "--to=2025-01-19"], 2, "--from must not lie after --to"),
        (
            ["logins{realm=kr-1}", "--from=2025-02-20", "--to=2025-02-21"],
            2,
            "stored are from 2025-01-06 00:00",
        ),
        (["logins{realm=kr-1}", "{from}", "{to}", "--verdict=maybe"], 2, "VERDICT must be one of confirmed"),
        (["logins{realm=kr-1}", "{from}", "{to}", "--verdict=false_positive"], 2, "was not flagged"),
        (["logins{realm=kr-1}", "--from={outage}", "--to={outage}"], 1, "lies there already"),
    ],
)
def test_what_cannot_be_added_is_refused_with_the_reason(
    place: Place, args: list[str], code: int, told: str
) -> None:
    at = {"{from}": "--from=2025-01-20", "{to}": "--to=2025-01-20T01:00"}
    given = [at.get(arg, arg.replace("{outage}", f"{OUTAGE:%Y-%m-%dT%H:%M}")) for arg in args]
    done = place("add", *given)
    assert (done.code, done.out) == (code, "")
    assert told in flat(done.err)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", ["intervals", "series", "monitors"])
def test_a_list_keeps_to_the_terminal_with_a_line_for_each_row(
    place: Place, monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setattr("anomaly_service.cli.tables.terminal_width", lambda: columns)
    done = place(command)
    assert max(len(line) for line in done.out.splitlines()) <= columns
    assert len(done.out.splitlines()) == 1 + len(place(command, "--json").rows)


def test_a_terminal_shows_what_is_odd_and_the_wide_list_all_columns(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_service.cli.tables.terminal_width", lambda: 80)
    done = place("intervals", "--limit", 3)
    assert "% below expected" in done.out
    assert "direction" not in done.out
    assert "direction" in place("intervals", "--limit", 3, "--wide").out


def test_a_dry_run_writes_nothing(place: Place) -> None:
    before = intervals(place, "--limit", 1000)
    done = place("rescore", "--from", "2025-01-13", "--to", "2025-02-03", "--dry-run")
    assert done.code == 0, done.err
    assert "nothing was written" in done.out
    assert intervals(place, "--limit", 1000) == before


def test_a_rescore_says_from_when_on_what_it_takes_is_still_stored(place: Place, tmp_path: Path) -> None:
    from anomaly_service.config.load import load
    from anomaly_service.db.store import SqlStore

    pruned = Place(Path(shutil.copytree(place.folder, tmp_path / "pruned")))
    before = intervals(pruned, "--limit", 1000)
    with SqlStore(load(pruned.config).database) as store:
        store.delete_points_before(int(OUTAGE.timestamp()) - 86400)
    done = pruned("rescore", "--from", "2025-01-13", "--to", "2025-02-03")
    assert done.code == 0, done.err
    assert "series in part only: what it takes to score times before 2025-0" in done.err
    assert intervals(pruned, "--limit", 1000) == before


def test_a_dry_run_names_the_series_whose_intervals_would_change(place: Place) -> None:
    strict = place.folder / "strict.yaml"
    strict.write_text(CONFIG.replace("min_rel_dev_from_expected: 10%", "min_duration: 20h"))
    span = ("--from", OUTAGE.date(), "--to", NOW.date())
    done = anomaly("rescore", *span, "--dry-run", "--config", strict, "--now", NOW.isoformat())
    told = [line for line in done.out.splitlines() if line.startswith(("vanish", "change"))]
    assert any("logins{realm=kr-1}" in line and OUTAGE.date().isoformat() in line for line in told)


def test_repeating_the_work_changes_nothing(place: Place) -> None:
    before = intervals(place, "--limit", 1000)
    for command in ("migrate", "ingest", "backfill", "fit", "score"):
        done = place(command)
        assert done.code == 0, done.err
    assert intervals(place, "--limit", 1000) == before


def test_a_job_explains_its_columns(place: Place) -> None:
    done = place("score")
    columns = done.out.splitlines()[0].split()
    explained = re.findall(r"(\w+)(?=[,:])", done.err)
    assert set(columns) - {"monitor"} <= set(explained)
    assert "fitted: models. rows: scores written." in done.err
    assert "fitted: models" not in place("score", "--json").err


def test_validate_says_what_every_monitor_watches(place: Place) -> None:
    said = place("validate").out
    assert "Monitor logins-drop (robust_z): 2 series, a point every 15 min." in said
    assert "History from 2025-01-06T00:00:00Z to 2025-02-02T23:45:00Z." in said
    assert "Ready: 2." in said


def test_validate_says_which_series_only_wait_for_their_fit(tmp_path: Path) -> None:
    write_points(tmp_path)
    (tmp_path / "anomaly.yaml").write_text(CONFIG)
    new = Place(tmp_path)
    assert new("migrate").code == 0
    assert new("ingest").code == 0
    assert "Without a model yet: 2; `anomaly backfill`" in new("validate").out


def test_validate_says_when_a_learning_series_will_be_ready(tmp_path: Path) -> None:
    write_points(tmp_path)
    drop = tmp_path / "drop" / "logins.csv"
    drop.write_text("".join(drop.read_text().splitlines(keepends=True)[:30]))
    (tmp_path / "anomaly.yaml").write_text(CONFIG)
    new = Place(tmp_path)
    assert new("migrate").code == 0
    assert new("ingest").code == 0
    assert "Learning: 1; their first models can be fitted 2025-01-" in new("validate").out


def test_validate_refuses_a_setting_that_the_detector_does_not_take(tmp_path: Path) -> None:
    path = tmp_path / "anomaly.yaml"
    path.write_text(CONFIG.replace("detector: robust_z", "detector: robust_z\n    params: {windoww: 24}"))
    done = anomaly("validate", "--config", path)
    assert done.code == 1
    assert "windoww" in done.err


def test_status_tells_sources_monitors_and_runs_in_words(place: Place) -> None:
    said = place("status").out
    assert "Source telemetry: 2 series, newest point 2025-02-02T23:45:00Z, 15 min ago." in said
    assert "Monitor logins-drop (robust_z): 2 series" in said
    assert "anomaly daemon" in said


def test_status_as_json_has_the_rows_of_the_health_views(place: Place) -> None:
    found = place("status", "--json").rows
    assert found["sources"][0]["source"] == "telemetry"
    assert found["monitors"][0]["monitor"] == "logins-drop"


def test_a_job_says_why_a_series_has_no_model(tmp_path: Path) -> None:
    write_points(tmp_path)
    (tmp_path / "anomaly.yaml").write_text(CONFIG.replace("window: 28d", "window: 1d"))
    short = Place(tmp_path)
    for command in ("migrate", "ingest"):
        assert short(command).code == 0
    done = short("backfill")
    assert done.code == 0
    assert "logins-drop: no model for logins{realm=eu-1}: fit.window holds 96 points" in done.err
    assert "8 windows of 24 need 192; lengthen fit.window" in done.err


def test_monitors_and_detectors_are_listed(place: Place) -> None:
    assert [row["monitor"] for row in place("monitors", "--json").rows] == ["logins-drop"]
    detectors = {row["detector"]: row for row in place("detectors", "--json").rows}
    assert detectors["gaussian"]["density"] == "tractable"
    assert "robust_z" in place("detectors").out


def test_progress_goes_to_stderr_so_that_results_can_be_piped(place: Place) -> None:
    done = place("backfill", "--json")
    assert "logins-drop" in done.rows


def test_one_round_of_the_daemon_leaves_its_runs_in_the_list(place: Place) -> None:
    # A process of its own: the daemon takes over signals and logging.
    command = [sys.executable, "-m", "anomaly_service", "daemon", "--once", "--config", str(place.config)]
    done = subprocess.run([*command, "--now", NOW.isoformat()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kinds = {(run["kind"], run["state"]) for run in place("runs", "--json").rows}
    assert kinds == {("ingest", "done"), ("tick", "done"), ("nightly", "done")}
    assert "Last tick ended" in place("status").out
    # Piped, a row is a line, however much its outcome says.
    assert len(place("runs").out.splitlines()) == 1 + len(place("runs", "--json").rows)


def with_a_broken_file(folder: Path) -> Place:
    """Return a place whose drop folder holds a good file and one that is no gzip."""
    write_points(folder)
    (folder / "drop" / "broken.csv").write_bytes(b"\x1f\x8b broken")
    (folder / "anomaly.yaml").write_text(CONFIG)
    place = Place(folder)
    assert place("migrate").code == 0
    return place


def test_a_source_that_cannot_be_read_is_in_the_log_and_in_the_status(tmp_path: Path) -> None:
    place = with_a_broken_file(tmp_path)
    command = ["-m", "anomaly_service", "daemon", "--once", "--config", str(place.config)]
    with process([*command, "--now", NOW.isoformat()], tmp_path / "log") as daemon:
        daemon.wait()
    warned = [line for line in (tmp_path / "log").read_text().splitlines() if "source not read" in line]
    # A read that failed is tried three times, as every run is; nothing else failed for it.
    assert ["broken.csv" in line for line in warned] == [True] * 3
    runs = {(run["kind"], run["source"]): run for run in place("runs", "--json").rows}
    assert {key: run["state"] for key, run in runs.items()} == {
        ("ingest", "telemetry"): "failed",
        ("tick", None): "done",
        ("nightly", None): "done",
    }
    assert "broken.csv" in runs["ingest", "telemetry"]["error"]
    # What could be read went in.
    assert place("status", "--json").rows["sources"][0]["series"] == 2
    (source,) = [line for line in place("status").out.splitlines() if line.startswith("Source ")]
    assert "The last read failed: " in source
    assert "broken.csv" in source
    assert "No run failed." in place("status").out


def test_only_the_sources_asked_for_are_read(tmp_path: Path) -> None:
    write_points(tmp_path)
    more = "  other: {kind: csv, path: other.csv, timestamp: ts, value: value, metric_name: n, step: 15min}\n"
    (tmp_path / "anomaly.yaml").write_text(CONFIG.replace("monitors:", more + "monitors:"))
    place = Place(tmp_path)
    place("migrate")
    assert [row["source"] for row in place("ingest", "--source", "other", "--json").rows] == ["other"]
    assert place("series", "--json").rows == []
    refused = place("ingest", "--source", "telemetri")
    assert refused.code == 1
    assert "no source named 'telemetri'; the config declares telemetry, other" in refused.err
    assert [row["new"] > 0 for row in place("ingest", "--json").rows] == [True, False]
    # The reads are runs: a daemon's and a person's cannot meet.
    assert {row["source"] for row in place("runs", "--json").rows} == {"telemetry", "other"}
    assert "Source other: no series yet. Last read " in place("status").out


def test_what_is_scored_by_command_was_taken_in_before(tmp_path: Path) -> None:
    write_points(tmp_path)
    (tmp_path / "anomaly.yaml").write_text(CONFIG)
    place = Place(tmp_path)
    place("migrate")
    for command in ("backfill", "fit", "score"):
        assert place(command).code == 0
    assert place("series", "--json").rows == []
    assert "ingest" not in {row["kind"] for row in place("runs", "--json").rows}


# -- first steps --------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A small demo, run twice."""
    config = tmp_path_factory.mktemp("demo") / "demo" / "anomaly.yaml"
    args = ("demo", "--weeks", 3, "--detector", "robust_z", "--seed", 2, "--config", config)
    first = anomaly(*args, "--json")
    assert first.code == 0, first.err
    return config, first


def test_the_demo_writes_everything_below_its_folder(demo: tuple[Path, Result]) -> None:
    config, _ = demo
    names = {path.name for path in config.parent.iterdir()} - {"anomaly.db-wal", "anomaly.db-shm", "rejects"}
    assert names == {"anomaly.yaml", "anomaly.db", "drop", "incidents.csv"}


def test_the_demo_counts_what_it_found_and_what_it_flagged_for_nothing(demo: tuple[Path, Result]) -> None:
    figures = demo[1].rows
    assert figures["planted"] == sum(kind["planted"] for kind in figures["kinds"].values()) > 0
    assert figures["found"] > figures["planted"] / 2
    assert figures["budget_per_week"] == sum(m["budget_per_week"] for m in figures["monitors"].values())
    assert 0 < figures["share_flagged"] < 0.05


def test_the_demo_s_config_is_one_for_the_real_commands(demo: tuple[Path, Result]) -> None:
    assert anomaly("intervals", "--json", "--config", demo[0]).rows
    assert anomaly("validate", "--config", demo[0]).code == 0


def test_a_second_demo_starts_afresh_and_prints_the_comparison_the_sql_and_what_next(
    demo: tuple[Path, Result],
) -> None:
    config, first = demo
    again = anomaly("demo", "--weeks", 3, "--detector", "robust_z", "--seed", 2, "--config", config)
    assert again.code == 0, again.err
    assert f"Found {first.rows['found']} of {first.rows['planted']} incidents" in again.out
    assert "start off" in again.out
    assert "end off" in again.out
    assert "FROM flagged_intervals" in again.out
    assert "anomaly try your.csv" in again.out


def test_a_demo_never_replaces_what_it_did_not_write(tmp_path: Path) -> None:
    config = tmp_path / "anomaly.yaml"
    config.write_text(CONFIG)
    done = anomaly("demo", "--config", config)
    assert done.code == 1
    assert "no demo wrote" in done.err
    assert config.read_text() == CONFIG


def test_a_demo_of_a_detector_that_is_not_installed_touches_nothing(tmp_path: Path) -> None:
    done = anomaly("demo", "--detector", "oracle", "--config", tmp_path / "demo" / "anomaly.yaml")
    assert done.code == 1
    assert "no detector named 'oracle'" in done.err
    assert not (tmp_path / "demo").exists()


def test_simulate_writes_files_that_end_at_now(tmp_path: Path) -> None:
    done = anomaly("simulate", tmp_path, "--weeks", 3, "--now", "2026-03-01T00:00:00Z")
    assert done.code == 0, done.err
    assert (tmp_path / "incidents.csv").is_file()
    last = (tmp_path / "drop" / "eu-purchases.csv").read_text().splitlines()[-1]
    assert last.startswith("2026-02-28T2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of points that no config knows."""
    folder = tmp_path_factory.mktemp("files")
    write_points(folder)
    return folder / "drop" / "logins.csv"


def test_try_says_what_it_guessed_and_finds_the_outage(files: Path) -> None:
    done = anomaly("try", files, "--detector", "robust_z", "--now", NOW.isoformat())
    assert done.code == 0, done.err
    assert "step: 15min" in done.err
    assert "metric: column metric" in done.err
    assert f"{OUTAGE:%Y-%m-%dT%H}" in done.out
    assert "logins{realm=kr-1}" in done.out
    assert "below expected" in done.out
    assert done.out.startswith("logins{realm=kr-1} fell to")
    assert "^" in done.out  # the interval in its picture; what is captured here says no encoding
    assert "Found: anomalies" in done.out
    assert "--keep DIR" in done.err
    assert [path.name for path in files.parent.iterdir()] == [files.name]


def test_try_keeps_a_config_and_a_database_that_go_on(files: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = anomaly("try", files, "--keep", kept, "--detector", "robust_z", "--json", "--now", NOW.isoformat())
    assert done.code == 0, done.err
    listed = anomaly("intervals", "--json", "--config", kept / "anomaly.yaml")
    assert {row["event_id"] for row in listed.rows} == {row["event_id"] for row in done.rows}


def test_try_says_how_many_rows_it_could_not_read_and_why(files: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.csv"
    lines = files.read_text().splitlines()
    lines[100] = lines[100].rpartition(",")[0] + ",many"
    broken.write_text("\n".join(lines) + "\n")
    done = anomaly("try", broken, "--detector", "robust_z", "--now", NOW.isoformat())
    assert done.code == 0, done.err
    assert "1 rows could not be read, the first one in line 101" in done.err


def test_try_without_enough_history_says_so(files: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.csv"
    short.write_text("\n".join(files.read_text().splitlines()[:12]) + "\n")
    done = anomaly("try", short, "--now", NOW.isoformat())
    assert done.code == 0, done.err
    assert "a first model needs" in done.err + done.out
    assert "No series has enough history for a model yet." in done.err


def test_try_looks_at_a_file_as_of_its_newest_point(files: Path) -> None:
    done = anomaly("try", files, "--detector", "robust_z", "--json")
    assert done.code == 0, done.err
    assert {row["kind"] for row in done.rows} == {"anomaly"}


def test_try_shows_the_highest_scores_where_there_are_more_intervals_than_asked_for(files: Path) -> None:
    everything = anomaly("try", files, "--detector", "robust_z", "--alarms-per-week", 20, "--json").rows
    some = anomaly("try", files, "--detector", "robust_z", "--alarms-per-week", 20, "--json", "-n", 3)
    assert len(everything) > 3
    highest = sorted((row["peak_score"] for row in everything), reverse=True)[:3]
    assert sorted((row["peak_score"] for row in some.rows), reverse=True) == highest
    assert "more with lower scores" in some.err


@pytest.mark.parametrize(("name", "text"), [("none.csv", None), ("text.csv", "a,b\nx,y\n")])
def test_try_refuses_what_holds_no_series(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    done = anomaly("try", tmp_path / name)
    assert done.code == 1
    assert name in done.err
    assert "Traceback" not in done.err


def test_init_writes_a_config_for_the_file_and_creates_its_database(files: Path, tmp_path: Path) -> None:
    config = tmp_path / "anomaly.yaml"
    done = anomaly("init", files, "--config", config, "--season", "daily", "--fit-window", "14d")
    assert done.code == 0, done.err
    text = config.read_text()
    assert "season: daily" in text
    assert "window: 14d" in text
    ingested = anomaly("ingest", "--config", config, "--json", "--now", NOW.isoformat())
    assert ingested.rows[0]["new"] == len(files.read_text().splitlines()) - 1


def test_init_without_a_file_writes_an_example_that_is_valid(tmp_path: Path) -> None:
    config = tmp_path / "anomaly.yaml"
    assert anomaly("init", "--config", config).code == 0
    assert anomaly("validate", "--config", config).code == 0


def test_init_replaces_nothing_unless_told_to(tmp_path: Path) -> None:
    config = tmp_path / "anomaly.yaml"
    config.write_text("mine")
    refused = anomaly("init", "--config", config)
    assert refused.code == 1
    assert "--force replaces it" in refused.err
    assert config.read_text() == "mine"
    assert anomaly("init", "--config", config, "--force").code == 0


def test_init_with_a_choice_that_cannot_be_leaves_nothing_behind(tmp_path: Path) -> None:
    config = tmp_path / "anomaly.yaml"
    done = anomaly("init", "--config", config, "--season", "yearly")
    assert done.code == 1
    assert "season: expected one of" in done.err
    assert list(tmp_path.iterdir()) == []


def test_ingest_that_could_not_read_a_file_fails_and_says_which(tmp_path: Path) -> None:
    place = with_a_broken_file(tmp_path)
    done = place("ingest", "--json")
    assert done.code == 1
    assert done.rows[0]["new"] > 0
    assert "broken.csv" in done.err
