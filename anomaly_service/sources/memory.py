"""What sources remember of what is gone: dropped once it cannot make them read anything twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomaly_service.sources.base import Forgets, Source

if TYPE_CHECKING:
    from anomaly_service.db.store import SqlStore


def forget(store: SqlStore, source: Source, before: int) -> int:
    """Let a source forget what lies before a data time, epoch seconds; return how many records went."""
    if not isinstance(source, Forgets):
        return 0
    keys = source.outlived(store.progress(source.name), before)
    return store.forget_progress(source.name, keys) if keys else 0
