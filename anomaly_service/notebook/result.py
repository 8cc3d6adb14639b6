"""What ``detect`` returns: scores, what would have been normal, intervals, and a picture of them."""

from __future__ import annotations

import html
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from anomaly_service.config.values import duration_text
from anomaly_service.errors import SeriesError
from anomaly_service.notebook.asked import Asked, Judged, judged, judged_later, targets_of
from anomaly_service.notebook.rows import Moment, Rows, rows_of
from pipelines.names import Kind, Status
from pipelines.records import Interval
from pipelines.workers import alone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPECTED = ("yhat", "yhat_lower", "yhat_upper")

SHOWN_INTERVALS = 10
"""Intervals in a repr, those with the highest scores; the rest is counted."""

NUMBERS = ("peak_score", "y_at_peak", "yhat_at_peak")

SHOWN_COLUMNS = ("series", "kind", "start_at", "end_at", "direction", *NUMBERS)
"""Of a repr: what a person reads first."""

AT_POINTS = (Kind.ANOMALY, Kind.FLATLINE)
"""Intervals that hold points which are anomalous; the others are gaps."""


def detected(data: Any, asked: Asked) -> Detected:
    """Fit every series of what was passed, and return what is anomalous in them.

    Raises:
        SeriesError: none of them can be learned from; of several, the others are left out.
    """
    rows = rows_of(data, asked.reading)
    found, left_out = [], dict[Hashable, SeriesError]()
    for name, columns in targets_of(rows, asked).items():
        try:
            found.append(judged(name, columns, rows, asked))
        except SeriesError as error:
            left_out[name] = error
    if not found:
        raise next(iter(left_out.values()))
    return Detected(rows, tuple(found), asked, {name: str(why) for name, why in left_out.items()})


