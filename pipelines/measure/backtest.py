"""How good a detector is on a labelled series: the service's own steps, and every metric of what comes out.

Nothing is written a second time here: a series is fitted, calibrated, scored and flagged by the functions
that the jobs call. Unsupervised, it is what the service makes of a history it meets for the first time:
every score comes from models that did not see its block. Split, one model is fitted on the training rows
and scores the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import InvalidError
from pipelines.measure import metrics
from pipelines.measure.metrics import PrecisionRecall, Segments
from pipelines.monitor import MonitorSpec
from pipelines.names import AUTO, Kind, Mode
from pipelines.records import Interval, Json, Points, Seconds, Values
from pipelines.steps import prepare
from pipelines.times import WEEK
from pipelines.workers import alone, members
from pipelines.workers.alone import History, Model
from pipelines.workers.bank import config_of
from pipelines.workers.fit import Fitted, NotReady
from pipelines.workers.judge import scored
from pipelines.workers.score import ScoredSteps
from pipelines.workers.tasks import Scored

MANY_CHANNELS_WINDOW = 10
"""Steps of a window of several channels where none is given: their values are all in it."""

PLOTTED_SCALES = 3.0
"""Usual deviations between season with level and the edge of what is plotted as normal."""

SPLITS = ("unsupervised", "train")

NAB = {f"nab_{profile.lower().replace('-', '_')}": profile for profile in metrics.PROFILES}
"""NAB's profiles by the name of their figure."""

KINDS = (Kind.ANOMALY, Kind.FLATLINE)
"""What counts as flagged: gaps hold no rows that a label could mark."""

Span = tuple[int, int]
"""First and last moment, epoch seconds; both belong to it."""


@dataclass(frozen=True)
class Labelled:
    """A series with what is known to be anomalous in it.

    Attributes:
        ts: epoch seconds of the rows, ascending; several rows may share one.
        values: shape ``(n, n_channels)``, NaN where missing.
        truth: labelled anomalies; those that share a row are one.
        train_until: time of the last training row; None where the data name none.
        unsure: stretches nobody has judged; their rows count neither way, unless they are labelled.
    """

    dataset: str
    series: str
    ts: Seconds
    values: Values
    truth: tuple[Span, ...]
    step_seconds: int
    train_until: int | None = None
    unsure: tuple[Span, ...] = ()
    timezone: str = "UTC"

    @property
    def points(self) -> tuple[Points, ...]:
        """The finite values of every channel; of rows that share a time the last counts."""
        return tuple(alone.points_of(self.ts, column) for column in self.values.T)

    def marked(self, spans: Sequence[Span]) -> NDArray[np.bool_]:
        """Return the rows that lie in any of the spans, shape ``(n,)``."""
        rows = np.zeros(len(self.ts), dtype=np.bool_)
        for start, end in spans:
            a, b = np.searchsorted(self.ts, [start, end + 1])
            rows[a:b] = True
        return rows


@dataclass(frozen=True)
class Candidate:
    """What is tested: a monitor's settings under a name.

    Attributes:
        spec: its ``params`` may leave the window open; then it is the one of ``window_of``.
    """

    name: str
    spec: MonitorSpec

    def on(self, labelled: Labelled) -> MonitorSpec:
        """Return the settings for one series: its window (``auto`` has its own) and a budget of its own."""
        params = self.spec.params
        if self.spec.detector != AUTO:
            params = {"window": window_of(*labelled.values.shape), **params}
        return replace(
            self.spec,
            params=params,
            scope="series",
            channels=(),
            group_by=(),
            threshold=replace(self.spec.threshold, per="series"),
        )


@dataclass(frozen=True)
class Tested:
    """What became of a candidate on a series.

    Attributes:
        row: every metric under its name.
        course: what there is to plot.
    """

    row: Json
    course: Plotted


@dataclass(frozen=True)
class Plotted:
    """A series, what was normal, its scores and what was flagged, by row.

    Attributes:
        channel: which one is shown, of several the one that deviates most.
        y: shape ``(n,)``; NaN where missing.
        low, high: three usual deviations around season and level, NaN where there is no model.
        score: settled anomaly_score, 1 is the line; NaN where there is none.
        flagged, flagged_live, truth: segments of rows.
    """

    labelled: Labelled
    channel: int
    y: Values
    low: Values
    high: Values
    score: Values
    flagged: Segments
    flagged_live: Segments
    truth: Segments


def window_of(n_rows: int, n_channels: int) -> int:
    """Return the window of a series where none is given: as long as the buffer of the metrics.

    >>> window_of(4000, 1), window_of(300, 1), window_of(4000, 19)
    (100, 24, 10)
    """
    return MANY_CHANNELS_WINDOW if n_channels > 1 else metrics.buffer_of(n_rows)


