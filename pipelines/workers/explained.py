"""Explaining away: what remains odd once what else was odd is taken out.

A window that holds an odd hour is odd for as long as it holds it, half a day after and before. So the steps
that are odd by themselves are grouped into incidents, and where the models found one odd too, its steps are
given to them as what would have been usual. What they still say of the steps around is news of their own, and
each incident is scored with all others out. Live scores leave out what was over by then, settled ones
all there is.

Everything here is local: what is decided of a step depends on those within `Sight` of it, so that any span
may be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.base import Detector
from detectors.windows import Windows
from pipelines.names import Mode
from pipelines.records import Values
from pipelines.steps import prepare
from pipelines.steps.prepare import Prepared
from pipelines.steps.recipe import Recipe
from pipelines.workers import bank

Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]
Scores = tuple[Values, Values]
"""Live and settled scores of the same steps."""

OVER = 8.0
"""An incident is over when the steps since its last odd one say by so much, in natural logarithms, that the
series is back: each votes for its usual level against the incident's own. One step ends an outage, four a
weak shift."""

ENERGY = 20.0
"""Squared spreads that the odd steps of an incident have together at least: one step of 4.5, or five of two.
Of normal steps one in twenty is odd, and now and then some follow each other."""

LOUDEST = 10.0
"""Spreads that a step counts at most: beyond, it is odd enough."""

TOLD = 1.5
"""An incident is taken out where the joined live score reaches so many times the distance between its middle
and its tail: what the models know as a habit of the series, they are to see."""


@dataclass(frozen=True)
class Sight:
    """How many steps around one decide on incidents: what no window holds together needs no explaining.

    Attributes:
        pause: an incident is over after so many steps in a row that are not odd, whatever they say.
        local: what an incident is like at a step is told by so many steps before it: it may go on for weeks.
        ahead: so many steps after one at the latest the models must find its incident odd, for it to be
            taken out.
    """

    pause: int
    local: int
    ahead: int

    @classmethod
    def of(cls, window: int) -> Sight:
        """Return that of models whose longest window has so many steps."""
        half = min(max(1, window // 2), 12)
        return cls(pause=half, local=4 * half, ahead=half)

    @property
    def before(self) -> int:
        """How many steps before one decide on its incident."""
        return 3 * self.local + self.pause + 1

    @property
    def after(self) -> int:
        """How many steps after one decide on its incident."""
        return self.ahead + self.pause + 1


def reach_steps(window: int) -> int:
    """Return how many steps before one decide on its scores.

    Args:
        window: steps of the longest window.
    """
    return 2 * window + Sight.of(window).before


def settled_after(window: int) -> int:
    """Return how many steps after one decide on its settled score."""
    return window + Sight.of(window).after


@dataclass(frozen=True)
class Incidents:
    """Stretches of steps that are odd by themselves, in order of time.

    Attributes:
        first, last: of the odd steps of each, shape ``(n_incidents,)``.
        over: the first step after each at which it could be told to be over.
        hot: steps of incidents at which enough is odd to be one, shape ``(n,)``.
        sight: within which they were told apart.
    """

    first: Indices
    last: Indices
    over: Indices
    hot: Flags
    sight: Sight

    def told(self, loud: Flags) -> list[Told]:
        """Return the incidents that are to be explained away.

        Args:
            loud: where the models find the series odd, shape ``(n,)``.
        """
        found = []
        for first, last, over in zip(
            self.first.tolist(), self.last.tolist(), self.over.tolist(), strict=True
        ):
            inside = slice(first, over)
            out = self._near(loud[inside]) & self._near(self.hot[inside])
            out[last + 1 - first :] = False
            if out.any():
                found.append(Told(first, last, over, out[: last + 1 - first]))
        return found

    def since(self, step: int) -> int:
        """Return the first step whose live score decides on what is taken out at or after a step."""
        reached = self.last >= step
        if not reached.any():
            return step
        return max(int(self.first[reached].min(initial=step)), step - self.sight.local)

    def _near(self, marked: Flags) -> Flags:
        """Return the steps that have a marked one locally before or shortly after them."""
        running = np.concatenate([[0], np.cumsum(marked)])
        at = np.arange(len(marked))
        low = np.maximum(at - self.sight.local, 0)
        high = np.minimum(at + self.sight.ahead + 1, len(marked))
        return np.asarray(running[high] > running[low])


@dataclass(frozen=True)
class Told:
    """An incident that is explained away: its first and last odd step, when it was over, and what is taken
    out, shape ``(last - first + 1,)``."""

    first: int
    last: int
    over: int
    out: Flags


def incidents(prepared: Prepared, sight: Sight) -> Incidents:
    """Return the incidents of a series, by its steps without season and level."""
    values = np.where(prepared.missing, 0.0, prepared.values).astype(np.float64)
    loudest = np.abs(values).argmax(axis=1)
    course = np.clip(values[np.arange(len(values)), loudest], -LOUDEST, LOUDEST)
    at = np.flatnonzero(np.abs(course) >= prepare.ODD)
    hot = np.zeros(len(course), dtype=np.bool_)
    if not len(at):
        return Incidents(at, at, at, hot, sight)
    over = _over(course, np.asarray(prepared.missing.all(axis=1)), at, sight)
    starts = np.flatnonzero(np.append(True, over[:-1] < at[1:]))
    ends = np.append(starts[1:], len(at)) - 1
    begun = np.repeat(starts, ends - starts + 1)
    hot[at] = _sums(course[at] ** 2, at, begun, sight) >= ENERGY
    strong = np.add.reduceat(hot[at], starts) > 0
    return Incidents(at[starts][strong], at[ends][strong], over[ends][strong], hot, sight)


def _over(course: Values, missing: Flags, at: Indices, sight: Sight) -> Indices:
    """Return for every odd step the first one after it at which its incident is over, if no odd one comes.

    A step x speaks for the usual level against the incident's own, m, by m (m - 2x) / 2: the logarithm of
    the ratio of two normal densities.
    """
    nothing = np.zeros(len(at), dtype=np.intp)
    level = _sums(np.abs(course[at]), at, nothing, sight) / _sums(np.ones(len(at)), at, nothing, sight)
    pause = at[:, None] + np.arange(1, sight.pause + 1)
    known = np.minimum(pause, len(course) - 1)
    likeness = np.sign(course[at])[:, None] * course[known]
    votes = np.where(missing[known], 0.0, level[:, None] * (level[:, None] - 2 * likeness) / 2)
    back = np.cumsum(votes, axis=1) >= OVER
    steps = np.where(back.any(axis=1), back.argmax(axis=1) + 1, sight.pause + 1)
    return np.minimum(at + steps, len(course))


def _sums(of: Values, at: Indices, begun: Indices, sight: Sight) -> Values:
    """Return for every odd step the sum over those shortly before it, from a place among them on."""
    running = np.concatenate([[0.0], np.cumsum(of)])
    since = np.maximum(np.searchsorted(at, at - sight.local + 1), begun)
    return np.asarray(running[1:] - running[since])


# -- scoring without them -----------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """One model of one target, the steps it looks at, and what it says of them.

    Attributes:
        banks: model k did not see the steps of fold k; one for all where it saw none.
        windows: of the target alone; a row for every channel where the model takes them apart.
        fold: shape ``(n_points,)``.
        live, settled: raw scores of ``prepared``.
        votes: what the score of every channel counts, ``(1, n_channels)``; None where they are not apart.
    """

    recipe: Recipe
    prepared: Prepared
    banks: Sequence[Detector]
    windows: Windows
    fold: Tensor
    live: Values
    settled: Values
    votes: Values | None = None

    @property
    def scores(self) -> dict[Mode, Values]:
        return {Mode.LIVE: self.live, Mode.SETTLED: self.settled}

    def between(self, values: NDArray[np.float32], first: int, stop: int) -> Scores:
        """Return the scores of some steps were the values others, shape ``(n, n_channels)``."""
        series = torch.from_numpy(values).unsqueeze(0)
        if self.votes is not None:
            series = series[0].T.unsqueeze(2)
        n = values.shape[0]
        whole = torch.cat([series, self.windows.series[:, n:]], dim=1)
        scores = bank.score_between(
            self.banks, replace(self.windows, series=whole.contiguous()), self.fold, first, stop
        )
        if self.votes is not None:
            scores = bank.together(scores[0], self.votes), bank.together(scores[1], self.votes)
        return scores[0][0].numpy(), scores[1][0].numpy()


@dataclass(frozen=True)
class Frame:
    """The steps that decide: what the leader sees, further back than any model.

    Attributes:
        prepared: the leader's steps.
        inside: those whose scores are asked for.
    """

    prepared: Prepared
    usual: Values
    found: Incidents
    inside: slice

    @classmethod
    def of(cls, recipe: Recipe, prepared: Prepared, inside: slice, window: int) -> Frame:
        """Return the frame of models whose longest window has so many steps."""
        found = incidents(prepared, Sight.of(window))
        return cls(prepared, prepare.usual(recipe, prepared), found, inside)

    def since(self, window: int) -> int:
        """Return the first step whose live score is needed.

        Args:
            window: steps of the longest window.
        """
        return min(self.inside.start, self.found.since(self.inside.start - window + 1))

    def spread_out(self, look: Look, scores: Values) -> Values:
        """Return a model's scores at the steps of the frame, NaN where it has none."""
        out = np.full(len(self.prepared), np.nan)
        at = look.prepared.start - self.prepared.start
        low, high = max(at, 0), min(at + len(scores), len(out))
        out[low:high] = scores[low - at : high - at]
        return out

    def explained(
        self, looks: Sequence[Look], joined: Callable[[list[Values]], Values], told_from: float
    ) -> list[Scores]:
        """Return the scores of every model at the steps asked for, without what is explained.

        Args:
            joined: makes one live score of those of the models.
            told_from: the joined live score from which on an incident is taken out.
        """
        live = [self.spread_out(look, look.live) for look in looks]
        settled = [self.spread_out(look, look.settled) for look in looks]
        if len(self.found.first) and np.isfinite(told_from):
            with np.errstate(invalid="ignore"):
                told = self.found.told(joined(live) >= told_from)
            if told:
                for look, own_live, own_settled in zip(looks, live, settled, strict=True):
                    self._explain(look, told, own_live, own_settled)
        return [(a[self.inside], b[self.inside]) for a, b in zip(live, settled, strict=True)]

    def _explain(self, look: Look, told: Sequence[Told], live: Values, settled: Values) -> None:
        """Write the scores of one model without what is explained into those it gave, in place."""
        at, n = look.prepared.start - self.prepared.start, len(look.prepared)
        inside = slice(max(self.inside.start - at, 0), min(self.inside.stop - at, n))
        filled = self._without(look, told)
        own = _Own(look, at, inside, live[at:], settled[at:])
        own.rescore_around(told, filled)
        own.rescore_alone(told, filled)

    def _without(self, look: Look, told: Sequence[Told]) -> NDArray[np.float32]:
        """Return a model's steps with what is taken out as season and level expect it."""
        at, n = look.prepared.start - self.prepared.start, len(look.prepared)
        low, high = max(0, -at), min(n, len(self.prepared) - at)
        usual = prepare.scaled(look.recipe, look.prepared, self.usual[low + at : high + at], slice(low, high))
        out = np.zeros(n, dtype=np.bool_)
        for each in told:
            steps = np.flatnonzero(each.out) + each.first - at
            out[steps[(steps >= low) & (steps < high)]] = True
        out &= ~look.prepared.missing.all(axis=1)
        filled = look.prepared.values.copy()
        filled[out] = np.where(look.prepared.missing[out], 0.0, usual[out[low:high]])
        return filled


