"""What every source owes, as checks that run over whatever it reads from: ``check_source``."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self

from anomaly_service.sources.base import Reading, ReadsAgain, Source
from anomaly_service.testing.contract import Check, Contract
from pipelines.records import Json
from pipelines.store import Ingest

CONTRACT = Contract("source")

NOW = datetime(2024, 6, 5, 12, tzinfo=UTC)
START = 1_717_200_000
STEP = 300
DELAY = 120
OVERLAP_ROWS = 24
"""Rows that a source may read again where it goes back an hour each time."""

Row = tuple[object, object, str, str]
"""Time in epoch seconds, value, metric, and the label ``realm``."""


class Origin(Protocol):
    """Where a source reads from: what a check needs to fill it. One is made for every check."""

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows behind those that are there; some values are none, to be set aside."""
        ...

    def correct(self, row: Row, value: float) -> None:
        """Give a row that was added another value, as whoever writes there would."""
        ...

    def source(self) -> Source:
        """Return a source that reads it: named ``telemetry``, step 5 min, delay 2 min, in UTC."""
        ...


def check_source(origin: Callable[[Path], Origin], on_check: Callable[[Check], None] | None = None) -> None:
    """Hold a source to everything that every source owes.

    Args:
        origin: makes something empty for it to read from, in a folder of its own.
        on_check: told before each check, such as ``print``.

    Raises:
        AssertionError: it breaks a promise; all that it breaks stand in the message.
    """
    with Held(origin) as held:
        CONTRACT.hold(held, on_check)


@dataclass(eq=False)
class Held:
    """What makes origins, each in a folder that is gone in the end."""

    make: Callable[[Path], Origin]
    _folders: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folders.close()

    def __str__(self) -> str:
        return getattr(self.make, "__name__", str(self.make))

    @property
    def origin(self) -> Origin:
        """A new one each time."""
        return self.make(Path(self._folders.enter_context(tempfile.TemporaryDirectory())))

    @property
    def origins(self) -> Iterator[Origin]:
        while True:
            yield self.origin


@dataclass
class Memory:
    """What a store keeps of batches."""

    points: dict[tuple[str, int], float] = field(default_factory=dict)
    progress: dict[str, Json] = field(default_factory=dict)
    rejects: list[str] = field(default_factory=list)

    def store(self, batch: Ingest) -> None:
        keys = [spec.key for spec in batch.series]
        block = batch.points
        for series, ts, value in zip(block.series, block.ts, block.value, strict=True):
            self.points[keys[series], int(ts)] = float(value)
        self.progress |= batch.progress
        assert isinstance(batch, Reading), f"expected batches to be of Reading, got {type(batch).__name__}"
        assert batch.rejected == len(batch.rejects)
        self.rejects += [f"{reject.reason}: {reject.raw}" for reject in batch.rejects]

    def take(self, source: Source, batches: int | None = None) -> int:
        """Store what a source yields, or only its first batches; return how many came."""
        count = 0
        for batch in source.read(self.progress, now=NOW):
            if count == batches:
                break
            self.store(batch)
            count += 1
        return count


