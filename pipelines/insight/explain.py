"""Why an interval was flagged: which model spoke and where, and what it had expected.

Nothing of this is stored: a score is a function of points, version and line, so it is computed again for
the one interval that is asked for. Plain values, arrays and bytes in, numbers and sentences out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.gaussian import GaussianConfig, GaussianDetector
from pipelines.errors import NotExplainableError
from pipelines.monitor import MonitorSpec
from pipelines.names import Kind, Mode, Status
from pipelines.records import Event, Interval, Values
from pipelines.steps import flag, prepare
from pipelines.steps.line import Calibrated
from pipelines.workers.alone import BAND_SCALES
from pipelines.workers.judge import expected_run, in_force
from pipelines.workers.score import ScoredSteps, raw_scores
from pipelines.workers.tasks import ScoreTarget

HIGH = 0.5
"""A score is highest where it is at least this share of its peak."""

RAREST = 1e9
"""Beyond one step in so many, how rare a score is hangs on the shape of the tail alone: no number is told."""


@dataclass(frozen=True)
class Said:
    """What one member of a version said at the peak.

    Attributes:
        finds: what it is there for; empty where it stands alone.
        window: steps of its window.
        view: what prepare leaves in the steps it sees, ``full`` or ``plain``.
        raw_score: in the detector's own scale; None where it had none.
        score: on the scale that all members share, 1 where their tail begins; None where it stands alone.
        share: of the square of the joined score, 0 to 1.
    """

    detector: str
    finds: str
    window: int
    view: str
    raw_score: float | None
    score: float | None
    share: float


@dataclass(frozen=True)
class Stretch:
    """Where the leading member's score is highest: first and last step, epoch seconds, both inside."""

    start: int
    end: int
    n_steps: int


@dataclass(frozen=True)
class Compared:
    """One channel at one step: what was seen beside what was expected, in the series' unit.

    Attributes:
        moment: ``peak`` or ``start``.
        at: epoch seconds.
        channel: its place in the target.
        y: None where no point came.
        yhat_lower, yhat_upper: the band; None where the detector has no scale.
    """

    moment: str
    at: int
    channel: int
    y: float | None
    yhat: float
    yhat_lower: float | None
    yhat_upper: float | None


@dataclass(frozen=True)
class Explained:
    """Why an interval was flagged.

    Attributes:
        mode: which of the two scores counted at the peak.
        anomaly_score: at the peak, computed again; 1 is the line.
        line: surprise at the line that was in force there.
        members: by their share, the largest first.
        parts: shares of what a Gaussian joins to its score, where one leads: ``window``, ``level``, ``step``.
        looks: at the peak, then at the start where that is another step.
    """

    mode: Mode
    anomaly_score: float
    line: float
    members: tuple[Said, ...]
    stretch: Stretch
    parts: Mapping[str, float] | None
    looks: tuple[Compared, ...]


def explain(
    spec: MonitorSpec, target: ScoreTarget, weights: Mapping[int, bytes], interval: Interval
) -> Explained:
    """Return why an interval was flagged.

    Args:
        target: with one piece, of the version that scored the peak, that holds the interval.
        weights: of that version, by id.

    Raises:
        NotExplainableError: there is no score at the peak any more, or no line to hold it against.
    """
    (steps,) = raw_scores(spec, [target], dict(weights))[0]
    place = _Place.of(target, steps, interval)
    calibrated = _calibrated(target, place)
    members = sorted(_said(place), key=lambda each: -each[0].share)
    anomaly = calibrated.anomaly_score(place.scores(steps))
    normal = _Normal.of(place)
    lead = members[0][1]
    course = _scaled(lead, place) if steps.parts else anomaly
    return Explained(
        mode=place.mode,
        anomaly_score=float(anomaly[place.peak]),
        line=calibrated.line,
        members=tuple(said for said, _ in members),
        stretch=stretch_of(place.ts[place.own], course[place.own]),
        parts=_gaussian_parts(lead, place),
        looks=tuple(_looks(place, normal)),
    )


