"""Exact mean and covariance of every sliding window of a bank, without cutting one window.

The second moments of the windows whose starts form a run ``a <= s < b`` obey a recurrence along diagonals::

    S[i + 1, j + 1] = S[i, j] + x[b + i] x[b + j] - x[a + i] x[a + j]

so the first row (lagged products, by FFT) and one product of the few segments that begin at a border of a run
give all of it: O(N log N + borders * W^2) instead of O(N * W^2). All of it is linear in the windows' weights,
so blocks of windows are added, left out (held-out folds) or dropped (trimming) before a covariance is formed.

A missing step counts as no observation: products go over the pairs of steps that were both observed, each
entry divided by its own number of pairs. Dropping every window with a gap would leave few: at 1 % missing and
window 128, 72 % of them have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detectors.windows import Windows

BLOCKS = 40
"""Blocks a series is cut into at most: enough that the worst 5 % are whole blocks."""

FLOOR = 1e-4
"""Noise variance every window is given, in squared prepared units (of the mean variance where that is above
1): a constant series stays factorable, and so does a covariance rounded to float32."""

LARGEST = 1e6
"""Values are read as at most this far from 0, so that squares stay finite in float32."""


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the windows of a bank, in float64.

    Attributes:
        count: shape ``(n_targets,)``, windows that took part.
        mean: shape ``(n_targets, window * n_channels)``.
        covariance: shape ``(n_targets, window * n_channels, window * n_channels)``, divided by the
            number of pairs; zero where no pair was observed.
        fourth: shape ``(n_targets,)``, mean of the fourth power of a window's norm about the centre.
    """

    count: Tensor
    mean: Tensor
    covariance: Tensor
    fourth: Tensor


