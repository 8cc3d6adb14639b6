"""Figures of many series are pooled as the metrics ask for, and differences come with how sure they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.measure import metrics
from pipelines.measure.backtest import NAB
from pipelines.measure.metrics import Nab
from pipelines.measure.scoreboard import MEANS, difference, mean, summarise
from pipelines.records import Json


def row(series: str, **given: Any) -> Json:
    """Return a row of a backtest that found nothing in an unlabelled series of 1000 rows."""
    usual: Json = {
        "dataset": "d",
        "series": series,
        "detector": "kde",
        "baseline": False,
        "split": "unsupervised",
        "why": "",
        "rows": 1000,
        "labels": 0,
        "alarms_asked_per_week": 1.0,
        "unlabelled_weeks": 2.0,
        "delay_steps_median": None,
        "fit_seconds": 0.0,
        "calibrate_seconds": 0.0,
        "score_seconds": 0.0,
        **dict.fromkeys(MEANS),
    }
    for end in ("", "_live"):
        usual |= {f"overlap_{name}{end}": 0 for name in ("tp", "fp", "fn")}
        usual |= {f"{name}_{part}{end}": 0.0 for name in NAB for part in ("raw", "perfect")}
        usual |= {f"alarms{end}": 0, f"share_flagged{end}": 0.0}
    return usual | given


def only(*rows: Json) -> Json:
    (summary,) = summarise(rows)
    return summary


@pytest.mark.parametrize("end", ["", "_live"])
def test_counts_are_summed_before_anything_is_divided(end: str) -> None:
    names = ("tp", "fp", "fn")
    counts = [(1, 0, 0), (1, 8, 3)]
    found = only(
        *(
            row(str(k), **{f"overlap_{name}{end}": n for name, n in zip(names, each, strict=True)})
            for k, each in enumerate(counts)
        )
    )
    assert found[f"overlap_precision{end}"] == 2 / 10
    assert found[f"overlap_recall{end}"] == 2 / 5
    assert found[f"overlap_f1{end}"] == pytest.approx(2 * 0.2 * 0.4 / 0.6)


@pytest.mark.parametrize("end", ["", "_live"])
@pytest.mark.parametrize("name", NAB)
def test_the_nab_score_of_a_corpus_is_that_of_what_was_earned_in_all(name: str, end: str) -> None:
    whole, rows = Nab(), []
    for k, (truth, found) in enumerate(
        [
            ([[300, 399], [600, 650]], [[320, 330], [800, 803]]),
            ([[500, 560]], [[200, 210], [505, 508]]),
            ([], [[700, 720]]),
        ]
    ):
        earned = metrics.nab(segments(truth), segments(found), 1000, NAB[name])
        whole += earned
        rows.append(row(str(k), **{f"{name}_raw{end}": earned.raw, f"{name}_perfect{end}": earned.perfect}))
    assert only(*rows)[f"{name}{end}"] == pytest.approx(whole.score)


def segments(pairs: list[list[int]]) -> metrics.Segments:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def test_a_corpus_without_labels_has_no_nab_score() -> None:
    assert only(row("a"))["nab_standard"] is None


@pytest.mark.parametrize("name", MEANS)
def test_figures_of_scores_are_means_over_the_labelled_series(name: str) -> None:
    found = only(row("a", **{name: 0.2}), row("b", **{name: 0.6}), row("c"))
    assert found[name] == pytest.approx(0.4)
    assert only(row("c"))[name] is None


def test_alarms_are_counted_over_all_weeks_without_labels() -> None:
    found = only(row("a", alarms=3, unlabelled_weeks=1.0, alarms_live=1), row("b", unlabelled_weeks=5.0))
    assert (found["alarms_per_week"], found["alarms_per_week_live"]) == (0.5, pytest.approx(1 / 6))
    assert (found["unlabelled_weeks"], found["alarms_asked_per_week"]) == (6.0, 1.0)
    assert only(row("a", unlabelled_weeks=0.0))["alarms_per_week"] is None


def test_the_share_flagged_is_one_of_all_rows() -> None:
    found = only(row("a", rows=100, share_flagged=0.5), row("b", rows=900, share_flagged=0.0))
    assert found["share_flagged"] == pytest.approx(0.05)
    assert found["rows"] == 1000


def test_series_are_counted_with_and_without_labels_and_models() -> None:
    found = only(row("a", labels=2), row("b"), row("c", why="too short"))
    assert (found["series"], found["labelled"], found["not_fitted"]) == (3, 1, 1)


def test_seconds_are_per_ten_thousand_rows_and_memory_is_the_most() -> None:
    found = only(
        row("a", rows=15_000, fit_seconds=1.0, peak_mib=300.0),
        row("b", rows=5_000, fit_seconds=3.0, score_seconds=0.5, peak_mib=400.0),
    )
    assert (found["fit_seconds_per_10k"], found["score_seconds_per_10k"]) == (2.0, 0.25)
    assert found["peak_mib"] == 400.0
    assert only(row("a"))["peak_mib"] is None


def test_the_delay_is_the_middle_one_of_the_series_that_have_one() -> None:
    delays = (1.0, 2.0, 90.0, None)
    assert (
        only(*(row(str(k), delay_steps_median=d) for k, d in enumerate(delays)))["delay_steps_median"] == 2.0
    )


def test_data_sets_and_detectors_stand_in_the_order_they_come_in() -> None:
    rows = [row("a", detector=d, dataset=s) for s in ("y", "x") for d in ("vae", "kde")]
    found = summarise([*rows, row("b", detector="vae", dataset="y", baseline=False)])
    assert [(each["dataset"], each["detector"]) for each in found] == [
        ("y", "vae"),
        ("y", "kde"),
        ("x", "vae"),
        ("x", "kde"),
    ]
    assert [each["series"] for each in found] == [2, 1, 1, 1]


def test_the_mean_of_nothing_known_is_unknown() -> None:
    assert mean([None, 1.0, 2.0]) == 1.5
    assert mean([None]) is None


# -- differences --------------------------------------------------------------------


def figures(seed: int, shift: float = 0.0, n: int = 60) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {f"s{k}": float(v) for k, v in enumerate(rng.normal(0.5 + shift, 0.05, n))}


def test_a_difference_covers_a_known_shift_and_not_none() -> None:
    found = difference(figures(1, shift=0.1), figures(2))
    assert found is not None
    assert found.low < 0.1 < found.high
    assert found.low > 0
    assert found.low < found.mean < found.high
    assert found.n_series == 60


def test_an_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    covers = 0
    for seed in range(200):
        found = difference(figures(2 * seed, shift=0.02, n=30), figures(2 * seed + 1, n=30))
        assert found is not None
        covers += found.low <= 0.02 <= found.high
    # A bootstrap of thirty is a little narrow: 93 % is what it holds.
    assert 178 <= covers <= 197


def test_a_difference_is_the_same_every_time_and_turns_its_sign() -> None:
    ours, theirs = figures(1, shift=0.1), figures(2)
    one, again, turned = difference(ours, theirs), difference(ours, theirs), difference(theirs, ours)
    assert one == again
    assert one is not None
    assert turned is not None
    assert turned.mean == pytest.approx(-one.mean)


def test_only_series_that_both_have_are_compared() -> None:
    found = difference({"a": 0.5, "b": 0.7, "c": 9.0}, {"a": 0.4, "b": 0.5, "d": 9.0})
    assert found is not None
    assert (found.n_series, found.mean) == (2, pytest.approx(0.15))
    assert difference({"a": 0.5}, {"b": 0.5}) is None
