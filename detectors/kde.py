"""Kernel density on the principal coordinates of windows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected, TrimmedConfig
from detectors.maths import surprise_parts
from detectors.maths.kernels import KERNELS, Kernel, kernel_noise, scott
from detectors.maths.linear import LinearBase
from detectors.maths.moments import FLOOR, trimmed
from detectors.maths.references import References
from detectors.pieces import Progress, fit_in_pieces, in_pieces
from detectors.windows import Windows

Bandwidth = Literal["scott", "knn"]

NEAREST = 50
"""References whose mean is expected at hidden steps."""

LARGEST_LATENT: dict[Bandwidth, int] = {"scott": 6, "knn": 32}
"""Most principal coordinates: a distance to the nearest bears more of them than a density."""

GAUSSIAN_SHARE = 0.01
"""Share of a gaussian kernel that keeps the score of a kernel of finite support finite."""


@dataclass(frozen=True)
class KdeConfig(TrimmedConfig):
    """What the kernel density can be told.

    Attributes:
        kernel: 'gaussian', 'tophat' or 'epanechnikov', all of the same variance.
        bandwidth: 'scott', one for all references, or 'knn', each its own: as far as its nearest neighbours.
        neighbours: nearest references whose mean distance 'knn' takes.
        latent: principal coordinates the density lives on.
        references: training windows kept, evenly drawn.
        whole: judge a window by its distance to the nearest alone, with 'knn': what a single step says
            does not join.
    """

    kernel: Kernel = "gaussian"
    bandwidth: Bandwidth = "scott"
    neighbours: int = 5
    latent: int = 6
    references: int = 2048
    whole: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {self.kernel!r}")
        if self.bandwidth not in ("scott", "knn"):
            raise ValueError(f"bandwidth must be 'scott' or 'knn', got {self.bandwidth!r}")
        self._check_counts("neighbours", "references")
        most = LARGEST_LATENT[self.bandwidth]
        if not 1 <= self.latent <= most:
            raise ValueError(
                f"latent must be 1 to {most} with bandwidth {self.bandwidth!r}, got {self.latent}; "
                "kernel densities do not reach further"
            )
        if self.whole and self.bandwidth != "knn":
            raise ValueError("whole needs bandwidth 'knn': only its distance is one of whole windows")


class KdeDetector(Detector):
    """Kernel density (gaussian, tophat or epanechnikov) of windows on at most 6 principal coordinates.

    The score of a step joins three surprises, each in units of what it does on training windows: the
    negative log-density of its window's latent (with bandwidths by 'knn' the mean distance to the windows
    nearest to it), the energy of what the latent leaves over, and the step's innovation given the steps
    before it under the linear base. A reference closer than a window is no witness: it does not count, and
    the sum is divided by those left.

    Parzen 1962 (doi 10.1214/aoms/1177704472); bandwidth of Scott 1992 (doi 10.1002/9780470316849), or one
    for each reference of Breiman, Meisel & Purcell 1977 (doi 10.1080/00401706.1977.10489521); mean distance
    to the nearest of Angiulli & Pizzuti 2002 (doi 10.1007/3-540-45681-3_2).

    Departures: Scott's rule counts references divided by the window, since overlapping windows are not
    independent; off the axes the density is white noise; a kernel of finite support has 1 % of a gaussian one
    beside it in the score (not in ``log_prob``), and ``outside_support`` says where that alone is left;
    missing steps hold their conditional mean under the linear base. With 'knn' the adaptive kernels are those
    of ``log_prob`` and samples alone: the score's distance is one of whole windows, of which references keep
    the principal coordinates; off those, two windows are as far apart as noise is on average.
    """

    Config = KdeConfig
    density = Density.TRACTABLE
    family = "Kernel density"
    paper = "Parzen 1962"
    sample_flaw = "kernels widen its latent, and off its axes noise is white"

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        # The distances of one member's drawn windows to its references take 8 MiB; of short ones more fit.
        most = self.config.references
        members = most // min(most, windows.n_windows)
        return fit_in_pieces(windows, self._fit_members, on_progress, members=members)

    def _fit_members(self, windows: Windows) -> dict[str, Tensor]:
        moments, kept = trimmed(windows, self.config.trim)
        base = LinearBase.of(moments, windows.window, self.config.latent, white=True)
        state = base.state() | self._references(base, kept).state()
        return state | surprise_parts.scale_of(
            lambda values, mask, start: self._raw(state, values, mask, start), kept
        )

    def _references(self, base: LinearBase, windows: Windows) -> References:
        n = min(self.config.references, windows.n_windows)
        index = windows.drawn(n)
        values, mask = windows.gathered(index)
        z, off = base.split(base.filled(values, mask))
        count = (windows.weight > 0).sum(1).clamp_max(n)
        start = (windows.start.unsqueeze(1) + index).to(torch.int32)
        # Fewer windows than references come back repeated; the distinct ones go to the front.
        first = torch.cat([torch.ones_like(start[:, :1], dtype=torch.bool), start.diff(dim=1) != 0], dim=1)
        order = (~first).to(torch.uint8).argsort(dim=1, stable=True)
        z, off = z.gather(1, order.unsqueeze(2).expand_as(z)), off.gather(1, order)
        bandwidth = scott(count / windows.window, base.latent).to(torch.float32).unsqueeze(1)
        refs = References(z, start.gather(1, order), count.to(torch.int32), bandwidth)
        return self._typical(base, refs, off) if self.config.bandwidth == "knn" else refs

    def _typical(self, base: LinearBase, refs: References, off: Tensor) -> References:
        """The references with the bandwidth in which distances of whole windows are told."""
        away = self._away(base, refs, refs.z, off, refs.start)
        middle = away.median(dim=1, keepdim=True).values.clamp_min(math.sqrt(FLOOR))
        return replace(refs, bandwidth=middle / math.sqrt(base.latent))

    def _away(self, base: LinearBase, refs: References, z: Tensor, off: Tensor, start: Tensor) -> Tensor:
        """Mean distance of whole windows to the nearest references, ``(n_targets, k)``.

        References are kept on the axes alone: off them, two windows are as far apart as their noise makes
        them on average.
        """
        spread = base.spread.unsqueeze(1)
        beyond = off + base.noise.unsqueeze(1) * base.off_axes
        plain = replace(refs, z=refs.z * spread)
        return plain.mean_distance(z * spread, start, self.config.window, self.config.neighbours, beyond)

    def _raw(self, state: dict[str, Tensor], values: Tensor, mask: Tensor | None, start: Tensor) -> Tensor:
        """Parts as theory standardises them: latent, rest, steps; ``(n_targets, k, 2 + window)``."""
        base, refs = LinearBase.load(state), References.load(state)

        def farness(z: Tensor, off: Tensor) -> Tensor:
            return self._farness(base, refs, z, off, start)

        def log_latent(z: Tensor) -> Tensor:
            own = refs.log_density(z, start, self.config.window, self.config.kernel)
            if self.config.kernel == "gaussian":
                return own
            wide = refs.log_density(z, start, self.config.window, "gaussian")
            return torch.logaddexp(own, wide + math.log(GAUSSIAN_SHARE))

        if self.config.bandwidth == "knn":
            return surprise_parts.surprise_parts(base, base.normal, values, mask, farness)
        return surprise_parts.latent_parts(base, base.normal, values, mask, log_latent)

    def _farness(self, base: LinearBase, refs: References, z: Tensor, off: Tensor, start: Tensor) -> Tensor:
        """The distance to the nearest as a part of theory, ``(n_targets, k)``."""
        away = self._away(base, refs, z, off, start) / refs.bandwidth
        return surprise_parts.standard(away.square(), base.latent)

    def _whole(
        self, base: LinearBase, refs: References, values: Tensor, mask: Tensor | None, start: Tensor
    ) -> Tensor:
        """The first part alone, ``(n_targets, k)``."""
        x = base.about_mean(values) if mask is None else base.filled(values, mask)
        return self._farness(base, refs, *base.split(x), start)

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            mask = surprise_parts.missing_in(piece)
            if self.config.whole:
                base, refs = self._made_of(members, LinearBase.load), References.load(state)
                farness = self._whole(base, refs, piece.values, mask, piece.starts)
                return surprise_parts.whole(farness, state)
            return surprise_parts.combined(self._raw(state, piece.values, mask, piece.starts), state)

        found = in_pieces(windows, scores)
        return found.expand(-1, -1, windows.window) if self.config.whole else found

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of every window under the pure kernel, ``(n_targets, n_windows)``.

        Minus infinity outside the support of a finite kernel. Windows with missing steps are filled.
        """
        self._check_match(windows)

        def density(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base = LinearBase.load(state)
            x = base.filled(piece.values, piece.mask)
            z, _ = base.split(x)
            return base.log_prob(self._log_latent(state, z, piece), x, z)

        return in_pieces(windows, density)

    def outside_support(self, windows: Windows) -> Tensor:
        """True for windows no reference's kernel reaches: the model abstains, ``(n_targets, n_windows)``."""
        self._check_match(windows)

        def outside(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base = LinearBase.load(state)
            z, _ = base.split(base.filled(piece.values, piece.mask))
            return self._log_latent(state, z, piece).isneginf()

        return in_pieces(windows, outside)

    def _expect(self, windows: Windows) -> Expected:
        def both(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base, refs = LinearBase.load(state), References.load(state)
            mean, variance = _nearest(base, refs, piece)
            return torch.stack([mean, (variance + base.noise[:, None, None]).sqrt()], dim=2)

        # Distances to all references, a few times over: 8 MiB each.
        references = self._state["reference"].shape[1]
        per_window = windows.window * windows.n_channels
        found = in_pieces(windows, both, values=max(1, 2**21 // references) * per_window)
        mean, scale = found.view(*found.shape[:3], windows.window, -1).unbind(2)
        return Expected(mean, scale)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        base, refs = LinearBase.load(self._state), self._kernels(self._state)
        n_targets, _, d = refs.z.shape
        draw = torch.rand(n, generator=generator)
        chosen = (draw * refs.count.clamp_min(1).unsqueeze(1)).to(torch.int64)
        centre = refs.z.gather(1, chosen.unsqueeze(2).expand(-1, -1, d))
        reach = refs.bandwidth.expand(-1, refs.z.shape[1]).gather(1, chosen).unsqueeze(2)
        z = centre + reach * kernel_noise(self.config.kernel, (n, d), generator)
        white = torch.randn(n, base.mean.shape[1], generator=generator)
        noise = base.noise_of(white.expand(n_targets, -1, -1))
        x = base.mean.unsqueeze(1) + base.window_of(z) + noise
        return x.view(n_targets, n, self.config.window, -1)

    def _log_latent(self, state: dict[str, Tensor], z: Tensor, windows: Windows) -> Tensor:
        return self._kernels(state).log_density(z, windows.starts, self.config.window, self.config.kernel)

    def _kernels(self, state: dict[str, Tensor]) -> References:
        """The references with the bandwidths of the density."""
        refs = References.load(state)
        if self.config.bandwidth == "scott":
            return refs
        return refs.adaptive(self.config.window, self.config.neighbours)

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window


def _nearest(base: LinearBase, refs: References, windows: Windows) -> tuple[Tensor, Tensor]:
    """Mean and variance of the references nearest on the observed steps, ``(n_targets, k, size)``.

    Windows without an observed step get those of all references, windows without a reference the mean.
    """
    seen = (~windows.mask.flatten(2)).to(torch.float32)
    x = base.about_mean(windows.values) * seen
    known = base.window_of(refs.z)
    away = seen @ known.square().transpose(1, 2) - 2 * x @ known.transpose(1, 2)
    near = refs.near(windows.starts, windows.window)
    out = refs.padding.unsqueeze(1) if near is None else near | refs.padding.unsqueeze(1)
    away = away.masked_fill(out, math.inf)
    limit = away.kthvalue(min(NEAREST, away.shape[2]), dim=2, keepdim=True).values
    share = ((away <= limit) & ~out).to(torch.float32)
    share = share / share.sum(2, keepdim=True).clamp_min(1)
    mean = share @ known
    variance = (share @ known.square() - mean.square()).clamp_min(0)
    return mean + base.mean.unsqueeze(1), variance
