"""Sums over sliding windows that lose nothing to cancellation."""

from __future__ import annotations

import torch
from torch import Tensor


def window_sums(x: Tensor, length: int) -> Tensor:
    """Return the sum of every ``length`` neighbours along the last axis.

    Every window is the end of one block and the beginning of the next one (van Herk 1992, doi
    10.1016/0167-8655(92)90069-C, for maxima), so a sum adds what lies in its window and nothing else. A
    difference of cumulative sums would not forget a huge value that the window has left behind.

    Args:
        x: shape ``(..., n)``.
        length: from 1 to n.

    Returns:
        Shape ``(..., n - length + 1)``.
    """
    n = x.shape[-1]
    if length == n:
        return x.sum(-1, keepdim=True)
    blocks = n // length + 1
    padded = torch.nn.functional.pad(x, (0, blocks * length - n))
    cut = padded.view(*x.shape[:-1], blocks, length)
    ends = cut.flip(-1).cumsum(-1).flip(-1).flatten(-2)
    beginnings = torch.nn.functional.pad(cut.cumsum(-1)[..., :-1], (1, 0)).flatten(-2)
    return ends[..., : n - length + 1] + beginnings[..., length : n + 1]
