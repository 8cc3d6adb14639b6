"""Plain and denoising autoencoders of windows, trained as a bank."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected
from detectors.maths import second_stage, surprise_parts
from detectors.maths.second_stage import Codes, Residuals
from detectors.pieces import Progress, in_pieces
from detectors.stacked import (
    FAR,
    NetworkConfig,
    Params,
    TrainingBatch,
    asinh,
    filled,
    perceptron,
    perceptron_weights,
    train,
)
from detectors.windows import Windows

BEND = 2.0
"""Error in scaled units from which the loss grows like the error, no longer like its square."""


@dataclass(frozen=True)
class AutoencoderConfig(NetworkConfig):
    """What an autoencoder can be told.

    Attributes:
        latent: dimensions of the bottleneck.
        hidden: width of the two hidden layers of encoder and decoder.
        noise: standard deviation of the normal noise added to what the encoder sees in training, in
            scaled units; 0 is the plain autoencoder, above 0 the denoising one.
        sd_floor: smallest residual spread of a step, in scaled units.
        imputations: rounds of reconstruction that fill missing steps.
        components: most components of the mixture on the latent, by BIC among powers of two.
        trim: share of a batch, the worst, that teaches nothing; nor do as many windows, the worst
            reconstructed, teach which codes are usual.
    """

    latent: int = 8
    hidden: int = 64
    noise: float = 0.0
    sd_floor: float = 0.05
    imputations: int = 10
    components: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("latent", "hidden", "imputations", "components")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be a number from 0, got {self.noise}")
        if self.sd_floor <= 0:
            raise ValueError(f"sd_floor must be above 0, got {self.sd_floor}")

    def counts(self) -> tuple[int, ...]:
        """Return the numbers of components to choose from, ascending."""
        return tuple(2**i for i in range(self.components.bit_length()))


class AutoencoderDetector(Detector):
    """The score of a step is how badly it is reconstructed, beside what is usual at its place.

    Joined with it are two surprises of its window, the energy of all residuals and the negative
    log-density of the code under a mixture, each in units of what it does on training windows: an
    odd window may be reconstructed well from an odd code.

    Hinton & Salakhutdinov 2006 (doi 10.1126/science.1127647); with ``noise`` the denoising one of
    Vincent et al. 2008 (doi 10.1145/1390156.1390294).

    There is no density to be asked in the plain form, which is what ``density`` declares. With
    ``noise`` the way from a window to its reconstruction, over the squared noise, approximates the
    slope of the log-density (Vincent 2011, doi 10.1162/NECO_a_00142); the score does not use it.

    Departures: trained as one network, not layer by layer; normal noise instead of values set to
    zero; beyond 2 scaled units the loss grows like the error, not its square, so that spikes in the
    history do not outweigh the rest; the encoder sees ``asinh(x)``, so that a value far outside of
    the training data cannot make the decoder follow it; windows are drawn from a mixture on the
    latent, with normal residuals as wide and as correlated as usual ones (independent beyond 128 values
    a window), and missing steps filled by repeated reconstruction.

    A default member takes 53 KiB at window 24 and 137 KiB at window 128.
    """

    Config = AutoencoderConfig
    density: ClassVar[Density] = Density.NONE
    family: ClassVar[str] = "Autoencoder, plain or denoising"
    paper: ClassVar[str] = "Hinton & Salakhutdinov 2006; Vincent et al. 2008"
    folds: ClassVar[int] = 2

    config: AutoencoderConfig

    def encode(self, windows: Windows) -> Tensor:
        """Return the code of every window, shape ``(n_targets, n_windows, latent)``."""
        self._check_match(windows)

        def codes(members: slice, piece: Windows) -> Tensor:
            model = self._model(members)
            return model.encode(model.seen(piece.values, piece.mask).values)

        return in_pieces(_limited(windows), codes)

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        windows = _limited(windows)
        network = _Network(self.config, windows.window * windows.n_channels)
        trained = train(
            network,
            windows,
            self.config.training(),
            seed=self.config.seed,
            max_windows=self.config.max_windows,
            on_progress=on_progress,
        )
        # Without weights a failed member reconstructs 0, the median, from a code of 0.
        params = trained.silenced
        return {
            **params,
            **second_stage.learned(partial(_usual, network), params, windows),
            "failed": trained.failed,
        }

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            model = self._model(members)
            return surprise_parts.combined(
                model.parts(piece.values, surprise_parts.missing_in(piece)), model.state
            )

        return in_pieces(_limited(windows), scores)

    def _expect(self, windows: Windows) -> Expected:
        def both(members: slice, piece: Windows) -> Tensor:
            model = self._model(members)
            again = model.reconstruct(model.seen(piece.values, piece.mask).values)
            return torch.stack([again, model.spread.expand_as(again)], dim=2)

        found = in_pieces(_limited(windows), both)
        mean, scale = found.view(*found.shape[:3], windows.window, windows.n_channels).unbind(2)
        return Expected(mean, scale)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        model = self._model(slice(None))
        z = model.codes.sample(n, generator)
        noise = torch.randn(n, model.spread.shape[2], generator=generator)
        x = model.decode(z) + Residuals.load(self._state).of_noise(noise)
        return x.view(*x.shape[:2], self.config.window, self._n_channels())

    def _model(self, members: slice) -> _Model:
        return _Model(_Network(self.config, self._state["spread"].shape[1]), self._state_of(members))

    def _n_channels(self) -> int:
        return self._state["spread"].shape[1] // self.config.window


@dataclass(frozen=True)
class _Network:
    """Encoder and decoder of one member; windows come flattened to ``length`` values."""

    config: AutoencoderConfig
    length: int

    def initial(self, generator: torch.Generator) -> Params:
        hidden, latent = self.config.hidden, self.config.latent
        layers = {
            **perceptron_weights("encoder", self.length, hidden, latent, generator),
            **perceptron_weights("decoder", latent, hidden, self.length, generator),
        }
        # The head starts near zero: the reconstruction near the median.
        layers["decoder.2.weight"] *= 0.1
        return layers

    def encode(self, params: Params, x: Tensor) -> Tensor:
        return perceptron(params, "encoder", asinh(x))

    def decode(self, params: Params, z: Tensor) -> Tensor:
        return perceptron(params, "decoder", z)

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the error of what was observed, of every window: half its square below `BEND`."""
        seen = batch.values
        if self.config.noise:
            noise = torch.randn(seen.shape[1:], generator=generator)
            seen = (seen + self.config.noise * noise) * batch.kept
        again = self.decode(params, self.encode(params, seen))
        bent = ((batch.values - again) / BEND).square().add(1).sqrt() - 1
        return BEND**2 * (bent * batch.kept).sum(dim=2)


