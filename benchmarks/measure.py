"""Seconds, processor time and memory of a piece of work, and one line for each figure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

PACKAGES = ("torch", "numpy", "pandas", "scikit-learn", "SQLAlchemy", "psycopg")


@dataclass
class Took:
    """What a piece of work took, in seconds.

    Attributes:
        wall: by the clock on the wall; on a shared machine this measures the neighbours too.
        cpu: processor time of this process, its children and every other process that was named.
    """

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Took) -> Took:
        return Took(self.wall + other.wall, self.cpu + other.cpu)

    def __str__(self) -> str:
        return f"{self.wall:8.2f} s {self.cpu:8.2f} s"

    def per(self, count: float) -> Took:
        """Return what one of ``count`` equal parts took."""
        return Took(self.wall / count, self.cpu / count)


class Clock:
    """Times work; ``others`` are ids of processes that work for this one, such as a database server."""

    def __init__(self, others: Sequence[int] = ()) -> None:
        self.roots = [psutil.Process(), *(psutil.Process(pid) for pid in others)]

    @contextmanager
    def timed(self) -> Iterator[Took]:
        """Yield what is filled in when the block ends."""
        took = Took()
        cpu, wall = self._cpu(), time.perf_counter()
        yield took
        took.wall, took.cpu = time.perf_counter() - wall, self._cpu() - cpu

    def best(self, work: Callable[[], object], repeats: int) -> Took:
        """Return the least of a few runs, of wall and processor time each: a neighbour only ever adds."""
        runs = []
        for _ in range(repeats):
            with self.timed() as took:
                work()
            runs.append(took)
        return Took(min(run.wall for run in runs), min(run.cpu for run in runs))

    def _cpu(self) -> float:
        return sum(_cpu_of(process) for process in family(self.roots))


def family(roots: Sequence[psutil.Process]) -> Iterator[psutil.Process]:
    """Yield these processes and everything they started that still runs, each once."""
    seen = set()
    for root in roots:
        for process in [root, *root.children(recursive=True)]:
            if process.pid not in seen:
                seen.add(process.pid)
                yield process


def _cpu_of(process: psutil.Process) -> float:
    try:
        spent = process.cpu_times()
    except psutil.Error:
        return 0.0
    # Children that ended are in their parent's account.
    return float(spent.user + spent.system + spent.children_user + spent.children_system)


class Memory:
    """Peak memory of this process and its children together, sampled ten times a second."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.1):
            total = 0
            for process in family([me]):
                try:
                    # Shared pages of forked workers count once: USS and not RSS.
                    total += process.memory_full_info().uss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)

    def restart(self) -> None:
        self.peak = 0

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def machine() -> None:
    """Print what the figures below were measured on."""
    script = Path(sys.argv[0]).name
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    memory = psutil.virtual_memory().total / 2**30
    print(f"\n{script} {' '.join(sys.argv[1:])}".rstrip())
    print(f"  {os.cpu_count()} cores of {_processor()}, {memory:.0f} GiB; load before the run {load}")
    print(f"  Python {platform.python_version()}, {versions}\n")


def _processor() -> str:
    """Return the processor's name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine()


def title(text: str) -> None:
    print(f"\n{text}", flush=True)


def figure(what: str, value: str, asked: str = "", beside: str = "") -> None:
    """Print one figure, what was asked for, and what stands beside it."""
    print(f"  {what:<46}{value:>24}   {asked:<20} {beside}".rstrip(), flush=True)


def ratio(ours: Took, theirs: Took) -> str:
    """Return how many times as long ours took, by wall and by processor time."""
    return f"x {ours.wall / theirs.wall:.2f} (cpu x {ours.cpu / max(theirs.cpu, 1e-9):.2f})"
