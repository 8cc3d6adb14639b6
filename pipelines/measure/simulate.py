"""Game telemetry as live-ops teams know it, with labelled incidents: seeded, and like nothing's idea of easy.

Every series is `level * rhythm * noise`, disturbed by what is normal (weekly maintenance with the login
surge after it, a patch that lifts the level for good, a realm that opens half-way) and by incidents of
fixed size, of which each is listed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import InvalidError
from pipelines.records import Points, Seconds, SeriesSpec, Values
from pipelines.steps.season import MONDAY, utc_offsets
from pipelines.times import DAY, HOUR, WEEK

START = datetime(2025, 1, 6, tzinfo=UTC)
"""A Monday whose eight weeks hold no change of the clock, so that a first look needs no explanation."""
FIT_AT = 3 * HOUR + 900
INCIDENTS_PER_KIND = 4
LATE_SHARE = 0.003
DUPLICATE_SHARE = 0.002
LOST_SHARE = 0.0005
LATEST_SECONDS = 3 * HOUR
PATCH_LIFT = 1.05


# -- what there is ------------------------------------------------------------------


@dataclass(frozen=True)
class Realm:
    """One game world.

    Attributes:
        size: players online at the mean of the day.
        maintenance: local weekday (0 is Monday), seconds after midnight, seconds it lasts.
        opens: share of the simulated time after which the realm exists.
    """

    name: str
    region: str
    timezone: str
    platforms: tuple[str, str]
    size: float
    maintenance: tuple[int, int, int]
    opens: float = 0.0


REALMS = (
    Realm("eu-1", "eu", "Europe/Berlin", ("pc", "console"), 42_000, (2, 5 * HOUR, 45 * 60)),
    Realm("eu-2", "eu", "Europe/Berlin", ("pc", "console"), 26_000, (2, 5 * HOUR, 45 * 60)),
    Realm("us-1", "us", "America/New_York", ("pc", "console"), 35_000, (1, 6 * HOUR, 60 * 60)),
    Realm("kr-1", "kr", "Asia/Seoul", ("pc", "mobile"), 55_000, (3, 5 * HOUR + 1_800, 40 * 60)),
    Realm("eu-3", "eu", "Europe/Berlin", ("pc", "console"), 18_000, (2, 5 * HOUR, 45 * 60), opens=0.5),
)


@dataclass(frozen=True)
class Metric:
    """How one metric behaves.

    Attributes:
        level: its mean per player online.
        platforms: measured per platform, or once per realm on the first.
        slow, quick, rough: standard deviation of the relative noise that lasts 12 h, 1 h and a step.
        follows: power of the players' rhythm it follows.
        counting: adds the noise of counting events.
        closed: what is left of it during maintenance; ``surge`` times as much follows, fading in 20 min.
        patched: the patch lifts it.
        digits: rounded to so many; 0 makes whole numbers.
    """

    name: str
    level: float
    platforms: bool
    slow: float
    quick: float
    rough: float
    follows: float = 1.0
    counting: bool = False
    closed: float = 0.02
    surge: float = 0.0
    patched: bool = True
    digits: int = 0


METRICS = (
    Metric("ccu", 1.0, True, 0.015, 0.010, 0.008, surge=-0.6),
    Metric("logins", 0.03, True, 0.020, 0.012, 0.012, counting=True, surge=2.5),
    Metric("login_failures", 0.0009, False, 0.03, 0.03, 0.02, counting=True, closed=2.0, surge=3.0),
    Metric(
        "matchmaking_p95", 0.0, False, 0.02, 0.02, 0.025, -0.3, closed=1.0, surge=0.6, patched=False, digits=2
    ),
    Metric("purchases", 0.012, False, 0.02, 0.02, 0.01, counting=True, surge=-0.5),
    Metric("crash_rate", 0.006, True, 0.04, 0.03, 0.0, follows=0.0, patched=False, digits=6),
    Metric("currency_created", 85.0, False, 0.02, 0.015, 0.02, surge=-0.5),
    Metric("currency_destroyed", 74.0, False, 0.02, 0.015, 0.02, surge=-0.5),
)
MATCHMAKING_SECONDS = 34.0


@dataclass(frozen=True)
class IncidentKind:
    """A disturbance of fixed size.

    Attributes:
        metrics: where it can happen.
        seconds: how long it lasts.
        when: ``any``, ``overnight`` (from about 23:00 local) or ``patch`` (half an hour after a
            maintenance).
        change: values, and hours since its start, to values; None loses the rows.
    """

    name: str
    metrics: tuple[str, ...]
    seconds: int
    when: str
    change: Callable[[Values, Values], Values] | None


KINDS = (
    IncidentKind("login_outage", ("logins",), 20 * 60, "any", lambda y, h: 0.3 * y),
    IncidentKind("payment_drop", ("purchases",), HOUR, "any", lambda y, h: 0.6 * y),
    IncidentKind("matchmaking_drift", ("matchmaking_p95",), 12 * HOUR, "any", lambda y, h: y * 1.03**h),
    IncidentKind("currency_inflation", ("currency_created",), 6 * HOUR, "any", lambda y, h: 1.25 * y),
    IncidentKind("crash_spike", ("crash_rate",), HOUR, "patch", lambda y, h: 3.0 * y),
    IncidentKind("bot_wave", ("logins",), 8 * HOUR, "overnight", lambda y, h: 1.15 * y),
    IncidentKind("telemetry_gap", ("ccu", "purchases", "currency_destroyed"), 45 * 60, "any", None),
    IncidentKind(
        "flatline", ("ccu", "currency_destroyed"), 2 * HOUR, "any", lambda y, h: np.full_like(y, y[0])
    ),
)


@dataclass(frozen=True)
class Incident:
    """One planted incident; ``end`` is the time of its last step and belongs to it."""

    series: int
    metric: str
    labels: dict[str, str]
    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Simulation:
    """What was simulated.

    Attributes:
        series: metric, labels, step and time zone of every series.
        points: of every series, in order of time.
        undisturbed: the same without the incidents: the twin to measure them against.
        incidents: in order of time.
        maintenances: start and stop per realm.
        patched_at: when each realm's level shifted.
        last_fit: half of the incidents of each kind start after it.
    """

    seed: int
    start: int
    stop: int
    last_fit: int
    series: tuple[SeriesSpec, ...]
    points: tuple[Points, ...]
    undisturbed: tuple[Points, ...]
    incidents: tuple[Incident, ...]
    maintenances: dict[str, tuple[tuple[int, int], ...]]
    patched_at: dict[str, int]


# -- public -------------------------------------------------------------------------


def simulate(
    seed: int = 0,
    *,
    weeks: int = 8,
    start: datetime = START,
    step_seconds: int = 300,
    last_fit: datetime | None = None,
) -> Simulation:
    """Return seeded telemetry of a game: equal seeds, equal points.

    Args:
        weeks: how long, at least three.
        start: aware, on a whole step; a Monday keeps weeks whole.
        last_fit: half of the incidents come after it; a week before the end at 03:15 UTC by default.

    Raises:
        InvalidError: too short.
        ValueError: a naive start, or a last fit that leaves no room on both sides.
    """
    if weeks < 3:
        raise InvalidError(f"expected at least 3 weeks, got {weeks}: incidents need room around the last fit")
    if start.tzinfo is None:
        raise ValueError(f"start must be aware, got {start}; add tzinfo=UTC")
    first = int(start.timestamp()) // step_seconds * step_seconds
    stop = first + weeks * WEEK
    fit = stop - WEEK + FIT_AT if last_fit is None else int(last_fit.timestamp())
    if not first + 2 * WEEK <= fit <= stop - 4 * DAY:
        raise ValueError(
            f"last_fit must leave two weeks before it and four days after it within the {weeks} weeks, "
            f"got {datetime.fromtimestamp(fit, UTC)}"
        )
    ts = np.arange(first, stop, step_seconds, dtype=np.int64)
    worlds = {realm.name: _World.of(realm, ts, _rng(seed, 0, i)) for i, realm in enumerate(REALMS)}
    specs, calm = [], []
    for number, (realm, metric, platform) in enumerate(_columns()):
        labels = {"realm": realm.name, "region": realm.region, "platform": platform}
        specs.append(SeriesSpec(metric.name, labels, step_seconds, timezone=realm.timezone))
        calm.append(
            _calm(metric, platform == realm.platforms[0], worlds[realm.name], ts, _rng(seed, 1, number))
        )
    incidents = _placed(specs, worlds, (first, fit, stop), step_seconds, _rng(seed, 2, 0))
    points = [_disturbed(p, [i for i in incidents if i.series == n]) for n, p in enumerate(calm)]
    return Simulation(
        seed,
        first,
        stop,
        fit,
        tuple(specs),
        tuple(points),
        tuple(calm),
        tuple(incidents),
        {name: tuple(world.maintenances) for name, world in worlds.items()},
        {name: world.patched_at for name, world in worlds.items()},
    )


def write(simulation: Simulation, folder: Path) -> list[Path]:
    """Write ``drop/<region>-<metric>.csv`` and ``incidents.csv`` under a folder; return the files.

    Rows stand in the order they would have arrived: a few come hours late, some twice, some first
    with a wrong value that a later row corrects.
    """
    drop = folder / "drop"
    drop.mkdir(parents=True, exist_ok=True)
    files = []
    members: dict[str, list[int]] = {}
    for number, spec in enumerate(simulation.series):
        members.setdefault(f"{spec.labels['region']}-{spec.metric}", []).append(number)
    for index, (name, numbers) in enumerate(members.items()):
        path = drop / f"{name}.csv"
        rng = _rng(simulation.seed, 3, index)
        lines = _lines(simulation, numbers, rng)
        path.write_text("ts,metric,realm,region,platform,value\n" + "".join(lines), encoding="utf-8")
        files.append(path)
    return [*files, _write_incidents(simulation, folder / "incidents.csv")]


# -- normal life --------------------------------------------------------------------


def _rng(seed: int, part: int, number: int) -> np.random.Generator:
    """Return a stream of its own for every part, so that none shifts another."""
    return np.random.default_rng([seed, part, number])


def _columns() -> Iterator[tuple[Realm, Metric, str]]:
    for metric in METRICS:
        for realm in REALMS:
            for platform in realm.platforms if metric.platforms and not realm.opens else realm.platforms[:1]:
                yield realm, metric, platform


@dataclass(frozen=True)
class _World:
    """What all series of a realm share.

    Attributes:
        rhythm: of the players, mean about 1, shape ``(n,)``.
        closed: True during maintenance.
        after: seconds since the last maintenance ended, infinite before the first.
        force: how strong each moment's last maintenance was felt, near 1.
        lift: 1 before the patch, then ``PATCH_LIFT``.
        first: index of the first step the realm exists.
    """

    realm: Realm
    size: float
    rhythm: Values
    closed: NDArray[np.bool_]
    after: Values
    force: Values
    lift: Values
    growth: Values
    first: int
    maintenances: list[tuple[int, int]]
    patched_at: int

    @classmethod
    def of(cls, realm: Realm, ts: Seconds, rng: np.random.Generator) -> _World:
        local = ts + utc_offsets(realm.timezone, ts)
        size = realm.size * float(np.exp(rng.normal(0, 0.15)))
        rhythm = _rhythm(local, rng)
        maintenances = _maintenances(realm, ts, local)
        first = int(realm.opens * len(ts))
        ends = np.array([stop for _, stop in maintenances])
        last = np.searchsorted(ends, ts, side="right") - 1
        after = np.where(last >= 0, ts - ends[np.maximum(last, 0)], np.inf)
        force = rng.uniform(0.93, 1.07, len(ends) + 1)[last]
        closed = np.zeros(len(ts), dtype=bool)
        for begin, stop in maintenances:
            closed |= (ts >= begin) & (ts < stop)
        # The patch ships with the fifth week's maintenance: learned from on both sides by the last fit.
        patched_at = maintenances[4 if len(maintenances) > 5 else 0][1]
        lift = np.where(ts >= patched_at, PATCH_LIFT, 1.0)
        age = (ts - ts[first]) / (3.0 * DAY)
        growth = 1.0 - 0.4 * np.exp(-np.maximum(age, 0.0)) if realm.opens else np.ones(len(ts))
        return cls(realm, size, rhythm, closed, after, force, lift, growth, first, maintenances, patched_at)


def _rhythm(local: Seconds, rng: np.random.Generator) -> Values:
    """Return the usual course of players by local day and week: evenings, and weekends a fifth higher."""
    hour = local % DAY / HOUR
    peak, deep, second = 20.3 + rng.uniform(-0.7, 0.7), rng.uniform(0.40, 0.52), rng.uniform(0.08, 0.14)
    turn = 2 * np.pi * (hour - peak) / 24
    day = np.exp(deep * np.cos(turn) + second * np.cos(2 * turn + 0.6))
    # Monday is 0: the weekend rises on Friday evening and sinks on Sunday night.
    weekday = (local + MONDAY) % WEEK / DAY
    rise = 1 / (1 + np.exp(-(weekday - 4.8) / 0.08)) - 1 / (1 + np.exp(-(weekday - 6.9) / 0.04))
    return day / day.mean() * (1 + rng.uniform(0.15, 0.25) * rise)


def _maintenances(realm: Realm, ts: Seconds, local: Seconds) -> list[tuple[int, int]]:
    """Return start and stop of every week's maintenance: the same local time, whatever the clock does."""
    weekday, second, lasts = realm.maintenance
    begins = np.flatnonzero((local + MONDAY) % WEEK == weekday * DAY + second)
    return [(int(ts[i]), int(ts[i]) + lasts) for i in begins]


