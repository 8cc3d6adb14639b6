"""Runs, models, series and monitors, in order and page by page, for whoever lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anomaly_service import known
from anomaly_service.db.pages import Asked, Page
from anomaly_service.db.store import SqlStore
from pipelines.records import Json


def runs(store: SqlStore, *, limit: int | None = None, after: str | None = None) -> Page:
    """Return a page of ``run_log``, the newest first.

    Raises:
        AskedError: the cursor is none of this list.
    """
    return store.page(Asked("run_log", "newest", limit=limit, after=after))


def series(store: SqlStore, *, limit: int | None = None, after: str | None = None) -> Page:
    """Return a page of ``series_health``, by name.

    Raises:
        AskedError: the cursor is none of this list.
    """
    return store.page(Asked("series_health", "name", limit=limit, after=after))


def models(
    store: SqlStore,
    declared: Iterable[str] = (),
    *,
    monitor: str | None = None,
    series: str | None = None,
    every: bool = False,
    limit: int | None = None,
    after: str | None = None,
) -> Page:
    """Return a page of ``model_cards``, those first that learned from the newest history.

    Args:
        declared: monitors of the config, which may not have been at work yet.
        every: also those that newer ones took over from.

    Raises:
        AskedError: the cursor is none of this list.
        UnknownMonitorError, UnknownSeriesError: there is no such name.
    """
    named = {name: value for name, value in (("monitor", monitor), ("series", series)) if value is not None}
    in_use = ({**named, "is_current": True}, {**named, "status": ["candidate", "failed"]})
    where: Sequence[Mapping[str, Any]] = [named] if every else in_use
    found = store.page(Asked("model_cards", "newest", where=where, limit=limit, after=after))
    if not found.rows:
        known.check(store, declared, monitor, series)
    return found


def monitors(store: SqlStore) -> list[Json]:
    """Return the rows of ``detector_precision``, by name: a monitor has few."""
    return sorted(store.rows("detector_precision"), key=lambda row: (row["monitor"], row["detector"] or ""))
