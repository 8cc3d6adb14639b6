"""A config with channels through the real daemon, on both databases: what people see, killed or not."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from commands import anomaly
from daemon_harness import Process
from databases import Databases
from pipeline_harness import DAY, START, Play, World, result, series

from anomaly_service.db.store import SqlStore
from pipelines.names import Verdict

CONFIG = """\
database: {database}
sources:
  telemetry: {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [realm],
    step: 15min, delay: 0, timezone: UTC}}
monitors:
  health:
    channels: [ccu, logins, crashes]
    group_by: [realm]
    series: {{}}
    detector: gaussian
    params: {{window: 8}}
    season: daily
    fit: {{every: 1d, window: 5d}}
    infer_every: 15min
    threshold: {{alarms_per_week: 10}}
    policy: {{min_duration: 30min, merge_max_gap: 30min}}
nightly: {{at: "03:15", timezone: UTC, window: 2d}}
workers: 1
"""
HIT = (START + int(7.2 * DAY), START + int(7.2 * DAY) + 7200)
NOW = ("--now", "2024-06-11T04:00:00Z")
KEYS = [f"ccu,logins,crashes{{realm=r{realm}}}" for realm in range(3)]


class Realms(World):
    """Three realms by three channels; one realm's crashes treble for two hours, one has no logins yet."""

    text: ClassVar[str] = CONFIG
    metrics: ClassVar[Sequence[str]] = ("ccu", "logins", "crashes")
    realms: ClassVar[int] = 4
    n_monitors: ClassVar[int] = 1

    def series(self, metric: str, realm: int) -> tuple[np.ndarray, np.ndarray]:
        ts, _ = series(metric, realm)
        # Each metric and realm has noise and a level of its own, and none of the other world's incidents.
        rng = np.random.default_rng([realm, len(metric)])
        level = {"ccu": 5000, "logins": 300, "crashes": 40}[metric] * (1 + 0.3 * realm)
        daily = 1 + 0.4 * np.sin(2 * np.pi * (ts % DAY) / DAY)
        values = np.round(level * daily * (1 + 0.05 * rng.standard_normal(len(ts))))
        if (metric, realm) == ("crashes", 1):
            values[(ts >= HIT[0]) & (ts < HIT[1])] *= 3
        if (metric, realm) == ("logins", 3):
            return ts[:0], values[:0]
        return ts, values

    def _corrections(self, step: int) -> str:
        return ""


@pytest.fixture(scope="module")
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    return Databases(request, tmp_path_factory.mktemp("databases"))


def played(url: str, folder: Path, *, kill: bool) -> Play:
    play = Play(Realms(folder / "world", url), folder / "log", inline=True)
    if kill:

        def kill_first(daemons: list[Process], _: float) -> bool:
            daemons[0].signal(signal.SIGKILL)
            return True

        play.failpoints, play.disturb = iter(["score-after-commit:2"]), kill_first
    play.run()
    return play


@pytest.fixture(scope="module")
def worlds(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Play]:
    """The same world on both databases; on PostgreSQL the daemon is killed as it starts, and once more."""
    return {
        kind: played(databases.fresh(kind), tmp_path_factory.mktemp(kind), kill=kind == "postgresql")
        for kind in Databases.kinds
    }


@pytest.fixture(params=Databases.kinds)
def world(request: pytest.FixtureRequest, worlds: dict[str, Play]) -> World:
    return worlds[request.param].world


def incident(world: World) -> dict[str, object]:
    with SqlStore(world.database) as store:
        rows = store.rows("flagged_intervals", {"series": KEYS[1], "kind": "anomaly"})
    (row,) = [row for row in rows if row["peak_at"][:10] == "2024-06-10"]
    return dict(row)


