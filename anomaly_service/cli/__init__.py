"""The command line: ``anomaly COMMAND``; commands import what they need when they run.

Exit 0 done, 1 failed, 2 wrong usage (docs/cli.md). Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from anomaly_service.cli import (
    demo,
    explain,
    lists,
    measure,
    models,
    operate,
    plan,
    points,
    review,
    similar,
    start,
)
from anomaly_service.cli.options import app, fail, show_traceback

__all__ = ["app", "main"]

# Registering happens at import; naming the modules here keeps the linter from dropping them.
GROUPS = (start, demo, operate, plan, points, review, lists, explain, similar, models, measure)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and exit; whatever fails is told in one message, ANOMALY_DEBUG=1 shows where."""
    try:
        app(args=list(args) if args is not None else None, prog_name="anomaly")
    except Exception as error:
        if os.environ.get("ANOMALY_DEBUG"):
            sys.excepthook = show_traceback
            raise
        fail(error)
        sys.exit(1)
