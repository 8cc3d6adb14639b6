"""Commands that say how good it is: backtest on labelled series, replay on one's own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.options import (
    CONFIG,
    AsJson,
    ConfigPath,
    Monitors,
    Now,
    app,
    load,
    moment,
    number,
    serving,
    usage,
    whole,
)
from pipelines.names import AUTO

if TYPE_CHECKING:
    from anomaly_service.measure.backtests import Results, Test
    from anomaly_service.measure.replays import Replayed

PANEL = "How good it is"
DEFAULT_DETECTOR = AUTO
NAMED = 5
"""At most so many series without a model are named; the rest is counted."""

COLUMNS = (
    ("dataset", "dataset"), ("detector", "detector"), ("labelled", "labelled"), ("vus_pr", "VUS-PR"),
    ("vus_roc", "VUS-ROC"), ("auc_pr", "AUC-PR"), ("auc_roc", "AUC-ROC"), ("overlap_f1", "overlap F1"),
    ("overlap_f1_live", "live"), ("affiliation_f1", "affil. F1"), ("nab_standard", "NAB"),
    ("share_flagged", "flagged"), ("alarms_per_week", "alarms/wk"), ("alarms_per_week_live", "live"),
    ("alarms_asked_per_week", "asked"), ("delay_steps_median", "delay"),
    ("fit_seconds_per_10k", "fit s/10k"), ("score_seconds_per_10k", "score s/10k"), ("peak_mib", "MiB"),
)  # fmt: skip


@app.command(rich_help_panel=PANEL)
def backtest(
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="A folder of labelled series, or of several data sets."),
    ] = None,
    reviewed: Annotated[
        bool, typer.Option("--reviewed", help="The database's own series, with people's reviews as labels.")
    ] = False,
    detector: Annotated[
        str | None,
        typer.Option("--detector", metavar="D,E", help=f"Any of `anomaly detectors`; {DEFAULT_DETECTOR}."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Test the monitors of this config file instead.", dir_okay=False),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="unsupervised, or train: fit on the training rows, judge the rest.")
    ] = "unsupervised",
    window: Annotated[
        int | None,
        typer.Option(
            "--window", parser=whole(1), help="Steps; 100, 24 under 1,000 rows, 10 of several channels."
        ),
    ] = None,
    alarms: Annotated[
        float,
        typer.Option(
            "--alarms-per-week", parser=number, help="False alarms a week that each series may raise."
        ),
    ] = 1.0,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Test the plain baselines beside it.")
    ] = True,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="A,B", help="Only these data sets of the folder.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", parser=whole(1), help="Processes; as many as there are cores."),
    ] = None,
    json_out: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="OUT",
            dir_okay=False,
            help="Keep every figure here; a later run goes on from it.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", file_okay=False, help="Write index.html with pictures here."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do again what --json holds already.")] = False,
    monitor: Monitors = None,
    now: Now = None,
) -> None:
    """Say how good detectors are on labelled series, with the service's own fit, score and flag."""
    from anomaly_service import executors
    from anomaly_service.config.sections import cores
    from anomaly_service.measure import asked, backtests

    names = asked.names(detector)
    _refuse(
        {
            "name a folder with --data DIR, or the database's own series with --reviewed": (
                (data is None) == (not reviewed)
            ),
            "--dataset and --window go with --data; monitors have their own window": (
                reviewed and (dataset is not None or window is not None)
            ),
            "--detector and --config exclude each other with --data": bool(data and names and config),
            "--monitor goes with --config or --reviewed": bool(data and monitor and not config),
        }
    )
    wanted: list[Test]
    problems: Sequence[str] = ()
    with usage():
        asked.check(split, alarms, reviewed=reviewed)
        if data is None:
            loaded = load(config or _config())
            with serving(loaded, None, quiet=True) as service:
                wanted = asked.tests_on_reviewed(
                    service.store,
                    asked.specs(loaded, monitor),
                    names,
                    split,
                    baselines=baselines,
                    pictured=report is not None,
                )
        else:
            if config is None:
                found = asked.candidates(names or [AUTO], window, alarms, baselines=baselines)
            else:
                found = asked.candidates_of(asked.specs(load(config), monitor), alarms, baselines=baselines)
            wanted, problems = asked.tests_on_folder(
                data, asked.names(dataset), found, split, pictured=report is not None
            )
    keeper = backtests.Keeper(json_out, report / "figures" if report else None)
    executor = executors.build(jobs or cores())
    with tables.Stages() as stages:
        try:
            results = backtests.run(wanted, executor, keeper, stages.update, fresh=fresh)
        finally:
            executor.close()
    for problem in problems:
        results.note(problem)
    _print(results, wanted, json_out)
    if report is not None:
        of = "reviewed series" if reviewed else data
        _write_report(report, results, wanted, f"Backtest of {of}, {split}")
    if not results.of(test.key for test in wanted):
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def replay(
    last: Annotated[
        str | None, typer.Option("--last", metavar="DURATION", help="The newest so long, such as 30d.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Start of the span (ISO 8601).")
    ] = None,
    stop: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of the span; the newest point.")
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option("--threshold", metavar="T", help="Alarms a week, or quantile=0.001, sigma=3, dynamic."),
    ] = None,
    detector: Annotated[
        str | None, typer.Option("--detector", metavar="D", help="Another of `anomaly detectors`.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", parser=whole(1), help="At most so many intervals.")
    ] = 50,
    monitor: Monitors = None,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Say what the daemon would have raised over the last days, live; touches nothing that is stored."""
    from anomaly_service.measure import asked, replays

    loaded = load(config)
    with usage():
        line = asked.threshold(threshold)
        specs = {
            name: replays.tried(spec, line, detector) for name, spec in asked.specs(loaded, monitor).items()
        }
        for name, spec in specs.items():
            asked.window_of(name, spec)
    with serving(loaded, moment(now, "--now")) as service:
        with usage():
            a, b = asked.span(service.store, service.now, last, moment(start, "--from"), moment(stop, "--to"))
        found = replays.replay(service.store, service.executor, specs, a, b, service.on_progress)
    if as_json:
        rows = [row for each in found for row in each.intervals]
        tables.rows(rows, (), as_json=True, empty="")
        return
    for each in found:
        _print_replay(each, limit)


def _print_replay(found: Replayed, limit: int) -> None:
    tables.say(_verdict(found))
    columns = (
        "series", "kind", "start_at", "duration", "direction", "peak_score", "y_at_peak", "yhat_at_peak",
        "first_detected_at",
    )  # fmt: skip
    listed = [
        {**row, "duration": tables.duration(row["duration_seconds"])} for row in found.intervals[:limit]
    ]
    if listed:
        tables.rows(listed, columns, as_json=False, empty="")
    if len(found.intervals) > limit:
        tables.note(f"{len(found.intervals) - limit} more; --limit {len(found.intervals)} shows them all.")
    for note in found.notes:
        tables.note(f"{found.spec.name}: {note}")


def _verdict(found: Replayed) -> str:
    """Return what came of a monitor in a sentence."""
    rule = found.spec.threshold
    each = f" for each of {found.series} series" if rule.per == "series" else f" over {found.series} series"
    if rule.method == "alarms":
        what = f"{'a' if rule.per == 'series' else 'one'} budget of {rule.alarms_per_week:g} a week{each}"
    else:
        value = "" if rule.value is None else f" {rule.value:g}"
        what = f"the line of {rule.method}{value}{each}"
    n = len(found.intervals)
    whole, watched = found.stop - found.start, found.watched_seconds
    days = tables.duration(watched)
    rest = "" if watched == whole else f", all of {tables.duration(whole)} that could be watched"
    rules = sum(row["kind"] != "anomaly" for row in found.intervals)
    apart = f", {rules} of them gaps and flat stretches, which no budget counts" if rules else ""
    allowed = "" if found.asked is None else f" ({_few(found.asked)} allowed for)"
    end = ", here they are:" if n else "."
    intervals = "interval" if n == 1 else "intervals"
    whose = f"{found.spec.name} ({found.spec.detector}): {what}"
    return f"{whose}: {n} {intervals} in {days}{allowed}{rest}{apart}{end}"


def _few(n: float) -> str:
    """Return a number of alarms; with a digit more where a whole number would be none or hardly any.

    >>> _few(57.1), _few(5.0), _few(0.57), _few(0.001)
    ('57', '5', '0.6', 'less than 0.1')
    """
    if n < 0.05:
        return "less than 0.1"
    return f"{n:.0f}" if n >= 10 else f"{n:.1f}".removesuffix(".0")


def _refuse(wrong: Mapping[str, bool]) -> None:
    """Raise the first message of those that hold: wrong usage."""
    for message, holds in wrong.items():
        if holds:
            raise typer.BadParameter(message)


def _config() -> Path:
    """Return the config file where none is named; for --data that is none, so it is no option's default."""
    return Path(os.environ.get("ANOMALY_CONFIG", CONFIG))


