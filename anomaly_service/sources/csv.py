"""CSV and Parquet files in a folder that is polled."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from anomaly_service.config.values import PathPatterns, Text, TextOrList, expected
from anomaly_service.errors import SourceError
from anomaly_service.sources import files
from anomaly_service.sources.base import BATCH_ROWS, SourceConfig
from anomaly_service.sources.columns import Collected, Layout, Rows, read_table
from anomaly_service.sources.csv_text import Parser, Rejected
from anomaly_service.sources.files import State
from anomaly_service.sources.reasons import Reason
from pipelines.records import Json
from pipelines.store import Ingest

BOM = b"\xef\xbb\xbf"


class CsvConfig(SourceConfig):
    """Files that are watched: long, with a metric column and labels, or one file per series."""

    path: PathPatterns = Field(
        description="File, folder or pattern such as `drop/*.csv`, or a list of them; CSV (also gzip) and "
        "Parquet, told apart by content. Relative to the config file."
    )
    timestamp: Text = Field(
        default="timestamp",
        description="Column of the time: ISO 8601, or epoch seconds, milli-, micro- or nanoseconds.",
    )
    timestamp_format: Text | None = Field(
        default=None, description='strptime format where it is neither, such as `"%d.%m.%Y %H:%M"`.'
    )
    value: TextOrList = Field(
        default=["value"],
        description="Column of the value. Of a list, each column is a metric named after it.",
        validate_default=True,
    )
    metric: Text | None = Field(default=None, description="Column that names the metric.")
    metric_name: Text | None = Field(
        default=None,
        description="The metric, where no column names it; where neither is given, the file's name "
        "without its ending.",
    )
    labels: list[Text] = Field(
        default_factory=list, description="Columns that become labels; empty ones are left out."
    )
    file_label: Text | None = Field(
        default=None, description="Label that takes the file's name without ending, for one file per series."
    )
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="What separates the columns.")

    @field_validator("metric_name")
    @classmethod
    def _one_metric(cls, value: str | None, info: Any) -> str | None:
        if value is not None and info.data.get("metric") is not None:
            raise expected("metric names the column already; keep one of metric and metric_name", shown=False)
        return value

    @property
    def reads_name(self) -> bool:
        """True where the file's name decides what its rows mean."""
        return self.file_label is not None or (
            self.metric is None and self.metric_name is None and len(self.value) == 1
        )

    def layout(self, path: Path) -> Layout:
        """Return which columns of a file hold what."""
        stem = files.stem(path)
        by_name = self.metric is None and self.metric_name is None and len(self.value) == 1
        return Layout(
            timestamp=self.timestamp,
            values=tuple(self.value),
            metric=self.metric,
            metric_name=self.metric_name or (stem if by_name else ""),
            labels=tuple(self.labels),
            fixed=((self.file_label, stem),) if self.file_label is not None else (),
            timestamp_format=self.timestamp_format,
        )

    def seed(self, path: Path) -> str:
        """Return everything besides its content that decides which points a file holds.

        Content read before under other settings, or under another name where the name counts, is new.
        """
        reading = self.model_dump(
            mode="json", include={"timestamp", "timestamp_format", "value", "metric", "metric_name", "labels",
                                  "file_label", "delimiter", "timezone"}
        )  # fmt: skip
        return json.dumps([reading, files.stem(path) if self.reads_name else ""], sort_keys=True)


@dataclass(frozen=True)
class Reached:
    """How far a file was read.

    Attributes:
        consumed: bytes, uncompressed, up to a line break; row groups of a Parquet file.
        digest: of those bytes (of the whole of a Parquet file), as hexadecimal digits.
        head: digest of the first of them; empty for Parquet.
        lines: line breaks (rows of a Parquet file) among them.
        before: UTC seconds of the last row among them, or None.
        tail: digest of what was taken beyond, and will be taken again when more follows: a last
            line without a line break, or an hour that the clock may run through twice.
        state: of the file, once everything in it was read.
    """

    consumed: int
    digest: str
    head: str = ""
    lines: int = 0
    before: int | None = None
    tail: str = ""
    state: list[int] | None = None

    def to_json(self) -> Json:
        return {name: getattr(self, name) for name in Reached.__dataclass_fields__}


