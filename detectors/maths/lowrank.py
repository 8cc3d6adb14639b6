"""Normal distributions that differ along a few axes only: their marginals and conditionals.

A mixture on the latent of a linear base has such components. With the base's covariance S and the axes A, a
component's is ``S + A D A'``, so that what the observed values of a window say under each of them follows
from what they say under the base by inverses of ``latent`` by ``latent`` (Woodbury).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.maths.linear import LinearBase
from detectors.maths.mixture import Mixture
from detectors.maths.normal import Normal


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
        base: what they have in common.
        axes: shape ``(n_targets, size, latent)``.
        centre: shape ``(n_targets, K, latent)``, mean along the axes, about the base's.
        added: shape ``(n_targets, K, 1, latent, latent)``, covariance along the axes less the base's.
    """

    base: Normal
    axes: Tensor
    centre: Tensor
    added: Tensor

    @classmethod
    def of(cls, base: LinearBase, mixture: Mixture) -> LowRank:
        """Return the components of a mixture on the base's latent as distributions of windows."""
        spread = base.spread.to(torch.float64)
        more = mixture.covariance - torch.eye(base.latent, dtype=torch.float64)
        along = spread[:, None, :, None] * more * spread[:, None, None, :]
        centre = mixture.mean * spread.unsqueeze(1)
        return cls(base.normal, base.axes.to(torch.float64), centre, along.unsqueeze(2))

    def log_prob(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the log-density of the observed values under every component, ``(n_targets, K, k)``.

        Args:
            x: shape ``(n_targets, k, size)``, about the base's mean; ignored at missing values.
            missing: same shape, bool.
        """
        return self._log_prob(_Seen.of(self, x, missing), missing)

    def _log_prob(self, seen: _Seen, missing: Tensor) -> Tensor:
        centre = self.centre.unsqueeze(2)
        pulled = seen.pulled(self.centre)
        # Of a window about a component's centre, under the base.
        about = seen.energy.unsqueeze(1) - ((seen.along.unsqueeze(1) + pulled) * centre).sum(3)
        energy = about - ((seen.gain @ pulled.unsqueeze(4)).squeeze(4) * pulled).sum(3)
        unit = torch.eye(self.axes.shape[2], dtype=torch.float64)
        log_det = torch.linalg.slogdet(unit + self.added @ seen.overlap).logabsdet
        observed = (~missing).sum(2).unsqueeze(1)
        whole = energy.clamp_min(0) + seen.log_det.unsqueeze(1) + log_det
        return -0.5 * (whole + observed * math.log(2 * math.pi))

    def conditioned(self, x: Tensor, missing: Tensor) -> Conditioned:
        """Return density and conditionals of every window; arguments as for ``log_prob``."""
        seen = _Seen.of(self, x, missing)
        moved = self.centre.unsqueeze(2) + (seen.gain @ seen.pulled(self.centre).unsqueeze(4)).squeeze(4)
        # An observed value's precision, and its pull, lose what the axes explain of the others.
        precision = (seen.variance.reciprocal().unsqueeze(1) - seen.explained(seen.weights)).clamp_min(1e-12)
        pull = (seen.x @ self.base.precision).unsqueeze(1) - _along(seen.weights, moved)
        hidden = missing.unsqueeze(1)
        unknown = seen.variance.unsqueeze(1) + seen.explained(seen.left)
        mean = seen.x.unsqueeze(1) + torch.where(hidden, _along(seen.left, moved), -pull / precision)
        variance = torch.where(hidden, unknown.clamp_min(1e-12), precision.reciprocal())
        return Conditioned(self._log_prob(seen, missing), mean, variance)


@dataclass(frozen=True)
class _Seen:
    """What the observed values of windows say under the base, and of the axes; k is 1 where it is the same.

    Attributes:
        x: shape ``(n_targets, k, size)``, missing values at their conditional mean.
        variance: same shape, of every value given the other observed ones.
        energy, log_det: shape ``(n_targets, k)``, of the observed values.
        weights: shape ``(n_targets, k, size, latent)``, the axes times the observed values' precision.
        left: same shape, of the axes what the observed values leave open: nothing, but at missing ones.
        overlap: shape ``(n_targets, 1, k, latent, latent)``, ``G``: the axes' precision.
        gain: shape ``(n_targets, K, k, latent, latent)``, ``W = (I + D G)^-1 D``.
        along: shape ``(n_targets, k, latent)``, what the windows have along the axes.
    """

    x: Tensor
    variance: Tensor
    energy: Tensor
    log_det: Tensor
    weights: Tensor
    left: Tensor
    overlap: Tensor
    gain: Tensor
    along: Tensor

    @classmethod
    def of(cls, low: LowRank, x: Tensor, missing: Tensor) -> _Seen:
        base = low.base
        done = base.completed(x, missing, with_variance=True)
        assert done.variance is not None
        energy = (done.x @ base.whitener.transpose(1, 2)).square().sum(2)
        axes = base.completed_columns(low.axes, missing if bool(missing.any()) else missing[:, :1])
        weights = (axes.transpose(2, 3) @ base.precision.unsqueeze(1)).transpose(2, 3)
        overlap = (axes.transpose(2, 3) @ weights).unsqueeze(1)
        unit = torch.eye(axes.shape[3], dtype=torch.float64)
        gain = torch.linalg.solve(unit + low.added @ overlap, low.added)
        along = _across(weights, done.x)
        left = low.axes.unsqueeze(1) - axes
        log_det = base.log_det.unsqueeze(1) + done.log_det
        return cls(done.x, done.variance, energy, log_det, weights, left, overlap, gain, along)

    def pulled(self, centre: Tensor) -> Tensor:
        """Return what windows have along the axes about every centre, ``(n_targets, K, k, latent)``."""
        return self.along.unsqueeze(1) - (self.overlap @ centre[:, :, None, :, None]).squeeze(4)

    def explained(self, axes: Tensor) -> Tensor:
        """Return the diagonal of ``axes W axes'``, ``(n_targets, K, k, size)``."""
        axes = axes.unsqueeze(1)
        return ((axes @ self.gain) * axes).sum(4)


def _along(axes: Tensor, latent: Tensor) -> Tensor:
    """Return ``(n_targets, K, k, size)`` of axes ``(n_targets, k or 1, size, latent)`` and latents."""
    if axes.shape[1] == 1:
        return latent @ axes.transpose(2, 3)
    return (axes.unsqueeze(1) @ latent.unsqueeze(4)).squeeze(4)


def _across(axes: Tensor, x: Tensor) -> Tensor:
    """Return ``(n_targets, k, latent)`` of axes ``(n_targets, k or 1, size, latent)`` and windows."""
    if axes.shape[1] == 1:
        return x @ axes[:, 0]
    return (x.unsqueeze(2) @ axes).squeeze(2)
