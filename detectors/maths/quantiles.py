"""Quantiles of series with missing steps: of all steps, or of every phase of a season."""

from __future__ import annotations

import torch
from torch import Tensor

NORMAL_IQR = 1.349
"""Interquartile range of a standard normal distribution."""


def robust_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return median and ``IQR / 1.349`` of every channel, ``(n_targets, n_channels)``; 0 where all is NaN.

    Sorted here, because `torch.nanquantile` refuses more than 16 million values.

    Args:
        values: shape ``(n_targets, n_points, n_channels)``, NaN where a step does not count.
    """
    x = values.transpose(1, 2).sort(dim=2).values
    count = (~x.isnan()).sum(2, keepdim=True)
    first = torch.zeros_like(count)
    low, median, high = (_at_share(x, first, count, q).squeeze(2).nan_to_num(0.0) for q in (0.25, 0.5, 0.75))
    return median, (high - low) / NORMAL_IQR


def group_medians(values: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Return every group's median, ``(n_targets, n_groups, n_channels)``; NaN where it has no step.

    Args:
        values: shape ``(n_targets, n_points, n_channels)``, NaN where a step does not count.
        group: shape ``(n_targets, n_points)``, int64, the group of every step, from 0.
        n_groups: groups there are.
    """
    x = values.transpose(1, 2)
    own = torch.where(x.isnan(), n_groups, group.unsqueeze(1))
    x, order = x.sort(dim=2)
    own, order = own.gather(2, order).sort(dim=2, stable=True)
    count = torch.zeros(*x.shape[:2], n_groups + 1, dtype=torch.int64)
    count = count.scatter_add_(2, own, torch.ones_like(own))[:, :, :n_groups]
    found = _at_share(x.gather(2, order), count.cumsum(2) - count, count, 0.5)
    return found.masked_fill(count == 0, torch.nan).transpose(1, 2)


def _at_share(x: Tensor, first: Tensor, count: Tensor, share: float) -> Tensor:
    """Quantile of each run of ``count`` sorted values from ``first`` on; anything where it is 0."""
    place = share * (count - 1).clamp_min(0).to(torch.float64)
    below = place.floor().to(torch.int64)
    above = torch.minimum(below + 1, count - 1)
    low, high = (x.gather(2, (first + at).clamp(0, x.shape[2] - 1)) for at in (below, above))
    return low.lerp(high, (place - below).to(x.dtype))
