"""When series are usually absent, in words, for whoever lists them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from anomaly_service.db.pages import Page
from anomaly_service.db.store import SqlStore
from pipelines.records import Json, VersionRow

AT_ONCE = 200
"""Habits of a page of at most so many series are looked up: each stands in its version."""


def with_habits(store: SqlStore, found: Page) -> Page:
    """Return a page of series with the ``habit`` of each: empty where points always come, or nobody knows."""
    known = of_series(store, (row["series_id"] for row in found.rows)) if len(found.rows) <= AT_ONCE else {}
    rows: list[Json] = [{**row, "habit": known.get(row["series_id"], "")} for row in found.rows]
    return replace(found, rows=rows)


def of_series(store: SqlStore, series_ids: Iterable[int]) -> dict[int, str]:
    """Return when series are usually absent, by id, as the newest version of any monitor has learned it."""
    from pipelines.steps import presence

    wanted = set(series_ids)
    every = [t for monitor in store.monitors() for t in store.targets(monitor.id)]
    targets = {t.id: t for t in every if wanted & set(t.series_ids)}
    newest: dict[int, VersionRow] = {}
    for version in sorted(store.versions(list(targets)), key=lambda each: (each.train_stop, each.id)):
        newest[version.target_id] = version
    found: dict[int, str] = {}
    for version in sorted(newest.values(), key=lambda each: (each.train_stop, each.id)):
        for series_id, channel in zip(
            targets[version.target_id].series_ids, version.recipe["channels"], strict=True
        ):
            found[series_id] = presence.words(channel.get("habit", ""))
    return found
