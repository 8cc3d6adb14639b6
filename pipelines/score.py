"""Score targets with the versions that data time gives them, and flag what reaches the line.

Runs inside a worker: plain values, arrays and bytes in and out. Every score here is a pure
function of points, version and line, so any span may be computed again, in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.base import Detector, Expected, Windows
from pipelines import absence, bank, flag, masks, members, prepare, shares
from pipelines.calibrate import Calibrated
from pipelines.evidence import Seen
from pipelines.executor import Failed, each_alone
from pipelines.fit import UnseenScores
from pipelines.masks import Span
from pipelines.members import FittedMember
from pipelines.monitor import WEEK, MonitorSpec
from pipelines.records import Interval, Json, Kind, Mode, Points, Seconds, TargetRow, Values

MODES = (Mode.LIVE, Mode.SETTLED)


@dataclass(frozen=True)
class SeenAt:
    """What was seen of one target's scores in one mode, from each data time on, ascending."""

    valid_from: Seconds = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    seen: tuple[Seen, ...] = ()

    def then(self, at: int, seen: Seen) -> SeenAt:
        """Return this with what is known from a later time on."""
        return SeenAt(np.append(self.valid_from, at), (*self.seen, seen))


@dataclass(frozen=True)
class Piece:
    """A version, and the half-open span of timestamps that are its to score.

    Attributes:
        bodies: what its fit taught of its scores, by mode.
        seen: what scores since have taught, by mode.
        learned_steps: steps of its training span.
        unseen: scores that are there already: of the training span, by models that did not see it.
    """

    version_id: int
    detector: str
    params: Json
    recipe: Json
    weights_id: int
    bodies: dict[str, Json]
    start: int
    stop: int
    learned_steps: int
    seen: dict[str, SeenAt] = field(default_factory=dict)
    unseen: UnseenScores | None = None


@dataclass(frozen=True)
class LinesAt:
    """Tail and line of one mode from a data time on, sorted by ``valid_from``."""

    valid_from: Seconds
    bodies: tuple[Json, ...]


@dataclass(frozen=True)
class ScoreTarget:
    """One target, the points its pieces need, and how far each kind of score goes.

    Attributes:
        settled_until: below this the settled score is what counts, from it on the live one.
        observed_until: the grid goes up to here; a trailing gap up to here is a stopped series.
        newest: time of every series' newest point, which may lie beyond the points given.
    """

    target: TargetRow
    points: tuple[Points, ...]
    pieces: tuple[Piece, ...]
    lines: dict[str, LinesAt]
    settled_until: int
    observed_until: int
    newest: tuple[int, ...]


@dataclass(frozen=True)
class ScoreTask:
    """Targets that share a worker call; ``weights`` by id, stored once however many share them."""

    spec: MonitorSpec
    targets: tuple[ScoreTarget, ...]
    weights: dict[int, bytes]


@dataclass(frozen=True)
class Scored:
    """The scores of a target's steps in columns of equal length, and what they flag."""

    target_id: int
    ts: Seconds
    version: Seconds
    live: Values
    live_anomaly: Values
    settled: Values
    settled_anomaly: Values
    found: tuple[Interval, ...]


@dataclass(frozen=True)
class _Row:
    """One member of one piece of a target, prepared with a window's margin on both sides."""

    owner: int
    piece: Piece
    member: FittedMember
    recipe: prepare.Recipe
    prepared: prepare.Prepared


@dataclass
class Steps:
    """The scores of one piece's own steps, and what it takes to explain them.

    ``row``, ``models``, ``windows`` and ``at`` are those of one member; once joined, of the leader.
    ``parts`` then holds what each member said.
    """

    row: _Row
    inside: slice
    live: Values
    settled: Values
    models: Detector
    windows: Windows
    at: int
    echo_live: NDArray[np.bool_]
    echo_settled: NDArray[np.bool_]
    parts: tuple[Steps, ...] = ()

    def scores(self, mode: Mode) -> Values:
        return self.live if mode is Mode.LIVE else self.settled

    def echoes(self, mode: Mode) -> NDArray[np.bool_]:
        """True for steps whose score is the echo of another."""
        return self.echo_live if mode is Mode.LIVE else self.echo_settled


def score_targets(task: ScoreTask) -> list[Scored | Failed]:
    """Return the scores and intervals of every target, in order."""

    def together(targets: Sequence[ScoreTarget]) -> list[Scored]:
        raw = raw_scores(task.spec, targets, task.weights)
        return [scored(task.spec, target, steps) for target, steps in zip(targets, raw, strict=True)]

    with bank.at_work(task.spec.device):
        return each_alone(together, task.targets)


