"""Moments of a bank beside scikit-learn, what each detector takes to fit and to score, alone and in a bank,
and beside PyOD's.

Usage: python benchmarks/bench_detectors.py [--quick] [--detectors gaussian vae ...] [--only banks peers]
One core, float32 series of six weeks of five minutes less a third: 4,032 points at window 128. Banks and
peers: 10,000 points at window 128 (networks, peers), 300 points at window 24 (closed forms).
PyOD is not a dependency: without it its part says how to install it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

import numpy as np
import torch
from measure import Clock, Took, figure, machine, ratio, title
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from detectors import registry
from detectors.base import Detector
from detectors.maths.moments import BlockMoments
from detectors.windows import Windows

POINTS, WINDOW, BANK = 4032, 128, 64
"""The size that figures are asked for: points of a series, steps of a window, series of a bank."""

DETECTORS = (
    "robust_z", "gaussian", "autoregressive", "gmm", "discriminant", "kde", "nade", "flow", "energy",
    "autoencoder", "vae", "diffusion", "gan", "tadgan",
)  # fmt: skip
WINDOWS = {"tadgan": 100}
"""The paper's window where it is not 128."""

POOLED = ("tadgan",)
"""Those meant to be one model for a group: training takes as long for one series as for many."""

PARTS = ("moments", "detectors", "banks", "peers")


@dataclass(frozen=True)
class Size:
    """What a bank is held against a loop at.

    Attributes:
        series: members of the bank.
        alone: of those, how many are fitted and scored one by one, evenly spread; their mean stands for all.
    """

    series: int
    points: int
    window: int
    alone: int
    asked: str


NETWORKS = Size(64, 10_000, 128, 8, ">= 4 x")
CLOSED_FORMS = Size(1000, 300, 24, 50, ">= 5 x")


@dataclass(frozen=True)
class Peer:
    """A class of PyOD beside one of ours of the same kind; settings not named are each one's defaults."""

    ours: str
    module: str
    theirs: str
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


PEERS = (
    Peer("gaussian", "gmm", "GMM", {"n_components": 1}),
    # Ours chooses among 4, 8 and 16.
    Peer("gmm", "gmm", "GMM", {"n_components": 8}),
    Peer("kde", "knn", "KNN", {"n_neighbors": 5, "n_jobs": 1}, {"bandwidth": "knn"}),
    Peer("autoencoder", "auto_encoder", "AutoEncoder"),
    Peer("vae", "vae", "VAE"),
)


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


def bench_banks(names: Sequence[str], networks: Size, closed: Size) -> None:
    """A bank beside a loop over single models, fit and score together, and whether both say the same."""
    for name in names:
        if name in POOLED:
            figure(name, "not measured", "", "one model for a group: there is no loop to be faster than")
            continue
        cls = registry.get(name)
        size = networks if _is_network(cls) else closed
        windows = Windows.of(series_of(size.series, size.points), size.window)
        _fitted_and_scored(cls, cls.Config(window=size.window), windows.select([0]).span(0, 200))
        rows = sorted({round(k * (size.series - 1) / max(1, size.alone - 1)) for k in range(size.alone)})
        config = cls.Config(window=size.window)
        bank, scores = _fitted_and_scored(cls, config, windows)
        loop, apart = Took(), 0.0
        for row in rows:
            took, alone = _fitted_and_scored(cls, config, windows.select([row]))
            loop += took
            apart = max(apart, _difference(alone[0], scores[row]))
        one, many = loop.per(len(rows)), bank.per(size.series)
        figure(
            f"{name}, {size.series:,} series of {size.points:,}, window {size.window}",
            f"{many.wall:.4f} s a series",
            size.asked,
            f"{one.wall:.4f} s alone: {_times(many, one)}; scores differ by {apart:.1e} at most",
        )


def _is_network(cls: type[Detector]) -> bool:
    return "steps" in cls.Config.__dataclass_fields__


