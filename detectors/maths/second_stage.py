"""What is usual of a network that rebuilds windows from codes: which codes, and what they leave over.

Learned from training windows once the network is trained, so that odd codes are told, and windows are drawn
from codes as they come (the second stage of Dai & Wipf 2019, arXiv 1903.05789) with residuals as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from detectors.maths import mixture, stored
from detectors.maths.mixture import Mixture
from detectors.maths.normal import Normal
from detectors.windows import Windows

DRAWN = 1024
"""Training windows of a member whose residuals and codes are looked at."""

MEMBERS = 4
"""Members whose residuals are looked at together: 8 MiB at window 128."""

RIDGE = 1e-3
"""Variance every direction is given, as a share of the mean variance: codes may be correlated to the last
digit, and a direction that never moves must not outweigh all others."""

LOG_2PI = math.log(2 * math.pi)

WITHIN_ONE = 0.683
"""Share of normal values within one standard deviation: few far ones do not move the spread."""


@dataclass(frozen=True)
class Codes:
    """A mixture of normal distributions on codes of mean 0 and about unit covariance.

    Attributes:
        mean: shape ``(n_targets, latent)``, of the codes.
        root: shape ``(n_targets, latent, latent)``, Cholesky factor of their covariance.
        mixture: of the whitened codes.
    """

    mean: Tensor
    root: Tensor
    mixture: Mixture

    @classmethod
    def of(cls, z: Tensor, windows: Windows, counts: tuple[int, ...], seed: int) -> Codes:
        """Return the density of codes ``(n_targets, n, latent)``.

        Args:
            windows: the training windows; overlapping ones count as so many as fit side by side.
            counts: numbers of components to choose from, by BIC.
            seed: of the first centres.
        """
        normal = Normal.of(z.to(torch.float64).mean(1), _covariance(z))
        own = cls(normal.mean.to(torch.float32), normal.root.to(torch.float32), Mixture.standard(1, 1, 1))
        count = (windows.weight > 0).sum(1)
        samples = (count / windows.window).to(torch.float64)
        found = mixture.fit(own.whitened(z), count > 0, counts, samples=samples, seed=seed)
        return cls(own.mean, own.root, found)

    @classmethod
    def load(cls, state: dict[str, Tensor]) -> Codes:
        own = (state[name].to(torch.float64) for name in ("weight", "centre", "covariance"))
        return cls(state["latent_mean"], state["latent_root"], Mixture(*own))

    def state(self) -> dict[str, Tensor]:
        found = self.mixture
        own = {"weight": found.weight, "centre": found.mean, "covariance": found.covariance}
        tensors = {name: value.to(torch.float32) for name, value in own.items()}
        return {"latent_mean": self.mean, "latent_root": self.root, **tensors}

    def whitened(self, z: Tensor) -> Tensor:
        """Return codes as they are to the mixture."""
        normal = Normal(self.mean.to(torch.float64), self.root.to(torch.float64))
        return (z - self.mean.unsqueeze(1)) @ normal.whitener.transpose(1, 2).to(torch.float32)

    def coloured(self, white: Tensor) -> Tensor:
        """Return the codes that ``whitened`` makes these of."""
        return self.mean.unsqueeze(1) + white @ self.root.transpose(1, 2)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of codes ``(n_targets, n, latent)``, shape ``(n_targets, n)``."""
        log_det = self.root.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)
        return self.mixture.log_prob(self.whitened(z)) - log_det

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n codes of every member, ``(n_targets, n, latent)``."""
        return self.coloured(self.mixture.sample(n, generator))


@dataclass(frozen=True)
class Residuals:
    """Normal residuals as wide as usual ones, and, up to 128 values a window, as correlated.

    Attributes:
        spread: shape ``(n_targets, size)``, the usual residual of every place.
        correlation: one triangle of each, as ``stored.triangle_of`` returns it; None for independent ones.
    """

    spread: Tensor
    correlation: Tensor | None

    @classmethod
    def of(cls, residual: Tensor, kept: Tensor, good: Tensor, floor: float) -> Residuals:
        """Return what residuals ``(n_targets, n, size)`` are like, 0 where nothing was observed.

        Args:
            kept: same shape, 1.0 where observed.
            good: shape ``(n_targets, m)``, the windows that say how they are correlated.
            floor: smallest spread.
        """
        spread = _spread(residual.abs(), kept).clamp_min(floor)
        if residual.shape[2] > stored.LARGEST_FULL:
            return cls(spread, None)
        # Of their spread no more: windows between two regimes are rebuilt badly, and few.
        covariance = _covariance(rows(residual, good))
        scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
        return cls(spread, stored.triangle_of(covariance / (scale.unsqueeze(2) * scale.unsqueeze(1))))

    @classmethod
    def load(cls, state: dict[str, Tensor]) -> Residuals:
        return cls(state["spread"], state.get("correlation"))

    def state(self) -> dict[str, Tensor]:
        own = {"spread": self.spread}
        return own if self.correlation is None else {**own, "correlation": self.correlation}

    def log_prob(self, residual: Tensor, kept: Tensor) -> Tensor:
        """Return the log-density of the observed residuals, ``(n_targets, n, draws)``.

        Args:
            residual: shape ``(n_targets, n, draws, size)``.
            kept: shape ``(n_targets, n, size)``, 1.0 where observed.
        """
        off = residual / self.spread[:, None, None, :] * kept.unsqueeze(2)
        observed = kept.sum(dim=2, keepdim=True)
        fixed = observed * LOG_2PI + 2 * (kept * self.spread.log().unsqueeze(1)).sum(dim=2, keepdim=True)
        if self.correlation is None:
            return -0.5 * (off.square().sum(dim=3) + fixed)
        if not bool((kept < 1).any()):
            log_det = 2 * self._root.diagonal(dim1=1, dim2=2).log().sum(dim=1).to(torch.float32)
            white = off.flatten(1, 2) @ self._whitener
            return -0.5 * (
                white.square().sum(dim=2).view(residual.shape[:3]) + log_det[:, None, None] + fixed
            )
        seen = kept == 1
        both = seen.unsqueeze(3) & seen.unsqueeze(2)
        # Of the observed values; the identity elsewhere, where residuals count as 0.
        unit = torch.eye(kept.shape[2], dtype=torch.float64)
        root = torch.linalg.cholesky(torch.where(both, self._whole.unsqueeze(1), unit)).to(torch.float32)
        partly = 2 * root.diagonal(dim1=2, dim2=3).log().sum(dim=2, keepdim=True)
        gone = torch.linalg.solve_triangular(root, off.transpose(2, 3), upper=False)
        return -0.5 * (gone.square().sum(dim=2) + partly + fixed)

    @cached_property
    def _whole(self) -> Tensor:
        """The correlations, float64, ``(n_targets, size, size)``."""
        assert self.correlation is not None
        return stored.symmetric(self.correlation, self.spread.shape[1])

    @cached_property
    def _root(self) -> Tensor:
        return torch.linalg.cholesky(self._whole)

    @cached_property
    def _whitener(self) -> Tensor:
        """What makes rows of residuals, in units of their spread, independent; float32."""
        unit = torch.eye(self._root.shape[1], dtype=torch.float64).expand_as(self._root)
        inverse = torch.linalg.solve_triangular(self._root, unit, upper=False)
        return inverse.transpose(1, 2).to(torch.float32)

    def of_noise(self, white: Tensor) -> Tensor:
        """Return residuals from white noise ``(n, size)``, ``(n_targets, n, size)``."""
        if self.correlation is None:
            return self.spread.unsqueeze(1) * white
        return self.spread.unsqueeze(1) * (white @ self._root.transpose(1, 2).to(torch.float32))


def least(error: Tensor, trim: float) -> Tensor:
    """Return which windows of ``(n_targets, n)`` are left without the worst share, in order."""
    keep = max(1, math.ceil(error.shape[1] * (1 - trim)))
    return error.topk(keep, dim=1, largest=False, sorted=False).indices.sort(dim=1).values


def rows(values: Tensor, index: Tensor) -> Tensor:
    """Return some windows of every member: ``(n_targets, n, ..)`` at ``(n_targets, m)``."""
    return values[torch.arange(values.shape[0]).unsqueeze(1), index]


def learned(
    learn: Callable[[dict[str, Tensor], Windows], dict[str, Tensor]],
    params: dict[str, Tensor],
    windows: Windows,
) -> dict[str, Tensor]:
    """Return what is learned of a bank once it is trained, a few members at a time, as state.

    Args:
        learn: maps the weights of some members and their windows to what is learned of them.
    """
    found = []
    for first in range(0, windows.n_targets, MEMBERS):
        part = slice(first, first + MEMBERS)
        found.append(learn({name: value[part] for name, value in params.items()}, windows.members(part)))
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def _spread(off: Tensor, kept: Tensor) -> Tensor:
    """Return the usual residual of every place, ``(n_targets, size)``; 1 where none is seen."""
    if not bool((kept == 1).all()):
        off = off.masked_fill(kept == 0, torch.nan)
    return off.nanquantile(WITHIN_ONE, dim=1).nan_to_num(1.0)


def _covariance(values: Tensor) -> Tensor:
    """Return the covariance of ``(n_targets, n, size)`` with a ridge, float64, positive definite."""
    values = values.to(torch.float64)
    off = values - values.mean(1, keepdim=True)
    covariance = off.transpose(1, 2) @ off / values.shape[1]
    level = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return covariance + (RIDGE * level + 1e-6) * torch.eye(values.shape[2], dtype=torch.float64)
