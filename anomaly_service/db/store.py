"""The store of ``pipelines.store`` on SQLite or PostgreSQL: one method, one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Self

import numpy as np
from sqlalchemy import Connection, select
from sqlalchemy.engine import URL

from anomaly_service.db import (
    configs,
    deletion,
    event_portraits,
    events,
    held,
    looks,
    migrate,
    monitors,
    pages,
    points,
    queries,
    retention,
    reviews,
    runs,
    storage,
    versions,
)
from anomaly_service.db.bulk import Bulk, SqliteBulk
from anomaly_service.db.configs import InForce
from anomaly_service.db.deadline import QUERY_SECONDS
from anomaly_service.db.engine import db_now, is_read_only, make_engine, transaction
from anomaly_service.db.pages import Asked, Page
from anomaly_service.db.reviews import Said
from anomaly_service.db.storage import TableSize
from anomaly_service.db.tables import Base
from anomaly_service.errors import DatabaseUnavailableError
from anomaly_service.failpoints import failpoint
from anomaly_service.secrets import hidden, hidden_within
from pipelines.names import RunKind, RunState, Verdict
from pipelines.records import (
    CalibrationRow,
    Claim,
    Event,
    EventPortrait,
    Interval,
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
    TargetRow,
    Turn,
    VersionRow,
)
from pipelines.store import Batch, Deleted, Ingest, Ingested, NewVersion

PAUSE_SECONDS = 0.02
"""Between two transactions that delete: SQLite's writers look for a gap, and would find none."""


