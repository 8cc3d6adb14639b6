from __future__ import annotations

import math

import naive
import numpy as np
import pytest
import torch
from torch import Tensor

from detectors.gaussian import GaussianConfig, GaussianDetector
from detectors.maths.normal import Normal
from detectors.windows import Windows


def autoregressive(n: int, points: int, keep: float, seed: int) -> Tensor:
    """AR(1) of unit variance."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, points, 1, generator=generator)
    for t in range(1, points):
        x[:, t] = keep * x[:, t - 1] + math.sqrt(1 - keep**2) * x[:, t]
    return x


@pytest.fixture(scope="module", params=["full", "ppca"])
def fitted(request: pytest.FixtureRequest) -> GaussianDetector:
    config = GaussianConfig(window=6, form=request.param, components=3)
    return GaussianDetector(config).fit(Windows.of(autoregressive(2, 800, 0.8, 0), 6))


def _distribution(detector: GaussianDetector, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a member, from its state."""
    state = detector.state()
    mean = state["mean"][target].double().numpy()
    if "noise" in state:
        factors = state["factors"][target].double().numpy()
        return mean, factors @ factors.T + float(state["noise"][target]) * np.eye(len(mean))
    covariance = np.zeros((len(mean), len(mean)))
    rows, columns = np.tril_indices(len(mean))
    covariance[rows, columns] = covariance[columns, rows] = state["covariance"][target].double().numpy()
    return mean, covariance


def test_the_fitted_autocorrelation_is_that_of_the_process() -> None:
    detector = GaussianDetector(GaussianConfig(window=4)).fit(
        Windows.of(autoregressive(1, 20_000, 0.8, 1), 4)
    )
    _, covariance = _distribution(detector, 0)
    wanted = 0.8 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    np.testing.assert_allclose(covariance, wanted, atol=0.08)


def test_expect_is_the_textbook_conditional_whatever_is_missing(fitted: GaussianDetector) -> None:
    windows = Windows.of(autoregressive(2, 40, 0.8, 2), 6)
    hide = torch.rand(2, 40, generator=torch.Generator().manual_seed(3)) < 0.4
    hide[:, 10:22] = True
    windows = windows.hidden(hide)
    expected = fitted.expect(windows)
    assert expected.scale is not None
    for target in range(2):
        mean, covariance = _distribution(fitted, target)
        for s in range(windows.n_windows):
            x = windows.values[target, s, :, 0].double().numpy()
            gone = windows.mask[target, s, :, 0].numpy()
            wanted, variance = naive.conditional(mean, covariance, x, gone)
            np.testing.assert_allclose(expected.mean[target, s, :, 0], wanted, atol=1e-4)
            np.testing.assert_allclose(expected.scale[target, s, :, 0], np.sqrt(variance), rtol=1e-4)


def test_log_prob_marginalises_missing_steps_exactly(fitted: GaussianDetector) -> None:
    windows = Windows.of(autoregressive(2, 30, 0.8, 4), 6)
    windows = windows.hidden(torch.rand(2, 30, generator=torch.Generator().manual_seed(5)) < 0.3)
    found = fitted.log_prob(windows)
    for target in range(2):
        mean, covariance = _distribution(fitted, target)
        for s in range(windows.n_windows):
            seen = ~windows.mask[target, s, :, 0].numpy()
            x = windows.values[target, s, :, 0].double().numpy()[seen]
            wanted = naive.normal_log_density(mean[seen], covariance[np.ix_(seen, seen)], x)
            assert found[target, s] == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_the_whitener_gives_every_step_its_surprise_after_the_steps_before(fitted: GaussianDetector) -> None:
    mean, covariance = _distribution(fitted, 0)
    normal = Normal.of(torch.tensor(mean)[None], torch.tensor(covariance)[None])
    x = autoregressive(1, 6, 0.8, 6)[0, :, 0].double().numpy()
    found = normal.whitener[0].numpy() @ (x - mean)
    np.testing.assert_allclose(found, naive.innovations(mean, covariance, x), rtol=1e-6)


def test_the_parts_say_what_made_a_score(fitted: GaussianDetector) -> None:
    windows = Windows.of(autoregressive(2, 100, 0.8, 7), 6)
    parts = fitted.parts(windows)
    above = [
        t.clamp_min(0).square() for t in (parts.window.unsqueeze(2), parts.level.unsqueeze(2), parts.step)
    ]
    torch.testing.assert_close(fitted.score(windows), sum(above, torch.tensor(0.0)).sqrt())


def test_parts_are_about_standard_in_the_tail_of_normal_data() -> None:
    detector = GaussianDetector().fit(Windows.of(autoregressive(1, 12_000, 0.8, 8), 24))
    parts = detector.parts(Windows.of(autoregressive(1, 12_000, 0.8, 9), 24))
    for part in (parts.window, parts.level, parts.step[:, :, -1]):
        assert 2 < part.quantile(0.995) < 3.5


