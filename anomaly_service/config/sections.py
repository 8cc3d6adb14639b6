"""The sections of the config file and their keys."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from anomaly_service import sources
from anomaly_service.config.document import Document
from anomaly_service.config.errors import one_of
from anomaly_service.config.values import (
    Choice,
    ClockTime,
    Duration,
    Number,
    PositiveDuration,
    RelativePath,
    Secret,
    SecretFile,
    Section,
    Share,
    Span,
    Text,
    Whole,
    Zone,
    absolute_sqlite,
    expected,
    installed,
    problem_at,
    whole_seconds,
)
from anomaly_service.secrets import hidden
from anomaly_service.sources.base import Source, SourceConfig
from detectors.spelling import did_you_mean
from pipelines.monitor import AUTO_SPAN, PLAIN, MonitorSpec, NightlyPlan, Period, Threshold
from pipelines.names import AUTO
from pipelines.records import Json, Policy

DETECTORS = "anomaly_service.detectors"
"""The entry points of detectors, read here and not through detectors.registry, which imports torch."""

RULES = {"alarms_per_week": ("alarms",), "contamination": ("quantile",), "deviations": ("sigma",)}
"""Which threshold methods read which key."""


@cache
def detector_names() -> list[str]:
    """Return the names a monitor may give, sorted: ``auto`` and the installed ones; imports none of them."""
    from importlib.metadata import entry_points

    return sorted([AUTO, *(entry.name for entry in entry_points(group=DETECTORS))])


def _seconds_of(value: timedelta | str) -> int:
    return AUTO_SPAN if isinstance(value, str) else whole_seconds(value)


class FitSection(Section):
    """When models are fitted, and on how much history."""

    every: Span = Field(
        default=AUTO,
        description="Time between two fits of a target; `auto`: a week, more rarely where steps are long, "
        "and more often while the history is young.",
    )
    window: Span = Field(
        default=AUTO,
        description="History a fit learns from, before the moment of the fit; `auto`: six weeks or 1,000 "
        "steps, what is longer, and all of a shorter history.",
    )
    first: Span = Field(
        default=AUTO,
        description="History that a first model waits for; `auto`: two weeks, so that every hour of the week "
        "was there twice, or what the detector needs, if that is longer.",
    )
    stagger: Choice = Field(
        default=AUTO,
        description="Spread the refits over the nights of `every` by the names of targets; false fits all on "
        "one night; `auto` spreads where the monitor began with more than 500.",
    )

    @property
    def window_seconds(self) -> int:
        """Return ``window`` as the jobs see it."""
        return _seconds_of(self.window)


class ThresholdSection(Section):
    """Where the line is: a false-alarm budget, or a rule by name."""

    method: Literal["alarms", "quantile", "sigma", "dynamic"] = Field(
        default="alarms",
        description="`alarms` keeps to `alarms_per_week`; `quantile`, `sigma`, `dynamic` are rules by name.",
    )
    alarms_per_week: Annotated[Number, Field(gt=0, le=1_000_000)] | None = Field(
        default=None,
        description="Flagged intervals a week, after policy, on normal data; 1 where not given.",
    )
    per: Literal["monitor", "series"] = Field(
        default="monitor", description="Whose budget it is: the whole monitor's, or each series' own."
    )
    contamination: Annotated[Share, Field(gt=0, lt=0.5)] | None = Field(
        default=None, description="For `quantile`: the share of points above the line; 0.1% where not given."
    )
    deviations: Annotated[Number, Field(gt=0)] | None = Field(
        default=None,
        description="For `sigma`: standard deviations above the mean score; 3 where not given.",
    )

    @field_validator("alarms_per_week", "contamination", "deviations")
    @classmethod
    def _belongs_to_method(cls, value: float | None, info: ValidationInfo) -> float | None:
        methods = RULES[str(info.field_name)]
        method = info.data.get("method")
        if value is not None and method is not None and method not in methods:
            wanted = " or ".join(f"`method: {name}`" for name in methods)
            raise expected(f"belongs to {wanted}, and the method is {method}", shown=False)
        return value

    def rule(self) -> Threshold:
        """Return the threshold as the jobs see it."""
        given = self.contamination if self.method == "quantile" else self.deviations
        return Threshold(
            method=self.method,
            alarms_per_week=1.0 if self.alarms_per_week is None else self.alarms_per_week,
            per=self.per,
            value=given,
        )


class PolicySection(Section):
    """What of a run of high scores becomes a flagged interval."""

    detection_direction: Literal["both", "above_expected", "below_expected"] = Field(
        default="both", description="Which side of the expected value counts."
    )
    min_dev_from_expected: Annotated[Number, Field(ge=0)] = Field(
        default=0.0, description="Smallest deviation that counts, in the series' unit."
    )
    min_rel_dev_from_expected: Share = Field(
        default=0.0, description="Smallest deviation that counts, as a share of the expected value: `5%`."
    )
    min_duration: Duration = Field(default=timedelta(0), description="Shorter intervals are dropped.")
    merge_max_gap: Duration = Field(
        default=timedelta(hours=1),
        description="Intervals with at most this much normal time between become one.",
    )
    cooldown: Duration = Field(
        default=timedelta(0),
        description="After an interval ends, no new one starts for so long, unless it is half as high again "
        "or lasts four times as long.",
    )
    missing_after_steps: Annotated[Whole, Field(ge=1)] = Field(
        default=3, description="A gap of at least so many steps is an event of its own."
    )

    def rule(self) -> Policy:
        """Return the policy as the jobs see it."""
        return Policy(
            detection_direction=self.detection_direction,
            min_dev_from_expected=self.min_dev_from_expected,
            min_rel_dev_from_expected=self.min_rel_dev_from_expected,
            min_duration_seconds=whole_seconds(self.min_duration),
            merge_max_gap_seconds=whole_seconds(self.merge_max_gap),
            cooldown_seconds=whole_seconds(self.cooldown),
            missing_after_steps=self.missing_after_steps,
        )


def _allowed_values(value: object) -> list[str]:
    """Return label values as text: one or a list, whole numbers included."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise expected("expected at least one value; leave the key out to take all")
    if any(isinstance(item, bool) or not isinstance(item, str | int) for item in items):
        raise expected('expected text or a list of texts; put other values in quotes, such as "1.5"')
    return [str(item) for item in items]


