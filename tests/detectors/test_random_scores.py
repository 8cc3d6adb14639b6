from __future__ import annotations

import naive
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.base import DetectorConfig
from detectors.random_scores import RandomDetector, split_mix, uniform
from detectors.windows import Windows

WINDOW = RandomDetector().config.window


def fitted(seed: int = 0) -> RandomDetector:
    return RandomDetector(DetectorConfig(seed=seed)).fit(Windows.of(torch.zeros(1, 100, 1), WINDOW))


def test_the_hash_is_split_mix() -> None:
    """The first outputs of the reference implementation, seed 1234567."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [each % 2**64 for each in split_mix(torch.arange(4), 1234567).tolist()] == known


@given(index=st.integers(-(2**40), 2**40), seed=st.integers(-(2**63), 2**64 - 1))
def test_the_hash_wraps_as_unsigned_integers_do(index: int, seed: int) -> None:
    found = int(split_mix(torch.tensor([index]), seed))
    assert found % 2**64 == naive.split_mix(index, seed)
    assert float(uniform(torch.tensor([index]), seed)) == (naive.split_mix(index, seed) >> 40) / 2**24


def test_scores_are_uniform_and_without_memory() -> None:
    scores = uniform(torch.arange(200_000), seed=3).double()
    assert scores.min() >= 0
    assert scores.max() < 1
    counts = torch.histc(scores, bins=50, min=0, max=1)
    assert ((counts / 4000 - 1).abs() < 5 / 4000**0.5).all()
    centred = scores - scores.mean()
    for lag in (1, 2, 12, 24, 288):
        assert abs((centred[:-lag] * centred[lag:]).mean() / centred.square().mean()) < 5 / 200_000**0.5


def test_the_largest_hash_stays_below_one() -> None:
    assert float(torch.tensor(2**24 - 1).float() / 2**24) < 1


def test_values_do_not_matter() -> None:
    values = torch.randn(1, 200, 1, generator=torch.Generator().manual_seed(4))
    detector = fitted()
    assert torch.equal(
        detector.score(Windows.of(values, WINDOW)), detector.score(Windows.of(values * 100, WINDOW))
    )


def test_a_step_has_one_score_in_every_window_and_slice() -> None:
    windows = Windows.of(torch.zeros(1, 300, 1), WINDOW, start=torch.tensor([10**9]))
    scores = fitted().score(windows)
    wanted = uniform(10**9 + torch.arange(300), seed=0)
    for i in (0, 7, 276):
        assert torch.equal(scores[0, i], wanted[i : i + WINDOW])
    assert torch.equal(fitted().score(windows.span(50, 90)), scores[:, 50:90])


@pytest.mark.parametrize("other", [1, 2, -1])
def test_another_seed_gives_other_scores(other: int) -> None:
    windows = Windows.of(torch.zeros(1, 3000, 1), WINDOW)
    mine, theirs = fitted().score(windows)[0, :, 0], fitted(other).score(windows)[0, :, 0]
    assert abs(torch.corrcoef(torch.stack([mine, theirs]))[0, 1]) < 0.1
