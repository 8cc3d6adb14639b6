"""The season of a series: after how many steps it repeats itself."""

from __future__ import annotations

import torch
from torch import Tensor

SEASONS = 3
"""Whole seasons a history must hold; of two, nobody can say which one was unusual."""

SHARED = 0.3
"""Least share of the variance that seasons have in common; below it there is no season."""

ERRORS = 5.0
"""Standard errors, of ``1 / sqrt(steps)``, by which a longer period must be better than a shorter one.

Every multiple of a period is as good as it is, but for noise; 0.05 in six weeks of five minutes.
"""

NEARLY = 0.01
"""Correlation that a period gives up to be a multiple of a shorter one, such as a week of whole days."""

CLIP = 5.0
"""Standardised values are read as at most this far off.

An incident of a thirtieth of the history then hides no season, and bursts of a fiftieth of a season
still make one.
"""

REACH = 2**16
"""Longest lag looked at, in steps: 45 days of minutes. It bounds what a very long history costs."""


def period(values: Tensor, longest: int) -> Tensor:
    """Return the period of every target in steps, int64, ``(n_targets,)``; 1 where there is no season.

    A period's worth is the mean correlation of the steps that stand at the same phase of different
    seasons, so the autocorrelation at the period and at all its multiples. One lag alone would be a few steps
    off where the season is smooth, and over forty seasons a few steps add up.

    Args:
        values: standardised, ``(n_targets, n_points, n_channels)``, NaN where a step does not count.
        longest: periods looked at are at most so long.
    """
    longest = min(longest, values.shape[1] // SEASONS)
    if longest < 2:
        return torch.ones(values.shape[0], dtype=torch.int64)
    worth = season_correlation(values, longest)
    best = worth.amax(1, keepdim=True)
    steps = (~values.isnan()).any(2).sum(1, keepdim=True).clamp_min(1)
    found = _first_peak(worth, best - ERRORS / steps.sqrt())
    found = _whole(found, _first_peak(worth, best / 2), worth)
    return torch.where(best >= SHARED, found, 1).squeeze(1)


def season_correlation(values: Tensor, longest: int) -> Tensor:
    """Return the mean correlation between seasons of every period, float64, ``(n_targets, longest + 1)``.

    0 for periods of too few seasons. Channels count by their variance.
    """
    seen = ~values.isnan()
    x = values.nan_to_num(0.0).to(torch.float64).clamp(-CLIP, CLIP)
    x = (x - x.sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp_min(1)) * seen
    products, pairs = _autocorrelation(x), _autocorrelation(seen.to(torch.float64)).round()
    variance = products[:, :1] / pairs[:, :1].clamp_min(1)
    channels = seen.any(1).sum(1, keepdim=True)
    known = _comb(pairs.sum(2), longest)
    shared = _comb(products.sum(2), longest) / _comb((pairs * variance).sum(2), longest).clamp_min(1e-12)
    # Every phase of n seasons makes n * (n - 1) / 2 pairs.
    enough = known >= torch.arange(longest + 1) * SEASONS * (SEASONS - 1) // 2 * channels
    return torch.where(enough & (known > 0), shared, 0.0)


def _autocorrelation(x: Tensor) -> Tensor:
    """Sums of products at lags from 0, ``(n_targets, n_lags, n_channels)``."""
    n_points = x.shape[1]
    size = 1 << (2 * n_points - 1).bit_length()
    power = torch.fft.rfft(x, size, dim=1).abs().square()
    return torch.fft.irfft(power, size, dim=1)[:, : min(n_points, REACH)]


def _comb(by_lag: Tensor, longest: int) -> Tensor:
    """Sums over all multiples of periods 0 to ``longest``, of which 0 and 1 get none."""
    n_lags = by_lag.shape[1]
    periods = torch.arange(2, longest + 1)
    multiples = (n_lags - 1) // periods
    own = periods.repeat_interleave(multiples)
    before = (multiples.cumsum(0) - multiples).repeat_interleave(multiples)
    lag = own * (torch.arange(len(own)) - before + 1)
    return by_lag.new_zeros(by_lag.shape[0], longest + 1).index_add_(1, own, by_lag[:, lag])


def _first_peak(worth: Tensor, high: Tensor) -> Tensor:
    """Peak of the first stretch of periods that reaches ``high`` and `SHARED`, ``(n_targets, 1)``.

    A stretch lasts until less than half of the best is left, so that noise does not end it before its peak.
    """
    reached = (worth >= high.clamp_min(SHARED)).cumsum(1) > 0
    left = (reached & (worth < worth.amax(1, keepdim=True) / 2)).cumsum(1) > 0
    return worth.masked_fill(~reached | left, -torch.inf).argmax(1, keepdim=True)


def _whole(found: Tensor, shorter: Tensor, worth: Tensor) -> Tensor:
    """The nearest multiple of the shorter period where that is as good as the one found, else that one."""
    multiple = (found / shorter.clamp_min(1)).round().to(torch.int64) * shorter
    inside = multiple < worth.shape[1]
    as_good = worth.gather(1, torch.where(inside, multiple, 0)) >= worth.gather(1, found) - NEARLY
    return torch.where(inside & as_good, multiple, found)
