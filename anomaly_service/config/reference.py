"""What the config file may say, from the code that checks it: a schema for editors, a page for people.

``python -m anomaly_service.config.reference docs`` writes both; a test fails where they are stale.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from anomaly_service import sources
from anomaly_service.config import sections as configs
from anomaly_service.config.messages import inside
from anomaly_service.config.values import Section, duration_text
from anomaly_service.sources.base import SourceConfig
from pipelines.names import AUTO

SCHEMA_FILE = "config.schema.json"
PAGE_FILE = "config.md"
VARIABLE = {"type": "string", "pattern": r"\$\{"}
RENAMED = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}

Schema = dict[str, Any]


def schema() -> Schema:
    """Return the JSON schema of the config file (draft 2020-12)."""
    root = configs.Config.model_json_schema()
    definitions: Schema = root.pop("$defs")
    kinds = _source_kinds()
    for kind, cls in kinds.items():
        definitions[cls.__name__] = cls.model_json_schema()
        definitions[cls.__name__]["properties"]["kind"] = {"const": kind, "description": "Kind of source."}
        _give_secret_or_file(definitions[cls.__name__], cls)
    anything = {
        "type": "object",
        "required": ["kind", "step"],
        "properties": {"kind": {"not": {"enum": list(kinds)}}},
    }
    known = [{"$ref": f"#/$defs/{cls.__name__}"} for cls in kinds.values()]
    root["properties"]["sources"]["additionalProperties"] = {"anyOf": [*known, anything]}
    _tidy(root, configs.Config)
    for section in [*_sections(configs.Config), *kinds.values()][1:]:
        _tidy(definitions[section.__name__], section)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Config file of the anomaly service",
        **{key: value for key, value in root.items() if key != "title"},
        "$defs": dict(sorted(definitions.items())),
    }


def _source_kinds() -> dict[str, type[SourceConfig]]:
    """Return the Configs of the sources that come with this package, by kind."""
    ours = [e.name for e in entry_points(group=sources.GROUP) if e.value.startswith("anomaly_service.")]
    return {kind: sources.get(kind).Config for kind in sorted(ours)}


def _sections(cls: type[Section]) -> Iterator[type[Section]]:
    """Yield a section's class and those of the sections below it, in the order of their keys."""
    yield cls
    for name in cls.model_fields:
        inner = inside(cls, name)
        inner = inside(inner, "") if not isinstance(inner, type) else inner
        if isinstance(inner, type) and issubclass(inner, Section) and inner is not SourceConfig:
            yield from _sections(inner)


def _give_secret_or_file(found: Schema, cls: type[Section]) -> None:
    """Let a required secret be given by its file instead."""
    for name in cls.secrets():
        if name in found.get("required", ()):
            found["required"].remove(name)
            found["oneOf"] = [{"required": [name]}, {"required": [f"{name}_file"]}]


def _tidy(found: Schema, cls: type[Section]) -> None:
    """Write a section's schema in the words of the file: durations, no titles, variables allowed."""
    found.pop("title", None)
    for field_name, field in cls.model_fields.items():
        name = field.alias or field_name
        value: Schema = found["properties"][name]
        value.pop("title", None)
        if isinstance(field.default, timedelta):
            value["default"] = duration_text(field.default)
        elif value.get("default") is None or isinstance(field.default, Section):
            value.pop("default", None)
        for ours, theirs in RENAMED.items():
            if ours in value:
                value[theirs] = value.pop(ours)
        found["properties"][name] = _with_variable(value)


def _with_variable(value: Schema) -> Schema:
    """Return a value's schema, as text with a ``${NAME}`` where it would have to be something else."""
    about = {key: value[key] for key in ("description", "default", "examples") if key in value}
    inner = {key: rest for key, rest in value.items() if key not in about}
    options = [one for one in inner.get("anyOf", [inner]) if one != {"type": "null"}]
    text = any(one.get("type") == "string" and "pattern" not in one and "enum" not in one for one in options)
    plain = any(one.get("type") in {"integer", "number", "string"} or "enum" in one for one in options)
    if plain and not text:
        options.append(VARIABLE)
    return {**about, **(options[0] if len(options) == 1 else {"anyOf": options})}


