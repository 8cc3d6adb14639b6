"""Two-sample tests: equal kinds are not told apart, others are, and the interval is as wide as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pipelines.workers import twosample
from pipelines.workers.twosample import GROUPS, Side

WINDOW = 24


def windows(n_targets: int, n: int, keep: float, seed: int) -> Tensor:
    """Windows of a process whose steps keep a share of the one before."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_targets, n, WINDOW + 50, generator=generator)
    for t in range(1, x.shape[2]):
        x[:, :, t] += keep * x[:, :, t - 1]
    return (1 - keep**2) ** 0.5 * x[:, :, 50:]


def side(values: Tensor) -> Side:
    n_targets, n, _ = values.shape
    block = torch.arange(n) * 2 * GROUPS // n
    return Side(
        values,
        torch.ones(n_targets, n, dtype=torch.bool),
        (block % GROUPS).expand(n_targets, n),
        torch.arange(n) % 5,
    )


def test_windows_of_one_kind_are_not_told_apart() -> None:
    areas = twosample.told_apart(windows(20, 300, 0.6, 1).unsqueeze(3), windows(20, 300, 0.6, 2).unsqueeze(3))
    assert abs(float(areas.mean()) - 0.5) < 0.02
    assert ((areas > 0.38) & (areas < 0.62)).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 0.8,
        lambda x: 1.4 * x,
        lambda x: x.flip(2).cumsum(2) / 3,
        lambda x: x[:, :, torch.randperm(WINDOW, generator=torch.Generator().manual_seed(3))],
        lambda x: x.sign() * x.std(),
    ],
    ids=["level", "variance", "slowness", "order", "shape"],
)
def test_windows_that_differ_in_one_thing_are_told_apart(change: object) -> None:
    other = change(windows(3, 300, 0.6, 4))  # type: ignore[operator]
    areas = twosample.told_apart(windows(3, 300, 0.6, 5).unsqueeze(3), other.unsqueeze(3))
    assert (areas > 0.7).all()


def test_one_absurd_window_does_not_hide_the_difference_of_all_others() -> None:
    one, other = windows(2, 300, 0.6, 6), windows(2, 300, 0.6, 7) + 1.0
    one[:, 7] = 1e9
    assert (twosample.told_apart(one.unsqueeze(3), other.unsqueeze(3)) > 0.75).all()


def test_constant_windows_are_not_told_apart() -> None:
    same = torch.zeros(2, 50, WINDOW, 1)
    assert twosample.told_apart(same, same).tolist() == [0.5, 0.5]


def test_an_area_is_the_mean_of_those_of_the_groups_that_the_discriminant_did_not_see() -> None:
    one, other = windows(1, 120, 0.6, 8), 1.2 * windows(1, 120, 0.6, 9)
    sides = (side(one), side(other))
    look = twosample._View.of(*sides)
    features = [look.features(each.values)[0].numpy().astype(np.float64) for each in sides]
    group = sides[0].group[0].numpy()
    won = []
    for k in range(GROUPS):
        mine, theirs = (each[group != k] for each in features)
        within = sum((each - each.mean(0)).T @ (each - each.mean(0)) for each in (mine, theirs))
        within = within / (len(mine) + len(theirs))
        within += np.diag(0.001 * np.diag(within) + 1e-6)
        direction = np.linalg.solve(within, mine.mean(0) - theirs.mean(0))
        scores = np.concatenate([each[group == k] @ direction for each in features])
        won.append(roc_auc_score([1] * 30 + [0] * 30, scores))
    (found,) = twosample._auc(
        *(twosample._Featured(look.features(s.values), s) for s in sides), same_fold=False
    )
    assert float(found) == pytest.approx(np.mean(won), abs=2e-3)


@pytest.mark.parametrize("keep", [0.0, 0.9])
def test_the_interval_of_the_difference_holds_it_nineteen_times_in_twenty(keep: float) -> None:
    n = 200
    held_out, trained, samples = (side(windows(n, 128, keep, seed)) for seed in (10, 11, 12))
    found = twosample.compare(held_out, trained, samples, torch.full((n,), 1e9))
    difference = found.samples - found.training
    assert abs(float(difference.mean())) < 0.02
    assert 0.91 <= float((difference.abs() <= found.margin).float().mean()) <= 1.0
    assert float(found.margin.mean()) < 0.16


def test_windows_that_overlap_count_less() -> None:
    sides = [side(windows(5, 128, 0.6, seed)) for seed in (13, 14, 15)]
    apart = twosample.compare(*sides, torch.full((5,), 1e9)).margin
    overlapping = twosample.compare(*sides, torch.full((5,), 32.0)).margin
    assert (overlapping > 1.5 * apart).all()


def test_too_few_windows_are_not_compared() -> None:
    sides = [side(windows(2, 20, 0.6, seed)) for seed in (16, 17, 18)]
    found = twosample.compare(*sides, torch.full((2,), 1e9))
    assert found.samples.isnan().all()
    assert found.margin.isnan().all()


def test_windows_that_do_not_count_change_nothing() -> None:
    held_out, trained, samples = (side(windows(2, 128, 0.6, seed)) for seed in (19, 20, 21))
    held_out.known[:, ::3] = trained.known[:, 1::4] = False
    before = twosample.compare(held_out, trained, samples, torch.full((2,), 99.0))
    held_out.values[~held_out.known] = 5.0
    trained.values[~trained.known] = -3.0
    after = twosample.compare(held_out, trained, samples, torch.full((2,), 99.0))
    torch.testing.assert_close((after.samples, after.training), (before.samples, before.training))
