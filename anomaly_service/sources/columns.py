"""Columns of a table to points of series: shared by every source that reads tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_service.errors import SourceError
from anomaly_service.sources import door, times
from anomaly_service.sources.base import Reading, Reject, SourceConfig, Whence
from anomaly_service.sources.numbers import PLAIN, Form
from anomaly_service.sources.numbers import parse as parse_numbers
from anomaly_service.sources.reasons import Reason
from pipelines.records import Json, PointBlock, Seconds, SeriesSpec, Values

NO_VALUES = [
    "", "NaN", "nan", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None", "none", "nil",
    "-", "--", "\u2014", "unavailable", "unknown", "undefined",
]  # fmt: skip
"""What stands for a value that is not there."""

EARLY, RECENT = 2 * 365 * 86_400, 946_684_800
"""Epoch seconds: 1972, before which nobody has telemetry, and 2000."""

MIDNIGHT = r"[T ]00:00(?::00(?:\.0+)?)?$"

Name = tuple[str, tuple[tuple[str, str], ...]]
"""Metric, then (label, value) pairs without the empty ones."""


@dataclass(frozen=True)
class Layout:
    """Which columns hold what.

    Attributes:
        values: value columns; of several each is a series of its own, named after its column. Where there is
            none, every row is an event, a point of 1.
        metric: column that names the metric, or None.
        metric_name: the metric where no column names it; with several value columns a prefix.
        forms: how the numbers of each value column are written; plain where empty.
        fixed: labels that every row has.
        more_times: columns that hold the rest of the time, such as a date's hour, from left to right.
    """

    timestamp: str
    values: tuple[str, ...]
    metric: str | None = None
    metric_name: str = ""
    labels: tuple[str, ...] = ()
    fixed: tuple[tuple[str, str], ...] = ()
    timestamp_format: str | None = None
    more_times: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ()

    @property
    def times(self) -> tuple[str, ...]:
        """Return every column that the time is read from."""
        return (self.timestamp, *self.more_times)

    def form(self, i: int) -> Form:
        """Return how the numbers of the value column of that index are written."""
        return self.forms[i] if self.forms else PLAIN

    @property
    def is_plain(self) -> bool:
        """Return whether every number is written as programs do."""
        return all(form.is_plain for form in self.forms)

    @property
    def columns(self) -> list[str]:
        """Return every column that is read, once each."""
        names = [*self.times, *self.values, *self.labels]
        return list(dict.fromkeys(names if self.metric is None else [*names, self.metric]))


@dataclass(frozen=True)
class Rows:
    """What became of a table's rows.

    Attributes:
        names: the series; ``series`` points into it.
        row: which row of the table each point is of.
        bad_rows, bad_reasons: rows set aside, and why; ascending.
        last_at: UTC seconds of the last readable row, or None.
        open_fold: the rows end inside an hour that the local clock may run through twice.
    """

    names: list[Name]
    series: Seconds
    ts: Seconds
    value: Values
    row: Seconds
    bad_rows: Seconds
    bad_reasons: NDArray[np.uint8]
    last_at: int | None = None
    open_fold: bool = False


def read_table(
    table: Any, layout: Layout, zone: str | None, *, before: int | None = None, in_order: bool = True
) -> Rows:
    """Return the points of an Arrow table and the rows that hold none.

    Args:
        zone: of timestamps that carry none; None refuses those.
        before: UTC seconds of the row before the table, for ``times.locate``.

    Raises:
        SourceError: a column is of a type that holds no times, values or labels.
    """
    _check_types(table, layout)
    rows = _read(table, layout, zone, before=before, in_order=in_order)
    _check_swapped(rows, layout)
    _check_digits(rows, layout)
    return rows


def _check_swapped(rows: Rows, layout: Layout) -> None:
    """Refuse values for times: numbers of any size can be both, but hardly all of both the wrong way round.

    Raises:
        SourceError: all times lie in the first years of counting, and all values look like times of today.
    """
    if (
        layout.values
        and len(rows.ts)
        and rows.ts.max() < EARLY
        and rows.value.min() > RECENT
        and rows.value.max() < 1e20
    ):
        raise SourceError(
            f"the times lie around 1970, and the values look like times; did you mean timestamp: "
            f"{layout.values[0]} and value: {layout.timestamp}?"
        )


def _check_digits(rows: Rows, layout: Layout) -> None:
    """Refuse days written as digits where epoch numbers are expected: 20251001 is no moment of 1970.

    Raises:
        SourceError: all times, as numbers, are days of the calendar.
    """
    ts = rows.ts
    if layout.timestamp_format is not None or not len(ts) or ts.min() < 19_900_101 or ts.max() > 21_001_231:
        return
    month, day = ts // 100 % 100, ts % 100
    if ((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all():
        raise SourceError(
            f"times such as {ts[0]} would be seconds of 1970, and look like days written as YYYYMMDD; "
            "expected timestamp_format: yyyymmdd, or timestamp_format: epoch where they are seconds"
        )


def _read(table: Any, layout: Layout, zone: str | None, *, before: int | None, in_order: bool) -> Rows:
    at = times.parse(_time_array(table, layout), layout.timestamp_format)
    names, series, unnamed = _series(table, layout)
    located = times.locate(at, zone, series, before=before, in_order=in_order)
    base = np.where(located.reason == Reason.NONE, unnamed, located.reason)
    parts = [_column(table, layout, i, base) for i in range(len(layout.values))] or [_events(base)]
    reason = np.maximum.reduce([r for _, r in parts]) if len(parts) > 1 else parts[0][1]
    good = [r == Reason.NONE for _, r in parts]
    if len(parts) > 1:
        # A wide table may have holes: an empty cell is a point that is not there, not a bad row.
        reason = np.where(reason == Reason.NO_VALUE, Reason.NONE, reason)
    bad = np.flatnonzero(reason)
    usable = np.flatnonzero(base == 0)
    return Rows(
        names=_with_columns(names, layout),
        series=np.concatenate([series[ok] + i * len(names) for i, ok in enumerate(good)]),
        ts=np.concatenate([located.seconds[ok] for ok in good]),
        value=np.concatenate([v[ok] for (v, _), ok in zip(parts, good, strict=True)]),
        row=np.concatenate([np.flatnonzero(ok) for ok in good]),
        bad_rows=bad,
        bad_reasons=reason[bad].astype(np.uint8),
        last_at=int(located.seconds[usable[-1]]) if len(usable) else None,
        open_fold=located.open_fold,
    )


def _time_array(table: Any, layout: Layout) -> Any:
    """Return the column of the time; where several hold it, their texts joined by spaces."""
    if not layout.more_times:
        return _array(table, layout.timestamp)
    import pyarrow as pa

    parts = [_array(table, name) for name in layout.times]
    return pa.array(join_times([part.cast(pa.string()).to_pandas() for part in parts]), pa.string())


def join_times(parts: Sequence[Any]) -> Any:
    """Return a date and what follows it as one text each; parts are pandas Series of texts.

    A date that was stored as a moment brings a midnight of its own, which the other columns replace.
    """
    date, *rest = (part.fillna("").astype("str").str.strip() for part in parts)
    joined = date.str.replace(MIDNIGHT, "", regex=True)
    for part in rest:
        joined = joined + " " + part.str.replace(r"\.0$", "", regex=True)
    return joined.str.strip()


def _array(table: Any, name: str) -> Any:
    """Return a column as one Arrow array."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _column(table: Any, layout: Layout, i: int, base: NDArray[Any]) -> tuple[Values, NDArray[Any]]:
    values, reason = parse_values(_array(table, layout.values[i]), layout.form(i))
    return values, np.where(base == 0, reason, base)


