"""Numbers as people write them: read as written, or asked about."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly_service.errors import GuessError
from anomaly_service.sources.csv import CsvConfig, CsvSource
from anomaly_service.sources.guess import guess
from anomaly_service.sources.numbers import Form, parse

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def written(path: Path, cells: list[str], delimiter: str = ",", header: str = "cpu") -> Path:
    """Write a row an hour, with these cells as values."""
    text = io.StringIO()
    rows = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    rows.writerow(["time", header])
    rows.writerows([f"2026-09-{1 + i // 24:02} {i % 24:02}:00:00", cell] for i, cell in enumerate(cells))
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def read(path: Path, **asked: Any) -> tuple[list[float], list[str], dict[str, Any]]:
    """Return values and reasons of rejected rows as ``ingest`` reads them, and the section written."""
    section = guess(path, **asked).section()
    config = CsvConfig.model_validate(section)
    found = list(CsvSource("s", config).read({}, now=NOW))
    values = np.concatenate([each.points.value for each in found])
    return list(values), [reject.reason for each in found for reject in each.rejects], section


@pytest.mark.parametrize(
    ("cells", "delimiter", "values", "keys"),
    [
        (["36,7", "-1.234,5", "8"], ";", [36.7, -1234.5, 8], {"decimal": ",", "thousands": "."}),
        (["1,591,250.25", "12.5", "7"], ";", [1591250.25, 12.5, 7], {"thousands": ","}),
        (["160,704", "147,870"], ",", [160704, 147870], {"thousands": ","}),
        (["36.7%", "5 %"], ",", [36.7, 5], {"unit": "%"}),
        (["36.74 °C", "\u22122 °C"], ",", [36.74, -2], {"unit": "°C"}),
        (["$160704", "($12.5)"], ",", [160704, -12.5], {"unit": "$"}),
        (["1.234,5 €", "12,25 €"], ";", [1234.5, 12.25], {"decimal": ",", "thousands": ".", "unit": "€"}),
        (["1\u202f234,5", "12,25"], ";", [1234.5, 12.25], {"decimal": ",", "thousands": " "}),
        (["1'234.5", "12.25"], ";", [1234.5, 12.25], {"thousands": "'"}),
        (["1.5e3", "0.123"], ";", [1500, 0.123], {}),
    ],
)
def test_numbers_are_read_as_they_were_meant(
    tmp_path: Path, cells: list[str], delimiter: str, values: list[float], keys: dict[str, str]
) -> None:
    found, rejected, section = read(written(tmp_path / "a.csv", cells, delimiter))
    assert found == pytest.approx(values)
    assert not rejected
    assert {k: section[k] for k in ("decimal", "thousands", "unit") if k in section} == keys


@pytest.mark.parametrize("mark", [".", ","])
def test_where_two_readings_fit_it_shows_both_and_asks(tmp_path: Path, mark: str) -> None:
    path = written(tmp_path / "a.csv", [f"1{mark}234", f"12{mark}500"], ";")
    with pytest.raises(GuessError, match=r"two ways: --decimal \. reads .*; --decimal , reads "):
        guess(path)
    assert read(path, decimal=mark)[0] == [1.234, 12.5]
    assert read(path, decimal=",."[mark == ","])[0] == [1234, 12500]


def test_rows_of_another_unit_are_set_aside_and_never_scaled(tmp_path: Path) -> None:
    values, rejected, _ = read(written(tmp_path / "a.csv", ["500 MB"] * 60 + ["1.2 GB", "n/a"]))
    assert values == [500] * 60
    assert rejected == ["value carries another unit than the source's unit, or none", "no value"]


def test_a_column_of_mixed_units_is_no_value(tmp_path: Path) -> None:
    with pytest.raises(GuessError, match="of one unit"):
        guess(written(tmp_path / "a.csv", ["500 MB", "1.2 GB"] * 9))


@pytest.mark.parametrize("texts", [["host-1"], ["1,23,4"], ["v1.2"], ["1.2.3"], ["2026-09-01"]])
def test_what_is_no_number_is_none(texts: list[str]) -> None:
    numbers, _ = parse(texts, Form(thousands=","))
    assert np.isnan(numbers).all()


@pytest.mark.parametrize("name", ["", "index", "Unnamed: 0", "#"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_column_that_counts_rows_is_left_out_and_said(tmp_path: Path, name: str, first: int) -> None:
    rows = [f"{i + first},2026-09-01 {i:02}:00,{i * i + 0.5}" for i in range(20)]
    (tmp_path / "file.csv").write_text("\n".join([f"{name},date,online players (EU)", *rows]))
    found = guess(tmp_path / "file.csv")
    assert found.layout.values == ("online players (EU)",)
    assert found.layout.metric_name == "online players (EU)"
    assert any("(a row number)" in word for word in found.words)


def test_the_value_can_be_named(tmp_path: Path) -> None:
    rows = [f"2026-09-01 {i:02}:00,{i * i},{i % 7}" for i in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["date,logins,errors", *rows]))
    assert guess(tmp_path / "a.csv", value="errors").layout.values == ("errors",)
    with pytest.raises(GuessError, match="got 'nothing'; columns of numbers: logins, errors"):
        guess(tmp_path / "a.csv", value="nothing")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=st.lists(st.integers(-(10**8), 10**8).map(lambda n: n / 100), min_size=5, max_size=20),
    marks=st.sampled_from([(".", ""), (".", ","), (",", ""), (",", "."), (",", " "), (".", "'")]),
    unit=st.sampled_from(["", " %", " °C", " €", " ms"]),
    digits=st.sampled_from([None, 2, 3]),
    delimiter=st.sampled_from(",;\t|"),
)
def test_what_is_read_is_what_was_written_or_it_asks(
    tmp_path: Path, wanted: list[float], marks: tuple[str, str], unit: str, digits: int | None, delimiter: str
) -> None:
    # Where commas part the columns, a lone point or comma is read as in English.
    decimal, thousands = marks if delimiter != "," else (".", marks[1].replace(".", ","))
    wanted = [float(round(n)) if digits is None else n for n in wanted]
    table = str.maketrans({",": thousands, ".": decimal})
    cells = [f"{n:,.{digits or 0}f}".translate(table) + unit for n in wanted]
    path = written(tmp_path / "a.csv", cells, delimiter)
    try:
        values, rejected, _ = read(path)
    except GuessError as error:
        assert "--decimal" in str(error)  # noqa: PT017
        values, rejected, _ = read(path, decimal=decimal)
    assert values == wanted
    assert not rejected
