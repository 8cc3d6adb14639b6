"""What a person does to stored points: deletes those that should never have come."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from anomaly_service import known
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import AskedError, UnknownSeriesError
from pipelines.records import Json
from pipelines.times import iso, iso_seconds


def delete(store: SqlStore, series: str, start: datetime, stop: datetime, *, dry_run: bool = False) -> Json:
    """Delete the points of a series in a half-open span, with the scores and intervals that follow from them.

    What people said of an interval keeps it, below the line. Files and databases that the points came
    from are left alone: a file that is read again as a whole brings them back.

    Args:
        series: its name, as lists show it.
        dry_run: only say what it would come to.

    Returns:
        The fields of ``pipelines.store.Deleted``, with the series, the span and ``last_at``.

    Raises:
        AskedError: the span ends before it starts.
        UnknownSeriesError: there is no such series; one of several has no points of its own.
    """
    if start >= stop:
        raise AskedError(f"--from must lie before --to, got {iso(start)} and {iso(stop)}")
    known.check(store, (), None, series)
    ids = {row.spec.key: row.id for row in store.series()}
    if series not in ids:
        raise UnknownSeriesError(f"{series!r} is a target of several series; name one of them")
    done = store.delete_points(ids[series], int(start.timestamp()), int(stop.timestamp()), dry_run=dry_run)
    last_at = None if done.last_ts is None else iso_seconds(done.last_ts)
    return {"series": series, "from": iso(start), "to": iso(stop), **asdict(done), "last_at": last_at}
