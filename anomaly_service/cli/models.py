"""Commands about the stored models: what they are, and what they would draw."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.lists import After, Limit
from anomaly_service.cli.options import CONFIG, AsJson, ConfigPath, Now, app, moment, opened, usage, whole

if TYPE_CHECKING:
    from anomaly_service.insight.samples import Sampled

PANEL = "Models"


@app.command(rich_help_panel=PANEL)
def models(
    monitor: Annotated[str | None, typer.Option("--monitor", "-m", help="Only this monitor's.")] = None,
    series: Annotated[
        str | None, typer.Option("--series", help="Only this series', as it is printed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Older versions too, not only those in use.")] = False,
    limit: Limit = 50,
    after: After = None,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """List the stored models with their cards: what each was learned from, and what it weighs."""
    from anomaly_service.insight import lists

    with usage(), opened(config, now, quiet=True) as service:
        found = lists.models(
            service.store,
            service.config.monitor_specs(),
            monitor=monitor,
            series=series,
            every=every,
            limit=limit,
            after=after,
        )
    columns = (
        "model_version_id", "series", "monitor", "detector", "status", "train_stop_at",
        "windows", "missing", "nll", "c2st", "bytes", "fit_seconds",
    )  # fmt: skip
    tables.page(
        found,
        columns,
        as_json=as_json,
        empty="No model yet; run: anomaly backfill",
        spare=("fit_seconds", "bytes", "windows", "missing", "monitor", "status", "c2st", "nll"),
        in_words=lambda row: _of_card(row["card"]),
    )


def _of_card(card: Mapping[str, Any]) -> dict[str, object]:
    """Return what a table shows of a model card, rounded to what matters."""

    def rounded(name: str, form: str) -> str | None:
        value = card.get(name)
        return None if value is None else format(value, form)

    return {
        "windows": card.get("n_windows"),
        "missing": rounded("missing_share", ".1%"),
        "nll": rounded("nll", ".2f"),
        "c2st": rounded("c2st_difference", "+.2f"),
        "bytes": card.get("bytes"),
        "fit_seconds": rounded("fit_seconds", ".3f"),
    }


@app.command(rich_help_panel=PANEL)
def sample(
    monitor: Annotated[str, typer.Option("--monitor", "-m", help="Whose model.")],
    series: Annotated[
        str | None, typer.Option("--series", help="Of which series, as it is printed; the only one.")
    ] = None,
    n: Annotated[int, typer.Option("-n", parser=whole(1), help="How many windows.")] = 20,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="End of the windows; the newest point.")
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", parser=whole(0, 2**63 - 1), help="Equal seeds draw equal windows.")
    ] = 0,
    csv_to: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the windows, a row per step.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write a picture (.png, .svg, .pdf).")
    ] = None,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Draw new windows from a series' model, in the series' own unit, beside what was observed."""
    from anomaly_service.insight import samples

    _check_picture(plot)
    stop = moment(at, "--at")
    with opened(config, now, quiet=True) as service:
        found = samples.draw(
            service, monitor, series, n, stop=None if stop is None else int(stop.timestamp()), seed=seed
        )
    if csv_to is not None:
        _write_csv(csv_to, found)
    if plot is not None:
        samples.picture(found, plot)
        tables.note(f"wrote {plot}")
    if as_json or (csv_to is None and plot is None):
        listed = samples.rows(found) if as_json else samples.summary(found)
        tables.rows(listed, list(listed[0]), as_json=as_json, empty="")


PICTURES = (".png", ".svg", ".pdf")


def _check_picture(path: Path | None) -> None:
    """Refuse a picture that cannot be written before any work is done."""
    if path is None:
        return
    if path.suffix not in PICTURES:
        raise typer.BadParameter(f"--plot writes {', '.join(PICTURES)}; got {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"--plot: there is no folder {path.absolute().parent}; make it first")


def _write_csv(path: Path, found: Sampled) -> None:
    from anomaly_service.insight import samples

    rows = samples.rows(found)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: tables.plain(value) for name, value in row.items()} for row in rows)
    tables.note(f"wrote {path}: {len(found.values)} windows of {len(found.ts)} steps")
