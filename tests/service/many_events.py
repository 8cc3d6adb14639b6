"""A database with very many events, made in a second or two by one statement of SQL."""

from __future__ import annotations

import numpy as np
from sqlalchemy import text

from anomaly_service.db.store import SqlStore
from anomaly_service.db.tables import EventTable
from pipelines.records import PointBlock, SeriesSpec
from pipelines.store import Ingest, NewVersion

START = 1_735_689_600
"""2025-01-01 in epoch seconds."""

EVERY = 600
"""Seconds between the starts of two events."""

MONITORS = ("players", "servers", "rare")
REALMS = 250

_EVENTS = """
INSERT INTO event (
    target_id, monitor_id, kind, start_ts, end_ts, n_points, peak_ts, peak_score, mean_score, direction,
    reaches_now, version_id, status, first_detected_at, added, revision, updated_at,
    review_id, review_verdict, review_start, reviewed_at
)
WITH RECURSIVE counted (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM counted WHERE i < :n - 1),
placed AS (
    SELECT
        i, :start + i * :every AS at, (i * 7919) % 1000 AS drawn, i < :n - 2000 AS judged,
        CASE WHEN i % 20000 = 7 THEN 2 ELSE i % 2 END AS monitor
    FROM counted WHERE i < :n
)
SELECT
    target.id, target.monitor_id, CASE WHEN drawn % 50 = 0 THEN 'flatline' ELSE 'anomaly' END, at,
    at + 1200, 5, at + 300, 1 + drawn / 250.0, 1.0, 'above_expected',
    false, model_version.id, CASE WHEN drawn % 20 = 3 THEN 'outdated' WHEN i >= :n - 5 THEN 'open' ELSE 'closed' END,
    at + 300, false, 1, at,
    CASE WHEN judged AND drawn % 20 <> 3 THEN i END,
    CASE WHEN judged AND drawn % 20 <> 3 THEN CASE WHEN drawn % 3 = 0 THEN 'false_positive' ELSE 'confirmed' END END,
    CASE WHEN judged AND drawn % 100 = 1 THEN at - 300 END, at
FROM placed
JOIN monitor ON monitor.name = CASE monitor WHEN 0 THEN 'players' WHEN 1 THEN 'servers' ELSE 'rare' END
JOIN target ON target.monitor_id = monitor.id AND target.key = 'ccu{realm=' || ((i / 2) % :realms) || '}'
JOIN model_version ON model_version.target_id = target.id
"""  # noqa: E501  # SQL


def fill(store: SqlStore, n: int) -> None:
    """Put n events of three monitors over 250 series into an empty database, and let it count them.

    The newest 2,000 wait for a verdict and five of them are open, one in twenty is outdated, and the monitor
    ``rare`` has one in 20,000.
    """
    specs = [SeriesSpec("ccu", {"realm": str(k)}, 300, source="telemetry") for k in range(REALMS)]
    none = PointBlock(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    store.ingest(Ingest("telemetry", specs, none))
    ids = [(row.spec.key, (row.id,)) for row in store.series()]
    for monitor in store.sync_monitors({name: {"detector": "gaussian"} for name in MONITORS}):
        targets = store.sync_targets(monitor.id, ids)
        spans = (0, START, {}, {}, b"", {})
        made = [NewVersion(target.id, "gaussian", *spans, shared_weights=0) for target in targets]
        store.add_versions(None, made)
    given = {"n": n, "start": START, "every": EVERY, "realms": REALMS}
    indexes = sorted(EventTable.metadata.tables["event"].indexes, key=lambda index: str(index.name))
    with store.engine.begin() as connection:
        # All at once, an index is made in a fraction of the time.
        for index in indexes:
            index.drop(connection)
        connection.execute(text(_EVENTS), given)
        for index in indexes:
            index.create(connection)
    settle(store)


def settle(store: SqlStore) -> None:
    """Let the database count what it holds, as PostgreSQL does by itself after a while."""
    if store.engine.dialect.name == "sqlite":
        with store.engine.begin() as connection:
            connection.execute(text("ANALYZE"))
        store.engine.dispose()  # a connection reads the counts when it opens
        return
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
