"""One way from any file to lines of UTF-8 text: unpacked, decoded, and with one header."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from anomaly_service.errors import SourceError
from anomaly_service.sources import files

SNIFFED = 1 << 16
"""Bytes of a file's beginning that tell what it is."""

LARGEST = 1 << 30
"""Bytes, 1 GiB: what is unpacked or translated may not come to more."""

FREE = 1 << 26
"""Bytes, 64 MiB: what unpacks to less is harmless, however small it was packed."""

RATIO = 200
"""A table packs to a tenth or a fiftieth of its size; what packs to less was made to fill a disk."""

SHARED_TEXTS = 1 << 27
"""Bytes, 128 MiB: the texts of a workbook are held in memory."""

UTF32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
UTF16 = (b"\xff\xfe", b"\xfe\xff")
INFLUX_MARKS = (b"#group", b"#datatype", b"#default")
INFLUX_DROPPED = ("", "result", "table", "_start", "_stop")


@dataclass(frozen=True)
class Reading:
    """How a file's text is come by, beyond what its content tells.

    Attributes:
        skip_lines: lines before the header.
        comment: what lines before the header begin with, that are passed over.
        encoding: of the text; UTF-8, and UTF-16 that says so, where None.
        sheet: of a workbook; the first where None.
    """

    skip_lines: int = 0
    comment: str | None = None
    encoding: str | None = None
    sheet: str | None = None

    def keys(self) -> dict[str, Any]:
        """Return what is not as usual, as keys of a config."""
        usual = asdict(Reading())
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    def comments(self) -> dict[str, str]:
        """Return why a key is as it is, for whoever reads a config."""
        return {
            "skip_lines": "so many lines stand before the header",
            "comment": "lines before the header that begin so are passed over",
            "encoding": "the text is not UTF-8; most such files are of this encoding",
        }


USUAL = Reading()


@contextmanager
def open_text(path: Path, reading: Reading = USUAL) -> Iterator[Any]:
    """Open a file as a stream of CSV text; one that is no plain text as a translation of it.

    Raises:
        SourceError: what came is no table, too large, encrypted, or holds several files.
    """
    with ExitStack() as stack:
        stream: Any = stack.enter_context(files.open_bytes(path))
        start = _start_of(stream)
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            stream = _unpacked(stack, stream, path, reading)
            start = _start_of(stream)
        lines = _translation(stream, start, path, reading)
        yield stream if lines is None else _spooled(stack, lines, path)


def preamble(stream: Any, reading: Reading) -> bytes:
    """Return the lines before the header, and leave the stream at the header."""
    skipped = [stream.readline(files.LONGEST_LINE) for _ in range(reading.skip_lines)]
    mark = reading.comment.encode() if reading.comment else None
    while True:
        at = stream.tell()
        line = stream.readline(files.LONGEST_LINE)
        bare = line.removeprefix(b"\xef\xbb\xbf")
        if not line.endswith(b"\n") or not (is_separator(bare) or (mark and bare.startswith(mark))):
            stream.seek(at)
            return b"".join(skipped)
        skipped.append(line)


def is_separator(line: bytes) -> bool:
    r"""Return whether a line only tells a spreadsheet what separates the columns.

    >>> is_separator(b"sep=;\r\n"), is_separator(b"sep,value")
    (True, False)
    """
    return line.strip().lower().startswith(b"sep=") and len(line.strip(b"\r\n")) == 5


def _start_of(stream: Any) -> bytes:
    start: bytes = stream.read(SNIFFED)
    stream.seek(0)
    return start


# -- archives ----------------------------------------------------------------------------


