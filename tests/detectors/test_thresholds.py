"""The fixed and the dynamic threshold, against figures of TadGAN's reference implementation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors.maths.thresholds import Above, Spans, dynamic, fixed


@pytest.fixture(scope="module")
def errors() -> NDArray[np.float64]:
    t = np.arange(400)
    e = 0.2 * np.abs(np.sin(0.1 * t)) + 0.05 * ((17 * t) % 7) / 7
    e[150:156] += 2
    e[300] += 1.2
    e[155] = 3
    return e


def in_time(found: list[Above]) -> list[tuple[int, int, float]]:
    return [(1000 + 10 * run.first, 1000 + 10 * run.last, round(run.severity, 6)) for run in found]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        (Spans(0.33, 0.1, 0.13, 50), [(2000, 3050, 1.492119), (3500, 4500, 2.648892)]),
        (Spans(0.33, 0.1, 0.13, 5), [(2450, 2600, 1.45446), (3950, 4050, 2.645947)]),
        (Spans(1, 1, 0.1, 5), [(2450, 2600, 3.739256), (3950, 4050, 0.312629)]),
    ],
)
def test_the_fixed_threshold_finds_what_the_reference_finds(errors, spans, expected) -> None:
    assert in_time(fixed(errors, spans)) == expected


def test_the_dynamic_threshold_finds_what_the_reference_finds(errors) -> None:
    assert in_time(dynamic(errors, Spans(padding=5))) == [(2450, 2600, 3.141743)]


def test_padding_zero_works_for_runs_of_one_step(errors) -> None:
    found = fixed(errors, Spans(0.33, 0.1, 0.13, 0))
    assert [(run.first, run.last) for run in found] == [(150, 155), (300, 300)]
    assert all(np.isfinite(run.severity) and run.severity > 0 for run in found)


@pytest.mark.parametrize("method", [fixed, dynamic])
@pytest.mark.parametrize("n", [0, 1, 2, 50])
def test_calm_and_tiny_series_have_no_runs(method, n) -> None:
    assert method(np.zeros(n)) == []
    assert method(np.full(n, np.nan)) == []


def test_missing_scores_belong_to_no_peak(errors) -> None:
    holed = errors.copy()
    holed[20:40] = np.nan
    assert in_time(dynamic(holed, Spans(padding=5)))[0][:2] == (2450, 2600)


def test_an_impossible_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shares in \(0, 1\], got 0"):
        Spans(window=0)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=80), st.integers(0, 5))
def test_runs_are_in_order_and_apart(values, padding) -> None:
    found = dynamic(np.array(values), Spans(0.5, 0.5, 0.1, padding))
    for run in found:
        assert 0 <= run.first <= run.last < len(values)
    for before, after in pairwise(found):
        assert before.last + 1 < after.first
