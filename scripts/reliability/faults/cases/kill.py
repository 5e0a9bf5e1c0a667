"""Proves that kill -9 only breaks the connections.

No caption is wrong, and every request that is sent again is answered by the process that starts on
the same port.
"""

from __future__ import annotations

from reliability.faults.context import FaultContext, run_service
from reliability.load.clients import BothTransports
from reliability.load.outcome import LOST, UNAVAILABLE, Tally
from reliability.load.test_requests import prepare_requests
from reliability.load.traffic import Traffic

TITLE = "kill -9 and restart under load"
_CONCURRENCY = 8
_ANSWERS = 20
"""Answers between two kills."""


async def run(context: FaultContext) -> None:
    """Kill and restart several times on one port, under constant traffic."""
    service = context.make_service(name="first")
    async with run_service(service):
        requests = prepare_requests(
            service, parameters={"min_new_tokens": 60, "max_new_tokens": 60}
        )
        async with Traffic(BothTransports(service), requests, _CONCURRENCY) as traffic:
            await traffic.wait_for_answers(_ANSWERS)
            service.kill()
            rounds = context.pick(5, short=2)
            for number in range(rounds):
                again = context.make_service(name=f"again-{number}", port=service.port)
                async with run_service(again):
                    await traffic.wait_for_answers(_ANSWERS)
                    if number < rounds - 1:
                        again.kill()
                        continue
                    # The last process stops gracefully, after all requests are answered.
                    await traffic.finish()
    traffic.check(context.report, LOST, UNAVAILABLE)
    broken = len(Tally(traffic.outcomes).of_kind(LOST))
    context.report.note(kills=rounds, attempts_without_an_answer=broken)
