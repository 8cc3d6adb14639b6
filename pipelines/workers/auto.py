"""The automatic detector: which models look at a target when nobody names one.

No model sees everything. Short windows find spikes, long ones changes of level, rhythm and variance, the
distance to the nearest window of the past finds odd shapes; and a season that is taken out shows what hides
in it, while one that is left in costs nothing where it was none. A target gets one model of each kind;
`pipelines.workers.members` makes one score of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipelines.errors import InvalidError
from pipelines.records import Json, Values
from pipelines.times import DAY, WEEK


class View(StrEnum):
    """What prepare leaves in the steps a member sees."""

    FULL = "full"
    """Season and a level that wanders are taken out."""
    PLAIN = "plain"
    """They stay: only the scale is learned."""


@dataclass(frozen=True)
class Member:
    """One model of a version, as it is asked for.

    Attributes:
        params: fields of the detector's Config.
        apart: every channel has a model of its own, and what they say is joined.
        votes: its score counts; a leader may only be there to expect, sample and encode.
        finds: what it is there for, in a few words; empty where it stands alone.
    """

    detector: str
    params: Json
    view: View = View.FULL
    apart: bool = False
    votes: bool = True
    finds: str = ""

    def to_json(self) -> Json:
        return {
            "detector": self.detector,
            "params": self.params,
            "view": str(self.view),
            "apart": self.apart,
            "votes": self.votes,
            "finds": self.finds,
        }

    @classmethod
    def from_json(cls, values: Json) -> Member:
        """Return the member that ``to_json`` wrote; what others keep beside it is left out."""
        own = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**{**own, "view": View(values["view"])})


LADDER = ((2560, (24, 100, 256)), (0, (10, 24, 100)))
"""Steps of history, and the windows of those that have so many: short, middle and long.

Windows much longer than a tenth of the history leave nothing to learn from; the models of the shorter
ladder that do not fit either are left out.
"""

SHORTEST, LONGEST = 10, 256

DRIFTING = 0.25
"""How odd even the quieter steps of the newest part of a history are to a model of what came before it, where
the series is said to drift; 1 is where the tail of what that model has not seen begins."""

NEWEST_SHARE, NEWEST_WINDOWS = 0.2, 4
"""How much of the history that part is, and windows of that model that fit into it at least."""

DRIFT_WINDOW = 100
"""Steps of that model's window at most: longer ones tell no more of a drift and cost more."""

QUIETER = 0.25
"""Quantile of its scores that counts: an incident that two windows know of leaves half of them alone."""

RECURRING = 0.8
"""Share of its other days or weeks in which what is odd at a time must be odd again to be called a habit."""

ODDEST, ODD = 0.99, 0.98
"""Quantiles of the scores above which steps are looked at, and are looked for again."""

NEAR_SECONDS = 1800
"""How far off its usual time a habit may come."""

LEAST_CYCLES = 2
"""Other days or weeks that a step must have to be judged by."""


@dataclass(frozen=True)
class Traits:
    """What is learned of a target before its models are chosen.

    Attributes:
        habits: from 0 to 1, how much of what is odd without a season comes again at the same time.
        drift: how odd even the quieter steps of the newest part of its history are to what came before it,
            0 or more; None where nobody asked: the models of several series do not mind.
    """

    habits: float = 0.0
    drift: float | None = None

    @property
    def view(self) -> View:
        """What models see: a season that stays in costs nothing where it is no habit."""
        return View.FULL if self.habits >= RECURRING else View.PLAIN

    @property
    def far_view(self) -> View:
        """What those see that look far back: a new level is odd to them for as long as they look."""
        return View.FULL if (self.drift or 0.0) >= DRIFTING else self.view


UNKNOWN = Traits()


def probe(n_channels: int, n_steps: int) -> Member:
    """Return the model whose scores tell habits from what happens once: it knows no season."""
    return Member("gaussian", {"window": _windows(n_steps)[0]}, View.PLAIN, apart=n_channels > 1)


def drift_probe(n_steps: int, longest: int) -> Member:
    """Return the model that tells whether the newest steps are like those before: it looks far back.

    Args:
        longest: steps of the longest window that there are enough of, before and in the newest part.
    """
    short, *longer = _windows(n_steps)
    window = max((each for each in longer if each <= min(longest, DRIFT_WINDOW)), default=short)
    return Member("gaussian", {"window": window}, View.PLAIN)


