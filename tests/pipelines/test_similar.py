"""What makes two events, or two windows of a series, alike: properties, and slow twins of both searches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn import STEP, drift, outage
from hypothesis import given
from hypothesis import strategies as st

from detectors.gaussian import GaussianConfig, GaussianDetector
from detectors.windows import Windows
from pipelines.insight import similar
from pipelines.insight.similar import Judged, Neighbour, Portrait
from pipelines.names import Kind, Verdict
from pipelines.records import Points
from pipelines.steps import prepare

DAY = 86_400


def many() -> list[Portrait]:
    return [outage(seed, 5 + seed) for seed in range(5)] + [drift(seed, 50 + 8 * seed) for seed in range(7)]


# -- events -------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(12))
def test_an_event_is_nearest_to_its_own_copy(number: int) -> None:
    events = many()
    nearest = similar.nearest_events([events[number], *events])[0]
    assert (nearest.at, nearest.distance) == (number + 1, pytest.approx(0.0, abs=1e-12))


def test_outages_are_nearest_to_outages_and_drifts_to_drifts() -> None:
    events = many()
    for kind in (range(5), range(5, 12)):
        for at in kind:
            found = similar.nearest_events([events[at], *events])
            assert {each.at - 1 for each in found[: len(kind)]} == set(kind)


def test_two_events_taken_at_random_are_about_one_apart() -> None:
    events = many()
    away = [n.distance for each in events for n in similar.nearest_events([each, *events]) if n.distance > 0]
    assert 0.8 < np.median(away) < 1.2


def naive(events: list[Portrait], weights: np.ndarray, values: np.ndarray) -> list[float]:
    """The distances to the first event, pair by pair and feature by feature, in those of usual pairs."""

    def apart(a: int, b: int) -> float:
        total = weight = 0.0
        for one, other, each in zip(values[a], values[b], weights, strict=True):
            if not (np.isnan(one) or np.isnan(other)):
                total += each * (one - other) ** 2
                weight += each
        return float(np.sqrt(total / weight))

    n = len(events)
    pairs = [d for a in range(n) for b in range(a) if (d := apart(a, b)) > 0]
    return [apart(0, at) / float(np.median(pairs)) for at in range(1, n)]


def test_distances_are_those_of_the_naive_twin() -> None:
    events = many()
    events[3] = replace(events[3], shape=None)
    events[6] = replace(events[6], interval=replace(events[6].interval, y_at_peak=None))
    values, weights = similar.features(events)
    assert np.isnan(values).any()
    expected = naive(events, weights, values)
    found = {each.at: each.distance for each in similar.nearest_events(events)}
    assert [found[at] for at in range(1, len(events))] == pytest.approx(expected, rel=1e-9)


def test_what_is_not_known_of_an_event_does_not_count() -> None:
    events = many()
    bare = replace(events[0], shape=None)
    assert similar.nearest_events([bare, *events])[0] == Neighbour(1, 0.0)


def test_of_equally_near_events_the_newest_comes_first() -> None:
    old = outage(1)
    new = replace(old, interval=replace(old.interval, start=DAY, end=DAY + old.interval.end))
    assert [each.at for each in similar.nearest_events([outage(2), old, new, drift(1)])] == [2, 1, 3]


def test_events_without_any_shape_are_told_apart_by_their_duration() -> None:
    gaps = [
        Portrait(replace(outage(1).interval, direction="", end=minutes * 60), STEP)
        for minutes in (45, 600, 40, 5)
    ]
    assert [each.at for each in similar.nearest_events(gaps)] == [2, 3, 1]


def test_an_event_is_compared_with_its_own_family_only() -> None:
    first, flat, gap, other = (
        replace(each, interval=replace(each.interval, kind=kind))
        for each, kind in zip(
            many(), (Kind.STALE, Kind.FLATLINE, Kind.DATA_MISSING, Kind.ANOMALY), strict=False
        )
    )
    assert [each.at for each in similar.nearest_events([first, flat, gap, other])] == [2]
    assert similar.nearest_events([flat, first, gap, other]) == []


def test_the_shape_weighs_as_much_as_any_other_feature() -> None:
    values, weights = similar.features(many())
    shape = weights < 1
    assert np.count_nonzero(shape) == similar.COMPONENTS
    assert weights[shape].sum() == pytest.approx(1.0)
    assert (values[:, shape] ** 2).mean() == pytest.approx(1.0)


def test_a_lone_event_has_no_neighbours() -> None:
    assert similar.nearest_events([outage(1)]) == []


# -- shapes -------------------------------------------------------------------------


def prepared(values: np.ndarray, scale: float, season: float) -> prepare.Prepared:
    """Return two weeks of ten minutes, scaled and with a season, prepared by what the first ten days say."""
    ts = np.arange(len(values)) * 600
    told = scale * (values + season * np.sin(2 * np.pi * ts / DAY))
    points = [Points(ts, told)]
    recipe = prepare.learn(points, step_seconds=600, timezone="UTC", season="daily", start=0, stop=10 * DAY)
    return prepare.apply(recipe, points, 0, int(ts[-1]) + 1)


def test_neither_scale_nor_season_changes_a_shape() -> None:
    values = 50 + np.random.default_rng(1).normal(0, 1, 14 * 144)
    first, n = 12 * 144, 20
    values[first : first + n] -= np.linspace(5, 30, n)
    shapes = []
    for scale, season in ((1.0, 0.0), (1000.0, 15.0)):
        found = prepared(values, scale, season)
        span = slice(first - similar.lead_steps(n), first + n)
        shape = similar.shape_of(found.values[span], found.missing[span], similar.lead_steps(n))
        assert shape is not None
        shapes.append(shape)
    assert abs(shapes[0].n_steps - shapes[1].n_steps) <= 1
    assert np.abs(shapes[0].course - shapes[1].course).max() < 0.15
    assert shapes[0].course.min() == -1.0


@pytest.mark.parametrize("n", [1, 3, 24, 500])
@pytest.mark.parametrize("early", [0, 2])
def test_a_shape_starts_where_the_value_does_wherever_the_event_starts(n: int, early: int) -> None:
    # A model's window smears an event: it is flagged some steps before and after what happened.
    lead = similar.lead_steps(n + 2 * early)
    course = np.concatenate((np.zeros(lead + early), np.full(n, 7.0), np.zeros(early)))
    shape = similar.shape_of(course[:, np.newaxis], np.zeros((len(course), 1), dtype=bool), lead)
    assert shape is not None
    assert shape.n_steps == n
    assert shape.course == pytest.approx(np.repeat([0.0, 1.0], [similar.BEFORE, similar.DURING]))


def course_of(values: np.ndarray, missing: np.ndarray, lead: int) -> np.ndarray:
    shape = similar.shape_of(values, missing, lead)
    assert shape is not None
    return shape.course


def test_the_channel_that_deviates_most_gives_the_shape() -> None:
    quiet, loud = np.linspace(0, 1, 20), np.linspace(0, -9, 20)
    both = np.stack((quiet, loud), axis=1)
    mask = np.zeros_like(both, dtype=bool)
    np.testing.assert_array_equal(course_of(both, mask, 8), course_of(both[:, 1:], mask[:, 1:], 8))


def test_missing_steps_lie_on_the_line_between_their_neighbours() -> None:
    values = np.linspace(0, 9, 30)[:, np.newaxis]
    missing = np.zeros_like(values, dtype=bool)
    missing[20:24] = True
    whole = course_of(values, np.zeros_like(missing), 10)
    np.testing.assert_allclose(course_of(np.where(missing, 0.0, values), missing, 10), whole)


def test_an_event_that_is_mostly_missing_has_no_shape() -> None:
    values = np.ones((20, 1))
    missing = np.zeros_like(values, dtype=bool)
    missing[6:17] = True
    assert similar.shape_of(values, missing, 4) is None
    assert similar.shape_of(values[:4], missing[:4], 4) is None


def test_an_event_that_never_left_its_baseline_has_no_shape() -> None:
    assert similar.shape_of(np.zeros((20, 1)), np.zeros((20, 1), dtype=bool), 4) is None


def test_a_fall_and_a_slow_rise_differ_in_how_suddenly_they_go() -> None:
    fall, rise = (similar._slopes(of(1).shape) for of in (outage, drift))
    assert fall[1] > 0.8 > 0.3 > rise[1]
    assert abs(fall[0]) < 0.3 < rise[0]


# -- windows ------------------------------------------------------------------------


def with_repeats(seed: int = 0, n: int = 600) -> np.ndarray:
    """Return latents of which those from 100 and 300 repeat the last one."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(0, 1, (n, 3))
    latent[-1] = (20.0, -21.0, 0.0)
    latent[[100, 300]] = latent[-1] + [[0.2, 0.0, 0.1], [0.0, 0.1, 0.0]]
    return latent


