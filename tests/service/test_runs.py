"""Runs between processes that share one database: leases, fences, and a process that dies."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from anomaly_service.db.store import SqlStore
from pipelines.names import RunKind, RunState
from pipelines.store import Batch, LostClaimError

NOON = datetime(2026, 2, 1, 12, tzinfo=UTC)

WORKER = """
import sys
from anomaly_service.db.store import SqlStore
from pipelines.names import RunState
with SqlStore(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    while claim := store.claim(sys.argv[2], 60):
        print(claim.run_id, flush=True)
        store.finish(claim, RunState.DONE, {})
"""


def test_processes_share_the_runs_and_none_is_done_twice(store: SqlStore, database_url: str) -> None:
    for monitor in store.sync_monitors({f"m{k}": {} for k in range(20)}):
        store.schedule(RunKind.TICK, monitor.id, NOON)
    command = [sys.executable, "-c", WORKER, database_url]
    workers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    outputs = [worker.communicate("go\n")[0].split() for worker in workers]
    assert sorted(int(one) for output in outputs for one in output) == list(range(1, 21))
    assert {row["state"] for row in store.rows("run_log")} == {"done"}


def test_a_process_that_was_killed_loses_its_run_after_the_lease(store: SqlStore, database_url: str) -> None:
    code = WORKER.replace("60", "1.0").replace("store.finish(claim, RunState.DONE, {})", "sys.stdin.read()")
    store.schedule(RunKind.NIGHTLY, None, NOON)
    command = [sys.executable, "-c", code, database_url, "victim"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.stdin.write("go\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "1\n"
        worker.kill()
    time.sleep(1.1)
    claim = store.claim("heir", 60)
    assert claim is not None
    assert (claim.run_id, claim.fence, claim.attempts) == (1, 2, 2)


def test_the_lease_runs_on_the_clock_of_the_database(store: SqlStore) -> None:
    store.schedule(RunKind.TICK, None, NOON)
    claim = store.claim("me", 3600)
    assert claim is not None
    # What the database's clock would make of an hour that has passed.
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE run SET lease_until = lease_until - 3601"))
    with pytest.raises(LostClaimError):
        store.commit(claim, Batch())


def test_a_waiting_run_keeps_its_moment_to_the_microsecond(store: SqlStore) -> None:
    at = NOON + timedelta(microseconds=123_456)
    store.schedule(RunKind.RESCORE, None, at)
    claim = store.claim("me", 60)
    assert claim is not None
    assert claim.scheduled_for == at == store.last_run(RunKind.RESCORE)
    assert not store.schedule(RunKind.RESCORE, None, at)


def test_a_failed_run_is_final(store: SqlStore) -> None:
    store.schedule(RunKind.TICK, None, NOON)
    claim = store.claim("me", 60)
    assert claim is not None
    store.finish(claim, RunState.FAILED, {}, "no space left")
    assert store.claim("me", 60) is None
    assert [(row["state"], row["error"]) for row in store.rows("run_log")] == [("failed", "no space left")]


def test_a_store_may_allow_more_attempts(database_url: str) -> None:
    with SqlStore(database_url, max_attempts=1) as store:
        store.schedule(RunKind.TICK, None, NOON)
        claim = store.claim("me", 60)
        assert claim is not None
        store.finish(claim, RunState.WAITING, {}, "timeout")
        assert store.claim("me", 60) is None
        assert store.rows("run_log")[0]["error"] == "given up after 1 attempts: timeout"
