"""Gaussian windows: full covariance, or probabilistic principal components where that is too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected, TrimmedConfig
from detectors.maths import stored, surprise_parts
from detectors.maths.moments import FLOOR, Moments, regular, trimmed
from detectors.maths.normal import Normal, normal_expect, normal_log_prob
from detectors.maths.normal_parts import energy_part, raw_parts
from detectors.maths.ppca import Ppca
from detectors.pieces import Progress, fit_in_pieces, in_pieces
from detectors.windows import Windows


@dataclass(frozen=True)
class GaussianConfig(TrimmedConfig):
    """What the Gaussian can be told.

    Attributes:
        form: 'full' covariance, 'ppca', or 'auto': full up to 128 values a window.
        components: most principal components of the 'ppca' form.
        share: share of the variance the components explain.
        whole: judge a window by its energy alone: what a single step or a level says does not join.
    """

    form: Literal["auto", "full", "ppca"] = "auto"
    components: int = 32
    share: float = 0.95
    whole: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("auto", "full", "ppca"):
            raise ValueError(f"form must be 'auto', 'full' or 'ppca', got {self.form!r}")
        self._check_counts("components")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")


@dataclass(frozen=True)
class Parts:
    """The surprises a score is made of, each about standard normal on normal data.

    Attributes:
        window: shape ``(n_targets, n_windows)``: Mahalanobis energy of the whole window.
        level: same shape: how far the window's level lies off (likelihood ratio of a constant shift).
        step: shape ``(n_targets, n_windows, window)``: innovation of each step given the ones before it.
    """

    window: Tensor
    level: Tensor
    step: Tensor


class GaussianDetector(Detector):
    """Normal distribution of windows with shrunken covariance.

    The score of a step joins three surprises, each in units of what it does on training windows: the
    Mahalanobis energy of its window, the likelihood ratio of a shift of the window's level, and the step's
    innovation given the steps before it (for the newest step: the one-step prediction error).

    Tipping & Bishop 1999 (doi 10.1111/1467-9868.00196); Ledoit & Wolf 2004 (doi
    10.1016/S0047-259X(03)00096-4).

    Departures: the log-density alone misses a short spike in a long window and a small lasting shift, so its
    two halves by the chain rule (energy, innovations) and the shift it is least sensitive to stand beside
    each other; ``log_prob`` is the plain density. The shrinkage counts windows divided by the integrated
    squared autocorrelation, since overlapping windows are not independent.
    """

    Config = GaussianConfig
    density = Density.TRACTABLE
    family = "Gaussian, probabilistic PCA"
    paper = "Tipping & Bishop 1999; Ledoit & Wolf 2004"

    # -- fit ------------------------------------------------------------------------

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        return fit_in_pieces(windows, self._fit_members, on_progress)

    def _fit_members(self, windows: Windows) -> dict[str, Tensor]:
        moments, kept = trimmed(windows, self.config.trim)
        state = self._distribution(moments, windows.n_channels)
        normal = stored.normal_of(state)
        return state | surprise_parts.scale_of(lambda values, mask, _: raw_parts(normal, values, mask), kept)

    def _distribution(self, moments: Moments, n_channels: int) -> dict[str, Tensor]:
        """The fitted distribution, as it is stored."""
        covariance = regular(moments, self.config.window)
        mean = {"mean": moments.mean.to(torch.float32)}
        if self._is_full(n_channels):
            return mean | stored.packed(covariance)
        return mean | stored.principal(covariance, self.config.components, self.config.share)

    def _is_full(self, n_channels: int) -> bool:
        if self.config.form == "auto":
            return self.config.window * n_channels <= stored.LARGEST_FULL
        return self.config.form == "full"

    # -- use ------------------------------------------------------------------------

    def parts(self, windows: Windows) -> Parts:
        """Return the surprises the score is made of."""
        self._check_match(windows)
        whole = in_pieces(windows, self._parts_of)
        return Parts(whole[:, :, 0], whole[:, :, 1], whole[:, :, 2:])

    def _parts_of(self, members: slice, windows: Windows) -> Tensor:
        """Scaled parts: window, level and every step, ``(n_targets, n_windows, 2 + window)``."""
        state = self._state_of(members)
        return surprise_parts.scaled(
            raw_parts(self._normal_of(members), windows.values, surprise_parts.missing_in(windows)), state
        )

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            normal, mask = self._normal_of(members), surprise_parts.missing_in(piece)
            if self.config.whole:
                return surprise_parts.whole(energy_part(normal, piece.values, mask), state)
            return surprise_parts.combined(raw_parts(normal, piece.values, mask), state)

        found = in_pieces(windows, scores)
        return found.expand(-1, -1, windows.window) if self.config.whole else found

    def _expect(self, windows: Windows) -> Expected:
        return normal_expect(windows, self._normal_of)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        flat = stored.normal_of(self._state).sample(n, generator)
        return flat.to(torch.float32).view(-1, n, self.config.window, self._n_channels())

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of the observed values of every window, ``(n_targets, n_windows)``."""
        self._check_match(windows)
        return normal_log_prob(windows, self._normal_of)

    def encode(self, windows: Windows) -> Tensor:
        """Return the whitened principal coordinates of every window, largest variance first."""
        self._check_match(windows)
        normal = stored.normal_of(self._state)
        covariance = normal.root @ normal.root.transpose(1, 2)
        ppca = Ppca.of(covariance, self.config.components, share=1.0, floor=0.0)
        axes = ppca.axes / ppca.variance.clamp_min(FLOOR).sqrt().unsqueeze(1)

        def latent(members: slice, piece: Windows) -> Tensor:
            member = self._normal_of(members)
            x = member.completed(member.about_mean(piece.values), piece.mask.flatten(2)).x
            return (x @ axes[members]).to(torch.float32)

        return in_pieces(windows, latent)

    def _normal_of(self, members: slice) -> Normal:
        return self._made_of(members, stored.normal_of)

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window
