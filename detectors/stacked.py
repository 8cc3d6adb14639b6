"""Train a whole bank of small networks at once: one set of weights per target, one optimiser.

The weights of all members lie side by side in one tensor of shape ``(n_targets, n_weights)``; a
layer is a view of it and a product over ``(n_targets, batch, features)``. Whatever is random is
drawn once and shared by all members (which windows, which noise, which initial weights), so that
a member fitted alone is the member fitted in a bank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import relu

from detectors.base import DetectorConfig
from detectors.pieces import Progress
from detectors.windows import Windows

Params = dict[str, Tensor]
"""Weights by name. Of a bank: ``n_targets`` is the first axis of each."""

BANK_WEIGHTS = 2_000_000
"""Weights trained at once: with gradient and moments 32 MB, beyond which the cache stops helping."""

BLOCKS = 20
"""Contiguous blocks a history is cut into; two of them are held out of training."""

HELD = (6, 14)
"""Which blocks are held out: one from each half, neither the oldest nor the newest."""

HELD_WINDOWS = 256
"""Held-out windows looked at by a check, evenly spread."""

FAR = 1e12
"""Largest scaled value a network is shown while scoring."""

STRETCH = 32_768
"""Weights the optimiser handles at a time: its temporaries stay in the cache."""

ALIGN = 64
"""Weights of a member are padded to a multiple of this, so that every member starts at a fresh
cache line and vector instructions treat it alike wherever it lies in the bank."""


@dataclass(frozen=True)
class Training:
    """How a bank is trained.

    Attributes:
        steps: optimiser steps at most.
        batch: windows of every member in one step.
        rate: Adam's learning rate at its highest; warmed up, then lowered along a cosine.
        clip: largest gradient norm of a member.
        trim: share of a batch, the worst, that teaches nothing: training data hold anomalies too.
        check_every: steps between looks at the held-out blocks.
        patience: looks without improvement after which a member stops.
        attempts: fits of a member that diverges, each from another seed at a lower rate.
        fade: what of Adam's mean and mean square of the gradient is left after a step.
    """

    steps: int = 600
    batch: int = 64
    rate: float = 3e-3
    clip: float = 10.0
    trim: float = 0.05
    check_every: int = 25
    patience: int = 8
    attempts: int = 2
    fade: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "check_every", "patience", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.trim < 1:
            raise ValueError(f"trim must be a share in [0, 1), got {self.trim}")
        if self.rate <= 0 or self.clip <= 0:
            raise ValueError(f"rate and clip must be above 0, got {self.rate} and {self.clip}")


@dataclass(frozen=True)
class NetworkConfig(DetectorConfig):
    """What every detector that is trained as a bank can be told.

    Attributes:
        steps: optimiser steps at most.
        batch: windows of a target in one step.
        rate: Adam's highest learning rate.
        trim: share of a batch, the worst, that teaches nothing.
    """

    steps: int = 120
    batch: int = 64
    rate: float = 3e-3
    trim: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self.training()

    def training(self) -> Training:
        """Return how the bank is trained; refuses what `Training` refuses."""
        return Training(steps=self.steps, batch=self.batch, rate=self.rate, trim=self.trim)


@dataclass(frozen=True)
class TrainingBatch:
    """Some windows of every member.

    Attributes:
        values: shape ``(n_targets, n, window * n_channels)``, 0 where missing.
        kept: same shape, 1.0 where observed, 0.0 where missing.
    """

    values: Tensor
    kept: Tensor

    @classmethod
    def of(cls, values: Tensor, missing: Tensor | None) -> TrainingBatch:
        """Return the batch of flat windows, 0 where missing (None: nothing is)."""
        kept = torch.ones(()).expand_as(values) if missing is None else (~missing).to(torch.float32)
        return cls(values, kept)


class Network(Protocol):
    """What can be trained as a bank."""

    def initial(self, generator: torch.Generator) -> Params:
        """Return one member's fresh weights, without the axis of targets."""

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the loss of every window in nats, ``(n_targets, n)``; members share the noise."""


@dataclass(frozen=True)
class Turn:
    """One network's turn in a game.

    Attributes:
        side: what the names of its weights begin with; the others stay as they are.
        loss: what it lowers, as ``Network.loss``; ``(n_targets, 1)`` where nothing is to be trimmed.
    """

    side: str
    loss: Callable[[Params, TrainingBatch, torch.Generator], Tensor]


@runtime_checkable
class Game(Network, Protocol):
    """Networks that are trained in turns, each against the others as they are.

    The last weights are kept, not those that did best on held-out blocks: no loss of one side tells how
    good all of them are. ``loss`` is looked at for being finite.
    """

    @property
    def turns(self) -> Sequence[Turn]:
        """What is done in one step, in order, each turn with windows of its own."""


@dataclass(frozen=True)
class Trained:
    """A trained bank.

    Attributes:
        params: the weights, finite; those of a failed member are its untrained ones.
        failed: shape ``(n_targets,)``, True where every attempt diverged or no window was trainable.
        held_out: shape ``(n_targets,)``, trimmed mean loss on the held-out blocks.
    """

    params: Params
    failed: Tensor
    held_out: Tensor

    @property
    def silenced(self) -> Params:
        """The weights, all zero for members that failed: their networks return zeros."""
        return {
            name: value.masked_fill(self.failed.view(-1, *[1] * (value.ndim - 1)), 0.0)
            for name, value in self.params.items()
        }


@dataclass(frozen=True)
class Draws:
    """Which windows of each member are used, evenly spread over its history, oldest first.

    Attributes:
        position: shape ``(n_targets, most)``, index of a window; padding repeats the last one.
        count: shape ``(n_targets,)``, how many of them are the member's.
    """

    position: Tensor
    count: Tensor

    @property
    def held_block(self) -> Tensor:
        """Draws in one held-out block, shape ``(n_targets,)``; 0 for the shortest histories."""
        return self.count // BLOCKS

    def training(self, share: Tensor) -> Tensor:
        """Return windows at these shares of the training draws.

        Args:
            share: shape ``(n,)``, in [0, 1), the same for every member.

        Returns:
            Positions, shape ``(n_targets, n)``.
        """
        block = self.held_block[:, None]
        rank = _at_share(share, self.count - 2 * self.held_block)
        for held in HELD:
            rank = rank + torch.where(rank >= held * block, block, 0)
        return self.position.gather(1, rank)

    def held_out(self, share: Tensor) -> Tensor:
        """Return windows at these shares of the held-out draws (of all, where none is held out)."""
        block = self.held_block[:, None]
        rank = _at_share(share, 2 * self.held_block)
        first, second = HELD[0] * block + rank, HELD[1] * block + rank - block
        held = torch.where(rank < block, first, second)
        return self.position.gather(1, torch.where(block > 0, held, _at_share(share, self.count)))


def draw(weight: Tensor, most: int, seed: int) -> Draws:
    """Return at most ``most`` windows of every member, one from each of as many equal stretches.

    The place inside its stretch is random, so that no period of the series is met in step.

    Args:
        weight: shape ``(n_targets, n_windows)``; windows of weight 0 are never drawn.
        most: windows of one member.
        seed: the same seed draws the same windows, whatever else is in the bank.
    """
    usable = weight > 0
    available = usable.sum(dim=1)
    count = available.clamp(max=most)
    share = torch.rand(most, generator=_generator(seed), dtype=torch.float64)[: max(int(count.max()), 1)]
    edge = torch.arange(len(share) + 1) * available[:, None] // count.clamp(min=1)[:, None]
    first, stop = edge[:, :-1], edge[:, 1:]
    rank = first + (share * (stop - first)).long()
    rank = torch.minimum(rank, (available - 1).clamp(min=0)[:, None])
    position = torch.searchsorted(usable.cumsum(dim=1), rank + 1)
    return Draws(position.clamp(max=weight.shape[1] - 1), count)


def train(
    network: Network,
    windows: Windows,
    training: Training,
    *,
    seed: int,
    max_windows: int,
    on_progress: Progress,
) -> Trained:
    """Return the trained weights of every member.

    A member whose weights or loss become infinite is fitted again from another seed, and reported
    as failed when that fails too; its neighbours never notice.

    Args:
        network: the loss and the shape of one member.
        windows: windows of weight above 0 teach.
        training: how long and how fast.
        seed: decides windows, noise and initial weights of every member.
        max_windows: windows drawn of one member.
        on_progress: called with the share of the work that is done.
    """
    data = _Data(windows, draw(windows.weight, max_windows, seed))
    size = max(1, BANK_WEIGHTS // _Layout.of(network.initial(_generator(seed))).width)
    done: list[Trained] = []
    with one_thread():
        for rows in torch.split(torch.arange(data.n_targets), size):
            part = _part(on_progress, int(rows[0]), len(rows), data.n_targets)
            done.append(_train_with_retries(network, data.select(rows), training, seed, part))
    on_progress(1.0)
    return Trained(
        {name: torch.cat([part.params[name] for part in done]) for name in done[0].params},
        torch.cat([part.failed for part in done]),
        torch.cat([part.held_out for part in done]),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: small products lose more by waiting for each other than they gain.

    On a machine that is busy otherwise two threads train six times slower than one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """Return a dense layer of every member, ``(n_targets, n, n_in)`` to ``(n_targets, n, n_out)``."""
    return torch.baddbmm(params[f"{name}.bias"].unsqueeze(1), x, params[f"{name}.weight"])


def perceptron(params: Params, name: str, x: Tensor) -> Tensor:
    """Return three dense layers of every member, rectified between: from ``n_in`` to ``n_out`` features."""
    return linear(params, f"{name}.2", perceptron_hidden(params, name, x))


def perceptron_hidden(params: Params, name: str, x: Tensor) -> Tensor:
    """Return what the last hidden layer of a ``perceptron`` holds, ``(n_targets, n, hidden)``."""
    return relu(linear(params, f"{name}.1", relu(linear(params, f"{name}.0", x))))


def asinh(x: Tensor) -> Tensor:
    """Return the inverse hyperbolic sine: a line about 0, a logarithm far out.

    Built of vectorised operations, it takes an eighth of the time of ``torch.asinh``.
    """
    squares = x.square()
    return (squares / (1 + (1 + squares).sqrt_())).add_(x.abs()).log1p_().copysign_(x)


def dense(name: str, n_in: int, n_out: int, generator: torch.Generator) -> Params:
    """Return a dense layer's fresh weights for one member (He 2015 for rectifiers, zero biases)."""
    weight = torch.randn(n_in, n_out, generator=generator) * math.sqrt(2.0 / n_in)
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(n_out)}


