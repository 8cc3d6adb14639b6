"""Events make the same series in whatever pieces, and files, they come."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from anomaly_service.errors import GuessError
from anomaly_service.sources.csv import CsvConfig, CsvSource
from anomaly_service.sources.guess import guess

BEGIN = 1_717_200_000
EVENTS = [
    (BEGIN + at, value) for at, value in [(0, 1.0), (0, 3.0), (59, 8.0), (60, 2.0), (150, 4.0), (179, 5.0)]
]
NOW = datetime.fromtimestamp(BEGIN + 240, UTC)


def text(events: list[tuple[int, float]]) -> str:
    return "ts,size\n" + "".join(f"{at},{value}\n" for at, value in events)


def source(folder: Path, by: str) -> CsvSource:
    section = {"kind": "csv", "path": str(folder), "timestamp": "ts", "value": "size", "metric_name": "size"}
    made = {"step": "1min", "aggregate": {"every": "1min", "by": by}}
    return CsvSource("drop", CsvConfig.model_validate(section | made))


def look(made: CsvSource, progress: dict[str, Any], stored: dict[int, float], now: datetime = NOW) -> int:
    """Read once, as the store would keep it; return how many batches came."""
    batches = list(made.read(progress, now=now))
    for batch in batches:
        progress |= batch.progress
        stored |= dict(zip(batch.points.ts.tolist(), batch.points.value.tolist(), strict=True))
    return len(batches)


@pytest.mark.parametrize(
    ("by", "values"),
    [
        ("count", [3, 1, 2]),
        ("sum", [12, 2, 9]),
        ("mean", [4, 2, 4.5]),
        ("max", [8, 2, 5]),
        ("min", [1, 2, 4]),
        ("p95", [8, 2, 5]),
    ],
)
def test_a_bucket_is_made_of_all_of_its_events(tmp_path: Path, by: str, values: list[float]) -> None:
    (tmp_path / "a.csv").write_text(text(EVENTS))
    stored: dict[int, float] = {}
    look(source(tmp_path, by), {}, stored)
    assert stored == dict(zip([BEGIN, BEGIN + 60, BEGIN + 120], values, strict=True))


def test_the_events_of_every_series_are_counted(tmp_path: Path) -> None:
    rows = [
        f"{BEGIN + at},{what}\n" for at in range(0, 180, 4) for what in ("login", "buy", "quit")[: 1 + at % 3]
    ]
    (tmp_path / "a.csv").write_text("ts,what\n" + "".join(rows))
    found = guess(str(tmp_path / "a.csv"), aggregate=("count", 60))
    made = CsvSource("drop", CsvConfig.model_validate(found.section()))
    (batch,) = made.read({}, now=NOW)
    counted = dict.fromkeys((spec.labels["what"] for spec in batch.series), 0.0)
    for number, value in zip(batch.points.series, batch.points.value, strict=True):
        counted[batch.series[number].labels["what"]] += value
    assert counted == {
        what: sum(row.endswith(f"{what}\n") for row in rows) for what in ("login", "buy", "quit")
    }
    assert {spec.metric for spec in batch.series} == {"events"}


def test_events_without_a_value_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("at\n" + "".join(f"{at}\n" for at, _ in EVENTS))
    with pytest.raises(GuessError, match=r"found \['at'\]. Where rows are events, --count 5min"):
        guess(str(path))
    found = guess(str(path), aggregate=("count", 60))
    assert "value: no column, every row is an event" in found.words
    stored: dict[int, float] = {}
    look(CsvSource("drop", CsvConfig.model_validate(found.section())), {}, stored)
    assert stored == {BEGIN: 3, BEGIN + 60: 1, BEGIN + 120: 2}


@pytest.mark.parametrize("made", [{}, {"aggregate": {"every": "1min", "by": "sum"}}])
def test_what_has_no_value_can_only_be_counted(made: dict[str, Any]) -> None:
    section = {"kind": "csv", "path": "a.csv", "step": "1min", "value": []}
    with pytest.raises(ValidationError, match=r"so rows can only be counted; expected `by: count`"):
        CsvConfig.model_validate(section | made)


def test_files_cut_in_the_middle_of_a_bucket_count_nothing_twice(tmp_path: Path) -> None:
    progress: dict[str, Any] = {}
    stored: dict[int, float] = {}
    (tmp_path / "a.csv").write_text(text(EVENTS[:2]))
    look(source(tmp_path, "count"), progress, stored)
    (tmp_path / "b.csv").write_text(text(EVENTS[2:]))
    look(source(tmp_path, "count"), progress, stored)
    assert stored == {BEGIN: 3, BEGIN + 60: 1, BEGIN + 120: 2}


def test_events_are_asked_about_and_with_an_answer_written_to_the_config(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    at = np.sort(rng.integers(BEGIN, BEGIN + 3000, 900))
    path = tmp_path / "a.csv"
    path.write_text(text([(int(one), 5.0 + i % 7) for i, one in enumerate(at)]))
    with pytest.raises(GuessError, match=r"these are events, .* `--count 5min`"):
        guess(path)
    section = guess(path, aggregate=("sum", 300)).section()
    assert (section["step"], section["aggregate"]) == ("5min", {"every": "5min", "by": "sum"})


@pytest.mark.parametrize(("by", "absent"), [("count", "zero"), ("sum", "zero"), ("max", None)])
def test_a_bucket_without_an_event_counted_none_and_has_no_maximum(
    tmp_path: Path, by: str, absent: str | None
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text(EVENTS))
    guessed = guess(str(path), aggregate=(by, 60), now=NOW)
    assert guessed.section().get("absent") == absent
    assert any("is 0" in word for word in guessed.words) == (absent == "zero")


def test_a_bucket_that_goes_on_is_no_point_yet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text(EVENTS))
    stored: dict[int, float] = {}
    progress: dict[str, Any] = {}
    look(source(tmp_path, "count"), progress, stored, datetime.fromtimestamp(BEGIN + 179, UTC))
    assert sorted(stored) == [BEGIN, BEGIN + 60]
    look(source(tmp_path, "count"), progress, stored, NOW)
    assert sorted(stored) == [BEGIN, BEGIN + 60, BEGIN + 120]


def test_a_first_bucket_that_began_before_the_first_event_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text(EVENTS[2:]))
    stored: dict[int, float] = {}
    look(source(tmp_path, "count"), {}, stored)
    assert sorted(stored) == [BEGIN + 60, BEGIN + 120]
