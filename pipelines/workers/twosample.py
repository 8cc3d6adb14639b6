"""Classifier two-sample tests of a bank: can samples be told from real windows they should be like?

Lopez-Paz & Oquab 2017 (arXiv 1610.06545). The classifier is Fisher's linear discriminant on features of a
window that no model is built on alone: principal coordinates and their squares, what lies off the axes, how
rough it is and how far it reaches. Closed form, one for every member and group of blocks at once.

Departures: the area under the ROC curve in place of the accuracy, which needs no threshold; and it is held
against that of real windows of neighbouring blocks, since a series that drifts is told from itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = 4
"""Groups of blocks: each is judged by a discriminant that learned from the others."""

AXES = 8
"""Principal coordinates looked at."""

FAR = 20.0
"""Values are read as at most this far from 0, in scaled units: an incident is not to hide the rest."""

SMALL = 1e-3
"""Variance, in squared scaled units, below which differences do not show."""

LEARNED = 1.6
"""Times the variance of an area under the curve whose discriminant is given: ours is learned from windows
that are a draw themselves. Measured on 200 series each of white noise and AR(1) with .5, .9 and .98."""

LEAST = 24
"""Windows of either kind that a comparison needs: a few more than the discriminant has features."""

CONFIDENT = 1.96
"""Standard errors to either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Side:
    """Windows of one kind.

    Attributes:
        values: shape ``(n_targets, n, size)``.
        known: shape ``(n_targets, n)``, False for those that do not count.
        group: same shape, which group of blocks each belongs to.
        fold: shape ``(n,)``, which bank is blind to it, or drew it.
    """

    values: Tensor
    known: Tensor
    group: Tensor
    fold: Tensor


@dataclass(frozen=True)
class Compared:
    """Areas under the ROC curve against the held-out windows, shape ``(n_targets,)``, NaN where too few.

    Attributes:
        samples: of samples; .5 is not to be told apart, 1 always told apart.
        training: of real windows of training blocks.
        margin: half the width of the 95 % interval of their difference.
    """

    samples: Tensor
    training: Tensor
    margin: Tensor


def compare(held_out: Side, trained: Side, samples: Side, apart: Tensor) -> Compared:
    """Return how well held-out windows are told from samples, and from real windows of training blocks.

    Args:
        held_out: real windows that the banks did not see.
        trained: real windows that they saw.
        samples: windows they drew.
        apart: shape ``(n_targets,)``, windows that fit beside each other in the held-out blocks.
    """
    look = _View.of(held_out, trained, samples)
    real, seen, drawn = (_Featured(look.features(side.values), side) for side in (held_out, trained, samples))
    by_samples = _auc(real, drawn, same_fold=True)
    by_training = _auc(real, seen, same_fold=False)
    few = torch.minimum(held_out.known.sum(1), trained.known.sum(1)) < LEAST
    by_samples, by_training = (each.masked_fill(few, torch.nan) for each in (by_samples, by_training))
    n_real = torch.minimum(held_out.known.sum(1), apart)
    n_seen = torch.minimum(trained.known.sum(1), apart)
    variance = LEARNED * (
        _hanley(by_samples, n_real, samples.known.sum(1)) + _hanley(by_training, n_real, n_seen)
    )
    return Compared(by_samples, by_training, CONFIDENT * variance.sqrt())


def told_apart(one: Tensor, other: Tensor) -> Tensor:
    """Return the area under the ROC curve of independent windows of two kinds, shape ``(n_targets,)``.

    Args:
        one, other: shape ``(n_targets, n, window, n_channels)``, in the same units.
    """
    sides = [_independent(windows.flatten(2)) for windows in (one, other)]
    look = _View.of(*sides)
    return _auc(*(_Featured(look.features(side.values), side) for side in sides), same_fold=False)


def _independent(values: Tensor) -> Side:
    shape = values.shape[:2]
    group = torch.arange(shape[1]) * GROUPS // shape[1]
    known = torch.ones(shape, dtype=torch.bool)
    return Side(values, known, group.expand(shape), torch.zeros(shape[1], dtype=torch.int64))


