"""Lines of CSV to points: fast where every line is sound, line by line only where one is not."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_service.errors import SourceError
from anomaly_service.sources import files, times
from anomaly_service.sources.columns import NO_VALUES, Layout, Rows, read_table
from anomaly_service.sources.reasons import Reason

Rejected = tuple[int, Reason, str]
"""Line of the file, what is wrong, and the line itself."""


@dataclass(frozen=True)
class Parser:
    """Reads lines of one file.

    Attributes:
        header: names of all columns, in order.
        zone: of timestamps that carry none.
        hides: nothing of the file may stand in a message.
    """

    path: Path
    header: list[str]
    layout: Layout
    zone: str | None
    delimiter: str = ","
    hides: bool = False

    def parse(self, data: bytes, lines_before: int, before: int | None) -> tuple[Rows, list[Rejected]]:
        """Return the points of whole lines, their row being the file's line, and the lines that hold none.

        Args:
            lines_before: lines of the file before these.
            before: UTC seconds of the row before these, or None.

        Raises:
            SourceError: timestamps carry no zone and the source has none; lines that cannot be told apart.
        """
        import pyarrow as pa

        kind = self._kind(data)
        try:
            if _has_open_quotes(data) or _has_odd_lines(data):
                return self._parse_unsound(data, lines_before, before)
            table = self._table(data, self._types(kind), threads=True)
        except pa.ArrowInvalid:
            return self._parse_unsound(data, lines_before, before)
        if table.num_rows != data.count(b"\n") + (not data.endswith(b"\n")):
            return self._parse_unsound(data, lines_before, before)
        rows = read_table(table, self.layout, self.zone, before=before)
        rejected = _rejected(rows, data, np.arange(table.num_rows), lines_before)
        return replace(rows, row=rows.row + lines_before + 1), rejected

    def _parse_unsound(
        self, data: bytes, lines_before: int, before: int | None
    ) -> tuple[Rows, list[Rejected]]:
        """Do the same for lines of which some do not even split into columns."""
        lines = data.split(b"\n")
        sound, rejected = _sound_lines(lines, lines_before)
        wrong: list[int] = []

        def set_aside(row: Any) -> str:
            wrong.append(row.number - 1)
            return "skip"

        text = b"\n".join(lines[i] for i in sound) + b"\n"
        table = self._table(text, self._types("unknown", texts=True), threads=False, on_invalid=set_aside)
        rejected += [(lines_before + sound[i] + 1, Reason.COLUMNS, _text(lines[sound[i]])) for i in wrong]
        kept = np.delete(np.array(sound, dtype=np.int64), wrong)
        if table.num_rows != len(kept):
            raise SourceError(f"lines {lines_before + 1} and after cannot be told apart as rows")
        rows = read_table(table, self.layout, self.zone, before=before)
        rejected = sorted(rejected + _rejected(rows, data, kept, lines_before))
        return replace(rows, row=kept[rows.row] + lines_before + 1), rejected

    def _kind(self, data: bytes) -> str:
        """Return what the first line's timestamp is, which the other lines' will be too."""
        if self.layout.timestamp_format is not None or self.layout.more_times:
            return "unknown"
        line = data[: data.find(b"\n") + 1 or len(data)].decode("utf-8", "replace")
        row = cells(line, self.delimiter)
        at = self.header.index(self.layout.timestamp)
        kind = times.kind_of(row[at]) if at < len(row) else "unknown"
        if kind == "naive" and self.zone is None:
            example = "" if self.hides else f" such as {row[at][:100]!r}"
            raise SourceError(
                f"{self.path}: timestamps{example} carry no zone; "
                "set the source's timezone, such as UTC or Europe/Berlin"
            )
        return kind

    def _types(self, kind: str, *, texts: bool = False) -> dict[str, Any]:
        import pyarrow as pa

        words = pa.dictionary(pa.int32(), pa.string())
        at = {"integer": pa.int64(), "zoned": pa.timestamp("ns", "UTC"), "naive": pa.timestamp("ns")}
        types = dict.fromkeys(self.layout.columns, words)
        types |= dict.fromkeys(self.layout.more_times, words)
        is_plain = self.layout.is_plain and not texts
        types |= dict.fromkeys(self.layout.values, pa.float64() if is_plain else pa.string())
        return types | {self.layout.timestamp: words if texts else at.get(kind, words)}

    def _table(self, data: bytes, types: dict[str, Any], *, threads: bool, on_invalid: Any = None) -> Any:
        """Return the columns that are read, as an Arrow table with a row for every line, blank ones too.

        Raises:
            pyarrow.ArrowInvalid: a line has another number of columns, or a cell is not of its type.
        """
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                column_names=self.header,
                use_threads=threads,
                block_size=1 << 20 if threads else len(data) + 1,
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=self.delimiter, ignore_empty_lines=False, invalid_row_handler=on_invalid
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types,
                include_columns=self.layout.columns,
                null_values=NO_VALUES,
                strings_can_be_null=False,
            ),
        )
        return table.unify_dictionaries()


def cells(line: str, delimiter: str) -> list[str]:
    """Return the cells of one line; none where it holds what no CSV does, such as a line break."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _has_odd_lines(data: bytes) -> bool:
    """True where some program would see another line break, or where a line is longer than one may be."""
    step = files.LONGEST_LINE // 2
    is_long = any(data.find(b"\n", i, i + step) < 0 for i in range(0, len(data) - step + 1, step))
    return is_long or data.count(b"\r") != data.count(b"\r\n")


def _has_open_quotes(data: bytes) -> bool:
    """True where quotation marks do not close on their own line.

    Such a line would swallow those after it, and how many depends on where a block ends.
    """
    if b'"' not in data:
        return False
    text = np.frombuffer(data, np.uint8)
    ends = np.searchsorted(np.flatnonzero(text == ord('"')), np.flatnonzero(text == ord("\n")))
    total = int(np.count_nonzero(text == ord('"')))
    return bool((np.diff(np.append(np.append(0, ends), total)) % 2).any())


def _sound_lines(lines: list[bytes], lines_before: int) -> tuple[list[int], list[Rejected]]:
    """Return which lines can be split into cells, and the others."""
    sound: list[int] = []
    rejected: list[Rejected] = []
    for i, line in enumerate(lines):
        reason = _line_reason(line)
        if reason != Reason.NONE:
            rejected.append((lines_before + i + 1, reason, _text(line)))
        else:
            sound.append(i)
    return sound, rejected


def _line_reason(line: bytes) -> Reason:
    if len(line) >= files.LONGEST_LINE:
        return Reason.LONG_LINE
    if b"\r" in line[:-1]:
        return Reason.CARRIAGE
    if line.count(b'"') % 2:
        return Reason.QUOTES
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return Reason.ENCODING
    return Reason.NONE


def _rejected(rows: Rows, data: bytes, line_of: Any, lines_before: int) -> list[Rejected]:
    """Return the lines of rows that were set aside; blank ones are no rows."""
    if not len(rows.bad_rows):
        return []
    lines = data.split(b"\n")
    numbers = line_of[rows.bad_rows]
    return [
        (lines_before + int(i) + 1, Reason(reason), _text(lines[i]))
        for i, reason in zip(numbers, rows.bad_reasons, strict=True)
        if lines[i].strip()
    ]


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
