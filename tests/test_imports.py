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
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["anomaly_service.cli", "anomaly_service.__main__"])
def test_the_command_line_starts_without_anything_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert not HEAVY & set(loaded.stdout.split())


def test_the_records_and_contracts_need_only_numpy() -> None:
    program = "import sys, pipelines.records, pipelines.store, pipelines.monitor; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert not (HEAVY - {"numpy"}) & set(loaded.stdout.split())
