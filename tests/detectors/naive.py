"""Slow, obvious twins of what the detectors compute cleverly. float64, loops, one target at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detectors.windows import Windows

Array = NDArray[np.float64]


def window_moments(windows: Windows, target: int) -> tuple[Array, Array]:
    """Mean and covariance over all windows of weight above 0; a pair with a missing step does not count.

    A step no window observed has the series' median for a mean, a pair no window observed no covariance.
    """
    values, seen = _flat(windows, target)
    centre = np.tile(_median(windows, target), windows.window)
    size = values.shape[1]
    mean, covariance = np.zeros(size), np.zeros((size, size))
    for i in range(size):
        mean[i] = (values[seen[:, i], i] - centre[i]).mean() if seen[:, i].any() else 0.0
    for i in range(size):
        for j in range(size):
            both = seen[:, i] & seen[:, j]
            if both.any():
                products = (values[both, i] - centre[i]) * (values[both, j] - centre[j])
                covariance[i, j] = products.mean() - mean[i] * mean[j]
    return mean + centre, covariance


def energies(windows: Windows, target: int, mean: Array, precision: Array) -> Array:
    """Mahalanobis energy of every window, 0 where its weight is 0."""
    out = np.zeros(windows.n_windows)
    for s in range(windows.n_windows):
        if windows.weight[target, s] > 0:
            x = windows.values[target, s].flatten().double().numpy() - mean
            out[s] = x @ precision @ x
    return out


def conditional(mean: Array, covariance: Array, x: Array, missing: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Mean and variance of every value given the other observed ones, by the textbook formula."""
    out_mean, out_variance = np.zeros(len(x)), np.zeros(len(x))
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and not missing[j]]
        gain = covariance[i, others] @ np.linalg.inv(covariance[np.ix_(others, others)])
        out_mean[i] = mean[i] + gain @ (x[others] - mean[others])
        out_variance[i] = covariance[i, i] - gain @ covariance[others, i]
    return out_mean, out_variance


def normal_log_density(mean: Array, covariance: Array, x: Array) -> float:
    gap = x - mean
    energy = gap @ np.linalg.solve(covariance, gap)
    return -0.5 * (energy + np.linalg.slogdet(covariance)[1] + len(x) * math.log(2 * math.pi))


def innovations(mean: Array, covariance: Array, x: Array) -> Array:
    """Every value's standardised surprise given the values before it, one regression each."""
    out = np.zeros(len(x))
    for i in range(len(x)):
        gain = np.linalg.solve(covariance[:i, :i], covariance[:i, i])
        predicted = mean[i] + gain @ (x[:i] - mean[:i])
        out[i] = (x[i] - predicted) / math.sqrt(covariance[i, i] - gain @ covariance[:i, i])
    return out


def chain_innovations(covariance: Array, x: Array, order: int, lag: int = 0) -> Array:
    """Standardised surprises of a window about its mean, ``(window, n_channels)``, one regression each.

    A value is predicted from the last ``order`` steps, the one ``lag`` steps before and the channels before
    its own at the same step, as far as the window holds them. The covariance is that of
    ``max(order, lag) + 1`` steps.
    """
    window, channels = x.shape
    back = max(order, lag)
    out = np.zeros_like(x)
    for t in range(window):
        steps = [s for s in range(t) if t - s <= order or (lag and t - s == lag)]
        for c in range(channels):
            seen = [(s, e) for s in steps for e in range(channels)] + [(t, e) for e in range(c)]
            at = [(back - (t - s)) * channels + e for s, e in seen]
            own = back * channels + c
            gain = np.linalg.solve(covariance[np.ix_(at, at)], covariance[at, own])
            predicted = sum(g * x[place] for g, place in zip(gain, seen, strict=True))
            out[t, c] = (x[t, c] - predicted) / math.sqrt(covariance[own, own] - gain @ covariance[at, own])
    return out


def kernel_log_density(
    z: Array, start: int, references: Array, starts: Array, bandwidths: Array, window: int
) -> float:
    """Gaussian kernel density of one latent; references closer than a window do not count."""
    total, left = 0.0, 0
    d = len(z)
    for reference, own, bandwidth in zip(references, starts, bandwidths, strict=True):
        if abs(int(own) - start) < window:
            continue
        gap = ((z - reference) ** 2).sum() / bandwidth**2
        total += math.exp(-0.5 * gap) / (2 * math.pi * bandwidth**2) ** (d / 2)
        left += 1
    return math.log(total / left)


def mean_nearest(
    x: Array, start: int, references: Array, starts: Array, neighbours: int, window: int, beyond: float = 0.0
) -> float:
    """Mean distance to the nearest references that are not closer in time than a window."""
    squares = [
        ((x - reference) ** 2).sum() + beyond
        for reference, own in zip(references, starts, strict=True)
        if abs(int(own) - start) >= window
    ]
    return float(np.sqrt(sorted(squares)[:neighbours]).mean())


def perceptron(state: dict[str, Array], name: str, x: Array) -> Array:
    """Three dense layers, one value of one layer at a time, rectified between."""
    for layer in range(3):
        weight, bias = state[f"{name}.{layer}.weight"], state[f"{name}.{layer}.bias"]
        sums = [bias[j] + sum(x[i] * weight[i, j] for i in range(len(x))) for j in range(len(bias))]
        x = np.array([max(each, 0.0) if layer < 2 else each for each in sums])
    return x


