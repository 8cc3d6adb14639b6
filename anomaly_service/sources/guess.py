"""What a file holds, guessed from the file alone: columns, step and time zone, said in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_service.config.values import duration_text
from anomaly_service.errors import GuessError, SourceError
from anomaly_service.sources import files, readings, times
from anomaly_service.sources.columns import NO_VALUES, Layout, join_times, read_table
from anomaly_service.sources.csv_text import cells as split
from anomaly_service.sources.door import stray_count
from anomaly_service.sources.guessed import Guess
from anomaly_service.sources.reasons import Reason
from anomaly_service.sources.sample import SURE, Columns, reading_of, sample, shown, tail
from anomaly_service.sources.steps import usual_step
from anomaly_service.sources.time_columns import AskedTimes, Finder, time_columns
from anomaly_service.sources.watched import Watched, watched
from anomaly_service.sources.written import Written, in_words
from pipelines.records import Seconds

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
UNTELLING = (*VALUE_NAMES, "state", "wert", "valor", "valeur", "data", "values", "x")
"""Names of value columns that say nothing of what is measured."""

ROW_NUMBER = re.compile(
    r"(?:unnamed: ?\d+|index|idx|id|#|no\.?|nr\.?|row(?:[ _]?(?:number|id|nr|no))?|)", re.IGNORECASE
)
ANNOTATION = re.compile(r"(?:is_?)?(?:label|anomal\w*|attack|outlier)s?", re.IGNORECASE)
IDENTITY = re.compile(
    r"(?:.*_)?(?:id|no|nr|shard|server|realm|host|node|zone|shop|store|site|machine|device|region|platform)",
    re.IGNORECASE,
)
EVENTS = "events"
"""The metric of rows that are only counted: files of the next month go on with it."""

MANY = 0.02
"""Share of rows with the same time and labels above which something must tell them apart."""


def guess(
    path: str | Path,
    *others: str,
    timezone: str | None = None,
    now: datetime | None = None,
    time: str | None = None,
    form: str | None = None,
    decimal: str | None = None,
    value: str | None = None,
    aggregate: tuple[str, int] | None = None,
) -> Guess:
    """Return what a file, or the newest that a pattern matches, seems to hold.

    Args:
        timezone: of timestamps without a zone, and of season; UTC is taken where None.
        now: what lies beyond is no part of the history, unless nothing else is; None takes all, and
            judges by the clock of this machine which readings of the times are plausible.
        time: column of the time, or several with commas between them; None looks for it.
        form: of the times, a name of ``forms.FORMS`` or a strptime format; None finds out.
        decimal: mark before the decimals of values, where the file shows none that only one reading fits.
        value: column of the value; guessed where None.
        aggregate: what is made of the rows of a bucket where they are events, and its length in seconds.

    Raises:
        GuessError: values that can be read in two ways; no file, no header, nothing that
            looks like a time or a value, or no such time zone.
    """
    if timezone:
        _check_zone(timezone)
    found = files.find([str(path), *others])
    if found.problems:
        raise SourceError(found.problems[0])
    if not found.paths:
        raise GuessError(f"{path}: no file matches; name a CSV or Parquet file")
    newest = found.paths[-1]
    reading, said = reading_of(newest)
    is_count = aggregate is not None and aggregate[0] == "count"
    columns, delimiter = sample(newest, reading, least=1 if is_count else 2)
    several = len(found.paths) > 1
    until = None if now is None else now.timestamp()
    asked = AskedTimes(time_columns(time, columns), form)
    guesser = _Guesser(
        str(path),
        newest,
        columns,
        delimiter,
        timezone,
        until,
        asked,
        decimal=decimal,
        value=value,
        aggregate=aggregate,
        several=several,
    )
    guessed = guesser.guess()
    guessed = replace(guessed, words=(*said, *guessed.words), reading=reading, others=others)
    return guessed if aggregate is None else _of_events(guessed, *aggregate)


def _of_events(guessed: Guess, by: str, every: int) -> Guess:
    """Return the guess for series that are made of a file's events."""
    made = f"events: the {by} of every {duration_text(every)} makes the series"
    words = [word for word in guessed.words if not word.startswith(("step:", "note:", "absent:", "as:"))]
    # Where nothing happened nothing is counted; a mean or a maximum of nothing is none.
    is_zero = by in ("count", "sum")
    if is_zero:
        made += "; one without an event is 0 (absent: zero in the config)"
    return replace(
        guessed,
        aggregate=(by, every),
        step_seconds=every,
        words=(*words, made),
        watched=Watched(is_zero, (), 1),
    )


