"""Flows: inverses, determinants and densities, against derivatives, quadrature and zuko."""

from __future__ import annotations

import importlib.util
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.flow import FlowConfig, FlowDetector
from detectors.maths import flows
from detectors.maths.flows import TRANSFORMS, AffineFlow, Flow, Transform
from detectors.maths.linear import LinearBase
from detectors.stacked import Params, Training, train
from detectors.windows import Windows

WINDOW = 8

needs_zuko = pytest.mark.skipif(importlib.util.find_spec("zuko") is None, reason="zuko is not installed")
EVERY = [pytest.param(t, marks=needs_zuko if t == "spline" else ()) for t in TRANSFORMS]


def weights(flow: Flow, members: int, seed: int = 0, strength: float = 0.3) -> Params:
    """Weights of a flow that bends strongly, unlike a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    fresh = flow.initial(generator)
    # Splines are fresh with weights that bend already, and more of it makes them too steep for float32.
    strength = strength if isinstance(flow, AffineFlow) else strength / 3
    return {
        name: value + strength * torch.randn(members, *value.shape, generator=generator)
        for name, value in fresh.items()
    }


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bent(n: int, points: int, seed: int) -> Tensor:
    """Pairs of steps, the second one the square of the first but for noise: no straight line tells them."""
    first = noise(n, points // 2, seed=seed)
    second = first.square() - 1 + 0.2 * noise(n, points // 2, seed=seed + 100)
    return torch.stack([first, second], dim=2).reshape(n, points, 1)


def pairs(series: Tensor) -> Windows:
    """The windows of two steps that begin with a first one; the others have weight 0."""
    windows = Windows.of(series, 2)
    return windows.weighted((torch.arange(windows.n_windows) % 2 == 0).float().expand(len(series), -1))


def waves(n: int, n_points: int, seed: int) -> Tensor:
    return (torch.sin(torch.arange(n_points) / 3) + 0.3 * noise(n, n_points, seed=seed)).unsqueeze(2)


@pytest.fixture(scope="module")
def waving() -> FlowDetector:
    return FlowDetector(FlowConfig(window=WINDOW, latent=3)).fit(Windows.of(waves(2, 1000, 0), WINDOW))


@pytest.mark.parametrize("transform", EVERY)
@pytest.mark.parametrize("latent", [1, 2, 5])
def test_a_flow_inverts_itself(transform: Transform, latent: int) -> None:
    flow = flows.flow(transform, latent, 3, 16)
    params, z = weights(flow, 2), 2 * noise(2, 50, latent)
    u, _ = flow.forward(params, z)
    assert (u - z).abs().max() > 0.1
    torch.testing.assert_close(flow.inverse(params, u), z, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("transform", EVERY)
@pytest.mark.parametrize("latent", [1, 2, 5])
def test_the_log_determinant_is_that_of_the_derivatives(transform: Transform, latent: int) -> None:
    flow = flows.flow(transform, latent, 3, 16)
    params = weights(flow, 1)
    for z in noise(6, 1, 1, latent, seed=2):
        jacobian = torch.autograd.functional.jacobian(lambda z: flow.forward(params, z)[0], z)
        wanted = torch.linalg.slogdet(jacobian.view(latent, latent)).logabsdet
        torch.testing.assert_close(flow.forward(params, z)[1].squeeze(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("transform", EVERY)
def test_a_flow_s_density_integrates_to_one(transform: Transform) -> None:
    flow = flows.flow(transform, 2, 3, 16)
    params = weights(flow, 1, seed=3, strength=0.15)
    axis = torch.linspace(-25, 25, 501)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(0)
    total = flows.log_prob(flow, params, grid).double().exp().sum() * float(axis[1] - axis[0]) ** 2
    assert float(total) == pytest.approx(1, abs=0.01)


@given(st.booleans(), st.integers(1, 6), st.integers(1, 4))
def test_a_fresh_flow_changes_nothing(coupling: bool, latent: int, transforms: int) -> None:
    flow = AffineFlow(coupling, latent, transforms, 8)
    params = {name: value.unsqueeze(0) for name, value in flow.initial(torch.Generator()).items()}
    z = noise(1, 5, latent)
    u, log_det = flow.forward(params, z)
    assert torch.equal(u, z)
    assert not log_det.any()


@pytest.mark.parametrize("coupling", [False, True])
def test_every_value_moves_with_another_one_after_two_transforms(coupling: bool) -> None:
    flow = AffineFlow(coupling, 4, 2, 32)
    params = weights(flow, 1)
    jacobian = torch.autograd.functional.jacobian(lambda z: flow.forward(params, z)[0], noise(1, 1, 4))
    moved = jacobian.view(4, 4).abs() > 1e-6
    assert moved.sum(1).min() >= 2


@needs_zuko
@pytest.mark.parametrize("coupling", [False, True])
def test_a_flow_is_zuko_s_with_the_same_weights(coupling: bool) -> None:
    from zuko.flows import MAF
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform

    ours = AffineFlow(coupling, 4, 3, 16)
    params = weights(ours, 1)
    theirs = MAF(4, transforms=0)
    for network in ours.networks:
        transform = MaskedAutoregressiveTransform(
            4,
            passes=2 if coupling else 4,
            # zuko halves an order of four by its own places.
            order=torch.tensor(network.order) * (2 if coupling else 1),
            univariate=_bounded,
            hidden_features=(16,),
        )
        layers = transform.hyper
        for i, mask in enumerate(network.masks):
            # zuko's outputs come value by value, ours number by number.
            rows = torch.arange(8).view(2, 4).T.flatten() if i == 1 else torch.arange(16)
            layer = layers[2 * i]
            layer.mask = mask.T[rows].bool()
            layer.weight.data = params[f"{network.name}.{i}.weight"][0].T[rows]
            layer.bias.data = params[f"{network.name}.{i}.bias"][0][rows]
        layers.insert(0, _Asinh())
        theirs.transform.transforms.append(transform)
    z = 2 * noise(1, 40, 4)
    found = flows.log_prob(ours, params, z)[0]
    torch.testing.assert_close(theirs().log_prob(z[0]), found, rtol=1e-4, atol=1e-4)
    u, _ = ours.forward(params, z)
    torch.testing.assert_close(
        theirs.transform(None).inv(u[0]), ours.inverse(params, u)[0], rtol=1e-3, atol=1e-3
    )


class _Asinh(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.asinh()


def _bounded(log_scale: Tensor, shift: Tensor) -> torch.distributions.Transform:
    return torch.distributions.AffineTransform(shift, (2 * (log_scale / 2).tanh()).exp())


def test_what_bends_is_learned() -> None:
    z = torch.stack([noise(1, 4000), noise(1, 4000, seed=2)], dim=2)
    z[:, :, 1] = z[:, :, 0].square() + 0.3 * z[:, :, 1]
    flow = AffineFlow(False, 2, 3, 32)
    training = Training(steps=300, rate=1e-2, trim=0.0)
    trained = train(
        flow, Windows.of(z, 1), training, seed=0, max_windows=4000, on_progress=lambda share: None
    )
    entropy = 1 + math.log(2 * math.pi) + math.log(0.3)
    assert float(-flows.log_prob(flow, trained.params, z).mean()) < entropy + 0.15


def test_log_prob_is_that_of_all_directions_by_change_of_variables(waving: FlowDetector) -> None:
    windows = Windows.of(waves(2, 40, 5), WINDOW)
    found = waving.log_prob(windows)
    for target in range(2):
        state = {name: tensor[[target]] for name, tensor in waving.state().items()}
        base, flow = LinearBase.load(state), waving._flow(state)
        left_over = torch.linalg.qr(base.axes[0], mode="complete").Q[:, 3:]
        root = torch.linalg.cholesky(left_over.T @ base.noise_covariance[0].float() @ left_over)
        left_over = left_over @ torch.linalg.inv(root).T

        def normal(x: Tensor, base=base, flow=flow, state=state, left_over=left_over) -> Tensor:
            about = x - base.mean[0]
            z = about @ base.axes[0] / base.spread[0]
            return torch.cat([flow.forward(state, z.view(1, 1, -1))[0].flatten(), about @ left_over])

        for s in range(0, windows.n_windows, 7):
            x = windows.values[target, s, :, 0].clone()
            log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(normal, x)).logabsdet
            slow = log_det - 0.5 * (normal(x).square().sum() + WINDOW * math.log(2 * math.pi))
            assert float(found[target, s]) == pytest.approx(float(slow), rel=1e-3, abs=1e-2)


def test_a_sample_s_code_is_the_normal_noise_it_was_made_of(waving: FlowDetector) -> None:
    samples = waving.sample(200)
    laid = Windows.of(samples.reshape(2, 200 * WINDOW, 1), WINDOW)
    code = waving.encode(laid)[:, ::WINDOW]
    generator = torch.Generator().manual_seed(waving.config.seed)
    drawn = torch.randn(200, 3, generator=generator).expand(2, -1, -1)
    torch.testing.assert_close(code, drawn, rtol=1e-2, atol=1e-2)


def test_a_pair_off_the_bend_is_odd_where_straight_lines_see_nothing() -> None:
    detector = FlowDetector(FlowConfig(window=2, latent=2, steps=400)).fit(pairs(bent(2, 6000, 0)))
    usual = detector.log_prob(pairs(bent(2, 600, 7)))[:, ::2]
    # To the covariance, which is nil, zero and one go together as well as any two; the bend is at -1.
    off = detector.log_prob(Windows.of(torch.tensor([0.0, 1.0]).view(1, 2, 1).repeat(2, 1, 1), 2))
    assert (off[:, 0] < usual.quantile(0.02, dim=1)).all()


def test_the_parts_join_to_the_score_and_the_norm_stands_beside_them(waving: FlowDetector) -> None:
    windows = Windows.of(waves(2, 200, 8), WINDOW)
    found = waving.parts(windows)
    shared = found.latent.clamp_min(0).square() + found.rest.clamp_min(0).square()
    joined = (found.step.clamp_min(0).square() + shared.unsqueeze(2)).sqrt()
    torch.testing.assert_close(joined, waving.score(windows), rtol=1e-4, atol=1e-4)
    assert found.norm.shape == (2, windows.n_windows)
    # Chi-squared with three degrees of freedom on normal data.
    assert 2.0 < float(found.norm.mean()) < 4.0


def test_farther_is_worse_without_end(waving: FlowDetector) -> None:
    shape = waves(1, WINDOW, 9).flatten()
    far = torch.tensor([5.0, 50.0, 1e3, 1e5])
    laid = Windows.of((far[:, None] * shape).reshape(1, -1, 1).repeat(2, 1, 1), WINDOW)
    log_prob = waving.log_prob(laid)[:, ::WINDOW]
    assert log_prob.isfinite().all()
    assert (log_prob.diff(dim=1) < 0).all()
    assert (waving.parts(laid).latent[:, ::WINDOW].diff(dim=1) > 0).all()


def test_a_member_without_data_keeps_a_flow_that_changes_nothing() -> None:
    windows = Windows.of(waves(2, 200, 10), WINDOW)
    weight = windows.weight.clone()
    weight[1] = 0
    detector = FlowDetector(FlowConfig(window=WINDOW, latent=3)).fit(windows.weighted(weight))
    base = LinearBase.load(detector.state())
    z = base.split(base.about_mean(windows.values))[0]
    apart = (detector.encode(windows) - z).abs().amax((1, 2))
    assert apart[1] == 0
    assert apart[0] > 0.1


@needs_zuko
def test_splines_are_fitted_member_by_member_and_come_back_from_their_state() -> None:
    windows = Windows.of(waves(2, 300, 11), WINDOW)
    config = FlowConfig(window=WINDOW, transform="spline", latent=2, transforms=2, hidden=8, steps=20)
    before = torch.random.get_rng_state()
    detector = FlowDetector(config).fit(windows)
    assert torch.equal(torch.random.get_rng_state(), before)
    alone = FlowDetector(config).fit(windows.select([1]))
    torch.testing.assert_close(alone.score(windows.select([1]))[0], detector.score(windows)[1])
    loaded = FlowDetector.load(config, detector.state()).select([1, 0])
    torch.testing.assert_close(loaded.score(windows.select([1, 0])), detector.score(windows)[[1, 0]])
    assert detector.sample(5).isfinite().all()
    absurd = Windows.of(windows.series * 1e30, WINDOW)
    assert detector.score(absurd).isfinite().all()


def test_splines_without_zuko_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # None stands for a module that is not there, to importlib as to an import.
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(
        ValueError, match="'spline' needs the package zuko, which is not there; pip install zuko"
    ):
        FlowConfig(transform="spline")


def test_a_default_member_is_small() -> None:
    for window in (24, 128):
        state = (
            FlowDetector(FlowConfig(window=window, steps=1))
            .fit(Windows.of(waves(1, 400, 12), window))
            .state()
        )
        assert sum(value.numel() * value.element_size() for value in state.values()) < 64 * 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "planar"}, "transform must be one of autoregressive, coupling, spline, got 'planar'"),
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"transforms": 0}, "transforms must be at least 1, got 0"),
        ({"hidden": -1}, "hidden must be at least 1, got -1"),
        ({"trim": 0.5}, "trim must be at least 0 and below 0.5, got 0.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowConfig(**options)  # type: ignore[arg-type]  # wrong on purpose
