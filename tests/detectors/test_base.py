from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors import registry
from detectors.base import Density, Expected
from detectors.per_target import PerTarget
from detectors.pieces import fit_in_pieces, in_pieces
from detectors.windows import PickedWindows, Windows


def counting(n: int, points: int, window: int) -> Windows:
    """Series whose value at a point says which target and point it is."""
    series = (100.0 * torch.arange(n).unsqueeze(1) + torch.arange(points)).unsqueeze(2)
    return Windows.of(series, window)


def test_windows_are_views_of_the_series() -> None:
    windows = counting(2, 10, 4)
    assert windows.values.shape == (2, 7, 4, 1)
    assert windows.values[1, 3, :, 0].tolist() == [103, 104, 105, 106]
    assert windows.values.data_ptr() == windows.series.data_ptr()


def test_a_span_keeps_its_place_on_the_grid() -> None:
    part = counting(2, 10, 4).span(3, 5)
    assert part.n_windows == 2
    assert part.start.tolist() == [3, 3]
    assert part.grid.tolist() == [[3, 4, 5, 6, 7]] * 2
    assert part.values[0, 0, :, 0].tolist() == [3, 4, 5, 6]


def test_nan_reads_as_missing_where_nothing_is_said() -> None:
    series = torch.tensor([1.0, torch.nan, 3.0]).view(1, 3, 1)
    windows = Windows.of(series, 2)
    assert windows.missing[0, :, 0].tolist() == [False, True, False]
    assert windows.series[0, 1, 0] == 0


def test_a_quarter_of_the_steps_may_be_missing() -> None:
    hide = torch.zeros(1, 12, dtype=torch.bool)
    hide[0, 4:7] = True
    windows = counting(1, 12, 8).hidden(hide)
    assert windows.missing_share[0].tolist() == pytest.approx([3 / 8, 3 / 8, 3 / 8, 3 / 8, 3 / 8])
    hide[0, 6] = False
    assert counting(1, 12, 8).hidden(hide).scorable.all()
    assert not windows.scorable.any()


def test_leaving_points_out_drops_every_window_that_touches_them() -> None:
    out = torch.zeros(1, 10, dtype=torch.bool)
    out[0, 5] = True
    left = counting(1, 10, 3).without(out)
    assert left.weight[0].tolist() == [1, 1, 1, 0, 0, 0, 1, 1]
    assert left.touched[0].tolist() == [True] * 5 + [False] + [True] * 4


def test_pooled_windows_do_not_cross_a_seam() -> None:
    pooled = counting(2, 5, 3).pooled()
    assert pooled.n_targets == 1
    kept = pooled.values[0, pooled.weight[0] > 0, :, 0]
    assert kept.tolist() == [
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [100, 101, 102],
        [101, 102, 103],
        [102, 103, 104],
    ]


def test_shorter_windows_have_weight_where_one_of_weight_covers_them() -> None:
    windows = counting(1, 12, 5).weighted(torch.tensor([[0.0, 1, 0, 0, 0, 0, 1, 0]]))
    shorter = windows.shorter(3)
    assert shorter.window == 3
    assert shorter.weight[0].tolist() == [0, 1, 1, 1, 0, 0, 1, 1, 1, 0]
    assert torch.equal(windows.shorter(5).weight, windows.weight)


@given(
    used=st.lists(st.booleans(), min_size=1, max_size=40),
    n=st.integers(1, 60),
)
def test_windows_are_drawn_evenly_from_those_with_weight(used: list[bool], n: int) -> None:
    weight = torch.tensor([used], dtype=torch.float32)
    windows = counting(1, len(used), 1).weighted(weight)
    index = windows.drawn(n)[0].tolist()
    allowed = [i for i, u in enumerate(used) if u]
    assert len(index) == n
    assert index == sorted(index)
    if allowed:
        assert set(index) <= set(allowed)
        counts = [index.count(i) for i in allowed]
        assert max(counts) - min(counts) <= 1


@given(values=st.integers(1, 200))
def test_work_in_pieces_equals_work_at_once(values: int) -> None:
    windows = counting(3, 12, 4)

    def function(members: slice, piece: Windows) -> Tensor:
        assert piece.n_targets == len(range(3)[members])
        return piece.values.sum((2, 3))

    assert torch.equal(in_pieces(windows, function, values=values), windows.values.sum((2, 3)))


def test_a_bank_fitted_in_pieces_is_the_bank_fitted_at_once() -> None:
    windows = counting(5, 12, 4)
    told: list[float] = []
    state = fit_in_pieces(windows, lambda w: {"mean": w.series.mean(1)}, told.append, members=2)
    assert torch.equal(state["mean"], windows.series.mean(1))
    assert told == [0.4, 0.8, 1.0]


