"""What people have in a notebook as rows of series: pandas, numpy, and whatever speaks Arrow."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_service.errors import SeriesError
from anomaly_service.sources import times
from anomaly_service.sources.columns import parse_values
from anomaly_service.sources.guess import MANY
from anomaly_service.sources.reasons import Reason
from anomaly_service.sources.sample import SURE
from anomaly_service.sources.steps import usual_step
from anomaly_service.sources.time_columns import TIME_NAMES
from anomaly_service.sources.times import Times
from pipelines.records import Points, Seconds, Values
from pipelines.workers import alone

FIRST_MONDAY = pd.Timestamp("2024-01-01", tz="UTC")
"""When rows without times begin: a Monday, so that a week is a week."""

IN_ORDER = 0.01
"""Share of rows that may come before the row above them in what is sorted: an hour that comes twice does."""

UNNAMED = "value"
"""What a series without a name is called."""

Moment = Any
"""A point in time: whatever ``pandas.Timestamp`` takes; without a zone it is on the clock of the rows."""


@dataclass(frozen=True)
class Reading:
    """How rows are to be read: what the caller of ``detect`` said, checked.

    Attributes:
        step_seconds: distance of rows; None where it is to be told by them.
        start: time of the first row, for rows without times.
        timezone: of times without a zone, and of days and weeks; None where nobody named one.
        timestamp: column of the time; None where it is to be found.
        value: columns to look at; all others where empty.
    """

    step_seconds: int | None = None
    start: Moment = None
    timezone: str | None = None
    timestamp: Hashable = None
    value: tuple[Hashable, ...] = ()


@dataclass(frozen=True)
class Clock:
    """How moments are told: on which clock, and with its zone or without."""

    zone: str | tzinfo = "UTC"
    aware: bool = True

    def moments(self, seconds: Seconds) -> pd.DatetimeIndex:
        """Return epoch seconds as the rows' own times are written."""
        at = pd.DatetimeIndex(np.asarray(seconds, dtype="datetime64[s]"), tz="UTC").tz_convert(self.zone)
        return at if self.aware else at.tz_localize(None)

    def seconds(self, moment: Moment) -> int:
        """Return the epoch second of a moment."""
        at = pd.Timestamp(moment)
        at = at.tz_localize(self.zone) if at.tzinfo is None else at
        return int(np.floor(at.timestamp()))


@dataclass(frozen=True)
class Rows:
    """Rows of one or more series.

    Attributes:
        index: of the rows as they were passed.
        names: of the columns.
        at: epoch second of every row, shape ``(n,)``; 0 where it has none.
        timed: which rows have a time, same shape.
        values: shape ``(n, n_columns)``, NaN where there is none.
        steps: distance of the points of every column, seconds.
        timezone: IANA name, of days and weeks.
        clock: how moments are told.
        notes: what was left out, and why, one sentence each.
    """

    index: pd.Index[Any]
    names: tuple[Hashable, ...]
    at: Seconds
    timed: NDArray[np.bool_]
    values: Values
    steps: tuple[int, ...]
    timezone: str
    clock: Clock
    notes: tuple[str, ...] = ()

    def points(self, column: int) -> Points:
        """Return the points of a column."""
        return alone.points_of(self.at[self.timed], self.values[self.timed, column])


@dataclass
class _Table:
    """Columns by name, and the times of the rows; what is noticed on the way is noted."""

    index: pd.Index[Any]
    columns: Mapping[Hashable, Any]
    times: Times
    timezone: str | None
    clock: Clock
    notes: list[str] = field(default_factory=list)


def rows_of(data: Any, reading: Reading) -> Rows:
    """Return what was passed as rows.

    Args:
        data: a pandas Series or DataFrame, a numpy array of one or two dimensions, or anything with
            ``__arrow_c_stream__``: a table of polars, pyarrow or duckdb.

    Raises:
        SeriesError: it is none of these, has no times or no numbers.
    """
    table = _table(data, reading)
    at, timed = _located(table)
    names = tuple(reading.value or table.columns)
    values = _values(table, names)
    _check_apart(at[timed])
    _note_doubles(table, at[timed])
    rows = Rows(
        index=table.index,
        names=names,
        at=at,
        timed=timed,
        values=values,
        steps=(),
        timezone=table.timezone or "UTC",
        clock=table.clock,
        notes=tuple(table.notes),
    )
    return replace(rows, steps=tuple(_steps(rows, reading)))


