"""Densities learned by telling data from noise whose density is known (Gutmann & Hyvarinen 2010).

The noise is a mixture of normal distributions about a whitened latent, as wide as the data, and wider: where
it lies farther out than the data do, what is learned there is that there is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from detectors.maths.normal import log_standard

VARIANCES = (1.0, 2.0, 4.0)
"""Of the mixture's components, in those of the data: equal shares."""

LEAP = 0.4
"""Squared length of a Langevin step in each direction: nine in ten are taken where the density is normal."""


def noise(n: int, latent: int, generator: torch.Generator) -> Tensor:
    """Return n draws, the components in turn, shape ``(n, latent)``."""
    spread = torch.tensor(VARIANCES).sqrt().repeat(n // len(VARIANCES) + 1)[:n]
    return spread.unsqueeze(1) * torch.randn(n, latent, generator=generator)


def log_noise(z: Tensor) -> Tensor:
    """Return the noise's log-density at latents ``(n_targets, n, latent)``, shape ``(n_targets, n)``."""
    components = [log_standard(z / math.sqrt(v)) - 0.5 * z.shape[2] * math.log(v) for v in VARIANCES]
    return torch.stack(components).logsumexp(0) - math.log(len(VARIANCES))


def loss(data: Tensor, drawn: Tensor) -> Tensor:
    """Return how badly data and noise are told apart, in nats for each datum and the noise beside it.

    It is least where the ratios are those of the two densities.

    Args:
        data: log-density less ``log_noise`` at data, shape ``(n_targets, n)``.
        drawn: the same at noise, ``(n_targets, k)``.
    """
    each = drawn.shape[1] / data.shape[1]
    mistaken = softplus(drawn - math.log(each)).mean(1, keepdim=True)
    return softplus(math.log(each) - data) + each * mistaken


def langevin(
    log_density: Callable[[Tensor], Tensor], z: Tensor, rounds: int, generator: torch.Generator
) -> Tensor:
    """Return latents moved along a density, as many steps as rounds; members share the noise.

    Every step follows the slope and adds noise, and is taken back as often as leaves the density as it is
    (Roberts & Tweedie 1996, doi 10.2307/3318418).

    Args:
        log_density: maps latents ``(n_targets, n, latent)`` to ``(n_targets, n)``, up to a constant.
        z: where to start from, same shape.
        rounds: steps.
        generator: draws the noise.
    """
    n, latent = z.shape[1:]
    log_here, drift = _height_and_drift(log_density, z)
    for _ in range(rounds):
        there = z + drift + math.sqrt(LEAP) * torch.randn(n, latent, generator=generator)
        log_there, back = _height_and_drift(log_density, there)
        forth = (there - z - drift).square().sum(2) - (z - there - back).square().sum(2)
        taken = torch.rand(n, generator=generator).log() < log_there - log_here + forth / (2 * LEAP)
        log_here = torch.where(taken, log_there, log_here)
        z, drift = (torch.where(taken.unsqueeze(2), a, b) for a, b in ((there, z), (back, drift)))
    return z


def _height_and_drift(log_density: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        height = log_density(z)
        (slope,) = torch.autograd.grad(height.sum(), z)
    return height.detach(), 0.5 * LEAP * slope
