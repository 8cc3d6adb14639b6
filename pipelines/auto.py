"""The automatic detector: which models look at a target when nobody names one.

No model sees everything. Short windows find spikes, long ones changes of level, rhythm and variance, the
distance to the nearest window of the past finds odd shapes; and a season that is taken out shows what hides
in it, while one that is left in costs nothing where it was none. A target gets one model of each kind;
`pipelines.members` makes one score of theirs.
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
        limit: steps further off than so many spreads count as this; None for no limit.
        apart: every channel has a model of its own, and what they say is joined.
        finds: what it is there for, in a few words; empty where it stands alone.
    """

    detector: str
    params: Json
    view: View = View.FULL
    limit: float | None = None
    apart: bool = False
    finds: str = ""

    def to_json(self) -> Json:
        return {
            "detector": self.detector,
            "params": self.params,
            "view": str(self.view),
            "limit": self.limit,
            "apart": self.apart,
            "finds": self.finds,
        }

    @classmethod
    def from_json(cls, values: Json) -> Member:
        """Return the member that ``to_json`` wrote; what others keep beside it is left out."""
        own = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**{**own, "view": View(values["view"])})


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
    nearest = {"window": middle, "latent": min(16, middle), "references": 1024, "whole": True}
    return (
        Member("gaussian", {"window": short}, finds="what season and level do not explain"),
        Member("gmm", {"window": short}, View.PLAIN, finds="spikes and drops"),
        Member(
            "kde",
            {**nearest, "bandwidth": "knn", "neighbours": 1},
            View.PLAIN,
            limit=8.0,
            finds="shapes never seen before",
        ),
        Member("gaussian", {"window": long}, View.PLAIN, finds="shifts of level, and what they begin with"),
        Member(
            "gaussian",
            {"window": long, "form": "full", "whole": True},
            View.PLAIN,
            finds="changes of rhythm and variance",
        ),
    )
