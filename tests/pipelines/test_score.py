"""Versions that are scored together, each as it is alone, and what of lines and evidence is in force when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from safetensors.torch import save
from test_explain import FIRST, HOUR, LEARNED, SPEC, STEPS, case, fallen

from pipelines.monitor import MonitorSpec
from pipelines.records import Mode
from pipelines.steps.evidence import SHARES, Seen
from pipelines.workers import bank, judge, score
from pipelines.workers.tasks import LinesAt, SeenAt


def slow(seed: int) -> np.ndarray:
    """Noise whose steps resemble their neighbours: off the axes of a latent it is not white."""
    return np.convolve(np.random.default_rng(seed).standard_normal(STEPS + 3), np.full(4, 0.5), "valid")


def test_weights_that_lack_what_others_hold_score_as_they_do_alone() -> None:
    """Of two versions one is as an earlier build left it: without the covariance off its axes."""
    spec = MonitorSpec("m", {}, "gmm", {"window": 12, "latent": 4}, season="none")
    old, new = (case(spec, fallen(seed) + 6 * slow(seed)) for seed in (1, 2))
    tensors = {name: t for name, t in bank.opened(old.weights[1]).items() if name != "base_covariance"}
    weights = {1: save(tensors), 2: new.weights[1]}
    second = replace(new.target, pieces=(replace(new.target.pieces[0], weights_id=2),))
    together = score.raw_scores(spec, [old.target, second], weights)
    for target, found in zip((old.target, second), together, strict=True):
        (alone,) = score.raw_scores(spec, [target], weights)
        np.testing.assert_allclose(found[0].settled, alone[0].settled, rtol=1e-5)


def test_a_line_and_what_was_seen_count_from_their_very_step_on_and_for_their_own_mode() -> None:
    of = case(SPEC, fallen(1))
    drawn, told = LEARNED + 10, FIRST
    lines = dict(of.target.lines)
    first = lines["settled"].lines[0]
    assert first.surprise is not None
    later = replace(first, surprise=2 * first.surprise)
    lines["settled"] = LinesAt(np.array([0, drawn * HOUR]), (first, later))
    lesson = SeenAt().then(told * HOUR, Seen(500.0, tuple((500.0 * np.minimum(2 * SHARES, 1.0)).tolist())))
    piece = replace(of.target.pieces[0], seen={"settled": lesson})
    target = replace(of.target, pieces=(piece,), lines=lines)
    ((steps,),) = score.raw_scores(SPEC, [target], of.weights)
    hours = np.arange(LEARNED, STEPS)
    settled = [
        ((hours[rows] * HOUR).tolist(), line.surprise, seen.samples)
        for rows, _, line, seen in judge.in_force(target, steps, Mode.SETTLED)
    ]
    spans = [(LEARNED, drawn, first, 0.0), (drawn, told, later, 0.0), (told, STEPS, later, 500.0)]
    assert settled == [
        ((np.arange(start, stop) * HOUR).tolist(), line.surprise, samples)
        for start, stop, line, samples in spans
    ]
    ((rows, _, line, seen),) = judge.in_force(target, steps, Mode.LIVE)
    assert rows.all()
    assert line == lines["live"].lines[0]
    assert not seen.samples
