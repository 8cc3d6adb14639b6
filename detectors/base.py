"""What every detector is: a bank of generative models of normal windows, one per target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

from detectors.device import CPU, computing

Progress = Callable[[float], None]
"""Called with the share of the work that is done, from 0 to 1."""

MAX_MISSING = 0.25
"""Share of a window that may be missing: of its steps for a score, of its values to learn from it."""


class NotFittedError(RuntimeError):
    """The detector holds no model yet; call fit(windows) or load(config, state) first."""


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
class Windows:
    """The regular, scaled series of a bank, and the windows cut from them as views.

    Attributes:
        series: shape ``(n_targets, n_points, n_channels)``, float32, finite; 0 where missing.
        missing: same shape, True where a step was not observed.
        weight: shape ``(n_targets, n_windows)``, float32; 0 leaves a window out of training
            (padding, trimmed, held out).
        start: shape ``(n_targets,)``, int64, index of the first point on the target's UTC grid.
        window: steps of one window.
        regime: shape ``(n_targets, n_points)``, uint8, number of the known regime of every step (workday,
            weekend, what a calendar names); None where nobody told: all are of regime 0.
    """

    series: Tensor
    missing: Tensor
    weight: Tensor
    start: Tensor
    window: int
    regime: Tensor | None = field(default=None, kw_only=True)

    @classmethod
    def of(
        cls,
        series: Tensor,
        window: int,
        *,
        missing: Tensor | None = None,
        weight: Tensor | None = None,
        start: Tensor | None = None,
        regime: Tensor | None = None,
    ) -> Windows:
        """Return the windows of ``series`` (NaN reads as missing where ``missing`` is None).

        Raises:
            ValueError: wrong number of axes, infinite or NaN observed values, or a series
                shorter than one window.
        """
        if series.ndim != 3:
            raise ValueError(
                f"expected series of shape (n_targets, n_points, n_channels), got {tuple(series.shape)}"
            )
        if series.shape[1] < window:
            raise ValueError(
                f"series of {series.shape[1]} points are shorter than one window of {window}; "
                "pass more points or a smaller window"
            )
        if missing is None:
            missing = torch.isnan(series)
        series = torch.where(missing, 0.0, series).to(torch.float32)
        if not torch.isfinite(series).all():
            raise ValueError(
                "series hold NaN or infinite values that are not marked missing; mark or drop them"
            )
        n_targets, n_points = series.shape[:2]
        if weight is None:
            weight = torch.ones(n_targets, n_points - window + 1)
        if start is None:
            start = torch.zeros(n_targets, dtype=torch.int64)
        return cls(series, missing, weight.to(torch.float32), start, window, regime=regime)

    @property
    def n_targets(self) -> int:
        return self.series.shape[0]

    @property
    def n_points(self) -> int:
        return self.series.shape[1]

    @property
    def n_channels(self) -> int:
        return self.series.shape[2]

    @property
    def n_windows(self) -> int:
        return self.n_points - self.window + 1

    @property
    def values(self) -> Tensor:
        """View of shape ``(n_targets, n_windows, window, n_channels)``."""
        return self.series.unfold(1, self.window, 1).transpose(2, 3)

    @property
    def mask(self) -> Tensor:
        """View of shape ``(n_targets, n_windows, window, n_channels)``, True where missing."""
        return self.missing.unfold(1, self.window, 1).transpose(2, 3)

    @property
    def grid(self) -> Tensor:
        """Index of every point on its target's UTC grid, int64, shape ``(n_targets, n_points)``."""
        return self.start.unsqueeze(1) + torch.arange(self.n_points)

    @property
    def starts(self) -> Tensor:
        """Index of every window's first point on its target's grid, int64, ``(n_targets, n_windows)``."""
        return self.start.unsqueeze(1) + torch.arange(self.n_windows)

    @property
    def regimes(self) -> Tensor:
        """Number of every window's regime, that of its newest step, int64, ``(n_targets, n_windows)``."""
        if self.regime is None:
            return torch.zeros(self.n_targets, self.n_windows, dtype=torch.int64)
        return self.regime[:, self.window - 1 :].to(torch.int64)

    @property
    def missing_share(self) -> Tensor:
        """Share of missing values in each window, shape ``(n_targets, n_windows)``."""
        return self._share(self.missing.to(torch.float32).mean(dim=2))

    @property
    def empty_share(self) -> Tensor:
        """Share of each window's steps at which no channel was observed, ``(n_targets, n_windows)``."""
        return self._share(self.missing.all(dim=2).to(torch.float32))

    def _share(self, of_points: Tensor) -> Tensor:
        """Return the mean over each window of something said of every point."""
        total = torch.nn.functional.pad(of_points.cumsum(dim=1), (1, 0))
        return (total[:, self.window :] - total[:, : -self.window]) / self.window

    @property
    def scorable(self) -> Tensor:
        """True for windows with few enough empty steps, shape ``(n_targets, n_windows)``.

        A channel that is missing is inferred from the others, so they have a score without it.
        """
        return self.empty_share <= MAX_MISSING + 1e-6

    @property
    def touched(self) -> Tensor:
        """True for points inside a window of weight above 0, shape ``(n_targets, n_points)``."""
        edge = self.window - 1
        return any_of(torch.nn.functional.pad(self.weight > 0, (edge, edge)), self.window)

    def drawn(self, n: int, place: Tensor | float = 0.5) -> Tensor:
        """Return n indices of windows of weight above 0, evenly over each target's history, in order.

        Shape ``(n_targets, n)``; indices repeat where there are fewer than n, and are 0 where there are none.

        Args:
            n: how many.
            place: where in each of n equal parts, from 0 to below 1; shape ``(n,)`` for one each.
        """
        rank = (self.weight > 0).to(torch.int64).cumsum(1)
        wanted = ((torch.arange(n) + place) / n * rank[:, -1:]).floor().to(torch.int64) + 1
        return torch.searchsorted(rank, wanted.contiguous()).clamp_max(self.n_windows - 1)

    def gathered(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and mask of the windows drawn, each ``(n_targets, n, window, n_channels)``."""
        rows = torch.arange(self.n_targets).unsqueeze(1)
        return self.values[rows, index], self.mask[rows, index]

    def picked(self, index: Tensor) -> PickedWindows:
        """Return the windows of these indices, shape ``(n_targets, n)``, to be used as windows are."""
        values, mask = self.gathered(index)
        at = self.start.unsqueeze(1) + index
        return PickedWindows(
            values.flatten(1, 2),
            mask.flatten(1, 2),
            self.weight.gather(1, index),
            at[:, 0],
            self.window,
            at,
            regime=self._regime_of(index),
        )

    def _regime_of(self, index: Tensor) -> Tensor | None:
        """Return the regimes of windows laid end to end: of every step that of its window."""
        if self.regime is None:
            return None
        return self.regimes.gather(1, index).to(torch.uint8).repeat_interleave(self.window, 1)

    def select(self, rows: Sequence[int] | Tensor) -> Windows:
        """Return the windows of some targets, in the order given."""
        return self._rows(torch.as_tensor(rows, dtype=torch.int64))

    def to(self, device: torch.device) -> Windows:
        """Return the windows on a device; these themselves where they are there already."""
        if self.series.device == device:
            return self
        held = {each.name: getattr(self, each.name) for each in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in held.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def members(self, part: slice) -> Windows:
        """Return the windows of neighbouring targets, as views."""
        return self._rows(part)

    def _rows(self, rows: Tensor | slice) -> Windows:
        return Windows(
            self.series[rows],
            self.missing[rows],
            self.weight[rows],
            self.start[rows],
            self.window,
            regime=None if self.regime is None else self.regime[rows],
        )

    def span(self, first: int, stop: int) -> Windows:
        """Return windows ``first`` to ``stop - 1`` of every target, as views."""
        points = slice(first, stop + self.window - 1)
        return Windows(
            self.series[:, points],
            self.missing[:, points],
            self.weight[:, first:stop],
            self.start + first,
            self.window,
            regime=None if self.regime is None else self.regime[:, points],
        )

    def shorter(self, steps: int) -> Windows:
        """Return the windows of fewer steps that lie inside a window of weight above 0, and the rest at 0."""
        edge = self.window - steps
        inside = any_of(torch.nn.functional.pad(self.weight > 0, (edge, edge)), edge + 1)
        return replace(self, weight=inside.to(torch.float32), window=steps)

    def weighted(self, weight: Tensor) -> Windows:
        """Return the same windows with other training weights."""
        return replace(self, weight=weight.to(torch.float32))

    def without(self, points: Tensor) -> Windows:
        """Return the windows with weight 0 wherever they touch a marked point.

        Args:
            points: shape ``(n_targets, n_points)``, bool.
        """
        return self.weighted(torch.where(any_of(points, self.window), 0.0, self.weight))

    def hidden(self, points: Tensor) -> Windows:
        """Return the windows with the marked points missing (shape ``(n_targets, n_points)``)."""
        hide = points.unsqueeze(2)
        return replace(self, series=torch.where(hide, 0.0, self.series), missing=self.missing | hide)

    def pooled(self) -> Windows:
        """Return all targets laid end to end as one; windows across a seam get weight 0."""
        n, points = self.n_targets, self.n_points
        weight = torch.zeros(n, points)
        weight[:, : self.n_windows] = self.weight
        flat = weight.reshape(1, -1)[:, : n * points - self.window + 1]
        return Windows(
            self.series.reshape(1, n * points, -1),
            self.missing.reshape(1, n * points, -1),
            flat,
            self.start[:1],
            self.window,
            regime=None if self.regime is None else self.regime.reshape(1, n * points),
        )


@dataclass(frozen=True)
class PickedWindows(Windows):
    """Some windows of a bank, laid end to end: for density, expectation and latent, not for training.

    Attributes:
        at: shape ``(n_targets, n_windows)``, int64, index of each window's first point on the grid.
    """

    at: Tensor

    @property
    def n_windows(self) -> int:
        return self.at.shape[1]

    @property
    def values(self) -> Tensor:
        return self._apart(self.series)

    @property
    def mask(self) -> Tensor:
        return self._apart(self.missing)

    @property
    def grid(self) -> Tensor:
        return (self.at.unsqueeze(2) + torch.arange(self.window)).flatten(1)

    @property
    def starts(self) -> Tensor:
        return self.at

    @property
    def regimes(self) -> Tensor:
        if self.regime is None:
            return torch.zeros_like(self.at)
        return self.regime[:, self.window - 1 :: self.window].to(torch.int64)

    @property
    def missing_share(self) -> Tensor:
        return self.mask.to(torch.float32).mean(dim=(2, 3))

    @property
    def empty_share(self) -> Tensor:
        return self.mask.all(dim=3).to(torch.float32).mean(dim=2)

    def select(self, rows: Sequence[int] | Tensor) -> PickedWindows:
        return self._part(torch.as_tensor(rows, dtype=torch.int64), slice(None))

    def members(self, part: slice) -> PickedWindows:
        return self._part(part, slice(None))

    def span(self, first: int, stop: int) -> PickedWindows:
        return self._part(slice(None), slice(first, stop))

    def own(self, found: Tensor) -> Tensor:
        """Return what was found for these windows, ``(n_targets, n_windows, ...)``.

        What works on the series finds something for every stretch of it, those across seams too.

        Raises:
            ValueError: found for neither.
        """
        if found.shape[1] == self.n_windows:
            return found
        if found.shape[1] == self.n_points - self.window + 1:
            return found[:, :: self.window]
        raise ValueError(
            f"expected one result for each of {self.n_windows} windows, got {found.shape[1]}; "
            "work on windows.values"
        )

    def _apart(self, points: Tensor) -> Tensor:
        return points.reshape(len(points), -1, self.window, points.shape[2])

    def _part(self, rows: slice | Tensor, part: slice) -> PickedWindows:
        at = self.at[rows][:, part]
        series, missing = (self._apart(t)[rows][:, part].flatten(1, 2) for t in (self.series, self.missing))
        weight, regime = self.weight[rows][:, part], None
        if self.regime is not None:
            regime = self._apart(self.regime.unsqueeze(2))[rows][:, part].flatten(1)
        return PickedWindows(series, missing, weight, at[:, 0], self.window, at, regime=regime)


T = TypeVar("T")


def in_pieces(
    windows: Windows, function: Callable[[slice, Windows], Tensor], *, values: int = 2**19
) -> Tensor:
    """Return ``function(members, their windows)`` over a bank, piece by piece, so that memory stays bounded.

    Args:
        windows: the windows of all members.
        function: maps some members and some of their windows to ``(members, windows, ...)``.
        values: values of the windows of one piece, about; 2 MiB in float32 stays in a core's cache.
    """
    per_window = windows.window * windows.n_channels
    members = max(1, values // (per_window * windows.n_windows))
    at_once = max(1, values // (per_window * members))
    rows = []
    for start in range(0, windows.n_targets, members):
        part = slice(start, start + members)
        bank = windows.members(part)
        spans = [bank.span(i, min(i + at_once, bank.n_windows)) for i in range(0, bank.n_windows, at_once)]
        rows.append(_joined([function(part, span) for span in spans], dim=1))
    return _joined(rows, dim=0)


def once(of: Callable[[slice], T]) -> Callable[[slice], T]:
    """Return the same, but what is made of some members is made once: their pieces follow each other."""
    last: list[tuple[slice, T]] = []

    def remembered(members: slice) -> T:
        if not last or last[0][0] != members:
            last[:] = [(members, of(members))]
        return last[0][1]

    return remembered


def _joined(pieces: list[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)


def fit_in_pieces(
    windows: Windows, fit: Callable[[Windows], dict[str, Tensor]], on_progress: Progress, *, members: int = 16
) -> dict[str, Tensor]:
    """Return the state of a bank fitted a few members at a time, so that memory stays bounded.

    Args:
        windows: the training windows of all members.
        fit: maps the windows of some members to their state.
        on_progress: told after each piece.
        members: members of one piece; 16 keep their moments at window 128 in a core's cache.
    """
    states = []
    for start in range(0, windows.n_targets, members):
        states.append(fit(windows.members(slice(start, start + members))))
        on_progress(min(start + members, windows.n_targets) / windows.n_targets)
    return {name: _concatenate([state[name] for state in states]) for name in states[0]}


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

    def __init__(self, config: DetectorConfig | None = None) -> None:
        self.config: Any = config if config is not None else self.Config()
        self._state: dict[str, Tensor] = {}

    # -- public: check and delegate -------------------------------------------------

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
        return cls.load(config, {name: _concatenate([s[name] for s in states]) for name in states[0]})

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


class PerTarget(Detector):
    """A bank whose members are fitted and scored one after another: the short way to a new detector.

    A subclass implements the hooks below for one target; tensors carry no axis of targets there. A bank of
    many targets costs as many calls, so what is to serve thousands of series derives from ``Detector``.
    """

    @abstractmethod
    def _fit_one(self, windows: Windows) -> dict[str, Tensor]:
        """Return the state of the only target of these windows, of the same names for every target."""

    @abstractmethod
    def _score_one(self, state: dict[str, Tensor], windows: Windows) -> Tensor:
        """Return scores, shape ``(n_windows, window)``."""

    @abstractmethod
    def _expect_one(self, state: dict[str, Tensor], windows: Windows) -> Expected:
        """Return mean and scale, each ``(n_windows, window, n_channels)``."""

    @abstractmethod
    def _sample_one(self, state: dict[str, Tensor], n: int, generator: torch.Generator) -> Tensor:
        """Return new windows, shape ``(n, window, n_channels)``."""

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        def fit(one: Windows) -> dict[str, Tensor]:
            return {name: tensor.unsqueeze(0) for name, tensor in self._fit_one(one).items()}

        return fit_in_pieces(windows, fit, on_progress, members=1)

    def _score(self, windows: Windows) -> Tensor:
        return torch.stack([self._score_one(state, one) for state, one in self._each(windows)])

    def _expect(self, windows: Windows) -> Expected:
        found = [self._expect_one(state, one) for state, one in self._each(windows)]
        scales = [each.scale for each in found if each.scale is not None]
        mean = torch.stack([each.mean for each in found])
        return Expected(mean, torch.stack(scales) if len(scales) == len(found) else None)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        # Every member draws the same noise, so that its samples do not depend on its place in the bank.
        start = generator.get_state()
        return torch.stack(
            [self._sample_one(self._member(i), n, generator.set_state(start)) for i in range(self.n_targets)]
        )

    def _each(self, windows: Windows) -> list[tuple[dict[str, Tensor], Windows]]:
        return [(self._member(i), windows.members(slice(i, i + 1))) for i in range(self.n_targets)]

    def _member(self, i: int) -> dict[str, Tensor]:
        return {name: tensor[i] for name, tensor in self._state.items()}


def any_of(marked: Tensor, window: int) -> Tensor:
    """True where any of the ``window`` points from here on is marked; one column less per further point."""
    total = torch.nn.functional.pad(marked.to(torch.int32).cumsum(1), (1, 0))
    return total[:, window:] > total[:, :-window]


def _silent(_: float) -> None:
    return None


def _concatenate(tensors: list[Tensor]) -> Tensor:
    shape = [max(t.shape[axis] for t in tensors) for axis in range(1, tensors[0].ndim)]
    return torch.cat([_padded(t, shape) for t in tensors])


def _padded(tensor: Tensor, shape: list[int]) -> Tensor:
    if list(tensor.shape[1:]) == shape:
        return tensor
    whole = tensor.new_zeros(tensor.shape[0], *shape)
    whole[tuple(slice(n) for n in tensor.shape)] = tensor
    return whole
