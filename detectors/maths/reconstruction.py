"""How TadGAN turns reconstructions and critic values into scores, step by step.

Geiger et al. 2020, arXiv 2009.07769, section IV. Everything runs along the last axis and takes any
leading axes, so that a window is scored like a short series. Means, deviations and quartiles are
learned by `ErrorScale.of` and `CriticScale.of` and passed in: a score never depends on its stretch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ErrorKind = Literal["point", "area", "dtw"]
Combination = Literal["mult", "sum", "rec"]

WIDTH = 10
"""Steps of the pieces whose areas or shapes are compared."""

CHUNK = 4_000_000
"""Values of one temporary: 32 MB in double precision."""


@dataclass(frozen=True)
class ErrorScale:
    """Mean and standard deviation of errors, broadcastable to them."""

    mean: Tensor
    sd: Tensor

    @classmethod
    def of(cls, errors: Tensor) -> ErrorScale:
        """Learn from errors along the last axis."""
        return cls(errors.mean(dim=-1, keepdim=True), errors.std(dim=-1, keepdim=True, correction=0))

    def z(self, errors: Tensor) -> Tensor:
        """Return the errors in standard deviations from the mean."""
        return (errors - self.mean) / self.sd.clamp(min=1e-12)


@dataclass(frozen=True)
class CriticScale:
    """Where the critic's values lie: mean of their middle half, deviation of all."""

    mean: Tensor
    sd: Tensor

    @classmethod
    def of(cls, critic: Tensor) -> CriticScale:
        """Learn from critic values along the last axis."""
        low, high = torch.quantile(
            critic, torch.tensor([0.25, 0.75], dtype=critic.dtype), dim=-1, keepdim=True
        )
        middle = (critic >= low) & (critic <= high)
        mean = torch.where(middle, critic, 0.0).sum(dim=-1, keepdim=True) / middle.sum(dim=-1, keepdim=True)
        return cls(mean, critic.std(dim=-1, keepdim=True, correction=0))

    def score(self, critic: Tensor) -> Tensor:
        """Return how unusual critic values are; 1 is the most usual."""
        return (critic - self.mean).abs() / self.sd.clamp(min=1e-12) + 1


def covering(values: Tensor) -> Tensor:
    """Return for every step what the windows covering it hold there, the newest window first.

    Args:
        values: shape ``(n_windows, window)``.

    Returns:
        Shape ``(n_windows + window - 1, window)``, NaN where fewer windows cover the step.
    """
    n, window = values.shape
    back = torch.arange(window)
    which = torch.arange(n + window - 1)[:, None] - back
    inside = (which >= 0) & (which < n)
    return torch.where(inside, values[which.clamp(0, n - 1), back], torch.nan)


