"""What every detector is: a bank of generative models of normal windows, one per target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

from detectors.device import CPU, computing
from detectors.errors import NotFittedError, UnknownSettingError
from detectors.pieces import Progress, concatenate
from detectors.spelling import did_you_mean
from detectors.windows import MAX_MISSING, Windows

T = TypeVar("T")


class Density(StrEnum):
    """How a family knows its density (Goodfellow, NIPS 2016 tutorial, arXiv 1701.00160)."""

    TRACTABLE = "tractable"
    APPROXIMATE = "approximate"
    IMPLICIT = "implicit"
    NONE = "none"


@dataclass(frozen=True)
class DetectorConfig:
    """What every detector can be told; a detector's own Config adds fields to these.

    Attributes:
        window: steps of one window, any integer from 1.
        seed: seeds initial weights, drawn windows and samples.
        max_windows: training windows per target for iterative models; moments use all of them.
    """

    window: int = 24
    seed: int = 0
    max_windows: int = 4096

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1 step, got {self.window}")
        self._check_counts("max_windows")

    def _check_counts(self, *names: str) -> None:
        """Refuse these fields where they are below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def check_trim(trim: float) -> None:
    """Refuse a share of blocks to drop that would leave fewer than half."""
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim must be at least 0 and below 0.5, got {trim}")


@dataclass(frozen=True)
class TrimmedConfig(DetectorConfig):
    """What every detector that drops the worst of its history before it learns can be told.

    Attributes:
        trim: share of the blocks, the worst ones, that is dropped before the last fit.
    """

    trim: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trim(self.trim)


@dataclass(frozen=True)
class Expected:
    """What would have been normal at every step of every window.

    Attributes:
        mean: shape ``(n_targets, n_windows, window, n_channels)``.
        scale: same shape, one standard deviation, or None where the family has none.
    """

    mean: Tensor
    scale: Tensor | None = None


