from __future__ import annotations

import math

import pytest
import torch

from detectors.baseline import FLOOR
from detectors.robust_z import RobustZDetector
from detectors.windows import Windows

WINDOW = RobustZDetector().config.window


def noise(points: int, channels: int, seed: int) -> torch.Tensor:
    return torch.randn(1, points, channels, generator=torch.Generator().manual_seed(seed))


def test_the_score_is_the_distance_from_the_median_in_robust_deviations() -> None:
    detector = RobustZDetector().fit(Windows.of(10 + 2 * noise(20_000, 1, 0), WINDOW))
    probe = torch.full((1, WINDOW, 1), 16.0)
    assert detector.score(Windows.of(probe, WINDOW)).mean() == pytest.approx(3, rel=0.05)


def test_outliers_in_the_training_data_hardly_move_it() -> None:
    series = noise(5000, 1, 1)
    series[0, :500] = 1000
    state = RobustZDetector().fit(Windows.of(series, WINDOW)).state()
    assert abs(float(state["median"])) < 0.3
    assert float(state["sigma"]) < 1.4


def test_the_channel_that_is_farthest_off_counts() -> None:
    detector = RobustZDetector().fit(Windows.of(noise(5000, 2, 2), WINDOW))
    probe = torch.zeros(1, WINDOW, 2)
    probe[0, 5] = torch.tensor([1.0, -7.0])
    assert detector.score(Windows.of(probe, WINDOW))[0, 0, 5] == pytest.approx(7, rel=0.1)


def test_only_points_inside_weighted_windows_teach() -> None:
    series = noise(400, 1, 3)
    series[0, 200:] += 50
    windows = Windows.of(series, WINDOW)
    weight = windows.weight.clone()
    weight[0, 200 - WINDOW + 1 :] = 0
    assert abs(float(RobustZDetector().fit(windows.weighted(weight)).state()["median"])) < 0.5


def test_a_constant_series_gets_the_floor() -> None:
    detector = RobustZDetector().fit(Windows.of(torch.full((1, 100, 1), 5.0), WINDOW))
    assert detector.state()["sigma"] == pytest.approx(FLOOR)


def test_a_step_that_is_missing_is_not_off() -> None:
    windows = Windows.of(10 + noise(400, 1, 6), WINDOW)
    detector = RobustZDetector().fit(windows)
    hide = torch.zeros(1, 400, dtype=torch.bool)
    hide[0, 3] = True
    assert detector.score(windows.hidden(hide))[0, 0, 3] == 0
    assert detector.score(windows)[0, 0, 3] > 0


def test_a_history_half_of_which_is_absurd_leaves_numbers() -> None:
    series = noise(400, 1, 7)
    series[0, ::4], series[0, 1::4] = 3e38, -3e38
    detector = RobustZDetector().fit(Windows.of(series, WINDOW))
    assert detector.state()["sigma"].isfinite().all()
    assert detector.sample(9).isfinite().all()


def test_log_prob_is_that_of_independent_normal_steps() -> None:
    detector = RobustZDetector().fit(Windows.of(noise(5000, 1, 4), WINDOW))
    windows = Windows.of(noise(WINDOW, 1, 5), WINDOW)
    state = detector.state()
    normal = torch.distributions.Normal(state["median"][0], state["sigma"][0])
    wanted = normal.log_prob(windows.series[0]).sum()
    torch.testing.assert_close(detector.log_prob(windows)[0, 0], wanted, rtol=1e-4, atol=1e-4)
    hide = torch.zeros(1, WINDOW, dtype=torch.bool)
    hide[0, 3] = True
    without = wanted - normal.log_prob(windows.series[0, 3]).sum()
    torch.testing.assert_close(detector.log_prob(windows.hidden(hide))[0, 0], without, rtol=1e-4, atol=1e-4)
    assert math.isfinite(float(without))
