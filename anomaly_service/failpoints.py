"""Places where a test may kill the process, to see that nothing is lost and nothing doubled.

``ANOMALY_FAILPOINT=name`` kills at the first pass of that point, ``name:n`` at the n-th.
"""

from __future__ import annotations

import os
import signal

_passes: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL where the environment asks for it; do nothing otherwise."""
    wanted, _, nth = os.environ.get("ANOMALY_FAILPOINT", "").partition(":")
    if wanted != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
