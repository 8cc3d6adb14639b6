"""What ``anomaly try --open`` shows in a browser: one page, with pictures of what was found."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import numpy as np

from anomaly_service import wording
from anomaly_service.cli import lists, tables, tried
from anomaly_service.measure import svg
from anomaly_service.measure.report import page
from anomaly_service.printable import printable
from pipelines.names import OF_VALUES
from pipelines.records import Json

if TYPE_CHECKING:
    from anomaly_service.insight.surroundings import Course, Surroundings
    from pipelines.measure.metrics import Segments

NAME = "report.html"
PICTURES, SERIES = 20, 12
"""At most so many intervals have a picture of their own, and so many series one of all their history."""
COLUMNS = ("start", "duration", "series", "kind", "what", "score")


@dataclass(frozen=True)
class TriedPage:
    """Everything that the page shows.

    Attributes:
        file: what was looked at, as it was named.
        words: how it was read, one sentence each.
        rows: the intervals that are listed, of the view ``flagged_intervals``.
        worst: what lies around the worst of them.
        courses: series as a whole.
    """

    file: str
    words: Sequence[str]
    rows: Sequence[Json]
    worst: Sequence[Surroundings]
    courses: Sequence[Course]

    def html(self) -> str:
        """Return the page."""
        return page(
            "anomaly_service.cli",
            title=f"What was found in {_plain(self.file)}",
            found=_plain(tried.counts(self.rows)) if self.rows else "Nothing is flagged.",
            words="".join(f"<li>{_plain(word)}</li>" for word in self.words),
            worst=_part("The worst first", map(_around, self.worst)),
            courses=_part("Series as a whole, with their intervals", map(_whole, self.courses)),
            listed=_listed(self.rows),
        )

    def write(self, folder: Path | None) -> Path:
        """Write the page into a folder, one of its own where none is given; return its path.

        It stays: the browser reads it when it comes to it.
        """
        path = (folder or Path(mkdtemp(prefix="anomaly-"))).absolute() / NAME
        path.write_text(self.html(), encoding="utf-8")
        return path


def show(path: Path) -> None:
    """Open a page in the browser, and say where it lies."""
    tables.note(f"Report: {path}")
    if not webbrowser.open(path.as_uri()):
        tables.note("No browser could be started here; open that file in one.")


def _plain(text: str) -> str:
    return escape(printable(text))


def _part(title: str, sections: Iterable[str]) -> str:
    shown = "".join(sections)
    return f"<h2>{title}</h2>{shown}" if shown else ""


def _around(shown: Surroundings) -> str:
    said = f"{wording.sentence(shown.row)}."
    marked = {"flagged": _segments([shown.span])}
    timezone = shown.row["timezone"] or "UTC"
    picture = svg.course(
        shown.ts, shown.y, marked, title=printable(f"around {wording.sentence(shown.row)}"), timezone=timezone
    )
    about = f"score {shown.row['peak_score']:.1f} · times in {timezone}"
    return f'<section><h3>{_plain(said)}</h3><p class="about">{_plain(about)}</p>{picture}</section>'


def _whole(shown: Course) -> str:
    pairs = list(zip(shown.rows, shown.spans, strict=True))
    marked = {
        "missing": _segments([span for row, span in pairs if row["kind"] not in OF_VALUES]),
        "flagged": _segments([span for row, span in pairs if row["kind"] in OF_VALUES]),
    }
    title = printable(f"all of {shown.series}")
    picture = svg.course(shown.ts, shown.y, marked, title=title, timezone=shown.timezone)
    about = tried.counts(shown.rows) if shown.rows else "Nothing is flagged."
    return f'<section><h3>{_plain(shown.series)}</h3><p class="about">{_plain(about)}</p>{picture}</section>'


def _segments(spans: Sequence[tuple[int, int]]) -> Segments:
    """Return half-open spans of steps as segments, whose ends both belong to them."""
    return np.array([(first, stop - 1) for first, stop in spans], dtype=np.int64).reshape(-1, 2)


def _listed(rows: Sequence[Json]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th class="text">{_plain(name)}</th>' for name in COLUMNS)
    body = "".join(f"<tr>{_cells({**row, **lists.in_words(row)})}</tr>" for row in rows)
    return f"<h2>All</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: Json) -> str:
    return "".join(f'<td class="text">{_plain(tables.text(row[name]))}</td>' for name in COLUMNS)