@runtime_checkable
class HasLogProb(Protocol):
    """A family with an explicit density."""

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of every window, in nats, shape ``(n_targets, n_windows)``."""


@runtime_checkable
class Encodes(Protocol):
    """A family with a latent space."""

    def encode(self, windows: Windows) -> Tensor:
        """Return the latent of every window, shape ``(n_targets, n_windows, latent)``."""


class Detector(ABC):
    """A bank of generative models of normal windows. Higher score, more anomalous.

    A subclass keeps everything it learned in ``self._state``: tensors whose first axis is the
    target, so that a bank can be taken apart and put together again. It implements the
    underscored hooks; the public methods check their input and delegate.
    """

    Config: ClassVar[type[DetectorConfig]] = DetectorConfig
    density: ClassVar[Density]
    family: ClassVar[str]
    """One line for people, such as 'Gaussian mixture'."""
    paper: ClassVar[str]
    """Authors and year, such as 'Parzen 1962'."""
    folds: ClassVar[int] = 5
    """Models fitted for calibration, each blind to one share of the blocks (networks: 2)."""
    baseline: ClassVar[bool] = False
    """True for what is not meant to be good but to show what a model adds."""
    by_regime: ClassVar[bool] = False
    """True for what tells regimes apart: its windows then come with ``Windows.regime``."""
    blind_to: ClassVar[frozenset[str]] = frozenset()
    """Of 'spike', 'level', 'variance', 'shape', one at most but for a baseline; the docstring says why."""
    sample_flaw: ClassVar[str] = ""
    """What a test tells its samples by from windows of a plain process; empty where it cannot."""

    _made: tuple[dict[str, Tensor], slice, Callable[[dict[str, Tensor]], Any], Any] | None = None

    def __init__(self, config: DetectorConfig | None = None, **settings: Any) -> None:
        """Keep the settings: as a Config, or as keywords named like its fields.

        Raises:
            UnknownSettingError: a keyword that is no field of the Config.
            TypeError: both a Config and keywords.
            ValueError: a value that the Config refuses.
        """
        if config is not None and settings:
            raise TypeError(
                "expected a Config or settings by keyword, got both; "
                f"put {', '.join(settings)} into the Config"
            )
        self.config: Any = config if config is not None else self.configured(settings)
        self._state: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        """Return its window, what else differs from the usual settings, and whether it is fitted.

        >>> from detectors.gaussian import GaussianDetector
        >>> GaussianDetector(window=48)
        <GaussianDetector(window=48), not fitted>
        """
        usual = type(self.config)()
        shown = [
            f"{name}={value!r}"
            for name, value in self.settings.items()
            if name == "window" or value != getattr(usual, name)
        ]
        n = self.n_targets if self._state else 0
        fitted = f"fitted to {n} target{'s'[: n != 1]}" if n else "not fitted"
        return f"<{type(self).__name__}({', '.join(shown)}), {fitted}>"

    # -- public: check and delegate -------------------------------------------------

    @classmethod
    def configured(cls, settings: Mapping[str, Any], name: str = "") -> DetectorConfig:
        """Return the Config of settings by name.

        Args:
            name: what the detector is called in messages; its class's name where empty.

        Raises:
            UnknownSettingError: a name that is no field of the Config.
            ValueError: a value that the Config refuses.
        """
        known = [field.name for field in fields(cls.Config)]
        unknown = [each for each in settings if each not in known]
        if unknown:
            raise UnknownSettingError(_no_setting(name or cls.__name__, unknown[0], known))
        return cls.Config(**settings)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by name: what ``configured`` makes this Config of."""
        return {field.name: getattr(self.config, field.name) for field in fields(self.config)}

    @property
    def n_targets(self) -> int:
        """Members of the bank."""
        self._check_fitted()
        return next(iter(self._state.values())).shape[0]

    def fit(self, windows: Windows, *, on_progress: Progress | None = None) -> Self:
        """Fit one model per target on the windows whose weight is above 0; return self.

        Raises:
            ValueError: the windows are of another length than ``Config.window``.
        """
        self._check_window(windows)
        with computing() as device:
            state = self._fit(self._trainable(windows.to(device)), on_progress or _silent)
        self._state = {name: tensor.cpu() for name, tensor in state.items()}
        return self

    def cross_fit(self, windows: Windows, fold: Tensor, *, on_progress: Progress | None = None) -> list[Self]:
        """Return ``folds`` fitted banks; bank k never saw a point of fold k.

        Args:
            windows: the training windows.
            fold: shape ``(n_targets, n_points)``, int64, the fold of every point.
        """
        banks = []
        for k in range(self.folds):
            bank = type(self)(self.config)
            banks.append(bank.fit(windows.without(fold == k), on_progress=on_progress))
        return banks

    def score(self, windows: Windows) -> Tensor:
        """Return one anomaly error per step, shape ``(n_targets, n_windows, window)``.

        Finite wherever the window is scorable; NaN where too much of it is missing.

        Raises:
            NotFittedError: nothing was fitted or loaded.
            ValueError: other window length, channels or number of targets than fitted.
        """
        self._check_match(windows)
        with computing() as device:
            here = windows.to(device)
            scores = self._on(device)._score(here).cpu()
        scorable = windows.scorable
        if bool(scorable.all()):
            return scores
        if scores.stride(2) == 0:
            # One score for all steps of a window stays one.
            return torch.where(scorable, scores[:, :, 0], torch.nan).unsqueeze(2).expand(scores.shape)
        return torch.where(scorable.unsqueeze(2), scores, torch.nan)

    def expect(self, windows: Windows) -> Expected:
        """Return what would have been normal at every step, given the steps not missing."""
        self._check_match(windows)
        return self._expect(windows)

    def sample(self, n: int) -> Tensor:
        """Return n new windows per target, shape ``(n_targets, n, window, n_channels)``, seeded."""
        self._check_fitted()
        generator = torch.Generator().manual_seed(self.config.seed)
        return self._sample(n, generator)

    def state(self) -> dict[str, Tensor]:
        """Return every fitted tensor; n_targets is the first axis of each."""
        self._check_fitted()
        return dict(self._state)

    @classmethod
    def load(cls, config: DetectorConfig, state: dict[str, Tensor]) -> Self:
        """Return the detector that had this state."""
        bank = cls(config)
        bank._state = dict(state)
        return bank

    def select(self, rows: Sequence[int] | Tensor) -> Self:
        """Return the bank of some members, in the order given."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return self.load(self.config, {name: t[index] for name, t in self.state().items()})

    @classmethod
    def stack(cls, banks: Sequence[Self]) -> Self:
        """Return one bank with the members of all, in order; tensors are padded where they differ.

        Raises:
            ValueError: no banks, or banks of different configurations.
        """
        if not banks:
            raise ValueError("expected at least one bank to stack, got none")
        config = banks[0].config
        if any(bank.config != config for bank in banks):
            raise ValueError("banks of different configurations cannot be stacked; stack equal ones")
        states = [bank.state() for bank in banks]
        return cls.load(config, {name: concatenate([s[name] for s in states]) for name in states[0]})

    # -- hooks ----------------------------------------------------------------------

    @abstractmethod
    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        """Return the fitted state."""

    @abstractmethod
    def _score(self, windows: Windows) -> Tensor:
        """Return scores, finite for every scorable window."""

    @abstractmethod
    def _expect(self, windows: Windows) -> Expected: ...

    @abstractmethod
    def _sample(self, n: int, generator: torch.Generator) -> Tensor: ...

    def _on(self, device: torch.device) -> Self:
        """Return the bank with its state on a device; itself on the CPU, where every bank lives."""
        if device == CPU:
            return self
        return self.load(self.config, {name: tensor.to(device) for name, tensor in self._state.items()})

    def _state_of(self, members: slice) -> dict[str, Tensor]:
        """Return what was learned of neighbouring members, as views."""
        return {name: tensor[members] for name, tensor in self._state.items()}

    def _made_of(self, members: slice, make: Callable[[dict[str, Tensor]], T]) -> T:
        """Return what is made of the state of neighbouring members; the last one is kept until the next fit.

        Held-out blocks are scored one after the other: factors would be worked out anew for each.

        Args:
            make: a function that stays the same, such as one of a module.
        """
        last = self._made
        if last is None or last[0] is not self._state or last[1:3] != (members, make):
            last = self._made = (self._state, members, make, make(self._state_of(members)))
        made: T = last[3]
        return made

    # -- checks ---------------------------------------------------------------------

    def _trainable(self, windows: Windows) -> Windows:
        # Stricter than for a score: what a model learns of a channel it must have seen.
        seen = windows.missing_share <= MAX_MISSING + 1e-6
        return windows.weighted(torch.where(seen, windows.weight, 0.0))

    def _check_fitted(self) -> None:
        if not self._state:
            raise NotFittedError(
                f"{type(self).__name__} is not fitted; call fit(windows) or load(config, state)"
            )

    def _check_window(self, windows: Windows) -> None:
        if windows.window != self.config.window:
            raise ValueError(
                f"expected windows of {self.config.window} steps, got {windows.window}; "
                "fit and score with the same Config.window"
            )

    def _check_match(self, windows: Windows) -> None:
        self._check_fitted()
        self._check_window(windows)
        if windows.n_targets != self.n_targets:
            raise ValueError(
                f"expected windows of {self.n_targets} targets, got {windows.n_targets}; "
                "use select(rows) to score some members"
            )
        channels = self._n_channels()
        if windows.n_channels != channels:
            raise ValueError(
                f"expected windows of {channels} channels, got {windows.n_channels}; "
                "score the channels that were fitted, in the same order"
            )

    @abstractmethod
    def _n_channels(self) -> int:
        """Channels of the windows that were fitted."""


def _no_setting(who: str, name: str, known: Iterable[str]) -> str:
    hint = did_you_mean(name, known) or ";"
    return f"{who} has no setting {name!r}{hint} it takes {', '.join(sorted(known))}"


def _silent(_: float) -> None:
    return None
