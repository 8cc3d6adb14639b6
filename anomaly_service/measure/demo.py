"""The demo: simulated telemetry through the real pipeline, compared with what was planted."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from anomaly_service import readiness
from anomaly_service.errors import AskedError, NotADemoError
from anomaly_service.sources.ingest import ingest_from
from pipelines.measure.demo_report import DemoReport, Flagged, Incident, Watched, compare
from pipelines.names import AUTO
from pipelines.records import Json

if TYPE_CHECKING:
    from anomaly_service.config.sections import Config
    from anomaly_service.service import Progress, Service
    from pipelines.measure.simulate import Simulation

FIRST_LINE = "# Written by `anomaly demo`; the next one writes it anew."
WEEKS = 8
START = datetime(2025, 1, 5, tzinfo=UTC)
"""A Sunday: fits of every seven days fall on Sunday nights, and the last one a week before the end."""


@dataclass(frozen=True)
class Demo:
    """Where a demo's files lie: everything beside its config file.

    Attributes:
        now: the end of the simulated time.
    """

    config: Path
    now: datetime

    @property
    def folder(self) -> Path:
        return self.config.parent


def prepare(
    config: Path,
    *,
    seed: int,
    detector: str,
    weeks: int = WEEKS,
    now: datetime | None = None,
    on_progress: Progress = lambda stage, share: None,
) -> Demo:
    """Write a config file, and drop folder and incidents beside it; replace those of an earlier demo.

    Args:
        now: the simulated weeks end here; None for weeks from early 2025 on.

    Raises:
        NotADemoError: something else lies there.
        UnknownDetectorError: no such detector.
    """
    from pipelines.measure.simulate import write

    text = config_text(detector, config.stem)
    _clear(config)
    on_progress("simulate", 0.0)
    made = simulated(seed, weeks, now)
    on_progress("simulate", 0.5)
    write(made, config.parent)
    config.write_text(text, encoding="utf-8")
    on_progress("simulate", 1.0)
    return Demo(config, datetime.fromtimestamp(made.stop, UTC))


def simulated(seed: int, weeks: int, now: datetime | None) -> Simulation:
    """Return simulated weeks that end at ``now``, or begin in early 2025.

    Raises:
        AskedError: they would begin before 1971 or end after 2261, where no points are stored.
    """
    from pipelines.measure.simulate import simulate

    earliest = datetime(1971, 1, 1, tzinfo=UTC) + timedelta(weeks=weeks)
    if now is not None and not earliest <= now < datetime(2262, 1, 1, tzinfo=UTC):
        raise AskedError(
            f"--now must lie between {earliest:%Y-%m-%d} and 2261 for {weeks} weeks that end then, got "
            f"{now:%Y-%m-%d}"
        )
    start = START if now is None else now - timedelta(weeks=weeks)
    return simulate(seed, weeks=weeks, start=start)


def run(service: Service) -> DemoReport:
    """Ingest, backfill and rescore one night; return how it compares with what was planted."""
    ingest_from(service.config, service.store, service.now, service.on_progress)
    service.backfill()
    service.nightly()
    return report(service, service.config.path.parent / "incidents.csv")


def report(service: Service, incidents: Path) -> DemoReport:
    """Compare what the database has flagged with a file of incidents."""
    flagged = [_flagged(row) for row in service.store.rows("flagged_intervals")]
    return compare(read_incidents(incidents), flagged, _watched(service), budgets(service.config))


def read_incidents(path: Path) -> list[Incident]:
    """Return the incidents of a file with the columns metric, labels, start, end and kind."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_incident(row) for row in csv.DictReader(file)]


def _incident(row: dict[str, str]) -> Incident:
    series = f"{row['metric']}{{{row['labels']}}}"
    return Incident(series, row["kind"], _seconds(row["start"]), _seconds(row["end"]))


def budgets(config: Config) -> dict[str, float]:
    """Return the alarms a week that each monitor was asked for."""
    return {name: section.threshold.rule().alarms_per_week for name, section in config.monitors.items()}


def config_text(detector: str, database: str = "anomaly") -> str:
    """Return the demo's config file for one detector; ``database`` is the stem of the SQLite file."""
    # One network per series would train for minutes where one for all of them takes seconds.
    scope = "group" if _is_network(detector) else "series"
    monitors = "".join(
        MONITOR.substitute(vars(monitor), detector=detector, scope=scope, params=_params(detector, monitor))
        for monitor in MONITORS
    )
    head = HEAD.substitute(database=database)
    return f"{FIRST_LINE}\n{head}{monitors}{TAIL}"


def _params(detector: str, monitor: DemoMonitor) -> str:
    """Return the detector's settings as a config says them: steps of a window, which auto chooses itself."""
    return "{}" if detector == AUTO else f"{{window: {monitor.window}}}"


def _is_network(detector: str) -> bool:
    """True for detectors that are trained rather than solved: they cross-fit in fewer folds."""
    from detectors import registry
    from detectors.base import Detector

    return detector != AUTO and registry.get(detector).folds < Detector.folds


