"""Diffusion of windows: untrained a normal distribution, and what it learns beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detectors.diffusion import DiffusionConfig, DiffusionDetector
from detectors.maths.linear import LinearBase
from detectors.stacked import Params
from detectors.windows import Windows

WINDOW = 8


def pulses(n: int, n_points: int, seed: int) -> Tensor:
    """Stretches as long as a window, each high or low: two kinds of windows, and their seams."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(0, 2, (n, n_points // WINDOW + 1), generator=generator) * 2.0 - 1
    noise = torch.randn(n, n_points, generator=generator)
    return (2 * side.repeat_interleave(WINDOW, 1)[:, :n_points] + 0.3 * noise).unsqueeze(2)


def whole(series: Tensor) -> Windows:
    """Windows of which only those that begin with a stretch teach: high or low, nothing between."""
    windows = Windows.of(series, WINDOW)
    return windows.weighted((torch.arange(windows.n_windows) % WINDOW == 0).expand(windows.n_targets, -1))


@pytest.fixture(scope="module")
def fitted() -> DiffusionDetector:
    """Two kinds of windows, which a normal distribution cannot tell from what lies between them."""
    config = DiffusionConfig(window=WINDOW, latent=2, steps=400, batch=128, rate=1e-2, trim=0.0)
    return DiffusionDetector(config).fit(whole(pulses(2, 4000, 1)))


@pytest.fixture(scope="module")
def unseen() -> Windows:
    windows = whole(pulses(2, 1600, 2))
    return windows.picked(torch.arange(0, windows.n_windows, WINDOW).expand(2, -1))


def untrained(detector: DiffusionDetector) -> DiffusionDetector:
    """The same with the network's head silenced."""
    state: Params = {n: t * 0 if n.startswith("head") else t for n, t in detector.state().items()}
    return DiffusionDetector.load(detector.config, state)


@pytest.mark.parametrize("latent", [3, WINDOW])
def test_untrained_it_is_the_normal_distribution_of_its_base(latent: int, unseen: Windows) -> None:
    config = DiffusionConfig(window=WINDOW, latent=latent, steps=1)
    detector = untrained(DiffusionDetector(config).fit(whole(pulses(2, 800, 1))))
    normal = LinearBase.load(detector.state()).normal
    exact = normal.log_prob(normal.about_mean(unseen.values), unseen.mask.flatten(2))
    torch.testing.assert_close(detector.log_prob(unseen).double(), exact, rtol=1e-4, atol=1e-2)


def test_trained_it_finds_windows_likelier_than_a_normal_distribution_does(
    fitted: DiffusionDetector, unseen: Windows
) -> None:
    gain = fitted.log_prob(unseen) - untrained(fitted).log_prob(unseen)
    assert (gain.mean(1) > 0.5).all()


def test_what_lies_between_two_kinds_of_windows_is_odd_to_it_alone(
    fitted: DiffusionDetector, unseen: Windows
) -> None:
    """Between the two the normal distribution has its peak."""
    zero = Windows.of(torch.zeros(2, WINDOW, 1), WINDOW)

    def lacks(detector: DiffusionDetector) -> Tensor:
        return detector.log_prob(unseen).median(1).values - detector.log_prob(zero)[:, 0]

    assert (lacks(fitted) > 1).all()
    assert (lacks(untrained(fitted)) < 0).all()


@pytest.mark.parametrize("chain", [0, 20])
def test_samples_are_of_one_kind_or_the_other(fitted: DiffusionDetector, chain: int) -> None:
    drawn = DiffusionDetector.load(replace(fitted.config, chain=chain), fitted.state())
    level = drawn.sample(400).mean(dim=(2, 3)).abs()
    between = (level < 1).float().mean(1)
    assert (between < 0.15).all(), between.tolist()
    plain = DiffusionDetector.load(drawn.config, untrained(fitted).state()).sample(400)
    assert ((plain.mean(dim=(2, 3)).abs() < 1).float().mean(1) > 0.25).all()


def test_the_shortened_chain_draws_other_samples_of_the_same_seed(fitted: DiffusionDetector) -> None:
    few = DiffusionDetector.load(replace(fitted.config, chain=10), fitted.state())
    assert torch.equal(few.sample(5), few.sample(5))
    assert not torch.allclose(few.sample(5), fitted.sample(5), atol=0.1)


@pytest.mark.parametrize("latent", [3, WINDOW])
def test_a_step_is_whitened_in_its_place(latent: int, unseen: Windows) -> None:
    """By the inverse root of the covariance that is symmetric, of all whitenings the nearest to no change."""
    config = DiffusionConfig(window=WINDOW, latent=latent, steps=1)
    fitted = LinearBase.load(DiffusionDetector(config).fit(whole(pulses(2, 800, 1))).state())
    base = replace(fitted, covariance=None)
    covariance = base.normal.root @ base.normal.root.transpose(1, 2)
    values, vectors = torch.linalg.eigh(covariance)
    whitener = vectors @ torch.diag_embed(values.rsqrt()) @ vectors.transpose(1, 2)
    x = base.about_mean(unseen.values)
    torch.testing.assert_close(
        base.upright(base.split(x)[0], x).double(), x.double() @ whitener, rtol=1e-3, atol=1e-3
    )