# -- tables -------------------------------------------------------------------------


def _table(data: Any, reading: Reading) -> _Table:
    if isinstance(data, pd.Series):
        return _of_pandas(data.to_frame(UNNAMED if data.name is None else data.name), reading)
    if isinstance(data, pd.DataFrame):
        return _of_pandas(data, reading)
    if isinstance(data, np.ndarray | list | tuple):
        return _of_array(np.asarray(data), reading)
    if hasattr(data, "__arrow_c_stream__"):
        return _of_arrow(data, reading)
    raise SeriesError(
        "expected a pandas Series or DataFrame, a numpy array with step=, or a table with "
        f"__arrow_c_stream__ (polars, pyarrow, duckdb), got {type(data).__name__}"
    )


def _of_pandas(frame: pd.DataFrame, reading: Reading) -> _Table:
    if not frame.columns.is_unique:
        doubled = frame.columns[frame.columns.duplicated()][0]
        raise SeriesError(f"several columns are called {doubled!r}; give each a name of its own")
    columns: dict[Hashable, Any] = {name: frame[name] for name in frame.columns}
    index = frame.index
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp(how="start")
    if reading.timestamp is None and isinstance(index, pd.DatetimeIndex):
        # In UTC, as Arrow does not know every kind of zone that pandas does.
        at = times.parse(pa.array(index if index.tz is None else index.tz_convert("UTC")))
        return _timed(frame.index, columns, at, index.tz, reading)
    name = _time_column(columns, reading)
    if name is not None:
        return _with_time_column(frame.index, columns, name, reading)
    if reading.step_seconds is not None:
        return _stepped(frame.index, columns, reading)
    raise SeriesError(
        f"expected a DatetimeIndex or a column of times, got an index of {index.dtype} "
        f"({_some(index[:2])}) and columns {_some(columns)}; set the index with "
        "pandas.to_datetime, name the column with timestamp=, or pass step= for evenly spaced rows"
    )


def _of_array(values: NDArray[Any], reading: Reading) -> _Table:
    if values.ndim not in (1, 2):
        raise SeriesError(f"expected an array of one or two dimensions, got {values.ndim}")
    if reading.step_seconds is None:
        raise SeriesError('an array has no times; pass the distance of its rows, such as step="5min"')
    columns: dict[Hashable, Any] = {UNNAMED: values} if values.ndim == 1 else dict(enumerate(values.T))
    table = _stepped(pd.RangeIndex(len(values)), columns, reading)
    return replace(table, index=table.clock.moments(table.times.seconds))


def _of_arrow(data: Any, reading: Reading) -> _Table:
    try:
        table = pa.table(data)
    except (pa.ArrowInvalid, TypeError, ValueError):
        # One column by itself: a series of polars.
        return _of_array(pa.chunked_array(data).to_numpy(), reading)
    if len(set(table.column_names)) < len(table.column_names):
        raise SeriesError(f"several columns have one name: {_some(table.column_names)}")
    columns: dict[Hashable, Any] = {name: table.column(name).combine_chunks() for name in table.column_names}
    index = pd.RangeIndex(table.num_rows)
    name = _time_column(columns, reading)
    if name is not None:
        table_ = _with_time_column(index, columns, name, reading)
        return replace(table_, index=_index_of_times(table_))
    if reading.step_seconds is not None:
        table_ = _stepped(index, columns, reading)
        return replace(table_, index=table_.clock.moments(table_.times.seconds))
    raise SeriesError(
        f"no column looks like a time; columns: {_some(columns)}; name it with timestamp=, or pass step= "
        "for evenly spaced rows"
    )


def _index_of_times(table: _Table) -> pd.Index[Any]:
    """Return the times of rows as an index; NaT where a row has none."""
    at, timed = _located(replace(table, notes=[]))
    moments = table.clock.moments(at)
    return moments if timed.all() else moments.where(timed)


