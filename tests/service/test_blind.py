"""A target that gets points and no scores says so, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from monitor_jobs import END, HOUR, START, events, ingest, job, monitor, spans, waves

from anomaly_service.cli.status import status_lines
from anomaly_service.db.store import SqlStore
from anomaly_service.insight.status import standing
from pipelines.jobs import passes
from pipelines.names import Kind, Status
from pipelines.times import DAY


def ticked(store: SqlStore, name: str, until: int, step: int = HOUR) -> None:
    """Tick every few hours until a time, as a daemon would."""
    for now in range(END + 6 * HOUR, until + 1, 6 * step):
        passes.tick(job(store, monitor(name)), now)


def test_a_series_of_which_every_second_point_is_missing_is_unscored_until_it_is_whole_again(
    store: SqlStore,
) -> None:
    ingest(store, "half", {"a": waves(1), "b": waves(2)})
    passes.backfill(job(store, monitor("half")), END)
    later = np.arange(END, END + 2 * DAY, HOUR)
    ingest(store, "half", {"a": waves(1, later[1::2]), "b": waves(2, later)})
    ticked(store, "half", END + 2 * DAY)
    at = job(store, monitor("half"))
    found = events(at, Kind.UNSCORED)
    assert found["b"] == []
    (blind,) = found["a"]
    assert blind.status is Status.OPEN
    assert events(at, Kind.DATA_MISSING)["a"] == []
    told = standing(store, {}, {}, datetime.fromtimestamp(END + 2 * DAY, UTC), frozen=True)
    (unscored,) = [row for row in told["series"] if row["state"] == "unscored"]
    assert unscored["reason"] == "points come and have no score: they do not keep to the step"
    assert "come every 2 h, and `step` of source t says 1 h: correct it" in "\n".join(status_lines(told))

    whole = np.arange(END + 2 * DAY, END + 3 * DAY, HOUR)
    ingest(store, "half", {"a": waves(1, whole), "b": waves(2, whole)})
    at = job(store, monitor("half"))
    passes.nightly(at, END + 3 * DAY, END + 3 * DAY)
    (healed,) = events(at, Kind.UNSCORED)["a"]
    assert (healed.id, healed.status) == (blind.id, Status.CLOSED)
    # With hindsight its last points have scores, of windows that reach into what is whole.
    assert spans([healed]) == [("unscored", 24 * 24 + 3, 24 * 26 - 5)]


def test_what_is_unscored_behind_a_gap_is_told_by_the_gap_alone(store: SqlStore) -> None:
    ts, values = waves(3)
    gaps = np.isin((ts - START) // HOUR, [*range(300, 310), *range(400, 404), 450, 460])
    ingest(store, "gaps", {"a": (ts[~gaps], values[~gaps])})
    at = job(store, monitor("gaps"))
    passes.backfill(at, END)
    passes.nightly(at, END, END)
    assert events(at, Kind.UNSCORED)["a"] == []
    assert len(events(at, Kind.DATA_MISSING)["a"]) == 2


def test_a_changed_step_starts_a_fit_at_the_next_night(store: SqlStore) -> None:
    ingest(store, "slower", {"a": waves(4)})
    at = job(store, monitor("slower", fit_every_seconds=30 * DAY))
    passes.backfill(at, END)
    slow = np.arange(END, END + 4 * DAY, 2 * HOUR)
    ingest(store, "slower", {"a": waves(4, slow)}, step_seconds=2 * HOUR)
    at = job(store, monitor("slower", fit_every_seconds=30 * DAY))
    (target,) = at.targets()
    assert passes.nightly(at, END + DAY, END + DAY)["fitted"] == 1
    assert passes.nightly(at, END + 2 * DAY, END + 2 * DAY)["fitted"] == 0
    ticked(store, "slower", END + 3 * DAY)
    scored = store.scores([target.id], END + 2 * DAY, END + 3 * DAY)
    assert np.isfinite(scored.live).sum() >= 11
