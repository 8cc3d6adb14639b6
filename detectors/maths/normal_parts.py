"""What a window's surprise under a normal distribution is made of: its energy, its level, its steps."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.maths import surprise_parts
from detectors.maths.moments import LARGEST
from detectors.maths.normal import Normal


def raw_parts(normal: Normal, values: Tensor, mask: Tensor | None) -> Tensor:
    """Parts as theory standardises them, ``(n_targets, k, 2 + window)``: window, level, steps."""
    n_channels = values.shape[3]
    x = _about_mean(normal, values, mask)
    level = (x @ normal.level_filter(n_channels).to(torch.float32)).square().sum(2)
    step, energy = surprise_parts.steps_of(
        x @ normal.whitener.transpose(1, 2).to(torch.float32), mask, n_channels
    )
    window, level = (
        surprise_parts.standard(energy, _observed(values, mask)),
        surprise_parts.standard(level, n_channels),
    )
    return torch.cat([window.unsqueeze(2), level.unsqueeze(2), step], dim=2)


def energy_part(normal: Normal, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the window's part alone, ``(n_targets, k)``."""
    white = _about_mean(normal, values, mask) @ normal.whitener.transpose(1, 2).to(torch.float32)
    return surprise_parts.standard(white.square_().sum(2), _observed(values, mask))


def _about_mean(normal: Normal, values: Tensor, mask: Tensor | None) -> Tensor:
    """The windows less their mean, missing steps at their conditional mean, ``(n_targets, k, size)``."""
    x = values.flatten(2).clamp(-LARGEST, LARGEST).sub_(normal.mean.unsqueeze(1).to(torch.float32))
    return x if mask is None else normal.filled(x, mask.flatten(2))


def _observed(values: Tensor, mask: Tensor | None) -> Tensor | int:
    """How many values of each window were observed, ``(n_targets, k)``."""
    return values.shape[2] * values.shape[3] if mask is None else (~mask).flatten(2).sum(2)
