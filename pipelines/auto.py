"""The automatic detector: which models look at a target when nobody names one.

No model sees everything. One-step prediction finds spikes, the energy of long windows finds changes of level,
rhythm and variance, the distance to the nearest windows of the past finds odd shapes. A target gets one of
each; `pipelines.members` makes one score of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipelines.records import Json

AUTO = "auto"
"""Name of the automatic detector in a config."""


class View(StrEnum):
    """What prepare leaves in the steps a member sees."""

    FULL = "full"
    """Season and a level that wanders are taken out."""
    PLAIN = "plain"
    """They stay: only the scale is learned."""


@dataclass(frozen=True)
class Member:
    """One model of a version, as it is asked for.

    Attributes:
        params: fields of the detector's Config.
        finds: what it is there for, in a few words; empty where it stands alone.
    """

    detector: str
    params: Json
    view: View = View.FULL
    finds: str = ""

    def to_json(self) -> Json:
        return {
            "detector": self.detector,
            "params": self.params,
            "view": str(self.view),
            "finds": self.finds,
        }

    @classmethod
    def from_json(cls, values: Json) -> Member:
        """Return the member that ``to_json`` wrote."""
        return cls(values["detector"], values["params"], View(values["view"]), values["finds"])


LADDER = ((2560, (24, 100, 256)), (0, (10, 24, 100)))
"""Steps of history, and the windows of those that have so many: short, middle and long.

Windows much longer than a tenth of the history leave nothing to learn from; the models of the shorter
ladder that do not fit either are left out.
"""

SHORTEST, LONGEST = 10, 256


def members(params: Json, n_channels: int, n_steps: int) -> tuple[Member, ...]:
    """Return the models of a target; the first one leads.

    Args:
        params: must be empty.
        n_steps: length of the history it is fitted on.

    Raises:
        ValueError: there are settings.
    """
    if params:
        raise ValueError(
            f"auto chooses its models itself and takes no setting {next(iter(params))!r}; "
            "name a detector to choose its settings"
        )
    short, middle, long = next(windows for least, windows in LADDER if n_steps >= least)
    return (
        Member("gaussian", {"window": short}, View.PLAIN, "spikes and steps"),
        Member(
            "kde",
            {
                "window": middle,
                "bandwidth": "knn",
                "neighbours": 1,
                "latent": min(16, middle),
                "references": 1024,
                "whole": True,
            },
            View.PLAIN,
            "odd shapes",
        ),
        Member(
            "gaussian",
            {"window": long, "form": "full", "whole": True},
            View.PLAIN,
            "changes of level, rhythm and variance",
        ),
    )
