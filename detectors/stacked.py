"""Train a whole bank of small networks at once: one set of weights per target, one optimiser.

The weights of all members lie side by side in one tensor of shape ``(n_targets, n_weights)``; a
layer is a view of it and a product over ``(n_targets, batch, features)``. Whatever is random is
drawn once and shared by all members (which windows, which noise, which initial weights), so that
a member fitted alone is the member fitted in a bank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import relu

from detectors.base import DetectorConfig, Progress, Windows

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
    """

    steps: int = 600
    batch: int = 64
    rate: float = 3e-3
    clip: float = 10.0
    trim: float = 0.05
    check_every: int = 25
    patience: int = 8
    attempts: int = 2

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
class Batch:
    """Some windows of every member.

    Attributes:
        values: shape ``(n_targets, n, window * n_channels)``, 0 where missing.
        kept: same shape, 1.0 where observed, 0.0 where missing.
    """

    values: Tensor
    kept: Tensor

    @classmethod
    def of(cls, values: Tensor, missing: Tensor | None) -> Batch:
        """Return the batch of flat windows, 0 where missing (None: nothing is)."""
        kept = torch.ones(()).expand_as(values) if missing is None else (~missing).to(torch.float32)
        return cls(values, kept)


class Network(Protocol):
    """What can be trained as a bank."""

    def initial(self, generator: torch.Generator) -> Params:
        """Return one member's fresh weights, without the axis of targets."""

    def loss(self, params: Params, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of every window in nats, ``(n_targets, n)``; members share the noise."""


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


def as_windows(latents: Tensor, kept: Windows) -> Windows:
    """Return latents ``(n_targets, n, latent)`` as windows of one step, to train on.

    Args:
        latents: of windows drawn from ``kept``.
        kept: the training windows; members without any teach nothing.
    """
    usable = (kept.weight > 0).any(1, keepdim=True).to(torch.float32)
    n_targets, n, _ = latents.shape
    missing = torch.zeros_like(latents, dtype=torch.bool)
    return Windows(latents, missing, usable.expand(n_targets, n), kept.start, window=1)


def batches(windows: Windows, size: int) -> Iterator[tuple[slice, Batch]]:
    """Yield all windows of a bank to be scored, ``size`` of every member at a time, oldest first.

    Values are limited to `FAR`, which no scaled series comes near: their squares stay finite.
    """
    length = windows.window * windows.n_channels
    complete = not bool(windows.missing.any())
    for first in range(0, windows.n_windows, size):
        part = slice(first, min(first + size, windows.n_windows))
        values = windows.values[:, part].reshape(windows.n_targets, -1, length).clamp(-FAR, FAR)
        yield part, Batch.of(values, None if complete else windows.mask[:, part].reshape_as(values))


def filled(batch: Batch, reconstruct: Callable[[Tensor], Tensor], rounds: int) -> Batch:
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
    return Batch(batch.values.index_copy(1, gappy, values), batch.kept)


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

    FADE = (0.9, 0.999)

    def __init__(self, weights: Tensor, gradient: Tensor, moments: Moments, steps: int) -> None:
        self.moments = moments
        self.steps = steps
        flat = (weights, gradient, *moments)
        self._stretches = list(zip(*(torch.split(t.view(-1), STRETCH) for t in flat), strict=True))

    def step(self, rate: float) -> None:
        self.steps += 1
        fade, slow_fade = self.FADE
        scale = 1 / math.sqrt(1 - slow_fade**self.steps)
        rate = rate / (1 - fade**self.steps)
        for weights, gradient, first, second in self._stretches:
            first.lerp_(gradient, 1 - fade)
            second.mul_(slow_fade).addcmul_(gradient, gradient, value=1 - slow_fade)
            weights.addcdiv_(first, second.sqrt().mul_(scale).add_(1e-8), value=-rate)


class _Bank:
    """The members still in training: their weights, gradients and optimiser."""

    def __init__(
        self,
        layout: _Layout,
        flat: Tensor,
        training: Training,
        moments: Moments | None = None,
        steps: int = 0,
    ) -> None:
        self.layout = layout
        self.flat = flat
        self.training = training
        self._gradient = torch.zeros_like(flat)
        self._gradients = list(layout.views(self._gradient).values())
        self.leaves = {name: leaf.requires_grad_() for name, leaf in layout.views(flat.detach()).items()}
        moments = moments or (torch.zeros_like(flat), torch.zeros_like(flat))
        self._adam = Adam(flat, self._gradient, moments, steps)

    def step(self, network: Network, batch: Batch, rate: float, noise: torch.Generator) -> None:
        loss = trimmed_mean(network.loss(self.leaves, batch, noise), self.training.trim).sum()
        with torch.no_grad():
            for kept, fresh in zip(
                self._gradients, torch.autograd.grad(loss, list(self.leaves.values())), strict=True
            ):
                kept.copy_(fresh)
            norm = torch.linalg.vector_norm(self._gradient, dim=1, keepdim=True)
            self._gradient.mul_((self.training.clip / norm.clamp(min=1e-12)).clamp(max=1.0))
            self._adam.step(rate)

    def select(self, rows: Tensor) -> _Bank:
        """Return the bank of some members, with what their optimiser remembers."""
        first, second = self._adam.moments
        moments = (first[rows], second[rows])
        return _Bank(self.layout, self.flat[rows], self.training, moments, self._adam.steps)


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
    watch = _Watch(fresh.clone(), training, nothing=data.draws.count == 0)
    bank, at, part = _Bank(layout, fresh.clone(), training), torch.arange(data.n_targets), data
    for step in range(training.steps):
        bank.step(network, part.training(_shares(training.batch, noise)), _rate(training, step), noise)
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

    def __init__(self, best: Tensor, training: Training, nothing: Tensor) -> None:
        n = best.shape[0]
        self.best = best
        self.loss = torch.full((n,), torch.inf)
        self.failed = nothing.clone()
        self._stale = torch.zeros(n, dtype=torch.int64)
        self._patience = training.patience

    @property
    def running(self) -> Tensor:
        """True for members that neither failed nor ran out of patience."""
        return ~self.failed & (self._stale < self._patience)

    def look(self, at: Tensor, bank: _Bank, loss: Tensor) -> None:
        """Note the held-out loss of the bank's members, which are rows ``at`` of all members."""
        running = self.running[at]
        broken = ~(torch.isfinite(loss) & torch.isfinite(bank.flat).all(dim=1))
        self.failed[at] |= running & broken
        better = running & ~broken & (loss < self.loss[at])
        # Less than a thousandth, or than a thousandth of a nat, is no improvement worth waiting for,
        # but still the better weights.
        clearly = better & (loss < self.loss[at] - 1e-3 * loss.abs().clamp(min=1.0))
        self._stale[at] = torch.where(clearly, 0, self._stale[at] + 1)
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

    def training(self, share: Tensor) -> Batch:
        return self._batch(self.draws.training(share))

    def held_out(self, share: Tensor) -> Batch:
        return self._batch(self.draws.held_out(share))

    def _batch(self, position: Tensor) -> Batch:
        values = self._values[self._rows, position]
        return Batch.of(values, None if self._complete else self._missing[self._rows, position])


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
