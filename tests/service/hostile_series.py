"""Series as nobody wants them: constant, tied, on odd lattices, with gaps, too short."""

from __future__ import annotations

import numpy as np
from monitor_jobs import END, HOUR, START, Course, hours, waves

N = (END - START) // HOUR


def constant(value: float) -> np.ndarray:
    return np.full(N, value)


def hostile() -> dict[str, Course]:
    rng = np.random.default_rng(1)
    ts = hours()
    values = {
        "constant": constant(7.0),
        "spike": constant(5.0),
        "hair": constant(5.0),
        "shift": constant(7.0),
        "zero": constant(0.0),
        "counts": rng.poisson(2.0, N).astype(float),
        "ties": rng.integers(0, 3, N).astype(float),
        "rare": (rng.random(N) < 0.02).astype(float),
    }
    values["spike"][400] = 6.0
    values["hair"][400] = 5.001
    values["shift"][400:] = 8.0
    values["zero"][400:403] = 1.0
    values["counts"][400:404] = 25.0
    courses = {host: (ts, value) for host, value in values.items()}
    courses |= {f"calm{seed}": waves(seed) for seed in range(3)}
    courses["stops"] = tuple(column[:500] for column in waves(5))  # type: ignore[assignment]  # two columns
    gap = np.r_[0:450, 462:N]
    courses["gap"] = tuple(column[gap] for column in waves(6))  # type: ignore[assignment]
    courses["never"] = tuple(column[:30] for column in waves(7))  # type: ignore[assignment]
    courses["few"] = tuple(column[np.r_[0:20, N - 20 : N]] for column in waves(8))  # type: ignore[assignment]
    courses["new"] = tuple(column[-100:] for column in waves(9))  # type: ignore[assignment]
    return courses


def on_lattices() -> dict[str, Course]:
    """Return series whose values lie on lattices that do not go through zero, and of extreme sizes."""
    rng = np.random.default_rng(2)
    counts = rng.poisson(3.0, N)
    values = {
        "gauge": rng.choice([1.25, 3.75], N),
        "standardised": (counts - counts.mean()) / counts.std(),
        "negative": -rng.integers(1, 5, N).astype(float),
        "large": waves(11)[1] * 1e10,
        "small": waves(12)[1] * 1e-11,
        "largest": np.where(rng.random(N) < 0.01, np.finfo(np.float64).max, waves(13)[1]),
    }
    return {host: (hours(), value) for host, value in values.items()}