@dataclass(frozen=True)
class _Own:
    """The scores of one model that are written anew, step by step of its own.

    Attributes:
        at: where its first step stands in the frame.
        inside: the steps that are written.
        live, settled: views of the frame's, from its first step on.
    """

    look: Look
    at: int
    inside: slice
    live: Values
    settled: Values

    def rescore_around(self, told: Sequence[Told], filled: NDArray[np.float32]) -> None:
        """Score the steps around incidents with all of them out."""
        n = len(filled)
        free_live = _free(n, ((each.first - self.at, each.over - self.at) for each in told))
        free_settled = _free(n, ((each.first - self.at, each.last + 1 - self.at) for each in told))
        for a, b in _touched(told, self.at, self.look.windows.window, self.inside):
            live, settled = self.look.between(filled, a, b)
            self.live[a:b] = np.where(free_live[a:b], live, self.live[a:b])
            self.settled[a:b] = np.where(free_settled[a:b], settled, self.settled[a:b])

    def rescore_alone(self, told: Sequence[Told], filled: NDArray[np.float32]) -> None:
        """Score each incident by itself; those of one group are further apart than a window is long."""
        for group in _apart(told, self.look.windows.window):
            values = filled.copy()
            for each in group:
                own = slice(max(each.first - self.at, 0), max(each.last + 1 - self.at, 0))
                values[own] = self.look.prepared.values[own]
            for each in group:
                a = max(each.first - self.at, self.inside.start)
                b = min(each.over - self.at, self.inside.stop)
                if a < b:
                    live, settled = self.look.between(values, a, b)
                    stop = max(a, min(each.last + 1 - self.at, b))
                    self.live[a:b], self.settled[a:stop] = live, settled[: stop - a]


def _free(n: int, spans: Iterable[tuple[int, int]]) -> Flags:
    """Return which of n steps lie in none of the half-open spans, of which parts may lie outside."""
    free = np.ones(n, dtype=np.bool_)
    for first, stop in spans:
        free[max(first, 0) : max(stop, 0)] = False
    return free


def _touched(told: Sequence[Told], at: int, window: int, inside: slice) -> Iterator[tuple[int, int]]:
    """Yield the half-open spans of a model's steps that share a window with what is taken out."""
    low = high = inside.start
    for each in told:
        a = max(each.first - at - window + 1, inside.start)
        b = min(each.last - at + window, inside.stop)
        if a >= b:
            continue
        if a > high:
            if low < high:
                yield low, high
            low = a
        high = max(high, b)
        low = min(low, a)
    if low < high:
        yield low, high


def _apart(told: Sequence[Told], window: int) -> list[list[Told]]:
    """Return the incidents in groups whose members no window holds two of."""
    groups: list[list[Told]] = []
    for each in told:
        for group in groups:
            if each.first - group[-1].last >= window:
                group.append(each)
                break
        else:
            groups.append([each])
    return groups