@dataclass
class CsvSource:
    """Polls files; each is remembered by what was read of it, not by its name.

    A file whose beginning was read before, under whatever name, goes on where that ended; one
    that was rewritten is read again as a whole. A last line without a line break waits until it
    has one, or until nobody wrote to the file for a minute.
    """

    Config: ClassVar[type[SourceConfig]] = CsvConfig
    name: str
    config: CsvConfig
    batch_rows: int = BATCH_ROWS

    def read(self, progress: dict[str, Json], *, now: datetime) -> Iterator[Ingest]:
        """Yield batches over all files that hold something new.

        Raises:
            SourceError: files that could not be read, one line each; raised last.
        """
        poll = _Poll(self, progress)
        found = files.find(self.config.path)
        for i, path in enumerate(found):
            for _ in poll.file(path):
                if poll.batch.n_rows >= self.batch_rows:
                    yield poll.hand_over(i / len(found))
        if poll.batch.n_rows or poll.batch.progress:
            yield poll.hand_over(1.0)
        if poll.problems:
            raise SourceError("\n".join(poll.problems))


class _Poll:
    """One look at all files: what is known of them, and what was collected."""

    def __init__(self, source: CsvSource, progress: dict[str, Json]) -> None:
        self.source = source
        self.config = source.config
        self.progress = dict(progress)
        self.known = files.Known()
        self.reached: dict[str, Reached] = {}
        self.problems: list[str] = []
        self.batch = Collected(source.name, source.config)
        for record in progress.values():
            self.remember(Reached(**record))

    def hand_over(self, share: float) -> Ingest:
        """Return what was collected and begin a new batch."""
        batch, self.batch = self.batch, Collected(self.source.name, self.config)
        return batch.reading(share)

    def remember(self, reached: Reached) -> None:
        """Keep the record of a content; of equal ones that whose tail was taken."""
        if reached.tail or reached.digest not in self.reached:
            self.reached[reached.digest] = reached
        if reached.head:
            self.known.add(reached.consumed, reached.digest, reached.head)

    def note(self, path: Path, reached: Reached) -> None:
        """Put into the batch how far a file was read, where that is news."""
        record = reached.to_json()
        self.remember(reached)
        if self.progress.get(str(path)) != record:
            self.progress[str(path)] = record
            self.batch.progress[str(path)] = record

    def file(self, path: Path) -> Iterator[None]:
        """Collect what is new in a file; yields where the batch may be cut."""
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        if shown != str(path):
            self.problems.append(f"{shown}: the file's name is not UTF-8; rename it")
            return
        try:
            at, state = files.wall_clock(), State.of(path)
            if self.progress.get(str(path), {}).get("state") == state.to_json():
                return
            # Worth keeping only where a change after this moment must show in it.
            kept = state.to_json() if state.is_old(at, files.RACY_SECONDS) else None
            if files.is_parquet(path):
                yield from _Parquet(self, path, kept).read()
            else:
                yield from _Text(self, path, kept, state.is_old(at, files.SETTLED_SECONDS)).read()
        except FileNotFoundError:
            return  # gone since it was listed
        except SourceError as error:
            self.problems.append(str(error))
        except files.BROKEN as error:
            self.problems.append(f"{path}: {files.what_broke(error)}; what stands before that is read")
        except OSError as error:
            self.problems.append(f"{path}: cannot be read: {error.strerror}")


