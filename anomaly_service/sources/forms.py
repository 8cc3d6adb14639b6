"""Forms of a time as people's files write them, each read as a whole and by itself.

A form has a name, which `timestamp_format` and `--times` take in place of a strptime format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.times import DAY

_CLOCK = (
    r"(?:(?:[T\s:,]|,\s)\s*(?:(?P<hhmm>\d{4})|(?:HE\s?|h)?(?P<hour>\d{1,2})"
    r"(?:[:\s.h](?P<minute>\d{1,2})(?:[:\s.](?P<second>\d{1,2}))?)?h?(?:[.,](?P<fraction>\d{1,9}))?"
    r"(?:\s*(?:Uhr|hrs?))?)(?:\s*(?P<half>[AaPp]\.?[Mm]\.?))?)?"
)
_OFFSET = r"(?:\s*\(?(?P<offset>[zZ]|UTC|GMT|(?:UTC|GMT)?[+-]\d{1,2}(?::?\d{2})?)\)?(?:\[[\w/+-]+\])?)?"
_WEEKDAY = r"(?:(?!\d)\w{2,10}\.?,?\s+)?"
_NAME = r"(?P<name>(?!\d)[^\W\d_]{3,10})\.?"
_YEAR, _YY = r"(?P<year>(?:19|20)\d\d)", r"(?P<year>(?:19|20)\d\d|\d\d)"
_MONTH, _DAY = r"(?P<month>\d{1,2})", r"(?P<day>\d{1,2})"

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan january januar enero ene janvier janv gennaio gen januari janeiro",
            "feb february februar febrero février févr fevrier fevr febbraio februari fevereiro fev",
            "mar march märz mär mrz maerz marzo mars maart mrt março",
            "apr april abril abr avril avr aprile",
            "may mai mayo maggio mag mei maio",
            "jun june juni junio juin giugno giu junho",
            "jul july juli julio juillet juil luglio lug julho",
            "aug august agosto ago août aout augustus",
            "sep sept september septiembre septembre settembre set setembro",
            "oct october oktober okt octubre octobre ottobre ott outubro out",
            "nov november noviembre novembre novembro",
            "dec december dezember dez diciembre dic décembre déc decembre dicembre dezembro",
        ),
        start=1,
    )
    for name in names.split()
}
"""Names of months and their short forms: English, German, Spanish, French, Italian, Dutch, Portuguese."""

EXCEL_EPOCH = 25_569
"""Excel's serial day of 1970-01-01, in the count that every Excel since 2011 uses."""


@dataclass(frozen=True)
class Form:
    """One way to write a time.

    Attributes:
        name: what the config calls it.
        patterns: of a whole text, with groups named after parts of a time; tried in this order.
        says: the form in words, with an example.
    """

    name: str
    patterns: tuple[str, ...]
    says: str


@dataclass(frozen=True)
class Read:
    """Texts as moments: ``micros`` since 1970 (local where ``naive``), and which were readable."""

    micros: NDArray[np.int64]
    naive: NDArray[np.bool_]
    ok: NDArray[np.bool_]


def _dated(*dates: str) -> tuple[str, ...]:
    return tuple(f"{_WEEKDAY}{date}{_CLOCK}{_OFFSET}" for date in dates)


