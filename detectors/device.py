"""Where banks compute: on the CPU, or on a CUDA device where there is one.

A bank lives on the CPU. While it is fitted and while it scores, its windows and its state are on the device
in use, and what comes back is on the CPU again: nothing that is stored or passed on knows of a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.overrides import TorchFunctionMode

from detectors.errors import InvalidError, UnavailableError

DEVICES = ("auto", "cpu", "cuda")
CPU = torch.device("cpu")

_in_use: ContextVar[torch.device] = ContextVar("device", default=CPU)


def resolve(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is CUDA where it is available.

    Raises:
        InvalidError: an unknown name.
        UnavailableError: ``cuda`` where there is none.
    """
    if name not in DEVICES:
        raise InvalidError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
    available = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UnavailableError(
            "device is cuda, but torch finds no CUDA device here; set device: auto or cpu, "
            "or install a CUDA build of torch and a driver"
        )
    return torch.device("cuda") if available else CPU


@contextmanager
def using(device: str | torch.device) -> Iterator[None]:
    """Fit and score banks on a device, given by name or itself, until the block ends."""
    token = _in_use.set(resolve(device) if isinstance(device, str) else device)
    try:
        yield
    finally:
        _in_use.reset(token)


@contextmanager
def computing() -> Iterator[torch.device]:
    """Yield the device in use; new tensors are made there until the block ends."""
    device = _in_use.get()
    if device == CPU:
        yield device
        return
    with device, _SeededOnCpu(device):
        yield device


DRAWN = (torch.rand, torch.randn, torch.randint, torch.randperm)


class _SeededOnCpu(TorchFunctionMode):
    """Draws all noise on the CPU, and moves it: equal seeds, equal noise on every device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is dropout:
            return self._dropped(*args, **kwargs)
        if func not in DRAWN and kwargs.get("generator") is None:
            return func(*args, **kwargs)
        with CPU:
            here = [arg.cpu() if isinstance(arg, Tensor) else arg for arg in args]
            return func(*here, **kwargs).to(self._device)

    def _dropped(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """Return what ``torch.nn.functional.dropout`` does on the CPU."""
        if not training or p == 0:
            return x
        kept = torch.empty(x.shape, dtype=x.dtype, device=CPU).bernoulli_(1 - p)
        return x * kept.div_(1 - p).to(x.device)
