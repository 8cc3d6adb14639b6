"""Generative adversarial network of windows, with an encoder that finds a window's code at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected, check_trim
from detectors.maths import latents, surprise_parts
from detectors.maths.linear import LinearBase, latents_of
from detectors.maths.moments import trimmed
from detectors.maths.wasserstein import CRITIC_STEPS, PENALTY, slope_penalty
from detectors.pieces import Progress, in_pieces
from detectors.stacked import (
    NetworkConfig,
    Params,
    Training,
    TrainingBatch,
    Turn,
    asinh,
    perceptron,
    perceptron_hidden,
    perceptron_weights,
)
from detectors.windows import Windows

COORDINATES = 128
"""Most principal coordinates the networks see: all of them up to 128 values a window."""

PACE = 0.03
"""What the generator's output is multiplied by: Adam moves every weight alike, and a generator that moves as
fast as its critic is led by one that knows nothing yet."""

FADE = (0.5, 0.99)
"""Adam forgets faster than elsewhere: what a side should do turns with the other one (Gulrajani 2017 has even
less memory, and thousands of steps)."""

LOUDER = 1.0
"""Largest log-scale by which the generator makes the noise beside a code louder or softer."""

SMALLEST_SPREAD = 1e-3
"""A feature of the critic that hardly moves between windows and their reconstruction tells nothing."""


@dataclass(frozen=True)
class GanConfig(NetworkConfig):
    """What the generative adversarial network can be told.

    Attributes:
        latent: dimensions of the code.
        hidden: width of the two hidden layers of generator, critic and encoder.
        reach: how far a code may lie from 0, in standard deviations of the codes that windows are made of.
        features: weight of the critic's features beside the windows themselves in the encoder's loss.
        steps: steps of generator and encoder; the critic makes five for each.
        trim: share of the blocks, the worst ones, that is dropped before fitting; and of every batch of
            critic and encoder.
    """

    latent: int = 16
    hidden: int = 64
    reach: float = 3.0
    features: float = 1.0
    steps: int = 300
    rate: float = 3e-3
    max_windows: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("latent", "hidden")
        if not 0 < self.reach < math.inf:
            raise ValueError(f"reach must be a number above 0, got {self.reach}")
        if not 0 <= self.features < math.inf:
            raise ValueError(f"features must be a number from 0, got {self.features}")
        check_trim(self.trim)

    def training(self) -> Training:
        return replace(super().training(), fade=FADE)


class GanDetector(Detector):
    """Generator against critic, and an encoder that finds the code a window could have been made of.

    The score of a step joins three surprises, each in units of what it does on training windows: the energy
    of what is left of its window less what the generator makes of its code; the distance of the two in the
    critic's last hidden layer; and the step's own part in what is left, given the steps before it.

    Gulrajani et al. 2017 (Wasserstein GAN with gradient penalty), arXiv 1704.00028; Schlegl et al. 2019
    (f-AnoGAN), doi 10.1016/j.media.2019.01.010.

    Departures: the networks work on whitened principal coordinates, where generator and encoder begin as
    probabilistic principal components and learn what they add; beside the code the generator gets noise for
    the other coordinates, so that windows are not too smooth, and reconstructs without it; codes are limited
    to `reach`, so that an odd window is not rebuilt from an odd code; critic and encoder see ``asinh`` of the
    coordinates; the encoder is trained beside the others instead of after them; what is left of a window is
    whitened step by step instead of squared as it is; missing steps hold their conditional mean under the
    principal components.

    A default member takes 79 KiB at window 24 and 220 KiB at window 128.
    """

    Config = GanConfig
    density: ClassVar[Density] = Density.IMPLICIT
    family: ClassVar[str] = "GAN with encoder"
    paper: ClassVar[str] = "Gulrajani et al. 2017; Schlegl et al. 2019"
    folds: ClassVar[int] = 2

    config: GanConfig

    # -- fit ------------------------------------------------------------------------

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        state, kept, coordinates, trained = latents.train_on(
            windows, self._fit_base, self._network_on, self.config, on_progress
        )
        # Without weights nothing is added: a member that failed is its principal components.
        state |= trained.silenced
        state |= {"feature_spread": self._feature_spread(state, coordinates)}
        return state | surprise_parts.scale_by_member(self._raw_of, state, kept)

    def _network_on(self, base: Params) -> _Game:
        return _Game(self.config, base["spread"].shape[1])

    def _fit_base(self, windows: Windows) -> dict[str, Tensor]:
        """Principal components, coordinates of drawn windows, and the weights after trimming."""
        moments, kept = trimmed(windows, self.config.trim)
        base = LinearBase.of(moments, windows.window, COORDINATES)
        coordinates = latents_of(base, kept, self.config.max_windows)
        return {**base.state(), "latents": coordinates, "kept": kept.weight}

    def _feature_spread(self, state: dict[str, Tensor], coordinates: Windows) -> Tensor:
        """How far each of the critic's features is apart on training windows, ``(n_targets, hidden)``."""
        drawn, _ = coordinates.gathered(coordinates.drawn(surprise_parts.DRAWN))
        apart = self._game(state).features_apart(state, drawn.squeeze(2))
        return apart.square().mean(1).sqrt().clamp_min(SMALLEST_SPREAD)

    # -- use ------------------------------------------------------------------------

    def _raw_of(self, state: dict[str, Tensor]) -> surprise_parts.Raw:
        """Return what maps windows to parts as theory standardises them: rest, features, steps."""
        base, game = LinearBase.load(state), self._game(state)
        normal = base.normal
        whitener = normal.whitener.transpose(1, 2).to(torch.float32)
        spread = state["feature_spread"].unsqueeze(1)

        def raw(values: Tensor, mask: Tensor | None, _: Tensor) -> Tensor:
            x, gone = base.about_mean(values), torch.zeros(())
            if mask is not None:
                x, gone = normal.filled(x, mask.flatten(2)), mask.flatten(2).sum(2)
            u = base.split(x)[0]
            left = x - base.window_of(game.reconstruct(state, u))
            step, energy = surprise_parts.steps_of(left @ whitener, mask, values.shape[3])
            rest = surprise_parts.standard(energy, left.shape[2] - game.latent - gone)
            apart = (game.features_apart(state, u) / spread).square().sum(2)
            features = surprise_parts.standard(apart, game.config.hidden)
            return torch.cat([rest.unsqueeze(2), features.unsqueeze(2), step], dim=2)

        return raw

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            raw = self._raw_of(state)(piece.values, surprise_parts.missing_in(piece), piece.start)
            return surprise_parts.combined(raw, state)

        return in_pieces(windows, scores)

    def encode(self, windows: Windows) -> Tensor:
        """Return the code of every window, each value within `reach`, ``(n_targets, n_windows, latent)``."""
        self._check_match(windows)

        def codes(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            return self._game(state).encode(state, _coordinates(state, piece))

        return in_pieces(windows, codes)

    def _expect(self, windows: Windows) -> Expected:
        def again(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base = LinearBase.load(state)
            made = self._game(state).reconstruct(state, _coordinates(state, piece))
            return (base.mean.unsqueeze(1) + base.window_of(made)).view(piece.values.shape)

        return Expected(in_pieces(windows, again))

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        base, game = LinearBase.load(self._state), self._game(self._state)
        made = game.made(self._state, game.noise(n, generator))
        white = torch.randn(n, base.mean.shape[1], generator=generator).expand(self.n_targets, -1, -1)
        x = base.mean.unsqueeze(1) + base.window_of(made)
        # What lies off the coordinates: nothing, up to 128 values a window.
        x = x + base.noise_of(white) if base.off_axes else x
        return x.view(self.n_targets, n, self.config.window, -1)

    def _game(self, state: dict[str, Tensor]) -> _Game:
        return _Game(self.config, state["axes"].shape[2])

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window


def _coordinates(state: dict[str, Tensor], windows: Windows) -> Tensor:
    """Whitened coordinates of windows, missing steps filled, ``(n_targets, n_windows, size)``."""
    base = LinearBase.load(state)
    return base.split(base.filled(windows.values, windows.mask))[0]


@dataclass(frozen=True)
class _Game:
    """Generator, critic and encoder of one member, on ``size`` whitened coordinates of windows."""

    config: GanConfig
    size: int

    @property
    def latent(self) -> int:
        """Dimensions of the code: fewer than asked for where windows have fewer."""
        return min(self.config.latent, self.size)

    @property
    def turns(self) -> tuple[Turn, ...]:
        critic = Turn("critic", self.critic_loss)
        makers = (Turn("generator", self.generator_loss), Turn("encoder", self.encoder_loss))
        return (critic,) * CRITIC_STEPS + makers

    def initial(self, generator: torch.Generator) -> Params:
        hidden = self.config.hidden
        layers = {
            **perceptron_weights("critic", self.size, hidden, 1, generator),
            # One output more than coordinates: how loud the noise beside the code is.
            **perceptron_weights("generator", self.latent, hidden, self.size + 1, generator),
            **perceptron_weights("encoder", self.size, hidden, self.latent, generator),
        }
        # Generator and encoder begin as the principal components.
        layers["generator.2.weight"] *= 0.0
        layers["encoder.2.weight"] *= 0.1
        return layers

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return what n windows are made of, code first, the same for all members: ``(1, n, size)``."""
        return torch.randn(1, n, self.size, generator=generator)

    def made(self, params: Params, noise: Tensor) -> Tensor:
        """Return the windows, in coordinates, that the generator makes of noise ``(.., n, size)``."""
        code, beside = noise[:, :, : self.latent], noise[:, :, self.latent :]
        out = PACE * perceptron(params, "generator", code.expand(len(params["generator.0.bias"]), -1, -1))
        louder = (LOUDER * (out[:, :, self.size :] / LOUDER).tanh()).exp()
        return out[:, :, : self.size] + torch.cat([code.expand(len(out), -1, -1), beside * louder], dim=2)

    def encode(self, params: Params, u: Tensor) -> Tensor:
        code = u[:, :, : self.latent] + perceptron(params, "encoder", asinh(u))
        return self.config.reach * (code / self.config.reach).tanh()

    def reconstruct(self, params: Params, u: Tensor) -> Tensor:
        """Return what the generator makes of the windows' codes, without noise beside them."""
        code = self.encode(params, u)
        return self.made(params, torch.nn.functional.pad(code, (0, self.size - self.latent)))

    def features_apart(self, params: Params, u: Tensor) -> Tensor:
        """Return windows less their reconstruction in the critic's eyes, ``(n_targets, n, hidden)``."""
        both = asinh(torch.cat([u, self.reconstruct(params, u)], dim=1))
        seen, again = perceptron_hidden(params, "critic", both).chunk(2, dim=1)
        return seen - again

    def critic_loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return how little the critic tells windows from generated ones, with the penalty on its slope."""

        def critic(seen: Tensor) -> Tensor:
            return perceptron(params, "critic", seen).squeeze(2)

        n = batch.values.shape[1]
        real, fake = asinh(batch.values), asinh(self.made(params, self.noise(n, generator)))
        for_real, for_fake = critic(torch.cat([real, fake], dim=1)).chunk(2, dim=1)
        share = torch.rand(n, 1, generator=generator)
        return for_fake - for_real + PENALTY * slope_penalty(critic, real, fake, share)

    def generator_loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return what the critic finds wrong with generated windows; the mean, as none is an anomaly."""
        fake = self.made(params, self.noise(batch.values.shape[1], generator))
        return -perceptron(params, "critic", asinh(fake)).squeeze(2).mean(1, keepdim=True)

    def encoder_loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the error of reconstructed windows, in coordinates and in the critic's features."""
        left = asinh(batch.values) - asinh(self.reconstruct(params, batch.values))
        apart = self.features_apart(params, batch.values).square().mean(2)
        return left.square().mean(2) + self.config.features * apart

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        return self.encoder_loss(params, batch, generator)
