"""What scores since the fit say of a calibration, and how far they are believed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.steps import evidence
from pipelines.steps.evidence import GRID, LEVELS, PRIOR_ALARMS, SHARES, Realised, Seen

WINDOW = 24

shares = st.lists(st.floats(0.0, 1.0), min_size=len(LEVELS), max_size=len(LEVELS))


def surprises(n: int, seed: int = 0, shift: float = 0.0) -> NDArray[np.float64]:
    """Return the surprises of normal steps, all larger by a shift."""
    return -np.log10(np.random.default_rng(seed).uniform(size=n)) + shift


# -- seen ---------------------------------------------------------------------------


def test_what_was_never_scored_was_never_seen() -> None:
    seen = Seen.of(np.full(50, np.nan), WINDOW)
    assert (seen.samples, seen.reached) == (0.0, (0.0,) * len(LEVELS))
    assert seen.corrected(np.array([0.3, np.nan, 9.0])).tolist()[::2] == [0.3, 9.0]


def test_two_windows_are_one_sample() -> None:
    seen = Seen.of(np.full(480, 1.0), WINDOW)
    assert seen.samples == 10.0
    assert seen.reached == (10.0, 10.0, 10.0, 0.0, 0.0, 0.0)


def test_levels_reached_as_often_as_they_should_be_stay() -> None:
    seen = Seen.of(surprises(200_000), WINDOW)
    grid = np.linspace(0, 8, 200)
    np.testing.assert_allclose(seen.corrected(grid), grid, atol=0.02)


@pytest.mark.parametrize("shift", [-0.2, 0.2])
def test_levels_reached_too_often_are_worth_less_and_too_rarely_more(shift: float) -> None:
    seen = Seen.of(surprises(200_000, shift=shift), WINDOW)
    grid = np.array([1.0, 1.5, 3.0, 6.0])
    # As many as are believed of the shift, everywhere above the body's lower half.
    np.testing.assert_allclose(seen.corrected(grid) - grid, -evidence.TRUST * shift, atol=0.03)


def test_a_few_samples_hardly_count() -> None:
    few, many = (Seen.of(surprises(n, shift=0.3), WINDOW) for n in (240, 240_000))
    shifts = [float(seen.corrected(np.array([4.0]))[0]) - 4.0 for seen in (few, many)]
    assert shifts[1] < 2 * shifts[0] < 0


@given(st.floats(0.0, 1e5), shares, st.lists(st.floats(0, 300), min_size=2, max_size=40))
def test_a_larger_surprise_stays_the_larger_one(
    samples: float, reached: list[float], values: list[float]
) -> None:
    seen = Seen(samples, tuple(samples * np.sort(np.array(reached))[::-1]))
    ordered = np.unique(np.array(values).round(3))
    found = seen.corrected(ordered)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


def test_evidence_fades_with_time() -> None:
    old = Seen(100.0, tuple(100.0 * SHARES))
    later = old.then(Seen.none(), evidence.FADE_DAYS)
    assert later.samples == pytest.approx(100 / np.e, rel=1e-4)
    np.testing.assert_allclose(later.reached_values / later.samples, SHARES, rtol=1e-4)
    assert old.then(Seen(7.0, tuple(7.0 * SHARES)), 0.0).samples == 107.0


# -- realised -----------------------------------------------------------------------


def test_nothing_realised_changes_nothing() -> None:
    np.testing.assert_array_equal(Realised.none().ratio(10.0 ** (2 - GRID)), 1.0)


def test_as_many_alarms_as_expected_change_nothing() -> None:
    expected = 10.0 ** (2 - GRID)
    np.testing.assert_allclose(Realised.of(50.0, 50.0 * expected).ratio(expected), 1.0)


def test_the_longer_they_are_counted_the_more_alarms_are_believed() -> None:
    expected = np.full(len(GRID), 0.5)
    ratios = [
        Realised.of(weeks, 3 * 0.5 * np.full(len(GRID), weeks)).ratio(expected)[0] for weeks in (2, 50, 5e3)
    ]
    assert 1.0 < ratios[0] < 1.5 < ratios[1] < ratios[2] == pytest.approx(3.0, rel=0.01)


def test_where_hardly_any_alarm_is_expected_a_few_incidents_count_against_the_prior() -> None:
    incidents = Realised.of(4.0, np.full(len(GRID), 4.0))
    assert incidents.ratio(np.zeros(len(GRID)))[-1] == pytest.approx(1 + 4 / PRIOR_ALARMS)


def test_targets_add_up_to_their_monitor() -> None:
    parts = [Realised.of(1.0, np.arange(len(GRID), dtype=float)), Realised.of(2.0, np.ones(len(GRID)))]
    both = evidence.total(parts)
    assert both.weeks == 3.0
    np.testing.assert_array_equal(both.alarm_values, np.arange(len(GRID)) + 1.0)
    assert evidence.total([]).weeks == 0.0


def test_what_was_realised_survives_json_without_its_empty_end() -> None:
    realised = Realised.none().then(Realised.of(3.25, np.where(GRID < 2.0, 10.0, 1e-6)), 0.0)
    stored = json.loads(json.dumps(realised.to_json(), allow_nan=False))
    assert len(stored["alarms"]) == np.count_nonzero(GRID < 2.0)
    assert Realised.from_json(stored) == realised
    assert Realised.from_json(Realised.none().to_json()) == Realised.none()