def raw_scores(
    spec: MonitorSpec, targets: Sequence[ScoreTarget], weights: dict[int, bytes]
) -> list[list[Steps]]:
    """Return the raw scores of every target, a list of its pieces in order of time for each."""
    rows = [row for owner, target in enumerate(targets) for row in _rows(owner, target, spec)]
    # Opened once, however many members each holds.
    opened = {weights_id: bank.opened(packed) for weights_id, packed in weights.items()}
    done: dict[tuple[int, int], list[Steps]] = defaultdict(list)
    for alike in _alike(rows, opened):
        for steps in _score_rows(alike, opened):
            done[steps.row.owner, steps.row.piece.start].append(steps)
    out: list[list[Steps]] = [[] for _ in targets]
    for (owner, _), parts in sorted(done.items()):
        out[owner].append(_joined(parts))
    return out


def _joined(parts: list[Steps]) -> Steps:
    """Return the steps of a piece from those of its members."""
    parts.sort(key=lambda steps: steps.row.member.at or 0)
    lead = parts[0]
    if lead.row.member.at is None or lead.row.piece.unseen is not None:
        return lead
    own = [steps.row.member for steps in parts]
    each = {mode: [part.scores(mode) for part in parts] for mode in MODES}
    live, settled = (members.combined(own, each[mode], mode) for mode in MODES)
    echo_live, echo_settled = (members.echoes(own, each[mode], mode) for mode in MODES)
    return replace(
        lead,
        live=live,
        settled=settled,
        echo_live=echo_live,
        echo_settled=echo_settled,
        parts=tuple(parts),
    )


def _rows(owner: int, target: ScoreTarget, spec: MonitorSpec) -> Iterator[_Row]:
    calendar = spec.calendar_of(target.target.labels)
    points = masks.without(target.points, _masked_spans(spec, target))
    for piece in target.pieces:
        of = members.stored(piece.detector, piece.params, piece.recipe)
        if piece.unseen is not None:
            # Its scores are there already, joined: the leader alone is asked, what it expects.
            of = of[:1]
        # Members with one recipe share the object: its steps are prepared once.
        prepared: dict[int, tuple[prepare.Recipe, prepare.Prepared]] = {}
        longest = max(member.window for member in of)
        for member in of:
            known = id(member.recipe)
            if known not in prepared:
                recipe = prepare.Recipe.from_json(member.recipe)
                margin = longest * recipe.step_seconds
                stop = min(piece.stop + margin, target.observed_until)
                steps = prepare.apply(recipe, points, piece.start - margin, stop, calendar)
                prepared[known] = (recipe, steps)
            yield _Row(owner, piece, member, *prepared[known])


def _masked_spans(spec: MonitorSpec, target: ScoreTarget) -> list[Span]:
    """Return the spans around a target's pieces that a calendar masks."""
    calendar, timezone = spec.calendar_of(target.target.labels), target.target.timezone
    first = min((int(p.ts[0]) for p in target.points if len(p.ts)), default=target.observed_until)
    return masks.of_calendar(calendar, timezone, first, target.observed_until)


def _alike(rows: Sequence[_Row], opened: dict[int, dict[str, Tensor]]) -> list[list[_Row]]:
    """Group rows that can stand in one bank, long and short apart so that padding stays small.

    Weights that an earlier build fitted may lack what those of this one have.
    """
    groups: dict[tuple[object, ...], list[_Row]] = defaultdict(list)
    for row in rows:
        size = len(row.prepared.ts)
        member = row.member
        names = frozenset(member.own(opened[row.piece.weights_id]))
        kind = (member.detector, str(sorted(member.params.items())), row.piece.unseen is None, names)
        groups[*kind, member.at, member.member.apart, size.bit_length(), row.prepared.values.shape[1]].append(
            row
        )
    return list(groups.values())


