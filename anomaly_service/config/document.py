"""Reads a YAML file and remembers on which line everything stands."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from anomaly_service.config.errors import ConfigError, Loc, Problem
from anomaly_service.secrets import remember, sounds_secret

_VARIABLE = re.compile(r"\$(\$)?\{([^}]*)\}")
_NAME = re.compile(r"([A-Za-z_]\w*)(?::-(.*))?", re.DOTALL)
MERGE = "<<"

LONGEST = 10_000_000
"""Characters of a config file; ten thousand monitors are about two million."""

MOST_VALUES = 250_000
"""Values of a config file, those that an alias repeats counted each time."""


class _Loader(yaml.SafeLoader):
    """YAML with the words of version 1.2: ``no`` is text, ``03:15`` is no number of minutes."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]  # as PyYAML has it


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|false|True|False"), list("tfTF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)


@dataclass(frozen=True)
class Place:
    """Where a value stands and how it was written, before any variable was filled in."""

    line: int
    text: str


@dataclass
class Document:
    """A file's values, and where each of them stands.

    Attributes:
        values: plain dicts, lists, texts and numbers.
        places: every key and list item that was written, by its path.
        problems: what was wrong with the file itself: keys given twice, variables not set.
    """

    file: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Loc, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, loc: Loc) -> Place:
        """Return where a value stands, or else the nearest section around it."""
        while loc and loc not in self.places:
            loc = loc[:-1]
        return self.places.get(loc, Place(1, ""))

    def add(self, loc: Loc, line: int, message: str) -> None:
        self.problems.append(Problem(self.file, line, loc, message))


def read_document(path: Path, environ: Mapping[str, str] | None = None) -> Document:
    """Return what a YAML file says, ``${NAME}`` and ``${NAME:-default}`` filled in.

    Where NAME is not set and NAME_FILE is, the value is read from the file that NAME_FILE names.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise _unusable(path, 0, f"expected at most {LONGEST:,} characters; is this a config file?")
    except FileNotFoundError:
        raise _unusable(path, 0, "there is no such file; write one with `anomaly init`") from None
    except OSError as error:
        raise _unusable(path, 0, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _unusable(
            path, 0, f"expected UTF-8 text, found another byte at position {error.start}"
        ) from None
    return parse_document(text, path, environ)


def parse_document(text: str, path: Path, environ: Mapping[str, str] | None = None) -> Document:
    """Return what YAML text says; ``path`` is only named in problems."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, path) from None
    except yaml.YAMLError as error:
        raise _unusable(path, 1, f"not valid YAML: {error}") from None
    except RecursionError:
        raise _unusable(
            path, 1, "not a config file: its lists or sections lie in each other too deep"
        ) from None
    document = Document(str(path))
    if node is None:
        return document
    if not isinstance(node, MappingNode):
        raise _unusable(
            path, node.start_mark.line + 1, "expected a mapping such as `database: ...` at the top"
        )
    reader = _Reader(document, os.environ if environ is None else environ)
    try:
        document.values = reader.mapping(node, ())
    except (_TooManyError, RecursionError):
        line = reader.inside[-1].start_mark.line + 1 if reader.inside else 1
        raise _unusable(
            path,
            line,
            f"expected at most {MOST_VALUES:,} values, aliases (*name) counted as often as they stand",
        ) from None
    return document


class _TooManyError(Exception):
    """Aliases multiply without end."""


def _syntax_error(error: yaml.MarkedYAMLError, text: str, path: Path) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    row = mark.line if mark else 0
    what = " ".join(part for part in (error.context, error.problem) if part)
    lines = text.splitlines()
    hint = "; put ${...} in quotes inside { }" if row < len(lines) and "${" in lines[row] else ""
    return _unusable(path, row + 1, f"not valid YAML: {what}{hint}")


def _unusable(path: Path, line: int, message: str) -> ConfigError:
    return ConfigError([Problem(str(path), line, (), message)])