def run(labelled: Labelled, candidate: Candidate, split: str = "unsupervised") -> Tested:
    """Return every metric of a candidate on a series.

    A series that cannot be fitted has no scores: its row says why, and its metrics are those of a
    constant score, so that failing pays no better than guessing.

    Raises:
        InvalidError: an unknown split, a training part asked for that the series does not have, or no row
            to judge.
    """
    spec = candidate.on(labelled)
    cut = _train_stop(labelled, split)
    rows = _Rows.of(labelled, cut if split == "train" else None)
    if not len(rows):
        raise InvalidError(
            "no row is left to judge: all are training rows, or in stretches that nobody judged"
        )
    history = _history(labelled)
    began = time.perf_counter()
    model = alone.fit(spec, history, history.start, cut)
    fit_seconds = time.perf_counter() - began
    if isinstance(model, NotReady):
        outcome, score_seconds = _Judged.nothing(labelled), 0.0
    else:
        outcome, score_seconds = _scored(labelled, model, history, cut, split)
    row = {
        **_identity(labelled, candidate, spec, split),
        "why": model.why if isinstance(model, NotReady) else "",
        **rows.counts(),
        **_of_scores(rows, outcome),
        **_of_intervals(rows, outcome, spec),
        **_seconds(None if isinstance(model, NotReady) else model.fitted, fit_seconds, score_seconds),
    }
    return Tested(row, _course(labelled, rows, outcome))


