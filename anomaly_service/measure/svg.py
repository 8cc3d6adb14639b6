"""Pictures of a series and of a detector's scores on it, as inline SVG of a few kilobytes each.

Every picture is as wide as the page and as many pixels as it needs: of longer series each pixel column
shows the lowest and the highest value, so that no spike is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anomaly_service.wording import figure, local

if TYPE_CHECKING:
    from pipelines.measure.backtest import Plotted
    from pipelines.measure.metrics import Segments

WIDTH = 1200
VALUE_HEIGHT, SCORE_HEIGHT, STRIP_HEIGHT = 170, 64, 9
MARGIN = 4
SCORE_TOP = 3.0
"""Anomaly scores are shown up to this, three times the line; higher ones touch the upper edge."""
TICKS = 6
NARROWEST = 2.5
"""Pixels that an interval is wide at least, or one step of a long series would not be seen."""
TAIL = 0.002
"""Share of the values beyond either edge of the panel where a few would flatten all others."""
FAR = 2.0
"""Those few lie at least this many times the rest's height away."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Pictures:
    """A series, and a detector's view of it.

    Attributes:
        values: the values, what is usual, and the labels.
        scores: what was flagged, settled and live, above the scores.
    """

    values: str
    scores: str


def course(
    ts: NDArray[np.int64], y: Values, marked: Mapping[str, Segments], *, title: str, timezone: str = "UTC"
) -> str:
    """Return the picture of a series, with what is marked behind its values.

    Args:
        ts: epoch seconds of every row, shape ``(n,)``.
        y: the values, NaN where there is none, shape ``(n,)``.
        marked: segments of rows, by the class of the style that they have.
        timezone: in which times are written.
    """
    x = _Axis(len(y))
    low, high = x.columns(y)
    to_pixel = _scale(y, VALUE_HEIGHT)
    bars = [bar for name, each in marked.items() for bar in _bars(each, x, name, 0, VALUE_HEIGHT)]
    line = _line(x.centres, to_pixel(low), to_pixel(high), "value")
    extremes = [] if np.isnan(y).all() else _extremes(y)
    return _svg([*bars, line, *extremes, *_dates(ts, x, timezone)], VALUE_HEIGHT + 16, title)


def _extremes(y: Values) -> list[str]:
    """Return the highest and the lowest value beside the edges where they lie."""
    return [
        f'<text x="2" y="{at}" class="extreme">{figure(float(value))}</text>'
        for at, value in ((11, np.nanmax(y)), (VALUE_HEIGHT - 3, np.nanmin(y)))
    ]


def draw(course: Plotted) -> Pictures:
    """Return the pictures of a course."""
    x = _Axis(len(course.y))
    return Pictures(_values(course, x), _scores(course, x))


@dataclass(frozen=True)
class _Axis:
    """Rows on the width of the page.

    Attributes:
        n_rows: rows of the series.
    """

    n_rows: int

    @property
    def n_columns(self) -> int:
        return min(self.n_rows, WIDTH)

    def pixel(self, row: float) -> float:
        """Return where a row begins."""
        return row / self.n_rows * WIDTH

    def columns(self, values: Values) -> tuple[Values, Values]:
        """Return the lowest and the highest value of every pixel column, NaN where it has none."""
        starts = (np.arange(self.n_columns) * self.n_rows) // self.n_columns
        seen = ~np.isnan(values)
        low = np.minimum.reduceat(np.where(seen, values, np.inf), starts)
        high = np.maximum.reduceat(np.where(seen, values, -np.inf), starts)
        empty = low > high
        return np.where(empty, np.nan, low), np.where(empty, np.nan, high)

    @property
    def centres(self) -> Values:
        return np.asarray((np.arange(self.n_columns) + 0.5) * (WIDTH / self.n_columns), dtype=np.float64)


def _values(course: Plotted, x: _Axis) -> str:
    low, high = x.columns(course.y)
    to_pixel = _scale(course.y, VALUE_HEIGHT)
    below, above = x.columns(course.low)[0], x.columns(course.high)[1]
    parts = [
        *_bars(course.truth, x, "truth", 0, VALUE_HEIGHT),
        _area(x.centres, to_pixel(below), to_pixel(above), "band"),
        _line(x.centres, to_pixel(low), to_pixel(high), "value"),
        *_dates(course.labelled.ts, x),
    ]
    return _svg(parts, VALUE_HEIGHT + 16, f"values of {course.labelled.series}")