def _with_time_column(
    index: pd.Index[Any], columns: Mapping[Hashable, Any], name: Hashable, reading: Reading
) -> _Table:
    column = _array(name, columns[name])
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    at = times.parse(column)
    if not (at.reason == Reason.NONE).any():
        why = Reason(int(at.reason[0])).text if len(at.reason) else "it is empty"
        raise SeriesError(f"column {name!r} holds no time: {why}")
    zone = getattr(column.type, "tz", None)
    rest = {other: values for other, values in columns.items() if other != name}
    return _timed(index, rest, at, zone, reading)


def _timed(
    index: pd.Index[Any],
    columns: Mapping[Hashable, Any],
    at: Times,
    zone: str | tzinfo | None,
    reading: Reading,
) -> _Table:
    """Return a table whose rows say when they are."""
    if zone is None and bool(at.naive.any() or not len(at.naive)):
        clock = Clock(reading.timezone or "UTC", aware=False)
        return _Table(index, columns, at, reading.timezone, clock)
    clock = Clock(zone or "UTC")
    return _Table(index, columns, at, reading.timezone or _iana(zone), clock)


def _stepped(index: pd.Index[Any], columns: Mapping[Hashable, Any], reading: Reading) -> _Table:
    """Return a table whose rows are evenly spaced."""
    assert reading.step_seconds is not None
    start = FIRST_MONDAY if reading.start is None else pd.Timestamp(reading.start)
    clock = Clock(start.tzinfo or reading.timezone or "UTC", aware=start.tzinfo is not None)
    seconds = clock.seconds(start) + reading.step_seconds * np.arange(len(index), dtype=np.int64)
    none = np.zeros(len(index), dtype=np.bool_)
    at = Times(seconds, none, np.zeros(len(index), dtype=np.uint8))
    return _Table(index, columns, at, reading.timezone or _iana(start.tzinfo), clock)


def _iana(zone: str | tzinfo | None) -> str | None:
    """Return the IANA name of a zone; None where it has none, as an offset from UTC."""
    from zoneinfo import available_timezones

    name = str(zone)
    return name if zone is not None and name in available_timezones() else None


def _time_column(columns: Mapping[Hashable, Any], reading: Reading) -> Hashable | None:
    """Return the column of the time: as named, the only one of times, or by its name; None where none is.

    Raises:
        SeriesError: there is no column of the name given, or there are several of times.
    """
    if reading.timestamp is not None:
        if reading.timestamp not in columns:
            raise SeriesError(f"there is no column {reading.timestamp!r}; columns: {_some(columns)}")
        return reading.timestamp
    of_times = [name for name, values in columns.items() if _holds_times(values)]
    named = [name for word in TIME_NAMES for name in columns if str(name).lower() == word]
    found = [name for name in named if name in of_times] or of_times
    if len(found) > 1 and found[0] not in named:
        raise SeriesError(
            f"several columns hold times: {_some(found)}; name the one to go by with timestamp="
        )
    return next(iter([*found, *(name for name in named if _reads_as_times(name, columns[name]))]), None)


def _holds_times(values: Any) -> bool:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
    return pd.api.types.is_datetime64_any_dtype(values.dtype)


def _reads_as_times(name: Hashable, values: Any) -> bool:
    at = times.parse(_array(name, values))
    return bool(len(at.reason)) and float((at.reason == Reason.NONE).mean()) >= SURE


# -- times --------------------------------------------------------------------------


