"""Sources into the store: batch by batch, and what could not be read into the rejects files."""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly_service.db.lease import LEASE_SECONDS, Lease
from anomaly_service.db.runs import COMMAND
from anomaly_service.errors import DatabaseError, SourceError, UnknownSourceError
from anomaly_service.printable import printable
from anomaly_service.secrets import hidden
from anomaly_service.sources import door, files
from anomaly_service.sources.again import NOTHING, Again, own
from anomaly_service.sources.base import Reading, Reject, Source, unbroken
from anomaly_service.sources.door import FUTURE_SECONDS
from pipelines.errors import BusySourceError, LostClaimError, UnstorableError
from pipelines.failures import reason
from pipelines.names import RunState
from pipelines.records import Claim, Json, PointBlock
from pipelines.store import Ingest, Ingested, Store
from pipelines.times import minute

if TYPE_CHECKING:
    from anomaly_service.config.sections import Config

Progress = Callable[[str, float], None]

ASK_AGAIN_SECONDS = 0.2
"""Between two looks whether somebody who reads the same source has ended."""

ROTATE_BYTES = 64 << 20
"""A rejects file of 64 MiB is put aside as ``.1``, those before as ``.2`` and so on."""

KEPT_REJECTS = 5
"""So many rejects files of a source are kept beside the one that is written; the oldest goes."""

COUNTS = ("new", "changed", "unchanged", "rejected")

MOST_NOTES = 20
"""Sentences kept of one read."""


@dataclass
class SourceOutcome:
    """What one look at a source brought.

    Attributes:
        new, changed, unchanged: points by what storing them did.
        rejected: rows set aside.
        held: points that wait until their time comes.
        rejects_file: where the rows set aside are listed; empty where there were none.
        notes: what was not read or not listed, and why, where that is no error of the read.
        error: why part of the source could not be read, one line each; empty where all could.
    """

    source: str
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    rejected: int = 0
    held: int = 0
    rejects_file: str = ""
    notes: list[str] = field(default_factory=list)
    error: str = ""

    def note(self, sentences: Sequence[str]) -> None:
        """Keep what is said, each once and not without end."""
        for sentence in map(printable, sentences):
            if sentence not in self.notes and len(self.notes) <= MOST_NOTES:
                more = len(self.notes) == MOST_NOTES
                self.notes.append("and more of the kind; the rejects file lists them" if more else sentence)


def ingest_from(
    config: Config,
    store: Store,
    now: datetime,
    on_progress: Progress = lambda stage, share: None,
    only: Sequence[str] | None = None,
    since: datetime | None = None,
) -> list[Json]:
    """Read the sources of a config, as :func:`ingest` does.

    Args:
        only: names of those that are read; all where None.
        since: read what lies behind this time once more, though it was read before.

    Raises:
        UnknownSourceError: the config declares no source of a name.
    """
    for name in only or ():
        if name not in config.sources:
            raise UnknownSourceError(
                f"no source named {name!r}; the config declares {', '.join(config.sources) or 'none'}"
            )
    wanted = [source for source in config.build_sources() if only is None or source.name in only]
    done = ingest(
        store,
        wanted,
        now,
        on_progress,
        rejects=config.rejects_folder,
        again=Again(config.nightly.plan(), since),
        tolerance_seconds=config.future_tolerance.total_seconds(),
    )
    store.note_look(now, config.sources)
    return done


