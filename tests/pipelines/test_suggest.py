"""What reviews say of events like those they judged, and when they say nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn import STEP, drift, outage, portrait

from detectors.discriminant import DiscriminantClassifier, DiscriminantConfig
from pipelines.insight import suggest
from pipelines.insight.similar import Portrait
from pipelines.insight.suggest import UNKNOWN, Judgement, Suggestion

DAY = 86_400
MAINTENANCE = Judgement("expected", "maintenance")
BOTS = Judgement("confirmed", "bots")


def placed(portraits: Sequence[Portrait], apart: int = DAY) -> list[Portrait]:
    """The events one after the other, in an order that mixes the kinds."""
    found = []
    for number, each in enumerate(portraits):
        start = apart * (number * 7 % len(portraits))
        found.append(
            replace(each, interval=replace(each.interval, start=start, end=start + each.interval.end))
        )
    return found


def spike(seed: int) -> Portrait:
    """One step far up: unlike an outage and unlike a drift."""
    rng = np.random.default_rng(seed)
    course = np.concatenate((rng.normal(0, 0.3, 4), [60.0]))
    return portrait(course, 1, "above_expected", 9.0, y=900.0, yhat=100.0)


def world(outages: int = 9, drifts: int = 8) -> tuple[list[Portrait], list[Judgement | None]]:
    """Judged outages and drifts; then an outage, a drift and a spike that nobody judged."""
    events = [outage(seed, 5 + seed % 4) for seed in range(outages)]
    events += [drift(seed, 50 + 8 * (seed % 4)) for seed in range(100, 100 + drifts)]
    judged = [MAINTENANCE] * outages + [BOTS] * drifts
    return placed([*events, outage(50, 7), drift(150, 60), spike(200)]), [*judged, None, None, None]


def test_an_event_is_suggested_the_verdict_and_cause_of_its_like() -> None:
    like_outages, like_drifts, _ = suggest.suggestions(*world())[-3:]
    assert like_outages is not None
    assert like_drifts is not None
    assert (like_outages.verdict, like_outages.cause) == ("expected", "maintenance")
    assert (like_drifts.verdict, like_drifts.cause) == ("confirmed", "bots")
    for each in (like_outages, like_drifts):
        assert each.probability is not None
        assert 0.9 < each.probability <= 1


def test_an_event_unlike_all_that_were_judged_is_unknown() -> None:
    assert suggest.suggestions(*world())[-1] == Suggestion(UNKNOWN, "", None)


def test_what_was_judged_is_suggested_nothing_but_the_unsure_are() -> None:
    portraits, judged = world()
    assert suggest.suggestions(portraits, judged)[:-3] == [None] * 17
    judged[-3] = Judgement("unsure", "maintenance")
    found = suggest.suggestions(portraits, judged)[-3]
    assert found is not None
    assert found.verdict == "expected"


@pytest.mark.parametrize(
    "judge",
    [
        lambda judged: [None] * len(judged),
        lambda judged: [each and MAINTENANCE for each in judged],
        lambda judged: [each and Judgement("unsure") for each in judged],
        lambda judged: [each if at < 9 else None for at, each in enumerate(judged)],
        lambda judged: [
            each and Judgement(each.verdict) if at in (0, 10) else None for at, each in enumerate(judged)
        ],
    ],
    ids=["no review", "one class", "all unsure", "only outages", "two reviews"],
)
def test_it_is_silent_where_reviews_hold_no_two_classes(
    judge: Callable[[list[Judgement | None]], list[Judgement | None]],
) -> None:
    portraits, judged = world()
    assert suggest.suggestions(portraits, judge(judged)) == [None] * 20


def test_it_is_silent_where_verdicts_have_nothing_to_do_with_the_events() -> None:
    portraits, judged = world(20, 20)
    spoke = 0
    for seed in range(40):
        drawn = np.random.default_rng(seed).permutation(40)
        mixed = [judged[at] for at in drawn] + [None] * 3
        spoke += any(suggest.suggestions(portraits, mixed))
    assert spoke <= 4


def test_many_series_of_one_incident_bear_no_witness_for_each_other() -> None:
    portraits, judged = world()
    assert any(suggest.suggestions(portraits, judged))
    at_once = [
        replace(each, interval=replace(each.interval, start=0, end=10 * STEP)) if said == BOTS else each
        for each, said in zip(portraits, judged, strict=True)
    ]
    assert not any(suggest.suggestions(at_once, judged))


def test_the_order_of_events_does_not_matter() -> None:
    portraits, judged = world()
    order = np.random.default_rng(1).permutation(len(portraits))
    mixed = suggest.suggestions([portraits[at] for at in order], [judged[at] for at in order])
    expected = suggest.suggestions(portraits, judged)
    for at, found in zip(order, mixed, strict=True):
        assert (found and (found.verdict, found.cause)) == (
            expected[at] and (expected[at].verdict, expected[at].cause)  # type: ignore[union-attr]
        )


def test_an_event_without_points_is_compared_by_the_rest() -> None:
    portraits, judged = world()
    bare = [
        replace(each, shape=None) if at % 3 == 0 or at > 16 else each for at, each in enumerate(portraits)
    ]
    told = suggest.suggestions(bare, judged)[-3:-1]
    assert [each and each.verdict for each in told] == ["expected", "confirmed"]


# -- classes ------------------------------------------------------------------------


def said(*causes: str, verdict: str = "confirmed") -> list[Judgement | None]:
    return [Judgement(verdict, cause) for cause in causes]


def test_a_class_is_a_verdict_with_a_cause_in_whatever_case() -> None:
    judged = [*said("Bots", "bots ", "Bots"), *said("bots", "bots", "bots", verdict="expected"), None]
    names, y = suggest.classes(judged)
    assert names == [Judgement("confirmed", "Bots"), Judgement("expected", "bots")]
    assert y.tolist() == [0, 0, 0, 1, 1, 1, -1]


def test_rare_causes_of_a_verdict_are_one_class_and_too_few_are_none() -> None:
    judged = [*said("bots", "bots", "bots", "disk", "deploy", ""), *said("x", "", verdict="new_trend")]
    names, y = suggest.classes(judged)
    assert names == [Judgement("confirmed", ""), Judgement("confirmed", "bots")]
    assert y.tolist() == [1, 1, 1, 0, 0, 0, -1, -1]


@pytest.mark.parametrize(
    ("sizes", "dimensions"),
    [((3, 3), 1), ((5, 5), 2), ((10, 10), 4), ((24, 24), 8), ((23, 50), 4), ((1, 2), 0)],
)
def test_every_dimension_takes_three_degrees_of_freedom(sizes: tuple[int, int], dimensions: int) -> None:
    y = np.repeat([0, 1, -1], [*sizes, 7])
    assert suggest.dimensions(y) == dimensions


# -- whether it knows more ----------------------------------------------------------


def blobs(n: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes of as many examples, and each example a fold of its own."""
    y = np.arange(n) % 2
    Z = np.random.default_rng(seed).normal(size=(n, 2))
    Z[:, 0] += apart * y
    return Z, y, np.arange(n)


