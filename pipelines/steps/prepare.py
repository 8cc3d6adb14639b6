"""From raw points to regular, scaled series: what is learned once per version, and its pure application.

A value x becomes ``(transform(x + dither) - baseline) / spread``. The baseline is the season plus the
level of the days before, the spread what residuals usually show at that time of the season. Nothing
depends on the slice being prepared, only on the recipe and the points up to ``context_seconds`` before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.monitor import Period
from pipelines.records import Points, Seconds, Values
from pipelines.steps import presence, steady
from pipelines.steps import season as seasons
from pipelines.steps.recipe import ChannelRecipe, Recipe, packed_profile, packed_spread
from pipelines.steps.regimes import Regimes, of_steps
from pipelines.steps.season import Clock, median
from pipelines.steps.transform import (
    NO_DITHER,
    dither,
    learn_transform,
    logarithmic,
    transformed,
    untransformed,
)
from pipelines.times import DAY

LEVEL_BLOCKS = 24
"""Two days: a shift is half absorbed after one, an outage of twelve hours is a quarter of the blocks."""
LEVEL_MIN_BLOCKS = 6
LEVEL_MIN_HISTORY_SECONDS = 7 * DAY
LEVEL_MAX_STEP_SECONDS = 3_600
ODD = 2.0
"""Steps this many spreads from their baseline are odd by themselves: one normal step in twenty is."""
HUGE = 1e100
"""Values beyond, such as the largest double as a mark of nothing, count as this: squares stay finite."""

LIMIT = 1e4
"""Scaled values are clipped to this many spreads: float32 moments survive a constant series that moves."""
RECIPES = ("robust",)


@dataclass(frozen=True)
class Prepared:
    """Regular, scaled values of one target.

    Attributes:
        start: grid index of the first step.
        ts: time of every step, shape ``(n,)``, epoch seconds.
        values: shape ``(n, n_channels)``, float32; season and level removed; 0 where missing.
        missing: shape ``(n, n_channels)``.
        raw: shape ``(n, n_channels)``, the series' unit, NaN where missing.
        baseline: what a value of 0 means, transformed.
        spread: what a value of 1 means, transformed.
        regime: shape ``(n,)``, each step's place in the recipe's ``regimes``.
    """

    start: int
    ts: Seconds
    values: NDArray[np.float32]
    missing: NDArray[np.bool_]
    raw: Values
    baseline: Values
    spread: Values
    regime: Regimes

    def __len__(self) -> int:
        return len(self.ts)

    def since(self, first: int) -> Prepared:
        """Return the steps from one on, as views."""
        if first <= 0:
            return self
        own = {each.name: getattr(self, each.name)[first:] for each in fields(self) if each.name != "start"}
        return Prepared(start=self.start + first, **own)


# -- public -------------------------------------------------------------------------


def learn(
    points: Sequence[Points],
    *,
    step_seconds: int,
    timezone: str,
    season: str = "auto",
    follow: bool = True,
    start: int,
    stop: int,
    recipe: str = "robust",
    regimes: Sequence[str] = (),
    grid: int | None = None,
) -> Recipe:
    """Return what the points of one target with ``start <= ts < stop`` say about normal.

    Args:
        points: one per channel.
        step_seconds: nominal distance of points.
        timezone: IANA name of the clock the season follows.
        season: ``none``, ``daily``, ``weekly`` or ``auto``.
        follow: whether a level that wanders is followed; False leaves it in.
        recipe: ``robust``.
        regimes: names of the regimes that the detector tells apart.
        grid: where in a step the target's grid stands; where its points usually do if None.

    Raises:
        ValueError: an unknown season or recipe, or a step that is not positive.
    """
    if season not in ("none", "daily", "weekly", "auto"):
        raise ValueError(f"season must be none, daily, weekly or auto, got {season!r}")
    if recipe not in RECIPES:
        raise ValueError(f"no recipe named {recipe!r}; there are: {', '.join(RECIPES)}")
    if step_seconds < 1:
        raise ValueError(f"step must be at least one second, got {step_seconds}")
    inside = [_between(p, start, stop) for p in points]
    bare = _bare(inside, step_seconds, timezone, grid)
    channels = tuple(
        replace(
            _learn_channel(p, bare, season, number, follow=follow),
            habit=presence.learn(p.ts, start, stop, timezone, step_seconds),
        )
        for number, p in enumerate(inside)
    )
    return replace(bare, channels=channels, regimes=tuple(regimes))


def courses(
    points: Sequence[Points],
    transforms: Sequence[str],
    *,
    step_seconds: int,
    timezone: str,
    start: int,
    stop: int,
    grid: int | None = None,
) -> tuple[Recipe, list[Course | None]]:
    """Return the grid of a target as a recipe without channels, and the course of each channel on it.

    None stands for a channel without a point in ``start <= ts < stop``.

    Args:
        transforms: that of each channel's group, taken where the values are such that they can have it.
        grid: as for ``learn``.
    """
    inside = [_between(p, start, stop) for p in points]
    bare = _bare(inside, step_seconds, timezone, grid)
    found = []
    for number, (series, transform) in enumerate(zip(inside, transforms, strict=True)):
        own = _course(series, bare, number)
        shape = None if own is None else _with_transform(own, transform)
        found.append(_course(series, bare, number, shape))
    return bare, found


def grid_of(points: Sequence[Points], start: int, stop: int, step_seconds: int) -> int:
    """Return where in a step the grid of a target stands that has none yet: where its points usually do."""
    return _learn_offset(np.concatenate([_between(p, start, stop).ts for p in points]), step_seconds)


def _bare(inside: Sequence[Points], step_seconds: int, timezone: str, grid: int | None) -> Recipe:
    """Return the recipe of a grid without channels.

    The grid of a target stays: rows of two versions are whole steps apart, and what was odd at one is odd at
    the same. Only where points moved by more than a quarter of a step, too close to the borders of its steps,
    they are taken as so much late.
    """
    offset = _learn_offset(np.concatenate([p.ts for p in inside]), step_seconds)
    if grid is None:
        return Recipe(step_seconds, offset, timezone, ())
    half = step_seconds // 2
    lag = (offset - grid + half) % step_seconds - half if any(len(p.ts) for p in inside) else 0
    return Recipe(step_seconds, grid, timezone, (), lag_seconds=lag if 4 * abs(lag) > step_seconds else 0)


def apply(
    recipe: Recipe, points: Sequence[Points], start: int, stop: int, calendar: Sequence[Period] = ()
) -> Prepared:
    """Return the steps whose time lies in ``start <= t < stop``; the calendar says when known regimes are.

    A step's values are the same whatever ``start`` and ``stop``, as long as points reach from
    ``context_seconds`` before it to half a step after it.

    Raises:
        ValueError: another number of channels than learned.
    """
    if len(points) != len(recipe.channels):
        raise ValueError(
            f"expected the points of {len(recipe.channels)} series, got {len(points)}; "
            "apply a recipe to the series it was learned from, in their order"
        )
    first, end = recipe.index(start), recipe.index(stop)
    steps = np.arange(first, max(first, end), dtype=np.int64)
    ts = steps * recipe.step_seconds + recipe.offset_seconds
    shape = (len(steps), len(points))
    raw, baseline, spread = (np.empty(shape) for _ in range(3))
    values = np.empty(shape, dtype=np.float32)
    for number, (channel, series) in enumerate(zip(recipe.channels, points, strict=True)):
        columns = _apply_channel(recipe, channel, series, number, first, len(steps))
        raw[:, number], values[:, number], baseline[:, number], spread[:, number] = columns
    regime = of_steps(ts, recipe.timezone, recipe.regimes, calendar)
    return Prepared(first, ts, values, np.isnan(raw), raw, baseline, spread, regime)


def restore(
    recipe: Recipe, prepared: Prepared, scaled: NDArray[np.floating], rows: slice | NDArray[np.integer]
) -> Values:
    """Return scaled values of some steps in the series' own unit.

    Args:
        prepared: where the steps' baseline and spread stand.
        scaled: shape ``(n_rows, n_channels)``.
        rows: which steps of ``prepared`` they belong to.
    """
    moved = prepared.baseline[rows] + np.asarray(scaled, dtype=np.float64) * prepared.spread[rows]
    columns = [untransformed(channel, moved[..., number]) for number, channel in enumerate(recipe.channels)]
    return np.stack(columns, axis=-1)


def deviations(recipe: Recipe, prepared: Prepared, expected: Values, rows: slice) -> Values:
    """Return how far the values of some steps are from what was expected, in scaled units.

    Args:
        prepared: where the steps' values and spread stand.
        expected: in the series' unit, shape ``(n_rows, n_channels)``.
        rows: which steps of ``prepared`` they belong to.

    Returns:
        Shape ``(n_rows, n_channels)``, clipped like scaled values; NaN where either is unknown.
    """
    seen, spread = prepared.raw[rows], prepared.spread[rows]
    columns = [
        transformed(channel, seen[:, number], NO_DITHER)
        - transformed(channel, expected[:, number], NO_DITHER)
        for number, channel in enumerate(recipe.channels)
    ]
    with np.errstate(over="ignore"):  # what overflows is clipped like any other huge value
        return np.clip(np.stack(columns, axis=-1) / spread, -LIMIT, LIMIT)


def usual(recipe: Recipe, prepared: Prepared) -> Values:
    """Return what season and level alone say of every step, in the series' unit, ``(n, n_channels)``."""
    return restore(recipe, prepared, np.zeros_like(prepared.values), slice(None))


