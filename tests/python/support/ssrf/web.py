"""Web servers that answer in every bad way, and remember every connection."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from support.ssrf import answers
from support.ssrf.answers import PATIENCE, PUBLIC

Endpoint = tuple[str, int]
"""Address and port."""


class Visits:
    """What happened at all servers together."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        """Request lines and headers."""
        self.sent = 0
        """Bytes of bodies without end."""
        self.together = 0
        """Most fetches at the same time."""
        self.pair = threading.Barrier(2)
        self.ended = threading.Event()
        self._inside = 0
        self._connections: list[tuple[Endpoint, Endpoint]] = []
        self._changed = threading.Condition()

    def connected(self, here: Endpoint, peer: Endpoint) -> None:
        with self._changed:
            self._connections.append((here, peer))
            self._changed.notify_all()

    def entered(self, change: int) -> None:
        with self._changed:
            self._inside += change
            self.together = max(self.together, self._inside)

    def forget(self, peer: Endpoint) -> None:
        """Waits for a connection from `peer`, and takes it out."""
        with self._changed:
            others = [each for each in self._connections if each[1] != peer]
            while len(others) == len(self._connections):
                assert self._changed.wait(PATIENCE), "the marker does not come"
                others = [each for each in self._connections if each[1] != peer]
            self._connections = others

    def take(self) -> list[Endpoint]:
        """Where connections went since the last call, each place once."""
        with self._changed:
            places = sorted({here for here, _ in self._connections})
            self._connections = []
        return places


class Web(ThreadingHTTPServer):
    """One port, on every address of a family."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: Endpoint, visits: Visits, tls: ssl.SSLContext | None = None
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.visits, self.tls = visits, tls
        super().__init__(address, Page)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Not HTTPServer's, which asks the name server for its own name.
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Endpoint]:
        connection, peer = super().get_request()
        self.visits.connected(connection.getsockname()[:2], peer[:2])
        return connection, peer

    def finish_request(self, connection: socket.socket, peer: Endpoint) -> None:
        if self.tls is None:
            super().finish_request(connection, peer)
            return
        with self.tls.wrap_socket(connection, server_side=True) as wrapped:
            super().finish_request(wrapped, peer)

    def handle_error(self, *_args: object) -> None:
        """Whoever has seen enough hangs up, in a handshake too."""

    def settle(self) -> None:
        """Waits until all connections made before this call are counted."""
        host = "::1" if self.address_family == socket.AF_INET6 else "127.0.0.1"
        with socket.create_connection((host, self.server_address[1]), PATIENCE) as marker:
            self.visits.forget(marker.getsockname()[:2])


class Page(BaseHTTPRequestHandler):
    """An answer by the first part of the path."""

    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        self.note()
        # A proxy is asked for whole URLs.
        url = urlsplit(self.path)
        name, _, rest = url.path.removeprefix("/").partition("/")
        answers.write(self, name, rest, url.query)

    def do_CONNECT(self) -> None:
        """A proxy's tunnel; for this one every name has the same address."""
        self.note()
        port = int(self.path.rpartition(":")[2])
        with socket.create_connection((PUBLIC, port), PATIENCE) as target:
            self.raw(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=_pump, args=(target, self.connection), daemon=True)
            back.start()
            _pump(self.connection, target)
            back.join(PATIENCE)

    def note(self) -> None:
        self.server.visits.heads.append(f"{self.requestline}\n{self.headers}")
        self.close_connection = True

    def raw(self, *parts: bytes) -> None:
        for part in parts:
            self.wfile.write(part)

    def hung_up(self) -> None:
        """Waits until nobody listens any more."""
        while self.connection.recv(4096):
            pass

    def log_message(self, *_args: object) -> None:
        pass


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
