"""Gaussian windows: full covariance, or probabilistic principal components where that is too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from detectors.base import Density, Detector, DetectorConfig, Expected, Progress, Windows, in_pieces
from detectors.maths.moments import BlockMoments, Moments, shrinkage
from detectors.maths.normal import Normal
from detectors.maths.ppca import Ppca

FLOOR = 1e-4
"""Noise variance every window is given, in squared prepared units: a constant series stays factorable."""

LARGEST_FULL = 128
"""Values of a window up to which its covariance fits, packed, into 33 KiB of a version's 64."""

LARGEST = 1e6
"""Values are read as at most this far from 0, so that squares stay finite in float32."""

DRAWN = 1024
"""Training windows per target from which the noise of each part of the score is read."""

TAIL = 0.995
"""Quantile at which the parts are made equal: far out, where the line will be, yet held by 5 of 1,024."""

NORMAL_TAIL = 2.576
"""That quantile of a standard normal distribution."""


@dataclass(frozen=True)
class GaussianConfig(DetectorConfig):
    """What the Gaussian can be told.

    Attributes:
        form: 'full' covariance, 'ppca', or 'auto': full up to 128 values a window.
        components: most principal components of the 'ppca' form.
        share: share of the variance the components explain.
        trim: share of the blocks, the worst ones, that is dropped before the last fit.
    """

    form: Literal["auto", "full", "ppca"] = "auto"
    components: int = 32
    share: float = 0.95
    trim: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("auto", "full", "ppca"):
            raise ValueError(f"form must be 'auto', 'full' or 'ppca', got {self.form!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")
        if not 0 <= self.trim < 0.5:
            raise ValueError(f"trim must be at least 0 and below 0.5, got {self.trim}")


@dataclass(frozen=True)
class Parts:
    """The surprises a score is made of, each about standard normal on normal data.

    Attributes:
        window: shape ``(n_targets, n_windows)``: Mahalanobis energy of the whole window.
        level: same shape: how far the window's level lies off (likelihood ratio of a constant shift).
        step: shape ``(n_targets, n_windows, window)``: innovation of each step given the ones before it.
    """

    window: Tensor
    level: Tensor
    step: Tensor


