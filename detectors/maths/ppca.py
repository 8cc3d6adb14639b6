"""Probabilistic principal components of a bank (Tipping & Bishop 1999, doi 10.1111/1467-9868.00196)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ppca:
    """Principal axes and noise of a bank of covariances.

    Attributes:
        axes: shape ``(n_targets, size, latent)``, orthonormal; columns past ``used`` are zero.
        variance: shape ``(n_targets, latent)``, variance along each axis, at least ``noise``.
        noise: shape ``(n_targets,)``, mean variance of every direction left out.
        used: shape ``(n_targets, latent)``, bool, the axes a member uses.
    """

    axes: Tensor
    variance: Tensor
    noise: Tensor
    used: Tensor

    @classmethod
    def of(cls, covariance: Tensor, latent: int, *, share: float, floor: float) -> Ppca:
        """Return the axes that hold ``share`` of the variance, at most ``latent`` of them.

        Args:
            covariance: shape ``(n_targets, size, size)``, float64, symmetric.
            latent: most axes a member may use.
            share: share of the variance the axes explain, 0 to 1.
            floor: smallest noise variance.
        """
        size = covariance.shape[-1]
        latent = min(latent, size)
        values, vectors = torch.linalg.eigh(covariance)
        values = values.flip(1).clamp_min(0)
        axes = vectors.flip(2)[:, :, :latent]
        total = values.sum(1, keepdim=True).clamp_min(1e-12)
        before = (values.cumsum(1) - values)[:, :latent]
        used = before < share * total
        kept = values[:, :latent] * used
        noise = (total.squeeze(1) - kept.sum(1)) / (size - used.sum(1)).clamp_min(1)
        noise = noise.clamp_min(floor)
        variance = torch.maximum(values[:, :latent], noise.unsqueeze(1))
        return cls(axes * used.unsqueeze(1), variance, noise, used)

    @property
    def factors(self) -> Tensor:
        """Loadings F with covariance ``F F' + noise I``, shape ``(n_targets, size, latent)``."""
        return self.axes * (self.variance - self.noise.unsqueeze(1)).clamp_min(0).sqrt().unsqueeze(1)
