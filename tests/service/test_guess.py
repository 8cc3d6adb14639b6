"""What is guessed of a file nobody described."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomaly_service.config.load import load
from anomaly_service.config.starter import starter, starter_for
from anomaly_service.errors import GuessError
from anomaly_service.sources.csv import CsvSource
from anomaly_service.sources.guess import guess

START = datetime(2024, 6, 1, tzinfo=UTC)
NOW = datetime(2025, 1, 1, tzinfo=UTC)
Writer = Callable[[str, list[str], list[list[Any]]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a CSV file: name, columns, rows."""

    def write(name: str, header: list[str], rows: list[list[Any]], delimiter: str = ",") -> Path:
        path = tmp_path / name
        lines = [header, *rows]
        path.write_text("".join(delimiter.join(str(cell) for cell in line) + "\n" for line in lines))
        return path

    return write


def at(i: int, step: int = 300) -> datetime:
    return START + timedelta(seconds=step * i)


def epoch(i: int, step: int = 300) -> int:
    return int(at(i, step).timestamp())


def said(path: Path, word: str, **options: Any) -> str:
    """Return the sentence that begins with a word."""
    return next((s for s in guess(path, **options).words if s.startswith(word)), "")


def n_points(section: dict[str, Any]) -> int:
    source = CsvSource("try", CsvSource.Config.model_validate(section))  # type: ignore[arg-type]  # csv's own
    return sum(len(batch.points) for batch in source.read({}, now=NOW))


def test_epoch_and_value_are_read_from_a_compressed_file(tmp_path: Path) -> None:
    path = tmp_path / "osrs_total_players.csv.gz"
    rows = "".join(f"{epoch(i) + i % 3},{90_000 + i}\n" for i in range(2000))
    path.write_bytes(gzip.compress(f"timestamp,value\n{rows}".encode()))
    found = guess(path)
    assert (found.step_seconds, found.timezone, found.n_series) == (300, None, 1)
    assert found.section() == {
        "kind": "csv",
        "path": str(path),
        "timestamp": "timestamp",
        "value": "value",
        "step": "5min",
    }
    assert n_points(found.section()) == 2000


def test_times_without_zone_are_taken_as_utc_and_it_says_so(write: Writer) -> None:
    rows = [[f"{at(i):%Y-%m-%d %H:%M:%S}", i] for i in range(300)]
    path = write("art_daily.csv", ["timestamp", "value"], rows)
    assert guess(path).timezone == "UTC"
    assert "carries no zone, taken as UTC; where it is another, name it with --timezone" in said(path, "time")
    assert guess(path, timezone="Asia/Seoul").start == guess(path).start - 9 * 3600
    assert n_points(guess(path).section()) == 300


def test_metric_and_labels_of_a_long_file_are_found(write: Writer) -> None:
    rows = [
        [at(i).isoformat(), metric, realm, "pc", 5 + i, f"note {i} {realm}"]
        for i in range(100)
        for metric in ("ccu", "logins")
        for realm in ("kr-1", "eu-1")
    ]
    path = write("long.csv", ["Time", "metric", "realm", "platform", "value", "comment"], rows)
    section = guess(path).section()
    assert (section["timestamp"], section["metric"], section["labels"]) == (
        "Time",
        "metric",
        ["realm", "platform"],
    )
    assert said(path, "left out") == "left out: comment (different in almost every row)"
    assert guess(path).n_series == 4
    assert n_points(section) == 400


def test_numbers_that_tell_rows_apart_are_labels(write: Writer) -> None:
    rows = [[epoch(i), server, 7 * i % 31 + server] for i in range(200) for server in (101, 102, 103)]
    path = write("servers.csv", ["ts", "server_id", "players"], rows)
    section = guess(path).section()
    assert (section["value"], section["labels"]) == ("players", ["server_id"])
    assert n_points(section) == 600


def test_every_column_of_a_wide_file_is_a_series(write: Writer) -> None:
    rows = [[epoch(i, 60), i, 2 * i, "" if i % 7 else 3 * i] for i in range(200)]
    path = write("machine.csv", ["timestamp", "cpu", "memory", "disk"], rows)
    found = guess(path)
    assert found.layout.values == ("cpu", "memory", "disk")
    assert "3 columns, each a metric: cpu, memory, disk" in said(path, "values")
    assert n_points(found.section()) == 200 + 200 + 29


