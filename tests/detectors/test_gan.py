"""The game of generator, critic and encoder: who moves what, what is generated, what is rebuilt."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from detectors.gan import GanConfig, GanDetector, _Game
from detectors.maths.linear import LinearBase
from detectors.maths.wasserstein import slope_penalty
from detectors.stacked import Params, Training, TrainingBatch, Turn, train
from detectors.windows import Windows

WINDOW = 8


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def waves(n: int, n_points: int, seed: int) -> Tensor:
    return (torch.sin(torch.arange(n_points) / 3) + 0.3 * noise(n, n_points, seed=seed)).unsqueeze(2)


@cache
def waving() -> GanDetector:
    config = GanConfig(window=WINDOW, latent=3, hidden=32, steps=60)
    return GanDetector(config).fit(Windows.of(waves(2, 1000, 0), WINDOW))


@pytest.fixture
def unseen() -> Windows:
    return Windows.of(waves(2, 300, 7), WINDOW)


def game(**options: int) -> tuple[_Game, Params]:
    """A game on 5 coordinates with codes of 2, and weights under which everybody has something to say."""
    played = _Game(GanConfig(latent=2, hidden=8, **options), 5)
    fresh = played.initial(torch.Generator().manual_seed(0))
    return played, {name: value + 0.3 * noise(1, *value.shape, seed=2) for name, value in fresh.items()}


# -- games in a bank --------------------------------------------------------------------------------


class _Pursuit:
    """The hare is drawn to the data, the hound to the hare; the hound has three turns."""

    def __init__(self) -> None:
        hound = Turn("hound", lambda params, batch, _: (params["hound.at"] - params["hare.at"]).square())
        self.turns = (hound, hound, hound, Turn("hare", self._hare))

    def _hare(self, params: Params, batch: TrainingBatch, _: torch.Generator) -> Tensor:
        return (params["hare.at"] - batch.values[:, :, 0]).square()

    def initial(self, generator: torch.Generator) -> Params:
        return {"hound.at": torch.tensor([5.0]), "hare.at": torch.tensor([-5.0])}

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        # Least at the start: whoever kept the best moment would keep that one.
        return (params["hare.at"] + 5).square()


def test_every_side_of_a_game_moves_its_own_weights_against_the_last_of_the_others() -> None:
    series = 0.1 * noise(3, 400, 1) + torch.tensor([0.0, 2.0, -1.0]).view(3, 1, 1)
    training = Training(steps=200, rate=0.2, trim=0.0)
    windows = Windows.of(series, 1)
    trained = train(_Pursuit(), windows, training, seed=0, max_windows=400, on_progress=lambda share: None)
    for side in ("hare.at", "hound.at"):
        assert trained.params[side].flatten().tolist() == pytest.approx([0, 2, -1], abs=0.1)
    alone = train(
        _Pursuit(), windows.select([1]), training, seed=0, max_windows=400, on_progress=lambda share: None
    )
    torch.testing.assert_close(alone.params["hound.at"], trained.params["hound.at"][[1]])


@pytest.mark.parametrize("side", ["critic", "generator", "encoder"])
def test_each_turn_has_a_slope_for_its_own_weights(side: str) -> None:
    played, params = game()
    leaves = {name: value.clone().requires_grad_() for name, value in params.items() if name.startswith(side)}
    (turn,) = {turn for turn in played.turns if turn.side == side}
    batch = TrainingBatch.of(noise(1, 16, 5), None)
    loss = turn.loss(params | leaves, batch, torch.Generator().manual_seed(1)).mean()
    slopes = torch.autograd.grad(loss, [leaves[name] for name in leaves if "0.weight" in name])
    assert all(bool(slope.isfinite().all()) and float(slope.abs().sum()) > 0 for slope in slopes)


def test_the_critic_has_five_turns_for_one_of_the_others() -> None:
    sides = [turn.side for turn in game()[0].turns]
    assert sides == ["critic"] * 5 + ["generator", "encoder"]


# -- losses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_the_penalty_of_a_bank_is_the_square_of_each_slope_s_distance_from_one(slope: float) -> None:
    real, fake = noise(3, 8, 4), noise(3, 8, 4, seed=2)
    steep = slope * torch.arange(3.0).view(3, 1)
    found = slope_penalty(lambda x: steep * x[:, :, 0], real, fake, torch.rand(8, 1))
    torch.testing.assert_close(found, (steep - 1).square().expand(3, 8), rtol=1e-3, atol=1e-4)


def test_the_penalty_looks_between_real_and_fake() -> None:
    seen = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.sum(2)

    slope_penalty(critic, torch.ones(1, 4, 2), torch.zeros(1, 4, 2), torch.linspace(0, 1, 4).unsqueeze(1))
    torch.testing.assert_close(seen[0][0, :, 0], torch.linspace(0, 1, 4))


def test_a_critic_s_loss_is_what_it_gives_to_fake_less_to_real_and_its_penalty() -> None:
    """One member, in slow arithmetic."""
    played, params = game()
    u = noise(1, 6, 5, seed=5)
    found = played.critic_loss(params, TrainingBatch.of(u, None), torch.Generator().manual_seed(3)).detach()
    generator = torch.Generator().manual_seed(3)
    fake = played.made(params, played.noise(6, generator)).asinh()
    share = torch.rand(6, 1, generator=generator)

    def critic(x: Tensor) -> Tensor:
        for layer in ("0", "1", "2"):
            x = x @ params[f"critic.{layer}.weight"][0] + params[f"critic.{layer}.bias"][0]
            x = x if layer == "2" else x.relu()
        return x[0]

    for i in range(6):
        real, other = u[0, i].asinh(), fake[0, i]
        slope = torch.autograd.functional.jacobian(critic, share[i] * real + (1 - share[i]) * other)
        slow = critic(other) - critic(real) + 10 * (torch.linalg.vector_norm(slope) - 1) ** 2
        assert float(found[0, i]) == pytest.approx(float(slow), rel=1e-3, abs=1e-4)


# -- generator and encoder --------------------------------------------------------------------------


def test_fresh_networks_are_the_principal_components() -> None:
    played = _Game(GanConfig(latent=2, hidden=8), 5)
    params = {name: value.unsqueeze(0) for name, value in played.initial(torch.Generator()).items()}
    drawn = played.noise(50, torch.Generator().manual_seed(4))
    assert torch.equal(played.made(params, drawn), drawn)
    again = played.reconstruct(params, drawn)
    assert not again[:, :, 2:].any()


def test_noise_beside_the_code_is_made_louder_or_softer_by_it() -> None:
    played, params = game()
    params["generator.2.bias"][:, -1] = 1e6
    drawn = played.noise(50, torch.Generator().manual_seed(4))
    silent = torch.cat([drawn[:, :, :2], torch.zeros(1, 50, 3)], dim=2)
    beside = played.made(params, drawn) - played.made(params, silent)
    torch.testing.assert_close(beside[:, :, 2:], math.e * drawn[:, :, 2:])
    assert not beside[:, :, :2].any()


def test_codes_lie_within_their_reach(unseen: Windows) -> None:
    far = Windows.of(1e3 * unseen.series, WINDOW)
    codes = waving().encode(far)
    assert codes.shape == (2, far.n_windows, 3)
    assert float(codes.abs().max()) == pytest.approx(3.0)


def test_a_window_out_of_reach_is_not_rebuilt(unseen: Windows) -> None:
    x = unseen.values[:, 100, :, 0]
    for far in (10.0, 100.0):
        again = waving().expect(Windows.of((far * x).unsqueeze(2), WINDOW)).mean[:, 0, :, 0]
        assert (again.abs().amax(1) < 0.5 * far * x.abs().amax(1)).all()


def test_farther_is_worse_without_end(unseen: Windows) -> None:
    x = unseen.values[:, 100, :, 0]
    far = torch.tensor([4.0, 10.0, 100.0, 1e3, 1e5])
    laid = Windows.of((far.view(1, -1, 1) * x.unsqueeze(1)).reshape(2, -1, 1), WINDOW)
    found = waving().score(laid)[:, ::WINDOW].amin(2)
    assert found.isfinite().all()
    assert (found.diff(dim=1) > 0).all()


def test_what_is_expected_at_a_missing_step_does_not_depend_on_it(unseen: Windows) -> None:
    hide = torch.zeros(2, 300, dtype=torch.bool)
    hide[:, 100:102] = True
    mean = waving().expect(unseen.hidden(hide)).mean[:, 96, 4:6, 0]
    clean = torch.sin(torch.arange(100, 102) / 3)
    assert (mean - clean).abs().max() < 0.5


def test_an_odd_look_in_the_critic_s_eyes_alone_raises_the_score(unseen: Windows) -> None:
    quiet = {**waving().state(), "feature_spread": torch.full((2, 32), 1e6)}
    without = GanDetector.load(waving().config, quiet).score(unseen)
    apart = waving().score(unseen) - without
    assert (apart > -1e-4).all()
    assert float(apart.max()) > 0.5


def test_what_bends_is_drawn_closer_after_training_than_before() -> None:
    """Pairs, the second one the square of the first, which principal components do not see."""
    first = noise(2, 2000, seed=3)
    second = first.square() - 1 + 0.2 * noise(2, 2000, seed=103)
    windows = Windows.of(torch.stack([first, second], dim=2).reshape(2, 4000, 1), 2)
    windows = windows.weighted((torch.arange(windows.n_windows) % 2 == 0).float().expand(2, -1))

    def left_over(steps: int) -> Tensor:
        drawn = GanDetector(GanConfig(window=2, steps=steps, trim=0.0)).fit(windows).sample(1000)
        first, second = drawn.squeeze(3).unbind(2)
        # The median: how far the last few samples fly off differs from one kind of processor to the next.
        return (second - first.square() + 1).abs().median(dim=1).values

    before, after = left_over(1), left_over(300)
    assert (before > 1.0).all(), "of independent normal values it is 1.2"
    assert (after < 0.7 * before).all(), f"{after.tolist()} of {before.tolist()}"


def test_a_member_without_data_is_its_principal_components(unseen: Windows) -> None:
    weight = unseen.weight.clone()
    weight[1] = 0
    config = GanConfig(window=WINDOW, latent=3, hidden=8, steps=5)
    detector = GanDetector(config).fit(unseen.weighted(weight))
    base = LinearBase.load(detector.state())
    u = base.split(base.about_mean(unseen.values))[0]
    limited = 3 * (u[:, :, :3] / 3).tanh()
    apart = (detector.encode(unseen) - limited).abs().amax((1, 2))
    assert apart[1] == 0
    assert apart[0] > 1e-3


def test_long_windows_have_noise_off_the_coordinates() -> None:
    windows = Windows.of(waves(1, 500, 11), 140)
    detector = GanDetector(GanConfig(window=140, hidden=8, steps=2)).fit(windows)
    base = LinearBase.load(detector.state())
    assert base.off_axes == 12
    off = base.split(detector.sample(300).flatten(2) - base.mean.unsqueeze(1))[1].mean(1)
    assert (off / (12 * base.noise)).tolist() == pytest.approx([1.0], rel=0.15)
    assert detector.score(windows).isfinite().all()


def test_a_default_member_is_as_large_as_is_said() -> None:
    for window, kib in ((24, 79), (128, 220)):
        windows = Windows.of(waves(1, 400, 12), window)
        state = GanDetector(GanConfig(window=window, steps=1)).fit(windows).state()
        assert sum(value.nbytes for value in state.values()) / 1024 == pytest.approx(kib, abs=1)
        assert f"{kib} KiB at window {window}" in (GanDetector.__doc__ or "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"reach": 0.0}, "reach must be a number above 0, got 0.0"),
        ({"features": -1.0}, "features must be a number from 0, got -1.0"),
        ({"trim": 0.5}, "trim must be at least 0 and below 0.5, got 0.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GanConfig(**options)  # type: ignore[arg-type]  # wrong on purpose
