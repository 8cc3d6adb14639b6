"""Stored normal distributions come back as they were."""

from __future__ import annotations

import torch

from detectors.maths import stored


def test_a_packed_covariance_comes_back() -> None:
    half = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(1))
    covariance = (half @ half.transpose(1, 2)).double()
    state = stored.packed(covariance)
    assert state["covariance"].shape == (3, 15)
    torch.testing.assert_close(stored.covariance_of(state, 5), covariance, rtol=1e-6, atol=1e-6)
