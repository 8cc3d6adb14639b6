"""Versions that are scored together: each as it is alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from safetensors.torch import save
from test_explain import STEPS, case, fallen

from pipelines.monitor import MonitorSpec
from pipelines.workers import bank, score


def slow(seed: int) -> np.ndarray:
    """Noise whose steps resemble their neighbours: off the axes of a latent it is not white."""
    return np.convolve(np.random.default_rng(seed).standard_normal(STEPS + 3), np.full(4, 0.5), "valid")


def test_weights_that_lack_what_others_hold_score_as_they_do_alone() -> None:
    """Of two versions one is as an earlier build left it: without the covariance off its axes."""
    spec = MonitorSpec("m", {}, "gmm", {"window": 12, "latent": 4}, season="none")
    old, new = (case(spec, fallen(seed) + 6 * slow(seed)) for seed in (1, 2))
    tensors = {name: t for name, t in bank.opened(old.weights[1]).items() if name != "base_covariance"}
    weights = {1: save(tensors), 2: new.weights[1]}
    second = replace(new.target, pieces=(replace(new.target.pieces[0], weights_id=2),))
    together = score.raw_scores(spec, [old.target, second], weights)
    for target, found in zip((old.target, second), together, strict=True):
        (alone,) = score.raw_scores(spec, [target], weights)
        np.testing.assert_allclose(found[0].settled, alone[0].settled, rtol=1e-5)
