"""What the days of a night's lesson count."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from pipelines.monitor import MonitorSpec
from pipelines.records import Policy
from pipelines.steps import evidence
from pipelines.times import DAY
from pipelines.workers.recount import _Columns
from pipelines.workers.tasks import SeenAt

DAYS = 60


@pytest.mark.parametrize("step", [300, 3600, DAY])
@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(merge_max_gap_seconds=0),
        Policy(merge_max_gap_seconds=6 * 3600, min_duration_seconds=3 * 3600),
        Policy(min_duration_seconds=2 * DAY),
    ],
)
def test_the_alarms_of_days_add_up_to_those_of_one_pass(step: int, policy: Policy) -> None:
    n = DAYS * max(1, DAY // step)
    noise = np.random.default_rng(1).standard_normal(n)
    surprise = np.abs(lfilter([1.0], [1.0, -0.9], noise))
    surprise[::17] = np.nan
    everywhere, ts = np.ones(n, dtype=np.bool_), np.arange(n, dtype=np.int64) * step
    course = _Columns(ts, surprise, everywhere, everywhere, 1, step)
    spec, end = MonitorSpec("m", {}, policy=policy), int(ts[-1]) + step
    whole = course.realised(spec, SeenAt(), 0, end)
    days = [course.realised(spec, SeenAt(), at, min(at + DAY, end)) for at in range(0, end, DAY)]
    assert max(whole.alarms) > 3
    np.testing.assert_array_equal(evidence.total(days).alarm_values, whole.alarm_values)
    assert sum(day.weeks for day in days) == pytest.approx(whole.weeks)