def _events(base: NDArray[Any]) -> tuple[Values, NDArray[Any]]:
    return np.ones(len(base)), base


def parse_values(column: Any, form: Form = PLAIN) -> tuple[Values, NDArray[np.uint8]]:
    """Return the numbers of an Arrow array, and why some are none."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        return _values_of_texts(column, form)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    numbers = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
    return numbers, _value_reason(numbers, missing | np.isnan(numbers))


def _check_types(table: Any, layout: Layout) -> None:
    """Refuse columns whose type holds none of what they are named for."""
    import pyarrow as pa

    for name in layout.columns:
        kind = table.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_time = name in layout.times
        holds = _is_text(kind) or _is_number(kind)
        if is_time:
            holds = (holds and not pa.types.is_boolean(kind)) or _is_moment(kind)
        if not holds:
            wanted = "times" if is_time else "numbers or texts"
            raise SourceError(
                f"column {name} is of type {kind}, which holds no {wanted}; convert it, or leave it out"
            )


def _is_moment(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    tests = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_boolean,
        pa.types.is_null,
    )
    return any(test(kind) for test in tests)


def _values_of_texts(column: Any, form: Form) -> tuple[Values, NDArray[np.uint8]]:
    import pandas as pd

    text = pd.Series(column.to_pandas(), dtype="str").str.strip()
    missing = text.isna() | text.isin(NO_VALUES)
    numbers, strange = _numbers(text, form)
    reason = _value_reason(numbers, missing.to_numpy(bool))
    reason[(reason == Reason.NONE) & np.isnan(numbers)] = Reason.BAD_VALUE
    reason[strange] = Reason.UNIT
    return numbers, reason


def _numbers(text: Any, form: Form) -> tuple[Values, NDArray[np.bool_]]:
    """Return the numbers of texts, and which carry a unit that is not the column's."""
    import pandas as pd

    if not form.is_plain:
        return parse_numbers(text, form)
    return pd.to_numeric(text, errors="coerce").to_numpy(float), np.zeros(len(text), bool)


