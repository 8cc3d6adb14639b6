"""Live ticks one after the other for a long time: memory and handles of the daemon stay what they are.

``make soak MINUTES=60 SERIES=5000 PAGE=docs/reliability.md`` sets how long and over how many series.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pipeline_harness
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reliability
from daemon_harness import Process, process
from databases import Databases
from patience import looking
from sqlalchemy import text
from storm import wanted

from anomaly_service.db.store import SqlStore
from pipelines.names import RunKind

pytestmark = pytest.mark.soak

DAY, STEP = 86400, 300
START = int(datetime(2024, 6, 3, tzinfo=UTC).timestamp())
BEGIN = START + 4 * DAY

CONFIG = """\
database: {database}
sources:
  telemetry: {{kind: csv, path: "{folder}/*", timestamp: ts, value: value, metric_name: load, labels: [host],
    step: 5min, delay: 0, timezone: UTC}}
monitors:
  load:
    series: {{metric: load}}
    detector: gaussian
    params: {{window: 12}}
    season: daily
    fit: {{every: 7d, window: 4d}}
    infer_every: 5min
    threshold: {{alarms_per_week: 50}}
nightly: {{at: "03:15", timezone: UTC, window: 1d}}
workers: 1
"""


@dataclass(frozen=True)
class Sample:
    """What the daemon and its workers took after one tick.

    Attributes:
        seconds: from the new points to their scores, fits at night included.
        mebibytes: memory that is theirs alone.
        handles: open files, sockets and pipes.
    """

    seconds: float
    mebibytes: float
    handles: int
    threads: int


class Fleet:
    """Hosts whose load is written to files, step by step."""

    def __init__(self, folder: Path, database: str, n_series: int) -> None:
        self.folder = folder
        self.hosts = [f"h{number:05d}" for number in range(n_series)]
        self.clock, self.config = folder / "clock", folder / "anomaly.yaml"
        self._levels = 1000.0 + 10.0 * np.arange(n_series)
        self._rng = np.random.default_rng(n_series)
        self.drop = folder / "drop"
        self.drop.mkdir(parents=True)
        self.config.write_text(CONFIG.format(database=database, folder=self.drop))

    def begin(self) -> None:
        """Write four days of history, and set the clock to their end."""
        ts = np.arange(START, BEGIN, STEP)
        with pq.ParquetWriter(self.drop / "history.parquet", _schema()) as writer:
            for first in range(0, len(self.hosts), 500):
                hosts = self.hosts[first : first + 500]
                values = self._values(
                    np.repeat(self._levels[first : first + 500], len(ts)), np.tile(ts, len(hosts))
                )
                rows = [np.tile(ts, len(hosts)), np.repeat(hosts, len(ts)), values]
                writer.write_table(pa.table(rows, schema=_schema()))
        self._set_clock(BEGIN)

    def advance(self, at: int) -> None:
        """Deliver the points of one step, then set the clock to it."""
        values = self._values(self._levels, np.full(len(self.hosts), at))
        path = self.drop / f"live-{at // 3600}.csv"
        with path.open("a") as file:
            file.write("" if file.tell() else "ts,host,value\n")
            file.writelines(f"{at},{h},{v:.0f}\n" for h, v in zip(self.hosts, values, strict=True))
        self._set_clock(at)

    def _values(self, level: np.ndarray, ts: np.ndarray) -> np.ndarray:
        day = 1 + 0.4 * np.sin(2 * np.pi * ts / DAY)
        return np.round(level * day * (1 + 0.03 * self._rng.standard_normal(len(level))))

    def _set_clock(self, at: int) -> None:
        moving = self.clock.with_suffix(".new")
        moving.write_text(str(at + 30))
        moving.rename(self.clock)


def _schema() -> pa.Schema:
    return pa.schema([("ts", pa.int64()), ("host", pa.string()), ("value", pa.float64())])


def _ticks_done(store: SqlStore, at: int) -> bool:
    query = text("SELECT count(*) FROM run WHERE kind = :kind AND state = 'done' AND scheduled_for >= :at")
    with store.engine.connect() as connection:
        return bool(connection.execute(query, {"kind": RunKind.TICK.value, "at": at}).scalar_one())


def moment(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def ticks(store: SqlStore, fleet: Fleet, daemon: Process, seconds: float) -> Iterator[Sample]:
    """Yield a sample after each tick, for so long."""
    deadline, at = time.monotonic() + seconds, BEGIN
    while time.monotonic() < deadline:
        at += STEP
        begun = time.monotonic()
        fleet.advance(at)
        for _ in looking(lambda at=at: f"the tick of {moment(at)}: {daemon.log.read_text()[-3000:]}"):  # type: ignore[misc]
            if _ticks_done(store, at):
                break
        yield sample(daemon, time.monotonic() - begun)


def sample(daemon: Process, seconds: float) -> Sample:
    own = psutil.Process(daemon.pid())
    family = [own, *own.children(recursive=True)]
    memory = sum(each.memory_full_info().uss for each in family) / 2**20
    return Sample(
        seconds, memory, sum(each.num_fds() for each in family), sum(each.num_threads() for each in family)
    )


@pytest.fixture(scope="module")
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    return Databases(request, tmp_path_factory.mktemp("databases"))


def test_memory_and_handles_stay_flat_over_very_many_ticks(databases: Databases, tmp_path: Path) -> None:
    n_series, minutes = wanted("SERIES", 500), wanted("MINUTES", 3)
    url = databases.fresh("postgresql")
    fleet = Fleet(tmp_path / "fleet", url, n_series)
    fleet.begin()
    command = [pipeline_harness.__file__, str(fleet.config), str(fleet.clock)]
    with process(command, tmp_path / "log") as daemon, SqlStore(url) as store:
        for _ in looking(lambda: f"the first fit: {daemon.log.read_text()[-3000:]}", pause_seconds=1):
            if _ticks_done(store, BEGIN):
                break
        samples = list(ticks(store, fleet, daemon, 60.0 * minutes))
    third = len(samples) // 3
    early, late = samples[third : 2 * third], samples[2 * third :]
    reliability.note_ticks(told(n_series, minutes, samples, early, late))
    assert median(late, "mebibytes") < 1.05 * median(early, "mebibytes") + 16
    assert median(late, "handles") <= median(early, "handles")
    assert median(late, "threads") <= median(early, "threads")


def median(samples: list[Sample], name: str) -> float:
    return float(np.median([getattr(each, name) for each in samples]))


def told(n_series: int, minutes: int, samples: list[Sample], early: list[Sample], late: list[Sample]) -> str:
    took = np.array([each.seconds for each in samples])
    rows = [
        f"| {name} | {median(early, field):,.0f} | {median(late, field):,.0f} |"
        for name, field in (
            ("memory of daemon and workers, MiB", "mebibytes"),
            ("open handles", "handles"),
            ("threads", "threads"),
        )
    ]
    return "\n".join(
        [
            f"{len(samples):,} ticks over {n_series:,} series in {minutes} minutes (`gaussian`, PostgreSQL, "
            f"one worker). From a point's delivery to its score: median {np.median(took):.1f} s, 95 % within "
            f"{np.quantile(took, 0.95):.1f} s, the longest {took.max():.1f} s.",
            "",
            "| median | second third | last third |",
            "|---|---|---|",
            *rows,
        ]
    )
