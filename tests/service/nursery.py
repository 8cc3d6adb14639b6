"""Processes under test that start warm: forked from one that has loaded what a daemon needs.

Loading torch takes two processor seconds, and every process that is killed or frozen here would take
them anew. Run as a program it is the process that forks; it has one thread, so forking is safe.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from patience import PATIENCE_SECONDS, eventually

LOADED = (
    "anomaly_service.config.load",
    "anomaly_service.daemon.loop",
    "anomaly_service.service",
    "anomaly_service.sources.csv",
    "apscheduler.schedulers.background",
    "detectors.gaussian",
    "detectors.robust_z",
    "pipeline_harness",
    "pipelines.jobs.passes",
    "psycopg",
    "scipy.ndimage",
)
"""What daemons need; not pandas and pyarrow, which start a thread."""

LEAVING_SECONDS = 20.0
"""How long a process that has ended may take to be seen off."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Newborn:
    """A process that was asked for: what it says goes to files, and what becomes of it too."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self.pid_file = folder / "pid"
        self.code_file = folder / "code"

    def poll(self) -> int | None:
        """Return the exit code, the negative signal that killed it, or None while it lives."""
        return int(self.code_file.read_text()) if self.code_file.exists() else None

    def wait(self) -> int:
        eventually(self.code_file.exists, f"{self.code_file.parent} ended")
        return int(self.code_file.read_text())

    def pid(self) -> int:
        eventually(self.pid_file.exists, f"{self.pid_file.parent} started")
        return int(self.pid_file.read_text())

    def send_signal(self, number: signal.Signals) -> None:
        pid = self.pid()
        if self.poll() is None:
            os.kill(pid, number)

    def first_line(self) -> str:
        eventually(lambda: "\n" in self.out.read_text(), f"a line in {self.out}")
        return self.out.read_text().splitlines()[0]


class Nursery:
    """Forks processes as long as it is open; started at the first one."""

    def __init__(self) -> None:
        self._numbers = count()
        self._popen: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="anomaly-nursery-")

    def start(self, command: Sequence[str], log: Path, env: Mapping[str, str]) -> Newborn:
        """Start a program, ``FILE ARGUMENT..`` or ``-m MODULE ARGUMENT..``; its errors go to the log."""
        if self._popen is None:
            self._popen = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
            )
        folder = Path(self._folder.name) / str(next(self._numbers))
        folder.mkdir()
        newborn = Newborn(folder)
        newborn.out.touch()
        assert self._popen.stdin is not None
        asked = {"command": list(command), "folder": str(folder), "log": str(log), "env": dict(env)}
        self._popen.stdin.write(json.dumps(asked) + "\n")
        self._popen.stdin.flush()
        return newborn

    def close(self) -> None:
        """Wait for the one that forks, and with it for all others: they must have ended."""
        if self._popen is not None:
            self._popen.communicate(timeout=PATIENCE_SECONDS)
        self._folder.cleanup()


NURSERY = Nursery()
"""That of this process; ``conftest.py`` closes it."""


def main() -> None:
    """Fork a process for every line on stdin; return in each of them, with its work done."""
    for module in LOADED:
        import_module(module)
    os.setpgrp()
    for line in sys.stdin:
        asked = json.loads(line)
        if os.fork() == 0:
            newborn = Newborn(Path(asked["folder"]))
            pid = os.fork()
            if pid:
                _see_to(pid, newborn)
            _become(asked, newborn)
            return
    _leave()


def _leave() -> None:
    """End with every process that was forked; where tests were interrupted some are still alive."""
    deadline = time.monotonic() + LEAVING_SECONDS
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.02)
        os.killpg(0, signal.SIGKILL)


def _see_to(pid: int, newborn: Newborn) -> None:
    """Note the process and what became of it, and end."""
    _note(newborn.pid_file, pid)
    _, status = os.waitpid(pid, 0)
    _note(newborn.code_file, os.waitstatus_to_exitcode(status))
    os._exit(0)


def _note(file: Path, number: int) -> None:
    whole = file.with_suffix(".new")
    whole.write_text(str(number))
    whole.rename(file)


def _become(asked: dict[str, Any], newborn: Newborn) -> None:
    """Run a program in this process as an interpreter of its own would."""
    os.environ.update(asked["env"])
    for number, path in enumerate((os.devnull, newborn.out, asked["log"])):
        opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    first, *rest = asked["command"]
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main()
