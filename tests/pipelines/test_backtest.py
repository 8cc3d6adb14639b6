"""A backtest gives the figures of the service's own scores and flags, whatever the series."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_service.errors import InvalidError
from pipelines.measure import metrics
from pipelines.measure.backtest import Candidate, Labelled, Span, run, window_of
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import Mode
from pipelines.records import Json, Points, TargetRow
from pipelines.steps import flag, prepare
from pipelines.steps.line import Calibrated, draw
from pipelines.steps.recipe import Recipe
from pipelines.workers import alone, bank
from pipelines.workers.fit import FitOutcome, FitTarget, FitTask, Fitted, fit_targets

STEP = 300
START = 1_700_000_100
N = 1200
OUTAGE = (900, 911)
"""First and last row of what is planted."""
WINDOW = 8

CURVES = ("vus_pr", "vus_roc", "auc_pr", "auc_roc")
RATES = [
    f"{kind}_{rate}" for kind in ("overlap", "range", "affiliation") for rate in ("precision", "recall", "f1")
]
PROFILES = {"nab_standard": "standard", "nab_low_fp": "low-FP", "nab_low_fn": "low-FN"}


def values(n: int = N, seed: int = 0) -> NDArray[np.float64]:
    """Return noise of 1 around a daily rhythm, with an outage."""
    ts = START + STEP * np.arange(n)
    course = 100 + 10 * np.sin(2 * np.pi * ts / 86_400) + np.random.default_rng(seed).normal(size=n)
    course[OUTAGE[0] : OUTAGE[1] + 1] -= 40
    return course


def planted(seed: int = 0, **given: Any) -> Labelled:
    """Return a series of five-minute rows with a labelled outage."""
    course = values(seed=seed)
    usual: dict[str, Any] = {
        "dataset": "made",
        "series": f"s{seed}",
        "ts": START + STEP * np.arange(N, dtype=np.int64),
        "values": course[:, np.newaxis],
        "truth": (span(*OUTAGE),),
        "step_seconds": STEP,
    }
    return Labelled(**(usual | given))


def span(first: int, last: int) -> Span:
    """Return rows of a regular series as a stretch of time."""
    return START + STEP * first, START + STEP * last


def candidate(detector: str = "robust_z", alarms: float = 1.0, **given: Any) -> Candidate:
    usual = {"params": {"window": WINDOW}, "season": "daily", "threshold": Threshold(alarms_per_week=alarms)}
    return Candidate(detector, MonitorSpec("m", {}, detector=detector, **(usual | given)))


def fit(labelled: Labelled, spec: MonitorSpec, stop: int) -> Fitted:
    """Fit a series as the jobs do, by hand."""
    target = TargetRow(7, 7, "by hand", (7,), STEP, "UTC", 0)
    points = (Points(labelled.ts, labelled.values[:, 0]),)
    asked = FitTarget(target, points, int(labelled.ts[0]), stop, keep_unseen=True)
    (fitted,) = fit_targets(FitTask(spec, (asked,))).fitted
    return fitted


def labels(rows: int, *marked: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a label for every row, True between pairs of rows."""
    out = np.zeros(rows, dtype=bool)
    for first, last in marked:
        out[first : last + 1] = True
    return out


def curves(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, float]:
    surface = metrics.vus(truth, scores, metrics.buffer_of(len(truth)))
    return {
        "vus_pr": surface.pr,
        "vus_roc": surface.roc,
        "auc_pr": metrics.auc_pr(truth, scores),
        "auc_roc": metrics.auc_roc(truth, scores),
    }


# -- the figures --------------------------------------------------------------------


def test_a_planted_outage_is_found() -> None:
    row = run(planted(), candidate()).row
    assert (row["overlap_tp"], row["overlap_fn"], row["overlap_f1"]) == (1, 0, 1.0)
    assert row["vus_pr"] > 0.9
    assert (row["found_live"], row["delay_steps_median"]) == (1, 0.0)
    assert row["share_flagged"] == pytest.approx(12 / N, rel=0.2)


def test_random_scores_find_nothing() -> None:
    row = run(planted(), candidate("random")).row
    assert row["vus_pr"] < 0.1
    assert row["baseline"]


