"""What a backtest or a replay is asked for, checked before any work is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from anomaly_service.config.sections import Config
from anomaly_service.config.values import parse_duration
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import AskedError, InvalidError, NotFoundError
from anomaly_service.known import check_declared
from anomaly_service.measure import backtests
from anomaly_service.measure.backtests import Test
from anomaly_service.measure.labelled import find
from anomaly_service.measure.reviewed import reviewed_series
from detectors import registry
from pipelines.measure.backtest import SPLITS, Candidate
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.names import AUTO
from pipelines.times import minute
from pipelines.workers.members import longest_window

LARGEST = {"alarms": float("inf"), "quantile": 0.5, "sigma": float("inf")}
"""What the number of a threshold method must lie below."""


def names(listed: str | None) -> list[str]:
    """Return the names of a list with commas, each once.

    >>> names("gaussian, kde,,gaussian")
    ['gaussian', 'kde']
    """
    found = [name.strip() for name in (listed or "").split(",")]
    return [name for name in dict.fromkeys(found) if name]


def specs(config: Config, monitors: Sequence[str] | None) -> dict[str, MonitorSpec]:
    """Return the monitors of a config by name, all or those named.

    Raises:
        UnknownMonitorError: the config declares no such monitor.
    """
    found = config.monitor_specs()
    check_declared(monitors or (), list(found))
    return {name: spec for name, spec in found.items() if not monitors or name in monitors}


def window_of(name: str, spec: MonitorSpec) -> int:
    """Return the steps of the longest window of a spec's detector.

    Raises:
        AskedError: its detector takes no such settings; ``name`` says whose they are.
    """
    try:
        return longest_window(spec.detector, spec.params)
    except (InvalidError, NotFoundError) as error:
        raise AskedError(f"{name}: {error}") from None


# -- replay -------------------------------------------------------------------------


def threshold(text: str | None) -> Threshold | None:
    """Return the threshold that a text names: alarms a week, or method=value; None for None.

    Raises:
        AskedError: it names none.

    >>> threshold("quantile=0.001").value
    0.001
    """
    if text is None:
        return None
    if text == "dynamic":
        return Threshold(method="dynamic")
    method, equals, value = text.partition("=")
    if not equals:
        method, value = "alarms", text
    number = _number(value)
    if not 0.0 < number < LARGEST.get(method, 0.0):
        raise AskedError(
            "--threshold takes alarms a week above 0 such as 5, quantile=0.001 (below 0.5), sigma=3 or "
            f"dynamic; got {text!r}"
        )
    if method == "alarms":
        return Threshold(alarms_per_week=number)
    return Threshold(method=method, value=number)


def _number(text: str) -> float:
    """Return the number of a text; 0, which no threshold is, where it is none."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def span(
    store: SqlStore, now: datetime, last: str | None, start: datetime | None, stop: datetime | None
) -> tuple[int, int]:
    """Return a span as epoch seconds, half-open; without an end it goes to the newest point, or to now.

    Args:
        last: its length, such as ``30d``; where it is None, ``start`` says when it begins.

    Raises:
        AskedError: both or none of the two are given, there are no points, or it ends before it starts.
    """
    if (last is None) == (start is None):
        raise AskedError("name the span with --last 30d, or with --from TIME and --to TIME")
    newest = max((row.last_ts for row in store.series() if row.last_ts is not None), default=None)
    if newest is None:
        raise AskedError("the database holds no points yet; run: anomaly ingest")
    end = min(newest, int(now.timestamp())) + 1 if stop is None else int(stop.timestamp())
    if start is None:
        return end - _length(last or ""), end
    begin = int(start.timestamp())
    if begin >= end:
        raise AskedError(f"--from must lie before the end of the span, got {minute(begin)} and {minute(end)}")
    return begin, end


def _length(last: str) -> int:
    try:
        return int(parse_duration(last).total_seconds())
    except InvalidError as error:
        raise AskedError(f"--last: {error}") from None


# -- backtest -----------------------------------------------------------------------


