"""What is asked of storage, by who asks: every method is one transaction, begun and ended inside it.

Times are epoch seconds unless they are datetimes; spans are half-open.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pipelines.names import RunKind, RunState, Verdict
from pipelines.records import (
    CalibrationRow,
    Claim,
    Event,
    EventChange,
    EventPortrait,
    Json,
    LastRead,
    LineRow,
    Moment,
    MonitorRow,
    PastRun,
    PointBlock,
    PortraitState,
    ScoreBlock,
    SeriesRow,
    SeriesSpec,
    TargetRow,
    Turn,
    VersionRow,
)


@dataclass(frozen=True)
class Ingest:
    """One batch from a source: what was read, and how far that brings the source.

    Attributes:
        source: name of the source.
        series: what the ``points.series`` index points into.
        points: new and corrected values, in any order; of duplicates the last wins.
        progress: key to JSON, the source's own memory (a file's digest and bytes consumed, a
            watermark), stored in the same transaction so that nothing is taken twice or lost.
        rejected: rows set aside.
        held: points whose time has not come; stored beside the others, and ``release`` takes them in.
    """

    source: str
    series: Sequence[SeriesSpec]
    points: PointBlock
    progress: dict[str, Json] = field(default_factory=dict)
    rejected: int = 0
    held: PointBlock = field(default_factory=PointBlock.empty)


@dataclass(frozen=True)
class Ingested:
    """What one batch changed.

    Attributes:
        new, changed, unchanged: points by what the upsert did.
        earliest: time of the earliest new or changed point, per series id.
    """

    new: int
    changed: int
    unchanged: int
    rejected: int
    earliest: dict[int, int]


@dataclass(frozen=True)
class Deleted:
    """What deleting points of a series came to, or would.

    Attributes:
        points, held: points that were stored, and those that were held back.
        scores: rows of scores of targets that the series is part of.
        events: intervals that vanish with their points.
        versions: models that learned from what lies behind the series' newest point.
        last_ts: the series' newest point from now on.
    """

    points: int
    held: int
    scores: int
    events: int
    versions: int
    last_ts: int | None


@dataclass(frozen=True)
class NewVersion:
    """A fitted model to be stored.

    Attributes:
        weights: safetensors bytes of one bank member.
        shared_weights: equal numbers share one stored copy (group scope); None stores its own.
        stored_weights: the row of weights that are there already, in place of ``weights``.
        recipe, config: JSON, as in ``VersionRow``.
        calibrations: by mode, JSON as in ``CalibrationRow``, valid from the version's train_stop.
        anew: takes the place of the one that exists, which was fitted before all of its points had come.
    """

    target_id: int
    detector: str
    train_start: int
    train_stop: int
    recipe: Json
    config: Json
    weights: bytes
    card: Json
    status: str = "accepted"
    shared_weights: int | None = None
    stored_weights: int | None = None
    calibrations: dict[str, Json] = field(default_factory=dict)
    anew: bool = False


@dataclass(frozen=True)
class Batch:
    """Everything one step of scoring changed, committed together.

    Attributes:
        scores: rows to upsert (only those that the storage mode keeps).
        changes: event changes of ``pipelines.steps.reconcile``.
        scored_until, settled_until: new watermarks per target id; they only move forward.
        scored_from: time per target id; its versions trained up to then or later are scored by now.
        expect: revision of every event the changes were computed from. Where a stored revision
            or review differs (somebody judged meanwhile), ``commit`` raises StaleEventsError.
        models: id of the monitor, and how often its models had stood anew when the scores' were read; where
            that differs, ``commit`` raises StaleModelsError. It keeps a tick from judging by the models
            of yesterday what the night beside it has judged by new ones.
    """

    scores: ScoreBlock | None = None
    changes: Sequence[EventChange] = ()
    scored_until: dict[int, int] = field(default_factory=dict)
    settled_until: dict[int, int] = field(default_factory=dict)
    scored_from: dict[int, int] = field(default_factory=dict)
    expect: dict[int, int] = field(default_factory=dict)
    models: tuple[int, int] | None = None


class PointReader(Protocol):
    """What jobs and explanations ask of series: they take nothing in."""

    def series(self, source: str | None = None) -> list[SeriesRow]: ...
    def points(self, series_ids: Sequence[int], start: int, stop: int) -> PointBlock: ...


class PointStore(PointReader, Protocol):
    """Series and their points, for those that take them in."""

    def progress(self, source: str) -> dict[str, Json]: ...
    def ingest(self, batch: Ingest, claim: Claim | None = None) -> Ingested:
        """Store series, points and progress of a batch in one transaction.

        Raises:
            LostClaimError: the claim's fence is not the run's any more.
        """
        ...

    def note_look(self, at: datetime, sources: Collection[str]) -> list[Turn]:
        """Note what time it is for whoever looks, and which of these sources deliver, or stopped.

        Args:
            sources: all that the config declares.

        Returns:
            Those that stopped since the last look, or deliver again.
        """
        ...

    def clock(self) -> float:
        """Return the database's own time, epoch seconds."""
        ...

    def release(self, source: str, until: int, claim: Claim | None = None) -> Ingested:
        """Take in the points of a source that were held back and lie at or before this time."""
        ...

    def held(self, source: str) -> tuple[int, int | None]:
        """Return how many points of a source are held back, and the time of the first."""
        ...

    def delete_points_before(self, ts: int, sources: Collection[str] | None = None) -> int: ...

    def delete_points(self, series_id: int, start: int, stop: int, *, dry_run: bool = False) -> Deleted:
        """Delete the points of a series in the half-open span, with all that follows from them."""
        ...


