"""A backtest is taken up where it was, keeps what it computed, and says what it left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from anomaly_service.errors import InvalidError
from anomaly_service.executors.local import LocalExecutor
from anomaly_service.measure import backtests
from anomaly_service.measure.backtests import Keeper, Results
from anomaly_service.measure.labelled import LabelledFile
from anomaly_service.measure.reviewed import ReviewedSeries
from pipelines.measure.backtest import Candidate, Labelled
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.records import Json

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Recording:
    """Runs everything here, and keeps what it was asked to run; raises where told to."""

    dies_after: int | None = None
    ran: list[str] = field(default_factory=list)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        for item in items:
            if len(self.ran) == self.dies_after:
                raise KeyboardInterrupt
            self.ran.append(item.name)  # type: ignore[attr-defined]  # items are tests
            yield item, work(item)

    def close(self) -> None: ...


def file(folder: Path, name: str = "a", seed: int = 0, broken: bool = False) -> LabelledFile:
    """Write a short series with a spike, and return it."""
    ts = 1_700_000_100 + 300 * np.arange(200)
    values = np.random.default_rng(seed).normal(10, 1, len(ts))
    values[150] += 30
    lines = [f"{at},{'many' if broken else round(value, 3)}" for at, value in zip(ts, values, strict=True)]
    path = folder / f"{name}.csv"
    path.write_text("timestamp,value\n" + "\n".join(lines) + "\n")
    return LabelledFile("made", name, path, ((int(ts[150]), int(ts[150])),))


def candidate(name: str = "robust_z", **given: Any) -> Candidate:
    spec = MonitorSpec("m", {}, detector=name, params={"window": 4}, threshold=Threshold(alarms_per_week=5.0))
    return Candidate(name, MonitorSpec.from_json({**spec.to_json(), **given}))


@dataclass
class Place:
    """A folder with two series, and the files that a backtest keeps there."""

    folder: Path

    def __post_init__(self) -> None:
        self.files = [file(self.folder, "a", 1), file(self.folder, "b", 2)]

    @property
    def out(self) -> Path:
        return self.folder / "kept" / "out.json"

    @property
    def rows(self) -> list[Json]:
        return list(json.loads(self.out.read_text()))

    def run(
        self,
        *candidates: Candidate,
        executor: Recording | None = None,
        split: str = "unsupervised",
        pictured: bool = False,
        fresh: bool = False,
        files: Sequence[LabelledFile] | None = None,
    ) -> tuple[Results, list[str]]:
        """Return results, and the tests that were run for them."""
        executor = executor or Recording()
        wanted = backtests.tests(files or self.files, candidates or [candidate()], split, pictured=pictured)
        keeper = Keeper(self.out, self.folder / "figures" if pictured else None)
        results = backtests.run(list(wanted), executor, keeper, lambda stage, share: None, fresh=fresh)
        return results, executor.ran


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_every_candidate_is_tested_on_every_series(place: Place) -> None:
    results, ran = place.run(candidate(), candidate("random"))
    assert ran == ["made a robust_z", "made a random", "made b robust_z", "made b random"]
    assert [(row["series"], row["detector"]) for row in place.rows] == sorted(
        (name, detector) for _, name, detector in results.rows
    )
    assert all(row["peak_mib"] > 0 for row in place.rows)
    assert [path.name for path in place.out.parent.iterdir()] == ["out.json"]


def test_what_is_there_is_not_run_again(place: Place) -> None:
    first, _ = place.run()
    before = place.out.read_bytes()
    again, ran = place.run()
    assert ran == []
    assert again.rows == first.rows
    assert place.out.read_bytes() == before


def test_a_later_run_goes_on_with_what_is_missing(place: Place) -> None:
    place.run(files=place.files[:1])
    _, ran = place.run(candidate(), candidate("random"))
    assert ran == ["made a random", "made b robust_z", "made b random"]


def test_an_interrupted_run_has_kept_what_was_computed(place: Place) -> None:
    with pytest.raises(KeyboardInterrupt):
        place.run(candidate(), candidate("random"), executor=Recording(dies_after=3))
    assert len(place.rows) == 3
    results, ran = place.run(candidate(), candidate("random"))
    assert ran == ["made b random"]
    assert len(results.rows) == len(place.rows) == 4


def test_results_are_saved_while_more_are_computed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backtests, "SAVE_SECONDS", -1.0)
    seen = []

    class Watching(Recording):
        def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
            for each in super().map(work, items):
                yield each
                seen.append(len(place.rows))

    place.run(executor=Watching())
    assert seen == [1, 2]


@pytest.mark.parametrize(
    "changed",
    [
        {"params": {"window": 5}},
        {"threshold": {"alarms_per_week": 6.0}},
        {"policy": {"min_duration_seconds": 600}},
        {"season": "none"},
    ],
    ids=["window", "budget", "policy", "season"],
)
def test_another_setting_is_run_again_and_replaces_the_row(place: Place, changed: Json) -> None:
    place.run()
    _, ran = place.run(candidate(**changed))
    assert len(ran) == 2
    assert len(place.rows) == 2


def test_another_release_of_the_service_runs_everything_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    assert len(place.run()[1]) == 2


def test_another_split_is_run_again(place: Place) -> None:
    place.run()
    results, ran = place.run(split="train")
    assert len(ran) == 2
    assert all("names no training rows" in problem for problem in results.problems)


def test_a_changed_file_or_label_is_run_again(place: Place) -> None:
    place.run()
    changed = [file(place.folder, "a", 9), place.files[1]]
    assert place.run(files=changed)[1] == ["made a robust_z"]
    relabelled = LabelledFile("made", "b", changed[1].path, ())
    assert place.run(files=[changed[0], relabelled])[1] == ["made b robust_z"]


def test_rows_of_other_detectors_and_series_are_kept(place: Place) -> None:
    place.run(candidate("random"))
    place.run(files=place.files[:1])
    assert [(row["series"], row["detector"]) for row in place.rows] == [
        ("a", "random"),
        ("a", "robust_z"),
        ("b", "random"),
    ]


def test_fresh_runs_everything_again(place: Place) -> None:
    place.run()
    _, ran = place.run(fresh=True)
    assert len(ran) == 2


def test_a_row_that_nobody_marked_is_run_again(place: Place) -> None:
    place.run()
    place.out.write_text(json.dumps([{k: v for k, v in row.items() if k != "mark"} for row in place.rows]))
    assert len(place.run()[1]) == 2


# -- pictures -----------------------------------------------------------------------


def test_rows_without_pictures_are_run_again_where_there_are_to_be_some(place: Place) -> None:
    place.run()
    results, ran = place.run(pictured=True)
    assert len(ran) == 2
    assert set(results.pictures) == set(results.rows)
    again, ran = place.run(pictured=True)
    assert ran == []
    assert again.pictures == results.pictures


def test_pictures_of_other_settings_are_not_taken_for_these(place: Place) -> None:
    other = candidate(season="none")
    place.run(pictured=True)
    place.run(other)  # without pictures: those of before stay where they are
    results, ran = place.run(other, pictured=True)
    assert len(ran) == 2
    assert len(results.pictures) == 2


# -- what goes wrong ----------------------------------------------------------------


def test_a_bad_file_is_named_once_and_left_out(place: Place) -> None:
    bad = file(place.folder, "bad", broken=True)
    results, ran = place.run(candidate(), candidate("random"), files=[bad, *place.files])
    assert len(ran) == 6
    assert results.problems == [f"{bad.path}: expected numbers in every channel; 'value' holds others"]
    assert {series for _, series, _ in results.rows} == {"a", "b"}


def test_a_series_that_cannot_be_tested_is_named(place: Place) -> None:
    results, _ = place.run(split="train", files=place.files[:1])
    assert results.problems == [
        "made/a: the series names no training rows (train_until in meta.json); "
        "test it with --split unsupervised"
    ]


def test_a_series_that_has_become_unreadable_loses_its_row(place: Place) -> None:
    place.run()
    place.run(files=[file(place.folder, "a", broken=True)])
    assert [row["series"] for row in place.rows] == ["b"]


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"dataset": 1}', '[{"dataset": "d"}]', "7", "\x00"])
def test_a_file_that_holds_something_else_is_refused_and_left_alone(place: Place, text: str) -> None:
    place.out.parent.mkdir()
    place.out.write_text(text)
    with pytest.raises(InvalidError, match=r"out\.json holds something other than results of a backtest"):
        place.run()
    assert place.out.read_text() == text


def test_half_a_file_never_replaces_a_whole_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run()
    before = place.out.read_bytes()
    write = Path.write_text

    def full_disk(path: Path, text: str, *args: Any, **kwargs: Any) -> int:
        write(path, text[: len(text) // 2], *args, **kwargs)
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space left"):
        place.run(candidate("random"))
    assert place.out.read_bytes() == before


def test_half_a_picture_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full_disk(path: Path, text: str, *args: Any, **kwargs: Any) -> int:
        if path.parent.name == "figures":
            write(path, text[: len(text) // 2], *args, **kwargs)
            raise OSError("no space left on device")
        return write(path, text, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full_disk)
        with pytest.raises(OSError, match="no space left"):
            place.run(pictured=True)
    results, ran = place.run(pictured=True)
    assert len(ran) == 2
    assert len(results.pictures) == 2


def test_a_row_that_is_no_json_is_never_written(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "out.json")
    with pytest.raises(ValueError, match="Out of range float"):
        keeper.save(Results(rows={("d", "s", "x"): {"vus_pr": float("nan")}}))
    assert list(tmp_path.iterdir()) == []


def test_without_a_file_nothing_is_kept(tmp_path: Path) -> None:
    wanted = list(backtests.tests([file(tmp_path)], [candidate()], "unsupervised", pictured=True))
    results = backtests.run(wanted, Recording(), Keeper(), lambda stage, share: None)
    assert len(results.rows) == len(results.pictures) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


# -- progress and processes ---------------------------------------------------------


def test_progress_is_told_after_every_test(place: Place) -> None:
    told: list[tuple[str, float]] = []
    wanted = list(
        backtests.tests(place.files, [candidate(), candidate("random")], "unsupervised", pictured=False)
    )
    backtests.run(wanted, Recording(), Keeper(), lambda stage, share: told.append((stage, share)))
    assert told == [("backtest", share) for share in (0.25, 0.5, 0.75, 1.0)]


def test_files_and_reviewed_series_travel_to_workers_and_give_the_same(place: Place) -> None:
    own = place.files[0].read()
    reviewed = ReviewedSeries(Labelled("made", "reviewed", own.ts, own.values, own.truth, own.step_seconds))
    wanted = list(backtests.tests([place.files[0], reviewed], [candidate()], "unsupervised", pictured=False))
    executor = LocalExecutor(1)
    try:
        results = backtests.run(wanted, executor, Keeper(), lambda stage, share: None)
    finally:
        executor.close()
    here, there = (
        {
            name: value
            for name, value in row.items()
            if name not in ("series", "mark", "peak_mib") and "seconds" not in name
        }
        for row in results.of(test.key for test in wanted)
    )
    assert here == there
    assert all(row["peak_mib"] > 50 for row in results.rows.values())


def test_a_reviewed_series_is_run_again_when_its_points_or_reviews_change() -> None:
    ts = 300 * np.arange(5, dtype=np.int64)
    values = np.arange(5.0)[:, np.newaxis]

    def digest(values: np.ndarray = values, **given: Any) -> str:
        return ReviewedSeries(
            Labelled("m", "s", ts, values, step_seconds=300, **({"truth": ()} | given))
        ).digest()

    assert digest() == digest()
    assert len({digest(), digest(values + 1), digest(truth=((0, 300),)), digest(unsure=((0, 300),))}) == 4
