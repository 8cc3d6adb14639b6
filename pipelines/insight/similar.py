"""What looks like a flagged interval: the nearest windows of its series, the nearest events of its monitor.

Both distances are told in what is usual: 0 is a copy, 1 is as far as any two are apart. Arrays in,
neighbours out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.base import Encodes
from detectors.pieces import Progress
from detectors.windows import Windows
from pipelines.errors import TooCommonError
from pipelines.names import Verdict
from pipelines.records import Interval, Json, Values
from pipelines.steps.reconcile import FAMILY
from pipelines.times import WEEK
from pipelines.workers import bank

HISTORY_SECONDS = 26 * WEEK
"""Windows further back are not looked at: half a year of five minutes takes seconds to encode."""

EQUAL, CROWD = 0.1, 0.1
"""Where more than this share of all windows is as good as equal to one, its latent does not tell it apart."""

BEFORE, DURING = 8, 24
"""Steps of a shape before its core and in it: 32 in all, so that the core always starts at the same."""
LEAD_STEPS = 4
"""A shape begins half the length of its core before it, and at least so many steps."""

DIGITS = 4
"""Decimals of a stored course, whose highest step is 1."""

COMPONENTS = 8
"""Principal coordinates of the shapes at most; together they weigh as much as any other feature."""

ASKED = 5
"""At most so many reviewed events are asked whether they agree."""
NEAR = 0.75
"""Windows further away than this do not look alike, and reviewed events have no say: 1 is usual."""


@dataclass(frozen=True)
class Neighbour:
    """One of those compared: its place among them, and its distance in what is usual."""

    at: int
    distance: float


# -- windows of one series ----------------------------------------------------------


def latents(model: Encodes, windows: Windows, on_progress: Progress) -> Values:
    """Return the latents of the windows of one target, shape ``(n_windows, latent)``."""
    pieces = []
    with torch.no_grad():
        for first, stop in bank.spans(0, windows.n_windows, 1, windows.window * windows.n_channels):
            pieces.append(model.encode(windows.span(first, stop))[0])
            on_progress(stop / windows.n_windows)
    return torch.cat(pieces).numpy().astype(np.float64)


def nearest_windows(
    latent: Values, wanted: Values, past: NDArray[np.bool_], apart: int, n: int
) -> list[Neighbour]:
    """Return the past windows that look like one, no two of them less than ``apart`` starts apart.

    The distance is Euclidean in the whitened latent, divided by the median over all past windows.

    Args:
        latent: shape ``(n_windows, latent)``, one row per start.
        wanted: shape ``(latent,)``.
        past: shape ``(n_windows,)``, which windows may be returned.
        n: at most so many.

    Returns:
        The nearest first, of equals the newest.

    Raises:
        TooCommonError: the latent does not tell the window from a large share of all others.
    """
    white, own = _whitened(latent, wanted, past)
    away = np.linalg.norm(white - own, axis=1)
    away /= float(np.median(away[past])) or 1.0
    share = float(np.mean(away[past] < EQUAL))
    if share > CROWD:
        raise TooCommonError(f"{share:.0%} of all windows are as good as equal to it")
    newest_first = np.flatnonzero(past & (away < NEAR))[::-1]
    free = np.ones(len(past), dtype=bool)
    found: list[Neighbour] = []
    for at in newest_first[np.argsort(away[newest_first], kind="stable")].tolist():
        if len(found) < n and free[at]:
            found.append(Neighbour(at, float(away[at])))
            free[max(0, at - apart + 1) : at + apart] = False
    return found


def _whitened(latent: Values, wanted: Values, past: NDArray[np.bool_]) -> tuple[Values, Values]:
    """Return latents in which usual past windows have variance 1 in every direction.

    Variances are those of values clipped to three spreads: past incidents are what is looked for, not
    what a window is measured by. Directions in which nothing varies are left out.
    """
    spread = np.array([_spread(column) for column in latent[past].T])
    varies = spread > 0
    middle, spread = np.median(latent[past], axis=0)[varies], spread[varies]
    scaled, own = (latent[:, varies] - middle) / spread, (wanted[varies] - middle) / spread
    clipped = np.clip(scaled[past], -3, 3)
    variance, axes = np.linalg.eigh(clipped.T @ clipped / len(clipped))
    kept = variance > 1e-9 * variance.max(initial=0.0)
    turn = axes[:, kept] / np.sqrt(variance[kept])
    return scaled @ turn, own @ turn


def _spread(values: Values) -> float:
    """Return a spread by the quartiles; where half of the values are one, the standard deviation."""
    low, high = np.quantile(values, (0.25, 0.75))
    spread = float(high - low) / 1.349
    if spread <= _rounding(values):
        spread = float(values.std())
    return spread if spread > _rounding(values) else 0.0


def _rounding(values: Values) -> float:
    """Return below which differences of such values are rounding."""
    return 1e-9 * float(np.abs(values).max())


# -- events of one monitor ----------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """The course of an event around its core: from the first to the last step half as high as the highest.

    The borders of an event depend on window and line of the model that flagged it, its core does not.

    Attributes:
        course: shape ``(32,)``, the highest step of the core 1 or -1.
        n_steps: steps of the core.
    """

    course: Values
    n_steps: int

    def to_json(self) -> Json:
        """Return the shape as it is stored; a course that came from there comes back as it was."""
        return {"course": [round(each, DIGITS) for each in self.course.tolist()], "n_steps": self.n_steps}

    @classmethod
    def from_json(cls, values: Json) -> Shape:
        """Return the shape that ``to_json`` wrote."""
        return cls(np.array(values["course"]), values["n_steps"])


@dataclass(frozen=True)
class Portrait:
    """One event as it is compared; ``shape`` is None where its points are not known."""

    interval: Interval
    step_seconds: int
    shape: Shape | None = None


def lead_steps(n_steps: int) -> int:
    """Return how many steps before an event of ``n_steps`` belong to its shape."""
    return max(LEAD_STEPS, n_steps // 2)


def shape_of(values: NDArray[np.floating], missing: NDArray[np.bool_], lead: int) -> Shape | None:
    """Return the shape of an event; None where half of it is missing or it never leaves its baseline.

    What comes after the event is no part of it: of one that still goes on it is not known.

    Args:
        values: shape ``(n, n_channels)``, prepared: season and level removed, 0 where missing. Of
            several channels the one that deviates most counts.
        missing: same shape.
        lead: the first so many steps lie before the event, of ``lead_steps``.
    """
    if len(values) <= lead or missing[lead:].all(axis=1).mean() > 0.5:
        return None
    channel = int(np.abs(values[lead:]).max(axis=0).argmax())
    course = _filled(values[:, channel].astype(np.float64), missing[:, channel])
    high = np.abs(course[lead:])
    if not high.any():
        return None
    core = lead + np.flatnonzero(high >= high.max() / 2)
    start, stop = int(core[0]), int(core[-1]) + 1
    before = course[start - lead_steps(stop - start) : start]
    binned = np.concatenate((_binned(before, BEFORE), _binned(course[start:stop], DURING)))
    return Shape(np.clip(binned / np.abs(binned[BEFORE:]).max(), -1.0, 1.0), stop - start)


def _filled(course: Values, missing: NDArray[np.bool_]) -> Values:
    """Return a course with missing steps on the line between their neighbours."""
    at = np.arange(len(course))
    return np.interp(at, at[~missing], course[~missing])


def _binned(course: Values, n: int) -> Values:
    """Return the means over ``n`` equal parts of a course, whether it has more steps or fewer."""
    edges = np.linspace(0, len(course), n + 1)
    total = np.concatenate(([0.0], np.cumsum(course)))
    return np.diff(np.interp(edges, np.arange(len(course) + 1), total)) * (n / len(course))


def nearest_events(portraits: Sequence[Portrait]) -> list[Neighbour]:
    """Return the events of the first one's family by their distance to it, the nearest first.

    The distance is the root of the mean squared difference over the features that both have, divided
    by its median over all pairs of whatever family: few flatlines say little of what is usual. Of equals
    the newest comes first. A gap has no values to hold against those of a spike, so families are not mixed.
    """
    values, weight = features(portraits)
    away = _distances(values, weight)
    pairs = away[np.triu_indices(len(away), 1)]
    usual = float(np.median(pairs[pairs > 0])) if (pairs > 0).any() else 1.0
    alike = [at for at in range(1, len(portraits)) if _family(portraits[at]) == _family(portraits[0])]
    alike.sort(key=lambda at: (away[0, at], -portraits[at].interval.start))
    return [Neighbour(at, float(away[0, at]) / usual) for at in alike]


def nearest_among(wanted: Sequence[Portrait], others: Sequence[Portrait], each: int) -> list[int]:
    """Return which of the others are among the nearest to any of those wanted, ascending.

    Args:
        wanted, others: of one family.
        each: so many of every one of those wanted.
    """
    if not wanted or len(others) <= each:
        return list(range(len(others)))
    away = _distances(*features([*wanted, *others]))[: len(wanted), len(wanted) :]
    away = np.nan_to_num(away, nan=np.inf)
    return sorted({int(at) for at in np.argpartition(away, each - 1, axis=1)[:, :each].ravel()})


def _family(portrait: Portrait) -> str:
    return FAMILY[portrait.interval.kind]


def _distances(values: Values, weight: Values) -> Values:
    """Return the distances of all pairs, shape ``(n, n)``, from features ``(n, k)``, NaN where not known."""
    total, weights = np.zeros((2, len(values), len(values)))
    for column, each in zip(values.T, weight, strict=True):
        squared = each * (column[:, None] - column) ** 2
        known = ~np.isnan(squared)
        total[known] += squared[known]
        weights[known] += each
    return np.asarray(np.sqrt(total / weights))


def features(portraits: Sequence[Portrait]) -> tuple[Values, Values]:
    """Return features of shape ``(n, k)`` that depend on no model's weights, and their weights ``(k,)``.

    Direction, duration, height, how even the scores are, the share by which the value was off, how far the
    core rises in all and at once, and principal coordinates of the shape, pooled over the events. All but
    direction and shape are standardised over these events, robustly. The parts of a score are not stored,
    so that the height is that of the whole.
    """
    own = np.array([_own(portrait) for portrait in portraits])
    standard = np.stack([_standardised(column) for column in own.T], axis=1)
    # The two signs lie two spreads apart, however rare one of them is.
    direction = np.array([[_sign(portrait.interval)] for portrait in portraits])
    shape = _coordinates([None if each.shape is None else each.shape.course for each in portraits])
    weight = np.concatenate((np.ones(1 + own.shape[1]), np.full(shape.shape[1], 1 / max(1, shape.shape[1]))))
    return np.concatenate((direction, standard, shape), axis=1), weight


def _sign(interval: Interval) -> float:
    return {"above_expected": 1.0, "below_expected": -1.0}.get(interval.direction, 0.0)


def _own(portrait: Portrait) -> list[float]:
    found = portrait.interval
    peak = max(found.peak_score, 1e-6)
    return [
        float(np.log(_seconds(portrait))),
        float(np.log(peak)),
        found.mean_score / peak,
        _share_off(found.y_at_peak, found.yhat_at_peak),
        *_slopes(portrait.shape),
    ]


def _share_off(y: float | None, yhat: float | None) -> float:
    """Return by which share of the larger of them y is off; NaN where one is not known."""
    if y is None or yhat is None:
        return np.nan
    largest = max(abs(y), abs(yhat))
    return float(np.clip((y - yhat) / largest, -1.0, 1.0)) if largest > 0 else 0.0


def _seconds(portrait: Portrait) -> int:
    """Return how long an event's core lasts; of one without a shape, the event."""
    found = portrait.interval
    if portrait.shape is None:
        return found.end - found.start + portrait.step_seconds
    return portrait.shape.n_steps * portrait.step_seconds


