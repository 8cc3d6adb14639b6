"""A server that can fall silent: a proxy before it that takes what is sent and passes nothing on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.engine import make_url


class Proxy:
    """Passes bytes on between a port of this machine and the server of a PostgreSQL URL.

    Attributes:
        is_silent: while set, what is sent is taken and swallowed, also by connections that are made.
    """

    def __init__(self, url: str) -> None:
        self.is_silent = threading.Event()
        self._url = make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [self._begin(self._accept)]

    @property
    def url(self) -> str:
        """The URL of the same database, through this proxy."""
        port = self._listener.getsockname()[1]
        through = self._url.set(host="127.0.0.1", port=port, query={})
        return through.render_as_string(hide_password=False)

    def close(self) -> None:
        for each in [self._listener, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _begin(self, action: object, *args: object) -> threading.Thread:
        thread = threading.Thread(target=action, args=args)  # type: ignore[arg-type]
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._server()
                self._open += [client, server]
                self._threads += [
                    self._begin(self._pass_on, client, server),
                    self._begin(self._pass_on, server, client),
                ]

    def _server(self) -> socket.socket:
        folder = self._url.query.get("host") or self._url.host
        if isinstance(folder, str) and folder.startswith("/"):
            connected = socket.socket(socket.AF_UNIX)
            connected.connect(f"{folder}/.s.PGSQL.{self._url.port or 5432}")
            return connected
        return socket.create_connection((str(folder), self._url.port or 5432))

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while taken := source.recv(65536):
                if not self.is_silent.is_set():
                    target.sendall(taken)
            if not self.is_silent.is_set():
                target.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
