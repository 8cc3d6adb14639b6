"""A picture of what was detected: values in their band, intervals, and scores with the line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_service.errors import NoPlotError
from anomaly_service.notebook.asked import Judged
from anomaly_service.notebook.rows import Moment, Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, VALUES_HEIGHT, SCORES_HEIGHT = 10.0, 2.2, 1.0
"""Inches."""

SHOWN = 12
"""Series in a picture, those with the highest scores; more cannot be read."""

VALUE, BAND, FLAGGED, GAP, LINE = "#22304a", "#3568b2", "#c8372d", "#8a8f98", "#c8372d"

CAPTION = "values, what is normal (blue), flagged intervals (red), gaps (grey), and the score with its line"

HIGHEST = 3.0
"""Scores above so many lines are cut off: what counts is on which side of the line they are."""


def picture(rows: Rows, targets: Sequence[Judged], start: Moment, stop: Moment) -> Figure:
    """Return a figure with two panels for every target: its values, a panel each, and its score.

    Raises:
        NoPlotError: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise NoPlotError from None
    highest = sorted(range(len(targets)), key=lambda at: -_peak(targets[at]))[:SHOWN]
    shown = [targets[at] for at in sorted(highest)]
    heights = [h for each in shown for h in (*(VALUES_HEIGHT for _ in each.columns), SCORES_HEIGHT)]
    figure = plt.figure(figsize=(WIDTH, sum(heights) + 0.6), layout="constrained")
    # A notebook shows what a cell returns; what pyplot keeps open as well it would show twice.
    plt.close(figure)
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    figure.suptitle(CAPTION, fontsize=8, color=GAP)
    rest = iter(panels)
    for each in shown:
        for channel, column in enumerate(each.columns):
            _draw_values(next(rest), rows, each, channel, column)
        _draw_scores(next(rest), rows, each)
    _finish(panels[-1], rows, start, stop)
    return figure


def _peak(of: Judged) -> float:
    return max((each.peak_score for each in of.found), default=0.0)


def _draw_values(panel: Axes, rows: Rows, of: Judged, channel: int, column: int) -> None:
    times = _times(rows, of.ts)
    panel.fill_between(
        times, of.band.low[:, channel], of.band.high[:, channel], color=BAND, alpha=0.18, linewidth=0
    )
    panel.plot(times, of.band.mid[:, channel], color=BAND, alpha=0.6, linewidth=0.8)
    order = np.flatnonzero(rows.timed)[np.argsort(rows.at[rows.timed], kind="stable")]
    panel.plot(_times(rows, rows.at[order]), rows.values[order, column], color=VALUE, linewidth=0.9)
    _shade(panel, rows, of)
    panel.set_ylabel(str(rows.names[column]))
    panel.margins(x=0.005)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_scores(panel: Axes, rows: Rows, of: Judged) -> None:
    panel.plot(_times(rows, of.ts), np.minimum(of.anomaly_score, HIGHEST), color=VALUE, linewidth=0.7)
    panel.axhline(1.0, color=LINE, linewidth=0.8, linestyle="--")
    _shade(panel, rows, of)
    panel.set_ylim(0, HIGHEST)
    panel.margins(x=0.005)
    panel.set_ylabel("score", fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _shade(panel: Axes, rows: Rows, of: Judged) -> None:
    """Shade flagged intervals from half a step before to half a step after: one of one step is seen too."""
    half = of.step_seconds // 2
    for each in of.found:
        first, last = _times(rows, np.array([each.start - half, each.end + half]))
        color = FLAGGED if each.direction or str(each.kind) == "flatline" else GAP
        panel.axvspan(first, last, color=color, alpha=0.25, linewidth=1.0)


def _times(rows: Rows, seconds: Any) -> Any:
    """Return times as they are read on the clock of the rows."""
    return rows.clock.moments(seconds).tz_localize(None).to_numpy()


def _finish(panel: Axes, rows: Rows, start: Moment, stop: Moment) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()  # type: ignore[no-untyped-call]  # matplotlib's
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    for side, moment in (("left", start), ("right", stop)):
        if moment is not None:
            panel.set_xlim(**{side: _times(rows, np.array([rows.clock.seconds(moment)]))[0]})
