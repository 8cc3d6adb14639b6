"""How a normal distribution of windows is stored: its covariance packed, or as principal components."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.maths.moments import FLOOR
from detectors.maths.normal import Normal
from detectors.maths.ppca import Ppca

LARGEST_FULL = 128
"""Values of a window up to which its covariance fits, packed, into 33 KiB of a version's 64."""


def triangle_of(covariance: Tensor) -> Tensor:
    """Return one triangle of symmetric matrices ``(n, size, size)``, float32, a row for each."""
    rows, columns = torch.tril_indices(*covariance.shape[1:])
    return covariance[:, rows, columns].to(torch.float32)


def symmetric(triangle: Tensor, size: int) -> Tensor:
    """Return the matrices, float64, that ``triangle_of`` was given."""
    rows, columns = torch.tril_indices(size, size)
    whole = triangle.new_zeros(triangle.shape[0], size, size, dtype=torch.float64)
    whole[:, rows, columns] = triangle.to(torch.float64)
    whole[:, columns, rows] = triangle.to(torch.float64)
    return whole


def packed(covariance: Tensor) -> dict[str, Tensor]:
    """Return covariances ``(n, size, size)`` as state."""
    return {"covariance": triangle_of(covariance)}


def principal(covariance: Tensor, components: int, share: float) -> dict[str, Tensor]:
    """Return covariances as state: the components that hold a share of the variance, and noise."""
    ppca = Ppca.of(covariance, components, share=share, floor=FLOOR)
    return {"factors": ppca.factors.to(torch.float32), "noise": ppca.noise.to(torch.float32)}


def covariance_of(state: dict[str, Tensor], size: int) -> Tensor:
    """Return the covariances, float64, of a state that either of the above made."""
    if "covariance" in state:
        return symmetric(state["covariance"], size)
    factors, noise = state["factors"].to(torch.float64), state["noise"].to(torch.float64)
    unit = torch.eye(size, dtype=torch.float64)
    return factors @ factors.transpose(1, 2) + noise[:, None, None] * unit


def normal_of(state: dict[str, Tensor]) -> Normal:
    """Return the normal distributions of a state: its ``mean``, and what either of the above made."""
    mean = state["mean"].to(torch.float64)
    return Normal.of(mean, covariance_of(state, mean.shape[1]))
