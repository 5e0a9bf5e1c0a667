"""Proves that a process continues after it was stopped for seconds, as a suspended machine is.

After SIGSTOP and SIGCONT all waiting requests get the right answer, except those whose deadline has
passed, which get that error.
"""

from __future__ import annotations

import asyncio
import signal

from reliability.faults.context import FaultContext, run_service
from reliability.load.clients import BothTransports
from reliability.load.outcome import LATE, OK, Tally, examples
from reliability.load.test_requests import prepare_requests
from reliability.load.traffic import Traffic

TITLE = "a process that is stopped for seconds"
_DEADLINES = 8


async def run(context: FaultContext) -> None:
    """Stop the process while it has requests in every state."""
    seconds = context.pick(5, short=2)
    async with run_service(context.make_service()) as service:
        requests = prepare_requests(
            service, parameters={"min_new_tokens": 100, "max_new_tokens": 100}
        )
        async with (
            Traffic(BothTransports(service), requests, concurrency=8) as traffic,
            BothTransports(service) as clients,
        ):
            await traffic.wait_for_answers(20)
            service.process.send_signal(signal.SIGSTOP)
            late = [
                asyncio.create_task(clients.rest.send(requests[0], seconds / 4))
                for _ in range(_DEADLINES)
            ]
            await asyncio.sleep(seconds)
            service.process.send_signal(signal.SIGCONT)
            seen = Tally(await asyncio.gather(*late))
            await traffic.wait_for_answers(50)
        traffic.check(context.report)
        context.report.note(stopped_for_seconds=seconds)
        other = seen.other_than(OK, LATE)
        claim = "requests sent meanwhile are answered or exceed their deadline"
        context.report.check(claim, not other, examples(other) or seen)
