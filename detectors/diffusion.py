"""Denoising diffusion of whitened windows, trained as a bank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu

from detectors.base import Density, Detector, Expected, check_trim
from detectors.maths import diffusion, latents, surprise_parts
from detectors.maths.diffusion import Denoise, Schedule
from detectors.maths.linear import LinearBase
from detectors.maths.normal import normal_expect
from detectors.pieces import Progress, in_pieces, once
from detectors.stacked import NetworkConfig, Params, TrainingBatch, asinh, dense, linear
from detectors.windows import Windows

WAVES = 4
"""Waves that tell the network the noise level: one, two, four and eight turns of its angle."""

PIECE = 2**17
"""Values of windows scored at once: a layer's output takes 1 MiB at window 100."""

INPAINTED = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the variance kept in the rounds that fill missing steps, from a blurred density to a sharper one.

Up to a half the density is blurred enough that the steps of the rounds do not overshoot.
"""


@dataclass(frozen=True)
class DiffusionConfig(NetworkConfig):
    """What the diffusion can be told.

    Attributes:
        latent: principal coordinates the network denoises; off them a window is white noise.
        levels: noise levels between a window and noise alone.
        kept: share of the variance that is still the window's at each level the score looks at.
        chain: levels that sampling goes through, deterministically (DDIM); 0 for all, at random (DDPM).
        hidden: width of the layers beside the bottleneck.
        code: width of the bottleneck.
        trim: share of the blocks, the worst ones, that is dropped before fitting; and of every batch.
    """

    latent: int = 16
    levels: int = 50
    kept: tuple[float, ...] = (0.95, 0.8, 0.5)
    chain: int = 0
    hidden: int = 64
    code: int = 8
    steps: int = 300
    max_windows: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("latent", "levels", "hidden", "code")
        if not self.kept or not all(0 < share < 1 for share in self.kept):
            raise ValueError(f"kept must be one or more shares between 0 and 1, got {self.kept}")
        if not 0 <= self.chain <= self.levels:
            raise ValueError(
                f"chain must be at most {self.levels} levels, or 0 for all of them, got {self.chain}"
            )
        check_trim(self.trim)


class DiffusionDetector(Detector):
    """Denoising diffusion of the first principal coordinates of windows.

    The score of a step joins three surprises, each in units of what it does on training windows: how badly
    its window's latent comes back when a little noise is added and the denoiser takes it away again; the
    energy of what the latent leaves over; and by how much the step itself is missed. All are means over a
    few low noise levels and one fixed noise of either sign, so that equal windows get equal scores.

    Ho, Jain & Abbeel 2020 (DDPM), arXiv 2006.11239; Nichol & Dhariwal 2021 (cosine schedule), arXiv
    2102.09672; Song, Meng & Ermon 2021 (DDIM), arXiv 2010.02502.

    Departures: windows are whitened first, and a step's own error is read in the whitening that moves steps
    least; the network, a perceptron whose bottleneck is bypassed as in a U-net, adds to the exact denoiser
    of a normal distribution, so that untrained it is that; it lives on 16 coordinates, and off them the
    density is normal; it sees ``asinh(x)``, so that windows far from all data stay finite and far;
    missing steps hold their conditional mean under the linear base while scoring, and are inpainted for
    ``expect``: rounds of the density's slope, from a blurred density to a sharper one.

    The mathematics: ``detectors/maths/diffusion.py``. A default member takes 34 KiB at window 24 and 72 KiB
    at window 128.
    """

    Config = DiffusionConfig
    density: ClassVar[Density] = Density.APPROXIMATE
    family: ClassVar[str] = "Denoising diffusion"
    paper: ClassVar[str] = "Ho et al. 2020; Nichol & Dhariwal 2021; Song et al. 2021"
    folds: ClassVar[int] = 2

    config: DiffusionConfig

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        # A member that failed keeps the denoiser of a normal distribution.
        state, kept = latents.fit(self._network, windows, self.config, on_progress)
        return state | surprise_parts.scale_by_member(self._raw_of, state, kept)

    def _raw_of(self, state: Params) -> surprise_parts.Raw:
        """Return what maps windows to parts as theory standardises them: latent, rest, steps."""
        base = LinearBase.load(state)
        return lambda values, mask, _: self._raw(state, base, values, mask)

    def _raw(self, state: Params, base: LinearBase, values: Tensor, mask: Tensor | None) -> Tensor:
        normal = base.normal
        x, gone = surprise_parts.observed(base, normal, values, mask)
        z, _ = base.split(x)
        missed = self._network(state).missed(state, z)
        latent = surprise_parts.standard(missed.energy, base.latent)
        step, _ = surprise_parts.steps_of(base.upright(missed.slope, x), mask, values.shape[3])
        energy = (x @ normal.whitener.transpose(1, 2).to(torch.float32)).square().sum(2)
        rest = surprise_parts.rest_of(base, energy, z, gone)
        return torch.cat([latent.unsqueeze(2), rest.unsqueeze(2), step], dim=2)

    def _score(self, windows: Windows) -> Tensor:
        raws = once(lambda members: self._raw_of(self._state_of(members)))

        def scores(members: slice, piece: Windows) -> Tensor:
            raw = raws(members)(piece.values, surprise_parts.missing_in(piece), piece.starts)
            return surprise_parts.combined(raw, self._state_of(members))

        return in_pieces(windows, scores, values=PIECE)

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the variational bound on every window's log-density, missing steps filled.

        It is that of windows as they are, so that its nats compare with other detectors'; shape
        ``(n_targets, n_windows)``.
        """
        self._check_match(windows)

        def density(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base = LinearBase.load(state)
            x = base.filled(piece.values, piece.mask)
            z, _ = base.split(x)
            return base.log_prob(self._network(state).bound(state, z), x, z)

        return in_pieces(windows, density, values=PIECE)

    def encode(self, windows: Windows) -> Tensor:
        """Return the denoiser's bottleneck for every window, ``(n_targets, n_windows, code)``."""
        self._check_match(windows)

        def codes(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            base = LinearBase.load(state)
            z = base.split(base.filled(piece.values, piece.mask))[0]
            return self._network(state).code_of(state, z)

        return in_pieces(windows, codes, values=PIECE)

    def _expect(self, windows: Windows) -> Expected:
        def centre(members: slice, x: Tensor, missing: Tensor) -> Tensor:
            state = self._state_of(members)
            return self._centre(state, LinearBase.load(state), x, missing)

        return normal_expect(windows, lambda members: LinearBase.load(self._state_of(members)).normal, centre)

    def _centre(self, state: Params, base: LinearBase, x: Tensor, missing: Tensor) -> Tensor:
        """Return where the density around windows looks centred, about the mean, missing values filled.

        The slope of the density is the one of a normal distribution about there; what is missing moves to its
        conditional mean under that, and the next round looks from a sharper density.
        """
        normal, network = base.normal, self._network(state)
        centre = torch.zeros_like(x)
        for kept in INPAINTED:
            filled = centre + normal.completed(x - centre, missing).x
            z = base.split(filled.to(torch.float32))[0]
            centre = base.window_of(network.centre_of(state, z, kept)).to(x.dtype)
        return centre

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        base, network = LinearBase.load(self._state), self._network(self._state)
        n_targets, size, latent = base.axes.shape
        drawn = 1 if self.config.chain else self.config.levels
        begin = torch.randn(drawn, 1, n, latent, generator=generator).expand(-1, n_targets, -1, -1)
        z = network.sample(self._state, begin)
        noise = base.noise_of(torch.randn(n, size, generator=generator).expand(n_targets, -1, -1))
        x = base.mean.unsqueeze(1) + base.window_of(z) + noise
        return x.view(n_targets, n, self.config.window, -1)

    def _network(self, state: Params) -> _Denoiser:
        """The denoiser on the latent of a state: smaller than asked for where windows are."""
        return _Denoiser(self.config, state["axes"].shape[2])

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1] // self.config.window


@dataclass(frozen=True)
class _Denoiser:
    """What is expected of clean latents behind noisy ones, of one member; latents have ``size`` values.

    Fresh, it is that of the standard normal distribution: noisy latents times their signal. The network adds
    what it learned to that, in units of the noise (Karras et al. 2022, arXiv 2206.00364, section 5), so that
    its task is as hard at every level.
    """

    config: DiffusionConfig
    size: int

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule.cosine(self.config.levels)

    @cached_property
    def noise(self) -> Tensor:
        """The fixed noise of every level, ``(levels, size)``."""
        return diffusion.shared_noise(self.config.levels, self.size, self.config.seed)

    def initial(self, generator: torch.Generator) -> Params:
        hidden, code = self.config.hidden, self.config.code
        layers = {
            **dense("in", self.size + 2 * WAVES, hidden, generator),
            **dense("code", hidden, code, generator),
            **dense("out", code, hidden, generator),
            **dense("past", hidden, hidden, generator),
            **dense("head", hidden, self.size, generator),
        }
        layers["head.weight"].zero_()
        return layers

    def hidden(self, params: Params, x: Tensor, t: Tensor) -> Tensor:
        """Return the first layer, ``(n_targets, n, hidden)``, of noisy latents and their levels ``(n,)``."""
        turns = self.schedule.angle[t].to(torch.float32).unsqueeze(1) * 2 ** torch.arange(WAVES)
        level = torch.cat([turns.cos(), turns.sin()], dim=1).expand(x.shape[0], -1, -1)
        return relu(linear(params, "in", torch.cat([asinh(x), level], dim=2)))

    def learned(self, params: Params, x: Tensor, t: Tensor) -> Tensor:
        """Return what denoised latents lack to those of the normal distribution, in units of the noise."""
        hidden = self.hidden(params, x, t)
        through = linear(params, "out", relu(linear(params, "code", hidden)))
        return linear(params, "head", relu(through + linear(params, "past", hidden)))

    def denoise(self, params: Params) -> Denoise:
        def denoise(x: Tensor, t: int) -> Tensor:
            signal, noise = float(self.schedule.signal[t]), float(self.schedule.noise[t])
            return signal * x - noise * self.learned(params, x, torch.full((x.shape[1],), t))

        return denoise

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return half the squared error of the denoised latents in units of the noise, one level a window."""
        n = batch.values.shape[1]
        share = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
        t = 1 + (share * self.config.levels).long().clamp_max(self.config.levels - 1)
        signal, noise = (
            f[t].to(torch.float32).unsqueeze(1) for f in (self.schedule.signal, self.schedule.noise)
        )
        drawn = torch.randn(n, self.size, generator=generator)
        x = signal * batch.values + noise * drawn
        wanted = signal * drawn - noise * batch.values
        return 0.5 * (wanted - self.learned(params, x, t)).square().sum(2)

    def missed(self, params: Params, z: Tensor) -> diffusion.Missed:
        """Return what partial denoising misses, over the levels the score looks at."""
        levels = [self.schedule.nearest(kept) for kept in self.config.kept]
        return diffusion.missed(self.schedule, self.denoise(params), z, self.noise, levels)

    def bound(self, params: Params, z: Tensor) -> Tensor:
        return diffusion.bound(self.schedule, self.denoise(params), z, self.noise)

    def code_of(self, params: Params, z: Tensor) -> Tensor:
        """Return the bottleneck of clean latents."""
        clean = torch.zeros(z.shape[1], dtype=torch.int64)
        return linear(params, "code", self.hidden(params, z, clean))

    def centre_of(self, params: Params, z: Tensor, kept: float) -> Tensor:
        """Return where the density blurred to ``kept`` looks centred from z: at 0 where it is normal."""
        t = self.schedule.nearest(kept)
        noisy, level = float(self.schedule.signal[t]) * z, torch.full((z.shape[1],), t)
        return self.learned(params, noisy, level) * (-1 / float(self.schedule.noise[t]))

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """Return latents from normal noise ``(levels or 1, n_targets, n, size)``, by the chain configured."""
        if not self.config.chain:
            return diffusion.ancestral(self.schedule, self.denoise(params), noise)
        levels = self.schedule.levels(self.config.chain)
        return diffusion.shortened(self.schedule, self.denoise(params), noise[0], levels)
