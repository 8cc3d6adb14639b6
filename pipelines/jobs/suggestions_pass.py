"""Bring what is suggested of a monitor's events up to date with its reviews."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from pipelines.batches import batches
from pipelines.insight import portraits, similar, suggest
from pipelines.insight.similar import Portrait, Shape
from pipelines.insight.suggest import Judgement, Suggestion
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.records import Event, EventPortrait
from pipelines.steps.reconcile import FAMILY

CONSIDERED = 500
"""So many events of a monitor are compared at once: where there are no more, all of them."""

NEWEST_VERDICTS = 200
"""Of many verdicts the newest count for every event that nobody judged."""

NEAREST_VERDICTS, FROM_VERDICTS = 2, 2_000
"""And those on the events nearest to it, so many of each, among these newest."""

UNJUDGED = 150
"""Where there are many, so many of those that nobody judged are told at once."""

PAGE = 200

Looked = tuple[Event, EventPortrait | None]
Seen = tuple[Looked, Shape | None]


def advise(job: MonitorJob) -> int:
    """Suggest verdicts for what nobody judged, by what people judged; return for how many events one stands.

    Only where an event or review changed since the last time. An event is looked at again when its revision
    is another, and what was seen is kept: a later pass finds its points deleted.
    """
    found = job.store.event_portraits(job.monitor.id, CONSIDERED)
    if not any(event.verdict or (portrait and portrait.verdict) for event, portrait in found):
        return 0
    if len(found) == CONSIDERED:
        return _advise_many(job)
    if not all(_is_current(event, portrait) for event, portrait in found):
        told = _suggested(job, [event for event, _ in found], _shapes(job, found))
        _write(job, found, told)
        return sum(bool(portrait.verdict) for portrait in told)
    return sum(bool(portrait.verdict) for _, portrait in found if portrait is not None)


def _advise_many(job: MonitorJob) -> int:
    """Do the same for more events than are compared at once, part by part.

    Every event that nobody judged is looked at, beside the newest verdicts and those nearest to it.
    """
    state = job.store.portrait_state(job.monitor.id, FROM_VERDICTS)
    if state.is_current:
        return state.suggested
    pages = islice(_pages(job, PAGE, judged=True), FROM_VERDICTS // PAGE)
    verdicts = [each for page in pages for each in _seen(job, page)]
    for part in _pages(job, UNJUDGED, judged=False):
        job.check_stop()
        seen = _seen(job, part)
        near = _nearest(job, seen, verdicts[NEWEST_VERDICTS:])
        compared = [*seen, *verdicts[:NEWEST_VERDICTS], *near]
        told = _suggested(job, [event for (event, _), _ in compared], [shape for _, shape in compared])
        _write(job, part, told[: len(part)])
    # Last: until then they say that there is work left.
    looked = [each for each, _ in verdicts]
    _write(job, looked, [_look(event, shape, None) for (event, _), shape in verdicts])
    return job.store.portrait_state(job.monitor.id, FROM_VERDICTS).suggested


def _pages(job: MonitorJob, size: int, *, judged: bool) -> Iterator[list[Looked]]:
    """Yield the events that were judged, or the others, the newest first."""
    after = None
    while page := job.store.event_portraits(job.monitor.id, size, judged=judged, after=after):
        yield page
        last, _ = page[-1]
        after = (last.interval.start, last.id)


def _seen(job: MonitorJob, page: Sequence[Looked]) -> list[Seen]:
    return list(zip(page, _shapes(job, page), strict=True))


def _nearest(job: MonitorJob, wanted: Sequence[Seen], others: Sequence[Seen]) -> list[Seen]:
    """Return those of the others that are nearest to any of those wanted."""
    steps = {target.id: target.step_seconds for target in job.store.targets(job.monitor.id)}
    kept: list[Seen] = []
    for family in dict.fromkeys(FAMILY.values()):
        own, pool = (_of_family(each, family) for each in (wanted, others))
        near: list[Seen] = []
        for page in batches(pool if own else (), PAGE):
            among = [*near, *page]
            found = similar.nearest_among(_drawn(own, steps), _drawn(among, steps), NEAREST_VERDICTS)
            near = [among[at] for at in found]
        kept += near
    return kept


def _of_family(seen: Sequence[Seen], family: str) -> list[Seen]:
    return [each for each in seen if FAMILY[each[0][0].interval.kind] == family]


def _drawn(seen: Sequence[Seen], steps: Mapping[int, int]) -> list[Portrait]:
    return [Portrait(event.interval, steps[event.target_id], shape) for (event, _), shape in seen]


def _write(job: MonitorJob, before: Sequence[Looked], portraits: Sequence[EventPortrait]) -> None:
    known = {portrait.event_id: portrait for _, portrait in before if portrait is not None}
    job.store.write_event_portraits(
        job.claim, [portrait for portrait in portraits if known.get(portrait.event_id) != portrait]
    )


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
