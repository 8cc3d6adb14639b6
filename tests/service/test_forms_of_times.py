"""Times as people write them: read as they were meant, or asked about."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly_service.errors import GuessError, SourceError
from anomaly_service.sources.csv import CsvSource
from anomaly_service.sources.guess import guess
from anomaly_service.sources.reasons import Reason
from anomaly_service.sources.times import parse_texts

NOW = datetime(2026, 11, 1, tzinfo=UTC)
START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def write(header: str, rows: list[str]) -> Path:
        path = tmp_path / "a.csv"
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    return write


def points(path: Path, **options: Any) -> list[tuple[datetime, float]]:
    """Return what a source reads by the config that is guessed, in order of time."""
    section = guess(path, now=NOW, **options).section()
    source = CsvSource("a", CsvSource.Config.model_validate(section))  # type: ignore[arg-type]  # csv's own
    found = [
        (datetime.fromtimestamp(int(ts), UTC), float(value))
        for batch in source.read({}, now=NOW)
        for ts, value in zip(batch.points.ts, batch.points.value, strict=True)
    ]
    return sorted(found)


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("year-first", "2026-03-01 12:00:00,123", "2026-03-01T12:00:00+00:00"),
        ("year-first", "2026-03-01 12:00 UTC", "2026-03-01T12:00:00+00:00"),
        ("year-first", "2026/3/1 24:00", "2026-03-02T00:00:00+00:00"),
        ("year-first", "2026-03-01T12:00+0530", "2026-03-01T06:30:00+00:00"),
        ("year-first", "2022-05", "2022-05-01T00:00:00+00:00"),
        ("day-first", "1.3.26, 13:05", "2026-03-01T13:05:00+00:00"),
        ("month-first", "9/1/26 12:00 AM", "2026-09-01T00:00:00+00:00"),
        ("month-first", "9/1/26 12:10 p.m.", "2026-09-01T12:10:00+00:00"),
        ("month-name", "Oct 1, 2025", "2025-10-01T00:00:00+00:00"),
        ("month-name", "1. März 2025 14:00", "2025-03-01T14:00:00+00:00"),
        ("month-name", "01/Oct/2025:13:55:36 -0700", "2025-10-01T20:55:36+00:00"),
        ("month-name", "Wed Oct  1 12:00:00 2025", "2025-10-01T12:00:00+00:00"),
        ("yyyymmdd", "20251001", "2025-10-01T00:00:00+00:00"),
        ("yyyymmddhhmm", "202510011230", "2025-10-01T12:30:00+00:00"),
        ("iso-week", "2026-W53-2", "2026-12-29T00:00:00+00:00"),
        ("excel-days", "46082.0416666667", "2026-03-01T01:00:00+00:00"),
    ],
)
def test_a_form_reads_what_is_written_in_it(form: str, text: str, expected: str) -> None:
    read = parse_texts(np.array([text], object), form)
    assert read.reason[0] == Reason.NONE
    assert datetime.fromtimestamp(int(read.seconds[0]), UTC).isoformat() == expected


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("day-first", "31/02/2026"),
        ("day-first", "01/13/2026"),
        ("year-first", "2026-03-01 24:30"),
        ("month-first", "9/1/26 13:00 PM"),
        ("iso-week", "2025-W53"),
        ("yyyymmdd", "Total"),
        ("month-name", "Foo 1, 2025"),
    ],
)
def test_what_no_calendar_has_is_no_time(form: str, text: str) -> None:
    assert parse_texts(np.array([text], object), form).reason[0] == Reason.BAD_TIME


@pytest.mark.parametrize(
    ("form", "name"), [("%d/%m/%Y %H:%M", "day-first"), ("%m/%d/%Y %H:%M", "month-first")]
)
def test_day_and_month_are_told_apart_by_the_order_of_the_rows(write: Writer, form: str, name: str) -> None:
    rows = [f"{START + i * HOUR:{form}},{i}" for i in range(24 * 12)]
    assert guess(write("date,orders", rows), now=NOW).layout.timestamp_format == name
    assert points(write("date,orders", rows)) == [(START + i * HOUR, i) for i in range(24 * 12)]
    assert guess(write("date,orders", rows[::-1]), now=NOW).layout.timestamp_format == name


def test_what_no_row_decides_is_a_question_that_shows_both(write: Writer) -> None:
    path = write("date,orders", [f"01/{month:02}/2026,{month}" for month in range(1, 11)])
    with pytest.raises(GuessError, match="can be read in 2 ways") as raised:
        guess(path, now=NOW)
    assert "day-first    01/01/2026 is 2026-01-01 00:00, 01/02/2026 is 2026-02-01" in str(raised.value)
    assert "month-first  01/01/2026 is 2026-01-01 00:00, 01/02/2026 is 2026-01-02" in str(raised.value)
    assert points(path, form="day-first")[-1][0] == datetime(2026, 10, 1, tzinfo=UTC)
    assert points(path, form="month-first")[-1][0] == datetime(2026, 1, 10, tzinfo=UTC)


def test_a_forecast_is_not_read_as_a_past_that_is_out_of_order(write: Writer) -> None:
    later = [NOW + timedelta(days=i) for i in range(-10, 120)]
    path = write("date,v", [f"{at:%d.%m.%y %H:%M},{i}" for i, at in enumerate(later)])
    try:
        asked, found = "", points(path)
    except GuessError as error:
        asked, found = str(error), points(path, form="day-first")
    assert [at for at, _ in found] == later
    assert not asked or "--times day-first" in asked


@pytest.mark.parametrize("form", ["%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"])
def test_days_in_digits_are_no_seconds_of_1970(write: Writer, form: str) -> None:
    path = write("event_date,users", [f"{START + i * DAY:{form}},{i}" for i in range(90)])
    assert points(path) == [(START + i * DAY, i) for i in range(90)]
    assert guess(path, now=NOW).step_seconds == 86_400


def test_a_source_that_was_not_told_refuses_days_in_digits(write: Writer) -> None:
    path = write("date,users", [f"{START + i * DAY:%Y%m%d},{i}" for i in range(9)])
    section = {"kind": "csv", "path": str(path), "timestamp": "date", "value": "users", "step": "1d"}
    source = CsvSource("a", CsvSource.Config.model_validate(section))  # type: ignore[arg-type]  # csv's own
    with pytest.raises(SourceError, match="timestamp_format: yyyymmdd"):
        list(source.read({}, now=NOW))


@pytest.mark.parametrize(
    ("header", "form", "columns"),
    [
        ("date,hour,users", "%Y-%m-%d,%H", ["date", "hour"]),
        ("Datum,Uhrzeit,users", "%d.%m.%Y,%H:%M", ["Datum", "Uhrzeit"]),
        ("Time,Date,users", "%I:%M %p,%m/%d/%Y", ["Date", "Time"]),
        ("year,month,day,hour,users", "%Y,%m,%d,%H", ["year", "month", "day", "hour"]),
        ("date,hour,users", "%Y%m%d,%H", ["date", "hour"]),
    ],
)
def test_times_in_several_columns_are_joined(
    write: Writer, header: str, form: str, columns: list[str]
) -> None:
    path = write(header, [f"{START + i * HOUR:{form}},{i}" for i in range(24 * 20)])
    assert guess(path, now=NOW).section()["timestamp"] == columns
    assert points(path) == [(START + i * HOUR, i) for i in range(24 * 20)]


def test_the_hour_24_ends_its_day(write: Writer) -> None:
    rows = [f"{START + i // 24 * DAY:%Y-%m-%d},{i % 24 + 1},{i}" for i in range(24 * 10)]
    assert points(write("date,hour_ending,mw", rows)) == [(START + (i + 1) * HOUR, i) for i in range(24 * 10)]


def test_columns_named_by_hand_are_the_time(write: Writer) -> None:
    path = write("d,h,date,v", [f"{START + i * HOUR:%Y-%m-%d,%H},2026-03-01,{i}" for i in range(48)])
    assert points(path, time="d,h")[-1][0] == START + 47 * HOUR
    with pytest.raises(GuessError, match="no column x for the time; found d, h, date, v"):
        guess(path, time="d,x")
    with pytest.raises(GuessError, match=r"expected a form of times, one of year-first.*got 'dayfirst'"):
        guess(path, form="dayfirst")


def test_names_of_zones_are_refused_with_what_to_write_instead(write: Writer) -> None:
    path = write("ts,v", [f"{START + i * HOUR:%Y-%m-%d %H:%M:%S} EST,{i}" for i in range(48)])
    with pytest.raises(GuessError, match=r"end in EST.*2026-03-01 00:00:00-05:00.*--timezone America"):
        guess(path, now=NOW)


def test_samples_within_a_second_are_refused_before_anything_is_lost(write: Writer) -> None:
    path = write("time,rms", [f"{1_772_323_200 + i / 50:.6f},{i}" for i in range(500)])
    with pytest.raises(GuessError, match=r"several samples a second.*whole seconds.*--mean 1s"):
        guess(path, now=NOW)


def test_numbers_that_are_no_history_are_a_question(write: Writer) -> None:
    path = write("time,v", [f"{i * 60},{i % 7}" for i in range(300)])
    with pytest.raises(GuessError, match=r"no history in any reading .*1970-01-01.*name it with --time"):
        guess(path, now=NOW)
    assert len(points(path, form="epoch")) == 300


def test_a_named_form_that_reads_no_row_is_refused(write: Writer) -> None:
    path = write("time,v", [f"{START + i * HOUR:%Y-%m-%d %H:%M},{i}" for i in range(30)])
    with pytest.raises(GuessError, match=r"day-first reads 0% .* and not '2026-03-01 00:00'"):
        guess(path, now=NOW, form="day-first")


def test_a_form_that_is_none_is_refused_by_the_config() -> None:
    with pytest.raises(ValueError, match="strptime format such as"):
        CsvSource.Config.model_validate(
            {"kind": "csv", "path": "a.csv", "step": "1h", "timestamp_format": "dmy"}
        )


FORMS = (
    "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M UTC",
    "%Y-%m-%d %H:%M:%S,000", "%d/%m/%Y %H:%M",
    "%m/%d/%Y %I:%M %p", "%d.%m.%y %H:%M", "%d-%m-%Y %H:%M:%S", "%b %d %Y %H:%M", "%d-%b-%y %H:%M",
    "%Y%m%d%H%M", "%Y%m%dT%H%M%S", "%s", "%y-%m-%d %H:%M",
)  # fmt: skip


@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    form=st.sampled_from(FORMS),
    start=st.datetimes(datetime(2022, 1, 1), datetime(2025, 1, 1)),
    step=st.sampled_from([5, 60, 1440, 10_080]),
    n=st.integers(12, 90),
    order=st.sampled_from(["up", "down", "shuffled"]),
)
def test_what_is_read_is_what_was_written_or_it_is_asked_about(
    write: Writer, form: str, start: datetime, step: int, n: int, order: str
) -> None:
    first = start.replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
    written = [(first + i * timedelta(minutes=step), float(i % 11)) for i in range(n)]
    rows = [f'"{at.strftime(form)}",{value}' for at, value in written]
    rows = {"up": rows, "down": rows[::-1], "shuffled": rows[::2] + rows[1::2]}[order]
    path, asked = write("date,value", rows), ""
    try:
        found = points(path)
    except GuessError as error:
        found, asked = written, str(error)
    assert found == written
    assert not asked or "name the right one, such as --times" in asked
