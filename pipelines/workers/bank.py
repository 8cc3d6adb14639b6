"""Between prepared series and detectors: rows into one padded bank, window scores back into step scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from detectors import device, registry
from detectors.base import Detector, DetectorConfig, Expected
from detectors.windows import Windows
from pipelines.errors import InvalidError
from pipelines.records import Json
from pipelines.steps.recipe import ChannelRecipe

LOUDEST = 20.0
"""Largest score of a channel beside others, in the units of detectors: standard deviations, about."""

SWITCH, SWITCH_VOTE = 2, 0.1
"""Values of a channel that is a switch, and what it counts beside others: it turns without being odd, and
many of them drown the channel that measures something. One that never turned counts in full: that is news."""

CHUNK_VALUES = 2_000_000
"""Scores held at once while spreading: 8 MB of float32 stays near the cache."""


class PreparedSteps(Protocol):
    """What a bank needs of a prepared target: values and missing, both (n, n_channels), and regime (n,)."""

    @property
    def values(self) -> NDArray[np.float32]: ...
    @property
    def missing(self) -> NDArray[np.bool_]: ...
    @property
    def regime(self) -> NDArray[np.uint8]: ...


@contextmanager
def at_work(device_name: str) -> Iterator[None]:
    """Fit and score on a device in one thread, as workers stand side by side; then as many as before.

    Raises:
        InvalidError: no device has that name.
        UnavailableError: it is not there.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with device.using(device_name):
            yield
    finally:
        # A notebook goes on with work of its own.
        torch.set_num_threads(threads)


def config_of(detector: str, params: Json) -> tuple[type[Detector], DetectorConfig]:
    """Return a registered detector's class and its Config.

    Raises:
        UnknownDetectorError: nobody declares the detector.
        UnknownSettingError: a parameter that the Config does not know.
        InvalidError: a value it refuses.
    """
    cls = registry.get(detector)
    try:
        return cls, cls.configured(params, f"detector {detector!r}")
    except InvalidError:
        raise
    except ValueError as error:
        # A Config checks arguments, as Python does; here they are what a person wrote.
        raise InvalidError(str(error)) from error
    except TypeError as error:
        raise InvalidError(f"refused by {detector}: {error}") from error


def windows_of(rows: Sequence[PreparedSteps], window: int, starts: Sequence[int]) -> Windows:
    """Return the rows as one bank, padded on the right with missing steps of weight 0.

    Args:
        rows: one prepared target each, at least one of them as long as a window.
        starts: grid index of every row's first step.
    """
    lengths = torch.tensor([len(row.values) for row in rows])
    n_points = max(int(lengths.max()), window)
    channels = rows[0].values.shape[1]
    series = torch.zeros(len(rows), n_points, channels)
    missing = torch.ones(len(rows), n_points, channels, dtype=torch.bool)
    regime = torch.zeros(len(rows), n_points, dtype=torch.uint8)
    for at, row in enumerate(rows):
        n = len(row.values)
        series[at, :n] = torch.from_numpy(np.ascontiguousarray(row.values))
        missing[at, :n] = torch.from_numpy(np.ascontiguousarray(row.missing))
        regime[at, :n] = torch.from_numpy(np.ascontiguousarray(row.regime))
    first = torch.arange(n_points - window + 1)
    weight = (first[None, :] + window <= lengths[:, None]).to(torch.float32)
    return Windows.of(
        series,
        window,
        missing=missing,
        weight=weight,
        start=torch.tensor(list(starts), dtype=torch.int64),
        regime=regime,
    )


def apart(windows: Windows) -> Windows:
    """Return every channel of every target as a target of its own, in order."""
    n, points, channels = windows.series.shape
    series, missing = (
        each.transpose(1, 2).reshape(n * channels, points, 1) for each in (windows.series, windows.missing)
    )
    weight, start = (each.repeat_interleave(channels, 0) for each in (windows.weight, windows.start))
    regime = None if windows.regime is None else windows.regime.repeat_interleave(channels, 0)
    return Windows(series, missing, weight, start, windows.window, regime=regime)


def together(scores: Tensor, votes: NDArray[np.float64]) -> Tensor:
    """Return the scores ``(n_targets, n)`` of targets from those of their channels, taken ``apart``.

    The length of the vector of those that are known: nearly the largest one; NaN where none is. A channel
    that hardly ever moves has no scale to judge its moves by: one channel counts at most `LOUDEST`.

    Args:
        votes: shape ``(n_targets, n_channels)``, what every channel's score is multiplied by.
    """
    own = scores.clamp(0, LOUDEST).view(*votes.shape, scores.shape[1])
    squares = (own * torch.from_numpy(votes).unsqueeze(2).to(own.dtype)).square()
    known = ~torch.isnan(squares)
    return torch.where(known.any(1), squares.nansum(1).sqrt(), torch.nan)


def votes_of(channels: Sequence[ChannelRecipe]) -> list[float]:
    """Return what the score of each channel is multiplied by before it joins the others'."""
    return [SWITCH_VOTE if each.kinds == SWITCH else 1.0 for each in channels]


def pack(bank: Detector, rows: Sequence[int]) -> bytes:
    """Return some members of a bank as safetensors bytes."""
    return to_bytes({name: t.contiguous() for name, t in bank.select(rows).state().items()})


def opened(weights: bytes) -> dict[str, Tensor]:
    """Return the tensors that ``pack`` wrote."""
    return from_bytes(weights)


def unpack(cls: type[Detector], config: DetectorConfig, members: Sequence[bytes]) -> Detector:
    """Return the bank of these members, in order."""
    return assembled(cls, config, [opened(member) for member in members])


