"""Variational autoencoder of windows, with Donut's losses, trained as a bank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from detectors.base import Density, Detector, Expected
from detectors.maths import second_stage
from detectors.maths.second_stage import Codes, Residuals
from detectors.pieces import Progress
from detectors.stacked import (
    FAR,
    NetworkConfig,
    Params,
    TrainingBatch,
    asinh,
    batches,
    filled,
    perceptron,
    perceptron_weights,
    train,
)
from detectors.windows import Windows

LOG_2PI = math.log(2 * math.pi)

Spread = Literal["place", "window"]

PACE = 10.0
"""What the standard deviations of places are multiplied by before softplus, in training: Adam moves
every weight alike, and in 120 steps these have far to go."""

COMPONENTS = (1, 2, 4, 8)
"""Numbers of normal distributions that usual latents may be mixed of, chosen by BIC."""

SMALLEST_RESIDUAL = 0.01
"""Of the decoder's standard deviation: a place that never moves still has some."""

AT_ONCE = 0.3
"""Share of a window's error that takes its residuals as correlated: of 0, .3, .5 and 1 the one that loses
nothing on four labelled data sets of one channel, and gains .2 of VUS-PR on odd shapes."""

CHUNK = 1_000_000
"""Values of one temporary while scoring: 4 MB stays near the cache."""


@dataclass(frozen=True)
class VaeConfig(NetworkConfig):
    """What a variational autoencoder can be told.

    Attributes:
        latent: dimensions of the latent (Donut: 5 to 8).
        hidden: width of the two hidden layers of encoder and decoder.
        sd: 'place' for one standard deviation of every place in the window, 'window' for Donut's, which
            the decoder gives anew for every latent.
        sd_floor: smallest standard deviation of a step, in scaled units.
        missing: share of observed steps hidden in training (Donut: .01).
        imputations: rounds of reconstruction that fill missing steps (Donut: 10).
        draws: latent draws a score is averaged over, the same for every window; even.
        bound_draws: latent draws of ``log_prob``'s importance-weighted bound.
        together: weight of the window's mean error beside the step's own, in units of the square
            root of the window, with which both vary alike; 0 is the paper's score.
        steps: optimiser steps at most; more fit clean histories closer (.1 nats a step at 600) and
            learn the anomalies of others.
    """

    latent: int = 8
    hidden: int = 64
    sd: Spread = "place"
    sd_floor: float = 0.05
    missing: float = 0.01
    imputations: int = 10
    draws: int = 4
    bound_draws: int = 64
    together: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("latent", "hidden", "imputations", "bound_draws")
        if self.draws < 2 or self.draws % 2:
            raise ValueError(
                f"draws must be even and at least 2 (they come in opposite pairs), got {self.draws}"
            )
        if self.sd not in get_args(Spread):
            raise ValueError(f"sd must be one of {', '.join(get_args(Spread))}, got {self.sd!r}")
        if self.sd_floor <= 0:
            raise ValueError(f"sd_floor must be above 0, got {self.sd_floor}")
        if not 0 <= self.missing < 1:
            raise ValueError(f"missing must be a share in [0, 1), got {self.missing}")
        if self.together < 0:
            raise ValueError(f"together must be at least 0, got {self.together}")


@dataclass(frozen=True)
class _Normal:
    """Independent normal distributions: ``mean`` and ``sd`` of one shape."""

    mean: Tensor
    sd: Tensor

    def nll(self, x: Tensor) -> Tensor:
        """Return the negative log-density of every value, in nats."""
        return ((x - self.mean) / self.sd).square().mul(0.5) + self.sd.log() + 0.5 * LOG_2PI

    def distance(self) -> Tensor:
        """Return the divergence (KL) from the standard normal, in nats, summed over the last axis."""
        return (0.5 * (self.mean.square() + self.sd.square() - 1) - self.sd.log()).sum(dim=-1)

    def draws(self, noise: Tensor) -> Tensor:
        """Return draws by fixed noise ``(n_draws, d)``: ``(n_targets, n, d)`` to ``(.., n, n_draws, d)``."""
        return self.mean.unsqueeze(2) + self.sd.unsqueeze(2) * noise


