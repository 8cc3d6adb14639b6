"""Trends that only go on: a disk that fills, a number that counts up. They are no news, their change is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.records import Seconds, Values
from pipelines.steps.recipe import ChannelRecipe

PARTS = 8
"""A history is cut into so many parts; a steady trend rises from each to the next by about the same."""

FEWEST = 6
"""Points that a part holds at least."""

UNEVEN = 0.3
"""No rise differs from the middle one by more than this share of it."""

CLEAR = 3.0
"""And each is so many times what values spread within a part: a wandering level is followed."""


def learn(shape: ChannelRecipe, moved: Values, ts: Seconds) -> ChannelRecipe:
    """Return the recipe with the slope of a steady trend; as it was where there is none.

    Args:
        moved: transformed values, NaN where missing, at times ``ts``.
    """
    seen = np.flatnonzero(~np.isnan(moved))
    if len(seen) < PARTS * FEWEST:
        return shape
    parts = np.array_split(seen, PARTS)
    at, middle = (np.array([np.median(of[part]) for part in parts]) for of in (ts, moved))
    slopes = np.diff(middle) / np.diff(at)
    slope = float(np.median(slopes))
    if not np.isfinite(slope) or not slope or (np.abs(slopes - slope) > UNEVEN * abs(slope)).any():
        return shape
    steady = replace(shape, slope=slope, slope_from=int(at[PARTS // 2]))
    rest = moved - line(steady, ts)
    around = [float(np.median(np.abs(rest[part] - np.median(rest[part])))) for part in parts]
    is_clear = abs(slope) * float(np.median(np.diff(at))) >= CLEAR * 1.4826 * float(np.median(around))
    return steady if is_clear else shape


def line(channel: ChannelRecipe, ts: Seconds) -> Values | float:
    """Return what a steady trend adds at every moment."""
    if not channel.slope:
        return 0.0
    seconds: Values = (ts - channel.slope_from).astype(np.float64)
    return channel.slope * seconds
