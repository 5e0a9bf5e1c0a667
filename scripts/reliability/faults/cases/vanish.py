"""Proves that the permits and rows of clients that disconnect are released.

Clients disconnect while they upload a body, and while they read a stream. They hold all permits of
the service before, and other requests are answered after.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence

from reliability.faults.context import FaultContext, run_service
from reliability.load.clients import RestClient, send_until_answered
from reliability.load.metrics import IN_FLIGHT, metric, wait_until
from reliability.load.outcome import OK, OVERLOADED, WRONG
from reliability.load.raw import Connection, begin_post, reset
from reliability.load.subject import decoder_runs
from reliability.load.test_requests import IMAGES, MODEL, SampleRequest, prepare_requests
from service import Service

TITLE = "clients that disconnect while they upload or stream"
CAPACITY = 4
TOKENS = 120


async def run(context: FaultContext) -> None:
    """Let as many clients disconnect as the service has permits, in several rounds."""
    rounds = context.pick(10, short=3)
    flags = ("--queue-capacity", str(CAPACITY), "--body-timeout", "2")
    async with run_service(context.make_service(*flags)) as service:
        request = prepare_requests(service)[0]
        client = RestClient(service.url)
        for what, connect in {"uploading": _upload_half, "streaming": _read_first_piece}.items():
            before = await asyncio.to_thread(decoder_runs, service)
            full, released = 0, 0
            for number in range(rounds):
                connections = await asyncio.gather(*(connect(service) for _ in range(CAPACITY)))
                full += await _is_full(service, client, request)
                _disconnect(connections, with_reset=bool(number % 2))
                released += (await send_until_answered(client, request)).kind == OK
            done = await asyncio.to_thread(decoder_runs, service) - before
            seen = f"{full} of {rounds} rounds"
            context.report.check(f"{what} clients hold all permits", full == rounds, seen)
            seen = f"{released} of {rounds} rounds"
            claim = f"when {what} clients disconnect, the next request gets the right answer"
            context.report.check(claim, released == rounds, seen)
        # One caption per round, and a few steps until the service notices the disconnection.
        seen = f"{done} decoder runs in {rounds} rounds, {TOKENS} per round if rows were kept"
        context.report.check("rows are released", done < rounds * TOKENS / 2, seen)
        await _check_stalled_uploads(context, service, client, request)
        await client.close()


async def _is_full(service: Service, client: RestClient, request: SampleRequest) -> bool:
    """Whether a request is refused once all permits are taken."""
    # Sent earlier, the request itself could take one of the permits.
    claim = f"{CAPACITY} requests in flight"
    await wait_until(lambda: metric(service, IN_FLIGHT) == CAPACITY, claim)
    return (await client.send(request)).kind == OVERLOADED


def _disconnect(connections: Sequence[Connection], with_reset: bool) -> None:
    for _, writer in connections:
        if with_reset:
            reset(writer)
        writer.close()


async def _check_stalled_uploads(
    context: FaultContext, service: Service, client: RestClient, request: SampleRequest
) -> None:
    """Check that clients that stay connected and stop sending lose their permits, too."""
    connections = [await _upload_half(service) for _ in range(CAPACITY)]
    answered = await send_until_answered(client, request)
    claim = "stalled uploads end at the body timeout"
    context.report.check(claim, answered.kind == OK, answered.code)
    context.report.check("no caption is wrong", answered.kind != WRONG)
    _disconnect(connections, with_reset=False)


async def _upload_half(service: Service) -> Connection:
    """Send half of a body."""
    body = _body()
    return await begin_post(service, "/v1/captions", body, body[: len(body) // 2])


async def _read_first_piece(service: Service) -> Connection:
    """Request a long caption as a stream and read its first piece."""
    path = f"/v2/models/{MODEL}/generate_stream"
    body = _body(parameters={"min_new_tokens": TOKENS, "max_new_tokens": TOKENS})
    reader, writer = await begin_post(service, path, body, body)
    await reader.readuntil(b"data: ")
    return reader, writer


def _body(**more: object) -> bytes:
    image = base64.b64encode((IMAGES / "cats.jpg").read_bytes()).decode()
    return json.dumps({"image": image, **more}).encode()