@dataclass(frozen=True, repr=False, eq=False)
class Detected:
    """What is anomalous in one series or in several.

    Of several, ``found["logins"]`` is that of one of them, and iterating yields their names.

    Attributes:
        left_out: why some of several series could not be learned from, by name.
    """

    _rows: Rows
    _targets: tuple[Judged, ...]
    _asked: Asked
    left_out: Mapping[Hashable, str]

    # -- tables ---------------------------------------------------------------------

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A row for every row that was passed, with its index.

        ``y``, ``yhat`` with its band ``yhat_lower`` to ``yhat_upper`` (two deviations: 95 of 100 normal
        values), ``anomaly_score`` (1 is the line, NaN where there is none) and ``is_anomaly``: whether the
        row lies in a flagged interval. Of several series the columns have two levels, the first is the
        series; of channels that are one target only the last two columns are left, the rest is in
        ``expected``.
        """
        if len(self._targets) == 1:
            return self._scores_of(self._targets[0])
        return pd.concat({each.name: self._scores_of(each) for each in self._targets}, axis=1)

    @cached_property
    def expected(self) -> pd.DataFrame:
        """What would have been normal: ``yhat``, ``yhat_lower``, ``yhat_upper``, for every row passed.

        In flagged intervals it is the model's word with the interval hidden, elsewhere season and level. Of
        several series or channels the columns have two levels.
        """
        frames: dict[Hashable, pd.DataFrame] = {
            self._rows.names[column]: self._expected_of(each, channel)
            for each in self._targets
            for channel, column in enumerate(each.columns)
        }
        return next(iter(frames.values())) if len(frames) == 1 else pd.concat(frames, axis=1)

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """Flagged intervals in order of time, in the words of the view ``flagged_intervals``."""
        found = [(each, interval) for each in self._targets for interval in each.found]
        found.sort(key=lambda pair: (pair[1].start, str(pair[0].name)))
        moments = {
            name: self._rows.clock.moments(np.array([getattr(i, own) for _, i in found], dtype=np.int64))
            for name, own in (("start_at", "start"), ("end_at", "end"), ("peak_at", "peak_at"))
        }
        rows = [_told(each, interval) for each, interval in found]
        frame = pd.DataFrame(rows, columns=list(_COLUMNS))
        for name, own in moments.items():
            frame[name] = own
        frame["first_detected_at"] = self._detected_at(found)
        if all(len(each.columns) == 1 for each in self._targets):
            frame = frame.drop(columns=["channel", "channel_shares"])
        return frame.astype({name: kind for name, kind in _COLUMNS.items() if kind and name in frame})

    def _detected_at(self, found: Sequence[tuple[Judged, Interval]]) -> Any:
        """Return when the step that a live score first reached the line at was over; NaT where none did."""
        at = [None if i.detected_at is None else i.detected_at + each.step_seconds for each, i in found]
        known = np.array([each is not None for each in at], dtype=np.bool_)
        moments = self._rows.clock.moments(np.array([each or 0 for each in at], dtype=np.int64))
        return pd.Series(moments).where(known)

    def _steps(self, of: Judged) -> tuple[Any, Any]:
        """Return the step of every row, and which rows have one."""
        if not len(of.ts):
            return np.zeros(len(self._rows.at), dtype=np.int64), np.zeros(len(self._rows.at), dtype=np.bool_)
        at, inside = alone.grid_steps(self._rows.at, of.ts, of.step_seconds)
        return at, inside & self._rows.timed

    def _at_rows(self, of: Judged, values: Any) -> Any:
        at, inside = self._steps(of)
        out = np.full(len(at), np.nan)
        out[inside] = values[at[inside]]
        return out

    def _scores_of(self, of: Judged) -> pd.DataFrame:
        columns: dict[str, Any] = {}
        if len(of.columns) == 1:
            columns["y"] = self._rows.values[:, of.columns[0]]
            columns |= dict(zip(EXPECTED, self._expected_of(of, 0).to_numpy().T, strict=True))
        columns["anomaly_score"] = self._at_rows(of, of.anomaly_score)
        columns["is_anomaly"] = self._is_anomaly(of)
        return pd.DataFrame({name: np.asarray(own) for name, own in columns.items()}, index=self._rows.index)

    def _is_anomaly(self, of: Judged) -> Any:
        flagged = np.zeros(len(of.ts), dtype=np.bool_)
        for interval in of.found:
            if interval.kind in AT_POINTS:
                a, b = np.searchsorted(of.ts, [interval.start, interval.end + 1])
                flagged[a:b] = True
        seen = np.isfinite(self._rows.values[:, list(of.columns)]).any(axis=1)
        return (self._at_rows(of, flagged.astype(np.float64)) == 1.0) & seen

    def _expected_of(self, of: Judged, channel: int) -> pd.DataFrame:
        sides = (of.band.mid, of.band.low, of.band.high)
        columns = {
            name: self._at_rows(of, side[:, channel]) for name, side in zip(EXPECTED, sides, strict=True)
        }
        return pd.DataFrame(columns, index=self._rows.index)

    # -- one of several -------------------------------------------------------------

    def __getitem__(self, name: Hashable) -> Detected:
        """Return what is anomalous in one of several series."""
        for each in self._targets:
            if each.name == name:
                return replace(self, _targets=(each,), left_out={})
        why = f": {self.left_out[name]}" if name in self.left_out else ""
        raise KeyError(f"there is no result for {name!r}{why}; there are: {', '.join(map(repr, self))}")

    def __iter__(self) -> Iterator[Hashable]:
        return iter([each.name for each in self._targets])

    def __len__(self) -> int:
        return len(self._targets)

    # -- going on -------------------------------------------------------------------

    def score(self, data: Any) -> Detected:
        """Return what is anomalous in rows that came since, by the models there are: nothing is fitted.

        Every row goes by its live score, as when it had just come: nothing after it is looked at. What comes
        after these rows is scored by the result's own ``score``, which knows them.

        Args:
            data: like what was passed to ``detect``; arrays go on where the last ended.

        Raises:
            SeriesError: it cannot be read, lacks a series, or holds no value.
        """
        first = self._targets[0]
        zone = self._asked.reading.timezone or self._rows.timezone
        reading = replace(self._asked.reading, step_seconds=first.step_seconds, timezone=zone)
        if self._asked.reading.step_seconds is not None:
            last = max(int(each.history.stop) for each in self._targets)
            start = self._rows.clock.moments(np.array([last + (first.step_seconds - 1) // 2]))[0]
            reading = replace(reading, start=start)
        rows = rows_of(data, reading)
        rows = replace(rows, clock=self._rows.clock)
        found = [judged_later(each, self._columns(each, rows), rows) for each in self._targets]
        known = tuple(each for each in found if each is not None)
        if not known:
            raise SeriesError("no row has both a time and a value")
        return Detected(rows, known, self._asked, {})

    def _columns(self, of: Judged, rows: Rows) -> tuple[int, ...]:
        """Return the columns that hold the channels of a target: by name, a single one whatever its name."""
        if len(rows.names) == 1 and len(self._targets) == 1 and len(of.columns) == 1:
            return (0,)
        names = [self._rows.names[column] for column in of.columns]
        missing = [name for name in names if name not in rows.names]
        if missing:
            raise SeriesError(f"there is no column {missing[0]!r}; pass the columns that were fitted")
        return tuple(rows.names.index(name) for name in names)

    def sample(self, n: int = 1, *, seed: int = 0) -> pd.DataFrame:
        """Return windows as the model would have them at the end of the history, a column for each.

        With season, level and scale of that time, in the series' own unit. Of several series or channels the
        columns have two levels.
        """
        frames: dict[Hashable, pd.DataFrame] = {}
        for of in self._targets:
            lead, *_ = of.model.members
            stop = of.history.stop
            drawn = alone.drawn(lead, of.model.fitted.weights, of.history.points, stop, n, seed=seed)
            index = self._rows.clock.moments(drawn.ts)
            for channel, column in enumerate(of.columns):
                frames[self._rows.names[column]] = pd.DataFrame(drawn.values[:, :, channel].T, index=index)
        return next(iter(frames.values())) if len(frames) == 1 else pd.concat(frames, axis=1)

    # -- looking --------------------------------------------------------------------

    def plot(self, start: Moment = None, stop: Moment = None) -> Figure:
        """Return a picture: values in their band, flagged intervals, and scores with the line.

        Args:
            start, stop: what to look at, first and last moment; all where None.

        Raises:
            NoPlotError: matplotlib is not installed.
        """
        from anomaly_service.notebook.picture import picture

        return picture(self._rows, self._targets, start, stop)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know: rows left out, a budget that cannot be held, a model that is bad."""
        notes = list(self._rows.notes)
        for each in self._targets:
            notes += [f"{each.name}: {why}" for why in each.model.refused]
            notes += [
                f"{each.name}: the service would not use this model: {why}"
                for why in each.model.fitted.broken
            ]
        return (*notes, *(f"left out: {why}" for why in self.left_out.values()))

    def __repr__(self) -> str:
        table = self._shown()
        lines = [self._summary(), *([table.to_string(index=False)] if len(table) else [])]
        return "\n".join([*lines, *self._ends()])

    def _repr_html_(self) -> str:
        table = self._shown()
        shown = table.to_html(index=False, border=0) if len(table) else ""
        ends = "".join(f"<p>{html.escape(each)}</p>" for each in self._ends())
        return f"<p>{html.escape(self._summary())}</p>{shown}{ends}"

    def _summary(self) -> str:
        n = len(self.intervals)
        what = f"{self._targets[0].name!r}" if len(self) == 1 else f"{len(self)} series"
        spec, steps = self._targets[0].model.spec, {each.step_seconds for each in self._targets}
        every = " and ".join(duration_text(each) for each in sorted(steps))
        times = self._rows.at[self._rows.timed]
        first, last = self._rows.clock.moments(np.array([times.min(), times.max()]))
        return (
            f"{n or 'no'} interval{'s'[: n != 1]} flagged in {what} by {spec.detector}: "
            f"{len(self._rows.at):,} rows from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}, every {every}"
        )

    def _shown(self) -> pd.DataFrame:
        columns = [name for name in SHOWN_COLUMNS if name != "series" or len(self) > 1]
        if "channel" in self.intervals:
            columns.append("channel")
        highest = self.intervals.nlargest(SHOWN_INTERVALS, "peak_score").sort_index()
        table = highest[columns].copy()
        for name in NUMBERS:
            table[name] = table[name].map(lambda value: "" if pd.isna(value) else f"{value:,.4g}")
        return table

    def _ends(self) -> list[str]:
        more = len(self.intervals) - SHOWN_INTERVALS
        counted = [f"and {more:,} more with lower scores: .intervals"] if more > 0 else []
        return [*counted, *(f"note: {each}" for each in self.notes)]


