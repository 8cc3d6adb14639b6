"""What flagged intervals would probably be judged, by the verdicts on their like. Pure.

A verdict together with its cause is a class of events, and a classifier learns the classes from those that
people judged. It speaks only where it has shown on incidents held out that it knows more than which class
is the most frequent, and of an event unlike all of them it says that it is not known. Everybody it speaks of
was flagged, so its probabilities are conditional on that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detectors import registry
from detectors.classifier import Classifier
from pipelines.insight import similar
from pipelines.insight.similar import Portrait
from pipelines.names import Verdict
from pipelines.records import Values

UNKNOWN = "unknown"
"""In place of a verdict: the event is like none of those that were judged."""

CLASSIFIER = "discriminant"
NOISE = 0.01
"""Variance every class is given beside its own, in squared usual differences: how exactly two alike agree."""

FEWEST = 3
"""Examples of a class; a cause with fewer counts as none in particular."""

DIMENSIONS, MANY_DIMENSIONS = 4, 8
"""Principal coordinates of the features at most: the larger number from 3 examples of each class for each."""
FREEDOM = 3
"""Examples, less one for each class, that every one of them takes."""

FOLDS = 20
"""Shares of the incidents that are held out one after the other."""
LUCK = 0.05
"""With what probability a classifier that knows nothing may seem to know something."""

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """What a person said of an event."""

    verdict: str
    cause: str = ""


@dataclass(frozen=True)
class Suggestion:
    """What an event would probably be judged.

    Attributes:
        verdict: of the likeliest class, or ``unknown``.
        cause: its cause, empty for none in particular.
        probability: of that class; None where it is not known.
    """

    verdict: str
    cause: str = ""
    probability: float | None = None


def suggestions(portraits: Sequence[Portrait], judged: Sequence[Judgement | None]) -> list[Suggestion | None]:
    """Return a suggestion for every event that nobody is sure of, None for the others or where it is silent.

    Args:
        portraits: events of one monitor and one family.
        judged: what was said of each; None where nobody said anything.
    """
    sure = [None if each is None or each.verdict == Verdict.UNSURE else each for each in judged]
    names, y = classes(sure)
    examples = y >= 0
    size = dimensions(y)
    silent: list[Suggestion | None] = [None] * len(portraits)
    if len(names) < 2 or size < 1 or all(sure):
        return silent
    Z = _coordinates(portraits, size)
    held_out = _folds([each for each, own in zip(portraits, examples, strict=True) if own])
    if not knows_more(Z[examples], y[examples], held_out):
        return silent
    model = _fitted(Z[examples], y[examples])
    told = _told(model, Z, names)
    return [each if said is None else None for each, said in zip(told, sure, strict=True)]


def classes(judged: Sequence[Judgement | None]) -> tuple[list[Judgement], Labels]:
    """Return the classes that people's judgements make, and the class of every event, -1 for none.

    A class is a verdict with a cause, spelt in whatever case, that was given at least ``FEWEST`` times. The
    rest of a verdict's causes are one class together, if they are as many.
    """
    keys = [None if each is None else (each.verdict, each.cause.strip().casefold()) for each in judged]
    count = Counter(keys)
    merged = [key if key is None or count[key] >= FEWEST else (key[0], "") for key in keys]
    count = Counter(merged)
    found = sorted({key for key in merged if key is not None and count[key] >= FEWEST})
    y = np.array([found.index(key) if key in found else -1 for key in merged], dtype=np.int64)
    return [_spelt(key, judged) for key in found], y


def _spelt(key: tuple[str, str], judged: Sequence[Judgement | None]) -> Judgement:
    """Return a class with its cause as most people spelt it."""
    spelt = Counter(
        each.cause.strip()
        for each in judged
        if each is not None and (each.verdict, each.cause.strip().casefold()) == key
    )
    return Judgement(key[0], spelt.most_common(1)[0][0] if spelt else "")


def dimensions(y: Labels) -> int:
    """Return how many coordinates these examples can carry, 0 for none."""
    count = np.bincount(y[y >= 0])
    most = MANY_DIMENSIONS if min(count, default=0) >= FREEDOM * MANY_DIMENSIONS else DIMENSIONS
    return min(most, int(count.sum() - len(count)) // FREEDOM)


def _coordinates(portraits: Sequence[Portrait], size: int) -> Values:
    """Return principal coordinates of the features, ``(n, size)``, over all events, judged or not.

    What is not known of an event is taken as usual.
    """
    values, weight = similar.features(portraits)
    scaled = np.nan_to_num(values) * np.sqrt(weight)
    centred = scaled - scaled.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(centred @ axes[:size].T)


def _folds(examples: Sequence[Portrait]) -> Labels:
    """Return the fold of every example: events that overlap in time are one incident, held out together.

    An incident that shows in many series and is judged in all of them would else bear witness for itself.
    """
    order = sorted(range(len(examples)), key=lambda at: examples[at].interval.start)
    incident = np.zeros(len(examples), dtype=np.int64)
    number, until = -1, -np.inf
    for at in order:
        number += examples[at].interval.start > until
        until = max(until, examples[at].interval.end)
        incident[at] = number
    return incident * min(FOLDS, number + 1) // (number + 1)


def knows_more(Z: Values, y: Labels, fold: Labels) -> bool:
    """True where a classifier is right about held-out examples more often than the most frequent class is.

    That it is so by luck has a probability of at most ``LUCK`` (sign test over the examples of which one
    of both is right). Abstaining is not being right.
    """
    from scipy import stats  # costs a second at start

    right = np.zeros(len(y), dtype=np.bool_)
    for k in set(fold.tolist()):
        out = fold == k
        right[out] = _recognised(Z[~out], y[~out], Z[out], y[out])
    usual = y == np.bincount(y).argmax()
    won, lost = int((right & ~usual).sum()), int((usual & ~right).sum())
    return bool(stats.binom.sf(won - 1, won + lost, 0.5) <= LUCK)


def _recognised(Z: Values, y: Labels, new: Values, own: Labels) -> NDArray[np.bool_]:
    """True for the new ones whose class a classifier of the others names."""
    known, numbered = np.unique(y, return_inverse=True)
    if len(y) - len(known) < Z.shape[1]:
        return np.zeros(len(own), dtype=np.bool_)
    model = _fitted(Z, numbered)
    probe = torch.from_numpy(new)
    named = known[model.log_posterior(probe).argmax(1).numpy()]
    return (named == own) & ~model.abstains(probe).numpy()


def _fitted(Z: Values, y: Labels) -> Classifier:
    cls = registry.classifier(CLASSIFIER)
    return cls(cls.Config(noise=NOISE)).fit(torch.from_numpy(Z), torch.from_numpy(y))


def _told(model: Classifier, Z: Values, names: Sequence[Judgement]) -> list[Suggestion]:
    likeliest = model.log_posterior(torch.from_numpy(Z)).exp().max(1)
    refused = model.abstains(torch.from_numpy(Z)).tolist()
    named = zip(likeliest.indices.tolist(), likeliest.values.tolist(), refused, strict=True)
    return [
        Suggestion(UNKNOWN) if unlike else Suggestion(names[k].verdict, names[k].cause, share)
        for k, share, unlike in named
    ]
