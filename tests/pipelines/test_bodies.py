"""What stands as JSON in the rows of versions, calibrations and lines comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import NewerFormatError
from pipelines.monitor import Threshold
from pipelines.records import Json, Origin
from pipelines.steps.bodies import (
    Body,
    CalibrationEntry,
    CountedAlarms,
    Holds,
    Line,
    LineEntry,
    Placed,
    Tail,
)
from pipelines.steps.evidence import GRID, LEVELS, Realised, Seen
from pipelines.steps.recipe import ChannelRecipe, Recipe
from pipelines.workers.auto import Member, View
from pipelines.workers.members import FittedMember, MemberScale, recipe_of, stored

number = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.lists(number, min_size=1, max_size=5).map(tuple)
counts = st.lists(st.integers(0, 2**40), max_size=5).map(tuple)


def built(cls: type, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return instances of a dataclass whose floats are finite, as JSON has them."""
    hints = {name: field.type for name, field in cls.__dataclass_fields__.items()}
    finite = {name: number for name, hint in hints.items() if hint == "float"}
    return st.builds(cls, **{**finite, **fields})


fits = built(
    Body,
    **dict.fromkeys(("knots", "surprises", "maxima", "maxima_counts", "levels"), numbers),
    **dict.fromkeys(("alarms", "points"), counts),
)
seen = st.builds(Seen, number, st.tuples(*[number] * len(LEVELS)))
calibrations = st.one_of(
    st.builds(CalibrationEntry, fit=fits),
    st.builds(CalibrationEntry, seen=seen),
    st.builds(CalibrationEntry, fit=fits, seen=seen),
)
drawn = st.one_of(
    st.builds(
        Line,
        built(Tail),
        st.sampled_from(["alarms", "quantile"]),
        surprise=number,
        placed=built(Placed),
    ),
    st.builds(Line, built(Tail), st.just("sigma"), value=number),
    st.builds(Line, built(Tail), st.just("dynamic")),
)
realised = st.builds(Realised, number, st.tuples(*[number] * len(GRID)))
lines = st.builds(
    LineEntry,
    drawn,
    built(Threshold, value=st.none() | number),
    st.none() | st.builds(CountedAlarms, st.text(), realised),
)
recipes = st.builds(
    Recipe,
    channels=st.lists(built(ChannelRecipe), max_size=3).map(tuple),
    regimes=st.lists(st.text(), max_size=3).map(tuple),
)
origins = st.builds(Origin, st.dictionaries(st.text(), number | st.integers() | st.text()))


def through_json(values: Json) -> Json:
    found: Json = json.loads(json.dumps(values, allow_nan=False))
    return found


@given(calibrations)
def test_what_a_calibration_holds_comes_back(entry: CalibrationEntry) -> None:
    assert CalibrationEntry.from_json(through_json(entry.to_json())) == entry


@given(lines)
def test_what_a_line_holds_comes_back(entry: LineEntry) -> None:
    assert LineEntry.from_json(through_json(entry.to_json())) == entry


@given(recipes)
def test_a_recipe_comes_back(recipe: Recipe) -> None:
    assert Recipe.from_json(through_json(recipe.to_json())) == recipe


@given(st.lists(recipes, min_size=1, max_size=4), st.dictionaries(st.text(), built(MemberScale)))
def test_members_come_back(own: list[Recipe], scales: dict[str, MemberScale]) -> None:
    of = tuple(
        FittedMember(Member("kde", {"window": at}, View.PLAIN, apart=at == 1), recipe, scales, at)
        for at, recipe in enumerate(own)
    )
    assert stored("auto", {}, through_json(recipe_of(of))) == of


@given(origins)
def test_an_origin_comes_back(origin: Origin) -> None:
    assert Origin.from_json(through_json(origin.to_json())) == origin


# -- what earlier releases wrote ----------------------------------------------------

