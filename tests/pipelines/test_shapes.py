"""The incidents that are shapes: what is said to be planted stands in the data, and nothing else moves."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import datetime

import numpy as np
import pytest
from numpy.typing import NDArray

from anomaly_service.errors import InvalidError
from pipelines.measure.shapes import KINDS, SERIES, TWIN, TWIN_GAP_STEPS, shapes, twins
from pipelines.measure.simulate import Incident, Simulation, simulate
from pipelines.steps.season import utc_offsets
from pipelines.times import DAY, HOUR

MADE = shapes(0)
STEP = 300


def inside(made: Simulation, series: int) -> NDArray[np.bool_]:
    ts = made.points[series].ts
    found = np.zeros(len(ts), dtype=bool)
    for each in (i for i in made.incidents if i.series == series):
        found |= (ts >= each.start) & (ts <= each.end)
    return found


def values(incident: Incident, *, calm: bool = False) -> NDArray[np.float64]:
    points = (MADE.undisturbed if calm else MADE.points)[incident.series]
    own = (points.ts >= incident.start) & (points.ts <= incident.end)
    return np.log(points.value[own])


def of(kind: str) -> list[Incident]:
    return [incident for incident in MADE.incidents if incident.kind == kind]


def test_the_old_incidents_are_where_they_always_were() -> None:
    rows = "".join(f"{i.series} {i.kind} {i.start} {i.end}\n" for i in simulate(1).incidents)
    assert hashlib.sha256(rows.encode()).hexdigest()[:16] == "ad8115816260511b"
    assert sum(float(points.value.sum()) for points in simulate(1).points) == pytest.approx(
        489008031476.513, rel=1e-9
    )


def test_equal_seeds_give_equal_points_and_others_do_not() -> None:
    again, other = shapes(0), shapes(1)
    for mine, theirs in zip(MADE.points, again.points, strict=True):
        np.testing.assert_array_equal(mine.value, theirs.value)
    assert MADE.incidents == again.incidents != other.incidents


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_is_planted_as_often_before_the_last_week_as_in_it(seed: int) -> None:
    made = shapes(seed)
    early = Counter(i.kind for i in made.incidents if i.end < made.last_fit)
    late = Counter(i.kind for i in made.incidents if i.start >= made.last_fit)
    assert early == late == {kind.name: 4 if kind.name == TWIN else 2 for kind in KINDS}
    assert max(i.end for i in made.incidents) < made.stop - 3 * HOUR
    assert len({spec.key for spec in made.series}) == SERIES


def test_incidents_change_all_of_their_steps_and_no_others() -> None:
    for series in range(SERIES):
        same = MADE.points[series].value == MADE.undisturbed[series].value
        marked = inside(MADE, series)
        assert same[~marked].all()
        assert np.mean(same[marked]) < 0.05


def test_shapes_keep_the_level_they_have_over_a_day() -> None:
    for incident in of("rhythm_doubles") + of("noise_halves"):
        assert values(incident).mean() == pytest.approx(values(incident, calm=True).mean(), abs=0.02)
    for incident in of("night_without_dip"):
        calm = MADE.undisturbed[incident.series]
        assert values(incident).max() < np.log(calm.value.max())


def test_a_rhythm_that_doubles_has_half_the_period() -> None:
    def period(y: NDArray[np.float64]) -> float:
        size = np.abs(np.fft.rfft(np.diff(y - y.mean())))
        return float((len(y) - 1) / (1 + np.argmax(size[1:])))

    for incident in of("rhythm_doubles"):
        assert period(values(incident, calm=True)) / period(values(incident)) == pytest.approx(2, rel=0.2)


def test_noise_that_halves_has_half_the_difference_from_step_to_step() -> None:
    for incident in of("noise_halves"):
        before, after = (np.diff(values(incident, calm=calm), n=2).std() for calm in (True, False))
        assert after / before == pytest.approx(0.5, rel=0.05)


def test_a_night_without_its_dip_begins_at_eleven_and_lies_higher() -> None:
    for incident in of("night_without_dip"):
        zone = MADE.series[incident.series].timezone
        local = incident.start + int(utc_offsets(zone, np.array([incident.start]))[0])
        assert local % DAY == 23 * HOUR
        assert (values(incident) - values(incident, calm=True)).max() > 0.1


def test_twins_are_two_drops_with_sixty_steps_between_them() -> None:
    pairs = twins(MADE.incidents)
    assert 2 * len(pairs) == len(of(TWIN)) == 8
    for one, other in pairs:
        assert one.series == other.series
        assert other.start - one.end == (TWIN_GAP_STEPS + 1) * STEP
        for each in (one, other):
            np.testing.assert_allclose(values(each) - values(each, calm=True), np.log(0.5), atol=1e-3)


def test_too_few_weeks_and_a_naive_start_are_refused() -> None:
    with pytest.raises(InvalidError, match="at least 4 weeks, got 3"):
        shapes(weeks=3)
    with pytest.raises(ValueError, match="must be aware"):
        shapes(start=datetime(2025, 1, 6))