@pytest.mark.parametrize("detector", ["robust_z", "gaussian"])
def test_unsupervised_scores_are_those_of_models_that_did_not_see_their_block(detector: str) -> None:
    labelled, asked = planted(), candidate(detector)
    row = run(labelled, asked).row
    unseen = fit(labelled, asked.spec, int(labelled.ts[-1]) + 1).unseen
    assert unseen is not None
    assert unseen.ts.tolist() == labelled.ts.tolist()
    for end, scores in (("", unseen.settled), ("_live", unseen.live)):
        known = ~np.isnan(scores)
        scores = np.where(known, scores, scores[known].min())
        wanted = curves(labels(N, OUTAGE), scores)
        assert {name: row[f"{name}{end}"] for name in CURVES} == pytest.approx(wanted, abs=1e-12)
    assert row["share_scored"] == np.isfinite(unseen.settled).mean()


@pytest.mark.parametrize(("detector", "alarms"), [("robust_z", 1.0), ("gaussian", 20.0), ("random", 20.0)])
def test_figures_of_intervals_are_those_of_steps_above_a_line_drawn_by_hand(
    detector: str, alarms: float
) -> None:
    labelled = planted(truth=(span(*OUTAGE), span(300, 310)))
    asked = candidate(detector, alarms)
    row = run(labelled, asked).row
    fitted = fit(labelled, asked.spec, int(labelled.ts[-1]) + 1)
    assert fitted.unseen is not None
    truth = np.array([(300, 310), OUTAGE])
    recipe = Recipe.from_json(fitted.recipe)
    points = (Points(labelled.ts, labelled.values[:, 0]),)
    own = prepare.odd_steps(prepare.apply(recipe, points, START, int(labelled.ts[-1]) + 1).values)
    for mode, end in ((Mode.SETTLED, ""), (Mode.LIVE, "_live")):
        body = fitted.calibrations[mode]
        line = draw([body], Threshold(alarms_per_week=alarms, per="series"))
        scores = getattr(fitted.unseen, f"own_{mode}")
        flagged = Calibrated.of(body, line).anomaly_score(scores) >= 1
        found = np.stack(flag.shape_bounds(flagged, asked.spec.policy, STEP, own), axis=1).astype(np.int64)
        assert {name: row[f"{name}{end}"] for name in (*RATES, *PROFILES)} == pytest.approx(
            by_hand(truth, found)
        )
        counts = metrics.overlap(truth, found)
        assert [row[f"overlap_{name}{end}"] for name in ("tp", "fp", "fn")] == [
            counts.tp,
            counts.fp,
            counts.fn,
        ]
        assert row[f"share_flagged{end}"] == metrics.share_flagged(found, N)
        assert (row[f"flagged{end}"], row[f"alarms{end}"]) == (len(found), counts.fp)
        weeks = (N - 23) * STEP / (7 * 86_400)
        assert row[f"alarms_per_week{end}"] == pytest.approx(counts.fp / weeks)
    late = metrics.delays(truth, labels(N, *found.tolist()))
    assert row["found_live"] == np.isfinite(late).sum()
    if row["found_live"]:
        assert row["delay_steps_median"] == np.nanmedian(late)
        assert row["delay_steps_mean"] == np.nanmean(late)
    assert row["alarms_asked_per_week"] == alarms


def by_hand(truth: metrics.Segments, found: metrics.Segments) -> dict[str, float]:
    out = {}
    counts = metrics.overlap(truth, found)
    for kind, rates in (
        ("overlap", counts),
        ("range", metrics.range_based(truth, found)),
        ("affiliation", metrics.affiliation(truth, found, N)),
    ):
        out |= {f"{kind}_{name}": getattr(rates, name) for name in ("precision", "recall", "f1")}
    return out | {name: metrics.nab(truth, found, N, profile).score for name, profile in PROFILES.items()}


