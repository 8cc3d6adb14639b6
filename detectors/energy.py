"""Energy-based model of windows: a density learned by telling windows from noise of known density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected, check_trim
from detectors.maths import contrast, latents, surprise_parts
from detectors.maths.linear import LinearBase, latents_of
from detectors.maths.moments import trimmed
from detectors.maths.normal import log_density, log_standard, normal_expect
from detectors.pieces import Progress, in_pieces, once
from detectors.stacked import (
    NetworkConfig,
    Params,
    TrainingBatch,
    asinh,
    perceptron,
    perceptron_hidden,
    perceptron_weights,
)
from detectors.windows import Windows

NORMALISING = 16_384
"""Draws of noise over which the learned density is summed, to bring it to one."""


@dataclass(frozen=True)
class EnergyConfig(NetworkConfig):
    """What the energy-based model can be told.

    Attributes:
        latent: principal coordinates the energy lives on.
        hidden: width of the network's two hidden layers.
        noises: draws of noise for each window in training.
        bound: most nats by which the network moves a log-density off the normal one's.
        langevin: steps a sample is moved along the density.
        trim: share of the blocks, the worst ones, that is dropped before fitting; and of every batch.
    """

    latent: int = 8
    hidden: int = 128
    noises: int = 4
    bound: float = 10.0
    langevin: int = 30
    steps: int = 300
    max_windows: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("latent", "hidden", "noises", "langevin")
        if not 0 < self.bound < math.inf:
            raise ValueError(f"bound must be a number above 0, got {self.bound}")
        check_trim(self.trim)


class EnergyDetector(Detector):
    """Density of the first principal coordinates of windows, learned by telling them from noise.

    The score of a step joins three surprises, each in units of what it does on training windows: of its
    window's latent, the noise's negative log-density less the learned log-ratio of data to noise; the energy
    of what the latent leaves over; and the step's innovation given the steps before it.

    Gutmann & Hyvarinen 2010 (noise-contrastive estimation, PMLR 9:297-304); Zhai et al. 2016 (energies for
    anomaly detection), arXiv 1605.07717.

    Departures: the energy lives on 8 whitened coordinates, and off them windows are normal; the noise is a
    mixture of the fitted normal distribution with its covariance times 1, 2 and 4; the ratio is that of the
    normal distribution to the noise plus what the network adds, which is bounded, so that it cannot make up
    for being far from all data; the network sees ``asinh(z)``; the density is brought to one by a sum over
    noise; samples are short Langevin runs from draws of the normal distribution, corrected to leave the
    density as it is; missing steps hold their conditional mean under the normal distribution, which is also
    what ``expect`` returns. With more than 128 values a window the normal distribution is its principal
    components and white noise, so that samples are smoother than windows.

    A default member takes 72 KiB at window 24 and 106 KiB at window 128.
    """

    Config = EnergyConfig
    density: ClassVar[Density] = Density.APPROXIMATE
    family: ClassVar[str] = "Energy-based model"
    paper: ClassVar[str] = "Gutmann & Hyvarinen 2010; Zhai et al. 2016"
    folds: ClassVar[int] = 2

    config: EnergyConfig

    # -- fit ------------------------------------------------------------------------

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        state, kept, _, trained = latents.train_on(
            windows, self._fit_base, self._network_on, self.config, on_progress
        )
        # Without weights nothing is added: a member that failed is a normal distribution.
        state |= trained.silenced
        state |= {"log_total": self._log_total(state)}
        return state | surprise_parts.scale_by_member(self._raw_of, state, kept)

    def _network_on(self, base: Params) -> _Network:
        return _Network(self.config, base["spread"].shape[1])

    def _fit_base(self, windows: Windows) -> dict[str, Tensor]:
        """The normal distribution, latents of drawn windows, and the weights after trimming."""
        moments, kept = trimmed(windows, self.config.trim)
        base = LinearBase.of(moments, windows.window, self.config.latent)
        drawn = latents_of(base, kept, self.config.max_windows)
        return {**base.state(), "latents": drawn, "kept": kept.weight}

    def _log_total(self, state: dict[str, Tensor]) -> Tensor:
        """Log of what the density adds up to before it is brought to one, ``(n_targets,)``."""
        generator = torch.Generator().manual_seed(self.config.seed)
        network = self._model_of(state).network
        noise = contrast.noise(NORMALISING, network.latent, generator).unsqueeze(0)
        plain = log_standard(noise) - contrast.log_noise(noise)
        # One member at a time, so that memory stays bounded.
        members = [{name: t[i : i + 1] for name, t in state.items()} for i in range(len(state["mean"]))]
        total = torch.cat([(plain + network.added(member, noise)).logsumexp(1) for member in members])
        # Over what the normal distribution adds up to by the same draws: nothing added is then exactly one.
        return total - plain.logsumexp(1)

    # -- use ------------------------------------------------------------------------

    def _raw_of(self, state: dict[str, Tensor]) -> surprise_parts.Raw:
        """Return what maps windows to parts as theory standardises them: latent, rest, steps."""
        model = self._model_of(state)
        base = model.base
        return lambda values, mask, _: surprise_parts.latent_parts(
            base, base.normal, values, mask, model.log_latent
        )

    def _score(self, windows: Windows) -> Tensor:
        raws = once(lambda members: self._raw_of(self._state_of(members)))

        def scores(members: slice, piece: Windows) -> Tensor:
            raw = raws(members)(piece.values, surprise_parts.missing_in(piece), piece.starts)
            return surprise_parts.combined(raw, self._state_of(members))

        return in_pieces(windows, scores)

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of every window, ``(n_targets, n_windows)``.

        That of the normal distribution, missing steps marginalised, plus what was learned on the latent.
        """
        self._check_match(windows)

        def density(members: slice, piece: Windows) -> Tensor:
            model = self._model(members)
            plain, z = log_density(model.base.normal, piece), model.latent(piece)
            return plain.to(torch.float32) + model.log_latent(z) - log_standard(z)

        return in_pieces(windows, density)

    def encode(self, windows: Windows) -> Tensor:
        """Return the network's last hidden layer for every window, ``(n_targets, n_windows, hidden)``."""
        self._check_match(windows)

        def hidden(members: slice, piece: Windows) -> Tensor:
            model = self._model(members)
            return model.network.hidden(model.state, model.latent(piece))

        return in_pieces(windows, hidden)

    def _expect(self, windows: Windows) -> Expected:
        return normal_expect(windows, lambda members: self._model(members).base.normal)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        model = self._model(slice(None))
        size = model.base.mean.shape[1]
        white = torch.randn(n, size, generator=generator).to(torch.float64)
        x = (white @ model.base.normal.root.transpose(1, 2)).to(torch.float32)
        start = model.base.split(x)[0]
        z = contrast.langevin(model.log_latent, start, self.config.langevin, generator)
        x = x + model.base.mean.unsqueeze(1) + model.base.window_of(z - start)
        return x.view(self.n_targets, n, self.config.window, -1)

    def _model(self, members: slice) -> _Model:
        return self._model_of(self._state_of(members))

    def _model_of(self, state: dict[str, Tensor]) -> _Model:
        """The model of a state; its latent is smaller than asked for where windows are."""
        return _Model(_Network(self.config, state["axes"].shape[2]), state)

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window


