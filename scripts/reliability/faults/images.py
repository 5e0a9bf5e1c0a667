"""Image hosts that stall or delay their responses, and the request that fetches from them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from reliability.load.test_requests import IMAGES

_PICTURE = (IMAGES / "cats.jpg").read_bytes()

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Writes the response to the request for a path."""


def template_body(url: str) -> bytes:
    """Return the body of the template's request for the image at `url`."""
    image = {"name": "img_url", "shape": [1], "datatype": "BYTES", "data": [url]}
    return json.dumps({"inputs": [image]}).encode()


@asynccontextmanager
async def image_host(answer: Answer) -> AsyncIterator[str]:
    """Run an HTTP server on this machine and yield its URL."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        path = (await reader.readline()).split()[1].decode()
        await answer(path, writer)
        # Until the peer disconnects.
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()


@dataclass
class HeldImage:
    """An image whose response waits for `is_released`."""

    url: str = ""
    is_requested: asyncio.Event = field(default_factory=asyncio.Event)
    is_released: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def hold_image() -> AsyncIterator[HeldImage]:
    """Run a host of one image that waits before it responds."""
    image = HeldImage()

    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        image.is_requested.set()
        await image.is_released.wait()
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(_PICTURE)}\r\n\r\n"
        writer.write(head.encode() + _PICTURE)
        await writer.drain()

    async with image_host(answer) as host:
        image.url = f"{host}/cats.jpg"
        yield image