def _slopes(shape: Shape | None) -> list[float]:
    """Return how far a core rises in all, by least squares, and the largest jump into or in it."""
    if shape is None:
        return [np.nan, np.nan]
    core, at = shape.course[BEFORE:], np.linspace(-0.5, 0.5, DURING)
    return [float(core @ at / (at @ at)), float(np.abs(np.diff(shape.course[BEFORE - 2 :])).max())]


def _standardised(column: Values) -> Values:
    """Return a column about its median in mean absolute deviations, NaN where it is; 0 where nothing varies.

    Quartiles would not do: where most events are blips of one step, they call every other one extreme.
    """
    known = column[~np.isnan(column)]
    if not len(known):
        return column
    off = column - np.median(known)
    # 1.2533 makes it the standard deviation of a normal variable.
    spread = 1.2533 * float(np.abs(known - np.median(known)).mean())
    return off / spread if spread > _rounding(known) else off * 0.0


def _coordinates(shapes: Sequence[Values | None]) -> Values:
    """Return principal coordinates of shapes, ``(n, k)``; NaN where there is none.

    They are scaled together, so that their squares are 1 in the mean: a coordinate that hardly varies is
    noise and stays small.
    """
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return np.zeros((len(shapes), 0))
    centred = np.stack(known) - np.mean(known, axis=0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    k = min(COMPONENTS, int(np.count_nonzero(size > 1e-9)))
    coordinates = centred @ axes[:k].T
    out = np.full((len(shapes), k), np.nan)
    norm = float(np.sqrt((coordinates**2).mean())) if k else 1.0
    out[[shape is not None for shape in shapes]] = coordinates / norm
    return out


# -- what people said of them -------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """A reviewed event among the neighbours."""

    event_id: int
    distance: float
    verdict: str
    cause: str


def agreement(judged: Sequence[Judged]) -> str:
    """Return in a sentence what most of the nearest reviewed events turned out to be; empty where none do.

    >>> near = [Judged(7, 0.2, "expected", "maintenance"), Judged(4, 0.3, "expected", "maintenance")]
    >>> agreement(near)
    'Both nearest reviewed events were expected: maintenance (events 7, 4).'
    """
    sure = [each for each in judged if each.verdict != Verdict.UNSURE and each.distance < NEAR]
    asked = sorted(sure, key=lambda each: each.distance)[:ASKED]
    for verdict, count in Counter(each.verdict for each in asked).most_common(1):
        if 2 * count > len(asked):
            alike = [each for each in asked if each.verdict == verdict]
            return f"{_of(count, len(asked))} {verdict.replace('_', ' ')}{_cause(alike)} ({_ids(alike)})."
    return ""


def _of(count: int, asked: int) -> str:
    if asked == 1:
        return "The one near event that was reviewed was"
    if count < asked:
        return f"{count} of the {asked} nearest reviewed events were"
    return f"{'Both' if asked == 2 else f'All {asked}'} nearest reviewed events were"


def _cause(alike: Sequence[Judged]) -> str:
    """Return the cause that more than half of them share."""
    for cause, count in Counter(each.cause for each in alike).most_common(1):
        if cause and 2 * count > len(alike):
            return f": {cause}"
    return ""


def _ids(alike: Sequence[Judged]) -> str:
    return f"event{'s' if len(alike) > 1 else ''} {', '.join(str(each.event_id) for each in alike)}"
