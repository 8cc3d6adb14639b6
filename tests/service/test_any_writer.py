"""Whatever wrote a file: what is read is what was written, or it is refused with the option that decides."""

from __future__ import annotations

import csv
import io
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomaly_service.errors import GuessError
from anomaly_service.sources.csv import CsvSource
from anomaly_service.sources.guess import guess

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAY_SECONDS = 86_400

Clock = Callable[[datetime], str]

FORMS: dict[str, tuple[str, Clock]] = {
    "iso": ("year-first", lambda at: f"{at:%Y-%m-%dT%H:%M:%S}"),
    "iso, a space": ("year-first", lambda at: f"{at:%Y-%m-%d %H:%M}"),
    "iso, an offset": ("year-first", lambda at: at.isoformat()),
    "slashes": ("year-first", lambda at: f"{at:%Y/%m/%d %H:%M}"),
    "dd/mm": ("day-first", lambda at: f"{at:%d/%m/%Y %H:%M}"),
    "d.m.": ("day-first", lambda at: f"{at.day}.{at.month}.{at:%Y %H:%M}"),
    "dd.mm.yy": ("day-first", lambda at: f"{at:%d.%m.%y %H:%M}"),
    "mm/dd": ("month-first", lambda at: f"{at:%m/%d/%Y %H:%M}"),
    "m/d, 12 hours": ("month-first", lambda at: f"{at.month}/{at.day}/{at:%Y %I:%M %p}"),
    "by name": ("month-name", lambda at: f"{at:%b %d, %Y %H:%M}"),
    "digits": ("yyyymmddhhmm", lambda at: f"{at:%Y%m%d%H%M}"),
    "seconds": ("epoch", lambda at: f"{int(at.timestamp())}"),
    "milliseconds": ("epoch", lambda at: f"{int(at.timestamp())}000"),
}
"""How people write times, with the name that ``--times`` takes for it."""

DAYS: dict[str, tuple[str, Clock]] = {
    "iso": ("year-first", lambda at: f"{at:%Y-%m-%d}"),
    "dd/mm": ("day-first", lambda at: f"{at:%d/%m/%Y}"),
    "d.m.yy": ("day-first", lambda at: f"{at.day}.{at.month}.{at:%y}"),
    "mm/dd": ("month-first", lambda at: f"{at:%m/%d/%Y}"),
    "m-d": ("month-first", lambda at: f"{at.month}-{at.day}-{at:%Y}"),
    "by name": ("month-name", lambda at: f"{at:%d %B %Y}"),
    "digits": ("yyyymmdd", lambda at: f"{at:%Y%m%d}"),
}
HEADERS = {
    "en": ("timestamp", "value", "host"),
    "de": ("Datum", "Wert", "Filiale"),
    "fr": ("Date", "Valeur", "Magasin"),
    "es": ("fecha", "valor", "tienda"),
}
MARKS = [(".", ""), (",", ""), (".", ","), (",", "."), (",", " "), (".", "'")]
"""Before the decimals, and between thousands."""

Series = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Writer:
    """How somebody's program writes: by example, with the options that say so."""

    form: str
    delimiter: str
    decimal: str
    thousands: str
    places: int
    order: str
    language: str
    is_wide: bool
    zone: str

    def text(self, moments: list[datetime], series: Series) -> str:
        at, value, host = HEADERS[self.language]
        _, clock = self.forms(moments)[self.form]
        columns = list(series.values())
        if self.is_wide:
            header = [at, *series]
            rows = [[clock(m), *(self.number(c[i][1]) for c in columns)] for i, m in enumerate(moments)]
        else:
            header = [at, host, value]
            rows = [
                [clock(m), name, self.number(series[name][i][1])]
                for i, m in enumerate(moments)
                for name in series
            ]
        if self.order == "newest first":
            rows.reverse()
        elif self.order == "any":
            random.Random(7).shuffle(rows)
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()

    def forms(self, moments: list[datetime]) -> dict[str, tuple[str, Clock]]:
        return DAYS if len({m.time() for m in moments}) == 1 else FORMS

    def number(self, value: float) -> str:
        text = f"{value:,.{self.places}f}"
        return text.translate({ord(","): self.thousands, ord("."): self.decimal})

    def options(self, moments: list[datetime], asked: str) -> dict[str, Any]:
        """Return the options that a question names, with the true answers."""
        form = self.forms(moments)[self.form][0]
        answers = {"--times": ("form", form), "--decimal": ("decimal", self.decimal)}
        return dict(answer for option, answer in answers.items() if option in asked)


