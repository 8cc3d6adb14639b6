"""The one tree of errors: what is raised on purpose is in it, of one kind, and found in one place."""

from __future__ import annotations

import ast
import importlib
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from anomaly_service import errors
from anomaly_service.config.errors import Problem
from anomaly_service.errors import AnomalyServiceError, ConfigError, ErrorKind, is_bug

ROOT = Path(__file__).parents[1]
PACKAGES = ("anomaly_service", "pipelines", "detectors")
KINDS = (
    errors.NotFoundError,
    errors.ConflictError,
    errors.InvalidError,
    errors.UnavailableError,
    errors.RefusedError,
)


def modules(saying: str = "") -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of ours that holds a text, by name, parsed: importing them costs seconds."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if saying in (text := path.read_text(encoding="utf-8")):
                yield name, ast.parse(text)


def is_error(node: ast.ClassDef) -> bool:
    """True for a class that is an exception by its name or by that of a class it derives from."""
    names = [node.name, *(ast.unparse(base) for base in node.bases)]
    return any(name.endswith(("Error", "Exception")) for name in names)


@cache
def public_errors() -> list[tuple[str, str]]:
    """Return module and name of every public class of errors."""
    return [
        (module, node.name)
        for module, tree in modules(saying="Error")
        for node in tree.body
        if isinstance(node, ast.ClassDef) and is_error(node) and not node.name.startswith("_")
    ]


def test_no_error_is_overlooked() -> None:
    assert len(public_errors()) > 25
    assert ("pipelines.errors", "BudgetError") in public_errors()


@pytest.mark.parametrize(("module", "name"), public_errors())
def test_every_public_error_is_in_the_tree_and_where_callers_look_for_it(module: str, name: str) -> None:
    offered = getattr(errors, name, None)
    assert offered is getattr(importlib.import_module(module), name)
    assert name in errors.__all__
    assert issubclass(offered, AnomalyServiceError)
    assert offered.__doc__


@pytest.mark.parametrize("name", sorted({name for _, name in public_errors()} - {"AnomalyServiceError"}))
def test_every_error_is_of_one_kind(name: str) -> None:
    cls = getattr(errors, name)
    (kind,) = (each for each in KINDS if issubclass(cls, each))
    assert cls.kind is kind.kind


def test_the_kinds_are_those_of_http() -> None:
    assert {each.kind for each in KINDS} == set(ErrorKind)
    assert {each.name: each.value for each in ErrorKind} == {
        "REFUSED": 403,
        "NOT_FOUND": 404,
        "CONFLICT": 409,
        "INVALID": 422,
        "UNAVAILABLE": 503,
    }


def test_nothing_without_a_kind_is_raised() -> None:
    raised = [
        (module, node.lineno)
        for module, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node.exc is not None
        if ast.unparse(node.exc).split("(")[0] in {"AnomalyServiceError", "Exception", "BaseException"}
    ]
    assert raised == []


@pytest.mark.parametrize("name", sorted({name for _, name in public_errors()} - {"ConfigError"}))
def test_an_error_arrives_as_it_was_from_a_worker(name: str) -> None:
    error = getattr(errors, name)("what came; what to do")
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == "what came; what to do"


def test_the_problems_of_a_config_arrive_as_they_were_from_a_worker() -> None:
    error = ConfigError([Problem("a.yaml", 3, ("workers",), "expected a number")])
    arrived = pickle.loads(pickle.dumps(error))
    assert (str(arrived), arrived.problems) == (str(error), error.problems)


@pytest.mark.parametrize("cls", [ValueError, TypeError, KeyError, RuntimeError, LookupError, OSError])
def test_what_nobody_raised_on_purpose_is_a_bug(cls: type[Exception]) -> None:
    assert is_bug(cls("boom"))


def test_ours_is_no_bug_and_neither_is_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert not any(is_bug(each("what to do")) for each in KINDS)
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "none").read_text()
    assert not is_bug(missing.value)
