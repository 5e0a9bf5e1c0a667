"""What the web servers of the tests answer to which path: one good picture, and everything else."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from support.clients import PICTURE, picture

if TYPE_CHECKING:
    from support.ssrf.web import Page

PATIENCE = 60
"""Seconds until a test that waits for something gives up."""

PUBLIC = "93.184.216.34"
"""An address of the Internet."""

PAUSE = 0.05
"""Seconds between the pieces of an answer that comes in drops."""


def ok(body: bytes, *headers: str) -> bytes:
    """A whole answer."""
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def head(*headers: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
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
    "text": lambda: ok(b"this is no picture", "content-type: image/jpeg"),
    "empty": lambda: ok(b""),
    "no-http": lambda: b"\x16\x03\x01 no HTTP at all\r\n\r\n",
    "nothing": lambda: b"",
    "partial": lambda: head("content-length: 1", status="206 Partial Content") + b"x",
    "no-content": lambda: head(status="204 No Content"),
    "forbidden": lambda: head("content-length: 0", status="403 Forbidden"),
    "failed": lambda: head("content-length: 0", status="500 Internal Server Error"),
    "nowhere": lambda: head("content-length: 0", status="302 Found"),
}
DROPS = {
    "slow-head": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "slow-body": (head("content-length: 1000000"), b"x"),
    "interim": (b"", head(status="103 Early Hints")),
}
FLOODS = {
    "endless": (head("transfer-encoding: chunked"), b"1000\r\n" + PIECE + b"\r\n"),
    "endless-close": (head("connection: close"), PIECE),
    "endless-head": (b"HTTP/1.1 200 OK\r\n", b"x: " + PIECE + b"\r\n"),
    "endless-chunk-extension": (head("transfer-encoding: chunked") + b"1;", PIECE),
    "endless-trailer": (
        head("transfer-encoding: chunked") + b"1\r\nx\r\n0\r\n",
        b"x: " + PIECE + b"\r\n",
    ),
}


def write(page: Page, name: str, rest: str, query: str) -> None:
    """The answer of this name; 404 if there is none."""
    visits = page.server.visits
    if name in FIXED:
        page.raw(FIXED[name]())
    elif name in DROPS:
        start, drop = DROPS[name]
        page.raw(start)
        while not visits.ended.wait(PAUSE):
            page.raw(drop)
    elif name in FLOODS:
        start, piece = FLOODS[name]
        page.raw(start)
        while not visits.ended.is_set():
            page.raw(piece)
            visits.sent += len(piece)
    elif name in WAYS:
        WAYS[name](page, rest, query)
    else:
        page.raw(head("content-length: 0", status="404 Not Found"))


def silent(page: Page, _rest: str, _query: str) -> None:
    """Nothing, ever."""
    page.hung_up()


def stalled(page: Page, _rest: str, _query: str) -> None:
    """The beginning of a picture."""
    page.raw(head("content-length: 100000"), picture()[:1000])
    page.hung_up()


def to(page: Page, status: str, query: str) -> None:
    """`/to/307?URL`, the URL percent-encoded: a redirect."""
    location = f"location: {unquote(query)}"
    page.raw(head(location, "content-length: 0", status=f"{status or 302} Found"))


def hops(page: Page, left: str, _query: str) -> None:
    """`/hops/3`: three redirects, then a picture."""
    target = f"/hops/{int(left) - 1}" if int(left) > 1 else f"/{PICTURE}"
    page.raw(head(f"location: {target}", "content-length: 0", status="302 Found"))


def together(page: Page, _rest: str, _query: str) -> None:
    """A picture, once another fetch is here too; a third would have time to come."""
    visits = page.server.visits
    visits.entered(1)
    visits.pair.wait(PATIENCE)
    visits.ended.wait(10 * PAUSE)
    visits.entered(-1)
    page.raw(ok(picture()))


WAYS = {"silent": silent, "stalled": stalled, "to": to, "hops": hops, "together": together}
