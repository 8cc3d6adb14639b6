"""Alarms realised over alarms asked for, on normal data, by the service's own jobs.

Usage: python benchmarks/bench_alarms.py [--detectors gaussian kde ...] [--kinds white ar95 ...] [--data DIR]
Every kind is a monitor of its own: a history to learn from, then weeks that are judged, with a refit every
week and a calibration every night, as the daemon does. Ratios stand beside their Poisson interval of
95 % and the share of single series between half and twice the budget. With --data, the unlabelled
stretches of real series are judged too: labelled rows are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from measure import machine, title
from numpy.typing import NDArray
from scipy.signal import lfilter

from anomaly_service.db.migrate import migrate
from anomaly_service.db.store import SqlStore
from anomaly_service.executors.local import LocalExecutor
from anomaly_service.measure.labelled import find
from detectors import registry
from pipelines.batches import batches
from pipelines.jobs.assemble import Asked, assemble
from pipelines.jobs.lines import LineBook
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.plan import pieces
from pipelines.jobs.recalibrate import recalibrate
from pipelines.jobs.refit import due, refit
from pipelines.measure.metrics import poisson_interval
from pipelines.measure.simulate import simulate
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import AUTO, Kind, Mode
from pipelines.records import Json, PointBlock, Points, Policy, SeriesSpec, TargetRow
from pipelines.store import Ingest
from pipelines.times import DAY
from pipelines.workers.judge import scored
from pipelines.workers.score import ScoredSteps, raw_scores
from pipelines.workers.tasks import ScoreTarget

WEEK = 7 * DAY
STEP = 600
START = 20_006 * DAY
"""A Monday, 00:00 UTC."""

BUDGETS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Alarms a week and series."""

ONE_MODEL = ("tadgan",)
"""Those that serve many series as one model for all of them."""

Values = NDArray[np.float64]
Seconds = NDArray[np.int64]


def autocorrelated(n: int, rng: np.random.Generator, phi: float) -> Values:
    noise = rng.standard_normal(n + 500)
    return np.asarray(lfilter([np.sqrt(1 - phi**2)], [1, -phi], noise)[500:])


def rhythm(ts: Seconds) -> Values:
    turn = 2 * np.pi * ts / DAY
    return 1 + 0.4 * np.sin(turn) + 0.1 * np.sin(2 * turn + 1)


def weeks(ts: Seconds) -> Values:
    return np.asarray((ts - ts[0]) / WEEK)


Maker = Callable[[Seconds, np.random.Generator], Values]
KINDS: dict[str, Maker] = {
    "white": lambda ts, rng: 100 * rhythm(ts) + 5 * rng.standard_normal(len(ts)),
    "ar(.95)": lambda ts, rng: 100 * rhythm(ts) + 5 * autocorrelated(len(ts), rng, 0.95),
    "heavy-tailed": lambda ts, rng: 100 * rhythm(ts) + 3 * rng.standard_t(3, len(ts)),
    "counts": lambda ts, rng: rng.poisson(rng.lognormal(4, 1) * rhythm(ts)).astype(float),
    "sparse counts": lambda ts, rng: rng.poisson(rng.uniform(0.02, 0.5) * rhythm(ts)).astype(float),
    "zero-inflated": lambda ts, rng: np.where(
        rng.random(len(ts)) < rng.uniform(0.02, 0.2), rng.lognormal(2, 1, len(ts)), 0.0
    ),
    "constant": lambda ts, rng: np.full(len(ts), float(rng.integers(0, 100))),
    "level drifts 5 % a week": lambda ts, rng: (
        100 * rhythm(ts) * (1 + 0.05 * weeks(ts)) + 5 * autocorrelated(len(ts), rng, 0.6)
    ),
    "noise grows 10 % a week": lambda ts, rng: (
        100 * rhythm(ts) + 5 * (1 + 0.1 * weeks(ts)) * autocorrelated(len(ts), rng, 0.6)
    ),
    "random walk": lambda ts, rng: (
        100 + np.cumsum(0.3 * rng.standard_normal(len(ts))) + 2 * rng.standard_normal(len(ts))
    ),
}
GAME = "game telemetry"
MIXED = "half drifting"
"""Half of the series are white, the noise of the other half grows."""
TOGETHER = "all real series"


@dataclass(frozen=True)
class Series:
    """One normal series."""

    points: Points
    step_seconds: int
    timezone: str = "UTC"


