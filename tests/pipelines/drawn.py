"""Events drawn by hand: outages and drifts as two kinds that nobody takes for each other."""

from __future__ import annotations

import numpy as np

from pipelines.insight import similar
from pipelines.insight.similar import Portrait
from pipelines.names import Kind
from pipelines.records import Interval

STEP = 300


def outage(seed: int, n: int = 6) -> Portrait:
    """A fall that stays down for ``n`` steps and a little."""
    rng = np.random.default_rng(seed)
    course = np.concatenate((rng.normal(0, 0.3, 4), -20 + rng.normal(0, 1, n)))
    return portrait(course, n, "below_expected", 3.0 + rng.normal(0, 0.1), y=30.0, yhat=100.0)


def drift(seed: int, n: int = 60) -> Portrait:
    """A slow rise."""
    rng = np.random.default_rng(seed)
    course = np.concatenate((rng.normal(0, 0.3, n // 2), np.linspace(2, 8, n) + rng.normal(0, 0.3, n)))
    return portrait(course, n, "above_expected", 1.4 + rng.normal(0, 0.05), y=140.0, yhat=100.0)


def portrait(course: np.ndarray, n: int, direction: str, peak: float, **at_peak: float) -> Portrait:
    """Return the portrait of an event whose last ``n`` steps are its own."""
    interval = Interval(
        kind=Kind.ANOMALY,
        start=0,
        end=(n - 1) * STEP,
        n_points=n,
        peak_at=0,
        peak_score=peak,
        mean_score=0.8 * peak,
        direction=direction,
        y_at_peak=at_peak.get("y"),
        yhat_at_peak=at_peak.get("yhat"),
    )
    values = course[:, np.newaxis]
    return Portrait(interval, STEP, similar.shape_of(values, np.isnan(values), len(course) - n))
