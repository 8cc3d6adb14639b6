"""What is looked at of a file nobody described: the columns of its beginning as texts, and its end."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from anomaly_service.errors import GuessError, SourceError
from anomaly_service.sources import containers, files
from anomaly_service.sources.csv_text import cells as split
from anomaly_service.sources.shapes import shape_of

SAMPLE_BYTES = 4 << 20
"""What is looked at of a file's beginning, 4 MiB: ten thousand rows at least."""

TAIL_BYTES = 1 << 16

SURE = 0.95
"""Share of the cells of a column that must be of a kind."""

Columns = dict[str, Any]
"""Name to pandas Series of texts; missing cells are empty."""


def reading_of(path: Path) -> tuple[containers.Reading, list[str]]:
    """Return how a file's text is come by, and what to say of it."""
    if files.is_parquet(path):
        return containers.USUAL, []
    try:
        return shape_of(path)
    except files.BROKEN as error:
        raise GuessError(f"{path}: {files.what_broke(error)}") from None
    except SourceError as error:
        raise GuessError(str(error)) from None


def sample(path: Path, reading: containers.Reading, *, least: int) -> tuple[Columns, str]:
    """Return the beginning of a file as columns of text, at least so many, and what separates them."""
    import pandas as pd

    if files.is_parquet(path):
        table = _parquet_sample(path)
        delimiter = ","
    else:
        table, delimiter = _csv_sample(path, reading, least)
    if not table.num_rows:
        raise GuessError(f"{path}: no row below the header; expected a header and rows of values")
    texts = {
        name: pd.Series(_as_text(column).to_pandas(), dtype="str").fillna("").str.strip()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return texts, delimiter


def _as_text(column: Any) -> Any:
    """Return a column as text; empty where it holds lists or the like, which are neither time nor value."""
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        return pa.nulls(len(column), pa.string())


def _parquet_sample(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(0) if file.num_row_groups else file.schema_arrow.empty_table()
    except pa.ArrowInvalid as error:
        raise GuessError(f"{path}: not a whole Parquet file: {error}") from None


def _csv_sample(path: Path, reading: containers.Reading, least: int) -> tuple[Any, str]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    try:
        with containers.open_text(path, reading) as stream:
            containers.preamble(stream, reading)
            data = stream.read(SAMPLE_BYTES)
    except files.BROKEN as error:
        raise GuessError(f"{path}: {files.what_broke(error)}") from None
    if not data.strip():
        raise GuessError(f"{path}: the file is empty")
    if len(data) == SAMPLE_BYTES:
        data = data[: data.rfind(b"\n") + 1]
    head, _, body = data.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    try:
        header_line = head.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError:
        raise GuessError(f"{path}: neither UTF-8 text nor gzip nor Parquet") from None
    delimiter = max(",;\t|", key=header_line.count)
    header = _without_empty([name.strip() for name in split(header_line, delimiter)])
    _check_header(path, header, least)
    if not body.strip():
        raise GuessError(f"{path}: no row below the header; expected rows of values")
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(body),
            read_options=arrow_csv.ReadOptions(column_names=header),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=lambda row: "skip"),
            convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string())),
        )
    except pa.ArrowInvalid as error:
        raise GuessError(f"{path}: cannot be read as CSV: {error}") from None
    return table, delimiter


def _without_empty(header: list[str]) -> list[str]:
    """Return column names as pandas would read them, where some are empty."""
    return [name or f"Unnamed: {i}" for i, name in enumerate(header)]


def _check_header(path: Path, header: list[str], least: int) -> None:
    if len(header) < least:
        raise GuessError(
            f"{path}: expected at least two columns, a time and a value; found {header or 'none'}. Where "
            "rows are events, --count 5min watches how many there are"
        )
    if all(re.fullmatch(r"[-+\d.eE:TZ ]*", name) for name in header):
        raise GuessError(
            f"{path}: the first line looks like data ({', '.join(header)}); put a line with the columns' "
            "names before it, such as timestamp,value"
        )
    if len(set(header)) < len(header):
        raise GuessError(f"{path}: columns of the same name in the first line: {', '.join(header)}")


def shown(columns: Columns) -> str:
    """Return every column with a cell of it."""
    return ", ".join(f"{name} ({cells.iloc[0]!r})" for name, cells in columns.items())


def tail(path: Path) -> bytes:
    """Return the last bytes of a file's text; what is packed has to be read for that."""
    with containers.open_text(path) as stream:
        if path.stat().st_size > SAMPLE_BYTES and stream.seekable() and not hasattr(stream, "mtime"):
            stream.seek(-TAIL_BYTES, 2)
            return stream.read()
        last = b""
        # What is left of a file that breaks off is read, and the break told, when it is taken in.
        with suppress(*files.BROKEN):
            while chunk := stream.read(SAMPLE_BYTES):
                last = (last + chunk)[-TAIL_BYTES:]
        return last
