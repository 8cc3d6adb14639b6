"""The linear-Gaussian base a latent density stands on: whitened axes, and white noise off them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.base import Windows
from detectors.maths.moments import FLOOR, LARGEST, Moments, regular
from detectors.maths.normal import Normal
from detectors.maths.ppca import Ppca


@dataclass(frozen=True)
class LinearBase:
    """Windows ``x = mean + axes * spread z + noise off the axes``, with z of unit variance.

    Attributes:
        mean: shape ``(n_targets, size)``.
        axes: shape ``(n_targets, size, latent)``, orthonormal.
        spread: shape ``(n_targets, latent)``, standard deviation along each axis.
        noise: shape ``(n_targets,)``, variance of every direction off the axes.
    """

    mean: Tensor
    axes: Tensor
    spread: Tensor
    noise: Tensor

    @classmethod
    def of(cls, moments: Moments, window: int, latent: int) -> LinearBase:
        """Return the first ``latent`` principal axes of the shrunken covariance."""
        ppca = Ppca.of(regular(moments, window), latent, share=1.0, floor=FLOOR)
        return cls(
            *(t.to(torch.float32) for t in (moments.mean, ppca.axes, ppca.variance.sqrt(), ppca.noise))
        )

    @classmethod
    def load(cls, state: dict[str, Tensor]) -> LinearBase:
        return cls(state["mean"], state["axes"], state["spread"], state["noise"])

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "axes": self.axes, "spread": self.spread, "noise": self.noise}

    @property
    def latent(self) -> int:
        return self.axes.shape[2]

    @property
    def off_axes(self) -> int:
        """Dimensions of the noise."""
        return self.axes.shape[1] - self.latent

    @property
    def log_scale(self) -> Tensor:
        """Log-determinant of the axes' spread, shape ``(n_targets,)``."""
        return self.spread.log().sum(1)

    @property
    def normal(self) -> Normal:
        """The normal distribution whose latent is standard normal."""
        return self.normal_of(self.mean.new_zeros(self.spread.shape), torch.eye(self.latent))

    def normal_of(self, centre: Tensor, covariance: Tensor) -> Normal:
        """The normal distribution of windows whose latent has this mean and covariance."""
        axes, spread = self.axes.to(torch.float64), self.spread.to(torch.float64)
        noise = self.noise.to(torch.float64)[:, None, None]
        loadings = axes * spread.unsqueeze(1)
        inside = loadings @ covariance.to(torch.float64) @ loadings.transpose(1, 2)
        unit = torch.eye(axes.shape[1], dtype=torch.float64)
        mean = self.mean + (loadings @ centre.to(torch.float64).unsqueeze(2)).squeeze(2)
        return Normal.of(mean, inside + noise * (unit - axes @ axes.transpose(1, 2)))

    def about_mean(self, values: Tensor) -> Tensor:
        """Flat windows less the mean, ``(n_targets, k, size)``."""
        return values.flatten(2).clamp(-LARGEST, LARGEST) - self.mean.unsqueeze(1)

    def filled(self, values: Tensor, mask: Tensor) -> Tensor:
        """Flat windows about the mean, missing values at their conditional mean, ``(n_targets, k, size)``."""
        x = self.about_mean(values)
        if bool(mask.any()):
            return self.normal.completed(x, mask.flatten(2)).x.to(torch.float32)
        return x

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return latent ``(n_targets, k, latent)`` and the squared norm of what lies off the axes."""
        along = x @ self.axes
        off = x.square().sum(2) - along.square().sum(2)
        return along / self.spread.unsqueeze(1), off.clamp_min(0)

    def upright(self, z: Tensor, x: Tensor) -> Tensor:
        """Return windows whitened so that every value stays in its place, ``(n_targets, k, size)``.

        It is the whitening that changes windows least; a value stands for what is odd about its own step.

        Args:
            z: what stands for the latent, ``(n_targets, k, latent)``.
            x: flat windows about the mean, of which what lies off the axes is taken.
        """
        along = z @ self.axes.transpose(1, 2)
        if not self.off_axes:
            return along
        off = x - (x @ self.axes) @ self.axes.transpose(1, 2)
        return along + off / self.noise.sqrt()[:, None, None]

    def window_of(self, z: Tensor) -> Tensor:
        """Return the flat windows, about the mean, of latents ``(n_targets, k, latent)``."""
        return (z * self.spread.unsqueeze(1)) @ self.axes.transpose(1, 2)

    def noise_of(self, white: Tensor) -> Tensor:
        """Return noise off the axes from white noise ``(n_targets, k, size)``."""
        off = white - (white @ self.axes) @ self.axes.transpose(1, 2)
        return off * self.noise.sqrt()[:, None, None]

    def log_prob(self, log_latent: Tensor, off: Tensor) -> Tensor:
        """Return log-densities of windows from that of their latent and their squared norm off the axes."""
        noise = self.noise.unsqueeze(1)
        off_axes = -0.5 * (off / noise + self.off_axes * (2 * math.pi * noise).log())
        return log_latent - self.log_scale.unsqueeze(1) + (off_axes if self.off_axes else 0.0)


def latents_of(base: LinearBase, windows: Windows, most: int) -> Tensor:
    """Return the latents of at most ``most`` training windows of every member, evenly drawn."""
    drawn = windows.gathered(windows.drawn(min(most, windows.n_windows)))
    return base.split(base.filled(*drawn))[0]
