"""A device that is not there: tensors that say they are elsewhere, and refuse to be mixed with those here.

A stand-in for an accelerator on machines without one. Its tensors are labelled with torch's ``meta`` device,
but hold values on the CPU and are computed with; an operation between one of them and a tensor that was made
or left on the CPU raises, as it does on a real device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

FAR = torch.device("meta")


class MixedDevicesError(RuntimeError):
    """Expected all tensors on one device."""


class _FarTensor(Tensor):
    """Values that are computed with here, labelled as being elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _FarTensor:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # torch's way, without a stub
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=FAR,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return what an operation gives, far away where its input or the device it names is."""
    tensors = [each for each in _leaves((args, kwargs)) if isinstance(each, Tensor)]
    far = [each for each in tensors if isinstance(each, _FarTensor)]
    device = kwargs.get("device")
    moves = func is torch.ops.aten._to_copy.default or func is torch.ops.aten.copy_.default
    index = func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
    near = [each for each in tensors if not isinstance(each, _FarTensor) and each.ndim]
    if far and near and not moves and not (index and isinstance(args[0], _FarTensor)):
        raise MixedDevicesError(f"expected all tensors on one device, got some of both for {func}")
    goes = torch.device(device) == FAR if device is not None else bool(far)
    if goes and kwargs.get("generator") is not None:
        raise MixedDevicesError(f"expected a generator on the tensors' device, got one of the CPU for {func}")
    if func is torch.ops.aten._conj.default:
        func = torch.ops.aten.conj_physical.default  # the label has no room for a conjugation put off
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    given = tree_map(lambda each: each.held if isinstance(each, _FarTensor) else each, (args, kwargs))
    with _noise_of_its_own() if goes and torch.Tag.nondeterministic_seeded in func.tags else nullcontext():
        found = func(*given[0], **given[1])
    if not goes or func is torch.ops.aten._local_scalar_dense.default:
        return found
    if func._schema.is_mutable:
        return kwargs.get("out", args[0])
    return tree_map(lambda each: _FarTensor(each) if isinstance(each, Tensor) else each, found)


@contextmanager
def _noise_of_its_own() -> Iterator[None]:
    """Draw other numbers than the CPU would, as every device does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(next(_NOISE))
        yield


_NOISE = count(10**6)


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    tree_map(found.append, tree)
    return found


class _Factories(TorchDispatchMode):
    """Makes what is asked for on the device that is not there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Lists(TorchFunctionMode):
    """``torch.tensor`` drops the values that it is to make on ``meta``: they are made here and moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.data.__set__ and isinstance(args[0], _FarTensor):  # type: ignore[attr-defined]
            args[0].held = args[1].held
            return None
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            device = kwargs.pop("device", None)
            made = func(*args, **kwargs, device="cpu")
            return made if device is None else made.to(device)
        return func(*args, **kwargs)


@contextmanager
def far_away() -> Iterator[torch.device]:
    """Yield the device that is not there, and compute what is asked of it until the block ends."""
    with _Factories(), _Lists():
        yield FAR
