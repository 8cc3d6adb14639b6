"""Intervals beside the incidents that were planted: borders, pieces, echoes, delays, values in their band.

Usage: python benchmarks/bench_intervals.py [--seeds 1-2] [--jobs 2] [--detector auto] [--json FILE]
Every seed is the demo's telemetry with its incidents, and series with incidents that are shapes. Every
monitor of the demo's config is fitted, calibrated and judged by the service's own jobs, live and settled,
once with its policy and once with none. What comes before a series' first model is left out. --table prints
what --json kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median

import numpy as np
from measure import machine

from anomaly_service.config.load import load
from anomaly_service.db.migrate import migrate
from anomaly_service.db.store import SqlStore
from anomaly_service.executors.local import LocalExecutor
from anomaly_service.measure.demo import (
    MONITOR,
    START,
    DemoMonitor,
    config_text,
)
from detectors import registry
from pipelines.batches import batches
from pipelines.jobs import channels
from pipelines.jobs.assemble import Asked, assemble
from pipelines.jobs.lines import LineBook
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.plan import pieces
from pipelines.jobs.recalibrate import recalibrate
from pipelines.jobs.refit import due, refit
from pipelines.measure import intervals as measures
from pipelines.measure.demo_report import Flagged, Incident, IncidentOutcome, compare
from pipelines.measure.shapes import METRIC, TWIN, shapes, twins
from pipelines.measure.simulate import KINDS, Simulation, simulate
from pipelines.monitor import MonitorSpec
from pipelines.names import AUTO, Kind, Mode
from pipelines.records import Interval, Json, PointBlock, Policy, TargetRow
from pipelines.store import Ingest
from pipelines.times import WEEK
from pipelines.workers.alone import expected_under
from pipelines.workers.judge import scored
from pipelines.workers.score import ScoredSteps, raw_scores
from pipelines.workers.tasks import ScoreTarget

OWN, NONE = "demo's policies", "no policies"
SHAPED = DemoMonitor(
    "matches",
    "Shapes that are new, at levels that are not.",
    f"{{metric: {METRIC}}}",
    24,
    2,
    "{min_duration: 10min, merge_max_gap: 15min}",
)
LEVELS = tuple(kind.name for kind in KINDS)


@dataclass(frozen=True)
class Work:
    """One monitor of one seed, with its policy or with none."""

    seed: int
    policies: str
    monitor: str
    detector: str


@dataclass(frozen=True)
class Judged:
    """What became of it.

    Attributes:
        weeks: from the first model to the end; ``series_seconds`` is the same of every series, added up.
        planted, live, settled: series are named with their seed, so that seeds can be pooled.
        inside, normal: steps in no incident that lie in the band, and all of them that have one.
        outside: of every settled interval that a score flagged, its share of steps outside the band.
    """

    work: Work
    budget: float
    weeks: float
    series_seconds: int
    step_seconds: int
    planted: list[Incident]
    live: list[Flagged]
    settled: list[Flagged]
    inside: int
    normal: int
    outside: list[float]
    took_seconds: float

    @classmethod
    def from_json(cls, values: Json) -> Judged:
        rows = {name: [Flagged(**row) for row in values[name]] for name in ("live", "settled")}
        planted = [Incident(**row) for row in values["planted"]]
        return cls(**{**values, **rows, "planted": planted, "work": Work(**values["work"])})

    def found(self, mode: Mode) -> list[Flagged]:
        return self.live if mode is Mode.LIVE else self.settled


# -- one monitor of one seed --------------------------------------------------------


def specs(detector: str) -> dict[str, MonitorSpec]:
    """Return the demo's monitors and the one of shapes, as the jobs see them."""
    text = config_text(detector)
    params = "{}" if detector == AUTO else f"{{window: {SHAPED.window}}}"
    scope = "group" if "scope: group" in text else "series"
    extra = MONITOR.substitute(vars(SHAPED), detector=detector, scope=scope, params=params)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "anomaly.yaml"
        path.write_text(text.replace("\n# Every night", f"{extra}\n# Every night"), encoding="utf-8")
        return load(path).monitor_specs()


def simulated(seed: int, monitor: str) -> Simulation:
    return (shapes if monitor == SHAPED.name else simulate)(seed, start=START)


