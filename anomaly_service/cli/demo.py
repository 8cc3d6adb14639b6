"""Commands for a first look without data of one's own: simulate and demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.fitted import Column
from anomaly_service.cli.options import (
    CONFIG,
    AsJson,
    ConfigPath,
    Now,
    app,
    load,
    moment,
    serving,
    usage,
    whole,
)
from pipelines.names import AUTO
from pipelines.times import minute

if TYPE_CHECKING:
    from anomaly_service.measure.demo import Demo
    from pipelines.measure.demo_report import DemoReport, IncidentOutcome

PANEL = "How good it is"
OUTCOMES = (
    Column("planted", "planted", 0),
    Column("series", "series", 2, least=10, middle=True),
    Column("from", "from", 3),
    Column("to", "to", 8),
    Column("flagged_as", "flagged as", 1),
    Column("after", "after", 6, right=True),
    Column("start_off", "start ±", 4, right=True),
    Column("end_off", "end ±", 5, right=True),
    Column("score", "score", 7, right=True),
)
"""What is told of a planted incident."""
Weeks = Annotated[int, typer.Option("--weeks", parser=whole(3, 520), help="How many weeks.")]
Seed = Annotated[int, typer.Option("--seed", parser=whole(0), help="Equal seeds, equal data.")]


@app.command(rich_help_panel=PANEL)
def simulate(
    folder: Annotated[Path, typer.Argument(help="Where drop/*.csv and incidents.csv are written.")] = Path(
        "demo"
    ),
    seed: Seed = 1,
    weeks: Weeks = 8,
    config: ConfigPath = CONFIG,
    now: Now = None,
) -> None:
    """Write simulated game telemetry with labelled incidents as CSV files; they end at --now."""
    from anomaly_service.measure.demo import simulated
    from pipelines.measure.simulate import write

    with usage():
        made = simulated(seed, weeks, moment(now, "--now"))
    files = write(made, folder)
    tables.say(f"Wrote {len(files)} files below {folder}; what was planted stands in {files[-1]}.")


@app.command(rich_help_panel=PANEL)
def demo(
    seed: Seed = 1,
    detector: Annotated[str, typer.Option("--detector", help="Any of `anomaly detectors`.")] = AUTO,
    weeks: Weeks = 8,
    config: Annotated[
        Path, typer.Option("--config", "-c", help="Its config file; everything else is written beside it.")
    ] = Path("demo/anomaly.yaml"),
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Run eight simulated weeks through the whole pipeline, and compare with what was planted."""
    from anomaly_service.cli.tables import Stages
    from anomaly_service.db.migrate import migrate
    from anomaly_service.measure import demo as demos

    with usage(), Stages() as stages:
        made = demos.prepare(
            config,
            seed=seed,
            detector=detector,
            weeks=weeks,
            now=moment(now, "--now"),
            on_progress=stages.update,
        )
        loaded = load(made.config)
        migrate(loaded.database)
    with serving(loaded, made.now) as service:
        report = demos.run(service)
    if as_json:
        tables.say(json.dumps({"seed": seed, "detector": detector, **report.figures()}, indent=1))
    else:
        _print_demo(report, made)


def _print_demo(report: DemoReport, made: Demo) -> None:
    """Print what was planted and found, the SQL that lists it, and where to go from here."""
    tables.say("Planted incidents and what became of them")
    rows = [_outcome_row(outcome) for outcome in report.outcomes]
    names = [column.name for column in OUTCOMES]
    tables.fitted(rows, OUTCOMES, names, as_json=False, wide=False, empty="Nothing was planted.")
    tables.say("")
    tables.table(_monitor_rows(report), ("monitor", "intervals", "false alarms a week", "asked for"))
    tables.say("")
    for line in _verdict_lines(report):
        tables.say(line)
    tables.say(NEXT.format(config=made.config, database=made.config.with_suffix(".db")))


def _outcome_row(outcome: IncidentOutcome) -> tables.Row:
    incident = outcome.incident
    planted = {
        "planted": incident.kind.replace("_", " "),
        "series": _short(incident.series),
        "from": minute(incident.start)[5:],
        "to": minute(incident.end)[-5:],
        "flagged_as": "missed",
    }
    if not outcome.flagged:
        return planted
    return planted | {
        "flagged_as": outcome.flagged[0].kind,
        "after": tables.duration(outcome.late_seconds),
        "start_off": _off(outcome.start_error_seconds),
        "end_off": _off(outcome.end_error_seconds),
        "score": f"{max(flagged.peak_score for flagged in outcome.flagged):.1f}",
    }


def _off(seconds: int | None) -> str:
    """Return how far a border lies from the planted one: minutes, negative where it is earlier.

    >>> _off(-1500), _off(0), _off(300)
    ('-25 min', '0 min', '+5 min')
    """
    minutes = round((seconds or 0) / 60)
    return f"{minutes:+d} min" if minutes else "0 min"


def _short(series: str) -> str:
    """Return metric and label values of a series, so that a row fits on a screen.

    >>> _short("logins{platform=pc,realm=eu-1,region=eu}")
    'logins pc eu-1 eu'
    """
    metric, _, labels = series.rstrip("}").partition("{")
    return " ".join([metric, *(label.partition("=")[2] for label in labels.split(",") if label)])


def _monitor_rows(report: DemoReport) -> list[tuple[object, ...]]:
    weeks = report.weeks or 1.0
    flagged, false = report.flagged_by_monitor(), report.false_by_monitor()
    return [
        (name, flagged[name], f"{false[name] / weeks:.1f}", f"{asked:g}")
        for name, asked in report.budgets.items()
    ]


def _verdict_lines(report: DemoReport) -> list[str]:
    figures = report.figures()
    missed = ", ".join(
        f"{kind} {n - found} of {n}" for kind, (n, found) in report.kinds().items() if found < n
    )
    late = "" if not report.found else f", half of them within {figures['late_minutes_median']:.0f} min"
    return [
        f"Found {report.found} of {len(report.outcomes)} incidents{late}; missed: {missed or 'none'}.",
        f"False alarms: {figures['false_alarms_per_week']:.1f} a week over all monitors; "
        f"asked for were at most {figures['budget_per_week']:g}.",
        f"Flagged is {100 * report.share_flagged:.2f} % of the time, every series counted.",
    ]


NEXT = """
The same from SQL (any client; docs/sql.md has more):
  sqlite3 {database} "SELECT series, kind, start_at, end_at, direction, peak_score, y_at_peak, yhat_at_peak
    FROM flagged_intervals ORDER BY start_at DESC LIMIT 20"

What to run next:
  anomaly try your.csv                              your own file: no config, nothing to set up
  anomaly intervals --config {config}      what was flagged here
  anomaly review 1 confirmed --cause outage --config {config}
  anomaly init                                      a config file of your own, then: anomaly daemon
(`anomaly` lies in .venv/bin; or: source .venv/bin/activate)"""