@dataclass(frozen=True)
class _Network:
    """What the energy of one member adds to that of a normal distribution, on a whitened latent."""

    config: EnergyConfig
    latent: int

    def initial(self, generator: torch.Generator) -> Params:
        layers = perceptron_weights("energy", self.latent, self.config.hidden, 1, generator)
        # The head starts near zero: the density near the normal one.
        layers["energy.2.weight"] *= 0.1
        return layers

    def added(self, params: Params, z: Tensor) -> Tensor:
        """Return nats added to the log-density of latents, ``(n_targets, n)``."""
        bound = self.config.bound
        return bound * (perceptron(params, "energy", asinh(z)).squeeze(2) / bound).tanh()

    def hidden(self, params: Params, z: Tensor) -> Tensor:
        return perceptron_hidden(params, "energy", asinh(z))

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return how badly windows are told from noise, in nats."""
        n_targets, n, latent = batch.values.shape
        noise = contrast.noise(n * self.config.noises, latent, generator).expand(n_targets, -1, -1)
        z = torch.cat([batch.values, noise], dim=1)
        ratio = log_standard(z) - contrast.log_noise(z) + self.added(params, z)
        return contrast.loss(ratio[:, :n], ratio[:, n:])


@dataclass(frozen=True)
class _Model:
    """Some fitted members: network, linear base and normal distribution."""

    network: _Network
    state: dict[str, Tensor]

    @cached_property
    def base(self) -> LinearBase:
        return LinearBase.load(self.state)

    def log_latent(self, z: Tensor) -> Tensor:
        """Return the log-density of latents ``(n_targets, n, latent)``, shape ``(n_targets, n)``."""
        return log_standard(z) + self.network.added(self.state, z) - self.state["log_total"].unsqueeze(1)

    def latent(self, windows: Windows) -> Tensor:
        """Return the latents of windows, missing steps at their conditional mean."""
        x = self.base.about_mean(windows.values)
        if bool(windows.missing.any()):
            x = self.base.normal.filled(x, windows.mask.flatten(2))
        return self.base.split(x)[0]
