"""The mathematics of diffusion, against slow twins and distributions whose denoiser is known."""

from __future__ import annotations

import math
from itertools import pairwise

import naive
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from detectors.maths import diffusion
from detectors.maths.diffusion import Denoise, Schedule

FINE, COARSE = Schedule.cosine(200), Schedule.cosine(50)


def normal_denoiser(schedule: Schedule, mean: float, variance: float) -> Denoise:
    """What is expected of clean values that are normally distributed, by conditioning."""

    def denoise(x: Tensor, t: int) -> Tensor:
        signal, noise = float(schedule.signal[t]), float(schedule.noise[t])
        gain = signal * variance / (signal**2 * variance + noise**2)
        return mean + gain * (x - signal * mean)

    return denoise


def two_sided_denoiser(schedule: Schedule, at: float, sd: float) -> Denoise:
    """The same of an even mixture of two normal distributions about ``at`` and ``-at``."""

    def denoise(x: Tensor, t: int) -> Tensor:
        signal, noise = float(schedule.signal[t]), float(schedule.noise[t])
        variance = (signal * sd) ** 2 + noise**2
        right = torch.sigmoid(2 * signal * at * x / variance)
        centre = at * (2 * right - 1)
        return centre + signal * sd**2 / variance * (x - signal * centre)

    return denoise


