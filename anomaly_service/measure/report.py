"""The report of a backtest: one HTML file with the tables and a picture of every series, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from anomaly_service.measure.svg import Pictures
from pipelines.records import Json

Key = tuple[str, str, str]
"""Data set, series, detector."""

COLUMNS = (
    ("detector", "detector", "What was tested; baselines are set in italics."),
    ("series", "series", "Series tested, and how many of them have labels."),
    ("vus_pr", "VUS-PR", "Volume under the precision-recall surface, settled; mean over labelled series."),
    ("vus_roc", "VUS-ROC", "Volume under the ROC surface."),
    ("auc_pr", "AUC-PR", "Average precision."),
    ("auc_roc", "AUC-ROC", "Probability that an anomalous row outscores a normal one."),
    ("overlap_f1", "overlap F1", "Of flagged intervals, pooled over series; the live one in brackets."),
    ("range_f1", "range F1", "Range-based F1, mean over labelled series."),
    ("affiliation_f1", "affiliation F1", "Random intervals reach about .5."),
    ("nab_standard", "NAB", "NAB's standard score of the whole corpus: 100 is perfect, 0 finds nothing."),
    ("share_flagged", "flagged", "Share of all rows that lie in flagged intervals."),
    ("alarms_per_week", "false alarms a week", "On stretches without labels, per series; live in brackets."),
    ("alarms_asked_per_week", "asked", "The budget: false alarms a week and series."),
    ("delay_steps_median", "delay", "Steps from a label's start to the first live flag, median."),
    ("fit_seconds_per_10k", "fit s", "Seconds of the model's fit per 10,000 rows."),
    ("score_seconds_per_10k", "score s", "Seconds of a scoring pass per 10,000 rows."),
    ("peak_mib", "peak MiB", "Peak memory of the process that tested a series."),
)  # fmt: skip

TOLD = (
    ("vus_pr", "VUS-PR"),
    ("auc_pr", "AUC-PR"),
    ("overlap_f1", "overlap F1"),
    ("share_flagged", "flagged"),
    ("alarms_per_week", "false alarms a week"),
    ("delay_steps_median", "delay in steps"),
)
"""Figures that stand beside a detector's picture."""


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        title: what was tested, in a line.
        summary: rows of ``pipelines.measure.scoreboard.summarise``.
        rows: one for each series and detector.
        pictures: of each of them.
        problems: what was left out, and why.
    """

    title: str
    summary: Sequence[Json]
    rows: Sequence[Json]
    pictures: Mapping[Key, Pictures]
    problems: Sequence[str] = ()

    def html(self) -> str:
        """Return the page."""
        return page(
            "anomaly_service.measure",
            title=escape(self.title),
            problems=_problems(self.problems),
            tables="".join(_table(name, own) for name, own in _by(self.summary, "dataset")),
            series="".join(self._series(own) for own in _worst_first(self.rows)),
        )

    def _series(self, rows: Sequence[Json]) -> str:
        """Return the section of one series: its values once, and the scores of every detector."""
        first = rows[0]
        keys = [(row["dataset"], row["series"], row["detector"]) for row in rows]
        shown = [
            (row, self.pictures[key]) for row, key in zip(rows, keys, strict=True) if key in self.pictures
        ]
        models = [pair for pair in shown if not pair[0]["baseline"]]
        others = [pair for pair in shown if pair[0]["baseline"]]
        labels = f"{first['labels']} label{'' if first['labels'] == 1 else 's'}"
        about = f"{first['rows']:,} rows, a step of {_duration(first['step_seconds'])}, {labels}"
        if first["channels"] > 1:
            about += f", {first['channels']} channels (shown is the one that deviates most)"
        values = (models or others)[0][1].values if shown else ""
        return (
            f'<section id="{escape(_anchor(first), quote=True)}"><h3>{escape(first["series"])}</h3>'
            f'<p class="about">{escape(first["dataset"])} · {about}</p>'
            f"{values}{_views(models)}{_baselines(others, is_open=not models)}</section>"
        )


def page(package: str, *, title: str, **parts: str) -> str:
    """Return a page that needs no other file: ``report.html`` of a package, with the style of all reports.

    Args:
        title: as HTML.
        parts: what stands where the page has their names, as HTML.
    """
    body = Template(_text(package, "report.html")).substitute(parts)
    own = "anomaly_service.measure"
    return Template(_text(own, "page.html")).substitute(
        title=title, body=body, style=_text(own, "report.css")
    )


def _text(package: str, name: str) -> str:
    return (resources.files(package) / name).read_text("utf-8")


def _worst_first(rows: Iterable[Json]) -> list[list[Json]]:
    """Return the rows of every series, those on which the models do worst first, unlabelled ones last."""
    groups: dict[tuple[str, str], list[Json]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["series"]), []).append(row)

    def badness(own: Sequence[Json]) -> tuple[float, float]:
        models = [row for row in own if not row["baseline"]] or own
        found = [row["vus_pr"] for row in models if row["vus_pr"] is not None]
        return (sum(found) / len(found) if found else 2.0, -max(row["share_flagged"] for row in models))

    return sorted(groups.values(), key=badness)


def _views(pairs: Sequence[tuple[Json, Pictures]]) -> str:
    return "".join(
        f'<div class="view"><p><b>{escape(row["detector"])}</b> {_told(row)}</p>{pictures.scores}</div>'
        for row, pictures in pairs
    )


def _baselines(pairs: Sequence[tuple[Json, Pictures]], *, is_open: bool) -> str:
    if not pairs:
        return ""
    return f"<details{' open' if is_open else ''}><summary>baselines</summary>{_views(pairs)}</details>"


def _told(row: Json) -> str:
    if row["why"]:
        return f'<span class="why">no model: {escape(row["why"])}</span>'
    parts = [f"{label} {figure(name, row[name])}" for name, label in TOLD if row[name] is not None]
    return escape(" · ".join(parts))


def _table(dataset: str, rows: Sequence[Json]) -> str:
    best = {
        name: max((row[name] for row in rows if row.get(name) is not None), default=None)
        for name in ("vus_pr", "vus_roc", "auc_pr", "auc_roc", "overlap_f1", "range_f1", "affiliation_f1")
    }
    head = "".join(f'<th title="{escape(tip, quote=True)}">{label}</th>' for _, label, tip in COLUMNS)
    body = "".join(_table_row(row, best) for row in rows)
    return f"<h2>{escape(dataset)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _table_row(row: Json, best: Mapping[str, float | None]) -> str:
    cells = []
    for name, _, _ in COLUMNS:
        bold = ' class="best"' if row.get(name) is not None and row.get(name) == best.get(name) else ""
        cells.append(f"<td{bold}>{escape(_cell(row, name))}</td>")
    kind = ' class="baseline"' if row["baseline"] else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _cell(row: Json, name: str) -> str:
    if name == "series":
        missing = f", {row['not_fitted']} without a model" if row["not_fitted"] else ""
        return f"{row['series']} ({row['labelled']} labelled{missing})"
    live = row.get(f"{name}_live")
    if name in ("overlap_f1", "alarms_per_week") and live is not None:
        return f"{figure(name, row[name])} ({figure(name, live)})"
    return figure(name, row[name])


def figure(name: str, value: Any) -> str:
    """Return a figure as tables show it.

    >>> figure("share_flagged", 0.0123), figure("vus_pr", 0.5), figure("vus_pr", None)
    ('1.2 %', '0.500', '–')
    """
    match value:
        case None:
            return "–"
        case str():
            return value
        case int():
            return f"{value:,}"
        case _ if name == "share_flagged":
            return f"{100 * value:.1f} %"
        case _ if name in ("delay_steps_median", "peak_mib"):
            return f"{value:,.0f}"
        case _ if name == "nab_standard":
            return f"{value:.1f}"
        case _ if name.startswith("alarms"):
            return f"{value:.2f}"
        case _:
            return f"{value:.3f}"


def _by(rows: Iterable[Json], name: str) -> list[tuple[str, list[Json]]]:
    groups: dict[str, list[Json]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return list(groups.items())


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f'<details class="problems"><summary>{len(problems)} left out</summary><ul>{items}</ul></details>'


def _anchor(row: Json) -> str:
    return f"{row['dataset']}/{row['series']}"


def _duration(seconds: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