# -- features ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """What windows are looked at along: mean and principal axes of all of them.

    Those of the real windows alone would fit them better than others of their kind, and tell them by it.
    """

    mean: Tensor
    axes: Tensor
    spread: Tensor

    @classmethod
    def of(cls, *sides: Side) -> _View:
        values = torch.cat([_read(side.values) for side in sides], dim=1)
        known = torch.cat([side.known for side in sides], dim=1).to(values.dtype).unsqueeze(2)
        n = known.sum(1, keepdim=True).clamp_min(1)
        mean = (values * known).sum(1, keepdim=True) / n
        off = (values - mean) * known
        axes, variance = _principal(off, min(AXES, *off.shape[1:]))
        return cls(mean, axes, (variance / n.squeeze(2) + SMALL).sqrt().unsqueeze(1))

    def features(self, values: Tensor) -> Tensor:
        """Return what the discriminant sees of windows, ``(n_targets, n, 2 * axes + 3)``."""
        off = _read(values) - self.mean
        along = off @ self.axes
        rest = (off.square().sum(2) - along.square().sum(2)).clamp_min(0) / off.shape[2]
        rough = off.diff(dim=2).square().mean(2) if off.shape[2] > 1 else torch.zeros_like(rest)
        reach = off.abs().amax(2).square()
        z = (along / self.spread).clamp(-4, 4)
        overall = torch.stack([rest, rough, reach], dim=2)
        return torch.cat([z, z.square(), (overall + SMALL).log()], dim=2)


def _read(values: Tensor) -> Tensor:
    return values.nan_to_num(0.0).clamp(-FAR, FAR)


def _principal(off: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the first principal axes ``(n_targets, size, n)`` and the sums of squares along them.

    By the smaller of the two Gram matrices.
    """
    count, size = off.shape[1:]
    if size <= count:
        values, vectors = torch.linalg.eigh(off.transpose(1, 2) @ off)
        return vectors[:, :, -n:], values[:, -n:].clamp_min(0)
    values, vectors = torch.linalg.eigh(off @ off.transpose(1, 2))
    values, vectors = values[:, -n:].clamp_min(0), vectors[:, :, -n:]
    return off.transpose(1, 2) @ vectors / (values + 1e-12).sqrt().unsqueeze(1), values


# -- discriminant -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Featured:
    """Features ``(n_targets, n, d)`` of the windows of one side."""

    features: Tensor
    side: Side

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return count, sum and second moment of every group, ``(n_targets, GROUPS, ...)``."""
        groups = torch.arange(GROUPS)
        member = (self.side.group.unsqueeze(1) == groups.view(1, -1, 1)) & self.side.known.unsqueeze(1)
        weight = member.to(self.features.dtype)
        weighted = weight.unsqueeze(3) * self.features.unsqueeze(1)
        second = weighted.transpose(2, 3) @ self.features.unsqueeze(1)
        return weight.sum(2), weight @ self.features, second


def _auc(real: _Featured, other: _Featured, *, same_fold: bool) -> Tensor:
    """Return the area under the ROC curve of windows told apart by what was learned from other groups."""
    direction = _directions(real, other)
    mine, theirs = (
        (each.features * direction.gather(1, _wide(each.side.group, direction))).sum(2)
        for each in (real, other)
    )
    pairs = (
        (real.side.group.unsqueeze(2) == other.side.group.unsqueeze(1))
        & real.side.known.unsqueeze(2)
        & other.side.known.unsqueeze(1)
    )
    if same_fold:
        pairs &= real.side.fold.unsqueeze(1) == other.side.fold.unsqueeze(0)
    gap = mine.unsqueeze(2) - theirs.unsqueeze(1)
    won = (gap > 0).to(torch.float32) + 0.5 * (gap == 0).to(torch.float32)
    n = pairs.sum(dim=(1, 2)).to(torch.float32)
    return (won * pairs).sum(dim=(1, 2)) / n.masked_fill(n == 0, torch.nan)


def _wide(group: Tensor, direction: Tensor) -> Tensor:
    return group.unsqueeze(2).expand(-1, -1, direction.shape[2])


def _directions(real: _Featured, other: _Featured) -> Tensor:
    """Return, for every group, Fisher's discriminant of all the others, ``(n_targets, GROUPS, d)``."""
    means, scatters, counts = [], [], []
    for side in (real, other):
        # Everything but the group itself.
        n, first, second = (total.sum(1, keepdim=True) - total for total in side.sums())
        n = n.clamp_min(1).unsqueeze(2)
        mean = first / n
        means.append(mean)
        scatters.append(second - n.unsqueeze(3) * mean.unsqueeze(3) * mean.unsqueeze(2))
        counts.append(n.unsqueeze(3))
    within = (scatters[0] + scatters[1]) / (counts[0] + counts[1])
    # A thousandth of each feature's own variance keeps features that say the same solvable.
    ridge = torch.diag_embed(0.001 * within.diagonal(dim1=2, dim2=3) + 1e-6)
    return torch.linalg.solve(within + ridge, (means[0] - means[1]).unsqueeze(3)).squeeze(3)


def _hanley(area: Tensor, n: Tensor, other: Tensor) -> Tensor:
    """Return the variance of an area under the ROC curve (Hanley & McNeil 1982)."""
    area = torch.maximum(area, 1 - area)
    first, second = area / (2 - area), 2 * area.square() / (1 + area)
    spread = area * (1 - area) + (n - 1) * (first - area.square()) + (other - 1) * (second - area.square())
    return spread / (n * other).clamp_min(1)
