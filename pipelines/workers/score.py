"""Raw scores of targets by the versions that data time gives them.

Runs inside a worker: plain values, arrays and bytes in and out. Every score here is a pure
function of points and version, so any span may be computed again, in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detectors.base import Detector
from detectors.windows import Windows
from pipelines.monitor import MonitorSpec
from pipelines.names import Mode
from pipelines.records import Values
from pipelines.steps import masks, prepare
from pipelines.steps.masks import Span
from pipelines.steps.recipe import Recipe
from pipelines.workers import bank, explained, members
from pipelines.workers.explained import Frame, Look
from pipelines.workers.members import FittedMember
from pipelines.workers.tasks import Piece, ScoreTarget

MODES = (Mode.LIVE, Mode.SETTLED)


@dataclass(frozen=True)
class _Row:
    """One member of one piece of a target, prepared with as much margin on both sides as decides.

    Attributes:
        prepared: the steps it looks at.
        frame: what the leader sees; None where the scores are there already.
        whole: the leader's steps, as far back as a longest window reaches at least.
    """

    owner: int
    piece: Piece
    member: FittedMember
    prepared: prepare.Prepared
    whole: prepare.Prepared
    frame: Frame | None = None

    @property
    def recipe(self) -> Recipe:
        return self.member.recipe


@dataclass
class ScoredSteps:
    """The scores of one piece's own steps, and what it takes to explain them.

    ``row``, ``models``, ``windows`` and ``at`` are those of one member; once joined, of the leader.
    ``parts`` then holds what each member said.

    Attributes:
        live, settled: what the models say of windows as they are.
        own_live, own_settled: the same once what else was odd is explained away: what counts.
    """

    row: _Row
    inside: slice
    live: Values
    settled: Values
    models: Detector
    windows: Windows
    at: int
    own_live: Values
    own_settled: Values
    parts: tuple[ScoredSteps, ...] = ()

    def scores(self, mode: Mode) -> Values:
        return self.live if mode is Mode.LIVE else self.settled

    def own(self, mode: Mode) -> Values:
        return self.own_live if mode is Mode.LIVE else self.own_settled


@dataclass(frozen=True)
class _Scored:
    """The scores of all steps that a member looks at, its place in its bank, and that bank."""

    row: _Row
    live: Values
    settled: Values
    models: Detector
    windows: Windows
    at: int

    def look(self) -> Look:
        """Return the member as it looks at this target alone."""
        apart = self.row.member.member.apart
        n = self.windows.n_channels if apart else 1
        own = self.windows.select([self.at])
        return Look(
            recipe=self.row.recipe,
            prepared=self.row.prepared,
            banks=[self.models.select(range(self.at * n, (self.at + 1) * n))],
            windows=bank.apart(own) if apart else own,
            fold=torch.zeros(own.n_points, dtype=torch.int64),
            live=self.live,
            settled=self.settled,
            votes=np.array([bank.votes_of(self.row.recipe.channels)]) if apart else None,
        )

    def steps(self, own_live: Values, own_settled: Values) -> ScoredSteps:
        inside = _inside(self.row.prepared, self.row.piece)
        return ScoredSteps(
            self.row,
            inside,
            self.live[inside],
            self.settled[inside],
            self.models,
            self.windows,
            self.at,
            own_live,
            own_settled,
        )


def raw_scores(
    spec: MonitorSpec, targets: Sequence[ScoreTarget], weights: dict[int, bytes]
) -> list[list[ScoredSteps]]:
    """Return the raw scores of every target, a list of its pieces in order of time for each."""
    rows = [row for owner, target in enumerate(targets) for row in _rows(owner, target, spec)]
    # Opened once, however many members each holds.
    opened = {weights_id: bank.opened(packed) for weights_id, packed in weights.items()}
    out: list[list[ScoredSteps]] = [[] for _ in targets]
    done: dict[tuple[int, int], list[_Scored]] = defaultdict(list)
    for alike in _alike(rows, opened):
        for scored in _score_rows(alike, opened):
            done[scored.row.owner, scored.row.piece.start].append(scored)
    for (owner, _), parts in sorted(done.items(), key=lambda each: each[0]):
        out[owner].append(_joined(parts))
    return out


def _joined(parts: list[_Scored]) -> ScoredSteps:
    """Return the steps of a piece from those of its members."""
    parts.sort(key=lambda scored: scored.row.member.at or 0)
    lead = parts[0].row
    if lead.frame is None:
        return _seen_steps(parts[0])
    of = [scored.row.member for scored in parts]
    told_from = members.told_from(lead.piece.recipe)
    own = lead.frame.explained(
        [scored.look() for scored in parts],
        lambda live: members.combined(of, live, Mode.LIVE),
        told_from,
    )
    steps = [scored.steps(*each) for scored, each in zip(parts, own, strict=True)]
    if lead.member.at is None:
        return steps[0]
    raw = [{mode: each.scores(mode) for mode in MODES} for each in steps]
    scores = members.joined(of, raw)
    rest = members.joined(of, [{mode: each.own(mode) for mode in MODES} for each in steps])
    if not np.isfinite(told_from):
        # A version of an earlier release: its lines were drawn where echoes count for nothing.
        echoes = {mode: members.echoes(of, [each[mode] for each in raw], mode) for mode in MODES}
        rest = {mode: np.where(echoes[mode], 0.0, rest[mode]) for mode in MODES}
    return replace(
        steps[0],
        live=scores[Mode.LIVE],
        settled=scores[Mode.SETTLED],
        own_live=rest[Mode.LIVE],
        own_settled=rest[Mode.SETTLED],
        parts=tuple(steps),
    )


def _rows(owner: int, target: ScoreTarget, spec: MonitorSpec) -> Iterator[_Row]:
    calendar = spec.calendar_of(target.target.labels)
    points = masks.without(target.points, masked_spans(spec, target))
    for piece in target.pieces:
        of = members.stored(piece.detector, piece.params, piece.recipe)
        lead, longest = of[0].recipe, members.longest(of)
        before, after = explained.reach_steps(longest), explained.settled_after(longest)
        if piece.unseen is not None:
            # Its scores are there already, joined: the leader alone is asked, what it expects.
            of, before, after = of[:1], longest, longest
        start = piece.start - before * lead.step_seconds
        stop = min(piece.stop + after * lead.step_seconds, target.observed_until)
        whole = prepare.apply(lead, points, start, stop, calendar)
        if piece.unseen is not None:
            yield _Row(owner, piece, of[0], whole, whole)
            continue
        frame = Frame.of(lead, whole, _inside(whole, piece), longest)
        since = frame.since(longest)
        # Members with one recipe share the object: its steps are prepared once.
        prepared = {id(lead): whole}
        for member in of:
            if id(member.recipe) not in prepared:
                prepared[id(member.recipe)] = prepare.apply(member.recipe, points, start, stop, calendar)
            # No window ends before the first score that is needed.
            cut = max(since - member.window + 1, 0)
            yield _Row(owner, piece, member, prepared[id(member.recipe)].since(cut), whole, frame)


def masked_spans(spec: MonitorSpec, target: ScoreTarget) -> list[Span]:
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


def _score_rows(rows: Sequence[_Row], opened: dict[int, dict[str, Tensor]]) -> list[_Scored]:
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
        nothing = np.empty(0)
        return [_Scored(row, nothing, nothing, models, windows, at) for at, row in enumerate(rows)]
    if lead.member.apart:
        scores = bank.score_steps(models, bank.apart(windows))
        votes = np.array([bank.votes_of(row.recipe.channels) for row in rows])
        live, settled = (bank.together(each, votes).numpy() for each in scores)
    else:
        live, settled = (each.numpy() for each in bank.score_steps(models, windows))
    lengths = [len(row.prepared) for row in rows]
    return [
        _Scored(row, live[at, :n], settled[at, :n], models, windows, at)
        for at, (row, n) in enumerate(zip(rows, lengths, strict=True))
    ]


def _inside(prepared: prepare.Prepared, piece: Piece) -> slice:
    """Return the steps that are the piece's own: those around them are its margin."""
    first, stop = np.searchsorted(prepared.ts, [piece.start, piece.stop])
    return slice(int(first), int(stop))


def _seen_steps(scored: _Scored) -> ScoredSteps:
    """Return steps that have their scores already."""
    row = scored.row
    unseen, inside = row.piece.unseen, _inside(row.prepared, row.piece)
    assert unseen is not None
    ts = row.prepared.ts[inside]
    found = np.minimum(np.searchsorted(unseen.ts, ts), len(unseen.ts) - 1)
    known = unseen.ts[found] == ts
    live, settled, own_live, own_settled = (
        np.where(known, each[found], np.nan).astype(np.float64)
        for each in (unseen.live, unseen.settled, unseen.own_live, unseen.own_settled)
    )
    return ScoredSteps(
        row, inside, live, settled, scored.models, scored.windows, scored.at, own_live, own_settled
    )
