"""Monitors as the config declares them, and the targets they score."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, case, exists, func, select, update
from sqlalchemy.orm import aliased

from anomaly_service.db import events
from anomaly_service.db.sql import add, among, execute_columns, upsert
from anomaly_service.db.tables import EventTable, Monitor, Series, Target, TargetSeries
from pipelines.errors import StaleModelsError
from pipelines.records import Json, MonitorRow, TargetRow

LEFT = "its monitor left the config"

STAGGERED_FROM = 500
"""A monitor that begins with more targets spreads their refits over nights: a night must hold them.

With fewer, equal values are to give equal intervals, whatever they are called."""


def rows(connection: Connection) -> list[MonitorRow]:
    """Return all monitors by name, the disabled too."""
    query = select(Monitor.id, Monitor.name, Monitor.config, Monitor.enabled, Monitor.stagger).order_by(
        Monitor.name
    )
    return [MonitorRow(*row) for row in connection.execute(query)]


@dataclass(frozen=True)
class Sync:
    """What a config makes of the monitors that are stored.

    Attributes:
        continued: the stored row that a monitor of the config goes on with, by its name in the config.
        dropped: monitors in force that the config no longer has.
    """

    continued: dict[str, MonitorRow]
    dropped: list[MonitorRow]

    @property
    def renamed(self) -> dict[str, int]:
        """Ids of the rows that get another name, by that name."""
        return {name: row.id for name, row in self.continued.items() if row.name != name}


def decide(stored: Sequence[MonitorRow], wanted: dict[str, Json]) -> Sync:
    """Return what a config makes of the monitors; ``renamed_from`` may stay once it has done its work."""
    by_name = {row.name: row for row in stored}
    moved = {
        name: by_name[old]
        for name, config in wanted.items()
        if (old := config.get("renamed_from")) in by_name and _takes_over(name, old, by_name, wanted)
    }
    left = {row.id for row in moved.values()}
    same = {name: by_name[name] for name in wanted if name in by_name and by_name[name].id not in left}
    continued = same | moved
    going_on = {row.id for row in continued.values()}
    return Sync(continued, [row for row in stored if row.enabled and row.id not in going_on])


def sync(connection: Connection, wanted: dict[str, Json]) -> list[MonitorRow]:
    """Make the monitors what the config says; return those it names, by name."""
    decided = decide(rows(connection), wanted)
    _rename(connection, decided.renamed)
    upsert(
        connection,
        Monitor,
        [{"name": name, "config": config, "enabled": True} for name, config in wanted.items()],
        ["name"],
    )
    gone = [row.id for row in decided.dropped]
    connection.execute(update(Monitor).where(among(connection, Monitor.id, gone)).values(enabled=False))
    events.close(connection, EventTable.monitor_id.in_(select(Monitor.id).where(~Monitor.enabled)), LEFT)
    return [row for row in rows(connection) if row.name in wanted]


def _rename(connection: Connection, moves: Mapping[str, int]) -> None:
    """Give rows their new names; all leave their old ones first, so that two monitors can change names."""
    for prefix in ("renaming ", ""):
        for name, id_ in moves.items():
            connection.execute(update(Monitor).where(Monitor.id == id_).values(name=prefix + name))


def _takes_over(name: str, old: str, stored: Collection[str], wanted: dict[str, Json]) -> bool:
    """True where the row of ``old`` becomes ``name``: always when ``name`` is free, or leaves as well."""
    if name == old:
        return False
    if name not in stored:
        return True
    return any(config.get("renamed_from") == name and other == old for other, config in wanted.items())


def sync_targets(
    connection: Connection, monitor_id: int, wanted: Sequence[tuple[str, tuple[int, ...]]]
) -> list[TargetRow]:
    """Add targets whose key is new; one that exists keeps the series it was made of."""
    known = set(connection.scalars(select(Target.key).where(Target.monitor_id == monitor_id)))
    new = {key: tuple(int(one) for one in ids) for key, ids in wanted if key not in known}
    if new:
        _decide_stagger(connection, monitor_id, len(new))
        rows = [{"monitor_id": monitor_id, "key": key} for key in new]
        add(connection, Target, rows, ["monitor_id", "key"])
        _add_members(connection, monitor_id, new)
    return targets(connection, monitor_id)


def _decide_stagger(connection: Connection, monitor_id: int, n_targets: int) -> None:
    """Note, once and for good, whether a monitor's refits are spread over nights by its targets' names."""
    undecided = (Monitor.id == monitor_id) & Monitor.stagger.is_(None)
    connection.execute(update(Monitor).where(undecided).values(stagger=n_targets > STAGGERED_FROM))


def _add_members(connection: Connection, monitor_id: int, new: dict[str, tuple[int, ...]]) -> None:
    query = select(Target.id, Target.key).where(
        Target.monitor_id == monitor_id, among(connection, Target.key, new)
    )
    members = [
        {"target_id": target_id, "position": position, "series_id": series_id}
        for target_id, key in connection.execute(query)
        for position, series_id in enumerate(new[key])
    ]
    add(connection, TargetSeries, members, ["target_id", "position"])


# Built once: a pass asks for its targets a dozen times, and building it costs more than running it.
_TARGETS = (
    select(
        Target,
        TargetSeries.series_id,
        *(Series.step_seconds, Series.timezone, Series.delay_seconds, Series.metric, Series.labels),
    )
    .join_from(Target, TargetSeries, TargetSeries.target_id == Target.id)
    .join(Series, Series.id == TargetSeries.series_id)
    .where(Target.monitor_id == bindparam("monitor_id"))
    .order_by(Target.key, Target.id, TargetSeries.position)
)


def targets(connection: Connection, monitor_id: int) -> list[TargetRow]:
    """Return the monitor's targets by key."""
    members: dict[int, list[Any]] = {}
    for row in connection.execute(_TARGETS, {"monitor_id": monitor_id}):
        members.setdefault(row.id, []).append(row)
    return [_target(rows) for rows in members.values()]