def all_but_the_last(latent: np.ndarray, window: int = 10) -> np.ndarray:
    past = np.ones(len(latent), dtype=bool)
    past[-window:] = False
    return past


def test_the_windows_that_repeat_one_are_its_nearest() -> None:
    latent = with_repeats()
    found = similar.nearest_windows(latent, latent[-1], all_but_the_last(latent), 10, 5)
    assert [each.at for each in found] == [300, 100]
    assert max(each.distance for each in found) < 0.1


def test_a_window_like_no_other_has_no_neighbours() -> None:
    latent = np.random.default_rng(0).normal(0, 1, (600, 3))
    latent[-1] = 20.0
    assert similar.nearest_windows(latent, latent[-1], all_but_the_last(latent), 10, 5) == []


def test_the_unit_of_a_latent_does_not_matter() -> None:
    latent = with_repeats()
    unit = np.array([1.0, 1e-4, 1e6])
    plain, scaled = (
        similar.nearest_windows(each, each[-1], all_but_the_last(each), 10, 5)
        for each in (latent, latent * unit + 5.0)
    )
    assert [each.at for each in scaled] == [each.at for each in plain]
    assert [each.distance for each in scaled] == pytest.approx([each.distance for each in plain], rel=1e-6)


def test_correlated_directions_count_once() -> None:
    # Ten columns that say the same weigh as much as the one that says something else.
    rng = np.random.default_rng(5)
    same, other = rng.normal(0, 1, (2, 400))
    latent = np.column_stack((*[same + rng.normal(0, 1e-6, 400) for _ in range(10)], other))
    white, _ = similar._whitened(latent, latent[-1], np.ones(400, dtype=bool))
    assert np.cov(white.T) == pytest.approx(np.eye(white.shape[1]), abs=0.1)


