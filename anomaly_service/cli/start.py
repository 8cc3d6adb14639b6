"""Commands people meet first: try, init and validate."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_service.cli import lists, tables, tried
from anomaly_service.cli.options import (
    CONFIG,
    FIRST_STEPS,
    AsJson,
    ConfigPath,
    Now,
    app,
    load,
    moment,
    number,
    opened,
    serving,
    whole,
)

if TYPE_CHECKING:
    from anomaly_service.insight.surroundings import Course, Surroundings
    from anomaly_service.sources.guessed import Guess

Json = dict[str, Any]
FILES = "Files of any kind, folders or patterns; - reads standard input."
COUNT = "Where rows are events: watch how many there are in every such span."
MADE = "Where rows are events: watch this of the values in every such span."
TOO_SHORT = "No series has enough history for a model yet."

Timezone = Annotated[
    str | None,
    typer.Option("--timezone", metavar="ZONE", help="Of times without a zone, and of days and weeks: UTC."),
]
Decimal = Annotated[
    str | None,
    typer.Option("--decimal", metavar="MARK", help="Of values where 1,234 can be two numbers: . or ,"),
]
ValueColumn = Annotated[
    str | None, typer.Option("--value", metavar="COLUMN", help="Column of the value, where it is another.")
]
Detector = Annotated[str | None, typer.Option("--detector", help="Any of `anomaly detectors`.")]
Alarms = Annotated[
    float | None,
    typer.Option(
        "--alarms-per-week", parser=number, help="False alarms a week of all series together: 1, or less."
    ),
]


TimeColumns = Annotated[
    str | None,
    typer.Option("--time", metavar="COLUMN[,COLUMN]", help="Column of the time, or the parts of it."),
]
TimesForm = Annotated[
    str | None,
    typer.Option("--times", metavar="FORM", help="How times are written: day-first, month-first, %d.%m.%Y."),
]


def bucket(text: str) -> int:
    """Return the seconds of a duration such as 5min, of whole seconds."""
    from anomaly_service.config.values import parse_duration

    try:
        seconds = parse_duration(text).total_seconds()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if seconds < 1 or seconds % 1:
        raise typer.BadParameter(f"expected whole seconds, at least 1s, got {text!r}")
    return int(seconds)


def _of_events(option: str, help: str) -> Any:
    return typer.Option(option, metavar="DURATION", parser=bucket, help=help)


Count = Annotated[int | None, _of_events("--count", COUNT)]
Sum = Annotated[int | None, _of_events("--sum", MADE)]
Mean = Annotated[int | None, _of_events("--mean", MADE)]
Highest = Annotated[int | None, _of_events("--max", MADE)]
P95 = Annotated[int | None, _of_events("--p95", MADE)]


def _one_aggregate(**given: int | None) -> tuple[str, int] | None:
    named = [(by, every) for by, every in given.items() if every is not None]
    if len(named) > 1:
        options = ", ".join(f"--{by}" for by, _ in named)
        raise typer.BadParameter(f"expected one of {options}")
    return named[0] if named else None


@app.command("try", rich_help_panel=FIRST_STEPS)
def try_(
    file: Annotated[list[str], typer.Argument(metavar="FILE...", help=FILES)],
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep config and database in this folder.")
    ] = None,
    timezone: Timezone = None,
    time: TimeColumns = None,
    times: TimesForm = None,
    decimal: Decimal = None,
    value: ValueColumn = None,
    detector: Detector = None,
    alarms: Alarms = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", parser=whole(1), help="At most so many anomalies, and gaps.")
    ] = 50,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Keep the config in this file, the database beside.")
    ] = None,
    count: Count = None,
    total: Sum = None,
    mean: Mean = None,
    highest: Highest = None,
    p95: P95 = None,
    show: Annotated[bool, typer.Option("--open", help="Show pictures of it all in a browser.")] = False,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Find anomalies in a file: no config, nothing to set up."""
    from anomaly_service.sources.guess import guess

    asked = moment(now, "--now")
    made = _one_aggregate(count=count, sum=total, mean=mean, max=highest, p95=p95)
    wanted = _wanted(time, times, decimal, value, made)
    with ExitStack() as stack:
        kept = config or (keep / CONFIG if keep else None)
        files = _with_input(stack, file, kept)
        guessed = guess(*files, timezone=timezone, now=asked or datetime.now(UTC), **wanted)
        # A file that was exported an hour ago is not one that stopped an hour ago.
        at = asked or datetime.fromtimestamp(guessed.stop, UTC)
        named = " ".join(file)
        tables.note(f"{named} reads as:")
        for word in guessed.words:
            tables.note(f"  {word}")
        path = kept or Path(stack.enter_context(TemporaryDirectory(prefix="anomaly-"))) / CONFIG
        _start(path, guessed, detector=detector, alarms_per_week=alarms)
        found = _tried(path, at, guessed.names_files, of_all=show)
        rejected = _rejected(found.ingested)
    if not as_json and found.intervals:
        tried.print_pictures(found.pictures[: tried.WORST])
        tables.say(tried.counts(found.intervals))
        tables.say("")
    shown = tried.highest(found.intervals, limit)
    _print_intervals(shown, found, as_json=as_json)
    if show:
        _show(named, guessed.words, shown, found, kept)
    left_out = [f"Left out: {why}" for why in found.left_out]
    for line in (*rejected, *left_out, *_what_next(named, kept, found, limit)):
        tables.note(line)


