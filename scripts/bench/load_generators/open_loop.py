"""An open loop: requests are sent at a fixed rate, whether or not earlier ones are answered.

Latency counts from the time a request was due, so that it includes the delay of a slow server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import grpc

from bench.load_generators.closed_loop import Load

Call = Callable[[bytes], Awaitable[None]]
_CAPTION = "/blip.v1.CaptionService/Caption"
_FAILURES = (aiohttp.ClientError, grpc.RpcError)


def post_rest(url: str, bodies: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Run an open loop over REST."""

    async def run() -> Load:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:

            async def call(body: bytes) -> None:
                headers = {"content-type": "application/json"}
                async with session.post(url, data=body, headers=headers) as reply:
                    await reply.read()

            return await _run_at_rate(call, bodies, rate, seconds)

    return asyncio.run(run())


def call_grpc(address: str, messages: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Run an open loop over gRPC on one connection."""

    async def run() -> Load:
        options = [("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            caption = channel.unary_unary(_CAPTION)

            async def call(message: bytes) -> None:
                await caption(message)

            return await _run_at_rate(call, messages, rate, seconds)

    return asyncio.run(run())


async def _run_at_rate(call: Call, bodies: Sequence[bytes], rate: float, seconds: float) -> Load:
    latencies: list[float] = []
    failed = 0

    async def one(index: int, due: float) -> None:
        nonlocal failed
        try:
            await call(bodies[index % len(bodies)])
        except _FAILURES:
            failed += 1
        else:
            latencies.append(time.perf_counter() - due)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for index in range(round(rate * seconds)):
            due = start + index / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(index, due))
    return Load.from_latencies(latencies, time.perf_counter() - start, failed)
