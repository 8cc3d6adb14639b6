from __future__ import annotations

import math

import naive
import pytest
import torch
from torch import Tensor

from detectors.maths.season import period, season_correlation

LONGEST = 4000


def noise(n_targets: int, n_points: int, seed: int, memory: float = 0.5) -> Tensor:
    """Correlated noise of unit variance; with a memory of 1 it is a random walk."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n_targets, n_points, generator=generator)
    for t in range(1, n_points):
        values[:, t] += memory * values[:, t - 1]
    return (values / values.std(1, keepdim=True)).unsqueeze(2)


def wave(n_points: int, steps: float) -> Tensor:
    """A sine of unit variance."""
    return math.sqrt(2) * (torch.arange(n_points) * (2 * math.pi / steps)).sin().view(1, -1, 1)


@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_the_correlation_of_seasons_is_that_of_all_pairs_at_the_same_phase(gaps: float) -> None:
    values = noise(2, 90, seed=1) + wave(90, 12)
    values[torch.rand(values.shape, generator=torch.Generator().manual_seed(2)) < gaps] = math.nan
    found = season_correlation(values, 20)
    for target in range(2):
        for steps in range(2, 21):
            wanted = naive.season_correlation(values[target, :, 0].double().numpy(), steps)
            assert float(found[target, steps]) == pytest.approx(wanted, abs=1e-6)
    assert (found[:, :2] == 0).all()


@pytest.mark.parametrize("steps", [2, 7, 12, 96, 288])
def test_a_known_period_is_found(steps: int) -> None:
    once = torch.randn(1, steps, 1, generator=torch.Generator().manual_seed(3))
    once = (once - once.mean()) / once.std()
    values = once.repeat(1, 4000 // steps, 1) + 0.7 * noise(8, 4000 // steps * steps, seed=4)
    assert period(values, LONGEST).tolist() == [steps] * 8


def test_a_smooth_season_is_found_to_the_step() -> None:
    values = 0.8 * wave(6000, 288) + 0.6 * noise(8, 6000, seed=5, memory=0.9)
    assert period(values, LONGEST).tolist() == [288] * 8


def test_a_week_is_found_where_its_days_differ_and_holds_whole_days() -> None:
    weekend = torch.where((torch.arange(42 * 96) // 96) % 7 >= 5, 0.1, 1.0).view(1, -1, 1)
    values = wave(42 * 96, 96) * weekend + 0.8 * noise(8, 42 * 96, seed=6, memory=0.9)
    assert period(values, LONGEST).tolist() == [7 * 96] * 8
    assert period(values, 6 * 96).tolist() == [96] * 8, "no longer than is allowed"


@pytest.mark.parametrize("memory", [0.0, 0.9, 1.0])
def test_noise_has_no_season(memory: float) -> None:
    assert period(noise(16, 3000, seed=7, memory=memory), LONGEST).tolist() == [1] * 16


def test_three_seasons_are_enough_and_fewer_are_not() -> None:
    once = torch.randn(1, 100, 1, generator=torch.Generator().manual_seed(8))
    assert period(once.repeat(1, 3, 1), LONGEST).item() == 100
    assert period(once.repeat(1, 3, 1)[:, :-1], LONGEST).item() < 100


def test_padding_and_gaps_do_not_count_as_history() -> None:
    values = wave(600, 24) + 0.3 * noise(1, 600, seed=9)
    padding = torch.full((1, 5000, 1), math.nan)
    assert period(torch.cat([values, padding], dim=1), LONGEST).item() == 24
    twice = torch.randn(1, 100, 1, generator=torch.Generator().manual_seed(8)).repeat(1, 2, 1)
    assert period(torch.cat([twice, padding], dim=1), LONGEST).item() == 1
    assert period(torch.full((1, 600, 1), math.nan), LONGEST).item() == 1


@pytest.mark.parametrize("steps", [1, 40])
def test_an_incident_does_not_hide_the_season(steps: int) -> None:
    values = wave(1200, 24) + 0.3 * noise(1, 1200, seed=10)
    values[0, 500 : 500 + steps] = 1e6
    assert period(values, LONGEST).item() == 24


def test_short_bursts_are_a_season() -> None:
    burst = (torch.arange(4032) % 288 < 6).view(1, -1, 1)
    assert period(20 * burst + noise(8, 4032, seed=13), LONGEST).tolist() == [288] * 8


def test_a_channel_that_stands_still_leaves_the_others_their_season() -> None:
    values = wave(1200, 24) + 0.3 * noise(1, 1200, seed=11)
    assert period(torch.cat([values, torch.zeros(1, 1200, 3)], dim=2), LONGEST).item() == 24


def test_a_period_does_not_depend_on_the_other_members() -> None:
    values = torch.cat([wave(1200, steps) for steps in (12, 50, 300)]) + 0.4 * noise(3, 1200, seed=12)
    alone = [int(period(each.unsqueeze(0), LONGEST)) for each in values]
    assert period(values, LONGEST).tolist() == alone


def test_a_channel_without_a_single_step_asks_for_no_longer_history() -> None:
    values = torch.randn(1, 100, 1, generator=torch.Generator().manual_seed(14)).repeat(1, 3, 1)
    assert period(torch.cat([values, torch.full_like(values, math.nan)], dim=2), LONGEST).item() == 100
