"""Denoising diffusion of whitened windows, trained as a bank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu

from detectors.base import Density, Detector, Expected, Progress, Windows, fit_in_pieces, in_pieces
from detectors.maths import diffusion, parts
from detectors.maths.diffusion import Denoise, Schedule
from detectors.maths.linear import LinearBase
from detectors.maths.moments import trimmed
from detectors.stacked import Batch, NetworkConfig, Params, asinh, dense, linear, train

WAVES = 4
PIECE = 2**17


@dataclass(frozen=True)
class DiffusionConfig(NetworkConfig):
    latent: int = 32
    levels: int = 50
    hidden: int = 64
    code: int = 16
    chain: int = 0
    steps: int = 300
    rate: float = 3e-3
    max_windows: int = 2048
    low: tuple[float, ...] = (0.95, 0.8, 0.5)
    energy: str = "missed"
    local: str = "zca"


class DiffusionDetector(Detector):
    """X.

    Departures: x
    """

    Config = DiffusionConfig
    density: ClassVar[Density] = Density.APPROXIMATE
    family: ClassVar[str] = "Denoising diffusion"
    paper: ClassVar[str] = "Ho et al. 2020"
    folds: ClassVar[int] = 2

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        state = fit_in_pieces(windows, self._fit_base, lambda share: on_progress(0.2 * share), members=4)
        kept = windows.weighted(state.pop("kept"))
        latents = _as_windows(state.pop("latents"), kept)
        trained = train(
            self._network(state), latents, self.config.training(), seed=self.config.seed,
            max_windows=latents.n_windows, on_progress=lambda share: on_progress(0.2 + 0.8 * share),
        )
        self.held = trained.held_out
        state |= trained.params
        return state | parts.scale_by_member(self._raw_of, state, kept)

    def _fit_base(self, windows: Windows) -> dict[str, Tensor]:
        moments, kept = trimmed(windows, self.config.trim)
        base = LinearBase.of(moments, windows.window, self.config.latent)
        drawn = kept.gathered(kept.drawn(min(self.config.max_windows, kept.n_windows)))
        z = base.split(base.filled(*drawn))[0]
        return {**base.state(), "latents": z, "kept": kept.weight}

    def _raw_of(self, state):
        base, normal = LinearBase.load(state), LinearBase.load(state).normal
        return lambda values, mask, _: self._raw(state, base, normal, values, mask)

    def _raw(self, state, base, normal, values, mask):
        sched, denoise = self.schedule, self._denoise(state)
        if self.config.local == "chol":
            return parts.surprise_parts(base, normal, values, mask, lambda z, _: parts.standard(self._energy(denoise, z)[0], base.latent))
        x = base.about_mean(values)
        gone = 0
        if mask is not None:
            gone = mask.flatten(2).sum(2)
            x = normal.completed(x, mask.flatten(2)).x.to(torch.float32)
        z, off = base.split(x)
        energy, moved = self._energy(denoise, z)
        latent = parts.standard(energy, base.latent)
        rest = parts.standard(off / base.noise.unsqueeze(1), base.off_axes - gone) if base.off_axes else off * 0
        along = x @ base.axes
        away = (x - along @ base.axes.transpose(1, 2)) / base.noise.sqrt()[:, None, None] if base.off_axes else 0
        w = moved @ base.axes.transpose(1, 2) + away
        step, _ = parts.steps_of(w, mask, values.shape[3])
        return torch.cat([latent.unsqueeze(2), rest.unsqueeze(2), step], dim=2)

    def _energy(self, denoise, z):
        sched = self.schedule
        noise = diffusion.shared_noise(len(self.config.low), z.shape[2], self.config.seed)
        total, moved = 0, 0
        for kept, eps in zip(self.config.low, noise, strict=True):
            t = sched.nearest(kept)
            k = float(sched.kept[t])
            a, b = diffusion.errors(sched, denoise, z, eps, t)
            m = (a + b) / 2 / (1 - k)
            moved = moved + m
            if self.config.energy == "missed":
                total = total + ((a.square().sum(2) + b.square().sum(2)) / 2 - k * (1 - k) * z.shape[2]) / (1 - k) ** 2
            else:
                total = total + m.square().sum(2)
        n = len(self.config.low)
        return (total / n).clamp_min(0), moved / n

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            raw = self._raw_of(state)(piece.values, parts.missing_in(piece), None)
            return parts.combined(raw, state)

        return in_pieces(windows, scores, values=PIECE)

    def log_prob(self, windows: Windows) -> Tensor:
        self._check_match(windows)

        def density(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base = LinearBase.load(state)
            z, off = base.split(base.filled(piece.values, piece.mask))
            noise = diffusion.shared_noise(self.config.levels, base.latent, self.config.seed)
            return base.log_prob(diffusion.bound(self.schedule, self._denoise(state), z, noise), off)

        return in_pieces(windows, density, values=PIECE)

    def encode(self, windows: Windows) -> Tensor:
        self._check_match(windows)

        def codes(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base = LinearBase.load(state)
            z = base.split(base.filled(piece.values, piece.mask))[0]
            t = self.schedule.nearest(self.config.low[0])
            return self._network(state).code(state, float(self.schedule.signal[t]) * z, self.schedule.angle(t).expand(z.shape[1]))

        return in_pieces(windows, codes, values=PIECE)

    def _expect(self, windows: Windows) -> Expected:
        def both(members: slice, piece: Windows) -> Tensor:
            base = LinearBase.load(self._state_of(members))
            mean, variance = base.normal.conditional(base.about_mean(piece.values), piece.mask.flatten(2))
            return torch.stack([mean + base.mean.unsqueeze(1), variance.sqrt()], dim=2).to(torch.float32)

        found = in_pieces(windows, both, values=2**21 // (windows.window * windows.n_channels))
        mean, scale = found.view(*found.shape[:3], windows.window, -1).unbind(2)
        return Expected(mean, scale)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        base = LinearBase.load(self._state)
        n_targets, size, latent = base.axes.shape
        denoise = self._denoise(self._state)
        if self.config.chain:
            noise = torch.randn(n, latent, generator=generator).expand(n_targets, -1, -1)
            z = diffusion.shortened(self.schedule, denoise, noise, self.schedule.levels(self.config.chain))
        else:
            noise = torch.randn(self.config.levels, 1, n, latent, generator=generator).expand(-1, n_targets, -1, -1)
            z = diffusion.ancestral(self.schedule, denoise, noise)
        noise = base.noise_of(torch.randn(n, size, generator=generator).expand(n_targets, -1, -1))
        x = base.mean.unsqueeze(1) + base.window_of(z) + noise
        return x.view(n_targets, n, self.config.window, -1)

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule.cosine(self.config.levels)

    def _denoise(self, state: Params) -> Denoise:
        network, sched = self._network(state), self.schedule
        def denoise(x: Tensor, t: int) -> Tensor:
            return network.denoise(state, x, sched.angle(t).expand(x.shape[1]))
        return denoise

    def _network(self, state: dict[str, Tensor]) -> _Denoiser:
        return _Denoiser(self.config, state["axes"].shape[2])

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window


@dataclass(frozen=True)
class _Denoiser:
    config: DiffusionConfig
    size: int

    def initial(self, generator: torch.Generator) -> Params:
        c = self.config
        layers = {
            **dense("in", self.size + 2 * WAVES, c.hidden, generator),
            **dense("code", c.hidden, c.code, generator),
            **dense("out", c.code, c.hidden, generator),
            **dense("head", c.hidden, self.size, generator),
        }
        layers["head.weight"].zero_()
        return layers

    def code(self, params, x, angle):
        k = 2.0 ** torch.arange(WAVES)
        turns = angle.unsqueeze(1) * k
        seen = torch.cat([turns.cos(), turns.sin()], dim=1).to(torch.float32).expand(x.shape[0], -1, -1)
        h = relu(linear(params, "in", torch.cat([asinh(x), seen], dim=2)))
        return linear(params, "code", h)

    def velocity(self, params, x, angle):
        return linear(params, "head", relu(linear(params, "out", relu(self.code(params, x, angle)))))

    def denoise(self, params, x, angle):
        a, s = (f(angle).to(torch.float32).view(1, -1, 1) for f in (torch.cos, torch.sin))
        return a * x - s * self.velocity(params, x, angle)

    def loss(self, params: Params, batch: Batch, generator: torch.Generator) -> Tensor:
        n = batch.values.shape[1]
        sched = Schedule.cosine(self.config.levels)
        t = 1 + ((torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n * self.config.levels).long().clamp_max(self.config.levels - 1)
        angle = sched.angle(t)
        noise = torch.randn(n, self.size, generator=generator)
        a, s = (f(angle).to(torch.float32).view(1, -1, 1) for f in (torch.cos, torch.sin))
        x = a * batch.values + s * noise
        v = a * noise - s * batch.values
        return 0.5 * (v - self.velocity(params, x, angle)).square().sum(2)


def _as_windows(latents: Tensor, kept: Windows) -> Windows:
    usable = (kept.weight > 0).any(1, keepdim=True).to(torch.float32)
    n_targets, n, _ = latents.shape
    missing = torch.zeros_like(latents, dtype=torch.bool)
    return Windows(latents, missing, usable.expand(n_targets, n), kept.start, window=1)
