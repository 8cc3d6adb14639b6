"""Three answers of the daemon, what `anomaly status` makes of the same facts, and how old scores are."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import anomaly

from anomaly_service import parts
from anomaly_service.daemon.schedule import MonitorSchedule, Plan, SourceSchedule
from anomaly_service.daemon.telemetry import Telemetry, serving
from anomaly_service.db.store import SqlStore
from anomaly_service.facts import Facts, MonitorFacts, Past, SourceFacts, gather
from anomaly_service.parts import Part
from pipelines.monitor import NightlyPlan
from pipelines.names import RunKind, RunState
from pipelines.records import PastRun

NOW = datetime(2024, 6, 5, 12, 2, tzinfo=UTC)
NIGHT = datetime(2024, 6, 5, 3, 15, tzinfo=UTC)
MONITOR = MonitorSchedule(1, "players", 300, NightlyPlan())
SOURCE = SourceSchedule("telemetry", 300)
WELL = {"state": "ok", "live": True, "stale_from_ts": int(NOW.timestamp()) + 900}


def run(minutes_ago: float = 2.0, state: RunState = RunState.DONE, error: str = "") -> PastRun:
    return PastRun(NOW - timedelta(minutes=minutes_ago), state, error)


def night(state: RunState = RunState.DONE, error: str = "", days_ago: int = 0) -> PastRun:
    return PastRun(NIGHT - timedelta(days=days_ago), state, error)


def facts(
    ticks: tuple[PastRun, ...] = (run(),),
    nights: tuple[PastRun, ...] = (night(),),
    reads: tuple[PastRun, ...] = (run(),),
    health: dict[str, Any] = WELL,
    **more: Any,
) -> Facts:
    monitor = MonitorFacts(MONITOR, Past(ticks), Past(nights))
    return Facts((monitor,), (SourceFacts(SOURCE, Past(reads), health),), **{"wall": NOW, **more})


def wrong(found: Facts, since: datetime | None = None) -> dict[str, Part]:
    """Return the parts that are not ready, by name."""
    return {part.part: part for part in parts.judged(found, NOW, since) if not part.ready}


FAILED = run(2, RunState.FAILED, "cannot reach db-7.corp")


@pytest.mark.parametrize(
    ("found", "part", "reason"),
    [
        (facts(ticks=(run(16),)), "ticks", "no tick of monitor players was done for 16min"),
        (facts(ticks=(FAILED, run(7))), "ticks", "the last tick of monitor players failed"),
        (
            facts(ticks=(run(2, RunState.WAITING, "x"), run(7))),
            "ticks",
            "the last tick of monitor players failed",
        ),
        (facts(ticks=()), "ticks", "no tick of monitor players was ever done"),
        (facts(nights=(night(RunState.FAILED, "x"), night(days_ago=1))), "nights", "failed and was given up"),
        (facts(nights=(night(RunState.WAITING, "x"),)), "nights", "failed and is tried again"),
        (
            facts(nights=(night(RunState.WAITING), night(days_ago=1))),
            "nights",
            "was due 8h ago and is not done",
        ),
        (facts(reads=(run(40),)), "sources", "source telemetry was not read for 40min"),
        (facts(reads=(FAILED,), health={}), "sources", "the last read of source telemetry failed"),
        (
            facts(health={**WELL, "state": "stale", "stale_from_ts": int(NOW.timestamp()) - 7200}),
            "sources",
            "2h",
        ),
        (facts(lost=2), "workers", "2 runs are at work and nobody holds their lease"),
        (facts(wall=NOW + timedelta(minutes=20)), "clock", "the clock is 20min from the database's"),
    ],
)
def test_where_detection_does_not_happen_the_part_says_why_and_what_to_do(
    found: Facts, part: str, reason: str
) -> None:
    (told,) = wrong(found).values()
    assert (told.part, bool(told.mend)) == (part, True)
    assert reason in told.reason
    assert "db-7" not in told.reason + told.mend


@pytest.mark.parametrize(
    "found",
    [
        facts(),
        facts(ticks=(run(2, RunState.RUNNING), run(7), FAILED)),
        facts(reads=(FAILED, run(7))),  # while points are on time, one read that failed blinds nobody
        facts(nights=(night(RunState.RUNNING), night(days_ago=1))),
        facts(nights=()),
        facts(scheduled_until=NOW + timedelta(days=365)),
    ],
)
def test_what_blinds_nobody_leaves_all_ready(found: Facts) -> None:
    assert wrong(found) == {}


def test_of_an_archive_that_commands_work_on_nobody_expects_a_daemon() -> None:
    archive = {**WELL, "state": "archive", "live": False}
    assert wrong(facts(ticks=(), nights=(), reads=(run(9000),), health=archive)) == {}


def test_a_daemon_that_has_just_begun_is_given_time() -> None:
    assert wrong(facts(ticks=(run(600),), reads=(run(600),)), NOW - timedelta(minutes=1)) == {}
    assert set(wrong(facts(ticks=(run(600),)), NOW - timedelta(minutes=20))) == {"ticks"}


def answer(port: int, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as found:
            return found.status, json.load(found)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_three_questions_have_three_answers_that_name_no_host() -> None:
    seconds = [0.0]
    telemetry = Telemetry(stale_after_seconds=15, monotonic=lambda: seconds[0])
    telemetry.vitals.began(lambda: NOW)
    telemetry.vitals.keep(facts())
    with serving(telemetry, "127.0.0.1", 0) as port:
        paths = ("/livez", "/healthz", "/readyz")
        assert [answer(port, path)[0] for path in paths] == [200, 200, 200]
        telemetry.vitals.keep(facts(nights=(night(RunState.FAILED, "cannot reach db-7.corp"),)))
        assert [answer(port, path)[0] for path in paths] == [200, 200, 503]
        assert answer(port, "/readyz")[1]["parts"]["nights"]["ready"] is False

        telemetry.database("connection to server at db-7.corp (10.1.2.3) failed")
        telemetry.beat()
        assert [answer(port, path)[0] for path in paths] == [200, 503, 503]
        told = " ".join(json.dumps(answer(port, path)[1]) for path in paths)
        assert "db-7" not in told
        assert "10.1" not in told
        telemetry.database("attempt to write a readonly database")
        assert "the database is read-only" in answer(port, "/healthz")[1]["reason"]

        # It hangs: neither an answer nor an error.
        telemetry.database()
        seconds[0] = 16
        code, body = answer(port, "/readyz")
        assert (code, body["parts"]["database"]["reason"]) == (503, "the database has not answered for 16 s")
        assert [answer(port, path)[0] for path in paths[:2]] == [503, 503]


def test_a_lease_that_ended_and_workers_that_die_again_and_again_are_told() -> None:
    seconds = [0.0]
    telemetry = Telemetry(stale_after_seconds=1000, monotonic=lambda: seconds[0])
    telemetry.vitals.began(lambda: NOW)
    telemetry.vitals.keep(facts())
    with telemetry.vitals.leased(60) as kept:
        seconds[0] = 61
        assert not telemetry.vitals.healthy()[0]
        kept()
        assert telemetry.vitals.healthy()[0]
    for _ in range(3):
        telemetry.restarted()
    assert "workers died 3 times" in telemetry.vitals.ready()[1]["parts"]["workers"]["reason"]
    seconds[0] = 999
    assert telemetry.vitals.ready()[0]


def test_the_lease_of_an_attempt_that_has_not_left_is_not_the_next_one_s() -> None:
    telemetry = Telemetry()
    first, second = telemetry.vitals.leased(60), telemetry.vitals.leased(60)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)


def test_facts_are_what_the_run_table_holds(store: SqlStore) -> None:
    store.sync_monitors({"players": {"detector": "gaussian"}})
    plan = Plan((replace(MONITOR, id=store.monitors()[0].id),), (SOURCE,))
    store.schedule(RunKind.TICK, plan.monitors[0].id, NOW - timedelta(minutes=5))
    claim = store.claim("me", 60)
    assert claim is not None
    store.finish(claim, RunState.DONE, {})
    store.schedule(RunKind.TICK, plan.monitors[0].id, NOW)
    store.schedule(RunKind.TICK, plan.monitors[0].id, NOW + timedelta(days=1))
    found = gather(store, plan.monitors, plan.sources, NOW)
    (monitor,) = found.monitors
    assert [run.state for run in monitor.ticks.runs] == [RunState.WAITING, RunState.DONE]
    assert monitor.ticks.last_done == NOW - timedelta(minutes=5)
    assert found.scheduled_until == NOW + timedelta(days=1)
    assert store.refuses_writes() == ""
    assert abs((found.wall - datetime.now(UTC)).total_seconds()) < 60


def test_status_says_what_is_wrong_with_the_mend_and_exits_with_it(tmp_path: Path) -> None:
    start, step = int(NOW.timestamp()) - 20 * 86_400 - 120, 3600
    ts = np.arange(start, int(NOW.timestamp()), step)
    values = 100 + 10 * np.sin(2 * np.pi * ts / 86_400) + np.random.default_rng(0).normal(0, 1, len(ts))
    rows = [f"{t},{v:.3f},ccu" for t, v in zip(ts, values, strict=True)]
    (tmp_path / "points.csv").write_text("\n".join(["ts,value,metric", *rows]) + "\n")
    config = tmp_path / "anomaly.yaml"
    config.write_text(
        "database: sqlite:///own.db\nhttp: {port: 0}\nworkers: 1\nsources:\n"
        "  files: {kind: csv, path: points.csv, timestamp: ts, metric: metric, step: 1h}\n"
        "monitors:\n  players: {series: {metric: ccu}, detector: robust_z, infer_every: 1h}\n"
    )

    def told(command: str, at: datetime, *more: str) -> Any:
        return anomaly(command, *more, "--config", config, "--now", at.isoformat())

    assert anomaly("migrate", "--config", config).code == 0
    assert told("daemon", NOW, "--once").code == 0
    well = told("status", NOW)
    assert (well.code, "NOT READY" in well.out) == (0, False)
    later = told("status", NOW + timedelta(hours=6))
    assert later.code == 1
    assert "NOT READY, ticks: no tick of monitor players was done for 6h" in later.out
    assert "NOT READY, sources: source files stopped" in later.out
    assert "anomaly daemon" in later.out
    found = told("status", NOW + timedelta(hours=6), "--json").rows
    assert found["ready"] is False
    assert {part["part"] for part in found["parts"] if not part["ready"]} == {"ticks", "sources"}
    assert [row["state"] for row in found["series"]] == ["stale"]
    (tmp_path / "points.csv").unlink()
    assert told("daemon", NOW + timedelta(hours=6), "--once").code in (0, 1)
    assert [
        row["kind"] for row in told("status", NOW + timedelta(hours=6), "--json").rows["source_events"]
    ] == ["source_stale"]


def test_how_old_points_are_when_they_are_scored_and_flagged_can_be_told_in_percentiles() -> None:
    telemetry = Telemetry()
    at = int(NOW.timestamp())
    tick = {"players": {"rows": 3, "scored_at": [(at - 40, 98), (at - 900, 2)], "flagged_at": [(at - 70, 1)]}}
    telemetry.note_latencies({"bites": [tick]}, NOW)
    value = telemetry.registry.get_sample_value
    assert value("anomaly_point_to_score_seconds_count") == 100
    assert value("anomaly_point_to_score_seconds_bucket", {"le": "60.0"}) == 98
    assert value("anomaly_point_to_event_seconds_bucket", {"le": "90.0"}) == 1
