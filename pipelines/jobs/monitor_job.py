"""What every job works at: storage, somewhere to run, and the claim that lets it write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pipelines.batches import T
from pipelines.errors import StoppedError
from pipelines.executor import Executor
from pipelines.failures import reason
from pipelines.jobs import channels, meant
from pipelines.monitor import MonitorSpec
from pipelines.names import Verdict
from pipelines.records import Claim, Json, MonitorRow, Points, SeriesRow, TargetRow, VersionRow
from pipelines.store import JobStore

R = TypeVar("R")

OWN_FAULT = (TypeError, ValueError, ArithmeticError, LookupError, AssertionError)
"""What one target's data or model may raise while its results are stored, `UnstorableError` among it.

Not what ends the job for all: a database that is away or broken, a lost claim, events that changed.
"""

TOLD_LEFT_OUT = 50
"""The reasons of at most so many targets that were left out are told; the rest is counted."""


@dataclass
class MonitorJob:
    """One monitor's job: the store it reads and writes, the executor, and its claim.

    Attributes:
        models: how often the monitor's models had stood anew when this job read them, where its commits must
            not outlive them: a tick's.
        left_out: why targets were left out of what the job did for all others, by key.
    """

    store: JobStore
    executor: Executor
    monitor: MonitorRow
    spec: MonitorSpec
    claim: Claim | None = None
    on_progress: Callable[[str, float], None] = lambda stage, share: None
    should_stop: Callable[[], bool] = lambda: False
    models: int | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    _series: dict[int, SeriesRow] = field(default_factory=dict)

    def targets(self) -> list[TargetRow]:
        """Return what the monitor scores: the targets that it, as it is now, asks for.

        One of a selector that was wider stays stored with its events, and one that another daemon
        added since this job read the series waits for the next job.
        """
        return [target for target in self.store.targets(self.monitor.id) if self._asks_for(target)]

    def _asks_for(self, target: TargetRow) -> bool:
        series = self.series()
        if not all(i in series for i in target.series_ids):
            return False
        return channels.is_target(self.spec, target.key, [series[i] for i in target.series_ids])

    def series(self) -> dict[int, SeriesRow]:
        """Return every series by id, with how far what is watched of it goes; read once per job."""
        if not self._series:
            # In place: a copy of this job with other settings is the same job.
            self._series.update((row.id, row) for row in meant.series(self.spec, self.store.series()))
        return self._series

    def versions(self, targets: Sequence[TargetRow]) -> dict[int, list[VersionRow]]:
        """Return the versions that count, by target id, ascending in training end."""
        from pipelines.jobs.plan import current

        by_target: dict[int, list[VersionRow]] = {target.id: [] for target in targets}
        for version in self.store.versions([target.id for target in targets]):
            by_target[version.target_id].append(version)
        return {target_id: current(self.spec, rows) for target_id, rows in by_target.items()}

    def points(self, targets: Sequence[TargetRow], start: int, stop: int) -> dict[int, tuple[Points, ...]]:
        """Return what is watched of every target's series in a span, by target id."""
        ids = sorted({i for target in targets for i in target.series_ids})
        by_series = meant.points(self.store, self.spec, self.series(), ids, start, stop)
        return {t.id: tuple(by_series[i] for i in t.series_ids) for t in targets}

    def leaving_out_zeros(self, targets: Sequence[TargetRow]) -> set[int]:
        """Return the ids of the targets of which a step without a point is a zero."""
        known = self.series()
        return {
            t.id for t in targets if any(meant.leaves_out_zeros(self.spec, known[i]) for i in t.series_ids)
        }

    def confirmed(self, target_ids: Sequence[int], start: int, stop: int) -> dict[int, list[tuple[int, int]]]:
        """Return what people confirmed as anomalous in a span, first and last second, by target id."""
        found: dict[int, list[tuple[int, int]]] = {target_id: [] for target_id in target_ids}
        for event in self.store.events(list(found), start, stop, as_reviewed=True):
            if event.verdict == Verdict.CONFIRMED:
                found[event.target_id].append(event.ends)
        return found

    @property
    def window(self) -> int:
        """Steps of the longest window of the detector as configured now."""
        from pipelines.workers import members

        return members.longest_window(self.spec.detector, self.spec.params)

    @property
    def settled_after(self) -> int:
        """Steps after one that decide on its settled score, by the detector as configured now."""
        from pipelines.workers import explained

        return explained.settled_after(self.window)

    def leave_out(self, target: TargetRow, why: str) -> None:
        """Note that a target alone is left out, and why; of several reasons the newest holds."""
        self.left_out[target.key] = why

    def told_left_out(self) -> Json:
        """Return what an outcome says of targets that were left out: nothing where none was."""
        if not self.left_out:
            return {}
        reasons = [f"{key}: {why}" for key, why in sorted(self.left_out.items())]
        return {"left_out": len(reasons), "left_out_why": reasons[:TOLD_LEFT_OUT]}

    def each_stored(
        self,
        items: Sequence[T],
        target_of: Callable[[T], TargetRow],
        store: Callable[[Sequence[T]], Sequence[R]],
    ) -> list[R]:
        """Store what belongs to many targets in one call; return what it returns.

        Where that fails, halves are stored until each culprit stands alone: only it is left out.
        """
        try:
            return list(store(items)) if items else []
        except OWN_FAULT as error:
            if len(items) == 1:
                self.leave_out(target_of(items[0]), f"not stored: {reason(error)}")
                return []
        half = len(items) // 2
        return [
            each for part in (items[:half], items[half:]) for each in self.each_stored(part, target_of, store)
        ]

    def check_stop(self) -> None:
        """Return where the job may go on.

        Raises:
            StoppedError: it was asked to stop.
        """
        if self.should_stop():
            raise StoppedError("stopped between two batches; the run goes on where it was")