Selector = dict[
    Text,
    Annotated[
        list[str],
        BeforeValidator(_allowed_values),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": ["string", "integer"]},
                    {"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1},
                ]
            }
        ),
    ],
]


def _distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise expected("expected each name once", shown=False)
    return values


def _several(values: list[str]) -> list[str]:
    if len(values) < 2:
        raise expected("expected at least two metrics; a single one is named in `series`", shown=False)
    return values


def _rule(value: str) -> str:
    """Return a recurrence rule as it is, if it is one of days or longer, without an end of its own."""
    from dateutil.rrule import rrulestr

    wanted = "expected a recurrence rule such as FREQ=WEEKLY;BYDAY=TU;BYHOUR=6"
    if re.search(r"DTSTART|COUNT|HOURLY|MINUTELY|SECONDLY|\n", value, re.IGNORECASE):
        raise expected(f"{wanted}: daily or rarer, without DTSTART or COUNT")
    try:
        rrulestr(value)
    except (ValueError, TypeError, KeyError) as error:
        raise expected(f"{wanted} ({error})") from None
    return value


def _span(value: str) -> str:
    """Return a span as it is, if it is two local times, the first before the second."""
    first, _, end = value.partition("/")
    try:
        start, stop = datetime.fromisoformat(first), datetime.fromisoformat(end)
    except ValueError:
        start = stop = datetime.min
    if start.tzinfo or stop.tzinfo or start >= stop:
        raise expected("expected two local times, such as 2026-03-10T09:00/2026-03-10T15:00")
    return value