FORMS = {
    form.name: form
    for form in (
        Form("year-first", (*_dated(rf"{_YEAR}[-/. ]{_MONTH}[-/. ]{_DAY}\.?"), rf"{_YEAR}[-/. ]{_MONTH}"),
             "the year first, such as 2026-03-01 12:00 UTC"),
        Form("day-first", _dated(rf"{_DAY}[-/. ]{_MONTH}[-/. ]{_YY}"),
             "the day first, 1 March as 01/03/2026"),
        Form("month-first", _dated(rf"{_MONTH}[-/. ]{_DAY}[-/. ]{_YY}"),
             "the month first, 1 March as 03/01/2026"),
        Form("short-year-first", _dated(rf"(?P<year>\d\d)[-/.]{_MONTH}[-/.]{_DAY}"),
             "a year of two digits first, 1 March as 26-03-01"),
        Form("month-name",
             (*_dated(rf"{_NAME}[-/ ]+{_DAY}(?:st|nd|rd|th)?,?[-/ ]\s*{_YY}",
                      rf"{_DAY}(?:st|nd|rd|th)?\.?(?:\s+de)?[-/ ]*{_NAME},?(?:\s+de)?[-/ ]*{_YY}",
                      rf"{_YEAR}[-/ ]{_NAME}[-/ ]{_DAY}"),
              rf"{_WEEKDAY}{_NAME}\s+{_DAY}\s+(?P<hour>\d{{1,2}}):(?P<minute>\d\d):(?P<second>\d\d)"
              rf"(?:\s+(?P<offset>UTC|GMT|Z))?\s+{_YEAR}",
              rf"{_NAME}[-/ ]+{_YEAR}", rf"{_YEAR}[-/ ]+{_NAME}"),
             "a month by name, such as Mar 1, 2026"),
        Form("yyyymmdd", (rf"{_YEAR}(?P<month>\d\d)(?P<day>\d\d){_CLOCK}{_OFFSET}",),
             "digits such as 20260301"),
        Form("yyyymmddhh", (rf"{_YEAR}(?P<month>\d\d)(?P<day>\d\d)[-_]?(?P<hour>\d\d)",),
             "digits such as 2026030112"),
        Form("yyyymmddhhmm", (rf"{_YEAR}(?P<month>\d\d)(?P<day>\d\d)[-_]?(?P<hour>\d\d)(?P<minute>\d\d)",),
             "digits such as 202603011230"),
        Form("yyyymmddhhmmss",
             (rf"{_YEAR}(?P<month>\d\d)(?P<day>\d\d)[-_]?(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)"
              r"(?:[.,](?P<fraction>\d{1,9}))?",), "digits such as 20260301123000"),
        Form("yyyymm", (r"(?P<year>(?:19|20)\d\d)(?P<month>\d\d)",), "a month such as 202603"),
        Form("iso-week", (r"(?P<year>\d{4})[-/ ]?[WwKk]+(?P<week>\d{1,2})(?:-?(?P<weekday>[1-7]))?",
                          r"[WwKk]+\s?(?P<week>\d{1,2})[-/ ](?P<year>\d{4})"),
             "a week such as 2026-W09, from its Monday on"),
        Form("excel-days", (r"(?P<serial>\d{4,5}(?:[.,]\d+)?)",),
             "Excel's count of days, 2026-03-01 as 46082"),
        Form("epoch", (r"(?P<epoch>[-+]?\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?)",),
             "seconds, milli-, micro- or nanoseconds since 1970"),
    )
}  # fmt: skip
"""Every form by its name."""

NAMED_ZONE = re.compile(r".*\d\s*(?:[AaPp][Mm]\s+)?\(?((?!UTC|GMT|AM|PM)[A-Z]{2,5}|[A-Z]\w+/\w+)\)?")
"""A time that ends in the name of a zone, such as EST, which is none of UTC."""

EPOCH_LIMITS = np.array([1e11, 1e14, 1e17])
"""Numbers below the first count seconds, then milli-, micro- and nanoseconds."""


def read(texts: Any, form: str) -> Read:
    """Return the moments of a pandas Series of texts; all in one pass of the form's patterns."""
    micros, naive, ok = np.zeros(len(texts), np.int64), np.ones(len(texts), bool), np.zeros(len(texts), bool)
    for pattern in FORMS[form].patterns:
        rest = np.flatnonzero(~ok)
        if not len(rest):
            break
        parts = texts.iloc[rest].str.extract(f"^(?:{pattern})$")
        found = _moments(parts)
        micros[rest], naive[rest], ok[rest] = found.micros, found.naive, found.ok
    return Read(micros, naive, ok)


def _moments(parts: Any) -> Read:
    if "serial" in parts:
        return _serial_days(parts["serial"])
    if "epoch" in parts:
        return _epoch(parts["epoch"])
    days, ok = _days_of_week(parts) if "week" in parts else _days(parts)
    clock, fits = _clock(parts)
    offset = _offset(parts)
    naive = np.isnan(offset)
    seconds = days * DAY + np.where(fits, clock, 0) - np.where(naive, 0, offset).astype(np.int64)
    return Read(seconds.astype(np.int64) * 1_000_000 + _fraction(parts), naive, ok & fits)


def _numbers(parts: Any, name: str, default: float) -> NDArray[np.float64]:
    """Return a part as numbers; the default where it is not written, and NaN only where nothing is."""
    import pandas as pd

    if name not in parts:
        return np.full(len(parts), default)
    return pd.to_numeric(parts[name], errors="coerce").fillna(default).to_numpy(float)


