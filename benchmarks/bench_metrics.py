"""What judging scores and intervals costs, beside scikit-learn's areas on the same rows.

Usage: python benchmarks/bench_metrics.py [--series 350]
Series are of the lengths of the public benchmarks: most a few thousand rows, some 40,000, a few 150,000.
"""

from __future__ import annotations

import argparse

import numpy as np
from measure import Clock, figure, machine, ratio, title
from numpy.typing import NDArray

from pipelines.measure import metrics

LENGTHS = ((0.7, 4_000), (0.25, 40_000), (0.05, 150_000))
"""Share of the series, and their rows."""

Case = tuple[NDArray[np.bool_], NDArray[np.float64], metrics.Segments]


def cases(n_series: int) -> list[Case]:
    """Return labels, scores and flagged intervals of every series."""
    rng = np.random.default_rng(1)
    out = []
    for share, n_rows in LENGTHS:
        for _ in range(round(share * n_series)):
            labels = _stretches(rng, n_rows, n_rows // 2_000)
            scores = rng.standard_normal(n_rows) + labels
            out.append((labels, scores, metrics.segments_of(_stretches(rng, n_rows, n_rows // 2_000))))
    return out


def _stretches(rng: np.random.Generator, n_rows: int, n: int) -> NDArray[np.bool_]:
    marked = np.zeros(n_rows, dtype=np.bool_)
    for start in rng.integers(0, n_rows, n):
        marked[start : start + int(rng.integers(1, 60))] = True
    return marked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=350)
    asked = parser.parse_args()
    machine()
    made = cases(asked.series)
    title(f"{len(made)} series, {sum(len(labels) for labels, _, _ in made):,} rows, one core")
    clock = Clock()
    metrics.auc_pr(*made[0][:2])  # imports scikit-learn
    with clock.timed() as theirs:
        for labels, scores, _ in made:
            metrics.auc_pr(labels, scores)
            metrics.auc_roc(labels, scores)
    figure("AUC-PR and AUC-ROC (scikit-learn)", f"{theirs.wall:.2f} s")
    with clock.timed() as ours:
        for labels, scores, _ in made:
            metrics.vus(labels, scores, metrics.buffer_of(len(labels)))
    figure("VUS-PR and VUS-ROC, buffer 100", f"{ours.wall:.2f} s", "350 in <= 60 s", ratio(ours, theirs))
    with clock.timed() as events:
        for labels, _, found in made:
            truth = metrics.segments_of(labels)
            metrics.overlap(truth, found)
            metrics.range_based(truth, found)
            metrics.affiliation(truth, found, len(labels))
            metrics.nab(truth, found, len(labels))
    figure("overlap, range, affiliation and NAB", f"{events.wall:.2f} s", "", ratio(events, theirs))


if __name__ == "__main__":
    main()
