"""TadGAN: encoder, generator and two critics, cycle-consistent, scoring what it cannot reconstruct."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad

from detectors.base import Density, Detector, DetectorConfig, Expected
from detectors.maths.reconstruction import Combination, ErrorKind, combined, errors_of
from detectors.maths.wasserstein import CRITIC_STEPS, PENALTY, slope_penalty
from detectors.pieces import Progress
from detectors.stacked import FAR, Adam, Training, draw, one_thread, trimmed_mean
from detectors.windows import Windows

M = TypeVar("M", bound=nn.Module)

CYCLE = 10.0
"""Weight of the reconstruction error beside the critics' opinion."""

CLIP = 10.0
"""Largest gradient norm of a network."""

HELD_WINDOWS = 512
"""Held-out windows whose reconstruction decides when to stop."""

QUANTILE_VALUES = 1_000_000
"""Values a percentile is taken of at most; longer series are thinned evenly."""

CHUNK = 1_000_000
"""Values of one temporary while scoring."""


@dataclass(frozen=True)
class TadganConfig(DetectorConfig):
    """What TadGAN can be told.

    Attributes:
        window: steps of one window (paper: 100).
        latent: dimensions of the latent (paper: 20).
        networks: ``conv`` strided convolutions, ``lstm`` the paper's recurrent networks (20 times slower).
        error: how reconstruction and window are compared: ``point``, ``area`` or ``dtw``.
        combine: how error and critic are joined: ``mult``, ``sum`` or ``rec`` (error alone).
        together: weight of the window's mean error beside the step's own, both in standard deviations;
            0 is the paper's score.
        steps: steps of encoder and generator at most; the critics make five for each.
        check_every: steps between looks at the held-out blocks.
        patience: looks without improvement after which training stops.
        batch: windows of one step (paper: 64).
        rate: Adam's learning rate (paper: 5e-4).
        trim: share of a batch, the worst reconstructed, that does not teach reconstruction.
        imputations: rounds of reconstruction that fill missing steps.
    """

    window: int = 100
    latent: int = 20
    networks: Literal["conv", "lstm"] = "conv"
    error: ErrorKind = "point"
    combine: Combination = "mult"
    together: float = 1.0
    steps: int = 300
    check_every: int = 20
    patience: int = 10
    batch: int = 64
    rate: float = 5e-4
    trim: float = 0.05
    imputations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("latent", "steps", "check_every", "patience", "batch", "imputations")
        choices = {
            "networks": ("conv", "lstm"),
            "error": get_args(ErrorKind),
            "combine": get_args(Combination),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 <= self.together < math.inf:
            raise ValueError(f"together must be a number from 0, got {self.together}")
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0, got {self.rate}")
        if not 0 <= self.trim < 1:
            raise ValueError(f"trim must be a share in [0, 1), got {self.trim}")


class TadganDetector(Detector):
    """The score of a step is how badly it is reconstructed, times how odd the critic finds its window.

    Error in standard deviations of that place in the window, and beside it the window's mean error in
    its own (0 below the mean), plus one; times the distance of the critic's value from its usual ones
    in standard deviations plus one; all learned on the fit windows and frozen.

    Geiger et al. 2020, arXiv 2009.07769.

    Departures: strided convolutions by default, the recurrent networks by name; a window's error
    comes from its own reconstruction, and where windows overlap the scores are averaged, so that a
    score depends on its window alone (the paper's median over windows, smoothing and density of the
    critic are in `detectors.maths.reconstruction`); the window's own error (`together`; 0 is the
    paper's), which raised VUS-PR on 30 labelled series of NAB from .32 to .40; windows with gaps
    teach only where there are no others; the worst reconstructed share of a batch is left out,
    gradients are clipped, training stops by held-out blocks; early stopping keeps the encoder,
    generator and critic of one moment.

    A bank is trained member by member, as stacked convolutions are slower than a loop: meant for
    ``scope: group``. A default member takes 115 KiB at window 100, 63 KiB at window 24.
    """

    Config: ClassVar[type[DetectorConfig]] = TadganConfig
    density: ClassVar[Density] = Density.IMPLICIT
    family: ClassVar[str] = "TadGAN"
    paper: ClassVar[str] = "Geiger et al. 2020"
    sample_flaw = "steps are rougher and less spread than real ones"
    folds: ClassVar[int] = 2

    config: TadganConfig

    def encode(self, windows: Windows) -> Tensor:
        """Return the code of every window, shape ``(n_targets, n_windows, latent)``."""
        self._check_match(windows)
        return torch.stack([self._codes(windows, row) for row in range(windows.n_targets)])

    def _codes(self, windows: Windows, row: int) -> Tensor:
        networks = self._networks(row)
        with torch.no_grad():
            parts = [networks.encoder(x) for _, x, _ in self._batches(windows, row, networks)]
        return torch.cat(parts)

    # -- fit ------------------------------------------------------------------------

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        members = []
        with one_thread(), torch.random.fork_rng(devices=[]):
            for row in range(windows.n_targets):
                part = _part(on_progress, row, windows.n_targets)
                members.append(self._fit_member(windows.select([row]), part))
        return {name: torch.stack([member[name] for member in members]) for name in members[0]}

    def _fit_member(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        low, high = _range(windows)
        draws = draw(_whole_first(windows), self.config.max_windows, self.config.seed)
        n, block = int(draws.count[0]), int(draws.held_block[0])
        taught = _take(windows, draws.training(_even(max(n - 2 * block, 1))), low, high)
        held = _take(windows, draws.held_out(_even(min(max(2 * block, 1), HELD_WINDOWS))), low, high)
        networks, failed = _trained(
            self.config, windows.n_channels, taught, held, on_progress, nothing=n == 0
        )
        return {
            **networks.state_dict(),
            "failed": torch.tensor(failed),
            "low": low,
            "high": high,
            **self._usual(networks, taught),
        }

    def _usual(self, networks: _Networks, x: Tensor) -> dict[str, Tensor]:
        """Return the frozen statistics of errors and critic on the fit windows."""
        errors, critic = [], []
        with torch.no_grad():
            for part in torch.split(x, self._chunk(x.shape[2])):
                errors.append(self._errors(part, networks.reconstruct(part)))
                critic.append(networks.critic_x(part))
        error, opinion = torch.cat(errors), torch.cat(critic)
        low, high = torch.quantile(opinion, torch.tensor([0.25, 0.75]))
        return {
            "error_mean": error.mean(dim=0),
            "error_sd": error.std(dim=0, correction=0),
            "window_sd": error.mean(dim=1).std(correction=0),
            "critic_mean": opinion[(opinion >= low) & (opinion <= high)].mean(),
            "critic_sd": opinion.std(correction=0),
        }

    # -- score ----------------------------------------------------------------------

    def _score(self, windows: Windows) -> Tensor:
        return torch.stack([self._score_member(windows, row) for row in range(windows.n_targets)])

    def _score_member(self, windows: Windows, row: int) -> Tensor:
        networks = self._networks(row)
        scores = torch.empty(windows.n_windows, windows.window)
        with torch.no_grad():
            for part, x, kept in self._batches(windows, row, networks):
                scores[part] = self._scores(networks, row, x, kept)
        return scores

    def _scores(self, networks: _Networks, row: int, x: Tensor, kept: Tensor) -> Tensor:
        if self._state["failed"][row]:
            return x.square().mean(dim=2)
        state = {name: self._state[name][row] for name in STATISTICS}
        again = networks.reconstruct(x)
        error = self._errors(torch.where(kept, x, again), again)
        z = (error - state["error_mean"]) / state["error_sd"].clamp(min=1e-3)
        seen = kept.any(dim=2)
        mean = (error * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        whole = (mean - state["error_mean"].mean()) / state["window_sd"].clamp(min=1e-3)
        z = torch.hypot(z.clamp(min=0), self.config.together * whole.clamp(min=0).unsqueeze(1))
        critic = (networks.critic_x(x) - state["critic_mean"]).abs() / state["critic_sd"].clamp(min=1e-3) + 1
        return combined(self.config.combine, critic.unsqueeze(1), z)

    def _errors(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """Return the error of every step, mean of the channels, shape ``(n, window)``."""
        error = errors_of(self.config.error, x.transpose(1, 2), reconstruction.transpose(1, 2))
        return error.mean(dim=1)

    def _expect(self, windows: Windows) -> Expected:
        return Expected(torch.stack([self._expect_member(windows, row) for row in range(windows.n_targets)]))

    def _expect_member(self, windows: Windows, row: int) -> Tensor:
        networks = self._networks(row)
        if self._state["failed"][row]:
            return torch.zeros(windows.n_windows, windows.window, windows.n_channels)
        with torch.no_grad():
            parts = [networks.reconstruct(x) for _, x, _ in self._batches(windows, row, networks)]
        return _unscaled(torch.cat(parts), self._state["low"][row], self._state["high"][row])

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(n, self.config.latent, generator=generator)
        with torch.no_grad():
            drawn = [self._networks(row).generator(z) for row in range(self.n_targets)]
        return torch.stack(
            [_unscaled(x, self._state["low"][i], self._state["high"][i]) for i, x in enumerate(drawn)]
        )

    def _batches(
        self, windows: Windows, row: int, networks: _Networks
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield a member's windows, scaled and filled, and what of them was observed."""
        low, high = self._state["low"][row], self._state["high"][row]
        size = self._chunk(windows.n_channels)
        for first in range(0, windows.n_windows, size):
            part = slice(first, min(first + size, windows.n_windows))
            x = _scaled(windows.values[row, part].clamp(-FAR, FAR), low, high)
            kept = ~windows.mask[row, part]
            yield part, self._filled(networks, x, kept), kept

    def _filled(self, networks: _Networks, x: Tensor, kept: Tensor) -> Tensor:
        """Return the windows with missing steps replaced by their reconstruction, round by round."""
        gappy = (~kept).flatten(1).any(dim=1).nonzero().flatten()
        if not len(gappy):
            return x
        some, known = x[gappy], kept[gappy]
        for _ in range(self.config.imputations):
            some = torch.where(known, some, networks.reconstruct(some))
        return x.index_copy(0, gappy, some)

    def _chunk(self, n_channels: int) -> int:
        return max(1, CHUNK // (self.config.window * max(n_channels, WIDTH)))

    def _networks(self, row: int) -> _Networks:
        networks = _networks_of(self.config, self._n_channels())
        networks.load_state_dict({name: self._state[name][row] for name in networks.state_dict()})
        return networks.eval()

    def _n_channels(self) -> int:
        return self._state["low"].shape[1]


STATISTICS = ("error_mean", "error_sd", "window_sd", "critic_mean", "critic_sd")
"""What is frozen at fit: error by place in the window and by window, critic by window."""

WIDTH = 32
"""Channels of the convolutions."""


# -- networks: (n, window, channels) in the time-major layout of windows -----------------------------


class _Networks(nn.Module):
    """What is kept of a fitted member: the critic of codes only trains the encoder."""

    def __init__(self, encoder: nn.Module, generator: nn.Module, critic_x: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.generator = generator
        self.critic_x = critic_x

    def reconstruct(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.generator(self.encoder(x)))


def _networks_of(config: TadganConfig, channels: int) -> _Networks:
    if config.networks == "lstm":
        return _Networks(
            _RecurrentEncoder(config.window, channels, config.latent),
            _RecurrentGenerator(config.window, channels, config.latent),
            _LongCritic(config.window, channels),
        )
    return _Networks(
        _Shrink(config.window, channels, config.latent),
        _Grow(config.window, channels, config.latent),
        nn.Sequential(_Shrink(config.window, channels, 1), nn.Flatten(0)),
    )


def _critic_z(latent: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(latent, 20), nn.LeakyReLU(0.2), nn.Dropout(0.2)]
        latent = 20
    return nn.Sequential(*layers, nn.Linear(20, 1), nn.Flatten(0))


class _Convolution(nn.Module):
    """A convolution over ``(n, steps, channels)`` by one matrix product over unfolded pieces.

    A third faster on a processor than `nn.Conv1d` for so few channels, penalty of the gradient included.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(channels * kernel, out)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        steps = math.ceil(x.shape[1] / self.stride)
        short = (steps - 1) * self.stride + self.kernel - x.shape[1]
        x = pad(x, (0, 0, short // 2, short - short // 2))
        return cast(Tensor, self.layer(x.unfold(1, self.kernel, self.stride).flatten(2)))


class _Shrink(nn.Module):
    """From a window to ``out`` numbers by two strided convolutions: encoder, and critic of windows."""

    def __init__(self, window: int, channels: int, out: int) -> None:
        super().__init__()
        self.first = _Convolution(channels, WIDTH, 8, 4)
        self.second = _Convolution(WIDTH, WIDTH, 4, 2)
        self.last = nn.Linear(WIDTH * math.ceil(math.ceil(window / 4) / 2), out)

    def forward(self, x: Tensor) -> Tensor:
        h = leaky_relu(self.first(x), 0.2)
        h = leaky_relu(self.second(h), 0.2)
        return cast(Tensor, self.last(h.flatten(1)))


class _Grow(nn.Module):
    """From a code to a window in [-1, 1] by doubling the steps twice."""

    def __init__(self, window: int, channels: int, latent: int) -> None:
        super().__init__()
        self.window, self.steps = window, math.ceil(window / 4)
        self.first = nn.Linear(latent, self.steps * WIDTH // 2)
        self.second = _Convolution(WIDTH // 2, WIDTH, 3)
        self.third = _Convolution(WIDTH // 2, WIDTH, 3)
        self.last = _Convolution(WIDTH // 2, channels, 5)

    def forward(self, z: Tensor) -> Tensor:
        h = leaky_relu(self.first(z), 0.2).reshape(len(z), self.steps, WIDTH // 2)
        for layer in (self.second, self.third):
            # Twice the channels become twice the steps.
            h = leaky_relu(layer(h), 0.2).reshape(len(z), -1, WIDTH // 2)
        return self.last(h[:, : self.window]).tanh()


class _RecurrentEncoder(nn.Module):
    """The paper's: bidirectional LSTM of 100, flattened, dense."""

    def __init__(self, window: int, channels: int, latent: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(channels, 100, batch_first=True, bidirectional=True)
        self.last = nn.Linear(window * 200, latent)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.recurrent(x)[0].flatten(1)))


class _RecurrentGenerator(nn.Module):
    """The paper's: dense, bidirectional LSTM of 64, steps doubled, another one, dense at every step."""

    def __init__(self, window: int, channels: int, latent: int) -> None:
        super().__init__()
        self.window = window
        self.first = nn.Linear(latent, math.ceil(window / 2))
        self.slow = nn.LSTM(1, 64, batch_first=True, bidirectional=True)
        self.fast = nn.LSTM(128, 64, batch_first=True, bidirectional=True)
        self.last = nn.Linear(128, channels)

    def forward(self, z: Tensor) -> Tensor:
        h = self.slow(self.first(z).unsqueeze(2))[0].repeat_interleave(2, dim=1)
        return cast(Tensor, self.last(self.fast(h[:, : self.window])[0])).tanh()


class _LongCritic(nn.Module):
    """The paper's: four convolutions of 64 over 5 steps, dense; short windows are padded."""

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.short = max(0, 17 - window)
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Conv1d(channels, 64, 5), nn.LeakyReLU(0.2), nn.Dropout(0.25)]
            channels = 64
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (window + self.short - 16), 1))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers(pad(x.transpose(1, 2), (0, self.short)))).flatten()


# -- training ----------------------------------------------------------------------------------------


class _Learner:
    """Some networks and the optimiser that moves them together."""

    def __init__(self, *networks: nn.Module, rate: float) -> None:
        self._rate = rate
        weights = [weight for network in networks for weight in network.parameters()]
        flat = torch.cat([weight.detach().flatten() for weight in weights])
        gradient, moments = torch.zeros_like(flat), (torch.zeros_like(flat), torch.zeros_like(flat))
        sizes = [weight.numel() for weight in weights]
        for weight, place in zip(weights, torch.split(flat, sizes), strict=True):
            weight.data = place.view_as(weight)
        self._weights, self._gradient = weights, gradient
        self._adam = Adam(flat, gradient, moments, steps=0, fade=Training().fade)

    def descend(self, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, self._weights)
        torch.cat([gradient.flatten() for gradient in gradients], out=self._gradient)
        norm = torch.linalg.vector_norm(self._gradient)
        self._gradient.mul_((CLIP / norm.clamp(min=1e-12)).clamp(max=1.0))
        with torch.no_grad():
            self._adam.step(self._rate)


def _trained(
    config: TadganConfig, channels: int, taught: Tensor, held: Tensor, on_progress: Progress, *, nothing: bool
) -> tuple[_Networks, bool]:
    """Return networks in evaluation mode and whether they failed: a second seed is tried."""
    for seed in (config.seed, config.seed + 7919):
        torch.manual_seed(seed)
        networks = _drawn(_networks_of, config, channels, to=taught.device)
        if nothing:
            break
        best = _best_moment(config, networks, taught, held, on_progress)
        if best is not None:
            networks.load_state_dict(best)
            return networks.eval(), False
    torch.manual_seed(config.seed)
    return _drawn(_networks_of, config, channels, to=taught.device).eval(), True


def _drawn(build: Callable[..., M], *args: Any, to: torch.device) -> M:
    """Return fresh networks on a device, with weights drawn on the CPU: the same on every device."""
    with torch.device("cpu"):
        networks = build(*args)
    return networks.to(to)


def _best_moment(
    config: TadganConfig, networks: _Networks, taught: Tensor, held: Tensor, on_progress: Progress
) -> dict[str, Tensor] | None:
    """Train; return the weights with the best held-out reconstruction, None where they diverged."""
    game = _Game(config, networks, taught.device)
    deck = _deck(len(taught), config.batch)
    best, least, stale = None, math.inf, 0
    for step in range(1, config.steps + 1):
        for _ in range(CRITIC_STEPS):
            x = taught[next(deck)]
            game.teach_critics(x)
        game.teach_generator(x)
        if step % config.check_every and step < config.steps:
            continue
        on_progress(step / config.steps)
        error = _held_out(networks, held, config.trim)
        if not math.isfinite(error):
            return None
        stale = 0 if error < least * (1 - 1e-2) else stale + 1
        if error < least:
            least, best = error, {name: t.clone() for name, t in networks.state_dict().items()}
        if stale >= config.patience:
            break
    return best


class _Game:
    """The two critics against encoder and generator."""

    def __init__(self, config: TadganConfig, networks: _Networks, device: torch.device) -> None:
        self._config = config
        self._networks = networks
        self._critic_z = _drawn(_critic_z, config.latent, to=device)
        self._judge_x = _Learner(networks.critic_x, rate=config.rate)
        self._judge_z = _Learner(self._critic_z, rate=config.rate)
        self._maker = _Learner(networks.encoder, networks.generator, rate=config.rate)

    def teach_critics(self, x: Tensor) -> None:
        z = torch.randn(len(x), self._config.latent)
        with torch.no_grad():
            fake, code = self._networks.generator(z), self._networks.encoder(x)
        self._judge_x.descend(critic_loss(self._networks.critic_x, x, fake))
        self._judge_z.descend(critic_loss(self._critic_z, z, code))

    def teach_generator(self, x: Tensor) -> None:
        z = torch.randn(len(x), self._config.latent)
        code = self._networks.encoder(x)
        made = self._networks.generator(torch.cat([z, code]))
        fake, again = made[: len(x)], made[len(x) :]
        error = (x - again).square().flatten(1).mean(dim=1)
        cycle = trimmed_mean(error.unsqueeze(0), self._config.trim).sum()
        opinion = self._networks.critic_x(fake).mean() + self._critic_z(code).mean()
        self._maker.descend(CYCLE * cycle - opinion)


def critic_loss(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return the Wasserstein loss of a critic with its gradient penalty, a scalar."""
    opinion = critic(torch.cat([real, fake]))
    share = torch.rand(len(real), *[1] * (real.ndim - 1))
    penalty = slope_penalty(critic, real, fake, share).mean()
    return opinion[len(real) :].mean() - opinion[: len(real)].mean() + PENALTY * penalty


def _held_out(networks: _Networks, held: Tensor, trim: float) -> float:
    networks.eval()
    with torch.no_grad():
        error = (held - networks.reconstruct(held)).square().flatten(1).mean(dim=1)
    networks.train()
    sound = all(bool(torch.isfinite(weight).all()) for weight in networks.parameters())
    return float(trimmed_mean(error.unsqueeze(0), trim).sum()) if sound else math.nan


def _deck(n: int, size: int) -> Iterator[Tensor]:
    """Yield batches of indexes below n without end: shuffled, each as often as any, none dropped."""
    left = torch.randperm(n)
    while True:
        while len(left) < size:
            left = torch.cat([left, torch.randperm(n)])
        yield left[:size]
        left = left[size:]


# -- scale -------------------------------------------------------------------------------------------


def _range(windows: Windows) -> tuple[Tensor, Tensor]:
    """Return 1st and 99th percentile of what was observed in windows that teach, ``(n_channels,)`` each."""
    used = _in_training(windows)
    ends = torch.tensor([0.01, 0.99])
    bounds = []
    for channel in range(windows.n_channels):
        seen = windows.series[0, used & ~windows.missing[0, :, channel], channel]
        seen = seen[:: max(1, len(seen) // QUANTILE_VALUES)]
        low, high = torch.quantile(seen, ends) if len(seen) else (torch.tensor(0.0), torch.tensor(0.0))
        # A constant channel has no range: one unit of the prepared scale on both sides stands in.
        stand_in = float(high - low < 1e-6)
        bounds.append(torch.stack([low - stand_in, high + stand_in]))
    low_high = torch.stack(bounds)
    return low_high[:, 0], low_high[:, 1]


def _in_training(windows: Windows) -> Tensor:
    """Return True for every step of the first target that a window of weight above 0 covers."""
    started = (windows.weight[0] > 0).cumsum(dim=0)
    before = torch.zeros(windows.window, dtype=torch.int64)
    after = started[-1:].expand(windows.window - 1)
    count = torch.cat([before, started, after])
    return count[windows.window :] > count[: windows.n_points]


def _scaled(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (x - low) * (2 / (high - low)) - 1


def _unscaled(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (x + 1) * ((high - low) / 2) + low


def _whole_first(windows: Windows) -> Tensor:
    """Return weights that leave windows with gaps out, where there are windows without."""
    whole = torch.where(windows.missing_share == 0, windows.weight, 0.0)
    return whole if bool((whole > 0).any()) else windows.weight


def _take(windows: Windows, position: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return _scaled(windows.values[0, position[0]].clamp(-FAR, FAR), low, high)


def _even(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def _part(on_progress: Progress, row: int, of: int) -> Progress:
    return lambda share: on_progress((row + share) / of)
