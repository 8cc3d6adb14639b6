from __future__ import annotations

import math
from dataclasses import dataclass

import naive
import numpy as np
import pytest
import torch
from naive import Array
from torch import Tensor

from detectors.kde import Bandwidth, KdeConfig, KdeDetector
from detectors.maths.kernels import KERNELS, Kernel, kernel_noise, log_kernel, radius
from detectors.maths.references import References
from detectors.windows import Windows


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


@dataclass(frozen=True)
class Latents:
    """Of a member: latents and squared norms off the axes of windows, and its references; float64."""

    z: Array
    off: Array
    references: Array
    starts: Array

    @classmethod
    def of(cls, state: dict[str, Tensor], windows: Windows, target: int) -> Latents:
        flat = windows.values[target, :, :, 0] - state["mean"]
        along = flat @ state["axes"]
        return cls(
            (along / state["spread"]).double().numpy(),
            (flat.square().sum(1) - along.square().sum(1)).double().numpy(),
            state["reference"].double().numpy(),
            state["reference_start"].numpy(),
        )

    def bandwidths(self, state: dict[str, Tensor], kind: Bandwidth, window: int) -> Array:
        if kind == "scott":
            return np.full(len(self.starts), float(state["bandwidth"]))
        return np.array(
            [
                naive.mean_nearest(z, start, self.references, self.starts, 5, window) / math.sqrt(z.size)
                for z, start in zip(self.references, self.starts, strict=True)
            ]
        )


@pytest.mark.parametrize("bandwidth", ["scott", "knn"])
def test_the_density_is_the_mean_of_the_kernels_of_those_who_are_no_neighbours(bandwidth: Bandwidth) -> None:
    config = KdeConfig(window=8, latent=2, trim=0.0, bandwidth=bandwidth)
    windows = Windows.of(noisy_wave(2, 300, 2), 8)
    detector = KdeDetector(config).fit(windows)
    state = {name: tensor[1] for name, tensor in detector.state().items()}
    found = detector.log_prob(windows)
    latents = Latents.of(state, windows, 1)
    bandwidths = latents.bandwidths(state, bandwidth, 8)
    for s in range(0, windows.n_windows, 17):
        latent = naive.kernel_log_density(latents.z[s], s, latents.references, latents.starts, bandwidths, 8)
        noise = float(state["noise"])
        rest = -0.5 * (latents.off[s] / noise + 6 * math.log(2 * math.pi * noise))
        wanted = latent - float(state["spread"].log().sum()) + rest
        assert found[1, s] == pytest.approx(wanted, rel=1e-3, abs=1e-3)


