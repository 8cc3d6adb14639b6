"""Rows of any database SQLAlchemy can talk to, by a query with ``:since`` and ``:until``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from anomaly_service.config.values import (
    Duration,
    PositiveDuration,
    Secret,
    SecretFile,
    Text,
    TextOrList,
    absolute_sqlite,
    expected,
    whole_seconds,
)
from anomaly_service.errors import SourceError
from anomaly_service.secrets import hidden
from anomaly_service.sources.base import BATCH_ROWS, SourceConfig
from anomaly_service.sources.columns import Collected, Layout, Rows, read_table
from anomaly_service.sources.reasons import Reason
from pipelines.records import Json
from pipelines.store import Ingest

WATERMARK = "watermark"
FETCH_ROWS = 50_000
"""Rows asked of the server at a time; they are Python tuples, so tens of megabytes."""

REMEMBERED_REJECTS = 10_000
"""Rejected rows that are remembered, those that were met last, so that they are reported once."""

PIECE_SECONDS = 86_400
"""What one query asks for at first of a span that is read again; more where there are few rows, and less
where there are many."""


class SqlConfig(SourceConfig):
    """A query that returns points, asked again and again from where the last answer ended."""

    url: Secret = Field(
        repr=False, description="SQLAlchemy URL; write the password as `${NAME}`, or use `url_file`."
    )
    url_file: SecretFile | None = Field(
        default=None, description="File that holds the URL, instead of `url`."
    )
    query: Text = Field(
        description="SELECT with `:since` and `:until`, such as `SELECT ts, value, metric, realm FROM point "
        "WHERE ts >= :since AND ts < :until`."
    )
    timestamp: Text = Field(default="ts", description="Column of the time.")
    value: TextOrList = Field(
        default=["value"],
        description="Column of the value. Of a list, each column is a metric named after it.",
        validate_default=True,
    )
    metric: Text | None = Field(default=None, description="Column that names the metric.")
    metric_name: Text | None = Field(
        default=None,
        description="The metric, where no column names it; the source's name where neither is given.",
    )
    labels: list[Text] = Field(
        default_factory=list, description="Columns that become labels; empty ones are left out."
    )
    times: Literal["aware", "naive", "epoch", "epoch_ms"] = Field(
        default="aware",
        description="What `:since` and `:until` are: times with zone (`timestamptz`), times in the source's "
        "`timezone` (`timestamp`), or numbers. On SQLite the first two are texts, `YYYY-MM-DD HH:MM:SS`.",
    )
    overlap: Duration = Field(
        default=timedelta(minutes=15),
        validate_default=True,
        description="How far before the newest point each query begins again, for rows that come late; "
        "`delay` where that is longer. Once a night they are looked for in all of `nightly.window`.",
    )
    timeout: PositiveDuration = Field(
        default=timedelta(seconds=60),
        validate_default=True,
        description="How long the database may take to answer, or say nothing, before it is given up.",
    )
    start: Text | None = Field(
        default=None, description="ISO 8601 time of the oldest row wanted; 1970 where not given."
    )

    @field_validator("url")
    @classmethod
    def _found_from_anywhere(cls, value: str, info: ValidationInfo) -> str:
        return absolute_sqlite(value, info)

    @field_validator("query")
    @classmethod
    def _has_parameters(cls, value: str) -> str:
        missing = [name for name in (":since", ":until") if not re.search(rf"(?<!:){name}\b", value)]
        if missing:
            raise expected(
                f"expected a query with :since and :until, as in WHERE ts >= :since AND ts < :until; "
                f"{' and '.join(missing)} is missing",
                shown=False,
            )
        # ``:since::timestamptz`` would not be taken for a parameter.
        return re.sub(r"(?<!:):(since|until)::(\w+)", r"CAST(:\1 AS \2)", value.strip().rstrip(";"))

    @field_validator("start")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        try:
            at = datetime.fromisoformat(value) if value is not None else None
        except ValueError:
            raise expected("expected an ISO 8601 time such as 2024-01-31 or 2024-01-31T00:00:00Z") from None
        return value if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC).isoformat()

    def layout(self, source: str) -> Layout:
        """Return which columns of the answer hold what."""
        by_name = self.metric is None and len(self.value) == 1
        return Layout(
            timestamp=self.timestamp,
            values=tuple(self.value),
            metric=self.metric,
            metric_name=self.metric_name or (source if by_name else ""),
            labels=tuple(self.labels),
        )


@dataclass
class SqlSource:
    """Asks for rows from a watermark on: the newest time seen, less the overlap or the delay.

    Rows are asked for in order of time, so that the watermark may move with every batch. A
    changed query begins anew; storing the same points again changes nothing. What comes later than
    that is found when a span is read again.
    """

    Config: ClassVar[type[SourceConfig]] = SqlConfig
    name: str
    config: SqlConfig
    batch_rows: int = BATCH_ROWS

    def read(self, progress: dict[str, Json], *, now: datetime) -> Iterator[Ingest]:
        """Yield batches of rows up to ``now``.

        Raises:
            SourceError: the database cannot be reached, or refuses the query.
        """
        return self._asked(_Query(self, progress, now))

    def read_again(self, progress: dict[str, Json], *, now: datetime, since: datetime) -> Iterator[Ingest]:
        """Yield the rows between two times, those that are stored too.

        Raises:
            SourceError: the database cannot be reached, or refuses the query.
        """
        query = _Query(self, progress, now)
        # Of a query that was never asked everything is new, and read as that.
        return iter(()) if query.newest is None else self._asked(query, int(since.timestamp()))

    def _asked(self, query: _Query, since: int | None = None) -> Iterator[Ingest]:
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

        try:
            engine = _engine(self.config.url, self.config.timeout.total_seconds())
        except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
            # The message of the first two may hold the URL, and so the password.
            raise SourceError(f"{self.name}: the URL names no database ({type(error).__name__})") from None
        try:
            yield from query.batches(engine, since)
        except SQLAlchemyError as error:
            raise SourceError(f"{self.name}: {_in_a_line(str(error))}") from None
        finally:
            engine.dispose()


Answer = tuple[list[str], Sequence[Sequence[Any]]]
"""Column names, and rows."""


class _Query:
    """One question: everything from the watermark, or an earlier time, until now."""

    def __init__(self, source: SqlSource, progress: dict[str, Json], now: datetime) -> None:
        self.source = source
        self.config = source.config
        self.until = int(now.timestamp())
        keys = {"query", "timestamp", "value", "metric", "metric_name", "labels", "timezone"}
        self.settings = _digest(self.config.model_dump(mode="json", include=keys))
        stored = progress.get(WATERMARK, {})
        known = stored if stored.get("settings") == self.settings else {}
        self.newest: int | None = known.get("newest")
        self.reported = frozenset(known.get("rejects", ()))
        self.rejects = dict.fromkeys(known.get("rejects", ()))
        self.n_rows = 0
        self.start = int(datetime.fromisoformat(self.config.start).timestamp()) if self.config.start else 0
        self.since = self._since()

    def _since(self) -> int:
        """Return epoch seconds the query begins at."""
        if self.newest is None:
            return self.start
        late = max(whole_seconds(self.config.overlap), whole_seconds(self.config.delay))
        return max(self.start, self.newest - late)

    def batches(self, engine: Any, since: int | None = None) -> Iterator[Ingest]:
        """Yield what the database answers.

        Args:
            since: ask again from there on, piece by piece.
        """
        batch = Collected(self.source.name, self.config)
        if since is None:
            answer = self._answer(engine, self.since, self.until)
        else:
            self.since = max(self.start, since)
            answer = self._in_pieces(engine)
        for names, rows in answer:
            self._collect(batch, names, rows)
            if batch.n_rows >= self.source.batch_rows:
                yield self._reading(batch)
                batch = Collected(self.source.name, self.config)
        if batch.n_rows:
            yield self._reading(batch)

    def _in_pieces(self, engine: Any) -> Iterator[Answer]:
        """Yield what lies before now, by queries that are small where rows are many."""
        since, seconds = self.since, PIECE_SECONDS
        while since < self.until:
            before, until = self.n_rows, min(since + seconds, self.until)
            yield from self._answer(engine, since, until)
            n_rows, since = self.n_rows - before, until
            if n_rows < self.source.batch_rows // 4:
                seconds *= 2
            elif n_rows > self.source.batch_rows:
                seconds = max(seconds // 2, whole_seconds(self.config.step))

    def _answer(self, engine: Any, since: int, until: int) -> Iterator[Answer]:
        """Yield column names and rows of a span, in order of time."""
        from sqlalchemy import column, select, text

        layout = self.config.layout(self.source.name)
        asked = text(self.config.query).columns(*(column(name) for name in layout.columns)).subquery("asked")
        query = select(*(asked.c[name] for name in layout.columns)).order_by(asked.c[layout.timestamp])
        parameters = {"since": self._moment(since, engine), "until": self._moment(until, engine)}
        options = {"stream_results": True, "yield_per": FETCH_ROWS}
        with self._connected(engine).execution_options(**options) as connection:
            for rows in connection.execute(query, parameters).partitions(FETCH_ROWS):
                yield layout.columns, rows

    def _connected(self, engine: Any) -> Any:
        try:
            return engine.connect()
        except (TypeError, ValueError) as error:  # an option that the driver does not know, or no number
            raise SourceError(
                f"{self.source.name}: the URL cannot be used: {_in_a_line(str(error))}"
            ) from None

    def _moment(self, seconds: int, engine: Any) -> Any:
        """Return a time as the query's parameter."""
        if self.config.times.startswith("epoch"):
            return seconds * 1000 if self.config.times == "epoch_ms" else seconds
        at = datetime.fromtimestamp(seconds, UTC)
        if self.config.times == "naive":
            from zoneinfo import ZoneInfo

            at = at.astimezone(ZoneInfo(self.config.timezone or "UTC")).replace(tzinfo=None)
        if engine.dialect.name == "sqlite":
            return at.strftime("%Y-%m-%d %H:%M:%S")
        return at

    def _collect(self, batch: Collected, names: list[str], rows: Sequence[Sequence[Any]]) -> None:
        import pyarrow as pa

        table = pa.table(
            {name: _array(list(cells)) for name, cells in zip(names, zip(*rows, strict=True), strict=True)}
        )
        layout = self.config.layout(self.source.name)
        read = read_table(table, layout, self.config.timezone, in_order=False)
        batch.add(read)
        batch.reject(self.source.name, list(self._new_rejects(names, rows, read)))
        self.n_rows += len(rows)
        if len(read.ts):
            # A row from the future waits; it must not make all others late.
            newest = min(int(read.ts.max()), self.until)
            self.newest = newest if self.newest is None else max(self.newest, newest)

    def _new_rejects(
        self, names: list[str], rows: Sequence[Sequence[Any]], read: Rows
    ) -> Iterator[tuple[int, Reason, str]]:
        """Yield the rows that were set aside and not reported before: much is asked for again."""
        for i, reason in zip(read.bad_rows, read.bad_reasons, strict=True):
            raw = json.dumps(dict(zip(names, rows[i], strict=True)), default=str, ensure_ascii=False)
            digest = _digest(raw)
            self._remember(digest)
            if digest not in self.reported:
                yield self.n_rows + int(i) + 1, Reason(reason), raw

    def _remember(self, digest: str) -> None:
        """Note a rejected row as the last that was met."""
        self.rejects.pop(digest, None)
        self.rejects[digest] = None
        if len(self.rejects) > REMEMBERED_REJECTS:
            del self.rejects[next(iter(self.rejects))]

    def _reading(self, batch: Collected) -> Ingest:
        batch.progress = {
            WATERMARK: {"newest": self.newest, "settings": self.settings, "rejects": list(self.rejects)}
        }
        span = max(1, self.until - self.since)
        return batch.reading(min(1.0, max(0, (self.newest or 0) - self.since) / span))


