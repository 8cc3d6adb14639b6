"""Why an interval was flagged: shares, stretches, bands and sentences, on targets fitted here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from detectors.base import Expected
from detectors.gaussian import GaussianDetector
from detectors.windows import Windows
from pipelines.errors import NotExplainableError
from pipelines.insight import explain
from pipelines.insight.explain import Explained, one_in
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import Kind, Status
from pipelines.records import Event, Interval, Points, TargetRow
from pipelines.steps.line import Calibrated, draw
from pipelines.workers import score
from pipelines.workers.fit import FitTarget, FitTask, fit_targets
from pipelines.workers.judge import in_force, score_targets
from pipelines.workers.score import MODES
from pipelines.workers.tasks import LinesAt, Piece, ScoreTarget, ScoreTask

HOUR = 3600
LEARNED, STEPS = 24 * 21, 24 * 26
FIRST, LAST = 560, 565
"""Steps of the incident."""


@dataclass(frozen=True)
class Case:
    """A target whose incident was flagged, as a worker takes it."""

    spec: MonitorSpec
    target: ScoreTarget
    weights: dict[int, bytes]
    found: Interval

    def explained(self, **changes: object) -> Explained:
        target = replace(self.target, **changes)  # type: ignore[arg-type]  # fields by name
        return explain.explain(self.spec, target, self.weights, self.found)


def case(spec: MonitorSpec, *values: np.ndarray) -> Case:
    """Return the incident of a target of some series, fitted on three weeks before it."""
    row = TargetRow(1, 1, "t", tuple(range(len(values))), HOUR, "UTC", 0)
    ts = np.arange(STEPS, dtype=np.int64) * HOUR
    points = tuple(Points(ts, value) for value in values)
    (fitted,) = fit_targets(FitTask(spec, (FitTarget(row, points, 0, LEARNED * HOUR),))).fitted
    lines = {
        str(mode): LinesAt(
            np.zeros(1, dtype=np.int64),
            (draw([fitted.calibrations[str(mode)]], spec.threshold),),
        )
        for mode in MODES
    }
    piece = Piece(
        version_id=1,
        detector=spec.detector,
        params=spec.params,
        recipe=fitted.recipe,
        weights_id=1,
        bodies=fitted.calibrations,
        start=LEARNED * HOUR,
        stop=STEPS * HOUR,
        learned_steps=LEARNED,
    )
    end = STEPS * HOUR
    target = ScoreTarget(row, points, (piece,), lines, end, end, (int(ts[-1]),) * len(points))
    weights = {1: fitted.weights}
    (scored,) = score_targets(ScoreTask(spec, (target,), weights))
    (found,) = [each for each in scored.found if each.start <= LAST * HOUR and each.end >= FIRST * HOUR]
    return Case(spec, target, weights, found)


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 3, STEPS)


def fallen(seed: int, by: float = 40.0) -> np.ndarray:
    values = normal(seed)
    values[FIRST : LAST + 1] -= by
    return values


SPEC = MonitorSpec("m", {}, params={"window": 6}, season="none", threshold=Threshold(alarms_per_week=1.0))


@pytest.fixture(scope="module")
def alone() -> Case:
    return case(SPEC, fallen(1))


@pytest.fixture(scope="module")
def pair() -> Case:
    return case(SPEC, normal(2), fallen(1) * 1000)


@pytest.fixture(scope="module")
def several() -> Case:
    return case(replace(SPEC, detector="auto", params={}), fallen(1))


@pytest.mark.parametrize("name", ["alone", "pair", "several"])
@pytest.mark.parametrize("settled_until", [0, STEPS * HOUR])
def test_the_score_computed_again_is_the_one_that_flagged_it(
    name: str, settled_until: int, request: pytest.FixtureRequest
) -> None:
    made: Case = request.getfixturevalue(name)
    target = replace(made.target, settled_until=settled_until)
    (scored,) = score_targets(ScoreTask(made.spec, (target,), made.weights))
    found = max(scored.found, key=lambda each: each.peak_score)
    told = explain.explain(made.spec, target, made.weights, found)
    assert told.mode == ("settled" if settled_until else "live")
    assert told.anomaly_score == pytest.approx(found.peak_score)
    assert told.line == pytest.approx(made.target.lines[str(told.mode)].lines[0].surprise)


def test_members_share_the_square_of_the_joined_score(several: Case) -> None:
    told = several.explained()
    assert len(told.members) > 2
    scores = np.array([member.score for member in told.members])
    np.testing.assert_allclose([member.share for member in told.members], scores**2 / (scores**2).sum())
    steps = score.raw_scores(several.spec, [several.target], several.weights)[0][0]
    at = several.found.peak_at // HOUR - LEARNED
    assert steps.settled[at] == pytest.approx(np.sqrt((scores**2).mean()))


def test_the_stretch_holds_the_highest_steps_of_the_interval_and_no_others(alone: Case) -> None:
    told = alone.explained().stretch
    steps = score.raw_scores(alone.spec, [alone.target], alone.weights)[0][0]
    ((_, body, line, seen),) = in_force(alone.target, steps, explain.Mode.SETTLED)
    anomaly = Calibrated.of(body, line, seen).anomaly_score(steps.settled)
    inside = slice(told.start // HOUR - LEARNED, told.end // HOUR - LEARNED + 1)
    own = anomaly[alone.found.start // HOUR - LEARNED : alone.found.end // HOUR - LEARNED + 1]
    assert told.n_steps == inside.stop - inside.start
    assert anomaly[inside].min() >= own.max() / 2
    assert alone.found.start <= told.start <= told.end <= alone.found.end


def test_a_stretch_ends_where_the_course_falls_below_half_of_its_peak() -> None:
    course = np.array([1.0, np.nan, 2.0, 4.0, 3.0, 1.0, 3.0])
    assert explain.stretch_of(range(7), course) == explain.Stretch(2, 4, 3)


def test_a_gaussian_tells_which_of_its_parts_is_high(alone: Case) -> None:
    spike = normal(1)
    spike[FIRST + 1] -= 40
    told = case(SPEC, spike).explained().parts
    assert told is not None
    assert max(told, key=told.__getitem__) == "step"
    falling = alone.explained().parts
    assert falling is not None
    assert falling["level"] > told["level"]
    assert sum(falling.values()) == pytest.approx(1)


def test_the_parts_of_a_live_score_are_those_of_the_window_that_ends_there(alone: Case) -> None:
    told = alone.explained(settled_until=0).parts
    (steps,) = score.raw_scores(alone.spec, [alone.target], alone.weights)[0]
    last = alone.found.peak_at // HOUR - LEARNED + steps.inside.start
    assert isinstance(steps.models, GaussianDetector)
    parts = steps.models.parts(steps.windows.span(last - 5, last - 4))
    squares = torch.stack([parts.window[0, 0], parts.level[0, 0], parts.step[0, 0, -1]]).clamp_min(0) ** 2
    assert told is not None
    np.testing.assert_allclose(list(told.values()), (squares / squares.sum()).numpy(), rtol=1e-4)
    assert float(squares.sum().sqrt()) == pytest.approx(steps.live[last - steps.inside.start], rel=1e-4)


def test_what_was_expected_is_normal_and_the_band_is_two_deviations(alone: Case) -> None:
    for look in alone.explained().looks:
        assert look.y == alone.target.points[0].value[look.at // HOUR]
        assert look.yhat == pytest.approx(100, abs=3)
        assert look.yhat_lower is not None
        assert look.yhat_upper is not None
        assert look.yhat_upper - look.yhat_lower == pytest.approx(4 * 3, rel=0.25)


def test_what_was_expected_at_the_peak_is_what_the_interval_says(pair: Case) -> None:
    second = [look for look in pair.explained().looks if look.moment == "peak"][1]
    assert (second.y, second.yhat) == (
        pytest.approx(pair.found.y_at_peak),
        pytest.approx(pair.found.yhat_at_peak),
    )


def test_without_a_scale_there_is_no_band(alone: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    expect = GaussianDetector._expect

    def without(self: GaussianDetector, windows: Windows) -> Expected:
        return Expected(expect(self, windows).mean)

    with_band = alone.explained().looks
    monkeypatch.setattr(GaussianDetector, "_expect", without)
    for look, other in zip(alone.explained().looks, with_band, strict=True):
        assert look.yhat == other.yhat
        assert (look.yhat_lower, look.yhat_upper) == (None, None)


def test_a_channel_without_a_point_at_the_peak_has_none_to_show(pair: Case) -> None:
    keep = pair.target.points[0].ts != pair.found.peak_at
    holed = Points(pair.target.points[0].ts[keep], pair.target.points[0].value[keep])
    assert pair.explained(points=(holed, pair.target.points[1])).looks[0].y is None


def test_points_that_are_gone_are_told(alone: Case) -> None:
    points = alone.target.points[0]
    later = Points(points.ts[LAST + 20 :], points.value[LAST + 20 :])
    with pytest.raises(NotExplainableError, match=r"its points are not stored any more \(retention.points\)"):
        alone.explained(points=(later,))
    few = slice(alone.found.peak_at // HOUR, alone.found.peak_at // HOUR + 1)
    with pytest.raises(NotExplainableError, match="too many points before its peak are missing"):
        alone.explained(points=(Points(points.ts[few], points.value[few]),))


def test_lines_that_are_gone_are_told(alone: Case) -> None:
    none = LinesAt(np.zeros(0, dtype=np.int64), ())
    with pytest.raises(NotExplainableError, match="its monitor has no line any more"):
        alone.explained(lines={str(mode): none for mode in MODES})


def test_how_rare_a_score_is_is_told_to_two_digits() -> None:
    assert [one_in(surprise) for surprise in (3.0, 2.504, -1.0)] == [1000, 320, 1]
    assert explain.odds(3.0) == "one normal step in 1,000"
    assert explain.odds(400.0) == "less than one normal step in 1,000,000,000"


def event(
    kind: Kind, n_points: int, peak_score: float, *, added: bool = False, y: float | None = None
) -> Event:
    found = Interval(kind, 0, n_points * HOUR, n_points, 0, peak_score, peak_score, y_at_peak=y)
    return Event(1, 1, found, Status.CLOSED, 0, added=added)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (event(Kind.DATA_MISSING, 12, 4.0), "No point came for 12 steps; a gap of 3 or more is flagged"),
        (event(Kind.STALE, 2000, 500.0), "no point for at least 2,000 steps up to now; 4 or more"),
        (event(Kind.FLATLINE, 30, 30 / 11, y=7.25), "30 points in a row have the value 7.25; 11 or more"),
        (event(Kind.FLATLINE, 30, 30 / 11), "30 points in a row have one value; 11 or more"),
        (
            replace(event(Kind.ANOMALY, 30, 0.0, added=True), status=Status.BELOW_LINE),
            "Somebody marked it by hand",
        ),
    ],
)
def test_a_rule_is_told_with_its_limit(asked: Event, says: str) -> None:
    assert says in (explain.rule(asked) or "")


def test_what_somebody_marked_and_a_model_flags_by_now_goes_by_the_model() -> None:
    assert explain.rule(event(Kind.ANOMALY, 30, 2.0, added=True)) is None


def test_an_anomaly_goes_by_no_rule() -> None:
    assert explain.rule(event(Kind.ANOMALY, 3, 1.5)) is None
