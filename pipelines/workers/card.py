"""The model card's verdict: how well a model knows windows that it has not seen, and whether it is broken.

Everything is computed for a whole bank at once, on windows drawn evenly from the insides of held-out blocks,
each asked of the bank that did not see its block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from detectors.base import Detector, Encodes, HasLogProb
from detectors.windows import PickedWindows, Windows
from pipelines.records import Json
from pipelines.workers import twosample

DRAWN = 256
"""Held-out windows drawn of a series; six weeks of five minutes hold some 500 of 24 steps side by side."""

GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, less their whole part, fill 0 to 1 evenly and never repeat."""

MEMBERS = 64
"""Members judged at once: their samples at window 128 take 8 MiB in float32."""

WORST = 0.05
"""Share of the windows, the worst, that no mean counts: the incidents in history are not to be known."""

QUIET = 0.01
"""Variance, in squared scaled units, below which windows hold nothing that a model could miss."""

FINE = 0.1
"""Standard deviation, in scaled units, to which a model need not know a step better: smooth series let the
Gaussian go on far below what any alarm is about, and networks floor their spread."""

LEAST_SHARE = 0.1
"""Of the real windows' variance, the least that samples of a model in order have."""

MOST_NATS = 0.5
"""Nats per value by which a model in order may be worse than the Gaussian on windows neither has seen."""

MOST_ERROR = 2.0
"""Times the Gaussian's error of expectation that a model in order may have."""

LEAST_KNOWN = 0.75
"""Of the spread of windows: a model that is off by less knows something of them, however much more a Gaussian
knows of a smooth series."""


@dataclass(frozen=True)
class Trial:
    """A bank, and what it is judged by.

    Attributes:
        whole: fitted on everything, the bank that is to be used.
        blind: one bank per fold that did not see it.
        plain: Gaussians that did not see it, to compare with; the banks of ``blind`` themselves where those
            are plain Gaussians, and None where there is nothing to compare.
        windows: what all of them were fitted on. Held-out windows are prepared like the others: a season of
            two weeks less a block says more of the season than of the model.
        block: steps of a block; block ``b`` belongs to fold ``b % len(blind)``.
        shared: all members are one model, and are judged together.
    """

    whole: Detector
    blind: Sequence[Detector]
    plain: Sequence[Detector] | None
    windows: Windows
    block: int
    shared: bool = False

    def parts(self) -> Iterator[Trial]:
        """Yield the trial a few members at a time, so that memory stays bounded."""
        n = self.windows.n_targets
        if n <= MEMBERS:
            yield self
            return
        for start in range(0, n, MEMBERS):
            rows = range(start, min(start + MEMBERS, n))
            blind = [bank.select(rows) for bank in self.blind]
            plain = self.plain
            if plain is not None:
                plain = blind if plain is self.blind else [bank.select(rows) for bank in plain]
            windows = self.windows.members(slice(rows.start, rows.stop))
            yield replace(self, whole=self.whole.select(rows), blind=blind, plain=plain, windows=windows)


@dataclass(frozen=True)
class Card:
    """What was found of one member.

    Attributes:
        figures: the card's entries, finite or None.
        broken: why the model must not be used, one sentence each; empty for one in order.
    """

    figures: Json
    broken: tuple[str, ...]


def judge(trial: Trial) -> list[Card]:
    """Return a card for every member of the bank."""
    with torch.no_grad():
        rows = [row for part in trial.parts() for row in _rows(part)]
    if trial.shared:
        together = _together([row.middles for row in rows])
        rows = [replace(row, middles=together) for row in rows]
    latent = latent_size(trial.whole, trial.windows)
    return [Card({"latent_size": latent, **row.figures}, row.broken) for row in rows]


@dataclass(frozen=True)
class _Row:
    """What was found of one member: the card's figures, and what it is judged by (none of a baseline)."""

    figures: Json
    middles: dict[str, float]
    finite: bool

    @property
    def broken(self) -> tuple[str, ...]:
        return _broken(self.middles, finite=self.finite) if self.middles else ()