FIT: Json = {
    "knots": [0.5, 1.25],
    "surprises": [0.1, 1.7],
    "n": 100,
    "seconds": 30000,
    "theta": 0.5,
    "clusters": 2,
    "mean_excess": 0.25,
    "noise": 0.5,
    "spread": 0.75,
    "maxima": [[0.5, 0.25], [1, 1.5]],
    "mean": 0.4,
    "deviation": 0.2,
    "dynamic": 1.5,
    "levels": [0.5, 1.5],
    "alarms": [3, 1],
    "points": [50, 1],
}
SEEN: Json = {"samples": 4.0, "reached": [3.0, 2.0, 1.0, 0.5, 0.25, 0.0]}
TAIL: Json = {"ratio": 0.4, "variety": 0.02, "shape": 0.1, "scale": 1.3, "maxima": 7}
ASKED: Json = {"method": "alarms", "alarms_per_week": 1.0, "per": "monitor", "value": None}
LINE: Json = {
    **TAIL,
    "method": "alarms",
    "surprise": 3.5,
    "evidence": {"asked": 2.0, "placed_at": 5.0, "per": "monitor", "alarms_per_week": 0.5},
    "threshold": ASKED,
}
RECIPE: Json = {
    "step_seconds": 300,
    "offset_seconds": 7,
    "timezone": "UTC",
    "channels": [{"resolution": 1.0, "counts": True, "longest_flat": 9, "usual_flat": 3, "longest_gap": 4}],
    "regimes": ["workday", "weekend"],
}


@pytest.mark.parametrize(
    ("written", "holds"),
    [(FIT, Holds.FIT), ({"seen": SEEN}, Holds.SEEN), ({**FIT, "seen": SEEN}, Holds.BOTH)],
)
def test_a_calibration_from_before_there_were_formats_is_read(written: Json, holds: Holds) -> None:
    entry = CalibrationEntry.from_json(written)
    assert entry.holds is holds
    known = {name: value for name, value in written.items() if name != "theta"}
    assert {**entry.to_json(), **known} == entry.to_json()


def test_a_line_from_before_there_were_formats_is_read() -> None:
    entry = LineEntry.from_json(LINE)
    assert (entry.line.surprise, entry.threshold, entry.counted) == (3.5, Threshold(), None)
    assert {**entry.to_json(), **LINE} == entry.to_json()
    counted = {**LINE, "realised": {"mark": "0a1b", "weeks": 2.5, "alarms": [4.0, 1.0]}}
    again = LineEntry.from_json(counted)
    assert again.to_json() == {**entry.to_json(), **counted}
    assert again.counted is not None
    assert again.counted.realised.alarms == (4.0, 1.0, *[0.0] * (len(GRID) - 2))


def test_lines_that_lie_elsewhere_on_every_target_are_read() -> None:
    for method in ({"method": "sigma", "value": 3.0}, {"method": "dynamic"}):
        written = {**TAIL, **method, "threshold": {**ASKED, "method": method["method"]}}
        entry = LineEntry.from_json(written)
        assert entry.line.surprise is None
        assert {**entry.to_json(), **written} == entry.to_json()


def test_a_recipe_from_before_there_were_formats_is_read_without_what_nobody_reads() -> None:
    recipe = Recipe.from_json(RECIPE)
    assert recipe.channels == (ChannelRecipe(resolution=1.0, counts=True, usual_flat=3),)
    assert recipe.regimes == ("workday", "weekend")
    older = {name: value for name, value in RECIPE.items() if name != "regimes"}
    assert Recipe.from_json(older).regimes == ()


def test_members_from_before_there_were_formats_are_read() -> None:
    own = {"detector": "kde", "params": {}, "view": "plain", "apart": False, "votes": True, "finds": "shapes"}
    other = {**RECIPE, "timezone": "Asia/Seoul"}
    several = [{**own, "recipe": each, "scales": {"live": [1.0, 2.0]}} for each in (None, other, 1, 0)]
    found = stored("auto", {}, {**RECIPE, "members": several})
    assert [each.recipe.timezone for each in found] == ["UTC", "Asia/Seoul", "Asia/Seoul", "UTC"]
    assert [each.at for each in found] == [0, 1, 2, 3]
    assert found[3].scales == {"live": MemberScale(1.0, 2.0)}
    assert found[3].member.finds == "shapes"


@pytest.mark.parametrize(
    "own", [{}, {"on_loan": True}, {"generation": 2}, {"on_loan": True, "generation": 1}]
)
def test_the_json_of_an_origin_stays_as_it_was_so_that_a_fit_is_not_stored_twice(own: Json) -> None:
    written = {"params": {"window": 24}, "fingerprint": "0a1b", **own}
    assert Origin.from_json(written).to_json() == written


@pytest.mark.parametrize(
    ("read", "values", "what"),
    [
        (CalibrationEntry.from_json, FIT, "a calibration"),
        (LineEntry.from_json, LINE, "a line"),
        (Recipe.from_json, RECIPE, "a recipe"),
    ],
)
def test_what_a_newer_release_wrote_is_refused(
    read: Callable[[Json], object], values: Json, what: str
) -> None:
    with pytest.raises(
        NewerFormatError, match=f"expected {what} in a format up to 1, got 2: a newer release"
    ):
        read({**values, "format": 2})
