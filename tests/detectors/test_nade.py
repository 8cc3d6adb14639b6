"""Conditionals and the chain rule, against quadrature, draws and a twin without masks."""

from __future__ import annotations

import naive
import pytest
import torch
from torch import Tensor

from detectors.nade import NadeConfig, NadeDetector, _NadeNetwork
from detectors.stacked import TrainingBatch
from detectors.windows import Windows

WINDOW = 8


def jumps(n: int, n_points: int, seed: int) -> Tensor:
    """Series that are at -2 or at 2 at every step, whatever they were before, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.where(torch.rand(n, n_points, generator=generator) < 0.5, 2.0, -2.0)
    return (side + 0.2 * torch.randn(n, n_points, generator=generator)).unsqueeze(2)


def waves(n: int, n_points: int, seed: int) -> Tensor:
    noise = torch.randn(n, n_points, generator=torch.Generator().manual_seed(seed))
    return (torch.sin(torch.arange(n_points) / 3) + 0.3 * noise).unsqueeze(2)


@pytest.fixture(scope="module")
def jumping() -> NadeDetector:
    return NadeDetector(NadeConfig(window=WINDOW)).fit(Windows.of(jumps(2, 1500, 0), WINDOW))


@pytest.fixture(scope="module")
def waving() -> NadeDetector:
    return NadeDetector(NadeConfig(window=WINDOW)).fit(Windows.of(waves(2, 1500, 0), WINDOW))


def with_last(window: Tensor, last: Tensor) -> Windows:
    """Copies of one window with other newest values, laid end to end; every eighth window is one."""
    rows = window.repeat(len(last), 1)
    rows[:, -1] = last
    return Windows.of(rows.reshape(1, -1, 1).repeat(2, 1, 1), WINDOW)


@pytest.mark.parametrize("channels", [1, 2])
def test_log_prob_is_the_chain_rule_over_networks_cut_out_for_each_step(channels: int) -> None:
    series = torch.cat([waves(2, 400, seed) for seed in range(channels)], dim=2)
    detector = NadeDetector(NadeConfig(window=6, hidden=5, steps=60)).fit(Windows.of(series, 6))
    windows = Windows.of(series[:, :40], 6)
    found = detector.log_prob(windows)
    for target in range(2):
        state = {name: tensor[target].double().numpy() for name, tensor in detector.state().items()}
        for s in range(0, windows.n_windows, 5):
            x = windows.values[target, s].flatten().double().numpy()
            slow = naive.nade_log_densities(state, x, detector.config.sd_floor).sum()
            assert found[target, s] == pytest.approx(slow, rel=1e-4, abs=1e-3)


def test_the_conditional_of_a_step_integrates_to_one_whatever_came_before(jumping: NadeDetector) -> None:
    axis = torch.linspace(-12, 12, 4001)
    past = jumps(1, WINDOW, 3).flatten()
    joint = jumping.log_prob(with_last(past, axis))[:, ::WINDOW]
    other = jumping.log_prob(with_last(past * 3, axis))[:, ::WINDOW]
    for log_prob in (joint, other):
        # What the steps before it contribute is the same for all and cancels.
        before = _log_prob_of_past(jumping, past if log_prob is joint else past * 3)
        total = (log_prob - before.unsqueeze(1)).exp().sum(1) * float(axis[1] - axis[0])
        torch.testing.assert_close(total, torch.ones(2), rtol=1e-3, atol=1e-3)


def _log_prob_of_past(detector: NadeDetector, window: Tensor) -> Tensor:
    hide = torch.zeros(2, WINDOW, dtype=torch.bool)
    hide[:, -1] = True
    return detector.log_prob(with_last(window, window[-1:]).hidden(hide))[:, 0]


@pytest.mark.parametrize("which", ["jumping", "waving"])
def test_mean_and_scale_are_those_of_the_density(which: str, request: pytest.FixtureRequest) -> None:
    detector: NadeDetector = request.getfixturevalue(which)
    axis = torch.linspace(-12, 12, 4001)
    windows = with_last(jumps(1, WINDOW, 4).flatten(), axis)
    density = detector.log_prob(windows)[:, ::WINDOW].double().softmax(1)
    mean = (density * axis).sum(1)
    sd = ((density * axis.square()).sum(1) - mean.square()).sqrt()
    expected = detector.expect(windows.span(0, 1))
    assert expected.scale is not None
    torch.testing.assert_close(expected.mean[:, 0, -1, 0].double(), mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(expected.scale[:, 0, -1, 0].double(), sd, rtol=1e-3, atol=1e-3)


def test_draws_of_a_step_have_its_mean_and_scale(jumping: NadeDetector) -> None:
    generator = torch.Generator().manual_seed(5)
    x = jumps(2, WINDOW, 6).view(2, 1, WINDOW).expand(-1, 40_000, -1)
    conditionals = jumping._conditionals(jumping.state(), x)
    share, noise = torch.rand(40_000, generator=generator), torch.randn(40_000, generator=generator)
    drawn = conditionals.drawn(WINDOW - 1, share, noise)
    mean, sd = (moment[:, 0, -1] for moment in conditionals.moments())
    torch.testing.assert_close(drawn.mean(1), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.std(1), sd, rtol=0.03, atol=0)
    assert (drawn.abs() > 1).float().mean() > 0.9


def test_a_value_between_two_likely_ones_is_odd(jumping: NadeDetector) -> None:
    past = jumps(1, WINDOW, 7).flatten()
    newest = jumping.score(with_last(past, torch.tensor([-2.0, 0.0, 2.0])))[:, ::WINDOW, -1]
    assert (newest[:, 1] > 3 * newest[:, [0, 2]].amax(1).clamp_min(0.5)).all(), newest.tolist()


def test_the_next_value_is_known_from_those_before(waving: NadeDetector) -> None:
    unseen = Windows.of(waves(2, 600, 9), WINDOW)
    newest = waving.expect(unseen).mean[:, :, -1, 0]
    clean = torch.sin(torch.arange(WINDOW - 1, 600) / 3)
    assert float((newest - clean).square().mean().sqrt()) < 0.25


def test_a_step_does_not_know_what_comes_after_it(waving: NadeDetector) -> None:
    series = waves(2, 60, 10)
    later = series.clone()
    later[:, 30:] += 2
    before, after = (waving.expect(Windows.of(each, WINDOW)).mean[:, 25] for each in (series, later))
    # Window 25 holds steps 25 to 32: that of step 30 is the last one that saw nothing new.
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert (after[:, 6:] - before[:, 6:]).abs().max() > 0.1


def test_missing_steps_hold_their_mean_given_those_before_one_after_another(waving: NadeDetector) -> None:
    windows = Windows.of(waves(2, WINDOW, 11), WINDOW)
    hide = torch.zeros(2, WINDOW, dtype=torch.bool)
    hide[:, [2, 3, 6]] = True
    one_by_one = windows.series.clone()
    for step in (2, 3, 6):
        one_by_one[:, step] = waving.expect(Windows.of(one_by_one, WINDOW)).mean[:, 0, step]
    found = waving.expect(windows.hidden(hide)).mean
    torch.testing.assert_close(found, waving.expect(Windows.of(one_by_one, WINDOW)).mean)


def test_a_long_gap_is_rolled_out_exactly() -> None:
    """Rounds of prediction of a whole window swing up before they settle, step after step."""
    window, gap = 48, range(8, 48)
    detector = NadeDetector(NadeConfig(window=window, steps=60)).fit(Windows.of(waves(1, 3000, 2), window))
    windows = Windows.of(waves(1, window, 12), window)
    one_by_one = windows.series.clone()
    for step in gap:
        one_by_one[:, step] = detector.expect(Windows.of(one_by_one, window)).mean[:, 0, step]
    hide = (torch.arange(window) >= gap.start).unsqueeze(0)
    found = detector.expect(windows.hidden(hide)).mean
    torch.testing.assert_close(found, detector.expect(Windows.of(one_by_one, window)).mean)


def test_missing_values_teach_nothing() -> None:
    network = _NadeNetwork(NadeConfig(window=WINDOW), WINDOW)
    params = {
        name: value.unsqueeze(0) for name, value in network.initial(torch.Generator().manual_seed(0)).items()
    }
    kept = torch.ones(1, 5, WINDOW)
    kept[:, :, 3] = 0
    values = torch.randn(1, 5, WINDOW) * kept
    generator = torch.Generator()
    whole = network.loss(params, TrainingBatch(values, torch.ones_like(kept)), generator)
    own = -network.conditionals(params, values).log_prob(values)[:, :, 3]
    torch.testing.assert_close(network.loss(params, TrainingBatch(values, kept), generator), whole - own)


def test_a_member_without_data_is_a_broad_mixture_about_the_median() -> None:
    windows = Windows.of(waves(1, 100, 12), WINDOW)
    bare = NadeDetector(NadeConfig(window=WINDOW)).fit(windows.weighted(torch.zeros(1, windows.n_windows)))
    expected = bare.expect(windows)
    assert expected.scale is not None
    assert expected.mean.abs().max() < 1e-4
    assert 0.8 < float(expected.scale.min()) <= float(expected.scale.max()) < 1.3


def test_farther_is_worse_without_end(waving: NadeDetector) -> None:
    far = torch.tensor([3.0, 10.0, 1e3, 1e6, 1e9, 1e12])
    newest = waving.score(with_last(waves(1, WINDOW, 13).flatten(), far))[:, ::WINDOW, -1]
    assert (newest.diff(dim=1) > 0).all()


def test_a_value_far_off_does_not_take_the_steps_after_it_along(waving: NadeDetector) -> None:
    series = waves(2, 40, 14)
    series[:, 20] = 1e6
    expected = waving.expect(Windows.of(series, WINDOW)).mean
    assert expected.abs().max() < 60


def test_a_weak_shift_that_lasts_shows_in_the_newest_step_by_the_whole_window(waving: NadeDetector) -> None:
    unseen = Windows.of(waves(2, 1200, 15), WINDOW)
    shifted = Windows.of(unseen.series + 0.5, WINDOW)
    state = waving.state()
    deaf = {**state, "part_scale": state["part_scale"] * torch.tensor([1e9, 1.0])}

    def share_above(detector: NadeDetector) -> float:
        line = detector.score(unseen)[:, :, -1].quantile(0.99, dim=1, keepdim=True)
        return float((detector.score(shifted)[:, :, -1] > line).float().mean())

    assert share_above(waving) > 1.5 * share_above(NadeDetector.load(waving.config, deaf))


def test_with_one_component_a_step_s_part_is_its_distance_from_the_mean() -> None:
    windows = Windows.of(waves(2, 300, 17), WINDOW)
    detector = NadeDetector(NadeConfig(window=WINDOW, components=1, steps=60)).fit(windows)
    expected = detector.expect(windows)
    assert expected.scale is not None
    distance = ((windows.values - expected.mean) / expected.scale).abs().squeeze(3)
    found = detector._raw(detector.state(), windows.values, None)[:, :, 1:]
    torch.testing.assert_close(found, 2**0.5 * distance - 1, rtol=1e-3, atol=2e-3)


def test_a_default_member_is_small() -> None:
    detector = NadeDetector(NadeConfig(steps=1)).fit(Windows.of(waves(1, 100, 16), 24))
    assert sum(value.numel() * value.element_size() for value in detector.state().values()) < 64 * 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"sd_floor": 0.0}, "sd_floor must be above 0, got 0.0"),
        ({"trim": 1.0}, r"trim must be a share in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NadeConfig(**options)  # type: ignore[arg-type]  # wrong on purpose