def _check_zone(name: str) -> None:
    from zoneinfo import available_timezones

    if name not in available_timezones():
        raise GuessError(f"expected an IANA time zone such as UTC or Europe/Berlin, got {name!r}")


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
        asked: AskedTimes,
        *,
        decimal: str | None,
        value: str | None,
        aggregate: tuple[str, int] | None,
        several: bool,
    ) -> None:
        self.path = path
        self.file = file
        self.columns = columns
        self.header = list(columns)
        self.delimiter = delimiter
        self.zone = timezone
        self.now = now
        self.asked = asked
        self.several = several
        self.words: list[str] = []
        self.left_out: dict[str, str] = {}
        self.because: dict[str, str] = {}
        self.value = value
        self.aggregate = aggregate
        self.written = Written(file, columns, delimiter, decimal)

    def guess(self) -> Guess:
        self._leave_out_row_numbers()
        found = Finder(self.file, self.columns, self.asked, self.now).find()
        time, form, at = found.columns, found.form, found.at
        self.because |= found.because
        timezone = self._timezone(time, form, at)
        numeric, texts = self._kinds(time)
        metric = _named(METRIC_NAMES, texts)
        labels = self._text_labels([name for name in texts if name != metric])
        values = () if self._only_counted(numeric) else self._values(numeric, metric)
        labels += self._labels_among_numbers(
            at, [metric, *labels], [n for n in numeric if n not in values], values
        )
        values = tuple(name for name in values if name not in labels)
        if self.aggregate is None:
            self._refuse_samples(time, form, at, [metric, *labels])
            self._refuse_events(time, at, [*labels, *([metric] if metric else [])], values)
        name = values[0] if metric is None and len(values) == 1 else ""
        metric_name = "" if name.lower() in UNTELLING else name
        if not values and metric is None:
            metric_name = EVENTS
        forms = self.written.forms(values)
        if said := in_words(forms):
            self.words.append(said)
        layout = Layout(time[0], values, metric, metric_name, tuple(labels), (), form, time[1:], forms)
        file_label = "file" if self.several and len(values) > 1 and metric is None else None
        return self._finish(layout, file_label, timezone)

    def _leave_out_row_numbers(self) -> None:
        """Drop columns that only count the rows, and columns that have no name."""
        for name in list(self.columns):
            if ROW_NUMBER.fullmatch(name) and _counts_rows(self.columns[name]):
                self.left_out[name] = "a row number"
            elif not name.lower().startswith("unnamed"):
                continue
            else:
                self.left_out[name] = "it has no name"
            if name != self.value:
                del self.columns[name]

    def _refuse_samples(
        self, time: Sequence[str], form: str | None, at: times.Times, keys: Sequence[str | None]
    ) -> None:
        """Refuse a file whose samples follow each other within a second: all but one would be lost.

        Raises:
            GuessError: it says how to make whole seconds of them.
        """
        if self._share_of_doubles(at, keys) <= MANY:
            return
        cells = self.columns[time[-1]].head(2000)
        fraction = cells.str.extract(r"[.,](\d{1,9})(?:\s*[zZ]|[+-]\d\d:?\d\d)?$")[0]
        millis = cells.str.fullmatch(r"\d{13}(?:\d{3}){0,2}").mean() > SURE
        if form == "excel-days" or not (millis or fraction.nunique() > 1):
            return
        raise GuessError(
            f"{self.file}: several samples a second ({cells.iloc[0]}, {cells.iloc[1]}), and the service "
            "keeps whole seconds: all but the last of a second would be lost, so nothing was read. Make one "
            "point of each second before the file is written, or with --mean 1s"
        )

    def _refuse_events(
        self, time: Sequence[str], at: times.Times, keys: Sequence[str], values: Sequence[str]
    ) -> None:
        """Raise GuessError where rows are events: several at a moment, at any distance."""
        import pandas as pd

        doubles = pd.DataFrame({key: self.columns[key] for key in (*time, *keys)}).duplicated().mean()
        distances = np.diff(np.unique(at.seconds[at.reason == Reason.NONE]))
        # Of points of a grid nearly all lie a step apart; of events hardly any two distances are the same.
        if (
            doubles <= MANY
            or len(distances) < 20
            or np.unique(distances, return_counts=True)[1].max() > len(distances) / 2
        ):
            return
        of = f" of {values[0]}" if values else ""
        raise GuessError(
            f"{self.file}: these are events, several a moment ({doubles:.0%} of the rows share one with "
            "another); say what to watch: `--count 5min` how many there are, or `--sum 5min`, `--mean 5min`, "
            f"`--max 5min`, `--p95 5min`{of}"
        )

    def _timezone(self, time: Sequence[str], form: str | None, at: times.Times) -> str | None:
        naive = bool((at.naive & (at.reason == Reason.NONE)).mean() > 1 - SURE)
        name = f"column {time[0]}" if len(time) == 1 else f"columns {', '.join(time)}, joined"
        name += readings.says(form)
        if not naive:
            is_number = self.columns[time[0]].head(500).str.fullmatch(r"[-+]?\d+(?:\.\d+)?").mean() > SURE
            kind = "epoch numbers" if is_number and form is None else "which says its zone"
            self.words.append(f"time: {name}, {kind}" + self._season_zone())
            self.because["timezone"] = "of days and weeks, as --timezone says; the times say their own"
            return self.zone
        zone = self.zone or "UTC"
        taken = f"taken as {zone}" + ("" if self.zone else "; where it is another, name it with --timezone")
        self.words.append(f"time: {name}, which carries no zone, {taken}")
        self.because["timezone"] = "the times carry no zone" + (
            ", it is the one of --timezone" if self.zone else " and nobody named one: UTC is taken"
        )
        return zone

    def _season_zone(self) -> str:
        return f"; days and weeks are those of {self.zone}" if self.zone else ""

    def _kinds(self, time: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the names of the columns of numbers and of texts."""
        numeric, texts = [], []
        for name, cells in self.columns.items():
            filled = cells[~cells.isin(NO_VALUES)]
            if name in time:
                continue
            if not len(filled):
                self.left_out[name] = "empty"
            elif self.written.holds(name, filled):
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
        if self.value is not None:
            return (self._asked_value(numeric),)
        by_name = _named(VALUE_NAMES, numeric)
        candidates = [name for name in numeric if not self._is_identity(name)] or list(numeric)
        if not candidates:
            raise GuessError(
                f"{self.file}: no column of numbers; columns: {shown(self.columns)}; expected numbers such "
                "as 1234.5 or 1.234,5 €, of one unit in a column. Where rows are events, --count 5min "
                "watches how many there are"
            )
        if by_name is not None:
            return (by_name,)
        return (candidates[0],) if metric is not None else tuple(candidates)

    def _asked_value(self, numeric: Sequence[str]) -> str:
        """Return the column that was asked for."""
        if self.value in numeric:
            return str(self.value)
        raise GuessError(
            f"{self.file}: expected a column of numbers as --value, got {self.value!r}; columns of numbers: "
            f"{', '.join(numeric) or 'none'}"
        )

    def _is_identity(self, name: str) -> bool:
        cells = self.columns[name]
        return bool(IDENTITY.fullmatch(name)) and cells.nunique() <= max(20, 0.05 * len(cells))

    def _only_counted(self, numeric: Sequence[str]) -> bool:
        """Return whether rows are counted, and hold no number that could be a value."""
        is_count = self.aggregate is not None and self.aggregate[0] == "count"
        return is_count and self.value is None and all(self._is_identity(name) for name in numeric)

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
        metrics = [name[0] or files.stem(self.file) for name in rows.names]
        meant = watched(metrics, rows.series, rows.ts, rows.value, step)
        self.words += meant.words()
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
            watched=meant,
            because=self.because,
            left_out=self.left_out,
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
        """Return the times of the last lines of text, which may lie behind what was looked at."""
        if files.is_parquet(self.file):
            return np.zeros(0, np.int64)
        lines = tail(self.file).decode("utf-8", "replace").splitlines()[1:]
        at = [self.header.index(name) for name in layout.times]
        rows = (split(line, self.delimiter) for line in lines)
        cells = _joined([[row[i] for i in at] for row in rows if len(row) > max(at)])
        parsed = times.parse_texts(cells, layout.timestamp_format)
        located = times.locate(parsed, timezone, np.zeros(len(cells), np.int64))
        return located.seconds[located.reason == Reason.NONE]

    def _say(
        self, layout: Layout, file_label: str | None, step: int, start: int, stop: int, n_series: int
    ) -> None:
        self._explain_columns(layout)
        if len(layout.values) > 1:
            self.words.append(f"values: {len(layout.values)} columns, each a metric: {_some(layout.values)}")
        elif not layout.values:
            self.words.append("value: no column, every row is an event")
        else:
            self.words.append(f"value: column {layout.values[0]}")
        if layout.metric is not None:
            self.words.append(f"metric: column {layout.metric}")
        elif layout.metric_name:
            named = ", as its column" if layout.values else ""
            self.words.append(f"metric: {layout.metric_name}{named}")
        elif len(layout.values) == 1:
            self.words.append(f"metric: the file's name, {files.stem(self.file)}")
        if layout.labels:
            self.words.append(f"labels: {', '.join(layout.labels)}")
        if file_label is not None:
            self.words.append(f"label {file_label}: the file's name, such as {files.stem(self.file)}")
        self.words.append(f"step: {duration_text(step)}, the distance that a series' points keep")
        first, last = (datetime.fromtimestamp(at, UTC) for at in (start, stop))
        self.words.append(
            f"history: {n_series} series from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
        )
        if self.left_out:
            reasons = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
            self.words.append(f"left out: {reasons}")

    def _explain_columns(self, layout: Layout) -> None:
        if not layout.values:
            value = "no column of numbers: every row is an event"
            self.because["metric_name"] = "what is counted"
        elif len(layout.values) > 1:
            value = "every column of numbers, each a metric of its own"
        elif self.value is not None:
            value = "named by --value"
        else:
            by_name = layout.values[0].lower() in VALUE_NAMES
            value = "the column of numbers" + (", by its name" if by_name else "")
        self.because |= {
            "delimiter": "what parts the names of the columns in the header",
            "value": value,
            "metric": "the text in this column says what is measured",
            "labels": "few different entries: each combination is a series",
        }


def _joined(rows: list[list[str]]) -> Any:
    """Return the texts of the time of rows that have one or more columns of it."""
    import pandas as pd

    parts = [pd.Series(part, dtype="str") for part in zip(*rows, strict=True)]
    if len(parts) == 1:
        return parts[0].to_numpy(object)
    return join_times(parts).to_numpy(object) if parts else np.zeros(0, object)


def _named(names: Sequence[str], columns: Iterable[str]) -> str | None:
    """Return the column that has the first of some names, whatever its case."""
    by_lower = {column.lower(): column for column in columns}
    return next((by_lower[name] for name in names if name in by_lower), None)


def _counts_rows(cells: Any) -> bool:
    """Return whether texts count up by one from 0 or 1."""
    import pandas as pd

    counted = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    return bool(counted[0] in (0.0, 1.0) and (np.diff(counted) == 1).all())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
