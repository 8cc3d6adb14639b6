"""Model versions with their weights and calibrations, and the lines of monitors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Exists,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from anomaly_service.db.engine import db_now
from anomaly_service.db.sql import among, upsert
from anomaly_service.db.tables import Calibration, EventTable, Line, ModelVersion, Score, Weights
from pipelines.names import Mode
from pipelines.records import CalibrationRow, Json, LineRow, VersionRow
from pipelines.store import NewVersion

CHUNK = 256
"""Weights per statement: 16 MiB at the 64 KiB that a default version may have."""

Key = tuple[int, int, str, str]
"""What makes two fits the same version: target, end of training, detector, digest of its config."""


def digest(config: Json) -> str:
    """Return a digest of a config that does not depend on the order of its keys."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _key(version: NewVersion) -> Key:
    return int(version.target_id), int(version.train_stop), version.detector, digest(version.config)


def add(connection: Connection, new: Sequence[NewVersion]) -> list[VersionRow]:
    """Store fits that do not exist yet or are made anew; return all as stored, in the order given."""
    stored = _find(connection, new)
    fresh = {_key(version): version for version in new if version.anew or _key(version) not in stored}
    weights = _store_weights(connection, list(fresh.values()))
    for start in range(0, len(fresh), CHUNK):
        chunk = list(
            zip(list(fresh.items())[start : start + CHUNK], weights[start : start + CHUNK], strict=True)
        )
        _insert(connection, [each for each in chunk if each[0][0] not in stored])
        _replace(connection, {stored[each[0][0]].id: each for each in chunk if each[0][0] in stored})
    if fresh:
        stored = _find(connection, new)
        _add_first_calibrations(connection, {stored[key].id: version for key, version in fresh.items()})
    return [stored[_key(version)] for version in new]


def _find(connection: Connection, new: Sequence[NewVersion]) -> dict[Key, VersionRow]:
    query = select(ModelVersion.__table__).where(
        among(connection, ModelVersion.target_id, {int(version.target_id) for version in new}),
        among(connection, ModelVersion.train_stop, {int(version.train_stop) for version in new}),
    )
    return {
        (row.target_id, row.train_stop, row.detector, row.config_key): _version(row)
        for row in connection.execute(query)
    }


def _store_weights(connection: Connection, versions: Sequence[NewVersion]) -> list[int]:
    """Store every distinct weights once; return the row of each version's."""
    owners: dict[Any, int] = {}
    ids: dict[Any, int] = {}
    for index, version in enumerate(versions):
        if version.stored_weights is None:
            owners.setdefault(_owner(index, version), index)
        else:
            ids[_owner(index, version)] = version.stored_weights
    listed = list(owners.items())
    statement = insert(Weights.__table__).returning(Weights.id, sort_by_parameter_order=True)  # type: ignore[arg-type]
    for start in range(0, len(listed), CHUNK):
        chunk = listed[start : start + CHUNK]
        rows = [{"data": versions[index].weights} for _, index in chunk]
        found = connection.scalars(statement, rows).all()
        ids |= dict(zip((owner for owner, _ in chunk), found, strict=True))
    return [ids[_owner(index, version)] for index, version in enumerate(versions)]


def _owner(index: int, version: NewVersion) -> tuple[str, int]:
    if version.stored_weights is not None:
        return "stored", version.stored_weights
    if version.shared_weights is not None:
        return "shared", version.shared_weights
    return "own", index


Kept = tuple[tuple[Key, NewVersion], int]
"""A version with its key, and the row of its weights."""


def _insert(connection: Connection, chunk: Sequence[Kept]) -> None:
    if chunk:
        connection.execute(insert(ModelVersion).values(created_at=db_now()), [_row(each) for each in chunk])


def _replace(connection: Connection, chunk: dict[int, Kept]) -> None:
    """Put versions in the place of those with these ids, and forget what was learned of their scores."""
    if not chunk:
        return
    connection.execute(delete(Calibration).where(among(connection, Calibration.version_id, _ints(chunk))))
    rows = [{"row_id": id_, **_row(each)} for id_, each in chunk.items()]
    settable: dict[str, Any] = {name: bindparam(name) for name in rows[0] if name != "row_id"}
    statement = update(ModelVersion.__table__).where(ModelVersion.id == bindparam("row_id"))  # type: ignore[arg-type]  # a Table, typed as FromClause
    connection.execute(statement.values(**settable, created_at=db_now()), rows)


