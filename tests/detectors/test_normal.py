"""Marginals and conditionals of a bank of normal distributions, however alike windows miss values."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.maths.normal import Normal

TARGETS, WINDOWS, SIZE = 3, 5, 6


def bank() -> Normal:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(TARGETS, SIZE, SIZE, generator=generator, dtype=torch.float64)
    covariance = root @ root.transpose(1, 2) + 0.1 * torch.eye(SIZE, dtype=torch.float64)
    return Normal.of(torch.zeros(TARGETS, SIZE), covariance)


def windows() -> Tensor:
    shape = (TARGETS, WINDOWS, SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_windows_that_miss_the_same_values_are_completed_as_each_by_itself() -> None:
    """The first two members miss them, the third nothing; one window that misses others parts them all."""
    normal, x = bank(), windows()
    same = torch.zeros(TARGETS, WINDOWS, SIZE, dtype=torch.bool)
    same[:2, :, 2:5] = True
    parted = same.clone()
    parted[2, 0, 1] = True
    together, apart = (normal.completed(x, each, with_variance=True) for each in (same, parted))
    rest = slice(0, 2)
    torch.testing.assert_close(together.x[rest], apart.x[rest])
    torch.testing.assert_close(together.log_det[rest], apart.log_det[rest])
    assert together.variance is not None
    assert apart.variance is not None
    torch.testing.assert_close(together.variance[rest], apart.variance[rest])
    torch.testing.assert_close(together.variance[2, 1:], apart.variance[2, 1:])
    assert torch.equal(together.x[2], x[2])
    gone, seen = [2, 3, 4], [0, 1, 5]
    for member, root in enumerate(normal.root[:2]):
        covariance = root @ root.T
        across = covariance[gone][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
        left = covariance[gone][:, gone] - across @ covariance[seen][:, gone]
        slow = left.diagonal().expand(WINDOWS, -1)
        torch.testing.assert_close(together.variance[member][:, gone], slow)


def test_many_windows_are_completed_as_each_by_itself_and_filled_in_their_own_type() -> None:
    """More patterns than are worked out at once, some of them shared, some windows without a gap."""
    size, n = 40, 1500
    t = torch.arange(size)
    covariance = torch.exp(-(t.unsqueeze(1) - t).abs() / 5.0).to(torch.float64)
    normal = Normal.of(torch.zeros(2, size), torch.stack([covariance, 2 * covariance]))
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, n, size, generator=generator)
    missing = torch.rand(2, n, size, generator=generator) < torch.rand(2, n, 1, generator=generator) / 3
    missing[:, ::5] = t >= 30
    missing[:, 1::50] = False
    together = normal.completed(x, missing, with_variance=True)
    assert together.variance is not None
    for window in range(0, n, 83):
        one = slice(window, window + 1)
        alone = normal.completed(x[:, one], missing[:, one], with_variance=True)
        torch.testing.assert_close(together.x[:, one], alone.x)
        torch.testing.assert_close(together.log_det[:, one], alone.log_det)
        torch.testing.assert_close(together.variance[:, one], alone.variance)
    filled = normal.filled(x, missing)
    assert filled.dtype == x.dtype
    torch.testing.assert_close(filled, together.x.to(x.dtype), rtol=0, atol=0)
    assert torch.equal(filled[~missing], x[~missing])


def test_columns_are_completed_like_windows() -> None:
    normal, x = bank(), windows()
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    columns = x[:, :2].transpose(1, 2)
    found = normal.completed_columns(columns, missing)
    for column in range(2):
        each = x[:, [column]].expand_as(x)
        torch.testing.assert_close(found[..., column], normal.completed(each, missing).x)


def test_a_completed_window_has_the_energy_of_what_was_seen() -> None:
    normal, x = bank(), windows()
    missing = torch.zeros(x.shape, dtype=torch.bool)
    missing[:, :, [0, 3]] = True
    seen = [1, 2, 4, 5]
    covariance = normal.root @ normal.root.transpose(1, 2)
    inside = torch.linalg.inv(covariance[:, seen][:, :, seen])
    slow = torch.einsum("nki,nij,nkj->nk", x[:, :, seen], inside, x[:, :, seen])
    done = normal.completed(x, missing).x
    fast = (done @ normal.whitener.transpose(1, 2)).square().sum(2)
    torch.testing.assert_close(fast, slow)
