"""Networks that learn the density of a linear base's latent: one base a member, one training for the bank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from detectors.maths.linear import LinearBase, latents_of
from detectors.maths.moments import trimmed
from detectors.pieces import Progress, fit_in_pieces
from detectors.stacked import Network, Params, Trained, Training, train
from detectors.windows import Windows

BASE = 0.2
"""Share of the work that is done once the bases are there, about."""


class LatentConfig(Protocol):
    """What a detector on a latent has been told."""

    @property
    def latent(self) -> int: ...
    @property
    def trim(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def max_windows(self) -> int: ...

    def training(self) -> Training: ...


def fit(
    network: Callable[[Params], Network], windows: Windows, config: LatentConfig, on_progress: Progress
) -> tuple[Params, Windows]:
    """Return bases and trained weights of a bank as state, and the windows without the worst blocks.

    A member whose training failed, or that has no windows, keeps its untrained weights.

    Args:
        network: maps the state of the bases to the network that is trained on latents, windows of one step.
        windows: the training windows.
        config: the latent's dimensions, how much is trimmed, and how the network is trained.
        on_progress: called with the share of the work that is done.
    """

    def base_of(members: Windows) -> Params:
        """The linear base in closed form, latents of drawn windows, and the weights after trimming."""
        moments, kept = trimmed(members, config.trim)
        base = LinearBase.of(moments, members.window, config.latent)
        return {
            **base.state(),
            "latents": latents_of(base, kept, config.max_windows),
            "kept": kept.weight,
        }

    state, kept, _, trained = train_on(windows, base_of, network, config, on_progress)
    return state | trained.params, kept


def train_on(
    windows: Windows,
    base_of: Callable[[Windows], Params],
    network: Callable[[Params], Network],
    config: LatentConfig,
    on_progress: Progress,
) -> tuple[Params, Windows, Windows, Trained]:
    """Fit a base in closed form, and train a network on the latents it gives windows.

    Args:
        windows: windows of weight above 0 teach.
        base_of: maps the windows of some members to what is learned of them, with ``latents`` of drawn
            windows and ``kept``, the weights of the training windows; four members at a time.
        network: maps the state of the bases to the network.
        config: how it is trained.
        on_progress: called with the share of the work that is done.

    Returns:
        What the base learned, the training windows, their latents as windows of one step, and the network.
    """
    # Four members' drawn windows take 4 MiB at window 128.
    state = fit_in_pieces(windows, base_of, lambda share: on_progress(BASE * share), members=4)
    kept = windows.weighted(state.pop("kept"))
    latents = _as_windows(state.pop("latents"), kept)
    trained = train(
        network(state),
        latents,
        config.training(),
        seed=config.seed,
        max_windows=latents.n_windows,
        on_progress=lambda share: on_progress(BASE + (1 - BASE) * share),
    )
    return state, kept, latents, trained


def _as_windows(latents: Tensor, kept: Windows) -> Windows:
    """Latents ``(n_targets, n, latent)`` as windows of one step; members without windows teach nothing."""
    usable = (kept.weight > 0).any(1, keepdim=True).to(torch.float32)
    n_targets, n, _ = latents.shape
    missing = torch.zeros_like(latents, dtype=torch.bool)
    return Windows(latents, missing, usable.expand(n_targets, n), kept.start, window=1)
