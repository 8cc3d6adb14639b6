"""Who may import whom, and what starting the command line costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"alembic", "numpy", "pandas", "pyarrow", "pydantic", "scipy", "sklearn", "sqlalchemy", "torch"}


def test_the_layers_are_kept() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


LIGHT = ("anomaly_service.cli", "anomaly_service.__main__", "anomaly_service.errors")


@pytest.mark.parametrize("module", LIGHT)
def test_the_command_line_and_the_errors_start_without_anything_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(loaded.stdout.split())


def test_the_records_and_contracts_need_only_numpy() -> None:
    program = "import sys, pipelines.records, pipelines.store, pipelines.monitor; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not (HEAVY - {"numpy"}) & set(loaded.stdout.split())


def test_reviews_lists_and_the_standing_load_no_torch() -> None:
    program = "import sys, anomaly_service.service, anomaly_service.insight.status; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "sklearn", "pandas"} & set(loaded.stdout.split())


def ours_from(folder: Path, *command: str) -> str:
    """Return what stands on stderr of a python command that is run in a folder, with ours on its path."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("name", ["detectors/__init__.py", "pipelines/__init__.py", "pipelines.py"])
def test_a_package_of_yours_that_hides_one_of_ours_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    for command in (["-m", "anomaly_service", "--help"], ["-c", "import anomaly_service"]):
        last = ours_from(tmp_path, *command).strip().splitlines()[-1]
        assert last.startswith(f"ImportError: {tmp_path.resolve() / name.split('/')[0]}")
        assert "rename it, or start Python in another folder" in last


def test_folders_of_yours_that_are_no_packages_hide_nothing(tmp_path: Path) -> None:
    for name in ("detectors", "pipelines", "migrations"):
        (tmp_path / name).mkdir()
    assert ours_from(tmp_path, "-m", "anomaly_service", "--help") == ""


def test_migrations_of_yours_are_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "__init__.py").write_text("raise SystemExit('not ours')")
    program = "from anomaly_service.db.migrate import migrate; migrate('sqlite:///new.db')"
    assert ours_from(tmp_path, "-c", program) == ""
