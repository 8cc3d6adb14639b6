from __future__ import annotations

import math

import naive
import pytest
import torch
from torch import Tensor

from detectors.base import Windows
from detectors.kde import KdeConfig, KdeDetector
from detectors.maths.kernels import KERNELS, Kernel, kernel_noise, log_kernel, radius


def noisy_wave(n: int, points: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    phase = torch.arange(points) / 2 + torch.arange(n).unsqueeze(1)
    return (phase.sin() + 0.3 * torch.randn(n, points, generator=generator)).unsqueeze(2)


FAR = torch.full((2,), 10**6)
"""A place on the grid where no reference is a neighbour."""


@pytest.fixture(scope="module", params=KERNELS)
def fitted(request: pytest.FixtureRequest) -> KdeDetector:
    return KdeDetector(KdeConfig(window=8, latent=2, kernel=request.param)).fit(
        Windows.of(noisy_wave(2, 900, 0), 8)
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_kernel_integrates_to_one_and_has_unit_variance(kernel: Kernel, d: int) -> None:
    edge = min(radius(kernel, d), 7.0)
    r = torch.linspace(0, edge, 20_001, dtype=torch.float64)
    shell = 2 * math.pi ** (d / 2) / math.gamma(d / 2) * r ** (d - 1)
    density = log_kernel(r.square(), kernel, d).exp() * shell
    assert torch.trapezoid(density, r) == pytest.approx(1, rel=1e-3)
    assert torch.trapezoid(density * r.square(), r) / d == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_draws_from_a_kernel_have_its_shape(kernel: Kernel) -> None:
    draws = kernel_noise(kernel, (40_000, 3), torch.Generator().manual_seed(1))
    squares = draws.square().sum(1)
    assert float(squares.mean()) == pytest.approx(3, rel=0.03)
    # E r^4 of each: 15 for the normal, (d+2)^2 d/(d+4) of a ball, and of the epanechnikov's beta(d/2, 2).
    fourth = {"gaussian": 15.0, "tophat": 25 * 3 / 7, "epanechnikov": 49 * (3 * 5) / (7 * 9)}[kernel]
    assert float(squares.square().mean()) == pytest.approx(fourth, rel=0.04)


def test_the_density_is_the_mean_of_the_kernels_of_those_who_are_no_neighbours() -> None:
    detector = KdeDetector(KdeConfig(window=8, latent=2, trim=0.0)).fit(Windows.of(noisy_wave(2, 300, 2), 8))
    state = {name: tensor[1] for name, tensor in detector.state().items()}
    windows = Windows.of(noisy_wave(2, 300, 2), 8)
    found = detector.log_prob(windows)
    flat = windows.values[1, :, :, 0] - state["mean"]
    along = flat @ state["axes"]
    z = (along / state["spread"]).double().numpy()
    off = (flat.square().sum(1) - along.square().sum(1)).double()
    for s in range(0, windows.n_windows, 17):
        latent = naive.kernel_log_density(
            z[s],
            s,
            state["reference"].double().numpy(),
            state["reference_start"].numpy(),
            float(state["bandwidth"]),
            8,
        )
        noise = float(state["noise"])
        rest = -0.5 * (float(off[s]) / noise + 6 * math.log(2 * math.pi * noise))
        wanted = latent - float(state["spread"].log().sum()) + rest
        assert found[1, s] == pytest.approx(wanted, rel=1e-3, abs=1e-3)


def test_an_odd_window_seen_once_in_training_is_no_witness_for_itself() -> None:
    series = noisy_wave(1, 900, 3)
    series[0, 450:458] *= 5
    detector = KdeDetector(KdeConfig(window=8, latent=2, trim=0.0)).fit(Windows.of(series, 8))
    here = detector.log_prob(Windows.of(series, 8))[0, 450]
    elsewhere = detector.log_prob(Windows.of(series, 8, start=FAR[:1]))[0, 450]
    assert here < elsewhere - 1


def test_far_windows_lie_outside_the_support_of_finite_kernels_only(fitted: KdeDetector) -> None:
    windows = Windows.of(noisy_wave(2, 60, 4) * 6, 8, start=FAR)
    outside = fitted.outside_support(windows)
    if fitted.config.kernel == "gaussian":
        assert not outside.any()
    else:
        assert outside.float().mean() > 0.5
        assert fitted.log_prob(windows)[outside].isneginf().all()
    assert fitted.score(windows).isfinite().all()


def test_outside_the_support_farther_is_still_worse(fitted: KdeDetector) -> None:
    base = noisy_wave(2, 60, 5)
    near, far = (fitted.score(Windows.of(base * by, 8, start=FAR)).mean() for by in (6, 12))
    assert far > near


def test_normal_windows_lie_inside_the_support(fitted: KdeDetector) -> None:
    outside = fitted.outside_support(Windows.of(noisy_wave(2, 600, 6), 8, start=FAR))
    assert outside.float().mean() < 0.02


def test_hidden_steps_are_expected_where_similar_windows_went(fitted: KdeDetector) -> None:
    windows = Windows.of(noisy_wave(2, 400, 7), 8, start=FAR)
    clean = Windows.of(
        (torch.arange(400) / 2 + torch.arange(2).unsqueeze(1)).sin().unsqueeze(2), 8, start=FAR
    )
    last = torch.zeros(2, 400, dtype=torch.bool)
    last[:, 7::8] = True
    expected = fitted.expect(windows.hidden(last)).mean[:, ::8, -1, 0]
    wanted = clean.values[:, ::8, -1, 0]
    assert (expected - wanted).abs().mean() < 0.3


def test_the_number_of_references_and_the_bandwidth_follow_the_data() -> None:
    short, long = (
        KdeDetector(KdeConfig(references=500)).fit(Windows.of(noisy_wave(1, n, 8), 24)).state()
        for n in (200, 3000)
    )
    assert int(short["references"]) == 177
    assert int(long["references"]) == 500
    assert float(short["bandwidth"]) == pytest.approx((177 / 24) ** (-1 / 10), rel=1e-4)
    assert float(long["bandwidth"]) == pytest.approx((500 / 24) ** (-1 / 10), rel=1e-4)


def test_a_series_of_one_window_falls_back_to_its_base() -> None:
    windows = Windows.of(noisy_wave(1, 24, 9), 24)
    detector = KdeDetector().fit(windows)
    assert detector.score(windows).isfinite().all()
    assert detector.expect(windows).mean.isfinite().all()


def test_banks_with_different_numbers_of_references_stack() -> None:
    short, long = (Windows.of(noisy_wave(1, n, 10), 24) for n in (100, 900))
    banks = [KdeDetector().fit(windows) for windows in (short, long)]
    stacked = KdeDetector.stack(banks)
    probe = Windows.of(noisy_wave(1, 60, 11), 24, start=FAR[:1])
    both = stacked.score(probe.select([0, 0]))
    torch.testing.assert_close(both[:1], banks[0].score(probe), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1:], banks[1].score(probe), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [24, 128])
def test_a_default_member_takes_at_most_64_kib(window: int) -> None:
    state = KdeDetector(KdeConfig(window=window)).fit(Windows.of(noisy_wave(1, 6000, 12), window)).state()
    assert sum(t.numel() * t.element_size() for t in state.values()) <= 64 * 1024


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel": "box"}, "kernel must be one of gaussian, tophat, epanechnikov, got 'box'"),
        ({"latent": 7}, "latent must be 1 to 6, got 7"),
        ({"references": 0}, "references must be at least 1, got 0"),
        ({"trim": 0.6}, "trim must be at least 0 and below 0.5, got 0.6"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KdeConfig(**wrong)  # type: ignore[arg-type]  # wrong on purpose
