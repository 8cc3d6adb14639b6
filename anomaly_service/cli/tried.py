"""What ``anomaly try`` prints of the intervals it found: the worst first, then all, then how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from anomaly_service import wording
from anomaly_service.cli.fitted import Column
from pipelines.names import Kind

Row = Mapping[str, Any]
WORST = 3
"""Intervals that are told in a sentence."""
PLURALS = {
    Kind.ANOMALY: "anomalies",
    Kind.FLATLINE: "flatlines",
    Kind.DATA_MISSING: "gaps",
    Kind.STALE: "series that stopped",
    Kind.UNSCORED: "stretches without a score",
}


def worst(rows: Sequence[Row]) -> list[str]:
    """Return what happened in the worst anomalies, a sentence each; gaps do not rank among them."""
    anomalies = sorted(
        (row for row in rows if row["kind"] == Kind.ANOMALY), key=lambda row: -row["peak_score"]
    )
    return [f"{wording.sentence(row)} (score {row['peak_score']:.1f})." for row in anomalies[:WORST]]


def counts(rows: Sequence[Row]) -> str:
    """Return how many intervals there are of each kind.

    >>> counts([{"kind": "anomaly"}, {"kind": "anomaly"}, {"kind": "data_missing"}])
    'Found: anomalies 2, gaps 1.'
    """
    found = Counter(Kind(row["kind"]) for row in rows)
    return f"Found: {', '.join(f'{PLURALS[kind]} {found[kind]}' for kind in Kind if found[kind])}."


def short(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns of a list of intervals without those of a database that is kept."""
    return tuple(each for each in columns if each.name not in ("event_id", "review_verdict"))
