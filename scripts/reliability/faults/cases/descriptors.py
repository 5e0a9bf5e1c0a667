"""Proves that a service without a free file descriptor keeps serving its open connections.

It accepts new connections once others are closed.
"""

from __future__ import annotations

import asyncio
import os

from reliability.faults.context import FaultContext, run_service, set_limit
from reliability.load.clients import BothTransports, RestClient, send_until_answered
from reliability.load.outcome import OK
from reliability.load.test_requests import prepare_requests
from reliability.load.traffic import Traffic

TITLE = "no file descriptor left"
LEFT = 8
"""Free descriptors after the limit is lowered."""
CONNECTIONS = 100


async def run(context: FaultContext) -> None:
    """Lower the limit while the service runs, then open far more connections than it allows."""
    # Long, so that the header timeout does not close connections and free descriptors.
    async with run_service(context.make_service("--header-timeout", "60")) as service:
        requests = prepare_requests(service)
        pid = service.process.pid
        async with Traffic(BothTransports(service), requests) as traffic:
            await traffic.wait_for_answers(20)
            limit = len(os.listdir(f"/proc/{pid}/fd")) + LEFT
            await set_limit(pid, "nofile", limit)
            idle = [
                await asyncio.open_connection("127.0.0.1", service.port) for _ in range(CONNECTIONS)
            ]
            used = await _until_exhausted(pid)
            context.report.check(
                "every descriptor is taken", used >= limit - 1, f"{used} of {limit}"
            )
            await traffic.wait_for_answers(50)
            for _, writer in idle:
                writer.close()
            client = RestClient(service.url)
            answered = await send_until_answered(client, requests[0])
            claim = "a new connection is answered once others are closed"
            context.report.check(claim, answered.kind == OK, answered.code)
            await traffic.wait_for_answers(20)
            await client.close()
        traffic.check(context.report)


async def _until_exhausted(pid: int) -> int:
    """Wait until the process opens no more descriptors and return their number."""
    used, earlier = len(os.listdir(f"/proc/{pid}/fd")), -1
    while used != earlier:
        await asyncio.sleep(0.2)
        used, earlier = len(os.listdir(f"/proc/{pid}/fd")), used
    return used
