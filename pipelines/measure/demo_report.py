"""How flagged intervals compare with planted incidents: what was found, how late, and at what price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pipelines.records import Json
from pipelines.times import WEEK, iso_seconds

PROMPT_SECONDS = 30 * 60
"""A first flag counts as prompt up to so long after the incident's end."""


@dataclass(frozen=True)
class Incident:
    """Something that was planted; both ends belong to it, epoch seconds."""

    series: str
    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Flagged:
    """One flagged interval; both ends belong to it, epoch seconds.

    Attributes:
        first_detected: when it was first flagged, in the time of the data.
    """

    monitor: str
    series: str
    kind: str
    start: int
    end: int
    first_detected: int
    peak_score: float = 1.0

    def overlaps(self, incident: Incident) -> bool:
        return self.series == incident.series and self.start <= incident.end and self.end >= incident.start


@dataclass(frozen=True)
class Watched:
    """One series that a monitor watches, and the span it had points in, epoch seconds."""

    monitor: str
    series: str
    start: int
    stop: int


@dataclass(frozen=True)
class IncidentOutcome:
    """What became of one incident; the intervals that overlap it, the first flagged first."""

    incident: Incident
    flagged: tuple[Flagged, ...]

    @property
    def found(self) -> bool:
        return bool(self.flagged)

    @property
    def late_seconds(self) -> int | None:
        """From the incident's start to the first flag; 0 where it was flagged already."""
        return max(0, self.flagged[0].first_detected - self.incident.start) if self.flagged else None

    @property
    def after_end_seconds(self) -> int | None:
        """From the incident's end to the first flag, negative while it was going on."""
        return self.flagged[0].first_detected - self.incident.end if self.flagged else None

    @property
    def start_error_seconds(self) -> int | None:
        """From the incident's start to that of its earliest interval, negative where that begins before."""
        return min(f.start for f in self.flagged) - self.incident.start if self.flagged else None

    @property
    def end_error_seconds(self) -> int | None:
        """From the incident's end to that of its latest interval, positive where that goes on."""
        return max(f.end for f in self.flagged) - self.incident.end if self.flagged else None

    def figures(self) -> Json:
        """Return where it was planted and how far off it was found; None where it was missed."""
        return {
            "kind": self.incident.kind,
            "series": self.incident.series,
            "start_at": iso_seconds(self.incident.start),
            "end_at": iso_seconds(self.incident.end),
            "intervals": len(self.flagged),
            "late_minutes": _minutes(self.late_seconds),
            "start_error_minutes": _minutes(self.start_error_seconds),
            "end_error_minutes": _minutes(self.end_error_seconds),
        }


@dataclass(frozen=True)
class DemoReport:
    """Planted against flagged.

    Attributes:
        outcomes: one for every incident, by start.
        false_alarms: flagged intervals that overlap no incident.
        flagged: all of them.
        watched: what the monitors watch.
        budgets: alarms a week that each monitor was asked for.
    """

    outcomes: tuple[IncidentOutcome, ...]
    false_alarms: tuple[Flagged, ...]
    flagged: tuple[Flagged, ...]
    watched: tuple[Watched, ...]
    budgets: Mapping[str, float]

    @property
    def found(self) -> int:
        return sum(o.found for o in self.outcomes)

    @property
    def weeks(self) -> float:
        """How long the data last."""
        if not self.watched:
            return 0.0
        return (max(w.stop for w in self.watched) - min(w.start for w in self.watched)) / WEEK

    @property
    def share_flagged(self) -> float:
        """Share of all watched time, every series counted, that lies in a flagged interval."""
        watched = sum(w.stop - w.start for w in self.watched)
        return sum(f.end - f.start for f in self.flagged) / watched if watched else 0.0

    def kinds(self) -> dict[str, tuple[int, int]]:
        """Return how many were planted and how many found, by kind."""
        counts: dict[str, tuple[int, int]] = {}
        for outcome in self.outcomes:
            planted, found = counts.get(outcome.incident.kind, (0, 0))
            counts[outcome.incident.kind] = (planted + 1, found + outcome.found)
        return dict(sorted(counts.items()))

    def false_by_monitor(self) -> dict[str, int]:
        """Return the number of false alarms of every monitor."""
        return {name: sum(f.monitor == name for f in self.false_alarms) for name in self.budgets}

    def flagged_by_monitor(self) -> dict[str, int]:
        """Return the number of intervals of every monitor."""
        return {name: sum(f.monitor == name for f in self.flagged) for name in self.budgets}

    def figures(self) -> Json:
        """Return everything as JSON; rates are per week of data, shares from 0 to 1."""
        late = [o.late_seconds / 60 for o in self.outcomes if o.late_seconds is not None]
        after = [o.after_end_seconds / 60 for o in self.outcomes if o.after_end_seconds is not None]
        weeks = self.weeks or 1.0
        return {
            "planted": len(self.outcomes),
            "found": self.found,
            "recall": self.found / len(self.outcomes) if self.outcomes else None,
            "kinds": {
                kind: {"planted": planted, "found": found, "recall": found / planted}
                for kind, (planted, found) in self.kinds().items()
            },
            "incidents": [outcome.figures() for outcome in self.outcomes],
            "late_minutes_median": median(late) if late else None,
            "late_minutes_worst": max(late, default=None),
            "after_end_minutes_worst": max(after, default=None),
            "prompt": sum(minutes * 60 <= PROMPT_SECONDS for minutes in after),
            "flagged": len(self.flagged),
            "share_flagged": self.share_flagged,
            "weeks": self.weeks,
            "false_alarms": len(self.false_alarms),
            "false_alarms_per_week": len(self.false_alarms) / weeks,
            "budget_per_week": sum(self.budgets.values()),
            "monitors": {
                name: {"budget_per_week": self.budgets[name], "false_alarms_per_week": count / weeks}
                for name, count in self.false_by_monitor().items()
            },
        }


def compare(
    incidents: Iterable[Incident],
    flagged: Sequence[Flagged],
    watched: Iterable[Watched],
    budgets: Mapping[str, float],
) -> DemoReport:
    """Return what was found, missed and flagged for nothing.

    An interval belongs to an incident where both concern the same series and overlap; two
    intervals on one incident are one find and no false alarm.
    """
    incidents = sorted(incidents, key=lambda i: (i.start, i.series, i.kind))
    outcomes = tuple(IncidentOutcome(incident, _belonging(incident, flagged)) for incident in incidents)
    explained = {f for outcome in outcomes for f in outcome.flagged}
    return DemoReport(
        outcomes=outcomes,
        false_alarms=tuple(f for f in flagged if f not in explained),
        flagged=tuple(flagged),
        watched=tuple(watched),
        budgets=dict(budgets),
    )


def _minutes(seconds: int | None) -> float | None:
    return None if seconds is None else seconds / 60


def _belonging(incident: Incident, flagged: Sequence[Flagged]) -> tuple[Flagged, ...]:
    return tuple(sorted((f for f in flagged if f.overlaps(incident)), key=lambda f: f.first_detected))