class ModelStore(Protocol):
    """Monitors, their targets, and the models with which those are scored."""

    def sync_monitors(self, monitors: dict[str, Json]) -> list[MonitorRow]:
        """Make the monitors what the config says; the removed are disabled and keep their events.

        A section with ``renamed_from`` takes over that monitor's row, targets and events.
        """
        ...

    def monitors(self) -> list[MonitorRow]: ...
    def sync_targets(
        self, monitor_id: int, targets: Sequence[tuple[str, tuple[int, ...]]]
    ) -> list[TargetRow]:
        """Add targets (key, series ids) that are new; return all of the monitor's, by key."""
        ...

    def targets(self, monitor_id: int) -> list[TargetRow]: ...

    def add_versions(self, claim: Claim | None, versions: Sequence[NewVersion]) -> list[VersionRow]:
        """Store fits; what exists for a (target, train_stop, detector, config) is returned as stored.

        One that is made anew takes its place, with its id, and is not scored yet.
        """
        ...

    def versions(self, target_ids: Sequence[int], *, every: bool = False) -> list[VersionRow]:
        """Return the accepted versions of these targets, ordered by target and train_stop.

        With ``every`` also those that were refused: they score nothing.
        """
        ...

    def models(self, monitor_id: int) -> int:
        """Return how often the models and lines of a monitor stood anew; 0 for one that is unknown."""
        ...

    def models_stand(self, claim: Claim | None, monitor_id: int) -> None:
        """Note that a monitor's models and lines stand anew; no commit by older ones follows."""
        ...

    def weights(self, weights_ids: Iterable[int]) -> dict[int, bytes]: ...
    def calibrations(
        self, version_ids: Sequence[int], span: tuple[int, int] | None = None
    ) -> list[CalibrationRow]:
        """Return the calibrations of these versions; with a span only those that become valid in it."""
        ...

    def add_calibrations(
        self, claim: Claim | None, rows: Sequence[CalibrationRow], lines: Sequence[LineRow] = ()
    ) -> None:
        """Append calibrations and lines; one whose key (with its valid_from) is there is replaced."""
        ...

    def add_lines(self, claim: Claim | None, lines: Sequence[LineRow]) -> None:
        """Append lines; one with the same monitor, target, mode and valid_from is replaced."""
        ...

    def lines(
        self,
        monitor_id: int,
        span: tuple[int, int] | None = None,
        target_ids: Sequence[int] | None = None,
    ) -> list[LineRow]:
        """Return the monitor's lines.

        Args:
            span: only those in force at some time of it; the earliest is in force before its time too.
            target_ids: the monitor's own, and of the lines of single targets only theirs.
        """
        ...


