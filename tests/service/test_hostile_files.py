"""One bad file or row harms itself alone: it is set aside with a reason that names it, all others go in."""

from __future__ import annotations

import csv
import errno
import io
import logging
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hostile_files import GOOD, HEADER, START, Hostile, corpus

from anomaly_service.cli import tables
from anomaly_service.cli.options import fail
from anomaly_service.daemon.telemetry import configure_logging
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import SourceError
from anomaly_service.printable import printable
from anomaly_service.sources import csv as csv_source
from anomaly_service.sources import files
from anomaly_service.sources.csv import CsvConfig, CsvSource
from anomaly_service.sources.ingest import ingest
from pipelines.records import Json, PointBlock, SeriesSpec
from pipelines.store import Ingest

NOW = datetime(2024, 6, 5, 12, tzinfo=UTC)
CORPUS = list(corpus())
SECTION: dict[str, Any] = {
    "kind": "csv",
    "timestamp": "ts",
    "step": "5min",
    "metric": "metric",
    "labels": ["realm"],
    "timezone": "America/New_York",
}


@dataclass
class Watched:
    """A watched folder, its store and its rejects."""

    store: SqlStore
    folder: Path
    rejects: Path
    name: str = "drop"

    def look(self, now: datetime = NOW, **config: Any) -> dict[str, Any]:
        """Read the folder once."""
        config = SECTION | {"path": str(self.folder / "*")} | config
        source = CsvSource(self.name, CsvConfig.model_validate(config))
        (outcome,) = ingest(self.store, [source], now, rejects=self.rejects)
        return outcome

    def rejected(self) -> list[dict[str, str]]:
        """Return every row of the rejects file."""
        listed = self.rejects / f"{self.name}.rejects.csv"
        if not listed.exists():
            return []
        with listed.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def watched(store: SqlStore, tmp_path: Path) -> Watched:
    folder = tmp_path / "drop"
    folder.mkdir()
    return Watched(store, folder, tmp_path / "rejects")


def put(watched: Watched, hostile: Hostile) -> Path:
    path = watched.folder / hostile.name
    hostile.put(path)
    return path


def test_a_hostile_file_harms_itself_alone(store: SqlStore, tmp_path: Path) -> None:
    wrong = []
    for number, hostile in enumerate(CORPUS):
        folder = tmp_path / str(number) / "drop"
        folder.mkdir(parents=True)
        watched = Watched(store, folder, folder.parent / "rejects", f"drop-{number}")
        path = put(watched, hostile)
        (folder / "good.csv").write_bytes(HEADER + GOOD.replace(b"kr-1", f"us-{number}".encode()))
        outcome = watched.look()
        told = [(row["file"], row["line"], row["reason"]) for row in watched.rejected()]
        if not _is_as_it_should(hostile, path, store, number, outcome, told):
            wrong.append(f"{hostile.name}: {outcome['new']} new, {told}, {outcome['notes']}")
    assert not wrong, "\n".join(wrong)


def _is_as_it_should(
    hostile: Hostile,
    path: Path,
    store: SqlStore,
    number: int,
    outcome: dict[str, Any],
    told: list[tuple[str, str, str]],
) -> bool:
    """True where the good file went in, and the hostile one is told of as what it is."""
    taken = outcome["new"] + outcome["changed"] + outcome["unchanged"]
    named = [
        hostile.said in reason and (not hostile.line or int(line) == hostile.line)
        for file, line, reason in told
        if file == printable(str(path))
    ]
    is_told = named == [True] if hostile.said else True
    return taken == 1 + hostile.taken and is_told and "hunter2" not in f"{told}{outcome}"


def test_all_of_them_at_once_keep_nobody_from_being_read(watched: Watched) -> None:
    for hostile in CORPUS:
        put(watched, hostile)
    (watched.folder / "good.csv").write_bytes(HEADER + GOOD.replace(b"kr-1", b"us-1"))
    for _ in range(csv_source.TRIES + 1):
        outcome = watched.look()
    assert "ccu{realm=us-1}" in {row.spec.key for row in watched.store.series()}
    told = {row["file"] for row in watched.rejected()}
    missing = {h.name for h in CORPUS if h.said and printable(str(watched.folder / h.name)) not in told}
    assert not missing
    assert outcome["error"] == ""
    assert any("set aside until it changes" in note for note in outcome["notes"])


