from __future__ import annotations

import pytest
import torch

from detectors.maths.window_sums import window_sums


@pytest.mark.parametrize(("n", "length"), [(10, 1), (10, 3), (10, 5), (10, 9), (10, 10), (12, 4), (1, 1)])
def test_every_sum_is_that_of_its_window(n: int, length: int) -> None:
    x = torch.randn(2, 3, n, generator=torch.Generator().manual_seed(n + length))
    torch.testing.assert_close(window_sums(x, length), x.unfold(2, length, 1).sum(3))


def test_a_huge_value_is_forgotten_once_its_window_is_over() -> None:
    x = torch.rand(1, 50, generator=torch.Generator().manual_seed(1))
    spoiled = x.clone()
    spoiled[0, 20] = 1e20
    torch.testing.assert_close(window_sums(spoiled, 7)[:, 21:], window_sums(x, 7)[:, 21:])