def test_the_realm_and_the_channel_of_the_incident_are_told(world: World) -> None:
    row = incident(world)
    assert row["channel"] == "crashes"
    assert row["channel_shares"]["crashes"] > 0.9  # type: ignore[index]  # JSON
    assert sum(row["channel_shares"].values()) == pytest.approx(1.0)  # type: ignore[attr-defined]  # JSON
    assert row["direction"] == "above_expected"
    with SqlStore(world.database) as store:
        others = store.rows("flagged_intervals", {"series": [KEYS[0], KEYS[2]]})
    assert not [each for each in others if each["peak_at"] == row["peak_at"]]


def test_a_killed_daemon_on_another_database_leaves_the_same(worlds: dict[str, Play]) -> None:
    assert worlds["postgresql"].killed >= 1
    calm, killed = (result(worlds[kind].world.database) for kind in Databases.kinds)
    assert killed.events == pytest.approx(calm.events, rel=1e-4)
    assert killed.versions == calm.versions
    assert killed.settled.keys() == calm.settled.keys()
    assert {key for _, key, _ in calm.settled} == set(KEYS)
    one, other = (incident(worlds[kind].world)["channel_shares"] for kind in Databases.kinds)
    assert one == pytest.approx(other, abs=1e-3)


def test_intervals_lists_the_shares(world: World) -> None:
    found = anomaly("intervals", "--config", world.config, "--series", KEYS[1])
    row = incident(world)
    (line,) = [line for line in found.table if line[0] == str(row["event_id"])]
    assert f"crashes {row['channel_shares']['crashes']:.0%}" in line  # type: ignore[index]  # JSON
    rows = anomaly("intervals", "--config", world.config, "--series", KEYS[1], "--json").rows
    assert row["channel_shares"] in [row["channel_shares"] for row in rows]


def test_explain_tells_the_shares_of_the_event(world: World) -> None:
    row = incident(world)
    place = ("--config", world.config, *NOW)
    found = json.loads(anomaly("explain", row["event_id"], "--json", *place).out)
    told = {each["series"].partition("{")[0]: each["share"] for each in found["channels"]}
    assert told == row["channel_shares"]
    assert f"{told['crashes']:.0%}" in anomaly("explain", row["event_id"], *place).out


def test_status_validate_and_the_run_log_name_what_is_missing(world: World) -> None:
    why = "ccu,logins,crashes{realm=r3}: no series of metric logins"
    said = anomaly("status", "--config", world.config, *NOW).out
    assert f"Monitor health does not watch {why}." in said
    assert "Monitor health (gaussian): 3 targets of ccu, logins, crashes, " in said
    said = anomaly("validate", "--config", world.config, *NOW).out
    assert "Monitor health (gaussian): 4 targets of ccu, logins, crashes, a point every 15 min." in said
    assert f"Not watched: {why}." in said
    with SqlStore(world.database) as store:
        runs = store.rows("run_log", {"kind": ["tick", "nightly"]})
        told = [run["outcome"]["health"]["waiting"] for run in runs]
    assert told == [[why]] * len(told)


def test_similar_and_replay_take_targets_of_several_series(world: World) -> None:
    place = ("--config", world.config, *NOW)
    assert "ccu,logins,crashes{realm=r1}" in anomaly("similar", incident(world)["event_id"], *place).out
    found = anomaly("replay", "--last", "2d", "--json", *place)
    assert found.code == 0, found.err
    raised = [row for row in found.rows if row["series"] == KEYS[1]]
    assert "crashes" in {row["channel"] for row in raised}


def test_a_review_survives_the_nights_after_it(world: World) -> None:
    event = incident(world)["event_id"]
    with SqlStore(world.database) as store:
        store.review(int(str(event)), Verdict.CONFIRMED, cause="bad build")
    span = ("--from", "2024-06-10", "--to", "2024-06-11")
    assert anomaly("rescore", *span, "--refit", "--config", world.config, *NOW).code == 0
    row = incident(world)
    assert (row["event_id"], row["review_verdict"], row["channel"]) == (event, "confirmed", "crashes")