def _clear(config: Path) -> None:
    """Remove what an earlier demo wrote.

    Raises:
        NotADemoError: the folder's config or database is not a demo's.
    """
    folder = config.parent
    database = [config.with_suffix(f".db{end}") for end in ("", "-wal", "-shm")]
    written = [config, *database, *folder.glob("drop/*.csv"), *folder.glob("rejects/*.csv")]
    ours = config.is_file() and config.read_text(encoding="utf-8").startswith(FIRST_LINE)
    if any(path.exists() for path in written) and not ours:
        raise NotADemoError(
            f"{folder} holds a config, database or drop folder that no demo wrote, and a demo would "
            "replace them; choose another folder: anomaly demo --config FOLDER/anomaly.yaml"
        )
    for path in [*written, folder / "incidents.csv"]:
        path.unlink(missing_ok=True)


def _flagged(row: Json) -> Flagged:
    return Flagged(
        monitor=row["monitor"],
        series=row["series"],
        kind=row["kind"],
        start=_seconds(row["start_at"]),
        end=_seconds(row["end_at"]),
        first_detected=_seconds(row["first_detected_at"]),
        peak_score=row["peak_score"],
    )


def _watched(service: Service) -> list[Watched]:
    return [
        Watched(monitor["monitor"], target["target"], target["first_ts"], target["last_ts"])
        for monitor in readiness.validate(service.store, service.config)
        for target in monitor["targets"]
        if target["first_ts"] is not None
    ]


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


# -- the config file ----------------------------------------------------------------


@dataclass(frozen=True)
class DemoMonitor:
    """One monitor of the demo.

    Attributes:
        why: the comment above it.
        budget: alarms a week for all its series together.
        policy: as it stands in the file.
    """

    name: str
    why: str
    selector: str
    window: int
    budget: float
    policy: str


MONITORS: Sequence[DemoMonitor] = (
    DemoMonitor(
        "players",
        "Players online: nobody may vanish, and nobody may be counted twice.",
        "{metric: ccu}",
        24,
        2,
        "{min_duration: 10min, merge_max_gap: 15min, min_rel_dev_from_expected: 5%}",
    ),
    DemoMonitor(
        "logins",
        "Outages are short and deep, bot waves long and shallow.",
        "{metric: logins}",
        24,
        4,
        "{min_duration: 10min, merge_max_gap: 30min, min_rel_dev_from_expected: 5%}",
    ),
    DemoMonitor(
        "login-failures",
        "Fewer failed logins are nobody's trouble.",
        "{metric: login_failures}",
        24,
        1,
        "{detection_direction: above_expected, min_duration: 10min, merge_max_gap: 15min}",
    ),
    DemoMonitor(
        "matchmaking",
        "Waiting times creep up over hours.",
        "{metric: matchmaking_p95}",
        24,
        2,
        "{detection_direction: above_expected, min_duration: 15min, merge_max_gap: 30min}",
    ),
    DemoMonitor(
        "purchases",
        "Money: a drop counts, a good day does not.",
        "{metric: purchases}",
        24,
        2,
        "{detection_direction: below_expected, min_duration: 10min, merge_max_gap: 15min}",
    ),
    DemoMonitor(
        "crashes",
        "Crashes per session, above all after a patch.",
        "{metric: crash_rate}",
        24,
        2,
        "{detection_direction: above_expected, min_duration: 10min, merge_max_gap: 15min}",
    ),
    DemoMonitor(
        "currency",
        "What is created must be destroyed: a leak in either direction ruins an economy.",
        "{metric: [currency_created, currency_destroyed]}",
        24,
        3,
        "{min_duration: 15min, merge_max_gap: 30min, min_rel_dev_from_expected: 5%}",
    ),
)

HEAD = Template("""\
# Every key is described in docs/config.md; `anomaly validate` says what is wrong with this file.

# SQLite lies in one file beside this one. For a team: postgresql://user:$${PASSWORD}@host/name
database: sqlite:///$database.db

# Where points come from. Files are read once; one that grows or is replaced gives what is new.
# The time zone is the one in which players' days and weeks repeat, so each region has its own.
sources:
  europe: &files
    kind: csv
    path: "drop/eu-*.csv"
    timestamp: ts
    value: value
    metric: metric
    labels: [realm, region, platform]
    step: 5min
    delay: 2min
    timezone: Europe/Berlin
  america: {<<: *files, path: "drop/us-*.csv", timezone: America/New_York}
  korea: {<<: *files, path: "drop/kr-*.csv", timezone: Asia/Seoul}

# What is watched. alarms_per_week is the knob: how many false alarms a week the whole monitor may
# raise; the line is drawn so that it keeps to that.
monitors:
""")

MONITOR = Template("""
  # $why
  $name:
    series: $selector
    detector: $detector
    scope: $scope
    params: $params
    season: auto
    fit: {every: 7d, window: 42d, stagger: false}
    infer_every: 5min
    threshold: {alarms_per_week: $budget, per: monitor}
    policy: $policy
""")

TAIL = """
# Every night: fit what is due, and rescore the last days with hindsight and late data.
nightly: {at: "03:15", timezone: UTC, window: 3d}
"""
