"""Every registered detector on labelled data, beside what other libraries reach on the same rows.

Usage: python benchmarks/quality.py --data path/to/data [--datasets nab,mscloud] [--detectors gaussian,kde]
Runs the backtest unsupervised (whole series, scores of models that did not see their block), one
configuration for all, and prints Markdown tables. Results are kept and a later run goes on from them.
With a peers.csv beside the data (dataset, series, method, vus_pr, auc_pr) its methods stand in the tables;
with --page docs/quality.md they are put between that page's marks.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from measure import machine

from anomaly_service.executors.local import LocalExecutor
from anomaly_service.measure import backtests
from anomaly_service.measure.labelled import LabelledFile, find
from anomaly_service.measure.report import Report, figure
from detectors import registry
from pipelines.measure.backtest import Candidate
from pipelines.measure.scoreboard import difference, mean, summarise
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import AUTO
from pipelines.records import Json

ONE_CHANNEL = ("nab", "mscloud", "aiops_final", "ucr")
MANY_CHANNELS = ("asd", "msl", "smd8")

PARTS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "aiops_final": {"301c70d8-1630-35ac-8f96-bc1b6f4359ea": (8_784, 17_568), "": (0, 40_000)},
}
"""Rows that the figures of others were measured on, where those are not all; "" is every other series."""

TEST_ROWS = {"smd8": 20_000}
"""Data sets of which so many rows behind the training part were measured."""

AGAINST = {
    "": ("pyod_KNN5", "pyod_GMM1", "moving_std"),
    "many": ("pyod_KNN5@w10", "pyod_GMM1@w10", "moving_std"),
}
"""Whom every detector is compared with, series by series: on one channel, and on many."""

OURS_COLUMNS = (
    ("dataset", "data set"), ("detector", "detector"), ("vus_pr", "VUS-PR"), ("vus_roc", "VUS-ROC"),
    ("auc_pr", "AUC-PR"), ("auc_roc", "AUC-ROC"), ("vus_pr_live", "VUS-PR live"),
    ("overlap_f1", "overlap F1"), ("overlap_f1_live", "live"), ("range_f1", "range F1"),
    ("affiliation_f1", "affil. F1"),
    ("nab_standard", "NAB"), ("share_flagged", "flagged"), ("alarms_per_week", "alarms/week"),
    ("alarms_per_week_live", "live"), ("alarms_asked_per_week", "asked"), ("delay_steps_median", "delay"),
    ("fit_seconds_per_10k", "fit s"), ("calibrate_seconds_per_10k", "calibrate s"),
    ("score_seconds_per_10k", "score s"), ("peak_mib", "MiB"), ("not_fitted", "no model"),
)  # fmt: skip


@dataclass(frozen=True)
class Peers:
    """What others reach: figure by data set, method and series."""

    figures: Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]
    series: Mapping[str, frozenset[str]]

    @classmethod
    def read(cls, path: Path | None) -> Peers:
        figures: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        series: dict[str, set[str]] = {}
        if path is None or not path.is_file():
            return cls({}, {})
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                series.setdefault(row["dataset"], set()).add(row["series"])
                for name in ("vus_pr", "auc_pr"):
                    if row[name]:
                        own = figures.setdefault((row["dataset"], row["method"]), {}).setdefault(name, {})
                        own[row["series"]] = float(row[name])
        return cls(figures, {name: frozenset(found) for name, found in series.items()})

    def methods(self) -> list[str]:
        return sorted({method for _, method in self.figures})


def files_of(data: Path, dataset: str, peers: Peers) -> list[LabelledFile]:
    """Return the series of a data set, cut to the rows that others were measured on."""
    files = list(find(data, [dataset]).files)
    if dataset == "ucr" and dataset in peers.series:
        files = [file for file in files if file.series in peers.series[dataset]]
    return [_cut(file) for file in files]


def _cut(file: LabelledFile) -> LabelledFile:
    if file.dataset in TEST_ROWS and file.train_until is not None:
        first = int((file.read().ts <= file.train_until).sum())
        return replace(file, part=(first, first + TEST_ROWS[file.dataset]))
    parts = PARTS.get(file.dataset, {})
    return replace(file, part=parts.get(file.series, parts.get("")))


def candidates(names: Sequence[str]) -> list[Candidate]:
    """Return the detectors with their defaults; windows are 100, 24 below 1,000 rows, 10 of many channels."""
    threshold = Threshold(alarms_per_week=1.0, per="series")
    return [Candidate(name, MonitorSpec(name, {}, detector=name, threshold=threshold)) for name in names]


# -- tables -------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def compared(rows: Sequence[Json], datasets: Sequence[str], peers: Peers, what: str) -> str:
    """Return the mean of a figure for every detector and method per data set, best mean first."""
    ours = by_series(rows, what)
    counts = {name: max((len(own.get(name, {})) for own in ours.values()), default=0) for name in datasets}
    lines: list[tuple[float, list[str]]] = []
    for detector, own in ours.items():
        kind = " (baseline)" if detector != AUTO and registry.get(detector).baseline else ""
        lines.append(_line(f"**{detector}**{kind}", [mean(own.get(d, {}).values()) for d in datasets]))
    for method in peers.methods():
        means = []
        for dataset in datasets:
            labelled = {series for own in ours.values() for series in own.get(dataset, {})}
            theirs = peers.figures.get((dataset, method), {}).get(what, {})
            # A mean over other series than ours would say nothing beside it.
            means.append(mean(theirs[series] for series in labelled) if labelled <= set(theirs) else None)
        lines.append(_line(method, means))
    head = ["", *(f"{name} ({counts[name]})" for name in datasets), "mean"]
    return table(head, [cells for _, cells in sorted(lines, key=lambda line: -line[0]) if cells[1:]])


def by_series(rows: Sequence[Json], what: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return a figure by detector, data set and series, where there is one."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row[what] is not None:
            found.setdefault(row["detector"], {}).setdefault(row["dataset"], {})[row["series"]] = row[what]
    return found


def _line(name: str, means: Sequence[float | None]) -> tuple[float, list[str]]:
    """Return a line, and what it is sorted by; a mean over data sets needs all of them."""
    if all(each is None for each in means):
        return (-2.0, [name])
    over = mean(means) if all(each is not None for each in means) else None
    cells = [name, *(_figure(each) for each in [*means, over])]
    known = [each for each in means if each is not None]
    return (over if over is not None else sum(known) / len(known) - 1.0, cells)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def details(rows: Sequence[Json]) -> str:
    body = [[figure(name, row[name]) for name, _ in OURS_COLUMNS] for row in summarise(rows)]
    return table([label for _, label in OURS_COLUMNS], body)


def differences(rows: Sequence[Json], datasets: Sequence[str], peers: Peers, others: Sequence[str]) -> str:
    """Return the paired difference of VUS-PR of every detector to each of the usual ones, over all series."""
    ours: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["dataset"] in datasets and row["vus_pr"] is not None:
            ours.setdefault(row["detector"], {})[f"{row['dataset']}/{row['series']}"] = row["vus_pr"]
    body = []
    for detector, own in ours.items():
        cells = [detector]
        for other in others:
            theirs = ours.get(other) or {
                f"{name}/{series}": value
                for name in datasets
                for series, value in peers.figures.get((name, other), {}).get("vus_pr", {}).items()
            }
            apart = difference(own, theirs) if other != detector else None
            cells.append(
                "-" if apart is None else f"{apart.mean:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})"
            )
        body.append(cells)
    return table(["", *(f"less {other}" for other in others)], body)


def tables(rows: Sequence[Json], peers: Peers) -> str:
    there = {row["dataset"] for row in rows}
    single = [name for name in ONE_CHANNEL if name in there]
    many = [name for name in MANY_CHANNELS if name in there]
    parts = []
    for label, datasets, kind in (("One channel", single, ""), ("Many channels", many, "many")):
        if not datasets:
            continue
        own = [row for row in rows if row["dataset"] in datasets]
        parts += [f"### {label}, VUS-PR", compared(own, datasets, peers, "vus_pr")]
        parts += [f"### {label}, AUC-PR", compared(own, datasets, peers, "auc_pr")]
        parts += [
            f"### {label}, VUS-PR, differences on the same series",
            differences(own, datasets, peers, AGAINST[kind]),
        ]
    parts += ["### Everything measured of each detector", details(rows)]
    return "\n\n".join(parts)


BEGIN, END = "<!-- tables of make quality -->", "<!-- end of the tables -->"


def put(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page} has no lines {BEGIN!r} and {END!r} to put the tables between")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def _costs(name: str) -> tuple[bool, bool, str]:
    """Sort the cheap ones first: their figures stand while the networks train."""
    if name == AUTO:
        return False, True, name
    return registry.get(name).folds < 5, not registry.get(name).baseline, name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled data sets")
    parser.add_argument("--datasets", default="", help="only these, with commas; all that are there")
    parser.add_argument("--detectors", default="", help="only these, with commas; all that are registered")
    parser.add_argument("--peers", type=Path, help="figures of others; peers.csv beside the data")
    parser.add_argument("--out", type=Path, default=Path("quality"), help="results, report and tables")
    parser.add_argument("--page", type=Path, help="put the tables between this page's marks, too")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    asked = parser.parse_args()
    machine()
    peers = Peers.read(asked.peers or asked.data.parent / "peers.csv")
    everything = (*ONE_CHANNEL, *MANY_CHANNELS)
    there = [name for name in everything if (asked.data / name).is_dir()]
    datasets = [name for name in asked.datasets.split(",") if name] or there
    names = [name for name in asked.detectors.split(",") if name] or [AUTO, *registry.names()]
    names.sort(key=_costs)
    executor = LocalExecutor(asked.jobs)
    keeper = backtests.Keeper(asked.out / "results.json", asked.out / "figures")
    wanted: list[backtests.Test] = []
    results = backtests.Results()
    for name in names:
        for dataset in datasets:
            files = files_of(asked.data, dataset, peers)
            own = list(backtests.tests(files, candidates([name]), "unsupervised", pictured=True))
            began = time.perf_counter()
            results = backtests.run(own, executor, keeper, lambda stage, share: None, fresh=asked.fresh)
            wanted += own
            (row,) = summarise(results.of(test.key for test in own)) or [{}]
            took = time.perf_counter() - began
            print(
                f"  {name:14s} {dataset:12s} VUS-PR {_figure(row.get('vus_pr'))}  {took:6.1f} s", flush=True
            )
    executor.close()
    rows = results.of(test.key for test in wanted)
    text = tables(rows, peers)
    print(f"\n{text}")
    (asked.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    if asked.page:
        put(asked.page, text)
    report = Report("Quality of every detector", summarise(rows), rows, results.pictures, results.problems)
    (asked.out / "index.html").write_text(report.html(), encoding="utf-8")
    for problem in results.problems:
        print(f"left out: {problem}")


if __name__ == "__main__":
    main()
