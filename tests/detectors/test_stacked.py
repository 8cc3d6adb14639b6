"""Training a bank: the same members whoever their neighbours are, and failures that stay alone."""

from __future__ import annotations

from dataclasses import dataclass

import naive
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.stacked import (
    Adam,
    Draws,
    Params,
    Training,
    TrainingBatch,
    asinh,
    batches,
    dense,
    draw,
    filled,
    linear,
    one_thread,
    perceptron,
    perceptron_weights,
    train,
    trimmed_mean,
)
from detectors.windows import Windows

WINDOW = 6


@dataclass(frozen=True)
class Narrow:
    """Reconstruct a window through two numbers; optionally break where weight and data are large."""

    breaks: bool = False

    def initial(self, generator: torch.Generator) -> Params:
        return {**dense("down", WINDOW, 2, generator), **dense("up", 2, WINDOW, generator)}

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        noise = torch.randn(batch.values.shape[1:], generator=generator)
        code = linear(params, "down", batch.values + 0.1 * noise)
        error = (linear(params, "up", code) - batch.values).square() * batch.kept
        loss = error.sum(dim=2)
        if self.breaks:
            first = params["down.weight"][:, 0, 0, None]
            loss = torch.where((first > 0) & (batch.values.mean(dim=2) > 50), torch.nan, loss)
        return loss


def waves(n: int, n_points: int = 300) -> Windows:
    t = torch.arange(n_points)
    series = torch.sin(t / torch.linspace(2, 4, n)[:, None])
    series = series + 0.1 * torch.randn(n, n_points, generator=torch.Generator().manual_seed(1))
    return Windows.of(series.unsqueeze(2), WINDOW)


def trained(
    windows: Windows, network: Narrow | None = None, seed: int = 0, **options: float
) -> tuple[Params, Tensor]:
    training = Training(**{"steps": 200, "batch": 32, "check_every": 5, "patience": 3, **options})  # type: ignore[arg-type]
    result = train(
        network or Narrow(), windows, training, seed=seed, max_windows=200, on_progress=lambda _: None
    )
    assert all(bool(value.isfinite().all()) for value in result.params.values())
    return result.params, result.failed


def test_a_member_trained_alone_is_the_member_trained_in_a_bank() -> None:
    windows = waves(7)
    together, _ = trained(windows)
    for member in (0, 3, 6):
        alone, _ = trained(windows.select([member]))
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][member], rtol=1e-4, atol=1e-6)


def test_members_that_go_on_alone_keep_their_place() -> None:
    """Constant series stop soon; the others are then trained on in a smaller bank."""
    windows = waves(5)
    flat = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    windows = Windows.of(windows.series * flat[:, None, None], WINDOW)
    together, _ = trained(windows, steps=400)
    for member in range(5):
        alone, _ = trained(windows.select([member]), steps=400)
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][member], rtol=1e-4, atol=1e-6)


def test_a_bank_too_large_for_the_cache_is_trained_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = waves(5)
    whole, _ = trained(windows)
    monkeypatch.setattr("detectors.stacked.BANK_WEIGHTS", 128)
    parts, _ = trained(windows)
    for name, value in parts.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6)


def test_a_member_that_diverges_fails_alone() -> None:
    windows = waves(4)
    calm, _ = trained(windows)
    wild = windows.series.clone()
    wild[2] *= 1e30
    params, failed = trained(Windows.of(wild, WINDOW))
    assert failed.tolist() == [False, False, True, False]
    for name, value in params.items():
        torch.testing.assert_close(value[[0, 1, 3]], calm[name][[0, 1, 3]], rtol=1e-4, atol=1e-6)


def test_a_member_that_diverges_is_fitted_again_from_another_seed() -> None:
    windows = waves(3)
    windows = Windows.of(windows.series + torch.tensor([0.0, 100.0, 0.0])[:, None, None], WINDOW)
    first = [
        float(Narrow().initial(torch.Generator().manual_seed(s))["down.weight"][0, 0]) for s in (1, 7920)
    ]
    assert first[0] > 0 > first[1], "the first seed breaks, the second does not"
    assert trained(windows, Narrow(breaks=True), seed=1, attempts=1)[1].tolist() == [False, True, False]
    assert trained(windows, Narrow(breaks=True), seed=1, attempts=2)[1].tolist() == [False, False, False]


def test_a_member_without_windows_fails_and_keeps_finite_weights() -> None:
    windows = waves(2)
    weight = windows.weight.clone()
    weight[0] = 0
    assert trained(windows.weighted(weight))[1].tolist() == [True, False]


def test_training_stops_early_where_nothing_improves_and_says_how_far_it_is() -> None:
    shares: list[float] = []
    training = Training(steps=10_000, check_every=5, patience=2)
    flat = Windows.of(torch.zeros(2, 100, 1), WINDOW)
    train(Narrow(), flat, training, seed=0, max_windows=50, on_progress=shares.append)
    assert len(shares) < 200
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_training_lowers_the_loss() -> None:
    windows = waves(3)
    training = Training(steps=300, batch=32)
    losses = [
        train(Narrow(), windows, Training(steps=1), seed=0, max_windows=200, on_progress=lambda _: None),
        train(Narrow(), windows, training, seed=0, max_windows=200, on_progress=lambda _: None),
    ]
    assert (losses[1].held_out < 0.5 * losses[0].held_out).all()