def test_a_row_has_every_figure_live_and_settled() -> None:
    row = run(planted(), candidate()).row
    both = (*CURVES, *RATES, *PROFILES, "share_flagged", "alarms", "alarms_per_week", "flagged")
    once = (
        "dataset", "series", "detector", "baseline", "split", "window", "channels", "step_seconds", "why",
        "rows", "labels", "share_labelled", "share_scored", "unlabelled_weeks", "alarms_asked_per_week",
        "found_live", "delay_steps_median", "delay_steps_mean", "fit_seconds", "calibrate_seconds",
        "score_seconds",
    )  # fmt: skip
    assert {*both, *(f"{name}_live" for name in both), *once} <= set(row)
    assert (row["dataset"], row["series"], row["detector"]) == ("made", "s0", "robust_z")
    assert (row["rows"], row["labels"], row["share_labelled"]) == (N, 1, 12 / N)
    assert row["fit_seconds"] > 0
    assert row["score_seconds"] > 0


# -- the training split -------------------------------------------------------------

CUT = 700
"""Row of the series at which its training part ends."""
SPLIT = START + STEP * CUT


def test_the_rows_behind_the_training_part_are_scored_by_one_model_of_that_part() -> None:
    labelled, asked = planted(train_until=SPLIT), candidate("gaussian")
    row = run(labelled, asked, "train").row
    fitted = fit(labelled, asked.spec, SPLIT + 1)
    points = (Points(labelled.ts, labelled.values[:, 0]),)
    recipe = Recipe.from_json(fitted.recipe)
    whole = prepare.apply(recipe, points, START, int(labelled.ts[-1]) + 1)
    models = bank.unpack(*bank.config_of("gaussian", {"window": WINDOW}), [fitted.weights])
    windows = bank.windows_of([whole], WINDOW, [recipe.index(START)])
    live, settled = (scores[0].numpy()[CUT + 1 :] for scores in bank.score_steps(models, windows))
    truth = labels(N, OUTAGE)[CUT + 1 :]
    assert (row["rows"], row["split"]) == (N - CUT - 1, "train")
    for end, scores in (("", settled), ("_live", live)):
        assert {name: row[f"{name}{end}"] for name in CURVES} == pytest.approx(
            curves(truth, scores), abs=1e-6
        )


def test_what_comes_after_the_training_part_does_not_change_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fits: list[Fitted] = []

    def recorded(task: FitTask) -> FitOutcome:
        outcome = fit_targets(task)
        fits.extend(outcome.fitted)
        return outcome

    monkeypatch.setattr(alone, "fit_targets", recorded)
    labelled = planted(train_until=SPLIT)
    for changed in (0.0, 1000.0):
        later = labelled.values.copy()
        later[CUT + 1 :] += changed
        run(replace(labelled, values=later), candidate("gaussian"), "train")
    one, other = fits
    assert (one.recipe, one.weights, one.calibrations) == (other.recipe, other.weights, other.calibrations)
    assert one.stop == SPLIT + 1


def test_labels_in_the_training_part_do_not_count() -> None:
    early = planted(train_until=SPLIT, truth=(span(100, 110), span(*OUTAGE)))
    late = planted(train_until=SPLIT)
    assert judged(run(early, candidate(), "train").row) == judged(run(late, candidate(), "train").row)
    none = run(replace(late, truth=(span(100, 110),)), candidate(), "train").row
    assert (none["labels"], none["vus_pr"], none["overlap_f1"]) == (0, None, None)


def judged(row: Json) -> Json:
    """Return a row without what differs from run to run."""
    return {name: value for name, value in row.items() if not name.endswith("_seconds")}


def test_a_series_without_training_rows_cannot_be_split() -> None:
    with pytest.raises(InvalidError, match=r"names no training rows .* --split unsupervised"):
        run(planted(), candidate(), "train")


def test_an_unknown_split_is_told_with_those_there_are() -> None:
    with pytest.raises(InvalidError, match="no split 'half'; there are: unsupervised, train"):
        run(planted(), candidate(), "half")


def test_a_series_that_is_all_training_rows_is_refused() -> None:
    with pytest.raises(InvalidError, match="no row is left to judge: all are training rows"):
        run(planted(train_until=START + STEP * N), candidate(), "train")


