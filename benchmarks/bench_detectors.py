"""Moments of a bank beside scikit-learn, and what each detector takes to fit and to score.

Usage: python benchmarks/bench_detectors.py [--quick] [--detectors gaussian vae ...]
One core, float32 series of six weeks of five minutes less a third: 4,032 points at window 128.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from measure import Clock, figure, machine, ratio, title
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from detectors import registry
from detectors.base import Windows
from detectors.maths.moments import BlockMoments

POINTS, WINDOW, BANK = 4032, 128, 64
"""The size that figures are asked for: points of a series, steps of a window, series of a bank."""

DETECTORS = (
    "robust_z", "gaussian", "autoregressive", "gmm", "discriminant", "kde", "nade", "flow", "autoencoder",
    "vae", "tadgan",
)  # fmt: skip
WINDOWS = {"tadgan": 100}
"""The paper's window where it is not 128."""

POOLED = ("tadgan",)
"""Those meant to be one model for a group: training takes as long for one series as for many."""


def series_of(n: int, points: int) -> torch.Tensor:
    """Return scaled series as ``prepare`` leaves them: autocorrelated noise, a few spikes."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(n, points + 4))
    values = (noise[:, 4:] + noise[:, 3:-1] + noise[:, 2:-2] + noise[:, 1:-3]) / 2
    values[rng.random(values.shape) < 0.001] += 6
    return torch.from_numpy(values[:, :, None].astype(np.float32))


def cut(series: torch.Tensor, row: int) -> NDArray[np.float64]:
    """Return the windows of one series as a matrix, in float64."""
    return sliding_window_view(series[row, :, 0].double().numpy(), WINDOW)


def bench_moments(n: int, repeats: int) -> None:
    """Exact moments and eigenvalues of every window, per series."""
    series = series_of(n, POINTS)
    windows = Windows.of(series, WINDOW)
    pieces = [windows.members(slice(i, i + 16)) for i in range(0, n, 16)]
    clock = Clock()

    def moments() -> list[torch.Tensor]:
        return [BlockMoments.of(piece).total().covariance for piece in pieces]

    found = moments()
    alone = clock.best(moments, repeats).per(n)
    whole = clock.best(lambda: [torch.linalg.eigvalsh(c) for c in moments()], repeats).per(n)
    vectors = clock.best(lambda: [torch.linalg.eigh(c) for c in moments()], repeats).per(n)
    rows = range(min(n, 8))
    theirs = clock.best(lambda: [PCA().fit(cut(series, row)) for row in rows], repeats).per(len(rows))
    naive = clock.best(lambda: [np.cov(cut(series, row).T, bias=True) for row in rows], repeats)
    figure(
        "moments", f"{alone.wall * 1e3:.2f} ms a series", "", f"{ratio(alone, naive.per(len(rows)))} np.cov"
    )
    beside = f"{ratio(whole, theirs)} scikit-learn's PCA, {theirs.wall * 1e3:.2f} ms"
    value = f"{whole.wall * 1e3:.2f} ms (cpu {whole.cpu * 1e3:.2f})"
    figure("moments and eigenvalues", value, "<= 1.5 ms", beside)
    value = f"{vectors.wall * 1e3:.2f} ms (cpu {vectors.cpu * 1e3:.2f})"
    figure("moments, eigenvalues and eigenvectors", value, "", f"{ratio(vectors, theirs)} scikit-learn's PCA")
    error = max(_error(found[0][row].numpy(), cut(series, row)) for row in range(min(n, 8)))
    figure("largest relative error of the covariance", f"{error:.1e}", "<= 1e-06", "np.cov of every window")


def _error(covariance: NDArray[np.float64], windows: NDArray[np.float64]) -> float:
    """Relative to the product of two standard deviations: entries near zero have no scale of their own."""
    naive = np.cov(windows.T, bias=True)
    spread = np.sqrt(np.diag(naive))
    return float(np.max(np.abs(covariance - naive) / np.outer(spread, spread)))


def bench_detectors(names: Sequence[str], n: int) -> None:
    """Seconds of a fit and of a scoring pass, per 10,000 points."""
    clock = Clock()
    for name in names:
        cls = registry.get(name)
        window = WINDOWS.get(name, WINDOW)
        windows = Windows.of(series_of(n, POINTS), window)
        with clock.timed() as fit:
            bank = cls(cls.Config(window=window)).fit(windows.pooled() if name in POOLED else windows)
        if name in POOLED:
            bank = bank.select([0] * n)
        with clock.timed() as score:
            bank.score(windows)
        parts = n * POINTS / 10_000
        value = f"{fit.wall / parts:.3f} s / {score.wall / parts:.3f} s"
        spent = f"cpu {fit.cpu / parts:.3f} s / {score.cpu / parts:.3f} s"
        scope = ", one model" if name in POOLED else ""
        figure(f"{name}, window {window}{scope}: fit / score", value, "", spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=BANK, help="series of the bank for the moments")
    parser.add_argument("--detectors", nargs="*", default=list(DETECTORS))
    parser.add_argument("--each", type=int, default=8, help="series every detector is fitted on")
    parser.add_argument("--quick", action="store_true", help="two series for every detector, one run each")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    machine()
    title(f"moments of {asked.series} series of {POINTS:,} points at window {WINDOW}, one core")
    bench_moments(asked.series, 1 if asked.quick else 5)
    each = 2 if asked.quick else asked.each
    title(f"per 10,000 points, {each} series of {POINTS:,} points, one core")
    bench_detectors(asked.detectors, each)


if __name__ == "__main__":
    main()