def drift(scaled: Values) -> float:
    """Return how odd even the quieter steps of the newest part of a history are to what came before it.

    A model that looks far back, at a series with its level left in, finds every new day odd where the level
    goes on rising, and spends the alarms of months on it.

    Args:
        scaled: scores of that part under the model, 1 where the tail of what it has not seen begins;
            NaN for none, shape ``(n,)``.
    """
    known = scaled[np.isfinite(scaled)]
    return float(np.quantile(known, QUIETER)) if len(known) else 0.0


def _windows(n_steps: int) -> tuple[int, int, int]:
    return next(windows for least, windows in LADDER if n_steps >= least)


def habit(scores: Values, step_seconds: int) -> float:
    """Return how much of what is odd without a season comes again at the same time of day or of week.

    Where a game restarts every Thursday, a model that knows no week finds Thursdays odd, and spends on them
    what it should spend on anomalies. What happens once comes again nowhere.

    Args:
        scores: of the probe, of regular steps it has not seen, NaN for none, shape ``(n,)``.

    Returns:
        From 0 to 1; 0 where the history is too short to say.
    """
    return max(_recurrence(scores, round(period / step_seconds), step_seconds) for period in (DAY, WEEK))


def _recurrence(scores: Values, period: int, step_seconds: int) -> float:
    """Return the mean share of other cycles in which the scores are high about where they are highest."""
    known = np.isfinite(scores)
    if period < 2 or not known.any():
        return 0.0
    middle, odd, oddest = np.quantile(scores[known], (0.5, ODD, ODDEST))
    if odd <= middle:
        return 0.0
    reach = max(1, NEAR_SECONDS // step_seconds)
    high = np.convolve(np.where(known, scores >= odd, False), np.ones(2 * reach + 1), mode="same") > 0.5
    at = np.flatnonzero(np.where(known, scores >= oddest, False))
    cycles = len(scores) // period
    other = at[:, None] + period * np.array([k for k in range(-cycles, cycles + 1) if k], dtype=np.int64)
    inside = (other >= 0) & (other < len(scores))
    again = np.where(inside, high[np.clip(other, 0, len(scores) - 1)], False)
    judged = inside.sum(axis=1) >= LEAST_CYCLES
    if not judged.any():
        return 0.0
    return float((again.sum(axis=1)[judged] / inside.sum(axis=1)[judged]).mean())


def check(params: Json) -> None:
    """Refuse settings: there are none.

    Raises:
        InvalidError: there are.
    """
    if params:
        raise InvalidError(
            f"auto chooses its models itself and takes no setting {next(iter(params))!r}; "
            "name a detector to choose its settings"
        )


def members(n_channels: int, n_steps: int, traits: Traits = UNKNOWN) -> tuple[Member, ...]:
    """Return the models of a target; the first one leads.

    Args:
        n_steps: length of the history it is fitted on.
        traits: where it has habits, all its models see it without its season and level; where it drifts,
            those with long windows do.
    """
    view = traits.view
    if n_channels > 1:
        return _of_many(view)
    short, middle, long = _windows(n_steps)
    nearest = {"window": middle, "latent": min(16, middle), "references": 1024, "whole": True}
    return (
        Member("gaussian", {"window": short}, finds="what season and level do not explain"),
        Member("gmm", {"window": short, "components": [8]}, view, finds="spikes and drops"),
        Member(
            "kde",
            {**nearest, "bandwidth": "knn", "neighbours": 1},
            view,
            finds="shapes never seen before",
        ),
        Member(
            "gaussian", {"window": long}, traits.far_view, finds="shifts of level, and what they begin with"
        ),
        Member(
            "gaussian",
            {"window": long, "form": "full", "whole": True},
            traits.far_view,
            finds="changes of rhythm and variance",
        ),
    )


def _of_many(view: View) -> tuple[Member, ...]:
    """Return the models of a target of several series: one of all, which leads, and one of each by itself.

    What all do together was no better a judge than what each does (`docs/decisions`, 14): it has no vote.
    """
    return (
        Member("autoregressive", {"window": 5}, votes=False, finds="what is expected of all channels"),
        Member("autoregressive", {"window": 64}, view, apart=True, finds="what a channel does by itself"),
    )