class SqlStore:
    """Storage in one SQL database; safe to share between threads.

    Args:
        url: ``sqlite:///file.db`` or ``postgresql://...``.
        max_attempts: how often a run may be claimed before it counts as failed.
        query_seconds: how long a statement may take.
        on_changes: told of every commit by which events changed, once it stands, with its claim.

    Raises:
        SchemaError: the database was not migrated to this release.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        max_attempts: int = 3,
        query_seconds: float = QUERY_SECONDS,
        on_changes: Callable[[Claim | None, Sequence[events.Changed]], None] = lambda claim, changed: None,
    ) -> None:
        self.engine = make_engine(url, query_seconds)
        self._on_changes = on_changes
        self.max_attempts = max_attempts
        self._bulk: Bulk = _bulk(self.engine.dialect.name)
        try:
            migrate.check_there(self.engine.url)
            with self._read() as connection:
                migrate.check_head(connection)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with transaction(self.engine, write=False) as connection:
            yield connection

    @contextmanager
    def _write(self, claim: Claim | None = None) -> Iterator[Connection]:
        """A write transaction, which a lost claim cannot begin."""
        with transaction(self.engine, write=True) as connection:
            runs.check(connection, claim)
            yield connection

    # series and points

    def progress(self, source: str) -> dict[str, Json]:
        """Return the source's own memory, by key."""
        with self._read() as connection:
            return points.progress(connection, source)

    def ingest(self, batch: Ingest, claim: Claim | None = None) -> Ingested:
        """Store series, points and progress of a batch; values that are not finite count as rejected.

        Raises:
            LostClaimError: the lease of the claim lapsed or its fence is not the run's any more.
        """
        self._make_room(batch.points)
        with self._write(claim) as connection:
            done = points.ingest(connection, self._bulk, batch)
            failpoint("ingest-before-commit")
        failpoint("ingest-after-commit")
        return done

    def _make_room(self, block: PointBlock) -> None:
        self._bulk.make_room(self.engine, "points", block.ts[np.isfinite(block.value)])

    def clock(self) -> float:
        """Return the database's own time, epoch seconds."""
        with self._read() as connection:
            return float(connection.scalar(select(db_now())) or 0.0)

    def held(self, source: str) -> tuple[int, int | None]:
        """Return how many points of a source are held back, and the time of the first."""
        with self._read() as connection:
            return held.standing(connection, source)

    def release(self, source: str, until: int, claim: Claim | None = None) -> Ingested:
        """Take in the points of a source that were held back and lie at or before this time.

        Raises:
            LostClaimError: the lease of the claim lapsed or its fence is not the run's any more.
        """
        new, earliest = 0, dict[int, int]()
        while len(due := self._due(source, until)):
            self._make_room(due)
            with self._write(claim) as connection:
                done = points.release(connection, self._bulk, source, due)
            new += done.new
            earliest = done.earliest | earliest
        return Ingested(new=new, changed=0, unchanged=0, rejected=0, earliest=earliest)

    def _due(self, source: str, until: int) -> PointBlock:
        with self._read() as connection:
            return held.due(connection, source, until)

    def series(self, source: str | None = None) -> list[SeriesRow]:
        """Return the series of one source, or all, by key."""
        with self._read() as connection:
            return points.rows(connection, source)

    def points(self, series_ids: Sequence[int], start: int, stop: int) -> PointBlock:
        """Return the points of these series in the half-open span, sorted by series and time."""
        with self._read() as connection:
            return self._bulk.read_points(connection, series_ids, start, stop)

    def delete_points_before(self, ts: int, sources: Collection[str] | None = None) -> int:
        """Delete points before this time, of these sources or of all; return how many."""

        def move(connection: Connection, ids: Sequence[int]) -> None:
            points.move_first(connection, ts, ids)

        with self._write() as connection:
            whose = points.forget_before(connection, ts, sources)
        return self._delete_before("points", ts, whose, move)

    def delete_points(self, series_id: int, start: int, stop: int, *, dry_run: bool = False) -> Deleted:
        """Delete the points of a series in the half-open span, with all that follows from them.

        Args:
            dry_run: only say what it would come to.
        """
        with self._write() as connection, connection.begin_nested() as step:
            deleted = deletion.delete_points(connection, series_id, int(start), int(stop))
            if dry_run:
                step.rollback()
            return deleted

    def note_look(self, at: datetime, sources: Collection[str]) -> list[Turn]:
        """Note what time it is and what it says of these sources, all that there are; see ``db.looks``."""
        with self._write() as connection:
            return looks.note(connection, int(at.timestamp()), sources)

    # monitors and targets

    def sync_monitors(self, wanted: dict[str, Json]) -> list[MonitorRow]:
        """Make the monitors what the config says; return those it names, by name."""
        with self._write() as connection:
            return monitors.sync(connection, wanted)

    def monitors(self) -> list[MonitorRow]:
        """Return every monitor by name, the disabled too."""
        with self._read() as connection:
            return monitors.rows(connection)

    def config_in_force(self) -> InForce | None:
        """Return the config that the service went by last, without secrets; None before the first."""
        with self._read() as connection:
            return configs.read(connection)

    def put_in_force(self, file: str, body: Json) -> None:
        """Remember a config that was put to work, where it is another than before."""
        known = self.config_in_force()
        if known is None or (known.file, known.body) != (file, body):
            with self._write() as connection:
                configs.write(connection, file, body)

    def sync_targets(
        self, monitor_id: int, targets: Sequence[tuple[str, tuple[int, ...]]]
    ) -> list[TargetRow]:
        """Add targets whose key is new; return all of the monitor's, by key."""
        with self._write() as connection:
            return monitors.sync_targets(connection, monitor_id, targets)

    def targets(self, monitor_id: int) -> list[TargetRow]:
        """Return the monitor's targets, by key."""
        with self._read() as connection:
            return monitors.targets(connection, monitor_id)

    # versions, calibrations, lines

    def add_versions(self, claim: Claim | None, versions_: Sequence[NewVersion]) -> list[VersionRow]:
        """Store fits; one that exists for (target, train_stop, detector, config) is returned as stored."""
        with self._write(claim) as connection:
            stored = versions.add(connection, versions_)
            failpoint("fit-before-commit")
        failpoint("fit-after-commit")
        return stored

    def versions(self, target_ids: Sequence[int], *, every: bool = False) -> list[VersionRow]:
        """Return the accepted versions of these targets (``every``: also candidates and failed)."""
        with self._read() as connection:
            return versions.rows(connection, target_ids, every=every)

    def models(self, monitor_id: int) -> int:
        """Return how often the models and lines of a monitor stood anew; 0 for one that is unknown."""
        with self._read() as connection:
            return monitors.models(connection, monitor_id)

    def models_stand(self, claim: Claim | None, monitor_id: int) -> None:
        """Note that a monitor's models and lines stand anew; no commit by older ones follows."""
        with self._write(claim) as connection:
            monitors.models_stand(connection, monitor_id)

    def weights(self, weights_ids: Iterable[int]) -> dict[int, bytes]:
        """Return safetensors bytes by id."""
        with self._read() as connection:
            return versions.weights(connection, weights_ids)

    def add_calibrations(
        self, claim: Claim | None, rows: Sequence[CalibrationRow], lines: Sequence[LineRow] = ()
    ) -> None:
        """Append calibrations and lines; one whose key (with its valid_from) is there is replaced."""
        with self._write(claim) as connection:
            versions.add_calibrations(connection, rows)
            versions.add_lines(connection, lines)
            failpoint("calibrate-before-commit")
        failpoint("calibrate-after-commit")

    def calibrations(
        self, version_ids: Sequence[int], span: tuple[int, int] | None = None
    ) -> list[CalibrationRow]:
        """Return the calibrations of these versions by version, mode and time; those valid from a span on."""
        with self._read() as connection:
            return versions.calibrations(connection, version_ids, span)

    def add_lines(self, claim: Claim | None, lines: Sequence[LineRow]) -> None:
        """Append lines; one with the same monitor, target, mode and valid_from is replaced."""
        with self._write(claim) as connection:
            versions.add_lines(connection, lines)

    def lines(
        self,
        monitor_id: int,
        span: tuple[int, int] | None = None,
        target_ids: Sequence[int] | None = None,
    ) -> list[LineRow]:
        """Return the monitor's lines by target, mode and time; those in force in a span, of some targets."""
        with self._read() as connection:
            return versions.lines(connection, monitor_id, span, target_ids)

    def prune_lines(self, before: int, monitor_ids: Collection[int] | None = None) -> int:
        """Delete the lines of these monitors, or of all, that were no longer in force at this time."""
        with self._write() as connection:
            return versions.prune_lines(connection, before, monitor_ids)

    def prune_versions(self, keep: int, before: int, target_ids: Collection[int] | None = None) -> int:
        """Delete the versions that nothing from ``before`` on needs, but the newest ``keep`` of each target.

        Args:
            target_ids: of these targets only; of all where None.
        """
        with self._write() as connection:
            return versions.prune(connection, keep, before, target_ids)

    # scores and events

    def commit(self, claim: Claim | None, batch: Batch) -> list[Event]:
        """Write scores, event changes and watermarks in one transaction; return the events that differ.

        Raises:
            LostClaimError: the lease of the claim lapsed or its fence is not the run's any more.
            StaleEventsError: an event in ``batch.expect`` has another revision, or a new event lies
                over one that is neither in ``expect`` nor changed.
            StaleModelsError: the monitor's models stand anew since those of ``batch.models``.
            ReviewedEventError: a reviewed or added event would become outdated.
        """
        if batch.scores is not None:
            self._bulk.make_room(self.engine, "scores", batch.scores.ts)
        with self._write(claim) as connection:
            monitors.check_models(connection, batch.models)
            # Two passes that found the same interval would each see none of it stored.
            touched = {change.target_id for change in batch.changes}
            monitors.lock(connection, touched | batch.scored_until.keys() | batch.settled_until.keys())
            changed = events.apply(connection, batch.changes, batch.expect, claim.run_id if claim else None)
            failpoint("reconcile-before-commit")
            if batch.scores is not None and len(batch.scores.ts):
                self._bulk.upsert_scores(connection, batch.scores)
            monitors.advance(connection, "scored_until", batch.scored_until)
            monitors.advance(connection, "settled_until", batch.settled_until)
            versions.mark_scored(connection, batch.scored_from)
            failpoint("score-before-commit")
        failpoint("score-after-commit")
        if changed:
            self._on_changes(claim, changed)
        return [each.after for each in changed]

    def scores(self, target_ids: Sequence[int], start: int, stop: int) -> ScoreBlock:
        """Return the stored scores of these targets in the half-open span, sorted by target and time."""
        with self._read() as connection:
            return self._bulk.read_scores(connection, target_ids, start, stop)

    def delete_scores_before(self, ts: int, target_ids: Collection[int] | None = None) -> int:
        """Delete scores before this time, of these targets or of all; return how many."""
        with self._write() as connection:
            monitors.forget_scores(connection, ts, target_ids)
        return self._delete_before("scores", ts, None if target_ids is None else sorted(target_ids))

    def events(
        self, target_ids: Sequence[int], start: int, stop: int, *, as_reviewed: bool = False
    ) -> list[Event]:
        """Return events, whatever their status but ``merged_into``, that overlap the span.

        Args:
            as_reviewed: by the borders that reviewers moved, not by those that the detector found.
        """
        with self._read() as connection:
            return events.overlapping(connection, target_ids, start, stop, as_reviewed=as_reviewed)

    def review(
        self,
        event_id: int,
        verdict: Verdict | None,
        *,
        cause: str = "",
        comment: str = "",
        by: str = "",
        start: int | None = None,
        end: int | None = None,
        expect: int | None = None,
    ) -> int:
        """Append a verdict, moved borders or both, and return the review's id; the borders win in the views.

        Args:
            expect: the revision of the event that was looked at; None for whichever it has.

        Raises:
            UnknownEventError: there is no such event, or it was merged into another.
            ChangedEventError: it has another revision than expected.
            AskedError: neither a verdict nor a border, or an interval that ends before it starts.
            OverlappingEventError: moved there, it would lie over another anomaly of the target.
        """
        with self._write() as connection:
            said = Said(cause, comment, by)
            return reviews.review(connection, event_id, verdict, said, start=start, end=end, expect=expect)

    def add_event(
        self,
        target_id: int,
        interval: Interval,
        verdict: Verdict,
        *,
        detected_at: int,
        cause: str = "",
        comment: str = "",
        by: str = "",
    ) -> tuple[int, bool]:
        """Store an event that a person drew; return its id, and False where the very same stands already.

        Args:
            detected_at: when it was drawn, epoch seconds.

        Raises:
            OverlappingEventError: another anomaly of the target lies there.
        """
        with self._write() as connection:
            said = Said(cause, comment, by)
            return reviews.add(connection, target_id, interval, verdict, said, detected_at)

    def undo(self, event_id: int, *, comment: str = "", by: str = "", expect: int | None = None) -> Json:
        """Take back the newest act of people on an event that stands, by a new row; return that act.

        Raises:
            UnknownEventError: there is no such event, or it was merged into another.
            ChangedEventError: it has another revision than expected.
            NothingToUndoError: nothing is left.
        """
        with self._write() as connection:
            return reviews.undo(connection, event_id, Said("", comment, by), expect=expect)

    def revisions(self, event_id: int) -> list[Json]:
        """Return every revision of an event, the oldest first."""
        with self._read() as connection:
            return events.revisions(connection, event_id)

    def reviews(self, event_id: int) -> list[Json]:
        """Return every act of people on an event, the oldest first; ``undone`` where one was taken back."""
        with self._read() as connection:
            return reviews.rows(connection, event_id)

    def event_portraits(
        self,
        monitor_id: int,
        limit: int,
        *,
        judged: bool | None = None,
        after: tuple[int, int] | None = None,
    ) -> list[tuple[Event, EventPortrait | None]]:
        """Return a monitor's events that stand, with portraits: judged ones first, then the newest.

        Args:
            judged: only those that people are sure of, or only the others; both where None.
            after: start and id of the last event of the page before.
        """
        with self._read() as connection:
            return event_portraits.newest(connection, monitor_id, limit, judged=judged, after=after)

    def portrait_state(self, monitor_id: int, verdicts: int) -> PortraitState:
        """Return whether the portraits of a monitor are up to date, and how many suggestions stand.

        Args:
            verdicts: of the events that were judged only so many count, the newest.
        """
        with self._read() as connection:
            return event_portraits.state(connection, monitor_id, verdicts)

    def write_event_portraits(self, claim: Claim | None, rows: Sequence[EventPortrait]) -> None:
        """Write portraits, each in place of what stands for its event; events and reviews stay."""
        with self._write(claim) as connection:
            event_portraits.write(connection, rows)

    # runs

    def schedule(
        self, kind: RunKind, monitor_id: int | None, scheduled_for: datetime, source: str = ""
    ) -> bool:
        """Add a waiting run; False where (kind, monitor, source, scheduled_for) exists already."""
        with self._write() as connection:
            return runs.schedule(connection, kind, monitor_id, scheduled_for, source)

    def claim(
        self,
        owner: str,
        lease_seconds: float,
        kinds: Sequence[RunKind] = (),
        besides: Collection[int] = (),
        *,
        until: datetime | None = None,
    ) -> Claim | None:
        """Take the oldest run that waits or whose lease lapsed, unless its monitor or source is worked on.

        Beside a monitor's night its tick may be taken, and the other way round.

        Args:
            kinds: only of these; all where empty.
            besides: ids of runs whose monitors and sources are left alone for now.
            until: what is scheduled for later is left alone: a clock that was ahead scheduled it.
        """
        with self._read() as connection:
            # Whoever looks every few seconds and finds nothing writes nothing, and keeps nobody waiting.
            if not runs.is_any(connection, kinds, besides, until):
                return None
        with self._write() as connection:
            return runs.claim(connection, owner, lease_seconds, kinds, besides, self.max_attempts, until)

    def begin_read(self, source: str, at: datetime, owner: str, lease_seconds: float) -> Claim:
        """Add a read of a source that is at work at once; one of the same moment that ended begins again.

        Raises:
            BusySourceError: somebody reads that source.
        """
        with self._write() as connection:
            return runs.begin_read(connection, source, at, owner, lease_seconds)

    def heartbeat(self, claim: Claim, lease_seconds: float) -> None:
        """Extend the lease.

        Raises:
            LostClaimError: it lapsed already.
        """
        with self._write() as connection:
            runs.heartbeat(connection, claim, lease_seconds)

    def finish(self, claim: Claim, state: RunState, outcome: Json, error: str = "") -> None:
        """End a run; ``WAITING`` asks for another attempt, until ``max_attempts`` make it failed.

        Raises:
            LostClaimError: another holds the run; that its lease lapsed alone is no reason.
        """
        if claim.kind is RunKind.NIGHTLY:
            failpoint("nightly-before-finish")
        with self._write() as connection:
            runs.finish(connection, claim, state, hidden_within(outcome), hidden(error), self.max_attempts)

    def give_back(self, claim: Claim) -> None:
        """Make the run waiting again without counting the attempt.

        Raises:
            LostClaimError: another holds the run; that its lease lapsed alone is no reason.
        """
        with self._write() as connection:
            runs.give_back(connection, claim)

    def note_run(
        self,
        kind: RunKind,
        monitor_id: int,
        at: datetime,
        state: RunState,
        outcome: Json,
        *,
        error: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Put what a command did among the runs; one of the same kind, monitor and time is replaced."""
        with self._write() as connection:
            told = hidden_within(outcome)
            runs.note(connection, kind, monitor_id, at, state, told, hidden(error), seconds)

    def probe(self) -> None:
        """Ask the database whether it takes anything at the moment; nothing is changed.

        Raises:
            DatabaseUnavailableError: it does not.
        """
        with self._write() as connection:
            runs.probe(connection)

    def last_run(
        self, kind: RunKind, monitor_id: int | None = None, *, until: datetime | None = None
    ) -> datetime | None:
        """Return the newest time for which such a run was scheduled, whatever became of it.

        Args:
            until: later ones do not count: a clock that was ahead scheduled them.
        """
        with self._read() as connection:
            return runs.last(connection, kind, monitor_id, until)

    def past_runs(
        self, kind: RunKind, monitor_id: int | None, source: str, until: datetime, limit: int
    ) -> list[PastRun]:
        """Return the newest runs of a kind, of one monitor or source, that were scheduled until then."""
        with self._read() as connection:
            return runs.past(connection, kind, monitor_id, source, until, limit)

    def moment(self) -> Moment:
        """Return what the database's clock says, and what of all runs is out of time."""
        with self._read() as connection:
            return runs.moment(connection)

    def last_reads(self, sources: Collection[str], until: datetime) -> dict[str, LastRead]:
        """Return what became of the newest reads of these sources that were scheduled until then."""
        with self._read() as connection:
            return {source: runs.last_read(connection, source, until) for source in sources}

    def refuses_writes(self) -> str:
        """Return why nothing can be written, empty where it can; nothing is."""
        try:
            with self._write() as connection:
                return "is read-only" if is_read_only(connection) else ""
        except DatabaseUnavailableError as error:
            return "is read-only" if "readonly" in str(error) else "does not answer as it should"

    # what is old

    def _delete_before(
        self,
        table: str,
        ts: int,
        of: Sequence[int] | None,
        after: Callable[[Connection, Sequence[int]], None] = lambda connection, ids: None,
    ) -> int:
        """Delete points or scores before a time in short transactions; ``after`` ends each of them."""
        deleted = 0
        wanted = list(of or ())
        if of is None:
            with self._write() as connection:
                deleted = self._bulk.drop_before(connection, table, ts)
            with self._read() as connection:
                wanted = retention.owners(connection, table, ts)
        while wanted:
            with self._write() as connection:
                found, left = retention.rows_before(connection, table, wanted, ts)
                after(connection, wanted)
            deleted, wanted = deleted + found, left
            time.sleep(PAUSE_SECONDS if wanted else 0)
        return deleted

    def prune_runs(self, seconds: float) -> int:
        """Delete runs that ended so long ago and that no schedule goes by; return how many."""
        return self._bit_by_bit(lambda connection: retention.runs(connection, seconds))

    def prune_revisions(self, seconds: float) -> int:
        """Delete changes of events that are so old, all but first and newest; return how many."""
        return self._bit_by_bit(lambda connection: retention.revisions(connection, seconds))

    def prune_events(self, seconds: float) -> int:
        """Delete events that are outdated or merged since so long, untouched by people; return how many."""
        return self._bit_by_bit(lambda connection: retention.gone_events(connection, seconds))

    def forget_progress(self, source: str, keys: Sequence[str]) -> int:
        """Delete what a source remembers under these keys; return how many there were."""
        with self._write() as connection:
            return retention.progress(connection, source, keys)

    def _bit_by_bit(self, delete: Callable[[Connection], int]) -> int:
        """Repeat a transaction until it finds nothing more to delete; return how many rows went."""
        deleted = 0
        while True:
            with self._write() as connection:
                found = delete(connection)
            if not found:
                return deleted
            deleted += found
            time.sleep(PAUSE_SECONDS)

    def refresh_statistics(self) -> None:
        """Let the database count anew what its plans go by, a table at a time."""
        for table in Base.metadata.tables:
            with self._write() as connection:
                retention.refresh_statistics(connection, table)
        if self.engine.dialect.name == "sqlite":
            self.engine.dispose()  # a connection reads the counts when it opens

    def storage(self) -> tuple[list[TableSize], tuple[int, int]]:
        """Return what every table weighs, the largest first; and bytes of the database, all and free ones."""
        with self._read() as connection:
            return storage.sizes(connection), storage.whole(connection)

    # what people see

    def rows(
        self,
        view: str,
        where: Mapping[str, Any] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[Json]:
        """Return rows of a public view as plain values; see ``anomaly_service.db.queries``."""
        with self._read() as connection:
            return queries.rows(connection, view, where or {}, since=since, until=until, limit=limit)

    def page(self, asked: Asked) -> Page:
        """Return a page of a list; see ``anomaly_service.db.pages``.

        Raises:
            AskedError: the cursor is none of this list in this order.
        """
        with self._read() as connection:
            return pages.page(connection, asked)

    def target_ids(
        self, monitor: str | None = None, series: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[int]:
        """Return the targets of a monitor, of a name as lists show it, with these labels; None for any."""
        with self._read() as connection:
            return monitors.target_ids(connection, monitor, series, labels or {})


def _bulk(dialect: str) -> Bulk:
    if dialect == "sqlite":
        return SqliteBulk()
    from anomaly_service.db.postgres import PostgresBulk  # imports psycopg, which SQLite does not need

    return PostgresBulk()
