"""The regular, scaled series of a bank, and the windows cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

MAX_MISSING = 0.25
"""Share of a window that may be missing: of its steps for a score, of its values to learn from it."""


@dataclass(frozen=True)
class Windows:
    """The regular, scaled series of a bank, and the windows cut from them as views.

    Attributes:
        series: shape ``(n_targets, n_points, n_channels)``, float32, finite; 0 where missing.
        missing: same shape, True where a step was not observed.
        weight: shape ``(n_targets, n_windows)``, float32; 0 leaves a window out of training
            (padding, trimmed, held out).
        start: shape ``(n_targets,)``, int64, index of the first point on the target's UTC grid.
        window: steps of one window.
        regime: shape ``(n_targets, n_points)``, uint8, number of the known regime of every step (workday,
            weekend, what a calendar names); None where nobody told: all are of regime 0.
    """

    series: Tensor
    missing: Tensor
    weight: Tensor
    start: Tensor
    window: int
    regime: Tensor | None = field(default=None, kw_only=True)

    @classmethod
    def of(
        cls,
        series: Tensor,
        window: int,
        *,
        missing: Tensor | None = None,
        weight: Tensor | None = None,
        start: Tensor | None = None,
        regime: Tensor | None = None,
    ) -> Windows:
        """Return the windows of ``series`` (NaN reads as missing where ``missing`` is None).

        Raises:
            ValueError: wrong number of axes, infinite or NaN observed values, or a series
                shorter than one window.
        """
        if series.ndim != 3:
            raise ValueError(
                f"expected series of shape (n_targets, n_points, n_channels), got {tuple(series.shape)}"
            )
        if series.shape[1] < window:
            raise ValueError(
                f"series of {series.shape[1]} points are shorter than one window of {window}; "
                "pass more points or a smaller window"
            )
        if missing is None:
            missing = torch.isnan(series)
        series = torch.where(missing, 0.0, series).to(torch.float32)
        if not torch.isfinite(series).all():
            raise ValueError(
                "series hold NaN or infinite values that are not marked missing; mark or drop them"
            )
        n_targets, n_points = series.shape[:2]
        if weight is None:
            weight = torch.ones(n_targets, n_points - window + 1)
        if start is None:
            start = torch.zeros(n_targets, dtype=torch.int64)
        return cls(series, missing, weight.to(torch.float32), start, window, regime=regime)

    @property
    def n_targets(self) -> int:
        return self.series.shape[0]

    @property
    def n_points(self) -> int:
        return self.series.shape[1]

    @property
    def n_channels(self) -> int:
        return self.series.shape[2]

    @property
    def n_windows(self) -> int:
        return self.n_points - self.window + 1

    @property
    def values(self) -> Tensor:
        """View of shape ``(n_targets, n_windows, window, n_channels)``."""
        return self.series.unfold(1, self.window, 1).transpose(2, 3)

    @property
    def mask(self) -> Tensor:
        """View of shape ``(n_targets, n_windows, window, n_channels)``, True where missing."""
        return self.missing.unfold(1, self.window, 1).transpose(2, 3)

    @property
    def grid(self) -> Tensor:
        """Index of every point on its target's UTC grid, int64, shape ``(n_targets, n_points)``."""
        return self.start.unsqueeze(1) + torch.arange(self.n_points)

    @property
    def starts(self) -> Tensor:
        """Index of every window's first point on its target's grid, int64, ``(n_targets, n_windows)``."""
        return self.start.unsqueeze(1) + torch.arange(self.n_windows)

    @property
    def regimes(self) -> Tensor:
        """Number of every window's regime, that of its newest step, int64, ``(n_targets, n_windows)``."""
        if self.regime is None:
            return torch.zeros(self.n_targets, self.n_windows, dtype=torch.int64)
        return self.regime[:, self.window - 1 :].to(torch.int64)

    @property
    def missing_share(self) -> Tensor:
        """Share of missing values in each window, shape ``(n_targets, n_windows)``."""
        return self._share(self.missing.to(torch.float32).mean(dim=2))

    @property
    def empty_share(self) -> Tensor:
        """Share of each window's steps at which no channel was observed, ``(n_targets, n_windows)``."""
        return self._share(self.missing.all(dim=2).to(torch.float32))

    def _share(self, of_points: Tensor) -> Tensor:
        """Return the mean over each window of something said of every point."""
        total = torch.nn.functional.pad(of_points.cumsum(dim=1), (1, 0))
        return (total[:, self.window :] - total[:, : -self.window]) / self.window

    @property
    def scorable(self) -> Tensor:
        """True for windows with few enough empty steps, shape ``(n_targets, n_windows)``.

        A channel that is missing is inferred from the others, so they have a score without it.
        """
        return self.empty_share <= MAX_MISSING + 1e-6

    @property
    def touched(self) -> Tensor:
        """True for points inside a window of weight above 0, shape ``(n_targets, n_points)``."""
        edge = self.window - 1
        return any_of(torch.nn.functional.pad(self.weight > 0, (edge, edge)), self.window)

    def drawn(self, n: int, place: Tensor | float = 0.5) -> Tensor:
        """Return n indices of windows of weight above 0, evenly over each target's history, in order.

        Shape ``(n_targets, n)``; indices repeat where there are fewer than n, and are 0 where there are none.

        Args:
            n: how many.
            place: where in each of n equal parts, from 0 to below 1; shape ``(n,)`` for one each.
        """
        rank = (self.weight > 0).to(torch.int64).cumsum(1)
        wanted = ((torch.arange(n) + place) / n * rank[:, -1:]).floor().to(torch.int64) + 1
        return torch.searchsorted(rank, wanted.contiguous()).clamp_max(self.n_windows - 1)

    def gathered(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and mask of the windows drawn, each ``(n_targets, n, window, n_channels)``."""
        rows = torch.arange(self.n_targets).unsqueeze(1)
        return self.values[rows, index], self.mask[rows, index]

    def picked(self, index: Tensor) -> PickedWindows:
        """Return the windows of these indices, shape ``(n_targets, n)``, to be used as windows are."""
        values, mask = self.gathered(index)
        at = self.start.unsqueeze(1) + index
        return PickedWindows(
            values.flatten(1, 2),
            mask.flatten(1, 2),
            self.weight.gather(1, index),
            at[:, 0],
            self.window,
            at,
            regime=self._regime_of(index),
        )

    def _regime_of(self, index: Tensor) -> Tensor | None:
        """Return the regimes of windows laid end to end: of every step that of its window."""
        if self.regime is None:
            return None
        return self.regimes.gather(1, index).to(torch.uint8).repeat_interleave(self.window, 1)

    def select(self, rows: Sequence[int] | Tensor) -> Windows:
        """Return the windows of some targets, in the order given."""
        return self._rows(torch.as_tensor(rows, dtype=torch.int64))

    def to(self, device: torch.device) -> Windows:
        """Return the windows on a device; these themselves where they are there already."""
        if self.series.device == device:
            return self
        held = {each.name: getattr(self, each.name) for each in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in held.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def members(self, part: slice) -> Windows:
        """Return the windows of neighbouring targets, as views."""
        return self._rows(part)

    def _rows(self, rows: Tensor | slice) -> Windows:
        return Windows(
            self.series[rows],
            self.missing[rows],
            self.weight[rows],
            self.start[rows],
            self.window,
            regime=None if self.regime is None else self.regime[rows],
        )

    def span(self, first: int, stop: int) -> Windows:
        """Return windows ``first`` to ``stop - 1`` of every target, as views."""
        points = slice(first, stop + self.window - 1)
        return Windows(
            self.series[:, points],
            self.missing[:, points],
            self.weight[:, first:stop],
            self.start + first,
            self.window,
            regime=None if self.regime is None else self.regime[:, points],
        )

    def shorter(self, steps: int) -> Windows:
        """Return the windows of fewer steps that lie inside a window of weight above 0, and the rest at 0."""
        edge = self.window - steps
        inside = any_of(torch.nn.functional.pad(self.weight > 0, (edge, edge)), edge + 1)
        return replace(self, weight=inside.to(torch.float32), window=steps)

    def weighted(self, weight: Tensor) -> Windows:
        """Return the same windows with other training weights."""
        return replace(self, weight=weight.to(torch.float32))

    def without(self, points: Tensor) -> Windows:
        """Return the windows with weight 0 wherever they touch a marked point.

        Args:
            points: shape ``(n_targets, n_points)``, bool.
        """
        return self.weighted(torch.where(any_of(points, self.window), 0.0, self.weight))

    def hidden(self, points: Tensor) -> Windows:
        """Return the windows with the marked points missing (shape ``(n_targets, n_points)``)."""
        hide = points.unsqueeze(2)
        return replace(self, series=torch.where(hide, 0.0, self.series), missing=self.missing | hide)

    def pooled(self) -> Windows:
        """Return all targets laid end to end as one; windows across a seam get weight 0."""
        n, points = self.n_targets, self.n_points
        weight = torch.zeros(n, points)
        weight[:, : self.n_windows] = self.weight
        flat = weight.reshape(1, -1)[:, : n * points - self.window + 1]
        return Windows(
            self.series.reshape(1, n * points, -1),
            self.missing.reshape(1, n * points, -1),
            flat,
            self.start[:1],
            self.window,
            regime=None if self.regime is None else self.regime.reshape(1, n * points),
        )


@dataclass(frozen=True)
class PickedWindows(Windows):
    """Some windows of a bank, laid end to end: for density, expectation and latent, not for training.

    Attributes:
        at: shape ``(n_targets, n_windows)``, int64, index of each window's first point on the grid.
    """

    at: Tensor

    @property
    def n_windows(self) -> int:
        return self.at.shape[1]

    @property
    def values(self) -> Tensor:
        return self._apart(self.series)

    @property
    def mask(self) -> Tensor:
        return self._apart(self.missing)

    @property
    def grid(self) -> Tensor:
        return (self.at.unsqueeze(2) + torch.arange(self.window)).flatten(1)

    @property
    def starts(self) -> Tensor:
        return self.at

    @property
    def regimes(self) -> Tensor:
        if self.regime is None:
            return torch.zeros_like(self.at)
        return self.regime[:, self.window - 1 :: self.window].to(torch.int64)

    @property
    def missing_share(self) -> Tensor:
        return self.mask.to(torch.float32).mean(dim=(2, 3))

    @property
    def empty_share(self) -> Tensor:
        return self.mask.all(dim=3).to(torch.float32).mean(dim=2)

    def select(self, rows: Sequence[int] | Tensor) -> PickedWindows:
        return self._part(torch.as_tensor(rows, dtype=torch.int64), slice(None))

    def members(self, part: slice) -> PickedWindows:
        return self._part(part, slice(None))

    def span(self, first: int, stop: int) -> PickedWindows:
        return self._part(slice(None), slice(first, stop))

    def own(self, found: Tensor) -> Tensor:
        """Return what was found for these windows, ``(n_targets, n_windows, ...)``.

        What works on the series finds something for every stretch of it, those across seams too.

        Raises:
            ValueError: found for neither.
        """
        if found.shape[1] == self.n_windows:
            return found
        if found.shape[1] == self.n_points - self.window + 1:
            return found[:, :: self.window]
        raise ValueError(
            f"expected one result for each of {self.n_windows} windows, got {found.shape[1]}; "
            "work on windows.values"
        )

    def _apart(self, points: Tensor) -> Tensor:
        return points.reshape(len(points), -1, self.window, points.shape[2])

    def _part(self, rows: slice | Tensor, part: slice) -> PickedWindows:
        at = self.at[rows][:, part]
        series, missing = (self._apart(t)[rows][:, part].flatten(1, 2) for t in (self.series, self.missing))
        weight, regime = self.weight[rows][:, part], None
        if self.regime is not None:
            regime = self._apart(self.regime.unsqueeze(2))[rows][:, part].flatten(1)
        return PickedWindows(series, missing, weight, at[:, 0], self.window, at, regime=regime)


def any_of(marked: Tensor, window: int) -> Tensor:
    """True where any of the ``window`` points from here on is marked; one column less per further point."""
    total = torch.nn.functional.pad(marked.to(torch.int32).cumsum(1), (1, 0))
    return total[:, window:] > total[:, :-window]