@dataclass(frozen=True)
class _Place:
    """Where an interval lies among the steps of a piece: its peak, first and last step, and its mode."""

    steps: ScoredSteps
    mode: Mode
    peak: int
    first: int
    last: int

    @classmethod
    def of(cls, target: ScoreTarget, steps: ScoredSteps, interval: Interval) -> _Place:
        mode = Mode.SETTLED if interval.peak_at < target.settled_until else Mode.LIVE
        wanted = [interval.peak_at, interval.start, interval.end]
        ts = steps.row.prepared.ts[steps.inside]
        place = cls(steps, mode, *np.searchsorted(ts, wanted).tolist())
        if np.isnan(steps.row.prepared.raw[steps.inside][place.peak]).all():
            raise NotExplainableError("its points are not stored any more (retention.points)")
        if np.isnan(place.scores(steps)[place.peak]):
            raise NotExplainableError("too many points before its peak are missing to score it again")
        return place

    @property
    def ts(self) -> list[int]:
        found: list[int] = self.steps.row.prepared.ts[self.steps.inside].tolist()
        return found

    @property
    def own(self) -> slice:
        """The steps of the interval."""
        return slice(self.first, self.last + 1)

    def scores(self, steps: ScoredSteps) -> Values:
        return steps.own(self.mode)


def _calibrated(target: ScoreTarget, place: _Place) -> Calibrated:
    """Return the calibration in force at the peak."""
    if not target.lines[str(place.mode)].lines:
        raise NotExplainableError("its monitor has no line any more")
    (found,) = (
        Calibrated.of(body, line, seen)
        for rows, body, line, seen in in_force(target, place.steps, place.mode)
        if rows[place.peak]
    )
    return found


# -- which member, and where --------------------------------------------------------


def _said(place: _Place) -> Iterator[tuple[Said, ScoredSteps]]:
    """Yield what each member said, with its steps."""
    parts = place.steps.parts
    scaled = [float(_scaled(part, place)[place.peak]) for part in parts] or [1.0]
    total = float(np.nansum(np.square(scaled))) or 1.0
    for part, score in zip(parts or (place.steps,), scaled, strict=True):
        fitted = part.row.member
        yield (
            Said(
                detector=fitted.detector,
                finds=fitted.member.finds,
                window=fitted.window,
                view=str(fitted.member.view),
                raw_score=_known(place.scores(part)[place.peak]),
                score=_known(score) if parts else None,
                share=0.0 if np.isnan(score) else score**2 / total,
            ),
            part,
        )


def _scaled(part: ScoredSteps, place: _Place) -> Values:
    """Return the scores of one of several members on the scale that they share."""
    return part.row.member.scales[str(place.mode)].of_scores(place.scores(part))


def stretch_of(ts: Sequence[int], course: Values) -> Stretch:
    """Return the steps around the highest one at which a course is about as high.

    >>> stretch_of(range(0, 60, 10), np.array([9.0, 1.0, 5.0, 10.0, 6.0, 4.0]))
    Stretch(start=20, end=40, n_steps=3)

    Args:
        ts: times of the steps, epoch seconds.
        course: a score of every step, 0 or more, NaN for none.
    """
    highest = int(np.nanargmax(course))
    runs = flag.runs(course >= HIGH * course[highest])
    ((first, last),) = (run for run in runs if run[0] <= highest <= run[1])
    return Stretch(ts[first], ts[last], last - first + 1)


def _gaussian_parts(lead: ScoredSteps, place: _Place) -> dict[str, float] | None:
    """Return what share of a Gaussian's score its parts have at the peak, over the windows it comes from."""
    model = lead.models
    if not isinstance(model, GaussianDetector) or lead.row.member.member.apart:
        return None
    assert isinstance(model.config, GaussianConfig)
    if model.config.whole:
        return None
    at, window = place.peak + lead.inside.start, lead.windows.window
    first = max(0, at - window + 1)
    stop = min(at + 1, lead.windows.n_windows) if place.mode is Mode.SETTLED else first + 1
    around = lead.windows.select([lead.at]).span(first, stop)
    found = model.select([lead.at]).parts(around)
    of_window = torch.arange(stop - first)
    step = found.step[0, of_window, at - first - of_window]
    surprises = torch.stack([found.window[0], found.level[0], step])[:, around.scorable[0]]
    squares = surprises.clamp_min(0).square().sum(1)
    shares = (squares / squares.sum().clamp_min(1e-12)).tolist()
    return dict(zip(("window", "level", "step"), shares, strict=True))


# -- expected against seen ----------------------------------------------------------


