"""Reference windows of a bank: the densities of kernels about them, and the distance to the nearest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detectors.maths.kernels import Kernel, log_kernel, scott

AT_ONCE = 2**18
"""Distances computed at once: 1 MiB stays in a core's cache."""

SMALLEST_BANDWIDTH = 0.05
"""Of a reference, in units of Scott's: windows that come again exactly are not infinitely likely."""


@dataclass(frozen=True)
class References:
    """Latents of reference windows of some members.

    A reference closer than a window to what is judged is no witness and does not count.

    Attributes:
        z: shape ``(n_targets, R, latent)``.
        start: shape ``(n_targets, R)``, index on the target's UTC grid.
        count: shape ``(n_targets,)``, references that are real; the rest is padding.
        bandwidth: shape ``(n_targets, R)``, or ``(n_targets, 1)`` where they share one.
    """

    z: Tensor
    start: Tensor
    count: Tensor
    bandwidth: Tensor

    @classmethod
    def load(cls, state: dict[str, Tensor]) -> References:
        bandwidth = state["bandwidth"].unsqueeze(1)
        return cls(state["reference"], state["reference_start"], state["references"], bandwidth)

    def state(self) -> dict[str, Tensor]:
        """Return what ``load`` takes; only a shared bandwidth is stored."""
        return {
            "reference": self.z,
            "reference_start": self.start,
            "references": self.count,
            "bandwidth": self.bandwidth.squeeze(1),
        }

    @property
    def padding(self) -> Tensor:
        """True for references that are not real, ``(n_targets, R)``."""
        return torch.arange(self.z.shape[1]) >= self.count.unsqueeze(1)

    def near(self, start: Tensor, window: int) -> Tensor | None:
        """True for real references closer than a window, ``(n_targets, k, R)``; None where there are none."""
        if self._reached(start, window) is None:
            return None
        return self._near(start, window, slice(None))

    def _near(self, start: Tensor, window: int, part: slice) -> Tensor:
        """True for those of a part of the references that are real and closer than a window."""
        away = start.to(torch.int32).unsqueeze(2) - self.start[:, part].unsqueeze(1)
        return (away.abs_() < window) & ~self.padding[:, part].unsqueeze(1)

    def _reached(self, start: Tensor, window: int) -> slice | None:
        """The part of the references that holds all real ones closer than a window; None where none is."""
        first, last = start.amin(1, keepdim=True) - window, start.amax(1, keepdim=True) + window
        reached = (self.start > first) & (self.start < last) & ~self.padding
        (places,) = reached.any(0).nonzero(as_tuple=True)
        return slice(int(places[0]), int(places[-1]) + 1) if len(places) else None

    def squares(self, z: Tensor) -> Tensor:
        """Squared distances in bandwidths of the reference, infinite to padding, ``(n_targets, k, R)``."""
        first = self.bandwidth[:, :1, None]
        z, known = z / first, self.z / first
        far = known.square().sum(2).masked_fill(self.padding, math.inf)
        across = torch.baddbmm(far.unsqueeze(1), z, known.transpose(1, 2), alpha=-2)
        across.add_(z.square().sum(2, keepdim=True))
        return across if self._shared else across.mul_((first / self.bandwidth.unsqueeze(1)).square())

    def log_density(self, z: Tensor, start: Tensor, window: int, kernel: Kernel) -> Tensor:
        """Log-density of latents, ``(n_targets, k)``; a standard normal's where no reference is left."""

        def density(few: Tensor, at: Tensor) -> Tensor:
            return self._log_density(few, at, window, kernel)

        return self._in_pieces(density, z, start)

    def mean_distance(self, z: Tensor, start: Tensor, window: int, neighbours: int, beyond: Tensor) -> Tensor:
        """Mean distance to the nearest references, to the centre where none is left, ``(n_targets, k)``.

        Args:
            z: shape ``(n_targets, k, latent)``.
            start: shape ``(n_targets, k)``, index on the grid.
            window: steps of one window.
            neighbours: how many references are the nearest.
            beyond: shape ``(n_targets, k)``, added to every squared distance.
        """
        plain = replace(self, bandwidth=torch.ones_like(self.bandwidth[:, :1]))
        nearest = min(neighbours, self.z.shape[1])

        def distance(few: Tensor, at: Tensor, more: Tensor) -> Tensor:
            squares, part = plain.squares(few), plain._reached(at, window)
            if part is not None:
                # Neighbouring windows come near to few references: the others need no look.
                squares[:, :, part].masked_fill_(plain._near(at, window, part), math.inf)
            found = _smallest(squares, nearest)
            left = found.isfinite()
            away = (found.clamp_min_(0) + more.unsqueeze(2)).sqrt_().masked_fill_(~left, 0.0)
            mean = away.sum(2) / left.sum(2).clamp_min(1)
            return torch.where(left.any(2), mean, (few.square().sum(2) + more).sqrt_())

        return self._in_pieces(distance, z, start, beyond)

    def adaptive(self, window: int, neighbours: int) -> References:
        """Return the references with a bandwidth each: kernels as wide as the nearest ones are away.

        A kernel of bandwidth h has the mean square radius ``d * h ** 2`` in d dimensions.
        """
        d = self.z.shape[2]
        own = self.mean_distance(self.z, self.start, window, neighbours, torch.zeros_like(self.z[:, :, 0]))
        smallest = SMALLEST_BANDWIDTH * scott(self.count / window, d).unsqueeze(1)
        return replace(self, bandwidth=torch.maximum(own / math.sqrt(d), smallest.to(own)))

    @property
    def _shared(self) -> bool:
        return self.bandwidth.shape[1] == 1

    def _in_pieces(self, function: Callable[..., Tensor], *of: Tensor) -> Tensor:
        size = max(1, AT_ONCE // (self.z.shape[0] * self.z.shape[1]))
        pieces = zip(*(torch.split(each, size, 1) for each in of), strict=True)
        return torch.cat([function(*few) for few in pieces], dim=1)

    def _log_density(self, z: Tensor, start: Tensor, window: int, kernel: Kernel) -> Tensor:
        d = z.shape[2]
        each, near = log_kernel(self.squares(z), kernel, d), self.near(start, window)
        left = self.count.unsqueeze(1).expand(-1, z.shape[1])
        volume = d * self.bandwidth.log()
        if not self._shared:
            each, volume = each.sub_(volume.unsqueeze(1)), torch.zeros_like(volume[:, :1])
        if near is not None:
            each = each.masked_fill_(near, -math.inf)
            left = left - near.sum(2)
        density = each.logsumexp(2) - left.log() - volume
        return torch.where(left > 0, density, log_kernel(z.square().sum(2), "gaussian", d))


def _smallest(values: Tensor, n: int) -> Tensor:
    """Return the n smallest values along the last axis, in any order; one alone needs no selection."""
    if n == 1:
        return values.amin(-1, keepdim=True)
    return values.topk(n, dim=-1, largest=False, sorted=False).values
