"""How results look: tables, JSON, and a bar per stage (plain lines where there is no terminal)."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from anomaly_service.cli.fitted import Column, fit
from anomaly_service.printable import printable
from anomaly_service.wording import duration as duration
from anomaly_service.wording import figure
from pipelines.times import iso

if TYPE_CHECKING:
    from anomaly_service.db.pages import Page

Row = Mapping[str, Any]

GAP = 2
"""Spaces between two columns."""


def say(text: str) -> None:
    """Print a line of the result."""
    typer.echo(printable(text, breaks=True))


def note(text: str) -> None:
    """Print a line that is not the result, such as what was guessed."""
    typer.echo(printable(text, breaks=True), err=True)


def picture(lines: Sequence[str], marked: slice) -> None:
    """Print the lines of a picture; on a terminal with colours the marked characters of each are red."""
    console = _stdout(terminal_width())
    for line in lines:
        shown = Text(printable(line))
        shown.stylize("red", marked.start, marked.stop)
        console.print(shown, soft_wrap=True)


def rows(
    found: Sequence[Row],
    columns: Sequence[str],
    *,
    as_json: bool,
    empty: str,
    spare: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Print rows as a table of some columns, or all of them as JSON.

    Args:
        spare: columns that a terminal too narrow for all does without, the first of them first.
        wide: the terminal may break lines, nothing is cut or left out.
    """
    if as_json:
        say(json.dumps([{name: plain(value) for name, value in row.items()} for row in found], indent=1))
    elif found:
        cells = [[text(row.get(name)) for name in columns] for row in found]
        fitting = _fitting(cells, columns, spare, None if wide else terminal_width())
        table([[row[i] for i in fitting] for row in cells], [columns[i] for i in fitting], wide=wide)
        if len(fitting) < len(columns):
            left = ", ".join(name for i, name in enumerate(columns) if i not in fitting)
            note(f"Too narrow for {left.replace('_', ' ')}; a wider window or --json shows them.")
    else:
        note(empty)


def _fitting(
    cells: Sequence[Sequence[str]], columns: Sequence[str], spare: Sequence[str], width: int | None
) -> list[int]:
    """Return which columns a terminal has room for, by number; of those that are not spare, all.

    >>> _fitting([["7", "logins", "expected"]], ["event_id", "series", "verdict"], ["series"], 16)
    [0, 2]
    """
    kept = list(range(len(columns)))
    for name in spare:
        if width is None or sum(_room(cells, columns, i) + GAP for i in kept) - GAP <= width:
            break
        kept = [i for i in kept if columns[i] != name]
    return kept


def _room(cells: Sequence[Sequence[str]], columns: Sequence[str], i: int) -> int:
    """Return the characters that a column takes: only its head may be broken, between words."""
    return max(*(len(row[i]) for row in cells), *(len(word) for word in columns[i].split("_")))


def page(
    found: Page,
    columns: Sequence[str],
    *,
    as_json: bool,
    empty: str,
    spare: Sequence[str] = (),
    in_words: Callable[[Row], Row] = lambda row: {},
    short: Sequence[Column] = (),
    wide: bool = False,
) -> None:
    """Print a page of a list, and how to get the next one.

    Args:
        spare: columns that a narrow terminal does without, the first of them first.
        in_words: what a table says of a row in other words; JSON has each row's cursor instead.
        short: what a terminal shows of each row in a line instead of the columns, unless ``wide``.
    """
    cursors: Iterable[Row] = ({"cursor": each} for each in found.cursors)
    more = cursors if as_json else map(in_words, found.rows)
    listed = [{**row, **extra} for row, extra in zip(found.rows, more, strict=True)]
    if short:
        fitted(listed, short, columns, as_json=as_json, wide=wide, empty=empty)
    else:
        rows(listed, columns, as_json=as_json, empty=empty, spare=spare)
    if found.after is not None:
        note(f"More follow: --after {found.after}")


