"""Neural autoregressive density of windows: one masked network gives the conditional of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from detectors.base import Density, Detector, Expected
from detectors.maths import surprise_parts
from detectors.maths.masked import MaskedNetwork, masked_linear
from detectors.pieces import Progress, in_pieces
from detectors.stacked import FAR, NetworkConfig, Params, TrainingBatch, train
from detectors.windows import Windows

LOG_2PI = math.log(2 * math.pi)

PIECE = 2**17
"""Values of windows scored at once: with the components' 2.5 MiB a temporary."""


@dataclass(frozen=True)
class NadeConfig(NetworkConfig):
    """What the autoregressive density can be told.

    Attributes:
        hidden: width of the hidden layer.
        components: normal distributions mixed in the conditional of a step.
        sd_floor: smallest standard deviation of a component, in scaled units.
    """

    hidden: int = 64
    components: int = 5
    sd_floor: float = 0.05
    steps: int = 200
    batch: int = 32
    rate: float = 2e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("hidden", "components")
        if self.sd_floor <= 0:
            raise ValueError(f"sd_floor must be above 0, got {self.sd_floor}")


@dataclass(frozen=True)
class _Conditionals:
    """The mixture of every value given those before it; ``size`` values a window, K components.

    Attributes:
        centre: shape ``(n_targets, n, size)``.
        spread: same shape, unit of the components about the centre.
        log_weight: shape ``(n_targets, n, K, size)``, of the components.
        offset: shape ``(n_targets, 1, K, size)``, the components' means, in spreads about the centre.
        width: same shape, their standard deviations in spreads, at least 1.
    """

    centre: Tensor
    spread: Tensor
    log_weight: Tensor
    offset: Tensor
    width: Tensor

    @classmethod
    def of(
        cls, params: Params, out: Tensor, pulled: Tensor, sd_floor: float, at: slice = slice(None)
    ) -> _Conditionals:
        """Return the mixtures that a network's outputs stand for, ``(n_targets, n, 2 + K, size)``.

        Args:
            pulled: what is added to their centres, shape ``(n_targets, n, size)``.
            at: which values of a window they are.
        """
        return cls(
            out[:, :, 0] + pulled,
            softplus(out[:, :, 1] - 1) + sd_floor,
            out[:, :, 2:].log_softmax(2),
            params["offset"][:, None, :, at],
            # From 1 on, so that no component is narrower than the floor.
            1 + softplus(params["width"][:, None, :, at] - 2),
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of every value, same shape as ``x``."""
        off = ((x - self.centre) / self.spread).unsqueeze(2)
        apart = (off - self.offset) / self.width
        mixed = (self.log_weight - self.width.log() - 0.5 * apart.square()).logsumexp(2)
        return mixed - self.spread.log() - 0.5 * LOG_2PI

    @property
    def log_peak(self) -> Tensor:
        """Log-density at the highest peak of a component, ``(n_targets, n, size)``."""
        return (self.log_weight - self.width.log()).amax(2) - self.spread.log() - 0.5 * LOG_2PI

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of every value."""
        weight = self.log_weight.exp()
        mean = (weight * self.offset).sum(2)
        square = (weight * (self.width.square() + self.offset.square())).sum(2)
        return self.centre + self.spread * mean, self.spread * (square - mean.square()).sqrt()

    def drawn(self, at: int, share: Tensor, noise: Tensor) -> Tensor:
        """Return draws of value ``at``: by ``share`` in [0, 1) of the component, by normal noise in it."""
        weight = self.log_weight[:, :, :, at].exp()
        component = (
            (weight.cumsum(2) < share.unsqueeze(1)).sum(2, keepdim=True).clamp_max(weight.shape[2] - 1)
        )
        offset, width = (
            t[:, :, :, at].expand_as(weight).gather(2, component).squeeze(2)
            for t in (self.offset, self.width)
        )
        return self.centre[:, :, at] + self.spread[:, :, at] * (offset + width * noise)


@dataclass(frozen=True)
class _NadeNetwork:
    """The conditionals of one member; windows come flattened to ``length`` values, oldest first."""

    config: NadeConfig
    length: int

    @cached_property
    def masked(self) -> MaskedNetwork:
        outputs = 2 + self.config.components
        return MaskedNetwork("net", tuple(range(self.length)), (self.config.hidden,), outputs)

    @cached_property
    def before(self) -> Tensor:
        """Mask of the direct layer: 1.0 from every value to those after it."""
        return torch.ones(self.length, self.length).triu(1)

    def initial(self, generator: torch.Generator) -> Params:
        """Return fresh weights: every conditional begins broad, with components apart from each other.

        Those that begin close together stay so, and two regimes end as one.
        """
        offset = torch.linspace(-4.5, 4.5, self.config.components + 2)[1:-1]
        return {
            **self.masked.initial(generator),
            "direct.weight": torch.zeros(self.length, self.length),
            "direct.bias": torch.zeros(self.length),
            "offset": offset.unsqueeze(1).repeat(1, self.length),
            "width": torch.zeros(self.config.components, self.length),
        }

    def conditionals(self, params: Params, x: Tensor) -> _Conditionals:
        x = x.asinh()
        # Through fewer hidden units than steps alone, some steps would not see the one right before them.
        pulled = masked_linear(params, "direct", x, self.before)
        return _Conditionals.of(params, self.masked(params, x), pulled, self.config.sd_floor)

    def filled(self, params: Params, x: Tensor, missing: Tensor) -> Tensor:
        """Return windows ``(n_targets, n, length)`` with every missing value at its mean given those before.

        One value after another. Each adds its share to the hidden layer once: together the arithmetic of
        about one pass.
        """
        x, seen = x.clone(), x.asinh()
        into, out = (params[f"net.{i}.weight"] * mask for i, mask in enumerate(self.masked.masks))
        direct = params["direct.weight"] * self.before
        hidden, done = params["net.0.bias"].unsqueeze(1), 0
        for at in missing.any(dim=(0, 1)).nonzero().flatten().cpu().tolist():
            hidden = hidden + seen[:, :, done:at] @ into[:, done:at]
            outputs = slice(at, None, self.length)
            told = torch.baddbmm(params["net.1.bias"][:, None, outputs], hidden.relu(), out[:, :, outputs])
            pulled = params["direct.bias"][:, None, at, None] + seen[:, :, :at] @ direct[:, :at, at, None]
            own = _Conditionals.of(params, told.unsqueeze(3), pulled, self.config.sd_floor, slice(at, at + 1))
            x[:, :, at] = torch.where(missing[:, :, at], own.moments()[0].squeeze(2), x[:, :, at])
            seen[:, :, at], done = x[:, :, at].asinh(), at
        return x

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the negative log-density of the observed values of every window, in nats."""
        return -(self.conditionals(params, batch.values).log_prob(batch.values) * batch.kept).sum(2)


class NadeDetector(Detector):
    """The score of a step is what its value's log-density lacks to the peak of its conditional distribution.

    That is the one given the steps before it. Beside it stands the window's own, its negative log-density,
    each in units of what it does on training windows: that alone would miss a spike in a long window.

    Larochelle & Murray 2011 (proceedings.mlr.press/v15/larochelle11a); Uria et al. 2013 (RNADE), arXiv
    1306.0186; Germain et al. 2015 (MADE), arXiv 1502.03509.

    Departures: one mask in time order instead of many drawn ones, so that the newest step is judged by all
    before it; the components of a step share a centre and a spread that follow the past, and only their
    weights follow it each on its own: half the outputs, and half the cost; the network sees ``asinh(x)``, so
    that a value far off does not take the steps after it along; missing steps hold their mean given those
    before.

    A default member at window 24 takes 52 KiB; at window 128, where the outputs dominate, 330 KiB.
    """

    Config = NadeConfig
    density: ClassVar[Density] = Density.TRACTABLE
    family: ClassVar[str] = "Neural autoregressive density"
    paper: ClassVar[str] = "Larochelle & Murray 2011; Uria et al. 2013; Germain et al. 2015"
    folds: ClassVar[int] = 2

    config: NadeConfig

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of every window, shape ``(n_targets, n_windows)``.

        Missing values hold their mean given the values before them and do not count.
        """
        self._check_match(windows)

        def density(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            x, mask = self._filled(state, piece.values, piece.mask)
            each = self._conditionals(state, x).log_prob(x)
            return (each if mask is None else each.masked_fill(mask, 0.0)).sum(2)

        return in_pieces(windows, density, values=PIECE)

    def encode(self, windows: Windows) -> Tensor:
        """Return the hidden layer of every window, shape ``(n_targets, n_windows, hidden)``."""
        self._check_match(windows)

        def hidden(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            x, _ = self._filled(state, piece.values, piece.mask)
            return self._network(x.shape[2]).masked.hidden_of(state, x.asinh())

        return in_pieces(windows, hidden, values=PIECE)

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        trained = train(
            self._network(windows.window * windows.n_channels),
            windows,
            self.config.training(),
            seed=self.config.seed,
            max_windows=self.config.max_windows,
            on_progress=on_progress,
        )
        # A member that failed keeps its untrained weights, a broad mixture about the median: all it needs.
        return trained.params | surprise_parts.scale_by_member(self._raw_of, trained.params, windows)

    def _raw_of(self, state: Params) -> surprise_parts.Raw:
        return lambda values, mask, _: self._raw(state, values, mask)

    def _raw(self, state: Params, values: Tensor, mask: Tensor | None) -> Tensor:
        """Parts as theory standardises them: window, then every step; ``(n_targets, k, 1 + window)``."""
        x, gone = self._filled(state, values, mask)
        conditionals = self._conditionals(state, x)
        log_prob = conditionals.log_prob(x)
        # Twice the log-density that a value lacks to its conditional's peak is chi-squared if that is normal;
        # what the whole window lacks is counted from the narrowest normal distribution there may be.
        lack = (2 * (conditionals.log_peak - log_prob)).clamp_min_(0)
        total = (-2 * log_prob - 2 * math.log(self.config.sd_floor) - LOG_2PI).clamp_min_(0)
        observed: Tensor | int = x.shape[2]
        if gone is not None:
            lack, total, observed = lack.masked_fill(gone, 0.0), total.masked_fill(gone, 0.0), (~gone).sum(2)
        step, _ = surprise_parts.steps_of(lack.sqrt_(), mask, values.shape[3])
        return torch.cat([surprise_parts.standard(total.sum(2), observed).unsqueeze(2), step], dim=2)

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            return surprise_parts.combined(
                self._raw(state, piece.values, surprise_parts.missing_in(piece)), state
            )

        return in_pieces(windows, scores, values=PIECE)

    def _expect(self, windows: Windows) -> Expected:
        def moments(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            x, _ = self._filled(state, piece.values, piece.mask)
            return torch.stack(self._conditionals(state, x).moments(), dim=2)

        both = in_pieces(windows, moments, values=PIECE)
        mean, scale = both.view(*both.shape[:3], windows.window, -1).unbind(2)
        return Expected(mean, scale)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        length = self.config.window * self._n_channels()
        share = torch.rand(n, length, generator=generator)
        noise = torch.randn(n, length, generator=generator)
        x = torch.zeros(self.n_targets, n, length)
        for at in range(length):
            x[:, :, at] = self._conditionals(self._state, x).drawn(at, share[:, at], noise[:, at])
        return x.view(self.n_targets, n, self.config.window, -1)

    def _filled(self, state: Params, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return flat windows, missing values at their mean given those before, and the flat mask, if any."""
        x = values.flatten(2).clamp(-FAR, FAR)
        if mask is None or not bool(mask.any()):
            return x, None
        mask = mask.flatten(2)
        x = x.masked_fill(mask, 0.0)
        gappy = mask.any(2).any(0).nonzero().flatten()
        few = self._network(x.shape[2]).filled(state, x[:, gappy], mask[:, gappy])
        return x.index_copy(1, gappy, few), mask

    def _conditionals(self, state: Params, x: Tensor) -> _Conditionals:
        return self._network(x.shape[2]).conditionals(state, x)

    def _network(self, length: int) -> _NadeNetwork:
        return _NadeNetwork(self.config, length)

    def _n_channels(self) -> int:
        return self._state["direct.weight"].shape[1] // self.config.window
