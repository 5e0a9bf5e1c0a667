"""Proves that a memory limit that suits the settings is never reached under any load.

Large bodies from many clients at once are answered or refused, and the process stays alive. The
limit is on data (heap and private mappings, RLIMIT_DATA), which needs no privileges: an allocation
beyond it fails, where a container's limit would kill the process.
"""

from __future__ import annotations

import asyncio

from reliability.faults.context import FaultContext, run_service, set_limit
from reliability.load.clients import GIVE_UP, BothTransports
from reliability.load.outcome import OK, OVERLOADED, Tally, examples
from reliability.load.resident import MIB, status_bytes
from reliability.load.test_requests import make_request, prepare_requests
from reliability.load.traffic import Traffic
from reliability.overload.bodies import large_picture

TITLE = "a memory limit, and more bytes of bodies than fit"
INFLIGHT = 16 * MIB
MARGIN = 160 * MIB
"""Memory allowed above that of the idle process: twice the bodies (for the files decoded from them),
pixels and the allocator's overhead."""
CLIENTS = 32


async def run(context: FaultContext) -> None:
    """Set the limit on the running process, above its memory when idle."""
    flags = ("--max-inflight-bytes", str(INFLIGHT), "--queue-capacity", str(2 * CLIENTS))
    async with run_service(context.make_service(*flags)) as service:
        requests = prepare_requests(service)
        pid = service.process.pid
        limit = status_bytes(pid, "VmData") + MARGIN
        await set_limit(pid, "data", limit)
        large = make_request("large", large_picture())
        rounds = context.pick(10, short=2)
        seen = []
        async with (
            Traffic(BothTransports(service), requests) as traffic,
            BothTransports(service) as clients,
        ):
            for _ in range(rounds):
                calls = [clients.send([large], each) for each in range(CLIENTS)]
                async with asyncio.timeout(GIVE_UP):
                    seen += await asyncio.gather(*calls)
            await traffic.wait_for_answers(20)
        traffic.check(context.report, OVERLOADED)
        tally = Tally(seen)
        sent = rounds * CLIENTS * len(large.json) // MIB
        context.report.note(sent_MiB=sent, limit_MiB=limit // MIB, inflight_MiB=INFLIGHT // MIB)
        other = tally.other_than(OK, OVERLOADED)
        claim = "large requests are answered or refused as overload"
        context.report.check(claim, not other, examples(other) or tally)
        context.report.check("some are refused, some answered", len(tally.kinds) == 2, tally)
        context.report.check("the process is alive", service.process.poll() is None)
