"""The clients and images that every kind of request uses."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from reliability.load.clients import GrpcClient, RestClient
from reliability.load.outcome import Outcome
from reliability.load.test_requests import IMAGES, SampleRequest
from service import Service

PROMPT = "a photography of"
LEFT = "disconnected"
"""The kind of outcome of a client that disconnected before the response."""


@dataclass(frozen=True)
class Picture:
    """A sample image with its right caption after PROMPT."""

    request: SampleRequest

    @property
    def expected(self) -> str:
        """Return transformers' caption."""
        return self.request.expected

    @cached_property
    def file(self) -> bytes:
        """Return the bytes of the file."""
        return (IMAGES / self.request.name).read_bytes()

    @cached_property
    def base64(self) -> str:
        """Return the bytes of the file for JSON."""
        return base64.b64encode(self.file).decode()


@dataclass(frozen=True)
class Tools:
    """Clients of the service, an image server and a source of random numbers."""

    service: Service
    rest: RestClient
    grpc: GrpcClient
    images_url: str
    random: random.Random


@dataclass(frozen=True)
class RequestKind:
    """A kind of request with its allowed outcomes."""

    name: str
    send: Callable[[Tools, Picture], Awaitable[Outcome]]
    allowed: frozenset[str]
    """Kinds of outcomes that the request may have."""
    weight: int


class _Quiet(SimpleHTTPRequestHandler):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, directory=str(IMAGES))

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def image_server() -> Iterator[str]:
    """Serve the sample images and yield the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
