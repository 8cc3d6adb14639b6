"""Bring what is suggested of a monitor's events up to date with its reviews."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines import portraits, suggest
from pipelines.desk import Desk
from pipelines.reconcile import FAMILY
from pipelines.records import Event, EventLook
from pipelines.similar import Portrait, Shape
from pipelines.suggest import Judgement, Suggestion

CONSIDERED = 500
"""At most so many events of a monitor are looked at, those judged and the newest first."""

Looked = tuple[Event, EventLook | None]


def advise(desk: Desk) -> int:
    """Suggest verdicts for what nobody judged, by what people judged; return for how many events one stands.

    Only where an event or review changed since the last time. An event is looked at again when its revision
    is another, and what was seen is kept: a later pass finds its points deleted.
    """
    found = desk.store.looks(desk.monitor.id, CONSIDERED)
    if not any(event.reviewed for event, _ in found):
        return 0
    if not all(_is_current(event, look) for event, look in found):
        looks = _suggested(desk, [event for event, _ in found], _shapes(desk, found))
        before = {look.event_id: look for _, look in found if look is not None}
        desk.store.write_looks(desk.claim, [look for look in looks if before.get(look.event_id) != look])
        return sum(bool(look.verdict) for look in looks)
    return sum(bool(look.verdict) for _, look in found if look is not None)


def _is_current(event: Event, look: EventLook | None) -> bool:
    return look is not None and look.revision == event.revision


def _shapes(desk: Desk, found: Sequence[Looked]) -> list[Shape | None]:
    """Return every event's shape: as it was seen, or looked at again where the event changed since."""
    seen = {event.id: Shape.from_json(look.shape) for event, look in found if look and look.shape}
    changed = [event for event, look in found if not _is_current(event, look)]
    targets = {target.id: target for target in desk.store.targets(desk.monitor.id)}
    now = portraits.shapes(desk.store, targets, changed)
    # As they will be read next time, rounded: a pass that is repeated suggests the same.
    fresh = {event.id: shape.to_json() for event, shape in zip(changed, now, strict=True) if shape}
    seen |= {event_id: Shape.from_json(shape) for event_id, shape in fresh.items()}
    return [seen.get(event.id) for event, _ in found]


def _suggested(desk: Desk, events: Sequence[Event], shapes: Sequence[Shape | None]) -> list[EventLook]:
    """Return the looks of all events; those of one family are compared with each other."""
    steps = {target.id: target.step_seconds for target in desk.store.targets(desk.monitor.id)}
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
    return Judgement(event.verdict, event.cause) if event.reviewed else None


def _look(event: Event, shape: Shape | None, told: Suggestion | None) -> EventLook:
    look = EventLook(event.id, event.revision, None if shape is None else shape.to_json())
    if told is None:
        return look
    return EventLook(event.id, event.revision, look.shape, told.verdict, told.cause, told.probability)
