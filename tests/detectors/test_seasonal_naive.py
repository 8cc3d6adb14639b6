from __future__ import annotations

import math

import naive
import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from detectors.robust_z import RobustZDetector
from detectors.seasonal_naive import PROFILE_VALUES, SeasonalNaiveDetector
from detectors.windows import Windows

WINDOW = SeasonalNaiveDetector().config.window
PERIODS = (12, 30, 96)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seasonal(start: int = 0, *, seed: int, n_points: int = 900) -> Windows:
    """Three targets whose seasons differ, one of period 12, 30 and 96 each, from a step of the grid on."""
    grid = start + torch.arange(n_points)
    rows = [noise(steps, seed=steps)[grid % steps] for steps in PERIODS]
    values = torch.stack(rows).unsqueeze(2) + 0.2 * noise(3, n_points, 1, seed=seed)
    return Windows.of(values, WINDOW, start=torch.full((3,), start))


@pytest.fixture(scope="module")
def fitted() -> SeasonalNaiveDetector:
    return SeasonalNaiveDetector().fit(seasonal(7, seed=1))


def test_the_profile_is_the_median_of_the_training_seasons(fitted: SeasonalNaiveDetector) -> None:
    windows = seasonal(7, seed=1)
    for target, steps in enumerate(PERIODS):
        assert int(fitted.state()["period"][target]) == steps
        wanted = naive.season_profile(windows, target, steps)
        np.testing.assert_allclose(fitted.state()["profile"][target, :steps], wanted, rtol=1e-5, atol=1e-6)


def test_the_profile_knows_missing_and_left_out_steps_and_many_channels() -> None:
    series = seasonal(5, seed=2).series[0] + torch.tensor([0.0, 10.0])
    series[noise(*series.shape, seed=3) > 1.5] = torch.nan
    windows = Windows.of(series.unsqueeze(0), WINDOW, start=torch.tensor([5]))
    weight = windows.weight.clone()
    weight[0, 300:400] = 0
    detector = SeasonalNaiveDetector().fit(windows.weighted(weight))
    learned = windows.weighted(torch.where(windows.scorable, weight, 0.0))
    np.testing.assert_allclose(
        detector.state()["profile"][0], naive.season_profile(learned, 0, 12), rtol=1e-5
    )


def test_a_phase_without_a_training_step_expects_the_median() -> None:
    windows = seasonal(0, seed=4).select([0])
    windows.missing[:, 3::12] = True
    state = SeasonalNaiveDetector().fit(windows).state()
    assert float(state["profile"][0, 3]) == float(RobustZDetector().fit(windows).state()["median"])


def test_the_score_is_the_distance_from_the_phase_in_robust_deviations(fitted: SeasonalNaiveDetector) -> None:
    windows = seasonal(10**6, seed=5)
    level, sigma = fitted.expect(windows).mean, fitted.state()["sigma"]
    wanted = (windows.values - level).abs().squeeze(3) / sigma.unsqueeze(2)
    torch.testing.assert_close(fitted.score(windows), wanted)
    assert sigma.flatten().tolist() == pytest.approx([0.2] * 3, rel=0.2)


def test_what_is_usual_at_one_phase_is_odd_at_another(fitted: SeasonalNaiveDetector) -> None:
    right, wrong = seasonal(2400, seed=6), seasonal(2401, seed=6)
    late = Windows.of(wrong.series, WINDOW, start=right.start)
    assert (fitted.score(right).mean((1, 2)) < 1.2).all()
    assert (fitted.score(late).mean((1, 2)) > 3).all()


def test_the_phase_is_the_same_in_every_slice(fitted: SeasonalNaiveDetector) -> None:
    windows = seasonal(10**6 + 1, seed=7)
    whole = fitted.expect(windows).mean
    for first, stop in ((1, 2), (5, 300), (801, 877)):
        assert torch.equal(fitted.expect(windows.span(first, stop)).mean, whole[:, first:stop])


def test_without_a_season_it_is_the_robust_z() -> None:
    windows = Windows.of(noise(2, 1000, 2, seed=8), WINDOW)
    detector, plain = SeasonalNaiveDetector().fit(windows), RobustZDetector().fit(windows)
    assert detector.state()["period"].tolist() == [1, 1]
    torch.testing.assert_close(detector.score(windows), plain.score(windows))


def test_an_odd_season_in_training_does_not_become_what_is_expected() -> None:
    windows = seasonal(0, seed=9).select([1])
    spoiled = windows.series.clone()
    spoiled[:, -30:] += 20
    clean, after = (
        SeasonalNaiveDetector().fit(Windows.of(series, WINDOW)).state()["profile"]
        for series in (windows.series, spoiled)
    )
    assert (clean - after).abs().max() < 0.2


def test_samples_follow_the_season_from_any_phase_on(fitted: SeasonalNaiveDetector) -> None:
    profile = fitted.state()["profile"][0, :12, 0]
    turned = torch.stack([profile.roll(-phase).repeat(2) for phase in range(12)])
    away = (fitted.sample(200)[0, :, None, :, 0] - turned).square().mean(2)
    assert (away.amin(1).sqrt() < 0.4).all()
    assert len(away.argmin(1).unique()) == 12


def test_a_member_taken_out_leaves_the_longest_season_behind(fitted: SeasonalNaiveDetector) -> None:
    for target, steps in enumerate(PERIODS):
        assert fitted.select([target]).state()["profile"].shape == (1, steps, 1)
    apart = [fitted.select([target]) for target in range(3)]
    windows = seasonal(77, seed=10)
    assert torch.equal(SeasonalNaiveDetector.stack(apart).score(windows), fitted.score(windows))


@pytest.mark.parametrize(("channels", "fits"), [(1, 10_080), (7, 2016)])
def test_a_week_fits_into_64_kib(channels: int, fits: int) -> None:
    once = noise(1, fits, 1, seed=11).expand(-1, -1, channels)
    detector = SeasonalNaiveDetector().fit(Windows.of(once.repeat(1, 3, 1), WINDOW))
    assert detector.state()["period"].tolist() == [fits]
    assert len(save(detector.state())) <= 64 * 1024


def test_a_season_too_long_to_keep_is_none() -> None:
    channels = math.ceil(PROFILE_VALUES / 100)
    once = noise(1, 101, channels, seed=12)
    detector = SeasonalNaiveDetector().fit(Windows.of(once.repeat(1, 4, 1), WINDOW))
    assert detector.state()["period"].tolist() == [1]
