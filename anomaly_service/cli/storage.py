"""`anomaly status --storage`: what the database weighs, in a table and sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_service.cli import tables
from anomaly_service.cli.options import opened

COLUMNS = ("table", "rows", "size", "oldest", "a_day", "levels_at", "keeps")
SPARE = ("levels_at", "oldest", "keeps")


def print_storage(config: Path, now: str | None, *, as_json: bool) -> None:
    """Print what every table weighs, how it grows and what is kept of it."""
    from anomaly_service.insight.storage import storage

    with opened(config, now, quiet=True) as service:
        settings = service.config
        found = storage(service.store, settings.retention.model_dump(), settings.scores)
    if as_json:
        tables.say(json.dumps(found, indent=1))
        return
    shown = [_shown(row) for row in found["tables"]]
    tables.rows(shown, COLUMNS, as_json=False, empty="", spare=SPARE)
    free = f", {amount(found['free_bytes'])} of it free" if found["free_bytes"] else ""
    tables.say(f"In all {amount(found['bytes'])}{free}.")
    for hint in found["hints"]:
        tables.say(f"{hint[0].upper()}{hint[1:]}.")


def _shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    about = "about " if row["estimated"] else ""
    daily, end = row["bytes_per_day"], row["levels_at_bytes"]
    return {
        **row,
        "rows": f"{about}{row['rows']:,}",
        "size": f"{about}{amount(row['bytes'])}",
        "a_day": "" if daily is None else amount(daily),
        "levels_at": "" if end is None else amount(end),
    }


def amount(size: float) -> str:
    """Return bytes for people.

    >>> amount(0), amount(2_400), amount(27_300_000_000)
    ('0 B', '2.4 kB', '27.3 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
