"""What kind of values a series has: the lattice they lie on, and the transform that evens out their noise.

Values on a lattice get one uniform dither of its width, small counts Anscombe's transform (1948, doi
10.2307/2332343), and noise that grows with the level a logarithm.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.records import Seconds, Values
from pipelines.steps.recipe import ChannelRecipe

SMALL_COUNT = 100.0


# -- dither and transform -----------------------------------------------------------

_LOW = 0.375
"""Below it 2 sqrt(x) is continued as its tangent, so that wrong negative counts have an image too."""


NO_DITHER = np.zeros(1)
"""No dither, for values that are only compared."""


def dither(ts: Seconds, number: int) -> Values:
    """Return noise in [-.5, .5) that belongs to the moment and the channel: no slice changes it."""
    # splitmix64 (Steele, Lea and Flood 2014): three rounds of shift, xor and multiply.
    z = ts.astype(np.uint64) + np.uint64((0x9E3779B97F4A7C15 * (number + 1)) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5


def transformed(channel: ChannelRecipe, raw: Values, uniform: Values) -> Values:
    """Return dithered, transformed values."""
    values = raw + channel.resolution * uniform if channel.resolution else raw
    if channel.transform == "anscombe":
        # Half a count more than Anscombe's 3/8 keeps a dithered zero above it.
        whole = values / channel.resolution + 0.5 + _LOW
        return 2.0 * np.sqrt(np.maximum(whole, _LOW)) + (np.minimum(whole, _LOW) - _LOW) / _LOW**0.5
    if channel.transform == "log":
        below = np.minimum(values, channel.floor) - channel.floor
        return np.log(np.maximum(values, channel.floor)) + below / channel.floor
    return values


def untransformed(channel: ChannelRecipe, moved: Values) -> Values:
    """Return transformed values in the series' unit."""
    if channel.transform == "anscombe":
        bend = 2.0 * _LOW**0.5
        whole = (np.maximum(moved, bend) / 2.0) ** 2 + (np.minimum(moved, bend) - bend) * _LOW**0.5
        return (whole - 0.5 - _LOW) * channel.resolution
    if channel.transform == "log":
        bend = float(np.log(channel.floor))
        # Beyond 700 exp overflows.
        return np.exp(np.clip(moved, bend, 700.0)) + (np.minimum(moved, bend) - bend) * channel.floor
    return moved


# -- what kind of values ------------------------------------------------------------


def learn_transform(raw: Values) -> ChannelRecipe:
    """Return a recipe that knows the lattice of the values and how their noise grows with them."""
    seen = raw[~np.isnan(raw)]
    middle = float(np.median(seen))
    resolution = _resolution(seen)
    counts = bool(resolution) and _is_whole(seen[seen.argmin()] / resolution) and float(seen.min()) >= 0
    shape = ChannelRecipe(resolution=resolution, counts=counts)
    if counts and middle < SMALL_COUNT * resolution:
        return replace(shape, transform="anscombe")
    growth = _growth(raw)
    if counts and 0.25 < growth <= 0.75:
        return replace(shape, transform="anscombe")
    return logarithmic(shape, seen) if growth > 0.5 else shape


def logarithmic(shape: ChannelRecipe, seen: Values) -> ChannelRecipe:
    """Return the recipe with a logarithm of values whose median is positive."""
    low, middle = float(np.quantile(seen, 0.02)), float(np.median(seen))
    return replace(shape, transform="log", floor=min(max(low, 0.01 * middle), 0.1 * middle))


def _is_whole(value: float) -> bool:
    # A value that comes from an array makes the comparison numpy's, whose truth is no JSON.
    return bool(abs(value - round(value)) < 0.01)


def _resolution(seen: Values) -> float:
    """Return the spacing of the lattice all values lie on; 0 where there is none.

    A value that was nearly never left is constant, not a lattice of two points: its few departures say
    nothing about spacing, and a dither of that width would hide the next one.
    """
    distinct, n = np.unique(seen, return_counts=True)
    if len(distinct) < 2 or len(seen) - n.max() < 0.005 * len(seen):
        return 0.0
    above = distinct - distinct[0]
    steps = np.diff(distinct)
    rounding = 8 * np.finfo(np.float64).eps * float(np.abs(distinct).max())
    steps = steps[steps > rounding]
    spacing = float(steps.min(initial=np.inf))
    # The smallest step need not be the lattice (0, 2, 5): Euclid's remainders find it.
    for _ in range(8):
        if not np.isfinite(spacing) or spacing <= 1e3 * rounding:
            return 0.0
        if _is_whole(above[-1] / spacing):
            # The longest distance knows the spacing most exactly.
            spacing = float(above[-1] / round(above[-1] / spacing))
        off = np.abs(above - spacing * np.rint(above / spacing))
        off = off[off > 0.01 * spacing]
        if not len(off):
            return spacing
        if len(off) > 64:
            return 0.0
        spacing = float(off.min())
    return 0.0


def _growth(raw: Values) -> float:
    """Return the power of the level that the noise grows with: 0 constant, .5 counts, 1 proportional.

    Noise is what second differences show, so that season and level cancel; 0 where values are not
    positive or their level hardly varies.
    """
    noise = np.abs(raw[1:-1] - (raw[:-2] + raw[2:]) / 2)
    level = (raw[:-2] + raw[1:-1] + raw[2:]) / 3
    use = ~np.isnan(noise)
    if np.count_nonzero(use) < 200:
        return 0.0
    order = np.argsort(level[use])
    parts = np.array_split(order, 10)
    levels, spreads = (np.array([np.median(of[use][part]) for part in parts]) for of in (level, noise))
    if levels[0] <= 0 or levels[-1] < 1.5 * levels[0] or spreads.min() <= 0:
        return 0.0
    return float(np.polyfit(np.log(levels), np.log(spreads), 1)[0])
