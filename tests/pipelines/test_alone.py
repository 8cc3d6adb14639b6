"""A target without a store is fitted, scored and judged as the jobs would do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.monitor import MonitorSpec, Threshold
from pipelines.records import Points
from pipelines.steps.flag import runs
from pipelines.workers import alone, judge
from pipelines.workers.alone import History, Model
from pipelines.workers.fit import NotReady

STEP = 300
START = 1_700_000_100
N = 1200
OUTAGE = (900, 911)
CUT = START + 600 * STEP
STOP = START + N * STEP


def values(seed: int = 0) -> NDArray[np.float64]:
    """Return noise of 1 around a daily rhythm, with an outage."""
    ts = START + STEP * np.arange(N)
    course = 100 + 10 * np.sin(2 * np.pi * ts / 86_400) + np.random.default_rng(seed).normal(size=N)
    course[OUTAGE[0] : OUTAGE[1] + 1] -= 40
    return course


def history(*columns: NDArray[np.float64]) -> History:
    ts = START + STEP * np.arange(N, dtype=np.int64)
    return History.of("made", [Points(ts, each) for each in columns], START, STOP, step_seconds=STEP)


def spec(**given: Any) -> MonitorSpec:
    usual: dict[str, Any] = {"detector": "gaussian", "params": {"window": 8}, "season": "daily"}
    return MonitorSpec("made", {}, **(usual | given))


def fitted(of: History, start: int = START, stop: int = STOP, **given: Any) -> Model:
    model = alone.fit(spec(**given), of, start, stop)
    assert isinstance(model, Model)
    return model


def test_only_the_training_span_is_scored_by_models_that_did_not_see_it() -> None:
    whole = history(values())
    model = fitted(whole, START + 200 * STEP, CUT)
    asked = model.asked(whole, START, STOP, unseen=True)
    assert [(piece.start, piece.stop) for piece in asked.pieces] == [
        (START, START + 200 * STEP),
        (START + 200 * STEP, CUT),
        (CUT, STOP),
    ]
    assert [piece.unseen is not None for piece in asked.pieces] == [False, True, False]
    seen = judge.scored(
        model.spec, asked, alone.steps_of(model, model.asked(whole, START, STOP, unseen=False))
    )
    blind = judge.scored(model.spec, asked, alone.steps_of(model, asked))
    same = np.isclose(blind.settled, seen.settled, rtol=1e-5) | np.isnan(seen.settled)
    # A block's border reaches a window far into what was not learned from.
    assert same[:190].all()
    assert same[610:].all()
    assert same[200:600].mean() < 0.05


def test_what_is_expected_at_an_interval_s_peak_is_what_the_interval_says() -> None:
    whole = history(values())
    model = fitted(whole)
    asked = model.asked(whole, START, STOP, unseen=True)
    steps = alone.steps_of(model, asked)
    found = judge.scored(model.spec, asked, steps)
    (interval,) = found.found
    band = alone.expected(model, steps, found.settled_anomaly)
    peak = int(np.searchsorted(found.ts, interval.peak_at))
    assert band.mid[peak, 0] == interval.yhat_at_peak
    assert interval.y_at_peak is not None
    assert interval.y_at_peak < band.low[peak, 0] < band.mid[peak, 0] < band.high[peak, 0]


def test_the_band_holds_what_is_normal() -> None:
    whole = history(values())
    model = fitted(whole)
    asked = model.asked(whole, START, STOP, unseen=True)
    steps = alone.steps_of(model, asked)
    band = alone.expected(model, steps, judge.scored(model.spec, asked, steps).settled_anomaly)
    inside = (values() >= band.low[:, 0]) & (values() <= band.high[:, 0])
    assert not inside[OUTAGE[0] : OUTAGE[1] + 1].any()
    assert 0.92 < np.delete(inside, slice(OUTAGE[0], OUTAGE[1] + 1)).mean() < 0.98
    assert runs(~inside)


def test_live_scores_look_at_nothing_that_comes_later() -> None:
    changed = values()
    changed[1001:] += 500
    live = []
    for course in (values(), changed):
        whole = history(course)
        model = fitted(whole, stop=CUT)
        asked = model.asked(whole, CUT, STOP, unseen=True, live=True)
        live.append(judge.scored(model.spec, asked, alone.steps_of(model, asked)).live_anomaly[:400])
    np.testing.assert_array_equal(*live)


def test_a_budget_that_cannot_be_held_is_halved_and_told() -> None:
    model = fitted(history(values()), threshold=Threshold(alarms_per_week=1e5))
    assert model.lines["settled"].lines
    assert "the largest possible is" in model.refused[0]
    assert not fitted(history(values())).refused


def test_a_history_that_is_too_short_says_why() -> None:
    why = "fit.window holds 60 points, 8 windows of 8 need 64; lengthen fit.window or shorten params.window"
    assert alone.fit(spec(), history(values()), START, START + 60 * STEP) == NotReady(1, "made", why)


def test_rows_belong_to_the_step_they_are_nearest_to() -> None:
    at, inside = alone.grid_steps(np.array([94, 95, 105, 114, 115, 84]), np.array([100, 110]), 10)
    assert at.tolist() == [0, 0, 1, 1, 0, 0]
    assert inside.tolist() == [False, True, True, True, False, False]


def test_samples_are_windows_in_the_series_own_unit() -> None:
    whole = history(np.round(values()))
    model = fitted(whole)
    drawn = alone.drawn(model.members[0], model.fitted.weights, whole.points, STOP, 50, seed=3)
    assert drawn.values.shape == (50, 8, 1)
    assert drawn.ts.tolist() == (STOP - STEP * np.arange(8, 0, -1)).tolist()
    assert drawn.observed[:, 0].tolist() == np.round(values())[-8:].tolist()
    assert (drawn.values == np.round(drawn.values)).all()
    assert drawn.values.mean() == pytest.approx(float(values()[-8:].mean()), abs=2)
    again = alone.drawn(model.members[0], model.fitted.weights, whole.points, STOP, 50, seed=3)
    np.testing.assert_array_equal(drawn.values, again.values)
