"""Gaussian mixture on the principal coordinates of windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected, TrimmedConfig
from detectors.maths import mixture, surprise_parts
from detectors.maths.linear import LinearBase, latents_of
from detectors.maths.lowrank import LowRank
from detectors.maths.mixture import Mixture
from detectors.maths.moments import trimmed
from detectors.maths.normal import expected
from detectors.pieces import Progress, fit_in_pieces, in_pieces
from detectors.windows import Windows


@dataclass(frozen=True)
class GmmConfig(TrimmedConfig):
    """What the mixture can be told.

    Attributes:
        latent: principal coordinates the mixture lives on.
        components: numbers of components to choose from, ascending.
    """

    latent: int = 8
    components: tuple[int, ...] = (4, 8, 16)
    max_windows: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("latent")
        # A configuration that was stored as JSON comes back with a list.
        object.__setattr__(self, "components", tuple(self.components))
        if (
            not self.components
            or min(self.components) < 1
            or list(self.components) != sorted(self.components)
        ):
            raise ValueError(f"components must be ascending numbers from 1, got {self.components}")


class GmmDetector(Detector):
    """Mixture of 4 to 16 normal distributions on the first principal coordinates of windows.

    The score of a step joins three surprises, each in units of what it does on training windows: the
    mixture's negative log-density of its window's latent, the energy of what the latent leaves over, and
    the step's innovation given the steps before it under the linear base.

    Dempster, Laird & Rubin 1977 (doi 10.1111/j.2517-6161.1977.tb01600.x), started by k-means++.

    Departures: components have a weak prior covariance, so none collapses onto a window; BIC counts one
    sample per window's length, since overlapping windows are not independent; while scoring, missing steps
    hold their conditional mean under the linear base (``log_prob`` and ``expect`` marginalise the mixture).
    """

    Config = GmmConfig
    density = Density.TRACTABLE
    family = "Gaussian mixture"
    paper = "Dempster, Laird & Rubin 1977"

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        # The features and responsibilities of four members take 25 MiB; of short ones more fit.
        most = self.config.max_windows
        members = 4 * most // min(most, windows.n_windows)
        return fit_in_pieces(windows, self._fit_members, on_progress, members=members)

    def _fit_members(self, windows: Windows) -> dict[str, Tensor]:
        moments, kept = trimmed(windows, self.config.trim)
        base = LinearBase.of(moments, windows.window, self.config.latent)
        fitted = self._mixture(base, kept)
        scale = surprise_parts.scale_of(lambda values, mask, _: _raw_parts(base, fitted, values, mask), kept)
        stored = {"weight": fitted.weight, "centre": fitted.mean, "covariance": fitted.covariance}
        return base.state() | scale | {name: t.to(torch.float32) for name, t in stored.items()}

    def _mixture(self, base: LinearBase, windows: Windows) -> Mixture:
        count = (windows.weight > 0).sum(1)
        z = latents_of(base, windows, self.config.max_windows)
        samples = (count / windows.window).to(torch.float64)
        return mixture.fit(z, count > 0, self.config.components, samples=samples, seed=self.config.seed)

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            raw = _raw_parts(*self._model_of(members), piece.values, surprise_parts.missing_in(piece))
            return surprise_parts.combined(raw, self._state_of(members))

        return in_pieces(windows, scores)

    def _expect(self, windows: Windows) -> Expected:
        def moments(members: slice, piece: Windows) -> Tensor:
            base, fitted = self._model_of(members)
            x, missing = base.about_mean(piece.values), piece.mask.flatten(2)
            given = LowRank.of(base, fitted).conditioned(x, missing)
            posterior = (_log_weight(fitted) + given.log_prob).softmax(1).unsqueeze(3)
            mean = (posterior * given.mean).sum(1)
            variance = (posterior * (given.variance + given.mean.square())).sum(1) - mean.square()
            both = torch.stack([mean + base.mean.unsqueeze(1), variance.clamp_min(1e-12).sqrt()], dim=2)
            return both.to(torch.float32)

        return expected(windows, moments, distributions=max(self.config.components))

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        base, fitted = LinearBase.load(self._state), _mixture_of(self._state)
        z = fitted.sample(n, generator)
        white = torch.randn(n, base.mean.shape[1], generator=generator)
        noise = base.noise_of(white.expand(self.n_targets, -1, -1))
        x = base.mean.unsqueeze(1) + base.window_of(z) + noise
        return x.view(*z.shape[:2], self.config.window, -1)

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of the observed values of every window, ``(n_targets, n_windows)``."""
        self._check_match(windows)

        def density(members: slice, piece: Windows) -> Tensor:
            base, fitted = self._model_of(members)
            if bool(piece.missing.any()):
                return _log_joint(base, fitted, piece).logsumexp(1)
            x = base.about_mean(piece.values)
            z, _ = base.split(x)
            return base.log_prob(fitted.log_prob(z.to(torch.float64)), x, z)

        return in_pieces(windows, density)

    def encode(self, windows: Windows) -> Tensor:
        """Return each component's responsibility for every window, ``(n_targets, n_windows, components)``."""
        self._check_match(windows)

        def shares(members: slice, piece: Windows) -> Tensor:
            base, fitted = self._model_of(members)
            x = base.normal.completed(base.about_mean(piece.values), piece.mask.flatten(2)).x
            z = base.split(x.to(torch.float32))[0]
            return fitted.log_joint(z.to(torch.float64)).softmax(2).to(torch.float32)

        return in_pieces(windows, shares)

    def _model_of(self, members: slice) -> tuple[LinearBase, Mixture]:
        return self._made_of(members, _model)

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window


def _model(state: dict[str, Tensor]) -> tuple[LinearBase, Mixture]:
    return LinearBase.load(state), _mixture_of(state)


def _mixture_of(state: dict[str, Tensor]) -> Mixture:
    return Mixture(*(state[name].to(torch.float64) for name in ("weight", "centre", "covariance")))


def _raw_parts(base: LinearBase, fitted: Mixture, values: Tensor, mask: Tensor | None) -> Tensor:
    """Parts as theory standardises them: latent, rest, steps; ``(n_targets, k, 2 + window)``."""
    return surprise_parts.latent_parts(base, base.normal, values, mask, fitted.log_prob)


def _log_joint(base: LinearBase, fitted: Mixture, windows: Windows) -> Tensor:
    """Log of weight times marginal density of the observed values, ``(n_targets, components, k)``."""
    x, missing = base.about_mean(windows.values), windows.mask.flatten(2)
    return _log_weight(fitted) + LowRank.of(base, fitted).log_prob(x, missing)


def _log_weight(fitted: Mixture) -> Tensor:
    return torch.where(fitted.weight > 0, fitted.weight.clamp_min(1e-300).log(), -1e30).unsqueeze(2)
