"""Proves that a rolling restart loses no request.

Two instances are restarted in turn, several times, and the first attempt of every request gets the
right answer. The gRPC client is grpc's round robin with health checking; the REST client alternates
over the instances whose readiness probe succeeds, on persistent connections.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from contextlib import suppress

import aiohttp

from reliability.faults.context import FaultContext
from reliability.load.clients import GrpcClient, RestClient
from reliability.load.metrics import metric, wait_until
from reliability.load.outcome import Outcome
from reliability.load.test_requests import SampleRequest, prepare_requests
from reliability.load.traffic import Traffic
from service import Service, free_port

TITLE = "a rolling restart of two instances"
_ANSWERS = 20
_POLL_SECONDS = 0.2
_DRAIN_DELAY = "1"
"""Seconds; several polls."""
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "blip.v1.CaptionService"},
}
_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # grpc would send the list of addresses as the host name, which is not valid.
    ("grpc.default_authority", "blip-serve"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


async def run(context: FaultContext) -> None:
    """Restart each instance in turn, under load."""
    rounds = context.pick(5, short=1)
    ports = [free_port(), free_port()]
    names = (f"instance-{number}" for number in itertools.count())

    def instance(port: int) -> Service:
        flags = ("--drain-delay", _DRAIN_DELAY)
        return context.make_service(*flags, name=next(names), port=port)

    running = [instance(port) for port in ports]
    for each in running:
        await asyncio.to_thread(each.__enter__)
    try:
        requests = prepare_requests(running[0])
        clients = Balanced(ports)
        async with Traffic(clients, requests, concurrency=6) as traffic:
            for _ in range(rounds):
                for number, port in enumerate(ports):
                    await _until_used(running)
                    await asyncio.to_thread(running[number].__exit__, None, None, None)
                    await traffic.wait_for_answers(_ANSWERS)
                    running[number] = instance(port)
                    await asyncio.to_thread(running[number].__enter__)
            await _until_used(running)
        traffic.check(context.report)
        context.report.note(restarts=rounds * len(ports))
    finally:
        for each in running:
            if each.process.poll() is None:
                await asyncio.to_thread(each.__exit__, None, None, None)


async def _until_used(running: Sequence[Service]) -> None:
    """Wait until both clients use each instance, so that another one may be stopped."""
    for service in running:
        for surface in ("rest", "grpc"):

            def is_used(service: Service = service, surface: str = surface) -> bool:
                return metric(service, "blip_requests_total", surface=surface, outcome="ok") > 0

            await wait_until(is_used, f"{surface} on {service.address}")


class Balanced:
    """A REST and a gRPC client over several instances."""

    def __init__(self, ports: Sequence[int]) -> None:
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        self._grpc = GrpcClient(target, options=_OPTIONS)
        self._urls = [f"http://127.0.0.1:{port}" for port in ports]
        self._rest = {url: RestClient(url) for url in self._urls}
        self._ready = set(self._urls)
        self._probes = [asyncio.create_task(self._probe(url)) for url in self._urls]

    async def send(
        self, requests: Sequence[SampleRequest], number: int, timeout: float | None = None
    ) -> Outcome:
        """Send every other request over REST, to the next instance that is ready."""
        request = requests[number // 2 % len(requests)]
        if number % 2:
            return await self._grpc.send(request, timeout)
        ready = [url for url in self._urls if url in self._ready] or self._urls
        return await self._rest[ready[number // 2 % len(ready)]].send(request, timeout)

    async def close(self) -> None:
        """Close all connections."""
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        await self._grpc.close()
        for client in self._rest.values():
            await client.close()

    async def _probe(self, url: str) -> None:
        """Poll the readiness of an instance, as a load balancer does."""
        timeout = aiohttp.ClientTimeout(5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                is_ready = False
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with session.get(f"{url}/v2/health/ready") as reply:
                        is_ready = reply.status == 200
                (self._ready.add if is_ready else self._ready.discard)(url)
                await asyncio.sleep(_POLL_SECONDS)
