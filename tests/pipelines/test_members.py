"""What a version is made of: members, the scale of their scores, and one score of all."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly_service.errors import InvalidError
from detectors import registry
from pipelines.names import AUTO, Mode
from pipelines.steps.recipe import ChannelRecipe, Recipe
from pipelines.workers import bank, members
from pipelines.workers.auto import Member, Traits, View
from pipelines.workers.members import FittedMember, MemberScale

SETTLED = str(Mode.SETTLED)


ONE = ChannelRecipe(center=1.0)


def member(at: int | None, scale: MemberScale | None = None, of: ChannelRecipe = ONE) -> FittedMember:
    scales = {} if scale is None else {SETTLED: scale}
    return FittedMember(Member("robust_z", {"window": 3}), Recipe(60, 0, "UTC", (of,)), scales, at)


def test_a_scale_is_told_from_the_median_to_where_the_tail_begins():
    scores = np.append(np.arange(101.0), np.nan)
    assert MemberScale.of(scores) == MemberScale(50.0, pytest.approx(48.0))
    np.testing.assert_allclose(MemberScale(50.0, 48.0).of_scores(np.array([2.0, 50.0, 98.0])), [0, 0, 1])


def test_scores_that_never_move_have_a_scale():
    assert np.isfinite(MemberScale.of(np.full(9, 3.0)).of_scores(np.array([3.0, 4.0]))).all()


def test_a_scale_of_no_score_is_refused():
    with pytest.raises(InvalidError, match="expected scores to learn a scale from, got none"):
        MemberScale.of(np.full(3, np.nan))


def test_the_score_of_a_single_detector_is_its_own():
    scores = np.array([1.0, np.nan, -3.0])
    assert members.combined([member(None)], [scores], Mode.SETTLED) is scores


def test_several_are_joined_by_the_root_of_their_mean_square():
    both = [member(0, MemberScale(0.0, 1.0)), member(1, MemberScale(10.0, 2.0))]
    joined = members.combined(both, [np.array([3.0, -5.0]), np.array([18.0, 14.0])], Mode.SETTLED)
    np.testing.assert_allclose(joined, [np.sqrt((9 + 16) / 2), np.sqrt((0 + 4) / 2)])


def test_a_member_without_a_score_leaves_the_others_theirs():
    both = [member(0, MemberScale(0.0, 1.0)), member(1, MemberScale(0.0, 1.0))]
    joined = members.combined(both, [np.array([3.0, np.nan]), np.array([np.nan, np.nan])], Mode.SETTLED)
    np.testing.assert_array_equal(joined, [3.0, np.nan])


def test_a_leader_without_a_vote_is_heard_only_where_it_is_alone():
    silent = replace(member(0, MemberScale(0.0, 1.0)), member=Member("robust_z", {"window": 3}, votes=False))
    voter = member(1, MemberScale(0.0, 1.0))
    own = [np.array([9.0]), np.array([2.0])]
    np.testing.assert_allclose(members.combined([silent, voter], own, Mode.SETTLED), [2.0])
    np.testing.assert_allclose(members.combined([silent], own[:1], Mode.SETTLED), [9.0])


def through_json(several: Sequence[FittedMember]) -> tuple[FittedMember, ...]:
    stored = json.loads(json.dumps(members.recipe_of(several), allow_nan=False))
    return members.stored("robust_z", {"window": 3}, stored)


def test_a_single_detector_is_stored_by_its_recipe_alone():
    alone = member(None)
    assert members.recipe_of([alone]) == alone.recipe.to_json()
    assert through_json([alone]) == (alone,)


def test_members_come_back_from_what_is_stored():
    other = ChannelRecipe(center=2.0)
    three = [member(at, MemberScale(1.5, 2.5), of) for at, of in enumerate((ONE, other, other))]
    back = through_json(three)
    assert back == tuple(three)
    assert back[1].recipe is back[2].recipe, "what two share is prepared once"
    assert isinstance(members.recipe_of(three)["members"][2]["recipe"], int), "and stored once"


def test_every_member_finds_its_own_weights():
    models = []
    for seed in (0, 1):
        series = torch.randn(1, 40, 1, generator=torch.Generator().manual_seed(seed))
        cls, config = bank.config_of("robust_z", {"window": 3})
        models.append(cls(config).fit(bank.Windows.of(series, 3)))
    two = [member(0, MemberScale(0.0, 1.0)), member(1, MemberScale(0.0, 1.0))]
    weights = members.packed(two, [bank.pack(model, [0]) for model in models])
    for each, model in zip(two, models, strict=True):
        for name, tensor in each.model(weights).state().items():
            torch.testing.assert_close(tensor, model.state()[name])


def test_auto_takes_no_settings():
    with pytest.raises(InvalidError, match="auto chooses its models itself and takes no setting 'window'"):
        members.asked(AUTO, {"window": 24})
    with pytest.raises(InvalidError, match="takes no setting 'seed'"):
        members.longest_window(AUTO, {"seed": 1})


@pytest.mark.parametrize(("n_channels", "n_steps"), [(1, 300), (1, 5000), (3, 5000)])
def test_every_model_that_auto_asks_for_is_a_registered_detector(n_channels, n_steps):
    asked = members.asked(AUTO, {}, n_channels, n_steps)
    for each in asked:
        assert each.detector in registry.names()
        window = bank.config_of(each.detector, each.params)[1].window
        assert window <= members.longest_window(AUTO, {})
        assert each.finds
    assert asked[0].view is View.FULL, "who leads says what is expected, and the season is part of that"


def test_long_windows_wait_for_a_long_history():
    def windows(n_steps):
        return [each.params["window"] for each in members.asked(AUTO, {}, 1, n_steps)]

    assert max(windows(2559)) < max(windows(2560)) == members.longest_window(AUTO, {})
    assert min(windows(0)) == members.shortest_window(AUTO, {})


@pytest.mark.parametrize(
    ("traits", "views"),
    [
        (Traits(), {View.FULL, View.PLAIN}),
        (Traits(habits=0.7, drift=0.2), {View.FULL, View.PLAIN}),
        (Traits(habits=0.9, drift=0.0), {View.FULL}),
    ],
)
def test_where_there_are_habits_no_model_sees_season_and_level(traits, views):
    assert {each.view for each in members.asked(AUTO, {}, 1, 5000, traits)} == views


def test_where_there_is_a_drift_models_that_look_far_back_do_not_see_the_level():
    asked = members.asked(AUTO, {}, 1, 5000, Traits(drift=0.6))
    far = max(each.params["window"] for each in asked)
    assert {each.view for each in asked if each.params["window"] == far} == {View.FULL}
    assert {each.view for each in asked[1:] if each.params["window"] < far} == {View.PLAIN}


def test_a_member_is_the_same_after_json():
    one = Member("kde", {"window": 5}, View.PLAIN, apart=True, finds="shapes")
    assert Member.from_json(one.to_json()) == one


# -- echoes -------------------------------------------------------------------------


def short_and_long() -> list[FittedMember]:
    scales = {SETTLED: MemberScale(0.0, 1.0)}
    return [
        FittedMember(Member("robust_z", {"window": w}), {"step_seconds": 60}, scales, at)
        for at, w in enumerate((3, 10))
    ]


def echoes(near: list[float], far: list[float]) -> list[int]:
    found = members.echoes(short_and_long(), [np.array(near), np.array(far)], Mode.SETTLED)
    return np.flatnonzero(found).tolist()


def test_what_long_windows_say_around_a_spike_is_its_echo():
    near, far = np.zeros(60), np.zeros(60)
    near[30], far[22:39] = 20.0, 5.0
    assert echoes(near, far) == [*range(22, 30), *range(31, 39)]


def test_the_spike_itself_is_none():
    near, far = np.zeros(60), np.full(60, 5.0)
    near[30] = 20.0
    assert 30 not in echoes(near, far)


def test_what_long_windows_say_where_short_ones_are_silent_is_no_echo():
    assert echoes(np.zeros(60), np.full(60, 5.0)) == []


def test_what_is_louder_than_all_around_it_is_no_echo():
    near, far = np.zeros(60), np.zeros(60)
    near[30], far[25:36] = 4.0, 9.0
    assert echoes(near, far) == []


def test_beyond_the_longest_window_nothing_is_an_echo():
    near, far = np.zeros(60), np.zeros(60)
    near[10], far[40] = 20.0, 5.0
    assert echoes(near, far) == []
    far[20] = 5.0
    assert echoes(near, far) == [20]


def test_steps_without_a_score_echo_nothing():
    near, far = np.full(60, np.nan), np.full(60, np.nan)
    assert echoes(near, far) == []
    near[30] = 20.0
    far[33] = 5.0
    assert echoes(near, far) == [33]


def test_a_single_detector_has_no_echo():
    assert not members.echoes([member(None)], [np.array([1.0, 9.0, 1.0])], Mode.SETTLED).any()
