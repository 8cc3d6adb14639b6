"""Which device a name means, and that noise does not depend on it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import dropout

from anomaly_service.errors import InvalidError, UnavailableError
from detectors import device
from detectors.device import CPU, _SeededOnCpu, computing, resolve, using


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert resolve("auto").type == kind
        assert resolve("cpu") == CPU


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match=r"finds no CUDA device here; set device: auto or cpu"):
        resolve("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve("cuda").type == "cuda"


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InvalidError, match=r"must be one of auto, cpu, cuda, got 'gpu'"):
        resolve("gpu")


def test_a_device_is_in_use_until_its_block_ends_even_by_an_error() -> None:
    def fail() -> None:
        with using(torch.device("meta")), computing() as there:
            assert there.type == torch.empty(1).device.type == "meta"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with computing() as here:
        assert here == CPU == torch.empty(1).device


def test_noise_is_that_of_the_cpu_on_every_device() -> None:
    def draws() -> list[torch.Tensor]:
        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(4)
        return [
            torch.rand(4, generator=generator),
            torch.rand(4),
            torch.randn(4, dtype=torch.float64),
            torch.randint(9, (4,)),
            torch.randperm(6),
            torch.ones(3, 2).multinomial(1, generator=generator),
            dropout(torch.ones(50), 0.3),
            dropout(torch.ones(4), 0.3, training=False),
        ]

    plain = draws()
    # A mode that moves to where it already is: what differs is only how the numbers are drawn.
    with _SeededOnCpu(CPU):
        moved = draws()
    for one, other in zip(plain, moved, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_default_is_the_cpu() -> None:
    assert device._in_use.get() == CPU
