"""Gaussian mixtures of a bank, fitted together by expectation maximisation (Dempster 1977)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PRIOR = 10.0
"""Windows' worth of a covariance of ``PRIOR_VARIANCE`` that every component has seen beforehand."""

PRIOR_VARIANCE = 0.1
"""Of the unit variance of a whitened latent: small enough to bend to any component that matters."""

ITERATIONS = 60
"""Rounds of expectation and maximisation at most."""

LLOYD = 8
"""Rounds of k-means before the first expectation."""

CANDIDATES = 4
"""Draws among which each starting centre is chosen."""

TOLERANCE = 1e-3
"""Nats per window of improvement below which a member has converged."""

FARTHEST = 20.0
"""Standard deviations at which a window's latent is held while fitting: what lies farther is no cluster."""


@dataclass(frozen=True)
class Mixture:
    """Mixtures of at most K components in d dimensions, one per target.

    Attributes:
        weight: shape ``(n_targets, K)``, 0 for components a member does not use.
        mean: shape ``(n_targets, K, d)``.
        covariance: shape ``(n_targets, K, d, d)``; the identity for unused components.
    """

    weight: Tensor
    mean: Tensor
    covariance: Tensor

    @classmethod
    def standard(cls, n_targets: int, components: int, d: int) -> Mixture:
        """One standard normal component each."""
        weight = torch.zeros(n_targets, components, dtype=torch.float64)
        weight[:, 0] = 1
        mean = torch.zeros(n_targets, components, d, dtype=torch.float64)
        return cls(weight, mean, torch.eye(d, dtype=torch.float64).repeat(n_targets, components, 1, 1))

    @property
    def n_parameters(self) -> Tensor:
        """Free parameters of every member, shape ``(n_targets,)``."""
        d = self.mean.shape[2]
        return (self.weight > 0).sum(1) * (1 + d + d * (d + 1) // 2) - 1

    def log_joint(self, z: Tensor) -> Tensor:
        """Log of weight times density of every component, ``(n_targets, k, K)``."""
        return _features(z) @ self._coefficients().to(z.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, shape ``(n_targets, k)``."""
        return self.log_joint(z).logsumexp(2)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n draws of every member, float32, ``(n_targets, n, d)``; all share the noise."""
        n_targets, components, d = self.mean.shape
        share = torch.rand(n, generator=generator, dtype=torch.float64)
        edges = self.weight.cumsum(1) / self.weight.sum(1, keepdim=True)
        component = (edges.unsqueeze(1) <= share[:, None]).sum(2).clamp_max(components - 1)
        rows = torch.arange(n_targets).unsqueeze(1)
        white = torch.randn(n, d, 1, generator=generator)
        roots = torch.linalg.cholesky(self.covariance).to(torch.float32)
        return self.mean.to(torch.float32)[rows, component] + (roots[rows, component] @ white).squeeze(3)

    def padded(self, components: int) -> Mixture:
        """The same mixture with room for more components."""
        n, own, d = self.mean.shape
        blank = Mixture.standard(n, components, d)
        blank.weight[:, :own], blank.mean[:, :own] = self.weight, self.mean
        blank.covariance[:, :own] = self.covariance
        return Mixture(blank.weight, blank.mean, blank.covariance)

    def where(self, chosen: Tensor, other: Mixture) -> Mixture:
        """Members of this bank where chosen (shape ``(n_targets,)``), else of the other."""
        return Mixture(
            torch.where(chosen[:, None], self.weight, other.weight),
            torch.where(chosen[:, None, None], self.mean, other.mean),
            torch.where(chosen[:, None, None, None], self.covariance, other.covariance),
        )

    def _coefficients(self) -> Tensor:
        """Weights of ``_features`` in every component's log-density, ``(n_targets, features, K)``."""
        d = self.mean.shape[2]
        root = torch.linalg.cholesky(self.covariance)
        precision = torch.cholesky_inverse(root)
        pulled = (precision @ self.mean.unsqueeze(3)).squeeze(3)
        log_det = 2 * root.diagonal(dim1=2, dim2=3).log().sum(2)
        constant = self.weight.clamp_min(1e-300).log() - 0.5 * (
            log_det + d * math.log(2 * math.pi) + (pulled * self.mean).sum(2)
        )
        constant = torch.where(self.weight > 0, constant, -1e30)
        rows, columns = torch.triu_indices(d, d)
        quadratic = -precision[:, :, rows, columns] * torch.where(rows == columns, 0.5, 1.0)
        return torch.cat([constant.unsqueeze(2), pulled, quadratic], dim=2).transpose(1, 2)


def fit(z: Tensor, used: Tensor, counts: tuple[int, ...], *, samples: Tensor, seed: int) -> Mixture:
    """Return mixtures with the number of components that BIC prefers, per target.

    Args:
        z: shape ``(n_targets, k, d)``, whitened.
        used: shape ``(n_targets,)``, False for members without data: they get a standard normal.
        counts: numbers of components to try, ascending.
        samples: shape ``(n_targets,)``, independent windows behind ``z``, for BIC.
        seed: seeds the starting centres, the same draws for every member.
    """
    z = z.clamp(-FARTHEST, FARTHEST).to(torch.float32)
    best = Mixture.standard(z.shape[0], counts[-1], z.shape[2])
    lowest = _bic(best, z, samples)
    for components in counts:
        if components > z.shape[1]:
            break
        mixture = _fitted(z, components, seed).padded(counts[-1])
        bic = _bic(mixture, z, samples)
        better = (bic < lowest) & used & bic.isfinite()
        best, lowest = mixture.where(better, best), torch.where(better, bic, lowest)
    return best


def _bic(mixture: Mixture, z: Tensor, samples: Tensor) -> Tensor:
    mean_log_prob = mixture.log_prob(z).to(torch.float64).mean(1)
    return -2 * samples * mean_log_prob + mixture.n_parameters * samples.clamp_min(2).log()


def _fitted(z: Tensor, components: int, seed: int) -> Mixture:
    """Expectation maximisation from k-means; a member that has converged stays as it is."""
    mixture = _start(z, components, seed)
    features = _features(z)
    moving = torch.ones(z.shape[0], dtype=torch.bool)
    before = torch.full((z.shape[0],), -math.inf, dtype=torch.float64)
    for _ in range(ITERATIONS):
        joint = features @ mixture._coefficients().to(features.dtype)
        total = joint.logsumexp(2, keepdim=True)
        mean = total.squeeze(2).to(torch.float64).mean(1)
        moving &= mean - before > TOLERANCE
        if not bool(moving.any()):
            break
        before = mean
        mixture = _maximised((joint - total).exp_(), features, z.shape[2]).where(moving, mixture)
    return mixture


def _maximised(share: Tensor, features: Tensor, d: int) -> Mixture:
    """Mixture of largest posterior density, given each component's share of every window."""
    sums = (share.transpose(1, 2) @ features).to(torch.float64)
    count = sums[:, :, 0].clamp_min(1e-12)
    mean = sums[:, :, 1 : d + 1] / count.unsqueeze(2)
    rows, columns = torch.triu_indices(d, d)
    second = sums.new_zeros(*count.shape, d, d)
    second[:, :, rows, columns] = sums[:, :, d + 1 :]
    second[:, :, columns, rows] = sums[:, :, d + 1 :]
    scatter = second - count[..., None, None] * mean.unsqueeze(3) * mean.unsqueeze(2)
    prior = PRIOR * PRIOR_VARIANCE * torch.eye(d, dtype=torch.float64)
    covariance = (scatter + prior) / (count + PRIOR)[..., None, None]
    return Mixture(count / count.sum(1, keepdim=True), mean, covariance)


def _start(z: Tensor, components: int, seed: int) -> Mixture:
    """Mixture of the clusters of k-means, so that no component begins by covering everything."""
    centres = _spread_out(z, components, seed)
    features = _features(z)
    for _ in range(LLOYD):
        share = torch.nn.functional.one_hot(torch.cdist(z, centres).argmin(2), components).to(z.dtype)
        started = _maximised(share, features, z.shape[2])
        centres = torch.where((share.sum(1) > 0).unsqueeze(2), started.mean.to(z.dtype), centres)
    return started


def _spread_out(z: Tensor, components: int, seed: int) -> Tensor:
    """Greedy k-means++ centres (Arthur & Vassilvitskii 2007): of a few far draws, the one that helps most."""
    n, k, _ = z.shape
    rows = torch.arange(n)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(components, CANDIDATES, generator=generator)
    nearest = z.square().sum(2) + 1
    centres = []
    for draw in draws:
        reach = nearest.cumsum(1)
        at = torch.searchsorted(reach, (draw * reach[:, -1:]).contiguous()).clamp_max(k - 1)
        candidates = z[rows.unsqueeze(1), at]
        left = torch.minimum(torch.cdist(z, candidates).square(), nearest.unsqueeze(2))
        best = left.sum(1).argmin(1)
        nearest = left[rows, :, best]
        centres.append(candidates[rows, best])
    return torch.stack(centres, dim=1)


def _features(z: Tensor) -> Tensor:
    """1, every value and every product of two: ``(n_targets, k, 1 + d + d (d + 1) / 2)``."""
    rows, columns = torch.triu_indices(z.shape[2], z.shape[2])
    one = z.new_ones(*z.shape[:2], 1)
    return torch.cat([one, z, z[:, :, rows] * z[:, :, columns]], dim=2)
