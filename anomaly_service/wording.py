"""What a flagged interval is, in words: a few for a list, and the sentence that a colleague would say.

Rows are those of the view ``flagged_intervals``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from pipelines.names import Kind, Status
from pipelines.times import DAY, HOUR

Row = Mapping[str, Any]

MANY_TIMES = 10
"""From so many times what was expected on, a percentage says less than the factor."""
MOST_TIMES = 1000
"""Beyond it, what was expected is next to nothing, and a factor of it says nothing."""
PARTS_OF_A_DAY = ((5, "night"), (12, "morning"), (18, "afternoon"), (23, "evening"), (24, "night"))
"""Up to which hour, in local time."""
ODD_COURSE = "odd course"
"""Where every value is as expected and their course is not."""
ZONES_OF_UTC = ("", "UTC", "Etc/UTC")


def duration(seconds: float | None) -> str:
    """Return a duration in words.

    >>> duration(5400), duration(40), duration(3 * 86400 + 7200)
    ('1 h 30 min', '40 s', '3 d 2 h')
    """
    if seconds is None:
        return ""
    left = round(seconds)
    parts = []
    for unit, size in (("d", DAY), ("h", HOUR), ("min", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2]) or "0 s"


def figure(value: float) -> str:
    """Return a number with as many digits as a person reads.

    >>> figure(0.012345), figure(246.2), figure(1234567.8)
    ('0.01235', '246.2', '1,234,568')
    """
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def local(ts: int, timezone: str | None) -> datetime:
    """Return epoch seconds as a time of a zone; UTC where it names none.

    >>> local(0, "Asia/Seoul").isoformat()
    '1970-01-01T09:00:00+09:00'
    """
    return datetime.fromtimestamp(ts, _zone(timezone or "UTC"))


@cache
def _zone(name: str) -> Any:
    return UTC if name in ZONES_OF_UTC else ZoneInfo(name)


def what(row: Row) -> str:
    """Return in a few words what is odd.

    >>> what({"kind": "anomaly", "y_at_peak": 38.0, "yhat_at_peak": 100.0, "direction": "below_expected"})
    '-62 % below expected'
    >>> what({"kind": "anomaly", "y_at_peak": 246.2, "yhat_at_peak": 246.21, "direction": "below_expected"})
    'odd course'
    """
    match row["kind"]:
        case Kind.DATA_MISSING:
            return "no data"
        case Kind.STALE:
            return "stopped"
        case Kind.UNSCORED:
            return "without a score"
        case Kind.FLATLINE:
            return "stands still" if row["y_at_peak"] is None else f"stands at {figure(row['y_at_peak'])}"
        case _:
            return _deviation(row)


def _deviation(row: Row) -> str:
    y, yhat = row["y_at_peak"], row["yhat_at_peak"]
    if y is None or yhat is None:
        return _side(row).strip() or ODD_COURSE
    if is_as_expected(y, yhat):
        return ODD_COURSE
    side = "above" if y > yhat else "below"
    times = y / yhat if yhat else 0.0
    if MANY_TIMES <= times < MOST_TIMES:
        return f"{times:,.0f} times expected"
    percent = round(100 * (y - yhat) / abs(yhat)) if yhat else 0
    if percent and -100 <= percent < 100 * MANY_TIMES:
        return f"{percent:+,} % {side} expected"
    return f"{figure(y)}, not {figure(yhat)}"


def is_as_expected(y: float, yhat: float) -> bool:
    """Return True where two values are printed alike: none of them says what is odd.

    >>> is_as_expected(246.2, 246.21), is_as_expected(246.2, 251.0)
    (True, False)
    """
    return figure(y) == figure(yhat) or round(100 * abs(y - yhat) / max(abs(y), abs(yhat))) == 0


def _side(row: Row) -> str:
    sides = {"above_expected": " above expected", "below_expected": " below expected"}
    return sides.get(row["direction"] or "", "")


def sentence(row: Row) -> str:
    """Return what a colleague would say of an interval, without a full stop.

    >>> sentence({
    ...     "kind": "anomaly", "series": "logins", "y_at_peak": 38.0, "yhat_at_peak": 100.0,
    ...     "direction": "below_expected", "start_ts": 1760465400, "end_ts": 1760469300,
    ...     "duration_seconds": 4200, "peak_at": "2025-10-14T18:15:00Z", "status": "closed",
    ...     "timezone": "Europe/Berlin", "channel_shares": None, "channel": None,
    ... })
    'logins fell to 38, 62 % below the 100 expected on a Tuesday evening, for 1 h 10 min from 14 Oct 2025 20:10 (Europe/Berlin)'
    """  # noqa: E501  # a doctest's line is as long as what it prints
    return f"{_happened(row)}{_when(row)}"


def _happened(row: Row) -> str:
    name = _subject(row)
    match row["kind"]:
        case Kind.DATA_MISSING:
            return f"{name} brought no data"
        case Kind.STALE:
            return f"{name} stopped: it brought no data"
        case Kind.UNSCORED:
            return f"{name} came at other times than its step says and could not be scored"
        case Kind.FLATLINE:
            at = "" if row["y_at_peak"] is None else f" at {figure(row['y_at_peak'])}"
            return f"{name} stood still{at}"
        case _:
            return f"{name} {_moved(row)}"


def _subject(row: Row) -> str:
    """Return what moved: of several series that belong together, the one that did so most."""
    channel = row["channel"] if len(row["channel_shares"] or ()) > 1 else None
    return f"{channel} of {row['series']}" if channel else str(row["series"])


def _moved(row: Row) -> str:
    y, yhat = row["y_at_peak"], row["yhat_at_peak"]
    if y is None or yhat is None:
        return f"was{_side(row)}" if _side(row) else "took an odd course"
    if is_as_expected(y, yhat):
        usual = f"single values are as expected ({figure(y)})"
        return f"took an odd course: {usual}, how they follow each other is not"
    verb, side = ("rose", "above") if y > yhat else ("fell", "below")
    usual = f"the {figure(yhat)} expected{_habit(row)}"
    return f"{verb} to {figure(y)}, {_by_how_much(y, yhat)}{side} {usual}"


def _by_how_much(y: float, yhat: float) -> str:
    percent = round(100 * abs(y - yhat) / abs(yhat)) if yhat else 0
    return f"{percent:,} % " if 0 < percent < 100 * MANY_TIMES else ""


def _habit(row: Row) -> str:
    """Return of what part of a week it was expected, as far as the step tells them apart."""
    at = datetime.fromisoformat(row["peak_at"]).astimezone(_zone(row["timezone"] or "UTC"))
    step = row["duration_seconds"] - (row["end_ts"] - row["start_ts"])
    if step > DAY:
        return ""
    part = "" if step > 6 * HOUR else f" {next(name for until, name in PARTS_OF_A_DAY if at.hour < until)}"
    return f" on a {at:%A}{part}"


def _when(row: Row) -> str:
    start = local(row["start_ts"], row["timezone"])
    zone = "UTC" if (row["timezone"] or "") in ZONES_OF_UTC else row["timezone"]
    goes_on = ", and it goes on" if row["status"] == Status.OPEN else ""
    return f", for {duration(row['duration_seconds'])} from {start.day} {start:%b %Y %H:%M} ({zone}){goes_on}"
