"""CSV and Parquet files in a folder that is polled."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeGuard

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator

from anomaly_service.config.values import (
    PathPatterns,
    Text,
    TextOrList,
    TextsOrNone,
    as_list,
    expected,
    text_or_list,
)
from anomaly_service.errors import SourceError
from anomaly_service.printable import printable
from anomaly_service.sources import containers, files
from anomaly_service.sources.aggregate import Aggregate, aggregated
from anomaly_service.sources.base import BATCH_ROWS, SourceConfig
from anomaly_service.sources.columns import RAW_LENGTH, Collected, Layout, Rows, read_table
from anomaly_service.sources.csv_text import Parser, Rejected, cells
from anomaly_service.sources.files import Kind, State
from anomaly_service.sources.forms import FORMS
from anomaly_service.sources.numbers import Form
from anomaly_service.sources.reasons import Reason
from pipelines.failures import reason
from pipelines.records import Json
from pipelines.store import Ingest

BOM = b"\xef\xbb\xbf"


UnitOrList = Annotated[
    list[str], BeforeValidator(as_list), WithJsonSchema(text_or_list("one unit, or one per value column"))
]


class CsvConfig(SourceConfig):
    """Files that are watched: long, with a metric column and labels, or one file per series."""

    path: PathPatterns = Field(
        description="File, folder or pattern such as `drop/*.csv`, or a list of them; CSV, JSON lines "
        "(also in gzip or zip), Excel and Parquet, told apart by content. Relative to the config file."
    )
    timestamp: TextOrList = Field(
        default=["timestamp"],
        description="Column of the time: ISO 8601, or epoch seconds, milli-, micro- or nanoseconds. Of a "
        "list, such as `[date, hour]` or `[year, month, day]`, the texts are joined by spaces.",
        validate_default=True,
    )
    timestamp_format: Text | None = Field(
        default=None,
        description="Form of the time where it is neither: a strptime format such as "
        f'`"%d.%m.%Y %H:%M"`, or one of {", ".join(f"`{name}`" for name in FORMS)}.',
    )
    value: TextsOrNone = Field(
        default=["value"],
        description="Column of the value. Of a list, each column is a metric named after it; of an empty "
        "one, rows are events, to be counted by `aggregate`.",
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
    decimal: Literal[".", ","] = Field(default=".", description="What stands before the decimals of a value.")
    thousands: Literal["", ".", ",", " ", "'"] = Field(
        default="", description="What stands between groups of digits of a value; a space is any kind of one."
    )
    unit: UnitOrList = Field(
        default_factory=list,
        description="What stands before or behind every value, such as `%`, `°C` or `$`, and is left out; of "
        "a list, one per value column. Rows with another unit are set aside.",
        validate_default=True,
    )

    skip_lines: int = Field(default=0, ge=0, description="Lines before the header.")
    comment: Text | None = Field(
        default=None, description="What lines before the header begin with that are none, such as `#`."
    )
    encoding: Text | None = Field(
        default=None,
        description="Of the text, such as `cp1252`; UTF-8, or UTF-16 that says so, where not given.",
    )
    sheet: Text | None = Field(default=None, description="Sheet of Excel files; the first where not given.")

    aggregate: Aggregate | None = Field(
        default=None,
        description="Where rows are events, several a moment: what is made of those of a bucket, such as "
        "`{every: 5min, by: count}`. All files are read again whenever one changes.",
        validate_default=True,
    )

    @field_validator("metric_name")
    @classmethod
    def _one_metric(cls, value: str | None, info: Any) -> str | None:
        if value is not None and info.data.get("metric") is not None:
            raise expected("metric names the column already; keep one of metric and metric_name", shown=False)
        return value

    @field_validator("timestamp_format")
    @classmethod
    def _known_form(cls, value: str | None) -> str | None:
        if value is not None and "%" not in value and value not in FORMS:
            raise expected(f"a strptime format such as %d.%m.%Y %H:%M, or one of {', '.join(FORMS)}")
        return value

    @field_validator("thousands")
    @classmethod
    def _two_marks(cls, value: str, info: Any) -> str:
        if value == info.data.get("decimal"):
            raise expected("decimal is the same mark; name another one for thousands")
        return value

    @field_validator("aggregate")
    @classmethod
    def _counts_what_has_no_value(cls, value: Aggregate | None, info: Any) -> Aggregate | None:
        if not info.data.get("value", [""]) and (value is None or value.by != "count"):
            raise expected("value names no column, so rows can only be counted; expected `by: count`")
        return value

    @field_validator("unit")
    @classmethod
    def _a_unit_each(cls, value: list[str], info: Any) -> list[str]:
        if len(value) > 1 and len(value) != len(info.data.get("value", value)):
            raise expected("one unit, or as many as there are value columns")
        return value

    @property
    def forms(self) -> tuple[Form, ...]:
        """Return how the numbers of each value column are written."""
        units = self.unit if len(self.unit) > 1 else (self.unit or [""]) * len(self.value)
        return tuple(Form(self.decimal, self.thousands, unit) for unit in units)

    @property
    def reading(self) -> containers.Reading:
        """Return how the text of the files is come by."""
        return containers.Reading(self.skip_lines, self.comment, self.encoding, self.sheet)

    @property
    def reads_name(self) -> bool:
        """True where the file's name decides what its rows mean."""
        return self.file_label is not None or self._is_named_by_file

    @property
    def _is_named_by_file(self) -> bool:
        return self.metric is None and self.metric_name is None and len(self.value) <= 1

    def layout(self, path: Path) -> Layout:
        """Return which columns of a file hold what."""
        stem = files.stem(path)
        return Layout(
            timestamp=self.timestamp[0],
            more_times=tuple(self.timestamp[1:]),
            values=tuple(self.value),
            metric=self.metric,
            metric_name=self.metric_name or (stem if self._is_named_by_file else ""),
            labels=tuple(self.labels),
            fixed=((self.file_label, stem),) if self.file_label is not None else (),
            timestamp_format=self.timestamp_format,
            forms=self.forms,
        )

    def seed(self, path: Path) -> str:
        """Return everything besides its content that decides which points a file holds.

        Content read before under other settings, or under another name where the name counts, is new.
        """
        reading = self.model_dump(
            mode="json", include={"timestamp", "timestamp_format", "value", "metric", "metric_name", "labels",
                                  "file_label", "delimiter", "timezone"}
        )  # fmt: skip
        # A single column as it was before several could be named: what was read then stays known.
        reading["timestamp"] = self.timestamp if len(self.timestamp) > 1 else self.timestamp[0]
        # Only where they are set: content read before these keys existed stays known.
        reading |= self.model_dump(
            mode="json", include={"decimal", "thousands", "unit"}, exclude_defaults=True
        )
        reading |= self.reading.keys()
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
        link: the last whole link of the digest; where the file only grew, reading goes on from there.
        inode: of the file that the link is of.
        checked: wall-clock epoch seconds of when the whole beginning was last compared.
        failed: what keeps the rest from being read; empty where nothing does.
        failures: in how many looks that was so, while the file stayed as it is in ``failed_as``.
        is_set_aside: it is not tried again before it changes.
    """

    consumed: int
    digest: str
    head: str = ""
    lines: int = 0
    before: int | None = None
    tail: str = ""
    state: list[int] | None = None
    link: str = ""
    inode: int = 0
    checked: int = 0
    failed: str = ""
    failures: int = 0
    failed_as: str = ""
    is_set_aside: bool = False

    def to_json(self) -> Json:
        return {name: getattr(self, name) for name in Reached.__dataclass_fields__}

    def sound(self) -> Reached:
        """Return the same of a file that nothing is wrong with, and that may hold more."""
        return replace(self, state=None, failed="", failures=0, failed_as="", is_set_aside=False)


NOTHING = Reached(0, "")

AGGREGATED = "aggregated"
"""Key of the record of when the bucket ends that was left out as it went on; no file is named so."""


def _failures(progress: dict[str, Json]) -> dict[str, Json]:
    """Return what keeps files from being read, and nothing of what was read of them."""
    kept = ("failed", "failures", "failed_as", "is_set_aside")
    return {
        key: replace(NOTHING, **{name: record[name] for name in kept}).to_json()
        for key, record in progress.items()
        if record.get("failed")
    }


TRIES = 3
"""So many looks at a file that cannot be read are errors of the read, as many as a run has attempts; then it
is set aside until it, or how it is read, changes."""

HELD_BYTES = 1 << 26
"""Bytes, 64 MiB: no hour that the clock runs through twice is longer."""

PIECE_ROWS = 1 << 18
"""Rows of a Parquet file that are in memory at once."""

RECHECK_SECONDS = 3600
"""How long a file is trusted to have done nothing but grow: then its beginning is compared as a whole."""


def _newest(record: Json) -> float:
    """Return up to when a file may hold rows, epoch seconds: by its last row and the time it was written."""
    state = record.get("state")
    known = [record.get("before"), state[1] / 1e9 if state else None]
    return max((at for at in known if at is not None), default=math.inf)


@dataclass
class CsvSource:
    """Polls files; each is remembered by what was read of it, not by its name.

    A file whose beginning was read before, under whatever name, goes on where that ended; one
    that was rewritten is read again as a whole. A last line without a line break waits until it
    has one, or until nobody wrote to the file for a minute. Whatever is wrong with a file harms
    that file alone.
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
        if self.config.aggregate is not None:
            yield from self._aggregated(self.config.aggregate, progress, now)
            return
        found = files.find(self.config.path)
        poll = _Poll(self, progress, found)
        for i, path in enumerate(found.paths):
            for _ in poll.file(path):
                if poll.batch.n_rows >= self.batch_rows:
                    yield poll.hand_over(i / len(found.paths))
        if poll.batch.n_rows or poll.batch.progress or poll.batch.notes:
            yield poll.hand_over(1.0)
        if poll.problems:
            raise SourceError("\n".join(poll.problems))

    def _aggregated(self, how: Aggregate, progress: dict[str, Json], now: datetime) -> Iterator[Ingest]:
        """Yield the buckets of all events as one batch, where a file changed since the last look.

        A bucket may have events in several files, and some may come late: so all are read again, and a
        bucket is stored again as it is by now.
        """
        if self._is_unchanged(progress, now):
            return
        plain = CsvSource(self.name, self.config.model_copy(update={"aggregate": None}), self.batch_rows)
        batches: list[Ingest] = []
        problem: SourceError | None = None
        try:
            batches.extend(plain.read(_failures(progress), now=now))
        except SourceError as error:
            problem = error
        reading = aggregated(batches, how, now.timestamp())
        if reading is not None:
            last = max((int(batch.points.ts.max()) for batch in batches if len(batch.points)), default=0)
            stop = (last // how.every_seconds + 1) * how.every_seconds
            open_until = stop if stop > now.timestamp() else 0
            yield replace(reading, progress=reading.progress | {AGGREGATED: {"open_until": open_until}})
        if problem is not None:
            raise problem

    def _is_unchanged(self, progress: dict[str, Json], now: datetime) -> bool:
        """Return whether every file is as it was, and no bucket ended that was left out as it went on."""
        states = {}
        for path in files.find(self.config.path).paths:
            with contextlib.suppress(OSError):
                states[str(path)] = State.of(path).to_json()
        known = {name: progress.get(name, {}).get("state") for name in states}
        open_until = progress.get(AGGREGATED, {}).get("open_until", 0)
        return states == known and not 0 < open_until <= now.timestamp()

    def outlived(self, progress: dict[str, Json], before: int) -> list[str]:
        """Return the files that are gone, of which nothing is newer than ``before``.

        One that comes back would be read again: so its rows must be older than the points that are kept. And
        a share that is not mounted at the moment, or a drop folder emptied for a while, is none that is gone.
        """
        return [
            key
            for key, record in progress.items()
            if key != AGGREGATED and _newest(record) < before and files.is_gone(key)
        ]


class _Poll:
    """One look at all files: what is known of them, and what was collected."""

    def __init__(self, source: CsvSource, progress: dict[str, Json], found: files.Found) -> None:
        self.source = source
        self.config = source.config
        self.found = found
        self.progress = dict(progress)
        self.known = files.Known()
        self.reached: dict[str, Reached] = {}
        self.problems = list(found.problems)
        self.batch = Collected(source.name, source.config)
        self.batch.notes += [f"{pattern}: no file matches" for pattern in found.unmatched]
        self.batch.notes += [f"{name}: no regular file, passed over" for name in found.irregular]
        for key, record in progress.items():
            if key == AGGREGATED:
                continue
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

    def of(self, path: Path) -> Reached:
        """Return how far a file of this name was read."""
        record = self.progress.get(str(path))
        return NOTHING if record is None else Reached(**record)

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
        before, at, mark = self.of(path), files.wall_clock(), ""
        try:
            state = State.of(path)
            mark = files.digest_of(self.config.seed(path), repr(state.to_json()).encode()).hexdigest()
            if before.state == state.to_json():
                return
            if before.is_set_aside and before.failed_as == mark:
                self.set_aside(path, before.failed)
                return
            yield from self._reader(path, state, at).read()
        except FileNotFoundError:
            return  # gone since it was listed
        except Exception as error:  # recorded, with the file that caused it: no other may suffer
            self._failed(path, error, before, mark)

    def _reader(self, path: Path, state: State, at: float) -> _Text | _Parquet:
        # Worth keeping only where a change after this moment must show in it.
        kept = state.to_json() if state.is_old(at, files.RACY_SECONDS) else None
        hides = self.found.leads_away(path)
        if files.is_parquet(path):
            return _Parquet(self, path, kept, hides)
        return _Text(self, path, kept, hides, state, at)

    def _failed(self, path: Path, error: Exception, before: Reached, mark: str) -> None:
        """Set a file aside from where it breaks on: an error of the read first, and later a note."""
        why = printable(_why(path, error, hides=self.found.leads_away(path)))
        again = before.failed_as == mark
        failures = before.failures + 1 if again else 1
        reached = self.of(path).sound()
        if not again:
            self.batch.refuse(str(path), reached.lines + 1 if reached.lines else 0, why)
        if failures > TRIES:
            self.set_aside(path, why)
        else:
            self.problems.append(f"{path}: {why}")
        # What the machine refuses may be allowed at any moment, without a sign in the file.
        for_good = failures > TRIES and not _is_the_machine(error)
        failed = replace(reached, failed=why, failures=failures, failed_as=mark, is_set_aside=for_good)
        self.note(path, failed)

    def set_aside(self, path: Path, why: str) -> None:
        self.batch.notes.append(f"{path}: set aside until it changes: {why}")


def _is_the_machine(error: Exception) -> TypeGuard[OSError]:
    """True for the system's own errors, which have a number: Arrow's look like them and have none."""
    return isinstance(error, OSError) and error.errno is not None


def _why(path: Path, error: Exception, *, hides: bool) -> str:
    """Return what is wrong with a file, in a line that does not name it; where it hides, none of its text."""
    if isinstance(error, files.BROKEN):
        return files.what_broke(error)
    if _is_the_machine(error):
        return f"cannot be read: {error.strerror}"
    if isinstance(error, SourceError):
        return str(error).removeprefix(f"{path}: ")
    return f"cannot be read any further: {type(error).__name__ if hides else reason(error)}"


@dataclass
class _Text:
    """One CSV file, from where reading ended before."""

    poll: _Poll
    path: Path
    state: list[int] | None
    hides: bool
    now: State
    at: float
    long: Long | None = None

    @property
    def settled(self) -> bool:
        return self.now.is_old(self.at, files.SETTLED_SECONDS)

    def read(self) -> Iterator[None]:
        config = self.poll.config
        with containers.open_text(self.path, config.reading) as stream:
            before = containers.preamble(stream, config.reading)
            header = stream.readline(files.LONGEST_LINE)
            if not header.endswith(b"\n"):
                if len(header) == files.LONGEST_LINE:
                    raise SourceError("no line break within 1 MiB; expected CSV text with a header")
                return  # no row yet
            names = self._columns(header)
            self.parser = Parser(
                self.path, names, config.layout(self.path), config.timezone, config.delimiter, self.hides
            )
            self.seed = config.seed(self.path)
            reached = self._start(stream, before + header)
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
            raise SourceError("the header is not UTF-8; save the file as UTF-8 CSV") from None
        names = [name.strip() for name in cells(text, self.poll.config.delimiter)]
        _require(self.poll.config.layout(self.path).columns, names, hides=self.hides)
        return names

    def _start(self, stream: files.Stream, header: bytes) -> Reached:
        """Return how much of this content was read before, with its running digest at hand."""
        if (grown := self._grown(stream)) is not None:
            return grown
        stream.seek(0)
        length, digest, self.digest = self.poll.known.longest(stream, self.seed)
        if length:
            reached = replace(self.poll.reached[digest].sound(), link=self.digest.link)
        else:
            self.digest.update(header)
            reached = Reached(len(header), self.digest.hexdigest(), lines=header.count(b"\n"))
        return replace(reached, inode=self.now.inode, checked=int(self.at))

    def _grown(self, stream: files.Stream) -> Reached | None:
        """Return how far this very file was read, where it did nothing but grow as far as its ends tell."""
        known = self.poll.of(self.path)
        is_ours = known.link and known.inode == self.now.inode and known.consumed <= self.now.size
        if not is_ours or self.at - known.checked > RECHECK_SECONDS or not isinstance(stream, BufferedReader):
            return None
        stream.seek(0)
        head = files.digest_of(self.seed, stream.read(files.HEAD)).hexdigest()
        self.digest = files.Chain(self.seed, known.link)
        stream.seek(known.consumed - known.consumed % files.LINK)
        self.digest.update(stream.read(known.consumed % files.LINK))
        is_same = head == known.head and self.digest.hexdigest() == known.digest
        return known.sound() if is_same else None

    def _rest(self, stream: files.Stream, reached: Reached) -> Iterator[None]:
        """Collect the rest of the file, block by block."""
        held = tail = b""
        for kind, block in files.blocks(stream, self.path):
            if kind is Kind.OPEN:
                tail = block
                break
            if kind is not Kind.LINES:
                if held:
                    rows, rejected = self.parser.parse(held, reached.lines, reached.before)
                    self._collect(rows, rejected)
                    reached = self._advance(reached, held, rows.last_at)
                    held = b""
                reached = self._skipped(reached, block, kind)
                continue
            if not (held or block.strip()):
                reached = self._advance(reached, block, None)
                continue
            held += block
            rows, rejected = self.parser.parse(held, reached.lines, reached.before)
            if rows.open_fold and len(held) < HELD_BYTES:
                continue  # what follows tells the two passes of this hour apart
            self._collect(rows, rejected)
            reached = self._advance(reached, held, rows.last_at)
            held = b""
            self.poll.note(self.path, reached)
            yield
        reached = self._take_tail(reached, held + tail if self.settled else held)
        whole = self.settled or not (tail or self.long)
        self.poll.note(self.path, replace(reached, state=self.state if whole else None))
        yield

    def _collect(self, rows: Rows, rejected: list[Rejected]) -> None:
        self.poll.batch.add(rows, str(self.path), 0)
        self.poll.batch.reject(str(self.path), rejected, hides=self.hides)

    def _advance(self, reached: Reached, data: bytes, last_at: int | None, skipped: int = 0) -> Reached:
        """Return how far the file is read with these lines, which were collected.

        Args:
            last_at: UTC seconds of the last row among them, or None.
            skipped: bytes before them that are digested already.
        """
        self.digest.update(data)
        if len(self.first) < files.HEAD:
            self.first = (self.first[: reached.consumed] + data)[: files.HEAD]
        consumed = reached.consumed + skipped + len(data)
        return replace(
            reached,
            consumed=consumed,
            digest=self.digest.hexdigest(),
            head=files.digest_of(self.seed, self.first[:consumed]).hexdigest(),
            lines=reached.lines + data.count(b"\n"),
            before=reached.before if last_at is None else last_at,
            tail="",
            link=self.digest.link,
        )

    def _skipped(self, reached: Reached, block: bytes, kind: Kind) -> Reached:
        """Pass over a part of a line that is too long; with its end, return how far the file is read."""
        if self.long is None:
            self.long = Long(block[: 4 * RAW_LENGTH], self.digest.copy())
        if kind is Kind.LONG:
            self.digest.update(block)
            self.long.size += len(block)
            return reached
        size, start = self.long.size, self.long.start
        self.long = None
        self._reject_long(reached, start)
        return self._advance(reached, block, None, skipped=size)

    def _reject_long(self, reached: Reached, start: bytes) -> None:
        text = start.decode("utf-8", "replace")
        row = (reached.lines + 1, Reason.LONG_LINE, text)
        self.poll.batch.reject(str(self.path), [row], hides=self.hides)

    def _take_tail(self, reached: Reached, data: bytes) -> Reached:
        """Collect lines that will be read again once more follows, unless they were already."""
        if self.long is not None:
            self.digest, data = self.long.before, self.long.start if self.settled else b""
        tail = files.digest_of(self.seed, data).hexdigest() if data else ""
        if data and tail != reached.tail:
            if self.long is not None:
                self._reject_long(reached, data)
            else:
                self._collect(*self.parser.parse(data, reached.lines, reached.before))
        return replace(reached, tail=tail)


@dataclass
class Long:
    """A line that is too long, as far as it was passed over: how it starts, and the digest before it."""

    start: bytes
    before: files.Chain
    size: int = 0


@dataclass
class _Parquet:
    """One Parquet file, from the row group where reading ended before."""

    poll: _Poll
    path: Path
    state: list[int] | None
    hides: bool

    def read(self) -> Iterator[None]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        reached = self._start()
        try:
            file = pq.ParquetFile(self.path)
        except pa.ArrowInvalid as error:
            raise SourceError(f"not a whole Parquet file: {error}") from None
        layout = self.poll.config.layout(self.path)
        with file:
            _require(layout.columns, file.schema_arrow.names, hides=self.hides)
            for group in range(reached.consumed, file.num_row_groups):
                lines, before = reached.lines, reached.before
                # In pieces: a row group may hold far more than the file's size tells.
                for piece in file.iter_batches(PIECE_ROWS, row_groups=[group], columns=layout.columns):
                    if lines > reached.lines:
                        yield
                    table = pa.Table.from_batches([piece])
                    before = self._collect(table, lines, before)
                    lines += table.num_rows
                reached = replace(reached, consumed=group + 1, lines=lines, before=before)
                self.poll.note(self.path, reached)
                yield
        self.poll.note(self.path, replace(reached, state=self.state))
        yield

    def _collect(self, table: Any, lines: int, before: int | None) -> int | None:
        """Collect rows that follow so many others; return the UTC seconds of the last one."""
        rows = read_table(table, self.poll.config.layout(self.path), self.poll.config.timezone, before=before)
        self.poll.batch.add(rows, str(self.path), lines + 1)
        self.poll.batch.reject(str(self.path), _rejected(table, rows, lines), hides=self.hides)
        return rows.last_at

    def _start(self) -> Reached:
        """Return how much of this content was read before."""
        digest = files.digest_of(self.poll.config.seed(self.path))
        with files.open_file(self.path) as stream:
            while chunk := stream.read(files.CHUNK):
                digest.update(chunk)
        return self.poll.reached.get(digest.hexdigest(), Reached(0, digest.hexdigest())).sound()


def _rejected(table: Any, rows: Rows, before: int) -> list[Rejected]:
    """Return the rows of a table that were set aside, as JSON of the columns that were read."""
    if not len(rows.bad_rows):
        return []
    columns = {name: _shown(table.column(name).take(rows.bad_rows)) for name in table.column_names}
    bad = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [
        (before + int(row) + 1, Reason(reason), json.dumps(values, default=str, ensure_ascii=False))
        for row, reason, values in zip(rows.bad_rows, rows.bad_reasons, bad, strict=True)
    ]


def _shown(column: Any) -> list[Any]:
    """Return a column's cells for people: what Python has no value for as the number or bytes it is."""
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        temporal = pa.types.is_temporal(column.type)
        return list(column.cast(pa.int64() if temporal else pa.binary()).to_pylist())


def _require(wanted: list[str], found: list[str], *, hides: bool) -> None:
    missing = [name for name in wanted if name not in found]
    twice = [name for name in wanted if found.count(name) > 1]
    if missing or twice:
        what = f"no column {', '.join(missing)}" if missing else f"column {', '.join(twice)} comes twice"
        there = "" if hides else f", found {(', '.join(found) or 'nothing')[:500]}"
        raise SourceError(
            f"{what}; expected {', '.join(wanted)}{there}; "
            "correct the source's timestamp, value, metric and labels, or the file"
        )