class CalendarSection(Section):
    """A time with a normal of its own, for detectors that tell regimes apart, or one to be left out."""

    every: Annotated[Text, AfterValidator(_rule)] | None = Field(
        default=None, description="Recurrence rule of its starts (RFC 5545): `FREQ=WEEKLY;BYDAY=TU;BYHOUR=6`."
    )
    lasts: PositiveDuration | None = Field(
        default=None, description="How long it is from each start; `every` needs it.", validate_default=True
    )
    spans: list[Annotated[Text, AfterValidator(_span)]] = Field(
        default_factory=list,
        description="One-off spans, such as `2026-03-10T09:00/2026-03-10T15:00`.",
    )
    timezone: Zone | None = Field(
        default=None, description="IANA zone of all these times; each series' own where not given."
    )
    series: Selector = Field(
        default_factory=dict, description="For which series, as in a monitor; all where not given."
    )
    masked: bool = Field(
        default=False,
        description="Nothing in it is learned, scored or flagged: maintenance that comes at no regular time.",
    )

    @field_validator("lasts")
    @classmethod
    def _goes_with_every(cls, value: timedelta | None, info: ValidationInfo) -> timedelta | None:
        if "every" in info.data and (value is None) != (info.data["every"] is None):
            raise expected("`every` and `lasts` go together: when it begins, and how long it is", shown=False)
        return value

    def period(self, name: str) -> Period:
        """Return the regime as the jobs see it."""
        return Period(
            name=name,
            every=self.every or "",
            lasts_seconds=0 if self.lasts is None else whole_seconds(self.lasts),
            spans=tuple((first, end) for first, _, end in (span.partition("/") for span in self.spans)),
            timezone=self.timezone or "",
            selector=self.series,
            masked=self.masked,
        )


class MonitorSection(Section):
    """Which series are watched, by which detector, how often, and what counts."""

    series: Selector = Field(
        description="Which series: `metric` and labels, each with one value or a list; `{}` takes all."
    )
    channels: Annotated[list[Text], AfterValidator(_several), AfterValidator(_distinct)] | None = Field(
        default=None,
        description="Metrics watched together, as one target with one model: `[ccu, logins, crashes]`.",
    )
    group_by: Annotated[list[Text], AfterValidator(_distinct)] = Field(
        default_factory=list,
        description="Beside `channels`, the labels that tell targets apart: `[realm]` makes one per realm.",
    )
    detector: Annotated[Text, installed("detector", detector_names)] = Field(
        default=AUTO,
        description="Name of a detector; `anomaly detectors` lists them. `auto` chooses for every target.",
    )
    params: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the detector, such as `{window: 24}`."
    )
    scope: Literal["series", "group"] = Field(
        default="series",
        description="A model per series (with `channels`, per target), or one that all share, new ones too.",
    )
    season: Literal["none", "daily", "weekly", "auto"] = Field(
        default="auto", description="Season that is taken out first, in the series' time zone."
    )
    fit: FitSection = FitSection()
    infer_every: PositiveDuration = Field(
        default=timedelta(minutes=5),
        description="Time between two ticks, which score what the sources brought.",
    )
    threshold: ThresholdSection = ThresholdSection()
    policy: PolicySection = PolicySection()
    renamed_from: Text | None = Field(
        default=None, description="Former name of this monitor; its targets and events are taken over."
    )

    def spec(self, name: str, nightly: NightlyPlan, scores: str, device: str) -> MonitorSpec:
        """Return the monitor as the jobs see it."""
        return MonitorSpec(
            name=name,
            selector=self.series,
            detector=self.detector,
            params=self.params,
            scope=self.scope,
            season=self.season,
            fit_every_seconds=_seconds_of(self.fit.every),
            fit_window_seconds=self.fit.window_seconds,
            fit_first_seconds=_seconds_of(self.fit.first),
            stagger=None if isinstance(self.fit.stagger, str) else self.fit.stagger,
            infer_every_seconds=whole_seconds(self.infer_every),
            threshold=self.threshold.rule(),
            policy=self.policy.rule(),
            nightly=nightly,
            scores=scores,
            device=device,
            channels=tuple(self.channels or ()),
            group_by=tuple(self.group_by),
        )


