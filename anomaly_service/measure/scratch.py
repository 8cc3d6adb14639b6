"""A store for a past that is gone over again: points of another up to a time, and all else its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from anomaly_service.db.store import SqlStore
from pipelines.names import Verdict
from pipelines.records import (
    CalibrationRow,
    Claim,
    Event,
    EventPortrait,
    Json,
    LineRow,
    MonitorRow,
    PointBlock,
    PortraitState,
    ScoreBlock,
    SeriesRow,
    TargetRow,
    VersionRow,
)
from pipelines.store import Batch, Ingest, NewVersion, PointReader
from pipelines.times import DAY


class Scratch:
    """What a job works at while it goes over the past again.

    It says of every method where that goes, and inherits none: what is asked anew of a store is decided
    here before it works at all, and cannot reach the real one, or miss it, unnoticed.

    Args:
        own: an empty database, which takes all that is written.
        real: where series and points are read, and nothing is written.
        series: those of the real store that can be asked for.
        stop: what is of then or later is not known yet, epoch seconds.
    """

    def __init__(self, own: SqlStore, real: PointReader, series: Sequence[SeriesRow], stop: int) -> None:
        self._own, self._real, self._stop = own, real, stop
        none = PointBlock(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        own.ingest(Ingest("replay", [row.spec for row in series], none))
        ids = {row.spec.key: row.id for row in own.series()}
        self._real_ids = {ids[row.spec.key]: row.id for row in series}
        last = self._last_points([row for row in series if _goes_on(row, stop)])
        self._rows = [self._as_of(row, ids[row.spec.key], last) for row in series]

    def _as_of(self, row: SeriesRow, own_id: int, last: Mapping[int, int]) -> SeriesRow:
        """Return the series as it was known at the time: its last point is none of later."""
        known = last.get(row.id) if _goes_on(row, self._stop) else row.last_ts
        if row.first_ts is None or known is None or row.first_ts >= self._stop:
            return SeriesRow(own_id, row.spec, None, None)
        return SeriesRow(own_id, row.spec, row.first_ts, known, row.begun_ts, row.pruned_before, row.live)

    def _last_points(self, series: Sequence[SeriesRow]) -> dict[int, int]:
        """Return when the last point before the end came, by series id, looking further back step by step."""
        first = min((row.first_ts or 0 for row in series), default=self._stop)
        found: dict[int, int] = {}
        reach = DAY
        while left := sorted({row.id for row in series} - set(found)):
            block = self._real.points(left, self._stop - reach, self._stop)
            ends = np.flatnonzero(np.diff(block.series, append=-1))
            found |= dict(zip(block.series[ends].tolist(), block.ts[ends].tolist(), strict=True))
            if self._stop - reach <= first:
                break
            reach *= 4
        return found

    # read from the real store

    def series(self, source: str | None = None) -> list[SeriesRow]:
        return [row for row in self._rows if source in (None, row.spec.source)]

    def points(self, series_ids: Sequence[int], start: int, stop: int) -> PointBlock:
        back = {self._real_ids[i]: i for i in series_ids}
        block = self._real.points(sorted(back), start, min(stop, self._stop))
        own = np.array([back[i] for i in sorted(back)], dtype=np.int64)
        series = own[np.searchsorted(sorted(back), block.series)] if len(block) else block.series
        order = np.lexsort((block.ts, series))
        return PointBlock(series[order], block.ts[order], block.value[order])

    # kept in its own

    def sync_monitors(self, monitors: dict[str, Json]) -> list[MonitorRow]:
        return self._own.sync_monitors(monitors)

    def monitors(self) -> list[MonitorRow]:
        return self._own.monitors()

    def sync_targets(
        self, monitor_id: int, targets: Sequence[tuple[str, tuple[int, ...]]]
    ) -> list[TargetRow]:
        return self._own.sync_targets(monitor_id, targets)

    def targets(self, monitor_id: int) -> list[TargetRow]:
        return self._own.targets(monitor_id)

    def add_versions(self, claim: Claim | None, versions: Sequence[NewVersion]) -> list[VersionRow]:
        return self._own.add_versions(claim, versions)

    def versions(self, target_ids: Sequence[int], *, every: bool = False) -> list[VersionRow]:
        return self._own.versions(target_ids, every=every)

    def models(self, monitor_id: int) -> int:
        return self._own.models(monitor_id)

    def models_stand(self, claim: Claim | None, monitor_id: int) -> None:
        self._own.models_stand(claim, monitor_id)

    def weights(self, weights_ids: Iterable[int]) -> dict[int, bytes]:
        return self._own.weights(weights_ids)

    def calibrations(
        self, version_ids: Sequence[int], span: tuple[int, int] | None = None
    ) -> list[CalibrationRow]:
        return self._own.calibrations(version_ids, span)

    def add_calibrations(
        self, claim: Claim | None, rows: Sequence[CalibrationRow], lines: Sequence[LineRow] = ()
    ) -> None:
        self._own.add_calibrations(claim, rows, lines)

    def add_lines(self, claim: Claim | None, lines: Sequence[LineRow]) -> None:
        self._own.add_lines(claim, lines)

    def lines(
        self,
        monitor_id: int,
        span: tuple[int, int] | None = None,
        target_ids: Sequence[int] | None = None,
    ) -> list[LineRow]:
        return self._own.lines(monitor_id, span, target_ids)

    def commit(self, claim: Claim | None, batch: Batch) -> list[Event]:
        return self._own.commit(claim, batch)

    def scores(self, target_ids: Sequence[int], start: int, stop: int) -> ScoreBlock:
        return self._own.scores(target_ids, start, stop)

    def events(
        self, target_ids: Sequence[int], start: int, stop: int, *, as_reviewed: bool = False
    ) -> list[Event]:
        return self._own.events(target_ids, start, stop, as_reviewed=as_reviewed)

    def review(
        self,
        event_id: int,
        verdict: Verdict,
        *,
        cause: str = "",
        comment: str = "",
        by: str = "",
        start: int | None = None,
        end: int | None = None,
    ) -> int:
        return self._own.review(event_id, verdict, cause=cause, comment=comment, by=by, start=start, end=end)

    def event_portraits(
        self,
        monitor_id: int,
        limit: int,
        *,
        judged: bool | None = None,
        after: tuple[int, int] | None = None,
    ) -> list[tuple[Event, EventPortrait | None]]:
        return self._own.event_portraits(monitor_id, limit, judged=judged, after=after)

    def portrait_state(self, monitor_id: int, verdicts: int) -> PortraitState:
        return self._own.portrait_state(monitor_id, verdicts)

    def write_event_portraits(self, claim: Claim | None, rows: Sequence[EventPortrait]) -> None:
        self._own.write_event_portraits(claim, rows)

    def flagged_intervals(self, monitor: str) -> list[Json]:
        """Return the rows of the view that are of a monitor."""
        return self._own.rows("flagged_intervals", {"monitor": monitor})


def _goes_on(row: SeriesRow, stop: int) -> bool:
    """True where a series has points before and after a moment."""
    return row.first_ts is not None and row.first_ts < stop and (row.last_ts or 0) >= stop
