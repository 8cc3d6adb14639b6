from __future__ import annotations

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.maths.moments import BlockMoments, regular, shrinkage, stationary, trimmed
from detectors.maths.ppca import Ppca
from detectors.windows import Windows


def drawn(seed: int, n: int, points: int, channels: int, window: int, gaps: float, out: float) -> Windows:
    """Correlated series off centre, with missing values and windows left out."""
    generator = torch.Generator().manual_seed(seed)
    series = torch.randn(n, points, channels, generator=generator).cumsum(1) * 0.2 + 40
    series[torch.rand(series.shape, generator=generator) < gaps] = torch.nan
    weight = (torch.rand(n, points - window + 1, generator=generator) >= out).to(torch.float32)
    return Windows.of(series, window, weight=weight)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(1, 3),
    window=st.integers(1, 9),
    extra=st.integers(0, 60),
    gaps=st.sampled_from([0.0, 0.1]),
    out=st.sampled_from([0.0, 0.2, 0.9]),
)
def test_sliding_moments_equal_those_of_the_windows_one_by_one(
    seed: int, channels: int, window: int, extra: int, gaps: float, out: float
) -> None:
    windows = drawn(seed, 2, window + extra, channels, window, gaps, out)
    moments = BlockMoments.of(windows).total()
    for target in range(2):
        if not windows.weight[target].any():
            continue
        mean, covariance = naive.window_moments(windows, target)
        np.testing.assert_allclose(moments.mean[target], mean, rtol=1e-6)
        np.testing.assert_allclose(moments.covariance[target], covariance, rtol=1e-6, atol=1e-9)
        assert moments.count[target] == windows.weight[target].sum()


def test_sliding_moments_are_exact_at_full_length() -> None:
    windows = drawn(1, 1, 4032, 1, 128, 0.0, 0.0)
    moments = BlockMoments.of(windows).total()
    values = windows.values[0, :, :, 0].double().numpy()
    np.testing.assert_allclose(moments.mean[0], values.mean(0), rtol=1e-9)
    np.testing.assert_allclose(moments.covariance[0], np.cov(values.T, bias=True), rtol=1e-6)


def test_stationary_moments_are_the_means_over_pairs_of_steps_as_far_apart() -> None:
    moments = BlockMoments.of(drawn(4, 2, 60, 2, 5, 0.1, 0.0)).total()
    found = stationary(moments, 5)
    covariance = moments.covariance.view(2, 5, 2, 5, 2)
    for i in range(5):
        for j in range(i, 5):
            lag = j - i
            wanted = torch.stack([covariance[:, k, :, k + lag] for k in range(5 - lag)]).mean(0)
            torch.testing.assert_close(found.covariance.view(2, 5, 2, 5, 2)[:, i, :, j], wanted)
    torch.testing.assert_close(found.covariance, found.covariance.mT)
    torch.testing.assert_close(
        found.mean.view(2, 5, 2), moments.mean.view(2, 5, 2).mean(1, True).expand(-1, 5, -1)
    )


def test_a_far_outlier_in_a_dropped_block_leaves_no_trace() -> None:
    windows = drawn(2, 1, 800, 1, 8, 0.0, 0.0)
    blocks = BlockMoments.of(windows)
    keep = torch.ones(1, blocks.n_blocks)
    keep[0, 10:13] = 0
    length = blocks.weight.shape[2]
    spoiled = windows.series.clone()
    spoiled[0, 11 * length + 3] = 1e6
    after = BlockMoments.of(Windows.of(spoiled, 8)).total(keep)
    torch.testing.assert_close(after.covariance, blocks.total(keep).covariance, rtol=1e-9, atol=1e-9)


