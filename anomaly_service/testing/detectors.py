"""What every detector owes, as checks that run over a class: ``check_detector``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, cached_property

import torch
from safetensors.torch import load, save
from torch import Tensor

from anomaly_service.testing.contract import Check, Contract, refused
from detectors.base import Density, Detector, Encodes, HasLogProb
from detectors.errors import NotFittedError
from detectors.stacked import NetworkConfig
from detectors.windows import Windows
from pipelines.workers import twosample

CONTRACT = Contract("detector")


def check_detector(cls: type[Detector], on_check: Callable[[Check], None] | None = None) -> None:
    """Hold a detector's class to everything that every detector owes; seconds, or a minute for a network.

    Args:
        cls: the class, whose Config works with its defaults; it need not be installed.
        on_check: told before each check, such as ``print``.

    Raises:
        AssertionError: it breaks a promise; all that it breaks stand in the message.
        TypeError: it is no class of detectors.
    """
    if not (isinstance(cls, type) and issubclass(cls, Detector)):
        raise TypeError(f"expected a class that derives from detectors.base.Detector, got {cls!r}")
    CONTRACT.hold(Held(cls), on_check)


WINDOW = 24
POINTS = 1200
BANK = 2
HOUR = 12
"""Steps of an hour, at a step of five minutes."""
RHYTHM = 12
"""Steps after which normal data repeat themselves, but for noise."""


def series(n_targets: int, n_points: int, seed: int) -> Tensor:
    """Normal data: a rhythm with correlated noise about it, unit scale, one channel."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_targets, n_points, generator=generator)
    for t in range(1, n_points):
        noise[:, t] += 0.5 * noise[:, t - 1]
    phase = torch.arange(n_targets).unsqueeze(1) + torch.arange(n_points) * (2 * math.pi / RHYTHM)
    return (1.2 * phase.sin() + 0.5 * noise).unsqueeze(2)


def configured(cls: type[Detector], window: int = WINDOW, *, steps: int = 200, seed: int = 0) -> Detector:
    """An unfitted detector; networks train briefly, on small batches."""
    known = {field.name for field in fields(cls.Config)}
    brief = {name: value for name, value in {"steps": steps, "batch": 32}.items() if name in known}
    return cls(cls.Config(window=window, seed=seed, **brief))


@dataclass(eq=False)
class Held:
    """A detector's class that is held to the contract, and what checks share: made once, when asked for."""

    cls: type[Detector]

    def __str__(self) -> str:
        return self.cls.__name__

    @property
    def normal(self) -> Windows:
        return _normal()

    @property
    def unseen(self) -> Windows:
        return _unseen()

    @property
    def small(self) -> Windows:
        return _small()

    @property
    def processes(self) -> list[Tensor]:
        return _processes()

    @cached_property
    def fitted(self) -> Detector:
        return configured(self.cls).fit(self.normal)

    @cached_property
    def briefly(self) -> Detector:
        return configured(self.cls, steps=8).fit(self.small)

    @cached_property
    def generated(self) -> list[Tensor]:
        """Samples for each process that it was fitted on."""
        # A game of networks takes seconds for 200 steps; member by member, for 40, and is told either way.
        in_a_bank = issubclass(self.cls.Config, NetworkConfig)
        steps = 200 if self.cls.density is not Density.IMPLICIT else 100 if in_a_bank else 40
        learned = [Windows.of(series[:, :LEARNED], WINDOW) for series in self.processes]
        fitted = [configured(self.cls, steps=steps).fit(windows) for windows in learned]
        return [detector.sample(400) for detector in fitted]


@cache
def _normal() -> Windows:
    return Windows.of(series(BANK, POINTS, seed=1), WINDOW)


@cache
def _unseen() -> Windows:
    return Windows.of(series(BANK, POINTS, seed=2), WINDOW, start=torch.full((BANK,), RHYTHM * 10**5))


@cache
def _small() -> Windows:
    return Windows.of(series(2, 400, seed=3), WINDOW)


@cache
def _processes() -> list[Tensor]:
    return [process(LEARNED + 400 * APART) for process in (_autoregression, _sines)]


def settled(detector: Detector, windows: Windows) -> Tensor:
    """Mean score of every step over the windows that cover it, ``(n_targets, n_points)``."""
    return averaged(detector.score(windows), windows.n_points)