def test_past_incidents_do_not_change_what_is_usual() -> None:
    rng = np.random.default_rng(6)
    latent = rng.normal(0, 1, (1000, 2))
    latent[:20] = 500.0
    white, _ = similar._whitened(latent, latent[-1], np.ones(1000, dtype=bool))
    assert white[20:].std(axis=0) == pytest.approx([1.0, 1.0], abs=0.2)


def test_a_direction_that_never_varies_is_left_out() -> None:
    latent = with_repeats()
    still = np.column_stack((latent, np.full(len(latent), 3.0)))
    past = all_but_the_last(latent)
    assert similar.nearest_windows(still, still[-1], past, 10, 5) == pytest.approx(
        similar.nearest_windows(latent, latent[-1], past, 10, 5)
    )


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 12))
def test_the_search_is_the_naive_one(seed: int, apart: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    latent = rng.normal(0, 1, (120, 2)).round(1)
    latent[-1] = 3.0
    past = rng.random(120) < 0.8
    past[-apart:] = False
    if not past.any():
        return
    white, own = similar._whitened(latent, latent[-1], past)
    away = np.sqrt(((white - own) ** 2).sum(axis=1))
    away /= np.median(away[past])
    expected: list[int] = []
    for _ in range(n):
        free = [
            at
            for at in np.flatnonzero(past)
            if away[at] < similar.NEAR and all(abs(at - other) >= apart for other in expected)
        ]
        if free:
            expected.append(min(free, key=lambda at: (away[at], -at)))
    found = similar.nearest_windows(latent, latent[-1], past, apart, n)
    assert [each.at for each in found] == expected


def test_a_latent_that_does_not_tell_a_window_from_many_says_nothing() -> None:
    # As the responsibilities of a mixture: a third of all windows belong to one component.
    rng = np.random.default_rng(1)
    latent = np.eye(3)[rng.integers(0, 3, 300)] + rng.normal(0, 1e-3, (300, 3))
    with pytest.raises(similar.TooCommonError, match=r"3\d% of all windows are as good as equal to it"):
        similar.nearest_windows(latent, latent[-1], all_but_the_last(latent), 10, 5)


def test_latents_in_pieces_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    series = torch.from_numpy(np.random.default_rng(2).normal(0, 1, (1, 300, 1)))
    windows = Windows.of(series, 8)
    model = GaussianDetector(GaussianConfig(window=8)).fit(windows)
    whole = similar.latents(model, windows, lambda share: None)
    monkeypatch.setattr("pipelines.workers.bank.CHUNK_VALUES", 400)
    told: list[float] = []
    np.testing.assert_allclose(similar.latents(model, windows, told.append), whole, atol=1e-6)
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == 1.0


# -- what people said ---------------------------------------------------------------


def judged(*verdicts: str, cause: str = "maintenance") -> list[Judged]:
    return [Judged(at, 0.1 * at, verdict, cause) for at, verdict in enumerate(verdicts, 1)]


EXPECTED, CONFIRMED, UNSURE = Verdict.EXPECTED, Verdict.CONFIRMED, Verdict.UNSURE


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            judged(EXPECTED, EXPECTED, CONFIRMED, EXPECTED),
            "3 of the 4 nearest reviewed events were expected: maintenance (events 1, 2, 4).",
        ),
        (
            judged(EXPECTED, EXPECTED, EXPECTED, cause=""),
            "All 3 nearest reviewed events were expected (events 1, 2, 3).",
        ),
        (
            judged(Verdict.FALSE_POSITIVE, cause=""),
            "The one near event that was reviewed was false positive (event 1).",
        ),
        (
            judged(UNSURE, EXPECTED),
            "The one near event that was reviewed was expected: maintenance (event 2).",
        ),
        (judged(EXPECTED, CONFIRMED), ""),
        (judged(UNSURE), ""),
        ([], ""),
        ([Judged(1, similar.NEAR, "expected", "")], ""),
    ],
)
def test_the_nearest_reviewed_events_agree_or_nothing_is_said(found: list[Judged], sentence: str) -> None:
    assert similar.agreement(found) == sentence


def test_causes_that_differ_are_not_named() -> None:
    found = [Judged(at, 0.1, "confirmed", cause) for at, cause in enumerate(("disk", "disk", "net", "net"))]
    assert similar.agreement(found) == "All 4 nearest reviewed events were confirmed (events 0, 1, 2, 3)."


def test_only_the_five_nearest_reviewed_events_are_asked() -> None:
    found = judged(*[EXPECTED] * 5, *[CONFIRMED] * 2)
    assert similar.agreement(found[::-1]).startswith("All 5 nearest")