def test_it_knows_more_where_classes_lie_apart_and_not_where_they_are_the_same() -> None:
    assert suggest.knows_more(*blobs(20, 5.0))
    assert not suggest.knows_more(*blobs(20, 0.0))


def test_a_classifier_that_knows_nothing_seldom_seems_to() -> None:
    assert sum(suggest.knows_more(*blobs(20, 0.0, seed)) for seed in range(60)) <= 5


def test_four_lucky_hits_are_not_enough_and_five_are() -> None:
    for right, enough in ((4, False), (5, True)):
        Z = np.concatenate([np.linspace(-1, 1, 12), 50 + np.linspace(-1, 1, right)])[:, None]
        y = np.repeat([0, 1], [12, right])
        assert suggest.knows_more(Z, y, np.arange(len(y))) == enough


# -- abstaining ---------------------------------------------------------------------


def test_on_twenty_reviews_it_refuses_at_most_a_twentieth_of_its_own_class() -> None:
    """Outages and drifts with the suggestions' own features, dimensions and noise, many draws."""
    refused = total = 0
    for draw in range(40):
        seeds = range(1000 * draw, 1000 * draw + 30)
        events = [outage(s, 4 + s % 5) if s % 2 else drift(s, 40 + 10 * (s % 5)) for s in seeds]
        judged = [(MAINTENANCE if s % 2 else BOTS) if at < 20 else None for at, s in enumerate(seeds)]
        told = suggest.suggestions(placed(events), judged)[20:]
        assert all(told)
        refused += sum(each is not None and each.verdict == UNKNOWN for each in told)
        total += len(told)
    assert refused / total <= 0.05


def test_noise_keeps_what_agrees_exactly_from_refusing_what_nearly_does() -> None:
    y = torch.arange(20) % 2
    Z = torch.stack([4.0 * y, torch.zeros(20)], dim=1)
    near = torch.tensor([[0.1, 0.05], [4.1, -0.05]])
    exact = DiscriminantClassifier(DiscriminantConfig(noise=1e-9)).fit(Z, y)
    usual = DiscriminantClassifier(DiscriminantConfig(noise=suggest.NOISE)).fit(Z, y)
    assert exact.abstains(near).all()
    assert not usual.abstains(near).any()