def averaged(per_window: Tensor, n_points: int) -> Tensor:
    n_targets, n_windows, window = per_window.shape
    total, count = torch.zeros(n_targets, n_points), torch.zeros(n_points)
    for k in range(window):
        total[:, k : k + n_windows] += per_window[:, :, k]
        count[k : k + n_windows] += 1
    return total / count


def changed(windows: Windows, first: int, stop: int, change: Callable[[Tensor], Tensor]) -> Windows:
    """The windows with another stretch of values."""
    values = windows.series.clone()
    values[:, first:stop] = change(values[:, first:stop])
    return Windows.of(values, windows.window, start=windows.start)


# -- settings --------------------------------------------------------------------------


@CONTRACT.promise()
def settings_are_taken_as_keywords_or_as_a_config(cls: type[Detector]) -> None:
    by_keyword = cls(window=48, seed=3)
    assert by_keyword.config == cls.Config(window=48, seed=3) == cls.configured(by_keyword.settings)
    assert cls().config == cls.Config()
    with refused(TypeError, "got both; put seed into the Config"):
        cls(cls.Config(), seed=3)


@CONTRACT.promise()
def a_setting_that_does_not_exist_is_refused_with_the_nearest_that_does(cls: type[Detector]) -> None:
    with refused(TypeError, rf"{cls.__name__} has no setting 'windw'; did you mean 'window'\? it"):
        cls(windw=24)
    with refused(ValueError, "window must be at least 1 step"):
        cls(window=0)


@CONTRACT.promise()
def a_repr_shows_the_settings_and_whether_it_is_fitted(cls: type[Detector], briefly: Detector) -> None:
    assert repr(cls(window=48, seed=7)) == f"<{cls.__name__}(window=48, seed=7), not fitted>"
    assert repr(briefly).startswith(f"<{cls.__name__}(window=24")
    assert repr(briefly).endswith("), fitted to 2 targets>")
    assert repr(briefly.select([0])).endswith("), fitted to 1 target>")


# -- score -----------------------------------------------------------------------------


@CONTRACT.promise()
def a_score_has_one_finite_number_per_step(fitted: Detector, unseen: Windows) -> None:
    scores = fitted.score(unseen)
    assert scores.shape == (BANK, unseen.n_windows, WINDOW)
    assert scores.isfinite().all()


@CONTRACT.promise()
def a_score_is_finite_however_far_off_the_values_are(fitted: Detector, unseen: Windows) -> None:
    absurd = changed(unseen, 600, 640, lambda x: x * 1e30)
    assert fitted.score(absurd).isfinite().all()


def _louder(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return x + 1.5 * torch.randn(x.shape, generator=generator)


def _shuffled(x: Tensor) -> Tensor:
    """The same values in an odd order: level and variance stay."""
    return x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(5))]


ANOMALIES: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "spike": (2, lambda x: x + 7.0),
    "level": (8 * HOUR, lambda x: x + 2.5),
    "variance": (4 * HOUR, _louder),
    "shape": (8 * HOUR, _shuffled),
}


@CONTRACT.promise(kind={kind: kind for kind in ANOMALIES})
def an_anomaly_outscores_normal_steps(fitted: Detector, unseen: Windows, kind: str) -> None:
    if kind in fitted.blind_to:
        return
    length, change = ANOMALIES[kind]
    planted = changed(unseen, 600, 600 + length, change)
    usual = settled(fitted, unseen).quantile(0.995, dim=1)
    peak = settled(fitted, planted)[:, 600 : 600 + length].amax(1)
    assert (peak > usual).all(), f"{kind}: peaks {peak.tolist()} against {usual.tolist()}"


@CONTRACT.promise()
def a_spike_outscores_normal_steps_at_once(fitted: Detector, unseen: Windows) -> None:
    if "spike" in fitted.blind_to:
        return
    planted = changed(unseen, 600, 602, lambda x: x + 7.0)
    live = fitted.score(planted)[:, 600 - WINDOW + 1, -1]
    usual = fitted.score(unseen)[:, :, -1].quantile(0.995, dim=1)
    assert (live > usual).all(), f"{live.tolist()} against {usual.tolist()}"


@CONTRACT.promise()
def a_generative_family_is_blind_to_at_most_one_kind(cls: type[Detector]) -> None:
    assert cls.blind_to <= set(ANOMALIES)
    assert cls.baseline or len(cls.blind_to) <= 1