def _unpacked(stack: ExitStack, stream: Any, path: Path, reading: Reading) -> Any:
    """Return what a zip file holds: the text of its one file, or of a workbook's sheet."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(stream))
        held = [
            each for each in archive.infolist() if not each.is_dir() and not _is_by_the_way(each.filename)
        ]
        if any(each.filename == "xl/workbook.xml" for each in held):
            _bounded(held, path)
            return _spooled(stack, _sheet_lines(archive, stream, path, reading.sheet), path)
        return _spooled(stack, _member(archive, held, path), path)
    except (zipfile.BadZipFile, EOFError, *files.BROKEN) as error:
        raise SourceError(f"{path}: the zip file is damaged or breaks off ({error})") from None


def _is_by_the_way(name: str) -> bool:
    """Return whether a file was put into an archive by a program for itself, as macOS does."""
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1].startswith(".")


def _bounded(held: list[zipfile.ZipInfo], path: Path) -> None:
    """Raise SourceError where unpacking takes more than a table can need."""
    size = sum(each.file_size for each in held)
    packed = max(sum(each.compress_size for each in held), 1)
    if size > LARGEST or (size > FREE and size > RATIO * packed):
        raise SourceError(
            f"{path}: {packed:,} bytes unpack to {size:,}; at most {RATIO} times as many and 1 GiB are "
            "unpacked; unpack it yourself where it is sound"
        )
    texts = sum(each.file_size for each in held if each.filename == "xl/sharedStrings.xml")
    if texts > SHARED_TEXTS:
        raise SourceError(
            f"{path}: the workbook's texts take {texts:,} bytes, more than 128 MiB; save as CSV"
        )


def _member(archive: zipfile.ZipFile, held: list[zipfile.ZipInfo], path: Path) -> Iterator[bytes]:
    """Yield the content of the one file of an archive."""
    names = ", ".join(each.filename for each in held[:5])
    if len(held) != 1:
        several = f"holds {len(held)} files: {names}" if held else "holds no file"
        raise SourceError(f"{path}: the zip file {several}; expected one; unpack it and name the files")
    _bounded(held, path)
    if held[0].flag_bits & 1:
        raise SourceError(f"{path}: {names} is encrypted; unpack it first")
    with archive.open(held[0]) as member:
        while chunk := member.read(files.CHUNK):
            if chunk[:4] in (b"PK\x03\x04", b"PAR1") or chunk[:2] == b"\x1f\x8b":
                raise SourceError(f"{path}: {names} is packed itself; unpack it first")
            yield chunk


def _sheet_lines(archive: zipfile.ZipFile, stream: Any, path: Path, sheet: str | None) -> Iterator[bytes]:
    """Yield the rows of a workbook's sheet as lines of CSV."""
    book = _workbook(stream, path)
    if sheet is not None and sheet not in book.sheetnames:
        raise SourceError(
            f"{path}: no sheet {sheet!r}; sheets: {', '.join(book.sheetnames)}; correct `sheet`"
        )
    found = book[sheet] if sheet is not None else book.worksheets[0]
    rows = ([_cell(value) for value in row] for row in found.iter_rows(values_only=True))
    filled = _trimmed(row for row in rows if any(row))
    first = next(filled, None)
    if first is None:
        raise SourceError(f"{path}: the sheet {found.title!r} is empty; name another with `sheet`")
    yield _line(first)
    yield from map(_line, filled)


def _trimmed(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """Yield rows without the columns to the right of the header, which a workbook's formats leave behind."""
    width = 0
    for row in rows:
        width = width or max(i for i, cell in enumerate(row, 1) if cell)
        yield (row + [""] * width)[:width]


def _workbook(stream: Any, path: Path) -> Any:
    try:
        import defusedxml  # noqa: F401 (openpyxl parses with it where it is there)
        import openpyxl
    except ImportError:
        raise SourceError(f"{path}: an Excel file; install anomaly-service[excel], or save as CSV") from None
    stream.seek(0)
    try:
        return openpyxl.load_workbook(stream, read_only=True, data_only=True)
    except Exception as error:  # whatever a hostile workbook makes openpyxl raise
        raise SourceError(f"{path}: the Excel file cannot be read: {error}") from None


def _cell(value: Any) -> str:
    """Return a cell as text; dates as ISO 8601."""
    from datetime import datetime

    if value is None:
        return ""
    return value.isoformat(" ") if isinstance(value, datetime) else str(value)


def _line(row: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([cell.replace("\n", " ") for cell in row])
    return text.getvalue().encode("utf-8", "replace")


# -- texts -------------------------------------------------------------------------------


def _translation(stream: Any, start: bytes, path: Path, reading: Reading) -> Iterator[bytes] | None:
    """Return what a text reads as where it is not read as it stands; None where it is."""
    encoding = _marked(start) or reading.encoding
    if encoding is not None and encoding.lower() not in ("utf-8", "utf8"):
        return _shaped(_decoded(stream, encoding, path), path)
    if _is_cr_only(start) or _is_influx(start) or _is_json(start):
        return _shaped(_decoded(stream, "utf-8-sig", path), path)
    return None


def _marked(start: bytes) -> str | None:
    """Return the encoding that the first bytes name; UTF-8 is read as it stands."""
    if start.startswith(UTF32):
        return "utf-32"
    return "utf-16" if start.startswith(UTF16) else None


def _is_cr_only(start: bytes) -> bool:
    return b"\n" not in start and start.count(b"\r") > 1


def _is_influx(start: bytes) -> bool:
    """Return whether a text is annotated CSV of InfluxDB, with or without the annotations."""
    if start.startswith(INFLUX_MARKS):
        return True
    names = start[: start.find(b"\n")].strip().split(b",")
    return {b"result", b"table", b"_time", b"_value"} <= set(names)


def _is_json(start: bytes) -> bool:
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b'{"', b'[{"', b"[\n"))


