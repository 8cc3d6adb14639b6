"""When the series of a source brought points last, and what that says of one that brings none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines.records import SeriesRow
from pipelines.times import live_seconds

SILENT_STEPS = 2
"""Where nobody else of a source brought a point for so many steps and the delay, it is silent as a whole."""


@dataclass
class News:
    """What a source brought; times are epoch seconds.

    Attributes:
        newest: of its newest point.
        live_for: how old that may be in a source that delivers.
        was_live: it was seen to deliver, so that time goes on for it.
        by_step: by the step of its series, their newest points, the two that are newest of all.
    """

    newest: int = 0
    live_for: int = 0
    was_live: bool = False
    by_step: dict[int, list[int]] = field(default_factory=dict)

    def add(self, row: SeriesRow) -> None:
        spec, last = row.spec, row.last_ts or 0
        self.newest = max(self.newest, last)
        self.live_for = max(self.live_for, live_seconds(spec.step_seconds, spec.delay_seconds))
        self.was_live |= row.live
        known = self.by_step.setdefault(spec.step_seconds, [])
        self.by_step[spec.step_seconds] = sorted([*known, last])[-2:]

    def is_live(self, now: int) -> bool:
        """True where time goes on for the source; for an archive it stands still at the newest point."""
        return self.was_live or now - self.newest < self.live_for

    def told_until(self, row: SeriesRow, now: int) -> int:
        """Return up to when the absence of points says something of a series alone.

        Where all that come as often are silent, it is their source that stopped, and not each of them.
        """
        step, last = row.spec.step_seconds, row.last_ts or 0
        others = sorted(ts for each, newest in self.by_step.items() if each <= step for ts in newest)
        if last in others:
            others.remove(last)
        if not others or now - others[-1] < SILENT_STEPS * step + row.spec.delay_seconds:
            return now
        return others[-1]


def news_by_source(series: Iterable[SeriesRow]) -> dict[str, News]:
    """Return what every source brought, by name."""
    found: dict[str, News] = {}
    for row in series:
        found.setdefault(row.spec.source, News()).add(row)
    return found
