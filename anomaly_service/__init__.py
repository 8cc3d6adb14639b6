"""Self-hosted time-series anomaly detection with generative models.

Our three other packages have names that a folder of yours may have too, and Python takes the one it finds
first: from the folder you are in, in a notebook and with ``python -m``. That is told here, before it shows as
a missing name deep inside.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_service.notebook import detect
    from anomaly_service.notebook.result import Detected

__all__ = ["Detected", "detect"]

HOME = Path(__file__).resolve().parents[1]
"""Where our packages lie side by side: the checkout, or site-packages."""

_FACE = {"detect": "anomaly_service.notebook", "Detected": "anomaly_service.notebook.result"}
"""What people import from here, and where it lies: nothing of it is loaded before it is asked for."""


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


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
