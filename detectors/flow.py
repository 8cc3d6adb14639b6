"""Normalizing flow on the principal coordinates of windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected, check_trim
from detectors.maths import flows, latents, surprise_parts
from detectors.maths.flows import TRANSFORMS, Flow, Transform
from detectors.maths.linear import LinearBase
from detectors.maths.normal import normal_expect
from detectors.maths.surprise_parts import Raw
from detectors.pieces import Progress, in_pieces, once
from detectors.stacked import NetworkConfig
from detectors.windows import Windows


@dataclass(frozen=True)
class FlowConfig(NetworkConfig):
    """What the flow can be told.

    Attributes:
        transform: 'autoregressive' (Papamakarios 2017), 'coupling' (Dinh 2017) or 'spline' (Durkan 2019);
            the last one needs zuko and goes through the members of a bank one by one.
        latent: principal coordinates the flow lives on.
        transforms: transforms one after another.
        hidden: width of the hidden layer of each.
        trim: share of the blocks, the worst ones, that is dropped before fitting; and of every batch.
    """

    transform: Transform = "autoregressive"
    latent: int = 8
    transforms: int = 4
    hidden: int = 64
    steps: int = 300
    rate: float = 5e-3
    max_windows: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transform not in TRANSFORMS:
            raise ValueError(f"transform must be one of {', '.join(TRANSFORMS)}, got {self.transform!r}")
        if self.transform == "spline" and not flows.splines_are_installed():
            raise ValueError(
                "transform 'spline' needs the package zuko, which is not there; pip install zuko"
            )
        self._check_counts("latent", "transforms", "hidden")
        check_trim(self.trim)


@dataclass(frozen=True)
class Parts:
    """The surprises a score is made of, each about standard normal on normal data, and the latent's norm.

    Attributes:
        latent: shape ``(n_targets, n_windows)``: negative log-density of the latent.
        rest: same shape: energy of what the latent leaves over.
        step: shape ``(n_targets, n_windows, window)``: innovation of each step given the ones before it.
        norm: shape ``(n_targets, n_windows)``: squared norm of what the flow makes of the latent, chi-squared
            with ``latent`` degrees of freedom; without the log-determinant, so no part of the score.
    """

    latent: Tensor
    rest: Tensor
    step: Tensor
    norm: Tensor


class FlowDetector(Detector):
    """Normalizing flow of the first principal coordinates of windows.

    The score of a step joins three surprises, each in units of what it does on training windows: the negative
    log-density of its window's latent, with the flow's log-determinant; the energy of what the latent leaves
    over; and the step's innovation given the steps before it under the linear base.

    Papamakarios et al. 2017 (MAF), arXiv 1705.07057; Dinh et al. 2017 (RealNVP), arXiv 1605.08803; Durkan et
    al. 2019 (neural spline flows), arXiv 1906.04032.

    Departures: the flow lives on 8 whitened coordinates, and off them the density is normal; log-scales
    are bounded and the networks see ``asinh(z)``, so that windows far from all data stay finite and far; no
    batch normalisation; both halves of a coupling are moved, one of them by constants; missing steps hold
    their conditional mean under the linear base, which is also what ``expect`` returns.

    A default member takes 27 KiB at window 24 and 62 KiB at window 128; with splines 230 KiB.
    """

    Config = FlowConfig
    density: ClassVar[Density] = Density.TRACTABLE
    family: ClassVar[str] = "Normalizing flow"
    paper: ClassVar[str] = "Papamakarios et al. 2017; Dinh et al. 2017; Durkan et al. 2019"
    folds: ClassVar[int] = 2

    config: FlowConfig

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        # A member that failed keeps the map that changes nothing: its latent is a normal distribution.
        state, kept = latents.fit(self._flow, windows, self.config, on_progress)
        return state | surprise_parts.scale_by_member(self._raw_of, state, kept)

    def _raw_of(self, state: dict[str, Tensor]) -> Raw:
        """Return what maps windows to parts as theory standardises them: latent, rest, steps."""
        base, log_latent = LinearBase.load(state), self._log_latent(state)
        return lambda values, mask, _: surprise_parts.latent_parts(
            base, base.normal, values, mask, log_latent
        )

    def _log_latent(self, state: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        flow = self._flow(state)
        return lambda z: flows.log_prob(flow, state, z)

    def _score(self, windows: Windows) -> Tensor:
        raws = self._raws()

        def scores(members: slice, piece: Windows) -> Tensor:
            return surprise_parts.combined(raws(members)(*_asked(piece)), self._state_of(members))

        return in_pieces(windows, scores)

    def parts(self, windows: Windows) -> Parts:
        """Return the surprises the score is made of, and the norm of the latent."""
        self._check_match(windows)

        raws = self._raws()

        def scaled(members: slice, piece: Windows) -> Tensor:
            return surprise_parts.scaled(raws(members)(*_asked(piece)), self._state_of(members))

        found = in_pieces(windows, scaled)
        norm = self.encode(windows).square().sum(2)
        return Parts(found[:, :, 0], found[:, :, 1], found[:, :, 2:], norm)

    def _raws(self) -> Callable[[slice], Raw]:
        return once(lambda members: self._raw_of(self._state_of(members)))

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of every window, missing steps filled, shape ``(n_targets, n_windows)``."""
        self._check_match(windows)

        def density(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base = LinearBase.load(state)
            x = base.filled(piece.values, piece.mask)
            z, _ = base.split(x)
            return base.log_prob(self._log_latent(state)(z), x, z)

        return in_pieces(windows, density)

    def encode(self, windows: Windows) -> Tensor:
        """Return what the flow makes of every window's latent, ``(n_targets, n_windows, latent)``.

        On normal data it is about standard normal, and the flow's inverse gives the latent back exactly.
        """
        self._check_match(windows)

        def normal(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base = LinearBase.load(state)
            z = base.split(base.filled(piece.values, piece.mask))[0]
            return self._flow(state).forward(state, z)[0]

        return in_pieces(windows, normal)

    def _expect(self, windows: Windows) -> Expected:
        return normal_expect(windows, lambda members: LinearBase.load(self._state_of(members)).normal)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        base = LinearBase.load(self._state)
        n_targets, size, latent = base.axes.shape
        u = torch.randn(n, latent, generator=generator).expand(n_targets, -1, -1)
        z = self._flow(self._state).inverse(self._state, u)
        noise = base.noise_of(torch.randn(n, size, generator=generator).expand(n_targets, -1, -1))
        x = base.mean.unsqueeze(1) + base.window_of(z) + noise
        return x.view(n_targets, n, self.config.window, -1)

    def _flow(self, state: dict[str, Tensor]) -> Flow:
        """The flow on the latent of a state: smaller than asked for where windows are."""
        return self._flow_on(state["axes"].shape[2])

    def _flow_on(self, latent: int) -> Flow:
        return flows.flow(self.config.transform, latent, self.config.transforms, self.config.hidden)

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window


def _asked(windows: Windows) -> tuple[Tensor, Tensor | None, Tensor]:
    return windows.values, surprise_parts.missing_in(windows), windows.starts