# -- what is set aside ------------------------------------------------------------------


def test_a_file_that_fails_again_and_again_is_an_error_first_and_then_set_aside_until_it_changes(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    (watched.folder / "a.csv").write_bytes(b"a,b\n1,2\n")
    outcomes = [watched.look() for _ in range(csv_source.TRIES + 1)]
    assert [bool(outcome["error"]) for outcome in outcomes] == [True] * csv_source.TRIES + [False]
    with monkeypatch.context() as closed:
        closed.setattr(files, "open_bytes", lambda path: pytest.fail("opened"))
        outcome = watched.look()
    assert outcome["error"] == ""
    assert [note for note in outcome["notes"] if "a.csv: set aside until it changes: no column ts" in note]
    assert len(watched.rejected()) == 1
    (watched.folder / "a.csv").write_bytes(HEADER + GOOD)
    outcome = watched.look()
    assert (outcome["new"], outcome["notes"]) == (1, [])


def test_other_settings_read_a_file_again_that_was_set_aside(watched: Watched) -> None:
    (watched.folder / "a.csv").write_bytes(b"at" + (HEADER + GOOD)[2:])
    for _ in range(csv_source.TRIES + 1):
        assert watched.look()["new"] == 0
    assert watched.look(timestamp="at")["new"] == 1


def test_what_the_machine_refuses_is_tried_at_every_look(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    (watched.folder / "a.csv").write_bytes(HEADER + GOOD)

    def refused(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as broken:
        broken.setattr(files, "open_bytes", refused)
        for _ in range(csv_source.TRIES + 1):
            outcome = watched.look()
    assert [note for note in outcome["notes"] if "Input/output error" in note]
    assert watched.look()["new"] == 1


def test_one_path_that_is_not_there_keeps_the_others_from_nothing(watched: Watched) -> None:
    (watched.folder / "a.csv").write_bytes(HEADER + GOOD)
    outcome = watched.look(path=[str(watched.folder / "gone.csv"), str(watched.folder / "a.csv")])
    assert outcome["new"] == 1
    assert "gone.csv: no such file" in outcome["error"]


def test_a_pattern_that_matches_nothing_is_said(watched: Watched) -> None:
    outcome = watched.look(path=str(watched.folder / "*.cvs"))
    assert (outcome["error"], outcome["notes"]) == ("", [f"{watched.folder}/*.cvs: no file matches"])


def test_what_only_looks_like_a_file_is_passed_over_with_a_word(watched: Watched) -> None:
    (watched.folder / "good.csv").write_bytes(HEADER + GOOD)
    os.mkfifo(watched.folder / "pipe.csv")
    (watched.folder / "folder.csv").mkdir()
    (watched.folder / "link.csv").symlink_to("nowhere.csv")
    outcome = watched.look()
    assert (outcome["new"], outcome["error"]) == (1, "")
    assert sorted(outcome["notes"]) == [
        f"{watched.folder / name}: no regular file, passed over"
        for name in ("folder.csv", "link.csv", "pipe.csv")
    ]


# -- the rejects file -------------------------------------------------------------------


def spoiled(folder: Path, how: str) -> None:
    if how == "a file in its place":
        folder.write_text("in the way")
        return
    folder.mkdir()
    listed = folder / "drop.rejects.csv"
    if how == "a pipe":
        os.mkfifo(listed)
    elif how == "a folder":
        listed.mkdir()
    elif how == "full":
        listed.symlink_to("/dev/full")
    else:
        listed.symlink_to(folder.parent / "elsewhere.txt")


@pytest.mark.parametrize("how", ["a file in its place", "a pipe", "a folder", "full", "a link"])
def test_rejects_that_cannot_be_listed_keep_no_row_from_going_in(watched: Watched, how: str) -> None:
    spoiled(watched.rejects, how)
    (watched.folder / "a.csv").write_bytes(HEADER + b"soon,ccu,kr-1,5\n" + GOOD)
    outcome = watched.look()
    assert (outcome["new"], outcome["rejected"], outcome["error"]) == (1, 1, "")
    (note,) = outcome["notes"]
    assert "the rejects file cannot be written" in note
    assert "a.csv, line 2: timestamp is not readable" in note
    assert not (watched.rejects.parent / "elsewhere.txt").exists()


def test_rejects_are_put_aside_under_numbers_and_the_oldest_go(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_service.sources.ingest.ROTATE_BYTES", 10)
    for number in range(9):
        (watched.folder / f"{number}.csv").write_bytes(HEADER + b"soon,ccu,kr-1,%d\n" % number)
        watched.look()
    kept = sorted(path.name for path in watched.rejects.iterdir())
    assert kept == ["drop.rejects.csv", *(f"drop.rejects.csv.{number}" for number in range(1, 6))]
    assert "soon,ccu,kr-1,7" in (watched.rejects / "drop.rejects.csv.1").read_text()


def test_nothing_in_the_rejects_file_acts_on_a_screen(watched: Watched) -> None:
    (watched.folder / "a.csv").write_bytes(HEADER + "soon,\x1b[31mccu,\u202ekr-1,\x075\n".encode())
    watched.look()
    assert [row["raw"] for row in watched.rejected()] == ["soon,\\x1b[31mccu,\\u202ekr-1,\\x075"]


def test_a_link_out_of_the_folder_shows_nothing_of_what_it_names(watched: Watched) -> None:
    behind = watched.folder.parent / "passwords.csv"
    behind.write_bytes(HEADER + b"hunter2,ccu,kr-1,5\n" + GOOD)
    (watched.folder / "link.csv").symlink_to(behind)
    (watched.folder / "inside.csv").symlink_to(watched.folder / "a.txt")
    (watched.folder / "a.txt").write_bytes(HEADER + b"letmein,ccu,kr-1,5\n")
    outcome = watched.look(path=str(watched.folder / "*.csv"))
    assert outcome["new"] == 1
    raws = {Path(row["file"]).name: row["raw"] for row in watched.rejected()}
    assert raws == {"link.csv": "", "inside.csv": "letmein,ccu,kr-1,5"}


def test_nothing_that_is_printed_acts_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "ccu\x1b[2J\u202e\x9b31m\u2028"
    tables.say(hostile)
    tables.note(hostile)
    tables.rows(
        [{"series": hostile, "labels": {"a": hostile}}], ["series", "labels"], as_json=False, empty=""
    )
    fail(SourceError(hostile))
    told = capsys.readouterr()
    assert not set("\x1b\u202e\x9b\u2028") & set(told.out + told.err)
    terminal = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers, root.level
    try:
        configure_logging(stream=terminal, as_json=False)
        structlog.get_logger("test").warning("source not read", reason=hostile)
    finally:
        root.handlers = before
        root.setLevel(level)
        structlog.reset_defaults()
    assert "\u202e" not in terminal.getvalue()
    assert "source not read" in terminal.getvalue()


def test_times_and_values_that_are_swapped_are_recognised(watched: Watched) -> None:
    (watched.folder / "a.csv").write_bytes(HEADER + GOOD)
    outcome = watched.look(timestamp="value", value="ts")
    assert outcome["new"] == 0
    assert "did you mean timestamp: ts and value: value?" in outcome["error"]


# -- memory -----------------------------------------------------------------------------


def test_a_line_without_end_is_passed_over_in_little_memory(watched: Watched) -> None:
    with (watched.folder / "a.csv").open("wb") as file:
        file.write(HEADER + GOOD)
        for _ in range(70):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + GOOD.replace(b"kr-1", b"kr-2"))
    watched.look(path=str(watched.folder / "none"))  # what is imported once is no line's fault
    tracemalloc.start()
    outcome = watched.look()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcome["new"] == 2
    assert [(row["line"], row["reason"], len(row["raw"])) for row in watched.rejected()] == [
        ("3", "the line is longer than 1 MiB", 1000)
    ]
    assert peak < 64 << 20


def test_a_line_that_is_too_long_and_still_being_written_waits_for_its_end(watched: Watched) -> None:
    path = watched.folder / "a.csv"
    path.write_bytes(HEADER + GOOD + b"x" * (3 << 20))
    assert watched.look()["new"] == 1
    assert watched.rejected() == []
    with path.open("ab") as file:
        file.write(b"x" * (1 << 20) + b"\n" + GOOD.replace(b"kr-1", b"kr-2"))
    assert watched.look()["new"] == 1
    assert [row["line"] for row in watched.rejected()] == ["3"]


# -- a file that grows ------------------------------------------------------------------


def grown(watched: Watched) -> Path:
    """Return a file of several links that was read once."""
    path = watched.folder / "a.csv"
    path.write_bytes(HEADER.replace(b"\n", b",pad\n") + b"".join(map(wide, range(1_200))))
    watched.look()
    return path


def wide(number: int) -> bytes:
    """Return a row of 2 KiB, the one of a number."""
    return f"{START + 300 * (number - 1_200)},ccu,kr-1,{number},{'x' * 2_000}\n".encode()


def bytes_read(monkeypatch: pytest.MonkeyPatch, look: Callable[[], Any]) -> int:
    """Return how much of files a look digests."""
    counted = []
    update = files.Chain.update
    with monkeypatch.context() as patched:
        patched.setattr(
            files.Chain, "update", lambda self, data: (counted.append(len(data)), update(self, data))
        )
        look()
    return sum(counted)


def test_a_file_that_grows_is_read_from_where_it_ended(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = grown(watched)
    size = path.stat().st_size
    assert size > 2 * files.LINK
    for i in range(2):
        with path.open("ab") as file:
            file.write(wide(1_200 + i))
        assert bytes_read(monkeypatch, watched.look) < files.LINK + 3_000
    assert watched.look()["unchanged"] == 0
    assert watched.store.series()[0].last_ts == START + 300
    # What it is known by is what a copy of it is known by.
    (watched.folder / "b.csv").write_bytes(path.read_bytes())
    assert watched.look()["unchanged"] == 0


def test_a_value_corrected_far_before_the_end_is_seen_within_the_hour(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = grown(watched)
    path.write_bytes(path.read_bytes().replace(b",300,x", b",301,x") + wide(1_200))
    monkeypatch.setattr(files, "wall_clock", lambda: time.time() + csv_source.RECHECK_SECONDS + 1)
    assert watched.look()["changed"] == 1


def test_what_an_earlier_release_read_is_not_read_again(watched: Watched) -> None:
    path = grown(watched)
    data = path.read_bytes()
    seed = CsvConfig.model_validate(SECTION | {"path": str(path)}).seed(path)
    (record,) = watched.store.progress("drop").values()
    kept = {name: record[name] for name in ("consumed", "head", "lines", "before", "tail")}
    older = kept | {"digest": files.digest_of(seed, data).hexdigest(), "state": None}
    nothing = PointBlock.empty()
    watched.store.ingest(Ingest("drop", (), nothing, progress={str(path): older}))
    with path.open("ab") as file:
        file.write(wide(1_200))
    outcome = watched.look()
    assert (outcome["new"], outcome["unchanged"]) == (1, 0)


# -- sources and databases that are stranger still --------------------------------------


def test_a_source_of_somebody_elses_that_breaks_is_an_error_of_its_own(store: SqlStore) -> None:
    class Broken:
        name = "broken"
        Config = CsvConfig

        def read(self, progress: dict[str, Json], *, now: datetime) -> Iterator[Ingest]:
            points = PointBlock(np.zeros(1, np.int64), np.array([START]), np.array([5.0]))
            yield Ingest("broken", [SeriesSpec("ccu", {}, 300, source="broken")], points)
            raise ZeroDivisionError("by nobody")

    (outcome,) = ingest(store, [Broken()], NOW)
    assert outcome["new"] == 1
    assert "broken: cannot be read any further: ZeroDivisionError: by nobody" in outcome["error"]


def test_a_series_that_no_database_takes_keeps_no_other_from_being_stored(store: SqlStore) -> None:
    class Strange:
        name = "strange"
        Config = CsvConfig

        def read(self, progress: dict[str, Json], *, now: datetime) -> Iterator[Ingest]:
            labels = [{}, {"a": "\0"}, {"a": "\ud83d"}, {"b": "x" * 3000}, {"c": "good"}]
            specs = [SeriesSpec("ccu", each, 300, source="strange") for each in labels]
            specs.append(SeriesSpec("steps", {}, 2**62, source="strange"))
            points = PointBlock(np.arange(6), np.full(6, START), np.full(6, 5.0))
            yield Ingest("strange", specs, points, progress={"key": {"read": True}})

    (outcome,) = ingest(store, [Strange()], NOW)
    assert outcome["new"] + outcome["rejected"] == 6
    assert outcome["error"] == ""
    assert {"ccu", "ccu{c=good}"} <= {row.spec.key for row in store.series()}
    assert store.progress("strange") == {"key": {"read": True}}
