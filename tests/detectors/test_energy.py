"""The energy-based model: what telling data from noise learns, and what Langevin runs draw from it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detectors.energy import EnergyConfig, EnergyDetector
from detectors.maths import contrast, stored
from detectors.maths.linear import LinearBase
from detectors.maths.normal import Normal, log_standard
from detectors.windows import Windows

WINDOW = 8


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def waves(n: int, n_points: int, seed: int) -> Tensor:
    return (torch.sin(torch.arange(n_points) / 3) + 0.3 * noise(n, n_points, seed=seed)).unsqueeze(2)


def bent(n: int, points: int, seed: int) -> Tensor:
    """Pairs of steps, the second one the square of the first but for noise: no straight line tells them."""
    first = noise(n, points // 2, seed=seed)
    second = first.square() - 1 + 0.2 * noise(n, points // 2, seed=seed + 100)
    return torch.stack([first, second], dim=2).reshape(n, points, 1)


def pairs(series: Tensor) -> Windows:
    """The windows of two steps that begin with a first one; the others have weight 0."""
    windows = Windows.of(series, 2)
    return windows.weighted((torch.arange(windows.n_windows) % 2 == 0).float().expand(len(series), -1))


@pytest.fixture(scope="module")
def waving() -> EnergyDetector:
    return EnergyDetector(EnergyConfig(window=WINDOW, latent=3)).fit(Windows.of(waves(2, 1000, 0), WINDOW))


@pytest.fixture(scope="module")
def bending() -> EnergyDetector:
    return EnergyDetector(EnergyConfig(window=2, trim=0.0)).fit(pairs(bent(2, 4000, 3)))


# -- noise and loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [1, 3])
def test_the_noise_has_the_density_it_says(latent: int) -> None:
    drawn = contrast.noise(60_000, latent, torch.Generator().manual_seed(2))
    assert drawn.var(dim=0).tolist() == pytest.approx([7 / 3] * latent, rel=0.03)
    # The mean of a density's log is less for any other one than its own (Gibbs).
    own = contrast.log_noise(drawn.unsqueeze(0)).mean()
    for other in (0.9, 1.1):
        scaled = contrast.log_noise(drawn.unsqueeze(0) * other) + latent * math.log(other)
        assert scaled.mean() < own


def test_the_noise_s_density_integrates_to_one() -> None:
    axis = torch.linspace(-12, 12, 481)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(0)
    total = contrast.log_noise(grid).exp().sum() * float(axis[1] - axis[0]) ** 2
    assert float(total) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("each", [1, 4])
def test_the_loss_is_least_at_the_ratio_of_the_densities(each: int) -> None:
    data, drawn = noise(1, 40_000, 1), contrast.noise(40_000 * each, 1, torch.Generator().manual_seed(3))

    def loss(shift: float, tilt: float) -> float:
        def ratio(z: Tensor) -> Tensor:
            return log_standard(z) - contrast.log_noise(z) + shift + tilt * z.squeeze(2)

        return float(contrast.loss(ratio(data), ratio(drawn.unsqueeze(0))).mean())

    assert all(loss(0, 0) < loss(*wrong) for wrong in [(0.2, 0), (-0.2, 0), (0, 0.2), (0, -0.2)])


# -- Langevin -------------------------------------------------------------------------------------


def test_langevin_runs_leave_the_density_they_follow_as_it_is() -> None:
    generator = torch.Generator().manual_seed(4)
    moved = contrast.langevin(log_standard, noise(1, 20_000, 3), 20, generator)
    assert moved.mean((0, 1)).tolist() == pytest.approx([0] * 3, abs=0.03)
    assert moved.var(dim=1).flatten().tolist() == pytest.approx([1] * 3, rel=0.04)


def test_langevin_runs_reach_a_density_that_lies_elsewhere() -> None:
    def narrow(z: Tensor) -> Tensor:
        return log_standard((z - 2) / 0.7)

    moved = contrast.langevin(narrow, noise(1, 4000, 2), 60, torch.Generator().manual_seed(5))
    assert moved.mean((0, 1)).tolist() == pytest.approx([2] * 2, abs=0.06)
    assert moved.std(dim=1).flatten().tolist() == pytest.approx([0.7] * 2, rel=0.06)


# -- the detector ---------------------------------------------------------------------------------


def test_what_bends_is_learned_and_drawn(bending: EnergyDetector) -> None:
    unseen = bent(2, 2000, 5)
    usual = bending.log_prob(pairs(unseen))[:, ::2]
    normal = Normal.of(unseen.view(2, -1, 2).mean(1), torch.diag(torch.tensor([1.0, 2.04])).expand(2, 2, 2))
    plain = normal.log_prob(unseen.view(2, -1, 2) - normal.mean.unsqueeze(1), torch.zeros(2, 1000, 2).bool())
    assert (usual.mean(1) > plain.mean(1) + 0.7).all(), "the bend is worth 1.97 nats at most"
    # To a normal distribution, whose correlation is nil, zero and one go together as well as any two.
    off = bending.log_prob(Windows.of(torch.tensor([0.0, 1.0]).view(1, 2, 1).repeat(2, 1, 1), 2))
    assert (off[:, 0] < usual.quantile(0.02, dim=1)).all()
    first, second = bending.sample(1000).squeeze(3).unbind(2)
    left = (second - first.square() + 1).std(dim=1)
    assert (left < 0.9).all(), f"{left.tolist()}; of the normal distribution's draws it is 2"


def test_a_learned_density_integrates_to_about_one(bending: EnergyDetector) -> None:
    axis = torch.linspace(-9, 12, 211)
    grid = torch.cartesian_prod(axis, axis).reshape(1, -1, 1).repeat(2, 1, 1)
    total = (
        bending.log_prob(Windows.of(grid, 2))[:, ::2].double().exp().sum(1) * float(axis[1] - axis[0]) ** 2
    )
    assert total.tolist() == pytest.approx([1, 1], abs=0.05)


def test_a_score_is_finite_and_rises_without_end(waving: EnergyDetector) -> None:
    shape = waves(1, WINDOW, 9).flatten()
    shape = shape / shape.abs().max()
    far = torch.tensor([4.0, 8.0, 16.0, 50.0, 1e3, 1e4, 1e5, 1e6])
    laid = Windows.of((far[:, None] * shape).reshape(1, -1, 1).repeat(2, 1, 1), WINDOW)
    found = waving.score(laid)[:, ::WINDOW]
    assert found.isfinite().all()
    assert (found.amin(2).diff(dim=1) > 0).all()
    # As many times as far, as many times the score: nothing that was learned makes up for it.
    assert (found[:, -1] / found[:, -3] > 50).all()
    log_prob = waving.log_prob(laid)[:, ::WINDOW]
    assert log_prob.isfinite().all()
    assert (log_prob.diff(dim=1) < 0).all()


def test_what_the_network_adds_is_bounded(waving: EnergyDetector) -> None:
    state = {
        name: 30 * value if name.startswith("energy") else value for name, value in waving.state().items()
    }
    loud = EnergyDetector.load(waving.config, state)
    z = 10 * noise(2, 500, 3)
    added = loud._model(slice(None)).log_latent(z) - log_standard(z) + state["log_total"].unsqueeze(1)
    assert added.abs().max() == pytest.approx(waving.config.bound, rel=1e-3)


def test_log_prob_is_the_normal_distribution_s_and_what_was_learned(waving: EnergyDetector) -> None:
    """One target and window, in slow arithmetic."""
    windows = Windows.of(waves(2, 40, 6), WINDOW)
    state = {name: value[1] for name, value in waving.state().items()}
    x = windows.values[1, 5, :, 0].double() - state["mean"].double()
    covariance = stored.symmetric(state["base_covariance"].unsqueeze(0), WINDOW)[0]
    energy = x @ torch.linalg.solve(covariance, x)
    plain = -0.5 * (energy + torch.linalg.slogdet(2 * math.pi * covariance).logabsdet)
    h = ((x.float() @ state["axes"]) / state["spread"]).asinh()
    for layer in ("0", "1", "2"):
        h = h @ state[f"energy.{layer}.weight"] + state[f"energy.{layer}.bias"]
        h = h if layer == "2" else h.relu()
    added = 10 * math.tanh(float(h) / 10) - float(state["log_total"])
    assert abs(added) > 0.01
    assert float(waving.log_prob(windows)[1, 5]) == pytest.approx(float(plain) + added, rel=1e-3)
    assert waving.encode(windows).shape == (2, windows.n_windows, 128)


def test_a_member_without_data_is_a_normal_distribution() -> None:
    windows = Windows.of(waves(2, 200, 10), WINDOW)
    weight = windows.weight.clone()
    weight[1] = 0
    detector = EnergyDetector(EnergyConfig(window=WINDOW, latent=3, steps=50)).fit(windows.weighted(weight))
    model = detector._model(slice(None))
    apart = (model.log_latent(noise(2, 100, 3)) - log_standard(noise(2, 100, 3))).abs().amax(1)
    assert apart[1] == 0
    assert apart[0] > 0.01


def test_long_windows_are_principal_components_and_white_noise() -> None:
    windows = Windows.of(waves(1, 400, 11), 130)
    detector = EnergyDetector(EnergyConfig(window=130, steps=2)).fit(windows)
    assert "covariance" not in detector.state()
    assert detector.score(windows).isfinite().all()
    assert detector.log_prob(windows).isfinite().all()
    # Off the axes a sample is the base's noise.
    base = LinearBase.load(detector.state())
    off = base.split(detector.sample(200).flatten(2) - base.mean.unsqueeze(1))[1].mean(1)
    assert (off / (base.noise * base.off_axes)).tolist() == pytest.approx([1.0], rel=0.1)


def test_a_default_member_is_as_large_as_is_said() -> None:
    for window, kib in ((24, 72), (128, 106)):
        windows = Windows.of(waves(1, 400, 12), window)
        state = EnergyDetector(EnergyConfig(window=window, steps=1)).fit(windows).state()
        size = sum(value.nbytes for value in state.values())
        assert size / 1024 == pytest.approx(kib, abs=1)
        assert f"{kib} KiB at window {window}" in (EnergyDetector.__doc__ or "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"noises": 0}, "noises must be at least 1, got 0"),
        ({"langevin": 0}, "langevin must be at least 1, got 0"),
        ({"bound": math.inf}, "bound must be a number above 0, got inf"),
        ({"bound": 0.0}, "bound must be a number above 0, got 0.0"),
        ({"trim": 0.5}, "trim must be at least 0 and below 0.5, got 0.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnergyConfig(**options)  # type: ignore[arg-type]  # wrong on purpose