# -- the service's steps ------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """What the service makes of a series: scores of grid steps, and intervals of each mode.

    Attributes:
        band: season and level with the usual deviation, transformed back; low, mid and high.
    """

    ts: Seconds
    step_seconds: int
    raw: dict[Mode, Values]
    anomaly: Values
    found: dict[Mode, tuple[Interval, ...]]
    low: Values
    high: Values
    scaled: Values

    @classmethod
    def nothing(cls, labelled: Labelled) -> _Judged:
        none = np.empty(0)
        bands = np.empty((0, labelled.values.shape[1]))
        return cls(
            np.empty(0, dtype=np.int64),
            labelled.step_seconds,
            dict.fromkeys(Mode, none),
            none,
            dict[Mode, tuple[Interval, ...]].fromkeys(Mode, ()),
            bands,
            bands,
            bands,
        )


def _train_stop(labelled: Labelled, split: str) -> int:
    """Return where the training span ends, exclusive, epoch seconds."""
    if split not in SPLITS:
        raise InvalidError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
    if split == "unsupervised":
        return int(labelled.ts[-1]) + 1
    if labelled.train_until is None:
        raise InvalidError(
            "the series names no training rows (train_until in meta.json); test it with --split unsupervised"
        )
    return labelled.train_until + 1


def _history(labelled: Labelled) -> History:
    return History.of(
        labelled.series,
        labelled.points,
        int(labelled.ts[0]),
        int(labelled.ts[-1]) + 1,
        step_seconds=labelled.step_seconds,
        timezone=labelled.timezone,
    )


def _scored(
    labelled: Labelled, model: Model, history: History, cut: int, split: str
) -> tuple[_Judged, float]:
    """Return the outcome, and the seconds that a scoring pass takes."""
    first = model.fitted.start if split == "unsupervised" else cut
    asked = model.asked(history, first, history.stop, unseen=False)
    began = time.perf_counter()
    steps = alone.steps_of(model, asked)
    seconds = time.perf_counter() - began
    if split == "unsupervised":
        steps = alone.steps_of(model, model.asked(history, first, history.stop, unseen=True))
    settled = scored(model.spec, asked, steps)
    if not len(settled.ts):
        # The rows to judge lie nearest to a step of the training span.
        return _Judged.nothing(labelled), seconds
    live = scored(model.spec, replace(asked, settled_until=0), steps)
    return _outcome(labelled, settled, live, steps), seconds


def _outcome(labelled: Labelled, settled: Scored, live: Scored, steps: Sequence[ScoredSteps]) -> _Judged:
    band = alone.usual(steps, PLOTTED_SCALES)
    return _Judged(
        ts=settled.ts,
        step_seconds=labelled.step_seconds,
        raw={Mode.LIVE: settled.live, Mode.SETTLED: settled.settled},
        anomaly=settled.settled_anomaly,
        found={Mode.LIVE: live.found, Mode.SETTLED: settled.found},
        low=band.low,
        high=band.high,
        scaled=np.concatenate([part.row.prepared.values[part.inside] for part in steps]).astype(np.float64),
    )


# -- rows ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """The rows that are judged.

    Attributes:
        kept: of all rows, those that are judged: behind the training span, and labelled or not unsure.
        truth: labels of the kept rows.
        segments: the labelled anomalies among the kept rows.
    """

    labelled: Labelled
    kept: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    segments: Segments

    @classmethod
    def of(cls, labelled: Labelled, start: int | None) -> _Rows:
        true = labelled.marked(labelled.truth)
        kept = true | ~labelled.marked(labelled.unsure)
        if start is not None:
            kept &= labelled.ts >= start
        return cls(labelled, kept, true[kept], _segments(labelled, labelled.truth, kept))

    def __len__(self) -> int:
        return len(self.truth)

    def counts(self) -> Json:
        return {
            "rows": len(self),
            "labels": len(self.segments),
            "share_labelled": float(self.truth.mean()) if len(self) else 0.0,
        }

    def spread(self, ts: Seconds, values: Values, step_seconds: int) -> Values:
        """Return the grid step's value of every kept row, NaN where it has none."""
        out = np.full(len(self), np.nan)
        if not len(ts):
            return out
        at, inside = alone.grid_steps(self.labelled.ts[self.kept], ts, step_seconds)
        out[inside] = values[at[inside]]
        return out

    def found(self, intervals: Sequence[Interval]) -> Segments:
        """Return flagged intervals as segments of kept rows; what overlaps counts once."""
        return self.nearest([(i.start, i.end) for i in intervals if i.kind in KINDS])

    def nearest(self, spans: Sequence[Span]) -> Segments:
        """Return spans of grid steps as segments of the kept rows that are nearest to them."""
        step = self.labelled.step_seconds
        # A row in the middle between two steps belongs to the later one.
        wide = [(first - step // 2, last + (step - 1) // 2) for first, last in spans]
        return _segments(self.labelled, wide, self.kept)


def _segments(labelled: Labelled, spans: Sequence[Span], kept: NDArray[np.bool_]) -> Segments:
    """Return spans of time as segments of the rows kept: one of those that overlap, none of those without."""
    before = np.concatenate(([0], np.cumsum(kept)))
    edges = np.array(_united(spans), dtype=np.int64).reshape(-1, 2) + np.array([0, 1])
    rows = before[np.searchsorted(labelled.ts, edges)]
    return np.stack([rows[:, 0], rows[:, 1] - 1], axis=1)[rows[:, 1] > rows[:, 0]].astype(np.int64)


def _united(spans: Sequence[Span]) -> list[Span]:
    """Return spans in order, those that overlap joined."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out


# -- metrics ------------------------------------------------------------------------


def _identity(labelled: Labelled, candidate: Candidate, spec: MonitorSpec, split: str) -> Json:
    shape = (labelled.values.shape[1], len(labelled.ts))
    lead, *_ = (config_of(m.detector, m.params) for m in members.asked(spec.detector, spec.params, *shape))
    return {
        "dataset": labelled.dataset,
        "series": labelled.series,
        "detector": candidate.name,
        "baseline": lead[0].baseline,
        "split": split,
        "window": lead[1].window,
        "channels": labelled.values.shape[1],
        "step_seconds": labelled.step_seconds,
    }


def _of_scores(rows: _Rows, outcome: _Judged) -> Json:
    """Return the metrics of the raw scores; a row without one gets the series' lowest."""
    out: Json = {}
    for mode, end in ((Mode.SETTLED, ""), (Mode.LIVE, "_live")):
        scores = rows.spread(outcome.ts, outcome.raw[mode], outcome.step_seconds)
        known = ~np.isnan(scores)
        if mode is Mode.SETTLED:
            out["share_scored"] = float(known.mean()) if len(known) else 0.0
        scores = np.where(known, scores, scores[known].min() if known.any() else 0.0)
        surface = metrics.vus(rows.truth, scores, metrics.buffer_of(len(rows)))
        out |= {
            f"vus_pr{end}": surface.pr,
            f"vus_roc{end}": surface.roc,
            f"auc_pr{end}": metrics.auc_pr(rows.truth, scores),
            f"auc_roc{end}": metrics.auc_roc(rows.truth, scores),
        }
    return _plain(out)


def _of_intervals(rows: _Rows, outcome: _Judged, spec: MonitorSpec) -> Json:
    """Return the metrics of what was flagged, settled and live."""
    weeks = float(np.count_nonzero(~rows.truth)) * rows.labelled.step_seconds / WEEK
    asked = spec.threshold.alarms_per_week if spec.threshold.method == "alarms" else None
    out: Json = {"unlabelled_weeks": weeks, "alarms_asked_per_week": asked}
    for mode, end in ((Mode.SETTLED, ""), (Mode.LIVE, "_live")):
        found = rows.found(outcome.found[mode])
        alarms = _alarms(rows, outcome.found[mode])
        measured = {
            "flagged": len(found),
            "share_flagged": metrics.share_flagged(found, len(rows)),
            **_overlap(rows, found),
            **_rates("range", metrics.range_based(rows.segments, found)),
            **_rates("affiliation", metrics.affiliation(rows.segments, found, len(rows))),
            **_nab(rows, found),
            "alarms": alarms,
            "alarms_per_week": alarms / weeks if weeks else None,
        }
        out |= {f"{name}{end}": value for name, value in measured.items()}
    return _plain({**out, **_delay(rows, outcome)})


def _overlap(rows: _Rows, found: Segments) -> Json:
    """Return the counts, which are to be summed over series, and what they come to on this one."""
    counts = metrics.overlap(rows.segments, found)
    rates = PrecisionRecall(counts.precision, counts.recall)
    unknown = PrecisionRecall(np.nan, np.nan)
    return {
        "overlap_tp": counts.tp,
        "overlap_fp": counts.fp,
        "overlap_fn": counts.fn,
        **_rates("overlap", rates if len(rows.segments) else unknown),
    }


def _rates(name: str, rates: PrecisionRecall) -> Json:
    return {
        f"{name}_precision": rates.precision,
        f"{name}_recall": rates.recall,
        f"{name}_f1": rates.f1,
    }


def _nab(rows: _Rows, found: Segments) -> Json:
    """Return NAB's scores, and what was earned, which is to be summed over a corpus."""
    out: Json = {}
    for name, profile in NAB.items():
        earned = metrics.nab(rows.segments, found, len(rows), profile)
        out |= {name: earned.score, f"{name}_raw": earned.raw, f"{name}_perfect": earned.perfect}
    return out


def _alarms(rows: _Rows, intervals: Sequence[Interval]) -> int:
    """Return the alarms on stretches without a label: what the budget is about, so no rule's of its own."""
    anomalies = [each for each in intervals if each.kind is Kind.ANOMALY]
    return metrics.overlap(rows.segments, rows.found(anomalies)).fp


def _delay(rows: _Rows, outcome: _Judged) -> Json:
    """Return how late the live flags of the labelled anomalies came, in steps."""
    flagged = np.zeros(len(rows), dtype=np.bool_)
    # A flat stretch is known to be one when it has lasted long enough, not where it begins.
    live = [
        (i.start if i.detected_at is None else i.detected_at, i.end)
        for i in outcome.found[Mode.LIVE]
        if i.kind in KINDS
    ]
    for first, last in rows.nearest(live):
        flagged[first : last + 1] = True
    late = metrics.delays(rows.segments, flagged)
    known = late[~np.isnan(late)]
    return {
        "found_live": len(known),
        "delay_steps_median": float(np.median(known)) if len(known) else None,
        "delay_steps_mean": float(known.mean()) if len(known) else None,
    }


def _seconds(fitted: Fitted | None, whole: float, score_seconds: float) -> Json:
    """Return seconds of the model's fit, of everything else a fit does, and of a scoring pass."""
    fit = 0.0 if fitted is None else float(fitted.card["fit_seconds"])
    return {
        "fit_seconds": fit,
        "calibrate_seconds": round(whole - fit, 4),
        "score_seconds": round(score_seconds, 4),
    }


def _plain(values: Json) -> Json:
    """Return NaN as None: JSON has no word for it."""
    return {name: None if value != value else value for name, value in values.items()}


# -- plots --------------------------------------------------------------------------


def _course(labelled: Labelled, rows: _Rows, outcome: _Judged) -> Plotted:
    everything = _Rows.of(replace(labelled, unsure=()), None)
    found = everything.found(outcome.found[Mode.SETTLED])
    channel = _loudest(labelled, everything, outcome, found)

    def spread(values: Values) -> Values:
        return everything.spread(outcome.ts, values, outcome.step_seconds)

    has_band = len(outcome.ts) > 0
    nothing = np.full(len(labelled.ts), np.nan)
    return Plotted(
        labelled=labelled,
        channel=channel,
        y=np.clip(labelled.values[:, channel], -prepare.HUGE, prepare.HUGE),
        low=spread(outcome.low[:, channel]) if has_band else nothing,
        high=spread(outcome.high[:, channel]) if has_band else nothing,
        score=spread(outcome.anomaly),
        flagged=found,
        flagged_live=everything.found(outcome.found[Mode.LIVE]),
        truth=everything.segments,
    )


def _loudest(labelled: Labelled, rows: _Rows, outcome: _Judged, found: Segments) -> int:
    """Return the channel that deviates most where something is labelled or flagged."""
    if labelled.values.shape[1] == 1 or not len(outcome.ts):
        return 0
    marked = rows.truth.copy()
    for first, last in found:
        marked[first : last + 1] = True
    if not marked.any():
        return 0
    scaled = [rows.spread(outcome.ts, column, outcome.step_seconds)[marked] for column in outcome.scaled.T]
    return int(np.argmax([np.nan_to_num(np.abs(each)).mean() for each in scaled]))