def noise_of(schedule: Schedule, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(schedule.steps, *shape, generator=generator, dtype=torch.float64)


# -- the schedule -----------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 50, 100])
def test_the_cosine_schedule_is_the_paper_s(steps: int) -> None:
    def f(t: float) -> float:
        return math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    kept = [1.0]
    for t in range(1, steps + 1):
        kept.append(kept[-1] * (1 - min(1 - f(t) / f(t - 1), 0.999)))
    assert Schedule.cosine(steps).kept.tolist() == pytest.approx(kept, rel=1e-9)


def test_noise_takes_over_step_by_step() -> None:
    assert float(COARSE.kept[0]) == 1
    assert (COARSE.kept.diff() < 0).all()
    assert 0 < float(COARSE.kept[-1]) < 1e-4
    torch.testing.assert_close(COARSE.angle.sin(), COARSE.noise, rtol=1e-6, atol=1e-6)


@given(st.integers(1, 50), st.integers(1, 50))
def test_a_step_back_is_what_conditioning_says(one: int, other: int) -> None:
    """Given the clean ones, noisy values of two levels are normal together."""
    t, s = max(one, other), min(one, other)
    if t == s:
        return
    above, below = float(COARSE.kept[t]), float(COARSE.kept[s])
    left = above / below
    covariance = np.array([[1 - below, math.sqrt(left) * (1 - below)], [0, 1 - above]])
    covariance[1, 0] = covariance[0, 1]
    x0, x_t = 0.7, -0.4
    mean = np.array([math.sqrt(below) * x0, math.sqrt(above) * x0])
    slow, variance = naive.conditional(mean, covariance, np.array([0.0, x_t]), np.array([True, False]))
    way = COARSE.way(t, s)
    assert way.clean * x0 + way.noisy * x_t == pytest.approx(slow[0], rel=1e-6, abs=1e-9)
    assert way.posterior == pytest.approx(variance[0], rel=1e-6)
    assert way.reverse == pytest.approx(1 - left, rel=1e-9)


def test_the_last_step_back_is_the_clean_value() -> None:
    way = COARSE.way(1, 0)
    assert way.clean == pytest.approx(1)
    assert (way.noisy, way.posterior) == (0, 0)


@given(st.integers(1, 50))
def test_a_shortened_chain_goes_from_noise_to_clean(n: int) -> None:
    levels = COARSE.levels(n)
    assert levels[0] == 50
    assert levels[-1] == 0
    assert len(levels) == n + 1
    assert all(a > b for a, b in pairwise(levels))


@pytest.mark.parametrize("kept", [0.9999, 0.5, 1e-9])
def test_the_nearest_level_is_a_noisy_one(kept: float) -> None:
    apart = [abs(float(COARSE.kept[t]) - kept) for t in range(1, 51)]
    assert COARSE.nearest(kept) == 1 + apart.index(min(apart))


def test_shared_noise_has_the_length_of_many_draws() -> None:
    noise = diffusion.shared_noise(5, 7, seed=3)
    torch.testing.assert_close(noise.square().sum(1), torch.full((5,), 7.0))
    assert torch.equal(noise, diffusion.shared_noise(5, 7, seed=3))
    assert not torch.equal(noise, diffusion.shared_noise(5, 7, seed=4))


# -- the bound --------------------------------------------------------------------------


def slow_bound(schedule: Schedule, denoise: Denoise, x: float, noise: Tensor) -> float:
    """Divergences of one value, one normal distribution after the other, over both signs of the noise."""
    last = Normal(math.sqrt(float(schedule.kept[-1])) * x, math.sqrt(1 - float(schedule.kept[-1])))
    total = -float(kl_divergence(last, Normal(0.0, 1.0)))
    for sign in (1, -1):
        for t in range(1, schedule.steps + 1):
            above, below = float(schedule.kept[t]), float(schedule.kept[t - 1])
            left = above / below
            noisy = math.sqrt(above) * x + sign * math.sqrt(1 - above) * float(noise[t - 1])
            clean = float(denoise(torch.tensor([[[noisy]]], dtype=torch.float64), t))
            if t == 1:
                total += 0.5 * float(Normal(clean, math.sqrt(1 - left)).log_prob(torch.tensor(x)))
                continue
            mean = [
                (math.sqrt(below) * (1 - left) * c + math.sqrt(left) * (1 - below) * noisy) / (1 - above)
                for c in (x, clean)
            ]
            spread = math.sqrt((1 - left) * (1 - below) / (1 - above))
            known, model = Normal(mean[0], spread), Normal(mean[1], math.sqrt(1 - left))
            total -= 0.5 * float(kl_divergence(known, model))
    return total


def test_the_bound_is_the_slow_sum_of_divergences() -> None:
    schedule = Schedule.cosine(6)
    denoise = two_sided_denoiser(schedule, 1.0, 0.4)
    noise = noise_of(schedule, 1)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    fast = diffusion.bound(schedule, denoise, x.view(1, -1, 1), noise)
    slow = [slow_bound(schedule, denoise, float(each), noise) for each in x]
    assert fast[0].tolist() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_of_a_standard_normal_the_bound_is_the_log_density(steps: int, size: int) -> None:
    schedule = Schedule.cosine(steps)
    x = 3 * noise_of(schedule, 1, 4, size)[:1].view(1, 4, size)
    noise = diffusion.shared_noise(steps, size, 0).to(torch.float64)
    found = diffusion.bound(schedule, normal_denoiser(schedule, 0, 1), x, noise)
    exact = Normal(0.0, 1.0).log_prob(x).sum(2)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


GRID = torch.linspace(-6, 6, 241, dtype=torch.float64)


def mean_gap(schedule: Schedule, denoise: Denoise, log_density: Tensor) -> float:
    """Mean of log-density less bound over the distribution itself, and over noise by quadrature."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(8)
    found = sum(
        share
        / shares.sum()
        * diffusion.bound(schedule, denoise, GRID.view(1, -1, 1), torch.full((FINE.steps, 1), node))
        for node, share in zip(nodes, shares, strict=True)
    )
    density = log_density.exp()
    return float((density * (log_density - found[0])).sum() / density.sum())


@pytest.mark.parametrize(("mean", "variance"), [(0.5, 0.3), (-1.0, 0.6)])
def test_of_another_normal_it_comes_close_from_below_as_steps_become_many(
    mean: float, variance: float
) -> None:
    exact = Normal(mean, math.sqrt(variance)).log_prob(GRID)
    coarse, fine = (mean_gap(s, normal_denoiser(s, mean, variance), exact) for s in (COARSE, FINE))
    assert 0 < fine < 0.3 * coarse < 0.02


def test_of_a_mixture_it_comes_close_from_below_as_steps_become_many() -> None:
    sides = torch.stack([Normal(side, 0.5).log_prob(GRID) for side in (1.0, -1.0)])
    exact = sides.logsumexp(0) - math.log(2)
    coarse, fine = (mean_gap(s, two_sided_denoiser(s, 1.0, 0.5), exact) for s in (COARSE, FINE))
    assert 0 < fine < 0.3 * coarse < 0.05


# -- samples ----------------------------------------------------------------------------


@pytest.mark.parametrize("chain", ["whole", "shortened"])
def test_chains_end_in_the_distribution_whose_denoiser_they_follow(chain: str) -> None:
    schedule = Schedule.cosine(100)
    denoise = two_sided_denoiser(schedule, 2.0, 0.3)
    if chain == "whole":
        x = diffusion.ancestral(schedule, denoise, noise_of(schedule, 1, 4000, 1))
    else:
        x = diffusion.shortened(schedule, denoise, noise_of(schedule, 1, 4000, 1)[0], schedule.levels(50))
    right = x > 0
    assert float(right.double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(x[right].mean()) == pytest.approx(2.0, abs=0.05)
    assert float(x[right].std()) == pytest.approx(0.3, abs=0.05)


def test_the_whole_chain_leaves_a_standard_normal_as_it_is() -> None:
    """With the larger variance a step back is the exact one, however few steps there are."""
    schedule = Schedule.cosine(4)
    noise = noise_of(schedule, 1, 20_000, 1)
    x = diffusion.ancestral(schedule, normal_denoiser(schedule, 0, 1), noise)
    # The last step draws nothing: its variance is lacking.
    assert float(x.var()) == pytest.approx(1 - schedule.way(1, 0).reverse, abs=0.02)


def test_the_shortened_chain_is_the_same_function_of_its_noise() -> None:
    denoise = two_sided_denoiser(COARSE, 1.0, 0.5)
    noise = noise_of(COARSE, 1, 50, 1)[0]
    few, many = (diffusion.shortened(COARSE, denoise, noise, COARSE.levels(n)) for n in (25, 50))
    assert (few.sign() == many.sign()).all()
    assert (few - many).abs().max() < 0.3
    assert (few - many).abs().max() > 1e-4


# -- what is missed ---------------------------------------------------------------------


def test_standard_normal_values_miss_themselves() -> None:
    x = noise_of(COARSE, 6, 3)[:2].to(torch.float32)
    noise = diffusion.shared_noise(50, 3, seed=1)
    found = diffusion.missed(COARSE, normal_denoiser(COARSE, 0, 1), x, noise, [3, 20])
    torch.testing.assert_close(found.slope, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.energy, x.square().sum(2), rtol=1e-3, atol=1e-3)


def test_what_is_missed_is_the_slope_of_the_blurred_log_density() -> None:
    """On average over noise; here over a thousand draws, each of them with both signs."""
    at, sd, t = 1.0, 0.5, COARSE.nearest(0.8)
    signal, noise = float(COARSE.signal[t]), float(COARSE.noise[t])
    x = torch.tensor([0.6]).requires_grad_()
    draws = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    both = signal * x + noise * torch.cat([draws, -draws])
    blurred = torch.stack(
        [Normal(signal * s, math.hypot(signal * sd, noise)).log_prob(both) for s in (at, -at)]
    )
    (slope,) = torch.autograd.grad(blurred.logsumexp(0).mean() / signal**2, x)
    denoise = two_sided_denoiser(COARSE, at, sd)
    found = [
        diffusion.missed(COARSE, denoise, x.detach().view(1, 1, 1), draw.expand(50, 1), [t]).slope
        for draw in draws
    ]
    assert float(torch.stack(found).mean()) == pytest.approx(-float(slope), abs=0.02)
