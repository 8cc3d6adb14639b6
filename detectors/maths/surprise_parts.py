"""Surprises of different kinds, brought to one scale and joined to a score.

A window's surprise finds what lasts, a step's own surprise finds what is short; in one sum of squares each
drowns in the other's noise. So every part is made about standard normal by theory (Fisher's root of a
chi-squared), then measured from its median in units of what it does on training windows far out in its tail,
where the line will be. The score of a step is the length of the vector of its parts above their medians:
nearly the largest one, a little more where several agree, so that the peak lies inside an anomaly.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from detectors.maths.linear import LinearBase
from detectors.maths.normal import Normal
from detectors.windows import Windows

DRAWN = 1024
"""Training windows per target from which the noise of each part is read."""

TAIL = 0.995
"""Quantile at which the parts are made equal: far out, yet held by 5 of 1,024 windows."""

NORMAL_TAIL = 2.576
"""That quantile of a standard normal distribution."""

SMALLEST_SCALE = 0.5
"""A part that hardly moves on training windows counts at most double."""

TINY = 1e-12
"""Added to every squared score: vectorised square roots take several times as long where there are zeros."""

Raw = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""Values, mask (None: nothing missing) and start of windows to their parts: window-level, then one per step.

Shapes ``(n, k, window, n_channels)`` twice and ``(n, k)``; to ``(n, k, parts + window)``.
"""


def standard(chi_squared: Tensor, freedom: Tensor | float) -> Tensor:
    """Return chi-squared values as about standard normal ones (Fisher 1925): linear in the deviation."""
    k = torch.as_tensor(freedom, dtype=chi_squared.dtype).clamp_min(1)
    return (2 * chi_squared).sqrt() - (2 * k - 1).sqrt()


def scale_of(raw: Raw, windows: Windows) -> dict[str, Tensor]:
    """Return median and scale of each part on training windows, as state: ``(n_targets, parts + 1)`` each.

    The steps share the last one. Members without training windows keep the scale of theory.
    """
    index = windows.drawn(DRAWN)
    values, mask = windows.gathered(index)
    parts = raw(values, mask if bool(mask.any()) else None, windows.start.unsqueeze(1) + index)
    first = parts.shape[2] - windows.window
    position = (torch.arange(DRAWN) % windows.window).view(1, -1, 1).expand(windows.n_targets, -1, 1)
    drawn = torch.cat([parts[:, :, :first], parts[:, :, first:].gather(2, position)], dim=2)
    middle, tail = drawn.quantile(torch.tensor([0.5, TAIL]), dim=1)
    scale = ((tail - middle) / NORMAL_TAIL).clamp_min(SMALLEST_SCALE)
    empty = (windows.weight.sum(1) == 0).unsqueeze(1)
    return {"part_middle": torch.where(empty, 0.0, middle), "part_scale": torch.where(empty, 1.0, scale)}


