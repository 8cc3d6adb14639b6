"""What the plain baselines share: the bar that a model has to clear before it is worth its cost."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.base import Detector, Expected
from detectors.maths.quantiles import robust_moments
from detectors.pieces import Progress, fit_in_pieces
from detectors.windows import Windows

FLOOR = 0.01
"""Smallest standard deviation, in prepared units (1 is the series' robust scale)."""

LARGEST = 1e6
"""Values are read as at most this far from 0, so that squares stay finite in float32."""


class Baseline(Detector):
    """Independent normal steps about a level that knows nothing of the window.

    Here the level is the median of the training steps and the scale their IQR / 1.349 (Huber 1981, Robust
    Statistics), and the score of a step is ``|x - level| / scale``, the largest over the channels. A baseline
    of its own overrides the level, the score, or both.
    """

    baseline = True

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        return fit_in_pieces(windows, self._fit_members, on_progress)

    def _fit_members(self, windows: Windows) -> dict[str, Tensor]:
        """Return the state of some members; ``sigma`` of shape ``(n_targets, n_channels)`` is part of it."""
        median, sigma = robust_moments(learned(windows))
        return {"median": median, "sigma": sigma.clamp_min(FLOOR)}

    def _level(self, grid: Tensor) -> Tensor:
        """Return what is expected at indices of the grid, ``(n_targets, n)`` to ``(.., n, n_channels)``."""
        return self._state["median"].unsqueeze(1).expand(-1, grid.shape[1], -1)

    def _score(self, windows: Windows) -> Tensor:
        return self._z(windows).abs().amax(2).unfold(1, windows.window, 1)

    def _expect(self, windows: Windows) -> Expected:
        mean = self._level(windows.grid).unfold(1, windows.window, 1).transpose(2, 3)
        return Expected(mean, self._state["sigma"][:, None, None, :].expand(mean.shape))

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        # Windows begin anywhere on the grid: a level that changes along it shows at every phase.
        start = torch.randint(2**31, (n, 1), generator=generator)
        grid = (start + torch.arange(self.config.window)).flatten().expand(self.n_targets, -1)
        level = self._level(grid)
        # All share the noise, so that a member's samples are the same beside any others.
        noise = torch.randn(level.shape[1:], generator=generator)
        steps = level + self._state["sigma"].unsqueeze(1) * noise
        return steps.reshape(self.n_targets, n, self.config.window, -1)

    def _z(self, windows: Windows) -> Tensor:
        """Scales off the level, 0 where missing, shape ``(n_targets, n_points, n_channels)``."""
        values = windows.series.clamp(-LARGEST, LARGEST)
        z = (values - self._level(windows.grid)) / self._state["sigma"].unsqueeze(1)
        return torch.where(windows.missing, 0.0, z)

    def _n_channels(self) -> int:
        return self._state["sigma"].shape[1]


def learned(windows: Windows) -> Tensor:
    """Return the series with NaN at every step that is missing or outside the windows of weight above 0."""
    hidden = windows.missing | ~windows.touched.unsqueeze(2)
    return windows.series.clamp(-LARGEST, LARGEST).masked_fill(hidden, torch.nan)