@dataclass
class _Text:
    """One CSV file, from where reading ended before."""

    poll: _Poll
    path: Path
    state: list[int] | None
    settled: bool

    def read(self) -> Iterator[None]:
        config = self.poll.config
        with files.open_bytes(self.path) as stream:
            header = stream.readline(files.LONGEST_LINE)
            if not header.endswith(b"\n"):
                return  # no row yet
            names = self._columns(header)
            self.parser = Parser(
                self.path, names, config.layout(self.path), config.timezone, config.delimiter
            )
            self.seed = config.seed(self.path)
            stream.seek(0)
            length, self.digest = self.poll.known.longest(stream, self.seed)
            if length:
                reached = replace(self.poll.reached[self.digest.hexdigest()], state=None)
            else:
                self.digest.update(header)
                reached = Reached(len(header), self.digest.hexdigest(), lines=1)
            stream.seek(0)
            self.first = stream.read(files.HEAD)
            stream.seek(reached.consumed)
            yield from self._rest(stream, reached)

    def _columns(self, header: bytes) -> list[str]:
        """Return the names of the columns, in order.

        Raises:
            SourceError: no UTF-8, or a column that the config names is missing.
        """
        try:
            text = header.removeprefix(BOM).decode("utf-8")
        except UnicodeDecodeError:
            raise SourceError(f"{self.path}: the header is not UTF-8; save the file as UTF-8 CSV") from None
        names = [name.strip() for name in next(csv.reader([text], delimiter=self.poll.config.delimiter), [])]
        _require(self.path, self.poll.config.layout(self.path).columns, names)
        return names

    def _rest(self, stream: files.Stream, reached: Reached) -> Iterator[None]:
        """Collect the rest of the file, block by block."""
        held = tail = b""
        for block in files.blocks(stream, self.path):
            if not block.endswith(b"\n"):
                tail = block
                break
            held += block
            rows, rejected = self.parser.parse(held, reached.lines, reached.before)
            if rows.open_fold and len(held) < files.LONGEST_LINE:
                continue  # what follows tells the two passes of this hour apart
            self._collect(rows, rejected)
            reached = self._advance(reached, held, rows)
            held = b""
            self.poll.note(self.path, reached)
            yield
        reached = self._take_tail(reached, held + tail if self.settled else held)
        whole = self.settled or not tail
        self.poll.note(self.path, replace(reached, state=self.state if whole else None))
        yield

    def _collect(self, rows: Rows, rejected: list[Rejected]) -> None:
        self.poll.batch.add(rows)
        self.poll.batch.reject(str(self.path), rejected)

    def _advance(self, reached: Reached, data: bytes, rows: Rows) -> Reached:
        """Return how far the file is read with these lines, which were collected."""
        self.digest.update(data)
        if len(self.first) < files.HEAD:
            self.first = (self.first[: reached.consumed] + data)[: files.HEAD]
        consumed = reached.consumed + len(data)
        return Reached(
            consumed=consumed,
            digest=self.digest.hexdigest(),
            head=files.digest_of(self.seed, self.first[:consumed]).hexdigest(),
            lines=reached.lines + data.count(b"\n"),
            before=reached.before if rows.last_at is None else rows.last_at,
        )

    def _take_tail(self, reached: Reached, data: bytes) -> Reached:
        """Collect lines that will be read again once more follows, unless they were already."""
        tail = files.digest_of(self.seed, data).hexdigest() if data else ""
        if data and tail != reached.tail:
            self._collect(*self.parser.parse(data, reached.lines, reached.before))
        return replace(reached, tail=tail)


@dataclass
class _Parquet:
    """One Parquet file, from the row group where reading ended before."""

    poll: _Poll
    path: Path
    state: list[int] | None

    def read(self) -> Iterator[None]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        reached = self._start()
        try:
            file = pq.ParquetFile(self.path)
        except pa.ArrowInvalid as error:
            raise SourceError(f"{self.path}: not a whole Parquet file: {error}") from None
        layout = self.poll.config.layout(self.path)
        with file:
            _require(self.path, layout.columns, file.schema_arrow.names)
            for group in range(reached.consumed, file.num_row_groups):
                try:
                    table = file.read_row_group(group, columns=layout.columns)
                    rows = read_table(table, layout, self.poll.config.timezone, before=reached.before)
                except pa.ArrowException as error:
                    raise SourceError(
                        f"{self.path}: a column is of no type that can be read: {error}"
                    ) from None
                self.poll.batch.add(rows)
                self.poll.batch.reject(str(self.path), _rejected(table, rows, reached.lines))
                reached = Reached(group + 1, reached.digest, "", reached.lines + table.num_rows, rows.last_at)
                self.poll.note(self.path, reached)
                yield
        self.poll.note(self.path, replace(reached, state=self.state))
        yield

    def _start(self) -> Reached:
        """Return how much of this content was read before."""
        digest = files.digest_of(self.poll.config.seed(self.path))
        with open(self.path, "rb") as stream:
            while chunk := stream.read(files.CHUNK):
                digest.update(chunk)
        found = self.poll.reached.get(digest.hexdigest(), Reached(0, digest.hexdigest()))
        return replace(found, state=None)


def _rejected(table: Any, rows: Rows, before: int) -> list[Rejected]:
    """Return the rows of a table that were set aside, as JSON of the columns that were read."""
    bad = table.take(rows.bad_rows).to_pylist()
    return [
        (before + int(row) + 1, Reason(reason), json.dumps(values, default=str, ensure_ascii=False))
        for row, reason, values in zip(rows.bad_rows, rows.bad_reasons, bad, strict=True)
    ]


def _require(path: Path, wanted: list[str], found: list[str]) -> None:
    missing = [name for name in wanted if name not in found]
    twice = [name for name in wanted if found.count(name) > 1]
    if missing or twice:
        what = f"no column {', '.join(missing)}" if missing else f"column {', '.join(twice)} comes twice"
        raise SourceError(
            f"{path}: {what}; expected {', '.join(wanted)}, found {', '.join(found) or 'nothing'}; "
            "correct the source's timestamp, value, metric and labels, or the file"
        )
