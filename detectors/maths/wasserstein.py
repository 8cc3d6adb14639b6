"""Critics of generated windows: the Wasserstein distance with a gradient penalty (Gulrajani et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CRITIC_STEPS = 5
"""Steps of a critic for one of what it judges (Gulrajani 2017, arXiv 1704.00028)."""

PENALTY = 10.0
"""Weight of the penalty beside the critic's gain (same source)."""


def slope_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return (slope - 1) squared of a critic on points between real and fake, one for each pair.

    Args:
        critic: maps windows to opinions, of the shape of the windows' first axes.
        real: windows.
        fake: as many generated ones.
        share: how much of each point is real, 0 to 1, to be broadcast over the windows.
    """
    between = (share * real + (1 - share) * fake).requires_grad_()
    opinion = critic(between)
    (slope,) = torch.autograd.grad(opinion.sum(), between, create_graph=True)
    # 1e-12 keeps the root's own slope finite where the critic is flat.
    length = (slope.square().flatten(opinion.ndim).sum(dim=-1) + 1e-12).sqrt()
    return (length - 1).square()
