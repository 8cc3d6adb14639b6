"""Gaussian windows: full covariance, or probabilistic principal components where that is too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detectors.base import (
    Density,
    Detector,
    Expected,
    Progress,
    TrimmedConfig,
    Windows,
    fit_in_pieces,
    in_pieces,
)
from detectors.maths import parts
from detectors.maths.moments import FLOOR, LARGEST, Moments, regular, trimmed
from detectors.maths.normal import LARGEST_FULL, Normal, normal_expect, normal_log_prob, packed, unpacked
from detectors.maths.ppca import Ppca


@dataclass(frozen=True)
class GaussianConfig(TrimmedConfig):
    """What the Gaussian can be told.

    Attributes:
        form: 'full' covariance, 'ppca', or 'auto': full up to 128 values a window.
        components: most principal components of the 'ppca' form.
        share: share of the variance the components explain.
        whole: judge a window by its energy alone: what a single step or a level says does not join.
    """

    form: Literal["auto", "full", "ppca"] = "auto"
    components: int = 32
    share: float = 0.95
    whole: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("auto", "full", "ppca"):
            raise ValueError(f"form must be 'auto', 'full' or 'ppca', got {self.form!r}")
        self._check_counts("components")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")


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

    The score of a step joins three surprises, each in units of what it does on training windows: the
    Mahalanobis energy of its window, the likelihood ratio of a shift of the window's level, and the step's
    innovation given the steps before it (for the newest step: the one-step prediction error).

    Tipping & Bishop 1999 (doi 10.1111/1467-9868.00196); Ledoit & Wolf 2004 (doi
    10.1016/S0047-259X(03)00096-4).

    Departures: the log-density alone misses a short spike in a long window and a small lasting shift, so its
    two halves by the chain rule (energy, innovations) and the shift it is least sensitive to stand beside
    each other; ``log_prob`` is the plain density. The shrinkage counts windows divided by the integrated
    squared autocorrelation, since overlapping windows are not independent.
    """

    Config = GaussianConfig
    density = Density.TRACTABLE
    family = "Gaussian, probabilistic PCA"
    paper = "Tipping & Bishop 1999; Ledoit & Wolf 2004"

    # -- fit ------------------------------------------------------------------------

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        return fit_in_pieces(windows, self._fit_members, on_progress)

    def _fit_members(self, windows: Windows) -> dict[str, Tensor]:
        moments, kept = trimmed(windows, self.config.trim)
        state = self._distribution(moments, windows.n_channels)
        normal = _normal(state)
        return state | parts.scale_of(lambda values, mask, _: _raw_parts(normal, values, mask), kept)

    def _distribution(self, moments: Moments, n_channels: int) -> dict[str, Tensor]:
        """The fitted distribution, as it is stored."""
        covariance = regular(moments, self.config.window)
        mean = moments.mean.to(torch.float32)
        if self._is_full(n_channels):
            return {"mean": mean, "covariance": packed(covariance)}
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

    # -- use ------------------------------------------------------------------------

    def parts(self, windows: Windows) -> Parts:
        """Return the surprises the score is made of."""
        self._check_match(windows)
        whole = in_pieces(windows, self._parts_of)
        return Parts(whole[:, :, 0], whole[:, :, 1], whole[:, :, 2:])

    def _parts_of(self, members: slice, windows: Windows) -> Tensor:
        """Scaled parts: window, level and every step, ``(n_targets, n_windows, 2 + window)``."""
        state = self._state_of(members)
        return parts.scaled(_raw_parts(_normal(state), windows.values, parts.missing_in(windows)), state)

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            normal, mask = _normal(state), parts.missing_in(piece)
            if self.config.whole:
                return parts.whole(_energy(normal, piece.values, mask), state, piece.window)
            return parts.combined(_raw_parts(normal, piece.values, mask), state)

        return in_pieces(windows, scores)

    def _expect(self, windows: Windows) -> Expected:
        return normal_expect(windows, self._normal_of)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        flat = _normal(self._state).sample(n, generator)
        return flat.to(torch.float32).view(-1, n, self.config.window, self._n_channels())

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of the observed values of every window, ``(n_targets, n_windows)``."""
        self._check_match(windows)
        return normal_log_prob(windows, self._normal_of)

    def encode(self, windows: Windows) -> Tensor:
        """Return the whitened principal coordinates of every window, largest variance first."""
        self._check_match(windows)
        normal = _normal(self._state)
        covariance = normal.root @ normal.root.transpose(1, 2)
        ppca = Ppca.of(covariance, self.config.components, share=1.0, floor=0.0)
        axes = ppca.axes / ppca.variance.clamp_min(FLOOR).sqrt().unsqueeze(1)

        def latent(members: slice, piece: Windows) -> Tensor:
            member = self._normal_of(members)
            x = member.completed(member.about_mean(piece.values), piece.mask.flatten(2)).x
            return (x @ axes[members]).to(torch.float32)

        return in_pieces(windows, latent)

    def _normal_of(self, members: slice) -> Normal:
        return _normal(self._state_of(members))

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window


def _normal(state: dict[str, Tensor]) -> Normal:
    """The distribution of a state."""
    mean = state["mean"].to(torch.float64)
    if "covariance" in state:
        return Normal.of(mean, unpacked(state["covariance"]))
    factors, noise = state["factors"].to(torch.float64), state["noise"].to(torch.float64)
    unit = torch.eye(mean.shape[1], dtype=torch.float64)
    return Normal.of(mean, factors @ factors.transpose(1, 2) + noise[:, None, None] * unit)


def _raw_parts(normal: Normal, values: Tensor, mask: Tensor | None) -> Tensor:
    """Parts as theory standardises them, ``(n_targets, k, 2 + window)``: window, level, steps."""
    n_channels = values.shape[3]
    x = _about_mean(normal, values, mask)
    level = (x @ _level_filter(normal, n_channels).to(torch.float32)).square().sum(2)
    step, energy = parts.steps_of(x @ normal.whitener.transpose(1, 2).to(torch.float32), mask, n_channels)
    window, level = parts.standard(energy, _observed(values, mask)), parts.standard(level, n_channels)
    return torch.cat([window.unsqueeze(2), level.unsqueeze(2), step], dim=2)


def _energy(normal: Normal, values: Tensor, mask: Tensor | None) -> Tensor:
    """The window's part alone, ``(n_targets, k)``."""
    white = _about_mean(normal, values, mask) @ normal.whitener.transpose(1, 2).to(torch.float32)
    return parts.standard(white.square_().sum(2), _observed(values, mask))


def _about_mean(normal: Normal, values: Tensor, mask: Tensor | None) -> Tensor:
    """The windows less their mean, missing steps at their conditional mean, ``(n_targets, k, size)``."""
    x = values.flatten(2).clamp(-LARGEST, LARGEST).sub_(normal.mean.unsqueeze(1).to(torch.float32))
    return x if mask is None else normal.completed(x, mask.flatten(2)).x.to(torch.float32)


def _observed(values: Tensor, mask: Tensor | None) -> Tensor | int:
    """How many values of each window were observed, ``(n_targets, k)``."""
    return values.shape[2] * values.shape[3] if mask is None else (~mask).flatten(2).sum(2)


def _level_filter(normal: Normal, n_channels: int) -> Tensor:
    """Weights whose product with a window is standard normal and largest for a constant shift."""
    size = normal.mean.shape[1]
    shift = torch.eye(n_channels, dtype=torch.float64).repeat(size // n_channels, 1)
    white = normal.whitener @ shift
    pulled = normal.whitener.transpose(1, 2) @ white
    root = torch.linalg.cholesky(white.transpose(1, 2) @ white)
    return torch.linalg.solve_triangular(root, pulled.transpose(1, 2), upper=False).transpose(1, 2)
