"""A small world of telemetry that goes by in steps, and a daemon that must come out of it the same.

Run as a program it is the real daemon with the real service, except that its clock is a file and its
leases are short.
"""

from __future__ import annotations

import argparse
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import daemon_harness
import numpy as np
from daemon_harness import Process, process
from patience import looking

from anomaly_service.daemon.loop import Daemon, Settings, signals_to
from anomaly_service.daemon.schedule import due_reads, outlook, plan
from anomaly_service.daemon.telemetry import configure_logging
from anomaly_service.daemon.workload import Workload, workload_of
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import DatabaseUnavailableError
from anomaly_service.service import Service
from pipelines.executor import Inline
from pipelines.monitor import MonitorSpec
from pipelines.names import RunKind, Status
from pipelines.steps.bodies import LineEntry

START = int(datetime(2024, 6, 3, tzinfo=UTC).timestamp())
DAY = 86400
STEP = 900
LEASE_SECONDS = 3.0
SOURCES = {"telemetry": None}
MONITORS = {"players": "ccu", "logins": "logins"}
REALMS = 4

STEPS = tuple(
    START + int(days * DAY) + minutes * 60
    for days, minutes in ((6.5, 5), (6.5, 35), (7, 200), (7.5, 5), (8, 200), (8, 230))
)
"""The times at which the world stops until the daemon has done all that is due."""

FAILPOINTS = (
    "ingest-before-commit",
    "ingest-after-commit",
    "fit-before-commit",
    "calibrate-before-commit",
    "fit-after-commit",
    "calibrate-after-commit",
    "reconcile-before-commit",
    "score-before-commit",
    "score-after-commit",
    "nightly-before-finish",
)
"""Where a daemon may be killed by name (see ``anomaly_service.failpoints``)."""

CONFIG = """\
database: {database}
sources:
  telemetry: {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [realm],
    step: 15min, delay: 0, timezone: UTC}}
monitors:
  players:
    series: {{metric: ccu}}
    detector: gaussian
    params: {{window: 8}}
    season: daily
    fit: {{every: 1d, window: 5d}}
    infer_every: 15min
    threshold: {{alarms_per_week: 20, per: monitor}}
    policy: {{min_duration: 30min, merge_max_gap: 30min}}
  logins:
    series: {{metric: logins}}
    detector: robust_z
    params: {{window: 4}}
    season: daily
    fit: {{every: 2d, window: 5d}}
    infer_every: 30min
    threshold: {{alarms_per_week: 10}}
nightly: {{at: "03:15", timezone: UTC, window: 2d}}
workers: 1
"""


class World:
    """Files that appear as time goes by; the same for every seed of disturbance."""

    text: ClassVar[str] = CONFIG
    metrics: ClassVar[Sequence[str]] = tuple(MONITORS.values())
    realms: ClassVar[int] = REALMS
    n_monitors: ClassVar[int] = len(MONITORS)

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.database = database
        self.config = folder / "anomaly.yaml"
        self.clock = folder / "clock"
        self._written = START - 1
        (folder / "drop").mkdir(parents=True)
        self.config.write_text(self.text.format(database=database))

    def advance(self, step: int) -> None:
        """Deliver the points of one step, then set the clock to its time."""
        now = STEPS[step]
        # Every other delivery adds to the file before it, as a source that is written live does.
        with (self.folder / "drop" / f"part-{step // 2}.csv").open("a") as file:
            header = "" if file.tell() else "ts,metric,realm,value\n"
            file.write(header + self._rows(self._written, now) + self._corrections(step))
        self._written = now
        moving = self.clock.with_suffix(".new")
        moving.write_text(str(now))
        moving.rename(self.clock)

    def _rows(self, after: int, until: int) -> str:
        lines = []
        for metric in self.metrics:
            for realm in range(self.realms):
                ts, values = self.series(metric, realm)
                new = (ts > after) & (ts <= until)
                lines += [
                    f"{t},{metric},r{realm},{v:.0f}\n" for t, v in zip(ts[new], values[new], strict=True)
                ]
        return "".join(lines)

    def series(self, metric: str, realm: int) -> tuple[np.ndarray, np.ndarray]:
        """Return times and values of one series, whole."""
        return series(metric, realm)

    def _corrections(self, step: int) -> str:
        """Half a day late, the first realm's players turn out to have dropped, too."""
        if step != 3:
            return ""
        ts, values = series("ccu", 0)
        late = (ts >= START + 6.7 * DAY) & (ts < START + 6.8 * DAY)
        return "".join(f"{t},ccu,r0,{v / 2:.0f}\n" for t, v in zip(ts[late], values[late], strict=True))