def scaled(recipe: Recipe, prepared: Prepared, values: Values, rows: slice) -> NDArray[np.float32]:
    """Return values in the series' unit as some steps would have them, in scaled units.

    Args:
        prepared: where the steps' baseline and spread stand.
        values: shape ``(n_rows, n_channels)``.
        rows: which steps of ``prepared`` they belong to.

    Returns:
        Shape ``(n_rows, n_channels)``, clipped like scaled values; 0 where a value is NaN.
    """
    columns = [
        transformed(channel, values[:, number], NO_DITHER) for number, channel in enumerate(recipe.channels)
    ]
    with np.errstate(over="ignore"):  # what overflows is clipped like any other huge value
        own = np.clip(
            (np.stack(columns, axis=-1) - prepared.baseline[rows]) / prepared.spread[rows], -LIMIT, LIMIT
        )
    return np.nan_to_num(own).astype(np.float32)


def odd(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where each channel is odd by itself, shape ``(n, n_channels)``."""
    return np.asarray(np.abs(values) >= ODD)


def odd_steps(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the steps at which any channel is odd by itself, shape ``(n,)``, from ``(n, n_channels)``."""
    return np.asarray(odd(values).any(axis=1))


def unseen(
    recipe: Recipe,
    points: Sequence[Points],
    learned: Sequence[Points],
    prepared: Prepared,
    fold: NDArray[np.integer],
) -> Prepared:
    """Return the prepared steps as if each fold's season and scale had been learned without it.

    A season fits the weeks it was learned from better than those that come after; what is calibrated
    on them as they are promises fewer alarms than it raises.

    Args:
        points: those that were prepared.
        learned: those of them that the recipe was learned from.
        prepared: their span, prepared with the recipe.
        fold: fold of every step of ``prepared``.
    """
    columns = {name: getattr(prepared, name).copy() for name in ("values", "baseline", "spread")}
    start, stop = int(prepared.ts[0]), int(prepared.ts[-1]) + 1
    for k in np.unique(fold):
        hidden = fold == k
        blind = apply(_without_block(recipe, learned, prepared, hidden), points, start, stop)
        for name, column in columns.items():
            column[hidden] = getattr(blind, name)[hidden]
    return replace(prepared, **columns)


# -- the grid -----------------------------------------------------------------------


def _between(points: Points, start: int, stop: int) -> Points:
    low, high = np.searchsorted(points.ts, (start, stop))
    value = points.value[low:high]
    return Points(points.ts[low:high], np.where(np.isinf(value), value, np.clip(value, -HUGE, HUGE)))


def _learn_offset(ts: Seconds, step_seconds: int) -> int:
    """Return where in a step points usually stand: where most of them do, to the second.

    Where they jitter it is the circular median, in hundredths of a step.
    """
    phase = ts % step_seconds
    if not phase.any():
        return 0
    exact, counts = np.unique(phase, return_counts=True)
    if 2 * counts.max() > len(phase):
        return int(exact[counts.argmax()])
    angle = phase * (2 * np.pi / step_seconds)
    mean = float(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) / (2 * np.pi) * step_seconds
    # Seen from their mean the phases lie on a line, where a median stands against stragglers.
    around = (phase - mean + step_seconds / 2) % step_seconds - step_seconds / 2
    part = max(1, step_seconds // 100)
    return round((mean + float(np.median(around))) / part) * part % step_seconds


def _regular(points: Points, recipe: Recipe, first: int, end: int) -> Values:
    """Return the values of grid steps ``first <= i < end``, NaN where none; of several, the last."""
    step = recipe.step_seconds
    shift = recipe.points_from(0)
    low, high = np.searchsorted(points.ts, (first * step + shift, end * step + shift))
    raw = np.full(max(0, end - first), np.nan)
    raw[(points.ts[low:high] - shift) // step - first] = points.value[low:high]
    raw[~np.isfinite(raw)] = np.nan
    return np.clip(raw, -HUGE, HUGE)


def _times(recipe: Recipe, first: int, end: int) -> Seconds:
    return np.arange(first, end, dtype=np.int64) * recipe.step_seconds + recipe.offset_seconds


# -- applying -----------------------------------------------------------------------


def _apply_channel(
    recipe: Recipe, channel: ChannelRecipe, points: Points, number: int, first: int, n: int
) -> tuple[Values, Values, Values, Values]:
    """Return raw, scaled, baseline and spread of ``n`` steps of one channel, each of shape ``(n,)``."""
    if not n:
        return (np.zeros(0),) * 4
    before = first
    if channel.level_blocks:
        before = (first // recipe.block_steps - channel.level_blocks) * recipe.block_steps
    here = slice(first - before, None)
    raw = _regular(points, recipe, before, first + n)
    ts = _times(recipe, before, first + n)
    moved = transformed(channel, raw, dither(ts, number)) - steady.line(channel, ts)
    usual, spread = _usual(recipe, channel, ts, here)
    level: Values | float = channel.center
    if channel.level_blocks:
        followed = _level(moved - usual, before, recipe.block_steps, channel.level_blocks)[here]
        level = np.where(np.isnan(followed), channel.center, followed)
    baseline = usual[here] + level
    with np.errstate(over="ignore"):  # what overflows is clipped like any other huge value
        scaled = np.clip((moved[here] - baseline) / spread, -LIMIT, LIMIT)
    baseline = baseline + steady.line(channel, ts[here])
    return raw[here], np.where(np.isnan(scaled), 0.0, scaled), baseline, spread


def _usual(recipe: Recipe, channel: ChannelRecipe, ts: Seconds, here: slice) -> tuple[Values, Values]:
    """Return the season of all moments, and the spread of those in ``here``."""
    usual, spread = np.zeros(len(ts)), np.full(len(ts[here]), channel.scale)
    kinds = {channel.season, channel.spread_season} - {"none"}
    if not kinds:
        return usual, spread
    local = seasons.utc_offsets(recipe.timezone, ts)
    for kind in kinds:
        _, at = seasons.phases(ts, local, seasons.PERIODS[kind], recipe.step_seconds)
        if channel.season == kind:
            usual = channel.profile_values[at] * channel.scale
        if channel.spread_season == kind:
            spread = channel.spread_values[at[here]] * channel.scale
    return usual, spread


def _level(rest: Values, first: int, block_steps: int, n_blocks: int) -> Values:
    """Return the median of the ``n_blocks`` completed blocks before each step; NaN where too few.

    Args:
        rest: values with the season removed; step 0 has grid index ``first``.
    """
    lead = first % block_steps
    n = -(-(lead + len(rest)) // block_steps)
    padded = np.full(n * block_steps, np.nan)
    padded[lead : lead + len(rest)] = rest
    blocks = padded.reshape(n, block_steps)
    seen = np.count_nonzero(~np.isnan(blocks), axis=1)
    medians = np.where(4 * seen >= block_steps, median(blocks), np.nan)
    trailing = np.concatenate([np.full(n_blocks, np.nan), medians[:-1]])
    windows = np.lib.stride_tricks.sliding_window_view(trailing, n_blocks)
    enough = np.count_nonzero(~np.isnan(windows), axis=1) >= LEVEL_MIN_BLOCKS
    levels = np.where(enough, median(windows), np.nan)
    return np.repeat(levels, block_steps)[lead : lead + len(rest)]


# -- learning a channel -------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """One channel on its grid, transformed: what everything is learned from."""

    number: int
    first: int
    raw: Values
    moved: Values
    clock: Clock
    shape: ChannelRecipe

    @property
    def seconds(self) -> int:
        return len(self.raw) * self.clock.step_seconds

    @property
    def usual_flat(self) -> int:
        """The most steps in a row with one value, in the usual week."""
        return _usual_flat(self.raw, self.clock.week)

    @property
    def smallest_scale(self) -> float:
        return smallest_scale(self.raw, self.shape)

    def rhythm(self, channel: ChannelRecipe) -> tuple[Values, Values]:
        """Return what a recipe's season adds at every step, and its factor of the spread, in its scales."""
        usual, factor = np.zeros(len(self.raw)), np.ones(len(self.raw))
        if channel.season != "none":
            usual = self.clock.at(channel.profile_values, channel.season)
        if channel.spread_season != "none":
            factor = self.clock.at(channel.spread_values, channel.spread_season)
        return usual, factor


def _course(points: Points, bare: Recipe, number: int, shape: ChannelRecipe | None = None) -> Course | None:
    """Return the course from the first to the last finite point; None where there is none."""
    step, shift = bare.step_seconds, bare.points_from(0)
    finite = np.isfinite(points.value)
    if not finite.any():
        return None
    first, last = (int(points.ts[at] - shift) // step for at in np.flatnonzero(finite)[[0, -1]])
    raw = _regular(points, bare, first, last + 1)
    ts = _times(bare, first, last + 1)
    shape = shape or learn_transform(raw)
    moved = transformed(shape, raw, dither(ts, number)) - steady.line(shape, ts)
    return Course(number, first, raw, moved, Clock.of(ts, bare.timezone, step), shape)


def _learn_channel(points: Points, bare: Recipe, wanted: str, number: int, *, follow: bool) -> ChannelRecipe:
    course = _course(points, bare, number)
    if course is None:
        return ChannelRecipe()
    course = _without_steady_trend(course, bare)
    detrended = course.moved - _trend(course.moved, bare.step_seconds)
    kind, usual = seasons.choose(detrended, course.clock, course.seconds, wanted)
    spread_kind = seasons.spread_kind(course.seconds, bare.step_seconds, kind, wanted)
    shape = replace(
        course.shape,
        season=kind,
        spread_season=spread_kind,
        usual_flat=course.usual_flat,
        kinds=min(len(np.unique(course.raw[~np.isnan(course.raw)])), 3),
    )
    return _scaled(course, shape, usual, bare, np.zeros(len(course.raw), dtype=bool), follow=follow)


def _without_steady_trend(course: Course, bare: Recipe) -> Course:
    """Return the course without a trend that only goes on: what is odd about it is that it stops."""
    ts = _times(bare, course.first, course.first + len(course.raw))
    # Without dither: a slope that is off by a part of it in a week is off by far more in a year.
    shape = steady.learn(course.shape, transformed(course.shape, course.raw, NO_DITHER), ts)
    return replace(course, moved=course.moved - steady.line(shape, ts), shape=shape)


def _scaled(
    course: Course,
    shape: ChannelRecipe,
    usual: Values,
    bare: Recipe,
    hidden: NDArray[np.bool_],
    *,
    follow: bool,
) -> ChannelRecipe:
    """Return the recipe with season, level and scale learned from the steps that are not hidden."""
    rest = course.moved - (course.clock.at(usual, shape.season) if shape.season != "none" else 0.0)
    center = float(np.nanmedian(rest[~hidden]))
    blocks, rest = _follow(rest - center, course.first, bare) if follow else (0, rest - center)
    rest = np.where(hidden, np.nan, rest)
    tiny = smallest_scale(course.raw, shape)
    scale = robust_scale(rest, tiny)
    spread = np.zeros(0)
    if shape.spread_season != "none":
        spread = seasons.spread_profile(rest / scale, course.clock, shape.spread_season)
        scale = robust_scale(rest / course.clock.at(spread, shape.spread_season), tiny)
    return replace(
        shape,
        center=center,
        scale=scale,
        profile=packed_profile(usual / scale),
        spread=packed_spread(spread),
        level_blocks=blocks,
    )


def _without_block(
    recipe: Recipe, points: Sequence[Points], prepared: Prepared, hidden: NDArray[np.bool_]
) -> Recipe:
    """Return the recipe as it would be had the hidden steps not been seen: same kinds, other figures."""
    bare = replace(recipe, channels=())
    channels = []
    for number, (series, channel) in enumerate(zip(points, recipe.channels, strict=True)):
        course = _course(series, bare, number, channel)
        if course is None:
            channels.append(channel)
            continue
        low = course.first - prepared.start
        own = hidden[max(low, 0) : low + len(course.raw)]
        own = np.concatenate((np.zeros(len(course.raw) - len(own), dtype=bool), own))
        usual = np.zeros(0)
        if channel.season != "none" and not own.all():
            detrended = course.moved - _trend(course.moved, bare.step_seconds)
            usual = seasons.profile(np.where(own, np.nan, detrended), course.clock, channel.season)
        if not own.all():
            follow = bool(channel.level_blocks)
            channel = _scaled(course, channel, usual, bare, own, follow=follow)
        channels.append(channel)
    return replace(recipe, channels=tuple(channels))


def _trend(values: Values, step_seconds: int) -> Values | float:
    """Return the slow course: over each day, the median of the medians of the seven days around it.

    Seven days hold every weekday once, so a weekend leaves no trace in it, and a median lets a shift
    of level stay sharp. Less than ten days are taken as flat.
    """
    day = max(1, round(DAY / step_seconds))
    n_days = -(-len(values) // day)
    if n_days < 10:
        return 0.0
    padded = np.full(n_days * day, np.nan)
    padded[: len(values)] = values
    days = median(padded.reshape(n_days, day))
    around = median(np.lib.stride_tricks.sliding_window_view(days, 7))
    around = np.pad(around, (3, n_days - len(around) - 3), mode="edge")
    return np.repeat(np.nan_to_num(around, nan=float(np.nanmedian(days))), day)[: len(values)]


def _follow(rest: Values, first: int, recipe: Recipe) -> tuple[int, Values]:
    """Return how many blocks the level follows (0: none) and the residuals it leaves.

    Following is dropped where it makes residuals wider by a twentieth: they were level to begin with,
    and the median of the blocks only adds its own noise.
    """
    step = recipe.step_seconds
    if step > LEVEL_MAX_STEP_SECONDS or len(rest) * step < LEVEL_MIN_HISTORY_SECONDS:
        return 0, rest
    level = _level(rest, first, recipe.block_steps, LEVEL_BLOCKS)
    followed = rest - np.where(np.isnan(level), 0.0, level)
    if robust_scale(followed, 0.0) > 1.05 * robust_scale(rest, 0.0):
        return 0, rest
    return LEVEL_BLOCKS, followed


def robust_scale(rest: Values, smallest: float) -> float:
    """Return the robust spread: from the quartiles, from wider quantiles where those agree."""
    seen = np.sort(rest[~np.isnan(rest)])
    # Distances of quantiles in standard deviations of a normal variable.
    for tail, width in ((0.25, 1.349), (0.05, 3.290), (0.01, 4.653)):
        low, high = seen[int(tail * (len(seen) - 1))], seen[-1 - int(tail * (len(seen) - 1))]
        if high - low > smallest:
            return float(high - low) / width
    return max(smallest, 1e-100)


def smallest_scale(raw: Values, shape: ChannelRecipe) -> float:
    """Return the floor of the scale: below it a spread is rounding, and any change is news."""
    if shape.transform == "identity":
        return max(0.25 * shape.resolution, 1e-9 * float(np.nanmax(np.abs(raw))))
    return 1e-9


def _with_transform(course: Course, transform: str) -> ChannelRecipe:
    """Return the shape of a course under another's transform, else its own."""
    seen = course.raw[~np.isnan(course.raw)]
    if transform == "log" and float(np.median(seen)) > 0:
        return logarithmic(course.shape, seen)
    if transform == "anscombe" and course.shape.counts:
        return replace(course.shape, transform="anscombe")
    return course.shape


def _runs(marked: NDArray[np.bool_]) -> tuple[Seconds, Seconds]:
    """Return where the runs of True start, and their lengths."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]])))
    return edges[::2], edges[1::2] - edges[::2]


def _usual_flat(raw: Values, week: Seconds) -> int:
    """Return the most steps in a row with one value, in the usual week.

    A short history has not seen its longest runs yet: where runs differ, as those of rare events do, it is
    at least the longest that a week is to be expected to hold, by a tail as wide as they are.
    """
    same = raw[1:] == raw[:-1]
    # A run over several weeks is a run in each of them.
    starts, lengths = _runs(same & (week[1:] == week[:-1]))
    longest = np.ones(int(week[-1] - week[0]) + 1, dtype=np.int64)
    np.maximum.at(longest, week[starts] - week[0], lengths + 1)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], ~same, [True]])))
    runs = runs[
        runs <= np.quantile(runs, 0.99, method="higher")
    ]  # a fault of the past says nothing of the rest
    expected = runs.mean() + runs.std() * np.log(max(1.0, len(runs) / len(longest)))
    return int(max(np.median(longest), expected))