class NightlySection(Section):
    """The nightly pass: refits what is due, then rescores with hindsight and late data."""

    at: ClockTime = Field(default="03:15", description="Local time of day it starts.")
    timezone: Zone = Field(default="UTC", description="IANA zone of `at`.")
    window: PositiveDuration = Field(
        default=timedelta(days=3), description="How far back it rescores, and late data still count."
    )

    def plan(self) -> NightlyPlan:
        """Return the plan as the jobs see it."""
        hours, minutes = self.at.split(":")
        return NightlyPlan(
            at_seconds=int(hours) * 3600 + int(minutes) * 60,
            timezone=self.timezone,
            window_seconds=whole_seconds(self.window),
        )


class RetentionSection(Section):
    """How long things are kept, points and scores from the newest point of each source back.

    Intervals that count and what people said are kept for ever.
    """

    points: PositiveDuration = Field(default=timedelta(days=400), description="How long points are kept.")
    scores: PositiveDuration = Field(default=timedelta(days=90), description="How long scores are kept.")
    model_versions: Annotated[Whole, Field(ge=1)] = Field(
        default=3, description="Versions kept per target, besides those that events still need."
    )
    runs: PositiveDuration = Field(
        default=timedelta(days=90),
        description="How long runs that ended are kept; the newest of each kind, monitor and source stays.",
    )
    revisions: PositiveDuration = Field(
        default=timedelta(days=180),
        description="How long each change of an interval is kept; its first and its newest stay, and all of "
        "what people reviewed or added.",
    )
    outdated: PositiveDuration = Field(
        default=timedelta(days=180),
        description="How long intervals that no longer score, or were merged into another, are kept; what "
        "people reviewed or added stays.",
    )
    progress: PositiveDuration = Field(
        default=timedelta(days=400),
        description="How long a source remembers files that are gone; never shorter than `points`.",
    )

    @property
    def remembered(self) -> timedelta:
        """Return how long a source remembers files that are gone: none may bring back what was deleted."""
        return max(self.progress, self.points)