def rows_of(n: int, first: int = 0) -> list[Row]:
    """Return rows of two series that take turns, one step after the other."""
    return [(START + i // 2 * STEP, float(i), "ccu", f"kr-{i % 2}") for i in range(first, first + n)]


def by_key(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    return {(f"{metric}{{realm={realm}}}", int(str(ts))): float(str(v)) for ts, v, metric, realm in rows}


def in_short_batches(source: Source) -> Source:
    """Return the source, made to yield a few rows at a time where it has a ``batch_rows``."""
    if hasattr(source, "batch_rows"):
        source.batch_rows = 4
    return source


def check_split(origin: Origin, instalments: Sequence[int], lost: Sequence[int]) -> None:
    """Hold a source to leaving the same points however rows come and whenever the process dies.

    Args:
        instalments: rows that are added before each look.
        lost: in each look, the process dies after so many batches were stored.
    """
    memory = Memory()
    first = 0
    deaths = iter(lost)
    for n in instalments:
        origin.add(rows_of(n, first))
        first += n
        memory.take(in_short_batches(origin.source()), batches=next(deaths, None))
    memory.take(in_short_batches(origin.source()))
    assert memory.points == by_key(rows_of(first))


@CONTRACT.promise()
def it_satisfies_the_protocol_and_keeps_its_name(origin: Origin) -> None:
    source = origin.source()
    assert isinstance(source, Source)
    assert source.name == "telemetry"


@CONTRACT.promise()
def every_row_becomes_a_point_of_its_series(origin: Origin) -> None:
    origin.add(rows_of(20))
    memory = Memory()
    memory.take(origin.source())
    assert memory.points == by_key(rows_of(20))
    assert memory.rejects == []


@CONTRACT.promise()
def series_are_declared_as_the_config_says(origin: Origin) -> None:
    origin.add(rows_of(2))
    (batch,) = origin.source().read({}, now=NOW)
    spec = batch.series[0]
    assert (spec.metric, spec.step_seconds, spec.delay_seconds) == ("ccu", 300, 120)
    assert (spec.timezone, spec.source, batch.source) == ("UTC", "telemetry", "telemetry")
    assert spec.labels["realm"].startswith("kr-")


@CONTRACT.promise()
def reading_again_with_nothing_new_changes_nothing(origin: Origin) -> None:
    origin.add([*rows_of(9), (START, "many", "ccu", "kr-1")])
    memory = Memory()
    memory.take(origin.source())
    points, rejects = dict(memory.points), list(memory.rejects)
    memory.take(origin.source())
    assert memory.points == points
    assert memory.rejects == rejects


@CONTRACT.promise()
def an_empty_one_yields_no_points(origin: Origin) -> None:
    memory = Memory()
    memory.take(origin.source())
    assert memory.points == {}


@CONTRACT.promise()
def bad_rows_are_set_aside_with_a_reason_and_the_rest_goes_in(origin: Origin) -> None:
    bad: list[Row] = [
        (START, "many", "ccu", "kr-1"),
        (START, "inf", "ccu", "kr-1"),
        (START, "", "ccu", "kr-1"),
        (START, 5, "", "kr-1"),
    ]
    good = rows_of(6)
    origin.add([bad[0], *good[:3], *bad[1:], *good[3:]])
    memory = Memory()
    memory.take(origin.source())
    assert memory.points == by_key(good)
    reasons = sorted(text.split(": ")[0] for text in memory.rejects)
    assert reasons == ["no metric", "no value", "value is infinite", "value is not a number"], reasons


@CONTRACT.promise()
def a_corrected_value_replaces_the_old_one(origin: Origin) -> None:
    origin.add(rows_of(6))
    memory = Memory()
    memory.take(origin.source())
    row = rows_of(6)[4]
    origin.correct(row, 99.0)
    memory.take(origin.source())
    assert memory.points == by_key(rows_of(6)) | by_key([(row[0], 99.0, *row[2:])])


@CONTRACT.promise()
def a_row_that_comes_within_the_delay_is_taken(origin: Origin) -> None:
    origin.add(rows_of(20))
    memory = Memory()
    memory.take(origin.source())
    late: Row = (START + 9 * STEP - DELAY, 7.0, "ccu", "kr-9")
    origin.add([late])
    memory.take(origin.source())
    assert memory.points == by_key([*rows_of(20), late])


@CONTRACT.promise()
def what_is_read_again_is_all_that_lies_behind_a_time(origin: Origin) -> None:
    source = origin.source()
    if not isinstance(source, ReadsAgain):
        return  # it reads all it has where it is given no progress
    rows = rows_of(2 * OVERLAP_ROWS)
    origin.add(rows)
    memory, again = Memory(), Memory()
    memory.take(source)
    since = START + 3 * STEP
    again.progress = dict(memory.progress)
    for batch in source.read_again(memory.progress, now=NOW, since=datetime.fromtimestamp(since, UTC)):
        again.store(batch)
    assert again.points == by_key([row for row in rows if int(str(row[0])) >= since])
    origin.add(rows_of(4, len(rows)))
    again.take(origin.source())
    assert by_key(rows_of(4, len(rows))).items() <= again.points.items()


@CONTRACT.promise()
def any_split_and_any_crash_between_batches_leaves_the_same(origins: Iterator[Origin]) -> None:
    rng = random.Random(0)
    for _ in range(10):
        instalments = [rng.randint(0, 9) for _ in range(rng.randint(1, 6))]
        check_split(next(origins), instalments, [rng.randint(0, 3) for _ in instalments])


@CONTRACT.promise()
def progress_moves_with_every_batch(origin: Origin) -> None:
    origin.add(rows_of(40))
    memory = Memory()
    source = in_short_batches(origin.source())
    taken = memory.take(source, batches=3)
    if taken < 3:
        return  # one batch holds all there is: nothing lies between two
    before = len(memory.points)
    assert 0 < before < 40
    rest = in_short_batches(origin.source()).read(memory.progress, now=NOW)
    assert sum(len(batch.points) for batch in rest) <= 40 - before + OVERLAP_ROWS