def series(metric: str, realm: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nine days of one series, with a drop or a surge of two hours on the last days."""
    ts = np.arange(START, START + 9 * DAY, STEP)
    rng = np.random.default_rng([len(metric), realm])
    level = 1000 * (realm + 2) * (1 + 0.4 * np.sin(2 * np.pi * (ts % DAY) / DAY))
    values = level * (1 + 0.03 * rng.standard_normal(len(ts)))
    for day in (5.3, 6.35 + 0.03 * realm, 7.2 + 0.04 * realm, 8.05):
        hit = (ts >= START + day * DAY) & (ts < START + day * DAY + 7200)
        values[hit] *= 0.4 if realm % 2 else 1.7
    return ts, np.round(values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("clock", type=Path)
    parser.add_argument("--inline", action="store_true")
    parser.add_argument("--attempts", type=int, default=3)
    args = parser.parse_args()
    configure_logging(as_json=True)

    def now() -> datetime:
        return datetime.fromtimestamp(int(args.clock.read_text()), UTC)

    class Clocked(Service):
        @property
        def now(self) -> datetime:
            return now()

    def load() -> Workload:
        from anomaly_service.config.load import load

        service = Clocked(load(args.config), executor=Inline() if args.inline else None)
        service.store.max_attempts = args.attempts
        return workload_of(service)

    daemon = Daemon(load, clock=now, settings=Settings(LEASE_SECONDS, daemon_harness.POLL))
    with signals_to(daemon):
        daemon.run()


@dataclass
class Play:
    """One run through the world, with whatever disturbs it.

    Attributes:
        daemons: how many work at once.
        inline: without a process pool, which starts faster.
        attempts: how often a run may be tried.
        failpoints: where each daemon that is started is killed, one after the other; "" is nowhere, as is
            all after the last.
        disturb: called in every step until it returns True, with the daemons and the seconds that
            have gone by since the start; infinitely many when the last step begins, so that a daemon
            faster than expected does not get away.
    """

    world: World
    log: Path
    daemons: int = 1
    inline: bool = False
    attempts: int = 3
    failpoints: Iterator[str] = field(default_factory=lambda: iter(()))
    disturb: Callable[[list[Process], float], bool] = lambda processes, seconds: True
    killed: int = 0
    seconds: float = 0.0
    _stack: ExitStack = field(default_factory=ExitStack)

    def run(self) -> None:
        """Go through all steps, waiting in each until the work is done."""
        self.world.advance(0)
        with self._stack, SqlStore(self.world.database) as store:
            running = [self._start() for _ in range(self.daemons)]
            begun = time.monotonic()
            disturbed = False
            for step in range(len(STEPS)):
                if step:
                    self.world.advance(step)
                for _ in looking(lambda: f"all done: {self.log.read_text()[-4000:]}", pause_seconds=0.1):
                    if self._is_done(store, step):
                        break
                    gone_by = math.inf if step == len(STEPS) - 1 else time.monotonic() - begun
                    disturbed = disturbed or self.disturb(running, gone_by)
                    running = [self._alive(each) for each in running]
            self.seconds = time.monotonic() - begun
            for each in running:
                each.signal(signal.SIGTERM)
            assert [each.wait() for each in running] == [0] * self.daemons

    def _start(self) -> Process:
        command = [__file__, str(self.world.config), str(self.world.clock)]
        command += [f"--attempts={self.attempts}", *(["--inline"] if self.inline else [])]
        env = {"ANOMALY_FAILPOINT": next(self.failpoints, "")}
        return self._stack.enter_context(process(command, self.log, env))

    def _alive(self, daemon: Process) -> Process:
        """Return the daemon, or the one that an init system starts in its place."""
        code = daemon.poll()
        if code is None:
            return daemon
        assert code == -signal.SIGKILL, f"the daemon ended by itself: {self.log.read_text()[-4000:]}"
        self.killed += 1
        return self._start()

    def _is_done(self, store: SqlStore, step: int) -> bool:
        try:
            return not unfinished(store, STEPS[step], self.world.n_monitors)
        except DatabaseUnavailableError:
            return False


def play_on(url: str, folder: Path, *, inline: bool = True) -> Play:
    """Return a play of the world above on a database."""
    return Play(World(folder / "world", url), folder / "log", inline=inline)


def unfinished(store: SqlStore, now: int, n_monitors: int) -> list[object]:
    """Return the runs that are not done yet, and those that nobody has scheduled yet."""
    at = datetime.fromtimestamp(now, UTC)
    monitors = {row.id: MonitorSpec.from_json(row.config) for row in store.monitors() if row.enabled}
    last = {
        (kind, monitor_id): store.last_run(kind, monitor_id)
        for monitor_id in monitors
        for kind in (RunKind.TICK, RunKind.NIGHTLY)
    }
    rows = store.rows("run_log")
    failed = [row["error"] for row in rows if row["state"] == "failed"]
    assert not failed, f"runs failed: {failed}"
    left: list[object] = [row for row in rows if row["state"] != "done"]
    if len(monitors) < n_monitors:
        left.append("monitors")
    schedules = plan(monitors, SOURCES, [row.spec for row in store.series()])
    reads = store.last_reads(SOURCES, at)
    ahead = outlook(schedules, last, reads, at)
    return [*left, *due_reads(schedules.sources, reads, at), *ahead.due, *ahead.held]


@dataclass(frozen=True)
class Result:
    """What must be the same after every way through the world.

    Attributes:
        points: value by series and time.
        settled: settled score by monitor, target and time.
        events: those that are not outdated, with their peak.
        versions: of which models there are, and how large.
        lines: surprise at the line, and series-weeks of alarms counted, by monitor, mode and night.
    """

    points: dict[tuple[str, int], float]
    settled: dict[tuple[str, str, int], float]
    events: dict[tuple[str, str, str, int, int, str], float]
    versions: set[tuple[str, str, str, int, int]]
    lines: dict[tuple[str, str, int], tuple[float, float]]


def result(url: str) -> Result:
    with SqlStore(url) as store:
        names = {row.id: row.name for row in store.monitors()}
        targets = {t.id: t for i in names for t in store.targets(i)}
        keys = {t.id: (names[t.monitor_id], t.key) for t in targets.values()}
        return Result(
            _points(store),
            _settled(store, keys),
            _events(store, keys),
            _versions(store, keys),
            _lines(store, names),
        )


TOLERANCES = {"points": 0.0, "settled": 1e-5, "events": 1e-4, "lines": 1e-6}
"""How far numbers may lie apart, of what they are: batches of other sizes add up in another order."""


def differences(found: Result, expected: Result) -> dict[str, list[object]]:
    """Return what is not the same, by kind: what is missing, what is too many, and what has another value."""
    apart = {
        kind: _apart(getattr(found, kind), getattr(expected, kind), tolerance)
        for kind, tolerance in TOLERANCES.items()
    }
    apart["versions"] = sorted(found.versions ^ expected.versions)
    return {kind: keys for kind, keys in apart.items() if keys}


def _apart(found: Mapping[Any, Any], expected: Mapping[Any, Any], tolerance: float) -> list[object]:
    shared = sorted(found.keys() & expected.keys())
    ours, theirs = (
        np.array([side[key] for key in shared]).reshape(len(shared), -1) for side in (found, expected)
    )
    same = np.isclose(ours, theirs, rtol=tolerance, atol=1e-9).all(axis=1)
    return [
        *sorted(found.keys() ^ expected.keys()),
        *(key for key, is_same in zip(shared, same, strict=True) if not is_same),
    ]


Keys = dict[int, tuple[str, str]]


def _points(store: SqlStore) -> dict[tuple[str, int], float]:
    keys = {row.id: row.spec.key for row in store.series()}
    block = store.points(list(keys), 0, START + 99 * DAY)
    rows = zip(block.series.tolist(), block.ts.tolist(), block.value.tolist(), strict=True)
    return {(keys[series_id], ts): value for series_id, ts, value in rows}


def _settled(store: SqlStore, keys: Keys) -> dict[tuple[str, str, int], float]:
    block = store.scores(list(keys), 0, START + 99 * DAY)
    rows = zip(block.target.tolist(), block.ts.tolist(), block.settled.tolist(), strict=True)
    return {(*keys[target], ts): score for target, ts, score in rows if np.isfinite(score)}


def _events(store: SqlStore, keys: Keys) -> dict[tuple[str, str, str, int, int, str], float]:
    kept = [e for e in store.events(list(keys), 0, START + 99 * DAY) if e.status is not Status.OUTDATED]
    found = {
        (*keys[e.target_id], str(e.interval.kind), e.interval.start, e.interval.end, str(e.status)): (
            e.interval.peak_score
        )
        for e in kept
    }
    assert len(found) == len(kept), "an event is there twice"
    return found


def _versions(store: SqlStore, keys: Keys) -> set[tuple[str, str, str, int, int]]:
    versions = store.versions(list(keys))
    weights = store.weights(v.weights_id for v in versions)
    found = {(*keys[v.target_id], v.detector, v.train_stop, len(weights[v.weights_id])) for v in versions}
    assert len(found) == len(versions), "a version is there twice"
    return found


def _lines(store: SqlStore, names: dict[int, str]) -> dict[tuple[str, str, int], tuple[float, float]]:
    return {
        (name, str(row.mode), row.valid_from): (
            entry.line.surprise or 0.0,
            entry.counted.realised.weeks if entry.counted else 0.0,
        )
        for i, name in names.items()
        for row in store.lines(i)
        for entry in [LineEntry.from_json(row.body)]
    }


if __name__ == "__main__":
    main()
