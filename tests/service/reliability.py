"""The page of what was attacked, how often and with what result, as `make soak` writes it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storm import Account

WHAT = {
    "points": "points",
    "settled": "settled scores",
    "events": "events",
    "versions": "versions",
    "lines": "lines",
}


def note_storm(kind: str, run: str, seed: int, account: Account) -> None:
    """Add what a part of a storm came to to the page that ``PAGE`` names; nothing where it names none.

    Args:
        run: of which the account is a part; the account of another run is replaced.
    """

    def add(known: dict[str, Any]) -> tuple[dict[str, Any], str]:
        whole = account
        if known.get("run") == run:
            whole = Account(
                account.times + Counter(known["times"]),
                account.plays + known["plays"],
                account.apart + Counter(known["apart"]),
            )
        kept = {"run": run, "times": whole.times, "plays": whole.plays, "apart": whole.apart}
        return kept, _told(whole, seed)

    _write(f"storm-{kind}", add)


def note_ticks(text: str) -> None:
    """Put what the long run of ticks came to into the page."""
    _write("ticks", lambda _: ({}, f"{text}\n\nMeasured at {_measured()}."))


def _told(account: Account, seed: int) -> str:
    apart = ", ".join(f"{WHAT[what]} in {n:,}" for what, n in account.apart.items())
    rows = [f"| {attack} | {times:,} |" for attack, times in account.times.most_common() if times]
    return "\n".join(
        [
            f"{account.plays:,} plays with {account.kills:,} kills, seed {seed}, at {_measured()}.",
            f"Plays that left something else than an undisturbed one: {apart or 'none'}.",
            "",
            "| attack | times |",
            "|---|---|",
            *rows,
        ]
    )


def _measured() -> str:
    """Return at which commit, when and on what it was measured."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    # The page itself is written while the storm goes on.
    if _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)docs/reliability.md"):
        commit += " with changes"
    return (
        f"commit {commit}, {datetime.now(UTC):%Y-%m-%d}, on {os.cpu_count()} cores with Python "
        f"{platform.python_version()}"
    )


def _git(*asked: str) -> str:
    git = ["git", "-C", str(Path(__file__).parent), *asked]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def _write(part: str, make: Callable[[dict[str, Any]], tuple[dict[str, Any], str]]) -> None:
    """Put a text between the page's marks of a part, and into the first mark what it was made of."""
    if not (page := os.environ.get("PAGE")):
        return
    path, end = Path(page), f"<!-- end of {part} -->"
    marks = re.compile(f"<!-- {re.escape(part)} (.*?)-->.*?{re.escape(end)}", re.DOTALL)
    with path.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # parts of one storm end at the same time
        old = file.read()
        found = marks.search(old)
        assert found, f"{path} has no marks of {part}"
        kept, text = make(json.loads(found[1] or "{}"))
        file.seek(0)
        file.write(marks.sub(lambda _: f"<!-- {part} {json.dumps(kept)} -->\n{text}\n{end}", old))
        file.truncate()