def fitted(
    found: Sequence[Row],
    short: Sequence[Column],
    columns: Sequence[str],
    *,
    as_json: bool,
    wide: bool,
    empty: str,
) -> None:
    """Print each row in one line of the terminal; all of its columns where it is piped or ``wide``."""
    width = None if wide else terminal_width()
    if as_json or not found or width is None:
        rows(found, columns, as_json=as_json, empty=empty, wide=True)
        return
    head, *lines = fit(short, [[text(row.get(column.name)) for column in short] for row in found], width)
    console = _stdout(width)
    console.print(head, style="bold")
    for line in lines:
        console.print(line)


def table(
    cells: Iterable[Sequence[object]],
    columns: Sequence[str],
    *,
    title: str | None = None,
    wide: bool = False,
) -> None:
    """Print a table; numbers are set to the right."""
    width = None if wide else terminal_width()
    filled = [[text(value) for value in row] for row in cells]
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        numeric = bool(filled) and all(_looks_numeric(row[i]) for row in filled)
        head = name.replace("_", " ")
        if width is not None and len(head) > max((len(row[i]) for row in filled), default=0):
            head = head.replace(" ", "\n")
        shown.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in filled:
        shown.add_row(*row)
    _stdout(width).print(shown)


def _stdout(width: int | None) -> Console:
    # Without a terminal nothing is to be cut off or wrapped: the reader is a file or another program.
    return Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=width or 10_000)


def terminal_width() -> int | None:
    """Return the columns of the terminal; None where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _looks_numeric(cell: str) -> bool:
    return not cell or cell.lstrip("-+").replace(",", "").replace(".", "", 1).rstrip(" %").isdigit()


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: times in ISO 8601 UTC."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value != value:
        return None
    return value


def text(value: object) -> str:
    """Return a value as a table shows it."""
    value = plain(value)
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return figure(value)
        case dict():
            return printable(",".join(f"{k}={v}" for k, v in value.items()))
        case _:
            return printable(str(value))


def cut(text: str, length: int) -> str:
    """Return a text in one line of at most so many characters; dots stand for the rest.

    >>> cut("no such file", 8)
    'no su...'
    """
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def leading(shares: Mapping[str, float]) -> str:
    """Return the channel with the largest share, and the share.

    >>> leading({"ccu": 0.052, "logins": 0.001, "crashes": 0.947})
    'crashes 95%'
    """
    name = max(shares, key=shares.__getitem__, default="")
    return f"{name} {shares[name]:.0%}" if name else ""


class Stages:
    """A bar for every stage of work; ``update`` is what the service calls.

    Args:
        parts: monitors that take part: a stage is done when it is done for all of them.
        quiet: show nothing.
    """

    def __init__(self, *, parts: int = 1, quiet: bool = False) -> None:
        self._quiet = quiet
        self._parts = parts
        self._shares: dict[str, dict[str, float]] = {}
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._heard = time.monotonic()
        self._done: set[str] = set()

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._bars = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            # Monitors with nothing to do say nothing, so a stage may end without having been told.
            for stage in self._shares:
                self._show(stage, 1.0)
        if self._bars is not None:
            self._bars.stop()

    def update(self, stage: str, share: float) -> None:
        """Show that ``share`` (0 to 1) of a stage is done; ``fit logins`` is the stage fit's part logins."""
        if self._quiet:
            return
        name, _, part = stage.partition(" ")
        shares = self._shares.setdefault(name, {})
        shares[part] = share
        self._show(name, sum(shares.values()) / max(len(shares), self._parts if part else 1))

    def _show(self, stage: str, share: float) -> None:
        if self._bars is not None:
            self._show_bar(self._bars, stage, share)
        else:
            self._show_line(stage, share)

    def _show_bar(self, bars: Progress, stage: str, share: float) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = bars.add_task(stage, total=1.0)
        bars.update(self._tasks[stage], completed=share)

    def _show_line(self, stage: str, share: float) -> None:
        now = time.monotonic()
        # A stage is first heard of when part of it is done: it began where the last one was heard of.
        began = self._began.setdefault(stage, self._heard)
        self._heard = now
        if share >= 1 and stage not in self._done:
            self._done.add(stage)
            note(f"{stage}: done in {now - began:.1f} s")
