"""The baseline that only asks how restless a window is."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.base import Density
from detectors.baseline import LARGEST, Baseline
from detectors.pieces import in_pieces
from detectors.windows import Windows


class MovingStdDetector(Baseline):
    """The score of a window is the standard deviation of its steps, the same at each of them.

    With several channels it is the root of the mean of their variances. Training teaches the score nothing.
    Wu & Keogh 2021 (arXiv 2009.13807) solve many benchmark series with a line of moving means and deviations.

    Departures: theirs are deviations of the differences, with a window and constants chosen by hand.

    Blind to level and shape: a lasting level shows at its edges only, and normal values in an odd order have
    the deviation of normal ones. A series that falls silent scores low.
    """

    density = Density.NONE
    family = "Standard deviation of a window"
    paper = "Wu & Keogh 2021"
    blind_to = frozenset({"level", "shape"})

    def _score(self, windows: Windows) -> Tensor:
        deviation = in_pieces(windows, lambda _, piece: _deviation(piece))
        return deviation.unsqueeze(2).expand(-1, -1, windows.window)


def _deviation(windows: Windows) -> Tensor:
    """Standard deviation of the observed steps of every window, ``(n_targets, n_windows)``."""
    seen = ~windows.mask
    count = seen.sum(2, keepdim=True)
    values = windows.values.clamp(-LARGEST, LARGEST)
    mean = torch.where(seen, values, 0.0).sum(2, keepdim=True) / count.clamp_min(1)
    squares = torch.where(seen, values - mean, 0.0).square().sum(2, keepdim=True)
    variance = (squares / count.clamp_min(1)).squeeze(2)
    # A channel that no step of a window observed says nothing about it.
    return (variance.sum(2) / (count > 0).sum((2, 3)).clamp_min(1)).sqrt()
