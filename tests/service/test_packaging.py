"""What is installed and deployed: the wheel, the constraints, the image and the compose file."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def run(*command: str, cwd: Path = ROOT) -> str:
    """Return what a command prints; fail with it where the command fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Return the built wheel; built from a copy, so that no build folder is left in the tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    run(*build, cwd=source)
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_package_the_migrations_and_the_views(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for package in ("anomaly_service", "detectors", "pipelines", "migrations"):
        missing = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.suffix in {".py", ".sql", ".mako", ".html", ".typed"}
        } - names
        assert not missing


def test_the_wheel_installs_the_command_and_the_plug_ins(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(entry_points).decode()
    assert "anomaly = anomaly_service.cli:main" in text
    assert "gaussian = detectors.gaussian:GaussianDetector" in text
    assert "csv = anomaly_service.sources.csv:CsvSource" in text


def test_the_wheel_holds_no_tests(wheel: zipfile.ZipFile) -> None:
    assert not [name for name in wheel.namelist() if name.startswith(("tests/", "benchmarks/"))]


def constraints() -> dict[str, str]:
    """Return the pinned version of every package."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    pinned = dict(line.split("==") for line in lines)
    return {re.sub("[-_.]+", "-", name).lower(): version for name, version in pinned.items()}


def test_constraints_pin_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=;,~! ]", each)[0].lower() for each in direct}
    assert names <= set(constraints())


def test_constraints_name_no_local_file_and_no_local_version() -> None:
    # torch's CPU build is 2.13.0+cpu: pinned without the suffix, so that any index may serve it.
    assert all(re.fullmatch(r"[\w.]+", version) for version in constraints().values())


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_the_compose_file_fits_the_compose_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    run(*check, "docker-compose.yml")


def test_the_daemon_starts_after_the_database_is_healthy_and_migrated_once(compose: Any) -> None:
    services = compose["services"]
    assert services["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert services["daemon"]["depends_on"] == {
        "db": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }
    assert services["migrate"]["restart"] == "no"


def test_what_runs_for_long_is_checked_for_health(compose: Any) -> None:
    assert "pg_isready" in " ".join(compose["services"]["db"]["healthcheck"]["test"])
    assert "/livez" in " ".join(compose["services"]["daemon"]["healthcheck"]["test"])


def test_no_password_stands_in_the_compose_file(compose: Any) -> None:
    password = compose["services"]["db"]["environment"]["POSTGRES_PASSWORD"]
    assert password.startswith("${POSTGRES_PASSWORD:?")
    assert "${POSTGRES_PASSWORD:?" in compose["services"]["daemon"]["environment"]["ANOMALY_DATABASE"]


def test_nothing_is_published_beyond_the_machine_itself(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_runs_as_an_ordinary_user() -> None:
    last_stage = (ROOT / "Dockerfile").read_text().split("\nFROM ")[-1]
    assert re.search(r"^USER (?!root)\w+$", last_stage, re.MULTILINE)


def test_the_image_gets_every_package_that_the_wheel_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {each.rstrip("*") for each in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= kept


def test_the_config_of_the_compose_file_is_one_that_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from anomaly_service.config.load import load

    monkeypatch.setenv("ANOMALY_DATABASE", "postgresql://anomaly:secret@db/anomaly")
    config = load(ROOT / "docker" / "anomaly.yaml")
    assert config.database.startswith("postgresql://")
    # Published on the host's localhost only, so inside it must listen on all addresses.
    assert (config.http.host, config.http.port) == ("0.0.0.0", 9464)


def test_ci_calls_what_people_call_and_skips_nothing_for_want_of_a_program() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "make lint types test"
    assert "export REQUIRE_ALL=1" in lines


def test_the_workflow_calls_the_same_on_every_python_that_is_supported() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    jobs = workflow["jobs"]
    runs = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    assert {"make lint types", "make test"} <= {
        run for run in ("make lint types", "make test") if run in runs
    }
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert jobs["test"]["env"] == {"REQUIRE_ALL": "1"}


@pytest.mark.parametrize("require", ["", "1"])
def test_a_test_that_misses_a_program_fails_where_all_must_be_there(tmp_path: Path, require: str) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_makereport\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_it():\n    pytest.skip('a browser (chromium) is not installed')\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            "--rootdir",
            tmp_path,
            tmp_path,
        ],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "REQUIRE_ALL": require},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ("1 failed" in done.stdout) == bool(require), done.stdout + done.stderr
    assert ("1 skipped" in done.stdout) != bool(require)


def test_make_alone_lists_every_target() -> None:
    listed = run("make", "--no-print-directory")
    for target in ("demo", "test", "lint", "types", "bench", "soak", "up"):
        assert f"make {target} " in listed