def test_rows_nearest_to_a_step_of_the_training_part_have_no_score() -> None:
    labelled = planted()
    ts = labelled.ts.copy()
    ts[-1] -= STEP - 1  # a second after the row before it
    row = run(replace(labelled, ts=ts, train_until=int(ts[-2])), candidate(), "train").row
    assert (row["rows"], row["share_scored"], row["flagged"]) == (1, 0.0, 0)


# -- odd series ---------------------------------------------------------------------


def test_rows_without_a_score_get_the_lowest_of_the_series() -> None:
    labelled = planted()
    course = labelled.values.copy()
    course[[*range(905, 907), *range(100, 140)]] = np.nan
    holes = replace(labelled, values=course)
    row = run(holes, candidate()).row
    fitted = fit(
        replace(labelled, ts=labelled.ts[~np.isnan(course[:, 0])], values=course[~np.isnan(course[:, 0])]),
        candidate().spec,
        int(labelled.ts[-1]) + 1,
    )
    assert fitted.unseen is not None
    score = dict(zip(fitted.unseen.ts.tolist(), fitted.unseen.settled.tolist(), strict=True))
    scores = np.array([score[at] for at in labelled.ts.tolist()])
    assert np.isnan(scores[[906, 120]]).all()
    filled = np.where(np.isnan(scores), np.nanmin(scores), scores)
    assert {name: row[name] for name in CURVES} == pytest.approx(curves(labels(N, OUTAGE), filled))
    assert row["share_scored"] == pytest.approx(1 - 42 / N)
    assert row["rows"] == N


def test_of_rows_that_share_a_time_the_last_value_counts_and_each_is_judged() -> None:
    labelled = planted()
    twice = np.sort(np.append(np.arange(N), [50, 905, 905]))
    course = labelled.values[twice]
    course[50] = course[906] = course[907] = 1e6  # before the last of their time
    doubled = replace(labelled, ts=labelled.ts[twice], values=course)
    once, row = run(labelled, candidate()).row, run(doubled, candidate()).row
    assert (row["rows"], row["labels"]) == (N + 3, 1)
    assert row["share_labelled"] == pytest.approx(14 / (N + 3))
    assert row["share_flagged"] * (N + 3) == pytest.approx(once["share_flagged"] * N + 2)
    assert row["overlap_f1"] == 1.0


def test_rows_that_are_not_there_are_not_judged() -> None:
    labelled = planted()
    kept = np.r_[0:300, 400:N]
    row = run(replace(labelled, ts=labelled.ts[kept], values=labelled.values[kept]), candidate()).row
    assert (row["rows"], row["share_scored"]) == (N - 100, 1.0)
    assert row["unlabelled_weeks"] == pytest.approx((N - 112) * STEP / (7 * 86_400))
    assert (row["overlap_tp"], row["overlap_fp"]) == (1, 0)


def test_a_gap_never_counts_as_flagged() -> None:
    labelled = planted()
    course = labelled.values.copy()
    course[300:400] = np.nan
    tested = run(replace(labelled, values=course), candidate())
    assert tested.course.flagged.tolist() == run(labelled, candidate()).course.flagged.tolist()
    assert tested.row["flagged"] == 1


def test_of_several_channels_any_may_show_it() -> None:
    rng = np.random.default_rng(3)
    course = np.stack([values(seed=1), rng.normal(50, 1, N), rng.normal(20, 1, N)], axis=1)
    course[OUTAGE[0] : OUTAGE[1] + 1, 0] += 40
    course[OUTAGE[0] : OUTAGE[1] + 1, 2] += 25
    tested = run(planted(values=course), candidate("gaussian"))
    assert (tested.row["channels"], tested.row["overlap_f1"]) == (3, 1.0)
    of_a_monitor = candidate("gaussian")
    pair = replace(of_a_monitor, spec=replace(of_a_monitor.spec, channels=("ccu", "logins")))
    assert run(planted(values=course), pair).row["overlap_f1"] == 1.0
    assert tested.course.channel == 2
    assert tested.course.y.tolist() == course[:, 2].tolist()