@dataclass(frozen=True)
class _Model:
    """Some fitted members: network, spreads and mixture."""

    network: _Network
    state: dict[str, Tensor]

    @property
    def spread(self) -> Tensor:
        """Usual residual of every place in the window, ``(n_targets, 1, size)``."""
        return self.state["spread"].unsqueeze(1)

    @property
    def codes(self) -> Codes:
        return Codes.load(self.state)

    def encode(self, x: Tensor) -> Tensor:
        return self.network.encode(self.state, x)

    def decode(self, z: Tensor) -> Tensor:
        return self.network.decode(self.state, z)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def seen(self, values: Tensor, mask: Tensor | None) -> TrainingBatch:
        """Return flat windows, missing steps filled round by round (mask None: nothing is missing)."""
        batch = TrainingBatch.of(values.flatten(2), None if mask is None else mask.flatten(2))
        return filled(batch, self.reconstruct, self.network.config.imputations)

    def parts(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """Parts as theory standardises them: code, rest, steps; ``(n_targets, k, 2 + window)``."""
        batch = self.seen(values, mask)
        z = self.encode(batch.values)
        off = (batch.values - self.decode(z)).mul_(batch.kept).div_(self.spread)
        step, energy = surprise_parts.steps_of(off, mask, values.shape[3])
        rest = surprise_parts.standard(energy, batch.kept.sum(2))
        codes = self.codes
        code = surprise_parts.latent_surprise(codes.mixture.log_prob(codes.whitened(z)), z.shape[2])
        return torch.cat([code.unsqueeze(2), rest.unsqueeze(2), step], dim=2)


def _usual(network: _Network, params: Params, windows: Windows) -> dict[str, Tensor]:
    """Return what residuals, codes and parts of the score do on training windows, as state."""
    model = _Model(network, params)
    values, mask = windows.gathered(windows.drawn(second_stage.DRAWN))
    batch = model.seen(values, mask if bool(mask.any()) else None)
    z = model.encode(batch.values)
    residual = (batch.values - model.decode(z)).mul_(batch.kept)
    good = second_stage.least(residual.abs().sum(2) / batch.kept.sum(2).clamp_min(1), network.config.trim)
    residuals = Residuals.of(residual, batch.kept, good, network.config.sd_floor)
    codes = Codes.of(second_stage.rows(z, good), windows, network.config.counts(), network.config.seed)
    own = residuals.state() | codes.state()
    model = _Model(network, params | own)
    return own | surprise_parts.scale_of(lambda values, mask, _: model.parts(values, mask), windows)


def _limited(windows: Windows) -> Windows:
    """Return the windows with no value farther out than `FAR`."""
    return replace(windows, series=windows.series.clamp(-FAR, FAR))
