"""The documentation says what is there: every command, detector and decision, and its examples run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from anomaly_service.cli import app
from detectors import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(DOCS.rglob("*.md")),
]


def commands() -> dict[str, Any]:
    """Return every command by name, those of a group by two words."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        found |= {f"{name} {word}": each for word, each in inner.items()} or {name: command}
    return found


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_and_its_options_are_documented(command: str) -> None:
    sections = re.split(r"^### ", (DOCS / "cli.md").read_text(), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(f"`anomaly {command}")]
    shared = {"--config", "--now", "--help"}
    own = {option for each in commands()[command].params for option in each.opts if option[:2] == "--"}
    missing = {option for option in own - shared if option not in section}
    assert not missing


def test_no_command_is_documented_that_does_not_exist() -> None:
    told = set(
        re.findall(r"^### `anomaly ([a-z-]+(?: [a-z]+)?)", (DOCS / "cli.md").read_text(), re.MULTILINE)
    )
    assert told == set(commands())


@pytest.mark.parametrize("detector", registry.names())
def test_every_detector_is_documented_with_all_its_settings(detector: str) -> None:
    from dataclasses import fields

    sections = re.split(r"^## ", (DOCS / "detectors.md").read_text(), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(f"`{detector}`")]
    (shared,) = [text for text in sections if text.startswith("Settings all share")]
    settings = {field.name for field in fields(registry.get(detector).Config)}
    assert not {name for name in settings if f"`{name}`" not in section + shared}


def test_every_decision_stands_in_the_list() -> None:
    pages = {path.name for path in (DOCS / "decisions").glob("0*.md")}
    assert set(re.findall(r"\((0[^)]*\.md)\)", (DOCS / "decisions" / "README.md").read_text())) == pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def lines_of_shell() -> list[tuple[str, str]]:
    """Return every command line of the documentation, with the page it stands on."""
    return [
        (str(page.relative_to(ROOT)), line.split(" #")[0].strip())
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.split(" #")[0].strip()
    ]


@pytest.mark.parametrize(("page", "line"), [each for each in lines_of_shell() if "anomaly " in each[1]])
def test_commands_in_the_documentation_are_ones_that_parse(page: str, line: str) -> None:
    words = shlex.split(line)
    if words[0].rsplit("/", 1)[-1] != "anomaly":
        pytest.skip(f"{page}: no command of ours")
    name, *args = words[1:]
    if "--help" in words:
        assert name in {"--help", *commands()}
        return
    if name not in commands():
        name = f"{name} {args.pop(0)}"
    command = commands()[name]
    command.make_context(name, args, resilient_parsing=False).close()


@pytest.mark.parametrize("target", ["demo", "test", "lint", "types", "bench", "soak", "up"])
def test_the_make_targets_that_the_readme_names_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_is_only_told_to_do_what_it_can(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)", page.read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def runs(page: Path) -> list[tuple[str, str]]:
    """Return the Python blocks of a page in order, each with what the block below it says it prints."""
    found = re.findall(
        r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```$)?", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [(code, printed) for code, printed in found]


def alike(told: str, printed: str) -> bool:
    """True where words are equal and numbers nearly: their last digits depend on the machine."""
    one, other = ([line.split() for line in text.strip().splitlines()] for text in (told, printed))
    return len(one) == len(other) and all(
        len(a) == len(b) and all(x == y or _near(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def _near(told: str, printed: str) -> bool:
    try:
        one, other = (float(text.replace(",", "")) for text in (told, printed))
    except ValueError:
        return False
    return one == pytest.approx(other, rel=0.02, abs=0.02)


def test_the_notebook_page_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code, told in runs(DOCS / "howto" / "in-a-notebook.md"):
        exec(compile(code, "in-a-notebook.md", "exec"), names)
        printed = capsys.readouterr().out
        assert alike(told, printed), f"{code}\nprints\n{printed}"
    assert (tmp_path / "logins.png").stat().st_size > 10_000


def installed(page: Path, module: str, source: Path, target: Path) -> Path:
    """Return the folder that a how-to's package is installed into."""
    (source / "pyproject.toml").write_text(blocks(page, "toml")[0])
    (source / f"{module}.py").write_text(blocks(page, "python")[0])
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, *install, "--target", target, source], check=True, timeout=600)
    return target


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = DOCS / "howto" / "add-a-detector.md"
    folders = tmp_path_factory.mktemp("band-detector"), tmp_path_factory.mktemp("site")
    return installed(page, "band_detector", *folders)


@pytest.fixture(scope="module")
def third_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = DOCS / "howto" / "add-a-source.md"
    folders = tmp_path_factory.mktemp("json-lines-source"), tmp_path_factory.mktemp("site")
    return installed(page, "json_lines_source", *folders)


def with_third_party(site: Path, *command: str) -> str:
    """Return what a python command prints that finds the package."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_how_to_s_detector_is_found_by_its_entry_point(third_party: Path) -> None:
    program = "from detectors import registry; print(registry.get('band').__name__)"
    assert with_third_party(third_party, "-c", program) == "BandDetector\n"
    assert "Quantile band" in with_third_party(third_party, "-m", "anomaly_service", "detectors")


def test_the_how_to_s_detector_keeps_the_contract(third_party: Path) -> None:
    told = with_third_party(third_party, "-c", blocks(DOCS / "howto" / "add-a-detector.md", "python")[1])
    assert "an anomaly outscores normal steps [spike]" in told


def test_the_how_to_s_source_keeps_the_contract(third_source: Path) -> None:
    told = with_third_party(third_source, "-c", blocks(DOCS / "howto" / "add-a-source.md", "python")[1])
    assert "every row becomes a point of its series" in told


def test_the_how_to_s_source_is_one_that_a_config_may_name(third_source: Path) -> None:
    program = "from anomaly_service import sources; print(sources.get('jsonl').__name__)"
    assert with_third_party(third_source, "-c", program) == "JsonLinesSource\n"


def test_the_example_for_contributors_runs() -> None:
    (program,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    with_third_party(ROOT, "-c", program)
