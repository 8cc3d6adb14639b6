"""What every command shares: its options, its service, and how it says that something failed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from anomaly_service.printable import printable

if TYPE_CHECKING:
    from anomaly_service.config.sections import Config
    from anomaly_service.service import Service

FIRST_STEPS = "First steps"
PANELS = (FIRST_STEPS, "At work", "What people say", "Lists", "Models", "How good it is")
"""Parts of the help, in this order."""

STEPS = ("try", "init", "ingest", "validate", "backfill", "intervals", "review", "daemon")
"""The first steps, in the order in which people take them."""


class _InOrder(TyperGroup):
    """Lists commands by the part of the help they stand in, the first steps as people take them."""

    def list_commands(self, ctx: Any) -> list[str]:
        def place(name: str) -> tuple[int, int]:
            panel = getattr(self.commands[name], "rich_help_panel", None)
            return PANELS.index(str(panel)), STEPS.index(name) if panel == FIRST_STEPS else 0

        return sorted(self.commands, key=place)


app = typer.Typer(
    cls=_InOrder,
    help="Find anomalies in time series with generative models; results in SQL, reviews that last.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MOST = 2**31 - 1
"""No list is longer, and most numbers in a database are no larger."""


def whole(least: int = 1, most: int = MOST) -> Callable[[object], int]:
    """Return what reads a whole number of an option or argument, and refuses what lies outside."""

    def integer(given: object) -> int:
        text = str(given).strip()
        value = int(text) if re.fullmatch(r"[-+]?\d{1,30}", text) else None
        if value is None or not least <= value <= most:
            raise _refused(f"expected a whole number from {least:,} to {most:,}, got {text[:40]!r}")
        return value

    return integer


def number(given: object) -> float:
    """Return the finite number that an option holds."""
    try:
        value = float(str(given))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _refused(f"expected a finite number such as 1.5, got {str(given)[:40]!r}")
    return value


def _refused(said: str) -> Exception:
    """Return an error that typer tells as wrong usage, in our words and with the option's name."""
    from pydantic_core import PydanticCustomError

    return PydanticCustomError("usage", said.replace("{", "{{").replace("}", "}}"))


Event = Annotated[
    int, typer.Argument(metavar="EVENT", parser=whole(1, 2**63 - 1), help="event_id of the interval.")
]
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


def span(
    start: str | None, stop: str | None, first: str, last: str
) -> tuple[datetime | None, datetime | None]:
    """Return the times that two options name.

    Raises:
        typer.BadParameter: not times, or the second is none after the first.
    """
    a, b = moment(start, first), moment(stop, last)
    if a is not None and b is not None and a >= b:
        raise typer.BadParameter(f"{first} must lie before {last}, got {start} and {stop}")
    return a, b


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
    said = hidden(f"{name}: {error}" if bug else str(error) or name)
    typer.echo(printable(f"error: {said}", breaks=True), err=True)
    if bug:
        typer.echo(f"{report()} ANOMALY_DEBUG=1 shows the traceback.", err=True)


def show_traceback(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    """Print the traceback of an exception on stderr without the secrets that it may carry along."""
    import traceback

    from anomaly_service.secrets import hidden

    typer.echo(hidden("".join(traceback.format_exception(error))), err=True)
