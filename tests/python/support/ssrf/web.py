"""Web servers and proxies that send the responses of `answers` and record every connection."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from support.ssrf.answers import Exchange, respond
from support.ssrf.traffic import TIMEOUT, Endpoint, Traffic

PUBLIC = "93.184.216.34"
"""A public address."""


class WebServer(ThreadingHTTPServer):
    """A server on one port: of one address, or of every address of a family."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: Endpoint, traffic: Traffic, tls: ssl.SSLContext | None = None
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.traffic, self.tls = traffic, tls
        super().__init__(address, RequestHandler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Not HTTPServer's method, which looks up the name of the host.
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Endpoint]:
        connection, peer = super().get_request()
        self.traffic.add_connection(connection.getsockname()[:2], peer[:2])
        return connection, peer

    def finish_request(self, connection: socket.socket, peer: Endpoint) -> None:
        if self.tls is None:
            super().finish_request(connection, peer)
            return
        with self.tls.wrap_socket(connection, server_side=True) as wrapped:
            super().finish_request(wrapped, peer)

    def handle_error(self, *_args: object) -> None:
        """Ignores errors: clients may disconnect at any point, in a handshake too."""

    def record_all_connections(self) -> None:
        """Waits until all connections made before this call are recorded."""
        host = "::1" if self.address_family == socket.AF_INET6 else "127.0.0.1"
        with socket.create_connection((host, self.server_address[1]), TIMEOUT) as marker:
            self.traffic.remove_connection(marker.getsockname()[:2])


class RequestHandler(BaseHTTPRequestHandler):
    """Responds by the first segment of the path."""

    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        self.record()
        # A request to a proxy has an absolute URL.
        url = urlsplit(self.path)
        name, _, rest = url.path.removeprefix("/").partition("/")
        respond(Exchange(self.connection, self.server.traffic), name, rest, url.query)

    def do_CONNECT(self) -> None:
        """Opens the tunnel of a proxy; every name has the same address."""
        self.record()
        port = int(self.path.rpartition(":")[2])
        with socket.create_connection((PUBLIC, port), TIMEOUT) as target:
            self.connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            response = threading.Thread(target=_copy, args=(target, self.connection), daemon=True)
            response.start()
            _copy(self.connection, target)
            response.join(TIMEOUT)

    def record(self) -> None:
        """Records the request; its connection is closed after the response."""
        self.server.traffic.request_heads.append(f"{self.requestline}\n{self.headers}")
        self.close_connection = True

    def log_message(self, *_args: object) -> None:
        pass


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