def judge(work: Work) -> Judged:
    """Return what a monitor makes of its series."""
    began = time.perf_counter()
    spec = specs(work.detector)[work.monitor]
    spec = spec if work.policies == OWN else replace(spec, policy=Policy())
    made = simulated(work.seed, work.monitor)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'bench.db'}"
        migrate(url)
        with SqlStore(url) as store:
            fill(store, made, spec)
            job = job_of(store, spec)
            refit(job, due(job, made.stop, missing=True))
            recalibrate(job, made.stop)
            return _judged(work, job, made, began)


def fill(store: SqlStore, made: Simulation, spec: MonitorSpec) -> None:
    """Store the series that the monitor selects."""
    for series, points in zip(made.series, made.points, strict=True):
        if spec.selects(series.metric, series.labels):
            block = PointBlock(np.zeros(len(points.ts), dtype=np.int64), points.ts, points.value)
            store.ingest(Ingest("bench", [replace(series, source="bench")], block))


def job_of(store: SqlStore, spec: MonitorSpec) -> MonitorJob:
    row = store.sync_monitors({spec.name: spec.to_json()})[0]
    store.sync_targets(row.id, channels.made(channels.wanted(spec, store.series())))
    return MonitorJob(store, LocalExecutor(0), row, spec)


@dataclass(frozen=True)
class _Told:
    """What is told of one target, live and settled."""

    first: int
    live: tuple[Interval, ...]
    settled: tuple[Interval, ...]
    inside: int
    normal: int
    outside: list[float]


def _judged(work: Work, job: MonitorJob, made: Simulation, began: float) -> Judged:
    planted: dict[str, list[Incident]] = {series.key: [] for series in made.series}
    for each in made.incidents:
        key = made.series[each.series].key
        planted[key].append(Incident(key, each.kind, each.start, each.end))
    told = {target.key: each for target, each in _of_targets(job, made.stop, planted)}

    def named(key: str) -> str:
        return f"{work.seed} {key}"

    def rows(mode: Mode) -> list[Flagged]:
        return [
            _flagged(work.monitor, named(key), interval)
            for key, each in told.items()
            for interval in (each.live if mode is Mode.LIVE else each.settled)
        ]

    return Judged(
        work=work,
        budget=job.spec.threshold.alarms_per_week,
        weeks=(made.stop - min(each.first for each in told.values())) / WEEK,
        series_seconds=sum(made.stop - each.first for each in told.values()),
        step_seconds=made.series[0].step_seconds,
        planted=[
            replace(incident, series=named(key))
            for key, each in told.items()
            for incident in planted[key]
            if incident.start >= each.first
        ],
        live=rows(Mode.LIVE),
        settled=rows(Mode.SETTLED),
        inside=sum(each.inside for each in told.values()),
        normal=sum(each.normal for each in told.values()),
        outside=[share for each in told.values() for share in each.outside],
        took_seconds=time.perf_counter() - began,
    )


def _flagged(monitor: str, series: str, interval: Interval) -> Flagged:
    at = interval.start if interval.detected_at is None else interval.detected_at
    kind = str(interval.kind)
    return Flagged(monitor, series, kind, interval.start, interval.end, at, interval.peak_score)


def _of_targets(
    job: MonitorJob, stop: int, planted: dict[str, list[Incident]]
) -> Iterator[tuple[TargetRow, _Told]]:
    versions = job.versions(job.targets())
    for group in batches([target for target in job.targets() if versions[target.id]], 16):
        firsts = {target.id: versions[target.id][0].train_stop for target in group}
        asked = [
            Asked(
                t, tuple(pieces(versions[t.id], firsts[t.id], stop)), settled_until=stop, observed_until=stop
            )
            for t in group
        ]
        scoring, weights = assemble(job, asked, LineBook(job))
        for target, steps in zip(scoring, raw_scores(job.spec, scoring, weights), strict=True):
            row = target.target
            yield row, _told(job.spec, target, steps, firsts[row.id], planted[row.key])


