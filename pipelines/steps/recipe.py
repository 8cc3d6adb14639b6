"""What prepare learned of a target: part of its version, with its way to JSON and back."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from pipelines.formats import format_of
from pipelines.records import Json, Values
from pipelines.steps import season as seasons

RECIPE_FORMAT = 1
BLOCK_SECONDS = 7_200
"""The level is followed in blocks of two hours."""


@dataclass(frozen=True)
class ChannelRecipe:
    """What prepare learned of one series.

    Attributes:
        resolution: smallest spacing of the values where they lie on a lattice; 0 where they do not.
        counts: non-negative whole multiples of the resolution.
        transform: ``identity``, ``anscombe`` (of multiples of the resolution) or ``log`` (continued as a
            straight line below ``floor``, so that zero and negative values have an image too).
        floor: of ``log``, in the series' unit.
        center: robust centre of the transformed values; stands in where no level can be followed.
        scale: robust spread of the residuals (interquartile range / 1.349), transformed.
        season: ``none``, ``daily`` or ``weekly``.
        profile: the season in units of ``scale``, by bin of the local day or week, packed.
        spread_season: the season of the noise: it can have one where the mean has none.
        spread: factor of the scale by the bins of that season, packed.
        level_blocks: blocks of ``BLOCK_SECONDS`` whose median is the level; 0 does not follow it.
        usual_flat: most steps in a row with the same raw value in a usual week (median over the weeks), so
            that one stuck sensor in the history does not hide the next.
        kinds: how many different values there are, 3 for more than two; 0 where nobody counted.
        slope: of a steady trend, transformed units a second; 0 where there is none.
        slope_from: when that trend is 0, epoch seconds.
        habit: when in the week it usually has points, as of ``steps.presence``; empty where always.
    """

    resolution: float = 0.0
    counts: bool = False
    transform: str = "identity"
    floor: float = 0.0
    center: float = 0.0
    scale: float = 1.0
    season: str = "none"
    profile: str = ""
    spread_season: str = "none"
    spread: str = ""
    level_blocks: int = 0
    usual_flat: int = 0
    kinds: int = 0
    habit: str = ""
    slope: float = 0.0
    slope_from: int = 0

    @cached_property
    def profile_values(self) -> Values:
        return _unpacked_profile(self.profile)

    @cached_property
    def spread_values(self) -> Values:
        return _unpacked_spread(self.spread)

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Json) -> ChannelRecipe:
        """Return the recipe that ``to_json`` wrote; what earlier releases kept beside it is left out."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


@dataclass(frozen=True)
class Recipe:
    """What prepare learned of one target: part of its version, JSON round trip.

    Attributes:
        offset_seconds: where in a step the target's grid stands: the same for all of its versions.
        lag_seconds: how far behind the grid points usually come; negative where before it. A step has the
            points that are nearest to its time and this.
        regimes: names of those that the detector tells apart.
    """

    step_seconds: int
    offset_seconds: int
    timezone: str
    channels: tuple[ChannelRecipe, ...]
    regimes: tuple[str, ...] = ()
    lag_seconds: int = 0

    @property
    def block_steps(self) -> int:
        return max(1, round(BLOCK_SECONDS / self.step_seconds))

    @property
    def context_seconds(self) -> int:
        """How far before a step points are needed for its prepared value to be exact."""
        blocks = max((channel.level_blocks for channel in self.channels), default=0)
        return ((blocks + 1) * self.block_steps if blocks else 0) * self.step_seconds + self.step_seconds

    def time(self, index: int) -> int:
        """Return the epoch seconds of a step of the grid."""
        return index * self.step_seconds + self.offset_seconds

    def index(self, ts: int) -> int:
        """Return the first step of the grid at or after a moment."""
        return -((self.offset_seconds - ts) // self.step_seconds)

    def points_from(self, index: int) -> int:
        """Return from when on points are of a step of the grid, or of one after it."""
        return self.time(index) + self.lag_seconds - self.step_seconds // 2

    def to_json(self) -> Json:
        return {
            "format": RECIPE_FORMAT,
            "step_seconds": self.step_seconds,
            "offset_seconds": self.offset_seconds,
            "lag_seconds": self.lag_seconds,
            "timezone": self.timezone,
            "channels": [channel.to_json() for channel in self.channels],
            "regimes": list(self.regimes),
        }

    @classmethod
    def from_json(cls, values: Json) -> Recipe:
        """Return the recipe that ``to_json`` wrote, or the releases before it.

        What `pipelines.workers.members` keeps beside it is left out.

        Raises:
            NewerFormatError: a newer release wrote it.
        """
        format_of(values, RECIPE_FORMAT, "a recipe")
        return cls(
            step_seconds=values["step_seconds"],
            offset_seconds=values["offset_seconds"],
            timezone=values["timezone"],
            channels=tuple(ChannelRecipe.from_json(each) for each in values["channels"]),
            regimes=tuple(values.get("regimes", ())),
            lag_seconds=values.get("lag_seconds", 0),
        )


def packed_profile(profile: Values) -> str:
    """Return a profile as base64: the size of a part as float64, then whole parts as int16.

    A week of five minutes takes 5 KiB instead of the 40 of a JSON list; a part is a 32,767th of the
    largest value, a few thousandths of the spread.
    """
    part = float(np.abs(profile).max(initial=0.0)) / 32_767 or 1.0
    parts = np.rint(profile / part).astype("<i2")
    return base64.b64encode(np.float64(part).astype("<f8").tobytes() + parts.tobytes()).decode("ascii")


def _unpacked_profile(text: str) -> Values:
    data = base64.b64decode(text)
    return np.frombuffer(data, "<i2", offset=8) * np.frombuffer(data, "<f8", count=1)[0]


def packed_spread(factor: Values) -> str:
    """Return factors as base64 of one byte each, evenly spaced in their logarithm: within 0.8 %."""
    low, high = np.log(seasons.FACTOR_RANGE)
    return base64.b64encode(
        np.rint((np.log(factor) - low) / (high - low) * 255).astype(np.uint8).tobytes()
    ).decode("ascii")


def _unpacked_spread(text: str) -> Values:
    low, high = np.log(seasons.FACTOR_RANGE)
    return np.exp(low + np.frombuffer(base64.b64decode(text), np.uint8) * ((high - low) / 255))