class DeadlinesSection(Section):
    """How long things may take before they are given up, so that nothing waits for ever."""

    query: PositiveDuration = Field(
        default=timedelta(seconds=60),
        description="How long a statement may take at the database, and a server may say nothing.",
    )
    task: PositiveDuration = Field(
        default=timedelta(minutes=10),
        description="How long a worker may take for a piece of work, such as fitting a few series, until it "
        "is killed.",
    )
    read: PositiveDuration = Field(
        default=timedelta(minutes=10),
        description="How long reading a source may go on without a batch of rows.",
    )
    run: PositiveDuration = Field(
        default=timedelta(minutes=40),
        description="How long a tick or a night may go on without progress, such as a piece of work that is "
        "done; longer than `task`. A night may take as long as it needs.",
    )

    @field_validator("run")
    @classmethod
    def _outlasts_a_task(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        if value <= info.data.get("task", timedelta(0)):
            raise expected("expected longer than `task`: a piece of work at work is no lack of progress")
        return value


class HttpSection(Section):
    """Where the daemon answers /metrics, /livez, /healthz and /readyz."""

    host: Text = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: Annotated[Whole, Field(ge=0, le=65535)] = Field(
        default=9464, description="Port to listen on; 0 takes any that is free."
    )


def _source(value: Any, info: ValidationInfo) -> SourceConfig:
    """Return a source's section, checked by the Config of its kind."""
    if isinstance(value, SourceConfig):
        return value
    if not isinstance(value, dict):
        raise expected("expected a section of keys")
    kind = value.get("kind")
    if kind not in sources.kinds():
        hint = did_you_mean(kind, sources.kinds()) if isinstance(kind, str) else ""
        raise problem_at(
            ("kind",), expected(f"expected an installed kind of source: {one_of(sources.kinds())}{hint}")
        )
    # A validation error raised in here is taken over by pydantic, with the path put before its own.
    return sources.get(kind).Config.model_validate(value, context=info.context)


AnySource = Annotated[SourceConfig, PlainValidator(_source, json_schema_input_type=dict[str, Any])]


def _database(value: str, info: ValidationInfo) -> str:
    """Return the URL with an SQLite file's path made absolute."""
    scheme, separator, rest = value.partition("://")
    if not separator or not re.fullmatch(r"sqlite|(?:postgresql|postgres)(?:\+psycopg)?", scheme):
        raise expected(
            "expected a database URL such as sqlite:///anomaly.db or postgresql://user@host/name", shown=False
        )
    if scheme != "sqlite":
        return value
    file = rest.removeprefix("/")
    if not rest.startswith("/") or file in {"", ":memory:"}:
        raise expected(
            "expected a file with three slashes before it, as in sqlite:///anomaly.db", shown=False
        )
    return absolute_sqlite(value, info)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Config(Section):
    """The whole config file."""

    database: Annotated[Secret, AfterValidator(_database)] = Field(
        default="sqlite:///anomaly.db",
        validate_default=True,
        repr=False,
        description="Where everything is stored: `sqlite:///anomaly.db` or `postgresql://user@host/name`.",
    )
    database_file: SecretFile | None = Field(
        default=None, description="File that holds the database URL, instead of `database`."
    )
    sources: dict[Text, AnySource] = Field(
        default_factory=dict, description="Where points come from, by name."
    )
    monitors: dict[Text, MonitorSection] = Field(
        default_factory=dict, description="What is watched and how, by name."
    )
    calendar: dict[Text, CalendarSection] = Field(
        default_factory=dict,
        description="Regimes beside `workday` and `weekend`, by name, such as `maintenance`; later ones win.",
    )
    nightly: NightlySection = NightlySection()
    retention: RetentionSection = RetentionSection()
    scores: Literal["auto", "dense", "near_events"] = Field(
        default="auto",
        description="Which scores are stored: all, or those near events; `auto` changes at 500 series.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where models are fitted and score; `auto` takes a CUDA device where torch finds one.",
    )
    deadlines: DeadlinesSection = DeadlinesSection()
    http: HttpSection = HttpSection()
    workers: Annotated[Whole, Field(ge=1, le=1024)] = Field(
        default_factory=cores,
        description="Processes that fit and score; the machine's cores where not given.",
    )
    rejects: RelativePath | None = Field(
        default=None,
        description="Folder of the files that list rows which could not be read; `rejects` beside the SQLite "
        "database, or beside the config file, where not given.",
    )
    future_tolerance: Duration = Field(
        default=timedelta(hours=1),
        validate_default=True,
        description="How far beyond now a point may lie; what is later waits until its time comes.",
    )
    _document: Document = PrivateAttr(default_factory=lambda: Document("config"))

    @property
    def path(self) -> Path:
        """Return the file this was loaded from."""
        return Path(self._document.file)

    @property
    def rejects_folder(self) -> Path:
        """Return the folder for files of rejected rows."""
        if self.rejects is not None:
            return self.rejects
        scheme, _, file = self.database.partition(":///")
        return (Path(file).parent if scheme == "sqlite" else self.path.parent) / "rejects"

    @property
    def database_shown(self) -> str:
        """Return the database's URL without the password."""
        return hidden(self.database)

    def monitor_specs(self) -> dict[str, MonitorSpec]:
        """Return every monitor as the jobs see it, by name."""
        plan = self.nightly.plan()
        calendar = tuple(section.period(name) for name, section in self.calendar.items())
        known = {name: source.meaning() for name, source in self.sources.items()}
        meanings = {name: meaning for name, meaning in known.items() if meaning != PLAIN}
        return {
            name: replace(
                section.spec(name, plan, self.scores, self.device), calendar=calendar, meanings=meanings
            )
            for name, section in self.monitors.items()
        }

    def monitor_sections(self) -> dict[str, Json]:
        """Return what the store keeps of every monitor: its spec as JSON, and where it was renamed from."""
        sections = {name: spec.to_json() for name, spec in self.monitor_specs().items()}
        for name, monitor in self.monitors.items():
            if monitor.renamed_from is not None:
                sections[name]["renamed_from"] = monitor.renamed_from
        return sections

    def build_sources(self) -> list[Source]:
        """Return the sources, in the order of the file; nothing is opened yet."""
        return sources.build(self.sources)