def _told(
    spec: MonitorSpec,
    target: ScoreTarget,
    steps: list[ScoredSteps],
    first: int,
    planted: Sequence[Incident],
) -> _Told:
    step = target.target.step_seconds
    window = max(part.windows.window for each in steps for part in (each, *each.parts))
    # What not every window covers yet is not settled.
    settled_until = target.observed_until - (window - 1) * step
    settled = scored(spec, replace(target, settled_until=settled_until), steps)
    live = scored(spec, replace(target, settled_until=0), steps)
    counts = np.where(settled.ts < settled_until, settled.settled_anomaly, settled.live_anomaly)
    band = expected_under(spec.policy, steps, counts)
    y = np.concatenate([each.row.prepared.raw[each.inside] for each in steps])[:, 0]
    low, high = band.low[:, 0], band.high[:, 0]
    normal = measures.away_from(settled.ts, [(each.start, each.end) for each in planted])
    spans = [(each.start, each.end) for each in settled.found if each.kind is Kind.ANOMALY]
    return _Told(
        first,
        live.found,
        settled.found,
        *measures.inside_share(y, low, high, normal),
        measures.outside_shares(spans, settled.ts, y, low, high),
    )


# -- figures ------------------------------------------------------------------------


def figures(judged: Sequence[Judged]) -> Json:
    """Return every figure of what was judged alike, for levels and for shapes."""
    told = [each for each in judged if each.work.monitor != SHAPED.name]
    shaped = [each for each in judged if each.work.monitor == SHAPED.name]
    kinds = tuple(sorted({i.kind for each in shaped for i in each.planted} - {TWIN}))
    return {
        "seeds": sorted({each.work.seed for each in judged}),
        "levels": _figures(told, LEVELS) if told else None,
        "shapes": {**_figures(shaped, kinds), "two_stay_two": _pairs(shaped)} if shaped else None,
        "seconds": sum(each.took_seconds for each in judged),
    }


def _figures(judged: Sequence[Judged], kinds: Sequence[str]) -> Json:
    step = judged[0].step_seconds
    outside = [share for each in judged for share in each.outside]
    return {
        **{str(mode): _of_mode(judged, kinds, mode, step) for mode in Mode},
        "budget_per_week": _a_week(judged, [each.budget * each.weeks for each in judged]),
        "inside_band": sum(each.inside for each in judged) / max(1, sum(each.normal for each in judged)),
        "outside_band_median": median(outside) if outside else None,
        "intervals_without_outside": sum(share == 0 for share in outside),
        "intervals_with_band": len(outside),
    }


def _of_mode(judged: Sequence[Judged], kinds: Sequence[str], mode: Mode, step: int) -> Json:
    flagged = [row for each in judged for row in each.found(mode)]
    report = compare([i for each in judged for i in each.planted], flagged, [], {})
    outcomes = [o for o in report.outcomes if o.incident.kind in kinds]
    found = [o for o in outcomes if o.found]
    shares = [measures.intersection_over_union(o, step) for o in found]
    false = {each.work: _false(report.false_alarms, each) for each in judged}
    late = measures.delays(outcomes)
    every = [minutes for own in late.values() for minutes in own]
    return {
        "planted": len(outcomes),
        "found": len(found),
        "kinds": {
            kind: {"planted": planted, "found": got, **_delay(late.get(kind, []))}
            for kind, (planted, got) in _counts(outcomes).items()
        },
        "false_alarms_per_week": _a_week(judged, [false[each.work] for each in judged]),
        "share_flagged": sum(f.end - f.start + step for f in flagged)
        / sum(each.series_seconds for each in judged),
        "intervals": len(flagged),
        "echoes_per_found": len(measures.echoes(outcomes, report.false_alarms, step)) / max(1, len(found)),
        "intervals_per_found": measures.intervals_per_found(outcomes),
        "reopened": measures.reopened(flagged),
        "overlap_mean": mean(shares) if shares else None,
        "overlap_worst_tenth": measures.worst_tenth(shares),
        "closed_in_time": measures.closed_in_time(outcomes),
        **_delay(every),
    }


def _false(false_alarms: Sequence[Flagged], judged: Judged) -> int:
    """Return how many false alarms a monitor raised on a seed."""
    own = f"{judged.work.seed} "
    return sum(f.monitor == judged.work.monitor and f.series.startswith(own) for f in false_alarms)


