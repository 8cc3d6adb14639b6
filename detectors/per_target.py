"""The short way to a detector of your own: one target at a time."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from detectors.base import Detector, Expected
from detectors.pieces import Progress, fit_in_pieces
from detectors.windows import Windows


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
