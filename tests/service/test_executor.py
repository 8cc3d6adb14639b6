"""The process pool: order, laziness, errors, and workers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE_SECONDS, eventually

from anomaly_service import executors
from anomaly_service.errors import NotFoundError
from anomaly_service.executors.local import LocalExecutor
from pipelines.errors import WorkerDiedError
from pipelines.executor import Executor, Inline


def square(x: int) -> int:
    return x * x


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def take_turns(item: tuple[str, str]) -> str:
    """Note the end of the first file named, once the second is there."""
    own, after = map(Path, item)
    eventually(lambda: item[1] == "" or after.exists(), f"{after} done")
    own.touch()
    return own.name


def die_once(item: tuple[int, str]) -> int:
    """Kill the worker the first time the file of the item is missing."""
    number, path = item
    if path and not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def poison(item: tuple[int, str]) -> int:
    """Note the run in a file; number 7 kills its worker while others run."""
    number, path = item
    with open(path, "a") as log:
        log.write(f"{number}\n")
    time.sleep(0.05 if number == 7 else 0.1)
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class TwoArgumentsError(Exception):
    """Cannot be unpickled: its args are not what its constructor takes."""

    def __init__(self, a: str, b: str) -> None:
        super().__init__(a + b)


def refuse(x: int) -> int:
    if x == 3:
        raise KeyError("three")
    if x == 4:
        raise TwoArgumentsError("fo", "ur")
    return x


def worker_facts(_: int) -> tuple[int, int, str]:
    import torch

    return os.getpid(), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    pool = LocalExecutor(2)
    yield pool
    pool.close()


def conforms(executor: Executor) -> list[tuple[int, int]]:
    return sorted(executor.map(square, range(20)))


def test_every_executor_gives_every_item_its_result(executor: LocalExecutor) -> None:
    expected = [(x, x * x) for x in range(20)]
    assert conforms(executor) == conforms(Inline()) == conforms(LocalExecutor(0)) == expected


def test_results_come_in_order_of_completion(executor: LocalExecutor, tmp_path: Path) -> None:
    slow, quick = str(tmp_path / "slow"), str(tmp_path / "quick")
    results = executor.map(take_turns, [(slow, quick), (quick, "")])
    assert [name for _, name in results] == ["quick", "slow"]


def test_a_worker_has_one_thread_and_is_another_process(executor: LocalExecutor) -> None:
    facts = [result for _, result in executor.map(worker_facts, range(8))]
    assert {fact[1:] for fact in facts} == {(1, "1")}
    assert os.getpid() not in {fact[0] for fact in facts}


def test_items_are_read_only_a_little_ahead_of_the_work(executor: LocalExecutor) -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for x in range(1000):
            read.append(x)
            yield x

    results = executor.map(square, source())
    assert read == []
    next(results)
    assert len(read) <= executor.workers + 2
    results.close()  # type: ignore[attr-defined]  # it is a generator


def test_what_work_raises_arrives_unchanged_and_the_pool_stays_usable(executor: LocalExecutor) -> None:
    with pytest.raises(KeyError, match="three"):
        list(executor.map(refuse, [1, 2, 3]))
    assert conforms(executor)


def test_an_exception_that_cannot_travel_arrives_by_name(executor: LocalExecutor) -> None:
    with pytest.raises(RuntimeError, match="TwoArgumentsError: four"):
        list(executor.map(refuse, [4]))
    assert conforms(executor)


def test_work_of_a_killed_worker_is_done_again_and_the_others_results_arrive(tmp_path: Path) -> None:
    restarts: list[None] = []
    pool = LocalExecutor(2, on_restart=lambda: restarts.append(None))
    items = [(i, str(tmp_path / str(i)) if i in (3, 11) else "") for i in range(20)]
    assert sorted(result for _, result in pool.map(die_once, items)) == list(range(20))
    # Two workers that die at the same moment take one pool down together.
    assert 1 <= len(restarts) <= 2
    pool.close()


def test_an_item_that_kills_every_worker_is_named_and_its_neighbours_are_not(tmp_path: Path) -> None:
    pool = LocalExecutor(2)
    log = tmp_path / "runs"
    seen = []
    with pytest.raises(WorkerDiedError, match=r"died each of 3 times it ran \(7, "):
        seen.extend(result for _, result in pool.map(poison, [(i, str(log)) for i in range(12)]))
    runs = Counter(int(line) for line in log.read_text().split())
    assert runs.pop(7) == 3
    assert sum(runs.values()) - len(runs) <= 1, "neighbours shared a second death"
    assert set(seen) >= {0, 1, 2, 3, 4}
    assert sorted(pool.map(square, [5])) == [(5, 25)]
    pool.close()


def test_a_worker_killed_while_idle_costs_nothing(executor: LocalExecutor) -> None:
    (_, (pid, _, _)), *_rest = executor.map(worker_facts, range(1))
    os.kill(pid, signal.SIGKILL)
    assert conforms(executor)


def test_closing_abandons_running_work() -> None:
    pool = LocalExecutor(1)
    results = pool.map(sleep, [0.0, 10 * PATIENCE_SECONDS])
    next(results)
    pool.close()


def test_two_threads_may_share_a_pool(executor: LocalExecutor) -> None:
    found: list[list[tuple[int, int]]] = []
    threads = [threading.Thread(target=lambda: found.append(conforms(executor))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3


def test_workers_die_with_a_killed_parent() -> None:
    program = (
        "from test_executor import *\n"
        "if __name__ == '__main__':\n"
        "    results = LocalExecutor(2).map(worker_facts, range(8))\n"
        "    print(*{result[0] for _, result in results}, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    here = Path(__file__).parent
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=here, stdout=subprocess.PIPE, text=True
    ).stdout
    pids = [int(word) for word in output.split()]
    assert pids
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the workers are gone")


def hang(item: tuple[int, str]) -> int:
    """Note the run in a file; number 7 hangs."""
    number, path = item
    with open(path, "a") as log:
        log.write(f"{number}\n")
    if number == 7:
        time.sleep(2 * PATIENCE_SECONDS)
    return number


def test_an_item_that_hangs_is_killed_after_its_deadline_and_named_and_nobody_else_is_blamed(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    pool = LocalExecutor(2, task_seconds=1.0)
    done: list[int] = []

    def work() -> None:
        for (number, _), _ in pool.map(hang, [(number, str(log)) for number in (1, 2, 7, 3, 4, 5)]):
            done.append(number)

    with pytest.raises(WorkerDiedError, match=r"7.* took longer than 1 s, in the last of 3 tries; give"):
        work()
    assert sorted(done) == [1, 2, 3, 4, 5]
    assert Counter(map(int, log.read_text().split()))[7] == 3
    assert list(pool.map(square, [3])) == [(3, 9)]
    pool.close()


def test_an_item_that_waits_for_its_turn_does_not_age(tmp_path: Path) -> None:
    pool = LocalExecutor(1, task_seconds=2.0)
    assert sorted(pool.map(sleep, [0.5] * 8)) == [(0.5, 0.5)] * 8
    pool.close()


def test_executors_are_built_by_the_name_of_their_entry_point() -> None:
    assert "local" in executors.kinds()
    built = executors.build(3)
    assert isinstance(built, LocalExecutor)
    assert built.workers == 3
    with pytest.raises(NotFoundError, match="no executor of kind 'ray'; installed: local"):
        executors.build(3, kind="ray")
