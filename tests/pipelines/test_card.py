"""Model cards: what they tell of windows that no model saw, and which models they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors import registry
from detectors.base import Detector, Expected
from detectors.gaussian import GaussianDetector
from detectors.robust_z import RobustZDetector
from detectors.windows import Windows
from pipelines.monitor import MonitorSpec
from pipelines.records import Points, TargetRow
from pipelines.workers import card
from pipelines.workers.card import Trial
from pipelines.workers.fit import FitTarget, FitTask, Fitted, fit_targets

WINDOW = 12
BLOCK = 96
STEPS = 40 * BLOCK
HOUR = 3600


def course(seed: int, keep: float = 0.6, n: int = STEPS) -> Tensor:
    """A process of unit variance whose steps keep a share of the one before, ``(1, n, 1)``."""
    noise = np.random.default_rng(seed).standard_normal(n)
    for t in range(1, n):
        noise[t] = keep * noise[t - 1] + math.sqrt(1 - keep**2) * noise[t]
    return torch.from_numpy(noise).to(torch.float32).view(1, -1, 1)


def trial(series: Tensor, cls: type[Detector] = GaussianDetector, **given: Any) -> Trial:
    """A bank of a detector, cross-fitted, beside plain Gaussians."""
    windows = Windows.of(series, WINDOW)
    fold = (torch.arange(windows.n_points) // BLOCK % cls.folds).expand(windows.n_targets, -1)
    config = cls.Config(window=WINDOW)
    plain = GaussianDetector(GaussianDetector.Config(window=WINDOW)).cross_fit(windows, fold)
    return Trial(
        whole=cls(config).fit(windows),
        blind=cls(config).cross_fit(windows, fold),
        plain=None if cls.baseline else plain,
        windows=windows,
        block=BLOCK,
        **given,
    )


# -- figures ----------------------------------------------------------------------------


def test_a_model_of_the_right_family_knows_new_windows_as_well_as_can_be() -> None:
    (found,) = card.judge(trial(course(1)))
    figures = found.figures
    # The first step of a window is known as well as any, the others but for their innovation.
    innovation = 0.5 * math.log(2 * math.pi * math.e * (1 - 0.6**2))
    whole = (0.5 * math.log(2 * math.pi * math.e) + (WINDOW - 1) * innovation) / WINDOW
    assert figures["nll"] == pytest.approx(whole, abs=0.08)
    assert figures["nll"] == figures["nll_gaussian"]
    # Of half a window: the further from what is seen, the less is known.
    ahead = 1 - 0.6 ** (2 * np.arange(1, WINDOW - WINDOW // 2 + 1))
    assert figures["rmse"] == pytest.approx(np.sqrt(ahead.mean()), abs=0.12)
    assert figures["sample_variance"] == pytest.approx(1.0, abs=0.15)
    assert figures["held_out_windows"] == card.DRAWN // 5 * 5
    assert figures["latent_size"] == WINDOW
    assert figures["c2st_low"] < 0 < figures["c2st_high"]
    assert abs(figures["c2st_auc_training"] - 0.5) < 0.15
    assert not found.broken


def test_samples_of_a_model_that_knows_no_order_are_told_from_real_windows() -> None:
    (found,) = card.judge(trial(course(2), RobustZDetector))
    assert found.figures["c2st_auc"] > 0.85
    assert found.figures["c2st_low"] > 0.15
    assert found.figures["latent_size"] is None
    assert "nll_gaussian" not in found.figures


def test_every_window_is_held_out_and_lies_a_window_from_those_of_other_blocks() -> None:
    drawn = card._draw(trial(course(3)))
    index, fold = drawn.index[0], drawn.fold
    assert torch.equal(index // BLOCK % 5, fold)
    start = index.sort().values
    block = start // BLOCK
    gap = (start.diff() - WINDOW)[block.diff() > 0]
    assert (gap >= WINDOW).all()
    assert (((index + WINDOW - 1) // BLOCK) == index // BLOCK).all()


def test_windows_drawn_do_not_keep_step_with_a_season() -> None:
    drawn = card._draw(trial(course(3)))
    index = drawn.index[0][drawn.fold == 2]
    apart = index.diff()[(index // BLOCK).diff() == 0]
    assert int(apart.max() - apart.min()) > WINDOW // 2


def test_a_window_is_answered_by_the_bank_that_did_not_see_it() -> None:
    made = trial(course(4))
    before = card.judge(made)[0].figures
    assert card.judge(replace(made, blind=[made.whole] * 5))[0].figures["nll"] < before["nll"]
    swapped = replace(made, blind=[*made.blind[1:], made.blind[0]])
    assert card.judge(swapped)[0].figures["nll"] < before["nll"]


def test_a_series_shorter_than_the_others_is_judged_by_its_own_windows() -> None:
    long, short = course(5), course(6)
    short[:, STEPS // 2 :] = torch.nan
    made = trial(torch.cat([long, short]))
    made = replace(made, windows=made.windows.weighted((made.windows.missing_share == 0).float()))
    both = card.judge(made)
    for row, found in enumerate(both):
        assert found.figures["nll"] == pytest.approx(1.2, abs=0.2), row
        assert not found.broken


def test_a_bank_is_judged_alike_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trial(torch.cat([course(seed) for seed in (7, 8, 9)]))
    whole = card.judge(made)
    monkeypatch.setattr(card, "MEMBERS", 2)
    for one, other in zip(card.judge(made), whole, strict=True):
        assert one.figures.keys() == other.figures.keys()
        # Samples are others: their noise is drawn for all members at once.
        for name in ("nll", "nll_gaussian", "rmse", "held_out_windows", "c2st_auc_training"):
            assert one.figures[name] == pytest.approx(other.figures[name], abs=0.1)


def test_incidents_in_the_past_move_no_figure_much() -> None:
    quiet = course(10)
    loud = quiet.clone()
    loud[:, 500:520] = 80.0
    one, other = (card.judge(trial(series))[0] for series in (quiet, loud))
    assert other.figures["nll"] == pytest.approx(one.figures["nll"], abs=0.1)
    assert other.figures["sample_variance"] == pytest.approx(one.figures["sample_variance"], abs=0.25)
    assert not other.broken


def test_gaps_everywhere_leave_likelihood_and_expectation_but_no_comparison() -> None:
    series = course(11)
    series[:, ::5] = torch.nan
    (found,) = card.judge(trial(series))
    assert found.figures["nll"] is not None
    assert "c2st_auc" not in found.figures
    assert not found.broken


def test_blocks_too_short_for_a_gap_are_not_compared() -> None:
    made = trial(course(12, n=200))
    (found,) = card.judge(replace(made, block=WINDOW + 2))
    assert "c2st_auc" not in found.figures
    # One window of each block of 14 steps, however many were asked for.
    assert found.figures["held_out_windows"] == 14


# -- verdict ----------------------------------------------------------------------------


class Silent(GaussianDetector):
    """Always draws the same window."""

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return super()._sample(1, generator).mul(0.1).expand(-1, n, -1, -1)


class Lost(GaussianDetector):
    """Expects what has nothing to do with the window."""

    def _expect(self, windows: Windows) -> Expected:
        return Expected(torch.full_like(windows.values, 2.5))


class Sure(GaussianDetector):
    """Takes everything it has not seen for impossible."""

    def log_prob(self, windows: Windows) -> Tensor:
        return super().log_prob(windows) - 0.8 * WINDOW


class Numberless(GaussianDetector):
    """Draws what is not a number."""

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return super()._sample(n, generator) * torch.nan


class Speechless(GaussianDetector):
    """Has no number for the density of a window."""

    def log_prob(self, windows: Windows) -> Tensor:
        return super().log_prob(windows) * torch.nan


class Edgy(GaussianDetector):
    """Has windows outside of its support."""

    def log_prob(self, windows: Windows) -> Tensor:
        found = super().log_prob(windows)
        return torch.where(found < found.quantile(0.8), -torch.inf, found)


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (Silent, "its samples have"),
        (Lost, "what it expects is"),
        (Sure, "it is 0.8 nats a value worse than a Gaussian on windows neither has seen"),
        (Numberless, "it says what is not a number"),
        (Speechless, "it says what is not a number"),
    ],
)
def test_a_broken_model_is_refused_with_the_reason(cls: type[Detector], why: str) -> None:
    (found,) = card.judge(trial(course(13, keep=0.0), cls))
    assert len(found.broken) == 1
    assert found.broken[0].startswith(why)


def test_weights_that_are_no_numbers_are_refused() -> None:
    made = trial(torch.cat([course(14), course(15)]))
    state = made.whole.state()
    # One that no sample needs.
    (name, *_) = [name for name in state if name not in ("mean", "covariance")]
    state[name] = state[name].clone()
    state[name][1] = torch.inf
    made = replace(made, whole=GaussianDetector.load(made.whole.config, state))
    good, bad = card.judge(made)
    assert not good.broken
    assert bad.broken == ("it says what is not a number",)


def test_windows_outside_the_support_of_a_kernel_leave_the_likelihood_out() -> None:
    (found,) = card.judge(trial(course(16), Edgy))
    assert found.figures["nll"] is None
    assert not found.broken


def test_a_baseline_is_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Silent, Lost, Numberless):
        monkeypatch.setattr(cls, "baseline", True)
        (found,) = card.judge(trial(course(17), cls))
        assert not found.broken
        assert found.figures["held_out_windows"] > 0


def test_a_group_is_judged_together() -> None:
    class LostOnOne(GaussianDetector):
        def _expect(self, windows: Windows) -> Expected:
            mean = super()._expect(windows).mean.clone()
            mean[0] = 2.5
            return Expected(mean)

    series = torch.cat([course(seed) for seed in (18, 19, 20)])
    assert [bool(found.broken) for found in card.judge(trial(series, LostOnOne))] == [True, False, False]
    assert not any(found.broken for found in card.judge(trial(series, LostOnOne, shared=True)))
    assert all(found.broken for found in card.judge(trial(series, Lost, shared=True)))


@pytest.mark.parametrize("series", [torch.zeros(1, STEPS, 1), torch.full((1, STEPS, 1), torch.nan)])
def test_a_series_that_does_not_move_is_not_refused(series: Tensor) -> None:
    (found,) = card.judge(trial(series, Silent))
    assert not found.broken
    assert found.figures["sample_variance"] is None


# -- from a fit -------------------------------------------------------------------------


def fitted(
    detector: str, values: np.ndarray, *, steps: int = 100, window: int = WINDOW, **given: Any
) -> Fitted:
    ts = np.arange(len(values), dtype=np.int64) * HOUR
    target = TargetRow(1, 1, "t", (1,), HOUR, "UTC", 0)
    asked = FitTarget(target, (Points(ts, values),), 0, len(values) * HOUR)
    known = registry.get(detector).Config.__dataclass_fields__
    brief = {name: value for name, value in {"steps": steps, "batch": 32}.items() if name in known}
    spec = MonitorSpec("m", {}, detector=detector, params={"window": window, **brief, **given})
    (found,) = fit_targets(FitTask(spec, (asked,))).fitted
    return found


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("detector", registry.names())
def test_no_detector_in_order_is_refused(detector: str, smooth: bool) -> None:
    """Smooth noise is told by the steps around it, and by a network's few codes it is not."""
    hours = np.arange(24 * 42)
    noise = course(21, n=len(hours)).flatten().numpy()
    if smooth:
        noise = np.convolve(
            np.random.default_rng(21).standard_normal(len(hours) + 3), np.full(4, 0.5), "valid"
        )
    day = 100 + 20 * np.sin(2 * np.pi * hours / 24)
    given: dict[str, Any] = {"steps": 50, "window": 2 * WINDOW if smooth else WINDOW}
    if detector == "tadgan":
        # At its own rate, or over longer windows, it has hardly begun to spread its samples by then.
        given = {"steps": 60, "rate": 2e-3}
    found = fitted(detector, day + 3 * noise, **given)
    assert found.status == "accepted", found.broken
    assert found.card["broken"] == []
    assert found.card["rmse"] > 0
    if not smooth:
        difference = found.card["c2st_auc"] - found.card["c2st_auc_training"]
        assert found.card["c2st_difference"] == pytest.approx(difference, abs=1e-3)