@pytest.mark.parametrize("n", [3, 40])
def test_a_series_that_is_too_short_says_why_and_has_the_figures_of_a_constant_score(n: int) -> None:
    short = planted(
        ts=START + STEP * np.arange(n, dtype=np.int64), values=values()[:n, np.newaxis], truth=(span(1, 1),)
    )
    row = run(short, candidate()).row
    assert "8 windows of 8 need 64" in row["why"]
    assert {name: row[name] for name in CURVES} == curves(labels(n, (1, 1)), np.zeros(n))
    assert (row["flagged"], row["overlap_recall"], row["alarms"]) == (0, 0.0, 0)
    assert (row["share_scored"], row["fit_seconds"], row["delay_steps_median"]) == (0.0, 0.0, None)


def test_a_series_that_never_moves_has_figures() -> None:
    row = run(planted(values=np.full((N, 1), 5.0)), candidate("gaussian")).row
    assert row["why"] == ""
    assert row["auc_roc"] == 0.5


def test_a_series_without_a_value_says_why() -> None:
    tested = run(planted(values=np.full((N, 1), np.nan)), candidate())
    assert tested.row["why"]
    assert np.isnan(tested.course.low).all()


def test_a_series_without_labels_has_no_figure_that_needs_some() -> None:
    row = run(planted(truth=()), candidate(alarms=5.0)).row
    for name in (*CURVES, *RATES, *PROFILES, "delay_steps_median", "delay_steps_mean"):
        assert row[name] is None, name
    assert row["alarms_per_week"] == pytest.approx(row["alarms"] / row["unlabelled_weeks"])
    assert row["alarms"] == row["flagged"] >= 1
    assert row["share_flagged"] > 0


def test_a_series_that_is_all_one_label_has_no_curves_and_no_weeks_without() -> None:
    row = run(planted(truth=(span(0, N - 1),)), candidate()).row
    assert (row["auc_pr"], row["vus_roc"], row["alarms_per_week"]) == (None, None, None)
    assert row["overlap_f1"] == 1.0


def test_labels_that_overlap_are_one() -> None:
    parts = planted(truth=(span(905, 911), span(900, 907), span(902, 904)))
    assert judged(run(parts, candidate()).row) == judged(run(planted(), candidate()).row)


@pytest.mark.parametrize(
    "labelled",
    [
        planted(),
        planted(truth=()),
        planted(values=np.full((N, 1), np.nan)),
        planted(values=np.where(np.arange(N)[:, None] % 9 == 1, np.finfo(float).max, values()[:, None])),
        planted(truth=(span(0, N - 1),)),
    ],
    ids=["usual", "no labels", "no values", "largest doubles", "all labelled"],
)
def test_a_row_is_json(labelled: Labelled) -> None:
    row = run(labelled, candidate()).row
    assert json.loads(json.dumps(row, allow_nan=False)) == row


# -- what nobody has judged ---------------------------------------------------------


def test_unsure_rows_count_neither_way() -> None:
    labelled, asked = planted(truth=(span(300, 310),)), candidate()
    unsure = replace(labelled, unsure=(span(890, 929),))
    row = run(unsure, asked).row
    assert (row["rows"], row["alarms"], row["flagged"]) == (N - 40, 0, 0)
    assert run(labelled, asked).row["alarms"] == 1
    unseen = fit(labelled, asked.spec, int(labelled.ts[-1]) + 1).unseen
    assert unseen is not None
    kept = np.r_[0:890, 930:N]
    wanted = curves(labels(N, (300, 310))[kept], unseen.settled[kept])
    assert {name: row[name] for name in CURVES} == pytest.approx(wanted)


def test_a_label_counts_where_something_else_is_unsure() -> None:
    row = run(planted(unsure=(span(890, 929),)), candidate()).row
    assert (row["rows"], row["labels"], row["overlap_f1"]) == (N - 28, 1, 1.0)


def test_a_series_of_which_nothing_is_judged_is_refused() -> None:
    with pytest.raises(InvalidError, match="in stretches that nobody judged"):
        run(planted(truth=(), unsure=(span(0, N),)), candidate())


# -- alarms and delay ---------------------------------------------------------------


def stuck() -> Labelled:
    """Return seven weeks of hours, in one of which the value stands still for forty."""
    ts = START + 3600 * np.arange(N, dtype=np.int64)
    course = np.random.default_rng(0).normal(100, 1, (N, 1))
    course[300:340] = course[300]
    return planted(ts=ts, values=course, truth=((int(ts[300]), int(ts[339])),), step_seconds=3600)


