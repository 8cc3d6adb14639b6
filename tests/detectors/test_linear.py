"""The linear base of a latent: what lies off its axes has the covariance that is left."""

from __future__ import annotations

import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from detectors.maths import surprise_parts
from detectors.maths.linear import LinearBase
from detectors.maths.moments import trimmed
from detectors.maths.normal import log_standard
from detectors.windows import Windows

LATENT = 3


def autocorrelated(n: int, seed: int) -> Tensor:
    """Two series whose steps resemble their neighbours, ``(2, n, 1)``."""
    noise = torch.randn(2, n, generator=torch.Generator().manual_seed(seed)).numpy()
    return torch.from_numpy(lfilter([0.6], [1, -0.8], noise, axis=1)).to(torch.float32).unsqueeze(2)


def base_of(window: int, latent: int = LATENT, *, white: bool = False) -> LinearBase:
    moments, _ = trimmed(Windows.of(autocorrelated(4000, 1), window), 0.0)
    return LinearBase.of(moments, window, latent, white=white)


@pytest.mark.parametrize("white", [False, True])
def test_noise_off_the_axes_has_the_covariance_that_is_left(white: bool) -> None:
    base = base_of(12, white=white)
    drawn = base.noise_of(torch.randn(2, 40_000, 12, generator=torch.Generator().manual_seed(2)))
    assert (drawn @ base.axes).abs().max() < 1e-4
    found = drawn.transpose(1, 2) @ drawn / drawn.shape[1]
    torch.testing.assert_close(found.double(), base.noise_covariance, atol=0.02, rtol=0.05)


def test_axes_and_noise_add_up_to_the_covariance_of_windows() -> None:
    base = base_of(12)
    loadings = base.axes.double() * base.spread.double().unsqueeze(1)
    whole = loadings @ loadings.transpose(1, 2) + base.noise_covariance
    root = base.normal.root
    torch.testing.assert_close(whole, root @ root.transpose(1, 2))
    assert base.noise_covariance.diagonal(dim1=1, dim2=2).mean(1) == pytest.approx(
        base.noise.double() * (12 - LATENT) / 12, rel=1e-3
    )


@pytest.mark.parametrize("white", [False, True])
def test_with_a_standard_normal_latent_the_density_is_the_normal_one(white: bool) -> None:
    base = base_of(12, white=white)
    windows = Windows.of(autocorrelated(300, 3), 12)
    x = base.about_mean(windows.values)
    z, _ = base.split(x)
    plain = base.normal.log_prob(base.normal.about_mean(windows.values), windows.mask.flatten(2))
    torch.testing.assert_close(base.log_prob(log_standard(z), x, z).double(), plain, rtol=1e-4, atol=1e-3)


def test_the_surprise_off_the_axes_is_standard_normal_where_noise_is_not_white() -> None:
    windows = Windows.of(autocorrelated(40_000, 4), 24)
    found = {}
    for white in (False, True):
        base = base_of(24, white=white)
        x = base.about_mean(windows.values)
        innovations = x @ base.normal.whitener.transpose(1, 2).to(torch.float32)
        rest = surprise_parts.rest_of(base, innovations.square().sum(2), base.split(x)[0], 0)
        found[white] = float(rest.std())
    assert found[False] == pytest.approx(1, abs=0.1)
    assert found[True] > 1.3


def test_a_covariance_is_kept_where_something_lies_off_the_axes_and_it_is_small() -> None:
    assert base_of(12).state()["base_covariance"].shape == (2, 78)
    for without in (base_of(12, white=True), base_of(12, latent=12), base_of(130)):
        assert "base_covariance" not in without.state()
    again = LinearBase.load(base_of(12).state())
    assert torch.equal(again.normal.root, base_of(12).normal.root)