def _row(kept: Kept) -> dict[str, Any]:
    (key, version), weights_id = kept
    return {
        "target_id": key[0],
        "detector": version.detector,
        "train_start": int(version.train_start),
        "train_stop": key[1],
        "recipe": version.recipe,
        "config": version.config,
        "config_key": key[3],
        "weights_id": weights_id,
        "status": version.status,
        "scored": False,
        "card": version.card,
    }


def _add_first_calibrations(connection: Connection, versions: dict[int, NewVersion]) -> None:
    add_calibrations(
        connection,
        [
            CalibrationRow(id_, Mode(mode), version.train_stop, body)
            for id_, version in versions.items()
            for mode, body in version.calibrations.items()
        ],
    )


def add_calibrations(connection: Connection, rows: Sequence[CalibrationRow]) -> None:
    """Append calibrations; one with the same version, mode and valid_from is replaced."""
    now = connection.scalar(select(db_now()))
    values = [
        {
            "version_id": int(row.version_id),
            "mode": row.mode.value,
            "valid_from": int(row.valid_from),
            "body": row.body,
            "created_at": now,
        }
        for row in rows
    ]
    upsert(connection, Calibration, values, ["version_id", "mode", "valid_from"])


def rows(connection: Connection, target_ids: Sequence[int], *, every: bool) -> list[VersionRow]:
    """Return the accepted versions of these targets, or every one, by target and end of training."""
    query = (
        select(ModelVersion.__table__)
        .where(among(connection, ModelVersion.target_id, _ints(target_ids)))
        .order_by(ModelVersion.target_id, ModelVersion.train_stop, ModelVersion.id)
    )
    if not every:
        query = query.where(ModelVersion.status == "accepted")
    return [_version(row) for row in connection.execute(query)]


def _version(row: Any) -> VersionRow:
    return VersionRow(
        id=row.id,
        target_id=row.target_id,
        detector=row.detector,
        train_start=row.train_start,
        train_stop=row.train_stop,
        recipe=row.recipe,
        config=row.config,
        weights_id=row.weights_id,
        status=row.status,
        card=row.card,
        scored=row.scored,
    )


def mark_scored(connection: Connection, scored_from: dict[int, int]) -> None:
    """Note that the versions trained up to the time given for their target, or later, are scored."""
    if not scored_from:
        return
    statement = update(ModelVersion.__table__).where(  # type: ignore[arg-type]  # a Table, typed as FromClause
        ModelVersion.target_id == bindparam("target"), ModelVersion.train_stop >= bindparam("since")
    )
    rows = [{"target": int(id_), "since": int(ts)} for id_, ts in sorted(scored_from.items())]
    connection.execute(statement.values(scored=True), rows)


def weights(connection: Connection, ids: Iterable[int]) -> dict[int, bytes]:
    query = select(Weights.id, Weights.data).where(among(connection, Weights.id, _ints(ids)))
    return {id_: bytes(data) for id_, data in connection.execute(query)}


def calibrations(
    connection: Connection, version_ids: Sequence[int], span: tuple[int, int] | None
) -> list[CalibrationRow]:
    """Return the calibrations of these versions by version, mode and time."""
    query = (
        select(Calibration.version_id, Calibration.mode, Calibration.valid_from, Calibration.body)
        .where(among(connection, Calibration.version_id, _ints(version_ids)))
        .order_by(Calibration.version_id, Calibration.mode, Calibration.valid_from)
    )
    if span is not None:
        query = query.where(Calibration.valid_from >= span[0], Calibration.valid_from < span[1])
    return [CalibrationRow(id_, Mode(mode), ts, body) for id_, mode, ts, body in connection.execute(query)]


def add_lines(connection: Connection, lines: Sequence[LineRow]) -> None:
    now = connection.scalar(select(db_now()))
    values = [
        {
            "monitor_id": int(line.monitor_id),
            "target_id": int(line.target_id or 0),
            "mode": line.mode.value,
            "valid_from": int(line.valid_from),
            "body": line.body,
            "created_at": now,
        }
        for line in lines
    ]
    upsert(connection, Line, values, ["monitor_id", "target_id", "mode", "valid_from"])


