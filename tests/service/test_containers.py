"""Whatever a table is packed or written in, the same points come out; the rest is refused."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import openpyxl
import pytest

from anomaly_service.errors import AnomalyServiceError
from anomaly_service.sources.csv import CsvConfig, CsvSource
from anomaly_service.sources.guess import guess

HOURS = [datetime(2024, 5, 1 + i // 24, i % 24) for i in range(48)]
ROWS = [(f"{at:%Y-%m-%d %H:%M:%S}", 10 + i) for i, at in enumerate(HOURS)]
TEXT = "time,load\n" + "".join(f"{at},{value}\n" for at, value in ROWS)
NOW = datetime(2024, 6, 5, tzinfo=UTC)


def zipped(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def workbook(rows: list[tuple[object, ...]]) -> bytes:
    book, packed = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(packed)
    return packed.getvalue()


def influx() -> str:
    head = "#group,false,false,false,false\n#datatype,string,long,dateTime:RFC3339,double\n#default,mean,,,\n"
    names = ",result,table,_time,_value\n"
    lines = [f",,0,{at.replace(' ', 'T')}Z,{value}\n" for at, value in ROWS]
    return head + names + "".join(lines[:20]) + "\n" + head + names + "".join(lines[20:])


SHAPES: dict[str, bytes] = {
    "utf-16": TEXT.encode("utf-16"),
    "utf-16-unsaid": TEXT.encode("utf-16-le"),
    "bom": TEXT.encode("utf-8-sig"),
    "old-encoding": TEXT.replace("load", "größe").encode("cp1252"),
    "cr": TEXT.replace("\n", "\r").encode(),
    "crlf": TEXT.replace("\n", "\r\n").encode(),
    "separator": b"sep=;\n" + TEXT.replace(",", ";").encode(),
    "comments": b"# from a tool, of today\n# in percent\n" + TEXT.encode(),
    "preamble": b"Report of May\n\n" + TEXT.encode(),
    "zip": zipped(a=TEXT.encode()),
    "zip-of-utf-16": zipped(a=TEXT.encode("utf-16")),
    "gzip-of-cr": gzip.compress(TEXT.replace("\n", "\r").encode()),
    "json-lines": "".join(json.dumps({"time": at, "load": value}) + "\n" for at, value in ROWS).encode(),
    "json-array": json.dumps([{"time": at, "load": value} for at, value in ROWS]).encode(),
    "influx": influx().encode(),
    "excel": workbook([("time", "load"), *zip(HOURS, range(10, 58), strict=True)]),
}


def points(path: Path) -> list[tuple[int, float]]:
    """Return what the source reads whose config is guessed from the file."""
    config = CsvConfig.model_validate(guess(path, timezone="UTC").section())
    batches = list(CsvSource("drop", config).read({}, now=NOW))
    assert not [each for batch in batches for each in getattr(batch, "rejects", ())]
    return [
        (int(at), float(value))
        for batch in batches
        for at, value in zip(batch.points.ts, batch.points.value, strict=True)
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_table_gives_the_same_points_however_it_is_written(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(SHAPES[shape])
    expected = [(int(at.replace(tzinfo=UTC).timestamp()), 10.0 + i) for i, at in enumerate(HOURS)]
    assert points(path) == expected


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "two-files": (lambda: zipped(a=TEXT.encode(), b=b"x"), r"holds 2 files: a, b; expected one"),
    "no-file": (lambda: zipped(), "holds no file"),
    "bomb": (lambda: zipped(a=b"\0" * (70 << 20)), "unpack to 73,400,320"),
    "nested": (lambda: zipped(a=zipped(b=b"x")), "a is packed itself"),
    "half-a-zip": (lambda: zipped(a=TEXT.encode())[:200], "damaged or breaks off"),
    "empty-sheet": (lambda: workbook([]), "sheet 'Sheet' is empty"),
    "half-a-gzip": (lambda: gzip.compress(TEXT.encode())[:80], "breaks off"),
    "binary": (lambda: bytes(range(256)) * 40, "neither UTF-8 text nor gzip nor Parquet"),
    "bad-json": (lambda: b'{"time": 1,}\n{"time": 2}\n', "line 1 is no JSON"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_table_is_refused_with_what_it_is(tmp_path: Path, kind: str) -> None:
    make, message = REFUSED[kind]
    path = tmp_path / "a.csv"
    path.write_bytes(make())
    with pytest.raises(AnomalyServiceError, match=message):
        guess(path)


def test_a_translated_file_that_grows_only_adds(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT[:600].rpartition("\n")[0].encode("utf-16") + "\n".encode("utf-16-le"))
    config = CsvConfig.model_validate(guess(path, timezone="UTC").section())
    source, progress, read = CsvSource("drop", config), {}, 0
    for _ in range(2):
        for batch in source.read(progress, now=NOW):
            progress |= batch.progress
            read += len(batch.points.ts)
        path.write_bytes(TEXT.encode("utf-16"))
    assert read == len(ROWS)