def perceptron_weights(name: str, n_in: int, hidden: int, n_out: int, generator: torch.Generator) -> Params:
    """Return the fresh weights of a ``perceptron`` for one member."""
    return {
        **dense(f"{name}.0", n_in, hidden, generator),
        **dense(f"{name}.1", hidden, hidden, generator),
        **dense(f"{name}.2", hidden, n_out, generator),
    }


def batches(windows: Windows, size: int) -> Iterator[tuple[slice, TrainingBatch]]:
    """Yield all windows of a bank to be scored, ``size`` of every member at a time, oldest first.

    Values are limited to `FAR`, which no scaled series comes near: their squares stay finite.
    """
    length = windows.window * windows.n_channels
    complete = not bool(windows.missing.any())
    for first in range(0, windows.n_windows, size):
        part = slice(first, min(first + size, windows.n_windows))
        values = windows.values[:, part].reshape(windows.n_targets, -1, length).clamp(-FAR, FAR)
        yield part, TrainingBatch.of(values, None if complete else windows.mask[:, part].reshape_as(values))


def filled(batch: TrainingBatch, reconstruct: Callable[[Tensor], Tensor], rounds: int) -> TrainingBatch:
    """Return the batch with missing values replaced by their reconstruction, round by round.

    Args:
        batch: some windows of every member.
        reconstruct: maps values ``(n_targets, k, size)`` to what is to stand where they are missing.
        rounds: reconstructions, each of windows that hold the one before.
    """
    if bool((batch.kept == 1).all()):
        return batch
    gappy = (batch.kept < 1).any(dim=2).any(dim=0).nonzero().flatten()
    kept, values = batch.kept[:, gappy], batch.values[:, gappy]
    for _ in range(rounds):
        values = torch.where(kept == 1, values, reconstruct(values))
    return TrainingBatch(batch.values.index_copy(1, gappy, values), batch.kept)


