"""Donut's losses and densities, against quadrature and slow twins."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from detectors.maths import stored
from detectors.stacked import TrainingBatch
from detectors.vae import VaeConfig, VaeDetector, _VaeNetwork
from detectors.windows import Windows

WINDOW = 12


def waves(n: int, n_points: int, seed: int = 0) -> Tensor:
    noise = torch.randn(n, n_points, generator=torch.Generator().manual_seed(seed))
    return (torch.sin(torch.arange(n_points) / 3) + 0.3 * noise).unsqueeze(2)


@pytest.fixture(scope="module")
def fitted() -> VaeDetector:
    windows = Windows.of(waves(2, 1500), WINDOW)
    return VaeDetector(VaeConfig(window=WINDOW, steps=300)).fit(windows)


@pytest.fixture(scope="module")
def unseen() -> Windows:
    return Windows.of(waves(2, 600, seed=9), WINDOW)


def test_missing_values_teach_nothing() -> None:
    config = VaeConfig(window=WINDOW)
    network = _VaeNetwork(config, WINDOW)
    params = {
        name: value.unsqueeze(0) for name, value in network.initial(torch.Generator().manual_seed(0)).items()
    }
    kept = torch.ones(1, 5, WINDOW)
    kept[:, :, 3] = 0
    values = torch.randn(1, 5, WINDOW)
    other = values.clone()
    other[:, :, 3] = 40.0
    losses = [
        network.loss(params, TrainingBatch(x, kept), torch.Generator().manual_seed(1))
        for x in (values, other)
    ]
    torch.testing.assert_close(*losses)


def test_a_window_all_missing_costs_nothing() -> None:
    network = _VaeNetwork(VaeConfig(window=WINDOW), WINDOW)
    params = {
        name: value.unsqueeze(0) for name, value in network.initial(torch.Generator().manual_seed(0)).items()
    }
    nothing = TrainingBatch(torch.zeros(1, 2, WINDOW), torch.zeros(1, 2, WINDOW))
    loss = network.loss(params, nothing, torch.Generator().manual_seed(1))
    assert loss.tolist() == [[0.0, 0.0]]


def test_the_bound_agrees_with_quadrature_over_the_latent() -> None:
    config = VaeConfig(window=2, latent=1, steps=300, bound_draws=2000)
    detector = VaeDetector(config).fit(Windows.of(waves(1, 800), 2))
    windows = Windows.of(waves(1, 60, seed=5), 2)
    z = torch.linspace(-8, 8, 4001)
    state = {name: value[0] for name, value in detector.state().items()}
    decoded = _VaeNetwork(config, 2).decode(detector.state(), z.view(1, -1, 1))
    x = windows.values[0, :, None, :, 0]
    correlation = stored.symmetric(state["correlation"].unsqueeze(0), 2)[0].float()
    width = decoded.sd[0] * state["spread"]
    noise = MultivariateNormal(decoded.mean[0], width.unsqueeze(2) * correlation * width.unsqueeze(1))
    components = Normal(state["centre"][:, 0], state["covariance"][:, 0, 0].sqrt())
    white = (z - state["latent_mean"]) / state["latent_root"][0, 0]
    used = state["weight"] > 0
    prior = (components.log_prob(white.unsqueeze(1)) + state["weight"].log())[:, used].logsumexp(1)
    joint = noise.log_prob(x) + prior - state["latent_root"][0, 0].log()
    exact = joint.logsumexp(dim=1) + math.log(float(z[1] - z[0]))
    torch.testing.assert_close(detector.log_prob(windows)[0], exact, rtol=0.05, atol=0.1)


def test_a_score_is_the_slow_mean_over_its_latent_draws(fitted: VaeDetector, unseen: Windows) -> None:
    network, state = _VaeNetwork(fitted.config, WINDOW), fitted.state()
    x = unseen.values[:, 17:18].reshape(2, 1, WINDOW)
    posterior = network.posterior(state, x)
    errors = []
    for noise in fitted._noise(fitted.config.draws):
        decoded = network.decode(state, posterior.mean + posterior.sd * noise)
        errors.append(-torch.distributions.Normal(decoded.mean, decoded.sd).log_prob(x))
    error = torch.stack(errors).mean(dim=0)[:, 0]
    proposal = torch.distributions.Normal(posterior.mean, posterior.sd)
    prior = torch.distributions.Normal(0.0, 1.0)
    distance = torch.distributions.kl_divergence(proposal, prior).sum(dim=2)
    decoded = [network.decode(state, posterior.mean + posterior.sd * noise) for noise in fitted._noise(4)]
    sd = torch.stack([each.sd for each in decoded]).mean(dim=0)[:, 0]
    mean = torch.stack([each.mean for each in decoded]).mean(dim=0)[:, 0]
    width = sd * state["spread"]
    correlation = stored.symmetric(state["correlation"], WINDOW).float()
    noise = MultivariateNormal(mean, width.unsqueeze(2) * correlation * width.unsqueeze(1))
    at_once = -noise.log_prob(x[:, 0]).unsqueeze(1)
    whole = 0.7 * error.sum(dim=1, keepdim=True) + 0.3 * at_once + distance
    slow = error + fitted.config.together * math.sqrt(WINDOW) * whole / WINDOW
    torch.testing.assert_close(fitted.score(unseen)[:, 17], slow, rtol=1e-4, atol=1e-4)


def test_a_weak_shift_that_lasts_shows_in_the_newest_step(fitted: VaeDetector, unseen: Windows) -> None:
    shifted = unseen.series.clone()
    shifted[:, 300:] += 0.5
    alone = VaeDetector.load(VaeConfig(window=WINDOW, steps=300, together=0.0), fitted.state())

    def share_above(detector: VaeDetector) -> float:
        line = detector.score(unseen)[:, :, -1].quantile(0.99, dim=1, keepdim=True)
        live = detector.score(Windows.of(shifted, WINDOW))[:, 300:, -1]
        return float((live > line).float().mean())

    assert share_above(fitted) > 1.5 * share_above(alone)


def test_missing_steps_are_filled_with_what_was_normal(fitted: VaeDetector, unseen: Windows) -> None:
    hide = torch.zeros(2, 600, dtype=torch.bool)
    hide[:, 300:303] = True
    expected = fitted.expect(unseen.hidden(hide)).mean
    covering = expected[:, 300 - 6, 6:9, 0]
    clean = torch.sin(torch.arange(300, 303) / 3)
    assert (covering - clean).abs().max() < 0.5


def test_the_training_signal_is_reconstructed(fitted: VaeDetector, unseen: Windows) -> None:
    expected = fitted.expect(unseen)
    clean = torch.sin(torch.arange(600) / 3).unfold(0, WINDOW, 1)
    assert float((expected.mean[:, :, :, 0] - clean).square().mean()) < 0.04
    assert expected.scale is not None
    assert 0.2 < float(expected.scale.median()) < 0.4


def test_the_standard_deviation_of_a_place_is_the_same_in_every_window(
    fitted: VaeDetector, unseen: Windows
) -> None:
    scale = fitted.expect(unseen).scale
    assert scale is not None
    assert torch.equal(scale, scale[:, :1].expand_as(scale))


def test_where_it_depends_on_the_latent_it_follows_the_noise() -> None:
    """Noise that is three times as loud in every other stretch, which the level announces."""
    loud = (torch.arange(2000) // 40) % 2 == 1
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(3))
    series = torch.where(loud, 2 + 0.9 * noise, -2 + 0.3 * noise).view(1, -1, 1)
    config = VaeConfig(window=WINDOW, steps=300, sd="window")
    scale = VaeDetector(config).fit(Windows.of(series, WINDOW)).expect(Windows.of(series, WINDOW)).scale
    assert scale is not None
    within = loud.unfold(0, WINDOW, 1)
    assert scale[0, within.all(1)].median() > 2 * scale[0, ~within.any(1)].median()


def test_models_of_both_forms_make_one_bank(fitted: VaeDetector, unseen: Windows) -> None:
    """So that models stored before the default changed go on beside new ones."""
    old = VaeDetector(replace(fitted.config, sd="window", steps=8)).fit(unseen)
    stacked = VaeDetector.stack([VaeDetector.load(fitted.config, old.state()), fitted])
    twice = Windows.of(unseen.series.repeat(2, 1, 1), WINDOW)
    torch.testing.assert_close(
        stacked.score(twice), torch.cat([old.score(unseen), fitted.score(unseen)]), rtol=1e-4, atol=1e-4
    )


def test_a_failed_member_scores_by_its_distance_from_the_median(fitted: VaeDetector, unseen: Windows) -> None:
    state = {**fitted.state(), "failed": torch.tensor([True, False])}
    broken = VaeDetector.load(fitted.config, state)
    error = 0.5 * unseen.values[0, :, :, 0].square() + 0.5 * math.log(2 * math.pi)
    expected = error + fitted.config.together * math.sqrt(WINDOW) * error.mean(dim=1, keepdim=True)
    torch.testing.assert_close(broken.score(unseen)[0], expected)
    torch.testing.assert_close(broken.score(unseen)[1], fitted.score(unseen)[1])


def test_a_default_member_is_small() -> None:
    detector = VaeDetector(VaeConfig(steps=1)).fit(Windows.of(waves(1, 100), 24))
    assert sum(value.numel() * value.element_size() for value in detector.state().values()) < 64 * 1024


def test_a_group_shares_one_model(unseen: Windows) -> None:
    pooled = Windows.of(waves(3, 400), WINDOW).pooled()
    detector = VaeDetector(VaeConfig(window=WINDOW, steps=30)).fit(pooled)
    assert detector.n_targets == 1
    assert detector.score(unseen.select([1])).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 3}, "draws must be even and at least 2 .* got 3"),
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"sd": "step"}, "sd must be one of place, window, got 'step'"),
        ({"sd_floor": 0.0}, "sd_floor must be above 0, got 0.0"),
        ({"missing": 1.0}, r"missing must be a share in \[0, 1\), got 1.0"),
        ({"together": -1.0}, "together must be at least 0, got -1.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VaeConfig(**options)  # type: ignore[arg-type]
