"""What the figures of many series come to: a row per data set and detector, and who is better by how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.measure import metrics
from pipelines.measure.backtest import NAB
from pipelines.measure.metrics import Counts, Nab
from pipelines.records import Json

MEANS = (
    "vus_pr",
    "vus_roc",
    "auc_pr",
    "auc_roc",
    "range_f1",
    "affiliation_precision",
    "affiliation_recall",
    "affiliation_f1",
    "vus_pr_live",
    "auc_pr_live",
)
"""Figures that are averaged over the labelled series."""

DRAWS = 10_000
"""Bootstrap samples of a difference."""


def summarise(rows: Sequence[Json]) -> list[Json]:
    """Return a row for every data set and detector, in the order in which they first appear.

    Counts are summed over series before anything is divided; figures of scores are means over the
    labelled series.
    """
    groups: dict[tuple[str, str], list[Json]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["detector"]), []).append(row)
    return [_summary(dataset, detector, own) for (dataset, detector), own in groups.items()]


def _summary(dataset: str, detector: str, rows: Sequence[Json]) -> Json:
    points = sum(row["rows"] for row in rows)
    return {
        "dataset": dataset,
        "detector": detector,
        "baseline": rows[0]["baseline"],
        "split": rows[0]["split"],
        "series": len(rows),
        "labelled": sum(row["labels"] > 0 for row in rows),
        "not_fitted": sum(bool(row["why"]) for row in rows),
        "rows": points,
        **{name: mean(row[name] for row in rows) for name in MEANS},
        **_flagged(rows, ""),
        **_flagged(rows, "_live"),
        "alarms_asked_per_week": mean(row["alarms_asked_per_week"] for row in rows),
        "unlabelled_weeks": sum(row["unlabelled_weeks"] for row in rows),
        "delay_steps_median": _median(row["delay_steps_median"] for row in rows),
        **{
            f"{name}_per_10k": 1e4 * sum(row[name] for row in rows) / max(points, 1)
            for name in ("fit_seconds", "calibrate_seconds", "score_seconds")
        },
        "peak_mib": max((row["peak_mib"] for row in rows if row.get("peak_mib")), default=None),
    }


def _flagged(rows: Sequence[Json], end: str) -> Json:
    """Return what flagged intervals come to, pooled over series."""
    counts = sum(
        (Counts(row[f"overlap_tp{end}"], row[f"overlap_fp{end}"], row[f"overlap_fn{end}"]) for row in rows),
        Counts(),
    )
    weeks, alarms = sum(row["unlabelled_weeks"] for row in rows), sum(row[f"alarms{end}"] for row in rows)
    points = sum(row["rows"] for row in rows)
    return {
        f"overlap_precision{end}": counts.precision,
        f"overlap_recall{end}": counts.recall,
        f"overlap_f1{end}": counts.f1,
        f"share_flagged{end}": sum(row[f"share_flagged{end}"] * row["rows"] for row in rows) / max(points, 1),
        f"alarms_per_week{end}": alarms / weeks if weeks else None,
        **{f"{name}{end}": _nab(rows, name, profile, end) for name, profile in NAB.items()},
    }


def _nab(rows: Sequence[Json], name: str, profile: str, end: str) -> float | None:
    """Return NAB's score of a corpus: what was earned is summed first."""
    worth = metrics.PROFILES[profile]
    perfect = sum(row[f"{name}_perfect{end}"] for row in rows)
    earned = Nab(sum(row[f"{name}_raw{end}"] for row in rows), -worth.fn / worth.tp * perfect, perfect)
    return earned.score if perfect else None


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


@dataclass(frozen=True)
class Difference:
    """How much better one detector is than another on the same series, with a bootstrap interval of 95 %."""

    n_series: int
    mean: float
    low: float
    high: float


def difference(ours: Mapping[str, float], theirs: Mapping[str, float], seed: int = 0) -> Difference | None:
    """Return the mean paired difference of a figure over the series that both have; None without any.

    Series are drawn with replacement (Efron 1979), so the interval says what other series like these
    would show.

    Args:
        ours, theirs: figures by series.
    """
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        return None
    apart = np.array([ours[name] - theirs[name] for name in shared])
    rng = np.random.default_rng(seed)
    means = apart[rng.integers(0, len(apart), (DRAWS, len(apart)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(len(apart), float(apart.mean()), float(low), float(high))
