"""Raw scores of targets by the versions that data time gives them.

Runs inside a worker: plain values, arrays and bytes in and out. Every score here is a pure
function of points and version, so any span may be computed again, in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detectors.base import Detector
from detectors.windows import Windows
from pipelines.monitor import MonitorSpec
from pipelines.names import Mode
from pipelines.records import Values
from pipelines.steps import masks, prepare
from pipelines.steps.masks import Span
from pipelines.steps.recipe import Recipe
from pipelines.workers import bank, members
from pipelines.workers.members import FittedMember
from pipelines.workers.tasks import Piece, ScoreTarget

MODES = (Mode.LIVE, Mode.SETTLED)


@dataclass(frozen=True)
class _Row:
    """One member of one piece of a target, prepared with a window's margin on both sides."""

    owner: int
    piece: Piece
    member: FittedMember
    prepared: prepare.Prepared

    @property
    def recipe(self) -> Recipe:
        return self.member.recipe


@dataclass
class ScoredSteps:
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
    parts: tuple[ScoredSteps, ...] = ()

    def scores(self, mode: Mode) -> Values:
        return self.live if mode is Mode.LIVE else self.settled

    def echoes(self, mode: Mode) -> NDArray[np.bool_]:
        """True for steps whose score is the echo of another."""
        return self.echo_live if mode is Mode.LIVE else self.echo_settled


def raw_scores(
    spec: MonitorSpec, targets: Sequence[ScoreTarget], weights: dict[int, bytes]
) -> list[list[ScoredSteps]]:
    """Return the raw scores of every target, a list of its pieces in order of time for each."""
    rows = [row for owner, target in enumerate(targets) for row in _rows(owner, target, spec)]
    # Opened once, however many members each holds.
    opened = {weights_id: bank.opened(packed) for weights_id, packed in weights.items()}
    done: dict[tuple[int, int], list[ScoredSteps]] = defaultdict(list)
    for alike in _alike(rows, opened):
        for steps in _score_rows(alike, opened):
            done[steps.row.owner, steps.row.piece.start].append(steps)
    out: list[list[ScoredSteps]] = [[] for _ in targets]
    for (owner, _), parts in sorted(done.items()):
        out[owner].append(_joined(parts))
    return out


def _joined(parts: list[ScoredSteps]) -> ScoredSteps:
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
    points = masks.without(target.points, masked_spans(spec, target))
    for piece in target.pieces:
        of = members.stored(piece.detector, piece.params, piece.recipe)
        if piece.unseen is not None:
            # Its scores are there already, joined: the leader alone is asked, what it expects.
            of = of[:1]
        # Members with one recipe share the object: its steps are prepared once.
        prepared: dict[int, prepare.Prepared] = {}
        longest = members.longest(of)
        for member in of:
            recipe, known = member.recipe, id(member.recipe)
            if known not in prepared:
                margin = longest * recipe.step_seconds
                stop = min(piece.stop + margin, target.observed_until)
                prepared[known] = prepare.apply(recipe, points, piece.start - margin, stop, calendar)
            yield _Row(owner, piece, member, prepared[known])


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


def _score_rows(rows: Sequence[_Row], opened: dict[int, dict[str, Tensor]]) -> list[ScoredSteps]:
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
) -> ScoredSteps:
    inside = _inside(row)
    silent = np.zeros(inside.stop - inside.start, dtype=np.bool_)
    return ScoredSteps(row, inside, live[inside], settled[inside], models, windows, at, silent, silent)


def _inside(row: _Row) -> slice:
    """Return the steps that are the piece's own: those around them are its margin."""
    first, stop = np.searchsorted(row.prepared.ts, [row.piece.start, row.piece.stop])
    return slice(int(first), int(stop))


def _seen_steps(row: _Row, models: Detector, windows: Windows, at: int) -> ScoredSteps:
    """Return steps that have their scores already."""
    unseen, inside = row.piece.unseen, _inside(row)
    assert unseen is not None
    ts = row.prepared.ts[inside]
    found = np.minimum(np.searchsorted(unseen.ts, ts), len(unseen.ts) - 1)
    known = unseen.ts[found] == ts
    live, settled = (
        np.where(known, each[found], np.nan).astype(np.float64) for each in (unseen.live, unseen.settled)
    )
    echoes = (known & each[found] for each in (unseen.echo_live, unseen.echo_settled))
    return ScoredSteps(row, inside, live, settled, models, windows, at, *echoes)
