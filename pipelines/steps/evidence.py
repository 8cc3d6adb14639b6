"""What became of a calibration: how often new scores reached it, and how many alarms they realised.

A calibration is learned from blocks inside the training span; what it promises is tested by the scores
that come after. Two things are counted, day by day, and fade with a time constant of four weeks: per
target, how often its surprises *reached* a few levels of the body (``Seen``), which corrects the map
from score to surprise; per monitor, how many alarms every surprise would have *realised*
(``Realised``), which corrects where the line is drawn. Both are shrunk towards what was learned at the
fit, so little evidence changes little.

Departures: the prior's weights below were chosen on simulated series (stationary, autocorrelated,
drifting), not derived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipelines.records import Json, Values

FADE_DAYS = 28.0
"""Time constant of forgetting: long enough to count a month of alarms, short enough to follow a drift."""

SHARES = np.array([0.5, 0.3, 0.16, 0.09, 0.05, 0.025])
"""Shares of normal steps at or above the levels of the body that are watched."""

LEVELS = -np.log10(SHARES)
"""The same as surprises."""

PRIOR_SAMPLES = 10.0
"""Independent samples that the fit's own word weighs against new ones."""

TRUST = 0.6
"""Share of a body's deviation that is believed: beyond the levels watched it is only an extrapolation."""

SAMPLE_WINDOWS = 2.0
"""Windows per independent sample: scores of overlapping windows repeat each other."""

GRID = np.round(np.arange(0.4, 8.01, 0.1), 1)
"""Surprises at which alarms are counted."""

PRIOR_ALARMS = 8.0
"""Alarms that the fit's own curve weighs: a few incidents move the line a little, a drift moves it far."""


@dataclass(frozen=True)
class Seen:
    """How often one target's scores reached the levels of its body.

    Attributes:
        samples: independent samples, faded.
        reached: of those, the ones at or above each of ``LEVELS``.
    """

    samples: float
    reached: tuple[float, ...]

    @classmethod
    def none(cls) -> Seen:
        return cls(0.0, (0.0,) * len(LEVELS))

    @classmethod
    def of(cls, surprise: Values, window: int) -> Seen:
        """Count the surprises of a stretch of steps, NaN for none, under the body as it was fitted."""
        known = np.sort(surprise[~np.isnan(surprise)])
        above = len(known) - np.searchsorted(known, LEVELS, side="left")
        steps = SAMPLE_WINDOWS * window
        return cls(len(known) / steps, tuple((above / steps).tolist()))

    @classmethod
    def from_json(cls, values: Json) -> Seen:
        """Return what ``to_json`` wrote."""
        return cls(values["samples"], tuple(values["reached"]))

    def to_json(self) -> Json:
        return {"samples": self.samples, "reached": list(self.reached)}

    @cached_property
    def reached_values(self) -> Values:
        return np.array(self.reached)

    def then(self, later: Seen, days: float) -> Seen:
        """Return this, faded by so many days, and what was seen in them."""
        kept = fading(days)
        reached = kept * self.reached_values + later.reached_values
        return Seen(_short(kept * self.samples + later.samples), _all_short(reached))

    def corrected(self, surprise: Values) -> Values:
        """Return surprises as they are in the light of this: larger where levels were reached too rarely.

        Strictly rising with the surprise given; beyond the highest level a shift.
        """
        if not self.samples:
            return surprise
        share = (self.reached_values + PRIOR_SAMPLES * SHARES) / (self.samples + PRIOR_SAMPLES)
        levels = LEVELS - TRUST * np.log10(share / SHARES)
        # A level is rarer than the one below it, however few samples say otherwise.
        levels = np.maximum.accumulate(levels + 1e-6 * np.arange(len(levels)))
        top = surprise > LEVELS[-1]
        body = np.interp(surprise, np.append(0.0, LEVELS), np.append(0.0, levels))
        return np.where(top, surprise + (levels[-1] - LEVELS[-1]), body)


@dataclass(frozen=True)
class Realised:
    """How many alarms a monitor would have raised at every surprise of ``GRID``.

    Attributes:
        weeks: series-weeks of scored steps, faded.
        alarms: flagged intervals after policy, faded, shape of ``GRID``.
    """

    weeks: float
    alarms: tuple[float, ...]

    @classmethod
    def none(cls) -> Realised:
        return cls(0.0, (0.0,) * len(GRID))

    @classmethod
    def of(cls, weeks: float, alarms: Values) -> Realised:
        return cls(weeks, tuple(alarms.tolist()))

    @classmethod
    def from_json(cls, values: Json) -> Realised:
        """Return what ``to_json`` wrote."""
        alarms = tuple(values["alarms"])
        return cls(values["weeks"], alarms + (0.0,) * (len(GRID) - len(alarms)))

    def to_json(self) -> Json:
        # Most of the grid is empty.
        return {"weeks": self.weeks, "alarms": np.trim_zeros(self.alarm_values, "b").tolist()}

    @cached_property
    def alarm_values(self) -> Values:
        return np.array(self.alarms)

    def then(self, later: Realised, days: float) -> Realised:
        """Return this, faded by so many days, and what was realised in them."""
        kept = fading(days)
        alarms = kept * self.alarm_values + later.alarm_values
        # Faded to a thousandth an alarm says nothing.
        alarms[alarms < 1e-3] = 0.0
        return Realised(_short(kept * self.weeks + later.weeks), _all_short(alarms))

    def ratio(self, expected: Values) -> Values:
        """Return by what the alarms of a curve are multiplied in the light of this, shape of ``GRID``.

        The posterior mean of a Poisson rate whose gamma prior is centred on the curve (Gelman et al.
        2013, Bayesian Data Analysis, 2.6).

        Args:
            expected: alarms a series-week of the curve at ``GRID``.
        """
        return (self.alarm_values + PRIOR_ALARMS) / (expected * self.weeks + PRIOR_ALARMS)


def total(parts: Sequence[Realised]) -> Realised:
    """Return what several targets realised together."""
    if not parts:
        return Realised.none()
    alarms = np.sum([part.alarm_values for part in parts], axis=0)
    return Realised.of(sum(part.weeks for part in parts), alarms)


def fading(days: float) -> float:
    """Return the share of evidence that is left after so many days."""
    return float(np.exp(-days / FADE_DAYS))


def _short(value: float) -> float:
    """Round to what is stored, so that nights learned one by one and at once are the same."""
    return float(f"{value:.5g}")


def _all_short(values: Values) -> tuple[float, ...]:
    return tuple(_short(each) for each in values.tolist())
