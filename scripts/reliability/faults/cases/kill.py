"""Proves that kill -9 loses no more than the connections: no caption is wrong, and every request that
is sent again is answered by the process that starts on the same port.
"""

from __future__ import annotations

from reliability.faults.stage import Stage, entered
from reliability.load.clients import Both
from reliability.load.outcome import LOST, UNAVAILABLE, Tally
from reliability.load.test_requests import learn
from reliability.load.traffic import Traffic

TITLE = "kill -9 and restart under load"
_AT_ONCE = 8
_ANSWERS = 20
"""Between two kills."""


async def run(stage: Stage) -> None:
    """Several times in a row, on one port; the traffic goes on all the time."""
    service = stage.service(name="first")
    async with entered(service):
        questions = learn(service, parameters={"min_new_tokens": 60, "max_new_tokens": 60})
        async with Traffic(Both(service), questions, _AT_ONCE) as traffic:
            await traffic.more(_ANSWERS)
            service.kill()
            rounds = stage.few(5, short=2)
            for number in range(rounds):
                again = stage.service(name=f"again-{number}", port=service.port)
                async with entered(again):
                    await traffic.more(_ANSWERS)
                    if number < rounds - 1:
                        again.kill()
                        continue
                    # The last one ends in order, when all is answered.
                    await traffic.finish()
    traffic.judge(stage.report, LOST, UNAVAILABLE)
    broken = len(Tally(traffic.outcomes).of(LOST))
    stage.report.note(kills=rounds, attempts_without_an_answer=broken)
