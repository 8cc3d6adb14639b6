"""Sources into the store: batch by batch, and what could not be read into the rejects files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from anomaly_service.errors import SourceError
from anomaly_service.sources.base import Reading, Reject, Source
from pipelines.records import Json
from pipelines.store import Ingest, PointStore

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
    """

    source: str
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    rejected: int = 0
    rejects_file: str = ""
    error: str = ""


def ingest(
    store: PointStore,
    sources: Sequence[Source],
    now: datetime,
    on_progress: Callable[[str, float], None] = lambda stage, share: None,
    *,
    rejects: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Json]:
    """Store everything new of every source; one that fails does not keep the others from it.

    Args:
        now: the current time, aware.
        on_progress: called after every batch with ``ingest`` and the share that is done.
        rejects: folder of the rejects files; None writes none.
        should_stop: asked between two batches; what is stored stands, the rest comes next time.

    Returns:
        The fields of ``SourceOutcome`` for every source, in order.

    Raises:
        DatabaseError: from the store; the batch it happened in is read again next time.
    """
    outcomes = []
    for i, source in enumerate(sources):
        outcome = SourceOutcome(source.name)
        for share in _batches(store, source, now, outcome, rejects):
            on_progress("ingest", (i + share) / len(sources))
            if should_stop():
                break
        outcomes.append(asdict(outcome))
        if should_stop():
            break
    on_progress("ingest", 1.0)
    return outcomes


def _batches(
    store: PointStore, source: Source, now: datetime, outcome: SourceOutcome, rejects: Path | None
) -> Iterator[float]:
    """Store batch by batch; yields the share of the source that is done."""
    try:
        for batch in source.read(store.progress(source.name), now=now):
            _store(store, batch, outcome, now, rejects)
            yield batch.share if isinstance(batch, Reading) else 0.0
    except SourceError as error:
        outcome.error = str(error)


def _store(
    store: PointStore, batch: Ingest, outcome: SourceOutcome, now: datetime, rejects: Path | None
) -> None:
    """Store a batch, and note what it brought."""
    if isinstance(batch, Reading) and batch.rejects and rejects is not None:
        # Before the batch is stored: a crash in between lists a row twice rather than never.
        outcome.rejects_file = str(write_rejects(rejects, batch.source, batch.rejects, now))
    done = store.ingest(batch)
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
