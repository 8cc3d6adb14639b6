"""The baseline everything is compared with: how many robust standard deviations a value lies off."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detectors.base import Density
from detectors.baseline import Baseline
from detectors.windows import Windows


class RobustZDetector(Baseline):
    """Every step on its own: normal with the median and the interquartile range of the training series.

    The score of a step is ``|x - median| / sigma`` with ``sigma = IQR / 1.349``, the largest over the
    channels. Median and IQR as estimates of a normal's parameters: Huber 1981, Robust Statistics.

    Departures: none; a constant series gets a sigma of 0.01 prepared units.

    Blind to shape: steps are judged one at a time, so normal values in an odd order look normal.
    """

    density = Density.TRACTABLE
    family = "Independent normal steps, robust"
    paper = "Huber 1981"
    blind_to = frozenset({"shape"})

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of the observed steps of every window, ``(n_targets, n_windows)``."""
        self._check_match(windows)
        sigma = self._state["sigma"].unsqueeze(1)
        steps = -0.5 * self._z(windows).square() - sigma.log() - 0.5 * math.log(2 * math.pi)
        return torch.where(windows.missing, 0.0, steps).sum(2).unfold(1, windows.window, 1).sum(2)
