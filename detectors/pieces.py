"""A bank in pieces, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from detectors.windows import Windows

Progress = Callable[[float], None]
"""Called with the share of the work that is done, from 0 to 1."""


T = TypeVar("T")


def in_pieces(
    windows: Windows, function: Callable[[slice, Windows], Tensor], *, values: int = 2**19
) -> Tensor:
    """Return ``function(members, their windows)`` over a bank, piece by piece, so that memory stays bounded.

    Args:
        windows: the windows of all members.
        function: maps some members and some of their windows to ``(members, windows, ...)``.
        values: values of the windows of one piece, about; 2 MiB in float32 stays in a core's cache.
    """
    per_window = windows.window * windows.n_channels
    members = max(1, values // (per_window * windows.n_windows))
    at_once = max(1, values // (per_window * members))
    rows = []
    for start in range(0, windows.n_targets, members):
        part = slice(start, min(start + members, windows.n_targets))
        bank = windows.members(part)
        spans = [bank.span(i, min(i + at_once, bank.n_windows)) for i in range(0, bank.n_windows, at_once)]
        rows.append(_joined([function(part, span) for span in spans], dim=1))
    return _joined(rows, dim=0)


def once(of: Callable[[slice], T]) -> Callable[[slice], T]:
    """Return the same, but what is made of some members is made once: their pieces follow each other."""
    last: list[tuple[slice, T]] = []

    def remembered(members: slice) -> T:
        if not last or last[0][0] != members:
            last[:] = [(members, of(members))]
        return last[0][1]

    return remembered


def _joined(pieces: list[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)


def fit_in_pieces(
    windows: Windows, fit: Callable[[Windows], dict[str, Tensor]], on_progress: Progress, *, members: int = 16
) -> dict[str, Tensor]:
    """Return the state of a bank fitted a few members at a time, so that memory stays bounded.

    Args:
        windows: the training windows of all members.
        fit: maps the windows of some members to their state.
        on_progress: told after each piece.
        members: members of one piece; 16 keep their moments at window 128 in a core's cache.
    """
    states = []
    for start in range(0, windows.n_targets, members):
        states.append(fit(windows.members(slice(start, start + members))))
        on_progress(min(start + members, windows.n_targets) / windows.n_targets)
    return {name: concatenate([state[name] for state in states]) for name in states[0]}


def concatenate(tensors: list[Tensor]) -> Tensor:
    shape = [max(t.shape[axis] for t in tensors) for axis in range(1, tensors[0].ndim)]
    return torch.cat([_padded(t, shape) for t in tensors])


def _padded(tensor: Tensor, shape: list[int]) -> Tensor:
    if list(tensor.shape[1:]) == shape:
        return tensor
    whole = tensor.new_zeros(tensor.shape[0], *shape)
    whole[tuple(slice(n) for n in tensor.shape)] = tensor
    return whole