_COLUMNS = {
    "series": "object",
    "kind": "object",
    "start_at": "",
    "end_at": "",
    "duration_seconds": "int64",
    "status": "object",
    "direction": "object",
    "peak_at": "",
    "peak_score": "float64",
    "mean_score": "float64",
    "n_points": "int64",
    "y_at_peak": "float64",
    "yhat_at_peak": "float64",
    "impact": "float64",
    "channel": "object",
    "channel_shares": "object",
    "first_detected_at": "",
}
"""Columns of ``intervals``, each one of the view's, and what they hold; empty for moments."""


def _told(of: Judged, interval: Interval) -> dict[str, Any]:
    """Return a flagged interval by the view's columns; moments are put in later."""
    return {
        "series": of.name,
        "kind": str(interval.kind),
        "duration_seconds": interval.end - interval.start + of.step_seconds,
        "status": str(Status.OPEN if interval.open else Status.CLOSED),
        "direction": interval.direction,
        "peak_score": interval.peak_score,
        "mean_score": interval.mean_score,
        "n_points": interval.n_points,
        "y_at_peak": interval.y_at_peak,
        "yhat_at_peak": interval.yhat_at_peak,
        "impact": interval.impact,
        "channel": interval.channel,
        "channel_shares": interval.shares,
    }
