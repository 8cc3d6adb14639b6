"""Usual codes and residuals of a network: what is drawn from them is like what they were learned from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from detectors.maths import second_stage, stored
from detectors.maths.second_stage import Codes, Residuals
from detectors.windows import Windows

N, SIZE = 4000, 5


def windows(n_targets: int = 2) -> Windows:
    return Windows.of(torch.zeros(n_targets, N, 1), 4)


def correlated(seed: int) -> Tensor:
    """Residuals whose neighbours resemble each other, each place twice as wide as the one before."""
    noise = torch.randn(2, N, SIZE + 1, generator=torch.Generator().manual_seed(seed))
    return (noise[:, :, 1:] + noise[:, :, :-1]) / 2**0.5 * 2.0 ** torch.arange(SIZE)


def clusters(seed: int) -> Tensor:
    """Codes about two centres."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.rand(2, N, 1, generator=generator) < 0.3
    return torch.where(side, 4.0, -2.0) * torch.tensor([1.0, 0.5, 0.0]) + torch.randn(
        2, N, 3, generator=generator
    )


def test_codes_are_drawn_from_every_cluster_as_often_as_it_comes() -> None:
    z = clusters(1)
    drawn = Codes.of(z, windows(), (1, 2, 4), 0).sample(5000, torch.Generator().manual_seed(2))
    for found, real in zip(drawn, z, strict=True):
        torch.testing.assert_close(found.mean(0), real.mean(0), atol=0.1, rtol=0)
        torch.testing.assert_close(found.T.cov(), real.T.cov(), atol=0.4, rtol=0)
        assert (found[:, 0] > 1).float().mean() == pytest.approx(0.3, abs=0.03)
        assert ((found[:, 0] > 0.3) & (found[:, 0] < 1.2)).float().mean() < 0.05


def test_residuals_are_as_wide_and_as_correlated_as_usual() -> None:
    residual = correlated(3)
    every = torch.arange(N).expand(2, -1)
    usual_ones = Residuals.of(residual, torch.ones_like(residual), every, 1e-3)
    drawn = usual_ones.of_noise(torch.randn(8000, SIZE, generator=torch.Generator().manual_seed(4)))
    for found, real in zip(drawn, residual, strict=True):
        torch.testing.assert_close(found.std(0), real.std(0), rtol=0.06, atol=0)
        torch.testing.assert_close(found.T.corrcoef(), real.T.corrcoef(), rtol=0, atol=0.05)


def test_the_worst_windows_say_nothing_of_how_residuals_are_correlated() -> None:
    residual = correlated(5)
    residual[:, ::50] = 1000.0
    good = second_stage.least(residual.abs().sum(2), 0.05)
    assert not (good % 50 == 0).any()
    clean = Residuals.of(residual, torch.ones_like(residual), good, 1e-3)
    drawn = clean.of_noise(torch.randn(8000, SIZE, generator=torch.Generator().manual_seed(6)))
    torch.testing.assert_close(drawn[0].std(0), correlated(5)[0].std(0), rtol=0.1, atol=0)
    assert abs(float(drawn[0].T.corrcoef()[0, 4])) < 0.1


def test_places_that_were_never_seen_have_a_spread_of_one_and_quiet_ones_the_smallest() -> None:
    residual = correlated(7)
    residual[:, :, 0] = 0.0
    kept = torch.ones_like(residual)
    kept[:, :, 1] = 0.0
    found = Residuals.of(residual * kept, kept, torch.arange(N).expand(2, -1), 0.25).spread
    assert found[:, 0].tolist() == [0.25, 0.25]
    assert found[:, 1].tolist() == [1.0, 1.0]


def test_beyond_128_values_residuals_are_independent() -> None:
    residual = torch.randn(1, 300, 130, generator=torch.Generator().manual_seed(8))
    found = Residuals.of(residual, torch.ones_like(residual), torch.arange(300).unsqueeze(0), 1e-3)
    assert list(found.state()) == ["spread"]
    white = torch.randn(3, 130, generator=torch.Generator().manual_seed(12))
    torch.testing.assert_close(found.of_noise(white)[0], found.spread[0] * white)


def test_both_are_what_their_state_says() -> None:
    z, residual = clusters(9), correlated(10)
    codes = Codes.of(z, windows(), (1, 2), 0)
    again = Codes.load(codes.state())
    torch.testing.assert_close(again.whitened(z), codes.whitened(z))
    torch.testing.assert_close(again.coloured(again.whitened(z)), z, rtol=1e-3, atol=1e-3)
    kept = Residuals.of(residual, torch.ones_like(residual), torch.arange(N).expand(2, -1), 1e-3)
    white = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(11))
    assert torch.equal(Residuals.load(kept.state()).of_noise(white), kept.of_noise(white))


def test_densities_of_codes_and_residuals_are_those_they_are_drawn_from() -> None:
    """In slow arithmetic, for one member; a residual that was not observed is marginalised."""
    codes = Codes.of(clusters(13), windows(), (1, 2), 0)
    z = clusters(14)[:, :7]
    covariance = codes.root[1] @ codes.mixture.covariance[1].float() @ codes.root[1].T
    mean = codes.mean[1] + codes.mixture.mean[1].float() @ codes.root[1].T
    parts = MultivariateNormal(mean, covariance).log_prob(z[1].unsqueeze(1))
    used = codes.mixture.weight[1] > 0
    slow = (parts + codes.mixture.weight[1].log().float())[:, used].logsumexp(1)
    torch.testing.assert_close(codes.log_prob(z)[1], slow, rtol=1e-4, atol=1e-4)

    residual = correlated(15)
    known = Residuals.of(residual, torch.ones_like(residual), torch.arange(N).expand(2, -1), 1e-3)
    kept = torch.ones(2, 3, SIZE)
    kept[:, 1, [0, 3]] = 0.0
    draws = residual[:, :12].view(2, 3, 4, SIZE)
    assert known.correlation is not None
    correlation = stored.symmetric(known.correlation, SIZE)[1].float()
    width = known.spread[1]
    whole = width.unsqueeze(1) * correlation * width
    found = known.log_prob(draws, kept)[1]
    for window, seen in enumerate(([0, 1, 2, 3, 4], [1, 2, 4], [0, 1, 2, 3, 4])):
        marginal = MultivariateNormal(torch.zeros(len(seen)), whole[seen][:, seen])
        slow = marginal.log_prob(draws[1, window][:, seen])
        torch.testing.assert_close(found[window], slow, rtol=1e-4, atol=1e-3)
