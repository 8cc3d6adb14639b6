from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.maths.quantiles import NORMAL_IQR, group_medians, robust_moments


def drawn(seed: int, points: int, gaps: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, points, 3, generator=generator)
    values[torch.rand(values.shape, generator=generator) < gaps] = math.nan
    return values


def quantile(values: torch.Tensor, share: float, nothing: float) -> float:
    seen = values[~values.isnan()].double().numpy()
    return float(np.quantile(seen, share)) if len(seen) else nothing


POINTS, GAPS = st.integers(1, 60), st.sampled_from([0.0, 0.3, 1.0])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), points=POINTS, n_groups=st.integers(1, 7), gaps=GAPS)
def test_medians_of_groups_are_those_of_each_group_alone(
    seed: int, points: int, n_groups: int, gaps: float
) -> None:
    values = drawn(seed, points, gaps)
    group = torch.randint(n_groups, (2, points), generator=torch.Generator().manual_seed(seed))
    found = group_medians(values, group, n_groups)
    assert found.shape == (2, n_groups, 3)
    for target, own in enumerate(group):
        for g in range(n_groups):
            wanted = [quantile(channel, 0.5, math.nan) for channel in values[target, own == g].T]
            assert found[target, g].tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-6, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), points=POINTS, gaps=GAPS)
def test_robust_moments_are_median_and_interquartile_range(seed: int, points: int, gaps: float) -> None:
    values = drawn(seed, points, gaps)
    median, sigma = robust_moments(values)
    for target in range(2):
        for channel in range(3):
            low, middle, high = (quantile(values[target, :, channel], q, 0.0) for q in (0.25, 0.5, 0.75))
            assert float(median[target, channel]) == pytest.approx(middle, rel=1e-5, abs=1e-6)
            assert float(sigma[target, channel]) == pytest.approx(
                (high - low) / NORMAL_IQR, rel=1e-5, abs=1e-6
            )
