"""CSV and Parquet files: every shape they come in, and what is done with what cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import os
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from anomaly_service.errors import SourceError
from anomaly_service.sources import files
from anomaly_service.sources.base import Reading
from anomaly_service.sources.csv import CsvConfig, CsvSource
from pipelines.records import Json, SeriesSpec

NOW = datetime(2024, 6, 5, 12, tzinfo=UTC)
START = 1_717_200_000


class Folder:
    """A drop folder, and what a store would hold of it."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.path = path
        self.config = {"kind": "csv", "path": str(path / "*"), "timestamp": "ts", "step": "5min"} | config
        self.points: dict[tuple[str, int], float] = {}
        self.progress: dict[str, Json] = {}
        self.rejects: list[tuple[str, int, str, str]] = []
        self.problem = ""

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def append(self, name: str, text: str | bytes) -> None:
        with (self.path / name).open("ab") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    def poll(self, **more: Any) -> int:
        """Take what is new; return how many points came."""
        source = CsvSource("drop", CsvConfig.model_validate(self.config | more))
        count = 0
        self.problem = ""
        try:
            for batch in source.read(self.progress, now=NOW):
                count += self.store(batch)
        except SourceError as error:
            self.problem = str(error)
        return count

    def store(self, batch: Any) -> int:
        assert isinstance(batch, Reading)
        keys = [spec.key for spec in batch.series]
        block = batch.points
        for series, ts, value in zip(block.series, block.ts, block.value, strict=True):
            self.points[keys[series], int(ts)] = float(value)
        self.progress |= batch.progress
        self.rejects += [(Path(r.origin).name, r.line, r.reason, r.raw) for r in batch.rejects]
        return len(block)

    @property
    def times(self) -> list[int]:
        return sorted(ts for _, ts in self.points)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Folder]:
    path = tmp_path / "drop"
    path.mkdir()
    return lambda **config: Folder(path, **config)


def age(path: Path, seconds: float = 120.0) -> None:
    """Make a file look as if nobody wrote to it for a while."""
    at = time.time() - seconds
    os.utime(path, (at, at))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a minute pass between a file's last change and the look at it."""
    monkeypatch.setattr(files, "wall_clock", lambda: time.time() + 61.0)


LONG = f"ts,metric,realm,value\n{START},ccu,kr-1,5\n{START},ccu,kr-2,6\n{START + 300},ccu,kr-1,7\n"
LONG_CONFIG = {"metric": "metric", "labels": ["realm"]}
LONG_POINTS = {
    ("ccu{realm=kr-1}", START): 5.0,
    ("ccu{realm=kr-2}", START): 6.0,
    ("ccu{realm=kr-1}", START + 300): 7.0,
}


# -- what a file is known by ------------------------------------------------------------


