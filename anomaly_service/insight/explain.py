"""Why was this flagged? What the models of an interval said, what they expected, and what is like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from anomaly_service.insight import similar
from detectors.errors import UnknownDetectorError
from pipelines.errors import NotExplainableError
from pipelines.executor import Inline
from pipelines.insight import explain as why
from pipelines.insight.explain import Explained
from pipelines.jobs.assemble import Asked, assemble
from pipelines.jobs.lines import LineBook
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.monitor import MonitorSpec
from pipelines.names import Status
from pipelines.records import Event, Json, MonitorRow, SeriesSpec, TargetRow, VersionRow
from pipelines.store import JobStore, ModelStore, PointReader
from pipelines.times import iso_seconds
from pipelines.workers import members

if TYPE_CHECKING:
    from anomaly_service.service import Service

NEAREST = 3
"""Events and windows like it that are told."""

SAME_SCORE = 0.05
"""A score that is computed again and differs by more than this share of it is told."""


@dataclass
class Explanation:
    """Why an event was flagged; rows and objects with the keys of ``docs/cli.md``.

    Attributes:
        event: its row of ``flagged_intervals``.
        score: how high it is, and how rare; None where no model gave one.
        members: what each model said at the peak, the largest share first.
        where: the stretch at which the first of them is highest; None where there is none.
        parts: shares of what a Gaussian joins to its score, where one comes first.
        channels: what each series of the target has of the event, as ``flagged_intervals`` has it too.
        expected: what was seen beside what was expected, at the peak and at the start.
        rule: what an event that no model scored goes by; None for the others.
        similar: the nearest events and windows of the past, with their reviews.
        notes: what the person who asked should know, sentences.
    """

    event: Json
    similar: similar.Similar
    score: Json | None = None
    members: list[Json] = field(default_factory=list)
    where: Json | None = None
    parts: Json | None = None
    channels: list[Json] = field(default_factory=list)
    expected: list[Json] = field(default_factory=list)
    rule: str | None = None
    notes: list[str] = field(default_factory=list)


def explain(service: Service, event_id: int, n: int = NEAREST) -> Explanation:
    """Return why an event was flagged, with the n nearest events and windows of the past.

    Raises:
        UnknownEventError: no such event stands.
    """
    store = service.store
    row = similar.row_of(store, event_id)
    asked = similar.asked_of(store, row)
    rule = why.rule(asked.event)
    # A rule looks at no window, so that none is like it.
    near = similar.find(service, event_id, n, within=None if rule is None else "features")
    series = _series(store, asked.target)
    found = Explanation(row, near, channels=_channels(asked.event, series), rule=rule)
    if asked.event.status is Status.BELOW_LINE and not asked.event.added:
        found.notes.append("It is below the line by now, and kept because somebody judged it.")
    if rule is None:
        _add_score(found, store, asked.event, asked.target, [each.key for each in series])
    return found


def _series(store: PointReader, target: TargetRow) -> list[SeriesSpec]:
    specs = {row.id: row.spec for row in store.series()}
    return [specs[i] for i in target.series_ids]


def _channels(event: Event, series: Sequence[SeriesSpec]) -> list[Json]:
    """Return the share of each series in an event; None where nothing is known of it."""
    shares = {series[0].metric: 1.0} if len(series) == 1 else event.interval.shares or {}
    return [{"series": each.key, "share": shares.get(each.metric)} for each in series]


def _add_score(
    found: Explanation, store: JobStore, event: Event, target: TargetRow, series: Sequence[str]
) -> None:
    """Compute again what the models of an anomaly said; where it cannot be, tell what is stored of it."""
    (monitor,) = (each for each in store.monitors() if each.id == target.monitor_id)
    try:
        version = _version(store, event)
        explained = _explained(store, monitor, target, event, version)
    except NotExplainableError as error:
        found.notes.append(f"What its model said cannot be computed again: {error}.")
        found.expected = [_stored_look(found.event)]
        return
    _fill(found, explained, series)
    found.notes += _doubts(event, version, explained)


def _version(store: ModelStore, event: Event) -> VersionRow:
    """Return the version that scored the peak of an event.

    Raises:
        NotExplainableError: it is gone, or its detectors cannot be loaded.
    """
    version_id = event.interval.version_id
    if version_id is None:
        raise NotExplainableError("the model version that scored it is not stored any more")
    (version,) = (v for v in store.versions([event.target_id], every=True) if v.id == version_id)
    try:
        for member in members.of_version(version):
            member.config  # noqa: B018  # loads the detector
    except UnknownDetectorError as error:
        raise NotExplainableError(f"a detector of its version cannot be loaded, {error}") from None
    return version


def _explained(
    store: JobStore, monitor: MonitorRow, target: TargetRow, event: Event, version: VersionRow
) -> Explained:
    """Return what the version says of the event, from its points and those that its windows reach."""
    spec = MonitorSpec.from_json(monitor.config)
    job = MonitorJob(store, Inline(), monitor, spec)
    newest = max(row.last_ts or 0 for row in store.series() if row.id in target.series_ids)
    asked = Asked(
        target=target,
        parts=((version, event.interval.start, event.interval.end + 1),),
        settled_until=target.settled_until or 0,
        observed_until=max(newest, event.interval.end) + 1,
    )
    (scoring,), weights = assemble(job, [asked], LineBook(job, dry_run=True))
    return why.explain(spec, scoring, weights, event.interval)


def _doubts(event: Event, version: VersionRow, explained: Explained) -> list[str]:
    """Return why what is told now may differ from what flagged the event."""
    if event.interval.peak_at < version.train_stop:
        return [
            "It lies in the history that its model learned from. Models that had not seen it scored it, and "
            "are not kept: what its members say here is told by the one that knows it, which gives its peak "
            f"{explained.anomaly_score:.3g} instead of {event.interval.peak_score:.3g}."
        ]
    if abs(explained.anomaly_score - event.interval.peak_score) > SAME_SCORE * event.interval.peak_score:
        return [
            f"Scored again, its peak has {explained.anomaly_score:.3g} instead of "
            f"{event.interval.peak_score:.3g}: points, lines or settings have changed since. "
            "`anomaly rescore` brings it up to date."
        ]
    return []


# -- as rows ------------------------------------------------------------------------


def _fill(found: Explanation, explained: Explained, series: Sequence[str]) -> None:
    """Put what was computed into rows that name series and times."""
    # The score that is told is the one that flagged it, which a list shows too.
    peak_score = found.event["peak_score"]
    surprise = peak_score * explained.line
    found.score = {
        "anomaly_score": peak_score,
        "surprise": surprise,
        "one_in": why.one_in(surprise),
        "surprise_at_line": explained.line,
        "one_in_at_line": why.one_in(explained.line),
        "mode": str(explained.mode),
        "scored_again": explained.anomaly_score,
        "words": _odds_words(surprise, explained.line),
    }
    found.members = [asdict(said) for said in explained.members]
    stretch = explained.stretch
    found.where = {
        "start_at": iso_seconds(stretch.start),
        "end_at": iso_seconds(stretch.end),
        "steps": stretch.n_steps,
    }
    found.parts = None if explained.parts is None else dict(explained.parts)
    found.expected = [
        {
            "moment": look.moment,
            "at": iso_seconds(look.at),
            "series": series[look.channel],
            "y": look.y,
            "yhat": look.yhat,
            "yhat_lower": look.yhat_lower,
            "yhat_upper": look.yhat_upper,
        }
        for look in explained.looks
    ]


def _stored_look(row: Json) -> Json:
    """Return what is stored of the peak, as a row of ``expected``."""
    return {
        "moment": "peak",
        "at": row["peak_at"],
        "series": row["series"],
        "y": row["y_at_peak"],
        "yhat": row["yhat_at_peak"],
        "yhat_lower": None,
        "yhat_upper": None,
    }


def _odds_words(surprise: float, line: float) -> str:
    rare = why.odds(surprise)
    verb = "score" if rare.endswith("steps") else "scores"
    return f"{rare[:1].upper()}{rare[1:]} {verb} so high; the line lies at {why.odds(line)}."
