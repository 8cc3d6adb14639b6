"""What the daemon says of itself: log lines, Prometheus metrics, and whether it is healthy."""

from __future__ import annotations

import errno
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from anomaly_service.daemon.health import Answer, Health
from anomaly_service.errors import is_bug, report
from anomaly_service.printable import printable
from anomaly_service.secrets import hidden_within

RUN_BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Seconds: a tick takes less than one to a few, a night minutes."""


LATENCY_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 90, 120, 180, 300, 450, 600, 900, 1800, 3600, 7200, 14400, 86400)
"""Seconds: most points are scored within a step or two, some after an outage of hours."""


class Telemetry:
    """Metrics of one daemon, and what it knows of its health.

    Args:
        stale_after_seconds: without a sign of life for longer, the daemon counts as stuck.
        monotonic: clock in seconds.
    """

    def __init__(
        self, *, stale_after_seconds: float = 60.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.vitals = Health(stale_after_seconds=stale_after_seconds, monotonic=monotonic)
        self.registry = registry = CollectorRegistry()
        self.points = Counter("anomaly_points_ingested", "New and corrected points", registry=registry)
        self.source_reads = Counter(
            "anomaly_source_reads", "Reads of a source", ["source", "state"], registry=registry
        )
        self.source_errors = Counter(
            "anomaly_source_errors",
            "Reads of a source that failed in part or whole",
            ["source"],
            registry=registry,
        )
        self.source_lag_seconds = Gauge(
            "anomaly_source_lag_seconds",
            "How far the newest point of a source lay behind the clock after the last read",
            ["source"],
            registry=registry,
        )
        self.scores = Counter("anomaly_scores_written", "Score rows written", registry=registry)
        self.events = Counter("anomaly_events_appeared", "Events that appeared", registry=registry)
        self.events_open = Gauge("anomaly_events_open", "Events that are still going on", registry=registry)
        self.run_seconds = Histogram(
            "anomaly_run_seconds",
            "How long runs took",
            ["kind", "state"],
            buckets=RUN_BUCKETS,
            registry=registry,
        )
        self.lag_seconds = Gauge(
            "anomaly_run_lag_seconds", "How late the last run was claimed", ["kind"], registry=registry
        )
        self.point_to_score = Histogram(
            "anomaly_point_to_score_seconds",
            "From the timestamp of a target's newest point to its live score",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.point_to_event = Histogram(
            "anomaly_point_to_event_seconds",
            "From the timestamp of the last point of a flagged interval that appeared to its event",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.leases_lost = Counter(
            "anomaly_leases_lost", "Runs whose lease ended while they worked", registry=registry
        )
        self.runs_abandoned = Counter(
            "anomaly_runs_abandoned",
            "Runs that got nowhere and were left behind",
            ["kind"],
            registry=registry,
        )
        self.worker_restarts = Counter(
            "anomaly_worker_restarts", "Process pools replaced after a worker died", registry=registry
        )
        self.database_up = Gauge("anomaly_database_up", "1 while the database answers", registry=registry)

    def beat(self) -> None:
        """Note a sign of life: every lane looked for work."""
        self.vitals.beat()

    def database(self, trouble: str = "") -> None:
        """Note that the database answered, or what it said instead."""
        self.vitals.database(trouble)
        self.database_up.set(0 if trouble else 1)

    def restarted(self) -> None:
        """Note that a pool of workers was replaced."""
        self.worker_restarts.inc()
        self.vitals.restarted()

    def health(self) -> Answer:
        """Return whether the daemon is in a state to work, and what to show for it."""
        return self.vitals.healthy()

    def count(self, outcome: Mapping[str, Any]) -> None:
        """Add up what the outcome of a monitor's run says it did."""
        self.scores.inc(_total(outcome, ("rows",)))
        self.events.inc(_total(outcome, ("appeared",)))

    def note_latencies(self, outcome: Any, now: datetime) -> None:
        """Observe how old points were whose scores and events the outcome of a tick tells of."""
        if isinstance(outcome, Mapping):
            for name, histogram in (("scored_at", self.point_to_score), ("flagged_at", self.point_to_event)):
                for ts, n in outcome.get(name, ()):
                    for _ in range(n):
                        histogram.observe(max(0.0, now.timestamp() - ts))
        if isinstance(outcome, Mapping | list | tuple):
            for each in outcome.values() if isinstance(outcome, Mapping) else outcome:
                self.note_latencies(each, now)

    def count_read(self, source: str, outcome: Mapping[str, Any], lag_seconds: float | None) -> None:
        """Add up what the outcome of a read says it did.

        Args:
            lag_seconds: how far the newest point of the source lies behind; None where it has none.
        """
        self.points.inc(outcome.get("new", 0) + outcome.get("changed", 0))
        if outcome.get("error"):
            self.source_errors.labels(source).inc()
        if lag_seconds is not None:
            self.source_lag_seconds.labels(source).set(lag_seconds)


