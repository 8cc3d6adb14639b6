"""Who imports whom, room by room, as the code has it; run, it prints that for ``docs/architecture.md``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("anomaly_service", "pipelines", "detectors")
WORDS = "pipelines"
"""The modules at the top of ``pipelines``: the words that all share."""


def room_of(module: str) -> str:
    """Return the room of a module: the folder it lies in.

    >>> room_of("pipelines.steps.flag"), room_of("pipelines.records"), room_of("anomaly_service.cli")
    ('pipelines.steps', 'pipelines', 'anomaly_service.cli')
    """
    folder = ROOT / module.replace(".", "/")
    return module if folder.is_dir() else module.rpartition(".")[0]


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def rooms() -> dict[str, int]:
    """Return the number of files of every room; what only says what a room is does not count."""
    found: dict[str, int] = defaultdict(int)
    for module in graph().modules:
        found[room_of(module)] += not (ROOT / module.replace(".", "/")).is_dir()
    return {room: files for room, files in sorted(found.items()) if files}


def arrows() -> dict[str, set[str]]:
    """Return the rooms that each room imports from."""
    found: dict[str, set[str]] = {room: set() for room in rooms()}
    for module in graph().modules:
        here = room_of(module)
        there = {room_of(other) for other in graph().find_modules_directly_imported_by(module)}
        found.setdefault(here, set()).update(there - {here})
    return found


def floors(of: Mapping[str, set[str]]) -> int:
    """Return how many floors a house has whose rooms lean on those below; rooms in a circle share one."""
    known: dict[str, int] = {}

    def floor(room: str, above: tuple[str, ...] = ()) -> int:
        if room not in known:
            below = [floor(other, (*above, room)) for other in of.get(room, ()) if other not in above]
            known[room] = 1 + max(below, default=0)
        return known[room]

    return max(floor(room) for room in of)


def block() -> str:
    """Return the arrows as they stand on the page."""
    width = max(map(len, rooms()))
    return "".join(
        f"{room:<{width}} -> {', '.join(sorted(there)) or 'nothing of ours'}\n"
        for room, there in arrows().items()
        if room in rooms()
    )


def figures() -> str:
    """Return how many files, rooms, floors and arrows a package has."""
    lines = []
    for package in PACKAGES:
        own = {room: files for room, files in rooms().items() if room.split(".")[0] == package}
        inside = {room: {other for other in arrows()[room] if other in own} for room in own}
        n_arrows = sum(map(len, inside.values()))
        lines.append(
            f"{package}: {sum(own.values())} files in {len(own)} rooms on {floors(inside)} floors, "
            f"{n_arrows} arrows between them"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(block(), figures(), sep="\n")
