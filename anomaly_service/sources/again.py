"""What was read before is read once more: late and corrected rows every night, any span for a person.

A source that takes only what is new (a query that begins near its newest point) would never see them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from anomaly_service.sources.base import Reading, ReadsAgain, Source, unbroken
from pipelines.jobs.fit_times import nights
from pipelines.monitor import NightlyPlan
from pipelines.records import Json, PointBlock
from pipelines.store import Ingest, PointStore
from pipelines.times import DAY, iso_seconds

MEMORY = "read-again"
"""Key among a source's progress that is not its own: when it was read again last."""

LEAD_SECONDS = 3600
"""How long before a night late rows are fetched, so that it scores with them whenever sources are read."""


@dataclass(frozen=True)
class Again:
    """What is read again of a source besides what is new.

    Attributes:
        nightly: how far back late data count, and when; None for never.
        since: from here on at once, whatever the hour; None where nobody asked.
    """

    nightly: NightlyPlan | None = None
    since: datetime | None = None

    def batches(self, store: PointStore, source: Source, now: datetime) -> Iterator[Ingest]:
        """Yield what is read again of a source whose news were stored just now, and that it was.

        Raises:
            SourceError: part of it could not be read.
        """
        stored = store.progress(source.name)
        start = int(self.since.timestamp()) if self.since else self._due_from(store, source, stored, now)
        if start is not None:
            yield from _from(source, own(stored), now, start)
        if start is not None or (isinstance(source, ReadsAgain) and MEMORY not in stored):
            yield _noted(source.name, now)

    def _due_from(
        self, store: PointStore, source: Source, stored: Mapping[str, Json], now: datetime
    ) -> int | None:
        """Return from where on late rows are due to be fetched, epoch seconds; None where they are not."""
        if self.nightly is None or not isinstance(source, ReadsAgain) or not self._is_due(stored, now):
            return None
        newest = newest_point(store, source.name)
        return None if newest is None else newest - self.nightly.window_seconds

    def _is_due(self, stored: Mapping[str, Json], now: datetime) -> bool:
        if self.nightly is None or not own(stored):
            return False
        at, seconds = stored.get(MEMORY, {}).get("at", 0), int(now.timestamp())
        night = nights(self.nightly, seconds - 3 * DAY, seconds + LEAD_SECONDS + 1)[-1]
        # A time that lies ahead was noted by a clock that was wrong.
        return not night - LEAD_SECONDS <= at <= seconds

    def lagging(self, store: PointStore, source: Source) -> Iterator[str]:
        """Yield which series end so far behind their source that late rows of theirs are not looked for."""
        if self.nightly is None or not isinstance(source, ReadsAgain):
            return
        ends = {row.spec.key: row.last_ts for row in store.series(source.name) if row.last_ts is not None}
        seen_from = max(ends.values(), default=0) - self.nightly.window_seconds
        behind = sorted(key for key, last in ends.items() if last < seen_from)
        if behind:
            named = ", ".join(behind[:NAMED]) + (
                f" and {len(behind) - NAMED} more" if len(behind) > NAMED else ""
            )
            since = iso_seconds(min(ends[key] for key in behind))
            yield (
                f"{len(behind)} series end more than nightly.window before the newest point of their source; "
                f"rows of theirs that come late are not looked for: {named}. If there are some, run: "
                f"anomaly ingest --source {source.name} --since {since}"
            )


NOTHING = Again()
"""What is read of a source is what is new."""

NAMED = 5
"""At most so many series are named."""


def own(progress: Mapping[str, Json]) -> dict[str, Json]:
    """Return what is a source's own of its progress."""
    return {key: value for key, value in progress.items() if key != MEMORY}


def newest_point(store: PointStore, source: str) -> int | None:
    """Return the time of a source's newest point, epoch seconds; None before the first."""
    return max((row.last_ts for row in store.series(source) if row.last_ts is not None), default=None)


def _from(source: Source, progress: dict[str, Json], now: datetime, start: int) -> Iterator[Ingest]:
    """Yield what a source has from a time on."""
    since = datetime.fromtimestamp(max(start, 0), UTC)
    if isinstance(source, ReadsAgain):
        yield from unbroken(source.name, source.read_again(progress, now=now, since=since))
        return
    # Others read all they have. How far they got was stored with the news, and so were rows set aside.
    for batch in unbroken(source.name, source.read({}, now=now)):
        points, kept = batch.points, batch.points.ts >= start
        block = PointBlock(points.series[kept], points.ts[kept], points.value[kept])
        later = replace(batch, points=block, progress={}, rejected=0)
        yield replace(later, rejects=()) if isinstance(later, Reading) else later


def _noted(source: str, now: datetime) -> Ingest:
    none = np.zeros(0, np.int64)
    memory: dict[str, Json] = {MEMORY: {"at": int(now.timestamp())}}
    return Ingest(source, [], PointBlock(none, none, np.zeros(0)), memory)