def median_reconstruction(values: Tensor) -> Tensor:
    """Return for every step the median over the windows that cover it, ``(n_windows, window)`` in."""
    rows = torch.split(covering(values), max(1, CHUNK // values.shape[1]))
    return torch.cat([torch.nanquantile(part, 0.5, dim=1) for part in rows])


def errors_of(kind: ErrorKind, y: Tensor, y_hat: Tensor, width: int = WIDTH) -> Tensor:
    """Return the reconstruction error of every step, of the kind named."""
    if kind == "point":
        return (y - y_hat).abs()
    if kind == "area":
        return area_error(y, y_hat, width)
    if kind == "dtw":
        return dtw_error(y, y_hat, width)
    raise ValueError(f"unknown error {kind!r}; expected point, area or dtw")


def area_error(y: Tensor, y_hat: Tensor, width: int = WIDTH) -> Tensor:
    """Return the difference of the areas under both around every step (trapezoids over ``width`` steps)."""
    gap = y - y_hat
    first, last = _centred(gap.shape[-1], width)
    ends = gap.index_select(-1, first) + gap.index_select(-1, last)
    return (_sums(gap, first, last) - 0.5 * ends).abs()


def dtw_error(y: Tensor, y_hat: Tensor, width: int = WIDTH, *, as_reference: bool = False) -> Tensor:
    """Return the dynamic-time-warping distance of the pieces around every step.

    Args:
        y: shape ``(..., n)``.
        y_hat: same shape.
        width: steps of a piece, made odd by one more; pieces are padded with 0 at the ends.
        as_reference: write every distance half a piece late and leave the last piece's length out,
            as the authors' code does; for comparison with its figures only.
    """
    half = width // 2
    left, right = (torch.nn.functional.pad(x, (half, half)).unfold(-1, 2 * half + 1, 1) for x in (y, y_hat))
    distance = warped_distance(left, right)
    if not as_reference:
        return distance
    late = torch.zeros_like(distance)
    n = max(0, distance.shape[-1] - (2 * half + 1))
    late[..., half : half + n] = distance[..., :n]
    return late


def warped_distance(left: Tensor, right: Tensor) -> Tensor:
    """Return the dynamic-time-warping distance along the last axis: root of the least sum of squares."""
    row: list[Tensor] = []
    for i in range(left.shape[-1]):
        above, row = row, []
        for j in range(right.shape[-1]):
            before = ([above[j]] if i else []) + ([row[j - 1]] if j else [])
            before += [above[j - 1]] if i and j else []
            cost = (left[..., i] - right[..., j]).square()
            row.append(cost + _least(before) if before else cost)
    return row[-1].sqrt()


def smoothed(values: Tensor, width: int) -> Tensor:
    """Return the centred mean over ``width`` steps, over fewer at the ends."""
    first, last = _centred(values.shape[-1], max(1, width))
    return _sums(values, first, last) / (last - first + 1)


def smoothing_width(n: int) -> int:
    """Return the width for a series of n steps: one in a hundred, at least one."""
    return max(1, n // 100)


def critic_at_steps(critic: Tensor, window: int) -> Tensor:
    """Return for every step the likeliest of the critic values of the windows that cover it.

    The likeliest has the highest kernel density (Gaussian, Scott's bandwidth); of equals, the
    newest window's.

    Args:
        critic: shape ``(n_windows,)``, float64.
        window: steps of a window.

    Returns:
        Shape ``(n_windows + window - 1,)``.
    """
    rows = torch.split(covering(critic[:, None].expand(-1, window)), max(1, CHUNK // window**2))
    return torch.cat([_likeliest(part) for part in rows])


def _likeliest(values: Tensor) -> Tensor:
    """Return one value of each row of ``(n, window)``, NaN left out."""
    known = ~values.isnan()
    count = known.sum(dim=1, keepdim=True)
    filled = torch.where(known, values, 0.0)
    mean = filled.sum(dim=1, keepdim=True) / count
    spread = torch.where(known, values - mean, 0.0).square().sum(dim=1, keepdim=True)
    bandwidth = (spread / (count - 1).clamp(min=1)).sqrt() * count.to(values.dtype) ** -0.2
    apart = (filled[:, :, None] - filled[:, None, :]) / bandwidth.clamp(min=1e-300)[:, :, None]
    density = (torch.exp(-0.5 * apart.square()) * known[:, None, :]).sum(dim=2)
    density = torch.where(known, density, -1.0)
    # Sums in another order differ in their last digits: that close is a tie, and the newest wins.
    best = density >= density.amax(dim=1, keepdim=True) * (1 - 1e-12)
    return filled.gather(1, best.to(torch.int8).argmax(dim=1, keepdim=True)).squeeze(1)


def combined(kind: Combination, critic: Tensor, error_z: Tensor) -> Tensor:
    """Return critic score and reconstruction error as one, in the way named.

    Args:
        kind: ``mult`` their product, ``sum`` half of each above its least, ``rec`` the error alone.
        critic: from `CriticScale.score`, 1 and up.
        error_z: errors in standard deviations; what is below the mean counts as the mean.
    """
    error = error_z.clamp(min=0.0) + 1
    if kind == "mult":
        return critic * error
    if kind == "sum":
        return 0.5 * (critic - 1) + 0.5 * (error - 1)
    if kind == "rec":
        return error
    raise ValueError(f"unknown combination {kind!r}; expected mult, sum or rec")


def _centred(n: int, width: int) -> tuple[Tensor, Tensor]:
    """Return first and last step of the piece around every step; an even one leans to the past."""
    first = torch.arange(n) - width // 2
    return first.clamp(min=0), (first + width - 1).clamp(0, n - 1)


def _sums(values: Tensor, first: Tensor, last: Tensor) -> Tensor:
    total = torch.nn.functional.pad(values.cumsum(dim=-1), (1, 0))
    return total.index_select(-1, last + 1) - total.index_select(-1, first)


def _least(tensors: list[Tensor]) -> Tensor:
    least = tensors[0]
    for other in tensors[1:]:
        least = torch.minimum(least, other)
    return least