def _wanted(
    time: str | None,
    times: str | None,
    decimal: str | None,
    value: str | None,
    aggregate: tuple[str, int] | None,
) -> Json:
    """Return what was said of how a file is read, as ``guess`` takes it."""
    if decimal not in (None, ".", ","):
        raise typer.BadParameter(f"expected . or , got {decimal!r}", param_hint="--decimal")
    return {"time": time, "form": times, "decimal": decimal, "value": value, "aggregate": aggregate}


def _with_input(stack: ExitStack, named: list[str], kept: Path | None) -> list[str]:
    """Return the files that were named; for ``-`` one of what came in, beside a config that is kept."""
    if "-" not in named:
        return named
    folder = kept.parent if kept else Path(stack.enter_context(TemporaryDirectory(prefix="anomaly-")))
    folder.mkdir(parents=True, exist_ok=True)
    spooled = folder / "stdin.csv"
    with spooled.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return [str(spooled) if name == "-" else name for name in named]


@dataclass(frozen=True)
class Tried:
    """What ``anomaly try`` saw: the outcome of ingesting, which series had to be left out and why, the
    monitors' targets, the intervals, what lies around the worst of them, and series as a whole."""

    ingested: list[Json]
    left_out: list[str]
    monitors: list[Json]
    intervals: list[Json]
    pictures: list[Surroundings]
    courses: list[Course]


def _tried(path: Path, at: datetime, file_label: str | None, *, of_all: bool) -> Tried:
    from anomaly_service import readiness
    from anomaly_service.cli import tried_page
    from anomaly_service.insight.surroundings import courses, surroundings
    from anomaly_service.sources.ingest import ingest_from

    with serving(load(path), at) as service:
        ingested = ingest_from(service.config, service.store, service.now, service.on_progress)
        left_out = [why for each in service.backfill().values() for why in each.get("left_out_why", ())]
        watched = readiness.validate(service.store, service.config)
        rows = service.store.rows("flagged_intervals")
        intervals = tried.without_ends(rows, service.store.series(), file_label)
        worst = tried.worst(intervals, tried_page.PICTURES if of_all else tried.WORST)
        whole = courses(service, intervals, tried_page.SERIES) if of_all else []
        return Tried(ingested, left_out, watched, intervals, list(surroundings(service, worst)), whole)


def _show(file: str, words: Sequence[str], shown: list[Json], found: Tried, kept: Path | None) -> None:
    """Show what was found in a browser."""
    from anomaly_service.cli import tried_page

    page = tried_page.TriedPage(file, words, shown, found.pictures, found.courses)
    tried_page.show(page.write(kept.parent if kept else None))


def _rejected(ingested: list[Json]) -> list[str]:
    """Return what to say of rows that could not be read; their list may be gone in a moment."""
    lines = []
    for source in ingested:
        if source["error"]:
            lines.append(f"Not all could be read: {source['error']}")
        lines += [f"{sentence[:1].upper()}{sentence[1:]}." for sentence in source["notes"]]
        if source["rejected"] and source["rejects_file"]:
            with Path(source["rejects_file"]).open(newline="", encoding="utf-8") as file:
                first = next(csv.DictReader(file))
            lines.append(
                f"{source['rejected']:,} rows could not be read, the first one in line {first['line']}: "
                f"{first['reason']}."
            )
    return lines


def _print_intervals(intervals: list[Json], found: Tried, *, as_json: bool) -> None:
    columns = ("start_at", "end_at", "duration", "series", "kind", "what", "score", "expected", "seen")
    named = [
        {
            **row,
            **lists.in_words(row),
            "expected": row["yhat_at_peak"],
            "seen": row["y_at_peak"],
        }
        for row in intervals
    ]
    empty = "Nothing is flagged." if _is_ready(found) else _too_short(found)
    if as_json:
        tables.rows(intervals, columns, as_json=True, empty=empty)
    else:
        short = tried.short(lists.short_intervals(intervals))
        tables.fitted(named, short, columns, as_json=False, wide=False, empty=empty)


def _is_ready(found: Tried) -> bool:
    return any(target["state"] == "ready" for monitor in found.monitors for target in monitor["targets"])


