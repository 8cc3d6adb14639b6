"""`anomaly plan`: what a changed config would do, before it is in force."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from anomaly_service.cli import tables
from anomaly_service.cli.options import CONFIG, ConfigPath, Now, app, load, opened

Json = Mapping[str, Any]
CHANGES = 2
"""Exit status of --detailed-exitcode where something would change."""
NAMED = 5
"""At most so many targets are named in a line; the rest is counted."""
SIGNS = {"add": "+", "drop": "-", "change": "~", "again": "+"}


@app.command(rich_help_panel="At work")
def plan(
    days: Annotated[
        int, typer.Option("--days", min=1, max=400, help="How far back intervals are looked at.")
    ] = 30,
    no_intervals: Annotated[
        bool, typer.Option("--no-intervals", help="Do not score anew what intervals would come and go.")
    ] = False,
    in_force: Annotated[
        bool, typer.Option("--in-force", help="Print the last good config instead, without its secrets.")
    ] = False,
    detailed: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 2 where something would change, 0 where not.")
    ] = False,
    config: ConfigPath = CONFIG,
    now: Now = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object instead of sentences.")] = False,
) -> None:
    """Say what a changed config would add, drop, refit, redraw and flag; nothing is changed."""
    if in_force:
        _print_in_force(config, as_json)
        return
    from anomaly_service.config.params import check_params
    from anomaly_service.plan import plan as planned

    check_params(load(config))
    with opened(config, now) as service:
        found = planned(service, days=days, intervals=not no_intervals)
    if as_json:
        tables.say(json.dumps(found, indent=1))
    else:
        for line in plan_lines(found):
            tables.say(line)
    if detailed and found["changes"]:
        raise typer.Exit(CHANGES)


def _print_in_force(config: Path, as_json: bool) -> None:
    """Print the last good config, which needs no good one at hand."""
    import yaml

    from anomaly_service.errors import UnknownConfigError
    from anomaly_service.in_force import last_good
    from pipelines.times import iso

    good = last_good(config)
    if good is None:
        raise UnknownConfigError(
            f"no config was in force yet in the database that {config} names; the daemon, and every command "
            "that works on monitors, puts one in force"
        )
    if as_json:
        tables.say(json.dumps({"file": good.file, "since": iso(good.since), "config": good.body}, indent=1))
        return
    tables.say(f"# In force since {iso(good.since)}, read from {good.file}; passwords are left out.")
    tables.say(yaml.safe_dump(good.body, sort_keys=False, allow_unicode=True).rstrip())


def plan_lines(found: Json) -> Iterator[str]:
    """Yield a plan as sentences."""
    if found["in_force_since"] is None:
        yield "No config was in force in this database yet: of sources and settings only names are compared."
    else:
        yield f"Beside what is in force since {found['in_force_since']}, read from {found['in_force_file']}:"
    for source in found["sources"]:
        yield from _source_lines(source)
    for monitor in found["monitors"]:
        yield from _monitor_lines(monitor)
    for setting in found["settings"]:
        yield from (f"~ {line}" for line in _changed(setting["changed"]))
    if not found["changes"]:
        yield "Nothing would change."
    else:
        yield "Nothing was changed. The daemon takes the config over on SIGHUP, or when it starts."


def _source_lines(source: Json) -> Iterator[str]:
    after = {
        "add": "its series are known once it is read",
        "drop": f"not read any more; its {source['series']} series keep their points",
        "change": f"{source['series']} series",
    }[source["action"]]
    yield f"{SIGNS[source['action']]} source {source['source']}: {after}"
    yield from (f"    {line}" for line in _changed(source["changed"]))
    if "step" in source["changed"] and source["series"]:
        yield (
            "    their models see another step: the next night fits those anew whose points keep to it, and "
            "until then the old ones score what they can"
        )


def _monitor_lines(monitor: Json) -> Iterator[str]:
    name, action = monitor["monitor"], monitor["action"]
    added, dropped = monitor.get("targets_added", []), monitor.get("targets_dropped", [])
    if action == "drop":
        yield (
            f"- monitor {name}: disabled; its {monitor['intervals_kept']} intervals stay, and the "
            f"{monitor['intervals_open']} of them that are open are closed"
        )
        return
    yield f"{SIGNS[action]} monitor {name}{_about(monitor)}"
    yield from (f"    {line}" for line in _changed(monitor.get("changed", {})))
    if added:
        yield f"    watched from now on: {_named(added)}"
    if dropped:
        yield f"    not watched any more, what is stored stays: {_named(dropped)}"
    if refit := monitor.get("refit"):
        yield (
            f"    models are fitted anew: {refit['models']} in the night of {refit['at']}, the others in "
            "theirs; until then the old ones score"
        )
    if redraw := monitor.get("redraw"):
        yield f"    {redraw}"
    if intervals := monitor.get("intervals"):
        yield f"    {_intervals(intervals)}"


def _about(monitor: Json) -> str:
    if monitor["action"] == "add":
        return f": {monitor['detector']}"
    if monitor["action"] == "again":
        return ": at work again, with the intervals it had"
    return f": until now {monitor['renamed_from']}" if "renamed_from" in monitor else ""


def _intervals(found: Json) -> str:
    if "appear" not in found:
        return f"intervals: not known, {found['why']}"
    told = (
        f"intervals between {found['from']} and {found['to']}: {found['appear']} would appear, "
        f"{found['go']} would go, {found['change']} would change"
    )
    return told if found["known"] else f"{told}; {found['left_out']} targets could not be scored"


def _changed(changed: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    for path, (old, new) in changed.items():
        yield f"{path}: {_value(old)} -> {_value(new)}"


def _value(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return f"{', '.join(keys[:NAMED])}{more}"
