"""Folders of labelled series are read in both layouts, and what cannot be read is named and left out."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_service.errors import LabelledDataError
from anomaly_service.measure.labelled import LabelledFile, find

HEAD = "timestamp,value\n"
ROWS = ("1393452000,1.5", "1393452300,2", "1393452600,3")
"""Three rows five minutes apart, from 2014-02-26 22:00 UTC."""


def ours(folder: Path, files: dict[str, str], labels: Sequence[str] = (), about: Any = None) -> Path:
    """Write a data set in our layout; names that end in .gz are packed."""
    (folder / "series").mkdir(parents=True)
    for name, text in files.items():
        data = text.encode()
        (folder / "series" / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (folder / "labels.csv").write_text("\n".join(["series,start,end", *labels]) + "\n")
    if about is not None:
        (folder / "meta.json").write_text(about if isinstance(about, str) else json.dumps(about))
    return folder


def nab(folder: Path, files: dict[str, str], windows: Any) -> Path:
    """Write a data set as NAB lays it out."""
    for name, text in files.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "labels").mkdir(parents=True)
    text = windows if isinstance(windows, str) else json.dumps(windows)
    (folder / "labels" / "combined_windows.json").write_text(text)
    return folder


def text(*rows: str, head: str = HEAD) -> str:
    return head + "\n".join(rows or ROWS) + "\n"


def only(folder: Path) -> LabelledFile:
    (file,) = find(folder).files
    return file


def problem(folder: Path) -> str:
    (found,) = find(folder).problems
    return found


# -- both layouts -------------------------------------------------------------------


def test_a_series_has_its_rows_and_labels(tmp_path: Path) -> None:
    labels = ["a,1393452600,1393452600", "b,1,2", "a,1393452000,1393452300"]
    folder = ours(tmp_path / "made", {"a.csv": text(), "b.csv": text()}, labels)
    first, second = find(folder).files
    read = first.read()
    assert (read.dataset, read.series, first.name) == ("made", "a", "made/a")
    assert read.ts.tolist() == [1393452000, 1393452300, 1393452600]
    assert read.values.tolist() == [[1.5], [2.0], [3.0]]
    assert read.truth == ((1393452000, 1393452300), (1393452600, 1393452600))
    assert (read.step_seconds, read.train_until, read.unsure) == (300, None, ())
    assert second.truth == ((1, 2),)


def test_what_meta_says_of_a_series_counts(tmp_path: Path) -> None:
    about = {
        "series": {
            "a": {"interval_s": 60.0, "train_until": 1393452300},
            "b": {"train_until": "2014-02-26T22:05:00"},
            "c": {"interval_s": None, "train_until": None},
        }
    }
    folder = ours(tmp_path / "made", dict.fromkeys(("a.csv", "b.csv", "c.csv", "d.csv"), text()), about=about)
    told = [(read.step_seconds, read.train_until) for read in (file.read() for file in find(folder).files)]
    assert told == [(60, 1393452300), (300, 1393452300), (300, None), (300, None)]


def test_packed_files_and_several_channels_are_read(tmp_path: Path) -> None:
    rows = ("1393452000,1,10", "1393452300,,20", "1393452600,inf,30")
    folder = ours(tmp_path / "made", {"a b.c.csv.gz": text(*rows, head="timestamp,cpu,memory\n")})
    file = only(folder)
    assert file.series == "a b.c"
    np.testing.assert_array_equal(file.read().values, [[1, 10], [np.nan, 20], [np.nan, 30]])


@pytest.mark.parametrize(
    "rows",
    [
        ("2014-02-26 22:00:00,1.5", "2014-02-26 22:05:00,2", "2014-02-26 22:10:00,3"),
        ("2014-02-26T22:00:00Z,1.5", "2014-02-26T23:05:00+01:00,2", "2014-02-26T22:10:00.5Z,3"),
        ("1393452000.0,1.5", "1393452300.9,2", "1393452600.5,3"),
    ],
    ids=["plain", "zones", "fractions"],
)
def test_times_are_epoch_seconds_or_iso_8601(tmp_path: Path, rows: Sequence[str]) -> None:
    folder = ours(tmp_path / "made", {"a.csv": text(*rows)})
    assert only(folder).read().ts.tolist() == [1393452000, 1393452300, 1393452600]


def test_the_clock_of_this_machine_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ("2014-02-26 22:00:00,1", "2014-02-26 22:05:00,2", "2014-02-26 22:10:00,3")
    folder = ours(tmp_path / "made", {"a.csv": text(*rows)}, ["a,2014-02-26 22:00,2014-02-26 22:05"])
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    try:
        read = only(folder).read()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert read.ts[0] == read.truth[0][0] == 1393452000


def test_labels_may_be_written_as_times_and_by_a_spreadsheet(tmp_path: Path) -> None:
    folder = ours(tmp_path / "made", {"a.csv": text()})
    lines = "\ufeffseries,start,end\na,2014-02-26T22:00:00Z,2014-02-26 22:05\na,1393452600.0,1393452600.0\n"
    (folder / "labels.csv").write_text(lines, encoding="utf-8")
    assert only(folder).truth == ((1393452000, 1393452300), (1393452600, 1393452600))
    assert find(folder).problems == ()


def test_rows_are_put_in_order_and_those_of_one_time_stay_as_they_were(tmp_path: Path) -> None:
    folder = ours(tmp_path / "made", {"a.csv": text("900,4", "300,1", "600,3", "300,2")})
    read = only(folder).read()
    assert read.ts.tolist() == [300, 300, 600, 900]
    assert read.values[:, 0].tolist() == [1, 2, 3, 4]
    assert read.step_seconds == 300


def test_nab_s_own_folders_are_read(tmp_path: Path) -> None:
    rows = ("2014-02-26 22:00:00,1", "2014-02-26 22:05:00,2", "2014-02-26 22:10:00,3")
    windows = {
        "realX/cpu.csv": [
            ["2014-02-26 22:10:00.000000", "2014-02-26 22:10:00.000000"],
            ["2014-02-26 22:00:00.000000", "2014-02-26 22:05:00.000000"],
        ],
        "realX/none.csv": [],
    }
    files = {"realX/cpu.csv": text(*rows), "realX/none.csv": text(*rows)}
    cpu, none = find(nab(tmp_path / "NAB", files, windows)).files
    assert (cpu.dataset, cpu.series) == ("NAB", "realX__cpu")
    assert cpu.read().truth == ((1393452000, 1393452300), (1393452600, 1393452600))
    assert none.read().truth == ()


def test_a_folder_of_data_sets_is_all_of_them(tmp_path: Path) -> None:
    ours(tmp_path / "b", {"x.csv": text()})
    nab(tmp_path / "a", {"k/y.csv": text()}, {})
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("no data set")
    assert [file.name for file in find(tmp_path).files] == ["a/k__y", "b/x"]
    assert [file.name for file in find(tmp_path, ["b"]).files] == ["b/x"]


def test_a_data_set_is_called_after_its_folder_however_it_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ours(tmp_path / "made", {"x.csv": text()}))
    assert only(Path()).dataset == "made"


def test_a_part_of_a_series_is_read_by_rows(tmp_path: Path) -> None:
    rows = [f"{300 * k},{k}" for k in range(10)]
    file = only(ours(tmp_path / "made", {"a.csv": text(*rows)}))
    part = LabelledFile(file.dataset, file.series, file.path, part=(4, 8))
    assert part.read().values[:, 0].tolist() == [4, 5, 6, 7]
    with pytest.raises(LabelledDataError, match=r"a\.csv: expected at least 3 rows, got 1"):
        LabelledFile(file.dataset, file.series, file.path, part=(9, 12)).read()


# -- what is no data set ------------------------------------------------------------


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelledDataError, match="there is no folder"):
        find(tmp_path / "none")


def test_a_folder_without_series_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    with pytest.raises(LabelledDataError, match=r"series/\*\.csv and labels\.csv, or NAB's data/") as refused:
        find(tmp_path)
    page = str(refused.value).rpartition("(")[2].rstrip(")")
    assert (Path(__file__).parents[2] / page).is_file()


def test_an_unknown_data_set_is_refused_with_those_there_are(tmp_path: Path) -> None:
    ours(tmp_path / "a", {"x.csv": text()})
    ours(tmp_path / "b", {"x.csv": text()})
    with pytest.raises(LabelledDataError, match="has no data set 'c'; it has: a, b"):
        find(tmp_path, ["a", "c"])


# -- what is left out ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("at,value\n1,2\n", "expected a column timestamp and one per channel, got at, value"),
        ("timestamp\n1\n2\n3\n", "expected a column timestamp and one per channel, got timestamp"),
        (text("1,2", "2,many", "3,4"), "expected numbers in every channel; 'value' holds others"),
        (text("1,2", "2,3"), "expected at least 3 rows, got 2"),
        (HEAD, "expected rows below the header, got none"),
        ("", "cannot be read as CSV: No columns"),
        (text("7,1", "7,2", "7,3"), "all rows have the same timestamp"),
        (text("1,2", ",3", "3,4"), "1 rows have no timestamp"),
        (text("2014-02-26,2", ",3", "2014-02-27,4"), "1 rows have no timestamp"),
        (text("today,2", "tomorrow,3", "later,4"), "expected epoch seconds or ISO 8601 times"),
        (text("1393452000000,2", "1393452300000,3", "1393452600000,4"), "ISO 8601 times, got 1393452000000"),
        (text("inf,2", "1,3", "2,4"), "expected epoch seconds or ISO 8601 times, got inf"),
        (text("1,2,3", "2,3,4", "3,4,5"), "rows have more values than the header has columns"),
        (text("1,2", "2,3,4", "3,4"), "cannot be read as CSV: Error tokenizing"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_series_is_named_and_told_why(tmp_path: Path, content: str, why: str) -> None:
    file = only(ours(tmp_path / "made", {"a.csv": content}))
    with pytest.raises(LabelledDataError) as refused:
        file.read()
    assert str(refused.value).startswith(str(file.path))
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "data",
    [b"\x1f\x8b broken", gzip.compress(text().encode() * 99)[:-30], b"\xff\xfe\x00"],
    # Compressed bytes hold the time, and every process that collects must find the same names.
    ids=["no gzip after its mark", "a gzip that ends early", "no text"],
)
def test_bytes_that_are_no_table_are_named(tmp_path: Path, data: bytes) -> None:
    folder = ours(tmp_path / "made", {})
    (folder / "series" / "a.csv.gz").write_bytes(data)
    with pytest.raises(LabelledDataError, match=r"a\.csv\.gz: cannot be read as CSV"):
        only(folder).read()


def test_a_text_far_down_is_found_without_a_warning(tmp_path: Path) -> None:
    rows = [f"{60 * k},{k}" for k in range(300_000)]
    rows[-1] = "18000000,many"
    with pytest.raises(LabelledDataError, match="expected numbers in every channel"):
        only(ours(tmp_path / "made", {"a.csv": text(*rows)})).read()


def test_a_file_that_is_gone_is_named_when_it_is_read(tmp_path: Path) -> None:
    file = only(ours(tmp_path / "made", {"a.csv": text()}))
    file.path.unlink()
    assert file.digest()
    with pytest.raises(LabelledDataError, match=r"a\.csv: cannot be read as CSV"):
        file.read()


def test_files_that_are_no_series_are_not_looked_at(tmp_path: Path) -> None:
    files = {"a.csv": text(), "a.csv.bak": "old", "a.csv.partial": "half", "notes.txt": "none"}
    assert only(ours(tmp_path / "made", files)).path.name == "a.csv"


def test_a_second_file_of_a_series_is_named_and_left_out(tmp_path: Path) -> None:
    folder = ours(tmp_path / "made", {"a.csv.gz": text(), "a.csv": text()}, ["a,1,2"])
    assert only(folder).truth == ((1, 2),)
    assert problem(folder).endswith("a.csv.gz: the series 'a' is read from a.csv")


def test_labels_of_series_that_are_not_there_are_named(tmp_path: Path) -> None:
    assert "labels.csv: no file for the series 'b'" in problem(
        ours(tmp_path / "made", {"a.csv": text()}, ["b,1,2", "a,1,2"])
    )
    nabs = nab(tmp_path / "NAB", {"k/a.csv": text()}, {"k/b.csv": []})
    assert "no file for the windows of 'k/b.csv'" in problem(nabs)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a,soon,later", "expected series,start,end"),
        ("a,1", "expected series,start,end"),
        ("a,nan,2", "expected series,start,end"),
        ("a,1,inf", "expected series,start,end"),
        ("a,2,1", "the label ends before it starts"),
    ],
)
def test_a_line_that_is_no_label_is_named_and_the_others_count(tmp_path: Path, line: str, why: str) -> None:
    folder = ours(tmp_path / "made", {"a.csv": text()}, ["a,1,2", line, "a,4,5"])
    assert only(folder).truth == ((1, 2), (4, 5))
    assert f"labels.csv, line 3: {why}" in problem(folder)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"name,start,end\na,1,2\n", "expected the columns series, start and end, got name, start, end"),
        (b"", "expected the columns series, start and end, got an empty file"),
        (b"series,start,end\n\xff\xfe,1,2\n", "labels.csv: cannot be read"),
    ],
)
def test_a_data_set_without_a_table_of_labels_is_left_out_alone(
    tmp_path: Path, content: bytes, why: str
) -> None:
    (ours(tmp_path / "bad", {"a.csv": text()}) / "labels.csv").write_bytes(content)
    ours(tmp_path / "good", {"a.csv": text()})
    assert only(tmp_path).dataset == "good"
    assert why in problem(tmp_path)


@pytest.mark.parametrize(
    "windows", ["{", "[1]", '{"k/a.csv": [["soon", "later"]]}', '{"k/a.csv": [["2014-01-01"]]}']
)
def test_nab_windows_that_are_none_are_named(tmp_path: Path, windows: str) -> None:
    folder = nab(tmp_path / "NAB", {"k/a.csv": text()}, windows)
    assert find(folder).files == ()
    assert "combined_windows.json: expected pairs of times by the name of a file" in problem(folder)


@pytest.mark.parametrize("about", ["{", "[]", "{}", '{"series": ["a"]}'])
def test_a_meta_file_that_cannot_be_read_is_named_and_steps_are_taken_from_the_rows(
    tmp_path: Path, about: str
) -> None:
    folder = ours(tmp_path / "made", {"a.csv": text()}, about=about)
    assert only(folder).read().step_seconds == 300
    assert "meta.json: not read, steps are taken from the rows" in problem(folder)


@pytest.mark.parametrize(
    "said",
    [5, {"interval_s": 0}, {"interval_s": "5min"}, {"interval_s": float("inf")}, {"train_until": "soon"}],
)
def test_what_meta_says_wrongly_of_one_series_is_named(tmp_path: Path, said: Any) -> None:
    about = {"series": {"a": said, "b": {"interval_s": 60}}}
    folder = ours(tmp_path / "made", {"a.csv": text(), "b.csv": text()}, about=about)
    assert [file.step_seconds for file in find(folder).files] == [None, 60]
    assert "meta.json: not read for 'a'" in problem(folder)


# -- digests ------------------------------------------------------------------------


def test_a_digest_changes_with_the_file_its_labels_and_what_meta_says(tmp_path: Path) -> None:
    def digest(name: str, rows: str = text(), **given: Any) -> str:
        return only(ours(tmp_path / name, {"a.csv": rows}, **given)).digest()

    same = digest("one")
    assert digest("two") == same
    others = {
        digest("rows", text("1,2", "2,3", "3,4")),
        digest("labels", labels=["a,1,2"]),
        digest("step", about={"series": {"a": {"interval_s": 60}}}),
        digest("train", about={"series": {"a": {"train_until": 60}}}),
    }
    assert len(others | {same}) == 5