def simulated(kind: str, n: int, n_weeks: int, seed: int) -> list[Series]:
    """Return the series of a kind; equal seeds, equal series."""
    if kind == GAME:
        made = simulate(seed, weeks=max(3, n_weeks))
        return [
            Series(points, spec.step_seconds, spec.timezone)
            for spec, points in zip(made.series, made.undisturbed, strict=True)
        ][: 2 * n]
    ts = np.arange(START, START + n_weeks * WEEK, STEP)
    names = ["white", "noise grows 10 % a week"] if kind == MIXED else [kind]
    makers = [KINDS[names[i % len(names)]] for i in range(n)]
    values = [make(ts, np.random.default_rng([seed, i, len(kind)])) for i, make in enumerate(makers)]
    return [Series(Points(ts, value), STEP) for value in values]


def real(folder: Path, dataset: str) -> list[Series]:
    """Return every channel of a data set without its labelled rows, moved by whole weeks to one begin."""
    out = []
    for file in find(folder, [dataset]).files:
        labelled = file.read()
        keep = ~labelled.marked(labelled.truth)
        shift = (int(labelled.ts[0]) - START) // WEEK * WEEK
        for points in replace(labelled, ts=labelled.ts[keep] - shift, values=labelled.values[keep]).points:
            # A channel that hardly ever moves has no alarms to give, whatever is asked of it.
            if len(points.ts) and np.ptp(points.value) > 0:
                out.append(Series(points, labelled.step_seconds))
    return out


# -- one monitor --------------------------------------------------------------------


@dataclass(frozen=True)
class Realised:
    """Alarms of one monitor, budget and mode."""

    budget: float
    mode: str
    alarms: int
    weeks: float
    in_band: float
    rules: int

    @property
    def ratio(self) -> float:
        return self.alarms / self.weeks / self.budget

    def interval(self) -> tuple[float, float]:
        low, high = poisson_interval(self.alarms, self.weeks * self.budget)
        return low, high

    @property
    def kept(self) -> bool:
        least, most = (1 / 3, 3.0) if self.budget < 0.3 else (0.5, 2.0)
        return least <= self.ratio <= most


