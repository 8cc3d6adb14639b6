"""A detector as scikit-learn knows estimators, for windows that are cut already: one row a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from detectors import registry
from detectors.base import Detector
from detectors.windows import Windows
from pipelines.steps.prepare import robust_scale
from pipelines.workers import bank

CHUNK = 256
"""Rows scored at once: each takes a copy of what the model learned along."""


class WindowDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Tells windows unlike those it was fitted on; rows are windows, columns their steps.

    Values are taken in units of their own spread over all rows, as detectors expect them. Unlike ``detect``
    it knows no time: no season is taken out, and the line is drawn on the very rows it was fitted on.

    Parameters:
        detector: a name, a detector with its settings, or a class; its window is the number of columns.
        params: settings of a detector that is named.
        contamination: share of the rows fitted on that lies below the line.
        device: ``auto``, ``cpu`` or ``cuda``.

    Attributes:
        detector_: the fitted detector, a bank of one.
        center_, scale_: median and spread of the values it was fitted on.
        offset_: ``score_samples`` at the line.
        n_features_in_: steps of a window.

    >>> from sklearn.datasets import make_blobs
    >>> X, _ = make_blobs([60, 3], centers=[[0] * 8, [9] * 8], random_state=0)
    >>> WindowDetector(contamination=0.05).fit_predict(X).tolist().count(-1)
    4
    """

    def __init__(
        self,
        detector: str | Detector | type[Detector] = "gaussian",
        *,
        params: Mapping[str, Any] | None = None,
        contamination: float = 0.01,
        device: str = "auto",
    ) -> None:
        self.detector = detector
        self.params = params
        self.contamination = contamination
        self.device = device

    def fit(self, X: Any, y: object = None) -> Self:
        """Learn what windows usually look like.

        Args:
            X: shape ``(n_windows, window)``, finite.
            y: not looked at.

        Raises:
            ValueError: X is no such array, or a setting is refused.
            UnknownDetectorError: nobody declares the detector.
        """
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if not 0.0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be above 0 and at most 0.5, got {self.contamination}")
        center = float(np.median(X))
        self.center_, self.scale_ = center, robust_scale(X.ravel() - center, 1e-9 * float(np.abs(X).max()))
        with bank.at_work(self.device):
            self.detector_ = self._unfitted(X.shape[1]).fit(_end_to_end(self._scaled(X)))
        self.offset_ = float(np.quantile(self._scores(X), self.contamination))
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Return how normal every window is, shape ``(n_windows,)``; higher is more normal.

        It is the mean of the detector's score over the window's steps, its sign changed as elsewhere in
        scikit-learn.
        """
        check_is_fitted(self)
        return self._scores(validate_data(self, X, dtype=np.float64, reset=False))

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return ``score_samples`` from the line up, shape ``(n_windows,)``: below 0 is anomalous."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return -1 for anomalous windows and 1 for others, shape ``(n_windows,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _unfitted(self, window: int) -> Detector:
        name, settings = registry.told(self.detector, self.params)
        if settings.get("window", window) != window and not isinstance(self.detector, Detector):
            raise ValueError(f"expected {settings['window']} columns, params' window, got {window}")
        cls, config = bank.config_of(name, {**settings, "window": window})
        return cls(config)

    def _scaled(self, X: NDArray[np.float64]) -> torch.Tensor:
        # float32 has no values beyond; a window that far off is as anomalous as can be.
        with np.errstate(over="ignore"):
            return torch.from_numpy(np.clip((X - self.center_) / self.scale_, -1e4, 1e4).astype(np.float32))

    def _scores(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``score_samples``; a row is a target of its own, so that no window spans two of them."""
        found = []
        with bank.at_work(self.device), torch.no_grad():
            for rows in torch.split(self._scaled(X), CHUNK):
                windows = Windows.of(rows.unsqueeze(2), rows.shape[1])
                found.append(self.detector_.select([0] * len(rows)).score(windows)[:, 0].double().mean(1))
        return -torch.cat(found).numpy()


def _end_to_end(rows: torch.Tensor) -> Windows:
    """Return rows as the windows of one series, laid end to end: what spans two of them has no weight."""
    n, window = rows.shape
    weight = torch.zeros(1, n * window - window + 1)
    weight[:, ::window] = 1.0
    return Windows.of(rows.reshape(1, n * window, 1), window, weight=weight)
