"""HTTP/1.1 without a library, for clients that break the protocol."""

from __future__ import annotations

import asyncio
import socket
import struct

from service import Service

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_LINGER = struct.pack("ii", 1, 0)


async def begin_post(service: Service, path: str, body: bytes, sent: bytes) -> Connection:
    """Begin a POST request with the length of `body`, and send only `sent`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    head = f"POST {path} HTTP/1.1\r\nhost: {service.address}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + sent)
    await writer.drain()
    return reader, writer


def reset(writer: asyncio.StreamWriter) -> None:
    """Let closing reset the connection, as the loss of a machine does."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
