"""What an autoencoder rebuilds, what it calls odd, and the mathematics of its noise."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from torch import Tensor

from detectors.autoencoder import AutoencoderConfig, AutoencoderDetector, _Model, _Network
from detectors.stacked import TrainingBatch
from detectors.windows import Windows

WINDOW = 12


def waves(n: int, n_points: int, seed: int = 0) -> Tensor:
    noise = torch.randn(n, n_points, generator=torch.Generator().manual_seed(seed))
    return (torch.sin(torch.arange(n_points) / 3) + 0.3 * noise).unsqueeze(2)


def two_regimes(n: int, n_points: int, seed: int) -> Tensor:
    """Series that stay about -2 or about 2, and change sides every 50 steps."""
    side = torch.where((torch.arange(n_points) // 50) % 2 == 0, 2.0, -2.0)
    noise = torch.randn(n, n_points, generator=torch.Generator().manual_seed(seed))
    return (side + 0.3 * noise).unsqueeze(2)


@pytest.fixture(scope="module")
def fitted() -> AutoencoderDetector:
    windows = Windows.of(waves(2, 1500), WINDOW)
    return AutoencoderDetector(AutoencoderConfig(window=WINDOW, latent=3)).fit(windows)


@pytest.fixture(scope="module")
def unseen() -> Windows:
    return Windows.of(waves(2, 600, seed=9), WINDOW)


@pytest.fixture(scope="module")
def regimes() -> AutoencoderDetector:
    config = AutoencoderConfig(window=6, latent=2)
    return AutoencoderDetector(config).fit(Windows.of(two_regimes(1, 2000, 0), 6))


def model_of(detector: AutoencoderDetector) -> _Model:
    return detector._model(slice(None))


# -- loss -----------------------------------------------------------------------------------------


def loss_of(error: Tensor, kept: Tensor | None = None) -> Tensor:
    """Loss of windows whose reconstruction is 0 everywhere."""
    network = _Network(AutoencoderConfig(window=error.shape[2]), error.shape[2])
    initial = network.initial(torch.Generator().manual_seed(0))
    nothing = {name: torch.zeros(1, *value.shape) for name, value in initial.items()}
    batch = TrainingBatch(error, torch.ones_like(error) if kept is None else kept)
    return network.loss(nothing, batch, torch.Generator().manual_seed(1))


def test_a_small_error_costs_half_its_square_and_a_large_one_its_size() -> None:
    small, large = torch.full((1, 1, 1), 0.1), torch.full((1, 1, 1), 1000.0)
    assert loss_of(small).item() == pytest.approx(0.005, rel=1e-2)
    assert loss_of(2 * large).item() == pytest.approx(2 * loss_of(large).item(), rel=1e-2)


def test_missing_values_teach_nothing() -> None:
    kept = torch.ones(1, 5, WINDOW)
    kept[:, :, 3] = 0
    values = torch.randn(1, 5, WINDOW)
    other = values.clone()
    other[:, :, 3] = 40.0
    torch.testing.assert_close(loss_of(values, kept), loss_of(other, kept))


@pytest.mark.parametrize("sd", [0.7, 1.0])
def test_with_noise_the_way_to_the_reconstruction_is_the_slope_of_the_log_density(sd: float) -> None:
    """Vincent 2011: over the squared noise, of the density of what is seen, noise and all."""
    values = torch.randn(1, 4000, 1, generator=torch.Generator().manual_seed(3))
    config = AutoencoderConfig(window=1, latent=1, noise=sd, steps=600, batch=256, trim=0.0)
    model = model_of(AutoencoderDetector(config).fit(Windows.of(values, 1)))
    x = torch.linspace(-1.5, 1.5, 31).view(1, -1, 1)
    slope = (model.reconstruct(x) - x) / sd**2
    assert (slope - -x / (1 + sd**2)).abs().mean() < 0.15


def test_without_noise_the_reconstruction_stays_where_it_is() -> None:
    values = torch.randn(1, 4000, 1, generator=torch.Generator().manual_seed(3))
    config = AutoencoderConfig(window=1, latent=1, steps=300, trim=0.0)
    model = model_of(AutoencoderDetector(config).fit(Windows.of(values, 1)))
    x = torch.linspace(-1.5, 1.5, 31).view(1, -1, 1)
    assert (model.reconstruct(x) - x).abs().mean() < 0.1


def test_spikes_in_the_history_do_not_move_what_is_expected(
    fitted: AutoencoderDetector, unseen: Windows
) -> None:
    history = waves(2, 1500)
    history[:, 60::100] += 1e4
    spoiled = AutoencoderDetector(fitted.config).fit(Windows.of(history, WINDOW))
    clean = torch.sin(torch.arange(600) / 3).unfold(0, WINDOW, 1)
    for detector in (fitted, spoiled):
        expected = detector.expect(unseen)
        assert float((expected.mean[..., 0] - clean).square().mean()) < 0.06
        assert expected.scale is not None
        assert 0.15 < float(expected.scale.median()) < 0.4


# -- score ----------------------------------------------------------------------------------------


def test_a_score_is_that_of_the_slow_twin_with_and_without_gaps(
    fitted: AutoencoderDetector, unseen: Windows
) -> None:
    hide = torch.rand(2, 600, generator=torch.Generator().manual_seed(4)) < 0.08
    for given in (unseen, unseen.hidden(hide)):
        scores = fitted.score(given)
        for target in range(2):
            state = {name: value[target].double().numpy() for name, value in fitted.state().items()}
            for s in (0, 100, 307):
                x, missing = given.values[target, s, :, 0], given.mask[target, s, :, 0]
                slow = naive.autoencoder_score(state, x.double().numpy(), missing.numpy(), 10)
                torch.testing.assert_close(
                    scores[target, s], torch.from_numpy(slow).float(), rtol=1e-3, atol=1e-3
                )


def test_a_regime_between_two_normal_ones_is_odd_though_it_is_reconstructed(
    regimes: AutoencoderDetector,
) -> None:
    between = Windows.of(torch.zeros(1, 30, 1), 6)
    usual = Windows.of(two_regimes(1, 1000, 1), 6)
    assert regimes.expect(between).mean.abs().max() < 1.0
    assert regimes.score(between).min() > regimes.score(usual).quantile(0.9)


def test_an_odd_code_counts_where_the_residual_does_not(fitted: AutoencoderDetector) -> None:
    parts = model_of(fitted).parts(3 * waves(2, 600, seed=5).unfold(1, WINDOW, 1).transpose(2, 3), None)
    usual = model_of(fitted).parts(waves(2, 600, seed=5).unfold(1, WINDOW, 1).transpose(2, 3), None)
    assert (parts[:, :, 0].median(1).values > usual[:, :, 0].quantile(0.99, dim=1)).all()


# -- codes ----------------------------------------------------------------------------------------


def test_whitened_codes_have_mean_zero_and_unit_covariance(fitted: AutoencoderDetector) -> None:
    codes = fitted.encode(Windows.of(waves(2, 1500), WINDOW))
    usual = model_of(fitted).codes
    white = usual.whitened(codes)
    assert white.mean(1).abs().max() < 0.15
    for member in white:
        torch.testing.assert_close(member.T.cov(), torch.eye(3), rtol=0, atol=0.2)
    torch.testing.assert_close(usual.coloured(white), codes, rtol=1e-3, atol=1e-3)


def test_the_mixture_has_the_number_of_components_that_the_regimes_ask_for(
    regimes: AutoencoderDetector, fitted: AutoencoderDetector
) -> None:
    assert AutoencoderConfig(components=8).counts() == (1, 2, 4, 8)
    assert AutoencoderConfig(components=7).counts() == (1, 2, 4)
    assert int((regimes.state()["weight"] > 0).sum()) >= 2


def test_samples_come_from_both_regimes(regimes: AutoencoderDetector) -> None:
    level = regimes.sample(2000).mean((2, 3))
    assert ((level > 1.5).float().mean(1) > 0.35).all()
    assert ((level < -1.5).float().mean(1) > 0.35).all()


def test_samples_are_as_noisy_as_windows(regimes: AutoencoderDetector) -> None:
    drawn, real = regimes.sample(2000), Windows.of(two_regimes(1, 2000, 2), 6).values
    within = [x.std(dim=2, keepdim=True).median().item() for x in (drawn, real)]
    assert within[0] == pytest.approx(within[1], rel=0.2)


# -- expect ---------------------------------------------------------------------------------------


def test_missing_steps_are_filled_with_what_was_normal(fitted: AutoencoderDetector, unseen: Windows) -> None:
    hide = torch.zeros(2, 600, dtype=torch.bool)
    hide[:, 300:303] = True
    covering = fitted.expect(unseen.hidden(hide)).mean[:, 300 - 6, 6:9, 0]
    assert (covering - torch.sin(torch.arange(300, 303) / 3)).abs().max() < 0.5


def test_the_scale_is_the_usual_residual_of_that_place(fitted: AutoencoderDetector, unseen: Windows) -> None:
    expected = fitted.expect(unseen)
    assert expected.scale is not None
    within = ((unseen.values - expected.mean).abs() < expected.scale).float().mean((1, 3))
    assert (within - 0.683).abs().max() < 0.1


def test_a_member_without_training_windows_reconstructs_the_median(unseen: Windows) -> None:
    weight = torch.ones_like(unseen.weight)
    weight[0] = 0
    detector = AutoencoderDetector(AutoencoderConfig(window=WINDOW, steps=8)).fit(unseen.weighted(weight))
    assert detector.state()["failed"].tolist() == [True, False]
    expected = detector.expect(unseen)
    assert expected.mean[0].abs().max() == 0.0
    assert expected.mean[1].abs().max() > 0.0
    assert detector.encode(unseen)[0].abs().max() == 0.0


def test_a_default_member_is_small() -> None:
    detector = AutoencoderDetector(AutoencoderConfig(steps=1)).fit(Windows.of(waves(1, 100), 24))
    assert sum(value.numel() * value.element_size() for value in detector.state().values()) < 56 * 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"noise": -0.1}, "noise must be a number from 0, got -0.1"),
        ({"noise": math.nan}, "noise must be a number from 0, got nan"),
        ({"sd_floor": 0.0}, "sd_floor must be above 0, got 0.0"),
        ({"trim": 1.0}, r"trim must be a share in \[0, 1\), got 1.0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig(**options)  # type: ignore[arg-type]  # wrong on purpose
