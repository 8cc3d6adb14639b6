"""What `anomaly try` tells: the worst first, with pictures; gaps apart; the end of a file is no interval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_service.cli import tried
from pipelines.records import SeriesRow, SeriesSpec
from tests.service.commands import anomaly

BEGUN = datetime(2026, 3, 2, tzinfo=UTC)
STEP = timedelta(minutes=15)
DIP = range(1000, 1010)
LONGER, SHORTER = 96 * 14, 96 * 12
QUICK = ("--detector", "robust_z")


def lines(n_steps: int, realm: str = "") -> list[str]:
    """Return rows of a daily course with a dip, and a gap the day before it."""
    noise = np.random.default_rng(n_steps).normal(0, 2, n_steps)
    values = 100 + 30 * np.sin(np.arange(n_steps) / 96 * 2 * np.pi) + noise
    values[DIP] -= 60
    middle = f",{realm}" if realm else ""
    at = (BEGUN + i * STEP for i in range(n_steps))
    kept = (i for i in range(n_steps) if not 900 <= i < 910)
    moments = list(at)
    return [f"{moments[i]:%Y-%m-%dT%H:%MZ}{middle},{values[i]:.2f}" for i in kept]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one series."""
    path = tmp_path_factory.mktemp("alone") / "logins.csv"
    path.write_text("\n".join(["time,value", *lines(LONGER)]) + "\n")
    return path


@pytest.fixture(scope="module")
def realms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two series, one of which stops two days before the other."""
    path = tmp_path_factory.mktemp("realms") / "logins.csv"
    rows = [*lines(LONGER, "kr-1"), *lines(SHORTER, "eu-1")]
    path.write_text("\n".join(["time,realm,value", *rows]) + "\n")
    return path


def test_the_worst_is_told_first_with_a_picture_and_gaps_stand_apart(alone: Path) -> None:
    done = anomaly("try", alone, *QUICK)
    assert done.code == 0, done.err
    told, _, listed = done.out.partition("Found: ")
    assert told.startswith("logins fell to")
    assert "brought no data" not in told
    assert "11 Mar" in told
    assert "12 Mar" in told
    assert listed.startswith("anomalies 1, gaps 1.")
    assert listed.rindex("data_missing") > listed.rindex("below expected")


def test_as_json_nothing_stands_beside_the_rows(alone: Path) -> None:
    done = anomaly("try", alone, *QUICK, "--json")
    assert {row["kind"] for row in done.rows} == {"anomaly", "data_missing"}


def test_a_file_that_ended_hours_ago_has_not_stopped(alone: Path) -> None:
    later = BEGUN + LONGER * STEP + timedelta(hours=6)
    done = anomaly("try", alone, *QUICK, "--json", "--now", later.isoformat())
    assert done.code == 0, done.err
    assert "stale" not in {row["kind"] for row in done.rows}


def test_a_series_that_stops_while_others_of_its_file_go_on_is_told(realms: Path) -> None:
    stopped = [row for row in anomaly("try", realms, *QUICK, "--json").rows if row["kind"] == "stale"]
    assert [row["labels"]["realm"] for row in stopped] == ["eu-1"]


def row(kind: str, score: float, start: int = 0, series: str = "logins", end: int | None = None) -> Any:
    return {
        "kind": kind, "peak_score": score, "start_ts": start, "start_at": f"{start:09}", "series": series,
        "end_ts": start if end is None else end, "metric": series, "labels": {},
    }  # fmt: skip


def test_a_long_gap_takes_no_place_of_an_anomaly() -> None:
    rows = [
        row("data_missing", 90, 1),
        row("anomaly", 2, 9),
        row("data_missing", 80, 0),
        row("anomaly", 3, 5),
    ]
    assert [(each["kind"], each["peak_score"]) for each in tried.highest(rows, 1)] == [
        ("anomaly", 3),
        ("data_missing", 90),
    ]
    assert [each["start_ts"] for each in tried.highest(rows, 5)] == [5, 9, 0, 1]
    assert [each["peak_score"] for each in tried.worst(rows)] == [3, 2]


def test_what_lies_over_one_another_is_told_once() -> None:
    rows = [
        row("flatline", 5, 10, end=90),
        row("anomaly", 4, 20, end=30),
        row("anomaly", 3, 20, series="crashes"),
    ]
    assert [each["peak_score"] for each in tried.worst(rows)] == [5, 3]


def test_each_file_ends_where_its_own_series_end() -> None:
    series = [
        SeriesRow(1, SeriesSpec("logins", {}, 60), 0, 6000),
        SeriesRow(2, SeriesSpec("crashes", {}, 60), 0, 3000),
    ]
    stopped = row("stale", 9, 3060, "crashes")
    assert tried.without_ends([stopped], series, "metric") == []
    assert tried.without_ends([stopped], series, None) == [stopped]
