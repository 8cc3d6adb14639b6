"""Labelled series on disk: folders as we lay them out, and NAB's own.

Ours: ``<dataset>/series/<name>.csv`` (or ``.csv.gz``) with the columns ``timestamp`` and a value per channel;
``<dataset>/labels.csv`` with ``series,start,end``, both ends inside; optionally ``<dataset>/meta.json`` with
``interval_s`` and ``train_until`` per series. Times are epoch seconds or ISO 8601, UTC unless they say
otherwise. A folder of such folders is read as all of them. NAB's: ``data/**/*.csv`` and
``labels/combined_windows.json``. What cannot be read is named and left out.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import warnings
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomaly_service.errors import LabelledDataError

if TYPE_CHECKING:
    from pipelines.measure.backtest import Labelled

MIN_ROWS = 3
TIME_NAMES = ("timestamp", "ts", "time")
SUFFIXES = (".csv", ".csv.gz")
LATEST = 253_402_300_799
"""The end of the year 9999: a larger timestamp counts milliseconds or less."""

Spans = dict[str, list[tuple[int, int]]]
"""Labelled spans by series, both ends inside, epoch seconds."""


@dataclass(frozen=True)
class LabelledFile:
    """One series on disk, not read yet.

    Attributes:
        truth: labelled spans, both ends inside, epoch seconds.
        step_seconds: nominal step; None takes the usual distance of the rows.
        train_until: time of the last training row, where the data name one.
        part: of the rows in order of time only these, half-open; all where None.
    """

    dataset: str
    series: str
    path: Path
    truth: tuple[tuple[int, int], ...] = ()
    step_seconds: int | None = None
    train_until: int | None = None
    part: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.series}"

    def digest(self) -> str:
        """Return a digest of the file and its labels: equal ones give equal results."""
        parts = json.dumps([self.truth, self.step_seconds, self.train_until, self.part])
        try:
            rows = self.path.read_bytes()
        except OSError:
            # Reading it will say so; there is no result to take up.
            rows = b""
        return hashlib.sha256(rows + parts.encode()).hexdigest()[:16]

    def read(self) -> Labelled:
        """Return the series.

        Raises:
            LabelledDataError: the file holds no such series; the message names it and says why.
        """
        from pipelines.measure.backtest import Labelled

        ts, values = _rows(self.path)
        first, stop = self.part or (0, len(ts))
        ts, values = ts[first:stop], values[first:stop]
        if len(ts) < MIN_ROWS:
            raise LabelledDataError(f"{self.path}: expected at least {MIN_ROWS} rows, got {len(ts)}")
        step = self.step_seconds or _usual_step(ts, self.path)
        return Labelled(self.dataset, self.series, ts, values, self.truth, step, self.train_until)


@dataclass(frozen=True)
class Found:
    """What a folder holds: series to be read, and what is wrong with the rest."""

    files: tuple[LabelledFile, ...]
    problems: tuple[str, ...]


def find(folder: Path, datasets: Collection[str] = ()) -> Found:
    """Return the series of a folder, by data set and name.

    Args:
        datasets: only these, by the names of their folders.

    Raises:
        LabelledDataError: no such folder, nothing in it is laid out as expected, or no such data set.
    """
    if not folder.is_dir():
        raise LabelledDataError(f"there is no folder {folder}; --data names one with labelled series")
    groups = {path.name: path for path in _datasets(folder)}
    missing = sorted(set(datasets) - set(groups))
    if missing:
        raise LabelledDataError(
            f"{folder} has no data set {missing[0]!r}; it has: {', '.join(sorted(groups)) or 'none'}"
        )
    wanted = [groups[name] for name in sorted(groups) if not datasets or name in datasets]
    if not wanted:
        raise LabelledDataError(
            f"{folder} holds no labelled series; expected folders with series/*.csv and labels.csv, or "
            "NAB's data/ and labels/combined_windows.json (docs/howto/measure-a-detector.md)"
        )
    found = [_found(path) for path in wanted]
    return Found(
        tuple(file for each in found for file in each.files),
        tuple(problem for each in found for problem in each.problems),
    )


def _datasets(folder: Path) -> Iterator[Path]:
    if _is_ours(folder) or _is_nab(folder):
        yield folder.resolve()
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (_is_ours(path) or _is_nab(path)):
            yield path


def _found(folder: Path) -> Found:
    """Return the series of one data set; none where its labels cannot be read."""
    try:
        return _nab(folder) if _is_nab(folder) else _ours(folder)
    except LabelledDataError as error:
        return Found((), (str(error),))


def _is_ours(folder: Path) -> bool:
    return (folder / "series").is_dir() and (folder / "labels.csv").is_file()


def _is_nab(folder: Path) -> bool:
    return (folder / "data").is_dir() and (folder / "labels" / "combined_windows.json").is_file()


# -- our own layout -----------------------------------------------------------------


def _ours(folder: Path) -> Found:
    labels, problems = _labels(folder / "labels.csv")
    about = _about(folder / "meta.json", problems)
    files = []
    for name, path in _series(folder / "series", problems).items():
        known = about.get(name, _About())
        truth = tuple(sorted(labels.pop(name, [])))
        files.append(LabelledFile(folder.name, name, path, truth, known.step_seconds, known.train_until))
    problems += [f"{folder / 'labels.csv'}: no file for the series {name!r}" for name in sorted(labels)]
    return Found(tuple(files), tuple(problems))


def _series(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Return the files by the name of their series."""
    files: dict[str, Path] = {}
    for path in sorted(path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}")):
        name = path.name.removesuffix(".gz").removesuffix(".csv")
        if name in files:
            problems.append(f"{path}: the series {name!r} is read from {files[name].name}")
        else:
            files[name] = path
    return files


