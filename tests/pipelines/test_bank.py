"""Between prepared series and detectors: padding, spreading, packing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anomaly_service.errors import InvalidError
from detectors.base import Detector
from pipelines.steps.recipe import ChannelRecipe
from pipelines.workers import bank


@dataclass
class Steps:
    values: NDArray[np.float32]
    missing: NDArray[np.bool_]

    @property
    def regime(self) -> NDArray[np.uint8]:
        return np.arange(len(self.values)).astype(np.uint8)


def steps(rng: np.random.Generator, n: int, channels: int = 1) -> Steps:
    values = rng.normal(size=(n, channels)).astype(np.float32)
    return Steps(values, np.zeros((n, channels), dtype=bool))


def test_every_step_brings_its_regime_and_padding_has_the_first(rng: np.random.Generator) -> None:
    windows = bank.windows_of([steps(rng, 6), steps(rng, 4)], 4, [0, 5])
    assert windows.regimes.tolist() == [[3, 4, 5], [3, 0, 0]]


def test_channels_taken_apart_keep_the_regimes_of_their_target(rng: np.random.Generator) -> None:
    windows = bank.apart(bank.windows_of([steps(rng, 6, channels=2), steps(rng, 4, channels=2)], 4, [0, 5]))
    assert windows.regimes.tolist() == [[3, 4, 5], [3, 4, 5], [3, 0, 0], [3, 0, 0]]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def fitted(rows: list[Steps], window: int, detector: str = "gaussian") -> tuple[Detector, bank.Windows]:
    cls, config = bank.config_of(detector, {"window": window})
    windows = bank.windows_of(rows, window, [0] * len(rows))
    return cls(config).fit(windows), windows


def test_padding_has_no_weight_and_no_value(rng: np.random.Generator) -> None:
    windows = bank.windows_of([steps(rng, 10), steps(rng, 6)], 4, [0, 5])
    assert windows.weight[1].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert windows.missing[1, 6:].all()
    assert windows.start.tolist() == [0, 5]


def test_a_row_scores_the_same_beside_a_longer_one(rng: np.random.Generator) -> None:
    rows = [steps(rng, 200), steps(rng, 120)]
    models, windows = fitted(rows, 8)
    live, settled = bank.score_steps(models, windows)
    alone = bank.windows_of([rows[1]], 8, [0])
    live_alone, settled_alone = bank.score_steps(models.select([1]), alone)
    torch.testing.assert_close(live[1, :120], live_alone[0], rtol=1e-4, atol=1e-5, equal_nan=True)
    # The last steps of a padded row are covered by windows that reach into the padding.
    torch.testing.assert_close(settled[1, :112], settled_alone[0, :112], rtol=1e-4, atol=1e-5)


def test_settled_is_the_mean_over_covering_windows_and_live_the_window_that_ends_there(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, windows = fitted([steps(rng, 40)], 5)
    scores = models.score(windows)[0].numpy()
    monkeypatch.setattr(bank, "CHUNK_VALUES", 35)
    live, settled = bank.score_steps(models, windows)
    for t in range(40):
        covering = [scores[j, t - j] for j in range(36) if 0 <= t - j < 5]
        assert settled[0, t].item() == pytest.approx(np.mean(covering), rel=1e-5)
        if t >= 4:
            assert live[0, t].item() == pytest.approx(scores[t - 4, 4], rel=1e-6)
    assert torch.isnan(live[0, :4]).all()


def test_every_step_is_scored_by_the_bank_that_did_not_see_it(rng: np.random.Generator) -> None:
    row = steps(rng, 400)
    cls, config = bank.config_of("gaussian", {"window": 8})
    fold = (torch.arange(400) // 40) % cls.folds
    windows = bank.windows_of([row], 8, [0])
    before = bank.score_unseen(cls(config).cross_fit(windows, fold[None]), windows, fold)[0]
    other = Steps(row.values.copy(), row.missing)
    other.values[80:120] += 30.0
    changed = bank.windows_of([other], 8, [0])
    after = bank.score_unseen(cls(config).cross_fit(changed, fold[None]), changed, fold)[0]
    # Fold 2 is what changed: its inside scores higher by the model that never saw it, as if alone.
    assert (after[0, 90:120] > before[0, 90:120]).all()
    blind = cls(config).fit(windows.without((fold == 2)[None]))
    expected = bank.score_steps(blind, changed)[0]
    torch.testing.assert_close(after[0, 80:120], expected[0, 80:120], rtol=1e-3, atol=1e-4)


def test_what_is_expected_of_a_step_is_the_mean_over_the_windows_that_cover_it(
    rng: np.random.Generator,
) -> None:
    detector, windows = fitted([steps(rng, 40)], window=4)
    hidden = torch.zeros(1, 40, dtype=torch.bool)
    hidden[:, 10:14] = True
    found = bank.expected_steps(detector, windows, hidden)
    each = detector.expect(windows.hidden(hidden))
    assert each.scale is not None
    assert found.scale is not None
    for told, of_windows in ((found.mean, each.mean), (found.scale, each.scale)):
        for step in (0, 2, 11, 39):
            covering = range(max(0, step - 3), min(step, 36) + 1)
            mean = torch.stack([of_windows[0, w, step - w] for w in covering]).mean(0)
            torch.testing.assert_close(told[0, step], mean)


def test_members_are_packed_alone_and_unpacked_together(rng: np.random.Generator) -> None:
    models, windows = fitted([steps(rng, 100), steps(rng, 100), steps(rng, 100)], 6)
    packed = [bank.pack(models, [row]) for row in range(3)]
    cls, config = bank.config_of("gaussian", {"window": 6})
    again = bank.unpack(cls, config, [packed[2], packed[0]])
    torch.testing.assert_close(again.score(windows.select([2, 0])), models.score(windows)[[2, 0]])


def test_an_unknown_parameter_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"no setting 'windw'; did you mean 'window'"):
        bank.config_of("gaussian", {"windw": 3})


def test_a_setting_of_another_type_is_refused_as_what_a_person_wrote() -> None:
    with pytest.raises(InvalidError, match="window must be at least 1 step, got 0"):
        bank.config_of("gaussian", {"window": 0})
    with pytest.raises(InvalidError, match=r"refused by gaussian: .*'str' and 'int'"):
        bank.config_of("gaussian", {"window": "long"})


@pytest.mark.parametrize("gaps", [False, True])
def test_one_score_for_all_steps_of_a_window_spreads_as_any_other(gaps: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    if gaps:
        own[0, 5:14] = torch.nan
    shared = own.unsqueeze(2).expand(-1, -1, 7)
    quick, slow = (bank.Spread(2, 36, 7) for _ in range(2))
    for first in (0, 12):
        part = slice(first, first + (12 if first == 0 else 18))
        quick.add(first, shared[:, part])
        slow.add(first, shared[:, part].clone(memory_format=torch.contiguous_format))
    torch.testing.assert_close(quick.settled, slow.settled, equal_nan=True)
    torch.testing.assert_close(quick.live, slow.live, equal_nan=True)
    assert torch.isnan(quick.settled).any() == gaps


def test_channels_apart_come_together_by_their_length_and_no_channel_drowns_the_others() -> None:
    scores = torch.tensor([[3.0, -2.0, 1e6, torch.nan], [4.0, 5.0, 1.0, torch.nan], [0.0, 7.0, 1.0, 1.0]])
    joined = bank.together(scores[:2], np.ones((1, 2)))
    loudest = (bank.LOUDEST**2 + 1) ** 0.5
    torch.testing.assert_close(joined, torch.tensor([[5.0, 5.0, loudest, torch.nan]]), equal_nan=True)


def test_what_a_channel_counts_is_its_own_in_every_target() -> None:
    scores = torch.tensor([[3.0], [4.0], [3.0], [4.0]])
    joined = bank.together(scores, np.array([[1.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(joined, torch.tensor([[5.0], [3.0]]))


def test_a_switch_counts_little_and_one_that_never_turned_in_full() -> None:
    kinds = [ChannelRecipe(kinds=n) for n in (0, 1, 2, 3)]
    assert bank.votes_of(kinds) == [1.0, 1.0, bank.SWITCH_VOTE, 1.0]
