"""Known regimes: each is scored by what is normal there, and a window that fits another says so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectors.gaussian import GaussianConfig, GaussianDetector
from detectors.regimes import DiscriminantDetector, RegimesConfig
from detectors.windows import Windows

WINDOW = 8
LONG = 50
"""Steps of a regime until the other takes turn."""
FORMS = ("linear", "quadratic")


def regime_of(n_points: int) -> Tensor:
    return (torch.arange(n_points) // LONG % 2).to(torch.uint8)


def two_regimes(n_points: int = 4000, seed: int = 0, *, told: bool = True) -> Windows:
    """A quiet regime about 0, and one about 4 whose noise is three times as large."""
    generator = torch.Generator().manual_seed(seed)
    regime = regime_of(n_points).expand(2, -1)
    noise = torch.randn(2, n_points, generator=generator)
    series = torch.where(regime == 1, 4 + 1.5 * noise, 0.5 * noise)
    return Windows.of(series.unsqueeze(2), WINDOW, regime=regime if told else None)


def inside(windows: Windows, regime: int) -> Tensor:
    """True for windows of which every step is of one regime, ``(n_windows,)``."""
    own = regime_of(windows.n_points) == regime
    return own.unfold(0, WINDOW, 1).all(1)


def fitted(form: str = "quadratic", windows: Windows | None = None) -> DiscriminantDetector:
    config = RegimesConfig(window=WINDOW, form=form)  # type: ignore[arg-type]
    return DiscriminantDetector(config).fit(two_regimes() if windows is None else windows)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_normal_in_one_regime_is_odd_in_the_other(form: str) -> None:
    bank, windows = fitted(form), two_regimes(seed=1)
    swapped = Windows.of(windows.series, WINDOW, regime=1 - windows.regime)  # type: ignore[operator]
    own, other = bank.score(windows), bank.score(swapped)
    for regime in (0, 1):
        pure = inside(windows, regime)
        usual = own[:, pure].quantile(0.99)
        assert (other[:, pure].amin(2) > usual).float().mean() > (0.9 if regime else 0.99)


def test_a_spike_of_the_loud_regime_is_none_in_it_and_one_in_the_quiet() -> None:
    windows = two_regimes(seed=1)
    series = windows.series.clone()
    quiet, loud = 4 * LONG + 20, 5 * LONG + 20
    series[:, quiet] += 3.5
    series[:, loud] += 3.5
    scores = fitted().score(Windows.of(series, WINDOW, regime=windows.regime))[:, :, -1]
    usual = fitted().score(windows)[:, :, -1].quantile(0.99, dim=1)
    assert (scores[:, quiet - WINDOW + 1] > 1.5 * usual).all()
    assert (scores[:, loud - WINDOW + 1] < 1.5 * usual).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_regime_that_fits_best_is_told(form: str) -> None:
    windows = two_regimes(seed=1)
    best = fitted(form).log_posterior(windows).argmax(2)
    for regime in (0, 1):
        assert (best[:, inside(windows, regime)] == regime).float().mean() > 0.95


def test_posteriors_are_the_densities_weighted_by_how_often_regimes_were_seen() -> None:
    bank, windows = fitted(), two_regimes(400, seed=1)
    density = [
        bank.log_prob(Windows.of(windows.series, WINDOW, regime=torch.full((2, 400), k, dtype=torch.uint8)))
        for k in (0, 1)
    ]
    joint = torch.stack(density, dim=2) + (bank.state()["count"] + 1).log().unsqueeze(1)
    torch.testing.assert_close(bank.log_posterior(windows), joint.log_softmax(2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_each_regime_is_the_gaussian_of_its_own_windows(form: str) -> None:
    """In the quadratic form exactly; in the linear one the mean is."""
    windows = two_regimes()
    own = windows.weighted(windows.weight * (windows.regimes == 1))
    alone = GaussianDetector(GaussianConfig(window=WINDOW, trim=0.0)).fit(own).state()
    state = DiscriminantDetector(RegimesConfig(window=WINDOW, trim=0.0, form=form)).fit(windows).state()  # type: ignore[arg-type]
    torch.testing.assert_close(state["mean"][:, 1], alone["mean"])
    if form == "quadratic":
        torch.testing.assert_close(state["covariance"][:, 1], alone["covariance"])
    else:
        assert state["covariance"].shape[1] == 1


@pytest.mark.parametrize("form", FORMS)
def test_without_regimes_it_is_the_gaussian(form: str) -> None:
    windows = two_regimes(told=False)
    gaussian = GaussianDetector(GaussianConfig(window=WINDOW)).fit(windows)
    torch.testing.assert_close(
        fitted(form, windows).score(windows), gaussian.score(windows), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_regime_never_seen_goes_by_all_windows_together(form: str) -> None:
    bank, windows = fitted(form), two_regimes(400, seed=1)
    unknown = Windows.of(windows.series, WINDOW, regime=torch.full((2, 400), 5, dtype=torch.uint8))
    common = GaussianDetector(GaussianConfig(window=WINDOW)).fit(two_regimes(told=False))
    torch.testing.assert_close(bank.log_prob(unknown), common.log_prob(unknown), rtol=0.15, atol=1.5)
    assert bank.score(unknown).isfinite().all()


def test_members_that_know_different_regimes_stand_in_one_bank() -> None:
    told, plain = two_regimes(), two_regimes(told=False)
    stacked = DiscriminantDetector.stack(
        [fitted(windows=plain).select([0]), fitted(windows=told).select([1])]
    )
    probe = two_regimes(400, seed=1)
    torch.testing.assert_close(
        stacked.score(probe)[1], fitted(windows=told).score(probe)[1], rtol=1e-4, atol=1e-4
    )
    assert stacked.score(probe).isfinite().all()
    assert stacked.sample(20).isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_samples_are_of_the_regime_that_was_asked_for(form: str) -> None:
    bank = fitted(form)
    assert abs(bank.sample_of(0, 500).mean()) < 0.3
    assert abs(bank.sample_of(1, 500).mean() - 4) < 0.4
    if form == "quadratic":
        assert bank.sample_of(1, 500).std() > 1.4 * bank.sample_of(0, 500).std()


def test_samples_come_of_every_regime_as_often_as_training_had_it() -> None:
    share = (fitted().sample(1000).mean(dim=(2, 3)) > 2).float().mean(1)
    assert ((share - 0.5).abs() < 0.06).all()


@pytest.mark.parametrize("form", FORMS)
def test_what_is_expected_is_what_the_regime_expects(form: str) -> None:
    bank, windows = fitted(form), two_regimes(400, seed=1)
    hide = torch.zeros(2, 400, dtype=torch.bool)
    quiet, loud = slice(4 * LONG + 20, 4 * LONG + 22), slice(5 * LONG + 20, 5 * LONG + 22)
    hide[:, quiet] = hide[:, loud] = True
    mean = bank.expect(windows.hidden(hide)).mean
    assert abs(mean[:, quiet.start - 3, 3].mean()) < 1
    assert abs(mean[:, loud.start - 3, 3].mean() - 4) < 1


# -- windows ------------------------------------------------------------------------


def test_a_window_is_of_the_regime_of_its_newest_step() -> None:
    windows = two_regimes(200)
    assert windows.regimes[0].tolist() == regime_of(200)[WINDOW - 1 :].tolist()
    assert two_regimes(200, told=False).regimes.eq(0).all()


def test_every_part_of_the_windows_keeps_their_regimes() -> None:
    windows = two_regimes(200)
    regimes = windows.regimes
    index = torch.tensor([[3, 47, 120], [60, 61, 150]])
    picked = windows.picked(index)
    assert torch.equal(picked.regimes, regimes.gather(1, index))
    assert torch.equal(picked.span(1, 3).select([1]).regimes, regimes.gather(1, index)[[1], 1:])
    assert torch.equal(windows.span(40, 90).regimes, regimes[:, 40:90])
    assert torch.equal(windows.select([1]).regimes, regimes[[1]])
    assert torch.equal(windows.members(slice(1, 2)).regimes, regimes[[1]])
    assert torch.equal(windows.shorter(4).regimes, regime_of(200)[3:].expand(2, -1).to(torch.int64))
    assert torch.equal(windows.weighted(windows.weight * 0).regimes, regimes)
    assert torch.equal(windows.hidden(torch.ones(2, 200, dtype=torch.bool)).regimes, regimes)
    assert windows.pooled().regimes[0, :100].tolist() == regimes[0, :100].tolist()
    assert windows.pooled().regimes.shape == (1, 400 - WINDOW + 1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"form": "auto"}, "form must be 'linear' or 'quadratic', got 'auto'"),
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RegimesConfig(**given)  # type: ignore[arg-type]