def scale_by_member(
    raw_of: Callable[[dict[str, Tensor]], Raw], state: dict[str, Tensor], windows: Windows
) -> dict[str, Tensor]:
    """Return ``scale_of`` a bank, one member at a time, so that memory stays bounded.

    Args:
        raw_of: maps the state of some members to what maps their windows to parts.
        state: what was learned of all members.
        windows: the training windows of all members.
    """
    found = []
    for i in range(windows.n_targets):
        member = {name: tensor[i : i + 1] for name, tensor in state.items()}
        found.append(scale_of(raw_of(member), windows.members(slice(i, i + 1))))
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def scaled(parts: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Return parts in the units of ``scale_of``; same shape."""
    middle, scale = state["part_middle"].unsqueeze(1), state["part_scale"].unsqueeze(1)
    steps = parts.shape[2] - middle.shape[2] + 1
    return torch.cat(
        [
            (parts[:, :, :-steps] - middle[:, :, :-1]) / scale[:, :, :-1],
            (parts[:, :, -steps:] - middle[:, :, -1:]) / scale[:, :, -1:],
        ],
        dim=2,
    )


def combined(parts: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Return the score of every step, ``(n_targets, k, window)``, from the parts of theory."""
    first = state["part_middle"].shape[1] - 1
    own = own_square(parts[:, :, first:], state)
    return own.add_(shared_square(parts[:, :, :first], state).unsqueeze(2)).sqrt_()


def whole(part: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Return the score all steps of a window share, ``(n_targets, k, 1)``, where it is judged as a whole.

    Args:
        part: shape ``(n_targets, k)``, the first of the parts of theory: the whole window's.
    """
    middle, scale = state["part_middle"][:, :1], state["part_scale"][:, :1]
    return ((part - middle) / scale).unsqueeze(2)


def shared_square(parts: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Return the squared length of what the window-level parts ``(n_targets, k, parts)`` add to a score."""
    middle, scale = state["part_middle"][:, None, :-1], state["part_scale"][:, None, :-1]
    return ((parts - middle) / scale).clamp_min_(0).square_().sum(2).add_(TINY)


def own_square(step: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Return the square of what the steps' own parts, any shape behind ``n_targets``, add to their scores."""
    shape = (-1, *[1] * (step.ndim - 1))
    middle, scale = state["part_middle"][:, -1].view(shape), state["part_scale"][:, -1].view(shape)
    return (step - middle).clamp_min_(0).div_(scale).square_()


def missing_in(windows: Windows) -> Tensor | None:
    """Mask of the windows that can be scored, None where nothing is missing."""
    if not bool(windows.missing.any()):
        return None
    return windows.mask & windows.scorable[:, :, None, None]


def steps_of(innovations: Tensor, mask: Tensor | None, n_channels: int) -> tuple[Tensor, Tensor]:
    """Return every step's part ``(n_targets, k, window)``, and the window's energy ``(n_targets, k)``."""
    squares = innovations.square_()
    if n_channels > 1:
        squares = squares.view(*squares.shape[:2], -1, n_channels).sum(3)
    energy = squares.sum(2)
    step = squares.mul_(2).sqrt_().sub_((2 * n_channels - 1) ** 0.5)
    return (step if mask is None else step.masked_fill_(mask.all(3), 0.0)), energy


def latent_surprise(log_density: Tensor, latent: int) -> Tensor:
    """Return log-densities of a whitened latent as about standard normal surprises; same shape."""
    # Twice the negative log-density, less that of a standard normal's peak, is chi-squared if z is standard.
    energy = (-2 * log_density - latent * math.log(2 * math.pi)).clamp_min(0)
    return standard(energy, latent)


def latent_parts(
    base: LinearBase,
    normal: Normal,
    values: Tensor,
    mask: Tensor | None,
    log_latent: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the parts of a density on a latent: latent, rest, steps; ``(n_targets, k, 2 + window)``.

    Args:
        base: the linear base of the latent.
        normal: the base as a normal distribution; gives the innovations, and fills missing steps.
        values: shape ``(n_targets, k, window, n_channels)``.
        mask: same shape, True where missing; None where nothing is.
        log_latent: maps latents ``(n_targets, k, latent)`` to their log-density ``(n_targets, k)``.
    """
    return surprise_parts(
        base, normal, values, mask, lambda z, _: latent_surprise(log_latent(z), base.latent)
    )


def surprise_parts(
    base: LinearBase,
    normal: Normal,
    values: Tensor,
    mask: Tensor | None,
    surprise: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the same parts from a window's surprise that is about standard normal by theory.

    ``surprise`` maps latents and the squared norms of what lies off the axes, ``(n_targets, k)``; the other
    arguments are those of ``latent_parts``.
    """
    x, gone = observed(base, normal, values, mask)
    z, off = base.split(x)
    whitener = normal.whitener.transpose(1, 2).to(torch.float32)
    step, energy = steps_of(x @ whitener, mask, values.shape[3])
    rest = rest_of(base, energy, z, gone)
    return torch.cat([surprise(z, off).unsqueeze(2), rest.unsqueeze(2), step], dim=2)


def observed(
    base: LinearBase, normal: Normal, values: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | int]:
    """Return flat windows about the mean, missing values completed, and how many are missing in each."""
    x = base.about_mean(values)
    if mask is None:
        return x, 0
    gone = mask.flatten(2)
    return normal.filled(x, gone), gone.sum(2)


def rest_of(base: LinearBase, energy: Tensor, z: Tensor, gone: Tensor | int) -> Tensor:
    """Return the surprise of what windows of some energy have off the axes, ``(n_targets, k)``.

    The latent has its share of the energy, as its axes are principal ones; 0 where it has all.
    """
    if not base.off_axes:
        return torch.zeros_like(energy)
    return standard((energy - z.square().sum(2)).clamp_min(0), base.off_axes - gone)
