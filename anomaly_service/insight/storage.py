"""What the database weighs, how it grows, what retention keeps of it, and what can be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from anomaly_service.db.storage import TableSize
from anomaly_service.db.store import SqlStore
from pipelines.records import Json
from pipelines.times import DAY, iso_seconds

KEPT_BY = {
    "points": "points",
    "scores": "scores",
    "line": "scores",
    "run": "runs",
    "event_revision": "revisions",
    "event": "outdated",
    "source_progress": "progress",
    "model_version": "model_versions",
    "weights": "model_versions",
    "calibration": "model_versions",
}
"""The key of ``retention`` by which a table is kept small."""

MEANT = {
    "event": "those that count for ever, the others",
    "event_revision": "first and newest, and what people touched, for ever; the others",
    "run": "the newest of each kind, the others",
    "source_progress": "of files that are there, of others",
}
EVER = {
    "review": "for ever",
    "event_look": "as long as its interval",
    "held_points": "until its time comes",
    "config_in_force": "the last one",
}

ALL_GOES = ("points", "scores")
"""Of which everything goes in time, so that they stop growing at a known size."""

LATE_DAYS = 2
"""What is older by so much than is kept should have been deleted by two nights."""

FREE_SHARE, FREE_BYTES = 0.2, 16 << 20
"""So much of an SQLite file must be free before it is worth shrinking."""


def storage(store: SqlStore, retention: Mapping[str, Any], scores: str) -> Json:
    """Return what every table weighs and what becomes of it.

    Args:
        retention: the section of the config, durations by key.
        scores: which scores the config stores: ``auto``, ``dense`` or ``near_events``.

    Returns:
        ``bytes`` and ``free_bytes`` of the database, ``tables``, the largest first, and ``hints``: what can
        be done.
    """
    found, (size, free) = store.storage()
    return {
        "bytes": size,
        "free_bytes": free,
        "tables": [_row(each, retention) for each in found],
        "hints": [*_of_room(size, free), *_of_age(store, found, retention), *_of_weight(found, scores)],
    }


def _row(size: TableSize, retention: Mapping[str, Any]) -> Json:
    return {
        "table": size.table,
        "rows": size.rows,
        "bytes": size.bytes,
        "estimated": size.estimated,
        "oldest": None if size.oldest is None else iso_seconds(int(size.oldest)),
        "keeps": _keeps(size.table, retention),
        "rows_per_day": None if size.rows_per_day is None else round(size.rows_per_day, 1),
        "bytes_per_day": None if size.bytes_per_day is None else round(size.bytes_per_day),
        "levels_at_bytes": _levels_at(size, retention),
    }


def _keeps(table: str, retention: Mapping[str, Any]) -> str:
    key = KEPT_BY.get(table)
    if key is None:
        return EVER.get(table, "as long as config and series name it")
    kept = retention[key]
    told = f"{kept.days}d" if isinstance(kept, timedelta) else f"{kept} of each target"
    return f"{MEANT[table]} {told}" if table in MEANT else told


def _levels_at(size: TableSize, retention: Mapping[str, Any]) -> int | None:
    """Return the bytes at which a table of which all goes in time stops growing, at the pace of now."""
    if size.table not in ALL_GOES or size.bytes_per_day is None:
        return None
    return round(size.bytes_per_day * retention[KEPT_BY[size.table]].days)


def _of_room(size: int, free: int) -> Iterator[str]:
    """Yield what can be done about room in the file in which nothing stands."""
    if free >= FREE_BYTES and free >= FREE_SHARE * size:
        yield (
            f"{free / size:.0%} of the file is free and will be used again; to give it back, stop the daemon "
            "and run VACUUM, or restore a backup (docs/howto/back-up-and-restore.md)"
        )


def _of_age(store: SqlStore, found: Sequence[TableSize], retention: Mapping[str, Any]) -> Iterator[str]:
    """Yield of which tables nights have not deleted what they should have."""
    newest = max((row.last_ts or 0 for row in store.series()), default=0)
    for each in found:
        if each.table in ALL_GOES and each.oldest is not None:
            key = KEPT_BY[each.table]
            if each.oldest < newest - retention[key].total_seconds() - LATE_DAYS * DAY:
                yield (
                    f"{each.table} are older than the {retention[key].days}d of retention.{key}: the night "
                    "deletes them; `anomaly runs` says whether nights are done"
                )


def _of_weight(found: Sequence[TableSize], scores: str) -> Iterator[str]:
    """Yield what makes the heaviest tables lighter."""
    bytes_of = {each.table: each.bytes for each in found}
    if scores != "near_events" and bytes_of["scores"] > max(FREE_BYTES, bytes_of["points"]):
        yield "scores weigh more than points: `scores: near_events` keeps those near intervals only"
    largest = found[0]
    if largest.table in ALL_GOES and largest.bytes > FREE_BYTES:
        yield f"{largest.table} weigh most: a shorter retention.{KEPT_BY[largest.table]} makes them less"
