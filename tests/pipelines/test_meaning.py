"""What stored points stand for: rates of counters, and zeros that a source leaves out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.jobs import meant
from pipelines.monitor import Meaning, MonitorSpec
from pipelines.records import PointBlock, Points, SeriesRow, SeriesSpec
from pipelines.steps import meaning
from pipelines.times import DAY

STEP = 300


class Stored:
    """Points by series id, as a store reads them."""

    def __init__(self, **series: list[tuple[int, float]]) -> None:
        self.of = {int(name[1:]): sorted(rows) for name, rows in series.items()}

    def points(self, series_ids: list[int], start: int, stop: int) -> PointBlock:
        rows = [(i, ts, v) for i in series_ids for ts, v in self.of[i] if start <= ts < stop]
        columns = np.array(rows, dtype=float).reshape(-1, 3).T
        return PointBlock(columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2])

    def rows(self, spec: MonitorSpec) -> dict[int, SeriesRow]:
        known = [
            SeriesRow(i, SeriesSpec(f"m{i}", {}, STEP, source="db"), rows[0][0], rows[-1][0])
            for i, rows in self.of.items()
        ]
        return {row.id: row for row in meant.series(spec, known)}

    def read(self, spec: MonitorSpec, start: int, stop: int, i: int = 1) -> list[tuple[int, float]]:
        found = meant.points(self, spec, self.rows(spec), [i], start, stop)[i]  # type: ignore[arg-type]  # reads points only
        return list(zip(found.ts.tolist(), found.value.tolist(), strict=True))


def spec(**meant_as: object) -> MonitorSpec:
    return MonitorSpec("m", {}, meanings={"db": Meaning(**meant_as)})  # type: ignore[arg-type]  # its fields


def test_a_counter_that_starts_anew_has_no_rate_there():
    counted = Points(np.arange(5) * STEP, np.array([0.0, 300.0, 900.0, 30.0, 330.0]))
    found = meaning.rates(counted, STEP)
    assert found.ts.tolist() == [STEP, 2 * STEP, 4 * STEP]
    assert found.value.tolist() == [1.0, 2.0, 1.0]


def test_what_a_counter_rose_by_over_a_long_gap_is_the_rate_of_no_step():
    counted = Points(np.array([0, STEP, 20 * STEP, 21 * STEP]), np.array([0.0, 300.0, 6000.0, 6300.0]))
    assert meaning.rates(counted, STEP).ts.tolist() == [STEP, 21 * STEP]


def test_a_late_reading_of_a_counter_changes_its_own_rate_and_the_next():
    early = Stored(s1=[(0, 0.0), (2 * STEP, 600.0)])
    late = Stored(s1=[(0, 0.0), (STEP, 600.0), (2 * STEP, 600.0)])
    assert early.read(spec(rates=("*",)), 0, DAY) == [(2 * STEP, 1.0)]
    assert late.read(spec(rates=("*",)), 0, DAY) == [(STEP, 2.0), (2 * STEP, 0.0)]


def test_only_the_metrics_that_are_named_are_rates():
    stored = Stored(s1=[(0, 5.0), (STEP, 8.0)], s2=[(0, 5.0), (STEP, 8.0)])
    assert stored.read(spec(rates=("m1",)), 0, DAY, 1) == [(STEP, 0.01)]
    assert stored.read(spec(rates=("m1",)), 0, DAY, 2) == [(0, 5.0), (STEP, 8.0)]


def test_zeros_go_as_far_as_the_source_and_no_further():
    stored = Stored(s1=[(0, 2.0), (3 * STEP, 1.0)], s2=[(0, 1.0), (7 * STEP, 1.0)])
    assert stored.rows(spec(zero=True))[1].last_ts == 6 * STEP
    assert [ts for ts, v in stored.read(spec(zero=True), 0, DAY) if v == 0.0] == [
        STEP, 2 * STEP, 4 * STEP, 5 * STEP, 6 * STEP
    ]  # fmt: skip


def test_a_source_that_was_silent_as_a_whole_counted_no_zeros():
    stored = Stored(s1=[(0, 2.0), (3 * DAY, 1.0)], s2=[(STEP, 1.0), (3 * DAY, 1.0)])
    assert stored.read(spec(zero=True), 0, 4 * DAY) == [(0, 2.0), (STEP, 0.0), (3 * DAY, 1.0)]


def test_a_series_alone_that_was_silent_for_days_counted_zeros():
    others = [(at, 1.0) for at in range(0, 3 * DAY + 1, DAY // 2)]
    stored = Stored(s1=[(0, 2.0), (3 * DAY, 1.0)], s2=others)
    assert len(stored.read(spec(zero=True), 0, 4 * DAY)) == 3 * DAY // STEP + 1


def test_nothing_is_filled_where_absent_means_missing():
    stored = Stored(s1=[(0, 2.0), (3 * STEP, 1.0)])
    assert stored.read(spec(), 0, DAY) == [(0, 2.0), (3 * STEP, 1.0)]


@pytest.mark.parametrize("meant_as", [{"zero": True}, {"rates": ("*",)}], ids=str)
@given(
    steps=st.sets(st.integers(0, 900), min_size=2, max_size=40),
    cuts=st.lists(st.integers(-5, 905), max_size=4),
)
def test_the_same_is_watched_in_whatever_pieces_it_is_read(meant_as, steps, cuts):
    stored = Stored(s1=[(at * STEP, float(at % 7 + 1)) for at in steps], s2=[(0, 1.0), (800 * STEP, 1.0)])
    edges = [-10 * STEP, *sorted(cut * STEP for cut in cuts), 1000 * STEP]
    pieces = [row for a, b in pairwise(edges) for row in stored.read(spec(**meant_as), a, b)]
    assert pieces == stored.read(spec(**meant_as), edges[0], edges[-1])


def test_a_fit_learns_no_zeros_of_which_only_the_next_point_tells():
    points = Points(np.arange(6) * STEP, np.array([1.0, 0.0, 2.0, 0.0, 0.0, 0.0]))
    assert meaning.sure(points, 6 * STEP, STEP).ts.tolist() == [0, STEP, 2 * STEP]


def test_a_monitors_meanings_survive_json():
    here = spec(zero=True, rates=("bytes_in",))
    assert MonitorSpec.from_json(here.to_json()) == here
    assert here.meaning_of("db").is_rate("router.bytes_in")
    assert not here.meaning_of("elsewhere").zero
