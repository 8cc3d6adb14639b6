"""Lengths of time that many rooms count in, seconds, and the one way a moment is written."""

from __future__ import annotations

from datetime import UTC, datetime

HOUR = 3_600
DAY = 24 * HOUR
WEEK = 7 * DAY

STALE_STEPS = 3
"""A series without a point for so many steps and its delay has stopped."""


def stale_seconds(step_seconds: int, delay_seconds: int) -> int:
    """Return how old the newest point of a series may be before it has stopped.

    >>> stale_seconds(300, 60)
    960
    """
    return STALE_STEPS * step_seconds + delay_seconds


def live_seconds(step_seconds: int, delay_seconds: int) -> int:
    """Return how old the newest point of a source may be that was never seen to deliver, and does.

    A day, and longer where its points are far apart. What is older at first contact is an archive.
    """
    return max(DAY, stale_seconds(step_seconds, delay_seconds) + step_seconds)


def iso(at: datetime) -> str:
    """Return ``2026-01-31T12:00:00Z``: how every list and SQLite's views write a moment."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_seconds(ts: int) -> str:
    """Return epoch seconds as ``iso`` writes a moment.

    >>> iso_seconds(0)
    '1970-01-01T00:00:00Z'
    """
    return iso(datetime.fromtimestamp(ts, UTC))


def minute(ts: int) -> str:
    """Return epoch seconds as a minute in UTC, for sentences.

    >>> minute(0)
    '1970-01-01 00:00'
    """
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M")
