"""Banks compute on the device in use and come back to the CPU, with the same scores."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from faraway import MixedDevicesError, far_away
from torch import Tensor

from detectors import device, registry
from detectors.base import Detector
from detectors.device import CPU
from detectors.windows import Windows

WINDOW = 8


@pytest.fixture(params=registry.names())
def cls(request: pytest.FixtureRequest) -> type[Detector]:
    return registry.get(request.param)


def configured(cls: type[Detector], steps: int) -> Detector:
    known = {field.name for field in fields(cls.Config)}
    brief = {"steps": steps, "check_every": 2, "batch": 8}
    return cls(cls.Config(window=WINDOW, **{name: value for name, value in brief.items() if name in known}))


def windows(n_points: int) -> Windows:
    """A rhythm with noise, two channels, two regimes, and a gap."""
    generator = torch.Generator().manual_seed(0)
    rhythm = (torch.arange(n_points) * (2 * math.pi / 12)).sin().view(1, -1, 1)
    series = rhythm + 0.5 * torch.randn(2, n_points, 2, generator=generator)
    series[0, 40:42, 0] = torch.nan
    regime = (torch.arange(n_points) // 50 % 2).to(torch.uint8).expand(2, -1)
    return Windows.of(series, WINDOW, regime=regime)


def fitted_on(where: torch.device, cls: type[Detector], data: Windows, steps: int) -> tuple[Detector, Tensor]:
    """Return a detector fitted on a device, and its scores there."""
    with device.using(where):
        detector = configured(cls, steps).fit(data)
        return detector, detector.score(data)


def test_fit_and_score_keep_to_the_device_in_use_and_what_is_kept_is_on_the_cpu(cls: type[Detector]) -> None:
    data = windows(100)
    here, scores = fitted_on(CPU, cls, data, steps=2)
    with far_away() as far:
        away, from_afar = fitted_on(far, cls, data, steps=2)
    assert type(from_afar) is Tensor
    torch.testing.assert_close(from_afar, scores, rtol=1e-5, atol=1e-6, equal_nan=True)
    for name, tensor in away.state().items():
        assert type(tensor) is Tensor
        torch.testing.assert_close(tensor, here.state()[name], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    "mix",
    [
        lambda far, near: far + near,
        lambda far, near: torch.where(near > 0, far, 0.0),
        lambda far, near: near.copy_(far) + far,
        lambda far, near: torch.cat([far, near]),
        lambda far, near: near[far.long()],
    ],
)
def test_the_device_that_is_not_there_refuses_tensors_that_are_here(mix) -> None:  # type: ignore[no-untyped-def]
    with far_away() as far, pytest.raises(MixedDevicesError, match="all tensors on one device"):
        mix(torch.ones(3, device=far), torch.ones(3))


def test_the_device_that_is_not_there_has_noise_of_its_own() -> None:
    torch.manual_seed(0)
    here = torch.rand(4)
    with far_away() as far:
        torch.manual_seed(0)
        assert not torch.equal(torch.rand(4, device=far).cpu(), here)
        with pytest.raises(MixedDevicesError, match="got one of the CPU"):
            torch.rand(4, generator=torch.Generator(), device=far)


def test_the_device_that_is_not_there_computes_what_is_computed_here() -> None:
    with far_away() as far, far:
        found = (torch.arange(6.0).view(2, 3) @ torch.tensor([[1.0], [2.0], [3.0]])).cpu()
    assert found.tolist() == [[8.0], [26.0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_and_cpu_agree(cls: type[Detector]) -> None:
    """Closed forms within a thousandth, networks after a few steps within a hundredth."""
    data = windows(600)
    _, scores = fitted_on(CPU, cls, data, steps=8)
    detector, there = fitted_on(torch.device("cuda"), cls, data, steps=8)
    assert all(tensor.device == CPU for tensor in [there, *detector.state().values()])
    tolerance = 1e-2 if "steps" in {field.name for field in fields(cls.Config)} else 1e-3
    torch.testing.assert_close(there, scores, rtol=tolerance, atol=tolerance, equal_nan=True)
    # The same model scores alike to float32.
    torch.testing.assert_close(detector.score(data), there, rtol=1e-3, atol=1e-3, equal_nan=True)
