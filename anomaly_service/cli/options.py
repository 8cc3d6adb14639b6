"""What every command shares: its options, its service, and how it says that something failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from anomaly_service.config.sections import Config
    from anomaly_service.service import Service

app = typer.Typer(
    help="Find anomalies in time series with generative models; results in SQL, reviews that last.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigPath = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="ANOMALY_CONFIG", help="The config file.", dir_okay=False),
]
Now = Annotated[
    str | None,
    typer.Option("--now", metavar="TIME", help="Act as if it were this time (ISO 8601; UTC unless it says)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON array of objects instead of a table.")]
Monitors = Annotated[
    list[str] | None,
    typer.Option("--monitor", "-m", metavar="NAME", help="Only this monitor; may be repeated."),
]
CONFIG = Path("anomaly.yaml")

LAST_YEAR = 9990
"""Python's calendar ends with 9999, and jobs look a few nights ahead."""


def moment(text: str | None, option: str) -> datetime | None:
    """Return the time an option names, in UTC; None where it was left out.

    Raises:
        typer.BadParameter: not a time.
    """
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter where it lies before the year 1 in UTC
        at = datetime.max
    if at.year > LAST_YEAR:
        raise typer.BadParameter(
            f"{option} expects a time such as 2026-03-01 or 2026-03-01T12:00:00Z, got {text!r}"
        )
    return at


def load(config: Path) -> Config:
    """Return the config; ConfigError says what is wrong with it, or how to get one."""

    from anomaly_service.config.load import load as load_file

    return load_file(config)


@contextmanager
def opened(config: Path, now: str | None, *, quiet: bool = False) -> Iterator[Service]:
    """Open the service on a config file, with a bar per stage unless ``quiet``."""
    at = moment(now, "--now")
    with serving(load(config), at, quiet=quiet) as service:
        yield service


@contextmanager
def serving(config: Config, at: datetime | None, *, quiet: bool = False) -> Iterator[Service]:
    """Open the service on a loaded config, with a bar per stage unless ``quiet``."""
    from anomaly_service.cli.tables import Stages
    from anomaly_service.service import Service

    stages = Stages(parts=len(config.monitors), quiet=quiet)
    with stages, Service(config, now=at, on_progress=stages.update) as service:
        yield service


@contextmanager
def usage() -> Iterator[None]:
    """Tell what cannot be asked for as wrong usage, with exit status 2."""
    from anomaly_service.errors import AskedError

    try:
        yield
    except AskedError as error:
        raise typer.BadParameter(str(error)) from None


def fail(error: BaseException) -> None:
    """Say on stderr what went wrong, in one message; of a bug also where to report it."""
    from anomaly_service.errors import is_bug, report
    from anomaly_service.secrets import hidden

    bug, name = is_bug(error), type(error).__name__
    told = hidden(f"{name}: {error}" if bug else str(error) or name)
    typer.echo(f"error: {told}", err=True)
    if bug:
        typer.echo(f"{report()} ANOMALY_DEBUG=1 shows the traceback.", err=True)


def show_traceback(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    """Print the traceback of an exception on stderr without the secrets that it may carry along."""
    import traceback

    from anomaly_service.secrets import hidden

    typer.echo(hidden("".join(traceback.format_exception(error))), err=True)
