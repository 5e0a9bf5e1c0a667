"""Proves that the goodput does not drop at ten times the capacity of the service.

Right answers stay at the rate of a closed loop. All other requests are refused at once, with the
time after which to retry, and refused requests hold no memory.

Two figures measure the goodput. Right answers per second of the service's CPU time drop if refusals
are expensive or if the service works for requests that get no answer; other programs on the machine
do not affect this figure. Right answers per second of wall time also drop if the service waits, but
other programs affect them. They are compared with the closed loops before and after the flood, and
on a busy machine only a collapse can be distinguished from noise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median

from reliability.load.clients import BothTransports
from reliability.load.cpu import cpu_seconds
from reliability.load.loops import run_open_loop
from reliability.load.outcome import OK, OVERLOADED, Outcome, Tally, examples
from reliability.load.report import Report
from reliability.load.resident import MIB, MemorySampler, resident_bytes
from reliability.load.subject import split_cores, start_service
from reliability.load.test_requests import SampleRequest
from reliability.overload.workload import calibrate, measure_capacity
from service import Service

TIMES = 10
CAPACITY = 32
INFLIGHT = 16 * MIB
CONSTANT = 96 * MIB
"""Memory allowed besides the bytes of bodies: rows, pixels, connections, the allocator's overhead."""
_SOONER = 5
"""The ratio of the median time of an answer to the 99th percentile of that of a refusal."""


@dataclass(frozen=True)
class Strictness:
    """The number of measurements, and the required shares of the peak."""

    rounds: int
    """Floods, each between two closed loops."""
    cpu_share: float
    """The share of right answers per second of the service's CPU time."""
    rate_share: float
    """The share of right answers per second."""


@dataclass(frozen=True)
class Phase:
    """The goodput of one load."""

    per_second: float
    """Right answers per second."""
    per_cpu_second: float
    """Right answers per second of the service's CPU time."""


@dataclass(frozen=True)
class Flood:
    """One measurement at TIMES times the peak."""

    outcomes: list[Outcome]
    phase: Phase
    memory: int
    """Peak of the resident memory in bytes."""


async def run(seconds: float, strictness: Strictness) -> Report:
    """Measure peak and overload in turn."""
    report = Report(f"{TIMES} times the capacity of the service")
    flags = ("--queue-capacity", str(CAPACITY), "--max-inflight-bytes", str(INFLIGHT))
    with start_service(*flags, cores=split_cores()[0]) as service:
        workload = await calibrate(service, min(seconds / 4, 2))
        requests = workload.requests
        report.note(beams=workload.beams)
        async with BothTransports(service) as clients:
            floods: list[Flood] = []
            idle = resident_bytes(service.process.pid)
            peaks = [await _peak(service, clients, requests, seconds)]
            for _ in range(strictness.rounds):
                rate = peaks[-1].per_second * TIMES
                floods.append(await _flood(service, clients, requests, rate, seconds))
                peaks.append(await _peak(service, clients, requests, seconds))
            peak = peaks[-1].per_second
            report.note(peak_per_second=round(peak, 1), offered_per_second=round(peak * TIMES, 1))
    _check_shares(report, peaks, [flood.phase for flood in floods], strictness)
    _check_refusals(report, Tally(outcome for flood in floods for outcome in flood.outcomes))
    allowed, most = idle + INFLIGHT + CONSTANT, max(flood.memory for flood in floods)
    seen = f"{most / MIB:.0f} MiB of {allowed / MIB:.0f} allowed, {idle / MIB:.0f} when idle"
    report.check("resident memory is bounded", most <= allowed, seen)
    return report


async def _peak(
    service: Service, clients: BothTransports, requests: Sequence[SampleRequest], seconds: float
) -> Phase:
    cpu = cpu_seconds(service.process.pid)
    capacity = await measure_capacity(clients, requests, seconds)
    cpu = cpu_seconds(service.process.pid) - cpu
    return Phase(capacity.per_second, capacity.answers / cpu)


async def _flood(
    service: Service,
    clients: BothTransports,
    requests: Sequence[SampleRequest],
    rate: float,
    seconds: float,
) -> Flood:
    async with MemorySampler(service.process.pid) as memory:
        cpu = cpu_seconds(service.process.pid)
        start = time.perf_counter()
        outcomes = await run_open_loop(lambda number: clients.send(requests, number), rate, seconds)
        cpu = cpu_seconds(service.process.pid) - cpu
    tally = Tally(outcomes)
    # Without the time in which the queue fills, and without answers after the last request.
    answered = tally.rate(OK, start + seconds / 5, start + seconds)
    return Flood(outcomes, Phase(answered, tally.kinds[OK] / cpu), memory.peak)


def _check_shares(
    report: Report, peaks: Sequence[Phase], floods: Sequence[Phase], strictness: Strictness
) -> None:
    for unit, number, least in [
        ("CPU second", lambda phase: phase.per_cpu_second, strictness.cpu_share),
        ("second", lambda phase: phase.per_second, strictness.rate_share),
    ]:
        # A drift of the machine's speed affects the closed loops on both sides.
        around = [mean(map(number, pair)) for pair in pairwise(peaks)]
        shares = [number(phase) / peak for phase, peak in zip(floods, around, strict=True)]
        seen = ", ".join(f"{each:.2f}" for each in shares)
        claim = f"right answers per {unit} stay at {least:.0%} of the peak"
        report.check(claim, median(shares) >= least, seen)


def _check_refusals(report: Report, flood: Tally) -> None:
    other = flood.other_than(OK, OVERLOADED)
    report.check("every other request is refused as overload", not other, examples(other) or flood)
    refused = flood.of_kind(OVERLOADED)
    both = {outcome.code for outcome in refused} == {"429", "RESOURCE_EXHAUSTED"}
    report.check("over REST with 429, over gRPC with RESOURCE_EXHAUSTED", both)
    advised = sum(outcome.has_retry_advice for outcome in refused)
    seen = f"{advised} of {len(refused)}"
    report.check("every refusal says when to retry", advised == len(refused), seen)
    slow, usual = flood.latency(OVERLOADED, 99), flood.latency(OK, 50)
    claim = f"99 % of the refusals take at most 1/{_SOONER} of the median time of an answer"
    ratios = (usual / max(flood.latency(OVERLOADED, percent), 1e-9) for percent in (50, 99))
    seen = "1/{:.0f} at the median, 1/{:.0f} at 99 %".format(*ratios)
    report.check(claim, slow * _SOONER <= usual, seen)
