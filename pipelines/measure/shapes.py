"""Incidents that are shapes and not levels, on series of their own: those of ``simulate`` stay as they are.

Every series is ``level * day * ripple * noise``: a course of the day; on half of them a ripple of about an
hour that keeps to no clock, so that no season takes it away; and noise that wanders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

import numpy as np
from scipy.signal import lfilter

from pipelines.errors import InvalidError
from pipelines.measure.demo_report import Incident as Planted
from pipelines.measure.simulate import FIT_AT, START, Incident, Simulation
from pipelines.records import Points, Seconds, SeriesSpec, Values
from pipelines.steps.season import utc_offsets
from pipelines.times import DAY, HOUR, WEEK

METRIC = "matches"
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Seoul", "UTC")
SERIES = 8
RIPPLE = 0.06
"""Of the level: three times the noise of a step."""
ROUGH, WANDER = 0.02, 0.015
"""Standard deviation of the relative noise of a step, and of that which lasts 12 h."""
TWIN = "twin_drop"
TWIN_GAP_STEPS = 60
"""Steps between the two drops: 5 h, more than any policy joins and less than a window of 100 steps."""
TWIN_SECONDS = 30 * 60


@dataclass(frozen=True)
class _Making:
    """What a series is made of, each of shape ``(n,)``: logarithms of day and noise, turns of the ripple.

    Attributes:
        ripple: 0 where the series has none.
    """

    ts: Seconds
    local: Seconds
    level: float
    day: Values
    turns: Values
    ripple: float
    noise: Values

    def value(self) -> Values:
        course = self.day + self.ripple * np.sin(2 * np.pi * self.turns) + self.noise
        return np.round(self.level * np.exp(course), 2)


@dataclass(frozen=True)
class ShapeKind:
    """A disturbance of what a series is made of.

    Attributes:
        seconds: how long it lasts.
        rippled: only on series with a ripple, only on those without, or on any (None).
        overnight: begins at 23:00 local.
        change: a making and the steps it concerns, to one that is changed there and only there.
    """

    name: str
    seconds: int
    rippled: bool | None
    overnight: bool
    change: Callable[[_Making, slice], _Making]


def _rhythm_doubles(making: _Making, own: slice) -> _Making:
    """Let the ripple run twice as fast, from where it is; after it, it is where it would have been."""
    turns = making.turns.copy()
    turns[own] += turns[own] - turns[own.start]
    return _with(making, turns=turns)


def _night_without_dip(making: _Making, own: slice) -> _Making:
    """Let the day's course go straight from where the night begins to where it ends."""
    day = making.day.copy()
    day[own] = np.linspace(day[own.start], day[own.stop - 1], own.stop - own.start)
    return _with(making, day=day)


def _noise_halves(making: _Making, own: slice) -> _Making:
    noise = making.noise.copy()
    noise[own] *= 0.5
    return _with(making, noise=noise)


def _twin_drop(making: _Making, own: slice) -> _Making:
    day = making.day.copy()
    day[own] += np.log(0.5)
    return _with(making, day=day)


def _with(making: _Making, **parts: Values) -> _Making:
    return _Making(**{**vars(making), **parts})


KINDS = (
    ShapeKind("rhythm_doubles", 8 * HOUR, True, False, _rhythm_doubles),
    ShapeKind("noise_halves", 24 * HOUR, False, False, _noise_halves),
    ShapeKind("night_without_dip", 10 * HOUR, None, True, _night_without_dip),
    ShapeKind(TWIN, TWIN_SECONDS, None, False, _twin_drop),
)


# -- public -------------------------------------------------------------------------


