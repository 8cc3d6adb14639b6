"""Points as their sources mean them: counters as rates, and zeros where a source leaves them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipelines.batches import split
from pipelines.monitor import MonitorSpec
from pipelines.records import Points, Seconds, SeriesRow
from pipelines.steps import meaning
from pipelines.store import PointReader


def series(spec: MonitorSpec, rows: Sequence[SeriesRow]) -> list[SeriesRow]:
    """Return the series with how far what is watched of them goes: zeros go as far as their source does."""
    newest: dict[str, int] = {}
    for row in rows:
        newest[row.spec.source] = max(newest.get(row.spec.source, 0), row.last_ts or 0)
    return [_reaching(spec, row, newest[row.spec.source]) for row in rows]


def _reaching(spec: MonitorSpec, row: SeriesRow, newest: int) -> SeriesRow:
    if row.begun is None or row.last_ts is None or not leaves_out_zeros(spec, row):
        return row
    step = row.spec.step_seconds
    # The step that the newest point of the source is in may not be over.
    return replace(row, last_ts=max(row.last_ts, row.begun + ((newest - row.begun) // step - 1) * step))


def points(
    store: PointReader,
    spec: MonitorSpec,
    known: Mapping[int, SeriesRow],
    ids: Sequence[int],
    start: int,
    stop: int,
) -> dict[int, Points]:
    """Return what is watched of some series in a half-open span, by id.

    Args:
        known: every series by id.
        ids: ascending.
    """
    found: dict[int, Points] = {}
    plain = [i for i in ids if i not in known or not _is_other(spec, known[i])]
    if plain:
        found |= split(store.points(plain, start, stop), plain)
    for i in ids:
        if i not in found:
            found[i] = _meant(store, spec, known, known[i], start, stop)
    return found


def leaves_out_zeros(spec: MonitorSpec, row: SeriesRow) -> bool:
    """Return whether a step without a point is a zero; a counter that counts nothing stands still."""
    meant = spec.meaning_of(row.spec.source)
    return meant.zero and not meant.is_rate(row.spec.metric)


def _is_other(spec: MonitorSpec, row: SeriesRow) -> bool:
    return leaves_out_zeros(spec, row) or spec.meaning_of(row.spec.source).is_rate(row.spec.metric)


def _meant(
    store: PointReader,
    spec: MonitorSpec,
    known: Mapping[int, SeriesRow],
    row: SeriesRow,
    start: int,
    stop: int,
) -> Points:
    if spec.meaning_of(row.spec.source).is_rate(row.spec.metric):
        return _rates(store, row, start, stop)
    return _filled(store, known, row, start, stop)


def _read(store: PointReader, row: SeriesRow, start: int, stop: int) -> Points:
    return split(store.points([row.id], start, stop), [row.id])[row.id]


def _rates(store: PointReader, row: SeriesRow, start: int, stop: int) -> Points:
    step = row.spec.step_seconds
    found = meaning.rates(_read(store, row, start - meaning.rate_context(step), stop), step)
    own = slice(int(np.searchsorted(found.ts, start)), None)
    return Points(found.ts[own], found.value[own])


def _filled(
    store: PointReader, known: Mapping[int, SeriesRow], row: SeriesRow, start: int, stop: int
) -> Points:
    step, begun = row.spec.step_seconds, row.begun
    reach = meaning.silent_seconds(step)
    own = _read(store, row, start - reach, stop + reach)
    if begun is None:
        return own
    heard = _heard(store, known, row, own, start - reach, stop + reach)
    return meaning.filled(own, start, stop, begun=begun, step_seconds=step, heard=heard)


def _heard(
    store: PointReader, known: Mapping[int, SeriesRow], row: SeriesRow, own: Points, start: int, stop: int
) -> Seconds:
    """Return when the source of a series brought anything: all its series are asked only where it must be."""
    last = row.last_ts or 0
    stop = min(stop, last + row.spec.step_seconds)
    ends = [at for at in (row.begun, last) if at is not None]
    heard = np.unique(np.concatenate([own.ts, ends]))
    near = heard[(heard >= start) & (heard <= stop)]
    silent = np.diff(np.concatenate([[start], near, [stop]])) > meaning.silent_seconds(row.spec.step_seconds)
    others = [i for i, each in known.items() if each.spec.source == row.spec.source and i != row.id]
    if not (silent.any() and others):
        return heard
    return np.unique(np.concatenate([heard, store.points(sorted(others), start, stop).ts]))
