"""Stores answer every question themselves: what is asked anew of one cannot slip past another."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, Protocol

import numpy as np
import pytest
from databases import Databases
from monitor_jobs import END, START, hours, ingest, waves

from anomaly_service.db.store import SqlStore
from anomaly_service.measure.scratch import Scratch
from pipelines.store import EventStore, JobStore, ModelStore, PointStore, RunStore, Store
from pipelines.times import DAY


def questions(protocol: type) -> set[str]:
    """Return the methods of a Protocol and of those it is made of."""
    parts = [part for part in protocol.__mro__ if part not in (Protocol, Generic, object)]
    return {name for part in parts for name in vars(part) if not name.startswith("_")}


@pytest.mark.parametrize(("store", "protocol"), [(SqlStore, Store), (Scratch, JobStore)])
def test_a_store_inherits_no_answer(store: type, protocol: type) -> None:
    assert store.__bases__ == (object,)
    assert questions(protocol) <= vars(store).keys()


def test_a_store_is_four_that_share_no_question() -> None:
    four = [questions(each) for each in (PointStore, ModelStore, EventStore, RunStore)]
    assert sorted(name for own in four for name in own) == sorted(questions(Store))


def test_a_scratch_reads_the_points_of_another_up_to_a_time_and_writes_to_its_own_alone(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    databases = Databases(request, tmp_path)
    stop = END - 2 * DAY
    with SqlStore(databases.fresh("sqlite")) as real, SqlStore(databases.fresh("sqlite")) as own:
        ts, value = waves(0, hours(START, END))
        ingest(real, "load", {"other": (ts, value), "asked": (ts, value + 1)})
        wanted = [row for row in real.series() if row.spec.labels["host"] == "asked"]
        scratch = Scratch(own, real, wanted, stop)
        (series,) = scratch.series()
        assert series.last_ts == ts[ts < stop][-1]
        block = scratch.points([series.id], START, END)
        np.testing.assert_array_equal(block.ts, ts[ts < stop])
        np.testing.assert_array_equal(block.value, value[ts < stop] + 1)
        scratch.sync_monitors({"load": {}})
        assert [row.name for row in scratch.monitors()] == ["load"]
        assert real.monitors() == []
