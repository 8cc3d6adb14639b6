"""Whether detection happens, part by part: a function of facts and of the time.

What is told here goes to whoever can reach the port: no names of hosts, no messages of other programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from anomaly_service.config.values import duration_text
from anomaly_service.facts import Facts, MonitorFacts, SourceFacts
from pipelines.jobs.fit_times import nights
from pipelines.names import RunState
from pipelines.records import Json
from pipelines.times import DAY, iso

MISSED_INTERVALS = 3
"""So many intervals may pass without a tick or read that was done."""

BLOCKED_HOURS = 6
"""A night that nobody is at work on so long after it was due is blocked."""

CLOCK_SECONDS = 300
"""How far the clock may be from the database's."""

NAMED = 5
"""Of at most so many monitors or sources a part tells; the rest is counted."""


@dataclass(frozen=True)
class Said:
    """One thing that is wrong, and what to do about it; ``blind`` where detection does not happen for it."""

    reason: str
    mend: str
    blind: bool = True


@dataclass(frozen=True)
class Part:
    """One part of the service: whether it does its work, what is wrong, and the mend."""

    part: str
    ready: bool
    reason: str = ""
    mend: str = ""

    def to_json(self) -> Json:
        return asdict(self)


def of(name: str, said: Sequence[Said]) -> Part:
    """Return a part of what is wrong with it; ready where nothing of that blinds it."""
    told = sorted(said, key=lambda each: not each.blind)
    more = f"; and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return Part(
        name,
        not any(each.blind for each in told),
        "; ".join(each.reason for each in told[:NAMED]) + more,
        "; ".join(dict.fromkeys(each.mend for each in told[:NAMED])),
    )


def joined(part: Part, said: Sequence[Said]) -> Part:
    """Return a part with more that is wrong with it."""
    if not said:
        return part
    more = of(part.part, said)
    return Part(
        part.part,
        part.ready and more.ready,
        "; ".join(each for each in (part.reason, more.reason) if each),
        "; ".join(dict.fromkeys(each for each in (part.mend, more.mend) if each)),
    )


def judged(facts: Facts, now: datetime, since: datetime | None = None, *, frozen: bool = False) -> list[Part]:
    """Return the parts that the database knows of.

    Args:
        since: when the daemon began, which is given time for its first runs; None for whoever looks from
            outside.
        frozen: the clock was set by hand, and need not be the database's.
    """
    ticks = [said for each in facts.monitors for said in _tick(each, facts, now, since)]
    night_runs = [said for each in facts.monitors for said in _night(each, now, since)]
    return [
        of("sources", [said for each in facts.sources for said in _source(each, now, since)]),
        of("ticks", ticks),
        of("nights", night_runs),
        of("workers", list(_workers(facts))),
        of("clock", list(_clock(facts, now, frozen))),
    ]


def _source(source: SourceFacts, now: datetime, since: datetime | None) -> Iterator[Said]:
    name, health = source.plan.name, source.health
    is_live = bool(health.get("live"))
    # The view's own word is as of its clock, and what a daemon keeps grows old where the database hangs.
    stopped = is_live and now.timestamp() > health["stale_from_ts"]
    if stopped:
        overdue = _length(timedelta(seconds=now.timestamp() - health["stale_from_ts"]))
        yield Said(
            f"source {name} stopped: its next point is overdue for {overdue}",
            "look at what writes there, and at the source's own errors: anomaly status",
        )
    if source.reads.failing is not None:
        yield Said(
            f"the last read of source {name} failed",
            "see the reason: anomaly status; correct the source",
            blind=stopped or not is_live,
        )
    elif (since is not None or is_live) and (
        late := _missed(source.reads.last_done, source.plan.every_seconds, now, since)
    ):
        every = duration_text(source.plan.every_seconds)
        ago = "was never read" if late == NEVER else f"was not read for {late}"
        yield Said(f"source {name} {ago}, and should be every {every}", _daemon(since))


