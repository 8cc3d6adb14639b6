"""The config file: what it may say, and what is answered when something in it is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anomaly_service.config import reference
from anomaly_service.config.errors import ConfigError
from anomaly_service.config.load import load
from anomaly_service.config.params import check_params
from anomaly_service.config.sections import Config
from anomaly_service.config.values import duration_text, parse_duration
from anomaly_service.sources.csv import CsvConfig
from anomaly_service.sources.sql import SqlConfig
from pipelines.monitor import MonitorSpec, Period

DOCS = Path(__file__).parents[2] / "docs"

WHOLE = """\
database: sqlite:///anomaly.db            # or postgresql://...
sources:
  telemetry: {kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric,
    labels: [realm, region, platform], step: 5min, delay: 2min, timezone: UTC}
monitors:
  players-drop:
    series: {metric: ccu, region: [eu, kr]}       # selector over metric and labels
    detector: gaussian
    params: {window: 24}
    scope: series                                  # or group: one model shared by the selected series
    season: auto                                   # none | daily | weekly | auto, in the series' timezone
    fit: {every: 7d, window: 42d}
    infer_every: 5min
    threshold: {alarms_per_week: 5, per: monitor}
    policy: {detection_direction: below_expected, min_duration: 10min, merge_max_gap: 15min,
      min_rel_dev_from_expected: 5%}
nightly: {at: "03:15", timezone: UTC, window: 3d}
retention: {points: 400d, scores: 90d, model_versions: 3}
scores: auto                                       # dense | near_events
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "anomaly.yaml"
    path.write_text(text, "utf-8")
    return path


def loaded(folder: Path, text: str) -> Config:
    return load(write(folder, text))


def complaints(folder: Path, text: str) -> list[str]:
    """Return what is wrong with a file, without the file's folder."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


# -- a good file ------------------------------------------------------------------------


def test_the_whole_file_becomes_what_the_jobs_need(tmp_path: Path) -> None:
    config = loaded(tmp_path, WHOLE)
    spec = config.monitor_specs()["players-drop"]
    assert spec.selector == {"metric": ["ccu"], "region": ["eu", "kr"]}
    assert (spec.fit_every_seconds, spec.fit_window_seconds, spec.infer_every_seconds) == (
        604800,
        3628800,
        300,
    )
    assert (spec.threshold.method, spec.threshold.alarms_per_week, spec.threshold.per) == (
        "alarms",
        5.0,
        "monitor",
    )
    assert spec.policy.detection_direction == "below_expected"
    assert (spec.policy.min_duration_seconds, spec.policy.merge_max_gap_seconds) == (600, 900)
    assert spec.policy.min_rel_dev_from_expected == pytest.approx(0.05)
    assert (spec.nightly.at_seconds, spec.nightly.window_seconds) == (11700, 259200)
    assert config.retention.points.days == 400
    assert (config.http.host, config.http.port) == ("127.0.0.1", 9464)


def test_a_calendar_is_every_monitor_s(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        "calendar:\n"
        "  maintenance: {every: FREQ=WEEKLY;BYDAY=TU;BYHOUR=6, lasts: 3h, timezone: Asia/Seoul}\n"
        "  patch: {spans: [2026-03-10T09:00/2026-03-10T15:00], series: {region: [eu, kr]}, masked: true}\n"
        "monitors: {a: {series: {}}, b: {series: {}}}\n",
    )
    weekly = "FREQ=WEEKLY;BYDAY=TU;BYHOUR=6"
    spans = (("2026-03-10T09:00", "2026-03-10T15:00"),)
    expected = (
        Period("maintenance", every=weekly, lasts_seconds=3 * 3600, timezone="Asia/Seoul"),
        Period("patch", spans=spans, selector={"region": ["eu", "kr"]}, masked=True),
    )
    assert [spec.calendar for spec in config.monitor_specs().values()] == [expected, expected]


def test_what_is_not_given_has_the_default_of_the_jobs(tmp_path: Path) -> None:
    config = loaded(tmp_path, "monitors: {a: {series: {metric: ccu}}}")
    expected = MonitorSpec(name="a", selector={"metric": ["ccu"]}, detector="auto")
    assert config.monitor_specs()["a"] == expected
    assert config.workers >= 1


def test_an_empty_file_is_a_config(tmp_path: Path) -> None:
    assert loaded(tmp_path, "# nothing yet\n").database == f"sqlite:///{tmp_path}/anomaly.db"


def test_a_section_with_everything_commented_out_has_its_defaults(tmp_path: Path) -> None:
    config = loaded(
        tmp_path, "monitors:\n  a:\n    series: {}\n    policy:\n      # cooldown: 5min\nnightly:\n"
    )
    assert config.monitor_specs()["a"].policy.cooldown_seconds == 0


def test_monitor_sections_are_json_that_makes_the_same_monitors(tmp_path: Path) -> None:
    config = loaded(tmp_path, WHOLE.replace("    scope", "    renamed_from: old\n    scope"))
    section = json.loads(json.dumps(config.monitor_sections()))["players-drop"]
    assert section.pop("renamed_from") == "old"
    assert MonitorSpec.from_json(section) == config.monitor_specs()["players-drop"]


def test_paths_are_relative_to_the_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    config = loaded(tmp_path, WHOLE)
    assert config.database == f"sqlite:///{tmp_path}/anomaly.db"
    source = config.sources["telemetry"]
    assert isinstance(source, CsvConfig)
    assert source.path == [f"{tmp_path}/drop/*.csv"]
    assert config.rejects_folder == tmp_path / "rejects"
    assert loaded(tmp_path, "rejects: bad/rows").rejects_folder == tmp_path / "bad/rows"
    assert loaded(tmp_path, "database: postgresql://h/x").rejects_folder == tmp_path / "rejects"


def test_words_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = "monitors: {a: {series: {region: [no, on, 1, 007]}}}\nnightly: {at: 03:15}\n"
    spec = loaded(tmp_path, text).monitor_specs()["a"]
    assert spec.selector == {"region": ["no", "on", "1", "007"]}
    assert spec.nightly.at_seconds == 11700


def test_anchors_and_merged_sections_work(tmp_path: Path) -> None:
    text = """