def ingest(
    store: Store,
    sources: Sequence[Source],
    now: datetime,
    on_progress: Progress = lambda stage, share: None,
    *,
    rejects: Path | None = None,
    again: Again = NOTHING,
    patience_seconds: float = LEASE_SECONDS,
    tolerance_seconds: float = FUTURE_SECONDS,
) -> list[Json]:
    """Store everything new of every source, one after the other; one that fails keeps nobody from it.

    Each read is a run of its own, so that a daemon never reads the same source meanwhile.

    Args:
        now: the current time, aware.
        on_progress: called after every batch with ``ingest`` and the share that is done.
        rejects: folder of the rejects files; None writes none.
        again: what is read once more besides what is new.
        patience_seconds: how long to wait for somebody who reads the same source.
        tolerance_seconds: points further beyond now are held back until their time comes.

    Returns:
        The fields of ``SourceOutcome`` for every source, in order.

    Raises:
        DatabaseError: from the store; the batch it happened in is read again next time.
        LostClaimError: this process was frozen for so long that another may read the source by now.
    """
    outcomes = []
    for i, source in enumerate(sources):

        def on_share(share: float, done: int = i) -> None:
            on_progress("ingest", (done + share) / len(sources))

        try:
            claim = _begun(store, source.name, now, patience_seconds)
        except BusySourceError as error:
            outcomes.append(SourceOutcome(source.name, error=str(error)))
        else:
            done = _run(store, source, now, claim, rejects, again, on_share, tolerance_seconds)
            outcomes.append(done)
    on_progress("ingest", 1.0)
    return [asdict(outcome) for outcome in outcomes]


def _begun(store: Store, source: str, now: datetime, patience_seconds: float) -> Claim:
    """Begin a read, once whoever reads the source has ended."""
    owner = f"{COMMAND}:{platform.node()}:{os.getpid()}"
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return store.begin_read(source, now, owner, LEASE_SECONDS)
        except BusySourceError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(ASK_AGAIN_SECONDS)


def _run(
    store: Store,
    source: Source,
    now: datetime,
    claim: Claim,
    rejects: Path | None,
    again: Again,
    on_share: Callable[[float], None],
    tolerance_seconds: float,
) -> SourceOutcome:
    """Read a source under a claim and say in its run what became of it."""
    try:
        with Lease(store, claim):
            outcome = read(
                store,
                source,
                now,
                claim=claim,
                rejects=rejects,
                again=again,
                on_share=on_share,
                tolerance_seconds=tolerance_seconds,
            )
    except BaseException as error:
        # Where it is the database that is away, or somebody else has the run, there is no place to note it.
        with suppress(DatabaseError, LostClaimError):
            store.finish(claim, RunState.FAILED, {}, reason(error))
        raise
    store.finish(claim, RunState.FAILED if outcome.error else RunState.DONE, asdict(outcome), outcome.error)
    return outcome


def read(
    store: Store,
    source: Source,
    now: datetime,
    *,
    claim: Claim | None = None,
    rejects: Path | None = None,
    again: Again = NOTHING,
    should_stop: Callable[[], bool] = lambda: False,
    on_share: Callable[[float], None] = lambda share: None,
    tolerance_seconds: float = FUTURE_SECONDS,
) -> SourceOutcome:
    """Store everything new of one source, batch by batch, and what was held back until now.

    Args:
        tolerance_seconds: points further beyond now are held back until their time comes.
        claim: checked by every batch.
        again: what is read once more behind what is new.
        should_stop: asked between two batches; what is stored stands, the rest comes next time.
        on_share: called after every batch with the share that is done.

    Raises:
        LostClaimError: another may read the source by now; the batch was not stored.
    """
    outcome = SourceOutcome(source.name)
    clocks = door.Clocks.of(now.timestamp(), store.clock(), tolerance_seconds)
    outcome.new = store.release(source.name, clocks.taken, claim).new
    known = {row.spec.key: row for row in store.series(source.name)}

    def take(batches: Iterator[Ingest]) -> Iterator[str]:
        """Store batches until told to stop; yield why they ended early."""
        try:
            for batch in batches:
                _store(store, door.admit(batch, clocks, known), outcome, now, claim, rejects)
                on_share(batch.share if isinstance(batch, Reading) else 0.0)
                if should_stop():
                    return
        except SourceError as error:
            yield hidden(printable(str(error), breaks=True))

    errors = [*take(unbroken(source.name, source.read(own(store.progress(source.name)), now=now)))]
    if not should_stop():
        errors += take(again.batches(store, source, now))
    outcome.error = "\n".join(dict.fromkeys(errors))
    outcome.note([*again.lagging(store, source)])
    _tell_held(store, source.name, outcome)
    return outcome


