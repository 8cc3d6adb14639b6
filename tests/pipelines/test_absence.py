"""Gaps of targets of several series: where any of them has no point."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.names import Kind
from pipelines.records import Interval, Points, Policy
from pipelines.steps import absence

STEP = 60
POLICY = Policy(missing_after_steps=3)
NAMES = ("a", "b")


def points(pattern: str) -> Points:
    """Return points where the pattern has an 'x'."""
    at = np.array([n for n, sign in enumerate(pattern) if sign == "x"], dtype=np.int64)
    return Points(at * STEP, np.ones(len(at)))


def gaps(*patterns: str) -> list[Interval]:
    """Return the gaps of channels on a grid that ends where the patterns do."""
    n = len(patterns[0])
    return absence.on_grid(
        np.array([[sign != "x" for sign in pattern] for pattern in patterns]).T,
        np.arange(n, dtype=np.int64) * STEP,
        [points(pattern) for pattern in patterns],
        POLICY,
        STEP,
        observed_until=(n - 1) * STEP + 1,
        newest=[int(points(pattern).ts[-1]) for pattern in patterns],
        names=NAMES[: len(patterns)],
    )


def told(found: list[Interval]) -> list[tuple[str, int, int]]:
    return [(str(each.kind), each.start // STEP, each.end // STEP) for each in found]


def test_a_gap_of_one_channel_is_its_own() -> None:
    (one,) = gaps("xxxxxxxxxx", "xxx....xxx")
    assert told([one]) == [("data_missing", 3, 6)]
    assert one.shares == {"a": 0.0, "b": 1.0}
    assert (one.channel, one.n_points, one.peak_score) == ("b", 4, pytest.approx(4 / 3))


def test_gaps_that_overlap_are_one_with_the_shares_of_the_steps_missed() -> None:
    (one,) = gaps("xx......xxxx", "xxxxx...xxxx")
    assert told([one]) == [("data_missing", 2, 7)]
    assert one.shares == pytest.approx({"a": 6 / 9, "b": 3 / 9})


def test_gaps_apart_stay_apart() -> None:
    assert told(gaps("x...xxxxxx", "xxxxx...xx")) == [("data_missing", 1, 3), ("data_missing", 5, 7)]


def test_a_channel_that_stopped_is_stale_with_what_overlaps_it() -> None:
    (one,) = gaps("xxxx......", "xx...xxxxx")
    assert told([one]) == [("stale", 2, 9)]
    assert one.open
    assert one.channel == "a"


def test_a_channel_that_comes_back_ends_the_gap() -> None:
    assert told(gaps("xxxxxxxxxx", "xxxx.....x")) == [("data_missing", 4, 8)]


def test_short_gaps_are_none() -> None:
    assert gaps("xx..xxxxxx", "xxxx..xxxx") == []


def test_a_single_series_has_no_shares() -> None:
    (one,) = gaps("xx....xx")
    assert (told([one]), one.shares) == ([("data_missing", 2, 5)], None)


PATTERN = st.text("x.", min_size=12, max_size=12).map(lambda middle: f"x{middle}x")


@settings(deadline=None)
@given(a=PATTERN, b=PATTERN)
def test_gaps_cover_exactly_the_long_runs_of_either_channel(a: str, b: str) -> None:
    found = gaps(a, b)
    covered = {n for each in found for n in range(each.start // STEP, each.end // STEP + 1)}
    assert covered == long_runs(a) | long_runs(b)
    assert all(one.end < other.start for one, other in pairwise(found))
    assert all(sum((each.shares or {}).values()) == pytest.approx(1.0) for each in found)
    between = absence.between_points(
        [points(a), points(b)], POLICY, STEP, start=0, stop=(len(a) - 1) * STEP + 1, names=NAMES
    )
    assert between == found


def long_runs(pattern: str) -> set[int]:
    """Return the steps of runs without a point that are long enough: the slow, obvious way."""
    steps: set[int] = set()
    run: list[int] = []
    for n, sign in enumerate(pattern):
        run = [*run, n] if sign == "." else []
        if len(run) >= POLICY.missing_after_steps:
            steps |= set(run)
    return steps


def test_kinds_are_those_of_gaps() -> None:
    assert {each.kind for each in gaps("x...xxxxxx", "xxxxxx....")} == {Kind.DATA_MISSING, Kind.STALE}
