"""What a file holds, guessed from the file alone: columns, step and time zone, said in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_service.config.values import duration_text
from anomaly_service.errors import GuessError, SourceError
from anomaly_service.sources import containers, files, times
from anomaly_service.sources.columns import NO_VALUES, Layout, read_table
from anomaly_service.sources.csv_text import cells as split
from anomaly_service.sources.door import stray_count
from anomaly_service.sources.reasons import Reason
from anomaly_service.sources.shapes import shape_of
from pipelines.records import Seconds
from pipelines.times import DAY

SAMPLE_BYTES = 4 << 20
"""What is looked at of a file's beginning, 4 MiB: ten thousand rows at least."""

TAIL_BYTES = 1 << 16
LEARNING_STEPS = 250
"""A first model of the default window needs 192 points; some may be missing."""

TIME_NAMES = (
    "_time",
    "timestamp",
    "ts",
    "time",
    "datetime",
    "date_time",
    "event_time",
    "date",
    "ds",
    "at",
    "created_at",
)
METRIC_NAMES = (
    "_field",
    "metric",
    "metric_name",
    "measurement",
    "kpi",
    "kpi_id",
    "signal",
    "series",
    "name",
    "unique_id",
)
VALUE_NAMES = ("_value", "value", "y", "val", "v", "reading", "count")
ANNOTATION = re.compile(r"(?:is_?)?(?:label|anomal\w*|attack|outlier)s?", re.IGNORECASE)
IDENTITY = re.compile(
    r"(?:.*_)?(?:id|no|nr|shard|server|realm|host|node|zone|shop|store|site|machine|device|region|platform)",
    re.IGNORECASE,
)
FORMATS = (
    "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y",
    "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y", "%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M",
    "%Y%m%dT%H%M%S%z", "%a %b %d %H:%M:%S %Y", "%d %b %Y %H:%M:%S", "%d/%b/%Y:%H:%M:%S %z",
)  # fmt: skip
"""Formats tried where a column is no ISO 8601; of those that fit all rows the first."""

ROUND_STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 14400,
               21600, 28800, 43200, DAY, 7 * DAY)  # fmt: skip

SURE = 0.95
"""Share of the cells of a column that must be of a kind."""

MANY = 0.02
"""Share of rows with the same time and labels above which something must tell them apart."""