def _target(members: Sequence[Any]) -> TargetRow:
    """Return the target of these rows, one per series; it steps and is as late as the slowest of them."""
    first = members[0]
    return TargetRow(
        id=first.id,
        monitor_id=first.monitor_id,
        key=first.key,
        series_ids=tuple(row.series_id for row in members),
        step_seconds=max(row.step_seconds for row in members),
        timezone=first.timezone,
        delay_seconds=max(row.delay_seconds for row in members),
        scored_until=first.scored_until,
        settled_until=first.settled_until,
        pruned_before=first.pruned_before,
        labels={**first.labels, "metric": first.metric},
    )


def target_ids(
    connection: Connection, monitor: str | None, series: str | None, labels: Mapping[str, str]
) -> list[int]:
    """Return the ids of targets of a monitor, of a name as the views show it, and with these labels."""
    more = aliased(TargetSeries)
    is_of_several = exists().where(more.target_id == Target.id, more.position == 1)
    query = (
        select(Target.id)
        .join(Monitor, Monitor.id == Target.monitor_id)
        .join(TargetSeries, (TargetSeries.target_id == Target.id) & (TargetSeries.position == 0))
        .join(Series, Series.id == TargetSeries.series_id)
        .where(*(Series.labels[name].as_string() == value for name, value in labels.items()))
        .order_by(Target.id)
    )
    if monitor is not None:
        query = query.where(Monitor.name == monitor)
    if series is not None:
        query = query.where(case((is_of_several, Target.key), else_=Series.key) == series)
    return list(connection.scalars(query))


def models(connection: Connection, monitor_id: int) -> int:
    """Return how often the models of a monitor stood anew."""
    return connection.scalar(select(Monitor.models).where(Monitor.id == monitor_id)) or 0


def models_stand(connection: Connection, monitor_id: int) -> None:
    """Let the models of a monitor stand anew, once all commits by older ones have ended."""
    connection.execute(update(Monitor).where(Monitor.id == monitor_id).values(models=Monitor.models + 1))


def check_models(connection: Connection, seen: tuple[int, int] | None) -> None:
    """Refuse to go on by models that are not in force any more, and keep these in force until the commit.

    Raises:
        StaleModelsError: those of the monitor stand anew.
    """
    if seen is None:
        return
    monitor_id, expected = seen
    query = select(Monitor.models).where(Monitor.id == monitor_id)
    found = connection.scalar(query.with_for_update(read=True)) or 0
    if found != expected:
        raise StaleModelsError(
            f"the models of monitor {monitor_id} stand anew since these scores' were read; nothing was "
            "written, score again"
        )


def lock(connection: Connection, target_ids: Collection[int]) -> None:
    """Let nobody else commit anything of these targets until the transaction ends; SQLite has one writer."""
    if target_ids:
        ids = sorted(int(id_) for id_ in target_ids)
        rows = (
            select(Target.id).where(among(connection, Target.id, ids)).order_by(Target.id).with_for_update()
        )
        connection.execute(rows).all()


def forget_scores(connection: Connection, before: int, target_ids: Collection[int] | None) -> None:
    """Remember that the scores of these targets, or of all, before a time are deleted."""
    statement = update(Target).where(func.coalesce(Target.pruned_before, before - 1) < before)
    if target_ids is not None:
        statement = statement.where(among(connection, Target.id, sorted(target_ids)))
    connection.execute(statement.values(pruned_before=before))


def advance(connection: Connection, column: str, until: dict[int, int]) -> None:
    """Move a watermark of targets forward, never back."""
    if not until:
        return
    columns = {"id": [int(id_) for id_ in until], "until": [int(ts) for ts in until.values()]}
    statements = {name: statement.replace("watermark", column) for name, statement in _ADVANCE.items()}
    execute_columns(connection, statements, columns)


_ADVANCE = {
    "sqlite": "UPDATE target SET watermark = max(coalesce(watermark, :until), :until) WHERE id = :id",
    "postgresql": "UPDATE target SET watermark = greatest(watermark, row.until) "
    "FROM unnest(%(id)s::integer[], %(until)s::bigint[]) AS row (id, until) WHERE target.id = row.id",
}
