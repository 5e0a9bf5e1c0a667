"""Proves that a stalled image host only affects the requests for its images.

They fail at the fetch timeout, or at their deadline if it is shorter; all other requests are
answered.
"""

from __future__ import annotations

import asyncio

from reliability.faults.context import FaultContext, run_service
from reliability.faults.images import image_host, template_body
from reliability.load.clients import BothTransports, RestClient, send_until_answered
from reliability.load.outcome import LATE, REFUSED, Outcome, Tally, examples
from reliability.load.test_requests import MODEL, prepare_requests
from reliability.load.traffic import Traffic

TITLE = "an image host that stalls"
FETCHES = 8
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 100000\r\n\r\n\x89PNG"
_STALLS = {"/silent": b"", "/head": _HEAD[:20], "/body": _HEAD}
"""The bytes that the host sends before it stalls, by path."""


async def run(context: FaultContext) -> None:
    """Request images that stall at each point, under other traffic."""
    async with (
        run_service(context.make_service("--fetch-timeout", "2")) as service,
        image_host(_stall) as host,
    ):
        requests = prepare_requests(service)
        client = RestClient(service.url)
        async with Traffic(BothTransports(service), requests) as traffic:
            given_up = await _fetches(client, host, {})
            late = await _fetches(client, host, {"x-request-timeout-ms": "500"})
            await traffic.wait_for_answers(20)
        traffic.check(context.report)
        for claim, kind, seen in (
            ("a request for a stalled image is refused as invalid", REFUSED, given_up),
            ("a request with a shorter deadline exceeds its deadline", LATE, late),
        ):
            other = Tally(seen).other_than(kind)
            context.report.check(claim, not other, examples(other) or Tally(seen))
        await send_until_answered(client, requests[0])
        await client.close()


async def _fetches(client: RestClient, host: str, headers: dict[str, str]) -> list[Outcome]:
    paths = list(_STALLS) * FETCHES
    calls = [
        client.post(f"/v2/models/{MODEL}/infer", template_body(f"{host}{path}"), headers)
        for path in paths
    ]
    return await asyncio.gather(*calls)


async def _stall(path: str, writer: asyncio.StreamWriter) -> None:
    """Begin a response and do not finish it."""
    writer.write(_STALLS[path])
    await writer.drain()
