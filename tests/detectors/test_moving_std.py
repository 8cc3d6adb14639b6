from __future__ import annotations

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.base import DetectorConfig
from detectors.moving_std import MovingStdDetector
from detectors.windows import Windows


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 3),
    window=st.integers(1, 30),
    gaps=st.sampled_from([0.0, 0.1]),
)
def test_the_score_is_the_standard_deviation_of_the_observed_steps(
    seed: int, channels: int, window: int, gaps: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    series = 40 + torch.randn(2, window + 40, channels, generator=generator)
    series[torch.rand(series.shape, generator=generator) < gaps] = torch.nan
    windows = Windows.of(series, window)
    found = MovingStdDetector(DetectorConfig(window)).fit(windows).score(windows)
    for target in range(2):
        wanted = np.where(windows.scorable[target], naive.window_deviations(windows, target), np.nan)
        np.testing.assert_allclose(found[target, :, 0], wanted, rtol=1e-4, atol=1e-4)


def test_every_step_of_a_window_has_its_score() -> None:
    windows = Windows.of(torch.randn(2, 60, 1, generator=torch.Generator().manual_seed(1)), 24)
    scores = MovingStdDetector().fit(windows).score(windows)
    assert scores.shape == (2, 37, 24)
    assert (scores == scores[:, :, :1]).all()


def test_a_channel_that_was_not_observed_says_nothing() -> None:
    series = torch.randn(1, 24, 5, generator=torch.Generator().manual_seed(2))
    detector = MovingStdDetector().fit(Windows.of(series, 24))
    series[:, :, 4] = torch.nan
    wanted = series[0, :, :4].var(0, correction=0).mean().sqrt()
    assert float(detector.score(Windows.of(series, 24))[0, 0, 0]) == pytest.approx(float(wanted))


def test_an_absurd_value_leaves_no_trace_in_the_windows_after_it() -> None:
    series = torch.randn(1, 200, 1, generator=torch.Generator().manual_seed(3))
    spoiled = series.clone()
    spoiled[0, 100] = 1e30
    detector = MovingStdDetector().fit(Windows.of(series, 24))
    scores, usual = detector.score(Windows.of(spoiled, 24)), detector.score(Windows.of(series, 24))
    assert torch.equal(scores[:, 101:], usual[:, 101:])
    assert (scores[:, 77:101] > 1e4).all()
