"""Backtests over many series: spread over processes, kept as they come, taken up where they were."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anomaly_service.errors import InvalidError
from anomaly_service.measure.report import Key
from anomaly_service.measure.svg import Pictures, draw
from pipelines.records import Json

if TYPE_CHECKING:
    from pipelines.executor import Executor
    from pipelines.measure.backtest import Candidate, Labelled

SAVE_SECONDS = 10.0
"""Results are written at most so often, and at the end."""

Progress = Callable[[str, float], None]


class Series(Protocol):
    """A labelled series that is read where it is tested."""

    @property
    def dataset(self) -> str: ...
    @property
    def series(self) -> str: ...
    def digest(self) -> str: ...
    def read(self) -> Labelled: ...


@dataclass(frozen=True)
class Test:
    """One candidate on one series."""

    series: Series
    candidate: Candidate
    split: str
    pictured: bool
    mark: str

    @property
    def key(self) -> Key:
        return (self.series.dataset, self.series.series, self.candidate.name)

    @property
    def name(self) -> str:
        return " ".join(self.key)


@dataclass(frozen=True)
class Result:
    """What came of a test; ``problem`` says why there is no row."""

    row: Json | None
    pictures: Pictures | None = None
    problem: str = ""


@dataclass
class Results:
    """Everything that is known so far.

    Attributes:
        rows: by data set, series and detector.
        pictures: likewise, where there are to be some.
        problems: what was left out, and why, each once.
    """

    rows: dict[Key, Json] = field(default_factory=dict)
    pictures: dict[Key, Pictures] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def of(self, keys: Iterable[Key]) -> list[Json]:
        return [self.rows[key] for key in keys if key in self.rows]


@dataclass(frozen=True)
class Keeper:
    """Where results are kept between runs.

    Attributes:
        rows: a JSON file, an array of objects; None keeps none.
        pictures: a folder; None keeps none.
    """

    rows: Path | None = None
    pictures: Path | None = None

    def load(self) -> Results:
        """Return what earlier runs left.

        Raises:
            InvalidError: the file holds no results of a backtest.
        """
        results = Results()
        if self.rows is not None and self.rows.is_file():
            for row in _read(self.rows):
                key = (row["dataset"], row["series"], row["detector"])
                results.rows[key] = row
        for key, row in results.rows.items():
            pictures = self._pictures(key, row.get("mark"))
            if pictures is not None:
                results.pictures[key] = pictures
        return results

    def save(self, results: Results) -> None:
        """Write every row; a reader never meets half a file."""
        if self.rows is None:
            return
        ordered = [results.rows[key] for key in sorted(results.rows)]
        text = "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in ordered) + "\n]\n"
        _write(self.rows, text)

    def keep(self, key: Key, mark: str, pictures: Pictures) -> None:
        """Write the pictures of a result; its mark tells whether they still fit the row."""
        if self.pictures is not None:
            _write(_picture(self.pictures, key), json.dumps({"mark": mark, **asdict(pictures)}))

    def _pictures(self, key: Key, mark: str | None) -> Pictures | None:
        """Return the pictures of a result; None where there are none, or those of another."""
        if self.pictures is None:
            return None
        try:
            kept = json.loads(_picture(self.pictures, key).read_text("utf-8"))
        except FileNotFoundError:
            return None
        return Pictures(kept["values"], kept["scores"]) if kept.get("mark") == mark else None


def _picture(folder: Path, key: Key) -> Path:
    return folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]}.json"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> list[Json]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise InvalidError(f"{path} holds something other than results of a backtest; name another file")
    return rows


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and {"dataset", "series", "detector"} <= set(row)


def tests(
    series: Sequence[Series], candidates: Sequence[Candidate], split: str, *, pictured: bool
) -> Iterator[Test]:
    """Yield every candidate on every series, all candidates of a series together."""
    settings = [_settings(candidate, split) for candidate in candidates]
    for each in series:
        digest = each.digest()
        for candidate, own in zip(candidates, settings, strict=True):
            yield Test(each, candidate, split, pictured, f"{digest}-{own}")


def _settings(candidate: Candidate, split: str) -> str:
    """Return a digest of everything but the series that a result depends on."""
    from importlib.metadata import version

    spec = candidate.spec.to_json()
    parts = json.dumps([spec, split, version("anomaly-service")], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def run(
    wanted: Sequence[Test],
    executor: Executor,
    keeper: Keeper,
    on_progress: Progress,
    *,
    fresh: bool = False,
) -> Results:
    """Return the results of every test, those that are there already without doing them again.

    Args:
        fresh: do all of them again.
    """
    results = keeper.load()
    todo = [test for test in wanted if fresh or not _is_there(results, test)]
    saved = time.monotonic()
    try:
        for done, (test, result) in enumerate(executor.map(work, todo), 1):
            _take(results, keeper, test, result)
            if time.monotonic() - saved > SAVE_SECONDS:
                keeper.save(results)
                saved = time.monotonic()
            on_progress("backtest", done / len(todo))
    finally:
        # Also when interrupted: what was computed is taken up by the next run.
        keeper.save(results)
    return results


def _is_there(results: Results, test: Test) -> bool:
    row = results.rows.get(test.key)
    fits = row is not None and row.get("mark") == test.mark
    return fits and (not test.pictured or test.key in results.pictures)


def _take(results: Results, keeper: Keeper, test: Test, result: Result) -> None:
    if result.row is None:
        results.note(result.problem)
        results.rows.pop(test.key, None)
        return
    results.rows[test.key] = result.row
    results.pictures.pop(test.key, None)
    if result.pictures is not None:
        results.pictures[test.key] = result.pictures
        keeper.keep(test.key, test.mark, result.pictures)


def work(test: Test) -> Result:
    """Read a series, test it, and say how much memory that took; runs in a worker."""
    from anomaly_service.errors import AnomalyServiceError, LabelledDataError
    from pipelines.measure import backtest

    _forget_peak()
    try:
        labelled = test.series.read()
        tested = backtest.run(labelled, test.candidate, test.split)
    except LabelledDataError as error:  # names its file
        return Result(None, problem=str(error))
    except (AnomalyServiceError, OSError) as error:
        return Result(None, problem=f"{test.series.dataset}/{test.series.series}: {error}")
    except Exception as error:  # recorded: one broken series must not end the run of all others
        return Result(None, problem=f"{test.name}: {type(error).__name__}: {error}")
    row = {**tested.row, "peak_mib": _peak_mib(), "mark": test.mark}
    return Result(row, draw(tested.course) if test.pictured else None)


def _forget_peak() -> None:
    """Let the kernel count peak memory from now on; elsewhere than on Linux it is that of the process."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_mib() -> float:
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 2**10, 1)
    # Bytes on macOS, KiB elsewhere.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
