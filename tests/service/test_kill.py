"""Whatever happens to the daemon, what it leaves is what an undisturbed one leaves.

Every test sends a daemon through the same small world (see ``pipeline_harness``) and compares the
points, the settled scores, the events and the versions with those of a daemon left in peace.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_harness import Process
from databases import Databases
from pipeline_harness import FAILPOINTS, LEASE_SECONDS, Play, Result, differences, play_on, result

PINNED = {"sqlite": (0, 1), "postgresql": (4, 5)}
"""Even seeds kill at a failpoint, odd ones at a random moment."""


@pytest.fixture(scope="module")
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    return Databases(request, tmp_path_factory.mktemp("databases"))


@pytest.fixture(scope="module")
def undisturbed(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, float]:
    """Return what a daemon left in peace leaves, and how many seconds it took."""
    play = play_on(databases.fresh("sqlite"), tmp_path_factory.mktemp("undisturbed"))
    play.run()
    assert play.killed == 0
    return result(play.world.database), play.seconds


def at(moment: float, action: Callable[[list[Process]], None]) -> Callable[[list[Process], float], bool]:
    """Return a disturbance that happens once, so many seconds after the start."""

    def disturb(daemons: list[Process], seconds: float) -> bool:
        if seconds < moment:
            return False
        action(daemons)
        return True

    return disturb


def kill_first(daemons: list[Process]) -> None:
    daemons[0].signal(signal.SIGKILL)


def kill(play: Play, seed: int, usual_seconds: float) -> None:
    """Arrange for the daemon to be killed once, where and when the seed says."""
    rng = random.Random(seed)
    if seed % 2 == 0:
        play.failpoints = iter([f"{FAILPOINTS[seed // 2 % len(FAILPOINTS)]}:{rng.randint(1, 2)}"])
    else:
        play.disturb = at(rng.uniform(0.2, 0.9) * usual_seconds, kill_first)


def test_the_world_has_something_to_lose(undisturbed: tuple[Result, float]) -> None:
    left, _ = undisturbed
    assert len(left.points) > 6000
    assert len(left.settled) > 2000
    assert len(left.events) >= 8
    assert len({(monitor, stop) for monitor, _, _, stop, _ in left.versions}) >= 4
    assert sum(weeks > 0 for _, weeks in left.lines.values()) >= 4


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind, seeds in PINNED.items() for seed in seeds])
def test_a_killed_daemon_loses_and_doubles_nothing(
    kind: str, seed: int, databases: Databases, tmp_path: Path, undisturbed: tuple[Result, float]
) -> None:
    expected, seconds = undisturbed
    # With the process pool where it may matter, and mostly without its start-up time.
    play = play_on(databases.fresh(kind), tmp_path, inline=seed % 4 > 1)
    kill(play, seed, seconds)
    play.run()
    assert play.killed == 1
    assert not differences(result(play.world.database), expected)


@pytest.mark.parametrize("kind", Databases.kinds)
def test_two_daemons_one_of_them_frozen_past_its_lease_do_the_work_once(
    kind: str, databases: Databases, tmp_path: Path, undisturbed: tuple[Result, float]
) -> None:
    expected, seconds = undisturbed

    def freeze_the_first(daemons: list[Process]) -> None:
        daemons[0].signal(signal.SIGSTOP)
        time.sleep(LEASE_SECONDS + 1)
        daemons[0].signal(signal.SIGCONT)

    play = play_on(databases.fresh(kind), tmp_path)
    play.daemons = 2
    play.disturb = at(0.5 * seconds, freeze_the_first)
    play.run()
    assert not differences(result(play.world.database), expected)


@pytest.mark.parametrize("kind", Databases.kinds)
def test_a_database_that_was_away_for_a_while_has_all_in_the_end(
    kind: str, databases: Databases, tmp_path: Path, undisturbed: tuple[Result, float]
) -> None:
    expected, seconds = undisturbed
    url = databases.fresh(kind)

    def take_away(_: list[Process]) -> None:
        if kind == "postgresql":
            databases.stop_server()
            time.sleep(LEASE_SECONDS)
            databases.start_server()
            return
        lock = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        time.sleep(LEASE_SECONDS + 1)
        lock.rollback()
        lock.close()

    play = play_on(url, tmp_path)
    play.disturb = at(0.5 * seconds, take_away)
    play.run()
    assert not differences(result(url), expected)
