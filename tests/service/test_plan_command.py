"""`anomaly plan`: what a changed config would do, said before it is in force, and nothing is written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import Result, anomaly
from databases import Databases
from sqlalchemy import inspect, text

from anomaly_service.config.load import load
from anomaly_service.daemon.loop import run
from anomaly_service.errors import InvalidError
from anomaly_service.plan import plan
from anomaly_service.service import Service
from anomaly_service.sources.ingest import ingest_from
from pipelines.executor import Inline
from pipelines.records import Json

START = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 24
NOW = START + timedelta(days=DAYS)
CANARY = "s3cret-canary"

CONFIG = """
database: {database}
sources:
  files: {{kind: csv, path: drop/*.csv, value: value, metric: metric, labels: [host], step: 1h}}
monitors:
  load:
    series: {{metric: load}}
    detector: gaussian
    params: {{window: 6}}
    fit: {{every: 7d, window: 10d, stagger: false}}
    threshold: {{alarms_per_week: 0.5}}
  mail:
    series: {{metric: mail}}
    detector: robust_z
    fit: {{every: 7d, window: 10d}}
retention: {{points: 400d}}
"""


def fill(folder: Path) -> None:
    """Write three series of 24 days of hours, with some odd hours near the end."""
    rng = np.random.default_rng(7)
    rows = ["timestamp,metric,host,value"]
    for metric, host in (("load", "a"), ("load", "b"), ("mail", "a")):
        values = 100 + 20 * np.sin(2 * np.pi * np.arange(DAYS * 24) / 24) + rng.normal(0, 3, DAYS * 24)
        for hour, size in ((500, 9), (520, 14), (540, 25), (560, 60)):
            values[hour] += size
        at = [(START + timedelta(hours=k)).isoformat() for k in range(DAYS * 24)]
        rows += [f"{t},{metric},{host},{v:.3f}" for t, v in zip(at, values, strict=True)]
    (folder / "drop").mkdir()
    (folder / "drop" / "a.csv").write_text("\n".join(rows) + "\n")


@contextmanager
def service(path: Path) -> Iterator[Service]:
    with Service(load(path), now=NOW, executor=Inline()) as opened:
        yield opened


def at_work(folder: Path, url: str) -> Path:
    """Return the config of a service that has seen all history."""
    path = folder / "anomaly.yaml"
    path.write_text(CONFIG.format(database=url))
    fill(folder)
    with service(path) as opened:
        ingest_from(opened.config, opened.store, NOW)
        opened.backfill()
    return path


class World:
    """A service at work, and what another config would do to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()

    def other(self, *replaced: tuple[str, str]) -> Path:
        """Return a config beside the one in force, with some text replaced."""
        changed = self.text
        for old, new in replaced:
            assert old in changed
            changed = changed.replace(old, new)
        path = self.path.with_name("other.yaml")
        path.write_text(changed)
        return path

    def plan(self, *replaced: tuple[str, str], **asked: Any) -> Json:
        with service(self.other(*replaced)) as opened:
            return plan(opened, **asked)

    def monitor(self, *replaced: tuple[str, str], **asked: Any) -> Json:
        """Return the only monitor that would change."""
        found = self.plan(*replaced, **asked)
        assert (len(found["monitors"]), found["changes"]) == (1, 1)
        return dict(found["monitors"][0])

    def command(self, *args: object, path: Path | None = None) -> Result:
        return anomaly("plan", *args, "--now", NOW.isoformat(), "--config", path or self.path)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> World:
    folder = tmp_path_factory.mktemp("plan")
    shutil.copy(migrated_sqlite, folder / "anomaly.db")
    return World(at_work(folder, "sqlite:///anomaly.db"))


# -- what it says --------------------------------------------------------------------------


def test_the_config_in_force_would_change_nothing(seen: World) -> None:
    found = seen.plan()
    assert (found["changes"], found["sources"], found["monitors"], found["settings"]) == (0, [], [], [])
    done = seen.command("--detailed-exitcode")
    assert (done.code, "Nothing would change." in done.out) == (0, True)


def test_a_monitor_that_is_new_says_what_it_would_watch(seen: World) -> None:
    found = seen.monitor(("retention:", "  all: {series: {}, detector: robust_z}\nretention:"))
    keys = ["load{host=a}", "load{host=b}", "mail{host=a}"]
    assert found == {"monitor": "all", "action": "add", "detector": "robust_z", "targets_added": keys}


def test_a_monitor_that_is_left_out_says_what_stays(seen: World) -> None:
    cut = seen.text[seen.text.index("  mail:") : seen.text.index("retention:")]
    found = seen.monitor((cut, ""))
    assert (found["monitor"], found["action"], found["targets_dropped"]) == ("mail", "drop", ["mail{host=a}"])
    assert found["intervals_kept"] >= 1


def test_a_monitor_that_is_renamed_goes_on(seen: World) -> None:
    found = seen.monitor(("  mail:\n", "  post:\n    renamed_from: mail\n"))
    assert (found["monitor"], found["action"], found["renamed_from"]) == ("post", "change", "mail")
    assert not {"targets_added", "targets_dropped", "refit"} & set(found)


def test_series_that_come_and_go_are_named(seen: World) -> None:
    found = seen.monitor(("series: {metric: load}", "series: {host: a}"))
    assert (found["targets_added"], found["targets_dropped"]) == (["mail{host=a}"], ["load{host=b}"])
    assert found["changed"] == {"selector.metric": [["load"], None], "selector.host": [None, ["a"]]}


def test_changed_settings_of_a_detector_say_how_many_models_are_fitted_anew(seen: World) -> None:
    found = seen.monitor(("params: {window: 6}", "params: {window: 12}"))
    assert found["changed"] == {"params.window": [6, 12]}
    assert found["refit"]["models"] == 2
    assert "intervals" not in found


def test_another_budget_says_which_intervals_would_come_and_a_rescore_agrees(
    seen: World, tmp_path: Path
) -> None:
    more = ("alarms_per_week: 0.5", "alarms_per_week: 6")
    found = seen.monitor(more)
    assert found["changed"] == {"threshold.alarms_per_week": [0.5, 6.0]}
    assert found["redraw"]
    told = found["intervals"]
    assert told["known"]
    assert told["appear"] > 0
    folder = tmp_path / "copy"
    shutil.copytree(seen.path.parent, folder)
    changed = folder / "anomaly.yaml"
    changed.write_text(seen.text.replace(*more))
    with service(changed) as opened:
        span = datetime.fromisoformat(told["from"]), datetime.fromisoformat(told["to"])
        done = opened.rescore(*span, monitors=["load"])["load"]
    assert (done["appeared"], done["vanished"], done["changed"]) == (
        told["appear"],
        told["go"],
        told["change"],
    )


def test_a_stricter_policy_says_which_intervals_would_go(seen: World) -> None:
    policy = "\n    policy: {min_duration: 12h, missing_after_steps: 30}"
    found = seen.monitor(
        ("threshold: {alarms_per_week: 0.5}", f"threshold: {{alarms_per_week: 0.5}}{policy}")
    )
    assert found["intervals"]["go"] > 0
    assert "redraw" not in found
    assert not seen.monitor(
        ("threshold: {alarms_per_week: 0.5}", f"threshold: {{alarms_per_week: 0.5}}{policy}"), intervals=False
    )["intervals"]["known"]


def test_new_models_leave_open_what_they_would_flag_and_say_so(seen: World) -> None:
    found = seen.monitor(("{window: 6}", "{window: 12}"), ("alarms_per_week: 0.5", "alarms_per_week: 6"))
    assert not found["intervals"]["known"]
    assert "anomaly replay" in found["intervals"]["why"]


def test_sources_and_settings_are_held_against_the_config_in_force(seen: World) -> None:
    found = seen.plan(
        (
            "step: 1h}",
            "step: 1h, delay: 2h}\n  extra: {kind: csv, path: extra/*.csv, metric_name: x, step: 1h}",
        ),
        ("points: 400d", "points: 100d"),
    )
    assert found["sources"] == [
        {"source": "extra", "series": 0, "action": "add", "changed": {}},
        {"source": "files", "series": 3, "action": "change", "changed": {"delay": ["0s", "2h"]}},
    ]
    assert found["settings"] == [
        {"setting": "retention.points", "changed": {"retention.points": ["400d", "100d"]}}
    ]
    assert found["changes"] == 3


def test_a_changed_night_is_told_once_and_not_with_every_monitor(seen: World) -> None:
    found = seen.plan(("retention:", 'nightly: {at: "04:00"}\nretention:'))
    assert [each["setting"] for each in found["settings"]] == ["nightly.at"]
    assert found["monitors"] == []


# -- how it is asked -----------------------------------------------------------------------------


def test_a_changed_step_says_what_becomes_of_the_models(seen: World) -> None:
    told = anomaly("plan", "--config", seen.other(("step: 1h}", "step: 30min}")), "--no-intervals").out
    assert "the next night fits those anew whose points keep to it" in told
    assert (
        "fits those anew"
        not in anomaly("plan", "--config", seen.other(("step: 1h}", "step: 1h, delay: 2h}"))).out
    )


def test_changes_are_told_in_sentences_and_by_the_exit_status_where_asked_for(seen: World) -> None:
    path = seen.other(("params: {window: 6}", "params: {window: 12}"))
    done = seen.command("--detailed-exitcode", path=path)
    assert done.code == 2
    assert (
        "~ monitor load\n    params.window: 6 -> 12\n    models are fitted anew: 2 in the night" in done.out
    )
    assert "Nothing was changed." in done.out
    assert seen.command(path=path).code == 0
    assert json.loads(seen.command("--json", path=path).out)["changes"] == 1


def test_a_config_that_cannot_be_used_is_refused_as_anywhere(seen: World) -> None:
    done = seen.command(path=seen.other(("params: {window: 6}", "params: {widow: 6}")))
    assert (done.code, "did you mean 'window'" in done.err) == (1, True)


# -- nothing is written --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Databases.kinds)
def test_no_plan_writes_a_single_row(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    world = World(at_work(tmp_path, Databases(request, tmp_path).fresh(kind)))
    before = digest(world.path)
    found = world.plan(
        ("  mail:\n", "  post:\n    renamed_from: mail\n"),
        ("alarms_per_week: 0.5", "alarms_per_week: 6"),
        ("step: 1h}", "step: 1h, delay: 2h}"),
        ("retention:", "  all: {series: {}, detector: robust_z}\nretention:"),
    )
    assert found["changes"] == 4
    assert found["monitors"][0]["intervals"]["appear"] > 0
    assert digest(world.path) == before


def digest(path: Path) -> dict[str, str]:
    """Return a digest of the rows of every table."""
    with service(path) as opened, opened.store.engine.connect() as connection:
        return {
            table: hashlib.sha256(
                repr(sorted(map(repr, connection.execute(text(f"SELECT * FROM {table}"))))).encode()
            ).hexdigest()
            for table in inspect(connection).get_table_names()
        }


# -- the last good config --------------------------------------------------------------------------


BROKEN = ("alarms_per_week: 0.5", "alarms_per_weak: 0.5")


def test_a_daemon_that_meets_a_broken_config_says_what_is_wrong_and_what_was_good(seen: World) -> None:
    path = seen.other(BROKEN)
    with pytest.raises(InvalidError) as refused:
        run(path, once=True)
    first, last = str(refused.value).splitlines()
    assert "alarms_per_weak: unknown key" in first
    assert f"the last good config, read from {seen.path}, came into force on 20" in last
    assert "with monitors load, mail and sources files; `anomaly plan --in-force` prints it" in last


def test_the_last_good_config_is_printed_however_broken_the_file_is(seen: World) -> None:
    path = seen.other(("monitors:", "monitors: [{"))
    done = seen.command("--in-force", path=path)
    assert done.code == 0
    good = yaml.safe_load(done.out)
    assert good["monitors"]["load"]["threshold"]["alarms_per_week"] == 0.5
    assert good["sources"]["files"]["step"] == "1h"
    assert json.loads(seen.command("--in-force", "--json", path=path).out)["file"] == str(seen.path)


def test_what_was_printed_of_the_last_good_config_is_one_that_can_be_used(
    seen: World, tmp_path: Path
) -> None:
    path = tmp_path / "restored.yaml"
    path.write_text(seen.command("--in-force").out)
    assert load(path).monitor_sections() == load(seen.path).monitor_sections()


def test_where_no_config_was_in_force_the_broken_one_is_told_alone(
    tmp_path: Path, migrated_sqlite: Path
) -> None:
    path = tmp_path / "anomaly.yaml"
    path.write_text(CONFIG.format(database="sqlite:///new.db").replace(*BROKEN))
    with pytest.raises(InvalidError) as refused:
        run(path, once=True)
    assert "last good" not in str(refused.value)
    assert not (tmp_path / "new.db").exists()
    shutil.copy(migrated_sqlite, tmp_path / "new.db")
    done = anomaly("plan", "--in-force", "--config", path)
    assert (done.code, "no config was in force yet" in done.err) == (1, True)


def test_no_secret_is_kept_with_the_last_good_config(tmp_path: Path, migrated_sqlite: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "anomaly.db")
    url = f"postgresql://anna:{CANARY}@db:5432/x?password={CANARY}&options={CANARY}"
    query = "SELECT ts, value FROM t WHERE ts >= :since AND ts < :until"
    source = f"  warehouse: {{kind: sql, url: '{url}', query: '{query}', step: 1h}}\nmonitors:"
    path = tmp_path / "anomaly.yaml"
    path.write_text(CONFIG.format(database="sqlite:///anomaly.db").replace("monitors:", source))
    with service(path) as opened:
        opened.sync()
        good = opened.store.config_in_force()
    assert good is not None
    assert good.body["sources"]["warehouse"]["url"] == "postgresql://db:5432/x"
    assert CANARY not in json.dumps(good.body)
    assert CANARY.encode() not in (tmp_path / "anomaly.db").read_bytes()
