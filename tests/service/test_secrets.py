"""No secret in anything that people or programs read, wherever it came from."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from commands import anomaly
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from anomaly_service import secrets
from anomaly_service.cli import main
from anomaly_service.daemon import loop
from anomaly_service.daemon.telemetry import configure_logging
from anomaly_service.db.engine import transaction
from anomaly_service.db.migrate import migrate
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import AnomalyServiceError, DatabaseUnavailableError
from anomaly_service.secrets import hidden, hidden_within

CANARY = "c4n@ry/pa55"
"""Characters that should be escaped in a URL, and are not."""
PARTS = ("c4n", "ry/pa55", "pa55")
NOWHERE = "127.0.0.1:1"

URLS = {
    "user part": f"postgresql://anna:{CANARY}@{NOWHERE}/telemetry",
    "escaped": f"postgresql://anna:c4n%40ry%2Fpa55@{NOWHERE}/telemetry",
    "query": f"postgresql://anna@{NOWHERE}/telemetry?password={CANARY}",
    "another key": f"postgresql://anna@{NOWHERE}/telemetry?sslpassword={CANARY}",
    "no such option": f"sqlite:///points.db?token={CANARY}",
    "no database": f"mysql://anna:{CANARY}@{NOWHERE}/telemetry",
    "no port": f"postgresql://anna:{CANARY}@db:many/telemetry",
}
GIVEN = ("plain", "environment", "file", "twin file", "password from the environment")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", {})


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a daemon of this process logs."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    stream = io.StringIO()
    monkeypatch.setattr(loop, "configure_logging", lambda: configure_logging(as_json=True, stream=stream))
    yield stream
    root.handlers = before
    root.setLevel(level)
    structlog.reset_defaults()


def written(key: str, how: str, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the line of a config file that gives a URL in one of the ways there are."""
    if how == "environment":
        monkeypatch.setenv("WHOLE_URL", url)
        return f'{key}: "${{WHOLE_URL}}"'
    if how == "file":
        (folder / "url").write_text(url + "\n")
        return f"{key}_file: url"
    if how == "twin file":
        (folder / "whole").write_text(url + "\n")
        monkeypatch.setenv("WHOLE_URL_FILE", str(folder / "whole"))
        return f'{key}: "${{WHOLE_URL}}"'
    if how == "password from the environment":
        monkeypatch.setenv("DB_PASSWORD", CANARY)
        return f'{key}: "{url.replace(CANARY, "${DB_PASSWORD}")}"'
    return f'{key}: "{url}"'


def assert_no_secret(told: str) -> None:
    for part in PARTS:
        assert part not in told, told


@pytest.mark.parametrize("how", GIVEN)
@pytest.mark.parametrize("where", URLS)
def test_no_message_about_the_service_s_database_shows_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, how: str
) -> None:
    config = tmp_path / "anomaly.yaml"
    config.write_text(written("database", how, URLS[where], tmp_path, monkeypatch) + "\n")
    for command in ("migrate", "status"):
        told = anomaly(command, "--config", config)
        assert told.code == 1
        assert_no_secret(told.out + told.err)


def test_a_traceback_shows_no_secret_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANOMALY_DEBUG", "1")
    monkeypatch.setattr(sys, "excepthook", None)
    config = tmp_path / "anomaly.yaml"
    config.write_text(f'database: "{URLS["query"]}"\n')
    with pytest.raises(DatabaseUnavailableError) as caught:
        main(["status", "--config", str(config)])
    sys.excepthook(caught.type, caught.value, caught.tb)
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert_no_secret(told)


@pytest.mark.parametrize(
    ("where", "how"), [*((where, "plain") for where in URLS), *(("query", how) for how in GIVEN)]
)
def test_no_message_about_a_source_shows_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: io.StringIO, where: str, how: str
) -> None:
    url = written("url", how, URLS[where], tmp_path, monkeypatch)
    config = tmp_path / "anomaly.yaml"
    config.write_text(
        "database: sqlite:///own.db\nhttp: {port: 0}\nsources:\n  orders:\n    kind: sql\n    step: 5min\n"
        f"    {url}\n    query: SELECT 1 AS ts WHERE :since < :until\n"
    )
    assert anomaly("migrate", "--config", config).code == 0
    commands = ("daemon", "--once"), ("ingest",), ("status",), ("status", "--json")
    told = [anomaly(*command, "--config", config) for command in commands]
    with SqlStore(f"sqlite:///{tmp_path / 'own.db'}") as store:
        runs = store.rows("run_log")
    assert runs
    assert all(run["error"] for run in runs)
    assert "source not read" in log.getvalue() or "run failed" in log.getvalue(), log.getvalue()
    for told_ in (*(each.out + each.err for each in told), log.getvalue(), repr(runs)):
        assert_no_secret(told_)


def test_what_a_database_says_of_a_statement_is_told_without_secrets(store: SqlStore) -> None:
    secrets.remember("t0ken-of-nobody")
    with pytest.raises(DBAPIError) as caught, transaction(store.engine, write=False) as connection:
        connection.execute(text("SELECT 't0ken-of-nobody' FROM nowhere"))
    assert "nowhere" in hidden(str(caught.value))
    assert "t0ken" not in hidden(str(caught.value))


def test_a_secret_of_an_added_source_is_hidden_whole_and_a_word_only_as_a_word() -> None:
    secrets.remember("postgres")
    secrets.remember("t0ken")
    assert hidden("postgresql: user postgres, key=at0ken_") == "postgresql: user ***, key=a***_"
    assert hidden_within({"a": [("t0ken", 1)], "b": None}) == {"a": [["***", 1]], "b": None}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://anna:s3cret@db:5432/x", "postgresql://anna:***@db:5432/x"),
        ("postgresql://db/x?user=a&password=s3cret", "postgresql://db/x?user=a&password=***"),
        ("postgresql://anna:s3:c@ret@db/x", "postgresql://anna:***@db/x"),
        ("host=db password='a b' sslpassword=c dbname=x", "host=db password=*** sslpassword=*** dbname=x"),
        ("sqlite:////var/lib/anomaly.db", "sqlite:////var/lib/anomaly.db"),
    ],
)
def test_secrets_are_known_by_their_shape(url: str, shown: str) -> None:
    assert hidden(url) == shown


def test_an_unreachable_database_is_named_without_its_secrets() -> None:
    with pytest.raises(AnomalyServiceError, match="psycopg://anna") as caught:
        migrate(f"postgresql://anna@{NOWHERE}/x?password={CANARY}")
    assert_no_secret(str(caught.value))
