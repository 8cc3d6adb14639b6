"""From rows and settings to judged targets: the steps of the service, one target after the other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anomaly_service.errors import SeriesError, TooShortError
from anomaly_service.notebook.rows import Moment, Reading, Rows
from anomaly_service.notebook.settings import spec_of
from detectors.base import Detector
from pipelines.monitor import MonitorSpec
from pipelines.records import Interval, Points, Seconds, Values
from pipelines.workers import alone, judge, members
from pipelines.workers.alone import Band, History, Model
from pipelines.workers.fit import MIN_WINDOWS, NotReady


@dataclass(frozen=True)
class Asked:
    """What the caller of ``detect`` wants, as it was said there."""

    detector: str | Detector | type[Detector]
    params: Mapping[str, Any] | None
    threshold: Mapping[str, Any]
    policy: Mapping[str, Any]
    season: str
    calendar: Mapping[str, Any]
    device: str
    together: bool
    learn_from: Moment
    train_until: Moment
    reading: Reading

    def spec(self, names: Sequence[Hashable], step_seconds: int) -> MonitorSpec:
        """Return the settings of one target, as the jobs see them."""
        return spec_of(
            self.detector,
            self.params,
            threshold=self.threshold,
            policy=self.policy,
            season=self.season,
            calendar=self.calendar,
            device=self.device,
            channels=[str(name) for name in names] if len(names) > 1 else (),
            step_seconds=step_seconds,
        )


@dataclass(frozen=True)
class Judged:
    """One target with its model, and what became of its steps.

    Attributes:
        name: of its only series, or of its channels.
        columns: of the rows, one per channel.
        ts: epoch seconds of the steps, shape ``(n,)``.
        anomaly_score: 1 is the line, NaN where there is none, same shape.
        band: what would have been normal, each ``(n, n_channels)``.
        found: flagged intervals, in order of time.
    """

    name: Hashable
    columns: tuple[int, ...]
    model: Model
    history: History
    ts: Seconds
    anomaly_score: Values
    band: Band
    found: tuple[Interval, ...]

    @property
    def step_seconds(self) -> int:
        return self.history.target.step_seconds


def targets_of(rows: Rows, asked: Asked) -> dict[Hashable, tuple[int, ...]]:
    """Return the columns of every target by its name: one each, or all of one."""
    if not asked.together or len(rows.names) == 1:
        return {name: (at,) for at, name in enumerate(rows.names)}
    return {", ".join(str(name) for name in rows.names): tuple(range(len(rows.names)))}


def judged(name: Hashable, columns: tuple[int, ...], rows: Rows, asked: Asked) -> Judged:
    """Fit one target on its history and return what is anomalous in that.

    Raises:
        SeriesError: nothing can be learned from it.
    """
    history = _history(name, columns, rows)
    spec = asked.spec([rows.names[at] for at in columns], history.target.step_seconds)
    start, stop = _learned(history, rows, asked)
    model = alone.fit(spec, history, start, stop)
    if isinstance(model, NotReady):
        raise _too_little(name, history.between(start, stop), spec, model)
    first = model.fitted.start if asked.learn_from is None else history.start
    return _scored(name, columns, model, history, first, live=False)


def judged_later(before: Judged, columns: tuple[int, ...], rows: Rows) -> Judged | None:
    """Return what is anomalous in rows that came since, by the model there is; None where no row has a value.

    Every step goes by its live score: what was known when its point had just come.
    """
    points = tuple(rows.points(at) for at in columns)
    if not any(len(each.ts) for each in points):
        return None
    first, stop = _span(points, before.step_seconds)
    history = before.history.then(points, stop)
    back = max(first - before.model.look_back_seconds, before.model.fitted.start)
    whole = _scored(before.name, columns, before.model, history, min(back, first), live=True)
    own = whole.ts >= first
    band = Band(*(each[own] for each in (whole.band.low, whole.band.mid, whole.band.high)))
    # A gap between what there was and what came ends before the first new row.
    since = min(first, before.history.stop)
    found = tuple(each for each in whole.found if each.end >= since)
    return replace(whole, ts=whole.ts[own], anomaly_score=whole.anomaly_score[own], band=band, found=found)


def _scored(
    name: Hashable, columns: tuple[int, ...], model: Model, history: History, first: int, *, live: bool
) -> Judged:
    target = model.asked(history, first, history.stop, unseen=True, live=live)
    steps = alone.steps_of(model, target)
    scored = judge.scored(model.spec, target, steps)
    counts = scored.live_anomaly if live else scored.settled_anomaly
    return Judged(
        name=name,
        columns=columns,
        model=model,
        history=history,
        ts=scored.ts,
        anomaly_score=counts,
        band=alone.expected(model, steps, counts),
        found=tuple(sorted(scored.found, key=lambda each: (each.start, each.kind))),
    )


def _history(name: Hashable, columns: Sequence[int], rows: Rows) -> History:
    points = tuple(rows.points(at) for at in columns)
    empty = [rows.names[at] for at, each in zip(columns, points, strict=True) if not len(each.ts)]
    if empty:
        raise SeriesError(f"{empty[0]!r} has no value at all; there is nothing to learn from")
    # Of several series that step differently, the longest.
    step_seconds = max(rows.steps[at] for at in columns)
    return History.of(
        str(name),
        points,
        *_span(points, step_seconds),
        step_seconds=step_seconds,
        timezone=rows.timezone,
        labels={"metric": str(rows.names[columns[0]])},
    )


def _span(points: Sequence[Points], step_seconds: int) -> tuple[int, int]:
    """Return the half-open span that holds the steps nearest to all points, and no other step."""
    first = min(int(each.ts[0]) for each in points if len(each.ts))
    last = max(int(each.ts[-1]) for each in points if len(each.ts))
    return first - (step_seconds - 1) // 2, last + step_seconds // 2 + 1


def _learned(history: History, rows: Rows, asked: Asked) -> tuple[int, int]:
    """Return the half-open span that is learned from."""
    start = history.start if asked.learn_from is None else rows.clock.seconds(asked.learn_from)
    stop = history.stop if asked.train_until is None else rows.clock.seconds(asked.train_until) + 1
    start, stop = max(start, history.start), min(stop, history.stop)
    if start >= stop:
        first = min(int(each.ts[0]) for each in history.points)
        last = max(int(each.ts[-1]) for each in history.points)
        shown = " to ".join(str(each) for each in rows.clock.moments(np.array([first, last])))
        raise SeriesError(f"learn_from and train_until leave nothing of the rows from {shown}")
    return start, stop


def _too_little(name: Hashable, points: Sequence[Points], spec: MonitorSpec, why: NotReady) -> SeriesError:
    """Return the error for a target without a model: it is too short, or what its fit said."""
    window = members.shortest_window(spec.detector, spec.params)
    n, needed = min(len(each.ts) for each in points), MIN_WINDOWS * window
    if why.failed or n >= needed:
        return SeriesError(f"{name!r} cannot be learned from: {why.why}")
    fits = n // MIN_WINDOWS
    shorter = f", or a detector by name with params={{'window': {fits}}}" if fits else ""
    return TooShortError(
        f"{name!r} has {n:,} points to learn from; {spec.detector!r} needs {needed:,}, {MIN_WINDOWS} windows "
        f"of {window}: pass more history{shorter}",
        points=n,
        needed=needed,
    )