def _noise(n: int, keep: float, size: float, rng: np.random.Generator) -> Values:
    """Return noise of standard deviation ``size`` that keeps a share ``keep`` of itself each step."""
    noise = rng.normal(0, size * np.sqrt(1 - keep**2), n)
    noise[0] /= np.sqrt(1 - keep**2)
    reach = 1
    # y[t] = x[t] + k y[t-1], by doubling: after j rounds y holds the last 2^j shocks.
    while reach < n and keep**reach > 1e-6:
        noise[reach:] += keep**reach * noise[:-reach]
        reach *= 2
    return noise


def _calm(metric: Metric, main: bool, world: _World, ts: Seconds, rng: np.random.Generator) -> Points:
    """Return one series without incidents."""
    n, step = len(ts), int(ts[1] - ts[0])
    wander = _noise(n, float(np.exp(-step / (12 * HOUR))), metric.slow, rng)
    wander += _noise(n, float(np.exp(-step / HOUR)), metric.quick, rng)
    wander += rng.normal(0, metric.rough, n)
    share = rng.uniform(0.55, 0.65) if main else rng.uniform(0.35, 0.45)
    players = world.size * world.rhythm * world.growth * (share if metric.platforms else 1.0)
    expected = _course(metric, world, players) * np.exp(wander)
    if metric.name == "crash_rate":
        sessions = np.maximum(1.0, np.round(players * _held(METRICS[0], world)))
        value = rng.poisson(expected * sessions) / sessions
    else:
        value = rng.poisson(expected).astype(np.float64) if metric.counting else expected
    value = np.round(value, metric.digits)
    keep = rng.random(n) >= LOST_SHARE
    keep[: world.first] = False
    return Points(ts[keep], value[keep])