def test_equal_windows_get_equal_scores_wherever_they_stand(fitted: DiffusionDetector) -> None:
    series = pulses(2, 80, 3)
    twice = Windows.of(torch.cat([series, series], dim=1), WINDOW)
    scores = fitted.score(twice)
    torch.testing.assert_close(scores[:, :73], scores[:, 80:], rtol=1e-5, atol=1e-5)


def test_what_is_expected_of_missing_steps_follows_a_bend() -> None:
    """The second of two steps is the square of the first; a normal distribution knows straight lines."""
    generator = torch.Generator().manual_seed(7)
    first = torch.randn(2, 3000, generator=generator)
    second = first.square() - 1 + 0.3 * torch.randn(2, 3000, generator=generator)
    windows = Windows.of(torch.stack([first, second], dim=2).view(2, -1, 1), 2)
    pairs = windows.weighted((torch.arange(windows.n_windows) % 2 == 0).expand(2, -1))
    config = DiffusionConfig(window=2, steps=400, batch=128, rate=1e-2, trim=0.0)
    detector = DiffusionDetector(config).fit(pairs)
    asked = torch.tensor([-1.5, torch.nan, 0.0, torch.nan, 1.5, torch.nan]).view(1, -1, 1)
    left, middle, right = detector.expect(Windows.of(asked.repeat(2, 1, 1), 2)).mean[:, ::2, 1, 0].unbind(1)
    assert (middle < (left + right) / 2 - 0.2).all(), (left, middle, right)


def test_farther_is_worse_without_end(fitted: DiffusionDetector) -> None:
    shape = pulses(1, WINDOW, 4).flatten()
    far = torch.tensor([3.0, 30.0, 1e3, 1e5])
    laid = Windows.of((far[:, None] * shape).reshape(1, -1, 1).repeat(2, 1, 1), WINDOW)
    assert (fitted.score(laid)[:, ::WINDOW].mean(2).diff(dim=1) > 0).all()
    log_prob = fitted.log_prob(laid)[:, ::WINDOW]
    assert log_prob.isfinite().all()
    assert (log_prob.diff(dim=1) < 0).all()


def test_a_score_is_of_every_level_it_looks_at(fitted: DiffusionDetector, unseen: Windows) -> None:
    low, high, both = (
        DiffusionDetector.load(replace(fitted.config, kept=kept), fitted.state()).score(unseen)
        for kept in ((0.95,), (0.5,), (0.95, 0.5))
    )
    assert not torch.allclose(low, high, atol=0.05)
    assert not torch.allclose(both, low, atol=0.05)


def test_the_latent_is_the_bottleneck(fitted: DiffusionDetector, unseen: Windows) -> None:
    code = fitted.encode(unseen)
    assert code.shape == (2, unseen.n_windows, fitted.config.code)
    high = unseen.values.mean(dim=(2, 3)) > 0
    for member in range(2):
        kinds = code[member, high[member]], code[member, ~high[member]]
        apart = (kinds[0].mean(0) - kinds[1].mean(0)).norm()
        assert apart > 2 * max(kind.std(0).norm() for kind in kinds)


def test_a_member_without_windows_stays_a_normal_distribution() -> None:
    windows = whole(pulses(2, 800, 5))
    weight = windows.weight.clone()
    weight[1] = 0
    detector = DiffusionDetector(DiffusionConfig(window=WINDOW)).fit(windows.weighted(weight))
    plain = untrained(detector)
    apart = (detector.log_prob(windows) - plain.log_prob(windows)).abs().amax(1)
    assert apart[1] == 0
    assert apart[0] > 0.01


def test_a_default_member_is_small() -> None:
    for window, kib in ((24, 36), (128, 75)):
        detector = DiffusionDetector(DiffusionConfig(window=window, steps=1))
        state = detector.fit(Windows.of(pulses(1, 400, 6), window)).state()
        assert sum(value.numel() * value.element_size() for value in state.values()) < kib * 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"code": 0}, "code must be at least 1, got 0"),
        ({"hidden": -1}, "hidden must be at least 1, got -1"),
        ({"kept": ()}, r"kept must be one or more shares between 0 and 1, got \(\)"),
        ({"kept": (0.5, 1.0)}, r"kept must be one or more shares between 0 and 1, got \(0.5, 1.0\)"),
        ({"chain": 60}, "chain must be at most 50 levels, or 0 for all of them, got 60"),
        ({"chain": -1}, "chain must be at most 50 levels, or 0 for all of them, got -1"),
        ({"trim": 0.5}, "trim must be at least 0 and below 0.5, got 0.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionConfig(**options)  # type: ignore[arg-type]  # wrong on purpose
