from __future__ import annotations

import math

import naive
import numpy as np
import pytest
import torch
from torch import Tensor

from detectors.autoregressive import AutoregressiveConfig, AutoregressiveDetector
from detectors.maths.autoregression import Autoregression
from detectors.windows import Windows


def second_order(n: int, points: int, seed: int) -> Tensor:
    """AR(2) with coefficients 0.6 and 0.2 and unit innovations."""
    x = torch.randn(n, points, 1, generator=torch.Generator().manual_seed(seed))
    for t in range(2, points):
        x[:, t] += 0.6 * x[:, t - 1] + 0.2 * x[:, t - 2]
    return x


def autocovariance(steps: int, channels: int, seed: int) -> Tensor:
    """Covariance of so many steps in a row of two stationary moving averages of noise, float64."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, channels, channels, 4, generator=generator, dtype=torch.float64)
    lags = torch.zeros(2, steps, channels, channels, dtype=torch.float64)
    for d in range(min(4, steps)):
        lags[:, d] = torch.einsum("ncxk,nexk->nce", weights[..., d:], weights[..., : 4 - d])
    lags[:, 0] += torch.eye(channels)
    blocks = [
        torch.cat([lags[:, i - j] if i >= j else lags[:, j - i].mT for j in range(steps)], dim=2)
        for i in range(steps)
    ]
    return torch.cat(blocks, dim=1)


def process_of(order: int, lag: int, window: int, channels: int) -> tuple[Autoregression, Tensor]:
    covariance = autocovariance(max(order, lag) + 1, channels, seed=order + lag)
    mean = torch.arange(2 * channels).view(2, channels).to(torch.float64)
    return Autoregression.of(mean, covariance, order, lag, window), covariance


SHAPES = [(3, 0, 8, 1), (3, 0, 8, 2), (7, 0, 8, 1), (0, 0, 1, 1), (0, 0, 1, 3), (2, 5, 9, 1), (1, 3, 9, 2)]
"""Order, seasonal lag, window, channels."""


@pytest.mark.parametrize(("order", "lag", "window", "channels"), SHAPES)
def test_innovations_are_one_regression_for_every_step(
    order: int, lag: int, window: int, channels: int
) -> None:
    process, covariance = process_of(order, lag, window, channels)
    x = torch.randn(2, 3, window + 4, channels, generator=torch.Generator().manual_seed(1))
    found = process.innovations(x).laid_out()
    assert found.shape == (2, 3, channels, 5, window)
    for target, one, start in ((0, 0, 0), (1, 2, 4), (1, 1, 2)):
        values = x[target, one, start : start + window].double().numpy()
        wanted = naive.chain_innovations(covariance[target].numpy(), values, order, lag)
        np.testing.assert_allclose(found[target, one, :, start].T, wanted, atol=1e-5)


@pytest.mark.parametrize(("order", "lag", "window", "channels"), SHAPES)
def test_the_density_is_the_product_of_those_of_the_innovations(
    order: int, lag: int, window: int, channels: int
) -> None:
    process, covariance = process_of(order, lag, window, channels)
    size = window * channels
    units = np.eye(size).reshape(size, window, channels)
    x = torch.randn(2, 1, window + 2, channels, generator=torch.Generator().manual_seed(2))
    found = process.log_prob(x)
    for target in range(2):
        columns = [naive.chain_innovations(covariance[target].numpy(), unit, order, lag) for unit in units]
        whitener = np.stack([column.flatten() for column in columns], axis=1)
        whole = np.linalg.inv(whitener.T @ whitener)
        for start in range(3):
            flat = x[target, 0, start : start + window].flatten().double().numpy()
            wanted = naive.normal_log_density(np.zeros(size), whole, flat)
            assert found[target, 0, start] == pytest.approx(wanted, rel=1e-4, abs=1e-4)
        root = process.normal.root[target].numpy()
        np.testing.assert_allclose(root @ root.T, whole, atol=1e-4)


@pytest.mark.parametrize(("order", "lag", "window", "channels"), SHAPES)
def test_the_shift_ratio_is_twice_the_gain_in_log_density_of_the_best_shift(
    order: int, lag: int, window: int, channels: int
) -> None:
    process, _ = process_of(order, lag, window, channels)
    x = torch.randn(2, 1, window, channels, generator=torch.Generator().manual_seed(3))
    found = process.shift_ratio(process.innovations(x)).flatten()
    precision = process.normal.precision.numpy()
    ones = np.tile(np.eye(channels), (window, 1))
    for target in range(2):
        flat = x[target, 0].flatten().double().numpy()
        pull = ones.T @ precision[target] @ flat
        shift = ones @ np.linalg.solve(ones.T @ precision[target] @ ones, pull)
        gain = flat @ precision[target] @ flat - (flat - shift) @ precision[target] @ (flat - shift)
        assert found[target] == pytest.approx(gain, rel=1e-3, abs=1e-4)


@pytest.fixture(scope="module")
def fitted() -> AutoregressiveDetector:
    config = AutoregressiveConfig(window=12, order=4)
    return AutoregressiveDetector(config).fit(Windows.of(second_order(2, 4000, 4), 12))


def test_the_coefficients_of_the_process_are_found() -> None:
    config = AutoregressiveConfig(window=24, order=4)
    detector = AutoregressiveDetector(config).fit(Windows.of(second_order(1, 20_000, 5), 24))
    last = detector._process(slice(None)).whitener[0, -1]
    torch.testing.assert_close(-last[:-1] / last[-1], torch.tensor([0.0, 0.0, 0.2, 0.6]), atol=0.03, rtol=0.0)
    assert float(1 / last[-1]) == pytest.approx(1, abs=0.03)


def test_a_channel_is_predicted_from_the_past_of_the_others() -> None:
    lead = torch.randn(1, 5001, 1, generator=torch.Generator().manual_seed(6))
    both = torch.cat([lead[:, 1:], lead[:, :-1]], dim=2)
    detector = AutoregressiveDetector().fit(Windows.of(both[:, :4000], 24))
    broken = both[:, 4000:].clone()
    broken[0, 500, 1] += 1.5
    normal, odd = (detector.score(Windows.of(x, 24))[0, :, -1] for x in (both[:, 4000:], broken))
    assert odd[500 - 23] > 3 * normal.max()


def test_windows_without_a_gap_score_as_if_there_were_none_elsewhere(fitted: AutoregressiveDetector) -> None:
    windows = Windows.of(second_order(2, 60, 7), 12)
    hide = torch.zeros(2, 60, dtype=torch.bool)
    hide[:, 30] = True
    whole, holed = fitted.score(windows), fitted.score(windows.hidden(hide))
    torch.testing.assert_close(holed[:, :19], whole[:, :19], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(holed[:, 31:], whole[:, 31:], rtol=1e-4, atol=1e-4)
    assert (holed[:, 19:31] - whole[:, 19:31]).abs().amax() > 0.1


def test_log_prob_marginalises_missing_steps_exactly(fitted: AutoregressiveDetector) -> None:
    windows = Windows.of(second_order(2, 40, 8), 12)
    windows = windows.hidden(torch.rand(2, 40, generator=torch.Generator().manual_seed(9)) < 0.3)
    found = fitted.log_prob(windows)
    normal = fitted._process(slice(None)).normal
    for target in range(2):
        mean = normal.mean[target].numpy()
        covariance = (normal.root[target] @ normal.root[target].T).numpy()
        for s in range(windows.n_windows):
            seen = ~windows.mask[target, s, :, 0].numpy()
            x = windows.values[target, s, :, 0].double().numpy()[seen]
            wanted = naive.normal_log_density(mean[seen], covariance[np.ix_(seen, seen)], x)
            assert found[target, s] == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_an_absurd_value_leaves_no_trace_in_the_windows_after_it(fitted: AutoregressiveDetector) -> None:
    series = second_order(2, 400, 10)
    series[:, 100] = 1e30
    whole = fitted.score(Windows.of(series, 12))
    after = fitted.score(Windows.of(series[:, 101:], 12))
    torch.testing.assert_close(whole[:, 101:], after, rtol=1e-5, atol=1e-5)


def seasonal_noise(points: int, seed: int) -> Tensor:
    """Noise that comes again after 20 steps, a little changed."""
    x = torch.randn(1, points, 1, generator=torch.Generator().manual_seed(seed))
    for t in range(20, points):
        x[:, t] = 0.95 * x[:, t - 20] + math.sqrt(1 - 0.95**2) * x[:, t]
    return x


def test_a_season_inside_the_window_is_predicted_from() -> None:
    train, later = Windows.of(seasonal_noise(4000, 11), 48), Windows.of(seasonal_noise(2000, 12), 48)
    plain, seasonal = (
        AutoregressiveDetector(AutoregressiveConfig(window=48, order=4, seasonal=lag)).fit(train)
        for lag in (0, 20)
    )
    gain = (seasonal.log_prob(later) - plain.log_prob(later)).mean()
    # Each of the 28 steps from the season on gains log(1 / sqrt(1 - 0.95^2)) nats.
    assert float(gain) == pytest.approx(-28 * 0.5 * math.log(1 - 0.95**2), rel=0.1)
    samples = seasonal.sample(2000)[0, :, :, 0]
    assert float(torch.corrcoef(samples[:, [25, 45]].T)[0, 1]) == pytest.approx(0.95, abs=0.05)


@pytest.mark.parametrize("lag", [4, 48, 1000])
def test_a_season_that_does_not_fit_or_is_looked_at_already_changes_nothing(lag: int) -> None:
    windows = Windows.of(seasonal_noise(1000, 13), 48)
    plain, seasonal = (
        AutoregressiveDetector(AutoregressiveConfig(window=48, order=4, seasonal=each)).fit(windows)
        for each in (0, lag)
    )
    assert torch.equal(plain.score(windows), seasonal.score(windows))


@pytest.mark.parametrize(
    ("window", "channels", "order"), [(24, 1, 16), (5, 1, 4), (1, 1, 0), (24, 20, 5), (24, 90, 1)]
)
def test_the_order_is_what_window_and_channels_leave_room_for(window: int, channels: int, order: int) -> None:
    series = torch.randn(1, 200, channels, generator=torch.Generator().manual_seed(14))
    detector = AutoregressiveDetector(AutoregressiveConfig(window=window)).fit(Windows.of(series, window))
    assert detector._process(slice(None)).order == order
    assert sum(t.numel() * t.element_size() for t in detector.state().values()) <= 68 * 1024


def test_the_latent_is_what_the_next_step_is_predicted_from(fitted: AutoregressiveDetector) -> None:
    windows = Windows.of(second_order(2, 30, 15), 12)
    torch.testing.assert_close(fitted.encode(windows), windows.values[:, :, -4:, 0])


def test_samples_have_the_covariance_of_the_model(fitted: AutoregressiveDetector) -> None:
    samples = fitted.sample(20_000)[0, :, :, 0].double()
    root = fitted._process(slice(None)).normal.root[0]
    torch.testing.assert_close(torch.cov(samples.T), root @ root.T, atol=0.1, rtol=0.0)


def test_a_series_that_explodes_makes_no_process_that_does() -> None:
    growing = (1.02 ** torch.arange(300) / 100).view(1, -1, 1)
    config = AutoregressiveConfig(window=100, order=3, ridge=0.0)
    last = AutoregressiveDetector(config).fit(Windows.of(growing, 100))._process(slice(None)).whitener[0, -1]
    companion = torch.diag(torch.ones(2), -1)
    companion[0] = (-last[:-1] / last[-1]).flip(0)
    assert torch.linalg.eigvals(companion).abs().max() < 1


def test_a_small_shift_that_lasts_and_a_short_spike_are_both_seen_live() -> None:
    detector = AutoregressiveDetector(AutoregressiveConfig(window=100)).fit(
        Windows.of(second_order(1, 4000, 16), 100)
    )
    later = second_order(1, 2000, 17)
    usual = detector.score(Windows.of(later, 100))[0, :, -1].quantile(0.999)
    for size, length in ((3.0, 96), (6.0, 2)):
        planted = later.clone()
        planted[0, 1000 : 1000 + length] += size
        live = detector.score(Windows.of(planted, 100))[0, :, -1]
        assert live[1000 - 99 : 1000 - 99 + length].max() > usual, (size, length)


def test_the_newest_step_of_a_spike_is_what_scores_highest(fitted: AutoregressiveDetector) -> None:
    planted = second_order(2, 200, 18)
    planted[:, 150] += 12
    score = fitted.score(Windows.of(planted, 12))
    assert (score[:, 150 - 11].argmax(1) == 11).all()


def test_an_anomaly_in_the_training_data_is_trimmed_away() -> None:
    noise = second_order(1, 4000, 19)
    spoiled = noise.clone()
    spoiled[0, 2000:2060] += 12
    later = Windows.of(second_order(1, 1000, 20), 24)
    clean, dirty = (AutoregressiveDetector().fit(Windows.of(x, 24)).score(later) for x in (noise, spoiled))
    torch.testing.assert_close(clean, dirty, atol=0.3, rtol=0.1)


def test_a_member_all_of_whose_windows_hold_a_trimmed_block_is_still_scaled() -> None:
    series = second_order(1, 500, 21)
    series[0, 245:255] += 20
    detector = AutoregressiveDetector(AutoregressiveConfig(window=256)).fit(Windows.of(series, 256))
    state = detector.state()
    assert not torch.equal(state["part_scale"], torch.ones(1, 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"order": 0}, "order must be at least 1 step, got 0"),
        ({"seasonal": -1}, r"seasonal must be at least 0 steps \(0 for none\), got -1"),
        ({"ridge": -0.1}, "ridge must be at least 0 and below 1, got -0.1"),
        ({"trim": 0.5}, "trim must be at least 0 and below 0.5, got 0.5"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoregressiveConfig(**wrong)  # type: ignore[arg-type]  # wrong on purpose
