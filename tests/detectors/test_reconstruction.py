"""TadGAN's scoring steps, against figures of its reference implementation and slow twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from torch import Tensor

from detectors.maths.reconstruction import (
    Combination,
    CriticScale,
    ErrorScale,
    area_error,
    combined,
    covering,
    critic_at_steps,
    dtw_error,
    errors_of,
    median_reconstruction,
    smoothed,
    smoothing_width,
    warped_distance,
)

AT = [0, 1, 50, 103, 218]


@pytest.fixture(scope="module")
def y() -> Tensor:
    t = torch.arange(220, dtype=torch.float64)
    x = torch.sin(2 * torch.pi * t / 25)
    x[100:106] += 1.5
    return x[:219]


@pytest.fixture(scope="module")
def y_hat() -> Tensor:
    i, j = torch.arange(200)[:, None], torch.arange(20)
    windows = 0.9 * torch.sin(2 * torch.pi * (i + j).double() / 25) + 0.01 * ((7 * i + 3 * j) % 5)
    return median_reconstruction(windows)


@pytest.fixture(scope="module")
def critic() -> Tensor:
    i = torch.arange(200, dtype=torch.float64)
    values = torch.cos(0.37 * i) + 0.5 * ((i >= 85) & (i < 106))
    at_steps = critic_at_steps(values, 20)
    return smoothed(CriticScale.of(at_steps).score(at_steps), 2)


def assert_golden(values: Tensor, total: float, peak: float, at_peak: int, some: list[float]) -> None:
    assert values.shape == (219,)
    assert float(values.sum()) == pytest.approx(total, rel=1e-6)
    assert float(values.max()) == pytest.approx(peak, rel=1e-6)
    assert int(values.argmax()) == at_peak
    assert values[AT].tolist() == pytest.approx(some, abs=1e-6)


def test_point_errors_are_the_references(y, y_hat) -> None:
    error = errors_of("point", y, y_hat)
    assert_golden(error, 23.008912, 1.575106, 105, [0, 0.000131, 0.02, 1.548455, 0.098229])


def test_smoothed_point_errors_are_the_references(y, y_hat) -> None:
    error = smoothed(errors_of("point", y, y_hat), smoothing_width(220))
    assert_golden(error, 22.959798, 1.569769, 105, [0, 0.000066, 0.032434, 1.538315, 0.106856])


def test_area_errors_are_the_references(y, y_hat) -> None:
    error = errors_of("area", y, y_hat)
    assert_golden(error, 175.730206, 9.371876, 104, [0.113715, 0.185985, 0.269769, 9.240998, 0.406006])


def test_dtw_errors_are_the_references_where_written_as_late(y, y_hat) -> None:
    error = dtw_error(y, y_hat, as_reference=True)
    assert_golden(error, 84.264274, 3.696052, 110, [0, 0, 0.253539, 2.628194, 0])


@pytest.mark.parametrize(
    ("how", "total", "peak", "at_peak", "some"),
    [
        ("mult", 534.20947, 14.264488, 105, [2.587711, 2.536685, 1.97854, 11.192042, 1.216097]),
        ("sum", 132.13132, 2.90648, 105, [0.793855, 0.768342, 0.48927, 2.413459, 0.108048]),
        ("rec", 274.17955, 5.697493, 111, [1, 1, 1, 4.091444, 1]),
    ],
)
def test_combined_scores_are_the_references(
    y, y_hat, critic, how: Combination, total: float, peak: float, at_peak: int, some: list[float]
) -> None:
    error = smoothed(dtw_error(y, y_hat, as_reference=True), 2)
    assert_golden(combined(how, critic, ErrorScale.of(error).z(error)), total, peak, at_peak, some)


def test_centred_dtw_peaks_at_the_anomaly_itself(y, y_hat) -> None:
    error = dtw_error(y, y_hat)
    late = dtw_error(y, y_hat, as_reference=True)
    assert 100 <= int(error.argmax()) <= 106
    torch.testing.assert_close(error[:200], late[5:205])


def naive_warped_distance(a: list[float], b: list[float]) -> float:
    table = np.full((len(a) + 1, len(b) + 1), np.inf)
    table[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            least = min(table[i, j], table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = (a[i] - b[j]) ** 2 + least
    return float(np.sqrt(table[-1, -1]))


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=8))
def test_warping_agrees_with_the_slow_table(pairs) -> None:
    a, b = [list(side) for side in zip(*pairs, strict=True)]
    fast = warped_distance(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64))
    assert float(fast) == pytest.approx(naive_warped_distance(a, b), abs=1e-9)


@given(st.integers(1, 30), st.integers(1, 12))
def test_covering_windows_of_a_series_agree_with_it(n_windows, window) -> None:
    series = torch.arange(n_windows + window - 1, dtype=torch.float64)
    rows = covering(series.unfold(0, window, 1))
    expected = series[:, None].expand_as(rows)
    assert bool(((rows == expected) | rows.isnan()).all())
    assert bool((rows == expected).any(dim=1).all())
    torch.testing.assert_close(median_reconstruction(series.unfold(0, window, 1)), series)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(1, 12))
def test_area_agrees_with_the_slow_trapezoid(values, width) -> None:
    y = torch.tensor(values, dtype=torch.float64)
    slow = []
    for t in range(len(values)):
        first = t - width // 2
        piece = values[max(first, 0) : max(first + width, 1)]
        slow.append(abs(trapezoid(piece)))
    assert area_error(y, torch.zeros_like(y), width).tolist() == pytest.approx(slow, abs=1e-9)


def test_equal_critic_values_are_kept_as_they_are() -> None:
    assert critic_at_steps(torch.full((9,), 0.3, dtype=torch.float64), 4).tolist() == [0.3] * 12