def test_a_renamed_and_a_copied_file_are_not_taken_again(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", LONG)
    assert drop.poll() == 3
    (drop.path / "a.csv").rename(drop.path / "b.csv")
    shutil.copy(drop.path / "b.csv", drop.path / "c.csv")
    drop.write("d.csv.gz", gzip.compress(LONG.encode()))
    assert drop.poll() == 0
    assert drop.points == LONG_POINTS


def test_a_file_that_is_renamed_and_grows_only_adds(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", LONG)
    drop.poll()
    (drop.path / "a.csv").rename(drop.path / "b.csv")
    drop.append("b.csv", f"{START + 600},ccu,kr-1,8\n")
    assert drop.poll() == 1


def test_an_appended_file_only_adds(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", LONG)
    drop.poll()
    drop.append("a.csv", f"{START + 600},ccu,kr-1,8\n")
    assert drop.poll() == 1
    assert drop.poll() == 0


def test_a_rewritten_file_is_read_again_as_a_whole(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", LONG)
    drop.poll()
    drop.write("a.csv", LONG.replace("kr-2,6", "kr-2,9"))
    assert drop.poll() == 3
    assert drop.points == LONG_POINTS | {("ccu{realm=kr-2}", START): 9.0}


def test_a_long_file_is_compared_to_its_end(folder: Callable[..., Folder]) -> None:
    drop = folder(metric_name="ccu")
    rows = "".join(f"{START + 300 * i},{i}\n" for i in range(2000))
    drop.write("a.csv", "ts,value\n" + rows)
    drop.poll()
    drop.write("b.csv", "ts,value\n" + rows.replace(",1500\n", ",1501\n") + f"{START + 300 * 2000},1\n")
    assert drop.poll() == 2001
    drop.write("c.csv", "ts,value\n" + rows + f"{START + 300 * 2000},2\n")
    assert drop.poll() == 1


def test_a_change_right_after_reading_is_seen_though_size_and_times_stay(
    folder: Callable[..., Folder],
) -> None:
    drop = folder(**LONG_CONFIG)
    path = drop.write("a.csv", LONG)
    stat = path.stat()
    drop.poll()
    drop.write("a.csv", LONG.replace("kr-2,6", "kr-2,9"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert drop.poll() == 3


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_not_even_opened(
    folder: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", LONG)
    drop.poll()
    monkeypatch.setattr(files, "open_bytes", lambda path: pytest.fail("opened"))
    assert drop.poll() == 0


def test_other_settings_make_known_content_new(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", LONG)
    drop.poll()
    assert drop.poll(labels=[]) == 3
    assert drop.poll(labels=[], step="1h") == 0


def test_of_two_files_with_the_same_point_the_one_written_last_wins(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    old = drop.write("z.csv", LONG)
    drop.write("a.csv", LONG.replace("kr-2,6", "kr-2,9"))
    age(old)
    drop.poll()
    assert drop.points["ccu{realm=kr-2}", START] == 9.0


def test_within_a_file_the_last_of_duplicates_wins(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", LONG + f"{START},ccu,kr-1,11\n")
    drop.poll()
    assert drop.points["ccu{realm=kr-1}", START] == 11.0


# -- lines still being written ----------------------------------------------------------


def test_a_last_line_without_line_break_waits_until_it_is_complete(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", LONG + f"{START + 600},ccu,kr-1,1")
    assert drop.poll() == 3
    drop.append("a.csv", "23\n")
    assert drop.poll() == 1
    assert drop.points["ccu{realm=kr-1}", START + 600] == 123.0


@pytest.mark.usefixtures("settled")
def test_a_last_line_that_nobody_finishes_is_taken_after_a_minute(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    path = drop.write("a.csv", LONG + f"{START + 600},ccu,kr-1,1")
    assert drop.poll() == 4
    age(path)
    assert drop.poll() == 0
    drop.append("a.csv", "23\n")
    assert drop.poll() == 1
    assert drop.points["ccu{realm=kr-1}", START + 600] == 123.0


def test_a_header_still_being_written_is_no_problem(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", "ts,met")
    drop.write("empty.csv", "")
    assert drop.poll() == 0
    assert drop.problem == ""
    drop.append("a.csv", LONG.removeprefix("ts,met"))
    assert drop.poll() == 3


# -- compressed and binary --------------------------------------------------------------


def test_gzip_grows_by_members_and_by_being_written_anew(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv.gz", gzip.compress(LONG.encode()))
    assert drop.poll() == 3
    drop.append("a.csv.gz", gzip.compress(f"{START + 600},ccu,kr-1,8\n".encode()))
    assert drop.poll() == 1
    longer = LONG + f"{START + 600},ccu,kr-1,8\n{START + 900},ccu,kr-1,9\n"
    drop.write("a.csv.gz", gzip.compress(longer.encode()))
    assert drop.poll() == 1


def test_gzip_that_breaks_off_gives_its_whole_lines_and_later_the_rest(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    rng = np.random.default_rng(0)
    text = LONG + "".join(f"{START + 600 * i},ccu,kr-1,{rng.random()}\n" for i in range(1, 2000))
    packed = gzip.compress(text.encode())
    drop.write("a.csv.gz", packed[: len(packed) // 2])
    drop.write("b.csv", LONG.replace("ccu", "logins"))
    drop.poll()
    assert "a.csv.gz: the gzip file breaks off" in drop.problem
    assert ("logins{realm=kr-1}", START) in drop.points
    drop.write("a.csv.gz", packed)
    drop.poll()
    assert drop.problem == ""
    assert len(drop.points) == 1999 + 3 + 3


def test_damaged_gzip_is_named_and_the_other_files_go_in(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv.gz", b"\x1f\x8b\x08\x00" + b"\x00" * 40)
    drop.write("b.csv", LONG)
    assert drop.poll() == 3
    assert "a.csv.gz" in drop.problem


def parquet(path: Path, columns: dict[str, Any], row_group_size: int = 2) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)


def test_parquet_reads_like_csv_whatever_its_types(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    at = [datetime.fromtimestamp(START + 300 * i, UTC) for i in (0, 0, 1)]
    columns = {
        "ts": pa.array(at, pa.timestamp("us", "UTC")),
        "metric": pa.array(["ccu"] * 3).dictionary_encode(),
        "realm": ["kr-1", "kr-2", "kr-1"],
        "value": pa.array([5, 6, 7], pa.int32()),
        "ignored": [None, 1, 2],
    }
    parquet(drop.path / "a.parquet", columns)
    assert drop.poll() == 3
    assert drop.points == LONG_POINTS
    shutil.copy(drop.path / "a.parquet", drop.path / "b.parquet")
    assert drop.poll() == 0


def test_parquet_goes_on_with_the_row_group_after_the_last_that_was_stored(
    folder: Callable[..., Folder],
) -> None:
    drop = folder(metric_name="ccu")
    parquet(drop.path / "a.parquet", {"ts": [START + 300 * i for i in range(10)], "value": np.arange(10.0)})
    source = CsvSource("drop", CsvConfig.model_validate(drop.config), batch_rows=4)
    drop.store(next(source.read({}, now=NOW)))
    assert len(drop.points) == 4
    assert drop.poll() == 6
    assert drop.times == [START + 300 * i for i in range(10)]


def test_bad_rows_of_parquet_are_told_by_row_and_content(folder: Callable[..., Folder]) -> None:
    drop = folder(metric_name="ccu")
    columns = {"ts": [START, None, START + 300], "value": [1.0, 2.0, float("inf")]}
    parquet(drop.path / "a.parquet", columns)
    assert drop.poll() == 1
    assert drop.rejects == [
        ("a.parquet", 2, "no timestamp", '{"ts": null, "value": 2.0}'),
        ("a.parquet", 3, "value is infinite", f'{{"ts": {START + 300}, "value": Infinity}}'),
    ]


def test_a_parquet_column_that_holds_no_values_is_named_and_the_other_files_go_in(
    folder: Callable[..., Folder],
) -> None:
    drop = folder(metric_name="ccu")
    parquet(drop.path / "a.parquet", {"ts": [START], "value": pa.array([[1.0]])})
    parquet(drop.path / "b.parquet", {"ts": [START], "value": [1.0]})
    assert drop.poll() == 1
    assert "a.parquet: column value is of type list<element: double>, which holds no numbers" in drop.problem


def test_half_a_parquet_file_is_a_problem_until_it_is_whole(folder: Callable[..., Folder]) -> None:
    drop = folder(metric_name="ccu")
    parquet(drop.path / "a.parquet", {"ts": [START], "value": [1.0]})
    whole = (drop.path / "a.parquet").read_bytes()
    drop.write("a.parquet", whole[: len(whole) // 2])
    drop.poll()
    assert "not a whole Parquet file" in drop.problem
    drop.write("a.parquet", whole)
    assert drop.poll() == 1
    assert drop.problem == ""


# -- shapes of tables -------------------------------------------------------------------


def test_one_file_per_series_takes_its_metric_from_the_name(folder: Callable[..., Folder]) -> None:
    drop = folder()
    drop.write("ccu.csv", f"ts,value\n{START},5\n")
    drop.write("logins.csv.gz", gzip.compress(f"ts,value\n{START},5\n".encode()))
    drop.poll()
    assert drop.points == {("ccu", START): 5.0, ("logins", START): 5.0}


def test_where_the_name_is_the_metric_a_copy_under_another_name_is_another_series(
    folder: Callable[..., Folder],
) -> None:
    drop = folder()
    drop.write("ccu.csv", f"ts,value\n{START},5\n")
    drop.poll()
    shutil.copy(drop.path / "ccu.csv", drop.path / "logins.csv")
    assert drop.poll() == 1


def test_metric_name_joins_files_and_file_label_tells_them_apart(folder: Callable[..., Folder]) -> None:
    drop = folder(metric_name="ccu", file_label="realm")
    drop.write("kr-1.csv", f"ts,value\n{START},5\n")
    drop.write("kr-2.csv", f"ts,value\n{START},6\n")
    drop.poll()
    assert drop.points == {("ccu{realm=kr-1}", START): 5.0, ("ccu{realm=kr-2}", START): 6.0}


def test_of_several_value_columns_each_is_a_metric_and_holes_are_no_bad_rows(
    folder: Callable[..., Folder],
) -> None:
    drop = folder(value=["ccu", "logins"], labels=["realm"])
    drop.write("a.csv", f"ts,realm,ccu,logins\n{START},kr-1,5,\n{START + 300},kr-1,x,8\n")
    drop.poll()
    assert drop.points == {("ccu{realm=kr-1}", START): 5.0, ("logins{realm=kr-1}", START + 300): 8.0}
    assert [reject[:3] for reject in drop.rejects] == [("a.csv", 3, "value is not a number")]


def test_a_header_with_bom_quotes_spaces_and_windows_line_breaks_is_read(
    folder: Callable[..., Folder],
) -> None:
    drop = folder(labels=["realm"], delimiter=";", metric_name="ccu")
    drop.write("a.csv", f'\ufeff"ts"; value ;"realm"\r\n{START};5;"kr;1"\r\n{START + 300};6; kr-2 \r\n')
    drop.poll()
    assert drop.points == {("ccu{realm=kr;1}", START): 5.0, ("ccu{realm=kr-2}", START + 300): 6.0}
    assert drop.rejects == []


def test_an_empty_label_is_left_out(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", f"ts,metric,realm,value\n{START},ccu,,5\n")
    drop.poll()
    assert drop.points == {("ccu", START): 5.0}


def test_a_missing_column_is_named_with_those_found_and_other_files_go_in(
    folder: Callable[..., Folder],
) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", "time,metric,value\n1,ccu,2\n")
    drop.write("b.csv", LONG)
    assert drop.poll() == 3
    assert (
        "a.csv: no column ts, realm; expected ts, value, realm, metric, found time, metric, value"
        in drop.problem
    )
    drop.write("a.csv", LONG.replace("ccu", "logins"))
    assert drop.poll() == 3
    assert drop.problem == ""


def test_a_file_named_without_pattern_must_exist(folder: Callable[..., Folder]) -> None:
    drop = folder()
    drop.poll(path=str(drop.path / "none.csv"))
    assert "none.csv: no such file" in drop.problem
    assert drop.poll(path=str(drop.path / "none-*.csv")) == 0
    assert drop.problem == ""


@pytest.mark.parametrize(
    ("named", "taken", "refused"), [("pipe.csv", 0, True), (".", 1, False), ("*", 1, False)]
)
def test_what_is_no_regular_file_is_never_waited_for(
    folder: Callable[..., Folder], named: str, taken: int, refused: bool
) -> None:
    drop = folder()
    drop.write("good.csv", f"ts,ccu\n{START},5\n")
    os.mkfifo(drop.path / "pipe.csv")
    (drop.path / "inner.csv").mkdir()
    assert drop.poll(path=str(drop.path / named), value="ccu") == taken
    assert ("expected a regular file" in drop.problem) == refused


def test_a_folder_named_without_pattern_gives_the_files_with_known_endings(
    folder: Callable[..., Folder],
) -> None:
    drop = folder()
    drop.write("a.csv", f"ts,value\n{START},5\n")
    drop.write("notes.txt", "hello")
    drop.write(".b.csv", "being copied")
    assert drop.poll(path=str(drop.path)) == 1
    assert drop.problem == ""


def test_a_file_whose_name_is_no_text_is_named_and_keeps_no_other_from_being_read(
    folder: Callable[..., Folder],
) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("good.csv", LONG)
    with open(os.fsencode(drop.path) + b"/caf\xe9.csv", "wb") as file:
        file.write(LONG.replace("kr-1", "kr-9").encode())
    assert drop.poll() == 3
    assert "caf\\xe9.csv: the file's name is not UTF-8; rename it" in drop.problem
    assert drop.problem.isprintable()


# -- rows that cannot be read -----------------------------------------------------------

BAD_LINES = (
    ("yesterday,ccu,kr-1,5", "timestamp is not readable: expected ISO 8601 or epoch seconds"),
    (",ccu,kr-1,5", "no timestamp"),
    ("-5,ccu,kr-1,5", "timestamp lies outside 1970 to 2262"),
    (f"{START},ccu,kr-1,many", "value is not a number"),
    (f"{START},ccu,kr-1,", "no value"),
    (f"{START},ccu,kr-1,NaN", "no value"),
    (f"{START},ccu,kr-1,-inf", "value is infinite"),
    (f"{START},ccu,kr-1,1e999", "value is infinite"),
    (f"{START},,kr-1,5", "no metric"),
    (f"{START},ccu,kr-1", "wrong number of columns"),
    (f"{START},ccu,kr-1,5,6", "wrong number of columns"),
    (f'{START},ccu,"kr-1,5', "quotation marks do not close on the line"),
    (f"{START},ccu,kr-\udcff,5", "not UTF-8"),
)


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=[reason for _, reason in BAD_LINES])
def test_a_bad_line_is_told_by_file_line_reason_and_text(
    folder: Callable[..., Folder], line: str, reason: str
) -> None:
    drop = folder(**LONG_CONFIG)
    raw = line.encode("utf-8", "surrogateescape")
    drop.write("a.csv", LONG.encode() + raw + f"\n{START + 600},ccu,kr-1,8\n".encode())
    assert drop.poll() == 4
    shown = raw.decode("utf-8", "replace")
    assert drop.rejects == [("a.csv", 5, reason, shown)]
    assert drop.points == LONG_POINTS | {("ccu{realm=kr-1}", START + 600): 8.0}


def test_quotation_marks_that_close_on_a_later_line_swallow_nothing(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    rows = f'{START},ccu,"kr-1,5\n{START},ccu,kr-2,6\n{START},ccu,kr-3",7\n'
    drop.write("a.csv", "ts,metric,realm,value\n" + rows)
    drop.poll()
    assert drop.points == {("ccu{realm=kr-2}", START): 6.0}
    assert [line for _, line, _, _ in drop.rejects] == [2, 4]


def test_lines_are_counted_over_all_looks_and_blank_ones_are_no_rows(folder: Callable[..., Folder]) -> None:
    drop = folder(**LONG_CONFIG)
    drop.write("a.csv", LONG + "\n\n")
    drop.poll()
    drop.append("a.csv", f"\r\n{START},ccu,kr-1,x\n\n{START},ccu\n")
    drop.poll()
    assert [(line, reason) for _, line, reason, _ in drop.rejects] == [
        (8, "value is not a number"),
        (10, "wrong number of columns"),
    ]


CELLS = st.sampled_from(["5", "-1.5", "1e3", "", "nan", "x", "inf", " 7 ", '"8"', '"', "5,6", "-"])
STAMPS = st.sampled_from(
    [
        str(START),
        str(START + 300),
        f"{START}000",
        "2024-06-01T00:00:00Z",
        "2024-06-01 02:00:00+02:00",
        "",
        "soon",
    ]
)
LINES = st.lists(st.tuples(STAMPS, st.sampled_from(["kr-1", "kr-2", "", '"kr,3"']), CELLS), max_size=12)


def naive_twin(lines: Sequence[tuple[str, str, str]]) -> tuple[dict[tuple[str, int], float], set[int]]:
    """Read rows the slow, obvious way; return the points and the lines set aside."""
    points: dict[tuple[str, int], float] = {}
    bad: set[int] = set()
    for number, line in enumerate(map(",".join, lines), start=2):
        cells = next(csv.reader(io.StringIO(line)), [])
        try:
            stamp, realm, value = (cell.strip() for cell in cells)
            ts = int(stamp) if stamp.isdigit() else int(datetime.fromisoformat(stamp).timestamp())
            ts = ts // 1000 if ts > 1e11 else ts
            number_ = float(value)
            if line.count('"') % 2 or not np.isfinite(number_):
                raise ValueError
        except ValueError:
            bad.add(number)
        else:
            points[SeriesSpec("ccu", {"realm": realm} if realm else {}, 1).key, ts] = number_
    return points, bad


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES)
@example(lines=[(str(START), "kr-1", "5"), (f"{START}000", "kr-2", "x")])
def test_any_lines_read_as_the_slow_twin_reads_them(
    lines: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / str(abs(hash(tuple(lines))))
    folder.mkdir(exist_ok=True)
    drop = Folder(folder, labels=["realm"], metric_name="ccu")
    drop.write("a.csv", "ts,realm,value\n" + "".join(",".join(line) + "\n" for line in lines))
    drop.poll()
    points, bad = naive_twin(lines)
    assert drop.points == points
    assert {line for _, line, _, _ in drop.rejects} == bad
    assert drop.problem == ""


# -- timestamps -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stamp",
    [
        "1717200000",
        "1717200000.9",
        "1717200000123",
        "1717200000123456",
        "1717200000123456789",
        "2024-06-01T00:00:00Z",
        "2024-06-01T00:00:00.5Z",
        "2024-06-01 02:00:00+02:00",
        "2024-06-01T02:00+0200",
        "2024-05-31T19:00:00-05",
    ],
)
def test_timestamps_of_every_kind_mean_the_same_moment(folder: Callable[..., Folder], stamp: str) -> None:
    drop = folder(metric_name="ccu")
    drop.write("a.csv", f"ts,value\n{stamp},5\n")
    assert drop.poll() == 1
    assert drop.times == [START]


def test_timestamps_without_zone_need_a_timezone(folder: Callable[..., Folder]) -> None:
    drop = folder(metric_name="ccu")
    drop.write("a.csv", "ts,value\n2024-06-01 02:00:00,5\n")
    assert drop.poll() == 0
    assert (
        "a.csv: timestamps such as '2024-06-01 02:00:00' carry no zone; set the source's timezone"
        in drop.problem
    )
    assert drop.poll(timezone="Europe/Berlin") == 1
    assert drop.times == [START]


def test_a_format_of_its_own_is_read_by_strptime(folder: Callable[..., Folder]) -> None:
    drop = folder(metric_name="ccu", timezone="Europe/Berlin", timestamp_format="%d.%m.%Y %H:%M")
    drop.write("a.csv", "ts,value\n01.06.2024 02:00,5\n2024-06-01 02:00,6\n")
    assert drop.poll() == 1
    assert drop.times == [START]


def local_lines(first: datetime, hours: float, realms: Sequence[str] = ("kr-1",)) -> list[tuple[int, str]]:
    """Return UTC seconds and a CSV line in Berlin's wall-clock time for every 5 minutes and realm."""
    start = int(first.timestamp())
    return [
        (
            ts,
            f"{datetime.fromtimestamp(ts, ZoneInfo('Europe/Berlin')):%Y-%m-%d %H:%M:%S},{realm},{ts % 997}\n",
        )
        for ts in range(start, start + int(hours * 3600), 300)
        for realm in realms
    ]


SPRING = datetime(2024, 3, 31, 0, tzinfo=UTC)
AUTUMN = datetime(2024, 10, 26, 23, tzinfo=UTC)


@pytest.mark.parametrize("first", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_both_clock_changes_leave_neither_gap_nor_double(
    folder: Callable[..., Folder], first: datetime
) -> None:
    drop = folder(metric_name="ccu", timezone="Europe/Berlin", labels=["realm"])
    lines = local_lines(first, 4, ("kr-1", "kr-2"))
    drop.write("a.csv", "ts,realm,value\n" + "".join(line for _, line in lines))
    drop.poll()
    assert drop.rejects == []
    assert drop.times == [ts for ts, _ in lines]
    assert drop.points["ccu{realm=kr-1}", lines[30][0]] == lines[30][0] % 997


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 96), max_size=5).map(sorted))
def test_the_hour_that_comes_twice_is_told_apart_however_the_file_grows(
    cuts: list[int], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 700)
    drop = Folder(
        tmp_path_factory.mktemp("dst"), metric_name="ccu", timezone="Europe/Berlin", labels=["realm"]
    )
    lines = local_lines(AUTUMN, 4, ("kr-1", "kr-2"))
    drop.write("a.csv", "ts,realm,value\n")
    for start, stop in zip([0, *cuts], [*cuts, len(lines)], strict=True):
        drop.append("a.csv", "".join(line for _, line in lines[start:stop]))
        drop.poll()
    assert drop.rejects == []
    assert drop.times == [ts for ts, _ in lines]


def test_a_step_back_tells_the_passes_apart_though_nothing_leads_into_them(
    folder: Callable[..., Folder],
) -> None:
    drop = folder(metric_name="ccu", timezone="Europe/Berlin")
    lines = [line.replace(",kr-1", "") for _, line in local_lines(AUTUMN, 3)[18:]]  # from 02:30, first pass
    drop.write("a.csv", "ts,value\n" + "".join(lines))
    drop.poll()
    assert drop.rejects == []
    assert drop.times == [ts for ts, _ in local_lines(AUTUMN, 3)[18:]]


def test_a_local_time_that_nothing_tells_apart_is_set_aside(folder: Callable[..., Folder]) -> None:
    drop = folder(metric_name="ccu", timezone="Europe/Berlin")
    drop.write("a.csv", "ts,value\n2024-10-27 02:30:00,5\n2024-10-27 03:00:00,6\n")
    assert drop.poll() == 1
    assert [reject[2] for reject in drop.rejects] == [
        "local time comes twice, and nothing tells which is meant"
    ]


def test_a_local_time_that_the_clock_skips_is_set_aside(folder: Callable[..., Folder]) -> None:
    drop = folder(metric_name="ccu", timezone="Europe/Berlin")
    drop.write("a.csv", "ts,value\n2024-03-31 01:30:00,5\n2024-03-31 02:30:00,6\n")
    assert drop.poll() == 1
    assert [reject[2] for reject in drop.rejects] == ["local time does not exist: the clock skips it"]


# -- batches ----------------------------------------------------------------------------


def test_batches_are_bounded_and_span_small_files(
    folder: Callable[..., Folder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 200)
    drop = folder(metric_name="ccu")
    for name in "abc":
        drop.write(
            f"{name}.csv", "ts,value\n" + "".join(f"{START + 300 * i},{ord(name)}\n" for i in range(41))
        )
    source = CsvSource("drop", CsvConfig.model_validate(drop.config), batch_rows=30)
    sizes = [drop.store(batch) for batch in source.read({}, now=NOW)]
    assert sum(sizes) == 123
    assert max(sizes) < 30 + 200 / 12 + 1
    assert len(sizes) <= 4