HEAD = """\
# The config file

One YAML file, `anomaly.yaml` unless `--config` names another. `anomaly init` writes one with
comments, `anomaly validate` says what is wrong with one. Editors that know YAML check it while you
type with this line at its top:

```yaml
# yaml-language-server: $schema=path/to/docs/config.schema.json
```

## An example
```yaml
{example}```

## How values are written
- **Durations** have a unit: `90s`, `5min`, `2h`, `7d`, `2w`, `1h30min`.
- **Shares** are percents or numbers: `5%` is `0.05`.
- **Paths** are relative to the config file, that of an SQLite database too.
- `no`, `on` and `03:15` are text, as in YAML 1.2; only `true` and `false` are truth values.
- **Variables**: `${{NAME}}` is filled in from the environment, `${{NAME:-default}}` where it may be
  missing, and `$${{` stands for `${{`. Where `NAME` is not set but `NAME_FILE` is, the value is read
  from the file it names, as container secrets are. Inside `{{ }}` put variables in quotes.
- **Secrets**: a key that may hold a password can be given as a file, `database_file` for `database`
  and `url_file` for a source's `url`. Secrets stand in no message and no log.
- `ANOMALY_DATABASE`, `ANOMALY_DATABASE_FILE`, `ANOMALY_WORKERS` and `ANOMALY_REJECTS` in the
  environment win over the file.

## When something is wrong
Everything that is wrong is said at once, with file, line, path, what was expected and what came, and
nothing is changed. A key that does not exist is answered with the nearest that does:

```
anomaly.yaml:14: monitors.players-drop.policy.min_duraton: unknown key; did you mean 'min_duration'? ...
```

`anomaly plan --config NEW` says what a changed file would do, and changes nothing.
A running daemon reads the file again on SIGHUP; a file with something wrong in it leaves the old one
in force. A monitor that is removed is disabled and keeps its events; `renamed_from` keeps them under
a new name.

## Every key
"""

EXAMPLE = """\
database: sqlite:///anomaly.db            # or postgresql://user:${DB_PASSWORD}@host/name
sources:
  telemetry:
    kind: csv
    path: "drop/*.csv"
    timestamp: ts
    value: value
    metric: metric
    labels: [realm, region, platform]
    step: 5min
    delay: 2min
    timezone: UTC
monitors:
  players-drop:
    series: {metric: ccu, region: [eu, kr]}
    detector: gaussian
    params: {window: 24}
    fit: {every: auto, window: auto}
    infer_every: 5min
    threshold: {alarms_per_week: 5, per: monitor}
    policy:
      detection_direction: below_expected
      min_duration: 10min
      merge_max_gap: 15min
      min_rel_dev_from_expected: 5%
nightly: {at: "03:15", timezone: UTC, window: 3d}
retention: {points: 400d, scores: 90d, model_versions: 3}
"""

TITLES = {
    "Config": "Top level",
    "MonitorSection": "monitors.NAME",
    "FitSection": "monitors.NAME.fit",
    "ThresholdSection": "monitors.NAME.threshold",
    "PolicySection": "monitors.NAME.policy",
    "CalendarSection": "calendar.NAME",
    "NightlySection": "nightly",
    "RetentionSection": "retention",
    "DeadlinesSection": "deadlines",
    "HttpSection": "http",
}