def _decoded(stream: Any, encoding: str, path: Path) -> Iterator[str]:
    """Yield lines, whatever ends them; each but perhaps the last with a line feed."""
    text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline=None)
    try:
        while line := text.readline(files.LONGEST_LINE):
            yield line
    except LookupError:
        raise SourceError(f"{path}: no encoding {encoding!r}; correct `encoding`, such as cp1252") from None
    except UnicodeError as error:
        raise SourceError(f"{path}: no text in {encoding}: {error}") from None
    finally:
        with suppress(ValueError):  # closed already, where reading ended early
            text.detach()


def _shaped(lines: Iterator[str], path: Path) -> Iterator[bytes]:
    """Yield lines of CSV of lines that may be JSON or InfluxDB's."""
    first = next(lines, "")
    both = _chained(first, lines)
    if _is_json(first.encode()):
        return _json_lines(both, path)
    if _is_influx(first.encode()):
        return _influx_lines(both)
    return (line.encode() for line in both)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _json_lines(lines: Iterator[str], path: Path) -> Iterator[bytes]:
    """Yield the objects of JSON lines, or of an array of them, as CSV of all of their keys."""
    rows = [_flat(each) for each in _objects(lines, path)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield _line(names)
    for row in rows:
        yield _line([row.get(name, "") for name in names])


def _objects(lines: Iterator[str], path: Path) -> Iterator[dict[str, Any]]:
    first = next(lines, "")
    if first.lstrip().startswith("["):
        yield from _array(first + "".join(lines), path)
        return
    for number, line in enumerate(_chained(first, lines), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            row = None
            if not line.endswith("\n"):
                return  # it is still being written
            if number == 1:
                raise SourceError(f"{path}: line 1 is no JSON; expected an object a line") from None
        # One that is no object is a row that holds nothing: it is rejected, and the others are read.
        if line.strip():
            yield row if isinstance(row, dict) else {}


def _array(text: str, path: Path) -> Iterator[dict[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SourceError(f"{path}: no JSON: {error}") from None
    if not found or not all(isinstance(each, dict) for each in found):
        raise SourceError(f'{path}: expected an array of objects, such as [{{"time": ..., "value": 1}}]')
    yield from found


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return an object's values as texts, those of objects in it under both names.

    >>> _flat({"a": {"b": 1}, "c": None})
    {'a.b': '1', 'c': ''}
    """
    flat: dict[str, str] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = (
                "" if value is None else value if isinstance(value, str) else json.dumps(value)
            )
    return flat


def _influx_lines(lines: Iterator[str]) -> Iterator[bytes]:
    """Yield the rows of all tables of InfluxDB's annotated CSV under one header, without its bookkeeping."""
    rows = list(_influx_rows(lines))
    names = list(dict.fromkeys(name for row in rows for name in row if name not in INFLUX_DROPPED))
    yield _line(names)
    for row in rows:
        yield _line([row.get(name, "") for name in names])


def _influx_rows(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    defaults: list[str] = []
    header: list[str] | None = None
    for cells in csv.reader(lines):
        if not any(cells):
            header = None
        elif cells[0].startswith("#"):
            defaults = cells if cells[0] == "#default" else defaults
            header = None
        elif header is None or cells == header:
            header = cells
        elif "_value" in header and len(cells) == len(header):
            usual = defaults if len(defaults) == len(cells) else [""] * len(cells)
            yield {name: cell or default for name, cell, default in zip(header, cells, usual, strict=True)}


def _spooled(stack: ExitStack, chunks: Iterable[bytes], path: Path) -> BinaryIO:
    """Return a file of these bytes that is gone when it is closed."""
    file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (closed by the stack)
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > LARGEST:
            raise SourceError(f"{path}: more than 1 GiB once it is unpacked; unpack it and split it")
        file.write(chunk)
    file.seek(0)
    return file  # type: ignore[return-value]  # a binary file, whatever typeshed calls it
