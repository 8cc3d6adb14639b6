"""What a changed config would do, before it is in force: nothing is written, and nothing compared twice.

Each part asks who would decide it: the monitors' sync, the targets a monitor asks for, the fits that are due,
and a rescore that only says what it would change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from anomaly_service.db.configs import InForce
from anomaly_service.db.monitors import decide
from anomaly_service.in_force import shown
from anomaly_service.service import Service
from pipelines.jobs import channels
from pipelines.jobs.fit_times import nights
from pipelines.jobs.plan import fingerprint
from pipelines.monitor import MonitorSpec
from pipelines.records import Json, MonitorRow, SeriesRow
from pipelines.times import DAY, iso, iso_seconds

LOOK_BACK_DAYS = 30
"""How far back it is asked which intervals would appear or go."""

SHARED = ("nightly", "scores", "device", "calendar")
"""Sections of the file that stand in every monitor's own too: they are told once."""

Changed = dict[str, list[Any]]
"""By path, what a value is in force and what it would be; None where there is none."""


def plan(service: Service, *, days: int = LOOK_BACK_DAYS, intervals: bool = True) -> Json:
    """Return what the config of a service would change in its database, as JSON.

    Args:
        days: how far back intervals are looked at, before the newest point.
        intervals: also score anew where the line or the policy changes, which takes a while.

    Returns:
        ``sources``, ``monitors`` and ``settings``, a row for each that changes; ``changes`` counts them.
    """
    before = service.store.config_in_force()
    body = shown(service.config)
    parts = {
        "sources": list(_sources(service, before, body["sources"])),
        "monitors": list(_monitors(_Asked(service, days, intervals))),
        "settings": [] if before is None else _settings(before.body, body),
    }
    return {
        "config": str(service.config.path),
        "in_force_since": None if before is None else iso(before.since),
        "in_force_file": None if before is None else before.file,
        **parts,
        "changes": sum(map(len, parts.values())),
    }


