"""New windows drawn from a stored model, in the unit of its series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anomaly_service.errors import NoModelError, NoPlotError

if TYPE_CHECKING:
    from anomaly_service.service import Service
    from pipelines.records import TargetRow, VersionRow

PAGE = (9.0, 5.0)
"""Width and height of a picture, inches; at 120 dots an inch 1,080 by 600 pixels."""
ROOM = 0.3
"""Of the values' range, above and below them in a picture."""


SHOWN = 5
"""Series named in a message at most."""


@dataclass(frozen=True)
class Sampled:
    """Windows drawn from a model, beside the one that was observed at the same times.

    Attributes:
        series: key of the target.
        version_id: the model.
        detector: its family.
        channels: key of every channel's series.
        ts: shape ``(window,)``, epoch seconds.
        values: shape ``(n, window, n_channels)``, in the series' own unit.
        observed: shape ``(window, n_channels)``, NaN where there is no point.
    """

    series: str
    version_id: int
    detector: str
    channels: tuple[str, ...]
    ts: NDArray[np.int64]
    values: NDArray[np.float64]
    observed: NDArray[np.float64]


def draw(
    service: Service, monitor: str, series: str | None, n: int, *, stop: int | None = None, seed: int = 0
) -> Sampled:
    """Return windows as a series' model would have them, with season, level and scale of their time.

    Args:
        monitor: name of a monitor of the config.
        series: key of one of its targets; None for the only one.
        n: how many windows.
        stop: the window ends before this time, epoch seconds; None ends it with the newest point.
        seed: equal seeds draw equal windows.

    Raises:
        UnknownMonitorError: the config declares no such monitor.
        NoModelError: the monitor does not watch the series, it has no model yet, or none that old.
    """
    from pipelines.steps import masks
    from pipelines.workers import alone, members

    job = service.stored_job(monitor)
    target = _target(job.targets(), monitor, series)
    known = job.series()
    newest = min(known[i].last_ts or 0 for i in target.series_ids)
    end = newest + 1 if stop is None else stop
    version = _version(job.versions([target])[target.id], target.key, end)
    lead, *_ = members.of_version(version)
    first, _ = alone.drawn_context(lead, end)
    points = job.points([target], first, end + lead.recipe.step_seconds)[target.id]
    masked = masks.of_calendar(job.spec.calendar_of(target.labels), target.timezone, first, end)
    points = masks.without(points, masked)
    (weights,) = service.store.weights([version.weights_id]).values()
    drawn = alone.drawn(lead, weights, points, end, n, seed=seed)
    return Sampled(
        series=target.key,
        version_id=version.id,
        detector=lead.detector,
        channels=tuple(known[i].spec.key for i in target.series_ids),
        ts=drawn.ts,
        values=drawn.values,
        observed=drawn.observed,
    )


def _target(targets: Sequence[TargetRow], monitor: str, series: str | None) -> TargetRow:
    by_key = {target.key: target for target in targets}
    if series is None and len(by_key) == 1:
        (series,) = by_key
    if series in by_key:
        return by_key[series]
    some = ", ".join(sorted(by_key)[:SHOWN]) + (
        f" and {len(by_key) - SHOWN} more" if len(by_key) > SHOWN else ""
    )
    wrong = "name one with --series" if series is None else f"there is no {series!r} among them"
    raise NoModelError(f"monitor {monitor} watches {some or 'no series yet'}; {wrong}")


def _version(versions: Sequence[VersionRow], series: str, end: int) -> VersionRow:
    """Return the newest version that was there at a time."""
    there = [version for version in versions if version.train_stop <= end]
    if not there:
        raise NoModelError(
            f"{series} has no model {'that old' if versions else 'yet'}; "
            "`anomaly models` lists those there are"
        )
    return there[-1]


def rows(sampled: Sampled) -> list[dict[str, object]]:
    """Return a row for every step of every window: number of the window from 1, time, a value per channel."""
    return [
        {"sample": number, "at": at, **dict(zip(sampled.channels, map(float, row), strict=True))}
        for number, window in enumerate(sampled.values, 1)
        for at, row in zip(_times(sampled), window, strict=True)
    ]


def summary(sampled: Sampled) -> list[dict[str, object]]:
    """Return a row for every step and channel: what was observed, and the middle and edges of the samples."""
    edges = np.quantile(sampled.values, [0.05, 0.5, 0.95], axis=0)
    return [
        {
            "at": at,
            "series": channel,
            "observed": float(sampled.observed[step, number]),
            **dict(zip(("low_5", "median", "high_95"), map(float, edges[:, step, number]), strict=True)),
        }
        for number, channel in enumerate(sampled.channels)
        for step, at in enumerate(_times(sampled))
    ]


def _times(sampled: Sampled) -> list[datetime]:
    return [datetime.fromtimestamp(int(ts), UTC) for ts in sampled.ts]


def picture(sampled: Sampled, path: Path) -> None:
    """Write a picture of the windows above each other, and of what was observed; a panel per channel.

    Raises:
        NoPlotError: matplotlib is not installed.
    """
    try:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
        from matplotlib.figure import Figure
    except ImportError:
        raise NoPlotError from None
    width, height = PAGE
    n = len(sampled.channels)
    figure = Figure(figsize=(width, height * max(1.0, n / 2)), dpi=120, layout="constrained")
    panels = figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]
    times = sampled.ts.astype("datetime64[s]")
    for channel, panel in enumerate(panels):
        drawn = sampled.values[:, :, channel]
        panel.plot(times, drawn.T, color="#3568b2", alpha=max(0.12, 1 / len(drawn) ** 0.5), linewidth=1)
        panel.plot(times, sampled.observed[:, channel], color="#111111", linewidth=1.8)
        panel.set_ylabel(sampled.channels[channel], fontsize=8)
        panel.margins(x=0.01, y=ROOM / 2)
        panel.spines[["top", "right"]].set_visible(False)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]  # matplotlib's
    panels[-1].xaxis.set_major_locator(locator)
    panels[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    figure.suptitle(
        f"{len(sampled.values)} windows drawn by {sampled.detector} (blue), and what was observed (black)",
        fontsize=10,
    )
    figure.savefig(path)