def _labels(path: Path) -> tuple[Spans, list[str]]:
    """Return the labelled spans by series, and what is wrong with the lines that hold none.

    Raises:
        LabelledDataError: the file is no table of labels.
    """
    labels: Spans = {}
    problems = []
    # Excel begins a file in UTF-8 with a mark of its own, which utf-8-sig skips.
    table = csv.DictReader(_text(path, encoding="utf-8-sig").splitlines())
    if not {"series", "start", "end"} <= set(table.fieldnames or ()):
        got = ", ".join(table.fieldnames or ()) or "an empty file"
        raise LabelledDataError(f"{path}: expected the columns series, start and end, got {got}")
    for row in table:
        try:
            span = _moment(row["start"]), _moment(row["end"])
        except (TypeError, ValueError):
            problem = "expected series,start,end with times in epoch seconds or ISO 8601"
            problems.append(f"{path}, line {table.line_num}: {problem}")
            continue
        if span[0] > span[1]:
            problems.append(f"{path}, line {table.line_num}: the label ends before it starts")
            continue
        labels.setdefault(row["series"], []).append(span)
    return labels, problems


@dataclass(frozen=True)
class _About:
    """What a data set says of one series."""

    step_seconds: int | None = None
    train_until: int | None = None

    @classmethod
    def of(cls, said: Any) -> _About:
        """Return what an object of meta.json says.

        Raises:
            ValueError: it is none, or its figures are none.
        """
        if not isinstance(said, dict):
            raise ValueError(f"expected an object, got {said!r}")
        step, until = said.get("interval_s"), said.get("train_until")
        if step is not None and not (isinstance(step, int | float) and 0 < step < math.inf):
            raise ValueError(f"expected interval_s in seconds, got {step!r}")
        return cls(
            None if step is None else max(1, round(step)),
            None if until is None else _moment(str(until)),
        )


def _about(path: Path, problems: list[str]) -> dict[str, _About]:
    """Return what the data set says of its series; nothing where it has no such file."""
    if not path.is_file():
        return {}
    try:
        said = json.loads(_text(path))
    except (LabelledDataError, ValueError) as error:
        problems.append(f"{path}: not read, steps are taken from the rows: {error}")
        return {}
    series = said.get("series") if isinstance(said, dict) else None
    if not isinstance(series, dict):
        problems.append(f"{path}: not read, steps are taken from the rows: expected an object with series")
        return {}
    about = {}
    for name, own in series.items():
        try:
            about[name] = _About.of(own)
        except ValueError as error:
            problems.append(f"{path}: not read for {name!r}, its step is taken from its rows: {error}")
    return about


# -- NAB's layout -------------------------------------------------------------------


