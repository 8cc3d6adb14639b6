"""The page on the architecture says what the import graph shows."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import rooms

PAGE = (rooms.ROOT / "docs" / "architecture.md").read_text()


def told() -> dict[str, set[str]]:
    """Return the arrows on the page."""
    (block,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line.split(" -> ") for line in block.splitlines()]
    return {
        here.strip(): set() if there == "nothing of ours" else set(there.split(", ")) for here, there in lines
    }


def test_every_arrow_on_the_page_is_one_and_none_is_missing() -> None:
    real = rooms.arrows()
    assert told() == {room: real[room] for room in rooms.rooms()}


def test_every_room_is_described() -> None:
    described = re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE)
    assert sorted(described) == sorted(rooms.rooms())


@pytest.mark.parametrize("place", re.findall(r"^\| \d+ \|.*`([\w./]+)` \|$", PAGE, re.MULTILINE))
def test_every_stay_of_a_value_is_there(place: str) -> None:
    if "/" in place:
        assert (Path(rooms.ROOT) / place).exists()
        return
    names = place.split(".")
    depth = next(n for n in range(len(names), 0, -1) if rooms.room_of(".".join(names[:n])) in rooms.rooms())
    while True:
        try:
            found = importlib.import_module(".".join(names[:depth]))
            break
        except ModuleNotFoundError:
            depth -= 1
    for name in names[depth:]:
        found = getattr(found, name)
    assert callable(found)


def test_a_circle_of_rooms_is_counted_as_one_floor() -> None:
    assert rooms.floors({"a": {"b"}, "b": {"c"}, "c": set()}) == 3
    assert rooms.floors({"a": {"b"}, "b": {"a"}}) == 2
