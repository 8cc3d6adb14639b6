"""What ``anomaly try`` tells of the intervals it found: the worst with pictures, how many, then all."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from anomaly_service import wording
from anomaly_service.cli import tables
from anomaly_service.cli.fitted import Column
from pipelines.names import OF_VALUES, Kind
from pipelines.times import DAY

if TYPE_CHECKING:
    from anomaly_service.cli.sketch import Pen
    from anomaly_service.insight.surroundings import Surroundings
    from pipelines.records import SeriesRow

Row = Mapping[str, Any]
T = TypeVar("T", bound=Row)
WORST = 3
"""Intervals that are told in a sentence, with a picture."""
PIPED_WIDTH = 80
"""Characters of a picture where no terminal says how many it has."""
PLURALS = {
    Kind.ANOMALY: "anomalies",
    Kind.FLATLINE: "flatlines",
    Kind.DATA_MISSING: "gaps",
    Kind.STALE: "series that stopped",
    Kind.UNSCORED: "stretches without a score",
}


def without_ends(rows: Sequence[T], series: Sequence[SeriesRow], file_label: str | None) -> list[T]:
    """Return the intervals without series that stopped where their file ends: a file is history.

    Args:
        series: all that were read.
        file_label: label or ``metric`` that names the file of a series; None where no series says.
    """

    def file(metric: str, labels: Mapping[str, str]) -> str | None:
        return metric if file_label == "metric" else labels.get(file_label or "")

    ends: dict[str | None, int] = {}
    for each in series:
        name = file(each.spec.metric, each.spec.labels)
        ends[name] = max(ends.get(name, 0), each.last_ts or 0)
    return [
        row
        for row in rows
        if row["kind"] != Kind.STALE or row["start_ts"] <= ends[file(row["metric"], row["labels"])]
    ]


def highest(rows: Sequence[T], limit: int) -> list[T]:
    """Return at most so many intervals of values, and so many of what is missing, the highest of each.

    Those of values come first, each part in order of time.
    """
    of_values = [row for row in rows if row["kind"] in OF_VALUES]
    missing = [row for row in rows if row["kind"] not in OF_VALUES]
    return [
        row
        for part in (of_values, missing)
        for row in sorted(_ranked(part)[:limit], key=lambda row: row["start_at"])
    ]


def worst(rows: Sequence[T], limit: int = WORST) -> list[T]:
    """Return the few intervals of values with the highest scores; none lies over another of its series."""
    found: list[T] = []
    for row in _ranked([row for row in rows if row["kind"] in OF_VALUES]):
        if len(found) < limit and not any(_overlap(row, other) for other in found):
            found.append(row)
    return found


def _ranked(rows: Sequence[T]) -> list[T]:
    return sorted(rows, key=lambda row: -row["peak_score"])


def _overlap(one: Row, other: Row) -> bool:
    return (
        one["series"] == other["series"]
        and one["start_ts"] <= other["end_ts"]
        and other["start_ts"] <= one["end_ts"]
    )


def print_pictures(shown: Sequence[Surroundings]) -> None:
    """Print what happened in each interval, a sentence and a picture."""
    from anomaly_service.cli import sketch

    terminal = tables.terminal_width()
    pen = sketch.pen_for(sys.stdout.encoding)
    for each in shown:
        said = f"{wording.sentence(each.row)} (score {each.row['peak_score']:.1f})."
        # A file's reader breaks lines; a terminal breaks words.
        tables.say("\n".join(textwrap.wrap(said, terminal)) if terminal else said)
        tables.picture(*_picture(each, terminal or PIPED_WIDTH, pen))
        tables.say("")


def _picture(shown: Surroundings, width: int, pen: Pen) -> tuple[list[str], slice]:
    """Return the lines of a picture, and which of their characters are of the interval."""
    from anomaly_service.cli.sketch import HEIGHT, draw

    ends = (_clock(int(shown.ts[0]), shown), _clock(int(shown.ts[-1]), shown))
    lines = draw(shown.y, shown.span, ends, width, pen)
    axis = lines[HEIGHT]
    return lines, slice(axis.index(pen.mark), axis.rindex(pen.mark) + 1)


def _clock(ts: int, shown: Surroundings) -> str:
    """Return a moment of a picture in local time, as fine as its steps."""
    at = wording.local(ts, shown.row["timezone"])
    daily = shown.ts[1] - shown.ts[0] >= DAY if len(shown.ts) > 1 else False
    return f"{at.day} {at:%b %Y}" if daily else f"{at.day} {at:%b %H:%M}"


def counts(rows: Sequence[Row]) -> str:
    """Return how many intervals there are of each kind.

    >>> counts([{"kind": "anomaly"}, {"kind": "anomaly"}, {"kind": "data_missing"}])
    'Found: anomalies 2, gaps 1.'
    """
    found = Counter(Kind(row["kind"]) for row in rows)
    return f"Found: {', '.join(f'{PLURALS[kind]} {found[kind]}' for kind in Kind if found[kind])}."


def short(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns of a list of intervals without those of a database that is kept."""
    return tuple(each for each in columns if each.name not in ("event_id", "review_verdict"))