def _store(
    store: Store,
    batch: Ingest,
    outcome: SourceOutcome,
    now: datetime,
    claim: Claim | None,
    rejects: Path | None,
) -> None:
    """Store a batch, and note what it brought."""
    if isinstance(batch, Reading):
        outcome.note(batch.notes)
        # Before the batch is stored: a crash in between lists a row twice rather than never.
        _list_rejects(batch, outcome, now, rejects)
    if not (len(batch.points) or len(batch.held) or batch.progress or batch.rejected):
        return
    done = _stored(store, batch, claim, outcome)
    outcome.new += done.new
    outcome.changed += done.changed
    outcome.unchanged += done.unchanged
    outcome.rejected += done.rejected


def _stored(store: Store, batch: Ingest, claim: Claim | None, outcome: SourceOutcome) -> Ingested:
    """Store a batch; of one that the database refuses, all series but those that it refuses by themselves."""
    try:
        return store.ingest(batch, claim)
    except UnstorableError as error:
        if len(batch.series) > 1:
            left, right = _halves(batch)
            one, other = (_stored(store, half, claim, outcome) for half in (left, right))
            counts = {name: getattr(one, name) + getattr(other, name) for name in COUNTS}
            return replace(one, **counts, earliest=one.earliest | other.earliest)
        if not batch.series:
            raise
        outcome.note([f"series {batch.series[0].key}: not stored: {error}"])
        refused = len(batch.points) + len(batch.held)
        empty = PointBlock.empty()
        rest = replace(batch, series=(), points=empty, held=empty, rejected=batch.rejected + refused)
        return store.ingest(rest, claim)


def _halves(batch: Ingest) -> tuple[Ingest, Ingest]:
    """Return the batch as two, by series; what else there is to store goes with the second."""
    middle = len(batch.series) // 2

    def part(points: PointBlock, start: int, stop: int) -> PointBlock:
        rows = (points.series >= start) & (points.series < stop)
        return PointBlock(points.series[rows] - start, points.ts[rows], points.value[rows])

    def half(start: int, stop: int) -> Ingest:
        return replace(
            batch,
            series=batch.series[start:stop],
            points=part(batch.points, start, stop),
            held=part(batch.held, start, stop),
        )

    return replace(half(0, middle), progress={}, rejected=0), half(middle, len(batch.series))


def _list_rejects(batch: Reading, outcome: SourceOutcome, now: datetime, folder: Path | None) -> None:
    """List the rows that were set aside; where that cannot be done, say so and which came first."""
    if not batch.rejects or folder is None:
        return
    try:
        outcome.rejects_file = str(write_rejects(folder, batch.source, batch.rejects, now))
    except OSError as error:
        first = batch.rejects[0]
        outcome.note(
            [
                f"the rejects file cannot be written: {error.strerror or error}; make {folder} a folder that "
                f"can be written to, with room left; {len(batch.rejects)} rows are listed nowhere, the first "
                f"in {first.origin}, line {first.line}: {first.reason}"
            ]
        )


def _tell_held(store: Store, source: str, outcome: SourceOutcome) -> None:
    outcome.held, first = store.held(source)
    if first is not None:
        outcome.note(
            [
                f"{outcome.held} points lie in the future, the first at {minute(first)} UTC; each is taken "
                "in once its time comes"
            ]
        )


def write_rejects(folder: Path, source: str, rows: Sequence[Reject], now: datetime) -> Path:
    """Append rows to ``<source>.rejects.csv``: when, file, line, reason, raw text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_file_name(source)}.rejects.csv"
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        _rotate(path)
    at = now.astimezone(UTC).isoformat(timespec="seconds")
    with files.open_to_append(path) as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(["at", "file", "line", "reason", "raw"])
        for row in rows:
            writer.writerow([at, printable(row.origin), row.line, printable(row.reason), printable(row.raw)])
    return path


def _rotate(path: Path) -> None:
    """Put a file aside as number 1, and every one that was put aside before a number further."""
    for number in range(KEPT_REJECTS - 1, 0, -1):
        older = path.with_suffix(f".csv.{number}")
        if older.exists():
            older.replace(path.with_suffix(f".csv.{number + 1}"))
    path.replace(path.with_suffix(".csv.1"))


def _file_name(source: str) -> str:
    """Return a source's name with nothing in it that a path could trip over."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in source).lstrip(".") or "source"
