"""Have we seen this before? The events and past windows nearest to a flagged interval, with their reviews."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from anomaly_service.errors import NotComparableError, TooCommonError, UnknownEventError
from detectors.base import Detector, Encodes
from detectors.errors import UnknownDetectorError
from detectors.windows import Windows
from pipelines.insight import portraits, similar
from pipelines.names import Kind, Status
from pipelines.records import Event, Json, TargetRow
from pipelines.steps.prepare import Prepared
from pipelines.steps.recipe import Recipe
from pipelines.steps.reconcile import FAMILY
from pipelines.store import ModelStore, PointReader
from pipelines.workers import bank, members

if TYPE_CHECKING:
    from anomaly_service.db.store import SqlStore
    from anomaly_service.service import Service

COMPARED = 500
"""At most so many events of a monitor are compared."""
EVER = 2**62


@dataclass
class Similar:
    """What is near an event.

    Attributes:
        event: its row of ``flagged_intervals``.
        events: rows of the nearest events of its monitor; None where not asked for.
        windows: rows of the nearest past windows of its series; None where not asked for or not possible.
        agreement: what most of the nearest reviewed events turned out to be, as a sentence.
        notes: what the person who asked should know, sentences.
    """

    event: Json
    events: list[Json] | None = None
    windows: list[Json] | None = None
    agreement: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Asked:
    """The event, its target, and all events of its monitor that stand."""

    event: Event
    target: TargetRow
    targets: dict[int, TargetRow]
    events: list[Event]


def find(service: Service, event_id: int, n: int = 10, *, within: str | None = None) -> Similar:
    """Return the n nearest events of an event's monitor, and the n nearest past windows of its series.

    Args:
        within: ``features`` looks only for events, ``latent`` only for windows; None for both, and says in
            a note where windows cannot be compared.

    Raises:
        UnknownEventError: no such event stands.
        NotComparableError: ``latent`` was asked for and the event has none.
    """
    row = row_of(service.store, event_id)
    asked = asked_of(service.store, row)
    found = Similar(row)
    progress = _after_a_second(service.on_progress)
    if within in (None, "features"):
        _add_events(found, service.store, asked, n, progress)
    if within in (None, "latent"):
        try:
            found.windows = _windows(service.store, asked, n, progress)
            if not found.windows:
                found.notes.append("No window of the series before it looks like it.")
        except NotComparableError as error:
            if within is not None:
                raise NotComparableError(f"{error}; `--in features` finds events without it") from None
            found.notes.append(f"No windows: {error}.")
    return found


def _after_a_second(on_progress: Callable[[str, float], None]) -> Callable[[str, float], None]:
    """Return the same, silent for the first second: what is quick needs no bar."""
    began = time.monotonic()

    def told(stage: str, share: float) -> None:
        if time.monotonic() - began > 1:
            on_progress(stage, share)

    return told


# -- what is asked for --------------------------------------------------------------


def row_of(store: SqlStore, event_id: int) -> Json:
    """Return the row of ``flagged_intervals`` of an event.

    Raises:
        UnknownEventError: no such event stands; the message names the one to ask for, if any.
    """
    rows = store.rows("flagged_intervals", {"event_id": event_id})
    if rows:
        return rows[0]
    history = store.revisions(event_id)
    if not history:
        raise UnknownEventError(f"no event has the id {event_id}; `anomaly intervals` lists those there are")
    into = history[-1]["after"]["merged_into"]
    if into is not None:
        raise UnknownEventError(f"event {event_id} was merged into event {into}; ask for {into} instead")
    raise UnknownEventError(
        f"event {event_id} no longer scores and no review of it stands, so it is not compared; "
        "`anomaly intervals` lists those that stand"
    )


def asked_of(store: SqlStore, row: Json) -> _Asked:
    """Return the event of a row, with its target and what it may be compared with."""
    (monitor,) = (each for each in store.monitors() if each.name == row["monitor"])
    targets = {target.id: target for target in store.targets(monitor.id)}
    standing = [e for e in store.events(list(targets), 0, EVER) if e.status is not Status.OUTDATED]
    (event,) = (each for each in standing if each.id == row["event_id"])
    return _Asked(event, targets[event.target_id], targets, standing)


# -- the nearest events -------------------------------------------------------------


def _add_events(
    found: Similar, store: SqlStore, asked: _Asked, n: int, progress: Callable[[str, float], None]
) -> None:
    """Compare the event with others of its monitor."""
    found.events = []
    kind = asked.event.interval.kind
    others = [e for e in asked.events if e.id != asked.event.id]
    if all(FAMILY[e.interval.kind] != FAMILY[kind] for e in others):
        found.notes.append(f"No other event of this kind ({kind}) in monitor {found.event['monitor']} yet.")
        return
    compared = [asked.event, *_bounded(others, FAMILY[kind])]
    drawn = _portraits(store, asked.targets, compared, progress)
    if drawn[0].shape is None and kind is Kind.ANOMALY:
        found.notes.append(
            "The points of this event are not stored any more (retention.points): events are compared by "
            "direction, duration and height alone."
        )
    if len(others) > COMPARED:
        found.notes.append(
            f"Compared with {COMPARED} of {len(others)} events, the reviewed and newest first."
        )
    neighbours = similar.nearest_events(drawn)
    reviews = {e.id: _verdict(store, e) for e in _told(compared, neighbours, n) if e.verdict}
    found.events = _event_rows(store, compared, neighbours[:n], reviews)
    found.agreement = similar.agreement(_judged(compared, neighbours, reviews))


def _verdict(store: SqlStore, event: Event) -> Json:
    """Return the review that holds the verdict on an event."""
    return next(row for row in reversed(store.reviews(event.id)) if row["verdict"] and not row["undone"])


def _bounded(events: Sequence[Event], family: str) -> list[Event]:
    """Return as many events as are compared: of the family first, the reviewed first, the newest first."""
    ranked = sorted(
        events, key=lambda e: (FAMILY[e.interval.kind] == family, e.reviewed, e.interval.start), reverse=True
    )
    return ranked[:COMPARED]


def _told(compared: Sequence[Event], neighbours: Sequence[similar.Neighbour], n: int) -> Iterator[Event]:
    """Yield the events whose reviews matter: those listed, and the nearest reviewed ones."""
    yield from (compared[each.at] for each in neighbours[:n])
    further = [compared[each.at] for each in neighbours[n:]]
    yield from [event for event in further if event.verdict][: 2 * similar.ASKED]


def _event_rows(
    store: SqlStore,
    compared: Sequence[Event],
    neighbours: Sequence[similar.Neighbour],
    reviews: dict[int, Json],
) -> list[Json]:
    ids = [compared[each.at].id for each in neighbours]
    rows = {row["event_id"]: row for row in store.rows("flagged_intervals", {"event_id": ids})}
    return [
        {
            "distance": each.distance,
            **rows[event_id],
            "comment": reviews[event_id]["comment"] if event_id in reviews else None,
        }
        for event_id, each in zip(ids, neighbours, strict=True)
        if event_id in rows
    ]


def _judged(
    compared: Sequence[Event], neighbours: Sequence[similar.Neighbour], reviews: dict[int, Json]
) -> list[similar.Judged]:
    near = [(compared[each.at].id, each.distance) for each in neighbours]
    return [
        similar.Judged(id_, distance, reviews[id_]["verdict"], reviews[id_]["cause"])
        for id_, distance in near
        if id_ in reviews
    ]


def _portraits(
    store: SqlStore,
    targets: dict[int, TargetRow],
    events: Sequence[Event],
    progress: Callable[[str, float], None],
) -> list[similar.Portrait]:
    shapes = portraits.shapes(store, targets, events, partial(progress, "compare"))
    return [
        similar.Portrait(event.interval, targets[event.target_id].step_seconds, shape)
        for event, shape in zip(events, shapes, strict=True)
    ]


# -- the nearest windows ------------------------------------------------------------


@dataclass(frozen=True)
class _Encoder:
    """The model that scored an event, and where the event's own window ends on its grid."""

    model: Detector
    window: int
    recipe: Recipe

    def last(self, event: Event) -> int:
        """Return the last step of the event's window.

        It ends with the event, so that what led to it is compared too; where the event goes on for
        longer, half a window after the peak.
        """
        found = event.interval
        return min(self.recipe.index(found.end), self.recipe.index(found.peak_at) + self.window // 2)


def _windows(store: SqlStore, asked: _Asked, n: int, progress: Callable[[str, float], None]) -> list[Json]:
    """Return the past windows nearest to the event's in the latent space of the version that scored it.

    Raises:
        NotComparableError: version or points are gone, or there is nothing to compare.
    """
    encoder = _encoder(store, asked)
    last = encoder.last(asked.event)
    stop = encoder.recipe.time(last) + 1
    start = _first_point(store, asked.target, stop - similar.HISTORY_SECONDS, asked.event)
    prepared = portraits.prepared(store, asked.target, encoder.recipe, start, stop)
    windows = _cut(prepared, encoder, asked.event)
    assert isinstance(encoder.model, Encodes)
    latent = similar.latents(encoder.model, windows, partial(progress, "encode"))
    # A window before the event's holds no step of it, and none of the event's own window.
    event_start = encoder.recipe.index(asked.event.interval.start) - prepared.start
    past = windows.scorable[0].numpy().copy()
    past[max(0, min(event_start, len(past) - 1) - encoder.window + 1) :] = False
    if not past.any():
        raise NotComparableError(f"nothing is stored of {asked.target.key} before event {asked.event.id}")
    try:
        found = similar.nearest_windows(latent, latent[-1], past, encoder.window, n)
    except TooCommonError as error:
        raise NotComparableError(f"the latent space of its model tells little apart: {error}") from None
    spans = [(each, prepared.ts[each.at], prepared.ts[each.at + encoder.window - 1]) for each in found]
    return [_window_row(store, asked, each, int(a), int(b)) for each, a, b in spans]


def _encoder(store: ModelStore, asked: _Asked) -> _Encoder:
    version_id = asked.event.interval.version_id
    if version_id is None:
        raise NotComparableError(
            f"event {asked.event.id} names no model version: it was added by hand, or its version was pruned"
        )
    (version,) = (v for v in store.versions([asked.target.id], every=True) if v.id == version_id)
    try:
        lead, *_ = members.of_version(version)
        cls, config = lead.config
    except UnknownDetectorError as error:
        raise NotComparableError(f"its version's detector cannot be loaded, {error}") from None
    if not issubclass(cls, Encodes):
        raise NotComparableError(f"detector {lead.detector} has no latent space; see `anomaly detectors`")
    (weights,) = store.weights([version.weights_id]).values()
    return _Encoder(lead.model(weights), config.window, lead.recipe)


def _first_point(store: PointReader, target: TargetRow, start: int, event: Event) -> int:
    """Return when the stored points of a target begin, not before ``start``."""
    firsts = [s.first_ts for s in store.series() if s.id in target.series_ids]
    known = [first for first in firsts if first is not None]
    if not known or min(known) > event.interval.end:
        raise NotComparableError(f"the points of event {event.id} are not stored any more (retention.points)")
    return max(start, min(known))


def _cut(prepared: Prepared, encoder: _Encoder, event: Event) -> Windows:
    """Return all windows of the points; the last one is the event's."""
    if len(prepared) < encoder.window:
        raise NotComparableError(
            f"fewer points than a window of {encoder.window} steps end with event {event.id}"
        )
    windows = bank.windows_of([prepared], encoder.window, [prepared.start])
    if not windows.scorable[0, -1]:
        raise NotComparableError(f"too many points are missing from the window of event {event.id}")
    return windows


def _window_row(store: SqlStore, asked: _Asked, each: similar.Neighbour, start: int, end: int) -> Json:
    """Return a window as a row, with the event it belongs to, if any."""
    inside = [e for e in asked.events if e.target_id == asked.target.id and _common(e, start, end) >= 0]
    event = max(inside, key=lambda e: (_common(e, start, end), e.interval.peak_score), default=None)
    review = _verdict(store, event) if event is not None and event.verdict else {}
    return {
        "distance": each.distance,
        "start_at": datetime.fromtimestamp(start, UTC),
        "end_at": datetime.fromtimestamp(end, UTC),
        "event_id": None if event is None else event.id,
        "kind": None if event is None else str(event.interval.kind),
        "direction": None if event is None else event.interval.direction,
        "review_verdict": review.get("verdict"),
        "review_cause": review.get("cause"),
        "comment": review.get("comment"),
    }


def _common(event: Event, start: int, end: int) -> int:
    """Return the seconds between first and last step of an event within a window; below 0 there is none."""
    return min(event.interval.end, end) - max(event.interval.start, start)
