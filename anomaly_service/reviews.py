"""What people do to flagged intervals: judge them, move their borders, add what was missed, take it back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from anomaly_service import known
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import AskedError
from pipelines.names import Kind, Verdict
from pipelines.records import Interval, Json, PointBlock, ScoreBlock, TargetRow
from pipelines.times import minute


@dataclass(frozen=True)
class Done:
    """What came of an act.

    Attributes:
        row: of the event in ``flagged_intervals``; None where it is no longer shown.
        undone: of an undo, the act that was taken back, as ``SqlStore.reviews`` has it.
        is_new: false where the very same stood already and nothing was written.
    """

    event_id: int
    row: Json | None
    undone: Json | None = None
    is_new: bool = True


def judge(
    store: SqlStore,
    event_id: int,
    verdict: str | None,
    *,
    now: datetime,
    start: datetime | None = None,
    end: datetime | None = None,
    cause: str = "",
    comment: str = "",
    by: str = "",
    expect: int | None = None,
) -> Done:
    """Judge a flagged interval, move its borders, or both.

    Args:
        start, end: its first and last second, where they are moved; both belong to it.
        expect: the revision of the event that was looked at; None for whichever it has.

    Raises:
        AskedError: there is no such verdict, nothing is given, or the borders are none that hold points.
        UnknownEventError: there is no such event, or it was merged into another.
        ChangedEventError: it has another revision than expected.
        OverlappingEventError: moved there, it would lie over another interval.
    """
    if verdict is None and (cause or comment):
        raise AskedError("a cause or comment goes with a verdict; give the verdict too")
    borders = {"start": _seconds(start), "end": _seconds(end)}
    _check_not_ahead(borders["end"], now)
    if start is not None or end is not None:
        _check_moved(store, event_id, **borders)
    store.review(
        event_id,
        None if verdict is None else verdict_of(verdict),
        cause=cause,
        comment=comment,
        by=by,
        expect=expect,
        **borders,
    )
    return Done(event_id, _shown(store, event_id))


def add(
    store: SqlStore,
    series: str,
    start: datetime,
    end: datetime,
    verdict: str,
    *,
    now: datetime,
    monitor: str | None = None,
    declared: Iterable[str] = (),
    cause: str = "",
    comment: str = "",
    by: str = "",
) -> Done:
    """Add an interval that was missed, with its verdict; the same again changes nothing.

    Args:
        series: the name of a series, or of a target of several, as lists show it.
        start, end: its first and last second; both belong to it.
        monitor: whose it is to be; may be left out where one monitor alone watches the series.
        declared: monitors of the config, which may not have been at work yet.

    Raises:
        AskedError: the span holds no points or is none, the verdict does not go with it, or the monitor does
            not watch the series.
        UnknownMonitorError, UnknownSeriesError: there is no such name.
        OverlappingEventError: another interval lies there.
    """
    judged = verdict_of(verdict)
    if judged is Verdict.FALSE_POSITIVE:
        raise AskedError("what is added was not flagged, so it cannot be a false_positive")
    target = _target(store, series, monitor, declared)
    first, last = int(start.timestamp()), int(end.timestamp())
    if first > last:
        raise AskedError(f"--from must not lie after --to, got {minute(first)} and {minute(last)}")
    event_id, is_new = store.add_event(
        target.id,
        _drawn(store, target, first, last),
        judged,
        detected_at=int(now.timestamp()),
        cause=cause,
        comment=comment,
        by=by,
    )
    return Done(event_id, _shown(store, event_id), is_new=is_new)


def undo(
    store: SqlStore, event_id: int, *, comment: str = "", by: str = "", expect: int | None = None
) -> Done:
    """Take back the newest thing that was done to an interval and stands: a verdict, borders, its addition.

    Raises:
        UnknownEventError: there is no such event, or it was merged into another.
        ChangedEventError: it has another revision than expected.
        NothingToUndoError: nothing is left.
    """
    undone = store.undo(event_id, comment=comment, by=by, expect=expect)
    return Done(event_id, _shown(store, event_id), undone=undone)


def verdict_of(text: str) -> Verdict:
    """Return the verdict that a text names.

    Raises:
        AskedError: it names none.
    """
    if text not in tuple(Verdict):
        raise AskedError(f"VERDICT must be one of {', '.join(Verdict)}; got {text!r}")
    return Verdict(text)


def _shown(store: SqlStore, event_id: int) -> Json | None:
    return next(iter(store.rows("flagged_intervals", {"event_id": event_id})), None)


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


def _check_not_ahead(end: int | None, now: datetime) -> None:
    if end is not None and end > now.timestamp():
        raise AskedError(f"--to lies ahead of now, {minute(int(now.timestamp()))}; got {minute(end)}")


def _check_moved(store: SqlStore, event_id: int, start: int | None, end: int | None) -> None:
    """Refuse borders of an anomaly that hold no points; what is missing has none to hold.

    Raises:
        AskedError: as it says.
    """
    row = _shown(store, event_id)
    if row is None or row["kind"] != Kind.ANOMALY:
        return
    first = _second(row["start_at"]) if start is None else start
    last = _second(row["end_at"]) if end is None else end
    if first <= last:  # the other way round is refused by the store, which knows what stands by then
        _points(store, _target(store, row["series"], row["monitor"], ()), first, last)


def _second(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _target(store: SqlStore, series: str, monitor: str | None, declared: Iterable[str]) -> TargetRow:
    """Return the one target that is meant."""
    ids = store.target_ids(monitor, series)
    if not ids:
        known.check(store, declared, monitor, series)
        watching = [row.name for row in store.monitors() if store.target_ids(row.name, series)]
        told = f"those that do: {', '.join(watching)}" if watching else "no monitor does"
        raise AskedError(f"monitor {monitor or 'of any name'} does not watch {series}; {told}")
    found = [target for row in store.monitors() for target in store.targets(row.id) if target.id in ids]
    if len(found) > 1:
        names = [row.name for row in store.monitors() if row.id in {target.monitor_id for target in found}]
        raise AskedError(f"several monitors watch {series}; name one with --monitor: {', '.join(names)}")
    return found[0]


def _drawn(store: SqlStore, target: TargetRow, first: int, last: int) -> Interval:
    """Return the interval that a person drew, with what is stored of points and scores in it.

    Raises:
        AskedError: there are no points in it, or it ends after the newest.
    """
    points = _points(store, target, first, last)
    scores = _anomaly_scores(store.scores([target.id], first, last + 1))
    peak_at = max(scores, key=lambda ts: (scores[ts], -ts), default=int(points.ts.min()))
    values = points.value[points.ts == peak_at]
    return Interval(
        kind=Kind.ANOMALY,
        start=first,
        end=last,
        n_points=len(np.unique(points.ts)),
        peak_at=peak_at,
        peak_score=scores.get(peak_at, 0.0),
        mean_score=float(np.mean(list(scores.values()))) if scores else 0.0,
        y_at_peak=float(values[0]) if len(target.series_ids) == 1 and len(values) else None,
    )


def _points(store: SqlStore, target: TargetRow, first: int, last: int) -> PointBlock:
    """Return the points of a target from one second to another, both included.

    Raises:
        AskedError: there are none, or the span goes beyond what is stored.
    """
    points = store.points(target.series_ids, first, last + 1)
    ends = [row for row in store.series() if row.id in target.series_ids and row.last_ts is not None]
    oldest = min((row.first_ts for row in ends if row.first_ts is not None), default=None)
    newest = max((row.last_ts or 0 for row in ends), default=None)
    if oldest is None or newest is None or not len(points) or first < oldest or last > newest:
        held = "none" if oldest is None or newest is None else f"from {minute(oldest)} to {minute(newest)}"
        raise AskedError(
            f"the span from {minute(first)} to {minute(last)} must hold points of {target.key} and not go "
            f"beyond them; stored are {held}"
        )
    return points


def _anomaly_scores(block: ScoreBlock) -> dict[int, float]:
    """Return the stored anomaly scores by time, settled where there is one."""
    shown = np.where(np.isnan(block.settled_anomaly), block.live_anomaly, block.settled_anomaly)
    return {int(ts): float(score) for ts, score in zip(block.ts, shown, strict=True) if not np.isnan(score)}