def _nab(folder: Path) -> Found:
    windows = _windows(folder / "labels" / "combined_windows.json")
    files = []
    for path in sorted((folder / "data").rglob("*.csv")):
        key = path.relative_to(folder / "data").as_posix()
        truth = tuple(sorted(windows.pop(key, [])))
        files.append(LabelledFile(folder.name, key.removesuffix(".csv").replace("/", "__"), path, truth))
    problems = [f"{folder}: no file for the windows of {key!r}" for key in sorted(windows)]
    return Found(tuple(files), tuple(problems))


def _windows(path: Path) -> Spans:
    """Return NAB's windows by the file they belong to.

    Raises:
        LabelledDataError: they cannot be read.
    """
    try:
        said = json.loads(_text(path))
        return {
            key: [(_moment(start), _moment(end)) for start, end in windows] for key, windows in said.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        expected = "expected pairs of times by the name of a file"
        raise LabelledDataError(f"{path}: {expected}: {error}") from error


# -- files --------------------------------------------------------------------------


def _text(path: Path, encoding: str = "utf-8") -> str:
    try:
        return path.read_text(encoding)
    except (OSError, UnicodeError) as error:
        raise LabelledDataError(f"{path}: cannot be read: {error}") from error


def _moment(text: str) -> int:
    """Return epoch seconds of a time in epoch seconds or in ISO 8601.

    >>> _moment("1393452300"), _moment("2014-02-26 22:05:00.000000"), _moment("2014-02-26T23:05+01:00")
    (1393452300, 1393452300, 1393452300)

    Raises:
        ValueError: it is no such time.
    """
    try:
        seconds = float(text)
    except ValueError:
        at = datetime.fromisoformat(text.strip())
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if not abs(seconds) <= LATEST:
        raise ValueError(f"expected epoch seconds, got {text!r}")
    return math.floor(seconds)


def _rows(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return times and values of a file's rows, in order of time."""
    import pandas as pd

    table = _table(path)
    name = next((column for column in table.columns if column.strip().lower() in TIME_NAMES), None)
    if name is None or table.shape[1] < 2:
        got = ", ".join(table.columns)
        raise LabelledDataError(f"{path}: expected a column timestamp and one per channel, got {got}")
    if table.empty:
        raise LabelledDataError(f"{path}: expected rows below the header, got none")
    ts = _seconds(table.pop(name), path)
    strange = [column for column in table.columns if not pd.api.types.is_numeric_dtype(table[column])]
    if strange:
        raise LabelledDataError(f"{path}: expected numbers in every channel; {strange[0]!r} holds others")
    order = np.argsort(ts, kind="stable")
    values = table.to_numpy(dtype=np.float64)[order]
    values[~np.isfinite(values)] = np.nan
    return ts[order], values


def _table(path: Path) -> Any:
    """Return a file's columns by the names in its header."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            # Values beyond the header's columns would be dropped with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Types are taken from whole columns: by parts, a text far down would make a mixed one.
            return pd.read_csv(path, index_col=False, low_memory=False)
    except pd.errors.ParserWarning as error:
        raise LabelledDataError(f"{path}: rows have more values than the header has columns") from error
    except (OSError, ValueError, EOFError, zlib.error) as error:  # a parser's error is a ValueError
        raise LabelledDataError(f"{path}: cannot be read as CSV: {error}") from error


def _seconds(column: Any, path: Path) -> NDArray[np.int64]:
    """Return a column of times as epoch seconds."""
    import pandas as pd

    expected = f"{path}: expected epoch seconds or ISO 8601 times"
    if column.isna().any():
        raise LabelledDataError(f"{path}: {int(column.isna().sum())} rows have no timestamp")
    if pd.api.types.is_numeric_dtype(column):
        astray = column[~(column.abs() <= LATEST)]
        if len(astray):
            raise LabelledDataError(f"{expected}, got {astray.iloc[0]}")
        return np.floor(column.to_numpy()).astype(np.int64)
    try:
        at = pd.to_datetime(column, utc=True, format="ISO8601")
    except ValueError as error:
        raise LabelledDataError(f"{expected}: {error}") from error
    return np.asarray(at.dt.as_unit("s").astype(np.int64))


def _usual_step(ts: NDArray[np.int64], path: Path) -> int:
    apart = np.diff(ts)
    apart = apart[apart > 0]
    if not len(apart):
        raise LabelledDataError(f"{path}: all rows have the same timestamp")
    return int(np.median(apart))
