"""What every kind of request is made with."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from reliability.load.clients import Grpc, Rest
from reliability.load.outcome import Outcome
from reliability.load.test_requests import IMAGES, Question
from service import Service

PROMPT = "a photography of"
LEFT = "left"
"""The kind of outcome of a client that did not wait for one."""


@dataclass(frozen=True)
class Picture:
    """A sample picture with the caption that is right for PROMPT."""

    question: Question

    @property
    def expected(self) -> str:
        """transformers' caption."""
        return self.question.expected

    @cached_property
    def file(self) -> bytes:
        """Its bytes."""
        return (IMAGES / self.question.name).read_bytes()

    @cached_property
    def base64(self) -> str:
        """Its bytes, for JSON."""
        return base64.b64encode(self.file).decode()


@dataclass(frozen=True)
class Tools:
    """Clients of the service, a host of images, and chance."""

    service: Service
    rest: Rest
    grpc: Grpc
    images_url: str
    random: random.Random


@dataclass(frozen=True)
class Kind:
    """One kind of request."""

    name: str
    send: Callable[[Tools, Picture], Awaitable[Outcome]]
    allowed: frozenset[str]
    """Kinds of outcomes."""
    weight: int


class _Quiet(SimpleHTTPRequestHandler):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, directory=str(IMAGES))

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def image_server() -> Iterator[str]:
    """The URL of a host of the sample pictures."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
