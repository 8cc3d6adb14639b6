"""Names that a question holds: what nobody has heard of is refused, as it must not read as all quiet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from anomaly_service.db.store import SqlStore
from anomaly_service.errors import UnknownMonitorError, UnknownSeriesError


def check(store: SqlStore, declared: Iterable[str], monitor: str | None, series: str | None) -> None:
    """Refuse a monitor or a series that there is none of; None is no name.

    Args:
        declared: the monitors of the config; those that the database knows count too.

    Raises:
        UnknownMonitorError: neither the config nor the database knows the monitor.
        UnknownSeriesError: no target of any monitor, and no series, is called so.
    """
    if monitor is not None:
        check_declared([monitor], [*dict.fromkeys((*declared, *(row.name for row in store.monitors())))])
    if series is not None:
        _check_series(store, series)


def check_declared(wanted: Iterable[str], declared: Sequence[str]) -> None:
    """Refuse monitors that are not among those declared.

    Raises:
        UnknownMonitorError: names one, and those there are.
    """
    for name in wanted:
        if name not in declared:
            raise UnknownMonitorError(f"no monitor named {name!r}; the config declares {', '.join(declared)}")


def _check_series(store: SqlStore, series: str) -> None:
    names = {row.spec.key for row in store.series()}
    names |= {target.key for row in store.monitors() for target in store.targets(row.id)}
    if series not in names:
        near = get_close_matches(series, names, 1, 0.0)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise UnknownSeriesError(f"no series {series!r}{hint}; `anomaly series` lists them")
