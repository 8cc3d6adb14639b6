"""The command line run in this process, and what came of a command."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest

from anomaly_service.cli import main


@dataclass(frozen=True)
class Result:
    """Exit code, and what a command printed."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> Any:
        """What was printed as JSON."""
        return json.loads(self.out)

    @property
    def table(self) -> list[list[str]]:
        """The cells of the table that was printed, without its head."""
        lines = [re.split(r"\s{2,}", line.strip()) for line in self.out.splitlines() if line.strip()]
        return lines[1:]

    @property
    def told(self) -> str:
        """What stands on stderr without the frame and line breaks of a usage error."""
        return " ".join(re.sub(r"[│╭╮╰╯─]", " ", self.err).split())


def anomaly(*args: object) -> Result:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exited:
        main([str(arg) for arg in args])
    code = exited.value.code
    return Result(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())