def _score_rows(rows: Sequence[_Row], opened: dict[int, dict[str, Tensor]]) -> list[Steps]:
    lead = rows[0].member
    cls, config = lead.config
    ids = sorted({row.piece.weights_id for row in rows})
    place = {weights_id: at for at, weights_id in enumerate(ids)}
    models = bank.assembled(cls, config, [lead.own(opened[i]) for i in ids])
    per = models.n_targets // len(ids)
    places = [place[row.piece.weights_id] * per for row in rows]
    models = models.select([at + channel for at in places for channel in range(per)])
    starts = [row.recipe.index(int(row.prepared.ts[0])) if len(row.prepared.ts) else 0 for row in rows]
    windows = bank.windows_of([row.prepared for row in rows], config.window, starts)
    if rows[0].piece.unseen is not None:
        return [_seen_steps(row, models, windows, at) for at, row in enumerate(rows)]
    if lead.member.apart:
        scores = bank.score_steps(models, bank.apart(windows))
        votes = np.array([bank.votes_of(row.recipe.channels) for row in rows])
        live, settled = (bank.together(each, votes).numpy() for each in scores)
    else:
        live, settled = (each.numpy() for each in bank.score_steps(models, windows))
    return [_own_steps(row, live[at], settled[at], models, windows, at) for at, row in enumerate(rows)]


def _own_steps(
    row: _Row, live: Values, settled: Values, models: Detector, windows: Windows, at: int
) -> Steps:
    inside = _inside(row)
    silent = np.zeros(inside.stop - inside.start, dtype=np.bool_)
    return Steps(row, inside, live[inside], settled[inside], models, windows, at, silent, silent)


def _inside(row: _Row) -> slice:
    """Return the steps that are the piece's own: those around them are its margin."""
    first, stop = np.searchsorted(row.prepared.ts, [row.piece.start, row.piece.stop])
    return slice(int(first), int(stop))


def _seen_steps(row: _Row, models: Detector, windows: Windows, at: int) -> Steps:
    """Return steps that have their scores already."""
    unseen, inside = row.piece.unseen, _inside(row)
    assert unseen is not None
    ts = row.prepared.ts[inside]
    found = np.minimum(np.searchsorted(unseen.ts, ts), len(unseen.ts) - 1)
    known = unseen.ts[found] == ts
    live, settled = (np.where(known, each[found], np.nan) for each in (unseen.live, unseen.settled))
    echoes = (known & each[found] for each in (unseen.echo_live, unseen.echo_settled))
    return Steps(row, inside, live, settled, models, windows, at, *echoes)


def scored(spec: MonitorSpec, target: ScoreTarget, steps: Sequence[Steps]) -> Scored:
    """Return a target's scores under its lines, and what they flag."""
    columns = {
        "ts": [s.row.prepared.ts[s.inside] for s in steps],
        "version": [np.full(len(s.live), s.row.piece.version_id) for s in steps],
        "live": [s.live for s in steps],
        "settled": [s.settled for s in steps],
    }
    for mode in MODES:
        columns[f"{mode}_anomaly"] = [_anomaly_scores(target, s, mode) for s in steps]
    joined = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in columns.items()}
    found = _found(spec, target, steps, joined) if steps else ()
    return Scored(target.target.id, found=found, **joined)  # type: ignore[arg-type]  # columns by name


def _anomaly_scores(target: ScoreTarget, steps: Steps, mode: Mode) -> Values:
    """Return anomaly scores under what was in force at each timestamp."""
    scores = steps.scores(mode)
    out = np.full(len(scores), np.nan)
    for rows, body, line, seen in in_force(target, steps, mode):
        out[rows] = Calibrated.of(body, line, seen).anomaly_score(scores[rows])
    return out


def in_force(
    target: ScoreTarget, steps: Steps, mode: Mode
) -> Iterator[tuple[NDArray[np.bool_], Json, Json, Seen]]:
    """Yield which steps go by which body, line and evidence: functions of their time alone."""
    ts = steps.row.prepared.ts[steps.inside]
    lines, piece = target.lines[str(mode)], steps.row.piece
    seen = piece.seen.get(str(mode), SeenAt())
    line_at = np.maximum(np.searchsorted(lines.valid_from, ts, side="right") - 1, 0)
    seen_at = np.searchsorted(seen.valid_from, ts, side="right") - 1
    for line, known in np.unique(np.stack([line_at, seen_at]), axis=1).T.tolist():
        evidence = seen.seen[known] if known >= 0 else Seen.none()
        yield (line_at == line) & (seen_at == known), piece.bodies[str(mode)], lines.bodies[line], evidence