def test_several_wide_files_are_told_apart_by_their_names(write: Writer, tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write(name, ["timestamp", "cpu", "memory"], [[epoch(i), i, i + 1] for i in range(50)])
    section = guess(tmp_path / "*.csv").section()
    assert section["file_label"] == "file"
    assert n_points(section) == 200


def test_marks_of_anomalies_are_left_out(write: Writer) -> None:
    rows = [[epoch(i), i % 5, int(i == 7)] for i in range(50)]
    path = write("kpi.csv", ["timestamp", "value", "label"], rows)
    assert guess(path).layout.values == ("value",)
    assert said(path, "left out") == "left out: label (marks of anomalies)"


@pytest.mark.parametrize("form", ["%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%d/%b/%Y:%H:%M:%S +0000"])
def test_other_formats_and_separators_are_tried(write: Any, form: str) -> None:
    rows = [[at(i, 3600).strftime(form), i] for i in range(24 * 25)]
    path = write("german.csv", ["when", "n"], rows, delimiter=";")
    found = guess(path)
    assert (found.delimiter, found.step_seconds, found.start) == (";", 3600, epoch(0))
    assert n_points(found.section()) == 600


def test_parquet_is_guessed_by_its_types(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    columns = {
        "t": pa.array([at(i) for i in range(100)], pa.timestamp("us", "UTC")),
        "realm": ["kr", "eu"] * 50,
        "load": [float(i) for i in range(100)],
    }
    pq.write_table(pa.table(columns), path)
    section = guess(path).section()
    assert (section["timestamp"], section["value"], section["labels"], section["step"]) == (
        "t",
        "load",
        ["realm"],
        "10min",
    )
    assert n_points(section) == 100


def test_rows_that_nothing_tells_apart_are_noted(write: Writer) -> None:
    rows = [[epoch(i // 2), i * 1.5] for i in range(100)]
    path = write("a.csv", ["timestamp", "value"], rows)
    assert said(path, "note") == "note: 50% of the rows have time and labels of another; the last wins"


def test_columns_that_are_neither_text_nor_number_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(
        pa.table({"ts": [epoch(i) for i in range(50)], "value": range(50), "tags": [["a"]] * 50}), path
    )
    assert guess(path).layout.values == ("value",)


@pytest.mark.parametrize("zone", ["Nowhere/Land", "../../etc/localtime"])
def test_a_zone_that_is_none_is_refused(tmp_path: Path, write: Writer, zone: str) -> None:
    path = write("a.csv", ["ts", "value"], [[epoch(i), i] for i in range(50)])
    with pytest.raises(GuessError, match=f"expected an IANA time zone such as .*, got '{zone}'"):
        guess(path, timezone=zone)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("timestamp,value\n", "no row below the header"),
        ("1717200000,5\n1717200300,6\n", "the first line looks like data"),
        ("value\n5\n6\n", "expected at least two columns"),
        ("a,b\nx,1\ny,2\n", r"no column looks like a time; columns: a \('x'\), b \('1'\)"),
        ("timestamp;b\n1717200000;4.998,20\n1717200300;y\n", r"no column of numbers; .*, b \('4.998,20'\)"),
        ("ts,ts\n1,2\n", "columns of the same name"),
        ("\udcff\udcfe,x\n1,2\n", "expected at least two columns"),
    ],
)
def test_what_is_no_time_series_is_refused_with_what_is_missing(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(GuessError, match=message):
        guess(path)


def test_a_first_model_waits_for_three_weeks_or_for_what_there_is(write: Writer) -> None:
    long = guess(write("long.csv", ["ts", "v"], [[epoch(i, 3600), i] for i in range(24 * 56)]))
    short = guess(write("short.csv", ["ts", "v"], [[epoch(i, 300), i] for i in range(288 * 8)]))
    few = guess(write("few.csv", ["ts", "v"], [[epoch(i, 300), i] for i in range(288)]))
    assert long.fit_first_seconds == 21 * 86400
    assert short.fit_first_seconds == 6 * 86400
    assert few.fit_first_seconds == 287 * 300 * 3 // 4 // 60 * 60
    assert "fit: {every: auto, window: auto, first: 6d}" in starter_for(short)


def test_the_end_of_a_long_file_is_found_beside_a_row_number(
    write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_service.sources.sample.SAMPLE_BYTES", 4096)
    monkeypatch.setattr("anomaly_service.sources.sample.TAIL_BYTES", 1024)
    rows = [[i, f"{at(i):%Y-%m-%d %H:%M:%S}", 100 + i % 7] for i in range(1_000)]
    found = guess(write("pandas.csv", ["", "date", "logins"], rows))
    assert found.stop == epoch(999)


def test_the_end_of_a_packed_file_is_found(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_service.sources.sample.SAMPLE_BYTES", 4096)
    plain = Path(write("plain.csv", ["ts", "v"], [[epoch(i), i * i % 97] for i in range(3_000)]))
    packed = plain.with_name("packed.csv.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert guess(packed).stop == epoch(2_999)


def test_points_are_kept_for_as_long_as_the_history_goes_back(write: Writer) -> None:
    daily = guess(write("daily.csv", ["ts", "v"], [[epoch(i - 2000, 86400), i] for i in range(2000)]))
    assert daily.retention_seconds > 2000 * 86400


@pytest.mark.parametrize("days", [7, 30, 365])
def test_the_config_for_rare_points_is_one_that_loads(write: Writer, tmp_path: Path, days: int) -> None:
    path = write("rare.csv", ["ts", "v"], [[epoch(i - 40, days * 86400), i] for i in range(40)])
    config = tmp_path / "anomaly.yaml"
    config.write_text(starter_for(guess(path), folder=tmp_path))
    spec = load(config).monitor_specs()["everything"]
    # One in a week of hours: a week of such points holds a seventh of one.
    assert spec.threshold.alarms_per_week == pytest.approx(1 / 24 / days, rel=0.05)


def test_a_day_without_a_time_carries_no_zone(write: Writer) -> None:
    path = write("days.csv", ["day", "v"], [[f"{at(i, 86400):%Y-%m-%d}", i] for i in range(50)])
    assert guess(path).section()["timezone"] == "UTC"
    assert guess(path, timezone="Asia/Seoul").section()["timezone"] == "Asia/Seoul"


def test_the_config_written_for_a_guess_reads_the_file(write: Writer, tmp_path: Path) -> None:
    rows = [[at(i).isoformat(), f'"kr: {i % 2}, #1"', i] for i in range(500)]
    path = write("it's: odd.csv", ["ts", "realm name", "value: x"], rows)
    config = tmp_path / "conf" / "anomaly.yaml"
    config.parent.mkdir()
    config.write_text(starter_for(guess(path), folder=config.parent, season="daily", fit_window=None))
    loaded = load(config)
    (source,) = loaded.build_sources()
    assert sum(len(batch.points) for batch in source.read({}, now=NOW)) == 500
    assert loaded.monitors["everything"].season == "daily"


def test_a_config_says_beside_each_guess_why_it_is_so(write: Writer, tmp_path: Path) -> None:
    def rows(realm: str) -> list[list[Any]]:
        return [[f"{at(i, 3600):%d/%m/%Y %H:%M}", realm, f"{i + 1},5", f"n {i}{realm}"] for i in range(500)]

    path = write("a.csv", ["Datum", "realm", "wert", "note"], rows("eu") + rows("kr"), ";")
    text = starter_for(guess(path, timezone="Europe/Berlin"), folder=tmp_path)
    section = text.partition("sources:\n")[2].partition("\n\n")[0]
    *keys, remark = section.splitlines()[1:]
    beside = {line.split(":")[0].strip(): line.partition(" # ")[2] for line in keys}
    assert beside == {
        "kind": "",
        "path": "",
        "timestamp": "what looks like a time, such as '01/06/2024 00:00'",
        "timestamp_format": "fits all rows: the day first, 1 March as 01/03/2026",
        "value": "the column of numbers",
        "decimal": "stands before the decimals of the values",
        "labels": "few different entries: each combination is a series",
        "delimiter": "what parts the names of the columns in the header",
        "step": "the distance that a series' points keep",
        "timezone": "the times carry no zone, it is the one of --timezone",
    }
    assert remark == "    # not read: note (different in almost every row)"
    assert all(len(line) <= 110 for line in text.splitlines() if "path:" not in line)


def test_what_a_comment_quotes_cannot_leave_its_line(write: Writer, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    broken = "note\nmonitors"
    pq.write_table(pa.table({"ts": [epoch(i) for i in range(99)], "v": range(99), broken: [None] * 99}), path)
    config = tmp_path / "anomaly.yaml"
    config.write_text(starter_for(guess(path), folder=tmp_path))
    assert "not read: note\\x0amonitors (empty)" in config.read_text()
    assert list(load(config).monitors) == ["everything"]


def test_a_file_in_the_folder_of_the_config_is_named_from_there(write: Writer, tmp_path: Path) -> None:
    path = write("a.csv", ["ts", "v"], [[epoch(i), i] for i in range(50)])
    assert guess(path).section(tmp_path)["path"] == "a.csv"


def test_the_starter_without_a_guess_is_a_good_config(tmp_path: Path) -> None:
    path = tmp_path / "anomaly.yaml"
    path.write_text(starter(alarms_per_week=2.5, series={"metric": "ccu", "region": ["eu", "kr"]}))
    spec = load(path).monitor_specs()["everything"]
    assert spec.selector == {"metric": ["ccu"], "region": ["eu", "kr"]}
    assert spec.threshold.alarms_per_week == 2.5
    assert spec.policy.merge_max_gap_seconds == 3600
