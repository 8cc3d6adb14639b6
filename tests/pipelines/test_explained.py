"""What was odd is explained away: incidents by vectors, and scores that are local, causal and repeatable."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from pipelines.monitor import MonitorSpec
from pipelines.records import Points, Values
from pipelines.steps.prepare import Prepared
from pipelines.workers import alone
from pipelines.workers.explained import Incidents, Sight, incidents, settled_after
from pipelines.workers.score import ScoredSteps

STEP, DAY = 300, 288
SIGHT = Sight.of(256)
FAINT = 11 * DAY + 30
"""Here begins an incident that only several of its steps together make one."""


def steps_of(values: Values, missing: np.ndarray | None = None) -> Prepared:
    """Return scaled steps as a leader sees them."""
    column = np.asarray(values, dtype=np.float32)[:, None]
    n = len(column)
    gone = np.zeros((n, 1), dtype=bool) if missing is None else missing[:, None]
    wide = column.astype(np.float64)
    return Prepared(
        0, np.arange(n) * STEP, column, gone, wide, 0 * wide, 1 + 0 * wide, np.zeros(n, dtype=np.uint8)
    )


def found_in(values: Values, missing: np.ndarray | None = None) -> list[tuple[int, int, int]]:
    found = incidents(steps_of(values, missing), SIGHT)
    return list(zip(found.first.tolist(), found.last.tolist(), found.over.tolist(), strict=True))


def course(n: int = 200, **at: float) -> Values:
    values = np.zeros(n)
    for step, value in at.items():
        values[int(step[1:])] = value
    return values


# -- incidents ----------------------------------------------------------------------


def test_one_loud_step_is_an_incident_and_over_at_the_next() -> None:
    assert found_in(course(_50=6.0)) == [(50, 50, 51)]


@pytest.mark.parametrize(("steps", "found"), [(4, []), (5, [(50, 54, 59)])])
def test_quiet_odd_steps_are_one_where_enough_of_them_follow_each_other(
    steps: int, found: list[tuple[int, int, int]]
) -> None:
    values = course()
    values[50 : 50 + steps] = -2.1
    # Each step at 0 says 2.1 * 2.1 / 2 = 2.2 for the usual level: the fourth makes 8.8.
    assert found_in(values) == [(a, b, b + 4) for a, b, _ in found]


def test_steps_that_look_like_the_incident_do_not_end_it() -> None:
    values = course()
    values[50:60], values[60:64], values[64:70] = 4.0, 1.9, 4.0
    assert found_in(values) == [(50, 69, 70)]


def test_steps_that_are_not_there_say_nothing() -> None:
    values, missing = course(_50=6.0, _60=6.0), np.zeros(200, dtype=bool)
    missing[51:60] = True
    assert found_in(values, missing) == [(50, 60, 61)]
    missing[51:70] = True
    assert found_in(course(_50=6.0), missing) == [(50, 50, 50 + SIGHT.pause + 1)]


def test_what_is_not_over_yet_ends_with_the_data() -> None:
    assert found_in(course(60, _59=6.0)) == [(59, 59, 60)]
    assert found_in(course(60)) == []
    assert found_in(course(0)) == []


def test_incidents_of_a_part_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, 3000)
    for at in rng.integers(0, 2900, 30):
        values[at : at + rng.integers(1, 60)] += rng.choice([-1, 1]) * rng.uniform(2, 8)
    whole = incidents(steps_of(values), SIGHT)
    assert len(whole.first) > 20
    sight, outlook = SIGHT.before, SIGHT.after
    for first in range(200, 2500, 97):
        low, high = first - sight, first + 100 + outlook
        part = incidents(steps_of(values[low:high]), SIGHT)
        np.testing.assert_array_equal(
            marked(part, high - low)[:, sight : sight + 100], marked(whole, 3000)[:, first : first + 100]
        )


def marked(found: Incidents, n: int) -> np.ndarray:
    """Return which steps lie in an incident, which before it is over, and which are hot."""
    out = np.zeros((3, n), dtype=bool)
    for first, last, over in zip(found.first, found.last, found.over, strict=True):
        out[0, first : last + 1] = out[1, first:over] = True
    # What is hot counts in incidents alone.
    out[2] = found.hot & out[0]
    return out


def test_only_what_the_models_find_odd_is_taken_out() -> None:
    found = incidents(steps_of(course(_50=6.0, _120=6.0)), SIGHT)
    loud = np.zeros(200, dtype=bool)
    assert found.told(loud) == []
    loud[50] = True
    (told,) = found.told(loud)
    assert (told.first, told.last, told.over, told.out.tolist()) == (50, 50, 51, [True])


# -- scores -------------------------------------------------------------------------


@cache
def fitted(detector: str) -> tuple[alone.Model, alone.History]:
    n = 12 * DAY
    rng = np.random.default_rng(1)
    value = 1000 + 400 * np.sin(2 * np.pi * np.arange(n) / DAY) + rng.normal(0, 25, n)
    value[9 * DAY : 9 * DAY + 14] *= 0.5
    value[10 * DAY : 10 * DAY + 48] *= 0.6
    value[10 * DAY + 60 : 10 * DAY + 70] *= 1.5
    value[FAINT : FAINT + 14] += 65
    ts = np.arange(n) * STEP + 1_700_006_400
    params = {} if detector == "auto" else {"window": 24}
    spec = MonitorSpec("m", {}, detector=detector, params=params)
    history = alone.History.of("s", [Points(ts, value)], int(ts[0]), int(ts[-1]) + 1, step_seconds=STEP)
    model = alone.fit(spec, history, int(ts[0]), int(ts[8 * DAY]))
    assert isinstance(model, alone.Model)
    return model, history


DETECTORS = ("auto", "gaussian", "kde", "autoencoder")


def scored(
    detector: str, first: int, stop: int, seen: int | None = None, undone: slice | None = None
) -> ScoredSteps:
    """Return the steps of a span, with no point known from ``seen`` on, and some back at their rhythm."""
    model, history = fitted(detector)
    ts = history.points[0].ts
    if undone is not None:
        value = history.points[0].value.copy()
        value[undone] = 1000 + 400 * np.sin(2 * np.pi * np.arange(len(value))[undone] / DAY)
        history = replace(history, points=(Points(ts, value),))
    if seen is not None:
        end = int(ts[seen - 1]) + 1
        history = replace(history, points=history.between(history.start, end), stop=end)
    asked = model.asked(history, int(ts[first]), int(ts[stop - 1]) + 1, unseen=False)
    observed = history.stop if seen is not None else int(ts[-1]) + 1
    (steps,) = alone.steps_of(model, replace(asked, observed_until=observed))
    return steps


@pytest.mark.parametrize("detector", DETECTORS)
def test_after_an_incident_the_series_is_what_it_would_be_without(detector: str) -> None:
    steps = scored(detector, 9 * DAY, 10 * DAY)
    quiet = np.nanquantile(scored(detector, 8 * DAY, 9 * DAY - 300 // 2).live, 0.99)
    after = slice(14 + 4, DAY - 24)
    assert np.nanmean(steps.own_live[after] > 1.5 * quiet) < 0.05, "live"
    if detector in ("auto", "gaussian"):
        assert np.nanmean(steps.live[14:30] > quiet) > 0.5, "windows as they are still hold it"
        assert np.nanmax(steps.own_live[:14]) > 3 * quiet, "and it is as odd as it was"


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_live_score_knows_nothing_of_what_came_later(detector: str) -> None:
    first, stop = 10 * DAY, 10 * DAY + 100
    whole = scored(detector, first, stop)
    for seen in range(first + 5, stop, 13):
        then = scored(detector, first, seen, seen)
        np.testing.assert_allclose(then.own_live, whole.own_live[: seen - first], rtol=1e-4)


@pytest.mark.parametrize("detector", DETECTORS)
def test_any_span_may_be_scored_again(detector: str) -> None:
    first, stop = 9 * DAY - 50, 11 * DAY
    whole = scored(detector, first, stop)
    for a, b in ((first, first + 60), (9 * DAY + 7, 9 * DAY + 300), (10 * DAY + 65, 10 * DAY + 66)):
        part = scored(detector, a, b)
        for name in ("live", "settled", "own_live", "own_settled"):
            of_whole = getattr(whole, name)[a - first : b - first]
            np.testing.assert_allclose(getattr(part, name), of_whole, rtol=1e-4, err_msg=name)


def test_a_settled_score_is_final_once_what_decides_on_it_is_seen() -> None:
    window = 24
    whole = scored("gaussian", FAINT - 2 * window, FAINT + window)
    for at in range(FAINT - window, FAINT + 14):
        part = scored("gaussian", at, at + 1, at + 1 + settled_after(window))
        of_whole = whole.own_settled[[at - FAINT + 2 * window]]
        np.testing.assert_allclose(part.own_settled, of_whole, rtol=1e-4, err_msg=str(at - FAINT))


def test_incidents_near_each_other_do_not_make_each_other_louder() -> None:
    steps = scored("auto", 10 * DAY, 10 * DAY + 100)
    between = slice(48 + 3, 60)
    own, raw = (np.nanmax(each[between]) for each in (steps.own_live, steps.live))
    assert own < 0.5 * raw


@pytest.mark.parametrize("detector", ["auto", "gaussian"])
def test_an_incident_scores_what_it_would_without_the_one_before_it(detector: str) -> None:
    first, stop = 10 * DAY + 60, 10 * DAY + 70
    beside = scored(detector, first, stop)
    by_itself = scored(detector, first, stop, undone=slice(10 * DAY, 10 * DAY + 48))
    for name in ("own_live", "own_settled"):
        np.testing.assert_allclose(getattr(beside, name), getattr(by_itself, name), rtol=0.1, err_msg=name)
    raw = np.abs(beside.live / by_itself.live - 1)
    assert raw.max() > 0.2, "windows as they are hold both"