def _fitted_and_scored(cls: type[Detector], config: Any, windows: Windows) -> tuple[Took, torch.Tensor]:
    with Clock().timed() as took:
        scores = cls(config).fit(windows).score(windows)
    return took, scores


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative to what scores usually are: a difference of one in a thousand is one of .001."""
    return float((one - other).abs().max() / other.abs().median().clamp_min(1e-6))


def _times(ours: Took, theirs: Took) -> str:
    """Return how many times as fast ours was, by wall and by processor time."""
    spent = f" (cpu x {theirs.cpu / ours.cpu:.1f})" if ours.cpu and theirs.cpu else ""
    return f"x {theirs.wall / ours.wall:.1f} as fast{spent}"


def bench_peers(names: Sequence[str], size: Size, repeats: int) -> None:
    """Seconds of a fit and a scoring pass of one series beside PyOD's class of the same kind."""
    if importlib.util.find_spec("pyod") is None:
        print("  PyOD is not installed; to stand beside it: pip install pyod")
        return
    series = series_of(size.series, size.points)
    windows = Windows.of(series, size.window)
    for peer in (each for each in PEERS if each.ours in names):
        cls = registry.get(peer.ours)
        config = cls.Config(window=size.window, **peer.config)
        bank = _fitted_and_scored(cls, config, windows)[0].per(size.series)
        alone = _fitted_and_scored(cls, config, windows.select([0]))[0]
        build = getattr(importlib.import_module(f"pyod.models.{peer.module}"), peer.theirs)
        # What is imported or compiled at the first run is not what a series takes.
        _peer_at_work(build, peer.settings, cut(series, 0)[:300])()
        theirs = Clock().best(_peer_at_work(build, peer.settings, cut(series, 0)), repeats)
        figure(
            f"{peer.ours} beside PyOD's {peer.theirs}{_told(peer)}",
            f"{theirs.wall:.2f} s theirs",
            ">= 5 x",
            f"alone {alone.wall:.2f} s: {_times(alone, theirs)}; "
            f"in a bank of {size.series} {bank.wall:.3f} s: {_times(bank, theirs)}",
        )


def _told(peer: Peer) -> str:
    return f" of {peer.settings['n_components']}" if "n_components" in peer.settings else ""


def _peer_at_work(
    build: Callable[..., Any], settings: dict[str, Any], windows: NDArray[np.float64]
) -> Callable[[], object]:
    def work() -> object:
        with threadpool_limits(1), redirect_stderr(StringIO()):
            return build(**settings).fit(windows).decision_function(windows)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--series", type=int, default=BANK, help="series of the bank for the moments")
    parser.add_argument("--detectors", nargs="*", default=list(DETECTORS))
    parser.add_argument("--each", type=int, default=8, help="series every detector is fitted on")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter series, one run each")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    machine()
    if "moments" in asked.only:
        title(f"moments of {asked.series} series of {POINTS:,} points at window {WINDOW}, one core")
        bench_moments(asked.series, 1 if asked.quick else 5)
    if "detectors" in asked.only:
        each = 2 if asked.quick else asked.each
        title(f"per 10,000 points, {each} series of {POINTS:,} points, one core")
        bench_detectors(asked.detectors, each)
    networks, closed = (_quick(NETWORKS), _quick(CLOSED_FORMS)) if asked.quick else (NETWORKS, CLOSED_FORMS)
    if "banks" in asked.only:
        title("a bank beside a loop over single models, fit and score, one core")
        bench_banks(asked.detectors, networks, closed)
    if "peers" in asked.only:
        title(f"fit and score of one series of {networks.points:,} points beside PyOD's, one thread each")
        bench_peers(asked.detectors, networks, 1)


def _quick(size: Size) -> Size:
    """Return a size that shows that everything runs, and no more."""
    return replace(size, series=max(4, size.series // 16), points=max(300, size.points // 10), alone=2)


if __name__ == "__main__":
    main()
