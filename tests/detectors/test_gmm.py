from __future__ import annotations

import math

import naive
import numpy as np
import pytest
import torch
from torch import Tensor

from detectors.gmm import GmmConfig, GmmDetector
from detectors.maths import mixture
from detectors.maths.mixture import Mixture
from detectors.windows import Windows


def two_regimes(n: int, points: int, seed: int) -> Tensor:
    """Series that stay about -2 or about 2, and change sides every 50 steps."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.where((torch.arange(points) // 50) % 2 == 0, 2.0, -2.0)
    return (side + 0.3 * torch.randn(n, points, generator=generator)).unsqueeze(2)


def clusters(centres: Tensor, each: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = 0.3 * torch.randn(len(centres), each, centres.shape[1], generator=generator)
    return (centres.unsqueeze(1) + spread).reshape(1, -1, centres.shape[1])


@pytest.fixture(scope="module")
def fitted() -> GmmDetector:
    config = GmmConfig(window=6, latent=3, components=(2, 4))
    return GmmDetector(config).fit(Windows.of(two_regimes(2, 1500, 0), 6))


def test_a_regime_between_two_normal_ones_is_odd_to_a_mixture(fitted: GmmDetector) -> None:
    """What a single normal distribution would call the most normal of all."""
    between = Windows.of(torch.zeros(2, 30, 1), 6)
    usual = fitted.log_prob(Windows.of(two_regimes(2, 1500, 1), 6))
    assert (fitted.log_prob(between).amax(1) < usual.quantile(0.2, dim=1)).all()
    settled = fitted.score(Windows.of(torch.full((2, 30, 1), 2.0), 6))
    assert fitted.score(between).min() > settled.max()


def test_log_prob_is_that_of_the_components_one_by_one(fitted: GmmDetector) -> None:
    windows = Windows.of(two_regimes(2, 120, 2), 6)
    hidden = windows.hidden(torch.rand(2, 120, generator=torch.Generator().manual_seed(3)) < 0.2)
    for given in (windows, hidden):
        found = fitted.log_prob(given)
        for target in range(2):
            for s in range(0, given.n_windows, 7):
                seen = ~given.mask[target, s, :, 0].numpy()
                x = given.values[target, s, :, 0].double().numpy()[seen]
                densities = [
                    weight * math.exp(naive.normal_log_density(mean[seen], covariance[np.ix_(seen, seen)], x))
                    for weight, mean, covariance in _components(fitted, target)
                ]
                assert found[target, s] == pytest.approx(math.log(sum(densities)), rel=1e-3, abs=1e-3)


def test_expect_is_the_mean_over_the_components_given_what_was_seen(fitted: GmmDetector) -> None:
    windows = Windows.of(two_regimes(1, 6, 4), 6).select([0, 0])
    hide = torch.tensor([[False, False, True, True, True, True]] * 2)
    expected = fitted.expect(windows.hidden(hide))
    assert (expected.mean[:, 0, 2:, 0] - 2).abs().max() < 0.4
    hidden_altogether = fitted.expect(windows.hidden(torch.ones_like(hide)))
    assert hidden_altogether.mean.abs().max() < 0.7
    assert hidden_altogether.scale is not None
    assert hidden_altogether.scale.min() > 1.5


def test_samples_come_from_both_regimes(fitted: GmmDetector) -> None:
    level = fitted.sample(2000).mean((2, 3))
    assert ((level > 1.5).float().mean(1) > 0.35).all()
    assert ((level < -1.5).float().mean(1) > 0.35).all()


def test_responsibilities_sum_to_one(fitted: GmmDetector) -> None:
    shares = fitted.encode(Windows.of(two_regimes(2, 100, 5), 6))
    torch.testing.assert_close(shares.sum(2), torch.ones(2, 95))


@pytest.mark.parametrize("number", [2, 4])
def test_bic_finds_the_number_of_clusters(number: int) -> None:
    corners = torch.tensor([[3.0, 3.0], [-3.0, -3.0], [3.0, -3.0], [-3.0, 3.0]])[:number]
    z = clusters(corners, 400, 6)
    fitted = mixture.fit(z, torch.tensor([True]), (2, 4, 8), samples=torch.tensor([1600.0]), seed=0)
    assert (fitted.weight > 0).sum() == number
    found = fitted.mean[0, :number]
    away = torch.cdist(found, corners.double()).amin(1)
    assert away.max() < 0.1


def test_every_round_of_maximisation_raises_the_likelihood() -> None:
    z = torch.randn(1, 500, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    z = torch.cat([z, 0.5 * z + 2], dim=1)
    current = mixture._start(z, 4, seed=0)
    features = mixture._features(z)
    before = -math.inf
    for _ in range(15):
        joint = current.log_joint(z)
        total = joint.logsumexp(2, keepdim=True)
        # The weak prior on the covariances may cost a hair of plain likelihood.
        assert total.mean() > before - 1e-3
        before = float(total.mean())
        current = mixture._maximised((joint - total).exp(), features, 3)
    assert before > -5.5


def test_a_member_without_data_gets_a_standard_normal() -> None:
    z = torch.cat([clusters(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), 200, 8), torch.zeros(1, 400, 2)])
    fitted = mixture.fit(z, torch.tensor([True, False]), (2,), samples=torch.tensor([400.0, 0.0]), seed=0)
    standard = Mixture.standard(1, 2, 2)
    assert torch.equal(fitted.weight[1:], standard.weight)
    assert torch.equal(fitted.covariance[1:], standard.covariance)


def test_a_default_member_takes_at_most_64_kib() -> None:
    for window in (24, 128):
        series = two_regimes(1, 1000, 9)
        state = GmmDetector(GmmConfig(window=window)).fit(Windows.of(series, window)).state()
        assert sum(t.numel() * t.element_size() for t in state.values()) <= 64 * 1024


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"components": (8, 4)}, "components must be ascending numbers from 1, got"),
        ({"components": ()}, "components must be ascending numbers from 1, got"),
        ({"trim": -0.1}, "trim must be at least 0 and below 0.5, got -0.1"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GmmConfig(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def _components(detector: GmmDetector, target: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Weight, mean and covariance of every component as a distribution of windows."""
    state = {name: tensor[target].double().numpy() for name, tensor in detector.state().items()}
    axes, loadings = state["axes"], state["axes"] * state["spread"]
    whole = np.zeros((len(axes), len(axes)))
    whole[np.tril_indices(len(axes))] = state["base_covariance"]
    rest = np.tril(whole) + np.tril(whole, -1).T - loadings @ loadings.T
    return [
        (float(weight), state["mean"] + loadings @ centre, loadings @ covariance @ loadings.T + rest)
        for weight, centre, covariance in zip(
            state["weight"], state["centre"], state["covariance"], strict=True
        )
        if weight > 0
    ]