def _scores(course: Plotted, x: _Axis) -> str:
    _, high = x.columns(np.minimum(course.score, SCORE_TOP))
    top = 2 * (STRIP_HEIGHT + 2)
    bottom = top + SCORE_HEIGHT

    def to_pixel(score: Values) -> Values:
        return bottom - score / SCORE_TOP * SCORE_HEIGHT

    parts = [
        *_bars(course.truth, x, "truth", 0, bottom),
        *_bars(course.flagged, x, "settled", 0, STRIP_HEIGHT),
        *_bars(course.flagged_live, x, "live", STRIP_HEIGHT + 2, STRIP_HEIGHT),
        _area(x.centres, np.where(np.isnan(high), np.nan, bottom), to_pixel(high), "score"),
        f'<path class="line" d="M0 {float(to_pixel(np.array(1.0))):.1f}H{WIDTH}"/>',
    ]
    return _svg(parts, bottom + 1, f"scores of {course.labelled.series}")


def _scale(values: Values, height: int) -> _Ordinate:
    known = values[~np.isnan(values)]
    if not len(known):
        return _Ordinate(0.0, 1.0, height)
    low, high = np.quantile(known, [TAIL, 1 - TAIL])
    room = FAR * max(high - low, 1e-300)
    low = float(known.min()) if known.min() > low - room else float(low - room)
    high = float(known.max()) if known.max() < high + room else float(high + room)
    return _Ordinate(low, high if high > low else low + max(abs(low), 1.0), height)


@dataclass(frozen=True)
class _Ordinate:
    """Values to pixels from the top; what lies outside touches the edge."""

    low: float
    high: float
    height: int

    def __call__(self, values: Values) -> Values:
        share = np.clip((values - self.low) / (self.high - self.low), -0.02, 1.02)
        return MARGIN + (1.0 - share) * (self.height - 2 * MARGIN)


def _line(x: Values, low: Values, high: Values, name: str) -> str:
    """Return a line through the values of every column, lowest and highest where they differ."""
    pieces: list[str] = []
    pen_up = True
    for at, top, bottom in zip(x.tolist(), high.tolist(), low.tolist(), strict=True):
        if top != top:
            pen_up = True
            continue
        pieces.append(f"{'M' if pen_up else 'L'}{at:.1f} {top:.1f}")
        if bottom - top > 0.5:
            pieces.append(f"V{bottom:.1f}")
        elif pen_up:
            # A single value between gaps is a line of no length: a dot with round caps.
            pieces.append("h0")
        pen_up = False
    return f'<path class="{name}" d="{"".join(pieces)}"/>'


def _area(x: Values, lower: Values, upper: Values, name: str) -> str:
    """Return the area between two lines, apart where there is nothing."""
    known = ~(np.isnan(lower) | np.isnan(upper))
    edges = np.flatnonzero(np.diff(np.concatenate(([False], known, [False])).astype(np.int8)))
    pieces = []
    for a, b in zip(edges[::2], edges[1::2], strict=True):
        there = zip(x[a:b].tolist(), upper[a:b].tolist(), strict=True)
        back = zip(x[a:b][::-1].tolist(), lower[a:b][::-1].tolist(), strict=True)
        points = " ".join(f"{at:.0f} {y:.0f}" for at, y in [*there, *back])
        pieces.append(f"M{points}Z")
    return f'<path class="{name}" d="{"".join(pieces)}"/>'


def _bars(segments: Segments, x: _Axis, name: str, top: int, height: int) -> list[str]:
    """Return segments of rows as bars."""
    out = []
    for first, last in segments.tolist():
        left, right = x.pixel(first), x.pixel(last + 1)
        wide = max(right - left, NARROWEST)
        left = min(left, WIDTH - wide)
        out.append(f'<rect class="{name}" x="{left:.1f}" y="{top}" width="{wide:.1f}" height="{height}"/>')
    return out


def _dates(ts: NDArray[np.int64], x: _Axis, timezone: str = "UTC") -> list[str]:
    rows = np.linspace(0, x.n_rows - 1, TICKS).astype(int).tolist()
    shape = "%Y-%m-%d %H:%M" if np.ptp(ts) < 10 * 86_400 else "%Y-%m-%d"
    anchors = ["start", *["middle"] * (TICKS - 2), "end"]
    return [
        f'<text x="{x.pixel(row):.0f}" y="{VALUE_HEIGHT + 13}" text-anchor="{anchor}">'
        f"{local(int(ts[row]), timezone):{shape}}</text>"
        for row, anchor in zip(rows, anchors, strict=True)
    ]


def _svg(parts: Sequence[str], height: int, title: str) -> str:
    from html import escape

    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )
