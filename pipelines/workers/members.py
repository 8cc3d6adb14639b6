"""What a version is made of: models that look at the same steps, and how their scores become one.

One member is the common case, and its score is the version's. Several are brought to one scale by what each
of them says of steps it has not seen, frozen with the version, and joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save as to_bytes
from torch import Tensor

from detectors.base import Detector, DetectorConfig
from pipelines.errors import InvalidError
from pipelines.names import AUTO, Mode
from pipelines.records import Json, Values, VersionRow
from pipelines.steps.recipe import Recipe
from pipelines.workers import auto, bank
from pipelines.workers.auto import Member, Traits

TAIL_SHARE = 0.02
"""Scores are told in distances between their median and what this share of them exceeds."""

SMALLEST_SPREAD = 1e-9
"""Scores that never move count as if they moved by so much: nothing is divided by zero."""


@dataclass(frozen=True)
class MemberScale:
    """Where the scores of a member lie in one mode: their median, and how far from it their tail begins."""

    middle: float
    spread: float

    @classmethod
    def of(cls, scores: Values) -> MemberScale:
        """Return the scale of scores, NaN for none.

        Raises:
            InvalidError: there is no score.
        """
        known = scores[np.isfinite(scores)]
        if not len(known):
            raise InvalidError("expected scores to learn a scale from, got none")
        middle, tail = np.quantile(known, (0.5, 1 - TAIL_SHARE))
        return cls(float(middle), max(float(tail - middle), SMALLEST_SPREAD))

    def of_scores(self, scores: Values) -> Values:
        """Return how far scores lie above the middle, 0 for those below; 1 is where the tail begins."""
        return np.maximum((scores - self.middle) / self.spread, 0.0)


@dataclass(frozen=True)
class FittedMember:
    """A member as a version holds it.

    Attributes:
        recipe: what prepare learned for it.
        scales: by mode; empty where it is the whole version.
        at: its place among the members, by which its weights are found; None where it is the whole version.
    """

    member: Member
    recipe: Recipe
    scales: Mapping[str, MemberScale] = field(default_factory=dict)
    at: int | None = None

    @property
    def detector(self) -> str:
        return self.member.detector

    @property
    def params(self) -> Json:
        return self.member.params

    @property
    def config(self) -> tuple[type[Detector], DetectorConfig]:
        return bank.config_of(self.member.detector, self.member.params)

    @property
    def window(self) -> int:
        """Steps of one of its windows."""
        return self.config[1].window

    def to_json(self) -> Json:
        """Return it without its recipe, which several may share."""
        scales = {mode: [scale.middle, scale.spread] for mode, scale in self.scales.items()}
        return {**self.member.to_json(), "scales": scales}

    @classmethod
    def from_json(cls, values: Json, recipe: Recipe, at: int) -> FittedMember:
        """Return the member that ``to_json`` wrote."""
        scales = {mode: MemberScale(*scale) for mode, scale in values["scales"].items()}
        return cls(Member.from_json(values), recipe, scales, at)

    def model(self, weights: bytes) -> Detector:
        """Return its model, a bank of one, from the weights of the version."""
        return bank.assembled(*self.config, [self.own(bank.opened(weights))])

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return its part of the opened weights of the version."""
        start = "" if self.at is None else f"{self.at}/"
        return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def asked(
    detector: str, params: Json, n_channels: int = 1, n_steps: int = 0, traits: Traits = auto.UNKNOWN
) -> tuple[Member, ...]:
    """Return the members that a monitor's settings ask for; the first one leads.

    Args:
        n_channels: series of a target.
        n_steps: length of the history it is fitted on.
        traits: what was learned of it before.

    Raises:
        UnknownDetectorError: nobody declares the detector.
        InvalidError: a parameter that is not known, or a value that is refused.
    """
    if detector == AUTO:
        auto.check(params)
        return auto.members(n_channels, n_steps, traits)
    bank.config_of(detector, params)
    return (Member(detector, params),)


def of_version(version: VersionRow) -> tuple[FittedMember, ...]:
    """Return the members of a stored version; the first one leads: it expects, samples and encodes."""
    return stored(version.detector, version.origin.params, version.recipe)


def stored(detector: str, params: Json, recipe: Json) -> tuple[FittedMember, ...]:
    """Return the members whose recipe ``recipe_of`` wrote; the first one leads.

    Args:
        detector, params: what the version was asked to be, which a single member is.
    """
    lead, several = Recipe.from_json(recipe), recipe.get("members")
    if several is None:
        return (FittedMember(Member(detector, params), lead),)
    found: list[FittedMember] = []
    for at, each in enumerate(several):
        own = each["recipe"]
        if own is None:
            learned = lead
        else:
            learned = found[own].recipe if isinstance(own, int) else Recipe.from_json(own)
        found.append(FittedMember.from_json(each, learned, at))
    return tuple(found)