def _rows(trial: Trial) -> list[_Row]:
    drawn = _draw(trial)
    own = _asked(trial.blind, drawn)
    plain = None
    if trial.plain is not None:
        plain = own if trial.plain is trial.blind else _asked(trial.plain, drawn)
    samples = trial.whole.sample(DRAWN).flatten(2)
    found = _Found(drawn, own, plain, samples)
    finite = own.finite & samples.isfinite().flatten(1).all(1) & _weights_finite(trial.whole)
    told = {name: found.where_lively(each) for name, each in _told_apart(trial, drawn).items()}
    figures = {**found.figures(), **told}
    middles = {} if plain is None else found.middles(plain)
    return [
        _Row(
            {
                "held_out_windows": int(drawn.known[row].sum()),
                **{name: _rounded(values[row]) for name, values in figures.items()},
            },
            {name: float(values[row]) for name, values in middles.items()},
            bool(finite[row]),
        )
        for row in range(trial.windows.n_targets)
    ]


def _together(every: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the middle of what each member of a group is judged by: they are one model."""
    return {name: float(np.nanmedian([each[name] for each in every])) for name in every[0]}


def latent_size(whole: Detector, windows: Windows) -> int | None:
    """Return the dimensions of the latent of one window, None where the family has none."""
    if not isinstance(whole, Encodes):
        return None
    one = whole.select([0])
    assert isinstance(one, Encodes)
    return int(one.encode(windows.select([0]).span(0, 1)).shape[2])


# -- held-out windows -------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnWindows:
    """Held-out windows, fold after fold.

    Attributes:
        windows: of each fold, for the bank that did not see it.
        values: shape ``(n_targets, n, window * n_channels)``, all of them.
        known: shape ``(n_targets, n)``, False where a series holds fewer and one came back again.
        index: same shape, which window of the series.
        fold: shape ``(n,)``.
        apart: shape ``(n_targets,)``, how many windows would fit beside each other where these were drawn.
    """

    windows: tuple[PickedWindows, ...]
    values: Tensor
    known: Tensor
    index: Tensor
    fold: Tensor
    apart: Tensor


def _draw(trial: Trial) -> DrawnWindows:
    """Draw windows evenly from the insides of the blocks of every fold."""
    windows, folds = trial.windows, len(trial.blind)
    inside = _inside(windows, trial.block)
    fold = torch.arange(windows.n_windows) // trial.block % folds
    n = DRAWN // folds
    # At an even distance all windows could be of the same phase of a season.
    place = torch.arange(n) * GOLDEN % 1
    indices, known = [], []
    for k in range(folds):
        candidates = windows.weighted(inside & (fold == k))
        index = candidates.drawn(n, place)
        again = torch.nn.functional.pad(index.diff(dim=1) == 0, (1, 0))
        indices.append(index)
        known.append((candidates.weight.gather(1, index) > 0) & ~again)
    index = torch.cat(indices, dim=1)
    return DrawnWindows(
        windows=tuple(windows.picked(each) for each in indices),
        values=windows.gathered(index)[0].flatten(2),
        known=torch.cat(known, dim=1),
        index=index,
        fold=torch.arange(folds).repeat_interleave(n),
        apart=inside.sum(1) / windows.window + 1,
    )


def _inside(windows: Windows, block: int) -> Tensor:
    """True for windows well inside a block: those of two blocks lie a window apart, if blocks are that long.

    Windows without a gap, where they are a quarter of a series' windows or more, otherwise all scorable ones.
    """
    window = windows.window
    edge = min(window // 2, (block - window) // 2)
    place = torch.arange(windows.n_windows) % block
    there = (place >= edge) & (place + window <= block - edge) & (windows.weight > 0) & windows.scorable
    whole = there & (windows.missing_share == 0)
    enough = 4 * whole.sum(1) >= there.sum(1)
    return torch.where(enough.unsqueeze(1), whole, there)


@dataclass(frozen=True)
class CardAnswers:
    """What banks said of the held-out windows.

    Attributes:
        nll: shape ``(n_targets, n)``, negative log-likelihood in nats per observed value, infinite where a
            window lies outside the support; None where there is no density.
        error: same shape, mean squared difference from what was expected of the newer half of a window, given
            the older one, in squared scaled units.
        finite: shape ``(n_targets,)``, False where an answer was not a number.
    """

    nll: Tensor | None
    error: Tensor
    finite: Tensor


def _asked(banks: Sequence[Detector], drawn: DrawnWindows) -> CardAnswers:
    """Ask every bank for density and expectation of the windows of its fold."""
    nll, error = [], []
    for bank, windows in zip(banks, drawn.windows, strict=True):
        seen = ~windows.mask
        if isinstance(bank, HasLogProb):
            nll.append(-windows.own(bank.log_prob(windows)) / seen.sum(dim=(2, 3)).clamp_min(1))
        newer = torch.arange(windows.n_points) % windows.window >= windows.window // 2
        # Hidden, as an interval is where people are told what was expected: some families rebuild a step
        # that they see, others tell it by its neighbours, and neither says what the other knows.
        half = windows.hidden(newer.expand(windows.n_targets, -1))
        asked = seen & newer[: windows.window, None]
        off = torch.where(asked, windows.own(bank.expect(half).mean) - windows.values, 0.0)
        error.append(off.to(torch.float64).square().sum(dim=(2, 3)) / asked.sum(dim=(2, 3)).clamp_min(1))
    errors = torch.cat(error, dim=1)
    finite = (errors.isfinite() | ~drawn.known).all(1)
    if not nll:
        return CardAnswers(None, errors, finite)
    every = torch.cat(nll, dim=1).to(torch.float64)
    # Plus infinity is a window outside of a kernel's support, which is an answer.
    finite &= (~(every.isnan() | every.isneginf()) | ~drawn.known).all(1)
    return CardAnswers(every, errors, finite)


def _usual(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean of each row's known values without the largest ones, NaN where there are none."""
    n = known.sum(1, keepdim=True)
    order = values.masked_fill(~known, torch.inf).sort(dim=1).values
    keep = torch.arange(values.shape[1]) < (n * (1 - WORST)).ceil()
    return torch.where(keep, order, 0.0).sum(1) / keep.sum(1).to(values.dtype).masked_fill(
        n[:, 0] == 0, torch.nan
    )


def _middle(values: Tensor, known: Tensor) -> Tensor:
    """Return the median of each row's known values, NaN where there are none."""
    n = known.sum(1, keepdim=True)
    order = values.masked_fill(~known, torch.inf).sort(dim=1).values
    middle = order.gather(1, ((n - 1) // 2).clamp_min(0))
    return middle.masked_fill(n == 0, torch.nan).squeeze(1)


def _energy(windows: Tensor, about: Tensor) -> Tensor:
    """Return the mean square of each window ``(n_targets, n, size)`` about a level, ``(n_targets, n)``."""
    return (windows.to(torch.float64) - about[:, None, None]).square().mean(2)


def _weights_finite(whole: Detector) -> Tensor:
    """True for members all of whose weights are finite, shape ``(n_targets,)``."""
    tensors = [tensor for tensor in whole.state().values() if tensor.is_floating_point()]
    return torch.stack([tensor.reshape(len(tensor), -1).isfinite().all(1) for tensor in tensors]).all(0)


# -- samples against real windows -------------------------------------------------------


def _told_apart(trial: Trial, drawn: DrawnWindows) -> dict[str, Tensor]:
    """Tell samples, and real windows of neighbouring blocks, from held-out windows of every other block.

    Both comparisons have the same held-out windows: those of even blocks. The training blocks they are
    compared with are the odd ones, which the banks that are blind to the even ones have seen.
    """
    block = drawn.index // trial.block
    # Three pairs of neighbouring blocks a series, each longer than two windows, are the least to learn from.
    if trial.block < 2 * trial.windows.window or trial.windows.n_windows < 6 * trial.block:
        return {}
    whole = drawn.known & (trial.windows.missing_share.gather(1, drawn.index) == 0)
    group = block // 2 % twosample.GROUPS
    held_out = twosample.Side(drawn.values, whole & (block % 2 == 0), group, drawn.fold)
    seen = twosample.Side(drawn.values, whole & (block % 2 == 1), group, drawn.fold)
    if not bool(held_out.known.any()):
        return {}
    samples = _samples(
        trial, [k for k in range(len(trial.blind)) if bool(held_out.known[:, drawn.fold == k].any())]
    )
    found = twosample.compare(held_out, seen, samples, drawn.apart / 2)
    return {
        "c2st_auc": found.samples,
        "c2st_auc_training": found.training,
        "c2st_difference": found.samples - found.training,
        "c2st_low": found.samples - found.training - found.margin,
        "c2st_high": found.samples - found.training + found.margin,
    }


def _samples(trial: Trial, folds: Sequence[int]) -> twosample.Side:
    """Draw from the banks that are blind to these folds, each with a seed of its own."""
    n = DRAWN // max(1, len(folds))
    values = []
    for k in folds:
        bank = trial.blind[k]
        config = replace(bank.config, seed=bank.config.seed + 1 + k)
        values.append(type(bank).load(config, bank.state()).sample(n).flatten(2))
    drawn = torch.cat(values, dim=1)
    shape = drawn.shape[:2]
    return twosample.Side(
        drawn,
        drawn.isfinite().all(2),
        (torch.arange(shape[1]) % twosample.GROUPS).expand(shape),
        torch.tensor(folds).repeat_interleave(n),
    )


# -- verdict ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What is known of the members of a bank: answers to held-out windows, and samples.

    Attributes:
        samples: shape ``(n_targets, n, size)``, of the bank that is to be used.
    """

    drawn: DrawnWindows
    own: CardAnswers
    plain: CardAnswers | None
    samples: Tensor

    @cached_property
    def real_energy(self) -> Tensor:
        values = self.drawn.values
        return _energy(values, _level(values, self.drawn.known))

    @cached_property
    def sample_energy(self) -> Tensor:
        return _energy(self.samples, _level(self.samples, self._every_sample))

    @property
    def _every_sample(self) -> Tensor:
        return torch.ones(self.samples.shape[:2], dtype=torch.bool)

    def where_lively(self, values: Tensor) -> Tensor:
        """Return the values, NaN for series that hardly move: there is nothing to compare."""
        return values.masked_fill(~(_usual(self.real_energy, self.drawn.known) >= QUIET), torch.nan)

    def figures(self) -> dict[str, Tensor]:
        """Return what the card tells: means without the worst windows, shape ``(n_targets,)`` each."""
        known = self.drawn.known
        told = {}
        for name, answers in (("", self.own), ("_gaussian", self.plain)):
            if answers is not None and answers.nll is not None:
                told["nll" + name] = _usual(answers.nll, known)
            if answers is not None:
                told["rmse" + name] = _usual(answers.error, known).sqrt()
        ratio = _usual(self.sample_energy, self._every_sample) / _usual(self.real_energy, known)
        return {**told, "sample_variance": self.where_lively(ratio)}

    def middles(self, plain: CardAnswers) -> dict[str, Tensor]:
        """Return what a model is judged by: its middle windows, which no incident moves, ``(n_targets,)``."""
        known = self.drawn.known
        energy = _middle(self.real_energy, known)
        found = {
            "energy": energy,
            "share": _middle(self.sample_energy, self._every_sample) / energy,
            "error": _middle(self.own.error, known).sqrt(),
            "gaussian_error": _middle(plain.error, known).sqrt(),
        }
        if self.own.nll is not None and plain.nll is not None:
            found["nll"] = _middle(self.own.nll, known)
            found["excess"] = _middle(self.own.nll - plain.nll.clamp_min(_steps_nll(FINE**2)), known)
        return found


def _level(values: Tensor, known: Tensor) -> Tensor:
    """Return the middle value of all known windows."""
    return _middle(values.flatten(1), known.repeat_interleave(values.shape[2], 1)).to(torch.float64)


def _steps_nll(variance: float) -> float:
    """Return the nats per value of normal steps that know nothing of each other."""
    return 0.5 * math.log(2 * math.pi * math.e * variance)


def _broken(found: dict[str, float], *, finite: bool) -> tuple[str, ...]:
    """Return why a member is broken, from its middle windows."""
    if not finite:
        return ("it says what is not a number",)
    energy = found["energy"]
    if not energy >= QUIET:
        return ()
    why = []
    if found["share"] < LEAST_SHARE:
        why.append(f"its samples have {found['share']:.2g} of the real windows' variance")
    nll, excess = found.get("nll", math.nan), found.get("excess", math.nan)
    if MOST_NATS < excess < math.inf and nll > _steps_nll(energy):
        why.append(f"it is {excess:.2g} nats a value worse than a Gaussian on windows neither has seen")
    times = found["error"] / max(found["gaussian_error"], FINE)
    if times > MOST_ERROR and found["error"] > LEAST_KNOWN * math.sqrt(energy):
        why.append(f"what it expects is {times:.2g} times as far off as what a Gaussian does")
    return tuple(why)


def _rounded(value: Tensor) -> float | None:
    """Return a figure to four digits, None where there is none."""
    number = float(value)
    return float(f"{number:.4g}") if math.isfinite(number) else None