def _a_week(judged: Sequence[Judged], counts: Sequence[float]) -> float:
    """Return the mean over seeds of what all monitors have a week, added up."""
    seeds = {each.work.seed for each in judged}
    return sum(n / each.weeks for each, n in zip(judged, counts, strict=True)) / len(seeds)


def _counts(outcomes: Sequence[IncidentOutcome]) -> dict[str, tuple[int, int]]:
    kinds = sorted({o.incident.kind for o in outcomes})
    own = {kind: [o for o in outcomes if o.incident.kind == kind] for kind in kinds}
    return {kind: (len(rows), sum(o.found for o in rows)) for kind, rows in own.items()}


def _delay(minutes: Sequence[float]) -> Json:
    if not minutes:
        return {"delay_median": None, "delay_ninth_decile": None}
    return {"delay_median": median(minutes), "delay_ninth_decile": float(np.quantile(minutes, 0.9))}


def _pairs(judged: Sequence[Judged]) -> Json:
    """Return how many twins there are, and how many stayed two, by mode."""
    pairs = twins([i for each in judged for i in each.planted])
    kept = {
        str(mode): sum(
            measures.stay_two(pair, [f for each in judged for f in each.found(mode)]) for pair in pairs
        )
        for mode in Mode
    }
    return {"pairs": len(pairs), **kept}


# -- table --------------------------------------------------------------------------


def table(judged: Sequence[Judged], policies: str) -> str:
    """Return every row of what was judged alike, as Markdown."""
    told = figures(judged)
    rows = [
        ("found, a seed", _found, "no fewer; two thirds"),
        ("worst kind", _worst, ""),
        ("false alarms a week of those asked for", _alarms, ".8 to 1.25"),
        ("share of time flagged", _each("share_flagged", "{:.2%}"), "no more"),
        ("echoes per found incident", _each("echoes_per_found", "{:.2f}"), ".05"),
        ("intervals per found incident", _each("intervals_per_found", "{:.2f}"), "1.1"),
        ("reopened within an hour", _each("reopened", "{:.1%}"), "2 %"),
        ("two incidents 60 steps apart stay two", _twins, "9 of 10"),
        ("overlap of found incidents, mean", _each("overlap_mean", "{:.2f}"), ".90"),
        ("overlap, worst tenth", _each("overlap_worst_tenth", "{:.2f}"), ".65"),
        ("closed within 15 min of the end", _each("closed_in_time", "{:.2f}"), ".95"),
        ("minutes to the first flag, median", _each("delay_median", "{:.0f}"), "no worse"),
        ("minutes to the first flag, ninth decile", _each("delay_ninth_decile", "{:.0f}"), "no worse"),
        ("normal steps inside the band", lambda of: f"{of['inside_band']:.1%}", "93 to 97 %"),
        ("steps of an interval outside it, median", _outside, ".9"),
        ("intervals with none outside", _nowhere, "only shapes"),
    ]
    groups = [told["levels"], told["shapes"]]
    lines = [
        f"{policies}, seeds {', '.join(map(str, told['seeds']))}; live / settled; {told['seconds']:.0f} s",
        "",
        "| | levels | shapes | asked |",
        "|---|---|---|---|",
    ]
    for name, cell, asked in rows:
        cells = ["-" if of is None else cell(of) for of in groups]
        lines.append(f"| {name} | {' | '.join(cells)} | {asked} |")
    return "\n".join([*lines, "", *_kinds(groups)])


def _each(name: str, form: str) -> Callable[[Json], str]:
    """Return what prints a figure, live and settled."""

    def cell(of: Json) -> str:
        values = [of[str(mode)][name] for mode in (Mode.LIVE, Mode.SETTLED)]
        return " / ".join("-" if value is None else form.format(value) for value in values)

    return cell


def _found(of: Json) -> str:
    return " / ".join(f"{of[str(m)]['found']} of {of[str(m)]['planted']}" for m in (Mode.LIVE, Mode.SETTLED))


