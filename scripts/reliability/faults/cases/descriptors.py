"""Proves that a service without a free file descriptor goes on with the connections it has, and takes new
ones when others have gone.
"""

from __future__ import annotations

import asyncio
import os

from reliability.faults.stage import Stage, entered, set_limit
from reliability.load.clients import Both, Rest, until_answered
from reliability.load.outcome import OK
from reliability.load.test_requests import learn
from reliability.load.traffic import Traffic

TITLE = "no file descriptor left"
LEFT = 8
"""Descriptors that are left when the limit falls."""
CONNECTIONS = 100


async def run(stage: Stage) -> None:
    """The limit falls while the service runs: it could not prepare for it. Then far more connections come."""
    # The time for a first request is not what frees descriptors here.
    async with entered(stage.service("--header-timeout", "60")) as service:
        questions = learn(service)
        pid = service.process.pid
        async with Traffic(Both(service), questions) as traffic:
            await traffic.more(20)
            limit = len(os.listdir(f"/proc/{pid}/fd")) + LEFT
            await set_limit(pid, "nofile", limit)
            idle = [
                await asyncio.open_connection("127.0.0.1", service.port) for _ in range(CONNECTIONS)
            ]
            used = await _until_exhausted(pid)
            stage.report.check("every descriptor is taken", used >= limit - 1, f"{used} of {limit}")
            await traffic.more(50)
            for _, writer in idle:
                writer.close()
            client = Rest(service.url)
            answered = await until_answered(client, questions[0])
            claim = "a new connection is answered once others have gone"
            stage.report.check(claim, answered.kind == OK, answered.code)
            await traffic.more(20)
            await client.close()
        traffic.judge(stage.report)


async def _until_exhausted(pid: int) -> int:
    """Descriptors of the process, once they are no longer getting more."""
    used, earlier = len(os.listdir(f"/proc/{pid}/fd")), -1
    while used != earlier:
        await asyncio.sleep(0.2)
        used, earlier = len(os.listdir(f"/proc/{pid}/fd")), used
    return used
