"""Which flagged intervals there are: filtered, in order and page by page, for whoever lists them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from anomaly_service import known
from anomaly_service.db import pages
from anomaly_service.db.pages import Page
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import AskedError
from pipelines.names import Kind, Verdict
from pipelines.times import iso

ORDERS = ("newest", "worst")
"""By their start, and by their peak."""


@dataclass(frozen=True)
class Filters:
    """Which flagged intervals are asked for; what is None or empty does not matter.

    Attributes:
        series: the name of a series, or of a target of several, as lists show it.
        labels: of the (first) series.
        verdict: of the last review.
        unreviewed: only those that nobody judged.
        since, until: those that end at or after the one and start before the other.
        min_score: least peak; 1 is the line.
        order: one of ``ORDERS``.
        after: the cursor of the interval that came last; None begins.
    """

    monitor: str | None = None
    series: str | None = None
    kind: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    verdict: str | None = None
    unreviewed: bool = False
    since: datetime | None = None
    until: datetime | None = None
    min_score: float | None = None
    order: str = "newest"
    limit: int | None = 50
    after: str | None = None


def page(store: SqlStore, filters: Filters, declared: Iterable[str] = ()) -> Page:
    """Return a page of flagged intervals, rows of the view ``flagged_intervals``.

    Args:
        declared: monitors of the config, which may not have been at work yet.

    Raises:
        AskedError: there is no such kind, verdict, order or cursor.
        UnknownMonitorError, UnknownSeriesError: there is no such name.
    """
    _check(filters)
    where: dict[str, Any] = {}
    targets = None
    if filters.series is not None or filters.labels:
        targets = store.target_ids(filters.monitor, filters.series, filters.labels)
    elif filters.monitor is not None:
        where["monitor_id"] = next((row.id for row in store.monitors() if row.name == filters.monitor), 0)
    if filters.kind is not None:
        where["kind"] = filters.kind
    if filters.unreviewed or filters.verdict is not None:
        where["review_verdict"] = filters.verdict
    found = store.page(
        pages.Asked(
            view="flagged_intervals",
            order=filters.order,
            where=[where],
            targets=targets,
            at_least={} if filters.min_score is None else {"peak_score": filters.min_score},
            since=filters.since,
            until=filters.until,
            after=filters.after,
            limit=filters.limit,
        )
    )
    if not found.rows:
        known.check(store, declared, filters.monitor, filters.series)
    return found


def _check(filters: Filters) -> None:
    """Refuse what there is none of, and what would leave nothing without a word."""
    for option, value, allowed in (
        ("--kind", filters.kind, tuple(Kind)),
        ("--verdict", filters.verdict, tuple(Verdict)),
        ("--order", filters.order, ORDERS),
    ):
        if value is not None and value not in allowed:
            raise AskedError(f"{option} must be one of {', '.join(allowed)}; got {value!r}")
    if filters.since is not None and filters.until is not None and filters.since >= filters.until:
        raise AskedError(
            f"--since must lie before --until, got {iso(filters.since)} and {iso(filters.until)}"
        )
    if filters.min_score is not None and not math.isfinite(filters.min_score):
        raise AskedError(f"--min-score must be a finite number, got {filters.min_score}")
    if filters.unreviewed and filters.verdict is not None:
        raise AskedError("--unreviewed and --verdict exclude each other")