@dataclass(frozen=True)
class BlockMoments:
    """Windows of a bank in blocks of ``length`` windows, ready to be summed over any blocks.

    Attributes:
        x: shape ``(n_targets, n_channels, blocks * length + window)``, float64, centred, 0 where missing.
        seen: same shape, 1 where observed; None where nothing is missing.
        weight: shape ``(n_targets, blocks, length)``, float64, 0 or 1 per window.
        lags: shape ``(n_targets, blocks, n_channels, n_channels, window)``, weighted lagged products.
        pairs: the same of ``seen``, or None.
        centre: shape ``(n_targets, n_channels)``, what was subtracted from the series.
        window: steps of one window.
    """

    x: Tensor
    seen: Tensor | None
    weight: Tensor
    lags: Tensor
    pairs: Tensor | None
    centre: Tensor
    window: int

    @classmethod
    def of(cls, windows: Windows) -> BlockMoments:
        """Return the block moments of the windows of a bank (weight above 0 counts as 1)."""
        n, window = windows.n_targets, windows.window
        length = block_length(windows.n_windows, window)
        blocks = -(-windows.n_windows // length)
        points = blocks * length + window
        used = (windows.weight > 0).to(torch.float64)
        touched = windows.touched.unsqueeze(2)
        centre = _median(windows, touched)
        x = windows.series.clamp(-LARGEST, LARGEST).to(torch.float64) - centre.unsqueeze(1)
        x = _padded(torch.where(touched & ~windows.missing, x, 0.0), points)
        weight = torch.nn.functional.pad(used, (0, blocks * length - windows.n_windows)).view(
            n, blocks, length
        )
        seen, pairs = None, None
        if bool((windows.missing & touched).any()):
            seen = _padded((~windows.missing).to(torch.float64), points)
            pairs = _lagged(seen, weight, window)
        return cls(x, seen, weight, _lagged(x, weight, window), pairs, centre, window)

    @property
    def n_blocks(self) -> int:
        return self.weight.shape[1]

    def total(self, keep: Tensor | None = None) -> Moments:
        """Return the moments of all kept blocks (``keep``: shape ``(n_targets, blocks)``, 0 or 1)."""
        chosen = torch.ones_like(self.weight[:, :, 0]) if keep is None else keep.to(torch.float64)
        weight = (self.weight * chosen.unsqueeze(2)).flatten(1)
        count = weight.sum(1)
        first, second = _sums(self.x, weight, self.lags, chosen, self.window)
        if self.seen is None or self.pairs is None:
            single, double = count[:, None], count[:, None, None]
        else:
            single, double = (t.round() for t in _sums(self.seen, weight, self.pairs, chosen, self.window))
        mean = first / single.clamp_min(1)
        covariance = second / double.clamp_min(1) - mean.unsqueeze(2) * mean.unsqueeze(1)
        covariance = torch.where(double > 0, covariance, 0.0)
        fourth = (_norms(self.x, self.window)[:, : weight.shape[1]].square() * weight).sum(
            1
        ) / count.clamp_min(1)
        return Moments(count, mean + self.centre.repeat(1, self.window), covariance, fourth)

    def energy(self, moments: Moments, precision: Tensor) -> Tensor:
        """Return the mean Mahalanobis energy per observed value in every block.

        Uses the transpose of the recurrence, so that no block's covariance is ever formed.

        Args:
            moments: whose mean the windows are compared with.
            precision: shape ``(n_targets, window * n_channels, window * n_channels)``, float64, symmetric.

        Returns:
            Shape ``(n_targets, blocks)``; 0 for blocks without windows.
        """
        mean = moments.mean - self.centre.repeat(1, self.window)
        observed = self._observed()
        pull = torch.einsum("nij,nj->ni", precision, mean)
        squares = self._quadratic(precision)
        linear = self._linear(pull)
        constant = (pull * mean).sum(1, keepdim=True) * self.weight.sum(2)
        return (squares - 2 * linear + constant).clamp_min(0) / observed.clamp_min(1)

    def _observed(self) -> Tensor:
        """Observed values in the weighted windows of every block, shape ``(n_targets, blocks)``."""
        n, blocks, length = self.weight.shape
        if self.seen is None:
            return self.weight.sum(2) * self.window * self.x.shape[1]
        norms = _norms(self.seen, self.window)[:, : blocks * length]
        return (norms.view(n, blocks, length) * self.weight).sum(2)

    def _borders(self) -> tuple[Tensor, Tensor]:
        """Segments at every block's own borders, ``(n, blocks, k, channels, window)``, and their signs."""
        change = torch.nn.functional.pad(self.weight, (1, 1)).diff(dim=2)
        count = max(int((change != 0).sum(2).max()), 1)
        at = change.abs().topk(count, dim=2).indices
        start = torch.arange(self.n_blocks).view(1, -1, 1) * self.weight.shape[2]
        segments = _segments(self.x, (at + start).flatten(1), self.window)
        return segments.view(*at.shape, *segments.shape[2:]), -change.gather(2, at)

    def _quadratic(self, precision: Tensor) -> Tensor:
        """Sum over each block's windows of ``x' precision x``, shape ``(n_targets, blocks)``."""
        upper = _by_channel(precision, self.window).triu()
        diagonals = _diagonals(upper + upper.triu(1))
        tails = diagonals.flip(-2).cumsum(-2).flip(-2)
        segments, sign = self._borders()
        flat = segments.flatten(3).flatten(1, 2)
        form = _from_diagonals(tails - diagonals).transpose(2, 3).flatten(3).flatten(1, 2)
        corrections = ((flat @ form * flat).sum(2).view_as(sign) * sign).sum(2)
        return torch.einsum("nbced,nced->nb", self.lags, tails[..., 0, :]) + corrections

    def _linear(self, pull: Tensor) -> Tensor:
        """Sum over each block's windows of ``pull' x``, shape ``(n_targets, blocks)``."""
        n, blocks, length = self.weight.shape
        by_step = pull.view(n, self.window, -1)
        tails = by_step.flip(1).cumsum(1).flip(1)
        segments, sign = self._borders()
        moved = torch.einsum("nbkcw,nwc->nbk", segments, tails - by_step)
        firsts = self.x[:, :, : blocks * length].reshape(n, -1, blocks, length)
        return torch.einsum("ncbl,nbl,nc->nb", firsts, self.weight, tails[:, 0]) + (moved * sign).sum(2)


def block_length(n_windows: int, window: int) -> int:
    """Return windows per block: at least one window's length, at most ``BLOCKS`` blocks."""
    return max(window, -(-n_windows // BLOCKS))


def trimmed(windows: Windows, share: float) -> tuple[Moments, Windows]:
    """Return moments without the worst blocks, and the windows that stay with weight above 0.

    Training data hold anomalies too: a first fit judges the blocks by their mean Mahalanobis energy.

    Args:
        windows: the training windows.
        share: share of the blocks that goes; none go where there are fewer than ``1 / share``.
    """
    blocks = BlockMoments.of(windows)
    filled = blocks.weight.sum(2) > 0
    drop = (filled.sum(1) * share + 1e-9).floor()
    moments = blocks.total()
    if not bool((drop > 0).any()):
        return moments, windows
    precision = torch.cholesky_inverse(torch.linalg.cholesky(regular(moments, windows.window)))
    energy = blocks.energy(moments, precision).masked_fill(~filled, -1.0)
    keep = filled & (energy.argsort(dim=1, descending=True).argsort(dim=1) >= drop.unsqueeze(1))
    stays = keep.repeat_interleave(blocks.weight.shape[2], 1)[:, : windows.n_windows]
    return blocks.total(keep), windows.weighted(windows.weight * stays)


def within(sets: Sequence[Moments]) -> Moments:
    """Return mean of the windows of several sets together, and covariance about the mean of their own set."""
    count = torch.stack([each.count for each in sets])
    share = count / count.sum(0).clamp_min(1)

    def mixed(each: Tensor) -> Tensor:
        return torch.einsum("kn,kn...->n...", share, each)

    return Moments(
        count.sum(0),
        mixed(torch.stack([each.mean for each in sets])),
        mixed(torch.stack([each.covariance for each in sets])),
        mixed(torch.stack([each.fourth for each in sets])),
    )


def regular(moments: Moments, window: int, intensity: float | None = None) -> Tensor:
    """Return the shrunken covariance, positive definite whatever the data, in float64.

    Args:
        moments: of windows of so many steps.
        window: steps of one window.
        intensity: share of the way to a multiple of the identity; estimated where None.
    """
    covariance = moments.covariance
    unit = torch.eye(covariance.shape[1], dtype=torch.float64)
    level = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    estimated = shrinkage(moments, window) if intensity is None else torch.full_like(moments.count, intensity)
    share = estimated[:, None, None]
    floor = FLOOR * level.clamp_min(1)
    shrunken = (1 - share) * covariance + (share * level + floor) * unit
    broken = torch.linalg.cholesky_ex(shrunken).info > 0
    if bool(broken.any()):
        # Pairs of different windows need not make a covariance: lift what came out negative.
        values, vectors = torch.linalg.eigh(shrunken[broken])
        values = torch.maximum(values, floor[broken].squeeze(2))
        shrunken[broken] = vectors @ (values.unsqueeze(2) * vectors.transpose(1, 2))
    return shrunken


def stationary(moments: Moments, window: int) -> Moments:
    """Return the moments of a stationary process: pairs of steps as far apart count alike, wherever they lie.

    A covariance of this form that is positive definite makes every prediction from it stable.
    """
    mean = moments.mean.view(moments.mean.shape[0], window, -1).mean(1)
    diagonals = _diagonals(_by_channel(moments.covariance, window))
    lags = diagonals.sum(-2) / (window - torch.arange(window))
    upper = _from_diagonals(lags.unsqueeze(-2).expand(diagonals.shape))
    return replace(moments, mean=mean.repeat(1, window), covariance=_flattened(_mirrored(upper)))


def shrinkage(moments: Moments, window: int) -> Tensor:
    """Return the Ledoit-Wolf intensity of shrinking towards a multiple of the identity, in [0, 1].

    The number of samples is the number of windows divided by the integrated squared autocorrelation,
    since overlapping windows of a correlated series are not independent.
    """
    covariance = moments.covariance
    size = covariance.shape[-1]
    level = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    squares = covariance.square().sum((-2, -1))
    distance = (squares - size * level.square()).clamp_min(1e-12)
    lags = _diagonals(_by_channel(covariance, window)).sum(-2).diagonal(dim1=1, dim2=2).mean(-1)
    overlap = (window - torch.arange(window)).to(lags)
    correlation = (lags / overlap) / (lags[:, :1] / window).clamp_min(1e-12)
    spread = (2 * correlation.square().sum(1) - 1).clamp(1, window)
    samples = (moments.count / spread).clamp_min(1)
    return ((moments.fourth - squares).clamp_min(0) / samples / distance).clamp(0, 1)


def _sums(x: Tensor, weight: Tensor, lags: Tensor, chosen: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Sums over weighted windows of the window, and of its outer product with itself."""
    segments, sign = _border_segments(x, weight, window)
    first = (x[:, :, : weight.shape[1]] * weight.unsqueeze(1)).sum(2)
    steps = torch.einsum("nkcw,nk->nwc", segments, sign).cumsum(1)
    steps = torch.cat([torch.zeros_like(steps[:, :1]), steps[:, :-1]], dim=1) + first.unsqueeze(1)
    flat = segments.flatten(2)
    corrections = _diagonals(_split(torch.matmul((flat * sign.unsqueeze(2)).transpose(1, 2), flat), window))
    rows = torch.cat(
        [torch.einsum("nbced,nb->nced", lags, chosen).unsqueeze(-2), corrections[..., :-1, :]], dim=-2
    )
    return steps.flatten(1), _flattened(_mirrored(_from_diagonals(rows.cumsum(-2))))


def _border_segments(x: Tensor, weight: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Segments of ``window`` points that begin where the weight changes, and minus that change."""
    change = torch.nn.functional.pad(weight, (1, 1)).diff(dim=1)
    count = max(int((change != 0).sum(1).max()), 1)
    at = change.abs().topk(count, dim=1).indices
    return _segments(x, at, window), -change.gather(1, at)


def _segments(x: Tensor, at: Tensor, window: int) -> Tensor:
    """Points ``at`` to ``at + window - 1`` of every channel, shape ``(n_targets, k, n_channels, window)``."""
    rows = torch.arange(x.shape[0]).unsqueeze(1)
    return x.unfold(2, window, 1).transpose(1, 2)[rows, at]


def _lagged(x: Tensor, weight: Tensor, window: int) -> Tensor:
    """Products ``sum_s w[s] x[s, c] x[s + d, e]`` per block, shape ``(n, blocks, c, e, window)``, by FFT."""
    blocks, length = weight.shape[1:]
    size = _fast_length(length + window)
    left = x[:, :, : blocks * length].reshape(*x.shape[:2], blocks, length) * weight.unsqueeze(1)
    right = x.unfold(2, length + window, length)
    spectrum = torch.fft.rfft(left, size).conj().unsqueeze(2) * torch.fft.rfft(right, size).unsqueeze(1)
    return torch.fft.irfft(spectrum, size)[..., :window].permute(0, 3, 1, 2, 4)


def _fast_length(n: int) -> int:
    """Smallest length of at least n whose only prime factors are 2, 3 and 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _diagonals(matrix: Tensor) -> Tensor:
    """Diagonals of the upper triangle: ``[..., i, d]`` is ``matrix[..., i, i + d]``, 0 past the edge."""
    size = matrix.shape[-1]
    wide = torch.nn.functional.pad(matrix, (0, size)).contiguous()
    return wide.as_strided(matrix.shape, (*wide.stride()[:-2], 2 * size + 1, 1))


def _from_diagonals(diagonals: Tensor) -> Tensor:
    """Upper triangular matrix with these diagonals, the inverse of ``_diagonals``."""
    size = diagonals.shape[-1]
    wide = diagonals.new_zeros(*diagonals.shape[:-1], 2 * size)
    wide.as_strided(diagonals.shape, (*wide.stride()[:-2], 2 * size + 1, 1)).copy_(diagonals)
    return wide[..., :size]


def _mirrored(upper: Tensor) -> Tensor:
    """Symmetric matrices ``(n, channels, channels, window, window)`` from their upper triangles."""
    return upper + upper.triu(1).transpose(1, 2).transpose(-1, -2)


def _split(flat: Tensor, window: int) -> Tensor:
    """From ``(n, channels * window, channels * window)`` to ``(n, channels, channels, window, window)``."""
    return flat.view(flat.shape[0], -1, window, flat.shape[2] // window, window).transpose(2, 3)


def _by_channel(matrix: Tensor, window: int) -> Tensor:
    """From ``(n, window * channels, window * channels)`` to ``(n, channels, channels, window, window)``."""
    return matrix.reshape(matrix.shape[0], window, matrix.shape[1] // window, window, -1).permute(
        0, 2, 4, 1, 3
    )


def _flattened(matrix: Tensor) -> Tensor:
    """From ``(n, channels, channels, window, window)`` to ``(n, window * channels, window * channels)``."""
    return matrix.permute(0, 3, 1, 4, 2).flatten(3).flatten(1, 2)


def _padded(values: Tensor, points: int) -> Tensor:
    """Channels before time, zeros after the last point: ``(n_targets, n_channels, points)``."""
    return torch.nn.functional.pad(values.transpose(1, 2), (0, points - values.shape[1]))


def _norms(x: Tensor, window: int) -> Tensor:
    """Squared norm of the window that starts at each point, shape ``(n_targets, n_points - window + 1)``."""
    return _running(x.square().sum(1), window)


def _running(x: Tensor, window: int) -> Tensor:
    """Sum over every window of one-channel series, shape ``(n_targets, n_points - window + 1)``."""
    total = torch.nn.functional.pad(x.cumsum(1), (1, 0))
    return total[:, window:] - total[:, :-window]


def _median(windows: Windows, touched: Tensor) -> Tensor:
    """Median of the observed values that take part, float64 per channel, 0 where there are none."""
    values = windows.series.masked_fill(windows.missing | ~touched, torch.nan)
    return values.nanmedian(dim=1).values.nan_to_num(0.0).clamp(-LARGEST, LARGEST).to(torch.float64)
