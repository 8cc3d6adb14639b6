"""How far every channel of a target was from what was expected of it, in units of its own spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines import prepare
from pipelines.records import Values

if TYPE_CHECKING:
    from pipelines.score import Steps


def deviations(steps: Sequence[Steps], yhat: Values) -> Values | None:
    """Return observed minus expected of every step and channel in scaled units, NaN where either is unknown.

    None for a single channel, which has nobody to share with.

    Args:
        steps: the pieces of one target, in order of time.
        yhat: what would have been normal, in the series' unit, shape ``(n, n_channels)`` over all pieces.
    """
    if yhat.shape[1] == 1:
        return None
    edges = np.cumsum([len(each.live) for each in steps])[:-1]
    return np.concatenate(
        [
            prepare.deviations(each.row.recipe, each.row.prepared, part, each.inside)
            for each, part in zip(steps, np.split(yhat, edges), strict=True)
        ]
    )