class VaeDetector(Detector):
    """The score of a step is the negative log-probability of its reconstruction, in nats.

    It is averaged over one fixed set of latent draws. Beside it stands the window's own: the bound
    on its negative log-probability per step, so that a weak change that lasts shows in the newest
    step already, and so does a window that is reconstructed well from an unlikely latent.

    Kingma & Welling 2013, arXiv 1312.6114; Xu et al. 2018 (Donut), arXiv 1802.03903.

    Departures: the whole KL is scaled by the share of observed steps, not its prior term alone;
    the standard deviation depends on the place in the window alone (`sd`; 'window' is the paper's),
    so that an odd latent cannot excuse a large error by a large spread; the encoder sees
    ``asinh(x)``, so that a value far outside of the training data cannot make the decoder follow it;
    missing steps are filled with the mean reconstruction instead of a draw; the window's bound is
    added to each step's score (`together`; 0 is the paper's); once the network is trained, the prior
    of ``log_prob`` and ``sample`` becomes a mixture of latents as they come (Dai & Wipf 2019, arXiv
    1903.05789), and residuals as correlated as usual ones; three tenths of a window's own error are that
    of such residuals, the rest, like a step's own, that of independent ones.

    A default member at window 24 takes 61 KiB; at window 128, where input and output layers and
    the correlation of residuals dominate, 171 KiB.
    """

    Config = VaeConfig
    density: ClassVar[Density] = Density.APPROXIMATE
    family: ClassVar[str] = "Variational autoencoder"
    paper: ClassVar[str] = "Kingma & Welling 2013; Xu et al. 2018"
    folds: ClassVar[int] = 2

    config: VaeConfig

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the importance-weighted bound of every window (Burda 2015, arXiv 1509.00519)."""
        self._check_match(windows)
        noise = self._noise(self.config.bound_draws)
        residuals = Residuals.load(self._state)
        bounds = [self._bound(batch, noise, residuals) for _, batch in self._batches(windows, len(noise))]
        return torch.cat(bounds, dim=1)

    def encode(self, windows: Windows) -> Tensor:
        """Return the mean of q(z) of every window, shape ``(n_targets, n_windows, latent)``."""
        self._check_match(windows)
        network = self._network(windows.n_channels)
        means = [network.posterior(self._state, batch.values).mean for _, batch in self._batches(windows, 1)]
        return torch.cat(means, dim=1)

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        network = self._network(windows.n_channels)
        trained = train(
            network,
            windows,
            self.config.training(),
            seed=self.config.seed,
            max_windows=self.config.max_windows,
            on_progress=on_progress,
        )
        params = network.settled(trained.params)
        return {**params, **second_stage.learned(self._usual, params, windows), "failed": trained.failed}

    def _usual(self, params: Params, windows: Windows) -> Params:
        """Return what latents and residuals are like on training windows, as state."""
        network = self._network(windows.n_channels)
        values, mask = windows.gathered(windows.drawn(second_stage.DRAWN))
        batch = TrainingBatch.of(
            values.flatten(2).clamp(-FAR, FAR), mask.flatten(2) if bool(mask.any()) else None
        )
        q = network.posterior(params, batch.values)
        decoded = network.decode(params, q.mean)
        residual = (batch.values - decoded.mean).div_(decoded.sd).mul_(batch.kept)
        good = second_stage.least(residual.abs().sum(2) / batch.kept.sum(2).clamp_min(1), self.config.trim)
        residuals = Residuals.of(residual, batch.kept, good, SMALLEST_RESIDUAL)
        generator = torch.Generator().manual_seed(self.config.seed)
        z = q.mean + q.sd * torch.randn(q.mean.shape[1:], generator=generator)
        codes = Codes.of(second_stage.rows(z, good), windows, COMPONENTS, self.config.seed)
        return residuals.state() | codes.state()

    def _score(self, windows: Windows) -> Tensor:
        noise = self._noise(self.config.draws)
        together = self.config.together * math.sqrt(windows.window)
        scores = torch.empty(windows.n_targets, windows.n_windows, windows.window)
        residuals = Residuals.load(self._state)
        for part, batch in self._batches(windows, len(noise)):
            error, whole = self._errors(batch, noise, residuals)
            mean = whole / batch.kept.sum(dim=2).clamp(min=1.0)
            steps = error.view(*error.shape[:2], windows.window, windows.n_channels).mean(dim=3)
            scores[:, part] = steps + together * mean.unsqueeze(2)
        return scores

    def _errors(self, batch: TrainingBatch, noise: Tensor, residuals: Residuals) -> tuple[Tensor, Tensor]:
        """Return the error of every value, and of every window.

        A window's is that of its values one by one, and that of all at once, as correlated as usual residuals
        are: the one finds spikes, the other shapes. The latent's distance from the prior is added.
        """
        network = self._network(self._n_channels())
        posterior = network.posterior(self._state, batch.values)
        decoded = network.decode_draws(self._state, posterior.draws(noise))
        error = decoded.nll(batch.values.unsqueeze(2)).mean(dim=2)
        sd, kept = decoded.sd.mean(dim=2), batch.kept
        residual = (batch.values - decoded.mean.mean(dim=2)) / sd
        at_once = (kept * sd.log()).sum(dim=2)
        at_once = at_once - residuals.log_prob(residual.unsqueeze(2), kept).squeeze(2)
        whole = (1 - AT_ONCE) * (error * kept).sum(dim=2) + AT_ONCE * at_once + posterior.distance()
        failed, plain = self._state["failed"][:, None], _plain_nll(batch.values)
        return (
            torch.where(failed.unsqueeze(2), plain, error),
            torch.where(failed, (plain * kept).sum(dim=2), whole),
        )

    def _bound(self, batch: TrainingBatch, noise: Tensor, residuals: Residuals) -> Tensor:
        network = self._network(self._n_channels())
        posterior = network.posterior(self._state, batch.values)
        z = posterior.draws(noise)
        decoded = network.decode_draws(self._state, z)
        residual = (batch.values.unsqueeze(2) - decoded.mean) / decoded.sd
        evidence = residuals.log_prob(residual, batch.kept)
        evidence = evidence - (decoded.sd.log() * batch.kept.unsqueeze(2)).sum(dim=3)
        prior = Codes.load(self._state).log_prob(z.flatten(1, 2)).view(z.shape[:3])
        proposal = -(_plain_nll(noise) + posterior.sd.log().unsqueeze(2)).sum(dim=3)
        bound = (evidence + prior - proposal).logsumexp(dim=2) - math.log(len(noise))
        plain = -(_plain_nll(batch.values) * batch.kept).sum(dim=2)
        return torch.where(self._state["failed"][:, None], plain, bound)

    def _expect(self, windows: Windows) -> Expected:
        network = self._network(windows.n_channels)
        parts = []
        for _, batch in self._batches(windows, 1):
            parts.append(network.decode(self._state, network.posterior(self._state, batch.values).mean))
        shape = (windows.n_targets, windows.n_windows, windows.window, windows.n_channels)
        failed = self._state["failed"][:, None, None, None]
        mean = torch.cat([part.mean for part in parts], dim=1).reshape(shape)
        sd = torch.cat([part.sd for part in parts], dim=1).reshape(shape)
        return Expected(torch.where(failed, 0.0, mean), torch.where(failed, 1.0, sd))

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        network = self._network(self._n_channels())
        x = network.decode(self._state, Codes.load(self._state).sample(n, generator))
        noise = torch.randn(n, x.mean.shape[2], generator=generator)
        residual = Residuals.load(self._state).of_noise(noise)
        failed = self._state["failed"][:, None, None]
        drawn = torch.where(failed, noise, x.mean + x.sd * residual)
        return drawn.view(*drawn.shape[:2], self.config.window, self._n_channels())

    def _batches(self, windows: Windows, draws: int) -> Iterator[tuple[slice, TrainingBatch]]:
        """Yield all windows, missing steps filled, few enough at a time for ``draws`` decodings."""
        one = windows.n_targets * draws * max(windows.window * windows.n_channels, self.config.hidden)
        for part, batch in batches(windows, max(1, CHUNK // one)):
            yield part, filled(batch, self._reconstruct, self.config.imputations)

    def _reconstruct(self, x: Tensor) -> Tensor:
        network = self._network(self._n_channels())
        mean = network.decode(self._state, network.posterior(self._state, x).mean).mean
        return torch.where(self._state["failed"][:, None, None], 0.0, mean)

    def _noise(self, n: int) -> Tensor:
        """Return the fixed latent draws, in opposite pairs so that their mean is exact."""
        half = torch.randn(
            n // 2, self.config.latent, generator=torch.Generator().manual_seed(self.config.seed)
        )
        return torch.cat([half, -half])

    def _network(self, n_channels: int) -> _VaeNetwork:
        return _VaeNetwork(self.config, self.config.window * n_channels)

    def _n_channels(self) -> int:
        return self._state["encoder.0.weight"].shape[1] // self.config.window


@dataclass(frozen=True)
class _VaeNetwork:
    """Encoder and decoder of one member; windows come flattened to ``length`` values."""

    config: VaeConfig
    length: int

    def initial(self, generator: torch.Generator) -> Params:
        hidden, latent = self.config.hidden, self.config.latent
        layers = {
            **perceptron_weights("encoder", self.length, hidden, 2 * latent, generator),
            **perceptron_weights("decoder", latent, hidden, 2 * self.length, generator),
        }
        # Heads start near zero: q(z) near the prior, reconstruction near the median.
        for head in ("encoder.2.weight", "decoder.2.weight"):
            layers[head] *= 0.1
        return layers

    def settled(self, params: Params) -> Params:
        """Return the weights to decode with: where `sd` is 'place', none leads from latent to spread."""
        if self.config.sd == "window":
            return params
        centre, spread = params["decoder.2.bias"].chunk(2, dim=1)
        mean = params["decoder.2.weight"][:, :, : self.length]
        return {
            **params,
            "decoder.2.weight": torch.cat([mean, torch.zeros_like(mean)], dim=2),
            "decoder.2.bias": torch.cat([centre, PACE * spread], dim=1),
        }

    def posterior(self, params: Params, x: Tensor) -> _Normal:
        mean, sd = perceptron(params, "encoder", asinh(x)).chunk(2, dim=2)
        return _Normal(mean, softplus(sd) + 1e-4)

    def decode(self, params: Params, z: Tensor) -> _Normal:
        mean, sd = perceptron(params, "decoder", z).chunk(2, dim=2)
        return _Normal(mean, softplus(sd) + self.config.sd_floor)

    def decode_draws(self, params: Params, z: Tensor) -> _Normal:
        """Return the decoder's view of latents of shape ``(n_targets, n, n_draws, latent)``."""
        x = self.decode(params, z.flatten(1, 2))
        shape = (*z.shape[:3], self.length)
        return _Normal(x.mean.reshape(shape), x.sd.reshape(shape))

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return Donut's modified bound, negated, in nats per window."""
        params = self.settled(params)
        hide = torch.rand(batch.values.shape[1:], generator=generator) < self.config.missing
        noise = torch.randn(batch.values.shape[1], self.config.latent, generator=generator)
        kept = batch.kept * ~hide
        x = batch.values * kept
        q = self.posterior(params, x)
        nll = self.decode(params, q.mean + q.sd * noise).nll(x)
        return (nll * kept).sum(dim=2) + kept.mean(dim=2) * q.distance()


def _plain_nll(x: Tensor) -> Tensor:
    """Return the error under the standard normal, which stands in for a member that failed."""
    return 0.5 * x.square() + 0.5 * LOG_2PI