@CONTRACT.promise()
def the_docstring_says_to_what_a_detector_is_blind_and_why(cls: type[Detector]) -> None:
    told = re.search(r"Blind to ([^:]+): (.+)", cls.__doc__ or "")
    assert cls.blind_to == (set(re.findall(r"\w+", told[1])) & set(ANOMALIES) if told else set())


@CONTRACT.promise()
def missing_steps_up_to_a_quarter_of_a_window_leave_it_a_score(fitted: Detector, unseen: Windows) -> None:
    hide = torch.zeros(BANK, POINTS, dtype=torch.bool)
    hide[:, 600 : 600 + WINDOW // 4] = True
    assert fitted.score(unseen.hidden(hide)).isfinite().all()
    hide[:, 600 : 600 + WINDOW // 2] = True
    scores = fitted.score(unseen.hidden(hide))
    assert scores[:, 600 - WINDOW // 4].isnan().all()
    assert scores[:, :550].isfinite().all()


@CONTRACT.promise()
def what_stands_at_a_missing_step_does_not_matter(fitted: Detector, unseen: Windows) -> None:
    hide = torch.zeros(BANK, POINTS, dtype=torch.bool)
    hide[:, 600:604] = True
    other = changed(unseen, 600, 604, lambda x: x + 50)
    torch.testing.assert_close(fitted.score(unseen.hidden(hide)), fitted.score(other.hidden(hide)))


# -- what a score may depend on ---------------------------------------------------------


@CONTRACT.promise()
def a_score_does_not_depend_on_the_other_members_of_the_bank(fitted: Detector, unseen: Windows) -> None:
    together = fitted.score(unseen)
    for rows in ([1], [1, 0]):
        apart = fitted.select(rows).score(unseen.select(rows))
        torch.testing.assert_close(apart, together[rows], rtol=1e-4, atol=1e-4)


@CONTRACT.promise()
def a_member_fitted_alone_is_the_member_fitted_in_a_bank(briefly: Detector, small: Windows) -> None:
    alone = type(briefly)(briefly.config).fit(small.select([1]))
    torch.testing.assert_close(
        alone.score(small.select([1])), briefly.score(small)[[1]], rtol=1e-3, atol=1e-3
    )


@CONTRACT.promise()
def a_score_does_not_depend_on_the_slice_it_is_computed_in(fitted: Detector, unseen: Windows) -> None:
    whole = fitted.score(unseen)
    for first, stop in ((0, 1), (500, 700), (unseen.n_windows - 3, unseen.n_windows)):
        part = fitted.score(unseen.span(first, stop))
        torch.testing.assert_close(part, whole[:, first:stop], rtol=1e-4, atol=1e-4)


@CONTRACT.promise()
def equal_seeds_give_equal_scores(briefly: Detector, small: Windows) -> None:
    again = type(briefly)(briefly.config).fit(small)
    torch.testing.assert_close(again.score(small), briefly.score(small), rtol=1e-5, atol=1e-5)
    assert torch.equal(again.sample(3), briefly.sample(3))


@CONTRACT.promise()
def the_input_stays_as_it_was(briefly: Detector, small: Windows) -> None:
    windows = Windows.of(small.series.clone(), WINDOW)
    windows.missing[:, 100:103] = True
    before = [windows.series.clone(), windows.missing.clone(), windows.weight.clone()]
    again = type(briefly)(briefly.config).fit(windows)
    again.score(windows)
    again.expect(windows)
    for tensor, copy in zip((windows.series, windows.missing, windows.weight), before, strict=True):
        assert torch.equal(tensor, copy)


# -- state ------------------------------------------------------------------------------


@CONTRACT.promise()
def a_bank_taken_apart_and_put_together_again_keeps_every_score(fitted: Detector, unseen: Windows) -> None:
    banks = []
    for row in (1, 0):
        packed = save({k: v.contiguous() for k, v in fitted.select([row]).state().items()})
        banks.append(type(fitted).load(fitted.config, load(packed)))
    stacked = type(fitted).stack(banks).select([1, 0])
    torch.testing.assert_close(stacked.score(unseen), fitted.score(unseen), rtol=1e-4, atol=1e-4)


@CONTRACT.promise()
def banks_of_different_configurations_are_not_stacked(briefly: Detector, cls: type[Detector]) -> None:
    other = cls.load(configured(cls, seed=9).config, briefly.state())
    with refused(ValueError, "different configurations cannot be stacked"):
        cls.stack([briefly, other])


# -- cross-fit --------------------------------------------------------------------------


@CONTRACT.promise()
def a_cross_fitted_bank_ignores_its_own_fold(cls: type[Detector], small: Windows) -> None:
    detector = configured(cls, steps=8)
    fold = ((torch.arange(small.n_points) // 40) % cls.folds).expand(small.n_targets, -1)
    banks = detector.cross_fit(small, fold)
    assert len(banks) == cls.folds
    held = (fold[0] == 1).view(1, -1, 1)
    other = Windows.of(torch.where(held, small.series * -3 + 5, small.series), WINDOW)
    again = detector.cross_fit(other, fold)
    torch.testing.assert_close(_said(again[1], small), _said(banks[1], small), rtol=1e-4, atol=1e-4)
    with refused(AssertionError, ""):  # A bank that does not ignore them says something else.
        torch.testing.assert_close(_said(again[0], small), _said(banks[0], small), rtol=1e-4, atol=1e-4)


def _said(detector: Detector, windows: Windows) -> tuple[Tensor, Tensor]:
    return detector.score(windows), detector.expect(windows).mean


# -- expect -----------------------------------------------------------------------------


@CONTRACT.promise(hours={"2 hours": 2, "12 hours": 12})
def a_lasting_drop_lies_below_what_was_expected(fitted: Detector, unseen: Windows, hours: int) -> None:
    """A drop of 10 % where the noise is 4 % of the level: 2.5 prepared units."""
    first, stop = 600, 600 + hours * HOUR
    dropped = changed(unseen, first, stop, lambda x: x - 2.5)
    hide = torch.zeros(BANK, POINTS, dtype=torch.bool)
    hide[:, first - WINDOW : stop + WINDOW] = True
    around = dropped.hidden(hide).span(first - 2 * WINDOW, stop + WINDOW)
    mean = averaged(fitted.expect(around).mean.squeeze(3), around.n_points)
    below = dropped.series[:, first:stop, 0] < mean[:, 2 * WINDOW : 2 * WINDOW + stop - first]
    assert (below.float().mean(1) >= 0.8).all(), below.float().mean(1).tolist()


@CONTRACT.promise()
def what_is_expected_has_a_mean_and_perhaps_a_scale_for_every_step(fitted: Detector, unseen: Windows) -> None:
    few = unseen.span(0, 50)
    expected = fitted.expect(few)
    assert expected.mean.shape == few.values.shape
    assert expected.mean.isfinite().all()
    if expected.scale is not None:
        assert expected.scale.shape == few.values.shape
        assert (expected.scale > 0).all()


# -- generation, density, representation ------------------------------------------------


@CONTRACT.promise()
def samples_look_like_windows(fitted: Detector, normal: Windows) -> None:
    samples = fitted.sample(400)
    assert samples.shape == (BANK, 400, WINDOW, 1)
    assert samples.isfinite().all()
    for member in range(BANK):
        drawn, real = samples[member], normal.values[member]
        assert abs(drawn.mean() - real.mean()) < 0.35
        assert 0.6 < drawn.std() / real.std() < 1.5


@CONTRACT.promise()
def samples_of_a_member_do_not_depend_on_its_neighbours(fitted: Detector) -> None:
    """Its card is judged by them."""
    together = fitted.sample(20)
    for member in range(BANK):
        alone = fitted.select([member]).sample(20)[0]
        torch.testing.assert_close(alone, together[member], rtol=1e-4, atol=1e-4)


def _autoregression(n_points: int) -> Tensor:
    """Steps that keep .8 of the one before, of unit variance."""
    generator = torch.Generator().manual_seed(13)
    x = torch.randn(1, n_points, generator=generator)
    for t in range(1, n_points):
        x[:, t] += 0.8 * x[:, t - 1]
    return 0.6 * x.unsqueeze(2)


def _sines(n_points: int) -> Tensor:
    """Two waves whose periods have nothing in common, in noise."""
    generator = torch.Generator().manual_seed(14)
    phase, t = 6.3 * torch.rand(1, 2, generator=generator), torch.arange(n_points)
    waves = 0.7 * (t * 0.52 + phase[:, :1]).sin() + 0.5 * (t * 0.86 + phase[:, 1:]).sin()
    return (waves + 0.8 * torch.randn(1, n_points, generator=generator)).unsqueeze(2)


LEARNED = 4000
"""Points of a process that a detector is fitted on; what follows is new to it."""
APART = WINDOW + 5
"""Steps between windows that are compared: no multiple of a period, or all would be of one phase."""


def _new_windows(series: Tensor) -> Tensor:
    return series[:, LEARNED:].unfold(1, WINDOW, APART).transpose(2, 3)


@CONTRACT.promise()
def samples_are_not_told_from_new_windows_or_it_is_known_by_what(
    cls: type[Detector], processes: list[Tensor], generated: list[Tensor]
) -> None:
    """A flaw that is named is there, so that its name goes when it goes."""
    if cls.baseline:
        return
    areas = [
        float(twosample.told_apart(_new_windows(series), samples))
        for series, samples in zip(processes, generated, strict=True)
    ]
    assert (max(areas) <= 0.65) == (cls.sample_flaw == ""), f"{areas}, {cls.sample_flaw!r}"


@CONTRACT.promise()
def samples_are_told_from_windows_of_another_process(
    processes: list[Tensor], generated: list[Tensor]
) -> None:
    for series, samples in zip(processes[::-1], generated, strict=True):
        assert (twosample.told_apart(_new_windows(series), samples) >= 0.9).all()


@CONTRACT.promise()
def a_tractable_density_is_there_to_be_asked(fitted: Detector, unseen: Windows) -> None:
    if fitted.density is Density.TRACTABLE:
        assert isinstance(fitted, HasLogProb)
    if isinstance(fitted, HasLogProb):
        log_prob = fitted.log_prob(unseen)
        assert log_prob.shape == (BANK, unseen.n_windows)
        assert log_prob.isfinite().all()


@CONTRACT.promise(window={"a step": 1, "two steps": 2})
def a_tractable_density_integrates_to_one(cls: type[Detector], window: int) -> None:
    if cls.density is not Density.TRACTABLE:
        assert cls.density in set(Density)
        return
    detector = configured(cls, window).fit(Windows.of(series(2, 400, seed=6), window))
    assert isinstance(detector, HasLogProb)
    axis = torch.linspace(-9, 9, 1001 if window == 1 else 151)
    grid = torch.cartesian_prod(*[axis] * window).view(-1, window)
    laid = Windows.of(grid.reshape(1, -1, 1).repeat(2, 1, 1), window, start=torch.full((2,), 10**7))
    density = detector.log_prob(laid)[:, ::window].exp()
    total = density.to(torch.float64).sum(1) * float(axis[1] - axis[0]) ** window
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=1e-2, atol=1e-2)


@CONTRACT.promise()
def a_latent_is_finite(fitted: Detector, unseen: Windows) -> None:
    if isinstance(fitted, Encodes):
        latent = fitted.encode(unseen.span(0, 50))
        assert latent.shape[:2] == (BANK, 50)
        assert latent.isfinite().all()


@CONTRACT.promise()
def windows_picked_out_are_answered_as_in_their_place(briefly: Detector, small: Windows) -> None:
    hide = torch.zeros(small.n_targets, small.n_points, dtype=torch.bool)
    hide[:, 205:208] = True
    index = torch.tensor([[0, 40, 77, 200, 300], [3, 5, 9, 204, 375]])
    for windows in (small, small.hidden(hide)):
        picked = windows.picked(index)
        rows = torch.arange(small.n_targets).unsqueeze(1)
        asked: dict[str, Callable[[Windows], Tensor]] = {"expect": lambda each: briefly.expect(each).mean}
        if isinstance(briefly, HasLogProb):
            asked["log_prob"] = briefly.log_prob
        if isinstance(briefly, Encodes):
            asked["encode"] = briefly.encode
        for ask in asked.values():
            torch.testing.assert_close(
                picked.own(ask(picked)), ask(windows)[rows, index], rtol=1e-3, atol=1e-3
            )


@CONTRACT.promise()
def a_detector_says_what_it_is(cls: type[Detector]) -> None:
    assert cls.density in set(Density)
    assert cls.family
    assert cls.paper
    assert "Departures" in (cls.__doc__ or "")


# -- hostile input ----------------------------------------------------------------------


@CONTRACT.promise(
    values={
        "zero": torch.zeros(2, 300, 1),
        "constant": torch.full((2, 300, 1), 3.0),
        "all missing": torch.full((2, 300, 1), math.nan),
    }
)
def a_series_without_noise_survives(cls: type[Detector], values: Tensor) -> None:
    windows = Windows.of(values, WINDOW)
    detector = configured(cls, steps=5).fit(windows)
    probe = Windows.of(series(2, 100, seed=7), WINDOW)
    assert detector.score(probe).isfinite().all()
    assert detector.expect(probe).mean.isfinite().all()
    assert detector.sample(3).isfinite().all()


@CONTRACT.promise(absurd={"1e4": 1e4, "1e30": 1e30})
def training_data_with_an_absurd_value_survive(cls: type[Detector], small: Windows, absurd: float) -> None:
    spoiled = changed(small, 200, 201, lambda x: x * 0 + absurd)
    detector = configured(cls, steps=8).fit(spoiled)
    assert detector.score(small).isfinite().all()
    assert detector.score(spoiled).isfinite().all()


@CONTRACT.promise(points={"a window": WINDOW, "three more": WINDOW + 3})
def a_tiny_series_survives(cls: type[Detector], points: int) -> None:
    detector = configured(cls, steps=5).fit(Windows.of(series(2, points, seed=8), WINDOW))
    assert detector.score(Windows.of(series(2, 100, seed=9), WINDOW)).isfinite().all()


@CONTRACT.promise()
def a_member_without_training_windows_does_not_spoil_the_others(cls: type[Detector], small: Windows) -> None:
    weight = small.weight.clone()
    weight[1] = 0
    detector = configured(cls, steps=8).fit(small.weighted(weight))
    scores = detector.score(small)
    assert scores.isfinite().all()
    whole = configured(cls, steps=8).fit(small).score(small)
    torch.testing.assert_close(scores[[0]], whole[[0]], rtol=1e-3, atol=1e-3)


@CONTRACT.promise()
def several_channels_are_scored_together(cls: type[Detector]) -> None:
    two = torch.cat([series(2, 400, seed=10), series(2, 400, seed=11)], dim=2)
    detector = configured(cls, steps=8).fit(Windows.of(two, WINDOW))
    assert detector.score(Windows.of(two, WINDOW)).shape == (2, 400 - WINDOW + 1, WINDOW)
    assert detector.sample(5).shape == (2, 5, WINDOW, 2)
    with refused(ValueError, r"windows of 2 channels, got 1; score the channels"):
        detector.score(Windows.of(two[:, :, :1], WINDOW))


@CONTRACT.promise()
def a_channel_that_is_missing_leaves_the_others_a_score(cls: type[Detector]) -> None:
    both = torch.cat([series(2, 400, seed=10), series(2, 400, seed=11)], dim=2)
    detector = configured(cls, steps=8).fit(Windows.of(both, WINDOW))
    both[0, :, 1] = torch.nan
    calm = detector.score(Windows.of(both, WINDOW))
    assert calm.isfinite().all()
    assert calm[0].max() <= 3 * calm[1].max()
    if "spike" not in cls.blind_to:
        both[0, 200, 0] += 12
        assert detector.score(Windows.of(both, WINDOW))[0].max() > 1.2 * calm[0].max()


@CONTRACT.promise()
def an_unfitted_detector_says_how_to_fit_it(cls: type[Detector], small: Windows) -> None:
    detector = configured(cls)
    for use in (detector.score, detector.expect):
        with refused(NotFittedError, r"not fitted; call fit\(windows\) or load"):
            use(small)
    with refused(NotFittedError, "not fitted"):
        detector.sample(1)
    with refused(NotFittedError, "not fitted"):
        detector.state()


@CONTRACT.promise()
def windows_of_another_length_are_refused(briefly: Detector, small: Windows) -> None:
    longer = Windows.of(small.series, WINDOW + 1)
    for use in (briefly.score, type(briefly)(briefly.config).fit):
        with refused(ValueError, r"expected windows of 24 steps, got 25; .*same Config.window"):
            use(longer)


@CONTRACT.promise()
def windows_of_another_number_of_targets_are_refused(briefly: Detector, small: Windows) -> None:
    with refused(ValueError, r"expected windows of 2 targets, got 1; use select"):
        briefly.score(small.select([0]))