def test_flat_stretches_are_flagged_but_no_alarms_of_the_budget() -> None:
    row = run(replace(stuck(), truth=()), candidate(alarms=0.01)).row
    assert (row["flagged"], row["flagged_live"]) == (1, 1)
    assert (row["alarms"], row["alarms_live"]) == (0, 0)


def test_a_flat_stretch_is_late_by_the_steps_it_takes_to_be_one() -> None:
    row = run(stuck(), candidate(alarms=0.01)).row
    assert (row["overlap_tp_live"], row["range_recall_live"]) == (1, 1.0)
    assert row["delay_steps_median"] == flag.flat_limit(1) - 1 == 7


def test_a_budget_that_cannot_be_held_is_halved_until_it_can() -> None:
    row = run(planted(), candidate(alarms=1e6)).row
    assert row["alarms_asked_per_week"] == 1e6
    assert 0 < row["share_flagged"] <= 0.5


def test_a_threshold_without_a_budget_asks_for_no_alarms() -> None:
    spec = replace(candidate().spec, threshold=Threshold(method="sigma", value=6.0))
    row = run(planted(), Candidate("six sigma", spec)).row
    assert (row["detector"], row["alarms_asked_per_week"], row["overlap_f1"]) == ("six sigma", None, 1.0)


def test_a_budget_is_one_for_each_series_whatever_the_monitor_shares() -> None:
    spec = replace(candidate().spec, scope="group", threshold=Threshold(alarms_per_week=3.0, per="monitor"))
    own = Candidate("m", spec).on(planted())
    assert (own.scope, own.threshold) == ("series", Threshold(alarms_per_week=3.0, per="series"))


def test_windows_are_as_long_as_the_buffer_where_none_is_named() -> None:
    bare = Candidate("m", MonitorSpec("m", {}))
    assert bare.on(planted()).params["window"] == window_of(N, 1) == 100
    assert candidate().on(planted()).params["window"] == WINDOW


def test_a_row_midway_between_two_steps_is_flagged_with_the_later_one() -> None:
    labelled = planted()
    half = np.sort(np.append(labelled.ts, labelled.ts[[OUTAGE[0] - 1, OUTAGE[1]]] + STEP // 2))
    course = np.interp(half, labelled.ts, labelled.values[:, 0])
    tested = run(replace(labelled, ts=half, values=course[:, np.newaxis]), candidate())
    ((first, last),) = tested.course.flagged.tolist()
    assert half[first] == labelled.ts[OUTAGE[0]] - STEP // 2
    assert half[last] == labelled.ts[OUTAGE[1]]


# -- what there is to plot ----------------------------------------------------------


def test_a_course_shows_the_band_of_what_is_usual_and_what_was_flagged() -> None:
    course = run(planted(), candidate()).course
    usual = np.r_[0 : OUTAGE[0], OUTAGE[1] + 1 : N]
    inside = (course.low < course.y) & (course.y < course.high)
    assert inside[usual].mean() > 0.98
    assert not inside[OUTAGE[0] : OUTAGE[1] + 1].any()
    assert course.truth.tolist() == [list(OUTAGE)]
    assert course.score[OUTAGE[0] : OUTAGE[1] + 1].max() > 1 > np.median(course.score)
    assert metrics.overlap(course.truth, course.flagged).tp == 1
    assert metrics.overlap(course.truth, course.flagged_live).tp == 1


def test_the_largest_doubles_can_be_plotted() -> None:
    course = values()[:, np.newaxis]
    course[[100, 500], 0] = np.finfo(float).max * np.array([1, -1])
    assert np.ptp(run(planted(values=course), candidate()).course.y) == 2 * prepare.HUGE


def test_a_course_of_a_split_shows_the_training_part_without_scores() -> None:
    course = run(planted(train_until=SPLIT), candidate(), "train").course
    assert len(course.y) == N
    assert np.isnan(course.score[: CUT + 1]).all()
    assert np.isfinite(course.score[CUT + 1 :]).all()