@dataclass(frozen=True)
class _Normal:
    """What would have been normal at the steps of the interval, scaled, ``(n, n_channels)`` each."""

    first: int
    mean: NDArray[np.float32]
    scale: NDArray[np.float32] | None

    @classmethod
    def of(cls, place: _Place) -> _Normal:
        # With one window around it hidden too, no window that covers a step of it sees what lies beyond.
        found = expected_run(place.steps, place.first, place.last)
        return cls(
            place.first, found.mean[0].numpy(), None if found.scale is None else found.scale[0].numpy()
        )

    def at(self, step: int, scales: float = 0.0) -> NDArray[np.float32] | None:
        """Return what is so many standard deviations above the expected; None where none is known."""
        mean = self.mean[step - self.first]
        if not scales:
            return mean
        return None if self.scale is None else mean + scales * self.scale[step - self.first]


def _looks(place: _Place, normal: _Normal) -> Iterator[Compared]:
    for moment, step in {"peak": place.peak, "start": place.first}.items():
        if moment == "start" and step == place.peak:
            continue
        y = place.steps.row.prepared.raw[place.steps.inside][step]
        yhat, lower, upper = (
            _restored(place, step, normal.at(step, scales)) for scales in (0.0, -BAND_SCALES, BAND_SCALES)
        )
        assert yhat is not None
        for channel in range(len(y)):
            yield Compared(
                moment,
                place.ts[step],
                channel,
                y=_known(y[channel]),
                yhat=float(yhat[channel]),
                yhat_lower=None if lower is None else float(lower[channel]),
                yhat_upper=None if upper is None else float(upper[channel]),
            )


def _restored(place: _Place, step: int, scaled: NDArray[np.float32] | None) -> Values | None:
    """Return one step's scaled values in the series' unit."""
    if scaled is None:
        return None
    row, at = place.steps.row, step + place.steps.inside.start
    return prepare.restore(row.recipe, row.prepared, scaled[None], slice(at, at + 1))[0]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# -- in words -----------------------------------------------------------------------


def one_in(surprise: float) -> int:
    """Return in how many normal steps one scores so high, to two digits.

    >>> one_in(4.3), one_in(0.0)
    (20000, 1)
    """
    steps = 10.0 ** min(max(surprise, 0.0), 300.0)
    return int(float(f"{steps:.2g}"))


def odds(surprise: float) -> str:
    """Return how rare a surprise is.

    >>> odds(4.3), odds(12.0), odds(0.1)
    ('one normal step in 20,000', 'less than one normal step in 1,000,000,000', '79% of normal steps')
    """
    if surprise < np.log10(2.0):
        return f"{10.0 ** -max(surprise, 0.0):.0%} of normal steps"
    if surprise > np.log10(RAREST):
        return f"less than one normal step in {RAREST:,.0f}"
    return f"one normal step in {one_in(surprise):,}"


def rule(event: Event) -> str | None:
    """Return what a flagged interval that no model scored goes by, as a sentence; None for an anomaly."""
    found = event.interval
    if event.added and event.status is Status.BELOW_LINE:
        return "Somebody marked it by hand: no score flagged it."
    # The score of a rule is its steps over the fewest that count.
    limit = round(found.n_points / max(found.peak_score, 1e-9))
    match found.kind:
        case Kind.DATA_MISSING:
            return (
                f"No point came for {found.n_points:,} steps; a gap of {limit:,} or more is flagged "
                "(policy missing_after_steps)."
            )
        case Kind.STALE:
            return (
                f"The series stopped: no point for at least {found.n_points:,} steps up to now; {limit:,} or "
                "more are flagged (policy missing_after_steps)."
            )
        case Kind.UNSCORED:
            return (
                f"{found.n_points:,} points came and have no score, because too many steps between them are "
                f"without one; {limit:,} or more are flagged. Is the source's `step` how often points come?"
            )
        case Kind.FLATLINE:
            value = "one value" if found.y_at_peak is None else f"the value {found.y_at_peak:,.6g}"
            return (
                f"{found.n_points:,} points in a row have {value}; {limit:,} or more equal ones are flagged: "
                f"{flag.FLAT_MARGIN:g} times the longest run its model was learned from and two more, and "
                f"never fewer than {flag.MIN_FLAT_STEPS}."
            )
        case _:
            return None
