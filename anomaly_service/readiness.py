"""What a config would watch in a database as it is, and since when it can judge. Only reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anomaly_service.config.sections import Config
from anomaly_service.db.store import SqlStore
from pipelines.jobs import channels
from pipelines.monitor import MonitorSpec
from pipelines.records import Json, MonitorRow, SeriesRow
from pipelines.times import iso_seconds


def waiting(store: SqlStore, specs: Mapping[str, MonitorSpec]) -> list[Json]:
    """Return the targets of several series that are asked for and not scored, each with the reason."""
    of_several = {name: spec for name, spec in specs.items() if spec.channels}
    if not of_several:
        return []
    series, stored = store.series(), _stored(store)
    return [
        {"monitor": name, "target": key, "why": why}
        for name, spec in of_several.items()
        for key, why in _waiting(store, stored.get(name), spec, series).items()
    ]


def validate(store: SqlStore, config: Config) -> list[Json]:
    """Return, per monitor of a config, its targets, their step and history, and when each will be ready.

    The config need not be the one that filled the database.

    Raises:
        ValueError: this machine lacks the device that the config names.
    """
    from detectors.device import resolve

    resolve(config.device)
    series, stored = store.series(), _stored(store)
    return [
        _of_monitor(store, stored.get(name), spec, series) for name, spec in config.monitor_specs().items()
    ]


def _of_monitor(
    store: SqlStore, stored: MonitorRow | None, spec: MonitorSpec, series: Sequence[SeriesRow]
) -> Json:
    from pipelines.jobs.readiness import readiness  # what a model needs is known to torch's detectors

    targets = readiness(
        spec,
        channels.wanted(spec, series),
        _fitted(store, stored),
        _waiting(store, stored, spec, series) if spec.channels else {},
    )
    return {
        "monitor": spec.name,
        "detector": spec.detector,
        "series": len(targets),
        "channels": list(spec.channels),
        "ready": sum(target["state"] == "ready" for target in targets),
        "targets": [{**target, **_times(target)} for target in targets],
    }


def _stored(store: SqlStore) -> dict[str, MonitorRow]:
    return {row.name: row for row in store.monitors()}


def _waiting(
    store: SqlStore, stored: MonitorRow | None, spec: MonitorSpec, series: Sequence[SeriesRow]
) -> dict[str, str]:
    """Return why targets of a monitor are not scored, by key."""
    targets = store.targets(stored.id) if stored is not None else []
    by_id = {row.id: row for row in series}
    made_of = {target.key: [by_id[i] for i in target.series_ids] for target in targets}
    return channels.waiting(spec, channels.wanted(spec, series), made_of)


def _fitted(store: SqlStore, stored: MonitorRow | None) -> set[str]:
    """Return the keys of a stored monitor's targets that have a model."""
    if stored is None:
        return set()
    keys = {target.id: target.key for target in store.targets(stored.id)}
    return {keys[version.target_id] for version in store.versions(list(keys))}


def _times(target: Json) -> Json:
    """Return a target's seconds as lists write moments."""
    named = {"first_at": "first_ts", "last_at": "last_ts", "ready_by": "ready_by"}
    return {name: None if target[of] is None else iso_seconds(target[of]) for name, of in named.items()}
