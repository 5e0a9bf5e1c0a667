"""Proves that nothing is computed for those who no longer wait.

Behind a queue that takes far longer, requests whose deadline is short, and requests whose clients
leave: all of them are answered or gone at once, and the encoder runs only for the queue.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Sequence
from statistics import median

from reliability.load.clients import Both
from reliability.load.metrics import IN_FLIGHT, metric, until, until_arrived
from reliability.load.outcome import LATE, OK, Outcome, Tally, examples
from reliability.load.report import Report
from reliability.load.subject import encoder_runs, serving, split_cores
from reliability.load.test_requests import MODEL, Question
from reliability.overload.workload import calibrated
from service import Service

BEFORE = 24
"""Requests in front."""
EACH = 8
_DEADLINE = 0.1


async def run(seconds: float) -> Report:
    """First deadlines of every kind, then clients that leave."""
    report = Report("work that nobody waits for any more")
    with serving("--queue-capacity", "128", cores=split_cores()[0]) as service:
        workload = await calibrated(service, seconds)
        async with Both(service) as clients:
            await _too_late(report, service, clients, workload.questions)
            await _gone(report, service, clients, workload.questions)
    return report


async def _too_late(
    report: Report, service: Service, clients: Both, questions: Sequence[Question]
) -> None:
    before = encoder_runs(service)
    start = time.perf_counter()
    queue = await _fill(service, clients, questions)
    ways = {
        "x-request-timeout-ms": [clients.rest.ask(questions[0], _DEADLINE) for _ in range(EACH)],
        "grpc-timeout": [clients.grpc.ask(questions[0], _DEADLINE) for _ in range(EACH)],
        "the parameter timeout": [_infer(clients, questions[0]) for _ in range(EACH)],
    }
    outcomes = await _together(ways)
    for way, seen in outcomes.items():
        late = Tally(seen)
        report.check(f"{way}: all are told that they are late", late.kinds == {LATE: EACH}, late)
    answered = Tally(await asyncio.gather(*queue))
    report.check("the queue in front is answered", answered.kinds == {OK: BEFORE}, answered)
    done = encoder_runs(service) - before
    seen = f"{done} runs, {BEFORE} requests in front"
    report.check("the encoder ran for the queue in front only", done == BEFORE, seen)
    waited = median(outcome.seconds for each in outcomes.values() for outcome in each)
    whole = time.perf_counter() - start
    report.note(deadline_share_of_queue=f"{_DEADLINE / whole:.2f}")
    report.check("late ones hear of it while the queue is still there", waited < whole / 2)


async def _gone(
    report: Report, service: Service, clients: Both, questions: Sequence[Question]
) -> None:
    before = encoder_runs(service)
    queue = await _fill(service, clients, questions)
    leaving = [asyncio.create_task(clients.ask(questions, number)) for number in range(2 * EACH)]
    await until_arrived(service, [*queue, *leaving])
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    await until(
        lambda: metric(service, IN_FLIGHT) <= sum(not task.done() for task in queue),
        "places that are free again",
    )
    waiting = sum(not task.done() for task in queue)
    claim = "places of those who left are free while the queue is still there"
    report.check(claim, waiting > 0, f"{waiting} of {BEFORE} wait")
    answered = Tally(await asyncio.gather(*queue))
    other = answered.beside(OK)
    report.check("those who stay are answered", not other, examples(other) or answered)
    done = encoder_runs(service) - before
    seen = f"{done} runs, {BEFORE} requests that stayed"
    report.check("the encoder ran for nobody who had left", done == BEFORE, seen)


async def _fill(
    service: Service, clients: Both, questions: Sequence[Question]
) -> list[asyncio.Task[Outcome]]:
    queue = [asyncio.create_task(clients.ask(questions, number)) for number in range(BEFORE)]
    await until_arrived(service, queue)
    return queue


async def _together(
    ways: dict[str, list[Awaitable[Outcome]]],
) -> dict[str, list[Outcome]]:
    outcomes = await asyncio.gather(*(asyncio.gather(*calls) for calls in ways.values()))
    return dict(zip(ways, outcomes, strict=True))


async def _infer(clients: Both, question: Question) -> Outcome:
    """The question as an Open Inference request that carries its deadline itself, in microseconds."""
    short = json.loads(question.json)
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [short["image"]]}
    parameters = short["parameters"] | {"timeout": round(_DEADLINE * 1e6)}
    body = json.dumps({"inputs": [image], "parameters": parameters}).encode()
    return await clients.rest.post(f"/v2/models/{MODEL}/infer", body)
