"""The face for Python: ``detect`` on what people have in a notebook.

    >>> from anomaly_service import detect
    >>> found = detect(frame["logins"])                            # doctest: +SKIP
    >>> found.intervals, found.scores, found.plot()                # doctest: +SKIP

The same code as the service, without a database. Importing this costs nothing: torch and pandas are
imported by the first call.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from anomaly_service.notebook.result import Detected
    from detectors.base import Detector


def detect(
    data: Any,
    detector: str | Detector | type[Detector] = "auto",
    alarms_per_week: float | None = None,
    *,
    contamination: float | None = None,
    params: Mapping[str, Any] | None = None,
    season: Literal["auto", "none", "daily", "weekly"] = "auto",
    together: bool = False,
    step: str | timedelta | None = None,
    start: Any = None,
    timezone: str | None = None,
    timestamp: Hashable = None,
    value: Hashable | Sequence[Hashable] = None,
    learn_from: Any = None,
    train_until: Any = None,
    detection_direction: Literal["both", "above_expected", "below_expected"] | None = None,
    min_dev_from_expected: float | None = None,
    min_rel_dev_from_expected: float | str | None = None,
    min_duration: str | timedelta | None = None,
    merge_max_gap: str | timedelta | None = None,
    cooldown: str | timedelta | None = None,
    missing_after_steps: int | None = None,
    calendar: Mapping[str, Mapping[str, Any]] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Detected:
    """Return what is anomalous in a series, or in each of several.

    Every score comes from models that did not see its block, as when the service meets a history for the
    first time. Rows may be unsorted, doubled (the last counts), irregular and have gaps.

    Args:
        data: a pandas Series, or a DataFrame whose columns are series, with a DatetimeIndex, a PeriodIndex
            or a column of times; a numpy array of shape ``(n,)`` or ``(n, n_series)`` with ``step``; any
            table with ``__arrow_c_stream__``, as those of polars, pyarrow and duckdb.
        detector: a name (``anomaly detectors`` lists them), a detector with its settings such as
            ``GaussianDetector(window=48)``, or a class of your own. ``auto`` fits several and joins them.
        alarms_per_week: false alarms that may be raised a week, for each series; 1 where None, fewer where
            points come more rarely than every hour.
        contamination: instead, the share of points above the line.
        params: settings of a detector that is named, such as ``{"window": 48}``.
        season: what is taken out first.
        together: the columns are channels of one target with one model, not series each on its own.
        step: distance of rows, such as ``"5min"``; where None it is told by them.
        start: time of the first row, for rows without times; Monday, 1 January 2024 where None.
        timezone: IANA name: of times without a zone (UTC where None), and of days and weeks.
        timestamp: column of the time; found by its type or name where None.
        value: one column, or a list of columns, to look at; all but the time where None.
        learn_from, train_until: first and last moment that models learn from; all where None. What lies
            outside is scored by a model that has not seen it.
        detection_direction: which side of the expected value counts; ``both`` where None.
        min_dev_from_expected: smallest deviation that counts, in the series' unit.
        min_rel_dev_from_expected: the same as a share of the expected value, such as ``"5%"``.
        min_duration: shorter intervals are dropped.
        merge_max_gap: intervals with at most so much normal time between are one; an hour or three steps
            where None, whichever is longer.
        cooldown: after an interval no new one starts for so long, unless it is half as high again or lasts
            four times as long.
        missing_after_steps: a gap of so many steps is an interval of its own; 3 where None.
        calendar: as in a config file, such as ``{"patch": {"every": "FREQ=WEEKLY;BYDAY=TU;BYHOUR=6",
            "lasts": "2h", "masked": True}}``.
        device: where models are fitted and score.

    Raises:
        SeriesError: what was passed has no times or no numbers, or none of its series can be learned from;
            ``TooShortError`` says how many points are needed.
        ConfigError: a setting that a config file may not hold either.
        UnknownSettingError: a setting that the detector does not have.
    """
    from anomaly_service.notebook.asked import Asked
    from anomaly_service.notebook.result import detected
    from anomaly_service.notebook.settings import reading_of

    if contamination is not None and alarms_per_week is not None:
        raise TypeError("expected alarms_per_week or contamination, got both")
    quantile = {"method": "quantile", "contamination": contamination}
    asked = Asked(
        detector=detector,
        params=params,
        threshold={"alarms_per_week": alarms_per_week} if contamination is None else quantile,
        policy={
            "detection_direction": detection_direction,
            "min_dev_from_expected": min_dev_from_expected,
            "min_rel_dev_from_expected": min_rel_dev_from_expected,
            "min_duration": min_duration,
            "merge_max_gap": merge_max_gap,
            "cooldown": cooldown,
            "missing_after_steps": missing_after_steps,
        },
        season=season,
        calendar=calendar or {},
        device=device,
        together=together,
        learn_from=learn_from,
        train_until=train_until,
        reading=reading_of(step=step, start=start, timezone=timezone, timestamp=timestamp, value=value),
    )
    return detected(data, asked)