def trimmed_mean(loss: Tensor, trim: float) -> Tensor:
    """Return the mean of each row without its largest values, ``(n_targets, n)`` to ``(n_targets,)``."""
    keep = max(1, math.ceil(loss.shape[1] * (1 - trim)))
    if keep == loss.shape[1]:
        return loss.mean(dim=1)
    return loss.topk(keep, dim=1, largest=False, sorted=False).values.mean(dim=1)


@dataclass(frozen=True)
class _Layout:
    """Where each weight lies in a member's row."""

    shapes: dict[str, torch.Size]
    width: int

    @classmethod
    def of(cls, initial: Params) -> _Layout:
        total = sum(tensor.numel() for tensor in initial.values())
        return cls({name: tensor.shape for name, tensor in initial.items()}, -(-total // ALIGN) * ALIGN)

    def row(self, initial: Params) -> Tensor:
        flat = torch.cat([tensor.flatten() for tensor in initial.values()])
        return torch.nn.functional.pad(flat, (0, self.width - flat.numel()))

    def columns(self, names: Sequence[str]) -> slice:
        """Return where neighbouring weights lie, and the padding behind where they are all there are."""
        if len(names) == len(self.shapes):
            return slice(0, self.width)
        ends = list(accumulate(shape.numel() for shape in self.shapes.values()))
        at = [list(self.shapes).index(name) for name in names]
        return slice(ends[at[0]] - self.shapes[names[0]].numel(), ends[at[-1]])

    def views(self, flat: Tensor) -> Params:
        views, at = {}, 0
        for name, shape in self.shapes.items():
            views[name] = flat[:, at : at + shape.numel()].view(flat.shape[0], *shape)
            at += shape.numel()
        return views


Moments = tuple[Tensor, Tensor]
"""Running mean and mean square of the gradient, each of the shape of the weights."""


class Adam:
    """Kingma & Ba 2014 (arXiv 1412.6980) over the weights of a whole bank, a stretch at a time.

    Ours, because `torch.optim` takes three seconds of imports at its first step in every process,
    and because a bank must be able to go on with some of its members.
    """

    def __init__(
        self, weights: Tensor, gradient: Tensor, moments: Moments, steps: int, fade: tuple[float, float]
    ) -> None:
        self.steps = steps
        self._fade = fade
        flat = (weights, gradient, *moments)
        if all(t.is_contiguous() for t in flat):
            self._stretches = list(zip(*(torch.split(t.view(-1), STRETCH) for t in flat), strict=True))
        else:
            rows = max(1, STRETCH // weights.shape[1])
            self._stretches = list(zip(*(torch.split(t, rows) for t in flat), strict=True))

    def step(self, rate: float) -> None:
        self.steps += 1
        fade, slow_fade = self._fade
        scale = 1 / math.sqrt(1 - slow_fade**self.steps)
        rate = rate / (1 - fade**self.steps)
        for weights, gradient, first, second in self._stretches:
            first.lerp_(gradient, 1 - fade)
            second.mul_(slow_fade).addcmul_(gradient, gradient, value=1 - slow_fade)
            weights.addcdiv_(first, second.sqrt().mul_(scale).add_(1e-8), value=-rate)


class _Bank:
    """The members still in training: their weights, and what moves those of each side.

    Args:
        layout: where each weight lies.
        flat: the weights of all members, ``(n_targets, width)``.
        training: how they are trained.
        steps: steps made by each side.
        moments: what their optimisers remember.
    """

    def __init__(
        self,
        layout: _Layout,
        flat: Tensor,
        training: Training,
        steps: Mapping[str, int],
        moments: Moments | None = None,
    ) -> None:
        self.layout = layout
        self.flat = flat
        self.training = training
        self.leaves = {name: leaf.requires_grad_() for name, leaf in layout.views(flat.detach()).items()}
        self._moments = moments or (torch.zeros_like(flat), torch.zeros_like(flat))
        self._sides = {side: self._side(side, made) for side, made in steps.items()}

    def _side(self, side: str, steps: int) -> _Side:
        names = [name for name in self.leaves if name.startswith(side)]
        columns = self.layout.columns(names)
        first, second = (each[:, columns] for each in self._moments)
        leaves = {name: self.leaves[name] for name in names}
        return _Side(leaves, self.flat[:, columns], (first, second), steps, self.training)

    def step(self, turns: Sequence[Turn], batch: TrainingBatch, rate: float, noise: torch.Generator) -> None:
        for i, turn in enumerate(turns):
            own = TrainingBatch(batch.values[:, i :: len(turns)], batch.kept[:, i :: len(turns)])
            side = self._sides[turn.side]
            fixed = {name: leaf.detach() for name, leaf in self.leaves.items() if name not in side.leaves}
            loss = trimmed_mean(turn.loss(side.leaves | fixed, own, noise), self.training.trim).sum()
            side.descend(loss, rate)

    def select(self, rows: Tensor) -> _Bank:
        """Return the bank of some members, with what their optimisers remember."""
        first, second = self._moments
        steps = {name: side.steps for name, side in self._sides.items()}
        return _Bank(self.layout, self.flat[rows], self.training, steps, (first[rows], second[rows]))


class _Side:
    """The weights of one side of all members, their gradients and optimiser."""

    def __init__(
        self, leaves: Params, flat: Tensor, moments: Moments, steps: int, training: Training
    ) -> None:
        self.leaves = leaves
        self._clip = training.clip
        self._gradient = torch.zeros_like(flat, memory_format=torch.contiguous_format)
        self._adam = Adam(flat, self._gradient, moments, steps, training.fade)

    @property
    def steps(self) -> int:
        return self._adam.steps

    def descend(self, loss: Tensor, rate: float) -> None:
        gradients = torch.autograd.grad(loss, list(self.leaves.values()))
        with torch.no_grad():
            at = 0
            for fresh in gradients:
                width = fresh[0].numel()
                self._gradient[:, at : at + width] = fresh.flatten(1)
                at += width
            norm = torch.linalg.vector_norm(self._gradient, dim=1, keepdim=True)
            self._gradient.mul_((self._clip / norm.clamp(min=1e-12)).clamp(max=1.0))
            self._adam.step(rate)


def _train_with_retries(
    network: Network, data: _Data, training: Training, seed: int, on_progress: Progress
) -> Trained:
    trained = _train_once(network, data, training, seed, on_progress)
    for attempt in range(1, training.attempts):
        rows = trained.failed.nonzero().flatten()
        if not len(rows):
            break
        gentler = replace(training, rate=training.rate * 0.3**attempt)
        again = _train_once(network, data.select(rows), gentler, seed + 7919 * attempt, on_progress)
        trained = _replaced(trained, rows, again)
    return trained


def _train_once(
    network: Network, data: _Data, training: Training, seed: int, on_progress: Progress
) -> Trained:
    """Return one attempt: the weights of every member that did best on its held-out blocks."""
    noise = _generator(seed)
    initial = network.initial(noise)
    layout = _Layout.of(initial)
    fresh = layout.row(initial).repeat(data.n_targets, 1)
    is_game = isinstance(network, Game)
    turns = network.turns if isinstance(network, Game) else (Turn("", network.loss),)
    watch = _Watch(fresh.clone(), training, nothing=data.draws.count == 0, keeps_last=is_game)
    bank = _Bank(layout, fresh.clone(), training, {turn.side: 0 for turn in turns})
    at, part = torch.arange(data.n_targets), data
    for step in range(training.steps):
        batch = part.training(_shares(training.batch * len(turns), noise))
        bank.step(turns, batch, _rate(training, step), noise)
        if (step + 1) % training.check_every and step + 1 < training.steps:
            continue
        on_progress((step + 1) / training.steps)
        watch.look(at, bank, _held_out(network, bank, part, training, seed))
        rows = watch.running[at].nonzero().flatten()
        if not len(rows):
            break
        # A bank half of whose members have stopped is cheaper to rebuild than to drag along.
        if len(rows) * 2 <= len(at):
            bank, part, at = bank.select(rows), part.select(rows), at[rows]
    params = layout.views(torch.where(watch.failed[:, None], fresh, watch.best))
    return Trained({name: view.clone() for name, view in params.items()}, watch.failed, watch.loss)


class _Watch:
    """What the held-out blocks say about every member."""

    def __init__(self, best: Tensor, training: Training, nothing: Tensor, *, keeps_last: bool) -> None:
        n = best.shape[0]
        self.best = best
        self.loss = torch.full((n,), torch.inf)
        self.failed = nothing.clone()
        self._stale = torch.zeros(n, dtype=torch.int64)
        self._patience = training.patience
        self._keeps_last = keeps_last

    @property
    def running(self) -> Tensor:
        """True for members that neither failed nor ran out of patience."""
        return ~self.failed & (self._stale < self._patience)

    def look(self, at: Tensor, bank: _Bank, loss: Tensor) -> None:
        """Note the held-out loss of the bank's members, which are rows ``at`` of all members."""
        running = self.running[at]
        broken = ~(torch.isfinite(loss) & torch.isfinite(bank.flat).all(dim=1))
        self.failed[at] |= running & broken
        better = running & ~broken & ((loss < self.loss[at]) | self._keeps_last)
        # Less than a thousandth, or than a thousandth of a nat, is no improvement worth waiting for,
        # but still the better weights.
        clearly = better & (loss < self.loss[at] - 1e-3 * loss.abs().clamp(min=1.0))
        self._stale[at] = torch.where(clearly | self._keeps_last, 0, self._stale[at] + 1)
        self.best[at[better]] = bank.flat[better]
        self.loss[at[better]] = loss[better]


class _Data:
    """The series of a bank, flattened so that a window is one contiguous slice, and its draws."""

    def __init__(self, windows: Windows, draws: Draws) -> None:
        length = windows.window * windows.n_channels
        self.draws = draws
        self._windows = windows
        self._values = windows.series.flatten(1).unfold(1, length, windows.n_channels)
        self._missing = windows.missing.flatten(1).unfold(1, length, windows.n_channels)
        self._complete = not bool(windows.missing.any())
        self._rows = torch.arange(windows.n_targets)[:, None]

    @property
    def n_targets(self) -> int:
        return self._windows.n_targets

    def select(self, rows: Tensor) -> _Data:
        return _Data(self._windows.select(rows), Draws(self.draws.position[rows], self.draws.count[rows]))

    def training(self, share: Tensor) -> TrainingBatch:
        return self._batch(self.draws.training(share))

    def held_out(self, share: Tensor) -> TrainingBatch:
        return self._batch(self.draws.held_out(share))

    def _batch(self, position: Tensor) -> TrainingBatch:
        values = self._values[self._rows, position]
        return TrainingBatch.of(values, None if self._complete else self._missing[self._rows, position])


def _held_out(network: Network, bank: _Bank, data: _Data, training: Training, seed: int) -> Tensor:
    share = (torch.arange(HELD_WINDOWS, dtype=torch.float64) + 0.5) / HELD_WINDOWS
    with torch.no_grad():
        loss = network.loss(bank.leaves, data.held_out(share), _generator(seed))
    return trimmed_mean(loss, training.trim)


def _replaced(trained: Trained, rows: Tensor, again: Trained) -> Trained:
    params = {name: value.index_copy(0, rows, again.params[name]) for name, value in trained.params.items()}
    return Trained(
        params,
        trained.failed.index_copy(0, rows, again.failed),
        trained.held_out.index_copy(0, rows, again.held_out),
    )


def _part(on_progress: Progress, first: int, n: int, of: int) -> Progress:
    """Return a progress of ``n`` members, the first of them ``first``, as a part of the whole."""
    return lambda share: on_progress((first + share * n) / of)


def _at_share(share: Tensor, count: Tensor) -> Tensor:
    rank = (share[None, :] * count[:, None]).long()
    return torch.minimum(rank, (count - 1).clamp(min=0)[:, None])


def _shares(n: int, noise: torch.Generator) -> Tensor:
    """Return n shares in [0, 1), one from each n-th: every batch covers the whole history."""
    jitter = torch.rand(n, generator=noise, dtype=torch.float64)
    return (torch.arange(n) + jitter) / n


def _rate(training: Training, step: int) -> float:
    warm = min(1.0, (step + 1) / 20)
    return training.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / training.steps)))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