def assembled(cls: type[Detector], config: DetectorConfig, members: Iterable[dict[str, Tensor]]) -> Detector:
    """Return the bank of members whose weights are opened, in order."""
    return cls.stack([cls.load(config, member) for member in members])


class Spread:
    """Collects window scores chunk by chunk into a live and a settled score of every step.

    The live score of a step comes from the window that ends at it, the settled one is the mean
    over all windows that cover it.
    """

    def __init__(self, n_targets: int, n_points: int, window: int) -> None:
        self.window = window
        self.total = torch.zeros(n_targets, n_points, dtype=torch.float64)
        self.count = torch.zeros(n_targets, n_points)
        self.live = torch.full((n_targets, n_points), torch.nan, dtype=torch.float64)

    def add(self, first: int, scores: Tensor) -> None:
        """Add scores of shape ``(n_targets, n, window)`` of the windows from ``first`` on."""
        n = scores.shape[1]
        scored = ~torch.isnan(scores[:, :, 0])
        covered = slice(first, first + n + self.window - 1)
        self.count[:, covered] += self._over(scored.to(torch.float64)).to(torch.float32)
        if scores.stride(2) == 0:
            # All steps of a window have its score: running sums take the place of a pass for each step.
            self.total[:, covered] += self._over(torch.where(scored, scores[:, :, 0], 0.0).to(torch.float64))
        else:
            filled = torch.where(scored.unsqueeze(2), scores, 0.0)
            for k in range(self.window):
                self.total[:, first + k : first + k + n] += filled[:, :, k]
        self.live[:, first + self.window - 1 : first + self.window - 1 + n] = scores[:, :, -1]

    def _over(self, values: Tensor) -> Tensor:
        """Return, for every step that windows cover, the sum of what each of them has."""
        running = torch.nn.functional.pad(values.cumsum(1), (self.window, self.window - 1))
        running[:, self.window + values.shape[1] :] = running[:, self.window + values.shape[1] - 1, None]
        return running[:, self.window :] - running[:, : -self.window]

    @property
    def settled(self) -> Tensor:
        return torch.where(self.count > 0, self.total / self.count, torch.nan)


def spans(first: int, stop: int, n_targets: int, window: int) -> Iterable[tuple[int, int]]:
    """Yield spans of windows small enough to be scored at once."""
    size = max(1, CHUNK_VALUES // max(1, n_targets * window))
    for at in range(first, stop, size):
        yield at, min(at + size, stop)


def score_steps(bank: Detector, windows: Windows) -> tuple[Tensor, Tensor]:
    """Return live and settled scores of every step, each ``(n_targets, n_points)``, NaN where none."""
    return score_unseen([bank], windows, torch.zeros(windows.n_points, dtype=torch.int64))


def score_unseen(banks: Sequence[Detector], windows: Windows, fold: Tensor) -> tuple[Tensor, Tensor]:
    """Return live and settled scores where every step is scored by the bank that did not see it.

    Args:
        banks: bank k never saw the steps of fold k.
        windows: what all of them were fitted on.
        fold: shape ``(n_points,)``, the same contiguous blocks for every target.
    """
    return score_between(banks, windows, fold, 0, windows.n_points)


def score_between(
    banks: Sequence[Detector], windows: Windows, fold: Tensor, first: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Return what ``score_unseen`` says of the steps from ``first`` to before ``stop``."""
    n_targets, window = windows.n_targets, windows.window
    live = torch.full((n_targets, stop - first), torch.nan, dtype=torch.float64)
    settled = live.clone()
    with torch.no_grad():
        for own, end in _blocks(fold[first:stop]):
            low, high = own + first, end + first
            begin, last = max(0, low - window + 1), min(windows.n_windows, high)
            if begin >= last:
                continue
            around = windows.span(begin, last)
            spread = Spread(n_targets, around.n_points, window)
            for a, b in spans(0, around.n_windows, n_targets, window):
                spread.add(a, banks[int(fold[low])].score(around.span(a, b)))
            inside = slice(low - begin, high - begin)
            live[:, own:end] = spread.live[:, inside]
            settled[:, own:end] = spread.settled[:, inside]
    empty = windows.missing[:, first:stop].all(dim=2)
    return torch.where(empty, torch.nan, live), torch.where(empty, torch.nan, settled)


def expected_steps(bank: Detector, windows: Windows, hidden: Tensor) -> Expected:
    """Return what is normal where steps are hidden, each ``(n_targets, n_points, n_channels)``.

    Mean and scale are the means over all windows that cover a step of the detector's expectation.
    """
    window, n = windows.window, windows.n_windows
    mean, scale = torch.zeros(2, *windows.series.shape)
    count = torch.zeros(windows.n_points)
    has_scale = True
    with torch.no_grad():
        for first, stop in spans(0, n, windows.n_targets, window * windows.n_channels):
            found = bank.expect(windows.hidden(hidden).span(first, stop))
            for k in range(window):
                here = slice(first + k, stop + k)
                mean[:, here] += found.mean[:, :, k]
                count[here] += 1
                if found.scale is not None:
                    scale[:, here] += found.scale[:, :, k]
            has_scale &= found.scale is not None
    times = count.clamp(min=1)[None, :, None]
    return Expected(mean / times, scale / times if has_scale else None)


def _blocks(fold: Tensor) -> list[tuple[int, int]]:
    if not len(fold):
        return []
    edges = (torch.nonzero(fold[1:] != fold[:-1]).flatten() + 1).tolist()
    starts = [0, *edges]
    return list(zip(starts, [*edges, len(fold)], strict=True))


def finite(values: Json) -> Json:
    """Return JSON with non-finite numbers as None (neither database takes NaN in JSON)."""
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, dict):
        return finite(value)
    return value
