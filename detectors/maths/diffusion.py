"""Noise levels of diffusion, and what follows from a denoiser of them: bound, samples, slope of the density.

Noise is added to clean values in steps until nothing else is left; whoever knows what to expect of the clean
values behind noisy ones can go the way back (Ho, Jain & Abbeel 2020, arXiv 2006.11239).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

OFFSET = 0.008
"""Nichol & Dhariwal 2021, section 3.2: the first step's noise is not too small to be seen."""

LARGEST_BETA = 0.999
"""Same section: the last step does not divide by zero."""

Denoise = Callable[[Tensor, int], Tensor]
"""Noisy values ``(n_targets, n, d)`` and their noise level to the clean ones to be expected, same shape."""


@dataclass(frozen=True)
class Way:
    """The step from a noise level ``t`` to a lower one ``s``: ``clean * x0 + noisy * x_t``, and variances.

    Attributes:
        clean: what the clean values weigh in the mean.
        noisy: what the noisy values weigh in the mean.
        posterior: variance of the way back where the clean values are known.
        reverse: variance of the way back as it is modelled.
    """

    clean: float
    noisy: float
    posterior: float
    reverse: float


@dataclass(frozen=True)
class Schedule:
    """Noise levels 0 (clean) to ``steps`` (noise alone).

    Attributes:
        kept: shape ``(steps + 1,)``, float64, share of the variance that is still the clean values' (the
            paper's cumulated alpha), falling from 1.
    """

    kept: Tensor

    @classmethod
    def cosine(cls, steps: int) -> Schedule:
        """Return the schedule of Nichol & Dhariwal 2021 (arXiv 2102.09672, equation 17)."""
        turn = (torch.arange(steps + 1, dtype=torch.float64) / steps + OFFSET) / (1 + OFFSET)
        share = (turn * math.pi / 2).cos().square()
        left = (share[1:] / share[:-1]).clamp_min(1 - LARGEST_BETA)
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), left.cumprod(0)]))

    @property
    def steps(self) -> int:
        return len(self.kept) - 1

    @cached_property
    def signal(self) -> Tensor:
        """What clean values are multiplied by at every level."""
        return self.kept.sqrt()

    @cached_property
    def noise(self) -> Tensor:
        """Standard deviation of the noise at every level."""
        return (1 - self.kept).sqrt()

    @cached_property
    def angle(self) -> Tensor:
        """Every level as an angle, from 0 to nearly a quarter turn; its sine is the noise."""
        return self.signal.acos()

    def noised(self, x: Tensor, noise: Tensor, t: int) -> Tensor:
        """Return clean values at noise level ``t``, of standard normal noise that is given."""
        return float(self.signal[t]) * x + float(self.noise[t]) * noise

    def way(self, t: int, s: int) -> Way:
        """Return the step from level ``t`` down to ``s`` (Ho 2020, equations 6 and 7).

        Of the two variances that section 3.2 offers, the larger: exact where clean values are
        standard normal.
        """
        above, below = float(self.kept[t]), float(self.kept[s])
        beta = 1 - above / below
        return Way(
            math.sqrt(below) * beta / (1 - above),
            math.sqrt(1 - beta) * (1 - below) / (1 - above),
            beta * (1 - below) / (1 - above),
            beta,
        )

    def levels(self, n: int) -> list[int]:
        """Return ``n`` levels, evenly from the highest down, and 0 behind them."""
        return [self.steps - i * self.steps // n for i in range(n)] + [0]

    def nearest(self, kept: float) -> int:
        """Return the noisy level at which about this share of the variance is the clean values'."""
        return 1 + int((self.kept[1:] - kept).abs().argmin())


def shared_noise(n: int, size: int, seed: int) -> Tensor:
    """Return ``n`` fixed vectors of normal noise, shape ``(n, size)``, each of the squared length ``size``.

    That is the mean squared length: sums of squares come out as over many draws.
    """
    noise = torch.randn(n, size, generator=torch.Generator().manual_seed(seed))
    return noise * (math.sqrt(size) / noise.norm(dim=1, keepdim=True).clamp_min(1e-12))


@dataclass(frozen=True)
class Missed:
    """What partial denoising misses of clean values, beyond what noise alone makes it miss.

    Attributes:
        slope: shape ``(n_targets, n, d)``, by how much it misses on average, per variance of the noise: the
            negative slope of the blurred log-density, and of standard normal values they themselves.
        energy: shape ``(n_targets, n)``, the mean square of that, and of those their squared length.
    """

    slope: Tensor
    energy: Tensor


def missed(schedule: Schedule, denoise: Denoise, x: Tensor, noise: Tensor, levels: Sequence[int]) -> Missed:
    """Return what partial denoising misses, on average over a few levels.

    Args:
        x: clean values, shape ``(n_targets, n, d)``.
        noise: shape ``(steps, d)``, of every level, from `shared_noise`.
        levels: noise levels, from 1.
    """
    slope, energy = torch.zeros_like(x), torch.zeros(x.shape[:2])
    for t in levels:
        kept = float(schedule.kept[t])
        by = _errors(schedule, denoise, x, noise[t - 1], t)
        slope += (by[0] + by[1]) / (2 * (1 - kept))
        alone = kept * (1 - kept) * x.shape[2]
        energy += (_mean_square(by) - alone) / (1 - kept) ** 2
    return Missed(slope / len(levels), energy.clamp_min_(0) / len(levels))


def _errors(schedule: Schedule, denoise: Denoise, x: Tensor, noise: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """By how much values are missed behind the same noise of either sign: what is odd in it cancels out."""
    first, second = (x - denoise(schedule.noised(x, way, t), t) for way in (noise, -noise))
    return first, second


def _mean_square(by: tuple[Tensor, Tensor]) -> Tensor:
    return (by[0].square() + by[1].square()).sum(2) / 2


def bound(schedule: Schedule, denoise: Denoise, x: Tensor, noise: Tensor) -> Tensor:
    """Return the variational lower bound on the log-density of clean values, in nats, ``(n_targets, n)``.

    Ho 2020, equation 5. Exact for a standard normal distribution and its denoiser.

    Args:
        x: clean values, shape ``(n_targets, n, d)``.
        noise: shape ``(steps, d)``, for every level; its expectation is taken over both signs.
    """
    size, last = x.shape[2], float(schedule.kept[-1])
    cost = 0.5 * (last * x.square().sum(2) + size * (-last - math.log1p(-last)))
    for t in range(1, schedule.steps + 1):
        way = schedule.way(t, t - 1)
        square = _mean_square(_errors(schedule, denoise, x, noise[t - 1], t))
        cost = cost + way.clean**2 / (2 * way.reverse) * square + size * _spread_cost(way)
    return -cost


def _spread_cost(way: Way) -> float:
    """What a step costs per value though the clean ones are known: a divergence, at last a density."""
    if way.posterior == 0:
        return 0.5 * math.log(2 * math.pi * way.reverse)
    ratio = way.posterior / way.reverse
    return 0.5 * (ratio - 1 - math.log(ratio))


def ancestral(schedule: Schedule, denoise: Denoise, noise: Tensor) -> Tensor:
    """Return samples, same shape as the noise of one level, by the whole chain (Ho 2020, algorithm 2).

    Args:
        noise: shape ``(steps, n_targets, n, d)``, standard normal; the first is where the chain begins.
    """
    x = noise[0]
    for i, t in enumerate(range(schedule.steps, 0, -1)):
        way = schedule.way(t, t - 1)
        x = way.clean * denoise(x, t) + way.noisy * x
        if t > 1:
            x = x + math.sqrt(way.reverse) * noise[i + 1]
    return x


def shortened(schedule: Schedule, denoise: Denoise, noise: Tensor, levels: Sequence[int]) -> Tensor:
    """Return samples by the deterministic chain over a few levels (DDIM, Song 2021, arXiv 2010.02502).

    Args:
        noise: shape ``(n_targets, n, d)``, standard normal, where the chain begins.
        levels: falling, from the highest to 0.
    """
    x = noise
    for t, s in pairwise(levels):
        clean = denoise(x, t)
        left = (x - float(schedule.signal[t]) * clean) / float(schedule.noise[t])
        x = schedule.noised(clean, left, s)
    return x
