"""Intervals of a policy as pairs, for tests that count them."""

from __future__ import annotations

from pipelines.records import Policy
from pipelines.steps.flag import Flags, shape_bounds


def shape_runs(flagged: Flags, policy: Policy, step_seconds: int) -> list[tuple[int, int]]:
    """Return ``shape_bounds`` as inclusive index pairs."""
    first, last = shape_bounds(flagged, policy, step_seconds)
    return list(zip(first.tolist(), last.tolist(), strict=True))
