"""Lengths of time that many rooms count in, seconds, and the one way a moment is written."""

from __future__ import annotations

from datetime import UTC, datetime

HOUR = 3_600
DAY = 24 * HOUR
WEEK = 7 * DAY


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
