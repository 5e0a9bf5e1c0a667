"""Requests to the embedded model with enough tokens and beams for 10 to 50 per second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reliability.load.clients import BothTransports
from reliability.load.loops import run_closed_loop
from reliability.load.outcome import OK, Outcome, Tally
from reliability.load.test_requests import PICTURES, SampleRequest, prepare_requests
from service import Service

TOKENS = (75, 90, 105, 120)
"""A different number for each image, so that requests that start together end apart."""
_BEAMS = (1, 2, 3, 4, 6, 8, 12, 16)
_MOST_PER_SECOND = 40
"""Below 50 with a margin for fluctuations of the machine's speed."""
CONCURRENCY = 16


@dataclass(frozen=True)
class Workload:
    """Requests that take long enough."""

    requests: Sequence[SampleRequest]
    beams: int


async def calibrate(service: Service, seconds: float) -> Workload:
    """Find the fewest beams with which the service answers at most 40 requests per second."""
    for beams in _BEAMS:
        requests = []
        for name, tokens in zip(PICTURES, TOKENS, strict=True):
            parameters = {"num_beams": beams, "min_new_tokens": tokens, "max_new_tokens": tokens}
            requests += prepare_requests(service, parameters=parameters, names=[name])
        workload = Workload(requests, beams)
        async with BothTransports(service) as clients:
            capacity = await measure_capacity(clients, workload.requests, seconds)
            if capacity.per_second <= _MOST_PER_SECOND:
                break
    return workload


@dataclass(frozen=True)
class Capacity:
    """The right answers of a closed loop."""

    answers: int
    per_second: float
    """The rate without the start and the end of the loop."""


async def measure_capacity(
    clients: BothTransports, requests: Sequence[SampleRequest], seconds: float
) -> Capacity:
    """Measure the right answers of a closed loop that keeps the service busy."""

    async def send(number: int) -> Outcome:
        return await clients.send(requests, number)

    outcomes = await run_closed_loop(send, CONCURRENCY, seconds)
    tally = Tally(outcomes)
    if other := tally.other_than(OK):
        raise RuntimeError(f"a request within the capacity failed: {other[0]}")
    start = min(outcome.sent for outcome in outcomes)
    # The queue is empty at the start and drains at the end.
    skipped = seconds / 5
    return Capacity(len(outcomes), tally.rate(OK, start + skipped, start + seconds))
