"""Events as they are compared: their points read, prepared, and cut to a shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipelines.batches import batches, split
from pipelines.insight import similar
from pipelines.names import Kind
from pipelines.records import Event, Points, TargetRow, VersionRow
from pipelines.steps import prepare
from pipelines.steps.prepare import Prepared
from pipelines.steps.recipe import Recipe
from pipelines.store import ModelStore, PointReader, SeriesStore

TARGETS_AT_ONCE = 64
"""Versions of so many targets are read together: with a weekly profile each takes some 10 KiB."""


def shapes(
    store: SeriesStore,
    targets: Mapping[int, TargetRow],
    events: Sequence[Event],
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[similar.Shape | None]:
    """Return the shape of every event; None for one that has none, or whose points are not stored any more.

    Values are prepared by the recipe of the version that flagged them, which takes out the season and
    level of their time; of one that names no version, by the newest of its target.
    """
    recipes = _recipes(store, events)
    out = []
    for done, event in enumerate(events, 1):
        out.append(_shape(store, targets[event.target_id], event, recipes.get(event.id)))
        on_progress(done / len(events))
    return out


def prepared(store: PointReader, target: TargetRow, recipe: Recipe, start: int, stop: int) -> Prepared:
    """Return a span of a target, prepared, with the context that its recipe needs read before it."""
    points = _points(store, target, start - recipe.context_seconds, stop + recipe.step_seconds)
    return prepare.apply(recipe, points, start, stop)


def _points(store: PointReader, target: TargetRow, start: int, stop: int) -> tuple[Points, ...]:
    by_series = split(store.points(target.series_ids, start, stop), sorted(target.series_ids))
    return tuple(by_series[i] for i in target.series_ids)


def _recipes(store: ModelStore, events: Sequence[Event]) -> dict[int, Recipe]:
    """Return the recipe that prepares the points of every event, by event id."""
    out = {}
    by_target: dict[int, list[Event]] = {}
    for event in events:
        by_target.setdefault(event.target_id, []).append(event)
    for some in batches(by_target, TARGETS_AT_ONCE):
        versions: dict[int, dict[int, VersionRow]] = {}
        for version in store.versions(some, every=True):
            versions.setdefault(version.target_id, {})[version.id] = version
        for target_id, known in versions.items():
            newest = list(known.values())[-1]
            for event in by_target[target_id]:
                version = known.get(event.interval.version_id or 0, newest)
                out[event.id] = Recipe.from_json(version.recipe)
    return out


def _shape(
    store: PointReader, target: TargetRow, event: Event, recipe: Recipe | None
) -> similar.Shape | None:
    # A flatline's values are what season and level make of one number, and a gap has none.
    if recipe is None or event.interval.kind is not Kind.ANOMALY:
        return None
    first, last = recipe.index(event.interval.start), recipe.index(event.interval.end)
    lead = similar.lead_steps(last - first + 1)
    cut = prepared(store, target, recipe, recipe.time(first - lead), recipe.time(last) + 1)
    return similar.shape_of(cut.values, cut.missing, lead)
