"""Kernels of a density in d dimensions, each of one bandwidth and the same variance (Silverman 1986)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["gaussian", "tophat", "epanechnikov"]

KERNELS: tuple[Kernel, ...] = ("gaussian", "tophat", "epanechnikov")


def radius(kernel: Kernel, d: int) -> float:
    """Return how far the kernel reaches, in bandwidths; that of equal variance along every axis."""
    if kernel == "gaussian":
        return math.inf
    return math.sqrt(d + 2) if kernel == "tophat" else math.sqrt(d + 4)


def log_kernel(squares: Tensor, kernel: Kernel, d: int) -> Tensor:
    """Return the log-density of a kernel of bandwidth 1 at squared distances; minus infinity outside."""
    if kernel == "gaussian":
        return torch.add(squares.new_tensor(-0.5 * d * math.log(2 * math.pi)), squares, alpha=-0.5)
    reach = radius(kernel, d)
    ball = 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1) + d * math.log(reach)
    share = squares / reach**2
    if kernel == "tophat":
        return torch.where(share <= 1, -ball, -math.inf)
    return (1 - share).clamp_min(0).log() + math.log(1 + d / 2) - ball


def kernel_noise(kernel: Kernel, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return draws from a kernel of bandwidth 1; the last axis of ``shape`` is its dimension."""
    d = shape[-1]
    normal = torch.randn(shape, generator=generator)
    if kernel == "gaussian":
        return normal
    direction = normal / normal.square().sum(-1, keepdim=True).sqrt()
    if kernel == "tophat":
        inside = torch.rand(shape[:-1], generator=generator) ** (1 / d)
    else:
        # The epanechnikov kernel in d dimensions is the shadow of a uniform ball's surface in d + 4 less the
        # rest, so its squared radius is beta distributed with d / 2 and 2.
        inside = _beta(d, shape[:-1], generator).sqrt()
    return direction * (radius(kernel, d) * inside).unsqueeze(-1)


def _beta(d: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Beta(d / 2, 2) from chi-squared variables with d and 4 degrees of freedom."""
    first = torch.randn(*shape, d, generator=generator).square().sum(-1)
    second = torch.randn(*shape, 4, generator=generator).square().sum(-1)
    return first / (first + second)


def scott(samples: Tensor, d: int) -> Tensor:
    """Return the bandwidth for unit variance and this many independent samples (Scott 1992)."""
    return samples.clamp_min(2).pow(-1 / (d + 4))
