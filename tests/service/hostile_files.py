"""Files that somebody drops into a watched folder, and that no row, or not every row, can be read of."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

START = 1_717_200_000
HEADER = b"ts,metric,realm,value\n"
GOOD = f"{START + 600},ccu,kr-1,8\n".encode()


@dataclass(frozen=True)
class Hostile:
    """One of them.

    Attributes:
        put: puts it into a folder under a name of its own.
        said: what its rejection says; empty where nothing in it is wrong by itself.
        line: the line that the rejection names; 0 where it is the file as a whole.
        taken: rows of it that go in.
    """

    name: str
    put: Callable[[Path], None]
    said: str
    line: int = 0
    taken: int = 0


def corpus() -> Iterator[Hostile]:
    """Yield a file of every kind."""
    yield from _lines()
    yield from _texts()
    yield from _parquets()
    yield from _things()


def _written(data: bytes) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.write_bytes(data)

    return put


def _row(line: bytes) -> bytes:
    """Return a file with one such line between two good ones."""
    return HEADER + GOOD + line + b"\n" + f"{START + 900},ccu,kr-1,9\n".encode()


def _lines() -> Iterator[Hostile]:
    at = str(START).encode()
    long = b"x" * 200_000
    huge = b"y" * (3 << 20)
    rows = {
        "nul-label": (at + b",ccu,kr\0-1,5", "NUL"),
        "nul-metric": (at + b",c\0cu,kr-1,5", "NUL"),
        "nul-value": (at + b",ccu,kr-1,5\0", "value is not a number"),
        "nul-time": (at + b"\0,ccu,kr-1,5", "timestamp is not readable"),
        "carriage-return": (at + b",ccu,kr\r-1,5", "carriage return"),
        "carriage-return-quoted": (at + b',ccu,"kr\r-1",5', "carriage return"),
        "carriage-return-first": (b"\r" + at + b",ccu,kr-1,5", "carriage return"),
        "long-label": (at + b",ccu," + long + b",5", "longer than 2,000 bytes"),
        "long-value": (at + b",ccu,kr-1," + long, "value is not a number"),
        "long-time": (long + b",ccu,kr-1,5", "timestamp is not readable"),
        "long-line": (at + b",ccu," + huge + b",5", "longer than 1 MiB"),
        "label-just-too-long": (at + b",ccu," + b"z" * 2_000 + b",5", "longer than 2,000 bytes"),
        "many-digits": (at + b",ccu,kr-1," + b"9" * 5_000, "value is infinite"),
        "last-second": (b"9999-12-31T23:59:59,ccu,kr-1,5", "1970 to 2262"),
        "last-second-west": (b"9999-12-31T23:59:59-12:00,ccu,kr-1,5", "timestamp"),
        "first-second": (b"0001-01-01T00:00:00,ccu,kr-1,5", "1970 to 2262"),
        "year-zero": (b"0000-00-00,ccu,kr-1,5", "timestamp is not readable"),
        "end-of-nanoseconds": (b"2262-04-11T23:47:16,ccu,kr-1,5", "1970 to 2262"),
        "before-1970-in-utc": (b"1970-01-01T00:30:00+02:00,ccu,kr-1,5", "1970 to 2262"),
        "far-future": (b"2061-05-05T00:00:00Z,ccu,kr-1,5", "far in the future"),
        "epoch-of-64-bits": (b"9223372036854775807,ccu,kr-1,5", "timestamp"),
        "epoch-below-64-bits": (b"-9223372036854775808,ccu,kr-1,5", "1970 to 2262"),
        "epoch-of-99-digits": (b"9" * 99 + b",ccu,kr-1,5", "timestamp"),
        "half-a-quote": (at + b',ccu,"kr-1,5', "quotation marks"),
        "not-utf8": (at + b",ccu,kr-\xff,5", "not UTF-8"),
        "surrogate": (at + b",ccu,kr-\xed\xa0\xbd,5", "not UTF-8"),
        "too-many-cells": (at + b",ccu,kr-1,5" + b"," * 70_000, "wrong number of columns"),
        "no-cells": (b"x", "wrong number of columns"),
    }
    for name, (line, said) in rows.items():
        yield Hostile(f"{name}.csv", _written(_row(line)), said, line=3, taken=2)


def _texts() -> Iterator[Hostile]:
    good = HEADER + GOOD
    packed = gzip.compress(good * 500)
    texts = {
        "header-only": (HEADER, "", 0),
        "empty": (b"", "", 0),
        "blank": (b"\n\n\n", "no column", 0),
        "bom": (b"\xef\xbb\xbf" + good, "", 1),
        "bom-16-le": ("\ufeffts,metric,realm,value\n1,ccu,kr-1,5\n".encode("utf-16-le"), "", 1),
        "bom-16-be": ("\ufeffts,metric,realm,value\n1,ccu,kr-1,5\n".encode("utf-16-be"), "", 1),
        "bom-32": ("\ufeffts,metric,realm,value\n1,ccu,kr-1,5\n".encode("utf-32"), "", 1),
        "two-boms": (b"\xef\xbb\xbf\xef\xbb\xbf" + good, "no column ts", 0),
        "nul-header": (b"t\0s,metric,realm,value\n" + GOOD, "no column ts", 0),
        "long-header": (b"x" * 200_000 + b",ts\n" + GOOD, "column", 0),
        "endless-header": (b"x" * (2 << 20), "no line break within 1 MiB", 0),
        "old-mac": (good.replace(b"\n", b"\r") + b"\n", "column", 0),
        "twice": (b"ts,metric,realm,value,ts\n" + GOOD[:-1] + b",1\n", "column ts comes twice", 0),
        "binary": (bytes(range(256)) * 64, "no column ts", 0),
        "other-columns": (b"a,b\n1,2\n", "no column ts", 0),
        "truncated-gzip": (packed[: len(packed) // 2], "breaks off", 0),
        "damaged-gzip": (packed[:20] + b"\xff" * 20 + packed[40:], "gzip", 0),
        "gzip-head": (b"\x1f\x8b", "gzip", 0),
        "gzip-garbage": (gzip.compress(good) + b"garbage", "gzip", 0),
        "gzip-of-gzip": (gzip.compress(gzip.compress(good)), "", 0),
        "gzip-of-newlines": (gzip.compress(HEADER + b"\n" * (8 << 20) + GOOD), "", 1),
    }
    for name, (data, said, taken) in texts.items():
        yield Hostile(f"{name}.csv", _written(data), said, taken=taken)
    yield Hostile("zip-bomb.zip", _written(_zipped({"a.csv": b"\0" * (65 << 20)})), "unpack to")
    yield Hostile("two.zip", _written(_zipped({"a.csv": good, "b.csv": good})), "holds 2 files")
    yield Hostile("half.zip", _written(_zipped({"a.csv": good})[:90]), "damaged or breaks off")
    yield Hostile("nested.zip", _written(_zipped({"a.zip": _zipped({"a.csv": good})})), "is packed itself")
    yield Hostile("one.zip", _written(_zipped({"a.csv": good})), "", taken=1)
    yield Hostile(
        "no-book.xlsx", _written(_zipped({"xl/workbook.xml": b"<"})), "the Excel file cannot be read"
    )
    yield Hostile("half-parquet.parquet", _written(_parquet({}, 10)[:200]), "not a whole Parquet file")
    yield Hostile("parquet-head.parquet", _written(b"PAR1"), "Parquet")
    yield Hostile("corrupt-page.parquet", _written(_corrupted()), "cannot be read any further")


def _zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _parquet(columns: dict[str, Any], n: int = 1, **options: Any) -> bytes:
    rows = {
        "ts": pa.array([START + 300 * i for i in range(n)], pa.int64()),
        "metric": pa.array(["ccu"] * n),
        "realm": pa.array(["kr-1"] * n),
        "value": pa.array([5.0] * n),
    }
    out = io.BytesIO()
    pq.write_table(pa.table(rows | columns), out, **options)
    return out.getvalue()


def _corrupted() -> bytes:
    """Return a Parquet file whose index is whole, and whose pages are not."""
    data = bytearray(_parquet({}, 20_000, compression="snappy", row_group_size=5_000))
    data[60 : len(data) // 3] = b"\xff" * (len(data) // 3 - 60)
    return bytes(data)


def _parquets() -> Iterator[Hostile]:
    moment = datetime(2024, 6, 1, tzinfo=UTC)
    kinds: dict[str, tuple[Any, Any]] = {
        "struct": ({"a": 1}, pa.struct([("a", pa.int64())])),
        "list": ([1.0], pa.list_(pa.float64())),
        "large-list": ([1.0], pa.large_list(pa.float64())),
        "fixed-list": ([1.0, 2.0], pa.list_(pa.float64(), 2)),
        "map": ([("a", 1)], pa.map_(pa.string(), pa.int64())),
        "timestamp": (moment, pa.timestamp("us", "UTC")),
        "date": (date(2024, 6, 1), pa.date32()),
        "duration": (timedelta(1), pa.duration("s")),
        "time32": (time(1), pa.time32("s")),
        "time64": (time(1), pa.time64("us")),
        "binary": (b"\xff\0", pa.binary()),
        "fixed-binary": (b"\xff\0", pa.binary(2)),
    }
    for name, (value, kind) in kinds.items():
        for column in ("value", "realm", "metric", "ts"):
            if column != "ts" or name not in {"timestamp", "date"}:
                data = _parquet({column: pa.array([value], kind)})
                said = f"column {column} is of type"
                yield Hostile(f"{name}-as-{column}.parquet", _written(data), said)
    odd: dict[str, tuple[dict[str, Any], str, int]] = {
        "null-time": ({"ts": pa.nulls(1)}, "no timestamp", 0),
        "null-value": ({"value": pa.nulls(1)}, "no value", 0),
        "null-metric": ({"metric": pa.nulls(1)}, "no metric", 0),
        "decimal-value": ({"value": pa.array([Decimal("5.5")])}, "", 1),
        "boolean-value": ({"value": pa.array([True])}, "", 1),
        "half-value": ({"value": pa.array([5.0], pa.float16())}, "", 1),
        "text-value": ({"value": pa.array(["many"])}, "value is not a number", 0),
        "dictionary-value": ({"value": pa.array(["many"]).dictionary_encode()}, "not a number", 0),
        "nul-label-parquet": ({"realm": pa.array(["kr\0"])}, "NUL", 0),
        "unsigned-time": ({"ts": pa.array([2**64 - 1], pa.uint64())}, "1970 to 2262", 0),
        "decimal-time": ({"ts": pa.array([Decimal(START)])}, "", 1),
        "boolean-time": ({"ts": pa.array([True])}, "column ts is of type bool", 0),
        "last-timestamp": ({"ts": pa.array([2**63 - 1], pa.timestamp("us", "UTC"))}, "1970 to 2262", 0),
        "last-second-timestamp": ({"ts": pa.array([2**62], pa.timestamp("ms"))}, "1970 to 2262", 0),
        "deep-dictionary": ({"realm": pa.array(["kr-1"]).dictionary_encode()}, "", 1),
        "invalid-utf8": ({"realm": _invalid_utf8()}, "", 0),
    }
    for name, (columns, said, taken) in odd.items():
        line = 1 if said and "column" not in said else 0
        yield Hostile(f"{name}.parquet", _written(_parquet(columns)), said, line, taken)
    yield Hostile("no-rows.parquet", _written(_parquet({}, 0)), "")
    yield Hostile("no-groups.parquet", _written(_without_groups()), "")


def _invalid_utf8() -> pa.Array:
    return pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )


def _without_groups() -> bytes:
    out = io.BytesIO()
    schema = pa.schema({"ts": pa.int64(), "metric": pa.string(), "realm": pa.string(), "value": pa.float64()})
    pq.ParquetWriter(out, schema).close()
    return out.getvalue()


def _things() -> Iterator[Hostile]:
    def folder(path: Path) -> None:
        path.mkdir()

    def loop(path: Path) -> None:
        path.symlink_to(path)

    def dangling(path: Path) -> None:
        path.symlink_to(path.parent / "nothing")

    def secret(path: Path) -> None:
        behind = path.parent.parent / "secret.txt"
        behind.write_text("hunter2 is the password\nline two\n")
        path.symlink_to(behind)

    yield Hostile("folder.csv", folder, "")
    yield Hostile("pipe.csv", os.mkfifo, "")
    yield Hostile("loop.csv", loop, "")
    yield Hostile("dangling.csv", dangling, "")
    yield Hostile("secret.csv", secret, "no column ts")
    yield Hostile("name\n\x1b[31m\u202e.csv", _written(_row(b"y")), "wrong number of columns", 3, 2)