def _worst(of: Json) -> str:
    kinds = of[str(Mode.LIVE)]["kinds"].items()
    name, worst = min(kinds, key=lambda item: item[1]["found"] / item[1]["planted"])
    return f"{worst['found']} of {worst['planted']} ({name.replace('_', ' ')})"


def _alarms(of: Json) -> str:
    asked = of["budget_per_week"]
    ratios = [of[str(mode)]["false_alarms_per_week"] / asked for mode in (Mode.LIVE, Mode.SETTLED)]
    return f"{ratios[0]:.2f} / {ratios[1]:.2f} of {asked:g}"


def _twins(of: Json) -> str:
    pairs = of.get("two_stay_two")
    return "" if pairs is None else f"{pairs['live']} / {pairs['settled']} of {pairs['pairs']}"


def _outside(of: Json) -> str:
    return "-" if of["outside_band_median"] is None else f"{of['outside_band_median']:.2f}"


def _nowhere(of: Json) -> str:
    return f"{of['intervals_without_outside']} of {of['intervals_with_band']}"


def _kinds(groups: Sequence[Json | None]) -> Iterator[str]:
    yield "| kind | found live | minutes to the first live flag: median | ninth decile |"
    yield "|---|---|---|---|"
    for of in groups:
        for name, each in (of[str(Mode.LIVE)]["kinds"] if of else {}).items():
            times = [each["delay_median"], each["delay_ninth_decile"]]
            cells = ["-" if minutes is None else f"{minutes:.0f}" for minutes in times]
            yield f"| {name.replace('_', ' ')} | {each['found']} of {each['planted']} | {' | '.join(cells)} |"


# -- all of them --------------------------------------------------------------------


def seeds_of(text: str) -> list[int]:
    """Return seeds as they are written.

    >>> seeds_of("1-3,7")
    [1, 2, 3, 7]
    """
    spans = [part.partition("-") for part in text.split(",")]
    return [seed for a, _, b in spans for seed in range(int(a), int(b or a) + 1)]


def run(work: Sequence[Work], jobs: int) -> Iterator[Judged]:
    """Yield what every piece of work gives, as it comes."""
    if jobs <= 1:
        yield from map(judge, work)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(judge, each) for each in work]):
            yield done.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=seeds_of, default=[1], help="such as 100-119, or 1,2,7-9")
    parser.add_argument("--jobs", type=int, default=1, help="monitors at a time")
    parser.add_argument("--detector", default=AUTO, choices=[AUTO, *registry.names()])
    parser.add_argument("--policies", nargs="*", default=[OWN, NONE], choices=[OWN, NONE])
    parser.add_argument("--json", type=Path, help="keep figures, incidents and intervals here")
    parser.add_argument("--table", type=Path, nargs="*", help="only print what is kept")
    asked = parser.parse_args()
    if asked.table:
        kept = [row for path in asked.table for row in json.loads(path.read_text(encoding="utf-8"))["judged"]]
        tell([Judged.from_json(row) for row in kept])
        return
    machine()
    monitors = [*specs(asked.detector)]
    work = [
        Work(seed, policies, monitor, asked.detector)
        for seed in asked.seeds
        for policies in asked.policies
        for monitor in monitors
    ]
    judged: list[Judged] = []
    for each in run(work, asked.jobs):
        judged.append(each)
        of = each.work
        print(
            f"  {len(judged)} of {len(work)}: seed {of.seed}, {of.policies}, {of.monitor}: "
            f"{len(each.settled)} intervals, {each.took_seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        if asked.json:
            keep(asked.json, judged)
    tell(judged)


def keep(path: Path, judged: Sequence[Judged]) -> None:
    """Write the figures of every way, and all that they follow from."""
    told = {way: figures(own) for way, own in by_policies(judged).items()}
    rows = [asdict(each) for each in sorted(judged, key=lambda each: str(each.work))]
    path.write_text(json.dumps({"figures": told, "judged": rows}, indent=1), encoding="utf-8")


def tell(judged: Sequence[Judged]) -> None:
    for way, own in by_policies(judged).items():
        print(f"\n{table(own, way)}")


def by_policies(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    ways = {way: [each for each in judged if each.work.policies == way] for way in (OWN, NONE)}
    return {way: own for way, own in ways.items() if own}


if __name__ == "__main__":
    main()
