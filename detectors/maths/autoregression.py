"""A bank of stationary vector autoregressions, and the innovations they make of series."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from detectors.maths.normal import Normal
from detectors.maths.window_sums import window_sums

LINES = 2**18
"""Values laid out at once: 1 MiB stays in a core's cache between two passes."""


@dataclass(frozen=True)
class PerStep:
    """Something of every step of every window, kept once per point where it is the same in all windows.

    Attributes:
        first: shape ``(..., n_windows, order)``: of the first steps of every window.
        rest: of the steps after those, in stretches: first step, step it ends before, and what is kept of
            every point from the first step on, ``(..., n_points - first step)``.
    """

    first: Tensor
    rest: list[tuple[int, int, Tensor]]

    def map(self, function: Callable[[Tensor], Tensor]) -> PerStep:
        """Return a function of all steps; it keeps the last axis, and the last two of ``first``."""
        return PerStep(function(self.first), [(a, b, function(each)) for a, b, each in self.rest])

    def sums(self) -> list[Tensor]:
        """Return the sum of each stretch over every window, ``(..., n_windows)`` each, first steps first."""
        n_windows = self.first.shape[-2]
        rest = [window_sums(each, stop - first)[..., :n_windows] for first, stop, each in self.rest]
        return [self.first.sum(-1), *rest]

    def total(self) -> Tensor:
        """Return the sum over every window, ``(..., n_windows)``."""
        return torch.stack(self.sums()).sum(0)

    def laid_out(self, plus: Tensor | None = None) -> Tensor:
        """Return the value of every step of every window, ``(..., n_windows, window)``.

        Args:
            plus: shape ``(..., n_windows)``; given, it is added to the values, and their root returned.
        """
        *lead, n_windows, order = self.first.shape
        series, window = math.prod(lead), self.rest[-1][1]
        out = self.first.new_empty(series, n_windows, window)
        views = [(a, b, each.reshape(series, -1).unfold(1, b - a, 1)) for a, b, each in self.rest]
        views.append((0, order, self.first.reshape(series, n_windows, order)))
        more = None if plus is None else plus.reshape(series, n_windows, 1)
        members = max(1, LINES // (n_windows * window))
        at_once = max(1, LINES // window)
        for i in range(0, series, members):
            for start in range(0, n_windows, at_once):
                here = slice(i, i + members), slice(start, min(start + at_once, n_windows))
                for a, b, view in views:
                    out[here][..., a:b] = view[here]
                if more is not None:
                    out[here].add_(more[here]).sqrt_()
        return out.view(*lead, n_windows, window)


@dataclass(frozen=True)
class Autoregression:
    """Stationary vector autoregressions with normal innovations, as densities of windows.

    A step is predicted from the ``order`` steps before it, and from the one a season before where both lie in
    its window; the first steps of a window from those that are there.

    Attributes:
        mean: shape ``(n_targets, n_channels)``.
        whitener: shape ``(n_targets, size, size)`` with ``size = (order + 1) * n_channels``, lower
            triangular: makes ``order + 1`` steps in a row, about the mean, their standardised innovations.
        seasonal: shape ``(n_targets, n_channels, n_channels + size)``: the same for one step, from the step
            ``lag`` before it and the ``order + 1`` last ones; None where the season is longer than a window.
        lag: steps of the season, above ``order`` and below ``window``; 0 where there is none.
        window: steps of one window.
    """

    mean: Tensor
    whitener: Tensor
    seasonal: Tensor | None
    lag: int
    window: int

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor, order: int, lag: int, window: int) -> Autoregression:
        """Return the processes whose steps have this covariance.

        Args:
            mean: shape ``(n_targets, n_channels)``.
            covariance: shape ``(n_targets, steps * n_channels, steps * n_channels)``, float64, positive
                definite, of ``max(order, lag) + 1`` steps in a row.
            order: steps a prediction looks back.
            lag: steps of the season, 0 for none.
            window: steps of one window.
        """
        n_channels = mean.shape[1]
        size = (order + 1) * n_channels
        whitener = _whitener(covariance[:, :size, :size])
        seasonal = None
        if lag:
            used = torch.cat([torch.arange(n_channels), torch.arange(-size, 0) + covariance.shape[1]])
            seasonal = _whitener(covariance[:, used[:, None], used])[:, -n_channels:].to(torch.float32)
        return cls(mean.to(torch.float32), whitener.to(torch.float32), seasonal, lag, window)

    @classmethod
    def load(cls, state: dict[str, Tensor], lag: int, window: int) -> Autoregression:
        packed = state["whitener"]
        size = (math.isqrt(8 * packed.shape[1] + 1) - 1) // 2
        rows, columns = torch.tril_indices(size, size)
        whitener = packed.new_zeros(packed.shape[0], size, size)
        whitener[:, rows, columns] = packed
        return cls(state["mean"], whitener, state.get("seasonal"), lag, window)

    def state(self) -> dict[str, Tensor]:
        rows, columns = torch.tril_indices(*self.whitener.shape[1:])
        state = {"mean": self.mean, "whitener": self.whitener[:, rows, columns]}
        return state if self.seasonal is None else state | {"seasonal": self.seasonal}

    @property
    def n_channels(self) -> int:
        return self.mean.shape[1]

    @property
    def order(self) -> int:
        return self.whitener.shape[1] // self.n_channels - 1

    @cached_property
    def filters(self) -> list[tuple[int, int, Tensor]]:
        """What makes points their innovations: a stretch's first step, its end, and the filter.

        Filters have the shape ``(n_targets, n_channels, n_channels, steps)``, the step itself last.
        """
        n, c = self.mean.shape
        last = self.whitener[:, -c:].view(n, c, self.order + 1, c).transpose(2, 3)
        if self.seasonal is None:
            return [(self.order, self.window, last)]
        taps = self.seasonal.view(n, c, self.order + 2, c).transpose(2, 3)
        gap = self.mean.new_zeros(n, c, c, self.lag - self.order - 1)
        seasonal = torch.cat([taps[..., :1], gap, taps[..., 1:]], dim=3)
        return [(self.order, self.lag, last), (self.lag, self.window, seasonal)]

    @property
    def _beginning(self) -> Tensor:
        """The whitener of the first ``order`` steps of a window."""
        size = self.order * self.n_channels
        return self.whitener[:, :size, :size]

    def innovations(self, x: Tensor) -> PerStep:
        """Return the innovations of series about the mean, standard normal and independent by theory.

        Args:
            x: shape ``(n_targets, k, n_points, n_channels)``: k series of each target.

        Returns:
            Of every window of every series, behind the axes ``(n_targets, k, n_channels)``.
        """
        n, k, points, c = x.shape
        n_windows = points - self.window + 1
        starts = x[:, :, : n_windows + max(self.order, 1) - 1].unfold(2, self.order, 1)[:, :, :n_windows]
        first = starts.transpose(3, 4).reshape(n, k * n_windows, -1) @ self._beginning.transpose(1, 2)
        first = first.view(n, k, n_windows, self.order, c).permute(0, 1, 4, 2, 3)
        wide = x.permute(1, 0, 3, 2).reshape(k, n * c, points)
        rest = []
        for begin, stop, taps in self.filters:
            found = torch.nn.functional.conv1d(wide, taps.reshape(n * c, c, -1), groups=n)
            rest.append((begin, stop, found.view(k, n, c, -1).transpose(0, 1)))
        return PerStep(first, rest)

    def shift_ratio(self, innovations: PerStep) -> Tensor:
        """Return twice the log-likelihood ratio of a constant shift of each window.

        Chi-squared with ``n_channels`` degrees of freedom by theory, ``(n_targets, k, n_windows)``.
        """
        n, c = self.mean.shape
        first = self._beginning.view(n, self.order, c, self.order, c).sum(3)
        rest = [taps.sum(3) for _, _, taps in self.filters]
        gram = torch.einsum("nocd,noce->nde", first, first)
        for (begin, stop, _), each in zip(self.filters, rest, strict=True):
            gram = gram + (stop - begin) * each.transpose(1, 2) @ each
        pull = torch.einsum("nkcwo,nocd->nkwd", innovations.first, first)
        for total, each in zip(innovations.sums()[1:], rest, strict=True):
            pull = pull + torch.einsum("nkcw,ncd->nkwd", total, each)
        unit = torch.eye(c, dtype=torch.float64)
        root = torch.linalg.cholesky(gram.to(torch.float64))
        white = torch.linalg.solve_triangular(root, unit.expand_as(root), upper=False).to(torch.float32)
        return (pull @ white.transpose(1, 2).unsqueeze(1)).square().sum(3)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of every window of series about the mean, ``(n_targets, k, n_windows)``."""
        squares = self.innovations(x).map(lambda each: each.square().sum(2))
        size = self.window * self.n_channels
        return self._log_scale[:, None, None] - 0.5 * (squares.total() + size * math.log(2 * math.pi))

    @property
    def _log_scale(self) -> Tensor:
        """Log-determinant of what makes a window its innovations, ``(n_targets,)``."""
        total = self._beginning.diagonal(dim1=1, dim2=2).log().sum(1)
        for begin, stop, taps in self.filters:
            total = total + (stop - begin) * taps[..., -1].diagonal(dim1=1, dim2=2).log().sum(1)
        return total

    @property
    def normal(self) -> Normal:
        """The same densities of windows, for what needs every window by itself."""
        n, c = self.mean.shape
        size = self.window * c
        unit = torch.eye(size).view(1, size, self.window, c).expand(n, -1, -1, -1)
        columns = self.innovations(unit).laid_out().squeeze(3)
        whitener = columns.permute(0, 3, 2, 1).reshape(n, size, size).to(torch.float64)
        eye = torch.eye(size, dtype=torch.float64).expand_as(whitener)
        root = torch.linalg.solve_triangular(whitener, eye, upper=False)
        return Normal(self.mean.repeat(1, self.window).to(torch.float64), root)


def _whitener(covariance: Tensor) -> Tensor:
    return Normal.of(covariance[:, 0], covariance).whitener
