"""Image hosts that do not do what they should, or when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from reliability.load.test_requests import IMAGES

_PICTURE = (IMAGES / "cats.jpg").read_bytes()

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Answers the request for a path."""


@asynccontextmanager
async def image_host(answer: Answer) -> AsyncIterator[str]:
    """The address of a host on this machine."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        path = (await reader.readline()).split()[1].decode()
        await answer(path, writer)
        # Until the peer goes away.
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()


@asynccontextmanager
async def held_image() -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """A picture's URL, when it was first asked for, and the event that lets the picture go."""
    is_asked, release = asyncio.Event(), asyncio.Event()

    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        is_asked.set()
        await release.wait()
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(_PICTURE)}\r\n\r\n"
        writer.write(head.encode() + _PICTURE)
        await writer.drain()

    async with image_host(answer) as url:
        yield f"{url}/cats.jpg", is_asked, release
