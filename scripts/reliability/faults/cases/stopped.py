"""Proves that a process that stood still for seconds (SIGSTOP, as when a machine is suspended) goes on: all
who still wait are answered rightly, and those whose deadline passed meanwhile are told so.
"""

from __future__ import annotations

import asyncio
import signal

from reliability.faults.stage import Stage, entered
from reliability.load.clients import Both
from reliability.load.outcome import LATE, OK, Tally, examples
from reliability.load.test_requests import learn
from reliability.load.traffic import Traffic

TITLE = "a process that stands still for seconds"
_DEADLINES = 8


async def run(stage: Stage) -> None:
    """Stopped with requests in every state."""
    seconds = stage.few(5, short=2)
    async with entered(stage.service()) as service:
        questions = learn(service, parameters={"min_new_tokens": 100, "max_new_tokens": 100})
        async with (
            Traffic(Both(service), questions, at_once=8) as traffic,
            Both(service) as clients,
        ):
            await traffic.more(20)
            service.process.send_signal(signal.SIGSTOP)
            late = [
                asyncio.create_task(clients.rest.ask(questions[0], seconds / 4))
                for _ in range(_DEADLINES)
            ]
            await asyncio.sleep(seconds)
            service.process.send_signal(signal.SIGCONT)
            seen = Tally(await asyncio.gather(*late))
            await traffic.more(50)
        traffic.judge(stage.report)
        stage.report.note(stopped_for_seconds=seconds)
        other = seen.beside(OK, LATE)
        claim = "what was sent meanwhile is answered, or told that it is late"
        stage.report.check(claim, not other, examples(other) or seen)