def _total(outcome: Any, names: tuple[str, ...]) -> float:
    """Return the sum of the named numbers anywhere in an outcome."""
    if isinstance(outcome, Mapping):
        own = sum(v for k, v in outcome.items() if k in names and isinstance(v, int | float))
        return own + sum(_total(v, names) for v in outcome.values())
    if isinstance(outcome, list | tuple):
        return sum(_total(each, names) for each in outcome)
    return 0


@contextmanager
def serving(telemetry: Telemetry, host: str, port: int) -> Iterator[int]:
    """Answer ``/metrics`` and whoever asks for health while the context lasts; yield the port (0 picks one).

    Raises:
        OSError: the port is taken, or the address is none of this machine.
    """
    try:
        server = ThreadingHTTPServer((host, port), _handler(telemetry))
    except OSError as error:
        raise OSError(
            error.errno, f"cannot serve /metrics on {host}:{port}: {error.strerror}; {_what_to_do(error)}"
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _what_to_do(error: OSError) -> str:
    """Return which key of the config to change where nothing can listen."""
    if error.errno == errno.EADDRINUSE:
        return (
            "another program listens there, maybe another daemon: stop it, or set `http: {port: ...}` in the "
            "config to another port, 0 for any that is free"
        )
    if error.errno == errno.EACCES:
        return "set `http: {port: ...}` in the config to a port from 1024 on, 0 for any that is free"
    return "set `http: {host: ...}` in the config to an address of this machine, 0.0.0.0 for all of them"


def _handler(telemetry: Telemetry) -> type[BaseHTTPRequestHandler]:
    vitals = telemetry.vitals
    questions = {"/livez": vitals.live, "/healthz": vitals.healthy, "/readyz": vitals.ready}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4", generate_latest(telemetry.registry))
            elif self.path in questions:
                well, body = questions[self.path]()
                self._answer(200 if well else 503, "application/json", json.dumps(body).encode())
            else:
                self._answer(404, "text/plain", b"/metrics, /livez, /healthz and /readyz are here\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a probe every few seconds would drown the log."""

    return Handler


def configure_logging(
    *, as_json: bool | None = None, level: str = "INFO", stream: TextIO | None = None
) -> None:
    """Send every log line, ours and the libraries', to ``stream`` (stderr) in one format.

    Args:
        as_json: one JSON object per line; None where the stream is no terminal.
    """
    import structlog

    out = stream or sys.stderr
    as_json = not out.isatty() if as_json is None else as_json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            hide_secrets,
            *([] if as_json else [escape]),
            renderer,
        ],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


def hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Show no secret in a log line, a traceback's included."""
    return hidden_within(event)


def escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep what came from elsewhere from acting on the terminal; JSON escapes it anyway."""
    return {k: printable(v, breaks=True) if isinstance(v, str) else v for k, v in event.items()}


def log_failure(log: Any, what: str, error: Exception) -> None:
    """Log a failure with its traceback, and where it is a bug what to do about it."""
    log.exception(what, **({"bug": report()} if is_bug(error) else {}))
