"""Slow, obvious twins of what the detectors compute cleverly. float64, loops, one target at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detectors.base import Windows

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


def kernel_log_density(
    z: Array, start: int, references: Array, starts: Array, bandwidth: float, window: int
) -> float:
    """Gaussian kernel density of one latent; references closer than a window do not count."""
    total, left = 0.0, 0
    d = len(z)
    for reference, own in zip(references, starts, strict=True):
        if abs(int(own) - start) < window:
            continue
        gap = ((z - reference) ** 2).sum() / bandwidth**2
        total += math.exp(-0.5 * gap) / (2 * math.pi * bandwidth**2) ** (d / 2)
        left += 1
    return math.log(total / left)


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
