"""Masked networks of a bank: every output sees only the inputs before it (Germain 2015, arXiv 1502.03509).

Every input has a place in an order; outputs for it depend on inputs of lower places alone, so that one pass
gives all conditionals of a density by the chain rule. Inputs may share a place: two places make a coupling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import relu

from detectors.stacked import Params, dense


@dataclass(frozen=True)
class MaskedNetwork:
    """A rectifier network with one hidden layer or more, and ``outputs`` numbers for every input.

    Attributes:
        name: prefix of its weights' names.
        order: place of every input, from 0.
        hidden: width of every hidden layer.
        outputs: numbers for every input.
    """

    name: str
    order: tuple[int, ...]
    hidden: tuple[int, ...]
    outputs: int

    def initial(self, generator: torch.Generator) -> Params:
        """Return one member's fresh weights; all outputs begin at 0."""
        layers: Params = {}
        for i, mask in enumerate(self.masks):
            n_in, n_out = mask.shape
            layers |= dense(f"{self.name}.{i}", n_in, n_out, generator)
            # He's variance counts the inputs that a unit sees.
            layers[f"{self.name}.{i}.weight"] *= mask * (n_in / mask.sum(0).clamp_min(1)).sqrt()
        layers[f"{self.name}.{len(self.hidden)}.weight"].zero_()
        return layers

    def hidden_of(self, params: Params, x: Tensor) -> Tensor:
        """Return the last hidden layer, ``(n_targets, n, width)``, of inputs ``(n_targets, n, size)``."""
        for i, mask in enumerate(self.masks[:-1]):
            x = relu(masked_linear(params, f"{self.name}.{i}", x, mask))
        return x

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        """Return the outputs, ``(n_targets, n, outputs, size)``, of inputs ``(n_targets, n, size)``."""
        last = len(self.hidden)
        out = masked_linear(params, f"{self.name}.{last}", self.hidden_of(params, x), self.masks[last])
        return out.view(*out.shape[:2], self.outputs, len(self.order))

    @cached_property
    def masks(self) -> list[Tensor]:
        """Mask of every layer, ``(n_in, n_out)``; the last one is that of the outputs."""
        before, masks = torch.tensor(self.order), []
        for width in self.hidden:
            after = hidden_order(self.order, width)
            masks.append(seen(before, after))
            before = after
        return [*masks, seen(before, torch.tensor(self.order).repeat(self.outputs) - 1)]


def seen(before: Tensor, last: Tensor) -> Tensor:
    """Return 1.0 where a unit that sees places up to ``last`` may see one of ``before``, else 0.0."""
    return (before.unsqueeze(1) <= last).to(torch.float32)


def hidden_order(order: Sequence[int], width: int) -> Tensor:
    """Return the last place that each hidden unit sees: evenly up to the last but one, that included."""
    places = max(max(order), 1)
    return ((torch.arange(width) + 1) * places - 1) // width


def masked_linear(params: Params, name: str, x: Tensor, mask: Tensor) -> Tensor:
    """Return a masked dense layer of every member, ``(n_targets, n, n_in)`` to ``(n_targets, n, n_out)``."""
    return torch.baddbmm(params[f"{name}.bias"].unsqueeze(1), x, params[f"{name}.weight"] * mask)
