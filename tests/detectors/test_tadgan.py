"""TadGAN's game, its networks and what is frozen at fit."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from detectors.maths.wasserstein import slope_penalty
from detectors.tadgan import (
    TadganConfig,
    TadganDetector,
    _deck,
    _in_training,
    _networks_of,
    _range,
    critic_loss,
)
from detectors.windows import Windows

WINDOW = 16


def waves(n: int, n_points: int, seed: int = 0) -> Tensor:
    noise = torch.randn(n, n_points, generator=torch.Generator().manual_seed(seed))
    return (torch.sin(torch.arange(n_points) / 3) + 0.2 * noise).unsqueeze(2)


@pytest.fixture(scope="module")
def fitted() -> TadganDetector:
    return TadganDetector(TadganConfig(window=WINDOW, steps=140)).fit(Windows.of(waves(1, 900), WINDOW))


@pytest.fixture(scope="module")
def unseen() -> Windows:
    return Windows.of(waves(1, 400, seed=9), WINDOW)


# -- the losses ---------------------------------------------------------------------------------


def line(slope: float) -> nn.Module:
    """A critic whose slope is ``slope`` everywhere."""
    critic = nn.Linear(4, 1, bias=False)
    critic.weight.data = torch.tensor([[slope, 0.0, 0.0, 0.0]])
    return nn.Sequential(critic, nn.Flatten(0))


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_the_penalty_is_the_square_of_the_slopes_distance_from_one(slope: float) -> None:
    real, fake = torch.randn(8, 4), torch.randn(8, 4)
    found = slope_penalty(line(slope), real, fake, torch.rand(8, 1))
    assert found.tolist() == pytest.approx([(slope - 1) ** 2] * 8, abs=1e-4)


def test_a_flat_critic_still_gets_a_finite_gradient() -> None:
    critic = line(0.0)
    (gradient,) = torch.autograd.grad(
        critic_loss(critic, torch.zeros(8, 4), torch.ones(8, 4)), critic.parameters()
    )
    assert gradient.isfinite().all()


def test_a_critic_earns_what_it_gives_to_real_and_takes_from_fake() -> None:
    loss = critic_loss(line(1.0), torch.full((8, 4), 2.0), torch.full((8, 4), -1.0))
    assert loss.item() == pytest.approx(-1.0 - 2.0, abs=1e-4)


# -- what teaches -------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 20))
def test_every_window_teaches_and_none_is_dropped(n: int, size: int) -> None:
    drawn = torch.cat(list(islice(_deck(n, size), n)))
    counts = drawn.bincount(minlength=n)
    assert len(drawn) == n * size
    assert int(counts.max() - counts.min()) <= 1


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(0, 30))
def test_steps_in_training_are_those_a_teaching_window_covers(seed: int, window: int, more: int) -> None:
    n_windows = more + 1
    weight = (torch.rand(1, n_windows, generator=torch.Generator().manual_seed(seed)) < 0.2).float()
    windows = Windows.of(torch.zeros(1, n_windows + window - 1, 1), window, weight=weight)
    slow = torch.zeros(windows.n_points, dtype=torch.bool)
    for at in range(n_windows):
        slow[at : at + window] |= bool(weight[0, at])
    assert torch.equal(_in_training(windows), slow)


def test_the_range_comes_from_training_windows_alone() -> None:
    series = torch.linspace(0, 1, 200).view(1, 200, 1).clone()
    series[0, 150:] = 1000.0
    weight = torch.ones(1, 200 - 9)
    weight[0, 100:] = 0
    low, high = _range(Windows.of(series, 10, weight=weight))
    assert 0 <= float(low) < 0.02
    assert 0.5 < float(high) < 0.6


def test_a_constant_channel_has_a_range() -> None:
    low, high = _range(Windows.of(torch.full((1, 50, 2), 7.0), 10))
    assert low.tolist() == [6.0, 6.0]
    assert high.tolist() == [8.0, 8.0]


# -- the networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("networks", ["conv", "lstm"])
@pytest.mark.parametrize("window", [1, 2, 7, 8, 16, 17, 33, 100])
def test_networks_of_any_window_return_windows(networks: str, window: int) -> None:
    config = TadganConfig(window=window, networks=networks)  # type: ignore[arg-type]
    parts = _networks_of(config, 3)
    x = torch.randn(5, window, 3)
    assert parts.encoder(x).shape == (5, 20)
    assert parts.reconstruct(x).shape == x.shape
    assert parts.reconstruct(x).abs().max() <= 1
    assert parts.critic_x(x).shape == (5,)


def test_the_signal_is_learned_from_a_short_series(fitted: TadganDetector, unseen: Windows) -> None:
    clean = torch.sin(torch.arange(400) / 3).unfold(0, WINDOW, 1)
    error = (fitted.expect(unseen).mean[0, :, :, 0] - clean).square().mean()
    assert float(error) < 0.1, "half of the signal's variance is .25"


def test_a_spike_stands_out_in_the_newest_step(fitted: TadganDetector, unseen: Windows) -> None:
    spiked = unseen.series.clone()
    spiked[:, 200] += 3
    live = fitted.score(Windows.of(spiked, WINDOW))[0, 200 - WINDOW + 1, -1]
    assert live > 2 * fitted.score(unseen)[0, :, -1].quantile(0.99)


def test_the_recurrent_networks_are_there_by_name(unseen: Windows) -> None:
    config = TadganConfig(window=WINDOW, networks="lstm", steps=2, error="dtw", combine="sum")
    detector = TadganDetector(config).fit(unseen)
    assert detector.score(unseen).isfinite().all()
    assert detector.encode(unseen.span(0, 5)).shape == (1, 5, 20)


@pytest.mark.parametrize("error", ["point", "area", "dtw"])
@pytest.mark.parametrize("combine", ["mult", "sum", "rec"])
def test_every_error_and_combination_scores(error: str, combine: str, unseen: Windows) -> None:
    config = TadganConfig(window=WINDOW, steps=1, batch=8, error=error, combine=combine)  # type: ignore[arg-type]
    detector = TadganDetector(config).fit(unseen)
    assert detector.score(unseen).isfinite().all()


def test_what_is_frozen_at_fit_makes_usual_errors_of_unit_size(fitted: TadganDetector) -> None:
    config = TadganConfig(window=WINDOW, steps=140, combine="sum")
    alone = TadganDetector.load(config, fitted.state())
    scores = alone.score(Windows.of(waves(1, 900), WINDOW))
    assert 0.2 < float(scores.mean()) < 1.5


def test_a_weak_change_of_the_whole_window_shows_in_its_newest_step(
    fitted: TadganDetector, unseen: Windows
) -> None:
    shifted = unseen.series.clone()
    shifted[:, 300:] += 0.4
    alone = TadganDetector.load(replace(fitted.config, together=0.0), fitted.state())

    def lifted(detector: TadganDetector) -> float:
        usual = detector.score(unseen)[:, :, -1].quantile(0.99)
        return float((detector.score(Windows.of(shifted, WINDOW))[:, 300:, -1] > usual).float().mean())

    assert lifted(fitted) > 1.5 * lifted(alone)


def test_a_score_joins_step_window_and_critic(fitted: TadganDetector, unseen: Windows) -> None:
    """One window with a gap, in slow arithmetic."""
    hide = torch.zeros(unseen.n_targets, unseen.n_points, dtype=torch.bool)
    hide[:, 105:108] = True
    windows = unseen.hidden(hide).span(100, 101)
    state = {name: value[0] for name, value in fitted.state().items()}
    networks = fitted._networks(0)
    ((_, x, kept),) = list(fitted._batches(windows, 0, networks))
    with torch.no_grad():
        off = (x - networks.reconstruct(x)).abs()[0, :, 0]
        opinion = networks.critic_x(x)[0]
    seen = kept[0, :, 0]
    whole = max(float((off[seen].mean() - state["error_mean"].mean()) / state["window_sd"]), 0.0)
    critic = abs(float((opinion - state["critic_mean"]) / state["critic_sd"])) + 1
    for t in range(WINDOW):
        own = float((off[t] - state["error_mean"][t]) / state["error_sd"][t]) if seen[t] else 0.0
        expected = critic * (math.hypot(max(own, 0.0), whole) + 1)
        assert float(fitted.score(windows)[0, 0, t]) == pytest.approx(expected, rel=1e-3)


def test_values_beyond_the_range_are_not_clipped(fitted: TadganDetector, unseen: Windows) -> None:
    far, farther = unseen.series.clone(), unseen.series.clone()
    far[:, 200] += 10
    farther[:, 200] += 100
    scores = [fitted.score(Windows.of(x, WINDOW))[0, 195, 5] for x in (far, farther)]
    assert scores[1] > 5 * scores[0]


def test_training_leaves_the_global_generator_alone(unseen: Windows) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    TadganDetector(TadganConfig(window=WINDOW, steps=1)).fit(unseen)
    assert torch.equal(torch.rand(4), expected)


def test_a_member_that_cannot_be_trained_fails_alone_and_scores_by_distance() -> None:
    windows = Windows.of(waves(2, 120), WINDOW)
    weight = windows.weight.clone()
    weight[1] = 0
    detector = TadganDetector(TadganConfig(window=WINDOW, steps=2)).fit(windows.weighted(weight))
    assert detector.state()["failed"].tolist() == [False, True]
    torch.testing.assert_close(detector.score(windows)[1], windows.values[1, :, :, 0].square())


def test_training_that_diverges_is_reported_and_leaves_finite_weights(unseen: Windows) -> None:
    detector = TadganDetector(TadganConfig(window=WINDOW, steps=2, rate=1e30)).fit(unseen)
    assert detector.state()["failed"].tolist() == [True]
    assert all(bool(value.isfinite().all()) for value in detector.state().values())
    assert detector.score(unseen).isfinite().all()


def test_absurd_values_do_not_break_training() -> None:
    series = waves(1, 400)
    series[0, 100] = 1e38
    detector = TadganDetector(TadganConfig(window=WINDOW, steps=2)).fit(Windows.of(series, WINDOW))
    assert detector.state()["failed"].tolist() == [False]
    assert detector.score(Windows.of(series, WINDOW)).isfinite().all()


def test_progress_rises_to_one(unseen: Windows) -> None:
    shares: list[float] = []
    both = Windows.of(unseen.series.repeat(2, 1, 1), WINDOW)
    TadganDetector(TadganConfig(window=WINDOW, steps=4, check_every=2)).fit(both, on_progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": "mlp"}, "networks must be one of conv, lstm, got 'mlp'"),
        ({"error": "square"}, "error must be one of point, area, dtw, got 'square'"),
        ({"together": -1.0}, "together must be a number from 0, got -1.0"),
        ({"combine": "max"}, "combine must be one of mult, sum, rec, got 'max'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"rate": 0}, "rate must be above 0, got 0"),
        ({"trim": math.inf}, r"trim must be a share in \[0, 1\), got inf"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TadganConfig(**options)  # type: ignore[arg-type]