@dataclass(frozen=True)
class Guess:
    """What a file holds, and the config that reads it.

    Attributes:
        path: file or pattern as it was given, the first of several.
        layout: which columns hold what; an empty ``metric_name`` stands for the file's name.
        file_label: label that takes the file's name, where several wide files match.
        timezone: of timestamps without a zone; None where they carry one.
        start, stop: first and last time seen, epoch seconds.
        n_series: series in the part that was looked at.
        words: what was guessed, one sentence each.
        reading: how the text of the file is come by.
        others: files and patterns that were given besides.
        aggregate: what is made of the events of a bucket, and its length in seconds.
    """

    path: str
    layout: Layout
    delimiter: str
    file_label: str | None
    step_seconds: int
    timezone: str | None
    start: int
    stop: int
    n_series: int
    words: tuple[str, ...]
    reading: containers.Reading = containers.USUAL
    others: tuple[str, ...] = ()
    aggregate: tuple[str, int] | None = None

    def section(self, folder: Path | None = None) -> dict[str, Any]:
        """Return the source's section of a config file that lies in ``folder``, the current one if None."""
        layout = self.layout
        section: dict[str, Any] = {
            "kind": "csv",
            "path": self._paths_from(folder),
            "timestamp": layout.timestamp,
        }
        if layout.timestamp_format is not None:
            section["timestamp_format"] = layout.timestamp_format
        section["value"] = layout.values[0] if len(layout.values) == 1 else list(layout.values)
        if layout.metric is not None:
            section["metric"] = layout.metric
        if layout.labels:
            section["labels"] = list(layout.labels)
        if self.file_label is not None:
            section["file_label"] = self.file_label
        if self.delimiter != ",":
            section["delimiter"] = self.delimiter
        section |= self.reading.keys()
        if self.aggregate is not None:
            by, every = self.aggregate
            section["aggregate"] = {"every": duration_text(every), "by": by}
        section["step"] = duration_text(self.step_seconds)
        if self.timezone is not None:
            section["timezone"] = self.timezone
        return section

    def _paths_from(self, folder: Path | None) -> str | list[str]:
        paths = [self._path_from(path, folder) for path in (self.path, *self.others)]
        return paths if self.others else paths[0]

    @staticmethod
    def _path_from(path: str, folder: Path | None) -> str:
        """Return the path as a config file in that folder must name it."""
        if folder is None or folder.absolute() == Path.cwd():
            return path
        whole = Path(path).absolute()
        return str(whole.relative_to(folder.absolute()) if whole.is_relative_to(folder.absolute()) else whole)

    @property
    def fit_window_seconds(self) -> int:
        """Return a span to fit on: six weeks, less where there is little history, more for long steps.

        A quarter of the history leaves enough to be scored as the daemon would have, but a short
        history gives what a first model needs.
        """
        wanted = max(42 * DAY, 1000 * self.step_seconds)
        quarter = (self.stop - self.start) // 4
        seconds = min(wanted, max(quarter, LEARNING_STEPS * self.step_seconds))
        unit = DAY if seconds >= DAY else 60
        return max(round(seconds / unit), 1) * unit

    @property
    def fit_every_seconds(self) -> int:
        """Return a time between two fits: a week, or a day where there is no month of history."""
        return 7 * DAY if self.stop - self.start >= 28 * DAY else DAY

    @property
    def retention_seconds(self) -> int:
        """Return how long points must be kept for all of the history to stay."""
        span = max(int((self.stop - self.start) * 1.1), self.fit_window_seconds)
        return max(400 * DAY, (span // DAY + 1) * DAY)


def guess(
    path: str | Path,
    *others: str,
    timezone: str | None = None,
    now: datetime | None = None,
    aggregate: tuple[str, int] | None = None,
) -> Guess:
    """Return what a file, or the newest that a pattern matches, seems to hold.

    Args:
        timezone: of timestamps without a zone, and of season; UTC is taken where None.
        now: what lies beyond is no part of the history, unless nothing else is; None takes all.

    Raises:
        GuessError: no file, no header, nothing that looks like a time or a value, or no such time zone.
    """
    if timezone:
        _check_zone(timezone)
    found = files.find([str(path), *others])
    if found.problems:
        raise SourceError(found.problems[0])
    if not found.paths:
        raise GuessError(f"{path}: no file matches; name a CSV or Parquet file")
    newest = found.paths[-1]
    reading, said = _reading(newest)
    columns, delimiter = _sample(newest, reading)
    several = len(found.paths) > 1
    until = None if now is None else now.timestamp()
    guesser = _Guesser(str(path), newest, columns, delimiter, timezone, until, several=several)
    guessed = guesser.guess()
    guessed = replace(guessed, words=(*said, *guessed.words), reading=reading, others=others)
    if aggregate is not None:
        return _of_events(guessed, *aggregate)
    _refuse_events(newest, columns, guessed.layout)
    return guessed


def _refuse_events(path: Path, columns: Columns, layout: Layout) -> None:
    """Raise GuessError where rows are events: several at a moment, at any distance."""
    import pandas as pd

    keys = [layout.timestamp, *layout.labels, *([layout.metric] if layout.metric else [])]
    doubles = pd.DataFrame({key: columns[key] for key in keys}).duplicated().mean()
    parsed = times.parse_texts(columns[layout.timestamp].to_numpy(object), layout.timestamp_format)
    distances = np.diff(np.unique(parsed.seconds[parsed.reason == Reason.NONE]))
    # Of points of a grid nearly all lie a step apart; of events hardly any two distances are the same.
    if (
        doubles <= MANY
        or len(distances) < 20
        or np.unique(distances, return_counts=True)[1].max() > len(distances) / 2
    ):
        return
    raise GuessError(
        f"{path}: these are events, several a moment ({doubles:.0%} of the rows share one with another); "
        "say what to watch: `--count 5min` how many there are, or `--sum 5min`, `--mean 5min`, `--max 5min`, "
        f"`--p95 5min` of {layout.values[0]}"
    )


def _of_events(guessed: Guess, by: str, every: int) -> Guess:
    """Return the guess for series that are made of a file's events."""
    made = f"events: the {by} of every {duration_text(every)} makes the series"
    words = [word for word in guessed.words if not word.startswith(("step:", "note:"))]
    return replace(guessed, aggregate=(by, every), step_seconds=every, words=(*words, made))


def _reading(path: Path) -> tuple[containers.Reading, list[str]]:
    """Return how a file's text is come by, and what to say of it."""
    if files.is_parquet(path):
        return containers.USUAL, []
    try:
        return shape_of(path)
    except files.BROKEN as error:
        raise GuessError(f"{path}: {files.what_broke(error)}") from None
    except SourceError as error:
        raise GuessError(str(error)) from None


def _check_zone(name: str) -> None:
    from zoneinfo import available_timezones

    if name not in available_timezones():
        raise GuessError(f"expected an IANA time zone such as UTC or Europe/Berlin, got {name!r}")


Columns = dict[str, Any]
"""Name to pandas Series of texts; missing cells are empty."""


def _sample(path: Path, reading: containers.Reading) -> tuple[Columns, str]:
    """Return the beginning of a file as columns of text, and what separates them."""
    import pandas as pd

    if files.is_parquet(path):
        table = _parquet_sample(path)
        delimiter = ","
    else:
        table, delimiter = _csv_sample(path, reading)
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


def _csv_sample(path: Path, reading: containers.Reading) -> tuple[Any, str]:
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
    header = [name.strip() for name in split(header_line, delimiter)]
    _check_header(path, header)
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


def _check_header(path: Path, header: list[str]) -> None:
    if len(header) < 2:
        raise GuessError(
            f"{path}: expected at least two columns, a time and a value; found {header or 'none'}"
        )
    if all(re.fullmatch(r"[-+\d.eE:TZ ]*", name) for name in header):
        raise GuessError(
            f"{path}: the first line looks like data ({', '.join(header)}); put a line with the columns' "
            "names before it, such as timestamp,value"
        )
    if len(set(header)) < len(header):
        raise GuessError(f"{path}: columns of the same name in the first line: {', '.join(header)}")


class _Guesser:
    """Decides column by column; keeps what it decided in words."""

    def __init__(
        self,
        path: str,
        file: Path,
        columns: Columns,
        delimiter: str,
        timezone: str | None,
        now: float | None,
        *,
        several: bool,
    ) -> None:
        self.path = path
        self.file = file
        self.columns = columns
        self.delimiter = delimiter
        self.zone = timezone
        self.now = now
        self.several = several
        self.words: list[str] = []
        self.left_out: dict[str, str] = {}

    def guess(self) -> Guess:
        timestamp, form, at = self._timestamp()
        timezone = self._timezone(timestamp, at)
        numeric, texts = self._kinds(timestamp)
        metric = _named(METRIC_NAMES, texts)
        labels = self._text_labels([name for name in texts if name != metric])
        values = self._values(numeric, metric)
        labels += self._labels_among_numbers(
            at, [metric, *labels], [n for n in numeric if n not in values], values
        )
        values = tuple(name for name in values if name not in labels)
        layout = Layout(timestamp, values, metric, "", tuple(labels), (), form)
        file_label = "file" if self.several and len(values) > 1 and metric is None else None
        return self._finish(layout, file_label, timezone)

    def _timestamp(self) -> tuple[str, str | None, times.Times]:
        """Return the column of the time, its format, and the times."""
        found = [(self._time_score(name), name) for name in self.columns]
        score, name = max(found, key=lambda pair: pair[0])
        if score <= 0:
            raise GuessError(
                f"{self.file}: no column looks like a time; columns: {self._shown()}; expected ISO 8601 such "
                "as 2024-01-31 12:00:00, or epoch seconds. A config file takes other forms: `anomaly init`, "
                'then a format such as timestamp_format: "%d.%m.%Y %I:%M %p"'
            )
        form = self._format(self.columns[name])
        return name, form, times.parse_texts(self.columns[name].to_numpy(object), form)

    def _shown(self) -> str:
        """Return every column with a cell of it."""
        return ", ".join(f"{name} ({cells.iloc[0]!r})" for name, cells in self.columns.items())

    def _time_score(self, name: str) -> float:
        """Return how much a column looks like the time; 0 and less: not at all."""
        cells = self.columns[name].drop_duplicates().head(500)
        form = self._format(cells)
        parsed = times.parse_texts(cells.to_numpy(object), form)
        usable = parsed.reason == Reason.NONE
        if usable.mean() < SURE:
            return 0.0
        by_name = len(TIME_NAMES) - TIME_NAMES.index(name.lower()) if name.lower() in TIME_NAMES else 0
        is_number = cells.str.fullmatch(r"[-+]?\d+(?:\.\d+)?").mean() > SURE
        # Numbers are a time by their name, or because they lie between 2000 and 2100 and are not few.
        recent = (parsed.seconds[usable] > 946_684_800) & (parsed.seconds[usable] < 4_102_444_800)
        if is_number and not by_name and not (recent.all() and len(cells) > 2):
            return 0.0
        return by_name + (1.0 if is_number else 5.0)

    def _format(self, cells: Any) -> str | None:
        """Return the strptime format of a column, None where it is ISO 8601 or numbers, or no time."""
        some = cells.drop_duplicates().head(500).to_numpy(object)
        if (times.parse_texts(some).reason == Reason.NONE).mean() >= SURE:
            return None
        fits = ((times.parse_texts(some, form).reason == Reason.NONE).mean() for form in FORMATS)
        return next((form for form, share in zip(FORMATS, fits, strict=True) if share >= SURE), None)

    def _timezone(self, name: str, at: times.Times) -> str | None:
        naive = bool((at.naive & (at.reason == Reason.NONE)).mean() > 1 - SURE)
        if not naive:
            is_number = self.columns[name].head(500).str.fullmatch(r"[-+]?\d+(?:\.\d+)?").mean() > SURE
            kind = "epoch numbers" if is_number else "which says its zone"
            self.words.append(f"time: column {name}, {kind}" + self._season_zone())
            return self.zone
        zone = self.zone or "UTC"
        taken = f"taken as {zone}" + ("" if self.zone else "; where it is another, name it with --timezone")
        self.words.append(f"time: column {name}, which carries no zone, {taken}")
        return zone

    def _season_zone(self) -> str:
        return f"; days and weeks are those of {self.zone}" if self.zone else ""

    def _kinds(self, timestamp: str) -> tuple[list[str], list[str]]:
        """Return the names of the columns of numbers and of texts."""
        import pandas as pd

        numeric, texts = [], []
        for name, cells in self.columns.items():
            filled = cells[~cells.isin(NO_VALUES)]
            if name == timestamp:
                continue
            if not len(filled):
                self.left_out[name] = "empty"
            elif pd.to_numeric(filled, errors="coerce").notna().mean() >= SURE:
                is_mark = ANNOTATION.fullmatch(name) and set(filled.unique()) <= {"0", "1", "0.0", "1.0"}
                if is_mark:
                    self.left_out[name] = "marks of anomalies"
                else:
                    numeric.append(name)
            else:
                texts.append(name)
        return numeric, texts

    def _text_labels(self, texts: Sequence[str]) -> list[str]:
        labels = []
        for name in texts:
            cells = self.columns[name]
            if cells.nunique() > max(50, 0.2 * len(cells)):
                self.left_out[name] = "different in almost every row"
            else:
                labels.append(name)
        return labels

    def _values(self, numeric: Sequence[str], metric: str | None) -> tuple[str, ...]:
        """Return the value columns: one by its name or as the only one, else all."""
        by_name = _named(VALUE_NAMES, numeric)
        candidates = [name for name in numeric if not self._is_identity(name)] or list(numeric)
        if not candidates:
            raise GuessError(
                f"{self.file}: no column of numbers; columns: {self._shown()}; expected numbers such as "
                "1234.5, without units and marks of thousands"
            )
        if by_name is not None:
            return (by_name,)
        return (candidates[0],) if metric is not None else tuple(candidates)

    def _is_identity(self, name: str) -> bool:
        cells = self.columns[name]
        return bool(IDENTITY.fullmatch(name)) and cells.nunique() <= max(20, 0.05 * len(cells))

    def _labels_among_numbers(
        self, at: times.Times, keys: Sequence[str | None], numbers: Sequence[str], values: Sequence[str]
    ) -> list[str]:
        """Return the columns of numbers that name something; others are left out."""
        labels = [name for name in numbers if self._is_identity(name)]
        rest = [name for name in numbers if name not in labels]
        # A file with one value column and rows of equal time: some number must tell them apart.
        rest.sort(key=lambda name: self.columns[name].nunique())
        for name in rest:
            few = self.columns[name].nunique() <= 0.1 * len(self.columns[name])
            if few and self._share_of_doubles(at, [*keys, *labels]) > MANY:
                labels.append(name)
            else:
                self.left_out[name] = f"the value is {', '.join(values)}"
        doubles = self._share_of_doubles(at, [*keys, *labels])
        if doubles > MANY:
            self.words.append(
                f"note: {doubles:.0%} of the rows have time and labels of another; the last wins"
            )
        return labels

    def _share_of_doubles(self, at: times.Times, keys: Iterable[str | None]) -> float:
        import pandas as pd

        frame = pd.DataFrame({"": at.seconds} | {key: self.columns[key] for key in keys if key is not None})
        return float(frame.duplicated().mean())

    def _finish(self, layout: Layout, file_label: str | None, timezone: str | None) -> Guess:
        import pyarrow as pa

        table = pa.table({name: pa.array(self.columns[name], pa.string()) for name in layout.columns})
        rows = read_table(table, layout, timezone or "UTC")
        if not len(rows.ts):
            raise GuessError(f"{self.file}: no row has both a time and a value")
        step = usual_step(rows.series, rows.ts)
        start, stop = self._span(np.concatenate([rows.ts, self._last_times(layout, timezone)]))
        n_series = len(np.unique(rows.series))
        self._say(layout, file_label, step, start, stop, n_series)
        return Guess(
            path=self.path,
            layout=layout,
            delimiter=self.delimiter,
            file_label=file_label,
            step_seconds=step,
            timezone=timezone,
            start=start,
            stop=stop,
            n_series=n_series,
            words=tuple(self.words),
        )

    def _span(self, ts: Seconds) -> tuple[int, int]:
        """Return first and last time, but for strays: neither 1970 nor 2061 is when a file was written."""
        if self.now is not None and (ts <= self.now).any():
            ts = ts[ts <= self.now]
        ts = np.sort(ts)
        early, late = stray_count(ts), stray_count(-ts[::-1])
        if early or late:
            self.words.append(
                f"note: {early + late} rows lie far from all others in time, and are left out of this"
            )
        return int(ts[early]), int(ts[len(ts) - 1 - late])

    def _last_times(self, layout: Layout, timezone: str | None) -> Seconds:
        """Return the times of a plain file's last lines; none where only reading all would tell."""
        nothing = np.zeros(0, np.int64)
        if self.file.stat().st_size <= SAMPLE_BYTES or files.is_parquet(self.file):
            return nothing
        with containers.open_text(self.file) as stream:
            if not stream.seekable() or hasattr(stream, "mtime"):
                return nothing  # gzip
            stream.seek(-TAIL_BYTES, 2)
            lines = stream.read().decode("utf-8", "replace").splitlines()[1:]
        at = list(self.columns).index(layout.timestamp)
        rows = (split(line, self.delimiter) for line in lines)
        cells = [row[at] for row in rows if len(row) > at]
        parsed = times.parse_texts(np.array(cells, object), layout.timestamp_format)
        located = times.locate(parsed, timezone, np.zeros(len(cells), np.int64))
        return located.seconds[located.reason == Reason.NONE]

    def _say(
        self, layout: Layout, file_label: str | None, step: int, start: int, stop: int, n_series: int
    ) -> None:
        if len(layout.values) > 1:
            self.words.append(f"values: {len(layout.values)} columns, each a metric: {_some(layout.values)}")
        else:
            self.words.append(f"value: column {layout.values[0]}")
        if layout.metric is not None:
            self.words.append(f"metric: column {layout.metric}")
        elif len(layout.values) == 1:
            self.words.append(f"metric: the file's name, {files.stem(self.file)}")
        if layout.labels:
            self.words.append(f"labels: {', '.join(layout.labels)}")
        if file_label is not None:
            self.words.append(f"label {file_label}: the file's name, such as {files.stem(self.file)}")
        self.words.append(f"step: {duration_text(step)}, the median distance of a series' points")
        first, last = (datetime.fromtimestamp(at, UTC) for at in (start, stop))
        self.words.append(
            f"history: {n_series} series from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
        )
        if self.left_out:
            reasons = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
            self.words.append(f"left out: {reasons}")


def _named(names: Sequence[str], columns: Iterable[str]) -> str | None:
    """Return the column that has the first of some names, whatever its case."""
    by_lower = {column.lower(): column for column in columns}
    return next((by_lower[name] for name in names if name in by_lower), None)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def usual_step(series: np.ndarray[Any, Any], ts: np.ndarray[Any, Any]) -> int:
    """Return the median distance of neighbouring points of a series, seconds, rounded where that is near.

    A file with one point a series has no distance; 300 is taken then.
    """
    order = np.lexsort((ts, series))
    distance = np.diff(ts[order])[np.diff(series[order]) == 0]
    distance = distance[distance > 0]
    if not len(distance):
        return 300
    step = max(1, round(float(np.median(distance))))
    nearest = min(ROUND_STEPS, key=lambda one: abs(one - step))
    return nearest if abs(nearest - step) <= 0.02 * step else step
