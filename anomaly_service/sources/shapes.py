"""Where a text's table begins, and in what encoding it is written: guessed, and said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomaly_service.errors import SourceError
from anomaly_service.sources import containers
from anomaly_service.sources.containers import Reading
from anomaly_service.sources.csv_text import cells

LOOKED_AT = 1 << 22
"""Bytes, 4 MiB, by which the encoding is judged."""

FIRST_LINES = 60
"""Lines among which the header must be."""

Shape = tuple[Reading, list[str]]


def shape_of(path: Path) -> Shape:
    """Return how a file's text is come by, with a sentence for everything that is not as usual.

    Raises:
        SourceError: it is no table, too large, encrypted, or holds several files.
    """
    reading, said = _encoding(path)
    with containers.open_text(path, reading) as stream:
        start = stream.read(containers.SNIFFED)
    return _preamble(start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"), reading, said)


def _encoding(path: Path) -> Shape:
    with containers.open_text(path) as stream:
        start: bytes = stream.read(LOOKED_AT)
    is_text = _is_utf8(start) or b"\0" in start
    encoding = _utf16_without_mark(start) if is_text else "cp1252"
    if encoding is None and not _is_utf8(start):
        raise SourceError(f"{path}: neither UTF-8 text nor gzip nor Parquet")
    if encoding is None:
        return Reading(), []
    return Reading(encoding=encoding), [
        f"encoding: {encoding}, as it is not UTF-8; another: `encoding` of the config"
    ]


def _is_utf8(start: bytes) -> bool:
    try:
        start[: start.rfind(b"\n") + 1].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _utf16_without_mark(start: bytes) -> str | None:
    """Return the UTF-16 that a text is certainly in: of ASCII, every second byte is zero."""
    some = start[:4096]
    if len(some) < 64:
        return None
    even, odd = some[::2].count(0) / len(some[::2]), some[1::2].count(0) / len(some[1::2])
    if odd > 0.95 and even == 0:
        return "utf-16-le"
    return "utf-16-be" if even > 0.95 and odd == 0 else None


def _preamble(start: str, reading: Reading, said: list[str]) -> Shape:
    """Find the header: the first line with as many columns as most lines have."""
    lines = start.splitlines()[:FIRST_LINES]
    at = _header_line(lines)
    before = lines[:at]
    told = [line for line in before if containers.is_separator(line.encode())]
    if told:
        said = [*said, f"first line: {told[0]}, what separates the columns"]
    rest = [line for line in before if line not in told]
    if not rest:
        return reading, said
    if all(line.startswith("#") for line in rest):
        return replace(reading, comment="#"), [
            *said,
            f"comments: {_lines(len(rest))} before the header, passed over",
        ]
    return replace(reading, skip_lines=at), [
        *said,
        f"skipped: {_lines(at)} before the header: {rest[0][:60]!r}",
    ]


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


def _header_line(lines: list[str]) -> int:
    """Return the number of the header's line, 0 where nothing stands before it.

    >>> _header_line(["Report, of May", "", "time;value", "1;2", "2;3", "3;4"])
    2
    """
    widths = _widths(lines)
    usual, times = Counter(widths).most_common(1)[0] if widths else (0, 0)
    if usual == 0 or times < len(lines) / 2:
        return 0
    # A header may hold a column more or less than the rows; what stands before it holds hardly any.
    wide = [i for i, width in enumerate(widths) if width > usual / 2]
    return next((i for i in wide if not lines[i].startswith("# ")), 0)


def _widths(lines: list[str]) -> list[int]:
    """Return how many marks of the likeliest kind each line holds."""
    best: Any = max(",;\t|", key=lambda mark: _evenness(lines, mark))
    return [len(cells(line, best)) - 1 for line in lines]


def _evenness(lines: list[str], mark: str) -> tuple[float, int]:
    counts = Counter(line.count(mark) for line in lines)
    counts.pop(0, None)
    width, times = max(counts.items(), key=lambda pair: pair[1], default=(0, 0))
    return times, width