def _value_reason(numbers: Values, missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    reason = np.where(np.isinf(numbers), Reason.INFINITE_VALUE, Reason.NONE)
    return np.where(missing, Reason.NO_VALUE, reason).astype(np.uint8)


def _series(table: Any, layout: Layout) -> tuple[list[Name], Seconds, NDArray[np.uint8]]:
    """Return the series of a table, each row's index among them, and why some rows belong to none."""
    names = list(layout.labels) if layout.metric is None else [layout.metric, *layout.labels]
    encoded = [_encode(_array(table, name)) for name in names]
    rows, combos = _combine([(codes, len(words)) for codes, words in encoded], table.num_rows)
    words = [[words[i] for i in column] for (_, words), column in zip(encoded, combos, strict=True)]
    metrics = words.pop(0) if layout.metric is not None else [layout.metric_name] * _count(combos)
    found = [
        (metric, (*((k, v) for k, v in zip(layout.labels, values, strict=True) if v), *layout.fixed))
        for metric, *values in zip(metrics, *words, strict=True)
    ]
    is_needed = layout.metric is not None
    reason = np.array([_name_reason(name, is_needed=is_needed) for name in found], np.uint8)
    return found, rows, reason[rows] if len(reason) else np.zeros(table.num_rows, np.uint8)


def _name_reason(name: Name, *, is_needed: bool) -> Reason:
    metric, labels = name
    if is_needed and not metric:
        return Reason.NO_METRIC
    return door.name_reason(metric, dict(labels))


def _count(combos: Sequence[Seconds]) -> int:
    return len(combos[0]) if combos else 1


def _encode(column: Any) -> tuple[Seconds, list[str]]:
    """Return each row's index into the different texts of a column; nothing reads as empty."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    words = ["" if word is None else str(word).strip() for word in column.dictionary.to_pylist()]
    codes = column.indices.cast(pa.int64()).fill_null(len(words)).to_numpy(zero_copy_only=False)
    return codes, [*words, ""]


def _combine(columns: Sequence[tuple[Seconds, int]], n_rows: int) -> tuple[Seconds, list[Seconds]]:
    """Return each row's index among the combinations that occur, and those, column by column."""
    if not columns:
        return np.zeros(n_rows, np.int64), []
    codes, sizes = zip(*columns, strict=True)
    rows, found = _dense(codes[0], sizes[0])
    combos = [found]
    for code, size in zip(codes[1:], sizes[1:], strict=True):
        # Dense after every column, so that the products of sizes stay small.
        rows, found = _dense(rows * size + code, len(combos[0]) * size)
        combos = [column[found // size] for column in combos] + [found % size]
    return rows, combos


def _dense(codes: Seconds, size: int) -> tuple[Seconds, Seconds]:
    """Return codes below ``size`` numbered without holes, and the codes those numbers stand for."""
    if size > 4 * len(codes) + 1024:
        found, rows = np.unique(codes, return_inverse=True)
        return rows, found
    seen = np.zeros(size, bool)
    seen[codes] = True
    found = np.flatnonzero(seen)
    number = np.empty(size, np.int64)
    number[found] = np.arange(len(found))
    return number[codes], found


def _with_columns(names: list[Name], layout: Layout) -> list[Name]:
    """Return the names of all series: with several value columns each name once per column."""
    if len(layout.values) <= 1:
        return names
    return [
        (f"{metric}.{column}" if metric else column, labels)
        for column in layout.values
        for metric, labels in names
    ]


@dataclass
class Collected:
    """Rows of many tables on their way to one batch.

    ``notes`` are sentences on what is as nobody can have meant it, for the outcome of the read.
    """

    source: str
    config: SourceConfig
    index: dict[Name, int] = field(default_factory=dict)
    series: list[Seconds] = field(default_factory=list)
    ts: list[Seconds] = field(default_factory=list)
    value: list[Values] = field(default_factory=list)
    line: list[Seconds] = field(default_factory=list)
    origins: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    progress: dict[str, Json] = field(default_factory=dict)
    n_rows: int = 0

    def add(self, rows: Rows, origin: str = "", line: Seconds | int = 1) -> None:
        """Take over the points of a table.

        Args:
            origin: the file; the source's name where empty.
            line: of every row of the table, or of the first where they follow each other.
        """
        number = [self.index.setdefault(name, len(self.index)) for name in rows.names]
        self.series.append(np.array(number, np.int64)[rows.series])
        self.ts.append(rows.ts)
        self.value.append(rows.value)
        self.line.append(rows.row + line if isinstance(line, int) else line[rows.row])
        self.origins.append((origin or self.source, len(rows.ts)))
        self.n_rows += len(rows.ts) + len(rows.bad_rows)

    def reject(self, origin: str, rows: Sequence[tuple[int, Reason, str]], *, hides: bool = False) -> None:
        """Set rows aside: line, reason and raw text of each, the text not where it hides."""
        length = 0 if hides else RAW_LENGTH
        self.rejects += [Reject(origin, line, reason.text, raw[:length]) for line, reason, raw in rows]

    def refuse(self, origin: str, line: int, why: str) -> None:
        """Set what is left of a file aside from a line on; 0 is the whole of it."""
        self.rejects.append(Reject(origin, line, why, ""))

    def reading(self, share: float) -> Reading:
        """Return the batch; only series that have points are in it."""
        rows = np.concatenate([np.zeros(0, np.int64), *self.series])
        used = np.unique(rows)
        names = list(self.index)
        return Reading(
            source=self.source,
            series=[self._spec(names[i]) for i in used],
            points=PointBlock(
                np.searchsorted(used, rows),
                np.concatenate([np.zeros(0, np.int64), *self.ts]),
                np.concatenate([np.zeros(0), *self.value]),
            ),
            progress=self.progress,
            rejected=len(self.rejects),
            rejects=self.rejects,
            share=share,
            whence=self._whence(),
            notes=self.notes,
        )

    def _whence(self) -> Whence:
        files = {origin: i for i, origin in enumerate(dict.fromkeys(origin for origin, _ in self.origins))}
        counts = [n for _, n in self.origins]
        file = np.repeat(np.array([files[origin] for origin, _ in self.origins], np.int32), counts)
        return Whence(tuple(files), file, np.concatenate([np.zeros(0, np.int64), *self.line]))

    def _spec(self, name: Name) -> SeriesSpec:
        metric, labels = name
        return self.config.spec(self.source, metric, dict(labels))


RAW_LENGTH = 1_000
"""Characters of a rejected row that are kept."""
