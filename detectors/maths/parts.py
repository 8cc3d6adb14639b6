"""Surprises of different kinds, brought to one scale, and the largest of them as a score.

A window-level surprise finds what lasts, a step's own surprise finds what is short; added up, each drowns in
the other's noise. So every part is first made about standard normal by theory (Wilson & Hilferty 1931), then
scaled by what it does on training windows far out in its tail, where the line will be; the score of a step is
the largest part.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from detectors.base import Windows
from detectors.maths.linear import LinearBase
from detectors.maths.normal import Normal

DRAWN = 1024
"""Training windows per target from which the noise of each part is read."""

TAIL = 0.995
"""Quantile at which the parts are made equal: far out, yet held by 5 of 1,024 windows."""

NORMAL_TAIL = 2.576
"""That quantile of a standard normal distribution."""

SMALLEST_SCALE = 0.5
"""A part that hardly moves on training windows counts at most double."""

Raw = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Values, mask and start of windows to their parts: window-level ones first, then one per step.

Shapes ``(n, k, window, n_channels)`` twice and ``(n, k)``; to ``(n, k, parts + window)``.
"""


def standard(chi_squared: Tensor, freedom: Tensor | float) -> Tensor:
    """Return chi-squared values as about standard normal ones (Wilson & Hilferty 1931)."""
    k = torch.as_tensor(freedom, dtype=chi_squared.dtype).clamp_min(1)
    return ((chi_squared / k).pow(1 / 3) - (1 - 2 / (9 * k))) / (2 / (9 * k)).sqrt()


def scale_of(raw: Raw, windows: Windows) -> dict[str, Tensor]:
    """Return median and scale of each part on training windows, as state: ``(n_targets, parts + 1)`` each.

    The steps share the last one. Members without training windows keep the scale of theory.
    """
    index = windows.drawn(DRAWN)
    values, mask = windows.gathered(index)
    parts = raw(values, mask, windows.start.unsqueeze(1) + index)
    first = parts.shape[2] - windows.window
    position = (torch.arange(DRAWN) % windows.window).view(1, -1, 1).expand(windows.n_targets, -1, 1)
    drawn = torch.cat([parts[:, :, :first], parts[:, :, first:].gather(2, position)], dim=2)
    middle, tail = drawn.quantile(torch.tensor([0.5, TAIL]), dim=1)
    scale = ((tail - middle) / NORMAL_TAIL).clamp_min(SMALLEST_SCALE)
    empty = (windows.weight.sum(1) == 0).unsqueeze(1)
    return {"part_middle": torch.where(empty, 0.0, middle), "part_scale": torch.where(empty, 1.0, scale)}


def scaled(parts: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Return parts in the units of ``scale_of``; same shape."""
    steps = parts.shape[2] - state["part_middle"].shape[1]
    index = torch.arange(parts.shape[2]).clamp_max(parts.shape[2] - 1 - steps)
    middle, scale = state["part_middle"][:, None, index], state["part_scale"][:, None, index]
    return (parts - middle) / scale


def largest(parts: Tensor, window: int) -> Tensor:
    """Return the score of every step, ``(n_targets, k, window)``: its own part or a window's, the larger."""
    first = parts.shape[2] - window
    return torch.maximum(parts[:, :, :first].amax(2, keepdim=True), parts[:, :, first:])


def latent_parts(
    base: LinearBase, normal: Normal, values: Tensor, mask: Tensor, log_latent: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the parts of a density on a latent: latent, rest, steps; ``(n_targets, k, 2 + window)``.

    Args:
        base: the linear base of the latent.
        normal: the base as a normal distribution; gives the innovations, and fills missing steps.
        values: shape ``(n_targets, k, window, n_channels)``.
        mask: same shape, True where missing.
        log_latent: maps latents ``(n_targets, k, latent)`` to their log-density ``(n_targets, k)``.
    """
    missing = mask.flatten(2)
    x = base.about_mean(values)
    if bool(missing.any()):
        x = normal.completed(x, missing).x.to(torch.float32)
    z, off = base.split(x)
    # Twice the negative log-density, less that of a standard normal's peak, is chi-squared if z is standard.
    energy = (-2 * log_latent(z) - base.latent * math.log(2 * math.pi)).clamp_min(0)
    off_axes = (base.off_axes - missing.sum(2)).clamp_min(1)
    rest = standard(off / base.noise.unsqueeze(1), off_axes) if base.off_axes else torch.zeros_like(off)
    steps = (x @ normal.whitener.transpose(1, 2).to(torch.float32)).square().view(*mask.shape).sum(3)
    step = torch.where(mask.all(3), 0.0, standard(steps, values.shape[3]))
    return torch.cat([standard(energy, base.latent).unsqueeze(2), rest.unsqueeze(2), step], dim=2)
