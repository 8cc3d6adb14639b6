"""Which targets a monitor asks for: one per series, or one per group of labels with its channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.monitor import MonitorSpec
from pipelines.records import SeriesRow, key_of

NAMED = 3
"""Series named in a reason at most; the rest is counted."""


@dataclass(frozen=True)
class Wanted:
    """A target that a monitor asks for.

    Attributes:
        key: of its only series, or ``ccu,logins{realm=kr-1}``.
        series: one row per channel, in order; what there is of them where the target cannot be made.
        why: why it cannot be made; empty where it can.
    """

    key: str
    series: tuple[SeriesRow, ...]
    why: str = ""

    @property
    def series_ids(self) -> tuple[int, ...]:
        return tuple(row.id for row in self.series)


def wanted(spec: MonitorSpec, series: Iterable[SeriesRow]) -> list[Wanted]:
    """Return the targets that a monitor asks for, those that cannot be made too."""
    selected = [row for row in series if spec.selects(row.spec.metric, row.spec.labels)]
    if not spec.channels:
        return [Wanted(row.spec.key, (row,)) for row in selected]
    groups: dict[str, list[SeriesRow]] = {}
    for row in selected:
        groups.setdefault(group_key(spec, row), []).append(row)
    return [_of_group(spec, key, rows) for key, rows in sorted(groups.items())]


def made(found: Iterable[Wanted]) -> list[tuple[str, tuple[int, ...]]]:
    """Return key and series ids of the targets that can be made."""
    return [(each.key, each.series_ids) for each in found if not each.why]


def waiting(
    spec: MonitorSpec, found: Iterable[Wanted], stored: Mapping[str, Sequence[SeriesRow]]
) -> dict[str, str]:
    """Return, for every target that is asked for and not scored, the reason, by key.

    One that is stored goes on with the series it was made of, whatever else would match by now.

    Args:
        stored: the series of every stored target of the monitor, by key.
    """
    reasons = {each.key: each.why if each.key not in stored else "" for each in found}
    for key, rows in stored.items():
        if key in reasons and not is_target(spec, key, rows):
            reasons[key] = (
                f"it was made of {_named(rows)}, not all of which the monitor takes now; "
                "widen `series`, or give the monitor another name to begin anew"
            )
    return {key: why for key, why in reasons.items() if why}


def is_target(spec: MonitorSpec, key: str, rows: Sequence[SeriesRow]) -> bool:
    """True where a target of these series is one that the monitor, as it is now, asks for."""
    if not all(spec.selects(row.spec.metric, row.spec.labels) for row in rows):
        return False
    if not spec.channels:
        return len(rows) == 1
    return group_key(spec, rows[0]) == key


def group_key(spec: MonitorSpec, row: SeriesRow) -> str:
    """Return the key of the target that a series is a channel of."""
    return key_of(spec.channels, {name: row.spec.labels[name] for name in spec.group_by})


def _of_group(spec: MonitorSpec, key: str, rows: Sequence[SeriesRow]) -> Wanted:
    matching = {metric: [row for row in rows if row.spec.metric == metric] for metric in spec.channels}
    return Wanted(key, tuple(row for found in matching.values() for row in found), _trouble(matching))


def _trouble(matching: Mapping[str, Sequence[SeriesRow]]) -> str:
    """Return which metrics have not exactly one series; empty where all have."""
    missing = [metric for metric, found in matching.items() if not found]
    several = {metric: found for metric, found in matching.items() if len(found) > 1}
    parts = [f"no series of metric {', '.join(missing)}"] if missing else []
    if several:
        counted = ", ".join(f"{len(found)} series of metric {metric}" for metric, found in several.items())
        some = _named(next(iter(several.values())))
        parts.append(f"{counted}: {some}; tell them apart with `group_by` or leave some out with `series`")
    return "; ".join(parts)


def _named(rows: Sequence[SeriesRow]) -> str:
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return ", ".join(row.spec.key for row in rows[:NAMED]) + more
