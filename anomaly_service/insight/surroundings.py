"""The course of a series around a flagged interval, or of all of it, for whoever draws it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.jobs.monitor_job import MonitorJob
from pipelines.names import OF_VALUES
from pipelines.records import Json, Points, TargetRow
from pipelines.times import DAY

if TYPE_CHECKING:
    from anomaly_service.service import Service

LEAST_STEPS, MOST_STEPS = 48, 1440
"""A day is shown, and as much more as so few steps are, or as much less as so many are."""
AROUND = 3
"""What is shown is at least so many times as long as the interval."""
WHOLE_STEPS = 5_000_000
"""At most so many steps of a whole series are shown, the newest: one point of 1970 makes billions of them."""


@dataclass(frozen=True)
class Surroundings:
    """What was watched of a series around an interval.

    Attributes:
        row: the interval, of the view ``flagged_intervals``.
        ts: epoch seconds of every step, shape ``(n,)``.
        y: the values, NaN where there is none, shape ``(n,)``; of several series, of the one that moved most.
        span: the interval's first step, and one past its last, in ``ts``.
    """

    row: Json
    ts: NDArray[np.int64]
    y: NDArray[np.float64]
    span: tuple[int, int]


@dataclass(frozen=True)
class Course:
    """All that was watched of a series, and the intervals on it.

    Attributes:
        series: its name as lists print it.
        ts, y: as in ``Surroundings``.
        rows: of the view ``flagged_intervals``.
        spans: first step and one past the last of each of them.
    """

    series: str
    timezone: str
    ts: NDArray[np.int64]
    y: NDArray[np.float64]
    rows: list[Json]
    spans: list[tuple[int, int]]


def surroundings(service: Service, rows: Iterable[Json]) -> Iterator[Surroundings]:
    """Yield what lies around each interval: a day, or as many steps as make sense."""
    known: dict[str, tuple[MonitorJob, dict[int, TargetRow]]] = {}
    for row in rows:
        name = row["monitor"]
        if name not in known:
            job = service.stored_job(name)
            known[name] = job, {target.id: target for target in job.store.targets(job.monitor.id)}
        job, targets = known[name]
        yield _around(job, targets[row["target_id"]], row)


def courses(service: Service, rows: Sequence[Json], limit: int) -> list[Course]:
    """Return the whole of at most so many series, those with the highest scores of values first."""
    of: dict[tuple[str, str], list[Json]] = {}
    for row in rows:
        of.setdefault((row["monitor"], row["series"]), []).append(row)
    watched = [
        (job, target, of.get((name, target.key), []))
        for name in service.config.monitors
        for job in [service.stored_job(name)]
        for target in job.targets()
    ]
    # Sorting keeps their order where no series has an interval.
    watched.sort(key=lambda each: -_highest(each[2]))
    return [_whole(*each) for each in watched[:limit]]


def _highest(rows: Sequence[Json]) -> float:
    return max((row["peak_score"] for row in rows if row["kind"] in OF_VALUES), default=0.0)


def _whole(job: MonitorJob, target: TargetRow, rows: list[Json]) -> Course:
    """Return the course of a target, of several series that of the first."""
    step, series = target.step_seconds, job.series()[target.series_ids[0]]
    begun, last = series.first_ts or 0, series.last_ts or 0
    # One that stopped has an interval after its last point.
    last = max([last, *(row["end_ts"] for row in rows)])
    begun = max(begun, last - WHOLE_STEPS * step)
    rows = [row for row in rows if row["end_ts"] >= begun]
    ts = np.arange(begun, last + step, step, dtype=np.int64)
    points = job.points([target], begun, last + 1)[target.id][0]
    spans = [((row["start_ts"] - begun) // step, (row["end_ts"] - begun) // step + 1) for row in rows]
    return Course(target.key, target.timezone, ts, _on(ts, points, step), rows, spans)


def _around(job: MonitorJob, target: TargetRow, row: Json) -> Surroundings:
    step, channel = target.step_seconds, _channel(job, target, row)
    series = job.series()[target.series_ids[channel]]
    first, stop = _shown(
        row["start_ts"], row["end_ts"] + step, step, series.begun or row["start_ts"], series.last_ts or 0
    )
    ts = np.arange(first, stop, step, dtype=np.int64)
    points = job.points([target], first - step, stop + step)[target.id][channel]
    begin = (row["start_ts"] - first) // step
    return Surroundings(row, ts, _on(ts, points, step), (begin, begin + _steps(row, step)))


def _channel(job: MonitorJob, target: TargetRow, row: Json) -> int:
    """Return which series of a target is shown."""
    metrics = [job.series()[i].spec.metric for i in target.series_ids]
    return metrics.index(row["channel"]) if row["channel"] in metrics else 0


def _steps(row: Json, step: int) -> int:
    return int(row["end_ts"] - row["start_ts"]) // step + 1


def _shown(start: int, stop: int, step: int, begun: int, last: int) -> tuple[int, int]:
    """Return the half-open span that is shown of a half-open interval, in whole steps from its start.

    An interval near an end of the history has more of it on its other side.

    >>> _shown(43_200, 46_800, 300, 0, 10 * 86_400)
    (1800, 88200)
    >>> _shown(600, 900, 300, 0, 10 * 86_400)
    (0, 86400)
    """
    steps = (stop - start) // step
    n = max(min(max(DAY // step, LEAST_STEPS), MOST_STEPS), AROUND * steps)
    before = min((n - steps) // 2, (start - begun) // step)
    after = min(n - steps - before, max(0, last + step - stop) // step)
    before = max(0, min(n - steps - after, (start - begun) // step))
    return start - before * step, stop + after * step


def _on(ts: NDArray[np.int64], points: Points, step: int) -> NDArray[np.float64]:
    """Return the value nearest in time to every step, NaN where none is within half a step."""
    y = np.full(len(ts), np.nan)
    place = np.round((points.ts - ts[0]) / step).astype(int)
    inside = (place >= 0) & (place < len(ts))
    y[place[inside]] = points.value[inside]
    return y