sources:
  eu: &files {kind: csv, path: "eu-*.csv", step: 5min, timezone: Europe/Berlin}
  us: {<<: *files, path: "us-*.csv", timezone: America/New_York}
"""
    us = loaded(tmp_path, text).sources["us"]
    assert isinstance(us, CsvConfig)
    assert (us.path, us.timezone, us.step.seconds) == ([f"{tmp_path}/us-*.csv"], "America/New_York", 300)


@pytest.mark.parametrize(
    ("threshold", "method", "value"),
    [
        ("{}", "alarms", None),
        ("{method: quantile, contamination: 0.5%}", "quantile", 0.005),
        ("{method: sigma, deviations: 4}", "sigma", 4.0),
        ("{method: dynamic, per: series}", "dynamic", None),
    ],
)
def test_thresholds_by_name(tmp_path: Path, threshold: str, method: str, value: float | None) -> None:
    rule = (
        loaded(tmp_path, f"monitors: {{a: {{series: {{}}, threshold: {threshold}}}}}")
        .monitor_specs()["a"]
        .threshold
    )
    assert (rule.method, rule.value) == (method, value if value is None else pytest.approx(value))


@given(st.integers(0, 10**7))
def test_a_duration_reads_as_it_is_written(seconds: int) -> None:
    assert parse_duration(duration_text(seconds)).total_seconds() == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5min", 300),
        ("5m", 300),
        ("1.5h", 5400),
        ("1h30min", 5400),
        ("2w", 1209600),
        ("7 d", 604800),
        (0, 0),
    ],
)
def test_durations(text: object, seconds: int) -> None:
    assert parse_duration(text).total_seconds() == seconds


# -- variables and secrets --------------------------------------------------------------


def test_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_PORT", "9000")
    monkeypatch.delenv("NOBODY", raising=False)
    config = loaded(
        tmp_path, 'http: {port: "${TELEMETRY_PORT}", host: "${NOBODY:-0.0.0.0}"}\nrejects: "$${NOBODY}"'
    )
    assert (config.http.port, config.http.host) == (9000, "0.0.0.0")
    assert config.rejects_folder.name == "${NOBODY}"


def test_a_variable_may_come_from_the_file_that_its_twin_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    monkeypatch.setenv("DB_PASSWORD_FILE", str(tmp_path / "secret"))
    config = loaded(tmp_path, "database: postgresql://anna:${DB_PASSWORD}@db/x")
    assert config.database == "postgresql://anna:s3cret@db/x"


def test_secrets_may_lie_in_files(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("postgresql://anna:s3cret@db/x\n")
    query = "SELECT 1 WHERE :since < :until"
    config = loaded(
        tmp_path,
        f"database_file: db\nsources: {{a: {{kind: sql, step: 5min, url_file: db, query: '{query}'}}}}",
    )
    assert config.database == "postgresql://anna:s3cret@db/x"
    source = config.sources["a"]
    assert isinstance(source, SqlConfig)
    assert source.url == "postgresql://anna:s3cret@db/x"
    assert "s3cret" not in repr(config)
    assert "s3cret" not in config.database_shown


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_DATABASE", "postgresql://db/x")
    monkeypatch.setenv("ANOMALY_WORKERS", "7")
    config = loaded(tmp_path, WHOLE)
    assert (config.database, config.workers) == ("postgresql://db/x", 7)


def test_a_wrong_value_in_the_environment_is_named_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALY_WORKERS", "many")
    assert complaints(tmp_path, WHOLE) == [
        "environment variable ANOMALY_WORKERS: workers: expected a whole number"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "database: mysql://anna:s3cret@db/x",
        'database: "mysql://anna:${DB_PASSWORD}@db/x"',
        'workers: "${DB_PASSWORD}"',
        'monitors: {a: {series: {}, season: "${DB_PASSWORD}", detector: "${DB_PASSWORD}"}}',
        'sources: {a: {kind: sql, step: "${DB_PASSWORD}", url: ["s3cret"], query: x}}',
        "http: {port: 1, host: [x]}\ndatabase: {password: s3cret}",
    ],
)
def test_no_message_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DB_PASSWORD", "s3cret")
    assert "s3cret" not in "\n".join(complaints(tmp_path, text))


def test_a_password_that_is_no_text_is_not_shown_either(tmp_path: Path) -> None:
    (found,) = complaints(tmp_path, "database: 73313")
    assert found == "anomaly.yaml:1: database: expected text; put it in quotes"


# -- everything that can be wrong -------------------------------------------------------

MONITOR = "monitors:\n  a:\n    series: {metric: ccu}\n"


def test_channels_make_one_target_of_several_metrics(tmp_path: Path) -> None:
    text = "monitors: {a: {series: {region: eu}, channels: [ccu, logins], group_by: [realm]}}"
    spec = loaded(tmp_path, text).monitor_specs()["a"]
    assert (spec.channels, spec.group_by) == (("ccu", "logins"), ("realm",))
    assert MonitorSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.selects("ccu", {"region": "eu", "realm": "kr-1"})
    assert not spec.selects("crashes", {"region": "eu", "realm": "kr-1"})
    assert not spec.selects("ccu", {"region": "eu"})


WRONG = [
    (
        "scroes: auto",
        "anomaly.yaml:1: scroes: unknown key; did you mean 'scores'? allowed: database, database_file, ",
    ),
    (
        MONITOR + "    policy: {min_duraton: 10min}",
        "anomaly.yaml:4: monitors.a.policy.min_duraton: unknown key; did you mean 'min_duration'? allowed: "
        "detection_direction, min_dev_from_expected, min_rel_dev_from_expected, "
        "min_duration, merge_max_gap, ",
    ),
    (
        "sources:\n  a: {kind: csv, path: x, step: 5min, tmestamp: ts}",
        "anomaly.yaml:2: sources.a.tmestamp: unknown key; did you mean 'timestamp'? "
        "allowed: kind, step, delay, ",
    ),
    (
        "sources:\n  a:\n    kind: cvs\n    path: x",
        "anomaly.yaml:3: sources.a.kind: expected an installed kind of source: csv, sql; "
        "did you mean 'csv'? got 'cvs'",
    ),
    (
        "sources: {a: {path: x}}",
        "anomaly.yaml:1: sources.a.kind: expected an installed kind of source: csv, sql",
    ),
    ("sources: {a: 5}", "anomaly.yaml:1: sources.a: expected a section of keys; got '5'"),
    (
        "sources: {a: {kind: csv, step: 5min}}",
        "anomaly.yaml:1: sources.a.path: this key is missing and has no default",
    ),
    (
        "sources: {a: {kind: sql, step: 5min, url: 'sqlite:///a.db', query: SELECT 1}}",
        "anomaly.yaml:1: sources.a.query: expected a query with :since and :until, as in ",
    ),
    (
        "sources: {a: {kind: csv, path: x, step: 5min, metric: m, metric_name: n}}",
        "anomaly.yaml:1: sources.a.metric_name: metric names the column already; keep one",
    ),
    ("monitors: {a: {}}", "anomaly.yaml:1: monitors.a.series: this key is missing and has no default"),
    (
        MONITOR + "    detector: gausian",
        "anomaly.yaml:4: monitors.a.detector: expected an installed detector: auto, autoencoder, ",
    ),
    (
        MONITOR + "    season: dayly",
        "anomaly.yaml:4: monitors.a.season: expected one of auto, daily, none, weekly; "
        "did you mean 'daily'? got 'dayly'",
    ),
    (
        MONITOR + "    fit:\n      every: 7",
        "anomaly.yaml:5: monitors.a.fit.every: expected `auto` or a duration such as 90s, 5min, "
        "2h, 7d or 1h30min; got '7'",
    ),
    (
        MONITOR + "    infer_every: 0",
        "anomaly.yaml:4: monitors.a.infer_every: expected a duration above zero; got '0'",
    ),
    (
        MONITOR + "    policy: {min_rel_dev_from_expected: five %}",
        "anomaly.yaml:4: monitors.a.policy.min_rel_dev_from_expected: expected a share "
        "such as 5% or 0.05; got 'five %'",
    ),
    (
        MONITOR + "    policy: {min_rel_dev_from_expected: -5%}",
        "anomaly.yaml:4: monitors.a.policy.min_rel_dev_from_expected: expected at least 0; got '-5%'",
    ),
    (
        MONITOR + "    threshold: {alarms_per_week: 0}",
        "anomaly.yaml:4: monitors.a.threshold.alarms_per_week: expected more than 0; got '0'",
    ),
    (
        MONITOR + "    threshold: {alarms_per_week: .inf}",
        "anomaly.yaml:4: monitors.a.threshold.alarms_per_week: expected a number; got '.inf'",
    ),
    (
        MONITOR + "    threshold: {method: sigma, alarms_per_week: 5}",
        "anomaly.yaml:4: monitors.a.threshold.alarms_per_week: belongs to `method: "
        "alarms`, and the method is sigma",
    ),
    (
        "monitors: {a: {series: {region: [1.5]}}}",
        "anomaly.yaml:1: monitors.a.series.region: expected text or a list of texts; put "
        "other values in quotes",
    ),
    (
        "monitors: {a: {series: ccu}}",
        "anomaly.yaml:1: monitors.a.series: expected a section of keys; got 'ccu'",
    ),
    (
        "nightly: {at: 25:00}",
        "anomaly.yaml:1: nightly.at: expected a time of day such as \"03:15\"; got '25:00'",
    ),
    (
        "nightly:\n  timezone: Europe/Berln",
        "anomaly.yaml:2: nightly.timezone: expected an IANA time zone such as UTC or Europe/Berlin; "
        "did you mean 'Europe/Berlin'? got 'Europe/Berln'",
    ),
    (
        "calendar: {patch: {every: WEEKLY, lasts: 1h}}",
        "anomaly.yaml:1: calendar.patch.every: expected a recurrence rule such as FREQ=WEEKLY;BYDAY=TU;",
    ),
    (
        "calendar: {patch: {every: FREQ=HOURLY, lasts: 1h}}",
        "anomaly.yaml:1: calendar.patch.every: expected a recurrence rule such as "
        "FREQ=WEEKLY;BYDAY=TU;BYHOUR=6: daily or rarer, without DTSTART or COUNT; got 'FREQ=HOURLY'",
    ),
    (
        "calendar: {patch: {every: FREQ=DAILY}}",
        "anomaly.yaml:1: calendar.patch.lasts: `every` and `lasts` go together",
    ),
    (
        "calendar: {patch: {lasts: 1h}}",
        "anomaly.yaml:1: calendar.patch.lasts: `every` and `lasts` go together",
    ),
    (
        "calendar: {patch: {spans: [2026-03-10T09:00]}}",
        "anomaly.yaml:1: calendar.patch.spans[0]: expected two local times, such as 2026-03-10T09:00/2026-",
    ),
    (
        "calendar: {patch: {spans: [2026-03-10T09:00/2026-03-10T08:00]}}",
        "anomaly.yaml:1: calendar.patch.spans[0]: expected two local times",
    ),
    (
        "calendar: {patch: {spans: [2026-03-10T09:00Z/2026-03-10T10:00]}}",
        "anomaly.yaml:1: calendar.patch.spans[0]: expected two local times",
    ),
    ("workers: true", "anomaly.yaml:1: workers: expected a number; got 'true'"),
    ("workers: 1.5", "anomaly.yaml:1: workers: expected a whole number; got '1.5'"),
    ("http: {port: 70000}", "anomaly.yaml:1: http.port: expected at most 65535; got '70000'"),
    (
        "database: anomaly.db",
        "anomaly.yaml:1: database: expected a database URL such as sqlite:///anomaly.db or ",
    ),
    ("database: sqlite://", "anomaly.yaml:1: database: expected a file with three slashes before it"),
    (
        "database_file: none",
        "anomaly.yaml:1: database_file: the file cannot be read: No such file or directory",
    ),
    (
        "database: sqlite:///a.db\ndatabase_file: b",
        "anomaly.yaml:2: database_file: both database and database_file are given; keep one",
    ),
    ("scores: auto\nscores: dense", "anomaly.yaml:2: scores: given twice, first on line 1; keep one"),
    (
        'database: "${NOBODY_SETS_THIS}"',
        "anomaly.yaml:1: database: environment variable NOBODY_SETS_THIS is not set; set "
        "it or NOBODY_SETS_THIS_FILE, ",
    ),
    (
        'database: "${not a name}"',
        "anomaly.yaml:1: database: expected ${NAME} or ${NAME:-default}, got ${not a name}",
    ),
    ("http: {port: ${PORT}}", "anomaly.yaml:1: not valid YAML: while parsing a flow mapping "),
    ("a: [", "anomaly.yaml:1: not valid YAML: "),
    ("- a", "anomaly.yaml:1: expected a mapping such as `database: ...` at the top"),
    ("monitors: &x {a: *x}", "anomaly.yaml:1: monitors.a: an alias stands inside what it names"),
    ("database: !!python/name:os.system x", "anomaly.yaml:1: database: expected plain YAML, got the tag "),
    (
        "monitors: {a: {series: {}, channels: [ccu]}}",
        "anomaly.yaml:1: monitors.a.channels: expected at least two metrics; a single one is named",
    ),
    (
        "monitors: {a: {series: {}, channels: [ccu, logins, ccu]}}",
        "anomaly.yaml:1: monitors.a.channels: expected each name once",
    ),
    (
        "monitors:\n  a:\n    channels: [ccu, logins]\n    series: {metric: ccu}",
        "anomaly.yaml:4: monitors.a.series.metric: `channels` name the metrics; remove this key, or them",
    ),
    (
        "monitors: {a: {series: {}, group_by: [realm]}}",
        "anomaly.yaml:1: monitors.a.group_by: belongs beside `channels`, the metrics that are one target",
    ),
    (
        "monitors: {a: {series: {}, channels: [ccu, logins], group_by: [realm, metric]}}",
        "anomaly.yaml:1: monitors.a.group_by: expected labels; the metrics are what `channels` name",
    ),
    (
        "monitors:\n  a: {series: {}, renamed_from: b}\n  b: {series: {}}",
        "anomaly.yaml:2: monitors.a.renamed_from: 'b' is still in the file; remove it there, or this key",
    ),
    (
        "monitors:\n  a: {series: {}, renamed_from: c}\n  b: {series: {}, renamed_from: c}",
        "anomaly.yaml:2: monitors.a.renamed_from: another monitor is renamed from the "
        "same one; keep one of them",
    ),
    (
        "retention: {points: 30d}\nmonitors: {a: {series: {}, fit: {window: 42d}}}",
        "anomaly.yaml:2: monitors.a.fit.window: expected at most the 30d of retention.points, got 42d; ",
    ),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message.split(": ")[1] for _, message in WRONG])
def test_what_is_wrong_is_said_with_line_path_and_what_would_be_right(
    tmp_path: Path, text: str, message: str
) -> None:
    found = complaints(tmp_path, text)
    assert found[0].startswith(message)
    assert (
        len(found) == len([line for line in text.splitlines() if "renamed_from: c" in line])
        or len(found) == 1
    )


def test_everything_that_is_wrong_is_said_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = WHOLE.replace("5min, delay", "5 minutes, delay").replace("gaussian", "gausian")
    text = (
        text.replace("merge_max_gap", "merge_gap")
        .replace('"03:15"', "noon")
        .replace("scores: auto", "score: auto")
    )
    found = complaints(tmp_path, text)
    assert [line.split(": ")[1] for line in found] == [
        "sources.telemetry.step",
        "monitors.players-drop.detector",
        "monitors.players-drop.policy.merge_gap",
        "nightly.at",
        "score",
    ]


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: there is no such file; write one with `anomaly init`"):
        load(tmp_path / "no.yaml")


def test_two_monitors_may_change_names_with_each_other(tmp_path: Path) -> None:
    text = "monitors:\n  a: {series: {}, renamed_from: b}\n  b: {series: {}, renamed_from: a}"
    assert loaded(tmp_path, text).monitor_sections()["a"]["renamed_from"] == "b"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("{windw: 24}", "monitors.a.params.windw: unknown key; did you mean 'window'? allowed: window, "),
        ("{window: 0}", "monitors.a.params: refused by gaussian: window must be at least 1 step, got 0"),
    ],
)
def test_params_are_checked_by_the_detector_when_asked(tmp_path: Path, params: str, message: str) -> None:
    config = loaded(tmp_path, MONITOR + f"    params: {params}\n    detector: gaussian")
    with pytest.raises(ConfigError) as caught:
        check_params(config)
    assert str(caught.value).startswith(f"{tmp_path}/anomaly.yaml:4: {message}")
    check_params(loaded(tmp_path, WHOLE))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("params: {window: 24}", "monitors.a.params.window: auto chooses its models itself; name a detector"),
        ("scope: group", "monitors.a.scope: auto fits models per series; name a detector to share one"),
    ],
)
def test_auto_leaves_nothing_to_set(tmp_path: Path, key: str, message: str) -> None:
    config = loaded(tmp_path, MONITOR + f"    {key}")
    with pytest.raises(ConfigError) as caught:
        check_params(config)
    assert str(caught.value).startswith(f"{tmp_path}/anomaly.yaml:4: {message}")


# -- reference and cost -----------------------------------------------------------------


def test_the_reference_in_docs_is_what_the_code_says(tmp_path: Path) -> None:
    """Write it anew by ``python -m anomaly_service.config.reference docs``."""
    reference.write(tmp_path)
    for name in (reference.SCHEMA_FILE, reference.PAGE_FILE):
        assert (DOCS / name).read_text("utf-8") == (tmp_path / name).read_text("utf-8")


def test_every_key_is_described() -> None:
    schema = reference.schema()
    for section in [schema, *schema["$defs"].values()]:
        for name, value in section["properties"].items():
            assert "description" in value or "$ref" in value, name


def schema_errors(text: str) -> list[Any]:
    schema = reference.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return list(jsonschema.Draft202012Validator(schema).iter_errors(yaml.safe_load(text)))


def test_the_schema_takes_what_the_code_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "x")
    monkeypatch.setenv("PORT", "9000")
    for text in (
        WHOLE,
        reference.EXAMPLE,
        'http: {port: "${PORT}"}',
        "sources: {a: {kind: csv, path: [x], step: 1h}}",
    ):
        loaded(tmp_path, text)
        assert schema_errors(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "scroes: auto",
        "monitors: {a: {series: {}, season: dayly}}",
        "monitors: {a: {series: {}, policy: {min_duration: soon}}}",
        "sources: {a: {kind: csv, path: x}}",
        "sources: {a: {kind: sql, step: 5min, query: x}}",
        "http: {port: 70000}",
    ],
)
def test_the_schema_refuses_what_the_code_refuses(tmp_path: Path, text: str) -> None:
    complaints(tmp_path, text)
    assert schema_errors(text) != []


def test_loading_a_config_imports_nothing_heavy(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    code = (
        "import sys; from anomaly_service.config.load import load; "
        f"load({str(path)!r}).build_sources(); "
        "print([m for m in ('torch', 'pandas', 'sklearn', 'scipy', 'pyarrow', "
        "'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