@pytest.mark.parametrize(
    "values",
    [
        np.full(24 * 42, 5.0),
        np.random.default_rng(22).poisson(0.05, 24 * 42).astype(float),
        np.random.default_rng(23).standard_t(1.5, 24 * 42),
        np.random.default_rng(24).standard_normal(100).cumsum(),
        np.random.default_rng(25).standard_normal(24 * 42).cumsum(),
    ],
    ids=["constant", "rare counts", "heavy tails", "tiny", "random walk"],
)
@pytest.mark.parametrize("detector", ["gaussian", "kde", "flow", "vae"])
def test_an_odd_series_is_no_reason_to_refuse_its_model(detector: str, values: np.ndarray) -> None:
    assert fitted(detector, values).broken == ()


def test_a_network_that_learned_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = registry.get("vae")
    monkeypatch.setattr(cls, "_sample", lambda self, n, generator: torch.zeros(self.n_targets, n, WINDOW, 1))
    found = fitted("vae", 3 * np.random.default_rng(26).standard_normal(24 * 42))
    assert found.status == "candidate"
    assert found.card["broken"] == ["its samples have 0 of the real windows' variance"]


def test_a_kernel_of_finite_support_is_judged_without_its_likelihood() -> None:
    found = fitted("kde", 3 * np.random.default_rng(27).standard_normal(24 * 21), kernel="tophat")
    assert found.status == "accepted"


def test_a_card_tells_what_share_of_the_history_was_left_out() -> None:
    noise = np.random.default_rng(28).standard_normal(24 * 21)
    assert fitted("gaussian", noise, trim=0.1).card["trim"] == 0.1
    assert "trim" not in fitted("robust_z", noise).card