def test_blocks_add_up_to_the_whole() -> None:
    windows = drawn(3, 2, 500, 2, 6, 0.0, 0.1)
    blocks = BlockMoments.of(windows)
    keep = torch.zeros(2, blocks.n_blocks)
    keep[:, ::3] = 1
    length = blocks.weight.shape[2]
    chosen = windows.weight * keep.repeat_interleave(length, 1)[:, : windows.n_windows]
    alone = BlockMoments.of(windows.weighted(chosen)).total()
    torch.testing.assert_close(blocks.total(keep).covariance, alone.covariance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(blocks.total(keep).mean, alone.mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_energy_of_a_block_is_the_mean_over_its_windows(channels: int) -> None:
    windows = drawn(4, 2, 300, channels, 5, 0.0, 0.2)
    blocks = BlockMoments.of(windows)
    moments = blocks.total()
    precision = torch.linalg.inv(regular(moments, 5))
    found = blocks.energy(moments, precision)
    length = blocks.weight.shape[2]
    for target in range(2):
        each = naive.energies(windows, target, moments.mean[target].numpy(), precision[target].numpy())
        each = np.pad(each, (0, blocks.n_blocks * length - len(each))).reshape(-1, length).sum(1)
        count = blocks.weight[target].sum(1).numpy() * 5 * channels
        np.testing.assert_allclose(found[target], each / np.maximum(count, 1), rtol=1e-6, atol=1e-9)


def test_trimming_drops_the_blocks_that_hold_an_anomaly() -> None:
    series = torch.randn(1, 2000, 1, generator=torch.Generator().manual_seed(5))
    series[0, 700:740] += 20
    moments, kept = trimmed(Windows.of(series, 10), 0.05)
    assert kept.weight[0, 695:735].sum() == 0
    assert kept.weight.sum() >= 0.9 * kept.n_windows
    assert moments.covariance[0].diagonal().max() < 1.2


def test_too_few_blocks_are_not_trimmed() -> None:
    windows = drawn(6, 1, 100, 1, 10, 0.0, 0.0)
    assert trimmed(windows, 0.05)[1].weight.min() == 1


def test_white_noise_is_shrunk_to_the_identity_and_structure_is_kept() -> None:
    generator = torch.Generator().manual_seed(7)
    white = torch.randn(1, 400, 1, generator=generator)
    wave = torch.sin(torch.arange(400) / 3).view(1, -1, 1) + 0.1 * white
    intensities = [float(shrinkage(BlockMoments.of(Windows.of(x, 12)).total(), 12)) for x in (white, wave)]
    assert intensities[0] > 0.5
    assert intensities[1] < 0.05


def test_gaps_that_break_the_covariance_are_mended() -> None:
    series = torch.sin(torch.arange(60) / 2).view(1, -1, 1).repeat(1, 1, 1)
    series[0, torch.rand(60, generator=torch.Generator().manual_seed(9)) < 0.6] = torch.nan
    moments = BlockMoments.of(Windows.of(series, 12)).total()
    assert torch.linalg.eigvalsh(moments.covariance).min() < -0.01
    assert torch.linalg.cholesky(regular(moments, 12)).isfinite().all()


@pytest.mark.parametrize("values", [torch.zeros(1, 60, 1), torch.full((1, 60, 1), torch.nan)])
def test_series_without_variance_have_a_covariance_that_can_be_factored(values: torch.Tensor) -> None:
    covariance = regular(BlockMoments.of(Windows.of(values, 5)).total(), 5)
    assert torch.linalg.cholesky(covariance).isfinite().all()


def test_ppca_rebuilds_a_covariance_of_few_directions_and_white_noise() -> None:
    generator = torch.Generator().manual_seed(8)
    loadings = torch.randn(1, 10, 2, generator=generator, dtype=torch.float64)
    covariance = loadings @ loadings.transpose(1, 2) + 0.01 * torch.eye(10, dtype=torch.float64)
    ppca = Ppca.of(covariance, 6, share=0.95, floor=1e-4)
    assert ppca.used.sum() == 2
    rebuilt = ppca.factors @ ppca.factors.transpose(1, 2) + ppca.noise * torch.eye(10, dtype=torch.float64)
    torch.testing.assert_close(rebuilt, covariance)