@pytest.mark.parametrize("window", [24, 128])
def test_a_small_shift_that_lasts_and_a_short_spike_are_both_seen_live(window: int) -> None:
    """15 % where the noise is 3 %, for 8 hours; 4 steps of a third of that."""
    noise = autoregressive(1, 4032, 0.6, 10)
    detector = GaussianDetector(GaussianConfig(window=window)).fit(Windows.of(noise, window))
    later = autoregressive(1, 2016, 0.6, 11)
    usual = detector.score(Windows.of(later, window))[0, :, -1].quantile(0.999)
    for size, length in ((5.0, 96), (1.7, 96), (5.0, 4)):
        planted = later.clone()
        planted[0, 1000 : 1000 + length] += size
        live = detector.score(Windows.of(planted, window))[0, :, -1]
        assert live[1000 - window + 1 : 1000 - window + 1 + length].max() > usual, (size, length)


def test_the_score_of_a_short_spike_peaks_inside_it() -> None:
    detector = GaussianDetector().fit(Windows.of(autoregressive(1, 4032, 0.6, 21), 24))
    planted = autoregressive(1, 400, 0.6, 22)
    planted[0, 200:203] += 6
    scores = detector.score(Windows.of(planted, 24))
    settled = torch.stack([scores[0, t - 23 : t + 1].flip(0).diagonal().mean() for t in range(150, 250)])
    assert 200 <= 150 + int(settled.argmax()) < 203


def test_missing_steps_leave_the_scores_of_normal_windows_where_they_were() -> None:
    noise = autoregressive(1, 6000, 0.8, 12)
    detector = GaussianDetector().fit(Windows.of(noise, 24))
    later = Windows.of(autoregressive(1, 6000, 0.8, 13), 24)
    whole = detector.score(later).quantile(0.99)
    hidden = later.hidden(torch.rand(1, 6000, generator=torch.Generator().manual_seed(14)) < 0.1)
    scores = detector.score(hidden)
    holed = scores[~scores.isnan()].quantile(0.99)
    assert abs(holed / whole - 1) < 0.1


def test_training_with_gaps_gives_nearly_the_model_without() -> None:
    noise = autoregressive(1, 8000, 0.8, 15)
    whole = GaussianDetector().fit(Windows.of(noise, 24))
    gaps = noise.clone()
    gaps[0, torch.rand(8000, generator=torch.Generator().manual_seed(16)) < 0.05] = torch.nan
    holed = GaussianDetector().fit(Windows.of(gaps, 24))
    (_, first), (_, second) = _distribution(whole, 0), _distribution(holed, 0)
    np.testing.assert_allclose(first, second, atol=0.06)


@pytest.mark.parametrize(("window", "channels"), [(24, 1), (128, 1), (256, 1), (64, 4)])
def test_a_member_takes_at_most_64_kib(window: int, channels: int) -> None:
    series = torch.randn(1, 2 * window + 50, channels, generator=torch.Generator().manual_seed(17))
    state = GaussianDetector(GaussianConfig(window=window)).fit(Windows.of(series, window)).state()
    assert sum(t.numel() * t.element_size() for t in state.values()) <= 64 * 1024


def test_an_anomaly_in_the_training_data_is_trimmed_away() -> None:
    noise = autoregressive(1, 4000, 0.5, 18)
    spoiled = noise.clone()
    spoiled[0, 2000:2060] += 8
    clean, dirty = (GaussianDetector().fit(Windows.of(x, 24)) for x in (noise, spoiled))
    (_, first), (_, second) = _distribution(clean, 0), _distribution(dirty, 0)
    np.testing.assert_allclose(first, second, atol=0.08)


def test_samples_have_the_covariance_of_the_model(fitted: GaussianDetector) -> None:
    samples = fitted.sample(20_000)[0, :, :, 0].double().numpy()
    mean, covariance = _distribution(fitted, 0)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.05)
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.05)


def test_the_latent_of_normal_windows_is_white() -> None:
    detector = GaussianDetector(GaussianConfig(window=8)).fit(Windows.of(autoregressive(1, 9000, 0.8, 19), 8))
    latent = detector.encode(Windows.of(autoregressive(1, 9000, 0.8, 20), 8))[0].double().numpy()
    np.testing.assert_allclose(np.cov(latent.T), np.eye(8), atol=0.15)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"form": "diagonal"}, "form must be 'auto', 'full' or 'ppca', got 'diagonal'"),
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
        ({"trim": 0.5}, "trim must be at least 0 and below 0.5, got 0.5"),
        ({"window": 0}, "window must be at least 1 step, got 0"),
        ({"components": 0}, "components must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianConfig(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_a_model_that_is_fitted_again_forgets_what_it_made_of_the_first_fit() -> None:
    first, second = (Windows.of(autoregressive(2, 300, keep, 0), 6) for keep in (0.9, 0.1))
    detector = GaussianDetector(GaussianConfig(window=6)).fit(first)
    before = detector.score(second)
    again = detector.fit(second).score(second)
    fresh = GaussianDetector(GaussianConfig(window=6)).fit(second).score(second)
    assert torch.equal(again, fresh)
    assert not torch.allclose(again, before)