class EventStore(Protocol):
    """What scores came to: events, what people said of them, and the scores themselves."""

    def commit(self, claim: Claim | None, batch: Batch) -> list[Event]:
        """Write scores, event changes and watermarks in one transaction; return the events changed.

        Raises:
            LostClaimError: the lease of the claim lapsed, or its fence is not the run's any more.
            StaleEventsError: an event in ``batch.expect`` has another revision, or a new event lies
                over one that is neither in ``expect`` nor changed.
            StaleModelsError: the monitor's models stand anew since those of ``batch.models``.
            UnstorableError: a score or a body is nothing that a database takes.
        """
        ...

    def scores(self, target_ids: Sequence[int], start: int, stop: int) -> ScoreBlock:
        """Stored rows of these targets, by target and time; NaN where a score is none."""
        ...

    def events(
        self, target_ids: Sequence[int], start: int, stop: int, *, as_reviewed: bool = False
    ) -> list[Event]:
        """Events, whatever their status but ``merged_into``, that overlap the span.

        With ``as_reviewed`` the borders that reviewers moved say whether they do.
        """
        ...

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
        """Append a review; borders the reviewer moved stand in their own columns and win in the views."""
        ...

    def event_portraits(
        self,
        monitor_id: int,
        limit: int,
        *,
        judged: bool | None = None,
        after: tuple[int, int] | None = None,
    ) -> list[tuple[Event, EventPortrait | None]]:
        """Events of a monitor that stand, and what was seen of each: judged ones first, then the newest.

        Args:
            judged: only those that people are sure of, or only the others; both where None.
            after: start and id of the last event of the page before.
        """
        ...

    def portrait_state(self, monitor_id: int, verdicts: int) -> PortraitState:
        """Whether portraits are up to date; of the events that were judged the newest ``verdicts`` count."""
        ...

    def write_event_portraits(self, claim: Claim | None, rows: Sequence[EventPortrait]) -> None:
        """Write portraits, each in place of what stands for its event; events and reviews stay."""
        ...


class RunStore(Protocol):
    """Work that is due, waiting or claimed."""

    def schedule(
        self, kind: RunKind, monitor_id: int | None, scheduled_for: datetime, source: str = ""
    ) -> bool:
        """Add a waiting run; False where (kind, monitor, source, scheduled_for) exists already."""
        ...

    def claim(
        self,
        owner: str,
        lease_seconds: float,
        kinds: Sequence[RunKind] = (),
        besides: Collection[int] = (),
        *,
        until: datetime | None = None,
    ) -> Claim | None:
        """Take the oldest waiting run, or a running one whose lease ended, by one UPDATE .. RETURNING.

        A night whose attempts are used up is taken again after a pause, until the next one is there. Of
        one monitor, a tick and a night may be at work at once; no other two runs.

        Args:
            kinds: only of these; all where empty.
            besides: ids of runs whose monitors and sources are left alone for now.
            until: what is scheduled for later is left alone.
        """
        ...

    def begin_read(self, source: str, at: datetime, owner: str, lease_seconds: float) -> Claim:
        """Add a read of a source that is at work at once; one of the same moment that ended begins again.

        Raises:
            BusySourceError: somebody reads that source.
        """
        ...

    def heartbeat(self, claim: Claim, lease_seconds: float) -> None:
        """Extend the lease.

        Raises:
            LostClaimError: it lapsed already.
        """
        ...

    def finish(self, claim: Claim, state: RunState, outcome: Json, error: str = "") -> None:
        """End the run, also after its lease lapsed where nobody took it.

        Raises:
            LostClaimError: another holds the run.
        """
        ...

    def give_back(self, claim: Claim) -> None:
        """Make the run waiting again without counting the attempt.

        Raises:
            LostClaimError: another holds the run.
        """
        ...

    def probe(self) -> None:
        """Raise what a write would raise where the database takes none at the moment."""
        ...

    def last_run(
        self, kind: RunKind, monitor_id: int | None = None, *, until: datetime | None = None
    ) -> datetime | None:
        """Return the newest time, until then, for which such a run was scheduled."""
        ...

    def past_runs(
        self, kind: RunKind, monitor_id: int | None, source: str, until: datetime, limit: int
    ) -> list[PastRun]:
        """Return the newest runs of a kind, of one monitor or source, that were scheduled until then."""
        ...

    def moment(self) -> Moment:
        """Return what the database's clock says, and what of all runs is out of time."""
        ...

    def last_reads(self, sources: Collection[str], until: datetime) -> dict[str, LastRead]:
        """Return what became of the newest reads of these sources that were scheduled until then.

        One that a wrong clock scheduled for later does not count.
        """
        ...


class SeriesStore(PointReader, ModelStore, Protocol):
    """What it takes to look at a stretch of a target again with the model it had."""


class JobStore(SeriesStore, EventStore, Protocol):
    """What a monitor's job works at."""


class Store(PointStore, JobStore, RunStore, Protocol):
    """All of it."""
