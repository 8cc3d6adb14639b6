"""Pictures in characters: as wide as the terminal allows, no spike lost, gaps empty, the interval marked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_service.cli.sketch import ASCII, BRAILLE, HEIGHT, Pen, draw, pen_for

ENDS = ("13 May 00:00", "14 May 00:00")


@given(
    y=st.lists(st.floats(allow_infinity=False) | st.none(), min_size=1, max_size=400),
    width=st.integers(60, 200),
    pen=st.sampled_from([BRAILLE, ASCII]),
    data=st.data(),
)
def test_no_line_is_wider_than_asked_for_whatever_the_values(
    y: list[float | None], width: int, pen: Pen, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(y) - 1))
    last = data.draw(st.integers(first + 1, len(y)))
    lines = draw(np.array(y, dtype=float), (first, last), ENDS, width, pen)
    assert max(map(len, lines)) <= width
    assert pen.mark in lines[HEIGHT]


@pytest.mark.parametrize("pen", [BRAILLE, ASCII])
def test_one_high_step_among_thousands_is_drawn(pen: Pen) -> None:
    y = np.zeros(5000)
    y[2500] = 9.0
    top, *_, bottom = draw(y, (2500, 2501), ENDS, 80, pen)[:HEIGHT]
    assert len(top.split(pen.edge)[1].strip()) == 1
    assert len(bottom.split(pen.edge)[1].strip()) > 60


def test_the_mark_lies_below_the_steps_of_the_interval() -> None:
    y = np.ones(70)
    y[:35] = 5.0
    lines = draw(y, (35, 70), ENDS, 80, ASCII)
    marked = lines[HEIGHT].index("^")
    assert lines[HEIGHT][marked:] == "^" * len(lines[HEIGHT][marked:])
    assert lines[0].rindex("*") == pytest.approx(marked, abs=2)


def test_where_no_value_came_nothing_is_drawn() -> None:
    y = np.ones(74)
    y[20:40] = np.nan
    level = draw(y, (20, 40), ENDS, 76, ASCII)[HEIGHT // 2].split("|")[1]
    assert level.count(" ") == pytest.approx(20, abs=1)


def test_values_that_do_not_move_and_none_at_all_have_a_picture_too() -> None:
    assert draw(np.full(48, 3.0), (0, 1), ENDS, 80, BRAILLE)[HEIGHT // 2].startswith("3 │⠤⠤")
    assert len(draw(np.full(48, np.nan), (0, 1), ENDS, 80, BRAILLE)) == HEIGHT + 2


def test_an_output_without_braille_gets_ascii() -> None:
    assert pen_for("utf-8") is pen_for("UTF8") is BRAILLE
    assert pen_for("ascii") is pen_for("latin-1") is pen_for("cp1252") is pen_for(None) is ASCII
    assert all(line.isascii() for line in draw(np.arange(9.0), (2, 4), ENDS, 60, ASCII))
