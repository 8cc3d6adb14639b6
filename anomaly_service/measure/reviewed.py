"""The database's own series as labelled ones: what people confirmed is the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly_service.db.store import SqlStore
from pipelines.monitor import MonitorSpec
from pipelines.names import Verdict
from pipelines.records import Json, Seconds, TargetRow, Values
from pipelines.store import PointReader

if TYPE_CHECKING:
    from pipelines.measure.backtest import Labelled

TRUE = (Verdict.CONFIRMED, Verdict.NEW_TREND)
FALSE = (Verdict.EXPECTED, Verdict.FALSE_POSITIVE)
VALUES = ("anomaly", "flatline")
"""Kinds of intervals that hold values; gaps have none to judge."""

FOREVER = 2**40
"""Epoch seconds after any point."""


@dataclass(frozen=True)
class ReviewedSeries:
    """A series of the database with what people said of its intervals."""

    labelled: Labelled

    @property
    def dataset(self) -> str:
        return self.labelled.dataset

    @property
    def series(self) -> str:
        return self.labelled.series

    def digest(self) -> str:
        """Return a digest of points and reviews: equal ones give equal results."""
        own = self.labelled
        parts = [own.ts.tobytes(), own.values.tobytes(), str((own.truth, own.unsure)).encode()]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def read(self) -> Labelled:
        return self.labelled


def reviewed_series(store: SqlStore, specs: Mapping[str, MonitorSpec]) -> dict[str, list[ReviewedSeries]]:
    """Return every series, or target of several, of which at least one interval was judged, by monitor.

    ``confirmed`` and ``new_trend`` label an interval, with the borders people gave it; ``expected`` and
    ``false_positive`` say it is normal; what nobody judged, or only with ``unsure``, counts neither way.
    """
    monitors = {row.name: row.id for row in store.monitors()}
    out: dict[str, list[ReviewedSeries]] = {}
    for name in specs:
        events: dict[str, list[Json]] = {}
        for event in store.rows("flagged_intervals", {"monitor": name}):
            if event["kind"] in VALUES:
                events.setdefault(event["series"], []).append(event)
        judged = {key: own for key, own in sorted(events.items()) if any(_is_judged(each) for each in own)}
        targets = {each.key: each for each in store.targets(monitors[name])} if judged else {}
        found = [_labelled(store, name, targets[key], own) for key, own in judged.items()]
        if found:
            out[name] = [ReviewedSeries(each) for each in found]
    return out


def _is_judged(event: Json) -> bool:
    return event["review_verdict"] in (*TRUE, *FALSE)


def _labelled(store: SqlStore, monitor: str, target: TargetRow, events: list[Json]) -> Labelled:
    from pipelines.measure.backtest import Labelled

    ts, values = _columns(store, target)
    true = [_span(event) for event in events if event["review_verdict"] in TRUE]
    return Labelled(
        dataset=monitor,
        series=target.key,
        ts=ts,
        values=values,
        truth=tuple(sorted(true)),
        step_seconds=target.step_seconds,
        unsure=tuple(sorted(_span(event) for event in events if not _is_judged(event))),
        timezone=target.timezone,
    )


def _columns(store: PointReader, target: TargetRow) -> tuple[Seconds, Values]:
    """Return every time at which one of a target's series has a point, and a column of values for each."""
    block = store.points(target.series_ids, 0, FOREVER)
    ts = np.unique(block.ts)
    values = np.full((len(ts), len(target.series_ids)), np.nan)
    for channel, series_id in enumerate(target.series_ids):
        own = block.series == series_id
        values[np.searchsorted(ts, block.ts[own]), channel] = block.value[own]
    return ts, values


def _span(event: Json) -> tuple[int, int]:
    return event["start_ts"], event["end_ts"]