def check(split: str, alarms_per_week: float, *, reviewed: bool) -> None:
    """Refuse a split that there is none of, or that reviewed series have not, and a budget that is none.

    Raises:
        AskedError: says what there is.
    """
    if split not in SPLITS:
        raise AskedError(f"--split must be one of {', '.join(SPLITS)}; got {split!r}")
    if not 0 < alarms_per_week < float("inf"):
        raise AskedError(f"--alarms-per-week must be above 0, got {alarms_per_week:g}")
    if reviewed and split == "train":
        raise AskedError("--split train needs training rows, which --reviewed series do not name")


def candidates(
    detectors: Sequence[str], window: int | None, alarms_per_week: float, *, baselines: bool
) -> list[Candidate]:
    """Return detectors to be tested with a budget for each series, and the baselines beside them.

    Raises:
        AskedError: a detector has no such window.
    """
    return _checked(
        _plain(name, window, alarms_per_week)
        for name in dict.fromkeys((*detectors, *(_baselines() if baselines else ())))
    )


def candidates_of(
    monitors: Mapping[str, MonitorSpec], alarms_per_week: float, *, baselines: bool
) -> list[Candidate]:
    """Return a config's monitors to be tested under their names, and the baselines beside them.

    Raises:
        AskedError: a detector takes no such settings.
    """
    found = [Candidate(name, _with_window(spec)) for name, spec in monitors.items()]
    beside = candidates((), None, alarms_per_week, baselines=baselines)
    return _checked([*found, *(each for each in beside if each.name not in monitors)])


def _plain(name: str, window: int | None, alarms_per_week: float) -> Candidate:
    params = {} if window is None else {"window": window}
    budget = Threshold(alarms_per_week=alarms_per_week, per="series")
    return Candidate(name, MonitorSpec(name, {}, detector=name, params=params, threshold=budget))


def _checked(found: Iterable[Candidate]) -> list[Candidate]:
    listed = list(found)
    for each in listed:
        window_of(each.name, each.spec)
    return listed


def _with_window(spec: MonitorSpec) -> MonitorSpec:
    """Return a monitor's spec with its window spelled out: where it names none, its detector's own."""
    window = window_of(spec.name, spec)
    return spec if spec.detector == AUTO else replace(spec, params={"window": window, **spec.params})


def _baselines() -> list[str]:
    return [name for name in registry.names() if registry.get(name).baseline]


def tests_on_folder(
    data: Path, datasets: Sequence[str], found: Sequence[Candidate], split: str, *, pictured: bool
) -> tuple[list[Test], Sequence[str]]:
    """Return the tests of candidates on the labelled series of a folder, and what could not be read."""
    labelled = find(data, datasets)
    return list(backtests.tests(labelled.files, found, split, pictured=pictured)), labelled.problems


def tests_on_reviewed(
    store: SqlStore,
    monitors: Mapping[str, MonitorSpec],
    detectors: Sequence[str],
    split: str,
    *,
    baselines: bool,
    pictured: bool,
) -> list[Test]:
    """Return the tests on the database's own series: each monitor's settings on the series it watches.

    Raises:
        AskedError: nobody has reviewed anything of these monitors.
    """
    series = reviewed_series(store, monitors)
    if not series:
        raise AskedError(
            "nobody has reviewed an interval of these monitors yet; judge some first: anomaly review"
        )
    return [
        test
        for name, own in series.items()
        for test in backtests.tests(
            own, _checked(_variants(monitors[name], detectors, baselines)), split, pictured=pictured
        )
    ]


def _variants(spec: MonitorSpec, detectors: Sequence[str], baselines: bool) -> Iterator[Candidate]:
    """Yield a monitor as it is, or with each of the detectors instead, and with each baseline."""
    spec = _with_window(spec)
    named = [*(detectors or [spec.detector]), *(_baselines() if baselines else ())]
    for name in dict.fromkeys(named):
        other = replace(spec, detector=name, params=_shared(name, spec))
        yield Candidate(name, spec if name == spec.detector else other)


def _shared(detector: str, spec: MonitorSpec) -> dict[str, Any]:
    """Return the settings that another detector takes over: the window, which auto chooses itself."""
    return {} if AUTO in (detector, spec.detector) else {"window": spec.params["window"]}
