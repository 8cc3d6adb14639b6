"""Marginals and conditionals of low-rank normal distributions against those of their whole covariance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectors.maths import stored
from detectors.maths.linear import LinearBase
from detectors.maths.lowrank import LowRank
from detectors.maths.mixture import Mixture
from detectors.maths.normal import Normal

TARGETS, COMPONENTS, SIZE, WINDOWS = 2, 3, 7, 40


def base(latent: int, noise: float = 0.3, *, white: bool = True) -> LinearBase:
    generator = torch.Generator().manual_seed(1)
    if not white:
        root = torch.randn(TARGETS, SIZE, SIZE, generator=generator)
        covariance = root @ root.transpose(1, 2) + noise * torch.eye(SIZE)
        variance, axes = (t.flip(-1)[..., :latent] for t in torch.linalg.eigh(covariance))
        level = torch.full((TARGETS,), noise)
        whole = stored.triangle_of(covariance)
        return LinearBase(
            torch.randn(TARGETS, SIZE, generator=generator), axes, variance.sqrt(), level, whole
        )
    axes = torch.linalg.qr(torch.randn(TARGETS, SIZE, latent, generator=generator)).Q
    spread = 0.2 + 2 * torch.rand(TARGETS, latent, generator=generator)
    mean = torch.randn(TARGETS, SIZE, generator=generator)
    return LinearBase(mean, axes, spread, torch.full((TARGETS,), noise))


def mixed(latent: int) -> Mixture:
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(TARGETS, COMPONENTS, latent, latent, generator=generator, dtype=torch.float64)
    centre = torch.randn(TARGETS, COMPONENTS, latent, generator=generator, dtype=torch.float64)
    weight = torch.full((TARGETS, COMPONENTS), 1 / COMPONENTS, dtype=torch.float64)
    unit = torch.eye(latent, dtype=torch.float64)
    return Mixture(weight, centre, 0.1 * unit + root @ root.transpose(2, 3))


def whole(base: LinearBase, mixture: Mixture, component: int) -> Normal:
    """The slow twin: the component's whole covariance."""
    loadings = base.axes.double() * base.spread.double().unsqueeze(1)
    inside = loadings @ mixture.covariance[:, component] @ loadings.transpose(1, 2)
    mean = base.mean + (loadings @ mixture.mean[:, component].unsqueeze(2)).squeeze(2)
    return Normal.of(mean, inside + base.noise_covariance)


def windows(missing_share: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.randn(TARGETS, WINDOWS, SIZE, generator=generator)
    return x, torch.rand(TARGETS, WINDOWS, SIZE, generator=generator) < missing_share


@pytest.mark.parametrize("latent", [1, 3, SIZE])
@pytest.mark.parametrize("missing_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("white", [True, False])
def test_density_and_conditionals_are_those_of_the_whole_covariance(
    latent: int, missing_share: float, white: bool
) -> None:
    linear, mixture = base(latent, white=white), mixed(latent)
    x, missing = windows(missing_share)
    found = LowRank.of(linear, mixture).conditioned(x, missing)
    for component in range(COMPONENTS):
        twin = whole(linear, mixture, component)
        shift = (twin.mean - linear.mean).unsqueeze(1)
        mean, variance = twin.conditional(x - shift, missing)
        close = {"rtol": 1e-5, "atol": 1e-6}  # the base is float32
        torch.testing.assert_close(found.log_prob[:, component], twin.log_prob(x - shift, missing), **close)
        torch.testing.assert_close(found.mean[:, component], mean + shift, **close)
        torch.testing.assert_close(found.variance[:, component], variance, **close)


def test_the_density_alone_is_the_same() -> None:
    x, missing = windows(0.3)
    low = LowRank.of(base(3), mixed(3))
    assert torch.equal(low.log_prob(x, missing), low.conditioned(x, missing).log_prob)


def test_what_stands_at_missing_values_does_not_matter() -> None:
    x, missing = windows(0.3)
    low = LowRank.of(base(3), mixed(3))
    other = torch.where(missing, 1e9, x)
    assert torch.equal(low.conditioned(x, missing).mean, low.conditioned(other, missing).mean)


def test_little_noise_off_the_axes_keeps_every_conditional_finite() -> None:
    x, missing = windows(0.3)
    found = LowRank.of(base(3, noise=1e-4), mixed(3)).conditioned(1e6 * x, missing)
    assert found.log_prob.isfinite().all()
    assert found.mean.isfinite().all()
    assert (found.variance > 0).all()
