"""Self-hosted time-series anomaly detection with generative models.

Our three other packages have names that a folder of yours may have too, and Python takes the one it finds
first: from the folder you are in, in a notebook and with ``python -m``. That is told here, before it shows as
a missing name deep inside.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
"""Where our packages lie side by side: the checkout, or site-packages."""


def _check_own(name: str) -> None:
    """Refuse a package of that name that is not ours.

    Raises:
        ImportError: another one would be imported, or none.
    """
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ImportError(f"the package {name!r} of anomaly_service is missing in {HOME}; install it again")
    found = next(iter(spec.submodule_search_locations or ()), spec.origin or "")
    if Path(found).resolve() != HOME / name:
        raise ImportError(
            f"{found} hides the package {name!r} of anomaly_service; "
            "rename it, or start Python in another folder"
        )


for _name in ("detectors", "pipelines"):
    _check_own(_name)
