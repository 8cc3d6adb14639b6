"""The daemon's log says of every event that appears, changes or ends what a colleague would."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from anomaly_service.daemon.told_events import Change, EventLog, change_of, said_of
from anomaly_service.db.events import Changed
from anomaly_service.db.migrate import migrate
from anomaly_service.db.store import SqlStore
from pipelines.names import Kind, RunKind, Status
from pipelines.records import Claim, Event, Interval, TargetRow
from tests.service.commands import anomaly
from tests.service.test_tried import BEGUN, DIP, LONGER, STEP, lines

TARGET = TargetRow(1, 1, "logins", (1,), 300, "Europe/Berlin", 0)
FALL = Interval(
    Kind.ANOMALY, 1760465400, 1760465700, 2, 1760465700, 2.0, 1.5, "below_expected", 38.0, 100.0, open=True
)
OPEN = Event(7, 1, FALL, Status.OPEN, 0)
CLOSED = replace(OPEN, interval=replace(FALL, end=1760469300, n_points=14, open=False), status=Status.CLOSED)
GONE = replace(CLOSED, status=Status.OUTDATED)


def test_the_sentence_says_which_series_what_since_when_and_how_far() -> None:
    assert said_of(OPEN, TARGET) == (
        "logins fell to 38, 62 % below the 100 expected on a Tuesday evening, "
        "for 10 min from 14 Oct 2025 20:10 (Europe/Berlin), and it goes on"
    )


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (None, OPEN, Change.APPEARED),
        (None, CLOSED, Change.APPEARED),
        (GONE, CLOSED, Change.APPEARED),
        (OPEN, CLOSED, Change.ENDED),
        (CLOSED, replace(CLOSED, interval=replace(CLOSED.interval, y_at_peak=20.0)), Change.CHANGED),
        (CLOSED, replace(CLOSED, interval=replace(CLOSED.interval, mean_score=1.6)), None),
        (OPEN, replace(OPEN, interval=replace(FALL, end=1760466000, n_points=3)), None),
        (CLOSED, GONE, Change.WITHDRAWN),
        (CLOSED, replace(CLOSED, status=Status.BELOW_LINE), Change.WITHDRAWN),
        (CLOSED, replace(CLOSED, status=Status.MERGED, merged_into=1), Change.MERGED),
        (GONE, replace(GONE, status=Status.BELOW_LINE), None),
    ],
)
def test_what_a_line_is_written_for(before: Event | None, after: Event, change: Change | None) -> None:
    assert change_of(Changed(before, after, ""), TARGET) == change


class Counting(SqlStore):
    """A store that counts how often its targets are read."""

    reads = 0

    def targets(self, monitor_id: int) -> list[TargetRow]:
        self.reads += 1
        return [replace(TARGET, monitor_id=monitor_id)]


CLAIM = Claim(9, RunKind.TICK, 1, datetime(2025, 10, 14, tzinfo=UTC), "me", fence=1, attempts=1)


def test_names_are_read_once_and_an_event_of_no_target_is_left_out(tmp_path: Path) -> None:
    migrate(url := f"sqlite:///{tmp_path / 'a.db'}")
    with Counting(url) as store, capture_logs() as said:
        log = EventLog(store)
        log.tell(CLAIM, [Changed(None, OPEN, "")])
        log.tell(CLAIM, [Changed(OPEN, CLOSED, "")])
        assert store.reads == 1
        log.tell(CLAIM, [Changed(None, replace(OPEN, target_id=5), "")])
        log.tell(None, [Changed(None, OPEN, "")])
    assert [line["change"] for line in said] == ["appeared", "ended"]


def test_what_cannot_be_told_fails_no_run(tmp_path: Path) -> None:
    migrate(url := f"sqlite:///{tmp_path / 'a.db'}")
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("ALTER TABLE target RENAME TO lost")
    with SqlStore(url) as store, capture_logs() as said:
        EventLog(store).tell(CLAIM, [Changed(None, OPEN, "")])
    (line,) = said
    assert (line["log_level"], line["events"]) == ("warning", 1)


@pytest.fixture
def kept_logging() -> Iterator[None]:
    """Put the log back as it was: the daemon's command takes all of it."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    yield
    root.handlers = before
    root.setLevel(level)
    structlog.reset_defaults()


def events_in(log: str) -> list[tuple[str, str]]:
    """Return what was told of events: the change and the sentence."""
    told = [json.loads(line) for line in io.StringIO(log) if line.startswith("{")]
    return [(line["change"], line["event"]) for line in told if "change" in line]


def test_a_dip_and_a_silent_source_are_told_once_when_they_begin_and_once_when_they_are_over(
    tmp_path: Path, kept_logging: None
) -> None:
    file, config = tmp_path / "logins.csv", tmp_path / "anomaly.yaml"
    rows = ["time,value", *lines(LONGER)]

    def seen(n_steps: int, late: timedelta = timedelta(minutes=1)) -> list[tuple[str, str]]:
        """Return what a daemon says that comes by so late after so many steps."""
        until = BEGUN + n_steps * STEP
        early = [row for row in rows[1:] if datetime.fromisoformat(row.partition(",")[0]) < until]
        file.write_text("\n".join([rows[0], *early]) + "\n")
        at = (until + late).isoformat()
        if not config.exists():
            made = anomaly("init", file, "--config", config, "--detector", "robust_z", "--now", at)
            assert made.code == 0, made.err
        done = anomaly("daemon", "--once", "--config", config, "--now", at)
        assert done.code == 0, done.err
        return events_in(done.err)

    seen(DIP.start - 4)
    within, again, over = seen(DIP.start + 6), seen(DIP.start + 6), seen(DIP.stop + 12)
    assert [change for change, _ in within] == ["appeared"]
    assert within[0][1].startswith("New: logins fell to ")
    assert within[0][1].endswith("and it goes on.")
    assert again == []
    assert [change for change, _ in over] == ["ended"]
    assert over[0][1].startswith("Over: logins fell to ")

    silent, still = seen(DIP.stop + 12, timedelta(hours=5)), seen(DIP.stop + 12, timedelta(hours=6))
    since = "2026-03-12 15:30 (UTC)"
    assert ("appeared", f"New: source telemetry stopped: no data of any series since {since}.") in silent
    assert still == []
    back = ("ended", f"Over: source telemetry delivers again, after no data since {since}.")
    assert back in seen(DIP.stop + 40)
