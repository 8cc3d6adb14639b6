"""What a day or a week usually looks like on a series' own clock, learned robustly at step resolution."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from pipelines.records import Seconds, Values
from pipelines.times import DAY, WEEK

PERIODS = {"daily": DAY, "weekly": WEEK}
# 1970-01-01 was a Thursday: shifting by three days makes a week's first bin Monday, 00:00 local time.
MONDAY = 3 * DAY

KEPT_RATIO = 0.8
"""A season is kept where it lowers the typical squared error by a fifth."""
SMOOTH_DAILY_SECONDS = 1_200
SMOOTH_WEEKLY_SECONDS = 5_400
SPREAD_SECONDS = 3_600
SHARP = 4.0
"""Robust deviations from which a bin is a sharp feature and not smoothed (by chance 1 in 16,000)."""
SURE = 2.0
"""Standard errors below which a weekday's smooth difference from the usual day counts as chance."""
FACTOR_RANGE = (0.5, 25.0)


# -- the local clock ----------------------------------------------------------------


@lru_cache(maxsize=64)
def _zone(timezone: str) -> ZoneInfo:
    return ZoneInfo(timezone)


def _offset_at(timezone: str, ts: int) -> int:
    local = datetime.fromtimestamp(ts, UTC).astimezone(_zone(timezone))
    return round((local.utcoffset() or timedelta()).total_seconds())


@lru_cache(maxsize=65_536)
def _day_offsets(timezone: str, day: int) -> tuple[int, int, int]:
    """Return the offset at the start of a UTC day, when it changes (its end if never), and to what."""
    low, high = day * DAY, (day + 1) * DAY
    first, last = _offset_at(timezone, low), _offset_at(timezone, high - 1)
    if first == last:
        return first, high, last
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_at(timezone, middle) == first:
            low = middle
        else:
            high = middle
    return first, high, last