def test_the_distance_is_that_of_whole_windows_to_the_nearest_who_are_no_neighbours() -> None:
    windows = Windows.of(noisy_wave(2, 300, 2), 8)
    detector = KdeDetector(KdeConfig(window=8, latent=2, trim=0.0, bandwidth="knn", neighbours=3)).fit(
        windows
    )
    state = {name: tensor[1] for name, tensor in detector.state().items()}
    latents, spread = Latents.of(state, windows, 1), state["spread"].double().numpy()
    raw = detector._raw(detector.state(), windows.values, None, torch.arange(windows.n_windows).expand(2, -1))
    for s in range(0, windows.n_windows, 17):
        away = naive.mean_nearest(
            latents.z[s] * spread,
            s,
            latents.references * spread,
            latents.starts,
            3,
            8,
            latents.off[s] + 6 * float(state["noise"]),
        )
        part = math.sqrt(2) * away / float(state["bandwidth"]) - math.sqrt(3)
        assert raw[1, s, 0] == pytest.approx(part, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_adaptive_density_integrates_to_one(kernel: Kernel) -> None:
    config = KdeConfig(window=1, bandwidth="knn", kernel=kernel)
    detector = KdeDetector(config).fit(Windows.of(noisy_wave(2, 400, 13), 1))
    axis = torch.linspace(-6, 6, 20_001)
    density = detector.log_prob(Windows.of(axis.view(1, -1, 1).repeat(2, 1, 1), 1, start=FAR)).exp()
    total = torch.trapezoid(density.double(), axis.double(), dim=1)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_a_kernel_is_wider_where_references_are_few() -> None:
    z = torch.cat([torch.linspace(-1, 1, 80), torch.linspace(3, 9, 20)]).view(1, 100, 1)
    refs = References(z, torch.arange(100)[None], torch.tensor([100]), torch.ones(1, 1))
    bandwidth = refs.adaptive(1, 5).bandwidth
    assert bandwidth[0, 80:].min() > 5 * bandwidth[0, :75].max()


def test_windows_that_come_again_exactly_are_not_infinitely_likely() -> None:
    square = (torch.arange(400) // 6 % 2).float().view(1, -1, 1)
    detector = KdeDetector(KdeConfig(window=12, bandwidth="knn")).fit(Windows.of(square, 12))
    assert detector.log_prob(Windows.of(square, 12)).isfinite().all()
    assert detector.score(Windows.of(square, 12)).isfinite().all()


@pytest.fixture(scope="module")
def by_distance() -> KdeDetector:
    return KdeDetector(KdeConfig(window=24, bandwidth="knn")).fit(Windows.of(noisy_wave(2, 1500, 14), 24))


def test_the_score_by_distance_is_finite_however_far_off_and_sees_what_is_odd(
    by_distance: KdeDetector,
) -> None:
    normal = noisy_wave(2, 600, 15)
    usual = by_distance.score(Windows.of(normal, 24, start=FAR)).quantile(0.999)
    changes = {
        "spike": (300, 302, lambda x: x + 3),
        "level": (300, 340, lambda x: x + 1.5),
        "shape": (300, 340, lambda x: -x),
        "absurd": (300, 340, lambda x: x * 1e30),
    }
    for kind, (first, stop, change) in changes.items():
        odd = normal.clone()
        odd[:, first:stop] = change(odd[:, first:stop])
        score = by_distance.score(Windows.of(odd, 24, start=FAR))
        assert score.isfinite().all(), kind
        assert (score[:, first - 23 : stop, -1].amax(1) > usual).all(), kind


def test_the_score_by_distance_grows_with_the_distance(by_distance: KdeDetector) -> None:
    odd = noisy_wave(2, 24, 16) + torch.arange(1, 5).view(1, 1, 4) * 2
    parts = [
        by_distance._raw(by_distance.state(), odd[:, None, :, [k]], None, FAR.unsqueeze(1))[:, 0, 0]
        for k in range(4)
    ]
    assert (torch.stack(parts).diff(dim=0) > 1).all()


def test_distances_are_to_those_left_and_to_the_centre_where_none_is() -> None:
    z = torch.tensor([[[1.0], [4.0], [30.0]]])
    refs = References(z, torch.tensor([[0, 50, 100]]), torch.tensor([2]), torch.ones(1, 1))
    windows, start = torch.tensor([[[0.0], [0.0], [3.0]]]), torch.tensor([[500, 52, 25]])
    found = refs.mean_distance(windows, start, 10, 5, torch.zeros(1, 3))
    torch.testing.assert_close(found, torch.tensor([[2.5, 1.0, 1.5]]))
    beside = refs.mean_distance(windows, start, 60, 5, torch.full((1, 3), 16.0))
    torch.testing.assert_close(beside[0, 1:], torch.tensor([4.0, 5.0]))


@pytest.mark.parametrize("value", [0.0, 3.0, math.nan])
@pytest.mark.parametrize("window", [4, 24])
def test_series_without_noise_are_scored_by_distance_too(value: float, window: int) -> None:
    windows = Windows.of(torch.full((1, 300, 1), value), window)
    detector = KdeDetector(KdeConfig(window=window, bandwidth="knn")).fit(windows)
    for probe in (
        Windows.of(torch.full((1, 300, 1), 3.0), window),
        Windows.of(noisy_wave(1, 99, 17), window),
    ):
        assert detector.score(probe).isfinite().all()
    assert detector.sample(3).isfinite().all()


def test_the_typical_distance_is_that_of_windows_of_weight() -> None:
    windows = Windows.of(noisy_wave(1, 800, 19), 24)
    half = torch.arange(windows.n_windows) < 300
    weighted, cut = (
        KdeDetector(KdeConfig(window=24, bandwidth="knn", trim=0.0)).fit(each).state()["bandwidth"]
        for each in (windows.weighted(half.unsqueeze(0)), windows.span(0, 300))
    )
    torch.testing.assert_close(weighted, cut, rtol=1e-3, atol=0.0)


def test_samples_of_the_adaptive_density_are_as_likely_as_it_says() -> None:
    heavy = torch.randn(1, 500, 1, generator=torch.Generator().manual_seed(18)) ** 3
    heavy[0, 0] = 15
    detector = KdeDetector(KdeConfig(window=1, bandwidth="knn", trim=0.0)).fit(Windows.of(heavy, 1))
    axis = torch.linspace(-40, 40, 40_001)
    log_prob = detector.log_prob(Windows.of(axis.view(1, -1, 1), 1, start=FAR[:1]))[0]
    wanted = torch.trapezoid(log_prob.exp() * log_prob.clamp_min(-1e3), axis)
    drawn = detector.sample(4000).view(1, -1, 1)
    found = detector.log_prob(Windows.of(drawn, 1, start=FAR[:1])).mean()
    assert float(found) == pytest.approx(float(wanted), abs=0.1)


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


@pytest.mark.parametrize("bandwidth", ["scott", "knn"])
@pytest.mark.parametrize("window", [24, 128])
def test_a_default_member_takes_at_most_64_kib(window: int, bandwidth: Bandwidth) -> None:
    state = (
        KdeDetector(KdeConfig(window=window, bandwidth=bandwidth))
        .fit(Windows.of(noisy_wave(1, 6000, 12), window))
        .state()
    )
    assert sum(t.numel() * t.element_size() for t in state.values()) <= 64 * 1024


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel": "box"}, "kernel must be one of gaussian, tophat, epanechnikov, got 'box'"),
        ({"bandwidth": "silverman"}, "bandwidth must be 'scott' or 'knn', got 'silverman'"),
        ({"neighbours": 0}, "neighbours must be at least 1, got 0"),
        ({"latent": 7}, "latent must be 1 to 6 with bandwidth .scott., got 7"),
        ({"references": 0}, "references must be at least 1, got 0"),
        ({"trim": 0.6}, "trim must be at least 0 and below 0.5, got 0.6"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KdeConfig(**wrong)  # type: ignore[arg-type]  # wrong on purpose
