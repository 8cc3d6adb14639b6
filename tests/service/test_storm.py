"""A storm over the daemon: it is killed again and again, and its workers and its database with it.

``make soak KILLS=1000 SEED=7 PAGE=docs/reliability.md`` sets how long it lasts, what happens in it, and
where the account of it is written.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import psycopg
import pytest
import reliability
from databases import Databases
from pipeline_harness import Result, differences, play_on, result
from storm import AT_A_FAILPOINT, PLACES, Account, Storm, attacks, wanted

ATTACKS_A_PLAY = 5
SHARDS = 4
"""Parts of a storm, each with its share of the kills, so that several processes can work on it."""

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Databases]:
    """Databases on a server that keeps what it said it committed, though it is killed."""
    server = request.getfixturevalue("postgres_server")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_commit = on")
        connection.execute("SELECT pg_reload_conf()")
    yield Databases(request, tmp_path_factory.mktemp("databases"))
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_commit = off")
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="module")
def undisturbed(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, float]:
    """What a daemon left in peace leaves, and how many seconds it took."""
    play = play_on(databases.fresh("sqlite"), tmp_path_factory.mktemp("undisturbed"))
    play.run()
    return result(play.world.database), play.seconds


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("kind", Databases.kinds)
def test_a_storm_leaves_what_peace_leaves(
    kind: str,
    shard: int,
    testrun_uid: str,
    databases: Databases,
    tmp_path_factory: pytest.TempPathFactory,
    undisturbed: tuple[Result, float],
) -> None:
    expected, seconds = undisturbed
    kills, seed = math.ceil(wanted("KILLS", 50) / SHARDS), wanted("SEED", 1)
    account = Account()
    told = []
    for number in itertools.count():
        if account.kills >= kills:
            break
        rng = random.Random(f"{seed} {kind} {shard} {number}")
        found = differences(weather(kind, databases, tmp_path_factory, rng, account, seconds), expected)
        account.plays += 1
        account.apart.update(found.keys())
        told += [
            f"play {shard}/{number}, {what}: {len(keys)} such as {keys[:3]}" for what, keys in found.items()
        ]
    reliability.note_storm(kind, testrun_uid, seed, account)
    assert not told


def weather(
    kind: str,
    databases: Databases,
    tmp_path_factory: pytest.TempPathFactory,
    rng: random.Random,
    account: Account,
    seconds: float,
) -> Result:
    """Go through one play in the storm and return what it left."""
    url = databases.fresh(kind)
    play = play_on(url, tmp_path_factory.mktemp("storm"), inline=rng.random() < 0.5)
    play.daemons = rng.choice((1, 1, 2))
    play.attempts = 1000  # three kills give a run up; here it is killed more often than that
    usual = attacks(kind, url, databases, pool=not play.inline, daemons=play.daemons)
    storm = Storm(usual, account, rng, [rng.uniform(0, 2) * seconds for _ in range(ATTACKS_A_PLAY)])
    play.disturb, play.failpoints = storm, storm.failpoints()
    at_random = account.times[PLACES]
    play.run()
    account.times[AT_A_FAILPOINT] += play.killed - (account.times[PLACES] - at_random)
    return result(url)