def utc_offsets(timezone: str, ts: Seconds) -> Seconds:
    """Return local time minus UTC in seconds at every moment of ``ts``, which is ascending."""
    if timezone == "UTC" or not len(ts):
        return np.zeros(len(ts), dtype=np.int64)
    days = range(int(ts[0]) // DAY, int(ts[-1]) // DAY + 1)
    known = np.array([_day_offsets(timezone, day) for day in days], dtype=np.int64)
    if (known[:, ::2] == known[0, 0]).all():
        return np.full(len(ts), known[0, 0])
    row = known[ts // DAY - days[0]]
    return np.where(ts < row[:, 1], row[:, 0], row[:, 2])


def n_bins(period: int, step_seconds: int) -> int:
    return -(-period // step_seconds)


def phases(ts: Seconds, local: Seconds, period: int, step_seconds: int) -> tuple[Seconds, Seconds]:
    """Return the number of the day or week, and the bin in it, of every moment.

    Args:
        ts: epoch seconds.
        local: ``utc_offsets`` of them.
        period: ``DAY`` or ``WEEK``.
    """
    cycle, inside = np.divmod(ts + local + MONDAY, period)
    return cycle, inside // step_seconds


# -- robust building blocks ---------------------------------------------------------


def median(values: Values) -> Values:
    """Return the median over the last axis, of what is not NaN; NaN where nothing is."""
    ordered = np.sort(values, axis=-1)
    n = np.count_nonzero(~np.isnan(values), axis=-1)
    if ordered.ndim == 1:
        return (ordered[max(n - 1, 0) // 2] + ordered[min(n // 2, len(ordered) - 1)]) / 2
    rows = ordered.reshape(-1, ordered.shape[-1])
    flat = n.reshape(-1)
    at = np.arange(len(rows))
    low = rows[at, np.maximum(flat - 1, 0) // 2]
    high = rows[at, np.minimum(flat // 2, rows.shape[1] - 1)]
    return np.where(flat > 0, (low + high) / 2, np.nan).reshape(n.shape)


def _circular_sum(values: Values, half: int) -> Values:
    """Return the sum over bins b - half to b + half of a profile whose end joins its start."""
    wrapped = np.concatenate([[0.0], values[-half:], values, values[:half]]).cumsum()
    return wrapped[2 * half + 1 :] - wrapped[: -2 * half - 1]


def _average(values: Values, half: int, use: NDArray[np.bool_]) -> Values:
    """Return the circular moving average of the bins in use; the value itself where none is near."""
    half = min(half, (len(values) - 1) // 2)
    if half < 1:
        return values
    count = _circular_sum(use.astype(np.float64), half)
    total = _circular_sum(np.where(use, values, 0.0), half)
    return np.where(count > 0.5, total / np.maximum(count, 1.0), values)


def _split(profile: Values, half: int) -> tuple[Values, Values]:
    """Return the smooth part of a profile, and the sharp rest: zero but at edges, dips and surges.

    A moving average would blur the edges of a maintenance of half an hour; what stands out of the
    average by more than chance is therefore left out of it and kept as it is.
    """
    everywhere = np.ones(len(profile), dtype=bool)
    smooth = _average(profile, half, everywhere)
    sharp = everywhere
    for _ in range(2):
        rest = np.abs(profile - smooth)
        sharp = rest > SHARP * 1.4826 * np.median(rest)
        smooth = _average(profile, half, ~sharp)
    return smooth, np.where(sharp, profile - smooth, 0.0)


def _filled(profile: Values, default: Values | float = np.nan) -> Values:
    """Return the profile with bins that saw no point filled, by default from their neighbours."""
    empty = np.isnan(profile)
    if not empty.any():
        return profile
    if not np.isscalar(default) or not np.isnan(default):
        return np.where(empty, default, profile)
    if empty.all():
        return np.zeros(len(profile))
    at = np.arange(len(profile))
    return np.interp(at, at[~empty], profile[~empty], period=len(profile))


# -- learning -----------------------------------------------------------------------


@dataclass(frozen=True)
class Clock:
    """Where every step of a regular series stands in the days and weeks of its own clock."""

    step_seconds: int
    day: Seconds
    day_bin: Seconds
    week: Seconds
    week_bin: Seconds

    @classmethod
    def of(cls, ts: Seconds, timezone: str, step_seconds: int) -> Clock:
        local = utc_offsets(timezone, ts)
        return cls(
            step_seconds, *phases(ts, local, DAY, step_seconds), *phases(ts, local, WEEK, step_seconds)
        )

    def fold(self, values: Values, kind: str) -> Values:
        """Return values of shape ``(n_days or n_weeks, bins)``, NaN where nothing was seen."""
        cycle, at = (self.day, self.day_bin) if kind == "daily" else (self.week, self.week_bin)
        folded = np.full((int(cycle[-1] - cycle[0]) + 1, n_bins(PERIODS[kind], self.step_seconds)), np.nan)
        folded[cycle - cycle[0], at] = values
        return folded

    def at(self, profile: Values, kind: str) -> Values:
        """Return a profile's value at every step."""
        return profile[self.day_bin if kind == "daily" else self.week_bin]


def choose(values: Values, clock: Clock, span_seconds: int, wanted: str) -> tuple[str, Values]:
    """Return the kind of season and its profile (empty for ``none``).

    A season asked for by name is taken where the history holds it (three days, two weeks); ``auto``
    keeps one where, learned on other weeks, it lowers the typical squared residual or one-step
    difference by a fifth. "Typical" is the median over the weeks at the same time of week: what
    happened once speaks for no season, what happens every week does.

    Args:
        values: regular, detrended, NaN where missing.
        span_seconds: from first to last point.
        wanted: ``none``, ``daily``, ``weekly`` or ``auto``.
    """
    kinds = [k for k, least in (("daily", 3 * DAY), ("weekly", 2 * WEEK)) if span_seconds >= least]
    kinds = [k for k in kinds if 2 * clock.step_seconds <= PERIODS[k]]
    if wanted != "auto":
        allowed = {"none": [], "daily": ["daily"], "weekly": ["daily", "weekly"]}[wanted]
        kinds = [k for k in kinds if k in allowed][-1:]
        return (kinds[0], profile(values, clock, kinds[0])) if kinds else ("none", np.zeros(0))
    if not kinds:
        return "none", np.zeros(0)
    kept, best = "none", _typical_errors(values, clock, "none", kinds)
    for kind in kinds:
        errors = _typical_errors(values, clock, kind, kinds)
        if any(new < KEPT_RATIO * old for new, old in zip(errors, best, strict=True)):
            kept, best = kind, errors
    return kept, profile(values, clock, kept) if kept != "none" else np.zeros(0)


def profile(values: Values, clock: Clock, kind: str) -> Values:
    """Return what is usual in every bin of the day or week."""
    daily = _daily_profile(clock.fold(values, "daily"), clock.step_seconds)
    return (
        daily if kind == "daily" else _weekly_profile(clock.fold(values, "weekly"), daily, clock.step_seconds)
    )


def _typical_errors(values: Values, clock: Clock, kind: str, kinds: list[str]) -> tuple[float, float]:
    """Return the typical squared residual and one-step difference, each week judged by the others."""
    rest = values - np.nanmedian(values) if kind == "none" else np.full(len(values), np.nan)
    if kind != "none":
        half = (clock.week if "weekly" in kinds else clock.day) % 2
        for own in (0, 1):
            learned = profile(np.where(half == own, np.nan, values), clock, kind)
            rest = np.where(half == own, values - clock.at(learned, kind), rest)
    by = "weekly" if "weekly" in kinds else "daily"
    step = np.diff(rest, prepend=np.nan)
    return _typical(clock.fold(rest**2, by)), _typical(clock.fold(step**2, by))


def _typical(squares: Values) -> float:
    usual = median(squares.T)
    usual = usual[~np.isnan(usual)]
    return float(usual.mean()) if len(usual) else np.inf


def _daily_profile(days: Values, step_seconds: int) -> Values:
    """Return what is usual by time of day, shape ``(bins,)``, from ``(n_days, bins)``."""
    smooth, sharp = _split(_filled(median(days.T)), round(SMOOTH_DAILY_SECONDS / step_seconds))
    return smooth + sharp


def _weekly_profile(weeks: Values, daily: Values, step_seconds: int) -> Values:
    """Return what is usual by time of week: the usual day, what sets weekdays apart, and sharp events.

    Six weeks give six values a bin, whose median still carries half the noise: applied as it is, it
    makes training data look calmer than what comes after. Only what repeats beyond chance is kept.
    """
    day = daily[(np.arange(weeks.shape[1]) * step_seconds % DAY) // step_seconds]
    usual = _filled(median(weeks.T) - day, 0.0)
    smooth, sharp = _split(usual, round(SMOOTH_WEEKLY_SECONDS / step_seconds))
    chance = _chance(weeks - day - smooth, round(2 * SMOOTH_WEEKLY_SECONDS / step_seconds))
    # Positive-part shrinkage (James and Stein 1961), bin by bin.
    doubt = SURE**2 * chance
    sure = 1.0 - doubt / np.maximum(np.maximum(smooth**2, doubt), 1e-300)
    return day + smooth * sure + sharp


def _chance(rest: Values, block: int) -> float:
    """Return the squared standard error of a smoothed weekday difference, from how weeks differ."""
    block = max(block, 1)
    n_weeks, bins = rest.shape
    cut = rest[:, : bins - bins % block].reshape(n_weeks, -1, block)
    seen = np.count_nonzero(~np.isnan(cut), axis=2)
    means = np.where(np.isnan(cut), 0.0, cut).sum(axis=2) / np.maximum(seen, 1)
    means[2 * seen < block] = np.nan
    # Differences of neighbouring weeks: free of what they share, and twice as variable as one.
    apart = np.abs(np.diff(means, axis=0)).ravel()
    n_seen = np.count_nonzero(~np.isnan(means)) / means.shape[1]
    one_week = 1.4826**2 / 2 * float(np.nan_to_num(median(apart))) ** 2
    # A median's standard error is that of a mean times sqrt(pi / 2).
    return np.pi / 2 * one_week / max(n_seen, 1.0)


def spread_kind(span_seconds: int, step_seconds: int, kind: str, wanted: str) -> str:
    """Return by which season the spread is learned: the season's own, or a finer one the history holds.

    Noise has a rhythm where the mean has none: the crash rate of a few hundred players at night.
    """
    if kind == "weekly" or wanted == "none":
        return kind
    if wanted != "daily" and span_seconds >= 3 * WEEK and 4 * step_seconds <= WEEK:
        return "weekly"
    return "daily" if span_seconds >= WEEK and 4 * step_seconds <= DAY else kind


def spread_profile(rest: Values, clock: Clock, kind: str) -> Values:
    """Return by how much each bin of the season is noisier than usual, shape ``(bins,)``, near 1.

    From residuals whose spread is 1. The broad course (an hour either side) is shrunk towards 1 as far
    as few cycles were seen; where single bins are far noisier, as at the edges of a maintenance whose
    end varies, or in it where a rate has hardly anything to count, they keep their own.
    """
    folded = np.abs(clock.fold(rest, kind))
    n_cycles = folded.shape[0]
    usual = _filled(1.4826 * median(folded.T), 1.0)
    everywhere = np.ones(len(usual), dtype=bool)
    near = _average(usual, 1, everywhere)
    half = max(2, round(SPREAD_SECONDS / clock.step_seconds))
    broad = _average(np.minimum(usual, 3.0), half, everywhere)
    broad = (n_cycles * broad + 4.0) / (n_cycles + 4.0)
    return np.clip(np.where(near > 2.5 * broad, np.maximum(near, usual), broad), *FACTOR_RANGE)
