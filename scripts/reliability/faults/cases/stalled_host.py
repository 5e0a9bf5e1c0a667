"""Proves that an image host that stalls costs only those who ask for its pictures: they are told so when
the time for a fetch is over, or at their own deadline; everyone else is answered as ever.
"""

from __future__ import annotations

import asyncio
import json

from reliability.faults.images import image_host
from reliability.faults.stage import Stage, entered
from reliability.load.clients import Both, Rest, until_answered
from reliability.load.outcome import LATE, REFUSED, Outcome, Tally, examples
from reliability.load.test_requests import MODEL, learn
from reliability.load.traffic import Traffic

TITLE = "an image host that stalls"
FETCHES = 8
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 100000\r\n\r\n\x89PNG"
_STALLS = {"/silent": b"", "/head": _HEAD[:20], "/body": _HEAD}
"""What comes before nothing more does."""


async def run(stage: Stage) -> None:
    """Fetches that hang in each place, with traffic beside them."""
    async with (
        entered(stage.service("--fetch-timeout", "2")) as service,
        image_host(_stall) as host,
    ):
        questions = learn(service)
        client = Rest(service.url)
        async with Traffic(Both(service), questions) as traffic:
            given_up = await _fetches(client, host, {})
            late = await _fetches(client, host, {"x-request-timeout-ms": "500"})
            await traffic.more(20)
        traffic.judge(stage.report)
        for claim, kind, seen in (
            ("who waits for the host is told that its picture is at fault", REFUSED, given_up),
            ("who has a shorter deadline is told that it passed", LATE, late),
        ):
            other = Tally(seen).beside(kind)
            stage.report.check(claim, not other, examples(other) or Tally(seen))
        await until_answered(client, questions[0])
        await client.close()


async def _fetches(client: Rest, host: str, headers: dict[str, str]) -> list[Outcome]:
    paths = list(_STALLS) * FETCHES
    calls = [
        client.post(f"/v2/models/{MODEL}/infer", _template(f"{host}{path}"), headers)
        for path in paths
    ]
    return await asyncio.gather(*calls)


def _template(url: str) -> bytes:
    image = {"name": "img_url", "shape": [1], "datatype": "BYTES", "data": [url]}
    return json.dumps({"inputs": [image]}).encode()


async def _stall(path: str, writer: asyncio.StreamWriter) -> None:
    """Begins an answer and does not end it."""
    writer.write(_STALLS[path])
    await writer.drain()