def _array(cells: list[Any]) -> Any:
    """Return one column; values of several types become texts, to be judged one by one."""
    import pyarrow as pa

    try:
        return pa.array(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if cell is None else _text(cell) for cell in cells], pa.string())


def _text(cell: object) -> str:
    return cell.isoformat() if isinstance(cell, datetime) else str(cell)


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def _engine(url: str, seconds: float) -> Any:
    """Return an engine whose database is given up where it takes longer than that."""
    from sqlalchemy import create_engine

    from anomaly_service.db import deadline

    parsed = _with_driver(url)
    if parsed.drivername == "postgresql+psycopg":
        # Between two batches its transaction rests for as long as it takes to store one.
        return deadline.postgres_engine(parsed, seconds, idle_too=False)
    engine = create_engine(parsed)
    if parsed.get_backend_name() == "sqlite":
        deadline.limit_sqlite(engine, seconds)
    return engine


def _with_driver(url: str) -> Any:
    """Return the URL, PostgreSQL's with the driver that is installed with this service."""
    from sqlalchemy import make_url

    parsed = make_url(url)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _in_a_line(message: str) -> str:
    """Return a database's message without the query that it repeats, and without secrets."""
    return hidden(" ".join(message.split("\n[SQL:")[0].split("\n(Background")[0].split()))