class _Reader:
    """Turns nodes into values; notes places and problems in the document as it goes."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.inside: list[Node] = []
        self.scalars = _Loader("")
        self.count = 0

    def value(self, node: Node, loc: Loc) -> Any:
        self.count += 1
        if self.count > MOST_VALUES:
            raise _TooManyError
        if isinstance(node, ScalarNode):
            return self.scalar(node, loc)
        if any(node is outer for outer in self.inside):
            self.document.add(loc, node.start_mark.line + 1, "an alias stands inside what it names")
            return None
        self.inside.append(node)
        value = self.mapping(node, loc) if isinstance(node, MappingNode) else self.sequence(node, loc)
        self.inside.pop()
        return value

    def mapping(self, node: MappingNode, loc: Loc) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self.document.add(loc, line, "expected a plain key, got a list or a section")
            elif key_node.value == MERGE:
                merged |= self.merge(value_node, loc)
            elif (key := key_node.value) in values:
                first = self.document.places[(*loc, key)].line
                self.document.add((*loc, key), line, f"given twice, first on line {first}; keep one")
            else:
                self.note(value_node, (*loc, key), line)
                values[key] = self.value(value_node, (*loc, key))
        return merged | values

    def merge(self, node: Node, loc: Loc) -> dict[str, Any]:
        """Return what ``<<: *other`` brings; of several the first wins, as YAML has it."""
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        brought: dict[str, Any] = {}
        for part in nodes:
            value = self.value(part, loc)
            if isinstance(value, dict):
                brought = value | brought
            else:
                self.document.add(loc, part.start_mark.line + 1, "expected a section after <<")
        return brought

    def sequence(self, node: Node, loc: Loc) -> list[Any]:
        items = []
        for i, item in enumerate(node.value):
            self.note(item, (*loc, i), item.start_mark.line + 1)
            items.append(self.value(item, (*loc, i)))
        return items

    def note(self, node: Node, loc: Loc, line: int) -> None:
        """Remember a place: a scalar's own line, a section's or list's key."""
        if isinstance(node, ScalarNode):
            text = repr(node.value[:60]) if node.value else "nothing"
            place = Place(max(line, node.start_mark.line + 1), text)
        else:
            place = Place(line, "a section" if isinstance(node, MappingNode) else "a list")
        self.document.places[loc] = place

    def scalar(self, node: ScalarNode, loc: Loc) -> Any:
        if "${" in node.value:
            return _VARIABLE.sub(lambda match: self.variable(match, node, loc), node.value)
        try:
            return self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self.document.add(loc, node.start_mark.line + 1, f"expected plain YAML, got the tag {node.tag}")
            return None

    def variable(self, match: re.Match[str], node: ScalarNode, loc: Loc) -> str:
        """Return what a ``${...}`` stands for; ``$${`` stands for ``${``."""
        if match[1]:
            return match[0][1:]
        line = node.start_mark.line + 1
        named = _NAME.fullmatch(match[2])
        if named is None:
            self.document.add(loc, line, f"expected ${{NAME}} or ${{NAME:-default}}, got {match[0]}")
            return ""
        name, default = named.groups()
        if self.environ.get(name):
            if sounds_secret(name):
                remember(self.environ[name])
            return self.environ[name]
        if self.environ.get(f"{name}_FILE"):
            return self.from_file(name, line, loc)
        if default is None:
            self.document.add(
                loc,
                line,
                f"environment variable {name} is not set; set it or {name}_FILE, "
                f"or write ${{{name}:-default}}",
            )
        return default or ""

    def from_file(self, name: str, line: int, loc: Loc) -> str:
        file = self.environ[f"{name}_FILE"]
        try:
            text = Path(file).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            # A password that was put there by mistake is shown to nobody.
            shown = file if os.path.isabs(file) else "not shown, as it is no absolute path"
            self.document.add(loc, line, f"{name}_FILE names a file that cannot be read: {shown}")
            return ""
        remember(text)
        return text