def told_from(recipe: Json) -> float:
    """Return the joined live score from which on an incident is explained away; versions of earlier releases
    explain nothing."""
    return float(recipe.get("told_from", np.inf))


def longest(members: Sequence[FittedMember]) -> int:
    """Return how many steps the longest window of a version holds."""
    return max(member.window for member in members)


def longest_seconds(members: Sequence[FittedMember]) -> int:
    """Return how long the longest window of a version is."""
    return longest(members) * members[0].recipe.step_seconds


def shortest_window(detector: str, params: Json) -> int:
    """Return the steps of the shortest window that a monitor's settings may ask for."""
    if detector == AUTO:
        auto.check(params)
        return auto.SHORTEST
    return bank.config_of(detector, params)[1].window


def longest_window(detector: str, params: Json) -> int:
    """Return the steps of the longest window that a monitor's settings may ask for."""
    if detector == AUTO:
        auto.check(params)
        return auto.LONGEST
    return bank.config_of(detector, params)[1].window


def recipe_of(members: Sequence[FittedMember], told_from: float = np.inf) -> Json:
    """Return the recipe of a version as JSON: its leader's, with the members where there are several.

    Args:
        told_from: the joined live score from which on an incident is explained away; infinite where none is.
    """
    lead = members[0].recipe.to_json()
    if np.isfinite(told_from):
        lead["told_from"] = told_from
    if members[0].at is None:
        return lead
    known = [each.recipe for each in members]
    own: list[Json] = []
    for each in members:
        # What several share is stored once, by its first owner's place: a season takes 5 KiB.
        first = known.index(each.recipe)
        shared = first if first < len(own) else each.recipe.to_json()
        own.append({**each.to_json(), "recipe": shared if own else None})
    return {**lead, "members": own}


def packed(members: Sequence[FittedMember], weights: Sequence[bytes]) -> bytes:
    """Return the weights of all members as one."""
    if members[0].at is None:
        return weights[0]
    tensors = [bank.opened(one) for one in weights]
    return to_bytes({f"{at}/{name}": t for at, own in enumerate(tensors) for name, t in own.items()})


def echoes(members: Sequence[FittedMember], scores: Sequence[Values], mode: Mode) -> NDArray[np.bool_]:
    """Return the steps whose score is the echo of another, shape ``(n,)``, for versions that explain nothing.

    A spike raises every long window that holds it, a day before and after. Where long windows have most of
    the joined score, and the shortest ones speak as loudly within the reach of the longest, it is of that
    step that the long ones speak.

    Args:
        scores: as for ``combined``.
    """
    silent = np.zeros(len(scores[0]), dtype=np.bool_)
    if members[0].at is None or not len(silent):
        return silent
    from scipy.ndimage import maximum_filter1d  # costs half a second at start

    voters, squares = _votes(members, scores, mode)
    windows = np.array([voter.window for voter in voters])
    total, near = _mean(squares, squares), _mean(squares[windows == windows.min()], squares)
    loudest = maximum_filter1d(near, 2 * int(windows.max()) + 1, mode="constant")
    return np.asarray((near < total / 2) & (loudest >= total))


def _votes(
    members: Sequence[FittedMember], scores: Sequence[Values], mode: Mode
) -> tuple[list[FittedMember], Values]:
    """Return the members that vote, and the squares of their scaled scores, ``(n_voters, n)``.

    A leader without a vote has one where it is alone: history was too short for the others.
    """
    votes = [(m, own) for m, own in zip(members, scores, strict=True) if m.member.votes]
    votes = votes or list(zip(members, scores, strict=True))
    scaled = [voter.scales[str(mode)].of_scores(own) for voter, own in votes]
    return [voter for voter, _ in votes], np.square(np.stack(scaled))


def _mean(squares: Values, of: Values) -> Values:
    """Return the sum of some squares over how many there are of all, 0 where none is known."""
    known = np.count_nonzero(~np.isnan(of), axis=0)
    return np.asarray(np.nansum(squares, axis=0) / np.maximum(known, 1))


def combined(members: Sequence[FittedMember], scores: Sequence[Values], mode: Mode) -> Values:
    """Return one score for every step from those of the members, NaN where none has one.

    The root of the mean square: nearly the largest of them, a little more where several agree.

    Args:
        scores: of each member, shape ``(n,)``.
    """
    if members[0].at is None:
        return scores[0]
    _, squares = _votes(members, scores, mode)
    return np.sqrt(np.where(np.isnan(squares).all(axis=0), np.nan, _mean(squares, squares)))


def joined(members: Sequence[FittedMember], scores: Sequence[Mapping[Mode, Values]]) -> dict[Mode, Values]:
    """Return what ``combined`` makes of the scores of the members, by mode."""
    return {mode: combined(members, [each[mode] for each in scores], mode) for mode in Mode}