class GaussianDetector(Detector):
    """Normal distribution of windows with shrunken covariance.

    The score of a step is the largest of three surprises, each brought to the noise it has on the training
    windows: the Mahalanobis energy of its window, the likelihood ratio of a shift of the window's level, and
    the step's innovation given the steps before it (for the newest step: the one-step prediction error).

    Tipping & Bishop 1999 (doi 10.1111/1467-9868.00196); Ledoit & Wolf 2004 (doi
    10.1016/S0047-259X(03)00096-4).

    Departures: the log-density alone misses a short spike in a long window and a small lasting shift, so its
    two halves by the chain rule (energy, innovations) and the shift it is least sensitive to stand beside
    each other; ``log_prob`` is the plain density. The shrinkage counts windows divided by the integrated
    squared autocorrelation, since overlapping windows are not independent.
    """

    Config: ClassVar[type[DetectorConfig]] = GaussianConfig
    density = Density.TRACTABLE
    family = "Gaussian, probabilistic PCA"
    paper = "Tipping & Bishop 1999; Ledoit & Wolf 2004"

    # -- fit ------------------------------------------------------------------------

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        blocks = BlockMoments.of(windows)
        moments = blocks.total()
        kept = self._kept(blocks, moments)
        on_progress(0.5)
        state = self._distribution(blocks.total(kept), windows.n_channels)
        length = blocks.weight.shape[2]
        trimmed = windows.weighted(
            windows.weight * kept.repeat_interleave(length, 1)[:, : windows.n_windows].to(torch.float32)
        )
        scale = self._part_scale(state, trimmed)
        on_progress(1.0)
        return state | scale

    def _kept(self, blocks: BlockMoments, moments: Moments) -> Tensor:
        """Blocks that stay when the worst share goes, shape ``(n_targets, blocks)``, bool."""
        filled = blocks.weight.sum(2) > 0
        drop = (filled.sum(1) * self.config.trim + 1e-9).floor()
        if not bool((drop > 0).any()):
            return filled
        normal = Normal.of(moments.mean, _regular(moments, self.config.window))
        energy = blocks.energy(moments, normal.precision)
        worst_first = energy.masked_fill(~filled, -1.0).argsort(dim=1, descending=True)
        return filled & (worst_first.argsort(dim=1) >= drop.unsqueeze(1))

    def _distribution(self, moments: Moments, n_channels: int) -> dict[str, Tensor]:
        """The fitted distribution, as it is stored."""
        covariance = _regular(moments, self.config.window)
        mean = moments.mean.to(torch.float32)
        if self._is_full(n_channels):
            rows, columns = torch.tril_indices(*covariance.shape[1:])
            return {"mean": mean, "covariance": covariance[:, rows, columns].to(torch.float32)}
        ppca = Ppca.of(covariance, self.config.components, share=self.config.share, floor=FLOOR)
        return {
            "mean": mean,
            "factors": ppca.factors.to(torch.float32),
            "noise": ppca.noise.to(torch.float32),
        }

    def _is_full(self, n_channels: int) -> bool:
        if self.config.form == "auto":
            return self.config.window * n_channels <= LARGEST_FULL
        return self.config.form == "full"

    def _part_scale(self, state: dict[str, Tensor], windows: Windows) -> dict[str, Tensor]:
        """Median and scale of each part of the score on training windows, ``(n_targets, 3)`` each."""
        values, mask = windows.gathered(windows.drawn(DRAWN))
        parts = _raw_parts(_normal(state), values, mask)
        position = (torch.arange(DRAWN) % windows.window).view(1, -1, 1).expand(windows.n_targets, -1, 1)
        drawn = torch.stack([parts.window, parts.level, parts.step.gather(2, position).squeeze(2)], dim=1)
        quantiles = torch.tensor([0.5, TAIL])
        middle, tail = drawn.quantile(quantiles, dim=2)
        scale = ((tail - middle) / NORMAL_TAIL).clamp_min(0.5)
        empty = (windows.weight.sum(1) == 0).unsqueeze(1)
        return {
            "part_middle": torch.where(empty, 0.0, middle),
            "part_scale": torch.where(empty, 1.0, scale),
        }

    # -- use ------------------------------------------------------------------------

    def parts(self, windows: Windows) -> Parts:
        """Return the surprises the score is the largest of."""
        self._check_match(windows)
        parts = in_pieces(windows, lambda members, piece: self._parts_of(members, piece))
        return Parts(parts[:, :, 0], parts[:, :, 1], parts[:, :, 2:])

    def _parts_of(self, members: slice, windows: Windows) -> Tensor:
        """Parts side by side: window, level and every step, ``(n_targets, n_windows, 2 + window)``."""
        state = {name: tensor[members] for name, tensor in self._state.items()}
        raw = _raw_parts(_normal(state), windows.values, windows.mask & windows.scorable[:, :, None, None])
        middle, scale = state["part_middle"].unsqueeze(1), state["part_scale"].unsqueeze(1)
        both = torch.stack([raw.window, raw.level], dim=2)
        return torch.cat(
            [(both - middle[:, :, :2]) / scale[:, :, :2], (raw.step - middle[:, :, 2:]) / scale[:, :, 2:]],
            dim=2,
        )

    def _score(self, windows: Windows) -> Tensor:
        return in_pieces(windows, self._score_of)

    def _score_of(self, members: slice, windows: Windows) -> Tensor:
        parts = self._parts_of(members, windows)
        return torch.maximum(parts[:, :, :2].amax(2, keepdim=True), parts[:, :, 2:])

    def _expect(self, windows: Windows) -> Expected:
        def both(members: slice, piece: Windows) -> Tensor:
            normal = _normal({name: tensor[members] for name, tensor in self._state.items()})
            mean, variance = normal.conditional(*_about_mean(normal, piece.values, piece.mask))
            return torch.stack([mean + normal.mean.unsqueeze(1), variance.sqrt()], dim=2).to(torch.float32)

        both_of = in_pieces(windows, both, values=2**21 // (windows.window * windows.n_channels))
        mean, scale = both_of.view(*both_of.shape[:3], windows.window, -1).unbind(2)
        return Expected(mean, scale)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        normal = _normal(self._state)
        noise = torch.randn(*normal.mean.shape[:1], n, normal.mean.shape[1], generator=generator)
        x = normal.mean.unsqueeze(1) + noise.to(torch.float64) @ normal.root.transpose(1, 2)
        return x.to(torch.float32).view(-1, n, self.config.window, self._n_channels())

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of the observed values of every window, ``(n_targets, n_windows)``."""
        self._check_match(windows)

        def density(members: slice, piece: Windows) -> Tensor:
            normal = _normal({name: tensor[members] for name, tensor in self._state.items()})
            return normal.log_prob(*_about_mean(normal, piece.values, piece.mask))

        return in_pieces(windows, density)

    def encode(self, windows: Windows) -> Tensor:
        """Return the whitened principal coordinates of every window, largest variance first."""
        self._check_match(windows)
        normal = _normal(self._state)
        covariance = normal.root @ normal.root.transpose(1, 2)
        ppca = Ppca.of(covariance, self.config.components, share=1.0, floor=0.0)
        axes = ppca.axes / ppca.variance.clamp_min(FLOOR).sqrt().unsqueeze(1)

        def latent(members: slice, piece: Windows) -> Tensor:
            member = _normal({name: tensor[members] for name, tensor in self._state.items()})
            x, missing = _about_mean(member, piece.values, piece.mask)
            return (member.completed(x, missing).x @ axes[members]).to(torch.float32)

        return in_pieces(windows, latent)

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window


def _regular(moments: Moments, window: int) -> Tensor:
    """Shrunken covariance that can be factored, whatever the data, in float64."""
    covariance = moments.covariance
    size = covariance.shape[1]
    level = covariance.diagonal(dim1=1, dim2=2).mean(1)
    intensity = shrinkage(moments, window)[:, None, None]
    unit = torch.eye(size, dtype=torch.float64)
    regular = (1 - intensity) * covariance + intensity * level[:, None, None] * unit
    return regular + FLOOR * unit


def _normal(state: dict[str, Tensor]) -> Normal:
    """The distribution of a state."""
    mean = state["mean"].to(torch.float64)
    size = mean.shape[1]
    if "covariance" in state:
        rows, columns = torch.tril_indices(size, size)
        covariance = mean.new_zeros(mean.shape[0], size, size)
        covariance[:, rows, columns] = state["covariance"].to(torch.float64)
        covariance[:, columns, rows] = state["covariance"].to(torch.float64)
    else:
        factors, noise = state["factors"].to(torch.float64), state["noise"].to(torch.float64)
        unit = torch.eye(size, dtype=torch.float64)
        covariance = factors @ factors.transpose(1, 2) + noise[:, None, None] * unit
    return Normal.of(mean, covariance)


def _about_mean(normal: Normal, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Windows flat and about the mean in float64, and their missing values."""
    flat = values.flatten(2).clamp(-LARGEST, LARGEST).to(torch.float64)
    return flat - normal.mean.unsqueeze(1), mask.flatten(2)


def _raw_parts(normal: Normal, values: Tensor, mask: Tensor) -> Parts:
    """Parts as standard normal as theory makes them (Wilson-Hilferty of each chi-squared)."""
    n_channels = values.shape[3]
    missing = mask.flatten(2)
    x = values.flatten(2).clamp(-LARGEST, LARGEST) - normal.mean.unsqueeze(1).to(torch.float32)
    if bool(missing.any()):
        x = normal.completed(x, missing).x.to(torch.float32)
    innovations = x @ normal.whitener.transpose(1, 2).to(torch.float32)
    steps = innovations.square().view(*mask.shape).sum(3)
    observed = (~missing).sum(2)
    level = (x @ _level_filter(normal, n_channels).to(torch.float32)).square().sum(2)
    gone = mask.all(3)
    step = _standard(steps, torch.tensor(float(n_channels)))
    return Parts(
        window=_standard(steps.sum(2), observed.to(torch.float32)),
        level=_standard(level, torch.tensor(float(n_channels))),
        step=torch.where(gone, 0.0, step),
    )


def _level_filter(normal: Normal, n_channels: int) -> Tensor:
    """Weights whose product with a window is standard normal and largest for a constant shift."""
    size = normal.mean.shape[1]
    shift = torch.eye(n_channels, dtype=torch.float64).repeat(size // n_channels, 1)
    pulled = normal.precision @ shift
    root = torch.linalg.cholesky(shift.T @ pulled)
    return torch.linalg.solve_triangular(root, pulled.transpose(1, 2), upper=False).transpose(1, 2)


def _standard(chi_squared: Tensor, freedom: Tensor) -> Tensor:
    """Return chi-squared values as standard normal ones (Wilson & Hilferty 1931)."""
    k = freedom.clamp_min(1)
    return ((chi_squared / k).pow(1 / 3) - (1 - 2 / (9 * k))) / (2 / (9 * k)).sqrt()