SOURCES_TAIL = """
### Which rows are taken
Files are known by what was read of them, not by name: a file that is renamed or copied is not taken
twice, one that grows only adds (its beginning is compared before), one that was rewritten is read
again as a whole, which changes only what differs (of a file that also grew, and is larger than 1 MiB,
within an hour). Where the file's name is the metric or a label,
another name makes other series. A last line without a line break waits until it has one, or until
nobody wrote to the file for a minute. Other settings make known files new.

Timestamps are ISO 8601 or epoch numbers; whether those are seconds, milli-, micro- or nanoseconds is
told by their size. Others are named by `timestamp_format`, which `anomaly init` finds out: `day-first`
(`1.3.26 13:00`), `month-first` (`3/1/2026 1:00 PM`), `year-first` (`2026-03-01 24:00`, `12:00:00,123`,
` UTC`), `short-year-first` (`26-03-01`), `month-name` (`Mar 1, 2026`), `yyyymmdd` and longer digits,
`yyyymm`, `iso-week` (`2026-W09`: its Monday), `excel-days` (`46082.5`), `epoch`. The hour 24:00 is
midnight of the next day. Of a list of columns the texts are joined by spaces, and read as one.
 Points are whole seconds. Times without a zone are taken in the source's
`timezone`, which they need. When clocks go back, an hour comes twice: in files the order of a series'
rows tells which pass is meant, and rows that nothing tells apart are set aside; in a database use
`timestamptz`, as its rows come in no such order. A local time that the clock skips is set aside.

Rows that cannot be read (no or unreadable timestamp, no, infinite or non-numeric value, no metric,
wrong number of columns, quotation marks that do not close, a carriage return inside the line, not
UTF-8, a NUL or more than 2,000 bytes in metric and labels, a line above 1 MiB) are counted and listed
in `rejects/SOURCE.rejects.csv` with file, line, reason and text; all others go in. So is what is left
of a file that cannot be read at all, from the line on where it breaks: an error of the read at first,
after three looks a note, and the file is set aside until it, or the source's settings, change. Of a
link that leads out of the watched folder no text is listed. Five full rejects files (64 MiB) are kept
as `.1` to `.5`. A rejects file that cannot be written is said, and keeps nothing from going in. Empty
cells of files
with several value columns are no rows. Of rows with the same series and time the last wins, over
files the one written last.

Points further beyond now than `future_tolerance` are held back: they are stored beside the others, are
part of nothing, and are taken in by the first read after their time came. What lies more than 31 days
beyond now by the database's clock too is rejected. So are strays from long ago: at most 1 % of a series'
rows that lie before all others by more than ten times their span. `anomaly points delete` removes what
went in before.

A package adds a kind of source by an entry point of the group `anomaly_service.sources` that names a
class like those in `anomaly_service/sources/`; `anomaly_service/sources/base.py` says what it owes.
"""


def page() -> str:
    """Return the reference of the config file as Markdown."""
    found = schema()
    parts = [HEAD.format(example=EXAMPLE)]
    for cls in _sections(configs.Config):
        section = found if cls is configs.Config else found["$defs"][cls.__name__]
        parts.append(_table(TITLES[cls.__name__], cls, section))
        if cls is configs.Config:
            for kind, source in _source_kinds().items():
                title = f"sources.NAME, kind: {kind}"
                parts.append(_table(title, source, found["$defs"][source.__name__]))
            parts.append(SOURCES_TAIL.lstrip("\n"))
    return "\n".join(parts)


def _table(title: str, cls: type[Section], found: Schema) -> str:
    lines = [f"### {title}", (cls.__doc__ or "").split("\n")[0], "", "| key | values | default | meaning |"]
    lines.append("|---|---|---|---|")
    for field_name, field in cls.model_fields.items():
        name = field.alias or field_name
        value = found["properties"][name]
        text = value.get("description") or _of_section(cls, name)
        default = (
            "" if field.default is PydanticUndefined or "default" not in value else _code(value["default"])
        )
        needed = " (required)" if field.is_required() and name not in cls.secrets() else ""
        lines.append(f"| `{name}`{needed} | {_values(value)} | {default} | {text} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


def _of_section(cls: type[Section], name: str) -> str:
    inner = inside(cls, name)
    return str(inner.__doc__).split("\n")[0] if isinstance(inner, type) else ""


def _code(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _values(value: Schema) -> str:
    """Return in a few words what a key may hold."""
    options = [one for one in value.get("anyOf", [value]) if one != VARIABLE]
    if {"const": AUTO} in options:
        others = {**value, "anyOf": [one for one in options if one != {"const": AUTO}]}
        return f"`{AUTO}`, {_values(others)}"
    if "examples" in value:
        return "share" if "5%" in value["examples"] else "duration"
    for one in options:
        if "enum" in one:
            return ", ".join(f"`{choice}`" for choice in one["enum"])
        if "const" in one:
            return f"`{one['const']}`"
    words = {
        "array": "list",
        "object": "section",
        "integer": "whole number",
        "string": "text",
        "boolean": "true, false",
    }
    kinds = [str(one.get("type", "object")) for one in options]
    return " or ".join(dict.fromkeys(words.get(kind, kind) for kind in kinds))


def write(folder: Path) -> None:
    """Write schema and page into a folder."""
    (folder / SCHEMA_FILE).write_text(json.dumps(schema(), indent=1) + "\n", "utf-8")
    (folder / PAGE_FILE).write_text(page(), "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