def _course(metric: Metric, world: _World, players: Values) -> Values:
    """Return what a metric is expected to be at every step, before noise."""
    if metric.name == "crash_rate":
        return np.full(len(players), metric.level)
    if metric.name == "matchmaking_p95":
        level = MATCHMAKING_SECONDS * (players / players.mean()) ** metric.follows
    else:
        level = metric.level * players
    return level * _held(metric, world) * (world.lift if metric.patched else 1.0)


def _held(metric: Metric, world: _World) -> Values:
    """Return the factor that maintenance leaves of a metric, and the surge or slow return after it."""
    surge = 1.0 + metric.surge * world.force * np.exp(-world.after / (20 * 60))
    return np.where(world.closed, metric.closed, surge)


# -- incidents ----------------------------------------------------------------------


def _placed(
    specs: Sequence[SeriesSpec],
    worlds: dict[str, _World],
    span: tuple[int, int, int],
    step: int,
    rng: np.random.Generator,
) -> list[Incident]:
    """Return the incidents: half of each kind after the last fit, none beside another on its series."""
    start, fit, stop = span
    early = (start + min(3 * WEEK, (fit - start) // 2), fit - DAY)
    late = (fit + 2 * HOUR, stop - 3 * HOUR)
    placed: list[Incident] = []
    # The long ones first: they fit in fewer places.
    for kind in sorted(KINDS, key=lambda kind: -kind.seconds):
        for number in range(INCIDENTS_PER_KIND):
            placed.append(_place(kind, specs, worlds, late if number % 2 else early, step, placed, rng))
    return sorted(placed, key=lambda incident: (incident.start, incident.series))


def _place(
    kind: IncidentKind,
    specs: Sequence[SeriesSpec],
    worlds: dict[str, _World],
    span: tuple[int, int],
    step: int,
    placed: Sequence[Incident],
    rng: np.random.Generator,
) -> Incident:
    fitting = [n for n, s in enumerate(specs) if s.metric in kind.metrics]
    fitting = [n for n in fitting if not worlds[specs[n].labels["realm"]].realm.opens]
    for _ in range(100_000):
        number = int(rng.choice(fitting))
        world = worlds[specs[number].labels["realm"]]
        begin = _begin(kind, world, span, step, rng)
        spec, end = specs[number], begin + kind.seconds - step
        incident = Incident(number, spec.metric, dict(spec.labels), begin, end, kind.name)
        if begin + kind.seconds <= span[1] and _is_free(incident, kind, world, placed):
            return incident
    raise InvalidError(f"no room for a {kind.name} between {span[0]} and {span[1]}; simulate more weeks")


def _begin(
    kind: IncidentKind, world: _World, span: tuple[int, int], step: int, rng: np.random.Generator
) -> int:
    if kind.when == "patch":
        ends = [stop + 1_800 for _, stop in world.maintenances if span[0] <= stop + 1_800 < span[1]]
        return int(rng.choice(ends))
    begin = int(rng.integers(span[0] // step, span[1] // step)) * step
    if kind.when == "overnight":
        local = begin + int(utc_offsets(world.realm.timezone, np.array([begin]))[0])
        begin += 23 * HOUR - local % DAY + int(rng.integers(0, 90 * 60 // step)) * step
        begin = max(begin, span[0])
    return begin // step * step


def _is_free(incident: Incident, kind: IncidentKind, world: _World, placed: Sequence[Incident]) -> bool:
    """True where nothing else happens to the series: no maintenance, no patch day, no other incident."""
    begin, end = incident.start, incident.end
    if kind.when != "patch" and any(
        begin < stop + 2 * HOUR and start - 2 * HOUR < end for start, stop in world.maintenances
    ):
        return False
    if world.patched_at - 2 * HOUR < end and begin < world.patched_at + 2 * DAY:
        return False
    others = [other for other in placed if other.series == incident.series]
    return all(end + DAY < other.start or other.end + DAY < begin for other in others)


def _disturbed(points: Points, incidents: Sequence[Incident]) -> Points:
    """Return the points with the incidents in them."""
    value, keep = points.value.copy(), np.ones(len(points.ts), dtype=bool)
    digits = {metric.name: metric.digits for metric in METRICS}
    changes = {kind.name: kind.change for kind in KINDS}
    for incident in incidents:
        inside = (points.ts >= incident.start) & (points.ts <= incident.end)
        change = changes[incident.kind]
        if change is None:
            keep &= ~inside
            continue
        hours = (points.ts[inside] - incident.start) / HOUR
        value[inside] = np.round(change(value[inside], hours), digits[incident.metric])
    return Points(points.ts[keep], value[keep])


# -- files --------------------------------------------------------------------------


def _lines(simulation: Simulation, numbers: Sequence[int], rng: np.random.Generator) -> list[str]:
    """Return the lines of one file in order of arrival."""
    lines: list[str] = []
    arrivals = []
    for number in numbers:
        spec, points = simulation.series[number], simulation.points[number]
        arrival, ts, value = _arrivals(points, rng)
        labels = ",".join([spec.metric, *(spec.labels[name] for name in ("realm", "region", "platform"))])
        shape = "%d" if not _digits(spec.metric) else f"%.{_digits(spec.metric)}f"
        stamps = np.datetime_as_string(ts.astype("datetime64[s]")).tolist()
        lines += [f"{t}Z,{labels},{shape % v}\n" for t, v in zip(stamps, value.tolist(), strict=True)]
        arrivals.append(arrival)
    order = np.argsort(np.concatenate(arrivals), kind="stable")
    return [lines[i] for i in order.tolist()]


def _digits(metric: str) -> int:
    return next(m.digits for m in METRICS if m.name == metric)


def _arrivals(points: Points, rng: np.random.Generator) -> tuple[Seconds, Seconds, Values]:
    """Return when each row comes, its time and its value: some late, some twice, some corrected."""
    n = len(points.ts)
    late = np.where(rng.random(n) < LATE_SHARE, rng.integers(HOUR // 4, LATEST_SECONDS, n), 0)
    twice = np.flatnonzero(rng.random(n) < DUPLICATE_SHARE)
    first = points.value.copy()
    # Every second of those that come twice was wrong the first time, and the last word counts.
    first[twice[::2]] = np.round(0.9 * first[twice[::2]])
    arrival = np.concatenate([points.ts + late, points.ts[twice] + late[twice] + 60])
    return (
        arrival,
        np.concatenate([points.ts, points.ts[twice]]),
        np.concatenate([first, points.value[twice]]),
    )


def _write_incidents(simulation: Simulation, path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["metric", "labels", "start", "end", "kind"])
        for incident in simulation.incidents:
            labels = ",".join(f"{name}={incident.labels[name]}" for name in sorted(incident.labels))
            span = [
                f"{datetime.fromtimestamp(t, UTC):%Y-%m-%dT%H:%M:%SZ}" for t in (incident.start, incident.end)
            ]
            rows.writerow([incident.metric, labels, *span, incident.kind])
    return path


def _iso(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts, UTC):%Y-%m-%dT%H:%M:%SZ}"