@pytest.mark.parametrize(
    ("series", "window", "message"),
    [
        (torch.zeros(3, 4), 2, r"expected series of shape \(n_targets, n_points, n_channels\), got \(3, 4\)"),
        (torch.zeros(1, 3, 1), 5, "series of 3 points are shorter than one window of 5; pass more points"),
        (torch.full((1, 5, 1), torch.inf), 2, "not marked missing; mark or drop them"),
    ],
)
def test_series_that_cannot_be_cut_are_refused(series: Tensor, window: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windows.of(series, window)


def test_nothing_to_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one bank to stack, got none"):
        registry.get("gaussian").stack([])


def test_an_unknown_detector_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        registry.UnknownDetectorError, match=r"no detector named 'magic'; installed: (\w+, )*gaussian, "
    ):
        registry.get("magic")


class _Mean(PerTarget):
    """Distance from the mean of one target."""

    density = Density.NONE
    family = "Mean"
    paper = "ours"

    def _fit_one(self, windows: Windows) -> dict[str, Tensor]:
        return {"mean": windows.series[0, windows.touched[0]].mean(0)}

    def _score_one(self, state: dict[str, Tensor], windows: Windows) -> Tensor:
        return (windows.values[0] - state["mean"]).abs().amax(2)

    def _expect_one(self, state: dict[str, Tensor], windows: Windows) -> Expected:
        return Expected(state["mean"].expand(windows.values[0].shape))

    def _sample_one(self, state: dict[str, Tensor], n: int, generator: torch.Generator) -> Tensor:
        return state["mean"] + torch.randn(n, self.config.window, 1, generator=generator)

    def _n_channels(self) -> int:
        return self._state["mean"].shape[1]


def test_a_detector_that_knows_one_target_at_a_time_serves_a_bank() -> None:
    windows = counting(3, 40, 24)
    bank = _Mean().fit(windows)
    assert bank.state()["mean"].flatten().tolist() == [19.5, 119.5, 219.5]
    assert bank.score(windows)[2, 0, :3].tolist() == [19.5, 18.5, 17.5]
    assert bank.expect(windows).mean.shape == windows.values.shape
    assert bank.expect(windows).scale is None
    assert torch.equal(bank.select([1]).sample(2)[0], bank.sample(2)[1])


# -- windows picked out -----------------------------------------------------------------


@pytest.fixture
def picked() -> tuple[Windows, Tensor, PickedWindows]:
    series = torch.arange(60.0).reshape(2, 30, 1)
    series[1, 20] = torch.nan
    windows = Windows.of(series, 4, start=torch.tensor([100, 200]))
    index = torch.tensor([[1, 9, 20], [0, 18, 26]])
    return windows, index, windows.picked(index)


def test_windows_picked_out_keep_values_gaps_and_times(picked: tuple[Windows, Tensor, PickedWindows]) -> None:
    windows, index, few = picked
    rows = torch.arange(2).unsqueeze(1)
    assert few.n_windows == 3
    assert torch.equal(few.values, windows.values[rows, index])
    assert torch.equal(few.mask, windows.mask[rows, index])
    assert torch.equal(few.starts, windows.starts[rows, index])
    assert torch.equal(few.missing_share, windows.missing_share[rows, index])
    assert few.grid[1].tolist() == [200, 201, 202, 203, 218, 219, 220, 221, 226, 227, 228, 229]


def test_windows_picked_out_are_parted_like_others(picked: tuple[Windows, Tensor, PickedWindows]) -> None:
    _, _, few = picked
    for part, rows, columns in (
        (few.span(1, 3), slice(None), slice(1, 3)),
        (few.members(slice(1, 2)), slice(1, 2), slice(None)),
        (few.select([1, 0]), [1, 0], slice(None)),
    ):
        assert torch.equal(part.values, few.values[rows][:, columns])
        assert torch.equal(part.starts, few.starts[rows][:, columns])
        assert torch.equal(part.mask, few.mask[rows][:, columns])


def test_what_is_found_across_seams_of_windows_picked_out_is_left_out(
    picked: tuple[Windows, Tensor, PickedWindows],
) -> None:
    _, _, few = picked
    every = few.series.squeeze(2).unfold(1, 4, 1).sum(2)
    assert torch.equal(few.own(every), few.values.sum(dim=(2, 3)))
    assert torch.equal(few.own(few.starts), few.starts)
    with pytest.raises(ValueError, match=r"one result for each of 3 windows, got 5; work on windows\.values"):
        few.own(torch.zeros(2, 5))


def test_windows_are_drawn_where_in_their_part_they_are_wanted() -> None:
    windows = Windows.of(torch.zeros(1, 43, 1), 4)
    assert windows.drawn(4).tolist() == [[5, 15, 25, 35]]
    assert windows.drawn(4, torch.tensor([0.0, 0.5, 0.95, 0.0])).tolist() == [[0, 15, 29, 30]]