def judge(
    series: Sequence[Series], spec: MonitorSpec, executor: LocalExecutor, budgets: Sequence[float]
) -> Iterator[Realised]:
    """Yield what a monitor over these series raises, for every budget, live and settled."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'bench.db'}"
        migrate(url)
        with SqlStore(url) as store:
            end = fill(store, series)
            job = desk_of(store, spec, executor)
            refit(job, due(job, end, missing=True))
            recalibrate(job, end)
            yield from _counted(job, end, budgets)


def fill(store: SqlStore, series: Sequence[Series]) -> int:
    """Store the series; return the time just after the newest point."""
    for number, each in enumerate(series):
        spec = SeriesSpec("load", {"i": f"{number:04d}"}, each.step_seconds, 0, each.timezone, "bench")
        points = each.points
        block = PointBlock(np.zeros(len(points.ts), dtype=np.int64), points.ts, points.value)
        store.ingest(Ingest("bench", [spec], block))
    return max(int(each.points.ts[-1]) for each in series) + 1


def desk_of(store: SqlStore, spec: MonitorSpec, executor: LocalExecutor) -> MonitorJob:
    row = store.sync_monitors({spec.name: spec.to_json()})[0]
    store.sync_targets(row.id, [(s.spec.key, (s.id,)) for s in store.series()])
    return MonitorJob(store, executor, row, spec)


def _counted(job: MonitorJob, end: int, budgets: Sequence[float]) -> Iterator[Realised]:
    versions = job.versions(job.targets())
    targets = [target for target in job.targets() if versions[target.id]]
    known = job.series()
    spans = {
        t.id: (versions[t.id][0].train_stop, min(end, (known[t.series_ids[0]].last_ts or 0) + 1))
        for t in targets
    }
    targets = [t for t in targets if spans[t.id][0] < spans[t.id][1]]
    found: dict[tuple[float, str], list[tuple[int, int, float]]] = {}
    for group in batches(targets, 16):
        for key, counts in _of_group(job, group, spans, budgets):
            found.setdefault(key, []).append(counts)
    for (budget, mode), counts in found.items():
        alarms, rules, own_weeks = (np.array(column) for column in zip(*counts, strict=True))
        ratio = alarms / np.maximum(own_weeks, 1e-9) / budget
        band = float(np.mean((ratio >= 0.5) & (ratio <= 2.0)))
        yield Realised(budget, mode, int(alarms.sum()), float(own_weeks.sum()), band, int(rules.sum()))


def _of_group(
    job: MonitorJob, group: Sequence[TargetRow], spans: dict[int, tuple[int, int]], budgets: Sequence[float]
) -> Iterator[tuple[tuple[float, str], tuple[int, int, float]]]:
    """Yield alarms, intervals of rules, and weeks of every target, by budget and mode."""
    by_id = job.versions(group)
    asked = [
        Asked(t, tuple(pieces(by_id[t.id], *spans[t.id])), spans[t.id][1], spans[t.id][1]) for t in group
    ]
    scoring, weights = assemble(job, asked, LineBook(job))
    raw = raw_scores(job.spec, scoring, weights)
    low, high = min(a for a, _ in spans.values()), max(b for _, b in spans.values())
    for budget in budgets:
        # The budget is the monitor's, and only series with a model can spend it.
        threshold = replace(job.spec.threshold, alarms_per_week=budget * len(spans))
        at = replace(job, spec=replace(job.spec, threshold=threshold))
        lines = LineBook(at, dry_run=True).of([t.id for t in group], low, high)
        for target, steps in zip(scoring, raw, strict=True):
            own = replace(target, lines=lines[target.target.id])
            for mode in Mode:
                yield (budget, str(mode)), _alarms(at.spec, own, steps, mode)


def _alarms(
    spec: MonitorSpec, target: ScoreTarget, steps: list[ScoredSteps], mode: Mode
) -> tuple[int, int, float]:
    step = target.target.step_seconds
    window = max(part.windows.window for each in steps for part in (each, *each.parts))
    # What not every window covers yet is not settled, and counts as live in either mode.
    settled = 0 if mode is Mode.LIVE else target.observed_until - (window - 1) * step
    found = scored(spec, replace(target, settled_until=settled), steps)
    anomalies = sum(each.kind is Kind.ANOMALY for each in found.found)
    rules = sum(each.kind is Kind.FLATLINE for each in found.found)
    own_weeks = np.count_nonzero(~np.isnan(found.live)) * step / WEEK
    return anomalies, rules, float(own_weeks)


# -- all of them --------------------------------------------------------------------


def spec_of(detector: str, window: int, policy: Policy = Policy()) -> MonitorSpec:
    return MonitorSpec(
        "bench",
        {"metric": ["load"]},
        detector=detector,
        params={} if detector == AUTO else {"window": window},
        scope="group" if detector in ONE_MODEL else "series",
        stagger=False,
        threshold=Threshold(alarms_per_week=1.0),
        policy=policy,
        scores="near_events",
    )


def tell(detector: str, kind: str, found: Sequence[Realised]) -> None:
    """Print a line for each budget, live and settled beside each other."""
    for budget in dict.fromkeys(each.budget for each in found):
        cells = []
        for each in (one for one in found if one.budget == budget):
            low, high = each.interval()
            mark = " " if each.kept else "!"
            cells.append(
                f"{each.mode} {each.ratio:5.2f}{mark}({low:4.2f} to {high:5.2f}) {each.in_band:4.0%} in band"
            )
        print(f"  {detector:9s} {kind:24s} {budget:5.1f}  " + "   ".join(cells), flush=True)


def as_json(detector: str, kind: str, found: Sequence[Realised]) -> list[Json]:
    rows = []
    for each in found:
        low, high = each.interval()
        rows.append({
            "detector": detector, "kind": kind, "budget": each.budget, "mode": each.mode,
            "alarms": each.alarms, "weeks": each.weeks, "ratio": each.ratio, "low": low, "high": high,
            "in_band": each.in_band, "rules": each.rules, "kept": each.kept,
        })  # fmt: skip
    return rows


def markdown(rows: Sequence[Json]) -> str:
    """Return a table of ratios: lowest and highest of budgets from .3 to 10, live and settled, and at .1."""
    rows = [*rows, *together(rows)]
    detectors = list(dict.fromkeys(row["detector"] for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    lines = ["| | series-weeks | " + " | ".join(detectors) + " |", "| --- " * (len(detectors) + 2) + "|"]
    for kind in kinds:
        own = [row for row in rows if row["kind"] == kind]
        cells = [_range([row for row in own if row["detector"] == name]) for name in detectors]
        lines.append(f"| {kind} | {max(row['weeks'] for row in own):.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def together(rows: Sequence[Json]) -> list[Json]:
    """Return all real data sets as one kind, so that small ones weigh what they hold."""
    pooled: dict[tuple[str, float, str], list[Json]] = {}
    for row in rows:
        if row["kind"] not in (*KINDS, MIXED, GAME):
            pooled.setdefault((row["detector"], row["budget"], row["mode"]), []).append(row)
    found = []
    for (detector, budget, mode), own in pooled.items():
        alarms, weeks = sum(row["alarms"] for row in own), sum(row["weeks"] for row in own)
        all_of_them = Realised(budget, mode, alarms, weeks, np.nan, sum(row["rules"] for row in own))
        found += as_json(detector, TOGETHER, [all_of_them])
    return found


def _range(rows: Sequence[Json]) -> str:
    """Return ``low to high; the same at .1; share of series in band at 1``, marked where one is not kept."""
    if not rows:
        return "-"
    usual = [row for row in rows if row["budget"] >= 0.3]
    rare = [row for row in rows if row["budget"] < 0.3]
    spans = [
        f"{min(r['ratio'] for r in each):.2f} to {max(r['ratio'] for r in each):.2f}"
        for each in (usual, rare)
    ]
    marks = ["" if all(row["kept"] for row in each) else " (!)" for each in (usual, rare)]
    cells = [span + mark for span, mark in zip(spans, marks, strict=True)]
    band = np.mean([row["in_band"] for row in rows if row["budget"] == 1.0])
    return "; ".join(cells if np.isnan(band) else [*cells, f"{band:.0%}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--detectors", nargs="*", default=["robust_z", "gaussian"], choices=[AUTO, *registry.names()]
    )
    parser.add_argument("--kinds", nargs="*", default=[*KINDS, MIXED, GAME])
    parser.add_argument("--series", type=int, default=24)
    parser.add_argument("--weeks", type=int, default=12, help="two of history, the others are judged")
    parser.add_argument("--window", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--data", type=Path, help="folder of labelled data sets, to judge unlabelled stretches"
    )
    parser.add_argument("--datasets", nargs="*", default=["nab", "mscloud", "aiops_final", "asd", "games"])
    parser.add_argument("--merge-hours", type=float, default=1.0, help="join intervals no further apart")
    parser.add_argument("--rest-hours", type=float, default=0.0, help="none within so long of the last one")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    parser.add_argument("--table", type=Path, nargs="*", help="only print a Markdown table of kept figures")
    asked = parser.parse_args()
    if asked.table:
        print(markdown([row for path in asked.table for row in json.loads(path.read_text(encoding="utf-8"))]))
        return
    machine()
    rows: list[Json] = []
    executor = LocalExecutor(2)
    title("alarms realised / asked for, Poisson interval of 95 %, share of series between .5 and 2")
    work: list[tuple[str, Callable[[], list[Series]]]] = [
        (kind, lambda kind=kind: simulated(kind, asked.series, asked.weeks, asked.seed))
        for kind in asked.kinds
    ]
    if asked.data:
        work += [(name, lambda name=name: real(asked.data, name)) for name in asked.datasets]
    policy = Policy(
        merge_max_gap_seconds=int(3600 * asked.merge_hours), cooldown_seconds=int(3600 * asked.rest_hours)
    )
    for detector in asked.detectors:
        for kind, make in work:
            began = time.perf_counter()
            found = list(judge(make(), spec_of(detector, asked.window, policy), executor, BUDGETS))
            tell(detector, kind, found)
            took = time.perf_counter() - began
            if found:
                print(f"    {found[0].weeks:.0f} series-weeks, {found[0].rules} flat stretches, {took:.0f} s")
            rows += as_json(detector, kind, found)
            if asked.json:
                asked.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    executor.close()
    print(f"\n{markdown(rows)}")
    judged = [row for row in rows if row["kind"] != "constant"]
    kept = sum(row["kept"] for row in judged)
    print(
        f"\n  {kept} of {len(judged)} lines keep to the promise (.5 to 2, at .1 a third to 3); ! marks others"
    )


if __name__ == "__main__":
    main()