def autoencoder_score(state: dict[str, Array], x: Array, missing: NDArray[np.bool_], rounds: int) -> Array:
    """Score of every step of one window of one channel; missing steps are rebuilt round by round."""
    x = np.where(missing, 0.0, x)
    for _ in range(rounds):
        again = perceptron(state, "decoder", perceptron(state, "encoder", np.arcsinh(x)))
        x = np.where(missing, again, x)
    code = perceptron(state, "encoder", np.arcsinh(x))
    off = np.where(missing, 0.0, x - perceptron(state, "decoder", code)) / state["spread"]
    white = np.linalg.solve(state["latent_root"], code - state["latent_mean"])
    density = sum(
        weight * math.exp(normal_log_density(centre, covariance, white))
        for weight, centre, covariance in zip(
            state["weight"], state["centre"], state["covariance"], strict=True
        )
    )
    d = len(code)
    surprises = [
        _standard(max(-2 * math.log(density) - d * math.log(2 * math.pi), 0.0), d),
        _standard((off**2).sum(), (~missing).sum()),
    ]
    middle, scale = state["part_middle"], state["part_scale"]
    shared = sum(max((surprises[i] - middle[i]) / scale[i], 0.0) ** 2 for i in range(2))
    out = np.zeros(len(x))
    for t in range(len(x)):
        own = 0.0 if missing[t] else _standard(off[t] ** 2, 1)
        out[t] = math.sqrt(shared + max((own - middle[2]) / scale[2], 0.0) ** 2)
    return out


def _standard(chi_squared: float, freedom: float) -> float:
    """About standard normal (Fisher 1925)."""
    return math.sqrt(2 * chi_squared) - math.sqrt(2 * freedom - 1)


def window_deviations(windows: Windows, target: int) -> Array:
    """Root of the mean variance of the channels of every window, of its observed steps only."""
    out = np.zeros(windows.n_windows)
    for s in range(windows.n_windows):
        values = windows.values[target, s].double().numpy()
        seen = ~windows.mask[target, s].numpy()
        channels = [values[seen[:, c], c].var() for c in range(windows.n_channels) if seen[:, c].any()]
        out[s] = math.sqrt(np.mean(channels)) if channels else 0.0
    return out


def season_profile(windows: Windows, target: int, period: int) -> Array:
    """Median of the training steps at every phase of a season, ``(period, n_channels)``; NaN without one."""
    at: dict[tuple[int, int], list[float]] = {}
    for i in range(windows.n_points):
        for channel in range(windows.n_channels):
            if windows.touched[target, i] and not windows.missing[target, i, channel]:
                phase = (int(windows.start[target]) + i) % period
                at.setdefault((phase, channel), []).append(float(windows.series[target, i, channel]))
    out = np.full((period, windows.n_channels), np.nan)
    for (phase, channel), values in at.items():
        out[phase, channel] = np.median(values)
    return out


def season_correlation(x: Array, period: int) -> float:
    """Mean product of all pairs of steps at the same phase of different seasons, over the mean square."""
    x = x - np.nanmean(x)
    pairs = [x[i] * x[j] for i in range(len(x)) for j in range(i + period, len(x), period)]
    return float(np.nanmean(pairs) / np.nanmean(x**2))


def split_mix(index: int, seed: int) -> int:
    """SplitMix64 in integers that know no overflow."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def nade_log_densities(state: dict[str, Array], x: Array, sd_floor: float) -> Array:
    """Log-density of every value given those before it, by a network cut out for each: no masks."""
    size, width = len(x), len(state["net.0.bias"])
    components = len(state["offset"])
    # The last value that each hidden unit sees, spread evenly over all but the newest.
    last = [((unit + 1) * max(size - 1, 1) - 1) // width for unit in range(width)]
    out = np.zeros(size)
    for i in range(size):
        hidden = {}
        for unit in range(width):
            if last[unit] < i:
                seen = slice(0, last[unit] + 1)
                total = state["net.0.bias"][unit] + np.arcsinh(x[seen]) @ state["net.0.weight"][seen, unit]
                hidden[unit] = max(total, 0.0)

        def output(kind: int, i: int = i, hidden: dict[int, float] = hidden) -> float:
            weight = state["net.1.weight"][:, kind * size + i]
            return state["net.1.bias"][kind * size + i] + sum(weight[u] * h for u, h in hidden.items())

        centre = output(0) + state["direct.bias"][i] + np.arcsinh(x[:i]) @ state["direct.weight"][:i, i]
        spread = math.log1p(math.exp(output(1) - 1)) + sd_floor
        logits = np.array([output(2 + k) for k in range(components)])
        density = 0.0
        for k in range(components):
            share = math.exp(logits[k]) / np.exp(logits).sum()
            sd = spread * (1 + math.log1p(math.exp(state["width"][k, i] - 2)))
            off = (x[i] - centre - spread * state["offset"][k, i]) / sd
            density += share * math.exp(-0.5 * off**2) / (sd * math.sqrt(2 * math.pi))
        out[i] = math.log(density)
    return out


def _flat(windows: Windows, target: int) -> tuple[Array, NDArray[np.bool_]]:
    used = (windows.weight[target] > 0).numpy()
    values = windows.values[target].flatten(1).double().numpy()
    return values[used], ~windows.mask[target].flatten(1).numpy()[used]


def _median(windows: Windows, target: int) -> Array:
    """Of the observed points inside weighted windows; torch takes the lower of two middle values."""
    touched = windows.touched[target].numpy()
    out = np.zeros(windows.n_channels)
    for channel in range(windows.n_channels):
        keep = touched & ~windows.missing[target, :, channel].numpy()
        values = np.sort(windows.series[target, :, channel].double().numpy()[keep])
        out[channel] = values[(len(values) - 1) // 2] if len(values) else 0.0
    return out