def _days(parts: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return days since 1970, and where there is such a day."""
    year, month, day = _year(parts), _month(parts), _numbers(parts, "day", 1)
    ok = np.isfinite(year) & (month >= 1) & (month <= 12) & (day >= 1)
    year, month = np.where(ok, year, 1970).astype(np.int64), np.where(ok, month, 1).astype(np.int64)
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    length = ((first + 1).astype("datetime64[D]") - first.astype("datetime64[D]")).astype(np.int64)
    days = first.astype("datetime64[D]").astype(np.int64) + np.where(ok, day, 1).astype(np.int64) - 1
    return days, ok & (day <= length)


def _year(parts: Any) -> NDArray[np.float64]:
    """Return years in full: of two digits, 70 to 99 are those of the last century."""
    year = _numbers(parts, "year", np.nan)
    return np.where(year < 70, year + 2000, np.where(year < 100, year + 1900, year))


def _month(parts: Any) -> NDArray[np.float64]:
    if "name" not in parts:
        return _numbers(parts, "month", 1)
    month: NDArray[np.float64] = parts["name"].str.lower().map(MONTHS).fillna(0).to_numpy(float)
    return month


def _days_of_week(parts: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the day since 1970 of ISO weeks, their Monday where no day is named."""
    import pandas as pd

    year, week, day = (_numbers(parts, *each) for each in (("year", 0), ("week", 0), ("weekday", 1)))
    texts = [f"{int(y):04}-{int(w):02}-{int(d)}" for y, w, d in zip(year, week, day, strict=True)]
    at = pd.to_datetime(pd.Series(texts), format="%G-%V-%u", errors="coerce")
    ok = at.notna().to_numpy(bool)
    return np.where(ok, at.to_numpy().astype("datetime64[D]").astype(np.int64), 0), ok


def _clock(parts: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return seconds of the day, and where there is such a time; 24:00 is the end of the day."""
    packed = _numbers(parts, "hhmm", np.nan)
    is_packed = np.isfinite(packed)
    hour = np.where(is_packed, packed // 100, _numbers(parts, "hour", 0))
    minute = np.where(is_packed, packed % 100, _numbers(parts, "minute", 0))
    second = _numbers(parts, "second", 0)
    hour, fits = _of_half_days(parts, hour)
    seconds = hour * 3600 + minute * 60 + second
    fits &= (minute < 60) & (second < 60) & (seconds <= DAY)
    return np.where(fits, seconds, 0).astype(np.int64), fits


def _of_half_days(parts: Any, hour: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return hours of the whole day: 12 AM is midnight, 12 PM noon."""
    if "half" not in parts:
        return hour, np.ones(len(hour), bool)
    half = parts["half"].fillna("").str[:1].str.lower().to_numpy(object)
    is_half = half != ""
    fits = ~is_half | ((hour >= 1) & (hour <= 12))
    return np.where(is_half, hour % 12 + 12 * (half == "p"), hour), fits


def _fraction(parts: Any) -> NDArray[np.int64]:
    """Return microseconds."""
    if "fraction" not in parts:
        return np.zeros(len(parts), np.int64)
    return parts["fraction"].fillna("0").str[:6].str.ljust(6, "0").astype("int64").to_numpy()


def _offset(parts: Any) -> NDArray[np.float64]:
    """Return seconds east of UTC, NaN where none is written."""
    if "offset" not in parts:
        return np.full(len(parts), np.nan)
    offset: NDArray[np.float64] = parts["offset"].map(_offset_seconds, na_action="ignore").to_numpy(float)
    return offset


def _offset_seconds(text: str) -> float:
    match = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?", text)
    if match is None:
        return 0.0
    sign, hours, minutes = match.groups()
    return float(f"{sign}1") * (int(hours) * 3600 + int(minutes or 0) * 60)


def _serial_days(serial: Any) -> Read:
    """Return the moments of Excel's days; to the second, which a double of days tells for good."""
    days = serial.str.replace(",", ".").astype(float).to_numpy()
    ok = np.isfinite(days)
    seconds = np.rint((np.where(ok, days, 0) - EXCEL_EPOCH) * DAY).astype(np.int64)
    return Read(seconds * 1_000_000, np.ones(len(days), bool), ok)


def _epoch(numbers: Any) -> Read:
    count = numbers.str.replace(",", ".").astype(float).to_numpy()
    ok = np.isfinite(count) & (np.abs(count) < 9e18)
    count = np.where(ok, count, 0.0)
    divisor = 1000.0 ** np.searchsorted(EPOCH_LIMITS, np.abs(count), side="right")
    return Read(np.floor(count / divisor * 1e6).astype(np.int64), np.zeros(len(count), bool), ok)
