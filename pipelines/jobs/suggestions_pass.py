"""Bring what is suggested of a monitor's events up to date with its reviews."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.insight import portraits, suggest
from pipelines.insight.similar import Portrait, Shape
from pipelines.insight.suggest import Judgement, Suggestion
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.records import Event, EventPortrait
from pipelines.steps.reconcile import FAMILY

CONSIDERED = 500
"""At most so many events of a monitor are looked at, those judged and the newest first."""

Looked = tuple[Event, EventPortrait | None]


def advise(job: MonitorJob) -> int:
    """Suggest verdicts for what nobody judged, by what people judged; return for how many events one stands.

    Only where an event or review changed since the last time. An event is looked at again when its revision
    is another, and what was seen is kept: a later pass finds its points deleted.
    """
    found = job.store.event_portraits(job.monitor.id, CONSIDERED)
    if not any(event.verdict or (portrait and portrait.verdict) for event, portrait in found):
        return 0
    if not all(_is_current(event, portrait) for event, portrait in found):
        portraits = _suggested(job, [event for event, _ in found], _shapes(job, found))
        before = {portrait.event_id: portrait for _, portrait in found if portrait is not None}
        job.store.write_event_portraits(
            job.claim, [portrait for portrait in portraits if before.get(portrait.event_id) != portrait]
        )
        return sum(bool(portrait.verdict) for portrait in portraits)
    return sum(bool(portrait.verdict) for _, portrait in found if portrait is not None)


def _is_current(event: Event, portrait: EventPortrait | None) -> bool:
    return portrait is not None and portrait.revision == event.revision


def _shapes(job: MonitorJob, found: Sequence[Looked]) -> list[Shape | None]:
    """Return every event's shape: as it was seen, or looked at again where the event changed since."""
    seen = {
        event.id: Shape.from_json(portrait.shape) for event, portrait in found if portrait and portrait.shape
    }
    changed = [event for event, portrait in found if not _is_current(event, portrait)]
    targets = {target.id: target for target in job.store.targets(job.monitor.id)}
    now = portraits.shapes(job.store, targets, changed)
    # As they will be read next time, rounded: a pass that is repeated suggests the same.
    fresh = {event.id: shape.to_json() for event, shape in zip(changed, now, strict=True) if shape}
    seen |= {event_id: Shape.from_json(shape) for event_id, shape in fresh.items()}
    return [seen.get(event.id) for event, _ in found]


def _suggested(
    job: MonitorJob, events: Sequence[Event], shapes: Sequence[Shape | None]
) -> list[EventPortrait]:
    """Return the portraits of all events; those of one family are compared with each other."""
    steps = {target.id: target.step_seconds for target in job.store.targets(job.monitor.id)}
    told: dict[int, Suggestion | None] = {}
    for family in dict.fromkeys(FAMILY.values()):
        own = [at for at, event in enumerate(events) if FAMILY[event.interval.kind] == family]
        drawn = [Portrait(events[at].interval, steps[events[at].target_id], shapes[at]) for at in own]
        said = suggest.suggestions(drawn, [_judgement(events[at]) for at in own])
        told |= dict(zip(own, said, strict=True))
    return [
        _look(event, shape, told[at]) for at, (event, shape) in enumerate(zip(events, shapes, strict=True))
    ]


def _judgement(event: Event) -> Judgement | None:
    return Judgement(event.verdict, event.cause) if event.verdict else None


def _look(event: Event, shape: Shape | None, told: Suggestion | None) -> EventPortrait:
    portrait = EventPortrait(event.id, event.revision, None if shape is None else shape.to_json())
    if told is None:
        return portrait
    return EventPortrait(event.id, event.revision, portrait.shape, told.verdict, told.cause, told.probability)
