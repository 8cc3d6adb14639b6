"""The baseline that knows the clock: what was normal at this phase of the season is normal now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from detectors.base import Density
from detectors.baseline import FLOOR, Baseline, learned
from detectors.maths import season
from detectors.maths.quantiles import group_medians, robust_moments
from detectors.windows import Windows

PROFILE_VALUES = 16_000
"""Steps of a season times channels: 62.5 KiB of the 64 a version may take; a week of minutes needs 10,080."""


class SeasonalNaiveDetector(Baseline):
    """Expects at every step what its phase of the season was in training: the median of all seasons.

    The score of a step is ``|x - expected| / sigma`` with ``sigma = IQR / 1.349`` of the training residuals,
    the largest over the channels. Hyndman & Athanasopoulos 2021, Forecasting: Principles and Practice, 3rd
    ed., section 5.2. Where no period is found (`detectors.maths.season`), the median is expected.

    Departures: the median over all seasons instead of the last one, because the last one may hold an
    anomaly; the period is found, not given; residuals are those of the seasons the median is taken of, so
    that few seasons leave sigma too small. Phases are counted on the target's grid: a bank of pooled series,
    laid end to end, has no season in common.
    """

    density = Density.NONE
    family = "Seasonal naive"
    paper = "Hyndman & Athanasopoulos 2021"

    def select(self, rows: Sequence[int] | Tensor) -> Self:
        """Return the bank of some members, in the order given; the longest season's padding stays behind."""
        state = super().select(rows).state()
        longest = max(state["period"].tolist(), default=1)
        return self.load(self.config, state | {"profile": state["profile"][:, :longest]})

    def _fit_members(self, windows: Windows) -> dict[str, Tensor]:
        values = learned(windows)
        median, sigma = (each.unsqueeze(1) for each in robust_moments(values))
        standardised = (values - median) / sigma.clamp_min(FLOOR)
        period = season.period(standardised, PROFILE_VALUES // windows.n_channels)
        phase = windows.grid % period.unsqueeze(1)
        profile = group_medians(values, phase, int(period.max()))
        profile = torch.where(profile.isnan(), median, profile)
        _, residual = robust_moments(values - _at(profile, phase))
        return {"period": period, "profile": profile, "sigma": residual.clamp_min(FLOOR)}

    def _level(self, grid: Tensor) -> Tensor:
        return _at(self._state["profile"], grid % self._state["period"].unsqueeze(1))


def _at(profile: Tensor, phase: Tensor) -> Tensor:
    """What a profile says at phases, ``(n_targets, n)`` to ``(n_targets, n, n_channels)``."""
    return profile.gather(1, phase.unsqueeze(2).expand(-1, -1, profile.shape[2]))