def _found(
    spec: MonitorSpec, target: ScoreTarget, steps: Sequence[Steps], joined: dict[str, np.ndarray]
) -> tuple[Interval, ...]:
    ts = joined["ts"].astype(np.int64)
    if not len(ts):
        return ()
    counts = np.where(ts < target.settled_until, joined["settled_anomaly"], joined["live_anomaly"])
    echoes = [np.concatenate([s.echoes(mode) for s in steps]) for mode in (Mode.SETTLED, Mode.LIVE)]
    step_seconds = target.target.step_seconds
    raw = np.concatenate([s.row.prepared.raw[s.inside] for s in steps])
    yhat = _expected(steps, flag.candidates(counts, spec.policy, step_seconds))
    own = np.concatenate([prepare.odd(s.row.prepared.values[s.inside]) for s in steps])
    found = flag.anomalies(
        counts,
        ts,
        raw,
        yhat,
        spec.policy,
        step_seconds,
        own=own,
        echo=np.where(ts < target.settled_until, *echoes),
        deviation=shares.deviations(steps, yhat),
        names=spec.channels,
        versions=joined["version"],
    )
    found += absence.on_grid(
        np.isnan(raw),
        ts,
        target.points,
        spec.policy,
        step_seconds,
        observed_until=target.observed_until,
        newest=target.newest,
        names=spec.channels,
        masked=_masked_spans(spec, target),
    )
    found += _flat(steps[-1], ts, raw, step_seconds)
    return tuple(_dated(each, ts, joined) for each in found)


def _flat(newest: Steps, ts: Seconds, raw: np.ndarray, step_seconds: int) -> list[Interval]:
    """Return the runs of equal values of a single series; many channels rest together only by design."""
    if raw.shape[1] > 1:
        return []
    usual = newest.row.recipe.channels[0].usual_flat
    # What is usual is the longest run of a week, so a week is what it is held against.
    learned = min(newest.row.piece.learned_steps, WEEK // step_seconds)
    return flag.flatline(raw[:, 0], ts, usual, step_seconds, learned_steps=learned)


def _dated(interval: Interval, ts: Seconds, joined: dict[str, np.ndarray]) -> Interval:
    first, last = np.searchsorted(ts, [interval.start, interval.end + 1])
    if interval.kind is not Kind.ANOMALY:
        version = int(joined["version"][min(first, len(ts) - 1)])
        return replace(interval, version_id=version, detected_at=_rule_time(interval))
    live = np.flatnonzero(joined["live_anomaly"][first:last] >= 1.0)
    return replace(interval, detected_at=int(ts[first + live[0]]) if len(live) else None)


def _rule_time(interval: Interval) -> int:
    """Return when a rule's interval was long enough: its score is its steps over those needed."""
    shortest = interval.n_points / max(interval.peak_score, 1.0)
    step = (interval.end - interval.start) / max(interval.n_points - 1, 1)
    return interval.start + round((shortest - 1) * step)


def _expected(steps: Sequence[Steps], candidates: Sequence[tuple[int, int]]) -> Values:
    """Return what would have been normal, in the series' unit: the model's word near candidates, else NaN."""
    total = sum(len(s.live) for s in steps)
    yhat = np.full((total, steps[0].row.prepared.raw.shape[1]), np.nan)
    offset = 0
    for part in steps:
        size = len(part.live)
        near = [(max(a - offset, 0), min(b - offset, size - 1)) for a, b in candidates]
        for first, last in near:
            if first <= last and last >= 0 and first < size:
                yhat[offset + first : offset + last + 1] = _expected_run(part, first, last)
        offset += size
    return yhat


def _expected_run(part: Steps, first: int, last: int) -> Values:
    """Return the expectation of one run in the series' unit."""
    mean = expected_run(part, first, last).mean[0].numpy()
    own = slice(first + part.inside.start, last + part.inside.start + 1)
    return prepare.restore(part.row.recipe, part.row.prepared, mean, own)


def expected_run(part: Steps, first: int, last: int) -> Expected:
    """Return the expectation of one run with it and one window around it hidden, in scaled units.

    Args:
        first, last: the run's ends among the piece's own steps, both inside.

    Returns:
        Mean and scale of its steps, each ``(1, n, n_channels)``.
    """
    window = part.windows.window
    first, last = first + part.inside.start, last + part.inside.start
    low = max(0, first - window + 1)
    stop = min(part.windows.n_windows, last + 1)
    around = part.windows.select([part.at]).span(low, stop)
    hidden = torch.zeros(1, around.n_points, dtype=torch.bool)
    hidden[:, max(0, first - window - low) : last + window + 1 - low] = True
    found = bank.expected_steps(part.models.select([part.at]), around, hidden)
    own = slice(first - low, last + 1 - low)
    return Expected(found.mean[:, own], None if found.scale is None else found.scale[:, own])