def _located(table: _Table) -> tuple[Seconds, NDArray[np.bool_]]:
    """Return the epoch second of every row, and which rows have one; notes the others.

    Raises:
        SeriesError: no row has one.
    """
    back = np.diff(table.times.seconds) < 0
    # What stands newest first is read from its end: the order tells the hours that come twice apart.
    turn = slice(None, None, -1) if len(back) and back.mean() > 0.5 else slice(None)
    at = Times(table.times.seconds[turn], table.times.naive[turn], table.times.reason[turn])
    order = np.diff(at.seconds) < 0
    found = times.locate(
        at,
        table.timezone or "UTC",
        np.zeros(len(at.seconds), dtype=np.int64),
        in_order=not len(order) or float(order.mean()) <= IN_ORDER,
    )
    seconds, reason = found.seconds[turn], found.reason[turn]
    for why in np.unique(reason[reason != Reason.NONE]).tolist():
        n = int(np.count_nonzero(reason == why))
        table.notes.append(f"{_counted(n, 'row')} left out: {Reason(why).text}")
    timed = reason == Reason.NONE
    if len(timed) and not timed.any():
        why = " and ".join(Reason(each).text for each in np.unique(reason).tolist())
        first, last = table.index[0], table.index[-1]
        raise SeriesError(f"no row can be used: {why}; got times from {first} to {last}")
    return np.where(timed, seconds, 0), np.asarray(timed)


def _check_apart(at: Seconds) -> None:
    """Refuse rows that come faster than seconds can tell.

    Raises:
        SeriesError: most rows share a second with another.
    """
    n = len(np.unique(at))
    if len(at) > 2 and n < len(at) / 2:
        raise SeriesError(
            f"{len(at):,} rows have {n:,} different seconds; resample what comes more often than that "
            "(frame.resample('1s').mean()), and put series that stand below each other into columns "
            "(frame.pivot)"
        )


def _note_doubles(table: _Table, at: Seconds) -> None:
    n = len(at) - len(np.unique(at))
    if n > MANY * len(at):
        table.notes.append(f"{_counted(n, 'row')} with the time of another: the last one counts")


def _steps(rows: Rows, reading: Reading) -> Iterator[int]:
    """Yield the distance of the points of every column."""
    for column in range(len(rows.names)):
        if reading.step_seconds is not None:
            yield reading.step_seconds
        else:
            ts = rows.points(column).ts
            yield usual_step(np.zeros(len(ts), dtype=np.int64), ts)


# -- values -------------------------------------------------------------------------


def _values(table: _Table, names: Sequence[Hashable]) -> Values:
    """Return the numbers of some columns, NaN where there is none.

    Raises:
        SeriesError: a column that is not there, or that holds something else than numbers.
    """
    unknown = [name for name in names if name not in table.columns]
    if unknown:
        raise SeriesError(f"there is no column {unknown[0]!r}; columns: {_some(table.columns)}")
    if not names:
        raise SeriesError("there is no column of values beside the time")
    arrays = {name: _array(name, table.columns[name]) for name in names}
    wrong = {name: what for name, each in arrays.items() if (what := _no_numbers(each.type))}
    if wrong:
        told = ", ".join(f"{name!r} ({what})" for name, what in wrong.items())
        raise SeriesError(
            f"expected numbers, got something else: {told}; name the columns of numbers with value="
        )
    out = np.empty((len(table.index), len(names)))
    for number, (name, array) in enumerate(arrays.items()):
        out[:, number], reason = parse_values(array)
        infinite = reason == Reason.INFINITE_VALUE
        out[infinite, number] = np.nan
        if infinite.any():
            n = int(np.count_nonzero(infinite))
            table.notes.append(f"{_counted(n, 'value')} of {name} left out: {Reason.INFINITE_VALUE.text}")
    return out


def _array(name: Hashable, values: Any) -> Any:
    """Return a column as an Arrow array.

    Raises:
        SeriesError: its cells are of different kinds.
    """
    try:
        array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise SeriesError(f"column {name!r} cannot be read as numbers: {error}") from None
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    # What polars has for texts.
    return array.cast(pa.string()) if pa.types.is_string_view(array.type) else array


def _no_numbers(kind: Any) -> str:
    """Return what a column holds that is no column of numbers; empty where it is one."""
    types = pa.types
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return ""
    if types.is_null(kind):
        return ""
    if types.is_string(kind) or types.is_large_string(kind):
        return "texts"
    if types.is_dictionary(kind):
        return "categories"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "times"
    return str(kind)


def _some(names: Any, most: int = 8) -> str:
    listed = [repr(each) if isinstance(each, str) else str(each) for each in list(names)[: most + 1]]
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "") or "none"


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'s'[: n != 1]}"
