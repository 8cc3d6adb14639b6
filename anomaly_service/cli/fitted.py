"""Rows that keep to the width of a terminal, each in a line: what matters least goes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

GAP = 2
"""Spaces between two columns."""

DOTS = "…"


@dataclass(frozen=True)
class Column:
    """A column of a list, in the order in which it stands.

    Attributes:
        name: of the value in a row.
        head: what stands above it.
        rank: 0 is never left out; where there is no room, the highest goes first.
        least: characters below which it is rather left out; None where it is never cut.
        middle: cut in the middle, as names are that begin and end with what tells them apart.
        right: set to the right, as numbers are.
    """

    name: str
    head: str
    rank: int
    least: int | None = None
    middle: bool = False
    right: bool = False


def fit(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the head and a line for every row, none wider than so many characters.

    >>> columns = [Column("series", "series", 1, least=6, middle=True), Column("score", "score", 0)]
    >>> fit(columns, [["logins{realm=kr-1}", "1.5"]], 18)
    ['series       score', 'login…kr-1}  1.5']
    """
    natural = [_natural(column, [row[i] for row in cells]) for i, column in enumerate(columns)]
    widths = _widths(columns, natural, width)
    return [_line(columns, row, widths) for row in ([column.head for column in columns], *cells)]


def _natural(column: Column, cells: Sequence[str]) -> int:
    return max(cell_len(column.head), *(cell_len(cell) for cell in cells))


def _widths(columns: Sequence[Column], natural: Sequence[int], width: int) -> dict[int, int]:
    """Return how wide each column is that has room, by its place."""
    widths: dict[int, int] = {}
    left = width + GAP
    ranked = sorted(range(len(columns)), key=lambda i: columns[i].rank)
    for i in ranked:
        least = min(columns[i].least or natural[i], natural[i])
        if columns[i].rank > 0 and least + GAP > left:
            break
        widths[i] = least
        left -= least + GAP
    for i in ranked:
        if i in widths:
            more = max(0, min(natural[i] - widths[i], left))
            widths[i] += more
            left -= more
    return widths


def _line(columns: Sequence[Column], cells: Sequence[str], widths: dict[int, int]) -> str:
    shown = []
    for i in sorted(widths):
        cell = shortened(cells[i], widths[i], middle=columns[i].middle)
        padding = " " * (widths[i] - cell_len(cell))
        shown.append(f"{padding}{cell}" if columns[i].right else f"{cell}{padding}")
    return (" " * GAP).join(shown).rstrip()


def shortened(text: str, width: int, *, middle: bool = False) -> str:
    """Return a text of at most so many columns of a terminal; dots stand for the rest.

    >>> shortened("logins{realm=kr-1}", 12, middle=True), shortened("no such file", 8)
    ('logins…kr-1}', 'no such…')
    """
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2 if middle else 0
    head = set_cell_size(text, width - 1 - tail)
    return f"{head}{DOTS}{_last(text, tail)}"


def _last(text: str, width: int) -> str:
    """Return the end of a text, so many columns of a terminal wide."""
    return set_cell_size(text[::-1], width)[::-1]
