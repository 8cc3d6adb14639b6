"""A bank of multivariate normal distributions: innovations, exact marginals and conditionals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from detectors.base import Expected
from detectors.maths.moments import LARGEST
from detectors.pieces import in_pieces, once
from detectors.windows import Windows

FACTORS, FACTOR_VALUES = 128, 2**20
"""Factors of missing values worked out at once: so many, or what takes 8 MiB however much is missing."""


@dataclass(frozen=True)
class Completed:
    """Windows whose missing values hold their conditional mean.

    Attributes:
        x: shape ``(n_targets, k, size)``, float64, about the mean. Its Mahalanobis energy equals that of
            the observed values under their marginal distribution.
        log_det: shape ``(n_targets, k)``, log-determinant of the precision's missing block.
        variance: shape ``(n_targets, k, size)``: of a missing value given the observed ones; of an observed
            value given the other observed ones. None where it was not asked for.
    """

    x: Tensor
    log_det: Tensor
    variance: Tensor | None = None


@dataclass(frozen=True)
class Normal:
    """Normal distributions of one size in float64; what follows from the covariance is worked out when asked.

    Attributes:
        mean: shape ``(n_targets, size)``.
        root: shape ``(n_targets, size, size)``, lower Cholesky factor of the covariance.
    """

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> Normal:
        """Return the normal distributions; the covariance must be positive definite."""
        return cls(mean.to(torch.float64), torch.linalg.cholesky(covariance.to(torch.float64)))

    @cached_property
    def whitener(self) -> Tensor:
        """Inverse of ``root``: ``whitener @ (x - mean)`` are the innovations.

        Those are each value's standardised surprise given the values before it.
        """
        unit = torch.eye(self.root.shape[-1], dtype=torch.float64).expand_as(self.root)
        return torch.linalg.solve_triangular(self.root, unit, upper=False)

    @cached_property
    def precision(self) -> Tensor:
        """Inverse of the covariance."""
        return self.whitener.transpose(1, 2) @ self.whitener

    def level_filter(self, n_channels: int) -> Tensor:
        """Return weights ``(n_targets, size, n_channels)`` that tell a constant shift of a window best.

        Their products with a window about the mean are standard normal.
        """
        if n_channels not in self._level_filters:
            self._level_filters[n_channels] = self._level_filter(n_channels)
        return self._level_filters[n_channels]

    @cached_property
    def _level_filters(self) -> dict[int, Tensor]:
        return {}

    def _level_filter(self, n_channels: int) -> Tensor:
        shift = torch.eye(n_channels, dtype=torch.float64).repeat(self.mean.shape[1] // n_channels, 1)
        white = self.whitener @ shift
        pulled = self.whitener.transpose(1, 2) @ white
        root = torch.linalg.cholesky(white.transpose(1, 2) @ white)
        return torch.linalg.solve_triangular(root, pulled.transpose(1, 2), upper=False).transpose(1, 2)

    @property
    def log_det(self) -> Tensor:
        """Log-determinant of the covariance, shape ``(n_targets,)``."""
        return 2 * self.root.diagonal(dim1=1, dim2=2).log().sum(1)

    def about_mean(self, values: Tensor) -> Tensor:
        """Return windows ``(n_targets, k, window, n_channels)`` flat, less the mean, in float64."""
        return values.flatten(2).clamp(-LARGEST, LARGEST).to(torch.float64) - self.mean.unsqueeze(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n draws of each distribution, ``(n_targets, n, size)``; all share the noise."""
        noise = torch.randn(n, self.mean.shape[1], generator=generator)
        return self.mean.unsqueeze(1) + noise.to(torch.float64) @ self.root.transpose(1, 2)

    def filled(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the windows with every missing value at its conditional mean, in the type they came in.

        Only windows that miss something cost anything. Arguments as for ``completed``.
        """
        (few,) = missing.any(2).any(0).nonzero(as_tuple=True)
        if not len(few):
            return x
        return x.index_copy(1, few, self.completed(x[:, few], missing[:, few]).x.to(x.dtype))

    def completed(self, x: Tensor, missing: Tensor, *, with_variance: bool = False) -> Completed:
        """Return the windows with every missing value at its conditional mean, exactly.

        Args:
            x: shape ``(n_targets, k, size)``, about the mean; what stands at missing values is ignored.
            missing: same shape, bool.
            with_variance: also return the conditional variances.
        """
        x = torch.where(missing, 0.0, x.to(torch.float64))
        log_det = x.new_zeros(x.shape[:2])
        variance = None
        if with_variance:
            diagonal = self.precision.diagonal(dim1=1, dim2=2).unsqueeze(1).expand_as(x)
            variance = diagonal.reciprocal().contiguous()
        pull: Tensor | None = None
        for gaps in self._gaps(missing):
            pull = torch.matmul(x, self.precision) if pull is None else pull
            where = gaps.member, gaps.window
            pulled = pull[where].gather(1, gaps.at) * gaps.real
            shift = torch.cholesky_solve(pulled.unsqueeze(2), gaps.factor[gaps.row]).squeeze(2)
            x[where] = x[where].scatter_add(1, gaps.at, -shift * gaps.real)
            log_det[where] = 2 * gaps.factor.diagonal(dim1=1, dim2=2).log().sum(1)[gaps.row]
            if variance is not None:
                variance[where] = self._variance(gaps, missing[where])[gaps.row]
        return Completed(x, log_det, variance)

    def completed_columns(self, columns: Tensor, missing: Tensor) -> Tensor:
        """Return columns as if each were a window about the mean, completed, ``(n_targets, k, size, d)``.

        Args:
            columns: shape ``(n_targets, size, d)``, float64.
            missing: shape ``(n_targets, k, size)``, bool.
        """
        x = torch.where(missing.unsqueeze(3), 0.0, columns.unsqueeze(1))
        pull: Tensor | None = None
        for gaps in self._gaps(missing):
            pull = x.transpose(2, 3) @ self.precision.unsqueeze(1) if pull is None else pull
            where, real = (gaps.member, gaps.window), gaps.real.unsqueeze(2)
            pulled = pull[where].gather(2, gaps.at.unsqueeze(1).expand(-1, x.shape[3], -1)).transpose(1, 2)
            shift = torch.cholesky_solve(pulled * real, gaps.factor[gaps.row])
            x[where] = x[where].scatter_add(1, gaps.at.unsqueeze(2).expand_as(shift), -shift * real)
        return x

    def conditional(self, x: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (about the mean) and variance of every value given the *other* observed values."""
        done = self.completed(x, missing, with_variance=True)
        assert done.variance is not None
        pulled = torch.matmul(done.x, self.precision)
        return torch.where(missing, done.x, done.x - pulled * done.variance), done.variance

    def log_prob(self, x: Tensor, missing: Tensor) -> Tensor:
        """Return the log-density of the observed values of every window, shape ``(n_targets, k)``."""
        done = self.completed(x, missing)
        energy = torch.matmul(done.x, self.whitener.transpose(1, 2)).square().sum(2)
        observed = (~missing).sum(2)
        return -0.5 * (energy + self.log_det.unsqueeze(1) + done.log_det + observed * math.log(2 * math.pi))

    def _gaps(self, missing: Tensor) -> Iterator[_Gaps]:
        """Yield where values are missing, windows that miss about as many together: padding is work too."""
        member, window = missing.any(2).nonzero(as_tuple=True)
        if not len(member):
            return
        rows = missing[member, window]
        row = _alike(member, rows)
        lead = _first_of_each(row)
        order = rows[lead].sum(1).argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        # Of every window: its factor's place in that order, thus which part it comes with.
        row = place[row]
        at_once = max(FACTORS, FACTOR_VALUES // rows.shape[1] ** 2)
        part = row // at_once
        by_part = part.argsort(stable=True)
        for few in torch.split(by_part, [int(n) for n in part.bincount()]):
            yield self._gaps_of(member[few], window[few], rows[few], row[few] % at_once)

    def _gaps_of(self, member: Tensor, window: Tensor, rows: Tensor, row: Tensor) -> _Gaps:
        """Return where windows miss values, with the factors they share."""
        lead = _first_of_each(row)
        own, (at, real) = member[lead], _padded_indices(rows[lead])
        block = self.precision[own.view(-1, 1, 1), at.unsqueeze(2), at.unsqueeze(1)]
        both = real.unsqueeze(2) & real.unsqueeze(1)
        block = torch.where(both, block, torch.eye(at.shape[1], dtype=torch.float64))
        return _Gaps(member, window, at[row], real[row], lead, row, torch.linalg.cholesky(block))

    def _variance(self, gaps: _Gaps, missing: Tensor) -> Tensor:
        """Conditional variance of every value, for each factor (Schur complements)."""
        at, real, missing, own = (each[gaps.lead] for each in (gaps.at, gaps.real, missing, gaps.member))
        inverse = torch.cholesky_inverse(gaps.factor).diagonal(dim1=1, dim2=2) * real
        hidden = torch.zeros_like(missing, dtype=torch.float64).scatter_add(1, at, inverse)
        cross = self.precision[own.view(-1, 1), at] * real.unsqueeze(2)
        explained = torch.linalg.solve_triangular(gaps.factor, cross, upper=False).square().sum(1)
        alone = self.precision.diagonal(dim1=1, dim2=2)[own]
        return torch.where(missing, hidden, (alone - explained).clamp_min(1e-12).reciprocal())


@dataclass(frozen=True)
class _Gaps:
    """Windows in which values are missing; those of a member that miss the same values share a factor.

    Attributes:
        member, window: which windows, shape ``(m,)`` each.
        at: shape ``(m, most)``, the missing values' places, padded.
        real: same shape, False in the padding.
        lead: shape ``(f,)``, a window that each factor belongs to, among these m.
        row: shape ``(m,)``, the factor of every window.
        factor: shape ``(f, most, most)``, Cholesky factor of the precision among the missing values, padded
            with the identity.
    """

    member: Tensor
    window: Tensor
    at: Tensor
    real: Tensor
    lead: Tensor
    row: Tensor
    factor: Tensor


def log_standard(z: Tensor) -> Tensor:
    """Return the log-density of a standard normal distribution, ``(.., d)`` to ``(..)``."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


def normal_expect(
    windows: Windows,
    normal_of: Callable[[slice], Normal],
    centre_of: Callable[[slice, Tensor, Tensor], Tensor] | None = None,
) -> Expected:
    """Return mean and standard deviation of every step given the other observed ones.

    Args:
        windows: the windows of a bank.
        normal_of: the distributions of some of its members.
        centre_of: maps members, their windows about the mean and what is missing, ``(members, k, size)``
            each, to the centre of the distribution around each window, about the mean; None for the mean.
    """

    normals = once(normal_of)

    def both(members: slice, piece: Windows) -> Tensor:
        centre = None if centre_of is None else partial(centre_of, members)
        return conditionals(normals(members), piece, centre)

    return expected(windows, both)


def expected(
    windows: Windows, both: Callable[[slice, Windows], Tensor], *, distributions: int = 1
) -> Expected:
    """Return what ``conditionals`` say of a bank, piece by piece.

    Args:
        windows: the windows of all members.
        both: maps some members and some of their windows to mean and standard deviation.
        distributions: how many of them every window is asked of at once; pieces are smaller by that.
    """
    size = windows.window * windows.n_channels * distributions
    found = in_pieces(windows, both, values=max(1, 2**21 // size))
    mean, scale = found.view(*found.shape[:3], windows.window, -1).unbind(2)
    return Expected(mean, scale)


def conditionals(
    normal: Normal, windows: Windows, centre_of: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Tensor:
    """Return mean and standard deviation of every value given the others, ``(n_targets, k, 2, size)``.

    ``centre_of`` is as for ``normal_expect``, of these members.
    """
    x, missing = normal.about_mean(windows.values), windows.mask.flatten(2)
    centre = normal.mean.unsqueeze(1)
    if centre_of is not None:
        moved = centre_of(x, missing)
        x, centre = x - moved, centre + moved
    mean, variance = normal.conditional(x, missing)
    return torch.stack([mean + centre, variance.sqrt()], dim=2).to(torch.float32)


def normal_log_prob(windows: Windows, normal_of: Callable[[slice], Normal]) -> Tensor:
    """Return the log-density of the observed values of every window; arguments as for ``normal_expect``."""
    normals = once(normal_of)
    return in_pieces(windows, lambda members, piece: log_density(normals(members), piece))


def log_density(normal: Normal, windows: Windows) -> Tensor:
    """Return the log-density of the observed values of windows, ``(n_targets, k)``."""
    return normal.log_prob(normal.about_mean(windows.values), windows.mask.flatten(2))


def _alike(member: Tensor, rows: Tensor) -> Tensor:
    """Return equal numbers, from 0 up, for windows of a member that miss the same values, ``(m,)``."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-(2**62), 2**62, (rows.shape[1] + 1,), generator=generator)
    _, row = torch.unique(rows.to(torch.int64) @ weight[1:] + member * weight[0], return_inverse=True)
    lead = _first_of_each(row)[row]
    if torch.equal(rows[lead], rows) and torch.equal(member[lead], member):
        return row
    return torch.arange(len(row))  # two patterns of one sum, once in an age of the world


def _first_of_each(row: Tensor) -> Tensor:
    """Return where each number, of 0 to the largest, stands first, ``(f,)``."""
    first = row.new_full((int(row.max()) + 1,), len(row))
    return first.scatter_reduce(0, row, torch.arange(len(row)), "amin")


def _padded_indices(missing: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the True values of every row, padded, and which of them are real."""
    count = missing.sum(1)
    at = missing.nonzero(as_tuple=True)[1]
    real = torch.arange(int(count.max())) < count.unsqueeze(1)
    padded = torch.zeros(real.shape, dtype=torch.int64)
    padded[real] = at
    return padded, real
