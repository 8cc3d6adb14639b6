"""Autoregression: every step is predicted from the ones before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected, TrimmedConfig
from detectors.maths import surprise_parts
from detectors.maths.autoregression import Autoregression, PerStep
from detectors.maths.moments import LARGEST, regular, stationary, trimmed
from detectors.maths.normal import normal_expect, normal_log_prob
from detectors.pieces import Progress, fit_in_pieces, in_pieces
from detectors.windows import Windows, any_of

LARGEST_SIZE = 128
"""Values of a step and those it is predicted from at most: the predictions of all orders take 33 KiB."""


PIECE = 2**18
"""Values of a piece that is scored at once."""


@dataclass(frozen=True)
class AutoregressiveConfig(TrimmedConfig):
    """What the autoregression can be told.

    Attributes:
        order: steps back that a prediction looks; fewer where the window is shorter or channels are many.
        seasonal: one more step that a prediction looks at lies so many steps back; 0 for none. Used where
            it fits into the window.
        ridge: penalty that keeps coefficients short, as a share of the mean variance of a step.
    """

    order: int = 16
    seasonal: int = 0
    ridge: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order < 1:
            raise ValueError(f"order must be at least 1 step, got {self.order}")
        if self.seasonal < 0:
            raise ValueError(f"seasonal must be at least 0 steps (0 for none), got {self.seasonal}")
        if not 0 <= self.ridge < 1:
            raise ValueError(f"ridge must be at least 0 and below 1, got {self.ridge}")


class AutoregressiveDetector(Detector):
    """Vector autoregression: every step is a linear function of the ones before it, plus normal noise.

    The score of a step joins three surprises, each in units of what it does on training windows: the energy
    of all innovations of its window, the likelihood ratio of a shift of the window's level, and the step's
    own innovation, for the newest step the one-step prediction error.

    Yule 1927 (doi 10.1098/rsta.1927.0007); Walker 1931 (doi 10.1098/rspa.1931.0069); ridge of Hoerl &
    Kennard 1970 (doi 10.1080/00401706.1970.10488634).

    Departures: the Yule-Walker equations are solved with a ridge on the variances, which keeps the process
    stable; autocovariances are means over pairs of observed steps, without the worst blocks; the first steps
    of a window are predicted from those that are there; the variance of the innovations is constant, since
    one that follows the last innovations hides a change of variance.
    """

    Config = AutoregressiveConfig
    density = Density.TRACTABLE
    family = "Autoregression"
    paper = "Yule 1927; Walker 1931; Hoerl & Kennard 1970"

    # -- fit ------------------------------------------------------------------------

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        return fit_in_pieces(windows, self._fit_members, on_progress)

    def _fit_members(self, windows: Windows) -> dict[str, Tensor]:
        n_channels = windows.n_channels
        order = self._order(n_channels)
        lag = self._lag(n_channels)
        steps = max(order, lag) + 1
        short = windows.shorter(steps)
        moments, kept = trimmed(short, self.config.trim)
        moments = stationary(moments, steps)
        mean = moments.mean[:, :n_channels]
        process = Autoregression.of(
            mean, regular(moments, steps, self.config.ridge), order, lag, windows.window
        )

        def raw(values: Tensor, mask: Tensor | None, _: Tensor) -> Tensor:
            return _raw_parts(process, values, mask)

        return process.state() | surprise_parts.scale_of(raw, _untrimmed(windows, short, kept))

    def _order(self, n_channels: int) -> int:
        return min(self.config.order, self.config.window - 1, max(1, LARGEST_SIZE // n_channels - 1))

    def _lag(self, n_channels: int) -> int:
        """The season in steps, 0 where it does not fit or the order reaches as far."""
        fits = self._order(n_channels) < self.config.seasonal < self.config.window
        return self.config.seasonal if fits else 0

    # -- use ------------------------------------------------------------------------

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            process, mask = self._process(members), surprise_parts.missing_in(piece)
            if mask is None:
                return _scores(process, state, piece.series)
            return surprise_parts.combined(_raw_parts(process, piece.values, mask), state)

        # Without gaps all but the scores themselves is kept per point.
        gaps = bool(windows.missing.any())
        return in_pieces(windows, scores, values=PIECE if gaps else PIECE * windows.window)

    def _expect(self, windows: Windows) -> Expected:
        return normal_expect(windows, lambda members: self._process(members).normal)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        flat = self._process(slice(None)).normal.sample(n, generator)
        return flat.to(torch.float32).view(-1, n, self.config.window, self._n_channels())

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of the observed values of every window, ``(n_targets, n_windows)``."""
        self._check_match(windows)
        if bool(windows.missing.any()):
            return normal_log_prob(windows, lambda members: self._process(members).normal)

        def chain(members: slice, piece: Windows) -> Tensor:
            process = self._process(members)
            x = piece.series.clamp(-LARGEST, LARGEST) - process.mean.unsqueeze(1)
            return process.log_prob(x.unsqueeze(1)).squeeze(1)

        return in_pieces(windows, chain)

    def encode(self, windows: Windows) -> Tensor:
        """Return what the next step would be predicted from: the last steps of every window, flat."""
        self._check_match(windows)
        steps = max(1, self._order(windows.n_channels))

        def last(members: slice, piece: Windows) -> Tensor:
            x = _filled(self._process(members), piece.values, piece.mask)
            return x[:, :, -steps:].flatten(2)

        return in_pieces(windows, last)

    def _process(self, members: slice) -> Autoregression:
        lag = self._lag(self._n_channels())
        return Autoregression.load(self._state_of(members), lag, self.config.window)

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1]