def _print(results: Results, wanted: Sequence[Test], json_out: Path | None) -> None:
    from pipelines.measure.scoreboard import summarise

    rows = results.of(test.key for test in wanted)
    if rows:
        cells = [[_cell(row, name) for name, _ in COLUMNS] for row in summarise(rows)]
        tables.table(cells, [label for _, label in COLUMNS])
    else:
        tables.note("There was nothing to test.")
    for problem in results.problems:
        tables.note(f"left out: {problem}")
    models = [row for row in rows if not row["baseline"]] or rows
    short = [row for row in models if row["why"]]
    for row in short[:NAMED]:
        told = f"{row['detector']} on {row['dataset']}/{row['series']}: {row['why']}"
        tables.note(f"no model, so counted as knowing nothing: {told}")
    if len(short) > NAMED:
        tables.note(f"{len(short) - NAMED} more without a model")
    if json_out is not None:
        tables.note(f"Every figure of every series: {json_out}")


def _cell(row: dict[str, Any], name: str) -> object:
    from anomaly_service.measure.report import figure

    if name == "labelled":
        return f"{row['labelled']} of {row['series']}"
    # Nothing in place of an unknown figure keeps its column one of numbers.
    return None if row[name] is None else figure(name, row[name])


def _write_report(folder: Path, results: Results, wanted: Sequence[Test], title: str) -> None:
    from anomaly_service.measure.report import Report
    from pipelines.measure.scoreboard import summarise

    rows = results.of(test.key for test in wanted)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    text = Report(title, summarise(rows), rows, results.pictures, results.problems).html()
    page.write_text(text, encoding="utf-8")
    tables.note(f"Report with a picture of every series: {page}")