def shapes(
    seed: int = 0,
    *,
    weeks: int = 8,
    start: datetime = START,
    step_seconds: int = 300,
) -> Simulation:
    """Return seeded series with four incidents of every kind, half of them in the last week.

    Every series has one of them before the last week and one in it; ``twin_drop`` is two of its kind, with
    ``TWIN_GAP_STEPS`` normal steps between them.

    Args:
        weeks: how long, at least four.
        start: aware, on a whole step.

    Raises:
        InvalidError: too short.
        ValueError: a naive start.
    """
    if weeks < 4:
        raise InvalidError(f"expected at least 4 weeks, got {weeks}: incidents need room around the last fit")
    if start.tzinfo is None:
        raise ValueError(f"start must be aware, got {start}; add tzinfo=UTC")
    first = int(start.timestamp()) // step_seconds * step_seconds
    stop = first + weeks * WEEK
    fit = stop - WEEK + FIT_AT
    ts = np.arange(first, stop, step_seconds, dtype=np.int64)
    specs = [_spec(n, step_seconds) for n in range(SERIES)]
    calm = [_making(spec, n, ts, np.random.default_rng([seed, 10, n])) for n, spec in enumerate(specs)]
    spans = (first + 3 * WEEK, fit - DAY), (fit + 2 * HOUR, stop - 3 * HOUR)
    rng = np.random.default_rng([seed, 11])
    incidents, made = [], list(calm)
    for span in spans:
        for number, kind in _assigned(rng):
            for begin in _begins(kind, calm[number], span, step_seconds, rng):
                end = begin + kind.seconds - step_seconds
                incidents.append(Incident(number, METRIC, dict(specs[number].labels), begin, end, kind.name))
                a, b = np.searchsorted(ts, [begin, end + 1])
                made[number] = kind.change(made[number], slice(int(a), int(b)))
    return Simulation(
        seed,
        first,
        stop,
        fit,
        tuple(specs),
        tuple(Points(ts, making.value()) for making in made),
        tuple(Points(ts, making.value()) for making in calm),
        tuple(sorted(incidents, key=lambda incident: (incident.start, incident.series))),
        {},
        {},
    )


Twin = TypeVar("Twin", Incident, Planted)


def twins(incidents: Sequence[Twin]) -> list[tuple[Twin, Twin]]:
    """Return the twin drops among incidents, two and two: as they are simulated, or as a report has them."""
    of = sorted((i for i in incidents if i.kind == TWIN), key=lambda i: (i.series, i.start))
    return [
        (one, other)
        for one, other in pairwise(of)
        if one.series == other.series and other.start - one.end < DAY
    ]


# -- inside -------------------------------------------------------------------------


def _spec(number: int, step_seconds: int) -> SeriesSpec:
    zone = ZONES[number % len(ZONES)]
    mode = "duel" if _is_rippled(number) else "league"
    return SeriesSpec(METRIC, {"mode": mode, "zone": zone}, step_seconds, timezone=zone)


def _is_rippled(number: int) -> bool:
    return number >= SERIES // 2


def _making(spec: SeriesSpec, number: int, ts: Seconds, rng: np.random.Generator) -> _Making:
    local = ts + utc_offsets(spec.timezone, ts)
    hour = local % DAY / HOUR
    peak = 16 + rng.uniform(-1, 1)
    turn = 2 * np.pi * (hour - peak) / 24
    day = rng.uniform(0.3, 0.45) * np.cos(turn) + rng.uniform(0.05, 0.1) * np.cos(2 * turn + 0.6)
    period = HOUR * rng.uniform(1.05, 1.25)
    keep = np.exp(-spec.step_seconds / (12 * HOUR))
    shocks = rng.normal(0, WANDER * np.sqrt(1 - keep**2), len(ts))
    shocks[0] = rng.normal(0, WANDER)
    noise = lfilter([1.0], [1.0, -keep], shocks) + rng.normal(0, ROUGH, len(ts))
    return _Making(
        ts=ts,
        local=local,
        level=float(np.exp(rng.uniform(5, 8))),
        day=day,
        turns=(ts - ts[0]) / period + rng.uniform(0, 1),
        ripple=RIPPLE if _is_rippled(number) else 0.0,
        noise=noise,
    )


def _assigned(rng: np.random.Generator) -> Iterator[tuple[int, ShapeKind]]:
    """Yield a kind for every series: two of each; of those for any, one on a series with a ripple."""
    rippled, smooth, anywhere = (
        [kind for kind in KINDS if kind.rippled is which] for which in (True, False, None)
    )
    half = SERIES // 2
    for begin, own in ((0, smooth), (half, rippled)):
        kinds = [*own * (half - len(anywhere)), *anywhere]
        yield from zip((begin + rng.permutation(half)).tolist(), kinds, strict=True)


def _begins(
    kind: ShapeKind, making: _Making, span: tuple[int, int], step: int, rng: np.random.Generator
) -> list[int]:
    """Return when a kind begins on a series: once, or of twins twice."""
    twice = TWIN_SECONDS + TWIN_GAP_STEPS * step
    lasts = kind.seconds + (twice if kind.name == TWIN else 0)
    within = (making.ts >= span[0]) & (making.ts + lasts <= span[1])
    if kind.overnight:
        within &= making.local % DAY == 23 * HOUR
    begin = int(rng.choice(making.ts[within]))
    return [begin, begin + twice] if kind.name == TWIN else [begin]
