"""Labelled series on disk: folders as we lay them out, and NAB's own.

Ours: ``<dataset>/series/<name>.csv`` (or ``.csv.gz``) with the columns ``timestamp`` (epoch seconds, or ISO
8601 in UTC) and a value per channel; ``<dataset>/labels.csv`` with ``series,start,end``, both ends
inside; optionally ``<dataset>/meta.json`` with ``interval_s`` and ``train_until`` per series. A folder of
such folders is read as all of them. NAB's: ``data/**/*.csv`` and ``labels/combined_windows.json``.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomaly_service.errors import AnomalyServiceError
from pipelines.records import Json

if TYPE_CHECKING:
    from pipelines.backtest import Labelled

MIN_ROWS = 3
TIME_NAMES = ("timestamp", "ts", "time")


class LabelledDataError(AnomalyServiceError):
    """A folder or file is none that series with labels can be read from; the message says why."""


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
        return hashlib.sha256(self.path.read_bytes() + parts.encode()).hexdigest()[:16]

    def read(self) -> Labelled:
        """Return the series.

        Raises:
            LabelledDataError: the file holds no such series; the message names it and says why.
        """
        from pipelines.backtest import Labelled

        ts, values = _rows(self.path)
        first, stop = self.part or (0, len(ts))
        ts, values = ts[first:stop], values[first:stop]
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
    found = [_nab(path) if _is_nab(path) else _ours(path) for path in wanted]
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


def _is_ours(folder: Path) -> bool:
    return (folder / "series").is_dir() and (folder / "labels.csv").is_file()


def _is_nab(folder: Path) -> bool:
    return (folder / "data").is_dir() and (folder / "labels" / "combined_windows.json").is_file()


# -- our own layout -----------------------------------------------------------------


def _ours(folder: Path) -> Found:
    labels, problems = _labels(folder / "labels.csv")
    about = _about(folder / "meta.json", problems)
    files = []
    for path in sorted((folder / "series").glob("*.csv*")):
        name = path.name.partition(".csv")[0]
        known = about.get(name, {})
        step, until = known.get("interval_s"), known.get("train_until")
        files.append(
            LabelledFile(
                folder.name,
                name,
                path,
                tuple(sorted(labels.pop(name, []))),
                None if step is None else max(1, round(float(step))),
                None if until is None else int(until),
            )
        )
    problems += [f"{folder / 'labels.csv'}: no file for the series {name!r}" for name in sorted(labels)]
    return Found(tuple(files), tuple(problems))


def _labels(path: Path) -> tuple[dict[str, list[tuple[int, int]]], list[str]]:
    """Return the labelled spans by series, and the lines that hold none."""
    labels: dict[str, list[tuple[int, int]]] = {}
    problems = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                span = int(row["start"]), int(row["end"])
            except (KeyError, TypeError, ValueError):
                problems.append(f"{path}, line {number}: expected series,start,end in epoch seconds")
                continue
            if span[0] > span[1]:
                problems.append(f"{path}, line {number}: the label ends before it starts")
                continue
            labels.setdefault(row["series"], []).append(span)
    return labels, problems


def _about(path: Path, problems: list[str]) -> dict[str, Json]:
    """Return what the data set says of its series; nothing where it has no such file."""
    if not path.is_file():
        return {}
    try:
        about: Any = json.loads(path.read_text(encoding="utf-8"))
        return dict(about["series"])
    except (ValueError, KeyError, TypeError) as error:
        problems.append(f"{path}: not read, steps are taken from the rows ({error})")
        return {}


# -- NAB's layout -------------------------------------------------------------------


def _nab(folder: Path) -> Found:
    windows: dict[str, list[list[str]]] = json.loads(
        (folder / "labels" / "combined_windows.json").read_text(encoding="utf-8")
    )
    files = []
    for path in sorted((folder / "data").rglob("*.csv")):
        key = path.relative_to(folder / "data").as_posix()
        spans = tuple((_moment(start), _moment(end)) for start, end in windows.pop(key, []))
        files.append(LabelledFile(folder.name, key.removesuffix(".csv").replace("/", "__"), path, spans))
    problems = [f"{folder}: no file for the windows of {key!r}" for key in sorted(windows)]
    return Found(tuple(files), tuple(problems))


def _moment(text: str) -> int:
    return int(np.datetime64(text.strip().replace(" ", "T"), "s").astype(np.int64))


# -- files --------------------------------------------------------------------------


def _rows(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return times and values of a file's rows, in order of time."""
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # a parser's error is a ValueError
        raise LabelledDataError(f"{path}: cannot be read as CSV: {error}") from error
    name = next((column for column in table.columns if column.lower() in TIME_NAMES), None)
    if name is None or table.shape[1] < 2:
        got = ", ".join(str(column) for column in table.columns)
        raise LabelledDataError(f"{path}: expected a column timestamp and one per channel, got {got}")
    ts = _seconds(table.pop(name), path)
    strange = [str(column) for column in table.columns if not pd.api.types.is_numeric_dtype(table[column])]
    if strange:
        raise LabelledDataError(f"{path}: expected numbers in every channel; {strange[0]!r} holds others")
    if len(ts) < MIN_ROWS:
        raise LabelledDataError(f"{path}: expected at least {MIN_ROWS} rows, got {len(ts)}")
    order = np.argsort(ts, kind="stable")
    values = table.to_numpy(dtype=np.float64)[order]
    values[~np.isfinite(values)] = np.nan
    return ts[order], values


def _seconds(column: Any, path: Path) -> NDArray[np.int64]:
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        if column.isna().any():
            raise LabelledDataError(f"{path}: {int(column.isna().sum())} rows have no timestamp")
        return np.asarray(column.to_numpy(), dtype=np.int64)
    try:
        at = pd.to_datetime(column, utc=True, format="ISO8601")
    except ValueError as error:
        raise LabelledDataError(f"{path}: expected epoch seconds or ISO 8601 times: {error}") from error
    if at.isna().any():
        raise LabelledDataError(f"{path}: {int(at.isna().sum())} rows have no timestamp")
    return np.asarray(at.dt.as_unit("s").astype(np.int64))


def _usual_step(ts: NDArray[np.int64], path: Path) -> int:
    apart = np.diff(ts)
    apart = apart[apart > 0]
    if not len(apart):
        raise LabelledDataError(f"{path}: all rows have the same timestamp")
    return int(np.median(apart))
