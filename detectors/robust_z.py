"""The baseline everything is compared with: how many robust standard deviations a value lies off."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected, Progress, Windows

FLOOR = 0.01
"""Smallest standard deviation, in prepared units (1 is the series' robust scale)."""

NORMAL_IQR = 1.349
"""Interquartile range of a standard normal distribution."""

LARGEST = 1e6
"""Values are read as at most this far from 0, so that squares stay finite in float32."""


class RobustZDetector(Detector):
    """Every step on its own: normal with the median and the interquartile range of the training series.

    The score of a step is ``|x - median| / sigma`` with ``sigma = IQR / 1.349``, the largest over the
    channels. Median and IQR as estimates of a normal's parameters: Huber 1981, Robust Statistics.

    Departures: none; a constant series gets a sigma of 0.01 prepared units.

    Blind to shape: steps are judged one at a time, so normal values in an odd order look normal.
    """

    density = Density.TRACTABLE
    family = "Independent normal steps, robust"
    paper = "Huber 1981"
    blind_to = "shape"

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        values = windows.series.masked_fill(windows.missing | ~windows.touched.unsqueeze(2), torch.nan)
        quartiles = torch.nanquantile(values, torch.tensor([0.25, 0.5, 0.75]), dim=1).nan_to_num(0.0)
        on_progress(1.0)
        sigma = (quartiles[2] - quartiles[0]) / NORMAL_IQR
        return {"median": quartiles[1], "sigma": sigma.clamp_min(FLOOR)}

    def _score(self, windows: Windows) -> Tensor:
        return self._z(windows).abs().amax(2).unfold(1, windows.window, 1)

    def _expect(self, windows: Windows) -> Expected:
        shape = windows.values.shape
        mean = self._state["median"][:, None, None, :].expand(shape)
        return Expected(mean, self._state["sigma"][:, None, None, :].expand(shape))

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        median, sigma = self._state["median"], self._state["sigma"]
        noise = torch.randn(*median.shape, n, self.config.window, generator=generator)
        return (median[..., None, None] + sigma[..., None, None] * noise).permute(0, 2, 3, 1)

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of the observed steps of every window, ``(n_targets, n_windows)``."""
        self._check_match(windows)
        sigma = self._state["sigma"].unsqueeze(1)
        steps = -0.5 * self._z(windows).square() - sigma.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(windows.missing, 0.0, steps).sum(2).unfold(1, windows.window, 1).sum(2)

    def _z(self, windows: Windows) -> Tensor:
        """Standardised series, 0 where missing, shape ``(n_targets, n_points, n_channels)``."""
        values = windows.series.clamp(-LARGEST, LARGEST)
        z = (values - self._state["median"].unsqueeze(1)) / self._state["sigma"].unsqueeze(1)
        return torch.where(windows.missing, 0.0, z)

    def _n_channels(self) -> int:
        return self._state["median"].shape[1]
