"""Proves that the bytes of bodies in flight are bounded, even if clients send slowly.

More clients than fit send most of a large body and pause, so that the server has to hold the bytes.
The accepted ones are answered when they continue; the others are refused as overload.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import aiohttp
import PIL.Image

from reliability.load.clients import GIVE_UP
from reliability.load.outcome import LOST, OK, OVERLOADED, Outcome, Tally, examples, kind_of
from reliability.load.report import Report
from reliability.load.resident import MIB, MemorySampler, resident_bytes
from reliability.load.subject import split_cores, start_service
from reliability.load.test_requests import IMAGES, make_request
from service import Service

CLIENTS = 64
INFLIGHT = 16 * MIB
CONSTANT = 96 * MIB
"""Memory for files and pixels decoded from the bodies, connections and the allocator's overhead."""
_SIZE = (1000, 1000)
_CHUNK = 64 << 10


async def run() -> Report:
    """Let all clients send at the same time, pause before the end, and continue."""
    report = Report("more bytes of bodies than allowed in flight")
    body = make_request("large", large_picture()).json
    flags = ("--queue-capacity", str(2 * CLIENTS), "--max-inflight-bytes", str(INFLIGHT))
    with start_service(*flags, cores=split_cores()[0]) as service:
        # A first request allocates buffers and decodes once.
        first = await _send(service, body, asyncio.Event(), pause=False)
        report.check("a single large body is answered", first.kind == OK, first.text)
        resting = resident_bytes(service.process.pid)
        async with MemorySampler(service.process.pid) as memory:
            outcomes = await _all(service, body)
    tally = Tally(outcomes)
    report.note(clients=CLIENTS, sent_MiB=CLIENTS * len(body) // MIB, limit_MiB=INFLIGHT // MIB)
    allowed = resting + INFLIGHT + CONSTANT
    seen = (
        f"{memory.peak / MIB:.0f} MiB of {allowed / MIB:.0f} allowed, {resting / MIB:.0f} at rest"
    )
    report.check("resident memory is bounded", memory.peak <= allowed, seen)
    other = tally.other_than(OK, OVERLOADED)
    claim = "every request is answered or refused as overload"
    report.check(claim, not other, examples(other) or tally)
    refused, least = len(tally.of_kind(OVERLOADED)), CLIENTS - INFLIGHT // len(body)
    claim = "bodies that do not fit are refused"
    report.check(claim, refused >= least, f"{refused}, at least {least}")
    report.check("bodies that fit are answered", bool(tally.of_kind(OK)), tally)
    return report


def large_picture() -> bytes:
    """Return an image file of a few MiB."""
    file = io.BytesIO()
    PIL.Image.open(IMAGES / "cats.jpg").convert("RGB").resize(_SIZE).save(file, "BMP")
    return file.getvalue()


async def _all(service: Service, body: bytes) -> list[Outcome]:
    end = asyncio.Event()
    sending = [asyncio.create_task(_send(service, body, end, pause=True)) for _ in range(CLIENTS)]
    # Refusals arrive while the accepted clients pause; these are answered after they continue.
    await asyncio.wait(sending, timeout=2)
    end.set()
    return await asyncio.gather(*sending)


async def _send(service: Service, body: bytes, end: asyncio.Event, pause: bool) -> Outcome:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), _CHUNK):
            if pause and start + _CHUNK >= len(body):
                await end.wait()
            yield body[start : start + _CHUNK]

    headers = {"content-type": "application/json", "content-length": str(len(body))}
    url = f"{service.url}/v1/captions"
    timeout = aiohttp.ClientTimeout(GIVE_UP)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            async with session.post(url, data=pieces(), headers=headers) as reply:
                answer, code = await reply.json(), str(reply.status)
        except (aiohttp.ClientError, OSError) as error:
            return Outcome(LOST, type(error).__name__, 0, 0, str(error))
    return Outcome(kind_of(code), code, 0, 0, str(answer)[:200], "retry-after" in reply.headers)
