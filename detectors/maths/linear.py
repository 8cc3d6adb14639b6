"""The linear-Gaussian base a latent density stands on: whitened axes, and normal noise off them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from detectors.maths import stored
from detectors.maths.moments import FLOOR, LARGEST, Moments, regular
from detectors.maths.normal import Normal, log_standard
from detectors.maths.ppca import Ppca
from detectors.windows import Windows


@dataclass(frozen=True)
class LinearBase:
    """Windows ``x = mean + axes * spread z + noise off the axes``, with z of unit variance.

    The noise is normal and independent of z. Up to 128 values a window it has the covariance that is left
    once the axes, its first principal ones, are taken out of that of all windows; beyond, it is white.

    Attributes:
        mean: shape ``(n_targets, size)``.
        axes: shape ``(n_targets, size, latent)``, orthonormal.
        spread: shape ``(n_targets, latent)``, standard deviation along each axis.
        noise: shape ``(n_targets,)``, mean variance of the directions off the axes.
        covariance: of all windows, one triangle of each, as ``stored.triangle_of`` returns it; None where
            the noise is white, or there is none.
    """

    mean: Tensor
    axes: Tensor
    spread: Tensor
    noise: Tensor
    covariance: Tensor | None = None

    @classmethod
    def of(cls, moments: Moments, window: int, latent: int, *, white: bool = False) -> LinearBase:
        """Return the first ``latent`` principal axes of the shrunken covariance.

        Args:
            white: keep no more of what lies off them than how much it is.
        """
        covariance = regular(moments, window)
        ppca = Ppca.of(covariance, latent, share=1.0, floor=FLOOR)
        kept = not white and latent < covariance.shape[1] <= stored.LARGEST_FULL
        own = (moments.mean, ppca.axes, ppca.variance.sqrt(), ppca.noise)
        mean, axes, spread, noise = (t.to(torch.float32) for t in own)
        return cls(mean, axes, spread, noise, stored.triangle_of(covariance) if kept else None)

    @classmethod
    def load(cls, state: dict[str, Tensor]) -> LinearBase:
        mean, axes, spread, noise = (state[name] for name in ("mean", "axes", "spread", "noise"))
        return cls(mean, axes, spread, noise, state.get("base_covariance"))

    def state(self) -> dict[str, Tensor]:
        own = {"mean": self.mean, "axes": self.axes, "spread": self.spread, "noise": self.noise}
        return own if self.covariance is None else {**own, "base_covariance": self.covariance}

    @property
    def latent(self) -> int:
        return self.axes.shape[2]

    @property
    def off_axes(self) -> int:
        """Dimensions of the noise."""
        return self.axes.shape[1] - self.latent

    @cached_property
    def normal(self) -> Normal:
        """The normal distribution whose latent is standard normal."""
        if self.covariance is not None:
            return Normal.of(self.mean, stored.symmetric(self.covariance, self.mean.shape[1]))
        return Normal.of(self.mean, self._loadings @ self._loadings.transpose(1, 2) + self.noise_covariance)

    @property
    def noise_covariance(self) -> Tensor:
        """Covariance of the noise off the axes, float64, ``(n_targets, size, size)``."""
        axes, size = self.axes.to(torch.float64), self.mean.shape[1]
        if self.covariance is not None:
            loadings = self._loadings
            return stored.symmetric(self.covariance, size) - loadings @ loadings.transpose(1, 2)
        unit = torch.eye(size, dtype=torch.float64)
        return self.noise.to(torch.float64)[:, None, None] * (unit - axes @ axes.transpose(1, 2))

    @property
    def _loadings(self) -> Tensor:
        return self.axes.to(torch.float64) * self.spread.to(torch.float64).unsqueeze(1)

    def about_mean(self, values: Tensor) -> Tensor:
        """Flat windows less the mean, ``(n_targets, k, size)``."""
        return values.flatten(2).clamp(-LARGEST, LARGEST) - self.mean.unsqueeze(1)

    def filled(self, values: Tensor, mask: Tensor) -> Tensor:
        """Flat windows about the mean, missing values at their conditional mean, ``(n_targets, k, size)``."""
        x = self.about_mean(values)
        return self.normal.filled(x, mask.flatten(2)) if bool(mask.any()) else x

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return latent ``(n_targets, k, latent)`` and the squared norm of what lies off the axes."""
        along = x @ self.axes
        off = x.square().sum(2) - along.square().sum(2)
        return along / self.spread.unsqueeze(1), off.clamp_min(0)

    def upright(self, z: Tensor, x: Tensor) -> Tensor:
        """Return windows whitened so that every value stays in its place, ``(n_targets, k, size)``.

        It is the whitening that changes windows least, where noise off the axes is white, as which it counts
        here; a value stands for what is odd about its own step.

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
        if self.covariance is None:
            drawn = white * self.noise.sqrt()[:, None, None]
        else:
            drawn = white @ self.normal.root.transpose(1, 2).to(torch.float32)
        # The axes are principal ones: what lies off them knows nothing of what lies along them.
        return drawn - (drawn @ self.axes) @ self.axes.transpose(1, 2)

    def log_prob(self, log_latent: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Return log-densities of flat windows about the mean from those of their latents z.

        It is that of the normal distribution, with what the latent has in place of a standard normal's.
        """
        plain = self.normal.log_prob(x, torch.zeros_like(x, dtype=torch.bool))
        return (plain - log_standard(z) + log_latent).to(torch.float32)


def latents_of(base: LinearBase, windows: Windows, most: int) -> Tensor:
    """Return the latents of at most ``most`` training windows of every member, evenly drawn."""
    drawn = windows.gathered(windows.drawn(min(most, windows.n_windows)))
    return base.split(base.filled(*drawn))[0]
