"""Proves that the engine does no work for requests whose client no longer waits.

Behind a long queue, requests with a short deadline fail at their deadline, requests of clients that
disconnect are dropped at once, and the encoder runs only for the requests of the queue.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from statistics import median

from reliability.load.clients import BothTransports
from reliability.load.metrics import IN_FLIGHT, metric, wait_until, wait_until_received
from reliability.load.outcome import LATE, OK, Outcome, Tally, examples
from reliability.load.report import Report
from reliability.load.subject import encoder_runs, split_cores, start_service
from reliability.load.test_requests import MODEL, SampleRequest
from reliability.overload.workload import calibrate
from service import Service

BEFORE = 24
"""Requests in the queue in front."""
EACH = 8
_DEADLINE = 0.1
"""Seconds."""


async def run(seconds: float) -> Report:
    """Test deadlines of every kind, then clients that disconnect."""
    report = Report("no work for requests whose client no longer waits")
    with start_service("--queue-capacity", "128", cores=split_cores()[0]) as service:
        workload = await calibrate(service, seconds)
        async with BothTransports(service) as clients:
            await _check_deadlines(report, service, clients, workload.requests)
            await _check_disconnects(report, service, clients, workload.requests)
    return report


async def _check_deadlines(
    report: Report, service: Service, clients: BothTransports, requests: Sequence[SampleRequest]
) -> None:
    before = encoder_runs(service)
    start = time.perf_counter()
    queue = await _fill(service, clients, requests)
    ways = {
        "x-request-timeout-ms": [clients.rest.send(requests[0], _DEADLINE) for _ in range(EACH)],
        "grpc-timeout": [clients.grpc.send(requests[0], _DEADLINE) for _ in range(EACH)],
        "the parameter timeout": [_infer(clients, requests[0]) for _ in range(EACH)],
    }
    results = await asyncio.gather(*(asyncio.gather(*calls) for calls in ways.values()))
    outcomes = dict(zip(ways, results, strict=True))
    for way, seen in outcomes.items():
        late = Tally(seen)
        report.check(f"{way}: all exceed their deadline", late.kinds == {LATE: EACH}, late)
    answered = Tally(await asyncio.gather(*queue))
    report.check("the queue in front is answered", answered.kinds == {OK: BEFORE}, answered)
    done = encoder_runs(service) - before
    seen = f"{done} runs, {BEFORE} requests in front"
    report.check("the encoder ran for the queue in front only", done == BEFORE, seen)
    waited = median(outcome.seconds for each in outcomes.values() for outcome in each)
    whole = time.perf_counter() - start
    report.note(deadline_share_of_queue=f"{_DEADLINE / whole:.2f}")
    report.check("deadline errors arrive while the queue is not empty", waited < whole / 2)


async def _check_disconnects(
    report: Report, service: Service, clients: BothTransports, requests: Sequence[SampleRequest]
) -> None:
    before = encoder_runs(service)
    queue = await _fill(service, clients, requests)
    calls = [asyncio.create_task(clients.send(requests, number)) for number in range(2 * EACH)]
    await wait_until_received(service, [*queue, *calls])
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await wait_until(
        lambda: metric(service, IN_FLIGHT) <= sum(not task.done() for task in queue),
        "released permits",
    )
    waiting = sum(not task.done() for task in queue)
    claim = "permits of disconnected clients are released while the queue is not empty"
    report.check(claim, waiting > 0, f"{waiting} of {BEFORE} wait")
    answered = Tally(await asyncio.gather(*queue))
    other = answered.other_than(OK)
    report.check("the other clients are answered", not other, examples(other) or answered)
    done = encoder_runs(service) - before
    seen = f"{done} runs, {BEFORE} requests that stayed connected"
    report.check("the encoder ran for connected clients only", done == BEFORE, seen)


async def _fill(
    service: Service, clients: BothTransports, requests: Sequence[SampleRequest]
) -> list[asyncio.Task[Outcome]]:
    queue = [asyncio.create_task(clients.send(requests, number)) for number in range(BEFORE)]
    await wait_until_received(service, queue)
    return queue


async def _infer(clients: BothTransports, request: SampleRequest) -> Outcome:
    """Send an Open Inference request with its deadline as the parameter timeout, in microseconds."""
    short = json.loads(request.json)
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [short["image"]]}
    parameters = short["parameters"] | {"timeout": round(_DEADLINE * 1e6)}
    body = json.dumps({"inputs": [image], "parameters": parameters}).encode()
    return await clients.rest.post(f"/v2/models/{MODEL}/infer", body)