def _too_short(found: Tried) -> str:
    """Return that no model could be fitted, with how much history came and how much one needs."""
    targets = [each for monitor in found.monitors for each in monitor["targets"] if each["ready_by"]]
    if not targets:
        return TOO_SHORT
    longest = max(targets, key=lambda each: each["last_ts"] - each["first_ts"])
    came = longest["last_ts"] - longest["first_ts"]
    needed = int(datetime.fromisoformat(longest["ready_by"]).timestamp()) - longest["first_ts"]
    step = longest["step_seconds"]
    return (
        f"{TOO_SHORT} The longest spans {tables.duration(came)} ({came // step + 1:,} steps of "
        f"{tables.duration(step)}); a first model needs {tables.duration(needed)} ({needed // step:,} steps)."
    )


def _what_next(file: str, kept: Path | None, found: Tried, limit: int) -> list[str]:
    """Return where to go from here."""
    lines = []
    if found.intervals and not _is_ready(found):
        lines.append(f"{_too_short(found)} What is flagged goes by a rule.")
    if left := len(found.intervals) - len(tried.highest(found.intervals, limit)):
        lines.append(f"{left} more with lower scores; --limit {len(found.intervals)} shows them all.")
    lines.append("A score of 1 is the line. More or fewer: --alarms-per-week; look another way: --detector.")
    if kept is None:
        lines.append(
            f"Nothing was kept. To go on from here: anomaly try {file} --keep DIR, or anomaly init {file}"
        )
    else:
        lines.append(f"Kept. Go on with: anomaly intervals --config {kept}, anomaly daemon --config {kept}")
    return lines


@app.command(rich_help_panel=FIRST_STEPS)
def init(
    file: Annotated[list[str] | None, typer.Argument(metavar="[FILE...]", help=FILES)] = None,
    database: Annotated[
        str | None, typer.Option("--database", metavar="URL", help="Instead of SQLite.")
    ] = None,
    timezone: Timezone = None,
    time: TimeColumns = None,
    times: TimesForm = None,
    decimal: Decimal = None,
    value: ValueColumn = None,
    detector: Detector = None,
    season: Annotated[str | None, typer.Option("--season", help="none, daily, weekly or auto.")] = None,
    fit_every: Annotated[
        str | None, typer.Option("--fit-every", metavar="DURATION", help="Time between two fits, such as 7d.")
    ] = None,
    fit_window: Annotated[
        str | None, typer.Option("--fit-window", metavar="DURATION", help="History of a fit, such as 42d.")
    ] = None,
    alarms: Alarms = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a config file that is there.")] = False,
    config: ConfigPath = CONFIG,
    count: Count = None,
    total: Sum = None,
    mean: Mean = None,
    highest: Highest = None,
    p95: P95 = None,
    now: Now = None,
) -> None:
    """Write a config file, for files like yours where you name one, and create the database."""
    from anomaly_service.sources.guess import guess

    with ExitStack() as stack:
        files = _with_input(stack, file or [], config)
    at = moment(now, "--now") or datetime.now(UTC)
    made = _one_aggregate(count=count, sum=total, mean=mean, max=highest, p95=p95)
    wanted = _wanted(time, times, decimal, value, made)
    guessed = guess(*files, timezone=timezone, now=at, **wanted) if files else None
    choices = {
        "database": database,
        "detector": detector,
        "season": season,
        "fit_every": fit_every,
        "fit_window": fit_window,
        "alarms_per_week": alarms,
    }
    _start(config, guessed, force=force, **choices)
    for word in guessed.words if guessed else ():
        tables.note(f"  {word}")
    tables.say(
        f"Wrote {config} and created its database. Look through it, then: anomaly ingest, anomaly backfill"
    )


def _start(path: Path, guessed: Guess | None, *, force: bool = False, **choices: Any) -> None:
    """Write a config file that loads, and create its database.

    Raises:
        RefusedError: a config file is there already.
        ConfigError: a choice is none that a config file may hold; nothing is left behind.
    """
    from anomaly_service.config.starter import starter, starter_for
    from anomaly_service.db.migrate import migrate
    from anomaly_service.errors import RefusedError

    given = {name: value for name, value in choices.items() if value is not None}
    text = starter_for(guessed, folder=path.parent, **given) if guessed else starter(**given)
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    if before is not None and not force:
        raise RefusedError(f"{path} is there already; --force replaces it, --config names another")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    try:
        migrate(load(path).database)
    except BaseException:
        if before is None:
            path.unlink()
        else:
            path.write_text(before, encoding="utf-8")
        raise


@app.command(rich_help_panel=FIRST_STEPS)
def validate(config: ConfigPath = CONFIG, now: Now = None, as_json: AsJson = False) -> None:
    """Check the config file, and say per monitor what it watches and when it can judge."""
    from anomaly_service import readiness
    from anomaly_service.cli.status import validation_lines
    from anomaly_service.config.params import check_params

    loaded = load(config)
    check_params(loaded)
    with opened(config, now, quiet=True) as service:
        found = readiness.validate(service.store, loaded)
    if as_json:
        tables.say(json.dumps(found, indent=1))
        return
    tables.say(f"{config} is a good config file.")
    for line in validation_lines(found):
        tables.say(line)
