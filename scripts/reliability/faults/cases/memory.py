"""Proves that a limit on memory that the settings fit into is never hit, however much is sent: large bodies
from many clients at once are answered or refused, and the process lives.

The limit is on data (heap and private mappings, RLIMIT_DATA), which every process may set for itself:
an allocation beyond it fails, where a container's limit would kill the process.
"""

from __future__ import annotations

import asyncio

from reliability.faults.stage import Stage, entered, set_limit
from reliability.load.clients import GIVE_UP, Both
from reliability.load.outcome import OK, OVERLOADED, Tally, examples
from reliability.load.resident import MIB, status_bytes
from reliability.load.test_requests import learn, question
from reliability.load.traffic import Traffic
from reliability.overload.bodies import large_picture

TITLE = "a limit on memory, and far more sent than fits"
INFLIGHT = 16 * MIB
ROOM = 160 * MIB
"""Beside what the process has at rest: twice the bodies (files decoded from them), pixels, the allocator's slack."""
CLIENTS = 32


async def run(stage: Stage) -> None:
    """The limit is set on the running process, above what it has at rest."""
    flags = ("--max-inflight-bytes", str(INFLIGHT), "--queue-capacity", str(2 * CLIENTS))
    async with entered(stage.service(*flags)) as service:
        questions = learn(service)
        pid = service.process.pid
        limit = status_bytes(pid, "VmData") + ROOM
        await set_limit(pid, "data", limit)
        large = question("large", large_picture())
        rounds = stage.few(10, short=2)
        seen = []
        async with Traffic(Both(service), questions) as traffic, Both(service) as clients:
            for _ in range(rounds):
                calls = [clients.ask([large], each) for each in range(CLIENTS)]
                async with asyncio.timeout(GIVE_UP):
                    seen += await asyncio.gather(*calls)
            await traffic.more(20)
        traffic.judge(stage.report, OVERLOADED)
        tally = Tally(seen)
        sent = rounds * CLIENTS * len(large.json) // MIB
        stage.report.note(sent_MiB=sent, limit_MiB=limit // MIB, inflight_MiB=INFLIGHT // MIB)
        other = tally.beside(OK, OVERLOADED)
        claim = "large requests are answered or refused as overload"
        stage.report.check(claim, not other, examples(other) or tally)
        stage.report.check("some are refused, some answered", len(tally.kinds) == 2, tally)
        stage.report.check("the process lives", service.process.poll() is None)