def _untrimmed(windows: Windows, short: Windows, kept: Windows) -> Windows:
    """The windows without those that hold a trimmed shorter one; all where none would be left of a member."""
    trimmed_away = (short.weight > 0) & (kept.weight == 0)
    weight = windows.weight * ~any_of(trimmed_away, windows.window - short.window + 1)
    left = (weight > 0).any(dim=1, keepdim=True)
    return windows.weighted(torch.where(left, weight, windows.weight))


def _scores(process: Autoregression, state: dict[str, Tensor], series: Tensor) -> Tensor:
    """Scores of all windows of series without gaps: one pass over the points, one over the scores."""
    x = series.clamp(-LARGEST, LARGEST) - process.mean.unsqueeze(1)
    shared, step = _surprises(process, x.unsqueeze(1), process.window * process.n_channels)
    together = surprise_parts.shared_square(shared.squeeze(1), state)
    return (
        step.map(lambda each: surprise_parts.own_square(each, state))
        .laid_out(together.unsqueeze(1))
        .squeeze(1)
    )


def _raw_parts(process: Autoregression, values: Tensor, mask: Tensor | None) -> Tensor:
    """Parts as theory standardises them, ``(n_targets, k, 2 + window)``: window, level, steps."""
    observed: Tensor | int = process.window * process.n_channels
    if mask is not None:
        observed = (~mask).flatten(2).sum(2).unsqueeze(2)
    # Every window is a series of its own: what its missing steps hold is its own too.
    x = _filled(process, values, mask) - process.mean[:, None, None]
    shared, steps = _surprises(process, x, observed)
    step = steps.laid_out().squeeze(2)
    if mask is not None:
        step = step.masked_fill_(mask.all(3), 0.0)
    return torch.cat([shared.squeeze(2), step], dim=2)


def _filled(process: Autoregression, values: Tensor, mask: Tensor | None) -> Tensor:
    """The windows with missing steps at their conditional mean."""
    if mask is None or not bool(mask.any()):
        return values.clamp(-LARGEST, LARGEST)
    base = process.normal
    x = base.filled(base.about_mean(values), mask.flatten(2)) + base.mean.unsqueeze(1)
    return x.to(torch.float32).view(values.shape)


def _surprises(process: Autoregression, x: Tensor, observed: Tensor | int) -> tuple[Tensor, PerStep]:
    """Parts of windows, energy and level, ``(n_targets, k, n_windows, 2)``; and of their steps."""
    innovations = process.innovations(x)
    squares = innovations.map(lambda each: each.square().sum(2))
    energy = squares.total()
    level = process.shift_ratio(innovations)
    n_channels = process.n_channels
    shared = torch.stack(
        [surprise_parts.standard(energy, observed), surprise_parts.standard(level, n_channels)], dim=3
    )
    return shared, squares.map(lambda each: surprise_parts.standard(each, n_channels))