def differences(old: Any, new: Any, path: str = "") -> Changed:
    """Return where two values differ, by path.

    >>> differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3, "d": 4}})
    {'b.c': [2, 3], 'b.d': [None, 4]}
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if _alike(old, new) else {path: [old, new]}
    found: Changed = {}
    for name in [*old, *(name for name in new if name not in old)]:
        found |= differences(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
    return found


def _alike(old: Any, new: Any) -> bool:
    """True where two values say the same; a tuple comes back from a database as a list."""
    plain = [list(value) if isinstance(value, tuple) else value for value in (old, new)]
    return bool(plain[0] == plain[1])


# -- sources and settings ---------------------------------------------------------------


def _sources(service: Service, before: InForce | None, wanted: Mapping[str, Json]) -> Iterator[Json]:
    """Yield what becomes of sources; what a source was set to is only known of a config that was in force."""
    series = Counter(row.spec.source for row in service.store.series())
    known: Mapping[str, Json | None] = dict.fromkeys(series) if before is None else before.body["sources"]
    for name in sorted({*known, *wanted}):
        row: Json = {"source": name, "series": series[name]}
        old = known.get(name)
        if name not in known:
            yield {**row, "action": "add", "changed": {}}
        elif name not in wanted:
            yield {**row, "action": "drop", "changed": {}}
        elif old is not None and (changed := differences(old, wanted[name])):
            yield {**row, "action": "change", "changed": changed}


def _settings(old: Json, new: Json) -> list[Json]:
    before, after = (
        {name: value for name, value in each.items() if name not in ("sources", "monitors")}
        for each in (old, new)
    )
    return [
        {"setting": path, "changed": {path: change}} for path, change in differences(before, after).items()
    ]


# -- monitors ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    service: Service
    days: int
    intervals: bool


def _monitors(asked: _Asked) -> Iterator[Json]:
    store = asked.service.store
    wanted, specs = asked.service.config.monitor_sections(), asked.service.config.monitor_specs()
    decided = decide(store.monitors(), wanted)
    series = store.series()
    for name, spec in specs.items():
        row = decided.continued.get(name)
        found = _added(spec, series) if row is None else _continued(asked, row, spec, series)
        if found is not None:
            yield found
    for row in decided.dropped:
        standing = store.rows("flagged_intervals", {"monitor_id": row.id})
        yield {
            "monitor": row.name,
            "action": "drop",
            "targets_dropped": [target.key for target in store.targets(row.id)],
            "intervals_kept": len(standing),
            "intervals_open": sum(event["status"] == "open" for event in standing),
        }


def _added(spec: MonitorSpec, series: list[SeriesRow]) -> Json:
    keys = [key for key, _ in channels.made(channels.wanted(spec, series))]
    return {"monitor": spec.name, "action": "add", "detector": spec.detector, "targets_added": sorted(keys)}


def _continued(asked: _Asked, row: MonitorRow, spec: MonitorSpec, series: list[SeriesRow]) -> Json | None:
    """Return what becomes of a monitor that is stored; None where nothing does."""
    old = MonitorSpec.from_json(row.config)
    changed = {
        path: change
        for path, change in differences(old.to_json(), spec.to_json()).items()
        if path != "name" and path.partition(".")[0] not in SHARED
    }
    told = _Two(asked, row, old, spec).told(series)
    renamed = {} if row.name == spec.name else {"renamed_from": row.name}
    if not (changed or told or renamed or not row.enabled):
        return None
    action = "change" if row.enabled else "again"
    return {"monitor": spec.name, "action": action, **renamed, "changed": changed, **told}


@dataclass(frozen=True)
class _Two:
    """A stored monitor as it is and as it would be."""

    asked: _Asked
    row: MonitorRow
    old: MonitorSpec
    new: MonitorSpec

    def told(self, series: list[SeriesRow]) -> Json:
        """Return what follows from the two: targets, fits, lines, intervals; nothing where nothing does."""
        found = self._targets(series)
        refitted = fingerprint(self.old) != fingerprint(self.new)
        if refitted:
            found |= {"refit": self._refit()}
        if self.old.threshold != self.new.threshold:
            found |= {"redraw": "the line is drawn anew, for the past too, at the next pass"}
        judged = [(each.threshold, each.policy, each.calendar) for each in (self.old, self.new)]
        if judged[0] != judged[1]:
            found |= {"intervals": self._intervals(refitted)}
        return found

    def _targets(self, series: list[SeriesRow]) -> Json:
        asked_for = [
            {key for key, _ in channels.made(channels.wanted(spec, series))} for spec in (self.old, self.new)
        ]
        added, dropped = sorted(asked_for[1] - asked_for[0]), sorted(asked_for[0] - asked_for[1])
        return {
            **({"targets_added": added} if added else {}),
            **({"targets_dropped": dropped} if dropped else {}),
        }

    def _refit(self) -> Json:
        """Return which fits the next night would make that the config in force would not."""
        from pipelines.jobs.refit import due

        at = int(self.asked.service.now.timestamp())
        night = nights(self.new.nightly, at + 1, at + 3 * DAY)[0]
        due_then = [
            {each.target.key for each in due(self._job(spec), night)} for spec in (self.old, self.new)
        ]
        return {"at": iso_seconds(night), "models": len(due_then[1] - due_then[0]), "due": len(due_then[1])}

    def _intervals(self, refitted: bool) -> Json:
        """Return which intervals would appear and go, by a rescore that writes nothing."""
        from pipelines.jobs import passes

        if refitted:
            return {
                "known": False,
                "why": "new models judge; `anomaly replay` fits them and says what they raise",
            }
        if not self.asked.intervals:
            return {"known": False, "why": "not asked for"}
        at = int(self.asked.service.now.timestamp())
        job = self._job(self.new)
        newest = [job.series()[i].last_ts or 0 for target in job.targets() for i in target.series_ids]
        stop = min(at, max(newest, default=0)) + 1
        done = passes.rescore(job, stop - self.asked.days * DAY, stop, at, dry_run=True)
        return {
            "known": not job.left_out,
            "from": iso_seconds(stop - self.asked.days * DAY),
            "to": iso_seconds(stop),
            "appear": len(done.appeared),
            "change": len(done.changed),
            "go": len(done.vanished),
            **job.told_left_out(),
        }

    def _job(self, spec: MonitorSpec) -> Any:
        return self.asked.service.job(replace(self.row, name=spec.name), spec)
