"""A stretch of a series in characters: dots of braille, or plain ASCII where an output knows no others."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_service.wording import figure

Values = NDArray[np.float64]

WIDEST = 100
"""Characters of a picture: a wider one tells no more."""
NARROWEST = 12
"""Characters that the course of values has at least, however narrow the terminal."""
HEIGHT = 5
"""Lines of the course of values."""
LONGEST_LABEL = 12
"""Digits and commas of a value before it is written with an exponent."""


@dataclass(frozen=True)
class Pen:
    """Which characters draw.

    Attributes:
        columns, rows: dots of one character.
        edge, corner, axis, mark: left of the values, below them, and below those of the interval.
    """

    columns: int
    rows: int
    edge: str
    corner: str
    axis: str
    mark: str

    def glyph(self, dots: NDArray[np.bool_]) -> str:
        """Return the character with these dots, shape ``(rows, columns)``."""
        if self.rows == 1:
            return "*" if dots.any() else " "
        return chr(0x2800 + int(_BRAILLE[dots].sum())) if dots.any() else " "


_BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Which bit of a braille character a dot is, from U+2800 on."""

BRAILLE = Pen(2, 4, "│", "└", "─", "▀")
ASCII = Pen(1, 1, "|", "+", "-", "^")


def pen_for(encoding: str | None) -> Pen:
    """Return what an output of this encoding can show.

    >>> pen_for("utf-8") is BRAILLE, pen_for("latin-1") is ASCII
    (True, True)
    """
    try:
        codecs.encode("⣿│└─▀", encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BRAILLE


def draw(y: Values, span: tuple[int, int], ends: tuple[str, str], width: int, pen: Pen) -> list[str]:
    """Return the lines of a picture, none longer than ``width``: values, and below them what is marked.

    Args:
        y: values at even steps, NaN where there is none; at least one.
        span: first marked step, and one past the last.
        ends: what stands below the first and the last step, such as their times.
    """
    low, high = _bounds(y)
    labels = _labels(low, high)
    gutter = max(map(len, labels)) + 1
    wide = max(NARROWEST, min(width, WIDEST) - gutter - 1)
    dots = _dots(_columns(y, wide * pen.columns), low, high, HEIGHT * pen.rows)
    lines = [
        f"{label:>{gutter - 1}} {pen.edge}{_line(row, pen)}".rstrip()
        for label, row in zip(labels, np.split(dots, HEIGHT), strict=True)
    ]
    below = f"{' ' * gutter}{pen.corner}{_axis(len(y), span, wide, pen)}"
    return [*lines, below, *_below(ends, gutter + 1, wide)]


def _bounds(y: Values) -> tuple[float, float]:
    known = y[~np.isnan(y)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


def _labels(low: float, high: float) -> list[str]:
    """Return what stands left of every line: the highest value above, the lowest below."""
    if low == high:
        # A level course lies in the middle.
        return [_label(low) if i == HEIGHT // 2 else "" for i in range(HEIGHT)]
    return [_label(high), *[""] * (HEIGHT - 2), _label(low)]


def _label(value: float) -> str:
    return text if len(text := figure(value)) <= LONGEST_LABEL else f"{value:.4g}"


def _columns(y: Values, n: int) -> tuple[Values, Values]:
    """Return the lowest and the highest value of every column of dots, NaN where it has none."""
    if len(y) <= n:
        return (stretched := _stretched(y, n)), stretched
    starts = np.arange(n) * len(y) // n
    seen = ~np.isnan(y)
    low = np.minimum.reduceat(np.where(seen, y, np.inf), starts)
    high = np.maximum.reduceat(np.where(seen, y, -np.inf), starts)
    return np.where(low > high, np.nan, low), np.where(low > high, np.nan, high)


def _stretched(y: Values, n: int) -> Values:
    """Return few values on many columns, with straight lines between neighbours that both are known."""
    at = np.clip((np.arange(n) + 0.5) * len(y) / n - 0.5, 0, len(y) - 1)
    near = y[np.round(at).astype(int)]
    left = np.floor(at).astype(int)
    right = np.minimum(left + 1, len(y) - 1)
    # As shares: the difference of the largest numbers there are is none of them.
    between = y[left] * (left + 1 - at) + y[right] * (at - left)
    return np.where(np.isnan(between), near, between)


def _dots(columns: tuple[Values, Values], low: float, high: float, n_rows: int) -> NDArray[np.bool_]:
    """Return which dots are set, from the top; each column reaches to the one before it."""
    dots = np.zeros((n_rows, len(columns[0])), dtype=bool)
    before: tuple[int, int] | None = None
    for x, (bottom, top) in enumerate(zip(*columns, strict=True)):
        if np.isnan(top):
            before = None
            continue
        here = (_row(top, low, high, n_rows), _row(bottom, low, high, n_rows))
        # Up to the neighbour's nearest dot, not over it: a step is seen once.
        first = min(here[0], before[1] + 1) if before else here[0]
        last = max(here[1], before[0] - 1) if before else here[1]
        dots[first : last + 1, x] = True
        before = here
    return dots


def _row(value: float, low: float, high: float, n_rows: int) -> int:
    """Return the line of dots of a value, from the top."""
    if low == high:
        return n_rows // 2
    # Halves first, for the same reason.
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    return round((1 - share) * (n_rows - 1))


def _line(dots: NDArray[np.bool_], pen: Pen) -> str:
    return "".join(pen.glyph(each) for each in np.split(dots, dots.shape[1] // pen.columns, axis=1))


def _axis(n_steps: int, span: tuple[int, int], wide: int, pen: Pen) -> str:
    first = min(wide - 1, max(0, span[0] * wide // n_steps))
    last = min(wide, max(first + 1, -(-span[1] * wide // n_steps)))
    return pen.axis * first + pen.mark * (last - first) + pen.axis * (wide - last)


def _below(ends: Sequence[str], indent: int, wide: int) -> list[str]:
    """Return both ends in a line of their own; the second is left out where there is no room."""
    left, right = ends
    if len(left) + len(right) + 2 > wide:
        return [f"{' ' * indent}{left}"] if len(left) <= wide else []
    return [f"{' ' * indent}{left}{right:>{wide - len(left)}}"]
