"""Responses of the test web servers by path: one valid image, and every kind of invalid response."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from support.clients import PICTURE, picture
from support.ssrf.traffic import TIMEOUT, Traffic

PAUSE = 0.05
"""Seconds between the pieces of a slow response."""


@dataclass(frozen=True)
class Exchange:
    """A received request: its connection, and the record of all servers."""

    connection: socket.socket
    traffic: Traffic

    def send(self, *parts: bytes) -> None:
        """Sends parts of a response."""
        for part in parts:
            self.connection.sendall(part)

    def wait_for_disconnect(self) -> None:
        """Waits until the client has closed the connection."""
        while self.connection.recv(4096):
            pass


def ok(body: bytes, *headers: str) -> bytes:
    """Returns a complete response."""
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def head(*headers: str, status: str = "200 OK") -> bytes:
    """Returns the head of a response."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


PIECE = b"x" * 0x1000
FIXED: dict[str, Callable[[], bytes]] = {
    PICTURE: lambda: ok(picture()),
    "short": lambda: head("content-length: 100000") + picture(),
    "long": lambda: head("content-length: 1000") + picture(),
    "announced": lambda: head("content-length: 99999999999"),
    "negative": lambda: head("content-length: -1") + picture(),
    "overflow": lambda: head("content-length: 18446744073709551616") + picture(),
    "two-lengths": lambda: head("content-length: 5", "content-length: 9") + picture(),
    "no-number": lambda: head("content-length: many") + picture(),
    "bad-chunk": lambda: head("transfer-encoding: chunked") + b"FFFFFFFFFFFFFFFFF\r\nx",
    "cut-chunk": lambda: head("transfer-encoding: chunked") + b"1000\r\nonly this",
    "gzip": lambda: ok(gzip.compress(picture()), "content-encoding: gzip"),
    "two-encodings": lambda: ok(picture(), "content-encoding: identity", "content-encoding: br"),
    "huge-header": lambda: ok(picture(), "x: " + "y" * 1_000_000),
    "many-headers": lambda: ok(picture(), *["x: y"] * 500),
    "text": lambda: ok(b"not an image", "content-type: image/jpeg"),
    "empty": lambda: ok(b""),
    "no-http": lambda: b"\x16\x03\x01 not HTTP\r\n\r\n",
    "nothing": lambda: b"",
    "partial": lambda: head("content-length: 1", status="206 Partial Content") + b"x",
    "no-content": lambda: head(status="204 No Content"),
    "forbidden": lambda: head("content-length: 0", status="403 Forbidden"),
    "failed": lambda: head("content-length: 0", status="500 Internal Server Error"),
    "nowhere": lambda: head("content-length: 0", status="302 Found"),
}
SLOW = {
    "slow-head": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "slow-body": (head("content-length: 1000000"), b"x"),
    "interim": (b"", head(status="103 Early Hints")),
}
ENDLESS = {
    "endless": (head("transfer-encoding: chunked"), b"1000\r\n" + PIECE + b"\r\n"),
    "endless-close": (head("connection: close"), PIECE),
    "endless-head": (b"HTTP/1.1 200 OK\r\n", b"x: " + PIECE + b"\r\n"),
    "endless-chunk-extension": (head("transfer-encoding: chunked") + b"1;", PIECE),
    "endless-trailer": (
        head("transfer-encoding: chunked") + b"1\r\nx\r\n0\r\n",
        b"x: " + PIECE + b"\r\n",
    ),
}


def respond(exchange: Exchange, name: str, rest: str, query: str) -> None:
    """Sends the response of this name; 404 if the name is unknown."""
    traffic = exchange.traffic
    if name in FIXED:
        exchange.send(FIXED[name]())
    elif name in SLOW:
        start, piece = SLOW[name]
        exchange.send(start)
        while not traffic.stopped.wait(PAUSE):
            exchange.send(piece)
    elif name in ENDLESS:
        start, piece = ENDLESS[name]
        exchange.send(start)
        while not traffic.stopped.is_set():
            exchange.send(piece)
            traffic.bytes_sent += len(piece)
    elif name in HANDLERS:
        HANDLERS[name](exchange, rest, query)
    else:
        exchange.send(head("content-length: 0", status="404 Not Found"))


def send_nothing(exchange: Exchange, _rest: str, _query: str) -> None:
    """Waits without a response."""
    exchange.wait_for_disconnect()


def send_beginning(exchange: Exchange, _rest: str, _query: str) -> None:
    """Sends the first bytes of an image, then waits."""
    exchange.send(head("content-length: 100000"), picture()[:1000])
    exchange.wait_for_disconnect()


def redirect(exchange: Exchange, status: str, query: str) -> None:
    """`/to/307?URL`, the URL percent-encoded: a redirect to it."""
    location = f"location: {unquote(query)}"
    exchange.send(head(location, "content-length: 0", status=f"{status or 302} Found"))


def redirect_times(exchange: Exchange, left: str, _query: str) -> None:
    """`/hops/3`: three redirects, then an image."""
    target = f"/hops/{int(left) - 1}" if int(left) > 1 else f"/{PICTURE}"
    exchange.send(head(f"location: {target}", "content-length: 0", status="302 Found"))


def send_in_pairs(exchange: Exchange, _rest: str, _query: str) -> None:
    """Sends an image once a second request is in progress, late enough for a third to begin."""
    traffic = exchange.traffic
    traffic.change_concurrency(1)
    traffic.pair.wait(TIMEOUT)
    traffic.stopped.wait(10 * PAUSE)
    traffic.change_concurrency(-1)
    exchange.send(ok(picture()))


HANDLERS = {
    "silent": send_nothing,
    "stalled": send_beginning,
    "to": redirect,
    "hops": redirect_times,
    "concurrent": send_in_pairs,
}
