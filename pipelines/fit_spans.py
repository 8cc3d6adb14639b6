"""How much history a fit learns from and how often it is worth one: functions of config, step and age alone.

A fit learns from six weeks, or from a thousand steps where those are longer; of a younger history from all of
it. While a history is young each quarter that it grows by is worth a fit; later an eighth of the window is.
"""

from __future__ import annotations

from pipelines.monitor import AUTO_SPAN, MonitorSpec
from pipelines.times import DAY, WEEK

WINDOW_SECONDS = 6 * WEEK
"""Six of the longest season that is learned, so that one odd week is not the habit."""

WINDOW_STEPS = 1_000

FIRST_FIT_SECONDS = 14 * DAY
"""A first model waits for two weeks, so that it has seen every hour of the week twice, or for fit.window."""

GROWN_SHARE = 4
"""A young history is fitted again when it has grown by a quarter."""

WINDOW_SHARE = 8
"""An old one when an eighth of the window is new."""

RHYTHMS = (1, 3, 7, *(14 << k for k in range(24)))
"""Days between two fits: but for the first two each divides the next, so that nights fall together."""


def fit_window(asked_seconds: int, step_seconds: int) -> int:
    """Return how much history a fit of a target asks for, seconds; there may be less.

    Args:
        asked_seconds: a monitor's ``fit_window_seconds``.

    >>> fit_window(AUTO_SPAN, DAY) // DAY, fit_window(AUTO_SPAN, 300) // DAY, fit_window(WEEK, 300) // DAY
    (1000, 42, 7)
    """
    if asked_seconds != AUTO_SPAN:
        return asked_seconds
    return max(WINDOW_SECONDS, WINDOW_STEPS * step_seconds)


def first_wait(spec: MonitorSpec, step_seconds: int, least: int) -> int:
    """Return how much history a first model waits for, seconds.

    Args:
        least: the shortest span a model can be learned from, seconds.
    """
    wanted = FIRST_FIT_SECONDS if spec.fit_first_seconds == AUTO_SPAN else spec.fit_first_seconds
    return min(fit_window(spec.fit_window_seconds, step_seconds), max(wanted, least))


def fit_days(spec: MonitorSpec, step_seconds: int, age_seconds: int) -> int:
    """Return the days between two scheduled fits of a target.

    Args:
        age_seconds: how long its history is.

    >>> auto = MonitorSpec("m", {}, fit_every_seconds=AUTO_SPAN, fit_window_seconds=AUTO_SPAN)
    >>> [fit_days(auto, 300, days * DAY) for days in (2, 14, 28, 400)]
    [1, 3, 7, 7]
    >>> [fit_days(auto, DAY, days * DAY) for days in (60, 400, 4000)]
    [14, 56, 112]
    """
    if spec.fit_every_seconds != AUTO_SPAN:
        return max(1, -(-spec.fit_every_seconds // DAY))
    longest = max(WEEK, fit_window(spec.fit_window_seconds, step_seconds) // WINDOW_SHARE)
    worth = min(longest, age_seconds // GROWN_SHARE)
    return max((days for days in RHYTHMS if days * DAY <= worth), default=1)
