"""Normal distributions that share a few axes and the white noise off them: their marginals and conditionals.

A mixture on the latent of a linear base has such components. With the axes A, a component's covariance is
``noise I + A M A'``, so every inverse over the observed values of a window is one of ``latent`` by ``latent``
(Woodbury), which does not grow with the number of values that are missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.maths.linear import LinearBase
from detectors.maths.mixture import Mixture


@dataclass(frozen=True)
class Conditioned:
    """What the observed values of a window say under every component.

    Attributes:
        log_prob: shape ``(n_targets, K, k)``, log-density of the observed values.
        mean: shape ``(n_targets, K, k, size)``, about the base's mean, of every value given the *other*
            observed ones.
        variance: same shape.
    """

    log_prob: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class LowRank:
    """K normal distributions of windows per target, in float64.

    Attributes:
        axes: shape ``(n_targets, size, latent)``, orthonormal.
        noise: shape ``(n_targets, 1, 1, 1, 1)``, variance of every direction off the axes.
        centre: shape ``(n_targets, K, latent)``, mean along the axes, about the base's.
        inner: shape ``(n_targets, K, 1, latent, latent)``, covariance along the axes less the noise.
    """

    axes: Tensor
    noise: Tensor
    centre: Tensor
    inner: Tensor

    @classmethod
    def of(cls, base: LinearBase, mixture: Mixture) -> LowRank:
        """Return the components of a mixture on the base's latent as distributions of windows."""
        spread, noise = base.spread.to(torch.float64), base.noise.to(torch.float64)[:, None, None, None, None]
        along = spread[:, None, :, None] * mixture.covariance * spread[:, None, None, :]
        unit = torch.eye(base.latent, dtype=torch.float64)
        inner = along.unsqueeze(2) - noise * unit
        return cls(base.axes.to(torch.float64), noise, mixture.mean * spread.unsqueeze(1), inner)

    def log_prob(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the log-density of the observed values under every component, ``(n_targets, K, k)``.

        Args:
            x: shape ``(n_targets, k, size)``, about the base's mean; ignored at missing values.
            missing: same shape, bool.
        """
        x = torch.where(missing, 0.0, x.to(torch.float64))
        overlap, gain = self._gain(missing)
        return self._log_prob(x, missing, overlap, gain, self._pulled(x, overlap))

    def conditioned(self, x: Tensor, missing: Tensor) -> Conditioned:
        """Return density and conditionals of every window; arguments as for ``log_prob``."""
        x = torch.where(missing, 0.0, x.to(torch.float64))
        overlap, gain = self._gain(missing)
        pulled = self._pulled(x, overlap)
        latent = (gain @ pulled.unsqueeze(4)).squeeze(4)
        along = self.axes.transpose(1, 2).unsqueeze(1)
        fitted = (self.centre.unsqueeze(2) + latent) @ along
        # The share of a value's variance that the latent explains, given what was observed.
        size, d = self.axes.shape[1:]
        pairs = (self.axes.unsqueeze(3) * self.axes.unsqueeze(2)).view(-1, 1, size, d * d)
        explained = gain.flatten(3) @ pairs.transpose(2, 3)
        hidden, noise = missing.unsqueeze(1), self.noise.squeeze(4)
        left = torch.where(hidden, 1.0, (1 - explained).clamp_min(1e-12))
        mean = torch.where(hidden, fitted, x.unsqueeze(1) - (x.unsqueeze(1) - fitted) / left)
        variance = noise * torch.where(hidden, 1 + explained, 1 / left)
        return Conditioned(self._log_prob(x, missing, overlap, gain, pulled), mean, variance)

    def _gain(self, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``G``, the overlap of the axes on observed values, and ``W = M (noise I + G M)^-1``.

        Shapes ``(n_targets, 1, k, d, d)`` and ``(n_targets, K, k, d, d)``; k is 1 where nothing is missing.
        """
        if not bool(missing.any()):
            missing = missing[:, :1]
        seen = (~missing).to(torch.float64)
        d = self.axes.shape[2]
        pairs = (self.axes.unsqueeze(3) * self.axes.unsqueeze(2)).flatten(2)
        overlap = (seen @ pairs).view(*seen.shape[:2], d, d).unsqueeze(1)
        unit = torch.eye(d, dtype=torch.float64)
        return overlap, torch.linalg.solve(self.noise * unit + overlap @ self.inner, self.inner, left=False)

    def _pulled(self, x: Tensor, overlap: Tensor) -> Tensor:
        """Observed values, about a component's mean, along the axes: ``(n_targets, K, k, latent)``."""
        about_centre = (overlap @ self.centre[:, :, None, :, None]).squeeze(4)
        return (x @ self.axes).unsqueeze(1) - about_centre

    def _log_prob(self, x: Tensor, missing: Tensor, overlap: Tensor, gain: Tensor, pulled: Tensor) -> Tensor:
        noise = self.noise[:, :, 0, 0, 0].unsqueeze(2)
        centre = self.centre.unsqueeze(2)
        away = (x @ self.axes).unsqueeze(1) + pulled
        squares = x.square().sum(2).unsqueeze(1) - (away * centre).sum(3)
        energy = squares - ((gain @ pulled.unsqueeze(4)).squeeze(4) * pulled).sum(3)
        unit = torch.eye(self.axes.shape[2], dtype=torch.float64)
        log_det = torch.linalg.slogdet(unit + overlap @ self.inner / self.noise).logabsdet
        observed = (~missing).sum(2).unsqueeze(1)
        return -0.5 * (energy.clamp_min(0) / noise + log_det + observed * (2 * math.pi * noise).log())