def lines(
    connection: Connection,
    monitor_id: int,
    span: tuple[int, int] | None,
    target_ids: Sequence[int] | None,
) -> list[LineRow]:
    """Return the monitor's lines by target (the whole monitor's first), mode and time."""
    query = (
        select(Line.monitor_id, Line.target_id, Line.mode, Line.valid_from, Line.body)
        .where(Line.monitor_id == monitor_id)
        .order_by(Line.target_id, Line.mode, Line.valid_from)
    )
    if span is not None:
        start, stop = span
        begun = or_(Line.valid_from < stop, ~_another(lambda other: other < Line.valid_from))
        query = query.where(begun, ~_another(lambda other: (other > Line.valid_from) & (other <= start)))
    if target_ids is not None:
        query = query.where(among(connection, Line.target_id, [0, *_ints(target_ids)]))
    return [
        LineRow(id_, target or None, Mode(mode), ts, body)
        for id_, target, mode, ts, body in connection.execute(query)
    ]


def _another(when: Callable[[Any], ColumnElement[bool]]) -> Exists:
    """Return whether the same owner and mode have another line, at such a time."""
    other = Line.__table__.alias()
    return exists().where(
        other.c.monitor_id == Line.monitor_id,
        other.c.target_id == Line.target_id,
        other.c.mode == Line.mode,
        when(other.c.valid_from),
    )


def prune_lines(connection: Connection, before: int, monitor_ids: Collection[int] | None = None) -> int:
    """Delete lines that were no longer in force at a time; return how many."""
    statement = delete(Line).where(_another(lambda other: (other > Line.valid_from) & (other <= before)))
    if monitor_ids is not None:
        statement = statement.where(among(connection, Line.monitor_id, _ints(monitor_ids)))
    return connection.execute(statement).rowcount


def prune(connection: Connection, keep: int, before: int, target_ids: Collection[int] | None = None) -> int:
    """Delete versions that nothing needs any more; return how many.

    Kept are the newest ``keep`` of every target, those that score any time from ``before`` on (until
    the end of training of the next accepted one), and those a stored score or a standing event names.
    """
    doomed = _prunable(connection, keep, before, target_ids)
    remove(connection, doomed)
    return len(doomed)


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Delete versions, with the weights that no other has."""
    going = delete(ModelVersion).where(among(connection, ModelVersion.id, ids))
    freed = set(connection.scalars(going.returning(ModelVersion.weights_id)))
    used = exists().where(ModelVersion.weights_id == Weights.id)
    connection.execute(delete(Weights).where(among(connection, Weights.id, _ints(freed)), ~used))


def _prunable(
    connection: Connection, keep: int, before: int, target_ids: Collection[int] | None
) -> list[int]:
    newest_first = func.row_number().over(
        partition_by=ModelVersion.target_id,
        order_by=(ModelVersion.train_stop.desc(), ModelVersion.id.desc()),
    )
    ranked = select(
        ModelVersion.id, ModelVersion.target_id, ModelVersion.train_stop, newest_first.label("rank")
    ).subquery()
    later = ModelVersion.__table__.alias()
    scores_no_more = exists().where(
        later.c.target_id == ranked.c.target_id,
        later.c.status == "accepted",
        later.c.train_stop > ranked.c.train_stop,
        later.c.train_stop <= before,
    )
    has_scores = exists().where(Score.target_id == ranked.c.target_id, Score.version_id == ranked.c.id)
    standing = or_(EventTable.status.not_in(["outdated", "merged_into"]), EventTable.review_id.is_not(None))
    has_events = exists().where(EventTable.version_id == ranked.c.id, standing)
    query = select(ranked.c.id).where(ranked.c.rank > keep, scores_no_more, ~has_scores, ~has_events)
    if target_ids is not None:
        query = query.where(among(connection, ranked.c.target_id, _ints(target_ids)))
    return list(connection.scalars(query))


def _ints(values: Iterable[int]) -> list[int]:
    return sorted({int(value) for value in values})
