"""What prepare knows of a series that has hardly any history: what it has, and what is usual in its group.

A season takes days to be seen and a spread hundreds of steps. A newcomer takes the rhythm of its group,
in units of its own spread; that spread, and where it is centred, are learned from the little there is,
the more so the more there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from pipelines.records import Points, Values
from pipelines.steps import prepare
from pipelines.steps.recipe import ChannelRecipe, Recipe, packed_profile, packed_spread

T = TypeVar("T")

OWN_DOUBT = 6.0
"""Variance of the log of a spread learned from n steps, times n: 1.35 for independent normal steps (from
quartiles), more for those of telemetry, which resemble their neighbours."""

GROUP_DOUBT = 1.0
"""Variance of the log of the spreads of a group of which one member is known: a factor of e."""

ANOTHER_SIZE = 3.0
"""Standard deviations from which on a newcomer is of another size than its group, and taken at its word."""

LEARNED_SECONDS = 7 * 86_400
"""From a week on a series has shown its own rhythm."""


@dataclass(frozen=True)
class Usual:
    """What is usual of one channel of a group's members.

    Attributes:
        recipe: the commonest transform and kinds of season, and the median of everything else.
        doubt: variance of the log of the members' scales, shrunk towards ``GROUP_DOUBT``.
    """

    recipe: ChannelRecipe
    doubt: float

    @classmethod
    def of(cls, members: Sequence[ChannelRecipe]) -> Usual:
        """Return what the channels of at least one member, all of one step, have in common."""
        transform = _commonest([m.transform for m in members])
        alike = [m for m in members if m.transform == transform]
        season, spread = (_commonest([getattr(m, k) for m in alike]) for k in ("season", "spread_season"))
        logs = np.log([m.scale for m in alike])
        recipe = ChannelRecipe(
            resolution=float(np.median([m.resolution for m in alike])),
            transform=transform,
            floor=float(np.median([m.floor for m in alike])),
            center=float(np.median([m.center for m in alike])),
            scale=float(np.exp(np.median(logs))),
            season=season,
            profile=packed_profile(
                _middle([m.profile_values for m in alike if m.season == season != "none"])
            ),
            spread_season=spread,
            spread=packed_spread(
                _middle([m.spread_values for m in alike if m.spread_season == spread != "none"])
            ),
            level_blocks=_commonest([m.level_blocks for m in alike]),
            usual_flat=int(np.median([m.usual_flat for m in members])),
        )
        squares = float(((logs - np.median(logs)) ** 2).sum())
        return cls(recipe, (GROUP_DOUBT + squares) / len(alike))

    def without_rhythm(self) -> Usual:
        """Return what is usual where the season counts as noise: wider by all that it moves."""
        own = self.recipe
        profile = own.profile_values if own.season != "none" else np.zeros(1)
        wider = _shown(profile, np.ones(len(profile)))
        plain = replace(
            own,
            scale=own.scale * wider,
            season="none",
            profile=packed_profile(np.zeros(0)),
            spread_season="none",
            spread=packed_spread(np.zeros(0)),
        )
        return replace(self, recipe=plain)


def _middle(profiles: Sequence[Values]) -> Values:
    """Return the median of profiles, bin by bin; empty where there is none."""
    return np.median(profiles, axis=0) if profiles else np.zeros(0)


def _commonest(values: Sequence[T]) -> T:
    """Return the most frequent value; of several the one that comes first."""
    return Counter(values).most_common(1)[0][0]


def learn(
    points: Sequence[Points],
    usual: Sequence[Usual],
    *,
    step_seconds: int,
    timezone: str,
    season: str,
    start: int,
    stop: int,
    grid: int | None = None,
) -> Recipe:
    """Return the recipe of a target with few points in ``start <= ts < stop``, even none.

    One with a week of points or more is learned as if there were no group.

    Args:
        points: one per channel.
        usual: of each channel's group.
        step_seconds, timezone, season, grid: as in ``prepare.learn``.
    """
    bare, courses = prepare.courses(
        points,
        [each.recipe.transform for each in usual],
        step_seconds=step_seconds,
        timezone=timezone,
        start=start,
        stop=stop,
        grid=grid,
    )
    if all(course is not None and _seen_seconds(course) >= LEARNED_SECONDS for course in courses):
        return prepare.learn(
            points,
            step_seconds=step_seconds,
            timezone=timezone,
            season=season,
            start=start,
            stop=stop,
            grid=grid,
        )
    channels = tuple(
        each.recipe if course is None else _channel(course, each)
        for course, each in zip(courses, usual, strict=True)
    )
    return replace(bare, channels=channels)


def _seen_seconds(course: prepare.Course) -> int:
    return int(np.count_nonzero(~np.isnan(course.moved))) * course.clock.step_seconds


def _channel(course: prepare.Course, usual: Usual) -> ChannelRecipe:
    """Return the recipe of one channel: with its group's rhythm, unless that leaves it more restless."""
    found = _sized(course, usual)
    rest = course.moved - found.scale * course.rhythm(found)[0]
    if prepare.robust_scale(rest, 0.0) <= prepare.robust_scale(course.moved, 0.0):
        return found
    return _sized(course, usual.without_rhythm())


def _sized(course: prepare.Course, usual: Usual) -> ChannelRecipe:
    """Return what is usual, moved and scaled to the course."""
    profile, factor = course.rhythm(usual.recipe)
    seen = ~np.isnan(course.moved)
    n = int(np.count_nonzero(seen))
    own = prepare.robust_scale(course.moved, 0.0) / _shown(profile[seen], factor[seen])
    scale = _shrunk(own, n, usual) if own > course.smallest_scale else usual.recipe.scale
    return replace(
        usual.recipe,
        resolution=course.shape.resolution,
        counts=course.shape.counts,
        transform=course.shape.transform,
        floor=course.shape.floor,
        center=float(np.nanmedian(course.moved - scale * profile)),
        scale=max(scale, course.smallest_scale),
        usual_flat=max(usual.recipe.usual_flat, course.usual_flat),
    )


_NORMAL = np.array([-1.645, -1.036, -0.674, -0.385, -0.126, 0.126, 0.385, 0.674, 1.036, 1.645])
"""Quantiles of a normal variable at .05, .15, .25, .35, .45 and their mirror images."""


def _shown(profile: Values, factor: Values) -> float:
    """Return the spread that a member would have shown at some steps, in units of its scale."""
    # A grid of normal quantiles stands in for the noise.
    return prepare.robust_scale((profile[:, None] + factor[:, None] * _NORMAL).ravel(), 0.0)


def _shrunk(own: float, n: int, usual: Usual) -> float:
    """Return a spread between the one learned from n steps and the group's, each weighed by its doubt.

    Only a small one is doubted: that few neighbouring steps lie closer together than those to come is
    usual, and a spread too small raises alarm after alarm.
    """
    doubt = OWN_DOUBT / n
    gap = float(np.log(own / usual.recipe.scale))
    if gap > 0 or gap**2 > ANOTHER_SIZE**2 * (doubt + usual.doubt):
        return own
    return float(usual.recipe.scale * np.exp(gap * usual.doubt / (doubt + usual.doubt)))
