"""The comparison of flagged intervals with planted incidents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.measure.demo_report import DemoReport, Flagged, Incident, Watched, compare
from pipelines.times import WEEK

LOGINS = "logins{realm=kr-1}"
OUTAGE = Incident(LOGINS, "login_outage", start=10_000, end=11_200)


def flagged(start: int, end: int, *, at: int | None = None, series: str = LOGINS) -> Flagged:
    return Flagged("logins-drop", series, "anomaly", start, end, first_detected=start if at is None else at)


def report(*intervals: Flagged, incidents: tuple[Incident, ...] = (OUTAGE,)) -> DemoReport:
    return compare(incidents, intervals, [Watched("logins-drop", LOGINS, 0, WEEK)], {"logins-drop": 2.0})


def test_an_overlapping_interval_of_the_same_series_finds_the_incident() -> None:
    found = report(flagged(10_600, 12_000))
    assert found.found == 1
    assert found.false_alarms == ()


def test_ends_belong_to_both_so_touching_is_overlapping() -> None:
    assert report(flagged(11_200, 11_500)).found == 1
    assert report(flagged(11_201, 11_500)).found == 0


def test_an_interval_on_another_series_is_a_false_alarm() -> None:
    found = report(flagged(10_000, 11_200, series="logins{realm=eu-1}"))
    assert found.found == 0
    assert len(found.false_alarms) == 1


def test_two_intervals_on_one_incident_are_one_find_and_no_false_alarm() -> None:
    found = report(flagged(10_000, 10_300), flagged(10_900, 11_200))
    assert found.found == 1
    assert found.false_alarms == ()


def test_lateness_counts_from_the_first_of_the_flags() -> None:
    found = report(flagged(10_900, 11_200, at=11_300), flagged(10_000, 10_300, at=10_600))
    assert found.outcomes[0].late_seconds == 600
    assert found.outcomes[0].after_end_seconds == -600


def test_an_interval_that_began_before_the_incident_is_not_early() -> None:
    assert report(flagged(9_000, 10_100)).outcomes[0].late_seconds == 0


def test_borders_are_off_by_the_earliest_start_and_the_latest_end() -> None:
    (outcome,) = report(flagged(9_100, 10_300), flagged(10_900, 11_500)).outcomes
    assert (outcome.start_error_seconds, outcome.end_error_seconds) == (-900, 300)
    (outcome,) = report(flagged(10_300, 10_900)).outcomes
    assert (outcome.start_error_seconds, outcome.end_error_seconds) == (300, -300)
    assert outcome.figures() == {
        "kind": "login_outage",
        "series": LOGINS,
        "start_at": "1970-01-01T02:46:40Z",
        "end_at": "1970-01-01T03:06:40Z",
        "intervals": 1,
        "late_minutes": 5.0,
        "start_error_minutes": 5.0,
        "end_error_minutes": -5.0,
    }


def test_a_missed_incident_has_no_borders() -> None:
    (missed,) = report().figures()["incidents"]
    assert missed["intervals"] == 0
    assert missed["start_error_minutes"] is missed["end_error_minutes"] is missed["late_minutes"] is None


def test_a_missed_incident_has_no_lateness() -> None:
    figures = report().figures()
    assert figures["recall"] == 0
    assert figures["late_minutes_worst"] is None


def test_false_alarms_are_counted_per_week_of_data_against_the_budget() -> None:
    figures = report(flagged(0, 300), flagged(5_000, 5_300), flagged(20_000, 20_300)).figures()
    assert figures["false_alarms_per_week"] == pytest.approx(3)
    assert figures["monitors"]["logins-drop"] == {
        "budget_per_week": 2.0,
        "false_alarms_per_week": pytest.approx(3),
    }


def test_the_share_flagged_is_of_all_watched_time() -> None:
    assert report(flagged(0, WEEK // 100)).share_flagged == pytest.approx(0.01)


def test_recall_is_told_for_every_kind() -> None:
    drift = Incident("mm{realm=kr-1}", "matchmaking_drift", 0, 100)
    figures = report(flagged(10_000, 10_300), incidents=(OUTAGE, drift)).figures()
    assert figures["kinds"]["login_outage"]["recall"] == 1
    assert figures["kinds"]["matchmaking_drift"] == {"planted": 1, "found": 0, "recall": 0}


spans = st.tuples(st.integers(0, 50), st.integers(0, 10)).map(lambda t: (t[0], t[0] + t[1]))


@given(incidents=st.lists(spans, max_size=5), intervals=st.lists(spans, max_size=8, unique=True))
def test_every_interval_either_explains_an_incident_or_is_a_false_alarm(
    incidents: list[tuple[int, int]], intervals: list[tuple[int, int]]
) -> None:
    found = report(
        *(flagged(*s) for s in intervals), incidents=tuple(Incident(LOGINS, "x", *s) for s in incidents)
    )
    explained = {f for o in found.outcomes for f in o.flagged}
    assert explained | set(found.false_alarms) == set(found.flagged)
    assert not explained & set(found.false_alarms)