def test_training_leaves_the_number_of_threads_alone() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


# -- draws --------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 200), st.integers(1, 60), st.floats(0, 1))
def test_only_usable_windows_are_drawn_in_order_and_none_twice(
    seed: int, n: int, most: int, share: float
) -> None:
    weight = (torch.rand(3, n, generator=torch.Generator().manual_seed(seed)) < share).float()
    draws = draw(weight, most, seed % 7)
    for member in range(3):
        usable = weight[member].nonzero().flatten().tolist()
        drawn = draws.position[member, : draws.count[member]].tolist()
        assert len(drawn) == min(most, len(usable))
        assert drawn == sorted(set(drawn))
        assert set(drawn) <= set(usable)


def test_draws_are_even_over_the_history() -> None:
    position = draw(torch.ones(1, 10_000), 100, 0).position[0]
    assert (position // 100).tolist() == list(range(100))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_no_draw_is_both_trained_on_and_held_out(counts: list[int]) -> None:
    most = max(counts)
    draws = Draws(torch.arange(most).expand(len(counts), -1), torch.tensor(counts))
    share = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    for member, count in enumerate(counts):
        taught = set(draws.training(share)[member].tolist())
        held = set(draws.held_out(share)[member].tolist())
        assert taught | held == set(range(count))
        assert not (taught & held) or count < 20


# -- parts --------------------------------------------------------------------------------------


def test_the_optimiser_takes_the_steps_of_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(70, 3, generator=generator)
    ours, theirs, gradient = start.clone(), start.clone(), torch.zeros_like(start)
    oracle = torch.optim.Adam([theirs], lr=0.01)
    adam = Adam(ours, gradient, (torch.zeros_like(start), torch.zeros_like(start)), 0, (0.9, 0.999))
    for _ in range(5):
        gradient.copy_(torch.randn(start.shape, generator=generator))
        theirs.grad = gradient.clone()
        adam.step(0.01)
        oracle.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_trimmed_mean_leaves_the_largest_out() -> None:
    loss = torch.tensor([[1.0, 100.0, 3.0, 2.0], [4.0, 4.0, 4.0, 4.0]])
    assert trimmed_mean(loss, 0.25).tolist() == [2.0, 4.0]
    assert trimmed_mean(loss, 0.0).tolist() == [26.5, 4.0]


def test_batches_cover_every_window_once_and_say_what_is_missing() -> None:
    series = torch.arange(24.0).reshape(1, 12, 2)
    series[0, 3, 1] = torch.nan
    windows = Windows.of(series, WINDOW)
    parts = list(batches(windows, 3))
    assert [part for part, _ in parts] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    values = torch.cat([batch.values for _, batch in parts], dim=1)
    kept = torch.cat([batch.kept for _, batch in parts], dim=1)
    torch.testing.assert_close(values, windows.values.reshape(1, 7, 12))
    torch.testing.assert_close(kept, (~windows.mask).float().reshape(1, 7, 12))


def test_missing_values_are_filled_round_by_round_and_the_others_stay() -> None:
    values = torch.randn(2, 5, WINDOW, generator=torch.Generator().manual_seed(2))
    missing = torch.zeros(2, 5, WINDOW, dtype=torch.bool)
    missing[0, 1, 2], missing[1, 3, :4] = True, True
    values = values.masked_fill(missing, 0.0)

    def reconstruct(x: Tensor) -> Tensor:
        return 0.5 * x + 1

    slow = values.clone()
    for _ in range(3):
        for at in missing.nonzero().tolist():
            slow[tuple(at)] = 0.5 * slow[tuple(at)] + 1
    found = filled(TrainingBatch.of(values, missing), reconstruct, 3)
    torch.testing.assert_close(found.values, slow)
    assert found.values[0, 1, 2] == 1.75
    assert torch.equal(found.kept, (~missing).float())


def test_a_batch_without_gaps_is_not_reconstructed() -> None:
    whole = TrainingBatch.of(torch.zeros(1, 3, WINDOW), None)
    assert filled(whole, lambda x: x / 0, 10) is whole


def test_the_inverse_hyperbolic_sine_is_exact_from_the_smallest_to_the_farthest_value() -> None:
    x = 10.0 ** torch.linspace(-30, 12, 1000, dtype=torch.float64)
    x = torch.cat([-x, torch.zeros(1, dtype=torch.float64), x]).float()
    torch.testing.assert_close(asinh(x), x.double().asinh().float(), rtol=3e-7, atol=0.0)


def test_a_perceptron_is_its_layers_one_value_at_a_time() -> None:
    weights = perceptron_weights("net", WINDOW, 4, 3, torch.Generator().manual_seed(3))
    x = torch.randn(1, 2, WINDOW, generator=torch.Generator().manual_seed(4))
    found = perceptron({name: value.unsqueeze(0) for name, value in weights.items()}, "net", x)
    slow = {name: value.double().numpy() for name, value in weights.items()}
    for i in range(2):
        expected = torch.from_numpy(naive.perceptron(slow, "net", x[0, i].double().numpy()))
        torch.testing.assert_close(found[0, i], expected.float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"trim": 1.0}, r"trim must be a share in \[0, 1\), got 1.0"),
        ({"rate": 0.0}, "rate and clip must be above 0, got 0.0"),
    ],
)
def test_impossible_training_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**options)  # type: ignore[arg-type]