@st.composite
def files(draw: st.DrawFn) -> tuple[Writer, list[datetime], Series]:
    zone = draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]))
    step = draw(st.sampled_from([60, 900, 3600, DAY_SECONDS, 7 * DAY_SECONDS]))
    n = draw(st.integers(min_value=12, max_value=150))
    first = date(2015, 1, 1) + timedelta(days=draw(st.integers(0, 8 * 365)))
    moments = _moments(first, step, n, ZoneInfo(zone))
    places = draw(st.integers(0, 3))
    top = draw(st.sampled_from([1.0, 100.0, 5_000.0, 2_000_000.0]))
    rng = random.Random(draw(st.integers(0, 9999)))
    names = ["alpha", "beta", "gamma"][: draw(st.integers(1, 3))]
    series = {
        name: [(int(m.timestamp()), round(rng.uniform(0, top), places)) for m in moments] for name in names
    }
    delimiter = draw(st.sampled_from([",", ";", "\t", "|"]))
    # Where commas part the columns, a point stands before the decimals: that much is taken for granted.
    decimal, thousands = draw(st.sampled_from([m for m in MARKS if delimiter != "," or m[0] == "."]))
    forms = DAYS if step >= DAY_SECONDS else FORMS
    writer = Writer(
        form=draw(st.sampled_from(list(forms))),
        delimiter=delimiter,
        decimal=decimal,
        thousands=thousands,
        places=places,
        order=draw(st.sampled_from(["oldest first", "newest first", "any"])),
        language=draw(st.sampled_from(list(HEADERS))),
        is_wide=draw(st.booleans()),
        zone=zone,
    )
    return writer, moments, series


def _moments(first: date, step: int, n: int, zone: ZoneInfo) -> list[datetime]:
    """Return moments that a step parts; days are those of the zone, whatever the clock does between."""
    if step >= DAY_SECONDS:
        every = timedelta(seconds=step)
        return [datetime.combine(first, time(), zone) + i * every for i in range(n)]
    start = int(datetime.combine(first, time(), zone).timestamp())
    return [datetime.fromtimestamp(start + i * step, zone) for i in range(n)]


def read(path: Path, zone: str, **options: Any) -> tuple[list[set[tuple[int, float]]], int]:
    """Return the points of every series as the config that is guessed reads them, and the rows set aside."""
    section = guess(path, timezone=zone, now=NOW, **options).section()
    # What values stand for is another question than which they are.
    section = {key: value for key, value in section.items() if key not in ("as", "absent")}
    source = CsvSource("a", CsvSource.Config.model_validate(section))  # type: ignore[arg-type]  # csv's own
    found: dict[str, set[tuple[int, float]]] = {}
    rejected = 0
    for batch in source.read({}, now=NOW):
        rejected += batch.rejected
        points = batch.points
        for i, ts, value in zip(
            points.series.tolist(), points.ts.tolist(), points.value.tolist(), strict=True
        ):
            found.setdefault(batch.series[i].key, set()).add((ts, value))
    return sorted(found.values(), key=sorted), rejected


def asked(path: Path, writer: Writer, moments: list[datetime]) -> tuple[list[set[tuple[int, float]]], int]:
    """Return what is read once every question is answered; one that names no option is raised."""
    options: dict[str, Any] = {}
    while True:
        try:
            return read(path, writer.zone, **options)
        except GuessError as error:
            answers = writer.options(moments, str(error))
            if answers.keys() <= options.keys():
                raise
            options |= answers


@pytest.mark.parametrize("order", ["oldest first", "newest first", "any"])
@pytest.mark.parametrize("step", [900, 3600])
def test_an_hour_that_the_clock_runs_through_twice_is_told_apart_or_set_aside(
    tmp_path: Path, step: int, order: str
) -> None:
    moments = _moments(date(2020, 10, 24), step, 200, ZoneInfo("Europe/Berlin"))
    points = [(int(m.timestamp()), i / 2) for i, m in enumerate(moments)]
    for is_wide in (True, False):
        writer = Writer("iso, a space", ",", ".", "", 1, order, "en", is_wide, "Europe/Berlin")
        path = tmp_path / "a.csv"
        path.write_text(writer.text(moments, {"alpha": points, "beta": points}), encoding="utf-8")
        found, rejected = asked(path, writer, moments)
        assert all(each <= {*points} for each in found), "never at another time"
        assert (rejected > 0) == (order == "any")
        assert rejected or found == [{*points}, {*points}]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=files())
def test_what_is_read_is_what_was_written_or_it_is_asked_which(
    drawn: tuple[Writer, list[datetime], Series],
) -> None:
    writer, moments, series = drawn
    written = sorted(({*points} for points in series.values()), key=sorted)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text(writer.text(moments, series), encoding="utf-8")
        found, rejected = asked(path, writer, moments)
    if rejected:
        # Of an hour that the clock ran through twice no row can say which it is of.
        assert all(points <= whole for points, whole in zip(found, written, strict=True))
        assert sum(map(len, found)) + rejected >= sum(map(len, written))
    else:
        assert found == written