DAEMON = "is the daemon running? anomaly daemon; its log says what it does"
OWN = "the daemon's log says what it is at; anomaly runs shows what hangs"
NEVER = "ever"


def _daemon(since: datetime | None) -> str:
    """Return what to look at where nothing is done: the daemon itself knows that it runs."""
    return DAEMON if since is None else OWN


RUNS = "see the reason: anomaly status; the daemon's log has the traceback"


def _tick(monitor: MonitorFacts, facts: Facts, now: datetime, since: datetime | None) -> Iterator[Said]:
    plan = monitor.plan
    if monitor.ticks.failing is not None:
        yield Said(f"the last tick of monitor {plan.name} failed", RUNS)
    elif late := _missed(monitor.ticks.last_done, plan.infer_every_seconds, now, since):
        every = duration_text(plan.infer_every_seconds)
        # Of an archive that commands work on, nobody expects that a daemon ticks.
        never = not monitor.ticks.runs and since is None
        if not never or any(each.health.get("live") for each in facts.sources):
            ago = "was ever done" if late == NEVER else f"was done for {late}"
            yield Said(
                f"no tick of monitor {plan.name} {ago}, and one should be every {every}", _daemon(since)
            )


def _missed(last: datetime | None, every_seconds: int, now: datetime, since: datetime | None) -> str:
    """Return for how long nothing was done where that is too long; empty where it is not."""
    begun = max((each for each in (last, since) if each is not None), default=None)
    if begun is None:
        return NEVER
    late = now - begun
    return _length(late) if late > timedelta(seconds=MISSED_INTERVALS * every_seconds) else ""


def _night(monitor: MonitorFacts, now: datetime, since: datetime | None) -> Iterator[Said]:
    name, past = monitor.plan.name, monitor.nights
    if past.failing is not None:
        again = "and is tried again" if past.failing.state is not RunState.FAILED else "and was given up"
        yield Said(f"the night of monitor {name} failed {again}", RUNS)
        return
    seconds = int(now.timestamp())
    slot = nights(monitor.plan.nightly, seconds - 3 * DAY, seconds + 1)[-1]
    began = [slot, *(int(each.timestamp()) for each in (since,) if each is not None)]
    late = timedelta(seconds=seconds - max(began))
    done = past.last_done is not None and past.last_done.timestamp() >= slot
    allowed = timedelta(hours=24 if _is_at_work(monitor) else BLOCKED_HOURS)
    if past.runs and not done and late > allowed:
        yield Said(f"the night of monitor {name} was due {_length(late)} ago and is not done", _daemon(since))


def _is_at_work(monitor: MonitorFacts) -> bool:
    return any(run.state is RunState.RUNNING for run in monitor.nights.runs)


def _workers(facts: Facts) -> Iterator[Said]:
    if facts.lost:
        yield Said(f"{facts.lost} runs are at work and nobody holds their lease", DAEMON)


def _clock(facts: Facts, now: datetime, frozen: bool) -> Iterator[Said]:
    apart = abs((now - facts.wall).total_seconds())
    if not frozen and apart > CLOCK_SECONDS:
        yield Said(
            f"the clock is {_length(timedelta(seconds=apart))} from the database's",
            "set the clocks of both machines, best by NTP",
        )
    ahead = facts.scheduled_until
    if ahead is not None and (ahead - now).total_seconds() > CLOCK_SECONDS:
        yield Said(
            f"a run is scheduled for {iso(ahead)}, later than now: a clock was ahead once",
            "nothing to do if the clock is right now",
            blind=False,
        )


def _length(late: timedelta) -> str:
    seconds = max(0, round(late.total_seconds()))
    unit = DAY if seconds >= 2 * DAY else 3600 if seconds >= 7200 else 60 if seconds >= 120 else 1
    return duration_text(seconds // unit * unit)
