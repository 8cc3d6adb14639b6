"""Sources into the store: batch by batch, and what could not be read into the rejects files."""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly_service.db.lease import LEASE_SECONDS, Lease
from anomaly_service.db.runs import COMMAND
from anomaly_service.errors import DatabaseError, SourceError, UnknownSourceError
from anomaly_service.secrets import hidden
from anomaly_service.sources.again import NOTHING, Again, own
from anomaly_service.sources.base import Reading, Reject, Source
from pipelines.errors import BusySourceError, LostClaimError
from pipelines.failures import reason
from pipelines.names import RunState
from pipelines.records import Claim, Json
from pipelines.store import Ingest, Store

if TYPE_CHECKING:
    from anomaly_service.config.sections import Config

Progress = Callable[[str, float], None]

ASK_AGAIN_SECONDS = 0.2
"""Between two looks whether somebody who reads the same source has ended."""

ROTATE_BYTES = 64 << 20
"""A rejects file of 64 MiB is put aside as ``.old``, in place of the one before."""


@dataclass
class SourceOutcome:
    """What one look at a source brought.

    Attributes:
        new, changed, unchanged: points by what storing them did.
        rejected: rows set aside.
        rejects_file: where the rows set aside are listed; empty where there were none.
        error: why part of the source could not be read, one line each; empty where all could.
        lagging: which series end so far back that late rows of theirs are not looked for; empty for none.
    """

    source: str
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejects_file: str = ""
    error: str = ""
    lagging: str = ""


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
    again = Again(config.nightly.plan(), since)
    done = ingest(store, wanted, now, on_progress, rejects=config.rejects_folder, again=again)
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
) -> list[Json]:
    """Store everything new of every source, one after the other; one that fails keeps nobody from it.

    Each read is a run of its own, so that a daemon never reads the same source meanwhile.

    Args:
        now: the current time, aware.
        on_progress: called after every batch with ``ingest`` and the share that is done.
        rejects: folder of the rejects files; None writes none.
        again: what is read once more besides what is new.
        patience_seconds: how long to wait for somebody who reads the same source.

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
            outcomes.append(_run(store, source, now, claim, rejects, again, on_share))
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
) -> SourceOutcome:
    """Read a source under a claim and say in its run what became of it."""
    try:
        with Lease(store, claim):
            outcome = read(store, source, now, claim=claim, rejects=rejects, again=again, on_share=on_share)
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
) -> SourceOutcome:
    """Store everything new of one source, batch by batch.

    Args:
        claim: checked by every batch.
        again: what is read once more behind what is new.
        should_stop: asked between two batches; what is stored stands, the rest comes next time.
        on_share: called after every batch with the share that is done.

    Raises:
        LostClaimError: another may read the source by now; the batch was not stored.
    """
    outcome = SourceOutcome(source.name)

    def take(batches: Iterator[Ingest]) -> Iterator[str]:
        """Store batches until told to stop; yield why they ended early."""
        try:
            for batch in batches:
                _store(store, batch, outcome, now, claim, rejects)
                on_share(batch.share if isinstance(batch, Reading) else 0.0)
                if should_stop():
                    return
        except SourceError as error:
            yield hidden(str(error))

    errors = [*take(source.read(own(store.progress(source.name)), now=now))]
    if not should_stop():
        errors += take(again.batches(store, source, now))
    outcome.error = "\n".join(dict.fromkeys(errors))
    outcome.lagging = again.lagging(store, source)
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
    if isinstance(batch, Reading) and batch.rejects and rejects is not None:
        # Before the batch is stored: a crash in between lists a row twice rather than never.
        outcome.rejects_file = str(write_rejects(rejects, batch.source, batch.rejects, now))
    done = store.ingest(batch, claim)
    outcome.new += done.new
    outcome.changed += done.changed
    outcome.unchanged += done.unchanged
    outcome.rejected += done.rejected


def write_rejects(folder: Path, source: str, rows: Sequence[Reject], now: datetime) -> Path:
    """Append rows to ``<source>.rejects.csv``: when, file, line, reason, raw text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_file_name(source)}.rejects.csv"
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        path.replace(path.with_suffix(".csv.old"))
    is_new = not path.exists()
    at = now.astimezone(UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(["at", "file", "line", "reason", "raw"])
        writer.writerows([at, row.origin, row.line, row.reason, row.raw] for row in rows)
    return path


def _file_name(source: str) -> str:
    """Return a source's name with nothing in it that a path could trip over."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in source).lstrip(".") or "source"
