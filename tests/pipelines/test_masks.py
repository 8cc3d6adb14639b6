"""Times that nothing is learned from: which steps they cover, and that a fit keeps no trace of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.monitor import MonitorSpec, Period
from pipelines.records import Points, TargetRow
from pipelines.steps import masks, regimes
from pipelines.workers.fit import FitTarget, FitTask, Fitted, fit_targets

HOUR = 3600
STEPS = 24 * 28
INCIDENT = (300 * HOUR, 320 * HOUR)


def test_a_span_of_steps_covers_the_points_of_its_first_and_last_step() -> None:
    ts = np.array([5_399, 5_400, 7_205, 12_599, 12_600])
    assert masks.within(ts, [masks.of_steps(2 * HOUR, 3 * HOUR, HOUR)]).tolist() == [0, 1, 1, 1, 0]


def test_points_outside_of_every_span_stay_as_they_are() -> None:
    points = Points(np.arange(6), np.arange(6.0))
    (kept,) = masks.without([points], [(1, 2), (3, 5)])
    assert kept.ts.tolist() == [0, 2, 5]
    assert kept.value.tolist() == [0.0, 2.0, 5.0]
    assert masks.without([points], []) == (points,)


def test_only_masked_periods_of_a_calendar_leave_something_out_and_they_are_no_regime() -> None:
    known = Period("patch", every="FREQ=DAILY;BYHOUR=4", lasts_seconds=HOUR)
    masked = Period("maintenance", spans=(("1970-01-03T06:00", "1970-01-03T08:00"),), masked=True)
    assert masks.of_calendar([known, masked], "UTC", 0, 9 * 24 * HOUR) == [(54 * HOUR, 56 * HOUR)]
    assert regimes.names([known, masked]) == ("workday", "weekend", "patch")


# -- a fit ---------------------------------------------------------------------------


def asked(during: float, *, channels: int = 1, masked: bool = True, keep: bool = False) -> FitTarget:
    """Return a target with that value all through the incident."""
    ts = np.arange(STEPS, dtype=np.int64) * HOUR
    rng = np.random.default_rng(3)
    courses = []
    for _ in range(channels):
        value = 100 + 20 * np.sin(2 * np.pi * ts / (24 * HOUR)) + rng.normal(0, 2, STEPS)
        value[(ts >= INCIDENT[0]) & (ts <= INCIDENT[1])] = during
        courses.append(Points(ts, value))
    spans = (masks.of_steps(*INCIDENT, HOUR),) if masked else ()
    target = TargetRow(1, 1, "t", tuple(range(channels)), HOUR, "UTC", 0)
    return FitTarget(target, tuple(courses), 0, STEPS * HOUR, keep_unseen=keep, masked=spans)


def fitted(spec: MonitorSpec, *targets: FitTarget) -> Fitted:
    outcome = fit_targets(FitTask(spec, targets))
    assert not outcome.not_ready
    return outcome.fitted[0]


def learned(of: Fitted) -> tuple[Any, ...]:
    card = {name: value for name, value in of.card.items() if "seconds" not in name and name != "members"}
    return of.recipe, of.weights, of.calibrations, card


@pytest.mark.parametrize(
    ("detector", "params", "channels", "scope"),
    [
        ("robust_z", {}, 1, "series"),
        ("gaussian", {"window": 12}, 1, "series"),
        ("gaussian", {"window": 12}, 2, "series"),
        ("gaussian", {"window": 12}, 1, "group"),
        ("autoregressive", {"window": 12, "order": 4}, 1, "series"),
        ("kde", {"window": 12, "bandwidth": "knn"}, 1, "series"),
        ("vae", {"window": 12, "steps": 30}, 1, "series"),
        ("auto", {}, 1, "series"),
        ("auto", {}, 2, "series"),
    ],
)
def test_a_version_holds_nothing_of_what_is_masked(
    detector: str, params: dict[str, Any], channels: int, scope: str
) -> None:
    names = ("a", "b")[:channels] if channels > 1 else ()
    spec = MonitorSpec("m", {}, detector=detector, params=params, scope=scope, channels=names)
    calm, wild = (fitted(spec, asked(during, channels=channels)) for during in (100.0, 1e4))
    assert learned(calm) == learned(wild)
    assert wild.card["masked_steps"] == 21
    plain = fitted(spec, asked(1e4, channels=channels, masked=False))
    assert plain.card["masked_steps"] == 0
    tails = (each.calibrations["settled"].u for each in (wild, plain))
    assert next(tails) < next(tails)


def test_a_first_version_scores_what_it_did_not_learn_from() -> None:
    spec = MonitorSpec("m", {}, detector="gaussian", params={"window": 12})
    wild = fitted(spec, asked(300.0, keep=True)).unseen
    assert wild is not None
    inside = (wild.ts >= INCIDENT[0]) & (wild.ts <= INCIDENT[1])
    before = wild.ts < INCIDENT[0] - 12 * HOUR
    assert wild.settled[inside].min() > np.nanmax(wild.settled[before])
    calm = fitted(spec, asked(100.0, keep=True)).unseen
    assert calm is not None
    assert np.array_equal(calm.settled[before], wild.settled[before], equal_nan=True)
    # A live score knows nothing of what comes after its step, hindsight does.
    up_to_it = wild.ts < INCIDENT[0]
    assert np.array_equal(calm.live[up_to_it], wild.live[up_to_it], equal_nan=True)
    assert not np.array_equal(calm.settled[up_to_it], wild.settled[up_to_it], equal_nan=True)
    other = replace(asked(300.0, masked=False, keep=True), target=TargetRow(2, 1, "u", (2,), HOUR, "UTC", 0))
    beside = fitted(spec, asked(300.0, keep=True), other).unseen
    assert beside is not None
    np.testing.assert_allclose(beside.settled, wild.settled, rtol=1e-5)


def test_an_incident_that_leaves_too_little_is_told_as_any_other_lack_of_points() -> None:
    target = replace(asked(100.0), masked=((0, 600 * HOUR),))
    outcome = fit_targets(FitTask(MonitorSpec("m", {}, "gaussian", {"window": 12}), (target,)))
    assert [each.why for each in outcome.not_ready] == ["72 points in fit.window, 8 windows of 12 need 96"]
